"""One thing that is wrong with one image of a data set."""

from dataclasses import dataclass
from pathlib import Path

ERROR = "error"  # a run would stop on it
WARNING = "warning"  # a run goes on, but sees something else than a person might expect


@dataclass(frozen=True)
class Problem:
    id: str
    path: Path
    kind: str  # a short fixed word: see check.KINDS
    severity: str  # ERROR or WARNING
    message: str

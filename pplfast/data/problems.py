"""One thing that is wrong with an image or with the whole of a data set."""

from dataclasses import dataclass
from pathlib import Path

from pplfast.data.stored import Stored

ERROR = "error"  # a run would stop on it
WARNING = "warning"  # a run goes on, but sees something else than a person might expect
NOTE = "note"  # worth knowing; nothing is wrong


@dataclass(frozen=True)
class Problem:
    id: str  # of the image; "" for the whole data set
    path: Path | Stored
    kind: str  # a short fixed word: those of images are in check_text.KINDS
    severity: str  # ERROR, WARNING or NOTE
    message: str

    @property
    def file(self) -> Path:
        """`path`, of what is a file of its own."""
        assert isinstance(self.path, Path), "a part of a shard"
        return self.path

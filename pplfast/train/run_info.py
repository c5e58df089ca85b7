"""What a logger or a tracker is told of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunInfo:
    folder: Path  # of the run; there already
    step: int  # steps done before: 0, or where a resumed run goes on
    name: str  # for people
    settings: Mapping[str, Any]  # what recipe.json holds: nested, JSON-able


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The values that can be drawn over the steps."""
    return {key: value for key, value in values.items() if isinstance(value, int | float) and key != "step"}

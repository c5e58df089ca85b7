"""Some items of a sequence, chosen by their positions, without a copy of what is made as it is read."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np

from pplfast.arrays import Int64Array

T = TypeVar("T")


def picked(items: Sequence[T], positions: Int64Array) -> Sequence[T]:
    """A tuple of a tuple, which is hashable and small; else a view."""
    if isinstance(items, tuple):
        return tuple(items[position] for position in positions.tolist())
    return Picked(items, positions)


class Picked(Sequence[T]):
    def __init__(self, items: Sequence[T], positions: Int64Array) -> None:
        self._items, self._positions = items, positions

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[T]: ...
    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return Picked(self._items, self._positions[at])
        return self._items[int(self._positions[at])]

    def __iter__(self) -> Iterator[T]:
        return (self._items[position] for position in np.asarray(self._positions).tolist())

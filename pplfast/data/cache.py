"""Decoded images kept in host memory, so that only the first epoch pays for JPEG decoding."""

from collections.abc import Sequence

from pplfast.arrays import UInt8Array


class DecodedCache:
    """Keeps the first images it is offered until the budget is used up, and never drops one.

    Each image is used once per epoch, so "least recently used" would drop exactly the image that is needed next and
    never hit while the data is larger than the budget; keeping a fixed part hits for that part in every epoch.
    """

    def __init__(self, budget_mb: float):
        self.bytes = 0
        self._budget = int(budget_mb * 2**20)
        self._images: dict[int, UInt8Array] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __contains__(self, index: int) -> bool:
        return index in self._images

    def __getitem__(self, index: int) -> UInt8Array:
        """(H, W, 3). KeyError where it is not `in` the cache."""
        return self._images[index]

    def add(self, indices: Sequence[int], images: Sequence[UInt8Array]) -> None:
        """Offer a batch that was decoded together; it is kept whole or not at all.

        The images are views of one buffer of the decoder: keeping a part would hold the memory of all. Keeping the
        whole needs no copy.
        """
        size = sum(image.nbytes for image in images)
        if self.bytes + size <= self._budget:
            self._images.update(zip(indices, images, strict=True))
            self.bytes += size

"""The bytes of an image file on their way to its decoder: DALI, or a library in processes beside."""

import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pplfast.arrays import UInt8Array
from pplfast.data.bad_image import BadImage
from pplfast.data.decoding_processes import PROCESSES, Encoded
from pplfast.data.image_info import DALI, Values
from pplfast.data.images import ImageFile, open_image_file, read_stored
from pplfast.data.stored import Fetched, Stored

if TYPE_CHECKING:
    import torch

DAMAGED = "damaged or truncated; restore it"  # what a failed decode means, once the header was found good


def read_encoded(path: ImageFile) -> UInt8Array:
    """uint8 (bytes,). BadImage for whatever the operating system or the store refuses."""
    if isinstance(path, Stored | Fetched):
        return np.frombuffer(read_stored(path), np.uint8)
    with open_image_file(path) as file:
        data = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
        assert isinstance(file, io.BufferedReader), "a file on a disk"
        return data[: file.readinto(data.data)]


class ImageDecoder:
    """Decodes batch by batch, each image by the decoder that its header names; a bad one costs its own result only.

    What DALI does not decode goes to processes. values: the range of images deeper than 8 bits.
    """

    def __init__(self, batch_size: int, threads: int, device: "torch.device", values: Values | None) -> None:
        from pplfast.data.pipelines import Decoder

        self._dali, self._threads, self._values = Decoder(batch_size, threads, device), threads, values

    def __call__(self, encoded: Sequence[Encoded]) -> list[UInt8Array | BadImage]:
        """uint8 (H, W, 3) for each, or what is wrong with the file."""
        sent = {
            row: PROCESSES.submit(image, self._values, self._threads)
            for row, image in enumerate(encoded)
            if image.info.decoder != DALI
        }
        dali = iter(self._dali([image.data for image in encoded if image.info.decoder == DALI]))
        found = [
            PROCESSES.result(sent[row], image, self._values) if row in sent else next(dali)
            for row, image in enumerate(encoded)
        ]
        return [
            BadImage("damaged", image or DAMAGED) if image is None or isinstance(image, str) else image
            for image in found
        ]

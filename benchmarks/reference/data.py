"""The training data set with PIL and torch's DataLoader: decode, random resize, flip, normalise, crop."""

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class TrainImages(Dataset[tuple[Tensor, Tensor]]):
    """Item: normalised float32 (3, crop, crop) and the image labels; zero padding comes after normalisation."""

    def __init__(
        self,
        paths: Sequence[str],
        labels: npt.NDArray[np.uint8],
        crop: int,
        resize_long: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        flip: float = 0.5,
    ) -> None:
        self.paths, self.labels, self.crop, self.resize_long = paths, labels.astype(np.float32), crop, resize_long
        self.mean, self.std, self.flip = np.asarray(mean, np.float32), np.asarray(std, np.float32), flip

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.augmented(Image.open(self.paths[index]).convert("RGB")), torch.from_numpy(self.labels[index])

    def augmented(self, image: Image.Image) -> Tensor:
        scale = random.randint(*self.resize_long) / max(image.size)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        if random.random() < self.flip:
            pixels = pixels[:, ::-1]
        pixels = (pixels.astype(np.float32) - self.mean) / self.std
        container = self._random_crop(pixels)
        return torch.from_numpy(container.transpose(2, 0, 1).copy())

    def _random_crop(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        container = np.zeros((self.crop, self.crop, 3), np.float32)
        source, target = [], []
        for size in pixels.shape[:2]:
            length = min(size, self.crop)
            begin = random.randint(0, size - length)
            offset = random.randint(0, self.crop - length)
            source.append(slice(begin, begin + length))
            target.append(slice(offset, offset + length))
        container[tuple(target)] = pixels[tuple(source)]
        return container


def train_loader(
    dataset: TrainImages, batch_size: int, workers: int = 2, drop_last: bool = True
) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )

"""Training batches: decoded and augmented by DALI ahead of the training step, in a reproducible order."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from pplfast.arrays import Float64Array, Int64Array, UInt8Array
from pplfast.data import sampling
from pplfast.data.cache import DecodedCache
from pplfast.data.dataset import Dataset
from pplfast.data.decoding_processes import Encoded
from pplfast.data.encoded import ImageDecoder, read_encoded
from pplfast.data.handover import Handover
from pplfast.data.image_info import ImageInfo
from pplfast.data.images import BadImage, ImageFile, read_stored, usable_image
from pplfast.data.masks import read_mask
from pplfast.data.pipelines import Augmenter, MaskCutter, ahead, resolve_device
from pplfast.data.stored import Fetched, Stored
from pplfast.errors import UserError
from pplfast.recipe import AugmentConfig

MASKS_SHARE = 0.25  # of the cache: a mask has one byte for the three of its image
BATCHES_AHEAD = 3  # one being decoded, one being augmented, one ready


@dataclass(frozen=True)
class Batch:
    """One rank's rows of one step. The loss of a step is the sum over all ranks of weights * loss, over `total`."""

    images: torch.Tensor  # float32 (B, 3, S, S), channels_last, normalised
    targets: torch.Tensor  # float32 (B, C), 0 or 1; with masks int64 (B, S, S), mask values, 255 in the padding
    weights: torch.Tensor  # float32 (B,): 1, or 0 for a repeated image where a rank has none
    indices: torch.Tensor  # int64 (B,), on the CPU: positions in the data set
    total: int  # images of this step over all ranks, without repeats


class TrainLoader:
    """Every image once per epoch over all ranks, in an order that depends on (seed, epoch) alone; of a data set in
    shards also on `lanes` (`sampling.sharded_order`).

    The changes to an image depend on (seed, epoch, image) alone: neither the number of ranks, threads or batches nor
    the cache shows in the values. Each rank caches the images that it meets; as the shares of the ranks change with
    each epoch, one of W ranks finds about 1/W of its images in the cache in the second epoch, and more in each later
    one.

    masks: batches hold the data set's masks, cut like their images, instead of image labels.
    mean, std: 3 values in units of 0..255. batch_size: the most images that a rank has in a step. group: images of a
    step over all ranks, where it is not batch_size for each. lanes: in which shards are read, default `group`; the same
    on any number of ranks, for a run that continues on another. rank: the global rank. threads: per DALI pipeline.
    """

    def __init__(
        self,
        dataset: Dataset,
        augment: AugmentConfig,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        cache_mb: float = 4096,
        threads: int = 2,
        device: str | torch.device = "cpu",
        group: int | None = None,
        masks: bool = False,
        lanes: int | None = None,
    ):
        if len(dataset) == 0:
            raise UserError(f"{dataset.name}: no images; check --list")
        if masks and None in dataset.masks:
            raise UserError(f"{dataset.images[dataset.masks.index(None)]}: has no mask; leave it out, or add its mask")
        if not masks and dataset.labels is None:
            raise UserError(f"{dataset.name}: no image labels; give --labels")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}")
        self._dataset, self._augment, self._seed = dataset, augment, seed
        self._rank, self._world_size = rank, world_size
        self._group = batch_size * world_size if group is None else group
        if self._group > batch_size * world_size:
            raise ValueError(f"{self._group} images do not fit {world_size} ranks of {batch_size}")
        self._lanes = self._group if lanes is None else lanes
        device = resolve_device(device)
        self._handover = Handover(device)  # of the augment thread
        self.cache = DecodedCache(cache_mb * (1 - MASKS_SHARE) if masks else cache_mb)
        self._masks = DecodedCache(cache_mb * MASKS_SHARE if masks else 0)
        self._headers: list[ImageInfo | None] = [None] * len(dataset)  # read once
        self._distinct: dict[ImageInfo, ImageInfo] = {}  # many images share one
        self._decoder = ImageDecoder(batch_size, threads, device, dataset.values)
        self._augmenter = Augmenter(augment.crop, augment.jitter > 0, mean, std, batch_size, threads, self._handover)
        self._cutter = MaskCutter(augment.crop, batch_size, threads, self._handover) if masks else None
        # A pipeline belongs to one thread each; the two work on neighbouring batches at the same time.
        self._readers = ThreadPoolExecutor(dataset.readers(threads), "read")
        self._decode_thread = ThreadPoolExecutor(1, "decode")
        self._augment_thread = ThreadPoolExecutor(1, "augment")

    @property
    def batches_per_epoch(self) -> int:
        """The same on every rank."""
        return sampling.steps_per_epoch(len(self._dataset), self._group)

    @property
    def side(self) -> int:
        """S, of the square images."""
        return self._augment.crop

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches `start`, `start` + 1, ... of epoch `number`. UserError names an image that cannot be used."""
        order = self._order(number)
        uniforms = sampling.epoch_uniforms(self._seed, number, len(self._dataset))
        shards = (
            sampling.shard(order, step, self._group, self._rank, self._world_size)
            for step in range(start, self.batches_per_epoch)
        )
        return ahead(lambda shard: self._submit(shard, uniforms[shard.indices]), shards, BATCHES_AHEAD)

    def _order(self, number: int) -> Int64Array:
        if self._dataset.shards is None:
            return sampling.epoch_order(self._seed, number, len(self._dataset))
        units, window = self._dataset.shards.units(self._dataset.rows)
        return sampling.sharded_order(self._seed, number, units, self._lanes, window)

    def _submit(self, shard: sampling.Shard, uniforms: Float64Array) -> "Future[Batch]":
        reads = {
            index: self._readers.submit(self._read, index)
            for index in shard.indices.tolist()
            if index not in self.cache
        }
        masks = (
            [self._readers.submit(self._read_mask, index) for index in shard.indices.tolist()] if self._cutter else []
        )
        decoded = self._decode_thread.submit(self._decode, shard.indices.tolist(), reads)
        return self._augment_thread.submit(self._make_batch, shard, decoded, masks, uniforms)

    def _read(self, index: int) -> Encoded:
        image: ImageFile = self._dataset.images[index]
        try:
            if isinstance(image, Stored):  # once, for the header and for the pixels
                image = Fetched(image, read_stored(image))
            info = self._headers[index]
            if info is None:
                info = usable_image(image, self._dataset.values)
                self._headers[index] = info = self._distinct.setdefault(info, info)
            return Encoded(read_encoded(image), info)
        except BadImage as error:
            raise self._unusable(index, str(error)) from None

    def _read_mask(self, index: int) -> UInt8Array:
        """uint8 (H, W, 1). Decoded by PIL, since DALI turns the values of palette PNGs into colours, and kept."""
        if index in self._masks:
            return self._masks[index]
        path = self._dataset.masks[index]
        assert path is not None, "__init__ lets none pass without a mask"
        return read_mask(path)[:, :, None]

    def _decode(self, indices: list[int], reads: "dict[int, Future[Encoded]]") -> list[UInt8Array]:
        missing = [index for index in reads if index not in self.cache]
        fresh: dict[int, UInt8Array] = {}
        for index, image in zip(missing, self._decoder([reads[index].result() for index in missing]), strict=True):
            if isinstance(image, BadImage):
                raise self._unusable(index, str(image))
            fresh[index] = image
        self.cache.add(missing, list(fresh.values()))
        return [fresh[index] if index in fresh else self.cache[index] for index in indices]

    def _make_batch(
        self,
        shard: sampling.Shard,
        decoded: "Future[list[UInt8Array]]",
        masks: "list[Future[UInt8Array]]",
        uniforms: Float64Array,
    ) -> Batch:
        images = decoded.result()
        geometry = sampling.geometry(np.array([image.shape[:2] for image in images]), uniforms, self._augment)
        factors = sampling.jitter_factors(uniforms, self._augment.jitter) if self._augment.jitter > 0 else {}
        return Batch(
            images=self._augmenter(images, geometry, factors),
            targets=self._targets(shard, images, [mask.result() for mask in masks], geometry),
            weights=self._handover.from_host(torch.from_numpy(shard.weights)),
            indices=torch.from_numpy(shard.indices),
            total=shard.total,
        )

    def _targets(
        self, shard: sampling.Shard, images: list[UInt8Array], masks: list[UInt8Array], geometry: sampling.Geometry
    ) -> torch.Tensor:
        if self._cutter is None:
            return self._handover.from_host(
                torch.from_numpy(self._dataset.known_labels[shard.indices].astype(np.float32))
            )
        for index, image, mask in zip(shard.indices.tolist(), images, masks, strict=True):
            if image.shape[:2] != mask.shape[:2]:
                raise UserError(
                    f"{self._dataset.masks[index]}: is {mask.shape[1]} x {mask.shape[0]} pixels, its image "
                    f"{image.shape[1]} x {image.shape[0]}; make the mask again"
                )
            if index not in self._masks:
                self._masks.add([index], [mask])
        return self._cutter(masks, geometry)

    def _unusable(self, index: int, reason: str) -> UserError:
        return UserError(f"{self._dataset.images[index]}: {reason}; `pplfast data check` lists all such images")

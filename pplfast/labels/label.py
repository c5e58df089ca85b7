"""CAMs -> pseudo labels, straight from images or from CAM files: background or two thresholds, dense CRF, PNGs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pplfast.data.dataset import Dataset
from pplfast.data.handover import to_device
from pplfast.data.images import BadImage
from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.jobs.job import Choice, Finish, ImageBatch, Job
from pplfast.jobs.memory import DECODED, SCALED, USUAL_CLASSES, crf_bytes
from pplfast.jobs.options import DEFAULTS, JobOptions, Outcome
from pplfast.jobs.record import Record
from pplfast.jobs.run import run_job
from pplfast.labels.cam import NOT_FINITE, ClassifierJob, class_settings, own_classes
from pplfast.labels.camfile import Cam
from pplfast.labels.camfolder import CamFolder
from pplfast.labels.confidence import write_confidence
from pplfast.labels.device_crf import DeviceLabeller
from pplfast.labels.rules import FinishLabels, Scores, Unsure
from pplfast.patch.classifier import PatchClassifier
from pplfast.recipe import AffinityConfig, CamConfig, LabelConfig
from pplfast.recipe import crf_presets as presets

OUTPUTS = ("png", "npy", "shards")
BATCH = 8  # images of one size at a time, of CAM files on a device


def label_dataset(
    model: PatchClassifier,
    dataset: Dataset,
    cam: CamConfig,
    label: LabelConfig,
    out: StrPath,
    unsure: Unsure = None,
    outputs: Sequence[str] = ("png",),
    engine: str = presets.AUTO,
    shard_size: int = 1000,
    options: JobOptions = DEFAULTS,
) -> Outcome:
    """Labels of every image of the data set that has none yet, straight from a classifier, alone or as one rank of a
    launcher.

    model: in eval mode, its cuts set; moved to this rank's device. label: its background value must be set. unsure:
    (low, high) thresholds, between which a pixel becomes 255; None: no pixel does. outputs: of "png", "npy" (the CAM
    dict) and "shards" (WebDataset tars of `shard_size` images). engine: of the CRF: "pydensecrf" (processes), "device"
    (with the network), "auto" (the GPU where there is one). An image without any class is background only. Images that
    cannot be used are noted in `out/manifest.jsonl` and in the outcome, and the rest goes on. Raises UserError for
    values out of range, a model that does not fit the data set, and as `run_job` does.
    """
    return run_job(LabelJob(model, dataset, cam, label, unsure, outputs, engine, shard_size), out, options)


def generate_labels(
    cams: StrPath,
    dataset: Dataset,
    config: LabelConfig,
    out: StrPath,
    options: JobOptions = DEFAULTS,
    engine: str = presets.AUTO,
) -> Outcome:
    """Write `out/<id>.png`, mask ids of `dataset.classes`, for every image of the list that has none yet, alone or as
    one rank of a launcher.

    cams: folder of `generate_cams` or `walk_cams`. config: its background value must be set. engine: as in
    `label_dataset`. Raises UserError for values out of range, CAMs that are missing or of other classes, and as
    `run_job` does.
    """
    return label_cams(cams, dataset, config, out, None, engine, options)


def label_cams(
    cams: StrPath,
    dataset: Dataset,
    config: LabelConfig,
    out: StrPath,
    unsure: Unsure = None,
    engine: str = presets.AUTO,
    options: JobOptions = DEFAULTS,
) -> Outcome:
    """`generate_labels`, or with `unsure` = (low, high) `generate_affinity_labels`: see there."""
    return run_job(CamLabelJob(CamFolder(cams, dataset), dataset, config, unsure, engine), out, options)


def generate_affinity_labels(
    cams: StrPath,
    dataset: Dataset,
    config: AffinityConfig,
    out: StrPath,
    options: JobOptions = DEFAULTS,
    engine: str = presets.AUTO,
) -> Outcome:
    """Confident labels for the boundary network, `out/<id>.png`: mask ids, 0 sure background, 255 unsure; as in IRN
    (arXiv 1904.05044). All else as in `generate_labels`."""
    label, unsure = LabelConfig("threshold", 0.0, config.crf), (config.background, config.foreground)
    return label_cams(cams, dataset, label, out, unsure, engine, options)


class _Labelling:
    """The rule of a job, and what computes its CRF."""

    def __init__(
        self, dataset: Dataset, label: LabelConfig, unsure: Unsure, outputs: Sequence[str], engine: str
    ) -> None:
        check_rule(label, unsure, outputs)
        if engine not in (*presets.ENGINES, presets.AUTO):
            raise UserError(f"CRF engine '{engine}': must be one of {', '.join((*presets.ENGINES, presets.AUTO))}")
        self.label, self.unsure, self.outputs, self.engine = label, unsure, tuple(outputs), engine
        self._class_ids = tuple(dataset.classes.ids)
        self.with_crf = label.crf != presets.NONE
        self.device_labeller: DeviceLabeller | None = None

    def wanted(self) -> dict[str, Any]:
        label = asdict(self.label) if self.unsure is None else {"crf": self.label.crf}
        engine = {} if self.engine == presets.AUTO or not self.with_crf else {"crf_engine": self.engine}
        return {
            **label,
            "class_ids": list(self._class_ids),
            "unsure": self.unsure,
            "outputs": list(self.outputs),
            **engine,
        }

    def choices(self, device: torch.device) -> dict[str, Choice]:
        """On a GPU the processes of a machine's cores would be what all wait for."""
        if not self.with_crf or self.engine != presets.AUTO:
            return {}
        found = presets.DEVICE if device.type == "cuda" else presets.PYDENSECRF
        return {"crf_engine": Choice(found, presets.ENGINES.__contains__)}

    def finish(self, settings: dict[str, Any]) -> FinishLabels:
        in_processes = self.with_crf and settings["crf_engine"] == presets.PYDENSECRF
        return FinishLabels(self._class_ids, self.label, self.unsure, self.outputs, in_processes)

    def prepare(self, settings: dict[str, Any], device: torch.device) -> None:
        if settings.get("crf_engine") == presets.DEVICE:
            self.device_labeller = DeviceLabeller(self.label, self.unsure, device)

    def pixel_bytes(self, classes: int) -> float:
        return crf_bytes(classes) if self.with_crf else 4 * (3 * classes + 2)


class LabelJob(ClassifierJob):
    title, command = "labels", "pplfast label"

    def __init__(
        self,
        model: PatchClassifier,
        dataset: Dataset,
        cam: CamConfig,
        label: LabelConfig,
        unsure: Unsure,
        outputs: Sequence[str],
        engine: str,
        shard_size: int,
    ) -> None:
        self._rule = _Labelling(dataset, label, unsure, outputs, engine)
        super().__init__(model, dataset, cam, self._rule.wanted())
        if shard_size < 1:
            raise UserError(f"--shard-size {shard_size}: must be 1 or more")
        self.suffixes = tuple(f".{name}" for name in self._rule.outputs if name != "shards")
        self.shards = shard_size if "shards" in outputs else 0

    def finish(self, settings: dict[str, Any]) -> Finish:
        return self._rule.finish(settings)

    def summarise(self, folder: Path, records: Sequence[Record]) -> None:
        write_confidence(folder, records, self.dataset.classes)

    def choices(self, device: torch.device, network_bytes: int) -> dict[str, Choice]:
        return super().choices(device, network_bytes) | self._rule.choices(device)

    def prepare(self, settings: dict[str, Any], device: torch.device, network_bytes: int, threads: int) -> None:
        super().prepare(settings, device, network_bytes, threads)
        self._rule.prepare(settings, device)

    def pixel_bytes(self) -> float:
        return DECODED + SCALED * max(self.config.scales) ** 2 + self._rule.pixel_bytes(self.most_classes)

    def compute(self, batch: ImageBatch, stopped: Callable[[], bool]) -> list[Any | BadImage] | None:
        rows = self.labels[batch.indices]
        maps = self.maps(batch.pixels, own_classes(rows), stopped)
        if maps is None:
            return None
        labeller = self._rule.device_labeller
        finite = torch.isfinite(maps).all(3).all(2).cpu().numpy()  # (B, n): the classes beyond an image's own count not
        on_host = maps.cpu().numpy() if labeller is None or "npy" in self._rule.outputs else None
        made = None if labeller is None else labeller(batch.pixels, maps, rows)
        payloads: list[Any | BadImage] = []
        for row, index in enumerate(batch.indices):
            classes = tuple(int(c) for c in self.classes(index))
            payloads.append(
                Scores(
                    self.dataset.images[index],
                    batch.size,
                    classes,
                    None if on_host is None else on_host[row, : len(classes)],
                    pixels=batch.pixels[row] if made is None and self._rule.with_crf else None,
                    labels=None if made is None else made[row].labels,
                    sure=None if made is None else made[row].sure,
                    tiled=self.maps.network.tiled_at,
                )
                if finite[row, : len(classes)].all()
                else BadImage("maps", NOT_FINITE)
            )
        return payloads


class CamLabelJob(Job):
    command, suffixes = "pplfast label", (".png",)
    smallest = 1  # what is trained on gets its part of the chain, however thin it is

    def __init__(self, cams: CamFolder, dataset: Dataset, label: LabelConfig, unsure: Unsure, engine: str) -> None:
        self._rule, self._cams = _Labelling(dataset, label, unsure, ("png",), engine), cams
        super().__init__(dataset, {**class_settings(dataset), "cams": cams.settings, **self._rule.wanted()})
        self.title = "labels" if unsure is None else "confident labels"
        self.decodes, self.batch = self._rule.with_crf, BATCH

    def finish(self, settings: dict[str, Any]) -> Finish:
        return self._rule.finish(settings)

    def summarise(self, folder: Path, records: Sequence[Record]) -> None:
        write_confidence(folder, records, self.dataset.classes)

    def choices(self, device: torch.device, network_bytes: int) -> dict[str, Choice]:
        return self._rule.choices(device)

    def depends(self, index: int) -> dict[str, Any]:
        return self._cams.state(index)

    def prepare(self, settings: dict[str, Any], device: torch.device, network_bytes: int, threads: int) -> None:
        self._rule.prepare(settings, device)

    def pixel_bytes(self) -> float:
        labels = self.dataset.labels
        most = min(USUAL_CLASSES, len(self.dataset.classes))
        if labels is not None:
            most = int(labels.sum(axis=1).max(initial=0))
        return DECODED + self._rule.pixel_bytes(most)

    def compute(self, batch: ImageBatch, stopped: Callable[[], bool]) -> list[Any | BadImage] | None:
        if self._rule.device_labeller is not None:
            return self._on_device(batch, self._rule.device_labeller)
        return [
            Scores(
                self.dataset.images[index],
                batch.size,
                cam=self._cams.file(index),
                pixels=batch.pixels[row] if batch.pixels else None,
            )
            for row, index in enumerate(batch.indices)
        ]

    def _on_device(self, batch: ImageBatch, labeller: DeviceLabeller) -> list[Any | BadImage]:
        loaded = [self._cams.load(index, batch.size) for index in batch.indices]
        good = [(row, cam) for row, cam in enumerate(loaded) if isinstance(cam, Cam)]
        counts = np.array([len(cam.classes) for _, cam in good])
        maps = torch.zeros(len(good), max(counts, default=0), *batch.size)
        rows = np.arange(maps.shape[1]) < counts[:, None]  # as many as an image has: which they are is not asked
        for own, (_, cam) in zip(maps, good, strict=True):
            own[: len(cam.classes)] = torch.from_numpy(cam.full())
        pixels = [batch.pixels[row] for row, _ in good]
        made = labeller(pixels, to_device(maps, labeller.device), rows.astype(np.uint8)) if good else []
        payloads: list[Any | BadImage] = list(loaded)
        for (row, cam), (labels, sure) in zip(good, made, strict=True):
            classes, image = tuple(int(c) for c in cam.classes), self.dataset.images[batch.indices[row]]
            payloads[row] = Scores(image, batch.size, classes, labels=labels, sure=sure)
        return payloads


def check_rule(label: LabelConfig, unsure: Unsure, outputs: Sequence[str]) -> None:
    """Raises UserError for values out of range."""
    if not outputs or any(name not in OUTPUTS for name in outputs):
        raise UserError(f"--outputs {','.join(outputs)}: must be of {', '.join(OUTPUTS)}")
    presets.check_crf(label.crf)
    if unsure is None:
        presets.check_background(label.background, label.value)
    elif not 0 < unsure[0] <= unsure[1] < 1:
        raise UserError(
            f"--unsure {unsure[0]:g},{unsure[1]:g}: must be two thresholds, 0 < LOW < HIGH < 1 (usual: 0.05,0.30)"
        )

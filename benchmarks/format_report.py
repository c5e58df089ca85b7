"""What `python -m pplfast.benchmarks.formats` prints and writes."""

import dataclasses
import datetime
import importlib.metadata
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pplfast.benchmarks.format_files import FORMS
from pplfast.benchmarks.format_measure import BATCH, ROUNDS, THREADS, FormResult, measure
from pplfast.benchmarks.layout_files import option, read_photos
from pplfast.benchmarks.layouts import TOOLS, LayoutResult, compare_layouts, compare_masks
from pplfast.benchmarks.results import commit, hardware, versions
from pplfast.data.classes import ClassList, parse_classes
from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.errors import UserError
from pplfast.files import write_json
from pplfast.recipe import CamConfig
from pplfast.train.model_file import load_classifier, read_info, read_recorded

KIND = "formats"  # of the results file
CODECS = ("tifffile", "imagecodecs", TOOLS)  # beside the packages that every results file names


def report(root: str, name: str, classes: str, model: str | None, out: Path | None, command: str) -> int:
    """The exit code. name: of a list; model: None for the layouts alone; command: for the record."""
    if model:
        classes = _own_classes(model, classes)
    dataset = open_dataset(DataConfig(root, name, "xml", classes))
    print(f"{dataset.name}: {len(dataset)} photos")
    parts: dict[str, Any] = {}
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="pplfast-formats-") as folder:
        parts |= _of_layouts(dataset, Path(root), Path(folder), failures)
        if model:
            parts |= _of_forms(model, dataset, Path(folder), failures)
    for failure in failures:
        print(f"FAILED: {failure}")
    if out:
        write_json(out, _head(dataset, command) | parts | {"failures": failures})
        print(f"written: {out}")
    return 1 if failures else 0


def _own_classes(model: str, classes: str) -> str:
    """Those of the classifier. UserError where others are said."""
    info = read_info(model)
    own = option(ClassList(info.class_names, info.class_ids))
    if classes and parse_classes(classes).names != info.class_names:
        raise UserError(f"--classes {classes}: the classifier was trained for {own}; leave --classes out")
    return classes or own


def _of_forms(model: str, dataset: Dataset, folder: Path, failures: list[str]) -> dict[str, Any]:
    info = read_info(model)
    # As in training, but in float32: with bf16 a difference could hide in the rounding.
    config = dataclasses.replace(read_recorded(model, "cam", CamConfig), precision="fp32")
    results = measure(load_classifier(model), dataset, config, folder, FORMS)
    print(f"{dataset.known_labels.sum()} maps of {info.model['backbone']}, {info.variant}, by {info.dataset}")
    print("\n".join(table(results)))
    failures += [f"{one.picture}, {one.form}: {one.differences}" for one in results if one.failed]
    return {
        "classifier": {"variant": info.variant, "backbone": info.model["backbone"], "dataset": info.dataset},
        "cam": dataclasses.asdict(config),
        "maps": int(dataset.known_labels.sum()),
        "decoding": {"threads": THREADS, "batch": BATCH, "rounds": ROUNDS},
        "forms": [dataclasses.asdict(one) | {"equal": one.equal} for one in results],
    }


def _of_layouts(dataset: Dataset, root: Path, folder: Path, failures: list[str]) -> dict[str, Any]:
    photos = read_photos(dataset, root)
    results = compare_layouts(dataset, photos, folder)
    print("\n".join(layout_lines(results)))
    failures += [f"{one.layout}: the labels are not those of the XML" for one in results if not one.equal]
    masks = compare_masks(photos, folder)
    parts: dict[str, Any] = {"layouts": [dataclasses.asdict(one) for one in results], "coco_masks": None}
    if masks is None:
        print(f"masks of COCO: not compared, since {TOOLS} is not installed")
        return parts
    equal, count = masks
    print(f"masks of COCO equal to {TOOLS}': {equal} of {count}")
    failures += [f"{count - equal} masks of COCO are not those of {TOOLS}"] if equal < count else []
    return parts | {"coco_masks": {"images": count, "equal": equal}}


def _head(dataset: Dataset, command: str) -> dict[str, Any]:
    found = dict(versions())
    for name in CODECS:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return {
        "kind": KIND,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": command,
        "hardware": hardware(),
        "versions": found,
        "load_average": list(os.getloadavg()),
        "data": dataset.name,
        "images": len(dataset),
        "classes": list(dataset.classes.names),
    }


def table(results: Sequence[FormResult]) -> Iterator[str]:
    """A line for each form."""
    yield ""
    yield "Largest differences to the first form of the same picture; images/s read and decoded."
    yield f"{'picture':<12} {'form':<21} {'decoder':<12} {'mean bytes':>10} {'images/s':>9} {'pixels':>7} {'CAMs':>7}"
    for one in results:
        said = "equal" if one.equal else "DIFFERENT" if one.failed else "lossy"
        yield (
            f"{one.picture:<12} {one.form:<21} {one.decoder:<12} {one.mean_bytes:>10,.0f} "
            f"{one.images_per_second:>9.1f} {one.pixel_difference:>7} {one.cam_difference:>7.4f}  {said}"
        )
    yield ""


def layout_lines(results: Sequence[LayoutResult]) -> Iterator[str]:
    for one in results:
        counts = ", ".join(f"{name} {count}" for name, count in one.labels.items())
        said = "equal" if one.equal else "DIFFERENT"
        yield f"{one.layout:<16} {said}, {one.images} images ({counts}), {one.labelled_by}"

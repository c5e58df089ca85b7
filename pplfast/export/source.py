"""Which label PNGs, and of which data set, a path means: a folder of them, or a run, whose data set is recorded."""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path

from pplfast.checked import read_table
from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.data.image_info import FULL
from pplfast.data.layout import classes_source
from pplfast.data.problems import Problem
from pplfast.data.recorded import recorded_data
from pplfast.errors import UserError
from pplfast.export.labels import MAKES_RUN, RUN_FILE, recorded_classes
from pplfast.files import StrPath
from pplfast.steps import FINAL, STEP, TEST, VAL, VARIANTS
from pplfast.storage import is_remote

AUTO_LABELS, NO_LABELS = "auto", "none"  # of DataConfig
SUMMARY_FILE = "summary.json"
CHECKED = Path("steps", "check data.json")  # of a run: which images it has left out
AGAIN = "give `pplfast run` the same command again, which writes it anew"
# Steps whose outputs are label PNGs.
_WORK = ("labels", "affinity_labels", "predictions", "told_predictions")
OF_LABELS = [name for name, step in STEP.items() if step.work in _WORK]


@dataclass(frozen=True)
class Source:
    """folder: of the label PNGs, or a URL. data: that its run has recorded; None where it lies in none. left_out: of
    that data, by id why the run has not used an image."""

    folder: str
    data: DataConfig | None = None
    left_out: dict[str, str] = field(default_factory=dict)


def find_source(path: StrPath) -> Source:
    """What LABELS means: a folder of label PNGs, also within a run, or the final labels of a run or of its variant.

    UserError for a path that is not there, a run that has no labels, and one of several variants, which it names.
    """
    given = os.fspath(path)
    if is_remote(given):
        return Source(given)
    folder = Path(given)
    if not folder.is_dir():
        raise UserError(f"{given}: no such folder; give a folder of label PNGs, or of a run")
    home = folder.resolve()
    if (home / RUN_FILE).is_file():
        return _of_run(folder, home)
    if home.name in VARIANTS and (home.parent / RUN_FILE).is_file():
        return _within(home.parent, folder, _final(folder))
    if home.parent.name in VARIANTS and (home.parent.parent / RUN_FILE).is_file():
        if home.name not in OF_LABELS:
            there = [name for name in OF_LABELS if (home.parent / name).is_dir()]
            raise UserError(f"{given}: holds no labels; give one of {', '.join(there) or OF_LABELS[0]} beside it")
        return _within(home.parent.parent, folder.parent, home.name, given)
    runs = sorted(run.parent.name for run in home.glob(f"*/{RUN_FILE}"))
    if runs:
        raise UserError(f"{given}: holds {len(runs)} runs; give one of them, like {folder / runs[0]}")
    return Source(given)


def _of_run(folder: Path, home: Path) -> Source:
    variants = [name for name in VARIANTS if (home / name).is_dir()]
    if not variants:
        raise UserError(f"{folder}: its run has made no labels yet; give `{MAKES_RUN}` the same command again")
    if len(variants) > 1:
        named = " or ".join(str(folder / name) for name in variants)
        raise UserError(f"{folder}: holds the labels of {len(variants)} variants; give {named}")
    return _within(home, folder / variants[0], _final(folder / variants[0]))


def _final(variant: Path) -> str:
    found = next((name for name in FINAL if (variant / name).is_dir()), None)
    if found is None:
        raise UserError(f"{variant}: its run has made no labels yet; give `{MAKES_RUN}` the same command again")
    return found


def _within(run: Path, variant: Path, name: str, given: str = "") -> Source:
    """The labels of a step, by its name, in the variant's folder. given: that folder, as the user wrote it."""
    return Source(given or str(variant / name), _recorded(run, STEP[name].of), _left_out(run))


def _recorded(run: Path, which: str) -> DataConfig | None:
    """The data set of one of a run's lists; None for a list that is not recorded."""
    data = read_table(run / RUN_FILE, AGAIN).table("data")
    if which == TEST and not data.has(TEST):
        if not (run / SUMMARY_FILE).is_file():
            return None
        lists = read_table(run / SUMMARY_FILE, AGAIN).table("data")
        if lists.table(TEST).text("list") != lists.table(VAL).text("list"):
            return None
        which = VAL  # a run without a list of its own to test on
    return recorded_data(data, which)


def _left_out(run: Path) -> dict[str, str]:
    if not (run / CHECKED).is_file():
        return {}
    values = read_table(run / CHECKED, AGAIN).table("values")
    found = values.table("left_out") if values.has("left_out") else None
    return {} if found is None else {name: found.text(name) for name in found}


def open_labelled(source: Source, config: DataConfig) -> Dataset:
    """The data set of these labels, with the classes that they were made with, where their folder says so and `config`
    does not. Image labels say which images it has, if anything: where the classes are known, it goes without."""
    classes = None if config.classes and config != source.data else recorded_classes(source.folder)
    dataset = _opened(config, classes is not None or classes_source(config) is not None)
    if classes is not None:
        dataset = dataclasses.replace(dataset, classes=classes, labels=None)
    if config == source.data and source.left_out:
        used = [index for index, name in enumerate(dataset.ids) if name not in source.left_out]
        dataset = dataset.subset(used)
    return dataset


def _opened(config: DataConfig, classes_known: bool) -> Dataset:
    config = dataclasses.replace(config, range=FULL)  # no pixel is read: there is nothing to measure
    ignored: list[Problem] = []
    try:
        return open_dataset(config, ignored)
    except UserError:
        if config.labels != AUTO_LABELS or not classes_known:
            raise
    return open_dataset(dataclasses.replace(config, labels=NO_LABELS))

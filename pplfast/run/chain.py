"""The whole chain: check the data, train each variant, CAMs, labels, scores, summary, report."""

import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

from pplfast.data.check import IMAGE_KINDS, check_dataset, class_problems, unusable
from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.data.problems import ERROR, WARNING, Problem
from pplfast.doctor import hardware, versions
from pplfast.errors import UserError, one_line
from pplfast.files import check_inside, is_output, remove_file, write_json
from pplfast.lock import hold_folder
from pplfast.recipe import recipe_to_dict
from pplfast.report import write_report
from pplfast.run.config import RunConfig, absolute, fingerprint
from pplfast.run.facts import few_steps
from pplfast.run.refinement import has_segmentation
from pplfast.run.steps import Steps
from pplfast.run.variant import VariantChain, output_files, step_names
from pplfast.train.check import check_recipe
from pplfast.train.trainer import TrainOptions, use_threads

MAX_UNUSABLE = 0.05  # share of a list's images that a run leaves out; more look like a wrong path, not like bad files


def run(config: RunConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Do what is not done yet of a run in `config.out`; returns its summary, which is also in summary.json.

    Images that cannot be used are named and left out, up to MAX_UNUSABLE of a list; repaired ones come back with the
    next call. say: called with one line per step. Raises UserError for data, settings or outputs that cannot be used;
    the same call continues after it, or after a kill, where it stopped. Raises it at once where another process writes
    to `config.out`.
    """
    with hold_folder(config.out):
        return _run(config, say)


def _run(config: RunConfig, say: Callable[[str], None]) -> dict[str, Any]:
    use_threads(config.training or TrainOptions())  # of all steps, whether this call trains or an earlier one did
    train_set, val_set, test_set = open_sets(config)
    steps = step_names(config, train_set, val_set, test_set)
    announce = _Announcer(say, 2 + len(config.variants) * len(steps))
    check_inside(config.out, output_files(config))
    write_json(config.out / "run.json", _record(config))
    is_output(config.out / "report.html")  # not a folder, which would be found when all else is done
    remove_file(config.out / "summary.json")  # it never describes a run that has been changed since
    lists = {config.train: train_set, config.val: val_set}
    if config.test and test_set is not val_set:
        lists[config.test] = test_set
    left_out = _check_data(lists, config, announce)
    train_set, val_set, test_set = (_without(dataset, left_out) for dataset in (train_set, val_set, test_set))
    if few := few_steps(config.recipe, len(train_set)):
        announce.note(few)
    for problem in class_problems(train_set):
        announce.note(f"warning: {problem.message}")
    if not any(val_set.masks):
        announce.note(f"{val_set.name} has no masks: nothing is scored")
    parts = {
        variant: VariantChain(config, variant, train_set, val_set, test_set, announce.of(variant)).run()
        for variant in config.variants
    }
    summary = _summary(config, train_set, val_set, parts)
    if left_out:
        summary["data"]["left_out"] = left_out
    if has_segmentation(config.recipe):
        summary["data"]["test"] = _describe(test_set)
    summary["warnings"] = [
        f"{variant}, {text}"
        for variant, part in parts.items()
        for facts in part["without_masks"].values()
        for text in facts["warnings"]
    ]
    write_json(config.out / "summary.json", summary)
    announce("report")
    write_report(config.out)
    return summary


def open_sets(config: RunConfig) -> tuple[Dataset, Dataset, Dataset]:
    """The training, the validation and the test list, which is the second one where there is no other. Raises UserError
    for what would otherwise be found only after training."""
    train_set, val_set = open_dataset(config.train), open_dataset(config.val)
    test_set = open_dataset(config.test) if config.test and has_segmentation(config.recipe) else val_set
    _check_usable(config, train_set, val_set, test_set)
    return train_set, val_set, test_set


class _Announcer:
    """Counts the steps that begin, and says each with its place in the whole run."""

    def __init__(self, say: Callable[[str], None], total: int) -> None:
        self.say, self.total, self.begun, self.start = say, total, 0, time.monotonic()

    def __call__(self, step: str) -> None:
        self.begun += 1
        elapsed = int(time.monotonic() - self.start)
        self.say(f"[{self.begun:>2}/{self.total}, {elapsed // 60}:{elapsed % 60:02d}] {step}")

    def note(self, text: str) -> None:
        self.say(f"  {one_line(text)}")

    def of(self, variant: str) -> "_VariantAnnouncer":
        return _VariantAnnouncer(self, variant)


class _VariantAnnouncer:
    def __init__(self, parent: _Announcer, variant: str) -> None:
        self.parent, self.variant = parent, variant

    def __call__(self, step: str) -> None:
        self.parent(f"{self.variant}: {step}")

    def note(self, text: str) -> None:
        self.parent.note(f"{self.variant}: {text}")


def _check_usable(config: RunConfig, train_set: Dataset, val_set: Dataset, test_set: Dataset) -> None:
    """What would otherwise be found only after training."""
    compiled = config.training.compile if config.training else ""
    check_recipe(config.recipe, config.variants, len(train_set.classes), compiled=compiled)
    for dataset in (train_set, val_set):
        if dataset.labels is None:
            raise UserError(f"{dataset.name}: has no image labels; name their file with --labels")
    for dataset in (val_set, test_set):
        if train_set.classes != dataset.classes:
            raise UserError(f"{dataset.name}: has other classes than {train_set.name}; give both with --classes")
    if not config.variants:
        raise UserError("no variants to run; give --variants plain,ppl")


def _check_data(lists: dict[DataConfig, Dataset], config: RunConfig, announce: _Announcer) -> dict[str, str]:
    """What is wrong with each image that has to be left out, by id."""

    def action() -> dict[str, Any]:
        warnings = 0
        left_out: dict[str, str] = {}
        for data, dataset in lists.items():
            problems: list[Problem] = []
            open_dataset(data, problems)
            report = check_dataset(dataset, problems)
            for problem in report.problems:
                if not problem.id and problem.severity == WARNING:
                    announce.note(f"warning: {problem.path}: {problem.message}")
            bad = {
                problem.id: f"{problem.path}: {problem.message}"
                for problem in report.problems
                if problem.kind in IMAGE_KINDS
            }
            fatal = [
                problem
                for problem in report.problems
                if problem.severity == ERROR
                and (problem.id not in bad or len(bad) > max(1, MAX_UNUSABLE * len(dataset)))
            ]
            if fatal:
                raise UserError(
                    f"{fatal[0].path}: {fatal[0].message} ({report.errors} such errors in {dataset.name}; "
                    "`pplfast data check` lists them)"
                )
            warnings += report.warnings
            left_out |= bad
        if warnings:
            announce.note(f"{warnings} warnings; `pplfast data check` lists them")
        return {"warnings": warnings, "left_out": left_out}

    train_set, val_set, *test_set = (lists[config.train], lists[config.val], *list(lists.values())[2:])
    settings = {
        "train": fingerprint(train_set),
        "val": fingerprint(val_set),
        "roots": [str(absolute(config.train).root), str(absolute(config.val).root)],
    }
    if config.test and test_set:
        settings["test"] = [fingerprint(test_set[0]), str(absolute(config.test).root)]
    result = Steps(config.out, announce).run("check data", settings, [], action)
    left_out: dict[str, str] = result.values["left_out"]
    if result.skipped:
        paths = {id: path for dataset in lists.values() for id, path in zip(dataset.ids, dataset.images, strict=True)}
        left_out = {id: reason for id, reason in left_out.items() if unusable(paths[id])}
    for reason in left_out.values():
        announce.note(f"left out: {reason}")
    return left_out


def _without(dataset: Dataset, left_out: dict[str, str]) -> Dataset:
    return dataset.subset([i for i, id in enumerate(dataset.ids) if id not in left_out]) if left_out else dataset


def _record(config: RunConfig) -> dict[str, Any]:
    return {
        "command": config.command or shlex.join(sys.argv),
        "recipe": recipe_to_dict(config.recipe),
        "variants": list(config.variants),
        "versions": versions(),
        "data": {"train": vars(absolute(config.train)), "val": vars(absolute(config.val))},
    }


def _summary(config: RunConfig, train_set: Dataset, val_set: Dataset, parts: dict[str, Any]) -> dict[str, Any]:
    """Figures by variant; mIoU in percent, times in seconds, of the pass that finished each step."""
    return {
        "recipe": config.recipe.name,
        "seed": config.recipe.seed,
        "data": {"train": {"list": train_set.name, "images": len(train_set)}, "val": _describe(val_set)},
        **parts,
        "seconds": round(sum(sum(part["seconds"].values()) for part in parts.values()), 1),
        "versions": versions(),
        "hardware": hardware(),
    }


def _describe(dataset: Dataset) -> dict[str, Any]:
    return {"list": dataset.name, "images": len(dataset), "scored": sum(mask is not None for mask in dataset.masks)}

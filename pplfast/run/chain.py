"""The whole chain: check the data, train each variant, CAMs, labels, scores, summary, report."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from pplfast.cluster.agreement import CODE, DATA, RECIPE, agree, code_versions
from pplfast.cluster.meeting import world_size
from pplfast.cluster.ranks import Ranks, on_main, start_ranks, together, while_others_wait
from pplfast.data.check import IMAGE_KINDS, check_dataset, unusable
from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.data.problems import ERROR, WARNING, Problem
from pplfast.data.remarks import class_remarks
from pplfast.doctor import hardware, versions
from pplfast.errors import UserError, one_line
from pplfast.files import check_inside, remove_file, write_json
from pplfast.lock import hold_folder
from pplfast.recipe import recipe_to_dict
from pplfast.report import check_report, write_report
from pplfast.run.config import (
    Lists,
    RunConfig,
    absolute,
    file_contents,
    file_states,
    fingerprint,
    parts_of,
    shared_range,
    with_range,
)
from pplfast.run.facts import few_steps
from pplfast.run.steps import Steps
from pplfast.run.variant import output_files, run_variant
from pplfast.steps import TEST, TRAIN, VAL, steps_of
from pplfast.train.check import check_recipe
from pplfast.train.trainer import TrainOptions, use_threads

CHECK_DATA = "check data"
MAX_UNUSABLE = 0.05  # share of a list's images that a run leaves out; more look like a wrong path, not like bad files


def run(config: RunConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Do what is not done yet of a run in `config.out`; returns its summary, which is also in summary.json.

    Under a launcher every rank calls it alike. Images that cannot be used are named and left out, up to MAX_UNUSABLE of
    a list; repaired ones come back with the next call. say: called on rank 0 with one line per step. Raises UserError
    for data, settings or outputs that cannot be used; the same call continues after it, or after a kill, where it
    stopped, on any number of ranks. Raises it at once where another process writes to `config.out`.
    """
    with hold_run(config) as ranks:
        values = on_main(ranks, lambda: shared_range(config))
        return _run(with_range(config, values), ranks, say if ranks.main else lambda line: None)


@contextmanager
def hold_run(config: RunConfig) -> Iterator[Ranks]:
    """Join the ranks, and hold the folder of the run on rank 0."""
    options = config.training or TrainOptions()
    ranks = start_ranks(options.local_rank, options.stuck_after)
    with ExitStack() as held:
        # A launcher that starts again may not have ended the rank 0 of before yet.
        wait = options.lost_after if ranks.world > 1 else 0.0
        on_main(ranks, lambda: held.enter_context(hold_folder(config.out, wait)))
        yield ranks


def _run(config: RunConfig, ranks: Ranks, say: Callable[[str], None]) -> dict[str, Any]:
    use_threads(config.training or TrainOptions(), ranks.local_world)  # of all steps, whether this call trains or not
    sets = together(ranks, lambda: open_sets(config))
    _agree(config, sets, ranks)
    announce = _Announcer(say, 2 + len(config.variants) * len(steps_of(parts_of(config.recipe, sets))))
    on_main(ranks, lambda: _begin(config))
    lists, left_out = _check_data(config, sets, ranks, announce)
    train_set, val_set = lists.sets[TRAIN], lists.sets[VAL]
    if few := few_steps(config.recipe, len(train_set)):
        announce.note(few)
    for remark in class_remarks(train_set):
        announce.note(f"warning: {remark}")
    if not any(val_set.masks):
        announce.note(f"{val_set.name} has no masks: nothing is scored")
    parts = {variant: run_variant(config, variant, lists, ranks, announce.of(variant)) for variant in config.variants}
    summary = _summary(config, lists, left_out, parts)
    on_main(ranks, lambda: write_json(config.out / "summary.json", summary))
    announce("report")
    while_others_wait(ranks, lambda: str(write_report(config.out, jobs=config.jobs)))
    return summary


def open_sets(config: RunConfig) -> dict[str, Dataset]:
    """The lists by TRAIN, VAL and TEST, which is VAL's without one. Raises UserError for what would otherwise be found
    only after training."""
    train_set, val_set = open_dataset(config.train), open_dataset(config.val)
    test_set = open_dataset(config.test) if config.test and config.recipe.segmentation.trained else val_set
    _check_usable(config, train_set, val_set, test_set)
    return {TRAIN: train_set, VAL: val_set, TEST: test_set}


def _check_usable(config: RunConfig, train_set: Dataset, val_set: Dataset, test_set: Dataset) -> None:
    compiled = config.training.compile if config.training else ""
    check_recipe(config.recipe, config.variants, len(train_set.classes), world_size(os.environ), compiled)
    for dataset in (train_set, val_set):
        if dataset.labels is None:
            raise UserError(f"{dataset.name}: has no image labels; name their file with --labels")
    for dataset in (val_set, test_set):
        if train_set.classes != dataset.classes:
            raise UserError(f"{dataset.name}: has other classes than {train_set.name}; give both with --classes")
    if not config.variants:
        raise UserError("no variants to run; give --variants plain,ppl")


def _agree(config: RunConfig, sets: dict[str, Dataset], ranks: Ranks) -> None:
    """Ranks that want different things would wait for each other."""
    if ranks.world > 1:
        recipe = {**recipe_to_dict(config.recipe), "variants": config.variants, "--out": str(config.out)}
        data = {f"the digest of ids and labels of {key}": fingerprint(dataset) for key, dataset in sets.items()}
        agree(ranks, {CODE: code_versions(), RECIPE: recipe, DATA: data})


def _begin(config: RunConfig) -> None:
    check_inside(config.out, output_files(config))
    write_json(config.out / "run.json", _record(config))
    check_report(config.out)  # what is in its way would be found when all else is done
    remove_file(config.out / "summary.json")  # it never describes a run that has been changed since


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


def _check_data(
    config: RunConfig, sets: dict[str, Dataset], ranks: Ranks, announce: _Announcer
) -> tuple[Lists, dict[str, str]]:
    """The lists without the images that have to be left out, and what is wrong with each of those, by id."""
    configs = _configs(config, sets)
    settings = on_main(ranks, lambda: data_settings(config, sets))
    steps = Steps(config.out, ranks, announce)

    def action() -> dict[str, Any]:
        return while_others_wait(ranks, lambda: _check_lists(configs, sets, announce))

    result = steps.run(CHECK_DATA, settings, action)
    left_out: dict[str, str] = result.values["left_out"]
    bad = [
        (image, some.values)
        for some in sets.values()
        for name, image in zip(some.ids, some.images, strict=True)
        if name in left_out
    ]
    if result.skipped and on_main(ranks, lambda: not all(unusable(*one) for one in bad)):
        steps.forget(CHECK_DATA)  # a file can be read again, though nobody has written to it
        result = steps.run(CHECK_DATA, settings, action)
        left_out = result.values["left_out"]
    for reason in left_out.values():
        announce.note(f"left out: {reason}")
    usable = {key: _without(dataset, left_out) for key, dataset in sets.items()}
    return Lists(usable, result.values["content"], result.values["masks"]), left_out


def data_settings(config: RunConfig, sets: dict[str, Dataset]) -> dict[str, Any]:
    """What the check of the data holds for: the step's settings. Looks at every file once, and reads none."""
    configs = _configs(config, sets)
    return {key: fingerprint(sets[key]) for key in configs} | {
        "roots": [str(absolute(data).root) for data in configs.values()],
        "files": {key: file_states(sets[key]) for key in configs},
    }


def _configs(config: RunConfig, sets: dict[str, Dataset]) -> dict[str, DataConfig]:
    """Each list once."""
    configs = {TRAIN: config.train, VAL: config.val}
    return configs | ({TEST: config.test} if config.test and sets[TEST] is not sets[VAL] else {})


def _check_lists(configs: dict[str, DataConfig], sets: dict[str, Dataset], announce: _Announcer) -> dict[str, Any]:
    warnings = 0
    left_out: dict[str, str] = {}
    for data, dataset in {data: sets[key] for key, data in configs.items()}.items():  # each list once
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
            if problem.severity == ERROR and (problem.id not in bad or len(bad) > max(1, MAX_UNUSABLE * len(dataset)))
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
    usable = {key: _without(dataset, left_out) for key, dataset in sets.items()}
    files = {part for dataset in usable.values() for part in (dataset.images, dataset.masks)}
    contents = {paths: file_contents(paths) for paths in files}
    return {
        "warnings": warnings,
        "left_out": left_out,
        "content": {key: contents[dataset.images] for key, dataset in usable.items()},
        "masks": {key: contents[dataset.masks] for key, dataset in usable.items()},
    }


def _without(dataset: Dataset, left_out: dict[str, str]) -> Dataset:
    return dataset.subset([i for i, id in enumerate(dataset.ids) if id not in left_out]) if left_out else dataset


def _record(config: RunConfig) -> dict[str, Any]:
    lists = {TRAIN: config.train, VAL: config.val, **({TEST: config.test} if config.test else {})}
    return {
        "command": config.command or shlex.join(sys.argv),
        "recipe": recipe_to_dict(config.recipe),
        "variants": list(config.variants),
        **({"suggested": list(config.suggested)} if config.suggested else {}),
        "versions": versions(),
        "data": {name: vars(absolute(data)) for name, data in lists.items()},
    }


def _summary(config: RunConfig, lists: Lists, left_out: dict[str, str], parts: dict[str, Any]) -> dict[str, Any]:
    """Figures by variant; mIoU in percent, times in seconds, of the pass that finished each step."""
    train_set = lists.sets[TRAIN]
    data: dict[str, Any] = {
        "train": {"list": train_set.name, "images": len(train_set)},
        "val": _describe(lists.sets[VAL]),
    }
    if lists.parts(config.recipe).segmentation:
        data["test"] = _describe(lists.sets[TEST])
    if left_out:
        data["left_out"] = left_out
    return {
        "recipe": config.recipe.name,
        "seed": config.recipe.seed,
        "data": data,
        **parts,
        "seconds": round(sum(sum(part["seconds"].values()) for part in parts.values()), 1),
        "versions": versions(),
        "hardware": hardware(),
        "warnings": [
            f"{variant}, {text}"
            for variant, part in parts.items()
            for facts in part["without_masks"].values()
            for text in facts["warnings"]
        ],
    }


def _describe(dataset: Dataset) -> dict[str, Any]:
    return {"list": dataset.name, "images": len(dataset), "scored": sum(mask is not None for mask in dataset.masks)}

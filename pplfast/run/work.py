"""How each kind of step of a variant is done: its settings, and the action that does it on all ranks."""

import dataclasses
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pplfast.cluster.meeting import LostRankError
from pplfast.cluster.ranks import Ranks, on_main, together, while_others_wait
from pplfast.data.dataset import Dataset
from pplfast.errors import Terminated
from pplfast.evaluate import Scores, choose_threshold, evaluate_cams, evaluate_labels, inspect_labels
from pplfast.files import remove_file, write_json
from pplfast.jobs import JobOptions, Outcome
from pplfast.labels.cam import generate_cams
from pplfast.labels.label import generate_affinity_labels, generate_labels
from pplfast.labels.segment import segment_images
from pplfast.labels.walk import walk_cams
from pplfast.recipe import LabelConfig, Recipe, recipe_to_dict
from pplfast.recipe.crf_presets import NONE
from pplfast.run.config import Lists, RunConfig, fingerprint
from pplfast.run.steps import Announce, StepResult
from pplfast.steps import STEP, Step
from pplfast.train import TrainOptions, TrainResult, load_classifier, train
from pplfast.train.affinity import load_boundaries, train_boundaries
from pplfast.train.segmentation import load_segmentation, train_segmentation

Action = Callable[[], dict[str, Any]]


@dataclass
class Work:
    """Each public method takes a step of the table that names it, and gives its own settings and its action.

    results: of the steps that are done, whose outputs are in `folder`.
    """

    config: RunConfig
    variant: str
    lists: Lists
    folder: Path
    ranks: Ranks
    announce: Announce
    results: dict[str, StepResult] = field(default_factory=dict)

    def prepare(self, step: Step) -> tuple[dict[str, Any], Action]:
        """All settings that decide the outputs, and the action that makes them."""
        done = {part: self.results[name] for part, name in step.sources(self.results).items()}
        settings, action = getattr(self, step.work)(step)
        return {
            **settings,
            **{part: result.stamp for part, result in done.items()},
            "updated": {part: result.updated for part, result in done.items()},
            "data": fingerprint(self.lists.sets[step.of]),
            "content": self.lists.content[step.of],
        }, action

    # Trainings

    def classifier(self, step: Step) -> tuple[dict[str, Any], Action]:
        table = recipe_to_dict(self.recipe)
        settings = {key: table[key] for key in ("loss", "model", "augment", "optim", "stages", "seed")}
        return {"variant": self.variant, **settings}, lambda: _training_values(
            train(self.recipe, self._dataset(step), self._out(step), True, self.variant, self._options)
        )

    def boundary(self, step: Step) -> tuple[dict[str, Any], Action]:
        config, seed = self.recipe.affinity, self.recipe.seed

        def action() -> dict[str, Any]:
            labels = self._source(step, "labels")
            classifier = together(self.ranks, lambda: load_classifier(self._source(step, "train")))
            dataset, out = self._dataset(step), self._out(step)
            return _training_values(
                train_boundaries(config, classifier, dataset, labels, out, seed, True, self._options)
            )

        return {"seed": seed, **_some(config, "epochs", "steps", "radius", "augment", "optim")}, action

    def segmentation(self, step: Step) -> tuple[dict[str, Any], Action]:
        config, seed = self.recipe.segmentation, self.recipe.seed
        settings = _some(config, "epochs", "steps", "head", "balanced", "model", "augment", "optim")
        labels, dataset, out = self._source(step, "labels"), self._dataset(step), self._out(step)
        return {"seed": seed, **settings}, lambda: _training_values(
            train_segmentation(config, dataset, labels, out, seed, True, self._options)
        )

    # Jobs

    def cams(self, step: Step) -> tuple[dict[str, Any], Action]:
        config = self.recipe.cam

        def job() -> Outcome:
            model = together(self.ranks, lambda: load_classifier(self._source(step, "train")))
            return generate_cams(model, self._dataset(step), config, self._out(step), options=self._job_options)

        return {"cam": dataclasses.asdict(config)}, self._job(step, job)

    def labels(self, step: Step) -> tuple[dict[str, Any], Action]:
        cams = self._source(step, "cams")
        label = self.label("affinity.label" if cams.name.startswith("walk") else "label")
        label = dataclasses.replace(label, crf=NONE) if step.name == "labels" else label
        return {"label": dataclasses.asdict(label)}, self._job(
            step, lambda: generate_labels(cams, self._dataset(step), label, self._out(step), self._job_options)
        )

    def affinity_labels(self, step: Step) -> tuple[dict[str, Any], Action]:
        config, cams = self.recipe.affinity, self._source(step, "cams")
        return _some(config, "foreground", "background", "crf"), self._job(
            step,
            lambda: generate_affinity_labels(cams, self._dataset(step), config, self._out(step), self._job_options),
        )

    def walk(self, step: Step) -> tuple[dict[str, Any], Action]:
        config, cams = self.recipe.affinity.walk, self._source(step, "cams")

        def job() -> Outcome:
            model = together(self.ranks, lambda: load_boundaries(self._source(step, "boundary")))
            return walk_cams(model, cams, self._dataset(step), config, self._out(step), self._job_options)

        return {"walk": dataclasses.asdict(config)}, self._job(step, job)

    def predictions(self, step: Step) -> tuple[dict[str, Any], Action]:
        return self._segmented(step, told=False)

    def told_predictions(self, step: Step) -> tuple[dict[str, Any], Action]:
        """Of images whose classes are known."""
        return self._segmented(step, told=True)

    def _segmented(self, step: Step, told: bool) -> tuple[dict[str, Any], Action]:
        config = self.recipe.segmentation

        def job() -> Outcome:
            model, classes = together(self.ranks, lambda: load_segmentation(self._source(step, "segmentation")))
            return segment_images(model, classes, self._dataset(step), config, self._out(step), self._job_options, told)

        return _some(config, "scales", "flip", "crf"), self._job(step, job)

    # Figures

    def score(self, step: Step) -> tuple[dict[str, Any], Action]:
        def action() -> dict[str, Any]:
            of_cams = STEP[self._source(step).name].work in ("cams", "walk")
            evaluate: Callable[..., Scores] = evaluate_cams if of_cams else evaluate_labels
            scores = evaluate(self._source(step), self._dataset(step), jobs=self.config.jobs)
            write_json(self._out(step), scores.to_dict())
            for warning in scores.warnings:
                self.announce.note(f"warning: {warning}")
            return {"miou": scores.miou, "threshold": getattr(scores, "threshold", None)}

        return {"masks": self.lists.masks[step.of]}, lambda: while_others_wait(self.ranks, action)

    def threshold(self, step: Step) -> tuple[dict[str, Any], Action]:
        """Of maps without masks to find the best one on."""

        def action() -> dict[str, Any]:
            chosen = choose_threshold(self._source(step), self._dataset(step), self.config.jobs)
            write_json(self._out(step), {"threshold": chosen.threshold, "images": chosen.images})
            if self._is_open("label" if step.name == "threshold_cam" else "affinity.label"):
                self.announce.note(str(chosen))
            return {"threshold": chosen.threshold, "images": chosen.images}

        return {}, lambda: while_others_wait(self.ranks, action)

    def count(self, step: Step) -> tuple[dict[str, Any], Action]:
        """What labels without masks show by themselves."""

        def action() -> dict[str, Any]:
            facts = inspect_labels(self._source(step), self._dataset(step), self.config.jobs).to_dict()
            write_json(self._out(step), facts)
            return facts

        return {}, lambda: while_others_wait(self.ranks, action)

    # What they share

    def label(self, key: str) -> LabelConfig:
        """The recipe's table `key`; its threshold 0 stands for the best of the sweep over its maps, or without masks
        for the one that is chosen from them."""
        label, maps = self._table(key), "cam" if key == "label" else "walk"
        found = self.results.get(f"eval_{maps}") or self.results.get(f"threshold_{maps}")
        if not self._is_open(key) or found is None:
            return label
        return dataclasses.replace(label, value=found.values["threshold"])

    def decided(self) -> Recipe:
        """The recipe with the thresholds that were used."""
        affinity = dataclasses.replace(self.recipe.affinity, label=self.label("affinity.label"))
        return dataclasses.replace(self.recipe, label=self.label("label"), affinity=affinity)

    def _is_open(self, key: str) -> bool:
        """Whether the recipe leaves the threshold of the table `key` to the maps."""
        label = self._table(key)
        return label.background == "threshold" and not label.value

    def _table(self, key: str) -> LabelConfig:
        return self.recipe.label if key == "label" else self.recipe.affinity.label

    @property
    def recipe(self) -> Recipe:
        return self.config.recipe

    @property
    def _options(self) -> TrainOptions:
        return self.config.training or TrainOptions()

    @property
    def _job_options(self) -> JobOptions:
        return JobOptions(memory=self.config.memory, jobs=self.config.jobs)

    def _dataset(self, step: Step) -> Dataset:
        return self.lists.sets[step.of]

    def _out(self, step: Step) -> Path:
        return self.folder / step.output

    def _source(self, step: Step, part: str | None = None) -> Path:
        """What the step reads: the only one, or that of this part."""
        sources = step.sources(self.results)
        return self.folder / STEP[sources[part] if part else next(iter(sources.values()))].output

    def _job(self, step: Step, job: Callable[[], Outcome]) -> Action:
        out, dataset = self._out(step), self._dataset(step)

        def action() -> dict[str, Any]:
            on_main(self.ranks, lambda: _remove_others(out, dataset))
            outcome = together(self.ranks, job)  # of all ranks, on each
            if outcome.signal:
                raise Terminated if outcome.signal == signal.SIGTERM else KeyboardInterrupt
            if outcome.unfinished:
                raise LostRankError(f"{step.name}: ranks {outcome.unfinished} ended early")
            if outcome.bad:
                name, reason = outcome.bad[0]
                where = f"{out}/{outcome.manifest}"
                self.announce.note(f"warning: {outcome.bad_count} images failed, see {where} (first: {name}: {reason})")
            rate = round(outcome.written / outcome.seconds, 3) if outcome.written and outcome.seconds else None
            missing = len(dataset) - outcome.written - outcome.skipped
            return {"missing": missing, "images_per_second": rate, "written": outcome.written}

        return action


def _remove_others(out: Path, dataset: Dataset) -> None:
    """Remove what an earlier pass made of images that are not on the list any more."""
    wanted = set(dataset.ids)
    for path in out.rglob("*"):
        name = path.relative_to(out).as_posix()
        if path.suffix in (".npz", ".png") and name.removesuffix(path.suffix) not in wanted:
            remove_file(path)


def _some(config: Any, *keys: str) -> dict[str, Any]:
    table = dataclasses.asdict(config)
    return {key: table[key] for key in keys}


def _training_values(result: TrainResult) -> dict[str, Any]:
    return {"images_per_second": result.images_per_s, "loss": result.loss, "seconds": result.seconds}

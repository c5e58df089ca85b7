"""How each kind of step of a variant is done: its settings, and the action that does it on all ranks."""

import dataclasses
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pplfast.cluster.ranks import LostRankError, Ranks, on_main, together, while_others_wait
from pplfast.data.dataset import Dataset
from pplfast.errors import Terminated, UserError
from pplfast.evaluate import Scores, evaluate_cams, evaluate_labels, inspect_labels
from pplfast.files import remove_file, write_json
from pplfast.jobs import JobOptions, Outcome
from pplfast.labels.presets import DEFAULT_THRESHOLD, NONE
from pplfast.precision import default_device
from pplfast.recipe import LabelConfig, Recipe, recipe_to_dict
from pplfast.run.config import Lists, RunConfig, fingerprint
from pplfast.run.steps import Announce, StepResult
from pplfast.steps import STEP, Step

if TYPE_CHECKING:
    from pplfast.train import TrainOptions, TrainResult

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
        from pplfast.train import train

        table = recipe_to_dict(self.recipe)
        settings = {key: table[key] for key in ("loss", "model", "augment", "optim", "stages", "seed")}
        return {"variant": self.variant, **settings}, lambda: _training_values(
            train(self.recipe, self._dataset(step), self._out(step), True, self.variant, self._options)
        )

    def boundary(self, step: Step) -> tuple[dict[str, Any], Action]:
        config = self.recipe.affinity

        def action() -> dict[str, Any]:
            from pplfast.train import load_classifier
            from pplfast.train.affinity import train_boundaries

            labels, classifier = self._source(step, "labels"), load_classifier(self._source(step, "train"))
            return _training_values(
                train_boundaries(
                    *(config, classifier, self._dataset(step), labels, self._out(step), self.recipe.seed),
                    resume=True,
                    options=self._options,
                )
            )

        return {"seed": self.recipe.seed, **_some(config, "epochs", "radius", "augment", "optim")}, action

    def segmentation(self, step: Step) -> tuple[dict[str, Any], Action]:
        config = self.recipe.segmentation

        def action() -> dict[str, Any]:
            from pplfast.train.segmentation import train_segmentation

            return _training_values(
                train_segmentation(
                    *(config, self._dataset(step), self._source(step, "labels"), self._out(step), self.recipe.seed),
                    resume=True,
                    options=self._options,
                )
            )

        settings = _some(config, "epochs", "head", "balanced", "model", "augment", "optim")
        return {"seed": self.recipe.seed, **settings}, action

    # Jobs

    def cams(self, step: Step) -> tuple[dict[str, Any], Action]:
        config = self.recipe.cam

        def job() -> Outcome:
            from pplfast.labels.cam import generate_cams
            from pplfast.train import load_classifier

            model = load_classifier(self._source(step, "train")).to(default_device())
            return generate_cams(model, self._dataset(step), config, self._out(step), options=self._job_options)

        return {"cam": dataclasses.asdict(config)}, self._job(step, job)

    def labels_without_crf(self, step: Step) -> tuple[dict[str, Any], Action]:
        return self._labels(step, dataclasses.replace(self.label("label"), crf=NONE))

    def labels(self, step: Step) -> tuple[dict[str, Any], Action]:
        return self._labels(step, self.label("label"))

    def labels_of_walk(self, step: Step) -> tuple[dict[str, Any], Action]:
        return self._labels(step, self.label("affinity.label"))

    def labels_to_train(self, step: Step) -> tuple[dict[str, Any], Action]:
        return self._labels(step, self.label("affinity.label" if "walk" in self.results else "label"))

    def _labels(self, step: Step, label: LabelConfig) -> tuple[dict[str, Any], Action]:
        def job() -> Outcome:
            from pplfast.labels.label import generate_labels

            cams = self._source(step, "cams")
            return generate_labels(cams, self._dataset(step), label, self._out(step), self._job_options)

        return {"label": dataclasses.asdict(label)}, self._job(step, job)

    def affinity_labels(self, step: Step) -> tuple[dict[str, Any], Action]:
        affinity = self.recipe.affinity

        def job() -> Outcome:
            from pplfast.labels.label import generate_affinity_labels

            cams, dataset = self._source(step, "cams"), self._dataset(step)
            return generate_affinity_labels(cams, dataset, affinity, self._out(step), self._job_options)

        return _some(affinity, "foreground", "background", "crf"), self._job(step, job)

    def walk(self, step: Step) -> tuple[dict[str, Any], Action]:
        config = self.recipe.affinity.walk

        def job() -> Outcome:
            from pplfast.labels.walk import walk_cams
            from pplfast.train.affinity import load_boundaries

            model = load_boundaries(self._source(step, "boundary")).to(default_device())
            cams, dataset = self._source(step, "cams"), self._dataset(step)
            return walk_cams(model, cams, dataset, config, self._out(step), self._job_options)

        return {"walk": dataclasses.asdict(config)}, self._job(step, job)

    def predictions(self, step: Step) -> tuple[dict[str, Any], Action]:
        segmentation = self.recipe.segmentation

        def job() -> Outcome:
            from pplfast.labels.segment import segment_images
            from pplfast.train.segmentation import load_segmentation

            model, classes = load_segmentation(self._source(step, "segmentation"))
            model.to(default_device())
            dataset, out = self._dataset(step), self._out(step)
            return segment_images(model, classes, dataset, segmentation, out, self._job_options)

        return _some(segmentation, "scales", "flip", "crf"), self._job(step, job)

    # Figures

    def score_cams(self, step: Step) -> tuple[dict[str, Any], Action]:
        return self._scores(step, evaluate_cams)

    def score_labels(self, step: Step) -> tuple[dict[str, Any], Action]:
        return self._scores(step, evaluate_labels)

    def _scores(self, step: Step, evaluate: Callable[..., Scores]) -> tuple[dict[str, Any], Action]:
        def action() -> dict[str, Any]:
            scores = evaluate(self._source(step), self._dataset(step), jobs=self.config.jobs)
            write_json(self._out(step), scores.to_dict())
            for warning in scores.warnings:
                self.announce.note(f"warning: {warning}")
            return {"miou": scores.miou, "threshold": getattr(scores, "threshold", None)}

        return {"masks": self.lists.masks[step.of]}, lambda: while_others_wait(self.ranks, action)

    def count(self, step: Step) -> tuple[dict[str, Any], Action]:
        """What labels without masks show by themselves."""

        def action() -> dict[str, Any]:
            facts = inspect_labels(self._source(step), self._dataset(step), self.config.jobs).to_dict()
            write_json(self._out(step), facts)
            return facts

        return {}, lambda: while_others_wait(self.ranks, action)

    # What they share

    def label(self, key: str) -> LabelConfig:
        """The recipe's table `key`; its threshold 0 stands for the best of the sweep over its maps."""
        label, sweep = (self.recipe.label, "eval_cam") if key == "label" else (self.recipe.affinity.label, "eval_walk")
        if label.background != "threshold" or label.value:
            return label
        if sweep in self.results:
            return dataclasses.replace(label, value=self.results[sweep].values["threshold"])
        return dataclasses.replace(label, value=DEFAULT_THRESHOLD)

    @property
    def recipe(self) -> Recipe:
        return self.config.recipe

    @property
    def _options(self) -> "TrainOptions":
        from pplfast.train import TrainOptions

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
            outcome = Outcome(**on_all(self.ranks, lambda: dataclasses.asdict(job())))
            if outcome.signal:
                raise Terminated if outcome.signal == signal.SIGTERM else KeyboardInterrupt
            if outcome.unfinished:
                raise LostRankError(f"{step.name}: ranks {outcome.unfinished} ended early")
            if outcome.bad:
                name, reason = outcome.bad[0]
                self.announce.note(
                    f"warning: {len(outcome.bad)} images failed, see {out}/manifest.jsonl (first: {name}: {reason})"
                )
            rate = round(outcome.written / outcome.seconds, 3) if outcome.written and outcome.seconds else None
            missing = len(dataset) - outcome.written - outcome.skipped
            return {"missing": missing, "images_per_second": rate, "written": outcome.written}

        return action


def on_all(ranks: Ranks, job: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do `job` on all ranks, which are done at very different times: what rank 0's gives, to all of them as JSON.

    A UserError of any rank is raised by all. job: waits for nobody by `while_others_wait`.
    """
    failed: UserError | None = None
    if not ranks.main:
        try:
            job()
        except UserError as error:
            failed = error
    result = while_others_wait(ranks, job)  # on rank 0: the job

    def raise_failure() -> None:
        if failed:
            raise failed

    together(ranks, raise_failure)
    return result


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


def _training_values(result: "TrainResult") -> dict[str, Any]:
    return {"images_per_second": result.images_per_s, "loss": result.loss, "seconds": result.seconds}

"""The chain of one variant: train, CAMs, threshold, labels, scores, and what refinement.py adds. Each part is a step
that is done once."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pplfast.data.dataset import Dataset
from pplfast.evaluate import Scores, evaluate_cams, evaluate_labels, inspect_labels
from pplfast.files import write_json
from pplfast.jobs import JobOptions, Outcome
from pplfast.labels.presets import DEFAULT_THRESHOLD, NONE
from pplfast.precision import default_device
from pplfast.recipe import LabelConfig, recipe_to_dict
from pplfast.run import refinement
from pplfast.run.config import RunConfig, fingerprint
from pplfast.run.facts import FACT_FILES, FACTS, facts_summary
from pplfast.run.refinement import Refinement, refinement_steps
from pplfast.run.steps import Announce, StepResult, Steps, training_values

# The steps of each variant in order, and the file or folder that each makes.
OUTPUTS = {
    "train": "train",
    "cams": "cams",
    "eval_cam": "eval_cam.json",
    "labels": "labels",
    "labels_crf": "labels_crf",
    "eval_label": "eval_label.json",
    "eval_label_crf": "eval_label_crf.json",
}
REFINED = refinement.AFFINITY | refinement.SEGMENTATION

EVALUATION = {"cams": "eval_cam", "labels": "eval_label", "labels_crf": "eval_label_crf", **refinement.EVALUATION}

FILES = OUTPUTS | REFINED | FACT_FILES


def step_names(config: RunConfig, train_set: Dataset, val_set: Dataset, test_set: Dataset) -> list[str]:
    """The steps that this run has."""
    with_crf = config.recipe.label.crf != NONE
    names = [name for name in OUTPUTS if with_crf or not name.endswith("crf")]
    names += refinement_steps(config.recipe, fingerprint(train_set) == fingerprint(val_set))

    def has_masks(source: str) -> bool:
        return any((test_set if source == "predictions" else val_set).masks)

    not_run = {score for source, score in EVALUATION.items() if not has_masks(source)}
    facts = [
        FACTS[source]
        for source in names
        if source in FACTS and not has_masks(source) and not (source == "labels" and with_crf)
    ]
    return [name for name in names if name not in not_run] + facts


def output_files(config: RunConfig) -> list[Path]:
    """A name in every folder that the steps of this run write to or delete."""
    folders = [config.out / "steps"]
    for variant in config.variants:
        outputs = [config.out / variant / output for output in FILES.values() if not output.endswith(".json")]
        folders += [config.out / variant, config.out / variant / "steps", *outputs]
    return [folder / "name" for folder in folders]


class VariantChain:
    """Runs the steps of one variant in `config.out/<variant>`; `summary()` is its part of summary.json."""

    def __init__(
        self,
        config: RunConfig,
        variant: str,
        train_set: Dataset,
        val_set: Dataset,
        test_set: Dataset,
        announce: Announce,
    ) -> None:
        self.config, self.variant = config, variant
        self.train_set, self.val_set, self.test_set = train_set, val_set, test_set
        self.folder = config.out / variant
        self.steps = Steps(self.folder, announce)
        self.announce = announce
        self.scored = any(val_set.masks)
        self.options = JobOptions(memory=config.memory, jobs=config.jobs)
        self.results: dict[str, StepResult] = {}

    def run(self) -> dict[str, Any]:
        have = step_names(self.config, self.train_set, self.val_set, self.test_set)
        for name in FILES.keys() - set(have):
            self.steps.discard(name, [self.output(name)])
        self._train()
        self.make_cams("cams", self.val_set)
        if self.scored:
            self.score("cams", evaluate_cams)
        label = self.resolve_label(self.config.recipe.label, "eval_cam")
        self.make_labels("labels", "cams", self.val_set, dataclasses.replace(label, crf=NONE))
        if label.crf != NONE:
            self.make_labels("labels_crf", "cams", self.val_set, label)
        if self.scored and label.crf != NONE:
            self.score("labels", evaluate_labels)
        self.judge("labels_crf" if label.crf != NONE else "labels", self.val_set)
        refined = Refinement(self, label)
        refined.run()
        return self.summary(label) | refined.summary()

    def summary(self, label: LabelConfig) -> dict[str, Any]:
        """mIoU in percent, None without masks. label_miou is of the CAMs' labels, after the CRF if there is one."""

        def value(step: str, key: str) -> Any:
            return self.results[step].values[key] if step in self.results else None

        final = "labels_crf" if label.crf != NONE else "labels"
        rates = {
            name: result.values["images_per_second"]
            for name, result in self.results.items()
            if result.values.get("images_per_second")
        }
        return {
            "cam_miou": value("eval_cam", "miou"),
            "cam_threshold": value("eval_cam", "threshold"),
            "label_before_crf_miou": value("eval_label", "miou"),
            "label_miou": value(EVALUATION[final], "miou"),
            "background": f"{label.background} {label.value:g}",
            "crf": label.crf,
            "images_without_label": value(final, "missing"),
            "without_masks": facts_summary(
                {name: result.values for name, result in self.results.items()}, self.config.recipe, len(self.train_set)
            ),
            "seconds": {name: result.seconds for name, result in self.results.items()},
            "images_per_second": rates,
        }

    def output(self, step: str) -> Path:
        return self.folder / FILES[step]

    def step(self, name: str, settings: dict[str, Any], action: Callable[[], dict[str, Any]]) -> None:
        self.results[name] = self.steps.run(name, settings, [self.output(name)], action)

    def _train(self) -> None:
        from pplfast.train import TrainOptions, train

        recipe, out, options = self.config.recipe, self.output("train"), self.config.training or TrainOptions()
        table = recipe_to_dict(recipe)
        settings = {
            "variant": self.variant,
            "data": fingerprint(self.train_set),
            **{key: table[key] for key in ("loss", "model", "augment", "optim", "stages", "seed")},
        }

        def action() -> dict[str, Any]:
            result = train(recipe, self.train_set, out, resume=True, variant=self.variant, options=options)
            return training_values(result)

        self.step("train", settings, action)

    def make_cams(self, name: str, dataset: Dataset) -> None:
        out = self.output(name)
        settings = {
            "train": self.results["train"].stamp,
            "data": fingerprint(dataset),
            "cam": dataclasses.asdict(self.config.recipe.cam),
        }

        def action() -> dict[str, Any]:
            from pplfast.labels.cam import generate_cams
            from pplfast.train import load_classifier

            model = load_classifier(self.output("train")).to(default_device())
            made = generate_cams(model, dataset, self.config.recipe.cam, out, options=self.options)
            return self.outcome(made, out, dataset)

        self.step(name, settings, action)

    def make_labels(self, name: str, source: str, dataset: Dataset, label: LabelConfig) -> None:
        """The step `name`: label PNGs of `dataset` from the maps of the step `source`."""
        out = self.output(name)
        settings = {"cams": self.results[source].stamp, "label": dataclasses.asdict(label)}

        def action() -> dict[str, Any]:
            from pplfast.labels.label import generate_labels

            made = generate_labels(self.output(source), dataset, label, out, self.options)
            return self.outcome(made, out, dataset)

        self.step(name, settings, action)

    def judge(self, source: str, dataset: Dataset) -> None:
        """Score the labels that the step `source` made of `dataset`; without masks, count what they show alone."""
        if any(dataset.masks):
            return self.score(source, evaluate_labels, dataset)
        out = self.output(FACTS[source])

        def action() -> dict[str, Any]:
            facts = inspect_labels(self.output(source), dataset, self.config.jobs)
            write_json(out, facts.to_dict())
            return facts.to_dict()

        self.step(FACTS[source], {source: self.results[source].stamp, "data": fingerprint(dataset)}, action)

    def score(self, source: str, evaluate: Callable[..., Scores], dataset: Dataset | None = None) -> None:
        """Score what the step `source` made, against the masks of `dataset` (the scored list without one)."""
        dataset, name = dataset or self.val_set, EVALUATION[source]
        out = self.output(name)

        def action() -> dict[str, Any]:
            scores = evaluate(self.output(source), dataset, jobs=self.config.jobs)
            write_json(out, scores.to_dict())
            for warning in scores.warnings:
                self.announce.note(f"warning: {warning}")
            return {"miou": scores.miou, "threshold": getattr(scores, "threshold", None)}

        masks = [str(path) for path in dataset.masks if path is not None]
        digest = hashlib.sha256("\n".join(masks).encode()).hexdigest()[:16]
        settings = {source: self.results[source].stamp, "masks": digest}
        self.step(name, settings, action)

    def resolve_label(self, label: LabelConfig, sweep: str, key: str = "label") -> LabelConfig:
        """The recipe's table `key`; its threshold 0 stands for the best of the step `sweep`."""
        if label.background != "threshold" or label.value:
            return label
        if self.scored:
            return dataclasses.replace(label, value=self.results[sweep].values["threshold"])
        self.announce.note(
            f"{self.val_set.name} has no masks to find a threshold on: background threshold "
            f"{DEFAULT_THRESHOLD} (usual: 0.15 to 0.30; choose one with --set {key}.value=X)"
        )
        return dataclasses.replace(label, value=DEFAULT_THRESHOLD)

    def outcome(self, outcome: Outcome, folder: Path, dataset: Dataset) -> dict[str, Any]:
        if outcome.bad:
            self.announce.note(
                f"warning: {len(outcome.bad)} images failed, see {folder}/manifest.jsonl "
                f"(first: {outcome.bad[0][0]}: {outcome.bad[0][1]})"
            )
        rate = round(outcome.written / outcome.seconds, 3) if outcome.written and outcome.seconds else None
        return {"missing": len(dataset) - outcome.written - outcome.skipped, "images_per_second": rate}

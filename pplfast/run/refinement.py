"""What a variant's chain goes on with where the recipe asks for it: boundaries, random walk, segmentation network."""

import dataclasses
from typing import TYPE_CHECKING, Any

from pplfast.data.dataset import Dataset
from pplfast.evaluate import evaluate_cams
from pplfast.precision import default_device
from pplfast.recipe import LabelConfig, Recipe
from pplfast.run.config import fingerprint
from pplfast.run.steps import training_values

if TYPE_CHECKING:
    from pplfast.run.variant import VariantChain

# The steps in order, and the file or folder that each makes. `_train` ones are of the list that is trained on; where
# that is the list that is scored, the steps without the suffix serve for both.
AFFINITY = {
    "cams_train": "cams_train",
    "affinity_labels": "affinity_labels",
    "boundary": "boundary",
    "walk": "walk",
    "eval_walk": "eval_walk.json",
    "labels_walk": "labels_walk",
    "eval_label_walk": "eval_label_walk.json",
}
SEGMENTATION = {
    "walk_train": "walk_train",
    "labels_train": "labels_train",
    "segmentation": "segmentation",
    "predictions": "predictions",
    "eval_segmentation": "eval_segmentation.json",
}
EVALUATION = {"walk": "eval_walk", "labels_walk": "eval_label_walk", "predictions": "eval_segmentation"}
FIGURES = {"eval_walk": "walk_miou", "eval_label_walk": "walk_label_miou", "eval_segmentation": "segmentation_miou"}


def has_affinity(recipe: Recipe) -> bool:
    return recipe.affinity.epochs > 0


def has_segmentation(recipe: Recipe) -> bool:
    return recipe.segmentation.epochs > 0


def refinement_steps(recipe: Recipe, one_list: bool) -> list[str]:
    """one_list: the list that is trained on is the one that is scored."""
    names = [*(AFFINITY if has_affinity(recipe) else ()), *(SEGMENTATION if has_segmentation(recipe) else ())]
    if has_segmentation(recipe) and not has_affinity(recipe):
        names = ["cams_train", *(name for name in names if name != "walk_train")]
    if one_list:
        names = [name for name in names if name not in ("cams_train", "walk_train")]
    return names


class Refinement:
    """Runs these steps with the chain's records; `chain` has done its own."""

    def __init__(self, chain: "VariantChain", label: LabelConfig) -> None:
        self.chain, self.label, self.recipe = chain, label, chain.config.recipe
        self.one_list = fingerprint(chain.train_set) == fingerprint(chain.val_set)

    def run(self) -> None:
        recipe = self.recipe
        if has_affinity(recipe) or has_segmentation(recipe):
            self._train_cams()
        label, source = self.label, self._of_train("cams")
        if has_affinity(recipe):
            self._affinity_labels()
            self._boundary()
            self._walk("walk", "cams", self.chain.val_set)
            if self.chain.scored:
                self.chain.score("walk", evaluate_cams)
            label = self.chain.resolve_label(recipe.affinity.label, "eval_walk", "affinity.label")
            self.chain.make_labels("labels_walk", "walk", self.chain.val_set, label)
            self.chain.judge("labels_walk", self.chain.val_set)
            source = self._of_train("walk")
        if has_segmentation(recipe):
            if has_affinity(recipe) and not self.one_list:
                self._walk("walk_train", "cams_train", self.chain.train_set)
            self.chain.make_labels("labels_train", source, self.chain.train_set, label)
            self._segmentation()
            self._predictions()
            self.chain.judge("predictions", self.chain.test_set)

    def summary(self) -> dict[str, Any]:
        """mIoU in percent of the walk's maps, its labels and the segmentation network; None without masks."""
        results = self.chain.results
        steps = refinement_steps(self.recipe, self.one_list)
        return {
            FIGURES[name]: results[name].values["miou"] if name in results else None
            for name in FIGURES
            if name in steps
        }

    def _of_train(self, step: str) -> str:
        return step if self.one_list else f"{step}_train"

    def _train_cams(self) -> None:
        if not self.one_list:
            self.chain.make_cams("cams_train", self.chain.train_set)

    def _affinity_labels(self) -> None:
        chain, config, source = self.chain, self.recipe.affinity, self._of_train("cams")
        out = chain.output("affinity_labels")
        settings = {
            "cams": chain.results[source].stamp,
            "foreground": config.foreground,
            "background": config.background,
            "crf": config.crf,
        }

        def action() -> dict[str, Any]:
            from pplfast.labels.label import generate_affinity_labels

            made = generate_affinity_labels(chain.output(source), chain.train_set, config, out, chain.options)
            return chain.outcome(made, out, chain.train_set)

        chain.step(
            "affinity_labels",
            settings,
            action,
        )

    def _boundary(self) -> None:
        from pplfast.train import TrainOptions, load_classifier
        from pplfast.train.affinity import train_boundaries

        chain, config = self.chain, self.recipe.affinity
        options = chain.config.training or TrainOptions()
        table = dataclasses.asdict(config)
        settings = {
            "labels": chain.results["affinity_labels"].stamp,
            "train": chain.results["train"].stamp,
            "seed": self.recipe.seed,
            **{key: table[key] for key in ("epochs", "radius", "augment", "optim")},
        }

        def action() -> dict[str, Any]:
            result = train_boundaries(
                config,
                load_classifier(chain.output("train")),
                chain.train_set,
                chain.output("affinity_labels"),
                chain.output("boundary"),
                self.recipe.seed,
                resume=True,
                options=options,
            )
            return training_values(result)

        chain.step("boundary", settings, action)

    def _walk(self, name: str, source: str, dataset: Dataset) -> None:
        chain, config = self.chain, self.recipe.affinity.walk
        out = chain.output(name)
        settings = {
            "cams": chain.results[source].stamp,
            "boundary": chain.results["boundary"].stamp,
            "walk": dataclasses.asdict(config),
        }

        def action() -> dict[str, Any]:
            from pplfast.labels.walk import walk_cams
            from pplfast.train.affinity import load_boundaries

            model = load_boundaries(chain.output("boundary")).to(default_device())
            made = walk_cams(model, chain.output(source), dataset, config, out, chain.options)
            return chain.outcome(made, out, dataset)

        chain.step(name, settings, action)

    def _segmentation(self) -> None:
        from pplfast.train import TrainOptions
        from pplfast.train.segmentation import train_segmentation

        chain, config = self.chain, self.recipe.segmentation
        options = chain.config.training or TrainOptions()
        table = dataclasses.asdict(config)
        settings = {
            "labels": chain.results["labels_train"].stamp,
            "seed": self.recipe.seed,
            **{key: table[key] for key in ("epochs", "head", "balanced", "model", "augment", "optim")},
        }

        def action() -> dict[str, Any]:
            result = train_segmentation(
                config,
                chain.train_set,
                chain.output("labels_train"),
                chain.output("segmentation"),
                self.recipe.seed,
                resume=True,
                options=options,
            )
            return training_values(result)

        chain.step("segmentation", settings, action)

    def _predictions(self) -> None:
        chain, config = self.chain, self.recipe.segmentation
        out, dataset = chain.output("predictions"), chain.test_set
        settings = {
            "segmentation": chain.results["segmentation"].stamp,
            "data": fingerprint(dataset),
            "scales": config.scales,
            "flip": config.flip,
            "crf": config.crf,
        }

        def action() -> dict[str, Any]:
            from pplfast.labels.segment import segment_images
            from pplfast.train.segmentation import load_segmentation

            model, classes = load_segmentation(chain.output("segmentation"))
            model.to(default_device())
            made = segment_images(model, classes, dataset, config, out, chain.options)
            return chain.outcome(made, out, dataset)

        chain.step("predictions", settings, action)

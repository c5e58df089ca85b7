"""Training the classifier: plain, progressive or explicit patch learning on image labels."""

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor

from pplfast.data.dataset import Dataset
from pplfast.data.loader import Batch, TrainLoader
from pplfast.described import described_training
from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.networks import CLASSIFIER
from pplfast.patch.classifier import PatchClassifier
from pplfast.recipe import Recipe
from pplfast.steps import VARIANTS
from pplfast.train import loss as losses
from pplfast.train.check import check_classifier
from pplfast.train.identity import describe
from pplfast.train.model_file import DESCRIPTION, ClassifierInfo, library_versions, read_info, save_classifier
from pplfast.train.network_file import as_described
from pplfast.train.plan import StagePlan, build_model
from pplfast.train.task import Task
from pplfast.train.trainer import TrainOptions, TrainResult, run_task


def train(
    recipe: Recipe,
    dataset: Dataset,
    out: StrPath,
    resume: bool = False,
    variant: str = "ppl",
    options: TrainOptions = TrainOptions(),
) -> TrainResult:
    """Train a classifier into the folder `out`: classifier.safetensors, classifier.json, logs and checkpoints.

    variant: "plain" (one stage as long as all of the recipe's, no patches), "ppl" (the recipe's stages in order), or
    "explicit" (all positions at once, one stage as long as all).
    Source of patch learning: arXiv 2209.07828.
    resume: a finished folder is left as it is, an unfinished one continued with `resume`; under a
    launcher every rank calls this alike. Raises UserError for settings or data that cannot be, an `out` of another
    run, an unfinished one without `resume`, a full disk, and a loss that is not finite.
    """
    if variant not in VARIANTS:
        raise UserError(f"--variant {variant}: choose one of: {', '.join(VARIANTS)}")
    return run_task(ClassifierTask(recipe, variant, dataset), out, resume, options)


class ClassifierTask(Task[PatchClassifier]):
    result_file = DESCRIPTION
    loss: losses.Loss

    def __init__(self, recipe: Recipe, variant: str, dataset: Dataset) -> None:
        self.recipe, self.variant, self.dataset = recipe, variant, dataset
        self.seed, self.optim = recipe.seed, recipe.optim
        self.title = f"{variant} classifier, {recipe.model.backbone}"

    def check(self) -> None:
        dataset = self.dataset
        if len(dataset) == 0 or dataset.labels is None:
            raise UserError(f"{dataset.name}: {'no image labels; give --labels' if len(dataset) else 'no images'}")
        if not dataset.labels.any():
            raise UserError(f"{dataset.name}: none of its images has any of the classes; add images of them")
        check_classifier(self.recipe, (self.variant,), len(dataset.classes))
        self.loss = losses.LOSSES.find(self.recipe.loss)

    def record(self) -> dict[str, Any]:
        return describe(self.recipe, self.variant, self.dataset)

    def build(self) -> tuple[PatchClassifier, tuple[StagePlan, ...]]:
        return build_model(self.recipe, self.variant, len(self.dataset.classes))

    def load(self, model: PatchClassifier, **options: Any) -> TrainLoader:
        return TrainLoader(self.dataset, self.recipe.augment, model.backbone.mean, model.backbone.std, **options)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return losses.image_losses(outputs, batch.targets, batch.weights, self.loss)

    def begin_stage(self, model: PatchClassifier, stage: StagePlan) -> None:
        model.set_cuts(stage.cuts)

    def save(self, model: PatchClassifier, stage: StagePlan, training: dict[str, Any], folder: Path) -> None:
        recipe = dataclasses.asdict(self.recipe)
        save_classifier(
            model,
            ClassifierInfo(
                variant=self.variant,
                class_names=self.dataset.classes.names,
                class_ids=self.dataset.classes.ids,
                stages=tuple(zip(stage.names, stage.grids, strict=True)),
                model=recipe["model"],
                recipe=recipe,
                dataset=self.dataset.name,
                training=training,
                versions=library_versions(),
                range=self.dataset.values,
            ),
            folder,
        )

    def read_training(self, folder: Path) -> dict[str, Any]:
        with as_described(folder, CLASSIFIER.name):
            return described_training(read_info(folder).training)

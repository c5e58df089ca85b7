"""Pixel labels from image labels, by progressive patch learning.

The public names are imported on first use, so that `import pplfast` and `pplfast --help` do not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pplfast.version import __version__

if TYPE_CHECKING:
    from pplfast.data.check import check_dataset
    from pplfast.data.classes import ClassList
    from pplfast.data.dataset import DataConfig, Dataset, open_dataset
    from pplfast.deploy.export import Exported, export_model
    from pplfast.errors import UserError
    from pplfast.evaluate import CamScores, Scores, evaluate_cams, evaluate_labels
    from pplfast.evaluate.submission import write_submission
    from pplfast.export.run import export_labels
    from pplfast.jobs.options import JobOptions, Outcome
    from pplfast.labeller import Labeller, image_labels, image_maps, load_labeller
    from pplfast.labels.cam import generate_cams
    from pplfast.labels.camfile import Cam, load_cam
    from pplfast.labels.label import generate_affinity_labels, generate_labels, label_dataset
    from pplfast.labels.segment import segment_images
    from pplfast.labels.walk import walk_cams
    from pplfast.models.backbone import Backbone, BlockSpec, Tail
    from pplfast.models.boundary import BoundaryNet
    from pplfast.models.registry import register_backbone
    from pplfast.models.segmentation import SegmentationNet
    from pplfast.patch.classifier import PatchClassifier
    from pplfast.patch.pooling import register_pooling
    from pplfast.prediction.single import Prediction, predict
    from pplfast.recipe import (
        AffinityConfig,
        AugmentConfig,
        CamConfig,
        LabelConfig,
        ModelConfig,
        OptimConfig,
        Recipe,
        SegmentationConfig,
        StageConfig,
        WalkConfig,
        load_recipe,
        preset_names,
        recipe_from_dict,
        recipe_to_dict,
    )
    from pplfast.report import write_report
    from pplfast.run import RunConfig, run_seeds
    from pplfast.run import run as run_chain
    from pplfast.train import ClassifierInfo, TrainOptions, TrainResult, load_classifier, read_info
    from pplfast.train import train as train_classifier
    from pplfast.train.affinity import load_boundaries, train_boundaries
    from pplfast.train.loss import register_loss
    from pplfast.train.segmentation import load_segmentation, train_segmentation

# name -> (module, its name there). `train` and `run` are packages of this one, hence the longer names.
_PUBLIC = {
    "AffinityConfig": ("pplfast.recipe", "AffinityConfig"),
    "AugmentConfig": ("pplfast.recipe", "AugmentConfig"),
    "Backbone": ("pplfast.models.backbone", "Backbone"),
    "BlockSpec": ("pplfast.models.backbone", "BlockSpec"),
    "BoundaryNet": ("pplfast.models.boundary", "BoundaryNet"),
    "Cam": ("pplfast.labels.camfile", "Cam"),
    "CamConfig": ("pplfast.recipe", "CamConfig"),
    "CamScores": ("pplfast.evaluate", "CamScores"),
    "ClassList": ("pplfast.data.classes", "ClassList"),
    "ClassifierInfo": ("pplfast.train", "ClassifierInfo"),
    "DataConfig": ("pplfast.data.dataset", "DataConfig"),
    "Dataset": ("pplfast.data.dataset", "Dataset"),
    "Exported": ("pplfast.deploy.export", "Exported"),
    "JobOptions": ("pplfast.jobs.options", "JobOptions"),
    "LabelConfig": ("pplfast.recipe", "LabelConfig"),
    "Labeller": ("pplfast.labeller", "Labeller"),
    "ModelConfig": ("pplfast.recipe", "ModelConfig"),
    "OptimConfig": ("pplfast.recipe", "OptimConfig"),
    "Outcome": ("pplfast.jobs.options", "Outcome"),
    "PatchClassifier": ("pplfast.patch.classifier", "PatchClassifier"),
    "Prediction": ("pplfast.prediction.single", "Prediction"),
    "Recipe": ("pplfast.recipe", "Recipe"),
    "RunConfig": ("pplfast.run", "RunConfig"),
    "Scores": ("pplfast.evaluate", "Scores"),
    "SegmentationConfig": ("pplfast.recipe", "SegmentationConfig"),
    "SegmentationNet": ("pplfast.models.segmentation", "SegmentationNet"),
    "StageConfig": ("pplfast.recipe", "StageConfig"),
    "Tail": ("pplfast.models.backbone", "Tail"),
    "TrainOptions": ("pplfast.train", "TrainOptions"),
    "TrainResult": ("pplfast.train", "TrainResult"),
    "UserError": ("pplfast.errors", "UserError"),
    "WalkConfig": ("pplfast.recipe", "WalkConfig"),
    "check_dataset": ("pplfast.data.check", "check_dataset"),
    "evaluate_cams": ("pplfast.evaluate", "evaluate_cams"),
    "evaluate_labels": ("pplfast.evaluate", "evaluate_labels"),
    "export_labels": ("pplfast.export.run", "export_labels"),
    "export_model": ("pplfast.deploy.export", "export_model"),
    "generate_affinity_labels": ("pplfast.labels.label", "generate_affinity_labels"),
    "generate_cams": ("pplfast.labels.cam", "generate_cams"),
    "generate_labels": ("pplfast.labels.label", "generate_labels"),
    "image_labels": ("pplfast.labeller", "image_labels"),
    "image_maps": ("pplfast.labeller", "image_maps"),
    "label_dataset": ("pplfast.labels.label", "label_dataset"),
    "load_boundaries": ("pplfast.train.affinity", "load_boundaries"),
    "load_cam": ("pplfast.labels.camfile", "load_cam"),
    "load_classifier": ("pplfast.train", "load_classifier"),
    "load_labeller": ("pplfast.labeller", "load_labeller"),
    "load_recipe": ("pplfast.recipe", "load_recipe"),
    "load_segmentation": ("pplfast.train.segmentation", "load_segmentation"),
    "open_dataset": ("pplfast.data.dataset", "open_dataset"),
    "predict": ("pplfast.prediction.single", "predict"),
    "preset_names": ("pplfast.recipe", "preset_names"),
    "read_info": ("pplfast.train", "read_info"),
    "recipe_from_dict": ("pplfast.recipe", "recipe_from_dict"),
    "recipe_to_dict": ("pplfast.recipe", "recipe_to_dict"),
    "register_backbone": ("pplfast.models.registry", "register_backbone"),
    "register_loss": ("pplfast.train.loss", "register_loss"),
    "register_pooling": ("pplfast.patch.pooling", "register_pooling"),
    "run_chain": ("pplfast.run", "run"),
    "run_seeds": ("pplfast.run", "run_seeds"),
    "segment_images": ("pplfast.labels.segment", "segment_images"),
    "train_boundaries": ("pplfast.train.affinity", "train_boundaries"),
    "train_classifier": ("pplfast.train", "train"),
    "train_segmentation": ("pplfast.train.segmentation", "train_segmentation"),
    "walk_cams": ("pplfast.labels.walk", "walk_cams"),
    "write_report": ("pplfast.report", "write_report"),
    "write_submission": ("pplfast.evaluate.submission", "write_submission"),
}

__all__ = [
    "AffinityConfig",
    "AugmentConfig",
    "Backbone",
    "BlockSpec",
    "BoundaryNet",
    "Cam",
    "CamConfig",
    "CamScores",
    "ClassList",
    "ClassifierInfo",
    "DataConfig",
    "Dataset",
    "Exported",
    "JobOptions",
    "LabelConfig",
    "Labeller",
    "ModelConfig",
    "OptimConfig",
    "Outcome",
    "PatchClassifier",
    "Prediction",
    "Recipe",
    "RunConfig",
    "Scores",
    "SegmentationConfig",
    "SegmentationNet",
    "StageConfig",
    "Tail",
    "TrainOptions",
    "TrainResult",
    "UserError",
    "WalkConfig",
    "__version__",
    "check_dataset",
    "evaluate_cams",
    "evaluate_labels",
    "export_labels",
    "export_model",
    "generate_affinity_labels",
    "generate_cams",
    "generate_labels",
    "image_labels",
    "image_maps",
    "label_dataset",
    "load_boundaries",
    "load_cam",
    "load_classifier",
    "load_labeller",
    "load_recipe",
    "load_segmentation",
    "open_dataset",
    "predict",
    "preset_names",
    "read_info",
    "recipe_from_dict",
    "recipe_to_dict",
    "register_backbone",
    "register_loss",
    "register_pooling",
    "run_chain",
    "run_seeds",
    "segment_images",
    "train_boundaries",
    "train_classifier",
    "train_segmentation",
    "walk_cams",
    "write_report",
    "write_submission",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pplfast' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})

"""Pixel labels from image labels, by progressive patch learning.

The public names are imported on first use, so that `import pplfast` and `pplfast --help` do not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pplfast.version import __version__

if TYPE_CHECKING:
    from pplfast.data.dataset import DataConfig, Dataset, open_dataset
    from pplfast.errors import UserError
    from pplfast.evaluate import evaluate_cams, evaluate_labels
    from pplfast.labels.cam import generate_cams
    from pplfast.labels.pseudo import generate_labels
    from pplfast.recipe import load_recipe
    from pplfast.report import write_report
    from pplfast.run import RunConfig
    from pplfast.run import run as run_chain
    from pplfast.train import load_classifier
    from pplfast.train import train as train_classifier

# name -> (module, its name there). `train` and `run` are packages of this one, hence the longer names.
_PUBLIC = {
    "DataConfig": ("pplfast.data.dataset", "DataConfig"),
    "Dataset": ("pplfast.data.dataset", "Dataset"),
    "RunConfig": ("pplfast.run", "RunConfig"),
    "UserError": ("pplfast.errors", "UserError"),
    "evaluate_cams": ("pplfast.evaluate", "evaluate_cams"),
    "evaluate_labels": ("pplfast.evaluate", "evaluate_labels"),
    "generate_cams": ("pplfast.labels.cam", "generate_cams"),
    "generate_labels": ("pplfast.labels.pseudo", "generate_labels"),
    "load_classifier": ("pplfast.train", "load_classifier"),
    "load_recipe": ("pplfast.recipe", "load_recipe"),
    "open_dataset": ("pplfast.data.dataset", "open_dataset"),
    "run_chain": ("pplfast.run", "run"),
    "train_classifier": ("pplfast.train", "train"),
    "write_report": ("pplfast.report", "write_report"),
}

__all__ = [
    "DataConfig",
    "Dataset",
    "RunConfig",
    "UserError",
    "__version__",
    "evaluate_cams",
    "evaluate_labels",
    "generate_cams",
    "generate_labels",
    "load_classifier",
    "load_recipe",
    "open_dataset",
    "run_chain",
    "train_classifier",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pplfast' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})

"""Training stage by stage through the DeepSpeed engine; the classifier file that comes out of it.

DeepSpeed itself is imported only when a run starts, so that loading a classifier does not wait for it.
"""

from pplfast.train.classifier import train
from pplfast.train.model_file import ClassifierInfo, load_classifier, read_info, save_classifier
from pplfast.train.trainer import TrainOptions, TrainResult

__all__ = ["ClassifierInfo", "TrainOptions", "TrainResult", "load_classifier", "read_info", "save_classifier", "train"]

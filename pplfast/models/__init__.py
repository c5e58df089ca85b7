"""Backbones as block lists under their published parameter names, and the weight files for them."""

from pplfast.models.backbone import Backbone, BlockSpec, Tail
from pplfast.models.registry import NAMES, create
from pplfast.models.weights import LoadReport, load_weights

__all__ = ["NAMES", "Backbone", "BlockSpec", "LoadReport", "Tail", "create", "load_weights"]

"""Every setting of a run as dataclasses: read from TOML, changed by key, validated once, saved with the run.

A recipe names what it reproduces. Unknown keys and values out of range are errors that name the file and the key.
"""

from pplfast.recipe.ranges import PRECISIONS
from pplfast.recipe.reading import Part, load_recipe, part_from_dict, preset_names, recipe_from_dict, recipe_to_dict
from pplfast.recipe.settings import (
    AffinityConfig,
    AugmentConfig,
    CamConfig,
    LabelConfig,
    Length,
    ModelConfig,
    OptimConfig,
    Recipe,
    SegmentationConfig,
    StageConfig,
    WalkConfig,
)

__all__ = [
    "PRECISIONS",
    "AffinityConfig",
    "AugmentConfig",
    "CamConfig",
    "LabelConfig",
    "Length",
    "ModelConfig",
    "OptimConfig",
    "Part",
    "Recipe",
    "SegmentationConfig",
    "StageConfig",
    "WalkConfig",
    "load_recipe",
    "part_from_dict",
    "preset_names",
    "recipe_from_dict",
    "recipe_to_dict",
]

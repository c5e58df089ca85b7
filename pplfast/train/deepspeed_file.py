"""A DeepSpeed configuration file on top of a recipe: the parts of it that a run may decide for itself."""

from typing import Any

from pplfast.errors import UserError
from pplfast.files import read_json
from pplfast.recipe import Recipe, recipe_from_dict, recipe_to_dict
from pplfast.recipe.ranges import short

# Keys that would say again, or against it, what the recipe says.
OF_RECIPE = {
    "train_batch_size": "optim.batch",
    "train_micro_batch_size_per_gpu": "optim.batch",
    "gradient_accumulation_steps": "optim.accumulation",
    "gradient_clipping": "optim.clip",
    "optimizer": "[optim]",
    "scheduler": "[optim]",
    "bf16": "optim.precision",
    "fp16": "optim.precision",
}
PRECISIONS = {"bfloat16": "bf16", "float16": "fp16"}


def apply_deepspeed_file(recipe: Recipe, path: str, part: str = "") -> tuple[Recipe, dict[str, Any]]:
    """The recipe with the file's ZeRO stage, precision and reduction, and the file's other keys for the engine.

    part: "affinity" or "segmentation" where one of those networks is to be trained; "" for the classifier.
    Raises UserError for a file that is none, or that has keys of the recipe.
    """
    table = read_json(path, "give a DeepSpeed configuration, a JSON object like launch/zero1_bf16.json")
    for key, place in OF_RECIPE.items():
        if key in table:
            raise UserError(
                f"{path}: '{key}' is the recipe's to say; leave it out and set "
                f"{place.replace('optim', f'{part}.optim') if part else place}"
            )
    owner = getattr(recipe, part) if part else recipe
    zero, autocast = dict(_table(table, "zero_optimization", path)), _table(table, "torch_autocast", path)
    changes = {
        "zero": zero.pop("stage", owner.optim.zero),
        "reduction": table.get("communication_data_type", owner.optim.reduction),
    }
    enabled, dtype = autocast.get("enabled", False), autocast.get("dtype", "bfloat16")
    if not isinstance(enabled, bool):
        raise UserError(f"{path}: torch_autocast.enabled = {short(enabled)}: must be true or false")
    if enabled:
        if not isinstance(dtype, str) or dtype not in PRECISIONS:
            raise UserError(f"{path}: torch_autocast.dtype = {short(dtype)}: must be one of {', '.join(PRECISIONS)}")
        changes["precision"] = PRECISIONS[dtype]
    rest = {
        key: value
        for key, value in table.items()
        if key not in ("zero_optimization", "torch_autocast", "communication_data_type")
    }
    if zero:
        rest["zero_optimization"] = zero
    changed = recipe_to_dict(recipe)
    (changed[part] if part else changed)["optim"] |= changes
    return recipe_from_dict(changed, path), rest  # checked again: the values come from the file


def _table(table: dict[str, Any], key: str, path: str) -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise UserError(f"{path}: '{key}' = {short(value)}: must be a JSON object, as in launch/zero1_bf16.json")
    return value

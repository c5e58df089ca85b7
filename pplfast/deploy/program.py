"""The exported network as a torch.export program, for images of all sizes."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from pplfast.deploy.network import ExportedNetwork
from pplfast.errors import UserError, out_of_memory
from pplfast.models.registry import NAMES

IMAGES = 2  # of the example: torch.export takes a size of 1 for one that never changes
LEAST_SIDE = 2  # tracing's memory grows with the example, its result does not: strides of each side


def make_program(network: ExportedNetwork) -> ExportedProgram:
    """Its input "image" and its two outputs are those of `ExportedNetwork.forward`: any N, H and W from
    `smallest_side` up. Raises UserError for a backbone of somebody's own that torch.export cannot follow."""
    stride = network.model.backbone.stride
    example = torch.zeros(IMAGES, LEAST_SIDE * stride + 1, (LEAST_SIDE + 1) * stride + 1, 3, dtype=torch.uint8)
    least = smallest_side(network)
    sizes = {0: Dim("N", min=1), 1: Dim("H", min=least), 2: Dim("W", min=least)}
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(network, (example,), dynamic_shapes={"image": sizes})
    except Exception as error:
        if network.model.backbone.name in NAMES or out_of_memory(error):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"backbone '{network.model.backbone.name}': torch.export cannot follow it ({reason}); let nothing in its "
            "forward depend on values or sizes but through torch's operations"
        ) from error


def smallest_side(network: ExportedNetwork) -> int:
    """Pixels: torch.export excludes maps of a single row or column, which are a case of their own to it."""
    return network.model.backbone.stride + 1


def write_program(program: ExportedProgram, properties: dict[str, str], path: Path) -> None:
    """`torch.export.load(path)` reads it without pplfast; its `extra_files` hands out each of the properties by its
    name."""
    with quiet():
        torch.export.save(program, path, extra_files=properties)


@contextmanager
def quiet() -> Iterator[None]:
    """Neither deprecations within torch nor what its exporters log, which no user can mend, reach the terminal."""
    log = logging.getLogger("torch")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)

"""How often Triton would compile each kernel for images of many sizes, by its own rule, without a GPU.

Prints JSON: kernel -> compilations. Must run without TRITON_INTERPRET.
"""

import importlib
import json
from itertools import product

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from pplfast import kernels

MODULES = (
    "scale_act",
    "patch_split",
    "patch_merge",
    "patch_pool",
    "cam_head",
    "cam_fuse",
    "random_walk",
    "dense_crf",
    "permutohedral",
)
STRIDE, CHANNELS = 8, 512
CELLS = (15, 16, 17, 32, 47, 48)  # of a map's side: what 16 divides, and what it does not
backend = make_backend(GPUTarget("cuda", 90, 32))
compilations: dict[str, set[str]] = {}


def record(kernel, launch, x, *arguments, **options):
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    _, specialization, rest = bind(*arguments, **options)
    compilations.setdefault(kernel.fn.__name__, set()).add(f"{specialization} {rest}")


def image(height: int, width: int, h: int, w: int) -> None:
    """All that an image of height x width pixels and its map of h x w cells go through."""
    x = torch.zeros(1, CHANNELS, h, w, requires_grad=True)
    scale, weight = torch.zeros(CHANNELS), torch.zeros(20, 2 * CHANNELS)
    z, y = kernels.add_scale_act(x, x.detach(), scale, scale, "relu")
    patches, activated = kernels.patch_split_act(y, 2, 1, scale, scale, "relu")
    pooled = kernels.patch_pool(patches + activated, 2, h, w, scale, scale, "relu")[1]
    (pooled.sum() + z.sum() + kernels.patch_split(y, 2, 1).sum()).backward()
    with torch.no_grad():
        maps = kernels.cam_head([(patches, 2)], y, weight, h, w)[:, :3]
        kernels.cam_fuse([torch.cat([maps, maps])], height, width, True)
        kernels.random_walk(maps, torch.zeros(1, h, w), 1)


def main() -> None:
    for name in MODULES:
        module = importlib.import_module(f"pplfast.kernels.{name}")
        module.run, module.use_triton = record, lambda x: True
    for h, w in product(CELLS, repeat=2):
        image(STRIDE * h, STRIDE * w, h, w)
        terms = kernels.CrfTerms(3, 3, 50, 5, 10, 1)
        kernels.mean_field(torch.zeros(1, h, w, 3, dtype=torch.uint8), torch.zeros(1, 2, h, w), terms)
    print(json.dumps({name: len(found) for name, found in compilations.items()}))


if __name__ == "__main__":
    main()

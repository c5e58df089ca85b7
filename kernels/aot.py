"""Compile every Triton kernel for a list of GPUs, with none present: `python -m pplfast.kernels.aot`.

Prints registers, spills and shared memory of each, from the compiled machine code, and exits with 1 where a kernel
spills or passes its register budget. Must run without TRITON_INTERPRET.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from .backend import INTERPRETED, triton
from .cam_fuse import BLOCK, EPSILON, WARPS, cam_fuse_kernel, normalise_kernel, widen_kernel
from .cam_head import cam_head_kernel, head_blocks
from .dense_crf import WARPS as CRF_WARPS
from .dense_crf import update_kernel, update_pixels
from .depthwise import OPTIONS as DEPTHWISE_OPTIONS
from .depthwise import depthwise_kernel, depthwise_launch
from .layout import ROW_OPTIONS, tile_sizes
from .patch_merge import _merge_kernel
from .patch_pool import MODES, pool_options, pool_tile
from .patch_split import _split_act_backward_kernel, _split_kernel
from .permutohedral import SPLAT_ENTRIES, blur_kernel, blur_vertices, splat_kernel
from .permutohedral import WARPS as LATTICE_WARPS
from .pool_triton import pool_backward_kernel, pool_kernel
from .random_walk import BLOCK as WALK_BLOCK
from .random_walk import MAPS_PER_PROGRAM, walk_step_kernel, walk_weights_kernel
from .random_walk import WARPS as WALK_WARPS
from .scale_act import flat_launch, scale_act_backward_kernel, scale_act_kernel

ARCHITECTURES = (80, 90, 100)  # A100; H100 and H200; B200
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Registers a thread, of 65,536: 128 leave 16 warps on a multiprocessor, enough loads in flight to fill the memory bus;
# the head, with its accumulator and operands in registers, has twice the bytes in flight and needs 8 warps.
POINTWISE_BUDGET, HEAD_BUDGET = 128, 192

FLOAT32 = ("scale", "shift", "per_patch", "pooled", "grad_patch", "grad_pooled", "peaks", "weight")
TYPES = {"arg": "*i32", "classes": "*i64", "sharpness": "fp32", **dict.fromkeys(FLOAT32, "*fp32")}
MAPS = (
    "x",
    "y",
    "z",
    "residual",
    "raw",
    "activated",
    "patches",
    "out",
    "grad",
    "grad_y",
    "grad_z",
    "grad_raw",
    "grad_activated",
    "grad_x",
    "grad_patches",
)
DIVISIBLE = ("C",)  # by 16 in every real network: allows 16-byte accesses


@dataclass(frozen=True)
class Case:
    """One compilation of a kernel, as a launch on a real network's sizes would specialise it."""

    name: str
    kernel: Any
    constants: dict[str, Any]
    options: Mapping[str, Any]
    budget: int = POINTWISE_BUDGET
    types: dict[str, Any] = field(default_factory=dict)  # other than by name; a tuple for an argument that is one


def cases(dtype: str) -> list[Case]:
    rows = dict(zip(("BP", "BC"), tile_sizes(28, 512, DTYPES[dtype]), strict=True))
    plain = {"activated": None, "scale": None, "shift": None, "ACT": "none"}
    tail = {"ACT": "relu6"}
    return [
        Case("patch_split", _split_kernel, {**plain, **rows}, ROW_OPTIONS),
        Case("patch_split_act", _split_kernel, {**tail, **rows}, ROW_OPTIONS),
        Case("patch_split_act backward", _split_act_backward_kernel, {**tail, **rows}, ROW_OPTIONS),
        Case("patch_split backward", _merge_kernel, rows, ROW_OPTIONS),
        *_scale_act_cases(dtype),
        *_depthwise_cases(dtype),
        *(case for mode in MODES for case in _pool_cases(mode, dtype, rows)),
        *(_head_case(f"cam_head {sources}", dtype, tiles=512, sources=sources) for sources in (1, 2, 3, 4)),
        _head_case("cam_head few pixels", dtype, tiles=1, sources=2),
        *(_crf_cases(4) + _crf_cases(32) if dtype == "fp32" else ()),  # 2 or 3 classes and all of VOC's, in float32
        *(_fuse_cases() if dtype == "fp32" else ()),  # the head's maps are float32 whatever it reads
        *(_walk_cases() if dtype == "fp32" else ()),
    ]


def _scale_act_cases(dtype: str) -> list[Case]:
    """With everything (a residual sum and the next block's BN), and as networks use it most (bias + activation)."""
    blocks = flat_launch(2**20, 512, DTYPES[dtype])[2]
    sizes = {name: blocks[name] for name in ("BR", "V")}
    most, bias = {"ACT": "relu6", **sizes}, {"ACT": "relu", **sizes, "residual": None, "scale": None, "z": None}
    odd = {**most, **{name: flat_launch(2**20, 37, DTYPES[dtype])[2][name] for name in ("BR", "V")}}
    return [
        Case("scale_act", scale_act_kernel, most, ROW_OPTIONS),
        Case("scale_act bias", scale_act_kernel, bias, ROW_OPTIONS),
        Case("scale_act odd", scale_act_kernel, odd, ROW_OPTIONS),
        Case("scale_act backward", scale_act_backward_kernel, most, ROW_OPTIONS),
        Case("scale_act bias backward", scale_act_backward_kernel, {**bias, "grad_z": None}, ROW_OPTIONS),
    ]


def _depthwise_cases(dtype: str) -> list[Case]:
    """EfficientNet's filters."""
    types = {"weight": f"*{dtype}"}
    return [
        Case(
            f"depthwise {kernel}x{kernel}/{stride}",
            depthwise_kernel,
            {"K": kernel, "S": stride, "ACT": "relu6", **depthwise_launch(56, 56, 240)[1]},
            DEPTHWISE_OPTIONS,
            types=types,
        )
        for kernel, stride in ((3, 1), (3, 2), (5, 1), (5, 2))
    ]


def _pool_cases(mode: str, dtype: str, rows: dict[str, int]) -> list[Case]:
    step = dict(zip(("BP", "BC"), pool_tile(16, 4096, DTYPES[dtype]), strict=True))
    constants, whole = {"ACT": "relu6", "MODE": mode}, {"K": 1}  # without patches, a launch turns K into a constant
    return [
        Case(f"patch_pool {mode}", pool_kernel, {**constants, **step}, pool_options(mode)),
        Case(f"patch_pool {mode} backward", pool_backward_kernel, {**constants, **rows}, ROW_OPTIONS),
        *(
            (
                Case("patch_pool K=1", pool_kernel, {**constants, **step}, pool_options(mode), types=whole),
                Case("patch_pool K=1 backward", pool_backward_kernel, {**constants, **rows}, ROW_OPTIONS, types=whole),
            )
            if mode == "mean"
            else ()
        ),
    ]


def _head_case(name: str, dtype: str, tiles: int, sources: int) -> Case:
    """Patch branches and the global map, whose grid of 1 a launch turns into a constant."""
    blocks = head_blocks(DTYPES[dtype], 20, tiles, sources)
    options = {key: blocks.pop(key) for key in ("num_warps", "num_stages", "maxnreg")}
    types = {
        "out": "*fp32",
        "sources": (f"*{dtype}",) * sources,
        "grids": (*("i32",) * (sources - 1), 1),
        "hs": ("fp32",) * sources,
        "ws": ("fp32",) * sources,
    }
    return Case(name, cam_head_kernel, {"SOURCES": sources, "ACT": "relu6", **blocks}, options, HEAD_BUDGET, types)


def _fuse_cases() -> list[Case]:
    floats = ("fp32",) * 4
    widen = {"maps": "*fp32", "wide": "*fp32", "FIRST": "fp32", "STEP": "fp32"}
    types = {"wides": ("*fp32",) * 4, "hs": floats, "firsts": floats, "steps": floats}
    options = {"num_warps": WARPS}
    fuse = {"SCALES": 4, "NORMALISE": True, "BLOCK": BLOCK}
    return [
        *(
            Case(f"cam_fuse widen{name}", widen_kernel, {"FLIP": flip, "BLOCK": BLOCK}, options, types=widen)
            for name, flip in (("", True), (" no flip", False))
        ),
        Case("cam_fuse", cam_fuse_kernel, fuse, options, types=types),
        Case("cam_fuse normalise", normalise_kernel, {"EPS": EPSILON, "BLOCK": BLOCK}, options),
    ]


def _walk_cases() -> list[Case]:
    types = {
        "edge": "*fp32",
        "weights": "*fp32",
        "offsets": "*i32",
        "starts": "*i32",
        "cells": "*i32",
        **dict.fromkeys(("last", "before", "sums"), "*fp32"),
        **dict.fromkeys(("beta", "factor", "coefficient"), "fp32"),
    }
    constants, options = {"BLOCK": WALK_BLOCK}, {"num_warps": WALK_WARPS}
    step = {**constants, "BC": MAPS_PER_PROGRAM}
    return [
        Case("random_walk weights", walk_weights_kernel, constants, options, types=types),
        Case("random_walk step", walk_step_kernel, step, options, types=types),
    ]


def _crf_cases(channels: int) -> list[Case]:
    lattice, pixels = {"num_warps": LATTICE_WARPS}, {"num_warps": CRF_WARPS}
    values = dict.fromkeys(
        (
            "values",
            "cells",
            "norm",
            "entry_weights",
            "energy",
            "out",
            "cells_g",
            "cells_b",
            "norm_g",
            "norm_b",
            "weights_g",
            "weights_b",
        ),
        "*fp32",
    )
    indices = dict.fromkeys(("starts", "entries", "neighbours", "offsets_g", "offsets_b"), "*i32")
    types = {**values, **indices, "factor_g": "fp32", "factor_b": "fp32"}
    blur = {"BV": blur_vertices(channels), "BC": channels}
    update = {"VG": 3, "VB": 6, "BP": update_pixels(channels), "BC": channels}
    return [
        Case(f"crf_splat {channels}", splat_kernel, {"BE": SPLAT_ENTRIES, "BC": channels}, lattice, types=types),
        Case(f"crf_blur {channels}", blur_kernel, blur, lattice, types=types),
        Case(f"crf_update {channels}", update_kernel, update, pixels, types=types),
    ]


def compile_case(case: Case, architecture: int, dtype: str) -> tuple[int, int, int]:
    """(registers, bytes spilled per thread, bytes of shared memory per block)."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature: dict[str, str | tuple[str, ...]] = {}
    constants: dict[tuple[int, ...], int | str] = {}
    attributes: dict[tuple[int, ...], list[list[str | int]]] = {}

    def declare(path: tuple[int, ...], name: str, kind: str | int) -> str:
        if isinstance(kind, int):
            constants[path] = kind
            return "constexpr"
        if kind.startswith("*") or name in DIVISIBLE:
            attributes[path] = [["tt.divisibility", 16]]
        return kind

    for index, name in enumerate(case.kernel.arg_names):
        kind = case.types.get(name) or TYPES.get(name) or (f"*{dtype}" if name in MAPS else "i32")
        if name in case.constants:
            signature[name], constants[(index,)] = "constexpr", case.constants[name]
        elif isinstance(kind, tuple):
            signature[name] = tuple(declare((index, i), name, item) for i, item in enumerate(kind))
        else:
            signature[name] = declare((index,), name, kind)
    source = ASTSource(fn=case.kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=case.options)
    registers, stack, local = _resources(compiled.asm["cubin"])
    return registers, stack + local, compiled.metadata.shared


def _resources(cubin: bytes) -> tuple[int, int, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", text.stdout)
    if found is None:
        raise RuntimeError(f"{tool} says nothing of registers: {text.stdout[-500:]!r}")
    registers, stack, local = map(int, found.groups())
    return registers, stack, local


def _work(item: tuple[str, int, str]) -> tuple[str, int, str, int, int, int, int]:
    name, architecture, dtype = item
    case = next(case for case in cases(dtype) if case.name == name)
    return name, architecture, dtype, case.budget, *compile_case(case, architecture, dtype)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pplfast.kernels.aot", description=__doc__.split("\n")[0])
    parser.add_argument("--arch", type=int, nargs="+", default=list(ARCHITECTURES), help="compute capabilities x 10")
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    if INTERPRETED:
        print("unset TRITON_INTERPRET: interpreted kernels cannot be compiled", file=sys.stderr)
        return 2
    items = [(case.name, arch, dtype) for dtype in args.dtype for case in cases(dtype) for arch in args.arch]
    print(f"{'kernel':<28} {'arch':<7} {'dtype':<5} {'registers':>9} {'spills':>7} {'shared':>7}")
    failed = 0
    with ProcessPoolExecutor(args.jobs) as pool:
        for name, arch, dtype, budget, registers, spills, shared in pool.map(_work, items):
            bad = spills > 0 or registers > budget
            failed += bad
            verdict = f"  over budget: {budget} registers, no spills" if bad else ""
            print(f"{name:<28} sm_{arch:<4} {dtype:<5} {registers:>9} {spills:>7} {shared:>7}{verdict}", flush=True)
    print(f"{len(items)} compiled with Triton {triton.__version__}, {failed} over budget")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

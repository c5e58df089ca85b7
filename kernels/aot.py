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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from .backend import INTERPRETED, triton
from .cam_fuse import BLOCK, EPSILON, WARPS, cam_fuse_kernel, normalise_kernel
from .cam_head import cam_head_kernel, head_blocks
from .layout import WARPS as ROW_WARPS
from .layout import tile_sizes
from .patch_merge import _merge_backward_kernel, _merge_kernel
from .patch_pool import MODES, POOL_WARPS, pool_tile
from .patch_split import _split_act_backward_kernel, _split_kernel
from .pool_triton import pool_backward_kernel, pool_kernel

ARCHITECTURES = (80, 90, 100)  # A100; H100 and H200; B200
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Registers a thread. 65,536 of them: 64 leave 8 blocks of 4 warps on a multiprocessor, enough loads in flight to
# fill the memory bus; the head needs its accumulator and staged tiles and is served by 2.
POINTWISE_BUDGET, HEAD_BUDGET = 128, 255

FLOAT32 = {"scale", "shift", "per_patch", "pooled", "grad_patch", "grad_pooled", "peaks", "weight"}
TYPES = {"arg": "*i32", "classes": "*i64", "sharpness": "fp32"}


@dataclass(frozen=True)
class Case:
    """One compilation: the kernel as a launch would specialise it for 16-divisible channel counts."""

    name: str
    kernel: Any
    constants: dict[str, Any]
    warps: int
    budget: int = POINTWISE_BUDGET
    stages: int = 3
    tuples: dict[str, int] = field(default_factory=dict)  # argument -> length, for those that are tuples
    fixed_types: dict[str, str] = field(default_factory=dict)


def cases(dtype: str) -> list[Case]:
    rows = dict(zip(("BP", "BC"), tile_sizes(28, 512, DTYPES[dtype]), strict=True))
    found = [
        Case("patch_split", _split_kernel, {"activated": None, "scale": None, "shift": None, "ACT": "none", **rows},
             ROW_WARPS),
        Case("patch_split_act", _split_kernel, {"ACT": "relu6", **rows}, ROW_WARPS),
        Case("patch_split_act backward", _split_act_backward_kernel, {"ACT": "relu6", **rows}, ROW_WARPS),
        Case("patch_merge", _merge_kernel, {"ACT": "relu6", **rows}, ROW_WARPS),
        Case("patch_merge backward", _merge_backward_kernel, {"ACT": "relu6", **rows}, ROW_WARPS),
    ]  # fmt: skip
    cells, channels = pool_tile(16, 4096, DTYPES[dtype])
    for mode in MODES:
        constants = {"ACT": "relu6", "MODE": mode, "FROM_MAP": False}
        found += [
            Case(f"patch_pool {mode}", pool_kernel, {**constants, "BP": cells, "BC": channels}, POOL_WARPS),
            Case(f"patch_pool {mode} backward", pool_backward_kernel, {**constants, **rows}, ROW_WARPS),
        ]
    blocks = head_blocks(DTYPES[dtype], 20, 512)
    warps, stages = blocks.pop("num_warps"), blocks.pop("num_stages")
    found.append(Case("cam_head", cam_head_kernel, {"SOURCES": 2, "ACT": "relu6", **blocks}, warps, HEAD_BUDGET, stages,
                      {"sources": 2, "grids": 2, "hs": 2, "ws": 2}))  # fmt: skip
    if dtype == "fp32":
        constants = {"SCALES": 4, "FLIP": True, "NORMALISE": True, "BLOCK": BLOCK}
        found += [
            Case("cam_fuse", cam_fuse_kernel, constants, WARPS, tuples={"maps": 4, "hs": 4, "ws": 4}),
            Case("cam_fuse normalise", normalise_kernel, {"EPS": EPSILON, "BLOCK": BLOCK}, WARPS),
        ]
        found = [
            Case(**{**vars(case), "fixed_types": {"out": "*fp32"}}) if "cam" in case.name else case for case in found
        ]
    else:
        found[-1] = Case(**{**vars(found[-1]), "fixed_types": {"out": "*fp32"}})
    return found


def compile_case(case: Case, architecture: int, dtype: str) -> tuple[int, int, int]:
    """(registers, bytes spilled per thread, bytes of shared memory per block)."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants, attributes = {}, {}, {}
    for index, name in enumerate(case.kernel.arg_names):
        if name in case.constants:
            signature[name], constants[(index,)] = "constexpr", case.constants[name]
            continue
        kind = case.fixed_types.get(name) or _type(name, dtype)
        paths = [(index,)]
        if name in case.tuples:
            paths = [(index, i) for i in range(case.tuples[name])]
            signature[name] = (kind,) * case.tuples[name]
        else:
            signature[name] = kind
        if kind.startswith("*") or name in ("C", "out_channels", "offset"):
            attributes.update({path: [["tt.divisibility", 16]] for path in paths})
    source = ASTSource(fn=case.kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": case.warps, "num_stages": case.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    registers, stack, local = _resources(compiled.asm["cubin"])
    return registers, stack + local, compiled.metadata.shared


def _type(name: str, dtype: str) -> str:
    if name in TYPES:
        return TYPES[name]
    if name in FLOAT32:
        return "*fp32"
    pointers = ("x", "raw", "activated", "patches", "out", "grad", "grad_raw", "grad_activated", "grad_x",
                "grad_patches", "sources", "maps")  # fmt: skip
    return f"*{dtype}" if name in pointers else "i32"


def _resources(cubin: bytes) -> tuple[int, int, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    registers, stack, local = re.search(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", text.stdout).groups()
    return int(registers), int(stack), int(local)


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
    print(f"{'kernel':<26} {'arch':<7} {'dtype':<5} {'registers':>9} {'spills':>7} {'shared':>7}")
    failed = 0
    with ProcessPoolExecutor(args.jobs) as pool:
        for name, arch, dtype, budget, registers, spills, shared in pool.map(_work, items):
            bad = spills > 0 or registers > budget
            failed += bad
            verdict = f"  over budget: {budget} registers, no spills" if bad else ""
            print(f"{name:<26} sm_{arch:<4} {dtype:<5} {registers:>9} {spills:>7} {shared:>7}{verdict}", flush=True)
    print(f"{len(items)} compiled with Triton {triton.__version__}, {failed} over budget")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Launches for images of every size: what CUDA allows, and how often Triton compiles."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pplfast.kernels import PatchGrid, backend
from pplfast.kernels.cam_fuse import fuse_launch
from pplfast.kernels.cam_head import head_launch
from pplfast.kernels.depthwise import depthwise_launch
from pplfast.kernels.layout import row_launch
from pplfast.kernels.random_walk import MAPS_PER_PROGRAM, walk_launch
from pplfast.kernels.scale_act import flat_launch

needs_triton = pytest.mark.skipif(not backend.available(), reason="Triton is not installed")


@needs_triton
@pytest.mark.parametrize("images, classes, height, width", [
    (8, 21, 30_000, 30_000), (8, 21, 10_000, 10_000), (8, 21, 100, 1_000_000), (8, 21, 1_000_000, 100),
    (1, 10_000, 10_000, 10_000), (10_000, 1, 1_000, 1_000),
])  # fmt: skip
def test_grids_fit_any_image(images, classes, height, width):
    """CUDA takes 2^31 - 1 programs on axis 0, and 65,535 on the others. Maps of stride 4."""
    channels, dtype = 256, torch.bfloat16
    h, w = math.ceil(height / 4), math.ceil(width / 4)
    cut = PatchGrid(h, w, 2, 8)
    launches = {
        "row": row_launch(images * 4 * cut.patch_height, cut.patch_width, channels, dtype)[0],
        "row of one patch": row_launch(images * h, w, 4096, torch.float32)[0],
        "depthwise": depthwise_launch(images * height // 2, width // 2, channels)[0],
        "scale_act": flat_launch(images * channels * h * w, channels, dtype)[0],
        "head": head_launch(images, classes, h, w, dtype, 2)[0],
        "fuse": fuse_launch(images * classes, height * width),
        "widen": fuse_launch(images * classes * h * 2, width),  # of scale 2
        "walk": walk_launch(images, classes, h, w, MAPS_PER_PROGRAM),
    }
    for name, launch in launches.items():
        assert launch[0] < 2**31 and max(launch[1:], default=1) <= 65_535, (name, launch)


def test_no_other_kernel_has_a_second_axis():
    """Those whose launches are computed above, and pool_triton, whose second axis is the channels'."""
    sources = Path(backend.__file__).parent.glob("*.py")
    found = {path.stem for path in sources if re.search(r"program_id\((?!0\))", path.read_text())}
    assert found == {"layout", "depthwise", "cam_head", "random_walk", "pool_triton"}


@pytest.mark.slow
@needs_triton
def test_new_sizes_compile_nothing_new():
    """Every image of a list has its own height and width: specialised on them, VOC's 178 sizes took 60 compilations."""
    script = Path(__file__).parent / "recorded_launches.py"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    compilations = json.loads(run.stdout)
    # With and without the activated patches; the lattice's own norm, of one channel, and the labels'.
    twice = {"_split_kernel", "splat_kernel", "blur_kernel"}
    assert len(compilations) == 16
    assert compilations == {name: 2 if name in twice else 1 for name in compilations}

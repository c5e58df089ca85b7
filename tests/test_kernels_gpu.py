"""On a CUDA device: accuracy against plain PyTorch in the same dtype, outputs written whole, no races."""

import pytest
import torch
from kernel_helpers import Problem, gradient

from pplfast.kernels import (
    Cells,
    CrfTerms,
    add_scale_act,
    backend,
    cam_fuse,
    cam_head,
    mean_field,
    patch_pool,
    patch_split,
    patch_split_act,
    scale_act,
)
from pplfast.kernels.cam_fuse import cam_fuse_plain
from pplfast.kernels.cam_head import cam_head_plain
from pplfast.kernels.patch_pool import MODES, patch_pool_plain
from pplfast.kernels.patch_split import patch_split_act_plain, patch_split_plain
from pplfast.kernels.random_walk import random_walk, random_walk_plain
from pplfast.kernels.tail import affine_act

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
PROBLEMS = [
    Problem(2, 37, 13, 11, 3, 2, "relu6", True, True, 1),  # nothing divides anything
    Problem(3, 512, 28, 30, 2, 4, "relu", True, True, 2),
    Problem(1, 4096, 7, 9, 1, 1, "relu", True, True, 3),
    Problem(2, 64, 33, 1, 4, 1, "none", False, False, 4),
    Problem(5, 1, 1, 1, 1, 1, "relu6", True, False, 5),
]


@pytest.fixture(autouse=True)
def poisoned():
    """Fresh memory is NaN, so that what a kernel leaves unwritten shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def eager_tail(x, scale, shift, act):
    """The tail as eager code computes it: every step rounded to the dtype of x."""
    y = x if scale is None else x * scale.to(x.dtype).view(1, -1, 1, 1)
    y = y if shift is None else y + shift.to(x.dtype).view(1, -1, 1, 1)
    return affine_act(y, None, None, act).to(x.dtype)


def stored_tail(z, scale, shift, act, dtype):
    """The tail with its result rounded to `dtype`: what scale_act keeps, and takes the slope of relu6 from."""
    y = affine_act(z, scale, shift, "none")
    return affine_act(y + (y.to(dtype).double() - y).detach(), None, None, act)


def stored_sum(x, dtype):
    z = x + x.detach().flip(0)
    return z + (z.to(dtype).double() - z).detach()


def functions(problem, scale, shift, dtype):
    """name -> (kernel, definition, eager code in the dtype of the input, whether the input is patches)."""
    grid, stride, act = problem.grid, problem.stride, problem.act
    size, tail = (problem.height, problem.width), (scale, shift, act)
    table = {
        "split_act": (lambda x: patch_split_act(x, grid, stride, *tail),
                      lambda x: patch_split_act_plain(x, grid, stride, *tail),
                      lambda x: ((p := patch_split_plain(x, grid, stride)), eager_tail(p, *tail)), False),
        "split": (lambda x: patch_split(x, grid, stride), lambda x: patch_split_plain(x, grid, stride),
                  lambda x: patch_split_plain(x, grid, stride), False),
        "scale_act": (lambda x: scale_act(x, *tail), lambda x: stored_tail(x, *tail, dtype),
                      lambda x: eager_tail(x, *tail), False),
        "add_scale_act": (lambda x: add_scale_act(x, x.detach().flip(0), *tail),
                          lambda x: ((z := stored_sum(x, dtype)), stored_tail(z, *tail, dtype)),
                          lambda x: ((z := x + x.detach().flip(0)), eager_tail(z, *tail)), False),
    }  # fmt: skip
    for mode in MODES:
        table[f"pool {mode}"] = (
            lambda p, m=mode: patch_pool(p, grid, *size, *tail, m),
            lambda p, m=mode: patch_pool_plain(p, grid, *size, *tail, m),
            lambda p, m=mode: patch_pool_plain(eager_tail(p, *tail), grid, *size, None, None, "none", m),
            True)  # fmt: skip
    return table


def assert_three_way(found, exact, eager, dtype, roundings=1):
    """The error against float64 is at most twice that of plain PyTorch in the same dtype, plus some roundings."""
    assert torch.isfinite(found).all()
    rounding = roundings * torch.finfo(dtype).eps * exact.abs().max()
    own, others = ((y.double() - exact).abs().max() for y in (found, eager))
    assert own <= 2 * others + rounding, (own.item(), others.item(), rounding.item())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_values_and_gradients(problem, dtype):
    x, scale, shift = problem.tensors(dtype, "cuda")
    for name, (kernel, definition, eager, of_patches) in functions(problem, scale, shift, dtype).items():
        source = patch_split_plain(x, problem.grid, problem.stride) if of_patches else x
        found, exact, plain = gradient(kernel, source), gradient(definition, source.double()), gradient(eager, source)
        for triple in zip([*found[0], found[1]], [*exact[0], exact[1]], [*plain[0], plain[1]], strict=True):
            if "max" in name and triple[0] is found[1] and dtype != torch.float32:
                continue  # equal maxima after rounding: which one gets the gradient is not defined
            # exp(5 z), z up to about 20: one rounding of z is 100 of the result
            assert_three_way(*triple, dtype, roundings=100 if "lse" in name and dtype == torch.float32 else 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_cam_head(problem, dtype):
    """With 37 channels the kernel may spill some bytes: no network has such a number, so that is not forbidden."""
    x, scale, shift = problem.tensors(dtype, "cuda")
    size, tail = (problem.height, problem.width), (scale, shift, problem.act)
    patches = [(patch_split_plain(x, problem.grid, 1), problem.grid)]
    weight = torch.randn(21, 2 * problem.channels, device="cuda") * problem.channels**-0.5
    wanted = torch.tensor([[i % 21, -1, 20] for i in range(problem.batch)], device="cuda")
    for classes in (None, wanted):
        found = cam_head(patches, x, weight, *size, *tail, classes)
        wide = [(patches[0][0].double(), problem.grid)], x.double(), weight.double()
        exact = cam_head_plain(*wide, *size, *tail, classes)
        narrow = eager_tail(torch.cat([x, x], 1), *(t if t is None else t.repeat(2) for t in tail[:2]), problem.act)
        eager = torch.nn.functional.conv2d(narrow, weight.to(dtype)[:, :, None, None]).relu()
        if classes is not None:
            eager = eager.gather(1, classes.clamp(min=0)[:, :, None, None].expand(-1, -1, *size))
            eager = eager * (classes >= 0)[:, :, None, None]
        assert_three_way(found, exact, eager, dtype)


def test_cam_fuse():
    maps = [torch.rand(4, 3, h, w, device="cuda") for h, w in ((7, 9), (13, 19), (20, 28), (27, 38))]
    sizes = [(105, 150), (207, 299), (311, 440), (422, 598)]  # of images at stride 16
    for flip in (False, True):
        for places in ((), (sizes, Cells(15.0, 16.0))):
            options = (211, 299, flip, True, *places)
            found, wanted = cam_fuse(maps, *options), cam_fuse_plain(maps, *options)
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_mean_field():
    """The CRF's three kernels, over two images and labels that some images lack."""
    images = torch.randint(0, 256, (2, 45, 61, 3), dtype=torch.uint8, device="cuda")
    unary = torch.rand(2, 5, 45, 61, device="cuda") * 4
    unary[1, 3:] = torch.inf
    found = {}
    for name in ("plain", "triton"):
        with backend.force(name):
            found[name] = mean_field(images, unary, CrfTerms(3, 3, 50, 5, 10, 5))
    torch.testing.assert_close(found["triton"], found["plain"], rtol=1e-3, atol=1e-4)


def test_random_walk():
    """No step, one, a few, and the walk's usual number of them, even and odd."""
    x, edge = torch.rand(3, 5, 47, 61, device="cuda"), torch.rand(3, 47, 61, device="cuda") * 0.6
    for steps in (0, 1, 6, 256, 257):
        found, wanted = random_walk(x, edge, steps), random_walk_plain(x, edge, steps)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_repeated_runs_agree_bit_by_bit(dtype):
    problem = PROBLEMS[1]
    x, scale, shift = problem.tensors(dtype, "cuda")
    patches = patch_split_plain(x, 2, 4)
    maps = [torch.rand(4, 3, 31, 41, device="cuda")]
    weight = torch.randn(20, 2 * problem.channels, device="cuda")

    def every():
        results = [cam_fuse(maps, 375, 500, True),
                   cam_head([(patches, 2)], x, weight, 28, 30, scale, shift, "relu")]  # fmt: skip
        for kernel, _, _, of_patches in functions(problem, scale, shift, dtype).values():
            outputs, grad = gradient(kernel, patches if of_patches else x)
            results += [*outputs, grad]
        return results

    first = every()
    for _ in range(20):
        for a, b in zip(first, every(), strict=True):
            assert torch.equal(a, b)


def test_offsets_beyond_32_bits():
    """The last image of a tensor of more than 2^31 numbers."""
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free GPU memory")
    x = torch.zeros(9, 4096, 256, 256, dtype=torch.bfloat16, device="cuda").to(memory_format=torch.channels_last)
    x[-1] = 1
    y = scale_act(x, None, None, "relu")
    assert y[-1].min() == 1 and y[:-1].max() == 0
    del y
    patches = patch_split(x, 2, 1)
    assert patches[-4:].min() == 1 and patches[:-4].max() == 0
    per_patch, pooled = patch_pool(patches, 2, 256, 256)
    assert pooled[-1].min() == 1 and pooled[:-1].max() == 0 and per_patch[-1].min() == 1

"""split, merge and pool: each backend against the plain definition, values and gradients."""

from functools import partial

import pytest
import torch
from hypothesis import given
from kernel_helpers import BACKENDS, Problem, assert_same, gradient, needs_interpreter, problems, tiny

from pplfast.kernels import backend, patch_pool, patch_split, patch_split_act
from pplfast.kernels.patch_merge import patch_merge, patch_merge_plain
from pplfast.kernels.patch_pool import MODES, patch_pool_plain
from pplfast.kernels.patch_split import patch_split_act_plain, patch_split_plain
from pplfast.kernels.tail import affine_act

DTYPES = (torch.float32, torch.float16)
EXAMPLE = Problem(2, 37, 7, 5, 3, 2, "relu6", True, True, 1)


def compare(name, fast, plain, x):
    with backend.force(name):
        found = gradient(fast, x)
    assert_same(found, gradient(plain, x), x.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS)
@tiny
@given(problem=problems)
def test_split_and_merge(name, problem):
    x, scale, shift = problem.tensors()
    grid, stride, act = problem.grid, problem.stride, problem.act
    compare(name, lambda x: patch_split(x, grid, stride), lambda x: patch_split_plain(x, grid, stride), x)
    compare(name, lambda x: patch_split_act(x, grid, stride, scale, shift, act),
            lambda x: patch_split_act_plain(x, grid, stride, scale, shift, act), x)  # fmt: skip
    patches, size = patch_split_plain(x + 9, grid, stride), (problem.height, problem.width)
    with backend.force(name):
        merged = patch_merge(patches, grid, *size)
    assert torch.equal(merged, patch_merge_plain(patches, grid, *size)) and torch.equal(merged, x + 9)


@pytest.mark.slow
@needs_interpreter
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", BACKENDS)
@tiny
@given(problem=problems)
def test_pool(name, mode, problem):
    x, scale, shift = problem.tensors()
    tail = {"scale": scale, "shift": shift, "act": problem.act, "mode": mode, "sharpness": 2.0}
    size = {"grid": problem.grid, "height": problem.height, "width": problem.width}
    # Padding cells hold anything after the blocks, so here too: they must not count.
    patches = patch_split_plain(x, problem.grid, problem.stride)
    patches = torch.where(patches == 0, 9.0, patches)
    compare(name, partial(patch_pool, **size, **tail), partial(patch_pool_plain, **size, **tail), patches)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS)
def test_half_precision(name):
    x, scale, shift = EXAMPLE.tensors(torch.float16)
    tail = (scale, shift, EXAMPLE.act)
    compare(name, lambda x: patch_split_act(x, 3, 2, *tail), lambda x: patch_split_act_plain(x, 3, 2, *tail), x)
    patches = patch_split_plain(x, 3, 2)
    for mode in MODES:
        compare(name, lambda p: patch_pool(p, 3, 7, 5, *tail, mode),  # noqa: B023
                lambda p: patch_pool_plain(p, 3, 7, 5, *tail, mode), patches)  # noqa: B023  # fmt: skip


def test_bfloat16_sums_in_float32():
    # 4,096 equal cells: a bf16 running sum would stop at 256
    pooled = patch_pool(torch.full((4, 1, 32, 32), 1.0, dtype=torch.bfloat16), 2, 64, 64)[1]
    assert pooled.dtype == torch.float32 and pooled.item() == 1.0


def test_identity_of_the_mean():
    """The mean of the merged map is the mean of the per-patch means weighted by their cells inside."""
    x, scale, shift = Problem(2, 37, 7, 4, 3, 2, "relu6", True, True, 1).tensors()
    patches = patch_split(x, 3, 2)
    per_patch, pooled = patch_pool(patches, 3, 7, 4, scale, shift, "relu6")
    torch.testing.assert_close(pooled, affine_act(x, scale, shift, "relu6").mean((2, 3)))
    weights = torch.tensor([8, 8, 0, 6, 6, 0, 0, 0, 0]) / 28
    torch.testing.assert_close(pooled, (per_patch * weights[:, None]).sum(1))
    assert per_patch.shape == (2, 9, 37) and not per_patch[:, weights == 0].any()


def test_padding_of_the_activated_patches_is_what_a_block_sees():
    x, scale, shift = EXAMPLE.tensors()
    raw, activated = patch_split_act(x, 3, 2, scale, shift, "relu")
    assert torch.equal(raw[-1, :, -1, -1], torch.zeros(37))
    torch.testing.assert_close(activated[-1, :, -1, -1], shift.relu())


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS)
def test_one_output_alone(name):
    """Gradients arrive for one of two outputs only: the other one's is absent, not zero."""
    x, scale, shift = EXAMPLE.tensors()
    for index in (0, 1):
        compare(name, lambda x: patch_split_act(x, 3, 2, scale, shift, "relu")[index],  # noqa: B023
                lambda x: patch_split_act_plain(x, 3, 2, scale, shift, "relu")[index], x)  # noqa: B023  # fmt: skip
        compare(name, lambda p: patch_pool(p, 3, 7, 5, scale, shift, "relu")[index],  # noqa: B023
                lambda p: patch_pool_plain(p, 3, 7, 5, scale, shift, "relu")[index],  # noqa: B023
                patch_split_plain(x, 3, 2))  # fmt: skip


@pytest.mark.slow
def test_gradcheck():
    x, scale, shift = Problem(1, 2, 5, 3, 2, 2, "relu", True, True, 3).tensors(torch.float64)
    x, patches = x.requires_grad_(), patch_split_plain(x, 2, 2).detach().requires_grad_()
    check = partial(torch.autograd.gradcheck, check_batched_grad=False)
    assert check(lambda x: patch_split(x, 2, 2), x)
    assert check(lambda x: patch_split_act(x, 2, 2, scale, shift, "relu"), x)
    for mode in MODES:
        assert check(lambda p: patch_pool(p, 2, 5, 3, scale, shift, "relu", mode), patches)  # noqa: B023


@pytest.mark.parametrize("name", BACKENDS)
def test_nan_reaches_the_result(name):
    x = torch.zeros(1, 2, 4, 4)
    x[0, 1, 3, 2] = torch.nan
    with backend.force(name):
        for mode in MODES:
            pooled = patch_pool(patch_split(x, 2, 1), 2, 4, 4, None, None, "relu", mode)[1]
            assert pooled[0, 0] == 0 and pooled[0, 1].isnan(), mode


@pytest.mark.parametrize("call, message", [
    (lambda p: patch_split_act(p, 2, 1, torch.ones(2), None, "relu"), "scale has shape"),
    (lambda p: patch_split_act(p, 2, 1, None, None, "gelu"), "known: none, relu, relu6"),
    (lambda p: patch_pool(p, 2, 4, 9), "do not cover 4 x 9"),
    (lambda p: patch_pool(p, 3, 4, 4), "do not cover"),
    (lambda p: patch_pool(p, 2, 4, 4, mode="median"), "known: mean, max, lse"),
    (lambda p: patch_pool(p, 2, 4, 4, mode="lse", sharpness=0.0), "above 0"),
])  # fmt: skip
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(4, 3, 2, 2))

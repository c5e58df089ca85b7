"""cam_head and cam_fuse: each backend against the plain definition."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_helpers import BACKENDS, Problem, problems, tiny

from pplfast.kernels import Cells, backend, cam_fuse, cam_head
from pplfast.kernels.cam_fuse import cam_fuse_plain
from pplfast.kernels.cam_head import cam_head_plain
from pplfast.kernels.patch_split import patch_split_plain


def head_inputs(problem: Problem, branches: int, classes: int, dtype: torch.dtype = torch.float32):
    x, scale, shift = problem.tensors(dtype)
    generator = torch.Generator().manual_seed(problem.seed)
    patches = [(patch_split_plain(x + i, problem.grid + i, 1), problem.grid + i) for i in range(branches)]
    weight = torch.randn(classes, (branches + 1) * problem.channels, generator=generator)
    return (patches, x, weight, problem.height, problem.width, scale, shift, problem.act)


@pytest.mark.parametrize("name", BACKENDS)
@tiny
@given(problem=problems, branches=st.integers(0, 2), classes=st.sampled_from([1, 5, 17]), chosen=st.booleans())
def test_head(name, problem, branches, classes, chosen):
    inputs = head_inputs(problem, branches, classes)
    generator = torch.Generator().manual_seed(problem.seed)
    wanted = torch.randint(-1, classes, (problem.batch, 3), generator=generator) if chosen else None
    with backend.force(name):
        found = cam_head(*inputs, wanted)
    torch.testing.assert_close(found, cam_head_plain(*inputs, wanted), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BACKENDS)
def test_head_in_half_precision(name):
    inputs = head_inputs(Problem(2, 70, 7, 5, 2, 1, "relu6", True, True, 5), 1, 4, torch.float16)
    with backend.force(name):
        found = cam_head(*inputs)
    assert found.dtype == torch.float32
    # 140 products of numbers up to 6, each operand rounded to 11 bits
    torch.testing.assert_close(found, cam_head_plain(*inputs), rtol=2e-3, atol=2e-2)


def test_head_takes_a_convolution_weight_and_a_list_of_classes():
    patches, x, weight, *rest = head_inputs(Problem(2, 6, 4, 4, 2, 1, "relu", True, True, 5), 1, 3)
    found = cam_head(patches, x, weight[:, :, None, None], *rest, [[2, -1], [0, 1]])
    every = cam_head_plain(patches, x, weight, *rest)
    wanted = torch.stack([every[0, 2], 0 * every[0, 0], every[1, 0], every[1, 1]])
    torch.testing.assert_close(found, wanted.view_as(found))


sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS)
@tiny
@given(st.lists(sizes, min_size=1, max_size=3), sizes, st.booleans(), st.booleans(), st.integers(0, 2**31 - 1))
def test_fuse(name, shapes, size, flip, normalise, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.rand(2 * (1 + flip), 3, *shape, generator=generator) for shape in shapes]
    maps[0][0, 1] = 0  # a class that fires nowhere stays 0
    with backend.force(name):
        found = cam_fuse(maps, *size, flip, normalise)
    torch.testing.assert_close(found, cam_fuse_plain(maps, *size, flip, normalise), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BACKENDS)
def test_fuse_over_several_blocks_of_a_plane(name):
    maps = [torch.rand(2, 2, 5, 7), torch.rand(2, 2, 30, 3)]
    with backend.force(name):
        found = cam_fuse(maps, 23, 31, True)
    torch.testing.assert_close(found, cam_fuse_plain(maps, 23, 31, True), rtol=1e-4, atol=1e-5)
    assert found.amax((2, 3)).sub(1).abs().max() < 1e-4


def test_fuse_takes_the_mirror_back():
    maps = torch.rand(1, 2, 6, 8)
    found = cam_fuse([torch.cat([maps, maps.flip(3)])], 12, 16, True, normalise=False)
    torch.testing.assert_close(found, 2 * cam_fuse_plain([maps], 12, 16, False, normalise=False))


@pytest.mark.parametrize("call, message", [
    (lambda x: cam_head([], x, torch.ones(2, 6), 4, 4), "does not match 1 maps of 3 channels"),
    (lambda x: cam_head([], x, torch.ones(2, 3), 4, 5), "the global map is 4 x 4"),
    (lambda x: cam_head([(x, 2)], x, torch.ones(2, 6), 4, 4), "do not fit the global map"),
    (lambda x: cam_head([(x.half(), 1)], x, torch.ones(2, 6), 4, 4), "the global map is torch.float32"),
    (lambda x: cam_head([], x, torch.ones(2, 3), 4, 4, classes=[[1]]), "must be \\(2, k\\)"),
    (lambda x: cam_fuse([], 4, 4, False), "maps is empty"),
    (lambda x: cam_fuse([x[:1]], 4, 4, True), "even number of rows"),
    (lambda x: cam_fuse([x, x[:1]], 4, 4, False), "maps of one scale"),
    (lambda x: cam_fuse([x], 4, 4, False, sizes=[(4, 4)]), "give both, or neither"),
    (lambda x: cam_fuse([x], 4, 4, False, sizes=[(4, 4)] * 2, cells=Cells(0, 1)), "2 sizes of images, but maps of 1"),
])  # fmt: skip
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 3, 4, 4))

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pplfast.kernels import PatchGrid, patch_split
from pplfast.kernels.patch_merge import patch_merge

sizes = st.integers(1, 70)


@given(sizes, sizes, st.integers(1, 5), st.sampled_from([1, 2, 4, 8, 16]))
def test_patches_are_the_smallest_multiples_that_cover(height, width, grid, stride):
    cut = PatchGrid(height, width, grid, stride)
    for size, extent in ((height, cut.patch_height), (width, cut.patch_width)):
        assert extent % stride == 0 and grid * extent >= size
        assert extent == stride or grid * (extent - stride) < size


@given(sizes, sizes, st.integers(1, 5), st.sampled_from([1, 2, 4, 8, 16]))
def test_cells_count_the_final_map_once(height, width, grid, stride):
    cut = PatchGrid(height, width, grid, stride)
    cells = cut.cells()
    assert len(cells) == cut.patches and sum(cells) == cut.final_height * cut.final_width
    assert max(cells) <= cut.final_patch_height * cut.final_patch_width
    # of a network that rounds its sizes down
    assert sum(cut.cells(max(1, height // stride), 1)) == max(1, height // stride)


def test_documented_example():
    # 11 x 9, K = 3, stride 2: patches of 4 x 4 (3 * 4 >= 11, 3 * 2 < 11), final patches 2 x 2, final map 6 x 5
    cut = PatchGrid(11, 9, 3, 2)
    assert (cut.patch_height, cut.patch_width, cut.final_height, cut.final_width) == (4, 4, 6, 5)
    assert cut.cells() == [4, 4, 2, 4, 4, 2, 4, 4, 2]


def test_order_on_the_batch_axis():
    x = torch.arange(2 * 4 * 6).reshape(2, 1, 4, 6).float()
    patches = patch_split(x, 2, 1)
    for image in range(2):
        for ky in range(2):
            for kx in range(2):
                expected = x[image, :, 2 * ky : 2 * ky + 2, 3 * kx : 3 * kx + 3]
                assert torch.equal(patches[(image * 2 + ky) * 2 + kx], expected)
    assert torch.equal(patch_merge(patches, 2, 4, 6), x)


@pytest.mark.parametrize("sizes", [(0, 4, 2, 1), (4, 4, 0, 1), (4, 4, 2, 0)])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match="1 or more"):
        PatchGrid(*sizes)

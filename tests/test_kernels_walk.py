"""random_walk: each backend against the stencil's definition, and that against the dense matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_helpers import BACKENDS, tiny

from pplfast.benchmarks.reference.walk import dense_walk, line_cells
from pplfast.kernels import backend, random_walk
from pplfast.kernels.random_walk import neighbours, power_weights, random_walk_plain, straight_path

pytestmark = pytest.mark.usefixtures("one_thread")


def problem(batch: int, count: int, height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps and an edge map that holds both 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, count, height, width, generator=generator)
    edge = torch.rand(batch, height, width, generator=generator).mul_(1.4).sub_(0.2).clamp_(0, 1)
    return x, edge


def test_neighbours_and_paths():
    """34 pairs at radius 5, as in IRN's PathIndex; the paths of both definitions are the same."""
    assert len(neighbours(5)) == 34 and (0, 4) in neighbours(5) and (4, 3) not in neighbours(5)
    assert straight_path(0, 3) == ((0, 0), (0, 1), (0, 2), (0, 3))
    for pair in neighbours(7):
        assert sorted(straight_path(*pair)) == sorted(line_cells(*pair))


@pytest.mark.parametrize("steps", [0, 1, 2, 7, 64, 256, 1024])
def test_powers_as_chebyshev_series(steps):
    weights = power_weights(steps)
    z = np.linspace(-1, 1, 999)
    assert np.abs(np.polynomial.chebyshev.chebval(z, weights) - z**steps).max() < 2e-8
    assert sum(weights) == pytest.approx(1, abs=1e-12)
    assert steps < 64 or len(weights) - 1 <= np.sqrt(2 * steps * np.log(2 / 1e-8))
    assert steps != 256 or len(weights) - 1 == 90


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS)
@tiny
@given(
    st.integers(1, 2),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 2),
    st.sampled_from([(10.0, 4), (2.5, 3)]),
    st.integers(0, 2**31 - 1),
)
def test_backends_equal_the_definition(name, batch, count, height, width, steps, options, seed):
    x, edge = problem(batch, count, height, width, seed)
    with backend.force(name):
        found = random_walk(x, edge, steps, *options)
    torch.testing.assert_close(found, random_walk_plain(x, edge, steps, *options), rtol=1e-4, atol=1e-6)
    assert found.min() >= 0


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS)
def test_over_several_blocks(name):
    x, edge = problem(1, 2, 13, 23)
    with backend.force(name):
        found = random_walk(x, edge, 3)
    torch.testing.assert_close(found, random_walk_plain(x, edge, 3), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(17, 22), (24, 9)])
def test_equals_powers_of_the_dense_matrix(shape):
    x, edge = problem(1, 3, *shape)
    found = random_walk(x, edge * 0.5, 2**6)[0].numpy()
    wanted = dense_walk(x[0].numpy(), edge[0].numpy() * 0.5, 6)
    assert np.abs(found / wanted - 1).max() < 1e-3
    assert (found.argmax(0) == wanted.argmax(0)).all()


def test_a_closed_edge_is_not_crossed_and_values_stay_within_their_range():
    edge = torch.zeros(1, 12, 16)
    edge[:, :, 8] = 1
    x = torch.zeros(1, 1, 12, 16)
    x[..., :8] = 0.75
    found = random_walk(x, edge, 500)
    torch.testing.assert_close(found, x, rtol=1e-5, atol=0)


@pytest.mark.parametrize("arguments, message", [
    ((torch.zeros(1, 2, 3, 4), torch.zeros(1, 4, 3), 1), "must be \\(B, n, h, w\\)"),
    ((torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 4), -1), "steps -1"),
    ((torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 4), 1, 0.0), "beta 0.0"),
])  # fmt: skip
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        random_walk(*arguments)

"""Some of a list, evenly over it."""

from itertools import pairwise

import pytest

from pplfast.data.spread import evenly


@pytest.mark.parametrize("count", (0, 1, 2, 5, 6, 7, 9, 100, 1001))
@pytest.mark.parametrize("most", (1, 2, 5, 20))
def test_different_things_with_even_gaps_are_taken(count, most):
    chosen = evenly(count, most)
    assert len(chosen) == min(count, most) and chosen == sorted(set(chosen))
    if count:
        assert chosen[0] == 0 and (most == 1 or chosen[-1] == count - 1)
    gaps = {after - before for before, after in pairwise(chosen)}
    assert not gaps or max(gaps) - min(gaps) <= 1

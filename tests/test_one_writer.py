"""Two trainings and two runs on one --out at the same time: the small version of `make test-one-writer`."""

import random

import pytest
from one_writer import alone, attempt, make_kinds

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [0, 1], ids=["train", "run"])
def test_one_finishes_as_if_alone_and_the_other_is_refused(tmp_path, number):
    kind = make_kinds(tmp_path)[number]
    expected = alone(kind, tmp_path / "alone")
    assert attempt(kind, tmp_path / "out", random.Random(number).uniform(0, 0.5), expected) == ""

"""Two trainings on one --out at the same time: the small version of `make test-one-writer`, which tries runs too."""

import random

import pytest
from one_writer import alone, attempt, make_kinds

pytestmark = pytest.mark.slow


def test_one_finishes_as_if_alone_and_the_other_is_refused(tmp_path):
    kind = make_kinds(tmp_path)[0]
    expected = alone(kind, tmp_path / "alone")
    assert attempt(kind, tmp_path / "out", random.Random(0).uniform(0, 0.5), expected) == ""

"""The arithmetic of scaling: closed forms, and what is computed from it."""

from dataclasses import replace

import pytest

from pplfast.benchmarks import scaling
from pplfast.benchmarks.scaling_model import Cluster, Link, Work, efficiency, reduction_seconds, step_seconds

FAST, SLOW = Link("fast", 100e9, 0.0), Link("slow", 10e9, 0.0)
CLUSTER = Cluster(FAST, SLOW, 8)
WORK = Work("work", compute=0.1, backward=0.5, gradients=100_000_000, bucket=10_000_000, gathers=False)


def test_the_reduction_is_a_ring_in_the_node_and_one_between_nodes():
    assert reduction_seconds(1e9, 1, CLUSTER) == 0
    assert reduction_seconds(1e9, 2, CLUSTER) == pytest.approx(2 * 1 / 2 * 1e9 / 100e9)
    assert reduction_seconds(1e9, 16, CLUSTER) == pytest.approx(2 * 7 / 8 * 1e9 / 100e9 + 2 * 1 / 2 * 1e9 / 10e9)


def test_what_fits_into_the_backward_pass_is_hidden_but_for_the_last_bucket():
    whole = reduction_seconds(4e8, 16, CLUSTER)
    assert step_seconds(WORK, 1, CLUSTER) == 0.1
    assert step_seconds(replace(WORK, overlap=False), 16, CLUSTER) == pytest.approx(0.1 + whole)
    assert step_seconds(WORK, 16, CLUSTER) == pytest.approx(0.1 + max(whole / 10, whole - 0.5 * 0.1 * 0.9))
    assert step_seconds(WORK, 8, CLUSTER) == pytest.approx(0.1 + reduction_seconds(4e7, 8, CLUSTER))
    values = [efficiency(WORK, gpus, CLUSTER) for gpus in scaling.COUNTS]
    assert values[0] == 1 and values == sorted(values, reverse=True)
    assert efficiency(replace(WORK, reduce_bytes=2), 512, CLUSTER) > values[-1]


def test_comparison_with_two_ranks():
    """The step is predicted from the one beside another and the reduction."""
    times = {"alone": [1.0, 1.0], "beside": [1.2, 1.2], "reduce": [0.3, 0.3], "pair": [1.5, 1.25]}
    found = scaling.compare(scaling.CPU_CASES[0], {"gradients": 10_000_000, "seconds": times})
    assert found["predicted_over_measured"]["median"] == pytest.approx((1.0 + 1.2) / 2)
    assert found["efficiency"]["median"] == pytest.approx((1 / 1.5 + 1 / 1.25) / 2)


def test_the_table_says_that_it_is_computed(tmp_path, capsys):
    assert scaling.main(["--step-ms", "130", "--gradients", "1e8", "--out", str(tmp_path / "scaling.json")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Computed, not measured: a step of 130 ms") and "400 Gb/s per node" in text
    assert [path.name for path in tmp_path.iterdir()] == ["scaling.json"] and "benchmarks.plots" in text

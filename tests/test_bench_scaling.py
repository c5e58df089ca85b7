"""The arithmetic of scaling: closed forms, and what is computed from it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from pplfast.benchmarks import scaling
from pplfast.benchmarks.scaling_data import (
    CLIENT_SECONDS,
    Limit,
    Need,
    data_tables,
    limits,
    predict_data,
    read_seconds,
)
from pplfast.benchmarks.scaling_model import Cluster, Link, Work, efficiency, reduction_seconds, step_seconds
from pplfast.benchmarks.table import RESULTS
from pplfast.data.dataset import REMOTE_READERS

ROOT = Path(__file__).resolve().parent.parent
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


# ---- the data side


def test_a_limit_of_a_rank_or_a_host_is_met_at_once_or_never():
    need = Need("work", 100.0)  # 800 images/s of a host
    assert Limit("rank", "rank", 99.0).hosts(need) == Limit("host", "host", 799.0).hosts(need) == 0
    assert Limit("rank", "rank", 100.0).hosts(need) == Limit("host", "host", 800.0).hosts(need) == math.inf
    assert Limit("prefix", "all", 5500.0).hosts(need) == 6  # 4,800 of 5,500; a seventh host asks for 5,600


def test_limits_from_bytes_and_seconds():
    found = {limit.name: limit.images for limit in limits(readers=16, image_bytes=2e6)}
    assert read_seconds(2e6) == pytest.approx(0.2 + 2 / 85)
    assert found["16 reads at once"] == pytest.approx(16 / (0.2 + 2 / 85))
    assert found["25 Gb/s of a host"] == pytest.approx(2.5e9 / 2e6)
    assert found["an NVMe drive of 7 GB/s"] == pytest.approx(7e9 / 2e6)


def test_rates_of_hosts_and_of_all():
    data = predict_data([Need("work", 100.0)], readers=16, image_bytes=50e3)
    last = data["rows"][-1]
    assert (last["gpus"], last["hosts"], last["prefixes"]) == (512, 64, 10)
    assert last["bytes_per_second_of_a_host"] == 8 * 100 * 50e3 and last["bytes_per_second"] == 512 * 100 * 50e3
    [need] = data["needs"]
    assert need["reads_at_once"] == 21  # 100 a second, 0.2006 s each
    assert need["hosts"]["5500 GET/s of a prefix"] == 6 and need["hosts"]["16 reads at once"] == 0
    assert need["hosts"]["one core of the client"] is need["hosts"]["25 Gb/s of a host"] is None
    assert "| work | 100 | 40 MB/s, 800 GET/s | 1.6% | 1.3% | 21 | 6 |" in data_tables(data)


def test_the_users_own_step_is_the_only_work(tmp_path, capsys):
    out = tmp_path / "scaling.json"
    words = ["--step-ms", "100", "--images", "20", "--image-bytes", "1e6", "--out", str(out)]
    assert scaling.main(words) == 0
    data = json.loads(out.read_text())["data"]
    [need] = data["needs"]
    assert need["images"] == pytest.approx(200) and data["image_bytes"] == 1e6
    assert "1600 MB/s, 1,600 GET/s" in capsys.readouterr().out


def test_the_page_has_the_tables_of_the_results_file():
    data = json.loads((RESULTS / "predicted_scaling.json").read_text())["data"]
    page = (ROOT / "docs/how-to/many-hosts.md").read_text()
    assert data_tables(data) in page
    assert f"pplfast has\n  {REMOTE_READERS} on each rank" in page and data["readers"] == REMOTE_READERS
    reads = json.loads((RESULTS / "logs/cpu_reads.json").read_text())["rows"]
    assert min(row["client_cpu_seconds_per_get"] for row in reads) == pytest.approx(CLIENT_SECONDS, rel=0.35)
    assert (
        f"about {1e3 * CLIENT_SECONDS:.0f} ms of one core" in page and f"about {1 / CLIENT_SECONDS:.0f} images" in page
    )

"""Spreads, the red gate, comparison of results files, the tables of the documentation."""

import copy
import gc
import itertools
import json

import pytest
import torch

from pplfast.benchmarks import method_table, table
from pplfast.benchmarks.ceilings import floor_seconds
from pplfast.benchmarks.compare import compare, read_results
from pplfast.benchmarks.flops import step_flops
from pplfast.benchmarks.harness import Effort, Spread, alternate, difference, ratios, tf32, under_tf32
from pplfast.benchmarks.kernel_cost import Cost
from pplfast.benchmarks.models import Case
from pplfast.benchmarks.results import Ratio, Report
from pplfast.cli import main
from pplfast.errors import UserError
from pplfast.files import write_json


def _report(device: str = "cpu", slow: float = 3.0) -> Report:
    report = Report(device, quick=False)
    report.check("train", "case", "loss", 1e-6, 1e-4)
    samples = {"reference": [slow, slow + 0.1, slow + 0.2], "pplfast": [1.0, 1.01, 1.02]}
    report.add(
        "train",
        "case",
        samples,
        [Ratio("reference", "pplfast", 1.5), Ratio("tuned", "pplfast")],
        images=8,
        floor={"pplfast": 0.5},
    )
    return report


def test_spread_and_ratios():
    spread = Spread.of([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (spread.median, spread.q20, spread.q80) == pytest.approx((3.0, 1.8, 4.2))
    # Round by round: a machine that halves its speed in one round does not move the ratio.
    assert ratios([2.0, 4.0, 2.0], [1.0, 2.0, 1.0]) == Spread(2.0, 2.0, 2.0)


def test_contestants_alternate_and_each_gets_one_sample_a_round():
    calls = []
    runs = {name: lambda name=name: (calls.append(name), torch.ones(300, 300) @ torch.ones(300, 300)) for name in "ab"}
    samples = alternate(runs, "cpu", Effort(4, 0.0))
    assert [len(times) for times in samples.values()] == [4, 4]
    assert all(seconds > 0 for times in samples.values() for seconds in times)
    changes = sum(first != second for first, second in itertools.pairwise(calls))
    assert changes >= 4  # they take turns rather than running one after the other


def test_no_garbage_is_collected_while_contestants_run():
    states = []
    alternate({"a": lambda: states.append(gc.isenabled())}, "cpu", Effort(2, 0.0, sample=0.0))
    assert states and not any(states) and gc.isenabled()


def test_convolutions_round_to_tf32_only_where_that_is_allowed():
    convolutions, seen = torch.backends.cudnn, []
    before = convolutions.allow_tf32
    with tf32(False):
        under_tf32(lambda: seen.append(convolutions.allow_tf32), True)()
        seen.append(convolutions.allow_tf32)
    assert seen == [True, False] and convolutions.allow_tf32 == before


def test_difference_sees_nan_and_shape():
    one = torch.ones(3)
    assert difference(one * 1.1, one) == pytest.approx(0.1, rel=1e-5)
    assert difference(one[:2], one) == float("inf")
    assert difference(torch.tensor([1.0, float("nan"), 1.0]), one) == float("inf")


def test_report_rows():
    report = _report()
    (ratio,) = report.ratios  # tuned took no part
    assert ratio["ratio"]["median"] == pytest.approx(3.1 / 1.01)
    by_name = {row["contestant"]: row for row in report.rows}
    assert by_name["pplfast"]["images_per_second"] == pytest.approx(8 / 1.01)
    assert by_name["pplfast"]["share_of_ceiling"] == pytest.approx(0.5 / 1.01)
    assert "share_of_ceiling" not in by_name["reference"]
    value = json.loads(json.dumps(report.to_dict()))
    assert value["hardware"]["cores"] >= 1 and torch.__version__.startswith(value["versions"]["torch"])
    assert value["commit"] and value["date"].startswith("20")


def test_a_later_contestant_gets_its_row_and_the_ratio_to_one_that_has_its_own(capsys):
    report = _report()
    capsys.readouterr()
    samples = {"tuned": [4.0, 4.0], "pplfast": [2.0, 2.0]}
    report.add("train", "case", samples, [Ratio("tuned", "pplfast")], again=("pplfast",))
    assert [row["contestant"] for row in report.rows] == ["reference", "pplfast", "tuned"]
    assert [row["ratio"]["median"] for row in report.ratios] == [pytest.approx(3.1 / 1.01), 2.0]
    printed = capsys.readouterr().out
    assert "tuned/pplfast: 2.00x" in printed and "reference" not in printed


def test_results_say_whether_the_run_came_to_its_end(tmp_path):
    report = Report("cpu", quick=True, out=tmp_path / "r.json")
    report.skip("train", "all", "no reason")
    assert json.loads(report.out.read_text())["complete"] is False
    report.finish()
    assert json.loads(report.out.read_text())["complete"] is True


@pytest.mark.parametrize("value", [1.0, float("nan"), float("inf")])
def test_a_failed_check_gets_no_times(value: float):
    report = Report("cpu", quick=True)
    assert not report.check("train", "case", "loss", value, 1e-4)
    report.add("train", "case", {"reference": [2.0], "pplfast": [1.0]}, [Ratio("reference", "pplfast")])
    assert report.rows == [] and report.ratios == []
    assert "check failed" in report.skipped[0]["why"]


def test_compare_flags_only_what_is_beyond_the_noise():
    before, after = _report().to_dict(), _report(slow=2.0).to_dict()
    regressions, _ = compare(before, after)
    assert len(regressions) == 1 and "reference/pplfast" in regressions[0]
    assert compare(after, before)[0] == []  # better is no regression
    assert compare(before, _report(slow=2.95).to_dict())[0] == []  # below the margin
    noisy = copy.deepcopy(after)
    noisy["ratios"][0]["ratio"]["q80"] = 3.2
    assert compare(before, noisy)[0] == []  # the ranges overlap
    red = copy.deepcopy(before)
    red["checks"][0]["passed"] = False
    assert "check failed" in compare(before, red)[0][0]


def test_compare_takes_times_only_from_the_same_gpu():
    before, after = (_report("cuda").to_dict() for _ in range(2))
    for row in after["rows"]:
        row["seconds"] = {key: 2 * value for key, value in row["seconds"].items()}
    assert compare(before, after)[0] == []
    for results in (before, after):
        results["hardware"]["gpu"] = "NVIDIA H100"
    assert len(compare(before, after)[0]) == 2


def test_compare_command(tmp_path, capsys):
    a, b, other = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "other.json"
    a.write_text(json.dumps(_report().to_dict()))
    b.write_text(json.dumps(_report(slow=2.0).to_dict()))
    other.write_text("[]")
    assert main(["bench", "compare", str(a), str(a)]) == 0
    assert main(["bench", "compare", str(a), str(b)]) == 1
    assert "WORSE: train case reference/pplfast" in capsys.readouterr().out
    assert main(["bench", "compare", str(a), str(other)]) == 2
    assert main(["bench", "compare", str(a), str(tmp_path / "none.json")]) == 2
    assert "none.json: no such file" in capsys.readouterr().err


def test_table_keeps_machines_apart_and_says_what_was_not_measured(tmp_path):
    cpu, gpu, quick = _report().to_dict(), _report("cuda", slow=9.0).to_dict(), _report(slow=50.0).to_dict()
    gpu["hardware"]["gpu"] = "NVIDIA H100"
    quick["quick"] = True
    cpu["complete"] = True
    for name, value in (("cpu", cpu), ("gpu", gpu), ("quick", quick)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    (tmp_path / "smoke.json").write_text(json.dumps({"kind": "smoke", "complete": True, "lines": []}))
    text = table.table(tmp_path)
    on_gpu, on_cpu = text.split("## On a CPU")
    assert "**3.07**" in on_cpu and "≥&nbsp;1.5" in on_cpu and "quick.json" not in text
    assert "Not measured on a CPU: kernels, loader, cam, label, crf, walk." in on_cpu
    assert "NVIDIA H100" in on_gpu and "gpu.json`; cut off before its end)" in on_gpu and "cut off" not in on_cpu
    assert "| 1.01 s | 50% |" in on_gpu


def test_table_has_each_benchmark_from_the_newest_file_of_each_cpu(tmp_path):
    for name, slow, date, flags in (
        ("old", 2.0, "2026-01-01", ["avx2"]),
        ("new", 3.0, "2026-01-02", ["avx2"]),
        ("wide", 4.0, "2025-01-01", ["avx2", "avx512f"]),
    ):
        value = _report(slow=slow).to_dict() | {"date": date}
        value["hardware"] |= {"cpu": "Some CPU", "cpu_flags": flags, "threads": 1}
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    text = table.table(tmp_path)
    assert "### train: Some CPU (avx2)\n\n2026-01-02, 1 thread, commit" in text
    assert "### train: Some CPU (avx2, avx512f)\n\n2025-01-01, 1 thread, commit" in text
    assert "2026-01-01" not in text


def test_table_says_that_a_commit_had_uncommitted_changes(tmp_path):
    value = _report().to_dict()
    for commit, text in (("abc-dirty", "commit abc with uncommitted changes, torch"), ("abc", "commit abc, torch")):
        (tmp_path / "r.json").write_text(json.dumps(value | {"commit": commit}))
        assert text in table.table(tmp_path) and "dirty" not in table.table(tmp_path)


def test_tables_show_the_charts_that_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "PLOTS", tmp_path)
    (tmp_path / "r.json").write_text(json.dumps(_report().to_dict()))
    (tmp_path / "m.json").write_text(json.dumps(_method_run(kind="demo", seed=0, plain={"cam_miou": 33.3})))
    assert "![" not in table.table(tmp_path) and "![" not in method_table.table(tmp_path)
    for name in ("r.svg", "m.svg"):
        (tmp_path / name).touch()
    assert "(plots/r.svg)" in table.table(tmp_path) and "(plots/m.svg)" in method_table.table(tmp_path)


def _method_run(**values) -> dict:
    return {
        "kind": "run",
        "recipe": "r",
        "date": "2026-01-01",
        "commit": "abc",
        "command": "pplfast run --recipe r --out runs/r",
        "hardware": {"cpu": "Some CPU", "gpus": "none"},
    } | values


def test_table_of_the_method_has_mean_and_standard_error_over_seeds(tmp_path):
    runs = {
        f"seed{seed}": {"plain": {"cam_miou": 50.0, "label_miou": 60.0}, "ppl": {"cam_miou": miou, "label_miou": 60.0}}
        for seed, miou in enumerate((51.0, 52.0, 56.0))
    }
    second = {"hardware": "Other CPU", "date": "2026-01-02", "runs": {"seed0": runs["seed0"]}}
    value = _method_run(runs=runs, second_machine=second)
    (tmp_path / "run.json").write_text(json.dumps(value))
    (tmp_path / "bench.json").write_text(json.dumps(_report().to_dict()))
    text = method_table.table(tmp_path)
    assert "| CAMs, progressive | 51.0 | 52.0 | 56.0 | **53.0** | 1.5 |" in text  # sqrt(7 / 3)
    assert "| CAMs, progressive | 51.0 |\n" in text and "### Other CPU, 2026-01-02" in text  # one seed: no mean
    assert "over 4 pairs of one seed on one machine: **+2.5** points, standard error 1.2, from +1.0 to +6.0" in text
    assert "above 0 in 4 of 4" in text and "above 0 in 0 of 4" in text


def test_table_of_the_method_takes_runs_of_a_single_variant_and_a_single_seed(tmp_path):
    one = {"cam_miou": 40.0, "segmentation_miou": 45.5}
    (tmp_path / "a.json").write_text(json.dumps(_method_run(runs={"seed0": one, "seed1": one})))
    (tmp_path / "b.json").write_text(json.dumps(_method_run(kind="demo", seed=0, plain={"cam_miou": 33.3})))
    text = method_table.table(tmp_path)
    assert "| segmentation network, progressive | 45.5 | 45.5 | **45.5** | 0.0 |" in text
    assert "| CAMs, plain | 33.3 |" in text and "minus plain" not in text


def test_table_writes_between_the_markers(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"head\n{table.BEGIN}\nold\n{table.END}\ntail\n")
    results = tmp_path / "results"
    results.mkdir()
    assert table.main(["--results", str(results), "--write", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith(f"head\n{table.BEGIN}\n") and text.endswith(f"{table.END}\ntail\n") and "old" not in text
    assert "Not measured on a GPU: kernels, train, loader, cam, label, crf, walk." in text
    with pytest.raises(UserError, match="needs one line"):
        table.replace_between_markers("no markers", "x", "README.md")


def test_floor_separates_reads_from_copies():
    ceilings = {"copy": 10.0, "read": 5.0, "matmul_fp32": 100.0, "matmul_bf16": 1000.0}
    assert floor_seconds(ceilings, Cost(30, 10), "fp32") == pytest.approx(20 / 10 + 20 / 5)
    assert floor_seconds(ceilings, Cost(10, 30), "fp32") == pytest.approx(40 / 10)
    assert floor_seconds(ceilings, Cost(1, 1, 700), "fp32") == pytest.approx(7.0)
    assert floor_seconds(ceilings, Cost(1, 1, 700), "bf16") == pytest.approx(0.7)


def test_flops_of_a_known_network():
    # Plain WideResNet-38: one image, all trained. Backward of a convolution costs twice its forward pass, but the
    # first has no gradient of the image. The classifier's map adds 2 * 4096 * classes per cell.
    flops = step_flops(Case("wrn38", 20, ()), 1, 64, 0)
    forward_first = 2 * 64 * 64 * 64 * 27
    assert (flops + forward_first) % 3 == 0
    # Its 105.0 M parameters mostly act on 8 x 8 cells, and those before at larger maps.
    assert 2 * 105.0e6 * 64 < (flops + forward_first) / 3 < 3 * 2 * 105.0e6 * 64
    assert step_flops(Case("wrn38", 20, (("b4_5", 2),)), 1, 64, 0) > 1.5 * flops


def test_flops_of_depthwise_convolutions():
    forward = step_flops(Case("efficientnet_lite0", 20, (), output_stride=32), 1, 224, 9)  # all frozen: no backward
    head = 2 * 20 * 1280 * 49
    # Published: 407 M multiply-adds at 224 pixels, of which the 1000-class layer takes 1.3 M. The frozen backbone
    # leaves the weight gradient of the classifier's map.
    assert (forward - 2 * head) / 2 == pytest.approx(407e6 - 1.3e6, rel=0.06)
    trained = step_flops(Case("efficientnet_lite0", 20, (), output_stride=32), 1, 224, 0)
    assert 2.8 < trained / forward < 3.0


def test_a_page_that_is_not_there_is_an_error_with_its_remedy(tmp_path, capsys):
    assert table.main(["--write", str(tmp_path / "nothing.md")]) == 2
    assert "nothing.md: no such file; make it, with one line" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [
    lambda value: value["ratios"][0].pop("ratio"),
    lambda value: value["ratios"][0]["ratio"].update(median=float("nan")),
    lambda value: value["rows"].append("row"), lambda value: value.update(hardware=[]),
    lambda value: value["ratios"][0].update(numerator=3), lambda value: value.update(checks={}),
])  # fmt: skip
def test_a_damaged_results_file_is_refused_by_name(damage, tmp_path):
    value, path = _report(slow=3.0).to_dict(), tmp_path / "results.json"
    write_json(path, value)
    assert read_results(str(path))["ratios"][0]["ratio"] == value["ratios"][0]["ratio"]
    damage(value)
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(UserError, match=r"results\.json: .*; write it anew"):
        read_results(str(path))

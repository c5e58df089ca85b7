"""What the benchmarks do only on a GPU, run on a CPU that is called one: the contestants, the checks, the rows."""

import time
from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode

from pplfast.benchmarks import cam, crf, gpu_smoke, harness, kernels, models, train, walk
from pplfast.benchmarks.gpu_smoke import Smoke
from pplfast.benchmarks.operations import Sizes
from pplfast.benchmarks.results import Report
from pplfast.data.dataset import DataConfig
from pplfast.data.demo import DemoConfig, make_demo

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread", "called_cuda")]
CEILINGS = {"copy": 1e10, "read": 1e10, "matmul_fp32": 1e11, "matmul_bf16": 1e11}


class CpuForCuda(TorchFunctionMode):
    """Tensors and modules that are asked onto "cuda" go to the CPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        def place(value):
            return "cpu" if isinstance(value, (str, torch.device)) and str(value).startswith("cuda") else value

        if getattr(function, "__name__", "") == "cuda":
            return args[0]
        return function(*map(place, args), **{key: place(value) for key, value in (kwargs or {}).items()})


@pytest.fixture
def called_cuda(monkeypatch):
    def seconds(run):
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    for module in (harness, crf):
        monkeypatch.setattr(module, "device_seconds", seconds)
    for name, value in (
        ("empty_cache", None),
        ("reset_peak_memory_stats", None),
        ("memory_allocated", 1 << 30),
        ("max_memory_allocated", 3 << 30),
        ("synchronize", None),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *arguments, **options: self)
    # Autocast to what this CPU may have to emulate would take minutes.
    monkeypatch.setattr(models, "autocast", lambda device, bf16: torch.autocast("cpu", enabled=False))
    with CpuForCuda():
        yield


@pytest.fixture
def report(tmp_path) -> Report:
    return Report("cuda", quick=True, compile=False, ceilings=dict(CEILINGS), out=tmp_path / "r.json")


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> DataConfig:
    root = tmp_path_factory.mktemp("cuda") / "demo"
    make_demo(root, DemoConfig(train=2, val=1, size=96))
    return DataConfig(str(root), "train")


def _rows(report: Report) -> dict[str, dict]:
    assert report.checks and all(check["passed"] for check in report.checks)
    return {row["contestant"]: row for row in report.rows}


def test_training_step(report: Report):
    before = torch.backends.cudnn.benchmark
    train.run(report, replace(train.GPU_WORK, backbone="efficientnet_lite0", positions=("group4",), size=64, batch=2))
    rows = _rows(report)
    assert [name for name, row in rows.items() if row["tf32"]] == [
        "reference_tf32",
        "pplfast_bf16",
        "plain_bf16",
        "tuned",
    ]
    assert {name for name, row in rows.items() if not row["tf32"]} == {"reference", "pplfast", "plain"}
    assert rows["pplfast_bf16"]["goal_share"] == 0.5 and all(row["peak_gib"] == 2 for row in rows.values())
    goals = {(row["numerator"], row["denominator"]): row["goal"] for row in report.ratios}
    assert goals[("reference_tf32", "pplfast_bf16")] == 2 and goals[("reference", "pplfast_bf16")] == 8
    assert goals[("tuned", "pplfast_bf16")] == 1.25
    assert torch.backends.cudnn.benchmark == before


def test_the_trainers_convolutions_are_measured_and_checks_use_no_tf32(report: Report, monkeypatch):
    seen = []
    same = train._same_training
    monkeypatch.setattr(train, "_same_training", lambda *a: (seen.append(torch.backends.cudnn.allow_tf32), same(*a))[1])
    monkeypatch.setattr(train, "alternate", lambda *a: seen.append(torch.backends.cudnn.benchmark) or {})
    monkeypatch.setattr(train, "_peak_gib", lambda step: 2)
    monkeypatch.setattr(train, "dense_flops", lambda step: 1)
    train.run(report, replace(train.GPU_WORK, backbone="efficientnet_lite0", positions=("group4",), size=64, batch=2))
    assert seen == [False, True, True, True]  # bf16 with TF32, float32, and the tuned reference


def test_cams(report: Report, monkeypatch):
    cam.run_memory(report, "efficientnet_lite0", (0.5, 1.0), batch=2, size=(49, 64))
    rows = _rows(report)
    assert set(rows) == {"reference", "reference_tf32", "pplfast", "pplfast_bf16", "tuned"}
    goals = {(row["numerator"], row["denominator"]): row["goal"] for row in report.ratios}
    assert goals[("reference_tf32", "pplfast_bf16")] == 5


@pytest.mark.parametrize("missing", [None, "pydensecrf is not installed"])
def test_crf_with_and_without_pydensecrf(report: Report, demo: DataConfig, monkeypatch, missing):
    if missing:
        monkeypatch.setattr(crf, "crf_missing", lambda: missing)
    crf.run(report, demo, most=1)
    rows = _rows(report)
    assert set(rows) == {"device", "device_only", "plain_device_only"} | (set() if missing else {"pydensecrf"})
    assert rows["device_only"]["clock"] == "events" and rows["device"]["clock"] == "wall"
    goals = {(row["numerator"], row["denominator"]): row["goal"] for row in report.ratios}
    assert goals.get(("pydensecrf", "device_only")) == (None if missing else 50)
    assert ("plain_device_only", "device_only") in goals


def test_walk(report: Report, demo: DataConfig):
    walk.run(report, demo, small=(9, 12), image=(82, 120))
    assert set(_rows(report)) == {"pplfast", "device_only", "plain_device_only", "dense"}
    assert any("plain definition" in check["what"] for check in report.checks)


def test_kernels(report: Report):
    kernels.run(report, [Sizes("tiny", 1, 2, (4, 6, 6, 2), (8, 4, 4), 3, "relu", (9, 9))])
    assert report.rows


def test_smoke(tmp_path, monkeypatch):
    monkeypatch.setitem(gpu_smoke.DTYPES, "fp16", torch.bfloat16)
    smoke = Smoke("cuda", gpu_smoke.TINY, tmp_path / "smoke.json")
    gpu_smoke.run(smoke, backbones=("efficientnet_lite0",))
    assert not smoke.failed, [row for row in smoke.lines if not row.get("ok", True)]
    lines = {row["name"]: row for row in smoke.lines}
    assert lines["train efficientnet_lite0 explicit fp16"]["peak_gib"] == 3
    for name in (
        "kernels in efficientnet_lite0 fp32",
        "CAMs of 2 images efficientnet_lite0 kernels bf16",
        "dense CRF kernels",
        "random walk kernels",
    ):
        assert lines[name]["ok"], lines[name]

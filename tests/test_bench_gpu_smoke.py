"""The smoke run of a GPU machine, on a CPU: its lines, and that it goes on after a failure."""

import json

import pytest
import torch

from pplfast.benchmarks import gpu_smoke
from pplfast.benchmarks.gpu_smoke import Smoke
from pplfast.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_every_line_of_one_backbone(tmp_path):
    smoke = Smoke("cpu", gpu_smoke.TINY, tmp_path / "smoke.json")
    gpu_smoke.run(smoke, backbones=("efficientnet_lite0",))
    written = json.loads(smoke.out.read_text())
    assert written["complete"] and written["device"] == "cpu"
    lines = {row["name"]: row for row in written["lines"]}
    for mode in gpu_smoke.VARIANTS:
        for precision in ("bf16", "fp32"):
            row = lines[f"train efficientnet_lite0 {mode} {precision}"]
            assert row["ok"] and row["loss"] > 0 and row["seconds"] > 0, row
        assert lines[f"train efficientnet_lite0 {mode} fp16"]["left_out"] == "fp16 needs a GPU"
    for name in (
        "boundary efficientnet_lite0 fp32",
        "segmentation efficientnet_lite0 bf16",
        "random walk",
        "CAMs of 2 images efficientnet_lite0 fp32",
        "dense CRF of 2 images",
    ):
        assert lines[name]["ok"], lines[name]
    assert not smoke.failed


def test_a_failure_is_a_line_and_the_others_follow(tmp_path, capsys):
    smoke = Smoke("cpu", gpu_smoke.TINY, tmp_path / "smoke.json")

    def fails():
        raise RuntimeError("expected scalar type BFloat16\nsecond line")

    def without_dali():
        raise UserError("NVIDIA DALI is not installed; install it")

    smoke.line("first", fails)
    assert json.loads(smoke.out.read_text())["lines"][0]["error"].startswith("RuntimeError: expected scalar type")
    smoke.line("second", lambda: {"ok": torch.tensor(float("nan")).item() > 0})
    smoke.line("third", without_dali)
    smoke.line("fourth", lambda: {})
    written = json.loads(smoke.out.read_text())
    assert not written["complete"] and [row.get("ok") for row in written["lines"]] == [False, False, None, True]
    assert smoke.failed == ["first", "second"]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["FAILED", "FAILED", "left", "ok"]


def test_a_step_that_changes_nothing_or_has_no_finite_loss_fails():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    images = torch.randn(2, 3, 2, 2)
    assert gpu_smoke.optimizer_step(model, images, lambda y: y.square().sum(), "fp32")["ok"]
    assert not gpu_smoke.optimizer_step(model, images, lambda y: y.sum() * float("nan"), "fp32")["ok"]
    still = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    torch.nn.init.zeros_(still[1].bias)  # weight decay alone would change it
    row = gpu_smoke.optimizer_step(still, images, lambda y: y.sum() * 0, "fp32")
    assert not row["ok"] and not row["changed"]


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_smoke.main(["--out", str(tmp_path / "s.json")])
    assert "--device cpu --tiny" in capsys.readouterr().err

"""What training tells of itself: speed, use of the device, memory, the progress line, the profiler's trace."""

import dataclasses
import gzip
import io
import json
import math
import re

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from train_data import make_recipe, open_images, write_images
from training_parts import classifier

from pplfast.cluster.ranks import Ranks
from pplfast.errors import UserError
from pplfast.flops import training_flops
from pplfast.patch.branches import Cut
from pplfast.train import TrainOptions, meter, profile, train
from pplfast.train.display import Lines, Shown, TimeLeft, make_display
from pplfast.train.log import Interval
from pplfast.train.meter import Meter, Rates
from pplfast.train.plan import StagePlan
from pplfast.train.profile import StepProfiler

CPU = torch.device("cpu")
ONE = Ranks(0, 1, 1, CPU)
SIZE = 64


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(meter.time, "monotonic", clock.monotonic)
    return clock


def test_rates_of_an_interval(clock, monkeypatch):
    """40 images in two steps and four seconds, on two ranks; 3 GFLOP an image, of devices of 60 GFLOP/s."""
    monkeypatch.setattr(meter, "device_peak", lambda device, precision: 60e9)
    monkeypatch.setattr(meter, "training_flops", lambda *_: 3_000_000_000)
    counter = Meter(Ranks(0, 2, 2, CPU), "bf16")
    assert counter.count(1, nn.Identity(), 8) == "" and counter.images_per_s == 0
    counter.start(1)
    for _ in range(2):
        clock.now += 2
        counter.add(20)
    rates = counter.interval()
    assert (rates.images_per_s, rates.seconds_per_step) == (10, 2)
    assert rates.tflops == pytest.approx(0.015) and rates.mfu == pytest.approx(0.25)
    assert 0.05 < rates.memory_peak_gib < 64
    clock.now += 1
    counter.add(30)
    assert counter.interval().images_per_s == 30 and counter.images_per_s == 14
    counter.start(2)  # a stage that was not counted
    clock.now += 1
    counter.add(30)
    assert counter.interval().tflops is None


class NoOperators(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function}: the meter touches tensors in a step")


def test_a_gpus_figures_come_without_touching_it(clock, monkeypatch):
    """Peak memory is that of each interval; the device is only asked for counters that its allocator keeps."""
    peaks, resets = [3 * meter.GIB, 5 * meter.GIB], []
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peaks[len(resets) - 1])
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(meter, "training_flops", lambda *_: int(98.94e12))
    gpu = torch.device("cuda", 0)
    counter = Meter(Ranks(0, 8, 8, gpu), "bf16")
    counter.count(0, nn.Identity(), 448)
    with NoOperators():
        counter.start(0)
        found = []
        for _ in range(2):
            clock.now += 1
            counter.add(32)
            found.append(counter.interval())
    assert [rates.memory_peak_gib for rates in found] == [3, 5] and resets == [gpu] * 3
    assert found[0].mfu == pytest.approx(0.4) and found[0].tflops == pytest.approx(4 * 98.94)


def test_a_network_that_cannot_be_counted_is_no_reason_to_stop():
    class Needs(nn.Module):
        def forward(self, images):
            raise ValueError("images as they are, please\nand more")

    counter = Meter(ONE, "fp32")
    assert "not counted" in (note := counter.count(0, Needs(), 8)) and "ValueError: images as they are, please" in note
    assert "\n" not in note


def shown(step: int, seconds: float, stage: str = "stage 1/2 (plain)", **changes) -> Shown:
    rates = Rates(12.34, seconds, 0.0413, None, 1.26)
    return Shown(step, stage, 0.69314, dataclasses.replace(rates, **changes))


def test_text_of_an_interval():
    assert str(shown(1, 1)) == "loss 0.6931, 12.3 images/s, 41.3 GFLOP/s, 1.3 GiB"
    assert str(shown(1, 1, tflops=412.3, mfu=0.4167)) == "loss 0.6931, 12.3 images/s, 412.3 TFLOP/s, MFU 42%, 1.3 GiB"
    assert str(shown(1, 1, tflops=None)) == "loss 0.6931, 12.3 images/s, 1.3 GiB"


def test_a_bar_says_nothing_before_there_is_something_to_say():
    stream = io.StringIO()
    bar = make_display(Console(file=stream, force_terminal=True, width=80, color_system=None), 0, 8240)
    bar._progress.refresh()
    assert "0/8240" in stream.getvalue() and not re.search(r"nan|loss|images/s|left|-:--", stream.getvalue())
    bar.show(shown(10, 2.0, "stage 1/2 (b4_5 2x2)", tflops=412.3, mfu=0.4167))
    bar.close()
    assert re.search(r"stage 1/2 \(b4_5 2x2\) .* 10/8240 +4:34:20 left", stream.getvalue())
    assert "loss 0.6931, 12.3 images/s, 412.3 TFLOP/s, MFU 42%, 1.3 GiB" in stream.getvalue()


def test_the_first_line_knows_the_time_left():
    """Nothing of what came before the first step is in it."""
    stream = io.StringIO()
    lines = make_display(Console(file=stream), 0, 100)
    assert isinstance(lines, Lines)
    lines.show(shown(10, 2.0))
    lines.show(shown(20, 2.0))  # too soon for another line
    lines.show(shown(100, 2.0))
    first, last = stream.getvalue().splitlines()
    assert first == "stage 1/2 (plain): step 10/100, loss 0.6931, 12.3 images/s, 41.3 GFLOP/s, 1.3 GiB, 3:00 left"
    assert "step 100/100" in last and last.endswith("0:00 left")


def test_a_slow_first_interval_is_forgotten():
    left = TimeLeft()
    assert left.text(shown(10, 60.0), 100) == "1:30:00"
    assert left.text(shown(20, 1.0), 100) == "1:20"
    assert left.text(shown(30, 2.0), 100) == "1:45"  # the mean of both
    assert left.text(shown(40, 5.0, stage="stage 2/2 (plain)"), 100) == "5:00"


def test_no_line_of_the_log_holds_what_json_has_not():
    rates = Rates(1.0, 1.0, math.inf, math.nan, 1.0)
    values = Interval(0, 1, StagePlan((), (), (), 1.0), 3, 0.5, math.nan, 0.1, rates).values()
    assert (values["loss"], values["tflops"], values["mfu"]) == (None, None, None)
    json.dumps(values, allow_nan=False)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_images(write_images(tmp_path_factory.mktemp("images")))


@pytest.fixture(scope="module")
def plain_run(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain")
    return train(RECIPE, dataset, out, options=TrainOptions(threads=1, log_every=1))


RECIPE = make_recipe(
    stages=[{"position": "group3", "grid": 2, "epochs": 2}, {"position": "group5", "grid": 2, "epochs": 2}]
)


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_operations_and_memory_are_logged(plain_run):
    lines = lines_of(plain_run.folder)
    assert len(lines) == 8 and all(line["mfu"] is None and 0.1 < line["memory_peak_gib"] < 64 for line in lines)
    per_image = [line["tflops"] * 1e12 / line["images_per_s"] for line in lines]
    model = classifier("efficientnet_lite0", "ppl", (("group3", 2),), 3)
    # Of 3 classes instead of 20: the classifier has next to nothing to do.
    assert per_image[0] == pytest.approx(training_flops(model, 32, CPU), rel=5e-3)
    model.set_cuts([Cut(model.backbone.position("group5") + 1, 2)])
    assert per_image[-1] == pytest.approx(training_flops(model, 32, CPU), rel=5e-3)


@pytest.mark.slow
def test_a_profile_of_some_steps_changes_nothing(plain_run, dataset, tmp_path, capfd):
    options = TrainOptions(threads=1, log_every=1, profile=2)
    done = train(RECIPE, dataset, tmp_path / "out", options=options)
    path = tmp_path / "out" / "profile" / "rank0.pt.trace.json.gz"
    assert [path] == list(path.parent.iterdir())
    with gzip.open(path, "rt") as file:
        names = [event.get("name", "") for event in json.load(file)["traceEvents"]]
    steps = sorted({name for name in names if name.startswith("ProfilerStep")})
    assert steps == ["ProfilerStep#5", "ProfilerStep#6"] and "aten::convolution" in names
    assert any("convolution_backward" in name for name in names)
    assert f"profile: {path}; open it at https://ui.perfetto.dev" in capfd.readouterr().err
    for name in ("loss", "lr", "step"):
        found, expected = ([line[name] for line in lines_of(run.folder)] for run in (done, plain_run))
        assert found == expected
    weights = [(run.folder / "classifier.safetensors").read_bytes() for run in (done, plain_run)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("count, written", ((4, False), (profile.WARM_UP, False), (6, True)))
def test_a_run_that_ends_before_its_profile_does(count, written, tmp_path):
    said = []
    with StepProfiler(tmp_path, 3, ONE, said.append) as profiler:
        for _ in range(count):
            profiler.step()
    assert (tmp_path / "rank0.pt.trace.json.gz").exists() == written
    assert len(said) == 1 and ("no profile" in said[0]) != written


def test_a_run_that_fails_leaves_no_profile_and_hides_nothing(tmp_path):
    said = []
    with pytest.raises(UserError, match="a bad loss"), StepProfiler(tmp_path, 3, ONE, said.append) as profiler:
        for _ in range(profile.WARM_UP + 1):
            profiler.step()
        raise UserError("a bad loss")
    assert not said and not list(tmp_path.iterdir())


def test_a_profile_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"file.*cannot be written"),
        StepProfiler(tmp_path / "file" / "profile", 1, ONE, print) as profiler,
    ):
        for _ in range(profile.WARM_UP + 1):
            profiler.step()

"""Loggers: the files of a run's folder, own ones, and what fails."""

import io
import json
import math

import pytest
from rich.console import Console
from train_data import make_recipe, open_images, write_images
from training_parts import DRAWN, entries, interval, run_info, values

from pplfast.cli.train import LOGGERS
from pplfast.errors import UserError
from pplfast.train import TrainOptions, loggers, train
from pplfast.train.log import TrainLog
from pplfast.train.loggers import KNOWN, check_loggers, open_loggers
from pplfast.train.run_info import numbers


def test_the_command_knows_the_same_names():
    assert tuple(KNOWN) == LOGGERS and tuple(TrainOptions().loggers) == loggers.DEFAULT


def test_log_of_a_resumed_run_continues_after_the_checkpoint(tmp_path, capsys):
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3, 4)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 5, "lo', encoding="utf-8")
    log = TrainLog(run_info(tmp_path, 2), 10, loggers.DEFAULT)
    log.write(interval(10))
    log.close()
    assert [(entry["step"], entry["loss"]) for entry in entries(tmp_path)] == [(1, 1.0), (2, 1.0), (10, 0.5)]
    assert "stage 1/2 (no patches): step 10/10, loss 0.5000, 2.0 images/s, 500.0 GFLOP/s" in capsys.readouterr().err
    assert list((tmp_path / "tb").glob("events.*"))
    TrainLog(run_info(tmp_path / "new"), 10, ("jsonl",)).close()
    assert not (tmp_path / "new" / "tb").exists()


def test_numbers_are_what_can_be_drawn():
    assert numbers(values(3)).keys() == DRAWN and numbers(values(3))["loss"] == 0.5
    assert "loss" not in numbers(values(3, math.nan))


def test_tensorboard_has_the_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for step, loss in ((0, 0.5), (2, 0.25)):  # steps 1 to 4, and 3 to 4 again
        made = open_loggers(("tensorboard",), run_info(tmp_path, step))["tensorboard"]
        for later in range(step + 1, 5):
            made.log(later, values(later, loss))
        made.close()
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert set(events.Tags()["scalars"]) == DRAWN
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 0.5), (3, 0.25), (4, 0.25)]


@pytest.mark.parametrize("name", ("wandb", "mlflow"))
def test_a_missing_package_is_told_before_anything_is_written(name, tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    dataset = open_images(write_images(tmp_path / "data", 4))
    with pytest.raises(UserError) as caught:
        train(make_recipe(), dataset, tmp_path / "out", options=TrainOptions(threads=1, loggers=(name,)))
    assert f"--logger {name}" in str(caught.value) and f"pip install {name}" in str(caught.value)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="--logger carbon: choose from jsonl, tensorboard"):
        check_loggers(("carbon",))


class Failing:
    def __init__(self, error: Exception, where: str = "log"):
        self.error, self.where, self.calls = error, where, []

    def log(self, step, values):
        self.calls.append(step)
        if self.where == "log":
            raise self.error

    def close(self):
        self.calls.append("close")
        if self.where == "close":
            raise self.error


@pytest.mark.parametrize("where, calls", (("log", [1]), ("close", [1, 2, "close"])))
def test_a_tracker_that_fails_does_not_end_the_run(where, calls, tmp_path, monkeypatch):
    failing, stream = Failing(ConnectionError("no route to host"), where), io.StringIO()
    monkeypatch.setitem(KNOWN, "mlflow", loggers._Known(lambda run: failing))
    log = TrainLog(run_info(tmp_path), 10, ("mlflow",), Console(file=stream))
    log.write(interval(1))
    log.write(interval(2))
    log.close()
    assert failing.calls == calls and len(entries(tmp_path)) == 2
    [line] = [line for line in stream.getvalue().splitlines() if "mlflow" in line]
    assert "no route to host" in line and ("nothing from step 1 on" in line or where == "close")


def test_a_full_disk_does(tmp_path, monkeypatch):
    log = TrainLog(run_info(tmp_path), 10, ("jsonl",), Console(file=io.StringIO()))
    log._loggers["jsonl"]._file = open("/dev/full", "wb", buffering=0)
    with pytest.raises(UserError, match=r"log.jsonl: the disk is full"):
        log.write(interval(1))


OWN = """
class Csv:
    def __init__(self, run):
        self.folder, self.file = run.folder, open(run.folder / "own.csv", "a")

    def log(self, step, values):
        self.file.write(f"{step},{values['loss']}\\n")

    def close(self):
        self.file.write(f"saved: {(self.folder / 'classifier.json').is_file()}\\n")
        self.file.close()

class Broken(Csv):
    def __init__(self, run):
        raise ValueError("no")

class Half:
    def log(self, step, values):
        pass
"""


@pytest.mark.slow
def test_an_own_logger_by_the_name_of_its_class(tmp_path, monkeypatch):
    (tmp_path / "own_loggers.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    dataset, out = open_images(write_images(tmp_path / "data", 4)), tmp_path / "out"
    recipe = make_recipe(stages=[{"epochs": 1}])
    for name, message in (
        ("own_loggers:Half", "must be a class with log"),
        ("own_loggers:OWN", "own_loggers has no OWN"),
        ("nowhere_at_all:Csv", "no module nowhere_at_all"),
        ("os:Csv", "Python itself"),
    ):
        with pytest.raises(UserError, match=message):
            train(recipe, dataset, out, options=TrainOptions(threads=1, loggers=(name,)))
        assert not out.exists()
    with pytest.raises(UserError, match=r"--logger own_loggers:Broken: cannot start: ValueError\('no'\)"):
        train(recipe, dataset, tmp_path / "broken", options=TrainOptions(threads=1, loggers=("own_loggers:Broken",)))
    train(recipe, dataset, out, options=TrainOptions(threads=1, log_every=1, loggers=("own_loggers:Csv",)))
    lines = [f"{line['step']},{line['loss']}" for line in entries(out)]
    assert (out / "own.csv").read_text().splitlines() == [*lines, "saved: True"]  # a server may hold up its end

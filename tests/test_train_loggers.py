"""Loggers: their files, the trackers by recorded calls and (where they are installed) for real, and what fails."""

import io
import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
from rich.console import Console
from train_data import make_recipe, open_images, write_images

from pplfast.cli.train import LOGGERS
from pplfast.errors import UserError
from pplfast.train import TrainOptions, loggers, train
from pplfast.train.checkpoint import CheckpointFolder
from pplfast.train.log import Interval, TrainLog
from pplfast.train.loggers import KNOWN, RunInfo, check_loggers, numbers, open_loggers
from pplfast.train.meter import Rates
from pplfast.train.plan import StagePlan

SETTINGS = {"variant": "ppl", "recipe": {"optim": {"lr": 0.1}, "scales": [0.5, 1.0]}, "long": "x" * 1000}
RATES = Rates(2.0, 4.0, 0.5, None, 1.5)
DRAWN = {"stage", "epoch", "loss", "lr", "images_per_s", "tflops", "memory_peak_gib"}


def run_info(folder: Path, step: int = 0) -> RunInfo:
    folder.mkdir(parents=True, exist_ok=True)
    return RunInfo(folder, step, "ppl classifier, resnet50", SETTINGS)


def interval(step: int, loss: float = 0.5) -> Interval:
    return Interval(0, 2, StagePlan((), (), 1.0, 1.0), step, step / 10, loss, 0.1, RATES)


def values(step: int, loss: float = 0.5) -> dict:
    return interval(step, loss).values()


def entries(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_command_knows_the_same_names():
    assert tuple(KNOWN) == LOGGERS and tuple(TrainOptions().loggers) == loggers.DEFAULT


def test_log_of_a_resumed_run_continues_after_the_checkpoint(tmp_path, capsys):
    lines = [json.dumps({"iteration": step, "loss": 1.0}) for step in (1, 2, 3, 4)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"iteration": 5, "lo', encoding="utf-8")
    log = TrainLog(run_info(tmp_path, 2), 10, loggers.DEFAULT)
    assert log.last_loss == 1.0
    log.write(interval(10))
    log.close()
    assert [(entry["iteration"], entry["loss"]) for entry in entries(tmp_path)] == [(1, 1.0), (2, 1.0), (10, 0.5)]
    assert "stage 1/2 (no patches): step 10/10, loss 0.5000, 2.0 images/s, 500.0 GFLOP/s" in capsys.readouterr().err
    assert list((tmp_path / "tb").glob("events.*"))
    assert math.isnan(TrainLog(run_info(tmp_path / "new"), 10, ("jsonl",)).last_loss)
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
    log._loggers["jsonl"]._file = open("/dev/full", "w", encoding="utf-8")
    with pytest.raises(UserError, match=r"log.jsonl: the disk is full"):
        log.write(interval(1))


class FakeWandb(ModuleType):
    class Error(Exception):
        pass

    def __init__(self):
        super().__init__("wandb")
        self.inits, self.logged, self.finished = [], [], 0

    def init(self, **arguments):
        if "project" not in arguments:
            raise self.Error("no project")
        self.inits.append(arguments)
        return SimpleNamespace(log=lambda data, step: self.logged.append((step, data)), finish=self._finish)

    def _finish(self):
        self.finished += 1


def test_what_weights_and_biases_is_told(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    for step in (0, 2):
        made = open_loggers(("jsonl", "wandb", "wandb"), run_info(tmp_path, step))
        assert list(made) == ["wandb"]
        made["wandb"].log(step + 1, values(step + 1))
        made["wandb"].close()
        monkeypatch.setenv("WANDB_PROJECT", "own")
    first, second = fake.inits
    assert first["id"] == second["id"] and (first["resume"], second["resume"]) == (None, "allow")
    assert (first["project"], second["project"]) == ("pplfast", "own")
    assert first["dir"] == str(tmp_path) and first["config"] == SETTINGS and first["name"] == "ppl classifier, resnet50"
    assert [step for step, _ in fake.logged] == [1, 3] and fake.logged[0][1].keys() == DRAWN and fake.finished == 2


def test_weights_and_biases_without_an_account(tmp_path, monkeypatch):
    fake = FakeWandb()
    fake.init = lambda **_: (_ for _ in ()).throw(fake.Error("api_key not configured (no-tty)\ncall wandb.login"))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(UserError, match=r"^--logger wandb: api_key not configured \(no-tty\); run `wandb login`"):
        open_loggers(("wandb",), run_info(tmp_path))
    assert not (tmp_path / "trackers.json").exists()


class FakeMlflowClient:
    """With the names and orders of MlflowClient's arguments."""

    experiments: ClassVar[dict] = {}
    runs: ClassVar[dict] = {}

    def get_experiment_by_name(self, name):
        found = self.experiments.get(name)
        return found and SimpleNamespace(experiment_id=found)

    def create_experiment(self, name):
        self.experiments[name] = str(len(self.experiments) + 1)
        return self.experiments[name]

    def create_run(self, experiment_id, start_time=None, tags=None, run_name=None):
        name = f"run{len(self.runs)}"
        self.runs[name] = {"experiment": experiment_id, "name": run_name, "status": "RUNNING", "batches": []}
        return SimpleNamespace(info=SimpleNamespace(run_id=name))

    def update_run(self, run_id, status=None, name=None):
        self.runs[run_id]["status"] = status

    def log_batch(self, run_id, metrics=(), params=(), tags=()):
        self.runs[run_id]["batches"].append((list(metrics), list(params)))

    def get_metric_history(self, run_id, key):
        return [point for metrics, _ in self.runs[run_id]["batches"] for point in metrics if point.key == key]

    def set_terminated(self, run_id, status=None, end_time=None):
        self.runs[run_id]["status"] = status or "FINISHED"


def fake_mlflow(monkeypatch, client) -> None:
    mlflow, entities, exceptions = ModuleType("mlflow"), ModuleType("mlflow.entities"), ModuleType("mlflow.exceptions")
    mlflow.MlflowClient = client
    entities.Metric = lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step)
    entities.Param = lambda key, value: (key, value)
    exceptions.MlflowException = type("MlflowException", (Exception,), {})
    for module in (mlflow, entities, exceptions):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_what_mlflow_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(FakeMlflowClient, "experiments", {})
    monkeypatch.setattr(FakeMlflowClient, "runs", {})
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    fake_mlflow(monkeypatch, FakeMlflowClient)
    for first in (0, 2):  # steps 1 to 3, then 3 to 5: step 3 comes again
        made = open_loggers(("mlflow",), run_info(tmp_path, first))["mlflow"]
        assert FakeMlflowClient.runs["run0"]["status"] == "RUNNING"
        for step in range(first + 1, first + 4):
            made.log(step, values(step))
        made.close()
    [run] = FakeMlflowClient.runs.values()
    assert FakeMlflowClient.experiments == {"pplfast": "1"} and run["experiment"] == "1" and run["status"] == "FINISHED"
    assert [metrics[0].step for metrics, _ in run["batches"] if metrics] == [1, 2, 3, 4, 5]
    assert {metric.key for metric in run["batches"][-1][0]} == DRAWN
    parameters = dict(pair for _, pairs in run["batches"] for pair in pairs)
    assert parameters == {
        "variant": "ppl", "recipe.optim.lr": "0.1", "recipe.scales": "[0.5, 1.0]", "long": "x" * 500,
    }  # fmt: skip


def test_an_mlflow_server_that_does_not_answer(tmp_path, monkeypatch):
    class Unreachable(FakeMlflowClient):
        def get_experiment_by_name(self, name):
            raise ConnectionError("HTTPConnectionPool(host='tracker'): refused")

    fake_mlflow(monkeypatch, Unreachable)
    with pytest.raises(UserError, match="^--logger mlflow: HTTPConnectionPool.*; set MLFLOW_TRACKING_URI"):
        open_loggers(("mlflow",), run_info(tmp_path))


def interrupted_and_resumed(tmp_path: Path, monkeypatch, name: str) -> Path:
    """A run with this logger that stops in step 3 behind a checkpoint of step 2 and a line of step 3."""
    dataset, out = open_images(write_images(tmp_path / "data")), tmp_path / "out"
    options = TrainOptions(threads=1, log_every=1, checkpoint_every=2, loggers=(name,))
    recipe = make_recipe(stages=[{"epochs": 2}])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def write(log, interval, plain=TrainLog.write):
            plain(log, interval)
            if interval.step == 3:
                raise KeyboardInterrupt

        patch.setattr(TrainLog, "write", write)
        train(recipe, dataset, out, options=options)
    train(recipe, dataset, out, resume=True, options=options)
    assert [entry["iteration"] for entry in entries(out)] == [1, 2, 3, 4]
    return out


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
    lines = [f"{line['iteration']},{line['loss']}" for line in entries(out)]
    assert (out / "own.csv").read_text().splitlines() == [*lines, "saved: True"]  # a server may hold up its end


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb: pip install wandb")
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("CONSOLE", "off"), ("DISABLE_GIT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    for name in ("CONFIG", "CACHE", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb-home"))
    out = interrupted_and_resumed(tmp_path, monkeypatch, "wandb")
    name = json.loads((out / "trackers.json").read_text())["wandb"]
    files = sorted((out / "wandb").glob(f"offline-run-*-{name}*/run-{name}.wandb"))
    assert files and all(path.stat().st_size > 0 for path in files)


@pytest.mark.slow
def test_mlflow_with_a_store_of_files(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow: pip install mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    out = interrupted_and_resumed(tmp_path, monkeypatch, "mlflow")
    name = json.loads((out / "trackers.json").read_text())["mlflow"]
    client = mlflow.MlflowClient()
    run = client.get_run(name)
    assert run.info.status == "FINISHED" and run.data.params["recipe.optim.batch"] == "8"
    points = client.get_metric_history(name, "loss")
    assert [point.step for point in points] == [1, 2, 3, 4]
    assert [point.value for point in points] == pytest.approx([entry["loss"] for entry in entries(out)])


@pytest.mark.slow
def test_a_run_that_only_has_to_be_saved_keeps_its_loss(tmp_path, monkeypatch):
    """Killed between its last checkpoint and its result: nothing is trained, and no NaN written."""
    dataset, out = open_images(write_images(tmp_path / "data")), tmp_path / "out"
    recipe, options = make_recipe(stages=[{"epochs": 1}]), TrainOptions(threads=1, log_every=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def finish(folder, plain=CheckpointFolder.finish):
            plain(folder)
            if folder.last is not None:
                raise KeyboardInterrupt

        patch.setattr(CheckpointFolder, "finish", finish)
        train(recipe, dataset, out, options=options)
    done = train(recipe, dataset, out, resume=True, options=options)
    assert done.loss == entries(out)[-1]["loss"] and "NaN" not in (out / "classifier.json").read_text()

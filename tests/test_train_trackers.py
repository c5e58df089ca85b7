"""Weights & Biases and MLflow by recorded calls, and for real where they are installed."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
from train_data import make_recipe, open_images, write_images
from training_parts import DRAWN, SETTINGS, entries, run_info, values

from pplfast.errors import UserError
from pplfast.train import TrainOptions, train
from pplfast.train.log import TrainLog
from pplfast.train.loggers import open_loggers


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
    assert [entry["step"] for entry in entries(out)] == [1, 2, 3, 4]
    return out


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

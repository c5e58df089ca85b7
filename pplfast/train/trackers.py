"""Experiment trackers: servers that show many runs beside each other. Each is set up by its own variables of the
environment; a resumed run goes on as the same run, whose id is kept in the run's folder."""

import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pplfast.errors import UserError
from pplfast.files import is_output, read_json, write_json
from pplfast.train.run_info import RunInfo, numbers

IDS = "trackers.json"  # in the run's folder: tracker -> id of the run there
RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
PROJECT = "pplfast"  # where the environment names none
PARAMETERS, LONGEST = 100, 500  # of a request to MLflow, and characters of one: what all its versions take


class WeightsAndBiases:
    """WANDB_PROJECT, WANDB_MODE=offline and so on are obeyed; its files lie in the run's folder, in wandb/."""

    def __init__(self, run: RunInfo) -> None:
        import wandb

        known = _run_id(run.folder, "wandb")
        name = known or secrets.token_hex(8)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=os.environ.get("WANDB_NAME", run.name),
                id=name,
                resume="allow" if known else None,
                dir=str(run.folder),
                config=dict(run.settings),
            )
        except wandb.Error as error:
            raise UserError(
                f"--logger wandb: {_first_line(error)}; run `wandb login`, or set WANDB_MODE=offline"
            ) from error
        _keep_run_id(run.folder, "wandb", name)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Steps that come again are left out by W&B itself, which takes rising ones only."""
        self._run.log(numbers(values), step=step)

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME are obeyed."""

    def __init__(self, run: RunInfo) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException

        self._metric = Metric
        self._logged = 0  # the last step that the server has
        known = _run_id(run.folder, "mlflow")
        try:
            self._client = MlflowClient()
            if known:
                self._id = known
                self._client.update_run(self._id, status="RUNNING")
                self._logged = max(
                    (point.step for point in self._client.get_metric_history(self._id, "loss")), default=0
                )
            else:
                self._id = self._client.create_run(self._experiment(), run_name=run.name).info.run_id
                parameters = [Param(key, text) for key, text in _flat(run.settings).items()]
                for first in range(0, len(parameters), PARAMETERS):
                    self._client.log_batch(self._id, params=parameters[first : first + PARAMETERS])
        except (MlflowException, OSError) as error:
            raise UserError(
                f"--logger mlflow: {_first_line(error)}; set MLFLOW_TRACKING_URI to a server that answers"
                + (f", the one that has the run {known}, or remove {run.folder / IDS}" if known else "")
            ) from error
        _keep_run_id(run.folder, "mlflow", self._id)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        if step <= self._logged:  # MLflow would keep both, at the same step
            return
        now = int(time.time() * 1000)
        metrics = [self._metric(key, float(value), now, step) for key, value in numbers(values).items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._id)

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))


def _run_id(folder: Path, tracker: str) -> str:
    """ "" for a run that the tracker does not have yet."""
    name = _run_ids(folder).get(tracker, "")
    if not isinstance(name, str) or (name and not RUN_ID.fullmatch(name)):
        raise UserError(
            f"{folder / IDS}: holds no name of a run for {tracker}; delete it, and a new run is begun there"
        )
    return name


def _keep_run_id(folder: Path, tracker: str, name: str) -> None:
    write_json(folder / IDS, _run_ids(folder) | {tracker: name})


def _run_ids(folder: Path) -> dict[str, Any]:
    return read_json(folder / IDS) if is_output(folder / IDS) else {}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested tables as one, with dotted keys; other values as text."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)[:LONGEST]}
        )
    return flat


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")

"""The records of a run's steps, as the chain takes them up again."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from fuzz.reader import Reader
from fuzz.readers_records import JSON, small_config, small_data
from pplfast.cluster.ranks import Ranks
from pplfast.data.dataset import Dataset
from pplfast.recipe import load_recipe
from pplfast.run.chain import _check_data
from pplfast.run.config import Lists
from pplfast.run.steps import Steps
from pplfast.run.variant import _summary
from pplfast.run.work import Work
from pplfast.steps import STEP, TEST, TRAIN, VAL

ALONE = Ranks(0, 1, 1, torch.device("cpu"))


class Silent:
    """Says nothing of the steps."""

    def __call__(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def _sets(root: Path) -> dict[str, Dataset]:
    return dict.fromkeys((TRAIN, VAL, TEST), small_data(root))


FACTS = {
    "source": "labels",
    "dataset": "d",
    "images": 3,
    "listed": 3,
    "foreground": 50.0,
    "almost_all": 0,
    "declared": 4,
    "empty": 0,
    "absent": 0.0,
}
VALUES: dict[str, dict[str, Any]] = {
    "train": {"images_per_second": 20.5, "loss": 0.1, "seconds": 9.5},
    "cams": {"images": 3, "images_per_second": 5.0, "missing": 0},
    "eval_cam": {"miou": 50.5, "threshold": 0.3},
    "labels": {"missing": 0},
    "eval_label": {"miou": 51.5},
    "facts_label": FACTS,
}


def _run_steps(folder: Path) -> Work:
    config: Any = SimpleNamespace(recipe=load_recipe("demo"), out=folder)
    work = Work(config, "plain", Lists(_sets(folder / "data"), {}, {}), folder, ALONE, Silent())
    steps = Steps(folder / "plain", ALONE, Silent())
    for name, values in VALUES.items():
        settings, output = {"a": [1, 2.5], "name": name}, folder / "plain" / STEP[name].output
        work.results[name] = steps.run(name, settings, lambda values=values: dict(values), output, STEP[name].kind)
    return work


def _steps(folder: Path) -> None:
    _run_steps(folder)
    for name in VALUES:
        output = folder / "plain" / STEP[name].output
        output.touch() if output.suffix else output.mkdir()


def _read_steps(folder: Path) -> None:
    json.dumps(_summary(_run_steps(folder)))


RECORD = "steps/check data.json"  # holds the place of its data set, which is another one for each process
PLACE = b"@place@"


def _lists(folder: Path) -> None:
    _check_lists(folder)
    content = (folder / RECORD).read_bytes()
    (folder / RECORD).write_bytes(content.replace(bytes(folder.resolve()), PLACE))


def _read_lists(folder: Path) -> None:
    content = (folder / RECORD).read_bytes()
    (folder / RECORD).write_bytes(content.replace(PLACE, bytes(folder.resolve())))
    _check_lists(folder)


def _check_lists(folder: Path) -> None:
    config: Any = small_config(folder / "data")
    config = SimpleNamespace(train=config, val=config, test=None, out=folder)
    _check_data(config, _sets(folder / "data"), ALONE, Silent())


def readers() -> list[Reader]:
    return [
        *(
            Reader(f"step_{name}", f"plain/steps/{name}.json", _steps, JSON, _read_steps, writes=True)
            for name in ("train", "eval_cam", "labels", "facts_label")
        ),
        Reader("step_check_data", RECORD, _lists, JSON, _read_lists, writes=True),
    ]

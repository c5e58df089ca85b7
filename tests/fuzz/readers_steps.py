"""The records of a run's steps, as the chain takes them up again."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fuzz.reader import Reader
from fuzz.readers_records import JSON, small_config, small_data
from pplfast.recipe import LabelConfig, load_recipe
from pplfast.run.chain import _check_data
from pplfast.run.variant import VariantChain


class Silent:
    """Says nothing of the steps."""

    def __call__(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def _chain(folder: Path) -> VariantChain:
    dataset = small_data(folder / "data")
    config = SimpleNamespace(recipe=load_recipe("demo"), out=folder)
    return VariantChain(config, "plain", dataset, dataset, dataset, Silent())


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


def _run_steps(folder: Path) -> VariantChain:
    chain = _chain(folder)
    for name, values in VALUES.items():
        chain.step(name, {"a": [1, 2.5], "name": name}, lambda values=values: dict(values))
    return chain


def _steps(folder: Path) -> None:
    chain = _run_steps(folder)
    for name in VALUES:
        output = chain.output(name)
        output.touch() if output.suffix else output.mkdir()


def _read_steps(folder: Path) -> None:
    chain = _run_steps(folder)
    label = chain.resolve_label(LabelConfig(crf="none"), "eval_cam")
    json.dumps(chain.summary(label))


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
    root = folder / "data"
    config = small_config(root)
    _check_data({config: small_data(root)}, SimpleNamespace(train=config, val=config, test=None, out=folder), Silent())


def readers() -> list[Reader]:
    return [
        *(
            Reader(f"step_{name}", f"plain/steps/{name}.json", _steps, JSON, _read_steps, writes=True)
            for name in ("train", "eval_cam", "labels", "facts_label")
        ),
        Reader("step_check_data", RECORD, _lists, JSON, _read_lists, writes=True),
    ]

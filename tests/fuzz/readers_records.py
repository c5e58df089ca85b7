"""JSON that pplfast writes and reads again: settings, manifests, heartbeats, the records and the log of a training."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import data_sets
import torch
from jobs_small import Mean, SmallClassifier, plan_of

import fuzz.mutate as mutate
from fuzz.reader import Reader
from fuzz.trees import json_lines, json_tree
from pplfast.benchmarks.compare import compare, read_results
from pplfast.benchmarks.results import SCHEMA
from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.data.demo import MARKER, RENDERER, make_demo
from pplfast.data.demo_config import DemoConfig
from pplfast.files import write_json
from pplfast.jobs.file_outputs import FileOutputs
from pplfast.jobs.folder import claim_folder, decide, find_outputs, read_settings
from pplfast.jobs.manifest import MERGED, checksum, merge, read_manifest
from pplfast.jobs.plan import source_state
from pplfast.jobs.shards import OPEN_SUFFIX
from pplfast.jobs.status import Status, Total, read_status, status_file
from pplfast.labels.network import network_choices
from pplfast.recipe import load_recipe
from pplfast.train import identity
from pplfast.train.classifier import ClassifierTask
from pplfast.train.loggers import JsonLines
from pplfast.train.run_info import RunInfo
from pplfast.train.trackers import IDS, _keep_run_id, _run_id
from pplfast.train.trainer import _claim

IDS_OF_IMAGES = ("a.1", "b", "c")
CLASSES = "cat=8,dog=12"
SETTINGS = {
    "scales": [0.5, 1.0],
    "flip": True,
    "class_ids": [8, 12],
    "classifier": "0123456789abcdef",
    "precision": "fp32",
    "call_pixels": 1 << 20,
    "cams": {"value": 0.3},
}
JSON = mutate.mixed(json_tree, json_tree, json_tree)
LINES = mutate.mixed(json_lines, json_lines)


def small_data(root: Path) -> Dataset:
    if not root.is_dir():
        rows = []
        for seed, name in enumerate(IDS_OF_IMAGES):
            data_sets.save_image(root / f"{name}.jpg", seed=seed)
            rows.append(f"{name},{('cat', 'dog', 'cat;dog')[seed]}\n")
        (root / "labels.csv").write_text("".join(rows))
    return open_dataset(small_config(root))


def small_config(root: Path) -> DataConfig:
    return DataConfig(str(root), labels=str(root / "labels.csv"), classes=CLASSES)


# ---- folders of outputs


def _label_folder(folder: Path) -> None:
    folder.joinpath("out").mkdir()
    write_json(folder / "out/settings.json", SETTINGS)


def _read_settings(folder: Path) -> None:
    """As a job that goes on in the folder, with what was decided there where that can be."""
    out, cpu = folder / "out", torch.device("cpu")
    read_settings(out)
    model = SmallClassifier()
    settings = decide(out, SETTINGS, network_choices(model, model.maps, "auto", cpu, 1 << 28))
    assert settings["precision"] in ("fp32", "bf16") and type(settings["call_pixels"]) is int
    claim_folder(out, settings)


# ---- a job


def _job(folder: Path) -> None:
    dataset, out = small_data(folder / "data"), folder / "out"
    (out / "shards").mkdir(parents=True)
    for name in ("b.png", "shards/labels-00000-000000.tar", f"shards/.labels-00000-000001.tar{OPEN_SUFFIX}"):
        (out / name).write_bytes(b"label" * 400)
    entry = {"bytes": 2000, "sha256": checksum(b"label" * 400)}
    shard = {
        "file": "shards/labels-00000-000000.tar",
        "offset": 512,
        "bytes": 1000,
        "sha256": checksum((b"label" * 400)[512:1512]),
    }
    records = [
        {
            "id": "a.1",
            "state": "bad",
            "kind": "truncated",
            "reason": "x",
            "source": source_state(dataset.images[0]),
            "inputs": {"bad": "x"},
            "time": 1.5,
        },
        {
            "id": "b",
            "state": "done",
            "files": [{"file": "b.png", **entry}],
            "time": 2.5,
            "classes": [8],
            "source": source_state(dataset.images[1]),
            "inputs": {"classes": [8]},
            "image_sha256": checksum(dataset.images[1].read_bytes()),
            "tiled": 65536,
            "height": 30,
            "width": 40,
        },
        {"id": "c", "state": "done", "files": [shard], "time": 3.5, "rank": 0},
        {
            "id": "torn",
            "state": "done",
            "files": [{**shard, "file": "shards/labels-00000-000001.tar"}],
            "time": 3.5,
            "rank": 0,
        },
        {"id": "of another list", "state": "done", "files": [{"file": "of another list.png", **entry}], "time": 4.5},
    ]
    merge(out, records)
    (out / "manifest").mkdir()
    (out / "manifest/rank00000.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records[1:]))


def _plan(verify: bool) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        dataset, out = small_data(folder / "data"), folder / "out"
        find_outputs(out, ["b"], ".png", "pplfast label")
        plan_of(Mean(dataset), out, verify)
        left = (folder / "data/b.jpg", folder / "data/labels.csv")
        assert all(path.exists() for path in left), "removed a file outside the labels' folder"
        FileOutputs(Mean(dataset), out).conclude(0)
        read_manifest(out)

    return read


def _status(folder: Path) -> None:
    (folder / "manifest").mkdir()
    status = Status("token", 0, "running", 9, 3, 1, 2.5, {"crf": 0.5}, 1 << 20)
    write_json(status_file(folder, 0), vars(status))


def _read_status(folder: Path) -> None:
    """As the display of rank 0 does, which survives what it cannot read."""
    found = read_status(folder, 0, "token")
    if found is not None:
        Total.of([found]).phases()


# ---- training


def _task(root: Path) -> ClassifierTask:
    return ClassifierTask(
        load_recipe("demo", {"optim.precision": "fp32"}), "ppl", small_data(root)
    )  # "auto" is measured


def _training(folder: Path) -> None:
    record = _task(folder / "data").record() | {"precision": "fp32", "float32": "ieee"}
    (folder / "train").mkdir()
    write_json(folder / "train" / identity.RECORD, record)
    write_json(folder / "train" / IDS, {"wandb": "0123", "mlflow": "4567"})
    lines = [json.dumps({"step": step, "loss": 1 / step, "epoch": step / 4, "time": 1.5}) for step in range(1, 9)]
    (folder / "train/log.jsonl").write_text("\n".join(lines) + '\n{"step": 9, "lo')


def _read_record(folder: Path) -> None:
    task = _task(folder / "data")
    ranks = SimpleNamespace(device=SimpleNamespace(type="cpu"))
    run = SimpleNamespace(task=task, optim=task.optim, ranks=ranks, folder=folder / "train")
    assert _claim(run, task.record(), True)[1] in ("fp32", "bf16", "fp16")


def _read_log(folder: Path) -> None:
    lines = JsonLines(RunInfo(folder / "train", 5, "title", {}))
    lines.log(6, {"loss": 0.5})
    lines.close()


def _read_trackers(folder: Path) -> None:
    _run_id(folder / "train", "wandb")
    _keep_run_id(folder / "train", "mlflow", "89")


# ---- others


def _demo(folder: Path) -> None:
    (folder / "demo").mkdir()
    write_json(folder / "demo" / MARKER, {"renderer": RENDERER, **vars(DemoConfig())})


def _read_demo(folder: Path) -> None:
    assert not make_demo(folder / "demo", DemoConfig()), "made over what is there"


def _results(folder: Path) -> None:
    spread = {"median": 1.5, "q20": 1.4, "q80": 1.6}
    place = {"bench": "cam", "case": "k=2"}
    value = {
        "schema": SCHEMA,
        "device": "cuda",
        "commit": "abc",
        "hardware": {"gpu": "H100", "cores": 2},
        "checks": [{**place, "what": "difference", "value": 1e-7, "limit": 1e-4, "passed": True}],
        "rows": [{**place, "contestant": "pplfast", "seconds": spread}],
        "ratios": [
            {**place, "numerator": "reference", "denominator": "pplfast", "higher_is_better": True, "ratio": spread}
        ],
    }
    write_json(folder / "a.json", value)
    shutil.copy(folder / "a.json", folder / "b.json")


def _compare(folder: Path) -> None:
    tables = [read_results(str(folder / name)) for name in ("a.json", "b.json")]
    compare(*tables)
    compare(*tables[::-1])


def readers() -> list[Reader]:
    return [
        Reader(
            "settings_json",
            "out/settings.json",
            _label_folder,
            JSON,
            _read_settings,
            named=("input/out:",),
            writes=True,
        ),
        Reader("manifest", f"out/{MERGED}", _job, LINES, _plan(False), writes=True),
        Reader("manifest_verify", f"out/{MERGED}", _job, LINES, _plan(True), writes=True),
        Reader("manifest_rank", "out/manifest/rank00000.jsonl", _job, LINES, _plan(True), writes=True, named=(MERGED,)),
        Reader("status", "manifest/rank00000.status", _status, JSON, _read_status),
        Reader(
            "recipe_json",
            f"train/{identity.RECORD}",
            _training,
            JSON,
            _read_record,
            named=("/train: holds a run",),
            writes=True,
        ),
        Reader("log_jsonl", "train/log.jsonl", _training, LINES, _read_log, writes=True),
        Reader("trackers_json", f"train/{IDS}", _training, JSON, _read_trackers, writes=True),
        Reader("demo_json", f"demo/{MARKER}", _demo, JSON, _read_demo, named=("demo: holds a demo set",)),
        Reader("bench_json", "b.json", _results, JSON, _compare),
    ]

"""Each file of examples/ as its reader would run it, on a tiny data set with tiny settings."""

import ast
import json
import os
import runpy
import stat
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image
from train_data import CLASSES, write_images

import pplfast
from pplfast.data.demo import DemoConfig, make_demo
from pplfast.models.registry import BACKBONES
from pplfast.patch.pooling import POOLINGS
from pplfast.train.loss import LOSSES

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SMALL = ["augment.crop=64", "augment.resize_long=[64, 96]", "optim.batch=4", "optim.precision=fp32", "cam.scales=[1.0]"]
# A network of seconds: that of custom_backbone.py, in the examples that do not bring one.
BACKBONE = ["backbone=custom_backbone:SmallNet", "weights=none", "frozen_blocks=0"]
SMALL_NET = [f"model.{setting}" for setting in BACKBONE] + ["stages.0.position=early", "stages.1.position=middle"]
MOST_LINES = 60


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "demo"
    make_demo(root, DemoConfig(train=8, val=2, size=96))
    return root


@pytest.fixture(autouse=True)
def quiet(monkeypatch, one_thread):
    """One thread, and the registries as they were: an example registers its parts for good."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    for registry in (BACKBONES, LOSSES, POOLINGS):
        registry._own.clear()


def run_example(name: str, monkeypatch, *arguments: object) -> None:
    """`python examples/<name> arguments`, in this process: the script's folder comes first on the path."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The run of own_images.py on ten photos."""
    folder = tmp_path_factory.mktemp("own")
    write_images(folder / "photos")
    tables = ("", "affinity.", "segmentation.")
    sizes = [f"{table}{setting}" for table in tables for setting in SMALL[:4]]
    rest = ["stages.0.epochs=1", "stages.1.epochs=1", "affinity.epochs=1", "segmentation.epochs=1"]
    rest += [*SMALL_NET, *(f"segmentation.model.{setting}" for setting in BACKBONE)]
    rest += ["cam.scales=[1.0]", "segmentation.scales=[1.0]", "affinity.walk.steps=8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)
        photos = folder / "photos"
        run_example("own_images.py", patch, photos, photos / "labels.csv", CLASSES, folder / "run", *sizes, *rest)
    return folder


def test_own_images(trained):
    run = trained / "run"
    labels = sorted((run / "ppl" / "labels_network").glob("*.png"))
    assert len(labels) == 10 and (run / "report.html").is_file()
    recipe = json.loads((run / "run.json").read_text())["recipe"]
    assert recipe["name"] == "own-images" and recipe["segmentation"]["augment"]["crop"] == 64


def test_custom_backbone(demo, tmp_path, monkeypatch, capsys):
    run_example("custom_backbone.py", monkeypatch, demo, tmp_path / "own", *SMALL, "stages.0.epochs=1")
    assert "SmallNet" in capsys.readouterr().out
    info = pplfast.read_info(tmp_path / "own")
    assert info.model["backbone"] == "custom_backbone:SmallNet" and info.stages == (("middle", 4),)


def test_custom_loss(demo, tmp_path, monkeypatch, capsys):
    run_example("custom_loss.py", monkeypatch, demo, tmp_path / "own", *SMALL, *SMALL_NET)
    assert "steps, loss 0." in capsys.readouterr().out
    recipe = pplfast.read_info(tmp_path / "own").recipe
    assert (recipe["loss"], recipe["model"]["pooling"]) == ("focal", "power_mean")


STUBS = {
    "scontrol": 'echo localhost; echo node-b',
    # One task, as Slurm starts it; what it was asked to start is kept.
    "srun": 'printf "%s\\n" "$@" > "$STUBS/asked"; shift; '
    "SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1 SLURM_NTASKS_PER_NODE=1 exec \"$@\"",
    "pplfast": f'exec "{sys.executable}" -m pplfast "$@"',
}  # fmt: skip


@pytest.fixture(scope="module")
def labelled(trained, tmp_path_factory) -> Path:
    """The labels of label_on_slurm.sh, where one photo is damaged; Slurm's commands are stubs."""
    stubs = tmp_path_factory.mktemp("stubs")
    for name, line in STUBS.items():
        (stubs / name).write_text(f"#!/usr/bin/env bash\n{line}\n")
        (stubs / name).chmod(0o755)
    photos, labels = trained / "photos", trained / "labels"
    (photos / "photo9.jpg").write_bytes((photos / "photo9.jpg").read_bytes()[:-300])
    environment = {"PATH": f"{stubs}:{os.environ['PATH']}", "STUBS": str(stubs), "OMP_NUM_THREADS": "1"}
    environment |= {
        "PYTHONPATH": str(EXAMPLES),
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_JOB_ID": str(os.getpid()),
        "CUDA_VISIBLE_DEVICES": "",
    }
    script = EXAMPLES / "label_on_slurm.sh"
    paths = [trained / "run" / "ppl" / "train", photos, photos / "labels.csv", labels]
    done = subprocess.run(
        ["bash", script, *paths, "--classes", CLASSES, "--jobs", "1", "--crf", "none"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "some images are bad" in done.stderr and "manifest.jsonl says which" in done.stderr
    asked = (stubs / "asked").read_text().splitlines()
    assert asked[0] == "--kill-on-bad-exit=1" and asked[-2:] == ["--crf", "none"]
    return labels


def test_label_on_slurm(labelled):
    assert len(list(labelled.glob("*.png"))) == 9
    assert (EXAMPLES / "label_on_slurm.sh").stat().st_mode & stat.S_IXUSR


def test_label_on_slurm_says_what_it_takes():
    done = subprocess.run(["bash", EXAMPLES / "label_on_slurm.sh", "model"], capture_output=True, text=True)
    assert done.returncode == 2 and "MODEL IMAGES LABELS.csv OUT" in done.stderr


def test_read_labels(labelled, trained, monkeypatch):
    notebook = nbformat.read(EXAMPLES / "read_labels.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells), "committed with outputs"
    source = "\n".join(cell.source for cell in cells)
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported <= {"json", "os", "matplotlib", "numpy"}
    for name, path in (
        ("LABELS", labelled),
        ("IMAGES", trained / "photos"),
        ("MODEL", trained / "run" / "ppl" / "train"),
    ):
        monkeypatch.setenv(name, str(path))
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    printed = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert "9 of 10 images have a label" in printed and "photo9.jpg: truncated" in printed
    pixels = sum(np.asarray(Image.open(path)).size for path in labelled.glob("*.png"))
    counts = [int(line.split(":")[1].split()[0]) for line in printed.splitlines() if " pixels, " in line]
    assert sum(counts) == pixels
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs), "no picture"


@pytest.mark.parametrize(
    "path", sorted(path for path in EXAMPLES.iterdir() if path.is_file()), ids=lambda path: path.name
)
def test_examples_are_short(path):
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        lines = [line for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    else:
        lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < MOST_LINES

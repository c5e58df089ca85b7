"""Whole training runs: one rank, two ranks under the launcher, killed and resumed, stopped by a bad loss."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from restored_state import restore_and_compare
from safetensors.torch import load_file
from train_data import CLASSES, RECIPE_FILE, make_recipe, open_images, write_images

from pplfast.errors import UserError
from pplfast.models import create
from pplfast.patch.branches import Cut
from pplfast.patch.classifier import PatchClassifier
from pplfast.train import TrainOptions, checkpoint, load_classifier, loss, read_info, step, train
from pplfast.train.checkpoint import CheckpointFolder

pytestmark = pytest.mark.slow

EVERY_STEP = TrainOptions(threads=1, log_every=1, checkpoint_every=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_images(write_images(tmp_path_factory.mktemp("images")))


@pytest.fixture(scope="module")
def reference(dataset, tmp_path_factory):
    """One rank, batch 8 of 10 images: every second step has 2 images."""
    out = tmp_path_factory.mktemp("runs") / "reference"
    return train(make_recipe(model={"dropout": 0.5}), dataset, out, options=EVERY_STEP)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def read_log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_same_training(folder: Path, expected: Path) -> None:
    """Equal up to the order of float32 additions."""
    losses, others = ([line["loss"] for line in read_log(path)] for path in (folder, expected))
    assert losses == pytest.approx(others, rel=2e-5)
    weights, other = (load_file(path / "classifier.safetensors") for path in (folder, expected))
    assert weights.keys() == other.keys()
    for name in weights:
        torch.testing.assert_close(weights[name], other[name], rtol=1e-4, atol=2e-6, msg=lambda text, n=name: n + text)


def assert_identical_weights(folder: Path, expected: Path) -> None:
    """The losses are sums over ranks: equal but for their last bits."""
    losses, others = ([line["loss"] for line in read_log(path)] for path in (folder, expected))
    assert losses == pytest.approx(others, rel=1e-6)
    weights, other = (load_file(path / "classifier.safetensors") for path in (folder, expected))
    assert weights.keys() == other.keys() and all(torch.equal(weights[name], other[name]) for name in weights)


def assert_identical_training(folder: Path, expected: Path) -> None:
    losses, others = ([(line["step"], line["loss"]) for line in read_log(path)] for path in (folder, expected))
    assert losses == others
    weights, other = (load_file(path / "classifier.safetensors") for path in (folder, expected))
    assert weights.keys() == other.keys() and all(torch.equal(weights[name], other[name]) for name in weights)


def test_a_run_from_end_to_end(reference, dataset, capsys):
    lines = read_log(reference.folder)
    assert [(line["stage"], line["position"], line["grid"], line["step"], line["epoch"]) for line in lines] == [
        (1, ["group3"], [2], 1, 0.5),
        (1, ["group3"], [2], 2, 1.0),
        (2, ["group5"], [2], 3, 1.5),
    ]
    assert [line["lr"] for line in lines] == pytest.approx([1e-3, 1e-3 * 0.5**0.9, 1e-3])
    assert all(0 < line["loss"] < 10 and line["images_per_s"] > 0 for line in lines)
    assert reference.steps == 3 and reference.loss == lines[-1]["loss"]
    assert list((reference.folder / "tb").glob("events.*"))
    assert json.loads((reference.folder / "recipe.json").read_text())["float32"] == "ieee"
    assert not torch.backends.cudnn.allow_tf32  # torch's default is True, without a GPU too

    info = read_info(reference.folder)
    assert (info.class_names, info.class_ids) == (dataset.classes.names, dataset.classes.ids)
    assert info.stages == (("group5", 2),) and info.variant == "ppl"
    model = load_classifier(reference.folder / "classifier.safetensors")
    assert model.cuts == (Cut(6, 2),) and not model.training
    maps = model.maps(torch.randn(1, 3, 40, 56))
    assert maps.shape == (1, 3, 3, 4) and maps.min() >= 0

    again = train(make_recipe(model={"dropout": 0.5}), dataset, reference.folder, options=EVERY_STEP)
    assert again.already_finished and again.loss == reference.loss
    with pytest.raises(UserError, match="optim.lr"):
        train(
            make_recipe(optim={"lr": 0.5}, model={"dropout": 0.5}),
            dataset,
            reference.folder,
            resume=True,
            options=EVERY_STEP,
        )


def test_frozen_parts_stay_and_others_move(reference):
    published, _ = create("efficientnet_lite0", weights="auto")
    trained = load_classifier(reference.folder).backbone
    frozen = {
        id(tensor)
        for index in range(published.frozen_default)
        for module in published.block_modules(index)
        for tensor in module.state_dict(keep_vars=True).values()
    }
    norms = {id(tensor) for tensor in published.buffers()}
    for name, tensor in published.state_dict(keep_vars=True).items():
        same = torch.equal(tensor, trained.state_dict()[name])
        assert same == (id(tensor) in frozen | norms), name


def test_accumulation_equals_one_large_batch(reference, dataset, tmp_path):
    recipe = make_recipe(optim={"accumulation": 2}, model={"dropout": 0.5})
    train(recipe, dataset, tmp_path / "out", options=EVERY_STEP)
    assert_same_training(tmp_path / "out", reference.folder)


def test_one_two_and_one_rank_again_equal_one(dataset, tmp_path, monkeypatch):
    """ZeRO 1, dropout, micro-batches of 4, a checkpoint in mid-stage before each change; in the last step of an epoch
    one of two ranks has no image of its own. The ranks run under the launcher; what is restored is what was saved, and
    the weights come out the same, bit by bit."""
    stages = [{"position": "group3", "grid": 2, "epochs": 1}, {"position": "group5", "grid": 2, "epochs": 1}]
    changes = {"model": {"dropout": 0.5}, "stages": stages}
    recipe = make_recipe(optim={"zero": 1, "micro_batch": 4}, **changes)
    options = TrainOptions(threads=1, log_every=1, checkpoint_every=1)
    train(make_recipe(optim={"micro_batch": 4}, **changes), dataset, tmp_path / "reference", options=options)

    def interrupt(*_, plain=CheckpointFolder.save):
        plain(*_)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CheckpointFolder, "save", interrupt)
        train(recipe, dataset, tmp_path / "out", options=options)

    (tmp_path / "tiny.toml").write_text(RECIPE_FILE, encoding="utf-8")
    data = dataset.images[0].parent
    done = subprocess.run(
        [
            sys.executable,
            Path(sys.executable).parent / "deepspeed",
            "--num_accelerators",
            "2",
            "--master_port",
            str(free_port()),
            Path(__file__).with_name("recorded_train.py"),
            tmp_path / "record",
            "none",
            "train",
            "--data",
            data,
            "--labels",
            data / "labels.csv",
            "--classes",
            CLASSES,
            "--recipe",
            tmp_path / "tiny.toml",
            "--set",
            "optim.zero=1",
            "--set",
            "optim.micro_batch=4",
            "--set",
            "model.dropout=0.5",
            "--set",
            "stages.1.epochs=1",
            "--out",
            tmp_path / "out",
            "--resume",
            "--threads",
            "1",
            "--log-every",
            "1",
            "--checkpoint-every",
            "1",
        ],
        env=dict(os.environ, DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "error" not in done.stderr.lower() and "2 ranks on cpu" in done.stderr
    assert done.stderr.count("finished: 4 steps") == 1
    [restored] = [json.loads(line) for line in (tmp_path / "record" / "restored.jsonl").read_text().splitlines()]
    assert restored["world"] == 2 and restored["zero"] == 1 and restored["momentum"] > 40
    assert restored["identical"] == restored["tensors"] and restored["same_names"]
    assert_identical_weights(tmp_path / "out", tmp_path / "reference")

    shutil.rmtree(tmp_path / "out" / "checkpoints" / "stage2-end")
    (tmp_path / "out" / "classifier.json").unlink()
    found = []
    monkeypatch.setattr(
        "pplfast.train.trainer.restore_optimizer", lambda *arguments: found.append(restore_and_compare(*arguments))
    )
    resumed = train(recipe, dataset, tmp_path / "out", resume=True, options=options)
    assert resumed.steps == 4 and found == [{**restored, "world": 1}]
    assert_identical_weights(tmp_path / "out", tmp_path / "reference")


@pytest.fixture(scope="module")
def nine_steps(dataset, tmp_path_factory):
    """Three epochs of two stages with dropout."""
    recipe = make_recipe(
        model={"dropout": 0.5},
        optim={"batch": 4},
        stages=[{"position": "group3", "grid": 2, "epochs": 2}, {"position": "group5", "grid": 2, "epochs": 1}],
    )
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert train(recipe, dataset, out, options=EVERY_STEP).steps == 9
    return recipe, out


def run_until_killed(dataset, out: Path, place: str) -> None:
    killed = subprocess.run(
        [sys.executable, Path(__file__).with_name("train_until_killed.py"), dataset.images[0].parent, out, place],
        env=dict(os.environ, OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]


def test_killed_while_a_checkpoint_is_written(dataset, tmp_path, nine_steps):
    recipe, whole = nine_steps
    run_until_killed(dataset, tmp_path / "out", "write")
    checkpoints = tmp_path / "out" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == [".stage1-0000004.partial", "stage1-0000002"]
    assert (checkpoints / ".stage1-0000004.partial" / "state.safetensors").exists()
    train(recipe, dataset, tmp_path / "out", resume=True, options=EVERY_STEP)
    assert_identical_training(tmp_path / "out", whole)
    assert not list(checkpoints.glob(".*"))


def test_killed_and_resumed_equals_uninterrupted(dataset, tmp_path, nine_steps):
    """kill -9 inside step 6, the checkpoint of step 4 torn as well."""
    recipe, whole = nine_steps
    run_until_killed(dataset, tmp_path / "out", "step")
    assert [line["step"] for line in read_log(tmp_path / "out")] == [1, 2, 3, 4, 5]
    state = tmp_path / "out" / "checkpoints" / "stage1-0000004" / "state.safetensors"
    os.truncate(state, state.stat().st_size // 2)

    with pytest.raises(UserError, match="--resume"):
        train(recipe, dataset, tmp_path / "out", options=EVERY_STEP)
    resumed = train(recipe, dataset, tmp_path / "out", resume=True, options=EVERY_STEP)
    assert resumed.steps == 9
    assert_identical_training(tmp_path / "out", whole)

    # The same from the end of a stage: nothing after the first stage's end is there.
    for path in (tmp_path / "out" / "checkpoints").glob("stage2-*"):
        (path / "state.safetensors").unlink()
    (tmp_path / "out" / "classifier.json").unlink()
    train(recipe, dataset, tmp_path / "out", resume=True, options=EVERY_STEP)
    assert_identical_training(tmp_path / "out", whole)


SIX_STEPS = {"optim": {"batch": 4}, "stages": [{"epochs": 2, "position": "group3", "grid": 2}]}


def test_training_goes_on_while_a_checkpoint_is_written(dataset, tmp_path, monkeypatch):
    """The disk is so slow that the checkpoint of step 2 is on it only after step 4: it holds the weights of step 2."""
    on, weights = threading.Event(), []

    def train_step(engine, *rest):
        weights.append({name: tensor.clone() for name, tensor in engine.module.state_dict().items()})
        result = step.train_step(engine, *rest)
        if len(weights) == 4:
            on.set()
        return result

    def save_file(*arguments, plain=checkpoint.save_file):
        assert on.wait(timeout=60)
        plain(*arguments)

    monkeypatch.setattr("pplfast.train.trainer.train_step", train_step)
    monkeypatch.setattr(checkpoint, "save_file", save_file)
    train(make_recipe(**SIX_STEPS), dataset, tmp_path / "out", options=dataclasses.replace(EVERY_STEP, keep=9))
    saved = load_file(tmp_path / "out" / "checkpoints" / "stage1-0000002" / "state.safetensors")
    assert all(torch.equal(saved["model." + name], tensor) for name, tensor in weights[2].items())
    assert not all(torch.equal(saved["model." + name], tensor) for name, tensor in weights[3].items())


def stopped_after(step_count: int, patch: pytest.MonkeyPatch) -> None:
    """Ctrl-C once the checkpoint after so many steps is on the disk."""

    def save(folder, state, progress, plain=CheckpointFolder.save):
        plain(folder, state, progress)
        if progress.steps == step_count:
            folder.finish()
            raise KeyboardInterrupt

    patch.setattr(CheckpointFolder, "save", save)


@pytest.mark.parametrize("stop", (2, 6))
def test_a_resumed_run_has_the_figures_of_an_uninterrupted_one(dataset, tmp_path, stop, monkeypatch):
    """Stopped within an interval of the log, or with nothing left to do but to save; the log is lost as well."""
    options = dataclasses.replace(EVERY_STEP, log_every=4)
    whole = train(make_recipe(**SIX_STEPS), dataset, tmp_path / "whole", options=options)
    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopped_after(stop, patch)
        train(make_recipe(**SIX_STEPS), dataset, out, options=options)
    (out / "log.jsonl").unlink()
    done = train(make_recipe(**SIX_STEPS), dataset, out, resume=True, options=options)
    assert done.loss == whole.loss and done.images_per_s > 0
    written = json.loads((out / "classifier.json").read_text(), parse_constant=pytest.fail)
    assert written["training"]["loss"] == whole.loss
    losses = [line["loss"] for line in read_log(tmp_path / "whole")]
    assert [line["loss"] for line in read_log(out)] == ([] if stop == 6 else losses)


def test_stages_in_steps_are_resumed_within_an_epoch(dataset, tmp_path, monkeypatch):
    """One of less than an epoch, which has 3 steps, and one that begins within it; stopped in the second."""
    stages = [{"position": "group3", "grid": 2, "steps": 2}, {"position": "group5", "grid": 2, "steps": 5}]
    recipe, out = make_recipe(optim={"batch": 4}, stages=stages), tmp_path / "out"
    assert train(recipe, dataset, tmp_path / "whole", options=EVERY_STEP).steps == 7
    lines = read_log(tmp_path / "whole")
    assert [line["epoch"] for line in lines] == [round(step / 3, 4) for step in range(1, 8)]
    falling = [line["lr"] / recipe.optim.lr for line in lines]
    assert falling == pytest.approx([(1 - t / 2) ** 0.9 for t in range(2)] + [(1 - t / 5) ** 0.9 for t in range(5)])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopped_after(4, patch)
        train(recipe, dataset, out, options=EVERY_STEP)
    train(recipe, dataset, out, resume=True, options=EVERY_STEP)
    assert_identical_training(out, tmp_path / "whole")
    assert train(recipe, dataset, tmp_path / "plain", variant="plain", options=EVERY_STEP).steps == 7


@pytest.mark.parametrize("fatal, last", ((2, "stage1-0000002"), (3, "stage1-0000004")))
def test_a_full_disk_ends_the_run(dataset, tmp_path, monkeypatch, fatal, last):
    """Found at the next checkpoint, or, where it was the last one, at the end."""
    writes = []

    def save_file(*arguments, plain=checkpoint.save_file):
        writes.append(1)
        if len(writes) == fatal:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(*arguments)

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    with pytest.raises(UserError, match="the disk is full; make space"):
        train(make_recipe(**SIX_STEPS), dataset, tmp_path / "out", options=EVERY_STEP)
    assert not (tmp_path / "out" / "classifier.json").exists()
    assert sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir())[-1] == last


def test_a_checkpoint_by_time(dataset, tmp_path, monkeypatch):
    """Wanted in step 3; the ranks hear of it with the loss of that step, in the next."""
    calls = []
    monkeypatch.setattr(CheckpointFolder, "wanted", lambda self, seconds: calls.append(seconds) or len(calls) == 3)
    train(make_recipe(**SIX_STEPS), dataset, tmp_path / "out", options=TrainOptions(threads=1, checkpoint_seconds=7))
    assert calls == [7] * 6
    checkpoints = tmp_path / "out" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["stage1-0000004", "stage1-end"]


def test_a_loss_that_is_not_finite_stops_the_run(dataset, tmp_path, monkeypatch):
    """One image of step 3 gives NaN: its id, the batch, the step and the last good checkpoint are named."""
    calls = []

    def poisoned(logits, labels, weights, each, plain=loss.image_losses):
        calls.append(1)
        losses = plain(logits, labels, weights)
        return losses * torch.tensor([1.0, float("nan")] + [1.0] * (len(losses) - 2)) if len(calls) == 3 else losses

    monkeypatch.setattr(loss, "image_losses", poisoned)
    seen = []
    monkeypatch.setattr(
        "pplfast.train.trainer.train_step",
        lambda engine, batches, *rest: (
            seen.append([dataset.ids[i] for batch in batches for i in batch.indices]),
            step.train_step(engine, batches, *rest),
        )[1],
    )
    recipe = make_recipe(optim={"batch": 4}, stages=[{"epochs": 2, "position": "group3", "grid": 2}])
    with pytest.raises(UserError) as error:
        train(recipe, dataset, tmp_path / "out", options=TrainOptions(threads=1, checkpoint_every=2))
    message = str(error.value)
    assert message.startswith("step 3: the loss is nan") and "\n" not in message
    assert f"images: {seen[2][1]} (of the batch {' '.join(dict.fromkeys(seen[2]))})" in message
    assert f"last good checkpoint: {tmp_path / 'out' / 'checkpoints' / 'stage1-0000002'}" in message
    assert not (tmp_path / "out" / "classifier.json").exists()


@pytest.mark.parametrize("variant, precision", (("plain", "fp32"), ("explicit", "bf16")))
def test_other_variants(dataset, tmp_path, variant, precision, monkeypatch):
    stages = [{"position": "group3", "grid": 2, "epochs": 0.25}, {"position": "group5", "grid": 2, "epochs": 0.25}]
    recipe = make_recipe(optim={"precision": precision, "zero": 2}, stages=stages)
    compiled = []  # what torch would compile: it takes a minute to do so
    monkeypatch.setattr(torch.nn.Module, "compile", lambda model, **options: compiled.append((model, options)))
    options = dataclasses.replace(EVERY_STEP, compile="max-autotune")
    result = train(recipe, dataset, tmp_path / "out", variant=variant, options=options)
    [(network, how)] = compiled
    assert isinstance(network, PatchClassifier) and how == {"mode": "max-autotune", "dynamic": False}
    assert result.steps == 1 and 0 < result.loss < 10
    model = load_classifier(tmp_path / "out")
    assert model.classifier.weight.shape[1] == 1280 * {"plain": 1, "explicit": 3}[variant]
    assert len(model.cuts) == {"plain": 0, "explicit": 2}[variant]


def test_auto_precision_is_decided_once_for_a_run(dataset, tmp_path, monkeypatch, capsys):
    """It rests on a timing: a resumed run must not come to another answer."""
    recipe = make_recipe(optim={"precision": "auto"}, stages=[{"position": "group5", "grid": 2, "epochs": 0.5}])
    for now, resume in (("bf16", False), ("fp32", True)):
        monkeypatch.setattr("pplfast.train.trainer.resolve_precision", lambda name, device, now=now: now)
        train(recipe, dataset, tmp_path / "out", resume=resume, options=EVERY_STEP)
        assert "on cpu, bf16, batch" in capsys.readouterr().err
        (tmp_path / "out" / "classifier.json").unlink()

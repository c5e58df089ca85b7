"""Ranks that mean different runs end at once, and name what differs."""

import dataclasses
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from train_data import CLASSES, RECIPE_FILE, make_recipe, open_images, write_images

from pplfast.cluster import agreement
from pplfast.cluster.agreement import agree, difference
from pplfast.cluster.ranks import EveryRankError, OtherRankError, Ranks
from pplfast.errors import UserError
from pplfast.models import create
from pplfast.patch.classifier import PatchClassifier
from pplfast.recipe import AffinityConfig, SegmentationConfig
from pplfast.train import TrainOptions
from pplfast.train import agreement as train_agreement
from pplfast.train.affinity import AffinityTask
from pplfast.train.agreement import agreed_record
from pplfast.train.classifier import ClassifierTask
from pplfast.train.masks import with_masks
from pplfast.train.segmentation import SegmentationTask

CPU = torch.device("cpu")
LR = "optim.lr is 0.02 on host a (rank 0) and 0.5 on host b (rank 1); start all ranks with the same recipe"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_images(write_images(tmp_path_factory.mktemp("data")))


OPTIONS = TrainOptions()


def settings(task, options=OPTIONS) -> dict[str, Any]:
    task.check()
    own = train_agreement._training_settings(task, task.record(), options, CPU)
    return {group: agreement._flat(values) for group, values in own.items()}


def compared(first, second) -> str | None:
    return difference([("a", first), ("b", second)])


def test_the_first_that_differs_is_named_with_values_and_hosts(dataset):
    first = settings(ClassifierTask(make_recipe(optim={"lr": 0.02}), "ppl", dataset))
    second = settings(ClassifierTask(make_recipe(optim={"lr": 0.5}), "ppl", dataset))
    assert compared(first, second) == LR and compared(first, first) is None
    third = difference([("a", first), ("a", first), ("b", second), ("b", first)])
    assert third == LR.replace("rank 1", "rank 2")


STAGE = {"position": "group3", "grid": 2, "epochs": 1}


@pytest.mark.parametrize(
    "change, message",
    (
        ({"stages": [{**STAGE, "epochs": 3}]}, "stages.0.epochs is 1.0 on host a (rank 0) and 3.0 on host b"),
        ({"stages": [STAGE, STAGE]}, "the number of stages is 1 on host a (rank 0) and 2 on host b (rank 1) (and "),
        ({"seed": 7}, "seed is 0 on host a"),
        ({"augment": {"crop": 64}}, "augment.crop is 32 on"),
        ({"optim": {"zero": 1}}, "optim.zero is 0 on"),
        ({"optim": {"accumulation": 2}}, "optim.accumulation is 1 on"),
        ({"name": "x" * 1000}, "name is 'tiny' on"),
    ),
)
def test_recipes_that_differ(dataset, change, message):
    first = settings(ClassifierTask(make_recipe(stages=[STAGE]), "ppl", dataset))
    found = compared(first, settings(ClassifierTask(make_recipe(**{"stages": [STAGE], **change}), "ppl", dataset)))
    assert message in found and found.endswith("start all ranks with the same recipe") and len(found) < 400


def test_variants_options_and_data_that_differ(dataset):
    task = ClassifierTask(make_recipe(), "ppl", dataset)
    first = settings(task)
    assert "ppl classifier" in compared(first, settings(ClassifierTask(make_recipe(), "plain", dataset)))
    for options, message in (
        (TrainOptions(checkpoint_every=4), "--checkpoint-every is None on host a (rank 0) and 4 on"),
        (TrainOptions(log_every=3), "--log-every is 10 on"),
        (TrainOptions(compile="default"), "--compile is '' on"),
        (TrainOptions(deepspeed={"zero_optimization": {"x": 1}}), "--deepspeed.zero_optimization.x is not set on"),
    ):
        assert compared(first, settings(task, options)).startswith(message)
    assert compared(first, settings(task, TrainOptions(threads=3, cache_mb=1, local_rank=5))) is None
    fewer = settings(ClassifierTask(make_recipe(), "ppl", dataset.subset(range(9))))
    assert "the number of images is 10 on" in compared(first, fewer)
    swapped = dataclasses.replace(dataset, labels=dataset.labels[::-1].copy())
    found = compared(first, settings(ClassifierTask(make_recipe(), "ppl", swapped)))
    assert "ids and labels" in found and found.endswith("the same images and labels")


def test_code_that_differs_comes_first(dataset, monkeypatch):
    first = settings(ClassifierTask(make_recipe(optim={"lr": 0.02}), "ppl", dataset))
    monkeypatch.setattr(train_agreement, "code_versions", lambda: {"pplfast": "9.9", "torch": "1"})
    found = compared(first, settings(ClassifierTask(make_recipe(optim={"lr": 0.5}), "ppl", dataset)))
    assert found.startswith("pplfast is ") and "'9.9' on host b" in found and found.endswith("versions on all hosts")


def test_a_changed_file_of_the_program_shows(tmp_path, monkeypatch):
    (tmp_path / "cluster").mkdir()
    for name in ("a.py", "cluster/agreement.py"):
        (tmp_path / name).write_text("1\n")
    monkeypatch.setattr(agreement, "__file__", str(tmp_path / "cluster" / "agreement.py"))
    before = agreement._digest()
    (tmp_path / "a.py").write_text("2\n")
    assert agreement._digest() != before


def test_the_other_networks(dataset, tmp_path):
    for name in dataset.ids:
        (tmp_path / f"{name}.png").write_bytes(b"labels")
    masked = with_masks(dataset, tmp_path)
    backbone, _ = create("efficientnet_lite0")
    classifier = PatchClassifier(backbone, 3, "plain", 0.0, 0)
    tasks = [
        (AffinityTask(AffinityConfig(epochs=epochs), classifier, masked, 0), SegmentationTask(config, masked, 0))
        for epochs, config in ((1, SegmentationConfig(epochs=1)), (2, SegmentationConfig(epochs=2)))
    ]
    for first, second, table in zip(*tasks, ("affinity", "segmentation"), strict=True):
        assert f"{table}.epochs is 1" in compared(settings(first), settings(second))
    first = settings(tasks[0][1])
    (tmp_path / f"{dataset.ids[0]}.png").write_bytes(b"others")
    assert "the digest of ids and labels" in compared(first, settings(tasks[0][1]))


@pytest.mark.parametrize("rank, error", ((0, EveryRankError), (1, OtherRankError)))
def test_all_ranks_raise_and_one_speaks(monkeypatch, rank, error):
    def all_gather(ranks, value):
        del value
        return [("a", {"mend it": {"x": "1"}}), ("b", {"mend it": {"x": "2"}})]

    monkeypatch.setattr(agreement, "gather", all_gather)
    with pytest.raises(error, match=r"^x is 1 on host a \(rank 0\) and 2 on host b \(rank 1\); mend it$"):
        agree(Ranks(rank, 2, 2, CPU), {})


def test_a_single_rank_asks_nobody(dataset, monkeypatch):
    monkeypatch.setattr(train_agreement, "_training_settings", lambda *_: pytest.fail("asked"))
    record = agreed_record(ClassifierTask(make_recipe(), "ppl", dataset), TrainOptions(), Ranks(0, 1, 1, CPU))
    assert record["dataset"]["images"] == 10
    with pytest.raises(UserError, match="no images"):
        task = ClassifierTask(make_recipe(), "ppl", dataset.subset([]))
        agreed_record(task, TrainOptions(), Ranks(0, 1, 1, CPU))


def test_it_takes_no_time(dataset):
    task, seconds = ClassifierTask(make_recipe(), "ppl", dataset), []
    for _ in range(3):  # a neighbour's work shows in one or the other
        agreement.code_versions.cache_clear()
        begin = time.process_time()
        settings(task)
        seconds.append(time.process_time() - begin)
    assert min(seconds) < 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, message",
    (
        (("optim.lr=0.02", "optim.lr=0.5"), "optim.lr is 0.02 on host {host} (rank 0) and 0.5 on host {host} (rank 1)"),
        (("stages.0.epochs=2", "stages.0.epochs=3"), "stages.0.epochs is 2.0 on host {host} (rank 0) and 3.0 on host"),
    ),
)
def test_two_ranks_of_different_recipes_end_at_once(tmp_path, changes, message):
    data = write_images(tmp_path / "data")
    (tmp_path / "tiny.toml").write_text(RECIPE_FILE, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = dict(os.environ, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", OMP_NUM_THREADS="1")
    words = ["train", "--data", data, "--labels", data / "labels.csv", "--classes", CLASSES, "--threads", "1"]
    words += ["--recipe", tmp_path / "tiny.toml", "--out", tmp_path / "out", "--set"]
    begin = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "pplfast", *words, change],
            env=dict(environment, RANK=str(rank), LOCAL_RANK=str(rank), CUDA_VISIBLE_DEVICES=""),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, change in enumerate(changes)
    ]
    try:
        errors = [process.communicate(timeout=60)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [2, 2], errors
    assert message.format(host=socket.gethostname()) in errors[0] and not errors[1], errors
    assert "Traceback" not in errors[0] and not Path(tmp_path / "out").exists()
    assert time.monotonic() - begin < 20

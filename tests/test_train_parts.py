"""Schedules, plans, logs and refusals, without training."""

import argparse
import dataclasses
import json
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from train_data import CLASSES, RECIPE_FILE, make_recipe, open_images, without_steps, write_images

from pplfast.cli import main
from pplfast.cli.train import add_training_arguments, options_from_arguments
from pplfast.cluster.ranks import EveryRankError, OtherRankError, Ranks
from pplfast.data.classes import ClassList
from pplfast.data.dataset import Dataset
from pplfast.described import described_training
from pplfast.errors import UserError
from pplfast.models import create
from pplfast.patch.branches import Cut
from pplfast.precision import exact_float32
from pplfast.recipe import Length, OptimConfig, recipe_to_dict
from pplfast.recipe.overrides import apply_overrides
from pplfast.train import trainer
from pplfast.train.agreement import TABLES
from pplfast.train.engine import Share, check_compile, check_precision, share_batch
from pplfast.train.identity import USED_OF_NETWORK, claim_folder, describe
from pplfast.train.masks import mask_record
from pplfast.train.model_file import load_classifier
from pplfast.train.plan import plan_stages
from pplfast.train.schedules import learning_rates, steps_of_stage, steps_per_epoch
from pplfast.train.step import LossWatch, step_batches, train_step


def test_learning_rates():
    optim = OptimConfig(lr=0.1, poly=0.9)
    rates = learning_rates(optim, factor=0.5, steps=10, warmup=0)
    np.testing.assert_allclose(rates, [0.05 * (1 - t / 10) ** 0.9 for t in range(10)])
    np.testing.assert_allclose(learning_rates(optim, 0.5, 10, warmup=4)[:5] / rates[:5], [0.25, 0.5, 0.75, 1, 1])


def test_float32_is_ieees_whatever_was_set_before():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    exact_float32()
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.conv.fp32_precision != "tf32"


def test_cudnn_tries_algorithms_only_while_training(tmp_path, monkeypatch):
    seen = []

    def fail(*_):
        seen.append(torch.backends.cudnn.benchmark)
        raise UserError("the disk is full")

    monkeypatch.setattr(trainer, "_run_task", fail)
    with pytest.raises(UserError, match="full"):
        trainer.run_task(Mock(), tmp_path)
    assert seen == [True] and not torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    "arguments, expected",
    (
        (
            [],
            {
                "checkpoint_every": None,
                "checkpoint_seconds": 300.0,
                "compile": "",
                "loggers": ("jsonl", "tensorboard"),
                "profile": 0,
            },
        ),
        (["--logger", "wandb,jsonl", "--profile", "7"], {"loggers": ("wandb", "jsonl"), "profile": 7}),
        (["--checkpoint-every", "7", "--compile"], {"checkpoint_every": 7, "compile": "default"}),
        (
            ["--checkpoint-seconds", "9.5", "--compile", "reduce-overhead"],
            {"checkpoint_seconds": 9.5, "compile": "reduce-overhead"},
        ),
    ),
)
def test_options_of_the_command(arguments, expected):
    parser = argparse.ArgumentParser()
    add_training_arguments(parser)
    parser.set_defaults(local_rank=None)
    options = options_from_arguments(parser.parse_args(arguments))
    assert {name: getattr(options, name) for name in expected} == expected


def test_lengths_of_stages():
    assert steps_per_epoch(5, 2) == 3
    assert [steps_of_stage([Length(epochs)], 3) for epochs in (1, 0.5, 0.01, 2.4)] == [3, 2, 1, 7]
    assert [steps_of_stage([Length(steps=5)], per_epoch) for per_epoch in (1, 5, 1000)] == [5, 5, 5]


def test_one_stage_is_as_long_as_several():
    """In epochs alone it has those of all, rounded once; with one in steps, what each would have by itself."""
    short = Length(0.5)  # of 3 steps: 1.5, which is 2 as a stage of its own
    assert steps_of_stage([short, short], 3) == 3 and steps_of_stage([Length(0.1)] * 3, 3) == 1
    assert steps_of_stage([short, Length(steps=7), short], 3) == 2 + 7 + 2
    assert steps_of_stage([Length(steps=7), Length(steps=8)], 3) == 15


class FakeLoader:
    batches_per_epoch = 5

    def epoch(self, number, start=0):
        return iter([(number, k) for k in range(start, 5)])


def test_steps_stay_inside_their_epoch_and_start_anywhere():
    steps = step_batches(FakeLoader(), accumulation=2, step=0)
    expected = [[(0, 0), (0, 1)], [(0, 2), (0, 3)], [(0, 4)], [(1, 0), (1, 1)], [(1, 2), (1, 3)]]
    assert [next(steps) for _ in range(5)] == expected
    for start in range(4):
        assert next(step_batches(FakeLoader(), 2, start)) == expected[start]


def test_the_wish_of_one_rank_reaches_the_others_with_a_loss(monkeypatch):
    """This one of two ranks has none; read one step late, as the loss is."""
    ranks = Ranks(1, 2, 2, torch.device("cpu"))
    engine = Mock(side_effect=lambda images: images, torch_autocast_z0_gradscaler=None)
    engine.zero_optimization.return_value = False
    monkeypatch.setattr(dist, "all_reduce", lambda shared: shared.add_(torch.tensor([0.5, 1.0])))
    batch = SimpleNamespace(images=torch.tensor([1.0, 3.0]), total=4, indices=torch.arange(2))
    watch = LossWatch("abcd", ranks, Mock())
    for step in (1, 2):
        watch.add(step, *train_step(engine, [batch], lambda losses, _: losses, 1, print, ranks, wish=False), [batch])
        assert watch.wished == (step == 2)
    assert watch.last == 1.5


@pytest.mark.parametrize("main", (True, False))
def test_weights_that_a_last_step_made_absurd_end_the_training(main):
    """No loss has seen them yet."""
    model = torch.nn.Linear(2, 3)
    watch = LossWatch("abcd", Ranks(0 if main else 1, 2, 2, torch.device("cpu")), Mock(last="checkpoints/stage1-end"))
    watch.settle_weights(model, 6)
    for value, text in ((6e30, "values as large as 6e+30"), (float("nan"), "NaN")):
        model.weight.data[1, 1] = value
        with pytest.raises(EveryRankError if main else OtherRankError) as error:
            watch.settle_weights(model, 7)
        if main:
            assert str(error.value) == (
                f"step 7: weight holds {text}: the training diverged; last good checkpoint: checkpoints/stage1-end; "
                "start another --out with a lower optim.lr"
            )


DESCRIPTION = {
    "format": 1,
    "variant": "plain",
    "class_names": ["cat", "dog"],
    "class_ids": [1, 2],
    "stages": [],
    "model": {"backbone": "efficientnet_lite0"},
    "recipe": {},
    "dataset": "x",
    "training": {"steps": 1, "seconds": 1.0, "images_per_s": 2.0, "loss": 0.5},
}


@pytest.mark.parametrize(
    "change",
    (
        {"class_ids": [1, 300]}, {"class_ids": [1, 1]}, {"class_ids": [0, 1]}, {"class_ids": [1, True]},
        {"class_names": []}, {"class_names": "ab"}, {"class_names": ["a", "b\0"]}, {"class_names": [[], {}]},
        {"stages": [["group3", 0]]}, {"stages": [["group3", 10**9]]}, {"stages": [[1, 2]]}, {"stages": 3},
        {"model": []}, {"model": {"dropout": 7}}, {"model": {"output_stride": "16"}}, {"recipe": [1]},
        {"variant": "odd"}, {"variant": []}, {"training": None}, {"dataset": 3}, {"more": 1},
    ),
)  # fmt: skip
def test_a_description_from_elsewhere_is_refused(change, tmp_path):
    (tmp_path / "classifier.json").write_text(json.dumps(DESCRIPTION | change), encoding="utf-8")
    with pytest.raises(UserError, match="classifier.json: ") as error:
        load_classifier(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize(
    "text", ("[]", "3", '{"steps": 1}', '{"steps": 1, "seconds": NaN, "images_per_s": 1, "loss": 1}')
)
def test_figures_of_a_training_that_are_none_are_refused(text):
    assert described_training(DESCRIPTION["training"]) == DESCRIPTION["training"]
    with pytest.raises(ValueError, match="^training"):
        described_training(json.loads(text))


def test_plans_of_the_variants():
    backbone, _ = create("efficientnet_lite0")
    stages = [
        {"position": "group5", "grid": 2, "epochs": 1},
        {"position": "group3", "grid": 3, "epochs": 2, "lr": 0.5},
        {"position": "group5", "grid": 2, "steps": 7},
        {"epochs": 1},
    ]
    recipe = make_recipe(stages=stages)
    ppl = plan_stages(recipe, "ppl", backbone)
    assert [(plan.cuts, steps_of_stage(plan.lengths, 10), plan.lr) for plan in ppl] == [
        ((Cut(6, 2),), 10, 1),
        ((Cut(4, 3),), 20, 0.5),
        ((Cut(6, 2),), 7, 1),
        ((), 10, 1),
    ]
    [explicit] = plan_stages(recipe, "explicit", backbone)
    assert explicit.cuts == (Cut(6, 2), Cut(4, 3)) and steps_of_stage(explicit.lengths, 10) == 47
    [plain] = plan_stages(recipe, "plain", backbone)
    assert plain.cuts == () and steps_of_stage(plain.lengths, 10) == 47
    with pytest.raises(UserError, match="'head': no block .* follows it; choose one of: stem"):
        plan_stages(make_recipe(stages=[{"position": "head", "grid": 2, "epochs": 1}]), "ppl", backbone)


def test_batches_are_shared_among_ranks():
    assert share_batch(OptimConfig(batch=12, accumulation=2), 3) == Share(2, 6, 2)
    assert share_batch(OptimConfig(batch=16, accumulation=2), 3) == Share(2, 8, 3)  # of 3, 3 and 2 images
    with pytest.raises(UserError, match="in 8 parts: is less than an image for each of 3 ranks"):
        share_batch(OptimConfig(batch=16, accumulation=8), 3)
    with pytest.raises(UserError, match="fp16.*needs a GPU"):
        check_precision(OptimConfig(precision="fp16"), torch.device("cpu"))
    with pytest.raises(UserError, match="gradients of 2 parts of a batch; choose default"):
        check_compile("reduce-overhead", Share(2, 8, 8))
    check_compile("default", Share(2, 8, 8))
    check_compile("reduce-overhead", Share(1, 16, 16))


def test_a_micro_batch_is_the_same_on_any_number_of_ranks_that_it_can_be_on():
    shares = [share_batch(OptimConfig(batch=16, micro_batch=4), world) for world in (1, 2, 4, 3, 8, 16)]
    assert [(share.parts, share.micro_batch) for share in shares] == [(4, 4), (2, 4), (1, 4), (2, 3), (1, 2), (1, 1)]
    assert share_batch(OptimConfig(batch=7, micro_batch=3), 1) == Share(7, 1, 1)
    assert share_batch(OptimConfig(batch=8, micro_batch=100), 1) == Share(1, 8, 8)


def test_a_folder_belongs_to_one_run(tmp_path):
    dataset = open_images(write_images(tmp_path / "data"))
    recipe, out = make_recipe(), tmp_path / "out"
    record = describe(recipe, "ppl", dataset)
    assert claim_folder(out, record, resume=False) == "start"
    assert claim_folder(out, record, resume=True) == "resume"
    (out / "checkpoints" / "stage1-0000002").mkdir(parents=True)
    with pytest.raises(UserError, match="unfinished run.*--resume"):
        claim_folder(out, record, resume=False)
    other = describe(make_recipe(optim={"lr": 0.5}), "ppl", dataset)
    with pytest.raises(UserError, match=r"optim.lr = 0.001, not 0.5.*another --out"):
        claim_folder(out, other, resume=True)
    with pytest.raises(UserError, match=r"dataset.images = 10, not 5"):
        claim_folder(out, describe(recipe, "ppl", dataset.subset(range(5))), resume=True)
    # What comes after training may change.
    assert claim_folder(out, describe(make_recipe(label={"crf": "none"}), "ppl", dataset), resume=True) == "resume"


def test_a_folder_of_before_there_were_steps_is_still_the_same(tmp_path):
    """Of all three networks; one in steps is another."""
    dataset = open_images(write_images(tmp_path / "data"))
    (tmp_path / "a.png").write_bytes(b"x")
    masked = dataclasses.replace(dataset, masks=(tmp_path / "a.png",) * len(dataset))

    def records(**changes):
        recipe = make_recipe(
            stages=[{"position": "group3", "grid": 2, **changes}], affinity=changes, segmentation=changes
        )
        networks = {name: dataclasses.asdict(getattr(recipe, table)) for name, table in TABLES.items()}
        own = {name: mask_record(name, settings, masked, 0) for name, settings in networks.items()}
        return {"classifier": describe(recipe, "ppl", dataset), **own}

    for (name, record), other in zip(records(epochs=1.0).items(), records(steps=2).values(), strict=True):
        assert claim_folder(tmp_path / name, record, resume=False) == "start"
        path = tmp_path / name / "recipe.json"
        older = without_steps(there := json.loads(path.read_text()))
        assert older != there
        path.write_text(json.dumps(older))
        assert claim_folder(tmp_path / name, record, resume=True) == "resume"
        with pytest.raises(UserError, match=r"holds a run with (stages.0.)?epochs = 1.0, not 0.0"):
            claim_folder(tmp_path / name, other, resume=True)


@pytest.mark.parametrize("network", USED_OF_NETWORK)
def test_settings_of_what_follows_a_training_do_not_refuse_it(network, tmp_path):
    """Of the folder as an earlier pplfast made it, with the whole table; nor does a data set that was moved."""
    (tmp_path / "a.png").write_bytes(b"x")
    dataset = Dataset("here", ("a",), (tmp_path / "a.png",), ClassList(("cat",), (1,)), None, (tmp_path / "a.png",))

    def claim(changes: dict, seed: int = 0, name: str = "here") -> str:
        settings = recipe_to_dict(make_recipe())[TABLES[network]]
        apply_overrides(settings, changes)
        data = dataclasses.replace(dataset, name=name)
        return claim_folder(tmp_path / "out", mask_record(network, settings, data, seed), True, "none")

    def expect_refused(key: str, **options) -> None:
        with pytest.raises(UserError, match=f"holds a run with {key} = "):
            claim(**options)

    assert claim({}) == "start"
    after = {
        "boundary": {"walk.beta": 3.0, "walk.steps": 9, "label.crf": "labels", "crf": "none", "foreground": 0.4},
        "segmentation": {
            "scales": [1.0],
            "flip": False,
            "test_batch": 1,
            "crf": "none",
            "model.dropout": 0.5,
            "model.pooling": "max",
        },
    }[network]
    for key, value in after.items():
        assert claim({key: value}) == "resume", key
    assert claim(after, name="moved") == "resume"
    for key in USED_OF_NETWORK[network]:
        value = {"model": {"backbone": "wrn38"}, "augment": {"crop": 64}, "optim": {"lr": 0.5}, "head": "aspp"}
        path = f"{key}.{next(iter(value[key]))}" if isinstance(value.get(key), dict) else key
        expect_refused(path, changes={path: next(iter(value[key].values())) if path != key else value.get(key, 77)})
    expect_refused("seed", changes={}, seed=1)
    (tmp_path / "a.png").write_bytes(b"y")
    expect_refused("dataset.list_and_masks", changes={})


def test_mistakes_are_told_before_anything_is_written(tmp_path, capsys):
    data = write_images(tmp_path / "data", 4)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE_FILE, encoding="utf-8")
    weights = tmp_path / "bad.pth"
    weights.write_bytes(b"not weights")
    out = tmp_path / "out"
    base = [
        "train",
        "--data",
        str(data),
        "--labels",
        str(data / "labels.csv"),
        "--classes",
        CLASSES,
        "--recipe",
        str(recipe),
        "--out",
        str(out),
        "--threads",
        "1",
    ]
    for arguments, expected in (
        (["--set", "optim.lrr=1"], "optim.lrr"),
        (["--set", "nothing"], "--set nothing"),
        (["--set", "stages.7.epochs=1"], "stages.7.epochs"),
        (["--set", "stages.0.position=group9"], "position 'group9'"),
        (["--set", "stages.0.position=head"], "position 'head'"),
        (["--set", f"model.weights={weights}"], str(weights)),
        (["--set", "model.weights=/nowhere.pth"], "/nowhere.pth"),
        (["--set", "model.backbone=vgg"], "vgg"),
        (["--set", "optim.batch=3", "--set", "optim.accumulation=2"], "'optim.batch' = 3: must be a multiple"),
        (["--set", "optim.precision=fp16"], "fp16") if not torch.cuda.is_available() else (["--labels", "x"], "x"),
        (["--labels", "none"], "no image labels"),
        (["--recipe", "no_such"], "no_such"),
        (["--log-every", "0"], "--log-every 0"),
        (["--profile", "0"], "--profile 0: must be 1 or more"),
        (["--logger", "jsonl,wand"], "--logger wand: choose from jsonl, tensorboard, wandb, mlflow"),
        (["--checkpoint-seconds", "0"], "--checkpoint-seconds 0.0: must be above 0"),
    ):
        assert main(base + arguments) == 2, arguments
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1 and "Traceback" not in error, error
        assert not out.exists()


def test_folders_without_a_classifier(tmp_path):
    for path, expected in ((tmp_path, "holds no classifier.json"), (tmp_path / "nowhere", "no such folder")):
        with pytest.raises(UserError, match=expected):
            load_classifier(path)
    (tmp_path / "classifier.json").write_text('{"format": 1}', encoding="utf-8")
    with pytest.raises(UserError, match="not a classifier description"):
        load_classifier(tmp_path)

"""The chain with boundaries, random walk and segmentation network, on a few small images."""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pplfast.cli import main
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.demo import DemoConfig, make_demo
from pplfast.data.masks import read_mask
from pplfast.errors import UserError
from pplfast.files import read_json
from pplfast.labels.camfile import Cam, load_cam, save_cam
from pplfast.labels.walk import walk_cams
from pplfast.recipe import AugmentConfig, ModelConfig, WalkConfig, recipe_from_dict
from pplfast.run import RunConfig, run, with_default_lists
from pplfast.run.table import closing, summary_table
from pplfast.steps import STEPS
from pplfast.train import TrainOptions, trainer
from pplfast.train.affinity import load_boundaries

SMALL = {"augment": {"crop": 64, "resize_long": [64, 80]}, "optim": {"batch": 4, "precision": "fp32"}}
RECIPE = recipe_from_dict(
    {
        "name": "tiny",
        "variants": ["ppl"],
        **SMALL,
        "stages": [{"epochs": 1, "position": "group5", "grid": 2}],
        "cam": {"scales": [1.0], "flip": False, "precision": "fp32"},
        "label": {"crf": "none", "background": "alpha", "value": 4},
        "affinity": {"epochs": 1, "crf": "none", "walk": {"steps": 8}, **SMALL},
        "segmentation": {"epochs": 1, "scales": [1.0, 0.5], "crf": "none", **SMALL},
    },
    "test",
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[RunConfig, dict]:
    root = tmp_path_factory.mktemp("demo")
    make_demo(root, DemoConfig(train=8, val=4, size=96), lambda: None)
    train, val = with_default_lists(DataConfig(str(root)), None, None)
    config = RunConfig(
        train, val, RECIPE, RECIPE.variants, tmp_path_factory.mktemp("run"), jobs=1, training=TrainOptions(threads=1)
    )
    return config, run(config, lambda line: None)


def again(config: RunConfig, **changes) -> tuple[dict, list[str]]:
    lines: list[str] = []
    summary = run(dataclasses.replace(config, **changes), lines.append)
    return summary, [line.split("ppl: ")[1] for line in lines if "] ppl: " in line and "skipped" not in line]


def report(config: RunConfig) -> str:
    """The text of its report, without the recipe and the command."""
    return (config.out / "report.html").read_text().split("<h2>Settings")[0]


def test_every_step_leaves_its_figures_and_files(finished):
    config, summary = finished
    part, folder = summary["ppl"], config.out / "ppl"
    for figure in ("walk_miou", "walk_label_miou", "segmentation_miou", "network_label_miou"):
        assert 0 < part[figure] < 100
    assert summary["data"]["test"]["list"] == summary["data"]["val"]["list"]
    table = summary_table(summary)
    heads = ["variant", "CAMs", "labels", "after walk", "network", "by network"]  # no CRF here
    assert re.split("  +", table.splitlines()[0])[:6] == heads
    assert f"{part['segmentation_miou']:.1f}" in table
    values = np.unique(np.concatenate([read_mask(path).ravel() for path in (folder / "affinity_labels").glob("*.png")]))
    assert {0, 255} <= set(values.tolist())
    seen = 0
    for path in (folder / "walk").glob("*.npz"):
        before, after = load_cam(folder / "cams" / path.name), load_cam(path)
        some = bool(before.maps.max() > 0)  # after one epoch the classifier may see nothing in an image
        assert (before.classes == after.classes).all() and after.maps.max() == pytest.approx(float(some), abs=1e-3)
        seen += some
    assert seen
    assert len(list((folder / "predictions").glob("*.png"))) == 4
    truth = open_dataset(config.val)
    for name, label in zip(truth.ids, truth.known_labels, strict=True):
        own = {0, *np.array(truth.classes.ids)[label == 1].tolist()}
        assert set(np.unique(read_mask(folder / "labels_network" / f"{name}.png")).tolist()) <= own
    info = read_json(folder / "segmentation" / "segmentation.json")
    assert info["head"] == "light" and info["training"]["steps"] == 2


def test_the_boundary_networks_backbone_is_the_classifiers(finished):
    folder = finished[0].out / "ppl"
    classifier = load_file(folder / "train" / "classifier.safetensors")
    boundary = load_file(folder / "boundary" / "boundary.safetensors")
    shared = [name for name in boundary if name.startswith("backbone.")]
    assert len(shared) > 100 and all(torch.equal(boundary[name], classifier[name]) for name in shared)


def test_single_commands_do_by_themselves_what_the_chain_did(finished, tmp_path, capsys):
    """Without options they take the settings of the recipe that their network was trained by."""
    config, _ = finished
    again(config)
    part, data = config.out / "ppl", ["--data", config.val.root, "--list", "val"]
    for command, network, output, said in (
        (["cam"], "train", "cams", "CAMs at scales 1 (recipe of the training)"),
        (["label", "--jobs", "1"], "train", "labels", "scales 1, background alpha 4, CRF none (recipe"),
        (["refine", "walk", "--cams", str(part / "cams")], "boundary", "walk", "random walk of 8 steps"),
        (["segment", "test", "--jobs", "1"], "segmentation", "predictions", "scales 1, 0.5 with flips, CRF none"),
    ):
        out = tmp_path / output
        assert main([*command, *data, "--model", str(part / network), "--out", str(out)]) == 0
        assert said in capsys.readouterr().err
        files = sorted(path for path in (part / output).iterdir() if path.suffix in (".npz", ".png"))
        assert len(files) == 4
        for path in files:
            if path.suffix == ".png":  # `label` does not store its maps at a quarter of the size between
                equal = (read_mask(out / path.name) == read_mask(path)).mean()
                assert equal > (0.99 if output == "labels" else 0.999)
            else:  # within a unit in the last place of float16: threads share work in other ways
                np.testing.assert_allclose(load_cam(out / path.name).maps, load_cam(path).maps, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "options,message",
    [
        (["--value", "0.25"], "--value 0.25: the recipe's background is alpha"),
        (["--background", "threshold", "--value", "4"], "background threshold 4.0: must lie between 0 and 1"),
        (["--scales", "0,1"], "--scales 0,1: must be numbers above 0"),
    ],
)
def test_values_that_do_not_fit_the_recipe_are_one_line(finished, tmp_path, capsys, options, message):
    config, _ = finished
    assert (
        main(
            [
                "label",
                "--data",
                config.val.root,
                "--list",
                "val",
                "--model",
                str(config.out / "ppl" / "train"),
                "--out",
                str(tmp_path / "out"),
                *options,
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_nothing_is_done_twice_and_a_change_redoes_what_depends_on_it(finished):
    config, summary = finished
    same, done = again(config)
    assert done == [] and same["ppl"]["segmentation_miou"] == summary["ppl"]["segmentation_miou"]
    affinity = dataclasses.replace(RECIPE.affinity, walk=dataclasses.replace(RECIPE.affinity.walk, steps=2))
    _, done = again(config, recipe=dataclasses.replace(RECIPE, affinity=affinity))
    assert done == [
        "walk",
        "eval_walk",
        "labels_walk",
        "eval_label_walk",
        "walk_train",
        "labels_train",
        "segmentation",
        "predictions",
        "eval_segmentation",
        "labels_network",
        "eval_label_network",
    ]
    plain = dataclasses.replace(
        RECIPE,
        affinity=dataclasses.replace(affinity, epochs=0.0),
        segmentation=dataclasses.replace(RECIPE.segmentation, epochs=0.0),
    )
    summary, done = again(config, recipe=plain)
    assert done == [] and "walk_miou" not in summary["ppl"] and "walk" not in summary_table(summary)
    folder = config.out / "ppl"
    assert all((folder / name).is_dir() for name in ("walk", "boundary", "segmentation", "predictions"))  # they stay
    assert "predictions" not in closing(summary, config.out) and "segmentation network" not in report(config)
    _, done = again(config, recipe=dataclasses.replace(RECIPE, affinity=affinity))
    assert done == []  # and are taken up again


def test_without_masks_every_final_label_set_is_counted(finished, tmp_path):
    config, _ = finished
    again(config)
    shutil.copytree(config.out, tmp_path / "run")
    (tmp_path / "data").mkdir()
    for path in Path(config.val.root).iterdir():
        if path.name != "SegmentationClass":
            (tmp_path / "data" / path.name).symlink_to(path)
    train, val = with_default_lists(DataConfig(str(tmp_path / "data")), None, None)
    summary, done = again(config, train=train, val=val, out=tmp_path / "run")
    counted = summary["ppl"]["without_masks"]
    assert list(counted) == ["labels", "labels_walk", "predictions", "labels_network"]  # no CRF here
    assert {"facts_label", "facts_label_walk", "facts_segmentation"} <= set(done) and "train" not in done
    assert counted["labels_walk"]["absent"] == 0 and counted["predictions"]["absent"] is not None
    assert counted["labels_network"]["absent"] == 0
    assert (
        "network" not in summary_table(summary)
        and "What the labels show" in (tmp_path / "run" / "report.html").read_text()
    )


def test_cut_off_steps_continue_and_end_the_same(finished, tmp_path, monkeypatch):
    """Every third training step of both networks is interrupted; the kill test of `make test-kill` does all steps."""
    config, summary = finished
    again(config)
    out = tmp_path / "run"
    shutil.copytree(config.out, out)
    names = [step.name for step in STEPS]
    for step in STEPS[names.index("boundary") :]:
        path = out / "ppl" / step.output
        if path.exists():
            (out / "ppl" / "steps" / f"{step.name}.json").unlink()
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    calls = []

    def stop(*arguments, plain=trainer.train_step):
        calls.append(1)
        if len(calls) % 3 == 0:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(trainer, "train_step", stop)
    attempts = 0
    while attempts < 4:
        attempts += 1
        try:
            resumed, _ = again(config, out=out, training=TrainOptions(threads=1, checkpoint_every=1))
            break
        except KeyboardInterrupt:
            continue
    assert attempts > 1
    for figure in ("cam_miou", "walk_miou", "walk_label_miou", "segmentation_miou"):
        assert resumed["ppl"][figure] == summary["ppl"][figure]
    for path in (config.out / "ppl" / "predictions").glob("*.png"):
        assert path.read_bytes() == (out / "ppl" / "predictions" / path.name).read_bytes()


def test_commands_exit_with_3_where_some_images_failed(finished, tmp_path, capsys):
    config, _ = finished
    part, root = config.out / "ppl", tmp_path / "demo"
    shutil.copytree(config.val.root, root)
    shutil.copytree(part / "cams", tmp_path / "cams")
    name = sorted((tmp_path / "cams").glob("*.npz"))[0].stem
    image, cam = next((root / "JPEGImages").glob(f"{name}.*")), tmp_path / "cams" / f"{name}.npz"
    whole = image.read_bytes(), cam.read_bytes()
    data = ["--data", str(root), "--list", "val"]
    walk = [
        "refine",
        "walk",
        *data,
        "--model",
        str(part / "boundary"),
        "--cams",
        str(tmp_path / "cams"),
        "--out",
        str(tmp_path / "walk"),
        "--steps",
        "8",
    ]
    test = [
        "segment",
        "test",
        *data,
        "--model",
        str(part / "segmentation"),
        "--out",
        str(tmp_path / "predictions"),
        "--scales",
        "1",
        "--crf",
        "none",
        "--jobs",
        "1",
    ]
    for command, path, content in ((walk, cam, whole[1]), (test, image, whole[0])):
        path.write_bytes(b"broken")
        assert main(command) == 3
        output = capsys.readouterr()
        assert "1 bad images (see" in output.out and name in output.out + output.err
        path.write_bytes(content)
        assert main(command) == 0


def test_a_cam_of_another_size_is_that_images_failure(finished, tmp_path):
    config, _ = finished
    part = config.out / "ppl"
    shutil.copytree(part / "cams", tmp_path / "cams")
    path = sorted((tmp_path / "cams").glob("*.npz"))[0]
    save_cam(path, Cam(np.array([0]), np.ones((1, 2, 2)), (8, 8)))
    outcome = walk_cams(
        load_boundaries(part / "boundary"),
        tmp_path / "cams",
        open_dataset(config.val),
        WalkConfig(steps=8),
        tmp_path / "walk",
    )
    assert outcome.written == 3 and [name for name, _ in outcome.bad] == [path.stem]
    assert "is for 8 x 8 pixels, the image has 96 x" in outcome.bad[0][1]


@pytest.mark.parametrize("table, changes, message", [
    ("affinity", {"augment": AugmentConfig(crop=66)}, "multiple of 4"),
    ("segmentation", {"model": ModelConfig("resnet50", "nowhere.pth")}, "nowhere.pth.*no such file"),
])  # fmt: skip
def test_mistakes_are_found_before_anything_is_trained(finished, tmp_path, table, changes, message):
    config, _ = finished
    wrong = dataclasses.replace(RECIPE, **{table: dataclasses.replace(getattr(RECIPE, table), **changes)})
    with pytest.raises(UserError, match=message):
        run(dataclasses.replace(config, recipe=wrong, out=tmp_path / "run"), lambda line: None)
    assert not (tmp_path / "run").exists()

"""The whole chain on a few small images, and what a second call does."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from train_data import without_steps

from pplfast.data.dataset import DataConfig
from pplfast.data.demo import DemoConfig, make_demo
from pplfast.errors import UserError
from pplfast.recipe import (
    AugmentConfig,
    CamConfig,
    LabelConfig,
    OptimConfig,
    Recipe,
    SegmentationConfig,
    StageConfig,
)
from pplfast.run import RunConfig, run, run_seeds, seeds_closing, with_default_lists
from pplfast.run.facts import facts_summary, remedy
from pplfast.run.table import closing, facts_table, label_folders, seeds_table, summary_table
from pplfast.train import TrainOptions

RECIPE = Recipe(
    name="tiny",
    variants=("plain", "ppl"),
    augment=AugmentConfig(crop=64, resize_long=(64, 80)),
    optim=OptimConfig(batch=4, precision="fp32"),
    stages=(StageConfig(epochs=1, position="group5", grid=2),),
    cam=CamConfig(scales=(1.0,), flip=False, precision="fp32"),
)


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    make_demo(root, DemoConfig(train=8, val=4, size=96), lambda: None)
    return root


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> tuple[RunConfig, dict]:
    train, val = with_default_lists(DataConfig(str(data)), None, None)
    config = RunConfig(
        train, val, RECIPE, RECIPE.variants, tmp_path_factory.mktemp("run"), jobs=1, training=TrainOptions(threads=1)
    )
    return config, run(config, lambda line: None)


def again(config: RunConfig, **changes) -> tuple[dict, list[str]]:
    """Run once more; the summary, and the names of the steps that were not skipped."""
    lines: list[str] = []
    summary = run(dataclasses.replace(config, **changes), lines.append)
    return summary, [line.split("] ")[1] for line in lines if line.startswith("[") and "skipped" not in line]


def test_everything_is_there(finished):
    config, summary = finished
    assert json.loads((config.out / "summary.json").read_text()) == summary
    for variant in ("plain", "ppl"):
        part = summary[variant]
        assert 0 < part["cam_miou"] < 100 and 0 < part["label_miou"] < 100
        assert part["label_before_crf_miou"] == pytest.approx(part["cam_miou"], abs=1e-9)  # the same threshold
        assert set(part["seconds"]) == {
            "train",
            "cams",
            "eval_cam",
            "labels",
            "labels_crf",
            "eval_label",
            "eval_label_crf",
        }
        assert part["images_per_second"]["train"] > 0 and part["images_without_label"] == 0
        for folder, count in (("cams/*.npz", 4), ("labels/*.png", 4), ("labels_crf/*.png", 4)):
            assert len(list((config.out / variant).glob(folder))) == count
    assert summary["data"]["val"] == {"list": summary["data"]["val"]["list"], "images": 4, "scored": 4}
    assert summary["versions"]["torch"] == torch.__version__
    assert "<figcaption>truth" in (config.out / "report.html").read_text()
    table = summary_table(summary)
    assert f"{summary['ppl']['cam_miou']:.1f}" in table and "4 of 4 images" in table


def test_a_second_call_skips_every_step_and_changes_no_figure(finished):
    config, summary = finished
    second, done = again(config)
    assert done == ["report"]
    assert {key: second[key] for key in ("plain", "ppl")} == {key: summary[key] for key in ("plain", "ppl")}


def test_a_call_that_does_not_train_gives_the_other_steps_as_many_threads(finished):
    config, _ = finished
    torch.set_num_threads(2)
    again(config)
    assert torch.get_num_threads() == 1


def test_a_run_of_an_older_pplfast_is_not_done_again(finished, tmp_path):
    """Its records lack settings that it did not know, which were what they are by default."""
    config, summary = finished
    out = tmp_path / "run"
    shutil.copytree(config.out, out)
    for variant in RECIPE.variants:
        step, record = out / variant / "steps" / "train.json", out / variant / "train" / "recipe.json"
        done, trained = json.loads(step.read_text()), json.loads(record.read_text())
        done, trained = without_steps(done), without_steps(trained)
        for settings in (done["settings"], trained["recipe"]):
            assert "steps" not in settings["stages"][0]
            assert settings.pop("loss") == "soft_margin" and settings["model"].pop("pooling") == "mean"
            assert settings["optim"].pop("reduction") == "fp32"
        step.write_text(json.dumps(done))
        record.write_text(json.dumps(trained))
    assert again(config, out=out) == (summary, ["report"])
    _, done = again(config, out=out, recipe=dataclasses.replace(RECIPE, loss="own_parts:focal"))
    assert done[0] == "plain: train"


def test_a_changed_setting_redoes_what_depends_on_it(finished):
    config, _ = finished
    label = LabelConfig(value=0.3, crf="deeplab")
    _, done = again(config, variants=("ppl",), recipe=dataclasses.replace(RECIPE, label=label))
    assert done == ["ppl: labels", "ppl: labels_crf", "ppl: eval_label", "ppl: eval_label_crf", "report"]
    _, done = again(
        config,
        variants=("ppl",),
        recipe=dataclasses.replace(RECIPE, label=label, cam=CamConfig(scales=(0.5,), flip=False, precision="fp32")),
    )
    assert done[0] == "ppl: cams" and "ppl: eval_label_crf" in done


def test_without_masks_nothing_is_scored_and_the_threshold_is_said(finished, data, tmp_path):
    config, _ = finished
    shutil.copytree(config.out, tmp_path / "run")
    (tmp_path / "data").mkdir()
    for path in data.iterdir():
        if path.name != "SegmentationClass":
            (tmp_path / "data" / path.name).symlink_to(path)
    train, val = with_default_lists(DataConfig(str(tmp_path / "data")), None, None)
    lines: list[str] = []
    out = tmp_path / "run"
    summary = run(dataclasses.replace(config, train=train, val=val, out=out, variants=("ppl",)), lines.append)
    assert any("no masks: nothing is scored" in line for line in lines)
    chosen = json.loads((out / "ppl" / "threshold_cam.json").read_text())
    assert chosen == {"threshold": pytest.approx(0.3, abs=0.25), "images": 4}
    said = f"background threshold {chosen['threshold']:g}, chosen from the maps of 4 images (no masks)"
    assert any(said in line for line in lines)
    assert any("ppl: train: done before" in line for line in lines)  # the same images and labels, elsewhere
    assert summary["ppl"]["cam_miou"] is None and summary["ppl"]["background"] == f"threshold {chosen['threshold']:g}"
    assert len(list((out / "ppl" / "labels_crf").glob("*.png"))) == 4
    assert list(out.glob("ppl/eval*")) and not summary["ppl"]["seconds"].keys() & {"eval_cam", "eval_label"}
    assert "nothing scored" in summary_table(summary)
    assert "no masks to score against" in (out / "report.html").read_text()
    facts = summary["ppl"]["without_masks"]["labels_crf"]
    assert (facts["images"], facts["absent"]) == (4, 0.0) and 0 < facts["foreground"] < 100
    assert facts == json.loads((out / "ppl" / "facts_label_crf.json").read_text()) | {"warnings": facts["warnings"]}
    unscored = dataclasses.replace(config, train=train, val=val, out=out, variants=("ppl",))
    assert again(unscored) == (summary, ["report"])  # what was counted is not counted again
    scored, done = again(config, out=out, variants=("ppl",))
    assert scored["ppl"]["without_masks"] == {} and scored["ppl"]["cam_miou"] > 0  # and back
    assert not {"ppl: train", "ppl: cams"} & set(done)


def test_figures_are_named_by_what_they_are_and_columns_without_any_are_left_out(finished):
    _, summary = finished
    head = summary_table(summary).splitlines()[0]
    assert re.split(r"  +", head) == [
        "variant", "CAMs", "labels", "after CRF", "background", "train time", "CAM time", "label time",
    ]  # fmt: skip
    bare = {**summary, "data": {**summary["data"], "val": {"list": "photos", "images": 4, "scored": 0}}}
    for variant in ("plain", "ppl"):
        bare[variant] = summary[variant] | dict.fromkeys(("cam_miou", "label_before_crf_miou", "label_miou"))
    plain = {**summary, "plain": summary["plain"] | {"crf": "none"}, "ppl": summary["ppl"] | {"crf": "none"}}
    assert "after CRF" not in summary_table(plain)  # the figure of the labels is not shown twice under another name
    text = summary_table(bare)
    assert re.split(r"  +", text.splitlines()[0]) == ["variant", "background", "train time", "CAM time", "label time"]
    assert " - " not in text and "photos: 4 images, no masks, nothing scored" in text


def test_the_end_of_a_run_names_the_label_folders_the_last_of_the_chain_first(finished, tmp_path):
    _, summary = finished
    steps = dict.fromkeys(
        ("train", "cams", "labels", "labels_crf", "labels_walk", "predictions", "labels_network"), 1.0
    )
    summary = {**summary, "ppl": summary["ppl"] | {"seconds": steps}}
    del summary["plain"]
    lines = label_folders(summary, tmp_path).splitlines()
    folders = [Path(line.split()[0]).name for line in lines[1:]]
    assert folders == ["labels_network", "predictions", "labels_walk", "labels_crf", "labels"]
    text = closing({**summary, "warnings": ["ppl, labels: all wrong"]}, tmp_path)
    assert "warning: ppl, labels: all wrong" in text and f"report: {tmp_path / 'report.html'}" in text


FACTS = {
    "source": "predictions", "dataset": "photos", "images": 60, "listed": 60, "foreground": 78.0, "almost_all": 21,
    "declared": 80, "empty": 3, "absent": 30.1,
}  # fmt: skip


def test_facts_that_look_bad_become_warnings_with_their_remedy(finished):
    _, summary = finished
    network = SegmentationConfig(epochs=6, optim=OptimConfig(batch=8))
    recipe = dataclasses.replace(RECIPE, segmentation=network, label=LabelConfig(value=0.21))
    values = {"train": {}, "facts_label_crf": FACTS | {"absent": 0.0}, "facts_segmentation": FACTS | {"almost_all": 0}}
    parts = facts_summary(values, recipe, train_images=64)
    assert list(parts) == ["labels_crf", "predictions"]
    (crf,), (network,) = parts["labels_crf"]["warnings"], parts["predictions"]["warnings"]
    assert crf.startswith("labels after the CRF: 21 of 60 images are foreground on over 90 %")
    assert "Remedy: a higher label.value (it is 0.21), or more optimizer steps" in crf
    assert crf.endswith("raise stages.0.epochs (the classifier had 16) (docs/recipes.md)")  # 1 epoch, batches of 4
    assert "30.1 % of the foreground is of classes that its image does not have (usual: at most 10 %)" in network
    assert "Remedy: more optimizer steps: raise segmentation.epochs (the segmentation network had 48)" in network
    table = facts_table({"ppl": {**summary["ppl"], "without_masks": parts}})
    assert "ppl, segmentation network" in table and "78.0 %" in table and "3 of 80" in table and "30.1 %" in table
    assert facts_table(summary) == ""
    assert remedy("empty", "labels_crf", recipe, 64).startswith("a lower label.value (it is 0.21")
    alpha = dataclasses.replace(recipe, label=LabelConfig("alpha", 4.0))
    assert remedy("empty", "labels_crf", alpha, 64).startswith("a higher label.value (it is 4")


def test_default_lists_follow_the_layout(data, tmp_path):
    def lists(root, train=None, val=None):
        return tuple(config.list for config in with_default_lists(DataConfig(str(root)), train, val))

    assert lists(data) == ("train", "val")
    assert lists(data, train="train_aug") == ("train_aug", "val")
    assert lists(tmp_path) == ("", "")
    assert lists(tmp_path, train="mine.txt") == ("mine.txt", "mine.txt")


def with_absent_images(data, folder, absent):
    """The data set with images on its lists that do not exist."""
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "classes.txt"):
        if (data / name).exists():
            (folder / name).symlink_to(data / name)
    for part in ("train", "val"):
        source = data / "ImageSets" / "Segmentation" / f"{part}.txt"
        (folder / "ImageSets" / "Segmentation" / f"{part}.txt").write_text(source.read_text() + "\n".join(absent))
    return with_default_lists(DataConfig(str(folder)), None, None)


def test_an_unusable_image_is_left_out_and_named(finished, data, tmp_path):
    config, summary = finished
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    victim = sorted((broken / "JPEGImages").glob("*.jpg"))[-1]  # of val, so that nothing is trained again
    whole = victim.read_bytes()
    shutil.copytree(config.out, tmp_path / "run")
    train, val = with_default_lists(DataConfig(str(broken)), None, None)
    assert victim.stem in (broken / "ImageSets" / "Segmentation" / "val.txt").read_text()
    config = dataclasses.replace(config, train=train, val=val, out=tmp_path / "run", variants=("ppl",))

    victim.write_bytes(whole[:-100])
    lines: list[str] = []
    second = run(config, lines.append)
    assert list(second["data"]["left_out"]) == [victim.stem]
    assert any(f"left out: {victim}: truncated" in line for line in lines)
    assert second["data"]["val"]["images"] == 3

    victim.write_bytes(whole)
    third = run(config, lambda line: None)
    assert "left_out" not in third["data"] and third["ppl"]["cam_miou"] == summary["ppl"]["cam_miou"]


def test_many_unusable_images_stop_the_run_before_training(finished, data, tmp_path):
    config, _ = finished
    train, val = with_absent_images(data, tmp_path / "data", ("absent", "absent too"))
    with pytest.raises(UserError, match="absent"):
        run(dataclasses.replace(config, train=train, val=val, out=tmp_path / "run"), lambda line: None)
    assert not (tmp_path / "run" / "plain").exists()


def test_seeds_are_run_one_by_one_and_averaged(finished, tmp_path, monkeypatch):
    config, _summary = finished
    seen = []

    def fake(one: RunConfig, say) -> dict:
        seen.append((one.out.name, one.recipe.seed))
        shift = float(one.recipe.seed)
        return {"plain": {"cam_miou": 50 + shift, "label_before_crf_miou": 1.0, "label_miou": None, "crf": "labels"}}

    monkeypatch.setattr("pplfast.run.seeds.run", fake)
    result = run_seeds(dataclasses.replace(config, out=tmp_path, variants=("plain",)), [0, 4], lambda line: None)
    assert seen == [("seed0", 0), ("seed4", 4)]
    assert result["mean"] == {"plain": {"cam_miou": 52.0, "label_before_crf_miou": 1.0, "label_miou": None}}
    assert json.loads((tmp_path / "summary.json").read_text()) == result
    table = seeds_table(result)
    assert "54.0" in table and "52.0" in table and "mean" in table
    assert table.splitlines()[0].split("  ")[0] == "variant" and "after CRF" not in table  # no seed has a figure


def test_seeds_end_with_their_warnings_and_folders(tmp_path):
    figures = {"cam_miou": None, "label_before_crf_miou": None, "label_miou": None, "crf": "none"}
    figures["seconds"] = {"labels_crf": 1.0}
    part = {"ppl": figures, "warnings": ["ppl, labels after the CRF: empty"]}
    result = {"seeds": [3, 4], "mean": {"ppl": figures}, "runs": {"seed3": part, "seed4": {**part, "warnings": []}}}
    text = seeds_closing(result, tmp_path)
    assert text.startswith("no masks, nothing scored")
    assert "warning: seed3, ppl, labels after the CRF: empty" in text and "warning: seed4" not in text
    assert f"{tmp_path}/seed3/ppl/labels_crf  labels after the CRF" in text and "so for the other seeds" in text
    assert text.endswith(f"reports: {tmp_path}/seed3/report.html, {tmp_path}/seed4/report.html")

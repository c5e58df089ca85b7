"""`pplfast sweep` in this process: its runs are not started, but leave their folders as if they had been."""

import json
import math
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from report_runs import CLASSES, cam_from_truth, make_data
from test_sweep_processes import Done
from train_data import RECIPE_FILE, without_steps

from pplfast.benchmarks import method_table, plots
from pplfast.cli import main
from pplfast.cli.parser import CommandParser
from pplfast.cli.run import check_run, run_config
from pplfast.cli.run import configure as configure_run
from pplfast.data.dataset import open_dataset
from pplfast.data.masks import read_mask
from pplfast.evaluate import evaluate_cams
from pplfast.files import write_json
from pplfast.labels.camfile import Cam, save_cam
from pplfast.lock import hold_folder
from pplfast.recipe import load_recipe
from pplfast.run.chain import _record, data_settings, open_sets
from pplfast.sweep import runs, table
from pplfast.sweep.figures import Figure, Outcome, difference, of_point, spread
from pplfast.sweep.plot import draw
from pplfast.sweep.points import Point
from pplfast.sweep.results import Results

pytestmark = pytest.mark.usefixtures("one_thread")
SHIFTS = {"0.001": 0.1, "0.01": 0.6}  # by learning rate, in radii of an object


class Started(list):
    """In place of subprocess.Popen: the words and environments of the runs. fails: seeds that end with code 2."""

    fails: tuple[int, ...] = ()

    def __call__(self, words, stdout, env, **options) -> Done:
        parser = CommandParser(prog="pplfast run")
        configure_run(parser)
        args = parser.parse_args(words[words.index("run") + 1 :])
        args.words, args.local_rank = [], None
        self.append((args, env))
        if args.seed in self.fails:
            stdout.write(b"[1/7] check data\npplfast run: error: the disk is full\n")
            return Done(2)
        config = run_config(args, check_run(args)[0])
        leave_run(config, config.recipe.optim.lr, args.seed)
        return Done()


def leave_run(config, lr: float, seed: int) -> None:
    """What a sweep reads of a run that is done; its CAMs are the worse the higher the learning rate and the seed."""
    sets, [variant] = open_sets(config), config.variants
    val, folder = sets["val"], config.out / variant
    for index, name in enumerate(val.ids):
        mask = read_mask(val.masks[index])
        own = np.flatnonzero(val.labels[index]).astype(np.int16)
        shift = SHIFTS[f"{lr:g}"] + 0.05 * seed
        maps = np.stack([cam_from_truth(mask, val.classes.ids[number], shift) for number in own])
        fainter = np.float16(0.7 if index > 2 else 1)  # the best threshold is another
        save_cam(folder / "cams" / f"{name}.npz", Cam(own, maps * fainter, mask.shape))
    write_json(folder / "eval_cam.json", evaluate_cams(folder / "cams", val, jobs=1).to_dict())
    write_json(folder / "steps" / "eval_cam.json", {"settings": {"updated": f"{lr} {seed}"}})
    write_json(config.out / "steps" / "check data.json", {"settings": data_settings(config, sets)})
    write_json(config.out / "run.json", _record(config))
    part = {variant: {"seconds": {"train": 2.0, "eval_cam": 0.5}}}
    write_json(config.out / "summary.json", part | {"seconds": 2.5, "versions": {}, "hardware": {}, "data": {}})


@pytest.fixture
def started(monkeypatch) -> Started:
    monkeypatch.setattr(runs, "POLL", 0.0)
    monkeypatch.setattr("pplfast.sweep.results.draw", lambda value, path: None)  # takes longer than all the rest
    fake = Started()
    monkeypatch.setattr(runs, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": fake}))  # not that of others
    return fake


@pytest.fixture
def words(tmp_path) -> list[str]:
    data = make_data(tmp_path / "photos", count=6, stem="photo")
    (tmp_path / "tiny.toml").write_text(RECIPE_FILE)
    where = ["--data", data.root, "--labels", data.labels, "--classes", CLASSES, "--masks", data.masks]
    return ["sweep", *where, "--recipe", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "out"), "--at-once", "2"]


LR = ["--variants", "ppl", "--vary", "optim.lr=0.001,0.01"]


def sweep_json(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "out" / "sweep.json").read_text())


# ---- figures


def test_standard_error_and_paired_differences_by_hand():
    assert spread({0: 50.0, 1: 54.0, 2: 52.0}) == {"n": 3, "mean": 52.0, "se": round(2 / math.sqrt(3), 4)}
    assert spread({7: 50.0}) == {"n": 1, "mean": 50.0, "se": None}
    # over seeds 1 and 2 alone: differences 4 and 2
    assert difference({0: 90.0, 1: 54.0, 2: 52.0}, {1: 50.0, 2: 50.0, 3: 0.0}) == {"n": 2, "mean": 3.0, "se": 1.0}
    assert difference({0: 1.0}, {1: 1.0}) is None


def test_a_point_has_its_classes_compared_where_both_have_them():
    def outcome(miou, cat, dog):
        return Outcome({"cam_miou": Figure(miou, {"cat": cat, "dog": dog})}, 1.0, {})

    ours, theirs = {0: outcome(50, 40.0, None), 1: outcome(52, 44.0, 60.0)}, {1: outcome(51, 40.0, None)}
    found = of_point(ours, theirs, "cam_miou")
    assert found["mean"] == 51 and found["se"] == 1 and found["difference"] == {"n": 1, "mean": 1.0, "se": None}
    assert found["classes"]["cat"] == {"n": 2, "mean": 42.0, "se": 2.0, "difference": {"n": 1, "mean": 4.0, "se": None}}
    assert found["classes"]["dog"] == {"n": 1, "mean": 60.0, "se": None, "difference": None}
    assert of_point(ours, theirs, "walk_miou") is None


def test_what_each_step_carries_is_compared_run_by_run(tmp_path):
    def outcome(**mious):
        return Outcome({name: Figure(miou, {}) for name, miou in mious.items()}, 1.0, {})

    point = Point("ppl", "ppl", ())
    results = Results(tmp_path, [point], [0, 1, 2], "ppl", {"scored": "scored on cats"})
    results.outcomes["ppl"] = {
        0: outcome(cam_miou=50.0, label_miou=52.0, segmentation_miou=60.0, network_label_miou=62.0),
        1: outcome(cam_miou=54.0, label_miou=60.0, segmentation_miou=62.0, network_label_miou=70.0),
        2: outcome(cam_miou=90.0),  # has gone no further: in no difference
    }
    value = results.to_dict()
    gain = value["gains"]["ppl"]
    assert list(gain) == ["label_miou", "segmentation_miou", "network_label_miou"]
    assert gain["label_miou"]["first"] == gain["label_miou"]["before"] == {"n": 2, "mean": 4.0, "se": 2.0}
    assert gain["segmentation_miou"]["first"] == {"n": 2, "mean": 9.0, "se": 1.0}
    assert gain["segmentation_miou"]["before"] == {"n": 2, "mean": 5.0, "se": 3.0}
    assert gain["network_label_miou"]["before"] == {"n": 2, "mean": 10.0, "se": 0.0}  # over label_miou, of one list
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.text(value).splitlines() if "|" in line]
    assert ["ppl", "segmentation network", "2", "61.00", "1.00", "+9.00", "1.00", "+5.00", "3.00"] in rows
    assert ["ppl", "CAMs", "3", "64.67", "12.72", "", "", "", ""] in rows
    results.outcomes["ppl"] = {2: results.outcomes["ppl"][2]}
    assert "What each step carries" not in table.text(results.to_dict())


# ---- the whole command


def test_a_sweep_runs_every_point_with_every_seed_as_far_as_the_cams(words, started, tmp_path, capsys):
    assert main([*words, *LR, "--seeds", "0-1", "--cache-mb", "100", "--set", "optim.warmup=3"]) == 0
    found = [(args.seed, Path(args.out).relative_to(tmp_path / "out").as_posix()) for args, _ in started]
    low, high = "ppl,optim.lr=0.001", "ppl,optim.lr=0.01"
    assert found == [(0, f"{low}/seed0"), (0, f"{high}/seed0"), (1, f"{low}/seed1"), (1, f"{high}/seed1")]
    args = started[0][0]
    assert args.overrides[0] == "optim.warmup=3" and args.overrides[-1] == "optim.lr=0.001"
    assert {"label.crf=none", "affinity.epochs=0", "segmentation.epochs=0"} < set(args.overrides)
    assert args.cache_mb == 100 and args.ranks == 1 and args.variants == "ppl" and args.memory > 0
    value = sweep_json(tmp_path)
    assert value["runs"] == {"wanted": 4, "done": 4, "failed": 0} and value["figures"] == ["cam_miou"]
    assert value["against"] == low and value["seconds"] == 10.0 and value["chosen"] is None
    mious = [value["points"][name]["seeds"][seed]["cam_miou"]["miou"] for name in (low, high) for seed in "01"]
    figure = value["points"][high]["figures"]["cam_miou"]
    assert figure["mean"] == pytest.approx((mious[2] + mious[3]) / 2, abs=1e-3)
    assert figure["difference"]["mean"] == pytest.approx((mious[2] + mious[3] - mious[0] - mious[1]) / 2, abs=1e-3)
    assert figure["difference"]["mean"] < 0 and set(figure["classes"]) == {"background", "cat", "dog"}
    said = capsys.readouterr().out
    assert "4 of 4 runs done" in said and "--choose-on 0.5" in said and f"| {high} " in said
    assert (tmp_path / "out" / "sweep.md").read_text() in said
    draw(value, tmp_path / "out" / "sweep.svg")
    chart = (tmp_path / "out" / "sweep.svg").read_text()
    assert ">CAMs<" in chart and f">{high}<" in chart
    assert not list((tmp_path / "out").glob(".*"))  # neither lock nor half a file

    (tmp_path / "results").mkdir()
    hardware = {"cpu": "Some CPU", "gpus": "none"}
    write_json(tmp_path / "results" / "s.json", value | {"hardware": hardware, "wall_seconds": 5400.0})
    page = method_table.table(tmp_path / "results")
    assert "Some CPU, 2 runs at a time, 1.5 hours." in page and f"| {high} " in page and "pplfast sweep" in page
    assert plots.draw(value).axes[0].get_title("left") == "CAMs"


def test_what_is_done_is_not_started_again_unless_settings_or_data_changed(words, started, tmp_path):
    def begun(*more: str) -> int:
        started.clear()
        assert main([*words, *LR, *more]) == 0
        return len(started)

    assert begun("--seeds", "0-1") == 4
    assert begun("--seeds", "0-1") == 0
    assert begun("--seeds", "0-2") == 2  # more seeds of the same points
    assert begun("--seeds", "0-1", "--set", "optim.warmup=5") == 4
    (tmp_path / "out" / "ppl,optim.lr=0.01" / "seed1" / "summary.json").unlink()
    assert begun("--seeds", "0-1", "--set", "optim.warmup=5") == 1
    labels = tmp_path / "photos" / "labels.csv"
    labels.write_text(labels.read_text().replace(";dog\n", "\n", 1))
    assert begun("--seeds", "0-1", "--set", "optim.warmup=5") == 4
    assert sweep_json(tmp_path)["runs"]["done"] == 4


def test_points_by_hand_replace_whole_lists_of_stages(words, started, tmp_path):
    low = 'low: variant=ppl stages=[{position = "group3", grid = 4, epochs = 4}]'
    assert main([*words, "--point", low, "--point", "base: variant=plain", "--seeds", "5", "--against", "base"]) == 0
    assert [args.variants for args, _ in started] == ["ppl", "plain"]
    stages = [json.loads((Path(args.out) / "run.json").read_text())["recipe"]["stages"] for args, _ in started]
    assert [(stage["position"], stage["grid"], stage["epochs"]) for stage in stages[0]] == [("group3", 4, 4)]
    assert len(stages[1]) == 2 and sweep_json(tmp_path)["against"] == "base"


def test_all_steps_are_those_of_the_recipe_in_the_same_folders(words, started, tmp_path):
    more = ["--variants", "ppl", "--seeds", "0"]
    assert main([*words, *more]) == 0 and main([*words, *more, "--steps", "all", "--vary", "label.value=0.3"]) == 0
    assert main([*words, *more, "--steps", "all"]) == 0
    assert [args.overrides for args, _ in started[1:]] == [["label.value=0.3"], []]
    assert started[0][0].out == started[2][0].out == str(tmp_path / "out" / "ppl" / "seed0")


def test_up_to_the_cams_networks_in_steps_are_left_out_too(words, started, tmp_path):
    longer = ["--set", "affinity.steps=50", "--set", "segmentation.steps=50"]
    assert main([*words, *longer, "--variants", "ppl", "--seeds", "0"]) == 0
    recipe = load_recipe(started[0][0].recipe, started[0][0].overrides)
    assert not recipe.affinity.trained and not recipe.segmentation.trained


def test_runs_of_before_there_were_steps_are_not_started_again(words, started, tmp_path):
    command = [*words, "--variants", "ppl", "--seeds", "0"]
    assert main(command) == 0
    path = Path(started[0][0].out) / "run.json"
    older = without_steps(there := json.loads(path.read_text()))
    assert older != there
    path.write_text(json.dumps(older))
    assert main(command) == 0 and len(started) == 1
    assert main([*command, "--set", "stages.0.steps=9"]) == 0 and len(started) == 2


def test_a_summary_that_is_none_is_a_failure_of_its_run(words, started, tmp_path, capsys):
    assert main([*words, *LR, "--seeds", "0"]) == 0
    summary = tmp_path / "out" / "ppl,optim.lr=0.01" / "seed0" / "summary.json"
    summary.write_text("{}")
    assert main([*words, *LR, "--seeds", "0"]) == 3
    assert f"{summary.parent}: its summary and its scores are not those of a run; remove it" in capsys.readouterr().out


def test_a_run_that_fails_is_named_with_its_log_and_the_others_go_on(words, started, tmp_path, capsys):
    started.fails = (1,)
    assert main([*words, *LR, "--seeds", "0-2"]) == 3
    value, out = sweep_json(tmp_path), capsys.readouterr().out
    assert value["runs"] == {"wanted": 6, "done": 4, "failed": 2}
    log = tmp_path / "out" / "ppl,optim.lr=0.01" / "seed1.log"
    message = f"pplfast run: error: the disk is full (log: {log})"
    assert value["points"]["ppl,optim.lr=0.01"]["failed"] == {"1": message} and message in out
    assert value["points"]["ppl,optim.lr=0.01"]["figures"]["cam_miou"]["difference"]["n"] == 2
    started.fails = ()
    started.clear()
    assert main([*words, *LR, "--seeds", "0-2"]) == 0 and len(started) == 2
    assert sweep_json(tmp_path)["runs"]["failed"] == 0


def test_the_point_is_chosen_by_one_part_and_reported_by_the_other(words, started, tmp_path, capsys):
    (tmp_path / "first.txt").write_text("photo_0\nphoto_1\nphoto_2\n")
    command = [*words, "--vary", "optim.lr=0.01,0.001", "--seeds", "0-1", "--variants", "plain,ppl"]
    assert main([*command, "--choose-on", str(tmp_path / "first.txt")]) == 0
    value = sweep_json(tmp_path)
    assert value["figures"] == ["cam_miou", "cam_miou_first", "cam_miou_second"]
    chosen = value["chosen"]["variants"]
    assert {name: part["point"] for name, part in chosen.items()} == {
        "plain": "plain,optim.lr=0.001",
        "ppl": "ppl,optim.lr=0.001",
    }
    assert chosen["ppl"]["difference"] == {"n": 2, "mean": 0.0, "se": 0.0}  # the same CAMs were left
    data = open_dataset(make_data(tmp_path / "photos", count=6, stem="photo"))
    cams = tmp_path / "out" / "ppl,optim.lr=0.001" / "seed1" / "ppl" / "cams"
    first = evaluate_cams(cams, data.subset([0, 1, 2]), jobs=1)
    second = evaluate_cams(cams, data.subset([3, 4, 5]), (first.threshold,), jobs=1)
    assert evaluate_cams(cams, data.subset([3, 4, 5]), jobs=1).threshold != first.threshold
    run = value["points"]["ppl,optim.lr=0.001"]["seeds"]["1"]
    assert run["cam_miou_first"]["miou"] == first.miou and run["cam_miou_second"]["miou"] == second.miou
    assert "Each variant's best by CAMs, first part" in capsys.readouterr().out


def test_by_size_the_reported_images_are_scored_in_thirds_and_by_class(words, started, tmp_path, capsys):
    (tmp_path / "first.txt").write_text("photo_0\nphoto_1\nphoto_2\n")
    command = [*words, *LR, "--seeds", "0-1", "--variants", "plain,ppl", "--by-size"]
    assert main([*command, "--choose-on", str(tmp_path / "first.txt")]) == 0
    value = sweep_json(tmp_path)
    where = value["where"]["cam_miou_second"]
    assert where["against"] == value["chosen"]["variants"]["plain"]["point"] == "plain,optim.lr=0.001"
    assert list(where["points"]) == ["plain,optim.lr=0.001", "ppl,optim.lr=0.001"]
    rows = where["points"]["ppl,optim.lr=0.001"]
    assert list(rows) == ["background", "cat", "dog", "small objects", "medium objects", "large objects"]

    data = open_dataset(make_data(tmp_path / "photos", count=6, stem="photo"))
    cams = tmp_path / "out" / "ppl,optim.lr=0.001" / "seed1" / "ppl" / "cams"
    threshold = evaluate_cams(cams, data.subset([0, 1, 2]), jobs=1).threshold
    shown = {k: np.count_nonzero(np.isin(read_mask(data.masks[k]), data.classes.ids)) for k in (3, 4, 5)}
    smallest = min(shown, key=lambda k: shown[k])
    small = evaluate_cams(cams, data.subset([smallest]), (threshold,), jobs=1)
    run = value["points"]["ppl,optim.lr=0.001"]["seeds"]["1"]
    assert run["cam_miou_small"]["miou"] == small.miou
    assert rows["small objects"]["n"] == 2 and rows["small objects"]["difference"]["mean"] == 0  # the same CAMs
    assert "| large objects " in capsys.readouterr().out

    assert main(command) == 0  # all images are reported, and all points
    where = sweep_json(tmp_path)["where"]["cam_miou"]
    assert len(where["points"]) == 4 and where["against"] == "plain,optim.lr=0.001"
    whole = evaluate_cams(cams, data, jobs=1)
    third = sorted(range(6), key=lambda k: np.count_nonzero(np.isin(read_mask(data.masks[k]), data.classes.ids)))[:2]
    small = evaluate_cams(cams, data.subset(third), (whole.threshold,), jobs=1)
    assert sweep_json(tmp_path)["points"]["ppl,optim.lr=0.001"]["seeds"]["1"]["cam_miou_small"]["miou"] == small.miou


def test_parts_are_scored_once_and_a_share_takes_an_image_whatever_else_is_listed(
    words, started, tmp_path, monkeypatch
):
    assert main([*words, *LR, "--seeds", "0", "--choose-on", "0.5"]) == 0
    before = sweep_json(tmp_path)
    monkeypatch.setattr("pplfast.sweep.parts._score", lambda *_: pytest.fail("scored again"))
    assert main([*words, *LR, "--seeds", "0", "--choose-on", "0.5"]) == 0
    assert sweep_json(tmp_path)["points"] == before["points"]
    from pplfast.sweep.parts import parts_of

    data = open_dataset(make_data(tmp_path / "photos", count=6, stem="photo"))
    whole, some = (
        parts_of("0.5", False, {"val": one}, None).of("val")["_first"].ids for one in (data, data.subset([0, 1, 2, 3]))
    )
    assert set(some) == set(whole) & {f"photo_{number}" for number in range(4)}


@pytest.mark.parametrize(
    "more, message",
    (
        (["--vary", "optim.lrr=1,2"], "unknown key 'optim.lrr'; did you mean lr"),
        (["--vary", "optim.lr=0.1,-1"], "optim.lr"),
        (["--vary", "stages.0.position=group3,nowhere"], "nowhere"),
        (["--vary", "stages.7.grid=2,4"], "the recipe has 2 stages (0 and 1)"),
        (["--point", "a: stages=[{grid=2}]"], "'stages[0].epochs' and 'steps' are missing"),
        (["--vary", "label.value=0.2,0.3"], "label.value=0.2: decides nothing up to the CAMs; give --steps all"),
        (["--variants", "plain,plian"], "plian"),
        (["--variants", ","], "--variants is empty"),
        (["--against", "nobody"], "--against nobody: no such point (points: plain, ppl)"),
        (["--seeds", "x"], "--seeds x: must be whole numbers"),
        (["--at-once", "0"], "--at-once 0: must be 1 or more"),
        (["--choose-on", "1.5"], "--choose-on 1.5: must be a share"),
        (["--choose-on", "0.000001"], "takes 0 of the 6 images"),
        (["--masks", ""], "has no masks, so nothing can be compared"),
        (["--out", "photos/in"], "lies among the data set's files"),
        (["--cache-mb", "-1"], "--cache-mb -1.0: must be 0 or more"),
    ),
)
def test_what_is_wrong_is_named_before_anything_is_started(
    words, started, tmp_path, monkeypatch, capsys, more, message
):
    monkeypatch.chdir(tmp_path)
    assert main([*words, *more]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not started and not (tmp_path / "out").exists()


def test_two_sweeps_do_not_write_to_one_folder(words, started, tmp_path, capsys):
    with hold_folder(tmp_path / "out"):
        assert main([*words, *LR]) == 2
    assert "writes to it; wait for it, stop it, or choose another --out" in capsys.readouterr().err and not started


def test_a_list_to_choose_on_is_not_the_whole_list(words, started, tmp_path, capsys):
    (tmp_path / "all.txt").write_text("".join(f"photo_{number}\n" for number in range(6)))
    assert main([*words, "--choose-on", str(tmp_path / "all.txt")]) == 2
    assert "takes 6 of the 6 images" in capsys.readouterr().err and not started

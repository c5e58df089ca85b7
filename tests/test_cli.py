"""The command line's frame: help, unknown commands, and errors in one line."""

import importlib
import os
import re
import subprocess
import sys
import tomllib

import pytest
from PIL import Image

from pplfast.cli import COMMANDS, build_parser, main
from pplfast.cli.run import parse_seeds
from pplfast.errors import UserError
from pplfast.recipe import preset_names
from pplfast.version import __version__

DATA = ["--data", "/nowhere/at/all"]
WRONG_PATHS = {
    "data": ["data", "check", *DATA],
    "train": ["train", *DATA, "--recipe", "demo", "--out", "OUT"],
    "cam": ["cam", *DATA, "--model", "/nowhere/at/all", "--out", "OUT"],
    "label": ["label", *DATA, "--cams", "/nowhere", "--out", "OUT"],
    "eval": ["eval", *DATA, "--cams", "/nowhere"],
    "run": ["run", *DATA, "--recipe", "demo", "--out", "OUT"],
    "report": ["report", "/nowhere/at/all"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: pplfast {command}" in capsys.readouterr().out


def test_help_lists_every_command_and_version_prints_it(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^    {command}\s", text, re.MULTILINE) for command in COMMANDS)
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"pplfast {__version__}\n"


def test_recipes_are_listed_and_printed(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == preset_names()
    assert main(["recipes", "own-images"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["name"] == "own-images"
    assert main(["recipes", "own-image"]) == 2
    assert "own-image: no such recipe; did you mean own-images?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, seeds",
    (("0,1,2", [0, 1, 2]), ("0-2", [0, 1, 2]), ("0-1, 7", [0, 1, 7]), ("5", [5]), ("3-3", [3])),
)
def test_seeds(text, seeds):
    assert parse_seeds(text, None) == seeds


@pytest.mark.parametrize("text", ("0-" + "9" * 5000, "9" * 23, "0-99999999", "9" * 5000 + ",1", "0-1000"))
def test_seeds_that_are_none_are_one_short_line(text):
    with pytest.raises(UserError, match="^--seeds .*: (must be|0-.* more than 1000 runs)") as error:
        parse_seeds(text, None)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("option", ("--cache-mb", "--checkpoint-seconds", "--lost-after", "--stuck-after"))
@pytest.mark.parametrize("value", ("nan", "inf", "-1", "1e300"))
def test_numbers_of_a_training_that_are_none_are_one_line(option, value, capsys):
    assert main(["train", "--data", "d", "--recipe", "demo", "--out", "o", option, value]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"error: {option} {float(value)}: must be " in error


def test_a_run_without_recipe_looks_at_the_data_first(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    command = ["run", "--data", str(folder), "--out", str(tmp_path / "out")]
    assert main(command) == 2  # there is no image in it
    output = capsys.readouterr()
    assert output.out == "" and f"{folder}: names no image" in output.err
    (folder / "JPEGImages").mkdir()
    assert main(command) == 2
    assert "no list 'train'" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ("photos", "photos/runs/new", "link/runs"))
def test_a_run_within_the_data_set_is_refused(out, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    assert main(["run", "--data", str(folder), "--recipe", "demo", "--out", str(tmp_path / out)]) == 2
    error = capsys.readouterr().err
    assert "lies among the data set's files" in error and error.count("\n") == 1 and not list(folder.iterdir())


def test_the_report_shows_as_many_images_as_its_help_says():
    from pplfast.report import IMAGES

    assert build_parser("report").parse_args(["report", "x"]).images == IMAGES


@pytest.mark.parametrize("arguments", [["nothing"], [], ["run"], ["--nothing"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: pplfast" in capsys.readouterr().err


@pytest.mark.parametrize("command", WRONG_PATHS)
def test_a_wrong_path_is_one_line_and_writes_nothing(command, capsys, tmp_path):
    arguments = [str(tmp_path / "out") if word == "OUT" else word for word in WRONG_PATHS[command]]
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    program = "pplfast data check" if command == "data" else f"pplfast {command}"
    assert output.err.startswith(f"{program}: error: /nowhere/at/all: ") and output.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--recipe", "nothing"], "nothing: neither a recipe file"),
        (["--recipe", "demo", "--variants", "plain,both"], "'variants' = ('plain', 'both'): must be one of plain, ppl"),
        (["--recipe", "demo", "--variants", ","], "--variants is empty"),
        (["--recipe", "demo", "--seeds", "0,one"], "--seeds 0,one: must be whole numbers, like 0,1,2 or 0-2"),
        (["--recipe", "demo", "--seeds", "2-0"], "2-0 ends before it begins; write 0-2"),
        (["--recipe", "demo", "--seeds", "0-2,1"], "--seeds 0-2,1: the same seed twice"),
        (["--recipe", "demo", "--jobs", "0"], "--jobs 0: must be 1 or more"),
        (["--recipe", "demo", "--seeds", "1,2", "--seed", "1"], "--seed 1 and --seeds 1,2: give one"),
        (["--recipe", "demo", "--checkpoint-every", "0"], "--checkpoint-every 0: must be 1 or more"),
        (["--recipe", "demo", "--seeds", "1,1"], "--seeds 1,1: the same seed twice"),
        (["--recipe", "demo", "--set", "label.value=1.5"], "background threshold 1.5: must lie between 0 and 1"),
    ],
)
def test_wrong_options_of_run_are_one_line(options, message, capsys, tmp_path):
    assert main(["run", "--data", str(tmp_path), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_a_file_is_one_line(capsys, tmp_path):
    (tmp_path / "data" / "JPEGImages").mkdir(parents=True)
    (tmp_path / "labels.csv").write_text("a.jpg,one\n")
    (tmp_path / "list.txt").write_text("a\n")
    (tmp_path / "out").write_text("precious")
    lists = ["--train-list", str(tmp_path / "list.txt"), "--val-list", str(tmp_path / "list.txt")]
    assert (
        main(
            [
                "run",
                "--data",
                str(tmp_path / "data"),
                "--labels",
                str(tmp_path / "labels.csv"),
                "--classes",
                "one",
                *lists,
                "--recipe",
                "demo",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("pplfast run: error: ") and str(tmp_path / "out") in error and error.count("\n") == 1
    assert (tmp_path / "out").read_text() == "precious"


def test_the_launchers_local_rank_before_the_command_is_accepted(capsys):
    assert main(["--local_rank=0", "report", "/nowhere/at/all"]) == 2
    assert "pplfast report: error:" in capsys.readouterr().err


@pytest.mark.slow
def test_the_module_runs_as_a_process_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pplfast", "report", str(tmp_path)], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 2
    assert done.stderr.startswith("pplfast report: error: ") and "Traceback" not in done.stderr


def test_threads_of_torch_and_of_decoding():
    import torch

    from pplfast.cli.machine import job_options
    from pplfast.data.classes import VOC
    from pplfast.data.dataset import Dataset

    before, dataset = torch.get_num_threads(), Dataset("none", (), (), VOC, None, ())
    words = ["cam", "--data", ".", "--model", "m", "--out", "o"]
    try:
        args = build_parser("cam").parse_args([*words, "--threads", str(before + 1)])
        args.local_rank = None
        assert job_options(args, dataset).threads == torch.get_num_threads() == before + 1
        args.threads = 0
        assert job_options(args, dataset).threads is None
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("command", ("cam", "label", "segment test", "refine walk", "run"))
def test_commands_that_work_through_images_keep_a_memory_budget(command):
    assert "--memory GIB" in build_parser().every_command()[f"pplfast {command}"].format_help()


@pytest.mark.parametrize("value", ("0.1", "nan", "inf", "-1", "1e300"))
@pytest.mark.parametrize("command", ("cam", "label --cams c", "segment test", "refine walk --cams c", "run"))
def test_a_memory_budget_that_is_none_is_refused(command, value, capsys):
    model = [] if command in ("run", "label --cams c") else ["--model", "m"]
    assert main([*command.split(), *model, "--data", ".", "--out", "o", "--memory", value]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"error: --memory {float(value):g}: must be " in error


@pytest.mark.parametrize("error", (
    MemoryError(), OSError(12, "Cannot allocate memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory\nmore"),
))  # fmt: skip
def test_running_out_of_memory_is_one_line(error, capsys, monkeypatch):
    from pplfast.cli import eval as command

    monkeypatch.setattr(command, "run", lambda args: (_ for _ in ()).throw(error))
    assert main(["eval", "--data", ".", "--cams", "c"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("pplfast eval: error: out of memory") and text.count("\n") == 1 and "--jobs" in text


@pytest.mark.parametrize("command", ("cam", "label", "segment test", "refine walk", "train", "run", "bench all"))
def test_commands_that_compute_take_threads(command):
    assert "--threads N" in build_parser().every_command()[f"pplfast {command}"].format_help()


def test_a_dry_run_counts_and_writes_nothing(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(10):
        Image.new("RGB", (40, 30)).save(folder / f"{index}.jpg")
    (tmp_path / "labels.csv").write_text("".join(f"{index}.jpg,cell\n" for index in range(10)))
    data = ["--data", str(folder), "--labels", str(tmp_path / "labels.csv"), "--classes", "cell,city bus"]
    data += ["--recipe", "own-images"]
    before = sorted(tmp_path.rglob("*"))
    assert main(["run", *data, "--out", str(tmp_path / "runs" / "x"), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert "recipe own-images, seed 0, classes cell, city bus" in text
    assert "trained on photos: 10 images" in text and "no true masks: nothing is scored" in text
    assert "labels_walk" in text and "optimizer steps of the classifier: 4 + 4" in text  # 2 epochs each, batch 8
    assert "segmentation network: 16" in text and "GiB are free" in text
    assert "warning: each of the 10 images has cell: " in text and "warning: 1 of 2 classes have no image" in text
    assert "memory: the largest image has 40 x 30 pixels" in text and "disk, for each variant: 0.0 MiB" in text
    assert "cannot be used" not in text and "time, at" not in text  # no run is there whose rates could tell
    assert "warning: 10 images make 8 optimizer steps of the classifier" in text and "--set stages.0.steps=100" in text
    assert main(["run", *data, "--out", str(tmp_path / "runs" / "x"), "--dry-run", "--memory", "0.25"]) == 0
    assert "get no label with a CRF" not in capsys.readouterr().out
    Image.new("RGB", (1200, 1000)).save(folder / "9.jpg")
    assert main(["run", *data, "--out", str(tmp_path / "runs" / "x"), "--dry-run", "--memory", "0.25"]) == 0
    text = capsys.readouterr().out
    assert "the largest image has 1200 x 1000 pixels, 400.5 MiB where a CRF is used" in text
    assert "warning: images of more than 0.6 megapixels get no label with a CRF; raise --memory" in text
    change = ["--set", "stages.0.epochs=1.5", "--variants", "plain,ppl", "--set", "segmentation.epochs=0"]
    assert main(["run", *data, "--out", str(tmp_path / "runs" / "x"), "--dry-run", *change]) == 0
    text = capsys.readouterr().out
    assert "seed 0," in text and "x, where" in text
    assert "classifier: 7" in text and "classifier: 3 + 4" in text and "segmentation network" not in text
    change = ["--set", "stages.0.steps=33", "--set", "segmentation.steps=44", "--variants", "plain,ppl"]
    assert main(["run", *data, "--out", str(tmp_path / "runs" / "x"), "--dry-run", *change]) == 0
    text = capsys.readouterr().out
    assert "classifier: 37" in text and "classifier: 33 + 4" in text and "segmentation network: 44" in text

    assert main(["run", *data, "--out", str(tmp_path / "runs" / "x"), "--dry-run", "--seeds", "3-4"]) == 0
    text = capsys.readouterr().out
    assert "seeds 3, 4, one after the other" in text and "x/seed<N> for each seed" in text


@pytest.mark.parametrize(
    "command, hint",
    (
        ("report", ""),
        ("run", "; the same command continues"),
        ("train", "; the same command with --resume continues"),
    ),
)
def test_ctrl_c_says_whether_the_same_command_continues(command, hint, monkeypatch, capsys):
    module = importlib.import_module(f"pplfast.cli.{command}")

    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run", interrupt)
    words = {"report": ["x"], "run": ["--data", "x", "--out", "y"]}
    words["train"] = [*words["run"], "--recipe", "demo"]
    assert main([command, *words[command]]) == 130
    assert capsys.readouterr().err == f"\npplfast {command}: interrupted{hint}\n"


def test_a_value_may_begin_with_a_minus(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "photos" / "a.png")
    command = ["data", "check", "--data", str(tmp_path / "photos"), "--labels", "none"]
    for words in (["--range", "-1000,400"], ["--range=-1000,400"]):
        assert main([*command, *words]) == 0
        assert "\nrange of deep images: -1000 to 400\n" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main([*command, "--range", "-x,4"])  # an option, by its looks
    assert stop.value.code == 2 and "--range: expected one argument" in capsys.readouterr().err

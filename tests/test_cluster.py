"""Launching, restarts and DeepSpeed's configuration files, without a cluster; with one: multinode.py."""

import base64
import json
import os
from pathlib import Path

import pytest
from data_sets import save_image
from train_data import make_recipe

from pplfast.cli import main
from pplfast.cluster import hosts as asking
from pplfast.cluster import launch as launching
from pplfast.cluster.hosts import Host, answering, read_hostfile
from pplfast.cluster.launch import LaunchOptions, launch
from pplfast.errors import UserError
from pplfast.train.deepspeed_file import apply_deepspeed_file

LAUNCH = Path(__file__).parent.parent / "launch"


def test_host_files(tmp_path):
    assert read_hostfile(str(LAUNCH / "hostfile.example")) == [Host("node-a", 8), Host("node-b", 8)]
    for text, message in (
        ("node-a\n", "line 1 is 'node-a'; write it like"),
        ("", "names no host"),
        ("# x\na slots=1\na slots=2\n", "line 3 names a again"),
        ("a slots=0", "line 1"),
    ):
        (tmp_path / "hosts").write_text(text)
        with pytest.raises(UserError, match=message):
            read_hostfile(str(tmp_path / "hosts"))
    with pytest.raises(UserError, match="hostfile.example"):
        read_hostfile(str(tmp_path / "none"))


@pytest.mark.slow
def test_a_host_is_asked_twice(monkeypatch, tmp_path):
    """In place of ssh a script: node-a refuses the first connection only, node-b each, node-c none."""
    ssh = tmp_path / "ssh"
    ssh.write_text(f"""#!/bin/sh
for host in "$@"; do case $host in node-*) break; esac; done
echo >> {tmp_path}/$host
case $host-$(wc -l < {tmp_path}/$host) in node-a-1 | node-b-*) exit 255; esac
""")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(asking, "PAUSE", 0)
    hosts = [Host(name, 1) for name in ("node-a", "node-b", "node-c")]
    assert answering(hosts) == [hosts[0], hosts[2]]
    assert [len((tmp_path / host.name).read_text()) for host in hosts] == [2, 2, 1]


class Attempts:
    """What is started instead of launchers, by attempt and host; each attempt ends with the next of the exit codes."""

    def __init__(self, monkeypatch, codes: list[int], alive: list[list[str]]) -> None:
        self.starts: list[dict[str | None, list[str]]] = []
        codes, alive = iter(codes), iter(alive)

        def answering(hosts):
            up = next(alive)
            return [host for host in hosts if host.name in up]

        def run(starts, received, say):
            self.starts.append(starts)
            return next(codes)

        monkeypatch.setattr(launching, "answering", answering)
        monkeypatch.setattr(launching, "first_address", lambda host: "10.0.0.1")
        monkeypatch.setattr(launching, "_run", run)

    @property
    def commands(self) -> list[list[str]]:
        """Of the first host."""
        return [next(iter(starts.values())) for starts in self.starts]


def option(command: list[str], name: str) -> str:
    [word] = [word for words in command for word in words.split() if word.startswith(name)]
    return word.partition("=")[2]


@pytest.fixture
def hostfile(tmp_path) -> str:
    (tmp_path / "hosts").write_text("node-a slots=2\nnode-b slots=4\n")
    return str(tmp_path / "hosts")


def test_a_lost_host_is_left_out_and_training_resumes(monkeypatch, hostfile):
    attempts = Attempts(monkeypatch, [75, 255, 0], [["node-a", "node-b"], ["node-b"], ["node-a", "node-b"]])
    said: list[str] = []
    assert launch(["train", "--out", "x"], LaunchOptions(hostfile, restarts=3), said.append) == 0
    assert [list(starts) for starts in attempts.starts] == [["node-a", "node-b"], ["node-b"], ["node-a", "node-b"]]
    assert [command[-1].endswith(" --resume") for command in attempts.commands] == [False, True, True]
    assert len({option(command, "--master_port") for command in attempts.commands}) == 3
    # the launcher's own lines but for errors; before the program, whose option it would be else
    assert all(command[-1].index("--quiet") < command[-1].index("--module") for command in attempts.commands)
    assert [option(command, "--master_addr") for command in attempts.commands] == ["10.0.0.1", "node-b", "10.0.0.1"]
    assert [option(command, "--node_rank") for command in attempts.starts[0].values()] == ["0", "1"]
    assert said == [
        "attempt 1 ended with exit code 75; starting again from the last checkpoint, 3 restarts left",
        "node-a: no answer by ssh; going on with node-b",
        "attempt 2 ended with exit code 75 (the connection to a host was lost, or a rank was killed by SIGHUP); "
        "starting again from the last checkpoint, 2 restarts left",
    ]


@pytest.mark.parametrize(
    "codes, attempts_made", (([2], 1), ([3], 1), ([129], 1), ([130], 1), ([143], 1), ([1, 1], 2), ([0], 1))
)
def test_what_is_not_started_again(monkeypatch, codes, attempts_made):
    attempts = Attempts(monkeypatch, codes, [])
    assert launch(["label", "--out", "x"], LaunchOptions(ranks=2, restarts=1), lambda _: None) == codes[-1]
    assert len(attempts.commands) == attempts_made and "--resume" not in attempts.commands[-1]


@pytest.mark.parametrize(
    "ended, code, reason",
    (
        (256 - 9, 75, " (a rank or its launcher was killed by SIGKILL)"),
        (256 - 11, 75, " (a rank or its launcher was killed by SIGSEGV)"),
        (128 + 9, 75, " (a rank or its launcher was killed by SIGKILL)"),
        (-9, 75, " (its launcher was killed by SIGKILL)"),
        (256 - 40, 75, " (a rank or its launcher was killed by signal 40)"),
        (255, 75, " (the connection to a host was lost, or a rank was killed by SIGHUP)"),
        (1, 1, ""),
        (75, 75, ""),
    ),
)
def test_a_killed_rank_is_a_lost_one(monkeypatch, ended, code, reason):
    said: list[str] = []
    Attempts(monkeypatch, [ended], [])
    assert launch(["label", "--out", "x"], LaunchOptions(ranks=2), said.append) == code
    assert said == [f"attempt 1 ended with exit code {code}{reason}; --restarts N would start it again"]


@pytest.mark.parametrize("ended", (130, 256 - 2, -2))
def test_who_interrupts_a_run_does_not_want_it_again(monkeypatch, ended):
    Attempts(monkeypatch, [ended], [])
    assert launch(["label", "--out", "x"], LaunchOptions(ranks=2, restarts=3), lambda _: None) == 130


@pytest.mark.parametrize(
    "visible, ranks, expected",
    (
        (None, 3, [0, 1, 2]),
        ("", 2, [0, 1]),
        ("-1", 2, [0, 1]),
        ("4, 6,7", 2, ["4", "6"]),
        ("GPU-a1,GPU-b2", 1, ["GPU-a1"]),
    ),
)
def test_the_gpus_of_the_ranks(monkeypatch, visible, ranks, expected):
    """Nothing but the ranks of this machine: no host file that lies where DeepSpeed looks for one is read."""
    attempts = Attempts(monkeypatch, [0], [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert launch(["label"], LaunchOptions(ranks=ranks), lambda _: None) == 0
    [command] = attempts.commands
    assert json.loads(base64.urlsafe_b64decode(option(command, "--world_info"))) == {"localhost": expected}


def test_more_ranks_than_the_gpus_that_are_named(monkeypatch):
    Attempts(monkeypatch, [], [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match="--ranks 2: CUDA_VISIBLE_DEVICES names 1"):
        launch(["label"], LaunchOptions(ranks=2), lambda _: None)


def test_no_host_answers(monkeypatch, hostfile):
    Attempts(monkeypatch, [], [[]])
    with pytest.raises(UserError, match="none of its 2 hosts answers; try `ssh node-a true`"):
        launch(["train"], LaunchOptions(hostfile), lambda _: None)


def test_the_command_line_names_what_is_missing(capsys, tmp_path):
    for words in ([], ["eval"], ["segment"], ["refine", "test"], ["--ranks", "2"]):
        assert main(["launch", *words]) == 2 and "name the command to run" in capsys.readouterr().err
    train = ["train", "--data", "/none", "--recipe", "demo", "--out", "x"]
    assert main(["launch", "--hostfile", "/none", *train]) == 2 and "/none: not a readable" in capsys.readouterr().err
    (tmp_path / "h").write_text("\nn1 lots=8\n")  # before options that the command lacks
    assert main(["launch", "--hostfile", str(tmp_path / "h"), "train"]) == 2 and "line 2" in capsys.readouterr().err
    assert main(["launch", "--restarts", "-1", *train]) == 2 and "--restarts -1" in capsys.readouterr().err
    assert main(["launch", "--ranks", "9999999", *train]) == 2 and "--ranks 9999999: must" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, message",
    (
        (["--recipe", "dem"], "dem: neither a recipe file"),
        (["--set", "optim.lr=-1"], "'optim.lr' = -1"),
        (["--keep", "0"], "--keep 0: must be 1 or more"),
        (["--threads", "-3"], "--threads -3: must be 0 or more"),
        (["--cache-mb", "-5"], "--cache-mb -5.0: must be 0 or more"),
        (["--list", "trian"], "no list 'trian'"),
        (["--data", "/none"], "/none: no such folder"),
    ),
)
def test_what_can_be_mended_is_found_before_ranks_are_started(monkeypatch, tmp_path, capsys, change, message):
    attempts = Attempts(monkeypatch, [], [])
    (tmp_path / "list.txt").write_text("a\n")
    train = ["train", "--data", str(tmp_path), "--list", "list", "--recipe", "demo", "--out", "x"]
    assert main(["launch", "--ranks", "2", *train, *change]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not attempts.commands


@pytest.mark.parametrize(
    "kind, words",
    (
        ("", ["run", "--recipe", "demo", "--train-list", "list"]),
        ("", ["run", "--labels", "none"]),
        ("classifier", ["cam", "--list", "list"]),
        ("classifier", ["label", "--list", "list"]),
        ("", ["label", "--list", "list", "--cams", "x"]),
        ("boundary", ["refine", "walk", "--list", "list", "--cams", "x"]),
        ("classifier", ["refine", "train", "--list", "list", "--pngs", "x", "--recipe", "demo"]),
        ("", ["segment", "train", "--list", "list", "--pngs", "x", "--recipe", "demo"]),
        ("segmentation", ["segment", "test", "--list", "list"]),
    ),
)
def test_every_command_that_shares_its_work_among_ranks(monkeypatch, tmp_path, capsys, kind, words):
    """What is trained goes on with --resume; all else by the same command."""
    attempts = Attempts(monkeypatch, [75, 0], [])
    (tmp_path / "list.txt").write_text("a\n")
    save_image(tmp_path / "a.jpg")
    words = [*words, "--data", str(tmp_path), "--out", "y"]
    if kind:
        (tmp_path / f"{kind}.json").write_text("{}")
        (tmp_path / f"{kind}.safetensors").write_text("")
        words += ["--model", str(tmp_path)]
    assert main(["launch", "--ranks", "2", "--restarts", "1", *words]) == 0, capsys.readouterr().err
    resumed = ["--resume"] if "train" in words[:2] else []
    assert [command[command.index("pplfast") + 1 :] for command in attempts.commands] == [words, words + resumed]


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("zero*.json")), ids=lambda path: path.stem)
def test_the_deepspeed_files_of_launch(path):
    recipe, extra = apply_deepspeed_file(make_recipe(), str(path))
    assert f"zero{recipe.optim.zero}_{recipe.optim.precision}" == path.stem and recipe.optim.reduction == "fp32"
    assert set(extra) <= {"zero_optimization"} and "stage" not in extra.get("zero_optimization", {})


def test_deepspeed_files_do_not_speak_for_the_recipe(tmp_path):
    path = tmp_path / "ds.json"
    for table, message in (
        ({"optimizer": {}}, "'optimizer' is the recipe's to say"),
        ([], "JSON object"),
        ({"zero_optimization": {"stage": 3}}, "'optim.zero' = 3: must be 0 or more, at most 2"),
        ({"torch_autocast": {"enabled": True, "dtype": "half"}}, "torch_autocast.dtype = 'half'"),
        ({"communication_data_type": "fp8"}, "optim.reduction"),
    ):
        path.write_text(json.dumps(table))
        with pytest.raises(UserError, match=message):
            apply_deepspeed_file(make_recipe(), str(path))
    path.write_text(json.dumps({"wall_clock_breakdown": True, "communication_data_type": "bf16"}))
    recipe, extra = apply_deepspeed_file(make_recipe(), str(path))
    assert extra == {"wall_clock_breakdown": True} and recipe.optim.reduction == "bf16"


def test_a_deepspeed_file_for_one_of_the_other_networks(tmp_path):
    path = LAUNCH / "zero1_bf16.json"
    before = make_recipe()
    recipe, _ = apply_deepspeed_file(before, str(path), "segmentation")
    assert (recipe.segmentation.optim.zero, recipe.segmentation.optim.precision) == (1, "bf16")
    assert recipe.optim == before.optim and recipe.affinity == before.affinity
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"optimizer": {}, "bf16": {}}))
    with pytest.raises(UserError, match=r"set \[segmentation\.optim\]"):
        apply_deepspeed_file(make_recipe(), str(path), "segmentation")


@pytest.mark.slow
def test_scripts_are_executable_shell():
    for script in (*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"):
        assert os.system(f"bash -n {script}") == 0, script
        assert script.suffix == ".sbatch" or os.access(script, os.X_OK), script


@pytest.mark.slow
def test_a_rank_that_is_killed_under_the_launcher(monkeypatch, capfd):
    monkeypatch.setattr(launching, "PROGRAM", (str(Path(__file__).with_name("watched_rank.py")),))
    for name, value in {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    assert launch(["killed"], LaunchOptions(ranks=2), said.append) == 75
    assert said == [
        "attempt 1 ended with exit code 75 (a rank or its launcher was killed by SIGKILL); --restarts N would start it "
        "again"
    ]
    assert "rank 1 on " in capfd.readouterr().err

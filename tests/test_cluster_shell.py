"""What goes through pdsh and the shells of other hosts arrives as it was, and nothing of it is executed.

In the slow tests DeepSpeed, pdsh and the shell are the real ones; in place of ssh a script runs the command here, and
in place of the ranks' launcher another that keeps what it gets.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pplfast.cluster import launch as launching
from pplfast.cluster import shell
from pplfast.cluster.hosts import Host
from pplfast.cluster.launch import LaunchOptions, launch
from pplfast.cluster.shell import check_path, remote_variables, remote_word
from pplfast.errors import UserError

SSH = """#!{python}
import json, os, subprocess, sys
words = sys.argv[1:]
host = words.index("node-a") if "node-a" in words else words.index("node-b")
with open("{folder}/connections", "a") as file:
    file.write(json.dumps(words[: host + 1]) + "\\n")
command = " ".join(words[host + 1 :]).replace("{python}", "{folder}/launcher")
sys.exit(subprocess.run(["sh", "-c", command], env={{"PATH": os.environ["PATH"]}}).returncode)
"""
LAUNCHER = """#!{python}
import json, os, sys
[rank] = [word.partition("=")[2] for word in sys.argv if word.startswith("--node_rank=")]
with open("{folder}/started" + rank, "w") as file:
    json.dump([sys.argv[1:], dict(os.environ)], file)
"""
WORDS = (
    "plain-word_1.5/a",
    "",
    "two words",
    "$HOME",
    "${HOME} $HOME",
    "$(touch CANARY)",
    "a $(touch CANARY)",
    "`touch CANARY`",
    "a `touch CANARY`",
    "a;touch CANARY",
    ";touch$IFS./CANARY",
    "&touch$IFS./CANARY",
    "|touch$IFS./CANARY",
    ">CANARY",
    "a >CANARY",
    '"; touch CANARY; "',
    "'; touch CANARY; '",
    '";touch${IFS}./CANARY;"',
    "';touch${IFS}./CANARY;'",
    "\\",
    "a\\",
    "a b\\",
    'a \\"$(touch CANARY)\\"',
    "a\\$(touch CANARY)",
    "back\\slash",
    "%h %n %u %% %",
    "%n",
    "100%",
    "*",
    "~",
    "?",
    "[a-z]*",
    "{1,2}",
    "!x",
    "#x",
    "a\tb",
    "a\nb",
    "line one\nline two",
    "é ü",
    "stages=[{position='x', grid=2}]",
)
VALUES = tuple(word.strip() for word in WORDS if "\n" not in word)


@pytest.fixture
def played(tmp_path, monkeypatch) -> Path:
    """A folder with an ssh of our own; hosts answer."""
    bin = tmp_path / "bin"
    bin.mkdir()
    for path, text in ((bin / "ssh", SSH), (tmp_path / "launcher", LAUNCHER)):
        path.write_text(text.format(python=sys.executable, folder=tmp_path))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin}:{os.environ['PATH']}")
    monkeypatch.setattr(launching, "first_address", lambda host: "10.0.0.1")
    monkeypatch.setattr(launching, "answering", lambda hosts: hosts)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(folder: Path, rank: int) -> tuple[list[str], dict[str, str]]:
    words, environment = json.loads((folder / f"started{rank}").read_text())
    return words[words.index("pplfast") + 1 :], environment


@pytest.mark.slow
def test_words_and_variables_arrive_as_they_were(played, monkeypatch):
    for number, value in enumerate(VALUES):
        monkeypatch.setenv(f"NCCL_{number}", value)
        monkeypatch.setenv(f"PYTHON_{number}", value)
    monkeypatch.setenv("PYTHONPATH", "/a b:/$(touch CANARY)")
    # DeepSpeed would read this one, which comes with a folder of a stranger's.
    (played / ".deepspeed_env").write_text('A=$(touch CANARY)\nB="; touch CANARY; "\n')
    (played / "hosts").write_text("bob@node-a slots=1\nnode-b slots=2\n")
    assert launch(["train", *WORDS], LaunchOptions("hosts"), lambda _: None) == 0
    for rank in (0, 1):
        words, environment = started(played, rank)
        assert words == ["train", *WORDS]
        for number, value in enumerate(VALUES):
            assert environment[f"NCCL_{number}"] == environment[f"PYTHON_{number}"] == value
        assert environment["PYTHONPATH"] == f"{played}:/a b:/$(touch CANARY)" and "A" not in environment
    connections = [json.loads(line) for line in (played / "connections").read_text().splitlines()]
    assert sorted(words[-2:] for words in connections) == [["-lbob", "node-a"], ["-x", "node-b"]]
    assert not list(played.rglob("CANARY"))


@pytest.mark.slow
def test_deepspeed_passes_on_what_is_known_here():
    """Nothing that it exports on its own may escape the quoting."""
    code = (
        "from deepspeed.launcher.runner import EXPORT_ENVS\n"
        "from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator as A\n"
        "from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator as B\n"
        "print(*EXPORT_ENVS, *A.export_envs(None), *B.export_envs(None))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == set(shell.BY_DEEPSPEED)


@pytest.mark.parametrize(
    "name, value, message",
    (
        ("NCCL_$(touch)", "1", "cannot be set"),
        ("PYTHON;x", "1", "cannot be set"),
        ("NCCL_A", "a\nb", "several lines"),
        ("MLFLOW_A", "a\rb", "several lines"),
        ("OMP_A", "\udcff", "UTF-8"),
    ),
)
def test_variables_that_cannot_be_passed_on(name, value, message):
    with pytest.raises(UserError, match=message) as error:
        remote_variables({name: value}, "/a")
    assert str(error.value).isprintable()
    assert remote_variables({f"OTHER_{name}": value}, "/a") == ""


def test_words_that_cannot_be_passed_on():
    with pytest.raises(UserError, match="UTF-8"):
        remote_word("\udcff")


@pytest.mark.parametrize("path", ("/a b", "/a;b", "/$(touch)", "/`x`", "/%n", "/a'b", "/é", ""))
def test_folders_that_a_shell_would_read(path):
    with pytest.raises(UserError, match="characters that a shell"):
        check_path("the folder you are in,", path)


def test_a_launch_in_such_a_folder(tmp_path, monkeypatch):
    (tmp_path / "$(touch CANARY)").mkdir()
    monkeypatch.chdir(tmp_path / "$(touch CANARY)")
    monkeypatch.setattr(launching.shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(UserError, match="^the folder you are in"), launching._on_hosts([Host("a", 1)], LaunchOptions()):
        pass


@pytest.mark.parametrize("address", ("-x", "a;b", "$(touch)", "", "a b", "u@a"))
def test_the_address_of_the_first_host_is_one(address):
    with pytest.raises(UserError, match="--master-addr"):
        launch(["train"], LaunchOptions("hosts", master_addr=address), lambda _: None)

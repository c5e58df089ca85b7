"""What goes through ssh and the shells of other hosts arrives as it was, and nothing of it is executed.

In the slow test the shell is the real one; in place of ssh a script runs the command here, and in place of the ranks'
launcher another that keeps what it gets.
"""

import json
import os
import sys

import pytest

from pplfast.cluster import launch as launching
from pplfast.cluster.launch import LaunchOptions, launch
from pplfast.errors import UserError

SSH = """#!{python}
import json, os, subprocess, sys
words = sys.argv[1:]
with open("{folder}/connections", "a") as file:
    file.write(json.dumps(words[:-1]) + "\\n")
command = words[-1].replace("{python}", "{folder}/launcher")
sys.exit(subprocess.run(["sh", "-c", command], cwd="/", env={{"PATH": os.environ["PATH"]}}).returncode)
"""
LAUNCHER = """#!{python}
import json, os, sys
[rank] = [word.partition("=")[2] for word in sys.argv if word.startswith("--node_rank=")]
with open("{folder}/started" + rank, "w") as file:
    json.dump([sys.argv[1:], dict(os.environ), os.getcwd()], file)
print("rank", rank, flush=True)
sys.exit(7 if rank == "1" else 0)
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
    "\udcff",
    "stages=[{position='x', grid=2}]",
)


@pytest.mark.slow
def test_words_and_variables_arrive_as_they_were(tmp_path, monkeypatch, capfd):
    bin, here = tmp_path / "bin", tmp_path / "$(touch CANARY) ' %h"
    bin.mkdir()
    here.mkdir()
    for path, text in ((bin / "ssh", SSH), (tmp_path / "launcher", LAUNCHER)):
        path.write_text(text.format(python=sys.executable, folder=tmp_path))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin}:{os.environ['PATH']}")
    monkeypatch.setattr(launching, "first_address", lambda host: "10.0.0.1")
    monkeypatch.setattr(launching, "answering", lambda hosts: hosts)
    monkeypatch.chdir(here)
    for number, value in enumerate(WORDS):
        monkeypatch.setenv(f"NCCL_{number}", value)
        monkeypatch.setenv(f"PYTHON_{number}", value)
    monkeypatch.setenv("NCCL_$(touch CANARY)", "1")
    monkeypatch.setenv("PYTHONPATH", "/a b:/$(touch CANARY)")
    monkeypatch.setenv("SECRET", "stays here")
    # DeepSpeed would read this one, which comes with a folder of a stranger's.
    (here / ".deepspeed_env").write_text('A=$(touch CANARY)\nB="; touch CANARY; "\n')
    (here / "hosts").write_text("bob@node-a slots=1\nnode-b slots=2\n")
    assert launch(["train", *WORDS], LaunchOptions("hosts"), lambda _: None) == 7
    for rank in (0, 1):
        words, environment, folder = json.loads((tmp_path / f"started{rank}").read_text())
        assert words[words.index("pplfast") + 1 :] == ["train", *WORDS] and folder == str(here)
        for number, value in enumerate(WORDS):
            assert environment[f"NCCL_{number}"] == environment[f"PYTHON_{number}"] == value
        assert environment["PYTHONPATH"] == "/a b:/$(touch CANARY)" and environment["NCCL_$(touch CANARY)"] == "1"
        assert "A" not in environment and "SECRET" not in environment
    connections = [json.loads(line) for line in (tmp_path / "connections").read_text().splitlines()]
    assert sorted(words[-2:] for words in connections) == [["--", "bob@node-a"], ["--", "node-b"]]
    assert not list(tmp_path.rglob("CANARY"))
    assert sorted(capfd.readouterr().out.splitlines()) == ["node-a: rank 0", "node-b: rank 1"]


@pytest.mark.parametrize("address", ("-x", "a;b", "$(touch)", "", "a b", "u@a"))
def test_the_address_of_the_first_host_is_one(address):
    with pytest.raises(UserError, match="--master-addr"):
        launch(["train"], LaunchOptions("hosts", master_addr=address), lambda _: None)

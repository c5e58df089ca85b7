"""One writer of a folder: refused by name, released by death, and nothing stays behind."""

import errno
import fcntl
import os
import socket
import subprocess
import sys

import pytest
import torch
from train_data import make_recipe, open_images, write_images

from pplfast import lock
from pplfast.cluster.ranks import Ranks
from pplfast.data.dataset import DataConfig
from pplfast.errors import UserError
from pplfast.lock import hold_folder, is_locked
from pplfast.run import RunConfig, run, run_seeds
from pplfast.run.steps import Steps
from pplfast.steps import JOB, TRAINING
from pplfast.train import train


def test_a_second_one_is_refused_with_the_process_and_the_host_that_hold_it(tmp_path):
    out = tmp_path / "a" / "run"
    with hold_folder(out):
        with pytest.raises(UserError) as refusal, hold_folder(out):
            pass
        assert is_locked(out / ".lock")
    assert str(refusal.value).startswith(f"{out}: process {os.getpid()} on {socket.gethostname()} writes to it; ")
    assert "\n" not in str(refusal.value)
    with hold_folder(out):
        (out / "result").touch()
    assert os.listdir(out) == ["result"]


def test_a_folder_that_was_made_for_it_goes_when_nothing_was_written(tmp_path):
    with pytest.raises(KeyError), hold_folder(tmp_path / "a" / "b"):
        raise KeyError
    assert os.listdir(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with hold_folder(tmp_path / "mine"):
        pass
    assert os.listdir(tmp_path) == ["mine"]


def test_one_that_was_made_again_meanwhile_is_held_anew(tmp_path):
    """Its holder deletes the file and lets go, between another's opening and locking it."""
    plain, opened = lock._open, []

    def open_and_lose(path):
        file = plain(path)
        if not opened:
            os.unlink(path)
        opened.append(file)
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock, "_open", open_and_lose)
        with hold_folder(tmp_path):
            assert len(opened) == 2 and is_locked(tmp_path / ".lock")


@pytest.mark.parametrize("content", [b"", b"\x1b[2J 1\n", b"host -1\n", b"x" * 10**5, b"host 7\nhost 8\n"])
def test_what_a_lock_says_is_shown_only_where_it_is_a_host_and_a_process(tmp_path, monkeypatch, content):
    monkeypatch.setattr(lock, "UNTIL_NAMED", 0.0)
    (tmp_path / ".lock").write_bytes(content)
    with open(tmp_path / ".lock", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process writes to it"), hold_folder(tmp_path):
            pass


NO_LOCKS = pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])


@pytest.fixture
def no_locks(monkeypatch):
    def none(number: int) -> None:
        def flock(*_):
            raise OSError(number, os.strerror(number))

        lock._say_no_locks.cache_clear()
        monkeypatch.setattr(fcntl, "flock", flock)

    return none


@NO_LOCKS
def test_without_locks_it_is_said_once_and_one_writer_goes_on(tmp_path, no_locks, capsys, number):
    no_locks(number)
    for _ in range(2):
        with hold_folder(tmp_path):
            pass
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "has no locks" in said and os.listdir(tmp_path) == []


@NO_LOCKS
def test_without_locks_a_second_writer_is_refused_by_the_name_of_the_first(tmp_path, no_locks, number):
    no_locks(number)
    with hold_folder(tmp_path):
        with pytest.raises(UserError, match=f"process {os.getpid()} on .*no locks"), hold_folder(tmp_path):
            pass
        assert (tmp_path / ".lock").exists()
    (tmp_path / ".lock").write_text("another-host 7\n")
    with pytest.raises(UserError, match=r"process 7 on another-host .*remove .*\.lock"), hold_folder(tmp_path):
        pass


def test_without_locks_a_process_of_this_machine_that_died_holds_nothing(tmp_path, no_locks):
    no_locks(errno.ENOLCK)
    (tmp_path / ".lock").write_text(f"{lock._host()} 999999999\n")
    with hold_folder(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{lock._host()} {os.getpid()}\n"


@NO_LOCKS
def test_several_ranks_need_locks(tmp_path, no_locks, number):
    lock.require_locks(tmp_path)
    assert os.listdir(tmp_path) == []
    no_locks(number)
    with pytest.raises(UserError, match=f"^{tmp_path}: its file system has no locks, .* take one rank, or a folder on"):
        lock.require_locks(tmp_path)


def test_another_error_of_the_file_system_is_one_line(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(UserError, match="the disk reports an error"), hold_folder(tmp_path):
        pass


def test_links_and_other_things_of_that_name_are_refused_and_stay_as_they_are(tmp_path):
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    folder.mkdir()
    for make in (lambda p: p.symlink_to(victim), lambda p: os.link(victim, p), os.mkfifo, lambda p: p.mkdir()):
        make(folder / ".lock")
        with pytest.raises(UserError, match=r"run/\.lock: .*(remove it|move it)"), hold_folder(folder):
            pass
        (folder / ".lock").rmdir() if (folder / ".lock").is_dir() else (folder / ".lock").unlink()
    assert victim.read_text() == "precious"
    with pytest.raises(UserError, match="victim: is a file; give a folder"), hold_folder(victim):
        pass


def test_a_step_does_not_delete_what_another_command_is_writing(tmp_path):
    ranks = Ranks(0, 1, 1, torch.device("cpu"))
    steps, out = Steps(tmp_path, ranks, lambda text: None), tmp_path / "train"
    steps.run("train", {"k": 1}, dict)
    with hold_folder(out):
        (out / "x.safetensors").touch()
        for kind in (JOB, TRAINING):  # nor gives it another name
            with pytest.raises(UserError, match="train: process .* writes to it"):
                steps.run("train", {"k": 2}, dict, out, kind)
    assert (out / "x.safetensors").exists()


def test_trainings_and_runs_are_refused_before_anything_is_read_or_written(tmp_path):
    out, nowhere = tmp_path / "out", DataConfig("nowhere")
    dataset = open_images(write_images(tmp_path / "images", 2))
    config = RunConfig(nowhere, nowhere, make_recipe(), ("ppl",), out, 1)
    with hold_folder(out):
        for command in (
            lambda: train(make_recipe(), dataset, out),
            lambda: run(config, lambda line: None),
            lambda: run_seeds(config, [0, 1], lambda line: None),
        ):
            with pytest.raises(UserError, match=f"process {os.getpid()} on .* writes to it"):
                command()
        assert os.listdir(out) == [".lock"]
    assert not out.exists()


def test_a_name_that_the_file_system_cannot_have_is_one_line(tmp_path):
    with pytest.raises(UserError, match="the name is too long"), hold_folder(tmp_path / ("n" * 300) / "run"):
        pass


@pytest.mark.slow
def test_death_releases_it(tmp_path):
    hold = f"from pplfast.lock import hold_folder\nwith hold_folder({str(tmp_path)!r}):\n print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(UserError, match=f"process {process.pid} on"), hold_folder(tmp_path):
            pass
        process.kill()
        process.wait()
    with hold_folder(tmp_path):
        pass
    assert os.listdir(tmp_path) == []

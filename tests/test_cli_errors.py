"""Whatever the machine refuses, a command ends with one line."""

import errno
import importlib
import os
import re
import threading

import pytest
import torch
from training_parts import run_info, values

from pplfast.cli import main
from pplfast.errors import UserError, explain_os_error
from pplfast.train.loggers import TensorBoard

ARGUMENTS = {
    "report": ["report", "run"],
    "eval": ["eval", "--data", "d", "--cams", "c"],
    "cam": ["cam", "--data", "d", "--model", "m", "--out", "o"],
    "train": ["train", "--data", "d", "--recipe", "demo", "--out", "o"],
    "data": ["data", "demo", "--out", "o"],
    "doctor": ["doctor"],
}


def end_with(monkeypatch, capsys, command: str, error: BaseException) -> str:
    """The one line that the command says when its work raises `error`."""

    def work(args):
        raise error

    module = importlib.import_module(f"pplfast.cli.{command}")
    monkeypatch.setattr(module, "run", work)
    assert main(ARGUMENTS[command]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith(f"pplfast {command}")
    return said.err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b.png"), "a/b.png: no such file"),
        (OSError(errno.EMFILE, "Too many open files", b"a.png"), r"a.png: too many open files in this process; raise"),
        (OSError(errno.ENOSPC, "No space left on device"), "this machine: the disk is full; make space"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "this machine: .*Connection refused"),
        (OSError("odd"), "this machine: the operating system says: odd"),
        (OSError(errno.EIO, "I/O\nerror", "a\nb"), r"a\\nb: the disk reports an error"),
        (MemoryError(), "out of memory; give it more"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
            "out of memory .*can.t allocate",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory .CUDA out of memory"),
        (UserError("a\x1b[2J\nb"), r"error: a\\x1b\[2J\\nb$"),
        (UserError("x" * 10**6), r"error: x{1000} \.\.\. x{1000}$"),
    ],
)
def test_what_gets_through_is_one_line(monkeypatch, capsys, error, message):
    assert re.search(message, end_with(monkeypatch, capsys, "doctor", error).rstrip("\n"))


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch):
    def work(args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(importlib.import_module("pplfast.cli.doctor"), "run", work)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["doctor"])


@pytest.mark.parametrize(
    ("command", "ending"),
    [
        ("report", "run the same command again"),
        ("eval", "run the same command again"),
        ("data", "run the same command again"),
        ("cam", "run the same command again: it continues"),
        ("train", "run the same command again with --resume: it continues"),
    ],
)
def test_only_a_command_that_continues_says_so(monkeypatch, capsys, command, ending):
    error = explain_os_error(OSError(errno.ENOSPC, "No space left on device"), "out")
    assert end_with(monkeypatch, capsys, command, error).endswith(f"then {ending}\n")


def test_a_reader_that_has_gone_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    assert "what reads the output" in end_with(
        monkeypatch, capsys, "doctor", BrokenPipeError(errno.EPIPE, "Broken pipe")
    )


def test_a_full_disk_under_tensorboard_is_one_line(tmp_path, monkeypatch, capsys):
    """It writes in a thread, whose error would be a traceback beside the line."""
    before = threading.excepthook
    board = TensorBoard(run_info(tmp_path))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    worker = board._writer.file_writer.event_writer._async_writer._worker
    monkeypatch.setattr(worker._record_writer, "write", full)
    monkeypatch.setattr(worker._record_writer, "flush", full)
    with pytest.raises(UserError, match="tb: the disk is full"):
        for step in range(30):
            board.log(step, values(step))
            worker.join(0.1)
    with pytest.raises(UserError, match="tb: the disk is full"):
        board.close()
    assert "Traceback" not in capsys.readouterr().err and threading.excepthook is before


def test_events_are_not_written_through_a_link(tmp_path):
    folder = tmp_path / "run"
    info = run_info(folder)
    (tmp_path / "other").mkdir()
    (folder / "tb").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="run/tb: a symbolic link leads out"):
        TensorBoard(info)
    assert os.listdir(tmp_path / "other") == []

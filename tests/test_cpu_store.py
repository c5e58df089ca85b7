"""Compiled code is loaded only from files that are whole, in folders that nobody else can write to."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from pplfast.cpu import native, store

SHARED_OBJECT = Path(__import__("_ctypes").__file__).read_bytes()  # any that can be loaded
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user, as only root can")


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """A home and a temporary folder of the test's own; the runs of a compiler that is not run."""
    runs = []

    def compile(compiler, folder):
        runs.append(folder)
        return SHARED_OBJECT

    tmp_path.chmod(0o700)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(native, "_compiler", lambda: ("c++",))
    monkeypatch.setattr(native, "_digest", lambda compiler: "0123")
    monkeypatch.setattr(native, "_compile", compile)
    return runs


def load():
    """As in a new process."""
    found = native.library.__wrapped__()
    assert found.functions is not None, found.reason
    return found


def kept(tmp_path):
    return tmp_path / "home" / ".cache" / "pplfast" / "depthwise-0123.so"


def left_behind(tmp_path):
    """What is neither a library nor its lock."""
    return [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in ("depthwise-0123.so", "lock")]


def test_compiled_once_into_a_folder_of_the_user_alone(compiled, tmp_path):
    before = os.umask(0)
    try:
        load()
    finally:
        os.umask(before)
    for folder in (kept(tmp_path).parent, kept(tmp_path).parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert kept(tmp_path).stat().st_mode & 0o777 == 0o600
    load()
    assert len(compiled) == 1
    assert left_behind(tmp_path) == [] and list((tmp_path / "tmp").iterdir()) == []


def put(path, content):
    """In place of the file, not into it: what is mapped into this process stays whole."""
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o600)


def cut(path):
    put(path, path.read_bytes()[:4096])


def zeros_at_the_end(path):
    content = path.read_bytes()
    put(path, content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def one_bit(path):
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    put(path, content)


def without_checksum(path):
    put(path, SHARED_OBJECT)


def a_link(path):
    path.rename(path.with_name("other"))
    path.symlink_to("other")


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "cut": cut,
    "empty": lambda path: put(path, b""),
    "zeros": zeros_at_the_end,
    "one bit": one_bit,
    "no checksum": without_checksum,
    "link": a_link,
    "pipe": a_pipe,
    "writable": lambda path: path.chmod(0o666),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_compiled_again_and_never_loaded(compiled, tmp_path, monkeypatch, damage):
    load()
    DAMAGES[damage](kept(tmp_path))
    loaded, real = [], native.ctypes.CDLL
    monkeypatch.setattr(native.ctypes, "CDLL", lambda path: loaded.append(Path(path).read_bytes()) or real(path))
    load()
    assert len(compiled) == 2 and [image[: len(SHARED_OBJECT)] for image in loaded] == [SHARED_OBJECT]
    load()
    assert len(compiled) == 2


def test_what_is_whole_and_cannot_be_loaded_is_compiled_again(compiled, tmp_path):
    store.make_folder(kept(tmp_path).parent)
    with store.temporary_folder(kept(tmp_path).parent) as folder:
        store.write_whole(kept(tmp_path), b"of another system", folder)
    load()
    load()
    assert len(compiled) == 1 and kept(tmp_path).read_bytes().startswith(SHARED_OBJECT)


@as_root
def test_a_library_of_somebody_else_is_not_loaded(compiled, tmp_path):
    load()
    os.chown(kept(tmp_path), NOBODY, NOBODY)
    load()
    assert len(compiled) == 2 and kept(tmp_path).stat().st_uid == 0


def a_link_to_another_folder(folder):
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")


UNSAFE = {
    "written by all": lambda folder: folder.chmod(0o777),
    "written by a group": lambda folder: folder.chmod(0o770),
    "parent written by all": lambda folder: folder.parent.chmod(0o777),
    "link": a_link_to_another_folder,
}


@pytest.mark.parametrize("name", UNSAFE)
def test_a_folder_that_others_can_write_to_is_left_alone(compiled, tmp_path, name):
    load()
    UNSAFE[name](kept(tmp_path).parent)
    before = kept(tmp_path).read_bytes()
    found = load()
    assert len(compiled) == 2 and f"in {tmp_path}/tmp/pplfast-{os.geteuid()}" in found.reason
    load()
    assert len(compiled) == 2 and kept(tmp_path).read_bytes() == before
    assert left_behind(tmp_path) == []


@as_root
@pytest.mark.parametrize("owned", ("", ".cache", ".cache/pplfast"))
def test_a_folder_of_somebody_else_is_left_alone(compiled, tmp_path, owned):
    kept(tmp_path).parent.mkdir(parents=True)
    os.chown(tmp_path / "home" / owned, NOBODY, NOBODY)
    load()
    assert not kept(tmp_path).exists() and (tmp_path / "tmp" / "pplfast-0" / "depthwise-0123.so").exists()


@as_root
def test_nothing_is_made_in_the_home_of_somebody_else(compiled, tmp_path):
    (tmp_path / "home").mkdir()
    os.chown(tmp_path / "home", NOBODY, NOBODY)
    load()
    assert list((tmp_path / "home").iterdir()) == []


@as_root
def test_a_way_through_a_link_of_somebody_else_is_not_taken(tmp_path):
    (tmp_path / "real" / "inner").mkdir(parents=True, mode=0o700)
    (tmp_path / "link").symlink_to("real")
    store.check_folder(tmp_path / "link" / "inner")
    os.chown(tmp_path / "link", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(store.Unsafe, match="link belongs to another user"):
        store.check_folder(tmp_path / "link" / "inner")


def test_links_that_lead_nowhere_end(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        store.make_folder(tmp_path / "a" / "pplfast")


@pytest.mark.parametrize("home", ("/proc/nowhere", "/dev/null"))
def test_without_a_home_that_can_be_written_to_compiled_once_per_user_and_machine(
    compiled, tmp_path, monkeypatch, home
):
    monkeypatch.setenv("HOME", home)
    load()
    load()
    assert len(compiled) == 1 and left_behind(tmp_path) == []
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == [f"pplfast-{os.geteuid()}"]


def test_without_any_home_at_all(compiled, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory."))
    )
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    load()
    load()
    assert len(compiled) == 1 and (tmp_path / "run" / "pplfast" / "depthwise-0123.so").exists()


def test_a_folder_that_another_user_has_made_before_is_not_used_and_nothing_is_left(compiled, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/proc/nowhere")
    trap = tmp_path / "tmp" / f"pplfast-{os.geteuid()}"
    trap.mkdir()
    trap.chmod(0o777)
    found = load()
    assert "this process alone" in found.reason and f"others can write to {trap}; remove it" in found.reason
    assert list(trap.iterdir()) == [] and list((tmp_path / "tmp").iterdir()) == [trap]


def test_a_full_disk_leads_to_the_next_folder(compiled, tmp_path, monkeypatch):
    def full(folder):
        if "home" in str(folder):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "check_room", full)
    load()
    assert len(compiled) == 1 and list((tmp_path / "tmp").rglob("*.so"))
    assert left_behind(tmp_path) == []


def test_a_file_system_that_holds_no_programs_leads_to_the_next_folder(compiled, tmp_path, monkeypatch):
    real = native.ctypes.CDLL

    def noexec(path):
        if "home" in path:
            raise OSError(f"{path}: failed to map segment from shared object")
        return real(path)

    monkeypatch.setattr(native.ctypes, "CDLL", noexec)
    load()
    load()
    assert len(compiled) == 1 and not kept(tmp_path).exists()


def test_a_file_gets_its_name_after_it_is_on_the_disk(compiled, tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: order.append("fsync") or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda *paths: order.append("replace") or replace(*paths))
    load()
    assert order == ["fsync", "replace", "fsync"]  # the file, its name, the folder that holds the name


def test_what_a_killed_compiler_left_goes_with_the_next_one(compiled, tmp_path):
    store.make_folder(kept(tmp_path).parent)
    for name, age in ((".compiling-old", 2 * store.ABANDONED), (".compiling-new", 0)):
        (kept(tmp_path).parent / name).mkdir()
        os.utime(kept(tmp_path).parent / name, (time.time() - age,) * 2)
    load()
    assert [path.name for path in kept(tmp_path).parent.glob(".compiling-*")] == [".compiling-new"]


def test_one_that_stands_still_is_not_waited_for_for_ever(tmp_path):
    tmp_path.chmod(0o700)
    with store.turn(tmp_path), open(tmp_path / "lock") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        start = time.monotonic()
        with store.turn(tmp_path, wait=0.2):
            assert time.monotonic() - start < 5


LOADS = """
    import sys
    from pathlib import Path
    from pplfast.cpu import native

    native.FLAGS, native.OPENMP = (), ""
    found = native.library()
    sys.exit(0 if found.functions is not None else found.reason)
"""


@pytest.mark.slow
def test_processes_that_start_together_compile_once_and_a_killed_one_stops_nobody(tmp_path):
    compiler, log = tmp_path / "c++", tmp_path / "log"
    library = tmp_path / "any.so"
    library.write_bytes(SHARED_OBJECT)
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit 0\n'
        f'echo run >> {log}\nsleep ${{PAUSE}}\nwhile [ $# -gt 1 ]; do [ "$1" = -o ] && cp {library} "$2"; shift; done\n'
    )
    compiler.chmod(0o755)
    environment = {**os.environ, "CXX": str(compiler), "HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": ""}

    def start(pause):
        return subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(LOADS)],
            env={**environment, "PAUSE": pause},
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    killed = start("600")
    while not log.exists():
        time.sleep(0.05)
        assert killed.poll() is None
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    log.unlink()
    together = [start("1") for _ in range(3)]
    assert [(process.communicate()[1], process.returncode) for process in together] == [(b"", 0)] * 3
    assert log.read_text() == "run\n"

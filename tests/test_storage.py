"""Files on a disk and in an object store: read in ranges, written whole, listed, tried again."""

import io
import os
import random
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from object_store import connected, store  # noqa: F401 (a fixture)

from pplfast.benchmarks.object_store import local_store
from pplfast.errors import UserError
from pplfast.storage import (
    RETRIES,
    Found,
    RangeReader,
    StorageError,
    access,
    find,
    is_remote,
    join,
    last_part,
    list_folder,
    local_copy,
    parent,
    read_file,
    read_range,
    remote,
    remove,
    retry,
    write_file,
)
from pplfast.storage.places import MOST_NAMES, expanded

NAMES = ("b-01.tar", "a.tar", "b-00.tar", "notes.txt", "below/b-02.tar")


def patterns() -> random.Random:
    return random.Random(0)


@pytest.fixture
def no_waits(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.001)


@pytest.fixture
def memory(monkeypatch):
    """A folder of fsspec's file system in memory: remote without a server."""
    monkeypatch.setattr(remote, "_systems", {})
    folder = "memory://folder"
    yield folder
    remote.file_system(folder).rm("/", recursive=True)


@pytest.fixture(params=("local", "memory"))
def place(request, tmp_path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("memory")


def fill(folder: str) -> None:
    for name in NAMES:
        write_file(join(folder, name), name.encode())


# ---- names


def test_what_is_a_url():
    assert [is_remote(path) for path in ("s3://b/k", "hf://d", "https://x/y")] == [True] * 3
    assert [is_remote(path) for path in ("/a/b", "a:b", "file:///a", "local://a", r"C:\a", "c://a")] == [False] * 6


def test_parts_of_names():
    assert join("s3://b/k/", "x.tar") == "s3://b/k/x.tar" and join("/a", "x.tar") == "/a/x.tar"
    assert (parent("/x"), parent("x"), parent("/a/x/"), parent("s3://b/k/x")) == ("/", ".", "/a", "s3://b/k")
    assert (last_part("s3://b/k/x.tar"), last_part("/a/b/")) == ("x.tar", "b")


def test_braces_are_those_of_the_shell():
    assert expanded("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expanded("{9..11}") == ["9", "10", "11"]
    assert expanded("{a,b}-{0..1}") == ["a-0", "a-1", "b-0", "b-1"]
    assert expanded("plain.tar") == ["plain.tar"]
    for pattern, words in (
        ("{3..1}", "is empty"),
        (f"{{0..{MOST_NAMES}}}", "too long"),
        ("{0..1000}" * 2, "more than"),
    ):
        with pytest.raises(ValueError, match=words):
            expanded(pattern)


# ---- reading and writing, on a disk and in memory


def test_ranges(place):
    path, data = join(place, "x.bin"), patterns().randbytes(5000)
    write_file(path, data)
    assert read_file(path) == data
    assert [read_range(path, at, size) for at, size in ((0, 5000), (17, 3), (4999, 1), (9, 0))] == [
        data,
        data[17:20],
        data[4999:],
        b"",
    ]


def test_a_file_that_ends_early_is_named_by_the_byte(place):
    path = join(place, "x.bin")
    write_file(path, b"12345")
    for offset, size in ((3, 3), (5, 1), (900, 10)):
        with pytest.raises(StorageError, match=f"ends before byte {offset + size}, .*make it whole") as caught:
            read_range(path, offset, size)
        assert not caught.value.gone


def test_a_file_that_is_gone(place, no_waits):
    before = RETRIES.count
    for action, words in (
        (lambda path: read_file(path), "no such file; restore it"),
        (lambda path: read_range(path, 0, 1), "no such file; restore it"),
        (lambda path: find(path, (".tar",)), "gone.tar is not there; restore it, or leave its name out"),
    ):
        with pytest.raises(StorageError, match=words) as caught:
            action(join(place, "gone.tar"))
        assert caught.value.gone
    assert RETRIES.count == before
    remove(join(place, "gone.tar"))


def test_a_reader_of_python(place):
    path, data = join(place, "x.bin"), patterns().randbytes(10_000)
    write_file(path, data)
    reader = io.BufferedReader(RangeReader(path, len(data)), 100)
    assert reader.read(5) == data[:5]
    assert reader.seek(-7, os.SEEK_END) == 9993 and reader.read() == data[-7:] and reader.read(1) == b""
    reader.seek(50)
    reader.seek(50, os.SEEK_CUR)
    assert reader.tell() == 100 and reader.read(9_000) == data[100:9_100]


def test_written_again_and_removed(place):
    path = join(place, "x.bin")
    write_file(path, b"one")
    before = find(join(place, "*.bin"), ())[0]
    write_file(path, b"other")
    assert read_file(path) == b"other" and find(join(place, "*.bin"), ())[0] != before
    remove(path)
    assert list_folder(place) == []


# ---- listing


def test_a_folder_is_listed_by_name(place):
    fill(place)
    assert [last_part(file.path) for file in list_folder(place)] == ["a.tar", "b-00.tar", "b-01.tar", "notes.txt"]
    deep = list_folder(place, deep=True)
    assert [(file.path.removeprefix(deep[0].path.removesuffix("a.tar")), file.size) for file in deep] == [
        (name, len(name)) for name in ("a.tar", "b-00.tar", "b-01.tar", "below/b-02.tar", "notes.txt")
    ]
    assert list_folder(join(place, "nowhere")) == list_folder(join(place, "a.tar")) == []


def test_what_a_place_stands_for(place):
    fill(place)

    def names(pattern: str) -> list[str]:
        return [last_part(file.path) for file in find(join(place, pattern) if pattern else place, (".tar",))]

    assert names("") == names("*.tar") == ["a.tar", "b-00.tar", "b-01.tar"]
    assert names("a.tar") == ["a.tar"]
    assert names("b-{00..01}.tar") == ["b-00.tar", "b-01.tar"]
    assert names("{b-01,a}.tar") == ["b-01.tar", "a.tar"]
    assert names("{a,b-0?}.tar") == ["a.tar", "b-00.tar", "b-01.tar"]
    assert names("b-0[12].tar") == ["b-01.tar"]
    assert names("*/b-*.tar") == ["b-02.tar"]
    assert names("{a,below/b-02}.tar") == ["a.tar", "b-02.tar"]
    assert names("nothing-*.tar") == []


def test_a_name_of_a_pattern_that_is_not_there(place):
    fill(place)
    for pattern, name in (("b-{00..02}.tar", "b-02.tar"), ("{c}.tar", "c.tar")):
        with pytest.raises(StorageError, match=f"{name} is not there; restore it, or leave its name out") as caught:
            find(join(place, pattern), (".tar",))
        assert caught.value.gone
    gone: list[str] = []
    found = find(join(place, "b-{00..03}.tar"), (".tar",), gone)
    assert [last_part(file.path) for file in found] == ["b-00.tar", "b-01.tar"]
    assert [last_part(path) for path in gone] == ["b-02.tar", "b-03.tar"]
    with pytest.raises(UserError, match=re.escape("{3..1} is empty; write a range like {000..999}")):
        find(join(place, "b-{3..1}.tar"), (".tar",))


def test_patterns_of_bare_names(tmp_path, monkeypatch):
    fill(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert [last_part(file.path) for file in find("b-{00..01}.tar", (".tar",))] == ["b-00.tar", "b-01.tar"]
    assert [file.path for file in find("*.tar", (".tar",))] == ["a.tar", "b-00.tar", "b-01.tar"]


def test_the_scheme_of_local_files(tmp_path):
    fill(str(tmp_path))
    for place in (f"file://{tmp_path}", f"file://{tmp_path}/*.tar", f"file://{tmp_path}/{{a,b-00,b-01}}.tar"):
        assert [file.path for file in find(place, (".tar",))] == [
            str(tmp_path / name) for name in ("a.tar", "b-00.tar", "b-01.tar")
        ]
    assert read_file(f"file://{tmp_path}/a.tar") == b"a.tar"


def test_a_file_whose_name_looks_like_a_pattern(tmp_path):
    (tmp_path / "a[1].tar").write_bytes(b"x")
    assert [file.size for file in find(str(tmp_path / "a[1].tar"), (".tar",))] == [1]


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match=r"access is refused \(.*Permission denied: .*\); change its permissions"):
        list_folder(str(tmp_path))


def test_a_local_copy_is_the_file_itself(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"1")
    assert local_copy(Found(str(path), 1, 1), tmp_path / "cache") == path and not (tmp_path / "cache").exists()


def test_a_copy_for_each_state_of_a_file(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(access, "BLOCK", 10)
    path, data = join(memory, "x.bin"), patterns().randbytes(1234)
    write_file(path, data)
    file = Found(path, len(data), 1)
    copy = local_copy(file, tmp_path / "cache")
    assert copy.read_bytes() == data and copy.name.endswith("-x.bin")
    remove(path)
    assert local_copy(file, tmp_path / "cache") == copy
    with pytest.raises(StorageError):
        local_copy(Found(path, len(data), 2), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == [copy]


# ---- trying again


def test_what_passes_is_tried_again_and_counted(monkeypatch):
    waits, errors = [], [TimeoutError(), OSError(16, "slow down"), ConnectionResetError()]
    before = RETRIES.count

    def action() -> str:
        if errors:
            raise errors.pop(0)
        return "done"

    assert retry.attempt(action, waits.append) == "done"
    assert RETRIES.count == before + 3
    assert all(0.5 * wait <= found <= wait for wait, found in zip((0.1, 0.2, 0.4), waits, strict=True))


def test_what_remains_is_given_up_with_a_remedy():
    before, waits = RETRIES.given_up, []

    def action() -> None:
        raise TimeoutError("no answer\nin time")

    with pytest.raises(StorageError, match=r"cannot be reached: no answer \(10 attempts\); check the store") as caught:
        retry.attempt(action, waits.append)
    assert RETRIES.given_up == before + 1 and len(waits) == retry.ATTEMPTS - 1 and not caught.value.gone


@pytest.mark.parametrize("error", (FileNotFoundError(), PermissionError("no"), OSError(28, "full"), ValueError("url")))
def test_what_is_permanent_is_not_tried_again(error):
    def action() -> None:
        raise error

    with pytest.raises(StorageError):
        retry.attempt(action, lambda _: pytest.fail("waits"))


def test_a_store_that_is_not_known_here(monkeypatch):
    monkeypatch.setattr(remote, "_systems", {})
    for action in (read_file, list_folder, lambda path: find(path, ())):
        with pytest.raises(UserError, match="no store is known as nothere://"):
            action("nothere://bucket/key")


# ---- an object store


@pytest.mark.slow
def test_an_object_store_answers_as_a_disk_does(store):  # noqa: F811
    folder, data = f"{store.url}/plain", patterns().randbytes(3_000_000)
    fill(folder)
    test_a_folder_is_listed_by_name(folder)
    for check in (
        test_ranges,
        test_a_file_that_ends_early_is_named_by_the_byte,
        test_a_reader_of_python,
        test_written_again_and_removed,
        test_what_a_place_stands_for,
        test_a_name_of_a_pattern_that_is_not_there,
    ):
        check(f"{store.url}/{check.__name__}")
    test_a_file_that_is_gone(folder, None)
    write_file(join(folder, "large.bin"), data)
    assert read_file(join(folder, "large.bin")) == data
    with pytest.raises(StorageError, match="its bucket is not there; make it"):
        write_file("s3://another-bucket/x", b"1")
    assert list_folder("s3://another-bucket/x") == []


@pytest.mark.slow
def test_a_stamp_is_the_same_by_folder_pattern_and_name(store, tmp_path):  # noqa: F811
    folder = f"{store.url}/stamps"
    write_file(join(folder, "x.tar"), b"1" * 3000)
    found = [find(place, (".tar",)) for place in (folder, f"{folder}/*.tar", f"{folder}/{{x}}.tar", f"{folder}/x.tar")]
    assert found[0] == found[1] == found[2] == found[3]
    time.sleep(1.1)  # the times of a store count seconds
    write_file(join(folder, "x.tar"), b"1" * 3000)
    assert find(folder, (".tar",)) == found[0]
    assert local_copy(found[0][0], tmp_path).read_bytes() == b"1" * 3000
    write_file(join(folder, "x.tar"), b"2" * 3000)
    assert find(folder, (".tar",))[0].stamp != found[0][0].stamp


@pytest.mark.slow
def test_more_files_than_a_page_of_a_listing(store):  # noqa: F811
    names = [f"{number:04d}" for number in range(1100)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: write_file(f"{store.url}/many/{name}", b""), names))
    assert [last_part(file.path) for file in list_folder(f"{store.url}/many")] == names


@pytest.mark.slow
def test_a_tenth_of_the_reads_fails_and_all_are_right(store, no_waits):  # noqa: F811
    path, data = f"{store.url}/faults/x.tar", patterns().randbytes(400_000)
    write_file(path, data)
    retries, faults = RETRIES.count, store.counts()["faults"]
    store.set_faults(fail=0.1, fail_writes=0.3, seed=1)
    try:
        with ThreadPoolExecutor(16) as pool:
            spans = [(number * 700, 1000) for number in range(500)]
            parts = list(pool.map(lambda span: read_range(path, *span), spans))
            copies = [f"{store.url}/faults/copy-{number:03d}.tar" for number in range(100)]
            list(pool.map(lambda copy: write_file(copy, data[:2000]), copies))
        listings = [[file.path for file in find(f"{store.url}/faults/copy-*", ())] for _ in range(40)]
        assert read_file(path) == data
    finally:
        store.set_faults(fail=0, fail_writes=0)
    assert parts == [data[at : at + size] for at, size in spans]
    assert listings == [copies] * 40  # a listing that fails is none that is empty
    assert all(read_file(copy) == data[:2000] for copy in copies)
    counts = {kind: count - faults.get(kind, 0) for kind, count in store.counts()["faults"].items()}
    assert set(counts) == {"unavailable", "cut off", "writes"} and min(counts.values()) >= 10
    assert RETRIES.count - retries == sum(counts.values())


@pytest.mark.slow
def test_a_shard_that_is_gone_is_known_at_once(store):  # noqa: F811
    shards = [f"{store.url}/gone/{number}.tar" for number in range(3)]
    for shard in shards:
        write_file(shard, b"x")
    retries = RETRIES.count
    store.set_faults(gone="gone/1.tar")
    try:
        assert [file.path for file in find(f"{store.url}/gone", (".tar",))] == shards
        with pytest.raises(StorageError, match="no such file") as caught:
            read_range(shards[1], 0, 1)
        assert caught.value.gone and RETRIES.count == retries and read_file(shards[2]) == b"x"
    finally:
        store.set_faults(gone="")


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_given_up(monkeypatch, no_waits):
    monkeypatch.setitem(remote._S3, "config_kwargs", {**remote._S3["config_kwargs"], "read_timeout": 0.3})
    with local_store() as silent, connected(silent):
        write_file(f"{silent.url}/x", b"12")
        silent.set_faults(stall=1.0, stall_seconds=30)
        begin, given_up = time.monotonic(), RETRIES.given_up
        with pytest.raises(StorageError, match=r"cannot be reached: .*\(10 attempts\)"):
            read_range(f"{silent.url}/x", 0, 2)
        assert retry.ATTEMPTS * 0.3 < time.monotonic() - begin < 15 and RETRIES.given_up == given_up + 1
        assert silent.counts()["faults"] == {"stalled": retry.ATTEMPTS}


@pytest.mark.slow
def test_a_store_that_comes_back(monkeypatch):
    """Its server is away for less than the attempts take."""
    with local_store() as started, connected(started):
        write_file(f"{started.url}/x", b"12")
        started.set_faults(fail=1.0)
        threading.Timer(1.0, lambda: started.set_faults(fail=0.0)).start()
        assert read_range(f"{started.url}/x", 0, 2) == b"12"
    with pytest.raises(StorageError, match="cannot be reached"), connected(started):
        monkeypatch.setattr(retry, "FIRST_WAIT", 0.001)
        read_range(f"{started.url}/x", 0, 2)


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_the_old_object(store):  # noqa: F811
    """Of 120 MB, which travel in parts."""
    path = f"{store.url}/kill/x.tar"
    write_file(path, b"old")
    code = "import sys; from pplfast.storage import write_file; write_file(sys.argv[1], bytes(120 * 10**6))"
    for parts in (1, 2, 3):
        before = store.counts()["requests"]["PUT"]
        with subprocess.Popen([sys.executable, "-c", code, path]) as writer:
            while store.counts()["requests"]["PUT"] < before + parts:
                assert writer.poll() is None, "the upload was not caught"
                time.sleep(0.005)
            writer.kill()
        assert read_file(path) == b"old"
    write_file(path, bytes(120 * 10**6))
    assert find(path, (".tar",))[0].size == 120 * 10**6


@pytest.mark.slow
def test_without_credentials_it_says_so_soon(tmp_path):
    code = "from pplfast.storage import list_folder; list_folder('s3://some-bucket/folder')"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment, "HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert "StorageError: access is refused (Unable to locate credentials); give the credentials where" in done.stderr
    assert time.monotonic() - begin < 30


@pytest.mark.slow
def test_the_store_ends_with_its_starter(tmp_path):
    code = (
        "import os; from pplfast.benchmarks.object_store import local_store\n"
        "with local_store() as store: print(store.endpoint, flush=True); os._exit(9)"
    )
    endpoint = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
    port = int(endpoint.rpartition(":")[2])
    deadline = time.monotonic() + 20
    while _listens(port):
        assert time.monotonic() < deadline, "the server outlives its starter"
        time.sleep(0.1)


def _listens(port: int) -> bool:
    text = Path("/proc/net/tcp").read_text()
    return f":{port:04X} 00000000:0000 0A" in text


def test_a_file_that_was_given_up_holds_nobody_else_up(monkeypatch):
    asked, waits, now = [], [], [1000.0]
    monkeypatch.setattr(retry, "UNREACHABLE", retry.Unreachable())
    monkeypatch.setattr(retry.time, "monotonic", lambda: now[0])

    def action() -> None:
        asked.append(1)
        raise TimeoutError("no answer")

    for file in ("a.tar", "a.tar", "b.tar"):
        with pytest.raises(StorageError, match=r"cannot be reached: no answer \(10 attempts\)"):
            retry.attempt(action, waits.append, file)
    assert len(asked) == 2 * retry.ATTEMPTS
    now[0] += retry.LET_BE
    assert retry.attempt(lambda: "there again", waits.append, "a.tar") == "there again"

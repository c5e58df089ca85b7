"""Files are written whole, never through links, and read within bounds; what the system refuses is one line."""

import errno
import json
import os

import pytest

from pplfast import errors
from pplfast.errors import UserError, explain_library_error, explain_os_error, one_line
from pplfast.files import (
    append_line,
    atomic_path,
    check_inside,
    open_append,
    open_new,
    read_json,
    write_json,
    write_text,
)


def test_the_temporary_file_is_new_and_its_name_cannot_be_guessed(tmp_path):
    names = set()
    for _ in range(3):
        with atomic_path(tmp_path / "a.png") as temporary:
            names.add(temporary.name)
            assert temporary.stat().st_size == 0 and temporary.parent == tmp_path
            temporary.write_text("content")
    assert len(names) == 3 and os.listdir(tmp_path) == ["a.png"]


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr("pplfast.files.secrets.token_hex", lambda size: "0" * 16)
    (tmp_path / f".{os.getpid()}-{'0' * 16}.partial").symlink_to(victim)
    with pytest.raises(UserError, match=r"a\.png: cannot be written"):
        write_text(tmp_path / "a.png", "x")
    assert victim.read_text() == "precious" and not (tmp_path / "a.png").exists()


def test_a_long_name_that_the_file_system_takes_can_be_written(tmp_path):
    write_text(tmp_path / ("n" * 255), "x")
    with pytest.raises(UserError, match="the name is too long for the file system; shorten it"):
        write_text(tmp_path / ("n" * 256), "x")
    assert os.listdir(tmp_path) == ["n" * 255]


def test_files_that_grow_do_not_go_through_links(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="link: a symbolic link"):
        open_append(tmp_path / "link")
    with pytest.raises(FileExistsError):
        open_new(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: "):
        open_append(tmp_path / "pipe")
    assert not (tmp_path / "victim").exists()
    with open("/dev/full", "ab", buffering=0) as full, pytest.raises(UserError, match="log: the disk is full"):
        append_line(full, "x", "log")


def test_a_link_that_stays_within_the_folder_is_allowed(tmp_path):
    (tmp_path / "out" / "real").mkdir(parents=True)
    (tmp_path / "out" / "link").symlink_to("real")
    check_inside(tmp_path / "out", [tmp_path / "out" / "link" / "x", tmp_path / "out" / "new" / "x"])
    (tmp_path / "alias").symlink_to(tmp_path / "out")
    check_inside(tmp_path / "alias", [tmp_path / "alias" / "link" / "x"])
    (tmp_path / "out" / "away").symlink_to(tmp_path)
    with pytest.raises(UserError, match="away: a symbolic link leads out"):
        check_inside(tmp_path / "out", [tmp_path / "out" / "away" / "x"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 200_000, "nested too deep"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"{" * 9, "not valid JSON"),
        (b"[]", "holds a list, not an object"),
        (b"null", "holds a NoneType, not an object"),
        (b"7", "holds a int, not an object"),
    ],
)
def test_json_of_strangers_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"settings.json: .*{message}.*delete it and run the step again") as refusal:
        read_json(path)
    assert "\n" not in str(refusal.value)


def test_json_is_not_read_beyond_its_bound_nor_from_what_is_no_file(tmp_path):
    path = tmp_path / "settings.json"
    with open(path, "wb") as file:
        file.truncate(5 * 2**30)
    with pytest.raises(UserError, match="larger than the"):
        read_json(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="no regular file"):
        read_json(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="no regular file"):
        read_json(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="settings.json: is a folder, where a file is expected"):
        read_json(path)
    with pytest.raises(UserError, match=r"none.json: no such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"no such file: what is to be its folder is a file"):
        (tmp_path / "file").touch()
        read_json(tmp_path / "file" / "a.json")


@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_what_json_does_not_have_is_not_written(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": [value]})
    assert not list(tmp_path.iterdir())


def test_what_is_written_is_read_again(tmp_path):
    value = {"a": [1, 2.5, None, "\ud800", {"b": True}]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == json.loads(json.dumps(value))


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_of_the_system_has_its_sentence(number):
    for reading in (False, True):
        error = explain_os_error(OSError(number, os.strerror(number)), "out/a.png", reading)
        assert isinstance(error, UserError) and str(error).startswith("out/a.png: ") and "\n" not in str(error)
    assert "it continues" not in str(error) and "{" not in str(error)


def test_what_users_meet_has_a_remedy_of_its_own():
    plain = "the operating system says"
    assert plain in str(explain_os_error(OSError(errno.ECHILD, "x"), "a"))
    met = "ENOSPC EDQUOT EFBIG EIO ESTALE EMFILE ENFILE ENAMETOOLONG ELOOP ETXTBSY EBUSY ENOMEM EISDIR ENOTEMPTY EXDEV"
    for name in (*met.split(), "EACCES", "EPERM", "EROFS", "ENOENT", "ENOTDIR", "EEXIST"):
        assert plain not in str(explain_os_error(OSError(getattr(errno, name), "x"), "a")), name
    for name in ("ENOENT", "EACCES", "EISDIR", "ENOTDIR"):
        assert "output folder" not in str(explain_os_error(OSError(getattr(errno, name), "x"), "a", reading=True))


def test_an_error_without_a_number_has_a_sentence():
    assert str(explain_os_error(OSError("Writer is closed"), "tb")).startswith(
        "tb: the operating system says: Writer is closed"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("I/O error: No space left on device (os error 28)", "the disk is full"),
        ("I/O error: Disk quota exceeded (os error 122)", "your quota of the disk is used up"),
        ("I/O error: Input/output error (os error 5)", "the disk reports an error"),
        ("header too large", None),
    ],
)
def test_the_systems_errors_are_found_in_a_librarys_words(text, message):
    explained = explain_library_error(ValueError(text), "a.safetensors")
    assert explained is None if message is None else message in str(explained)


def test_a_message_is_one_line_whatever_is_in_a_name():
    assert one_line("a\nb\x1b[2J\u202e\udc80 é 中") == "a\\nb\\x1b[2J\\u202e\\udc80 é 中"
    assert errors.AGAIN in str(explain_os_error(OSError(errno.ENOSPC, "x"), "a"))

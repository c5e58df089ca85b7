"""Host files of strangers: nothing of one reaches ssh or a shell but names of hosts; each error is one line."""

import os
import random
import tracemalloc

import pytest

from pplfast.cluster import hosts as asking
from pplfast.cluster.hosts import Host, check_address, first_address, read_hostfile
from pplfast.errors import UserError

COMMANDS = (
    "-oProxyCommand=touch${IFS}/x",
    "-w",
    "--",
    "a;touch",
    "$(touch)",
    "`touch`",
    "a|b",
    "a&b",
    "a>b",
    "a'b",
    'a"b',
    "a\\b",
    "^hosts",
    "/a/",
    "a[1-9]",
    "a,b",
    "exec:a",
    "ssh:u@a",
    "%n",
    "a%h",
    "~",
    "a*",
    "a!b",
    "a=b",
    "a{1,2}",
    "@a",
    "a@",
    "-u@a",
    "u@-a",
    "u@a@b",
    "$u@a",
    ".a",
    "a-",
    "é",
    "\u0430",  # Cyrillic
    "a\x00b",
    "a\x1b[2J",
    "a" * 300,
    "u" * 100 + "@a",
    "[::1]",
    "fe80::1%eth0",  # a zone means another interface on each host
)
WORTHLESS_SLOTS = ("0", "-1", "+1", "1.5", "1e3", "٣", "0x10", "1025", "9" * 5000, "", "8;touch", "8 max_slots=9")


def write(folder, content: bytes | str) -> str:
    path = folder / "hosts"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def refused(path: str) -> str:
    with pytest.raises(UserError) as error:
        read_hostfile(path)
    message = str(error.value)
    assert message.isprintable() and len(message) < 500 and path in message
    return message


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_no_host_name_is_refused(tmp_path, name):
    assert "line 2" in refused(write(tmp_path, f"node-a slots=1\n{name} slots=1\n"))
    with pytest.raises(UserError, match="must be"):
        Host(name, 1)


@pytest.mark.parametrize(
    "name", ("node-a", "NODE_7.example.org", "10.0.0.1", "root@node-a", "a.b-c@10.0.0.1", "7", "::1", "bob@2001:db8::1")
)
def test_host_names(tmp_path, name):
    assert read_hostfile(write(tmp_path, f"{name} slots=1024")) == [Host(name, 1024)]


@pytest.mark.parametrize("slots", WORTHLESS_SLOTS)
def test_slots_are_small_numbers(tmp_path, slots):
    assert "line 1" in refused(write(tmp_path, f"node-a slots={slots}\n"))


@pytest.mark.parametrize("second", ("node-a", "NODE-A", "root@node-a"))
def test_a_host_stands_in_one_line(tmp_path, second):
    assert "again" in refused(write(tmp_path, f"node-a slots=1\n{second} slots=1\n"))


@pytest.mark.parametrize(
    "content",
    (
        b"\xef\xbb\xbfa slots=1\nb slots=2\n",
        b"a slots=1\r\nb slots=2\r\n",
        b"\t a\tslots=1 # x\n#\xc3\xa9\n\nb slots=2",
    ),
)
def test_byte_order_marks_and_ends_of_lines(tmp_path, content):
    assert read_hostfile(write(tmp_path, content)) == [Host("a", 1), Host("b", 2)]


@pytest.mark.parametrize(
    "content",
    (
        b"",
        b"\xff\xfe\x00a",
        "a slots=1".encode("utf-16"),
        b"\x00",
        b"a slots=1\x00",
        b"node-\xe9 slots=1",
        b"a slots=1 \x85 b slots=2",
        b"a" * 100_000,
    ),
)
def test_bytes_that_are_no_host_file(tmp_path, content):
    refused(write(tmp_path, content))


def test_a_folder_or_an_endless_file(tmp_path):
    refused(str(tmp_path))
    tracemalloc.start()
    assert "larger than" in refused("/dev/zero")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_more_hosts_than_can_be_started_or_a_command_line_holds(tmp_path):
    assert len(read_hostfile(write(tmp_path, "".join(f"n{k} slots=8\n" for k in range(1024))))) == 1024
    assert "1025 hosts" in refused(write(tmp_path, "".join(f"n{k} slots=1\n" for k in range(1025))))
    assert "ranks" in refused(write(tmp_path, "".join(f"n{k} slots=1024\n" for k in range(1000))))


def test_random_host_files(tmp_path):
    """Any bytes give hosts that are safe to name, or one line."""
    chance = random.Random(18)
    alphabet = [
        b"a",
        b"-",
        b" ",
        b"\n",
        b"slots=",
        b"1",
        b"9" * 50,
        b"#",
        b"\r",
        b"\x00",
        b"\xff",
        b"\xc3\xa9",
        b"@",
        b"%",
    ]
    for _ in range(2000):
        content = b"".join(chance.choices(alphabet, k=chance.randrange(30)))
        if chance.random() < 0.5:
            content = b"a slots=1\n" + chance.randbytes(chance.randrange(40))
        path = write(tmp_path, content)
        try:
            hosts = read_hostfile(path)
        except UserError as error:
            hosts, message = [], str(error)
            if not message.isprintable():
                pytest.fail(message)
        assert all(host.name[0] != "-" and 1 <= host.slots <= 1024 for host in hosts)


def test_addresses():
    for address in ("node-a", "10.0.0.1", "::1", "2001:db8::1"):
        assert check_address("--master-addr", address) == address
    for address in ("", "-x", "a b", "$(touch)", "a;b", "u@a", "fe80::1%eth0", "[::1]", "a" * 300, "a\n"):
        with pytest.raises(UserError, match="^--master-addr"):
            check_address("--master-addr", address)


@pytest.mark.parametrize("answer", (b"", b"\n", b"$(touch) 10.0.0.1", b"\xff", b"hostname: invalid option"))
def test_what_the_first_host_answers_is_an_address_or_refused(monkeypatch, answer):
    """It goes into a command line on all hosts."""
    monkeypatch.setattr(asking, "ask", lambda host, command: answer)
    with pytest.raises(UserError, match="^node-a: .*--master-addr"):
        first_address(Host("node-a", 1))


def test_the_first_of_the_addresses(monkeypatch):
    monkeypatch.setattr(asking, "ask", lambda host, command: b"10.0.0.7 172.17.0.1 fe80::2 \n")
    assert first_address(Host("node-a", 1)) == "10.0.0.7"


@pytest.mark.slow
def test_ssh_takes_a_host_for_a_host(monkeypatch, tmp_path):
    """In place of ssh a script that keeps its arguments."""
    (tmp_path / "ssh").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\n')
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert asking.answering([Host("root@node-a", 1)])
    assert (tmp_path / "arguments").read_text().splitlines()[-3:] == ["--", "root@node-a", "true"]

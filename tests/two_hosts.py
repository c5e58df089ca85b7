"""Two hosts on one machine: network namespaces joined by a virtual cable, each with its own name and its own sshd.

Needs root, iproute2 and OpenSSH's server. Nothing reaches the real network: the namespaces hold one cable and nothing
else, and both hosts see this machine's files, as on a cluster with a shared file system.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ADDRESSES = {"node-a": "10.213.7.1", "node-b": "10.213.7.2"}
SERVER = """Port 22
HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
PidFile none
"""
CLIENT = """Host *
    IdentityFile /etc/ssh/client_key
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
"""


class Unavailable(Exception):
    """This machine cannot play two hosts; the message says why."""


class TwoHosts:
    """A context; `run` and `start` execute commands on a host, `cut` takes the cable out and `mend` puts it back."""

    def __init__(self) -> None:
        self._spaces = {name: f"pplfast-{os.getpid()}-{name[-1]}" for name in ADDRESSES}
        self._servers: list[subprocess.Popen] = []

    def __enter__(self) -> "TwoHosts":
        if os.geteuid() != 0:
            raise Unavailable("network namespaces need root")
        for program in ("ip", "unshare", "ssh", "ssh-keygen", "pdsh", "/usr/sbin/sshd"):
            if not shutil.which(program):
                raise Unavailable(f"{program} is missing: install iproute2, openssh-server and pdsh")
        try:
            self._connect()
            self._serve()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.terminate()
            server.wait()
        for space in self._spaces.values():  # the cable goes with its ends
            subprocess.run(["ip", "netns", "delete", space], capture_output=True)
            shutil.rmtree(Path("/etc/netns") / space, ignore_errors=True)

    def command(self, host: str, arguments: Sequence[str | Path]) -> list[str]:
        """What runs `arguments` on the host, under the host's name."""
        return [
            "ip",
            "netns",
            "exec",
            self._spaces[host],
            "unshare",
            "--uts",
            "sh",
            "-c",
            f'hostname {host} && exec "$@"',
            "sh",
            *map(str, arguments),
        ]

    def start(self, host: str, arguments: Sequence[str | Path], **options: Any) -> subprocess.Popen:
        return subprocess.Popen(self.command(host, arguments), text=True, **options)

    def cut(self) -> None:
        self._ip("-n", self._spaces["node-b"], "link", "set", "cable", "down")

    def mend(self) -> None:
        """Back when node-b answers again: its neighbour may hold it for gone for seconds after the cable is in."""
        self._ip("-n", self._spaces["node-b"], "link", "set", "cable", "up")
        self._wait_for("node-b")

    def _connect(self) -> None:
        (first, second), (address, other) = self._spaces.values(), ADDRESSES.values()
        try:
            for space in (first, second):
                self._ip("netns", "add", space)
            self._ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "name", "cable", "netns", second)
            for space, own in ((first, address), (second, other)):
                self._ip("-n", space, "address", "add", f"{own}/24", "dev", "cable")
                for device in ("lo", "cable"):
                    self._ip("-n", space, "link", "set", device, "up")
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"network namespaces cannot be made: {error.stderr.strip()}") from None

    def _serve(self) -> None:
        """`ip netns exec` lays what is below /etc/netns/NAME over /etc: the machine's own ssh stays as it is."""
        Path("/run/sshd").mkdir(exist_ok=True)
        hosts = "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
        for space in self._spaces.values():
            folder = Path("/etc/netns") / space
            ssh = folder / "ssh"
            ssh.mkdir(parents=True)
            (folder / "hosts").write_text(hosts)
            (ssh / "sshd_config").write_text(SERVER)
            (ssh / "ssh_config").write_text(CLIENT)
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh / "host_key"], check=True)
        first, second = (Path("/etc/netns") / space / "ssh" for space in self._spaces.values())
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", first / "client_key"], check=True)
        for folder in (first, second):
            shutil.copy(first / "client_key.pub", folder / "authorized_keys")
        shutil.copy(first / "client_key", second / "client_key")
        for name in ADDRESSES:
            self._servers.append(self.start(name, ["/usr/sbin/sshd", "-D", "-e"], stderr=subprocess.DEVNULL))
        for name in ADDRESSES:
            self._wait_for(name)

    def _wait_for(self, host: str) -> None:
        for _ in range(50):
            done = subprocess.run(
                self.command("node-a", ["ssh", "-o", "ConnectTimeout=2", host, "hostname"]),
                capture_output=True,
                text=True,
            )
            if done.stdout.strip() == host:
                return
            time.sleep(0.1)
        raise Unavailable(f"sshd of {host} does not answer: {done.stderr.strip()}")

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)

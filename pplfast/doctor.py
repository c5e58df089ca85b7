"""What each part runs on here, found by running each part on a tiny input: importing proves little.

Each probe has a process of its own, all at once: DeepSpeed sets up its whole process, and one that hangs in a driver or
a library can only be ended from outside.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from pplfast.probes import Finding, cpu_name, hardware

__all__ = ["PROBES", "Diagnosis", "Finding", "examine", "hardware", "versions"]

PACKAGES = {
    "pplfast": "pplfast",
    "torch": "torch",
    "triton": "triton",
    "deepspeed": "deepspeed",
    "DALI": "nvidia-dali-cuda130",
    "pydensecrf": "pydensecrf2",
    "numpy": "numpy",
    "pillow": "pillow",
    "tifffile": "tifffile",
    "imagecodecs": "imagecodecs",
}
STUCK = 15.0  # seconds in which a probe computes nothing at all: it waits for something that does not come
LIMIT = 240.0  # seconds that a probe may take on a machine that is busy with other work
LOOK, COUNT = 0.05, 1.0  # seconds between two looks at the probes, and at what they have computed
LONGEST = 200  # letters of a library's message
# Of a launcher, which may have started this: the probe of training has one rank, and joins nobody.
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Probe:
    """What one process does. parts: the engines that it examines, each by a function MODULE:NAME of pplfast.probes."""

    what: str
    parts: dict[str, str]


PROBES = {
    "kernels": Probe(
        "PyTorch, its devices, pplfast's own kernels",
        {
            "hardware": "pplfast.probes:hardware",
            "kernels": "pplfast.probes:kernels",
            "precision auto": "pplfast.probes:precision",
        },
    ),
    "loader": Probe("one JPEG through DALI", {"loader": "pplfast.probes:loader"}),
    "other images": Probe("a 16-bit TIFF and a transparent PNG", {"other images": "pplfast.probes:other_images"}),
    "training": Probe("one step of a DeepSpeed engine", {"training": "pplfast.probes:training"}),
    "dense CRF": Probe("an 8 x 8 picture through pydensecrf", {"dense CRF": "pplfast.probes:crf"}),
}


@dataclass(frozen=True)
class Diagnosis:
    findings: list[Finding]
    hardware: dict[str, str]

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        return {
            "versions": versions(),
            "hardware": self.hardware,
            "findings": [vars(finding) for finding in self.findings],
            "ok": self.ok,
        }


def versions() -> dict[str, str]:
    """Installed versions; "missing" for a package that is not installed."""
    found = {"python": platform.python_version()}
    for name, package in PACKAGES.items():
        candidates = (package, "nvidia-dali-cuda120") if name == "DALI" else (package,)
        found[name] = next((version for one in candidates if (version := _version(one))), "missing")
    return found


def examine(say: Callable[[str], None] = lambda line: None) -> Diagnosis:
    """Run every probe, and say at once what is done and what came of it. None of them raises: a failure becomes a
    finding that names it."""
    running: list[_Running] = []
    try:
        for engine, probe in PROBES.items():
            say(f"{engine}: {probe.what} ...")
            running.append(_Running(engine, probe))
        waiting, counted = list(running), time.monotonic()
        while waiting:
            time.sleep(LOOK)
            if time.monotonic() - counted > COUNT:
                counted, computed = time.monotonic(), _computed_by_session()
                for one in waiting:
                    one.watch(computed)
            for one in [one for one in waiting if one.is_over()]:
                waiting.remove(one)
                bad = [finding for finding in one.findings if not finding.ok]
                say(f"{one.engine}: {f'fails: {bad[0].why}' if bad else 'works'} ({one.seconds:.1f} s)")
    finally:
        for one in running:
            one.end()
    machine = next((one.hardware for one in running if one.hardware), {"cpu": cpu_name()})
    return Diagnosis([finding for one in running for finding in one.findings], machine)


@dataclass
class _Running:
    """A probe in its own process, and the processes that it starts."""

    engine: str
    probe: Probe
    findings: list[Finding] = field(default_factory=list)
    hardware: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._answers: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")
        self._noise: IO[bytes] = tempfile.TemporaryFile()
        environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
        self._process = subprocess.Popen(
            # -P: what lies in the working folder is not imported.
            [
                sys.executable,
                "-P",
                "-m",
                "pplfast.probes",
                *(f"{name}={part}" for name, part in self.probe.parts.items()),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._answers,
            stderr=self._noise,
            start_new_session=True,
        )
        self._begin = self._moved = time.monotonic()
        self._computed = 0.0

    def watch(self, computed: dict[int, float]) -> None:
        """Give the probe up if it is stuck. computed: CPU seconds by session."""
        now, seconds = time.monotonic(), computed.get(self._process.pid, 0.0)
        if seconds != self._computed:  # less, once one of its processes has ended
            self._computed, self._moved = seconds, now
        if now - self._moved > STUCK:
            self._fail(f"no answer: it has waited for {STUCK:.0f} s{self._place()}")
        elif now - self._begin > LIMIT:
            self._fail(f"no answer within {LIMIT:.0f} s{self._place()}")

    def is_over(self) -> bool:
        if not self.findings and self._process.poll() is not None:
            self._read_answer()
        self.seconds = time.monotonic() - self._begin
        return bool(self.findings)

    def end(self) -> None:
        """Nothing that the probe has started goes on."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._answers.close()
        self._noise.close()

    def _read_answer(self) -> None:
        self._answers.seek(0)
        try:
            answer = json.loads(self._answers.read())
        except ValueError:
            code = self._process.returncode
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self._fail(f"ended without an answer ({how}): {self._last_line()}")
            return
        self.findings = [Finding(**row) for row in answer["findings"]]
        self.hardware = answer["hardware"]

    def _fail(self, why: str) -> None:
        self.findings = [Finding(self.engine, "fails", why[:LONGEST], ok=False)]

    def _last_line(self) -> str:
        self._noise.seek(0)
        lines = self._noise.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "no message"

    def _place(self) -> str:
        """Where its Python code stands, by the dump that it makes of its stack when it is asked to."""
        start = self._noise.seek(0, os.SEEK_END)
        self._process.send_signal(signal.SIGUSR1)
        time.sleep(0.3)
        self._noise.seek(start)
        lines = [line.split('"') for line in self._noise.read().decode(errors="replace").splitlines()]
        return next((f", in {Path(parts[1]).name},{parts[2].split(',')[-1]}" for parts in lines if len(parts) == 3), "")


def _computed_by_session() -> dict[int, float]:
    """CPU seconds of the processes that are alive, by session: a compiler's are its own until it ends."""
    found: dict[int, float] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                session, ticks = int(fields[3]), int(fields[11]) + int(fields[12])
                found[session] = found.get(session, 0.0) + ticks / os.sysconf("SC_CLK_TCK")
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""

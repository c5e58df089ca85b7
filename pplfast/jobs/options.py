"""How a job is done, and what came of it. None of this decides the results."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from pplfast.errors import UserError, one_line
from pplfast.files import StrPath
from pplfast.jobs.meter import bottleneck
from pplfast.storage import join

EXIT_BAD = 3  # exit code: finished, but some images are bad
SHOWN = 20  # bad images that a summary names
MERGED = "manifest.jsonl"


@dataclass(frozen=True)
class JobOptions:
    """memory: GiB that a rank and its workers may use for what grows with the images (not for the programs
    themselves); None: half of what is free, divided among the ranks of this machine.
    jobs: worker processes of this rank, None: its share of the cores. threads: of decoding, None: a quarter of that
    share, but at least 2. rotated: use images that EXIF turns, as stored; without, they are bad. verify: compare the
    checksums of all outputs and images, not only sizes and times. strict: a bad image ends the job.
    prometheus: a text file to keep the progress in. local_rank: from the launcher's command line, where the
    environment does not have it. shards: of a data set in shards; the outputs are shards too, one beside each of its.
    """

    memory: float | None = None
    jobs: int | None = None
    threads: int | None = None
    rotated: bool = True
    verify: bool = False
    strict: bool = False
    prometheus: Path | None = None
    local_rank: int | None = None
    shards: bool = False

    def check(self) -> None:
        """Raises UserError for numbers that mean nothing."""
        for name, value in (("jobs", self.jobs), ("threads", self.threads)):
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: must be 1 or more")


DEFAULTS = JobOptions()


@dataclass
class Outcome:
    """What came of a job: of the whole, on rank 0; of its own part on the others.

    written, skipped (were there already): images. bad: (id, reason) of the first SHOWN images of the list without an
    output; bad_count: of all of them. busy: share of the time that each phase worked, mean over the ranks. signal: that
    stopped it, or 0. unfinished: ranks that ended before their part was done. retries: reads and writes that were tried
    again. manifest: where the records are, in the folder.
    """

    written: int = 0
    skipped: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    busy: dict[str, float] = field(default_factory=dict)
    signal: int = 0
    unfinished: list[int] = field(default_factory=list)
    bad_count: int = 0
    retries: int = 0
    manifest: str = MERGED

    def __post_init__(self) -> None:
        self.bad_count = max(self.bad_count, len(self.bad))
        self.bad = [(image_id, reason) for image_id, reason in self.bad[:SHOWN]]  # JSON has no tuples

    @property
    def exit_code(self) -> int:
        """Of a command that did this job: 0; 3 where some images are bad; 128 + signal; 1 where a rank ended early."""
        if self.signal:
            return 128 + self.signal
        return 1 if self.unfinished else EXIT_BAD if self.bad_count else 0

    @property
    def bottleneck(self) -> str:
        """The phase that worked most: decode, network, crf (with encode) or write."""
        return bottleneck(self.busy)

    def share(self) -> float:
        """Of the time that the bottleneck worked."""
        return self.busy[self.bottleneck] + (self.busy["encode"] if self.bottleneck == "crf" else 0.0)

    def phase_rates(self) -> dict[str, float]:
        """Images per second that each phase alone would make, from the time that it worked."""
        return {phase: self.written / (share * self.seconds) for phase, share in self.busy.items() if share > 0}

    def summary(self, what: str, folder: StrPath) -> str:
        """Lines for the user: counts, rate, bottleneck, and the first bad images."""
        rate = self.written / max(self.seconds, 1e-9)
        lines = [
            f"{self.written} {what} written to {folder} in {self.seconds:.0f} s ({rate:.1f} images/s), {self.skipped} "
            "were there already"
        ]
        if self.written:
            lines[0] += f"; bottleneck: {self.bottleneck} ({self.share():.0%} busy)"
        if self.retries:
            lines[0] += f"; {self.retries} reads or writes were tried again"
        if self.bad_count:
            lines.append(f"{self.bad_count} bad images (see {join(os.fspath(folder), self.manifest)}):")
            lines += [one_line(f"  {image_id}: {reason}") for image_id, reason in self.bad]
            if self.bad_count > len(self.bad):
                lines.append(f"  ... and {self.bad_count - len(self.bad)} more")
        return "\n".join(lines)

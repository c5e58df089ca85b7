"""All images of a data set from label PNGs to an export."""

import os
import shlex
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pplfast.data.dataset import Dataset
from pplfast.errors import UserError
from pplfast.export.convert import Made, convert
from pplfast.export.format import Format, LabelledImage, Target
from pplfast.export.formats import find_format
from pplfast.export.labels import find_labels
from pplfast.files import StrPath
from pplfast.jobs.options import EXIT_BAD
from pplfast.jobs.progress import ProgressBar
from pplfast.pool import QUEUED_PER_WORKER, default_jobs, mapped, signals_held, start_worker
from pplfast.whole_folder import check_free, whole_folder


@dataclass(frozen=True)
class Export:
    """What an export has become. images: in it. regions: in it, where the format knows any. failed: by id why an image
    has no label. bad: by id why its label or image could not be exported. unsure: images with unsure pixels (255),
    which the format turns into what `Format.unsure` says. seconds: it took."""

    out: Path
    format: type[Format]
    images: int
    regions: int | None
    failed: dict[str, str]
    bad: dict[str, str]
    unsure: int
    seconds: float

    @property
    def exit_code(self) -> int:
        """0, or 3 where a label or an image turned out to be bad."""
        return EXIT_BAD if self.bad else 0

    def summary(self) -> str:
        """Some lines: what was left out and why, what was written, and how the tool reads it."""
        lines = [f"left out: {reason}" for reason in self.bad.values()]
        if self.unsure:
            lines.append(f"note: {self.unsure} images have unsure pixels (255): they are {self.format.unsure} there")
        known = f", {self.regions} regions" if self.regions is not None else ""
        failed = f"; {len(self.failed)} images have no label, as they failed earlier" if self.failed else ""
        bad = f"; {len(self.bad)} are left out" if self.bad else ""
        rate = self.images / max(self.seconds, 1e-9)
        lines.append(
            f"{self.out}: {self.images} images{known} for {self.format.tool} ({rate:.0f} images/s){bad}{failed}"
        )
        if self.format.read_with:
            in_python = "'{out}" in self.format.read_with
            out = str(self.out) if in_python else shlex.quote(str(self.out))
            lines.append(f"read it with: {self.format.read_with.replace('{out}', out)}")
        return "\n".join(lines)


def export_labels(
    labels: StrPath, format: str, out: StrPath, dataset: Dataset, link: bool = False, jobs: int | None = None
) -> Export:
    """Write the label PNGs `labels/<id>.png` of a data set, or those in shards, in the format of another tool.

    format: its name, one of `pplfast.export.formats.FORMATS`. out: a new folder, or an empty one; it is there once all
    is written. link: images, where the format has any, become symbolic links instead of copies. jobs: processes; None:
    one per core.
    Images that failed when the labels were made are left out, and so is an image whose label is damaged, of other
    classes or of another size. UserError for labels that are missing, and where nothing would be left.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"jobs {jobs}: must be 1 or more")
    kind = find_format(format)
    check_free(out)
    if link and not kind.has_images:
        raise UserError(f"--link-images: no images are part of the format {format}; leave it out")
    if link and dataset.shards is not None:
        raise UserError(f"--link-images: {dataset.name} lies in shards, where images are no files; leave it out")
    start = time.monotonic()
    images = find_labels(labels, dataset)
    with whole_folder(out) as temporary:
        made = kind(Target(temporary, dataset.classes, dataset.name, link))
        count = min(default_jobs() if jobs is None else jobs, len(images))
        with ProgressBar("exporting labels", len(images)) as progress:
            rounds = _Rounds(made, progress)
            with closing(rounds.all(images, count)) as converted:  # its workers end before the folder goes
                made.write(converted)
        if not rounds.images:
            first = next(iter(rounds.bad.values()), "the list is empty")
            raise UserError(f"{labels}: none of its {len(images)} labels can be exported (first: {first})")
    seconds = time.monotonic() - start
    regions = rounds.regions if rounds.has_regions else None
    return Export(Path(out), kind, rounds.images, regions, images.failed, rounds.bad, rounds.unsure, seconds)


class _Rounds:
    """Converts the images, and counts."""

    def __init__(self, format: Format, progress: ProgressBar) -> None:
        self._format, self._progress = format, progress
        self.images = self.regions = self.unsure = 0
        self.has_regions = False
        self.bad: dict[str, str] = {}

    def all(self, images: Iterable[LabelledImage], jobs: int) -> Generator[tuple[LabelledImage, Any], None, None]:
        """The images that could be converted, with what of them, in order."""
        work = partial(convert, format=self._format)
        waiting: deque[LabelledImage] = deque()

        def noted() -> Iterator[LabelledImage]:
            for item in images:
                waiting.append(item)
                yield item

        with _results(work, noted(), jobs) as results:
            for made in results:
                item = waiting.popleft()
                self._progress.advance()
                if made.bad:
                    self.bad[item.id] = made.bad
                    continue
                self._count(made)
                yield item, made.value

    def _count(self, made: Made) -> None:
        self.images += 1
        self.unsure += made.unsure and bool(self._format.unsure)
        regions = self._format.regions(made.value)
        if regions is not None:
            self.has_regions = True
            self.regions += regions


@contextmanager
def _results(work: "partial[Made]", items: Iterator[LabelledImage], jobs: int) -> Iterator[Iterable[Made]]:
    if jobs <= 1:
        yield map(work, items)
        return
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), start_worker)
    try:
        with signals_held():  # a task starts a worker where none is idle
            for _ in range(jobs):
                pool.submit(os.getpid)
        yield mapped(pool, work, items, jobs * QUEUED_PER_WORKER)
    except BrokenProcessPool:
        raise UserError(
            f"a worker process died, probably for lack of memory; use fewer than {jobs} jobs and run the same command "
            "again"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

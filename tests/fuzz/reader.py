"""What a reader is to the fuzz: valid contents of a file, how they are damaged, and the code that reads it."""

import contextlib
import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fuzz.mutate import Mutator


@dataclass(frozen=True)
class Reader:
    """One way from a file into the program.

    file: the damaged file's place in a folder of its own. prepare: writes a valid one there, and all that has to lie
    beside it. read: reads it as a command does, raising what comes out. more: other contents that are valid. hostile:
    contents to begin with that have to be refused. named: what a message may name instead of the file. writes: the
    reader changes its folder, which is made anew for each input.
    """

    name: str
    file: str
    prepare: Callable[[Path], object]
    mutate: Mutator
    read: Callable[[Path], object]
    more: tuple[bytes, ...] = ()
    hostile: tuple[bytes, ...] = ()
    named: tuple[str, ...] = ()
    writes: bool = False


@dataclass(frozen=True)
class Prepared:
    """A reader with its folder: made once, then copied by each process."""

    reader: Reader
    template: Path
    seeds: tuple[bytes, ...]  # the valid ones first

    @property
    def valid(self) -> int:
        """How many of the seeds have to be accepted."""
        return 1 + len(self.reader.more)

    def lay_out(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.template, folder)


def prepare(readers: Sequence[Reader], folder: Path) -> list[Prepared]:
    """Readers that are prepared alike share what is made."""
    templates: dict[Callable[[Path], object], Path] = {}
    prepared = []
    for reader in readers:
        template = templates.get(reader.prepare)
        if template is None:
            template = templates[reader.prepare] = folder / reader.name
            template.mkdir(parents=True)
            with contextlib.redirect_stderr(io.StringIO()):  # bars of progress
                reader.prepare(template)
        seeds = ((template / reader.file).read_bytes(), *reader.more, *reader.hostile)
        prepared.append(Prepared(reader, template, seeds))
    return prepared


def file_name(content: bytes) -> str:
    """What a file system can call a file of all this."""
    name = content.replace(b"\0", b"").replace(b"/", b"_")[:200].decode("utf-8", "surrogateescape")
    return name if name not in ("", ".", "..") else "name"

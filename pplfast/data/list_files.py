"""List files: a path or URL of a shard, or of an image, in each line. Of images each block of lines stands for a shard,
so that none is touched before it is needed."""

import hashlib
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from pplfast.data.names import SUFFIXES
from pplfast.errors import UserError
from pplfast.reading import quoted
from pplfast.storage import Found, is_remote, join, last_part, parent, read_file

LIST = ".txt"
BLOCK = 1000  # lines
_MARK = "#"  # between the list and the number of a block


@dataclass(frozen=True)
class Line:
    """path: of a shard or an image, or its URL. labels: None where the line says none."""

    number: int
    path: str
    labels: list[str] | None


def read_list_file(file: str) -> list[Line]:
    """Paths that are relative begin in the list's folder; labels follow a tab, separated by ';'. UserError for an empty
    list."""
    try:
        lines = read_file(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not a list of files in UTF-8 ({error}); save it as UTF-8") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        path, tab, labels = line.strip("\r\n ").partition("\t")
        path = path.strip()
        whole = path if is_remote(path) or path.startswith("/") else join(parent(file), path)
        names = [name.strip() for name in labels.split(";") if name.strip()]
        found.append(Line(number, whole, names if tab else None))
    if not found:
        raise UserError(f"{file}: names nothing; write a path or URL of a shard, or of an image, in each line")
    return found


def are_images(file: str, lines: Sequence[Line], shards: Sequence[str]) -> bool:
    """Whether the lines are of images, not of shards. UserError for one that is neither, or not as the first."""
    images = lines[0].path.lower().endswith(SUFFIXES)
    for line in lines:
        if not line.path.lower().endswith(SUFFIXES if images else tuple(shards)):
            expected = "image, as the first line" if images else ".tar or .parquet file"
            raise UserError(f"{file}, line {line.number}: {quoted(line.path)} is no {expected}; correct it")
    return images


def blocks_of(file: str, lines: Sequence[Line]) -> list[Found]:
    """What stands for shards. size: in lines."""
    blocks = [lines[at : at + BLOCK] for at in range(0, len(lines), BLOCK)]
    return [Found(f"{file}{_MARK}{number:06d}", len(block), _stamp(block)) for number, block in enumerate(blocks)]


def _stamp(block: Sequence[Line]) -> int:
    digest = hashlib.sha256("\n".join(f"{line.path}\t{line.labels}" for line in block).encode("utf-8", "replace"))
    return int.from_bytes(digest.digest()[:6])  # what JSON's readers hold exactly


def is_block(path: str) -> bool:
    return path.rpartition(_MARK)[0].lower().endswith(LIST)


def block_name(path: str) -> str:
    """ "crops-000012" of "s3://bucket/crops.txt#000012"."""
    file, _, number = path.rpartition(_MARK)
    return f"{posixpath.splitext(last_part(file))[0]}-{number}"

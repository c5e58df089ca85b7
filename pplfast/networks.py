"""The kinds of trained networks, and where a path finds one: in its own folder, a variant's, or a run's. Without torch:
errors come at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pplfast.errors import UserError

if TYPE_CHECKING:
    from pplfast.files import StrPath


@dataclass(frozen=True)
class Kind:
    """A kind of trained network, by the files that it is: `<name>.json` beside `<name>.safetensors`."""

    name: str
    what: str
    folder: str  # its name within a variant of a run
    command: str  # that trains it

    @property
    def help(self) -> str:
        return f"trained {self.what}: its folder, or that of a run or variant with only one"


CLASSIFIER = Kind("classifier", "classifier", "train", "pplfast train")
BOUNDARY = Kind("boundary", "boundary network", "boundary", "pplfast refine train")
SEGMENTATION = Kind("segmentation", "segmentation network", "segmentation", "pplfast segment train")
KINDS = (CLASSIFIER, BOUNDARY, SEGMENTATION)
DEPTHS = ("", "*", "*/*")  # of the folder that holds `Kind.folder`: a variant, a run, a run of several seeds


def find_network(path: "StrPath", kind: Kind) -> Path:
    """The folder of the network of that kind which `path` means: that folder, one of its files, or a folder of a run
    that holds exactly one. Raises UserError where there is none or a choice; it names what there is."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such folder; give the folder of a finished `{kind.command}`")
    if path.name in (f"{kind.name}.json", f"{kind.name}.safetensors"):
        path = path.parent
    found = networks_in(path, kind)
    if len(found) > 1:
        raise UserError(f"{path}: holds {len(found)} {kind.what}s; give one of {_names(found)}")
    if not found:
        raise UserError(f"{path}: holds no {kind.name}.json; {_instead(path, kind)}")
    return found[0]


def networks_in(path: Path, kind: Kind) -> list[Path]:
    """The folders of that kind of network which a folder means: itself alone, else those of the run below it."""
    if _holds(path, kind):
        return [path]
    patterns = ("/".join(part for part in (depth, kind.folder, f"{kind.name}.json") if part) for depth in DEPTHS)
    return [file.parent for pattern in patterns for file in sorted(path.glob(pattern))]


def _holds(path: Path, kind: Kind) -> bool:
    return (path / f"{kind.name}.json").is_file()


def _instead(path: Path, kind: Kind) -> str:
    """What to give instead: the network beside the one of another kind that is there, or what makes one."""
    other = next((other for other in KINDS if _holds(path, other)), None)
    if other is None and (path / "run.json").is_file():
        return f"its run has made no {kind.what} yet: give `pplfast run` the same command again"
    if other is None:
        return f"give the folder of a finished `{kind.command}`"
    beside = path.parent / kind.folder
    remedy = f"give {beside}" if _holds(beside, kind) else f"make one with `{kind.command}`"
    return f"it is a {other.what}, and a {kind.what} is needed: {remedy}"


def _names(paths: list[Path]) -> str:
    shown = ", ".join(map(str, paths[:8]))
    return f"{shown}, ..." if len(paths) > 8 else shown

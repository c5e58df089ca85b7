"""Weight files into a backbone: every tensor is accounted for, and a mismatch is refused by name."""

import pickletools
import tarfile
import warnings
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pplfast.errors import UserError
from pplfast.models.backbone import Backbone
from pplfast.models.mxnet import is_mxnet_file, published_name, read_params
from pplfast.models.values import bad_kind, bad_weight
from pplfast.reading import open_regular

WRAPPERS = ("state_dict", "model")  # keys under which training scripts put the tensors
CLASSIFIERS = ("fc.", "_fc.", "linear1000", "fc8.")
LEGACY_PICKLES = 5  # of torch.save before 1.6: magic number, version, system, the object, the names of its storages
SMALL_FILE = 2**16  # bytes
BOOKKEEPING = "num_batches_tracked"  # BatchNorm's counter, meaningless with frozen statistics


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors of a file and of a backbone, by name."""

    path: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # of the backbone, not in the file
    unexpected: tuple[str, ...]  # of the file, belonging to no known part
    ignored: tuple[str, ...]  # of the file: classifiers and counters, by their names

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        parts += [
            f"{len(names)} {what} ({_some(names)})"
            for names, what in ((self.ignored, "ignored"), (self.missing, "missing"), (self.unexpected, "unexpected"))
            if names
        ]
        return f"{self.path}: {'; '.join(parts)}"


def load_weights(backbone: Backbone, path: str | Path) -> LoadReport:
    """Copy the tensors of a weight file into `backbone`.

    Formats: PyTorch (.pth, .pt; bare or under "state_dict" or "model", with or without "module."), safetensors, and
    MXNet .params. Raises UserError naming file and tensors if the backbone is not covered in full, if a shape
    differs, if the file holds more of the backbone than this one has (ResNet-101 into ResNet-50), and if values are
    NaN, infinite or absurd.
    """
    tensors = read_tensors(path)
    report = match(backbone, tensors, str(path))
    _refuse_mismatch(backbone, tensors, report)
    own = backbone.state_dict()
    loaded = {name: tensors[name] for name in report.loaded}
    if wrong := bad_kind(loaded, own) or bad_weight(loaded):
        raise UserError(f"{path}: {wrong}, which are no weights of a trained network; fetch the file again")
    with torch.no_grad():
        for name in report.loaded:
            own[name].copy_(tensors[name])
    return report


def match(backbone: Backbone, tensors: dict[str, Tensor], path: str) -> LoadReport:
    """Sort the names of the file and of the backbone, without looking at shapes."""
    own = backbone.state_dict().keys()
    ignored = [
        name for name in tensors if name not in own and (name.startswith(CLASSIFIERS) or name.endswith(BOOKKEEPING))
    ]
    return LoadReport(
        path=path,
        loaded=tuple(name for name in own if name in tensors),
        missing=tuple(name for name in own if name not in tensors),
        unexpected=tuple(name for name in tensors if name not in own and name not in ignored),
        ignored=tuple(ignored),
    )


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weight file by their PyTorch names; code in the file is never run."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weight file; give an existing file, 'auto' or 'none'")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if is_mxnet_file(path):
            return {published_name(name): tensor for name, tensor in read_params(path).items()}
        return _read_torch(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the file") from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return _strip(load_file(path))
    except SafetensorError as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); fetch it again") from None


def _read_torch(path: Path) -> dict[str, Tensor]:
    _refuse_bomb(path)
    _refuse_legacy(path)
    with open_regular(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how old the format is; what matters is an error
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can make the reader fail in nearly any way
            reason = (str(error).strip() or "damaged").splitlines()[0]
            raise UserError(
                f"{path}: not a readable weight file ({reason[:120]}); expected a PyTorch state dict "
                "(.pth, .pt), .safetensors or MXNet .params file"
            ) from None
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = _tensors_of(content)
    if not tensors:
        raise UserError(
            f"{path}: holds no tensors by name; expected a state dict, bare or under "
            f"{' or '.join(repr(wrapper) for wrapper in WRAPPERS)}"
        )
    return _strip(tensors)


def _refuse_bomb(path: Path) -> None:
    """torch.save packs without compression. A zip file whose contents are larger than itself is not from there, and
    would be unpacked to any size."""
    if not _is_zip(path):
        return
    try:
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return  # torch's reader says what is wrong with it
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise UserError(
            f"{path}: a compressed archive, not a file of torch.save, which does not compress; unpack it, or fetch the "
            "weights again"
        )


def _is_zip(path: Path) -> bool:
    """Damaged ones too: torch's reader says what is wrong with them."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def _refuse_legacy(path: Path) -> None:
    """Of the formats before zip: tar archives, which torch unpacks into a folder, and pickles whose storages are larger
    than the file, for which torch makes room before it reads."""
    if _is_zip(path):
        return
    if tarfile.is_tarfile(path):
        raise UserError(f"{path}: a tar archive; unpack it, and give the weights inside")
    most = max(path.stat().st_size, SMALL_FILE)
    with open_regular(path) as file:
        try:
            largest = max((number for _ in range(LEGACY_PICKLES) for number in _storage_numbers(file)), default=0)
        except Exception:  # no pickle: torch's reader says what is wrong with it
            return
    if largest > most:
        raise UserError(f"{path}: is smaller than the tensors that it claims to hold; fetch the weights again")


def _storage_numbers(file: BinaryIO) -> Iterator[int]:
    """The whole numbers of one pickle that stand near a reference to a storage: one of them is its size."""
    recent: deque[int] = deque(maxlen=12)  # opcodes; a reference has nine
    for operation, argument, _ in pickletools.genops(file):
        recent.append(argument if type(argument) is int else 0)
        if operation.name == "BINPERSID":
            yield max(recent)


def _tensors_of(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _strip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the "module." that (Distributed)DataParallel puts before every name."""
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _refuse_mismatch(backbone: Backbone, tensors: dict[str, Tensor], report: LoadReport) -> None:
    own = backbone.state_dict()
    shapes = [
        f"{name} is {list(tensors[name].shape)}, not {list(own[name].shape)}"
        for name in report.loaded
        if tensors[name].shape != own[name].shape
    ]
    roots = {name.split(".")[0] for name in own}
    excess = [name for name in report.unexpected if name.split(".")[0] in roots]
    for names, what in (
        (report.missing, "tensors of the backbone are missing"),
        (shapes, "tensors have another shape"),
        (excess, "tensors have no place in the backbone"),
    ):
        if names:
            raise UserError(
                f"{report.path}: not weights of {backbone.name}: {len(names)} {what} ({_some(names)}); "
                "give the file of this backbone, or name the backbone of this file"
            )


def _some(names: Iterable[str], count: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")

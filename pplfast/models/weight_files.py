"""The tensors in a weight file of any form; code in it is never run, and a file that is none is told what it is."""

import pickletools
import re
import tarfile
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pplfast.errors import UserError, out_of_memory
from pplfast.models.mxnet import is_mxnet_file, published_name, read_params
from pplfast.reading import open_regular, quoted, shortened

LEGACY_PICKLES = 5  # of torch.save before 1.6: magic number, version, system, the object, the names of its storages
SMALL_FILE = 2**16  # bytes
DEPTH = 3  # of the dictionaries in each other in which tensors are looked for
HEAD = 512  # bytes
EXPECTED = "give a PyTorch state dict (.pth, .pt), .safetensors or MXNet .params file"
AGAIN = "fetch it again"
UNPACK = "unpack it, and give the weights inside"
OTHERS = {  # what is saved under the name of weights by mistake: the first bytes, what they mean, what to do
    b"version https://git-lfs": ("a Git LFS pointer, which only names the file", "fetch the file with 'git lfs pull'"),
    b"\x1f\x8b": ("a gzip archive", UNPACK),
    b"BZh": ("a bzip2 archive", UNPACK),
    b"\xfd7zXZ": ("an xz archive", UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", UNPACK),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", UNPACK),
    b"Rar!": ("a RAR archive", UNPACK),
    b"\x89HDF": ("an HDF5 file, as Keras writes it", EXPECTED),
    b"GGUF": ("a GGUF file", EXPECTED),
    b"\x93NUMPY": ("an array of NumPy", EXPECTED),
    b"\x89PNG": ("a PNG image", EXPECTED),
    b"\xff\xd8\xff": ("a JPEG image", EXPECTED),
    b"%PDF": ("a PDF", EXPECTED),
}


def read_tables(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """The dictionaries of a weight file that hold tensors: where in the file ("" at its top, "model", "ema.shadow")
    -> the tensors by their PyTorch names. UserError names what a file without any is."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weight file; give an existing file, 'auto' or 'none'")
    try:
        _refuse_others(path)
        if is_mxnet_file(path):
            return {"": {published_name(name): tensor for name, tensor in read_params(path).items()}}
        safe = path.suffix == ".safetensors" or _is_safetensors(_head(path))
        return {"": _read_safetensors(path)} if safe else _read_torch(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the file") from None


def _refuse_others(path: Path) -> None:
    head = _head(path)
    if not _is_safetensors(head) and (found := _other_kind(head)):
        raise _unreadable(path, *found)
    if not head.startswith(b"PK\3\4"):
        return
    if not _is_zip(path):
        raise _unreadable(path, "cut off or damaged: the end of its archive is missing", AGAIN)
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return  # torch's reader fails too
    if "data.pkl" not in names:
        raise _unreadable(path, "a zip archive that is no checkpoint", UNPACK)
    if "constants.pkl" in names:
        raise _unreadable(path, "a TorchScript program", "save the state_dict() of its network")


def _other_kind(head: bytes) -> tuple[str, str] | None:
    """What a file with these first bytes is in place of weights, and what to do."""
    if not head:
        return "an empty file", AGAIN
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, found in OTHERS.items():
        if text.startswith(start):
            return found
    if text.startswith(b"<"):
        return "a web page or XML", "download the file that the page offers"
    if re.fullmatch(rb"[^\x00-\x08\x0e-\x1f\x7f]+", text):
        return f"a text that begins with {quoted(text.splitlines()[0].decode(errors='replace'))}", EXPECTED
    return None


def _unreadable(path: Path, what: str, remedy: str) -> UserError:
    return UserError(f"{path}: not a readable weight file ({what}); {remedy}")


def _head(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(HEAD)


def _is_safetensors(head: bytes) -> bool:
    """Whatever the file is called: the length of a JSON object in 8 bytes, the highest of which is 0, and the object.
    The length's bytes may look like anything."""
    return head[7:9] == b"\0{"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        # The header's length or the tensors that it lists reach beyond the end.
        short = re.search("incomplete metadata|invalid header length|header too small", str(error))
        reason = "cut off: it is shorter than its header says" if short else shortened(str(error))
        raise _unreadable(path, f"safetensors, {reason}", AGAIN) from None


def _read_torch(path: Path) -> dict[str, dict[str, Tensor]]:
    _refuse_bomb(path)
    _refuse_legacy(path)
    with open_regular(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how old the format is; what matters is an error
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can make the reader fail in nearly any way
            if found := re.search(r"GLOBAL (\S+)", str(error)):
                raise UserError(
                    f"{path}: holds {shortened(found[1])}, which is not loaded, since that could run code of the file; "
                    "if you trust the file, load it in PyTorch and save the state_dict() of its network alone"
                ) from None
            what = "more than there is memory for, or damaged" if out_of_memory(error) else "damaged, or none at all"
            raise _unreadable(path, what, EXPECTED) from None
    tables = dict(_tables(content))
    if not tables:
        raise UserError(f"{path}: holds no tensors by name; {EXPECTED}")
    return tables


def _tables(content: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each dictionary once, however many refer to it: a small file can refer to itself."""
    level, seen = [("", content)], set()
    for _ in range(DEPTH):
        inner = []
        for where, table in level:
            if not isinstance(table, dict) or id(table) in seen:
                continue
            seen.add(id(table))
            items = [(name, value) for name, value in table.items() if isinstance(name, str)]
            if tensors := {name: value for name, value in items if isinstance(value, Tensor)}:
                yield where, tensors
            inner += [(f"{where}.{name}" if where else name, value) for name, value in items if isinstance(value, dict)]
        level = inner


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
        raise UserError(f"{path}: a tar archive; {UNPACK}")
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

"""Do all ranks mean the same? Asked before the first of them works: ranks that differ would wait for each other for
ever, or end with results that differ, far from the cause."""

import hashlib
import socket
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pplfast import kernels
from pplfast.cluster.ranks import EveryRankError, OtherRankError, Ranks, gather

# What must agree, by what mends a difference. The first comes first: another version may have other settings.
CODE = "install the same versions on all hosts"
RECIPE = "start all ranks with the same recipe"
DATA = "give all ranks the same images and labels"
OPTIONS = "start all ranks with the same options"
MACHINE = "start all ranks on machines of one kind, or set optim.precision to what all of them have"
Settings = Mapping[str, Mapping[str, Any]]  # one of these -> name as the user knows it -> value, dict or list

LIBRARIES = ("pplfast", "torch", "deepspeed", "triton", "nvidia-dali-cuda130", "nvidia-dali-cuda120")
SHOWN = 80  # characters of a value


def agree(ranks: Ranks, settings: Settings) -> None:
    """Compare every rank's settings; called by all. Raises EveryRankError (and OtherRankError) naming the first that
    differs, with both values and hosts."""
    own = {group: _flat(values) for group, values in settings.items()}
    found = gather(ranks, (socket.gethostname(), own))
    message = difference(found)
    if message:
        raise (EveryRankError if ranks.main else OtherRankError)(message)


def difference(found: list[tuple[str, dict[str, dict[str, str]]]]) -> str | None:
    """Of each rank its host and its settings as text -> the first difference from rank 0, with its remedy."""
    host, first = found[0]
    for remedy in first:
        for rank, (other_host, other) in enumerate(found):
            here, there = first[remedy], other.get(remedy, {})
            names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
            if names:
                more = f" (and {len(names) - 1} more settings differ)" if len(names) > 1 else ""
                return (
                    f"{names[0]} is {here.get(names[0], 'not set')} on host {host} (rank 0) and "
                    f"{there.get(names[0], 'not set')} on host {other_host} (rank {rank}){more}; {remedy}"
                )
    return None


@cache
def code_versions() -> dict[str, str]:
    """Of the libraries that the results depend on, and a digest of this program's own files."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {**versions, "the digest of pplfast's files": _digest()}


def _digest() -> str:
    """An installation from a working tree changes without its version."""
    digest = hashlib.sha256()
    for root in (Path(__file__).parents[1], Path(kernels.__path__[0])):
        for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".cpp")):
            digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Nested dicts and lists under dotted names; as text, in which NaN is like NaN and 1 unlike 1.0."""
    if isinstance(value, Mapping):
        items = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(index), inner) for index, inner in enumerate(value)]
    else:
        text = ascii(value)
        if len(text) > SHOWN:
            text = f"{text[: SHOWN - 20]}... ({hashlib.sha256(text.encode()).hexdigest()[:12]})"
        return {name: text}
    flat = {f"the number of {name}": str(len(items))} if isinstance(value, list | tuple) else {}
    for key, inner in items:
        flat |= _flat(inner, f"{name}.{key}" if name else key)
    return flat

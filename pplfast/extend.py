"""Own parts of a recipe by name: registered in Python, or written as "package.module:Name".

The second form needs nothing before it: the command line, each rank of a launcher, and whoever loads the trained
network later, import the module by its name. A name may come from a stranger's file, so what is imported is installed
or on PYTHONPATH, never beside the file, and what it holds is looked at before it is called.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from pplfast.errors import UserError, did_you_mean

Part = TypeVar("Part")


class Registry(Generic[Part]):
    """The parts of one kind by name.

    what: what messages call one, as in `pplfast.register_<what>`. known: those that come with pplfast. check: takes an
    own part's name and the object, and gives what is used of it. It must not call the object; it raises UserError
    where that is no such part.
    """

    def __init__(self, what: str, known: dict[str, Part], check: Callable[[str, Any], Part]) -> None:
        self.what = what
        self._known, self._own, self._check = known, dict[str, Part](), check

    @property
    def names(self) -> tuple[str, ...]:
        return (*self._known, *self._own)

    def register(self, name: str, part: Any) -> None:
        """Let recipes of this process call `part` by `name`; the same name again replaces it.

        Raises UserError for a name that comes with pplfast or holds a colon, and for an object that is no such part.
        """
        if name in self._known or not name or ":" in name:
            reason = "comes with pplfast" if name in self._known else "must be a word without ':'"
            raise UserError(f"{self.what} '{name}': the name {reason}; register it under another one")
        self._own[name] = self._check(name, part)

    def find(self, name: str) -> Part:
        """The part called `name`. Raises UserError where there is none, or where it is no such part."""
        if name in self._known:
            return self._known[name]
        if name in self._own:
            return self._own[name]
        if ":" in name:
            return self._check(name, import_object(name, self.what))
        raise UserError(
            f"{self.what} '{name}': no such {self.what}; choose one of: {', '.join(self.names)}"
            f'{did_you_mean(name, self.names)} (an own one: "package.module:Name", or registered before by '
            f"pplfast.register_{self.what})"
        )


def import_object(name: str, what: str) -> Any:
    """The object that "package.module:Name" means. Imports the module; calls nothing.

    Raises UserError where the module cannot be imported, has no such name, or is Python's own.
    """
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise UserError(f"{what} '{name}': must be \"package.module:Name\"")
    if module.partition(".")[0] in sys.stdlib_module_names:  # some of these act as they are imported
        raise UserError(f"{what} '{name}': {module} is a module of Python itself and holds no {what}")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"{what} '{name}': {module} cannot be imported: {error}; install what it needs") from None
        raise UserError(
            f"{what} '{name}': no module {error.name}; install its package, or add the folder that holds it to "
            "PYTHONPATH"
        ) from None
    except AttributeError:
        raise UserError(f"{what} '{name}': {module} has no {attribute}; check the name behind the colon") from None
    except Exception as error:
        raise UserError(f"{what} '{name}': {module} cannot be imported: {error!r}; mend it") from error


def refuse_modules_within(folder: Path, *names: str) -> None:
    """Raises UserError where one of these names means a module that lies in `folder`. Imports nothing.

    A model's folder is data that may come from anybody. Where it, or a folder above it, is on Python's path, its
    modules could be imported: any folder is a package, so `runs.stranger.module` finds what lies in runs/stranger.
    """
    for module in (name.partition(":")[0] for name in names if ":" in name):
        if any(_lies_in(place, folder.resolve()) for place in _places(module)):
            raise UserError(
                f"{folder}: names the module {module}, which lies in this folder; nothing is run from the folder of a "
                "model: move the module to where Python finds it, on PYTHONPATH"
            )


def _places(module: str) -> list[Path]:
    """The files and folders that importing "package.module" would come through."""
    package, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except ValueError:  # a module without a file, like __main__
        spec = None
    if spec is None:
        return []
    roots = [Path(root) for root in spec.submodule_search_locations or ()]
    below = [root.joinpath(*inner[:depth]) for root in roots for depth in range(len(inner) + 1)]
    return [*([Path(spec.origin)] if spec.origin else []), *below]


def _lies_in(place: Path, folder: Path) -> bool:
    """Whether it is the folder or within it; a link counts both as where it lies and as where it leads."""
    return any(folder in (path, *path.parents) for path in (place.resolve(), place.parent.resolve()))

"""Names in labels that are none of the classes: fine for a part of them, but not where the class list is the wrong
one."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Set
from pathlib import Path

from pplfast.arrays import UInt8Array
from pplfast.data.labels import counted
from pplfast.data.problems import NOTE, WARNING, Problem
from pplfast.errors import UserError
from pplfast.reading import quoted, shortened

MOST_NAMES = 20  # that a message lists


class OtherNames:
    """where: the file or folder of the labels. things: what has a name there."""

    def __init__(self, where: Path, classes: Collection[str], things: str = "objects"):
        self.where, self.classes, self.things = where, classes, things
        self._images: Counter[str] = Counter()  # with each name

    def add(self, names: Set[str]) -> None:
        """Those of one image."""
        self._images.update(sorted(names))

    def remarks(self, labels: UInt8Array) -> list[Problem]:
        """labels: (N, C), of all images. UserError where they have none of the classes, but others."""
        if self._images and not labels.any():
            raise UserError(
                f"{self.where}: none of the {len(labels)} images has any of the classes {', '.join(self.classes)}; "
                f"give --classes the names used there: {', '.join(map(shortened, sorted(self._images)[:10]))}"
            )
        spellings = {_spelling(name): name for name in self.classes}
        alike = {name: spellings[_spelling(name)] for name in self._images if _spelling(name) in spellings}
        found = [
            Problem(
                "",
                self.where,
                "other-spelling",
                WARNING,
                f"{self.things} named {quoted(name)} in {counted(self._images[name])} do not count: the class is "
                f"{quoted(known)}; write both the same way",
            )
            for name, known in alike.items()
        ]
        names = [f"{quoted(name)} ({counted(n)})" for name, n in self._images.most_common() if name not in alike]
        if names:
            more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
            text = f"{self.things} of no class: {', '.join(names[:MOST_NAMES])}{more}"
            found.append(Problem("", self.where, "other-names", NOTE, text))
        return found


def _spelling(name: str) -> str:
    """The same text for names that differ by case, spaces, '_', '-' or the coding of their accents alone."""
    return re.sub(r"[\s_-]", "", unicodedata.normalize("NFKC", name).casefold())

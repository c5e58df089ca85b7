"""Links from a page to files, relative to it: they hold when both are moved, copied or served together."""

import os
from pathlib import Path
from urllib.parse import quote

from pplfast.report.markup import Markup, element


def link(text: str, file: Path, page: Path) -> Markup:
    """page: the file that the link stands in. Both must have names that the system can hold."""
    return element("a", text, href=address(file, page))


def address(file: Path, page: Path) -> str:
    """The way from the folder of `page`, with all but letters, digits and -._~/ written as %XX: no name becomes a
    scheme or a host."""
    way = os.path.relpath(file, os.path.dirname(os.path.abspath(page)))
    return quote(os.fsencode(way), safe="/")

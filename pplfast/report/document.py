"""The HTML document around what a page shows."""

from collections.abc import Iterable
from importlib import resources

from pplfast.report.markup import Markup, element, join, stylesheet

# The browser, too, runs no script and fetches nothing but pictures beside the page: "file:" is where a browser takes no
# two files for one origin.
POLICY = "default-src 'none'; img-src {}; style-src 'unsafe-inline'"
INSIDE, BESIDE = "data:", "'self' file:"


def document(title: str, sections: Iterable[Markup], *styles: str, pictures: bool = False) -> str:
    """The whole file. Links apart it refers to nothing outside itself, or with `pictures` to those in a folder beside
    it. styles: sheets of this folder, on top of style.css."""
    folder = resources.files("pplfast.report")
    sheets = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("style.css", *styles))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY.format(BESIDE if pictures else INSIDE)),
        element("title", title),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        *map(stylesheet, sheets),
    )
    body = element("body", element("main", "\n", join(sections, "\n"), "\n"))
    return f"<!doctype html>\n{element('html', head, Markup(chr(10)), body, lang='en')}\n"

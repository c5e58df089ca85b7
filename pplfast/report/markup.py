"""HTML by construction: markup is made by `element` alone, and all other text is escaped on its way into one.

A value of a file that the page forgets to treat is text, so it is shown and never parsed.
"""

import html
import re
import unicodedata
from collections.abc import Iterable

_VOID = frozenset({"meta", "img", "br"})
_VOID_SVG = frozenset({"line", "circle", "polyline"})  # inside SVG only the slash ends an element
# All that a page of this program has: what could run or fetch something is not among it.
_ELEMENTS = {
    "html", "head", "meta", "title", "body", "main", "header", "h1", "h2", "h3", "p", "b", "i", "br", "div", "span",
    "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "pre", "details", "summary", "section", "article",
    "figure", "figcaption", "img", "a", "button", "nav", "svg", "text", "line", "circle", "polyline",
}  # fmt: skip
_ATTRIBUTES = {
    "class", "style", "lang", "charset", "http-equiv", "name", "content", "tabindex", "role", "aria-label",
    "src", "alt", "width", "height", "loading", "viewBox", "text-anchor", "transform", "points", "x", "y", "x1",
    "x2", "y1", "y2", "cx", "cy", "r", "href", "id", "popover", "popovertarget", "popovertargetaction",
}  # fmt: skip
_CLASSES = re.compile(r"[a-z0-9 -]*")
_STYLE = re.compile(r"(background:rgb\(\d{1,3},\d{1,3},\d{1,3}\)|width:\d{1,3}\.\d%)")
_PICTURE = re.compile(
    r"data:image/jpeg;base64,[A-Za-z0-9+/]+={0,2}|pictures/\d{6,}-(labels|photo)\.jpg"
    r"|[A-Za-z0-9_.~%-][A-Za-z0-9_.~%/-]*\.overlay\.jpg"
)
_RELATIVE = re.compile(r"[A-Za-z0-9_.~%-][A-Za-z0-9_.~%/-]*")  # neither a scheme nor a host nor a root
_NAME = re.compile(r"[a-z]+-\d+")
_CHECKED = {
    "class": _CLASSES,
    "style": _STYLE,
    "src": _PICTURE,
    "href": _RELATIVE,
    "id": _NAME,
    "popovertarget": _NAME,
    "http-equiv": re.compile("Content-Security-Policy"),
}

# Turn the reading direction of what follows: a file's name could show as another one.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Markup:
    """HTML that the program wrote. `str()` gives it, and a str is text again: inside an element it is escaped."""

    __slots__ = ("_html",)

    def __init__(self, html: str) -> None:
        self._html = html

    def __str__(self) -> str:
        return self._html

    def __bool__(self) -> bool:
        return bool(self._html)


Child = Markup | str

NOTHING = Markup("")


def element(name: str, /, *children: Child, css: str = "", **attributes: str) -> Markup:
    """An element; css: its class. Names of attributes are written with "_" for "-".

    ValueError for what a page of this program never holds: other elements and attributes, addresses other than of
    pictures in or beside the page and of files by a relative way, styles other than a colour and a width.
    """
    if name not in _ELEMENTS:
        raise ValueError(f"no element of the report: {name!r}")
    pairs = {"class": css} if css else {}
    pairs |= {key.replace("_", "-"): value for key, value in attributes.items()}
    opened = name + "".join(f' {key}="{_attribute(key, value)}"' for key, value in pairs.items())
    if name in _VOID:
        return Markup(f"<{opened}>")
    if name in _VOID_SVG:
        return Markup(f"<{opened}/>")
    return Markup(f"<{opened}>{join(children)}</{name}>")


def stylesheet(css: str) -> Markup:
    """The program's own style sheet."""
    if "<" in css:
        raise ValueError("the style sheet holds '<'")
    return Markup(f"<style>\n{css}</style>")


def join(children: Iterable[Child], between: str = "") -> Markup:
    """Elements and text in a row; text is escaped."""
    return Markup(between.join(str(child) if isinstance(child, Markup) else escape(child) for child in children))


def escape(text: str) -> str:
    """`text` for an element or a quoted attribute. What would not be seen, or turns other text, is written out."""
    return html.escape("".join(map(_visible, text)) if not text.isprintable() else text)


def _visible(character: str) -> str:
    if character in "\n\t":
        return character
    hidden = unicodedata.category(character) in ("Cc", "Cs") or character in _BIDI
    return f"\\u{ord(character):04x}" if hidden else character


def _attribute(name: str, value: str) -> str:
    if name not in _ATTRIBUTES:
        raise ValueError(f"no attribute of the report: {name!r}")
    allowed = _CHECKED.get(name)
    if allowed is not None and not allowed.fullmatch(value):
        raise ValueError(f"{name}={value[:60]!r}: not what the report writes there")
    return escape(value)

"""MkDocs hook: fills in what the code says of itself: commands, public names, settings of a recipe."""

import argparse
import dataclasses
import html
import inspect
import re
from collections.abc import Iterator, Set
from typing import Any

import pplfast
from pplfast import recipe
from pplfast.cli import build_parser

COMMANDS_MARK, API_MARK, SETTINGS_MARK = "<!-- commands -->", "<!-- api -->", "<!-- settings -->"
DATA_GROUP, DATA_HEADING = "data set", "The options of a data set"
THIS_MACHINE = re.compile(r"(, )?here \d+")  # defaults that are counted where the page is built
COMMENT = re.compile(r"^    (\w+): .*?  # (.+)$", re.M)  # of a field of a dataclass
LENGTHS = ("stages.N.epochs", "stages.N.steps")  # one of them has to be given
SPECIAL = re.compile(r"([\\`*_\[\]#|])")


def on_page_markdown(markdown: str, **_: Any) -> str:
    if COMMANDS_MARK in markdown:
        markdown = markdown.replace(COMMANDS_MARK, command_reference())
    if API_MARK in markdown:
        markdown = markdown.replace(API_MARK, api_reference())
    if SETTINGS_MARK in markdown:
        markdown = markdown.replace(SETTINGS_MARK, settings_reference())
    return markdown


def settings_reference() -> str:
    """A table of every setting of a recipe: its default, and the comment beside it."""
    rows = _settings(recipe.Recipe(), "")
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows])


def _settings(part: Any, path: str) -> Iterator[str]:
    kinds = [kind for kind in reversed(type(part).mro()) if dataclasses.is_dataclass(kind)]
    comments = dict(COMMENT.findall("".join(inspect.getsource(kind) for kind in kinds)))
    for field in dataclasses.fields(part):
        value, name = getattr(part, field.name), f"{path}{field.name}"
        if field.name == "stages":
            yield from _settings(recipe.StageConfig(epochs=1), "stages.N.")
        elif dataclasses.is_dataclass(value) and path and field.name in recipe.Recipe.__dataclass_fields__:
            other = {key: new for key, new in vars(value).items() if new != getattr(type(value)(), key)}
            changed = ", ".join(f"{key} {_shown(new)}" for key, new in other.items())
            yield f"| `{name}` | {_escape(changed)} | as `{field.name}` |"
        elif dataclasses.is_dataclass(value):
            yield from _settings(value, f"{name}.")
        else:
            default = "" if name in LENGTHS else _escape(_shown(value))
            yield f"| `{name}` | {default} | {_text(comments.get(field.name, ''), part)} |"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def api_reference() -> str:
    """A directive of mkdocstrings for each public name, functions and classes apart."""
    names = [name for name in pplfast.__all__ if not name.startswith("__")]
    classes = [name for name in names if isinstance(getattr(pplfast, name), type)]
    parts = (("Functions", [name for name in names if name not in classes]), ("Classes", classes))
    return "\n\n".join(f"## {title}\n\n" + "\n\n".join(f"::: pplfast.{name}" for name in part) for title, part in parts)


def command_reference() -> str:
    parsers = list(leaves(build_parser()))
    shared = next(group for parser in parsers for group in parser._action_groups if group.title == DATA_GROUP)
    lines = [f"## {DATA_HEADING}", "", "The commands that read images share them.", "", *_options(shared)]
    known = {flag for action in shared._group_actions for flag in action.option_strings}
    for parser in parsers:
        lines += ["", f"## {parser.prog}", "", *_command(parser, known)]
    return "\n".join(lines)


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser, or those of its actions where it has some (`pplfast data check`)."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield parser
        return
    for action in nested:
        helps = {choice.dest: choice.help for choice in action._choices_actions}
        for name, child in action.choices.items():
            child.description = child.description or f"{helps.get(name) or name}."
            yield from leaves(child)


def _command(parser: argparse.ArgumentParser, shared: Set[str]) -> Iterator[str]:
    yield _text(parser.description or "", parser)
    if any(group.title == DATA_GROUP for group in parser._action_groups):
        anchor = DATA_HEADING.lower().replace(" ", "-")
        yield from ("", f"Takes [{DATA_HEADING.lower()}](#{anchor}).")
    for group in parser._action_groups:
        yield from _options(group, shared if group.title == DATA_GROUP else frozenset())


def _options(group: argparse._ArgumentGroup, left_out: Set[str] = frozenset()) -> Iterator[str]:
    actions = [
        action
        for action in group._group_actions
        if not isinstance(action, argparse._HelpAction)
        and action.help != argparse.SUPPRESS
        and not left_out.intersection(action.option_strings)
    ]
    if actions and group.title not in ("positional arguments", "options"):
        yield from ("", f"*{_escape(group.title or '')}*")
    for action in actions:
        yield from ("", f"`{_signature(action)}`{' (required)' if action.required else ''}")
        yield f":   {_text(action.help or '', group, vars(action))}"


def _signature(action: argparse.Action) -> str:
    if action.metavar is None and action.choices:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    else:
        value = str(action.metavar or action.dest.upper())
    if not action.option_strings:
        return value
    names = ", ".join(action.option_strings)
    if action.nargs == 0:
        return names
    return f"{names} [{value}]" if action.nargs == "?" else f"{names} {value}"


def _text(text: str, owner: Any, values: dict[str, Any] | None = None) -> str:
    """A help text as one paragraph of Markdown, with argparse's %(default)s put in; code stays code."""
    text = " ".join(text.split())
    if values is not None:
        text = text % (values | {"prog": getattr(owner, "prog", "")})
    text = THIS_MACHINE.sub("", text)
    parts = text.split("`")
    return "`".join(part if index % 2 else _escape(part) for index, part in enumerate(parts))


def _escape(text: str) -> str:
    return SPECIAL.sub(r"\\\1", html.escape(text, quote=False))

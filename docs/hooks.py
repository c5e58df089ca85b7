"""MkDocs hook: fills the two reference pages from the argument parsers and from `pplfast.__all__`."""

import argparse
import html
import importlib
import re
from collections.abc import Iterator
from typing import Any

import pplfast
import pplfast.cli

COMMANDS_MARK, API_MARK = "<!-- commands -->", "<!-- api -->"
DATA_GROUP, DATA_HEADING = "data set", "The options of a data set"
THIS_MACHINE = re.compile(r"(, )?here \d+")  # defaults that are counted where the page is built
SPECIAL = re.compile(r"([\\`*_\[\]#|])")


def on_page_markdown(markdown: str, **_: Any) -> str:
    if COMMANDS_MARK in markdown:
        markdown = markdown.replace(COMMANDS_MARK, command_reference())
    if API_MARK in markdown:
        markdown = markdown.replace(API_MARK, api_reference())
    return markdown


def api_reference() -> str:
    """A directive of mkdocstrings for each public name, functions and classes apart."""
    names = [name for name in pplfast.__all__ if not name.startswith("__")]
    classes = [name for name in names if isinstance(getattr(pplfast, name), type)]
    parts = (("Functions", [name for name in names if name not in classes]), ("Classes", classes))
    return "\n\n".join(f"## {title}\n\n" + "\n\n".join(f"::: pplfast.{name}" for name in part) for title, part in parts)


def command_reference() -> str:
    parsers = list(leaves(whole_parser()))
    shared = next(group for parser in parsers for group in parser._action_groups if group.title == DATA_GROUP)
    lines = [f"## {DATA_HEADING}", "", "The commands that read images share them.", "", *_options(shared)]
    for parser in parsers:
        lines += ["", f"## {parser.prog}", "", *_command(parser)]
    return "\n".join(lines)


def whole_parser() -> argparse.ArgumentParser:
    if hasattr(pplfast.cli, "build_parser"):
        return pplfast.cli.build_parser()
    parser = argparse.ArgumentParser(prog="pplfast")
    commands = parser.add_subparsers()
    for name, text in pplfast.cli.COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        importlib.import_module(f"pplfast.cli.{name}").configure(command)
    return parser


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


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield _text(parser.description or "", parser)
    for group in parser._action_groups:
        if group.title == DATA_GROUP:
            anchor = DATA_HEADING.lower().replace(" ", "-")
            yield from ("", f"Takes [{DATA_HEADING.lower()}](#{anchor}).")
    for group in parser._action_groups:
        if group.title != DATA_GROUP:
            yield from _options(group)


def _options(group: argparse._ArgumentGroup) -> Iterator[str]:
    actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
    if actions and group.title not in ("positional arguments", "options", DATA_GROUP):
        yield from ("", f"*{_escape(group.title or '')}*")
    for action in actions:
        yield from ("", f"`{_signature(action)}`{' (required)' if action.required else ''}", "")
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

"""The parser of every command: options in the same groups everywhere, short usage, examples, and near misses named."""

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from pplfast.cli.examples import EXAMPLES
from pplfast.errors import did_you_mean

# An option stands under one title in every command, in this order.
GROUPS = {
    "data set": ("--train-list", "--val-list", "--test-list"),  # and those of data/options.py
    "input": ("--model", "--cams", "--pngs"),
    "recipe": ("--recipe", "--set", "--variant", "--variants", "--seed", "--seeds", "--vary", "--point"),
    "comparison": ("--against", "--choose-on"),
    "maps and labels": (
        *("--scales", "--no-flip", "--batch", "--precision", "--background", "--value", "--crf"),
        *("--unsure", "--radius", "--beta", "--steps"),
    ),
    "output": (
        *("--out", "--overlay", "--dry-run", "--resume", "--verify", "--fail-on-bad"),
        *("--npy", "--json", "--images"),
    ),
    "checkpoints and log": (
        *(
            "--checkpoint-seconds",
            "--checkpoint-every",
            "--keep",
            "--log-every",
            "--logger",
            "--profile",
            "--prometheus",
        ),
    ),
    "machine": (
        *("--at-once", "--jobs", "--threads", "--memory", "--cache-mb", "--compile", "--no-compile", "--deepspeed"),
        *("--hostfile", "--ranks", "--restarts", "--master-addr", "--lost-after", "--stuck-after"),
    ),
}
_GROUP_OF = {option: title for title, options in GROUPS.items() for option in options}
NEGATIVE = re.compile(r"-\.?\d")  # a value, also where more than one number follows, as of --range -1000,400
WIDEST = 120  # columns; longer lines are hard to read


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, max_help_position=26, width=_width())


def _width() -> int:
    return min(shutil.get_terminal_size().columns, WIDEST) - 2


class CommandParser(argparse.ArgumentParser):
    """argparse's parser, but for what it prints."""

    def __init__(self, **settings: Any) -> None:
        self._titled: dict[str, argparse._ArgumentGroup] = {}
        super().__init__(**{"formatter_class": _formatter, **settings})
        self._positionals.title = "arguments"
        self._negative_number_matcher = NEGATIVE
        self.set_defaults(prog=self.prog)  # of the innermost command: errors that come later name it too

    def add_argument(self, *flags: Any, **settings: Any) -> argparse.Action:
        """Into the option's group of GROUPS; what has none there stays where argparse puts it."""
        title = _GROUP_OF.get(flags[0]) if flags else None
        return self.group(title).add_argument(*flags, **settings) if title else super().add_argument(*flags, **settings)

    def add_argument_group(self, *title: Any, **settings: Any) -> argparse._ArgumentGroup:
        group = super().add_argument_group(*title, **settings)
        return self._titled.setdefault(group.title or "", group)

    def add_subparsers(self, **settings: Any) -> "argparse._SubParsersAction[CommandParser]":  # type: ignore[override]
        return super().add_subparsers(**{"title": "commands", **settings})

    def group(self, title: str) -> argparse._ArgumentGroup:
        """The group of that title, made on first use."""
        return self._titled[title] if title in self._titled else self.add_argument_group(title)

    def option(self, flag: str) -> argparse.Action:
        """An option that another function has added, for a command that needs it with another help or default."""
        return self._option_string_actions[flag]

    def every_command(self) -> "dict[str, CommandParser]":
        """This parser and those of its commands and their actions, by what is typed: "pplfast data check"."""
        commands = self._commands()
        inner = commands.choices.values() if commands is not None else ()
        return {self.prog: self} | {prog: parser for one in inner for prog, parser in one.every_command().items()}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Unlike argparse's, an error for what it does not know: here it is found by the parser of the command, which
        knows its own usage and its near options."""
        words = list(sys.argv[1:] if args is None else args)
        self._refuse_unknown_options(words)
        commands = self._commands()
        if commands is not None and not words:
            print(self.format_help(), file=sys.stderr)
            self.exit(2, f"{self.prog}: error: name a command; they are listed above\n")
        namespace, left = super().parse_known_args(words, namespace)
        if left:
            lists = "; several values of one option are written cat,dog" if any(w[:2] == "--" for w in words) else ""
            self.error(f"{' '.join(left)}: not understood{lists}")
        return namespace, left

    def _refuse_unknown_options(self, words: list[str]) -> None:
        own = list(words)
        if self._commands() is not None or any(action.nargs == argparse.REMAINDER for action in self._actions):
            first = next((place for place, word in enumerate(words) if not word.startswith("-")), len(words))
            own = words[:first]  # what follows belongs to another command
        own = own[: own.index("--")] if "--" in own else own
        known = list(self._option_string_actions)
        for word in own:
            name = word.partition("=")[0]
            if name.startswith("--") and not any(option.startswith(name) for option in known):
                self.error(f"unknown option {name}{did_you_mean(name, known)}")

    def _commands(self) -> "argparse._SubParsersAction[Any] | None":
        return next((action for action in self._actions if isinstance(action, argparse._SubParsersAction)), None)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        if isinstance(action, argparse._SubParsersAction):
            self.error(f"unknown command '{value}'{did_you_mean(value, choices)}; choose from {', '.join(choices)}")
        near = did_you_mean(str(value), choices)
        self.error(f"{action.option_strings[0]} {value}: choose from {', '.join(choices)}{near}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n{self.format_usage()}")

    def format_usage(self) -> str:
        """What must be given, on one line where that fits, and where the rest is."""
        usage = _join(["usage:", self.prog, *self._needed()], _width(), "       ")
        return f"{usage}\nAll options and examples: {self.prog} --help\n"

    def format_help(self) -> str:
        """argparse's, with the short usage, the groups in their order, and examples at the end."""
        order = [self._positionals.title, *GROUPS]  # then groups of one command; --help and the like come last
        self._action_groups.sort(
            key=lambda group: (
                group is self._optionals,
                order.index(group.title) if group.title in order else len(order),
            )
        )
        self.usage = _join([self.prog, *self._needed()], _width() - len("usage: "), "       ").replace("%", "%%")
        return super().format_help() + examples_text(self.prog, _width())

    def _needed(self) -> list[str]:
        exclusive = {action: group for group in self._mutually_exclusive_groups for action in group._group_actions}
        parts: list[str] = []
        for action in sorted(self._actions, key=lambda action: not action.option_strings):  # positionals come last
            group = exclusive.get(action)
            if group is not None and group.required:
                if action is group._group_actions[0]:
                    parts.append("(" + " | ".join(_shown(other) for other in group._group_actions) + ")")
            elif action.required:
                parts.append(_shown(action))
            elif not action.option_strings and action.help is not argparse.SUPPRESS:
                parts.append(f"[{_shown(action)}]")
        optional = any(
            action.option_strings and not action.required and exclusive.get(action) is None
            for action in self._actions
            if not isinstance(action, argparse._HelpAction | argparse._VersionAction)
        )
        place = next((place for place, part in enumerate(parts) if not part.startswith(("-", "("))), len(parts))
        return [*parts[:place], *(["[options]"] if optional else []), *parts[place:]]


def _shown(action: argparse.Action) -> str:
    name = action.metavar or action.dest.upper()
    return f"{action.option_strings[0]} {name}" if action.option_strings else str(name)


def examples_text(prog: str, width: int) -> str:
    """The examples of a command as its help shows them: a line of words, then a command that can be copied."""
    lines: list[str] = []
    for text, command in EXAMPLES.get(prog.removeprefix("pplfast").strip(), ()):
        lines += ["", f"  {text}:", _join(["   ", *re.split(" (?=--)", command)], width, " " * 8, " \\")]
    return "\n".join(["", "examples:", *lines[1:], ""]) if lines else ""


def _join(parts: Sequence[str], width: int, indent: str, ending: str = "") -> str:
    """The parts in lines of at most `width` characters, broken between parts only; `ending` before each break."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 1 + len(part) + len(ending) > width:
            lines[-1] += ending
            lines.append(indent + part)
        else:
            lines[-1] += f" {part}"
    return "\n".join(lines)

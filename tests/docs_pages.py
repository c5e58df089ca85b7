"""Reads the documentation: its pages, their code blocks, and the commands in them."""

import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOP = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "launch/README.md")
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)(?P<attributes>[^`]*)$")
SHELLS = ("bash", "sh", "console")
ASSIGNMENT = re.compile(r"[A-Z_]+=.*")
# The first word of what is a command in a block that names no language.
PROGRAMS = ("pplfast", "python", "make", "deepspeed", "torchrun", "sbatch", "pip", "git", "launch/", "benchmarks/")


@dataclass(frozen=True)
class Block:
    line: int
    language: str  # "" for an indented block, and for a fence without one
    text: str


@dataclass(frozen=True)
class Command:
    page: str
    line: int
    text: str  # on one line, without its comment
    variables: dict[str, str]  # set before it
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}: {self.text}"


def pages() -> list[str]:
    """Paths relative to the root: the top ones that exist, then those of docs/."""
    docs = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return [*(page for page in TOP if (ROOT / page).is_file()), *docs]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str) -> Iterator[Block]:
    """Fenced blocks, and blocks indented by four spaces after an empty line outside lists."""
    lines, number = text.splitlines(), 0
    in_list = False
    while number < len(lines):
        line = lines[number]
        fence = FENCE.match(line)
        if fence:
            end = next((n for n in range(number + 1, len(lines)) if lines[n].strip() == "```"), len(lines))
            yield Block(number + 1, fence["language"], textwrap.dedent("\n".join(lines[number + 1 : end])))
            number = end + 1
        elif line.startswith("    ") and not in_list and (number == 0 or not lines[number - 1].strip()):
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield Block(number + 1, "", textwrap.dedent("\n".join(lines[number:end])).rstrip())
            number = end
        else:
            if line.strip() and not line.startswith(" "):
                in_list = bool(re.match(r"([-*+]|\d+\.|!!!) ", line))
            number += 1


def is_python(block: Block) -> bool:
    return block.language == "python" or (not block.language and re.match(r"(import|from) \w", block.text) is not None)


def recipes(text: str) -> Iterator[str]:
    """The blocks of a page that are whole recipes."""
    for block in blocks(text):
        try:
            if block.language in ("", "toml") and "stages" in tomllib.loads(block.text):
                yield block.text
        except tomllib.TOMLDecodeError:
            continue


def commands(page: str) -> Iterator[Command]:
    for block in blocks(text_of(page)):
        yield from commands_of(page, block)


def commands_of(page: str, block: Block) -> Iterator[Command]:
    if (block.language and block.language not in SHELLS) or is_python(block):
        return
    number = block.line
    for text in block.text.replace("\\\n", "\0").splitlines():
        number += 1
        words = shlex.split(text.replace("\0", " ").removeprefix("$ "), comments=True) if _is_shell(block, text) else []
        if words:
            first = next((index for index, word in enumerate(words) if not ASSIGNMENT.fullmatch(word)), len(words))
            if first < len(words):
                words[first] = words[first].removeprefix(".venv/bin/")
            variables = dict(word.split("=", 1) for word in words[:first])
            yield Command(page, number, shlex.join(words), variables, tuple(words[first:]))
        number += text.count("\0")


def _is_shell(block: Block, text: str) -> bool:
    if block.language in SHELLS:
        return True
    words = [word for word in text.removeprefix("$ ").split() if not ASSIGNMENT.fullmatch(word)]
    first = words[0].removeprefix(".venv/bin/") if words else ""
    return any(first == program or (program.endswith("/") and first.startswith(program)) for program in PROGRAMS)

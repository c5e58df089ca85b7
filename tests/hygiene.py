"""What no linter of one language looks at, for any text file of the tree: `python tests/hygiene.py FILE ...`.

Prints one line per finding and ends with 1 if there is any. Changes nothing.
"""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import yaml

MEGABYTES = 1
MARK = re.compile(r"^(<{7} |>{7} |={7}$)", re.MULTILINE)
TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
GENERATED = {".svg"}  # as matplotlib writes them
PARSERS = {".json": json.loads, ".toml": tomllib.loads, ".yaml": yaml.safe_load, ".yml": yaml.safe_load}
# mkdocs names Python functions by YAML tags, which a safe loader refuses.
OWN_TAGS = {"mkdocs.yml"}


def findings(path: Path) -> Iterator[str]:
    data = path.read_bytes()
    if len(data) > MEGABYTES << 20:
        yield f"larger than {MEGABYTES} MiB: results and pictures of that size do not belong into the history"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return  # pictures and other binary files
    if "\r" in text:
        yield "lines end in CR LF; the tree uses LF"
    if found := MARK.search(text):
        yield f"line {_line(text, found.start())}: mark of a merge conflict"
    if path.suffix not in GENERATED:
        if found := TRAILING.search(text):
            yield f"line {_line(text, found.start())}: spaces at the end"
        if text and (not text.endswith("\n") or text.endswith("\n\n")):
            yield "the file does not end in exactly one newline"
    parse = PARSERS.get(path.suffix)
    if parse is not None and path.name not in OWN_TAGS:
        try:
            parse(text)
        except (ValueError, yaml.YAMLError) as error:
            yield f"cannot be parsed: {' '.join(str(error).split())}"


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def main(paths: list[str]) -> int:
    lines = [f"{path}: {finding}" for path in paths for finding in findings(Path(path))]
    print(*lines, sep="\n", end="\n" if lines else "")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Damage to values within JSON and TOML that stay JSON and TOML."""

import copy
import json
import random
import re
from collections.abc import Sequence
from typing import Any

from fuzz.mutate import DIGITS, LARGEST, NESTED, WORDS

RAW = "@@raw:"  # a string that is written without its quotes: JSON that Python's writer would not make
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 255, 256, 2**31, 2**63, -(2**63) - 1, 10**40, 0.5, -0.0, float("nan"), float("inf"),
    1e308,
    [], {}, [[]], [None], [0], {"a": 0}, {"": None}, [1, [2, [3]]], ["a"] * 50, "x",
    f"{RAW}1e999", f"{RAW}{DIGITS}", f"{RAW}-{DIGITS}", f"{RAW}{NESTED}", f"{RAW}" + "[" * 900 + "]" * 900,
    f"{RAW}" + '{"a":' * 900 + "1" + "}" * 900, f"{RAW}" + "[" * 30000 + "]" * 30000,
    f'{RAW}"\\ud800"', f'{RAW}"\\u0000"', *WORDS,
)  # fmt: skip


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of each node below the root."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [found for key, value in items for found in ((*path, key), *places(value, (*path, key)))]


def at(tree: Any, path: Sequence[Any]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def odd(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(ODD))


def damage(rng: random.Random, tree: Any) -> Any:
    """A tree of dicts, lists and plain values (changed in place where it can be) with one thing wrong."""
    paths = places(tree)
    if not paths or rng.random() < 0.04:
        return odd(rng)
    *parents, key = rng.choice(paths)
    parent = at(tree, parents)
    action = rng.random()
    if action < 0.55:
        parent[key] = odd(rng)
    elif action < 0.7:
        del parent[key]
    elif action < 0.8:
        parent[key] = copy.deepcopy(at(tree, rng.choice(paths))) if rng.random() < 0.9 else [parent[key]]
    elif action < 0.9 and isinstance(parent, dict):
        parent[rng.choice(("", "extra", "__class__", *WORDS[:40]))] = rng.choice((copy.deepcopy(parent[key]), odd(rng)))
    elif isinstance(parent, dict):
        parent[rng.choice(("extra", str(key).upper(), f"{key}\0", f"{key} "))] = parent.pop(key)
    else:
        parent[key:key] = [copy.deepcopy(parent[key]) for _ in range(rng.choice((1, 2, 500)))]
    return tree


def write(tree: Any) -> str:
    written = json.dumps(tree)
    return re.sub(f'"{RAW}((?:[^"\\\\]|\\\\.)*)"', lambda found: json.loads(f'"{found[1]}"'), written)


def damaged_json(rng: random.Random, content: str) -> str:
    try:
        tree = json.loads(content)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            tree = damage(rng, tree)
        return write(tree)
    except (ValueError, RecursionError):  # damaged before: no JSON any more, or too deep for this
        return content


def json_tree(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    return damaged_json(rng, rng.choice(seeds).decode()).encode("utf-8", "surrogatepass")[:LARGEST]


def json_lines(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One object per line: some damaged, repeated, left out, cut off or moved."""
    lines = rng.choice(seeds).decode().splitlines()
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(lines)) if lines else 0
        action = rng.random()
        if action < 0.7 and lines:
            lines[place] = damaged_json(rng, lines[place])
        elif action < 0.8:
            lines[place:place] = lines[place : place + 3] * rng.choice((1, 2, 100))
        elif action < 0.9:
            lines.insert(
                place, rng.choice(("", "null", "[]", "{}", '{"id": 1}', '{"id": "a"', NESTED, DIGITS, "\0", "\ufeff{}"))
            )
        else:
            rng.shuffle(lines)
    content = "\n".join(lines) + rng.choice(("\n", "\n", "\n", "", "\r\n"))
    return content.encode("utf-8", "surrogatepass")[:LARGEST]


TOML_VALUES = (
    "0", "-1", "1", "2", "1000000000", "9223372036854775808", DIGITS, "1e308", "1e999", "-1e999", "inf", "-inf",
    "nan", "-5",
    "0.0", "1.5", "true", '""', '"x"', '"none"', '"auto"', '"os:system"', "[]", "[0]", "[1, 2]", "[2, 1]",
    "[1.0, nan]", "[-1.0]",
    "[[1]]", "{}", "{ a = 1 }", "1979-05-27T07:32:00Z", "07:32:00", '"\\u0000"', '"""\nx\n"""', NESTED,
    "[" * 900 + "]" * 900,
    "{a=" * 900 + "1" + "}" * 900, '"' + "y" * 5000 + '"', "0xffffffffffffffffffff", "1_000", "-0.0", '"-oX"',
)  # fmt: skip


def toml(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Values, keys and tables replaced, line by line."""
    lines = rng.choice(seeds).decode().splitlines()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        assigned = [number for number, line in enumerate(lines) if re.match(r"\s*[\w.]+\s*=", line)]
        place = rng.choice(assigned) if assigned else 0
        action = rng.random()
        if action < 0.65 and assigned:
            lines[place] = f"{lines[place].partition('=')[0]}= {rng.choice(TOML_VALUES)}"
        elif action < 0.75 and assigned:
            lines[place] = rng.choice(("", "a.b.c", '"\\u0000"', "a" * 5000, ".".join("a" * 3000))) + " = 1"
        elif action < 0.85:
            lines.insert(
                place, rng.choice(("[model]", "[[stages]]", "[stages]", "[a.b]", "[[a]]", "[", "=", "x", lines[place]))
            )
        elif action < 0.95 and lines:
            del lines[rng.randrange(len(lines))]
        else:
            rng.shuffle(lines)
    return "\n".join(lines).encode("utf-8", "surrogatepass")[:LARGEST]

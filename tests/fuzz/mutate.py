"""Damage to bytes and to text of no particular structure."""

import random
import re
from collections.abc import Callable, Sequence

Mutator = Callable[[random.Random, Sequence[bytes]], bytes]  # some valid contents -> a damaged one

LARGEST = 1 << 20  # bytes of an input

DIGITS = "7" * 5000
NESTED = "[" * 5000

# What people and attackers write where a number, a name or a path is expected.
WORDS = (
    "", "0", "-1", "-0.0", "1e999", "-1e999", "1e-999", "NaN", "nan", "inf", "-inf", "Infinity", "null", "None", "true",
    "18446744073709551616", "9223372036854775807", "9223372036854775808", "-9223372036854775809", "4294967296", "255",
    "256", "0x10", "1_000", "٣", "²", "\0", "\ufeff", "\u2028", "\x1b[2J", "\r", "\n", "\t", " ", "\x85", "é",
    "\U0001f600",
    "../../../etc/passwd", "/etc/passwd", "..", ".", "/", "~", "C:\\x", "-oProxyCommand=true", "$(true)", "`true`",
    ";true",
    "%s%n", "{0}", "<script>alert(1)</script>", "&lt;", "'\"", "a" * 300, "a" * 70000, DIGITS, "-" + DIGITS, NESTED,
    "{" * 5000,
    "[[" * 3000 + "]]" * 3000, "=", ",", ";", "#", "\\", "[]", "{}", '""',
)  # fmt: skip
BYTES = (
    b"\0", b"\xff", b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3", b"\xed\xa0\x80", b"\0" * 64, b"\xff" * 64,
    b"\n",
    b"\r\n", b"\r", b"\x1a", b"\x80",
)  # fmt: skip
INTEGERS = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**30, 2**31 - 1, 2**31,
    2**32 - 1,
            2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip


def position(rng: random.Random, size: int) -> int:
    """Any place, the beginning more often: headers decide more than data does."""
    return rng.randrange(min(size, 256)) if size > 256 and rng.random() < 0.5 else rng.randrange(size) if size else 0


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64)) if data else 0):
        changed[position(rng, len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: position(rng, len(data) + 1)]


def cut_out(rng: random.Random, data: bytes) -> bytes:
    start = position(rng, len(data))
    return data[:start] + data[start + rng.choice((1, 2, 4, 8, 100)) :]


def repeat(rng: random.Random, data: bytes) -> bytes:
    start = position(rng, len(data))
    piece = data[start : start + rng.choice((1, 4, 16, 256, len(data)))]
    times = rng.choice((1, 2, 3, 300)) if len(piece) < 1000 else rng.choice((1, 2, 5))
    return data[:start] + piece * times + data[start:]


def insert(rng: random.Random, data: bytes) -> bytes:
    start = position(rng, len(data) + 1)
    piece = rng.choice(BYTES) if rng.random() < 0.5 else rng.randbytes(rng.choice((1, 2, 8, 64)))
    return data[:start] + piece + data[start:]


def prepend(rng: random.Random, data: bytes) -> bytes:
    return rng.choice(BYTES) + data


def replace_integer(rng: random.Random, data: bytes) -> bytes:
    """A field of 1, 2, 4 or 8 bytes, at its own alignment more often than not."""
    width = rng.choice((1, 2, 4, 4, 8, 8))
    start = position(rng, len(data))
    if rng.random() < 0.7:
        start -= start % width
    value = (rng.choice(INTEGERS) + rng.choice((0, 0, 0, 1, -1))) % (1 << (8 * width))
    return data[:start] + value.to_bytes(width, rng.choice(("little", "big"))) + data[start + width :]


def overwrite(rng: random.Random, data: bytes) -> bytes:
    start = position(rng, len(data))
    piece = rng.choice((b"\0", b"\xff", rng.randbytes(1))) * rng.choice((1, 4, 16, 200))
    return data[:start] + piece + data[start + len(piece) :]


PLAIN = (flip_bits, flip_bits, truncate, cut_out, repeat, insert, prepend, replace_integer, replace_integer, overwrite)


def splice(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    one, two = rng.choice(seeds), rng.choice(seeds)
    return one[: position(rng, len(one) + 1)] + two[position(rng, len(two) + 1) :]


def plain(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Without any notion of what the bytes mean."""
    if rng.random() < 0.02:
        return rng.choice((b"", rng.randbytes(rng.choice((1, 100, 5000))), *BYTES))
    data = splice(rng, seeds) if len(seeds) > 1 and rng.random() < 0.1 else rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(PLAIN)(rng, data)[:LARGEST]
    return data


def text(*words: str) -> Mutator:
    """Tokens of a text replaced, repeated, left out and moved; words: those that mean something in this format."""

    def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
        tokens = re.findall(r"\w+|\s+|[^\w\s]", rng.choice(seeds).decode("utf-8", "replace"))
        for _ in range(rng.choice((1, 1, 2, 3, 6))):
            place = rng.randrange(len(tokens) + 1)
            word = rng.choice(words) if words and rng.random() < 0.4 else rng.choice(WORDS)
            action = rng.random()
            if action < 0.5 and tokens:
                tokens[place % len(tokens)] = word
            elif action < 0.7:
                tokens.insert(place, word)
            elif action < 0.8:
                del tokens[place : place + rng.choice((1, 1, 3, 10))]
            elif action < 0.9:
                tokens[place:place] = tokens[place : place + rng.choice((1, 5, 40))] * rng.choice((1, 2, 50))
            else:
                rng.shuffle(lines := "".join(tokens).splitlines(keepends=True))
                tokens = re.findall(r"\w+|\s+|[^\w\s]", "".join(lines))
        return "".join(tokens).encode("utf-8", "surrogatepass")[:LARGEST]

    return mutate


def mixed(*mutators: Mutator) -> Mutator:
    """Mostly what knows the structure, now and then what does not."""

    def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
        return (plain if rng.random() < 0.3 else rng.choice(mutators))(rng, seeds)

    return mutate

"""Random damage to valid inputs."""

import random
import re
from collections.abc import Callable, Sequence
from typing import Final

_CHARACTERS: Final = b'"\\{}[],:0-9eE+.\0\n\r\t \x7f\x80\xc3\xe9\xed\xff#=<>;&'
_TOKENS: Final = (
    *(b"null", b"true", b"false", b"NaN", b"-Infinity", b"Infinity", b"undefined", b"{}", b"[]", b'""', b'"', b'\\"'),
    *(
        b"0",
        b"-1",
        b"7",
        b"1e999",
        b"-0.0",
        b"1e-400",
        b"7" * 30,
        b"7" * 5000,
        b"9223372036854775808",
        b"1550664230000",
    ),
    *(
        rb"\ud83d",
        rb"\ude00",
        rb"\ud83d\ude00",
        rb"\u0000",
        rb"\u12",
        rb"\x",
        b"\xef\xbb\xbf",
        b"\xed\xa0\xbd",
        b"\xff",
    ),
    *("😀".encode(), "é".encode(), "\u2028".encode(), b"\r\n", b"\0", b"[" * 300, b"{" * 300, b"]" * 3, b"}" * 3),
    *(b'},{"id":', b',{"id":"8","state":', b'"items":[', b'],"l":[', b'"}]}', b"'''", b'"""', b"%(x)s", b"${HOME}"),
    *(
        b"2019-02-20t12:03:50z",
        b"9999-12-31T23:59:59-14:00",
        b"0001-01-01",
        b"x" * 5000,
        b"q=0",
        b";q=",
        b"*/*",
        b"gzip",
    ),
)
_VALUE: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null')

Mutate = Callable[[random.Random, bytearray], None]


def _overwrite(dice: random.Random, data: bytearray) -> None:
    data[dice.randrange(len(data))] = dice.choice(_CHARACTERS)


def _flip(dice: random.Random, data: bytearray) -> None:
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def _insert(dice: random.Random, data: bytearray) -> None:
    at = dice.randrange(len(data) + 1)
    data[at:at] = dice.choice(_TOKENS)


def _delete(dice: random.Random, data: bytearray) -> None:
    at = dice.randrange(len(data))
    del data[at : at + dice.choice((1, 1, 1, 2, 5, 30))]


def _repeat(dice: random.Random, data: bytearray) -> None:
    at = dice.randrange(len(data))
    piece = data[at : at + dice.randrange(1, 40)]
    data[at:at] = piece * dice.choice((1, 2, 50))


def _move(dice: random.Random, data: bytearray) -> None:
    at, to = dice.randrange(len(data)), dice.randrange(len(data))
    piece = data[at : at + dice.randrange(1, 40)]
    data[to:to] = piece


def _cut(dice: random.Random, data: bytearray) -> None:
    del data[dice.randrange(len(data)) :]


def _replace_value(dice: random.Random, data: bytearray) -> None:
    values = [found.span() for found in _VALUE.finditer(data)]
    if values:
        start, end = dice.choice(values)
        data[start:end] = dice.choice(_TOKENS)


_MUTATIONS: Final[Sequence[Mutate]] = (
    *(_overwrite, _overwrite, _flip, _insert, _insert, _delete, _repeat, _move, _cut),
    *(_replace_value, _replace_value, _replace_value),
)


def mutated(dice: random.Random, seed: bytes) -> bytes:
    """Return *seed* with one to four random changes."""
    data = bytearray(seed)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 4))):
        if data:
            dice.choice(_MUTATIONS)(dice, data)
    return bytes(data)

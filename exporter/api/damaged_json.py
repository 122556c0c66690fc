"""Read JSON that a strict decoder refuses: repair what can be repaired, and find the elements of a damaged list. Pure.

Everything here takes time in proportion to its input, and little memory in addition to its input and result.
"""

import codecs
import re
from collections.abc import Iterator
from typing import Final

_CONTROLS_TO_SPACES: Final = bytes.maketrans(bytes(range(0x20)), b" " * 0x20)
_UNKNOWN: Final = "\ufffd"
_UNPRINTABLE: Final = "\x7f"
"""Stands for bytes that are not UTF-8: one byte, which is valid in no id, label or user name."""
_STEP: Final = 2**16
_DEEPEST: Final = 200
"""Most brackets within each other. The platform's own records have five."""


def _any_number(*patterns: bytes) -> bytes:
    """A pattern for any number of these in a row, without going back.

    The last of them is one that never matches: before Python 3.11.5, what the last one had read before it failed was
    taken as matched, too (https://github.com/python/cpython/issues/100061).
    """
    return rb"(?:" + rb"|".join((*patterns, rb"(?!)")) + rb")*+"


_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_LONE_SURROGATE: Final = re.compile(
    rb"(" + _any_number(rb"[^\\]++", _HIGH + _LOW, rb"\\(?!u[dD][89a-fA-F]).") + rb")\\u[dD][89a-fA-F][0-9a-fA-F]{2}",
    re.DOTALL,
)
"""Half of a character without the other half, and all before it. A truncated message may end in one."""
_NOT_A_NUMBER: Final = re.compile(rb"(.*?)(?<=[\s:,\[])(?:NaN|[+-]?Infinity)(?=[\s,\]}])", re.DOTALL)
"""What some encoders write for numbers that JSON does not have, and all before it."""

_STRING: Final = rb'"' + _any_number(rb'[^"\\]++', rb"\\.") + rb'"'
_NO_BRACKETS: Final = _any_number(rb'[^"\[\]{}]++', _STRING)
_FLAT: Final = rb"\[" + _NO_BRACKETS + rb"\]|\{" + _NO_BRACKETS + rb"\}"
_SIMPLE: Final = re.compile(_FLAT + rb"|" + _STRING + rb'|[^"\s,\[\]{}]++', re.DOTALL)
"""A value without brackets within brackets."""
_TO_BRACKET: Final = re.compile(_any_number(rb'[^"\[\]{}]++', _STRING, _FLAT), re.DOTALL)
_BLANK: Final = re.compile(rb"\s*+")
_CLOSED_BY: Final = {ord("["): ord("]"), ord("{"): ord("}")}


def repaired(body: bytes) -> bytearray:
    """Return *body* in UTF-8 without what decoders refuse though its meaning is clear.

    These are a byte order mark, control characters in strings, bytes that are not UTF-8, lone surrogates, and numbers
    that are not finite, which become null.
    """
    text = bytearray()
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    for start in range(0, len(body), _STEP):
        piece = decoder.decode(body[start : start + _STEP].translate(_CONTROLS_TO_SPACES))
        text += piece.replace(_UNKNOWN, _UNPRINTABLE).encode()
    text += _UNPRINTABLE.encode() * len(decoder.decode(b"", final=True))
    if b"\\u" in text:
        text = _replaced(text, _LONE_SURROGATE, rb"\ufffd")
    if b"NaN" in text or b"Infinity" in text:
        text = _replaced(text, _NOT_A_NUMBER, b"null")
    return text


def _replaced(text: bytearray, pattern: re.Pattern[bytes], replacement: bytes) -> bytearray:
    result = bytearray()
    end = 0
    while found := pattern.match(text, end):
        result += memoryview(text)[end : found.end(1)]
        result += replacement
        end = found.end()
    result += memoryview(text)[end:]
    return result


def skip_blank(text: bytes | bytearray | memoryview, position: int) -> int:
    """Return the position of the first character from *position* that is not blank."""
    found = _BLANK.match(text, position)
    return found.end() if found else position


def end_of_value(text: bytes | bytearray | memoryview, start: int) -> int | None:
    """Return where the value at *start* ends; None if it has no end, or its brackets do not match."""
    if simple := _SIMPLE.match(text, start):
        return simple.end()
    expected = bytearray()
    position = start
    while position < len(text):
        character = text[position]
        if character in _CLOSED_BY:
            expected.append(_CLOSED_BY[character])
        elif not expected or character != expected.pop():
            return None
        position += 1
        if not expected:
            return position
        if len(expected) > _DEEPEST:
            return None
        between = _TO_BRACKET.match(text, position)
        position = between.end() if between else position
    return None


def elements(text: bytes | bytearray | memoryview, start: int = 0) -> Iterator[memoryview]:
    """Yield the elements of the list at *start*; stop at its end, or where it is not JSON."""
    position = skip_blank(text, start + 1)
    while (end := end_of_value(text, position)) is not None:
        yield memoryview(text)[position:end]
        position = skip_blank(text, end)
        if text[position : position + 1] != b",":
            return
        position = skip_blank(text, position + 1)

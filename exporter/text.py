"""Numbers with their nouns, and text files that people write: with or without a byte order mark, from any system."""

import codecs
import errno
import os
import stat
from pathlib import Path
from typing import Final

_LARGEST_PEM: Final = 64 * 1024 * 1024

_OTHER_ENCODINGS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # it begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class NotText(ValueError):
    """The bytes are no text in UTF-8. The message says what they are and what to do."""


def count(number: int, noun: str) -> str:
    """A number and its noun, for example ``1 file`` or ``2,000 files``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def has_mark(raw: bytes) -> bool:
    """Whether *raw* begins with a byte order mark, as some Windows programs write it."""
    return raw.startswith((codecs.BOM_UTF8, *(mark for mark, _ in _OTHER_ENCODINGS)))


def decoded(raw: bytes) -> str:
    r"""The text in *raw*, without a byte order mark and with ``\n`` as line ends.

    Raises:
        NotText: it is not UTF-8, or contains null bytes.
    """
    for mark, name in _OTHER_ENCODINGS:
        if raw.startswith(mark):
            raise NotText(f"it is saved as {name}; save it as UTF-8")
    raw = raw.removeprefix(codecs.BOM_UTF8)
    if b"\0" in raw:
        raise NotText("it contains null bytes, as in UTF-16; save it as UTF-8")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        # Without the cause: it holds the bytes, which may be a token.
        raise NotText("it is not UTF-8; save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def open_without_waiting(path: str, flags: int) -> int:
    """Open a file, as ``open`` asks its opener to; refuse a pipe, which would block until a program writes to it.

    Raises:
        OSError: it is a pipe, or cannot be opened.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is a pipe")
    return descriptor


def marked_certificates(file: Path) -> str | None:
    """The certificates in a PEM file that begins with a byte order mark, which OpenSSL does not read; else None.

    Raises:
        NotText: it is not UTF-8.
        OSError: it cannot be read.
    """
    with file.open("rb") as opened:
        raw = opened.read(_LARGEST_PEM)
    return decoded(raw).encode("ascii", "ignore").decode() if has_mark(raw) else None  # comments may have any letters

"""Read response bodies, decompressed and limited in size."""

import io
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

import httpx

from exporter.errors import AnswerTooLarge, BadAnswer

LARGEST_ANSWER: Final = 16 * 2**20
"""Maximum size of a 200 response in bytes, decompressed. The rest is not read."""
LARGEST_ERROR: Final = 2**16
"""Maximum size of any other response in bytes. Of a larger one only the status is used."""
_OK: Final = 200
_GZIP: Final = frozenset({"gzip", "x-gzip"})
_MAGIC: Final = b"\x1f\x8b"
"""The first bytes of every gzip member."""
_OVERHEAD: Final = 2**10
_PIECE: Final = 2**12
"""Bytes to decompress at a time, which become 4 MiB at most. zlib copies what lies behind the end of a member."""


def read_body(response: httpx.Response, largest: int = LARGEST_ANSWER) -> bytes:
    """Read the body: complete for status 200, else empty if it is too large or damaged.

    Args:
        response: not read yet.
        largest: maximum size of a 200 response in bytes, decompressed.

    Raises:
        BadAnswer: the body of a 200 response is too large, or has an unsupported encoding.
    """
    if response.status_code == _OK:
        return _bounded_body(response, largest)
    try:
        return _bounded_body(response, LARGEST_ERROR)
    except (BadAnswer, httpx.TransportError, zlib.error):
        return b""  # The status is enough, and must not get lost: a 429 must not be retried.


def _bounded_body(response: httpx.Response, limit: int) -> bytes:
    sent = response.iter_raw()
    body = io.BytesIO()
    for chunk in _inflated(_bounded(sent, limit)) if _is_gzip(response) else sent:
        if body.tell() + len(chunk) > limit:
            raise _too_large(limit)
        body.write(chunk)
    return body.getvalue()


def _is_gzip(response: httpx.Response) -> bool:
    header = response.headers.get("content-encoding", "")
    encodings = [each for each in header.lower().replace(",", " ").split() if each != "identity"]
    if encodings and (len(encodings) > 1 or encodings[0] not in _GZIP):
        raise BadAnswer(f"the platform's response has an unsupported encoding: {header.strip().lower()[:40]!r}")
    return bool(encodings)


def _bounded(sent: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Yield what was *sent*, up to what *limit* bytes need that cannot be compressed: others may become nothing."""
    size = 0
    for raw in sent:
        size += len(raw)
        if size > limit + limit // 64 + _OVERHEAD:
            raise _too_large(limit)
        yield raw


def _inflated(sent: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress gzip of one or several members, as RFC 1952 permits; what follows them is not read."""
    inflate = zlib.decompressobj(wbits=31)
    left, empty = b"", True
    for raw in sent:
        left += raw
        empty = empty and not raw
        while left:
            if inflate.eof:
                if left == _MAGIC[:1]:
                    break  # The next byte shows whether this is a member.
                if left[:2] != _MAGIC:
                    return
                inflate = zlib.decompressobj(wbits=31)
            piece = left[:_PIECE]
            yield inflate.decompress(piece)
            left = left[len(piece) - len(inflate.unused_data) :]
    if not inflate.eof and not empty:  # A server may compress nothing to nothing.
        raise zlib.error("compressed data ends early")


def _too_large(limit: int) -> AnswerTooLarge:
    return AnswerTooLarge(f"the platform's response is larger than {limit} bytes")

"""Read response bodies, decompressed and limited in size."""

import zlib
from typing import Final

import httpx

from exporter.errors import AnswerTooLarge, BadAnswer

LARGEST_ANSWER: Final = 16 * 2**20
"""Maximum size of a 200 response in bytes, decompressed. The rest is not read."""
LARGEST_ERROR: Final = 2**16
"""Maximum size of any other response in bytes. Of a larger one only the status is used."""
_OK: Final = 200


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
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"gzip", "identity"}:
        raise BadAnswer(f"the platform's response has an unsupported encoding: {encoding[:40]!r}")
    inflate = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    chunks: list[bytes] = []
    size = 0
    for raw in response.iter_raw():
        chunk = inflate.decompress(raw, limit - size + 1) if inflate else raw
        size += len(chunk)
        if size > limit:
            raise AnswerTooLarge(f"the platform's response is larger than {limit} bytes")
        chunks.append(chunk)
    if inflate and not inflate.eof:
        raise zlib.error("compressed data ends early")
    return b"".join(chunks)

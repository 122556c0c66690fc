"""Responses that would need much memory if they were read without limits."""

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from exporter.api.bodies import LARGEST_ANSWER
from exporter.api.failures import TransportFailed
from exporter.errors import AnswerTooLarge, BadAnswer, JobRequestFailed, NotThePlatform
from tests.raw_server import reply

_MEGABYTE: Final = 2**20

_GOOD: Final = json.dumps(
    {"id": "7", "type": "COPY", "state": "RUNNING", "total_files": 3, "completed_files": 1, "failed_files": 0}
).encode()
_FAILED: Final = b'{"id":"7","type":"COPY","state":"FINISHED","total_files":3,"completed_files":1,"failed_files":2'
_GZIP: Final = {"content-encoding": "gzip"}


def _filled(before: bytes, part: bytes, after: bytes, size: int = LARGEST_ANSWER) -> bytes:
    """As many of *part* between *before* and *after* as make *size* bytes."""
    return before + part * ((size - len(before) - len(after)) // len(part)) + after


def _items(part: bytes, after: bytes = b"", size: int = LARGEST_ANSWER) -> bytes:
    """A page of nothing but *part*, which ends in a comma, then a good record."""
    return _filled(b'{"items":[', part, _GOOD + b"]" + after + b"}", size)


def _within(field: bytes, part: bytes, end: bytes, begin: bytes) -> bytes:
    """A page of one record, one field of which is nearly all of it."""
    return _filled(b'{"items":[{"id":"7","state":"RUNNING",' + field + b":" + begin, part, end + b"}]}")


def _result(part: bytes) -> bytes:
    """A page of one job, whose result is nearly all of it."""
    return _filled(b'{"items":[' + _FAILED + b',"result":[', part, b"{}]}]}")


def _codes() -> bytes:
    errors = b",".join(b'{"error":{"code":%d}}' % code for code in range(10_000, 130_000))
    jobs = b",".join(_FAILED.replace(b'"7"', b'"%d"' % job) + b',"result":[' + errors + b"]}" for job in range(5))
    return b'{"items":[' + jobs + b"]}"


def _deflated(data: bytes, times: int) -> bytes:
    """Compress *data*, repeated."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(data) for _ in range(times)), packer.flush()])


def _one_byte_chunks() -> bytes:
    body = _items(b"{},", size=2**18)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def _json(body: bytes) -> bytes:
    return reply(body=body)


def _packed(body: bytes, encoding: str = "gzip") -> bytes:
    return reply(body=body, headers={"content-encoding": encoding})


@dataclass(frozen=True, slots=True)
class Hostile:
    """A response.

    Attributes:
        answer: builds it, with its head.
        outcome: what reading it is to give, as a regular expression.
        ask: the request that it responds to.
    """

    answer: Callable[[], bytes]
    outcome: str
    ask: str = "page"


def _damaged(body: Callable[[], bytes], outcome: str = "100 items, 0 jobs", ask: str = "page") -> Hostile:
    return Hostile(lambda: _json(body()), outcome, ask)


_HUNDRED: Final = "100 items, 0 jobs"
_ONE: Final = "1 items, 1 jobs"
_BAD: Final = BadAnswer.__name__
_FOREIGN: Final = NotThePlatform.__name__
_BROKEN: Final = TransportFailed.__name__
_BIG: Final = f"{AnswerTooLarge.__name__}|1 items, 0 jobs"
_EMPTY: Final = gzip.compress(b"")

HOSTILE: Final[dict[str, Hostile]] = {
    "items: empty objects": _damaged(lambda: _items(b"{},")),
    "items: numbers": _damaged(lambda: _items(b"1,")),
    "items: null": _damaged(lambda: _items(b"null,")),
    "items: empty lists": _damaged(lambda: _items(b"[],")),
    "items: empty strings": _damaged(lambda: _items(b'"",')),
    "items: empty objects, the last one damaged": _damaged(lambda: _items(b"{},", b",")),
    "items: small records": _damaged(lambda: _items(_GOOD + b","), "100 items, 100 jobs"),
    "items: records of 160 kB": _damaged(
        lambda: _items(_GOOD[:-1] + b',"x":"' + b"x" * 160_000 + b'"},'), "100 items, 100 jobs"
    ),
    "items: many lists": _damaged(lambda: _filled(b"{", b'"items":[{},{},{},{}],', b'"items":[]}'), "0 items, 0 jobs"),
    "items: nothing but commas": _damaged(lambda: _items(b","), "2 items, 1 jobs"),
    "items: unfinished records": _damaged(lambda: _items(b'{"id":"7",'), ".*"),
    "items: unfinished strings": _damaged(lambda: _items(b'{"id":"7,{"id":[],'), ".*"),
    "links: empty objects": _damaged(lambda: _filled(b'{"items":[],"links":[', b"{},", b"{}]}"), "0 items, 0 jobs"),
    "links: next ones": _damaged(
        lambda: _filled(b'{"items":[],"links":[', b'{"rel":"next","href":"?offset=1"},', b"{}]}"), "0 items, 0 jobs"
    ),
    "links: one huge": _damaged(lambda: _filled(b'{"items":[],"links":[{"rel":"', b"next", b'"}]}'), "0 items, 0 jobs"),
    "result: empty objects": _damaged(lambda: _result(b"{},"), _ONE),
    "result: numbers": _damaged(lambda: _result(b"1,"), _ONE),
    "result: errors": _damaged(lambda: _result(b'{"error":{"code":5001}},'), _ONE),
    "result: errors with as many codes": _damaged(_codes, "5 items, 5 jobs"),
    "result: errors nested": _damaged(lambda: _result(b'{"error":{"code":[[[[]]]]}},'), _ONE),
    "result: one huge error": _damaged(lambda: _result(b'{"error":{"x":[' + b"[]," * 5_000_000 + b"[]]}},"), _ONE),
    "result: errors that are not UTF-8": _damaged(lambda: _result(b'{"error":"\xff"},'), _ONE),
    "result: of a single job": _damaged(
        lambda: _filled(_FAILED + b',"result":[', b'{"error":{}},', b"{}]}"), "job finished", "job"
    ),
    "escapes: lone surrogates": _damaged(lambda: _within(b'"x"', rb"\ud83d", b'"', b'"'), _ONE),
    "escapes: pairs, then a lone surrogate": _damaged(
        lambda: _within(b'"x"', rb"\ud83d\ude00", rb'\ud83d"', b'"'), _ONE
    ),
    "escapes: backslashes, then a lone surrogate": _damaged(lambda: _within(b'"x"', rb"\\", rb'\ud83d"', b'"'), _ONE),
    "escapes: of a single job": _damaged(
        lambda: _filled(_FAILED + b',"x":"', rb"\ud83d", b'"}'), "job finished", "job"
    ),
    "escapes: of a user": _damaged(lambda: _filled(b'{"username":"x","y":"', rb"\ud83d", b'"}'), "user x", "user"),
    "raw control characters": _damaged(lambda: _within(b'"x"', b"\n\0", b'"', b'"'), _ONE),
    "not UTF-8": _damaged(lambda: _within(b'"x"', b"\xff", b'"', b'"'), _ONE),
    "not UTF-8, as state": _damaged(lambda: _within(b'"state"', b"\xff", b'"', b'"'), _ONE),
    "not UTF-8, as state, with one of four bytes": _damaged(
        lambda: _within(b'"state"', b"\xff", '😀\n"'.encode(), b'"'), _ONE
    ),
    "not UTF-8, in a result": _damaged(lambda: _result(b'"\xff\xff\xff\xff\xff\n",'), _ONE),
    "not a number": _damaged(lambda: _within(b'"x"', b"NaN,", b"1]", b"["), _ONE),
    "byte order marks": _damaged(lambda: _filled(b"", b"\xef\xbb\xbf", b'{"items":[]}'), _BAD),
    "nesting: lists without end": _damaged(lambda: b'{"items":[{"id":' + b"[" * (LARGEST_ANSWER - 20), _BAD),
    "nesting: objects without end": _damaged(lambda: b'{"items":[{"id":' + b'{"a":' * 3_000_000, _BAD),
    "nesting: lists, closed": _damaged(
        lambda: b'{"items":[{"id":' + b"[" * 8_000_000 + b"]" * 8_000_000 + b"}]}", "1 items, 0 jobs"
    ),
    "nesting: lists of lists": _damaged(lambda: _within(b'"x"', b"[[]],", b"1]", b"["), _ONE),
    "nesting: lists of lists as id": _damaged(lambda: _within(b'"id"', b"[[]],", b"1]", b"["), "1 items, 0 jobs"),
    "nesting: an object of many keys as id": _damaged(
        lambda: _filled(b'{"items":[{"state":"x","id":{', b'"a":{},', b'"b":1}}]}'), "1 items, 0 jobs"
    ),
    "numbers: a list as id": _damaged(lambda: _within(b'"id"', b"1,", b"1]", b"["), "1 items, 0 jobs"),
    "numbers: one of all digits": _damaged(lambda: _within(b'"total_files"', b"7", b"", b""), "1 items, 0 jobs"),
    "numbers: floats": _damaged(lambda: _within(b'"x"', b"1.5e300,", b"1]", b"["), _ONE),
    "strings: a huge id": _damaged(lambda: _within(b'"id"', b"7", b'"', b'"'), "1 items, 0 jobs"),
    "strings: a huge state of four bytes each": _damaged(
        lambda: _within(b'"state"', b"x" * 4, '😀"'.encode(), b'"'), "1 items, 1 jobs"
    ),
    "strings: a huge href of four bytes each, in place of a type": _damaged(
        lambda: _within(b'"href"', b"/", '😀//"'.encode(), b'"'), "1 items, 1 jobs"
    ),
    "strings: a huge time": _damaged(lambda: _within(b'"started_on"', b" ", '😀\n "'.encode(), b'"'), _ONE),
    "strings: a huge count": _damaged(
        lambda: _within(b'"total_files"', b" ", '1😀\n "'.encode(), b'"'), "1 items, 0 jobs"
    ),
    "strings: a huge user name": _damaged(lambda: _filled(b'{"username":"', b"x", '😀"}'.encode()), _BAD, "user"),
    "duplicate keys: strings": _damaged(
        lambda: _filled(b'{"items":[{', b'"id":"77777777777777777777","state":"x",', b'"type":"x"}]}'), _ONE
    ),
    "duplicate keys: lists": _damaged(
        lambda: _filled(b'{"items":[{"id":"7","state":"x",', b'"result":[{},{},{}],', b'"type":"x"}]}'), _ONE
    ),
    "keys: as many": _damaged(
        lambda: b'{"items":[{"id":"7","state":"x"%s}]}' % b"".join(b',"%x":1' % key for key in range(1_500_000)), _ONE
    ),
    "one huge page of blanks": _damaged(lambda: _filled(b'{"items":[', b" ", b"]}"), "0 items, 0 jobs"),
    "HTML": _damaged(lambda: _filled(b"<html>", b"<p>", b"</html>"), _FOREIGN),
    "gzip: of 16 MiB": Hostile(lambda: _packed(gzip.compress(_items(b"{},"), 1)), _HUNDRED),
    "gzip: a bomb": Hostile(lambda: _packed(_deflated(bytes(_MEGABYTE), 1024)), _BIG),
    "gzip: a bomb in an error": Hostile(lambda: reply(500, _deflated(bytes(_MEGABYTE), 1024), _GZIP), _BROKEN),
    "gzip: a bomb for a single job": Hostile(
        lambda: _packed(_deflated(bytes(_MEGABYTE), 1024)), JobRequestFailed.__name__, "job"
    ),
    "gzip: two members": Hostile(
        lambda: _packed(_deflated(b" " * 8 * _MEGABYTE, 1) + gzip.compress(_items(b"{},", size=7 * _MEGABYTE))),
        _HUNDRED,
    ),
    "gzip: many members": Hostile(
        lambda: _packed(gzip.compress(b" ") * 200_000 + gzip.compress(_items(b"{},", size=_MEGABYTE))), _HUNDRED
    ),
    "gzip: empty members without end": Hostile(lambda: _packed(_EMPTY * 2_000_000), _BIG),
    "gzip: garbage behind": Hostile(
        lambda: _packed(gzip.compress(b'{"items":[]}') + b"x" * 64 * _MEGABYTE), "0 items, 0 jobs"
    ),
    "gzip: zeros behind": Hostile(
        lambda: _packed(gzip.compress(b'{"items":[]}') + bytes(64 * _MEGABYTE)), "0 items, 0 jobs"
    ),
    "gzip: cut": Hostile(lambda: _packed(gzip.compress(_items(b"{},"), 1)[:-9]), _BROKEN),
    "gzip: not what it says": Hostile(lambda: _packed(_items(b"{},")), _BROKEN),
    "gzip: in gzip": Hostile(lambda: _packed(gzip.compress(_deflated(bytes(_MEGABYTE), 1024)), "gzip, gzip"), _BAD),
    "gzip: in gzip, said once": Hostile(lambda: _packed(gzip.compress(_deflated(bytes(_MEGABYTE), 1024))), _FOREIGN),
    "encoding: deflate": Hostile(lambda: _packed(zlib.compress(bytes(_MEGABYTE) * 64), "deflate"), _BAD),
    "encoding: unknown": Hostile(lambda: _packed(bytes(64 * _MEGABYTE), "snappy"), _BAD),
    "length: too large": Hostile(lambda: _json(b" " * 64 * _MEGABYTE), _BIG),
    "length: unknown": Hostile(lambda: b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 64 * _MEGABYTE, _BIG),
    "length: chunks of one byte": Hostile(_one_byte_chunks, _HUNDRED),
    "length: a chunk's extension without end": Hostile(
        lambda: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"x" * 64 * _MEGABYTE, _BROKEN
    ),
    "length: more behind the response": Hostile(
        lambda: _json(b'{"items":[]}') + b"x" * 64 * _MEGABYTE, "0 items, 0 jobs"
    ),
    "head: a header without end": Hostile(lambda: b"HTTP/1.1 200 OK\r\nx: " + b"x" * 64 * _MEGABYTE, _BROKEN),
    "head: headers without end": Hostile(lambda: b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 10_000_000, _BROKEN),
}

"""Export one ledger as text, and read it back.

An exported ledger is text, one JSON value per line, so that it can be piped into another pod and be inspected. The
first line identifies the format and names the columns. The rows follow. The last line has the number of rows and the
checksum of all lines above it. Numbers are restored exactly, to the last bit.
"""

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import BinaryIO, Final

import msgspec

from exporter import __version__
from exporter.storage.reader import LedgerSummary, StateReader
from exporter.storage.rows import insert_rows
from exporter.storage.schema import LEDGER, SCHEMA_VERSION, Row, tables_in_memory

_FORMAT: Final = "sbg-exporter ledger"
_FORMAT_VERSION: Final = 1
_LONGEST_LINE: Final = 2**20
_LARGEST_LEDGER: Final = 2**29
"""Bytes of a ledger in memory: two million jobs."""


class InvalidExport(Exception):
    """The text is not an exported ledger, or is damaged; the message says why."""


class _FirstLine(msgspec.Struct):
    """The fields of the first line that importing needs."""

    format: str
    version: int
    layout: int
    columns: dict[str, list[str]]


_ROW: Final = msgspec.json.Decoder(list[str | int | float | None])


class _LastLine(msgspec.Struct):
    rows: dict[str, int]
    sha256: str


def timestamp(seconds: float) -> str:
    """Unix *seconds* as an ISO 8601 time in UTC."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


def export_lines(ledger: LedgerSummary, state: StateReader) -> Iterator[str]:
    """The lines of an exported ledger."""
    digest, rows = hashlib.sha256(), Counter[str]()
    first = {
        "format": _FORMAT,
        "version": _FORMAT_VERSION,
        "layout": SCHEMA_VERSION,
        "exporter": __version__,
        "exported_at": timestamp(datetime.now(UTC).timestamp()),
        "names": ledger.names,
        "endpoint": ledger.account.endpoint,
        "username": ledger.account.username,
        "division": ledger.account.division,
        "columns": LEDGER,
    }
    line = f"{json.dumps(first)}\n"
    digest.update(line.encode())
    yield line
    for table, row in state.rows(ledger.account.number):
        line = f"{json.dumps([table, *row])}\n"
        digest.update(line.encode())
        rows[table] += 1
        yield line
    yield f"{json.dumps({'rows': rows, 'sha256': digest.hexdigest()})}\n"


@contextmanager
def read_export(file: BinaryIO) -> Iterator[StateReader]:
    """The exported ledger, in memory, as account number 1.

    Raises:
        InvalidExport: *file* is not an exported ledger, or is damaged or larger than any real one.
    """
    with tables_in_memory(_LARGEST_LEDGER) as memory:
        try:
            insert_rows(memory, 1, _rows_in(_lines_of(file)))
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
                raise InvalidExport(f"it takes more than {_LARGEST_LEDGER // 2**20} MiB") from error
            raise InvalidExport(f"its rows are not a ledger: {error}") from error
        yield StateReader(memory)


def _lines_of(file: BinaryIO) -> Iterator[bytes]:
    for line in iter(partial(file.readline, _LONGEST_LINE + 1), b""):
        if len(line) > _LONGEST_LINE:
            raise InvalidExport("it is damaged: a line is longer than any row")
        yield line


def _rows_in(lines: Iterator[bytes]) -> Iterator[tuple[str, Row]]:
    """The rows of an exported ledger; whether all are there is known only after the last."""
    first = next(lines, b"")
    _check_first(first)
    digest, rows = hashlib.sha256(first), Counter[str]()
    for line in lines:
        if line.startswith(b"{"):
            if next(lines, None) is not None:
                raise InvalidExport("it continues after its last line")
            _check_last(line, _LastLine(dict(rows), digest.hexdigest()))
            return
        digest.update(line)
        table, row = _parse_row(line)
        rows[table] += 1
        yield table, row
    raise InvalidExport("it is truncated")


def _parse_row(line: bytes) -> tuple[str, Row]:
    try:
        table, *row = _ROW.decode(line)
        fits = len(row) == len(LEDGER[str(table)])
    except (msgspec.DecodeError, UnicodeError, ValueError, KeyError):
        fits = False
    if not fits:
        raise InvalidExport("it is damaged: a line is not a row of a ledger")
    return str(table), tuple(row)


def _check_first(line: bytes) -> None:
    try:
        first = msgspec.json.decode(line, type=_FirstLine)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        first = _FirstLine("", 0, 0, {})
    if first.format != _FORMAT:
        raise InvalidExport("it was not written by sbg-exporter state export; pass a file that was")
    if first.version > _FORMAT_VERSION or first.layout > SCHEMA_VERSION:
        raise InvalidExport("it was exported by a newer version of sbg-exporter; import it with that version")
    if {table: tuple(columns) for table, columns in first.columns.items()} != LEDGER:
        raise InvalidExport("its columns differ from those of this version")


def _check_last(line: bytes, expected: _LastLine) -> None:
    try:
        last = msgspec.json.decode(line, type=_LastLine)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        last = None
    if last != expected:
        raise InvalidExport("it is damaged: its number of rows or its checksum is wrong")

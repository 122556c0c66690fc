"""Are the values of a state file such as the exporter writes them?

SQLite accepts any value in any column, and a file may have been edited, or restored in part. A value that nothing else
expects would otherwise show up much later, as a metrics page that cannot be rendered. Job records, of which there may
be hundreds of thousands, are tested by SQLite itself in one pass; the few other rows are decoded.
"""

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from exporter.api.models import OUTCOMES
from exporter.counting import values as counting
from exporter.counting.labels import decode_error_counts, encode_error_counts
from exporter.storage.schema import LEDGER, Row
from exporter.text import count

T = TypeVar("T")

_TABLE: Final = re.compile("[a-z_]+")
_MOST_FILES: Final = 2**40
"""Sums over millions of jobs still fit into SQLite's 64 bits."""
_LARGEST_COUNTER: Final = 2**62
_LONGEST_ID: Final = 4096
_LONGEST_TEXT: Final = 2**20
_LARGEST_NUMBER: Final = 1e300
"""Sums of such numbers are finite."""
_FIRST_TIME: Final = -62_135_596_800
_LAST_TIME: Final = 253_402_300_799
"""Unix seconds of the years 1 to 9999: what a date can show."""


class _Domain(NamedTuple):
    """The values that a column may have: as a condition of SQL with ``{0}`` for the column, and in words."""

    condition: str
    words: str


_COUNT: Final = _Domain(f"typeof({{0}}) = 'integer' AND {{0}} BETWEEN 0 AND {_MOST_FILES}", "a number of 0 or more")
_COUNTER: Final = _Domain(f"typeof({{0}}) = 'integer' AND {{0}} BETWEEN 0 AND {_LARGEST_COUNTER}", _COUNT.words)
_FLAG: Final = _Domain("typeof({0}) = 'integer' AND {0} IN (0, 1)", "0 or 1")
_TIME: Final = _Domain(
    f"typeof({{0}}) = 'real' AND {{0}} BETWEEN {_FIRST_TIME} AND {_LAST_TIME}", "a time in Unix seconds"
)
_LENGTH: Final = _Domain(f"typeof({{0}}) = 'real' AND {{0}} BETWEEN 0 AND {_LAST_TIME}", "a number of seconds")
_SUM: Final = _Domain(f"typeof({{0}}) = 'real' AND {{0}} BETWEEN 0 AND {_LARGEST_NUMBER}", _LENGTH.words)
_TEXT: Final = _Domain(
    f"typeof({{0}}) = 'text' AND length(CAST({{0}} AS BLOB)) <= {_LONGEST_TEXT}",
    f"text of at most {_LONGEST_TEXT} bytes",
)
# The two lengths differ if the text contains a zero byte, where the pattern ends.
_NO_ZERO: Final = f"{_TEXT.condition} AND length(CAST({{0}} AS BLOB)) = length({{0}})"
_ID: Final = _Domain(
    f"{_NO_ZERO} AND length({{0}}) BETWEEN 1 AND {_LONGEST_ID} AND {{0}} NOT GLOB '*[^!-~]*'", "a job's id"
)
_LABEL: Final = _Domain(
    f"{_NO_ZERO} AND length({{0}}) BETWEEN 1 AND 32 AND {{0}} NOT GLOB '*[^a-z0-9_]*'", "a label in lower case"
)
_OUTCOME: Final = _Domain(
    f"typeof({{0}}) = 'text' AND {{0}} IN ({', '.join(repr(str(each)) for each in ('', *OUTCOMES))})",
    f"{', '.join(OUTCOMES)} or empty",
)
_ERROR_COUNTS: Final = _Domain(
    f"({{0}} = '' OR {_NO_ZERO} AND {{0}} NOT GLOB '*[^a-z0-9_: ]*')", "numbers of errors by code, such as 5001:3"
)
_JSON: Final = _Domain(
    f"typeof({{0}}) = 'text' AND length(CAST({{0}} AS BLOB)) <= {_LONGEST_TEXT}",
    f"JSON of at most {_LONGEST_TEXT} bytes",
)

_BY_TYPE: Final = {"INTEGER": _COUNT, "REAL": _TIME, "TEXT": _TEXT}
_BY_TYPE_ELSEWHERE: Final = {
    "INTEGER": _Domain("typeof({0}) = 'integer'", "a whole number"),
    "REAL": _Domain(f"typeof({{0}}) = 'real' AND abs({{0}}) <= {_LARGEST_NUMBER}", "a number of seconds"),
    "TEXT": _TEXT,
}
"""In tables that belong to no ledger, such as the allowances, only what cannot be computed with is refused."""
_DOMAINS: Final[Mapping[str, Mapping[str, _Domain]]] = {
    "account": {"ever_listed": _FLAG, "listing_clock": _LENGTH, "labels": _JSON, "failure_counted_at": _JSON},
    "job": {
        "id": _ID,
        "operation": _LABEL,
        "state": _LABEL,
        "seen_submitted": _FLAG,
        "outcome": _OUTCOME,
        "history": _FLAG,
        "queue_counted": _FLAG,
        "duration_counted": _FLAG,
        "errors_counted": _FLAG,
        "unlisted_at": _LENGTH,
        "error_counts": _ERROR_COUNTS,
    },
    "counter": {"labels": _JSON, "value": _COUNTER, "exemplar": _JSON},
    "histogram": {"labels": _JSON, "bounds": _JSON, "counts": _JSON, "sum": _SUM, "exemplars": _JSON},
}
"""Columns whose values are not just any count, time or short text, as their type says."""


def invalid_values(db: sqlite3.Connection) -> Iterator[str]:
    """One line per column with values that the exporter does not write, and per table with rows of no account.

    Raises:
        sqlite3.Error: the database is damaged, or a table is missing.
    """
    orphans = Counter(table for table, *_ in db.execute("PRAGMA foreign_key_check"))
    for table, number in orphans.items():
        yield f"{table}: {number} rows belong to a missing account"
    is_plain = True
    for table in (*LEDGER, *_other_tables(db)):
        for line in _outside_domains(db, table):
            is_plain = False
            yield line
    if is_plain:  # else decoding would stop at the same values
        yield from _undecodable(db)


def _other_tables(db: sqlite3.Connection) -> list[str]:
    names = [str(name) for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return [name for name in names if name not in LEDGER and _TABLE.fullmatch(name) and not name.startswith("sqlite_")]


def _outside_domains(db: sqlite3.Connection, table: str) -> Iterator[str]:
    domains = {
        name: (domain, needed)
        for name, kind, needed in _columns(db, table)
        if (domain := _domain(table, name, kind)) is not None
    }
    for column in LEDGER.get(table, ()):
        if column not in domains:
            yield f"{table}.{column}: the column is missing"
            return
    tests = {
        column: (domain.condition if needed else f"({{0}} IS NULL OR {domain.condition})").format(column)
        for column, (domain, needed) in domains.items()
    }
    # Most files have no such value, so the first question is about all columns together.
    if not tests or not _count_not(db, table, " AND ".join(tests.values())):
        return
    for column, test in tests.items():
        if number := _count_not(db, table, test):
            yield _line(table, column, number, domains[column][0].words)


def _domain(table: str, column: str, kind: str) -> _Domain | None:
    by_type = _BY_TYPE if table in LEDGER else _BY_TYPE_ELSEWHERE
    return _DOMAINS.get(table, {}).get(column) or by_type.get(kind)


def _columns(db: sqlite3.Connection, table: str) -> Iterator[tuple[str, str, bool]]:
    for _, name, kind, not_null, _, key in db.execute(f"PRAGMA table_info({table})"):
        yield name, kind.upper(), bool(not_null or key)


def _count_not(db: sqlite3.Connection, table: str, test: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table} WHERE NOT ({test})").fetchone()[0])  # noqa: S608  # constants


def _line(table: str, column: str, number: int, words: str) -> str:
    return f"{table}.{column}: {count(number, 'invalid value')} (expected {words})"


# ---- what SQL cannot test ----

_Name = Annotated[str, Meta(pattern=r"^[a-z0-9_]{1,32}\Z")]
_JobId = Annotated[str, Meta(pattern=r"^[!-~]+\Z", max_length=_LONGEST_ID)]
_When = Annotated[float, Meta(ge=_FIRST_TIME, le=_LAST_TIME)]
_Value = Annotated[float, Meta(ge=0, le=_LARGEST_NUMBER)]
_Bound = Annotated[float, Meta(gt=0, le=_LARGEST_NUMBER)]
_Bucket = Annotated[int, Meta(ge=0, le=_LARGEST_COUNTER)]

_LABELS: Final = msgspec.json.Decoder(list[_Name])
_KEPT_LABELS: Final = msgspec.json.Decoder(dict[str, list[_Name]])
_TIMES: Final = msgspec.json.Decoder(dict[_Name, _When])
_ONE_EXEMPLAR: Final = msgspec.json.Decoder(tuple[_JobId, _Value, _When])
_BOUNDS: Final = msgspec.json.Decoder(list[_Bound])
_BUCKETS: Final = msgspec.json.Decoder(list[_Bucket])
_EXEMPLARS: Final = msgspec.json.Decoder(list[tuple[_JobId, _Value, _When] | None])

_COUNTER_LABELS: Final = {
    counting.JOBS_SUBMITTED: 1,
    counting.JOBS_FINISHED: 2,
    counting.FILES: 1,
    counting.FILES_COMPLETED: 1,
    counting.FILES_FAILED: 1,
    counting.FILE_ERRORS: 2,
}
_HISTOGRAM_LABELS: Final = {counting.JOB_DURATION: 2, counting.JOB_QUEUE_DURATION: 1}
"""Families and how many labels they have after ``account``."""
_LABELS_WORDS: Final = "a list of the family's labels"
_FAMILY_WORDS: Final = "the name of a metric"
_ERROR_COUNTS_TEXT: Final = re.compile(r"[a-z0-9_]{1,32}:[0-9]{1,12}(?: [a-z0-9_]{1,32}:[0-9]{1,12})*")


def _undecodable(db: sqlite3.Connection) -> Iterator[str]:
    for source, columns, check in _CHECKS:
        found = Counter[tuple[str, str]]()
        for row in db.execute(f"SELECT {', '.join(columns)} FROM {source}"):  # noqa: S608  # constants
            found.update(check(row))
        table = source.partition(" ")[0]
        for (column, words), number in found.items():
            yield _line(table, column, number, words)


def _check_account(row: Row) -> Iterator[tuple[str, str]]:
    labels, failure_counted_at = row[-2:]
    if _decoded(_KEPT_LABELS, labels) is None:
        yield "labels", "lists of labels by kind"
    if _decoded(_TIMES, failure_counted_at) is None:
        yield "failure_counted_at", "times by operation"


def _check_error_counts(row: Row) -> Iterator[tuple[str, str]]:
    (text,) = row
    if not (_ERROR_COUNTS_TEXT.fullmatch(str(text)) and encode_error_counts(decode_error_counts(str(text))) == text):
        yield "error_counts", _ERROR_COUNTS.words


def _check_counter(row: Row) -> Iterator[tuple[str, str]]:
    family, labels, exemplar = row
    yield from _check_series(_COUNTER_LABELS, family, labels)
    if exemplar is not None and _decoded(_ONE_EXEMPLAR, exemplar) is None:
        yield "exemplar", "a job's id, a value and a time"


def _check_histogram(row: Row) -> Iterator[tuple[str, str]]:
    family, labels, bounds_text, counts_text, exemplars_text = row
    yield from _check_series(_HISTOGRAM_LABELS, family, labels)
    bounds = _decoded(_BOUNDS, bounds_text)
    if bounds is None or any(one >= other for one, other in pairwise(bounds)):
        yield "bounds", "a list of increasing numbers of seconds"
        return
    counts, exemplars = _decoded(_BUCKETS, counts_text), _decoded(_EXEMPLARS, exemplars_text)
    if counts is None or len(counts) != len(bounds) + 1:
        yield "counts", "a number of 0 or more per bound, and one above them"
    if exemplars is None or len(exemplars) != len(bounds) + 1:
        yield "exemplars", "a job's id, a value and a time, or nothing, per bound, and one above them"


def _check_series(families: Mapping[str, int], family: object, labels: object) -> Iterator[tuple[str, str]]:
    if family not in families:
        yield "family", _FAMILY_WORDS
        return
    names = _decoded(_LABELS, labels)
    # Written otherwise, the same labels would be a second row of the same series.
    if names is None or len(names) != families[str(family)] or json.dumps(names) != labels:
        yield "labels", _LABELS_WORDS


def _decoded(decoder: msgspec.json.Decoder[T], text: object) -> T | None:
    try:
        return decoder.decode(str(text))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


_CHECKS: Final[Iterable[tuple[str, tuple[str, ...], Callable[[Row], Iterator[tuple[str, str]]]]]] = (
    # Reading the texts, too, fails if they are not Unicode.
    ("account", ("endpoint", "username", "division", "labels", "failure_counted_at"), _check_account),
    ("binding", ("name",), lambda _row: iter(())),
    ("job WHERE error_counts <> ''", ("error_counts",), _check_error_counts),
    ("counter", ("family", "labels", "exemplar"), _check_counter),
    ("histogram", ("family", "labels", "bounds", "counts", "exemplars"), _check_histogram),
)

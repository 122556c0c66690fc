"""From rows of the state file to values, and back."""

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from exporter.counting.values import (
    Account,
    Changes,
    CounterValue,
    Exemplar,
    HistogramValue,
    JobRecord,
    JobTotals,
    Key,
    Retry,
    WaitClock,
)
from exporter.storage.schema import CONFIGURED_TABLE, JOB_COLUMNS, LEDGER, Row, number_column

_JOB_COLUMN_NAMES: Final = ", ".join(JOB_COLUMNS)
_UPSERT_JOB: Final = f"INSERT OR REPLACE INTO job (account, {_JOB_COLUMN_NAMES}) VALUES (?{', ?' * len(JOB_COLUMNS)})"  # noqa: S608  # constants


# ---- reading ----


def read_account(db: sqlite3.Connection, number: int) -> Account:
    """The account with this *number*."""
    row = db.execute(
        "SELECT endpoint, username, division, counting_since, ever_listed, listing_clock, listed_on, labels,"
        " failure_counted_at FROM account WHERE number = ?",
        (number,),
    ).fetchone()
    endpoint, username, division, counting_since, ever_listed, listing_clock, listed_on, labels, failure_counted_at = (
        row
    )
    return Account(
        number,
        endpoint,
        username,
        division,
        counting_since,
        ever_listed=bool(ever_listed),
        listing_clock=listing_clock,
        listed_on=listed_on,
        labels={kind: tuple(values) for kind, values in dict(_loads(labels)).items()},
        failure_counted_at=_loads(failure_counted_at),
    )


def read_names(db: sqlite3.Connection) -> dict[str, tuple[str, str, str]]:
    """Name to endpoint, user and division of the ledger that has it, those that were given last at the end."""
    rows = db.execute(
        "SELECT name, endpoint, username, division FROM binding JOIN account ON account = number ORDER BY binding.rowid"
    )
    return {name: (endpoint, username, division) for name, endpoint, username, division in rows}


def read_configured(db: sqlite3.Connection) -> dict[str, float | None]:
    """The accounts that were in use last, and since when those are missing that a start did not find, Unix seconds.

    The table is missing in a file of an earlier version. Names that are not Unicode must not keep the rest from use.
    """
    if not db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'configured'").fetchone()[0]:
        return {}
    rows = db.execute("SELECT CAST(name AS BLOB), missing_since FROM configured ORDER BY rowid")
    return {name.decode(errors="replace"): since for name, since in rows}


def read_counters(db: sqlite3.Connection, number: int) -> dict[Key, CounterValue]:
    """All counters of an account."""
    return {
        (family, tuple(_loads(labels))): CounterValue(value, created, Exemplar(*_loads(exemplar)) if exemplar else None)
        for family, labels, value, created, exemplar in db.execute(
            "SELECT family, labels, value, created, exemplar FROM counter WHERE account = ?", (number,)
        )
    }


def read_histograms(db: sqlite3.Connection, number: int) -> dict[Key, HistogramValue]:
    """All histograms of an account."""
    return {
        (family, tuple(_loads(labels))): HistogramValue(
            tuple(_loads(bounds)),
            tuple(_loads(counts)),
            total,
            created,
            tuple(Exemplar(*each) if each else None for each in _loads(exemplars)),
        )
        for family, labels, bounds, counts, total, created, exemplars in db.execute(
            "SELECT family, labels, bounds, counts, sum, created, exemplars FROM histogram WHERE account = ?", (number,)
        )
    }


def read_totals(db: sqlite3.Connection, number: int) -> dict[tuple[str, str], JobTotals]:
    """Totals over the listed jobs of an account, by operation and state."""
    return {
        (operation, state): JobTotals(*totals)
        for operation, state, *totals in db.execute(
            "SELECT operation, state, count(*), sum(last_total), sum(last_completed), sum(last_failed) FROM job"
            " WHERE account = ? AND unlisted_at IS NULL GROUP BY operation, state",
            (number,),
        )
    }


def read_records(db: sqlite3.Connection, number: int, condition: str = "1", *values: object) -> Iterator[JobRecord]:
    """The job records of an account that meet an SQL *condition* with these *values*."""
    for row in db.execute(
        f"SELECT {_JOB_COLUMN_NAMES} FROM job WHERE account = ? AND ({condition})",  # noqa: S608  # constants of this package
        (number, *values),
    ):
        yield JobRecord(*row)  # SQLite's 0 and 1 serve as booleans


def read_wait_clock(db: sqlite3.Connection, number: int) -> WaitClock | None:
    """The reading of an account's wait clock that was stored last."""
    row = db.execute(
        "SELECT seconds, platform_time, local_time, listed FROM wait_clock WHERE account = ?", (number,)
    ).fetchone()
    if row is None or not all(isinstance(value, float) and math.isfinite(value) for value in row if value is not None):
        return None  # A damaged reading only begins the waits again.
    return WaitClock(*row)


def read_retries(db: sqlite3.Connection, number: int) -> dict[str, Retry]:
    """When the jobs of an account whose own endpoint failed may be requested again."""
    rows = db.execute("SELECT job, failures, at FROM retry WHERE account = ?", (number,))
    return {job_id: Retry(failures, at) for job_id, failures, at in rows}


def read_rows(db: sqlite3.Connection, number: int) -> Iterator[tuple[str, Row]]:
    """An account's whole ledger as tables and rows, the account's own row first, with the columns of ``LEDGER``."""
    for table, columns in LEDGER.items():
        key = number_column(table)
        query = f"SELECT {', '.join(columns)} FROM {table} WHERE {key} = ? ORDER BY {columns[0]}"  # noqa: S608  # constants
        for row in db.execute(query, (number,)):
            yield table, row


def _loads(text: str) -> Any:  # noqa: ANN401  # as json.loads
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("brackets are nested too deeply") from error


# ---- writing ----


def write_changes(db: sqlite3.Connection, number: int, changes: Changes) -> None:
    """Write what a reconciliation changed."""
    db.executemany(_UPSERT_JOB, ((number, *msgspec.structs.astuple(record)) for record in changes.records.values()))
    db.executemany("DELETE FROM job WHERE account = ? AND id = ?", ((number, job_id) for job_id in changes.forgotten))
    db.executemany(
        "INSERT OR REPLACE INTO counter (account, family, labels, value, created, exemplar) VALUES (?, ?, ?, ?, ?, ?)",
        _counter_rows(number, changes.counters),
    )
    db.executemany(
        "INSERT OR REPLACE INTO histogram (account, family, labels, bounds, counts, sum, created, exemplars)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        _histogram_rows(number, changes.histograms),
    )
    if changes.account is not None:
        upsert_account(db, changes.account)
    if changes.wait_clock is not None:
        db.execute("INSERT OR REPLACE INTO wait_clock VALUES (?, ?, ?, ?, ?)", (number, *changes.wait_clock))
    for job_id, retry in changes.retries.items():
        if retry is None:
            db.execute("DELETE FROM retry WHERE account = ? AND job = ?", (number, job_id))
        else:
            db.execute("INSERT OR REPLACE INTO retry VALUES (?, ?, ?, ?)", (number, job_id, *retry))


def write_configured(db: sqlite3.Connection, accounts: Mapping[str, float | None]) -> None:
    """Write which accounts are in use, and since when others are missing."""
    db.execute(CONFIGURED_TABLE)
    db.execute("DELETE FROM configured")
    db.executemany("INSERT INTO configured VALUES (?, ?)", accounts.items())


def delete_configured(db: sqlite3.Connection, names: Iterable[str]) -> None:
    """Delete accounts that are known not to be missing, but renamed or forgotten."""
    db.execute(CONFIGURED_TABLE)
    db.executemany("DELETE FROM configured WHERE name = ?", ((name,) for name in names))


def upsert_account(db: sqlite3.Connection, account: Account) -> None:
    """Insert an account, or update everything but its identity."""
    *columns, labels, failure_counted_at = msgspec.structs.astuple(account)
    db.execute(
        "INSERT INTO account (number, endpoint, username, division, counting_since, ever_listed, listing_clock,"
        " listed_on, labels, failure_counted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (number) DO UPDATE SET ever_listed = excluded.ever_listed,"
        " listing_clock = excluded.listing_clock, listed_on = excluded.listed_on, labels = excluded.labels,"
        " failure_counted_at = excluded.failure_counted_at",
        (*columns, json.dumps(labels), json.dumps(failure_counted_at)),
    )


def insert_rows(db: sqlite3.Connection, number: int, rows: Iterable[tuple[str, Row]]) -> None:
    """Insert a ledger's *rows*, as :func:`read_rows` yields them, for the account with this *number*."""
    for table, row in rows:
        columns = ", ".join((number_column(table), *LEDGER[table]))
        places = ", ".join("?" * (len(LEDGER[table]) + 1))
        db.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", (number, *row))  # noqa: S608  # constants


def delete_ledger(db: sqlite3.Connection, number: int) -> None:
    """Delete every row of an account's ledger."""
    for table in ("retry", "wait_clock", *reversed(tuple(LEDGER))):
        db.execute(f"DELETE FROM {table} WHERE {number_column(table)} = ?", (number,))  # noqa: S608  # constants


def _counter_rows(number: int, counters: Mapping[Key, CounterValue]) -> Iterator[Row]:
    for (family, labels), counter in counters.items():
        exemplar = json.dumps(counter.exemplar) if counter.exemplar else None
        yield number, family, json.dumps(labels), counter.value, counter.created, exemplar


def _histogram_rows(number: int, histograms: Mapping[Key, HistogramValue]) -> Iterator[Row]:
    for (family, labels), histogram in histograms.items():
        yield (
            number,
            family,
            json.dumps(labels),
            json.dumps(histogram.bounds),
            json.dumps(histogram.counts),
            histogram.sum,
            histogram.created,
            json.dumps(histogram.exemplars),
        )

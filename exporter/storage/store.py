"""The ledger on disk: SQLite, one writer, one transaction per poll.

Write-ahead logging with ``synchronous=FULL``: a commit that returned survives a power cut, and a backup may be taken
while the daemon runs. One daemon at a time holds the file, by ``flock`` on a file beside it; SQLite's own exclusive
mode would shut the backup out too. Others read the file as it is at one moment (:func:`open_read_only`) and leave no
trace.
"""

import fcntl
import json
import os
import socket
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from exporter.api.allowance import LONGEST_PAUSE, AllowanceKey, SavedAllowance
from exporter.clock import SYSTEM_CLOCK
from exporter.counting import values as counting
from exporter.counting.rules import initial_changes
from exporter.counting.values import (
    Account,
    Changes,
    CounterValue,
    Exemplar,
    HistogramValue,
    JobRecord,
    JobTotals,
    Key,
    Ledger,
    Rules,
)
from exporter.errors import StateError, StateWriteError

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x5342_4745
"""``SBGE``: tells a state file from other SQLite files."""
_HEADER: Final = b"SQLite format 3\0"
_HEADER_BYTES: Final = 100
_BUSY_SECONDS: Final = 1.0
"""For another process to let go of the file; a commit that fails is tried again at the next poll anyway."""
_IDS_PER_QUERY: Final = 1000
_LOOK_SECONDS: Final = 0.05
"""For somebody who only looks who holds the file, and holds it for that moment, to be done."""
_STEPS_BETWEEN_LOOKS: Final = 10_000
"""Of SQLite's machine, a millisecond or so, between two looks whether a reading is to be broken off."""
_PAGES_AT_ONCE: Final = 1000
_MOST_DAMAGE: Final = 20

_JOB_COLUMNS: Final = JobRecord.__struct_fields__
_JOB_COLUMN_NAMES: Final = ", ".join(_JOB_COLUMNS)

_ALLOWANCE: Final = """
CREATE TABLE IF NOT EXISTS allowance (
    endpoint TEXT NOT NULL,
    username TEXT NOT NULL,
    entry TEXT NOT NULL,
    rate_limit INTEGER,
    used INTEGER NOT NULL,
    slices INTEGER NOT NULL,
    window_ends REAL NOT NULL,
    paused_until REAL NOT NULL,
    PRIMARY KEY (endpoint, username, entry)
) WITHOUT ROWID;
"""
"""Requests made in the present window: not part of the ledger, so older files get it when they are opened."""

_SCHEMA: Final = f"""
CREATE TABLE account (
    number INTEGER PRIMARY KEY,
    endpoint TEXT NOT NULL,
    username TEXT NOT NULL,
    division TEXT NOT NULL,
    counting_since REAL NOT NULL,
    ever_listed INTEGER NOT NULL,
    listing_clock REAL NOT NULL,
    listed_on REAL,
    labels TEXT NOT NULL,
    failure_counted_at TEXT NOT NULL,
    UNIQUE (endpoint, username, division)
);
CREATE TABLE binding (
    name TEXT PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES account (number)
);
CREATE TABLE job (
    account INTEGER NOT NULL REFERENCES account (number),
    id TEXT NOT NULL,
    operation TEXT NOT NULL,
    state TEXT NOT NULL,
    total INTEGER NOT NULL,
    completed INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    last_total INTEGER NOT NULL,
    last_completed INTEGER NOT NULL,
    last_failed INTEGER NOT NULL,
    first_seen REAL NOT NULL,
    seen_submitted INTEGER NOT NULL,
    started_on REAL,
    finished_on REAL,
    outcome TEXT NOT NULL,
    history INTEGER NOT NULL,
    detail_requests_left INTEGER NOT NULL,
    queue_counted INTEGER NOT NULL,
    duration_counted INTEGER NOT NULL,
    errors_counted INTEGER NOT NULL,
    last_progress_at REAL NOT NULL,
    detected_at REAL,
    settling_since REAL,
    missing_since REAL,
    unlisted_at REAL,
    error_counts TEXT NOT NULL,
    PRIMARY KEY (account, id)
) WITHOUT ROWID;
CREATE INDEX job_live ON job (account) WHERE outcome = '' OR detail_requests_left > 0;
CREATE INDEX job_failed ON job (account) WHERE failed > 0;
CREATE INDEX job_unlisted ON job (account, unlisted_at) WHERE unlisted_at IS NOT NULL;
CREATE TABLE counter (
    account INTEGER NOT NULL REFERENCES account (number),
    family TEXT NOT NULL,
    labels TEXT NOT NULL,
    value INTEGER NOT NULL,
    created REAL NOT NULL,
    exemplar TEXT,
    PRIMARY KEY (account, family, labels)
) WITHOUT ROWID;
CREATE TABLE histogram (
    account INTEGER NOT NULL REFERENCES account (number),
    family TEXT NOT NULL,
    labels TEXT NOT NULL,
    bounds TEXT NOT NULL,
    counts TEXT NOT NULL,
    sum REAL NOT NULL,
    created REAL NOT NULL,
    exemplars TEXT NOT NULL,
    PRIMARY KEY (account, family, labels)
) WITHOUT ROWID;
{_ALLOWANCE}
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""

Row = tuple[object, ...]
"""One row as SQLite gives it: texts, whole numbers, numbers and None."""

LEDGER: Final[Mapping[str, tuple[str, ...]]] = {
    "account": (
        "endpoint",
        "username",
        "division",
        "counting_since",
        "ever_listed",
        "listing_clock",
        "listed_on",
        "labels",
        "failure_counted_at",
    ),
    "binding": ("name",),
    "job": _JOB_COLUMNS,
    "counter": ("family", "labels", "value", "created", "exemplar"),
    "histogram": ("family", "labels", "bounds", "counts", "sum", "created", "exemplars"),
}
"""The tables that an account's ledger lies in, and their columns other than the account's number in this file."""

_EXEMPLAR = tuple[str, float, float] | None
_WRITTEN_AS_JSON: Final[Mapping[tuple[str, str], object]] = {
    ("account", "labels"): dict[str, list[str]],
    ("account", "failure_counted_at"): dict[str, float],
    ("counter", "labels"): list[str],
    ("counter", "exemplar"): _EXEMPLAR,
    ("histogram", "labels"): list[str],
    ("histogram", "bounds"): list[float],
    ("histogram", "counts"): list[int],
    ("histogram", "exemplars"): list[_EXEMPLAR],
}

_SHOWN_AS_FAILED: Final = (
    "failed > 0 AND (outcome = '' OR max(coalesce(finished_on, last_progress_at), coalesce(detected_at, 0)) >= ?)"
)
_UPSERT_JOB: Final = f"INSERT OR REPLACE INTO job (account, {_JOB_COLUMN_NAMES}) VALUES (?{', ?' * len(_JOB_COLUMNS)})"  # noqa: S608  # constants


class Store:
    """The state file, held by this process. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        """Hold and open the state file, made with mode 0600 where there is none.

        Raises:
            StateError: another process holds it, or it cannot be read or made, or comes from a newer version;
                it is not touched then.
        """
        self.write_failures = 0
        """Transactions that failed since the start."""
        self._path = path
        self._lock = threading.RLock()
        self._lock_fd = _acquire_lock(path)
        try:
            self._db = _open(path)
            self._tracked_jobs = self._one("SELECT count(*) FROM job")
        except BaseException:
            os.close(self._lock_fd)
            raise

    def close(self) -> None:
        """Close the file and let go of it."""
        with self._lock:
            self._db.close()
            os.close(self._lock_fd)

    @property
    def tracked_jobs(self) -> int:
        """Jobs that are marked, of all accounts."""
        return self._tracked_jobs

    @property
    def bytes_total(self) -> int:
        """Bytes on disk, the log of recent writes included."""
        return sum(file.stat().st_size for file in (self._path, Path(f"{self._path}-wal")) if file.exists())

    # ---- accounts ----

    def load_by_name(self, name: str, endpoint: str, division: str, failed_since: float) -> Ledger | None:
        """The ledger that the configured *name* was last bound to, if it has that endpoint and division.

        Failed jobs that ended and were detected before *failed_since* (Unix seconds) are left on disk.
        """
        with self._lock:
            number = self._db.execute(
                "SELECT number FROM account JOIN binding ON account = number"
                " WHERE name = ? AND endpoint = ? AND division = ?",
                (name, endpoint, division),
            ).fetchone()
            return None if number is None else self._load(number[0], failed_since)

    def load(self, name: str, endpoint: str, username: str, division: str, failed_since: float) -> Ledger | None:
        """The ledger of an identity, now bound to *name*; None when it has none yet.

        Raises:
            StateWriteError: the binding could not be written.
        """
        with self._lock:
            number = self._db.execute(
                "SELECT number FROM account WHERE endpoint = ? AND username = ? AND division = ?",
                (endpoint, username, division),
            ).fetchone()
            if number is None:
                return None
            if self._one("SELECT count(*) FROM binding WHERE name = ? AND account = ?", name, number[0]) == 0:
                with self._transaction():
                    self._bind(name, number[0])
            return self._load(number[0], failed_since)

    def create(
        self,
        name: str,
        endpoint: str,
        username: str,
        division: str,
        *,
        counting_since: float,
        local_time: float,
        rules: Rules,
    ) -> Ledger:
        """Create a ledger that counts from the platform's time *counting_since*, and bind *name* to it.

        Where another entry of the configuration has begun it in this moment, that one.

        Raises:
            StateWriteError: it could not be written.
        """
        with self._lock:
            with self._transaction():
                existing = self._db.execute(
                    "SELECT number FROM account WHERE endpoint = ? AND username = ? AND division = ?",
                    (endpoint, username, division),
                ).fetchone()
                number = existing[0] if existing else self._one("SELECT coalesce(max(number), 0) + 1 FROM account")
                if not existing:
                    account = Account(number, endpoint, username, division, counting_since)
                    self._upsert_account(account)
                    self._write(number, initial_changes(account, rules, local_time))
                self._bind(name, number)
            return self._load(number, failed_since=local_time)

    def _bind(self, name: str, number: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO binding (name, account) VALUES (?, ?)", (name, number))

    def _load(self, number: int, failed_since: float) -> Ledger:
        return Ledger(
            _account(self._db, number),
            dict(_counters(self._db, number)),
            dict(_histograms(self._db, number)),
            {record.id: record for record in self._records_where(number, "outcome = '' OR detail_requests_left > 0")},
            {record.id: record for record in self._records_where(number, _SHOWN_AS_FAILED, failed_since)},
            dict(self._totals(number)),
            self._one("SELECT count(*) FROM job WHERE account = ?", number),
        )

    def _totals(self, number: int) -> Iterator[tuple[tuple[str, str], JobTotals]]:
        for operation, state, *totals in self._db.execute(
            "SELECT operation, state, count(*), sum(last_total), sum(last_completed), sum(last_failed) FROM job"
            " WHERE account = ? AND unlisted_at IS NULL GROUP BY operation, state",
            (number,),
        ):
            yield (operation, state), JobTotals(*totals)

    # ---- allowances ----

    def allowance(self, key: AllowanceKey, now: float) -> SavedAllowance | None:
        """What was left of *key*'s allowance by an earlier process; *now* in Unix seconds."""
        with self._lock:
            row = self._db.execute(
                "SELECT rate_limit, used, slices, window_ends, paused_until FROM allowance"
                " WHERE endpoint = ? AND username = ? AND entry = ?",
                key,
            ).fetchone()
        if row is None:
            return None
        limit, used, slices, window_ends, paused_until = row
        return SavedAllowance(limit, used, slices, window_ends - now, min(LONGEST_PAUSE, paused_until - now))

    def save_allowance(self, key: AllowanceKey, saved: SavedAllowance, now: float) -> None:
        """Write down what is left of *key*'s allowance; *now* in Unix seconds.

        It outlives this process, but need not outlive the machine, so the disk is not waited for. A failure is counted
        and no more: to ask is more important than to remember having asked.
        """
        row = (*key, saved.limit, saved.used, saved.slices, now + saved.window_left, now + saved.pause_left)
        with self._lock, suppress(StateWriteError):
            self._db.execute("PRAGMA synchronous = NORMAL")
            try:
                with self._transaction():
                    self._db.execute("INSERT OR REPLACE INTO allowance VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            finally:
                self._db.execute("PRAGMA synchronous = FULL")

    # ---- marks ----

    def records(self, number: int, ids: Collection[str]) -> dict[str, JobRecord]:
        """The marks of those of *ids* that have one."""
        found: dict[str, JobRecord] = {}
        wanted = list(ids)
        with self._lock:
            for start in range(0, len(wanted), _IDS_PER_QUERY):
                for record in self._records_where(
                    number,
                    "id IN (SELECT value FROM json_each(?))",
                    json.dumps(wanted[start : start + _IDS_PER_QUERY]),
                ):
                    found[record.id] = record
        return found

    def no_longer_listed(self, number: int, listed: Collection[str]) -> list[JobRecord]:
        """Marks that were listed before and are not among *listed*."""
        with self._lock:
            known = self._db.execute("SELECT id FROM job WHERE account = ? AND unlisted_at IS NULL", (number,))
            gone = [job_id for (job_id,) in known if job_id not in listed]
            return list(self.records(number, gone).values())

    def expirable(self, number: int, listing_clock: float) -> list[JobRecord]:
        """Marks that have not been listed for so long that they may be forgotten."""
        with self._lock:
            return list(
                self._records_where(
                    number, "unlisted_at IS NOT NULL AND unlisted_at <= ?", listing_clock - counting.FORGET_AFTER
                )
            )

    def _records_where(self, number: int, condition: str, *values: object) -> Iterator[JobRecord]:
        return _records(self._db, number, condition, *values)

    # ---- writing ----

    def commit(self, number: int, changes: Changes) -> None:
        """Write *changes* in one transaction: all of it or, on any error, nothing.

        Raises:
            StateWriteError: nothing was written.
        """
        with self._lock:
            with self._transaction():
                self._write(number, changes)
            self._tracked_jobs += changes.new_records - len(changes.forgotten)

    def _write(self, number: int, changes: Changes) -> None:
        self._db.executemany(
            _UPSERT_JOB, ((number, *msgspec.structs.astuple(record)) for record in changes.records.values())
        )
        self._db.executemany(
            "DELETE FROM job WHERE account = ? AND id = ?", ((number, job_id) for job_id in changes.forgotten)
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO counter (account, family, labels, value, created, exemplar)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            _counter_rows(number, changes.counters),
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO histogram (account, family, labels, bounds, counts, sum, created, exemplars)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            _histogram_rows(number, changes.histograms),
        )
        if changes.account is not None:
            self._upsert_account(changes.account)

    def _upsert_account(self, account: Account) -> None:
        *columns, labels, failure_counted_at = msgspec.structs.astuple(account)
        self._db.execute(
            "INSERT INTO account (number, endpoint, username, division, counting_since, ever_listed, listing_clock,"
            " listed_on,"
            " labels, failure_counted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET"
            " ever_listed = excluded.ever_listed, listing_clock = excluded.listing_clock, listed_on ="
            " excluded.listed_on,"
            " labels = excluded.labels, failure_counted_at = excluded.failure_counted_at",
            (*columns, json.dumps(labels), json.dumps(failure_counted_at)),
        )

    # ---- whole ledgers ----

    def import_ledger(self, rows: Iterable[tuple[str, Row]], *, replace: bool) -> tuple[str, ...]:
        """Take in a ledger as :meth:`StateReader.rows` gives it, in one transaction.

        One that is here of the same identity and has counted nothing makes way; one that has counted only where
        *replace* is set. A name that is bound to another account here stays with that one.

        Returns:
            The names of the ledger that stay with other accounts.

        Raises:
            StateError: the identity has a ledger here that has counted.
            StateWriteError: nothing was written.
        """
        (_, account), *others = rows
        with self._lock:
            with self._transaction():
                found = self._db.execute(
                    "SELECT number FROM account WHERE endpoint = ? AND username = ? AND division = ?", account[:3]
                ).fetchone()
                if found and not replace and self._one("SELECT total(value) FROM counter WHERE account = ?", *found):
                    raise StateError(
                        f"the state file {self._path} has a ledger of this account already, and it has counted;"
                        " --replace puts the imported one in its place"
                    )
                if found:
                    self._delete(found[0])
                number = found[0] if found else self._one("SELECT coalesce(max(number), 0) + 1 FROM account")
                bound = {name for (name,) in self._db.execute("SELECT name FROM binding")}
                taken = tuple(str(row[0]) for table, row in others if table == "binding" and row[0] in bound)
                insert_rows(self._db, number, [("account", account)])
                insert_rows(
                    self._db, number, (each for each in others if each[0] != "binding" or each[1][0] not in taken)
                )
            self._tracked_jobs = self._one("SELECT count(*) FROM job")
            return taken

    def forget(self, number: int) -> None:
        """Delete an account's ledger, in one transaction.

        Raises:
            StateWriteError: nothing was written.
        """
        with self._lock:
            with self._transaction():
                self._delete(number)
            self._tracked_jobs = self._one("SELECT count(*) FROM job")

    def _delete(self, number: int) -> None:
        for table in reversed(tuple(LEDGER)):
            self._db.execute(f"DELETE FROM {table} WHERE {_number_of(table)} = ?", (number,))  # noqa: S608  # constants

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself ends it on some errors, a full disk among them
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            self.write_failures += 1
            raise StateWriteError(f"the state file {self._path} could not be written: {error}") from error

    def _one(self, query: str, *values: object) -> int:
        return int(self._db.execute(query, values).fetchone()[0])


# ---- rows and values ----


def _account(db: sqlite3.Connection, number: int) -> Account:
    row = db.execute(
        "SELECT number, endpoint, username, division, counting_since, ever_listed, listing_clock, listed_on, labels,"
        " failure_counted_at FROM account WHERE number = ?",
        (number,),
    ).fetchone()
    _, endpoint, username, division, since, complete, listing_clock, listed_on, labels, failure_counted_at = row
    return Account(
        number,
        endpoint,
        username,
        division,
        since,
        ever_listed=bool(complete),
        listing_clock=listing_clock,
        listed_on=listed_on,
        labels={kind: tuple(values) for kind, values in json.loads(labels).items()},
        failure_counted_at=json.loads(failure_counted_at),
    )


def _counters(db: sqlite3.Connection, number: int) -> Iterator[tuple[Key, CounterValue]]:
    for family, labels, value, created, exemplar in db.execute(
        "SELECT family, labels, value, created, exemplar FROM counter WHERE account = ?", (number,)
    ):
        yield (
            (family, tuple(json.loads(labels))),
            CounterValue(value, created, Exemplar(*json.loads(exemplar)) if exemplar else None),
        )


def _histograms(db: sqlite3.Connection, number: int) -> Iterator[tuple[Key, HistogramValue]]:
    for family, labels, bounds, counts, total, created, exemplars in db.execute(
        "SELECT family, labels, bounds, counts, sum, created, exemplars FROM histogram WHERE account = ?",
        (number,),
    ):
        yield (
            (family, tuple(json.loads(labels))),
            HistogramValue(
                tuple(json.loads(bounds)),
                tuple(json.loads(counts)),
                total,
                created,
                tuple(Exemplar(*each) if each else None for each in json.loads(exemplars)),
            ),
        )


def _records(db: sqlite3.Connection, number: int, condition: str, *values: object) -> Iterator[JobRecord]:
    for row in db.execute(
        f"SELECT {_JOB_COLUMN_NAMES} FROM job WHERE account = ? AND ({condition})",  # noqa: S608  # constants of this module
        (number, *values),
    ):
        yield _record(row)


def _record(row: tuple[object, ...]) -> JobRecord:
    return JobRecord(*row)  # type: ignore[arg-type]  # the columns are the fields; SQLite's 0 and 1 do for booleans


def _counter_rows(number: int, counters: Mapping[Key, CounterValue]) -> Iterable[tuple[object, ...]]:
    for (family, labels), count in counters.items():
        exemplar = json.dumps(count.exemplar) if count.exemplar else None
        yield number, family, json.dumps(labels), count.value, count.created, exemplar


def _histogram_rows(number: int, histograms: Mapping[Key, HistogramValue]) -> Iterable[tuple[object, ...]]:
    for (family, labels), each in histograms.items():
        columns = (json.dumps(labels), json.dumps(each.bounds), json.dumps(each.counts), each.sum, each.created)
        yield number, family, *columns, json.dumps(each.exemplars)


def _number_of(table: str) -> str:
    """The column of *table* that says whose ledger a row belongs to."""
    return "number" if table == "account" else "account"


def insert_rows(db: sqlite3.Connection, number: int, rows: Iterable[tuple[str, Row]]) -> None:
    """Write a ledger's *rows*, as :meth:`StateReader.rows` gives them, as those of account *number*."""
    for table, row in rows:
        columns = ", ".join((_number_of(table), *LEDGER[table]))
        places = ", ".join("?" * (len(LEDGER[table]) + 1))
        db.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", (number, *row))  # noqa: S608  # constants


# ---- reading what somebody else may hold ----


class LedgerSummary(NamedTuple):
    """One account's ledger in a state file: whose it is, the names bound to it, and what it holds."""

    account: Account
    names: tuple[str, ...]
    tracked_jobs: int
    unfinished: int
    counters: Mapping[Key, CounterValue]
    histograms: Mapping[Key, HistogramValue]


class StateReader:
    """A state file as it was at one moment, whoever holds and writes it meanwhile. For one thread."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @property
    def layout(self) -> int:
        """The version of its tables."""
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def ledgers(self) -> list[LedgerSummary]:
        """All of them, in the order in which they began.

        Raises:
            StateError: one holds a value that cannot be read.
        """
        try:
            return [
                self._ledger(number) for (number,) in self._db.execute("SELECT number FROM account ORDER BY number")
            ]
        except (TypeError, ValueError) as error:
            raise StateError(f"the state file holds a value that cannot be read: {error}; {_MEND}") from error

    def _ledger(self, number: int) -> LedgerSummary:
        names = self._db.execute("SELECT name FROM binding WHERE account = ? ORDER BY name", (number,))
        tracked_jobs, unfinished = self._db.execute(
            "SELECT count(*), count(*) FILTER (WHERE outcome = '') FROM job WHERE account = ?", (number,)
        ).fetchone()
        return LedgerSummary(
            _account(self._db, number),
            tuple(name for (name,) in names),
            tracked_jobs,
            unfinished,
            dict(_counters(self._db, number)),
            dict(_histograms(self._db, number)),
        )

    def records(self, number: int) -> Iterator[JobRecord]:
        """Every mark of an account."""
        return _records(self._db, number, "1")

    def rows(self, number: int) -> Iterator[tuple[str, Row]]:
        """An account's whole ledger, the account's own row first: table and row, the columns as in ``LEDGER``."""
        for table, columns in LEDGER.items():
            key = _number_of(table)
            query = f"SELECT {', '.join(columns)} FROM {table} WHERE {key} = ? ORDER BY {columns[0]}"  # noqa: S608  # constants
            for row in self._db.execute(query, (number,)):
                yield table, row

    def integrity_errors(self) -> Iterator[str]:
        """A line for each thing that SQLite finds wrong, and for each column with values that do not belong there."""
        for (found,) in self._db.execute(f"PRAGMA integrity_check({_MOST_DAMAGE})"):
            if found != "ok":
                yield " ".join(found.split())
        orphans = Counter(table for table, *_ in self._db.execute("PRAGMA foreign_key_check"))
        for table, number in orphans.items():
            yield f"{table}: {number} rows belong to an account that is not there"
        for table, columns in LEDGER.items():
            known = {name: (kind, bool(needed)) for _, name, kind, needed, *_ in self._table(table)}
            for column in columns:
                wrong = self._mistyped(table, column, *known.get(column, ("", True)))
                if wrong:
                    yield f"{table}.{column}: {wrong} values do not belong there"

    def _table(self, table: str) -> Iterable[tuple[int, str, str, int, object, int]]:
        return self._db.execute(f"PRAGMA table_info({table})")

    def _mistyped(self, table: str, column: str, kind: str, needed: bool) -> int:  # noqa: FBT001  # SQLite's own words
        is_wrong = f"typeof({column}) <> '{kind.lower()}'" + ("" if needed else f" AND {column} IS NOT NULL")
        wrong = self._db.execute(f"SELECT count(*) FROM {table} WHERE {is_wrong}").fetchone()[0]  # noqa: S608  # constants
        written = _WRITTEN_AS_JSON.get((table, column))
        if wrong or written is None:
            return int(wrong)
        texts = self._db.execute(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL")  # noqa: S608  # constants
        return sum(not _is_json_of(text, written) for (text,) in texts)

    def copy_to(self, path: Path, cancelled: Callable[[], bool]) -> None:
        """Copy the whole file to the empty or missing *path*: one file, which nothing lies beside.

        Raises:
            StateError: *cancelled* became true.
            sqlite3.Error: it cannot be written.
        """

        def look(_status: int, _left: int, _total: int) -> None:
            if cancelled():
                raise StateError(_BROKEN_OFF)

        with closing(sqlite3.connect(path, isolation_level=None)) as copy:
            self._db.backup(copy, pages=_PAGES_AT_ONCE, progress=look)
            copy.execute("PRAGMA journal_mode = DELETE")


def _is_json_of(text: str, kind: object) -> bool:
    try:
        msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError:
        return False
    return True


_BROKEN_OFF: Final = "broken off by a signal; nothing was written"


@contextmanager
def open_read_only(path: Path, cancelled: Callable[[], bool]) -> Iterator[StateReader]:
    """The state file to read while the context lasts, whoever holds it; nothing is written, also not beside it.

    Raises:
        StateError: there is none, it cannot be used, or *cancelled* became true.
    """
    try:
        _check_header(path, _header(path))
    except FileNotFoundError as error:
        raise StateError(
            f"there is no state file {path}; the daemon makes it when it starts, or name another with state_file"
        ) from error
    except OSError as error:
        raise StateError(f"the state file {path} cannot be read: {error.strerror}") from error
    # Without a log nobody has it open, and SQLite would make one for us and leave it behind.
    log = Path(f"{path}-wal")
    logged = log.exists()
    address = f"{path.absolute().as_uri()}?mode=ro{'' if logged else '&immutable=1'}"
    try:
        with closing(sqlite3.connect(address, uri=True, isolation_level=None, timeout=_BUSY_SECONDS)) as db:
            db.set_progress_handler(cancelled, _STEPS_BETWEEN_LOOKS)
            db.execute("BEGIN")
            db.execute("SELECT count(*) FROM account").fetchone()  # the moment: BEGIN alone waits for the first look
            yield StateReader(db)
    except sqlite3.Error as error:
        raise StateError(
            _BROKEN_OFF if cancelled() else f"the state file {path} cannot be used: {error}; {_MEND}"
        ) from error
    if not logged and log.exists():
        raise StateError(f"the state file {path} was opened by a daemon while it was read; try again")


@contextmanager
def tables_in_memory() -> Iterator[sqlite3.Connection]:
    """A state file's tables in memory."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.executescript(_SCHEMA)
        yield db


def lock_owner(path: Path) -> str | None:
    """Who holds the state file; None when nobody does."""
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _lock_owner_written_in(descriptor)
    finally:
        os.close(descriptor)
    return None


# ---- holding and opening ----


def _acquire_lock(path: Path) -> int:
    """The descriptor of the held lock file.

    Raises:
        StateError: it cannot be made, or another process holds it.
    """
    lock = Path(f"{path}.lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(
            f"the state file {path} cannot be made: {error.strerror}; choose a writable place with state_file"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            SYSTEM_CLOCK.pause(_LOOK_SECONDS)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        first = _lock_owner_written_in(descriptor)
        os.close(descriptor)
        raise StateError(
            f"the state file {path} is locked by {first}; one daemon at a time may hold it:"
            " stop that one, or give this one a state_file of its own"
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise StateError(f"the state file {path} cannot be held: {error.strerror}; keep it on a local disk") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return descriptor


def _lock_owner_written_in(descriptor: int) -> str:
    return " ".join(os.pread(descriptor, 256, 0).decode(errors="replace").split()) or "another process"


def _open(path: Path) -> sqlite3.Connection:
    """The opened file, its tables made where it is new.

    Raises:
        StateError: it is not ours, newer than this version, damaged or unreadable.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        header = _header(path)
        if header:
            _check_header(path, header)
        path.chmod(0o600)
    except OSError as error:
        raise StateError(f"the state file {path} cannot be opened: {error.strerror}") from error
    try:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_SECONDS)
        try:
            db.execute("PRAGMA synchronous = FULL")
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                # Before the write-ahead log is on, so that the header tells whose file it is whenever we are killed.
                db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_ALLOWANCE)
            damage = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            db.execute("SELECT count(*) FROM job")
        except BaseException:
            db.close()
            raise
    except sqlite3.Error as error:
        raise StateError(f"the state file {path} cannot be used: {error}; {_MEND}") from error
    if damage != "ok":
        db.close()
        raise StateError(f"the state file {path} is damaged: {' '.join(damage.split())}; {_MEND}")
    return db


_MEND: Final = "put a backup in its place, or move it away to begin counting anew"


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEADER_BYTES)


def _check_header(path: Path, header: bytes) -> None:
    """Read the version from the file's own bytes, since opening it as a database would already write beside it."""
    if len(header) < _HEADER_BYTES or not header.startswith(_HEADER):
        raise StateError(f"the state file {path} is not a state file of sbg-exporter; {_MEND}")
    version = int.from_bytes(header[60:64], "big")
    application = int.from_bytes(header[68:72], "big")
    if application != APPLICATION_ID:
        raise StateError(f"the state file {path} is a database of another program; name another file with state_file")
    if version > SCHEMA_VERSION:
        raise StateError(
            f"the state file {path} was written by a newer version of sbg-exporter (layout {version}, this one knows"
            f" {SCHEMA_VERSION}); run that version again, or put a backup in its place"
        )

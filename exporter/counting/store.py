"""The ledger on disk: SQLite, one writer, one transaction per poll.

Write-ahead logging with ``synchronous=FULL``: a commit that returned survives a power cut, and a backup may be taken
while the daemon runs. One daemon at a time holds the file, by ``flock`` on a file beside it; SQLite's own exclusive
mode would shut the backup out too.
"""

import fcntl
import json
import os
import socket
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from exporter.counting import ledger
from exporter.counting.ledger import Account, Book, Changes, Count, Exemplar, Histogram, Key, Mark, Rules, Sums
from exporter.errors import StateError, StateWriteError
from exporter.platform.allowance import LONGEST_SILENCE, Holder, Kept

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x5342_4745
"""``SBGE``: tells a state file from other SQLite files."""
_HEADER: Final = b"SQLite format 3\0"
_HEADER_BYTES: Final = 100
_BUSY_SECONDS: Final = 1.0
"""For another process to let go of the file; a commit that fails is tried again at the next poll anyway."""
_IDS_PER_QUERY: Final = 1000

_MARK_COLUMNS: Final = Mark.__struct_fields__
_MARK: Final = ", ".join(_MARK_COLUMNS)

_ALLOWANCE: Final = """
CREATE TABLE IF NOT EXISTS allowance (
    endpoint TEXT NOT NULL,
    username TEXT NOT NULL,
    entry TEXT NOT NULL,
    rate_limit INTEGER,
    used INTEGER NOT NULL,
    slices INTEGER NOT NULL,
    window_ends REAL NOT NULL,
    silent_until REAL NOT NULL,
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
    since REAL NOT NULL,
    complete INTEGER NOT NULL,
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
CREATE TABLE mark (
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
    pending INTEGER NOT NULL,
    queue_done INTEGER NOT NULL,
    duration_done INTEGER NOT NULL,
    errors_done INTEGER NOT NULL,
    moved_at REAL NOT NULL,
    detected_at REAL,
    settling_since REAL,
    missing_since REAL,
    unlisted_at REAL,
    codes TEXT NOT NULL,
    PRIMARY KEY (account, id)
) WITHOUT ROWID;
CREATE INDEX mark_live ON mark (account) WHERE outcome = '' OR pending = 1;
CREATE INDEX mark_failed ON mark (account) WHERE failed > 0;
CREATE INDEX mark_unlisted ON mark (account, unlisted_at) WHERE unlisted_at IS NOT NULL;
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

_SHOWN_AS_FAILED: Final = (
    "failed > 0 AND (outcome = '' OR max(coalesce(finished_on, moved_at), coalesce(detected_at, 0)) >= ?)"
)
_PUT_MARK: Final = f"INSERT OR REPLACE INTO mark (account, {_MARK}) VALUES (?{', ?' * len(_MARK_COLUMNS)})"  # noqa: S608  # constants


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
        self._held = _hold(path)
        try:
            self._db = _open(path)
            self._marks = self._one("SELECT count(*) FROM mark")
        except BaseException:
            os.close(self._held)
            raise

    def close(self) -> None:
        """Close the file and let go of it."""
        with self._lock:
            self._db.close()
            os.close(self._held)

    @property
    def marks_total(self) -> int:
        """Jobs that are marked, of all accounts."""
        return self._marks

    @property
    def bytes_total(self) -> int:
        """Bytes on disk, the log of recent writes included."""
        return sum(file.stat().st_size for file in (self._path, Path(f"{self._path}-wal")) if file.exists())

    # ---- accounts ----

    def bound(self, name: str, endpoint: str, division: str, failed_since: float) -> Book | None:
        """The ledger that the configured *name* was last bound to, if it has that endpoint and division.

        Failed jobs that ended and were detected before *failed_since* (Unix seconds) are left on disk.
        """
        with self._lock:
            number = self._db.execute(
                "SELECT number FROM account JOIN binding ON account = number"
                " WHERE name = ? AND endpoint = ? AND division = ?",
                (name, endpoint, division),
            ).fetchone()
            return None if number is None else self._book(number[0], failed_since)

    def book(self, name: str, endpoint: str, username: str, division: str, failed_since: float) -> Book | None:
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
            return self._book(number[0], failed_since)

    def begin(
        self, name: str, endpoint: str, username: str, division: str, *, since: float, now: float, rules: Rules
    ) -> Book:
        """A ledger that counts since the platform's time *since*, bound to *name*: committed before anything is read.

        Where another entry of the configuration has begun it in this moment, that one.

        Raises:
            StateWriteError: it could not be written.
        """
        with self._lock:
            with self._transaction():
                begun = self._db.execute(
                    "SELECT number FROM account WHERE endpoint = ? AND username = ? AND division = ?",
                    (endpoint, username, division),
                ).fetchone()
                number = begun[0] if begun else self._one("SELECT coalesce(max(number), 0) + 1 FROM account")
                if not begun:
                    account = Account(number, endpoint, username, division, since)
                    self._put_account(account)
                    self._write(number, ledger.seeds(account, rules, now))
                self._bind(name, number)
            return self._book(number, failed_since=now)

    def _bind(self, name: str, number: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO binding (name, account) VALUES (?, ?)", (name, number))

    def _book(self, number: int, failed_since: float) -> Book:
        row = self._db.execute(
            "SELECT number, endpoint, username, division, since, complete, listing_clock, listed_on, labels,"
            " failure_counted_at FROM account WHERE number = ?",
            (number,),
        ).fetchone()
        _, endpoint, username, division, since, complete, listing_clock, listed_on, labels, failure_counted_at = row
        account = Account(
            number,
            endpoint,
            username,
            division,
            since,
            complete=bool(complete),
            listing_clock=listing_clock,
            listed_on=listed_on,
            labels={kind: tuple(values) for kind, values in json.loads(labels).items()},
            failure_counted_at=json.loads(failure_counted_at),
        )
        return Book(
            account,
            dict(self._counters(number)),
            dict(self._histograms(number)),
            {mark.id: mark for mark in self._marks_where(number, "outcome = '' OR pending = 1")},
            {mark.id: mark for mark in self._marks_where(number, _SHOWN_AS_FAILED, failed_since)},
            dict(self._sums(number)),
            self._one("SELECT count(*) FROM mark WHERE account = ?", number),
        )

    def _counters(self, number: int) -> Iterator[tuple[Key, Count]]:
        for family, labels, value, created, exemplar in self._db.execute(
            "SELECT family, labels, value, created, exemplar FROM counter WHERE account = ?", (number,)
        ):
            yield (
                (family, tuple(json.loads(labels))),
                Count(value, created, Exemplar(*json.loads(exemplar)) if exemplar else None),
            )

    def _histograms(self, number: int) -> Iterator[tuple[Key, Histogram]]:
        for family, labels, bounds, counts, total, created, exemplars in self._db.execute(
            "SELECT family, labels, bounds, counts, sum, created, exemplars FROM histogram WHERE account = ?",
            (number,),
        ):
            yield (
                (family, tuple(json.loads(labels))),
                Histogram(
                    tuple(json.loads(bounds)),
                    tuple(json.loads(counts)),
                    total,
                    created,
                    tuple(Exemplar(*each) if each else None for each in json.loads(exemplars)),
                ),
            )

    def _sums(self, number: int) -> Iterator[tuple[tuple[str, str], Sums]]:
        for operation, state, *sums in self._db.execute(
            "SELECT operation, state, count(*), sum(last_total), sum(last_completed), sum(last_failed) FROM mark"
            " WHERE account = ? AND unlisted_at IS NULL GROUP BY operation, state",
            (number,),
        ):
            yield (operation, state), Sums(*sums)

    # ---- allowances ----

    def allowance(self, holder: Holder, now: float) -> Kept | None:
        """What was left of *holder*'s allowance by an earlier process; *now* in Unix seconds."""
        with self._lock:
            row = self._db.execute(
                "SELECT rate_limit, used, slices, window_ends, silent_until FROM allowance"
                " WHERE endpoint = ? AND username = ? AND entry = ?",
                holder,
            ).fetchone()
        if row is None:
            return None
        limit, used, slices, window_ends, silent_until = row
        return Kept(limit, used, slices, window_ends - now, min(LONGEST_SILENCE, silent_until - now))

    def keep_allowance(self, holder: Holder, kept: Kept, now: float) -> None:
        """Write down what is left of *holder*'s allowance; *now* in Unix seconds.

        It outlives this process, but need not outlive the machine, so the disk is not waited for. A failure is counted
        and no more: to ask is more important than to remember having asked.
        """
        row = (*holder, kept.limit, kept.used, kept.slices, now + kept.window_left, now + kept.silence_left)
        with self._lock, suppress(StateWriteError):
            self._db.execute("PRAGMA synchronous = NORMAL")
            try:
                with self._transaction():
                    self._db.execute("INSERT OR REPLACE INTO allowance VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            finally:
                self._db.execute("PRAGMA synchronous = FULL")

    # ---- marks ----

    def marks(self, number: int, ids: Collection[str]) -> dict[str, Mark]:
        """The marks of those of *ids* that have one."""
        found: dict[str, Mark] = {}
        wanted = list(ids)
        with self._lock:
            for start in range(0, len(wanted), _IDS_PER_QUERY):
                for mark in self._marks_where(
                    number,
                    "id IN (SELECT value FROM json_each(?))",
                    json.dumps(wanted[start : start + _IDS_PER_QUERY]),
                ):
                    found[mark.id] = mark
        return found

    def vanished(self, number: int, listed: Collection[str]) -> list[Mark]:
        """Marks that were listed before and are not among *listed*."""
        with self._lock:
            known = self._db.execute("SELECT id FROM mark WHERE account = ? AND unlisted_at IS NULL", (number,))
            gone = [job_id for (job_id,) in known if job_id not in listed]
            return list(self.marks(number, gone).values())

    def expired(self, number: int, listing_clock: float) -> list[Mark]:
        """Marks that have not been listed for so long that they may be forgotten."""
        with self._lock:
            return list(
                self._marks_where(
                    number, "unlisted_at IS NOT NULL AND unlisted_at <= ?", listing_clock - ledger.FORGET_AFTER
                )
            )

    def _marks_where(self, number: int, condition: str, *values: object) -> Iterator[Mark]:
        for row in self._db.execute(
            f"SELECT {_MARK} FROM mark WHERE account = ? AND ({condition})",  # noqa: S608  # constants of this module
            (number, *values),
        ):
            yield _mark(row)

    # ---- writing ----

    def commit(self, number: int, changes: Changes) -> None:
        """Write *changes* in one transaction: all of it or, on any error, nothing.

        Raises:
            StateWriteError: nothing was written.
        """
        with self._lock:
            with self._transaction():
                self._write(number, changes)
            self._marks += changes.new_marks - len(changes.forgotten)

    def _write(self, number: int, changes: Changes) -> None:
        self._db.executemany(_PUT_MARK, ((number, *msgspec.structs.astuple(mark)) for mark in changes.marks.values()))
        self._db.executemany(
            "DELETE FROM mark WHERE account = ? AND id = ?", ((number, job_id) for job_id in changes.forgotten)
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
            self._put_account(changes.account)

    def _put_account(self, account: Account) -> None:
        *columns, labels, failure_counted_at = msgspec.structs.astuple(account)
        self._db.execute(
            "INSERT INTO account (number, endpoint, username, division, since, complete, listing_clock, listed_on,"
            " labels, failure_counted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET"
            " complete = excluded.complete, listing_clock = excluded.listing_clock, listed_on = excluded.listed_on,"
            " labels = excluded.labels, failure_counted_at = excluded.failure_counted_at",
            (*columns, json.dumps(labels), json.dumps(failure_counted_at)),
        )

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


def _mark(row: tuple[object, ...]) -> Mark:
    return Mark(*row)  # type: ignore[arg-type]  # the columns are the fields; SQLite's 0 and 1 do for booleans


def _counter_rows(number: int, counters: Mapping[Key, Count]) -> Iterable[tuple[object, ...]]:
    for (family, labels), count in counters.items():
        exemplar = json.dumps(count.exemplar) if count.exemplar else None
        yield number, family, json.dumps(labels), count.value, count.created, exemplar


def _histogram_rows(number: int, histograms: Mapping[Key, Histogram]) -> Iterable[tuple[object, ...]]:
    for (family, labels), each in histograms.items():
        columns = (json.dumps(labels), json.dumps(each.bounds), json.dumps(each.counts), each.sum, each.created)
        yield number, family, *columns, json.dumps(each.exemplars)


def _hold(path: Path) -> int:
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
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = " ".join(os.read(descriptor, 256).decode(errors="replace").split()) or "another process"
        os.close(descriptor)
        raise StateError(
            f"the state file {path} is held by {holder}; one daemon at a time may hold it:"
            " stop that one, or give this one a state_file of its own"
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise StateError(f"the state file {path} cannot be held: {error.strerror}; keep it on a local disk") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return descriptor


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
            db.execute("SELECT count(*) FROM mark")
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

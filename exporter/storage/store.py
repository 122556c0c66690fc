"""The state file as the daemon uses it: SQLite, one writer, one transaction per poll.

Write-ahead logging with ``synchronous=FULL``: a commit that returned survives a power failure, and a backup may be
taken while the daemon runs.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from exporter.api.allowance import LONGEST_PAUSE, AllowanceKey, SavedAllowance
from exporter.counting.rules import initial_changes
from exporter.counting.values import FORGET_AFTER, Account, Changes, JobRecord, Ledger, Rules
from exporter.errors import StateError, StateWriteError
from exporter.storage.lock import acquire_lock
from exporter.storage.rows import (
    delete_ledger,
    insert_rows,
    read_account,
    read_counters,
    read_histograms,
    read_records,
    read_totals,
    read_wait_clock,
    upsert_account,
    write_changes,
)
from exporter.storage.schema import (
    ALLOWANCE_TABLE,
    BUSY_SECONDS,
    RESTORE_ADVICE,
    SCHEMA,
    WAIT_CLOCK_TABLE,
    Row,
    check_header,
    read_header,
)

_IDS_PER_QUERY: Final = 1000
_LIVE: Final = "outcome = '' OR detail_requests_left > 0"
_SHOWN_AS_FAILED: Final = (
    "failed > 0 AND (outcome = '' OR max(coalesce(finished_on, last_progress_at), coalesce(detected_at, 0)) >= ?)"
)


class Store:
    """The state file, locked by this process. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        """Lock and open the state file; create it with mode 0600 if it does not exist.

        Raises:
            StateError: another process has locked it, or it cannot be read or created, or a newer version wrote it;
                it is not changed then.
        """
        self.write_failures = 0
        """Transactions that failed since the start."""
        self._path = path
        self._lock = threading.RLock()
        self._lock_fd = acquire_lock(path)
        try:
            self._db = _open(path)
            self._tracked_jobs = self._count_jobs()
        except BaseException:
            os.close(self._lock_fd)
            raise

    def close(self) -> None:
        """Close and unlock the file."""
        with self._lock:
            self._db.close()
            os.close(self._lock_fd)

    @property
    def tracked_jobs(self) -> int:
        """Number of job records of all accounts."""
        return self._tracked_jobs

    @property
    def bytes_total(self) -> int:
        """Bytes on disk, including the write-ahead log."""
        return sum(file.stat().st_size for file in (self._path, Path(f"{self._path}-wal")) if file.exists())

    # ---- accounts ----

    def load_by_name(self, name: str, endpoint: str, division: str, failed_since: float) -> Ledger | None:
        """The ledger that the configured *name* was last bound to, if it has that endpoint and division.

        Failed jobs that ended and were detected before *failed_since* (Unix seconds) are not loaded.
        """
        with self._lock:
            row = self._db.execute(
                "SELECT number FROM account JOIN binding ON account = number"
                " WHERE name = ? AND endpoint = ? AND division = ?",
                (name, endpoint, division),
            ).fetchone()
            return None if row is None else self._load(row[0], failed_since)

    def load(self, name: str, endpoint: str, username: str, division: str, failed_since: float) -> Ledger | None:
        """The ledger of an identity, which is then bound to *name*; None if it has none yet.

        Raises:
            StateWriteError: the binding could not be written.
        """
        with self._lock:
            number = self._find((endpoint, username, division))
            if number is None:
                return None
            if self._one("SELECT count(*) FROM binding WHERE name = ? AND account = ?", name, number) == 0:
                with self._transaction():
                    self._bind(name, number)
            return self._load(number, failed_since)

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

        If another account of the configuration has just created one for the same identity, that one is used.

        Raises:
            StateWriteError: it could not be written.
        """
        with self._lock:
            with self._transaction():
                number = self._find((endpoint, username, division))
                if number is None:
                    number = self._next_number()
                    account = Account(number, endpoint, username, division, counting_since)
                    upsert_account(self._db, account)
                    write_changes(self._db, number, initial_changes(account, rules, local_time))
                self._bind(name, number)
            return self._load(number, failed_since=local_time)

    def _find(self, identity: tuple[object, ...]) -> int | None:
        row = self._db.execute(
            "SELECT number FROM account WHERE endpoint = ? AND username = ? AND division = ?", identity
        ).fetchone()
        return None if row is None else int(row[0])

    def _next_number(self) -> int:
        return self._one("SELECT coalesce(max(number), 0) + 1 FROM account")

    def _bind(self, name: str, number: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO binding (name, account) VALUES (?, ?)", (name, number))

    def _load(self, number: int, failed_since: float) -> Ledger:
        return Ledger(
            read_account(self._db, number),
            read_counters(self._db, number),
            read_histograms(self._db, number),
            {record.id: record for record in read_records(self._db, number, _LIVE)},
            {record.id: record for record in read_records(self._db, number, _SHOWN_AS_FAILED, failed_since)},
            read_totals(self._db, number),
            self._one("SELECT count(*) FROM job WHERE account = ?", number),
            read_wait_clock(self._db, number),
        )

    # ---- allowances ----

    def allowance(self, key: AllowanceKey, now: float) -> SavedAllowance | None:
        """What an earlier process saved of *key*'s allowance; *now* in Unix seconds.

        What is left of the window and of a pause is never longer than it was when it was saved, even if this machine's
        clock was put back since then. In that case it is saved again, as of *now*: otherwise each of many restarts
        would wait for the whole pause.
        """
        with self._lock:
            row = self._db.execute(
                "SELECT rate_limit, used, slices, window_ends, paused_until, saved_at FROM allowance"
                " WHERE endpoint = ? AND username = ? AND entry = ?",
                key,
            ).fetchone()
        if row is None:
            return None
        limit, used, slices, window_ends, paused_until, saved_at = row
        if saved_at is None:  # An earlier version saved neither this nor whether there was a pause: assume none.
            saved_at = min(window_ends, paused_until)
        passed = now - saved_at
        left, pause = window_ends - saved_at, min(LONGEST_PAUSE, paused_until - saved_at)
        saved = SavedAllowance(limit, used, slices, left - max(0.0, passed), max(0.0, pause - max(0.0, passed)))
        if passed < 0:
            self.save_allowance(key, saved, now)
        return saved

    def save_allowance(self, key: AllowanceKey, saved: SavedAllowance, now: float) -> None:
        """Save what is left of *key*'s allowance; *now* in Unix seconds.

        It must outlive this process, but not a power failure, so this does not wait for the disk. A failure is only
        counted in ``write_failures``, because polling matters more than remembering the requests.
        """
        row = (*key, saved.limit, saved.used, saved.slices, now + saved.window_left, now + saved.pause_left, now)
        with self._lock, suppress(StateWriteError):
            self._db.execute("PRAGMA synchronous = NORMAL")
            try:
                with self._transaction():
                    self._db.execute("INSERT OR REPLACE INTO allowance VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            finally:
                self._db.execute("PRAGMA synchronous = FULL")

    # ---- job records ----

    def records(self, number: int, ids: Collection[str]) -> dict[str, JobRecord]:
        """The records of those of *ids* that have one."""
        found: dict[str, JobRecord] = {}
        wanted = list(ids)
        with self._lock:
            for start in range(0, len(wanted), _IDS_PER_QUERY):
                some = json.dumps(wanted[start : start + _IDS_PER_QUERY])
                for record in read_records(self._db, number, "id IN (SELECT value FROM json_each(?))", some):
                    found[record.id] = record
        return found

    def no_longer_listed(self, number: int, listed: Collection[str]) -> list[JobRecord]:
        """Records of jobs that were listed before and are not among *listed*."""
        with self._lock:
            known = self._db.execute("SELECT id FROM job WHERE account = ? AND unlisted_at IS NULL", (number,))
            missing = [job_id for (job_id,) in known if job_id not in listed]
            return list(self.records(number, missing).values())

    def expirable(self, number: int, listing_clock: float) -> list[JobRecord]:
        """Records of jobs that have not been listed for so long that they may expire."""
        condition = "unlisted_at IS NOT NULL AND unlisted_at <= ?"
        with self._lock:
            return list(read_records(self._db, number, condition, listing_clock - FORGET_AFTER))

    # ---- writing ----

    def commit(self, number: int, changes: Changes) -> None:
        """Write all of *changes* in one transaction, or nothing on any error.

        Raises:
            StateWriteError: nothing was written.
        """
        with self._lock:
            with self._transaction():
                write_changes(self._db, number, changes)
            self._tracked_jobs += changes.new_records - len(changes.forgotten)

    def import_ledger(self, rows: Iterable[tuple[str, Row]], *, replace: bool) -> tuple[str, ...]:
        """Insert a ledger, as :meth:`StateReader.rows` yields it, in one transaction.

        It replaces a ledger of the same identity if that has counted nothing, or if *replace* is set. A name that is
        bound to another account of this file stays with that account.

        Returns:
            The names of the ledger that stay with other accounts.

        Raises:
            StateError: the identity has a ledger here that has counted something.
            StateWriteError: nothing was written.
        """
        (_, account), *others = rows
        with self._lock:
            with self._transaction():
                number = self._find(account[:3])
                if number is None:
                    number = self._next_number()
                else:
                    if not replace and self._one("SELECT total(value) FROM counter WHERE account = ?", number):
                        raise StateError(
                            f"state file {self._path} already has a ledger of this account with counts;"
                            " pass --replace to replace it with the imported one"
                        )
                    delete_ledger(self._db, number)
                bound = {name for (name,) in self._db.execute("SELECT name FROM binding")}
                taken = tuple(str(row[0]) for table, row in others if table == "binding" and row[0] in bound)
                free = (each for each in others if each[0] != "binding" or each[1][0] not in taken)
                insert_rows(self._db, number, [("account", account), *free])
            self._tracked_jobs = self._count_jobs()
            return taken

    def forget(self, number: int) -> None:
        """Delete an account's ledger in one transaction.

        Raises:
            StateWriteError: nothing was written.
        """
        with self._lock:
            with self._transaction():
                delete_ledger(self._db, number)
            self._tracked_jobs = self._count_jobs()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself rolls back on some errors, such as a full disk
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            self.write_failures += 1
            raise StateWriteError(f"state file {self._path} could not be written: {error}") from error

    def _count_jobs(self) -> int:
        return self._one("SELECT count(*) FROM job")

    def _one(self, query: str, *values: object) -> int:
        return int(self._db.execute(query, values).fetchone()[0])


def _add_later_tables(db: sqlite3.Connection) -> None:
    """Add to an older file what it lacks: none of it is part of a ledger."""
    db.executescript(ALLOWANCE_TABLE + WAIT_CLOCK_TABLE)
    if "saved_at" not in {name for _, name, *_ in db.execute("PRAGMA table_info(allowance)")}:
        db.execute("ALTER TABLE allowance ADD COLUMN saved_at REAL")


def _open(path: Path) -> sqlite3.Connection:
    """Open the file, and create its tables if it is new.

    Raises:
        StateError: it is not a state file, was written by a newer version, is damaged or cannot be read.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        header = read_header(path)
        if header:
            check_header(path, header)
        path.chmod(0o600)
    except OSError as error:
        raise StateError(f"state file {path} cannot be opened: {error.strerror}") from error
    try:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS)
        try:
            db.execute("PRAGMA synchronous = FULL")
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                # Before write-ahead logging is on, so that the header identifies the file even after a kill.
                db.executescript(f"BEGIN; {SCHEMA} COMMIT;")
            db.execute("PRAGMA journal_mode = WAL")
            _add_later_tables(db)
            damage = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            db.execute("SELECT count(*) FROM job")
        except BaseException:
            db.close()
            raise
    except sqlite3.Error as error:
        raise StateError(f"state file {path} cannot be used: {error}; {RESTORE_ADVICE}") from error
    if damage != "ok":
        db.close()
        raise StateError(f"state file {path} is damaged: {' '.join(damage.split())}; {RESTORE_ADVICE}")
    return db

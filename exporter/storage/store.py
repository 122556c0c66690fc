"""The state file as the daemon uses it: SQLite, one writer, one transaction per poll.

Write-ahead logging with ``synchronous=FULL``: a commit that returned survives a power failure, and a backup may be
taken while the daemon runs.
"""

import json
import os
import shlex
import sqlite3
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from exporter.api.allowance import LONGEST_PAUSE, AllowanceKey, SavedAllowance
from exporter.counting.rules import initial_changes
from exporter.counting.values import FORGET_AFTER, Account, Changes, JobRecord, Ledger, Rules
from exporter.errors import StateError, StateWriteError
from exporter.storage.connection import Connection
from exporter.storage.diagnosis import FULL, is_full, probe, restore_advice, why
from exporter.storage.last_path import log_left_behind, log_of
from exporter.storage.lock import hold
from exporter.storage.rows import (
    delete_configured,
    delete_ledger,
    insert_rows,
    read_account,
    read_configured,
    read_counters,
    read_histograms,
    read_names,
    read_records,
    read_retries,
    read_totals,
    read_wait_clock,
    upsert_account,
    write_changes,
    write_configured,
)
from exporter.storage.schema import HEADER_BYTES, Row, check_header

_IDS_PER_QUERY: Final = 1000
_LIVE: Final = "outcome = '' OR detail_requests_left > 0"
_SHOWN_AS_FAILED: Final = (
    "failed > 0 AND (outcome = '' OR max(coalesce(finished_on, last_progress_at), coalesce(detected_at, 0)) >= ?)"
)
_SHOWN_AS_INCOMPLETE_OR_LOST: Final = (
    "outcome IN ('incomplete', 'lost') AND max(coalesce(finished_on, last_progress_at), last_progress_at) >= ?"
)


class _NotInPlace(Exception):
    """The state file or one of its files is gone from its path; the text says what follows."""


class Store:
    """The state file, locked by this process. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        """Lock and open the state file; create it with mode 0600 if it does not exist.

        On a full disk, an existing file is opened all the same: what it holds is shown, commits fail, and they succeed
        once there is space.

        Raises:
            StateError: it is no regular file, another process has locked it, it cannot be read or created, is damaged
                or contains invalid values, or a newer version wrote it; it is not changed then.
        """
        self.write_failures = 0
        """Transactions that failed since the start."""
        self.in_doubt = False
        """Whether the last transaction failed, or the disk was full at the start."""
        self.loss = ""
        """What to know if there was a state file at this path before, which is gone; else empty."""
        self.report_missing: Callable[[str], object] = lambda _reason: None
        """Called with the reason when a file of the state file is gone from its path, once per reason."""
        self._missing = ""
        self.report_unsaved: Callable[[str], object] = lambda _reason: None
        """Called with the reason when an allowance cannot be saved, once per reason."""
        self._unsaved = ""
        self._configured: Mapping[str, float | None] = {}
        self._is_configured_saved = True
        self._path = path
        self._lock = threading.RLock()
        self._file = hold(path)
        self.is_new = self._file.is_empty
        """Whether there was no state file, so that counting begins."""
        try:
            self.warnings = self._prepare()
            """What the operator should change about the file's permissions."""
            self._connection = self._open()
            self.in_doubt = self._connection.exclusive
            self.link_warning = self._remember_path()
            """What may go wrong because the file has hard links; empty if nothing can."""
            self._tracked_jobs = self._count_jobs()
            self.loss = self._loss() if self._file.is_lost else ""
        except BaseException:
            self._file.remove_if_unused()
            self._file.close()
            raise

    def close(self) -> None:
        """Close and unlock the file."""
        with self._lock:
            self._connection.close()
            self._file.close()

    @property
    def _db(self) -> sqlite3.Connection:
        return self._connection.db

    def _prepare(self) -> tuple[str, ...]:
        """Check type and version, and let only the owner read a file of this process' user; warnings otherwise."""
        header = self._file.header(HEADER_BYTES)
        if header:
            check_header(self._path, header)
            if problem := log_left_behind(self._file.path):
                raise StateError(f"state file {self._path} {problem}")
        found = self._file.found
        if found.st_uid == os.geteuid():
            with suppress(OSError):  # some file systems have no permissions
                self._file.make_private()
        elif found.st_mode & stat.S_IRWXO:
            remedy = f"chmod o-rwx {shlex.quote(str(self._file.path))}"
            return (f"other users of this machine can read the state file {self._path}; as its owner, run `{remedy}`",)
        return ()

    def _remember_path(self) -> str:
        """Keep the path with the file, so that a start through another one finds the write-ahead log; a warning."""
        if self._file.remember_path() or self._file.found.st_nlink == 1:
            return ""
        why = "its latest commits are in a file next to it"
        return f"the state file {self._path} has several names (hard links); always use this one, because {why}"

    def _loss(self) -> str:
        """How to get a lost state file back, with the latest commits in its log."""
        log, aside = log_of(self._file.path), self._file.log_aside
        rename = f", and rename {aside} to {log}" if aside else ""
        return f"if it was moved, stop the exporter, put the file back{rename}; see the runbook of SbgStateNotWritable"

    def _open(self) -> Connection:
        """Open the database and check its pages and its values.

        Raises:
            StateError: it cannot be used.
        """
        try:
            connection = self._connect()
            try:
                problem = connection.problem()
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            action = "created" if self._file.is_empty else "used"
            raise StateError(f"state file {self._path} cannot be {action}: {why(error, self._file.path)}") from error
        if problem:
            connection.close()
            raise StateError(f"state file {self._path} is damaged: {problem}; {restore_advice(self._file.path)}")
        return connection

    def _connect(self) -> Connection:
        try:
            return Connection(self._file.path)
        except sqlite3.Error:
            if not self._file.header(HEADER_BYTES) or not is_full(self._file.path):
                raise
            return Connection(self._file.path, exclusive=True)

    @property
    def tracked_jobs(self) -> int:
        """Number of job records of all accounts."""
        return self._tracked_jobs

    @property
    def bytes_total(self) -> int | None:
        """Bytes on disk, including the write-ahead log; None if the file cannot be seen at its path."""
        try:
            size = self._file.path.stat().st_size
            with suppress(FileNotFoundError):
                size += log_of(self._file.path).stat().st_size
        except OSError:
            return None
        return size

    # ---- accounts ----

    def load_by_name(self, name: str, endpoint: str, division: str, failed_since: float) -> Ledger | None:
        """The ledger with the account's *name*, if it has that endpoint and division.

        Failed, incomplete and lost jobs that ended and were detected before *failed_since* (Unix seconds) are not
        loaded.
        """
        with self._reading():
            row = self._db.execute(
                "SELECT number FROM account JOIN binding ON account = number"
                " WHERE name = ? AND endpoint = ? AND division = ?",
                (name, endpoint, division),
            ).fetchone()
            return None if row is None else self._load(row[0], failed_since)

    def load(self, name: str, endpoint: str, username: str, division: str, failed_since: float) -> Ledger | None:
        """The ledger of an identity, which then has this *name* and no other; None if there is none yet.

        Raises:
            StateWriteError: the name could not be written.
        """
        with self._reading():
            number = self._find((endpoint, username, division))
            if number is None:
                return None
            if self._names_of(number) != [name]:
                with self._transaction():
                    renamed = self._bind(name, number)
                self._drop_configured(renamed)
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
        with self._reading():
            with self._transaction():
                number = self._find((endpoint, username, division))
                if number is None:
                    number = self._next_number()
                    account = Account(number, endpoint, username, division, counting_since)
                    upsert_account(self._db, account)
                    write_changes(self._db, number, initial_changes(account, rules, local_time))
                renamed = self._bind(name, number)
            self._drop_configured(renamed)
            return self._load(number, failed_since=local_time)

    def _find(self, identity: tuple[object, ...]) -> int | None:
        row = self._db.execute(
            "SELECT number FROM account WHERE endpoint = ? AND username = ? AND division = ?", identity
        ).fetchone()
        return None if row is None else int(row[0])

    def _next_number(self) -> int:
        return self._one("SELECT coalesce(max(number), 0) + 1 FROM account")

    def names_of(self, endpoint: str, username: str, division: str) -> list[str]:
        """The names that the ledger of an identity has: one, or several if an earlier version gave them."""
        with self._reading():
            number = self._find((endpoint, username, division))
            return [] if number is None else self._names_of(number)

    def names(self) -> Mapping[str, tuple[str, str, str]]:
        """Name to endpoint, user and division of the ledger that has it, those that were given last at the end."""
        with self._reading():
            return read_names(self._db)

    def _names_of(self, number: int) -> list[str]:
        return [name for (name,) in self._db.execute("SELECT name FROM binding WHERE account = ?", (number,))]

    def _bind(self, name: str, number: int) -> Collection[str]:
        """Give a ledger its name, and take that from the ledger that had it; return the names that it had before."""
        renamed = self._deleted_configured([before for before in self._names_of(number) if before != name])
        self._db.execute("DELETE FROM binding WHERE account = ?", (number,))
        self._db.execute("INSERT OR REPLACE INTO binding (name, account) VALUES (?, ?)", (name, number))
        return renamed

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
            read_retries(self._db, number),
            {
                record.id: record
                for record in read_records(self._db, number, _SHOWN_AS_INCOMPLETE_OR_LOST, failed_since)
            },
        )

    # ---- accounts that are configured, and those that are missing ----

    def use(self, decide: Callable[[Mapping[str, float | None]], Mapping[str, float | None]]) -> None:
        """Save which accounts are in use now, and since when others are missing, Unix seconds.

        *decide* makes them of what was in use before, at first by the last process. A failure is only counted: polling
        matters more. The next commit that succeeds saves it, too.
        """
        with self._lock:
            kept: Mapping[str, float | None] = {}
            with suppress(StateError), self._reading():
                kept = read_configured(self._db)
            self._configured = dict(decide(self._configured or kept))
            self._is_configured_saved = self._configured == kept
            if not self._is_configured_saved:
                with suppress(StateWriteError):
                    with self._transaction():
                        write_configured(self._db, self._configured)
                    self._is_configured_saved = True

    @property
    def missing(self) -> Mapping[str, float]:
        """Since when accounts are missing, Unix seconds; known without the file, and empty before :meth:`use`."""
        return {name: since for name, since in self._configured.items() if since is not None}

    def _deleted_configured(self, names: Iterable[str]) -> Collection[str]:
        """Of accounts that are renamed or forgotten, those that are deleted: all but the ones that are in use."""
        deleted = [name for name in names if self._configured.get(name, 0.0) is not None]
        if deleted:
            delete_configured(self._db, deleted)
        return deleted

    def _drop_configured(self, names: Collection[str]) -> None:
        """After the commit. The mapping is replaced, never changed, because other threads read it."""
        self._configured = {name: since for name, since in self._configured.items() if name not in names}

    # ---- allowances ----

    def allowance(self, key: AllowanceKey, now: float) -> SavedAllowance | None:
        """What an earlier process saved of *key*'s allowance; *now* in Unix seconds.

        What is left of the window and of a pause is never longer than it was when it was saved, even if this machine's
        clock was put back since then. In that case it is saved again, as of *now*: otherwise each of many restarts
        would wait for the whole pause.
        """
        with self._reading():
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
        counted and reported, because polling matters more than remembering the requests.
        """
        row = (*key, saved.limit, saved.used, saved.slices, now + saved.window_left, now + saved.pause_left, now)
        with self._lock:
            try:
                with self._transaction(durable=False):
                    self._db.execute("INSERT OR REPLACE INTO allowance VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            except StateWriteError as error:
                reason = str(error)
                if reason not in {self._unsaved, self._missing}:
                    self.report_unsaved(reason)
                self._unsaved = reason
            else:
                self._unsaved = ""

    # ---- job records ----

    def records(self, number: int, ids: Collection[str]) -> dict[str, JobRecord]:
        """The records of those of *ids* that have one."""
        found: dict[str, JobRecord] = {}
        wanted = list(ids)
        with self._reading():
            for start in range(0, len(wanted), _IDS_PER_QUERY):
                some = json.dumps(wanted[start : start + _IDS_PER_QUERY])
                for record in read_records(self._db, number, "id IN (SELECT value FROM json_each(?))", some):
                    found[record.id] = record
        return found

    def no_longer_listed(self, number: int, listed: Collection[str]) -> list[JobRecord]:
        """Records of jobs that were listed before and are not among *listed*."""
        with self._reading():
            known = self._db.execute("SELECT id FROM job WHERE account = ? AND unlisted_at IS NULL", (number,))
            missing = [job_id for (job_id,) in known if job_id not in listed]
            return list(self.records(number, missing).values())

    def expirable(self, number: int, listing_clock: float) -> list[JobRecord]:
        """Records of jobs that have not been listed for so long that they may expire."""
        condition = "unlisted_at IS NOT NULL AND unlisted_at <= ?"
        with self._reading():
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
                if not self._is_configured_saved:
                    write_configured(self._db, self._configured)
            self._is_configured_saved = True
            self._tracked_jobs += changes.new_records - len(changes.forgotten)

    def test_write(self) -> None:
        """Write to the file and change nothing, to find out whether a commit would succeed after one has failed.

        On a full disk a few bytes often have room in the write-ahead log where a commit has not, so the disk has to
        have space as well.

        Raises:
            StateWriteError: nothing can be written.
        """
        with self._lock:
            with self._transaction():
                self._db.execute(f"PRAGMA user_version = {self._one('PRAGMA user_version')}")
            number = probe(self._file.path.parent)
            if number in FULL:
                raise self._failed(why(OSError(number, os.strerror(number)), self._file.path))

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
        others = iter(rows)
        _, account = next(others)
        taken: list[str] = []
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

                def free() -> Iterator[tuple[str, Row]]:
                    for table, row in others:
                        if table == "binding" and row[0] in bound:
                            taken.append(str(row[0]))
                        else:
                            yield table, row

                insert_rows(self._db, number, [("account", account)])
                insert_rows(self._db, number, free())
            self._tracked_jobs = self._count_jobs()
            return tuple(taken)

    def forget(self, number: int) -> None:
        """Delete an account's ledger in one transaction.

        Raises:
            StateWriteError: nothing was written.
        """
        with self._lock:
            with self._transaction():
                forgotten = self._deleted_configured(self._names_of(number))
                delete_ledger(self._db, number)
            self._drop_configured(forgotten)
            self._tracked_jobs = self._count_jobs()

    @contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[None]:
        """A transaction; one that is not *durable* does not wait for the disk.

        Raises:
            StateWriteError: nothing was written.
        """
        try:
            self._check_in_place()
            with self._connection.transaction(durable=durable):
                yield
        except sqlite3.Error as error:
            raise self._failed(why(error, self._file.path)) from error
        except _NotInPlace as error:
            failure = self._failed(str(error))
            if self._missing != str(failure):
                self._missing = str(failure)
                self.report_missing(self._missing)
            raise failure from error
        self._missing = ""
        self.in_doubt = False
        if self._connection.exclusive:  # there is space again
            with suppress(sqlite3.Error):
                self._reconnect()

    def _failed(self, reason: str) -> StateWriteError:
        self.write_failures += 1
        self.in_doubt = True
        return StateWriteError(f"state file {self._path} could not be written: {reason}")

    def _check_in_place(self) -> None:
        """Make sure that what is committed will be found at the next start.

        Raises:
            _NotInPlace: the state file, or a file that SQLite keeps next to it, is gone from its path.
            sqlite3.Error: the database cannot be opened again.
        """
        if absence := self._file.absence():
            raise _NotInPlace(absence)
        if self._connection.closed:
            self._reconnect()
        lost = self._connection.lost_files()
        if lost:
            # Everything committed is still in the deleted log, which stays open until the connection is closed.
            if not self._connection.checkpoint():
                raise _NotInPlace(
                    f"{lost} was deleted while in use; do not restart the exporter: each poll tries to save"
                )
            self._reconnect()
            raise _NotInPlace(
                f"{lost} was deleted while in use; all earlier commits were saved, and the next poll writes"
            )

    def _reconnect(self) -> None:
        self._connection.close()
        self._connection = self._connect()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """One thread at a time; errors of SQLite become the operator's.

        Raises:
            StateError: the file cannot be read.
        """
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR:
                    raise  # a query that SQLite rejects is unexpected, and logged with its traceback
                raise StateError(f"state file {self._path} cannot be read: {why(error, self._file.path)}") from error

    def _count_jobs(self) -> int:
        return self._one("SELECT count(*) FROM job")

    def _one(self, query: str, *values: object) -> int:
        return int(self._db.execute(query, values).fetchone()[0])

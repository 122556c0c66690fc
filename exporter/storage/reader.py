"""Read a state file without locking it: consistent, and without a trace, whether or not a daemon is writing it."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from exporter.counting.values import Account, CounterValue, HistogramValue, JobRecord, Key
from exporter.errors import StateError
from exporter.storage.diagnosis import is_locked, why, wrong_user
from exporter.storage.last_path import log_left_behind
from exporter.storage.lock import check_regular, is_held_here, is_lost, lock_owner
from exporter.storage.paths import real_path
from exporter.storage.rows import (
    read_account,
    read_configured,
    read_counters,
    read_histograms,
    read_names,
    read_records,
    read_rows,
    read_wait_clock,
)
from exporter.storage.schema import (
    BUSY_SECONDS,
    RESTORE_ADVICE,
    Row,
    check_header,
    read_header,
)
from exporter.storage.validation import invalid_values

_STEPS_BETWEEN_CHECKS: Final = 10_000
"""Steps of SQLite's virtual machine, about a millisecond, between two checks whether to stop."""
_PAGES_PER_STEP: Final = 1000
_MAX_INTEGRITY_ERRORS: Final = 20
_INTERRUPTED: Final = "interrupted by a signal; nothing was written"


class LedgerSummary(NamedTuple):
    """One account's ledger in a state file.

    Attributes:
        names: the account's name. It is none while another ledger has that name, and an earlier version may have left
            several, the latest of them first.
        written_at: when something was counted last, or checked after a while without news, Unix seconds; None if that
            is not known.
    """

    account: Account
    names: tuple[str, ...]
    written_at: float | None
    tracked_jobs: int
    unfinished: int
    counters: Mapping[Key, CounterValue]
    histograms: Mapping[Key, HistogramValue]


class StateReader:
    """A state file as it was at one moment. For one thread."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @property
    def layout(self) -> int:
        """The version of its tables."""
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def ledgers(self) -> list[LedgerSummary]:
        """All ledgers, in the order of their creation.

        Raises:
            StateError: one holds a value that cannot be decoded.
        """
        try:
            return [
                self._ledger(number) for (number,) in self._db.execute("SELECT number FROM account ORDER BY number")
            ]
        except (TypeError, ValueError) as error:
            raise StateError(f"a value in the state file cannot be decoded: {error}; {RESTORE_ADVICE}") from error

    def _ledger(self, number: int) -> LedgerSummary:
        names = self._db.execute("SELECT name FROM binding WHERE account = ? ORDER BY rowid DESC", (number,))
        tracked_jobs, unfinished = self._db.execute(
            "SELECT count(*), count(*) FILTER (WHERE outcome = '') FROM job WHERE account = ?", (number,)
        ).fetchone()
        account = read_account(self._db, number)
        return LedgerSummary(
            account,
            tuple(name for (name,) in names),
            self._written_at(number) or account.listed_on,
            tracked_jobs,
            unfinished,
            read_counters(self._db, number),
            read_histograms(self._db, number),
        )

    def _written_at(self, number: int) -> float | None:
        """This machine's time of the last commit; None without one, or in a file of an earlier version."""
        if not self._db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'wait_clock'").fetchone()[0]:
            return None
        clock = read_wait_clock(self._db, number)
        return None if clock is None else clock.local_time

    def names(self) -> Mapping[str, tuple[str, str, str]]:
        """Name to endpoint, user and division of the ledger that has it."""
        return read_names(self._db)

    def configured(self) -> Mapping[str, float | None]:
        """The accounts that were in use last, and since when those are missing that a start did not find."""
        return read_configured(self._db)

    def places(self) -> set[tuple[str, str]]:
        """Endpoint and division of each ledger."""
        return set(self._db.execute("SELECT endpoint, division FROM account"))

    def records(self, number: int) -> Iterator[JobRecord]:
        """All job records of an account."""
        return read_records(self._db, number)

    def record(self, number: int, job_id: str) -> JobRecord | None:
        """The record of one job of an account; None if it has none."""
        return next(read_records(self._db, number, "id = ?", job_id), None)

    def rows(self, number: int) -> Iterator[tuple[str, Row]]:
        """An account's whole ledger as tables and rows, the account's own row first, with the columns of ``LEDGER``."""
        return read_rows(self._db, number)

    def integrity_errors(self) -> Iterator[str]:
        """One line per error that SQLite finds, and per column with invalid values."""
        for (found,) in self._db.execute(f"PRAGMA integrity_check({_MAX_INTEGRITY_ERRORS})"):
            if found != "ok":
                yield " ".join(found.split())
        yield from invalid_values(self._db)

    def copy_to(self, path: Path, cancelled: Callable[[], bool]) -> None:
        """Copy the whole file to the empty or missing *path*, without any files next to it.

        Raises:
            StateError: *cancelled* returned true.
            OSError: it cannot be written.
        """

        def check(_status: int, _left: int, _total: int) -> None:
            if cancelled():
                raise StateError(_INTERRUPTED)

        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as copy:
                self._db.backup(copy, pages=_PAGES_PER_STEP, progress=check)
                copy.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.Error as error:
            raise OSError(f"{error}; nothing was changed") from error


@contextmanager
def open_read_only(path: Path, cancelled: Callable[[], bool]) -> Iterator[StateReader]:
    """Open a state file to read it, also while a daemon has it locked. Nothing is written, not even next to it.

    Raises:
        StateError: it does not exist or cannot be used, or *cancelled* returned true.
    """
    if problem := wrong_user(path, writing=False):
        raise StateError(f"state file {path} cannot be read: {problem}")
    check_regular(path)
    file = real_path(path)
    try:
        if not is_held_here(file):  # opening it once more would end the locks of SQLite's connection
            check_header(path, read_header(file))
            if problem := log_left_behind(file):
                raise StateError(f"state file {path} {problem}")
    except FileNotFoundError as error:
        raise StateError(f"state file {path} {missing(path)}") from error
    except OSError as error:
        raise StateError(f"state file {path} cannot be read: {error.strerror}") from error
    # Without a write-ahead log no process has the file open, and SQLite would create a log and leave it behind.
    log = Path(f"{file}-wal")
    has_log = log.exists()
    address = f"{file.as_uri()}?mode=ro{'' if has_log else '&immutable=1'}"
    try:
        with closing(sqlite3.connect(address, uri=True, isolation_level=None, timeout=BUSY_SECONDS)) as db:
            db.set_progress_handler(cancelled, _STEPS_BETWEEN_CHECKS)
            db.execute("BEGIN")
            db.execute("SELECT count(*) FROM account").fetchone()  # BEGIN alone does not fix the moment that is read
            yield StateReader(db)
    except sqlite3.Error as error:
        if cancelled():
            raise StateError(_INTERRUPTED) from error
        owner = lock_owner(file)
        if owner and is_locked(error):
            raise StateError(
                f"state file {path} can be read by {owner} only, until its disk has space again"
            ) from error
        raise StateError(f"state file {path} cannot be used: {why(error, file, reading=True)}") from error
    if not has_log and log.exists():
        raise StateError(f"a daemon opened the state file {path} while it was read; try again")


def missing(path: Path) -> str:
    """Why there is no state file at *path*, as far as that is known, and what to do."""
    if owner := lock_owner(path):
        return (
            f"was moved or deleted while {owner} uses it, and that exporter counts nothing: put a moved file back; a"
            " deleted one is still open: before a restart, save it, or restore a backup; see the runbook of"
            " SbgStateNotWritable"
        )
    if is_lost(path):
        return (
            "does not exist, although its lock file shows that an exporter has used it: put a moved file back; for a"
            " deleted one, restore a backup before the exporter is started, which otherwise starts with empty counters;"
            " see the runbook of SbgStateNotWritable"
        )
    return (
        "does not exist; pass the exporter's --config or --state-file if it has another one, or start it once to create"
        " this one"
    )

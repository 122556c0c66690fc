"""A connection to the state file's database, as the daemon writes it.

Write-ahead logging with ``synchronous=FULL``: a commit that returned survives a power failure, and a backup may be
taken while the daemon runs.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporter.storage.last_path import log_of
from exporter.storage.paths import inode_at, is_gone
from exporter.storage.schema import ALLOWANCE_TABLE, BUSY_SECONDS, RETRY_TABLE, SCHEMA, WAIT_CLOCK_TABLE
from exporter.storage.validation import invalid_values


class Connection:
    """An open database.

    Attributes:
        db: the connection itself.
        exclusive: whether SQLite holds the file for itself, and needs no shared memory file then.
        closed: whether it is closed.
    """

    def __init__(self, file: Path, *, exclusive: bool = False) -> None:
        """Open *file*, without symbolic links, and create its tables if it is empty.

        Raises:
            sqlite3.Error: it cannot be opened.
        """
        self.exclusive = exclusive
        self.closed = False
        self.db = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise
        companions = (log_of(file), Path(f"{file}-shm"))
        self._companions = {each: inode for each in companions if (inode := inode_at(each)) is not None}

    def _prepare(self) -> None:
        if self.exclusive:
            self.db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self.db.execute("PRAGMA synchronous = FULL")
        if self.db.execute("PRAGMA user_version").fetchone()[0] == 0:
            # Before write-ahead logging is on, so that the header identifies the file even after a kill.
            self.db.executescript(f"BEGIN; {SCHEMA} COMMIT;")
        self.db.execute("PRAGMA journal_mode = WAL")
        _add_later_tables(self.db)
        self.db.execute("SELECT count(*) FROM job").fetchone()

    def close(self) -> None:
        """Close it; SQLite then moves the write-ahead log into the file, if both are where they were."""
        self.closed = True
        self.db.close()

    def problem(self) -> str:
        """What is wrong with its pages or values, in one line; empty if nothing is.

        Raises:
            sqlite3.Error: it cannot be read.
        """
        damage = " ".join(self.db.execute("PRAGMA quick_check(1)").fetchone()[0].split())
        return damage if damage != "ok" else next(invalid_values(self.db), "")

    def lost_files(self) -> str:
        """The names of the files next to the database that are no longer the ones in use."""
        lost = (each.name for each, inode in self._companions.items() if is_gone(each, inode))
        return " and ".join(lost)

    def checkpoint(self) -> bool:
        """Move the whole write-ahead log into the file, and return whether that is done.

        Raises:
            sqlite3.Error: it cannot be written.
        """
        busy, pages, moved = self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy and pages == moved

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[None]:
        """A transaction, which an error inside rolls back.

        Raises:
            sqlite3.Error: nothing was written.
        """
        if not durable:
            self.db.execute("PRAGMA synchronous = NORMAL")
        try:
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:  # SQLite itself rolls back on some errors, such as a full disk
                    self.db.execute("ROLLBACK")
                raise
        finally:
            if not durable:
                self.db.execute("PRAGMA synchronous = FULL")


def _add_later_tables(db: sqlite3.Connection) -> None:
    """Add to an older file what it lacks: none of it is part of a ledger."""
    db.executescript(ALLOWANCE_TABLE + WAIT_CLOCK_TABLE + RETRY_TABLE)
    if "saved_at" not in {name for _, name, *_ in db.execute("PRAGMA table_info(allowance)")}:
        db.execute("ALTER TABLE allowance ADD COLUMN saved_at REAL")

"""Tables, columns and versions of the state file."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from exporter.counting.values import JobRecord
from exporter.errors import StateError

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x5342_4745
"""``SBGE``: distinguishes a state file from other SQLite databases."""
BUSY_SECONDS: Final = 1.0
"""How long SQLite waits for another process. A commit that fails is retried at the next poll anyway."""
RESTORE_ADVICE: Final = "restore a backup, or move the file away to start with empty counters"

_HEADER: Final = b"SQLite format 3\0"
HEADER_BYTES: Final = 100
"""Length of the header of a SQLite file."""

JOB_COLUMNS: Final = JobRecord.__struct_fields__

ALLOWANCE_TABLE: Final = """
CREATE TABLE IF NOT EXISTS allowance (
    endpoint TEXT NOT NULL,
    username TEXT NOT NULL,
    entry TEXT NOT NULL,
    rate_limit INTEGER,
    used INTEGER NOT NULL,
    slices INTEGER NOT NULL,
    window_ends REAL NOT NULL,
    paused_until REAL NOT NULL,
    saved_at REAL,
    PRIMARY KEY (endpoint, username, entry)
) WITHOUT ROWID;
"""
"""Requests in the current rate limit window. Not part of a ledger; older files get the table when they are opened.

What counts are the lengths from ``saved_at``, which is this machine's clock and may be put right later. Files of the
first versions lack that column until they are opened.
"""

WAIT_CLOCK_TABLE: Final = """
CREATE TABLE IF NOT EXISTS wait_clock (
    account INTEGER PRIMARY KEY REFERENCES account (number),
    seconds REAL NOT NULL,
    platform_time REAL,
    local_time REAL NOT NULL,
    listed REAL
);
"""
"""The account's wait clock. Older files get the table when they are opened; an exported ledger does not contain it."""

RETRY_TABLE: Final = """
CREATE TABLE IF NOT EXISTS retry (
    account INTEGER NOT NULL REFERENCES account (number),
    job TEXT NOT NULL,
    failures INTEGER NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (account, job)
) WITHOUT ROWID;
"""
"""Jobs whose own endpoint failed, and the account's wait clock from which each may be requested again. Older files get
the table when they are opened; an exported ledger does not contain it."""

CONFIGURED_TABLE: Final = """
CREATE TABLE IF NOT EXISTS configured (
    name TEXT PRIMARY KEY,
    missing_since REAL
);
"""
"""The accounts of the configuration that was last in use; and those that a start did not find in it any more, with this
machine's time of that start. Part of no ledger. Older files get the table when it is written, so that a full disk does
not keep them from being opened."""

SCHEMA: Final = f"""
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
{ALLOWANCE_TABLE}
{WAIT_CLOCK_TABLE}
{RETRY_TABLE}
{CONFIGURED_TABLE}
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""

Row = tuple[object, ...]
"""One row as SQLite returns it: texts, integers, floats and None."""

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
    "job": JOB_COLUMNS,
    "counter": ("family", "labels", "value", "created", "exemplar"),
    "histogram": ("family", "labels", "bounds", "counts", "sum", "created", "exemplars"),
}
"""The tables of an account's ledger, and their columns without the account's number."""


def number_column(table: str) -> str:
    """The column of *table* with the number of the account that a row belongs to."""
    return "number" if table == "account" else "account"


@contextmanager
def tables_in_memory(most_bytes: int) -> Iterator[sqlite3.Connection]:
    """The state file's tables in memory, which takes at most *most_bytes*."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.execute(f"PRAGMA max_page_count = {most_bytes // db.execute('PRAGMA page_size').fetchone()[0]}")
        db.executescript(SCHEMA)
        yield db


def read_header(path: Path) -> bytes:
    """The header of a SQLite file; empty for an empty file."""
    with path.open("rb") as file:
        return file.read(HEADER_BYTES)


def check_header(path: Path, header: bytes) -> None:
    """Check type and version by the file's own bytes: opening it as a database would already create files next to it.

    Raises:
        StateError: it is not a state file of this version or an older one.
    """
    if len(header) < HEADER_BYTES or not header.startswith(_HEADER):
        advice = f"set a different state_file, or if it was one, {RESTORE_ADVICE}"
        raise StateError(f"{path} is not a state file of sbg-exporter; {advice}")
    version = int.from_bytes(header[60:64], "big")
    application = int.from_bytes(header[68:72], "big")
    if application != APPLICATION_ID:
        raise StateError(f"{path} is a database of another program; set a different state_file")
    if version > SCHEMA_VERSION:
        raise StateError(
            f"state file {path} was written by a newer version of sbg-exporter (layout {version}, this version reads"
            f" {SCHEMA_VERSION}); run that version, or restore a backup"
        )

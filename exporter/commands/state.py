"""``state``: what the state file holds, whether it is sound, a copy of it, and one account's ledger out, in or gone.

Looking, checking, copying and exporting read the file as it is at one moment, whoever holds it. Importing and
forgetting hold it themselves, so the daemon must be stopped; each is one transaction. What is written elsewhere is
written beside its place and renamed, so that nobody ever finds half of it.

An exported ledger is text, a JSON value a line, because it travels: through a pipe into another pod, and past people
who want to see what is in it. The first line says what it is and names the columns, the rows follow, and the last line
counts them and has the checksum of all lines above it. Numbers come back as they were, to the last bit.
"""

import errno
import hashlib
import json
import math
import os
import sqlite3
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from exporter import __version__
from exporter.api.models import OUTCOMES
from exporter.counting import values as counting
from exporter.counting.labels import decode_error_counts, encode_error_counts
from exporter.counting.values import FORGET_AFTER, HistogramValue, JobRecord, Key
from exporter.errors import ConfigError, OutputError, StateError
from exporter.storage.store import (
    LEDGER,
    SCHEMA_VERSION,
    LedgerSummary,
    Row,
    StateReader,
    Store,
    insert_rows,
    lock_owner,
    open_read_only,
    tables_in_memory,
)

_FORMAT: Final = "sbg-exporter ledger"
_FORMAT_VERSION: Final = 1
_STANDARD_INPUT: Final = Path("-")
_KIBI: Final = 1024
_MEBI: Final = _KIBI**2
_ROUNDING: Final = 1e-9
_BESIDE: Final = ("-journal", "-wal", "-shm", ".lock")
"""What SQLite's files beside a state file, and the lock, have at the end of their names."""

_IN_WORDS: Final[Mapping[str, str]] = {
    counting.JOBS_SUBMITTED: "jobs submitted",
    counting.JOBS_FINISHED: "finished",
    counting.FILES: "files",
    counting.FILES_COMPLETED: "completed",
    counting.FILES_FAILED: "failed",
    counting.FILE_ERRORS: "error records",
}
"""The counters, and how a person calls the sum of each."""


@dataclass(frozen=True, slots=True)
class StateFileOptions:
    """Which state file it is about, and how.

    Attributes:
        show_username: whether user names are printed.
        stop: set when what reads is to break off; what it had written beside its place is then removed.
    """

    file: Path
    show_username: bool
    stop: threading.Event

    def read(self) -> AbstractContextManager[StateReader]:
        """The file as it is now; a context."""
        return open_read_only(self.file, self.stop.is_set)


# ---- show ----


def show(options: StateFileOptions, *, as_json: bool) -> int:
    """Print what the file is and what it holds of each account; 0.

    Raises:
        StateError: it cannot be read.
    """
    with options.read() as state:
        layout, ledgers = state.layout, state.ledgers()
    files = (options.file, Path(f"{options.file}-wal"))
    size, locked_by = sum(each.stat().st_size for each in files if each.exists()), lock_owner(options.file)
    if as_json:
        accounts = [_as_json(each, options) for each in ledgers]
        whole = {
            "file": str(options.file),
            "bytes": size,
            "layout": layout,
            "locked_by": locked_by,
            "accounts": accounts,
        }
        _say(json.dumps(whole, indent=2))
        return 0
    _say(str(options.file))
    _say(f"  size        {_bytes(size)}")
    _say(f"  layout      {layout}")
    _say(f"  locked by   {locked_by or 'nobody'}")
    for each in ledgers:
        _say(", ".join(each.names) or "(bound to no name)")
        for line in _described(each, options):
            _say(f"  {line}")
    return 0


def _described(ledger: LedgerSummary, options: StateFileOptions) -> Iterator[str]:
    account = ledger.account
    yield f"endpoint    {account.endpoint}"
    if options.show_username:
        yield f"user        {account.username}"
    if account.division:
        yield f"division    {account.division}"
    yield f"since       {_when(account.counting_since)}"
    yield f"listed      {'never completely' if account.listed_on is None else _when(account.listed_on)}"
    yield f"jobs        {ledger.tracked_jobs} tracked, {ledger.unfinished} unfinished"
    yield f"counted     {_counted(ledger)}"


def _counted(ledger: LedgerSummary) -> str:
    return ", ".join(f"{total} {_IN_WORDS.get(family, family)}" for family, total in _totals(ledger).items())


def _totals(ledger: LedgerSummary) -> Mapping[str, int]:
    """The sum of each family's counters."""
    totals = dict.fromkeys(_IN_WORDS, 0)
    for (family, _), count in ledger.counters.items():
        totals[family] = totals.get(family, 0) + count.value
    return totals


def _as_json(ledger: LedgerSummary, options: StateFileOptions) -> Mapping[str, object]:
    account = ledger.account
    return {
        "names": ledger.names,
        "endpoint": account.endpoint,
        "username": account.username if options.show_username else None,
        "division": account.division,
        "counting_since": account.counting_since,
        "last_full_listing": account.listed_on,
        "jobs_tracked": ledger.tracked_jobs,
        "jobs_unfinished": ledger.unfinished,
        "totals": _totals(ledger),
    }


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


def _bytes(number: int) -> str:
    return f"{number / _MEBI:.1f} MiB" if number >= _MEBI else f"{number / _KIBI:.1f} KiB"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


# ---- check ----


def check(options: StateFileOptions) -> int:
    """Print a line for everything that is wrong with the file.

    Returns:
        0 when it is sound, else 1.

    Raises:
        StateError: it cannot be read at all.
    """
    with options.read() as state:
        wrong = 0
        for line in _problems(state, options):
            _say(line)
            wrong += 1
        if wrong:
            return 1
        ledgers = state.ledgers()
    _say(f"{options.file} is sound: {_size_of(ledgers)}.")
    return 0


def _size_of(ledgers: Sequence[LedgerSummary]) -> str:
    accounts, jobs = len(ledgers), sum(each.tracked_jobs for each in ledgers)
    return f"{accounts} account{'' if accounts == 1 else 's'}, {jobs} job{'' if jobs == 1 else 's'} tracked"


def _problems(state: StateReader, options: StateFileOptions) -> Iterator[str]:
    """What is wrong: with the file, and only when that is well, with what it holds."""
    damaged = False
    for line in state.integrity_errors():
        damaged = True
        yield line
    if not damaged:
        for ledger in state.ledgers():
            for line in audit(ledger, state.records(ledger.account.number)):
                yield f"{_called(ledger, options)}: {line}"


def audit(ledger: LedgerSummary, records: Iterable[JobRecord]) -> Iterator[str]:
    """Where counters, histograms and *records*, all that there are, do not go together."""
    least, most, odd = Counter[Key](), Counter[Key](), dict[str, list[str]]()
    for record in records:
        for word in _record_errors(record, ledger):
            odd.setdefault(word, []).append(record.id)
        counted = Counter(dict(_counted_of(record)))
        most.update(counted)
        if not record.history:  # history was counted or not, as the setting said then
            least.update(counted)
    for word, ids in odd.items():
        yield f"{len(ids)} of the job records {word}, such as that of job {ids[0]}"
    yield from _miscounted(ledger, least, most)
    for key, histogram in sorted(ledger.histograms.items()):
        for line in _histogram_problems(key, histogram, ledger):
            yield f"{_series(key)} {line}"


def _miscounted(ledger: LedgerSummary, least: Counter[Key], most: Counter[Key]) -> Iterator[str]:
    # Before so much listing time has passed no mark was ever forgotten, so that the marks tell everything counted.
    all_there = ledger.account.listing_clock < FORGET_AFTER
    for key in sorted({*ledger.counters, *least}):
        value = ledger.counters[key].value if key in ledger.counters else 0
        if value < least[key]:
            yield f"{_series(key)} is {value}, but the tracked jobs make {least[key]}"
        elif all_there and value > most[key]:
            yield f"{_series(key)} is {value}, but the tracked jobs make no more than {most[key]}"


def _counted_of(record: JobRecord) -> Iterator[tuple[Key, int]]:
    """What counters have of one job."""
    operation = record.operation
    yield (counting.JOBS_SUBMITTED, (operation,)), 1
    yield (counting.FILES, (operation,)), record.total
    yield (counting.FILES_COMPLETED, (operation,)), record.completed
    yield (counting.FILES_FAILED, (operation,)), record.failed
    if record.outcome:
        yield (counting.JOBS_FINISHED, (operation, record.outcome)), 1
    for code, records in decode_error_counts(record.error_counts).items():
        yield (counting.FILE_ERRORS, (operation, code)), records


def _record_errors(record: JobRecord, ledger: LedgerSummary) -> Iterator[str]:
    counted, shown = (
        (record.total, record.completed, record.failed),
        (record.last_total, record.last_completed, record.last_failed),
    )
    if any(last > highest for last, highest in zip(shown, counted, strict=True)):
        yield "have counted less than was last shown"
    if min(*counted, *shown) < 0:
        yield "have counts below 0"
    if record.outcome and record.outcome not in OUTCOMES:
        yield "have an outcome that there is not"
    if record.unlisted_at is not None and record.unlisted_at > ledger.account.listing_clock:
        yield "are unlisted since later than now"
    if encode_error_counts(decode_error_counts(record.error_counts)) != record.error_counts:
        yield "have error codes that cannot be read"


def _histogram_problems(key: Key, histogram: HistogramValue, ledger: LedgerSummary) -> Iterator[str]:
    bounds, counts = histogram.bounds, histogram.counts
    if not len(bounds) + 1 == len(counts) == len(histogram.exemplars):
        yield "has not one bucket for each bound and one above them"
        return
    if any(one >= other for one, other in pairwise((0.0, *bounds))):
        yield "has bounds that do not rise"
    if min(counts) < 0:
        yield "has counts below 0"
    observed = sum(counts)
    lowest = sum(number * bound for number, bound in zip(counts, (0.0, *bounds), strict=True))
    above = (*bounds, math.inf)
    highest = sum(number * bound for number, bound in zip(counts, above, strict=True) if number)
    slack = _ROUNDING * (1.0 + observed) * max(1.0, abs(histogram.sum))
    if not lowest - slack <= histogram.sum <= highest + slack:
        yield f"has a sum of {histogram.sum:g}, which its buckets cannot make"
    family, labels = key
    whole = counting.JOBS_SUBMITTED if family == counting.JOB_QUEUE_DURATION else counting.JOBS_FINISHED
    jobs = ledger.counters.get((whole, labels))
    if observed > (jobs.value if jobs else 0):
        yield f"has {observed} observations of {jobs.value if jobs else 0} jobs"


def _series(key: Key) -> str:
    family, labels = key
    return f"{family} ({', '.join(labels)})"


# ---- which account ----


def _ledger_of(words: Sequence[str], state: StateReader, options: StateFileOptions) -> LedgerSummary:
    """The one ledger that *words* mean: the name bound to it, or the beginning of endpoint, user and division.

    Raises:
        StateError: they mean none, or several.
    """
    ledgers = state.ledgers()
    named = [each for each in ledgers if len(words) == 1 and words[0] in each.names]
    found = named or [each for each in ledgers if _identity(each)[: len(words)] == (words[0].rstrip("/"), *words[1:])]
    if len(found) == 1:
        return found[0]
    there = "; ".join(_called(each, options) for each in found or ledgers) or "none"
    if found:
        raise StateError(f"that may be several accounts, say which: {there}")
    raise StateError(f"no such account in {options.file}; there: {there}")


def _identity(ledger: LedgerSummary) -> tuple[str, ...]:
    account = ledger.account
    return account.endpoint, account.username, account.division


def _called(ledger: LedgerSummary, options: StateFileOptions) -> str:
    """What an account can be called on the command line."""
    if ledger.names:
        return ledger.names[0]
    endpoint, username, division = _identity(ledger)
    return " ".join((endpoint, username if options.show_username else "(user not shown)", division)).rstrip()


# ---- backup ----


def backup(options: StateFileOptions, target: Path, *, force: bool) -> int:
    """Copy the state file to *target*, a state file itself, for its owner alone; 0.

    Raises:
        StateError: the state file cannot be read, or the command was told to stop.
        OutputError: *target* cannot be written, or is there and *force* is not set.
    """
    with _replacing(target, options, force=force) as beside:
        with options.read() as state:
            try:
                state.copy_to(beside, options.stop.is_set)
            except sqlite3.Error as error:
                raise OutputError(f"{target} cannot be written: {error}; nothing was changed") from error
            ledgers = state.ledgers()
        with open_read_only(beside, options.stop.is_set) as copy:
            wrong = next(copy.integrity_errors(), None) or (
                "" if copy.ledgers() == ledgers else "it differs from the state file"
            )
        if wrong:
            raise OutputError(f"{target} was not written, because the copy is not sound: {wrong}")
    _say(f"{target} is written: {_size_of(ledgers)}, {_bytes(target.stat().st_size)}.")
    return 0


@contextmanager
def _replacing(path: Path, options: StateFileOptions, *, force: bool) -> Iterator[Path]:
    """A file beside *path*, for its owner alone, which takes its place when the context is left without an error."""
    try:
        _check_free(path, options, force=force)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(descriptor)
        beside = Path(name)
        try:
            yield beside
            _wait_for_disk(beside)
            _check_free(path, options, force=force)
            beside.replace(path)
        except BaseException:
            for what in ("", *_BESIDE):
                with suppress(OSError):
                    Path(f"{beside}{what}").unlink()
            raise
        _wait_for_disk(path.parent)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def _check_free(path: Path, options: StateFileOptions, *, force: bool) -> None:
    """Refuse to overwrite what is there, and by all means a state file that somebody uses."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if _is_in_use(path, options):
        raise OutputError(f"{path} is a state file in use; write to another place")
    if path.exists() and not force:
        raise OutputError(f"{path} is there already; --force overwrites it")


def _is_in_use(path: Path, options: StateFileOptions) -> bool:
    """Whether *path* is a state file that somebody uses, or what lies beside one: its log, its index, its lock."""
    files = (path, *(Path(str(path).removesuffix(what)) for what in _BESIDE if path.name.endswith(what)))
    return any(
        each.resolve() == options.file.resolve() or lock_owner(each) or Path(f"{each}-wal").exists() for each in files
    )


def _wait_for_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- export and import ----


def export_ledger(
    options: StateFileOptions, words: Sequence[str], output: Path | None, *, force: bool, warn: Callable[[str], object]
) -> int:
    """Write the whole ledger of the account that *words* mean, to *output* or else standard output; 0.

    Raises:
        StateError: the state file cannot be read or knows no such account, or the command was told to stop.
        OutputError: *output* cannot be written, or is there and *force* is not set.
    """
    with options.read() as state:
        ledger = _ledger_of(words, state, options)
        lines = _exported(ledger, state)
        if output is None:
            for line in lines:
                sys.stdout.write(line)
        else:
            with _replacing(output, options, force=force) as beside, beside.open("w", encoding="utf-8") as file:
                file.writelines(lines)
    if locked_by := lock_owner(options.file):
        warn(f"the state file is locked by {locked_by}: what is counted from now on is not in the exported ledger")
    if output is not None:
        _say(
            f"{output} is written: {_called(ledger, options)}, {ledger.tracked_jobs} jobs tracked, {_counted(ledger)}."
        )
    return 0


def _exported(ledger: LedgerSummary, state: StateReader) -> Iterator[str]:
    digest, rows = hashlib.sha256(), Counter[str]()
    first = {
        "format": _FORMAT,
        "version": _FORMAT_VERSION,
        "layout": SCHEMA_VERSION,
        "exporter": __version__,
        "exported_at": _when(datetime.now(UTC).timestamp()),
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


class _First(msgspec.Struct):
    """The first line of an exported ledger, as far as it is read."""

    format: str
    version: int
    layout: int
    columns: dict[str, list[str]]


class _Last(msgspec.Struct):
    """Its last line."""

    rows: dict[str, int]
    sha256: str


class _NotExported(Exception):
    """The file is not what was exported; the text says why."""


def import_ledger(options: StateFileOptions, source: Path, *, replace: bool, warn: Callable[[str], object]) -> int:
    """Take the ledger in *source* (``-``: standard input) into the state file, which is made if there is none; 0.

    It is put together and checked in memory first.

    Raises:
        StateError: it cannot be imported, or the state file cannot be used; nothing was changed.
        StateWriteError: likewise.
    """
    with tables_in_memory() as memory:
        try:
            with _opened(source) as file:
                insert_rows(memory, 1, _rows_in(file))
        except OSError as error:
            raise StateError(f"{source} cannot be read: {error.strerror or error}") from error
        except _NotExported as error:
            raise StateError(f"{source} cannot be imported: {error}") from None
        except (sqlite3.Error, OverflowError) as error:
            raise StateError(f"{source} cannot be imported: its rows are no ledger: {error}") from error
        state = StateReader(memory)
        if wrong := next(_problems(state, options), None):
            raise StateError(f"{source} cannot be imported: it does not go together: {wrong}")
        ledgers, rows = state.ledgers(), list(state.rows(1))
    if not ledgers:
        raise StateError(f"{source} cannot be imported: no account is in it")
    with closing(Store(options.file)) as store:
        taken = store.import_ledger(rows, replace=replace)
    for name in taken:
        warn(f"the name {name} stays with another account of {options.file}")
    [ledger] = ledgers
    _say(
        f"imported into {options.file}: {_called(ledger, options)}, {ledger.tracked_jobs} jobs tracked,"
        f" {_counted(ledger)}."
    )
    return 0


def _opened(source: Path) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if source == _STANDARD_INPUT else source.open("rb")


def _rows_in(lines: Iterable[bytes]) -> Iterator[tuple[str, Row]]:
    """The rows of an exported ledger; whether they are whole is known only after the last."""
    above = iter(lines)
    first = next(above, b"")
    _check_first(first)
    digest, rows = hashlib.sha256(first), Counter[str]()
    for line in above:
        if line.startswith(b"{"):
            if next(above, None) is not None:
                raise _NotExported("something follows its last line")
            _check_last(line, _Last(dict(rows), digest.hexdigest()))
            return
        digest.update(line)
        try:
            table, *row = json.loads(line)
            fits = len(row) == len(LEDGER[table])
        except (ValueError, TypeError, KeyError):
            fits = False
        if not fits:
            raise _NotExported("it is damaged: a line in it is no row of a ledger")
        rows[table] += 1
        yield table, tuple(row)
    raise _NotExported("it is cut short")


def _check_first(line: bytes) -> None:
    try:
        first = msgspec.json.decode(line, type=_First)
    except (msgspec.DecodeError, UnicodeDecodeError):
        first = _First("", 0, 0, {})
    if first.format != _FORMAT:
        raise _NotExported("it is not what sbg-exporter state export writes")
    if first.version > _FORMAT_VERSION or first.layout > SCHEMA_VERSION:
        raise _NotExported("it was exported by a newer version of sbg-exporter; import it with that one")
    if {table: tuple(columns) for table, columns in first.columns.items()} != LEDGER:
        raise _NotExported("it has other columns than this version knows")


def _check_last(line: bytes, right: _Last) -> None:
    try:
        last = msgspec.json.decode(line, type=_Last)
    except (msgspec.DecodeError, UnicodeDecodeError):
        last = None
    if last != right:
        raise _NotExported("it is damaged: its lines are not those that were exported")


# ---- forget ----


def forget_ledger(options: StateFileOptions, words: Sequence[str], *, sure: bool) -> int:
    """Delete the ledger of the account that *words* mean; 0.

    Raises:
        ConfigError: nobody said that they are *sure*; the text says what would be lost.
        StateError: the state file cannot be used or knows no such account.
        StateWriteError: nothing was changed.
    """
    with options.read() as state:
        ledger = _ledger_of(words, state, options)
    loss = f"{_called(ledger, options)}: {ledger.tracked_jobs} jobs tracked, {_counted(ledger)}"
    if not sure:
        raise ConfigError(f"this would delete for good the ledger of {loss}; say --yes if that is wanted")
    with closing(Store(options.file)) as store:
        with options.read() as state:  # again, now that nobody else can write it
            number = _ledger_of(words, state, options).account.number
        store.forget(number)
    _say(f"forgotten: {loss}.")
    _say("A daemon that watches it begins anew: its counters at 0, unfinished jobs in full, finished ones as history.")
    return 0

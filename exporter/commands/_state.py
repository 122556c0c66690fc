"""What ``state`` does: show, check, back up, export, import or delete what the state file holds.

``show``, ``check``, ``backup`` and ``export`` read a consistent view of the file, also while the exporter runs.
``import`` and ``forget`` lock the file, so the exporter must be stopped; each is one transaction.
"""

import errno
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from exporter.api.platforms import place
from exporter.commands._output import say
from exporter.commands._settings import home_folder, load_configuration
from exporter.config.loading import settings_beside
from exporter.config.settings import Settings
from exporter.counting import values as counting
from exporter.errors import ConfigError, OutputError, StateError, file_problem
from exporter.storage.audit import audit
from exporter.storage.diagnosis import restore_advice, wrong_user
from exporter.storage.files import atomic_write, is_in_use
from exporter.storage.lock import lock_owner
from exporter.storage.paths import real_path
from exporter.storage.reader import LedgerSummary, StateReader, open_read_only
from exporter.storage.store import Store
from exporter.storage.transfer import InvalidExport, export_lines, read_export, timestamp
from exporter.text import count

_STANDARD_INPUT: Final = Path("-")
_KIBI: Final = 1024
_MEBI: Final = _KIBI**2
_NOT_USED: Final = "the configuration is invalid and not used; `sbg-exporter check` lists its problems; this is {file}"

_TOTAL_NAMES: Final[Mapping[str, str]] = {
    counting.JOBS_SUBMITTED: "jobs submitted",
    counting.JOBS_FINISHED: "finished",
    counting.FILES: "files",
    counting.FILES_COMPLETED: "completed",
    counting.FILES_FAILED: "failed",
    counting.FILE_ERRORS: "error records",
}
"""Counter families, and what the sum of each is called in the output."""


NO_ACCOUNTS: Final[Mapping[str, object]] = {
    "accounts": ({"name": "none", "api_endpoint": "http://localhost/v2", "auth_token": "none"},),
    "profiles": (),
}
"""Replaces the configured accounts: no request is sent, so the command needs no permission to read tokens."""


@dataclass(frozen=True, slots=True)
class StateFileOptions:
    """The state file that a command works on.

    Attributes:
        file: its path.
        show_username: whether user names are printed.
        stop: set to interrupt reading; files that are not complete yet are then removed.
        settings_of: reads the whole configuration, and makes a function from an account's name to the settings that it
            is polled with; None where it is not configured.
        warnings: what to know about the configuration, one line each.
    """

    file: Path
    show_username: bool
    stop: threading.Event
    settings_of: Callable[[], Callable[[str], Settings | None]] = lambda: lambda _: None
    warnings: tuple[str, ...] = ()

    def read(self) -> AbstractContextManager[StateReader]:
        """The file as it is now, as a context."""
        return open_read_only(self.file, self.stop.is_set)


def state_file_options(flags: Mapping[str, object], stop: threading.Event | None = None) -> StateFileOptions:
    """The state file of the configuration that *flags* lead to; its accounts do not matter.

    An invalid configuration, such as one that the running exporter has rejected, is a warning if it can be told which
    state file it means. No user is shown then, because that may be what it says. Commands without *stop* have nothing
    to clean up: SQLite commits all or nothing.

    Raises:
        ConfigError: with a line for every problem.
    """
    try:
        configuration = load_configuration({**flags, **NO_ACCOUNTS})
    except ConfigError:
        usual = settings_beside(flags, os.environ, home_folder())
        if usual is None or usual.state_file is None:
            raise
        shows = flags.get("show_username") is True
        used = _NOT_USED.format(file=usual.state_file)
        return StateFileOptions(usual.state_file, shows, stop or threading.Event(), lambda: lambda _: usual, (used,))
    show_username = configuration.settings.show_username
    return StateFileOptions(
        configuration.state_file,
        show_username,
        stop or threading.Event(),
        lambda: _settings_of_each(flags, configuration.settings),
    )


def _settings_of_each(flags: Mapping[str, object], otherwise: Settings) -> Callable[[str], Settings | None]:
    """The settings by an account's name; *otherwise* for all accounts if those of the configuration are not usable."""
    try:
        configuration = load_configuration(flags)
    except ConfigError:
        return lambda _: otherwise
    return lambda name: configuration.settings_of(name) if name in configuration.names else None


# ---- show ----


def show(options: StateFileOptions, *, as_json: bool) -> int:
    """Print the state file's properties and the ledger of each account; 0.

    Raises:
        StateError: it cannot be read.
    """
    with options.read() as state:
        layout, ledgers = state.layout, state.ledgers()
    files = (options.file, Path(f"{real_path(options.file)}-wal"))
    size, locked_by = sum(each.stat().st_size for each in files if each.exists()), lock_owner(options.file)
    if as_json:
        properties = {
            "file": str(options.file),
            "bytes": size,
            "layout": layout,
            "locked_by": locked_by,
            "accounts": [_as_json(each, options) for each in ledgers],
        }
        for line in json.dumps(properties, indent=2).splitlines():
            say(line)
        return 0
    say(str(options.file))
    say(f"  size        {_bytes(size)}")
    say(f"  layout      {layout}")
    say(f"  locked by   {locked_by or '-'}")
    for each in ledgers:
        say(", ".join(each.names) or "(bound to no name)")
        for line in _describe(each, options):
            say(f"  {line}")
    return 0


def _describe(ledger: LedgerSummary, options: StateFileOptions) -> Iterator[str]:
    account = ledger.account
    yield f"endpoint    {account.endpoint}"
    if options.show_username:
        yield f"user        {account.username}"
    if account.division:
        yield f"division    {account.division}"
    yield f"since       {timestamp(account.counting_since)}"
    yield f"listed      {'never completely' if account.listed_on is None else timestamp(account.listed_on)}"
    yield f"jobs        {ledger.tracked_jobs} tracked, {ledger.unfinished} unfinished"
    yield f"counted     {_counted(ledger)}"
    yield f"last count  {'-' if ledger.written_at is None else timestamp(ledger.written_at)}"


def _counted(ledger: LedgerSummary) -> str:
    return ", ".join(f"{total} {_TOTAL_NAMES.get(family, family)}" for family, total in _totals(ledger).items())


def _tracked(ledger: LedgerSummary) -> str:
    return f"{count(ledger.tracked_jobs, 'job')} tracked"


def _totals(ledger: LedgerSummary) -> Mapping[str, int]:
    """The sum of each family's counters."""
    totals = dict.fromkeys(_TOTAL_NAMES, 0)
    for (family, _), counter in ledger.counters.items():
        totals[family] = totals.get(family, 0) + counter.value
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
        "last_counted": ledger.written_at,
        "jobs_tracked": ledger.tracked_jobs,
        "jobs_unfinished": ledger.unfinished,
        "totals": _totals(ledger),
    }


def _bytes(number: int) -> str:
    return f"{number / _MEBI:.1f} MiB" if number >= _MEBI else f"{number / _KIBI:.1f} KiB"


# ---- check ----


def check(options: StateFileOptions) -> int:
    """Print one line per problem in the state file.

    Returns:
        0 if there is none, else 1.

    Raises:
        StateError: it cannot be read at all.
    """
    with options.read() as state:
        problems = 0
        for line in _problems(state, options):
            say(line)
            problems += 1
        if problems:
            return 1
        ledgers = state.ledgers()
    say(f"{options.file} is intact: {_size_of(ledgers)}.")
    return 0


def _size_of(ledgers: Sequence[LedgerSummary]) -> str:
    jobs = sum(each.tracked_jobs for each in ledgers)
    return f"{count(len(ledgers), 'account')}, {count(jobs, 'job')} tracked"


def _problems(state: StateReader, options: StateFileOptions) -> Iterator[str]:
    """Errors in the file itself, and what to do; if there are none, disagreements within its ledgers."""
    damaged = False
    for line in state.integrity_errors():
        damaged = True
        yield line
    if damaged:
        yield f"{options.file} is damaged; {restore_advice(real_path(options.file))}"
    else:
        for ledger in state.ledgers():
            for line in audit(ledger, state.records(ledger.account.number)):
                yield f"{name_of(ledger, options)}: {line}"


def _opened(file: Path) -> Store:
    """The state file, locked to change it.

    Raises:
        StateError: it cannot be used, or this user may not.
    """
    if problem := wrong_user(file, writing=True):
        raise StateError(f"state file {file} cannot be opened: {problem}")
    return Store(file)


# ---- which account ----


def select_ledger(words: Sequence[str], state: StateReader, options: StateFileOptions) -> LedgerSummary:
    """The one ledger that *words* identify: its name, or endpoint, user and division or the first of them.

    Raises:
        StateError: they identify none, or several.
    """
    ledgers = state.ledgers()
    named = [each for each in ledgers if len(words) == 1 and words[0] in each.names]
    found = named or [each for each in ledgers if _identity(each)[: len(words)] == (words[0].rstrip("/"), *words[1:])]
    if len(found) == 1:
        return found[0]
    known = "; ".join(name_of(each, options) for each in found or ledgers) or "none"
    if found:
        raise StateError(f"several accounts match; use one of: {known}")
    raise StateError(f"no such account in {options.file}; its accounts: {known}")


def _identity(ledger: LedgerSummary) -> tuple[str, ...]:
    account = ledger.account
    return account.endpoint, account.username, account.division


def name_of(ledger: LedgerSummary, options: StateFileOptions) -> str:
    """Words that identify an account on the command line."""
    if ledger.names:
        return ledger.names[0]
    endpoint, username, division = _identity(ledger)
    return " ".join((endpoint, username if options.show_username else "(user not shown)", division)).rstrip()


# ---- backup ----


def backup(options: StateFileOptions, target: Path, *, force: bool) -> int:
    """Copy the state file to *target*, a state file itself, with mode 0600; 0.

    Raises:
        StateError: the state file cannot be read, or the command was interrupted.
        OutputError: *target* cannot be written, or it exists and *force* is not set.
    """
    with _replacing(target, options, force=force) as temporary:
        with options.read() as state:
            state.copy_to(temporary, options.stop.is_set)
            ledgers = state.ledgers()
        with open_read_only(temporary, options.stop.is_set) as copy:
            problem = next(copy.integrity_errors(), None) or (
                "" if copy.ledgers() == ledgers else "it differs from the state file"
            )
        if problem:
            raise OutputError(f"{target} was not written, because the copy is damaged: {problem}")
    say(f"wrote {target}: {_size_of(ledgers)}, {_bytes(target.stat().st_size)}.")
    return 0


@contextmanager
def _replacing(path: Path, options: StateFileOptions, *, force: bool) -> Iterator[Path]:
    """A file next to *path* with mode 0600, which replaces it when the context ends without an error.

    Raises:
        OutputError: it cannot be written, is a state file in use, or exists and *force* is not set.
    """

    def check_replaceable() -> None:
        _check_replaceable(path, options, force=force)

    try:
        check_replaceable()  # before a long copy
        with atomic_write(path, state_file=options.file, before_replacing=check_replaceable) as temporary:
            yield temporary
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {file_problem(error, writing=True)}") from error


def _check_replaceable(path: Path, options: StateFileOptions, *, force: bool) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if is_in_use(path, options.file):
        raise OutputError(f"{path} is a state file in use; choose a different path")
    if path.exists() and not force:
        raise OutputError(f"{path} already exists; --force overwrites it")


# ---- export and import ----


def export_ledger(
    options: StateFileOptions, words: Sequence[str], output: Path | None, *, force: bool, warn: Callable[[str], object]
) -> int:
    """Write the ledger of the account that *words* identify to *output*, or to standard output; 0.

    Raises:
        StateError: the state file cannot be read or has no such account, or the command was interrupted.
        OutputError: *output* cannot be written, or it exists and *force* is not set.
    """
    with options.read() as state:
        ledger = select_ledger(words, state, options)
        lines = export_lines(ledger, state)
        if output is None:
            for line in lines:
                sys.stdout.write(line)
        else:
            with (
                _replacing(output, options, force=force) as temporary,
                temporary.open("w", encoding="utf-8") as file,
            ):
                file.writelines(lines)
    if locked_by := lock_owner(options.file):
        warn(f"the state file is locked by {locked_by}: what that exporter counts from now on is not in the export")
    if output is not None:
        say(f"wrote {output}: {name_of(ledger, options)}, {_tracked(ledger)}, {_counted(ledger)}.")
    return 0


def import_ledger(options: StateFileOptions, source: Path, *, replace: bool, warn: Callable[[str], object]) -> int:
    """Import the ledger in *source* (``-``: standard input) into the state file, which is created if missing; 0.

    The ledger is first loaded and checked in memory, as strictly as the state file itself at the daemon's start.

    Raises:
        StateError: it cannot be imported, or the state file cannot be used; nothing was changed.
        StateWriteError: the state file cannot be written; nothing was changed.
    """
    try:
        with _open_source(source) as file, read_export(file) as state:
            ledger = _checked(state, options)
            with closing(_opened(options.file)) as store:
                taken = store.import_ledger(state.rows(ledger.account.number), replace=replace)
    except OSError as error:
        raise StateError(f"{source} cannot be read: {file_problem(error)}") from error
    except InvalidExport as error:
        raise StateError(f"{source} cannot be imported: {error}") from error
    for name in taken:
        warn(f"the name {name} stays with another account of {options.file}")
    say(f"imported into {options.file}: {name_of(ledger, options)}, {_tracked(ledger)}, {_counted(ledger)}.")
    return 0


def _checked(state: StateReader, options: StateFileOptions) -> LedgerSummary:
    """The one ledger of an export.

    Raises:
        InvalidExport: there is none, or it is inconsistent.
    """
    problem = next(_problems(state, options), None)
    if problem:
        raise InvalidExport(f"it is inconsistent: {problem}")
    ledgers = state.ledgers()
    if not ledgers:
        raise InvalidExport("it contains no account")
    return ledgers[0]


def _open_source(source: Path) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if source == _STANDARD_INPUT else source.open("rb")


# ---- forget ----


def _whose(ledger: LedgerSummary, options: StateFileOptions) -> str:
    """An account's name, and who it is."""
    account, name = ledger.account, ledger.names[0] if ledger.names else "(no name)"
    user = f"user {account.username}" if options.show_username else "a user"
    return f"{name} ({user} on {place(account.endpoint, account.division)})"


def forget_ledger(options: StateFileOptions, words: Sequence[str], *, sure: bool) -> int:
    """Delete the ledger of the account that *words* identify; 0.

    Raises:
        ConfigError: *sure* is not set; the text says whose ledger it is, and what would be lost.
        StateError: the state file cannot be used or has no such account, or an exporter is writing it.
        StateWriteError: nothing was changed.
    """
    with options.read() as state:
        ledger = select_ledger(words, state, options)
    whose = _whose(ledger, options)
    last = "nothing yet" if ledger.written_at is None else f"last at {timestamp(ledger.written_at)}"
    loss = f"{whose}, which counted {last}: {_tracked(ledger)}, {_counted(ledger)}"
    if not sure:
        raise ConfigError(f"this permanently deletes the ledger of {loss}; pass --yes to confirm")
    if owner := lock_owner(options.file):
        raise StateError(
            f"the ledger of {whose} was not deleted: state file {options.file} is locked by {owner}, which may count in"
            " it; stop that exporter, run this again, and start it"
        )
    with closing(_opened(options.file)) as store:
        with options.read() as state:  # again, now that no other process can write it
            number = select_ledger(_identity(ledger), state, options).account.number
        store.forget(number)
    say(f"deleted the ledger of {loss}.")
    say(
        "If the account is polled again, counters start at 0: unfinished jobs are counted in full, finished ones are"
        " existing jobs."
    )
    return 0

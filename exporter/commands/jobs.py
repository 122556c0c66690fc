"""``jobs``: the jobs of all accounts as the exporter last saw them, from the state file alone."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from typing import Final

import click

from exporter.api.models import Outcome
from exporter.clock import SYSTEM_CLOCK
from exporter.commands._click import Command
from exporter.commands._job_list import ListedJob, Selection, as_json, table
from exporter.commands._output import as_typed, print_error
from exporter.commands._settings import settings_options
from exporter.commands._staleness import Freshness, freshness
from exporter.commands._state import StateFileOptions, name_of, select_ledger, state_file_options
from exporter.commands._terminal import Display, Style, printable, reader_left, standard_output, write_lines
from exporter.config.own_settings import seconds
from exporter.errors import ConfigError, StateError
from exporter.logs import NonBlockingStream
from exporter.redaction import shown
from exporter.signals import stop_event
from exporter.storage.reader import LedgerSummary, StateReader
from exporter.text import count

_LIMIT: Final = 50
"""Jobs shown on a terminal, where the first ones would otherwise scroll away."""
_REFRESH_SECONDS: Final = 2.0
_ATTEMPTS: Final = 2
"""How often the state file is opened if the exporter starts or stops at that very moment."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the command line asks for; a *limit* of None: as many as fit."""

    accounts: tuple[str, ...]
    selection: Selection
    limit: int | None
    as_json: bool


@dataclass(frozen=True, slots=True)
class _Found:
    """The selected jobs, how many the accounts have in all, and how old that is."""

    jobs: list[ListedJob]
    tracked: int
    accounts: int
    freshness: Freshness


class _Jobs(Command):
    """Lists jobs and takes no job's id."""

    instead_of_argument = "`sbg-exporter job ID` shows one job, `sbg-exporter jobs --help` says how to select several"


@click.command(
    cls=_Jobs,
    epilog="""\b
Examples:
  sbg-exporter jobs --unfinished --watch
  sbg-exporter jobs --failed --since 24h --config /etc/sbg-exporter/config.toml
  sbg-exporter jobs --outcome incomplete --outcome lost --since 7d
  sbg-exporter jobs --account cavatica --json | jq '.[] | select(.files.failed > 0) | .job_id'""",
)
@click.option(
    "--failed",
    is_flag=True,
    help="only jobs with failed or missing files and lost ones, also from before counting began",
)
@click.option("--unfinished", is_flag=True, help="only jobs without an outcome")
@click.option("--stuck", is_flag=True, help="only jobs that have started and made no progress for 30 minutes")
@click.option(
    "--outcome",
    "outcomes",
    multiple=True,
    type=click.Choice([str(each) for each in Outcome]),
    help="only jobs that ended like this; repeatable",
)
@click.option("--account", "accounts", multiple=True, metavar="NAME", help="only jobs of this account; repeatable")
@click.option(
    "--since",
    metavar="WHEN",
    help="only jobs that are unfinished, or ended or were seen to change since then: 24h, 7d, 2026-11-27 (UTC)",
)
@click.option("--limit", metavar="N", help=f"most jobs to show, 0 for all (default: {_LIMIT} on a terminal, else all)")
@click.option("--json", "as_json", is_flag=True, help="print JSON, with times in Unix seconds")
@click.option("--watch", is_flag=True, help="show changes until Ctrl-C")
@settings_options(only=("state_file",))
@click.pass_obj
def command(
    errors: NonBlockingStream,
    /,
    *,
    failed: bool,
    unfinished: bool,
    stuck: bool,
    outcomes: tuple[str, ...],
    accounts: tuple[str, ...],
    since: str | None,
    limit: str | None,
    as_json: bool,
    watch: bool,
    **flags: object,
) -> int:
    """Show jobs as the exporter last saw them.

    Reads the state file and sends no request, also while the exporter runs. Unfinished jobs come first, the longest
    without progress at the top; then the others, the latest first. AGE is the time since the last progress or the end.
    REASON is - for jobs that ended before counting began: `job ID` asks for theirs.
    A job is stuck if it has started and made no progress for 30 minutes, as for the alert SbgJobStuck; where
    sbg_exporter_detection_delay_seconds is long, one that the exporter has not checked since may be, too. A settling
    job has finished with fewer files than expected, which may still turn up before it counts as incomplete. A renamed
    account has its old name here until the exporter has polled it under the new one.

    On a terminal it prints a table with progress bars, elsewhere plain lines. NO_COLOR turns colours off. Standard
    error says as of when this is; while nothing changes, the exporter saves that every 5 minutes. It also says if there
    are no such jobs, or an account was not listed for a while.
    """
    selection = Selection(failed, unfinished, stuck, frozenset(outcomes), _since(since))
    asked = _Asked(accounts, selection, _limit(limit), as_json)
    options = state_file_options(flags, stop_event() if watch else None)
    for warning in options.warnings:
        print_error(errors, warning)
    if watch:
        return _watch(options, asked)
    found = _read(options, asked)
    for warning in found.freshness.warnings:
        print_error(errors, warning)
    if not found.jobs and not as_json:
        errors.write(f"{as_typed(_nothing(found, asked))}\n")
    else:
        _show(found, asked, standard_output())
    if found.freshness.as_of and not (as_json and found.jobs):
        errors.write(f"{shown(found.freshness.as_of)}\n")
    return 0


def _since(text: str | None) -> float | None:
    """Unix seconds of a duration ago, or of a date.

    Raises:
        ConfigError: *text* is neither.
    """
    if text is None:
        return None
    try:
        return SYSTEM_CLOCK.time() - seconds(text)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ConfigError("--since: expected a duration, such as 24h or 7d, or a date, such as 2026-11-27") from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def _limit(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal():
        raise ConfigError("--limit: expected a whole number, such as 20, or 0 for all")
    return int(text)


# ---- reading ----


def _read(options: StateFileOptions, asked: _Asked) -> _Found:
    """The selected jobs.

    Raises:
        StateError: the state file cannot be read, or has no such account.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with options.read() as state:
                return _find(state, options, asked)
        except StateError:
            if attempt == _ATTEMPTS or options.stop.is_set():
                raise
    raise AssertionError  # not reached


def _find(state: StateReader, options: StateFileOptions, asked: _Asked) -> _Found:
    ledgers = [select_ledger([name], state, options) for name in asked.accounts] or state.ledgers()
    distinct = list({ledger.account.number: ledger for ledger in ledgers}.values())
    jobs = chain.from_iterable(_jobs_of(ledger, state, options) for ledger in distinct)
    found = asked.selection.of(jobs)
    return _Found(found, sum(each.tracked_jobs for each in distinct), len(distinct), freshness(distinct, options))


def _jobs_of(ledger: LedgerSummary, state: StateReader, options: StateFileOptions) -> list[ListedJob]:
    name = name_of(ledger, options)
    return [ListedJob(name, record, ledger.written_at) for record in state.records(ledger.account.number)]


# ---- showing ----


def _show(found: _Found, asked: _Asked, display: Display) -> None:
    if asked.as_json:
        limited = found.jobs[: asked.limit or None]
        sys.stdout.write(f"{json.dumps([as_json(job) for job in limited], indent=2)}\n")
        return
    write_lines(_lines(found, asked, display, _LIMIT if display.is_terminal else 0), display)


def _lines(found: _Found, asked: _Asked, display: Display, usual_limit: int) -> list[str]:
    if not found.jobs:
        return [as_typed(_nothing(found, asked))]
    limit = (usual_limit if asked.limit is None else asked.limit) or len(found.jobs)
    shown = found.jobs[:limit]
    lines = table(shown, display, SYSTEM_CLOCK.time(), with_account=found.accounts > 1)
    if len(shown) < len(found.jobs) and display.is_terminal:
        note = f"{len(shown):,} of {count(len(found.jobs), 'job')} shown; --limit 0 shows all"
        lines.append(display.styled(note, Style.QUIET))
    return lines


def _nothing(found: _Found, asked: _Asked) -> str:
    """Why there are no jobs to show, and what would show some."""
    if found.accounts == 0:
        return "No account has been polled yet, so there are no jobs; `sbg-exporter check` tests the accounts."
    if found.tracked == 0:
        return "No jobs: the platform has listed none so far."
    options = asked.selection.options
    without = f"without {'it' if len(options) == 1 else 'them'} there {'is' if found.tracked == 1 else 'are'}"
    return f"No jobs match {' '.join(options)}; {without} {count(found.tracked, 'job')}."


# ---- watching ----


def _watch(options: StateFileOptions, asked: _Asked) -> int:
    """Show the jobs again and again until a signal comes or the pipe's reader ends; 0.

    Raises:
        StateError: the state file cannot be read at first; later, the error is shown in place of the jobs.
    """
    first, last = True, None
    while not options.stop.is_set() and not reader_left():
        display = standard_output()
        try:
            found = _read(options, asked)
        except StateError as error:
            if options.stop.is_set():
                break
            if first:
                raise
            _redraw([f"sbg-exporter: {as_typed(str(error))}"], display)
        else:
            last = _follow(found, last, asked, display)
        first = False
        options.stop.wait(_REFRESH_SECONDS)
    return 0


_Lines = Mapping[tuple[str, str], object]


def _follow(found: _Found, last: _Lines | None, asked: _Asked, display: Display) -> _Lines:
    """Show what there is: all of it on a terminal, elsewhere what changed since *last*."""
    if display.is_terminal and not asked.as_json:
        _redraw(_screen(found, asked, display), display)
        return {}
    jobs = {(job.account, job.record.id): job for job in found.jobs}
    now = {key: (job.record, job.stuck) for key, job in jobs.items()}  # as of when does not change them
    changed = [job for key, job in jobs.items() if last is None or last.get(key) != now[key]]
    if asked.as_json:
        lines = [json.dumps(as_json(job)) for job in changed]
    elif changed or last is None:
        lines = _lines(replace(found, jobs=changed), asked, display, 0)[0 if last is None else 1 :]
    else:
        lines = []
    write_lines(lines, display)
    return now


def _screen(found: _Found, asked: _Asked, display: Display) -> Sequence[str]:
    """A screen of jobs: as many as there is room for."""
    as_of, notes = found.freshness
    head = f"{count(len(found.jobs), 'job')} (Ctrl-C ends){', ' if as_of else ''}{as_of}"
    room = max(1, display.lines - 2 - len(notes))
    lines = _lines(found, asked, display, room)
    if len(lines) > room:
        more = display.styled("more jobs than fit on the screen", Style.QUIET)
        lines = [*lines[: room - 1], more]
    width = display.columns or 0
    warnings = [display.styled(display.shortened(as_typed(note), width), Style.WARNING) for note in notes]
    return [display.styled(display.shortened(printable(head), width), Style.HEADING), *warnings, *lines]


def _redraw(lines: Sequence[str], display: Display) -> None:
    write_lines(lines, display, clear=display.is_terminal)

"""``job``: one job from the state file, and its failed files from the platform."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import Final

import click

from exporter.api.allowance import Allowance, AllowanceKey, AllowancePool
from exporter.api.client import RequestCompleted, RetryScheduled
from exporter.api.error_codes import words_of
from exporter.api.file_errors import FileError
from exporter.api.models import Operation, Outcome, Priority
from exporter.api.transport import TrustedCertificates
from exporter.clock import SYSTEM_CLOCK
from exporter.commands._click import Command
from exporter.commands._failed_files import failed_files, gone
from exporter.commands._job_list import ListedJob, as_json, moment
from exporter.commands._output import print_error
from exporter.commands._settings import load_configuration, settings_options
from exporter.commands._staleness import freshness
from exporter.commands._state import StateFileOptions, name_of, state_file_options
from exporter.commands._terminal import Style, printable, standard_output, write_lines
from exporter.config.accounts import AccountConfig
from exporter.config.loading import Configuration
from exporter.daemon.assembly import client_of
from exporter.errors import AllowanceExhausted, ConfigError, ExporterError, StateError
from exporter.logs import NonBlockingStream
from exporter.metrics.snapshot import submitted_at
from exporter.redaction import without_secrets
from exporter.storage.reader import LedgerSummary
from exporter.storage.store import Store
from exporter.text import count
from exporter.web.page import age

_FEWEST_DIGITS: Final = 10
"""Of an id that differs from others even with a wrong digit."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A job in one account.

    Attributes:
        job: the job.
        ledger: the ledger that has it.
        same_user: the names of all accounts of the ledger's user.
        username: that user; None if it is not to be shown.
    """

    job: ListedJob
    ledger: LedgerSummary
    same_user: frozenset[str]
    username: str | None


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the platform answered.

    Attributes:
        errors: the failed files; None without an answer.
        problem: why there is none, and what to do; empty if there is one.
        invalid: whether the configuration is the problem.
        note: what else to know; may be empty.
    """

    errors: tuple[FileError, ...] | None = None
    problem: str = ""
    invalid: bool = False
    note: str = ""


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  sbg-exporter job 327292091756515328
  sbg-exporter job 327292091756515328 --offline --config /etc/sbg-exporter/config.toml""",
)
@click.argument("job_id", metavar="ID")
@click.option("--offline", is_flag=True, help="send no request: only what the state file has")
@click.option("--json", "as_json", is_flag=True, help="print JSON, with times in Unix seconds")
@settings_options(only=("state_file", "rate_share", "request_timeout"))
@click.pass_obj
def command(errors: NonBlockingStream, /, *, job_id: str, offline: bool, as_json: bool, **flags: object) -> int:
    """Show one job, and ask the platform for its failed files.

    The job is shown as the exporter last saw it. Which files failed, and why, is asked of the platform with one request
    per account that has the job. Safe while the exporter runs. Exits 1 if the job is not known or the request fails, 2
    if the configuration is wrong.
    """
    options = state_file_options({key: value for key, value in flags.items() if key in {"config", "state_file"}})
    found = _find(options, job_id)
    for warning in freshness([each.ledger for each in found if each.job.record.unfinished], options).warnings:
        print_error(errors, warning)
    if offline:
        answers = [_Asked() for _ in found]
        for warning in options.warnings:
            print_error(errors, warning)
    else:
        answers = _ask_each(found, flags)
    if as_json:
        shown = [_as_json(each, asked) for each, asked in zip(found, answers, strict=True)]
        write_lines([json.dumps(shown, indent=2)], standard_output())
    else:
        _show(found, answers)
    problems = [
        f"{each.job.account}: {asked.problem}" for each, asked in zip(found, answers, strict=True) if asked.problem
    ]
    for problem in problems:
        print_error(errors, printable(problem))
    if any(asked.invalid for asked in answers):
        return 2
    return 1 if problems else 0


def _find(options: StateFileOptions, job_id: str) -> list[_Found]:
    """The job in every account that has it.

    Raises:
        StateError: none has it; what was typed is not repeated, because it may be a token.
    """
    found = []
    with options.read() as state:
        ledgers = state.ledgers()
        for ledger in ledgers:
            record = state.record(ledger.account.number, job_id)
            if record is not None:
                same_user = frozenset(name for each in ledgers if _user(each) == _user(ledger) for name in each.names)
                username = ledger.account.username if options.show_username else None
                job = ListedJob(name_of(ledger, options), record, ledger.written_at)
                found.append(_Found(job, ledger, same_user, username))
        if not found:
            known = (record.id for ledger in ledgers for record in state.records(ledger.account.number))
            close = sorted({each for each in known if is_one_off(each, job_id)})
            meant = f"did you mean {' or '.join(close)}?" if close else ""
            otherwise = "`sbg-exporter jobs` lists those that the exporter has seen"
            raise StateError(f"no job with this id in {options.file}; {meant or otherwise}")
    return found


def is_one_off(known: str, typed: str) -> bool:
    """Whether one character of the id *known* is missing in *typed*, is another one there, or follows another one."""
    if abs(len(known) - len(typed)) > 1 or min(len(known), len(typed)) < _FEWEST_DIGITS:
        return False
    same = _same_at_the_start(known, typed) + _same_at_the_start(known[::-1], typed[::-1])
    return same >= max(len(known), len(typed)) - 1


def _same_at_the_start(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


# ---- asking ----


def _ask_each(found: Sequence[_Found], flags: Mapping[str, object]) -> list[_Asked]:
    """Ask for the failed files of each job. Without a valid configuration, the job is shown all the same."""
    try:
        configuration = load_configuration(flags)
    except ConfigError as error:
        first, *others = error.problems
        more = f"; `sbg-exporter check` lists {count(len(others), 'more problem')}" if others else ""
        return [_Asked(problem=f"not asked: {first}{more}", invalid=True) for _ in found]
    return [_ask(each, configuration) for each in found]


def _ask(found: _Found, configuration: Configuration) -> _Asked:
    record = found.job.record
    account = _account_of(found.ledger, configuration)
    if account is None:
        name = found.job.account
        return _Asked(problem=f"not asked: no configured account is {name}; add it, or pass --offline")
    if record.operation not in set(Operation):
        return _Asked(note="not asked: the platform has no page for jobs of this operation")
    try:
        token = account.token.read()
        _take_request(configuration, found)
        client = client_of(
            account,
            configuration.settings.request_timeout,
            AllowancePool(1.0),  # the request has been taken already
            _NoObserver(),
            certificates=cache(lambda file: TrustedCertificates(file, lambda _event: None)),
            clock=SYSTEM_CLOCK,
        )
        with closing(client):
            client.use_token(token)
            if not configuration.settings.show_username:
                client.hide_names(user_unknown=True)  # the token need not be that of the ledger's user
            failed = client.file_errors(Operation(record.operation), record.id)
    except AllowanceExhausted as error:
        return _Asked(problem=f"not asked: {error}; until then, pass --offline")
    except ExporterError as error:
        step = f"`sbg-exporter check` tests account {account.name}, --offline shows the job without a request"
        return _Asked(problem=without_secrets(f"{error}; {step}"))
    if failed is None:
        return _Asked(note=gone(record, SYSTEM_CLOCK.time()))
    masked = tuple(FileError(each.code, without_secrets(each.message), without_secrets(each.file)) for each in failed)
    return _Asked(masked)


def _account_of(ledger: LedgerSummary, configuration: Configuration) -> AccountConfig | None:
    """The configured account that the ledger belongs to."""
    for account in configuration.accounts:
        same = (account.endpoint, account.division) == (ledger.account.endpoint, ledger.account.division)
        if same and account.name in ledger.names:
            return account
    return None


def _take_request(configuration: Configuration, found: _Found) -> None:
    """Take a request from the allowance in the state file, which is locked for that moment only.

    If an exporter has it locked, the one request comes on top of its allowance.

    Raises:
        AllowanceExhausted: there is none for now.
    """
    key = _user(found.ledger)
    try:
        store = Store(configuration.state_file)
    except StateError:
        return
    with closing(store):
        now = SYSTEM_CLOCK.monotonic()
        allowance = Allowance(
            min(configuration.settings_of(name).rate_share for name in found.same_user),
            saved=store.allowance(key, SYSTEM_CLOCK.time()),
            now=now,
            save=lambda saved: store.save_allowance(key, saved, SYSTEM_CLOCK.time()),
        )
        wait = allowance.take(now, Priority.REFRESH)
        if wait > 0:
            raise AllowanceExhausted(wait, allowance.wait_reason(now, Priority.REFRESH))


def _user(ledger: LedgerSummary) -> AllowanceKey:
    return AllowanceKey(ledger.account.endpoint, ledger.account.username)


class _NoObserver:
    """Nothing is logged or measured."""

    def on_request_completed(self, event: RequestCompleted) -> None:
        """Ignore it."""

    def on_retry_scheduled(self, event: RetryScheduled) -> None:
        """Ignore it."""


# ---- showing ----


def _show(found: list[_Found], answers: list[_Asked]) -> None:
    display, now = standard_output(), SYSTEM_CLOCK.time()
    lines = []
    for each, asked in zip(found, answers, strict=True):
        lines.append(display.styled(printable(each.job.record.id), Style.HEADING))
        as_of = [("as of", _ago(each.job.as_of, now))] if each.job.as_of is not None else []
        facts = (*_owner(each), *as_of, *_facts(each.job, now))
        lines += [f"  {name:<12}{printable(value)}" for name, value in facts]
        lines += [printable(line) for line in _answer(each.job, asked)]
    write_lines(lines, display)


def _owner(found: _Found) -> Iterator[tuple[str, str]]:
    """Whose job it is, and on which platform."""
    yield "account", found.job.account
    if found.username is not None:
        yield "user", found.username
    yield "platform", found.ledger.account.endpoint
    if found.ledger.account.division:
        yield "division", found.ledger.account.division


def _ago(at: float, now: float) -> str:
    return f"{moment(at)}, {age(at, now)}"


def _facts(job: ListedJob, now: float) -> Iterator[tuple[str, str]]:
    record = job.record

    def ago(at: float) -> str:
        return _ago(at, now)

    yield "operation", record.operation
    yield "state", job.state
    if job.total:
        yield "files", f"{record.last_completed:,} of {job.total:,} completed, {record.last_failed:,} failed"
    yield ("submitted" if record.submitted_on is not None else "first seen"), ago(submitted_at(record))
    if record.started_on is not None:
        yield "started", ago(record.started_on)
    if record.finished_on is not None:
        yield "finished", ago(record.finished_on)
    elif record.outcome == Outcome.LOST:
        yield "lost", f"declared lost at {ago(record.last_progress_at)}, after the platform had twice not known the job"
    elif record.outcome:
        yield "ended", f"at {ago(record.last_progress_at)} at the latest"
    else:
        yield "progress", f"last at {ago(record.last_progress_at)}"
    if record.detected_at is not None:
        yield "failure", f"first counted at {ago(record.detected_at)}"
    if job.errors:
        yield "errors", job.errors
    if job.why:
        yield "why", job.why


def _answer(job: ListedJob, asked: _Asked) -> Iterator[str]:
    if asked.errors is not None:
        yield from failed_files(job, asked.errors)
    if asked.note:
        yield f"Note: {asked.note}."


def _as_json(found: _Found, asked: _Asked) -> Mapping[str, object]:
    failed = None
    if asked.errors is not None:
        failed = [
            {
                "file": each.file or None,
                "code": each.code,
                "meaning": words_of(each.code) or None,
                "message": each.message or None,
            }
            for each in asked.errors
        ]
    account = found.ledger.account
    owner = {"username": found.username, "api_endpoint": account.endpoint, "division": account.division or None}
    return {
        **as_json(found.job),
        **owner,
        "failed_files": failed,
        "problem": asked.problem or None,
        "note": asked.note or None,
    }

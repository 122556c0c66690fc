"""``check``: is the configuration valid, does every account respond, and how many requests will polling take.

Each account is polled once for real, into a temporary ledger. So the exporter will see what this poll sees. The
requests count in the account's own allowance, unless the state file is in use or cannot be opened.
"""

import errno
import json
import math
import os
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import click

from exporter.api.allowance import AllowanceKey
from exporter.api.client import ATTEMPTS
from exporter.api.platforms import is_api, place
from exporter.clock import SYSTEM_CLOCK, Clock
from exporter.commands._account_source import AccountSource, account_source
from exporter.commands._click import Command
from exporter.commands._output import print_error, say
from exporter.commands._parallel import poll_each
from exporter.commands._settings import load_configuration, settings_options
from exporter.config.accounts import MEND_FILE, AccountConfig
from exporter.config.changes import accounts_at_start, put_back
from exporter.config.loading import Configuration, unread_files
from exporter.config.own_settings import OwnSettings
from exporter.config.settings import Settings
from exporter.config.tokens import Token, refusal_remedy, unlike_a_token
from exporter.daemon import assembly
from exporter.errors import ConfigError, StateError, WaitReason
from exporter.logs import Log, NonBlockingStream, logger
from exporter.metrics.series_count import most_series, series_count
from exporter.metrics.snapshot import MAX_SKEW, AccountSnapshot, DisplayOptions
from exporter.polling.poller import UsageEstimate
from exporter.redaction import shown
from exporter.signals import stop_event
from exporter.storage.diagnosis import FULL, probe, wrong_user
from exporter.storage.lock import is_lost, lock_owner
from exporter.storage.paths import real_path
from exporter.storage.reader import missing, open_read_only
from exporter.storage.store import Store
from exporter.text import count

_UNWRITABLE: Final = FULL | {errno.EROFS, errno.EIO}
"""Errors of a disk, not of this user's permissions."""
_MEMORY: Final = 68.0
_MEMORY_PER_ACCOUNT: Final = 0.3
_MEMORY_PER_JOB: Final = 0.0003
_HIDDEN: Final = "(not shown; --show-username shows it)"


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  sbg-exporter check --config /etc/sbg-exporter/config.toml
  sbg-exporter check --json | jq '.[] | select(.ok | not) | .account'
  sbg-exporter check --offline --config /etc/sbg-exporter/config.toml""",
)
@click.option("--offline", is_flag=True, help="validate the configuration only, without contacting the API")
@click.option("--verbose", is_flag=True, help="print all details of each account")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.option("--account", "accounts", multiple=True, metavar="NAME", help="only this account; repeatable")
@settings_options()
@click.pass_obj
def command(
    errors: NonBlockingStream,
    /,
    *,
    offline: bool,
    verbose: bool,
    as_json: bool,
    accounts: tuple[str, ...],
    **flags: object,
) -> int:
    """Validate the configuration and poll every account once.

    Takes the options, variables and file of `run`. For each account it prints the user, the jobs listed, the rate
    limit, and the requests and series to expect, in one line or with --verbose in several. No job is counted, but the
    requests are: in the account's allowance, unless the exporter holds the state file. With `show_username = false` it
    hides the users; --show-username shows them. It warns of a wrong clock, and if the state file's disk is full or the
    file was deleted while an exporter uses it; all else about a running exporter is on its status page. Exits 1 if an
    account cannot be polled, 2 if the configuration is wrong or leaves no account to poll.
    """
    log = logger("auto", "error", errors)
    report = JSON if as_json else DETAILS if verbose else LINES
    try:
        configuration = selected(load_configuration(flags), accounts)
    except ConfigError as error:
        if as_json:
            _print_json([{"account": None, "ok": False, "error": problem} for problem in error.problems])
        raise

    def warn(line: str) -> None:
        if as_json:
            print_error(errors, line)
        else:
            say(line)

    waits = awaited_on(errors)
    failed = check(configuration, stop_event(), log, offline=offline, report=report, warn=warn, awaited=waits)
    return 1 if failed else 0


def awaited_on(errors: NonBlockingStream) -> Callable[[Sequence[str]], None]:
    """What tells on *errors* which accounts are still waited for, also without a terminal, as in `kubectl exec`."""

    def awaited(names: Sequence[str]) -> None:
        tries = f"each request is tried up to {ATTEMPTS} times, for request_timeout each"
        print_error(errors, f"still waiting for {', '.join(names)}; {tries}")

    return awaited


def selected(configuration: Configuration, names: Collection[str]) -> Configuration:
    """The configuration with the accounts *names* alone; with all if there are none.

    Raises:
        ConfigError: there is no such account.
    """
    if not names:
        return configuration
    if unknown := [name for name in names if name not in configuration.names]:
        known = ", ".join(configuration.names)
        raise ConfigError(
            *(f"--account: no account {name!r} is configured; expected one of: {known}" for name in unknown)
        )
    return replace(
        configuration,
        accounts=tuple(entry for entry in configuration.accounts if entry.name in names),
        pending=tuple(entry for entry in configuration.pending if entry.name in names),
        setup_problems={name: each for name, each in configuration.setup_problems.items() if name in names},
        not_selected=tuple(entry for entry in configuration.entries if entry.name not in names),
    )


def check(
    configuration: Configuration,
    stop: threading.Event,
    log: Log,
    *,
    offline: bool,
    report: "Report",
    warn: Callable[[str], None] = say,
    awaited: Callable[[Sequence[str]], object] = lambda _names: None,
) -> Collection[str]:
    """Print the findings for each account with *report*, and what else to know with *warn*; *offline* sends no request.

    *awaited* hears which accounts it waits for, if that takes long.

    Returns:
        The names of the accounts that cannot be polled.

    Raises:
        Stopping: *stop* was set before all accounts had responded.
    """
    unused = (configuration.unused,) if configuration.unused else ()
    ledgers = _kept_in(configuration.state_file)
    warnings = (*unused, *configuration.warnings, *configuration.endpoint_warnings, *configuration.web.warnings)
    state = state_file_warnings(configuration.state_file)
    removed = _removed(configuration, ledgers, SYSTEM_CLOCK.time())
    gone = _gone(configuration, removed)
    for warning in (*warnings, *_new_ledgers(configuration.accounts, ledgers), *gone, *state):
        warn(f"warning: {warning}")
    if unread := _unread(configuration):
        warn(unread)
    if offline:
        for problem in _unlike_tokens(configuration.accounts):
            warn(f"warning: {problem}")
        report.configured(configuration, len(removed))
        return configuration.setup_problems
    with (
        _state_file(configuration, verbose=report is DETAILS) as (kept, reason),
        tempfile.TemporaryDirectory(prefix="sbg-exporter-check-") as folder,
    ):
        throwaway = replace(
            configuration, state_file=Path(folder) / "state.db", warnings=(), endpoint_warnings=(), unused=""
        )
        with assembly.build(throwaway, stop, log, allowances_in=kept, names=lambda: ledgers.names) as components:
            poll_each(components, lambda poller: poller.poll_once(), stop, awaited)
            snapshots, display, clock = components.registry.snapshots, components.display, components.clock
            estimates = {poller.name: poller.usage_estimate for poller in components.pollers}
        if kept is not None:
            _remember_exhausted(kept, snapshots, clock)
    tokens = {each.name: each.token for each in configuration.accounts}
    sources = {entry.name: account_source(entry) for entry in configuration.entries}
    results = [
        _Result(
            each,
            estimates[each.account],
            configuration.settings_of(each.account),
            tokens.get(each.account),
            sources[each.account],
        )
        for each in snapshots
    ]
    for warning in clock_warnings(snapshots):
        warn(f"warning: {warning}")
    report.polled(results, display, clock.time, len(removed))
    if kept is None and reason:
        warn(reason)
    return [snapshot.account for snapshot in snapshots if _failed(snapshot)]


@contextmanager
def _state_file(configuration: Configuration, *, verbose: bool) -> Iterator[tuple[Store | None, str]]:
    """The state file for the allowances that are kept in it, as for `once`; or None, and what to know about that.

    Before an exporter's first start there is nothing to know. The file is created if its folder exists, so that a
    check in a loop keeps to the allowance.
    """
    file = configuration.state_file
    if not file.parent.is_dir():
        yield None, ""
    elif owner := lock_owner(file):
        note = f"Note: {owner} holds the state file, so these requests are not counted in its allowance."
        yield None, note if verbose else ""  # a few requests, which it has room for
    elif is_lost(file):
        yield None, ""  # it must not be created: that would hide the loss, which a warning tells
    elif problem := wrong_user(file, writing=True):
        yield None, f"Note: these requests are not counted in the allowance: state file {file}: {problem}"
    else:
        try:
            store = Store(file)
        except StateError as error:
            yield None, f"warning: these requests are not counted in the allowance: {error}"
            return
        with closing(store):
            yield store, ""


def state_file_warnings(file: Path) -> Iterator[str]:
    """A line if the exporter cannot save in the state file *file* what it counts: it is gone, or its disk is full."""
    owner = lock_owner(file)
    if owner and not os.path.lexists(file):
        yield (
            f"state file {file} was moved or deleted while {owner} uses it, and that exporter counts nothing; do not"
            " restart it before you have read the runbook of SbgStateNotWritable"
        )
    elif is_lost(file):
        yield f"state file {file} {missing(file)}"
    if (number := probe(real_path(file).parent)) in _UNWRITABLE:
        # On a full disk there may be room left in the write-ahead log.
        problem = "is full" if number in FULL else "is not writable"
        consequence = "may soon count nothing" if number in FULL else "counts nothing"
        yield (
            f"state file {file}: its disk {problem} ({os.strerror(number)}), so an exporter {consequence}; see the"
            " runbook of SbgStateNotWritable"
        )


def clock_warnings(snapshots: Iterable[AccountSnapshot]) -> Iterator[str]:
    """A line for each account whose platform's clock and this machine's differ by more than a minute."""
    for snapshot in snapshots:
        skew = snapshot.status.clock_skew
        if skew is not None and abs(skew) > MAX_SKEW:
            yield (
                f"{snapshot.account}: this machine's clock is {abs(skew):.0f} s"
                f" {'behind' if skew > 0 else 'ahead of'} the platform's; see the runbook of SbgClockSkew"
            )


def _unread(configuration: Configuration) -> str:
    """Which files of the accounts' folder are no accounts, in a line; empty if all are."""
    folder = configuration.accounts_folder
    if folder is None:
        return ""
    entries = (*configuration.entries, *configuration.not_selected)
    used = {str(path) for entry in entries for path in account_source(entry)}
    names = unread_files(folder, used)
    return f"Note: not read in {folder}, because only *.toml is: {', '.join(map(shown, names))}" if names else ""


class _Kept(NamedTuple):
    """What the state file says of its ledgers; empty if it is unreadable.

    Attributes:
        names: decide which of two accounts of a user the exporter polls.
        places: endpoints and divisions of all ledgers, also of those without a name.
        configured: the accounts that were in use last, and since when those are missing that a start did not find.
    """

    names: Mapping[str, tuple[str, str, str]]
    places: Collection[tuple[str, str]]
    configured: Mapping[str, float | None]


def _kept_in(state_file: Path) -> _Kept:
    try:
        with open_read_only(state_file, lambda: False) as state:
            return _Kept(state.names(), state.places(), state.configured())
    except StateError:
        return _Kept({}, (), {})


def _new_ledgers(accounts: Iterable[AccountConfig], kept: _Kept) -> Iterator[str]:
    """A line for each account whose ledger is of another platform or division, so that it will have another one."""
    for account in accounts:
        endpoint, _, division = kept.names.get(account.name, (account.endpoint, "", account.division))
        if (endpoint, division) != (account.endpoint, account.division):
            counters = "its counters begin at 0, in a new ledger"
            if (account.endpoint, account.division) in kept.places:
                counters = f"it has the counters of the ledger that its user has there already; without one, {counters}"
            yield (
                f"{account.where}: the ledger of account {account.name} is of {place(endpoint, division)};"
                f" with another api_endpoint or division {counters}"
            )


def _removed(configuration: Configuration, kept: _Kept, now: float) -> Collection[str]:
    """Accounts that were polled until recently and are not configured, as where the folder of files is gone."""
    return [name for name, since in accounts_at_start(kept.configured, configuration, now).items() if since is not None]


def _gone(configuration: Configuration, removed: Collection[str]) -> Iterator[str]:
    if removed:
        is_, has = ("is", "has") if len(removed) == 1 else ("are", "have")
        yield (
            f"state file {configuration.state_file}: {count(len(removed), 'account')} {is_} no longer configured, but"
            f" {has} been polled: {', '.join(removed)}; next step: {put_back(configuration, removed)}"
        )


def _unlike_tokens(accounts: Iterable[AccountConfig]) -> Iterator[str]:
    """A line for each account on a known platform whose token does not look like one, for want of its answer."""
    for account in accounts:
        with suppress(ConfigError):  # the report names a token that cannot be read
            if is_api(urlsplit(account.endpoint).netloc) and (problem := unlike_a_token(account.token.read())):
                yield f"{account.name}: the token looks wrong: {problem}; {account.token.remedy}"


def _remember_exhausted(kept: Store, snapshots: Iterable[AccountSnapshot], clock: Clock) -> None:
    """If a user's allowance is used up, let the next check know that before it asks the platform for the user."""
    for snapshot in snapshots:
        status = snapshot.status
        if status.username is not None and status.allowance_used >= status.allowance:
            saved = kept.allowance(AllowanceKey(snapshot.endpoint, status.username), clock.time())
            if saved is not None:
                key = AllowanceKey(snapshot.endpoint, "", snapshot.account)
                kept.save_allowance(key, saved, clock.time())


def _requests_made(snapshot: AccountSnapshot) -> int:
    return sum(snapshot.status.counters.get("sbg_exporter_requests_total", {}).values())


def _refused_by_allowance(snapshot: AccountSnapshot) -> bool:
    """Whether the allowance left no request for the list of jobs."""
    return snapshot.status.waiting is not None and snapshot.ledger is None


def _failed(snapshot: AccountSnapshot) -> bool:
    return bool(snapshot.status.last_error) or _refused_by_allowance(snapshot)


class _Result(NamedTuple):
    """What was found of an account, and the settings that it is polled with; its token, if it is configured."""

    snapshot: AccountSnapshot
    estimate: UsageEstimate
    settings: Settings
    token: Token | None
    source: AccountSource

    @property
    def requests(self) -> int:
        """How many are expected in 5 minutes, once all jobs are listed."""
        return min(self.estimate.requests, self.snapshot.status.allowance)

    @property
    def requests_at_first(self) -> int:
        """The same, until all jobs are listed."""
        return min(self.estimate.requests_at_first, self.snapshot.status.allowance)

    @property
    def interval(self) -> float:
        """Effective seconds between two polls."""
        return max(self.snapshot.status.interval, self.settings.poll_interval)

    @property
    def is_polled_less_often(self) -> bool:
        """Whether the allowance makes the poll interval longer than it is configured."""
        return self.interval > self.settings.poll_interval


_Results = Sequence[_Result]


class Report(NamedTuple):
    """A form in which the findings are printed.

    Attributes:
        polled: prints what was found by polling.
        configured: prints what is known without contacting the API.

    The last argument of both is the number of accounts that are no longer configured, which a verdict mentions.
    """

    polled: Callable[[_Results, DisplayOptions, Callable[[], float], int], None]
    configured: Callable[[Configuration, int], None]


def _configured_lines(configuration: Configuration, removed: int) -> None:
    """Print a line for each account that cannot be polled, or else a verdict."""
    for problem in configuration.setup_problems.values():
        say(f"error: {problem}")
    if not configuration.setup_problems:
        say(_configured_verdict(configuration, removed))


def _configured_details(configuration: Configuration, removed: int) -> None:
    """Print where each account's settings come from, and a verdict."""
    problems = configuration.setup_problems
    for entry in sorted(configuration.entries, key=lambda entry: entry.name in problems):
        say(entry.name)
        if isinstance(entry, AccountConfig):
            say(f"  endpoint    {entry.endpoint}")
        for line in (
            *_sources(account_source(entry)),
            f"settings    {_settings(configuration.settings_of(entry.name))}",
        ):
            say(f"  {line}")
        if entry.name in problems:
            say(f"  error       {problems[entry.name]}")
    say(_configured_verdict(configuration, removed))


def _configured_json(configuration: Configuration, _removed: int) -> None:
    """Print a JSON list with one object for each account."""
    _print_json(
        {
            "account": entry.name,
            "ok": entry.name not in configuration.setup_problems,
            "error": configuration.setup_problems.get(entry.name),
            "next_step": None if isinstance(entry, AccountConfig) else entry.remedy,
            "endpoint": entry.endpoint if isinstance(entry, AccountConfig) else None,
            **account_source(entry)._asdict(),
            **_own_settings(configuration.settings_of(entry.name)),
        }
        for entry in configuration.entries
    )


def _configured_verdict(configuration: Configuration, removed: int) -> str:
    number, failed = len(configuration.names), len(configuration.setup_problems)
    accounts = count(number, "account")
    if failed:
        return f"Failed: {failed} of {accounts} cannot be polled{_and_removed(removed)} (API not contacted)."
    return f"Configuration OK: {accounts}{_and_removed(removed)} (API not contacted)."


def _and_removed(number: int) -> str:
    """What a verdict adds to be no all-clear where accounts are no longer configured."""
    if not number:
        return ""
    return f"; {number} {'is' if number == 1 else 'are'} no longer configured, see the warning above"


def _print_json(objects: Iterable[Mapping[str, object]]) -> None:
    for line in json.dumps(list(objects), indent=2).splitlines():
        say(line)


def _own_settings(settings: Settings) -> dict[str, object]:
    return {key: getattr(settings, key) for key in OwnSettings._fields}


def _sources(source: AccountSource) -> Iterator[str]:
    labels = {"configured_in": "configured", "token_from": "token", "proxy": "proxy", "ca_file": "CA file"}
    for key, value in source._asdict().items():
        if value:
            yield f"{labels[key]:<12}{value}"


def _details(results: _Results, display: DisplayOptions, now: Callable[[], float], removed: int) -> None:
    """Print all details of each account, and a verdict."""
    for result in _failures_last(results):
        say(result.snapshot.account)
        for line in (*_sources(result.source), *_found(result, display, now)):
            say(f"  {line}")
        say(f"  settings    {_settings(result.settings)}")
        made = _requests_made(result.snapshot)
        say(f"  spent       {count(made, 'request')} by this check, which polls once, as if for the first time")
    if not all(_failed(each.snapshot) for each in results):
        say(_total(results, display, now()))
    say(_verdict(results, removed))


def _lines(results: _Results, display: DisplayOptions, now: Callable[[], float], removed: int) -> None:
    """Print one line for each account, and a verdict."""
    width = max((len(each.snapshot.account) for each in results), default=0)
    for result in _failures_last(results):
        say(f"{result.snapshot.account:<{width}}  {_line(result, display, now())}")
    if len(results) > 1 and not any(_failed(each.snapshot) for each in results):
        say(_total(results, display, now()))
    say(_verdict(results, removed))


def _line(result: _Result, display: DisplayOptions, now: float) -> str:
    snapshot, status = result.snapshot, result.snapshot.status
    if problem := _problem(snapshot, now):
        step = _next_step(result)
        return f"failed  {problem}{'; ' if step else ''}{step}"
    user = "" if status.username is None else f"{_user(status.username, display)} at "
    host = snapshot.endpoint.partition("://")[2].partition("/")[0]
    listed = snapshot.listed is not None
    jobs = count(snapshot.jobs_by_state().total(), "job") if listed else f"{result.estimate.jobs} or more jobs"
    return (
        f"ok      {user}{host}; {jobs};"
        f" {result.requests} of {status.allowance} requests per 5 minutes;"
        f" {series_count(snapshot, display, now)} to {most_series(snapshot, display, now)} series"
    )


def _json(results: _Results, display: DisplayOptions, now: Callable[[], float], _removed: int) -> None:
    """Print a JSON list with one object for each account; null is what is not known."""
    accounts = [_as_json(each, display, now) for each in results]
    _print_json(accounts)


def _as_json(result: _Result, display: DisplayOptions, now: Callable[[], float]) -> Mapping[str, object]:
    snapshot, estimate = result.snapshot, result.estimate
    return {
        "account": snapshot.account,
        "ok": not _failed(snapshot),
        "error": _problem(snapshot, now()) or None,
        "next_step": _next_step(result) or None,
        "endpoint": snapshot.endpoint or None,
        "username": snapshot.status.username if display.show_username else None,
        "jobs": None if _failed(snapshot) else estimate.jobs,
        "all_jobs_listed": snapshot.listed is not None,
        "rate_limit": snapshot.status.rate_limit,
        "rate_limit_remaining": snapshot.status.rate_limit_remaining,
        "requests_per_5_minutes": result.requests,
        "requests_per_5_minutes_at_first": result.requests_at_first,
        "allowance": snapshot.status.allowance,
        "effective_poll_interval": result.interval,
        "requests_spent": _requests_made(snapshot),
        "series": None if _failed(snapshot) else series_count(snapshot, display, now()),
        "series_at_most": None if _failed(snapshot) else most_series(snapshot, display, now()),
        **result.source._asdict(),
        **_own_settings(result.settings),
    }


def _failures_last(results: _Results) -> _Results:
    """Next to the verdict, where the last lines are read first."""
    return sorted(results, key=lambda result: _failed(result.snapshot))


def _verdict(results: _Results, removed: int) -> str:
    failed = sum(_failed(each.snapshot) for each in results)
    accounts = count(len(results), "account")
    if failed:
        reasons = f"for the reason{'' if failed == 1 else 's'} above"
        return f"Failed: {failed} of {accounts} cannot be polled, {reasons}{_and_removed(removed)}."
    return f"OK: {accounts} can be polled{_and_removed(removed)}."


def _total(results: _Results, display: DisplayOptions, now: float) -> str:
    """What all accounts that can be polled take together."""
    polled = [each for each in results if not _failed(each.snapshot)]
    now_shown = sum(series_count(each.snapshot, display, now) for each in polled)
    at_most = sum(most_series(each.snapshot, display, now) for each in polled)
    memory = expected_memory(len(results), sum(each.estimate.jobs for each in polled))
    slower = [each.snapshot.account for each in polled if each.is_polled_less_often]
    less_often = "; less often than poll_interval, because rate_share permits no more: " if slower else ""
    return (
        f"Total: {sum(each.requests for each in polled)} requests per 5 minutes; {now_shown} to {at_most} series;"
        f" about {memory} MiB of memory{less_often}{', '.join(slower)}"
    )


def expected_memory(accounts: int, jobs: int) -> int:
    """The daemon's resident memory in MiB, as measured; deploy/OPERATIONS.md has the same figures."""
    return round(_MEMORY + _MEMORY_PER_ACCOUNT * accounts + _MEMORY_PER_JOB * jobs)


def _found(result: _Result, display: DisplayOptions, now: Callable[[], float]) -> Iterator[str]:
    snapshot, status = result.snapshot, result.snapshot.status
    yield f"endpoint    {snapshot.endpoint}"
    if status.username is not None:
        yield f"user        {_user(status.username, display)}"
    if problem := _problem(snapshot, now()):
        yield f"error       {problem}"
        if step := _next_step(result):
            yield f"next step   {step}"
        return
    yield f"jobs        {_jobs(snapshot, result.estimate)}"
    if status.rate_limit is not None and status.rate_limit_remaining is not None:
        yield f"rate limit  {status.rate_limit_remaining} of {status.rate_limit} requests left in this window"
    else:
        yield "rate limit  not reported by the platform"
    at_first = result.requests_at_first
    until_then = f", {at_first} until all jobs are listed" if at_first > result.requests else ""
    yield f"requests    {result.requests} per 5 minutes expected{until_then}, {status.allowance} allowed"
    reason = ", because rate_share permits no more" if result.is_polled_less_often else ""
    yield f"interval    {result.interval:.3g}s between two polls{reason}"
    yield f"series      {series_count(snapshot, display, now())} now, at most {most_series(snapshot, display, now())}"


def _user(name: str, display: DisplayOptions) -> str:
    return name if display.show_username else _HIDDEN


def _next_step(result: _Result) -> str:
    status = result.snapshot.status
    if not status.last_error:
        return ""
    if status.auth_ok is False and result.token is not None:
        return refusal_remedy(result.token, "it has expired or been replaced, or belongs to another platform")
    waiting = status.waiting
    if waiting is None or waiting.reason is not WaitReason.TOKEN or waiting.next_step == MEND_FILE:
        return ""
    return "" if status.last_error.endswith(waiting.next_step) else waiting.next_step


def _settings(settings: Settings) -> str:
    """The settings that may differ between accounts."""
    interval, share = settings.poll_interval, settings.rate_share
    return f"poll_interval {interval:g}s, rate_share {share:g}, job_series {settings.job_series}"


def _problem(snapshot: AccountSnapshot, now: float) -> str:
    """Why the account cannot be polled; empty if it can."""
    if snapshot.status.last_error:
        return snapshot.status.last_error
    return _until_allowed(snapshot, now) if _refused_by_allowance(snapshot) else ""


def _jobs(snapshot: AccountSnapshot, estimate: UsageEstimate) -> str:
    if snapshot.listed is not None:
        return f"{snapshot.jobs_by_state().total()} listed"
    if snapshot.status.incremental_polling:
        return f"{estimate.jobs} or more listed: too many to list at every poll; polled incrementally"
    return f"{estimate.jobs} or more listed; the allowance was too small for all of them"


def _until_allowed(snapshot: AccountSnapshot, now: float) -> str:
    status = snapshot.status
    assert status.waiting is not None  # noqa: S101  # for the type checker
    until = status.waiting.until
    wait = "later" if until is None else f"in {max(1, math.ceil(until - now))} s"
    return (
        f"no request may be sent for now ({status.waiting.reason}): {status.allowance_used} of the {status.allowance}"
        f" requests that the exporter may send in this window are used; check again {wait}"
    )


LINES: Final = Report(_lines, _configured_lines)
DETAILS: Final = Report(_details, _configured_details)
JSON: Final = Report(_json, _configured_json)

"""``check``: is the configuration valid, does every account respond, and how many requests will polling take.

Each account is polled once for real, into a temporary ledger. So the exporter will see what this poll sees.
"""

import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import click

from exporter.api.platforms import SHORT_NAMES
from exporter.commands._click import Command
from exporter.commands._output import say
from exporter.commands._parallel import poll_each
from exporter.commands._settings import load_configuration, settings_options
from exporter.config.loading import Configuration
from exporter.daemon import assembly
from exporter.logs import Log, NonBlockingStream, logger
from exporter.metrics.exposition import Exposition, Format
from exporter.metrics.snapshot import AccountSnapshot, DisplayOptions, SnapshotRegistry, StoreStats
from exporter.polling.poller import UsageEstimate
from exporter.signals import stop_event


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  sbg-exporter check --config /etc/sbg-exporter/config.toml
  sbg-exporter check --offline --config /etc/sbg-exporter/config.toml""",
)
@click.option("--offline", is_flag=True, help="validate the configuration only, without contacting the API")
@settings_options()
@click.pass_obj
def command(errors: NonBlockingStream, /, *, offline: bool, **flags: object) -> int:
    """Validate the configuration and poll every account once.

    Takes the options, variables and file of `run`. For each account it prints the user, the jobs listed, the rate
    limit, and the requests and series to expect. Nothing is counted. Exits 1 if an account cannot be polled,
    2 if the configuration is wrong or leaves no account to poll.
    """
    configuration = load_configuration(flags)
    log = logger("auto", "error", errors)
    return check(configuration, stop_event(), log, offline=offline)


def check(configuration: Configuration, stop: threading.Event, log: Log, *, offline: bool) -> int:
    """Print the findings for each account; *offline* sends no request.

    Returns:
        0 when every account can be polled, else 1.

    Raises:
        Stopping: *stop* was set before all accounts had responded.
    """
    for warning in (*configuration.warnings, *configuration.endpoint_warnings, *configuration.web.warnings):
        say(f"warning: {warning}")
    if offline:
        for problem in configuration.setup_problems.values():
            say(f"error: {problem}")
        if configuration.setup_problems:
            return 1
        number = len(configuration.names)
        say(f"Configuration OK: {number} account{'' if number == 1 else 's'} (API not contacted).")
        return 0
    with tempfile.TemporaryDirectory(prefix="sbg-exporter-check-") as folder:
        throwaway = replace(configuration, state_file=Path(folder) / "state.db", warnings=(), endpoint_warnings=())
        with assembly.build(throwaway, stop, log) as components:
            poll_each(components, lambda poller: poller.poll_once(), stop)
            snapshots, display, now = components.registry.snapshots, components.display, components.clock.time
            estimates = {poller.name: poller.usage_estimate for poller in components.pollers}
    for snapshot in snapshots:
        say(snapshot.account)
        for line in _found(snapshot, display, estimates[snapshot.account], now):
            say(f"  {line}")
    return 1 if any(snapshot.status.last_error for snapshot in snapshots) else 0


def _found(
    snapshot: AccountSnapshot, display: DisplayOptions, estimate: UsageEstimate, now: Callable[[], float]
) -> Iterator[str]:
    status = snapshot.status
    yield f"endpoint    {snapshot.endpoint}"
    if status.username is not None:
        yield f"user        {status.username}"
    if status.last_error:
        yield f"error       {status.last_error}"
        if status.auth_ok is False:
            yield f"next step   {_for_a_refused_token(snapshot.endpoint)}"
        return
    if snapshot.listed is not None:
        yield f"jobs        {snapshot.jobs_by_state().total()} listed"
    elif status.incremental_polling:
        yield f"jobs        {estimate.jobs} or more listed: too many to list at every poll; polled incrementally"
    else:
        yield f"jobs        {estimate.jobs} or more listed; the allowance was too small for all of them"
    if status.rate_limit is not None and status.rate_limit_remaining is not None:
        yield f"rate limit  {status.rate_limit_remaining} of {status.rate_limit} requests left in this window"
    else:
        yield "rate limit  not reported by the platform"
    expected = min(estimate.requests, status.allowance)
    yield f"requests    {expected} per 5 minutes expected, {status.allowance} allowed"
    yield f"series      {_series(snapshot, display, now)} expected"


def _for_a_refused_token(endpoint: str) -> str:
    host = urlsplit(endpoint).hostname or ""
    platform = f"{SHORT_NAMES[host]} ({host})" if host in SHORT_NAMES else host
    return (
        f"make a token on the Developer page of {platform}: this one has expired or been replaced, or belongs to"
        " another platform"
    )


def _series(snapshot: AccountSnapshot, display: DisplayOptions, now: Callable[[], float]) -> int:
    """How many series a scrape would get for the account now."""
    registry = SnapshotRegistry((snapshot.account,))
    registry.put(snapshot)
    page = Exposition(registry, lambda: StoreStats(0, 0, 0, 0.0), display, now)
    return sum(not line.startswith(b"#") for line in page.account_families(Format.TEXT).splitlines())

"""``check``: is the configuration right, does every account answer, and what will watching it cost.

Each account is polled once for real, into a ledger that is thrown away: what that finds is what the daemon will find.
"""

import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from exporter.config.settings import Configuration
from exporter.daemon import assembly
from exporter.logs import Log
from exporter.metrics.exposition import Exposition, Format
from exporter.metrics.snapshot import AccountSnapshot, DisplayOptions, SnapshotRegistry, StoreStats
from exporter.polling.poller import Poller, UsageEstimate
from exporter.redaction import Redactor


def check(configuration: Configuration, stop: threading.Event, log: Log, redactor: Redactor, *, offline: bool) -> int:
    """Print what was found, account by account; *offline* asks nobody.

    Returns:
        0 when all is well, 1 when an account cannot be watched.

    Raises:
        Stopping: *stop* was set before all accounts had answered.
    """
    for warning in configuration.warnings:
        _say(f"warning: {warning}")
    if offline:
        number = len(configuration.accounts)
        _say(f"The configuration is right: {number} account{'' if number == 1 else 's'}. Nobody was asked.")
        return 0
    with tempfile.TemporaryDirectory(prefix="sbg-exporter-check-") as folder:
        throwaway = replace(configuration, state_file=Path(folder) / "state.db", warnings=())
        with assembly.build(throwaway, stop, log, redactor) as components:
            components.poll_each(Poller.poll_once, stop)
            snapshots, display, now = components.registry.snapshots, components.display, components.clock.time
            estimates = {poller.name: poller.usage_estimate for poller in components.pollers}
    for snapshot in snapshots:
        _say(snapshot.account)
        for line in _found(snapshot, display, estimates[snapshot.account], now):
            _say(f"  {line}")
    return 1 if any(snapshot.status.last_error for snapshot in snapshots) else 0


def _found(
    snapshot: AccountSnapshot, display: DisplayOptions, estimate: UsageEstimate, now: Callable[[], float]
) -> Iterator[str]:
    """Lines about one account."""
    status = snapshot.status
    yield f"endpoint    {snapshot.endpoint}"
    if status.username is not None:
        yield f"user        {status.username}"
    if status.last_error:
        yield f"error       {status.last_error}"
        return
    if snapshot.listed is not None:
        yield f"jobs        {sum(totals.jobs for totals in snapshot.listed.values())} listed"
    elif status.incremental_polling:
        yield f"jobs        {estimate.jobs} or more listed: too many to list at every poll, so it will be watched"
    else:
        yield f"jobs        {estimate.jobs} or more listed; the allowance did not suffice for all of them"
    if status.rate_limit is not None and status.rate_limit_remaining is not None:
        yield f"rate limit  {status.rate_limit_remaining} of {status.rate_limit} requests left in this window"
    else:
        yield "rate limit  not told by the platform"
    expected = min(estimate.requests, status.allowance)
    yield f"requests    {expected} per 5 minutes expected, {status.allowance} allowed"
    yield f"series      {_series(snapshot, display, now)} expected"


def _series(snapshot: AccountSnapshot, display: DisplayOptions, now: Callable[[], float]) -> int:
    """How many series the account has now."""
    registry = SnapshotRegistry((snapshot.account,))
    registry.put(snapshot)
    page = Exposition(registry, lambda: StoreStats(0, 0, 0), display, now)
    return sum(not line.startswith(b"#") for line in page.account_families(Format.TEXT).splitlines())


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")

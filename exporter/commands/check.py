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
from exporter.metrics.snapshot import Board, Display, Picture, Process
from exporter.polling.poller import Poller, UsageEstimate
from exporter.redaction import Secrets


def check(configuration: Configuration, stop: threading.Event, log: Log, secrets: Secrets, *, offline: bool) -> int:
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
        with assembly.assembled(throwaway, stop, log, secrets) as parts:
            parts.poll_each(Poller.poll_once, stop)
            pictures, display, now = parts.board.pictures, parts.display, parts.clock.time
            estimates = {poller.name: poller.usage_estimate for poller in parts.pollers}
    for picture in pictures:
        _say(picture.account)
        for line in _found(picture, display, estimates[picture.account], now):
            _say(f"  {line}")
    return 1 if any(picture.polling.fault for picture in pictures) else 0


def _found(picture: Picture, display: Display, estimate: UsageEstimate, now: Callable[[], float]) -> Iterator[str]:
    """Lines about one account."""
    polling = picture.polling
    yield f"endpoint    {picture.endpoint}"
    if polling.username is not None:
        yield f"user        {polling.username}"
    if polling.fault:
        yield f"fault       {polling.fault}"
        return
    if picture.listed is not None:
        yield f"jobs        {sum(totals.jobs for totals in picture.listed.values())} listed"
    elif polling.watching:
        yield f"jobs        {estimate.jobs} or more listed: too many to list at every poll, so it will be watched"
    else:
        yield f"jobs        {estimate.jobs} or more listed; the allowance did not suffice for all of them"
    if polling.rate_limit is not None and polling.rate_limit_remaining is not None:
        yield f"rate limit  {polling.rate_limit_remaining} of {polling.rate_limit} requests left in this window"
    else:
        yield "rate limit  not told by the platform"
    expected = min(estimate.requests, polling.allowance)
    yield f"requests    {expected} per 5 minutes expected, {polling.allowance} allowed"
    yield f"series      {_series(picture, display, now)} expected"


def _series(picture: Picture, display: Display, now: Callable[[], float]) -> int:
    """How many series the account has now."""
    board = Board((picture.account,))
    board.put(picture)
    page = Exposition(board, lambda: Process(0, 0, 0), display, now)
    return sum(not line.startswith(b"#") for line in page.accounts(Format.TEXT).splitlines())


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")

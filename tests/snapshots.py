"""Pictures of accounts for the tests of what is shown."""

from collections.abc import Mapping
from dataclasses import replace

from exporter.counting.rules import HistogramValue, JobTotals, Ledger
from exporter.metrics.exposition import Exposition
from exporter.metrics.families import Family
from exporter.metrics.snapshot import Board, Display, Picture, Polling, Process
from tests.clocks import START, ManualClock
from tests.factories import ENDPOINT

DISPLAY = Display(job_series=50, failed_job_window=86400.0, show_username=True)

POLLING = Polling(
    up=True,
    auth_ok=True,
    maintenance=False,
    username="rosalind",
    last_poll=START + 30.5,
    last_success=START + 30.5,
    last_full_listing=START + 30.25,
    polls={"success": 2, "unreachable": 1},
    poll_duration=HistogramValue.empty((0.5, 5.0), START).observe(0.25, None).observe(7.0, None),
    requests={("user", "200"): 1, ("list", "timeout"): 1, ("list", "200"): 2},
    request_duration={"list": HistogramValue.empty((0.1, 1.0), START).observe(0.05, None)},
    rate_limit=1000,
    rate_limit_remaining=991,
    rate_limit_reset=START + 300,
    allowance=250,
    allowance_used=4,
    watching=False,
    interval=30.0,
    full_listing_interval=30.0,
    detection_delay=30.0,
    skipped={"no_id": 2},
    lowered={"failed": 1},
    fault="",
)
"""Polls that went well, but for one."""

UNTRIED = replace(
    POLLING,
    up=None,
    auth_ok=None,
    maintenance=None,
    username=None,
    watching=None,
    full_listing_interval=None,
    detection_delay=None,
    last_poll=None,
    last_success=None,
    last_full_listing=None,
    polls={},
    poll_duration=HistogramValue.empty((0.5, 5.0), START),
    requests={},
    request_duration={},
    rate_limit=None,
    rate_limit_remaining=None,
    rate_limit_reset=None,
    allowance_used=0,
    skipped={},
    lowered={},
)
"""Before the first poll."""


def picture(
    ledger: Ledger | None,
    *,
    account: str = "cavatica",
    polling: Polling = POLLING,
    listed: Mapping[tuple[str, str], JobTotals] | None = None,
    gauges_until: float = START + 600,
) -> Picture:
    """A picture of an account whose jobs were all listed, unless *listed* says otherwise."""
    if listed is None and ledger is not None:
        listed = ledger.listed
    return Picture(account, ENDPOINT, ledger, listed, polling, gauges_until)


def board(*pictures: Picture) -> Board:
    """A board that shows *pictures*, in their order."""
    shown = Board(tuple(each.account for each in pictures))
    for each in pictures:
        shown.put(each)
    return shown


def exposition(
    *pictures: Picture, at: float = START + 60, display: Display = DISPLAY, families: tuple[Family, ...] | None = None
) -> Exposition:
    """The exposition of *pictures* at one moment."""
    process, clock = Process(0, 12, 4096), ManualClock(at).time
    if families is None:
        return Exposition(board(*pictures), lambda: process, display, clock)
    return Exposition(board(*pictures), lambda: process, display, clock, families)

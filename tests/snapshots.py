"""Account snapshots for tests of metrics and status page."""

from collections.abc import Mapping
from dataclasses import replace

from exporter.counting.values import HistogramValue, JobTotals, Ledger
from exporter.metrics.exposition import Exposition
from exporter.metrics.families import Family
from exporter.metrics.snapshot import AccountSnapshot, DisplayOptions, ExporterStats, PollStatus, SnapshotRegistry
from tests.clocks import START, ManualClock
from tests.factories import ENDPOINT

DISPLAY = DisplayOptions(job_series=50, failed_job_window=86400.0, show_username=True)

STATUS = PollStatus(
    up=True,
    auth_ok=True,
    maintenance=False,
    username="rosalind",
    last_poll=START + 30.5,
    last_success=START + 30.5,
    last_full_listing=START + 30.25,
    counters={
        "sbg_exporter_polls_total": {("success",): 2, ("unreachable",): 1},
        "sbg_exporter_requests_total": {("user", "200"): 1, ("list", "timeout"): 1, ("list", "200"): 2},
        "sbg_exporter_records_skipped_total": {("no_id",): 2},
        "sbg_exporter_counts_lowered_total": {("failed",): 1},
    },
    poll_duration=HistogramValue.empty((0.5, 5.0), START).observe(0.25, None).observe(7.0, None),
    request_duration={"list": HistogramValue.empty((0.1, 1.0), START).observe(0.05, None)},
    rate_limit=1000,
    rate_limit_remaining=991,
    rate_limit_reset=START + 300,
    allowance=250,
    allowance_used=4,
    incremental_polling=False,
    interval=30.0,
    full_listing_interval=30.0,
    detection_delay=30.0,
    last_error="",
    clock_skew=-0.5,
)
"""Successful polls, except for one."""

UNTRIED = replace(
    STATUS,
    up=None,
    auth_ok=None,
    maintenance=None,
    username=None,
    incremental_polling=None,
    full_listing_interval=None,
    detection_delay=None,
    last_poll=None,
    last_success=None,
    last_full_listing=None,
    counters={},
    poll_duration=HistogramValue.empty((0.5, 5.0), START),
    request_duration={},
    rate_limit=None,
    rate_limit_remaining=None,
    rate_limit_reset=None,
    allowance_used=0,
    clock_skew=None,
)
"""Before the first poll."""


def snapshot(
    ledger: Ledger | None,
    *,
    account: str = "cavatica",
    status: PollStatus = STATUS,
    listed: Mapping[tuple[str, str], JobTotals] | None = None,
    gauges_until: float = START + 600,
) -> AccountSnapshot:
    """Return a snapshot of an account. By default all its jobs are listed."""
    if listed is None and ledger is not None:
        listed = ledger.listed
    return AccountSnapshot(account, ENDPOINT, ledger, listed, status, gauges_until)


def registry(*snapshots: AccountSnapshot) -> SnapshotRegistry:
    """Return a registry with *snapshots*, in this order."""
    shown = SnapshotRegistry(tuple(each.account for each in snapshots))
    for each in snapshots:
        shown.put(each)
    return shown


def exposition(
    *snapshots: AccountSnapshot,
    at: float = START + 60,
    display: DisplayOptions = DISPLAY,
    families: tuple[Family, ...] | None = None,
) -> Exposition:
    """The exposition of *snapshots* at one moment."""
    stats, clock = ExporterStats(0, 12, 4096, START), ManualClock(at).time
    if families is None:
        return Exposition(registry(*snapshots), lambda: stats, display, clock)
    return Exposition(registry(*snapshots), lambda: stats, display, clock, families)

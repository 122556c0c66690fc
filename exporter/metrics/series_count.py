"""How many series one account has, and can have, for those who plan what Prometheus stores."""

from dataclasses import replace
from itertools import product
from typing import Final

import msgspec

from exporter.api.models import OPERATIONS, STATES
from exporter.counting.labels import most_values
from exporter.counting.values import FILE_ERRORS, CounterValue, JobRecord, Key, Ledger
from exporter.metrics.exposition import Exposition, Format
from exporter.metrics.snapshot import AccountSnapshot, DisplayOptions, ExporterStats, PollStatus, SnapshotRegistry

_ENDPOINTS: Final = ("list", "job", "user")
_STATUSES: Final = ("200", "400", "401", "403", "404", "429", "500", "502", "503", "504", "timeout", "connect", "other")


def series_count(snapshot: AccountSnapshot, display: DisplayOptions, now: float) -> int:
    """How many series Prometheus stores for the account now: it scrapes OpenMetrics, with creation times."""
    registry = SnapshotRegistry((snapshot.account,))
    registry.put(snapshot)
    page = Exposition(registry, lambda: ExporterStats(0, 0, 0, 0.0), display, lambda: now)
    return sum(not line.startswith(b"#") for line in page.account_families(Format.OPENMETRICS).splitlines())


def most_series(snapshot: AccountSnapshot, display: DisplayOptions, now: float) -> int:
    """How many series it can become: with each limit of *display* used, and each documented value seen.

    Values that the platform does not document, such as other operations, and HTTP status codes that it has not used so
    far come on top.
    """
    return series_count(_fullest(snapshot, display, now), display, now)


def _fullest(snapshot: AccountSnapshot, display: DisplayOptions, now: float) -> AccountSnapshot:
    assert snapshot.ledger is not None  # noqa: S101  # of an account that was polled
    shown = display.job_series_of(snapshot.account)
    return replace(
        snapshot, ledger=_full_ledger(snapshot.ledger, shown, now), listed={}, status=_full_status(snapshot.status)
    )


def _full_ledger(ledger: Ledger, shown: int, now: float) -> Ledger:
    codes = tuple(map(str, range(most_values("code"))))
    kinds = tuple(product(OPERATIONS, STATES))
    unfinished = [JobRecord(f"u{i}", *kinds[i % len(kinds)]) for i in range(max(shown, len(kinds)))]
    errors = " ".join(f"{code}:1" for code in codes)
    failed = [
        JobRecord(
            f"f{i}", OPERATIONS[0], STATES[-1], last_failed=1, finished_on=now, detected_at=now, error_counts=errors
        )
        for i in range(shown)
    ]
    found: dict[Key, CounterValue] = {
        (FILE_ERRORS, labels): CounterValue(0, now) for labels in product(OPERATIONS, codes)
    }
    others = {
        key: value for key, value in ledger.counters.items() if key[0] != FILE_ERRORS or key[1][0] not in OPERATIONS
    }
    return replace(
        ledger,
        account=msgspec.structs.replace(ledger.account, failure_counted_at=dict.fromkeys(OPERATIONS, now)),
        counters={**others, **found},
        live={record.id: record for record in unfinished},
        failed={record.id: record for record in failed},
    )


def _full_status(status: PollStatus) -> PollStatus:
    requests: dict[tuple[str, ...], int] = dict.fromkeys(product(_ENDPOINTS, _STATUSES), 0)
    usual = next(iter(status.request_duration.values()), status.poll_duration)
    return replace(
        status,
        counters={**status.counters, "sbg_exporter_requests_total": requests},
        request_duration={**dict.fromkeys(_ENDPOINTS, usual), **status.request_duration},
        last_full_listing=status.last_full_listing or 0.0,
        rate_limit=status.rate_limit or 0,
        rate_limit_remaining=status.rate_limit_remaining or 0,
        rate_limit_reset=status.rate_limit_reset or 0.0,
        full_listing_interval=status.full_listing_interval or 0.0,
        detection_delay=status.detection_delay or 0.0,
        clock_skew=status.clock_skew or 0.0,
    )

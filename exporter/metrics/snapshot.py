"""Immutable snapshots that scrapes and the status page read: one per account, replaced as a whole after each change."""

import math
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from exporter.api.models import Outcome, State
from exporter.counting.labels import decode_error_counts
from exporter.counting.values import (
    FILES,
    FILES_COMPLETED,
    FILES_FAILED,
    HistogramValue,
    JobRecord,
    JobTotals,
    Ledger,
)
from exporter.errors import WaitReason


@dataclass(frozen=True, slots=True)
class Waiting:
    """An account that makes no request for now. Times are Unix seconds by this machine's clock.

    Attributes:
        since: when it began.
        until: when the next request is due; None: as soon as the cause is removed.
        explanation: the reason in words; empty: in its usual ones.
        next_step: what an operator can do, as in the log.
    """

    reason: WaitReason
    since: float
    until: float | None
    explanation: str = ""
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class CommitFailure:
    """What an account's polls find cannot be written to the state file, so it is not counted.

    Attributes:
        since: when a commit failed first, Unix seconds by this machine's clock.
        reason: why the last one failed, or the last test of the file.
    """

    since: float
    reason: str


MAX_SKEW: Final = 60.0
"""Seconds by which this machine's clock may differ from the platform's without a warning."""


@dataclass(frozen=True, slots=True)
class PollStatus:
    """How polling went since the process started. Times are Unix seconds by this machine's clock; None: not yet known.

    Attributes:
        up: whether the last poll succeeded.
        auth_ok: whether the platform accepts the token, as last reported.
        maintenance: whether the platform is under maintenance, as last reported.
        username: the token's user, as the platform reported.
        counters: counted since the process started: by family, then by label values after ``account``.
        rate_limit, rate_limit_remaining: requests, as the platform last reported.
        rate_limit_reset: when the platform's window ends, by its clock.
        allowance, allowance_used: requests of this window.
        incremental_polling: whether the account is too large to list in full at every poll; None before the first.
        interval: effective seconds between two polls.
        full_listing_interval: effective seconds between two full listings; None before the first poll.
        detection_delay: longest time since an unfinished job, or the head of the list, was last checked.
        last_error: why the last poll failed; empty if it succeeded.
        waiting: why nothing is requested for now, if so.
        clock_skew: seconds by which the platform's clock is ahead of this machine's; None while it is not believed.
        commit_failure: since when commits fail, if they do, whether polls succeed or not.
        slowed: whether the allowance makes the interval longer than it is configured.
    """

    up: bool | None
    auth_ok: bool | None
    maintenance: bool | None
    username: str | None
    last_poll: float | None
    last_success: float | None
    last_full_listing: float | None
    counters: Mapping[str, Mapping[tuple[str, ...], int]]
    poll_duration: HistogramValue
    request_duration: Mapping[str, HistogramValue]
    rate_limit: int | None
    rate_limit_remaining: int | None
    rate_limit_reset: float | None
    allowance: int
    allowance_used: int
    incremental_polling: bool | None
    interval: float
    full_listing_interval: float | None
    detection_delay: float | None
    last_error: str
    waiting: Waiting | None = None
    clock_skew: float | None = None
    commit_failure: CommitFailure | None = None
    slowed: bool = False


@dataclass(frozen=True, slots=True)
class DisplayOptions:
    """How much is shown of each account.

    Attributes:
        job_series: maximum per-job series for unfinished and for failed jobs, of an account that is not in
            *own_job_series*.
        failed_job_window: seconds for which a failed job is shown after its end.
        show_username: whether user names are shown.
        own_job_series: account to the maximum that it has of its own.
    """

    job_series: int
    failed_job_window: float
    show_username: bool
    own_job_series: Mapping[str, int] = field(default_factory=dict, hash=False)

    def job_series_of(self, account: str) -> int:
        """Maximum per-job series for unfinished and for failed jobs of *account*."""
        return self.own_job_series.get(account, self.job_series)

    def shown_until(self, record: JobRecord) -> float:
        """When a failed job leaves the failed jobs, Unix seconds.

        A job that the exporter found long after its end stays for half of the window from then on, because alerts need
        its series.
        """
        return max(record.ended_on + self.failed_job_window, (record.detected_at or 0.0) + self.failed_job_window / 2)


class FilesCounted(NamedTuple):
    """Files counted since counting began, over all operations."""

    total: int
    completed: int
    failed: int


@dataclass(frozen=True, slots=True)
class AccountSnapshot:
    """One account at one moment.

    Attributes:
        account: the configured name.
        endpoint: the API's base URL.
        ledger: the ledger as committed; None until the platform has identified the account.
        listed: totals by (operation, state) as last listed; None before the first full listing.
        status: how polling went.
        gauges_until: when gauges become stale, Unix seconds.
    """

    account: str
    endpoint: str
    ledger: Ledger | None
    listed: Mapping[tuple[str, str], JobTotals] | None
    status: PollStatus
    gauges_until: float

    @property
    def owner(self) -> str:
        """The account's user name, from the platform or else from the ledger; empty if unknown."""
        return self.status.username or (self.ledger.account.username if self.ledger is not None else "")

    def unfinished_jobs(self) -> list[JobRecord]:
        """The unfinished jobs, oldest first."""
        live = () if self.ledger is None else self.ledger.live.values()
        return sorted(
            (record for record in live if record.unfinished), key=lambda record: (submitted_at(record), record.id)
        )

    def failed_jobs(self, display: DisplayOptions, now: float) -> list[JobRecord]:
        """The failed jobs that are running or ended within the window, latest detection first."""
        return sorted(
            (record for record in self._failed() if display.shown_until(record) > now),
            key=lambda record: (record.detected_at or 0.0, record.id),
            reverse=True,
        )

    def incomplete_or_lost_jobs(self, display: DisplayOptions, now: float) -> list[JobRecord]:
        """The incomplete and lost jobs that ended within the window, or that were noticed within half of it.

        Those that were noticed last come first.
        """
        records = () if self.ledger is None else self.ledger.incomplete_or_lost.values()
        window = display.failed_job_window
        shown = (each for each in records if max(each.ended_on + window, noticed_at(each) + window / 2) > now)
        return sorted(shown, key=lambda record: (noticed_at(record), record.id), reverse=True)

    def next_expiry(self, display: DisplayOptions, now: float) -> float:
        """When the next of the failed jobs leaves its window, Unix seconds; infinity if none does."""
        expiries = (display.shown_until(record) for record in self._failed())
        return min((at for at in expiries if at > now), default=math.inf)

    def jobs_by_state(self) -> Counter[str]:
        """Number of listed jobs by state, over all operations; empty before the first full listing."""
        states = Counter[str]()
        for (_, state), totals in (self.listed or {}).items():
            states[state] += totals.jobs
        return states

    def files_counted(self) -> FilesCounted:
        """Files counted since counting began; zeros without a ledger."""
        sums = Counter[str]()
        if self.ledger is not None:
            for (family, _), count in self.ledger.counters.items():
                sums[family] += count.value
        return FilesCounted(sums[FILES], sums[FILES_COMPLETED], sums[FILES_FAILED])

    def _failed(self) -> Iterator[JobRecord]:
        return iter(()) if self.ledger is None else iter(self.ledger.failed.values())


STUCK_SECONDS: Final = 1800.0
"""When an unfinished job without progress is reported as stuck: the threshold of the alert SbgJobStuck."""


def is_stuck(record: JobRecord, looked_at: float) -> bool:
    """Whether an unfinished job that has started had made no progress for too long when it was *looked_at*.

    Others wait in the queue. The time after the last look says nothing about a job.
    """
    waits = record.state == State.SUBMITTED
    return record.unfinished and not waits and looked_at - record.last_progress_at > STUCK_SECONDS


def submitted_at(record: JobRecord) -> float:
    """When a job was submitted or, if that is unknown, first seen."""
    return record.first_seen if record.submitted_on is None else record.submitted_on


def noticed_at(record: JobRecord) -> float:
    """The latest of a job's end, its first failed file and its last progress, Unix seconds; infinite while unfinished.

    The exporter may have seen these long after the end, if it was down. What it saw of a job that finished before
    counting began does not matter: that was when counting began.
    """
    if record.history:
        return record.ended_on
    return max(record.ended_on, record.detected_at or 0.0, record.last_progress_at)


def why_incomplete_or_lost(record: JobRecord) -> str:
    """Why a job has one of these outcomes, in words; empty if it has another one."""
    if record.outcome == Outcome.LOST:
        return "gone from the platform before it finished"
    if record.outcome != Outcome.INCOMPLETE:
        return ""
    missing = record.last_total - record.last_completed - record.last_failed
    if missing <= 0:
        return "no file is missing any more"
    files = f"{missing:,} of {record.last_total:,} files missing"
    return files if record.last_failed else f"{files}, none reported as failed"


def error_codes(record: JobRecord) -> list[tuple[str, int]]:
    """A failed job's error records by code, most frequent first."""
    return sorted(decode_error_counts(record.error_counts).items(), key=lambda pair: (-pair[1], pair[0]))


@dataclass(frozen=True, slots=True)
class ExporterStats:
    """Statistics of the process and of its state file.

    Attributes:
        state_write_failures: failed commits since the process started.
        state_jobs: jobs tracked in the state file.
        state_bytes: size of the state file on disk; None while it cannot be seen.
        since: when the process started to count, Unix seconds.
        reload: how the configuration was last read; None where it is not read again.
        accounts_missing: accounts that were polled until the exporter stopped, and are not configured since its start.
        state_writable: whether commits of no account fail.
    """

    state_write_failures: int
    state_jobs: int
    state_bytes: int | None
    since: float
    reload: "ReloadStatus | None" = None
    accounts_missing: int = 0
    state_writable: bool = True


@dataclass(frozen=True, slots=True)
class MissingAccounts:
    """Accounts that were polled until the exporter stopped, and are not configured since its start.

    Attributes:
        names: at least one.
        since: when the exporter started without them, Unix seconds.
        next_step: what to do about them.
    """

    names: tuple[str, ...]
    since: float
    next_step: str


@dataclass(frozen=True, slots=True)
class LostStateFile:
    """The state file was gone at the start, so that counting began at 0.

    Attributes:
        file: its path.
        since: when the exporter started, Unix seconds.
        next_step: how to get it back.
    """

    file: str
    since: float
    next_step: str


@dataclass(frozen=True, slots=True)
class ReloadStatus:
    """How the configuration was last read.

    Attributes:
        successful: whether the last attempt succeeded; the start is the first one.
        succeeded_at: when an attempt last succeeded, Unix seconds.
        failing_since: when the first of the attempts failed that failed since then; None if none did.
        problems: why the last attempt failed, one line each.
        waiting: what the last success changed that waits for a restart, one line each.
        removed: accounts that reloads have removed, and when, Unix seconds; without those that are back.
    """

    successful: bool
    succeeded_at: float
    failing_since: float | None = None
    problems: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    removed: Mapping[str, float] = field(default_factory=dict)


class SnapshotRegistry:
    """The latest snapshot of each account, set by pollers and read by scrapes. Safe to share between threads."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """An empty registry for the accounts *names*, in the order of the configuration."""
        self._lock = threading.Lock()
        self._order = {name: position for position, name in enumerate(names)}
        self._snapshots: tuple[AccountSnapshot, ...] = ()
        self._was_ready = False

    def arrange(self, names: tuple[str, ...]) -> None:
        """Take over the accounts of a changed configuration: others are dropped, and the order may be another one."""
        with self._lock:
            self._order = {name: position for position, name in enumerate(names)}
            kept = (each for each in self._snapshots if each.account in self._order)
            self._snapshots = tuple(sorted(kept, key=lambda each: self._order[each.account]))

    def put(self, snapshot: AccountSnapshot) -> None:
        """Replace the account's snapshot."""
        with self._lock:
            others = [each for each in self._snapshots if each.account != snapshot.account]
            self._snapshots = tuple(sorted((*others, snapshot), key=lambda each: self._order[each.account]))

    @property
    def snapshots(self) -> tuple[AccountSnapshot, ...]:
        """The current snapshots, in the order of the configuration."""
        return self._snapshots

    @property
    def state_writable(self) -> bool:
        """Whether commits of no account fail."""
        return all(snapshot.status.commit_failure is None for snapshot in self._snapshots)

    @property
    def ready(self) -> bool:
        """Whether every account of the start has been polled once, or is known to wait.

        An account that is added later does not change that: it must not take the others' metrics from Prometheus.
        """
        self._was_ready = self._was_ready or (
            len(self._snapshots) == len(self._order)
            and all(
                snapshot.status.last_poll is not None or snapshot.status.waiting is not None
                for snapshot in self._snapshots
            )
        )
        return self._was_ready

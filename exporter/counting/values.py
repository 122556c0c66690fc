"""The values that counting works on: job records, counters, histograms, and the ledger that holds them."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import msgspec

from exporter.api.models import INCOMPLETE_OR_LOST, Job
from exporter.counting.submission import submission_time

DAY: Final = 86400.0
FORGET_AFTER: Final = 45 * DAY
"""Listing time after which a job record that is no longer listed expires (rules 6 and 7)."""

JOBS_SUBMITTED: Final = "sbg_jobs_submitted_total"
JOBS_FINISHED: Final = "sbg_jobs_finished_total"
FILES: Final = "sbg_files_total"
FILES_COMPLETED: Final = "sbg_files_completed_total"
FILES_FAILED: Final = "sbg_files_failed_total"
FILE_ERRORS: Final = "sbg_file_errors_total"
JOB_DURATION: Final = "sbg_job_duration_seconds"
JOB_QUEUE_DURATION: Final = "sbg_job_queue_duration_seconds"

Key = tuple[str, tuple[str, ...]]
"""A metric family's name and its label values after ``account``."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that counting depends on; durations and bounds in seconds."""

    settle_after: float = 60.0
    lost_after: float = 300.0
    history: Literal["ignore", "count"] = "ignore"
    failed_job_window: float = DAY
    duration_buckets: tuple[float, ...] = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 28800, 86400)
    queue_buckets: tuple[float, ...] = (1, 5, 15, 30, 60, 300, 900, 3600, 14400, 86400)

    def bounds(self, family: str) -> tuple[float, ...]:
        """The bucket bounds of a histogram family."""
        return self.queue_buckets if family == JOB_QUEUE_DURATION else self.duration_buckets


# ---- counters and histograms ----


class Exemplar(NamedTuple):
    """The job that last changed a counter or bucket: its id, the increment or value, and when (Unix seconds)."""

    job_id: str
    value: float
    at: float


class CounterValue(msgspec.Struct, frozen=True):
    """One counter: its value, its creation time (Unix seconds) and its last exemplar."""

    value: int
    created: float
    exemplar: Exemplar | None = None


class HistogramValue(msgspec.Struct, frozen=True):
    """One histogram: observations per bucket, not cumulative, the last bucket above every bound."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float
    created: float
    exemplars: tuple[Exemplar | None, ...]

    @classmethod
    def empty(cls, bounds: tuple[float, ...], created: float) -> "HistogramValue":
        """A histogram without observations."""
        return cls(bounds, (0,) * (len(bounds) + 1), 0.0, created, (None,) * (len(bounds) + 1))

    def observe(self, value: float, exemplar: Exemplar | None) -> "HistogramValue":
        """This histogram with one more observation."""
        bucket = sum(1 for bound in self.bounds if value > bound)
        counts = list(self.counts)
        exemplars = list(self.exemplars)
        counts[bucket] += 1
        if exemplar is not None:
            exemplars[bucket] = exemplar
        return HistogramValue(self.bounds, tuple(counts), self.sum + value, self.created, tuple(exemplars))


class JobTotals(NamedTuple):
    """Number of listed jobs with one operation and state, and the sums of their file counts."""

    jobs: int = 0
    total: int = 0
    completed: int = 0
    failed: int = 0


# ---- jobs and accounts ----


class JobRecord(msgspec.Struct, frozen=True, gc=False):
    """The stored state of one job, including what has been counted.

    Attributes:
        id, operation, state: as labelled; the most advanced state observed.
        total, completed, failed: files counted: the highest numbers ever observed.
        last_total, last_completed, last_failed: files as last observed.
        first_seen: platform time of the first observation.
        seen_submitted: whether its state at the first observation was SUBMITTED.
        started_on, finished_on: platform times, None while unknown.
        outcome: empty while the job is unfinished.
        history: whether it finished before the ledger was created.
        detail_requests_left: how often its own endpoint may still be requested for what a finished job lacks.
        queue_counted, duration_counted, errors_counted: counted, or found not to be countable.
        last_progress_at: when its state or counts last changed, by this machine's clock.
        detected_at: when its first failed file was counted, by this machine's clock.
        settling_since: the account's wait clock since which its missing files have not changed.
        missing_since: the account's wait clock since which the platform answers that it does not know the job.
        unlisted_at: the account's listing clock when the job was no longer listed; None while listed.
        error_counts: error records by code, encoded (see :mod:`exporter.counting.labels`), of a job with failed files.
    """

    id: str
    operation: str
    state: str
    total: int = 0
    completed: int = 0
    failed: int = 0
    last_total: int = 0
    last_completed: int = 0
    last_failed: int = 0
    first_seen: float = 0.0
    seen_submitted: bool = False
    started_on: float | None = None
    finished_on: float | None = None
    outcome: str = ""
    history: bool = False
    detail_requests_left: int = 0
    queue_counted: bool = False
    duration_counted: bool = False
    errors_counted: bool = False
    last_progress_at: float = 0.0
    detected_at: float | None = None
    settling_since: float | None = None
    missing_since: float | None = None
    unlisted_at: float | None = None
    error_counts: str = ""

    @property
    def unfinished(self) -> bool:
        """Whether it has no outcome yet."""
        return not self.outcome

    @property
    def needs_details(self) -> bool:
        """Whether it is finished and its own endpoint is to be requested (rule 9)."""
        return self.detail_requests_left > 0

    @property
    def ended_on(self) -> float:
        """When it finished, or else last progressed; infinite while it is unfinished. Decides only what is shown."""
        if self.unfinished:
            return math.inf
        return self.finished_on if self.finished_on is not None else self.last_progress_at

    @property
    def submitted_on(self) -> float | None:
        """Platform time of its submission (rule 8); None if that cannot be known."""
        return submission_time(self.id, self.first_seen, self.started_on, seen_submitted=self.seen_submitted)


class Account(msgspec.Struct, frozen=True):
    """The identity of a ledger's account, and the state of its counting.

    Attributes:
        number: the storage's key.
        endpoint, username, division: the identity.
        counting_since: platform time at which the ledger was created.
        ever_listed: whether a full listing was ever completed.
        listing_clock: seconds of listing time so far (rule 7).
        listed_on: platform time of the last full listing; None before the first.
        labels: kind to the undocumented label values that are kept (rule 10).
        failure_counted_at: operation to when a failed file was last counted, by this machine's clock.
    """

    number: int
    endpoint: str
    username: str
    division: str
    counting_since: float
    ever_listed: bool = False
    listing_clock: float = 0.0
    listed_on: float | None = None
    labels: Mapping[str, tuple[str, ...]] = {}
    failure_counted_at: Mapping[str, float] = {}


class WaitClock(NamedTuple):
    """A reading of the account's wait clock, by which rules 5 to 7 measure how long ago something was.

    It advances only by what two clocks agree on (:class:`exporter.polling.platform_clock.WaitTimer`), so that one wrong
    clock neither shortens a wait nor ends it.

    Attributes:
        seconds: the reading. Close to the platform's time when counting began, but only differences have a meaning.
        platform_time: the platform's time then; None if it was not believed.
        local_time: this machine's clock then. Both only tell the next process how long it has not been running.
        listed: the reading at the last full listing; None if unknown.
    """

    seconds: float
    platform_time: float | None
    local_time: float
    listed: float | None = None


class Retry(NamedTuple):
    """When a job whose own endpoint failed may be requested again. Nothing is counted by it.

    Attributes:
        failures: how many requests for the job failed in a row.
        at: the account's wait clock from which the next one may be made.
    """

    failures: int
    at: float


# ---- events ----


class JobFinished(NamedTuple):
    """A job's outcome was counted."""

    record: JobRecord


class FilesFailed(NamedTuple):
    """The first failed file of an unfinished job was counted."""

    record: JobRecord


class CountDecreased(NamedTuple):
    """The platform lowered a count that was already counted; *field* is ``total``, ``completed`` or ``failed``."""

    job_id: str
    field: str
    counted: int
    now: int


class HistoryFound(NamedTuple):
    """Jobs that finished before the ledger was created; *counted* as the setting ``history`` says.

    Attributes:
        failed: how many of them have failed files, which no alert reports.
    """

    jobs: int
    counted: bool
    failed: int = 0


class HistogramReset(NamedTuple):
    """The configured bounds changed, so this family's histograms were reset."""

    family: str


LedgerEvent = JobFinished | FilesFailed | CountDecreased | HistoryFound | HistogramReset


# ---- the ledger, what one poll observed, and what that changes ----


@dataclass(frozen=True, slots=True)
class Observations:
    """What one poll observed.

    Attributes:
        jobs: every observation, from pages and from single-job responses; a job may occur more than once.
        listed: ids of jobs on pages.
        asked: ids of jobs whose own endpoint answered with the job.
        refused: ids of jobs whose own endpoint gave a response that says nothing about the job.
        unknown: ids that the platform answers it does not know, from a poll whose list request succeeded.
        no_longer_listed: records of jobs that were listed before and are missing from a full listing.
        expirable: records that expire if the listing clock says so.
        complete: whether this poll completed a full listing.
    """

    jobs: Collection[Job]
    listed: Collection[str]
    asked: Collection[str] = frozenset()
    refused: Collection[str] = frozenset()
    unknown: Collection[str] = frozenset()
    no_longer_listed: Iterable[JobRecord] = ()
    expirable: Iterable[JobRecord] = ()
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """What one reconciliation changes: absolute new rows, so that writing them twice has the effect of once.

    Attributes:
        listed: totals over all listed jobs, as they are now.
        new_records: how many of the job records are of jobs never observed before.
        failed_since: failed, incomplete and lost jobs that ended and were detected before this time (Unix seconds) may
            leave memory.
        wait_clock: the reading to store with the rest, so that a later process continues the waits.
        retries: jobs whose own endpoint failed when it was last requested, and None for those that it is over for.
    """

    records: Mapping[str, JobRecord]
    forgotten: Collection[str]
    counters: Mapping[Key, CounterValue]
    histograms: Mapping[Key, HistogramValue]
    account: Account | None
    listed: Mapping[tuple[str, str], JobTotals]
    events: tuple[LedgerEvent, ...]
    new_records: int
    failed_since: float
    wait_clock: WaitClock | None = None
    retries: Mapping[str, Retry | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is anything to commit."""
        return bool(
            self.records
            or self.forgotten
            or self.counters
            or self.histograms
            or self.account
            or self.wait_clock
            or self.retries
        )


@dataclass(frozen=True, slots=True)
class Ledger:
    """One account's ledger in memory: as committed, never changed in place.

    Attributes:
        live: records of jobs that are unfinished or need details, by id.
        failed: records of jobs with failed files that are or may be shown individually, by id.
        incomplete_or_lost: records of jobs with one of these outcomes that are or may be shown individually, by id.
        listed: totals over the listed jobs, as last observed.
        wait_clock: the reading stored last; None before the first.
        retries: when jobs whose own endpoint failed may be requested again, by id.
    """

    account: Account
    counters: Mapping[Key, CounterValue]
    histograms: Mapping[Key, HistogramValue]
    live: Mapping[str, JobRecord]
    failed: Mapping[str, JobRecord]
    listed: Mapping[tuple[str, str], JobTotals]
    tracked_jobs: int
    wait_clock: WaitClock | None = None
    retries: Mapping[str, Retry] = field(default_factory=dict)
    incomplete_or_lost: Mapping[str, JobRecord] = field(default_factory=dict)

    def after(self, changes: Changes) -> "Ledger":
        """The ledger after *changes* are committed; this same object if there are none."""
        if not changes:
            return self
        live, failed, incomplete_or_lost = self.live, self.failed, self.incomplete_or_lost
        if changes.records or changes.forgotten:
            live = _kept(live, changes, lambda record: record.unfinished or record.needs_details)
            failed = _kept(
                failed,
                changes,
                lambda record: (
                    record.failed > 0 and max(record.ended_on, record.detected_at or 0.0) >= changes.failed_since
                ),
            )
            incomplete_or_lost = _kept(
                incomplete_or_lost,
                changes,
                lambda record: (
                    record.outcome in INCOMPLETE_OR_LOST
                    and max(record.ended_on, record.last_progress_at) >= changes.failed_since
                ),
            )
        return Ledger(
            changes.account or self.account,
            {**self.counters, **changes.counters} if changes.counters else self.counters,
            {**self.histograms, **changes.histograms} if changes.histograms else self.histograms,
            live,
            failed,
            changes.listed,
            self.tracked_jobs + changes.new_records - len(changes.forgotten),
            changes.wait_clock or self.wait_clock,
            {job_id: retry for job_id, retry in {**self.retries, **changes.retries}.items() if retry is not None}
            if changes.retries
            else self.retries,
            incomplete_or_lost,
        )


def _kept(
    records: Mapping[str, JobRecord], changes: Changes, wanted: Callable[[JobRecord], bool]
) -> Mapping[str, JobRecord]:
    gone = set(changes.forgotten)
    return {
        job_id: record
        for job_id, record in {**records, **changes.records}.items()
        if job_id not in gone and wanted(record)
    }

"""Every metric family, declared once: name, type, labels, help and the source of its samples.

The tables of exporter/metrics/README.md and the exposition's HELP and TYPE lines are made from :data:`FAMILIES`.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from exporter import __version__
from exporter.api.decoding import SKIPPED
from exporter.api.models import OPERATIONS, STATES, State
from exporter.counting import values as counting
from exporter.counting.values import CounterValue, HistogramValue, JobRecord, JobTotals
from exporter.errors import FAILED_RESULTS, WaitReason
from exporter.metrics.snapshot import (
    AccountSnapshot,
    DisplayOptions,
    ExporterStats,
    PollStatus,
    error_codes,
    submitted_at,
)
from exporter.revision import revision

Labels = tuple[str, ...]


class Type(StrEnum):
    """A family's type, as TYPE lines spell it."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Section(StrEnum):
    """The chapter of exporter/metrics/README.md that lists a family; the value is its heading."""

    LISTED = "Current state"
    COUNTED = "Persistent counters and histograms"
    PER_JOB = "Per-job series (limited by `job_series`)"
    EXPORTER = "Exporter health"


class Source(StrEnum):
    """The part of a snapshot that a family's samples come from. When it is replaced, the family is rendered again."""

    LEDGER = "ledger"
    LISTED = "listed"
    STATUS = "status"


class Sample(NamedTuple):
    """One sample, or one histogram: its label values after ``account``, and its value."""

    labels: Labels
    value: float | CounterValue | HistogramValue


Samples = Callable[[AccountSnapshot, DisplayOptions, float], Iterable[Sample]]
"""The samples of one account's snapshot at a time (Unix seconds)."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family.

    Attributes:
        labels: label names; ``account`` comes first in all families of accounts.
        hide_when_stale: whether samples are hidden if the last successful poll is older than ``stale_after``.
    """

    section: Section
    name: str
    type: Type
    help: str
    labels: Labels
    source: Source
    samples: Samples
    hide_when_stale: bool = False


@dataclass(frozen=True, slots=True)
class ProcessFamily:
    """One metric family of the exporter itself."""

    section: Section
    name: str
    type: Type
    help: str
    labels: Labels
    samples: Callable[[ExporterStats], Sample | None]


_ACCOUNT: Final = ("account",)
_OPERATION: Final = ("account", "operation")
_STATE: Final = ("account", "operation", "state")
_JOB: Final = ("account", "operation", "job_id")


# ---- current state ----


def _listed_gauge(name: str, meaning: str, of: Callable[[JobTotals], int]) -> Family:
    """A gauge: a total over the listed jobs."""

    def samples(snapshot: AccountSnapshot, _display: DisplayOptions, _now: float) -> Iterator[Sample]:
        if snapshot.listed is None:
            return
        known = snapshot.ledger.account.labels if snapshot.ledger is not None else {}
        operations = dict.fromkeys(
            (*OPERATIONS, *known.get("operation", ()), *(operation for operation, _ in snapshot.listed))
        )
        states = dict.fromkeys((*STATES, *known.get("state", ()), *(state for _, state in snapshot.listed)))
        for operation in operations:
            for state in states:
                yield Sample((operation, state), of(snapshot.listed.get((operation, state), _NO_JOBS)))

    return Family(Section.LISTED, name, Type.GAUGE, meaning, _STATE, Source.LISTED, samples, hide_when_stale=True)


_NO_JOBS: Final = JobTotals()


def _oldest(snapshot: AccountSnapshot, _display: DisplayOptions, _now: float) -> Iterator[Sample]:
    oldest: dict[tuple[str, str], float] = {}
    for record in snapshot.unfinished_jobs():
        labels, at = (record.operation, record.state), submitted_at(record)
        oldest[labels] = min(at, oldest.get(labels, at))
    for labels, at in sorted(oldest.items()):
        yield Sample(labels, at)


# ---- persistent counters and histograms ----


def _counter(name: str, meaning: str, *labels: str) -> Family:
    """A counter that the ledger stores."""

    def samples(snapshot: AccountSnapshot, _display: DisplayOptions, _now: float) -> Iterator[Sample]:
        if snapshot.ledger is not None:
            yield from (
                Sample(key, count) for (family, key), count in snapshot.ledger.counters.items() if family == name
            )

    return Family(Section.COUNTED, name, Type.COUNTER, meaning, (*_OPERATION, *labels), Source.LEDGER, samples)


def _histogram(name: str, meaning: str, *labels: str) -> Family:
    """A histogram that the ledger stores."""

    def samples(snapshot: AccountSnapshot, _display: DisplayOptions, _now: float) -> Iterator[Sample]:
        if snapshot.ledger is not None:
            yield from (
                Sample(key, each) for (family, key), each in snapshot.ledger.histograms.items() if family == name
            )

    return Family(Section.COUNTED, name, Type.HISTOGRAM, meaning, (*_OPERATION, *labels), Source.LEDGER, samples)


def _last_failure(snapshot: AccountSnapshot, _display: DisplayOptions, _now: float) -> Iterator[Sample]:
    if snapshot.ledger is not None:
        for operation, at in snapshot.ledger.account.failure_counted_at.items():
            yield Sample((operation,), at)


# ---- per-job series ----


def _unfinished_job(name: str, meaning: str, of: Callable[[JobRecord], float]) -> Family:
    def samples(snapshot: AccountSnapshot, display: DisplayOptions, _now: float) -> Iterator[Sample]:
        for record in snapshot.unfinished_jobs()[: display.job_series_of(snapshot.account)]:
            yield Sample((record.operation, record.id), of(record))

    return Family(Section.PER_JOB, name, Type.GAUGE, meaning, _JOB, Source.LEDGER, samples, hide_when_stale=True)


def _failed_job(name: str, meaning: str, of: Callable[[JobRecord], float | None]) -> Family:
    def samples(snapshot: AccountSnapshot, display: DisplayOptions, now: float) -> Iterator[Sample]:
        for record in snapshot.failed_jobs(display, now)[: display.job_series_of(snapshot.account)]:
            value = of(record)
            if value is not None:
                yield Sample((record.operation, record.id), value)

    return Family(Section.PER_JOB, name, Type.GAUGE, meaning, _JOB, Source.LEDGER, samples)


def _failed_errors(snapshot: AccountSnapshot, display: DisplayOptions, now: float) -> Iterator[Sample]:
    for record in snapshot.failed_jobs(display, now)[: display.job_series_of(snapshot.account)]:
        for code, records in error_codes(record)[:_MOST_CODES]:
            yield Sample((record.operation, record.id, code), records)


_MOST_CODES: Final = 3


def _hidden_jobs(snapshot: AccountSnapshot, display: DisplayOptions, now: float) -> Iterator[Sample]:
    if snapshot.ledger is not None:
        most = display.job_series_of(snapshot.account)
        yield Sample(("unfinished",), max(0, len(snapshot.unfinished_jobs()) - most))
        yield Sample(("failed",), max(0, len(snapshot.failed_jobs(display, now)) - most))


# ---- exporter health ----


def _poll_gauge(name: str, meaning: str, of: Callable[[PollStatus], float | None]) -> Family:
    """A gauge of the poll status; no sample while its value is unknown."""

    def samples(snapshot: AccountSnapshot, _display: DisplayOptions, _now: float) -> Iterator[Sample]:
        value = of(snapshot.status)
        if value is not None:
            yield Sample((), value)

    return Family(Section.EXPORTER, name, Type.GAUGE, meaning, _ACCOUNT, Source.STATUS, samples)


def _labelled_counter(name: str, meaning: str, *labels: str, always: Iterable[str] = ()) -> Family:
    """What polling counted under this name since the process started; the values of *always* also at 0."""
    zeros: dict[Labels, int] = {(value,): 0 for value in always}

    def samples(snapshot: AccountSnapshot, _display: DisplayOptions, _now: float) -> Iterator[Sample]:
        began = snapshot.status.poll_duration.created
        counted = snapshot.status.counters.get(name, {})
        for key, number in (zeros | dict(sorted(counted.items()))).items():
            yield Sample(key, CounterValue(number, began))

    return Family(Section.EXPORTER, name, Type.COUNTER, meaning, (*_ACCOUNT, *labels), Source.STATUS, samples)


def _duration_histogram(
    name: str, meaning: str, labels: Labels, of: Callable[[PollStatus], Mapping[Labels, HistogramValue]]
) -> Family:
    """Durations observed since the process started."""

    def samples(snapshot: AccountSnapshot, _display: DisplayOptions, _now: float) -> Iterator[Sample]:
        return (Sample(key, histogram) for key, histogram in of(snapshot.status).items())

    return Family(Section.EXPORTER, name, Type.HISTOGRAM, meaning, (*_ACCOUNT, *labels), Source.STATUS, samples)


def _account_info(snapshot: AccountSnapshot, display: DisplayOptions, _now: float) -> Iterator[Sample]:
    yield Sample((snapshot.owner if display.show_username else "", snapshot.endpoint), 1)


def _waiting(snapshot: AccountSnapshot, _display: DisplayOptions, _now: float) -> Iterator[Sample]:
    waiting = snapshot.status.waiting
    for reason in WaitReason:
        yield Sample((reason,), int(waiting is not None and waiting.reason is reason))


def _counting_since(snapshot: AccountSnapshot, _display: DisplayOptions, _now: float) -> Iterator[Sample]:
    if snapshot.ledger is not None:
        yield Sample((), snapshot.ledger.account.counting_since)


POLL_RESULTS: Final = ("success", *FAILED_RESULTS)
_COUNTS: Final = ("total", "completed", "failed")
_AS_OF: Final = "as of the last poll"

FAMILIES: Final[tuple[Family, ...]] = (
    _listed_gauge("sbg_jobs", f"Jobs that the platform lists, {_AS_OF}.", lambda totals: totals.jobs),
    _listed_gauge("sbg_jobs_files_expected", f"Files in the listed jobs, {_AS_OF}.", lambda totals: totals.total),
    _listed_gauge(
        "sbg_jobs_files_completed",
        f"Completed files in the listed jobs, {_AS_OF}.",
        lambda totals: totals.completed,
    ),
    _listed_gauge("sbg_jobs_files_failed", f"Failed files in the listed jobs, {_AS_OF}.", lambda totals: totals.failed),
    Family(
        Section.LISTED,
        "sbg_unfinished_jobs_oldest_timestamp_seconds",
        Type.GAUGE,
        f"When the oldest unfinished job was submitted, or first seen if that is unknown, {_AS_OF}.",
        _STATE,
        Source.LEDGER,
        _oldest,
        hide_when_stale=True,
    ),
    _counter(counting.JOBS_SUBMITTED, "Jobs discovered, counted once when first seen, in any state."),
    _counter(
        counting.JOBS_FINISHED,
        "Finished jobs by outcome (succeeded, partial, failed, incomplete), or gone before they finished (lost).",
        "outcome",
    ),
    _counter(counting.FILES, "Files in all jobs, counted when the platform reports them."),
    _counter(counting.FILES_COMPLETED, "Completed files, counted as jobs progress."),
    _counter(
        counting.FILES_FAILED,
        "Failed files, counted as jobs progress; the failure ratio is failed / (failed + completed).",
    ),
    _counter(
        counting.FILE_ERRORS,
        "Error records of finished jobs by platform error code; may be fewer than failed files.",
        "code",
    ),
    _histogram(counting.JOB_DURATION, "Time from start to end of finished jobs, by the platform's clock.", "outcome"),
    _histogram(counting.JOB_QUEUE_DURATION, "Time from submission to start of jobs, by the platform's clock."),
    Family(
        Section.COUNTED,
        "sbg_last_failure_counted_timestamp_seconds",
        Type.GAUGE,
        "When the exporter last counted a failed file; no sample before the first one.",
        _OPERATION,
        Source.LEDGER,
        _last_failure,
    ),
    _unfinished_job(
        "sbg_unfinished_job_submitted_timestamp_seconds",
        f"When an unfinished job was submitted, or first seen if that is unknown, {_AS_OF}; oldest jobs first.",
        submitted_at,
    ),
    _unfinished_job(
        "sbg_unfinished_job_progress_timestamp_seconds",
        f"When the counts or state of an unfinished job last changed, {_AS_OF}.",
        lambda record: record.last_progress_at,
    ),
    _unfinished_job(
        "sbg_unfinished_job_queued",
        f"Whether an unfinished job waits for its start, in state submitted: 1 or 0, {_AS_OF}.",
        lambda record: record.state == State.SUBMITTED,
    ),
    _unfinished_job(
        "sbg_unfinished_job_files_expected",
        f"Files in an unfinished job, {_AS_OF}.",
        lambda record: record.last_total,
    ),
    _unfinished_job(
        "sbg_unfinished_job_files_completed",
        f"Completed files of an unfinished job, {_AS_OF}.",
        lambda record: record.last_completed,
    ),
    _unfinished_job(
        "sbg_unfinished_job_files_failed",
        f"Failed files of an unfinished job, {_AS_OF}.",
        lambda record: record.last_failed,
    ),
    _failed_job(
        "sbg_failed_job_detected_timestamp_seconds",
        "When the exporter counted a job's first failed file; no sample if the job finished before counting began.",
        lambda record: record.detected_at,
    ),
    _failed_job(
        "sbg_failed_job_finished_timestamp_seconds",
        "When a failed job finished, by the platform's clock.",
        lambda record: None if record.unfinished else record.finished_on,
    ),
    _failed_job(
        "sbg_failed_job_files_failed",
        f"Failed files of a failed job, {_AS_OF}.",
        lambda record: record.last_failed,
    ),
    Family(
        Section.PER_JOB,
        "sbg_failed_job_errors",
        Type.GAUGE,
        "Error records of a failed job by platform error code (three most frequent).",
        (*_JOB, "code"),
        Source.LEDGER,
        _failed_errors,
    ),
    Family(
        Section.PER_JOB,
        "sbg_exporter_job_series_hidden",
        Type.GAUGE,
        "Unfinished and failed jobs without series of their own because there are more than job_series.",
        (*_ACCOUNT, "kind"),
        Source.LEDGER,
        _hidden_jobs,
    ),
    _poll_gauge("sbg_up", "Whether the last poll of the account succeeded.", lambda status: status.up),
    _poll_gauge(
        "sbg_auth_ok", "Whether the platform accepts the token, as last reported.", lambda status: status.auth_ok
    ),
    _poll_gauge(
        "sbg_maintenance",
        "Whether the platform is under maintenance, as last reported.",
        lambda status: status.maintenance,
    ),
    Family(
        Section.EXPORTER,
        "sbg_account_info",
        Type.GAUGE,
        "User name and API endpoint of the account; always 1.",
        (*_ACCOUNT, "username", "api_endpoint"),
        Source.STATUS,
        _account_info,
    ),
    _poll_gauge(
        "sbg_exporter_last_poll_timestamp_seconds",
        "When the last poll of the account ended.",
        lambda status: status.last_poll,
    ),
    _poll_gauge(
        "sbg_exporter_last_success_timestamp_seconds",
        "When a poll of the account last succeeded.",
        lambda status: status.last_success,
    ),
    _poll_gauge(
        "sbg_exporter_last_full_listing_timestamp_seconds",
        "When a full listing of the account was last completed.",
        lambda status: status.last_full_listing,
    ),
    _labelled_counter("sbg_exporter_polls_total", "Polls of the account by result.", "result", always=POLL_RESULTS),
    _duration_histogram(
        "sbg_exporter_poll_duration_seconds", "Duration of polls.", (), lambda status: {(): status.poll_duration}
    ),
    _labelled_counter(
        "sbg_exporter_requests_total",
        "API requests by endpoint (list, job, user) and status: HTTP status code, timeout, connect or other.",
        "endpoint",
        "status",
    ),
    _duration_histogram(
        "sbg_exporter_request_duration_seconds",
        "Duration of API requests.",
        ("endpoint",),
        lambda status: {(endpoint,): each for endpoint, each in status.request_duration.items()},
    ),
    _poll_gauge(
        "sbg_exporter_rate_limit",
        "Requests that the platform allows the user per window, as last reported.",
        lambda status: status.rate_limit,
    ),
    _poll_gauge(
        "sbg_exporter_rate_limit_remaining",
        "Requests that the user has left in this window, as the platform last reported.",
        lambda status: status.rate_limit_remaining,
    ),
    _poll_gauge(
        "sbg_exporter_rate_limit_reset_timestamp_seconds",
        "When the platform's rate limit window ends, by the platform's clock.",
        lambda status: status.rate_limit_reset,
    ),
    _poll_gauge(
        "sbg_exporter_allowance_requests",
        "Requests per window that the exporter may make: rate_share of the rate limit.",
        lambda status: status.allowance,
    ),
    _poll_gauge(
        "sbg_exporter_allowance_used_requests",
        "Requests that the exporter made in this window.",
        lambda status: status.allowance_used,
    ),
    _poll_gauge(
        "sbg_exporter_incremental_polling",
        "Whether the account is polled incrementally (1) because it is too large to list in full at every poll (0).",
        lambda status: status.incremental_polling,
    ),
    _poll_gauge(
        "sbg_exporter_poll_interval_seconds",
        "Effective time between two polls of the account.",
        lambda status: status.interval,
    ),
    _poll_gauge(
        "sbg_exporter_full_listing_interval_seconds",
        "Effective time between two full listings of the account.",
        lambda status: status.full_listing_interval,
    ),
    _poll_gauge(
        "sbg_exporter_detection_delay_seconds",
        "Longest time since an unfinished job, or the head of the list, was last checked.",
        lambda status: status.detection_delay,
    ),
    Family(
        Section.EXPORTER,
        "sbg_exporter_waiting",
        Type.GAUGE,
        "Whether the exporter makes no request for the account for now, by reason: its share of the rate limit is used "
        "up (allowance), others have used up the limit (yielding), the platform asked for a pause (rate_limited), "
        "maintenance, or no usable token (token).",
        (*_ACCOUNT, "reason"),
        Source.STATUS,
        _waiting,
    ),
    _poll_gauge(
        "sbg_exporter_clock_skew_seconds",
        "The platform's clock less this machine's; no sample before two responses in a row show the same clock.",
        lambda status: status.clock_skew,
    ),
    _labelled_counter(
        "sbg_exporter_records_skipped_total",
        "Job records that the exporter could not read, by reason, counted each time they are seen; for bad_time, times "
        "that it could not read, of jobs that it shows without.",
        "reason",
        always=SKIPPED,
    ),
    _labelled_counter(
        "sbg_exporter_counts_lowered_total",
        "Times that the platform lowered a count (total, completed, failed) below what the exporter had counted.",
        "field",
        always=_COUNTS,
    ),
    Family(
        Section.EXPORTER,
        "sbg_exporter_counting_since_timestamp_seconds",
        Type.GAUGE,
        "When the account's ledger was created, by the platform's clock.",
        _ACCOUNT,
        Source.LEDGER,
        _counting_since,
    ),
)


PROCESS_FAMILIES: Final[tuple[ProcessFamily, ...]] = (
    ProcessFamily(
        Section.EXPORTER,
        "sbg_exporter_state_write_failures_total",
        Type.COUNTER,
        "Failed commits to the state file; each is retried at the next poll.",
        (),
        lambda stats: Sample((), CounterValue(stats.state_write_failures, stats.since)),
    ),
    ProcessFamily(
        Section.EXPORTER,
        "sbg_exporter_state_writable",
        Type.GAUGE,
        "Whether the state file can be written; if not, commits of an account fail, and nothing new of it is counted.",
        (),
        lambda stats: Sample((), int(stats.state_writable)),
    ),
    ProcessFamily(
        Section.EXPORTER,
        "sbg_exporter_state_jobs",
        Type.GAUGE,
        "Jobs tracked in the state file.",
        (),
        lambda stats: Sample((), stats.state_jobs),
    ),
    ProcessFamily(
        Section.EXPORTER,
        "sbg_exporter_state_bytes",
        Type.GAUGE,
        "Size of the state file on disk, including its write-ahead log.",
        (),
        lambda stats: None if stats.state_bytes is None else Sample((), stats.state_bytes),
    ),
    ProcessFamily(
        Section.EXPORTER,
        "sbg_exporter_config_last_reload_successful",
        Type.GAUGE,
        "Whether the configuration was valid when it was last read; if not, the one before is still used.",
        (),
        lambda stats: None if stats.reload is None else Sample((), int(stats.reload.successful)),
    ),
    ProcessFamily(
        Section.EXPORTER,
        "sbg_exporter_config_last_reload_success_timestamp_seconds",
        Type.GAUGE,
        "When a valid configuration was last read; the start counts.",
        (),
        lambda stats: None if stats.reload is None else Sample((), stats.reload.succeeded_at),
    ),
    ProcessFamily(
        Section.EXPORTER,
        "sbg_exporter_accounts_missing",
        Type.GAUGE,
        "Accounts that were polled until the exporter stopped and that its configuration has not had since the start; "
        "0 after a day.",
        (),
        lambda stats: Sample((), stats.accounts_missing),
    ),
    ProcessFamily(
        Section.EXPORTER,
        "sbg_exporter_build_info",
        Type.GAUGE,
        "Versions of the exporter and of Python, and the commit that the exporter was built from; always 1.",
        ("version", "revision", "python"),
        lambda _stats: Sample((__version__, revision(), platform.python_version()), 1),
    ),
)

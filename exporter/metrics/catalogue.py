"""Every metric once: its name, type, labels, help, and where its samples come from.

The README's table, the exposition's HELP and TYPE lines and the tests all follow from :data:`FAMILIES`.
"""

import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from exporter import __version__
from exporter.counting import ledger
from exporter.counting.ledger import Count, Histogram, Mark, Sums
from exporter.metrics.snapshot import Display, Picture, Process
from exporter.platform.jobs import OPERATIONS, STATES

Labels = tuple[str, ...]


class Type(StrEnum):
    """A family's type, as TYPE lines spell it."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Sample(NamedTuple):
    """One sample, or one histogram: its label values after ``account``, and its value."""

    labels: Labels
    value: float | Count | Histogram


class Part(StrEnum):
    """The part of a picture that a family's samples come from: it is rendered again when that part is a new one."""

    BOOK = "book"
    LISTED = "listed"
    POLLING = "polling"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family.

    Attributes:
        labels: label names; ``account`` comes first in all families of accounts.
        fades: gauges of what the platform lists: not shown when the last good answer is too old.
        samples: the samples of one account's picture at a time (Unix seconds).
    """

    name: str
    type: Type
    help: str
    labels: Labels
    part: Part
    samples: Callable[[Picture, Display, float], Iterable[Sample]]
    fades: bool = False


def _listed(of: Callable[[Sums], int]) -> Callable[[Picture, Display, float], Iterator[Sample]]:
    def samples(picture: Picture, _display: Display, _now: float) -> Iterator[Sample]:
        if picture.listed is None:
            return
        operations = dict.fromkeys((*OPERATIONS, *(operation for operation, _ in picture.listed)))
        states = dict.fromkeys((*STATES, *(state for _, state in picture.listed)))
        for operation in operations:
            for state in states:
                yield Sample((operation, state), of(picture.listed.get((operation, state), _NO_JOBS)))

    return samples


_NO_JOBS: Final = Sums()


def _counted(family: str) -> Callable[[Picture, Display, float], Iterator[Sample]]:
    def samples(picture: Picture, _display: Display, _now: float) -> Iterator[Sample]:
        if picture.book is None:
            return
        for (name, labels), count in picture.book.counters.items():
            if name == family:
                yield Sample(labels, count)

    return samples


def _observed(family: str) -> Callable[[Picture, Display, float], Iterator[Sample]]:
    def samples(picture: Picture, _display: Display, _now: float) -> Iterator[Sample]:
        if picture.book is None:
            return
        for (name, labels), histogram in picture.book.histograms.items():
            if name == family:
                yield Sample(labels, histogram)

    return samples


def _last_failure(picture: Picture, _display: Display, _now: float) -> Iterator[Sample]:
    if picture.book is not None:
        for operation, at in picture.book.account.failure_counted_at.items():
            yield Sample((operation,), at)


# ---- one by one ----


def _submitted(mark: Mark) -> float:
    """When it was submitted, or else first seen."""
    return mark.submitted_on if mark.submitted_on is not None else mark.first_seen


def unfinished_jobs(picture: Picture) -> list[Mark]:
    """The account's unfinished jobs, oldest first."""
    if picture.book is None:
        return []
    return sorted(
        (mark for mark in picture.book.live.values() if mark.unfinished), key=lambda mark: (_submitted(mark), mark.id)
    )


def failed_jobs(picture: Picture, display: Display, now: float) -> list[Mark]:
    """The account's jobs with failed files that run, or ended within the window: newest detection first."""
    if picture.book is None:
        return []
    recent = [mark for mark in picture.book.failed.values() if mark.ended_on >= now - display.failed_job_window]
    return sorted(recent, key=lambda mark: (mark.detected_at or 0.0, mark.id), reverse=True)


def _oldest(picture: Picture, _display: Display, _now: float) -> Iterator[Sample]:
    seen: set[Labels] = set()
    for mark in unfinished_jobs(picture):
        labels = mark.operation, mark.state
        if labels not in seen:
            seen.add(labels)
            yield Sample(labels, _submitted(mark))


def _unfinished(value: Callable[[Mark], float]) -> Callable[[Picture, Display, float], Iterator[Sample]]:
    def samples(picture: Picture, display: Display, _now: float) -> Iterator[Sample]:
        for mark in unfinished_jobs(picture)[: display.job_series]:
            yield Sample((mark.operation, mark.id), value(mark))

    return samples


def _failed(value: Callable[[Mark], float | None]) -> Callable[[Picture, Display, float], Iterator[Sample]]:
    def samples(picture: Picture, display: Display, now: float) -> Iterator[Sample]:
        for mark in failed_jobs(picture, display, now)[: display.job_series]:
            shown = value(mark)
            if shown is not None:
                yield Sample((mark.operation, mark.id), shown)

    return samples


def error_codes(mark: Mark) -> list[tuple[str, int]]:
    """A failed job's error records by code, the most frequent first."""
    pairs = (word.rpartition(":") for word in mark.codes.split())
    return sorted(((code, int(records)) for code, _, records in pairs), key=lambda pair: (-pair[1], pair[0]))


def _failed_errors(picture: Picture, display: Display, now: float) -> Iterator[Sample]:
    for mark in failed_jobs(picture, display, now)[: display.job_series]:
        for code, records in error_codes(mark)[:_MOST_CODES]:
            yield Sample((mark.operation, mark.id, code), records)


_MOST_CODES: Final = 3


def _hidden(picture: Picture, display: Display, now: float) -> Iterator[Sample]:
    if picture.book is not None:
        yield Sample(("unfinished",), max(0, len(unfinished_jobs(picture)) - display.job_series))
        yield Sample(("failed",), max(0, len(failed_jobs(picture, display, now)) - display.job_series))


# ---- the account and the exporter ----


def _flag(of: Callable[[Picture], bool | None]) -> Callable[[Picture, Display, float], Iterator[Sample]]:
    return _value(lambda picture: None if (flag := of(picture)) is None else int(flag))


def _value(of: Callable[[Picture], float | None]) -> Callable[[Picture, Display, float], Iterator[Sample]]:
    """A family of one sample per account; none while there is nothing to show."""

    def samples(picture: Picture, _display: Display, _now: float) -> Iterator[Sample]:
        value = of(picture)
        if value is not None:
            yield Sample((), value)

    return samples


def _info(picture: Picture, display: Display, _now: float) -> Iterator[Sample]:
    username = picture.polling.username or (picture.book.account.username if picture.book is not None else "")
    yield Sample((username if display.show_username else "", picture.endpoint), 1)


POLL_RESULTS: Final = (
    "success",
    "unreachable",
    "unauthorized",
    "rate_limited",
    "maintenance",
    "bad_answer",
    "error",
)
_STARTED: Final = time.time()


def _polls(picture: Picture, _display: Display, _now: float) -> Iterator[Sample]:
    for result in POLL_RESULTS:
        yield Sample((result,), Count(picture.polling.polls.get(result, 0), _STARTED))


def _poll_durations(picture: Picture, _display: Display, _now: float) -> Iterator[Sample]:
    yield Sample((), picture.polling.poll_duration)


def _requests(picture: Picture, _display: Display, _now: float) -> Iterator[Sample]:
    for (endpoint, status), requests in sorted(picture.polling.requests.items()):
        yield Sample((endpoint, status), Count(requests, _STARTED))


def _request_durations(picture: Picture, _display: Display, _now: float) -> Iterator[Sample]:
    for endpoint, histogram in picture.polling.request_duration.items():
        yield Sample((endpoint,), histogram)


def _skipped(picture: Picture, _display: Display, _now: float) -> Iterator[Sample]:
    for reason, records in sorted(picture.polling.skipped.items()):
        yield Sample((reason,), Count(records, _STARTED))


def _lowered(picture: Picture, _display: Display, _now: float) -> Iterator[Sample]:
    for field in ("total", "completed", "failed"):
        yield Sample((field,), Count(picture.polling.lowered.get(field, 0), _STARTED))


_AS_OF: Final = "as of the last poll"
_ACCOUNT: Final = ("account",)
_OPERATION: Final = ("account", "operation")
_STATE: Final = ("account", "operation", "state")
_JOB: Final = ("account", "operation", "job_id")

FAMILIES: Final[tuple[Family, ...]] = (
    # As last listed.
    Family(
        "sbg_jobs",
        Type.GAUGE,
        f"Jobs that the platform lists, {_AS_OF}.",
        _STATE,
        Part.LISTED,
        _listed(lambda sums: sums.jobs),
        fades=True,
    ),
    Family(
        "sbg_jobs_files_expected",
        Type.GAUGE,
        f"Files that the listed jobs comprise, {_AS_OF}.",
        _STATE,
        Part.LISTED,
        _listed(lambda sums: sums.total),
        fades=True,
    ),
    Family(
        "sbg_jobs_files_completed",
        Type.GAUGE,
        f"Files that the listed jobs have completed, {_AS_OF}.",
        _STATE,
        Part.LISTED,
        _listed(lambda sums: sums.completed),
        fades=True,
    ),
    Family(
        "sbg_jobs_files_failed",
        Type.GAUGE,
        f"Files that failed in the listed jobs, {_AS_OF}.",
        _STATE,
        Part.LISTED,
        _listed(lambda sums: sums.failed),
        fades=True,
    ),
    Family(
        "sbg_unfinished_jobs_oldest_timestamp_seconds",
        Type.GAUGE,
        f"Submission time of the oldest unfinished job, or when it was first seen where that is unknown, {_AS_OF}.",
        _STATE,
        Part.BOOK,
        _oldest,
        fades=True,
    ),
    # Counted once and for ever.
    Family(
        ledger.JOBS_SUBMITTED,
        Type.COUNTER,
        "Jobs first seen.",
        _OPERATION,
        Part.BOOK,
        _counted(ledger.JOBS_SUBMITTED),
    ),
    Family(
        ledger.JOBS_FINISHED,
        Type.COUNTER,
        "Jobs that finished (failed, partial, incomplete, succeeded), or were gone before they did (lost).",
        (*_OPERATION, "outcome"),
        Part.BOOK,
        _counted(ledger.JOBS_FINISHED),
    ),
    Family(
        ledger.FILES,
        Type.COUNTER,
        "Files that the platform says its jobs comprise, counted as it says so.",
        _OPERATION,
        Part.BOOK,
        _counted(ledger.FILES),
    ),
    Family(
        ledger.FILES_COMPLETED,
        Type.COUNTER,
        "Files that jobs have completed, counted as the jobs progress.",
        _OPERATION,
        Part.BOOK,
        _counted(ledger.FILES_COMPLETED),
    ),
    Family(
        ledger.FILES_FAILED,
        Type.COUNTER,
        "Files that failed, counted as the jobs progress; the share that fails is failed / (failed + completed).",
        _OPERATION,
        Part.BOOK,
        _counted(ledger.FILES_FAILED),
    ),
    Family(
        ledger.FILE_ERRORS,
        Type.COUNTER,
        "Error records in the results of finished jobs, by the platform's code; may be fewer than failed files.",
        (*_OPERATION, "code"),
        Part.BOOK,
        _counted(ledger.FILE_ERRORS),
    ),
    Family(
        ledger.JOB_DURATION,
        Type.HISTOGRAM,
        "From the start to the end of finished jobs, by the platform's times.",
        (*_OPERATION, "outcome"),
        Part.BOOK,
        _observed(ledger.JOB_DURATION),
    ),
    Family(
        ledger.JOB_QUEUE_DURATION,
        Type.HISTOGRAM,
        "From the submission to the start of jobs.",
        _OPERATION,
        Part.BOOK,
        _observed(ledger.JOB_QUEUE_DURATION),
    ),
    Family(
        "sbg_last_failure_counted_timestamp_seconds",
        Type.GAUGE,
        "When a failed file was last counted; no sample until there was one.",
        _OPERATION,
        Part.BOOK,
        _last_failure,
    ),
    # One by one, bounded by the setting job_series.
    Family(
        "sbg_unfinished_job_submitted_timestamp_seconds",
        Type.GAUGE,
        f"When an unfinished job was submitted, or first seen where that is unknown, {_AS_OF}; oldest jobs first.",
        _JOB,
        Part.BOOK,
        _unfinished(_submitted),
        fades=True,
    ),
    Family(
        "sbg_unfinished_job_progress_timestamp_seconds",
        Type.GAUGE,
        f"When an unfinished job's counts or state last moved, {_AS_OF}.",
        _JOB,
        Part.BOOK,
        _unfinished(lambda mark: mark.moved_at),
        fades=True,
    ),
    Family(
        "sbg_unfinished_job_files_expected",
        Type.GAUGE,
        f"Files that an unfinished job comprises, {_AS_OF}.",
        _JOB,
        Part.BOOK,
        _unfinished(lambda mark: mark.last_total),
        fades=True,
    ),
    Family(
        "sbg_unfinished_job_files_completed",
        Type.GAUGE,
        f"Files that an unfinished job has completed, {_AS_OF}.",
        _JOB,
        Part.BOOK,
        _unfinished(lambda mark: mark.last_completed),
        fades=True,
    ),
    Family(
        "sbg_unfinished_job_files_failed",
        Type.GAUGE,
        f"Files that failed in an unfinished job, {_AS_OF}.",
        _JOB,
        Part.BOOK,
        _unfinished(lambda mark: mark.last_failed),
        fades=True,
    ),
    Family(
        "sbg_failed_job_detected_timestamp_seconds",
        Type.GAUGE,
        "When the first failed file of a job was counted; not for jobs that finished before counting began.",
        _JOB,
        Part.BOOK,
        _failed(lambda mark: mark.detected_at),
    ),
    Family(
        "sbg_failed_job_finished_timestamp_seconds",
        Type.GAUGE,
        "When a job with failed files finished, by the platform's time.",
        _JOB,
        Part.BOOK,
        _failed(lambda mark: None if mark.unfinished else mark.finished_on),
    ),
    Family(
        "sbg_failed_job_files_failed",
        Type.GAUGE,
        f"Files that failed in a job with failed files, {_AS_OF}.",
        _JOB,
        Part.BOOK,
        _failed(lambda mark: mark.last_failed),
    ),
    Family(
        "sbg_failed_job_errors",
        Type.GAUGE,
        "Error records of a job with failed files, by the platform's code: the three most frequent.",
        (*_JOB, "code"),
        Part.BOOK,
        _failed_errors,
    ),
    Family(
        "sbg_exporter_job_series_hidden",
        Type.GAUGE,
        "Jobs (unfinished, failed) that are not shown one by one because there are more than job_series.",
        (*_ACCOUNT, "kind"),
        Part.BOOK,
        _hidden,
    ),
    # The account and the exporter.
    Family(
        "sbg_up",
        Type.GAUGE,
        "Whether the last poll of the account succeeded.",
        _ACCOUNT,
        Part.POLLING,
        _flag(lambda picture: picture.polling.up),
    ),
    Family(
        "sbg_auth_ok",
        Type.GAUGE,
        "Whether the platform last accepted the token.",
        _ACCOUNT,
        Part.POLLING,
        _flag(lambda picture: picture.polling.auth_ok),
    ),
    Family(
        "sbg_maintenance",
        Type.GAUGE,
        "Whether the platform last said that it is under maintenance.",
        _ACCOUNT,
        Part.POLLING,
        _flag(lambda picture: picture.polling.maintenance),
    ),
    Family(
        "sbg_account_info",
        Type.GAUGE,
        "Who the account is and where; always 1.",
        (*_ACCOUNT, "username", "api_endpoint"),
        Part.POLLING,
        _info,
    ),
    Family(
        "sbg_exporter_last_poll_timestamp_seconds",
        Type.GAUGE,
        "When the last poll of the account ended.",
        _ACCOUNT,
        Part.POLLING,
        _value(lambda picture: picture.polling.last_poll),
    ),
    Family(
        "sbg_exporter_last_success_timestamp_seconds",
        Type.GAUGE,
        "When a poll of the account last succeeded.",
        _ACCOUNT,
        Part.POLLING,
        _value(lambda picture: picture.polling.last_success),
    ),
    Family(
        "sbg_exporter_last_full_listing_timestamp_seconds",
        Type.GAUGE,
        "When a complete listing of the account was last read.",
        _ACCOUNT,
        Part.POLLING,
        _value(lambda picture: picture.polling.last_full_listing),
    ),
    Family(
        "sbg_exporter_polls_total",
        Type.COUNTER,
        "Polls of the account by result.",
        (*_ACCOUNT, "result"),
        Part.POLLING,
        _polls,
    ),
    Family(
        "sbg_exporter_poll_duration_seconds",
        Type.HISTOGRAM,
        "How long polls took.",
        _ACCOUNT,
        Part.POLLING,
        _poll_durations,
    ),
    Family(
        "sbg_exporter_requests_total",
        Type.COUNTER,
        "API requests by endpoint (list, job, user) and HTTP status, or timeout, connect, other.",
        (*_ACCOUNT, "endpoint", "status"),
        Part.POLLING,
        _requests,
    ),
    Family(
        "sbg_exporter_request_duration_seconds",
        Type.HISTOGRAM,
        "How long API requests took.",
        (*_ACCOUNT, "endpoint"),
        Part.POLLING,
        _request_durations,
    ),
    Family(
        "sbg_exporter_rate_limit",
        Type.GAUGE,
        "Requests that the platform allows the user per window, as it last said.",
        _ACCOUNT,
        Part.POLLING,
        _value(lambda picture: picture.polling.rate_limit),
    ),
    Family(
        "sbg_exporter_rate_limit_remaining",
        Type.GAUGE,
        "Requests that the user has left in this window, as the platform last said.",
        _ACCOUNT,
        Part.POLLING,
        _value(lambda picture: picture.polling.rate_limit_remaining),
    ),
    Family(
        "sbg_exporter_rate_limit_reset_timestamp_seconds",
        Type.GAUGE,
        "When the platform's window ends, by its clock.",
        _ACCOUNT,
        Part.POLLING,
        _value(lambda picture: picture.polling.rate_limit_reset),
    ),
    Family(
        "sbg_exporter_allowance_requests",
        Type.GAUGE,
        "Requests per window that the exporter allows itself: rate_share of the limit.",
        _ACCOUNT,
        Part.POLLING,
        _value(lambda picture: picture.polling.allowance),
    ),
    Family(
        "sbg_exporter_allowance_used_requests",
        Type.GAUGE,
        "Requests that the exporter made in this window.",
        _ACCOUNT,
        Part.POLLING,
        _value(lambda picture: picture.polling.allowance_used),
    ),
    Family(
        "sbg_exporter_poll_interval_seconds",
        Type.GAUGE,
        "Time between two polls of the account, effective.",
        _ACCOUNT,
        Part.POLLING,
        _value(lambda picture: picture.polling.interval),
    ),
    Family(
        "sbg_exporter_records_skipped_total",
        Type.COUNTER,
        "Job records that could not be read, by reason; each time they were seen.",
        (*_ACCOUNT, "reason"),
        Part.POLLING,
        _skipped,
    ),
    Family(
        "sbg_exporter_counts_lowered_total",
        Type.COUNTER,
        "Times that the platform lowered a count (total, completed, failed) that was already counted.",
        (*_ACCOUNT, "field"),
        Part.POLLING,
        _lowered,
    ),
    Family(
        "sbg_exporter_counting_since_timestamp_seconds",
        Type.GAUGE,
        "When the account's ledger began, by the platform's time.",
        _ACCOUNT,
        Part.BOOK,
        _value(lambda picture: None if picture.book is None else picture.book.account.since),
    ),
)


@dataclass(frozen=True, slots=True)
class ProcessFamily:
    """One metric family of the exporter itself."""

    name: str
    type: Type
    help: str
    labels: Labels
    samples: Callable[[Process], Sample]


PROCESS_FAMILIES: Final[tuple[ProcessFamily, ...]] = (
    ProcessFamily(
        "sbg_exporter_state_write_failures_total",
        Type.COUNTER,
        "Commits to the state file that failed; each is tried again at the next poll.",
        (),
        lambda process: Sample((), Count(process.state_write_failures, _STARTED)),
    ),
    ProcessFamily(
        "sbg_exporter_state_jobs",
        Type.GAUGE,
        "Jobs marked in the state file.",
        (),
        lambda process: Sample((), process.state_jobs),
    ),
    ProcessFamily(
        "sbg_exporter_state_bytes",
        Type.GAUGE,
        "Size of the state file on disk, its log of recent writes included.",
        (),
        lambda process: Sample((), process.state_bytes),
    ),
    ProcessFamily(
        "sbg_exporter_build_info",
        Type.GAUGE,
        "The exporter's version and its Python's; always 1.",
        ("version", "python"),
        lambda _process: Sample((__version__, platform.python_version()), 1),
    ),
)

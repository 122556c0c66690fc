"""What one observation does to one job record.

Each function returns the new record, or the same one if nothing changes, and adds to a :class:`Tally` what is counted.
The numbers are those of the rules in :mod:`exporter.counting.rules`.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from exporter.api.models import FINAL_RANK, OPERATIONS, Job, Outcome, State, rank
from exporter.counting.labels import encode_error_counts
from exporter.counting.tally import Tally
from exporter.counting.values import (
    FILE_ERRORS,
    FILES,
    FILES_COMPLETED,
    FILES_FAILED,
    FORGET_AFTER,
    JOB_DURATION,
    JOB_QUEUE_DURATION,
    JOBS_FINISHED,
    JOBS_SUBMITTED,
    Account,
    CountDecreased,
    FilesFailed,
    JobFinished,
    JobRecord,
    Rules,
)

_MAX_DETAIL_REQUESTS: Final = 50
"""Requests that may fail, so that an endpoint that is down does not cost a job its errors. As failed requests are
repeated ever less often, these last for about a day."""


@dataclass(frozen=True, slots=True)
class Context:
    """What is the same for all jobs of one reconciliation.

    Attributes:
        account: as committed.
        local_time: Unix seconds by this machine's clock.
        server_time: Unix seconds by the platform's clock.
        wait_clock: seconds of the account's wait clock (rules 5 and 6).
        listing_clock: the account's listing time after this poll (rule 7).
    """

    account: Account
    rules: Rules
    local_time: float
    server_time: float
    wait_clock: float
    listing_clock: float


def add(job: Job, context: Context, tally: Tally, *, listed: bool) -> JobRecord:
    """Record a job that is observed for the first time (rules 2 and 8)."""
    operation = tally.labels.allow("operation", job.operation)
    tally.add_zero_series(operation)
    history = _is_history(job, context.account)
    blank = JobRecord(
        id=job.id,
        operation=operation,
        state=tally.labels.allow("state", job.state),
        first_seen=context.server_time,
        seen_submitted=job.state == State.SUBMITTED,
        history=history,
        last_progress_at=context.local_time,
        unlisted_at=context.listing_clock,
    )
    tally.existing_jobs += history
    tally.existing_failed_jobs += history and bool(job.failed)
    if history and context.rules.history == "ignore":
        return _add_ignored(blank, job, context, tally, listed=listed)
    tally.count(JOBS_SUBMITTED, (operation,), 1)
    return update(blank, job, context, tally, listed=listed)


def _is_history(job: Job, account: Account) -> bool:
    if job.rank != FINAL_RANK:
        return False
    return not account.ever_listed if job.finished_on is None else job.finished_on < account.counting_since


def _add_ignored(blank: JobRecord, job: Job, context: Context, tally: Tally, *, listed: bool) -> JobRecord:
    """Record an existing job so that it is never counted (rule 2); request its errors if it is shown (rule 9)."""
    record = msgspec.structs.replace(
        _merge(blank, job, context, tally, listed=listed),
        outcome=outcome_of(job, blank),
        queue_counted=True,
        duration_counted=True,
        errors_counted=True,
        error_counts=encode_error_counts(tally.labels.error_counts(job.errors or ())),
    )
    shown = bool(record.failed) and record.ended_on >= context.local_time - context.rules.failed_job_window
    if shown and job.errors is None and record.operation in OPERATIONS:
        return msgspec.structs.replace(record, detail_requests_left=_MAX_DETAIL_REQUESTS)
    return record


def update(old: JobRecord, job: Job, context: Context, tally: Tally, *, listed: bool) -> JobRecord:
    """Merge an observation into a record and count what exceeds it (rules 1, 4, 5 and 9)."""
    record = _merge(old, job, context, tally, listed=listed)
    if old.history and context.rules.history == "ignore":
        if record.needs_details and job.errors is not None:
            error_counts = encode_error_counts(tally.labels.error_counts(job.errors))
            return msgspec.structs.replace(record, error_counts=error_counts, detail_requests_left=0)
        return record
    _count_files(old, record, context, tally)
    if job.rank == FINAL_RANK and record.unfinished:
        record = _finish(old, record, job, context, tally)
    record = _observe_durations(record, tally)
    if record.outcome not in {"", Outcome.LOST}:
        record = _count_errors(record, job, tally)
        if record.needs_details and _has_details(record):
            record = msgspec.structs.replace(record, detail_requests_left=0)
    if record.outcome and not old.outcome:
        tally.events.append(JobFinished(record))
    elif record.unfinished and record.failed and not old.failed:
        tally.events.append(FilesFailed(record))
    return record


def is_unchanged(record: JobRecord, job: Job, *, listed: bool) -> bool:
    """Whether an observation repeats what the record says, and nothing waits for it."""
    return (
        job.state == record.state
        and job.total == record.last_total
        and job.completed == record.last_completed
        and job.failed == record.last_failed
        and (job.started_on == record.started_on or job.started_on is None)
        and (job.finished_on == record.finished_on or job.finished_on is None)
        and (not listed or record.unlisted_at is None)
        and record.settling_since is None
        and record.missing_since is None
        and not record.needs_details
    )


def _merge(old: JobRecord, job: Job, context: Context, tally: Tally, *, listed: bool) -> JobRecord:
    """The record with everything that the observation raises (rule 1)."""
    ahead = job.rank >= rank(old.state, old.finished_on)
    total, completed, failed = (
        before if not ahead or observed is None else observed
        for before, observed in (
            (old.last_total, job.total),
            (old.last_completed, job.completed),
            (old.last_failed, job.failed),
        )
    )
    for field, before, observed, counted in (
        ("total", old.last_total, total, old.total),
        ("completed", old.last_completed, completed, old.completed),
        ("failed", old.last_failed, failed, old.failed),
    ):
        if observed < before:
            tally.events.append(CountDecreased(old.id, field, counted, observed))
    state = tally.labels.allow("state", job.state) if ahead else old.state
    progressed = (state, total, completed, failed) != (
        old.state,
        old.last_total,
        old.last_completed,
        old.last_failed,
    )
    highest = max(old.failed, job.failed or 0)
    newly_failed = highest > old.failed and not old.history
    return msgspec.structs.replace(
        old,
        state=state,
        total=max(old.total, job.total or 0),
        completed=max(old.completed, job.completed or 0),
        failed=highest,
        last_total=total,
        last_completed=completed,
        last_failed=failed,
        started_on=job.started_on if job.started_on is not None else old.started_on,
        finished_on=job.finished_on if job.finished_on is not None else old.finished_on,
        last_progress_at=context.local_time if progressed else old.last_progress_at,
        detected_at=context.local_time if newly_failed and old.detected_at is None else old.detected_at,
        missing_since=None,
        unlisted_at=None if listed else old.unlisted_at,
    )


def _count_files(old: JobRecord, record: JobRecord, context: Context, tally: Tally) -> None:
    for family, counted, observed in (
        (FILES, old.total, record.total),
        (FILES_COMPLETED, old.completed, record.completed),
        (FILES_FAILED, old.failed, record.failed),
    ):
        if observed > counted:
            example = record if family == FILES_FAILED else None
            tally.count(family, (record.operation,), observed - counted, example)
    if record.failed > old.failed and not old.history:
        tally.failure_counted_at[record.operation] = context.local_time


def _finish(old: JobRecord, record: JobRecord, job: Job, context: Context, tally: Tally) -> JobRecord:
    """Count the outcome (rule 4), unless missing files must settle first (rule 5)."""
    outcome = outcome_of(job, old)
    if outcome is Outcome.INCOMPLETE:
        agrees = (old.last_total, old.last_completed) == (record.last_total, record.last_completed)
        since = old.settling_since if old.settling_since is not None and agrees else context.wait_clock
        since = min(since, context.wait_clock)  # the file may come from a clock that was ahead
        if context.wait_clock - since < context.rules.settle_after:
            return msgspec.structs.replace(record, settling_since=since)
    tally.count(JOBS_FINISHED, (record.operation, outcome), 1, record)
    detail_requests = _MAX_DETAIL_REQUESTS if record.operation in OPERATIONS else 0
    return msgspec.structs.replace(record, outcome=outcome, settling_since=None, detail_requests_left=detail_requests)


def outcome_of(job: Job, before: JobRecord) -> Outcome:
    """The outcome of a finished job; *before* supplies the counts that the observation lacks."""
    failed = job.failed if job.failed is not None else before.last_failed
    # A count that was never reported is unknown, not 0: no file is known to be missing then.
    completed = job.completed if job.completed is not None else before.last_completed or None
    total = job.total if job.total is not None else before.last_total or None
    if failed:
        return Outcome.PARTIAL if completed else Outcome.FAILED
    if total is not None and completed is not None and completed < total:
        return Outcome.INCOMPLETE
    return Outcome.SUCCEEDED


def _observe_durations(record: JobRecord, tally: Tally) -> JobRecord:
    queue_counted, duration_counted = record.queue_counted, record.duration_counted
    if record.started_on is not None and not queue_counted:
        queue_counted = True
        submitted_on = record.submitted_on
        if submitted_on is not None:
            waited = max(0.0, record.started_on - submitted_on)
            tally.observe(JOB_QUEUE_DURATION, (record.operation,), waited, record)
    if (
        record.outcome not in {"", Outcome.LOST}
        and not duration_counted
        and record.started_on is not None
        and record.finished_on is not None
    ):
        duration_counted = True
        if record.finished_on >= record.started_on:
            duration = record.finished_on - record.started_on
            tally.observe(JOB_DURATION, (record.operation, record.outcome), duration, record)
    if (queue_counted, duration_counted) == (record.queue_counted, record.duration_counted):
        return record
    return msgspec.structs.replace(record, queue_counted=queue_counted, duration_counted=duration_counted)


def _count_errors(record: JobRecord, job: Job, tally: Tally) -> JobRecord:
    if record.errors_counted or job.errors is None or not record.failed:
        return record
    counts = tally.labels.error_counts(job.errors)
    for code, records in counts.items():
        tally.count(FILE_ERRORS, (record.operation, code), records)
    return msgspec.structs.replace(record, errors_counted=True, error_counts=encode_error_counts(counts))


def _has_details(record: JobRecord) -> bool:
    """Whether a finished job's record lacks nothing that its own endpoint could add (rule 9)."""
    return (
        record.started_on is not None
        and record.finished_on is not None
        and (record.failed == 0 or record.errors_counted)
    )


# ---- single-job requests ----


def details_received(record: JobRecord, _context: Context, _tally: Tally) -> JobRecord:
    """Its own endpoint answered with the job: once is enough (rule 9)."""
    return msgspec.structs.replace(record, detail_requests_left=0) if record.needs_details else record


def details_refused(record: JobRecord, _context: Context, _tally: Tally) -> JobRecord:
    """The response of its own endpoint said nothing about the job: retry, but not without limit (rule 9)."""
    if not record.needs_details:
        return record
    return msgspec.structs.replace(record, detail_requests_left=record.detail_requests_left - 1)


def not_found(record: JobRecord, context: Context, tally: Tally) -> JobRecord:
    """The platform answers that it does not know the job (rules 6 and 9)."""
    if not record.unfinished:  # as little a proof as for an unfinished one: the next answer may have its errors
        return details_refused(record, context, tally)
    if record.missing_since is None or record.missing_since > context.wait_clock:
        return msgspec.structs.replace(record, missing_since=context.wait_clock)
    if context.wait_clock - record.missing_since < context.rules.lost_after:
        return record
    # A job that was observed finished, and waited for its missing files, is not lost.
    return _lose(record, Outcome.LOST if record.settling_since is None else Outcome.INCOMPLETE, context, tally)


def _lose(record: JobRecord, outcome: Outcome, context: Context, tally: Tally) -> JobRecord:
    """Finish a job that the platform no longer has."""
    tally.count(JOBS_FINISHED, (record.operation, outcome), 1, record)
    lost = msgspec.structs.replace(
        record, outcome=outcome, settling_since=None, missing_since=None, last_progress_at=context.local_time
    )
    lost = _observe_durations(lost, tally)
    tally.events.append(JobFinished(lost))
    return lost


# ---- full listings ----


def unlist(record: JobRecord, context: Context) -> JobRecord:
    """A full listing no longer shows the job (rule 7)."""
    return msgspec.structs.replace(record, unlisted_at=context.listing_clock)


def expire(record: JobRecord, context: Context, tally: Tally) -> JobRecord | None:
    """A job that has not been listed for 45 days of listing time (rules 6 and 7); None if it is to be forgotten."""
    if record.unlisted_at is None or context.listing_clock - record.unlisted_at < FORGET_AFTER:
        return record
    if not record.unfinished:
        return None
    if record.operation in OPERATIONS:
        return record  # its own endpoint decides
    # Keep the record for another 45 days, so that the job is not counted twice if it is listed again.
    return _lose(unlist(record, context), Outcome.LOST, context, tally)

"""Jobs and job records for tests. Every field has a default, so that a test sets only what it is about."""

from typing import Final

import msgspec

from exporter.api.models import Job
from exporter.counting.submission import ID_EPOCH
from exporter.counting.values import JobRecord
from tests.clocks import START

ENDPOINT: Final = "https://api.example.org/v2"


def job(
    state: str = "running",
    total: int | None = 10,
    completed: int | None = 0,
    failed: int | None = 0,
    *,
    job_id: str = "42",
    operation: str = "copy",
    started: float | None = None,
    finished: float | None = None,
    errors: tuple[tuple[str, int], ...] | None = None,
) -> Job:
    """Return one observation of a job."""
    return Job(job_id, operation, state, total, completed, failed, started, finished, errors)


def job_id(at: float, serial: int = 0) -> str:
    """Return an id that encodes the submission time *at*, as the platform's ids do."""
    return str((round((at - ID_EPOCH) * 1000) << 20) + serial)


def running_job(at: float, *, done: int = 0, failed: int = 0, total: int = 10, serial: int = 0) -> Job:
    """Return a copy job submitted *at*, started two seconds later."""
    return job("running", total, done, failed, job_id=job_id(at, serial), started=at + 2)


def finished_job(
    at: float,
    *,
    failed: int = 0,
    total: int = 10,
    took: float = 100.0,
    serial: int = 0,
    errors: tuple[tuple[str, int], ...] | None = None,
) -> Job:
    """Return a copy job submitted *at*, started two seconds later and finished after *took* seconds."""
    return job(
        "finished",
        total,
        total - failed,
        failed,
        job_id=job_id(at, serial),
        started=at + 2,
        finished=at + 2 + took,
        errors=errors,
    )


_NEW: Final = JobRecord(
    id="42",
    operation="copy",
    state="running",
    total=0,
    completed=0,
    failed=0,
    last_total=0,
    last_completed=0,
    last_failed=0,
    first_seen=START,
    seen_submitted=False,
    started_on=None,
    finished_on=None,
    outcome="",
    history=False,
    detail_requests_left=0,
    queue_counted=False,
    duration_counted=False,
    errors_counted=False,
    last_progress_at=START,
    detected_at=None,
    settling_since=None,
    missing_since=None,
    unlisted_at=None,
    error_counts="",
)


def record(job: Job | None = None, **fields: object) -> JobRecord:
    """Return the record of an unfinished job, by default of *job*, with these *fields*."""
    of_job = {} if job is None else {"id": job.id, "operation": job.operation, "state": job.state}
    return msgspec.structs.replace(_NEW, **{**of_job, **fields})

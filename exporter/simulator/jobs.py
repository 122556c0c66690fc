"""Jobs as the platform reports them, and their true counts."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from exporter.simulator.scripts import NO_CODE, OPERATIONS, JobScript, Progress, Shown, progress

RETENTION = 30 * 86400.0
"""Seconds for which the platform keeps a finished job."""

OUTCOMES = ("succeeded", "partial", "failed", "incomplete", "lost")

_ID_EPOCH_MS = int(datetime(2017, 1, 1, tzinfo=UTC).timestamp() * 1000)
_ID_SHIFT = 20
_ID_LOW_BITS = 0x11000
_FILE_ID_STEP = 0x9E3779B97F4A7C15
"""Odd and large, so that file ids appear as unordered as real ones."""


class ErrorText(NamedTuple):
    """HTTP status and message of an error code."""

    status: int
    message: str


ERROR_TEXTS = {
    "5001": ErrorText(403, "Insufficient privileges to access the requested file."),
    "5002": ErrorText(404, "Requested file does not exist."),
    "5007": ErrorText(500, "File copy failed."),
    "10212": ErrorText(404, "Requested resource not found."),
    "10223": ErrorText(409, "File already exists in the destination."),
}
"""The codes of random jobs and of the special file ids. A scripted job may use others."""

_OTHER_ERROR = ErrorText(500, "Unexpected error.")


class Settled(NamedTuple):
    """True counts of a job before it was changed by hand. Later counts are never lower."""

    counts: Progress
    outcome: str | None
    errors: Mapping[str, int]


class Job(msgspec.Struct, gc=False):
    """One job: its id, which encodes the submission time, and its script. All else is computed on request."""

    id: int
    script: JobScript
    removed: float | None = None
    """Unix seconds of its removal by hand."""
    settled: Settled | None = None

    @property
    def submitted(self) -> float:
        """Submission time in Unix seconds."""
        return ((self.id >> _ID_SHIFT) + _ID_EPOCH_MS) / 1000

    @property
    def finishes(self) -> float | None:
        """Finish time in Unix seconds, past or future; None for a job that hangs."""
        lasts = self.script.lasts
        return None if lasts is None else self.submitted + lasts

    def progress(self, now: float) -> Progress:
        """Return its progress at *now*."""
        return progress(self.script, now - self.submitted)

    def is_finished(self, now: float) -> bool:
        """Return whether it has finished at *now*."""
        finishes = self.finishes
        return finishes is not None and finishes <= now


def id_at(unix_ms: int) -> int:
    """Return the id of a job submitted at *unix_ms*: as in genuine ids, the time in the high bits, fixed low bits."""
    return ((unix_ms - _ID_EPOCH_MS) << _ID_SHIFT) | _ID_LOW_BITS


def record(job: Job, now: float, api: str, *, alone: bool, result: bool = True) -> dict[str, object]:
    """Return the job's JSON object at *now*.

    Args:
        job: the job.
        now: simulated Unix seconds.
        api: the URL that ends in /v2.
        alone: whether the client requested this job by its own path.
        result: whether the result is needed; building it takes most of the time.
    """
    script = job.script
    seen = job.progress(now)
    shows = (Shown.ALWAYS, Shown.ALONE) if alone else (Shown.ALWAYS,)
    finished = job.is_finished(now)
    shown: dict[str, object] = {
        "href": f"{api}/async/files/{script.operation}/{job.id}",
        "id": str(job.id),
        "result": _result(job, api) if result and finished and script.result in shows else [],
        "type": script.operation.upper(),
        "state": seen.state,
        "failed_files": seen.failed,
        "completed_files": seen.completed,
        "total_files": seen.total,
    }
    if script.times in shows:
        started = job.submitted + script.queued
        if started <= now and (script.hangs_after is None or script.hangs_after >= script.queued):
            shown["started_on"] = timestamp(started)
        if finished and job.finishes is not None:
            shown["finished_on"] = timestamp(job.finishes)
    return shown


def _result(job: Job, api: str) -> list[dict[str, object]]:
    """Return a record per completed file, with the error records somewhere among them."""
    second = f"{int(job.submitted):08x}"
    first = job.id * _FILE_ID_STEP
    files = [f"{second}{first + n * _FILE_ID_STEP & 0xFFFFFFFFFFFFFFFF:016x}" for n in range(job.script.completes)]
    succeeded: list[dict[str, object]] = [{"resource": {"href": f"{api}/files/{file}", "id": file}} for file in files]
    failed = [error_record(code) for code, count in job.script.error_records.items() for _ in range(count)]
    if not failed:
        return succeeded
    cut = (job.id >> _ID_SHIFT) % (len(succeeded) + 1)
    return succeeded[:cut] + failed + succeeded[cut:]


def error_record(code: str) -> dict[str, object]:
    """Return the record of a file that failed with *code*."""
    text = ERROR_TEXTS.get(code, _OTHER_ERROR)
    error: dict[str, object] = {"status": text.status, "message": text.message}
    if code != NO_CODE:
        error |= {"code": int(code), "more_info": f"http://docs.sevenbridges.com/docs/api-status-codes#{code}"}
    return {"error": error}


def timestamp(unix: float) -> str:
    """Format a time as the platform does: ISO 8601 in whole seconds."""
    return datetime.fromtimestamp(int(unix), UTC).isoformat().replace("+00:00", "Z")


# ------------------------------------------------------------------------------------------------------ the true counts


class Truth(msgspec.Struct, frozen=True):
    """The true counts, by operation in lower case."""

    jobs: dict[str, int]
    finished: dict[str, dict[str, int]]
    """By operation and outcome."""
    files: dict[str, dict[str, int]]
    """By operation and ``total``, ``completed`` or ``failed``."""
    errors: dict[str, dict[str, int]]
    """Error records of finished jobs, by operation and code."""

    @classmethod
    def nothing(cls) -> "Truth":
        """Return zeros for each documented operation."""
        truth = cls({}, {}, {}, {})
        for operation in OPERATIONS:
            truth.know(operation)
        return truth

    def know(self, operation: str) -> None:
        """Add zeros for *operation* if it is new."""
        if operation not in self.jobs:
            self.jobs[operation] = 0
            self.finished[operation] = dict.fromkeys(OUTCOMES, 0)
            self.files[operation] = dict.fromkeys(("total", "completed", "failed"), 0)
            self.errors[operation] = {}

    def add(self, job: Job, now: float) -> None:
        """Add the counts of *job* at *now*."""
        operation = job.script.operation
        self.know(operation)
        self.jobs[operation] += 1
        settled = settle(job, now)
        for name, count in zip(("total", "completed", "failed"), settled.counts[1:], strict=True):
            self.files[operation][name] += count
        if settled.outcome:
            self.finished[operation][settled.outcome] += 1
        for code, count in settled.errors.items():
            self.errors[operation][code] = self.errors[operation].get(code, 0) + count


def ended(job: Job, now: float) -> float | None:
    """Return the time after which the counts of *job* are final: its finish or its removal; None before."""
    if job.removed is not None:
        now = min(now, job.removed)
    if job.finishes is not None and job.finishes <= now:
        return float(int(job.finishes))
    return job.removed


def settle(job: Job, now: float) -> Settled:
    """Return the true counts of *job* up to *now*."""
    if job.removed is not None:
        now = min(now, job.removed)
    counts = job.progress(now)
    outcome: str | None = None
    errors: Mapping[str, int] = {}
    if _seen_to_finish(job, now):
        outcome = outcome_of(counts)
        errors = job.script.error_records if job.script.result is not Shown.NEVER else {}
    elif job.removed is not None:
        outcome = "lost"
    before = job.settled
    if before is None:
        return Settled(counts, outcome, errors)
    counts = Progress(counts.state, *(max(pair) for pair in zip(before.counts[1:], counts[1:], strict=True)))
    return Settled(counts, before.outcome, before.errors) if before.outcome else Settled(counts, outcome, errors)


def _seen_to_finish(job: Job, now: float) -> bool:
    """Return whether clients can see that it has finished: in an undocumented state only by its times."""
    return job.is_finished(now) and (job.script.state is None or job.script.times is not Shown.NEVER)


def outcome_of(counts: Progress) -> str:
    """Return the outcome of a job that finished with *counts*."""
    if counts.failed:
        return "partial" if counts.completed else "failed"
    return "incomplete" if counts.completed < counts.total else "succeeded"

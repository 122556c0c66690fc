"""Jobs as the platform shows them, and as a perfect observer would count them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from exporter.simulator.scripts import NO_CODE, OPERATIONS, JobScript, Progress, Shown, progress

RETENTION = 30 * 86400.0
"""Seconds for which a finished job stays on the platform."""

OUTCOMES = ("succeeded", "partial", "failed", "incomplete", "lost")

_ID_EPOCH_MS = int(datetime(2017, 1, 1, tzinfo=UTC).timestamp() * 1000)
_ID_SHIFT = 20
_ID_LOW_BITS = 0x11000
_FILE_ID_STEP = 0x9E3779B97F4A7C15
"""Odd and large, so that the ids of files look as unordered as real ones."""


class ErrorText(NamedTuple):
    """How the platform words an error code."""

    status: int
    message: str


ERROR_TEXTS = {
    "5001": ErrorText(403, "Insufficient privileges to access the requested file."),
    "5002": ErrorText(404, "Requested file does not exist."),
    "5007": ErrorText(500, "File copy failed."),
    "10212": ErrorText(404, "Requested resource not found."),
    "10223": ErrorText(409, "File already exists in the destination."),
}
"""The codes that the dice and the named file ids use; a scripted job may use any other."""

_OTHER_ERROR = ErrorText(500, "Unexpected error.")


class Settled(NamedTuple):
    """What was there to count before a job was changed by hand; counting never goes back behind it."""

    counts: Progress
    outcome: str | None
    errors: Mapping[str, int]


class Job(msgspec.Struct, gc=False):
    """One job: its id, which holds its submission time, and its script.  The rest is worked out when asked for."""

    id: int
    script: JobScript
    removed: float | None = None
    """When it vanished from the platform before its time, in Unix seconds."""
    settled: Settled | None = None

    @property
    def submitted(self) -> float:
        """Unix seconds of the submission."""
        return ((self.id >> _ID_SHIFT) + _ID_EPOCH_MS) / 1000

    @property
    def finishes(self) -> float | None:
        """Unix seconds of the finish, past or future; ``None`` for a job that hangs."""
        lasts = self.script.lasts
        return None if lasts is None else self.submitted + lasts

    def progress(self, now: float) -> Progress:
        """How far it has come at *now*."""
        return progress(self.script, now - self.submitted)

    def is_finished(self, now: float) -> bool:
        """Whether it has come to its end at *now*."""
        finishes = self.finishes
        return finishes is not None and finishes <= now


def id_at(unix_ms: int) -> int:
    """The id of a job submitted at *unix_ms*: the time above, fixed bits below, as in genuine ids."""
    return ((unix_ms - _ID_EPOCH_MS) << _ID_SHIFT) | _ID_LOW_BITS


def record(job: Job, now: float, api: str, *, alone: bool, result: bool = True) -> dict[str, object]:
    """The job's JSON object at *now*.

    *api* is the URL that ends in /v2, *alone*: it was asked for by its own path, *result*: somebody will look at that,
    which is most of the work.
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
    """A record for each completed file, and the error records, somewhere among them."""
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
    """The record of a file that failed with *code*."""
    text = ERROR_TEXTS.get(code, _OTHER_ERROR)
    error: dict[str, object] = {"status": text.status, "message": text.message}
    if code != NO_CODE:
        error |= {"code": int(code), "more_info": f"http://docs.sevenbridges.com/docs/api-status-codes#{code}"}
    return {"error": error}


def timestamp(unix: float) -> str:
    """ISO 8601 in whole seconds, as the platform writes it."""
    return datetime.fromtimestamp(int(unix), UTC).isoformat().replace("+00:00", "Z")


# ------------------------------------------------------------------------------------------------- a perfect observer


class Truth(msgspec.Struct, frozen=True):
    """What an observer who misses nothing would have counted, by operation in lower case."""

    jobs: dict[str, int]
    finished: dict[str, dict[str, int]]
    """By operation and outcome."""
    files: dict[str, dict[str, int]]
    """By operation and ``total``, ``completed`` or ``failed``."""
    errors: dict[str, dict[str, int]]
    """Error records of finished jobs, by operation and code."""

    @classmethod
    def nothing(cls) -> "Truth":
        """Zeros for every documented operation."""
        truth = cls({}, {}, {}, {})
        for operation in OPERATIONS:
            truth.know(operation)
        return truth

    def know(self, operation: str) -> None:
        """Give *operation* its zeros, if it has no row yet."""
        if operation not in self.jobs:
            self.jobs[operation] = 0
            self.finished[operation] = dict.fromkeys(OUTCOMES, 0)
            self.files[operation] = dict.fromkeys(("total", "completed", "failed"), 0)
            self.errors[operation] = {}

    def add(self, job: Job, now: float) -> None:
        """Count *job* as it stands at *now*."""
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
    """When nothing more could be counted of *job*: the second of its finish, or of its loss."""
    if job.removed is not None:
        now = min(now, job.removed)
    if job.finishes is not None and job.finishes <= now:
        return float(int(job.finishes))
    return job.removed


def settle(job: Job, now: float) -> Settled:
    """What there was to count of *job* up to *now*."""
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
    """Whether it can be seen that it has: in an undocumented state only by its times."""
    return job.is_finished(now) and (job.script.state is None or job.script.times is not Shown.NEVER)


def outcome_of(counts: Progress) -> str:
    """The outcome of a job that finished with *counts*."""
    if counts.failed:
        return "partial" if counts.completed else "failed"
    return "incomplete" if counts.completed < counts.total else "succeeded"

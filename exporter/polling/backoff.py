"""When to request a job again whose own endpoint failed: ever less often, and at most half an hour later. Pure."""

from collections.abc import Container
from typing import Final, NamedTuple

_SECOND_RETRY: Final = 30.0
_LONGEST: Final = 1800.0


class _Failures(NamedTuple):
    number: int
    retry_at: float


def retry_delay(failures: int) -> float:
    """Return the seconds until a retry after as many failures in a row: none after the first, then twice as many."""
    return 0.0 if failures <= 1 else min(_LONGEST, _SECOND_RETRY * 2.0 ** min(failures - 2, 32))


class JobBackoff:
    """The jobs whose own endpoint failed when it was last requested. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._failing: dict[str, _Failures] = {}

    def keep(self, ids: Container[str]) -> None:
        """Forget all jobs but these."""
        self._failing = {job_id: failures for job_id, failures in self._failing.items() if job_id in ids}

    def failed(self, job_id: str, now: float) -> None:
        """Record a failed request: the next one is due later than after the one before."""
        number = self.failures(job_id) + 1
        self._failing[job_id] = _Failures(number, now + retry_delay(number))

    def answered(self, job_id: str) -> None:
        """Record a response that said something about the job."""
        self._failing.pop(job_id, None)

    def failures(self, job_id: str) -> int:
        """How many requests for the job failed in a row."""
        return self._failing[job_id].number if job_id in self._failing else 0

    def due(self, job_id: str, now: float) -> bool:
        """Whether the job may be requested now."""
        return job_id not in self._failing or self._failing[job_id].retry_at <= now

"""When to request a job again whose own endpoint failed: ever less often, and at most half an hour later. Pure.

This outlives the process, because each failed request for a finished job's details uses up one of a limited number
(rule 9 of :mod:`exporter.counting.rules`). Without it, a few restarts while an endpoint is down would use up all.
"""

from collections.abc import Container, Mapping
from typing import Final, NamedTuple

from exporter.counting.values import Retry

_SECOND_RETRY: Final = 30.0
_LONGEST: Final = 1800.0


class _Failures(NamedTuple):
    number: int
    retry_at: float


def retry_delay(failures: int) -> float:
    """Return the seconds until a retry after as many failures in a row: none after the first, then twice as many."""
    return 0.0 if failures <= 1 else min(_LONGEST, _SECOND_RETRY * 2.0 ** min(failures - 2, 32))


class JobBackoff:
    """The jobs whose own endpoint failed when it was last requested. Times are monotonic seconds.

    What an earlier process knew is stored by the account's wait clock, which goes on while no process runs.
    """

    def __init__(self) -> None:
        self._failing: dict[str, _Failures] = {}
        self._unsaved: set[str] = set()
        """Jobs of which something else is stored."""
        self._resumed = False

    def resume(self, retries: Mapping[str, Retry], wait_clock: float, now: float, *, relevant: Container[str]) -> None:
        """Go on from what an earlier process stored; only the first call does that.

        What it stored of jobs that are not *relevant* any more is deleted by the next commit: a process that polls only
        once never gets to :meth:`keep`. A stored time is never further away than the delay that led to it, even if a
        clock was put right meanwhile.
        """
        if self._resumed:
            return
        self._resumed = True
        for job_id, (failures, at) in retries.items():
            if job_id not in relevant:
                self._unsaved.add(job_id)
            elif job_id not in self._failing:
                left = min(max(0.0, at - wait_clock), retry_delay(failures))
                self._failing[job_id] = _Failures(failures, now + left)

    def keep(self, ids: Container[str]) -> None:
        """Forget all jobs but these."""
        for job_id in [job_id for job_id in self._failing if job_id not in ids]:
            self.answered(job_id)

    def failed(self, job_id: str, now: float) -> None:
        """Record a failed request: the next one is due later than after the one before."""
        number = self.failures(job_id) + 1
        self._failing[job_id] = _Failures(number, now + retry_delay(number))
        self._unsaved.add(job_id)

    def answered(self, job_id: str) -> None:
        """Record a response that said something about the job."""
        if self._failing.pop(job_id, None) is not None:
            self._unsaved.add(job_id)

    def failures(self, job_id: str) -> int:
        """How many requests for the job failed in a row."""
        return self._failing[job_id].number if job_id in self._failing else 0

    def due(self, job_id: str, now: float) -> bool:
        """Whether the job may be requested now."""
        return job_id not in self._failing or self._failing[job_id].retry_at <= now

    def unsaved(self, now: float, wait_clock: float) -> dict[str, Retry | None]:
        """What to store, by job: when it may be requested again, or None to delete what is stored."""
        return {
            job_id: Retry(failing.number, wait_clock + failing.retry_at - now)
            if (failing := self._failing.get(job_id)) is not None
            else None
            for job_id in self._unsaved
        }

    def saved(self) -> None:
        """What :meth:`unsaved` returned last is stored."""
        self._unsaved.clear()

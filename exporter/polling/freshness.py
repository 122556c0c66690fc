"""When each unfinished job, and the head of the list, was last checked. Pure."""

from collections.abc import Collection, Iterable


class FreshnessTracker:
    """When each unfinished job and the head of the list were last checked, in monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._began = now
        self._checked_at: dict[str, float] = {}
        self._checked: set[str] = set()
        self._tried_at: dict[str, float] = {}
        self._longest_gap = 0.0
        self._head_checked_at = self._listing_began = now

    def begin(self, live: Collection[str]) -> None:
        """Begin a poll; from now on only the *live* jobs matter."""
        self._longest_gap = 0.0
        self._checked = set()
        self._tried_at = {job_id: at for job_id, at in self._tried_at.items() if job_id in self._checked_at}
        self._checked_at = {job_id: self._checked_at.get(job_id, self._began) for job_id in live}

    def mark_checked(self, job_id: str, now: float) -> None:
        """Record that a response showed the job."""
        self._longest_gap = max(self._longest_gap, now - self._checked_at.get(job_id, now))
        self._checked_at[job_id] = now
        self._checked.add(job_id)

    def checked(self, job_id: str) -> bool:
        """Whether this poll checked the job."""
        return job_id in self._checked

    def checked_at(self, job_id: str) -> float:
        """When the job was last checked; when tracking began, if it never was."""
        return self._checked_at.get(job_id, self._began)

    def mark_tried(self, job_id: str, now: float) -> None:
        """Record that the job is requested, whether or not the platform responds."""
        self._tried_at[job_id] = now

    def last_tried(self, job_id: str) -> float:
        """When the job was last checked or requested.

        A job whose endpoint never responds must not keep the others waiting: after a request it goes to the end.
        """
        return max(self.checked_at(job_id), self._tried_at.get(job_id, self._began))

    def mark_head_checked(self, now: float, since: float) -> None:
        """Record that every job that had appeared before *since* has been seen."""
        self._longest_gap = max(self._longest_gap, now - self._head_checked_at)
        self._head_checked_at = since

    def mark_listed(self, now: float, began: float, since: float) -> None:
        """Record a complete listing that began at *began*: it saw the jobs wherever they appeared."""
        self.mark_head_checked(now, since)
        self._listing_began = began

    def distrust_head(self) -> None:
        """Record that jobs may have been missed at the head: since the last complete listing, as far as is known."""
        self._head_checked_at = self._listing_began

    def delay(self, now: float, unfinished: Iterable[str]) -> float:
        """The longest time, in seconds, for which the head or any of these jobs was not checked until this poll."""
        return max(
            self._longest_gap, now - self._head_checked_at, *(now - self.checked_at(job_id) for job_id in unfinished)
        )

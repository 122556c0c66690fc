"""When each unfinished job, and the head of the list, was last checked. Pure."""

from collections.abc import Collection, Iterable


class FreshnessTracker:
    """When each unfinished job was last looked at, and when the place where new ones come in. Monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._began = now
        self._at: dict[str, float] = {}
        self._seen: set[str] = set()
        self._tried: dict[str, float] = {}
        self._gap = 0.0
        self._open_since = self._listed_since = now

    def begin(self, live: Collection[str]) -> None:
        """A poll begins; only *live* jobs are of interest."""
        self._gap = 0.0
        self._seen = set()
        self._tried = {job_id: at for job_id, at in self._tried.items() if job_id in self._at}
        self._at = {job_id: self._at.get(job_id, self._began) for job_id in live}

    def saw(self, job_id: str, now: float) -> None:
        """A job was looked at."""
        self._gap = max(self._gap, now - self._at.get(job_id, now))
        self._at[job_id] = now
        self._seen.add(job_id)

    def seen(self, job_id: str) -> bool:
        """Whether this poll looked at it."""
        return job_id in self._seen

    def at(self, job_id: str) -> float:
        """When it was last looked at, or when looking began."""
        return self._at.get(job_id, self._began)

    def tried(self, job_id: str, now: float) -> None:
        """A job is asked for, whether or not an answer comes."""
        self._tried[job_id] = now

    def last_tried(self, job_id: str) -> float:
        """When it was last looked at or asked for: one whose endpoint never answers shall not keep others waiting."""
        return max(self.at(job_id), self._tried.get(job_id, self._began))

    def closed(self, now: float, since: float) -> None:
        """No new job that came before *since* went unseen."""
        self._gap = max(self._gap, now - self._open_since)
        self._open_since = since

    def listed(self, now: float, began: float, since: float) -> None:
        """A complete listing that *began* then showed them all, wherever they came in."""
        self.closed(now, since)
        self._listed_since = began

    def reopen(self) -> None:
        """It turned out that one did: since the last complete listing, as far as is known."""
        self._open_since = self._listed_since

    def delay(self, now: float, unfinished: Iterable[str]) -> float:
        """For how long, at most, anything went without a look until this poll; seconds."""
        return max(self._gap, now - self._open_since, *(now - self.at(job_id) for job_id in unfinished))

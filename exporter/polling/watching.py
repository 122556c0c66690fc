"""The end of a long list where new jobs come in, and how deep below it the unfinished ones lie. Pure."""

from collections.abc import Collection, Iterable
from enum import Enum
from typing import Final

from exporter.platform.client import ListAnswer
from exporter.platform.jobs import Job

_SORTED: Final = 0.9
"""Part of the neighbours on the list that must be in order."""
_FEWEST_NEIGHBOURS: Final = 10
_LEAST_ROOM: Final = 5
_MOST_ROOM: Final = 50


class Order(Enum):
    """Where on the list new jobs come in."""

    UNKNOWN = "not seen yet"
    NEWEST = "newest first"
    OLDEST = "oldest first"
    NONE = "no rule"


class Neighbours:
    """Which of two neighbours on the list was submitted first, all along it.

    Submission is the number in the job's id, which grows with time as far as is known, else the time of the start.
    """

    def __init__(self) -> None:
        self._later = 0
        self._earlier = 0

    def take(self, jobs: Iterable[Job]) -> None:
        """Take in one page."""
        before: tuple[bool, float] | None = None
        for job in jobs:
            by_id = job.id.isascii() and job.id.isdigit()
            key = int(job.id) if by_id else job.started_on
            if key is None:
                continue
            if before is not None and before[0] == by_id:
                self._later += key > before[1]
                self._earlier += key < before[1]
            before = by_id, key

    @property
    def order(self) -> Order:
        """The order that they show."""
        pairs = self._later + self._earlier
        if pairs < _FEWEST_NEIGHBOURS:
            return Order.UNKNOWN
        if self._earlier >= _SORTED * pairs:
            return Order.NEWEST
        return Order.OLDEST if self._later >= _SORTED * pairs else Order.NONE


class WatchedEnd:
    """One look at the end of the list where new jobs come in, and inwards from there to a job that was known before."""

    def __init__(self, order: Order, size: int, per_page: int, room: int) -> None:
        """A look that begins.

        Args:
            order: newest or oldest first.
            size: jobs on the list, as last known.
            per_page: jobs on a page, as last seen.
            room: new jobs for which the last page of a list with the oldest first is to have room.
        """
        self._newest = order is Order.NEWEST
        self._inwards = per_page - 1
        self._first = 0 if self._newest else max(0, size - per_page + min(room, per_page // 2))
        self._at_the_end = self._newest
        self._inner_known = False
        self.offset: int | None = self._first
        """Where the next page begins; None when the look has ended."""
        self.joined = False
        """Whether it came to a job that was known before, or to the whole list: then no new job was missed."""
        self.size = size
        """Jobs on the list, as now known."""
        self.total: int | None = None
        """The platform's own total, from the page that shows the newest job."""

    def take(self, answer: ListAnswer, known: Collection[str]) -> None:
        """Take in the answer to :attr:`offset`; *known* are those of its jobs that were known before."""
        if self.offset is None:
            return
        page, offset = answer.page, self.offset
        if answer.total is not None:
            self.size = max(answer.total, offset + page.items if page.items else 0)
        if self._newest:
            self.total = answer.total if offset == 0 else self.total
            ended = page.items == 0 or (page.items < answer.limit and not page.has_next)
            self._turn_in(ended or bool(page.jobs and page.jobs[-1].id in known), offset + _step(page.last, page.items))
            return
        if page.items == 0 and offset > 0:
            self._first = self.offset = max(0, offset - self._inwards)  # the list is shorter than was thought
            return
        if offset == self._first:
            self._inner_known = offset == 0 or bool(page.jobs and page.jobs[0].id in known)
        if not self._at_the_end:
            if page.items < answer.limit and not page.has_next:
                self._at_the_end = True
                self.size, self.total = offset + page.items, answer.total
                self._turn_in(self._inner_known, max(0, self._first - self._inwards))
            else:
                self.offset = offset + _step(page.last, page.items)
            return
        self._turn_in(offset == 0 or bool(page.jobs and page.jobs[0].id in known), max(0, offset - self._inwards))

    def _turn_in(self, joined: bool, inwards: int) -> None:  # noqa: FBT001  # private, and its name is the question
        self.joined = joined
        self.offset = None if joined else inwards


def _step(last: int, items: int) -> int:
    """To the next page: one job of overlap, the last one that could be read."""
    return last if last > 0 else max(1, items)


class Depths:
    """How many jobs lie between the watched end and each unfinished job.

    Only new jobs change that, by one each, so a depth is kept less the number of new jobs that had come until then.
    """

    def __init__(self) -> None:
        self._came = 0
        self._last_came = 0
        self._kept: dict[str, int] = {}

    @property
    def room(self) -> int:
        """New jobs to expect at the next look, generously."""
        return min(_MOST_ROOM, _LEAST_ROOM + 2 * self._last_came)

    def came(self, jobs: int) -> None:
        """So many new jobs were put in at the watched end."""
        self._last_came = jobs
        self._came += jobs

    def put(self, job_id: str, depth: int) -> None:
        """A job was seen at this depth."""
        self._kept[job_id] = depth - self._came

    def of(self, job_id: str) -> int | None:
        """Its depth now; None where it is not known."""
        kept = self._kept.get(job_id)
        return None if kept is None else max(0, kept + self._came)

    def drop(self, job_id: str) -> None:
        """A job is not where it was."""
        self._kept.pop(job_id, None)

    def keep(self, ids: Collection[str]) -> None:
        """Forget all jobs but these."""
        self._kept = {job_id: depth for job_id, depth in self._kept.items() if job_id in ids}


class Looks:
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

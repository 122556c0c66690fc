"""The order of the list, and how far from its head each unfinished job lies. Pure."""

from collections.abc import Collection, Iterable
from enum import Enum
from typing import Final

from exporter.api.models import Job

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


class OrderDetector:
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


class JobPositions:
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

"""The order of the job list, its size, and where on it each unfinished job lies. Pure."""

import math
from collections.abc import Collection, Iterable
from enum import Enum
from typing import Final

from exporter.api.models import PAGE_LIMIT, Job, JobPage

PAGES_TO_LEARN: Final = 3
"""Pages that must be enough to detect the order."""
_LARGE_PAGES: Final = 6
"""Most pages of an account that is listed in full at every poll."""
_SMALL_PAGES: Final = 4
"""Most pages at which an account that is polled incrementally is listed in full again."""
_SORTED: Final = 0.9
"""Share of neighbouring jobs that must be sorted alike."""
_FEWEST_NEIGHBOURS: Final = 10
_MOST_REFUTATIONS: Final = 8
_LEAST_ROOM: Final = 5
_MOST_ROOM: Final = 50


class Order(Enum):
    """How the list is sorted by submission time, hence where new jobs appear."""

    UNKNOWN = "not seen yet"
    NEWEST = "newest first"
    OLDEST = "oldest first"
    NONE = "no order"


class OrderDetector:
    """Detects the order from pairs of neighbouring jobs on the pages read so far.

    A job's submission time is the number in its id, which grows with time as far as is known. Where the id is no
    number, it is the time of the job's start.
    """

    def __init__(self) -> None:
        self._later = 0
        self._earlier = 0

    def add_page(self, jobs: Iterable[Job]) -> None:
        """Compare the neighbours on one page."""
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
        """The order of the pages so far; unknown while they have too few neighbours."""
        pairs = self._later + self._earlier
        if pairs < _FEWEST_NEIGHBOURS:
            return Order.UNKNOWN
        if self._earlier >= _SORTED * pairs:
            return Order.NEWEST
        return Order.OLDEST if self._later >= _SORTED * pairs else Order.NONE


class OrderTrust:
    """The order that the plan acts on.

    An order that a page contradicts is given up. Full listings must then show an order again before it is trusted: one
    the first time, and twice as many after each further refutation.
    """

    def __init__(self) -> None:
        self.order = Order.UNKNOWN
        self._refutations = 0
        self._listings_required = 0
        """Complete listings that must show an order before it is trusted again."""

    @property
    def known(self) -> bool:
        """Whether the head of the list is known."""
        return self.order in {Order.NEWEST, Order.OLDEST}

    def learn(self, shown: Order, pages: int) -> None:
        """Trust the order that the first *pages* of a listing have shown; none if these are enough and showed none."""
        self.order = shown
        if shown is Order.UNKNOWN and pages >= PAGES_TO_LEARN:
            self.order = Order.NONE

    def adopt(self, shown: Order) -> None:
        """Take over what a complete listing showed; without conditions where nothing rests on it."""
        self.order = shown

    def contradicted_by(self, shown: Order) -> bool:
        """Whether a complete listing showed an order other than the trusted one."""
        return shown not in {self.order, Order.UNKNOWN}

    def confirm(self, shown: Order) -> None:
        """Count a complete listing after a refutation; trust its order if these were enough."""
        self._listings_required -= 1
        trusted = shown in {Order.NEWEST, Order.OLDEST} and self._listings_required <= 0
        self.order = shown if trusted else Order.NONE

    def refute(self) -> None:
        """Give up the order."""
        self.order = Order.NONE
        self._refutations = min(_MOST_REFUTATIONS, max(1, 2 * self._refutations))
        self._listings_required = self._refutations


class ListShape:
    """The size of the list, and the conversion between offsets and distances from its head."""

    def __init__(self, trust: OrderTrust, *, incremental: bool) -> None:
        """An empty list.

        Args:
            trust: knows at which end the head is.
            incremental: whether an account may count as large.
        """
        self._trust = trust
        self._incremental = incremental
        self.size = 0
        """Jobs on the list, as the platform last reported or as last counted."""
        self.per_page = PAGE_LIMIT
        """Jobs on a page that is not the last one, as last seen."""
        self.large = False
        """Whether the account is too large to be listed in full at every poll."""

    @property
    def pages(self) -> int:
        """Requests of one full listing; each page overlaps the one before by one job."""
        return max(1, math.ceil((self.size - 1) / (self.per_page - 1)))

    def classify(self) -> None:
        """Decide from the size whether the account is large, with hysteresis."""
        pages = math.ceil(self.size / self.per_page)
        self.large = self._incremental and pages > (_SMALL_PAGES if self.large else _LARGE_PAGES)

    def learn_page_size(self, response: JobPage, offset: int) -> None:
        """Learn from the page at *offset*, if it is not the last one, how many jobs the platform puts on a page."""
        if response.page.has_next or response.page.items >= response.limit:
            self.per_page = max(2, response.end(offset) - offset)

    def depth(self, position: int) -> int:
        """Jobs between the head and the job at *position* of the list."""
        return position if self._trust.order is Order.NEWEST else max(0, self.size - 1 - position)

    def offset(self, depth: int) -> int:
        """Offset of a page that shows the jobs from *depth* away from the head."""
        return depth if self._trust.order is Order.NEWEST else max(0, self.size - depth - self.per_page)


class JobPositions:
    """How many jobs lie between the head and each unfinished job.

    New jobs alone change that, each by one. So a depth is stored less the number of new jobs that had come until then.
    """

    def __init__(self) -> None:
        self._arrivals = 0
        self._last_arrivals = 0
        self._stored: dict[str, int] = {}

    @property
    def room(self) -> int:
        """New jobs to expect at the next poll, generously."""
        return min(_MOST_ROOM, _LEAST_ROOM + 2 * self._last_arrivals)

    def add_arrivals(self, jobs: int) -> None:
        """Move every job away from the head by as many new ones."""
        self._last_arrivals = jobs
        self._arrivals += jobs

    def put(self, job_id: str, depth: int) -> None:
        """Store the depth at which a job was seen."""
        self._stored[job_id] = depth - self._arrivals

    def of(self, job_id: str) -> int | None:
        """A job's depth now; None if it is not known."""
        stored = self._stored.get(job_id)
        return None if stored is None else max(0, stored + self._arrivals)

    def drop(self, job_id: str) -> None:
        """Forget a job that was not where it should be."""
        self._stored.pop(job_id, None)

    def keep(self, ids: Collection[str]) -> None:
        """Forget all jobs but these."""
        self._stored = {job_id: depth for job_id, depth in self._stored.items() if job_id in ids}

    def clear(self) -> None:
        """Forget everything, the number of new jobs too."""
        self._arrivals = self._last_arrivals = 0
        self._stored = {}

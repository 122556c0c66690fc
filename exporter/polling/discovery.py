"""Discovering new jobs: the pages at the head of a long list, and the platform's total as a check. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable

from exporter.api.models import JobPage
from exporter.polling.ordering import Order
from exporter.polling.requests import PAGES_PER_PHASE


class HeadScan(ABC):
    """One pass from the head of the list inwards, up to a job that was known before."""

    def __init__(self, size: int, offset: int) -> None:
        self.offset: int | None = offset
        """Where the next page begins; None when the scan has ended."""
        self.joined = False
        """Whether the scan reached a job that was known before, or the whole list: then it missed no new job."""
        self.size = size
        """Jobs on the list, as now known."""
        self.total: int | None = None
        """The total that the platform reported with the page that shows the newest job."""

    def add_page(self, response: JobPage, known: Collection[str]) -> None:
        """Add the page at :attr:`offset`, and move :attr:`offset` to the next page to read.

        Args:
            response: the page.
            known: the ids of its jobs that were known before.
        """
        if self.offset is None:
            return
        if response.total is not None:
            self.size = max(response.total, self.offset + response.page.items if response.page.items else 0)
        self._add(response, self.offset, known)

    @abstractmethod
    def _add(self, response: JobPage, offset: int, known: Collection[str]) -> None: ...

    def _go_on(self, inwards: int, *, joined: bool) -> None:
        """End the scan if it has *joined*; otherwise read the page at the offset *inwards*."""
        self.joined = joined
        self.offset = None if joined else inwards


class NewestFirst(HeadScan):
    """The head is the first page; the scan goes on to higher offsets."""

    def __init__(self, size: int) -> None:
        super().__init__(size, 0)

    def _add(self, response: JobPage, offset: int, known: Collection[str]) -> None:
        page = response.page
        if offset == 0:
            self.total = response.total
        ends_known = bool(page.jobs) and page.jobs[-1].id in known
        self._go_on(_inwards(response, offset), joined=_is_last(response) or ends_known)


class OldestFirst(HeadScan):
    """The head is the last page. The scan reads from before it to the end of the list, then on to lower offsets."""

    def __init__(self, size: int, per_page: int, room: int) -> None:
        self._first = max(0, size - per_page + min(room, per_page // 2))
        """Where the scan begins: the page shows known jobs, and has room for new ones after them."""
        self._inwards = per_page - 1
        self._first_joined = False
        """Whether the first page begins with a job that was known before."""
        self._end_reached = False
        super().__init__(size, self._first)

    def _add(self, response: JobPage, offset: int, known: Collection[str]) -> None:
        page = response.page
        if page.items == 0 and offset > 0 and not page.has_next:
            self._first = self.offset = max(0, offset - self._inwards)  # the list is shorter than expected
            return
        joined = offset == 0 or (bool(page.jobs) and page.jobs[0].id in known)
        if offset == self._first:
            self._first_joined = joined
        if self._end_reached:
            self._go_on(max(0, offset - self._inwards), joined=joined)
        elif _is_last(response):
            self._end_reached = True
            self.size, self.total = offset + page.items, response.total
            self._go_on(max(0, self._first - self._inwards), joined=self._first_joined)
        else:
            self.offset = _inwards(response, offset)


def head_scan(order: Order, size: int, per_page: int, room: int) -> HeadScan:
    """A scan that begins.

    Args:
        order: newest or oldest first.
        size: jobs on the list, as last known.
        per_page: jobs on a page, as last seen.
        room: new jobs for which the last page of a list with the oldest first is to have room.
    """
    return NewestFirst(size) if order is Order.NEWEST else OldestFirst(size, per_page, room)


def _is_last(response: JobPage) -> bool:
    return response.page.items < response.limit and not response.page.has_next


def _inwards(response: JobPage, offset: int) -> int:
    """Where the page after that at *offset* begins, which overlaps this one by the last job that could be read."""
    return offset + response.page.last if response.page.last > 0 else response.end(offset)


class HeadProgress:
    """What one scan of the head leaves for the next: its cost, and new jobs that are not joined to known ones yet.

    A scan that a failure ends has seen new jobs without reaching those known before. The next scan must not end at
    these new jobs, although the ledger knows them by then: there may be more behind them.
    """

    def __init__(self) -> None:
        self._unjoined: set[str] = set()
        self.pages = 1
        """Pages of the last scan."""
        self.limit = PAGES_PER_PHASE
        """Most pages of the next scan."""
        self.read_to = 0
        """Jobs from the head inwards that this poll has read without a gap."""

    def add_new(self, ids: Iterable[str]) -> None:
        """Record new jobs, none of which is one that was known before."""
        self._unjoined.update(ids)

    def known_before(self, known: Collection[str]) -> set[str]:
        """Those of the *known* ids that were known before."""
        return {job_id for job_id in known if job_id not in self._unjoined}

    def join(self) -> None:
        """Record that no job is missing between the new jobs and those known before."""
        self._unjoined.clear()

    def shorten(self) -> None:
        """Make the next scan fit an allowance that ended this one."""
        self.limit = max(1, self.pages // 2)


class TotalCheck:
    """Compares the platform's total with the known jobs: twice in a row too many means that a job was missed."""

    def __init__(self) -> None:
        self.reported: int | None = None
        """The total of this poll; None where the platform reports none."""
        self._known: int | None = None
        """The highest total that the known jobs explain; None before the first complete listing."""
        self._arrivals = 0
        """New jobs seen since the last comparison."""
        self._suspicious = False

    def resume(self, jobs: int) -> None:
        """Go on from a listing of as many jobs that an earlier process completed."""
        self._known = jobs

    def add_arrivals(self, jobs: int) -> None:
        """Count new jobs as known."""
        self._arrivals += jobs

    def forget_arrivals(self) -> None:
        """Forget new jobs that were not committed: they are found again."""
        self._arrivals = 0

    def completed(self, jobs: int) -> None:
        """Begin again from a complete listing that explains a total of as many jobs."""
        self._known, self._arrivals, self._suspicious = jobs, 0, False

    def finds_missed_job(self) -> bool:
        """Compare; whether the total was too high for the second time in a row."""
        if self.reported is None:
            return False
        arrivals, self._arrivals = self._arrivals, 0
        if self._known is None:
            return False
        explained = self._known + arrivals
        too_high = self.reported > explained
        missed = too_high and self._suspicious
        # A first suspicion does not move what is explained: the next comparison must find the same job missing.
        self._known = explained if too_high and not missed else self.reported
        self._suspicious = too_high and not missed
        return missed

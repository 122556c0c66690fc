"""Reading a long list from its head, where new jobs appear, to the first known job. Pure."""

from collections.abc import Collection

from exporter.api.models import JobPage
from exporter.polling.ordering import Order


class HeadScan:
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

    def take(self, response: JobPage, known: Collection[str]) -> None:
        """Take in the answer to :attr:`offset`; *known* are those of its jobs that were known before."""
        if self.offset is None:
            return
        page, offset = response.page, self.offset
        if response.total is not None:
            self.size = max(response.total, offset + page.items if page.items else 0)
        if self._newest:
            self.total = response.total if offset == 0 else self.total
            ended = page.items == 0 or (page.items < response.limit and not page.has_next)
            self._turn_in(ended or bool(page.jobs and page.jobs[-1].id in known), offset + _step(page.last, page.items))
            return
        if page.items == 0 and offset > 0:
            self._first = self.offset = max(0, offset - self._inwards)  # the list is shorter than was thought
            return
        if offset == self._first:
            self._inner_known = offset == 0 or bool(page.jobs and page.jobs[0].id in known)
        if not self._at_the_end:
            if page.items < response.limit and not page.has_next:
                self._at_the_end = True
                self.size, self.total = offset + page.items, response.total
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

"""The full listing: one complete pass over the job list, and its schedule. Pure: pages go in, offsets come out.

Pages are offsets into a list that changes while it is read, and its order is not documented. Each page therefore
overlaps the one before by one job. The overlap grows while the list is seen to move forward, which it does whenever
jobs at its front expire. If the last job of one page is on the next, no job between the two was missed: the overlap
*matches*. Otherwise the list has moved:

* **Forward**, because jobs before the overlap left the list. The page shows only jobs that the listing has not met. The
  listing rewinds until it meets a job that it knows.
* **Backward**, because jobs were added before the overlap. The page shows only jobs already met. The listing goes on.

A listing is *complete* when every overlap matched, it reached the end of the list, and no job was too large to read.
The total that the platform may report is a second check: after a listing with fewer jobs than that, the next one is
trusted for its overlaps alone.

Where overlaps keep failing, the list has no stable order. A listing is then complete if neither it nor the one before
met a job that earlier listings had not seen.
"""

from collections.abc import Collection
from enum import Enum, auto
from typing import Final

from exporter.api.models import JobPage
from exporter.polling.ordering import PAGES_TO_LEARN
from exporter.polling.requests import PAGES_PER_PHASE

MOST_PAGES: Final = 20_000
"""Most pages of one listing: a longer list is taken to have no end."""
_MOST_STALE_PAGES: Final = 12
"""Most successive pages without a job that is new to the listing: beyond that the platform ignores the offset."""
_MOST_EMPTY_PAGES: Final = 100
"""Most successive empty pages that name a next one: beyond that the list is taken to have no end."""
_MOST_REWINDS: Final = 12
_MOST_KNOWN: Final = 1000
"""Most ids of jobs no longer listed that listings without a stable order keep, besides twice those on the list."""
_SLICES_PER_PHASE: Final = 10
_AHEAD: Final = 0.95
"""The part of its interval within which a full listing is to be read, so that it ends before it is due."""


class _Overlap(Enum):
    """How a page joins the page before."""

    MATCHED = auto()
    AHEAD = auto()
    """The list has moved forward: the page lies beyond the overlap."""
    BEHIND = auto()
    """The list has moved backward: the page ends before the overlap."""
    LOST = auto()
    """The overlap is nowhere to be found: jobs may have been missed."""


class FullListing:
    """One pass over the whole list, from its first page to its end; it may take many polls."""

    def __init__(
        self,
        known: Collection[str] = frozenset(),
        *,
        stable: bool = True,
        found_nothing_new_before: bool = False,
        fewer_than_total_before: bool = False,
    ) -> None:
        """A listing at its first page.

        Args:
            known: ids that earlier listings saw; empty while overlaps match.
            stable: whether all overlaps of the listing before matched.
            found_nothing_new_before: whether the listing before met no unknown job.
            fewer_than_total_before: whether all overlaps of the listing before matched, but it met fewer jobs than the
                total that the platform reported.
        """
        self._known = known
        self._was_stable = stable
        self._found_nothing_new_before = found_nothing_new_before
        self._fewer_than_total_before = fewer_than_total_before
        self._stale_pages = 0
        self._overlaps_failed = 0
        self._rewinds = 0
        self._given_up = False
        self._unread = False
        """Whether a job was too large to read: it is not known which, so that none may be taken to be unlisted."""
        self._last: str | None = None
        """The last job of the page before: the next page is expected to show it."""
        self._last_at = 0
        """Its position on the list at that time."""
        self._extra_overlap = 0.0
        """Jobs by which pages overlap in addition to the one."""
        self._total: int | None = None
        self.unreadable = 0
        """Records met that could not be read."""
        self._seen_elsewhere: set[str] = set()
        self.pages = 0
        """Pages read so far."""
        self.ids: set[str] = set()
        """The jobs met."""
        self._ahead: set[str] = set()
        """Jobs of pages from which the listing rewound. They do not count as met, since it returns to them."""
        self.offset: int | None = 0
        """Where the next page begins; None once the end was reached."""

    @property
    def ended(self) -> bool:
        """Whether the end of the list was reached."""
        return self.offset is None

    @property
    def complete(self) -> bool:
        """Whether the listing ended and missed no job that was on the list throughout."""
        found_nothing_new = not self._was_stable and self._found_nothing_new and self._found_nothing_new_before
        return self.ended and not self._given_up and not self._unread and (self._whole or found_nothing_new)

    def after(self) -> "FullListing":
        """The listing that follows this one, which has ended."""
        if self._overlaps_failed == 0:
            return FullListing(fewer_than_total_before=self.fewer_than_total)
        known = self.listing if len(self._known) < _MOST_KNOWN + 2 * len(self.ids) else self.ids
        return FullListing(known, stable=False, found_nothing_new_before=self._found_nothing_new)

    @property
    def listing(self) -> Collection[str]:
        """The ids on the list, if the listing is complete; without a stable order, also those that earlier ones met."""
        met = self.ids.union(self._seen_elsewhere)
        return met if self._whole else met.union(self._known)

    @property
    def _whole(self) -> bool:
        return self._overlaps_failed == 0 and (self._fewer_than_total_before or not self.fewer_than_total)

    @property
    def fewer_than_total(self) -> bool:
        """Whether it met fewer jobs than the total that the platform reported."""
        return len(self.ids | self._seen_elsewhere) + self.unreadable < (self._total or 0)

    @property
    def _found_nothing_new(self) -> bool:
        return self.ids.issubset(self._known)

    def pages_left(self, size: int, per_page: int) -> float:
        """How many more pages the listing needs at the rate at which it got on so far, one at least.

        The rate is less than a page per request where the list moves and jobs are read again.
        """
        offset = self.offset or 0
        measured = self.pages >= PAGES_TO_LEARN and offset > 0
        return max(1.0, (size - offset) / (offset / self.pages if measured else per_page - 1))

    def add_seen_elsewhere(self, ids: Collection[str]) -> None:
        """Record jobs seen on other pages during this listing, so they are not treated as missing."""
        if self.pages:
            self._seen_elsewhere.update(ids)

    def add_page(self, response: JobPage) -> None:
        """Add the page at :attr:`offset`, and move :attr:`offset` to the next page to read."""
        if self.offset is None:
            return
        self.pages += 1
        self._unread = self._unread or response.unread
        if response.total is not None:
            # The smallest total reported: the listing need not meet jobs that appear while it is under way.
            self._total = response.total if self._total is None else min(self._total, response.total)
        shown = [job.id for job in response.page.jobs]
        overlap = self._classify(response.page.items, shown, self.offset)
        if overlap is _Overlap.AHEAD:
            self._rewind(shown, self.offset - response.limit + 1)
        else:
            has_new = not self.ids.issuperset(shown)
            self._merge(response, shown, overlap, self.offset, has_new=has_new)
            self.offset = self._next_offset(response, overlap, self.offset, has_new=has_new)

    def _classify(self, items: int, shown: Collection[str], offset: int) -> _Overlap:
        if self._last is None or offset == 0 or self._last in shown:
            return _Overlap.MATCHED
        if self._is_beyond_overlap(items, shown):
            return _Overlap.AHEAD
        # A job seen elsewhere may have been added to the list since this listing began.
        if shown and all(each in self.ids or each in self._seen_elsewhere for each in shown):
            return _Overlap.BEHIND
        return _Overlap.LOST

    def _is_beyond_overlap(self, items: int, shown: Collection[str]) -> bool:
        if self._rewinds >= _MOST_REWINDS or (items and not shown):
            return False
        met = sum(each in self.ids for each in shown)
        return met == 0 or (self._rewinds == 0 and met < len(shown))

    def _rewind(self, shown: Collection[str], offset: int) -> None:
        self._ahead.update(shown)
        self._rewinds += 1
        self.offset = max(0, offset)

    def _merge(self, response: JobPage, shown: list[str], overlap: _Overlap, offset: int, *, has_new: bool) -> None:
        """Add the page's jobs to those met."""
        self._rewinds = 0
        self._overlaps_failed += overlap is _Overlap.LOST
        self._stale_pages = 0 if has_new else self._stale_pages + 1
        self.unreadable += sum(response.page.skipped.values())
        self.ids.update(shown)
        if shown and overlap is not _Overlap.BEHIND:
            self._adapt_overlap(shown, offset)
            self._last, self._last_at = shown[-1], offset + response.page.last

    def _adapt_overlap(self, shown: list[str], offset: int) -> None:
        """Overlap by more jobs than the list has moved forward since the page before, then slowly by fewer again."""
        moved = self._last_at - (offset + shown.index(self._last)) if self._last in shown else 0
        self._extra_overlap = max(3.0 * moved, 0.95 * self._extra_overlap)

    def _next_offset(self, response: JobPage, overlap: _Overlap, offset: int, *, has_new: bool) -> int | None:
        page = response.page
        if self._is_end(response, offset, has_new=has_new):
            self.ids |= self._ahead
            self._overlaps_failed += overlap is _Overlap.BEHIND
            return None
        if self.pages >= MOST_PAGES or self._stale_pages >= (_MOST_STALE_PAGES if page.items else _MOST_EMPTY_PAGES):
            self._overlaps_failed += 1
            self._given_up = True
            return None
        is_short = page.has_next and page.items < response.limit
        if page.last > 0 and not (is_short and self._stale_pages > 1):
            # Overlap by the last job that could be read.
            return offset + max(1, page.last - min(int(self._extra_overlap), page.last // 2))
        # The next page cannot show a job of this one again, so this overlap cannot be checked. A page of one job is so,
        # and those of a platform that leaves rows out after paging, where it would overlap the same few jobs each time.
        self._overlaps_failed += 1
        self._last = None
        return response.end(offset)

    @staticmethod
    def _is_end(response: JobPage, offset: int, *, has_new: bool) -> bool:
        page = response.page
        if page.has_next:
            return False
        if page.items == 0 or (page.items == 1 and not has_new and response.limit > 1):
            return True
        if page.items >= response.limit:
            return False
        return response.total is None or offset + page.items >= response.total


class ListingSchedule:
    """How many pages of a large account's full listing to read now, so that it is read evenly over its interval."""

    def __init__(self, interval: float, now: float) -> None:
        """A schedule before the first complete listing.

        Args:
            interval: how old a complete listing may become; seconds.
            now: monotonic seconds.
        """
        self._interval = interval
        self._due_at: float | None = None
        self._paced_at = now
        self._credit = 0.0
        """Pages that are due, as a fraction too."""
        self.expedited = False
        """Whether the next complete listing is wanted as soon as the allowance permits."""

    @property
    def first(self) -> bool:
        """Whether no listing has been completed yet."""
        return self._due_at is None

    @property
    def page_due(self) -> bool:
        """Whether a page is due now."""
        return self._credit >= 1.0

    def use_interval(self, interval: float) -> None:
        """Change how old a complete listing may become, in seconds."""
        if self._due_at is not None:
            self._due_at += interval - self._interval
        self._interval = interval

    def resume(self, now: float, age: float) -> None:
        """Go on from a listing that an earlier process completed *age* seconds ago."""
        self._due_at = now + max(0.0, self._interval - age)

    def completed(self, now: float) -> None:
        """Schedule the next listing after a complete one."""
        self._due_at = now + _AHEAD * self._interval
        self.expedited = False

    def pages(self, now: float, left: float, *, hurried: bool) -> int:
        """How many pages to read in this phase; *left* are needed to the end of the list.

        Args:
            now: monotonic seconds.
            left: pages that the listing still needs.
            hurried: whether to read as many as a phase may.
        """
        elapsed, self._paced_at = now - self._paced_at, now
        if hurried or self._due_at is None:
            self._credit = 0.0
            return _SLICES_PER_PHASE
        self._credit += left * min(1.0, elapsed / max(self._due_at - now, 1.0))
        pages = min(int(self._credit), _SLICES_PER_PHASE)
        self._credit = min(self._credit - pages, PAGES_PER_PHASE)
        return pages

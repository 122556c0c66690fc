"""One reading of the whole list. Pure: pages go in, the next offset comes out.

Pages are offsets over a list that changes while it is read, in an order that nobody documented. So each page overlaps
the one before by one job, and by some more while the list is seen to move forward (jobs expire at its front all the
time, if the oldest are there). If the last job of a page is in the next one, nothing between the two was missed:
that seam matches. If it is not, the list has moved:

* forward, because jobs before the seam went away: the page shows only jobs not met yet, and the walk steps back until
  it meets one that it knows;
* backward, because jobs were put in before it: the page shows only jobs met already, and the walk goes on.

A walk is *complete* when every seam matched and the end was reached. The platform's own total, where it sends one, is a
check of that: a walk that met fewer jobs is made once more, and then the seams are believed.

Where seams keep failing there is no stable order to walk along. Then a walk is complete when it and the walk before it
both met no job that earlier walks had not seen.
"""

from collections.abc import Collection
from typing import Final

from exporter.api.models import JobPage

MOST_PAGES: Final = 20_000
"""Pages of one walk: a list that goes on for longer has no end."""
_MOST_STALE_PAGES: Final = 12
"""Pages in a row without a job that is new to the walk: the platform does not heed the offset."""
_MOST_REWINDS: Final = 12
_MOST_KNOWN: Final = 1000
"""Ids of jobs long gone that walks without a stable order may drag along, beside twice those on the list."""


class FullListing:
    """One reading of the whole list, from its first page to its end; it may take many polls."""

    def __init__(
        self,
        known: Collection[str] = frozenset(),
        *,
        stable: bool = True,
        found_nothing_new_before: bool = False,
        fewer_than_total_before: bool = False,
    ) -> None:
        """A walk that begins.

        Args:
            known: ids that earlier walks saw; empty while seams match.
            stable: whether seams matched in the walk before.
            found_nothing_new_before: whether the walk before met no unknown job.
            fewer_than_total_before: whether the walk before matched every seam and met fewer jobs than the platform's
                total.
        """
        self._known = known
        self._was_stable = stable
        self._found_nothing_new_before = found_nothing_new_before
        self._fewer_than_total_before = fewer_than_total_before
        self._nothing_fresh = 0
        self._overlaps_failed = 0
        self._rewinds = 0
        self._given_up = False
        self._last: str | None = None
        self._last_at = 0
        """Where on the list that job was."""
        self._overlap = 0.0
        """Jobs by which pages overlap beside the one."""
        self._total: int | None = None
        self.unreadable = 0
        """Records met that could not be read."""
        self._seen_elsewhere: set[str] = set()
        self.pages = 0
        """Pages read so far."""
        self.ids: set[str] = set()
        """The jobs met."""
        self._ahead: set[str] = set()
        """Jobs of pages from which the walk stepped back: not met yet, for it comes there again."""
        self.offset: int | None = 0
        """Where the next page begins; None once the end was reached."""

    @property
    def ended(self) -> bool:
        """Whether the end of the list was reached."""
        return self.offset is None

    @property
    def complete(self) -> bool:
        """Whether the walk ended and is known to have missed no job that was there all the while."""
        found_nothing_new = not self._was_stable and self._found_nothing_new and self._found_nothing_new_before
        return self.ended and not self._given_up and (self._whole or found_nothing_new)

    def after(self) -> "FullListing":
        """The walk that follows one that has ended."""
        if self._overlaps_failed == 0:
            return FullListing(fewer_than_total_before=self.fewer_than_total)
        known = self.listing if len(self._known) < _MOST_KNOWN + 2 * len(self.ids) else self.ids
        return FullListing(known, stable=False, found_nothing_new_before=self._found_nothing_new)

    @property
    def listing(self) -> Collection[str]:
        """The ids that a complete walk stands for; without a stable order one walk alone does not meet them all."""
        return (
            self.ids.union(self._seen_elsewhere) if self._whole else self.ids.union(self._seen_elsewhere, self._known)
        )

    @property
    def _whole(self) -> bool:
        return self._overlaps_failed == 0 and (self._fewer_than_total_before or not self.fewer_than_total)

    @property
    def fewer_than_total(self) -> bool:
        """Whether it met fewer jobs than the platform's total."""
        return len(self.ids | self._seen_elsewhere) + self.unreadable < (self._total or 0)

    @property
    def _found_nothing_new(self) -> bool:
        return self.ids.issubset(self._known)

    def add_seen_elsewhere(self, ids: Collection[str]) -> None:
        """Jobs that another page of the same list showed meanwhile: listed, wherever the walk is."""
        if self.pages:
            self._seen_elsewhere.update(ids)

    def take(self, response: JobPage) -> None:
        """Take in the answer to :attr:`offset`, and decide what comes next."""
        if self.offset is None:
            return
        page, offset = response.page, self.offset
        self.pages += 1
        if response.total is not None:
            # The least that was ever reported: jobs that come while we walk need not be met.
            self._total = response.total if self._total is None else min(self._total, response.total)
        shown = [job.id for job in page.jobs]
        fresh = not self.ids.issuperset(shown)
        overlaps = self._last is None or offset == 0 or self._last in shown
        if not overlaps and self._should_rewind(page.items, shown):
            self._ahead.update(shown)
            self._rewinds += 1
            self.offset = max(0, offset - response.limit + 1)
            return
        # Only jobs met before, or put in since: the seam is still to come.
        before_overlap = (
            not overlaps and bool(shown) and all(each in self.ids or each in self._seen_elsewhere for each in shown)
        )
        if not overlaps and not before_overlap:
            self._overlaps_failed += 1
        self._rewinds = 0
        self.unreadable += sum(page.skipped.values())
        self._nothing_fresh = 0 if fresh else self._nothing_fresh + 1
        self.ids.update(shown)
        if shown and not before_overlap:
            self._follow(shown, offset)
            self._last, self._last_at = shown[-1], offset + page.last
        if self._ends(response, offset, fresh=fresh):
            self.ids |= self._ahead
            self._overlaps_failed += before_overlap
            self.offset = None
        elif self.pages >= MOST_PAGES or self._nothing_fresh >= _MOST_STALE_PAGES:
            self._overlaps_failed += 1
            self._given_up = True
            self.offset = None
        elif page.last > 0:
            # One job of overlap: the last one that could be read.
            self.offset = offset + max(1, page.last - min(int(self._overlap), page.last // 2))
        else:
            # No job that the next page could show again, as on a page of one: nobody can tell whether this seam holds.
            self._overlaps_failed += 1
            self._last = None
            self.offset = offset + page.items

    def _follow(self, shown: list[str], offset: int) -> None:
        """Overlap by more jobs than the list has moved forward since the page before, then slowly by fewer again."""
        moved = self._last_at - (offset + shown.index(self._last)) if self._last in shown else 0
        self._overlap = max(3.0 * moved, 0.95 * self._overlap)

    def _should_rewind(self, items: int, shown: Collection[str]) -> bool:
        """Whether a page that misses the seam lies behind it, so that the one before is to be read."""
        if self._rewinds >= _MOST_REWINDS or (items and not shown):
            return False
        met = sum(each in self.ids for each in shown)
        return met == 0 or (self._rewinds == 0 and met < len(shown))

    @staticmethod
    def _ends(response: JobPage, offset: int, *, fresh: bool) -> bool:
        page = response.page
        if page.items == 0 or (page.items == 1 and not fresh and response.limit > 1):
            return True
        if page.items >= response.limit or page.has_next:
            return False
        return response.total is None or offset + page.items >= response.total

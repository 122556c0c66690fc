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

from exporter.api.client import ListAnswer

MOST_PAGES: Final = 20_000
"""Pages of one walk: a list that goes on for longer has no end."""
_MOST_STALE_PAGES: Final = 12
"""Pages in a row without a job that is new to the walk: the platform does not heed the offset."""
_MOST_STEPS_BACK: Final = 12
_MOST_KNOWN: Final = 1000
"""Ids of jobs long gone that walks without a stable order may drag along, beside twice those on the list."""


class Walk:
    """One reading of the whole list, from its first page to its end; it may take many polls."""

    def __init__(
        self,
        known: Collection[str] = frozenset(),
        *,
        stable: bool = True,
        quiet_before: bool = False,
        short_before: bool = False,
    ) -> None:
        """A walk that begins.

        Args:
            known: ids that earlier walks saw; empty while seams match.
            stable: whether seams matched in the walk before.
            quiet_before: whether the walk before met no unknown job.
            short_before: whether the walk before matched every seam and met fewer jobs than the platform's total.
        """
        self._known = known
        self._was_stable = stable
        self._quiet_before = quiet_before
        self._short_before = short_before
        self._nothing_fresh = 0
        self._seams_failed = 0
        self._steps_back = 0
        self._given_up = False
        self._last: str | None = None
        self._last_at = 0
        """Where on the list that job was."""
        self._overlap = 0.0
        """Jobs by which pages overlap beside the one."""
        self._total: int | None = None
        self.unreadable = 0
        """Records met that could not be read."""
        self._beside: set[str] = set()
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
        quiet = not self._was_stable and self._quiet and self._quiet_before
        return self.ended and not self._given_up and (self._whole or quiet)

    def after(self) -> "Walk":
        """The walk that follows one that has ended."""
        if self._seams_failed == 0:
            return Walk(short_before=self.short)
        known = self.listing if len(self._known) < _MOST_KNOWN + 2 * len(self.ids) else self.ids
        return Walk(known, stable=False, quiet_before=self._quiet)

    @property
    def listing(self) -> Collection[str]:
        """The ids that a complete walk stands for; without a stable order one walk alone does not meet them all."""
        return self.ids.union(self._beside) if self._whole else self.ids.union(self._beside, self._known)

    @property
    def _whole(self) -> bool:
        return self._seams_failed == 0 and (self._short_before or not self.short)

    @property
    def short(self) -> bool:
        """Whether it met fewer jobs than the platform's total."""
        return len(self.ids | self._beside) + self.unreadable < (self._total or 0)

    @property
    def _quiet(self) -> bool:
        return self.ids.issubset(self._known)

    def seen_beside(self, ids: Collection[str]) -> None:
        """Jobs that another page of the same list showed meanwhile: listed, wherever the walk is."""
        if self.pages:
            self._beside.update(ids)

    def take(self, answer: ListAnswer) -> None:
        """Take in the answer to :attr:`offset`, and decide what comes next."""
        if self.offset is None:
            return
        page, offset = answer.page, self.offset
        self.pages += 1
        if answer.total is not None:
            # The least that was ever reported: jobs that come while we walk need not be met.
            self._total = answer.total if self._total is None else min(self._total, answer.total)
        shown = [job.id for job in page.jobs]
        fresh = not self.ids.issuperset(shown)
        seam = self._last is None or offset == 0 or self._last in shown
        if not seam and self._goes_back(page.items, shown):
            self._ahead.update(shown)
            self._steps_back += 1
            self.offset = max(0, offset - answer.limit + 1)
            return
        # Only jobs met before, or put in since: the seam is still to come.
        short_of_it = not seam and bool(shown) and all(each in self.ids or each in self._beside for each in shown)
        if not seam and not short_of_it:
            self._seams_failed += 1
        self._steps_back = 0
        self.unreadable += sum(page.skipped.values())
        self._nothing_fresh = 0 if fresh else self._nothing_fresh + 1
        self.ids.update(shown)
        if shown and not short_of_it:
            self._follow(shown, offset)
            self._last, self._last_at = shown[-1], offset + page.last
        if self._ends(answer, offset, fresh=fresh):
            self.ids |= self._ahead
            self._seams_failed += short_of_it
            self.offset = None
        elif self.pages >= MOST_PAGES or self._nothing_fresh >= _MOST_STALE_PAGES:
            self._seams_failed += 1
            self._given_up = True
            self.offset = None
        elif page.last > 0:
            # One job of overlap: the last one that could be read.
            self.offset = offset + max(1, page.last - min(int(self._overlap), page.last // 2))
        else:
            # No job that the next page could show again, as on a page of one: nobody can tell whether this seam holds.
            self._seams_failed += 1
            self._last = None
            self.offset = offset + page.items

    def _follow(self, shown: list[str], offset: int) -> None:
        """Overlap by more jobs than the list has moved forward since the page before, then slowly by fewer again."""
        moved = self._last_at - (offset + shown.index(self._last)) if self._last in shown else 0
        self._overlap = max(3.0 * moved, 0.95 * self._overlap)

    def _goes_back(self, items: int, shown: Collection[str]) -> bool:
        """Whether a page that misses the seam lies behind it, so that the one before is to be read."""
        if self._steps_back >= _MOST_STEPS_BACK or (items and not shown):
            return False
        met = sum(each in self.ids for each in shown)
        return met == 0 or (self._steps_back == 0 and met < len(shown))

    @staticmethod
    def _ends(answer: ListAnswer, offset: int, *, fresh: bool) -> bool:
        page = answer.page
        if page.items == 0 or (page.items == 1 and not fresh and answer.limit > 1):
            return True
        if page.items >= answer.limit or page.has_next:
            return False
        return answer.total is None or offset + page.items >= answer.total

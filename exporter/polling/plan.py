"""What to ask next. Pure: answers go in, questions come out.

A listing of a moving list
==========================

Pages are offsets over a list that changes while it is read, in an order that nobody documented. So each page overlaps
the one before by one job. If the last job of a page is in the next one, nothing between the two was missed: that seam
matches. If it is not, jobs before it went away and the rest moved forward, so the walk steps back a page and reads on
from there. A walk is *complete* when every seam matched and the end was reached. The platform's own total, where it
sends one, is a check of that: a walk that met fewer jobs is made once more, and then the seams are believed.

Where seams keep failing there is no stable order to walk along. Then a walk is complete when it and the walk before it
both met no job that earlier walks had not seen.
"""

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from exporter.counting.ledger import Mark
from exporter.platform.client import PAGE_LIMIT, ListAnswer
from exporter.platform.jobs import OPERATIONS, Operation

MOST_PAGES: Final = 20_000
"""Pages of one walk: a list that goes on for longer has no end."""
_MOST_STALE_PAGES: Final = 5
"""Pages in a row without a job that is new to the walk: the platform does not heed the offset."""
_MOST_KNOWN: Final = 1000
"""Ids of jobs long gone that walks without a stable order may drag along, beside twice those on the list."""


class PageQuestion(NamedTuple):
    """The list, from *offset* on."""

    offset: int
    limit: int = PAGE_LIMIT


class JobQuestion(NamedTuple):
    """One job, by its own endpoint."""

    operation: Operation
    job_id: str


class Walk:
    """One reading of the whole list, from its first page to its end."""

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
        self._last: str | None = None
        self._stepped_back = False
        self._total: int | None = None
        self._unreadable = 0
        self._pages = 0
        self.ids: set[str] = set()
        self.next: PageQuestion | None = PageQuestion(0)

    @property
    def pages(self) -> int:
        """Pages read so far."""
        return self._pages

    @property
    def ended(self) -> bool:
        """Whether the end of the list was reached."""
        return self.next is None

    @property
    def complete(self) -> bool:
        """Whether the walk ended and is known to have missed no job that was there all the while."""
        return self.ended and (self._whole or (not self._was_stable and self._quiet and self._quiet_before))

    def after(self) -> "Walk":
        """The walk that follows one that has ended."""
        if self._seams_failed == 0:
            return Walk(short_before=self._short)
        known = self.listing if len(self._known) < _MOST_KNOWN + 2 * len(self.ids) else self.ids
        return Walk(known, stable=False, quiet_before=self._quiet)

    @property
    def listing(self) -> Collection[str]:
        """The ids that a complete walk stands for; without a stable order one walk alone does not meet them all."""
        return self.ids if self._whole else self.ids.union(self._known)

    @property
    def _whole(self) -> bool:
        return self._seams_failed == 0 and (self._short_before or not self._short)

    @property
    def _short(self) -> bool:
        return len(self.ids) + self._unreadable < (self._total or 0)

    @property
    def _quiet(self) -> bool:
        return self.ids.issubset(self._known)

    def take(self, answer: ListAnswer) -> None:
        """Take in the answer to :attr:`next`, and decide what comes next."""
        if self.next is None:
            return
        page, offset = answer.page, self.next.offset
        self._pages += 1
        if answer.total is not None:
            # The least that was ever reported: jobs that come while we walk need not be met.
            self._total = answer.total if self._total is None else min(self._total, answer.total)
        shown = [job.id for job in page.jobs]
        seam = self._last is None or offset == 0 or self._last in shown
        if not seam and not self._stepped_back:
            self.ids.update(shown)
            self._stepped_back = True
            self.next = PageQuestion(max(0, offset - self.next.limit + 1), self.next.limit)
            return
        if not seam:
            self._seams_failed += 1
        self._stepped_back = False
        self._unreadable += sum(page.skipped.values())
        fresh = not self.ids.issuperset(shown)
        self._nothing_fresh = 0 if fresh else self._nothing_fresh + 1
        self.ids.update(shown)
        if shown:
            self._last = shown[-1]
        if self._ends(answer, offset, fresh=fresh):
            self.next = None
        elif self._pages >= MOST_PAGES or self._nothing_fresh >= _MOST_STALE_PAGES:
            self._seams_failed += 1
            self.next = None
        else:
            # One job of overlap: the last one that could be read, else none.
            step = page.last if page.last > 0 else page.items
            self.next = PageQuestion(offset + step, self.next.limit)

    def _ends(self, answer: ListAnswer, offset: int, *, fresh: bool) -> bool:
        page = answer.page
        if page.items == 0 or (page.items == 1 and not fresh):
            return True
        if page.items >= (self.next.limit if self.next else PAGE_LIMIT) or page.has_next:
            return False
        return answer.total is None or offset + page.items >= answer.total


def questions(live: Iterable[Mark], present: Collection[str], *, complete: bool) -> list[JobQuestion]:
    """The jobs to ask for by their own endpoint in this poll: pending ones first, then the longest unmoved.

    Args:
        live: marks that are unfinished or pending once what was seen is folded in.
        present: the ids that the listing showed.
        complete: whether the listing is complete: only then is absence from it a reason to ask.
    """
    wanted = [
        mark
        for mark in live
        if mark.operation in OPERATIONS and (mark.pending or (complete and mark.unfinished and mark.id not in present))
    ]
    wanted.sort(key=lambda mark: (not mark.pending, mark.moved_at, mark.id))
    return [JobQuestion(Operation(mark.operation), mark.id) for mark in wanted]

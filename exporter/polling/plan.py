"""What to ask next. Pure: answers go in, questions come out; no clock, no socket, no state file.

A poll asks in three turns, and what the first two saw is counted and shown before the third begins:

1.  :meth:`PollPlan.discover`: whatever shows new jobs. The whole list of a small account, up to six pages; the *watched
pages*
    of a larger one.
2.  :meth:`PollPlan.refresh`: unfinished jobs that those pages did not show, by the fewest requests that cover them, and
ended
    ones whose result is wanted.
3.  :meth:`PollPlan.continue_listing`: the next slices of the full listing of a large account.

Watching
========

A list of 100,000 jobs is 1,000 pages, which is all that the platform allows a user in five minutes. But new jobs come
in at one place. Nobody documented which, so it is taken from what the list shows, and held to be wrong as soon as
anything speaks against it:

*   *Learned*: pages in which nearly every job was submitted before (after) the one above it make the order *newest*
    (*oldest*) first. If they show no rule there is nothing to watch: the list is then read in full again and again, as
    often as the allowance permits.
*   *Watched*: the page at that end of the list, and on from there until a page ends in a job that was known before. So
    watching misses no job that was put in at the watched end, however many came at once.
*   *Checked*, each time: a total of the platform's that is more than the jobs accounted for, twice in a row, says that
    one came in elsewhere; so does a slice of the full listing that shows an unknown job farther in than a page. Both
    bring the full listing forward; the latter also ends the watching, until full listings have shown the order again,
    twice as many each time.
*   *Found anyway*: whatever watching misses, in whatever order, the next full listing shows. What a listing shows is
    counted by the ledger's rules alone, so no assumption made here can count anything twice, or leave it out for ever.

How deep a job lies is counted from the watched end, since only new jobs change that, and those are counted. Unfinished
jobs less than a page apart are looked at by one page, others by their own endpoint. Those that do not fit the allowance
take turns, the longest unasked first.

What is promised, and tried with lists that move between any two requests, in every order: each finish is counted once;
within one full listing of its end at the latest; and no window has more requests than the share.
"""

import math
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from exporter.api.models import FINAL_RANK, OPERATIONS, PAGE_LIMIT, JobPage, Operation, Priority
from exporter.counting.values import JobRecord
from exporter.polling.freshness import FreshnessTracker
from exporter.polling.full_listing import FullListing
from exporter.polling.head_scan import HeadScan
from exporter.polling.ordering import JobPositions, Order, OrderDetector

LARGE_PAGES: Final = 6
"""Most pages of an account that is listed in full at every poll."""
SMALL_PAGES: Final = 4
"""Most pages with which a watched account is small again."""
PAGES_PER_PHASE: Final = 50
"""Most pages of one turn, after which what they showed is counted."""
SLICES_PER_PHASE: Final = 10
_PAGES_TO_LEARN: Final = 3
_SLACK: Final = 3
"""Jobs by which a depth may be wrong: some may come, or leave, between two requests."""
_WORTH_A_PAGE: Final = 2
"""Unfinished jobs on a page that make it cheaper than asking for each."""
_FOR_DETAILS: Final = 1 / 4
_MOST_PROBES: Final = 5
_MOST_REFUTATIONS: Final = 8
_AHEAD: Final = 0.95
"""The part of its interval within which a full listing is to be read, so that it ends before it is due."""

T = TypeVar("T")


class ListPage(NamedTuple):
    """The list, from *offset* on."""

    offset: int
    priority: Priority


class GetJob(NamedTuple):
    """One job, by its own endpoint."""

    operation: Operation
    job_id: str


class PageResult(NamedTuple):
    """A page of the list, and those of its jobs that were known: to the ledger, or from this poll."""

    response: JobPage
    known: Collection[str]


class JobResult(NamedTuple):
    """One job's own endpoint was asked; *conclusive* whether its answer tells anything of the job."""

    conclusive: bool = True


Request = ListPage | GetJob
Result = PageResult | JobResult | None
"""What came of a question; None when it may not be asked now, for want of allowance."""
Phase = Generator[Request, Result, None]


@dataclass(frozen=True, slots=True)
class LedgerView:
    """What the plan needs to know of the ledger before a turn.

    Attributes:
        live: marks that are unfinished or pending, by id.
        listed: how many jobs the platform lists, as far as is known.
        ever_listed: whether there ever was a complete listing.
        listing_age: seconds since the last complete listing, by the platform's time; None before the first.
    """

    live: Mapping[str, JobRecord]
    listed: int
    ever_listed: bool
    listing_age: float | None


class PollPlan:
    """One account's plan. Times are monotonic seconds."""

    def __init__(self, full_listing_interval: float, now: float, *, incremental: bool = True) -> None:
        """A plan that knows nothing yet.

        Args:
            full_listing_interval: how old, in seconds, a complete listing of a large account may become.
            now: monotonic seconds.
            incremental: whether a large account is watched, or listed in full like a small one.
        """
        self._interval = full_listing_interval
        self._incremental_allowed = incremental
        self._size: int | None = None
        self._per_page = PAGE_LIMIT
        """Jobs on a page that is not the last one, as last seen."""
        self._large = False
        self._freshness = FreshnessTracker(now)
        self._begin_listing(FullListing(), now)
        self._order = Order.UNKNOWN
        self._refutations = 0
        self._listings_required = 0
        """Complete walks that must show the order before it is believed again."""
        self._positions = JobPositions()
        self._read_to = 0
        """How deep this poll's watched pages and probes went."""
        self._probes = 0
        self._head_pages = 1
        self._most_head_pages = PAGES_PER_PHASE
        self._fresh: set[str] = set()
        """New jobs met since a look last came to one that was known before: none of these is that one."""
        self._total: int | None = None
        """The platform's own total, as the watched end last told it."""
        self._accounted: int | None = None
        """What it may be by what is known; None before the first complete listing."""
        self._came = 0
        """New jobs met since it was last compared."""
        self._suspected = False
        self._urgent = False
        self._due: float | None = None
        self._paced_at = now
        self._credit = 0.0
        self._refused = False
        self._details_credit = 0.0
        self._asked = self._results = 0
        """Requests of this poll's second turn; those of them for results."""

    # ---- what it says of itself ----

    @property
    def incremental(self) -> bool:
        """Whether the account is too large to be listed at every poll."""
        return self._large

    @property
    def head_known(self) -> bool:
        """Whether it is known where new jobs of a large account come in."""
        return self._large and self._ordered

    @property
    def order(self) -> Order:
        """Where new jobs come in, as far as is known and believed."""
        return self._order

    @property
    def size(self) -> int:
        """How many jobs the list has, as last told or met."""
        return self._size or 0

    @property
    def pages(self) -> int:
        """Requests that a full listing needs, each page overlapping the one before."""
        return max(1, math.ceil((self.size - 1) / (self._per_page - 1)))

    @property
    def pages_per_discovery(self) -> int:
        """Requests that the first turn of a poll needs, as last seen."""
        return self._head_pages if self._large else self.pages

    @property
    def requests_per_poll(self) -> int:
        """Requests of the first two turns of a poll, as last made; without those for results, which are made once."""
        return self.pages_per_discovery + self._asked - self._results

    @property
    def hurried(self) -> bool:
        """Whether the full listing is read as fast as may be: it is the first, or wanted now, or nothing is watched."""
        return self._large and (self._urgent or self._due is None or not self._ordered)

    @property
    def goes_on(self) -> bool:
        """Whether this poll should read on after a turn of slices."""
        return self._large and not self._refused and (self.hurried or self._credit >= 1.0)

    @property
    def half_read(self) -> bool:
        """Whether the list that is read at every poll has not been read to its end."""
        return not self._large and self._full_listing.pages > 0

    @property
    def listing(self) -> Collection[str] | None:
        """The ids on the list, when the last turn read it to its end; until :meth:`settle`."""
        return self._full_listing.listing if self._full_listing.complete else None

    def delay(self, now: float, live: Mapping[str, JobRecord]) -> float:
        """For how long, at most, an unfinished job went without a look until this poll; seconds.

        Jobs that nobody knows of yet count too: since the place where they come in was last looked at.
        """
        return self._freshness.delay(now, (job_id for job_id, record in live.items() if record.unfinished))

    @property
    def _ordered(self) -> bool:
        return self._order in {Order.NEWEST, Order.OLDEST}

    # ---- first turn ----

    def discover(self, now: float, ledger: LedgerView) -> Phase:
        """Whatever shows new jobs."""
        self._freshness.begin([job_id for job_id, record in ledger.live.items() if record.unfinished])
        self._positions.keep(ledger.live.keys())
        self._refused = False
        self._total, self._read_to, self._asked, self._results = None, 0, 0, 0
        if self._size is None:
            self._size = ledger.listed
            if ledger.ever_listed and ledger.listing_age is not None:
                # An earlier process listed it: this one goes on watching, and lists it again when that is due.
                self._due = now + max(0.0, self._interval - ledger.listing_age)
                self._accounted = ledger.listed
        self._weigh()
        if not self._large or self._order is Order.UNKNOWN:
            yield from self._list(now, ledger)
        if self._large and self._ordered:
            yield from self._scan_head(now, ledger)

    def _weigh(self) -> None:
        """Whether the account is large, by what is known of its size."""
        pages = math.ceil(self.size / self._per_page)
        self._large = self._incremental_allowed and pages > (SMALL_PAGES if self._large else LARGE_PAGES)

    def _list(self, now: float, ledger: LedgerView) -> Phase:
        """The list from its first page, to its end or until it turns out to be large and its order is seen."""
        for _ in range(PAGES_PER_PHASE):
            if self._full_listing.offset is None:
                return
            result = yield ListPage(self._full_listing.offset, Priority.DISCOVERY)
            if not isinstance(result, PageResult):
                return
            self._read_listing_page(result, now, ledger)
            self._weigh()
            if self._large and self._order is Order.UNKNOWN:
                self._order = self._order_detector.order
                if self._order is Order.UNKNOWN and self._full_listing.pages >= _PAGES_TO_LEARN:
                    self._order = Order.NONE
            if self._large and self._order is not Order.UNKNOWN:
                return

    def _read_listing_page(self, result: PageResult, now: float, ledger: LedgerView) -> None:
        """One page of the walk was read."""
        response, offset = result.response, self._full_listing.offset or 0
        if self._full_listing.pages == 0:
            self._listing_began = now
        self._order_detector.take(response.page.jobs)
        self._full_listing.take(response)
        met = len(self._full_listing.ids)  # a total below that is refuted
        self._size = max(self.size if response.total is None else response.total, met)
        self._came += self._shown(result, offset, now, ledger)

    def _shown(self, result: PageResult, offset: int, now: float, ledger: LedgerView) -> int:
        """A page of the list showed these jobs; how many of them are new."""
        page = result.response.page
        if ledger.ever_listed:
            self._note_fresh(result)
        if page.has_next or page.items >= result.response.limit:
            self._per_page = max(2, page.items)
        self._saw(result, now, ledger)
        for position, job in enumerate(page.jobs, start=offset):
            if self._ordered and self._freshness.seen(job.id):
                self._positions.put(job.id, self._depth(position))
        return sum(job.id not in result.known for job in page.jobs)

    def _saw(self, result: PageResult, now: float, ledger: LedgerView) -> None:
        """A page was a look at these jobs, whatever becomes of the pages after it."""
        for job in result.response.page.jobs:
            if job.rank < FINAL_RANK or job.id in ledger.live or job.id not in result.known:
                self._freshness.saw(job.id, now)

    def _note_fresh(self, result: PageResult) -> None:
        """Remember the jobs that are new, until a look came to one that was known before them."""
        if self._order is not Order.NONE:
            self._fresh.update(job.id for job in result.response.page.jobs if job.id not in result.known)

    def _depth(self, position: int) -> int:
        return position if self._order is Order.NEWEST else max(0, self.size - 1 - position)

    def _offset(self, depth: int) -> int:
        """Where a page begins that shows the jobs from *depth* inwards."""
        return depth if self._order is Order.NEWEST else max(0, self.size - depth - self._per_page)

    # ---- watching ----

    def _scan_head(self, now: float, ledger: LedgerView) -> Phase:
        """The watched end, and on from there to a job that was known before."""
        scan = HeadScan(self._order, self.size, self._per_page, self._positions.room)
        pages: list[tuple[int, PageResult]] = []
        most = self._most_head_pages if ledger.ever_listed else _PAGES_TO_LEARN
        while scan.offset is not None and len(pages) < most:
            offset, self._head_pages = scan.offset, len(pages) + 1
            page_result = yield ListPage(offset, Priority.DISCOVERY)
            if not isinstance(page_result, PageResult):
                return
            self._note_fresh(page_result)
            self._saw(page_result, now, ledger)
            scan.take(page_result.response, {job_id for job_id in page_result.known if job_id not in self._fresh})
            pages.append((offset, page_result))
        self._size, self._total, self._most_head_pages = scan.size, scan.total, PAGES_PER_PHASE
        new = sum(job.id not in result.known for _, result in pages for job in result.response.page.jobs)
        self._positions.came(new)
        for offset, page_result in pages:
            self._came += self._shown(page_result, offset, now, ledger)
            self._read_to += page_result.response.page.items
            self._full_listing.add_seen_elsewhere([job.id for job in page_result.response.page.jobs])
        if not ledger.ever_listed:
            return
        self._fresh.clear()
        if not scan.joined:
            self._bring_forward(now)
        elif not self._urgent:
            self._freshness.closed(now, since=now)

    def _check_total(self, now: float) -> None:
        """Bring the full listing forward when the platform's total says, twice in a row, that a job went unseen."""
        if self._total is None:
            return
        came, self._came = self._came, 0
        if self._accounted is None:
            return
        may_be = self._accounted + came
        if self._total <= may_be:
            self._accounted, self._suspected = self._total, False
        elif not self._suspected:
            self._accounted, self._suspected = may_be, True
        else:
            self._accounted, self._suspected = self._total, False
            self._bring_forward(now)

    def _bring_forward(self, now: float) -> None:
        """List the account from the beginning, and as fast as may be; unless that is being done."""
        if not self._urgent:
            self._urgent = True
            self._freshness.reopen()
            self._begin_listing(FullListing(), now)

    # ---- second turn ----

    def refresh(self, now: float, ledger: LedgerView, budget: int) -> Phase:
        """Jobs that the first turn did not show, by at most *budget* requests; *ledger* as it is after that turn."""
        self._check_total(now)
        unseen = self._unseen(ledger)
        if self._large and self._ordered:
            self._asked += yield from self._probe(unseen, now, ledger, budget)
        needing_details = [
            job_record
            for job_record in ledger.live.values()
            if job_record.needs_details and job_record.operation in OPERATIONS
        ]
        needing_details.sort(key=lambda record: (-record.detail_requests_left, record.last_progress_at, record.id))
        for group in self._in_turns(self._groups(unseen), [[job_record] for job_record in needing_details], budget):
            if self._asked >= budget or self._refused:
                return
            spent = yield from self._ask_for(group, now, ledger, budget - self._asked)
            self._asked += spent
            self._results += spent * group[0].needs_details

    def _in_turns(self, unfinished: list[T], needing_details: list[T], budget: int) -> Iterator[T]:
        """Unfinished ones first; but where they take more than the *budget*, a quarter of it is for pending ones."""
        due = 0
        if len(unfinished) > budget:
            self._details_credit += budget * _FOR_DETAILS
            due = min(int(self._details_credit), len(needing_details))
        self._details_credit = min(self._details_credit - due, 1.0)
        yield from (*needing_details[:due], *unfinished, *needing_details[due:])

    def _unseen(self, ledger: LedgerView) -> list[JobRecord]:
        """Unfinished jobs that the first turn should have shown, or cannot show."""
        listing = self.listing
        if not self._large and listing is None:
            return []  # the rest of the list may show them
        return [
            record
            for record in ledger.live.values()
            if record.unfinished
            and not (self._freshness.seen(record.id) if self._large else record.id in (listing or ()))
        ]

    def _probe(
        self, unseen: Collection[JobRecord], now: float, ledger: LedgerView, budget: int
    ) -> Generator[Request, Result, int]:
        """The next pages inwards, while each shows some of the jobs of which nobody knows where they lie."""
        spent = 0
        while spent < budget and self._probes < _MOST_PROBES:
            lost = [
                record
                for record in unseen
                if not self._freshness.seen(record.id) and self._positions.of(record.id) is None
            ]
            if len(lost) <= _WORTH_A_PAGE:
                break
            items = yield from self._page_for_jobs(max(0, self._read_to - 1), now, ledger)
            spent += 1
            found = sum(self._freshness.seen(record.id) for record in lost)
            self._probes = self._probes + 1 if found >= _WORTH_A_PAGE else _MOST_PROBES
            self._read_to += max(0, items - 1)
        return spent

    def _groups(self, unseen: Iterable[JobRecord]) -> list[list[JobRecord]]:
        """Jobs that one request can show, the group with the longest unasked one first."""
        groups: list[list[JobRecord]] = []
        deep: list[tuple[int, JobRecord]] = []
        for record in unseen:
            depth = self._positions.of(record.id)
            if depth is not None and depth >= self._read_to - _SLACK:
                deep.append((depth, record))
            elif not self._freshness.seen(record.id):
                self._positions.drop(record.id)  # a page that should have shown it did not
                groups.append([record])
        ends = -1
        for depth, record in sorted(deep, key=lambda each: each[0]):
            if depth <= ends:
                groups[-1].append(record)
            else:
                groups.append([record])
                ends = depth + max(1, self._per_page - 2 * _SLACK) - 1
        groups.sort(key=lambda group: min(self._freshness.last_tried(record.id) for record in group))
        return groups

    def _ask_for(
        self, group: list[JobRecord], now: float, ledger: LedgerView, budget: int
    ) -> Generator[Request, Result, int]:
        """One group: by a page where that is cheaper or the only way, and one by one whatever it did not show."""
        spent = 0
        group = [record for record in group if record.needs_details or not self._freshness.seen(record.id)]
        depths = [depth for record in group if (depth := self._positions.of(record.id)) is not None]
        if depths and (len(group) >= _WORTH_A_PAGE or group[0].operation not in OPERATIONS):
            yield from self._page_for_jobs(max(0, min(depths) - _SLACK), now, ledger)
            spent += 1
            group = [record for record in group if not self._freshness.seen(record.id)]
            for record in group:
                self._positions.drop(record.id)
        for record in group:
            if self._refused or spent >= budget:
                break
            if record.operation in OPERATIONS:
                self._freshness.tried(record.id, now)
                result = yield GetJob(Operation(record.operation), record.id)
                self._refused = result is None
                spent += 1
                depth = self._positions.of(record.id)
                if isinstance(result, JobResult) and result.conclusive:
                    self._freshness.saw(record.id, now)
                elif record.unfinished and depth is not None and spent < budget and not self._refused:
                    yield from self._page_for_jobs(max(0, depth - _SLACK), now, ledger)
                    spent += 1
        return spent

    def _page_for_jobs(self, depth: int, now: float, ledger: LedgerView) -> Generator[Request, Result, int]:
        """The page that shows the jobs from *depth* inwards; how many it has."""
        offset = self._offset(depth)
        result = yield ListPage(offset, Priority.REFRESH)
        if not isinstance(result, PageResult):
            self._refused = True
            return 0
        self._came += self._shown(result, offset, now, ledger)
        self._full_listing.add_seen_elsewhere([job.id for job in result.response.page.jobs])
        self._hold_to_order(result, offset, now, ledger)
        return result.response.page.items

    # ---- third turn ----

    def continue_listing(self, now: float, ledger: LedgerView) -> Phase:
        """The next slices of the full listing of a large account."""
        if not self._large:
            return
        for _ in range(self._slices(now)):
            offset = self._full_listing.offset
            if offset is None:
                return
            result = yield ListPage(offset, Priority.BACKGROUND)
            if not isinstance(result, PageResult):
                self._refused = True
                return
            self._read_listing_page(result, now, ledger)
            self._hold_to_order(result, offset, now, ledger)

    def _slices(self, now: float) -> int:
        """How many pages are due, for the listing to be read evenly over its interval."""
        elapsed, self._paced_at = now - self._paced_at, now
        if self.hurried or self._due is None:
            self._credit = 0.0
            return SLICES_PER_PHASE
        left = max(1.0, (self.size - (self._full_listing.offset or 0)) / self._listing_step())
        self._credit += left * min(1.0, elapsed / max(self._due - now, 1.0))
        pages = min(int(self._credit), SLICES_PER_PHASE)
        self._credit = min(self._credit - pages, PAGES_PER_PHASE)
        return pages

    def _listing_step(self) -> float:
        """Jobs by which a page brings the walk on, as it went so far: some are read again where the list moves."""
        if self._full_listing.pages < _PAGES_TO_LEARN or not self._full_listing.offset:
            return self._per_page - 1
        return self._full_listing.offset / self._full_listing.pages

    def _hold_to_order(self, result: PageResult, offset: int, now: float, ledger: LedgerView) -> None:
        """Give up the order when a page shows an unknown job farther in than the watched one."""
        if not (ledger.ever_listed and self._ordered):
            return
        if any(
            job.id not in result.known and self._depth(position) >= self._per_page
            for position, job in enumerate(result.response.page.jobs, start=offset)
        ):
            self._give_up_order(now)

    def _give_up_order(self, now: float) -> None:
        self._order = Order.NONE
        self._refutations = min(_MOST_REFUTATIONS, max(1, 2 * self._refutations))
        self._listings_required = self._refutations
        self._positions, self._probes = JobPositions(), 0
        self._fresh.clear()
        self._bring_forward(now)

    # ---- after each turn ----

    def settle(self, now: float, *, written: bool, failed: bool) -> None:
        """What the turns saw was folded; *written* whether it is committed, *failed* whether an answer was bad."""
        full_listing = self._full_listing
        if not written:
            self.forget(now)
        elif full_listing.ended:
            if full_listing.complete:
                self._listed(now, len(full_listing.listing) + full_listing.unreadable)
            self._begin_listing(full_listing.after(), now)
        elif failed and not self._large and full_listing.pages <= PAGES_PER_PHASE:
            # One bad page shall not hide the pages before it; but a walk this long would never end so.
            self._begin_listing(FullListing(), now)

    def cut_short(self) -> None:
        """The allowance ended the first turn: the next is to fit, and what it misses is left to the listing."""
        self._most_head_pages = max(1, self._head_pages // 2)

    def forget(self, now: float) -> None:
        """What the turns saw is not counted: a walk stands for jobs that are, so it begins anew."""
        self._begin_listing(FullListing(), now)
        self._positions, self._probes = JobPositions(), 0
        self._came = 0

    def _listed(self, now: float, jobs: int) -> None:
        """A listing is complete."""
        began = self._listing_began
        if not (self._large and self._ordered):
            self._fresh.clear()
        shown = self._order_detector.order
        if not self._large:
            self._order = shown
        elif self._ordered:
            if shown not in {self._order, Order.UNKNOWN}:
                self._give_up_order(now)
        else:
            self._listings_required -= 1
            believed = shown in {Order.NEWEST, Order.OLDEST} and self._listings_required <= 0
            self._order = shown if believed else Order.NONE
        # The total may count what the list does not show: once that has been looked for, it is believed.
        self._accounted = max(jobs, self.size) if self._urgent or self._full_listing.fewer_than_total else jobs
        self._size, self._came, self._suspected, self._urgent = jobs, 0, False, False
        self._due = now + _AHEAD * self._interval
        self._freshness.listed(now, began, since=now if self._ordered and self._large else began)

    def _begin_listing(self, full_listing: FullListing, now: float) -> None:
        self._full_listing = full_listing
        self._listing_began = now
        self._order_detector = OrderDetector()

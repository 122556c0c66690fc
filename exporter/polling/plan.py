"""What to request next for one account. Pure: results go in, requests come out; no clock, no socket, no state file.

A poll has three phases. What the first two see is counted and published before the third begins.

1.  :meth:`PollPlan.discover` finds new jobs. It lists a small account of up to six pages in full. Of a larger account
    it reads the *head pages*.
2.  :meth:`PollPlan.refresh` checks unfinished jobs that those pages did not show, by the fewest requests that cover
    them. It also requests finished jobs that need details.
3.  :meth:`PollPlan.continue_listing` reads the next pages of a large account's full listing.

Incremental polling
===================

A list of 100,000 jobs is 1,000 pages, which is all that the platform allows a user in five minutes. But new jobs appear
at one end of the list, its head. Which end that is, is not documented. The plan infers it and checks it:

*   **Detect the order.** If at least 90 % of neighbouring jobs on the pages read so far are sorted by submission time,
    the list is newest-first or oldest-first. Otherwise the account cannot be polled incrementally and is listed in full
    as often as the allowance permits.
*   **Scan the head.** Each poll reads from the head inwards until a page ends in a job that was known before. This
    misses no job that appeared at the head, however many appeared at once.
*   **Check the total.** If the platform's total exceeds the known jobs twice in a row, a job appeared elsewhere. The
    plan brings the full listing forward.
*   **Check the order.** If a page deeper in the list shows an unknown job, the plan also gives up the order. Full
    listings must then show an order again, twice as many each time.
*   **List in full anyway.** What the head scan misses, the next full listing finds, in any order. The ledger's rules
    alone decide what is counted. So a wrong assumption here cannot count a job twice or leave it out permanently.

A job's depth is its distance from the head, since new jobs alone change that, and these are counted.

Property tests hold the plan to these promises, with lists in every order that change between any two requests. Each
finish is counted once, within one full listing of its end at the latest. No window has more requests than the share.
"""

from collections.abc import Collection, Iterable, Mapping
from enum import Enum

from exporter.api.models import FINAL_RANK, Priority
from exporter.counting.values import JobRecord, Retry
from exporter.polling.discovery import HeadProgress, TotalCheck, head_scan
from exporter.polling.freshness import FreshnessTracker
from exporter.polling.full_listing import FullListing, ListingSchedule
from exporter.polling.ordering import PAGES_TO_LEARN, JobPositions, ListShape, Order, OrderDetector, OrderTrust
from exporter.polling.refresh import Refresh
from exporter.polling.requests import PAGES_PER_PHASE, ListPage, PageResult, Phase, Tick


class Mode(Enum):
    """How an account is polled."""

    FULL = "small: listed in full at every poll"
    LEARNING = "large: its order is not known yet"
    INCREMENTAL = "large: the head at every poll, the rest in the background"
    UNORDERED = "large, without an order: listed in full as often as the allowance permits"


class PollPlan:
    """One account's plan. Times are monotonic seconds."""

    def __init__(self, full_listing_interval: float, now: float, *, incremental: bool = True) -> None:
        """A plan that knows nothing yet.

        Args:
            full_listing_interval: how old, in seconds, a complete listing of a large account may become.
            now: monotonic seconds.
            incremental: whether a large account is polled incrementally, or listed in full like a small one.
        """
        self._trust = OrderTrust()
        self._shape = ListShape(self._trust, incremental=incremental)
        self._freshness = FreshnessTracker(now)
        self._positions = JobPositions()
        self._head = HeadProgress()
        self._total = TotalCheck()
        self._schedule = ListingSchedule(full_listing_interval, now)
        self._refresh = Refresh(
            self._shape, self._positions, self._freshness, self._head, page_shown=self._refresh_page_shown
        )
        self._resumed = False
        self._begin_listing(FullListing(), now)

    def use_full_listing_interval(self, seconds: float) -> None:
        """Change how old a complete listing of a large account may become."""
        self._schedule.use_interval(seconds)

    # ---- status ----

    @property
    def mode(self) -> Mode:
        """How the account is polled, as far as is known now."""
        if not self._shape.large:
            return Mode.FULL
        if self._trust.known:
            return Mode.INCREMENTAL
        return Mode.LEARNING if self._trust.order is Order.UNKNOWN else Mode.UNORDERED

    @property
    def incremental(self) -> bool:
        """Whether the account is too large to be listed in full at every poll."""
        return self.mode is not Mode.FULL

    @property
    def head_known(self) -> bool:
        """Whether the head of a large account's list is known."""
        return self.mode is Mode.INCREMENTAL

    @property
    def order(self) -> Order:
        """The order of the list, as far as it is known and trusted."""
        return self._trust.order

    @property
    def size(self) -> int:
        """How many jobs the list has, as the platform last reported or as last counted."""
        return self._shape.size

    @property
    def pages(self) -> int:
        """Requests of one full listing."""
        return self._shape.pages

    @property
    def pages_per_discovery(self) -> int:
        """Requests of a poll's first phase, as last seen."""
        return self._head.pages if self.incremental else self.pages

    @property
    def requests_per_poll(self) -> int:
        """Requests of a poll's first two phases, as last made; without those for details, which are made once a job."""
        return self.pages_per_discovery + self._refresh.budget.spent_on_unfinished

    @property
    def hurried(self) -> bool:
        """Whether a large account's full listing is read as fast as the allowance permits.

        That is so for the first one, for one that was brought forward, and while the head is not known.
        """
        return self.incremental and (self._schedule.expedited or self._schedule.first or not self.head_known)

    @property
    def goes_on(self) -> bool:
        """Whether this poll should read more pages of the full listing of a large account."""
        may_go_on = self.incremental and not self._refresh.budget.exhausted
        return may_go_on and (self.hurried or self._schedule.page_due)

    @property
    def half_read(self) -> bool:
        """Whether a small account's list has not been read to its end yet."""
        return not self.incremental and self._full_listing.pages > 0

    @property
    def listing(self) -> Collection[str] | None:
        """The ids on the list, if the last phase completed a full listing; until :meth:`settle`."""
        return self._full_listing.listing if self._full_listing.complete else None

    def delay(self, now: float, live: Mapping[str, JobRecord]) -> float:
        """The detection delay: the longest time since an unfinished job, or the head, was last checked; seconds."""
        return self._freshness.delay(now, (job_id for job_id, record in live.items() if record.unfinished))

    # ---- phase 1: discover ----

    def discover(self, tick: Tick) -> Phase:
        """Request the pages that show new jobs."""
        ledger = tick.ledger
        self._freshness.begin([job_id for job_id, record in ledger.live.items() if record.unfinished])
        self._positions.keep(ledger.live.keys())
        self._refresh.begin_poll(ledger.live.keys())
        self._total.reported, self._head.read_to = None, 0
        if not self._resumed:
            self._resume(tick)
        self._shape.classify()
        if self.mode in {Mode.FULL, Mode.LEARNING}:
            yield from self._list(tick)
        if self.mode is Mode.INCREMENTAL:
            yield from self._scan_head(tick)

    def _resume(self, tick: Tick) -> None:
        """Go on from what an earlier process listed: the next full listing is due when it would have been due there."""
        self._resumed = True
        self._shape.size = tick.ledger.listed
        if tick.ledger.ever_listed and tick.ledger.listing_age is not None:
            self._schedule.resume(tick.now, tick.ledger.listing_age)
            self._total.resume(tick.ledger.listed)

    def _list(self, tick: Tick) -> Phase:
        """Read the list to its end, or until it turns out to be large and its order is known."""
        for _ in range(PAGES_PER_PHASE):
            if self._full_listing.offset is None:
                return
            result = yield ListPage(self._full_listing.offset, Priority.DISCOVERY)
            if not isinstance(result, PageResult):
                return
            self._add_listing_page(result, tick)
            self._shape.classify()
            if self.mode is Mode.LEARNING:
                self._trust.learn(self._order_detector.order, self._full_listing.pages)
            if self.mode in {Mode.INCREMENTAL, Mode.UNORDERED}:
                return

    def _scan_head(self, tick: Tick) -> Phase:
        """Read from the head of the list inwards to a job that was known before."""
        scan = head_scan(self._trust.order, self._shape.size, self._shape.per_page, self._positions.room)
        pages: list[tuple[int, PageResult]] = []
        limit = self._head.limit if tick.ledger.ever_listed else PAGES_TO_LEARN
        while scan.offset is not None and len(pages) < limit:
            offset, self._head.pages = scan.offset, len(pages) + 1
            result = yield ListPage(offset, Priority.DISCOVERY)
            if not isinstance(result, PageResult):
                return
            # These hold even if a page after this one fails.
            self._head.add_new(result.new)
            self._mark_checked(result, tick)
            scan.add_page(result.response, self._head.known_before(result.known))
            pages.append((offset, result))
        self._shape.size, self._total.reported, self._head.limit = scan.size, scan.total, PAGES_PER_PHASE
        self._positions.add_arrivals(sum(len(result.new) for _, result in pages))
        for offset, result in pages:
            self._page_shown(result, offset, tick)
            self._head.read_to += result.response.page.items
            self._full_listing.add_seen_elsewhere([job.id for job in result.jobs])
        if tick.ledger.ever_listed:
            self._head.join()
            if not scan.joined:
                self._expedite_listing(tick.now)
            elif not self._schedule.expedited:
                self._freshness.mark_head_checked(tick.now, since=tick.now)

    def cut_short(self) -> None:
        """The allowance ended the first phase: make the next one fit, and leave what it misses to the full listing."""
        self._head.shorten()

    # ---- phase 2: refresh ----

    def refresh(self, tick: Tick) -> Phase:
        """Request jobs that the first phase did not show; the tick's ledger is the one after that phase."""
        if self._total.finds_missed_job():
            self._expedite_listing(tick.now)
        yield from self._refresh.run(self._unseen(tick.ledger.live.values()), tick, head_known=self.head_known)

    def _unseen(self, live: Iterable[JobRecord]) -> list[JobRecord]:
        """Unfinished jobs that the first phase should have shown, or cannot show."""
        unfinished = [record for record in live if record.unfinished]
        if self.incremental:
            return [record for record in unfinished if not self._freshness.checked(record.id)]
        if not self._full_listing.ended:
            return []  # the rest of the list may show them
        listing = self._full_listing.listing
        return [record for record in unfinished if record.id not in listing]

    def _refresh_page_shown(self, result: PageResult, offset: int, tick: Tick) -> None:
        self._page_shown(result, offset, tick)
        self._full_listing.add_seen_elsewhere([job.id for job in result.jobs])
        self._check_order(result, offset, tick)

    def unsaved_retries(self, now: float, wait_clock: float) -> Mapping[str, Retry | None]:
        """What changed, since :meth:`retries_saved`, about when jobs whose own endpoint fails are requested again."""
        return self._refresh.backoff.unsaved(now, wait_clock)

    def retries_saved(self) -> None:
        """What :meth:`unsaved_retries` returned last is committed."""
        self._refresh.backoff.saved()

    # ---- phase 3: continue the full listing ----

    def continue_listing(self, tick: Tick) -> Phase:
        """Request the next pages of the full listing of a large account."""
        if not self.incremental:
            return
        left = self._full_listing.pages_left(self._shape.size, self._shape.per_page)
        for _ in range(self._schedule.pages(tick.now, left, hurried=self.hurried)):
            offset = self._full_listing.offset
            if offset is None:
                return
            result = yield ListPage(offset, Priority.BACKGROUND)
            if not isinstance(result, PageResult):
                self._refresh.budget.exhausted = True
                return
            self._add_listing_page(result, tick)
            self._check_order(result, offset, tick)

    # ---- what a page shows ----

    def _add_listing_page(self, result: PageResult, tick: Tick) -> None:
        """Add a page to the full listing."""
        response, offset = result.response, self._full_listing.offset or 0
        if self._full_listing.pages == 0:
            self._listing_began = tick.now
        self._order_detector.add_page(result.jobs)
        self._full_listing.add_page(response)
        # The list has at least the jobs that the listing has met, even if the platform reports a lower total.
        reported = self._shape.size if response.total is None else response.total
        self._shape.size = max(reported, len(self._full_listing.ids))
        self._page_shown(result, offset, tick)

    def _page_shown(self, result: PageResult, offset: int, tick: Tick) -> None:
        """Learn from a page of the list, in any phase."""
        if tick.ledger.ever_listed and self._trust.order is not Order.NONE:
            self._head.add_new(result.new)
        self._shape.learn_page_size(result.response, offset)
        self._mark_checked(result, tick)
        if self._trust.known:
            for position, job in enumerate(result.jobs, start=offset):
                if self._freshness.checked(job.id):
                    self._positions.put(job.id, self._shape.depth(position))
        self._total.add_arrivals(len(result.new))

    def _mark_checked(self, result: PageResult, tick: Tick) -> None:
        """Mark the jobs on a page that are, or may become, unfinished ones of the ledger."""
        for job in result.jobs:
            if job.rank < FINAL_RANK or job.id in tick.ledger.live or job.id not in result.known:
                self._freshness.mark_checked(job.id, tick.now)

    def _check_order(self, result: PageResult, offset: int, tick: Tick) -> None:
        """Give up the order if a page shows an unknown job more than a page away from the head."""
        if not (tick.ledger.ever_listed and self._trust.known):
            return
        if any(
            job.id not in result.known and self._shape.depth(position) >= self._shape.per_page
            for position, job in enumerate(result.jobs, start=offset)
        ):
            self._give_up_order(tick.now)

    def _give_up_order(self, now: float) -> None:
        self._trust.refute()
        self._refresh.forget_positions()
        self._head.join()
        self._expedite_listing(now)

    def _expedite_listing(self, now: float) -> None:
        """List the account from its first page as fast as the allowance permits, unless that is under way."""
        if not self._schedule.expedited:
            self._schedule.expedited = True
            self._freshness.distrust_head()
            self._begin_listing(FullListing(), now)

    # ---- after each phase ----

    def settle(self, now: float, *, written: bool, failed: bool) -> None:
        """Go on after the ledger's reconciliation with what the phases saw.

        Args:
            now: monotonic seconds.
            written: whether the changes are committed.
            failed: whether the platform failed to respond, or its response was bad.
        """
        full_listing = self._full_listing
        if not written:
            self.forget(now)
        elif full_listing.ended:
            if full_listing.complete:
                self._complete_listing(now, full_listing)
            self._begin_listing(full_listing.after(), now)
        elif failed and not self.incremental and full_listing.pages <= PAGES_PER_PHASE:
            # One bad page must not hide the pages before it from the next poll. A listing of more pages goes on
            # instead: if it began again after each failure, it might never end.
            self._begin_listing(FullListing(), now)

    def forget(self, now: float) -> None:
        """Forget what the phases saw, which is not counted. A full listing stands for counted jobs: it begins again."""
        self._begin_listing(FullListing(), now)
        self._refresh.forget_positions()
        self._total.forget_arrivals()

    def _complete_listing(self, now: float, full_listing: FullListing) -> None:
        jobs, began = len(full_listing.listing) + full_listing.unreadable, self._listing_began
        mode, shown = self.mode, self._order_detector.order
        if mode is not Mode.INCREMENTAL:
            self._head.join()
        match mode:
            case Mode.FULL:
                self._trust.adopt(shown)
            case Mode.INCREMENTAL:
                if self._trust.contradicted_by(shown):
                    self._give_up_order(now)
            case Mode.LEARNING | Mode.UNORDERED:
                self._trust.confirm(shown)
        # The platform's total may include jobs that the list does not show. Once a listing has looked for these, the
        # total is believed.
        looked_for = self._schedule.expedited or full_listing.fewer_than_total
        self._total.completed(max(jobs, self._shape.size) if looked_for else jobs)
        self._shape.size = jobs
        self._schedule.completed(now)
        self._freshness.mark_listed(now, began, since=now if self.head_known else began)

    def _begin_listing(self, full_listing: FullListing, now: float) -> None:
        self._full_listing = full_listing
        self._listing_began = now
        self._order_detector = OrderDetector()

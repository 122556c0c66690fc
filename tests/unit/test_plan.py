"""The plan of one account's polls, against a list and a small ledger in memory."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
import pytest

from exporter.api.models import FINAL_RANK, Job, JobPage, Page, Priority
from exporter.counting.values import JobRecord
from exporter.polling.ordering import Order
from exporter.polling.plan import Mode, PollPlan
from exporter.polling.requests import (
    Exhausted,
    GetJob,
    JobResult,
    LedgerView,
    ListPage,
    PageResult,
    Phase,
    Request,
    Tick,
)
from tests.clocks import START
from tests.factories import record

HOUR = 3600.0
FULL = 6 * HOUR
POLL = 30.0


class FailedResponseError(Exception):
    """The platform's response was an error."""


@dataclass
class Account:
    """A job list, a ledger that stores every observation, and the plan between them."""

    newest_first: bool = True
    reports_total: bool = False
    inflated: int = 0
    """By how much the platform's total exceeds the listed jobs."""
    arranged: Callable[[list[Job]], list[Job]] | None = None
    """Sorts the list in another order."""
    listing_phases: int = 30
    """Most phases of the full listing in a poll: as many as the poll interval has room for."""
    written: bool = True
    per_page: int = 100
    now: float = 0.0
    jobs: list[Job] = field(default_factory=list)
    """Oldest first."""
    unlisted: set[str] = field(default_factory=set)
    made: int = 0
    listings: int = 0
    known: set[str] = field(default_factory=set)
    live: dict[str, JobRecord] = field(default_factory=dict)
    complete: bool = False
    listed_at: float | None = None
    requests: list[Request] = field(default_factory=list)
    refuses: Callable[[Request], bool] = lambda _: False
    fails: Callable[[Request], bool] = lambda _: False

    def __post_init__(self) -> None:
        self.restart()

    def is_incremental(self) -> bool:
        return self.plan.head_known

    def restart(self) -> None:
        self.plan = PollPlan(FULL, self.now)

    def add(self, jobs: int, state: str = "finished", *, operation: str = "copy", at: int | None = None) -> list[Job]:
        first = self.made + 1_000_000
        self.made += jobs
        new = [Job(str(number), operation, state) for number in range(first, first + jobs)]
        at = len(self.jobs) if at is None else at
        self.jobs[at:at] = new
        return new

    def poll(self, budget: float = 10) -> None:
        """Poll once, half a minute after the poll before."""
        self.now += POLL
        self.requests = []
        seen: dict[str, Job] = {}
        failed = False
        try:
            self._drive(self.plan.discover(Tick(self.now, self._ledger({}))), seen)
            self._drive(self.plan.refresh(Tick(self.now, self._ledger(seen), budget)), seen)
        except FailedResponseError:
            failed = True
        self._keep(seen, failed=failed)
        for _ in range(self.listing_phases):
            if failed or not self.plan.incremental:
                break
            seen = {}
            self._drive(self.plan.continue_listing(Tick(self.now, self._ledger({}))), seen)
            self._keep(seen, failed=False)
            if not self.plan.goes_on:
                break

    @property
    def delay(self) -> float:
        return self.plan.delay(self.now, self.live)

    def pages(self, priority: Priority) -> list[int]:
        """Offsets of the list pages that the last poll requested."""
        pages = [request for request in self.requests if isinstance(request, ListPage)]
        return [request.offset for request in pages if request.priority is priority]

    @property
    def single_jobs(self) -> list[str]:
        """Jobs that the last poll requested by their own endpoints."""
        return [request.job_id for request in self.requests if isinstance(request, GetJob)]

    def _ledger(self, seen: Mapping[str, Job]) -> LedgerView:
        age = None if self.listed_at is None else self.now - self.listed_at
        return LedgerView(self.live | self._unfinished(seen.values()), len(self.known), self.complete, age)

    def _unfinished(self, jobs: Iterable[Job]) -> dict[str, JobRecord]:
        # A finished job with files unaccounted for settles first.
        return {
            job.id: record(job)
            for job in jobs
            if job.rank < FINAL_RANK or ((job.completed or 0) < (job.total or 0) and job.id not in self.known)
        }

    def _keep(self, seen: Mapping[str, Job], *, failed: bool) -> None:
        if self.written:
            self.live |= self._unfinished(seen.values())
            self.live = {
                job_id: record
                for job_id, record in self.live.items()
                if job_id not in seen or self._unfinished([seen[job_id]])
            }
            self.known |= seen.keys()
            if self.plan.listing is not None:
                self.complete, self.listed_at = True, self.now
                self.listings += 1
        self.plan.settle(self.now, written=self.written, failed=failed)

    def _drive(self, phase: Phase, seen: dict[str, Job]) -> None:
        try:
            request = next(phase)
            while True:
                self.requests.append(request)
                if self.fails(request):
                    phase.close()
                    raise FailedResponseError
                request = phase.send(Exhausted() if self.refuses(request) else self._result(request, seen))
        except StopIteration:
            return

    def _result(self, request: Request, seen: dict[str, Job]) -> PageResult | JobResult:
        if not isinstance(request, ListPage):
            seen.update((job.id, job) for job in self.jobs if job.id == request.job_id)
            return JobResult()
        listed = [job for job in self.jobs if job.id not in self.unlisted]
        if self.arranged is not None:
            listed = self.arranged(listed)
        elif self.newest_first:
            listed.reverse()
        part = listed[request.offset : request.offset + self.per_page]
        known = {job.id for job in part if job.id in self.known or job.id in seen}
        seen.update((job.id, job) for job in part)
        page = Page(tuple(part), len(part), {}, len(part) - 1, has_next=False)
        total = len(listed) + self.inflated if self.reports_total else None
        return PageResult(JobPage(page, None, total, self.per_page), known)


def polled_incrementally(
    *, newest_first: bool = True, reports_total: bool = False, jobs: int = 2000, account: Account | None = None
) -> Account:
    """A large account whose order is known and whose first listing is complete."""
    if account is None:
        account = Account(newest_first=newest_first, reports_total=reports_total)
        account.add(jobs)
    while not account.complete:
        account.poll()
    account.poll()
    assert account.plan.head_known
    return account


BOTH_ORDERS = pytest.mark.parametrize("newest_first", [True, False])


@BOTH_ORDERS
def test_first_poll_discovers_a_burst_of_the_time_before_the_restart(newest_first: bool) -> None:  # noqa: FBT001  # a table's column
    account = polled_incrementally(newest_first=newest_first)
    burst = {job.id for job in account.add(350)}
    account.restart()

    account.poll()

    assert burst <= account.known
    assert account.plan.order is (Order.NEWEST if newest_first else Order.OLDEST)


@BOTH_ORDERS
def test_next_poll_discovers_the_rest_of_a_burst_after_a_failed_page(newest_first: bool) -> None:  # noqa: FBT001  # a table's column
    account = polled_incrementally(newest_first=newest_first)
    burst = {job.id for job in account.add(350)}
    account.fails = lambda _: len(account.requests) == 2
    account.poll()
    account.fails = lambda _: False

    account.poll()

    assert burst <= account.known
    assert account.delay <= 2 * POLL


@BOTH_ORDERS
def test_jobs_seen_before_a_failed_page_count_as_checked(newest_first: bool) -> None:  # noqa: FBT001  # a table's column
    account = polled_incrementally(newest_first=newest_first)
    for _ in range(100):
        account.poll()
    account.add(350, "running")
    account.fails = lambda _: len(account.requests) == 3

    account.poll()

    assert account.live
    assert account.delay <= 2 * POLL


@pytest.mark.parametrize("jobs", [20, 2000])
def test_job_that_settles_when_first_seen_counts_as_checked(jobs: int) -> None:
    account = Account()
    account.add(jobs)
    for _ in range(200):
        account.poll()
    settling = account.add(1)[0]
    account.jobs[-1] = msgspec.structs.replace(settling, total=2, completed=1)

    account.poll(budget=0)

    assert settling.id in account.live
    assert account.delay <= POLL


def shuffled(jobs: list[Job]) -> list[Job]:
    """Return the jobs in an order without a rule, but always the same."""
    return sorted(jobs, key=lambda job: int(job.id) * 2_654_435_761 % 1_000_003)


def with_running_apart(jobs: int, apart: int = 110) -> tuple[Account, list[str]]:
    """An account polled incrementally, with unfinished jobs that need a request each."""
    account = Account()
    running = []
    account.add(400)
    for _ in range(jobs):
        running += [job.id for job in account.add(1, "running")]
        account.add(apart)
    account.add(400)
    return polled_incrementally(account=account), running


# ---- small and large ----


def test_account_of_six_pages_is_listed_in_full_at_every_poll() -> None:
    account = Account()
    account.add(600)
    account.poll()

    account.poll()

    assert not account.plan.incremental
    assert account.pages(Priority.DISCOVERY) == [0, 99, 198, 297, 396, 495, 594]
    assert account.listings == 2


def test_account_of_more_than_six_pages_is_polled_incrementally() -> None:
    account = polled_incrementally(jobs=601)

    assert account.plan.incremental
    assert account.pages(Priority.DISCOVERY) == [0]


@pytest.mark.parametrize(("jobs", "incremental"), [(401, True), (400, False)])
def test_account_that_shrank_to_four_pages_is_listed_in_full_again(jobs: int, incremental: bool) -> None:  # noqa: FBT001  # a table's column
    account = polled_incrementally(reports_total=True, jobs=700)
    del account.jobs[: 700 - jobs]

    for _ in range(3):
        account.poll()

    assert account.plan.incremental is incremental


def test_mode_follows_from_size_and_order() -> None:
    small, large, unordered = Account(), Account(), Account(arranged=shuffled)
    small.add(600)
    large.add(2000)
    unordered.add(2000)
    for account in (small, large, unordered):
        account.poll()

    assert [account.plan.mode for account in (small, large, unordered)] == [Mode.FULL, Mode.INCREMENTAL, Mode.UNORDERED]


def test_mode_of_a_large_account_is_learning_until_its_order_is_known() -> None:
    account = polled_incrementally()
    account.restart()
    next(account.plan.discover(Tick(account.now, LedgerView({}, 2000, ever_listed=True, listing_age=60.0))))

    assert account.plan.mode is Mode.LEARNING


# ---- the order ----


def test_order_of_ids_that_are_no_numbers_comes_from_the_start_times() -> None:
    account = Account()
    account.jobs = [Job(f"job-{number}", "copy", "finished", started_on=float(number)) for number in range(2000)]

    assert polled_incrementally(account=account).plan.order is Order.NEWEST


def test_ids_that_are_no_numbers_show_no_order_without_start_times() -> None:
    account = Account(listing_phases=1)
    account.jobs = [Job(f"job-{number}", "copy", "submitted") for number in range(2000)]

    account.poll()

    assert account.plan.order is Order.NONE


def test_large_account_without_an_order_is_always_listed_in_full() -> None:
    account = Account(arranged=shuffled, listing_phases=1)
    account.add(2000)

    for _ in range(10):
        account.poll()

    assert account.plan.order is Order.NONE
    assert account.plan.hurried
    assert account.listings >= 3


def test_head_scan_reads_on_to_a_job_known_before() -> None:
    account = polled_incrementally()
    account.add(350)

    account.poll()

    assert account.pages(Priority.DISCOVERY) == [0, 99, 198, 297]


def test_head_scan_at_the_end_of_the_list_reads_a_burst_within_six_pages() -> None:
    account = polled_incrementally(newest_first=False)
    burst = {job.id for job in account.add(350)}

    account.poll()

    assert burst <= account.known
    assert len(account.pages(Priority.DISCOVERY)) <= 6


# ---- the total ----


def test_total_brings_the_full_listing_forward_when_too_high_twice() -> None:
    account = polled_incrementally(reports_total=True)
    elsewhere = account.add(1, at=1000)[0].id
    account.poll()
    assert elsewhere not in account.known

    account.poll()

    assert elsewhere in account.known


def test_jobs_that_leave_the_list_bring_no_full_listing_forward() -> None:
    account = polled_incrementally(reports_total=True)
    del account.jobs[:50]

    for _ in range(3):
        account.poll()
        assert not account.pages(Priority.BACKGROUND)


def test_total_above_the_listed_jobs_is_believed_after_a_full_listing() -> None:
    account = polled_incrementally(reports_total=True)
    account.inflated = 3
    account.poll()
    account.poll()
    assert len(account.pages(Priority.BACKGROUND)) > 20

    for _ in range(5):
        account.poll()
        assert len(account.pages(Priority.BACKGROUND)) <= 1


# ---- a refuted order ----


def listings_after_a_refutation(account: Account) -> int:
    """How many full listings it takes to trust the order again after an unknown job deep in the list."""
    account.add(1, at=1000)
    while account.is_incremental():
        account.poll()
    before = account.listings
    while not account.is_incremental():
        account.poll()
    return account.listings - before


def test_each_refutation_of_the_order_requires_twice_as_many_listings() -> None:
    account = polled_incrementally()
    account.listing_phases = 1

    assert [listings_after_a_refutation(account) for _ in range(3)] == [1, 2, 4]


# ---- unfinished jobs ----


def test_unfinished_jobs_less_than_a_page_apart_are_refreshed_by_one_page() -> None:
    account = Account()
    account.add(1000)
    account.add(5, "running")
    account.add(1000)
    polled_incrementally(account=account)

    account.poll()

    assert len(account.pages(Priority.REFRESH)) == 1
    assert not account.single_jobs
    assert account.delay <= POLL


def test_unfinished_job_on_its_own_is_refreshed_by_its_endpoint() -> None:
    account, running = with_running_apart(1, apart=600)

    account.poll()

    assert account.single_jobs == running
    assert not account.pages(Priority.REFRESH)


def test_job_of_an_operation_without_an_endpoint_is_refreshed_by_a_page() -> None:
    account = Account()
    account.add(1000)
    account.add(1, "running", operation="archive")
    account.add(1000)
    polled_incrementally(account=account)

    account.poll()

    assert len(account.pages(Priority.REFRESH)) == 1
    assert not account.single_jobs
    assert account.delay <= POLL


def test_jobs_missing_from_their_page_are_requested_in_the_same_poll() -> None:
    account = Account()
    account.add(1000)
    running = [job.id for job in account.add(3, "running")]
    account.add(1000)
    polled_incrementally(account=account)
    account.unlisted = set(running[:2])

    account.poll()

    assert len(account.pages(Priority.REFRESH)) == 1
    assert sorted(account.single_jobs) == running[:2]


def test_restart_probes_the_next_page_for_jobs_of_unknown_position() -> None:
    account = Account()
    account.add(2000)
    account.add(5, "running")
    account.add(120)
    polled_incrementally(account=account)
    account.restart()
    account.poll()  # detects the order, and reads no further

    account.poll()

    assert not account.single_jobs
    assert account.delay <= POLL


def test_jobs_are_still_refreshed_by_a_page_after_many_failed_commits() -> None:
    account = Account()
    account.add(2000)
    account.add(5, "running")
    account.add(120)
    polled_incrementally(account=account)
    account.written = False
    for _ in range(20):
        account.poll()
    account.written = True

    account.poll()

    assert not account.single_jobs
    assert account.delay <= POLL


# ---- the budget ----


def test_jobs_beyond_the_budget_take_turns() -> None:
    account, running = with_running_apart(20)
    asked: list[str] = []

    for _ in range(4):
        account.poll(budget=5)
        assert len(account.single_jobs) == 5
        asked += account.single_jobs

    assert sorted(asked) == running


def test_job_whose_endpoint_never_responds_does_not_starve_the_others() -> None:
    account, running = with_running_apart(6)
    account.fails = lambda request: isinstance(request, GetJob) and request.job_id == running[0]
    asked: set[str] = set()

    for _ in range(6):
        account.poll(budget=2)
        asked.update(account.single_jobs)

    assert asked == set(running)


def test_details_get_a_quarter_of_a_budget_that_unfinished_jobs_exceed() -> None:
    account, _ = with_running_apart(12)
    wanted = [job.id for job in account.jobs[10:16]]
    account.live |= {job.id: record(job, detail_requests_left=1, outcome="failed") for job in account.jobs[10:16]}

    asked = []
    for _ in range(3):
        account.poll(budget=8)
        assert len(account.single_jobs) == 8
        asked.append(sum(job_id in wanted for job_id in account.single_jobs))

    assert asked == [3, 2, 1]  # a quarter of eight, and one more from earlier polls' credit


def test_details_of_a_new_failure_come_before_those_of_existing_jobs() -> None:
    account, _ = with_running_apart(0)
    new, *existing = account.jobs[10:40]
    account.live = {job.id: record(job, detail_requests_left=50, outcome="failed", history=True) for job in existing}
    account.live[new.id] = record(new, detail_requests_left=50, outcome="failed", last_progress_at=START + 1000)

    account.poll(budget=1)

    assert account.single_jobs == [new.id]


def test_details_are_requested_while_unfinished_jobs_take_the_only_request_of_each_poll() -> None:
    account, _ = with_running_apart(1)
    [finished] = account.jobs[10:11]
    account.live[finished.id] = record(finished, detail_requests_left=1, outcome="failed")
    asked: list[str] = []

    for _ in range(5):
        account.poll(budget=1)
        asked += account.single_jobs

    assert len(asked) == 5
    assert finished.id in asked


def test_budget_of_less_than_a_request_is_saved_up() -> None:
    account, _ = with_running_apart(3)
    made = []

    for _ in range(9):
        account.poll(budget=0.25)
        made.append(len(account.single_jobs))

    assert made == [0, 0, 0, 1, 0, 0, 0, 1, 0]


def test_exhausted_allowance_ends_the_refresh() -> None:
    account, _ = with_running_apart(5)
    account.refuses = lambda request: isinstance(request, GetJob)

    account.poll()

    assert len(account.single_jobs) == 1


def test_exhausted_allowance_ends_the_full_listing_of_this_poll() -> None:
    account = Account()
    account.add(2000)
    account.refuses = lambda request: isinstance(request, ListPage) and request.priority is Priority.BACKGROUND

    account.poll()

    assert len(account.pages(Priority.BACKGROUND)) == 1
    assert account.plan.hurried
    assert not account.plan.goes_on


# ---- the full listing ----


def test_hurried_listing_reads_ten_pages_per_phase() -> None:
    account = Account(listing_phases=1)
    account.add(5000)

    account.poll()

    assert len(account.pages(Priority.BACKGROUND)) == 10


def test_full_listing_is_spread_evenly_over_its_interval() -> None:
    account = polled_incrementally(jobs=10_000)
    listings, polls = account.listings, int(FULL / POLL)
    pages = []

    for _ in range(polls):
        account.poll()
        pages.append(len(account.pages(Priority.BACKGROUND)))

    assert max(pages) <= 1
    assert 45 <= sum(pages[: polls // 2]) <= 60
    assert account.listings == listings + 1


# ---- the detection delay ----


def test_delay_of_a_small_account_is_at_most_a_poll_interval() -> None:
    account = Account()
    account.add(20, "running")
    for _ in range(5):
        account.poll()

    assert account.delay <= POLL


def test_delay_shows_an_unfinished_job_that_the_budget_left_out() -> None:
    account, _ = with_running_apart(3)
    account.poll(budget=3)
    for _ in range(4):
        account.poll(budget=0)

    assert account.delay == 4 * POLL


def test_delay_without_an_order_counts_since_the_last_listing_began() -> None:
    account = Account(arranged=shuffled, listing_phases=1)
    account.add(5000)
    while not account.complete:
        account.poll()
    account.poll()
    account.poll()

    assert account.delay >= 2 * POLL


def test_delay_counts_since_the_last_listing_after_a_missed_job() -> None:
    account = polled_incrementally(reports_total=True)
    listed_at = account.listed_at
    assert listed_at is not None
    for _ in range(20):
        account.poll()
    assert account.delay <= POLL
    account.add(1, at=1000)
    account.poll()

    account.poll()

    assert account.delay >= account.now - listed_at - POLL


# ---- failed commits ----


def test_full_listing_begins_again_after_a_failed_commit() -> None:
    account = Account(listing_phases=1)
    account.add(5000)
    account.poll()
    account.written = False
    account.poll()
    account.written = True

    account.poll()

    assert account.pages(Priority.BACKGROUND)[0] == 0


def test_unfinished_job_is_observed_again_after_a_failed_commit() -> None:
    account = polled_incrementally()
    burst = {job.id for job in account.add(150, "running")}
    account.written = False
    account.poll()
    assert not burst & account.known
    account.written = True

    account.poll()

    assert burst <= account.live.keys()

"""What to ask next: one account's plan, asked by hand."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
import pytest

from exporter.api.models import FINAL_RANK, Job, JobPage, Page, Priority
from exporter.counting.values import JobRecord
from exporter.polling.ordering import Order
from exporter.polling.plan import PollPlan
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
from tests.factories import record

HOUR = 3600.0
FULL = 6 * HOUR
POLL = 30.0


class TornError(Exception):
    """An answer that failed."""


@dataclass
class Account:
    """A list, a ledger that keeps what it is shown, and the plan between them."""

    newest_first: bool = True
    told: bool = False
    inflated: int = 0
    """By how much the platform's total is more than it lists."""
    arranged: Callable[[list[Job]], list[Job]] | None = None
    """How the list is ordered, where there is another rule."""
    turns: int = 30
    """Most turns of slices in a poll: as long as the poll interval lets it."""
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
    asked: list[Request] = field(default_factory=list)
    refuses: Callable[[Request], bool] = lambda _: False
    fails: Callable[[Request], bool] = lambda _: False

    def __post_init__(self) -> None:
        self.restart()

    def is_watched(self) -> bool:
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

    def poll(self, budget: int = 10) -> None:
        """One poll, with slices, half a minute after the one before."""
        self.now += POLL
        self.asked = []
        seen: dict[str, Job] = {}
        failed = False
        try:
            self._drive(self.plan.discover(Tick(self.now, self._ledger({}))), seen)
            self._drive(self.plan.refresh(Tick(self.now, self._ledger(seen), budget)), seen)
        except TornError:
            failed = True
        self._keep(seen, failed=failed)
        for _ in range(self.turns):
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
        """Offsets that the last poll asked for."""
        pages = [request for request in self.asked if isinstance(request, ListPage)]
        return [request.offset for request in pages if request.priority is priority]

    @property
    def singly(self) -> list[str]:
        """Jobs whose own endpoint the last poll asked."""
        return [request.job_id for request in self.asked if isinstance(request, GetJob)]

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
                self.asked.append(request)
                if self.fails(request):
                    phase.close()
                    raise TornError
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
        total = len(listed) + self.inflated if self.told else None
        return PageResult(JobPage(page, None, total, self.per_page), known)


def watched(
    *, newest_first: bool = True, told: bool = False, jobs: int = 2000, account: Account | None = None
) -> Account:
    """A large account whose order is known and whose first listing is complete."""
    if account is None:
        account = Account(newest_first=newest_first, told=told)
        account.add(jobs)
    while not account.complete:
        account.poll()
    account.poll()
    assert account.plan.head_known
    return account


BOTH_ORDERS = pytest.mark.parametrize("newest_first", [True, False])


@BOTH_ORDERS
def test_a_burst_while_the_process_was_away_is_read_whole_at_its_first_poll(newest_first: bool) -> None:  # noqa: FBT001  # a table's column
    account = watched(newest_first=newest_first)
    burst = {job.id for job in account.add(350)}
    account.restart()

    account.poll()

    assert burst <= account.known
    assert account.plan.order is (Order.NEWEST if newest_first else Order.OLDEST)


@BOTH_ORDERS
def test_a_burst_of_which_a_page_failed_is_read_on_at_the_next_poll(newest_first: bool) -> None:  # noqa: FBT001  # a table's column
    account = watched(newest_first=newest_first)
    burst = {job.id for job in account.add(350)}
    account.fails = lambda _: len(account.asked) == 2
    account.poll()
    account.fails = lambda _: False

    account.poll()

    assert burst <= account.known
    assert account.delay <= 2 * POLL


@BOTH_ORDERS
def test_jobs_met_by_a_look_that_was_torn_were_looked_at_by_it(newest_first: bool) -> None:  # noqa: FBT001  # a table's column
    account = watched(newest_first=newest_first)
    for _ in range(100):
        account.poll()
    account.add(350, "running")
    account.fails = lambda _: len(account.asked) == 3

    account.poll()

    assert account.live
    assert account.delay <= 2 * POLL


@pytest.mark.parametrize("jobs", [20, 2000])
def test_a_job_that_settles_when_it_is_first_seen_was_looked_at_then(jobs: int) -> None:
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
    """An order without a rule, but always the same."""
    return sorted(jobs, key=lambda job: int(job.id) * 2_654_435_761 % 1_000_003)


def with_running_apart(jobs: int, apart: int = 110) -> tuple[Account, list[str]]:
    """A watched account with unfinished jobs of which each needs a request of its own."""
    account = Account()
    running = []
    account.add(400)
    for _ in range(jobs):
        running += [job.id for job in account.add(1, "running")]
        account.add(apart)
    account.add(400)
    return watched(account=account), running


# ---- small and large ----


def test_an_account_of_six_pages_is_listed_whole_at_every_poll() -> None:
    account = Account()
    account.add(600)
    account.poll()

    account.poll()

    assert not account.plan.incremental
    assert account.pages(Priority.DISCOVERY) == [0, 99, 198, 297, 396, 495, 594]
    assert account.listings == 2


def test_an_account_of_more_than_six_pages_is_watched() -> None:
    account = watched(jobs=601)

    assert account.plan.incremental
    assert account.pages(Priority.DISCOVERY) == [0]


@pytest.mark.parametrize(("jobs", "watching"), [(401, True), (400, False)])
def test_a_watched_account_is_small_again_at_four_pages(jobs: int, watching: bool) -> None:  # noqa: FBT001  # a table's column
    account = watched(told=True, jobs=700)
    del account.jobs[: 700 - jobs]

    for _ in range(3):
        account.poll()

    assert account.plan.incremental is watching


# ---- the order ----


def test_ids_that_are_no_numbers_are_ordered_by_the_start_of_their_jobs() -> None:
    account = Account()
    account.jobs = [Job(f"job-{number}", "copy", "finished", started_on=float(number)) for number in range(2000)]

    assert watched(account=account).plan.order is Order.NEWEST


def test_ids_that_are_no_numbers_and_never_started_show_no_order() -> None:
    account = Account(turns=1)
    account.jobs = [Job(f"job-{number}", "copy", "submitted") for number in range(2000)]

    account.poll()

    assert account.plan.order is Order.NONE


def test_a_large_account_without_an_order_is_listed_again_and_again() -> None:
    account = Account(arranged=shuffled, turns=1)
    account.add(2000)

    for _ in range(10):
        account.poll()

    assert account.plan.order is Order.NONE
    assert account.plan.hurried
    assert account.listings >= 3


def test_watched_pages_are_read_on_to_a_job_known_before() -> None:
    account = watched()
    account.add(350)

    account.poll()

    assert account.pages(Priority.DISCOVERY) == [0, 99, 198, 297]


def test_a_burst_at_the_end_of_the_list_is_read_from_before_it() -> None:
    account = watched(newest_first=False)
    burst = {job.id for job in account.add(350)}

    account.poll()

    assert burst <= account.known
    assert len(account.pages(Priority.DISCOVERY)) <= 6


# ---- the total ----


def test_a_total_that_is_too_much_must_say_so_twice() -> None:
    account = watched(told=True)
    elsewhere = account.add(1, at=1000)[0].id
    account.poll()
    assert elsewhere not in account.known

    account.poll()

    assert elsewhere in account.known


def test_jobs_that_expire_bring_no_listing_forward() -> None:
    account = watched(told=True)
    del account.jobs[:50]

    for _ in range(3):
        account.poll()
        assert not account.pages(Priority.BACKGROUND)


def test_a_total_of_more_than_is_listed_is_believed_once_that_was_looked_for() -> None:
    account = watched(told=True)
    account.inflated = 3
    account.poll()
    account.poll()
    assert len(account.pages(Priority.BACKGROUND)) > 20

    for _ in range(5):
        account.poll()
        assert len(account.pages(Priority.BACKGROUND)) <= 1


# ---- an order that does not hold ----


def walk_into_a_job_elsewhere(account: Account) -> int:
    """How many listings it takes to believe the order again once a slice has shown an unknown job deep in the list."""
    account.add(1, at=1000)
    while account.is_watched():
        account.poll()
    before = account.listings
    while not account.is_watched():
        account.poll()
    return account.listings - before


def test_each_time_the_order_is_given_up_it_takes_twice_as_many_listings_to_believe_it() -> None:
    account = watched()
    account.turns = 1

    assert [walk_into_a_job_elsewhere(account) for _ in range(3)] == [1, 2, 4]


# ---- unfinished jobs ----


def test_unfinished_jobs_less_than_a_page_apart_are_looked_at_by_one_page() -> None:
    account = Account()
    account.add(1000)
    account.add(5, "running")
    account.add(1000)
    watched(account=account)

    account.poll()

    assert len(account.pages(Priority.REFRESH)) == 1
    assert not account.singly
    assert account.delay <= POLL


def test_an_unfinished_job_on_its_own_is_asked_for_by_its_endpoint() -> None:
    account, running = with_running_apart(1, apart=600)

    account.poll()

    assert account.singly == running
    assert not account.pages(Priority.REFRESH)


def test_a_job_of_an_operation_without_an_endpoint_is_looked_at_by_a_page() -> None:
    account = Account()
    account.add(1000)
    account.add(1, "running", operation="archive")
    account.add(1000)
    watched(account=account)

    account.poll()

    assert len(account.pages(Priority.REFRESH)) == 1
    assert not account.singly
    assert account.delay <= POLL


def test_jobs_that_a_page_should_have_shown_are_asked_for_one_by_one_in_the_same_poll() -> None:
    account = Account()
    account.add(1000)
    running = [job.id for job in account.add(3, "running")]
    account.add(1000)
    watched(account=account)
    account.unlisted = set(running[:2])

    account.poll()

    assert len(account.pages(Priority.REFRESH)) == 1
    assert sorted(account.singly) == running[:2]


def test_a_restart_probes_the_next_page_for_jobs_whose_place_it_does_not_know() -> None:
    account = Account()
    account.add(2000)
    account.add(5, "running")
    account.add(120)
    watched(account=account)
    account.restart()
    account.poll()  # learns the order; the list is not read further than that

    account.poll()

    assert not account.singly
    assert account.delay <= POLL


def test_a_state_file_that_could_not_be_written_for_long_leaves_jobs_looked_at_by_their_pages() -> None:
    account = Account()
    account.add(2000)
    account.add(5, "running")
    account.add(120)
    watched(account=account)
    account.written = False
    for _ in range(20):
        account.poll()
    account.written = True

    account.poll()

    assert not account.singly
    assert account.delay <= POLL


# ---- the budget ----


def test_jobs_that_exceed_the_budget_take_turns() -> None:
    account, running = with_running_apart(20)
    asked: list[str] = []

    for _ in range(4):
        account.poll(budget=5)
        assert len(account.singly) == 5
        asked += account.singly

    assert sorted(asked) == running


def test_a_job_whose_endpoint_never_answers_does_not_starve_the_others() -> None:
    account, running = with_running_apart(6)
    account.fails = lambda request: isinstance(request, GetJob) and request.job_id == running[0]
    asked: set[str] = set()

    for _ in range(6):
        account.poll(budget=2)
        asked.update(account.singly)

    assert asked == set(running)


def test_results_that_are_wanted_get_a_quarter_where_unfinished_jobs_exceed_the_budget() -> None:
    account, _ = with_running_apart(12)
    wanted = [job.id for job in account.jobs[10:16]]
    account.live |= {job.id: record(job, detail_requests_left=1, outcome="failed") for job in account.jobs[10:16]}

    asked = []
    for _ in range(3):
        account.poll(budget=8)
        assert len(account.singly) == 8
        asked.append(sum(job_id in wanted for job_id in account.singly))

    assert asked == [3, 2, 1]  # a quarter of eight, and one saved up while nothing was wanted


def test_a_refusal_ends_the_turn() -> None:
    account, _ = with_running_apart(5)
    account.refuses = lambda request: isinstance(request, GetJob)

    account.poll()

    assert len(account.singly) == 1


def test_a_refused_slice_ends_the_poll() -> None:
    account = Account()
    account.add(2000)
    account.refuses = lambda request: isinstance(request, ListPage) and request.priority is Priority.BACKGROUND

    account.poll()

    assert len(account.pages(Priority.BACKGROUND)) == 1
    assert account.plan.hurried
    assert not account.plan.goes_on


# ---- slices ----


def test_a_turn_of_a_hurried_listing_reads_ten_slices() -> None:
    account = Account(turns=1)
    account.add(5000)

    account.poll()

    assert len(account.pages(Priority.BACKGROUND)) == 10


def test_slices_are_spread_evenly_over_the_interval_and_end_within_it() -> None:
    account = watched(jobs=10_000)
    listings, polls = account.listings, int(FULL / POLL)
    slices = []

    for _ in range(polls):
        account.poll()
        slices.append(len(account.pages(Priority.BACKGROUND)))

    assert max(slices) <= 1
    assert 45 <= sum(slices[: polls // 2]) <= 60
    assert account.listings == listings + 1


# ---- how late anything was looked at ----


def test_in_a_small_account_nothing_waits_for_longer_than_a_poll() -> None:
    account = Account()
    account.add(20, "running")
    for _ in range(5):
        account.poll()

    assert account.delay <= POLL


def test_an_unfinished_job_that_the_budget_left_out_is_told_of() -> None:
    account, _ = with_running_apart(3)
    account.poll(budget=3)
    for _ in range(4):
        account.poll(budget=0)

    assert account.delay == 4 * POLL


def test_without_an_order_jobs_that_nobody_knows_of_wait_since_the_last_listing_began() -> None:
    account = Account(arranged=shuffled, turns=1)
    account.add(5000)
    while not account.complete:
        account.poll()
    account.poll()
    account.poll()

    assert account.delay >= 2 * POLL


def test_a_job_that_came_in_elsewhere_may_have_waited_since_the_last_listing() -> None:
    account = watched(told=True)
    listed_at = account.listed_at
    assert listed_at is not None
    for _ in range(20):
        account.poll()
    assert account.delay <= POLL
    account.add(1, at=1000)
    account.poll()

    account.poll()

    assert account.delay >= account.now - listed_at - POLL


# ---- what was not written ----


def test_a_listing_whose_slices_were_not_written_begins_anew() -> None:
    account = Account(turns=1)
    account.add(5000)
    account.poll()
    account.written = False
    account.poll()
    account.written = True

    account.poll()

    assert account.pages(Priority.BACKGROUND)[0] == 0


def test_an_unfinished_job_whose_sighting_was_not_written_is_looked_at_again() -> None:
    account = watched()
    burst = {job.id for job in account.add(150, "running")}
    account.written = False
    account.poll()
    assert not burst & account.known
    account.written = True

    account.poll()

    assert burst <= account.live.keys()

"""What to ask next: one account's plan, asked by hand."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
import pytest

from exporter.counting.ledger import Mark
from exporter.platform.client import ListAnswer
from exporter.platform.jobs import FINAL_RANK, Job
from exporter.platform.wire import Page
from exporter.polling.plan import JobAsked, Ledger, PageQuestion, PageSeen, Plan, Question, Turn
from exporter.polling.watching import Order

HOUR = 3600.0
FULL = 6 * HOUR
POLL = 30.0


class TornError(Exception):
    """An answer that failed."""


def mark_of(job: Job) -> Mark:
    """What the ledger keeps of a job that is unfinished."""
    return Mark(
        id=job.id,
        operation=job.operation,
        state=job.state,
        total=0,
        completed=0,
        failed=0,
        last_total=0,
        last_completed=0,
        last_failed=0,
        first_seen=0.0,
        seen_submitted=False,
        started_on=None,
        finished_on=None,
        outcome="",
        history=False,
        pending=False,
        queue_done=False,
        duration_done=False,
        errors_done=False,
        moved_at=0.0,
        detected_at=None,
        settling_since=None,
        missing_since=None,
        unlisted_at=None,
        codes="",
    )


@dataclass
class Account:
    """A list, a ledger that keeps what it is shown, and the plan between them."""

    newest_first: bool = True
    told: bool = False
    per_page: int = 100
    now: float = 0.0
    jobs: list[Job] = field(default_factory=list)
    """Oldest first."""
    known: set[str] = field(default_factory=set)
    live: dict[str, Mark] = field(default_factory=dict)
    complete: bool = False
    listed_at: float | None = None
    asked: list[Question] = field(default_factory=list)
    refuses: Callable[[Question], bool] = lambda _: False
    fails: Callable[[Question], bool] = lambda _: False

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.plan = Plan(FULL, self.now)

    def add(self, jobs: int, state: str = "finished") -> list[Job]:
        first = len(self.jobs) + 1_000_000
        new = [Job(str(number), "copy", state) for number in range(first, first + jobs)]
        self.jobs += new
        return new

    def poll(self, budget: int = 10) -> None:
        """One poll, with slices, half a minute after the one before."""
        self.now += POLL
        self.asked = []
        seen: dict[str, Job] = {}
        failed = False
        try:
            self._drive(self.plan.look(self.now, self._ledger({})), seen)
            self._drive(self.plan.ask(self.now, self._ledger(seen), budget), seen)
        except TornError:
            failed = True
        self._keep(seen, failed=failed)
        while not failed and self.plan.watching:
            seen = {}
            self._drive(self.plan.read_on(self.now, self._ledger({})), seen)
            self._keep(seen, failed=False)
            if not self.plan.goes_on:
                break

    @property
    def delay(self) -> float:
        return self.plan.delay(self.now, self.live)

    @property
    def pages(self) -> list[int]:
        """Offsets that the last poll asked for."""
        return [question.offset for question in self.asked if isinstance(question, PageQuestion)]

    def _ledger(self, seen: Mapping[str, Job]) -> Ledger:
        age = None if self.listed_at is None else self.now - self.listed_at
        return Ledger(self.live | self._unfinished(seen.values()), len(self.known), self.complete, age)

    def _unfinished(self, jobs: Iterable[Job]) -> dict[str, Mark]:
        # A finished job with files unaccounted for settles first.
        return {
            job.id: mark_of(job)
            for job in jobs
            if job.rank < FINAL_RANK or ((job.completed or 0) < (job.total or 0) and job.id not in self.known)
        }

    def _keep(self, seen: Mapping[str, Job], *, failed: bool) -> None:
        self.live |= self._unfinished(seen.values())
        self.live = {
            job_id: mark for job_id, mark in self.live.items() if job_id not in seen or self._unfinished([seen[job_id]])
        }
        self.known |= seen.keys()
        if self.plan.listing is not None:
            self.complete, self.listed_at = True, self.now
        self.plan.settle(self.now, written=True, failed=failed)

    def _drive(self, turn: Turn, seen: dict[str, Job]) -> None:
        try:
            question = next(turn)
            while True:
                self.asked.append(question)
                if self.fails(question):
                    turn.close()
                    raise TornError
                question = turn.send(None if self.refuses(question) else self._reply(question, seen))
        except StopIteration:
            return

    def _reply(self, question: Question, seen: dict[str, Job]) -> PageSeen | JobAsked:
        listed = self.jobs[::-1] if self.newest_first else self.jobs
        if not isinstance(question, PageQuestion):
            seen.update((job.id, job) for job in listed if job.id == question.job_id)
            return JobAsked()
        part = listed[question.offset : question.offset + self.per_page]
        known = {job.id for job in part if job.id in self.known or job.id in seen}
        seen.update((job.id, job) for job in part)
        page = Page(tuple(part), len(part), {}, len(part) - 1, has_next=False)
        return PageSeen(ListAnswer(page, None, len(listed) if self.told else None, self.per_page), known)


def watched(*, newest_first: bool = True, told: bool = False, jobs: int = 2000) -> Account:
    """A large account whose order is known and whose first listing is complete."""
    account = Account(newest_first=newest_first, told=told)
    account.add(jobs)
    while not account.complete:
        account.poll()
    account.poll()
    assert account.plan.watched
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

"""Poll cycles against lists that change between any two requests, in every order, with and without a total.

The ledger is the real one, in memory; the platform is a list. Responses and commits may fail, the process may restart,
other programs may use up the rate limit, and the platform's clock and this machine's may jump. In all cases each finish
is counted once, within a bounded number of polls once the platform is at rest, and no rate limit window sees more
requests than the exporter's share.
"""

import io
import math
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from exporter.api.allowance import Allowance
from exporter.api.models import Job, JobPage, Operation, Page, Priority, RateLimit, Response
from exporter.counting.values import FILES_FAILED, Changes, JobRecord, Ledger, Rules
from exporter.errors import AllowanceExhausted, Unreachable
from exporter.logs import logger
from exporter.polling.cycle import PollCycle
from exporter.polling.ordering import Order
from exporter.polling.plan import PollPlan
from exporter.polling.stats import PollStats
from tests.clocks import START
from tests.fault_table import measure
from tests.ledgers import LedgerFixture
from tests.width import width

RULES = Rules(settle_after=0.0, lost_after=100_000.0)
INTERVAL = 30.0
FULL = 600.0
WINDOW = 300.0


T = TypeVar("T")


class NoAnswerError(Unreachable):
    """The platform was not reached, or its response was unreadable apart from the rate limit."""

    def __init__(self, rate_limit: RateLimit | None) -> None:
        super().__init__("no answer")
        self.rate_limit = rate_limit


@dataclass
class ModelJob:
    """One job of the model."""

    number: int
    files: int
    failed: int
    done: int = 0
    history: bool = False

    @property
    def finished(self) -> bool:
        return self.done >= self.files

    def job(self) -> Job:
        failed = max(0, self.failed - (self.files - self.done))
        return Job(
            str(self.number),
            "copy",
            "finished" if self.finished else "running",
            self.files,
            self.done - failed,
            failed,
            START - 2,
            (START - 1 if self.history else START + 1) if self.finished else None,
            (("5001", failed),) if self.finished and failed else None,
        )


@dataclass
class World:
    """The platform: a list in some order that changes before every request, and a rate limit."""

    order: str
    per_page: int
    reports_total: bool
    dice: random.Random
    busy: float
    limit: int = 400
    linked: bool = True
    """Whether a page that is not the last one links to the next."""
    failing: float = 0.0
    """How often a response fails."""
    greedy: float = 0.0
    """How often, between two requests, the user's own scripts use a part of the rate limit."""
    jumping: float = 0.0
    """How often, before a response, the platform's clock or this machine's jumps, or is put right."""
    platform_ahead: float = 0.0
    machine_ahead: float = 0.0
    now: float = 0.0
    lives: list[ModelJob] = field(default_factory=list)
    serial: int = 1 << 40
    requests: list[float] = field(default_factory=list)
    window_ends: float = WINDOW
    others: int = 0
    """Requests of the user's own scripts in this window."""

    def begin(self, jobs: int, running: int) -> None:
        for _ in range(jobs):
            life = self.submit()
            life.done, life.history = life.files, True
        self.revive(self.dice.sample(self.lives, min(running, jobs)))

    def revive(self, lives: list[ModelJob]) -> None:
        """Let these jobs run when counting begins."""
        for life in lives:
            life.done, life.history = 0, False

    def submit(self) -> ModelJob:
        self.serial += self.dice.randint(1, 1000)
        life = ModelJob(self.serial, self.dice.randint(1, 4), 0)
        life.failed = self.dice.choice([0, 0, life.files, 1])
        self.lives.append(life)
        return life

    def listed(self) -> list[ModelJob]:
        if self.order == "newest":
            return self.lives[::-1]
        if self.order == "mixed":
            return sorted(self.lives, key=lambda life: (life.number * 2654435761) % 1000003)
        if self.order == "unstable":
            return self.dice.sample(self.lives, len(self.lives))
        if self.order == "finished last":  # sorted, but not by submission time
            return sorted(self.lives, key=lambda life: (life.finished, life.number))
        return self.lives

    def live(self) -> None:
        """Let jobs appear, make progress or leave the list, at random."""
        while self.dice.random() < self.busy:
            what = self.dice.random()
            if what < 0.3:
                self.submit()
            elif what < 0.9:
                running = [life for life in self.lives if not life.finished]
                if running:
                    self.dice.choice(running).done += 1
            elif len(self.lives) > 1 and self.lives[0].history:
                self.lives.pop(0)  # the oldest job expires

    @property
    def date(self) -> float:
        """The platform's time, as it shows it."""
        return START + self.now + self.platform_ahead

    def jump(self) -> None:
        """Let a clock jump, at random."""
        if self.dice.random() < self.jumping:
            ahead = self.dice.choice([0.0, 59.0, -3600.0, 3600.0, -86_400.0, 86_400.0, 4e6, -START])
            if self.dice.random() < 0.5:
                self.platform_ahead = ahead
            else:
                self.machine_ahead = ahead

    def asked(self) -> RateLimit:
        self.jump()
        if self.now >= self.window_ends:
            self.window_ends = self.now + WINDOW
            self.requests.clear()
            self.others = 0
        failing = self.dice.random() < self.failing
        if failing and self.dice.random() < 0.5:
            raise NoAnswerError(None)
        self.requests.append(self.now)
        assert len(self.requests) <= self.limit // 4
        if self.dice.random() < self.greedy:
            self.others = min(self.others + self.dice.randint(1, self.limit // 4), self.limit * 3 // 4)
        reset = START + self.window_ends + self.platform_ahead
        rate_limit = RateLimit(self.limit, self.limit - len(self.requests) - self.others, reset)
        if failing:
            raise NoAnswerError(rate_limit)
        return rate_limit

    def page(self, offset: int) -> tuple[JobPage, RateLimit]:
        self.live()
        rate_limit = self.asked()
        listed = self.listed()
        part = [life.job() for life in listed[offset : offset + self.per_page]]
        more = self.linked and offset + self.per_page < len(listed)
        page = Page(tuple(part), len(part), {}, len(part) - 1, has_next=more)
        return JobPage(page, self.date, len(listed) if self.reports_total else None, self.per_page), rate_limit

    def job(self, job_id: str) -> tuple[Job | None, RateLimit]:
        self.live()
        rate_limit = self.asked()
        return next((life.job() for life in self.lives if str(life.number) == job_id), None), rate_limit


class PollLoop:
    """An account that is polled by the product's own cycle, without schedule and network.

    *full* is the full listing interval, *unwritten* how often a commit fails.
    """

    def __init__(self, world: World, *, full: float = FULL, unwritten: float = 0.0) -> None:
        self.world = world
        self.full = full
        self.unwritten = unwritten
        self.allowance = Allowance(0.25)
        self.ledger = LedgerFixture(RULES)
        self.delay = 0.0
        self.restart()

    def restart(self) -> None:
        clock = WorldClock(self.world)
        self.plan = PollPlan(self.full, clock.monotonic())
        log = logger("json", "error", io.StringIO())
        self.cycle = PollCycle(
            self.plan, self, self, rules=RULES, stats=PollStats(clock, log), clock=clock, commit=self.commit
        )

    def poll(self) -> None:
        budget = self.allowance.budget(self.world.now, INTERVAL, self.plan.pages_per_discovery)
        result = self.cycle.run(self.its_ledger, budget)
        self.ledger.ledger = result.ledger
        while result.may_continue and self.plan.incremental:
            result = self.cycle.continue_listing(self.its_ledger)
            self.ledger.ledger = result.ledger
            if result.stopped is not None or not self.plan.goes_on:
                break
        self.delay = self.plan.delay(self.world.now, self.its_ledger.live)

    @property
    def its_ledger(self) -> Ledger:
        return self.ledger.ledger

    def finished(self) -> int:
        return sum(number for outcome, number in self.ledger.outcomes().items() if outcome != "lost")

    def commit(self, _: Ledger, changes: Changes) -> bool:
        if self.world.dice.random() < self.unwritten:
            return False
        self.ledger.commit(changes)
        return True

    # ---- the API ----

    def page(self, offset: int, priority: Priority, *, until: float) -> JobPage:  # noqa: ARG002  # no response is slow
        return self._answer(priority, partial(self.world.page, offset))

    def job(self, _: Operation, job_id: str, *, until: float) -> Response[Job | None]:  # noqa: ARG002  # see page
        return Response(self._answer(Priority.REFRESH, partial(self.world.job, job_id)), self.world.date)

    def user(self) -> Response[str]:
        raise AssertionError("no endpoint refuses the token")

    def _answer(self, priority: Priority, ask: Callable[[], tuple[T, RateLimit]]) -> T:
        if wait := self.allowance.take(self.world.now, priority):
            raise AllowanceExhausted(wait)
        try:
            answer, rate_limit = ask()
        except NoAnswerError as error:
            if error.rate_limit is not None:
                self.allowance.learn(error.rate_limit, self.world.date, self.world.now)
            raise
        self.allowance.learn(rate_limit, self.world.date, self.world.now)
        return answer

    # ---- the stored records ----

    def records(self, _: int, ids: Collection[str]) -> dict[str, JobRecord]:
        return {job_id: self.ledger.records[job_id] for job_id in ids if job_id in self.ledger.records}

    def no_longer_listed(self, _: int, listed: Collection[str]) -> list[JobRecord]:
        return self.ledger.unlisted(listed)

    def expirable(self, _: int, listing_clock: float) -> list[JobRecord]:
        return self.ledger.expired(listing_clock)


class WorldClock:
    """This machine's clock."""

    def __init__(self, world: World) -> None:
        self._world = world

    def time(self) -> float:
        return START + self._world.now + self._world.machine_ahead

    def monotonic(self) -> float:
        return self._world.now

    def real_seconds(self, seconds: float) -> float:
        return seconds

    def roll(self) -> float:
        return 0.5

    def pause(self, seconds: float) -> None:
        raise AssertionError(f"a cycle must not wait, but waits for {seconds} s")


def dice(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  # a repeatable world


def right(world: World, poller: PollLoop) -> bool:
    """Whether the counters are what a perfect observer would have counted."""
    counted = [life for life in world.lives if not life.history]
    failed = sum(life.job().failed or 0 for life in counted)
    measure("finished", [poller.finished() - sum(life.finished for life in counted)])
    measure("failed files", [poller.ledger.counted(FILES_FAILED, "copy") - failed])
    return (
        poller.finished() == sum(life.finished for life in counted)
        and poller.ledger.counted(FILES_FAILED, "copy") == failed
    )


def at_rest(world: World, poller: PollLoop) -> bool:
    """Whether everything is counted and listed."""
    listed = {record.id for record in poller.ledger.records.values() if record.unlisted_at is None}
    # Without a stable order a listing is complete after two that met nothing new: it may have missed a job.
    return right(world, poller) and (
        world.order == "unstable"
        or (poller.its_ledger.account.ever_listed and listed == {str(life.number) for life in world.lives})
    )


ORDERS = ["newest", "oldest", "mixed", "unstable", "finished last"]


THOROUGH = settings(
    max_examples=width(80, 300),
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking a world of hundreds of jobs takes minutes
)


def polls_to_rest(world: World) -> int:
    """Upper bound of polls until everything is counted and listed, once the platform is at rest.

    The next full listing finds what is unknown by then; it begins when the current one has ended. A listing that met
    fewer jobs than the total, or lost an overlap while the list moved, is repeated, in the worst case twice. That makes
    four listings. Each takes its whole interval or the time for its pages: at least a tenth of the share of each window
    is for them. Then each poll refreshes one unfinished job at least.
    """
    pages = math.ceil(max(1, len(world.lives)) / (world.per_page - 1)) + 1
    polls_per_window = WINDOW / INTERVAL
    background = world.limit // 4 // 10
    listing = max(FULL / INTERVAL, polls_per_window * math.ceil(pages / background))
    return math.ceil(polls_per_window + 4 * listing + sum(not life.history for life in world.lives))


@pytest.mark.fault(
    "responses and commits that fail at random, restarts, others' requests, in lists of any order",
    action="goes on where it can, lists in full again where it must",
    shown="committed counters",
    recovery="two full listings at most",
)
@THOROUGH
@given(
    order=st.sampled_from(ORDERS),
    reports_total=st.booleans(),
    linked=st.booleans(),
    per_page=st.integers(3, 20),
    jobs=st.integers(0, 260),
    running=st.integers(0, 30),
    busy=st.sampled_from([0.0, 0.1, 0.4]),
    failing=st.sampled_from([0.0, 0.0, 0.02, 0.2]),
    unwritten=st.sampled_from([0.0, 0.0, 0.1]),
    restarting=st.sampled_from([0.0, 0.02, 0.2]),
    greedy=st.sampled_from([0.0, 0.0, 0.1]),
    jumping=st.sampled_from([0.0, 0.02, 0.3]),
    seed=st.integers(0, 2**32),
)
def test_every_finish_is_counted_once_in_every_order_despite_failures(  # noqa: PLR0917  # what hypothesis draws
    order: str,
    reports_total: bool,  # noqa: FBT001  # drawn
    linked: bool,  # noqa: FBT001  # drawn
    per_page: int,
    jobs: int,
    running: int,
    busy: float,
    failing: float,
    unwritten: float,
    restarting: float,
    greedy: float,
    jumping: float,
    seed: int,
) -> None:
    world = World(order, per_page, reports_total, dice(seed), busy, linked=linked, failing=failing, greedy=greedy)
    world.jumping = jumping
    world.begin(jobs, running)
    poller = PollLoop(world, unwritten=unwritten)
    for _ in range(40):
        poller.poll()
        world.now += INTERVAL
        if world.dice.random() < restarting:
            poller.restart()
    world.busy = world.failing = world.greedy = world.jumping = poller.unwritten = 0.0
    for _ in range(polls_to_rest(world)):
        if at_rest(world, poller):
            break
        poller.poll()
        world.now += INTERVAL

    assert at_rest(world, poller)
    for _ in range(5):
        poller.poll()
        world.now += INTERVAL
    assert at_rest(world, poller)


@THOROUGH
@given(
    order=st.sampled_from(["newest", "oldest"]),
    reports_total=st.booleans(),
    linked=st.booleans(),
    per_page=st.integers(5, 20),
    running=st.integers(1, 12),
    burst=st.sampled_from([0, 1, 3, 30]),
    seed=st.integers(0, 2**32),
)
def test_incremental_polling_counts_a_known_job_s_finish_within_two_polls(  # noqa: PLR0917  # what hypothesis draws
    order: str,
    reports_total: bool,  # noqa: FBT001  # drawn
    linked: bool,  # noqa: FBT001  # drawn
    per_page: int,
    running: int,
    burst: int,
    seed: int,
) -> None:
    world = World(order, per_page, reports_total, dice(seed), 0.0, limit=40_000, linked=linked)
    world.begin(200, running)
    poller = PollLoop(world)
    for _ in range(5):
        poller.poll()
        world.now += INTERVAL
    assert poller.plan.head_known
    for _ in range(15):
        for _ in range(world.dice.randint(0, burst)):
            world.submit()
        if world.lives[0].history and world.dice.random() < 0.5:
            del world.lives[0]
        unfinished = [life for life in world.lives if str(life.number) in poller.its_ledger.live and not life.finished]
        ending = world.dice.sample(unfinished, min(len(unfinished), 3))
        for life in ending:
            life.done = life.files
        for _ in range(2):
            poller.poll()
            world.now += INTERVAL
        assert not any(str(life.number) in poller.its_ledger.live for life in ending)
        assert poller.delay <= 2 * INTERVAL
    assert right(world, poller)


@pytest.mark.parametrize("reports_total", [True, False])
@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_incremental_polling_costs_little_and_counts_each_failure_at_once(order: str, reports_total: bool) -> None:  # noqa: FBT001  # a table's column
    world = World(order, 100, reports_total, dice(7), 0.0, limit=1000)
    world.begin(5000, 0)
    world.revive(world.dice.sample(world.lives[-300:], 20))
    poller = PollLoop(world)
    for _ in range(20):
        poller.poll()
        world.now += INTERVAL
    assert poller.plan.order is (Order.NEWEST if order == "newest" else Order.OLDEST)
    assert poller.its_ledger.account.ever_listed
    made = 0
    for _ in range(20):
        running = [life for life in world.lives if not life.finished]
        if running:
            running[0].done = running[0].files
        world.submit()
        before = len(world.requests)
        poller.poll()
        world_made = len(world.requests) - before
        made += max(0, world_made)
        assert right(world, poller)
        assert poller.delay <= INTERVAL
        world.now += INTERVAL

    assert made <= 20 * 10

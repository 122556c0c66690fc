"""The plan against lists that move between any two requests, in every order, told or not told how many jobs there are.

The ledger is the real one, in memory; the platform is a list. Whatever happens, each finish is counted once, within a
bounded number of polls once the platform is at rest, and no window sees more requests than its share.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from exporter.counting import ledger
from exporter.counting.ledger import Book, Changes, Mark, Rules, Sightings, fold, seeds
from exporter.platform.allowance import Allowance, Purpose
from exporter.platform.client import ListAnswer
from exporter.platform.jobs import Job
from exporter.platform.wire import Page, Quota
from exporter.polling.plan import JobAsked, Ledger, PageQuestion, PageSeen, Plan, Question, Reply, Turn
from exporter.polling.watching import Order

START = 1_790_000_000.0
RULES = Rules(settle_after=0.0, lost_after=100_000.0)
INTERVAL = 30.0
FULL = 600.0
WINDOW = 300.0


@dataclass
class Life:
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
    told: bool
    dice: random.Random
    busy: float
    limit: int = 400
    now: float = 0.0
    lives: list[Life] = field(default_factory=list)
    serial: int = 1 << 40
    requests: list[float] = field(default_factory=list)
    window_ends: float = WINDOW

    def begin(self, jobs: int, running: int) -> None:
        for _ in range(jobs):
            life = self.submit()
            life.done, life.history = life.files, True
        self.revive(self.dice.sample(self.lives, min(running, jobs)))

    def revive(self, lives: list[Life]) -> None:
        """Let these jobs run when the counting begins."""
        for life in lives:
            life.done, life.history = 0, False

    def submit(self) -> Life:
        self.serial += self.dice.randint(1, 1000)
        life = Life(self.serial, self.dice.randint(1, 4), 0)
        life.failed = self.dice.choice([0, 0, life.files, 1])
        self.lives.append(life)
        return life

    def listed(self) -> list[Life]:
        if self.order == "newest":
            return self.lives[::-1]
        if self.order == "mixed":
            return sorted(self.lives, key=lambda life: (life.number * 2654435761) % 1000003)
        if self.order == "unstable":
            return self.dice.sample(self.lives, len(self.lives))
        if self.order == "finished last":  # a rule, but not one that shows where new jobs come in
            return sorted(self.lives, key=lambda life: (life.finished, life.number))
        return self.lives

    def live(self) -> None:
        """Something may happen."""
        while self.dice.random() < self.busy:
            what = self.dice.random()
            if what < 0.3:
                self.submit()
            elif what < 0.9:
                running = [life for life in self.lives if not life.finished]
                if running:
                    self.dice.choice(running).done += 1
            elif len(self.lives) > 1 and self.lives[0].history:
                self.lives.pop(0)  # of a month before

    def asked(self) -> Quota:
        if self.now >= self.window_ends:
            self.window_ends = self.now + WINDOW
            self.requests.clear()
        self.requests.append(self.now)
        assert len(self.requests) <= self.limit // 4
        return Quota(self.limit, self.limit - len(self.requests), START + self.window_ends)

    def page(self, offset: int) -> tuple[ListAnswer, Quota]:
        self.live()
        quota = self.asked()
        listed = self.listed()
        part = [life.job() for life in listed[offset : offset + self.per_page]]
        more = offset + self.per_page < len(listed)
        page = Page(tuple(part), len(part), {}, len(part) - 1, has_next=more)
        return ListAnswer(page, START + self.now, len(listed) if self.told else None), quota

    def job(self, job_id: str) -> tuple[Job | None, Quota]:
        self.live()
        quota = self.asked()
        return next((life.job() for life in self.lives if str(life.number) == job_id), None), quota


class Watcher:
    """A poller without wires."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.allowance = Allowance(0.25)
        self.plan = Plan(FULL, world.now)
        account = ledger.Account(1, "https://p/v2", "u", "", START)
        self.marks: dict[str, Mark] = {}
        self.book = Book(account, {}, {}, {}, {}, {}, 0).after(seeds(account, RULES, START))
        self.delay = 0.0

    def restart(self) -> None:
        self.plan = Plan(FULL, self.world.now)

    def poll(self) -> None:
        now = self.world.now
        jobs: list[Job] = []
        listed: set[str] = set()
        if self.drive(self.plan.look(now, self.known(self.book)), jobs, listed):
            changes = self.fold(jobs, listed)
            budget = self.allowance.budget(now, INTERVAL)
            self.drive(self.plan.ask(now, self.known(self.book.after(changes)), budget), jobs, listed)
        self.commit(jobs, listed)
        while self.plan.watching:
            jobs, listed = [], set()
            self.drive(self.plan.read_on(self.world.now, self.known(self.book)), jobs, listed)
            self.commit(jobs, listed)
            if not self.plan.goes_on:
                break
        self.delay = self.plan.delay(self.world.now, self.book.live)

    def commit(self, jobs: list[Job], listed: Collection[str]) -> None:
        changes = self.fold(jobs, listed)
        self.book = self.book.after(changes)
        self.marks.update(changes.marks)
        for job_id in changes.forgotten:
            del self.marks[job_id]
        self.plan.settle(self.world.now, written=True, failed=False)

    def known(self, book: Book) -> Ledger:
        listed_on = book.account.listed_on
        return Ledger(
            book.live,
            sum(sums.jobs for sums in book.listed.values()),
            book.account.complete,
            None if listed_on is None else START + self.world.now - listed_on,
        )

    def fold(self, jobs: list[Job], listed: Collection[str]) -> Changes:
        listing = self.plan.listing
        gone = (
            () if listing is None else [m for m in self.marks.values() if m.unlisted_at is None and m.id not in listing]
        )
        seen = Sightings(jobs, listed, vanished=gone, complete=listing is not None)
        marks = {job.id: self.marks[job.id] for job in jobs if job.id in self.marks}
        return fold(self.book, marks, seen, RULES, now=START + self.world.now, platform=START + self.world.now)

    def drive(self, turn: Turn, jobs: list[Job], listed: set[str]) -> bool:
        """Whether the turn came to its end."""
        reply: Reply = None
        try:
            question = next(turn)
            while True:
                reply = self.answer(question, jobs, listed)
                if reply is None and isinstance(question, PageQuestion) and question.purpose is Purpose.WATCH:
                    turn.close()
                    return False
                question = turn.send(reply)
        except StopIteration:
            return True

    def answer(self, question: Question, jobs: list[Job], listed: set[str]) -> Reply:
        purpose = question.purpose if isinstance(question, PageQuestion) else Purpose.JOB
        if self.allowance.take(self.world.now, purpose):
            return None
        if isinstance(question, PageQuestion):
            answer, quota = self.world.page(question.offset)
            known = {job.id for job in answer.page.jobs if job.id in self.marks or job.id in listed}
            jobs += answer.page.jobs
            listed.update(job.id for job in answer.page.jobs)
            self.allowance.learn(quota, START + self.world.now, self.world.now)
            return PageSeen(answer, known)
        job, quota = self.world.job(question.job_id)
        self.allowance.learn(quota, START + self.world.now, self.world.now)
        jobs += [job] if job else []
        return JobAsked()

    def finished(self) -> int:
        return sum(
            count.value
            for (family, labels), count in self.book.counters.items()
            if family == ledger.JOBS_FINISHED and labels[1] != "lost"
        )


def right(world: World, watcher: Watcher) -> bool:
    """Whether the counters are what a perfect observer would have counted."""
    counted = [life for life in world.lives if not life.history]
    failed = sum(life.job().failed or 0 for life in counted)
    return (
        watcher.finished() == sum(life.finished for life in counted)
        and watcher.book.counters[ledger.FILES_FAILED, ("copy",)].value == failed
    )


ORDERS = ["newest", "oldest", "mixed", "unstable", "finished last"]


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking a world of hundreds of jobs takes minutes
)
@given(
    order=st.sampled_from(ORDERS),
    told=st.booleans(),
    jobs=st.integers(0, 260),
    running=st.integers(0, 30),
    busy=st.sampled_from([0.0, 0.1, 0.4]),
    seed=st.integers(0, 2**32),
)
def test_every_finish_is_counted_once_in_every_order(
    order: str, told: bool, jobs: int, running: int, busy: float, seed: int
) -> None:
    world = World(order, 10, told, random.Random(seed), busy)
    world.begin(jobs, running)
    watcher = Watcher(world)
    for number in range(40):
        watcher.poll()
        world.now += INTERVAL
        if number == 20:
            watcher.restart()
    world.busy = 0.0
    for _ in range(120):
        watcher.poll()
        world.now += INTERVAL

    assert right(world, watcher)
    if order != "unstable":  # there two walks that met nothing new are all that completeness can mean
        assert sum(sums.jobs for sums in watcher.book.listed.values()) == len(world.lives)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_a_watched_account_costs_little_and_shows_each_failure_at_the_next_poll(order: str, told: bool) -> None:
    world = World(order, 100, told, random.Random(7), 0.0, limit=1000)
    world.begin(5000, 0)
    world.revive(world.dice.sample(world.lives[-300:], 20))
    watcher = Watcher(world)
    for _ in range(20):
        watcher.poll()
        world.now += INTERVAL
    assert watcher.plan.order is (Order.NEWEST if order == "newest" else Order.OLDEST)
    assert watcher.book.account.complete
    made = 0
    for _ in range(20):
        running = [life for life in world.lives if not life.finished]
        if running:
            running[0].done = running[0].files
        world.submit()
        before = len(world.requests)
        watcher.poll()
        world_made = len(world.requests) - before
        made += max(0, world_made)
        assert right(world, watcher)
        assert watcher.delay <= INTERVAL
        world.now += INTERVAL

    assert made <= 20 * 10

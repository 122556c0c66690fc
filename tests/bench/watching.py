"""What watching an account costs and how soon it shows a failed file, over one interval of its full listing.

The real poller, client, HTTP and SQLite ask a simulated platform on a clock that both share: it passes in the poller's
pauses and, as on a network, in each request. New jobs come once a minute. In the end every counter must be the
platform's own truth.
"""

import io
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import mean
from typing import NamedTuple

import httpx

from exporter.api.allowance import AllowanceKey, AllowancePool
from exporter.api.client import Client
from exporter.api.deadline import Deadline
from exporter.api.transport import transport_to
from exporter.config.accounts import AccountConfig
from exporter.config.tokens import FixedToken
from exporter.counting.values import Rules
from exporter.errors import Stopping
from exporter.logs import logger
from exporter.metrics.snapshot import AccountSnapshot
from exporter.polling.identity import IdentityRegistry
from exporter.polling.poller import Poller
from exporter.polling.settings import PollerSettings, PollSchedule
from exporter.redaction import Secret
from exporter.simulator.jobs import Job
from exporter.simulator.platform import Platform
from exporter.simulator.scripts import JobScript
from exporter.simulator.server import DEMO_TOKEN, QUIET, Order
from exporter.simulator.server import running as simulated
from exporter.storage.store import Store
from tests.bench.report import fail, row
from tests.harness import COUNTED, expected

_INTERVAL = 30.0
_FULL_LISTING = 6 * 3600.0
_SHARE = 0.25
_WINDOW = 300.0
_START = 1_790_000_000.0
_ROUND_TRIP = 0.3
"""Seconds that a request takes, by the shared clock."""
_SLACK = 5.0
_UNFINISHED = 20
_POLLS_AFTER = 300
"""Polls after which counters that are still not the truth never will be."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """An account, and what is expected of watching it.

    Attributes:
        jobs: jobs on the list at the start.
        among: the newest jobs among which the unfinished ones are; None: anywhere.
        every: seconds from one new job to the next.
        most_requests: the goal for 5 minutes; None: only the share.
        most_polls: the goal for the delay of a failed file, in polls; None: only that it is told.
    """

    jobs: int = 100_000
    order: Order = Order.NEWEST
    among: int | None = None
    every: float = 60.0
    most_requests: int | None = None
    most_polls: int | None = None


NEWEST = Scenario(among=300, most_requests=60, most_polls=1)
OLDEST = replace(NEWEST, order=Order.OLDEST)
ANYWHERE = Scenario(most_polls=2)
MIXED = Scenario(order=Order.MIXED)
SMALL = Scenario(jobs=500, among=300, every=600, most_requests=60, most_polls=1)


class Failure(NamedTuple):
    """The moment from which the platform shows at least so many failed files of a job."""

    at: float
    job_id: str
    failed: int


class Traffic:
    """What happens on the platform while it is watched."""

    def __init__(self, platform: Platform, scenario: Scenario) -> None:
        self._platform = platform
        self._scenario = scenario
        self._dice = Random(20190220)  # noqa: S311 - seeded
        self._came = 0
        self.next = platform.now() + scenario.every
        """When the next job comes; infinite once no more come."""
        self.failures: list[Failure] = []
        """Not yet shown by the exporter, soonest first."""
        for place, job_id in enumerate(platform.unfinished()):
            self._prolong(job_id, place)

    def _prolong(self, job_id: str, place: int) -> None:
        """Let a job that runs already run on for hours, and fail file after file."""
        # Among the newest ones no longer than it takes new jobs to push it out from among them.
        most = 12 * 3600.0 if self._scenario.among is None else 60.0 * self._scenario.among * (place + 1) / _UNFINISHED
        old = self._platform.script_of(job_id)
        age = self._platform.now() - Job(int(job_id), old).submitted
        running = max(1.0, age - old.queued - old.resolving) + most * self._dice.random()
        self._platform.change(
            job_id, total=2100, completed=100, failed=2000, errors={"5001": 20}, running=running, hangs_after=None
        )
        self._expect(job_id)

    def put_in(self) -> None:
        """One more job: every third one fails in part, and among the newest every fifth runs for hours."""
        self._came += 1
        long = self._scenario.among is not None and self._came % 5 == 0
        script = JobScript(
            operation=("copy", "move", "delete")[self._came % 3],
            total=20,
            failed=4 if self._came % 3 == 1 else 0,
            queued=10 * self._dice.random(),
            running=60 * (self._dice.uniform(10, 145) if long else self._dice.uniform(1, 10)),
        )
        self._expect(self._platform.submit(script))
        self.next += self._scenario.every

    def end(self) -> None:
        """Let all jobs finish now, and no more come."""
        self.next = float("inf")
        self.failures.clear()
        for job_id in self._platform.unfinished():
            self._platform.finish(job_id)

    def _expect(self, job_id: str) -> None:
        now, script = self._platform.now(), self._platform.script_of(job_id)
        came = (each for each in _failures(job_id, script) if each.at > now)
        self.failures = sorted([*self.failures, *came])

    def shown(self, snapshot: AccountSnapshot, now: float) -> Iterator[float]:
        """The delays of the failures that *snapshot* is the first to show."""
        due = bisect_left(self.failures, (now,))  # the shorter tuple is less
        records = {} if snapshot.ledger is None else {**snapshot.ledger.live, **snapshot.ledger.failed}
        waiting = []
        for failure in self.failures[:due]:
            record = records.get(failure.job_id)
            if record is not None and record.failed >= failure.failed:
                yield now - failure.at
            else:
                waiting.append(failure)
        self.failures[:due] = waiting


def _failures(job_id: str, script: JobScript) -> Iterator[Failure]:
    handled = script.completes + script.failed
    begins = Job(int(job_id), script).submitted + script.queued + script.resolving
    for failed in range(1, script.failed + 1):
        done = handled * (failed - 1) // script.failed + 1
        yield Failure(begins + done * script.running / handled, job_id, failed)


class SharedClock:
    """The exporter's and the platform's. For one thread."""

    def __init__(self, platform: Platform, traffic: Traffic) -> None:
        self._platform = platform
        self._traffic = traffic
        self._dice = Random(1)  # noqa: S311 - seeded
        self.stopping = False
        self.woke = platform.now()
        """When the last pause ended, which is when the present poll began."""

    def time(self) -> float:
        return self._platform.now()

    def monotonic(self) -> float:
        return self._platform.now() - _START

    def real_seconds(self, seconds: float) -> float:
        return seconds

    def roll(self) -> float:
        return self._dice.random()

    def pause(self, seconds: float) -> None:
        if self.stopping:
            raise Stopping("measured")
        self.pass_by(seconds)
        self.woke = self.time()

    def pass_by(self, seconds: float) -> None:
        """Let *seconds* pass, and the jobs come that are to come in them."""
        ends = self.time() + seconds
        while self._traffic.next <= ends:
            self._platform.advance(self._traffic.next - self.time())
            self._traffic.put_in()
        self._platform.advance(max(0.0, ends - self.time()))


class Distant(httpx.BaseTransport):
    """The real transport, and some time for the way there and back."""

    def __init__(self, near: httpx.BaseTransport, clock: SharedClock) -> None:
        self._near = near
        self._clock = clock
        self.asked: list[float] = []
        """When each request was made."""
        self.windows: Counter[str] = Counter()
        """Requests by the end of the platform's window that they fell into."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._clock.pass_by(_ROUND_TRIP)
        self.asked.append(self._clock.time())
        response = self._near.handle_request(request)
        self.windows[response.headers["x-ratelimit-reset"]] += 1
        return response

    def close(self) -> None:
        self._near.close()


@dataclass(slots=True)
class Watch:
    """What was seen once it had started up; looks at every picture that is published.

    Attributes:
        delays: seconds from each failure to its being shown.
        told: the longest detection delay in each picture.
        hidden: delays that were longer than the picture which ended them told.
        listed: when the first complete listing was shown; None before.
        since: when the results of the last day's failures had been asked for, too; None before.
        until: when measuring ended; None before.
        settled: when every counter was the truth; None before.
    """

    traffic: Traffic
    clock: SharedClock
    platform: Platform
    delays: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)
    hidden: list[float] = field(default_factory=list)
    listings: set[float] = field(default_factory=set)
    listed: float | None = None
    since: float | None = None
    until: float | None = None
    settled: float | None = None
    never_shown: int = 0
    polls_after: int = 0
    truth: Counter[tuple[str, ...]] = field(default_factory=Counter)
    off_by: dict[str, int] = field(default_factory=dict)

    def publish(self, snapshot: AccountSnapshot) -> None:
        """See what *snapshot* shows."""
        now = self.clock.time()
        shown = list(self.traffic.shown(snapshot, now))
        if self.until is None and snapshot.status.last_full_listing is not None:
            self.listings.add(snapshot.status.last_full_listing)
        if self.since is None:
            if snapshot.ledger is None or snapshot.listed is None:
                return
            self.listed = self.listed or now
            if not any(record.needs_details for record in snapshot.ledger.live.values()):
                self.since = now
        elif now < self.since + _INTERVAL / 2:
            return  # of the poll that ended the start
        elif self.until is None:
            told = snapshot.status.detection_delay or 0.0
            self.told.append(told)
            self.delays += shown
            polled = now - self.clock.woke  # what was looked at when it began is shown when it ends
            self.hidden += [delay for delay in shown if delay > told + polled + 1]
            if now >= self.since + _FULL_LISTING:
                self._end(now)
        else:
            self._compare(snapshot, now)

    def _end(self, now: float) -> None:
        waiting = [now - failure.at for failure in self.traffic.failures if failure.at <= now]
        self.delays += waiting
        self.never_shown = len(waiting)
        self.until = now
        self.listings = {each for each in self.listings if each > (self.listed or 0.0)}
        self.traffic.end()

    def _compare(self, snapshot: AccountSnapshot, now: float) -> None:
        if snapshot.ledger is None:
            return
        self.polls_after += 1
        have: Counter[tuple[str, ...]] = Counter()
        for (family, labels), count in snapshot.ledger.counters.items():
            if family in COUNTED:
                have[family, *labels] = count.value
        have = +have
        if not self.truth:  # every job has ended: it does not change any more
            self.truth = expected(self.platform.truth(since=snapshot.ledger.account.counting_since))
        want = self.truth
        self.off_by = {" ".join(key): have[key] - want[key] for key in have | want if have[key] != want[key]}
        if not self.off_by:
            self.settled = now
        self.clock.stopping = not self.off_by or self.polls_after >= _POLLS_AFTER


def measure(scenario: Scenario) -> None:
    """Print what watching such an account costs, and how late its failures are seen."""
    settings = replace(
        QUIET,
        speed=0,
        start=_START,
        order=scenario.order,
        jobs=scenario.jobs,
        unfinished=_UNFINISHED,
        unfinished_among=scenario.among,
        files_per_job=10,
    )
    began = time.perf_counter()
    with simulated(settings) as simulator, tempfile.TemporaryDirectory() as folder:
        traffic = Traffic(simulator.platform, scenario)
        clock = SharedClock(simulator.platform, traffic)
        watch = Watch(traffic, clock, simulator.platform)
        deadline = Deadline()
        distant = Distant(transport_to(deadline, None, None), clock)
        connect = partial(Client, simulator.url, distant, deadline, clock=clock, timeout=30)
        with closing(Store(Path(folder) / "state.db")) as store:
            _poller(simulator.url, clock, watch, store, connect).run()
    _tell(scenario, watch, distant)
    row("measured in", f"{time.perf_counter() - began:.0f} s")


def _poller(url: str, clock: SharedClock, watch: Watch, store: Store, connect: Callable[..., Client]) -> Poller:
    """The real one, as the daemon builds it."""
    allowances = AllowancePool(
        _SHARE,
        saved=lambda key: store.allowance(key, clock.time()),
        save=lambda key, saved: store.save_allowance(key, saved, clock.time()),
    )
    return Poller(
        AccountConfig("large", url, "", FixedToken(Secret(DEMO_TOKEN)), ca_file=None, proxy=None),
        connect=lambda observer: connect(
            allowance=allowances.of(AllowanceKey(url, "", "large"), clock.monotonic()), observer=observer
        ),
        store=store,
        identities=IdentityRegistry(["large"]),
        allowances=allowances,
        settings=PollerSettings(
            PollSchedule(_INTERVAL, _FULL_LISTING, 600, first=0, phase=0), Rules(), 30, show_username=True
        ),
        clock=clock,
        publish=watch.publish,
        log=logger("json", "error", io.StringIO()),
    )


def _tell(scenario: Scenario, watch: Watch, distant: Distant) -> None:
    if watch.listed is None or watch.since is None or watch.until is None:
        fail("the list was never read to its end")
        return
    asked = [at for at in distant.asked if watch.since <= at <= watch.until]
    busiest = max(bisect_left(asked, at + _WINDOW) - place for place, at in enumerate(asked))
    average = len(asked) / (watch.until - watch.since) * _WINDOW
    goal, share = scenario.most_requests, int(1000 * _SHARE)
    most = max(distant.windows.values())
    row("first listing complete after, by the shared clock", f"{watch.listed - _START:.0f} s")
    row("  and the last day's failures asked for, after", f"{watch.since - _START:.0f} s")
    row("requests in 5 minutes, full listing included, at most", f"{busiest}", _at_most(goal), met=_met(goal, busiest))
    row("  on average", f"{average:.1f}")
    row("  in one window of the platform's, from the start", f"{most}", f"at most {share}", met=most <= share)
    ends = [watch.listed, *sorted(watch.listings), watch.until]
    age = max(later - earlier for earlier, later in pairwise(ends)) / 3600
    row(
        "oldest that the full listing became",
        f"{age:.2f} h",
        f"at most {_FULL_LISTING / 3600:g}",
        met=age <= _FULL_LISTING / 3600,
    )
    late = None if scenario.most_polls is None else scenario.most_polls * _INTERVAL + _SLACK
    row(
        f"a failed file is shown after at most ({len(watch.delays)} of them)",
        f"{max(watch.delays):.1f} s",
        "" if late is None else f"at most {late:.0f} s",
        met=_met(late, max(watch.delays)),
    )
    row("  on average", f"{mean(watch.delays):.1f} s")
    longest = None if scenario.most_polls is None else scenario.most_polls * _INTERVAL
    row(
        "sbg_exporter_detection_delay_seconds, at most",
        f"{max(watch.told):.1f} s",
        _at_most(longest),
        met=_met(longest, max(watch.told)),
    )
    row("failures later than it told", f"{len(watch.hidden)}", "none", met=not watch.hidden)
    if watch.settled is None:
        fail(f"{scenario}: counters are off by {watch.off_by}")
    else:
        row("every counter is the truth, after the last job", f"{watch.settled - watch.until:.0f} s", "yes", met=True)


def _at_most(goal: float | None) -> str:
    return "" if goal is None else f"at most {goal:g}"


def _met(goal: float | None, value: float) -> bool | None:
    return None if goal is None else value <= goal

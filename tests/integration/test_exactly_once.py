"""Killed at any time, the daemon counts each job exactly once, and no counter decreases."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from exporter.simulator.scripts import OPERATIONS, JobScript, Shown, roll
from exporter.simulator.server import QUIET, RunningSimulator, running
from tests.background import BackgroundTask
from tests.harness import Account, Daemon, Installation, MonotonicCounters, Scrape, difference, fast
from tests.waiting import eventually
from tests.width import width

KILLS = width(4, 14)
"""Kills of each of two daemons, in each of two rounds."""
TOKENS = {"alice": "token-of-alice-0000000000000000", "bob": "token-of-bob-000000000000000000"}
SPEED = 60
"""Clock speed of platform and daemon: a minute takes a second."""
FAST: dict[str, Any] = {
    "speed": SPEED,
    "poll_interval": SPEED,
    "request_timeout": 30 * SPEED,
    "stale_after": 600 * SPEED,
}
BUSY = replace(
    QUIET, jobs=30, username="alice", token=TOKENS["alice"], users={TOKENS["bob"]: "bob"}, rate_limit=100_000
)
"""A month of existing jobs, and a rate limit that fifty starts do not exhaust."""

UNUSUAL = (
    JobScript(total=3, running=60, times=Shown.ALONE),
    JobScript(total=3, failed=1, running=60, times=Shown.ALONE, operation="move"),
    JobScript(total=4, failed=2, errors={"5002": 1, "none": 1}, running=60, result=Shown.ALONE),
    JobScript(total=4, failed=4, running=60, result=Shown.ALONE, times=Shown.ALONE, operation="delete"),
    JobScript(total=2, failed=1, running=60, result=Shown.NEVER),
    JobScript(total=5, completed=3, running=60),
    JobScript(total=7, failed=1, running=60, operation="import"),
    JobScript(total=2, running=60, state="ARCHIVED"),
    JobScript(total=9, failed=3, hangs_after=4, queued=0, resolving=0, running=9, state="PAUSED"),
    JobScript(total=0, running=1),
    JobScript(total=6, failed=2, queued=0, resolving=0, running=0),
)
"""Jobs that are not among the random ones: fields shown only by single-job requests or never, unknown names."""
TIMELESS = JobScript(total=2, running=60, times=Shown.NEVER)


class Users:
    """Two users who submit jobs at random times, even while no daemon runs."""

    def __init__(self, simulator: RunningSimulator, dice: Random) -> None:
        self._platform = simulator.platform
        self._dice = dice
        self.timeless: Counter[str] = Counter()
        """Jobs that never show their times, by user."""

    def submit(self) -> None:
        user = self._dice.choice(tuple(TOKENS))
        if self._dice.random() < 0.1:
            self._platform.submit(TIMELESS, user)
            self.timeless[user] += 1
        elif self._dice.random() < 0.3:
            self._platform.submit(self._dice.choice(UNUSUAL), user)
        else:
            self._platform.submit(roll(self._dice), user)

    def pause(self) -> float:
        return self._dice.expovariate(12)


class Killer:
    """Kills daemons at critical moments in turn, and at random times near them."""

    def __init__(self, simulator: RunningSimulator, dice: Random) -> None:
        self._platform = simulator.platform
        self._dice = dice
        self._never = threading.Event()
        self.kills: Counter[str] = Counter()

    def strike(self, daemon: Daemon) -> None:
        """Kill *daemon*, which has just been started."""
        moments = (self.while_it_starts, self.soon_after_start, self.as_an_answer_comes, self.as_it_has_counted)
        moment = moments[sum(self.kills.values()) % len(moments)]
        moment(daemon)
        daemon.kill()
        self.kills[moment.__name__] += 1

    def while_it_starts(self, _daemon: Daemon) -> None:
        self._within(0.8)

    def soon_after_start(self, daemon: Daemon) -> None:
        assert daemon.await_event("daemon.started"), daemon.output()
        self._within(0.3)

    def as_an_answer_comes(self, daemon: Daemon) -> None:
        """Kill between the platform's response to a list or job request and the commit."""
        before = len(self._platform.latest_requests())
        wanted = before + self._dice.randint(1, 8)
        eventually(lambda: len(self._platform.latest_requests()) >= wanted or not daemon.alive)
        self._within(0.02)

    def as_it_has_counted(self, daemon: Daemon) -> None:
        """Kill at the log line of a commit. The lines of one commit come together, so any of them will do."""
        after = self._dice.choice((0, 0, 3))
        assert daemon.await_event("job.finished", "job.files_failed", after=after), daemon.output()

    def _within(self, seconds: float) -> None:
        """Sleep for a random part of *seconds*. The random time is the purpose; there is no condition to wait for."""
        self._never.wait(self._dice.random() * seconds)


def watch(counters: MonotonicCounters, daemon: Daemon) -> None:
    """Scrape a daemon that may not listen yet or may be killed meanwhile."""
    with suppress(httpx.HTTPError):
        counters.see(daemon.scrape())


def accounts(simulator: RunningSimulator) -> list[Account]:
    return [Account.at(simulator, user, token) for user, token in TOKENS.items()]


def durations(scrape: Scrape, account: str) -> float:
    return scrape.total("sbg_job_duration_seconds_count", account=account)


def finished(scrape: Scrape, account: str) -> float:
    """Return the number of finished jobs, except lost ones."""
    lost = scrape.total("sbg_jobs_finished_total", account=account, outcome="lost")
    return scrape.total("sbg_jobs_finished_total", account=account) - lost


def assert_exact(scrape: Scrape, simulator: RunningSimulator, users: Users) -> None:
    for user in TOKENS:
        assert difference(scrape, user, simulator, user) == {}
        assert durations(scrape, user) == finished(scrape, user) - users.timeless[user]


@pytest.mark.fault(
    "SIGKILL as it starts, as a response comes, as it commits; two daemons, some hundred jobs",
    action="starts again from the last commit",
    shown="the committed counters, from the first scrape on",
    recovery="the first polls after the start",
)
def test_killed_daemon_counts_everything_exactly_once(tmp_path: Path) -> None:
    """Two daemons with separate ledgers poll the same two users and are killed independently."""
    with ExitStack() as stack:
        simulator = stack.enter_context(running(fast(BUSY, SPEED)))
        places = [
            stack.enter_context(
                Installation(tmp_path / name, *accounts(simulator), settle_after=60, lost_after=60, **FAST)
            )
            for name in ("left", "right")
        ]
        onlookers = [MonotonicCounters(), MonotonicCounters()]
        for place, counters in zip(places, onlookers, strict=True):
            with place.running() as daemon:
                counters.see(daemon.scrape_when(lambda now: len(now.series("sbg_jobs", state="finished")) == 6))
        killers = [Killer(simulator, Random(seed)) for seed in (20190220, 20190221)]  # noqa: S311 - seeded
        users = Users(simulator, Random(3))  # noqa: S311 - seeded
        submitting = stack.enter_context(BackgroundTask(users.submit, every=users.pause))
        threads = stack.enter_context(ThreadPoolExecutor())
        doomed = [simulator.platform.submit(HUNG, user) for user in TOKENS]
        list(threads.map(torment, places, killers, onlookers))
        list(threads.map(partial(see_hang, doomed), places, onlookers))
        for job_id in doomed:
            simulator.platform.remove(job_id)  # Lost: this takes two polls, with kills between them.
        list(threads.map(torment, places, killers, onlookers))
        submitting.stop()
        simulator.platform.advance(86400)  # All jobs that finish do so while no daemon runs.

        scrapes = list(threads.map(partial(settled, simulator), places, onlookers))

    for scrape, killer, counters in zip(scrapes, killers, onlookers, strict=True):
        assert_exact(scrape, simulator, users)
        assert sum(killer.kills.values()) == 2 * KILLS
        assert counters.scrapes > KILLS / 2
        assert scrape.total("sbg_jobs_finished_total", outcome="lost") == len(TOKENS)
        for outcome in ("succeeded", "partial", "failed", "incomplete"):
            assert scrape.total("sbg_jobs_finished_total", outcome=outcome) > 0
        assert scrape.total("sbg_jobs_submitted_total", operation="import") > 0
    assert users.timeless.total() > 0


HUNG = JobScript(operation="move", total=8, failed=2, queued=0, resolving=0, running=8, hangs_after=4)


def torment(place: Installation, killer: Killer, counters: MonotonicCounters) -> None:
    """Start and kill the daemon repeatedly."""
    for number in range(KILLS):
        daemon = place.start()
        if number % 3 == 0:
            daemon.await_event("daemon.started")
            watch(counters, daemon)
        killer.strike(daemon)


def see_hang(doomed: list[str], place: Installation, counters: MonotonicCounters) -> None:
    """Let the daemon observe the jobs' progress before they are removed."""
    done = {
        frozenset({"account": user, "operation": "move", "job_id": job}.items())
        for user, job in zip(TOKENS, doomed, strict=True)
    }
    with place.running() as daemon:
        counters.see(daemon.scrape_when(lambda now: done <= now.series("sbg_unfinished_job_files_completed").keys()))


def settled(simulator: RunningSimulator, place: Installation, counters: MonotonicCounters) -> Scrape:
    """Return the counters once they are exact, and check them after another start and more polls."""
    with place.running() as daemon:
        for user in TOKENS:
            counters.see(daemon.await_exact(user, simulator, user))
    with place.running() as daemon:
        daemon.await_polls("alice", 2)
        return counters.see(daemon.await_polls("bob"))


@pytest.mark.fault(
    "jobs begin and end while it is down",
    action="counts each in full when it first sees it",
    shown="each job, also individually",
    recovery="the first poll",
)
def test_jobs_that_start_and_end_while_it_is_down_are_counted(tmp_path: Path) -> None:
    with (
        running(fast(QUIET, SPEED)) as simulator,
        Installation(tmp_path / "place", Account.at(simulator), **FAST) as place,
    ):
        with place.running() as daemon:
            daemon.await_polls("sim")
        job_ids = [
            simulator.platform.submit(JobScript(operation=operation, total=10, failed=failed, completed=completed))
            for operation in OPERATIONS
            for failed, completed in ((0, 10), (4, 6), (10, 0), (0, 7))
        ]
        simulator.platform.advance(3600)

        with place.running() as daemon:
            scrape = daemon.await_exact("sim", simulator)
            told = [event["job_id"] for event in daemon.said("job.finished")]

    assert sorted(map(str, told)) == sorted(job_ids)
    assert scrape.total("sbg_jobs_finished_total") == durations(scrape, "sim") == 12
    assert scrape.total("sbg_files_failed_total") == 42


@pytest.mark.parametrize("history", ["ignore", "count"])
def test_history_is_counted_only_when_asked_for(tmp_path: Path, history: str) -> None:
    with (
        running(replace(QUIET, jobs=120)) as simulator,
        Installation(tmp_path / "place", Account.at(simulator), history=history) as place,
    ):
        simulator.platform.submit(JobScript(total=3, failed=1, queued=0, resolving=0, running=0))
        simulator.platform.advance(60)
        with place.running() as daemon:
            daemon.await_polls("sim")
        simulator.platform.submit(JobScript(total=3, failed=1, queued=0, resolving=0, running=0))

        with place.running() as daemon:
            scrape = daemon.scrape_when(lambda now: now.total("sbg_jobs", state="finished") == 122)
            since = scrape.value("sbg_exporter_counting_since_timestamp_seconds", account="sim") or 0
            whole = simulator.platform.truth(since=0 if history == "count" else since)
            unsettled = sum(outcomes["incomplete"] for outcomes in whole.finished.values())

    submitted = sum(whole.jobs.values())
    assert submitted == (122 if history == "count" else 1)
    assert scrape.total("sbg_jobs_submitted_total") == submitted
    assert finished(scrape, "sim") == submitted - unsettled
    assert scrape.total("sbg_files_failed_total") == sum(files["failed"] for files in whole.files.values())
    assert len(daemon.said("job.finished")) == 1
    assert len(scrape.series("sbg_failed_job_detected_timestamp_seconds")) >= 1

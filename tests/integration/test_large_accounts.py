"""Incremental polling of large accounts, on a small scale: ten jobs per page and rate limit windows of seconds.

The platform's log of requests shows who used how much of the limit. Its truth has the expected counts.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

import httpx
import pytest

from exporter.simulator.faults import Fault, FaultKind
from exporter.simulator.platform import RateHeaders, Request
from exporter.simulator.scripts import JobScript
from exporter.simulator.server import DEMO_TOKEN, QUIET, Order, RunningSimulator, SimulatorSettings, running
from tests.background import BackgroundTask
from tests.harness import Account, Daemon, Installation, MonotonicCounters, Scrape, difference, fast, windows
from tests.waiting import eventually

SPEED = 4
LIMIT, SHARE = 200, 50
"""Requests per window, and the exporter's quarter of them."""
LARGE = replace(QUIET, jobs=200, rate_limit=LIMIT, rate_window=5, files_per_job=3)
PER_PAGE = 10
SCRIPT = "/v2/user?script"
"""The path that the user's own script requests, to identify it in the platform's log."""
ORDERS = (Order.NEWEST, Order.OLDEST, Order.MIXED)
LIVES = (
    JobScript(total=5, failed=2, queued=0.2, resolving=0.2, running=3),
    JobScript(total=4, queued=0.2, resolving=0.2, running=0.5, operation="move"),
    JobScript(total=3, failed=3, errors={"5002": 2, "none": 1}, queued=0, resolving=0, running=0),
    JobScript(total=40, failed=10, queued=0.2, resolving=1, running=6, operation="delete"),
    JobScript(total=6, failed=1, queued=0.5, resolving=0.5, running=2, operation="import"),
)


class Submitting:
    """A user who submits jobs, some of which finish between two polls."""

    def __init__(self, simulator: RunningSimulator) -> None:
        self._platform = simulator.platform
        self.submitted = 0

    def __call__(self) -> None:
        self._platform.submit(LIVES[self.submitted % len(LIVES)])
        self.submitted += 1

    @classmethod
    @contextmanager
    def to(cls, simulator: RunningSimulator) -> Iterator[Self]:
        """Submit jobs until the context ends."""
        user = cls(simulator)
        with BackgroundTask(user, every=0.2 / SPEED):
            yield user


class Script:
    """A user's script that uses each window, except for the exporter's share, as fast as it can."""

    def __init__(self, simulator: RunningSimulator, client: httpx.Client) -> None:
        self._simulator = simulator
        self._window, self._made = "", 0
        self._client = client
        self.windows = 0

    def __call__(self) -> None:
        """Send one request if the window has room for it."""
        if self._made >= LIMIT - SHARE and self._simulator.platform.now() < float(self._window) + 1:
            return
        window = self._client.get(self._simulator.url.removesuffix("/v2") + SCRIPT).headers["x-ratelimit-reset"]
        if window != self._window:
            self._window, self._made = window, 0
            self.windows += 1
        self._made += 1

    def pause(self) -> float:
        """Return the seconds until its next request."""
        return 0.05 if self._made >= LIMIT - SHARE else 0.0

    @classmethod
    @contextmanager
    def against(cls, simulator: RunningSimulator) -> Iterator[Self]:
        """Run the script until the context ends."""
        with httpx.Client(trust_env=False, headers={"X-SBG-Auth-Token": DEMO_TOKEN}) as client:
            script = cls(simulator, client)
            with BackgroundTask(script, every=script.pause):
                yield script


@contextmanager
def platform_with_short_pages(order: Order = Order.NEWEST, **settings: object) -> Iterator[RunningSimulator]:
    with running(fast(replace(LARGE, order=order, **settings), SPEED)) as simulator:  # type: ignore[arg-type]  # fields of SimulatorSettings
        simulator.platform.behave(most_per_page=PER_PAGE)
        yield simulator


def by_exporter(requests: list[Request]) -> int:
    return sum(not request.target.startswith(SCRIPT) for request in requests)


def assert_within_share(simulator: RunningSimulator, share: int = SHARE) -> None:
    assert max(by_exporter(requests) for requests in windows(simulator)) <= share
    assert {request.status for request in simulator.platform.latest_requests()} == {200}


def installation(folder: Path, simulators: Mapping[str, RunningSimulator], **settings: object) -> Installation:
    """Return an account for each of *simulators*."""
    accounts = (Account.at(simulator, name) for name, simulator in simulators.items())
    return Installation(folder / "place", *accounts, speed=SPEED, **settings)


def listed(daemon: Daemon, *accounts: str) -> None:
    """Wait until their lists have been read to the end."""
    daemon.scrape_when(lambda now: all(now.total("sbg_jobs", account=name) > 0 for name in accounts))


def settled(daemon: Daemon, simulators: Mapping[str, RunningSimulator]) -> Scrape:
    """Return a scrape in which all counters are exact, and were so some polls before."""
    for name, simulator in simulators.items():
        daemon.await_exact(name, simulator)
    polls = daemon.scrape().series("sbg_exporter_polls_total", result="success")
    scrape = daemon.scrape_when(
        lambda now: all(
            now.total("sbg_exporter_polls_total", account=name, result="success")
            >= 2 + sum(number for labels, number in polls.items() if ("account", name) in labels)
            for name in simulators
        )
    )
    for name, simulator in simulators.items():
        assert difference(scrape, name, simulator) == {}, name
    return scrape


@pytest.mark.fault(
    "the user's own scripts use up the rate limit",
    action="yields: polls less, discovery first",
    shown="the detection delay",
    recovery="as the limit allows",
)
def test_user_script_is_never_refused_and_jobs_are_counted_exactly(tmp_path: Path) -> None:
    with ExitStack() as stack:
        simulators = {str(order): stack.enter_context(platform_with_short_pages(order)) for order in ORDERS}
        place = stack.enter_context(installation(tmp_path, simulators, full_listing_interval=10))
        daemon = stack.enter_context(place.running())
        listed(daemon, *ORDERS)
        with ExitStack() as work:
            scripts = [work.enter_context(Script.against(simulator)) for simulator in simulators.values()]
            users = [work.enter_context(Submitting.to(simulator)) for simulator in simulators.values()]
            eventually(lambda: min(script.windows for script in scripts) >= 2)
            eventually(lambda: min(user.submitted for user in users) > 10)

        scrape = settled(daemon, simulators)

    for (order, simulator), user in zip(simulators.items(), users, strict=True):
        assert_within_share(simulator)
        assert scrape.value("sbg_exporter_incremental_polling", account=order) == 1
        assert scrape.value("sbg_exporter_allowance_requests", account=order) == SHARE
        assert scrape.total("sbg_jobs_finished_total", account=order) == user.submitted


@pytest.mark.fault(
    "SIGKILL in the middle of a large account's full listing",
    action="lists again from the start",
    shown="the committed counters",
    recovery="the next complete listing",
)
def test_daemon_killed_during_a_full_listing_counts_exactly(tmp_path: Path) -> None:
    counters = MonotonicCounters()
    with ExitStack() as stack:
        simulators = {str(order): stack.enter_context(platform_with_short_pages(order)) for order in ORDERS}
        place = stack.enter_context(installation(tmp_path, simulators, full_listing_interval=5))
        with place.running() as daemon:
            listed(daemon, *ORDERS)
            counters.see(daemon.scrape())
        with ExitStack() as work:
            for simulator in simulators.values():
                work.enter_context(Submitting.to(simulator))
            for number in range(4):
                daemon = place.start()
                read = (*simulators.values(),)[number % len(simulators)]
                await_slices(read, 1 + number)
                daemon.kill()

        with place.running() as daemon:
            counters.see(settled(daemon, simulators))

    for simulator in simulators.values():
        assert_within_share(simulator)


def await_slices(simulator: RunningSimulator, number: int) -> None:
    """Wait until *number* further pages after the first one have been requested."""
    wanted = len(deep_pages(simulator)) + number
    eventually(lambda: len(deep_pages(simulator)) >= wanted)


def deep_pages(simulator: RunningSimulator) -> list[Request]:
    """Return the requests for pages after the first one."""
    return [
        each
        for each in simulator.platform.latest_requests()
        if "offset=" in each.target and "offset=0&" not in each.target
    ]


@pytest.mark.fault(
    "a crash loop, for example on Kubernetes",
    action="remembers what it has used of the rate limit",
    shown="the committed counters",
    recovery="the crash loop's end",
)
def test_a_crash_loop_keeps_to_its_share(tmp_path: Path) -> None:
    with ExitStack() as stack:
        simulator = stack.enter_context(platform_with_short_pages(jobs=70, rate_limit=80, rate_window=10))
        place = stack.enter_context(installation(tmp_path, {"sim": simulator}, full_listing_interval=5))
        for _ in range(10):
            daemon = place.start()
            before = len(simulator.platform.latest_requests())
            assert daemon.await_event("daemon.started"), daemon.output()
            await_requests(simulator, before + 4, share=20)
            daemon.kill()

        with place.running() as daemon:
            listed(daemon, "sim")
            simulator.platform.submit(LIVES[2])
            settled(daemon, {"sim": simulator})

    assert_within_share(simulator, share=20)


def await_requests(simulator: RunningSimulator, number: int, share: int) -> None:
    """Wait for *number* requests, or for as many as this window allows."""
    eventually(
        lambda: (
            len(simulator.platform.latest_requests()) >= number
            or any(by_exporter(requests) >= share for requests in windows(simulator)[-1:])
        )
    )


RESETS = {str(form): form for form in RateHeaders}
UNKNOWN = ("absent", "past", "absurd")
"""Rate headers without a usable reset."""
HOUR = 3600.0
WINDOW = 4.0


@pytest.mark.fault(
    "429 with a reset in seconds, milliseconds, the past or ten years ahead, or none",
    action="waits for the reset, at most 5 minutes",
    shown="`sbg_up` 0, result `rate_limited`",
    recovery="the first poll after the wait",
)
def test_429_pauses_until_the_reset_in_any_header_format(tmp_path: Path) -> None:
    """One daemon with an account per kind of rate headers, and two whose platform's clock is an hour off."""
    with ExitStack() as stack:
        offsets = {"ahead": HOUR, "behind": -HOUR}
        simulators = {
            name: stack.enter_context(running(off_by(offsets.get(name, 0), replace(QUIET, rate_window=WINDOW))))
            for name in (*RESETS, *offsets, "healthy")
        }
        for name, form in RESETS.items():
            simulators[name].platform.behave(rate_headers=form)
        place = stack.enter_context(installation(tmp_path, simulators))
        daemon = stack.enter_context(place.running())
        daemon.scrape_when(lambda now: sum(now.series("sbg_up").values()) == len(simulators))
        healthy = simulators.pop("healthy")
        for simulator in simulators.values():
            simulator.platform.queue(Fault(kind=FaultKind.RATE_LIMITED))
        daemon.scrape_when(lambda now: now.total("sbg_exporter_polls_total", result="rate_limited") == len(simulators))
        known = {name: simulator for name, simulator in simulators.items() if name not in UNKNOWN}
        for simulator in (*known.values(), healthy):
            simulator.platform.submit(LIVES[2])
        settled(daemon, {**known, "healthy": healthy})
        silent = {name: silent_until(place, simulators[name]) for name in UNKNOWN}

    for name, simulator in simulators.items():
        requests = simulator.platform.latest_requests()
        refused = next(place for place, request in enumerate(requests) if request.status == 429)
        if name in UNKNOWN:
            assert requests[refused + 1 :] == [], name
            assert 299 <= silent[name] - requests[refused].at < 400, name  # 300 from when the daemon read the response
        else:
            assert {request.status for request in requests[refused + 1 :]} == {200}, name
            assert requests[refused + 1].at >= int(reset_told(requests, refused)), name


def off_by(seconds: float, settings: SimulatorSettings) -> SimulatorSettings:
    """Return a platform whose clock is *seconds* ahead of the daemon's."""
    now = fast(settings, SPEED)
    return replace(now, start=(now.start or 0) + seconds)


def reset_told(requests: list[Request], refused: int) -> float:
    """Return the reset in the headers of that response: the end of the window, or of one that begins then."""
    ends = 0.0
    for request in requests[:refused]:
        ends = request.at + WINDOW if request.at >= ends else ends
    return ends if requests[refused].at < ends else requests[refused].at + WINDOW


def silent_until(place: Installation, simulator: RunningSimulator) -> float:
    """Return the end of the pause in the state file, in Unix seconds."""
    with closing(sqlite3.connect(f"file:{place.state}?mode=ro", uri=True)) as state:
        [(until,)] = state.execute(
            "SELECT paused_until FROM allowance WHERE endpoint = ? AND username <> ''", (simulator.url,)
        ).fetchall()
    return float(until)


def test_incremental_polling_begins_above_six_pages_and_ends_at_four(tmp_path: Path) -> None:
    with ExitStack() as stack:
        simulator = stack.enter_context(platform_with_short_pages(jobs=55, rate_limit=100_000))
        place = stack.enter_context(installation(tmp_path, {"sim": simulator}, full_listing_interval=1))
        daemon = stack.enter_context(place.running())
        for jobs, watching in ((55, 0), (61, 1), (45, 1), (40, 0), (60, 0)):
            resize(simulator, jobs)
            await_shown(daemon, jobs, watching)
            assert daemon.await_polls("sim", 2).value("sbg_exporter_incremental_polling", account="sim") == watching, (
                jobs
            )


def await_shown(daemon: Daemon, jobs: int, watching: int) -> None:
    """Wait until this many jobs are listed and the polling mode is as given."""
    daemon.scrape_when(
        lambda now: (
            now.total("sbg_jobs") == jobs and now.value("sbg_exporter_incremental_polling", account="sim") == watching
        )
    )


def resize(simulator: RunningSimulator, jobs: int) -> None:
    """Submit jobs or remove the oldest until the list has this many."""
    there = simulator.platform.listed()
    for job_id in there[jobs:]:
        simulator.platform.remove(job_id)
    for _ in range(jobs - len(there)):
        simulator.platform.submit(LIVES[2])


@pytest.mark.fault(
    "a large list without any order",
    action="lists in full as often as the rate limit allows",
    shown="the true detection delay",
    recovery="none needed",
)
def test_detection_delay_is_correct_without_an_order(tmp_path: Path) -> None:
    with ExitStack() as stack:
        simulator = stack.enter_context(platform_with_short_pages(Order.MIXED, jobs=90, rate_limit=80))
        place = stack.enter_context(installation(tmp_path, {"sim": simulator}))
        daemon = stack.enter_context(place.running())
        listed(daemon, "sim")
        told = [0.0]
        simulator.platform.submit(LIVES[2])
        submitted = simulator.platform.now()

        def counted() -> bool:
            scrape = daemon.scrape()
            told.append(scrape.value("sbg_exporter_detection_delay_seconds", account="sim") or 0.0)
            return scrape.total("sbg_files_failed_total") > 0

        eventually(counted, every=0.1)
        delay = simulator.platform.now() - submitted

        assert max(told) > 2  # A poll per second covers only a part of the list.
        assert max(told) > delay / 2  # It is measured at the start of a poll, and a busy machine scrapes only some.
        settled(daemon, {"sim": simulator})

"""The look alone decides a poll: whatever single jobs and later pages do, in the product's own schedule and cycle.

Time passes only while the simulated platform responds and while the poller waits.
"""

import json
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from exporter.counting import values as counting
from exporter.errors import Stopping
from exporter.metrics.snapshot import AccountSnapshot
from exporter.polling.backoff import retry_delay
from exporter.polling.settings import PollSchedule
from exporter.storage.store import Store
from tests.clocks import START, ManualClock
from tests.fault_table import measure
from tests.unit.test_poller import PollerFixture, polls
from tests.width import width

Answer = Callable[[httpx.Request], httpx.Response | None]


class TimedPoller(PollerFixture):
    """A poller on its own schedule, and a platform whose responses take time.

    Attributes:
        published: each snapshot with its time in seconds since the start.
        requests: each request's path and offset, with the time at which it was sent.
        delay: seconds until the response to a request.
        answer: the response in place of the platform's; None for the platform's own.
    """

    def __init__(self, folder: Path, clock: ManualClock, store: Store) -> None:
        self.published: list[tuple[float, AccountSnapshot]] = []
        self.requests: list[tuple[float, str]] = []
        self.delay: Callable[[httpx.Request], float] = lambda _: 0.0
        self.answer: Answer = lambda _: None
        self._changes: list[tuple[float, Callable[[], None]]] = []
        super().__init__(folder, clock, store)
        self.platform.instead = self._respond

    def polled_every(self, interval: float, full_listing: float = 21600.0) -> None:
        self.schedule = PollSchedule(interval, full_listing, 600, first=0, phase=0)
        self.poller = self.new_poller()

    @property
    def elapsed(self) -> float:
        return self.clock.now - START

    def at(self, seconds: float, change: Callable[[], None]) -> None:
        """Change the platform after as many seconds."""
        self._changes.append((seconds, change))

    def run_until(self, seconds: float) -> None:
        """Run the poller until as many seconds after the start."""

        def stop(paused: float) -> None:
            self._pass(1e-6 if 0 < paused < 1e-6 else 0.0)  # less does not move a clock that shows this many seconds
            if self.elapsed >= seconds:
                raise Stopping("enough")

        self.clock.during_pause = stop
        self.poller.run()

    def publish(self, snapshot: AccountSnapshot) -> None:
        super().publish(snapshot)
        self.published.append((self.elapsed, snapshot))

    def hang(self) -> httpx.Response:
        """Let the request's whole time pass without a response."""
        self._pass(max(0.0, self.deadline.left()))
        raise httpx.ReadTimeout("no response")

    def looks(self) -> list[float]:
        """When the list was requested from its first page."""
        return [at for at, path in self.requests if path == "/async/files?0"]

    def asked(self, job_id: str) -> list[float]:
        """When a job's own endpoint was requested."""
        return [at for at, path in self.requests if path.startswith(f"/async/files/copy/{job_id}?")]

    def shown_at(self, failed: int) -> float:
        """When as many failed files were first shown."""
        return next(
            at
            for at, snapshot in self.published
            if snapshot.ledger is not None
            and snapshot.ledger.counters[counting.FILES_FAILED, ("copy",)].value >= failed
        )

    def finished_jobs(self, jobs: int) -> None:
        """Jobs that finished long ago."""
        for number in range(jobs):
            self.platform.finish(
                f"{10_000 + number}", 1, started_on="2026-09-01T00:00:00Z", finished_on="2026-09-01T00:01:00Z"
            )

    def _pass(self, seconds: float) -> None:
        self.clock.advance(seconds)
        due = [each for each in self._changes if each[0] <= self.elapsed]
        self._changes = [each for each in self._changes if each[0] > self.elapsed]
        for _, change in due:
            change()

    def _respond(self, request: httpx.Request) -> httpx.Response | None:
        path = request.url.path.removeprefix("/v2")
        self.requests.append((self.elapsed, f"{path}?{request.url.params.get('offset', '')}"))
        seconds = self.delay(request)
        if seconds > self.deadline.left():
            return self.hang()
        self._pass(seconds)
        return self.answer(request)


@pytest.fixture
def bench(tmp_path: Path, clock: ManualClock, store: Store) -> TimedPoller:
    return TimedPoller(tmp_path, clock, store)


def failed_files(bench: TimedPoller, *, truth: int) -> int:
    """The failed files that are counted. By how much they differ from the *truth* is what the fault costs."""
    failed = bench.counted(counting.FILES_FAILED)
    measure("cavatica", [failed - truth])
    return failed


def lost_connection(_: TimedPoller) -> httpx.Response:
    raise httpx.RemoteProtocolError("connection reset")


BAD_ANSWERS: dict[str, Callable[[TimedPoller], httpx.Response]] = {
    "hangs": TimedPoller.hang,
    "lost connection": lost_connection,
    "500": lambda bench: bench.platform.said(500, {"code": 90004}),
    "503": lambda bench: bench.platform.said(503, {"code": 90005}),
    "HTML": lambda _: httpx.Response(200, content=iter([b"<html>Welcome</html>"])),
    "17 MiB": lambda _: httpx.Response(200, content=iter([b" " * 2**20] * 17)),
    "another job": lambda bench: bench.platform.said(200, {"id": "9", "type": "COPY", "state": "RUNNING"}),
    "403": lambda bench: bench.platform.said(403, {"code": 90002}),
    "403 in HTML": lambda _: httpx.Response(403, content=iter([b"<html>"])),
    "404 in HTML": lambda _: httpx.Response(404, content=iter([b"<html>"])),
    "401": lambda bench: bench.platform.said(401, {"code": 90001}),
    "redirect": lambda _: httpx.Response(302, headers={"location": "/login"}, content=iter([b""])),
}
bad_answers = pytest.mark.parametrize("bad", BAD_ANSWERS.values(), ids=BAD_ANSWERS)


def unlisted(bench: TimedPoller, bad: Callable[[TimedPoller], httpx.Response], *job_ids: str) -> None:
    """After ten seconds the list no longer shows these running jobs, and their own endpoints give a bad response."""
    for job_id in job_ids:
        bench.platform.add(job_id)
    bench.at(10, lambda: bench.platform.unlisted.update(job_ids))
    bench.answer = lambda request: bad(bench) if request.url.path.rpartition("/")[2] in job_ids else None


@bad_answers
@pytest.mark.fault(
    "one job's own endpoint fails in any way",
    action="polls on; asks for that job ever less often",
    shown="`sbg_up` 1; one `job.refused`",
    recovery="none needed",
)
def test_job_whose_endpoint_fails_does_not_harm_its_account(
    bench: TimedPoller, bad: Callable[[TimedPoller], httpx.Response]
) -> None:
    bench.platform.add("1")
    unlisted(bench, bad, "2")
    bench.at(295, lambda: bench.platform.finish("1", 9, 1))

    bench.run_until(900)

    assert bench.looks() == [30.0 * number for number in range(30)]
    assert polls(bench.snapshots[-1]) == {"success": 30}
    assert all(snapshot.status.up is not False for snapshot in bench.snapshots)
    assert all(snapshot.status.auth_ok is not False for snapshot in bench.snapshots)
    assert bench.shown_at(failed=1) == 300
    assert failed_files(bench, truth=1) == 1
    assert bench.asked("2") == pytest.approx([30, 60, 90, 150, 270, 510], abs=0.1)
    assert [event["event"] for event in bench.events() if event.get("job_id") == "2"] == ["job.refused"]


@pytest.mark.fault(
    "one job's own endpoint fails, and responds again",
    action="counts the job at the next request",
    shown="`job.refused`, `job.answered`",
    recovery="the next request for that job",
)
def test_job_whose_endpoint_responds_again_is_counted_and_logged_once(bench: TimedPoller) -> None:
    unlisted(bench, lambda bench: bench.platform.said(502, {}), "2")
    bench.at(200, lambda: setattr(bench, "answer", lambda _: None))
    bench.at(200, lambda: bench.platform.finish("2", 9, 1))

    bench.run_until(900)

    assert bench.shown_at(failed=1) == 270
    assert failed_files(bench, truth=1) == 1
    events = [event["event"] for event in bench.events() if event.get("job_id") == "2"]
    assert events == ["job.refused", "job.answered", "job.finished"]


@pytest.mark.fault(
    "one job's own endpoint fails every other time",
    action="asks for it at each poll",
    shown="`sbg_up` 1",
    recovery="none needed",
)
def test_job_whose_endpoint_fails_every_other_time_is_tracked(bench: TimedPoller) -> None:
    unlisted(bench, lambda bench: bench.platform.said(502, {}), "2")
    bad = bench.answer
    bench.answer = lambda request: bad(request) if len(bench.asked("2")) % 2 else None

    bench.run_until(900)

    assert len(bench.asked("2")) == 29
    assert polls(bench.snapshots[-1]) == {"success": 30}


@bad_answers
@pytest.mark.fault(
    "one job's own endpoint always fails",
    action="asks for it ever less often; never calls it lost",
    shown="an unfinished job",
    recovery="the endpoint responds",
)
def test_job_whose_endpoint_always_fails_is_neither_lost_nor_forgotten(
    bench: TimedPoller, bad: Callable[[TimedPoller], httpx.Response]
) -> None:
    unlisted(bench, bad, "2")

    bench.run_until(3600)

    ledger = bench.snapshots[-1].ledger
    assert ledger is not None
    assert ledger.live.keys() == {"2"}
    measure("cavatica", [bench.counted(counting.JOBS_FINISHED, "lost")])
    assert bench.counted(counting.JOBS_FINISHED, "lost") == 0
    assert 7 <= len(bench.asked("2")) <= 9


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "unfinished"])
@pytest.mark.parametrize("polls_between", [1, 2, 3])
@pytest.mark.fault(
    "the process restarts all the time while one job's own endpoint fails",
    action="asks for that job as rarely as without restarts",
    shown="the job's errors, once its endpoint responds",
    recovery="the next request for that job",
)
def test_restarts_ask_for_a_job_no_more_often_and_lose_no_errors(
    bench: TimedPoller, polls_between: int, *, finished: bool
) -> None:
    bench.platform.add("1")
    bench.poll()
    bench.platform.unlisted.update(() if finished else ("1",))
    bench.platform.finish("1", 9, 1, result=None)  # lists need not have it
    bad = BAD_ANSWERS["503"]
    bench.answer = lambda request: bad(bench) if request.url.path.endswith("/copy/1") else None

    for _ in range(60):
        bench.restart()
        for _ in range(polls_between):
            bench.poll()
    asked = bench.asked("1")
    complete = {**bench.platform.jobs["1"], "result": [{"error": {"code": 5001}}]}
    bench.answer = lambda request: bench.platform.said(200, complete) if request.url.path.endswith("/copy/1") else None
    for _ in range(61):
        bench.poll()

    between = [later - earlier for earlier, later in pairwise(asked)]
    assert all(seconds >= retry_delay(number) for number, seconds in enumerate(between, start=1))
    assert between[:5] == [30, 30, 60, 120, 240]
    errors = bench.counted(counting.FILE_ERRORS, "5001")
    measure("cavatica", [errors - 1, bench.counted(counting.FILES_FAILED) - 1])
    assert errors == 1
    assert failed_files(bench, truth=1) == 1


@pytest.mark.fault(
    "one job's endpoint fails between two responses that the job is unknown",
    action="calls it lost only after the second",
    shown="outcome `lost`, once",
    recovery="none needed",
)
def test_failures_between_two_answers_that_the_job_is_unknown_do_not_lose_it_early(bench: TimedPoller) -> None:
    unlisted(bench, lambda bench: bench.platform.said(404, {"code": 10211}), "2")
    unknown = bench.answer
    bench.at(70, lambda: setattr(bench, "answer", lambda request: bad(bench) if unknown(request) else None))
    bench.at(1000, lambda: setattr(bench, "answer", unknown))
    bad = BAD_ANSWERS["500"]

    bench.run_until(4000)

    lost = [at for at, snapshot in bench.published if snapshot.ledger is not None and not snapshot.ledger.live]
    measure("cavatica", [bench.counted(counting.JOBS_FINISHED, "lost") - 1])
    assert bench.counted(counting.JOBS_FINISHED, "lost") == 1
    assert 1000 < lost[0] <= 3000


@pytest.mark.parametrize("bad", [TimedPoller.hang, BAD_ANSWERS["500"]], ids=["hang", "500"])
@pytest.mark.fault(
    "the own endpoints of a hundred jobs fail or hang",
    action="reads the list at every poll; shares what is left of its time",
    shown="`sbg_up` 1; another job's failures within two minutes",
    recovery="none needed",
)
def test_hundred_bad_jobs_leave_time_for_a_good_one(
    bench: TimedPoller, bad: Callable[[TimedPoller], httpx.Response]
) -> None:
    unlisted(bench, bad, *(f"{number:03d}" for number in range(100)), "good")
    bad_answer = bench.answer
    bench.answer = lambda request: None if request.url.path.endswith("good") else bad_answer(request)
    bench.at(601, lambda: bench.platform.finish("good", 9, 1))

    bench.run_until(1800)

    assert set(bench.looks()) >= {30.0 * number for number in range(60)}
    assert set(polls(bench.snapshots[-1])) == {"success"}
    assert bench.shown_at(failed=1) <= 601 + 120
    assert failed_files(bench, truth=1) == 1


@pytest.mark.fault(
    "one job's own endpoint hangs, of a large account on a slow platform",
    action="keeps looking and listing",
    shown="a failed file within an interval; complete listings",
    recovery="none needed",
)
def test_bad_job_of_a_large_account_delays_neither_looks_nor_the_full_listing(bench: TimedPoller) -> None:
    bench.polled_every(5, full_listing=300)
    bench.finished_jobs(1000)
    unlisted(bench, TimedPoller.hang, "20000")
    bench.delay = lambda _: 0.5
    bench.at(500.1, lambda: bench.platform.finish("20001", 9, 1))

    bench.run_until(1000)

    assert set(polls(bench.snapshots[-1])) == {"success"}
    assert bench.shown_at(failed=1) <= 500.1 + 5 + 2
    assert failed_files(bench, truth=1) == 1
    listed = {snapshot.status.last_full_listing for snapshot in bench.snapshots}
    assert len(listed) >= 4


@pytest.mark.fault(
    "429 in the middle of a poll",
    action="asks for nothing more until the rate limit's reset",
    shown="what the poll has seen",
    recovery="the polls after the reset",
)
def test_used_up_rate_limit_stops_the_rest_of_the_poll(bench: TimedPoller) -> None:
    unlisted(bench, lambda bench: bench.platform.said(429, {"code": 1000}), "2", "3")

    bench.run_until(31)

    assert len(bench.asked("2") + bench.asked("3")) == 1
    assert bench.looks() == [0, 30]
    assert polls(bench.snapshots[-1]) == {"success": 2}


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        pytest.param(503, {}, {"code": 0}, id="maintenance"),
        pytest.param(503, {"retry-after": "100"}, {"code": 0}, id="long maintenance"),
        pytest.param(503, {"retry-after": "100"}, {"code": 1}, id="Retry-After"),
        pytest.param(429, {"x-ratelimit-remaining": "500"}, {"code": 1000}, id="rate limit that is not used up"),
        pytest.param(429, {"x-ratelimit-remaining": "500", "retry-after": "100"}, {}, id="the same with Retry-After"),
    ],
)
@pytest.mark.fault(
    "one job's endpoint reports maintenance, asks for a pause, or answers 429 although requests are left",
    action="asks for no single job until the pause ends",
    shown="everything on the list; one log line",
    recovery="the end of the pause",
)
def test_pause_that_one_job_asks_for_delays_no_look(
    bench: TimedPoller, status: int, headers: dict[str, str], body: dict[str, int]
) -> None:
    content = json.dumps(body).encode()
    unlisted(bench, lambda _: httpx.Response(status, headers=headers, content=iter([content])), "2", "3")
    bench.at(95, lambda: bench.platform.finish("4", 9, 1))

    bench.run_until(181)

    assert bench.looks() == [30.0 * number for number in range(7)]
    assert polls(bench.snapshots[-1]) == {"success": 7}
    assert bench.snapshots[-1].status.maintenance is False
    assert bench.shown_at(failed=1) == 120
    asked = sorted(bench.asked("2") + bench.asked("3"))
    assert 1 <= len(asked) <= 4
    assert min(later - earlier for earlier, later in pairwise([*asked, 1000])) >= 60


@pytest.mark.fault(
    "401 for one job only",
    action="asks for the user once in that poll",
    shown="`sbg_auth_ok` 1",
    recovery="none needed",
)
def test_token_that_one_job_refuses_is_proven_by_its_user(bench: TimedPoller) -> None:
    unlisted(bench, BAD_ANSWERS["401"], "2", "3")

    bench.run_until(31)

    users = [at for at, path in bench.requests if path == "/user?"]
    assert users == [0, 30]
    assert len(bench.asked("2") + bench.asked("3")) == 2
    assert bench.snapshots[-1].status.auth_ok is True


@pytest.mark.fault(
    "401 for one job, and for the user",
    action="takes the token as refused",
    shown="`sbg_auth_ok` 0, result `unauthorized`",
    recovery="a new token",
)
def test_token_that_its_user_refuses_too_is_refused(bench: TimedPoller) -> None:
    unlisted(bench, BAD_ANSWERS["401"], "2")
    bad = bench.answer
    bench.answer = lambda request: (
        bench.platform.said(401, {"code": 90001})
        if bench.elapsed > 20 and request.url.path.endswith("/user")
        else bad(request)
    )

    bench.run_until(31)

    assert polls(bench.snapshots[-1]) == {"success": 1, "unauthorized": 1}
    assert bench.snapshots[-1].status.auth_ok is False


# ---- a slow platform ----


@settings(
    max_examples=width(6, 60),
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking runs for minutes
)
@given(
    interval=st.sampled_from([1.0, 5.0, 6.0]),
    slowest=st.sampled_from([0.1, 0.2, 1 / 3]),
    evenly=st.booleans(),
    failing=st.floats(300, 400),  # after the first full listing
    seed=st.integers(0, 2**32),
)
@pytest.mark.fault(
    "a slow platform: each page takes up to a third of the interval",
    action="reads the newest jobs first, at every poll",
    shown="a failed file within an interval",
    recovery="none needed",
)
def test_failed_file_is_shown_within_an_interval_while_pages_are_slow(
    tmp_path_factory: pytest.TempPathFactory,
    interval: float,
    slowest: float,
    *,
    evenly: bool,
    failing: float,
    seed: int,
) -> None:
    dice = random.Random(seed)  # noqa: S311  # a repeatable platform
    store = Store(tmp_path_factory.mktemp("state") / "state.db")
    bench = TimedPoller(tmp_path_factory.mktemp("token"), ManualClock(), store)
    bench.polled_every(interval, full_listing=60)
    bench.finished_jobs(1000)
    bench.platform.add("20000")
    bench.delay = lambda _: interval * slowest * (1.0 if evenly else dice.random())
    bench.at(failing, lambda: bench.platform.finish("20000", 9, 1))

    bench.run_until(failing + 4 * interval)
    store.close()

    effective = bench.snapshots[-1].status.interval
    assert effective <= max(interval, 2.5)
    assert bench.shown_at(failed=1) <= failing + effective + 2
    assert failed_files(bench, truth=1) == 1


@pytest.mark.parametrize(
    ("interval", "look", "page", "within"),
    [
        pytest.param(5, 0.1, 1.7, 600, id="a third of the interval"),
        pytest.param(5, 1.7, 1.7, 600, id="a third, looks too"),
        pytest.param(5, 0.1, 20, 5000, id="longer than the interval"),
        pytest.param(5, 6, 6, 3000, id="longer than the interval, looks too"),
        pytest.param(30, 20, 20, 6000, id="two thirds of the interval, looks too"),
    ],
)
@pytest.mark.fault(
    "a platform so slow that a page takes longer than the interval",
    action="spreads the full listing over many polls",
    shown="`sbg_up` 1; complete listings",
    recovery="none needed",
)
def test_full_listing_ends_on_a_slow_platform(
    bench: TimedPoller, interval: float, look: float, page: float, within: float
) -> None:
    bench.polled_every(interval, full_listing=300)
    bench.finished_jobs(1000)
    bench.platform.add("20000")
    bench.at(1, lambda: setattr(bench, "delay", slow))

    def slow(request: httpx.Request) -> float:
        return page if 0 < int(request.url.params.get("offset", "0")) < 900 else look

    bench.run_until(within)

    listed = {snapshot.status.last_full_listing for snapshot in bench.snapshots}
    assert len(listed - {None}) >= 2
    assert set(polls(bench.snapshots[-1])) == {"success"}


# ---- a state file that cannot be written ----


@pytest.mark.fault(
    "a job is first seen while the state file cannot be written, and gone before it can",
    action="counts nothing that was never committed",
    shown="the gauges without that job",
    recovery="the next poll",
    part="The state file",
)
def test_job_that_was_never_committed_disappears_with_the_list(bench: TimedPoller) -> None:
    bench.platform.add("1")
    bench.poll()
    bench.platform.add("2", failed=1)
    bench.platform.finish("3", 1, 1, started_on=None)
    bench.answer = lambda request: bench.platform.said(500, {}) if request.url.path.endswith("/3") else None
    bench.store._db.execute("PRAGMA query_only = ON")  # noqa: SLF001  # no room

    full = bench.poll()
    assert full.ledger is not None
    assert full.ledger.live.keys() == {"1", "2", "3"}
    for job_id in ("2", "3"):
        del bench.platform.jobs[job_id]
    gone = bench.poll()
    bench.store._db.execute("PRAGMA query_only = OFF")  # noqa: SLF001  # and room again
    asked = len(bench.requests)
    later = bench.poll()

    for snapshot in (gone, later):
        assert snapshot.ledger is not None
        assert snapshot.ledger.live.keys() == {"1"}
        assert snapshot.ledger.failed == {}
        assert snapshot.listed == {("copy", "running"): (1, 10, 0, 0)}
    assert [path for _, path in bench.requests[asked:]] == ["/async/files?0"]
    assert failed_files(bench, truth=0) == 0


@pytest.mark.fault(
    "a job begins and ends while the state file cannot be written",
    action="counts it when it can",
    shown="gauges move on, counters stay",
    recovery="the next poll",
    part="The state file",
)
def test_job_that_is_still_listed_when_there_is_room_is_counted_once(bench: TimedPoller) -> None:
    bench.poll()
    bench.store._db.execute("PRAGMA query_only = ON")  # noqa: SLF001  # no room
    bench.platform.add("2", failed=1)
    for _ in range(3):
        bench.poll()
    bench.platform.finish("2", 9, 1)
    bench.poll()
    bench.store._db.execute("PRAGMA query_only = OFF")  # noqa: SLF001  # and room again

    for _ in range(3):
        bench.poll()

    assert failed_files(bench, truth=1) == 1
    assert bench.counted(counting.JOBS_SUBMITTED) == 1


@pytest.mark.fault(
    "hundreds of jobs begin while the state file cannot be written",
    action="reads on until it meets what is committed",
    shown="gauges move on, counters stay",
    recovery="the next polls",
    part="The state file",
)
def test_uncommitted_jobs_of_a_large_account_are_found_again(bench: TimedPoller) -> None:
    bench.finished_jobs(1000)
    bench.poll()
    bench.store._db.execute("PRAGMA query_only = ON")  # noqa: SLF001  # no room
    for number in range(250):
        bench.platform.add(f"{20_000 + number}", failed=1)
        if number % 100 == 0:
            bench.poll()
    bench.store._db.execute("PRAGMA query_only = OFF")  # noqa: SLF001  # and room again

    for _ in range(3):
        bench.poll()

    assert failed_files(bench, truth=250) == 250


@pytest.mark.fault(
    "the state file cannot be written, then the list fails",
    action="keeps the gauges of the last poll",
    shown="`sbg_up` 0; the gauges as they were",
    recovery="the next poll",
    part="The state file",
)
def test_poll_that_sees_nothing_leaves_the_gauges_ahead(bench: TimedPoller) -> None:
    bench.platform.add("1")
    bench.poll()
    bench.platform.add("1", completed=5)
    bench.store._db.execute("PRAGMA query_only = ON")  # noqa: SLF001  # no room
    bench.poll()
    bench.answer = lambda _: bench.platform.said(502, {})

    snapshot = bench.poll()

    assert snapshot.status.up is False
    assert snapshot.ledger is not None
    assert snapshot.ledger.live["1"].completed == 5


# ---- a list that is too large to read ----


class OversizedList:
    """Answers list requests whose page has one of these positions with more than can be read."""

    def __init__(self, bench: TimedPoller, *positions: int, every: bool = False) -> None:
        self.bench = bench
        self.positions = set(positions)
        self.every = every
        self.mebibytes = 0

    def __call__(self, request: httpx.Request) -> httpx.Response | None:
        if not request.url.path.endswith("/files"):
            return None
        offset, limit = int(request.url.params["offset"]), int(request.url.params["limit"])
        if self.every or self.positions.intersection(range(offset, offset + limit)):
            return httpx.Response(200, content=self._body())
        return None

    def _body(self) -> Iterator[bytes]:
        for _ in range(17):
            self.mebibytes += 1
            yield b" " * 2**20


@pytest.mark.fault(
    "every response of the list is larger than can be read",
    action="asks for fewer jobs, and reads ever less of them",
    shown="`sbg_up` 0, result `bad_answer`",
    recovery="the first response that can be read",
)
def test_list_that_cannot_be_read_fails_the_poll_and_is_read_less_and_less(bench: TimedPoller) -> None:
    bench.platform.add("1")
    bench.poll()
    bench.answer = oversized = OversizedList(bench, every=True)

    read = []
    for _ in range(20):
        before = oversized.mebibytes
        snapshot = bench.poll()
        read.append(oversized.mebibytes - before)
        assert snapshot.status.up is False
    bench.answer = lambda _: None

    assert polls(snapshot) == {"success": 1, "bad_answer": 20}
    assert "even with one job" in snapshot.status.last_error
    assert sum(read[1:]) <= 19 * 6 + 3 * 4 * 17
    assert max(read[-3:]) <= 6
    assert bench.poll().status.up is True


@pytest.mark.fault(
    "one job's record is larger than can be read",
    action="reads the jobs round it, and that job by its own endpoint",
    shown="`sbg_exporter_records_skipped_total`; no totals by state",
    recovery="the record can be read",
)
def test_job_that_is_too_large_costs_a_small_account_its_totals_only(bench: TimedPoller) -> None:
    for number in range(8):
        bench.platform.add(str(number))
    bench.poll()
    bench.answer = OversizedList(bench, 4)
    for job_id in ("1", "6"):
        bench.platform.finish(job_id, 9, 1)
    bench.platform.finish("4", 9, 1)  # its own endpoint can still be read

    for _ in range(10):
        snapshot = bench.poll(after=300)

    assert set(polls(snapshot)) == {"success"}
    assert failed_files(bench, truth=3) == 3
    assert snapshot.listed is None
    assert snapshot.status.counters["sbg_exporter_records_skipped_total"]["too_large",] > 0


@pytest.mark.fault(
    "one job's record in a large list is larger than can be read",
    action="reads the jobs round it; takes no listing as complete",
    shown="`sbg_up` 1; everything but that job",
    recovery="the record can be read",
)
def test_job_that_is_too_large_keeps_a_large_account_s_listing_from_being_complete(bench: TimedPoller) -> None:
    bench.finished_jobs(1000)
    for job_id in ("10003", "10480", "10520"):
        bench.platform.finish(job_id, 9, 1)
    bench.answer = OversizedList(bench, 500)

    for _ in range(30):
        snapshot = bench.poll(after=60)

    assert set(polls(snapshot)) == {"success"}
    assert failed_files(bench, truth=3) == 3
    assert snapshot.status.last_full_listing is None
    bench.answer = lambda _: None
    for _ in range(30):
        snapshot = bench.poll(after=60)
    assert snapshot.status.last_full_listing is not None


@pytest.mark.fault(
    "the only job's record is larger than can be read",
    action="does not take the list as empty",
    shown="result `bad_answer`",
    recovery="the record can be read",
)
def test_list_of_which_no_job_can_be_read_is_not_an_empty_one(bench: TimedPoller) -> None:
    bench.platform.add("1")
    bench.answer = OversizedList(bench, 0)

    snapshot = bench.poll()

    assert polls(snapshot) == {"bad_answer": 1}
    assert snapshot.listed is None

"""One account's polls against a platform that is a function: real ledger, real SQLite, no time passing by itself."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest

from exporter.api.allowance import AllowanceKey, AllowancePool
from exporter.api.client import Client
from exporter.api.deadline import Deadline
from exporter.clock import Clock
from exporter.config.accounts import AccountConfig, PendingAccount
from exporter.config.tokens import TokenFile
from exporter.counting import values as counting
from exporter.counting.values import Ledger, Rules
from exporter.errors import ConfigError, DuplicateAccount, Stopping, WrongAccount
from exporter.logs import logger
from exporter.metrics.snapshot import AccountSnapshot
from exporter.polling.identity import IdentityRegistry
from exporter.polling.pending import PendingPoller
from exporter.polling.poller import SETUP_INTERVAL, Poller, UsageEstimate
from exporter.polling.settings import PollerSettings, PollSchedule
from exporter.polling.stats import PollStats
from exporter.storage.store import Store
from tests.clocks import START, ManualClock
from tests.fault_table import measure

ENDPOINT = "https://p.example/v2"


class Platform:
    """The far side of the wire: jobs, users by token, and whatever answer is to come instead."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.jobs: dict[str, dict[str, Any]] = {}
        self.unlisted: set[str] = set()
        self.users = {"t0k3n": "rfranklin"}
        self.instead: Callable[[httpx.Request], httpx.Response | None] = lambda _: None
        self.asked: list[str] = []
        self.dated = True
        self.clock_ahead = 0.0
        self.dates: list[str | None] = []
        """The Date headers of the next responses; None for none."""

    def add(
        self, job_id: str, state: str = "RUNNING", total: int = 10, completed: int = 0, failed: int = 0, **more: object
    ) -> None:
        self.jobs[job_id] = {
            "id": job_id,
            "type": "COPY",
            "state": state,
            "total_files": total,
            "completed_files": completed,
            "failed_files": failed,
            "result": [],
            **more,
        }

    def finish(self, job_id: str, completed: int, failed: int = 0, **more: object) -> None:
        times = {"started_on": "2026-09-21T14:20:00Z", "finished_on": "2026-09-21T14:20:10Z"}
        result = [{"error": {"code": 5001}}] * failed
        self.add(job_id, "FINISHED", completed + failed, completed, failed, **{"result": result, **times, **more})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v2")
        self.asked.append(path)
        instead = self.instead(request)
        if instead is not None:
            return instead
        user = self.users.get(request.headers["X-SBG-Auth-Token"])
        if user is None:
            return self.said(401, {"status": 401, "code": 90001, "message": "Unauthorized."})
        if path == "/user":
            return self.said(200, {"username": user})
        if path == "/async/files":
            listed = [job for job_id, job in self.jobs.items() if job_id not in self.unlisted]
            offset, limit = int(request.url.params["offset"]), int(request.url.params["limit"])
            return self.said(200, {"items": listed[offset : offset + limit], "links": []})
        job = self.jobs.get(path.rpartition("/")[2])
        return self.said(200, job) if job else self.said(404, {"code": 10211, "message": "Job not found"})

    def said(self, status: int, body: object) -> httpx.Response:
        date = _http_date(self.clock.now + self.clock_ahead) if self.dated else None
        date = self.dates.pop(0) if self.dates else date
        at = httpx.Headers({} if date is None else {"Date": date})
        # As an iterator, the body is read the way it is from a socket.
        return httpx.Response(status, headers=at, content=iter([json.dumps(body).encode()]))


def polls(snapshot: AccountSnapshot) -> dict[str, int]:
    """How many polls of the account had which result."""
    return {result: number for (result,), number in snapshot.status.counters["sbg_exporter_polls_total"].items()}


def _http_date(at: float) -> str:
    return formatdate(at, usegmt=True)


class PollerFixture:
    """A poller with everything around it."""

    def __init__(self, folder: Path, clock: ManualClock, store: Store) -> None:
        self.clock = clock
        self.deadline = Deadline(clock)
        self.platform = Platform(self.clock)
        self.store = store
        self.token = folder / "token"
        self.token.write_text("t0k3n\n")
        self.log = io.StringIO()
        self.snapshots: list[AccountSnapshot] = []
        self.identities = IdentityRegistry(["cavatica", "again"])
        self.rules = Rules()
        self.schedule = PollSchedule(30, 21600, 600, first=0, phase=0)
        self.poller = self.new_poller()

    def new_poller(
        self,
        name: str = "cavatica",
        *,
        clock: Clock | None = None,
        share: float = 0.25,
        saving: bool = False,
        file: str = "token",
        division: str = "",
        expected_user: str = "",
        stats: PollStats | None = None,
    ) -> Poller:
        """*saving*: whether the allowance is saved in the state file, as it is in the daemon."""
        allowances = AllowancePool(
            share,
            saved=(lambda key: self.store.allowance(key, self.clock.time())) if saving else None,
            save=(lambda key, saved: self.store.save_allowance(key, saved, self.clock.time())) if saving else None,
        )
        return Poller(
            AccountConfig(name, ENDPOINT, division, TokenFile(self.token.with_name(file)), ca_file=None, proxy=None),
            connect=lambda observer: Client(
                ENDPOINT,
                httpx.MockTransport(self.platform),
                self.deadline,
                allowance=allowances.of(AllowanceKey(ENDPOINT, "", name), self.clock.monotonic()),
                clock=self.clock,
                observer=observer,
                timeout=30,
            ),
            store=self.store,
            identities=self.identities,
            allowances=allowances,
            settings=PollerSettings(self.schedule, self.rules, 30, show_username=True),
            clock=clock or self.clock,
            publish=self.publish,
            log=logger("json", "info", self.log),
            expected_user=expected_user,
            stats=stats,
        )

    def pending(self, *, until: float) -> PendingPoller:
        """A poller of an account whose profile is missing *until* then."""

        def resolve() -> AccountConfig:
            if self.clock.time() < until:
                raise ConfigError("no profile [cavatica]")
            return self.poller.account

        return PendingPoller(
            PendingAccount("cavatica", "no profile [cavatica]", "add it", resolve),
            self.schedule.poll_interval,
            allowance=AllowancePool(0.25).of(AllowanceKey("", "", "cavatica"), self.clock.monotonic()),
            begin=lambda _, stats: self.new_poller(stats=stats),
            clock=self.clock,
            publish=self.publish,
            log=logger("json", "info", self.log),
        )

    def publish(self, snapshot: AccountSnapshot) -> None:
        self.snapshots.append(snapshot)

    def poll(self, after: float = 30) -> AccountSnapshot:
        """One poll, *after* seconds."""
        self.clock.advance(after)
        self.wait = self.poller.poll()
        return self.snapshots[-1]

    def restart(self, *, downtime: float = 0.0) -> None:
        """End the process, and start another one after *downtime*."""
        self.clock.advance(downtime)
        self.poller = self.new_poller(saving=True)

    def stored(self) -> Ledger:
        """The ledger as the next process will find it."""
        ledger = self.store.load("cavatica", ENDPOINT, "rfranklin", "", 0.0)
        assert ledger is not None
        return ledger

    def counted(self, family: str, *labels: str) -> int:
        ledger = self.snapshots[-1].ledger
        assert ledger is not None
        return ledger.counters[family, ("copy", *labels)].value

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


@pytest.fixture
def bench(tmp_path: Path, clock: ManualClock, store: Store) -> PollerFixture:
    return PollerFixture(tmp_path, clock, store)


def test_a_first_poll_asks_who_it_is_then_lists_then_shows(bench: PollerFixture) -> None:
    bench.platform.add("1", completed=3, failed=1)

    snapshot = bench.poll()

    assert bench.platform.asked == ["/user", "/async/files"]
    assert bench.counted(counting.FILES_FAILED) == 1
    assert snapshot.listed is not None
    assert snapshot.listed["copy", "running"] == (1, 10, 3, 1)
    assert snapshot.status.up is True
    assert snapshot.status.username == "rfranklin"
    assert snapshot.ledger is not None
    assert snapshot.ledger.account.counting_since == START + 30
    assert bench.wait is None


def test_later_polls_only_list(bench: PollerFixture) -> None:
    bench.poll()
    bench.poll()

    assert bench.platform.asked == ["/user", "/async/files", "/async/files"]


def test_a_poll_in_which_nothing_changed_commits_nothing_and_logs_nothing(bench: PollerFixture) -> None:
    bench.platform.add("1", completed=3)
    ledger = bench.poll().ledger
    logged = bench.log.getvalue()

    assert bench.poll().ledger is ledger
    assert bench.log.getvalue() == logged


def test_a_token_file_that_others_can_read_by_now_is_warned_of_once(bench: PollerFixture) -> None:
    def warned() -> list[str]:
        return [str(event["reason"]) for event in bench.events() if event["event"] == "token.exposed"]

    bench.token.chmod(0o600)
    bench.poller = bench.new_poller()
    bench.poll()
    assert warned() == []
    bench.token.chmod(0o644)
    bench.poll()
    bench.poll()
    assert warned() == [f"{bench.token}: others can read this token file (mode 0644); chmod o= it"]
    bench.token.chmod(0o600)
    bench.poll()
    bench.token.chmod(0o640)
    bench.poll()
    assert len(warned()) == 1


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("0123456789abcdef0123456789abcdef", ""),
        (
            "nineteen-characters",
            "expected 32 hexadecimal characters (0 to 9, a to f), as on the platform's token page; found 19 characters",
        ),
        ('"0123456789abcdef0123456789abcdef"', "it has quotation marks; expected the token alone"),
        ("token:0123456789abcdef0123456789abcdef", "it begins with a name and a colon"),
        ("0123456789abcdef0123456789abcdeg", "found others"),
    ],
    ids=["usual", "short", "quoted", "prefix", "not hexadecimal"],
)
def test_next_step_for_a_refused_token_names_its_file_and_what_is_wrong_with_its_form(
    bench: PollerFixture, text: str, form: str
) -> None:
    bench.token.write_text(text)
    bench.platform.instead = lambda _: bench.platform.said(401, {"code": 90001})

    bench.poll()

    [paused] = [event for event in bench.events() if event["event"] == "polling.paused"]
    assert f"nothing else, to the token file {bench.token};" in paused["next_step"]
    assert form in paused["next_step"]
    assert ("looks wrong" in paused["next_step"]) == bool(form)
    assert text not in bench.log.getvalue()


def test_every_five_minutes_the_state_file_says_that_the_account_was_listed(bench: PollerFixture) -> None:
    """So that another process can tell; a poll that fails does not say so."""

    def listed_at() -> float:
        [(at,)] = bench.store._db.execute("SELECT local_time FROM wait_clock").fetchall()  # noqa: SLF001
        return float(at)

    bench.platform.add("1", completed=3)
    bench.poll()
    first = listed_at()
    bench.poll(after=299)
    assert listed_at() == first
    bench.platform.instead = lambda _: bench.platform.said(502, {})
    bench.poll(after=600)
    assert listed_at() == first
    bench.platform.instead = lambda _: None
    bench.poll()
    assert listed_at() == bench.clock.time()


def test_an_unfinished_job_that_the_list_no_longer_shows_is_asked_for(bench: PollerFixture) -> None:
    bench.platform.add("1", completed=3)
    bench.poll()
    bench.platform.unlisted.add("1")
    bench.platform.finish("1", 9, 1)

    snapshot = bench.poll()

    assert bench.platform.asked[-1] == "/async/files/copy/1"
    assert bench.counted(counting.JOBS_FINISHED, "partial") == 1
    assert bench.counted(counting.FILE_ERRORS, "5001") == 1
    assert snapshot.listed == {}


def test_a_job_that_the_platform_does_not_know_is_lost_after_a_while(bench: PollerFixture) -> None:
    bench.platform.add("1", completed=3)
    bench.poll()
    del bench.platform.jobs["1"]

    bench.poll()
    bench.poll(after=290)
    assert bench.counted(counting.JOBS_FINISHED, "lost") == 0
    bench.poll(after=10)

    assert bench.counted(counting.JOBS_FINISHED, "lost") == 1


def test_a_finish_without_times_is_followed_up_in_the_same_poll_and_once(bench: PollerFixture) -> None:
    bench.poll()
    bench.platform.finish("1", 2, 1, started_on=None, finished_on=None)

    bench.poll()
    bench.poll()

    assert bench.platform.asked.count("/async/files/copy/1") == 1
    assert bench.counted(counting.JOBS_FINISHED, "partial") == 1


def test_errors_follow_although_a_proxy_s_page_came_in_their_place_at_first(bench: PollerFixture) -> None:
    listed: dict[str, Any] = {}
    refusals = iter([httpx.Response(200, content=iter([b"<html>Welcome</html>"])), bench.platform.said(400, {})])

    def answer(request: httpx.Request) -> httpx.Response | None:
        if request.url.path.endswith("/async/files"):  # without results
            return bench.platform.said(200, {"items": list(listed.values()), "links": []})
        return next(refusals, None) if "/copy/" in request.url.path else None

    bench.platform.instead = answer
    bench.poll()
    bench.platform.finish("1", 2, 1)
    listed["1"] = bench.platform.jobs["1"] | {"result": []}

    for _ in range(4):
        bench.poll()

    assert bench.counted(counting.FILE_ERRORS, "5001") == 1
    assert bench.platform.asked.count("/async/files/copy/1") == 3


def test_finish_is_logged_with_the_errors_that_the_same_poll_requests(bench: PollerFixture) -> None:
    bench.poll()
    bench.platform.finish("1", 2, 1)
    listed = bench.platform.jobs["1"] | {"result": []}
    bench.platform.instead = lambda request: (
        bench.platform.said(200, {"items": [listed], "links": []}) if request.url.path.endswith("/files") else None
    )

    bench.poll()

    [finished] = [event for event in bench.events() if event["event"] == "job.finished"]
    assert finished["errors"] == "5001:1"


def test_finish_is_logged_once_although_an_error_ends_the_request_for_its_errors(bench: PollerFixture) -> None:
    bench.poll()
    bench.platform.finish("1", 2, 1)
    listed = bench.platform.jobs["1"] | {"result": []}

    def answer(request: httpx.Request) -> httpx.Response | None:
        if request.url.path.endswith("/files"):
            return bench.platform.said(200, {"items": [listed], "links": []})
        raise RuntimeError("a bug")

    bench.platform.instead = answer
    bench.poll()
    bench.poll()

    assert [event["job_id"] for event in bench.events() if event["event"] == "job.finished"] == ["1"]


@pytest.mark.fault(
    "a failed job's own endpoint responds with a result that is no list",
    action="counts the job; asks for its errors again",
    shown="`job.refused`; the job without its errors",
    recovery="a response with a list",
)
def test_errors_follow_although_the_first_result_was_no_list(bench: PollerFixture) -> None:
    bench.platform.add("1")
    bench.poll()
    bench.platform.unlisted.add("1")
    bench.platform.finish("1", 2, 1, result={"error": "none of your business"})

    assert bench.poll().status.up is True
    assert bench.counted(counting.JOBS_FINISHED, "partial") == 1
    bench.platform.finish("1", 2, 1)
    bench.poll()

    measure("cavatica", [bench.counted(counting.FILE_ERRORS, "5001") - 1])
    assert bench.counted(counting.FILE_ERRORS, "5001") == 1
    events = [event["event"] for event in bench.events() if event["event"] in {"job.refused", "job.answered"}]
    assert events == ["job.refused", "job.answered"]


def test_finished_job_whose_endpoint_always_fails_is_requested_ever_less_often(bench: PollerFixture) -> None:
    bench.poll()
    bench.platform.finish("1", 2, 1, started_on=None, finished_on=None)
    bench.platform.instead = lambda request: bench.platform.said(500, {}) if "/copy/" in request.url.path else None

    asked = [bench.platform.asked.count("/async/files/copy/1") for _ in range(20) if bench.poll().status.up]

    assert asked == [1, 2, 3, 3, 4, 4, 4, 4, *[5] * 8, *[6] * 4]


@pytest.mark.parametrize("others", [(), ("2",)])
def test_job_that_ends_without_its_own_endpoint_leaves_nothing_to_retry_behind_in_one_poll_per_process(
    bench: PollerFixture, others: tuple[str, ...]
) -> None:
    """As `once` in a cron job polls. A page of the list shows the end, which the job's own endpoint never does."""
    jobs = ("1", *others)
    for job in jobs:
        bench.platform.add(job)
    bench.poll()
    bench.platform.unlisted.update(jobs)
    bench.platform.instead = lambda request: bench.platform.said(500, {}) if "/copy/" in request.url.path else None
    bench.restart()
    bench.poll()
    assert bench.stored().retries.keys() == set(jobs)

    bench.platform.unlisted.remove("1")
    bench.platform.finish("1", 10)
    for _ in range(2):
        bench.restart()
        bench.poll()

    assert bench.counted(counting.JOBS_FINISHED, "succeeded") == 1
    assert bench.stored().retries.keys() == set(others)


def test_one_job_that_cannot_be_read_does_not_end_the_poll(bench: PollerFixture) -> None:
    bench.platform.add("1")
    bench.platform.add("2")
    bench.poll()
    bench.platform.unlisted |= {"1", "2"}
    bench.platform.finish("2", 10)
    bench.platform.instead = lambda request: bench.platform.said(400, {}) if request.url.path.endswith("/1") else None

    snapshot = bench.poll()

    assert polls(snapshot)["success"] == 2
    assert bench.counted(counting.JOBS_FINISHED, "succeeded") == 1
    assert bench.events()[-2]["event"] == "job.refused"


@pytest.mark.parametrize(
    ("status", "body", "result"),
    [
        (500, {}, "unreachable"),
        (401, {"code": 90001}, "unauthorized"),
        (403, {}, "unauthorized"),
        (429, {"code": 1000}, "rate_limited"),
        (503, {"code": 0}, "maintenance"),
        (503, {"code": 90005}, "unreachable"),
        (404, {}, "bad_answer"),
        (200, "<html>", "bad_answer"),
        (302, {}, "bad_answer"),
    ],
)
def test_each_failure_has_its_result_and_keeps_what_was_shown(
    bench: PollerFixture, status: int, body: object, result: str
) -> None:
    bench.platform.add("1", completed=3)
    good = bench.poll()
    bench.platform.instead = lambda _: bench.platform.said(status, body)

    snapshot = bench.poll()

    assert polls(snapshot) == {"success": 1, result: 1}
    assert snapshot.status.up is False
    assert snapshot.status.last_error
    assert snapshot.ledger is good.ledger
    assert snapshot.listed is good.listed
    assert snapshot.gauges_until == good.gauges_until


def test_a_page_that_fails_leaves_the_gauges_but_counts_what_was_seen(bench: PollerFixture) -> None:
    for number in range(150):
        bench.platform.add(f"{number:03d}")
    good = bench.poll()
    for number in range(150):
        bench.platform.add(f"{number:03d}", failed=1)
    bench.platform.instead = lambda request: (
        bench.platform.said(502, {}) if request.url.params.get("offset") == "99" else None
    )

    snapshot = bench.poll()

    assert snapshot.status.up is False
    assert snapshot.listed is good.listed
    assert bench.counted(counting.FILES_FAILED) == 100


def test_a_bad_page_hides_nothing_of_the_pages_before_it(bench: PollerFixture) -> None:
    for number in range(150):
        bench.platform.add(f"{number:03d}")
    bench.poll()
    bench.platform.instead = lambda request: (
        bench.platform.said(200, "<html>") if request.url.params.get("offset") == "99" else None
    )
    bench.poll()
    bench.platform.add("000", failed=5)

    snapshot = bench.poll()

    assert snapshot.status.last_error
    assert bench.counted(counting.FILES_FAILED) == 5


def test_a_listing_that_took_many_polls_goes_on_where_a_page_failed(bench: PollerFixture) -> None:
    for number in range(6000):
        bench.platform.add(f"{number:04d}")
    bench.platform.instead = lambda request: (
        bench.platform.said(502, {}) if request.url.params.get("offset") == str(99 * 52) else None
    )
    assert bench.poll().listed is None
    bench.platform.instead = lambda _: None
    asked = len(bench.platform.asked)

    snapshot = bench.poll()

    # Of 61 pages the nine that were left, and some to watch, to look at unfinished jobs, and to begin the next listing.
    assert len(bench.platform.asked) - asked < 30
    assert snapshot.listed is not None
    assert snapshot.listed["copy", "running"].jobs == 6000


def test_a_poll_that_crashed_while_counting_is_made_again_from_the_start(bench: PollerFixture) -> None:
    for number in range(50):
        bench.platform.finish(str(number), 0, 1, finished_on=None, started_on=None)
    bench.store._db.execute("ALTER TABLE job RENAME TO elsewhere")  # noqa: SLF001  # an error on reading
    assert bench.poll().status.up is False
    asked = len(bench.platform.asked)
    bench.store._db.execute("ALTER TABLE elsewhere RENAME TO job")  # noqa: SLF001  # and it is gone

    snapshot = bench.poll()

    assert len(bench.platform.asked) > asked
    assert snapshot.listed is not None
    assert snapshot.listed["copy", "finished"].jobs == 50
    assert bench.counted(counting.FILES_FAILED) == 0  # finished at the first complete listing, without times: history


def test_a_slice_that_was_not_written_is_read_again_before_the_listing_is_complete(bench: PollerFixture) -> None:
    for number in range(6000):
        bench.platform.finish(f"{number:04d}", 0, 1, finished_on=None, started_on=None)
    bench.platform.instead = lambda request: (
        bench.platform.said(502, {}) if request.url.path.endswith("/files") else None
    )
    bench.poll()
    bench.platform.instead = lambda _: None
    bench.store._db.execute("PRAGMA query_only = ON")  # noqa: SLF001  # no room
    bench.poll()
    bench.store._db.execute("PRAGMA query_only = OFF")  # noqa: SLF001  # and room again
    for _ in range(3):
        snapshot = bench.poll(after=300)

    assert snapshot.listed is not None

    assert snapshot.listed["copy", "finished"].jobs == 6000
    assert bench.counted(counting.FILES_FAILED) == 0


def test_with_a_full_disk_the_unfinished_jobs_move_on_too(bench: PollerFixture) -> None:
    bench.platform.add("1", completed=1)
    bench.poll()
    bench.platform.finish("1", 9, 1)
    bench.store._db.execute("PRAGMA query_only = ON")  # noqa: SLF001  # no room

    snapshot = bench.poll()

    assert bench.wait is None
    assert snapshot.ledger is not None
    assert snapshot.ledger.live == {}
    assert bench.counted(counting.FILES_FAILED) == 0
    bench.store._db.execute("PRAGMA query_only = OFF")  # noqa: SLF001  # and room again
    bench.poll()
    assert bench.counted(counting.FILES_FAILED) == 1
    assert bench.counted(counting.JOBS_FINISHED, "partial") == 1


def test_new_bounds_that_could_not_be_written_are_tried_again(bench: PollerFixture) -> None:
    bench.poll()
    bench.store._db.execute("PRAGMA query_only = ON")  # noqa: SLF001  # no room
    bench.rules = Rules(duration_buckets=(1.0, 2.0))
    bench.poller = bench.new_poller()
    bench.poll()
    bench.store._db.execute("PRAGMA query_only = OFF")  # noqa: SLF001  # and room again

    ledger = bench.poll().ledger

    assert ledger is not None
    assert ledger.histograms[counting.JOB_DURATION, ("copy", "failed")].bounds == (1.0, 2.0)


def test_answers_without_a_date_are_timed_by_the_last_that_had_one(bench: PollerFixture) -> None:
    bench.platform.add("1")
    bench.poll()
    bench.platform.finish("1", 3, total_files=5)
    bench.poll()
    bench.platform.dated = False
    bench.platform.clock_ahead = -3600.0

    bench.poll(after=1)

    assert bench.counted(counting.JOBS_FINISHED, "incomplete") == 0


def test_counting_begins_at_the_platform_s_time_in_whole_seconds(bench: PollerFixture) -> None:
    bench.platform.clock_ahead = 100.7

    ledger = bench.poll().ledger

    assert ledger is not None
    assert ledger.account.counting_since == START + 130


def test_a_poll_is_as_long_as_it_took_and_believed_for_as_long_as_is_set(bench: PollerFixture) -> None:
    def slow(_: httpx.Request) -> None:
        bench.clock.advance(3.5)

    bench.platform.instead = slow

    snapshot = bench.poll()

    assert snapshot.status.poll_duration.sum == 7
    assert snapshot.gauges_until == START + 30 + 7 + 600


def test_accounts_take_their_places_in_the_interval(bench: PollerFixture) -> None:
    bench.schedule = PollSchedule(30, 21600, 600, first=2, phase=10)
    bench.clock.stop_at_pause(4)

    bench.new_poller().run()

    assert bench.clock.pauses == [2, 8, 30, 30]


def test_what_a_job_was_lost_to_time_is_forgotten_in_the_end(bench: PollerFixture) -> None:
    bench.poll()
    bench.platform.finish("1", 1)
    bench.poll()
    del bench.platform.jobs["1"]

    for _ in range(46 * 4 + 1):
        snapshot = bench.poll(after=6 * 3600)

    assert snapshot.ledger is not None
    assert snapshot.ledger.tracked_jobs == 0
    assert bench.store.tracked_jobs == 0


def test_nothing_is_said_of_maintenance_before_the_platform_did(bench: PollerFixture) -> None:
    bench.platform.instead = lambda _: bench.platform.said(401, {})

    assert bench.poll().status.maintenance is None


def test_an_answer_ends_what_was_said_of_maintenance(bench: PollerFixture) -> None:
    bench.poll()
    bench.platform.instead = lambda _: bench.platform.said(503, {"code": 0})
    bench.poll()
    bench.platform.instead = lambda _: bench.platform.said(401, {})

    assert bench.poll().status.maintenance is False


def test_each_request_is_a_sign_of_life(bench: PollerFixture) -> None:
    def slow(_: httpx.Request) -> None:
        bench.clock.advance(100)

    bench.platform.instead = slow
    bench.poll()

    assert bench.poller.last_activity_at == bench.clock.monotonic()
    assert bench.clock.now - START == 30 + 2 * 100


def test_a_poll_that_the_allowance_ended_after_it_asked_is_a_poll(bench: PollerFixture) -> None:
    bench.poller = bench.new_poller(share=0.001)

    snapshot = bench.poll()

    assert bench.platform.asked == ["/user"]
    assert snapshot.status.last_poll is not None
    assert bench.wait is not None
    assert bench.wait > 0


def test_a_state_file_that_cannot_be_read_at_the_start_does_not_end_the_polls(bench: PollerFixture) -> None:
    bench.platform.add("1", failed=1)
    bench.poll()
    bench.store._db.execute("ALTER TABLE job RENAME TO elsewhere")  # noqa: SLF001  # an error on reading

    def mend(_: float) -> None:
        if len(bench.clock.pauses) == 1:
            bench.store._db.execute("ALTER TABLE elsewhere RENAME TO job")  # noqa: SLF001  # and it is gone
        else:
            raise Stopping("enough")

    bench.clock.during_pause = mend
    bench.new_poller().run()

    assert bench.snapshots[-1].status.up is True
    assert bench.counted(counting.FILES_FAILED) == 1


def test_maintenance_is_asked_again_every_minute_and_shown(bench: PollerFixture) -> None:
    bench.poll()
    bench.platform.instead = lambda _: bench.platform.said(503, {"code": 0})

    assert bench.poll().status.maintenance is True
    assert bench.wait == 60
    bench.platform.instead = lambda _: None

    assert bench.poll().status.maintenance is False


def test_after_a_429_nothing_is_asked_until_the_window_ends(bench: PollerFixture) -> None:
    bench.poll()
    bench.platform.instead = lambda _: httpx.Response(429, headers={"Retry-After": "100"}, content=iter([b"{}"]))
    bench.poll()
    assert bench.wait == 100
    bench.platform.instead = lambda _: None
    asked = len(bench.platform.asked)

    bench.poll(after=50)
    assert len(bench.platform.asked) == asked
    bench.poll(after=50)

    assert len(bench.platform.asked) == asked + 1


def test_a_refused_token_is_asked_about_and_nothing_else_until_it_changes(bench: PollerFixture) -> None:
    bench.poll()
    bench.platform.users = {"n3w": "rfranklin"}
    assert bench.poll().status.auth_ok is False
    assert bench.wait == 300
    bench.platform.asked.clear()

    bench.poll()
    assert bench.platform.asked == ["/user"]
    bench.token.write_text("n3w")
    snapshot = bench.poll()

    assert bench.platform.asked == ["/user", "/user", "/async/files"]
    assert snapshot.status.auth_ok is True
    assert snapshot.status.up is True


def test_a_token_of_somebody_else_stops_the_account_with_its_counters_as_they_were(bench: PollerFixture) -> None:
    bench.platform.add("1", failed=1)
    good = bench.poll()
    bench.platform.users["0th3r"] = "somebody"
    bench.token.write_text("0th3r")
    bench.platform.add("2", failed=7)

    snapshot = bench.poll()

    assert polls(snapshot)["error"] == 1
    assert snapshot.status.last_error == (
        "the token belongs to somebody, but the ledger of account cavatica to rfranklin; restore the token of"
        " rfranklin, or configure it in a file under another name to count somebody as well"
    )
    assert snapshot.ledger is good.ledger
    assert "/async/files" not in bench.platform.asked[2:]


def test_a_token_of_somebody_else_has_been_accepted_so_its_form_is_not_doubted(bench: PollerFixture) -> None:
    bench.poll()
    bench.platform.users["0th3r"] = "somebody"
    bench.token.write_text("0th3r")

    bench.poll()

    [paused] = [event for event in bench.events() if event["event"] == "polling.paused"]
    assert str(paused["next_step"]).startswith("write a valid token of this user, and nothing else, to the token file ")


def test_a_token_of_a_user_whom_another_account_polls_is_no_reason_to_rename(bench: PollerFixture) -> None:
    bench.platform.users["0th3r"] = "somebody"
    bench.token.with_name("other").write_text("0th3r")
    bench.identities = IdentityRegistry(["cavatica", "again"])
    bench.poller = bench.new_poller("again", file="other")
    bench.poll()
    bench.poller = bench.new_poller()
    bench.poll()
    bench.token.write_text("0th3r")

    assert bench.poll().status.last_error == (
        "the token belongs to somebody, but the ledger of account cavatica to rfranklin; restore the token of rfranklin"
    )


def test_a_restart_shows_the_counters_before_the_platform_answers(bench: PollerFixture) -> None:
    bench.platform.add("1", failed=1)
    bench.poll()
    bench.platform.instead = lambda _: bench.platform.said(500, {})
    bench.clock.stop_at_pause(3)

    bench.new_poller().run()

    first = bench.snapshots[1]
    assert first.status.up is None
    assert first.ledger is not None
    assert first.ledger.counters[counting.FILES_FAILED, ("copy",)].value == 1
    assert first.listed is None


def test_an_account_that_is_renamed_at_a_restart_keeps_its_counters(bench: PollerFixture) -> None:
    bench.platform.add("1", failed=1)
    before = bench.poll().ledger
    bench.identities = IdentityRegistry(["again"])
    bench.poller = bench.new_poller("again")
    bench.platform.add("2", failed=2)

    after = bench.poll()

    assert after.account == "again"
    assert before is not None
    assert after.ledger is not None
    assert after.ledger.account.counting_since == before.account.counting_since
    assert bench.counted(counting.FILES_FAILED) == 3
    family = counting.FILES_FAILED, ("copy",)
    assert after.ledger.counters[family].created == before.counters[family].created


def test_a_name_never_bound_shows_no_counters(bench: PollerFixture) -> None:
    bench.clock.stop_at_pause(1)

    bench.poller.run()

    assert bench.snapshots[0].ledger is None


def test_second_entry_for_the_same_user_is_not_polled(bench: PollerFixture) -> None:
    bench.poll()
    second = bench.new_poller("again")

    second.poll()

    snapshot = bench.snapshots[-1]
    assert snapshot.account == "again"
    assert snapshot.ledger is None
    assert (
        snapshot.status.last_error
        == "the same user on the same platform as cavatica; not polled; remove one of the two accounts"
    )
    assert snapshot.status.waiting is None
    [failed] = [event for event in bench.events() if event["event"] == "poll.failed"]
    assert (failed["account"], failed["reason"]) == ("again", snapshot.status.last_error)


def _missing(bench: PollerFixture) -> None:
    bench.token.unlink()


def _refused(bench: PollerFixture) -> None:
    bench.token.write_text("r3v0k3d\n")


def _wrong(bench: PollerFixture) -> None:
    bench.token.write_text("0th3r\n")


@pytest.mark.fault(
    "of two accounts of one user, the one that is polled loses its token, or gets another user's",
    action="polls the other one, which keeps the counters while it is polled",
    shown="the counters, under the name of the one that is polled; `sbg_up` 0 of the other",
    recovery="none needed",
)
@pytest.mark.parametrize("when", ["running", "restarted"])
@pytest.mark.parametrize("lose", [_missing, _refused, _wrong])
def test_second_entry_is_polled_while_the_first_cannot_be(
    bench: PollerFixture, lose: Callable[[PollerFixture], None], when: str
) -> None:
    right = bench.token.read_text()
    bench.token.with_name("copy").write_text(right)
    bench.platform.users["0th3r"] = "other"
    bench.platform.add("1", failed=1)
    bench.poll()
    if when == "restarted":
        bench.identities = IdentityRegistry(["cavatica", "again"], bench.store.names())
        bench.poller = bench.new_poller()
        bench.poller._publish_saved_ledger()  # noqa: SLF001  # as at the start of a process
    second = bench.new_poller("again", file="copy")
    second.poll()
    assert bench.snapshots[-1].ledger is None, "it may poll only once the first cannot"

    lose(bench)
    assert bench.poll().ledger is not None
    second.poll()
    taken = bench.snapshots[-1]
    assert (taken.account, taken.status.up) == ("again", True)
    assert bench.counted(counting.FILES_FAILED) == 1
    bench.poller._publish_snapshot()  # noqa: SLF001  # as it does every few seconds
    assert (bench.snapshots[-1].status.up, bench.snapshots[-1].ledger) == (False, None)

    bench.token.write_text(right)
    back = bench.poll()
    assert back.ledger is None
    assert back.status.last_error.startswith("the same user on the same platform as again; not polled")
    second.poll()
    assert bench.snapshots[-1].status.up is True
    assert list(bench.store.names()) == ["again"]


def test_second_entry_takes_over_in_a_command_that_polls_once(bench: PollerFixture) -> None:
    bench.token.with_name("copy").write_text(bench.token.read_text())
    bench.platform.add("1", failed=1)
    bench.poll()
    bench.identities = IdentityRegistry(["cavatica", "again"], bench.store.names())
    pollers = bench.new_poller("again", file="copy"), bench.new_poller()
    _refused(bench)
    for poller in pollers:
        poller.poll_until_listed()

    for poller in pollers:
        poller.take_over()
    for poller in pollers:
        poller.confirm()

    shown = {each.account: each for each in bench.snapshots}
    assert (shown["again"].status.up, shown["cavatica"].status.up) == (True, False)
    assert shown["again"].ledger is not None
    assert shown["cavatica"].ledger is None


def test_the_first_entry_takes_over_although_the_second_got_its_answer_first(bench: PollerFixture) -> None:
    bench.platform.add("1", failed=1)
    second = bench.new_poller("again")
    second.poll()
    bench.poll()
    bench.platform.add("1", failed=2)

    second.poll()
    assert polls(bench.snapshots[-1]) == {"success": 1, "error": 1}
    second.poll()
    assert bench.snapshots[-1].ledger is None
    bench.poll()

    assert bench.counted(counting.FILES_FAILED) == 2


def test_of_two_entries_polled_once_the_second_gives_way_whichever_was_answered_first(bench: PollerFixture) -> None:
    second = bench.new_poller("again")
    second.poll_once()
    bench.poller.poll_once()

    bench.poller.confirm()
    second.confirm()

    assert [snapshot.account for snapshot in bench.snapshots] == ["again", "cavatica", "again"]
    assert bench.snapshots[1].status.up is True
    assert bench.snapshots[2].status.up is False
    assert bench.snapshots[2].ledger is None


def test_a_long_list_is_polled_until_it_is_listed(bench: PollerFixture) -> None:
    for number in range(2000):
        bench.platform.add(f"{number:04d}")
    poller = bench.new_poller(share=0.01)

    poller.poll_until_listed()

    assert bench.snapshots[-1].listed is not None
    assert bench.snapshots[-1].listed["copy", "running"].jobs == 2000
    assert sum(bench.clock.pauses) >= 2 * 290


def test_a_long_list_that_cannot_be_written_is_given_up(bench: PollerFixture) -> None:
    bench.poll()
    for number in range(6000):
        bench.platform.add(f"{number:04d}")
    bench.store._db.execute("PRAGMA query_only = ON")  # noqa: SLF001  # no room

    bench.poll()
    assert bench.wait is None  # at the usual time, not at once
    bench.new_poller().poll_until_listed()

    assert bench.store.write_failures == 2
    assert bench.snapshots[-1].listed is None


def test_a_token_file_that_is_away_for_a_moment_does_not_end_the_wait_for_a_new_one(bench: PollerFixture) -> None:
    bench.platform.users = {}

    def away(_: float) -> None:
        if len(bench.clock.pauses) > 1:
            bench.token.unlink(missing_ok=True)
        if len(bench.clock.pauses) == 4:
            raise Stopping("enough")

    bench.clock.during_pause = away

    bench.poller.run()

    assert bench.clock.pauses == [0, 5, 5, 5]


def test_each_replacement_of_a_refused_token_is_logged_with_what_came_of_it(bench: PollerFixture) -> None:
    """Its author waits for a sign; the poll's own error is the same as before, or comes only minutes later."""
    bench.platform.users = {}
    texts = iter(["t0k3n", "wr0ng", "", "two words", "two words", "wr0ng-too"])

    def replace_token(_: float) -> None:
        text = next(texts, None)
        if text is None:
            raise Stopping("enough")
        bench.token.write_text(text)

    bench.clock.during_pause = replace_token

    bench.poller.run()

    logged = [(each["event"], each["reason"]) for each in bench.events() if each["event"].startswith("token.")]
    assert [event for event, _ in logged] == [
        "token.refused_again",
        "token.unusable",
        "token.unusable",
        "token.refused_again",
    ]
    assert "the token is empty" in logged[1][1]
    assert "contains spaces" in logged[2][1]
    assert "wr0ng" not in bench.log.getvalue()


def test_the_first_refused_token_is_not_said_to_be_refused_again(bench: PollerFixture) -> None:
    bench.poll()
    bench.token.write_text("wr0ng")

    bench.poll()

    [failed] = [each for each in bench.events() if each["event"] == "poll.failed"]
    assert failed["result"] == "unauthorized"
    assert str(bench.token) in failed["next_step"], "what is mailed says what to do"
    assert "wr0ng" not in bench.log.getvalue()
    assert [each for each in bench.events() if each["event"] == "token.refused_again"] == []


def test_the_second_entry_gives_way_also_when_it_has_nothing_to_commit(bench: PollerFixture) -> None:
    second = bench.new_poller("again")
    second.poll()
    bench.poll()

    second.poll()

    assert bench.snapshots[-1].status.up is False
    assert bench.snapshots[-1].ledger is None


def test_what_another_entry_counted_before_is_read_when_the_account_is_claimed(bench: PollerFixture) -> None:
    bench.platform.add("1", failed=1)
    bench.poll()
    bench.identities = IdentityRegistry(["cavatica", "again"])
    bench.poller, again = bench.new_poller(), bench.new_poller("again")
    bench.poller._publish_saved_ledger()  # noqa: SLF001  # the moment at which a start may be overtaken
    bench.platform.add("1", failed=3)
    again.poll()

    bench.platform.add("1", failed=4)
    bench.poll()

    assert bench.counted(counting.FILES_FAILED) == 4


def test_a_renamed_account_is_told_as_soon_as_the_platform_has_named_its_user(bench: PollerFixture) -> None:
    bench.platform.add("1", failed=1)
    bench.poll()
    bench.identities = IdentityRegistry(["again"])
    bench.poller = bench.new_poller("again")

    bench.poll()
    bench.poll()

    assert bench.counted(counting.FILES_FAILED) == 1
    [told] = [event for event in bench.events() if event["event"] == "ledger.renamed"]
    assert (told["account"], told["before"]) == ("again", "cavatica")
    assert list(bench.store.names()) == ["again"]


def test_accounts_that_exchange_their_names_are_both_told(bench: PollerFixture) -> None:
    bench.platform.users["0th3r"] = "somebody"
    bench.token.with_name("other").write_text("0th3r")
    bench.poll()
    bench.poller = bench.new_poller("again", file="other")
    bench.poll()
    bench.identities = IdentityRegistry(["again", "cavatica"])
    for name, file in (("cavatica", "other"), ("again", "token")):
        bench.poller = bench.new_poller(name, file=file)
        bench.poll()

    told = [event for event in bench.events() if event["event"] == "ledger.renamed"]
    assert [(event["account"], event.get("before")) for event in told] == [("cavatica", "again"), ("again", "cavatica")]


@pytest.mark.fault(
    "an account's `api_endpoint` or `division` is another one after a reload or a restart",
    action="begins a new ledger; keeps the former one",
    shown="a warning with the former ledger, and how to go on with it",
    recovery="the former setting",
)
def test_a_new_ledger_in_the_place_of_another_one_is_a_warning(bench: PollerFixture) -> None:
    bench.platform.add("1", failed=1)
    bench.identities = IdentityRegistry(["cavatica"])
    bench.poller = bench.new_poller()
    bench.poll()
    bench.poller = bench.new_poller(division="imaging")

    bench.poll()

    assert bench.counted(counting.FILES_FAILED) == 1, "this job is unfinished, and new to the new ledger"
    [warning] = [event for event in bench.events() if event["event"] == "ledger.replaced"]
    assert (warning["level"], warning["account"]) == ("warning", "cavatica")
    assert warning["before"] == f"rfranklin at {ENDPOINT}"
    assert str(warning["next_step"]).startswith(
        f"if that is not meant, set api_endpoint and division back to {ENDPOINT} "
    )
    bench.poller = bench.new_poller()
    bench.poll()
    assert len([event for event in bench.events() if event["event"] == "ledger.created"]) == 2, "it goes on"
    assert len([event for event in bench.events() if event["event"] == "ledger.replaced"]) == 1, "this was advised"
    [told] = [event for event in bench.events() if event["event"] == "ledger.renamed"]
    assert told["consequence"] == "its counters go on"


def test_a_ledger_that_was_another_one_s_before_the_start_is_a_warning(bench: PollerFixture) -> None:
    for division in ("", "imaging", ""):
        bench.identities = IdentityRegistry(["cavatica"])
        bench.poller = bench.new_poller(division=division)
        bench.poll()

    [_, back] = [event for event in bench.events() if event["event"] == "ledger.replaced"]
    assert back["before"] == f"rfranklin at {ENDPOINT}, division imaging"
    assert str(back["consequence"]).startswith("the account has the counters of another ledger; ")


@pytest.mark.parametrize(
    ("names", "places", "refused", "may"),
    [
        pytest.param(["a", "b"], {"a": "x", "b": ""}, {}, True, id="its user is not known"),
        pytest.param(["a", "b"], {"a": "x", "b": "y"}, {}, False, id="elsewhere"),
        pytest.param(["a", "b"], {"a": "x"}, {}, True, id="its profile is missing"),
        pytest.param(["a", "b", "c"], {"a": "x", "b": "", "c": ""}, {"c": "bob"}, False, id="a duplicate"),
        pytest.param(["a", "b", "c"], {"a": "x", "b": "", "c": ""}, {"c": "alice"}, True, id="a duplicate of it"),
    ],
)
def test_whether_an_account_may_turn_out_to_have_a_ledger_s_user(
    names: Sequence[str], places: Mapping[str, str], refused: Mapping[str, str], *, may: bool
) -> None:
    """The ledger of alice was that of a, which is in division x now."""
    identities = IdentityRegistry(names, places={name: (ENDPOINT, division) for name, division in places.items()})
    identities.claim((ENDPOINT, "alice", "x"), "a")
    for name, user in refused.items():
        identities.claim((ENDPOINT, user, ""), "b")
        with pytest.raises(DuplicateAccount):
            identities.claim((ENDPOINT, user, ""), name)

    assert identities.may_be_taken((ENDPOINT, "alice", ""), "a") is may


AT_HOME, IMAGING = ("rfranklin", ""), ("somebody", "imaging")
"""Users, each in a place of its own."""


@pytest.mark.parametrize(
    ("restarted", "renamed", "without_a_name"),
    [
        pytest.param(
            {"cavatica": IMAGING, "again": AT_HOME}, {"cavatica": "again", "again": "cavatica"}, [], id="exchanged"
        ),
        pytest.param(
            {"again": AT_HOME, "cavatica": IMAGING},
            {"cavatica": "again", "again": "cavatica"},
            [],
            id="exchanged, in the other order",
        ),
        pytest.param(
            {"cavatica": IMAGING, "third": AT_HOME},
            {"cavatica": "again", "third": "cavatica"},
            [],
            id="one after the other renamed",
        ),
        pytest.param(
            {"cavatica": IMAGING}, {"cavatica": "again"}, [("cavatica", AT_HOME)], id="one removed, its name taken"
        ),
        pytest.param(
            {"cavatica": IMAGING, "third": ("carol", "")},
            {"cavatica": "again"},
            [("cavatica", AT_HOME)],
            id="another user in the place of the removed one",
        ),
        pytest.param({"again": IMAGING}, {}, [], id="one removed, with its name"),
    ],
)
def test_a_ledger_is_without_a_name_only_if_no_account_has_its_user(
    bench: PollerFixture,
    restarted: Mapping[str, tuple[str, str]],
    renamed: Mapping[str, str],
    without_a_name: Sequence[tuple[str, tuple[str, str]]],
) -> None:
    bench.platform.users |= {"0th3r": "somebody", "th1rd": "carol"}
    files = {"rfranklin": "token", "somebody": "other", "carol": "third"}
    for user, token in (("somebody", "0th3r"), ("carol", "th1rd")):
        bench.token.with_name(files[user]).write_text(token)
    counting_since = {}
    for name, (user, division) in {"cavatica": AT_HOME, "again": IMAGING}.items():
        bench.poller = bench.new_poller(name, file=files[user], division=division)
        ledger = bench.poll().ledger
        assert ledger is not None
        counting_since[user] = ledger.account.counting_since
    places = {name: (ENDPOINT, division) for name, (_, division) in restarted.items()}
    bench.identities = IdentityRegistry(list(restarted), places=places)
    pollers = [
        bench.new_poller(name, file=files[user], division=division) for name, (user, division) in restarted.items()
    ]

    for _ in range(2):
        for bench.poller, (user, _) in zip(pollers, restarted.values(), strict=True):
            ledger = bench.poll().ledger
            assert ledger is not None
            assert counting_since.setdefault(user, ledger.account.counting_since) == ledger.account.counting_since

    events = bench.events()
    assert {each["account"]: each["before"] for each in events if each["event"] == "ledger.renamed"} == renamed
    warnings = [event for event in events if event["event"] == "ledger.replaced"]
    assert [(each["account"], each["before"]) for each in warnings] == [
        (name, f"{user} at {ENDPOINT}{f', division {division}' * bool(division)}")
        for name, (user, division) in without_a_name
    ]
    named = {identity[1:] for identity in bench.store.names().values()}
    assert all(identity not in named for _, identity in without_a_name)


def test_accounts_of_one_platform_with_each_other_s_tokens_are_told_how_to_exchange_names(
    bench: PollerFixture,
) -> None:
    bench.platform.users["0th3r"] = "somebody"
    bench.token.with_name("other").write_text("0th3r")
    bench.poll()
    bench.poller = bench.new_poller("again", file="other")
    bench.poll()
    bench.identities = IdentityRegistry(["again", "cavatica"], bench.store.names())
    for name, file, user, other in (
        ("cavatica", "other", "rfranklin", "again"),
        ("again", "token", "somebody", "cavatica"),
    ):
        bench.poller = bench.new_poller(name, file=file)
        bench.poller._publish_saved_ledger()  # noqa: SLF001  # as at a restart

        how = (
            f"restore the token of {user}; or, to exchange the names of {name} and {other}, reload with the new"
            " ones while the exporter runs with the former ones"
        )
        assert bench.poll().status.last_error.endswith(f"; {how}")
        said = [each for each in bench.events() if each["account"] == name and "next_step" in each]
        assert [(each["event"], each["next_step"]) for each in said] == [("poll.failed", how), ("polling.paused", how)]


def test_a_check_of_accounts_with_each_other_s_tokens_says_how_to_exchange_names(bench: PollerFixture) -> None:
    """Their ledgers are in the exporter's own file, not in that of the check."""
    bench.platform.users["0th3r"] = "somebody"
    bench.token.with_name("other").write_text("0th3r")
    names = {"cavatica": (ENDPOINT, "rfranklin", ""), "again": (ENDPOINT, "somebody", "")}
    bench.identities = IdentityRegistry(["again", "cavatica"], names)

    for name, file, other in (("cavatica", "other", "again"), ("again", "token", "cavatica")):
        bench.poller = bench.new_poller(name, file=file, expected_user=names[name][1])
        assert f"; or, to exchange the names of {name} and {other}, " in bench.poll().status.last_error


def test_a_ledger_that_gets_its_name_back_is_not_said_to_have_had_it(bench: PollerFixture) -> None:
    bench.poll()
    bench.identities = IdentityRegistry(["cavatica"])
    for division in ("imaging", ""):
        bench.poller = bench.new_poller(division=division)
        bench.poll()

    [told] = [event for event in bench.events() if event["event"] == "ledger.renamed"]
    assert (told["account"], told.get("before")) == ("cavatica", None)


def test_a_check_knows_whose_token_an_account_has_to_have(bench: PollerFixture) -> None:
    """Its ledgers are in a temporary file, so that the exporter's own tells it."""
    bench.poller = bench.new_poller(expected_user="ludwig")

    snapshot = bench.poll()

    assert snapshot.status.last_error.startswith(
        "the token belongs to rfranklin, but the ledger of account cavatica to ludwig; restore the token of ludwig"
    )


def test_claims_are_held_by_the_earlier_entry() -> None:
    identities = IdentityRegistry(["a", "b"])
    identity = (ENDPOINT, "u", "")
    identities.claim(identity, "b")
    identities.claim(identity, "a")

    with pytest.raises(WrongAccount), identities.writer_lock(identity, "b"):
        pytest.fail("b holds what a claimed")
    with identities.writer_lock(identity, "a"):
        pass
    with pytest.raises(WrongAccount):
        identities.claim(identity, "b")


def test_an_unexpected_error_ends_the_poll_with_a_traceback_in_the_log_and_the_next_one_comes(
    bench: PollerFixture,
) -> None:
    def explode(_: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError("t0k3n")

    bench.poll()
    bench.platform.instead = explode

    snapshot = bench.poll()

    assert polls(snapshot)["error"] == 1
    crashed = next(event for event in bench.events() if event["event"] == "poll.unexpected_error")
    assert "ZeroDivisionError" in crashed["exception"]
    assert "t0k3n" not in bench.log.getvalue()
    bench.platform.instead = lambda _: None
    assert bench.poll().status.up is True


def test_a_token_file_that_goes_away_fails_the_poll_and_says_so(bench: PollerFixture) -> None:
    bench.poll()
    bench.token.unlink()

    assert "cannot read the token file" in bench.poll().status.last_error


def test_a_commit_that_fails_leaves_counters_and_moves_gauges(bench: PollerFixture) -> None:
    bench.platform.add("1", completed=1)
    good = bench.poll()
    bench.platform.add("1", completed=5)
    bench.store._db.execute("PRAGMA query_only = ON")  # noqa: SLF001  # the nearest thing to a disk that is full

    snapshot = bench.poll()
    assert snapshot.ledger is not None
    assert good.ledger is not None
    assert snapshot.ledger.counters is good.ledger.counters
    assert snapshot.listed is not None
    assert snapshot.listed["copy", "running"].completed == 5
    assert bench.store.write_failures == 1
    bench.store._db.execute("PRAGMA query_only = OFF")  # noqa: SLF001  # and there is room again
    bench.poll()

    assert bench.counted(counting.FILES_COMPLETED) == 5


def test_commits_that_fail_are_shown_and_logged_again_every_five_minutes_until_they_succeed(
    bench: PollerFixture,
) -> None:
    bench.platform.add("1", completed=1)
    assert bench.poll().status.commit_failure is None
    bench.store._db.execute("PRAGMA query_only = ON")  # noqa: SLF001
    began = bench.clock.time() + 30

    for poll in range(1, 23):  # 11 minutes
        bench.platform.add("1", completed=1 + poll)
        failure = bench.poll().status.commit_failure
        assert failure is not None
        assert failure.since == pytest.approx(began, abs=1)

    logged = [event for event in bench.events() if event["event"] == "state.commit_failed"]
    assert len(logged) == 3
    assert len({event["since"] for event in logged}) == 1
    assert "could not be written" in logged[-1]["reason"]
    bench.store._db.execute("PRAGMA query_only = OFF")  # noqa: SLF001
    assert bench.poll().status.commit_failure is None
    [succeeded] = [event for event in bench.events() if event["event"] == "state.commit_succeeded"]
    assert succeeded["failed_since"] == logged[0]["since"]


@pytest.mark.fault(
    "the state file is moved away, and then the platform answers 502",
    action="polls on, and tests the state file",
    shown="status page: that the state file cannot be written, and that the account cannot be polled;"
    " `sbg_exporter_state_writable` 0",
    recovery="the file is put back; noticed within a minute, before the platform answers",
)
def test_commits_that_fail_are_shown_while_polls_fail_until_the_state_file_can_be_written_again(
    bench: PollerFixture, state_file: Path
) -> None:
    away = state_file.with_name("away.db")
    bench.platform.add("1", completed=1)
    bench.poll()
    state_file.rename(away)
    bench.platform.add("1", completed=2)
    began = bench.clock.time() + 30
    assert bench.poll().status.commit_failure is not None
    bench.platform.instead = lambda _: bench.platform.said(502, {})
    failures = bench.store.write_failures

    for _ in range(22):  # 11 minutes
        status = bench.poll().status
        assert status.up is False
        assert status.commit_failure is not None
        assert status.commit_failure.since == pytest.approx(began, abs=1)

    assert bench.store.write_failures >= failures + 10  # tested all the time
    away.rename(state_file)
    bench.poll()
    assert bench.poll().status.commit_failure is None
    [succeeded] = [event for event in bench.events() if event["event"] == "state.commit_succeeded"]
    assert succeeded["consequence"] == "what was missed is counted by the next poll that succeeds"
    bench.platform.instead = lambda _: None
    bench.platform.add("1", completed=5)
    bench.poll()
    assert bench.counted(counting.FILES_COMPLETED) == 5


def test_state_file_that_is_moved_while_polls_fail_is_shown(bench: PollerFixture, state_file: Path) -> None:
    """The allowance cannot be saved then."""
    bench.poller = bench.new_poller(saving=True)
    bench.poll()
    bench.platform.instead = lambda _: bench.platform.said(502, {})
    state_file.rename(state_file.with_name("away.db"))

    failure = bench.poll().status.commit_failure

    assert failure is not None
    assert f"state file {state_file} could not be written: it is no longer at its path" in failure.reason


def test_state_file_in_doubt_is_tested_before_the_first_poll(bench: PollerFixture) -> None:
    """A restart on a full disk, and a reload that replaces the poller, do not end the alert."""
    bench.store.in_doubt = True
    bench.store._db.execute("PRAGMA query_only = ON")  # noqa: SLF001

    def end(_: float) -> None:
        raise Stopping("enough")

    bench.clock.during_pause = end
    bench.poller.run()

    assert bench.snapshots[0].status.commit_failure is not None
    assert bench.snapshots[0].status.last_poll is None


def test_state_file_is_tested_while_an_account_waits(bench: PollerFixture) -> None:
    bench.platform.add("1")
    bench.poll()
    bench.store._db.execute("PRAGMA query_only = ON")  # noqa: SLF001
    bench.platform.add("1", completed=1)
    assert bench.poll().status.commit_failure is not None
    bench.store._db.execute("PRAGMA query_only = OFF")  # noqa: SLF001
    began = bench.clock.monotonic()

    bench.poller._sleep_until(began + 900)  # noqa: SLF001

    assert bench.snapshots[-1].status.commit_failure is None
    assert bench.events()[-1]["event"] == "state.commit_succeeded"


def test_a_long_list_is_counted_in_slices_within_the_allowance(bench: PollerFixture) -> None:
    for number in range(2000):
        bench.platform.add(f"{number:04d}")
    bench.poller = bench.new_poller(share=0.01)

    snapshot = bench.poll()
    assert len(bench.platform.asked) == 10
    assert bench.wait is not None
    assert 0 < bench.wait <= 300
    assert snapshot.listed is None
    # The page at the start that shows the order, three at the end where new jobs come in, some of the listing.
    assert 400 <= bench.counted(counting.JOBS_SUBMITTED) <= 892
    for _ in range(60):  # all run, and unfinished jobs come first
        asked = len(bench.platform.asked)
        snapshot = bench.poll(after=301)
        assert len(bench.platform.asked) - asked <= 10

    assert snapshot.listed is not None
    assert snapshot.listed["copy", "running"].jobs == 2000


def test_finished_jobs_are_logged_once_and_failures_at_warning(bench: PollerFixture) -> None:
    bench.poll()
    bench.platform.finish("1", 2)
    bench.platform.finish("2", 1, 2)
    bench.poll()
    bench.poll()

    finished = {event["job_id"]: event for event in bench.events() if event["event"] == "job.finished"}
    assert finished["1"]["level"] == "info"
    assert finished["2"] == {
        "account": "cavatica",
        "completed": 1,
        "duration_seconds": 10.0,
        "errors": "5001:2",
        "event": "job.finished",
        "failed": 2,
        "files": 3,
        "job_id": "2",
        "level": "warning",
        "operation": "copy",
        "outcome": "partial",
        "timestamp": finished["2"]["timestamp"],
    }
    assert len([event for event in bench.events() if event["event"] == "job.finished"]) == 2


def test_polls_keep_their_rhythm_and_skip_what_an_overrun_missed(bench: PollerFixture) -> None:
    def slow_once(_: httpx.Request) -> None:
        if len(bench.snapshots) == 2:
            bench.clock.advance(70)

    bench.platform.instead = slow_once
    bench.clock.stop_at_pause(5)

    bench.poller.run()

    assert bench.clock.pauses[1:] == [30, 20, 30, 30]


def test_a_new_token_ends_the_wait_after_a_refusal(bench: PollerFixture) -> None:
    bench.platform.users = {"n3w": "rfranklin"}

    def rotate(_: float) -> None:
        if len(bench.clock.pauses) == 4:
            bench.token.write_text("n3w-and-right")
            bench.platform.users = {"n3w-and-right": "rfranklin"}
        if len(bench.clock.pauses) == 6:
            raise Stopping("enough")

    bench.clock.during_pause = rotate

    bench.poller.run()

    assert bench.snapshots[-1].status.up is True
    assert bench.clock.now - START < 300


# ---- a large account ----


def large(bench: PollerFixture, jobs: int = 2000) -> AccountSnapshot:
    """An account that is watched, whose listing is complete."""
    for number in range(jobs):
        bench.platform.finish(
            f"{10_000 + number}", 1, started_on="2026-09-01T00:00:00Z", finished_on="2026-09-01T00:01:00Z"
        )
    snapshot = bench.poll()
    assert snapshot.listed is not None
    assert snapshot.status.incremental_polling is True
    return snapshot


def test_a_job_that_moves_on_between_two_pages_has_no_lowered_count(bench: PollerFixture) -> None:
    """Pages overlap by a job. What the first phase of a poll has counted is not compared anew in the second one."""
    for number in range(99):
        bench.platform.finish(f"{10_000 + number}", 1)
    bench.platform.add("20000")
    bench.platform.finish("20001", 1, 1, started_on=None)  # the second phase asks for its details
    completed = iter(range(1, 9))

    def move_on(request: httpx.Request) -> None:
        if request.url.path.endswith("/async/files"):
            bench.platform.add("20000", completed=next(completed))

    bench.platform.instead = move_on
    bench.poll()

    assert bench.platform.asked[-3:] == ["/async/files", "/async/files", "/async/files/copy/20001"]
    assert bench.counted(counting.FILES_COMPLETED) == 99 + 2 + 1
    assert [event for event in bench.events() if event["event"] == "job.count_lowered"] == []


def lists_asked(bench: PollerFixture, since: int) -> int:
    return bench.platform.asked[since:].count("/async/files")


def test_a_large_account_shows_its_gauges_after_a_restart_at_the_first_poll_without_a_full_listing(
    bench: PollerFixture,
) -> None:
    large(bench)
    bench.poller, asked = bench.new_poller(), len(bench.platform.asked)

    snapshot = bench.poll()

    assert lists_asked(bench, asked) < 5
    assert snapshot.listed is not None
    assert snapshot.listed["copy", "finished"].jobs == 2000


def test_gauges_of_a_watched_account_move_with_what_is_seen(bench: PollerFixture) -> None:
    large(bench)
    bench.platform.add("20000", completed=3)

    snapshot = bench.poll()

    assert snapshot.listed is not None
    assert snapshot.listed["copy", "running"] == (1, 10, 3, 0)
    assert snapshot.listed["copy", "finished"].jobs == 2000


def test_what_watching_saw_is_shown_before_slices_are_read(bench: PollerFixture) -> None:
    shown_before_slices = []

    def look(request: httpx.Request) -> None:
        if request.url.params.get("offset") == "990":  # a page that only the listing needs
            shown_before_slices.append(bench.snapshots[-1].ledger)

    bench.platform.instead = look
    large(bench)

    [ledger] = shown_before_slices
    assert ledger is not None
    assert ledger.tracked_jobs >= 600


def test_slice_that_fails_does_not_fail_the_poll(bench: PollerFixture) -> None:
    for number in range(2000):
        bench.platform.add(f"{10_000 + number}", failed=1)
    bench.platform.instead = lambda request: (
        bench.platform.said(502, {}) if request.url.params.get("offset") == "990" else None
    )

    snapshot = bench.poll()

    assert snapshot.status.up is True
    assert [event["reason"] for event in bench.events() if event["event"] == "page.failed"] == [
        "the platform answered 502"
    ]
    assert bench.counted(counting.FILES_FAILED) >= 700
    assert snapshot.listed is None


def test_job_whose_endpoint_fails_does_not_hold_up_the_listing(bench: PollerFixture) -> None:
    large(bench)
    bench.platform.add("20000")
    bench.poll()
    bench.platform.unlisted.add("20000")
    bench.platform.instead = lambda request: (
        bench.platform.said(502, {}) if request.url.path.endswith("/20000") else None
    )
    asked = len(bench.platform.asked)
    snapshot = bench.poll(after=5 * 3600)

    assert snapshot.status.up is True
    assert lists_asked(bench, asked) > 5


def test_a_small_share_makes_polls_less_frequent_and_what_they_show_is_believed_for_longer(
    bench: PollerFixture,
) -> None:
    bench.poller = bench.new_poller(share=0.001)

    snapshot = bench.poll()

    assert snapshot.status.interval == 375  # one request in five minutes, and some room
    assert snapshot.gauges_until == START + 30 + 2 * 375


def test_a_check_reads_no_slices(bench: PollerFixture) -> None:
    for number in range(2000):
        bench.platform.add(f"{10_000 + number}")

    bench.poller.poll_once()

    assert lists_asked(bench, 0) < 12
    assert bench.poller.usage_estimate.jobs >= 600


def test_requests_made_before_it_is_known_whose_they_are_count_as_theirs(bench: PollerFixture) -> None:
    snapshot = bench.poll()

    assert snapshot.status.allowance_used == len(bench.platform.asked) == 2


def test_a_job_whose_own_endpoint_tells_nothing_is_looked_at_on_its_page(bench: PollerFixture) -> None:
    large(bench, 1000)
    bench.platform.add("20000")
    bench.poll()
    for number in range(300):
        bench.platform.finish(f"{20_001 + number}", 1)
    bench.poll()
    bench.platform.finish("20000", 1, 1)
    bench.platform.instead = lambda request: (
        bench.platform.said(403, {}) if request.url.path.endswith("/20000") else None
    )

    bench.poll()

    assert bench.counted(counting.FILES_FAILED) == 1


def test_no_job_is_lost_by_a_poll_whose_list_did_not_answer(bench: PollerFixture) -> None:
    bench.platform.add("1")
    bench.poll()
    del bench.platform.jobs["1"]
    bench.platform.instead = lambda request: (
        bench.platform.said(500, {}) if request.url.path.endswith("/files") else None
    )
    for _ in range(3):
        bench.poll(after=400)

    assert bench.counted(counting.JOBS_FINISHED, "lost") == 0


# ---- clocks that are wrong ----

HOUR, DAY = 3600.0, 86400.0


def wait_for_both(bench: PollerFixture) -> None:
    """Begin to wait for a finished job's missing file and for a job that the platform no longer knows."""
    bench.platform.add("1")
    bench.platform.add("2")
    bench.poll()
    bench.platform.finish("1", 3, total_files=5)
    del bench.platform.jobs["2"]
    bench.poll()


def ended_early(bench: PollerFixture) -> tuple[int, int]:
    """How many jobs are called incomplete, and how many lost: in the end, one of each."""
    incomplete = bench.counted(counting.JOBS_FINISHED, "incomplete")
    lost = bench.counted(counting.JOBS_FINISHED, "lost")
    measure("cavatica", [incomplete - 1, lost - 1])
    return incomplete, lost


@pytest.mark.parametrize("jump", [61, HOUR, DAY])
@pytest.mark.parametrize("responses", [1, 2, 3, 1000], ids="{} responses".format)
@pytest.mark.fault(
    "`Date` jumps ahead while jobs wait to be called incomplete or lost",
    action="waits by what both clocks agree on",
    shown="no job called incomplete or lost too early, and each in the end",
    recovery="none needed",
    part="Clocks",
)
def test_platform_clock_that_jumps_ahead_ends_no_wait_early(bench: PollerFixture, jump: float, responses: int) -> None:
    wait_for_both(bench)
    bench.platform.dates = [_http_date(bench.clock.now + jump + 1)] * min(responses, 3)
    bench.platform.clock_ahead = jump if responses == 1000 else 0.0
    for _ in range(7):
        bench.poll(after=3.5)

    assert ended_early(bench) == (0, 0)
    for _ in range(4):
        bench.poll(after=20)
    assert ended_early(bench) == (1, 0)
    for _ in range(12):
        bench.poll()
    assert ended_early(bench) == (1, 1)


@pytest.mark.parametrize("jump", [HOUR, DAY, 1000 * DAY])
@pytest.mark.parametrize("whose", ["the platform's", "this machine's"])
@pytest.mark.fault(
    "the platform's clock or this machine's is put back while jobs wait",
    action="goes on with the wait",
    shown="each job called incomplete or lost in the end",
    recovery="one poll later",
    part="Clocks",
)
def test_clock_that_is_put_back_prolongs_no_wait_by_more_than_a_poll(
    bench: PollerFixture, jump: float, whose: str
) -> None:
    wait_for_both(bench)
    if whose == "the platform's":
        bench.platform.clock_ahead = -jump
    else:
        bench.clock.wrong_by = -jump
    for _ in range(12):
        bench.poll()

    assert ended_early(bench) == (1, 1)


@pytest.mark.parametrize("jump", [-DAY, -HOUR, HOUR, DAY])
@pytest.mark.fault(
    "this machine's clock jumps while jobs wait",
    action="waits by the process's own time",
    shown="no job called incomplete or lost too early, and each in the end",
    recovery="none needed",
    part="Clocks",
)
def test_this_machines_clock_neither_ends_nor_prolongs_a_wait(bench: PollerFixture, jump: float) -> None:
    wait_for_both(bench)
    bench.clock.wrong_by = jump
    bench.poll()
    assert ended_early(bench) == (0, 0)
    bench.poll()
    assert ended_early(bench) == (1, 0)
    for _ in range(8):
        bench.poll()
    assert ended_early(bench) == (1, 1)


@pytest.mark.parametrize(("platform_ahead", "wrong_by"), [(DAY, 0), (0, DAY), (HOUR, -HOUR), (-HOUR, HOUR)])
@pytest.mark.fault(
    "one clock is wrong at a restart while jobs wait",
    action="counts of the downtime what both clocks agree on",
    shown="no job called incomplete or lost too early, and each in the end",
    recovery="the polls after it",
    part="Clocks",
)
def test_one_wrong_clock_ends_no_wait_at_a_restart(
    bench: PollerFixture, platform_ahead: float, wrong_by: float
) -> None:
    wait_for_both(bench)
    bench.platform.clock_ahead, bench.clock.wrong_by = platform_ahead, wrong_by
    bench.restart()

    bench.poll(after=5)

    assert ended_early(bench) == (0, 0)
    for _ in range(13):
        bench.poll()
    assert ended_early(bench) == (1, 1)


@pytest.mark.fault(
    "a crash loop while jobs wait",
    action="goes on with the wait in each process",
    shown="each job called incomplete or lost in the end",
    recovery="none needed",
    part="Clocks",
)
def test_crash_loop_ends_waits_in_time(bench: PollerFixture) -> None:
    wait_for_both(bench)
    for _ in range(11):
        bench.restart(downtime=30)
        bench.poll(after=0)

    assert ended_early(bench) == (1, 1)


@pytest.mark.parametrize("put_back", ["platform", "machine"])
@pytest.mark.fault(
    "a crash loop while jobs wait, after a clock was ten days ahead",
    action="goes on with the wait in each process",
    shown="each job called incomplete or lost in the end",
    recovery="one restart later",
    part="Clocks",
)
def test_crash_loop_after_a_clock_was_put_right_ends_waits_one_restart_later(
    bench: PollerFixture, put_back: str
) -> None:
    bench.platform.clock_ahead = 10 * DAY if put_back == "platform" else 0.0
    bench.clock.wrong_by = 10 * DAY if put_back == "machine" else 0.0
    wait_for_both(bench)
    bench.platform.clock_ahead = bench.clock.wrong_by = 0.0
    for _ in range(12):
        bench.restart(downtime=30)
        bench.poll(after=0)

    assert ended_early(bench) == (1, 1)


@pytest.mark.parametrize(
    ("wrong", "requests"),
    [
        (_http_date(START + 30 + DAY), ["/user", "/async/files", "/user"]),
        (_http_date(START + 30 - HOUR), ["/user", "/async/files", "/user"]),
        (_http_date(0), ["/user", "/async/files", "/user"]),
        (None, ["/user", "/async/files", "/user"]),
        ("yesterday", ["/user", "/async/files", "/user"]),
        (_http_date(START + 30), ["/user", "/async/files"]),
    ],
    ids=["a day ahead", "an hour behind", "1970", "absent", "unreadable", "right"],
)
@pytest.mark.fault(
    "the first `Date` is wrong, absent or unreadable",
    action="asks once more before it decides which jobs are older than its counting",
    shown="the failures since counting began",
    recovery="the same poll",
    part="Clocks",
)
def test_first_wrong_date_does_not_decide_what_is_history(
    bench: PollerFixture, wrong: str | None, requests: list[str]
) -> None:
    times = [("old", "2026-08-21T14:00:00Z"), ("new", "2026-09-21T14:13:51Z")]  # START is 14:13:20
    for job_id, at in times:
        bench.platform.finish(job_id, 1, 2, started_on=at, finished_on=at)
    bench.platform.dates = [wrong]

    ledger = bench.poll().ledger

    assert bench.platform.asked == requests
    assert ledger is not None
    assert ledger.account.counting_since == START + 30
    failed = bench.counted(counting.FILES_FAILED)
    measure("cavatica", [failed - 2])
    assert failed == 2
    bench.poll()
    assert bench.platform.asked == [*requests, "/async/files"]


@pytest.mark.fault(
    "no two `Date`s agree",
    action="does not begin to count",
    shown="result `bad_answer`, with `Date` in the reason",
    recovery="two that agree; it counts from the first response on",
    part="Clocks",
)
def test_account_does_not_begin_while_no_two_dates_agree(bench: PollerFixture) -> None:
    bench.platform.dates = [_http_date(START + days * DAY) for days in range(1, 7)]

    snapshot = bench.poll()

    assert snapshot.ledger is None
    assert polls(snapshot) == {"bad_answer": 1}
    assert "Date" in snapshot.status.last_error
    assert snapshot.status.clock_skew is None
    ledger = bench.poll().ledger
    assert ledger is not None
    assert ledger.account.counting_since == START + 30  # its first answer


@pytest.mark.parametrize("date", [None, "", "garbage", "Mon, 99 Foo 2026 99:99:99 GMT"])
@pytest.mark.fault(
    "no readable `Date`",
    action="uses this machine's clock",
    shown="no clock skew",
    recovery="none needed",
    part="Clocks",
)
def test_platform_without_a_readable_date_is_timed_by_this_machines_clock(
    bench: PollerFixture, date: str | None
) -> None:
    bench.platform.dates = [date] * 1000
    wait_for_both(bench)

    assert bench.platform.asked[:3] == ["/user", "/async/files", "/async/files"]
    assert bench.snapshots[-1].status.clock_skew is None
    for _ in range(10):
        bench.poll()
    assert ended_early(bench) == (1, 1)
    ledger = bench.snapshots[-1].ledger
    assert ledger is not None
    assert ledger.account.counting_since == START + 30


@pytest.mark.fault(
    "a `Date` that stands still, as from a cache",
    action="waits by the process's own time",
    shown="each job called incomplete or lost in the end; no clock skew",
    recovery="none needed",
    part="Clocks",
)
def test_date_that_stands_still_stops_no_wait(bench: PollerFixture) -> None:
    bench.platform.dates = [_http_date(START + 30)] * 1000
    wait_for_both(bench)
    for _ in range(10):
        bench.poll()

    assert ended_early(bench) == (1, 1)
    assert bench.snapshots[-1].status.clock_skew == 0


def test_ledger_begins_although_the_list_fails_and_counts_from_the_first_answer(bench: PollerFixture) -> None:
    bench.platform.instead = lambda request: bench.platform.said(500, {}) if "files" in request.url.path else None

    snapshot = bench.poll()

    assert polls(snapshot) == {"unreachable": 1}
    assert snapshot.ledger is not None
    assert snapshot.ledger.account.counting_since == START + 30


@pytest.mark.parametrize(
    ("status", "result"), [(429, "rate_limited"), (403, "bad_answer"), (503, "unreachable"), (404, "bad_answer")]
)
def test_first_poll_whose_list_fails_reports_the_failure_of_the_list(
    bench: PollerFixture, status: int, result: str
) -> None:
    bench.platform.instead = lambda request: bench.platform.said(status, {}) if "files" in request.url.path else None

    assert polls(bench.poll()) == {result: 1}


@pytest.mark.parametrize("behind", [-2 * HOUR, -61, 61, 2 * HOUR, 10 * DAY])
@pytest.mark.fault(
    "this machine's clock is over a minute wrong",
    action="polls on",
    shown="the clock skew; a log line as it begins and as it ends",
    recovery="the clock is put right",
    part="Clocks",
)
def test_wrong_clock_of_this_machine_is_shown_and_logged_once(bench: PollerFixture, behind: float) -> None:
    bench.clock.wrong_by = -behind
    for _ in range(3):
        snapshot = bench.poll()

    assert snapshot.status.clock_skew == behind
    bench.clock.wrong_by = 0
    for _ in range(3):
        snapshot = bench.poll()
    assert snapshot.status.clock_skew == 0
    events = [(each["event"], each["platform_ahead_seconds"]) for each in bench.events() if "clock" in each["event"]]
    assert events == [("clock.skewed", behind), ("clock.right", 0)]


@pytest.mark.parametrize("behind", [-60, 0, 1, 60])
def test_clock_that_is_nearly_right_is_not_logged(bench: PollerFixture, behind: float) -> None:
    bench.clock.wrong_by = -behind
    bench.poll()

    assert bench.poll().status.clock_skew == behind
    assert not [each for each in bench.events() if "clock" in each["event"]]


@pytest.mark.parametrize("wrong_by", [2 * HOUR, 10 * DAY, -2 * HOUR, -10 * DAY])
@pytest.mark.fault(
    "this machine's clock is put right between two processes",
    action="polls at once",
    shown="`sbg_up` 1",
    recovery="none needed",
    part="Clocks",
)
def test_clock_that_is_put_right_between_two_processes_delays_no_poll(bench: PollerFixture, wrong_by: float) -> None:
    bench.clock.wrong_by = wrong_by
    bench.restart()
    bench.poll()
    bench.clock.wrong_by = 0
    bench.restart()

    snapshot = bench.poll()

    assert snapshot.status.up is True
    assert bench.wait is None


@pytest.mark.parametrize("wrong_by", [2 * HOUR, 10 * DAY])
@pytest.mark.fault(
    "this machine's clock, which was ahead, is put right in a pause after a 429",
    action="keeps to what is left of the pause",
    shown="the pause that is left",
    recovery="the end of the pause",
    part="Clocks",
)
def test_clock_that_is_put_right_prolongs_no_pause_after_a_429(bench: PollerFixture, wrong_by: float) -> None:
    bench.clock.wrong_by = wrong_by
    bench.restart()
    bench.poll()
    refusal = httpx.Response(429, headers={"Retry-After": "90"}, content=iter([b"{}"]))
    bench.platform.instead = lambda _: refusal
    bench.poll()
    assert bench.wait == 90
    bench.platform.instead = lambda _: None
    bench.clock.wrong_by = 0
    bench.restart()
    bench.poller._publish_saved_ledger()  # noqa: SLF001  # as the daemon does, which loads the user's allowance

    bench.poll(after=0)

    assert bench.wait == 90
    assert bench.poll(after=90).status.up is True


@pytest.mark.parametrize("jump", [-10 * DAY, -HOUR, HOUR, 10 * DAY])
@pytest.mark.fault(
    "this machine's clock jumps while polls fail",
    action="measures age by the process's own time",
    shown="gauges until they are stale",
    recovery="none needed",
    part="Clocks",
)
def test_gauges_become_stale_in_time_although_this_machines_clock_jumps(bench: PollerFixture, jump: float) -> None:
    bench.poll()
    bench.clock.wrong_by = jump
    bench.platform.instead = lambda _: bench.platform.said(404, {})

    snapshot = bench.poll()

    assert snapshot.gauges_until - bench.clock.time() == pytest.approx(570)


@pytest.mark.parametrize("damage", ["seconds = 'x'", "seconds = 9e999", "platform_time = 'x'", "local_time = x'00'"])
@pytest.mark.fault(
    "the saved reading of the wait clock is damaged",
    action="begins the waits again",
    shown="`sbg_up` 1",
    recovery="the waits' end",
    part="Clocks",
)
def test_damaged_reading_of_the_wait_clock_only_begins_the_waits_again(bench: PollerFixture, damage: str) -> None:
    wait_for_both(bench)
    bench.store._db.execute(f"UPDATE wait_clock SET {damage}")  # noqa: SLF001, S608  # constants above
    bench.restart()
    for _ in range(13):
        bench.poll()

    assert bench.snapshots[-1].status.up is True
    assert ended_early(bench) == (1, 1)


# ---- responses that are not the platform's ----


def page_of_a_firewall(status: int) -> httpx.Response:
    content = iter([b"<html><title>Blocked</title></html>"])
    return httpx.Response(status, headers={"Content-Type": "text/html"}, content=content)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_firewalls_page_in_place_of_the_list_costs_polls_and_nothing_else(bench: PollerFixture, status: int) -> None:
    bench.platform.add("1", completed=3)
    bench.poll()
    bench.platform.instead = lambda request: page_of_a_firewall(status) if "files" in request.url.path else None

    for _ in range(3):
        snapshot = bench.poll()

        assert snapshot.status.auth_ok is True
        assert snapshot.status.waiting is None
        assert snapshot.status.up is False
        assert "'Blocked'" in snapshot.status.last_error
        assert bench.wait is None
    assert polls(snapshot) == {"success": 1, "bad_answer": 3}
    [logged] = [event for event in bench.events() if event["event"] == "poll.failed"]
    assert logged["reason"] == snapshot.status.last_error

    bench.platform.instead = lambda _: None
    bench.platform.finish("1", 9, 1)
    assert bench.poll().status.up is True
    assert bench.counted(counting.JOBS_FINISHED, "partial") == 1
    assert bench.counted(counting.FILES_FAILED) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_firewalls_page_in_place_of_everything_refuses_no_token(bench: PollerFixture, status: int) -> None:
    bench.platform.instead = lambda _: page_of_a_firewall(status)

    for _ in range(3):
        snapshot = bench.poll()

        assert snapshot.status.auth_ok is None
        assert bench.wait is None
    bench.platform.instead = lambda _: None
    assert bench.poll().status.auth_ok is True


def test_token_is_refused_if_a_firewall_hides_the_list_but_not_the_user(bench: PollerFixture) -> None:
    bench.poll()
    bench.platform.users = {}
    bench.platform.instead = lambda request: page_of_a_firewall(403) if "files" in request.url.path else None

    snapshot = bench.poll()

    assert snapshot.status.auth_ok is False
    assert polls(snapshot) == {"success": 1, "unauthorized": 1}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_firewalls_page_in_place_of_a_job_neither_loses_it_nor_fails_polls(bench: PollerFixture, status: int) -> None:
    bench.platform.add("1", completed=3)
    bench.poll()
    bench.platform.unlisted.add("1")
    bench.platform.instead = lambda request: page_of_a_firewall(status) if "copy" in request.url.path else None

    for _ in range(30):
        snapshot = bench.poll(after=60)

    assert bench.platform.asked[-1] != "/user"
    assert snapshot.status.up is True
    assert snapshot.status.auth_ok is True
    assert bench.counted(counting.JOBS_FINISHED, "lost") == 0
    bench.platform.instead = lambda _: None
    bench.platform.finish("1", 9, 1)
    for _ in range(70):
        bench.poll(after=60)
    assert bench.counted(counting.JOBS_FINISHED, "partial") == 1


def test_maintenance_goes_on_behind_a_page_of_a_gateway(bench: PollerFixture) -> None:
    bench.poll()
    bench.platform.instead = lambda _: bench.platform.said(503, {"code": 0})
    assert bench.poll(after=60).status.maintenance is True
    bench.platform.instead = lambda _: page_of_a_firewall(403)

    assert bench.poll(after=60).status.maintenance is True


def test_an_account_without_its_profile_is_shown_as_failing_and_polled_once_it_is_there(bench: PollerFixture) -> None:
    pending = bench.pending(until=START + 95)
    bench.clock.stop_at_pause(6)
    bench.platform.add("1", completed=3, failed=1)

    pending.run()

    assert bench.clock.pauses[:4] == [30.0] * 4
    missing, listed = bench.snapshots[3], bench.snapshots[-1]
    assert (missing.status.up, missing.ledger, polls(missing)) == (False, None, {"error": 4})
    assert (listed.status.up, polls(listed)["error"]) == (True, 4)
    assert bench.counted(counting.FILES_FAILED) == 1
    assert [event["event"] for event in bench.events() if event["event"].startswith("polling.")] == [
        "polling.paused",
        "polling.resumed",
    ]


def test_an_account_without_its_profile_ends_with_the_process(bench: PollerFixture) -> None:
    bench.clock.stop_at_pause(2)

    bench.pending(until=float("inf")).run()

    assert len(bench.snapshots) == 2


@pytest.mark.parametrize("poll", [PendingPoller.poll_once, PendingPoller.poll_until_listed])
def test_single_polls_try_the_set_up_once(bench: PollerFixture, poll: Callable[[PendingPoller], None]) -> None:
    pending = bench.pending(until=START + 1)

    poll(pending)
    assert [snapshot.status.up for snapshot in bench.snapshots] == [False]
    assert pending.usage_estimate == UsageEstimate(0, 0, 0)

    bench.clock.advance(1)
    poll(pending)
    assert bench.snapshots[-1].status.up is True
    assert pending.account == bench.poller.account
    assert pending.last_activity_at == bench.clock.monotonic()


def test_a_reload_reaches_an_account_before_and_after_its_profile_is_there(bench: PollerFixture) -> None:
    def settings(poll_interval: float) -> PollerSettings:
        return PollerSettings(
            PollSchedule(poll_interval, 21600, 600, first=0, phase=0), Rules(), 30, show_username=True
        )

    def reload_later(_: float) -> None:
        if bench.snapshots[-1].status.up:
            pending.configure(settings(300))
        if len(bench.clock.pauses) > 4:
            raise Stopping("enough")

    pending = bench.pending(until=START + 2 * SETUP_INTERVAL)
    pending.configure(settings(3600))
    bench.clock.during_pause = reload_later
    pending.run()

    assert bench.clock.pauses == pytest.approx([SETUP_INTERVAL, SETUP_INTERVAL, 0, 30, 300])

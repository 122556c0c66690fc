"""An account that makes no request for a while says why: in its snapshots, and in one log line at each end."""

import io
import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from exporter.errors import Stopping, WaitReason
from exporter.logs import logger
from exporter.metrics.families import FAMILIES
from exporter.metrics.snapshot import AccountSnapshot
from exporter.polling.settings import PollSchedule
from exporter.polling.waiting import WaitTracker
from exporter.storage.store import Store
from tests.clocks import START, ManualClock
from tests.snapshots import DISPLAY
from tests.unit.test_poller import PollerFixture, polls


@pytest.fixture
def bench(tmp_path: Path, clock: ManualClock, store: Store) -> PollerFixture:
    return PollerFixture(tmp_path, clock, store)


def reason(snapshot: AccountSnapshot) -> str:
    """The reason that the metric shows; an empty string for none."""
    [family] = [family for family in FAMILIES if family.name == "sbg_exporter_waiting"]
    samples = {str(sample.labels[0]): sample.value for sample in family.samples(snapshot, DISPLAY, START)}
    assert list(samples) == ["allowance", "yielding", "rate_limited", "maintenance", "token"]
    assert sum(1 for value in samples.values() if value) <= 1
    return next((name for name, value in samples.items() if value == 1), "")


def told(bench: PollerFixture) -> list[tuple[str, str]]:
    """The begin and the end of each wait, as logged."""
    events = [event for event in bench.events() if event["event"].startswith("polling.")]
    assert all(event["account"] == "cavatica" for event in events)
    return [(event["event"].removeprefix("polling."), event["reason"]) for event in events]


def test_a_wait_for_another_cause_than_its_metric_s_label_says_so_in_the_log(clock: ManualClock) -> None:
    log = io.StringIO()
    waits = WaitTracker(clock, logger("json", "info", log), lambda: "write a token")
    waits.begin(WaitReason.TOKEN, None, "the file that configures the account is invalid", "correct it")
    waits.end()

    paused, resumed = map(json.loads, log.getvalue().splitlines())
    assert paused["reason"] == resumed["reason"] == "the file that configures the account is invalid"
    assert paused["next_step"] == "correct it"


def run_for(bench: PollerFixture, seconds: float, between: Callable[[], None] = lambda: None) -> None:
    """Let the poller run in its own rhythm for *seconds*, then do *between*, then let it run as long again."""
    half, ends = bench.clock.now + seconds, bench.clock.now + 2 * seconds
    left = [between]

    def during_pause(_: float) -> None:
        if left and bench.clock.now >= half:
            left.pop()()
        if bench.clock.now >= ends:
            raise Stopping("enough")

    bench.clock.during_pause = during_pause
    bench.poller.run()


def rate(bench: PollerFixture, remaining: int, reset_in: float = 200) -> Callable[[httpx.Request], httpx.Response]:
    """Responses that report this rate limit and, at first, an empty list."""
    ends = bench.clock.now + reset_in

    def respond(request: httpx.Request) -> httpx.Response:
        body: dict[str, Any] = {"username": "rfranklin"} if request.url.path.endswith("/user") else {"items": []}
        response = bench.platform.said(200, body)
        left = remaining if bench.clock.now < ends else 990
        headers = {
            "X-RateLimit-Limit": "1000",
            "X-RateLimit-Remaining": str(left),
            "X-RateLimit-Reset": str(int(ends if bench.clock.now < ends else bench.clock.now + 300)),
        }
        response.headers.update(headers)
        return response

    return respond


def test_no_reason_is_shown_while_polls_succeed_and_nothing_is_logged(bench: PollerFixture) -> None:
    assert reason(bench.poll()) == ""
    assert told(bench) == []


@pytest.mark.fault(
    "other programs use up the rate limit",
    action="waits for the window's end",
    shown="`sbg_exporter_waiting` reason `yielding`; a log line as the wait begins and as it ends",
    recovery="the first poll of the next window",
)
def test_others_that_use_up_the_limit_are_named_until_the_window_ends(bench: PollerFixture) -> None:
    bench.platform.instead = rate(bench, remaining=10)

    def waits() -> None:
        snapshot = bench.snapshots[-1]
        assert reason(snapshot) == "yielding"
        assert snapshot.status.up is True
        assert snapshot.status.waiting is not None
        assert snapshot.status.waiting.until == pytest.approx(START + 200, abs=35)
        assert told(bench) == [("paused", "yielding")]
        [paused] = [event for event in bench.events() if event["event"] == "polling.paused"]
        assert paused["level"] == "warning"
        assert "other programs" in paused["explanation"]
        assert paused["until"].endswith("Z")
        assert "fewer requests" in paused["next_step"]

    run_for(bench, 150, waits)

    assert bench.snapshots[-1].status.up is True
    assert reason(bench.snapshots[-1]) == ""
    assert told(bench) == [("paused", "yielding"), ("resumed", "yielding")]


def test_the_detection_delay_grows_while_an_account_waits(bench: PollerFixture) -> None:
    bench.poll()
    bench.platform.instead = rate(bench, remaining=10)

    run_for(bench, 90)

    waiting = [snapshot.status for snapshot in bench.snapshots if reason(snapshot)]
    delays = [status.detection_delay or 0.0 for status in waiting]
    assert delays == sorted(delays)
    assert delays[-1] == pytest.approx(180, abs=35)
    assert max(later - earlier for earlier, later in pairwise(delays)) <= 5


@pytest.mark.fault(
    "a list so large that its listing uses up the share",
    action="waits for the next window",
    shown="`sbg_exporter_waiting` reason `allowance`; `sbg_up` 1",
    recovery="the next window",
)
def test_a_share_that_is_used_up_is_the_allowance(bench: PollerFixture) -> None:
    for number in range(2000):
        bench.platform.add(f"{number:04d}")
    bench.poller = bench.new_poller(share=0.01)

    snapshot = bench.poll()

    assert reason(snapshot) == "allowance"
    assert snapshot.status.up is True
    assert told(bench) == [("paused", "allowance")]


def test_a_share_used_up_by_the_process_before_is_told_before_the_first_request(bench: PollerFixture) -> None:
    bench.poller = bench.new_poller(share=0.001)
    bench.poll()
    bench.platform.asked.clear()

    snapshot = bench.poll(after=1)

    assert bench.platform.asked == []
    assert reason(snapshot) == "allowance"
    assert polls(snapshot) == {"success": 1}


@pytest.mark.parametrize(
    ("status", "code", "retry_after", "wait"),
    [
        (429, 1000, "100", ("rate_limited", 100)),
        (429, 1000, "", ("rate_limited", 300)),
        (503, 90005, "60", ("rate_limited", 60)),
        (503, 0, "", ("maintenance", 60)),
        (503, 0, "120", ("maintenance", 120)),
        (503, 0, "1", ("maintenance", 60)),
        (401, 90001, "", ("token", 300)),
        (500, 90004, "", ("", None)),
        (404, 90003, "", ("", None)),
    ],
)
@pytest.mark.fault(
    "429, 503 or 401: the platform refuses requests for a while",
    action="waits as long as the response says, or for the time of that refusal",
    shown="`sbg_exporter_waiting` by its reason; a log line as the wait begins and as it ends",
    recovery="the first poll that succeeds",
)
def test_each_refusal_that_makes_it_wait_has_its_reason(
    bench: PollerFixture, status: int, code: int, retry_after: str, wait: tuple[str, float | None]
) -> None:
    shown, seconds = wait
    bench.poll()

    def respond(_: httpx.Request) -> httpx.Response:
        response = bench.platform.said(status, {"code": code})
        response.headers.update({"Retry-After": retry_after} if retry_after else {})
        return response

    bench.platform.instead = respond
    for _ in range(2):
        assert reason(bench.poll(after=bench.wait or 30)) == shown
        assert bench.wait == seconds
    assert told(bench) == ([("paused", shown)] if shown else [])
    waiting = next((each.status.waiting for each in bench.snapshots if each.status.waiting), None)
    paused = [event for event in bench.events() if event["event"] == "polling.paused"]
    assert [event["next_step"] for event in paused] == ([waiting.next_step] if waiting else [])

    bench.platform.instead = lambda _: None
    assert reason(bench.poll(after=bench.wait or 30)) == ""
    assert told(bench) == ([("paused", shown), ("resumed", shown)] if shown else [])


def test_an_account_that_waits_for_a_shared_allowance_says_so_too(bench: PollerFixture) -> None:
    bench.poll()
    bench.poller._client.allowance.pause_for(90, bench.clock.monotonic())  # noqa: SLF001  # as its other account would

    assert reason(bench.poll()) == "rate_limited"
    assert bench.wait == pytest.approx(60)


def test_a_token_of_somebody_else_is_waited_out_as_a_token(bench: PollerFixture) -> None:
    bench.poll()
    bench.platform.users = {"t0k3n": "somebody"}
    bench.platform.instead = lambda _: bench.platform.said(401, {}) if bench.snapshots[-1].status.up else None

    assert reason(bench.poll()) == "token"
    assert reason(bench.poll()) == "token"
    assert "belongs to somebody" in bench.snapshots[-1].status.last_error
    assert told(bench) == [("paused", "token")]


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _folder(path: Path) -> None:
    _unlink(path)
    path.mkdir()


def _broken_link(path: Path) -> None:
    _unlink(path)
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    "spoil",
    [
        _unlink,
        _folder,
        _broken_link,
        lambda path: path.write_text(""),
        lambda path: path.write_text("two words"),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
    ],
    ids=["missing", "folder", "broken link", "empty", "two words", "binary"],
)
@pytest.mark.parametrize("first", [True, False], ids=["at start", "later"])
@pytest.mark.fault(
    "a token file that is missing, a folder, a broken link, empty, two words or binary",
    action="asks for nothing; looks for the token every few seconds",
    shown="`sbg_up` 0, the file's path, `sbg_exporter_waiting` reason `token`",
    recovery="the token is there, without a restart",
    part="The configuration",
)
def test_an_account_without_a_usable_token_waits_and_starts_when_it_is_there(
    bench: PollerFixture, spoil: Callable[[Path], object], *, first: bool
) -> None:
    if not first:
        bench.poll()
    bench.platform.asked.clear()
    spoil(bench.token)

    def mend() -> None:
        snapshot = bench.snapshots[-1]
        assert snapshot.status.up is False
        assert snapshot.status.auth_ok is (None if first else True)
        assert polls(snapshot)["error"] == 1
        assert str(bench.token) in snapshot.status.last_error
        assert reason(snapshot) == "token"
        assert told(bench) == [("paused", "token")]
        assert bench.platform.asked == []
        [paused] = [event for event in bench.events() if event["event"] == "polling.paused"]
        assert "token file" in paused["next_step"]
        assert snapshot.status.waiting is not None
        assert snapshot.status.waiting.next_step == paused["next_step"]
        if bench.token.is_dir():
            shutil.rmtree(bench.token)
        bench.token.unlink(missing_ok=True)
        bench.token.write_text("t0k3n\n")

    run_for(bench, 10, mend)

    assert bench.snapshots[-1].status.up is True
    assert reason(bench.snapshots[-1]) == ""
    assert told(bench) == [("paused", "token"), ("resumed", "token")]


def test_a_missing_token_is_looked_for_often_however_rarely_the_account_is_polled(bench: PollerFixture) -> None:
    bench.schedule = PollSchedule(3600, 21600, 7200, first=0, phase=0)
    bench.poller = bench.new_poller()
    bench.token.unlink()

    bench.poll()

    assert bench.wait == 30


def test_a_wait_for_another_reason_is_told_anew(bench: PollerFixture) -> None:
    bench.poll()
    bench.platform.instead = lambda _: bench.platform.said(503, {"code": 0})
    bench.poll()
    bench.platform.instead = lambda _: bench.platform.said(401, {"code": 90001})
    bench.poll(after=60)

    assert told(bench) == [("paused", "maintenance"), ("paused", "token")]


def test_every_reason_has_words_for_people() -> None:
    assert all(each.explanation and each.explanation[0].islower() for each in WaitReason)

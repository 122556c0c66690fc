"""The platform's clock is believed when two responses agree; waits advance by what two clocks agree on."""

from dataclasses import dataclass

import pytest

from exporter.counting.values import WaitClock
from exporter.polling.platform_clock import PlatformClock, WaitTimer
from tests.clocks import START

HOUR, DAY = 3600.0, 86400.0


def clock_of(*responses: tuple[float, float | None]) -> PlatformClock:
    """A clock after *responses*: true seconds since START, and how far the ``Date`` is ahead; None without a date."""
    clock = PlatformClock()
    for at, ahead in responses:
        clock.observe(None if ahead is None else START + at + ahead, at)
    return clock


# ---- the platform's clock ----


def test_one_response_is_not_believed() -> None:
    clock = clock_of((0, 0))

    assert not clock.believed
    assert clock.time(5, local=START + 5) is None
    assert clock.skew(5, local=START + 5) is None


def test_two_responses_that_agree_are_believed() -> None:
    clock = clock_of((0, 0), (30, 1))

    assert clock.time(40, local=0) == START + 41
    assert clock.skew(40, local=START - HOUR + 41) == HOUR


@pytest.mark.parametrize("wrong", [DAY, -DAY, HOUR, -HOUR, 61, -61, -START])
@pytest.mark.fault(
    "the first response's `Date` is wrong",
    action="believes a time that two responses agree on",
    shown="the right time",
    recovery="the third response",
)
def test_first_response_with_a_wrong_date_costs_one_more(wrong: float) -> None:
    assert not clock_of((0, wrong), (1, 0)).believed
    assert clock_of((0, wrong), (1, 0), (2, 0)).time(2, local=0) == START + 2


@pytest.mark.parametrize("jump", [DAY, -DAY, HOUR, -HOUR, 61, -61])
@pytest.mark.fault(
    "a `Date` that jumps",
    action="leaves it out, until the next response confirms it",
    shown="the time that two responses agree on",
    recovery="the next response",
)
def test_date_that_jumps_is_left_out_until_the_next_response_confirms_it(jump: float) -> None:
    once = clock_of((0, 0), (30, 0), (60, jump), (90, 0))
    twice = clock_of((0, 0), (30, 0), (60, jump), (90, jump))

    assert clock_of((0, 0), (30, 0), (60, jump)).time(60, local=0) == START + 60
    assert once.time(90, local=0) == START + 90
    assert twice.time(90, local=0) == START + 90 + jump


def test_two_jumps_that_disagree_are_left_out() -> None:
    assert clock_of((0, 0), (30, 0), (60, DAY), (90, -DAY), (120, DAY)).time(120, local=0) == START + 120


@pytest.mark.fault(
    "the platform's clock, or this machine's, is a tenth too slow",
    action="follows it",
    shown="the platform's time, within 10 s",
    recovery="none needed",
)
def test_slow_clock_is_followed() -> None:
    """Of a virtual machine or of ours: within a minute from one response to the next, but hours in the end."""
    clock = clock_of(*((at, -at / 10) for at in range(0, 36_000, 30)))

    assert clock.time(36_000, local=0) == pytest.approx(START + 36_000 - 3600, abs=10)


def test_responses_that_arrive_late_do_not_move_the_clock_by_more_than_they_are_late() -> None:
    clock = clock_of((0, 0), (30, 0), (60, -20), (90, 0))

    assert clock.time(90, local=0) == START + 90


def test_date_that_stands_still_says_nothing() -> None:
    """A proxy that repeats a cached ``Date`` for hours."""
    frozen = clock_of((0, 0), (30, 0), *((at, -at + 30) for at in range(60, 7200, 30)))

    assert frozen.time(7200, local=0) == START + 7200


def test_without_any_date_this_machines_clock_is_used() -> None:
    clock = clock_of((0, None), (30, None))

    assert clock.absent
    assert clock.time(30, local=START + 33) == START + 33
    assert clock.skew(30, local=START + 33) is None


def test_date_that_stood_still_from_the_beginning_is_like_none() -> None:
    clock = clock_of((0, 0), (30, -30), (60, -60))

    assert clock.absent
    assert clock.time(60, local=START + 61) == START + 61


@pytest.mark.parametrize("ahead", [0, DAY, -DAY])
def test_date_that_no_other_follows_is_like_none(ahead: float) -> None:
    """Only the first response came through a proxy that adds a ``Date``."""
    assert not clock_of((0, ahead), (1, None)).absent

    clock = clock_of((0, ahead), (1, None), (2, None))

    assert clock.absent
    assert clock.time(60, local=START + 61) == START + 61


def test_responses_without_a_date_do_not_end_the_belief() -> None:
    assert clock_of((0, 0), (30, 0), (60, None), (90, None)).time(90, local=0) == START + 90


# ---- waits ----


@dataclass
class Process:
    """One process: true time and how far each clock is ahead of it."""

    at: float = 0.0
    saved: WaitClock | None = None
    platform_ahead: float = 0.0
    local_ahead: float = 0.0

    def __post_init__(self) -> None:
        self.clock = PlatformClock()
        self.timer = WaitTimer(self.clock)
        self.booted = self.at

    @property
    def monotonic(self) -> float:
        return self.at - self.booted + 7.0

    def respond(self) -> None:
        self.clock.observe(START + self.at + self.platform_ahead, self.monotonic)

    def read(self, after: float = 30.0) -> WaitClock:
        """Two responses that agree, as in each poll, and a reading."""
        self.at += after
        for _ in range(2):
            self.respond()
        return self.timer.read(self.saved, self.monotonic, START + self.at + self.local_ahead)

    def restarted(self, after: float = 0.0, *, platform_ahead: float = 0.0, local_ahead: float = 0.0) -> "Process":
        """The next process, *after* seconds of downtime, which saved this process' last reading."""
        return Process(self.at + after, self.read(0), platform_ahead, local_ahead)


@pytest.mark.parametrize("jump", [61, HOUR, DAY, 1000 * DAY])
def test_platform_clock_that_jumps_ahead_shortens_no_wait(jump: float) -> None:
    process = Process()
    before = process.read()
    process.platform_ahead = jump

    assert process.read(30).seconds - before.seconds == 30


@pytest.mark.parametrize("jump", [61, HOUR, DAY])
def test_platform_clock_that_is_put_back_costs_one_reading(jump: float) -> None:
    process = Process()
    before = process.read()
    process.platform_ahead = -jump

    assert process.read(30).seconds == before.seconds
    assert process.read(30).seconds - before.seconds == 30


@pytest.mark.parametrize("jump", [-10 * DAY, -HOUR, HOUR, 10 * DAY])
def test_this_machines_clock_changes_no_wait_while_the_process_runs(jump: float) -> None:
    process = Process()
    before = process.read()
    process.local_ahead = jump

    assert process.read(30).seconds - before.seconds == 30


def test_wait_continues_after_a_restart() -> None:
    first = Process()
    before = first.read()

    assert first.restarted(after=200).read(0).seconds - before.seconds == 200


def test_crash_loop_continues_a_wait() -> None:
    process = Process()
    before = process.read()
    for _ in range(10):
        process = process.restarted(after=7)

    assert process.read(0).seconds - before.seconds == 70


@pytest.mark.parametrize(
    ("platform_ahead", "local_ahead"), [(DAY, 0.0), (0.0, DAY), (DAY, -HOUR), (-HOUR, DAY), (-HOUR, -HOUR)]
)
def test_one_wrong_clock_does_not_end_a_wait_across_a_restart(platform_ahead: float, local_ahead: float) -> None:
    first = Process()
    before = first.read()
    second = first.restarted(after=10, platform_ahead=platform_ahead, local_ahead=local_ahead)

    assert 0 <= second.read(0).seconds - before.seconds <= 10


@pytest.mark.parametrize("clock", ["platform_ahead", "local_ahead"])
def test_clock_that_was_put_back_costs_one_restart(clock: str) -> None:
    first = Process()
    setattr(first, clock, 10 * DAY)
    before = first.read()
    second = first.restarted(after=40)
    after_one = second.read(0).seconds
    third = second.restarted(after=40)

    assert after_one == before.seconds
    assert third.read(0).seconds - before.seconds == 40


def test_process_that_counts_before_the_clock_is_believed_counts_no_downtime() -> None:
    first = Process()
    before = first.read()
    second = first.restarted(after=HOUR)
    second.respond()
    reading = second.timer.read(second.saved, second.monotonic, START + second.at)

    assert reading == WaitClock(before.seconds, None, START + second.at)
    assert second.read(30).seconds == before.seconds
    assert second.read(30).seconds == before.seconds + 30


def test_reading_without_a_believed_clock_is_no_moment_for_the_next_process() -> None:
    first = Process(saved=WaitClock(500.0, None, START))

    assert first.read(HOUR).seconds == 500


def test_first_reading_is_comparable_with_what_an_older_version_saved() -> None:
    """It saved the platform's times. Of the two clocks, the one that is behind ends no wait too early."""
    assert Process(platform_ahead=5.0, local_ahead=90.0).read(0).seconds == START + 5
    assert Process(platform_ahead=5.0, local_ahead=-90.0).read(0).seconds == START - 90

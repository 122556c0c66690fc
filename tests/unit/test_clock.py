"""Every wait ends when the process does."""

import threading
import time

import pytest

from exporter.clock import RealClock
from exporter.errors import Stopping
from tests.background import BackgroundTask
from tests.waiting import PATIENCE


def test_its_times_are_this_machines() -> None:
    clock = RealClock(threading.Event())

    assert time.time() - 3600 < clock.time() < time.time() + 3600
    assert clock.monotonic() <= clock.monotonic() <= time.monotonic()


def test_its_dice_fall_within_their_range() -> None:
    clock = RealClock(threading.Event())

    rolls = {clock.roll() for _ in range(100)}

    assert all(0 <= roll < 1 for roll in rolls)
    assert len(rolls) > 1


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.001])
def test_a_pause_that_is_over_just_ends(seconds: float) -> None:
    RealClock(threading.Event()).pause(seconds)


@pytest.mark.parametrize("seconds", [0.0, 60.0, 1e300, float("inf")])
def test_a_pause_ends_with_the_process_however_long_it_was_to_be(seconds: float) -> None:
    stop = threading.Event()
    stop.set()

    with pytest.raises(Stopping):
        RealClock(stop).pause(seconds)


@pytest.mark.real_time
def test_a_pause_under_way_ends_with_the_process() -> None:
    stop = threading.Event()

    with BackgroundTask(stop.set), pytest.raises(Stopping):
        RealClock(stop).pause(10 * PATIENCE)

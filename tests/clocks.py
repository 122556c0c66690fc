"""A clock for tests: it advances only when the test says so."""

from collections.abc import Callable
from typing import Final

from exporter.errors import Stopping

START: Final = 1_790_000_000.0
"""Start time of tests in Unix seconds (2026-09-21T14:13:20Z)."""

_BOOT: Final = 1000.0
"""Monotonic time at START. It differs from START, so that tests notice code that mixes up the clocks."""


class ManualClock:
    """A clock that only pauses and the test itself advance.

    Attributes:
        now: the true time, in Unix seconds.
        wrong_by: seconds by which this machine's clock is ahead of the true time.
        pauses: the length of each pause so far.
        rolls: the next random numbers; 0.5 if empty.
        stopping: whether each pause raises Stopping, because the process is ending.
        during_pause: called with the length of each pause, after the clock has advanced.
    """

    def __init__(self, now: float = START) -> None:
        self.now = now
        self.wrong_by = 0.0
        self.pauses: list[float] = []
        self.rolls: list[float] = []
        self.stopping = False
        self.during_pause: Callable[[float], None] = lambda _: None

    def time(self) -> float:
        return self.now + self.wrong_by

    def monotonic(self) -> float:
        return self.now - START + _BOOT

    def roll(self) -> float:
        return self.rolls.pop(0) if self.rolls else 0.5

    def pause(self, seconds: float) -> None:
        if self.stopping:
            raise Stopping("stopping")
        self.pauses.append(seconds)
        self.advance(seconds)
        self.during_pause(seconds)

    def real_seconds(self, seconds: float) -> float:
        return seconds

    def advance(self, seconds: float) -> None:
        """Advance the clock."""
        self.now += seconds

    def stop_at_pause(self, number: int) -> None:
        """Raise Stopping in pause *number*, counted from 1."""

        def stop(_: float) -> None:
            if len(self.pauses) >= number:
                raise Stopping("enough")

        self.during_pause = stop

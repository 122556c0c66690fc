"""Clocks for tests: time passes when a test lets it."""

from collections.abc import Callable
from typing import Final

from exporter.errors import Stopping

START: Final = 1_790_000_000.0
"""When tests begin, in Unix seconds (2026-09-21T14:13:20Z)."""

_BOOT: Final = 1000.0
"""What the monotonic clock shows then: not what the other one shows, so that no code can mix them up unnoticed."""


class ManualClock:
    """A clock that stands still: only pauses and the test itself move it.

    Attributes:
        now: the true time, in Unix seconds.
        wrong_by: how far this machine's clock is ahead of it.
        pauses: the length of each pause so far.
        rolls: the random numbers to come; 0.5 when there are none.
        stopping: whether the process is ending, so that each pause raises Stopping.
        during_pause: called in each pause, with its length, once its time has passed.
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
        """Let time pass."""
        self.now += seconds

    def stop_at_pause(self, number: int) -> None:
        """Let the process end in its pause of this number, counted from 1."""

        def stop(_: float) -> None:
            if len(self.pauses) >= number:
                raise Stopping("enough")

        self.during_pause = stop

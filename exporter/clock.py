"""Time, random numbers and waits as one argument.

Tests pass a clock that takes no time, and SIGTERM ends every wait. No other module imports ``time``.
"""

import random
import threading
import time
from datetime import UTC, datetime
from typing import Final, Protocol

from exporter.errors import Stopping


def utc(at: float) -> str:
    """A moment in Unix seconds as ISO 8601, for the log."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Clock(Protocol):
    """The clock that code is given if it waits or measures time."""

    def time(self) -> float:
        """Return Unix seconds of this machine's clock, which may be wrong and may jump."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never decrease, for deadlines and durations."""
        ...

    def roll(self) -> float:
        """Return a random number in [0, 1)."""
        ...

    def pause(self, seconds: float) -> None:
        """Wait for *seconds*.

        Raises:
            Stopping: the process is ending, or began to during the wait.
        """
        ...

    def real_seconds(self, seconds: float) -> float:
        """Return how long a system call, such as a socket read, may block while *seconds* of this clock pass."""
        ...


class InterruptibleClock(Clock, Protocol):
    """A clock whose waits other threads can end."""

    def wait(self, seconds: float, event: threading.Event) -> None:
        """Wait for *seconds*, or until *event* is set."""
        ...


class RealClock:
    """The machine's clocks. Setting *stop* ends every pause."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def roll(self) -> float:
        return random.random()  # noqa: S311  # It spreads load and protects no secret.

    def pause(self, seconds: float) -> None:
        self.wait(seconds, self._stop)
        if self._stop.is_set():
            raise Stopping("stopping")

    def wait(self, seconds: float, event: threading.Event) -> None:
        event.wait(min(max(0.0, self.real_seconds(seconds)), threading.TIMEOUT_MAX))

    def real_seconds(self, seconds: float) -> float:
        return seconds


class AccountClock:
    """Another clock, whose pauses end when one account's poller is stopped or woken."""

    def __init__(self, clock: InterruptibleClock) -> None:
        self._clock = clock
        self._news = threading.Event()
        self._stopped = False

    def time(self) -> float:
        return self._clock.time()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def roll(self) -> float:
        return self._clock.roll()

    def pause(self, seconds: float) -> None:
        if not self._stopped:
            self._clock.wait(seconds, self._news)
            self._news.clear()
        if self._stopped:
            raise Stopping("stopping")

    def real_seconds(self, seconds: float) -> float:
        return self._clock.real_seconds(seconds)

    def wake(self) -> None:
        """End the pause in progress, or else the next one. Callable from any thread."""
        self._news.set()

    def stop(self) -> None:
        """Raise Stopping in the pause in progress and in every later one. Callable from any thread."""
        self._stopped = True
        self._news.set()


SYSTEM_CLOCK: Final = RealClock(threading.Event())
"""For code outside the polls, where no test needs another clock. Its pauses are not interrupted."""

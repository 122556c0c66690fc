"""Clocks, dice and waits as one argument, so that tests take no time and every wait ends at SIGTERM."""

import random
import threading
import time
from typing import Protocol

from exporter.errors import Stopping


class Clock(Protocol):
    """What code that waits is given."""

    def time(self) -> float:
        """Unix seconds by this machine's clock, which may be wrong and may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds that only ever grow, for deadlines and durations."""
        ...

    def roll(self) -> float:
        """A random number in [0, 1)."""
        ...

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            Stopping: the process is ending; at once when it is already.
        """
        ...

    def real_seconds(self, seconds: float) -> float:
        """How long the system may block (in a socket, say) for *seconds* of this clock to pass."""
        ...


class RealClock:
    """The machine's clocks; *stop* set ends every pause."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def time(self) -> float:
        """See :class:`Clock`."""
        return time.time()

    def monotonic(self) -> float:
        """See :class:`Clock`."""
        return time.monotonic()

    def roll(self) -> float:
        """See :class:`Clock`."""
        return random.random()  # noqa: S311  # spreads load; nothing secret hangs on it

    def pause(self, seconds: float) -> None:
        """See :class:`Clock`."""
        if self._stop.wait(min(max(0.0, seconds), threading.TIMEOUT_MAX)):
            raise Stopping("stopping")

    def real_seconds(self, seconds: float) -> float:
        """See :class:`Clock`."""
        return seconds

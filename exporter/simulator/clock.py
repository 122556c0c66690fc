"""Simulated time."""

import time
from collections.abc import Callable


class SimulatedClock:
    """Unix seconds that pass at a given speed. The clock can be advanced, never set back."""

    def __init__(self, start: float, speed: float, real: Callable[[], float] = time.monotonic) -> None:
        self.speed = speed
        self._real = real
        self._started = real()
        self._offset = start

    def now(self) -> float:
        """Return the simulated time in Unix seconds."""
        return self._offset + (self._real() - self._started) * self.speed

    def advance(self, seconds: float) -> None:
        """Advance the clock by *seconds*.

        Raises:
            ValueError: *seconds* is negative.
        """
        if not seconds >= 0:
            raise ValueError(f"advance: expected 0 or more seconds, not {seconds}")
        self._offset += seconds

"""Simulated time."""

import time
from collections.abc import Callable


class SimulatedClock:
    """Unix seconds that pass at a speed of their own and can be pushed forward, never back."""

    def __init__(self, start: float, speed: float, real: Callable[[], float] = time.monotonic) -> None:
        self.speed = speed
        self._real = real
        self._started = real()
        self._offset = start

    def now(self) -> float:
        """The simulated time in Unix seconds."""
        return self._offset + (self._real() - self._started) * self.speed

    def advance(self, seconds: float) -> None:
        """Let *seconds* of simulated time pass at once.

        Raises:
            ValueError: *seconds* is negative.
        """
        if not seconds >= 0:
            raise ValueError(f"the clock cannot go back by {-seconds} seconds")
        self._offset += seconds

"""Wait for conditions that come true, with enough time for a busy machine."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

PATIENCE: Final = 30.0
"""Seconds after which a test stops waiting. No test asserts this time."""

T = TypeVar("T")


def eventually(
    condition: Callable[[], T | None],
    *,
    within: float = PATIENCE,
    every: float = 0.02,
    describe: Callable[[], object] = str,
) -> T:
    """Return the first true result of *condition*. On timeout, *describe* returns the last state for the message."""
    ends = time.monotonic() + within
    while not (result := condition()):
        if time.monotonic() > ends:
            raise AssertionError(f"not within {within} s; last seen: {describe()}")
        time.sleep(every)
    return result

"""Wait for conditions that come true, with enough time for a busy machine."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

PATIENCE: Final = 30.0
"""Seconds after which a test stops waiting. No test asserts this time."""
_BUSY: Final = 3
"""Times as long as a look takes is the pause after it."""
_LATEST: Final = 0.5
"""Seconds of the longest such pause."""

T = TypeVar("T")


def eventually(
    condition: Callable[[], T | None],
    *,
    within: float = PATIENCE,
    every: float = 0.02,
    describe: Callable[[], object] = str,
) -> T:
    """Return the first true result of *condition*. On timeout, *describe* returns the last state for the message.

    It looks again after *every* seconds; later if looking takes long, because other tests need the processor too.
    """
    began = time.monotonic()
    ends = began + within
    while not (result := condition()):
        looked = time.monotonic()
        if looked > ends:
            raise AssertionError(f"not within {within} s; last seen: {describe()}")
        time.sleep(max(every, min(_BUSY * (looked - began), _LATEST)))
        began = time.monotonic()
    return result

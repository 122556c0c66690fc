"""Waiting for what is bound to come true, for as long as a busy machine needs."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

PATIENCE: Final = 30.0
"""Seconds after which a test gives up waiting. No claim rests on it."""

T = TypeVar("T")


def eventually(
    condition: Callable[[], T | None],
    *,
    within: float = PATIENCE,
    every: float = 0.02,
    describe: Callable[[], object] = str,
) -> T:
    """The first result of *condition* that is true; *describe* tells what was there instead when none came."""
    ends = time.monotonic() + within
    while not (result := condition()):
        if time.monotonic() > ends:
            raise AssertionError(f"not within {within} s; last seen: {describe()}")
        time.sleep(every)
    return result

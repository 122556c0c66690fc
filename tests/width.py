"""How thorough tests are: most faults within minutes, or everything with ``make test-all``."""

import os
from typing import Final

FULL: Final = os.environ.get("TEST_WIDTH") == "full"
"""Whether this run tries everything: every mutation, all outages and kills, many random examples."""


def width(quick: int, full: int) -> int:
    """Return a number of repetitions: *quick* for ``make test``, *full* for ``make test-all``."""
    return full if FULL else quick

"""How wide the tests search: enough to notice most faults within minutes, or everything (``make test-all``)."""

import os
from typing import Final

FULL: Final = os.environ.get("TEST_WIDTH") == "full"
"""Whether this run is to try everything: every mutant, all outages and kills, many random examples."""


def width(quick: int, full: int) -> int:
    """How often to try something: *quick* times in ``make test``, *full* times in ``make test-all``."""
    return full if FULL else quick

"""Which processes have their coverage measured: those that a test starts with :data:`VARIABLES`.

Measuring costs a process as much as its work. Without this, it would be done to everything that is written in Python:
generators, builders, another pytest.
"""

import os
from typing import Final

VARIABLES: Final[dict[str, str]] = {}
"""Environment variables that have a process measured; none if nothing is."""


def take() -> None:
    """Remove them from this process' environment, which other processes inherit."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        VARIABLES[name] = os.environ.pop(name)

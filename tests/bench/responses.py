"""How much memory and processor time it takes to read responses that are made to take much."""

import re

from tests.bench.report import fail, row
from tests.hostile_responses import HOSTILE
from tests.response_reader import MOST, read_by_a_process


def measure() -> None:
    """Print the resident memory above idle for each response, in a process of its own."""
    highest = 0.0
    for name, hostile in HOSTILE.items():
        reading = read_by_a_process(hostile)
        row(name, f"{reading.most:.0f} MiB {reading.seconds:.1f} s")
        highest = max(highest, reading.most)
        if not re.fullmatch(hostile.outcome, reading.outcome):
            fail(f"{name}: {reading.outcome}")
    row("most of all", f"{highest:.0f} MiB", f"at most {MOST}", met=highest <= MOST)

"""``make bench``: run the measurements named on the command line, or all."""

import os
import platform
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.bench import accounts, decoding, footprint, listing, responses, retained, scraping, watching
from tests.bench.report import wrong

MEASUREMENTS: dict[str, Callable[[], None]] = {
    "decoding": decoding.measure,
    "scraping": scraping.measure,
    "tls": scraping.measure_tls,
    "listing": listing.measure,
    "footprint": footprint.measure,
    "newest": partial(watching.measure, watching.NEWEST),
    "oldest": partial(watching.measure, watching.OLDEST),
    "anywhere": partial(watching.measure, watching.ANYWHERE),
    "mixed": partial(watching.measure, watching.MIXED),
    "small": partial(watching.measure, watching.SMALL),
    "retained": retained.measure,
    "responses": responses.measure,
    "accounts": accounts.measure,
}


def machine() -> str:
    """What it runs on, so that figures can be compared."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    processor = names[0] if names else platform.machine()
    return f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"


def main(wanted: list[str]) -> int:
    """Measure; 2 for a name that is none, 1 for a result that is wrong."""
    unknown = [name for name in wanted if name not in MEASUREMENTS]
    if unknown:
        sys.stderr.write(f"no such measurement: {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}\n")
        return 2
    sys.stdout.write(f"machine: {machine()}\n")
    for name in wanted or MEASUREMENTS:
        sys.stdout.write(f"\n{name}\n")
        sys.stdout.flush()
        MEASUREMENTS[name]()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Hours of Prometheus history in a minute or two, counted by the real exporter.

The simulated platform plays a scripted working day. The exporter's own pollers, ledger and metrics page watch it, over
HTTP; only the clock is ours, and goes on by one scrape interval at a time. Every page is kept with its simulated time,
and promtool makes of them the blocks that a Prometheus would have written. So the numbers are simulated, and what the
exporter makes of them is not. Exemplars do not survive: promtool leaves them out.

``python -m tests.e2e.render.history FOLDER --accounts N`` writes what a Prometheus can be started on.
"""

import argparse
import io
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

from exporter.config.loading import load
from exporter.daemon import assembly
from exporter.logs import logger
from exporter.metrics.exposition import Format
from exporter.polling.poller import Poller
from exporter.simulator.faults import Fault, FaultKind
from exporter.simulator.platform import Platform
from exporter.simulator.scripts import JobScript
from exporter.simulator.server import running
from exporter.simulator.settings import SimulatorSettings
from tests.harness import Account, Installation
from tests.tools import tool

ENDS: Final = datetime(2026, 3, 12, 14, 30, tzinfo=UTC).timestamp()
"""When the history ends. Always the same, so that the same pictures come of the same code."""
SCRAPE_SECONDS: Final = 30.0
_BEFORE: Final = 900.0
"""Seconds of history before the range that is drawn, so that its first rates are known."""
_NAMES: Final = (
    "cavatica",
    "cgc-imaging",
    "bdc-topmed",
    "sb-oncology",
    "kids-first",
    "cgc-proteomics",
    "sb-eu-rare",
    "bdc-heart",
    "sb-pharma",
    "archive",
)
_SAMPLE: Final = re.compile(r"^([a-z_]\w*)(?:\{(.*)\})? (\S+)$")
_TARGET: Final = 'instance="exporter:10037",job="sbg-exporter"'


class SteppedClock:
    """See :class:`exporter.clock.Clock`: stands still but for the time that the work itself takes."""

    def __init__(self, start: float) -> None:
        self._at = start
        self._since = time.monotonic()

    def time(self) -> float:
        return self._at + time.monotonic() - self._since

    monotonic = time

    def roll(self) -> float:
        return 0.5

    def pause(self, seconds: float) -> None:
        """Nobody waits here."""

    def real_seconds(self, seconds: float) -> float:
        return seconds

    def step_to(self, at: float) -> None:
        self._at, self._since = at, time.monotonic()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens at a time, Unix seconds."""

    at: float
    happen: Callable[[Platform], object]


def _dice(purpose: str) -> Random:
    return Random(f"render/{purpose}")  # noqa: S311  # seeded: the same pictures come of the same code


def _job(dice: Random) -> JobScript:
    """A job of an ordinary day: most go well."""
    total = max(1, int(dice.lognormvariate(3.8, 1.0)))
    failed, errors = 0, None
    bad = dice.random() < 0.008
    if bad:
        failed = max(1, total // dice.choice((3, 8, 20)))
        errors = {dice.choice(("5001", "5002", "10212")): failed}
    return JobScript(
        operation=dice.choices(("copy", "move", "delete"), (76, 14, 10))[0],
        total=total,
        completed=total - failed,
        failed=failed,
        errors=errors,
        queued=dice.expovariate(1 / 12),
        resolving=2 + total * 0.03,
        running=5 + total * dice.lognormvariate(0.2, 0.7),
    )


def _ordinary(user: str, begins: float, per_hour: float, dice: Random) -> Iterator[Event]:
    at = begins
    while (at := at + dice.expovariate(per_hour / 3600)) < ENDS:
        script = _job(dice)
        yield Event(at, lambda platform, script=script: platform.submit(script, user))  # type: ignore[misc]  # one each


def _remarkable(user: str) -> Iterator[Event]:
    """What a person on call would be looking for in the first account."""
    before = (
        (6000, JobScript(total=260, failed=260, errors={"5001": 260}, queued=9, resolving=8, running=240)),
        (4300, JobScript(total=900, queued=5, resolving=20, running=2500, hangs_after=1400)),
        (2400, JobScript(total=1800, queued=40, resolving=30, running=3600)),
        (1500, JobScript(operation="move", total=420, queued=20, resolving=10, running=2100)),
        (
            1300,
            JobScript(
                total=640,
                failed=46,
                errors={"5002": 31, "10212": 11, "5007": 4},
                queued=15,
                resolving=12,
                running=700,
            ),
        ),
        (400, JobScript(total=350, failed=30, queued=6, resolving=8, running=900)),
        (9000, JobScript(total=120, completed=113, queued=6, resolving=8, running=100)),
    )
    for seconds, script in before:
        yield Event(ENDS - seconds, lambda platform, script=script: platform.submit(script, user))  # type: ignore[misc]


def _troubles(tokens: dict[str, str]) -> Iterator[Event]:
    """Of ten accounts: the platform's maintenance for some minutes, and at last a token that was taken away."""
    maintenance = Fault(kind=FaultKind.MAINTENANCE)
    for minute in range(8):
        yield Event(ENDS - 10_800 + 60 * minute, lambda platform: platform.queue(maintenance, times=2 * len(tokens)))
    yield Event(ENDS - 10_260, lambda platform: platform.forget_faults())
    last = list(tokens.values())[-2]
    yield Event(ENDS - 2_500, lambda platform: platform.rotate("f" * 32, last))


def _plot(tokens: dict[str, str], begins: float) -> list[Event]:
    events: list[Event] = []
    for position, user in enumerate(tokens.values()):
        per_hour = (70, 30, 45, 12, 20, 8, 25, 15, 5, 2)[position]
        events += _ordinary(user, begins - 600, per_hour, _dice(user))
    events += _remarkable(next(iter(tokens.values())))
    if len(tokens) > 1:
        events += _troubles(tokens)
    return sorted(events, key=lambda event: event.at)


def _stamped(page: bytes, at: float) -> Iterator[str]:
    """The page's samples as of *at*, with the labels that a scrape adds."""
    for line in page.decode().splitlines():
        sample = _SAMPLE.match(line)
        if sample:
            name, labels, value = sample.groups()
            yield f"{name}{{{labels + ',' if labels else ''}{_TARGET}}} {value} {at}\n"
    yield f"up{{{_TARGET}}} 1 {at}\n"


def pages(accounts: int, hours: float, folder: Path) -> Iterator[str]:
    """The samples of the whole history, as OpenMetrics wants them."""
    begins = ENDS - hours * 3600 - _BEFORE
    tokens = {f"{number:032x}": name for number, name in enumerate(_NAMES[:accounts], 1)}
    (first, owner), *others = tokens.items()
    settings = SimulatorSettings(
        listen="127.0.0.1:0",
        jobs=40,
        rate=0,
        speed=0,
        start=begins - 600,
        token=first,
        username=owner,
        users=dict(others),
    )
    clock = SteppedClock(begins)
    with running(settings) as simulator:
        watched = (Account.at(simulator, name, token) for token, name in tokens.items())
        installation = Installation(folder / "exporter", *watched, poll_interval=SCRAPE_SECONDS)
        configuration = load({"config": str(installation.config)}, {}, folder)
        log = logger("json", "error", io.StringIO())
        events = _plot(tokens, begins)
        with assembly.build(configuration, threading.Event(), log, clock=clock) as components:
            pollers = [poller for poller in components.pollers if isinstance(poller, Poller)]
            due, apart = dict.fromkeys(pollers, begins), _dice("apart")
            for step in range(int((ENDS - begins) / SCRAPE_SECONDS) + 1):
                at = begins + step * SCRAPE_SECONDS
                while events and events[0].at <= at:
                    simulator.platform.advance(max(0.0, events[0].at - simulator.platform.now()))
                    events.pop(0).happen(simulator.platform)
                simulator.platform.advance(at - simulator.platform.now())
                clock.step_to(at)
                yield from _stamped(components.exposition.page(Format.TEXT, gzip=False), at)
                for poller in pollers:
                    # Not all in the same instant, and not in time with the windows of the platform's rate limit.
                    at += apart.uniform(0.5, 2.5)
                    simulator.platform.advance(at - simulator.platform.now())
                    clock.step_to(at)
                    due[poller] = _polled(poller, due[poller], at)
    yield "# EOF\n"


def _polled(poller: Poller, due: float, at: float) -> float:
    """When *poller* is due next, having polled if it was due."""
    if due > at + SCRAPE_SECONDS / 2:
        return due
    wait = poller.poll()
    return at + (SCRAPE_SECONDS if wait is None else wait)


def write(folder: Path, accounts: int, hours: float = 6.0) -> None:
    """Make *folder* one that Prometheus can be started on; it is left alone when it is one already."""
    if (folder / "blocks").exists():
        return
    fresh = folder / "blocks.new"
    if fresh.exists():  # of a run that was interrupted
        shutil.rmtree(fresh)
    fresh.mkdir(parents=True)
    if accounts:
        with TemporaryDirectory() as scratch:
            samples = Path(scratch) / "samples.om"
            with samples.open("w") as out:
                out.writelines(pages(accounts, hours, Path(scratch)))
            subprocess.run(
                [tool("promtool"), "tsdb", "create-blocks-from", "openmetrics", "-q", samples, fresh],
                check=True,
                stdout=subprocess.DEVNULL,
            )
    fresh.rename(folder / "blocks")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--accounts", type=int, default=1)
    parser.add_argument("--hours", type=float, default=6.0)
    options = parser.parse_args()
    write(options.folder, options.accounts, options.hours)


if __name__ == "__main__":
    main()

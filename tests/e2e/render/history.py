"""Hours of Prometheus history in a minute or two, counted by the real exporter.

The simulated platform plays a scripted working day. The exporter's own pollers, ledger and metrics page watch it, over
HTTP; only the clock is ours, and goes on by one scrape interval at a time. Every page is kept with its simulated time,
and promtool makes of them the blocks that a Prometheus would have written. So the numbers are simulated, and what the
exporter makes of them is not. Exemplars do not survive: promtool leaves them out.

``python -m tests.e2e.render.history FOLDER SCENARIO`` writes what a Prometheus can be started on.
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
from exporter.metrics.snapshot import ReloadStatus
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
_SCRAPES_BEFORE: Final = 30
"""Scrapes before the range that is drawn, so that its first rates are known."""
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
_JOBS_PER_HOUR: Final = (70, 30, 45, 12, 20, 8, 25, 15, 5, 2)
_ONE_BLOCK: Final = "--max-block-duration=1536h"
"""By default promtool reads all samples again for every two hours of them."""
_SAMPLE: Final = re.compile(r"^([a-z_]\w*)(?:\{(.*)\})? (\S+)$")
_TARGET: Final = 'instance="exporter:10037",job="sbg-exporter"'


@dataclass(frozen=True, slots=True)
class Scenario:
    """What there is to see.

    Attributes:
        busy: how many jobs there are, as a share of a busy day's.
        quiet: nothing fails.
        dashboards: the file names, as a pattern, of the dashboards that it is for.
    """

    accounts: int
    hours: float = 6.0
    scrape_seconds: float = SCRAPE_SECONDS
    busy: float = 1.0
    quiet: bool = False
    dashboards: str = "*.json"

    @property
    def begins(self) -> float:
        return ENDS - self.hours * 3600 - _SCRAPES_BEFORE * self.scrape_seconds

    def names(self) -> list[str]:
        """The accounts' names: more than ten are those of several sites."""
        return [
            _NAMES[number % len(_NAMES)] + (f"-{1 + number // len(_NAMES)}" if number >= len(_NAMES) else "")
            for number in range(self.accounts)
        ]


SCENARIOS: Final = {
    "no-data": Scenario(0),
    "one-account": Scenario(1),
    "ten-accounts": Scenario(10),
    "fifty-accounts": Scenario(50, scrape_seconds=60, busy=0.5),
    "quiet-day": Scenario(3, busy=0.15, quiet=True),
    "quiet-day-of-one": Scenario(1, busy=0.15, quiet=True),
    "quiet-day-of-fifty": Scenario(50, scrape_seconds=60, busy=0.05, quiet=True),
    "month": Scenario(6, hours=24 * 31, scrape_seconds=3600, busy=0.06, dashboards="files-and-jobs.json"),
    "month-of-fifty": Scenario(50, hours=24 * 31, scrape_seconds=10800, busy=0.02, dashboards="files-and-jobs.json"),
}


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


def _job(dice: Random, *, quiet: bool) -> JobScript:
    """A job of an ordinary day: most go well."""
    total = max(1, int(dice.lognormvariate(3.8, 1.0)))
    failed, errors = 0, None
    if dice.random() < 0.008 and not quiet:
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


def _ordinary(user: str, scenario: Scenario, per_hour: float, dice: Random) -> Iterator[Event]:
    at = scenario.begins - 600
    while (at := at + dice.expovariate(per_hour / 3600)) < ENDS:
        if scenario.hours > 24 and dice.random() > _at_work(at):  # longer than a day
            continue
        script = _job(dice, quiet=scenario.quiet)
        yield Event(at, lambda platform, script=script: platform.submit(script, user))  # type: ignore[misc]  # one each


def _at_work(at: float) -> float:
    """The share of people who are at work: few at night and at the weekend."""
    when = datetime.fromtimestamp(at, UTC)
    weekend = when.weekday() > 4  # Saturday, Sunday
    return 0.15 if weekend or not 7 <= when.hour < 19 else 1.0  # office hours


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


def _plot(tokens: dict[str, str], scenario: Scenario) -> list[Event]:
    events: list[Event] = []
    for position, user in enumerate(tokens.values()):
        per_hour = _JOBS_PER_HOUR[position % len(_JOBS_PER_HOUR)] * scenario.busy
        events += _ordinary(user, scenario, per_hour, _dice(user))
    if not scenario.quiet:
        events += _remarkable(next(iter(tokens.values())))
    if len(tokens) > 1 and not scenario.quiet:
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


def pages(scenario: Scenario, folder: Path) -> Iterator[str]:
    """The samples of the whole history, as OpenMetrics wants them."""
    begins, interval = scenario.begins, scenario.scrape_seconds
    tokens = {f"{number:032x}": name for number, name in enumerate(scenario.names(), 1)}
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
        installation = Installation(folder / "exporter", *watched, poll_interval=interval)
        configuration = load({"config": str(installation.config)}, {}, folder)
        log = logger("json", "error", io.StringIO())
        events = _plot(tokens, scenario)
        with assembly.build_parts(
            configuration,
            threading.Event(),
            log,
            clock=clock,
            reload=lambda: ReloadStatus(successful=True, succeeded_at=begins),
        ) as parts:
            made = [parts.factory.new(entry, turn) for turn, entry in enumerate(configuration.entries)]
            pollers = [poller for poller in made if isinstance(poller, Poller)]
            due, apart = dict.fromkeys(pollers, begins), _dice("apart")
            for step in range(int((ENDS - begins) / interval) + 1):
                at = begins + step * interval
                while events and events[0].at <= at:
                    simulator.platform.advance(max(0.0, events[0].at - simulator.platform.now()))
                    events.pop(0).happen(simulator.platform)
                simulator.platform.advance(at - simulator.platform.now())
                clock.step_to(at)
                yield from _stamped(parts.exposition.page(Format.TEXT, gzip=False), at)
                for poller in pollers:
                    # Not all in the same instant, and not in time with the windows of the platform's rate limit.
                    at += apart.uniform(0.2, 0.8) * min(2.5, 25 / len(pollers))
                    simulator.platform.advance(at - simulator.platform.now())
                    clock.step_to(at)
                    due[poller] = _polled(poller, due[poller], at, interval)
    yield "# EOF\n"


def _polled(poller: Poller, due: float, at: float, interval: float) -> float:
    """When *poller* is due next, having polled if it was due."""
    if due > at + interval / 2:
        return due
    wait = poller.poll()
    return at + (interval if wait is None else wait)


def write(folder: Path, scenario: Scenario) -> None:
    """Make *folder* one that Prometheus can be started on; it is left alone when it is one already."""
    if (folder / "blocks").exists():
        return
    fresh = folder / "blocks.new"
    if fresh.exists():  # of a run that was interrupted
        shutil.rmtree(fresh)
    fresh.mkdir(parents=True)
    if scenario.accounts:
        with TemporaryDirectory() as scratch:
            samples = Path(scratch) / "samples.om"
            with samples.open("w") as out:
                out.writelines(pages(scenario, Path(scratch)))
            subprocess.run(
                [tool("promtool"), "tsdb", "create-blocks-from", _ONE_BLOCK, "openmetrics", "-q", samples, fresh],
                check=True,
                stdout=subprocess.DEVNULL,
            )
    fresh.rename(folder / "blocks")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("scenario", choices=SCENARIOS)
    options = parser.parse_args()
    write(options.folder, SCENARIOS[options.scenario])


if __name__ == "__main__":
    main()

"""Months in one process: memory, descriptors and state file stay the same, and the counters are exact.

The test moves the daemon's clock and the platform's step by step (see :mod:`tests.stepped_daemon`). The platform
lists a job for a month, and the exporter remembers it for 45 days more. So the state file grows for eleven weeks. The
eight weeks after those are measured.
"""

import socket
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from statistics import linear_regression, median
from tempfile import TemporaryDirectory
from typing import Final, Self

import pytest

from exporter.simulator.faults import Fault, FaultKind
from exporter.simulator.server import QUIET, RunningSimulator, running
from tests.clocks import START
from tests.harness import Account, Installation, MonotonicCounters, difference
from tests.ledgers import IN_MEMORY
from tests.waiting import PATIENCE

_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR
_WARM_UP_DAYS: Final = 77
_MEASURED_DAYS: Final = 56
_JOBS_A_MINUTE: Final = 0.003
"""Of each user: about 130 are listed, and 320 remembered."""
_STEP: Final = 300.0
"""Longest step. Pollers that are due within it wait until its end, so that they share it."""
_RETRY: Final = 30.0
"""A poller that is due within this time retries a request: it gets its exact step."""
_OUTAGES: Final = (FaultKind.SERVER_ERROR, FaultKind.UNAVAILABLE, FaultKind.MAINTENANCE, FaultKind.CLOSE, FaultKind.CUT)
_PROMPT: Final = 0.5
"""How often a token file is changed as soon as the platform refuses the old token; else it takes hours."""
_GROWTH: Final = 1.03
"""How much more the last third of the time may use than the middle third, both by their medians."""
TOKENS: Final = {f"{number:032x}": name for number, name in enumerate(("steady", "rotated", "visiting"), 1)}


@dataclass
class Samples:
    """What the process and its state file use, day by day."""

    days: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    """KiB."""
    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    state: list[int] = field(default_factory=list)
    """KiB."""

    def take(self, day: float, pid: int, state: Path) -> None:
        """Add a sample."""
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        self.days.append(day)
        self.resident.append(int(status["VmRSS"].split()[0]))
        self.threads.append(int(status["Threads"]))
        self.descriptors.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))
        self.state.append(state.stat().st_size // 1024)

    def report(self) -> Iterator[str]:
        """One line per quantity: medians of the three thirds, and the slope."""
        for name, values in self.quantities().items():
            slope = linear_regression(self.days, values).slope
            medians = ", ".join(f"{value:,.0f}" for value in thirds(values))
            yield f"{name}: medians of the thirds {medians}; slope {slope:+.2f} a day"

    def quantities(self) -> dict[str, list[int]]:
        """The samples by name."""
        return {
            "resident memory, KiB": self.resident,
            "file descriptors": self.descriptors,
            "threads": self.threads,
            "state file, KiB": self.state,
        }


def thirds(values: list[int]) -> tuple[float, float, float]:
    """The medians of the first, middle and last third."""
    third = len(values) // 3
    return median(values[:third]), median(values[third : 2 * third]), median(values[2 * third :])


class World:
    """A platform and a daemon whose clocks move together.

    Attributes:
        wrong_by: seconds by which the daemon's machine's clock is ahead, from the next step on.
        steps: number of steps so far.
    """

    def __init__(self, simulator: RunningSimulator, place: Installation) -> None:
        """Start the daemon with the configuration in *place*."""
        self.simulator = simulator
        self.place = place
        self.wrong_by = 0.0
        self.steps = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        place.program = ["tests.stepped_daemon", str(self._listener.getsockname()[1]), repr(simulator.platform.now())]
        place.cold = True
        self.daemon = place.start()

    def __enter__(self) -> Self:
        self._connection, _ = self._listener.accept()
        self._connection.settimeout(PATIENCE)
        self._lines = self._connection.makefile("rw")
        self._due = float(self._lines.readline())
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._lines, self._connection, self._listener):
            each.close()

    @property
    def day(self) -> float:
        """Days since the start of the platform."""
        return (self.simulator.platform.now() - START) / _DAY

    def advance(self, seconds: float) -> None:
        """Move both clocks, step by step; the daemon polls whenever it is time to."""
        while seconds > 0:
            step = min(seconds, self._due if self._due < _RETRY else max(_STEP, self._due))
            self.simulator.platform.advance(step)
            self._move(step)
            seconds -= step

    def settle(self) -> None:
        """Let pollers that were started or woken do what they have to."""
        self._move(0.0)

    def _move(self, step: float) -> None:
        self._lines.write(f"{step} {self.wrong_by}\n")
        self._lines.flush()
        line = self._lines.readline()
        assert line, self.daemon.output()
        self._due = float(line)
        self.steps += 1


class Operations:
    """What happens to an exporter in months: reloads, new tokens, outages, and a clock that is put wrong and right."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._dice = Random(seed)  # noqa: S311  # it decides nothing that must stay secret
        self._tokens = {user: token for token, user in TOKENS.items()}
        self._users = set(self._tokens)
        self.done = Counter[str]()

    def reload(self, **settings: object) -> None:
        """Change settings and accounts."""
        accounts = accounts_of(self._world.simulator, {user: self._tokens[user] for user in sorted(self._users)})
        self._world.place.configure(*accounts, enable_lifecycle=True, **settings)
        self._world.daemon.reload()
        self._world.settle()
        self.done["reloads"] += 1

    def warm_up(self) -> None:
        """Weeks in which nothing happens but jobs."""
        self.reload(poll_interval="2h", log_level="warning")
        for _ in range(_WARM_UP_DAYS):
            self._world.advance(_DAY)
            self._end_stuck_jobs()

    def day(self) -> None:
        """A day, in whose second half all is well but for an account that may have been removed."""
        platform, dice = self._world.simulator.platform, self._dice
        self._users ^= {"visiting"}
        self.reload(poll_interval="10m", log_level="error", job_series=dice.choice((0, 20, 50)))
        self._spoil_configuration()
        platform.queue(Fault(kind=dice.choice(_OUTAGES)), "jobs", times=dice.randrange(1, 40))
        self.done["outages"] += 1
        self._world.advance(6 * _HOUR)
        self._rotate()
        self._world.wrong_by = dice.choice((-_DAY, -_HOUR, 90.0, _HOUR, _DAY))
        self.done["clock steps"] += 2
        self._world.advance(6 * _HOUR)
        self._world.place.write_token("rotated", self._tokens["rotated"])
        self._world.wrong_by = 0.0
        platform.forget_faults()
        self._world.advance(12 * _HOUR)
        self._end_stuck_jobs()

    def end(self) -> None:
        """All accounts are there, and the counters have caught up."""
        self._users = set(self._tokens)
        self.reload(poll_interval="10m", log_level="error")
        self._world.advance(2 * _HOUR)

    def _rotate(self) -> None:
        """The platform refuses the old token; the file has the new one at once, or hours later."""
        token = f"{self._dice.getrandbits(128):032x}"
        self._world.simulator.platform.rotate(token, "rotated")
        self._tokens["rotated"] = token
        if self._dice.random() < _PROMPT:
            self._world.place.write_token("rotated", token)
        self.done["rotations"] += 1

    def _spoil_configuration(self) -> None:
        config = self._world.place.config
        good = config.read_text()
        config.write_text(f"{good}\nno_such_key = 1\n")
        assert self._world.daemon.post("/-/reload").status_code == 400
        config.write_text(good)
        self.done["refused reloads"] += 1

    def _end_stuck_jobs(self) -> None:
        """Some of the simulator's jobs never end by themselves. Their number would grow, and the memory with it."""
        platform = self._world.simulator.platform
        for user in platform.users():
            for job_id in platform.unfinished(user):
                platform.finish(job_id)


def accounts_of(simulator: RunningSimulator, tokens: Mapping[str, str]) -> list[Account]:
    return [Account(user, simulator.url, token) for user, token in tokens.items()]


@pytest.mark.slow
@pytest.mark.fault(
    "eight weeks of daily reloads, outages, new tokens and clock steps in one process",
    action="goes on with the same memory and descriptors",
    shown="the counters",
    recovery="none needed",
)
def test_eight_weeks_leave_memory_descriptors_and_state_file_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    first = next(iter(TOKENS))
    settings = replace(
        QUIET, speed=0.0, start=START, rate=_JOBS_A_MINUTE, token=first, username=TOKENS[first], users=TOKENS
    )
    samples, counters = Samples(), MonotonicCounters()
    with (
        TemporaryDirectory(prefix="sbg-exporter-test-", dir=IN_MEMORY) as folder,
        running(settings) as simulator,
        Installation(
            Path(folder) / "place",
            *accounts_of(simulator, {user: token for token, user in TOKENS.items()}),
            enable_lifecycle=True,
        ) as place,
        World(simulator, place) as world,
    ):
        operations = Operations(world, seed=14)
        operations.warm_up()
        for _ in range(_MEASURED_DAYS):
            operations.day()
            counters.see(world.daemon.scrape())
            assert world.daemon.get("/").status_code == 200
            samples.take(world.day, world.daemon.pid, place.state)
        operations.end()
        last = counters.see(world.daemon.scrape())
        wrong = {user: difference(last, user, simulator, user) for user in simulator.platform.users()}
        jobs = last.total("sbg_jobs_submitted_total")
        assert world.daemon.stop() == 0

    with capsys.disabled():
        sys.stdout.write(
            f"\n{world.day:.0f} days in {world.steps:,} steps, {jobs:,.0f} jobs, {dict(operations.done)}\n"
        )
        sys.stdout.writelines(f"{line}\n" for line in samples.report())
    assert not any(wrong.values()), wrong
    for name, values in samples.quantities().items():
        _, middle, end = thirds(values)
        assert end <= middle * _GROWTH, name

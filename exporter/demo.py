"""The demo: a simulated platform and the daemon in one process, and a line every few seconds of what happens."""

import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exporter import daemon
from exporter.accounts import Watched
from exporter.counting import ledger
from exporter.credentials import FixedToken, Secret
from exporter.metrics.snapshot import Picture
from exporter.settings import Configuration, Settings, listen_address, rules_of
from exporter.simulator.server import running
from exporter.simulator.settings import SimulatorSettings
from exporter.telemetry import Secrets, default_stream, logger

_POLL_SECONDS: Final = 2.0
_LINE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Demonstration:
    """Where the demo listens, and for how long it runs, in seconds."""

    listen: str
    seconds: float


def demonstrate(demonstration: Demonstration, simulator: SimulatorSettings, stop: threading.Event) -> int:
    """Simulate and run until *stop* is set; the exit code.

    Raises:
        ConfigError: the address is wrong.
        ListenError: the address cannot be had.
    """
    host, port = listen_address(demonstration.listen)
    settings = Settings.model_validate({"listen": demonstration.listen, "poll_interval": _POLL_SECONDS})
    secrets = Secrets()
    with tempfile.TemporaryDirectory(prefix="sbg-exporter-demo-") as folder, running(simulator) as platform:
        configuration = Configuration(
            settings=settings,
            file=None,
            host=host,
            port=port,
            state_file=Path(folder) / "state.db",
            accounts=(
                Watched("demo", platform.url, "", FixedToken(Secret(simulator.token)), ca_file=None, proxy=None),
            ),
            rules=rules_of(settings),
            warnings=(),
        )
        log = logger("console", "warning", default_stream(), secrets)
        with daemon.started(configuration, stop, log, secrets) as exporter:
            url = f"http://{host or 'localhost'}:{exporter.port}"
            _say(f"Status page         {url}/")
            _say(f"Metrics             {url}/metrics")
            _say(f"Simulated platform  {platform.url}")
            _say("Jobs are submitted, run, fail and get stuck; warnings below tell of failed ones. Ctrl-C ends it.")
            ends = time.monotonic() + demonstration.seconds
            while not stop.wait(min(_LINE_SECONDS, max(0.0, ends - time.monotonic()))) and time.monotonic() < ends:
                for picture in exporter.board.pictures:
                    _say(_line(picture))
    _say("Ended; the demo's ledger is gone with it.")
    return 0


def _line(picture: Picture) -> str:
    """What the exporter shows of the account, in one line."""
    states: dict[str, int] = {}
    for (_, state), sums in (picture.listed or {}).items():
        states[state] = states.get(state, 0) + sums.jobs
    jobs = ", ".join(f"{number} {state}" for state, number in sorted(states.items())) or "none listed yet"
    totals = dict.fromkeys((ledger.FILES, ledger.FILES_COMPLETED, ledger.FILES_FAILED), 0)
    for (family, _), count in (picture.book.counters if picture.book else {}).items():
        if family in totals:
            totals[family] += count.value
    files, completed, failed = totals.values()
    return f"jobs: {jobs}; files counted: {completed} completed, {failed} failed of {files}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()

"""The demo: a simulated platform and the daemon in one process, and a line every few seconds of what happens."""

import sys
import tempfile
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from exporter.clock import SYSTEM_CLOCK
from exporter.config.accounts import AccountConfig
from exporter.config.settings import Configuration, Settings, listen_address, rules_of
from exporter.config.tokens import FixedToken
from exporter.daemon import run
from exporter.logs import Log
from exporter.metrics.families import unfinished_jobs
from exporter.metrics.snapshot import AccountSnapshot
from exporter.redaction import Redactor, Secret
from exporter.simulator.platform import Platform
from exporter.simulator.scripts import JobScript
from exporter.simulator.server import running
from exporter.simulator.settings import SimulatorSettings
from exporter.web.app import shown_address
from exporter.web.status import files_counted

_POLL_SECONDS: Final = 2.0
_REQUEST_SECONDS: Final = 5.0
_LINE_SECONDS: Final = 5.0
_STUCK_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Demonstration:
    """Where the demo listens, and for how long it runs, in seconds."""

    listen: str
    seconds: float


def demonstrate(
    demonstration: Demonstration, simulator: SimulatorSettings, stop: threading.Event, log: Log, redactor: Redactor
) -> int:
    """Simulate and run until *stop* is set; the exit code.

    Raises:
        ConfigError: the address is wrong.
        ListenError: the address cannot be had.
    """
    host, port = listen_address(demonstration.listen)
    settings = Settings.model_validate(
        {"listen": demonstration.listen, "poll_interval": _POLL_SECONDS, "request_timeout": _REQUEST_SECONDS}
    )
    with tempfile.TemporaryDirectory(prefix="sbg-exporter-demo-") as folder, running(simulator) as platform:
        configuration = Configuration(
            settings=settings,
            file=None,
            host=host,
            port=port,
            state_file=Path(folder) / "state.db",
            accounts=(
                AccountConfig("demo", platform.url, "", FixedToken(Secret(simulator.token)), ca_file=None, proxy=None),
            ),
            rules=rules_of(settings),
            warnings=(),
        )
        with run.start(configuration, stop, log, redactor) as exporter:
            submit_examples(platform.platform, simulator.speed)
            url = f"http://{shown_address(host or 'localhost', exporter.port)}"
            _say(f"Status page         {url}/")
            _say(f"Metrics             {url}/metrics")
            _say(f"Simulated platform  {platform.url}")
            _say("Jobs are submitted, run, fail and get stuck; warnings below tell of failed ones. Ctrl-C ends it.")
            ends = SYSTEM_CLOCK.monotonic() + demonstration.seconds
            while (
                not stop.wait(min(_LINE_SECONDS, max(0.0, ends - SYSTEM_CLOCK.monotonic())))
                and SYSTEM_CLOCK.monotonic() < ends
            ):
                for snapshot in exporter.registry.snapshots:
                    _say(f"{datetime.now().astimezone():%H:%M:%S} {line_of(snapshot, SYSTEM_CLOCK.time())}")
    _say("Ended; the demo's ledger is gone with it.")
    return 0


def submit_examples(platform: Platform, speed: float) -> None:
    """What everybody came to see and the dice may keep for later: a job whose every file fails, and one that hangs."""
    hangs = JobScript(total=12, queued=2 * speed, resolving=speed, running=6 * speed, hangs_after=7 * speed)
    platform.submit(hangs)
    platform.submit(msgspec.structs.replace(hangs, total=6, failed=6, errors={"5002": 6}, hangs_after=None))


def line_of(snapshot: AccountSnapshot, now: float) -> str:
    """What the exporter shows of the account at *now*, Unix seconds, in one line."""
    states: dict[str, int] = {}
    for (_, state), totals in (snapshot.listed or {}).items():
        states[state] = states.get(state, 0) + totals.jobs
    jobs = ", ".join(f"{number} {state}" for state, number in sorted(states.items()) if number) or "none listed yet"
    files, completed, failed = files_counted(snapshot)
    counted = f"files counted: {completed} completed, {failed} failed of {files}"
    return f"jobs: {jobs}; {counted}{_stuck(snapshot, now)}{_age(snapshot, now)}"


def _stuck(snapshot: AccountSnapshot, now: float) -> str:
    """The job that has not moved for longest, when that is long."""
    waiting = [job_record for job_record in unfinished_jobs(snapshot) if job_record.state != "finished"]
    stillest = min(waiting, key=lambda record: record.last_progress_at, default=None)
    if stillest is None or now - stillest.last_progress_at <= _STUCK_SECONDS:
        return ""
    return f"; not moved for {now - stillest.last_progress_at:.0f} s: job {stillest.id}"


def _age(snapshot: AccountSnapshot, now: float) -> str:
    """How old all that is, and why, when it is not of the last two polls."""
    error, at = snapshot.status.last_error, snapshot.status.last_success
    if at is None:
        return f" (no answer yet: {error})" if error else ""
    if not error and now - at <= 2 * _POLL_SECONDS:
        return ""
    return f" (as of {now - at:.0f} s ago{f': {error}' if error else ''})"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()

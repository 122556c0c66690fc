"""``demo``: a simulated platform and the exporter in one process, and a line every few seconds about the jobs."""

import math
import sys
import tempfile
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import click
import msgspec

from exporter.clock import SYSTEM_CLOCK
from exporter.commands._click import Command
from exporter.commands._command_line import program
from exporter.commands._output import say
from exporter.commands.simulate import simulator_options, simulator_settings
from exporter.config.accounts import AccountConfig
from exporter.config.endpoints import parse_listen_address
from exporter.config.loading import Configuration, rules_of
from exporter.config.own_settings import seconds
from exporter.config.settings import Settings
from exporter.config.tokens import FixedToken
from exporter.daemon import run
from exporter.errors import ConfigError, Problems
from exporter.logs import Log, NonBlockingStream, logger
from exporter.metrics.snapshot import AccountSnapshot
from exporter.redaction import Secret
from exporter.signals import stop_event
from exporter.simulator.platform import Platform
from exporter.simulator.scripts import JobScript
from exporter.simulator.server import running
from exporter.simulator.settings import SimulatorSettings
from exporter.web.server import shown_address

_POLL_SECONDS: Final = 2.0
_REQUEST_SECONDS: Final = 5.0
_LINE_SECONDS: Final = 5.0
_STUCK_SECONDS: Final = 20.0
_LISTEN: Final = "127.0.0.1:10037"
_SIMULATOR_DEFAULTS: Final = {"jobs": "40", "rate": "20"}


@dataclass(frozen=True, slots=True)
class Demonstration:
    """Where the demo listens, and for how long it runs, in seconds."""

    listen: str
    seconds: float


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  sbg-exporter demo
  sbg-exporter demo --listen 127.0.0.1:10037 --seed 7 --chaos 2""",
)
@click.option("--listen", metavar="ADDRESS", help=f"address of the metrics server (default: {_LISTEN})")
@click.option("--seconds", "duration", metavar="N", help="end after N seconds (default: run until Ctrl-C)")
@simulator_options("seed", "speed", "jobs", "rate", "order", "chaos", **_SIMULATOR_DEFAULTS)
@click.pass_obj
def command(errors: NonBlockingStream, /, *, listen: str | None, duration: str | None, **flags: object) -> int:
    """Run the exporter on a simulated platform; needs no account.

    Jobs are submitted, run, fail and get stuck. The demo prints the URLs of its pages and a summary every 5 seconds.
    """
    problems = Problems()
    address, ends_after = listen or _LISTEN, math.inf
    try:
        parse_listen_address(address)
    except ValueError as error:
        problems.append(f"--listen: {error}")
    try:
        ends_after = math.inf if duration is None else seconds(duration)
    except ValueError as error:
        problems.append(f"--seconds: {error}")
    with problems.collected():
        given = {name: value for name, value in flags.items() if value is not None}
        settings = simulator_settings({**_SIMULATOR_DEFAULTS, "listen": "127.0.0.1:0", **given})
    if problems:
        raise ConfigError(*problems)
    log = logger("console", "warning", errors)
    return demonstrate(Demonstration(address, ends_after), settings, stop_event(), log)


def demonstrate(demonstration: Demonstration, simulator: SimulatorSettings, stop: threading.Event, log: Log) -> int:
    """Simulate and run until *stop* is set; the exit code.

    Raises:
        ListenError: the address is not available.
    """
    host, port = parse_listen_address(demonstration.listen)
    settings = Settings.model_validate(
        {"listen": demonstration.listen, "poll_interval": _POLL_SECONDS, "request_timeout": _REQUEST_SECONDS}
    )
    with tempfile.TemporaryDirectory(prefix="sbg-exporter-demo-") as folder, running(simulator) as platform:
        state_file = Path(folder) / "state.db"
        configuration = Configuration(
            settings=settings,
            file=None,
            host=host,
            port=port,
            state_file=state_file,
            accounts=(
                AccountConfig("demo", platform.url, "", FixedToken(Secret(simulator.token)), ca_file=None, proxy=None),
            ),
            rules=rules_of(settings),
            warnings=(),
        )
        with run.start(configuration, stop, log) as exporter:
            submit_examples(platform.platform, simulator.speed)
            url = f"http://{shown_address(host or 'localhost', exporter.port)}"
            _say(f"Status page         {url}/")
            _say(f"Metrics             {url}/metrics")
            _say(f"Simulated platform  {platform.url}")
            _say(f"Jobs in a terminal  {program()} jobs --state-file {state_file}")
            _say(
                "Jobs are submitted, run, fail and get stuck. Warnings below report failed files. Press Ctrl-C to stop."
            )
            ends = SYSTEM_CLOCK.monotonic() + demonstration.seconds
            while (
                not stop.wait(min(_LINE_SECONDS, max(0.0, ends - SYSTEM_CLOCK.monotonic())))
                and SYSTEM_CLOCK.monotonic() < ends
            ):
                for snapshot in exporter.registry.snapshots:
                    _say(f"{datetime.now().astimezone():%H:%M:%S} {line_of(snapshot, SYSTEM_CLOCK.time())}")
    _say("Demo stopped; its state file is deleted.")
    return 0


def submit_examples(platform: Platform, speed: float) -> None:
    """Submit a job whose every file fails and one that gets stuck; random jobs may take long to do so."""
    hangs = JobScript(total=12, queued=2 * speed, resolving=speed, running=6 * speed, hangs_after=7 * speed)
    platform.submit(hangs)
    platform.submit(msgspec.structs.replace(hangs, total=6, failed=6, errors={"5002": 6}, hangs_after=None))


def line_of(snapshot: AccountSnapshot, now: float) -> str:
    """One line about the account's jobs at *now*, in Unix seconds."""
    states = sorted(snapshot.jobs_by_state().items())
    jobs = ", ".join(f"{number} {state}" for state, number in states if number) or "none listed yet"
    files, completed, failed = snapshot.files_counted()
    counted = f"files counted: {completed} completed, {failed} failed of {files}"
    return f"jobs: {jobs}; {counted}{_stuck(snapshot, now)}{_age(snapshot, now)}"


def _stuck(snapshot: AccountSnapshot, now: float) -> str:
    """The job without progress for longest, if it is stuck."""
    waiting = [job_record for job_record in snapshot.unfinished_jobs() if job_record.state != "finished"]
    stuck = min(waiting, key=lambda record: record.last_progress_at, default=None)
    if stuck is None or now - stuck.last_progress_at <= _STUCK_SECONDS:
        return ""
    return f"; no progress for {now - stuck.last_progress_at:.0f} s: job {stuck.id}"


def _age(snapshot: AccountSnapshot, now: float) -> str:
    """The age of these numbers and the reason, if the last two polls failed."""
    error, at = snapshot.status.last_error, snapshot.status.last_success
    if at is None:
        return f" (no response yet: {error})" if error else ""
    if not error and now - at <= 2 * _POLL_SECONDS:
        return ""
    return f" (as of {now - at:.0f} s ago{f': {error}' if error else ''})"


def _say(line: str) -> None:
    say(line)
    sys.stdout.flush()

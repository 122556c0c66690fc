"""Start, failed start, full disk and shutdown of the daemon."""

import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

import exporter
from exporter.simulator.faults import Fault, FaultKind
from exporter.simulator.scripts import JobScript
from exporter.simulator.server import QUIET, RunningSimulator, running
from tests.harness import Account, Daemon, Installation, MonotonicCounters, counted, difference
from tests.waiting import eventually

ENDS_WITHIN = 5.0
"""Maximum seconds of a shutdown, by contract, regardless of the platform and of clients."""
PLENTY = replace(QUIET, rate_limit=100_000)
"""Errors of failed jobs take a request each. At a poll a second, the usual limit leaves one for every few polls."""
FAST = JobScript(total=5, failed=1, queued=0, resolving=0, running=0)
FINE = JobScript(total=5, queued=0, resolving=0, running=0)


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running(PLENTY) as served:
        yield served


@pytest.fixture
def place(simulator: RunningSimulator, tmp_path: Path) -> Iterator[Installation]:
    with Installation(tmp_path / "place", Account.at(simulator)) as installed:
        yield installed


# ------------------------------------------------------------------------------------------------------------- shutdown


@pytest.mark.real_time
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.fault(
    "{number.name} while requests, bodies, waits and clients hang",
    action="ends within 5 s, with exit code 0",
    shown="two log lines",
    recovery="the next start",
)
def test_shutdown_takes_at_most_five_seconds_while_everything_hangs(tmp_path: Path, number: int) -> None:
    """Responses, a body, waits between requests and clients of the daemon all hang at once."""
    hanging = {
        "silent": Fault(kind=FaultKind.HANG),
        "dripping": Fault(kind=FaultKind.DRIP, pause=0.5),
        "retried": Fault(kind=FaultKind.SERVER_ERROR),
        "maintained": Fault(kind=FaultKind.MAINTENANCE),
    }
    with ExitStack() as stack:
        simulators = {name: stack.enter_context(running(QUIET)) for name in hanging}
        accounts = [Account.at(simulator, name) for name, simulator in simulators.items()]
        daemon = stack.enter_context(stack.enter_context(Installation(tmp_path / "place", *accounts)).running())
        for client in clients_that_hold_on(daemon.url):
            stack.enter_context(closing(client))
        for name, simulator in simulators.items():
            simulator.platform.queue(hanging[name], times=100)
        eventually(lambda: all(simulator.platform.waiting_faults() < 100 for simulator in simulators.values()))
        daemon.scrape_when(lambda now: now.value("sbg_maintenance", account="maintained"))
        eventually(lambda: daemon.said("request.retried", account="retried"), describe=daemon.output)

        asked = time.monotonic()
        code = daemon.stop(number)
        took = time.monotonic() - asked

    assert code == 0
    assert took < ENDS_WITHIN + seconds_to_do_nothing()
    assert len(daemon.said("daemon.stopping")) == 1
    assert daemon.events[-1]["event"] == "daemon.stopped"
    assert "Traceback" not in daemon.output()


def seconds_to_do_nothing() -> float:
    """Return the seconds for an empty process, which show whether the machine is too busy."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", ""], check=True)
    return time.monotonic() - began


def clients_that_hold_on(url: str) -> Iterator[socket.socket]:
    """Connect a silent client, one that stops within a header, and one that reads no responses."""
    host, _, port = url.removeprefix("http://").partition(":")
    for request in (b"", b"GET /metrics HT", b"GET /metrics HTTP/1.1\r\nHost: me\r\n\r\n" * 50):
        client = socket.create_connection((host, int(port)))
        client.sendall(request)
        yield client


@pytest.mark.fault(
    "a restart",
    action="commits at every poll",
    shown="the same counters with the same creation times, from the first scrape on",
    recovery="none needed",
)
def test_counters_survive_a_restart(simulator: RunningSimulator, place: Installation) -> None:
    counters = MonotonicCounters()
    with place.running() as daemon:
        simulator.platform.submit(FAST)
        before = counters.see(daemon.await_exact("sim", simulator))
        assert daemon.stop() == 0
    with place.running() as daemon:
        after = counters.see(daemon.scrape())

    assert counted(after, "sim") == counted(before, "sim")
    assert daemon.said("job.finished") == daemon.said("ledger.created") == []


# --------------------------------------------------------------------------------------------------------- failed start


def complaint(daemon: Daemon) -> str:
    """Return the only line printed by a daemon that failed to start."""
    assert len(daemon.lines) == 1, daemon.output()
    assert daemon.stdout == ""
    return daemon.lines[0]


@pytest.mark.fault(
    "a second daemon on one state file",
    action="exits 1",
    shown="one line with the first one's process",
    recovery="either ends",
    part="The state file",
)
def test_second_daemon_on_a_state_file_names_the_lock_owner(place: Installation) -> None:
    with place.running() as first:
        second = place.start()

        assert second.end() == 1
        line = complaint(second)
        assert str(place.state) in line
        assert f"process {first.pid} on {socket.gethostname()}" in line
        assert first.alive
        first.await_polls("sim")


def test_second_start_reports_the_lock_not_the_port(place: Installation) -> None:
    with place.running() as first:
        second = place.start("run", "--config", str(place.config), "--listen", first.url.removeprefix("http://"))

        assert second.end() == 1
        assert f"is locked by process {first.pid}" in complaint(second)


@pytest.mark.fault(
    "the port is in use",
    action="exits 1; creates no state file",
    shown="one line",
    recovery="another port",
    part="The configuration",
)
def test_a_port_in_use_is_one_line_and_exit_1(place: Installation) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon = place.start("run", "--config", str(place.config), "--listen", address)

        assert daemon.end() == 1
        assert address in complaint(daemon)
        assert not list(place.state.parent.glob(f"{place.state.name}*")), "no ledger begins with a start that failed"


@pytest.mark.fault(
    "the status page's template is broken",
    action="exits 1",
    shown="one line",
    recovery="a whole installation",
    part="The metrics server and other outputs",
)
def test_broken_status_page_template_fails_the_start(place: Installation, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(Path(exporter.__file__).parent, copy / "exporter", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "exporter" / "web" / "templates" / "status.html.j2").write_text("{% if %}")

    place.cold = True  # Coverage has no sources of the copy to report on.
    daemon = place.start(PYTHONPATH=str(copy), COVERAGE_PROCESS_CONFIG="", COVERAGE_PROCESS_START="")

    assert daemon.end() == 1
    assert "TemplateSyntaxError" in daemon.output()
    assert not daemon.said("daemon.started")


@pytest.mark.fault(
    "a wrong configuration",
    action="exits 2",
    shown="a line for each problem, with its key",
    recovery="the corrected file",
    part="The configuration",
)
def test_a_wrong_configuration_is_a_line_per_problem_and_exit_2(place: Installation) -> None:
    with place.config.open("a") as file:
        file.write('[[accounts]]\nname = "other"\napi_endpoint = "http://platform.example/v2"\n')
        file.write('auth_token_file = "sim.token"\n[[accounts]]\nname = "third"\nauth_token_file = "nowhere"\n')
        file.write('api_endpoint = "https://cgc-api.sbgenomics.com"\n')
    daemon = place.start()

    assert daemon.end() == 2
    assert daemon.stdout == ""
    assert len(daemon.lines) == 2, daemon.output()
    for line, word in zip(daemon.lines, ("allow_plain_http", "nowhere"), strict=True):
        assert line.startswith("sbg-exporter: ")
        assert word in line
    assert not place.state.exists()


def test_every_wrong_value_is_told_with_its_key(place: Installation) -> None:
    wrong = {"poll_intervall": "5", "rate_share": "2", "stale_after": '"soon"', "history": '"all"'}
    place.config.write_text("".join(f"{key} = {value}\n" for key, value in wrong.items()) + place.config.read_text())
    daemon = place.start(SBG_EXPORTER_POL_INTERVAL="3")

    assert daemon.end() == 2
    assert len(daemon.lines) == len(wrong) + 1, daemon.output()
    assert any("SBG_EXPORTER_POL_INTERVAL" in line for line in daemon.lines)
    for key in wrong:
        assert any(key in line and str(place.config) in line for line in daemon.lines)


@pytest.mark.fault(
    "a configuration that is no TOML",
    action="exits 2",
    shown="one line",
    recovery="the corrected file",
    part="The configuration",
)
def test_a_file_that_is_no_toml_is_one_line(place: Installation) -> None:
    place.config.write_text("= broken\n")
    daemon = place.start()

    assert daemon.end() == 2
    assert str(place.config) in complaint(daemon)


def random_bytes(state: Path) -> None:
    state.write_bytes(bytes(range(256)) * 40)


def half_a_file(state: Path) -> None:
    state.write_bytes(state.read_bytes()[:60])


def broken_pages(state: Path) -> None:
    whole = state.read_bytes()
    state.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))


def somebody_elses(state: Path) -> None:
    state.unlink()
    with closing(sqlite3.connect(state)) as db:
        db.execute("CREATE TABLE job (id TEXT)")


def newer(state: Path) -> None:
    with closing(sqlite3.connect(state)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize("damage", [random_bytes, half_a_file, broken_pages, somebody_elses, newer])
@pytest.mark.fault(
    "a state file of other content: `{damage.__name__}`",
    action="exits 1 and does not touch the file",
    shown="one line with the reason and what to do",
    recovery="a backup, or another state_file",
    part="The state file",
)
def test_a_state_file_that_cannot_be_used_is_not_touched(place: Installation, damage: Callable[[Path], None]) -> None:
    with place.running() as daemon:
        assert daemon.stop() == 0
    damage(place.state)
    before = place.state.read_bytes()
    daemon = place.start()

    assert daemon.end() == 1
    line = complaint(daemon)
    assert str(place.state) in line
    assert "backup" in line or "state_file" in line
    assert place.state.read_bytes() == before
    assert not [file for file in place.state.parent.glob("state.db-*") if file.stat().st_size]


@pytest.mark.fault(
    "the state file is a directory",
    action="exits 1",
    shown="one line",
    recovery="another state_file",
    part="The state file",
)
def test_a_state_file_that_is_a_directory_is_one_line_and_exit_1(place: Installation) -> None:
    place.state.mkdir()
    daemon = place.start()

    assert daemon.end() == 1
    assert str(place.state) in complaint(daemon)


# ---------------------------------------------------------------------------------------------------------- a full disk


@pytest.mark.fault(
    "the disk is full",
    action="tries again at every poll",
    shown="gauges move on, counters stay; `sbg_exporter_state_write_failures_total`",
    recovery="the first poll after there is space",
    part="The state file",
)
def test_a_full_disk_costs_no_count(simulator: RunningSimulator, place: Installation) -> None:
    """A file size limit of 0 bytes replaces a full disk, because it can be lifted again."""
    counters, failures = MonotonicCounters(), "sbg_exporter_state_write_failures_total"
    with place.running() as daemon:
        simulator.platform.submit(FAST)
        before = counters.see(daemon.await_exact("sim", simulator))
        _, most = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (0, most))
        for _ in range(3):
            simulator.platform.submit(FAST)
        full = daemon.scrape_when(
            lambda now: (
                (now.value(failures) or 0) >= 2
                and now.value("sbg_jobs", account="sim", operation="copy", state="finished") == 4
            )
        )
        counters.see(full)

        assert before.value(failures) == 0
        assert counted(full, "sim") == counted(before, "sim")
        assert full.value("sbg_jobs_files_failed", account="sim", operation="copy", state="finished") == 4
        assert len(daemon.said("job.finished")) == 1
        assert daemon.get("/-/healthy").status_code == 200

        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (most, most))
        counters.see(daemon.await_exact("sim", simulator))
        assert len(daemon.said("job.finished")) == 4
        daemon.kill()
    with place.running() as daemon:
        assert difference(counters.see(daemon.scrape()), "sim", simulator) == {}


# ----------------------------------------------------------------------------------------------------------------- logs


def test_polls_without_changes_log_nothing(simulator: RunningSimulator, place: Installation) -> None:
    simulator.platform.submit(JobScript(total=4, queued=0, resolving=0, running=4, hangs_after=0))
    with place.running() as daemon:
        daemon.scrape_when(lambda now: now.total("sbg_jobs"))
        said = len(daemon.lines)
        daemon.await_polls("sim", 2)

        assert daemon.lines[said:] == []
        assert [event["level"] for event in daemon.events] == ["info"] * len(daemon.events)


def test_each_finished_job_is_logged_once_as_a_warning_if_files_failed(
    simulator: RunningSimulator, place: Installation
) -> None:
    def once() -> list[dict[str, object]]:
        """What a poll logs that the next one does not hurry: a daemon that has no time left logs no errors."""
        process = place.start("once", "--config", str(place.config))
        assert process.end() == 0
        return process.said("job.finished")

    assert once() == []
    fine = simulator.platform.submit(FINE)
    failed = simulator.platform.submit(
        JobScript(total=5, failed=3, errors={"5001": 2, "none": 1}, queued=0, resolving=0, running=0)
    )
    first = once()
    with place.running() as daemon:
        daemon.await_exact("sim", simulator)
        daemon.kill()

    told = {event["job_id"]: event for event in first}
    assert len(first) == 2
    assert told[fine]["level"] == "info"
    assert told[failed]["level"] == "warning"
    assert told[failed].items() >= {"account": "sim", "operation": "copy", "outcome": "partial"}.items()
    assert told[failed].items() >= {"files": 5, "completed": 2, "failed": 3, "errors": "5001:2 none:1"}.items()
    assert daemon.said("job.finished") == []

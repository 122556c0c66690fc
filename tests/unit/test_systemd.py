"""systemd gets its notifications, and no failure to send one affects the daemon."""

import io
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.daemon import systemd
from exporter.logs import Log, logger
from exporter.metrics.snapshot import CommitFailure
from exporter.simulator.faults import Fault, FaultKind
from exporter.simulator.server import QUIET, running
from tests.clocks import START
from tests.harness import Account, Installation
from tests.snapshots import STATUS, UNTRIED, snapshot
from tests.waiting import PATIENCE, eventually

EVERY_MILLISECOND = "2000"
"""WATCHDOG_USEC, of which half is the time between two signs of life."""


class Ear:
    """systemd's end: a real datagram socket, by a path or, without one, by an abstract name."""

    def __init__(self, path: Path | None = None) -> None:
        name = f"sbg-exporter-test-{secrets.token_hex(8)}"
        self.variable = f"@{name}" if path is None else str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name}" if path is None else str(path))
        self._socket.settimeout(PATIENCE)

    def hear(self) -> dict[str, str]:
        """The next message."""
        return dict(line.split("=", 1) for line in self._socket.recv(65536).decode().split("\n"))

    def hear_until(self, condition: Callable[[dict[str, str]], object]) -> dict[str, str]:
        """The next message for which *condition* holds; there are always more while the watchdog is on."""
        while not condition(message := self.hear()):
            pass
        return message

    def all_heard(self) -> list[dict[str, str]]:
        """What waits to be heard."""
        self._socket.setblocking(False)  # noqa: FBT003  # the socket's way
        heard = []
        try:
            while True:
                heard.append(self.hear())
        except BlockingIOError:
            return heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    with closing(Ear(tmp_path / "notify")) as listening:
        yield listening


def log_to(stream: io.StringIO) -> Log:
    return logger("json", "debug", stream)


def events(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@contextmanager
def informed(
    environ: dict[str, str],
    *,
    stream: io.StringIO | None = None,
    status: Callable[[], str] = lambda: "well",
    unhealthy: Callable[[], str] = str,
) -> Iterator[None]:
    with systemd.informed(environ, log_to(stream or io.StringIO()), status=status, unhealthy=unhealthy):
        yield


# ---- who is told ----


@pytest.mark.parametrize(
    ("variable", "address"),
    [
        ("/run/systemd/notify", b"/run/systemd/notify"),
        ("@org/freedesktop/notify", b"\0org/freedesktop/notify"),
        ("vsock:2:1234", None),
        ("relative", None),
        ("", None),
    ],
)
def test_it_listens_at_a_path_or_an_abstract_name(variable: str, address: bytes | None) -> None:
    assert systemd.notify_address({"NOTIFY_SOCKET": variable}) == address


def test_without_a_socket_nothing_is_sent_or_started() -> None:
    before = threading.active_count()

    with informed({"WATCHDOG_USEC": EVERY_MILLISECOND}):
        assert threading.active_count() == before


@pytest.mark.parametrize("path", ["notify", None], ids=["path", "abstract"])
def test_ready_is_sent_first_and_stopping_last(tmp_path: Path, path: str | None) -> None:
    before = threading.active_count()
    with closing(Ear(None if path is None else tmp_path / path)) as ear:
        with informed({"NOTIFY_SOCKET": ear.variable}):
            assert ear.hear() == {"READY": "1", "STATUS": "well"}

        assert ear.all_heard() == [{"STOPPING": "1", "STATUS": "stopping"}]
    assert threading.active_count() == before


def test_a_reload_is_announced_with_its_time_and_ends_with_ready(ear: Ear) -> None:
    before = int(time.monotonic() * 1e6)
    with systemd.informed(
        {"NOTIFY_SOCKET": ear.variable}, log_to(io.StringIO()), status=lambda: "fine", unhealthy=str
    ) as reloading:
        with reloading():
            pass
        with suppress(KeyError), reloading():
            raise KeyError

    told = ear.all_heard()
    assert [next(iter(message)) for message in told] == [
        "READY",
        "RELOADING",
        "READY",
        "RELOADING",
        "READY",
        "STOPPING",
    ]
    assert before <= int(told[1]["MONOTONIC_USEC"]) <= int(time.monotonic() * 1e6)
    assert [message["STATUS"] for message in told[1:3]] == ["reloading", "fine"]


def test_stopping_is_sent_after_an_error(ear: Ear) -> None:
    with pytest.raises(KeyError), informed({"NOTIFY_SOCKET": ear.variable}):
        raise KeyError

    assert ear.all_heard()[-1]["STOPPING"] == "1"


# ---- the watchdog ----


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "seven"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({}, None),
    ],
)
def test_watchdog_timeout_must_be_valid_and_for_this_process(variables: dict[str, str], seconds: float | None) -> None:
    assert systemd.watchdog_seconds(variables, 7) == seconds


def test_watchdog_pings_repeat_while_the_daemon_is_healthy(ear: Ear) -> None:
    environ = {"NOTIFY_SOCKET": ear.variable, "WATCHDOG_USEC": EVERY_MILLISECOND, "WATCHDOG_PID": str(os.getpid())}
    with informed(environ):
        assert "READY" in ear.hear()

        assert [ear.hear() for _ in range(3)] == [{"WATCHDOG": "1", "STATUS": "well"}] * 3


def test_unhealthy_daemon_sends_no_ping_and_logs_once_why(ear: Ear) -> None:
    reasons, stream = [""], io.StringIO()
    environ = {"NOTIFY_SOCKET": ear.variable, "WATCHDOG_USEC": EVERY_MILLISECOND}
    with informed(environ, stream=stream, unhealthy=lambda: reasons[0]):
        ear.hear_until(lambda message: "WATCHDOG" in message)
        reasons[0] = "account lab has not moved for 200 s"

        ill = ear.hear_until(lambda message: message["STATUS"] == reasons[0])
        still_ill = [ear.hear() for _ in range(3)]
        reasons[0] = ""
        well = ear.hear_until(lambda message: message["STATUS"] == "well")

    assert [ill, *still_ill] == [{"STATUS": "account lab has not moved for 200 s"}] * 4
    assert well == {"WATCHDOG": "1", "STATUS": "well"}
    [told] = events(stream)
    assert told["event"] == "watchdog.ping_skipped"
    assert told["level"] == "error"
    assert told["reason"] == "account lab has not moved for 200 s"


def test_watchdog_of_another_process_gets_no_ping(ear: Ear) -> None:
    with informed({"NOTIFY_SOCKET": ear.variable, "WATCHDOG_USEC": EVERY_MILLISECOND, "WATCHDOG_PID": "1"}):
        assert "READY" in ear.hear()

    assert ear.all_heard() == [{"STOPPING": "1", "STATUS": "stopping"}]


# ---- what may go wrong ----


def test_line_break_in_the_status_starts_no_assignment(ear: Ear) -> None:
    with informed({"NOTIFY_SOCKET": ear.variable}, status=lambda: "two\nMAINPID=1\r\nlines"):
        assert ear.hear() == {"READY": "1", "STATUS": "two MAINPID=1 lines"}


def test_missing_socket_is_one_log_line(tmp_path: Path) -> None:
    stream = io.StringIO()
    ended = threading.Event()

    def status() -> str:
        looks.append(1)
        if len(looks) > 3:
            ended.set()
        return "well"

    looks: list[int] = []
    environ = {"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": EVERY_MILLISECOND}
    with informed(environ, stream=stream, status=status):
        assert ended.wait(PATIENCE)

    [told] = events(stream)
    assert told["event"] == "systemd.notify_failed"
    assert told["level"] == "warning"
    assert told["reason"] == "No such file or directory"


def test_too_long_socket_name_is_one_log_line() -> None:
    stream = io.StringIO()

    with informed({"NOTIFY_SOCKET": f"/{'n' * 200}"}, stream=stream):
        pass

    assert [told["event"] for told in events(stream)] == ["systemd.notify_failed"]


def test_systemd_that_does_not_read_blocks_nothing(ear: Ear) -> None:
    """Pings fill the socket; later messages are dropped, and the context exits."""
    stream, full = io.StringIO(), threading.Event()

    def unhealthy() -> str:
        if "systemd.notify_failed" in stream.getvalue():
            full.set()
        return ""

    environ = {"NOTIFY_SOCKET": ear.variable, "WATCHDOG_USEC": "2"}
    with informed(environ, stream=stream, unhealthy=unhealthy):
        assert full.wait(PATIENCE)

    assert [told["event"] for told in events(stream)] == ["systemd.notify_failed"]
    assert events(stream)[0]["reason"] == "timed out"


def test_failure_after_a_success_is_logged_again(tmp_path: Path) -> None:
    stream, path = io.StringIO(), tmp_path / "notify"
    environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": EVERY_MILLISECOND}

    def failures() -> int:
        return stream.getvalue().count("systemd.notify_failed")

    with informed(environ, stream=stream):
        eventually(lambda: failures() == 1)
        with closing(Ear(path)) as ear:
            assert ear.hear()["WATCHDOG"] == "1"
        eventually(lambda: failures() == 2)


# ---- the status line ----


@pytest.mark.parametrize(
    ("up", "line"),
    [
        ({"lab": True}, "1 of 1 account up"),
        ({"lab": True, "cgc": True}, "2 of 2 accounts up"),
        ({"lab": True, "cgc": None}, "1 of 2 accounts up; 1 not polled yet"),
        ({"lab": True, "cgc": False}, "1 of 2 accounts up; down: cgc"),
        ({"lab": None, "cgc": False}, "0 of 2 accounts up; 1 not polled yet; down: cgc"),
        (
            {f"a{each}": False for each in range(7)},
            "0 of 7 accounts up; down: a0, a1, a2, a3, a4 and 2 more",
        ),
    ],
)
def test_status_line_counts_accounts_and_names_those_down(up: dict[str, bool | None], line: str) -> None:
    snapshots = [snapshot(None, account=name, status=replace(STATUS, up=is_up)) for name, is_up in up.items()]

    assert systemd.accounts_line(list(up), snapshots) == line


def test_account_without_a_snapshot_is_not_polled_yet() -> None:
    untried = snapshot(None, account="cgc", status=UNTRIED)

    assert systemd.accounts_line(["lab", "cgc"], [untried]) == "0 of 2 accounts up; 2 not polled yet"


def test_status_line_says_first_that_nothing_is_counted() -> None:
    unwritten = replace(STATUS, commit_failure=CommitFailure(START, "no space"))

    line = systemd.accounts_line(["lab"], [snapshot(None, account="lab", status=unwritten)])

    assert line == "the state file cannot be written, nothing new is counted; 1 of 1 account up"


# ---- the daemon ----


def test_daemon_is_ready_without_a_response_of_the_platform(tmp_path: Path) -> None:
    """The platform does not respond; the daemon is ready and sends pings all the same."""
    with (
        running(QUIET) as simulator,
        Installation(tmp_path / "place", Account.at(simulator)) as place,
        closing(Ear()) as ear,
    ):
        simulator.platform.queue(Fault(kind=FaultKind.HANG), times=1000)
        daemon = place.start(NOTIFY_SOCKET=ear.variable, WATCHDOG_USEC="20000")

        assert ear.hear() == {"READY": "1", "STATUS": "0 of 1 account up; 1 not polled yet"}
        assert daemon.get("/metrics").status_code == 200
        assert daemon.get("/-/ready").status_code == 503
        assert ear.hear() == {"WATCHDOG": "1", "STATUS": "0 of 1 account up; 1 not polled yet"}


def test_daemon_reports_its_accounts_and_its_stop(tmp_path: Path) -> None:
    with (
        running(QUIET) as simulator,
        Installation(tmp_path / "place", Account.at(simulator), Account.at(simulator, "refused", "0" * 32)) as place,
        closing(Ear()) as ear,
        place.running(NOTIFY_SOCKET=ear.variable, WATCHDOG_USEC="20000") as daemon,
    ):
        tried = ear.hear_until(lambda message: "not polled" not in message["STATUS"])
        code = daemon.stop()
        last = ear.all_heard()[-1]

    assert code == 0
    assert last == {"STOPPING": "1", "STATUS": "stopping"}
    assert tried == {"WATCHDOG": "1", "STATUS": "1 of 2 accounts up; down: refused"}

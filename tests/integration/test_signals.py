"""SIGTERM, SIGINT and SIGHUP at every moment of a process's life, and what a shell sees afterwards."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TextIO

import pytest

from exporter.signals import FORCED_AFTER
from exporter.simulator.faults import Fault, FaultKind
from exporter.simulator.scripts import JobScript
from exporter.simulator.server import QUIET, RunningSimulator, running
from tests.harness import Account, Installation, difference
from tests.waiting import PATIENCE, eventually
from tests.width import width

SIGNALS = [signal.SIGTERM, signal.SIGINT]
ENDING = {signal.SIGHUP, *SIGNALS}
NAMES = [each.name for each in SIGNALS]
ENDS_WITHIN = 5.0
"""Seconds from the first signal to the end of the process, by contract."""
STEPS = width(5, 60)
"""Moments of the start that are tried."""
HANGS = Fault(kind=FaultKind.HANG)
BLOCKED, CAUGHT = "SigBlk", "SigCgt"


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running(QUIET) as served:
        yield served


@pytest.fixture
def place(simulator: RunningSimulator, tmp_path: Path) -> Iterator[Installation]:
    with Installation(tmp_path / "place", Account.at(simulator)) as installed:
        yield installed


def signals_in(status: Path, field: str) -> set[int]:
    """Return the signals in one of the masks of a process or thread, by its ``/proc/<pid>/status``."""
    found = re.search(rf"^{field}:\s*([0-9a-f]+)$", status.read_text(), re.MULTILINE)
    assert found is not None
    mask = int(found[1], 16)
    return {number for number in range(1, 65) if mask & 1 << number - 1}


def await_first_instruction(pid: int) -> None:
    """Wait until the exporter's first instruction has run. Before it, Python itself starts."""
    eventually(lambda: signals_in(Path(f"/proc/{pid}/status"), BLOCKED) >= ENDING, every=0.0005)


def child_of(pid: int) -> int:
    """Wait until process *pid* has a child and return the child's number."""
    return int(eventually(Path(f"/proc/{pid}/task/{pid}/children").read_text))


# ------------------------------------------------------------------------------------------------------------ the start

AT_AN_IMPORT = """
import os, signal, sys
import exporter

left, *numbers = [int(each) for each in sys.argv.pop(1).split(",")]

class Interrupting:
    def find_spec(self, name, path, target=None):
        global left
        if signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
            left -= 1
            if left == 0:
                for number in numbers:
                    os.kill(os.getpid(), number)

sys.meta_path.insert(0, Interrupting())
import exporter.__main__
try:
    exporter.__main__.main()
finally:
    print(-left)
"""


def at_import(position: int, arguments: list[str], *numbers: int) -> subprocess.CompletedProcess[str]:
    """Run a command that sends itself these signals when it imports its *position*-th module."""
    given = ",".join(str(int(each)) for each in (position, *numbers))
    return subprocess.run(
        [sys.executable, "-c", AT_AN_IMPORT, given, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@cache
def imports_of(*arguments: str) -> int:
    """Return how many modules a command imports after its first instruction."""
    return int(at_import(0, list(arguments)).stdout.split()[-1])


@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.fault(
    "a signal while modules are imported",
    action="`run` exits 0, a command ends by the signal",
    shown="nothing",
    recovery="the next start",
)
def test_a_signal_while_modules_are_imported_ends_each_command_without_a_word(place: Installation, step: int) -> None:
    part = 0.9 * step / STEPS  # the last modules are those that print the help
    config = ["--config", str(place.config)]
    daemon = at_import(1 + int(part * imports_of("run", "--help")), ["run", *config], *SIGNALS[:: 1 - step % 2 * 2])
    assert (daemon.returncode, daemon.stdout, daemon.stderr) == (0, "", "")

    number = SIGNALS[step % 2]
    version = at_import(1 + int(part * imports_of("version")), ["version"], number)
    assert (version.returncode, version.stdout, version.stderr) == (-number, "", "")


@pytest.mark.parametrize("number", SIGNALS, ids=NAMES)
@pytest.mark.fault(
    "SIGTERM or SIGINT in the first second",
    action="exits 0",
    shown="log lines only",
    recovery="the next start",
)
def test_a_signal_in_the_first_second_ends_the_daemon_with_exit_0(place: Installation, number: int) -> None:
    for step in range(STEPS):
        daemon = place.start()
        await_first_instruction(daemon.pid)
        time.sleep(step / STEPS)

        assert daemon.stop(number) == 0, daemon.output()
        assert not any(line for line in daemon.lines if not line.startswith("{")), daemon.output()


@pytest.mark.fault(
    "a signal while the configuration file does not come, as on a hung file system",
    action="`run` exits 0, a command ends by the signal",
    shown="nothing",
    recovery="the next start",
)
def test_a_command_waiting_for_its_configuration_ends_at_once(place: Installation) -> None:
    """A named pipe that nobody writes replaces a file system that hangs."""
    os.mkfifo(place.folder / "pipe")
    for arguments, code in ((["run"], 0), (["check"], -signal.SIGTERM)):
        daemon = place.start(*arguments, "--config", str(place.folder / "pipe"))
        await_first_instruction(daemon.pid)
        with eventually(lambda: writer(place.folder / "pipe")):
            assert daemon.stop() == code
        assert daemon.output() == ""


def writer(pipe: Path) -> TextIO | None:
    """Open *pipe* for writing once a reader waits."""
    try:
        return os.fdopen(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "w")
    except OSError:
        return None


# ---------------------------------------------------------------------------------------------------------- the daemon


def test_one_thread_takes_the_signals_and_none_has_a_handler(place: Installation) -> None:
    with place.running() as daemon:
        process = Path(f"/proc/{daemon.pid}")
        threads = [signals_in(status, BLOCKED) for status in process.glob("task/*/status")]

        assert len(threads) > 3
        # While a thread waits for signals, Linux does not show them as blocked in it.
        assert sum(not mask >= ENDING for mask in threads) == 1
        assert not ENDING & signals_in(process / "status", CAUGHT)


@pytest.mark.fault(
    "two signals in quick succession",
    action="exits 0",
    shown="`daemon.stopped`, no traceback",
    recovery="the next start",
)
def test_two_signals_in_quick_succession_end_the_daemon_with_exit_0(
    simulator: RunningSimulator, place: Installation
) -> None:
    simulator.platform.submit(JobScript(total=5, failed=1, queued=0, resolving=0, running=0))
    for number in range(width(4, 24)):
        with place.running() as daemon:
            first, second = SIGNALS if number % 2 else SIGNALS[::-1]
            os.kill(daemon.pid, first)
            time.sleep(number % 12 * 0.002)

            assert daemon.stop(first if number % 3 == 0 else second) == 0, daemon.output()
            assert daemon.events[-1]["event"] == "daemon.stopped"
            assert "Traceback" not in daemon.output()
    with place.running() as daemon:
        assert difference(daemon.await_exact("sim", simulator), "sim", simulator) == {}


@pytest.mark.fault(
    "a thousand signals",
    action="exits 0",
    shown="one `daemon.stopping`, no traceback",
    recovery="the next start",
)
def test_a_thousand_signals_end_the_daemon_with_exit_0(place: Installation) -> None:
    with place.running() as daemon:
        for number in range(1000):
            os.kill(daemon.pid, SIGNALS[number % 2])

        assert daemon.end() == 0
        assert len(daemon.said("daemon.stopping")) == 1
        assert "Traceback" not in daemon.output()


def test_a_hangup_reloads_and_the_daemon_goes_on(place: Installation) -> None:
    with place.running() as daemon:
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.await_event("configuration.reloaded")
        daemon.await_polls("sim", 2)

        assert len(daemon.said("configuration.reloaded", level="info")) == 1
        assert daemon.stop() == 0


def test_a_hangup_before_the_daemon_is_up_reloads_later(place: Installation) -> None:
    daemon = place.start()
    await_first_instruction(daemon.pid)
    os.kill(daemon.pid, signal.SIGHUP)

    daemon.await_ready()
    assert daemon.await_event("configuration.reloaded") is not None
    assert daemon.stop() == 0


@pytest.mark.tools("root")
@pytest.mark.parametrize("number", SIGNALS, ids=NAMES)
@pytest.mark.fault(
    "a signal to process 1, as in a container",
    action="`run` exits 0, a command exits 128 plus the signal",
    shown="no traceback",
    recovery="the next start",
)
def test_process_1_ends_like_any_other(simulator: RunningSimulator, place: Installation, number: int) -> None:
    simulator.platform.queue(HANGS, times=1000)
    config = str(place.config)
    for arguments, moment, code in (
        (["run", "--config", config], 0.0, 0),
        (["run", "--config", config], 0.05, 0),
        (["run", "--config", config], 1.0, 0),
        (["check", "--config", config], 0.0, 128 + number),
        (["once", "--config", config], 1.0, 128 + number),
        (["simulate", "--listen", "127.0.0.1:0"], 0.2, 0),
    ):
        with subprocess.Popen(
            ["unshare", "--pid", "--fork", sys.executable, "-m", "exporter", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as outer:
            inner = child_of(outer.pid)
            await_first_instruction(inner)
            time.sleep(moment)
            os.kill(inner, number)
            _, errors = outer.communicate(timeout=PATIENCE)

        assert outer.returncode == code, (arguments, moment, errors)
        assert "Traceback" not in errors


# -------------------------------------------------------------------------------------- commands that end by themselves


def await_hanging(simulator: RunningSimulator) -> None:
    """Wait until a request waits for its response."""
    eventually(lambda: simulator.platform.waiting_faults() < 100)


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGHUP], ids=[*NAMES, "SIGHUP"])
@pytest.mark.parametrize("command", ["check", "once", "textfile"])
@pytest.mark.fault(
    "a signal while a command waits for a response",
    action="ends by the signal; leaves no half file and no lock",
    shown="one line",
    recovery="it is run again",
)
def test_a_signal_while_a_command_waits_for_a_response_is_its_end(
    simulator: RunningSimulator, place: Installation, command: str, number: int
) -> None:
    simulator.platform.queue(HANGS, times=100)
    (place.folder / "tmp").mkdir()
    textfile = place.folder / "out" / "sbg.prom"
    textfile.parent.mkdir()
    arguments = ["once", "--textfile", str(textfile)] if command == "textfile" else [command]
    daemon = place.start(*arguments, "--config", str(place.config), TMPDIR=str(place.folder / "tmp"))
    await_hanging(simulator)

    assert daemon.stop(number) == -number
    assert daemon.output() == "sbg-exporter: interrupted by a signal before it was done\n"
    assert list(textfile.parent.iterdir()) == []
    assert list((place.folder / "tmp").iterdir()) == []
    simulator.platform.forget_faults()
    with Installation(place.folder / "next", Account.at(simulator), state_file=str(place.state)) as following:
        next_one = following.start()
        assert next_one.await_event("daemon.started") is not None, next_one.output()  # the state file is not locked
        assert next_one.stop() == 0


@pytest.mark.parametrize("number", SIGNALS, ids=NAMES)
def test_a_shell_sees_128_plus_the_signal(simulator: RunningSimulator, place: Installation, number: int) -> None:
    simulator.platform.queue(HANGS, times=100)
    command = ["sh", "-c", '"$0" -m exporter once --config "$1"; echo $?', sys.executable, str(place.config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as shell:
        await_hanging(simulator)
        os.kill(child_of(shell.pid), number)
        out, errors = shell.communicate(timeout=PATIENCE)

    assert out == f"{128 + number}\n"
    assert "Traceback" not in errors


def test_a_command_under_nohup_survives_a_hangup(simulator: RunningSimulator, place: Installation) -> None:
    simulator.platform.queue(HANGS, times=100)
    with subprocess.Popen(
        ["nohup", sys.executable, "-m", "exporter", "check", "--config", str(place.config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        await_hanging(simulator)
        command.send_signal(signal.SIGHUP)
        command.terminate()
        command.communicate(timeout=PATIENCE)

    assert command.returncode == -signal.SIGTERM


@pytest.mark.fault(
    "Ctrl-C, twice, while `check` waits for a response",
    action="ends by SIGINT",
    shown="no traceback",
    recovery="it is run again",
)
def test_ctrl_c_at_a_terminal_ends_a_check_without_a_traceback(
    simulator: RunningSimulator, place: Installation
) -> None:
    simulator.platform.queue(HANGS, times=100)
    terminal, inside = pty.openpty()
    check = [sys.executable, "-m", "exporter", "check", "--config", str(place.config)]
    with subprocess.Popen(["setsid", "--ctty", *check], stdin=inside, stdout=inside, stderr=inside) as command:
        os.close(inside)
        await_hanging(simulator)
        os.write(terminal, b"\x03\x03")
        code = command.wait(PATIENCE)
    shown = os.read(terminal, 10000).decode()
    os.close(terminal)

    assert code == -signal.SIGINT
    assert "Traceback" not in shown


# ---------------------------------------------------------------------------------------------------------- forced ends


@pytest.mark.real_time
@pytest.mark.parametrize(("command", "code"), [("run", 0), ("once", -signal.SIGTERM)])
@pytest.mark.fault(
    "a signal while a disk hangs and the process cannot end by itself",
    action="ends at once after a few seconds; `run` exits 0",
    shown="the exit code",
    recovery="the next start",
)
def test_a_process_that_cannot_end_by_itself_is_ended(command: str, code: int) -> None:
    """A main thread that waits for ever replaces a state file on a disk that hangs."""
    program = f"""
import threading
from exporter import signals

signals.watch(["{command}"])
signals.stop_event()
print("waits", flush=True)
threading.Event().wait()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        asked = time.monotonic()
        process.terminate()
        process.terminate()

        assert process.wait(PATIENCE) == code
    assert time.monotonic() - asked >= FORCED_AFTER
    assert FORCED_AFTER < ENDS_WITHIN


def await_a_request(simulator: RunningSimulator) -> None:
    before = len(simulator.platform.latest_requests())
    eventually(lambda: len(simulator.platform.latest_requests()) > before)


@pytest.mark.fault(
    "a signal while nobody reads a full standard output",
    action="`run` exits 0, a command ends by the signal",
    shown="the exit code",
    recovery="the next start",
)
def test_output_that_nobody_reads_does_not_keep_a_daemon_or_command_running(
    simulator: RunningSimulator, place: Installation
) -> None:
    for _ in range(50):
        simulator.platform.submit(JobScript(total=5, queued=0, resolving=0, running=0))
    for arguments, code in ((["run"], 0), (["once"], -signal.SIGTERM)):
        output, unread = os.pipe()
        os.set_blocking(unread, False)
        try:
            while True:
                os.write(unread, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(unread, True)
        with subprocess.Popen(
            [sys.executable, "-m", "exporter", *arguments, "--config", str(place.config), "--log-level", "debug"],
            stdout=unread,
            stderr=unread,
        ) as process:
            await_a_request(simulator)
            process.terminate()
            assert process.wait(PATIENCE) == code
        os.close(output)
        os.close(unread)

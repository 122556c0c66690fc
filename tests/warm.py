"""Start Python processes that need not import the exporter first, which takes most of the time of a short command.

A server, one for each process of the tests, imports it once. For each process that a test starts, it forks, and the
child becomes that process: with arguments, environment, folder and standard streams of its own, as if Python had
started it. It runs ``python -m MODULE`` from there on, ends as it would, and can be killed. Tests of the start itself,
of the list of processes, of memory or of limits start Python instead: see :class:`tests.harness.Installation`.

``python -m tests.warm SOCKET`` is the server. It has one thread, so that forking is safe, and ends with its socket.
"""

import array
import atexit
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple, NoReturn, TextIO

from tests import measured

_REPOSITORY: Final = Path(__file__).parents[1]
_IMPORTED: Final = (
    *("check", "init", "job", "jobs", "once", "run", "simulate", "state", "version"),
    *("_job_list", "_parallel", "_prompt", "_settings", "_state", "_terminal", "_textfile"),
)
_LARGEST: Final = 1 << 20


# ------------------------------------------------------------------------------------------------------- for the tests


class Ended(NamedTuple):
    """What a process left: its exit code (negative: the signal that ended it) and its output."""

    code: int
    out: str
    err: str


class Process:
    """What tests need of :class:`subprocess.Popen`, of which this is a copy in a forked process."""

    def __init__(self, pid: int, connection: socket.socket, stdout: TextIO, stderr: TextIO) -> None:
        self.pid = pid
        self.stdout: TextIO | None = stdout
        self.stderr: TextIO | None = stderr
        self.returncode: int | None = None
        self._connection = connection
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._receive(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code when it has ended.

        Raises:
            subprocess.TimeoutExpired: after *timeout* seconds.
        """
        code = self._receive(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("python", timeout or 0)
        return code

    def _receive(self, timeout: float | None) -> int | None:
        with self._lock:
            if self.returncode is None:
                self._connection.settimeout(timeout)
                with suppress(BlockingIOError, TimeoutError):
                    self.returncode = json.loads(self._connection.recv(_LARGEST) or b"-9")
                    self._connection.close()
            return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, stdin: int = subprocess.DEVNULL
) -> Process:
    """Start ``python -W error -m`` with these *arguments*, in *folder*; *stdin* is a descriptor."""
    if stdin == subprocess.DEVNULL:
        with Path(os.devnull).open("rb") as nothing:
            return start(arguments, environment, folder, nothing.fileno())
    out, child_out = os.pipe()
    err, child_err = os.pipe()
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    request = json.dumps({"arguments": arguments, "environment": dict(environment), "folder": str(folder)}).encode()
    descriptors = array.array("i", [stdin, child_out, child_err, theirs.fileno()])
    with _sending:
        _server(os.getpid()).sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    os.close(child_out)
    os.close(child_err)
    theirs.close()
    pid = json.loads(mine.recv(_LARGEST))
    return Process(pid, mine, os.fdopen(out, encoding="utf-8"), os.fdopen(err, encoding="utf-8"))


def run(arguments: Sequence[str], environment: Mapping[str, str], folder: Path, sent: str = "") -> Ended:
    """Run it to its end, with *sent* as its input."""
    reader, writer = os.pipe()
    process = start(arguments, environment, folder, reader)
    os.close(reader)
    assert process.stdout is not None
    assert process.stderr is not None
    errors: list[str] = []
    thread = threading.Thread(target=lambda stream: errors.append(stream.read()), args=(process.stderr,))
    thread.start()
    with suppress(BrokenPipeError), os.fdopen(writer, "w", encoding="utf-8") as stream:
        stream.write(sent)
    output = process.stdout.read()
    thread.join()
    process.stdout.close()
    process.stderr.close()
    return Ended(process.wait(), output, errors[0])


_sending = threading.Lock()


@cache
def _server(_owner: int) -> socket.socket:
    """The connection to the server of this process, which has its user, its mounts and its network (tests.isolated)."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", __name__, str(theirs.fileno())],
        cwd=_REPOSITORY,
        env=os.environ | measured.VARIABLES,
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
    )
    theirs.close()

    def end() -> None:
        mine.close()
        server.wait()

    atexit.register(end)
    return mine


# ---------------------------------------------------------------------------------------------------------- the server


class _Child(NamedTuple):
    pid: int
    connection: int
    """Descriptor. Not a socket, whose end in the child would close what has this number there."""


class _Request(NamedTuple):
    """A process to become, and its standard input, output and error output."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    streams: list[int]


def _serve(requests: socket.socket) -> _Request | None:
    """Fork for each request. Return it in the child; None in the server, at its end."""
    with selectors.DefaultSelector() as waiting:
        waiting.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if isinstance(key.data, _Child):
                    waiting.unregister(key.fd)
                    _report(key.fd, key.data)
                    continue
                message, descriptors, _, _ = socket.recv_fds(requests, _LARGEST, 4)
                if not message:
                    return None
                *streams, connection = descriptors
                pid = os.fork()
                if pid == 0:
                    requests.detach()
                    return _Request(**json.loads(message), streams=streams)
                for each in streams:
                    os.close(each)
                child = _Child(pid, connection)
                os.write(connection, json.dumps(pid).encode())
                waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, child)


def _report(pidfd: int, child: _Child) -> None:
    os.close(pidfd)
    _, status = os.waitpid(child.pid, 0)
    with suppress(OSError):  # the test may have ended
        os.write(child.connection, json.dumps(os.waitstatus_to_exitcode(status)).encode())
    os.close(child.connection)


def _become(request: _Request) -> None:
    for number, descriptor in enumerate(request.streams):
        os.dup2(descriptor, number)
    os.closerange(3, max(int(each.name) for each in Path("/proc/self/fd").iterdir()) + 1)
    sys.stdin = os.fdopen(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    time.tzset()
    sys.path[0] = request.folder
    module, *sys.argv[1:] = request.arguments
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            raise
        _end(ended.code or 0)
    _end(0)


def _end(code: int) -> NoReturn:
    """Do what Python does at its end, except freeing what the server imported: that copies each page first."""
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - nothing public waits for all threads
    atexit._run_exitfuncs()  # noqa: SLF001 - and nothing public does this before the end
    gc.collect()  # warns of what nobody closed
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.exit(code)  # Python says what it says where output is lost
    os._exit(code)


def _main() -> None:
    for name in _IMPORTED:
        import_module(f"exporter.commands.{name}")
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        request = _serve(requests)
    if request is not None:
        _become(request)


if __name__ == "__main__":
    _main()

"""Notifies systemd: the daemon is ready, reloading or stopping, the state of its accounts, a watchdog ping.

The protocol is sd_notify: a datagram of ``KEY=value`` lines to the socket in ``$NOTIFY_SOCKET``. Without that variable
nothing is sent. The daemon continues after any error here.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from typing import Final, TypeAlias

from exporter.clock import SYSTEM_CLOCK
from exporter.logs import Log
from exporter.metrics.snapshot import AccountSnapshot

_STATUS_SECONDS: Final = 15.0
"""Time between two status lines; shorter if the watchdog needs more frequent pings."""
_SEND_SECONDS: Final = 0.5
"""Longest wait for room in systemd's queue; the daemon has five seconds to stop."""
_MOST_NAMES: Final = 5

Reloading: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Makes a context that lasts as long as a reload."""


@contextmanager
def informed(
    environ: Mapping[str, str], log: Log, *, status: Callable[[], str], unhealthy: Callable[[], str]
) -> Iterator[Reloading]:
    """Notify systemd while the context lasts: ready on entry, stopping on exit.

    Yields what makes a context in which systemd shows that the configuration is being reloaded.

    Args:
        environ: the environment, with systemd's socket and watchdog timeout.
        log: receives the reason for a skipped ping or a failed notification.
        status: returns the status line.
        unhealthy: returns why to skip the watchdog ping, or an empty string; the test of ``/-/healthy``.
    """
    address = notify_address(environ)
    if address is None:
        yield nullcontext
        return
    watchdog = watchdog_seconds(environ, os.getpid())
    ended = threading.Event()
    with closing(_Channel(address, log)) as channel:
        channel.tell("READY=1", status())
        thread = threading.Thread(
            target=_keep_informed,
            args=(channel, watchdog, ended),
            kwargs={"log": log, "status": status, "unhealthy": unhealthy},
            name="systemd",
            daemon=True,
        )
        thread.start()

        @contextmanager
        def reloading() -> Iterator[None]:
            # Type=notify-reload compares the time with that of its signal.
            now = int(SYSTEM_CLOCK.monotonic() * 1e6)
            channel.tell(f"RELOADING=1\nMONOTONIC_USEC={now}", "reloading")
            try:
                yield
            finally:
                channel.tell("READY=1", status())

        try:
            yield reloading
        finally:
            ended.set()
            thread.join()  # it waits for at most one datagram
            channel.tell("STOPPING=1", "stopping")


def notify_address(environ: Mapping[str, str]) -> bytes | None:
    """The socket that systemd listens on, a path or an abstract name; None without systemd."""
    name = environ.get("NOTIFY_SOCKET", "")
    if name.startswith("@"):
        return b"\0" + os.fsencode(name[1:])
    return os.fsencode(name) if name.startswith("/") else None


def watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """The watchdog timeout of process *pid*; None without a watchdog."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    microseconds = int(text) if text.isascii() and text.isdecimal() else 0
    return microseconds / 1e6 or None


def accounts_line(names: Sequence[str], snapshots: Iterable[AccountSnapshot]) -> str:
    """One line with the number of accounts up, not polled yet and down; first, if commits fail, that they do."""
    statuses = {snapshot.account: snapshot.status for snapshot in snapshots}
    up = {account: status.up for account, status in statuses.items()}
    down = [name for name in names if up.get(name) is False]
    untried = sum(up.get(name) is None for name in names)
    parts = [f"{len(names) - len(down) - untried} of {len(names)} account{'s' * (len(names) != 1)} up"]
    if any(status.commit_failure for status in statuses.values()):
        parts.insert(0, "the state file cannot be written, nothing new is counted")
    if untried:
        parts.append(f"{untried} not polled yet")
    if down:
        more = len(down) - _MOST_NAMES
        parts.append(f"down: {', '.join(down[:_MOST_NAMES])}{f' and {more} more' if more > 0 else ''}")
    return "; ".join(parts)


def _keep_informed(
    channel: "_Channel",
    watchdog: float | None,
    ended: threading.Event,
    *,
    log: Log,
    status: Callable[[], str],
    unhealthy: Callable[[], str],
) -> None:
    withheld = False
    while not ended.wait(_STATUS_SECONDS if watchdog is None else min(_STATUS_SECONDS, watchdog / 2)):
        reason = unhealthy()
        if reason and not withheld and watchdog is not None:
            log.error("watchdog.ping_skipped", reason=reason, timeout=watchdog)
        withheld = bool(reason)
        channel.tell("" if reason or watchdog is None else "WATCHDOG=1", reason or status())


class _Channel:
    """A socket to systemd, kept open so that a process without free file descriptors can still send pings."""

    def __init__(self, address: bytes, log: Log) -> None:
        self._address = address
        self._log = log
        self._cut = False
        self._open = ExitStack()
        self._socket: socket.socket | None = None

    def tell(self, assignment: str, status: str) -> None:
        """Send both; log the first of several failures in a row."""
        one_line = " ".join(status.split())  # a line break starts another assignment
        message = "\n".join(filter(None, (assignment, f"STATUS={one_line}")))
        try:
            if self._socket is None:
                self._socket = self._open.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                self._socket.settimeout(_SEND_SECONDS)
            self._socket.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError as error:
            if not self._cut:
                self._log.warning("systemd.notify_failed", reason=error.strerror or str(error))
            self._cut = True
        else:
            self._cut = False

    def close(self) -> None:
        """Close the socket."""
        self._open.close()

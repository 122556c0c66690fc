"""Run the daemon with a clock that stands still until it is told to move, as a process.

``python -m tests.stepped_daemon PORT START run --config FILE`` is ``sbg-exporter run --config FILE`` with a clock that
shows START (Unix seconds). Pollers wait by this clock, so months pass in minutes, and no wait depends on how busy the
machine is. Requests, commits and scrapes are real and take no time.

The process connects to PORT on the loopback interface. Whenever all pollers wait, it sends a line with the seconds
until the first of them is due. The answer is a line of two numbers: the seconds by which to move the clock, and the
seconds by which the machine's clock is then ahead.
"""

import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from exporter.clock import RealClock
from tests.fast_daemon import run_daemon

_LOOKS_AFTER = 0.2
"""Real seconds until a waiting thread looks for an event that nobody announced."""


class SteppedClock(RealClock):
    """A clock that only :meth:`step` moves."""

    def __init__(self, stop: threading.Event, start: float) -> None:
        super().__init__(stop)
        self._start = start
        self._passed = 0.0
        self._wrong_by = 0.0
        self._waits: dict[threading.Thread, tuple[float, threading.Event]] = {}
        """When each waiting thread is due, and what wakes it earlier."""
        self._changed = threading.Condition()

    def time(self) -> float:
        return self._start + self._passed + self._wrong_by

    def monotonic(self) -> float:
        return self._passed

    def wait(self, seconds: float, event: threading.Event) -> None:
        due = self._passed + seconds
        thread = threading.current_thread()
        with self._changed:
            self._waits[thread] = due, event
            self._changed.notify_all()
            while self._passed < due and not event.is_set():
                self._changed.wait(_LOOKS_AFTER)
            del self._waits[thread]

    def step(self, seconds: float, wrong_by: float) -> None:
        """Move by *seconds*; afterwards the machine's clock is ahead by *wrong_by*."""
        with self._changed:
            self._passed += seconds
            self._wrong_by = wrong_by
            self._changed.notify_all()

    def seconds_until_due(self, pollers: Callable[[], list[threading.Thread]]) -> float:
        """Wait until all *pollers* wait, and return how long until the first of them is due."""
        with self._changed:
            while not ((threads := pollers()) and all(map(self._waits_for_a_step, threads))):
                self._changed.wait(_LOOKS_AFTER / 100)
            return min(due for due, _ in self._waits.values()) - self._passed

    def _waits_for_a_step(self, thread: threading.Thread) -> bool:
        due, event = self._waits.get(thread, (0.0, None))
        return event is not None and not event.is_set() and due > self._passed


def _pollers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("poller-")]


def _follow(clock: SteppedClock, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rw") as lines:
        while True:
            lines.write(f"{clock.seconds_until_due(_pollers)}\n")
            lines.flush()
            if not (answer := lines.readline()):
                return
            seconds, wrong_by = map(float, answer.split())
            clock.step(seconds, wrong_by)


def _clock(stop: threading.Event, port: int, start: float) -> SteppedClock:
    clock = SteppedClock(stop, start)
    threading.Thread(target=_follow, args=(clock, port), daemon=True).start()
    return clock


if __name__ == "__main__":
    _, given_port, given_start, _run, _config, path = sys.argv
    sys.exit(run_daemon(Path(path), lambda stop: _clock(stop, int(given_port), float(given_start))))

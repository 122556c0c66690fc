"""Run the daemon with a clock that is faster than the machine's, as a process.

``python -m tests.fast_daemon ANCHOR SPEED run --config FILE`` is ``sbg-exporter run --config FILE`` with a clock that
shows ``ANCHOR + (now - ANCHOR) * SPEED``. A minute of maintenance then takes seconds. The clock agrees with a simulator
that starts at :func:`fast_now` and has the same speed, and with daemons started later. Connecting, computing and
writing take as long as usual.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from exporter import signals
from exporter.clock import InterruptibleClock, RealClock
from exporter.config.loading import load
from exporter.daemon import run
from exporter.logs import LogStyle, NonBlockingStream, logger_in


def fast_now(anchor: float, speed: float) -> float:
    """Return the time of a clock that was right at *anchor* (Unix seconds) and has had this *speed* since."""
    return anchor + (time.time() - anchor) * speed


class ScaledClock(RealClock):
    """The machine's clocks at *speed* since *anchor*. Setting *stop* ends every pause."""

    def __init__(self, stop: threading.Event, anchor: float, speed: float) -> None:
        super().__init__(stop)
        self._anchor = anchor
        self._speed = speed

    def time(self) -> float:
        return fast_now(self._anchor, self._speed)

    def monotonic(self) -> float:
        return super().monotonic() * self._speed

    def real_seconds(self, seconds: float) -> float:
        return seconds / self._speed


def run_daemon(config: Path, clock_until: Callable[[threading.Event], InterruptibleClock]) -> int:
    """Run with the clock that *clock_until* makes, until a signal arrives. Return the exit code."""
    signals.watch(["run"])
    stop = signals.stop_event()
    configuration = load({"config": str(config)}, os.environ, Path.home())
    errors = NonBlockingStream(sys.stderr)
    settings = configuration.settings
    style = LogStyle(settings.log_format, settings.log_level, terminal=errors.isatty())
    reload = run.Reload(lambda: load({"config": str(config)}, os.environ, Path.home()), style.use)
    code = run.run(configuration, stop, logger_in(style, errors), clock=clock_until(stop), reload=reload)
    errors.close()
    return code


if __name__ == "__main__":
    _, given_anchor, given_speed, _run, _config, path = sys.argv
    sys.exit(run_daemon(Path(path), lambda stop: ScaledClock(stop, float(given_anchor), float(given_speed))))

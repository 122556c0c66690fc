"""Logs: events named ``thing.happened`` with flat keys, and no secret in any of them.

Info tells of what happened to jobs and to the process, warning of what is tried again or failed for a user, error of
what a person should look at. A poll in which nothing happened says nothing at info.
"""

import io
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final, Literal, Protocol, TextIO, cast

import structlog

from exporter.redaction import Redactor

LogFormat = Literal["auto", "json", "logfmt", "console"]
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


_WAITING_LINES: Final = 1000
_CLOSES_WITHIN: Final = 1.0
_FIRST_KEYS: Final = ("timestamp", "level", "event")


class Log(Protocol):
    """A logger: an event's name and its flat keys."""

    def bind(self, **keys: object) -> "Log":
        """A logger that adds *keys* to every event."""
        ...

    def debug(self, event: str, **keys: object) -> None:
        """For whoever looks for a fault in the exporter."""
        ...

    def info(self, event: str, **keys: object) -> None:
        """Something happened."""
        ...

    def warning(self, event: str, **keys: object) -> None:
        """Something failed that is tried again, or that a user wants to know of."""
        ...

    def error(self, event: str, **keys: object) -> None:
        """A person should look."""
        ...

    def exception(self, event: str, **keys: object) -> None:
        """An error that nobody expected, with its traceback."""
        ...


class Stream(Protocol):
    """Where lines go."""

    def isatty(self) -> bool:
        """Whether a person reads it."""
        ...

    def write(self, text: str, /) -> object:
        """Write it."""
        ...

    def flush(self) -> object:
        """Hold nothing back."""
        ...


class NonBlockingStream:
    """Writes to another stream in a thread of its own, so that a reader who stalls keeps nobody else waiting.

    What is written goes out at once and in order. When too much waits, more is dropped, and how much is told later.
    """

    def __init__(self, stream: TextIO, room: int = _WAITING_LINES) -> None:
        self._stream = stream
        self._room = room
        self._descriptor = _descriptor(stream)
        self._waiting: deque[str] = deque()
        self._dropped = 0
        self._closed = False
        self._news = threading.Condition()
        self.tell_of_dropped: Callable[[int], object] = lambda _number: None
        threading.Thread(target=self._work, name="log-writer", daemon=True).start()

    def isatty(self) -> bool:
        """Whether a person reads it."""
        return self._stream.isatty()

    def write(self, text: str) -> None:
        """Have *text* written, or drop it when too much waits."""
        with self._news:
            if self._closed or len(self._waiting) >= self._room:
                self._dropped += 1
                return
            dropped, self._dropped = self._dropped, 0
        if dropped:
            self.tell_of_dropped(dropped)
        with self._news:
            self._waiting.append(text)
            self._news.notify_all()

    def flush(self) -> None:
        """Nothing: it is never held back on purpose."""

    def close(self, seconds: float = _CLOSES_WITHIN) -> None:
        """Take no more, and wait until all is written, for at most so many *seconds*."""
        with self._news:
            self._closed = True
            self._news.notify_all()
            self._news.wait_for(lambda: not self._waiting, seconds)

    def _work(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                text = self._waiting[0]
            with suppress(OSError, ValueError):  # full, or gone: the latter for a closed one
                self._put(text)
            with self._news:
                self._waiting.popleft()
                self._news.notify_all()

    def _put(self, text: str) -> None:
        if self._descriptor is None:
            self._stream.write(text)
            return
        # Not through the stream: whoever hangs in its buffer holds a lock that Python wants when it ends.
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        while left:
            left = left[os.write(self._descriptor, left) :]


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except io.UnsupportedOperation:
        return None


class _LineLogger:
    """A line per event. A stream that is full or gone loses lines; it never stops the work that is told of."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._lock = threading.RLock()  # a patient stream tells of what it dropped by another line

    def msg(self, line: str) -> None:
        with self._lock, suppress(OSError, ValueError):  # the latter for a closed one
            self._stream.write(f"{line}\n")
            self._stream.flush()

    debug = info = warning = error = msg


def logger(log_format: LogFormat, level: str, stream: Stream, redactor: Redactor) -> Log:
    """A logger that writes to *stream*; ``auto`` is console on a terminal, JSON elsewhere."""
    terminal = stream.isatty()
    if log_format == "auto":
        log_format = "console" if terminal else "json"
    renderer: Any
    if log_format == "console":
        renderer = structlog.dev.ConsoleRenderer(
            colors=terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
            pad_event_to=24,
            sort_keys=False,
            exception_formatter=structlog.dev.plain_traceback,  # the others would show local variables
        )
    elif log_format == "logfmt":
        renderer = structlog.processors.LogfmtRenderer(key_order=_FIRST_KEYS)
    else:
        renderer = structlog.processors.JSONRenderer()
    chain = [
        _without_nothing,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(
            fmt="%H:%M:%S" if log_format == "console" else "iso", utc=log_format != "console"
        ),
        structlog.processors.format_exc_info,
        _first_keys_first,
        redactor,
        renderer,
    ]
    log = cast(
        "Log",
        structlog.wrap_logger(
            _LineLogger(stream),
            processors=chain,
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        ),
    )
    if isinstance(stream, NonBlockingStream):
        stream.tell_of_dropped = lambda number: log.warning("log.lines_dropped", lines=number)
    return log


def _without_nothing(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keys without a value say nothing."""
    for key in [key for key, value in event.items() if value is None]:
        del event[key]
    return event


def _first_keys_first(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """When, how bad, what: where people look first."""
    return {**{key: event[key] for key in _FIRST_KEYS}, **event}

"""Logs: events named ``noun.past_participle`` with flat keys, and no secret in any of them.

Info reports what happened to jobs and to the process. Warning reports failures that are retried and failures of a
user's files. Error reports what needs an operator. A poll in which nothing happened logs nothing at info.
"""

import io
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, Literal, TextIO, TypeAlias

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from exporter.redaction import printable, shown, shown_lines, without_secrets

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


Log: TypeAlias = FilteringBoundLogger
"""A logger: an event's name and its flat keys."""


class NonBlockingStream:
    """Writes to another stream in a thread of its own, so that a stalled reader does not block the exporter.

    Text is written at once and in order. When the queue is full, text is dropped and the number of dropped lines is
    reported later.
    """

    def __init__(self, stream: TextIO, room: int = _WAITING_LINES) -> None:
        self._stream = stream
        self._room = room
        self._descriptor = _descriptor(stream)
        self._waiting: deque[str] = deque()
        self._dropped = 0
        self._closed = False
        self._news = threading.Condition()
        self.report_dropped: Callable[[int], object] = lambda _number: None
        threading.Thread(target=self._work, name="log-writer", daemon=True).start()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream.isatty()

    def write(self, text: str) -> None:
        """Queue *text*, or drop it when the queue is full."""
        with self._news:
            if self._closed or len(self._waiting) >= self._room:
                self._dropped += 1
                return
            dropped, self._dropped = self._dropped, 0
        if dropped:
            self.report_dropped(dropped)
        with self._news:
            self._waiting.append(text)
            self._news.notify_all()

    def flush(self) -> None:
        """Do nothing: text is never buffered on purpose."""

    def close(self, seconds: float = _CLOSES_WITHIN) -> None:
        """Refuse more text, and wait at most *seconds* until the queue is written."""
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
            with suppress(OSError, ValueError):  # a full disk or closed pipe; ValueError: a closed stream
                self._put(text)
            with self._news:
                self._waiting.popleft()
                self._news.notify_all()

    def _put(self, text: str) -> None:
        if self._descriptor is None:
            self._stream.write(text)
            return
        # Not through the stream: a blocked write would hold the buffer's lock, which Python needs at exit.
        left = memoryview(text.encode(self._stream.encoding or "utf-8", "backslashreplace"))
        while left:
            left = left[os.write(self._descriptor, left) :]


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except io.UnsupportedOperation:
        return None


LogStream: TypeAlias = TextIO | NonBlockingStream


class _LineLogger:
    """Writes a line per event. A stream that fails loses lines, but never stops the work that is logged."""

    def __init__(self, stream: LogStream) -> None:
        self._stream = stream
        self._lock = threading.RLock()  # a NonBlockingStream logs how many lines it dropped, inside write()

    def msg(self, line: str) -> None:
        with self._lock, suppress(OSError, ValueError):  # ValueError: a closed stream
            self._stream.write(f"{line}\n")
            self._stream.flush()

    debug = info = warning = error = msg


class LogStyle:
    """The format and the lowest level of a logger, which may change while it is in use.

    It is the logger's only processor, because structlog decides about both when it makes a logger.
    """

    def __init__(self, log_format: LogFormat, level: str, *, terminal: bool) -> None:
        self._terminal = terminal
        self.use(log_format, level)

    def use(self, log_format: LogFormat, level: str) -> None:
        """Use another format and level from the next event on."""
        self._lowest, self._chain = _LEVELS[level], _chain(log_format, terminal=self._terminal)

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        """The line of an event.

        Raises:
            structlog.DropEvent: its level is too low.
        """
        if _LEVELS[method] < self._lowest:
            raise structlog.DropEvent
        processed: Any = event
        for processor in self._chain:
            processed = processor(logger, method, processed)
        return str(processed)


def logger(log_format: LogFormat, level: str, stream: LogStream) -> Log:
    """A logger that writes to *stream*; ``auto`` is console on a terminal, JSON elsewhere."""
    return logger_in(LogStyle(log_format, level, terminal=stream.isatty()), stream)


def logger_in(style: LogStyle, stream: LogStream) -> Log:
    """A logger that writes to *stream* in a style that may change."""
    log: Log = structlog.wrap_logger(
        _LineLogger(stream),
        processors=[style],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
    )
    if isinstance(stream, NonBlockingStream):
        stream.report_dropped = lambda number: log.warning("log.lines_dropped", lines=number)
    return log


def _chain(log_format: LogFormat, *, terminal: bool) -> list[Processor]:
    if log_format == "auto":
        log_format = "console" if terminal else "json"
    renderer: Processor
    if log_format == "console":
        renderer = structlog.dev.ConsoleRenderer(
            colors=terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
            pad_event_to=24,
            sort_keys=False,
            exception_formatter=structlog.dev.plain_traceback,  # the others print local variables
        )
    elif log_format == "logfmt":
        renderer = structlog.processors.LogfmtRenderer(key_order=_FIRST_KEYS)
    else:
        renderer = structlog.processors.JSONRenderer()
    return [
        _without_none,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(
            fmt="%H:%M:%S" if log_format == "console" else "iso", utc=log_format != "console"
        ),
        structlog.processors.format_exc_info,
        _first_keys_first,
        partial(_only_what_may_be_shown, in_one_line=log_format == "console"),
        renderer,
    ]


def _without_none(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Drop keys without a value."""
    for key in [key for key, value in event.items() if value is None]:
        del event[key]
    return event


def _first_keys_first(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Put time, level and event first."""
    return {**{key: event[key] for key in _FIRST_KEYS}, **event}


def _only_what_may_be_shown(_: WrappedLogger, __: str, event: EventDict, *, in_one_line: bool) -> EventDict:
    """Mask secrets and tokens in an event and escape control characters.

    A job's id stays readable even if it looks like a token. Line breaks are kept in tracebacks, and where the format
    itself escapes them; *in_one_line* escapes all others.
    """
    for key, value in event.items():
        if isinstance(value, int | float | None):
            continue
        text = value if isinstance(value, str) else str(value)
        if key == "job_id":
            event[key] = printable(without_secrets(text))
        elif in_one_line and key != "exception":
            event[key] = shown(text)
        else:
            event[key] = shown_lines(text)
    return event

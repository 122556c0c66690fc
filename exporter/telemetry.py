"""Logs: events named ``thing.happened`` with flat keys, and no secret in any of them.

Info tells of what happened to jobs and to the process, warning of what is tried again or failed for a user, error of
what a person should look at. A poll in which nothing happened says nothing at info.
"""

import logging
import sys
import threading
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Final, Literal, Protocol, TextIO, cast

import structlog

from exporter.credentials import MASK, Secret

LogFormat = Literal["auto", "json", "logfmt", "console"]
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


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


class _Lines:
    """A line per event. A stream that is full or gone loses lines; it never stops the work that is told of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def msg(self, line: str) -> None:
        with self._lock, suppress(OSError, ValueError):  # the latter for a closed one
            self._stream.write(f"{line}\n")
            self._stream.flush()

    debug = info = warning = error = msg


class Secrets:
    """The last net: whatever text is logged, known secrets in it become stars."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: tuple[str, ...] = ()

    def hide(self, secret: Secret) -> None:
        """Never show *secret* from now on."""
        with self._lock:
            # The longest first: a secret may be a part of another, whose rest would then stand beside the stars.
            self._texts = tuple(sorted({*self._texts, secret.reveal()} - {""}, key=len, reverse=True))

    def hidden(self, text: str) -> str:
        """*text* without the secrets in it."""
        for secret in self._texts:
            text = text.replace(secret, MASK)
        return text

    def __call__(
        self,
        logger: object,  # noqa: ARG002  # a structlog processor's arguments
        method: str,  # noqa: ARG002  # likewise
        event: MutableMapping[str, Any],
    ) -> MutableMapping[str, Any]:
        """The event without the secrets in it: structlog's processor."""
        for key, value in event.items():
            if not isinstance(value, int | float | None):
                event[key] = self.hidden(value if isinstance(value, str) else str(value))
        return event


def logger(log_format: LogFormat, level: str, stream: TextIO, secrets: Secrets) -> Log:
    """A logger that writes to *stream*; ``auto`` is console on a terminal, JSON elsewhere."""
    terminal = stream.isatty()
    if log_format == "auto":
        log_format = "console" if terminal else "json"
    renderer: Any
    if log_format == "console":
        renderer = structlog.dev.ConsoleRenderer(
            colors=terminal,
            pad_event_to=24,
            sort_keys=False,
            exception_formatter=structlog.dev.plain_traceback,  # the others would show local variables
        )
    elif log_format == "logfmt":
        renderer = structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])
    else:
        renderer = structlog.processors.JSONRenderer()
    chain = [
        _without_nothing,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(
            fmt="%H:%M:%S" if log_format == "console" else "iso", utc=log_format != "console"
        ),
        structlog.processors.format_exc_info,
        secrets,
        renderer,
    ]
    return cast(
        "Log",
        structlog.wrap_logger(
            _Lines(stream),
            processors=chain,
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        ),
    )


def default_stream() -> TextIO:
    """Where logs go: standard error, so that standard output is free for what a command prints."""
    return sys.stderr


def _without_nothing(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keys without a value say nothing."""
    for key in [key for key, value in event.items() if value is None]:
        del event[key]
    return event

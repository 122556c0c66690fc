"""Answers that a person types, or another program sends: Ctrl-C ends the wait, and the terminal echoes again."""

import os
import select
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from exporter.errors import ConfigError, Stopping
from exporter.redaction import Secret

_CHECK_SECONDS: Final = 0.1
"""Time between two checks whether the process is to end."""
_LARGEST_ANSWER: Final = 64 * 1024
_ENDS_QUIETLY: Final = b"\0"  # no key sends the signal to quit, which would end the process without echo
_LOCAL_FLAGS: Final = 3
_CONTROL_CHARACTERS: Final = 6


class Prompt:
    """Standard input, with questions on standard error."""

    def __init__(self, say: Callable[[str], object], stop: threading.Event) -> None:
        """*say* writes text to standard error; *stop* ends every wait."""
        self.say = say
        self._stop = stop
        self._descriptor = sys.stdin.fileno()
        self._rest = b""

    @property
    def is_terminal(self) -> bool:
        """Whether a person is asked."""
        return os.isatty(self._descriptor)

    def line(self, question: str) -> str:
        """The next line, without white space around it.

        Raises:
            ConfigError: standard input ended.
            Stopping: the process is ending.
        """
        self.say(question)
        return self._read(whole=False)

    def secret(self, question: str) -> Secret:
        """The next line of a terminal without echo; all of standard input if it is no terminal.

        Raises:
            ConfigError: standard input ended without a text.
            Stopping: the process is ending.
        """
        if not self.is_terminal:
            return Secret(self._read(whole=True), masked=False)
        self.say(question)
        try:
            with _without_echo(self._descriptor):
                return Secret(self._read(whole=False), masked=False)
        finally:
            self.say("\n")

    def _read(self, *, whole: bool) -> str:
        text, ended = self._rest, False
        while not ended and (whole or b"\n" not in text):
            if self._stop.is_set():
                raise Stopping("interrupted before anything was written")
            if select.select([self._descriptor], [], [], _CHECK_SECONDS)[0]:
                more = os.read(self._descriptor, 4096)
                text, ended = text + more, not more
            if len(text) > _LARGEST_ANSWER:
                raise ConfigError("standard input: too long; expected one line")
        line, _, self._rest = (text, b"", b"") if whole else text.partition(b"\n")
        answer = line.decode("utf-8", "replace").strip()
        if ended and not answer:
            raise ConfigError("standard input: ended without an answer; nothing was written")
        return answer


@contextmanager
def _without_echo(descriptor: int) -> Iterator[None]:
    """Let a terminal not show what is typed."""
    before = termios.tcgetattr(descriptor)
    silent = termios.tcgetattr(descriptor)
    silent[_LOCAL_FLAGS] &= ~termios.ECHO
    silent[_CONTROL_CHARACTERS][termios.VQUIT] = _ENDS_QUIETLY
    silent[_CONTROL_CHARACTERS][termios.VSUSP] = _ENDS_QUIETLY
    termios.tcsetattr(descriptor, termios.TCSAFLUSH, silent)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

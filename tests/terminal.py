"""A command on a terminal of its own: what a person sees, types and interrupts."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from tests import measured
from tests.waiting import PATIENCE, eventually

_REPOSITORY: Final = Path(__file__).parents[1]
_TAKE_TERMINAL: Final = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class OnTerminal:
    """``sbg-exporter`` on a terminal, as a context that kills it if it still runs at the end."""

    def __init__(
        self,
        *arguments: str,
        home: Path,
        columns: int = 80,
        lines: int = 24,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it. *environment* replaces variables; the terminal understands colours."""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._slave = slave
        self._seen = b""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, sys.executable, "-W", "error", "-m", "exporter", *arguments],
            env=_environment(home) | dict(environment or {}),
            cwd=home,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                self._seen += os.read(self._master, 65536)
            except OSError:
                return

    @property
    def raw(self) -> bytes:
        """Every byte so far."""
        return self._seen

    @property
    def screen(self) -> str:
        """The text so far, with escape sequences."""
        return self._seen.decode(errors="replace").replace("\r\n", "\n")

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._slave)[3] & termios.ECHO)

    def wait_for(self, text: str) -> Self:
        """Wait until the terminal has shown *text*."""
        eventually(lambda: text in self.screen, describe=lambda: self.screen)
        return self

    def type(self, text: str) -> Self:
        r"""Type *text*; ``\x03`` is Ctrl-C."""
        os.write(self._master, text.encode())
        return self

    def send(self, number: signal.Signals) -> Self:
        """Send a signal to the process alone."""
        self._process.send_signal(number)
        return self

    def end(self) -> int:
        """Wait for the end; the exit code, negative for a signal."""
        code = self._process.wait(PATIENCE)
        marker = b"\0end\0"
        os.write(self._slave, marker)  # all output before it has then been read
        eventually(lambda: marker in self._seen, describe=lambda: self.screen)
        self._seen = self._seen.replace(marker, b"")
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(PATIENCE)
        os.close(self._slave)
        self._reader.join(PATIENCE)
        os.close(self._master)


def _environment(home: Path) -> dict[str, str]:
    clean = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    clean |= measured.VARIABLES
    return clean | {"HOME": str(home), "PYTHONPATH": str(_REPOSITORY), "TERM": "xterm-256color", "LANG": "C.UTF-8"}

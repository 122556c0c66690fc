"""Writes a page for node_exporter's textfile collector, or through a FIFO or a device."""

import errno
import os
import select
import stat
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from exporter.errors import ConfigError, OutputError, Stopping, file_problem
from exporter.storage.files import atomic_write
from exporter.storage.paths import real_path

_SUFFIX: Final = ".prom"
_CHECK_SECONDS: Final = 0.2
"""Time between two checks whether the process is to end."""


def check_writable(path: Path) -> None:
    """Refuse what :func:`write` could not write, before any request is sent and counted.

    Raises:
        ConfigError: the name does not end in ``.prom``, so node_exporter would ignore the file.
        OutputError: it cannot be written, or is a folder, a socket or a block device.
    """
    try:
        if _is_stream(path):
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        if path.suffix != _SUFFIX:
            raise ConfigError(
                f"--textfile: the name must end in {_SUFFIX}, or node_exporter ignores the file;"
                " without --textfile, the page goes to standard output"
            )
        tempfile.TemporaryFile(dir=_replaced(path).parent).close()
    except OSError as error:
        raise _unwritable(path, error) from error


def write(path: Path, content: bytes, stop: threading.Event) -> None:
    """Write *content* to *path*: through a FIFO or a character device, else as a file that is replaced in one step.

    A FIFO without a reader is waited for. A symbolic link stays, and the file that it leads to is replaced.

    Raises:
        OutputError: it cannot be written.
        Stopping: *stop* was set while a reader was waited for.
    """
    try:
        if _is_stream(path):
            _write_through(path, content, stop)
            return
        with atomic_write(_replaced(path), mode=0o644) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise _unwritable(path, error) from error


def _replaced(path: Path) -> Path:
    """The file that is replaced: the one that a symbolic link leads to, if there is one."""
    return real_path(path) if path.is_file() else path


def _is_stream(path: Path) -> bool:
    """Whether *path* leads to a FIFO or a character device.

    Raises:
        OSError: it leads to something that is neither that nor a regular file.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
        raise OSError(errno.EINVAL, "it is a socket or a block device")
    return not stat.S_ISREG(mode)


def _write_through(path: Path, content: bytes, stop: threading.Event) -> None:
    descriptor = _open_stream(path, stop)
    try:
        rest = memoryview(content)
        while rest:
            _check(stop)
            _, writable, _ = select.select([], [descriptor], [], _CHECK_SECONDS)
            if writable:
                with suppress(BlockingIOError):  # it was writable without a reader, and another one has come since
                    rest = rest[os.write(descriptor, rest[: select.PIPE_BUF]) :]
    finally:
        os.close(descriptor)


def _open_stream(path: Path, stop: threading.Event) -> int:
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:  # a FIFO without a reader
                raise
        stop.wait(_CHECK_SECONDS)
        _check(stop)


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise Stopping("ended before it was done")


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"--textfile: {path} cannot be written: {file_problem(error, writing=True)}")

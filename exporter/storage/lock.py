"""One daemon at a time writes a state file: it holds a ``flock`` on a file next to it.

SQLite's own exclusive mode would lock out backups too.
"""

import fcntl
import os
import socket
from pathlib import Path
from typing import Final

from exporter.clock import SYSTEM_CLOCK
from exporter.errors import StateError

SUFFIX: Final = ".lock"
_RETRY_SECONDS: Final = 0.05
"""``lock_owner`` of another process holds a shared lock for a moment; that must not stop a daemon from starting."""


def acquire_lock(path: Path) -> int:
    """Lock the state file *path* and return the descriptor that holds the lock.

    Raises:
        StateError: the lock file cannot be created, or another process holds the lock.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(f"{path}{SUFFIX}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(
            f"state file {path} cannot be created: {error.strerror}; set state_file to a path in a writable folder"
        ) from error
    try:
        _lock_with_retry(descriptor)
    except BlockingIOError as error:
        owner = _read_owner(descriptor)
        os.close(descriptor)
        raise StateError(
            f"state file {path} is locked by {owner}; stop that exporter or set a different state_file"
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise StateError(
            f"state file {path} cannot be locked: {error.strerror}; set state_file to a path on a local disk"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return descriptor


def lock_owner(path: Path) -> str | None:
    """The process that has locked the state file *path*; None if it is not locked."""
    try:
        descriptor = os.open(f"{path}{SUFFIX}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_owner(descriptor)
    finally:
        os.close(descriptor)
    return None


def _lock_with_retry(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        SYSTEM_CLOCK.pause(_RETRY_SECONDS)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read_owner(descriptor: int) -> str:
    return " ".join(os.pread(descriptor, 256, 0).decode(errors="replace").split()) or "another process"

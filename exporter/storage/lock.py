"""One daemon at a time writes a state file, through any path that leads to it.

Two locks are held. A ``flock`` on a file next to the state file also excludes a second daemon while there is no state
file yet, and that file names the process. A lock on the state file itself is found through any symbolic link, hard link
and bind mount, and after the file was renamed. It is an open file description lock on bytes that no database reaches,
so that it does not disturb SQLite's locks on the same file, which exclude backups while a page is being changed. The
number of locked bytes tells the process: the system does not, for this kind of lock.

SQLite's own locks belong to the process: they end when *any* descriptor of the file is closed. So a file that this
process holds is never opened a second time, except by SQLite, which knows about that; and the descriptor with the lock
is closed after SQLite's.
"""

import errno
import fcntl
import os
import socket
import stat
import struct
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import Final

from exporter.clock import SYSTEM_CLOCK
from exporter.errors import StateError
from exporter.storage.diagnosis import permission_advice, why
from exporter.storage.last_path import log_of, remember_path
from exporter.storage.paths import (
    Inode,
    give_to_owner,
    holds_something,
    inode_at,
    inode_of,
    is_gone,
    kind_of,
    real_path,
)

SUFFIX: Final = ".lock"
_RETRY_SECONDS: Final = 0.05
"""``lock_owner`` of another process holds a shared lock for a moment; that must not stop a daemon from starting."""
_LOCK_START: Final = 2**62
"""First locked byte of the state file; SQLite locks some at 2**30."""
_STRUCT_FLOCK: Final = struct.Struct("hhqqi4x")
"""``struct flock``: type, whence, start, length, process."""

_NOT_REGULAR: Final = "is not a regular file; remove it and start again"

_SQLITE_SUFFIXES: Final = ("-journal", "-wal", "-shm")

_held_here: set[Inode] = set()
"""The state files that this process holds."""


class HeldFile:
    """A state file that this process holds.

    Attributes:
        path: where it is, without symbolic links.
        found: what the system says about it at the start.
    """

    def __init__(self, path: Path, lock_file: int, descriptor: int, *, created: bool) -> None:
        """A file that is open as *descriptor* and locked by both; *created*: it did not exist before."""
        self.path = path
        self.found = os.fstat(descriptor)
        self.is_lost = False
        """Whether there was one at the path before, which is gone."""
        self.log_aside: Path | None = None
        """Where the log of that one is now."""
        self._created = created
        self._lock_file = lock_file
        self._descriptor = descriptor
        _held_here.add(inode_of(self.found))

    def header(self, length: int) -> bytes:
        """Its first bytes."""
        return os.pread(self._descriptor, length, 0)

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing: no database has been written to it yet."""
        return os.fstat(self._descriptor).st_size == 0

    def remove_if_unused(self) -> None:
        """Remove the file if :func:`hold` created it and it is still empty: the next start would find no ledger in it.

        SQLite must have closed it before.
        """
        if self._created:
            _remove_if_empty(self.path, self._descriptor)
            if not self.is_lost:  # what it says of an earlier one stays said
                os.ftruncate(self._lock_file, 0)

    def set_log_aside(self) -> None:
        """Keep the log of a lost file, which SQLite would delete: it has the latest commits, if the file is put back.

        Raises:
            StateError: it cannot be renamed.
        """
        log = log_of(self.path)
        if not self._created or not holds_something(log):
            return
        names = chain([f"{log}.lost"], (f"{log}.lost-{number}" for number in count(2)))
        aside = next(Path(name) for name in names if not os.path.lexists(name))
        try:
            log.rename(aside)
        except OSError as error:
            raise StateError(f"{log}, the log of a lost state file, cannot be renamed: {error.strerror}") from error
        self.log_aside = aside

    def remember_path(self) -> bool:
        """Keep its path with it; false if its file system cannot."""
        return remember_path(self._descriptor, self.path)

    def make_private(self) -> None:
        """Let only its owner read and write it."""
        os.fchmod(self._descriptor, 0o600)

    def absence(self) -> str:
        """Why it is no longer at its path, and what to do; empty while it is there."""
        taken = self._keep_lock_file()
        if not is_gone(self.path, inode_of(self.found)):
            return ""
        if taken:
            return f"{taken} has taken its place; stop one of the two exporters"
        if inode_at(self.path) is not None:
            return "another file is in its place; restart the exporter, which then continues with what that file holds"
        if os.fstat(self._descriptor).st_nlink == 0:
            return (
                "it was deleted, but is still open: save it before a restart, or restore a backup, or counters start at"
                " 0; see the runbook of SbgStateNotWritable"
            )
        return (
            "it is no longer at its path; put it back, and the next poll writes it; without it, a restart would count"
            " from 0"
        )

    def _keep_lock_file(self) -> str:
        """Create the lock file again if it was deleted, so that no other process starts at this path meanwhile.

        Returns:
            The process that has already done so, or an empty string.
        """
        if not is_gone(Path(f"{self.path}{SUFFIX}"), inode_of(os.fstat(self._lock_file))):
            return ""
        try:
            fresh = _open_lock_file(self.path, may_create_folder=False)
        except StateError:  # the folder is gone, too
            return ""
        try:
            _lock_with_retry(fresh, self.path)
        except StateError:
            owner = _read_owner(fresh)
            os.close(fresh)
            return owner
        _write_owner(fresh)
        os.close(self._lock_file)
        self._lock_file = fresh
        return ""

    def close(self) -> None:
        """Release it; SQLite must have closed it before."""
        _held_here.discard(inode_of(self.found))
        os.close(self._descriptor)
        os.close(self._lock_file)


def check_regular(path: Path) -> None:
    """Refuse a device, a FIFO, a socket or a folder, without opening it.

    Raises:
        StateError: *path* leads to one of these, or cannot be followed.
    """
    try:
        kind = kind_of(path)
    except OSError as error:
        raise StateError(f"state file {path} cannot be opened: {why(error, path)}") from error
    if kind:
        raise StateError(f"state file {path} is {kind}; set state_file to the path of a regular file on a local disk")
    for suffix in _SQLITE_SUFFIXES:
        _check_companion(Path(f"{real_path(path)}{suffix}"))


def _check_companion(file: Path) -> None:
    """Refuse what is in the place of a file that SQLite creates; opening a FIFO there would wait permanently.

    Raises:
        StateError: *file* exists and is not a regular file.
    """
    try:
        found = file.lstat()
    except OSError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise StateError(f"{file}, a name that SQLite needs, {_NOT_REGULAR}")


def hold(path: Path) -> HeldFile:
    """Lock the state file *path*, and create it empty with mode 0600 if it does not exist.

    Raises:
        StateError: it is no regular file, cannot be opened, or another process holds it; nothing was changed.
    """
    check_regular(path)
    file = real_path(path)
    lock_file = _open_lock_file(file, may_create_folder=not path.is_symlink())
    try:
        _lock_with_retry(lock_file, path)
        descriptor, created = _open_state_file(path, file)
        try:
            _lock_bytes(descriptor, path, file)
            _check_in_place(descriptor, path, file)
            held = HeldFile(file, lock_file, descriptor, created=created)
            held.is_lost = created and _was_used(file)
            held.set_log_aside()
            _write_owner(lock_file)
        except BaseException:
            if created:
                _remove_if_empty(file, descriptor)
            os.close(descriptor)
            raise
        else:
            return held
    except BaseException:
        os.close(lock_file)
        raise


def lock_owner(path: Path) -> str | None:
    """The process that holds the state file *path*; None if none does."""
    file = real_path(path)
    inode = inode_at(file)
    if inode in _held_here:
        return _this_process()
    return _owner_by_lock_file(file) or (None if inode is None or kind_of(file) else _owner_by_lock(file))


def is_lost(path: Path) -> bool:
    """Whether the state file *path* is gone, although an exporter has used it: what that kept next to it is there."""
    file = real_path(path)
    return not os.path.lexists(file) and _was_used(file)


def _was_used(file: Path) -> bool:
    return holds_something(Path(f"{file}{SUFFIX}")) or holds_something(log_of(file))


def check_free(path: Path) -> None:
    """Check that no process holds the state file *path*; creates nothing.

    Raises:
        StateError: one does.
    """
    if owner := lock_owner(path):
        raise _locked_by(owner, path)


def is_held_here(path: Path) -> bool:
    """Whether this process holds the state file *path*."""
    return inode_at(path) in _held_here


# ---- the file next to the state file ----


def _open_lock_file(file: Path, *, may_create_folder: bool) -> int:
    lock = Path(f"{file}{SUFFIX}")
    try:
        if may_create_folder:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise StateError(_unusable(lock, file, error)) from error
    try:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_uid == 0:
            give_to_owner(descriptor, file)
    except BaseException:
        os.close(descriptor)
        raise
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise StateError(f"lock file {lock} {_NOT_REGULAR}")
    return descriptor


def _unusable(lock: Path, file: Path, error: OSError) -> str:
    """What to do about a lock file; a different ``state_file`` helps only where there is no ledger to lose."""
    if error.errno in (errno.ELOOP, errno.EISDIR):
        return f"lock file {lock} {_NOT_REGULAR}"
    if error.errno in (errno.EACCES, errno.EPERM) and os.path.lexists(lock):
        return f"lock file {lock} cannot be opened: {permission_advice(lock)}"
    if os.access(file, os.F_OK):
        return f"lock file {lock} cannot be created: {why(error, file)}"
    return f"state file {file} cannot be created: {why(error, file)}, or set state_file to a path in a writable folder"


def _lock_with_retry(descriptor: int, path: Path) -> None:
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            SYSTEM_CLOCK.pause(_RETRY_SECONDS)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _locked_by(_read_owner(descriptor), path) from error
    except OSError as error:
        raise _not_lockable(path, error) from error


def _write_owner(descriptor: int) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{_this_process()}\n".encode(), 0)
    except OSError:  # on a full disk; the lock holds all the same
        return


def _owner_by_lock_file(file: Path) -> str | None:
    try:
        descriptor = os.open(f"{file}{SUFFIX}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_owner(descriptor)
    finally:
        os.close(descriptor)
    return None


def _read_owner(descriptor: int) -> str:
    return " ".join(os.pread(descriptor, 256, 0).decode(errors="replace").split()) or "another process"


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


# ---- the state file itself ----


def _open_state_file(path: Path, file: Path) -> tuple[int, bool]:
    """Open the file; the second value says whether it was created."""
    if is_held_here(file):
        raise _locked_by(_this_process(), path)
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            descriptor = os.open(file, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return os.open(file, flags), False
        give_to_owner(descriptor, file)
    except OSError as error:
        raise StateError(f"state file {path} cannot be opened: {why(error, file)}") from error
    return descriptor, True


def _remove_if_empty(file: Path, descriptor: int) -> None:
    found = os.fstat(descriptor)
    if found.st_size == 0 and inode_at(file) == inode_of(found):
        with suppress(OSError):
            file.unlink()


def _check_in_place(descriptor: int, path: Path, file: Path) -> None:
    if inode_at(file) != inode_of(os.fstat(descriptor)):
        raise StateError(f"state file {path} was replaced while it was opened; start again")


def _lock_bytes(descriptor: int, path: Path, file: Path) -> None:
    wanted = _STRUCT_FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCK_START, os.getpid(), 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
    except BlockingIOError as error:
        raise _locked_by(_locker_of(descriptor) or _owner_by_lock_file(file) or "another process", path) from error
    except OSError as error:
        raise _not_lockable(path, error) from error


def _owner_by_lock(file: Path) -> str | None:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return _locker_of(descriptor)
    finally:
        os.close(descriptor)


def _locker_of(descriptor: int) -> str | None:
    wanted = _STRUCT_FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCK_START, 1, 0)
    try:
        kind, _, start, length, _ = _STRUCT_FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, wanted))
    except OSError:
        return None
    return None if kind == fcntl.F_UNLCK or start != _LOCK_START else f"process {length}"


def _locked_by(owner: str, path: Path) -> StateError:
    return StateError(
        f"state file {path} is locked by {owner}; stop that exporter; set a different state_file only if this one polls"
        " other accounts, or everything is counted twice"
    )


def _not_lockable(path: Path, error: OSError) -> StateError:
    return StateError(f"state file {path} cannot be locked: {error.strerror}; set state_file to a path on a local disk")

"""Why a state file cannot be used, and what to do about it.

SQLite reports a full disk, a read-only file system and a missing permission alike as an I/O error or as a file that
cannot be opened, and does not pass on the system's own error. So the folder is asked: a small file is created there.
"""

import errno
import os
import pwd
import shlex
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from exporter.storage.last_path import log_of
from exporter.storage.paths import holds_something, real_path
from exporter.storage.schema import RESTORE_ADVICE

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors of a disk without space."""
_PROBE_BYTES: Final = 65536
_PRIMARY: Final = 0xFF
_COMPANIONS: Final = ("", "-wal", "-shm")

_ADVICE: Final = {
    errno.ENOSPC: "the disk is full; free space on that of {folder}",
    errno.EDQUOT: "the disk quota is used up; raise it or free space in {folder}",
    errno.EROFS: "the file system is read-only; mount that of {folder} read-write",
    errno.EIO: "the disk has an input/output error; look into the kernel's log (dmesg)",
    errno.ENOENT: "no such folder; create {folder}, or mount the volume that contains it",
    errno.ENOTDIR: "a part of the path is not a folder; correct state_file",
    errno.ELOOP: "symbolic links lead in a circle; correct them, or state_file",
    errno.EFBIG: "the process may not write larger files; raise its limit (ulimit -f, LimitFSIZE=)",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n, LimitNOFILE=)",
    errno.ENFILE: "too many open files on this machine; close some, or raise fs.file-max",
    errno.ENOMEM: "out of memory; raise the memory limit",
}
_KEEP: Final = {
    errno.ENOSPC: ", and keep the file: it is intact",
    errno.EDQUOT: ", and keep the file: it is intact",
    errno.EIO: " and keep a copy of the file",
}
"""What to do with a file that is not empty."""
_FROM_SQLITE: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EACCES,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
}
"""What an error of SQLite means if the folder shows no other reason."""
_DENIED: Final = (errno.EACCES, errno.EPERM)
_LOCKED: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)


def why(error: OSError | sqlite3.Error, path: Path, *, reading: bool = False) -> str:
    """The reason of *error*, which concerns the state file at the real *path*, and the next step.

    Of a command that is only *reading*, the user is the wrong one, not the owner of the file.
    """
    if isinstance(error, OSError):
        return _why_not(error.errno or 0, path, str(error.strerror or error))
    if is_locked(error):
        return "another program has it locked, such as a sqlite3 shell; end that program"
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
    if code in _FROM_SQLITE:
        number = probe(path.parent) or _FROM_SQLITE[code]
        if reading and number in _DENIED:
            return _as_another_user(_inaccessible(path))
        return _why_not(number, path, str(error))
    return f"{' '.join(str(error).split())}; {restore_advice(path)}"


def restore_advice(path: Path) -> str:
    """What to do about damage to the state file at the real *path*.

    The cause may be a backup that was restored next to an older log, which is gone by the next start.
    """
    return (
        f"{RESTORE_ADVICE}; first stop the exporter and delete {log_of(path).name} and {path.name}-shm, also if a"
        " backup was restored just now"
    )


def is_locked(error: sqlite3.Error) -> bool:
    """Whether another program has locked the database."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY in _LOCKED


def is_full(path: Path) -> bool:
    """Whether the disk with *path* has no space."""
    return probe(path.parent) in FULL


def probe(folder: Path) -> int:
    """The error number of creating a small file in *folder*; 0 if that works. Nothing is left behind."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, _PROBE_BYTES)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def wrong_user(path: Path, *, writing: bool) -> str:
    """Why this process' user may not use the state file *path* of another one, and who may; empty if it may.

    For all commands except `run`: giving them the file would take it away from the exporter. Whether the exporter
    itself may use it, only the exporter can know.
    """
    file = real_path(path)
    mode = os.R_OK | os.W_OK if writing else os.R_OK
    closed = next((each for each in reversed(file.parents) if not _permits(each, os.X_OK)), None)
    if closed is None:
        closed = next((each for each in map(Path, _files_of(file)) if not _permits(each, mode)), None)
    return "" if closed is None or _owner(closed) == os.geteuid() else _as_another_user(closed)


def _permits(path: Path, mode: int) -> bool:
    """Whether *path* does not exist, or this process may use it as *mode* says."""
    return os.access(path, mode) or not os.access(path, os.F_OK)


def _files_of(file: Path) -> Iterator[str]:
    yield from (f"{file}{suffix}" for suffix in _COMPANIONS)


def _owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
    except OSError:
        return None


def _as_another_user(closed: Path) -> str:
    """Who may use *closed*, which this process may not."""
    owner = _owner(closed)
    whose = f"; {closed} belongs to {_name(owner)}" if owner else ""
    return (
        f"permission denied to this user (uid {os.geteuid()}); run the command with `sudo`, or as the user that runs"
        f" the exporter{whose}"
    )


def _name(user: int) -> str:
    """A user's name and number; the number alone if it has no name here."""
    try:
        return f"{pwd.getpwuid(user).pw_name} (uid {user})"
    except KeyError:
        return f"uid {user}"


def permission_advice(path: Path) -> str:
    """How to let this process write the existing *path*, with a command for the shell."""
    missing = _missing_permissions(path)
    if missing:
        return f"permission denied; run `chmod u+{missing} {shlex.quote(str(path))}`"
    return f"permission denied; as root, run `chown {os.geteuid()} {shlex.quote(str(path))}`"


def _missing_permissions(path: Path) -> str:
    """The permissions that this process needs and may give itself; empty if it does not own *path*."""
    try:
        found = path.stat()
    except OSError:
        return ""
    needed = "rwx" if stat.S_ISDIR(found.st_mode) else "rw"
    bits = {"r": stat.S_IRUSR, "w": stat.S_IWUSR, "x": stat.S_IXUSR}
    lacks_some = any(not found.st_mode & bits[each] for each in needed)
    return needed if lacks_some and found.st_uid == os.geteuid() else ""


def _why_not(number: int, path: Path, text: str) -> str:
    if number in _DENIED:
        inaccessible = _inaccessible(path)
        if not os.path.lexists(inaccessible) and os.access(_existing(inaccessible), os.X_OK):
            folder = shlex.quote(str(inaccessible))
            return f"there is no such folder; as root, run `install -d -m 0700 -o {os.geteuid()} {folder}`"
        return permission_advice(inaccessible)
    advice = _ADVICE.get(number, f"{' '.join(text.split())}; check the path, and the disk that it is on")
    return advice.format(folder=path.parent) + (_KEEP.get(number, "") if holds_something(path) else "")


def _existing(folder: Path) -> Path:
    """*folder*, or the closest one above it that exists."""
    return next((each for each in (folder, *folder.parents) if os.path.lexists(each)), folder)


def _inaccessible(path: Path) -> Path:
    """Which file this process may not write: the state file, one that SQLite keeps next to it, or else their folder."""
    files = map(Path, _files_of(path))
    return next(
        (each for each in files if os.access(each, os.F_OK) and not os.access(each, os.R_OK | os.W_OK)), path.parent
    )

"""Files that are replaced in one step, so that no reader ever finds half of one."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from exporter.storage.lock import SUFFIX as LOCK_SUFFIX
from exporter.storage.lock import lock_owner
from exporter.storage.paths import give_to_owner, inode_at, kind_of, real_path

_COMPANIONS: Final = ("-journal", "-wal", "-shm", LOCK_SUFFIX)
"""Suffixes of the files that SQLite and the lock create next to a state file."""


@contextmanager
def atomic_write(
    path: Path,
    *,
    mode: int = 0o600,
    state_file: Path | None = None,
    before_replacing: Callable[[], object] = lambda: None,
) -> Iterator[Path]:
    """An empty file next to *path*, which replaces it when the context ends without an error.

    Both the file and the rename are on disk then. After an error, nothing is left behind.

    Args:
        path: the file to write.
        mode: its permissions.
        state_file: what root writes into the folder of this state file gets its owner.
        before_replacing: called right before the replacement; an error that it raises prevents that.

    Raises:
        OSError: it cannot be written, or *path* is no regular file: a device or FIFO is never replaced.
    """
    if kind := kind_of(path):
        raise OSError(errno.EINVAL, f"it is {kind}")
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        if state_file is not None and real_path(path).parent == real_path(state_file).parent:
            give_to_owner(descriptor, real_path(state_file))
        os.close(descriptor)
        yield temporary
        temporary.chmod(mode)
        _sync(temporary)
        before_replacing()
        temporary.replace(path)
    except BaseException:
        for suffix in ("", *_COMPANIONS):
            with suppress(OSError):
                Path(f"{temporary}{suffix}").unlink()
        raise
    with suppress(PermissionError):  # a folder may be writable but not readable, and then cannot be synced
        _sync(path.parent)


def is_in_use(path: Path, state_file: Path) -> bool:
    """Whether *path* is *state_file*, a state file that a process uses, or a file that belongs to one of these."""
    files = (path, *(Path(str(path).removesuffix(suffix)) for suffix in _COMPANIONS if path.name.endswith(suffix)))
    return any(
        real_path(file) == real_path(state_file)
        or (inode_at(file) is not None and inode_at(file) == inode_at(state_file))
        or lock_owner(file)
        or Path(f"{real_path(file)}-wal").exists()
        for file in files
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

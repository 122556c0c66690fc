"""Under which path a state file was last used.

After a kill, the latest commits are in a write-ahead log next to that path. Through a hard link in another folder, or
after the file was moved without its log, SQLite would not find it: counters would show older values, and later the log
would be mixed with newer pages. A hard link alone does no harm, and programs that save space make some, so it is not
refused. Instead the path is kept with the file itself, as an extended attribute, which its hard links share.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from exporter.storage.paths import holds_something, inode_at

_ATTRIBUTE: Final = "user.sbg_exporter.path"
"""The inode's number, which tells a copy with its attributes from the file, and the path."""


def log_of(file: Path) -> Path:
    """The write-ahead log of a state file."""
    return Path(f"{file}-wal")


def remember_path(descriptor: int, file: Path) -> bool:
    """Keep the real path *file* with the open file; false if its file system cannot."""
    value = b"%d %b" % (os.fstat(descriptor).st_ino, os.fsencode(file))
    try:
        if os.getxattr(descriptor, _ATTRIBUTE) == value:
            return True
    except OSError:
        pass  # there is none yet
    try:
        os.setxattr(descriptor, _ATTRIBUTE, value)
    except OSError:
        return False
    return True


def log_left_behind(file: Path) -> str:
    """Why the real path *file* lacks its latest commits, and what to do; empty if its log is not elsewhere."""
    last = _last_path(file)
    if last is None or last == file or inode_at(last) not in {None, inode_at(file)}:
        return ""
    log = log_of(last)
    if not holds_something(log) or inode_at(log) == inode_at(log_of(file)):  # or else it is the same folder
        return ""
    if inode_at(last) is None:
        return f"was moved without the log of its latest commits; move {log} to {log_of(file)}"
    return f"is the same file as {last}, whose log {log} has its latest commits; use that path instead"


def _last_path(file: Path) -> Path | None:
    with suppress(OSError, ValueError):
        number, _, path = os.getxattr(file, _ATTRIBUTE).partition(b" ")
        if int(number) == file.stat().st_ino:
            return Path(os.fsdecode(path))
    return None

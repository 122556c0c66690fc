"""Who may read a file: not the exporter, because of its mode or that of a folder on the way to it; or too many."""

import grp
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path


def unreadable(error: OSError, path: Path, otherwise: str = "") -> str:
    """Why the file or folder at *path* cannot be read; unless that is for want of permission, *otherwise* if given."""
    if isinstance(error, PermissionError):
        return f"{error.strerror}; {_refusal(path)}"
    return otherwise or error.strerror or str(error)


def _refusal(path: Path) -> str:
    """Whose *path* is, which the process' user may not read, its mode, and who has to be able to read it.

    If a folder on the way to it is the obstacle, this is about that folder.
    """
    obstacle = next((folder for folder in reversed(path.absolute().parents) if not os.access(folder, os.X_OK)), path)
    what, verb = ("it", "read") if obstacle == path else (f"its folder {obstacle}", "enter")
    needed = f"this user (uid {os.geteuid()}) must be able to {verb} it"
    try:
        found = obstacle.stat()
    except OSError:
        return needed
    owner, group = _name(_user, found.st_uid), _name(_group, found.st_gid)
    return f"{what} has owner {owner}, group {group} and mode {stat.S_IMODE(found.st_mode):04o}; {needed}"


def exposure_warning(path: Path, kind: str) -> str | None:
    """A warning if other users can read or write the file at *path*, which is of a *kind* with a secret in it."""
    try:
        found = path.stat().st_mode
    except (OSError, ValueError):  # a ValueError for a path with a null byte
        return None
    mode = stat.S_IMODE(found)
    if stat.S_ISREG(found) and mode & (stat.S_IROTH | stat.S_IWOTH):
        return f"{path}: others can read this {kind} (mode {mode:04o}); chmod o= it"
    return None


def _name(lookup: Callable[[int], str], number: int) -> str:
    try:
        return lookup(number)
    except KeyError:
        return str(number)


def _user(number: int) -> str:
    return pwd.getpwuid(number).pw_name


def _group(number: int) -> str:
    return grp.getgrgid(number).gr_name

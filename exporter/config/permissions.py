"""Why a file may not be read: whose it is and its mode, or that of a folder on the way to it."""

import grp
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path


def refusal(path: Path) -> str:
    """Whose *path* is, which the process' user may not read, its mode, and who has to be able to read it.

    If a folder on the way to it is the obstacle, this is about that folder.
    """
    obstacle = next((folder for folder in reversed(path.absolute().parents) if not os.access(folder, os.X_OK)), path)
    what, verb = ("it", "read") if obstacle == path else (f"its folder {obstacle}", "enter")
    needed = f"the exporter (uid {os.geteuid()}) must be able to {verb} it"
    try:
        found = obstacle.stat()
    except OSError:
        return needed
    owner, group = _name(_user, found.st_uid), _name(_group, found.st_gid)
    return f"{what} has owner {owner}, group {group} and mode {stat.S_IMODE(found.st_mode):04o}; {needed}"


def _name(lookup: Callable[[int], str], number: int) -> str:
    try:
        return lookup(number)
    except KeyError:
        return str(number)


def _user(number: int) -> str:
    return pwd.getpwuid(number).pw_name


def _group(number: int) -> str:
    return grp.getgrgid(number).gr_name

"""The command that called this process, as it can be typed again: for the next steps that commands print."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

_NAME: Final = "sbg-exporter"


def program() -> str:
    """What to type to call this program again: its name if the shell finds it there, else its path."""
    return program_called(sys.argv[0], os.environ.get("PATH"))


def program_called(called: str, path: str | None) -> str:
    """As :func:`program`, for the path that a process was *called* by and the variable PATH."""
    file = Path(called)
    if file.name != _NAME:  # python -m exporter
        return _NAME
    found = shutil.which(_NAME, path=path)
    if found is not None and _is_same(Path(found), file):
        return _NAME
    return shlex.quote(called)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False

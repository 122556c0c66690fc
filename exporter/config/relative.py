"""Paths in a configuration file are relative to it."""

import os
from pathlib import Path


def beside(folder: Path, path: Path | str) -> Path:
    """*path*, from *folder* unless it is absolute, without ``..`` where it leads to the same file without."""
    joined = folder / path
    plain = os.path.normpath(joined)
    try:
        same = os.path.realpath(plain) == os.path.realpath(joined)
    except ValueError:  # a null byte, which is reported elsewhere
        same = False
    return Path(plain) if same else joined

"""What the tests fetch or build once and keep: in ``build/cache``, or in the folder that ``TEST_CACHE`` names.

A run may be killed at any time and several may go on at once. So each thing is made under a name that nobody else has,
and gets its own name when it is complete.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CACHE: Final = Path(os.environ.get("TEST_CACHE") or Path(__file__).parents[1] / "build" / "cache").resolve()


def version(*parts: str | bytes) -> str:
    """A short name for all that something is made from."""
    joined = b"\0".join(part.encode() if isinstance(part, str) else part for part in parts)
    return hashlib.sha256(joined).hexdigest()[:12]


def kept(name: str, version: str, make: Callable[[Path], object]) -> Path:
    """The file or folder *name* in that *version*; *make* makes it at the path it is given, unless it is there.

    Other versions of it, and what was left when making it was interrupted, are removed first.
    """
    path = CACHE / f"{name}-{version}"
    with locked(name):
        if not path.exists():
            for old in CACHE.glob(f"{name}-*"):
                _remove(old)
            fresh = Path(tempfile.mkdtemp(prefix=f"{name}-", suffix=".new", dir=CACHE))
            try:
                make(fresh / name)
                (fresh / name).rename(path)
            finally:
                _remove(fresh)
    return path


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Only one process at a time is in here; the kernel unlocks when it ends, however it does."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove(path: Path) -> None:
    """Remove a file or folder. What cannot be removed stays: it is in nobody's way."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

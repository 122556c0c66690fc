"""A cache of what the tests download or build, in ``build/cache`` or the folder named by ``TEST_CACHE``.

A test run may be killed at any time, and several may run at once. So each entry is created under a unique name and
renamed when it is complete.
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
    """Return a short hash of everything that an entry is built from."""
    joined = b"\0".join(part.encode() if isinstance(part, str) else part for part in parts)
    return hashlib.sha256(joined).hexdigest()[:12]


def kept(name: str, version: str, make: Callable[[Path], object]) -> Path:
    """Return the file or folder *name* in this *version*. If it is missing, call *make* with the path to create.

    Other versions, and remains of interrupted runs, are removed first.
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
    """Hold a lock that only one process has at a time. The kernel releases it even if the process is killed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove(path: Path) -> None:
    """Remove a file or folder. Errors are ignored: remains do no harm."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

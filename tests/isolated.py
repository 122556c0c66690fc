"""Runs a part of a test in a child process: as another user, or with a small disk of its own."""

import ctypes
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests import fault_table

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user or mount a disk")
"""For tests that use :func:`isolated`; the complete test run is root's."""

MOST_FILES: Final = 200
"""How many files and folders fit on a disk of :func:`isolated`."""
STRANGER: Final = 65534
"""User and group without any files."""

_NEW_MOUNTS: Final = 0x20000
_PRIVATE: Final = 1 << 18 | 1 << 14
_READ_ONLY_REMOUNT: Final = 32 | 1


def isolated(
    work: Callable[[], object], *, user: int = 0, groups: tuple[int, ...] = (), disk: Path | None = None
) -> None:
    """Run *work* in a child process and fail if it fails. What it measures of a fault counts for the test.

    Args:
        work: contains the assertions.
        user: its user and group.
        groups: its other groups.
        disk: a folder on which an empty file system of one megabyte is mounted, which only the child sees.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        failure = ""
        try:
            if disk is not None:
                _mount(disk)
            if user:
                os.setgroups(list(groups))
                os.setgid(user)
                os.setuid(user)
            work()
        except BaseException:  # noqa: BLE001  # raised again in the parent
            failure = traceback.format_exc()
        os.write(writer, msgspec.json.encode((failure[-20_000:], fault_table.by_account())))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        failure, measured = msgspec.json.decode(pipe.read(), type=tuple[str, fault_table.ByAccount])
    os.waitpid(child, 0)
    fault_table.add(measured)
    if failure:
        pytest.fail(failure, pytrace=False)


def fill(disk: Path) -> Path:
    """Use up all space of *disk*; the file to delete to have some again."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return ballast
    return ballast


def make_read_only(disk: Path) -> None:
    """Mount the child's *disk* read-only, as the system does after an error of the disk."""
    _call(ctypes.CDLL(None, use_errno=True).mount(None, str(disk).encode(), None, _READ_ONLY_REMOUNT, None))


def _mount(disk: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    _call(libc.unshare(_NEW_MOUNTS))
    _call(libc.mount(b"none", b"/", None, _PRIVATE, None))
    _call(libc.mount(b"tmpfs", str(disk).encode(), b"tmpfs", 0, f"size=1m,mode=777,nr_inodes={MOST_FILES}".encode()))


def _call(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

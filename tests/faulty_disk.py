"""A SQLite under which the disk fails, or the process is killed, at any chosen step.

SQLite reaches the disk through a table of functions, its VFS. :class:`FaultyDisk` puts its own functions in front of
those for writing, truncating, syncing and deleting, and hears of each SQL statement before it runs. Python's audit
hooks tell of what the product does to files itself. No debugger and no compiler is needed, so that this works in any
container. It cannot be undone: use it in a process of its own.
"""

import _sqlite3
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

_FILE_EVENTS: Final = {"open", "os.chmod", "os.chown", "os.rename", "os.remove", "os.truncate", "fcntl.flock"}
_TRACE_STATEMENTS: Final = 1
_KINDS: Final = {0x100: "database", 0x800: "journal", 0x80000: "log"}
"""What a file is for, by SQLite's flags for opening it."""


class Action(StrEnum):
    """What happens at the chosen step."""

    KILL = "kill"
    """The process is killed (SIGKILL)."""
    DISK_FULL = "disk full"
    """This write fails, and so does every later one until :meth:`FaultyDisk.recover`."""
    BROKEN_WRITE = "broken write"
    """This step alone fails (EIO)."""


_CODES: Final = {
    Action.DISK_FULL: {"write": 13, "sync": 1034, "truncate": 1546, "delete": 2570},
    Action.BROKEN_WRITE: {"write": 778, "sync": 1034, "truncate": 1546, "delete": 2570},
}
"""SQLite's error codes."""


class _Vfs(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("version", "file_bytes", "path_bytes")),
        *((name, ctypes.c_void_p) for name in ("next", "name", "data", "open", "delete")),
        ("others", ctypes.c_void_p * 14),
    )


class _FileMethods(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("close", "read", "write", "truncate", "sync")),
        ("others", ctypes.c_void_p * 13),
    )


_Pointer = ctypes.c_void_p
_Open = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, _Pointer, _Pointer, ctypes.c_int, _Pointer)
_Delete = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, _Pointer, ctypes.c_int)
_Write = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, _Pointer, ctypes.c_int, ctypes.c_int64)
_Truncate = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, ctypes.c_int64)
_Sync = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, ctypes.c_int)
_Connected = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, _Pointer, _Pointer)
_Trace = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, _Pointer, _Pointer, _Pointer)


class FaultyDisk:
    """Numbers every step from 1 and acts at one of them.

    Attributes:
        steps: the names of all steps so far: ``statement``, ``log: write``, ``log: half a write``, ``open`` …
    """

    def __init__(self, folder: Path, step: int, action: Action) -> None:
        """Act at this *step* on files in *folder*; 0: never."""
        self.steps: list[str] = []
        self._folder = str(folder)
        self._step = step
        self._action = action
        self._failing = False
        self._watching = True
        self._tables: dict[int, _FileMethods] = {}
        self._kinds: dict[int, str] = {}
        self._kept: list[object] = []
        """What SQLite has pointers to."""
        self._library = ctypes.CDLL(_sqlite3.__file__)
        self._hear_statements()
        self._replace_vfs()
        sys.addaudithook(self._audit)

    def recover(self) -> None:
        """There is space again."""
        self._failing = False

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Neither count steps nor fail until the context ends."""
        self._watching = False
        try:
            yield
        finally:
            self._watching = True

    # ---- steps ----

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FILE_EVENTS and (event == "fcntl.flock" or str(arguments[0]).startswith(self._folder)):
            self._reach(event)

    def _reach(self, name: str) -> bool:
        """Count a step; whether it is the one at which something is to happen. A kill happens here."""
        if not self._watching:
            return False
        self.steps.append(name)
        chosen = len(self.steps) == self._step
        if chosen and self._action is Action.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        return chosen

    def _error(self, file: str, operation: str) -> int:
        """Count a step on the disk; SQLite's code of the error it fails with, 0 for none."""
        if self._reach(f"{file}: {operation}"):
            self._failing = self._action is Action.DISK_FULL
            return _CODES[self._action][operation]
        return _CODES[self._action]["write"] if self._failing and self._watching and operation == "write" else 0

    # ---- in front of SQLite's own functions ----

    def _hear_statements(self) -> None:
        def statement(_what: int, _context: int, _statement: int, _text: int) -> int:
            self._reach("statement")
            return 0

        def connected(db: int, _error: int, _api: int) -> int:
            return int(self._library.sqlite3_trace_v2(_Pointer(db), _TRACE_STATEMENTS, trace, None))

        trace = _Trace(statement)
        extension = _Connected(connected)
        self._kept += [trace, extension]
        self._library.sqlite3_auto_extension(extension)

    def _replace_vfs(self) -> None:
        self._library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        original = self._library.sqlite3_vfs_find(None)
        vfs = _Vfs()
        ctypes.memmove(ctypes.byref(vfs), original, ctypes.sizeof(vfs))
        name = ctypes.create_string_buffer(b"faulty")
        vfs.name = ctypes.addressof(name)
        true_open, true_delete = _Open(vfs.open), _Delete(vfs.delete)

        def open_file(_vfs: int, path: int, file: int, flags: int, out: int) -> int:
            code = true_open(ctypes.addressof(original.contents), path, file, flags, out)
            methods = ctypes.cast(file, ctypes.POINTER(_Pointer))
            if code == 0 and methods.contents.value:
                self._kinds[file] = next((kind for flag, kind in _KINDS.items() if flags & flag), "other file")
                methods.contents.value = ctypes.addressof(self._in_front_of(methods.contents.value))
            return int(code)

        def delete(_vfs: int, path: int, sync: int) -> int:
            return self._error("file", "delete") or int(true_delete(ctypes.addressof(original.contents), path, sync))

        self._kept += [vfs, name, self._installed(vfs, "open", _Open, open_file)]
        self._kept.append(self._installed(vfs, "delete", _Delete, delete))
        self._library.sqlite3_vfs_register(ctypes.byref(vfs), 1)

    def _in_front_of(self, address: int) -> _FileMethods:
        """The functions of a kind of file, with ours in front."""
        if address in self._tables:
            return self._tables[address]
        methods = self._tables[address] = _FileMethods()
        ctypes.memmove(ctypes.byref(methods), address, ctypes.sizeof(methods))
        true_write, true_truncate, true_sync = _Write(methods.write), _Truncate(methods.truncate), _Sync(methods.sync)

        def write(file: int, data: int, size: int, offset: int) -> int:
            kind = self._kinds[file]
            if error := self._error(kind, "write"):
                true_write(file, data, size // 2, offset)  # a disk that is full or broken may take a part of it
                return error
            if self._action is Action.KILL and len(self.steps) + 1 == self._step:
                true_write(file, data, size // 2, offset)
            if self._action is Action.KILL:
                self._reach(f"{kind}: half a write")
            return int(true_write(file, data, size, offset))

        def truncate(file: int, size: int) -> int:
            return self._error(self._kinds[file], "truncate") or int(true_truncate(file, size))

        def sync(file: int, flags: int) -> int:
            return self._error(self._kinds[file], "sync") or int(true_sync(file, flags))

        self._kept.append(self._installed(methods, "write", _Write, write))
        self._kept.append(self._installed(methods, "truncate", _Truncate, truncate))
        self._kept.append(self._installed(methods, "sync", _Sync, sync))
        return methods

    @staticmethod
    def _installed(
        table: ctypes.Structure,
        name: str,
        kind: Callable[[Callable[..., int]], object],
        function: Callable[..., int],
    ) -> object:
        callback = kind(function)
        setattr(table, name, ctypes.cast(callback, _Pointer).value)  # type: ignore[arg-type]  # a function that CFUNCTYPE made
        return callback

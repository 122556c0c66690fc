"""Where ``once --textfile`` writes: files that node_exporter reads, FIFOs and character devices, and nothing else."""

import os
import socket
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from exporter.commands._textfile import check_writable, write
from exporter.errors import ConfigError, ExporterError, OutputError, Stopping
from tests.background import BackgroundTask
from tests.isolated import STRANGER, isolated, needs_root
from tests.waiting import PATIENCE

PAGE = b"sbg_up 1\n" * 50_000
"""Larger than a pipe."""


def put(path: Path, content: bytes = PAGE) -> None:
    check_writable(path)
    write(path, content, threading.Event())


def test_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "sbg.prom"
    path.write_text("old")

    put(path)

    assert path.read_bytes() == PAGE
    assert [each.name for each in tmp_path.iterdir()] == ["sbg.prom"]


def test_file_behind_a_symbolic_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    file, path = tmp_path / "elsewhere" / "page", tmp_path / "sbg.prom"
    file.write_text("old")
    path.symlink_to(file)

    put(path)

    assert path.is_symlink()
    assert file.read_bytes() == PAGE
    assert [each.name for each in file.parent.iterdir()] == ["page"]


@pytest.mark.parametrize("name", ["fifo", "fifo.prom"])
@pytest.mark.parametrize("linked", [False, True])
def test_page_is_written_through_a_fifo(tmp_path: Path, name: str, *, linked: bool) -> None:
    fifo = path = tmp_path / name
    os.mkfifo(fifo)
    if linked:
        path = tmp_path / "link"
        path.symlink_to(fifo)

    with ThreadPoolExecutor() as threads:
        reading = threads.submit(fifo.read_bytes)
        put(path)

        assert reading.result(PATIENCE) == PAGE
    assert stat.S_ISFIFO(fifo.stat().st_mode)


@pytest.mark.fault(
    "`--textfile` to a FIFO that nobody reads, and a signal",
    action="waits, and ends with the signal",
    shown="the end by the signal",
    recovery="a reader",
)
def test_fifo_without_a_reader_is_waited_for_until_a_signal(tmp_path: Path) -> None:
    fifo, stop = tmp_path / "fifo", threading.Event()
    os.mkfifo(fifo)

    with ThreadPoolExecutor() as threads:
        writing = threads.submit(write, fifo, PAGE, stop)
        stop.set()

        with pytest.raises(Stopping):
            writing.result(PATIENCE)


@pytest.mark.fault(
    "the reader of a FIFO stops reading, and a signal",
    action="ends with the signal",
    shown="the end by the signal",
    recovery="it is run again",
)
def test_reader_that_stops_reading_does_not_delay_a_signal(tmp_path: Path) -> None:
    fifo, stop = tmp_path / "fifo", threading.Event()
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    with ThreadPoolExecutor() as threads:
        writing = threads.submit(write, fifo, PAGE, stop)
        stop.set()

        with pytest.raises(Stopping):
            writing.result(PATIENCE)
    os.close(reader)


@pytest.mark.fault(
    "the reader of a FIFO goes away",
    action="gives up",
    shown="one line",
    recovery="it is run again",
)
def test_reader_that_goes_away_is_one_line(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    with ThreadPoolExecutor() as threads:
        writing = threads.submit(put, fifo)
        os.close(reader)

        with pytest.raises(OutputError, match="fifo cannot be written: Broken pipe"), BackgroundReader(fifo):
            writing.result(PATIENCE)


class BackgroundReader:
    """Opens and closes a FIFO until its writer has had a reader."""

    def __init__(self, fifo: Path) -> None:
        self._task = BackgroundTask(partial(self._touch, fifo), every=0)

    @staticmethod
    def _touch(fifo: Path) -> None:
        os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))

    def __enter__(self) -> None:
        self._task.__enter__()

    def __exit__(self, *_: object) -> None:
        self._task.__exit__(None, None, None)


@pytest.mark.fault(
    "`--textfile` to a full device",
    action="gives up; changes no device's mode",
    shown="the reason",
    recovery="another path",
)
def test_devices_are_written_and_keep_their_mode() -> None:
    before = Path("/dev/null").stat().st_mode

    put(Path("/dev/null"))
    with pytest.raises(OutputError, match="/dev/full cannot be written: No space left on device"):
        put(Path("/dev/full"))

    assert Path("/dev/null").stat().st_mode == before
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_terminal_is_written() -> None:
    ours, theirs = os.openpty()

    put(Path(os.ttyname(theirs)), b"sbg_up 1\n")

    assert os.read(ours, 100) == b"sbg_up 1\r\n"
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("name", ["sbg.txt", "sbg", "sbg.prom.tmp", ".prom", "sbg.PROM", "prom"])
@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.fault(
    "`--textfile` with a name that node_exporter ignores",
    action="refuses it; an older file is unchanged",
    shown="one line",
    recovery="a name that ends in `.prom`",
)
def test_name_that_node_exporter_ignores_is_refused(tmp_path: Path, name: str, *, exists: bool) -> None:
    path = tmp_path / name
    if exists:
        path.write_text("old")

    with pytest.raises(
        ConfigError, match=r"--textfile: the name must end in \.prom, or node_exporter ignores the file"
    ):
        put(path)

    assert not exists or path.read_text() == "old"


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "Is a directory"),
        (a_socket, "it is a socket or a block device"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("missing/sbg.prom"), ""),
    ],
)
@pytest.mark.fault(
    "`--textfile` to a folder, a socket or a link to itself",
    action="refuses it, unchanged",
    shown="one line",
    recovery="another path",
)
def test_what_cannot_take_a_page_is_one_line(
    tmp_path: Path, make: Callable[[Path], object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket may not be long
    path = Path("sbg.prom")
    make(path)
    before = path.lstat().st_mode

    if reason:
        with pytest.raises(OutputError, match=f"--textfile: sbg.prom cannot be written: {reason}"):
            put(path)
        assert path.lstat().st_mode == before
    else:  # a link to nothing is replaced, as a file is
        put(path)
        assert path.read_bytes() == PAGE


@pytest.mark.fault(
    "`--textfile` into a missing folder",
    action="refuses it before any request",
    shown="one line",
    recovery="the folder",
)
def test_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"sbg\.prom cannot be written: No such file or directory"):
        check_writable(tmp_path / "missing" / "sbg.prom")


def _refused(path: Path) -> None:
    with pytest.raises(ExporterError, match="cannot be written: Permission denied"):
        check_writable(path)


@needs_root
@pytest.mark.fault(
    "`--textfile` to a path that may not be written",
    action="refuses it before any request",
    shown="one line",
    recovery="the permission",
)
def test_missing_permission_is_one_line_before_any_request(open_folder: Path) -> None:
    os.mkfifo(open_folder / "fifo", mode=0o600)
    (open_folder / "closed").mkdir(mode=0o700)

    for path in (open_folder / "fifo", open_folder / "closed" / "sbg.prom"):
        isolated(partial(_refused, path), user=STRANGER)

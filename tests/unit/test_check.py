"""What ``check`` warns of besides the accounts: the state file of a running exporter, and clocks."""

import io
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from exporter.commands.check import awaited_on, clock_warnings, state_file_warnings
from exporter.logs import NonBlockingStream
from exporter.storage.store import Store
from tests.isolated import fill, isolated, make_read_only, needs_root
from tests.snapshots import STATUS, snapshot


def test_sound_state_file_and_a_missing_one_are_no_warning(state_file: Path) -> None:
    assert list(state_file_warnings(state_file)) == []
    with closing(Store(state_file)):
        assert list(state_file_warnings(state_file)) == []


@pytest.mark.fault(
    "`check` while the running exporter's state file is deleted",
    action="tests the accounts",
    shown="a warning with that exporter's process and the runbook",
    recovery="the runbook's steps",
)
def test_file_deleted_under_a_running_exporter_is_a_warning(state_file: Path) -> None:
    with closing(Store(state_file)):
        state_file.unlink()

        [line] = state_file_warnings(state_file)

    assert "was moved or deleted while process" in line
    assert line.endswith("do not restart it before you have read the runbook of SbgStateNotWritable")


def _warns(spoil: Callable[[Path], object], reason: str, disk: Path) -> None:
    file = disk / "state.db"
    Store(file).close()
    spoil(disk)
    [line] = state_file_warnings(file)
    assert f"its disk {reason}; see" in line
    assert line.endswith("see the runbook of SbgStateNotWritable")


@needs_root
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (fill, "is full (No space left on device), so an exporter may soon count nothing"),
        (make_read_only, "is not writable (Read-only file system), so an exporter counts nothing"),
    ],
)
@pytest.mark.fault(
    "`check` while the state file's disk is full or read-only",
    action="tests the accounts",
    shown="a warning with the reason and the runbook",
    recovery="there is space",
)
def test_disk_that_cannot_be_written_is_a_warning(tmp_path: Path, spoil: Callable[[Path], object], reason: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()

    isolated(partial(_warns, spoil, reason, disk), disk=disk)


@pytest.mark.parametrize(
    ("skew", "says"),
    [
        (None, []),
        (60.0, []),
        (7200.0, ["a: this machine's clock is 7200 s behind the platform's; see the runbook of SbgClockSkew"]),
        (-61.0, ["a: this machine's clock is 61 s ahead of the platform's; see the runbook of SbgClockSkew"]),
    ],
)
def test_clocks_that_differ_by_more_than_a_minute_are_a_warning(skew: float | None, says: list[str]) -> None:
    seen = snapshot(None, account="a", status=replace(STATUS, clock_skew=skew))

    assert list(clock_warnings([seen])) == says


def test_slow_account_is_named_also_without_a_terminal() -> None:
    errors = io.StringIO()

    stream = NonBlockingStream(errors)

    awaited_on(stream)(["lab"])
    stream.close()

    assert errors.getvalue().startswith("sbg-exporter: still waiting for lab; each request is tried up to 3 times")

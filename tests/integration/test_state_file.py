"""The state file of a running daemon is deleted, moved or hidden, or cannot be used at the start."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from exporter.simulator.scripts import JobScript
from exporter.simulator.server import QUIET, RunningSimulator, running
from tests.harness import Account, Daemon, Installation
from tests.isolated import fill, isolated, needs_root
from tests.waiting import eventually

DONE = JobScript(total=3, failed=1, errors={"5001": 1}, queued=0, resolving=0, running=0)
WITHOUT_ERRORS = JobScript(total=3, queued=0, resolving=0, running=0)
FAILURES = "sbg_exporter_state_write_failures_total"
BYTES = "sbg_exporter_state_bytes"


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running(QUIET) as served:
        yield served


def submit(simulator: RunningSimulator) -> None:
    simulator.platform.submit(DONE)
    simulator.platform.advance(60)


def installed(folder: Path, simulator: RunningSimulator) -> Installation:
    place = Installation(
        folder / "etc", Account.at(simulator), settle_after=0, state_file=str(folder / "state/state.db")
    )
    place.state = folder / "state" / "state.db"
    return place


def await_failures(daemon: Daemon) -> None:
    """Wait for failed commits of two polls, each logged once."""
    before = daemon.scrape().value(FAILURES) or 0
    daemon.scrape_when(lambda now: (now.value(FAILURES) or 0) > before)
    daemon.await_polls("sim", 2)
    assert len(daemon.said("state.commit_failed")) == 1, daemon.output()
    assert len(daemon.said("state.file_missing")) <= 1, daemon.output()
    assert "<title>The state file cannot be written" in daemon.get("/").text


@pytest.mark.fault(
    "the state file is deleted while it runs",
    action="creates no other and lets no other process start there; counters stay",
    shown="`state.file_missing`, `sbg_exporter_state_write_failures_total`; no `sbg_exporter_state_bytes`",
    recovery="a backup and a restart",
)
def test_deleted_state_file_is_noticed_and_not_claimed_as_stored(simulator: RunningSimulator, tmp_path: Path) -> None:
    with installed(tmp_path, simulator) as place, place.running() as daemon:
        submit(simulator)
        before = daemon.await_exact("sim", simulator)
        assert [event["file"] for event in daemon.said("state.created")] == [str(place.state)]
        backup = tmp_path / "backup.db"
        assert place.start("state", "backup", str(backup), "--config", str(place.config)).end() == 0
        for each in place.state.parent.iterdir():
            each.unlink()
        submit(simulator)

        await_failures(daemon)

        now = daemon.scrape()
        assert now.value("sbg_files_total", account="sim", operation="copy") == 3
        assert before.value(BYTES) is not None
        assert now.value(BYTES) is None
        [event] = daemon.said("state.file_missing")
        assert str(event["reason"]).endswith(
            "it was deleted, but is still open: save it before a restart, or restore a backup, or counters start at 0;"
            " see the runbook of SbgStateNotWritable"
        )
        second = place.start()
        assert second.end() == 1
        assert f"is locked by process {daemon.pid} on" in second.output()
        assert not place.state.exists()
        assert daemon.stop() == 0


@pytest.mark.fault(
    "the state file is moved while it runs",
    action="keeps it locked there; counters stay",
    shown="`state.file_missing`, `sbg_exporter_state_write_failures_total`",
    recovery="it is put back, without a restart",
)
def test_moved_state_file_is_locked_there_and_goes_on_when_it_is_put_back(
    simulator: RunningSimulator, tmp_path: Path
) -> None:
    away = tmp_path / "state" / "away.db"
    with installed(tmp_path, simulator) as place, place.running() as daemon:
        submit(simulator)
        daemon.await_exact("sim", simulator)
        place.state.rename(away)
        submit(simulator)
        await_failures(daemon)

        second = place.start("run", "--config", str(place.config), "--state-file", str(away))
        assert second.end() == 1
        assert f"away.db is locked by process {daemon.pid}; stop that exporter" in second.output()

        away.rename(place.state)
        daemon.await_exact("sim", simulator)
        eventually(lambda: daemon.said("state.commit_succeeded"), describe=daemon.output)
        assert daemon.stop() == 0
        with place.running() as again:
            again.await_exact("sim", simulator)


@pytest.mark.fault(
    "the state file is moved, and the exporter killed and started again",
    action="counts from 0; keeps the lost file's log aside; `check` creates no file in its place",
    shown="`state.lost`, and a warning of `check`, with the way back",
    recovery="file and log are put back, and a restart",
)
def test_lost_state_file_is_named_and_can_be_put_back(simulator: RunningSimulator, tmp_path: Path) -> None:
    with installed(tmp_path, simulator) as place:
        away, log, aside = (place.state.with_name(name) for name in ("away.db", "state.db-wal", "state.db-wal.lost"))
        with place.running() as daemon:
            submit(simulator)
            before = daemon.await_exact("sim", simulator)
            place.state.rename(away)
            daemon.kill()
        latest = log.read_bytes()

        check = place.start("check", "--config", str(place.config))
        assert check.end() == 0
        assert f"warning: state file {place.state} does not exist, although its lock file shows" in check.stdout
        assert (place.state.exists(), log.read_bytes()) == (False, latest)

        with place.running() as again:
            again.await_polls("sim")
            [lost] = again.said("state.lost")
            assert lost["level"] == "warning"
            assert f"because the state file {place.state} was gone" in again.get("/").text
            assert f"put the file back, and rename {aside} to {log}; see the runbook" in str(lost["next_step"])
            assert again.stop() == 0
        assert aside.read_bytes() == latest
        away.replace(place.state)
        aside.replace(log)
        with place.running() as last:
            scrape = last.await_exact("sim", simulator)
            assert not last.said("state.lost")
            since = "sbg_exporter_counting_since_timestamp_seconds"
            assert scrape.value(since, account="sim") == before.value(since, account="sim")


@pytest.mark.fault(
    "`-wal` is deleted while it runs, and SIGKILL later",
    action="saves all earlier commits into the state file",
    shown="`state.file_missing`",
    recovery="the next poll",
)
def test_deleted_log_loses_nothing_even_after_a_kill(simulator: RunningSimulator, tmp_path: Path) -> None:
    with installed(tmp_path, simulator) as place:
        with place.running() as daemon:
            submit(simulator)
            daemon.await_exact("sim", simulator)
            Path(f"{place.state}-wal").unlink()
            submit(simulator)
            daemon.await_exact("sim", simulator)
            daemon.kill()
            [event] = daemon.said("state.file_missing")
            assert "state.db-wal was deleted while in use; all earlier commits were saved" in str(event["reason"])
        with place.running() as daemon:
            daemon.await_exact("sim", simulator)
            assert daemon.said("ledger.created") == []


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
@pytest.mark.fault(
    "a second daemon on a link to the state file",
    action="exits 1",
    shown="the first one's process",
    recovery="either ends",
)
def test_second_daemon_through_a_link_is_refused(
    simulator: RunningSimulator, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    (tmp_path / "other").mkdir()
    with installed(tmp_path, simulator) as place, place.running() as daemon:
        link(tmp_path / "other" / "state.db", place.state)

        second = place.start("run", "--config", str(place.config), "--state-file", str(tmp_path / "other" / "state.db"))

        assert second.end() == 1
        assert f"is locked by process {daemon.pid}" in second.output()


@pytest.mark.fault(
    "the state file has a histogram with too few buckets",
    action="exits 1",
    shown="the column, in one line",
    recovery="a backup",
)
def test_value_that_no_page_can_show_stops_the_start(simulator: RunningSimulator, tmp_path: Path) -> None:
    with installed(tmp_path, simulator) as place:
        with place.running() as daemon:
            assert daemon.stop() == 0
        with closing(sqlite3.connect(place.state, isolation_level=None)) as db:
            db.execute("UPDATE histogram SET counts = '[1]'")

        daemon = place.start()

        assert daemon.end() == 1
        [line] = daemon.lines
        assert "state.db is damaged: histogram.counts: " in line
        assert "Traceback" not in daemon.output()


# ---- with a disk of its own ----


def _full(folder: Path) -> None:
    disk = folder / "state"
    with running(QUIET) as simulator, installed(folder, simulator) as place:
        with place.running() as daemon:
            submit(simulator)
            before = daemon.await_exact("sim", simulator)
            assert daemon.stop() == 0
        ballast = fill(disk)
        for _ in range(20):
            simulator.platform.submit(WITHOUT_ERRORS)
        simulator.platform.advance(60)
        with place.running() as daemon:
            await_failures(daemon)
            now = daemon.scrape()
            [event] = daemon.said("state.commit_failed")
            assert "the disk is full; free space" in str(event["reason"])
            for name in ("sbg_files_total", "sbg_jobs_finished_total"):
                assert now.series(name) == before.series(name)
            ballast.unlink()
            daemon.await_exact("sim", simulator)
            assert daemon.stop() == 0


@needs_root
@pytest.mark.fault(
    "a start on a full disk",
    action="counters stay; tries again at every poll",
    shown="the committed counters; one `state.commit_failed`",
    recovery="the first poll after there is space",
)
def test_start_on_a_full_disk_shows_what_is_committed_and_goes_on_when_there_is_space(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()

    isolated(partial(_full, tmp_path), disk=tmp_path / "state")


@pytest.mark.fault(
    "`/dev/null` as the state file",
    action="exits 1, with its mode unchanged",
    shown="one line",
    recovery="the path of a regular file",
)
def test_null_device_as_state_file_is_refused(simulator: RunningSimulator, tmp_path: Path) -> None:
    mode = Path("/dev/null").stat().st_mode
    with installed(tmp_path, simulator) as place:
        daemon = place.start("run", "--config", str(place.config), "--state-file", "/dev/null")

        assert daemon.end() == 1
        [line] = daemon.lines
        assert line.startswith("sbg-exporter: state file /dev/null is a character device; set state_file to the path")
    assert Path("/dev/null").stat().st_mode == mode

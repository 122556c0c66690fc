"""What goes wrong with a state file at the start and later: the message, what is lost, and how it goes on."""

import errno
import os
import re
import resource
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import msgspec
import pytest

from exporter.api.allowance import AllowanceKey, SavedAllowance
from exporter.api.models import Job
from exporter.counting.rules import reconcile
from exporter.counting.values import Changes, Ledger, Observations
from exporter.errors import StateError, StateWriteError
from exporter.metrics.exposition import Exposition, Format
from exporter.metrics.snapshot import ExporterStats, SnapshotRegistry
from exporter.storage.diagnosis import why
from exporter.storage.reader import open_read_only
from exporter.storage.store import Store
from tests.clocks import START, ManualClock
from tests.doc_tables import RUNBOOKS
from tests.factories import ENDPOINT
from tests.fault_table import measure
from tests.isolated import MOST_FILES, STRANGER, fill, isolated, make_read_only, needs_root
from tests.ledgers import FEW_BUCKETS, observe_in
from tests.snapshots import DISPLAY

DONE = Job("1", "copy", "finished", 3, 1, 2, START, START + 2, (("5001", 2),))
LATER = Job("2", "move", "finished", 5, 5, 0, START, START + 2)
DISCARDS = ("move the file away", "restore a backup", "different state_file")
"""Advice that would give up a sound ledger."""


def begin(store: Store) -> Ledger:
    ledger = store.create("a", ENDPOINT, "u", "", counting_since=START, local_time=START, rules=FEW_BUCKETS)
    return observe_in(store, ledger, DONE, rules=FEW_BUCKETS, now=START)


def saved(store: Store) -> Ledger | None:
    return store.load_by_name("a", ENDPOINT, "", failed_since=0)


def change(ledger: Ledger, jobs: int = 1) -> Changes:
    some = [msgspec.structs.replace(LATER, id=str(100 + number)) for number in range(jobs)]
    observed = Observations(some, [each.id for each in some])
    return reconcile(ledger, {}, observed, FEW_BUCKETS, local_time=START, server_time=START)


def refused(store: Store, ledger: Ledger, *, jobs: int = 1) -> str:
    """The message of a commit that fails; nothing of it is shown as stored."""
    failures = store.write_failures
    with pytest.raises(StateWriteError) as raised:
        store.commit(ledger.account.number, change(ledger, jobs))
    assert store.write_failures == failures + 1
    assert saved(store) == ledger
    assert "\n" not in str(raised.value)
    return str(raised.value)


def succeeds(store: Store, ledger: Ledger, path: Path) -> None:
    """A commit succeeds and is found at *path* after a restart."""
    after = ledger.after(change(ledger))
    store.commit(ledger.account.number, change(ledger))
    store.close()
    with closing(Store(path)) as again:
        found = saved(again)
        assert found is not None
        measure("a", [found.counters[key].value - count.value for key, count in after.counters.items()])
        assert found == after


# ---- gone from its path while it is in use ----


@pytest.mark.fault(
    "the state file is deleted while it is in use",
    action="creates no other; commits fail",
    shown="what to do, in one line; `sbg_exporter_state_write_failures_total`",
    recovery="the runbook's steps, or a backup, and a restart",
)
def test_deleted_file_is_a_failed_commit_that_asks_for_a_restart(state_file: Path) -> None:
    with closing(Store(state_file)) as store:
        ledger = begin(store)
        for each in state_file.parent.iterdir():
            each.unlink()

        assert refused(store, ledger).endswith(
            "it was deleted, but is still open: save it before a restart, or restore a backup, or counters start at 0;"
            " see the runbook of SbgStateNotWritable"
        )
        assert store.bytes_total is None
    assert not state_file.exists()


@pytest.mark.sources
@pytest.mark.parametrize("gone", ["state.db", "state.db*"])
def test_steps_of_the_runbook_save_a_deleted_file_that_is_still_open(
    state_file: Path, tmp_path: Path, gone: str
) -> None:
    runbook = RUNBOOKS.read_text(encoding="utf-8")
    steps = runbook.partition("\nmkdir -m 0700 /root/saved\n")[2].partition("sbg-exporter state backup")[0]
    steps = steps.replace("$(systemctl show --property MainPID --value sbg-exporter)", str(os.getpid()))
    saved_in = tmp_path / "saved"
    saved_in.mkdir()
    with closing(Store(state_file)) as store:
        ledger = begin(store)
        for each in state_file.parent.glob(gone):
            each.unlink()
        subprocess.run(
            ["sh", "-uc", steps.replace("/root/saved", str(saved_in))], check=False
        )  # descriptors come and go

    assert {each.name for each in saved_in.iterdir()} == {"state.db", "state.db-wal"}
    with closing(Store(saved_in / "state.db")) as found:
        assert saved(found) == ledger


@pytest.mark.fault(
    "another process starts at the path of a deleted state file",
    action="keeps the path locked",
    shown="the first one's process",
    recovery="the first one ends",
)
def test_path_of_a_deleted_file_stays_locked(state_file: Path) -> None:
    with closing(Store(state_file)) as store:
        ledger = begin(store)
        shutil.rmtree(state_file.parent)
        refused(store, ledger)  # without a folder there is nothing to lock
        state_file.parent.mkdir()
        refused(store, ledger)

        with pytest.raises(StateError, match=f"is locked by process {os.getpid()} on"):
            Store(state_file)

    Store(state_file).close()


@pytest.mark.fault(
    "another process took the place of a deleted state file",
    action="commits fail",
    shown="that process",
    recovery="one of the two ends",
)
def test_process_that_took_the_place_of_a_deleted_file_is_named(state_file: Path) -> None:
    with closing(Store(state_file)) as store:
        ledger = begin(store)
        shutil.rmtree(state_file.parent)
        with closing(Store(state_file)):
            message = refused(store, ledger)

    assert message.endswith(
        f"process {os.getpid()} on {socket.gethostname()} has taken its place; stop one of the two exporters"
    )


@pytest.mark.parametrize("whole_folder", [False, True])
@pytest.mark.fault(
    "the state file or its folder is moved while it is in use",
    action="commits fail; goes on in the same file when it is back",
    shown="what to do, in one line",
    recovery="it is put back",
)
def test_moved_file_is_a_failed_commit_until_it_is_put_back(state_file: Path, *, whole_folder: bool) -> None:
    store = Store(state_file)
    ledger = begin(store)
    moved = state_file.parent if whole_folder else state_file
    away = moved.with_name("away")
    moved.rename(away)

    assert "it is no longer at its path; put it back, and the next poll writes it" in refused(store, ledger)

    away.rename(moved)
    succeeds(store, ledger, state_file)


@pytest.mark.fault(
    "the state file is replaced by another while it is in use",
    action="commits fail; does not touch the other file",
    shown="what to do, in one line",
    recovery="a restart",
)
def test_replaced_file_is_a_failed_commit_and_the_other_file_is_unchanged(state_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    Store(other).close()
    with closing(Store(state_file)) as store:
        ledger = begin(store)
        other.replace(state_file)
        content = state_file.read_bytes()

        assert refused(store, ledger).endswith(
            "another file is in its place; restart the exporter, which then continues with what that file holds"
        )

    assert state_file.read_bytes() == content


@pytest.mark.parametrize("suffixes", [("-wal",), ("-shm",), ("-wal", "-shm")])
@pytest.mark.fault(
    "`-wal` or `-shm` is deleted while it is in use",
    action="saves all earlier commits into the state file",
    shown="what was deleted, in one line",
    recovery="the next poll",
)
def test_deleted_log_is_a_failed_commit_and_loses_nothing(state_file: Path, suffixes: tuple[str, ...]) -> None:
    store = Store(state_file)
    ledger = begin(store)
    for suffix in suffixes:
        Path(f"{state_file}{suffix}").unlink()

    message = refused(store, ledger)

    assert f"{' and '.join(f'state.db{each}' for each in suffixes)} was deleted while in use" in message
    assert message.endswith("all earlier commits were saved, and the next poll writes")
    with open_read_only(state_file, lambda: False) as state:
        assert state.ledgers()[0].tracked_jobs == 1
    succeeds(store, ledger, state_file)


@pytest.mark.fault(
    "`-wal` is deleted, and the disk is full",
    action="keeps it open until it can be saved",
    shown="failed commits",
    recovery="there is space",
)
def test_deleted_log_that_cannot_be_saved_is_kept_open(state_file: Path) -> None:
    store = Store(state_file)
    ledger = begin(store)
    Path(f"{state_file}-wal").unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        for _ in range(2):
            refused(store, ledger)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert "all earlier commits were saved" in refused(store, ledger)
    succeeds(store, ledger, state_file)


@pytest.mark.fault(
    "the allowance cannot be saved because the state file was deleted",
    action="goes on",
    shown="`sbg_exporter_state_write_failures_total`",
    recovery="a backup and a restart",
)
def test_failed_save_of_an_allowance_is_counted_when_the_file_is_gone(state_file: Path) -> None:
    with closing(Store(state_file)) as store:
        begin(store)
        state_file.unlink()

        store.save_allowance(AllowanceKey(ENDPOINT, "lab"), SavedAllowance(400, 30, 20, 60.0, 40.0), START)

        assert store.write_failures == 1


def test_failed_save_of_an_allowance_is_reported_once_per_reason(state_file: Path) -> None:
    reported: list[str] = []
    with closing(Store(state_file)) as store, closing(sqlite3.connect(state_file, isolation_level=None)) as other:
        begin(store)
        store.report_unsaved = reported.append
        for statement in ("BEGIN EXCLUSIVE", "SELECT 1", "ROLLBACK", "BEGIN EXCLUSIVE", "ROLLBACK"):
            other.execute(statement)
            store.save_allowance(AllowanceKey(ENDPOINT, "lab"), SavedAllowance(400, 30, 20, 60.0, 40.0), START)

    assert len(reported) == 2
    assert "another program has it locked" in reported[0]


# ---- disks ----


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


def _full_while_running(disk: Path) -> None:
    file = disk / "state.db"
    store = Store(file)
    ledger = begin(store)
    ballast = fill(disk)

    message = refused(store, ledger, jobs=3000)

    says = f"the disk is full; free space on that of {disk}, and keep the file: it is intact"
    assert message.endswith(says)
    with pytest.raises(StateWriteError, match=re.escape(says)):  # although the log has room for a few bytes
        store.test_write()
    ballast.unlink()
    store.test_write()
    assert not store.in_doubt
    succeeds(store, ledger, file)


def _full_at_the_start(disk: Path) -> None:
    file = disk / "state.db"
    with closing(Store(file)) as store:
        ledger = begin(store)
    ballast = fill(disk)

    store = Store(file)

    assert saved(store) == ledger
    assert store.in_doubt
    message = refused(store, ledger, jobs=3000)
    assert "the disk is full" in message
    isolated(partial(_unreadable, file))
    assert not any(each in message for each in DISCARDS)
    ballast.unlink()
    store.commit(ledger.account.number, change(ledger))
    with open_read_only(file, lambda: False) as state:  # as after any start: others may read it
        assert state.ledgers()[0].tracked_jobs == 2
    store.close()
    with closing(Store(file)) as again:
        assert saved(again) == ledger.after(change(ledger))


def _unreadable(file: Path) -> None:
    complaint = r"can be read by process \d+ .* only, until its disk has space again"
    with pytest.raises(StateError, match=complaint), open_read_only(file, lambda: False):
        pytest.fail("it was opened")


def _full_after_a_kill(disk: Path) -> None:
    file = disk / "state.db"
    isolated(partial(_begin_and_die, file))
    fill(disk)

    with closing(Store(file)) as store:
        found = saved(store)
        assert found is not None
        assert found.tracked_jobs == 1
        refused(store, found, jobs=3000)


def _begin_and_die(file: Path) -> None:
    begin(Store(file))  # its write-ahead log stays


def _full_at_the_first_start(disk: Path) -> None:
    file = disk / "state.db"
    ballast = fill(disk)

    with pytest.raises(StateError) as raised:
        Store(file)

    says = f"state file {file} cannot be created: the disk is full; free space on that of {disk}"
    assert str(raised.value) == says
    assert {each.name for each in disk.iterdir()} == {
        "ballast",
        "state.db.lock",
    }  # no empty file that looks like a ledger
    ballast.unlink()
    with closing(Store(file)) as store:
        begin(store)


def _full_with_an_empty_file(disk: Path) -> None:
    file = disk / "state.db"
    file.touch(mode=0o640)
    fill(disk)

    with pytest.raises(StateError) as raised:
        Store(file)

    assert str(raised.value).endswith(f"cannot be created: the disk is full; free space on that of {disk}")
    assert file.stat().st_size == 0  # it was there before


def _without_room_for_a_file(disk: Path) -> None:
    """All inodes are in use, so that not even the lock file can be created."""
    with suppress(OSError):
        for number in range(MOST_FILES):
            (disk / str(number)).touch()

    with pytest.raises(StateError) as raised:
        Store(disk / "state.db")

    assert "the disk is full; free space on that of" in str(raised.value)
    assert "intact" not in str(raised.value)


def _read_only_at_the_start(disk: Path) -> None:
    file = disk / "state.db"
    with closing(Store(file)):
        pass
    make_read_only(disk)

    with pytest.raises(StateError, match=f"the file system is read-only; mount that of {disk} read-write") as raised:
        Store(file)

    assert not any(each in str(raised.value) for each in DISCARDS)


@needs_root
@pytest.mark.parametrize(
    "work",
    [
        _full_while_running,
        _full_at_the_start,
        _full_after_a_kill,
        _full_at_the_first_start,
        _full_with_an_empty_file,
        _without_room_for_a_file,
        _read_only_at_the_start,
    ],
)
@pytest.mark.fault(
    "a disk that is full while it runs, at the start, after a kill or at the first start, or is read-only",
    action="keeps all commits; does not touch the file",
    shown="the fault and what to do, in one line",
    recovery="there is space; the disk is mounted read-write",
)
def test_disk_fault_is_named_and_costs_no_commit(disk: Path, work: Callable[[Path], None]) -> None:
    isolated(partial(work, disk), disk=disk)


# ---- the metrics page ----


def _page(store: Store) -> str:
    exposition = Exposition(
        SnapshotRegistry(("a",)),
        lambda: ExporterStats(store.write_failures, store.tracked_jobs, store.bytes_total, START),
        DISPLAY,
        ManualClock(START).time,
    )
    return exposition.page(Format.TEXT, gzip=False).decode()


def _hidden_folder(folder: Path) -> None:
    file = folder / "state" / "state.db"
    store = Store(file)
    ledger = begin(store)
    file.parent.chmod(0)
    with pytest.raises(PermissionError):
        file.stat()

    page = _page(store)

    assert "sbg_exporter_state_bytes" not in page
    assert "sbg_exporter_state_jobs 1" in page
    store.commit(ledger.account.number, change(ledger))  # the file is where it was
    assert store.write_failures == 0
    file.parent.chmod(0o700)
    assert "sbg_exporter_state_bytes" in _page(store)
    store.close()


@needs_root
@pytest.mark.fault(
    "the state file's folder may not be entered any more",
    action="goes on, with the file that it has open",
    shown="the page without `sbg_exporter_state_bytes`",
    recovery="the folder may be entered",
)
def test_page_is_served_while_the_folder_may_not_be_read(open_folder: Path) -> None:
    isolated(partial(_hidden_folder, open_folder), user=STRANGER)


@pytest.mark.parametrize("remove", [shutil.rmtree, lambda folder: folder.rename(folder.with_name("away"))])
@pytest.mark.fault(
    "the state file's folder is gone",
    action="serves the page",
    shown="the page without `sbg_exporter_state_bytes`",
    recovery="the folder is back",
)
def test_page_is_served_when_the_folder_is_gone(state_file: Path, remove: Callable[[Path], object]) -> None:
    with closing(Store(state_file)) as store:
        begin(store)
        remove(state_file.parent)

        page = _page(store)

    assert "sbg_exporter_state_bytes" not in page
    assert "sbg_exporter_build_info" in page


@pytest.mark.fault(
    "another program, such as a sqlite3 shell, locks the state file",
    action="commits fail",
    shown="what to do, in one line",
    recovery="that program ends",
)
def test_file_that_another_program_locks_is_a_failed_commit(state_file: Path) -> None:
    store = Store(state_file)
    ledger = begin(store)
    with closing(sqlite3.connect(state_file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "another program has it locked, such as a sqlite3 shell; end that program" in refused(store, ledger)
        other.execute("ROLLBACK")
    succeeds(store, ledger, state_file)


@pytest.mark.fault(
    "the disk fails while the state file is read",
    action="gives up the reading",
    shown="one line",
    recovery="a disk that works",
)
def test_error_while_reading_is_one_line(state_file: Path) -> None:
    store = Store(state_file)
    begin(store)
    store._connection.close()  # noqa: SLF001  # as after a disk error

    with pytest.raises(StateError, match=r"state.db cannot be read: "):
        saved(store)

    store.close()


def _sqlite_error(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError("as SQLite says")
    error.sqlite_errorcode = getattr(sqlite3, name)
    return error


@pytest.mark.parametrize(
    ("error", "advice", "gives_up"),
    [
        (OSError(errno.ENOSPC, "x"), "the disk is full; free space on that of", False),
        (OSError(errno.EDQUOT, "x"), "the disk quota is used up; raise it", False),
        (OSError(errno.EROFS, "x"), "the file system is read-only; mount", False),
        (OSError(errno.EACCES, "x"), "permission denied; as root, run `chown", False),
        (OSError(errno.EPERM, "x"), "permission denied; as root, run `chown", False),
        (OSError(errno.EIO, "x"), "the disk has an input/output error; look into the kernel's log", False),
        (OSError(errno.ENOENT, "x"), "no such folder; create", False),
        (OSError(errno.ENOTDIR, "x"), "a part of the path is not a folder", False),
        (OSError(errno.EMFILE, "x"), "too many open files", False),
        (OSError(errno.ENOTSUP, "not supported"), "not supported; check the path", False),
        (_sqlite_error("SQLITE_FULL"), "the disk is full; free space", False),
        (_sqlite_error("SQLITE_IOERR"), "the disk has an input/output error", False),
        (_sqlite_error("SQLITE_IOERR_SHMSIZE"), "the disk has an input/output error", False),
        (_sqlite_error("SQLITE_READONLY"), "permission denied; as root, run `chown", False),
        (_sqlite_error("SQLITE_CANTOPEN"), "permission denied; as root, run `chown", False),
        (_sqlite_error("SQLITE_BUSY"), "another program has it locked", False),
        (_sqlite_error("SQLITE_NOMEM"), "out of memory", False),
        (_sqlite_error("SQLITE_CORRUPT"), "as SQLite says; restore a backup", True),
        (_sqlite_error("SQLITE_NOTADB"), "as SQLite says; restore a backup", True),
        (sqlite3.DatabaseError("two\nlines"), "two lines; restore a backup", True),
    ],
    ids=lambda case: getattr(case, "strerror", None) or str(case)[:20],
)
@pytest.mark.fault(
    "any error of the operating system or of SQLite at the state file",
    action="names it; advises to give up the file only where it is damaged",
    shown="one line with the next step",
    recovery="that step",
)
def test_each_error_has_its_own_next_step(
    tmp_path: Path, error: OSError | sqlite3.Error, advice: str, *, gives_up: bool
) -> None:
    text = why(error, tmp_path / "state.db")

    assert text.startswith(advice)
    assert any(each in text for each in DISCARDS) == gives_up
    assert list(tmp_path.iterdir()) == []


def test_folder_that_does_not_exist_is_made_rather_than_given_away(tmp_path: Path) -> None:
    folder = tmp_path / "a b" / "state"

    text = why(OSError(errno.EACCES, "x"), folder / "state.db")

    assert text == f"there is no such folder; as root, run `install -d -m 0700 -o {os.geteuid()} '{folder}'`"

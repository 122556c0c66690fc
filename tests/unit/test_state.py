"""The ``state`` commands: what they print, what they write, and what they leave unchanged."""

import hashlib
import json
import os
import re
import resource
import socket
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from exporter.api.models import Job
from exporter.commands._state import StateFileOptions, backup, check, export_ledger, forget_ledger, import_ledger, show
from exporter.counting.rules import reconcile
from exporter.counting.values import Ledger, Observations, Rules
from exporter.errors import ConfigError, ExporterError, OutputError, StateError, StateWriteError
from exporter.storage.reader import open_read_only
from exporter.storage.schema import LEDGER
from exporter.storage.store import Store
from exporter.storage.transfer import timestamp
from tests.clocks import START
from tests.ledgers import observe_in

SINCE = START
NOW = SINCE + 5.123456789
RULES = Rules()
ENDPOINT = "https://p/v2"
DONE = Job("1", "copy", "finished", 3, 1, 2, NOW, NOW + 2, (("5001", 2),))
RUNNING = Job("2", "import", "paused", 9, 4, 1, NOW)
OLD = Job("3", "move", "finished", 7, 7, 0, SINCE - 9, SINCE - 8, ())


def never() -> bool:
    return False


def see(store: Store, name: str, *jobs: Job, username: str = "u", division: str = "") -> Ledger:
    """An account's ledger after a full listing of *jobs*."""
    ledger = store.load(name, ENDPOINT, username, division, failed_since=0) or store.create(
        name, ENDPOINT, username, division, counting_since=SINCE, local_time=NOW, rules=RULES
    )
    return observe_in(store, ledger, *jobs, rules=RULES, now=NOW)


@pytest.fixture
def options(tmp_path: Path) -> StateFileOptions:
    """A stopped daemon's state file with two accounts."""
    file = tmp_path / "here" / "state.db"
    with closing(Store(file)) as store:
        see(store, "lab", DONE, RUNNING, OLD)
        see(store, "other", DONE, username="v", division="d")
    return StateFileOptions(file, show_username=True, stop=threading.Event())


@pytest.fixture
def there(tmp_path: Path) -> StateFileOptions:
    """A state file that does not exist yet."""
    return StateFileOptions(tmp_path / "there" / "state.db", show_username=True, stop=threading.Event())


@pytest.fixture
def exported(options: StateFileOptions, tmp_path: Path) -> Path:
    """The ledger of the account ``lab``."""
    file = tmp_path / "lab.ledger"
    export_ledger(options, ["lab"], file, force=False, warn=print)
    return file


def ledger(options: StateFileOptions, name: str = "lab", division: str = "") -> Ledger | None:
    with closing(Store(options.file)) as store:
        return store.load_by_name(name, ENDPOINT, division, failed_since=0)


def ledgers(options: StateFileOptions) -> dict[tuple[str, ...], list[tuple[str, tuple[object, ...]]]]:
    """Everything in the file, by the names that are bound."""
    with options.read() as state:
        return {each.names: list(state.rows(each.account.number)) for each in state.ledgers()}


def edit(options: StateFileOptions, statement: str) -> None:
    with closing(sqlite3.connect(options.file, isolation_level=None)) as db:
        db.execute(statement)


def beside(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


@contextmanager
def full_disk(at: int = 20_000) -> Iterator[None]:
    """Limit every file to *at* bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# ---- show ----


def test_show_prints_the_file_and_each_account(options: StateFileOptions, capsys: pytest.CaptureFixture[str]) -> None:
    size = options.file.stat().st_size

    assert show(options, as_json=False) == 0

    assert capsys.readouterr().out == (
        f"{options.file}\n"
        f"  size        {size / 1024:.1f} KiB\n"
        "  layout      1\n"
        "  locked by   -\n"
        "lab\n"
        "  endpoint    https://p/v2\n"
        "  user        u\n"
        "  since       2026-09-21T14:13:20Z\n"
        "  listed      2026-09-21T14:13:25Z\n"
        "  jobs        3 tracked, 1 unfinished\n"
        "  counted     2 jobs submitted, 1 finished, 12 files, 5 completed, 3 failed, 2 error records\n"
        "  last count  2026-09-21T14:13:25Z\n"
        "other\n"
        "  endpoint    https://p/v2\n"
        "  user        v\n"
        "  division    d\n"
        "  since       2026-09-21T14:13:20Z\n"
        "  listed      2026-09-21T14:13:25Z\n"
        "  jobs        1 tracked, 0 unfinished\n"
        "  counted     1 jobs submitted, 1 finished, 3 files, 1 completed, 2 failed, 2 error records\n"
        "  last count  2026-09-21T14:13:25Z\n"
    )


def test_show_prints_the_same_as_json(options: StateFileOptions, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(options, as_json=True) == 0

    told = json.loads(capsys.readouterr().out)
    assert {**told, "accounts": len(told["accounts"])} == {
        "file": str(options.file),
        "bytes": options.file.stat().st_size,
        "layout": 1,
        "locked_by": None,
        "accounts": 2,
    }
    assert told["accounts"][0] == {
        "names": ["lab"],
        "endpoint": ENDPOINT,
        "username": "u",
        "division": "",
        "counting_since": SINCE,
        "last_full_listing": NOW,
        "last_counted": NOW,
        "jobs_tracked": 3,
        "jobs_unfinished": 1,
        "totals": {
            "sbg_jobs_submitted_total": 2,
            "sbg_jobs_finished_total": 1,
            "sbg_files_total": 12,
            "sbg_files_completed_total": 5,
            "sbg_files_failed_total": 3,
            "sbg_file_errors_total": 2,
        },
    }


@pytest.mark.parametrize("as_json", [True, False])
def test_show_hides_user_names_if_configured(
    options: StateFileOptions, capsys: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    with closing(Store(options.file)) as store:
        see(store, "third", username="a-secret-name")

    show(StateFileOptions(options.file, show_username=False, stop=options.stop), as_json=as_json)

    assert "a-secret-name" not in capsys.readouterr().out


def test_show_prints_the_lock_owner_and_the_last_commit(
    options: StateFileOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(Store(options.file)) as store:
        store.create("new", ENDPOINT, "n", "", counting_since=SINCE, local_time=NOW, rules=RULES)

        assert show(options, as_json=False) == 0

    out = capsys.readouterr().out
    assert f"\n  locked by   process {os.getpid()} on " in out
    assert "\nnew\n" in out
    assert "\n  listed      never completely\n" in out


def test_show_prints_an_account_without_a_name(options: StateFileOptions, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(Store(options.file)) as store:
        store.load("lab", ENDPOINT, "v", "d", failed_since=0)

    show(options, as_json=False)

    assert "\n(bound to no name)\n" in capsys.readouterr().out


def test_reading_sees_the_file_as_of_its_start(options: StateFileOptions, tmp_path: Path) -> None:
    with closing(Store(options.file)) as store:
        with options.read() as state:
            see(store, "lab", DONE, RUNNING, OLD, msgspec.structs.replace(DONE, id="9"))
            state.copy_to(tmp_path / "copy.db", never)
            see(store, "lab", DONE, RUNNING, OLD, msgspec.structs.replace(DONE, id="10"))
            read = [each.tracked_jobs for each in state.ledgers()]
        with open_read_only(tmp_path / "copy.db", never) as copy:
            copied = [each.tracked_jobs for each in copy.ledgers()]

    assert read == copied == [3, 1]


def test_reading_leaves_no_trace(options: StateFileOptions) -> None:
    content, there = options.file.read_bytes(), beside(options.file)

    show(options, as_json=False)
    check(options)

    assert options.file.read_bytes() == content
    assert beside(options.file) == there


def test_reading_needs_no_lock_file(options: StateFileOptions) -> None:
    Path(f"{options.file}.lock").unlink()

    assert show(options, as_json=False) == 0
    assert beside(options.file) == ["state.db"]


def test_reading_fails_if_a_daemon_opens_the_file_meanwhile(options: StateFileOptions) -> None:
    read = options.read()
    read.__enter__()
    with (
        closing(Store(options.file)),
        pytest.raises(StateError, match=r"a daemon opened the state file .* while it was read; try"),
    ):
        read.__exit__(None, None, None)


def test_interrupted_reading_is_an_error(options: StateFileOptions) -> None:
    with closing(Store(options.file)) as store:
        see(store, "lab", *(msgspec.structs.replace(DONE, id=str(n)) for n in range(3000)))
    options.stop.set()

    with pytest.raises(StateError, match="interrupted by a signal"):
        check(options)


# ---- files that cannot be used ----


def text(file: Path) -> None:
    file.write_bytes(b"something else")


def foreign(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE job (id TEXT)")


def newer(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA user_version = 2")


def damaged(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


COMMANDS: dict[str, Callable[[StateFileOptions, Path], int]] = {
    "show": lambda options, _: show(options, as_json=False),
    "check": lambda options, _: check(options),
    "backup": lambda options, folder: backup(options, folder / "copy.db", force=False),
    "export": lambda options, folder: export_ledger(options, ["lab"], folder / "out", force=False, warn=print),
    "import": lambda options, folder: import_ledger(options, folder / "lab.ledger", replace=True, warn=print),
    "forget": lambda options, _: forget_ledger(options, ["lab"], sure=True),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("spoil", [text, foreign, newer, damaged])
def test_unusable_file_is_refused_and_unchanged(
    options: StateFileOptions, exported: Path, command: str, spoil: Callable[[Path], None]
) -> None:
    spoil(options.file)
    content = options.file.read_bytes()

    with pytest.raises(ExporterError, match=r"state\.db|damaged"):
        COMMANDS[command](options, exported.parent)

    assert options.file.read_bytes() == content
    assert beside(exported) == ["here", "lab.ledger"]
    assert not [each for each in options.file.parent.glob("state.db-*") if each.stat().st_size]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "import"])
def test_missing_file_is_not_created(there: StateFileOptions, tmp_path: Path, command: str) -> None:
    with pytest.raises(StateError, match=r"does not exist; pass the exporter's --config or --state-file"):
        COMMANDS[command](there, tmp_path)

    assert not there.file.parent.exists()


def test_folder_is_not_a_state_file(options: StateFileOptions) -> None:
    folder(options.file)

    with pytest.raises(StateError, match="is a folder; set state_file to the path of a regular file"):
        show(options, as_json=False)


@pytest.mark.parametrize(
    "damage", ["histogram SET counts = 'x'", "account SET labels = '7'", "counter SET exemplar = '7'"]
)
def test_undecodable_value_is_reported_in_one_line(options: StateFileOptions, damage: str) -> None:
    edit(options, f"UPDATE {damage}")

    with pytest.raises(StateError, match="a value in the state file cannot be decoded"):
        show(options, as_json=False)


# ---- check ----


def test_check_passes_an_intact_file(options: StateFileOptions, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(options) == 0

    assert capsys.readouterr().out == f"{options.file} is intact: 2 accounts, 4 jobs tracked.\n"


def test_check_passes_a_locked_file(options: StateFileOptions, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(Store(options.file)) as store:
        see(store, "lab", DONE, OLD, msgspec.structs.replace(RUNNING, failed=5))

        assert check(options) == 0

    assert "is intact" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        (
            "UPDATE counter SET value = 1 WHERE account = 1 AND family LIKE '%files_failed%' AND labels LIKE '%copy%'",
            "lab: sbg_files_failed_total (copy) is 1, but the job records add up to 2",
        ),
        (
            "UPDATE counter SET value = 3 WHERE account = 1 AND family LIKE '%files_failed%' AND labels LIKE '%copy%'",
            "lab: sbg_files_failed_total (copy) is 3, but the job records add up to at most 2",
        ),
        (
            "DELETE FROM counter WHERE family = 'sbg_file_errors_total' AND account = 1",
            "lab: sbg_file_errors_total (copy, 5001) is 0, but the job records add up to 2",
        ),
        (
            "UPDATE counter SET value = 8 WHERE family = 'sbg_files_total' AND labels = '[\"move\"]' AND account = 1",
            "lab: sbg_files_total (move) is 8, but the job records add up to at most 7",
        ),
        (
            "UPDATE job SET last_failed = 3 WHERE id = '1' AND account = 2",
            "other: 1 job record with fewer files counted than last observed, for example of job 1",
        ),
        (
            "UPDATE job SET last_total = -1 WHERE id = '2'",
            "job.last_total: 1 invalid value (expected a number of 0 or more)",
        ),
        (
            "UPDATE job SET outcome = 'gone' WHERE id = '3'",
            "job.outcome: 1 invalid value (expected succeeded, partial, failed, incomplete, lost or empty)",
        ),
        (
            "UPDATE job SET unlisted_at = 1 WHERE id = '3'",
            "lab: 1 job record with a listing time in the future, for example of job 3",
        ),
        (
            "UPDATE job SET error_counts = 'all of them' WHERE id = '3'",
            "job.error_counts: 1 invalid value (expected numbers of errors by code, such as 5001:3)",
        ),
        (
            "UPDATE histogram SET counts = '[1, 0]' WHERE account = 2 AND labels = '[\"copy\", \"failed\"]'",
            "histogram.counts: 1 invalid value (expected a number of 0 or more per bound, and one above them)",
        ),
        (
            "UPDATE histogram SET bounds = json_set(bounds, '$[3]', 2) WHERE account = 2 AND labels LIKE '%y%failed%'",
            "histogram.bounds: 1 invalid value (expected a list of increasing numbers of seconds)",
        ),
        (
            'UPDATE histogram SET sum = 7 WHERE account = 2 AND labels = \'["copy", "partial"]\'',
            "other: sbg_job_duration_seconds (copy, partial) has a sum of 7, which contradicts its buckets",
        ),
        (
            "UPDATE histogram SET counts = json_set(counts, '$[0]', 1) WHERE account = 2 AND labels LIKE '%ve%failed%'",
            "other: sbg_job_duration_seconds (move, failed) has 1 observations, but 0 jobs were counted",
        ),
        (
            "UPDATE job SET total = 'many' WHERE id = '1'",
            "job.total: 2 invalid values (expected a number of 0 or more)",
        ),
        ("UPDATE counter SET exemplar = '[1]' WHERE exemplar IS NOT NULL AND account = 2", "counter.exemplar: "),
        (
            "UPDATE account SET labels = '[]' WHERE number = 1",
            "account.labels: 1 invalid value (expected lists of labels by kind)",
        ),
        ("UPDATE binding SET account = 9 WHERE name = 'lab'", "binding: 1 rows belong to a missing account"),
    ],
)
def test_check_prints_one_line_per_inconsistency(
    options: StateFileOptions, capsys: pytest.CaptureFixture[str], statement: str, complaint: str
) -> None:
    edit(options, statement)

    code = check(options)

    lines = capsys.readouterr().out.splitlines()
    assert code == 1
    assert any(line.startswith(complaint) for line in lines), lines


def test_check_reports_negative_histogram_counts(options: StateFileOptions, capsys: pytest.CaptureFixture[str]) -> None:
    edit(options, "UPDATE histogram SET counts = json_set(counts, '$[0]', -1) WHERE account = 1")

    assert check(options) == 1
    assert "histogram.counts: " in capsys.readouterr().out


def test_check_of_a_damaged_file_says_what_to_do_last(
    options: StateFileOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(options, "UPDATE job SET outcome = 'gone' WHERE id = '3'")

    assert check(options) == 1

    name = options.file.name
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"{options.file} is damaged; restore a backup, or move the file away to start with empty counters; first stop"
        f" the exporter and delete {name}-wal and {name}-shm, also if a backup was restored just now"
    )


def test_check_reports_damaged_pages(options: StateFileOptions) -> None:
    with closing(Store(options.file)) as store:
        see(store, "lab", *(msgspec.structs.replace(DONE, id=str(n)) for n in range(500)))
    content = bytearray(options.file.read_bytes())
    content[-8192:] = b"\xff" * 8192
    options.file.write_bytes(content)

    try:
        code = check(options)
    except StateError:
        code = 1

    assert code == 1


def test_check_reports_what_sqlite_finds(options: StateFileOptions, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(options.file, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = replace(sql, '> 0', '>= 0') WHERE name = 'job_failed'")

    assert check(options) == 1
    # Older versions of SQLite say in a second line that the number of entries is wrong.
    assert capsys.readouterr().out.splitlines()[0] == "row 3 missing from index job_failed"


def test_counters_may_exceed_records_once_records_can_expire(options: StateFileOptions) -> None:
    edit(options, "DELETE FROM job WHERE id = '1'")
    assert check(options) == 1

    edit(options, "UPDATE account SET listing_clock = 45 * 86400")
    assert check(options) == 0


def test_check_passes_counted_existing_jobs(there: StateFileOptions) -> None:
    with closing(Store(there.file)) as store:
        begun = store.create("lab", ENDPOINT, "u", "", counting_since=SINCE, local_time=NOW, rules=RULES)
        counting = Rules(history="count")
        changes = reconcile(begun, {}, Observations((OLD, DONE), ("3", "1")), counting, local_time=NOW, server_time=NOW)
        store.commit(begun.account.number, changes)

    assert check(there) == 0


# ---- backup ----


def test_backup_is_a_state_file(options: StateFileOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copies" / "copy.db"
    copy.parent.mkdir()

    assert backup(options, copy, force=False) == 0

    assert capsys.readouterr().out == f"wrote {copy}: 2 accounts, 4 jobs tracked, {_kibi(copy)} KiB.\n"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert beside(copy) == ["copy.db"]
    copied = StateFileOptions(copy, show_username=True, stop=options.stop)
    assert ledgers(copied) == ledgers(options)
    assert ledger(copied) == ledger(options)


def _kibi(file: Path) -> str:
    return f"{file.stat().st_size / 1024:.1f}"


def test_reading_a_backup_leaves_no_files_next_to_it(options: StateFileOptions, tmp_path: Path) -> None:
    copy = tmp_path / "copies" / "copy.db"
    copy.parent.mkdir()
    backup(options, copy, force=False)

    with closing(sqlite3.connect(f"{copy.as_uri()}?mode=ro", uri=True)) as db:
        assert db.execute("SELECT count(*) FROM job").fetchone() == (4,)

    assert beside(copy) == ["copy.db"]


def test_backup_is_consistent_while_the_daemon_writes(options: StateFileOptions, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with closing(Store(options.file)) as store:
        see(store, "lab", DONE, RUNNING, OLD, msgspec.structs.replace(DONE, id="9"))

        assert backup(options, copy, force=False) == 0
        see(store, "lab", DONE, RUNNING, OLD, msgspec.structs.replace(DONE, id="10"))

    assert check(StateFileOptions(copy, show_username=True, stop=options.stop)) == 0
    with open_read_only(copy, never) as state:
        assert [each.tracked_jobs for each in state.ledgers()] == [4, 1]


def test_backup_after_a_kill_has_what_was_committed(options: StateFileOptions, tmp_path: Path) -> None:
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    with closing(Store(options.file)) as store:
        see(store, "lab", DONE, RUNNING, OLD, msgspec.structs.replace(DONE, id="9"))
        for name in ("state.db", "state.db-wal"):
            (crashed / name).write_bytes((options.file.parent / name).read_bytes())
    left = StateFileOptions(crashed / "state.db", show_username=True, stop=options.stop)

    backup(left, tmp_path / "copy.db", force=False)

    with open_read_only(tmp_path / "copy.db", never) as state:
        assert [each.tracked_jobs for each in state.ledgers()] == [4, 1]


def test_backup_overwrites_only_with_force(options: StateFileOptions, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    copy.write_text("precious")

    with pytest.raises(OutputError, match="already exists; --force overwrites it"):
        backup(options, copy, force=False)
    assert copy.read_text() == "precious"

    backup(options, copy, force=True)
    assert check(StateFileOptions(copy, show_username=True, stop=options.stop)) == 0


def test_backup_never_overwrites_the_state_file(options: StateFileOptions) -> None:
    with pytest.raises(OutputError, match="is a state file in use"):
        backup(options, options.file.parent / ".." / "here" / "state.db", force=True)

    assert check(options) == 0


def test_backup_never_overwrites_a_locked_state_file(options: StateFileOptions, there: StateFileOptions) -> None:
    with (
        closing(Store(there.file)),
        pytest.raises(OutputError, match="is a state file in use; choose a different path"),
    ):
        backup(options, there.file, force=True)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("", "Is a directory; pass the path of a file"),
        ("no/copy.db", "No such file or directory; create its folder, or choose another path"),
    ],
)
def test_backup_to_an_unwritable_path_is_one_line(
    options: StateFileOptions, tmp_path: Path, target: str, reason: str
) -> None:
    with pytest.raises(OutputError, match=f"cannot be written: {reason}"):
        backup(options, tmp_path / target, force=True)


def test_backup_to_a_full_disk_keeps_the_older_one(options: StateFileOptions, tmp_path: Path) -> None:
    copy = tmp_path / "copies" / "copy.db"
    copy.parent.mkdir()
    backup(options, copy, force=False)
    before = copy.read_bytes()

    with full_disk(), pytest.raises(OutputError, match=r"cannot be written: .*; nothing was changed"):
        backup(options, copy, force=True)

    assert copy.read_bytes() == before
    assert beside(copy) == ["copy.db"]


def test_backup_of_a_damaged_file_is_refused(options: StateFileOptions, tmp_path: Path) -> None:
    edit(options, "UPDATE job SET total = 'many' WHERE id = '2'")

    with pytest.raises(OutputError, match=r"was not written, because the copy is damaged: job.total: 1 invalid value"):
        backup(options, tmp_path / "copy.db", force=False)

    assert beside(options.file.parent) == ["here"]


def test_size_of_a_large_file_is_printed_in_mib(options: StateFileOptions, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(Store(options.file)) as store:
        see(store, "lab", *(msgspec.structs.replace(DONE, id=f"{n:01000}") for n in range(150)))

    show(options, as_json=False)

    assert re.search(r"^  size        1\.\d MiB$", capsys.readouterr().out, re.MULTILINE)


def test_interrupted_backup_leaves_nothing(options: StateFileOptions, tmp_path: Path) -> None:
    options.stop.set()

    with pytest.raises(StateError, match="interrupted by a signal; nothing was written"):
        backup(options, tmp_path / "copy.db", force=False)

    assert beside(options.file.parent) == ["here"]


def test_copying_pages_can_be_interrupted(options: StateFileOptions, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="interrupted by a signal"), open_read_only(options.file, never) as state:
        state.copy_to(tmp_path / "copy.db", lambda: True)


# ---- export and import ----


def test_export_has_a_header_and_a_checksum(exported: Path) -> None:
    first, *rows, last = exported.read_text().splitlines(keepends=True)

    assert stat.S_IMODE(exported.stat().st_mode) == 0o600
    said = json.loads(first)
    assert (said["format"], said["version"], said["layout"]) == ("sbg-exporter ledger", 1, 1)
    assert (said["names"], said["endpoint"], said["username"], said["division"]) == (["lab"], ENDPOINT, "u", "")
    assert {json.loads(row)[0] for row in rows} == said["columns"].keys()
    assert json.loads(last)["rows"]["job"] == 3
    assert json.loads(last)["sha256"] == hashlib.sha256("".join((first, *rows)).encode()).hexdigest()


def test_exported_ledger_is_imported_exactly(
    options: StateFileOptions, there: StateFileOptions, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert import_ledger(there, exported, replace=False, warn=print) == 0

    assert ledgers(there) == {("lab",): ledgers(options)["lab",]}
    assert ledger(there) == ledger(options)
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"imported into {there.file}: lab, 3 jobs tracked, 2 jobs submitted, 1 finished, 12 files, 5 completed,"
        " 3 failed, 2 error records."
    )


def test_imported_ledger_continues_counting(there: StateFileOptions, exported: Path) -> None:
    import_ledger(there, exported, replace=False, warn=print)

    with closing(Store(there.file)) as store:
        assert store.tracked_jobs == 3
        after = see(store, "lab", DONE, OLD, msgspec.structs.replace(RUNNING, completed=8))

    assert after.counters["sbg_files_completed_total", ("import",)].value == 8
    assert after.counters["sbg_files_completed_total", ("copy",)].value == 1
    assert after.counters["sbg_files_completed_total", ("move",)].value == 0


def test_export_without_a_file_goes_to_standard_output(
    options: StateFileOptions, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()

    export_ledger(options, ["lab"], None, force=False, warn=print)

    lines, before = capsys.readouterr().out.splitlines(), exported.read_text().splitlines()
    assert lines[1:-1] == before[1:-1]


def test_export_of_a_locked_file_warns_that_it_becomes_outdated(options: StateFileOptions, tmp_path: Path) -> None:
    said: list[str] = []

    with closing(Store(options.file)):
        export_ledger(options, ["lab"], tmp_path / "out", force=False, warn=said.append)

    [line] = said
    assert line.startswith(f"the state file is locked by process {os.getpid()} on ")


def test_export_overwrites_only_with_force(options: StateFileOptions, exported: Path) -> None:
    with pytest.raises(OutputError, match="already exists; --force overwrites it"):
        export_ledger(options, ["other"], exported, force=False, warn=print)

    export_ledger(options, ["other"], exported, force=True, warn=print)
    assert json.loads(exported.read_text().splitlines()[0])["names"] == ["other"]


@pytest.mark.parametrize("what", ["", "-wal", "-shm", ".lock"])
def test_output_never_overwrites_a_state_file_or_its_companions(
    options: StateFileOptions, there: StateFileOptions, what: str
) -> None:
    """Without its log, a daemon loses counts; without its lock, a second daemon could start."""
    for file in (options.file, there.file):
        file.parent.mkdir(exist_ok=True)
        with closing(Store(file)) as store:
            before = beside(file)
            target = Path(f"{file}{what}")

            with pytest.raises(OutputError, match="is a state file in use; choose a different path"):
                backup(options, target, force=True)
            with pytest.raises(OutputError, match="is a state file in use; choose a different path"):
                export_ledger(options, ["lab"], target, force=True, warn=print)

            assert beside(file) == before
            see(store, "lab", DONE)
        assert check(StateFileOptions(file, show_username=True, stop=options.stop)) == 0


def test_export_never_overwrites_the_state_file(options: StateFileOptions) -> None:
    with pytest.raises(OutputError, match="is a state file in use"):
        export_ledger(options, ["lab"], options.file, force=True, warn=print)


def test_export_to_a_full_disk_leaves_nothing(options: StateFileOptions, tmp_path: Path) -> None:
    with full_disk(at=1000), pytest.raises(OutputError, match="cannot be written: File too large"):
        export_ledger(options, ["lab"], tmp_path / "out", force=False, warn=print)

    assert beside(options.file.parent) == ["here"]


def test_ledger_with_counts_is_replaced_only_on_request(
    options: StateFileOptions, there: StateFileOptions, exported: Path
) -> None:
    with closing(Store(there.file)) as store:
        see(store, "lab-2", msgspec.structs.replace(DONE, id="77"))
    before = ledgers(there)

    with pytest.raises(StateError, match="already has a ledger of this account with counts; pass --replace"):
        import_ledger(there, exported, replace=False, warn=print)
    assert ledgers(there) == before

    import_ledger(there, exported, replace=True, warn=print)
    assert ledgers(there) == {("lab",): ledgers(options)["lab",]}


def test_ledger_without_counts_is_replaced(options: StateFileOptions, there: StateFileOptions, exported: Path) -> None:
    with closing(Store(there.file)) as store:
        see(store, "lab", OLD)

    import_ledger(there, exported, replace=False, warn=print)

    assert ledgers(there) == {("lab",): ledgers(options)["lab",]}


def test_import_leaves_other_accounts_unchanged(options: StateFileOptions, exported: Path) -> None:
    before = ledgers(options)

    import_ledger(options, exported, replace=True, warn=print)

    assert ledgers(options) == before


def test_import_does_not_take_another_account_s_name(there: StateFileOptions, exported: Path) -> None:
    with closing(Store(there.file)) as store:
        see(store, "lab", DONE, username="another user")
    said: list[str] = []

    import_ledger(there, exported, replace=False, warn=said.append)

    assert said == [f"the name lab stays with another account of {there.file}"]
    assert ledgers(there).keys() == {("lab",), ()}


def test_import_into_a_locked_file_names_the_lock_owner(options: StateFileOptions, exported: Path) -> None:
    with closing(Store(options.file)), pytest.raises(StateError, match=f"is locked by process {os.getpid()} on"):
        import_ledger(options, exported, replace=True, warn=print)


def test_import_to_a_full_disk_changes_nothing(
    there: StateFileOptions, options: StateFileOptions, tmp_path: Path
) -> None:
    with closing(Store(options.file)) as store:
        see(store, "lab", *(msgspec.structs.replace(DONE, id=str(n)) for n in range(3000)))
    with closing(Store(there.file)) as store:
        see(store, "lab", DONE)
    export_ledger(options, ["lab"], tmp_path / "large", force=False, warn=print)
    before = ledgers(there)

    with full_disk(at=100_000), pytest.raises(StateWriteError, match="could not be written"):
        import_ledger(there, tmp_path / "large", replace=True, warn=print)

    assert ledgers(there) == before
    assert check(there) == 0


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines(keepends=True)


def signed(lines: list[str]) -> str:
    """*lines* with the last line that an export of them has."""
    rows: dict[str, int] = {}
    for line in lines[1:]:
        table = json.loads(line)[0]
        rows[table] = rows.get(table, 0) + 1
    last = {"rows": rows, "sha256": hashlib.sha256("".join(lines).encode()).hexdigest()}
    return "".join(lines) + json.dumps(last) + "\n"


def other_header(**changes: object) -> Callable[[list[str]], str]:
    return lambda lines: json.dumps({**json.loads(lines[0]), **changes}) + "\n" + "".join(lines[1:])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda _: "", "it was not written by sbg-exporter state export"),
        (lambda _: "SQLite format 3\0", "it was not written by sbg-exporter state export"),
        (other_header(format="another"), "it was not written by sbg-exporter state export"),
        (other_header(version=2), "it was exported by a newer version of sbg-exporter"),
        (other_header(layout=2), "it was exported by a newer version of sbg-exporter"),
        (other_header(columns={}), "its columns differ from those of this version"),
        (lambda lines: "".join(lines[:-1]), "it is truncated"),
        (lambda lines: "".join(lines)[:-9], "it is damaged: its number of rows or its checksum is wrong"),
        (lambda lines: "".join(lines[:3] + lines[4:]), "it is damaged: its number of rows or its checksum is wrong"),
        (lambda lines: "".join(lines).replace("5001", "5002"), "it is damaged: its number of rows or its checksum"),
        (lambda lines: "".join([lines[0], "[1\n", *lines[1:]]), "it is damaged: a line is not a row of a ledger"),
        (lambda lines: "".join([lines[0], '["job"]\n', *lines[1:]]), "it is damaged: a line is not a row"),
        (lambda lines: "".join([*lines, "more\n"]), "it continues after its last line"),
        (lambda lines: signed(lines[:1]), "it contains no account"),
        (lambda lines: signed([*lines[:2], *lines[1:-1]]), "its rows are not a ledger: UNIQUE constraint failed"),
        (
            lambda lines: signed([line.replace("1790000000.0", '"then"') for line in lines[:-1]]),
            "it is inconsistent: account.counting_since: 1 invalid value",
        ),
        (
            lambda lines: signed([line.replace("1790000000.0", "[]") for line in lines[:-1]]),
            "it is damaged: a line is not a row of a ledger",
        ),
        (
            lambda lines: signed([line for line in lines[:-1] if not line.startswith('["counter"')]),
            "it is inconsistent: lab: sbg_",
        ),
    ],
)
def test_changed_export_is_refused_and_changes_nothing(
    there: StateFileOptions, exported: Path, spoil: Callable[[list[str]], str], reason: str
) -> None:
    exported.write_text(spoil(lines_of(exported)))

    with pytest.raises(StateError) as raised:
        import_ledger(there, exported, replace=False, warn=print)

    assert str(raised.value).startswith(f"{exported} cannot be imported: {reason}")
    assert "\n" not in str(raised.value)
    assert not there.file.exists()


def test_import_of_an_unreadable_file_is_one_line(there: StateFileOptions, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot be read: No such file or directory; check the path"):
        import_ledger(there, tmp_path / "nowhere", replace=False, warn=print)


# ---- forget ----


def test_forget_deletes_one_ledger_and_keeps_the_others(
    options: StateFileOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ledgers(options)["other",]

    assert forget_ledger(options, ["lab"], sure=True) == 0

    assert capsys.readouterr().out.startswith(
        f"deleted the ledger of lab (user u on https://p/v2), which counted last at {timestamp(NOW)}: 3 jobs tracked,"
        " 2 jobs submitted, 1 finished, 12 files,"
    )
    assert ledgers(options) == {("other",): other}
    assert check(options) == 0


def test_forget_without_yes_reports_what_would_be_lost(options: StateFileOptions) -> None:
    before = ledgers(options)

    with pytest.raises(
        ConfigError,
        match=r"this permanently deletes the ledger of lab \(user u on .*: 3 jobs .*; pass --yes to confirm",
    ):
        forget_ledger(options, ["lab"], sure=False)
    with pytest.raises(ConfigError, match=r"the ledger of lab \(a user on https://p/v2\), which counted last at "):
        forget_ledger(replace(options, show_username=False), ["lab"], sure=False)

    assert ledgers(options) == before


def test_forget_refuses_while_an_exporter_may_count_in_the_ledger(options: StateFileOptions) -> None:
    with closing(Store(options.file)), pytest.raises(StateError) as refused:
        forget_ledger(options, ["other"], sure=True)

    owner = f"process {os.getpid()} on {socket.gethostname()}"
    assert str(refused.value) == (
        f"the ledger of other (user v on https://p/v2, division d) was not deleted: state file {options.file} is locked"
        f" by {owner}, which may count in it; stop that exporter, run this again, and start it"
    )
    assert ledgers(options).keys() == {("lab",), ("other",)}


def test_forget_by_a_name_that_two_ledgers_have_had_takes_the_one_that_has_it(options: StateFileOptions) -> None:
    with closing(Store(options.file)) as store:
        for name in ("dup", "lab"):  # a copy of lab was added and removed again
            store.load(name, ENDPOINT, "u", "", failed_since=0)
        store.load("dup", ENDPOINT, "v", "d", failed_since=0)

    assert forget_ledger(options, ["dup"], sure=True) == 0
    assert ledgers(options).keys() == {("lab",)}
    with pytest.raises(StateError, match="no such account"):
        forget_ledger(options, ["dup"], sure=True)


def test_forgotten_account_starts_from_0(options: StateFileOptions) -> None:
    forget_ledger(options, ["lab"], sure=True)

    with closing(Store(options.file)) as store:
        assert store.tracked_jobs == 1
        begun = store.create("lab", ENDPOINT, "u", "", counting_since=SINCE, local_time=NOW, rules=RULES)

    assert {count.value for count in begun.counters.values()} == {0}


# ---- which account ----


@pytest.fixture
def several(options: StateFileOptions) -> StateFileOptions:
    """Besides the two accounts, one in a division of the user ``v``, and one that is bound to no name."""
    with closing(Store(options.file)) as store:
        see(store, "e", username="v", division="e")
        see(store, "nameless", username="w")
        for name in ("nameless", "lab"):  # the account lab had that name for a while
            store.load(name, ENDPOINT, "u", "", failed_since=0)
    return options


@pytest.mark.parametrize(
    ("words", "division"),
    [(["other"], "d"), ([ENDPOINT, "v", "d"], "d"), ([f"{ENDPOINT}/", "v", "e"], "e"), ([ENDPOINT, "u"], "")],
)
def test_account_is_selected_by_name_or_identity(
    several: StateFileOptions, tmp_path: Path, words: list[str], division: str
) -> None:
    export_ledger(several, words, tmp_path / "out", force=False, warn=print)

    assert json.loads(lines_of(tmp_path / "out")[0])["division"] == division


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["labb"], "no such account in {file}; its accounts: lab; other; e; https://p/v2 w"),
        ([ENDPOINT, "x"], "no such account in {file}; its accounts: lab; other; e; https://p/v2 w"),
        ([ENDPOINT, "v"], "several accounts match; use one of: other; e"),
        (["lab", "u"], "no such account in {file}; its accounts: lab; other; e; https://p/v2 w"),
    ],
)
def test_ambiguous_account_lists_the_candidates(several: StateFileOptions, words: list[str], answer: str) -> None:
    with pytest.raises(StateError) as raised:
        forget_ledger(several, words, sure=True)

    assert str(raised.value) == answer.format(file=several.file)


def test_account_candidates_hide_user_names_if_configured(several: StateFileOptions) -> None:
    with pytest.raises(StateError, match=r"its accounts: lab; other; e; https://p/v2 \(user not shown\)$"):
        forget_ledger(StateFileOptions(several.file, show_username=False, stop=several.stop), ["x"], sure=True)


def test_state_file_without_accounts_lists_none(there: StateFileOptions) -> None:
    Store(there.file).close()

    with pytest.raises(StateError, match=r"; its accounts: none$"):
        forget_ledger(there, ["lab"], sure=True)


def test_rows_of_a_ledger_cover_all_tables(options: StateFileOptions) -> None:
    """A table or column that is missing from the export would be lost when an account moves."""
    with closing(sqlite3.connect(options.file)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        columns = {table: [row[1] for row in db.execute(f"PRAGMA table_info({table})")] for table in tables}

    assert tables == {*LEDGER, "allowance", "configured", "retry", "wait_clock"}
    for table, known in LEDGER.items():
        assert sorted(columns[table]) == sorted((*known, "number" if table == "account" else "account"))

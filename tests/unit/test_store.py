"""The state file: what it stores, its lock, and which files it refuses and leaves unchanged."""

import multiprocessing
import os
import resource
import sqlite3
import stat
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from exporter.api.allowance import LONGEST_PAUSE, AllowanceKey, AllowancePool, SavedAllowance
from exporter.api.models import Job
from exporter.counting import values as counting
from exporter.counting.rules import reconcile, reset_changed_histograms
from exporter.counting.values import Changes, Ledger, Observations, Retry, Rules
from exporter.errors import StateError, StateWriteError
from exporter.storage.reader import open_read_only
from exporter.storage.schema import SCHEMA_VERSION
from exporter.storage.store import Store
from tests.clocks import START
from tests.ledgers import observe_in

SINCE = START
NOW = SINCE + 5
HOUR, DAY = 3600.0, 86400.0
RULES = Rules()
ENDPOINT = "https://p/v2"


def begin(store: Store, name: str = "a", username: str = "u", division: str = "") -> Ledger:
    return store.create(name, ENDPOINT, username, division, counting_since=SINCE, local_time=NOW, rules=RULES)


def see(store: Store, ledger: Ledger, *jobs: Job) -> Ledger:
    """Commit one full listing of *jobs*."""
    return observe_in(store, ledger, *jobs, rules=RULES, now=NOW)


NOTHING = Changes({}, (), {}, {}, None, {}, (), 0, 0.0)
LAB = AllowanceKey(ENDPOINT, "lab")
KEPT = SavedAllowance(400, 30, 20, 60.0, 40.0)
FAILED = Job("1", "copy", "finished", 3, 1, 2, NOW, NOW + 2, (("5001", 2),))
RUNNING = Job("2", "import", "paused", 9, 4, 1, NOW)


def test_committed_values_are_loaded_unchanged(store: Store, state_file: Path) -> None:
    ledger = see(store, begin(store), FAILED, RUNNING)
    store.commit(ledger.account.number, reset_changed_histograms(ledger, RULES, NOW))
    size = store.bytes_total
    store.close()

    again = Store(state_file)
    try:
        assert again.load_by_name("a", ENDPOINT, "", failed_since=0) == ledger
        assert again.tracked_jobs == 2
        assert size is not None
        assert 0 < (again.bytes_total or 0) <= size
    finally:
        again.close()
        store.__init__(state_file)  # type: ignore[misc]  # for the fixture to close


def test_state_file_has_mode_0600(store: Store, state_file: Path) -> None:
    begin(store)

    assert {stat.S_IMODE(each.stat().st_mode) for each in state_file.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(state_file.parent.stat().st_mode) == 0o700


def test_permissions_of_an_existing_file_are_tightened(state_file: Path) -> None:
    Store(state_file).close()
    state_file.chmod(0o644)

    Store(state_file).close()

    assert stat.S_IMODE(state_file.stat().st_mode) == 0o600


def test_second_process_is_refused_and_names_the_lock_owner(store: Store, state_file: Path) -> None:
    begin(store)

    with pytest.raises(StateError, match=rf"is locked by process {os.getpid()} on \S+; stop that exporter"):
        Store(state_file)


@pytest.mark.fault(
    "the process that holds the lock dies",
    action="the kernel drops the lock",
    shown="nothing",
    recovery="the next start",
)
def test_lock_is_released_when_its_owner_dies(state_file: Path) -> None:
    owner = multiprocessing.get_context("spawn").Process(target=_hold_and_die, args=(state_file,))
    owner.start()
    owner.join()

    Store(state_file).close()

    assert owner.exitcode == 9


def _hold_and_die(state_file: Path) -> None:
    Store(state_file)
    os._exit(9)


def test_ledger_belongs_to_an_identity_not_to_a_name(store: Store) -> None:
    ledger = see(store, begin(store), FAILED)
    begin(store, "b", division="d")

    renamed = store.load("new name", ENDPOINT, "u", "", failed_since=0)

    assert renamed == ledger
    assert store.load("c", ENDPOINT, "another user", "", failed_since=0) is None
    assert store.load_by_name("new name", ENDPOINT, "", failed_since=0) == ledger
    assert store.load_by_name("new name", ENDPOINT, "d", failed_since=0) is None
    assert store.load_by_name("never bound", ENDPOINT, "", failed_since=0) is None


def names_in(state_file: Path) -> dict[str, tuple[str, ...]]:
    """User to the names of the ledger."""
    with open_read_only(state_file, lambda: False) as state:
        return {each.account.username: each.names for each in state.ledgers()}


def test_a_ledger_has_the_one_name_that_its_account_has_now(store: Store, state_file: Path) -> None:
    for name, user in (("lab5", "u"), ("lab6", "v")):
        begin(store, name, user)
    for name in ("dup", "lab5", "a copy of it", "lab6", "six"):  # lab6 was added for the user u, and removed again
        store.load(name, ENDPOINT, "u", "", failed_since=0)
    assert names_in(state_file) == {"u": ("six",), "v": ()}
    assert store.load_by_name("dup", ENDPOINT, "", failed_since=0) is None

    store.load("lab6", ENDPOINT, "v", "", failed_since=0)

    assert names_in(state_file) == {"u": ("six",), "v": ("lab6",)}
    assert store.names() == {"six": (ENDPOINT, "u", ""), "lab6": (ENDPOINT, "v", "")}


def test_of_several_names_that_an_earlier_version_gave_the_latest_comes_first(store: Store, state_file: Path) -> None:
    number = begin(store, "lab6").account.number
    for name in ("six", "a first attempt"):
        store._db.execute("INSERT INTO binding VALUES (?, ?)", (name, number))  # noqa: SLF001  # as that version did

    assert names_in(state_file) == {"u": ("a first attempt", "six", "lab6")}
    store.load("six", ENDPOINT, "u", "", failed_since=0)
    assert names_in(state_file) == {"u": ("six",)}


def test_accounts_do_not_share_job_records(store: Store) -> None:
    first = see(store, begin(store), FAILED)
    second = begin(store, "b", username="v")

    assert store.records(second.account.number, ["1"]) == {}
    assert [record.id for record in store.no_longer_listed(first.account.number, [])] == ["1"]
    assert store.no_longer_listed(second.account.number, []) == []


def test_records_are_found_for_any_number_of_ids(store: Store) -> None:
    jobs = [msgspec.structs.replace(RUNNING, id=str(n)) for n in range(2500)]
    ledger = see(store, begin(store), *jobs)

    found = store.records(ledger.account.number, [job.id for job in jobs] + ["unknown"])

    assert len(found) == 2500
    assert store.tracked_jobs == ledger.tracked_jobs == 2500


def test_records_unlisted_for_45_days_are_expirable(store: Store) -> None:
    ledger = see(store, begin(store), FAILED)
    ledger = see(store, ledger)

    assert store.expirable(ledger.account.number, counting.FORGET_AFTER - 1) == []
    assert [record.id for record in store.expirable(ledger.account.number, counting.FORGET_AFTER)] == ["1"]


def test_forgotten_records_are_deleted(store: Store) -> None:
    ledger = see(store, begin(store), FAILED)
    nothing = reconcile(ledger, {}, Observations((), ()), RULES, local_time=NOW, server_time=NOW)

    store.commit(ledger.account.number, replace(nothing, forgotten=["1"]))

    assert store.records(ledger.account.number, ["1"]) == {}
    assert store.tracked_jobs == 0


def test_failed_jobs_outside_the_window_are_not_loaded(store: Store) -> None:
    see(store, begin(store), FAILED)

    later = store.load_by_name("a", ENDPOINT, "", failed_since=NOW + 2.5)

    assert later is not None
    assert later.failed == {}


def test_incomplete_and_lost_jobs_are_loaded_as_they_were_in_memory(store: Store) -> None:
    ledger = see(store, begin(store), FAILED, RUNNING)
    endings = {"1": "incomplete", "2": "lost"}
    ended = {
        job_id: msgspec.structs.replace(each, outcome=endings[job_id], last_progress_at=NOW + 1, finished_on=None)
        for job_id, each in store.records(ledger.account.number, endings).items()
    }
    nothing = reconcile(ledger, {}, Observations((), ()), RULES, local_time=NOW, server_time=NOW)
    changes = replace(nothing, records=ended, failed_since=NOW)
    store.commit(ledger.account.number, changes)

    loaded = [store.load_by_name("a", ENDPOINT, "", failed_since=NOW + since) for since in (0, 1, 1.5)]

    assert ledger.after(changes).incomplete_or_lost == ended
    assert [each and each.incomplete_or_lost for each in loaded] == [ended, ended, {}]
    assert ledger.after(replace(changes, failed_since=NOW + 1.5)).incomplete_or_lost == {}


@pytest.mark.fault(
    "a commit fails halfway",
    action="rolls it back",
    shown="the ledger before the commit",
    recovery="the next commit",
)
def test_failed_commit_writes_nothing_and_can_be_retried(store: Store) -> None:
    ledger = begin(store)
    jobs = {str(n): msgspec.structs.replace(FAILED, id=str(n)) for n in range(3000)}
    changes = reconcile(ledger, {}, Observations(jobs.values(), jobs.keys()), RULES, local_time=NOW, server_time=NOW)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StateWriteError, match="could not be written"):
            store.commit(ledger.account.number, changes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert store.write_failures == 1
    assert store.load_by_name("a", ENDPOINT, "", failed_since=0) == ledger
    store.commit(ledger.account.number, changes)
    assert store.load_by_name("a", ENDPOINT, "", failed_since=0) == ledger.after(changes)


@pytest.mark.fault(
    "killed while it creates the tables",
    action="creates them at the next start",
    shown="nothing was counted yet",
    recovery="the next start",
)
def test_interrupted_creation_of_the_tables_is_repeated(state_file: Path) -> None:
    state_file.parent.mkdir()
    state_file.touch()

    store = Store(state_file)

    begin(store)
    store.close()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"not a database", "is not a state file of sbg-exporter"),
        (b"SQLite format 3\0" + bytes(84), "is a database of another program"),
    ],
)
def test_file_of_another_program_is_refused_and_unchanged(state_file: Path, content: bytes, complaint: str) -> None:
    state_file.parent.mkdir()
    state_file.write_bytes(content)
    state_file.chmod(0o644)

    with pytest.raises(StateError, match=complaint):
        Store(state_file)

    assert state_file.read_bytes() == content
    assert stat.S_IMODE(state_file.stat().st_mode) == 0o644
    assert sorted(each.name for each in state_file.parent.iterdir()) == ["state.db", "state.db.lock"]


@pytest.mark.fault(
    "a state file of a newer version",
    action="refuses it, unchanged",
    shown="the version that wrote it",
    recovery="that version, or a backup",
)
def test_newer_state_file_is_refused_and_unchanged(state_file: Path) -> None:
    Store(state_file).close()
    with sqlite3.connect(state_file) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    content = state_file.read_bytes()

    with pytest.raises(StateError, match=r"newer version of sbg-exporter .* run that version"):
        Store(state_file)

    assert state_file.read_bytes() == content


def test_damaged_state_file_is_refused(state_file: Path) -> None:
    store = Store(state_file)
    see(store, begin(store), *(msgspec.structs.replace(FAILED, id=str(n)) for n in range(500)))
    store.close()
    content = bytearray(state_file.read_bytes())
    content[8192:40960] = b"\xff" * (40960 - 8192)
    state_file.write_bytes(content)

    with pytest.raises(StateError, match="restore a backup"):
        Store(state_file)


@pytest.mark.fault(
    "a state file without tables",
    action="refuses it",
    shown="what is missing",
    recovery="a backup",
)
def test_state_file_without_tables_is_refused(state_file: Path) -> None:
    Store(state_file).close()
    with sqlite3.connect(state_file) as db:
        db.execute("DROP TABLE job")
    db.close()

    with pytest.raises(StateError, match="no such table: job; restore a backup"):
        Store(state_file)


def test_two_accounts_of_one_identity_share_a_ledger(store: Store) -> None:
    first, second = begin(store, "a"), begin(store, "b")

    assert first == second
    assert store.write_failures == 0


@pytest.mark.fault(
    "a state file's path that cannot be written",
    action="refuses it",
    shown="the path",
    recovery="a writable folder",
)
def test_unwritable_path_is_refused(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()

    with pytest.raises(StateError, match="a part of the path is not a folder; correct state_file"):
        Store(blocked / "state.db")


def test_folder_is_not_a_state_file(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="is a folder; set state_file to the path of a regular file"):
        Store(tmp_path)


def test_backup_works_while_the_file_is_locked(store: Store, state_file: Path, tmp_path: Path) -> None:
    see(store, begin(store), FAILED)
    backup = sqlite3.connect(tmp_path / "backup.db")
    source = sqlite3.connect(f"file:{state_file}?mode=ro", uri=True)

    source.backup(backup)

    assert backup.execute("SELECT count(*) FROM job").fetchone() == (1,)
    source.close()
    backup.close()


# ---- allowances ----


def test_saved_allowance_is_loaded_unchanged(store: Store) -> None:
    store.save_allowance(LAB, KEPT, NOW)

    assert store.allowance(LAB, NOW) == KEPT


def test_allowance_that_was_never_saved_is_none(store: Store) -> None:
    assert store.allowance(LAB, NOW) is None


def test_allowance_times_advance_during_downtime(store: Store) -> None:
    store.save_allowance(LAB, KEPT, NOW)

    assert store.allowance(LAB, NOW + 50) == SavedAllowance(400, 30, 20, 10.0, 0.0)


def test_last_saved_allowance_replaces_earlier_ones(store: Store) -> None:
    store.save_allowance(LAB, KEPT, NOW)

    store.save_allowance(LAB, SavedAllowance(None, 1, 0, 300.0, 0.0), NOW)

    assert store.allowance(LAB, NOW) == SavedAllowance(None, 1, 0, 300.0, 0.0)


@pytest.mark.parametrize(
    "other",
    [AllowanceKey("https://q/v2", "lab"), AllowanceKey(ENDPOINT, "other"), AllowanceKey(ENDPOINT, "lab", "a")],
    ids=str,
)
def test_every_key_has_its_own_allowance(store: Store, other: AllowanceKey) -> None:
    store.save_allowance(LAB, KEPT, NOW)

    store.save_allowance(other, SavedAllowance(1, 1, 1, 1.0, 1.0), NOW)

    assert store.allowance(LAB, NOW) == KEPT
    assert store.allowance(other, NOW) == SavedAllowance(1, 1, 1, 1.0, 1.0)


@pytest.mark.fault(
    "the clock is put back by {put_back:g} s while a pause is saved",
    action="stores the pause as a duration",
    shown="the pause that is left",
    recovery="the end of that pause",
    part="Clocks",
)
@pytest.mark.parametrize("put_back", [1.0, HOUR, 2 * HOUR, 10 * DAY])
def test_clock_put_back_prolongs_neither_the_window_nor_a_pause(store: Store, put_back: float) -> None:
    store.save_allowance(LAB, KEPT, NOW)

    assert store.allowance(LAB, NOW - put_back) == KEPT


@pytest.mark.parametrize("put_back", [2 * HOUR, 10 * DAY])
def test_allowance_without_a_pause_is_not_a_pause_after_the_clock_was_put_back(store: Store, put_back: float) -> None:
    store.save_allowance(LAB, SavedAllowance(400, 30, 20, 60.0, 0.0), NOW)

    saved = store.allowance(LAB, NOW - put_back)

    assert saved is not None
    assert saved.pause_left == 0


def test_crash_loop_after_the_clock_was_put_back_ends_the_pause_and_the_window_in_time(state_file: Path) -> None:
    first = Store(state_file)
    first.save_allowance(LAB, KEPT, NOW)
    first.close()

    left = []
    for restart in range(4):
        store = Store(state_file)
        saved = store.allowance(LAB, NOW - 10 * DAY + 20 * restart)
        assert saved is not None
        left.append((saved.window_left, saved.pause_left))
        store.close()

    assert left == [(60, 40), (40, 20), (20, 0), (0, 0)]


@pytest.mark.parametrize("ahead", [2 * HOUR, 10 * DAY])
def test_clock_ahead_ends_a_pause_at_once(store: Store, ahead: float) -> None:
    store.save_allowance(LAB, KEPT, NOW)

    saved = store.allowance(LAB, NOW + ahead)

    assert saved is not None
    assert saved.pause_left == 0
    assert saved.window_left < 0


def test_no_stored_pause_exceeds_the_longest_one(store: Store) -> None:
    store.save_allowance(LAB, SavedAllowance(400, 30, 20, 60.0, 1e9), NOW)

    saved = store.allowance(LAB, NOW)

    assert saved is not None
    assert saved.pause_left == LONGEST_PAUSE


@pytest.mark.parametrize("put_back", [0.0, 2 * HOUR, 10 * DAY])
def test_allowance_of_an_older_file_is_no_pause_whatever_the_clock_showed(state_file: Path, put_back: float) -> None:
    older = Store(state_file)
    older.close()
    with sqlite3.connect(state_file) as db:
        db.executescript(
            "DROP TABLE allowance; CREATE TABLE allowance (endpoint TEXT NOT NULL, username TEXT NOT NULL,"
            " entry TEXT NOT NULL, rate_limit INTEGER, used INTEGER NOT NULL, slices INTEGER NOT NULL,"
            " window_ends REAL NOT NULL, paused_until REAL NOT NULL, PRIMARY KEY (endpoint, username, entry))"
            " WITHOUT ROWID;"
        )
        db.execute("INSERT INTO allowance VALUES (?, ?, ?, 400, 30, 20, ?, ?)", (*LAB, NOW + 60, NOW))
    db.close()

    store = Store(state_file)
    try:
        assert store.allowance(LAB, NOW - put_back) == SavedAllowance(400, 30, 20, 60.0, 0.0)
        store.save_allowance(LAB, KEPT, NOW)
        assert store.allowance(LAB, NOW) == KEPT
    finally:
        store.close()


def test_allowance_survives_a_restart(state_file: Path) -> None:
    first = Store(state_file)
    first.save_allowance(LAB, KEPT, NOW)
    first.close()

    second = Store(state_file)

    assert second.allowance(LAB, NOW) == KEPT
    second.close()


@pytest.mark.fault(
    "SIGKILL after requests",
    action="remembers the requests of this window",
    shown="the requests used",
    recovery="none needed",
)
def test_allowance_survives_a_kill(state_file: Path) -> None:
    killed = multiprocessing.get_context("spawn").Process(target=_keep_and_die, args=(state_file,))
    killed.start()
    killed.join()

    store = Store(state_file)

    assert store.allowance(LAB, NOW) == KEPT
    store.close()


def _keep_and_die(state_file: Path) -> None:
    Store(state_file).save_allowance(LAB, KEPT, NOW)
    os._exit(9)


@pytest.mark.parametrize("wrong_by", [-3600.0, 0.0, 3600.0])
def test_repeated_restarts_do_not_exceed_one_share(state_file: Path, wrong_by: float) -> None:
    made = 0
    for restart in range(12):
        now = NOW + wrong_by + 20 * restart
        store = Store(state_file)
        allowances = AllowancePool(
            0.01,
            saved=lambda key, store=store, now=now: store.allowance(key, now),  # type: ignore[misc]  # bound early
            save=lambda key, saved, store=store, now=now: store.save_allowance(key, saved, now),  # type: ignore[misc]  # bound early
        )
        made += sum(allowances.of(LAB, 5.0).take(5.0) == 0 for _ in range(3))
        store.close()

    assert made == 10


@pytest.mark.parametrize("table", ["allowance", "retry"])
@pytest.mark.fault(
    "a state file of an earlier version, without allowances or retries",
    action="adds the table",
    shown="the same counters",
    recovery="none needed",
)
def test_file_without_a_later_table_gets_it_and_keeps_its_ledger(state_file: Path, table: str) -> None:
    older = Store(state_file)
    ledger = see(older, begin(older), FAILED, RUNNING)
    older.close()
    with sqlite3.connect(state_file) as db:
        db.execute(f"DROP TABLE {table}")
    db.close()

    store = Store(state_file)
    store.save_allowance(LAB, KEPT, NOW)
    store.commit(ledger.account.number, replace(NOTHING, retries={"1": Retry(3, 7.5)}))
    ledger = replace(ledger, retries={"1": Retry(3, 7.5)})

    assert store.allowance(LAB, NOW) == KEPT
    assert store.load_by_name("a", ENDPOINT, "", failed_since=0) == ledger
    store.close()


def test_accounts_in_use_are_kept_and_those_missing_are_known_at_once(store: Store, state_file: Path) -> None:
    store.use(lambda before: {"a": None, "b": NOW} if not before else {})
    assert store.missing == {"b": NOW}
    assert kept_in(state_file) == {"a": None, "b": NOW}

    store.use(dict.fromkeys)

    assert store.missing == {}
    assert kept_in(state_file) == {"a": None, "b": None}
    store.close()
    again = Store(state_file)
    again.use(lambda before: {**before, "c": NOW})
    assert again.missing == {"c": NOW}
    again.close()
    store.__init__(state_file)  # type: ignore[misc]  # for the fixture to close


def kept_in(file: Path) -> dict[str, float | None]:
    with open_read_only(file, lambda: False) as state:
        return dict(state.configured())


@pytest.mark.parametrize("known", [True, False], ids=["daemon", "once"])
def test_a_renamed_account_is_no_longer_missing(store: Store, state_file: Path, *, known: bool) -> None:
    begin(store, "before")
    begin(store, "gone", username="other")
    store.use(lambda _before: {"after": None, "before": NOW, "gone": NOW})
    if not known:
        store.close()
        store.__init__(state_file)  # type: ignore[misc]

    assert store.load("after", ENDPOINT, "u", "", failed_since=0) is not None

    assert store.missing == ({"gone": NOW} if known else {})
    assert kept_in(state_file) == {"after": None, "gone": NOW}


def test_a_name_that_another_account_has_now_stays_in_use(store: Store, state_file: Path) -> None:
    begin(store, "a", username="one")
    begin(store, "b", username="two")
    store.use(lambda _before: {"a": None, "b": None})

    store.load("b", ENDPOINT, "one", "", failed_since=0)

    assert kept_in(state_file) == {"a": None, "b": None}


def test_a_forgotten_account_is_no_longer_missing(store: Store, state_file: Path) -> None:
    ledger = begin(store, "gone")
    store.use(lambda _before: {"a": None, "gone": NOW})

    store.forget(ledger.account.number)

    assert store.missing == {}
    assert kept_in(state_file) == {"a": None}


@pytest.mark.fault(
    "the state file's folder is gone, or its disk full, when a start or a reload has other accounts",
    action="polls them",
    shown="failed commits, as for counts",
    recovery="the next commit saves them",
)
def test_accounts_in_use_that_cannot_be_saved_stop_nothing_and_are_saved_later(store: Store, state_file: Path) -> None:
    ledger = begin(store)
    store.use(lambda _before: {"a": None, "b": None})
    aside = state_file.rename(state_file.with_name("aside"))

    store.use(lambda _before: {"a": None, "c": NOW})

    assert (store.write_failures, store.missing) == (1, {"c": NOW})
    aside.rename(state_file)
    assert kept_in(state_file) == {"a": None, "b": None}
    store.commit(ledger.account.number, NOTHING)
    assert kept_in(state_file) == {"a": None, "c": NOW}


def test_file_of_an_earlier_version_has_no_accounts_in_use_until_they_are_written(state_file: Path) -> None:
    older = Store(state_file)
    number = begin(older, "before").account.number
    older.close()
    with closing(sqlite3.connect(state_file)) as db:
        db.execute("DROP TABLE configured")
    assert kept_in(state_file) == {}

    with closing(Store(state_file)) as store:
        store.load("after", ENDPOINT, "u", "", failed_since=0)
        store.use(lambda before: before)
        assert store.missing == {}
        store.use(lambda before: {**before, "after": None})
        store.forget(number)

    assert kept_in(state_file) == {"after": None}


@pytest.mark.parametrize(
    ("damage", "refused"),
    [
        ("INSERT INTO configured VALUES (CAST(X'FF' AS TEXT), NULL)", False),
        ("INSERT INTO configured VALUES (NULL, 1.5)", True),
        ("INSERT INTO configured VALUES ('a', 'yesterday')", True),
        ("INSERT INTO configured VALUES ('a', 9e999)", True),
    ],
)
def test_values_that_are_no_accounts_in_use_are_found(state_file: Path, damage: str, *, refused: bool) -> None:
    Store(state_file).close()
    with closing(sqlite3.connect(state_file)) as db:
        db.execute(damage)
        db.commit()

    expected = pytest.raises(StateError, match="is damaged: configured") if refused else nullcontext()
    with expected, closing(Store(state_file)) as store:
        store.use(lambda before: {**before, "b": None})
        assert store.missing == {}


def test_retries_are_stored_replaced_and_deleted_with_their_ledger(state_file: Path) -> None:
    store = Store(state_file)
    ledger = begin(store)
    number = ledger.account.number
    store.commit(number, replace(NOTHING, retries={"1": Retry(1, 1.5), "2": Retry(2, 2.5), "3": Retry(3, 3.5)}))
    store.commit(number, replace(NOTHING, retries={"1": None, "2": Retry(4, 4.5), "4": None}))
    store.close()

    store = Store(state_file)
    loaded = store.load_by_name("a", ENDPOINT, "", failed_since=0)
    store.forget(number)
    store.close()

    assert loaded is not None
    assert loaded.retries == {"2": Retry(4, 4.5), "3": Retry(3, 3.5)}
    with closing(sqlite3.connect(state_file)) as db:
        assert db.execute("SELECT count(*) FROM retry").fetchone() == (0,)


def full(store: Store, *, is_full: bool) -> None:
    """Make every write fail, as on a full disk, or work again."""
    store._db.execute(f"PRAGMA query_only = {'ON' if is_full else 'OFF'}")  # noqa: SLF001


@pytest.mark.fault(
    "the allowance cannot be saved",
    action="polls on",
    shown="`sbg_exporter_state_write_failures_total`",
    recovery="the next request saves it",
)
def test_failure_to_save_an_allowance_is_only_counted(store: Store) -> None:
    full(store, is_full=True)

    store.save_allowance(LAB, KEPT, NOW)

    assert store.write_failures == 1
    assert store.allowance(LAB, NOW) is None


def test_full_disk_keeps_the_allowance_saved_before(store: Store) -> None:
    store.save_allowance(LAB, KEPT, NOW)
    full(store, is_full=True)

    store.save_allowance(LAB, SavedAllowance(400, 31, 20, 59.0, 0.0), NOW)

    assert store.allowance(LAB, NOW) == KEPT


def test_failure_to_save_an_allowance_leaves_the_ledger_unchanged(store: Store) -> None:
    ledger = see(store, begin(store), FAILED)
    full(store, is_full=True)
    store.save_allowance(LAB, KEPT, NOW)
    full(store, is_full=False)

    assert store.load_by_name("a", ENDPOINT, "", failed_since=0) == ledger
    assert see(store, ledger, FAILED, RUNNING) == store.load_by_name("a", ENDPOINT, "", failed_since=0)


def test_allowance_is_saved_again_once_there_is_space(store: Store) -> None:
    full(store, is_full=True)
    store.save_allowance(LAB, KEPT, NOW)
    full(store, is_full=False)

    store.save_allowance(LAB, KEPT, NOW)

    assert store.allowance(LAB, NOW) == KEPT


@pytest.mark.parametrize("is_full", [False, True])
def test_commits_wait_for_the_disk_after_an_allowance_was_saved(store: Store, is_full: bool) -> None:  # noqa: FBT001  # a table's column
    full(store, is_full=is_full)

    store.save_allowance(LAB, KEPT, NOW)

    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # noqa: SLF001  # FULL


def test_forgetting_a_ledger_keeps_the_allowance(store: Store) -> None:
    ledger = see(store, begin(store), FAILED)
    store.save_allowance(LAB, KEPT, NOW)

    store.forget(ledger.account.number)

    assert store.allowance(LAB, NOW) == KEPT


def test_saving_an_allowance_changes_no_ledger(store: Store) -> None:
    ledger = see(store, begin(store), FAILED)

    store.save_allowance(LAB, KEPT, NOW)

    assert store.load_by_name("a", ENDPOINT, "", failed_since=0) == ledger
    assert store.tracked_jobs == 1

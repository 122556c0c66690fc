"""One process per state file whatever the path, only regular files, and files that belong to the right user."""

import multiprocessing
import os
import shutil
import socket
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from exporter.counting.values import Rules
from exporter.errors import StateError
from exporter.storage.diagnosis import wrong_user
from exporter.storage.files import atomic_write, is_in_use
from exporter.storage.lock import HeldFile, lock_owner
from exporter.storage.reader import open_read_only
from exporter.storage.store import Store
from tests.clocks import START
from tests.factories import ENDPOINT
from tests.isolated import STRANGER, isolated, needs_root
from tests.waiting import PATIENCE


def _hold(state_file: Path, ready: Connection) -> None:
    with closing(Store(state_file)):
        ready.send(os.getpid())
        ready.recv()


@contextmanager
def held(state_file: Path) -> Iterator[int]:
    """Another process holds *state_file*; its process number."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(state_file, theirs))
    process.start()
    try:
        assert ours.poll(PATIENCE)
        yield ours.recv()
    finally:
        ours.send("end")
        process.join()


# ---- one process per file ----


def symbolic_link(file: Path, other: Path) -> None:
    other.symlink_to(file)


def folder_link(file: Path, other: Path) -> None:
    other.parent.rmdir()
    other.parent.symlink_to(file.parent)


def hard_link(file: Path, other: Path) -> None:
    other.hardlink_to(file)


def renamed(file: Path, other: Path) -> None:
    file.rename(other)


def replaced(file: Path, other: Path) -> None:
    file.rename(other)
    file.touch()


@pytest.mark.parametrize("lead", [symbolic_link, folder_link, hard_link, renamed, replaced])
@pytest.mark.parametrize("in_this_process", [False, True])
@pytest.mark.fault(
    "a second process uses the state file through a link, or after it was renamed or replaced",
    action="is refused",
    shown="the first one's process",
    recovery="either ends",
)
def test_file_is_locked_through_every_path(
    tmp_path: Path, lead: Callable[[Path, Path], None], *, in_this_process: bool
) -> None:
    file, other = tmp_path / "state.db", tmp_path / "other" / "state.db"
    other.parent.mkdir()

    with closing(Store(file)) if in_this_process else held(file) as holder:
        process = holder if isinstance(holder, int) else os.getpid()
        lead(file, other)
        with pytest.raises(StateError, match=rf"other/state.db is locked by process {process}\b.*; stop that exporter"):
            Store(other)
        owner = lock_owner(other)

    assert owner is not None
    assert owner.startswith(f"process {process}")


@pytest.mark.fault(
    "the lock file is deleted while it is in use",
    action="a second process is refused all the same",
    shown="the first one's process",
    recovery="none needed",
)
def test_lock_holds_without_the_lock_file(tmp_path: Path) -> None:
    file = tmp_path / "state.db"

    with held(file) as process:
        (tmp_path / "state.db.lock").unlink()
        advice = "stop that exporter; set a different state_file only if this one polls other accounts, or everything"
        with pytest.raises(StateError, match=f"is locked by process {process}; {advice} is counted twice"):
            Store(file)
        assert lock_owner(file) == f"process {process}"


def test_refused_process_does_not_name_itself_in_the_lock_file(tmp_path: Path) -> None:
    file = tmp_path / "state.db"

    with held(file) as process:
        for _ in range(2):
            with pytest.raises(StateError, match=f"is locked by process {process} on {socket.gethostname()}; stop"):
                Store(file)


@pytest.mark.fault(
    "another program reads the state file while it is in use",
    action="keeps its log",
    shown="nothing",
    recovery="none needed",
)
def test_lock_does_not_disturb_sqlite_s_own(tmp_path: Path) -> None:
    """Even while the file is read in the same process, another one cannot delete the log of a file in use."""
    file = tmp_path / "state.db"
    with closing(Store(file)):
        with open_read_only(file, lambda: False) as state:
            assert state.ledgers() == []
        isolated(partial(_come_and_go, file))

        assert (tmp_path / "state.db-wal").exists()


def _come_and_go(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute("SELECT * FROM job")


def test_reading_through_a_link_sees_what_is_not_in_the_file_yet(tmp_path: Path) -> None:
    file, link = tmp_path / "state.db", tmp_path / "links" / "state.db"
    link.parent.mkdir()
    link.symlink_to(file)

    with closing(Store(file)) as store:
        store._db.execute("INSERT INTO account VALUES (1, 'e', 'u', '', 0, 0, 0, NULL, '{}', '{}')")  # noqa: SLF001
        with open_read_only(link, lambda: False) as state:
            assert len(state.ledgers()) == 1


@pytest.mark.parametrize("lead", [symbolic_link, hard_link])
def test_other_paths_of_a_state_file_are_in_use(tmp_path: Path, lead: Callable[[Path, Path], None]) -> None:
    file, other = tmp_path / "state.db", tmp_path / "other.db"
    Store(file).close()
    lead(file, other)

    assert is_in_use(other, file)


# ---- a log next to another path ----


def _commit_and_die(file: Path) -> None:
    store = Store(file)
    store.create("a", ENDPOINT, "u", "", counting_since=START, local_time=START, rules=Rules())
    os._exit(0)


def killed(file: Path) -> None:
    """A ledger whose latest commits are in the write-ahead log, because its process was killed."""
    process = multiprocessing.get_context("fork").Process(target=_commit_and_die, args=(file,))
    process.start()
    process.join(PATIENCE)
    assert Path(f"{file}-wal").stat().st_size > 0
    if not os.listxattr(file):
        pytest.skip("files have no extended attributes here")


def _ledgers(file: Path) -> int:
    with open_read_only(file, lambda: False) as state:
        return len(state.ledgers())


@pytest.mark.fault(
    "a daemon was killed, and the next one opens the file through a hard link in another folder",
    action="refuses it, unchanged: the latest commits are in a log next to the first path",
    shown="both paths, and the log",
    recovery="the first path",
)
def test_hard_link_without_the_log_is_refused(tmp_path: Path) -> None:
    file, other = tmp_path / "state.db", tmp_path / "other" / "state.db"
    other.parent.mkdir()
    killed(file)
    other.hardlink_to(file)
    says = rf"state file {other} is the same file as {file}, whose log {file}-wal has its latest commits; use that path"

    with pytest.raises(StateError, match=says):
        Store(other)
    with pytest.raises(StateError, match=says), open_read_only(other, lambda: False):
        pytest.fail("it was opened")

    assert _ledgers(file) == 1
    with closing(Store(file)) as store:
        assert store.load_by_name("a", ENDPOINT, "", failed_since=0) is not None
    with closing(Store(other)) as store:  # a clean end leaves no log behind, and then any name will do
        assert store.load_by_name("a", ENDPOINT, "", failed_since=0) is not None
        assert store.link_warning == ""


@pytest.mark.fault(
    "a daemon was killed, and its state file is moved without its `-wal`",
    action="refuses it, unchanged",
    shown="the log, and where to move it",
    recovery="the log is moved too",
)
def test_file_that_was_moved_without_its_log_is_refused_until_that_is_moved_too(tmp_path: Path) -> None:
    file, other = tmp_path / "state.db", tmp_path / "other" / "state.db"
    other.parent.mkdir()
    killed(file)
    file.rename(other)

    with pytest.raises(StateError, match=rf"{other} was moved without .*; move {file}-wal to {other}-wal$"):
        Store(other)

    Path(f"{file}-wal").rename(f"{other}-wal")
    assert _ledgers(other) == 1
    with closing(Store(other)) as store:
        assert store.load_by_name("a", ENDPOINT, "", failed_since=0) is not None


def test_copy_with_its_attributes_is_another_file(tmp_path: Path) -> None:
    file, copy = tmp_path / "state.db", tmp_path / "copy.db"
    killed(file)
    shutil.copy2(file, copy)  # the attributes too
    file.unlink()

    Store(copy).close()


def test_log_in_the_same_folder_under_another_path_is_found(tmp_path: Path) -> None:
    """As in a container, where the folder is mounted somewhere else."""
    folder, mounted = tmp_path / "a", tmp_path / "b"
    folder.mkdir()
    killed(folder / "state.db")
    folder.rename(mounted)
    folder.symlink_to(mounted)

    with closing(Store(mounted / "state.db")) as store:
        assert store.load_by_name("a", ENDPOINT, "", failed_since=0) is not None


def test_hard_link_is_warned_of_where_the_path_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeldFile, "remember_path", lambda _: False)
    file = tmp_path / "state.db"
    Store(file).close()
    (tmp_path / "other.db").hardlink_to(file)

    with closing(Store(file)) as store:
        warning = store.link_warning

    assert warning.startswith(f"the state file {file} has several names (hard links); always use this one")


# ---- what is no regular file ----


def a_folder(path: Path) -> None:
    path.mkdir()


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def a_character_device(path: Path) -> None:
    path.symlink_to("/dev/full")


def a_link_to_the_null_device(path: Path) -> None:
    path.symlink_to("/dev/null")


def a_link_to_a_link_to_a_fifo(path: Path) -> None:
    os.mkfifo(path.parent / "fifo")
    (path.parent / "link").symlink_to("fifo")
    path.symlink_to("link")


SPECIAL = [a_folder, a_fifo, a_socket, a_character_device, a_link_to_the_null_device, a_link_to_a_link_to_a_fifo]


def _mode_and_names(path: Path) -> tuple[int, list[str]]:
    return path.stat().st_mode, sorted(each.name for each in path.parent.iterdir())


@pytest.mark.parametrize("make", SPECIAL)
@pytest.mark.fault(
    "the state file is a folder, FIFO, socket or device, or a link to one",
    action="refuses it, unchanged",
    shown="what it is, in one line",
    recovery="the path of a regular file",
)
def test_special_file_is_refused_by_name_and_unchanged(
    tmp_path: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket may not be long
    path = Path("state.db")
    make(path)
    before = _mode_and_names(path)

    with pytest.raises(StateError, match=r"state file state.db is a \w+.*; set state_file to the path of a regular"):
        Store(path)
    with pytest.raises(StateError, match="is a "), open_read_only(path, lambda: False):
        pytest.fail("it was opened")

    assert _mode_and_names(path) == before


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero", "/dev/full", "/dev/random"])
@pytest.mark.fault(
    "the state file is a device such as `/dev/null`",
    action="refuses it, with its mode unchanged",
    shown="what it is, in one line",
    recovery="the path of a regular file",
)
def test_device_is_refused_and_keeps_its_mode(device: str) -> None:
    before = Path(device).stat()

    with pytest.raises(StateError, match=f"state file {device} is a character device; set state_file"):
        Store(Path(device))

    assert Path(device).stat().st_mode == before.st_mode == stat.S_IFCHR | 0o666
    assert not Path(f"{device}.lock").exists()


@pytest.mark.parametrize("make", [*SPECIAL, lambda path: path.symlink_to("missing")])
@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
@pytest.mark.fault(
    "a folder, FIFO, socket, device or link in the place of a file that SQLite keeps next to the state file",
    action="refuses the state file, unchanged",
    shown="the file, in one line",
    recovery="it is removed",
)
def test_special_file_next_to_the_state_file_is_refused_by_name(
    tmp_path: Path, make: Callable[[Path], None], suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket may not be long
    Store(Path("state.db")).close()
    before = Path("state.db").read_bytes()
    make(Path(f"state.db{suffix}"))
    says = f"^{tmp_path}/state.db{suffix}, a name that SQLite needs, is not a regular file; remove it and start again$"

    with pytest.raises(StateError, match=says):
        Store(Path("state.db"))
    with pytest.raises(StateError, match=says), open_read_only(Path("state.db"), lambda: False):
        pytest.fail("it was opened")

    assert Path("state.db").read_bytes() == before


def test_open_file_without_a_name_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "gone").open("w") as file:
        (tmp_path / "gone").unlink()
        with pytest.raises(StateError, match=f"state file /proc/self/fd/{file.fileno()} is a deleted file"):
            Store(Path(f"/proc/self/fd/{file.fileno()}"))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["/proc/self/mem", "/proc/version", "/proc/state.db", "/sys/kernel/mm/missing/state.db", "/sys/state.db"]
)
@pytest.mark.fault(
    "the state file is in `/proc` or `/sys`, such as `/proc/self/mem`",
    action="refuses it before it is opened",
    shown="the path as it is set, and what it is",
    recovery="the path of a regular file",
)
def test_file_of_the_kernel_is_refused_by_the_path_that_is_set(path: str) -> None:
    says = rf"^state file {path} is a file of the kernel \((proc|sysfs)\); set state_file to the path of a regular file"

    with pytest.raises(StateError, match=says):
        Store(Path(path))
    with pytest.raises(StateError, match=says), open_read_only(Path(path), lambda: False):
        pytest.fail("it was opened")


@pytest.mark.parametrize("make", SPECIAL)
@pytest.mark.fault(
    "a backup or export to a folder, FIFO, socket or device",
    action="refuses it, unchanged",
    shown="what it is",
    recovery="the path of a regular file",
)
def test_special_file_is_never_replaced(
    tmp_path: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("copy.db")
    make(path)
    before = _mode_and_names(path)

    with pytest.raises(OSError, match="it is a"), atomic_write(path):
        pytest.fail("it was opened")

    assert _mode_and_names(path) == before


@pytest.mark.parametrize("make", [a_folder, a_fifo, a_character_device])
@pytest.mark.fault(
    "the lock file is not a regular file",
    action="refuses it",
    shown="its path, in one line",
    recovery="it is removed",
)
def test_special_lock_file_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "state.db.lock")

    with pytest.raises(StateError, match=r"lock file \S+/state.db.lock is not a regular file; remove it"):
        Store(tmp_path / "state.db")


@pytest.mark.fault(
    "the state file is a link to itself",
    action="refuses it",
    shown="one line",
    recovery="another path",
)
def test_links_in_a_circle_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "state.db").symlink_to("state.db")

    with pytest.raises(StateError, match="symbolic links lead in a circle"):
        Store(tmp_path / "state.db")


@pytest.mark.fault(
    "the state file is a link into a volume that is not mounted",
    action="refuses it; creates nothing",
    shown="the missing folder, in one line",
    recovery="the volume is mounted",
)
def test_link_into_a_missing_folder_creates_no_empty_ledger(tmp_path: Path) -> None:
    (tmp_path / "state.db").symlink_to(tmp_path / "not mounted" / "state.db")

    with pytest.raises(StateError, match=r"no such folder; create .*not mounted, or mount the volume that contains it"):
        Store(tmp_path / "state.db")

    assert not (tmp_path / "not mounted").exists()


# ---- owners ----


def _no_warnings(path: Path) -> None:
    with closing(Store(path)) as store:
        assert store.warnings == ()


def _warned(path: Path) -> None:
    with closing(Store(path)) as store:
        [warning] = store.warnings
    assert warning.startswith(f"other users of this machine can read the state file {path}; as its owner, run `chmod")


@needs_root
@pytest.mark.parametrize(("mode", "work"), [(0o660, _no_warnings), (0o664, _warned)])
@pytest.mark.fault(
    "the state file belongs to another user, and this one's group may write it",
    action="uses it",
    shown="a warning if all users can read it",
    recovery="none needed",
)
def test_file_of_another_owner_is_used_through_its_group(
    open_folder: Path, mode: int, work: Callable[[Path], None]
) -> None:
    """As on a Kubernetes volume with ``fsGroup``."""
    shared = open_folder / "volume"
    shared.mkdir()
    file = shared / "state.db"
    Store(file).close()
    (shared / "state.db.lock").unlink()
    for path in (shared, file):
        os.chown(path, 1234, 5678)
    file.chmod(mode)
    shared.chmod(0o2775)

    isolated(partial(work, file), user=STRANGER, groups=(5678,))

    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert file.stat().st_uid == 1234


@needs_root
def test_what_root_creates_belongs_to_the_owner_of_the_folder(open_folder: Path) -> None:
    os.chown(open_folder, STRANGER, STRANGER)
    file = open_folder / "state.db"

    with closing(Store(file)):
        assert {each.name for each in open_folder.iterdir()} == {f"state.db{s}" for s in ("", ".lock", "-wal", "-shm")}
        assert {each.stat().st_uid for each in open_folder.iterdir()} == {STRANGER}
    with atomic_write(open_folder / "backup.db", state_file=file) as temporary:
        temporary.write_text("copy")

    assert (open_folder / "backup.db").stat().st_uid == STRANGER
    isolated(partial(_no_warnings, file), user=STRANGER)


@needs_root
def test_what_root_writes_elsewhere_stays_root_s(open_folder: Path) -> None:
    os.chown(open_folder, STRANGER, STRANGER)
    (open_folder / "state").mkdir()

    with atomic_write(open_folder / "backup.db", state_file=open_folder / "state" / "state.db") as temporary:
        temporary.write_text("copy")

    assert (open_folder / "backup.db").stat().st_uid == 0


@needs_root
def test_lock_file_that_root_left_is_handed_over_by_root(open_folder: Path) -> None:
    os.chown(open_folder, STRANGER, STRANGER)
    (open_folder / "state.db.lock").touch(mode=0o600)

    Store(open_folder / "state.db").close()

    isolated(partial(_no_warnings, open_folder / "state.db"), user=STRANGER)


def _refused(path: Path, complaint: str) -> None:
    with pytest.raises(StateError) as raised:
        Store(path)
    assert str(raised.value) == complaint


@needs_root
@pytest.mark.parametrize("suffix", [".lock", "", "-wal", "-shm"])
@pytest.mark.fault(
    "root has left a file beside the state file, or the state file itself",
    action="refuses it",
    shown="the file and the `chown` that helps",
    recovery="that command",
)
def test_file_that_root_left_is_named_with_the_remedy(open_folder: Path, suffix: str) -> None:
    os.chown(open_folder, STRANGER, STRANGER)
    file = open_folder / "state.db"
    Store(file).close()
    left = Path(f"{file}{suffix}")
    left.touch()
    os.chown(left, 0, 0)
    left.chmod(0o600)
    complaint = {
        ".lock": f"lock file {left} cannot be opened",
        "": f"state file {file} cannot be opened",
    }.get(suffix, f"state file {file} cannot be used")

    isolated(
        partial(_refused, file, f"{complaint}: permission denied; as root, run `chown {STRANGER} {left}`"),
        user=STRANGER,
    )


@needs_root
@pytest.mark.fault(
    "the state file's folder may not be entered",
    action="refuses it",
    shown="the folder and the `chown` that helps",
    recovery="that command",
)
def test_folder_that_may_not_be_entered_is_named(open_folder: Path) -> None:
    file = open_folder / "state" / "state.db"
    Store(file).close()

    advice = f"permission denied; as root, run `chown {STRANGER} {file.parent}`"
    isolated(partial(_refused, file, f"state file {file} cannot be opened: {advice}"), user=STRANGER)


@needs_root
@pytest.mark.fault(
    "the state file's folder may not be written",
    action="refuses it",
    shown="the folder and the `chown` that helps",
    recovery="that command",
)
def test_folder_that_may_not_be_written_is_named(open_folder: Path) -> None:
    file = open_folder / "state.db"
    Store(file).close()
    (open_folder / "state.db.lock").unlink()
    open_folder.chmod(0o755)
    os.chown(file, STRANGER, STRANGER)

    advice = f"permission denied; as root, run `chown {STRANGER} {open_folder}`"
    isolated(partial(_refused, file, f"lock file {file}.lock cannot be created: {advice}"), user=STRANGER)


def _not_for_this_user(path: Path, whose: str) -> None:
    with pytest.raises(StateError) as raised:
        _read(path)
    message = str(raised.value)
    assert f"permission denied to this user (uid {STRANGER}); run the command with `sudo`" in message
    assert message.endswith(whose)
    assert "chown" not in message


def _read(file: Path) -> None:
    with open_read_only(file, lambda: False):
        pytest.fail("it was opened")


@needs_root
@pytest.mark.parametrize("closed", ["folder", "file", "log"])
@pytest.mark.fault(
    "a command is run by a user who may not use the exporter's state file",
    action="reads nothing, changes nothing",
    shown="that `sudo` or the exporter's user helps, and whose the file is; no `chown`",
    recovery="as that user",
)
def test_user_without_permission_is_not_told_to_take_the_file_from_the_exporter(open_folder: Path, closed: str) -> None:
    folder = open_folder / "state"
    file = folder / "state.db"
    Store(file).close()
    log = Path(f"{file}-wal")
    log.touch()
    for each in (folder, file, log):
        os.chown(each, 1234, 1234)
        each.chmod(0o755)
    named = {"folder": folder, "file": file, "log": log}[closed]
    named.chmod(0o700)

    isolated(partial(_not_for_this_user, file, f"; {named} belongs to uid 1234"), user=STRANGER)


def _may_only_read(file: Path) -> None:
    assert wrong_user(file, writing=False) == ""
    assert wrong_user(file, writing=True).endswith(f"{file} belongs to uid 1234")


@needs_root
def test_user_who_may_only_read_the_file_is_told_so_before_a_change(open_folder: Path) -> None:
    file = open_folder / "state.db"
    file.touch(mode=0o644)
    os.chown(file, 1234, 1234)

    isolated(partial(_may_only_read, file), user=STRANGER)


@needs_root
def test_reader_of_a_file_of_root_is_not_told_to_take_it(open_folder: Path) -> None:
    file = open_folder / "state" / "state.db"
    Store(file).close()

    isolated(partial(_not_for_this_user, file, "as the user that runs the exporter"), user=STRANGER)


@pytest.mark.fault(
    "the state file is deleted while an exporter uses it, and a command reads it",
    action="reads nothing; does not start another exporter",
    shown="which process uses it, that it must not restart yet, and the runbook",
    recovery="the runbook's steps",
)
def test_reader_of_a_file_deleted_while_in_use_leads_to_a_backup(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    with held(file) as owner:
        file.unlink()
        says = f"was moved or deleted while process {owner} on .* before a restart, save it.* SbgStateNotWritable"
        with pytest.raises(StateError, match=says) as raised:
            _read(file)
    assert "start the exporter" not in str(raised.value)

    with pytest.raises(StateError, match=r"its lock file shows .* restore a backup before the exporter is started"):
        _read(file)


@needs_root
@pytest.mark.parametrize(
    ("name", "mode", "complaint", "lacking"),
    [
        ("", 0o500, "lock file {file}.lock cannot be created", "rwx"),
        ("", 0o600, "state file {file} cannot be opened", "rwx"),
        ("state.db", 0o400, "state file {file} cannot be opened", "rw"),
    ],
)
def test_owner_without_permission_is_told_to_give_it_to_itself(
    open_folder: Path, name: str, mode: int, complaint: str, lacking: str
) -> None:
    file, closed = open_folder / "state.db", open_folder / name
    Store(file).close()
    (open_folder / "state.db.lock").unlink()
    for each in (open_folder, file):
        os.chown(each, STRANGER, STRANGER)
    closed.chmod(mode)

    advice = f"permission denied; run `chmod u+{lacking} {closed}`"
    isolated(partial(_refused, file, f"{complaint.format(file=file)}: {advice}"), user=STRANGER)

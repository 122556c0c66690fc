"""Files are replaced in one step or not at all."""

import stat
from contextlib import closing
from pathlib import Path

import pytest

from exporter.storage.files import atomic_write, is_in_use
from exporter.storage.store import Store


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_new_content_replaces_the_old_with_its_own_mode(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "page.prom"
    target.write_text("old")

    with atomic_write(target, mode=mode) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"

    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == mode
    assert names(tmp_path) == ["page.prom"]


def test_file_is_private_until_it_is_complete(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "page.prom", mode=0o644) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600


def test_error_keeps_the_old_content_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "state.db"
    target.write_text("old")

    def write_half() -> None:
        with atomic_write(target) as temporary:
            temporary.write_text("half of it")
            Path(f"{temporary}-wal").write_text("of a database")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()

    assert target.read_text() == "old"
    assert names(tmp_path) == ["state.db"]


def test_check_before_replacing_sees_what_appeared_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "copy.db"

    def check() -> None:
        if target.exists():
            raise FileExistsError(target)

    with pytest.raises(FileExistsError), atomic_write(target, before_replacing=check):
        target.write_text("of another process")

    assert target.read_text() == "of another process"
    assert names(tmp_path) == ["copy.db"]


def test_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "missing" / "page.prom"):
        pytest.fail("nothing can be written here")


@pytest.mark.parametrize("suffix", ["", "-journal", "-wal", "-shm", ".lock"])
def test_locked_state_file_and_its_companions_are_in_use(tmp_path: Path, suffix: str) -> None:
    other = tmp_path / "state.db"
    path = Path(f"{other}{suffix}")

    with closing(Store(other)):
        assert is_in_use(path, tmp_path / "mine.db")
    assert not is_in_use(path, tmp_path / "mine.db")


def test_own_state_file_is_in_use_even_if_unlocked(tmp_path: Path) -> None:
    mine = tmp_path / "state.db"

    assert is_in_use(tmp_path / "link" / ".." / "state.db", mine)
    assert is_in_use(Path(f"{mine}-wal"), mine)
    assert not is_in_use(tmp_path / "copy.db", mine)

"""What the tests keep: an interrupted run, or another at the same time, is in nobody's way."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests import cache

REPOSITORY: Final = Path(__file__).parents[2]
MAKE: Final = """\
import os, signal, sys
from pathlib import Path
from tests.cache import kept

def make(folder):
    folder.mkdir()
    (folder / "first").write_text("whole")
    with open(sys.argv[1], "a") as log:
        log.write("made\\n")
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "second").write_text("whole")

print(kept("thing", "1", make), end="")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, for this process and those it starts."""
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("TEST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def making(log: Path, how: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKE, str(log), how]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_a_killed_run_left_is_removed_and_made_again(folder: Path, tmp_path: Path) -> None:
    with making(tmp_path / "log", "killed") as killed:
        killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    [left] = folder.glob("thing-*")
    assert [path.name for path in left.glob("thing/*")] == ["first"]

    with making(tmp_path / "log") as again:
        made, _ = again.communicate()

    assert (again.returncode, names(Path(made))) == (0, {"first", "second"})
    assert names(folder) == {"thing-1", "thing.lock"}


def test_two_processes_at_once_make_it_once(folder: Path, tmp_path: Path) -> None:
    with making(tmp_path / "log") as one, making(tmp_path / "log") as other:
        assert [each.communicate()[0] for each in (one, other)] == [str(folder / "thing-1")] * 2

    assert (tmp_path / "log").read_text() == "made\n"


def test_another_version_takes_the_place_of_the_last(folder: Path) -> None:
    for version in ("1", "2"):
        cache.kept("thing", version, lambda path, version=version: path.write_text(version))  # type: ignore[misc]

    assert names(folder) == {"thing-2", "thing.lock"}
    assert (folder / "thing-2").read_text() == "2"


def test_what_could_not_be_made_leaves_nothing(folder: Path) -> None:
    def fail(path: Path) -> None:
        path.mkdir()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache.kept("thing", "1", fail)

    assert names(folder) == {"thing.lock"}

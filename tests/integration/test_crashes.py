"""A commit is whole or not there: killed, or with a disk that fails, at each of its SQL statements, writes and syncs.

What is counted again afterwards ends at the truth, with the creation times of the first time.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import pytest

from exporter.storage.audit import audit
from exporter.storage.reader import open_read_only
from exporter.storage.store import Store
from tests.crashing import COMMITS, STATE, TRUTH, Ending, Life, Lives, live, rows_in, starting
from tests.fault_table import measure
from tests.faulty_disk import Action
from tests.ledgers import IN_MEMORY
from tests.width import width

KILLS = width(50, 1000)
FAILURES = width(20, 500)
"""Failures of each kind."""


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    with starting() as started:
        yield started


@pytest.fixture
def folders() -> Iterator[Callable[[], Path]]:
    """Makes empty folders."""
    with TemporaryDirectory(prefix="sbg-exporter-test-", dir=IN_MEMORY) as parent:
        yield lambda: Path(mkdtemp(dir=parent))


@pytest.fixture(scope="module")
def undisturbed(lives: Lives, tmp_path_factory: pytest.TempPathFactory) -> Ending:
    """A life without a fault."""
    return lives.live(Life(str(tmp_path_factory.mktemp("undisturbed"))))


def spread(steps: Sequence[str], number: int) -> list[int]:
    """Choose *number* of the steps, numbered from 1: evenly, and at least one of each kind."""
    kinds = {kind: steps.index(kind) + 1 for kind in steps}
    evenly = [1 + len(steps) * each // number for each in range(number)]
    return sorted({*kinds.values(), *evenly[: max(0, number - len(kinds))], *evenly[len(kinds) :]})


def states(ending: Ending) -> list[tuple[str, ...]]:
    """The ledger before its creation, and after each commit."""
    return [(), *(event.rows for event in ending.events if event.what == "done")]


def differences(folder: Path) -> list[int]:
    """By how much each counter family differs from the truth."""
    with open_read_only(folder / STATE, lambda: False) as reader:
        [ledger] = reader.ledgers()
    sums: Counter[str] = Counter()
    for (family, _), counter in ledger.counters.items():
        sums[family] += counter.value
    return [sums[family] - TRUTH[family] for family in sums | TRUTH]


def test_undisturbed_ledger_ends_at_the_truth(undisturbed: Ending, tmp_path: Path) -> None:
    assert undisturbed.status == 0
    assert len(set(states(undisturbed))) == len(COMMITS) + 1, "a commit changed nothing"
    list(live(tmp_path))

    with open_read_only(tmp_path / STATE, lambda: False) as reader:
        [ledger] = reader.ledgers()
        records = list(reader.records(ledger.account.number))
    assert not any(differences(tmp_path))
    assert not list(audit(ledger, records))
    assert rows_in(tmp_path) == states(undisturbed)[-1]


@pytest.mark.fault(
    "SIGKILL at each SQL statement, write (also half of one), sync, truncation and deletion of every commit",
    action="SQLite's log is played or dropped at the next start",
    shown="the ledger before the commit or after it",
    recovery="the poll is made again",
)
def test_killed_at_any_step_a_commit_is_whole_or_not_there(
    lives: Lives, undisturbed: Ending, folders: Callable[[], Path], record_property: Callable[[str, object], None]
) -> None:
    known, chosen = states(undisturbed), spread(undisturbed.steps, KILLS)
    for step in chosen:
        folder = folders()

        ending = lives.live(Life(str(folder), step))

        where = f"killed at step {step}, {undisturbed.steps[step - 1]}"
        assert ending.status == -9, where
        begun = ending.events[-1]
        with closing(Store(folder / STATE)):
            found = rows_in(folder)
        allowed = known[begun.commit + 1 :][:1] if begun.what == "done" else known[begun.commit :][:2]
        assert found in allowed, where
        assert not [event for event in ending.events if event.what == "failed"], where
        list(live(folder, first=begun.commit))
        measure(str(step), differences(folder))
        assert rows_in(folder) == known[-1], where
    record_property("steps", len(undisturbed.steps))
    record_property("kills", len(chosen))
    sys.stdout.write(f"killed at {len(chosen)} of {len(undisturbed.steps)} steps\n")


@pytest.mark.parametrize("action", [Action.DISK_FULL, Action.BROKEN_WRITE])
@pytest.mark.fault(
    "{action} at each write, sync, truncation and deletion of every commit",
    action="gives up the commit",
    shown="the ledger before the commit",
    recovery="the next poll",
)
def test_failed_at_any_write_a_commit_is_not_there_and_the_next_poll_succeeds(
    lives: Lives, undisturbed: Ending, folders: Callable[[], Path], action: Action
) -> None:
    known = states(undisturbed)
    steps = lives.live(Life(str(folders()), action=action)).steps
    on_disk = [number for number, step in enumerate(steps, 1) if ": " in step]
    chosen = [on_disk[each - 1] for each in spread([steps[number - 1] for number in on_disk], FAILURES)]
    failures = 0
    for step in chosen:
        folder = folders()

        ending = lives.live(Life(str(folder), step, action))

        where = f"{action} at step {step}, {steps[step - 1]}"
        assert ending.status == 0, where
        for event in ending.events:
            assert event.rows == known[event.commit + (event.what == "done")] or event.what == "begun", where
            failures += event.what == "failed"
        measure(str(step), differences(folder))
        assert states(ending)[1:] == known[1:], where
        assert rows_in(folder) == known[-1], where
    assert failures >= len(chosen) / 2

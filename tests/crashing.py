"""A ledger's life, from its creation to the expiry of jobs, in processes that are killed or whose disk fails.

``python -m tests.crashing`` reads lives from standard input, one JSON object per line, and answers each with how it
ended. Every life is a forked process of its own: starting Python for each would take ten times as long.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from exporter.api.allowance import AllowanceKey, SavedAllowance
from exporter.api.models import Job
from exporter.counting.rules import reset_changed_histograms
from exporter.counting.values import FORGET_AFTER, Ledger, Rules
from exporter.errors import StateError, StateWriteError
from exporter.storage.reader import open_read_only
from exporter.storage.store import Store
from tests.clocks import START
from tests.factories import ENDPOINT, finished_job, job, job_id, running_job
from tests.faulty_disk import Action, FaultyDisk
from tests.ledgers import observe_in

STATE: Final = "state.db"
_REPOSITORY: Final = Path(__file__).parents[1]
_PROGRESS: Final = "progress"
_RULES: Final = Rules(settle_after=60, duration_buckets=(60, 3600), queue_buckets=(1.5, 60))
_OTHER_BUCKETS: Final = Rules(settle_after=60, duration_buckets=(1, 100), queue_buckets=(1.5, 60))
_KEY: Final = AllowanceKey(ENDPOINT, "rosalind")


# ---- what happens ----


def _copies(*, finished: int = 0, done: int = 0) -> list[Job]:
    """Six jobs, of which the first *finished* have ended."""
    ended = [finished_job(START + 1, serial=number) for number in range(finished)]
    return ended + [running_job(START + 1, serial=number, done=done) for number in range(finished, 6)]


def _imported(state: str, completed: int, finished: float | None = None) -> Job:
    """A job of an operation and in states that the API's documentation does not have."""
    begun = START + 31
    return job(state, 7, completed, 1, job_id=job_id(START + 30), operation="import", started=begun, finished=finished)


_OLD: Final = finished_job(START - 500, failed=2, took=10)
_SHORT: Final = job("finished", 5, 3, job_id=job_id(START + 6), operation="move", started=START + 7, finished=START + 9)
_FAILED: Final = finished_job(START + 5, failed=3, total=9, serial=50, errors=(("5001", 2), ("none", 1)))


def _failing(*, done: int = 0, failed: int = 0) -> Job:
    return running_job(START + 5, serial=50, total=9, done=done, failed=failed)


def _create(store: Store, _now: float) -> None:
    store.create("a", ENDPOINT, "rosalind", "", counting_since=START, local_time=START, rules=_RULES)


def _poll(*jobs: Job) -> Callable[[Store, float], None]:
    """A poll whose full listing shows *jobs*."""

    def poll(store: Store, now: float) -> None:
        observe_in(store, _ledger(store), *jobs, rules=_RULES, now=now)
        store.save_allowance(_KEY, SavedAllowance(1000, 1, 0, 60.0, 0.0), now)

    return poll


def _months_pass(store: Store, now: float) -> None:
    """As after so many full listings that jobs may expire."""
    ledger = _ledger(store)
    account = msgspec.structs.replace(ledger.account, listing_clock=FORGET_AFTER + 86400)
    store.commit(account.number, replace(reset_changed_histograms(ledger, _RULES, now), account=account))


def _change_buckets(store: Store, now: float) -> None:
    ledger = _ledger(store)
    store.commit(ledger.account.number, reset_changed_histograms(ledger, _OTHER_BUCKETS, now))


def _ledger(store: Store) -> Ledger:
    ledger = store.load_by_name("a", ENDPOINT, "", failed_since=0)
    assert ledger is not None
    return ledger


COMMITS: Final[tuple[Callable[[Store, float], None], ...]] = (
    _create,
    _poll(_OLD),
    _poll(_OLD, *_copies(), _failing()),
    _poll(_OLD, *_copies(finished=2, done=5), _failing(done=2, failed=1), _SHORT),
    _poll(_OLD, *_copies(finished=6), _FAILED, _SHORT),
    _poll(_SHORT, _FAILED),
    _months_pass,
    _poll(_FAILED, _imported("running", 1)),
    _poll(_FAILED, _imported("archived", 6, finished=START + 40)),
    _change_buckets,
)
"""The commits of a ledger, each of which may be repeated."""
REOPENED_BEFORE: Final = frozenset({4, 8})
"""Commits before which the state file is closed and opened again."""
TRUTH: Final = {
    "sbg_jobs_submitted_total": 9,
    "sbg_jobs_finished_total": 9,
    "sbg_files_total": 6 * 10 + 9 + 5 + 7,
    "sbg_files_completed_total": 6 * 10 + 6 + 3 + 6,
    "sbg_files_failed_total": 3 + 1,
    "sbg_file_errors_total": 3,
}
"""What the counters add up to in the end; the job from before the ledger does not count."""


# ---- a life ----


class Life(msgspec.Struct, frozen=True):
    """A life with a state file in *folder*, in which *action* happens at *step*; never if that is 0."""

    folder: str
    step: int = 0
    action: Action = Action.KILL


class Event(msgspec.Struct, frozen=True):
    """What happened to one of :data:`COMMITS`.

    Attributes:
        commit: its index.
        what: ``begun``, ``failed`` or ``done``.
        rows: all rows of the ledger after it failed or was done.
    """

    commit: int
    what: str
    rows: tuple[str, ...] = ()


class Ending(msgspec.Struct, frozen=True):
    """How a life ended.

    Attributes:
        status: the exit code, or the negative number of the signal that killed the process.
        events: what happened to its commits.
        steps: the names of all steps, if it was not killed.
    """

    status: int
    events: tuple[Event, ...]
    steps: tuple[str, ...] = ()


def live(folder: Path, first: int = 0, disk: FaultyDisk | None = None) -> Iterator[Event]:
    """Make the commits from number *first* on; repeat one that failed once the *disk* has recovered.

    Raises:
        StateError: the state file cannot be opened, and no *disk* is to blame.
        StateWriteError: a commit failed, and no *disk* is to blame.
    """

    def rows() -> tuple[str, ...]:
        with nullcontext() if disk is None else disk.unwatched():
            return rows_in(folder)

    opened: list[Store] = []

    def commit(number: int) -> None:
        if opened and number in REOPENED_BEFORE:
            opened.pop().close()
        if not opened:
            opened.append(Store(folder / STATE))
        COMMITS[number](opened[0], START + 100 * number)

    for number in range(first, len(COMMITS)):
        yield Event(number, "begun")
        try:
            commit(number)
        except (StateError, StateWriteError):
            if disk is None:
                raise
            yield Event(number, "failed", rows())
            disk.recover()
            commit(number)
        yield Event(number, "done", rows())
    opened.pop().close()


def rows_in(folder: Path) -> tuple[str, ...]:
    """All rows of the ledgers in *folder*; none if no ledger was created yet."""
    try:
        with open_read_only(folder / STATE, lambda: False) as reader:
            ledgers = reader.ledgers()
            return tuple(json.dumps(row) for each in ledgers for row in reader.rows(each.account.number))
    except StateError:
        return ()


# ---- processes ----


class Lives:
    """Starts lives."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def live(self, life: Life) -> Ending:
        """Wait for the end of a life."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(life) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Ending)


@contextmanager
def starting() -> Iterator[Lives]:
    """A process that starts lives until the context ends."""
    command = [sys.executable, "-m", "tests.crashing"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_REPOSITORY) as process:
        yield Lives(process)
        assert process.stdin is not None
        process.stdin.close()


def main() -> int:
    """Live what standard input says; the exit code."""
    for line in sys.stdin.buffer:
        life = msgspec.json.decode(line, type=Life)
        child = os.fork()
        if child == 0:
            _live_and_report(life)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.buffer.write(msgspec.json.encode(_ending(life, os.waitstatus_to_exitcode(status))) + b"\n")
        sys.stdout.buffer.flush()
    return 0


def _live_and_report(life: Life) -> None:
    folder = Path(life.folder)
    with (folder / _PROGRESS).open("ab", buffering=0) as progress:
        disk = FaultyDisk(folder / STATE, life.step, life.action)
        for event in live(folder, disk=disk):
            progress.write(msgspec.json.encode(event) + b"\n")
        steps = tuple(disk.steps)
    (folder / "steps").write_bytes(msgspec.json.encode(steps))


def _ending(life: Life, status: int) -> Ending:
    lines = (Path(life.folder) / _PROGRESS).read_bytes().splitlines()
    steps = Path(life.folder) / "steps"
    return Ending(
        status,
        tuple(msgspec.json.decode(line, type=Event) for line in lines),
        msgspec.json.decode(steps.read_bytes(), type=tuple[str, ...]) if steps.exists() else (),
    )


if __name__ == "__main__":
    sys.exit(main())

"""What a job will do, decided when it is submitted.

A script says how long a job stays in each state and how it ends.  What the platform shows of the job at any later
time is a pure function of the script and the job's age: nothing ticks, and asking twice gives the same answer.

1. SUBMITTED for ``queued`` seconds: no file is known yet.
2. RESOLVING for ``resolving`` seconds: folders expand, ``total_files`` grows.
3. RUNNING for ``running`` seconds: files complete and fail, a failure as the first of them.
4. FINISHED, whatever became of the files; there is no state for failure.
"""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from random import Random
from typing import NamedTuple

import msgspec

OPERATIONS = ("copy", "move", "delete")
"""The operations that have paths of their own; a script may name others, which then only the list shows."""

NO_CODE = "none"
"""Stands for the code of an error record that has none."""


class State(StrEnum):
    """The states that the platform documents, in the order in which a job passes them."""

    SUBMITTED = "SUBMITTED"
    RESOLVING = "RESOLVING"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"


class Shown(StrEnum):
    """Where a part of a finished job can be seen."""

    ALWAYS = "always"
    ALONE = "alone"
    """Only when the job is asked for by its own path, not in the list."""
    NEVER = "never"


class JobScript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The whole life of a job.  A struct because it also comes as JSON, and because there may be 100,000 of them."""

    operation: str = "copy"
    """In lower case."""
    total: int = 1
    """Files that the job comprises once its folders are expanded."""
    completed: int | None = None
    """Files completed in the end; ``None``: all that do not fail.  Fewer makes the job incomplete."""
    failed: int = 0
    """Files failed in the end."""
    errors: Mapping[str, int] | None = None
    """Error records in the result, by code (``none``: without one).  ``None``: code 5001 for each failed file."""
    queued: float = 2.0
    """Seconds in SUBMITTED."""
    resolving: float = 1.0
    """Seconds in RESOLVING."""
    running: float = 5.0
    """Seconds in RUNNING."""
    hangs_after: float | None = None
    """Seconds after its submission from which nothing about the job changes any more."""
    state: str | None = None
    """An undocumented name for the state in which it ends or hangs."""
    times: Shown = Shown.ALWAYS
    """Where ``started_on`` and ``finished_on`` are shown."""
    result: Shown = Shown.ALWAYS
    """Where the result is shown."""

    def __post_init__(self) -> None:
        if self.errors and not all(code.isdecimal() or code == NO_CODE for code in self.errors):
            raise ValueError(f"errors: a code is a number or {NO_CODE!r}, not {', '.join(self.errors)}")

    @property
    def completes(self) -> int:
        """Files completed in the end."""
        return self.total - self.failed if self.completed is None else self.completed

    @property
    def error_records(self) -> Mapping[str, int]:
        """Error records in the result, by code."""
        if self.errors is not None:
            return self.errors
        return {"5001": self.failed} if self.failed else {}

    @property
    def lasts(self) -> float | None:
        """Seconds from submission to finish; ``None`` for a job that hangs before."""
        whole = self.queued + self.resolving + self.running
        return whole if self.hangs_after is None or self.hangs_after >= whole else None


class Progress(NamedTuple):
    """How far a job has come."""

    state: str
    total: int
    completed: int
    failed: int


def progress(script: JobScript, age: float) -> Progress:
    """What the platform counts *age* seconds after the submission."""
    hung = script.hangs_after is not None and age >= script.hangs_after
    lived = script.hangs_after if hung and script.hangs_after is not None else age
    seen = _documented_progress(script, lived)
    over = hung or seen.state is State.FINISHED
    return seen._replace(state=script.state) if over and script.state else seen


def _documented_progress(script: JobScript, age: float) -> Progress:
    if age < script.queued:
        return Progress(State.SUBMITTED, 0, 0, 0)
    age -= script.queued
    if age < script.resolving:
        return Progress(State.RESOLVING, int(script.total * age / script.resolving), 0, 0)
    age -= script.resolving
    if age < script.running:
        handled = script.completes + script.failed
        done = int(handled * age / script.running)
        failed = -(-script.failed * done // handled) if handled else 0
        return Progress(State.RUNNING, script.total, done - failed, failed)
    return Progress(State.FINISHED, script.total, script.completes, script.failed)


def finished_at_age(script: JobScript, age: float) -> JobScript:
    """The same script, but finished *age* seconds after the submission, at the cost of its last states."""
    queued = min(script.queued, age)
    resolving = min(script.resolving, age - queued)
    return msgspec.structs.replace(
        script, queued=queued, resolving=resolving, running=age - queued - resolving, hangs_after=None
    )


# ---------------------------------------------------------------------------------------------------- thrown by dice

_ENDINGS = {"fine": 80, "partial": 9, "failed": 4, "empty": 3, "incomplete": 2, "hung": 2}
_CODES = ("5001", "5002", "5007", "10212", "10223", NO_CODE)
_CODE_WEIGHTS = (30, 30, 20, 10, 7, 3)
_FOLDERS = 0.03
"""Share of the jobs whose folders expand into hundreds or thousands of files."""
_UNRECORDED = 0.1
"""Share of the failed jobs whose result has fewer error records than files failed."""
_TWO_CODES = 0.3
"""Share of the failed jobs with errors of more than one code."""


def roll(dice: Random, files: int | None = None, *, may_hang: bool = True) -> JobScript:
    """A plausible job of a busy user; *files* fixes how many files it comprises."""
    ending = dice.choices(tuple(_ENDINGS), tuple(_ENDINGS.values()))[0]
    total = _roll_size(dice) if files is None else files
    if ending == "empty" and files is None:
        total = 0
    failed = 0
    if total and ending == "failed":
        failed = total
    elif total and ending == "partial":
        failed = min(total, 1 + int(dice.expovariate(8 / total)))
    completed = total - failed
    if ending == "incomplete":
        completed -= min(completed, 1 + int(dice.expovariate(8 / (total + 1))))
    queued = dice.expovariate(1 / 8)
    resolving = 0.2 + total * 0.02 * dice.random()
    running = 0.3 + total * dice.lognormvariate(-1, 1)
    return JobScript(
        operation=dice.choices(OPERATIONS, (70, 15, 15))[0],
        total=total,
        completed=completed,
        failed=failed,
        errors=_roll_errors(dice, failed) if failed else None,
        queued=queued,
        resolving=resolving,
        running=running,
        hangs_after=(dice.random() * (queued + resolving + running) if ending == "hung" and may_hang else None),
    )


def _roll_size(dice: Random) -> int:
    if dice.random() < _FOLDERS:
        return 100 + int(min(dice.lognormvariate(6.5, 0.8), 6000))
    return min(1 + int(dice.expovariate(1 / 12)), 100)


def _roll_errors(dice: Random, failed: int) -> dict[str, int]:
    """Records for *failed* files: mostly of one code, sometimes of two, now and then for fewer files than failed."""
    records = dice.randint(0, failed) if dice.random() < _UNRECORDED else failed
    first, second = dice.choices(_CODES, _CODE_WEIGHTS, k=2)
    of_second = dice.randint(0, records) if dice.random() < _TWO_CODES else 0
    errors = {first: records - of_second}
    errors[second] = errors.get(second, 0) + of_second
    return {code: count for code, count in errors.items() if count}


# ------------------------------------------------------------------------------------------------- asked for by a user

_NAMED_FATES = {"missing": "5002", "forbidden": "5001", "broken": "5007", "lost": "10212", "taken": "10223"}
"""How a submitted file fails whose id begins with the word: rehearsing a failure needs no control request."""

_FOLDER = re.compile(r"folder-(\d{1,5})")
"""The id of a folder in a submitted job, with the number of files in it."""


def of_submitted(operation: str, files: Sequence[str], dice: Random) -> JobScript:
    """The script of a job that was submitted with these file ids, as told by how the ids begin."""
    total, errors = 0, dict[str, int]()
    for name in files:
        folder = _FOLDER.match(name)
        total += int(folder[1]) if folder else 1
        for word, code in _NAMED_FATES.items():
            if name.startswith(word):
                errors[code] = errors.get(code, 0) + 1
    return JobScript(
        operation=operation,
        total=total,
        failed=sum(errors.values()),
        errors=errors,
        queued=0.5 + dice.random(),
        resolving=0.5 + dice.random(),
        running=1.0 + 0.05 * total * dice.random(),
    )

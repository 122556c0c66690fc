"""The course of a job, decided when it is submitted.

A script gives the duration of each state and the final counts. The job's data at any later time is a pure function of
the script and the job's age. There is no ticking state, so identical requests get identical responses.

1. SUBMITTED for ``queued`` seconds: no file is known yet.
2. RESOLVING for ``resolving`` seconds: folders are expanded, ``total_files`` grows.
3. RUNNING for ``running`` seconds: files complete or fail, with a failure first.
4. FINISHED, with or without failed files: there is no state for failure.
"""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from random import Random
from typing import NamedTuple

import msgspec

OPERATIONS = ("copy", "move", "delete")
"""The operations with a single-job endpoint. A script may name others, which appear in the list only."""

NO_CODE = "none"
"""In scripts, the code of an error record without a code."""


class State(StrEnum):
    """The documented states, in the order in which a job passes through them."""

    SUBMITTED = "SUBMITTED"
    RESOLVING = "RESOLVING"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"


class Shown(StrEnum):
    """Where a field of a finished job is shown."""

    ALWAYS = "always"
    ALONE = "alone"
    """Only in the response to a single-job request, not in the list."""
    NEVER = "never"


class JobScript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The course of one job. A struct because it is also sent as JSON, and because there may be 100,000 of them."""

    operation: str = "copy"
    """The operation, in lower case."""
    total: int = 1
    """Files in the job, after its folders are expanded."""
    completed: int | None = None
    """Files completed at the end. Default: all that do not fail. With fewer, the job is incomplete."""
    failed: int = 0
    """Files failed at the end."""
    errors: Mapping[str, int] | None = None
    """Error records in the result by code (``none``: without a code). Default: code 5001 for each failed file."""
    queued: float = 2.0
    """Seconds in state SUBMITTED."""
    resolving: float = 1.0
    """Seconds in state RESOLVING."""
    running: float = 5.0
    """Seconds in state RUNNING."""
    hangs_after: float | None = None
    """Seconds after submission at which the job stops changing."""
    state: str | None = None
    """An undocumented state in which the job ends or hangs."""
    times: Shown = Shown.ALWAYS
    """Where ``started_on`` and ``finished_on`` are shown."""
    result: Shown = Shown.ALWAYS
    """Where the result is shown."""

    def __post_init__(self) -> None:
        if self.errors and not all(code.isdecimal() or code == NO_CODE for code in self.errors):
            raise ValueError(f"errors: expected codes that are numbers or {NO_CODE!r}, not {', '.join(self.errors)}")
        whole = self.queued + self.resolving + self.running
        if self.hangs_after is not None and self.hangs_after >= whole:
            raise ValueError(
                f"hangs_after: expected less than {whole:g} s, after which the job has finished (queued +"
                f" resolving + running), not {self.hangs_after:g}"
            )

    @property
    def completes(self) -> int:
        """Files completed at the end."""
        return self.total - self.failed if self.completed is None else self.completed

    @property
    def error_records(self) -> Mapping[str, int]:
        """Number of error records in the result by code."""
        if self.errors is not None:
            return self.errors
        return {"5001": self.failed} if self.failed else {}

    @property
    def lasts(self) -> float | None:
        """Seconds from submission to finish; None for a job that hangs."""
        return self.queued + self.resolving + self.running if self.hangs_after is None else None


class Progress(NamedTuple):
    """State and counts of a job at one time."""

    state: str
    total: int
    completed: int
    failed: int


def progress(script: JobScript, age: float) -> Progress:
    """Return state and counts *age* seconds after submission."""
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
    """Return the script changed to finish *age* seconds after submission, by shortening its last states."""
    queued = min(script.queued, age)
    resolving = min(script.resolving, age - queued)
    return msgspec.structs.replace(
        script, queued=queued, resolving=resolving, running=age - queued - resolving, hangs_after=None
    )


# ---------------------------------------------------------------------------------------------------------- random jobs

_ENDINGS = {"fine": 80, "partial": 9, "failed": 4, "empty": 3, "incomplete": 2, "hung": 2}
_CODES = ("5001", "5002", "5007", "10212", "10223", NO_CODE)
_CODE_WEIGHTS = (30, 30, 20, 10, 7, 3)
_FOLDERS = 0.03
"""Share of jobs whose folders expand into hundreds or thousands of files."""
_UNRECORDED = 0.1
"""Share of failed jobs with fewer error records than failed files."""
_TWO_CODES = 0.3
"""Share of failed jobs with errors of two codes."""


def roll(dice: Random, files: int | None = None, *, may_hang: bool = True) -> JobScript:
    """Return a plausible random job of a busy user, with *files* files if given."""
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
    """Return error records for *failed* files: usually of one code, sometimes of two or for fewer files."""
    records = dice.randint(0, failed) if dice.random() < _UNRECORDED else failed
    first, second = dice.choices(_CODES, _CODE_WEIGHTS, k=2)
    of_second = dice.randint(0, records) if dice.random() < _TWO_CODES else 0
    errors = {first: records - of_second}
    errors[second] = errors.get(second, 0) + of_second
    return {code: count for code, count in errors.items() if count}


# -------------------------------------------------------------------------------------------- jobs submitted by clients

_NAMED_FATES = {"missing": "5002", "forbidden": "5001", "broken": "5007", "lost": "10212", "taken": "10223"}
"""Error codes of submitted files by the beginning of their id, for rehearsals without control requests."""

_FOLDER = re.compile(r"folder-(\d{1,5})")
"""Id of a folder in a submitted job, with the number of its files."""


def of_submitted(operation: str, files: Sequence[str], dice: Random) -> JobScript:
    """Return the script of a job submitted with these file ids; their beginnings select failures."""
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

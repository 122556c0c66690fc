"""A job as one answer showed it: plain frozen values.

``msgspec.Struct`` stands in for a dataclass because a page makes a hundred of them and a frozen
dataclass costs six times as much to make.
"""

from enum import StrEnum
from typing import Final

import msgspec


class Operation(StrEnum):
    """The operations whose single-job endpoint is documented. Others may be listed, under their own names."""

    COPY = "copy"
    MOVE = "move"
    DELETE = "delete"


class State(StrEnum):
    """The documented states. There is none for failure: a job whose every file failed is FINISHED."""

    SUBMITTED = "submitted"
    RESOLVING = "resolving"
    RUNNING = "running"
    FINISHED = "finished"


class Outcome(StrEnum):
    """What became of a job, in the exporter's words."""

    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    INCOMPLETE = "incomplete"
    LOST = "lost"


OPERATIONS: Final = tuple(Operation)
STATES: Final = tuple(State)
OUTCOMES: Final = tuple(Outcome)

OTHER: Final = "other"
"""The label of a value that cannot be, or is no longer, shown as itself."""

FINAL_RANK: Final = 3
_RANKS: Final = {State.SUBMITTED: 0, State.RESOLVING: 1, State.RUNNING: 2, State.FINISHED: FINAL_RANK}
_RUNNING_RANK: Final = 2


def rank(state: str, finished_on: float | None) -> int:
    """How far a job has come, 0 to 3, so that of two sightings the more advanced can be told.

    A state that the documentation does not name is final when it comes with ``finished_on``, else like RUNNING.
    """
    known = _RANKS.get(state)  # type: ignore[call-overload]  # a plain string finds its StrEnum key
    if known is not None:
        return int(known)
    return FINAL_RANK if finished_on is not None else _RUNNING_RANK


class Job(msgspec.Struct, frozen=True, gc=False):
    """One job as one answer showed it.

    Attributes:
        id: the platform's id: digits, longer than a float can hold.
        operation: ``copy``, ``move``, ``delete``, or any other type in lower case.
        state: one of :class:`State`, or any other state in lower case.
        total: files that the job comprises; None where the answer did not say.
        completed: files done; None where the answer did not say.
        failed: files that failed; None where the answer did not say.
        started_on: Unix seconds; None before the start or where unreadable.
        finished_on: Unix seconds; None before the end or where unreadable.
        errors: error records in its result as (code, number) pairs, sorted by code. Read only from jobs with
            failed files; None where the answer held no result.
    """

    id: str
    operation: str
    state: str
    total: int | None = None
    completed: int | None = None
    failed: int | None = None
    started_on: float | None = None
    finished_on: float | None = None
    errors: tuple[tuple[str, int], ...] | None = None

    @property
    def rank(self) -> int:
        """How far it has come: see :func:`rank`."""
        return rank(self.state, self.finished_on)

    @property
    def progress(self) -> tuple[int, int]:
        """Rank and files dealt with: of two sightings the one with more of it is the more advanced."""
        return self.rank, (self.completed or 0) + (self.failed or 0)

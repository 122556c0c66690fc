"""A job as one API response reported it, and the values of its fields.

``Job`` is a ``msgspec.Struct``: each page creates a hundred of them, and a frozen dataclass takes six times as long to
create.
"""

from enum import StrEnum
from typing import Final

import msgspec


class Operation(StrEnum):
    """The operations with a documented single-job endpoint. The list may name others."""

    COPY = "copy"
    MOVE = "move"
    DELETE = "delete"


class State(StrEnum):
    """The documented states. None of them means failure: a job whose every file failed is FINISHED."""

    SUBMITTED = "submitted"
    RESOLVING = "resolving"
    RUNNING = "running"
    FINISHED = "finished"


class Outcome(StrEnum):
    """The exporter's final verdict on a job."""

    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    INCOMPLETE = "incomplete"
    LOST = "lost"


OPERATIONS: Final = tuple(Operation)
STATES: Final = tuple(State)
OUTCOMES: Final = tuple(Outcome)

OTHER: Final = "other"
"""Label for values that are not usable as labels, or exceed the allowed number of labels."""

FINAL_RANK: Final = 3
_RANKS: Final = {State.SUBMITTED: 0, State.RESOLVING: 1, State.RUNNING: 2, State.FINISHED: FINAL_RANK}
_RUNNING_RANK: Final = 2


def rank(state: str, finished_on: float | None) -> int:
    """Return the job's progress through the states, 0 to 3, to compare two observations.

    An undocumented state is final if the job has ``finished_on``, else it ranks like RUNNING.
    """
    known = _RANKS.get(state)  # type: ignore[call-overload]  # a plain string equals its StrEnum key
    if known is not None:
        return int(known)
    return FINAL_RANK if finished_on is not None else _RUNNING_RANK


class Job(msgspec.Struct, frozen=True, gc=False):
    """One observation of a job. Counts that the response did not report are None.

    Attributes:
        id: the platform's id: digits, more than a float can represent.
        operation: ``copy``, ``move``, ``delete``, or another type in lower case.
        state: one of :class:`State`, or another state in lower case.
        total: files in the job.
        completed: files completed.
        failed: files that failed.
        started_on: Unix seconds; None before the start or if unreadable.
        finished_on: Unix seconds; None before the end or if unreadable.
        errors: the number of error records per code as pairs, sorted by code. Decoded only for jobs with failed files;
            None if the response had no result.
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
        """See :func:`rank`."""
        return rank(self.state, self.finished_on)

    @property
    def progress(self) -> tuple[int, int]:
        """Rank and number of processed files. The observation with the larger value is the more advanced."""
        return self.rank, (self.completed or 0) + (self.failed or 0)

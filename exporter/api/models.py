"""The values of the API: jobs, pages of jobs, rate limits, and the priority of requests.

``Job`` is a ``msgspec.Struct``: each page creates a hundred of them, and a frozen dataclass takes six times as long to
create.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, Generic, TypeVar

import msgspec

T = TypeVar("T")


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
INCOMPLETE_OR_LOST: Final = frozenset({Outcome.INCOMPLETE, Outcome.LOST})

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
            None if the response had no result, or none that could be read.
        result_unreadable: whether the response had a result, but not a list of records. Another response may have one.
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
    result_unreadable: bool = False

    @property
    def rank(self) -> int:
        """See :func:`rank`."""
        return rank(self.state, self.finished_on)

    @property
    def progress(self) -> tuple[int, int]:
        """Rank and number of processed files. The observation with the larger value is the more advanced."""
        return self.rank, (self.completed or 0) + (self.failed or 0)


BAD_TIME: Final = "bad_time"
"""The reason that stands for unreadable times."""
PAGE_LIMIT: Final = 100
"""Maximum number of jobs per page."""


class Page(msgspec.Struct, frozen=True):
    """One decoded page of the job list.

    Attributes:
        jobs: the readable records, in the order of the list.
        items: the number of records, readable or not; offsets count these.
        skipped: the number of unreadable records by reason.
        last: the position of the last readable record; -1 if there is none.
        has_next: whether the platform links a next page (the link itself is never followed).
        whole: whether every record has an id, a type, a state and the three counts.
        next_offset: the offset that the link to the next page names; None if it names none.
        bad_times: the number of times that could not be read; their records are among the readable ones.
        examples: by reason, a few records that could not be read, or whose times could not, in words.
    """

    jobs: tuple[Job, ...]
    items: int
    skipped: Mapping[str, int]
    last: int
    has_next: bool
    whole: bool = True
    next_offset: int | None = None
    bad_times: int = 0
    examples: Mapping[str, str] = {}

    @property
    def unreadable(self) -> Mapping[str, int]:
        """The number of unreadable records by reason, and of unreadable times."""
        return {**self.skipped, BAD_TIME: self.bad_times} if self.bad_times else self.skipped


class RateLimit(msgspec.Struct, frozen=True):
    """The rate limit as reported in the headers of one response. Absent or unreadable values are None.

    Attributes:
        limit: requests allowed per window.
        remaining: requests left in this window.
        reset: the end of the window in Unix seconds of the platform's clock.
    """

    limit: int | None
    remaining: int | None
    reset: float | None


class ApiError(msgspec.Struct, frozen=True):
    """The body of an error response.

    Attributes:
        code: the platform's error code; None if the body is not the platform's JSON.
        message: the platform's message, shortened; empty if there is none.
    """

    code: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Response(Generic[T]):
    """A value and the platform's time of the response (``Date`` in Unix seconds; None if absent)."""

    value: T
    date: float | None


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page of the job list.

    Attributes:
        date: the platform's time of the response in Unix seconds; None if absent.
        total: the platform's count of all jobs in the list; None if absent.
        limit: the number of jobs requested, reduced while responses are too large.
    """

    page: Page
    date: float | None
    total: int | None
    limit: int = PAGE_LIMIT

    def end(self, offset: int) -> int:
        """Return the offset behind this page, which begins at *offset*.

        It shows fewer jobs than it covers where the platform leaves some out. Then the link to the next page says how
        many it covers.
        """
        named = self.page.next_offset
        if named is not None and offset < named <= offset + self.limit:
            return named
        cut = self.page.has_next and self.page.items <= 1  # no platform puts a single job on each page
        return offset + (self.limit if cut else max(1, self.page.items))

    @property
    def unread(self) -> bool:
        """Whether it stands for a job that was too large to read."""
        return "too_large" in self.page.skipped


class Priority(IntEnum):
    """The purpose of a request; a lower value has precedence."""

    DISCOVERY = 0
    """The user, the head pages, the full listing of a small account."""
    REFRESH = 1
    """Unfinished jobs that are not on the head pages, and the error codes of failed ones."""
    BACKGROUND = 2
    """The full listing of a large account, a few pages per poll."""

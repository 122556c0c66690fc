"""The plan's vocabulary: what it asks for, what comes back, and what it knows at the time. Pure.

A phase of the plan is a generator: it yields a :data:`Request`, is sent the :data:`Result`, and does no I/O itself.
"""

from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from exporter.api.models import Job, JobPage, Operation, Priority
from exporter.counting.values import JobRecord, Retry

PAGES_PER_PHASE: Final = 50
"""Most list pages of one phase: what they showed is counted before more are requested."""


class ListPage(NamedTuple):
    """Request the page of the job list that begins at *offset*."""

    offset: int
    priority: Priority


class GetJob(NamedTuple):
    """Request one job by its own endpoint, which failed as often in a row before."""

    operation: Operation
    job_id: str
    failures: int = 0


class PageResult(NamedTuple):
    """A page of the list, and the ids of its jobs that the ledger, or this poll, already knew."""

    response: JobPage
    known: Collection[str]

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs on the page."""
        return self.response.page.jobs

    @property
    def new(self) -> list[str]:
        """The ids of its jobs that were not known."""
        return [job.id for job in self.jobs if job.id not in self.known]


class JobResult(NamedTuple):
    """Result of a single-job request. `conclusive` is false if the response said nothing about the job."""

    conclusive: bool = True


class Failed(NamedTuple):
    """The page could not be read. The phase goes on without it."""


class Exhausted(NamedTuple):
    """The request was not made, because the allowance, or the time before the next look, is exhausted for now."""


Request = ListPage | GetJob
Result = PageResult | JobResult | Failed | Exhausted
Phase = Generator[Request, Result, None]


@dataclass(frozen=True, slots=True)
class LedgerView:
    """What the plan needs to know of the ledger before a phase.

    Attributes:
        live: job records that are unfinished or still need details, by id.
        listed: how many jobs the platform lists, as far as is known.
        ever_listed: whether a full listing was ever completed.
        listing_age: seconds since the last complete listing, by the account's wait clock; None before the first.
        retries: when jobs whose own endpoint failed may be requested again, as committed.
        wait_clock: the account's wait clock now.
    """

    live: Mapping[str, JobRecord]
    listed: int
    ever_listed: bool
    listing_age: float | None
    retries: Mapping[str, Retry] = field(default_factory=dict)
    wait_clock: float = 0.0


@dataclass(frozen=True, slots=True)
class Tick:
    """The circumstances of one phase.

    Attributes:
        now: monotonic seconds.
        ledger: the ledger as it is before the phase.
        budget: requests per poll that :meth:`.plan.PollPlan.refresh` may make, also less than one; the other phases
            have limits of their own.
    """

    now: float
    ledger: LedgerView
    budget: float = 0

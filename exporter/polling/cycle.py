"""One cycle of one account: fetch, reconcile, commit. No schedule, no thread, no metrics.

A cycle that fails halfway still counts what it observed: counting is idempotent, and the observations of a partial
listing are as valid as those of a complete one. Only a complete listing shows which jobs the platform no longer lists.

The first phase, the *look*, decides whether the poll succeeds. Each request after it may fail alone, and ends before
the next look is due (see :mod:`.time_left`). Only a platform that refuses all requests ends them.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from exporter.api.models import FINAL_RANK, Job, JobPage, Operation, Priority, Response
from exporter.clock import Clock
from exporter.counting.rules import least_advanced_first, reconcile, since_listing
from exporter.counting.values import Changes, JobFinished, JobRecord, JobTotals, Ledger, Observations, Retry, Rules
from exporter.errors import AllowanceExhausted, BadAnswer, JobRequestFailed, PollError, Unauthorized, Unreachable
from exporter.polling.plan import PollPlan
from exporter.polling.platform_clock import WaitTimer
from exporter.polling.requests import (
    Exhausted,
    Failed,
    GetJob,
    JobResult,
    LedgerView,
    ListPage,
    PageResult,
    Phase,
    Request,
    Result,
    Tick,
)
from exporter.polling.stats import PollStats
from exporter.polling.time_left import TimeLeft

Stopped = PollError | AllowanceExhausted | None
"""The error that ended a phase early; None if the phase ran to its end."""


class Source(Protocol):
    """The part of the API client that a cycle uses."""

    def page(self, offset: int, priority: Priority, *, until: float) -> JobPage:
        """Return the page of the job list that begins at *offset*; give up at *until*, in monotonic seconds."""
        ...

    def job(self, operation: Operation, job_id: str, *, until: float) -> Response[Job | None]:
        """Return one job from its own endpoint; without a value if the platform does not know the job."""
        ...

    def user(self) -> Response[str]:
        """Return the user that the token belongs to."""
        ...


class Records(Protocol):
    """The stored job records; *number* is the account's number in the state file."""

    def records(self, number: int, ids: Collection[str]) -> Mapping[str, JobRecord]:
        """Return the records of those of *ids* that have one."""
        ...

    def no_longer_listed(self, number: int, listed: Collection[str]) -> Iterable[JobRecord]:
        """Return the records of jobs that were listed before and are not among *listed*."""
        ...

    def expirable(self, number: int, listing_clock: float) -> Iterable[JobRecord]:
        """Return the records that expire at this time of the account's listing clock."""
        ...


@dataclass(frozen=True, slots=True)
class CycleResult:
    """Result of one cycle.

    Attributes:
        ledger: the ledger after the cycle, as committed.
        ahead: what its live jobs would be if the commit had not failed; None if it has not. For gauges only: the next
            cycle goes on from what is committed, so that a job that never was is not requested once it is unlisted.
        listed: totals over the listed jobs, as observed.
        complete: whether the cycle completed a full listing.
        written: whether the changes are committed; if not, the next cycle finds them again.
        discovered: whether the first phase, which finds new jobs, ran to its end.
        stopped: the error that ended the cycle early.
        saw_jobs: whether it observed any job.
    """

    ledger: Ledger
    ahead: Mapping[str, JobRecord] | None
    listed: Mapping[tuple[str, str], JobTotals]
    complete: bool
    written: bool
    discovered: bool
    stopped: Stopped
    saw_jobs: bool

    @property
    def may_continue(self) -> bool:
        """Whether the full listing of a large account may continue after this cycle."""
        return self.written and self.stopped is None


@dataclass(slots=True)
class ObservationBuffer:
    """Collects the observations of a cycle's phases, and the job records loaded for them."""

    jobs: list[Job] = field(default_factory=list)
    listed: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    list_answered: bool = False
    unread: bool = False
    looked_up: set[str] = field(default_factory=set)
    records: dict[str, JobRecord] = field(default_factory=dict)

    @property
    def ids(self) -> set[str]:
        """Every job with an observation."""
        return self.listed | self.asked | self.refused | self.unknown

    def committed(self, changes: Changes) -> None:
        """Replace the job records by those of *changes*, and keep of each job the observation that they are from."""
        self.jobs = list({job.id: job for job in least_advanced_first(self.jobs)}.values())
        self.records.update(changes.records)
        for job_id in changes.forgotten:
            self.records.pop(job_id, None)


def _finishes_without_errors(changes: Changes) -> list[JobFinished]:
    """The finishes whose jobs' errors are still to be requested, often within the same poll."""
    return [
        event
        for event in changes.events
        if isinstance(event, JobFinished) and event.record.failed and event.record.needs_details
    ]


class PollCycle:
    """Makes the plan's requests, reconciles the observations with the ledger, and commits the changes."""

    def __init__(
        self,
        plan: PollPlan,
        source: Source,
        records: Records,
        *,
        rules: Rules,
        stats: PollStats,
        clock: Clock,
        commit: Callable[[Ledger, Changes], bool],
    ) -> None:
        """A cycle.

        Args:
            plan: chooses the requests.
            source: the API client.
            records: the stored job records.
            rules: the settings that counting depends on.
            stats: records the responses, and estimates the platform's time from them.
            clock: this machine's clock.
            commit: writes the changes of a ledger, and returns whether that succeeded.
        """
        self._plan = plan
        self._source = source
        self._records = records
        self.rules = rules
        self._stats = stats
        self._clock = clock
        self._commit = commit
        self._waits = WaitTimer(stats.platform_clock)
        self._time = TimeLeft()
        self._token_proven = False
        """Whether this poll has asked the platform whether it accepts the token."""

    def run(
        self,
        ledger: Ledger,
        budget: float,
        next_look: Callable[[float], float] = lambda _: math.inf,
        look_counted: Callable[[CycleResult], None] = lambda _: None,
    ) -> CycleResult:
        """Run the first two phases: discover new jobs, then refresh unfinished ones by about *budget* requests.

        What the first phase saw is committed before the second begins, which a slow platform may make long.

        Args:
            ledger: as committed.
            budget: requests to refresh by, per poll; may be less than one.
            next_look: returns when the next poll is due after a given time; both in monotonic seconds.
            look_counted: called when changes that the first phase made are committed, and requests follow.

        Raises:
            Exception: an unexpected error; the plan has forgotten what was not counted.
        """
        tick, seen = Tick(self._clock.monotonic(), self.view(ledger), budget), ObservationBuffer()
        self._token_proven = False
        self._stats.jobs_in_question(ledger.live.keys())
        with self._forgotten_if_not_counted(tick.now):
            stopped, changes = self._discover(tick, ledger, seen)
            if stopped is not None:
                return self._settled(tick.now, self._count(ledger, changes, seen, stopped, discovered=False))
            now = self._clock.monotonic()
            self._time.look_ended(now, next_look(now), listing=self._plan.incremental)
            phase = self._plan.refresh(replace(tick, ledger=self.view(ledger.after(changes))))
            return self._settled(tick.now, self._refresh(phase, ledger, changes, seen, look_counted))

    def _discover(self, tick: Tick, ledger: Ledger, seen: ObservationBuffer) -> tuple[Stopped, Changes]:
        """Run the first phase; return the error that ended it, and the changes that it makes."""
        stopped = self._run_phase(self._plan.discover(tick), ledger, seen)
        if stopped is None and seen.unread and not seen.jobs:
            stopped = BadAnswer("no job of the list could be read: each is too large")
        changes = self._reconcile(ledger, seen)
        if isinstance(stopped, AllowanceExhausted):
            self._plan.cut_short()
        return stopped, changes

    def _refresh(
        self,
        phase: Phase,
        ledger: Ledger,
        changes: Changes,
        seen: ObservationBuffer,
        look_counted: Callable[[CycleResult], None],
    ) -> CycleResult:
        """Commit the *changes* of the first phase, then run *phase*, the second one, and commit its changes."""
        request = next(phase, None)
        changes = replace(changes, retries=self._unsaved_retries(ledger))  # the phase has read the stored ones
        if request is None:
            return self._count(ledger, changes, seen)
        finishes = _finishes_without_errors(changes)
        logged = tuple(event for event in changes.events if event not in finishes)
        look = self._count(ledger, replace(changes, events=logged), seen)
        with self._logged_with_errors(finishes if look.written else []) as records:
            if look.written and changes:
                seen.committed(changes)
                look_counted(look)
            stopped = self._run_phase(phase, look.ledger, seen, request)
            changes = self._reconcile(look.ledger, seen)
            result = self._count(look.ledger, changes, seen, stopped, commit=look.written)
            records.update(changes.records if result.written else {})
        return result

    def continue_listing(self, ledger: Ledger) -> CycleResult:
        """Run the third phase: read the next pages of a large account's full listing.

        Raises:
            Exception: see :meth:`run`.
        """
        tick, seen = Tick(self._clock.monotonic(), self.view(ledger)), ObservationBuffer()
        with self._forgotten_if_not_counted(tick.now):
            stopped = self._run_phase(self._plan.continue_listing(tick), ledger, seen)
            return self._settled(tick.now, self._count(ledger, self._reconcile(ledger, seen), seen, stopped))

    def view(self, ledger: Ledger) -> LedgerView:
        """Return what the plan needs to know of *ledger*."""
        reading = self._waits.peek(ledger.wait_clock, self._clock.monotonic(), self._clock.time())
        age = since_listing(ledger.account, ledger.wait_clock, reading, self._stats.server_time)
        return LedgerView(
            ledger.live,
            sum(totals.jobs for totals in ledger.listed.values()),
            ledger.account.ever_listed,
            None if age is None else max(0.0, age),
            ledger.retries,
            reading.seconds,
        )

    def _count(
        self,
        ledger: Ledger,
        changes: Changes,
        seen: ObservationBuffer,
        stopped: Stopped = None,
        *,
        discovered: bool = True,
        commit: bool = True,
    ) -> CycleResult:
        """Commit *changes*, unless *commit* is false, and return the cycle's result so far."""
        written = commit and self._commit(ledger, changes)
        if written:
            self._plan.retries_saved()
        after = ledger.after(changes)
        return CycleResult(
            after if written else ledger,
            None if written else after.live,
            changes.listed,
            complete=self._plan.listing is not None,
            written=written,
            discovered=discovered,
            stopped=stopped,
            saw_jobs=bool(seen.jobs),
        )

    def _unsaved_retries(self, ledger: Ledger) -> Mapping[str, Retry | None]:
        now = self._clock.monotonic()
        return self._plan.unsaved_retries(now, self._waits.peek(ledger.wait_clock, now, self._clock.time()).seconds)

    def _settled(self, now: float, result: CycleResult) -> CycleResult:
        """Tell the plan how the cycle ended, and return its result."""
        self._plan.settle(now, written=result.written, failed=isinstance(result.stopped, PollError))
        return result

    @contextmanager
    def _logged_with_errors(self, finishes: Iterable[JobFinished]) -> Iterator[dict[str, JobRecord]]:
        """Log *finishes*, which are committed, at the end of the block, with the records that the block puts down."""
        records: dict[str, JobRecord] = {}
        try:
            yield records
        finally:
            for finish in finishes:
                self._stats.committed(JobFinished(records.get(finish.record.id, finish.record)))

    @contextmanager
    def _forgotten_if_not_counted(self, now: float) -> Iterator[None]:
        """If an error leaves the block, make the plan forget what was not counted."""
        try:
            yield
        except BaseException:
            self._plan.forget(now)
            raise

    # ---- fetch ----

    def _run_phase(
        self, phase: Phase, ledger: Ledger, seen: ObservationBuffer, request: Request | None = None
    ) -> Stopped:
        """Make the requests of *phase*, collect the observations in *seen*, and return the error that ended it.

        *request* is the first one, if it is known already.
        """
        try:
            request = request or next(phase)
            while True:
                request = phase.send(self._execute(request, ledger, seen))
        except StopIteration:
            return None
        except (PollError, AllowanceExhausted) as error:
            phase.close()
            return error

    def _execute(self, request: Request, ledger: Ledger, seen: ObservationBuffer) -> Result:
        try:
            if isinstance(request, GetJob):
                return self._job(request, seen)
            match request.priority:
                case Priority.DISCOVERY:
                    return self._look(request, ledger, seen)
                case Priority.REFRESH:
                    return self._refresh_page(request, ledger, seen)
                case Priority.BACKGROUND:
                    return self._slice(request, ledger, seen)
        except AllowanceExhausted:
            if isinstance(request, ListPage) and request.priority is Priority.DISCOVERY:
                raise
            return Exhausted()

    def _look(self, request: ListPage, ledger: Ledger, seen: ObservationBuffer) -> PageResult:
        began = self._clock.monotonic()
        result = self._page(request, ledger, seen, math.inf)
        self._time.look_answered(self._clock.monotonic() - began)
        return result

    def _refresh_page(self, request: ListPage, ledger: Ledger, seen: ObservationBuffer) -> Result:
        began = self._clock.monotonic()
        seconds = self._time.for_page(began)
        if seconds is None:
            return Exhausted()
        try:
            result = self._page(request, ledger, seen, began + seconds)
        except (Unreachable, BadAnswer) as error:
            self._stats.page_failed(str(error))
            return Failed()
        self._stats.page_answered()
        return result

    def _slice(self, request: ListPage, ledger: Ledger, seen: ObservationBuffer) -> Result:
        began = self._clock.monotonic()
        seconds = self._time.for_slice(began)
        if seconds is None:
            return Exhausted()
        try:
            result = self._page(request, ledger, seen, began + seconds)
        except PollError:
            now = self._clock.monotonic()
            self._time.slice_ended(now, now - began, seconds, answered=False)
            raise
        now = self._clock.monotonic()
        self._time.slice_ended(now, now - began, seconds, answered=True)
        self._stats.page_answered()
        return result

    def _page(self, request: ListPage, ledger: Ledger, seen: ObservationBuffer, until: float) -> PageResult:
        response = self._source.page(*request, until=until)
        self._stats.answered()
        self._stats.page_read(response.date, response.page.unreadable, response.page.examples)
        ids = {job.id for job in response.page.jobs}
        self._look_up(ids, ledger, seen)
        known = {job_id for job_id in ids if job_id in seen.records or job_id in seen.listed}
        seen.jobs.extend(response.page.jobs)
        seen.listed |= ids
        seen.list_answered = True
        seen.unread = seen.unread or response.unread
        return PageResult(response, known)

    def _job(self, request: GetJob, seen: ObservationBuffer) -> Result:
        began = self._clock.monotonic()
        seconds = self._time.for_job(began, request.failures)
        if seconds is None:
            return Exhausted()
        try:
            response = self._source.job(request.operation, request.job_id, until=began + seconds)
        except JobRequestFailed as error:
            return self._job_refused(request, str(error), seen)
        except Unauthorized as error:
            self._prove_token()
            return self._job_refused(request, str(error), seen)
        self._time.job_answered(self._clock.monotonic() - began)
        self._stats.date_received(response.date)
        job = response.value
        if job is not None:
            seen.jobs.append(job)
            if job.result_unreadable and job.rank == FINAL_RANK:
                return self._job_refused(request, "its result is not a list", seen)
            seen.asked.add(job.id)
        else:
            seen.unknown.add(request.job_id)
        self._stats.job_answered(request.job_id)
        return JobResult()

    def _job_refused(self, request: GetJob, reason: str, seen: ObservationBuffer) -> JobResult:
        self._stats.job_refused(request.job_id, reason)
        seen.refused.add(request.job_id)
        return JobResult(conclusive=False)

    def _prove_token(self) -> None:
        """Ask, once a poll, whether the platform accepts the token, which one job's endpoint has refused.

        Raises:
            Unauthorized: it does not.
        """
        if not self._token_proven:
            with suppress(Unreachable, BadAnswer):
                self._source.user()
            self._token_proven = True

    # ---- reconcile ----

    def _look_up(self, ids: set[str], ledger: Ledger, seen: ObservationBuffer) -> None:
        """Load the committed job records of *ids* into *seen*."""
        seen.records.update(self._records.records(ledger.account.number, ids - seen.looked_up))
        seen.looked_up |= ids

    def _reconcile(self, ledger: Ledger, seen: ObservationBuffer) -> Changes:
        """Return the changes that the observations in *seen* make."""
        number, listing = ledger.account.number, self._plan.listing
        self._look_up(seen.ids, ledger, seen)
        now = self._clock.monotonic()
        wait_clock = self._waits.read(ledger.wait_clock, now, self._clock.time())
        changes = reconcile(
            ledger,
            seen.records,
            Observations(
                seen.jobs,
                seen.listed,
                asked=seen.asked,
                refused=seen.refused,
                unknown=seen.unknown if seen.list_answered else (),
                no_longer_listed=() if listing is None else self._records.no_longer_listed(number, listing),
                expirable=() if listing is None else self._records.expirable(number, ledger.account.listing_clock),
                complete=listing is not None,
            ),
            self.rules,
            local_time=self._clock.time(),
            server_time=self._stats.server_time,
            wait_clock=wait_clock,
        )
        return replace(changes, retries=self._plan.unsaved_retries(now, wait_clock.seconds))

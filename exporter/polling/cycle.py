"""One cycle of one account: fetch, reconcile, commit. No schedule, no thread, no metrics.

A cycle that fails part of the way still counts what it saw, since counting is idempotent and a partial listing is as
true as a complete one. Only a complete listing says which jobs the platform no longer lists.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from exporter.api.models import Job, JobPage, Operation, Priority, Response
from exporter.clock import Clock
from exporter.counting.rules import reconcile
from exporter.counting.values import Changes, JobRecord, JobTotals, Ledger, Observations, Rules
from exporter.errors import AllowanceExhausted, BadAnswer, JobRequestFailed, PollError, Unreachable
from exporter.polling.plan import PollPlan
from exporter.polling.requests import (
    Exhausted,
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

Stopped = PollError | AllowanceExhausted | None
"""What ended a phase before it was done, if anything did."""


class Source(Protocol):
    """The platform's API, as a cycle uses it."""

    def page(self, offset: int, priority: Priority) -> JobPage:
        """The page of the job list that begins at *offset*."""
        ...

    def job(self, operation: Operation, job_id: str) -> Response[Job | None]:
        """One job by its own endpoint; no value if the platform says that it does not know it."""
        ...


class Records(Protocol):
    """The stored records of one account's jobs; *number* is the account's."""

    def records(self, number: int, ids: Collection[str]) -> Mapping[str, JobRecord]:
        """The records of those of *ids* that have one."""
        ...

    def no_longer_listed(self, number: int, listed: Collection[str]) -> Iterable[JobRecord]:
        """Records of jobs that were listed and are not among *listed*."""
        ...

    def expirable(self, number: int, listing_clock: float) -> Iterable[JobRecord]:
        """Records that may be deleted at that time of the account's listing clock."""
        ...


@dataclass(frozen=True, slots=True)
class CycleResult:
    """What a cycle changed.

    Attributes:
        ledger: the ledger after it: as committed, but for the jobs to ask about next.
        listed: totals over the listed jobs, as this cycle saw them.
        complete: whether it completed a full listing.
        written: whether its changes are committed; where not, the next cycle finds them again.
        looked: whether the first phase, which shows new jobs, came to its end.
        stopped: what ended it early.
        saw_jobs: whether it saw any job.
    """

    ledger: Ledger
    listed: Mapping[tuple[str, str], JobTotals]
    complete: bool
    written: bool
    looked: bool
    stopped: Stopped
    saw_jobs: bool

    @property
    def may_continue(self) -> bool:
        """Whether the full listing of a large account may go on after this cycle.

        One job that cannot be asked for does not hold it up; a platform that wants no more requests does.
        """
        undisturbed = self.stopped is None or (self.looked and isinstance(self.stopped, Unreachable | BadAnswer))
        return self.written and undisturbed


@dataclass(slots=True)
class ObservationBuffer:
    """What one phase after another has seen: :class:`Observations` in the making, with the records that were loaded."""

    jobs: list[Job] = field(default_factory=list)
    listed: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    list_answered: bool = False
    looked_up: set[str] = field(default_factory=set)
    records: dict[str, JobRecord] = field(default_factory=dict)

    @property
    def ids(self) -> set[str]:
        """Every job that anything was learned of."""
        return self.listed | self.asked | self.refused | self.unknown


class PollCycle:
    """Fetches what a plan asks for, reconciles it with the ledger, and has the changes committed."""

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
            plan: what to ask next.
            source: where to ask.
            records: the job records that are stored.
            rules: the settings that counting depends on.
            stats: hears what was answered, and knows the platform's time.
            clock: this machine's.
            commit: writes changes of a ledger; false if that failed.
        """
        self._plan = plan
        self._source = source
        self._records = records
        self._rules = rules
        self._stats = stats
        self._clock = clock
        self._commit = commit

    def run(self, ledger: Ledger, budget: int) -> CycleResult:
        """The first two phases of a poll: discover new jobs, then refresh unfinished ones by at most *budget* requests.

        Raises:
            Exception: what nobody expects; the plan then does not build on what was not counted.
        """
        tick, seen = Tick(self._clock.monotonic(), self.view(ledger), budget), ObservationBuffer()
        with self._forgotten_if_not_counted(tick.now):
            stopped = self._run_phase(self._plan.discover(tick), ledger, seen)
            changes = self._reconcile(ledger, seen)
            looked = stopped is None
            if isinstance(stopped, AllowanceExhausted):
                self._plan.cut_short()
            if looked:
                tick = replace(tick, ledger=self.view(ledger.after(changes)))
                stopped = self._run_phase(self._plan.refresh(tick), ledger, seen)
                changes = self._reconcile(ledger, seen)
            return self._finish(ledger, changes, tick.now, stopped=stopped, looked=looked, saw_jobs=bool(seen.jobs))

    def continue_listing(self, ledger: Ledger) -> CycleResult:
        """The third phase: the next slices of a large account's full listing.

        Raises:
            Exception: see :meth:`run`.
        """
        tick, seen = Tick(self._clock.monotonic(), self.view(ledger)), ObservationBuffer()
        with self._forgotten_if_not_counted(tick.now):
            stopped = self._run_phase(self._plan.continue_listing(tick), ledger, seen)
            changes = self._reconcile(ledger, seen)
            return self._finish(ledger, changes, tick.now, stopped=stopped, looked=True, saw_jobs=bool(seen.jobs))

    def view(self, ledger: Ledger) -> LedgerView:
        """What the plan needs to know of *ledger*."""
        listed_on = ledger.account.listed_on
        return LedgerView(
            ledger.live,
            sum(totals.jobs for totals in ledger.listed.values()),
            ledger.account.ever_listed,
            None if listed_on is None else max(0.0, self._stats.server_time - listed_on),
        )

    def _finish(
        self, ledger: Ledger, changes: Changes, now: float, *, stopped: Stopped, looked: bool, saw_jobs: bool
    ) -> CycleResult:
        complete, after = self._plan.listing is not None, ledger.after(changes)
        written = self._commit(ledger, changes)
        self._plan.settle(now, written=written, failed=isinstance(stopped, PollError))
        return CycleResult(
            after if written else replace(ledger, live=after.live),
            changes.listed,
            complete=complete,
            written=written,
            looked=looked,
            stopped=stopped,
            saw_jobs=saw_jobs,
        )

    @contextmanager
    def _forgotten_if_not_counted(self, now: float) -> Iterator[None]:
        """Whatever ends the block early, the plan does not go on from what was not counted."""
        try:
            yield
        except BaseException:
            self._plan.forget(now)
            raise

    # ---- fetch ----

    def _run_phase(self, phase: Phase, ledger: Ledger, seen: ObservationBuffer) -> Stopped:
        """Ask what *phase* wants to know, into *seen*; what stopped it, if anything did."""
        try:
            request = next(phase)
            while True:
                request = phase.send(self._execute(request, ledger, seen))
        except StopIteration:
            return None
        except (PollError, AllowanceExhausted) as error:
            phase.close()
            return error

    def _execute(self, request: Request, ledger: Ledger, seen: ObservationBuffer) -> Result:
        try:
            if isinstance(request, ListPage):
                return self._page(request, ledger, seen)
            return self._job(request, seen)
        except AllowanceExhausted:
            if isinstance(request, ListPage) and request.priority is Priority.DISCOVERY:
                raise
            return Exhausted()

    def _page(self, request: ListPage, ledger: Ledger, seen: ObservationBuffer) -> PageResult:
        response = self._source.page(*request)
        self._stats.answered()
        self._stats.page_read(response.date, response.page.skipped)
        ids = {job.id for job in response.page.jobs}
        self._look_up(ids, ledger, seen)
        known = {job_id for job_id in ids if job_id in seen.records or job_id in seen.listed}
        seen.jobs.extend(response.page.jobs)
        seen.listed |= ids
        seen.list_answered = True
        return PageResult(response, known)

    def _job(self, request: GetJob, seen: ObservationBuffer) -> JobResult:
        """One job that only its own endpoint can tell about."""
        try:
            job = self._source.job(*request).value
        except JobRequestFailed as error:
            self._stats.job_refused(request.job_id, str(error))
            seen.refused.add(request.job_id)
            return JobResult(conclusive=False)
        except Unreachable:
            seen.refused.add(request.job_id)  # so that one job whose endpoint always fails does not fail every poll
            raise
        if job is None:
            seen.unknown.add(request.job_id)
        else:
            seen.asked.add(job.id)
            seen.jobs.append(job)
        return JobResult()

    # ---- reconcile ----

    def _look_up(self, ids: set[str], ledger: Ledger, seen: ObservationBuffer) -> None:
        """The committed marks of *ids*, into *seen*."""
        seen.records.update(self._records.records(ledger.account.number, ids - seen.looked_up))
        seen.looked_up |= ids

    def _reconcile(self, ledger: Ledger, seen: ObservationBuffer) -> Changes:
        """What *seen* changes."""
        number, listing = ledger.account.number, self._plan.listing
        self._look_up(seen.ids, ledger, seen)
        return reconcile(
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
            self._rules,
            local_time=self._clock.time(),
            server_time=self._stats.server_time,
        )

"""Refreshing unfinished jobs that discovery did not show, by the fewest requests that cover them. Pure.

Unfinished jobs that lie less than a page apart are covered by one list page, others by their own endpoints. What
exceeds the budget waits for the next poll, and the jobs that were checked longest ago come first. A job whose own
endpoint fails is requested ever less often, unless a page of the list can show it.
"""

from collections.abc import Callable, Collection, Generator, Iterable
from typing import Final, TypeVar

from exporter.api.models import OPERATIONS, Operation, Priority
from exporter.counting.values import JobRecord
from exporter.polling.backoff import JobBackoff
from exporter.polling.discovery import HeadProgress
from exporter.polling.freshness import FreshnessTracker
from exporter.polling.ordering import JobPositions, ListShape
from exporter.polling.requests import Exhausted, GetJob, JobResult, ListPage, PageResult, Phase, Request, Result, Tick

_SLACK: Final = 3
"""Jobs by which a depth may be wrong: some may appear, or leave the list, between two requests."""
_WORTH_A_PAGE: Final = 2
"""Unfinished jobs on a page that make the page cheaper than a request for each."""
_FOR_OTHERS: Final = 1 / 4
"""The part of the budget for finished jobs that need details, where unfinished ones would take all of it, and for jobs
whose endpoints failed, where others would."""
_MOST_PROBES: Final = 5

T = TypeVar("T")


class PollBudget:
    """The requests that one refresh may make."""

    def __init__(self, requests: int) -> None:
        self._left = requests
        self.spent_on_unfinished = 0
        """Requests made for unfinished jobs, which are due again at the next poll."""
        self.exhausted = False
        """Whether the allowance refused a request: none is worth trying before the next poll."""

    @property
    def available(self) -> bool:
        """Whether another request may be made."""
        return self._left > 0 and not self.exhausted

    def spend(self, result: Result, *, for_details: bool = False) -> None:
        """Count one request, which had this result."""
        self._left -= 1
        self.spent_on_unfinished += not for_details
        self.exhausted = self.exhausted or isinstance(result, Exhausted)


class _Share:
    """Keeps a part of the budget for some requests, where others would take all of it."""

    def __init__(self) -> None:
        self._credit = 0.0

    def shared(self, first: list[T], others: list[T], budget: int) -> list[T]:
        """Return *first*, then *others*; some of the others within the *budget*, if *first* may take all of it.

        These come last in the budget, since they may take long. Credit for a part of a request is carried over to the
        next poll.
        """
        due = 0
        if len(first) >= budget > 0:
            self._credit += budget * _FOR_OTHERS
            due = min(int(self._credit), len(others))
        self._credit = min(self._credit - due, 1.0)
        before = max(0, budget - due)
        return [*first[:before], *others[:due], *first[before:], *others[due:]]


class Refresh:
    """Chooses the requests of the second phase, and makes them."""

    def __init__(
        self,
        shape: ListShape,
        positions: JobPositions,
        freshness: FreshnessTracker,
        head: HeadProgress,
        *,
        page_shown: Callable[[PageResult, int, Tick], None],
    ) -> None:
        """A refresh that shares what the other phases know.

        Args:
            shape: the list.
            positions: where on the list the unfinished jobs lie.
            freshness: when they were last checked.
            head: how far from the head this poll has read.
            page_shown: called with each page that was read, its offset and the tick.
        """
        self._shape = shape
        self._positions = positions
        self._freshness = freshness
        self._head = head
        self._page_shown = page_shown
        self._probes = 0
        self._for_details = _Share()
        self._for_failing = _Share()
        self.backoff = JobBackoff()
        """Jobs whose own endpoint fails."""
        self._saved = 1.0
        """Part of a request that polls with less than one have saved."""
        self.budget = PollBudget(0)
        """What the last refresh could spend."""

    def begin_poll(self, live: Collection[str]) -> None:
        """Begin a poll, which has spent nothing yet; from now on only the *live* jobs matter."""
        self.budget = PollBudget(0)
        self.backoff.keep(live)

    def forget_positions(self) -> None:
        """Look for the jobs on the list again."""
        self._positions.clear()
        self._probes = 0

    def run(self, unseen: Collection[JobRecord], tick: Tick, *, head_known: bool) -> Phase:
        """Check *unseen* unfinished jobs and jobs that need details, within the budget."""
        requests = self._requests(tick.budget)
        self.budget = PollBudget(requests)
        # Not earlier: only a response of this poll tells how far the wait clock went on since the last process.
        self.backoff.resume(tick.ledger.retries, tick.ledger.wait_clock, tick.now, relevant=tick.ledger.live)
        if head_known:
            yield from self._probe(unseen, tick)
        needing_details = [
            record
            for record in tick.ledger.live.values()
            if record.needs_details and record.operation in OPERATIONS and self.backoff.due(record.id, tick.now)
        ]
        # Alerts show the errors of new failures. Those of existing jobs, perhaps hundreds, are only for the pages.
        needing_details.sort(
            key=lambda record: (record.history, -record.detail_requests_left, record.last_progress_at, record.id)
        )
        unfinished, failing = self._by_endpoint(self._groups(unseen, tick.now))
        details, failing_details = self._by_endpoint([[record] for record in needing_details])
        answering = self._for_details.shared(unfinished, details, requests)
        for group in self._for_failing.shared(answering, failing + failing_details, requests):
            if not self.budget.available:
                return
            left = [each for each in group if each.needs_details or not self._freshness.checked(each.id)]
            left = yield from self._by_page(left, tick)
            yield from self._one_by_one(left, tick)

    def _requests(self, budget: float) -> int:
        """Return the requests of this poll; where there is less than one for each, some polls make one."""
        if budget >= 1:
            return int(budget)
        self._saved = min(1.0, self._saved + budget)
        return int(self._saved)

    def _by_endpoint(self, groups: Iterable[list[JobRecord]]) -> tuple[list[list[JobRecord]], list[list[JobRecord]]]:
        """Divide *groups*: those that a page or an endpoint can show, and those whose endpoints failed."""
        answering: list[list[JobRecord]] = []
        failing: list[list[JobRecord]] = []
        for group in groups:
            failed = all(
                self.backoff.failures(each.id) and (each.needs_details or self._positions.of(each.id) is None)
                for each in group
            )
            (failing if failed else answering).append(group)
        return answering, failing

    def _probe(self, unseen: Collection[JobRecord], tick: Tick) -> Phase:
        """Read inwards from the head while each page shows some of the jobs whose positions are unknown."""
        while self.budget.available and self._probes < _MOST_PROBES:
            lost = [
                record
                for record in unseen
                if not self._freshness.checked(record.id) and self._positions.of(record.id) is None
            ]
            if len(lost) <= _WORTH_A_PAGE:
                return
            items = yield from self._read_page(max(0, self._head.read_to - 1), tick)
            found = sum(self._freshness.checked(record.id) for record in lost)
            self._probes = self._probes + 1 if found >= _WORTH_A_PAGE else _MOST_PROBES
            self._head.read_to += max(0, items - 1)

    def _groups(self, unseen: Iterable[JobRecord], now: float) -> list[list[JobRecord]]:
        """Groups of jobs that one request can show; the group whose check is longest ago comes first."""
        groups: list[list[JobRecord]] = []
        deep: list[tuple[int, JobRecord]] = []
        for record in unseen:
            depth = self._positions.of(record.id)
            if depth is not None and depth >= self._head.read_to - _SLACK:
                deep.append((depth, record))
            elif not self._freshness.checked(record.id):
                self._positions.drop(record.id)  # a page that should have shown it did not
                if self.backoff.due(record.id, now):
                    groups.append([record])
        ends = -1
        for depth, record in sorted(deep, key=lambda each: each[0]):
            if depth <= ends:
                groups[-1].append(record)
            else:
                groups.append([record])
                ends = depth + max(1, self._shape.per_page - 2 * _SLACK) - 1
        groups.sort(key=lambda group: min(self._freshness.last_tried(record.id) for record in group))
        return groups

    def _by_page(self, group: list[JobRecord], tick: Tick) -> Generator[Request, Result, list[JobRecord]]:
        """Check a group by a list page, if that is cheaper or the only way; return the jobs still to check.

        Details are not looked for on a page: it need not have them, and only a job's own endpoint says so for good.
        """
        depths = [depth for record in group if (depth := self._positions.of(record.id)) is not None]
        if not depths or group[0].needs_details or (len(group) < _WORTH_A_PAGE and self._answers(group[0])):
            return group
        for record in group:
            self._freshness.mark_tried(record.id, tick.now)
        yield from self._read_page(max(0, min(depths) - _SLACK), tick)
        left = [record for record in group if not self._freshness.checked(record.id)]
        if not self.budget.exhausted:
            for record in left:
                self._positions.drop(record.id)
        return left

    def _answers(self, record: JobRecord) -> bool:
        """Whether the job has an endpoint of its own, which has not failed when it was last requested."""
        return record.operation in OPERATIONS and self.backoff.failures(record.id) == 0

    def _one_by_one(self, group: Iterable[JobRecord], tick: Tick) -> Phase:
        """Check jobs by their own endpoints, those of operations that have one."""
        for record in group:
            if not self.budget.available:
                return
            if record.operation in OPERATIONS and self.backoff.due(record.id, tick.now):
                yield from self._get_job(record, Operation(record.operation), tick)

    def _get_job(self, record: JobRecord, operation: Operation, tick: Tick) -> Phase:
        self._freshness.mark_tried(record.id, tick.now)
        result = yield GetJob(operation, record.id, self.backoff.failures(record.id))
        self._spend(result, for_details=record.needs_details)
        depth = self._positions.of(record.id)
        if isinstance(result, JobResult) and result.conclusive:
            self.backoff.answered(record.id)
            self._freshness.mark_checked(record.id, tick.now)
            return
        if isinstance(result, JobResult):
            self.backoff.failed(record.id, tick.now)
        if record.unfinished and depth is not None and self.budget.available:
            yield from self._read_page(max(0, depth - _SLACK), tick)

    def _read_page(self, depth: int, tick: Tick) -> Generator[Request, Result, int]:
        """Read the page that shows the jobs from *depth* inwards; return how many records it has."""
        offset = self._shape.offset(depth)
        result = yield ListPage(offset, Priority.REFRESH)
        self._spend(result)
        if not isinstance(result, PageResult):
            return 0
        self._page_shown(result, offset, tick)
        return result.response.page.items

    def _spend(self, result: Result, *, for_details: bool = False) -> None:
        self.budget.spend(result, for_details=for_details)
        if not isinstance(result, Exhausted):
            self._saved = max(0.0, self._saved - 1.0)

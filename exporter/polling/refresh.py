"""Refreshing unfinished jobs that discovery did not show, by the fewest requests that cover them. Pure.

Unfinished jobs that lie less than a page apart are covered by one list page, others by their own endpoints. What
exceeds the budget waits for the next poll, and the jobs that were checked longest ago come first.
"""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from typing import Final, TypeVar

from exporter.api.models import OPERATIONS, Operation, Priority
from exporter.counting.values import JobRecord
from exporter.polling.discovery import HeadProgress
from exporter.polling.freshness import FreshnessTracker
from exporter.polling.ordering import JobPositions, ListShape
from exporter.polling.requests import Exhausted, GetJob, JobResult, ListPage, PageResult, Phase, Request, Result, Tick

_SLACK: Final = 3
"""Jobs by which a depth may be wrong: some may appear, or leave the list, between two requests."""
_WORTH_A_PAGE: Final = 2
"""Unfinished jobs on a page that make the page cheaper than a request for each."""
_FOR_DETAILS: Final = 1 / 4
"""The part of the budget for finished jobs that need details, where unfinished ones would take all of it."""
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
        self._details_credit = 0.0
        self.budget = PollBudget(0)
        """What the last refresh could spend."""

    def begin_poll(self) -> None:
        """Begin a poll, which has spent nothing yet."""
        self.budget = PollBudget(0)

    def forget_positions(self) -> None:
        """Look for the jobs on the list again."""
        self._positions.clear()
        self._probes = 0

    def run(self, unseen: Collection[JobRecord], tick: Tick, *, head_known: bool) -> Phase:
        """Check *unseen* unfinished jobs and jobs that need details, within the budget."""
        self.budget = PollBudget(tick.budget)
        if head_known:
            yield from self._probe(unseen, tick)
        needing_details = [
            record for record in tick.ledger.live.values() if record.needs_details and record.operation in OPERATIONS
        ]
        needing_details.sort(key=lambda record: (-record.detail_requests_left, record.last_progress_at, record.id))
        for group in self._share(self._groups(unseen), [[record] for record in needing_details], tick.budget):
            if not self.budget.available:
                return
            left = [each for each in group if each.needs_details or not self._freshness.checked(each.id)]
            left = yield from self._by_page(left, tick)
            yield from self._one_by_one(left, tick)

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

    def _groups(self, unseen: Iterable[JobRecord]) -> list[list[JobRecord]]:
        """Groups of jobs that one request can show; the group whose check is longest ago comes first."""
        groups: list[list[JobRecord]] = []
        deep: list[tuple[int, JobRecord]] = []
        for record in unseen:
            depth = self._positions.of(record.id)
            if depth is not None and depth >= self._head.read_to - _SLACK:
                deep.append((depth, record))
            elif not self._freshness.checked(record.id):
                self._positions.drop(record.id)  # a page that should have shown it did not
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

    def _share(self, unfinished: list[T], needing_details: list[T], budget: int) -> Iterator[T]:
        """Unfinished jobs first; a quarter of the *budget* for the others where unfinished ones would take all of it.

        Credit for a part of a request is carried over to the next poll.
        """
        due = 0
        if len(unfinished) > budget:
            self._details_credit += budget * _FOR_DETAILS
            due = min(int(self._details_credit), len(needing_details))
        self._details_credit = min(self._details_credit - due, 1.0)
        yield from (*needing_details[:due], *unfinished, *needing_details[due:])

    def _by_page(self, group: list[JobRecord], tick: Tick) -> Generator[Request, Result, list[JobRecord]]:
        """Check a group by a list page, if that is cheaper or the only way; return the jobs still to check."""
        depths = [depth for record in group if (depth := self._positions.of(record.id)) is not None]
        if not depths or (len(group) < _WORTH_A_PAGE and group[0].operation in OPERATIONS):
            return group
        yield from self._read_page(max(0, min(depths) - _SLACK), tick, for_details=group[0].needs_details)
        left = [record for record in group if not self._freshness.checked(record.id)]
        for record in left:
            self._positions.drop(record.id)
        return left

    def _one_by_one(self, group: Iterable[JobRecord], tick: Tick) -> Phase:
        """Check jobs by their own endpoints, those of operations that have one."""
        for record in group:
            if not self.budget.available:
                return
            if record.operation in OPERATIONS:
                yield from self._get_job(record, Operation(record.operation), tick)

    def _get_job(self, record: JobRecord, operation: Operation, tick: Tick) -> Phase:
        self._freshness.mark_tried(record.id, tick.now)
        result = yield GetJob(operation, record.id)
        self.budget.spend(result, for_details=record.needs_details)
        depth = self._positions.of(record.id)
        if isinstance(result, JobResult) and result.conclusive:
            self._freshness.mark_checked(record.id, tick.now)
        elif record.unfinished and depth is not None and self.budget.available:
            yield from self._read_page(max(0, depth - _SLACK), tick)

    def _read_page(self, depth: int, tick: Tick, *, for_details: bool = False) -> Generator[Request, Result, int]:
        """Read the page that shows the jobs from *depth* inwards; return how many records it has."""
        offset = self._shape.offset(depth)
        result = yield ListPage(offset, Priority.REFRESH)
        self.budget.spend(result, for_details=for_details)
        if not isinstance(result, PageResult):
            return 0
        self._page_shown(result, offset, tick)
        return result.response.page.items

"""List pages that are too large to read even with one job: how much of them to read, and when to give up. Pure."""

from typing import Final, NamedTuple

from exporter.api.bodies import LARGEST_ANSWER

WARY_ANSWER: Final = 2**20
"""Bytes to read of a page while a single job that is too large is known: enough for ordinary pages."""
_FIRST_RETRY: Final = 60.0
_LONGEST: Final = 3600.0
_FORGOTTEN_AFTER: Final = 6 * 3600.0
_MOST_IN_A_ROW: Final = 3
"""Single jobs in a row that are too large: then it is not the jobs, but the platform's response."""


class _Position(NamedTuple):
    retry_at: float
    delay: float


class OversizedJobs:
    """Where on the list single jobs are too large. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._positions: dict[int, _Position] = {}
        self._in_a_row = 0
        self._last: int | None = None

    def bytes_to_read(self, offset: int, limit: int, now: float) -> int:
        """Return how much to read of a page; all that is permitted ever less often where a job was too large."""
        self._positions = {at: each for at, each in self._positions.items() if now < each.retry_at + _FORGOTTEN_AFTER}
        if not self._positions:
            return LARGEST_ANSWER
        if limit == 1 and (offset not in self._positions or now >= self._positions[offset].retry_at):
            return LARGEST_ANSWER
        return WARY_ANSWER

    def too_large(self, offset: int, now: float) -> bool:
        """Record a single job that is too large; return whether the platform's responses all are."""
        before = self._positions.get(offset)
        if before is None:
            self._positions[offset] = _Position(now + _FIRST_RETRY, _FIRST_RETRY)
        elif now >= before.retry_at:
            delay = min(_LONGEST, 2 * before.delay)
            self._positions[offset] = _Position(now + delay, delay)
        self._in_a_row += offset != self._last
        self._last = offset
        if self._in_a_row < _MOST_IN_A_ROW:
            return False
        self._in_a_row = 0
        return True

    def read(self, offset: int, items: int) -> None:
        """Record a page that could be read."""
        self._in_a_row = 0
        for position in range(offset, offset + max(1, items)):
            self._positions.pop(position, None)

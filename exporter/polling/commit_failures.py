"""Whether an account's changes can be committed: for the status page and the log."""

import math
from typing import Final

from exporter.clock import Clock, utc
from exporter.logs import Log
from exporter.metrics.snapshot import CommitFailure

_REPEAT_SECONDS: Final = 300.0
"""Time between two log lines about the same reason: an operator finds one near the end of the log."""
_RETRY_SECONDS: Final = 60.0
"""Time after a failed commit until the file is tested, if no poll has tried to commit: the platform may be down."""


class CommitFailures:
    """The failed commits of one account since its last successful one. Logs when they begin, last and end.

    For one thread.
    """

    def __init__(self, clock: Clock, log: Log) -> None:
        self._clock = clock
        self._log = log
        self._logged_at = 0.0
        self._tried_at = 0.0
        self.current: CommitFailure | None = None
        """Since when commits fail, and why; None while they succeed."""

    def failed(self, reason: str) -> None:
        """Record a commit that failed."""
        before, now = self.current, self._clock.monotonic()
        self._tried_at = now
        self.current = CommitFailure(self._clock.time() if before is None else before.since, reason)
        if before is not None and before.reason == reason and now - self._logged_at < _REPEAT_SECONDS:
            return  # not at every poll
        self._logged_at = now
        self._log.error(
            "state.commit_failed",
            reason=reason,
            since=utc(self.current.since),
            consequence="nothing new is counted until a commit succeeds; then what was missed is counted",
        )

    def succeeded(self, consequence: str = "what was missed is counted") -> None:
        """Record a write that succeeded; *consequence* says for the log what follows if others had failed before."""
        if self.current is not None:
            self._log.info("state.commit_succeeded", failed_since=utc(self.current.since), consequence=consequence)
            self.current = None

    @property
    def seconds_to_test(self) -> float:
        """How long until the state file should be tested; infinity while commits succeed."""
        if self.current is None:
            return math.inf
        return max(0.0, self._tried_at + _RETRY_SECONDS - self._clock.monotonic())

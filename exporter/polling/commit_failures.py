"""Whether an account's changes can be committed: for the status page and the log."""

from typing import Final

from exporter.clock import Clock, utc
from exporter.logs import Log
from exporter.metrics.snapshot import CommitFailure

_REPEAT_SECONDS: Final = 300.0
"""Time between two log lines about the same reason: an operator finds one near the end of the log."""


class CommitFailures:
    """The failed commits of one account since its last successful one. Logs when they begin, last and end.

    For one thread.
    """

    def __init__(self, clock: Clock, log: Log) -> None:
        self._clock = clock
        self._log = log
        self._logged_at = 0.0
        self.current: CommitFailure | None = None
        """Since when commits fail, and why; None while they succeed."""

    def failed(self, reason: str) -> None:
        """Record a commit that failed."""
        before, now = self.current, self._clock.monotonic()
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

    def succeeded(self) -> None:
        """Record a commit that succeeded."""
        if self.current is not None:
            self._log.info("state.commit_succeeded", failed_since=utc(self.current.since))
            self.current = None

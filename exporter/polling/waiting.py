"""Why an account makes no request for a while: for the metric, the status page and the log."""

from collections.abc import Callable, Mapping
from typing import Final

from exporter.clock import Clock, utc
from exporter.errors import WaitReason
from exporter.logs import Log
from exporter.metrics.snapshot import Waiting

_NEXT_STEPS: Final[Mapping[WaitReason, str]] = {
    WaitReason.ALLOWANCE: "none; if this happens in every window, raise rate_share or poll_interval",
    WaitReason.YIELDING: "none; if this happens often, let the user's other programs send fewer requests",
    WaitReason.RATE_LIMITED: "none; polling continues by itself",
    WaitReason.MAINTENANCE: "none; the platform is asked again every minute",
}


class WaitTracker:
    """Whether one account waits, and why. Logs when waiting begins and when it ends. For one thread."""

    def __init__(self, clock: Clock, log: Log, token_remedy: Callable[[], str]) -> None:
        """Not waiting yet; *token_remedy* says how to replace the account's token, as it is then."""
        self._clock = clock
        self._log = log
        self._token_remedy = token_remedy
        self._began = 0.0
        self.current: Waiting | None = None
        """The reason and the times; None while requests are made as planned."""

    def begin(self, reason: WaitReason, seconds: float | None, explanation: str = "", next_step: str = "") -> None:
        """Wait for *seconds*, or until the cause is removed. A wait for the same reason goes on.

        *explanation* and *next_step* replace what is usually said of the reason.
        """
        explanation = explanation or reason.explanation
        now = self._clock.time()
        until = None if seconds is None else now + seconds
        if not next_step:
            next_step = self._token_remedy() if reason is WaitReason.TOKEN else _NEXT_STEPS[reason]
        if self.current is not None and self.current.reason is reason:
            self.current = Waiting(reason, self.current.since, until, explanation, next_step)
            return
        self.current, self._began = Waiting(reason, now, until, explanation, next_step), self._clock.monotonic()
        self._log.warning(
            "polling.paused",
            reason=_short(self.current),
            explanation=explanation,
            seconds=None if seconds is None else round(seconds),
            until=None if until is None else utc(until),
            next_step=next_step,
        )

    def end(self) -> None:
        """Requests are made again."""
        if self.current is not None:
            waited = round(self._clock.monotonic() - self._began)
            self._log.info("polling.resumed", reason=_short(self.current), waited_seconds=waited)
            self.current = None


def _short(waiting: Waiting) -> str:
    """The reason in the log: that of the metric, unless it is explained in other words."""
    reason = waiting.reason
    return str(reason) if waiting.explanation == reason.explanation else waiting.explanation

"""Statistics about polling one account, for metrics, and log events about its polls and its jobs."""

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from exporter.api.allowance import Allowance
from exporter.api.client import Endpoint, RequestCompleted, RetryScheduled
from exporter.clock import Clock, utc
from exporter.counting.values import (
    CountDecreased,
    FilesFailed,
    HistogramReset,
    HistogramValue,
    HistoryFound,
    JobFinished,
    LedgerEvent,
)
from exporter.errors import Maintenance, NotThePlatform, PollError, Unauthorized, Unreachable
from exporter.logs import Log
from exporter.metrics.snapshot import MAX_SKEW, CommitFailure, PollStatus, Waiting
from exporter.polling.platform_clock import PlatformClock

POLL_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
REQUEST_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LASTING_SECONDS: Final = 900.0
"""After how long failing polls are logged again, for those whom a short break of the network need not concern."""
_NO_ALERT: Final = (
    "they ended before counting began, so no alert reports them; `sbg-exporter jobs --failed --since 7d` lists them"
)


class PollStats:
    """Observes the API client and the polls, and produces the account's :class:`PollStatus`."""

    def __init__(self, clock: Clock, log: Log) -> None:
        self._clock = clock
        self._log = log
        started = clock.time()
        self.last_activity_at = clock.monotonic()
        """When a request was last made, or the poller is to wake up; monotonic seconds. For the health check."""
        self.up: bool | None = None
        self.auth_ok: bool | None = None
        self.maintenance: bool | None = None
        self.username: str | None = None
        self.last_poll: float | None = None
        self.last_success: float | None = None
        self.succeeded_at = -math.inf
        """When a poll last succeeded, in monotonic seconds: a clock that jumps does not change how old gauges are."""
        self.last_full_listing: float | None = None
        self.last_error = ""
        self._failing_since: tuple[float, float] | None = None
        """Since when polls fail, in Unix and in monotonic seconds; None while they succeed, or once that was logged."""
        self.platform_clock = PlatformClock()
        self._skewed = False
        self._refused_jobs: set[str] = set()
        self._page_failure = ""
        self._counters: dict[str, dict[tuple[str, ...], int]] = {}
        self._poll_duration = HistogramValue.empty(POLL_SECONDS, started)
        self._requests_made = 0
        self._request_duration = {str(each): HistogramValue.empty(REQUEST_SECONDS, started) for each in Endpoint}

    def on_request_completed(self, event: RequestCompleted) -> None:
        """Count a request."""
        self.last_activity_at = self._clock.monotonic()
        self._requests_made += 1
        self._count("sbg_exporter_requests_total", str(event.endpoint), event.status)
        histogram = self._request_duration[str(event.endpoint)]
        self._request_duration[str(event.endpoint)] = histogram.observe(event.seconds, None)

    def on_retry_scheduled(self, event: RetryScheduled) -> None:
        """Log that a request failed in transit and is retried; at level debug while poll.failed has said so already."""
        log = self._log.debug if self.last_error else self._log.warning
        log(
            "request.retried",
            endpoint=str(event.endpoint),
            reason=event.reason,
            attempt=event.attempt,
            wait=round(event.wait, 2),
        )

    def answered(self) -> None:
        """Record that the platform responded with the requested data."""
        self.auth_ok = True
        self.maintenance = False

    @property
    def requests_made(self) -> int:
        """Requests made so far."""
        return self._requests_made

    @property
    def server_time(self) -> float:
        """The platform's time in Unix seconds; this machine's while the platform's is not believed."""
        local = self._clock.time()
        time = self.platform_clock.time(self._clock.monotonic(), local)
        return local if time is None else time

    @property
    def clock_skew(self) -> float | None:
        """Seconds by which the platform's clock is ahead of this machine's; None while it is not believed."""
        return self.platform_clock.skew(self._clock.monotonic(), self._clock.time())

    def date_received(self, date: float | None) -> None:
        """Take the platform's time from a response that was just received; warn if this machine's clock is wrong."""
        self.platform_clock.observe(date, self._clock.monotonic())
        skew = self.clock_skew
        if skew is None or (abs(skew) > MAX_SKEW) == self._skewed:
            return
        self._skewed = not self._skewed
        if self._skewed:
            self._log.warning(
                "clock.skewed",
                platform_ahead_seconds=round(skew),
                reason="this machine's clock or the platform's is wrong",
                next_step="see whether the status page reports it of every platform; if so, check this machine's time"
                " synchronization",
            )
        else:
            self._log.info("clock.right", platform_ahead_seconds=round(skew))

    def page_read(self, date: float | None, skipped: Mapping[str, int], examples: Mapping[str, str]) -> None:
        """Record a list page that the platform sent at *date*, with its *skipped* records by reason, and *examples*."""
        self.date_received(date)
        for reason, records in skipped.items():
            # Warn once per reason: an unreadable record appears in every listing for a month.
            known = (reason,) in self._counters.get("sbg_exporter_records_skipped_total", {})
            log = self._log.debug if known else self._log.warning
            log("records.skipped", reason=reason, records=records, examples=examples.get(reason))
            self._count("sbg_exporter_records_skipped_total", reason, number=records)

    def polled(self, result: str, error: str, now: float, seconds: float, next_step: str = "") -> None:
        """Record a poll that ended at *now* after *seconds*; *error* is empty if it succeeded.

        *next_step* is what an operator can do if *error* does not say so itself.
        """
        self._tell(result, error, now, {"next_step": next_step} if next_step else {})
        self.last_error = error
        self.up = result == "success"
        self.last_poll = now
        if self.up:
            self.last_success = now
            self.succeeded_at = self._clock.monotonic()
        self._count("sbg_exporter_polls_total", result)
        self._poll_duration = self._poll_duration.observe(seconds, None)

    def _tell(self, result: str, error: str, now: float, more: Mapping[str, str]) -> None:
        """Log that polls begin to fail, that they have failed for a while, and that they succeed again."""
        if not error:
            if self.last_error:
                self._log.info("poll.recovered")
            self._failing_since = None
            return
        monotonic = self._clock.monotonic()
        if not self.last_error:
            self._failing_since = (now, monotonic)
        if error != self.last_error:
            self._log.warning("poll.failed", result=result, reason=error, **more)
        if self._failing_since is not None and monotonic - self._failing_since[1] >= _LASTING_SECONDS:
            since, self._failing_since = utc(self._failing_since[0]), None
            self._log.warning("poll.keeps_failing", result=result, reason=error, since=since, **more)

    def failed(self, error: PollError) -> None:
        """Record a failure that shows the state of the platform or of the token."""
        if isinstance(error, Maintenance):
            self.maintenance = True
        elif self.maintenance and not isinstance(error, Unreachable | NotThePlatform):
            self.maintenance = False  # it responds again, even if with an error
        if isinstance(error, Unauthorized):
            self.auth_ok = False

    def job_refused(self, job_id: str, reason: str) -> None:
        """Log, once until it responds again, that a job's own endpoint said nothing about the job."""
        if job_id not in self._refused_jobs:
            self._refused_jobs.add(job_id)
            self._log.warning("job.refused", job_id=job_id, reason=reason)

    def job_answered(self, job_id: str) -> None:
        """Log that a job's own endpoint responds again, if it did not before."""
        if job_id in self._refused_jobs:
            self._refused_jobs.remove(job_id)
            self._log.info("job.answered", job_id=job_id)

    def jobs_in_question(self, ids: AbstractSet[str]) -> None:
        """Forget all jobs but these, whose own endpoints may be requested."""
        self._refused_jobs &= ids

    def page_failed(self, reason: str) -> None:
        """Log, once until the reason changes or such a page is read, that a page after the look could not be read."""
        if reason != self._page_failure:
            self._page_failure = reason
            self._log.warning("page.failed", reason=reason)

    def page_answered(self) -> None:
        """Log that pages after the look can be read again, if they could not before."""
        if self._page_failure:
            self._page_failure = ""
            self._log.info("page.recovered")

    def committed(self, event: LedgerEvent) -> None:
        """Count and log an event after its commit."""
        if isinstance(event, CountDecreased):
            self._count("sbg_exporter_counts_lowered_total", event.field)
        _log_event(self._log, event)

    def _count(self, family: str, *labels: str, number: int = 1) -> None:
        """Add *number* to a counter of the family, which :data:`exporter.metrics.families.FAMILIES` shows."""
        values = self._counters.setdefault(family, {})
        values[labels] = values.get(labels, 0) + number

    def status(
        self,
        allowance: Allowance,
        *,
        interval: float,
        full_interval: float,
        incremental: bool,
        delay: float | None,
        waiting: Waiting | None = None,
        commit_failure: CommitFailure | None = None,
        slowed: bool = False,
    ) -> PollStatus:
        """Return the current statistics."""
        rate_limit, polled = allowance.known, self.last_poll is not None
        return PollStatus(
            up=self.up,
            auth_ok=self.auth_ok,
            maintenance=self.maintenance,
            username=self.username,
            last_poll=self.last_poll,
            last_success=self.last_success,
            last_full_listing=self.last_full_listing,
            counters={family: dict(values) for family, values in self._counters.items()},
            poll_duration=self._poll_duration,
            request_duration=dict(self._request_duration),
            rate_limit=rate_limit.limit,
            rate_limit_remaining=rate_limit.remaining,
            rate_limit_reset=rate_limit.reset,
            allowance=allowance.requests,
            allowance_used=allowance.used,
            incremental_polling=incremental if polled else None,
            interval=interval,
            full_listing_interval=full_interval if polled else None,
            detection_delay=delay if polled else None,
            last_error=self.last_error,
            waiting=waiting,
            clock_skew=self.clock_skew,
            commit_failure=commit_failure,
            slowed=slowed,
        )


def _log_event(log: Log, event: LedgerEvent) -> None:
    """Log *event*; at level warning if files failed or are missing."""
    match event:
        case JobFinished(record):
            duration = None
            if record.started_on is not None and record.finished_on is not None:
                duration = round(record.finished_on - record.started_on, 3)
            write = log.warning if record.last_failed or record.outcome in {"incomplete", "lost"} else log.info
            if record.history:
                write = log.debug  # there may be thousands, up to months old
            write(
                "job.finished",
                job_id=record.id,
                operation=record.operation,
                outcome=record.outcome,
                files=record.last_total,
                completed=record.last_completed,
                failed=record.last_failed,
                duration_seconds=duration,
                errors=record.error_counts or None,
            )
        case FilesFailed(record):
            log.warning(
                "job.files_failed",
                job_id=record.id,
                operation=record.operation,
                files=record.last_total,
                completed=record.last_completed,
                failed=record.last_failed,
            )
        case CountDecreased(job_id, field, counted, now):
            log.warning("job.count_lowered", job_id=job_id, field=field, counted=counted, now=now)
        case HistoryFound(jobs, counted, failed):
            log.info(
                "history.counted" if counted else "history.ignored",
                jobs=jobs,
                failed_jobs=failed,
                reason=_NO_ALERT if failed else None,
            )
        case HistogramReset(family):
            log.warning("histogram.reset", family=family, reason="its bounds in the configuration have changed")

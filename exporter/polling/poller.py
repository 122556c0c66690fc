"""One account: when to poll, what a failed poll means, and what is shown of it. :mod:`.cycle` does the polling."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from exporter.api.allowance import WINDOW_SECONDS, AllowancePool
from exporter.api.client import Client, ClientObserver
from exporter.clock import Clock
from exporter.config.accounts import AccountConfig
from exporter.counting.rules import reset_changed_histograms
from exporter.counting.values import Changes, JobTotals, Ledger, Rules
from exporter.errors import (
    AllowanceExhausted,
    ConfigError,
    DuplicateAccount,
    PollError,
    RateLimited,
    StateWriteError,
    Stopping,
)
from exporter.logs import Log
from exporter.metrics.snapshot import AccountSnapshot
from exporter.polling.cycle import CycleResult, PollCycle
from exporter.polling.identity import AccountIdentity, IdentityRegistry
from exporter.polling.plan import PollPlan
from exporter.polling.stats import PollStats
from exporter.redaction import Redactor
from exporter.storage.store import Store

_TOKEN_LOOK: Final = 5.0
"""Seconds between two looks at a token file while the platform refuses what it holds."""
_ROOM_LISTED: Final = 1.25
"""Requests for each that a look needs: some are for jobs that it does not show, or for their results."""
_ROOM_INCREMENTAL: Final = 2.0
"""The same where unfinished jobs and the full listing come on top."""
_BELIEVED_LISTINGS: Final = 2
"""Intervals after which an earlier process' listing is too old for gauges to go on from."""


@dataclass(frozen=True, slots=True)
class PollSchedule:
    """When to poll and for how long to believe it; seconds.

    Attributes:
        full_listing_interval: how old a complete listing of a large account may become.
        first: before the first poll, so that accounts do not all begin in the same instant.
        phase: this account's place in the interval from then on.
    """

    poll_interval: float
    full_listing_interval: float
    stale_after: float
    first: float
    phase: float


@dataclass(frozen=True, slots=True)
class UsageEstimate:
    """What watching an account will cost, as far as its last poll tells.

    Attributes:
        jobs: jobs on its list.
        requests: API requests per 5 minutes.
    """

    jobs: int
    requests: int


class Poller:
    """One account's thread of work. All of its state is its own; what others may see it publishes."""

    def __init__(
        self,
        account: AccountConfig,
        *,
        connect: Callable[[ClientObserver], Client],
        store: Store,
        identities: IdentityRegistry,
        allowances: AllowancePool,
        rules: Rules,
        schedule: PollSchedule,
        clock: Clock,
        publish: Callable[[AccountSnapshot], None],
        log: Log,
        redactor: Redactor,
    ) -> None:
        self.name = account.name
        self._account = account
        self._store = store
        self._identities = identities
        self._rules = rules
        self._schedule = schedule
        self._clock = clock
        self._publish = publish
        self._redactor = redactor
        self._log = log.bind(account=account.name)
        self._stats = PollStats(clock, self._log)
        self._client = connect(self._stats)
        self._identity = AccountIdentity(
            account,
            self._client,
            store=store,
            identities=identities,
            allowances=allowances,
            rules=rules,
            stats=self._stats,
            clock=clock,
            log=self._log,
            redactor=redactor,
        )
        self._begin_plan()
        self._interval = schedule.poll_interval
        self._ledger: Ledger | None = None
        self._listed: Mapping[tuple[str, str], JobTotals] | None = None
        self._continues_listing = True

    @property
    def last_activity_at(self) -> float:
        """When this poller last asked anything, or is to wake from its rest, by the monotonic clock."""
        return self._stats.last_activity_at

    @property
    def usage_estimate(self) -> UsageEstimate:
        """What is to be expected of this account."""
        polls = self._plan.requests_per_poll / self._interval
        slices = self._plan.pages / self._full_interval if self._plan.incremental else 0.0
        return UsageEstimate(self._plan.size, math.ceil(WINDOW_SECONDS * (polls + slices)))

    def run(self) -> None:
        """Poll until the process ends."""
        try:
            try:
                self._publish_saved_ledger()
            except Exception:  # noqa: BLE001  # the polls to come may fare better
                self._log.exception("state.load_failed")
            # The second poll comes at the account's place, soon after the first or an interval later at most.
            due = self._clock.monotonic() + self._schedule.phase - self._interval
            self._clock.pause(self._schedule.first)
            while True:
                wait = self.poll()
                now = self._clock.monotonic()
                due += self._interval
                if due <= now:  # overran: the polls that were missed are skipped, not made up for
                    due += (math.floor((now - due) / self._interval) + 1) * self._interval
                if wait is not None:
                    due = now + wait
                due = self._sleep_until(due)
        except Stopping:
            self._log.debug("poller.stopped")
        finally:
            self._client.close()

    def poll_once(self) -> None:
        """One poll, without what was counted before and without a large account's full listing, and no more.

        Raises:
            Stopping: the process is ending.
        """
        self._continues_listing = False
        try:
            self.poll()
        finally:
            self._client.close()

    def confirm(self) -> None:
        """Once all accounts were polled: fail if an earlier entry turned out to watch the same one."""
        if self._ledger is not None and not self._stats.last_error:
            try:
                self._identity.claim(self._ledger.account.username)
            except DuplicateAccount as error:
                self._handle_failure(error)
                self._stats.up, self._stats.last_error = False, str(error)
                self._publish_snapshot()

    def poll_until_listed(self) -> None:
        """Poll until a listing is complete, a poll fails, or what it saw cannot be written.

        Raises:
            Stopping: the process is ending.
        """
        self._begin_plan(watches=False)
        try:
            self._publish_saved_ledger()
            while True:
                wait = self.poll()
                if self._stats.last_error or self._listed is not None or self._store.write_failures:
                    return
                self._clock.pause(wait or 0.0)
        finally:
            self._client.close()

    def poll(self) -> float | None:
        """One poll.

        Returns:
            Seconds until the next one; None: at its usual time.

        Raises:
            Stopping: the process is ending.
        """
        began = self._stats.last_activity_at = self._clock.monotonic()
        made = self._stats.requests_made
        wait: float | None = None
        result, failed_with = "success", ""
        try:
            wait = self._run_cycle()
        except Stopping:
            raise
        except AllowanceExhausted as spent:
            if self._stats.requests_made == made:
                return spent.wait  # nothing was asked: this was no poll
            wait = spent.wait
        except PollError as error:
            # What the platform says may repeat what it was sent; the status page shows it.
            result, failed_with = error.result, self._redactor.redact(str(error))
            wait = self._handle_failure(error)
        except (ConfigError, StateWriteError) as error:
            result, failed_with = "error", self._redactor.redact(str(error))
        except Exception:  # noqa: BLE001  # whatever it is, the next poll comes as usual
            result, failed_with = "error", "unexpected error, see the log"
            self._log.exception("poll.unexpected_error")
        if failed_with or self._stats.requests_made > made:  # nothing asked, nothing learned: that was no poll
            self._stats.polled(result, failed_with, self._clock.time(), self._clock.monotonic() - began)
        self._stats.last_activity_at = self._clock.monotonic()
        self._publish_snapshot()
        return wait

    def _handle_failure(self, error: PollError) -> float | None:
        """Update state after a failed poll and return the delay before the next one, None for the usual one."""
        self._stats.failed(error)
        if isinstance(error, DuplicateAccount):
            self._ledger = self._listed = None  # that entry shows them
        if error.reidentify:
            self._identity.ask_again()
        if isinstance(error, RateLimited):
            return max(error.retry_after, self._interval)
        return error.retry_after

    def _sleep_until(self, due: float) -> float:
        """Wait until *due*; a poller that waits for a new token looks for it meanwhile. When it ended, monotonic."""
        self._stats.last_activity_at = due
        while (left := due - self._clock.monotonic()) > 0:
            if self._identity.unproven and self._identity.token_changed():
                return self._clock.monotonic()
            self._clock.pause(min(left, _TOKEN_LOOK) if self._identity.unproven else left)
        return due

    # ---- fetch, reconcile, commit ----

    def _run_cycle(self) -> float | None:
        """One poll's work; the wait until the rest of a long listing is read, None when there is no rest.

        Raises:
            AllowanceExhausted: the allowance ended this poll before it saw a job.
        """
        self._ledger = self._identity.ledger(self._ledger)
        ledger = self._reset_changed_histograms(self._ledger)
        began = self._clock.monotonic()
        result = self._cycle.run(
            ledger, self._client.allowance.budget(began, self._interval, self._plan.pages_per_discovery)
        )
        self._take_over(ledger, result)
        failure = result.stopped
        if isinstance(failure, AllowanceExhausted) and result.saw_jobs:
            return failure.wait
        if result.may_continue and self._continues_listing and self._plan.incremental:
            self._continue_listing(began)
        if failure is not None:
            raise failure
        return 0.0 if result.written and self._plan.half_read else None

    def _continue_listing(self, began: float) -> None:
        """Slices of a large account's listing, counted turn by turn, until the next poll is due."""
        going_on = True
        while going_on and self._ledger is not None:
            self._publish_snapshot()  # what watching saw shall not wait for this
            ledger = self._ledger
            result = self._cycle.continue_listing(ledger)
            self._take_over(ledger, result)
            if result.stopped is not None:
                raise result.stopped
            going_on = result.written and self._plan.goes_on and self._clock.monotonic() - began < self._interval

    def _take_over(self, ledger: Ledger, result: CycleResult) -> None:
        """Show what a cycle that began with *ledger* changed. Counters shown are committed ones; gauges always move."""
        if result.complete:
            self._listed = result.listed
            self._stats.last_full_listing = self._clock.time()
        elif self._plan.incremental and (self._listed is not None or self._goes_on_from(ledger)):
            self._listed = result.listed
        self._ledger = result.ledger

    def _goes_on_from(self, ledger: Ledger) -> bool:
        """Whether the listing of an earlier process is young enough to be kept up to date by watching."""
        age = self._cycle.view(ledger).listing_age
        return ledger.account.ever_listed and age is not None and age <= _BELIEVED_LISTINGS * self._full_interval

    def _begin_plan(self, *, watches: bool = True) -> None:
        self._plan = PollPlan(self._schedule.full_listing_interval, self._clock.monotonic(), incremental=watches)
        self._cycle = PollCycle(
            self._plan,
            self._client,
            self._store,
            rules=self._rules,
            stats=self._stats,
            clock=self._clock,
            commit=self._written,
        )

    def _publish_saved_ledger(self) -> None:
        """Until the platform answers, the counters are those of the ledger that the name was last bound to."""
        self._ledger = self._identity.saved_ledger() or self._ledger
        self._publish_snapshot()

    def _reset_changed_histograms(self, ledger: Ledger) -> Ledger:
        """The book with the histograms' bounds that are configured now."""
        changes = reset_changed_histograms(ledger, self._rules, self._clock.time())
        return ledger.after(changes) if self._written(ledger, changes) else ledger

    def _written(self, ledger: Ledger, changes: Changes) -> bool:
        """Whether *changes* are on disk; where not, they come out of the next poll again."""
        if not changes:
            return True
        account = ledger.account
        try:
            with self._identities.writer_lock((account.endpoint, account.username, account.division), self.name):
                self._store.commit(account.number, changes)
        except StateWriteError as error:
            self._log.error("state.commit_failed", reason=str(error))
            return False
        for event in changes.events:
            self._stats.committed(event)
        return True

    # ---- publish ----

    @property
    def _full_interval(self) -> float:
        """How old a complete listing may become; effective, in seconds."""
        if not self._plan.incremental:
            return self._interval
        soonest = self._client.allowance.min_interval(2 * self._plan.pages)  # half of the allowance is for it
        return max(self._schedule.full_listing_interval, soonest) if self._plan.head_known else soonest

    def _publish_snapshot(self) -> None:
        stats = self._stats
        room = _ROOM_INCREMENTAL if self._plan.incremental else _ROOM_LISTED
        self._interval = max(
            self._schedule.poll_interval, self._client.allowance.min_interval(room * self._plan.pages_per_discovery)
        )
        believed_for = max(self._schedule.stale_after, 2 * self._interval)
        self._publish(
            AccountSnapshot(
                self._account.name,
                self._account.endpoint,
                self._ledger,
                self._listed,
                stats.status(
                    self._client.allowance,
                    interval=self._interval,
                    full_interval=self._full_interval,
                    incremental=self._plan.incremental,
                    delay=None
                    if self._ledger is None
                    else self._plan.delay(self._clock.monotonic(), self._ledger.live),
                ),
                (stats.last_success or -math.inf) + believed_for,
            )
        )

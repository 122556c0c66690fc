"""One account: its poll schedule, the handling of failed polls, and its snapshots. :mod:`.cycle` makes the requests."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from exporter.api.allowance import WINDOW_SECONDS, AllowancePool
from exporter.api.client import Client, ClientObserver
from exporter.clock import Clock
from exporter.config.accounts import AccountConfig
from exporter.counting.rules import reset_changed_histograms
from exporter.counting.values import Changes, JobRecord, JobTotals, Ledger
from exporter.errors import (
    AllowanceExhausted,
    ConfigError,
    DuplicateAccount,
    Overloaded,
    PollError,
    RateLimited,
    StateError,
    StateWriteError,
    Stopping,
    TokenError,
    Unauthorized,
    WaitReason,
    WrongAccount,
)
from exporter.logs import Log
from exporter.metrics.snapshot import AccountSnapshot
from exporter.polling.account_identity import AccountIdentity
from exporter.polling.commit_failures import CommitFailures
from exporter.polling.counting_start import CountingStart
from exporter.polling.cycle import CycleResult, PollCycle, Stopped
from exporter.polling.identity import IdentityRegistry
from exporter.polling.lease import Lease
from exporter.polling.plan import PollPlan
from exporter.polling.settings import PollerSettings
from exporter.polling.stats import PollStats
from exporter.polling.waiting import WaitTracker
from exporter.storage.store import Store

_WAITING_STEP: Final = 5.0
"""While an account waits: seconds between two snapshots, and between two checks of a token file."""
SETUP_INTERVAL: Final = 30.0
"""Longest time in seconds between two attempts to set up an account whose files are missing or unusable."""
_REQUESTS_PER_PAGE_SMALL: Final = 1.25
"""Requests to allow for each request of discovery: the rest is for jobs that it does not show and for details."""
_REQUESTS_PER_PAGE_LARGE: Final = 2.0
"""The same for large accounts, which also refresh unfinished jobs and list in full in the background."""
_STILL_IN_TIME: Final = 1 / 10
"""The part of its interval by which a poll may begin late and is not skipped."""
_USABLE_INTERVALS: Final = 2
"""Full listing intervals after which an earlier process' listing is too old to compute gauges from."""


class _Delay(NamedTuple):
    """Seconds until the next poll, None for its usual time, and why nothing is requested until then, if so.

    *next_step* is what to do about that, if it does not follow from the reason.
    """

    seconds: float | None
    reason: WaitReason | None = None
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class UsageEstimate:
    """Expected API usage of an account, judged by its last poll.

    Attributes:
        jobs: jobs on its list.
        requests: API requests per 5 minutes, once it has been listed in full.
        requests_at_first: the same until then.
    """

    jobs: int
    requests: int
    requests_at_first: int


class Poller:
    """Polls one account in its own thread. It shares no state; other threads see the snapshots that it publishes."""

    def __init__(
        self,
        account: AccountConfig,
        *,
        connect: Callable[[ClientObserver], Client],
        store: Store,
        identities: IdentityRegistry,
        allowances: AllowancePool,
        settings: PollerSettings,
        clock: Clock,
        publish: Callable[[AccountSnapshot], None],
        log: Log,
        stats: PollStats | None = None,
        lease: Lease | None = None,
        name_reassigned: bool = False,
        expected_user: str = "",
    ) -> None:
        """A poller.

        Args:
            account: what to poll.
            connect: makes the API client.
            store: the state file.
            identities: which account polls which identity.
            allowances: the allowances of all users.
            settings: what :meth:`configure` may change.
            clock: for waits and times.
            publish: takes each snapshot.
            log: receives events.
            stats: continues the statistics of the time before the account could be set up.
            lease: ends when the account is removed or changed; until then, this poller writes the account's ledger.
            name_reassigned: whether the ledger that has the account's name is not to be used before the platform has
                named the user.
            expected_user: whose ledger the account has in another state file; empty if that is not known.
        """
        self.name = account.name
        self.account = account
        self._lease = lease or Lease()
        self._store = store
        self._identities = identities
        self._settings = self._wanted = settings
        self._clock = clock
        self._publish = publish
        self._log = log.bind(account=account.name)
        self._stats = stats or PollStats(clock, self._log)
        self._commit_failures = CommitFailures(clock, self._log)
        self._client = connect(self._stats)
        self._start = CountingStart(self._client, self._stats, clock)
        self._identity = AccountIdentity(
            account,
            self._client,
            self._start,
            store=store,
            identities=identities,
            allowances=allowances,
            settings=settings,
            stats=self._stats,
            clock=clock,
            log=self._log,
            lease=self._lease,
            expected_user=expected_user,
        )
        self._waits = WaitTracker(clock, self._log, self._identity.token_remedy)
        self._name_reassigned = name_reassigned
        self._nudged = self._duplicate = False
        self._gave_up = False
        """Whether another account of the same user may poll, because this one cannot."""
        self._command: Callable[[], object] = self.poll
        self._begin_plan()
        self._interval = settings.schedule.poll_interval
        self._due = 0.0
        """When this poll was due; monotonic seconds."""
        self._ledger: Ledger | None = None
        """As committed."""
        self._ahead: Mapping[str, JobRecord] | None = None
        """Its live jobs as last observed, if they could not be committed."""
        self._listed: Mapping[tuple[str, str], JobTotals] | None = None
        self._listed_at = 0.0
        """When a small account was last listed in full; monotonic seconds."""
        self._continues_listing = True

    @property
    def last_activity_at(self) -> float:
        """When this poller last made a request, or is to wake up; monotonic seconds. For the health check."""
        return self._stats.last_activity_at

    @property
    def usage_estimate(self) -> UsageEstimate:
        """Expected API usage of this account."""
        polls = self._plan.requests_per_poll / self._interval

        def requests(full_interval: float) -> int:
            background = self._plan.pages / full_interval if self._plan.incremental else 0.0
            return math.ceil(WINDOW_SECONDS * (polls + background))

        later = max(self._settings.schedule.full_listing_interval, self._full_interval)
        return UsageEstimate(self._plan.size, requests(later), requests(self._full_interval))

    def configure(self, settings: PollerSettings) -> None:
        """Use *settings* from the next poll on. Callable from any thread; the clock has to be woken."""
        self._wanted = settings

    def look_again(self) -> None:
        """Poll soon if another account of the same user has kept this one from polling. Callable from any thread."""
        self._nudged = True

    def run(self) -> None:
        """Poll until the process ends, or the account is removed."""
        try:
            try:
                self._test_doubtful_state_file()
                self._publish_saved_ledger()
            except Stopping:
                raise
            except Exception:  # noqa: BLE001  # the first poll tries again
                self._log.exception("state.load_failed")
            # The second poll follows at the account's own offset, within one interval of the first.
            due = self._clock.monotonic() + self._settings.schedule.phase - self._interval
            self._clock.pause(self._settings.schedule.first)
            while True:
                began = self._clock.monotonic()
                wait = self.poll(due)
                now = self._clock.monotonic()
                if wait is None:
                    late = now - _STILL_IN_TIME * self._interval
                    due = self._next_look(max(late, began))
                else:
                    due = now + wait
                due = self._sleep_until(due)
        except Stopping:
            self._log.debug("poller.stopped")
        finally:
            self._client.close()

    def poll_once(self) -> None:
        """Poll once, without the saved ledger and without a large account's full listing, and close the client.

        Raises:
            Stopping: the process is ending.
        """
        self._continues_listing = False
        self._run_command(self.poll)

    def take_over(self) -> None:
        """After all accounts were polled, poll once more if the account that was to poll the same user could not."""
        try:
            if self._duplicate and self._identity.is_free():
                self._command()
        finally:
            self._client.close()

    def _run_command(self, command: Callable[[], object]) -> None:
        self._command = command
        try:
            command()
        finally:
            if not self._duplicate:  # it may take over
                self._client.close()

    def confirm(self) -> None:
        """After all accounts were polled, fail if another account polls the same identity."""
        if self._gave_up:
            self._publish_snapshot()
        if self._ledger is not None and not self._stats.last_error:
            try:
                self._identity.claim(self._ledger.account.username)
            except DuplicateAccount as error:
                self._handle_failure(error)
                self._stats.up, self._stats.last_error = False, str(error)
                self._publish_snapshot()

    def poll_until_listed(self) -> None:
        """Poll until a full listing is complete, a poll fails, or a commit fails.

        Raises:
            Stopping: the process is ending.
        """
        self._begin_plan(incremental=False)
        self._publish_saved_ledger()
        self._run_command(self._list_in_full)

    def _list_in_full(self) -> None:
        while True:
            wait = self.poll()
            if self._stats.last_error or self._listed is not None or self._store.write_failures:
                return
            self._clock.pause(wait or 0.0)

    def poll(self, due: float | None = None) -> float | None:
        """Poll once; the poll was *due* at that time (monotonic seconds), or is now.

        Returns:
            Seconds until the next poll; None for its usual time.

        Raises:
            Stopping: the process is ending.
        """
        self._take_settings()
        began = self._stats.last_activity_at = self._clock.monotonic()
        self._due = began if due is None else due
        made = self._stats.requests_made
        self._leave_taken_ledger()
        self._nudged = self._duplicate = self._gave_up = False
        delay = _Delay(None)
        result, error_text = "success", ""
        try:
            delay = self._run_cycle()
        except Stopping:
            raise
        except AllowanceExhausted as spent:
            delay = _Delay(spent.wait, spent.reason)
        except PollError as error:
            result, error_text = error.result, str(error)
            delay = self._handle_failure(error)
        except ConfigError as error:  # one of the account's files
            result, error_text = "error", str(error)
            self._give_up()
            reason = WaitReason.TOKEN if isinstance(error, TokenError) else None
            delay = _Delay(min(self._interval, SETUP_INTERVAL), reason)
        except (StateError, StateWriteError) as error:
            result, error_text = "error", str(error)
        except Exception:  # noqa: BLE001  # an unexpected error must not end the thread
            result, error_text = "error", "unexpected error, see the log"
            self._log.exception("poll.unexpected_error")
        remedy = self._identity.token_remedy() if delay.reason is WaitReason.TOKEN else ""
        next_step = delay.next_step or remedy
        if error_text or self._stats.requests_made > made:  # without a request it was no poll
            self._stats.polled(result, error_text, self._clock.time(), self._clock.monotonic() - began, next_step)
        if delay.reason is None:
            self._waits.end()
        else:
            # A token is used as soon as it is replaced.
            seconds = None if delay.reason is WaitReason.TOKEN else delay.seconds
            self._waits.begin(delay.reason, seconds, next_step=next_step)
        self._stats.last_activity_at = self._clock.monotonic()
        self._test_doubtful_state_file()
        self._publish_snapshot()
        return delay.seconds

    def _handle_failure(self, error: PollError) -> _Delay:
        """Update state after a failed poll and return the delay before the next one; None for the usual delay."""
        self._stats.failed(error)
        if isinstance(error, DuplicateAccount):
            self._duplicate = True
            self._ledger = self._listed = None  # the other account publishes them
        elif isinstance(error, Unauthorized | WrongAccount):
            self._give_up()
        if error.reidentify:
            self._identity.ask_again()
        if isinstance(error, RateLimited | Overloaded):
            return _Delay(max(error.retry_after, self._interval), error.wait_reason)
        return _Delay(error.retry_after, error.wait_reason, error.next_step)

    def _give_up(self) -> None:
        """Let another account of the same user poll. The counters are shown until it does."""
        self._identity.give_up()
        self._gave_up = True

    def _leave_taken_ledger(self) -> None:
        """Show nothing of a ledger that another account has taken over."""
        if self._gave_up and self._ledger is not None and self._identity.is_taken(self._ledger):
            self._ledger = self._listed = self._ahead = None

    def _next_look(self, now: float) -> float:
        """When the next poll is due after *now*; polls that were missed are skipped."""
        return self._due + (math.floor((now - self._due) / self._interval) + 1) * self._interval

    def _sleep_until(self, due: float) -> float:
        """Sleep until *due*, or until a reason to wait is gone; return when that was.

        A token may have been replaced, or the other account of the same user removed. While the account waits, its
        snapshots go on: the detection delay grows. If commits fail, the state file may be writable again.
        """
        self._stats.last_activity_at = due
        while (left := due - self._clock.monotonic()) > 0:
            if self._reason_to_wait_is_gone():
                return self._clock.monotonic()
            if self._take_settings() and self._waits.current is None:
                # A shorter interval begins with the last poll, a longer one with the next.
                due = self._stats.last_activity_at = min(due, self._due + self._interval)
                continue
            waiting = self._waits.current is not None or self._gave_up
            step = _WAITING_STEP if waiting or self._identity.awaits_token else left
            self._clock.pause(min(left, step, self._commit_failures.seconds_to_test))
            if self._test_doubtful_state_file() or waiting:
                self._publish_snapshot()
        return due

    def _reason_to_wait_is_gone(self) -> bool:
        if self._duplicate and (self._nudged or self._identity.is_free()):
            return True
        return self._identity.awaits_token and self._identity.token_changed()

    def _take_settings(self) -> bool:
        """Use the settings of the last reload; return whether there are others than before."""
        wanted, before = self._wanted, self._settings
        if wanted is before or wanted == before:
            return False
        self._settings = self._identity.settings = wanted
        self._client.timeout = wanted.request_timeout
        self._cycle.rules = wanted.rules
        self._plan.use_full_listing_interval(wanted.schedule.full_listing_interval)
        if wanted.rules.failed_job_window > before.rules.failed_job_window and self._ledger is not None:
            try:
                self._ledger = self._identity.with_older_failures(self._ledger)
            except (StateError, StateWriteError):  # they are missing until the next start
                self._log.exception("state.load_failed")
        self._publish_snapshot()
        return True

    # ---- fetch, reconcile, commit ----

    def _run_cycle(self) -> _Delay:
        """Run one poll's cycle; return the delay before the next one, 0 s if a small account's list goes on.

        Raises:
            AllowanceExhausted: the allowance ended the poll before it observed a job.
        """
        self._ledger = self._identity.ledger(self._ledger)
        ledger = self._reset_changed_histograms(self._ledger)
        began = self._clock.monotonic()
        result = self._cycle.run(
            ledger,
            self._client.allowance.budget(began, self._interval, self._plan.pages_per_discovery),
            self._next_look,
            lambda look: self._show_look(ledger, look),
        )
        self._apply(ledger, result)
        failure = result.stopped
        if isinstance(failure, AllowanceExhausted) and result.saw_jobs:
            return _Delay(failure.wait, failure.reason)
        if result.discovered:
            self._waits.end()
        if failure is not None and not result.discovered:
            raise failure
        if result.may_continue and self._continues_listing and self._plan.incremental:
            failure = self._continue_listing()
        if isinstance(failure, PollError):
            return self._after_look(failure)
        return _Delay(0.0 if result.written and self._plan.half_read else None)

    def _show_look(self, ledger: Ledger, result: CycleResult) -> None:
        """Publish what the look found; what is requested after it may take its time."""
        self._apply(ledger, result)
        self._publish_snapshot()

    def _after_look(self, failure: PollError) -> _Delay:
        """Take note of a failure after a look that succeeded; return the delay before the next poll.

        Raises:
            Unauthorized: the platform refuses the token.
        """
        if isinstance(failure, Unauthorized):
            raise failure
        self._stats.page_failed(str(failure))
        return self._handle_failure(failure)

    def _continue_listing(self) -> Stopped:
        """Read a large account's full listing, and commit after each phase; return the error that ended it."""
        continues = True
        while continues and self._ledger is not None:
            self._publish_snapshot()  # what the first phases found does not wait for this
            ledger = self._ledger
            result = self._cycle.continue_listing(ledger)
            self._apply(ledger, result)
            if result.stopped is not None:
                return result.stopped
            continues = result.written and self._plan.goes_on
        return None

    def _apply(self, ledger: Ledger, result: CycleResult) -> None:
        """Take over what a cycle that began with *ledger* found: committed counters, and gauges in any case."""
        if result.complete:
            self._listed = result.listed
            self._listed_at = self._clock.monotonic()
            self._stats.last_full_listing = self._clock.time()
        elif self._plan.incremental and (self._listed is not None or self._can_resume_from(ledger)):
            self._listed = result.listed
        self._ledger = result.ledger
        if result.stopped is None or result.saw_jobs:
            self._ahead = result.ahead

    def _can_resume_from(self, ledger: Ledger) -> bool:
        """Whether an earlier process' listing is recent enough for incremental polling to keep its gauges current."""
        age = self._cycle.view(ledger).listing_age
        return ledger.account.ever_listed and age is not None and age <= _USABLE_INTERVALS * self._full_interval

    def _begin_plan(self, *, incremental: bool = True) -> None:
        self._plan = PollPlan(
            self._settings.schedule.full_listing_interval, self._clock.monotonic(), incremental=incremental
        )
        self._cycle = PollCycle(
            self._plan,
            self._start,
            self._store,
            rules=self._settings.rules,
            stats=self._stats,
            clock=self._clock,
            commit=self._commit,
        )

    def _publish_saved_ledger(self) -> None:
        """Publish the counters of the ledger that the account last used, until the platform responds."""
        if not self._name_reassigned:
            self._ledger = self._identity.saved_ledger() or self._ledger
        self._publish_snapshot()

    def _reset_changed_histograms(self, ledger: Ledger) -> Ledger:
        """Return the ledger with the histogram bounds of the current configuration."""
        changes = reset_changed_histograms(ledger, self._settings.rules, self._clock.time())
        return ledger.after(changes) if self._commit(ledger, changes) else ledger

    def _commit(self, ledger: Ledger, changes: Changes) -> bool:
        """Commit *changes* and return whether that succeeded; if not, the next poll finds them again."""
        if not changes:
            return True
        account = ledger.account
        try:
            identity = (account.endpoint, account.username, account.division)
            with self._lease.held(), self._identities.writer_lock(identity, self.name):
                self._store.commit(account.number, changes)
        except StateWriteError as error:
            self._commit_failures.failed(str(error))
            return False
        self._commit_failures.succeeded()
        for event in changes.events:
            self._stats.committed(event)
        return True

    def _test_doubtful_state_file(self) -> bool:
        """Test the state file if commits may fail and no poll shows whether they do; return whether that was done.

        A poll that fails has nothing to commit, and an account may wait for hours.
        """
        unnoticed = self._store.in_doubt and self._commit_failures.current is None
        if not unnoticed and self._commit_failures.seconds_to_test > 0:
            return False
        try:
            self._store.test_write()
        except StateWriteError as error:
            self._commit_failures.failed(str(error))
        else:
            self._commit_failures.succeeded("what was missed is counted by the next poll that succeeds")
        return True

    # ---- publish ----

    @property
    def _shown(self) -> Ledger | None:
        """The ledger with its live jobs as last observed."""
        if self._ledger is None or self._ahead is None:
            return self._ledger
        return dataclasses.replace(self._ledger, live=self._ahead)

    @property
    def _full_interval(self) -> float:
        """The effective full listing interval, in seconds."""
        if not self._plan.incremental:
            return self._interval
        # Use at most half of the allowance for full listings.
        soonest = self._client.allowance.min_interval(2 * self._plan.pages)
        return max(self._settings.schedule.full_listing_interval, soonest) if self._plan.head_known else soonest

    def _publish_snapshot(self) -> None:
        self._leave_taken_ledger()
        stats, shown = self._stats, self._shown
        room = _REQUESTS_PER_PAGE_LARGE if self._plan.incremental else _REQUESTS_PER_PAGE_SMALL
        self._interval = max(
            self._settings.schedule.poll_interval,
            self._client.allowance.min_interval(room * self._plan.pages_per_discovery),
        )
        valid_for = max(self._settings.schedule.stale_after, 2 * self._interval)
        if not self._plan.incremental and self._clock.monotonic() - self._listed_at > valid_for:
            self._listed = None  # polls succeed, but a job that cannot be read keeps each listing from being complete
        self._publish(
            AccountSnapshot(
                self.name,
                self.account.endpoint,
                shown,
                self._listed,
                stats.status(
                    self._client.allowance,
                    interval=self._interval,
                    full_interval=self._full_interval,
                    incremental=self._plan.incremental,
                    delay=None if shown is None else self._plan.delay(self._clock.monotonic(), shown.live),
                    waiting=self._waits.current,
                    commit_failure=self._commit_failures.current,
                    slowed=self._interval > self._settings.schedule.poll_interval,
                ),
                self._clock.time() + valid_for - (self._clock.monotonic() - stats.succeeded_at),
            )
        )

"""One account: ask, fold, commit, publish.

A poll that fails part of the way still has what it saw counted, since counting is idempotent and a partial listing is
as true as a whole one; only the gauges as last listed wait for a complete listing.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from exporter.accounts import Watched
from exporter.clock import Clock
from exporter.counting.ledger import (
    Book,
    Changes,
    Rules,
    Sightings,
    Sums,
    fold,
    rebucketed,
)
from exporter.counting.store import Store
from exporter.credentials import Secret
from exporter.errors import (
    AllowanceSpent,
    ConfigError,
    JobRefused,
    Maintenance,
    PollError,
    RateLimited,
    StateWriteError,
    Stopping,
    Unauthorized,
    WrongAccount,
)
from exporter.metrics.snapshot import Picture
from exporter.platform.client import Client, Listener
from exporter.platform.jobs import Job, more_advanced
from exporter.polling.claims import Claims
from exporter.polling.plan import JobQuestion, Walk, questions
from exporter.polling.record import Record, log_fact
from exporter.telemetry import Log, Secrets

AFTER_MAINTENANCE: Final = 60.0
AFTER_REFUSAL: Final = 300.0
_TOKEN_LOOK: Final = 5.0
"""Seconds between two looks at a token file while the platform refuses what it holds."""
PAGES_PER_POLL: Final = 50
"""Pages read before what they showed is committed: a long listing is counted in slices."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When to poll and for how long to believe it; seconds.

    Attributes:
        first: before the first poll, so that accounts do not all begin in the same instant.
        phase: this account's place in the interval from then on.
    """

    poll_interval: float
    stale_after: float
    first: float
    phase: float


@dataclass(slots=True)
class _Seen:
    """What one poll has seen so far: :class:`Sightings` in the making."""

    jobs: dict[str, Job] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)

    def add(self, job: Job) -> None:
        """Take in one sighting; of two of one job the more advanced wins."""
        self.jobs[job.id] = more_advanced(self.jobs[job.id], job) if job.id in self.jobs else job


class Poller:
    """One account's thread of work. All of its state is its own; what others may see it publishes."""

    def __init__(
        self,
        watched: Watched,
        *,
        connect: Callable[[Listener], Client],
        store: Store,
        claims: Claims,
        rules: Rules,
        pace: Pace,
        clock: Clock,
        publish: Callable[[Picture], None],
        log: Log,
        secrets: Secrets,
    ) -> None:
        self.name = watched.name
        self._watched = watched
        self._store = store
        self._claims = claims
        self._rules = rules
        self._pace = pace
        self._clock = clock
        self._publish = publish
        self._secrets = secrets
        self._log = log.bind(account=watched.name)
        self._record = Record(clock.time(), self._log)
        self._client = connect(self._record)
        self._walk = Walk()
        self._secret: Secret | None = None
        self._book: Book | None = None
        self._identified = False
        self._listed: Mapping[tuple[str, str], Sums] | None = None
        self._wait_for_token = False
        self.moved_at = clock.monotonic()
        """When this poller last moved, or is to wake from its rest, by the monotonic clock: health rests on it."""

    def run(self) -> None:
        """Poll until the process ends."""
        try:
            self._show_what_was_counted()
            due = self._clock.monotonic() + self._pace.phase
            self._clock.pause(self._pace.first)
            while True:
                wait = self.poll()
                now = self._clock.monotonic()
                due += self._pace.poll_interval
                if due < now:  # overran: the polls that were missed are skipped, not made up for
                    due += math.ceil((now - due) / self._pace.poll_interval) * self._pace.poll_interval
                if wait is not None:
                    due = now + wait
                due = self._rest(due)
        except Stopping:
            self._log.debug("poller.stopped")
        finally:
            self._client.close()

    def poll_once(self) -> None:
        """One poll, without what was counted before, and the end of the connection.

        Raises:
            Stopping: the process is ending.
        """
        try:
            self.poll()
        finally:
            self._client.close()

    def confirm(self) -> None:
        """Once all accounts were polled: fail if an earlier entry turned out to watch the same one."""
        if self._book is not None and not self._record.fault:
            try:
                self._claim(self._book.account.username)
            except WrongAccount as error:
                self._record.up, self._record.fault = False, str(error)
                self._show()

    def poll_until_listed(self) -> None:
        """Poll until a listing is complete or a poll fails.

        Raises:
            Stopping: the process is ending.
        """
        try:
            self._show_what_was_counted()
            while True:
                wait = self.poll()
                if self._record.fault or self._listed is not None:
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
        began = self._clock.monotonic()
        self.moved_at = began
        wait: float | None = None
        result, fault = "success", ""
        try:
            wait = self._ask_fold_commit()
        except Stopping:
            raise
        except AllowanceSpent as spent:
            return spent.wait  # nothing was asked: this was no poll
        except PollError as error:
            # What the platform says may repeat what it was sent; the status page shows it.
            result, fault = error.result, self._secrets.hidden(str(error))
            wait = self._after(error)
        except (ConfigError, StateWriteError) as error:
            result, fault = "error", self._secrets.hidden(str(error))
        except Exception:  # noqa: BLE001  # whatever it is, the next poll comes as usual
            result, fault = "error", "unexpected error, see the log"
            self._log.exception("poll.crashed")
        self._record.polled(result, fault, self._clock.time(), self._clock.monotonic() - began)
        self.moved_at = self._clock.monotonic()
        self._show()
        return wait

    def _after(self, error: PollError) -> float | None:
        """What a failed poll changes, and how long to wait after it."""
        if isinstance(error, Unauthorized):
            self._record.auth_ok = False
            self._identified = False
            self._wait_for_token = True
            return AFTER_REFUSAL
        if isinstance(error, WrongAccount):
            self._identified = False
            self._wait_for_token = True
            return AFTER_REFUSAL
        if isinstance(error, RateLimited):
            return max(error.wait, self._pace.poll_interval)
        if isinstance(error, Maintenance):
            self._record.maintenance = True
            return AFTER_MAINTENANCE
        return None

    def _rest(self, due: float) -> float:
        """Wait until *due*; a poller that waits for a new token looks for it meanwhile. When it ended, monotonic."""
        self.moved_at = due
        while (left := due - self._clock.monotonic()) > 0:
            if self._wait_for_token and self._token_changed():
                return self._clock.monotonic()
            self._clock.pause(min(left, _TOKEN_LOOK) if self._wait_for_token else left)
        return due

    def _token_changed(self) -> bool:
        try:
            return self._watched.token.read() != self._secret
        except ConfigError:
            return False

    # ---- ask, fold, commit ----

    def _ask_fold_commit(self) -> float | None:
        """One poll's work; the wait until the rest of a long listing is read, None when there is no rest.

        Raises:
            AllowanceSpent: nothing could be asked.
        """
        book = self._identified_book()
        self._record.platform_time = None
        seen = _Seen()
        failure = self._read_pages(seen)
        complete = failure is None and self._walk.complete
        changes = self._fold(book, seen, complete=complete)
        if failure is None:
            present = self._walk.listing if complete else seen.listed
            wanted = questions(book.after(changes).live.values(), present, complete=complete)
            if wanted:
                failure = self._read_jobs(wanted, seen)
                changes = self._fold(book, seen, complete=complete)
        self._commit(book, changes, complete=complete)
        unread = not self._walk.ended
        if not unread:
            self._walk = self._walk.after()
        if isinstance(failure, AllowanceSpent) and seen.jobs:
            return failure.wait
        if failure is not None:
            raise failure
        return 0.0 if unread else None

    def _identified_book(self) -> Book:
        """The ledger of whoever the token belongs to: asked at the start and whenever the token's text changes.

        Raises:
            WrongAccount: the token is somebody else's, or another entry watches them.
        """
        secret = self._watched.token.read()
        if secret != self._secret:
            self._identified = False
            self._client.use_token(secret.reveal())
            self._secrets.hide(secret)
            self._secret = secret
        if self._book is None or not self._identified:
            return self._identify()
        self._claim(self._book.account.username)
        return self._book

    def _identify(self) -> Book:
        """Ask whose token it is, and take up their ledger."""
        answer = self._client.user()
        self._record.answered()
        name, endpoint, division = self._watched.name, self._watched.endpoint, self._watched.division
        username = answer.value
        self._record.username = username
        if self._book is not None and self._book.account.username != username:
            raise WrongAccount(
                f"the token belongs to {username}, the counters of account {name} to {self._book.account.username};"
                " give the account another name to count for both, or bring back the token of the first"
            )
        self._claim(username)
        now = self._clock.time()
        # Read anew even if it is shown already: another entry may have written to it before this one claimed it.
        book = self._store.book(name, endpoint, username, division, now - self._rules.failed_job_window)
        if book is None:
            since = answer.date if answer.date is not None else now
            book = self._store.begin(name, endpoint, username, division, since=since, now=now, rules=self._rules)
            self._log.info("ledger.began", counting_since=since)
        self._book = self._rebucketed(book)
        self._identified = True
        self._wait_for_token = False
        return self._book

    def _claim(self, username: str) -> None:
        """Make sure that no earlier entry watches the account: that one shows its counters then."""
        try:
            self._claims.claim((self._watched.endpoint, username, self._watched.division), self._watched.name)
        except WrongAccount:
            self._book = self._listed = None
            raise

    def _show_what_was_counted(self) -> None:
        """Until the platform answers, the counters are those of the ledger that the name was last bound to."""
        since = self._clock.time() - self._rules.failed_job_window
        book = self._store.bound(self._watched.name, self._watched.endpoint, self._watched.division, since)
        if book is not None:
            self._book = self._rebucketed(book)
        self._show()

    def _rebucketed(self, book: Book) -> Book:
        """The book with the histograms' bounds that are configured now."""
        changes = rebucketed(book, self._rules, self._clock.time())
        try:
            self._store.commit(book.account.number, changes)
        except StateWriteError as error:
            self._log.error("state.not_written", reason=str(error))
            return book
        for fact in changes.facts:
            log_fact(self._log, fact)
        return book.after(changes)

    def _read_pages(self, seen: _Seen) -> PollError | AllowanceSpent | None:
        """The next pages of the walk, into *seen*; what stopped the reading, if anything did."""
        for _ in range(PAGES_PER_POLL):
            if self._walk.next is None:
                break
            try:
                answer = self._client.page(*self._walk.next)
            except (PollError, AllowanceSpent) as error:
                return error
            self._record.answered()
            self._record.page_read(answer.date, answer.page.skipped)
            self.moved_at = self._clock.monotonic()
            self._walk.take(answer)
            for job in answer.page.jobs:
                seen.add(job)
                seen.listed.add(job.id)
        return None

    def _read_jobs(self, wanted: Iterable[JobQuestion], seen: _Seen) -> PollError | AllowanceSpent | None:
        """Jobs that only their own endpoint can tell about, into *seen*; what stopped the reading, if anything did."""
        for question in wanted:
            self.moved_at = self._clock.monotonic()
            try:
                job = self._client.job(*question).value
            except JobRefused as error:
                self._log.warning("job.refused", job_id=question.job_id, reason=str(error))
            except (PollError, AllowanceSpent) as error:
                return error
            else:
                if job is None:
                    seen.unknown.add(question.job_id)
                else:
                    seen.asked.add(job.id)
                    seen.add(job)
        return None

    def _fold(self, book: Book, seen: _Seen, *, complete: bool) -> Changes:
        number = book.account.number
        now = self._clock.time()
        return fold(
            book,
            self._store.marks(number, seen.jobs.keys() | seen.unknown),
            Sightings(
                seen.jobs,
                seen.listed,
                asked=seen.asked,
                unknown=seen.unknown,
                vanished=self._store.vanished(number, self._walk.listing) if complete else (),
                expired=self._store.expired(number, book.account.listing_clock) if complete else (),
                complete=complete,
            ),
            self._rules,
            now=now,
            platform=now if self._record.platform_time is None else self._record.platform_time,
        )

    def _commit(self, book: Book, changes: Changes, *, complete: bool) -> None:
        """Commit *changes*; what is shown afterwards is what was committed, or what was shown before."""
        if complete:
            self._listed = changes.listed
            self._record.last_full_listing = self._clock.time()
        if not changes:
            return
        account = book.account
        try:
            with self._claims.held((account.endpoint, account.username, account.division), self._watched.name):
                self._store.commit(account.number, changes)
        except StateWriteError as error:
            # The same changes come out of the next poll; gauges as last listed move on meanwhile.
            self._log.error("state.not_written", reason=str(error))
            return
        self._book = book.after(changes)
        for fact in changes.facts:
            self._record.told(fact)
            log_fact(self._log, fact)

    # ---- publish ----

    def _show(self) -> None:
        record = self._record
        believed_for = max(self._pace.stale_after, 2 * self._pace.poll_interval)
        self._publish(
            Picture(
                self._watched.name,
                self._watched.endpoint,
                self._book,
                self._listed,
                record.picture(self._client.allowance, self._pace.poll_interval),
                (record.last_success or -math.inf) + believed_for,
            )
        )

"""One account: ask, fold, commit, publish.

A poll that fails part of the way still has what it saw counted, since counting is idempotent and a partial listing is
as true as a whole one; only the gauges as last listed wait for a complete listing.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
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
    AlreadyWatched,
    ConfigError,
    JobRefused,
    Maintenance,
    PollError,
    RateLimited,
    StateWriteError,
    Stopping,
    Unauthorized,
    Unreachable,
    WrongAccount,
)
from exporter.metrics.snapshot import Picture
from exporter.platform.client import Client, Listener
from exporter.platform.jobs import Job
from exporter.polling.claims import Claims
from exporter.polling.plan import JobQuestion, Walk, questions
from exporter.polling.record import Record
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

    jobs: list[Job] = field(default_factory=list)
    listed: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)

    @property
    def ids(self) -> set[str]:
        """Every job that anything was told of."""
        return self.listed | self.asked | self.refused | self.unknown


def _worth_going_on(walk: Walk, failure: PollError | AllowanceSpent | None) -> bool:
    """Whether the next poll goes on where this one ended.

    After a failure it begins anew, so that one bad page does not hide the pages before it; but a walk that took several
    polls to get there would never end so.
    """
    return not isinstance(failure, PollError) or walk.ended or walk.pages > PAGES_PER_POLL


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
        self._record = Record(clock, self._log)
        self._client = connect(self._record)
        self._walk = Walk()
        self._secret: Secret | None = None
        self._book: Book | None = None
        self._identified = False
        self._listed: Mapping[tuple[str, str], Sums] | None = None
        self._wait_for_token = False

    @property
    def moved_at(self) -> float:
        """When this poller last asked anything, or is to wake from its rest, by the monotonic clock."""
        return self._record.moved_at

    def run(self) -> None:
        """Poll until the process ends."""
        try:
            try:
                self._show_what_was_counted()
            except Exception:  # noqa: BLE001  # the polls to come may fare better
                self._log.exception("state.not_read")
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
            except AlreadyWatched as error:
                self._after(error)
                self._record.up, self._record.fault = False, str(error)
                self._show()

    def poll_until_listed(self) -> None:
        """Poll until a listing is complete, a poll fails, or what it saw cannot be written.

        Raises:
            Stopping: the process is ending.
        """
        try:
            self._show_what_was_counted()
            while True:
                wait = self.poll()
                if self._record.fault or self._listed is not None or self._store.write_failures:
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
        began = self._record.moved_at = self._clock.monotonic()
        made = self._record.requests_made
        wait: float | None = None
        result, fault = "success", ""
        try:
            wait = self._ask_fold_commit()
        except Stopping:
            raise
        except AllowanceSpent as spent:
            if self._record.requests_made == made:
                return spent.wait  # nothing was asked: this was no poll
            wait = spent.wait
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
        self._record.moved_at = self._clock.monotonic()
        self._show()
        return wait

    def _after(self, error: PollError) -> float | None:
        """What a failed poll changes, and how long to wait after it."""
        if self._record.maintenance and not isinstance(error, Maintenance | Unreachable):
            self._record.maintenance = False  # it answers again, if not well
        if isinstance(error, Unauthorized):
            self._record.auth_ok = False
        if isinstance(error, AlreadyWatched):
            self._book = self._listed = None  # that entry shows them
        if isinstance(error, Unauthorized | WrongAccount):
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
        self._record.moved_at = due
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
            AllowanceSpent: the allowance ended this poll before it saw a job.
        """
        book = self._rebucketed(self._identified_book())
        # Taken out, and put back only once what it met is committed: a walk stands for jobs that are counted.
        walk, self._walk = self._walk, Walk()
        seen = _Seen()
        failure = self._read_pages(walk, seen)
        listing = walk.listing if failure is None and walk.complete else None
        changes = self._fold(book, seen, listing)
        if failure is None:
            present = seen.listed if listing is None else listing
            wanted = questions(book.after(changes).live.values(), present, complete=listing is not None)
            if wanted:
                failure = self._read_jobs(wanted, seen)
                changes = self._fold(book, seen, listing)
        written = self._commit(book, changes, complete=listing is not None)
        if written and _worth_going_on(walk, failure):
            self._walk = walk.after() if walk.ended else walk
        if isinstance(failure, AllowanceSpent) and seen.jobs:
            return failure.wait
        if failure is not None:
            raise failure
        return 0.0 if written and not walk.ended else None

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
        if self._book is not None and self._book.account.username != username:
            raise WrongAccount(
                f"the token belongs to {username}, the counters of account {name} to {self._book.account.username};"
                " give the account another name to count for both, or bring back the token of the first"
            )
        self._record.username = username
        self._claim(username)
        now = self._clock.time()
        # Read anew even if it is shown already: another entry may have written to it before this one claimed it.
        book = self._store.book(name, endpoint, username, division, now - self._rules.failed_job_window)
        if book is None:
            since = math.floor(answer.date if answer.date is not None else now)
            book = self._store.begin(name, endpoint, username, division, since=since, now=now, rules=self._rules)
            self._log.info("ledger.began", counting_since=since)
        self._book = book
        self._identified = True
        self._wait_for_token = False
        return self._book

    def _claim(self, username: str) -> None:
        """Make sure that no earlier entry watches the account.

        Raises:
            AlreadyWatched: one does.
        """
        self._claims.claim((self._watched.endpoint, username, self._watched.division), self._watched.name)

    def _show_what_was_counted(self) -> None:
        """Until the platform answers, the counters are those of the ledger that the name was last bound to."""
        since = self._clock.time() - self._rules.failed_job_window
        book = self._store.bound(self._watched.name, self._watched.endpoint, self._watched.division, since)
        if book is not None:
            self._book = book
        self._show()

    def _rebucketed(self, book: Book) -> Book:
        """The book with the histograms' bounds that are configured now."""
        changes = rebucketed(book, self._rules, self._clock.time())
        return book.after(changes) if self._written(book, changes) else book

    def _read_pages(self, walk: Walk, seen: _Seen) -> PollError | AllowanceSpent | None:
        """The next pages of *walk*, into *seen*; what stopped the reading, if anything did."""
        for _ in range(PAGES_PER_POLL):
            if walk.next is None:
                break
            try:
                answer = self._client.page(*walk.next)
            except (PollError, AllowanceSpent) as error:
                return error
            self._record.answered()
            self._record.page_read(answer.date, answer.page.skipped)
            walk.take(answer)
            seen.jobs.extend(answer.page.jobs)
            seen.listed.update(job.id for job in answer.page.jobs)
        return None

    def _read_jobs(self, wanted: Iterable[JobQuestion], seen: _Seen) -> PollError | AllowanceSpent | None:
        """Jobs that only their own endpoint can tell about, into *seen*; what stopped the reading, if anything did."""
        for question in wanted:
            try:
                job = self._client.job(*question).value
            except JobRefused as error:
                self._log.warning("job.refused", job_id=question.job_id, reason=str(error))
                seen.refused.add(question.job_id)
            except (PollError, AllowanceSpent) as error:
                return error
            else:
                if job is None:
                    seen.unknown.add(question.job_id)
                else:
                    seen.asked.add(job.id)
                    seen.jobs.append(job)
        return None

    def _fold(self, book: Book, seen: _Seen, listing: Collection[str] | None) -> Changes:
        """What *seen* changes; *listing* is a complete one, if this poll completed one."""
        number = book.account.number
        return fold(
            book,
            self._store.marks(number, seen.ids),
            Sightings(
                seen.jobs,
                seen.listed,
                asked=seen.asked,
                refused=seen.refused,
                unknown=seen.unknown,
                vanished=() if listing is None else self._store.vanished(number, listing),
                expired=() if listing is None else self._store.expired(number, book.account.listing_clock),
                complete=listing is not None,
            ),
            self._rules,
            now=self._clock.time(),
            platform=self._record.platform_time,
        )

    def _commit(self, book: Book, changes: Changes, *, complete: bool) -> bool:
        """Commit *changes*; whether that worked. Counters shown are committed ones; gauges move on in any case."""
        after = book.after(changes)
        if complete:
            self._listed = changes.listed
            self._record.last_full_listing = self._clock.time()
        if not self._written(book, changes):
            self._book = replace(book, live=after.live)
            return False
        self._book = after
        return True

    def _written(self, book: Book, changes: Changes) -> bool:
        """Whether *changes* are on disk; where not, they come out of the next poll again."""
        if not changes:
            return True
        account = book.account
        try:
            with self._claims.held((account.endpoint, account.username, account.division), self.name):
                self._store.commit(account.number, changes)
        except StateWriteError as error:
            self._log.error("state.not_written", reason=str(error))
            return False
        for fact in changes.facts:
            self._record.committed(fact)
        return True

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

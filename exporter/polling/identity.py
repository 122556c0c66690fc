"""Which user a token belongs to. Of two accounts with the same identity, only the first configured one is polled."""

import math
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from exporter.api.allowance import AllowanceKey, AllowancePool
from exporter.api.client import Client
from exporter.api.models import Job, JobPage, Operation, Priority, Response
from exporter.clock import Clock
from exporter.config.accounts import AccountConfig
from exporter.counting.values import Ledger
from exporter.errors import (
    AllowanceExhausted,
    BadAnswer,
    ConfigError,
    DuplicateAccount,
    PollError,
    TokenError,
    WrongAccount,
)
from exporter.logs import Log
from exporter.polling.lease import Lease
from exporter.polling.platform_clock import AGREE_WITHIN
from exporter.polling.settings import PollerSettings
from exporter.polling.stats import PollStats
from exporter.redaction import Secret
from exporter.storage.store import Store

Identity = tuple[str, str, str]
"""Endpoint, user name and division."""
_MAX_CONFIRMATIONS: Final = 4
"""Requests in one poll, after those that it needs anyway, until two responses in a row show the same clock."""


class IdentityRegistry:
    """Which account polls which identity, so that each ledger has one writer. Safe to share between threads."""

    def __init__(self, names: Sequence[str]) -> None:
        """A registry without claims; *names* are the accounts in the order of the configuration."""
        self._lock = threading.Lock()
        self._order = {name: position for position, name in enumerate(names)}
        self._owners: dict[Identity, str] = {}

    def claim(self, identity: Identity, name: str) -> None:
        """Claim *identity* for the account *name*. An earlier account takes it from a later one that was faster.

        Raises:
            DuplicateAccount: an earlier account has it.
        """
        with self._lock:
            owner = self._owners.get(identity, name)
            if self._order[owner] < self._order[name]:
                raise DuplicateAccount(_duplicate(owner, name))
            self._owners[identity] = name

    def arrange(self, names: Sequence[str], released: Collection[str]) -> None:
        """Take over a changed configuration: the order of the accounts now, and those whose pollers have ended."""
        with self._lock:
            self._order = {name: position for position, name in enumerate(names)}
            self._owners = {
                identity: name
                for identity, name in self._owners.items()
                if name in self._order and name not in released
            }

    @contextmanager
    def writer_lock(self, identity: Identity, name: str) -> Iterator[None]:
        """Keep other accounts from claiming *identity* while the block runs.

        Raises:
            DuplicateAccount: an earlier account has claimed it meanwhile.
        """
        with self._lock:
            owner = self._owners.get(identity, name)
            if owner != name:
                raise DuplicateAccount(_duplicate(owner, name))
            yield


def _duplicate(owner: str, name: str) -> str:
    return f"accounts {owner} and {name} are the same user: {owner} is polled, {name} is not; remove one of them"


class AccountIdentity:
    """Identifies one account's user, and loads the ledger and the allowance that belong to it.

    It asks the platform at the start, and again whenever the token changes. For one thread.

    A new ledger needs the platform's time, and that needs two responses in a row that agree: the user, and the first
    page of the list, which the poll needs anyway. As a :class:`.cycle.Source` it then serves this page, so that a new
    account costs no request more. If the two disagree, the user is requested again until two do agree.
    """

    def __init__(
        self,
        account: AccountConfig,
        client: Client,
        *,
        store: Store,
        identities: IdentityRegistry,
        allowances: AllowancePool,
        settings: PollerSettings,
        stats: PollStats,
        clock: Clock,
        log: Log,
        lease: Lease,
    ) -> None:
        self._account = account
        self._client = client
        self._store = store
        self._identities = identities
        self._allowances = allowances
        self.settings = settings
        self._stats = stats
        self._clock = clock
        self._log = log
        self._lease = lease
        self._users: set[str] = set()
        """User names to hide."""
        self._secret: Secret | None = None
        self._identified = False
        self._first_answers: dict[str, tuple[float | None, float]] = {}
        """When the platform first named a user whose ledger does not exist yet: its date, and monotonic seconds."""
        self._first_page: JobPage | PollError | None = None
        self.unproven = False
        """Whether the platform rejected the token, or its user is the wrong one: the next poll checks it first."""
        self._unreadable = False

    @property
    def awaits_token(self) -> bool:
        """Whether a new token would end the wait for the next poll."""
        return self.unproven or self._unreadable

    def ask_again(self) -> None:
        """Ask the platform before the next poll which user the token belongs to."""
        self._identified = False
        self.unproven = True

    def with_older_failures(self, ledger: Ledger) -> Ledger:
        """Load *ledger* again, because failed jobs are now shown for longer than those in it."""
        account, since = ledger.account, self._clock.time() - self.settings.rules.failed_job_window
        with self._lease.held():
            loaded = self._store.load(self._account.name, account.endpoint, account.username, account.division, since)
        return ledger if loaded is None else loaded

    def token_changed(self) -> bool:
        """Whether the token differs from the one in use, or is back; false while it cannot be read."""
        try:
            return self._account.token.read() != self._secret or self._unreadable
        except ConfigError:
            return False

    def claim(self, username: str) -> None:
        """Make sure that no earlier account polls *username*.

        Raises:
            DuplicateAccount: an earlier account does.
        """
        with self._lease.held():
            self._identities.claim((self._account.endpoint, username, self._account.division), self._account.name)

    def saved_ledger(self) -> Ledger | None:
        """Load the ledger that the account last used: its counters are published until the platform responds."""
        since = self._clock.time() - self.settings.rules.failed_job_window
        ledger = self._store.load_by_name(self._account.name, self._account.endpoint, self._account.division, since)
        if ledger is not None:
            self._hide(ledger.account.username)
            self._use_allowance_of(ledger.account.username)
        return ledger

    def ledger(self, current: Ledger | None) -> Ledger:
        """Return the ledger of the token's user; *current* is the one in use so far.

        Raises:
            WrongAccount: the token belongs to another user than *current*, or an earlier account polls its user.
            PollError: the platform did not report the user.
            TokenError: the token cannot be read.
            StateWriteError: the new ledger could not be written.
        """
        try:
            secret = self._account.token.read()
        except TokenError:
            self._unreadable = True
            raise
        self._unreadable = False
        if secret != self._secret:
            self._identified = False
            self._client.use_token(secret)
            self._secret = secret
        if current is None or not self._identified:
            return self._identify(current)
        self.claim(current.account.username)
        return current

    def _identify(self, current: Ledger | None) -> Ledger:
        self._first_page = None
        response = self._user()
        username = response.value
        name, endpoint, division = self._account.name, self._account.endpoint, self._account.division
        self._hide(username)
        if current is not None and current.account.username != username:
            raise WrongAccount(self._wrong_user(username, current.account.username))
        self._stats.username = username
        self.claim(username)
        now = self._clock.time()
        # Load it again even if it is published already: another account may have written to it before this claim.
        with self._lease.held():
            ledger = self._store.load(name, endpoint, username, division, now - self.settings.rules.failed_job_window)
        if ledger is None:
            first = self._first_answers.setdefault(username, (response.date, self._clock.monotonic()))
            since = self._counting_since(*first)
            with self._lease.held():
                ledger = self._store.create(
                    name, endpoint, username, division, counting_since=since, local_time=now, rules=self.settings.rules
                )
            del self._first_answers[username]
            self._log.info("ledger.created", counting_since=since)
        self._identified = True
        self.unproven = False
        self._use_allowance_of(username)
        return ledger

    def _user(self) -> Response[str]:
        response = self._client.user()
        self._stats.answered()
        self._stats.date_received(response.date)
        return response

    def _counting_since(self, date: float | None, monotonic: float) -> int:
        """Return the platform's time of a response with *date*, received at *monotonic*, once its clock is believed.

        It is this machine's time if the platform shows no clock.

        Raises:
            BadAnswer: no two responses in a row show the same clock.
            PollError: the platform did not respond.
        """
        clock = self._stats.platform_clock
        witnesses = 1
        if not clock.believed:
            self._read_first_page()
            witnesses += isinstance(self._first_page, JobPage)
        for _ in range(_MAX_CONFIRMATIONS):
            if clock.believed or (clock.absent and witnesses > 1):
                break
            self._confirm()
            witnesses += 1
        passed = self._clock.monotonic() - monotonic
        since = clock.time(monotonic, self._clock.time() - passed)
        if since is not None and date is not None and abs(since - date) <= AGREE_WITHIN:
            since = date  # to the second: the estimate may be off by one
        if since is None:
            raise BadAnswer("no two responses in a row have a Date header with the same clock; cannot begin to count")
        return math.floor(since)

    def _confirm(self) -> None:
        """Request the user once more, for the time of the response."""
        try:
            self._user()
        except (PollError, AllowanceExhausted):
            if isinstance(self._first_page, PollError):
                raise self._first_page from None
            raise

    # ---- the first page of the list, as a second witness of the platform's clock ----

    def _read_first_page(self) -> None:
        try:
            page = self._client.page(0)
        except PollError as error:
            self._first_page = error  # The poll reports it, after the ledger has been created.
        else:
            self._stats.date_received(page.date)
            self._first_page = replace(page, date=None)

    def page(self, offset: int, priority: Priority, *, until: float) -> JobPage:
        """Return a page of the job list: the first one as it was already read, if it was; see :meth:`.Client.page`."""
        first, self._first_page = self._first_page, None
        if first is None or offset != 0:
            return self._client.page(offset, priority, until=until)
        if isinstance(first, PollError):
            raise first
        return first

    def job(self, operation: Operation, job_id: str, *, until: float) -> Response[Job | None]:
        """Return one job; see :meth:`.Client.job`."""
        return self._client.job(operation, job_id, until=until)

    def user(self) -> Response[str]:
        """Return the name of the user that the token belongs to; see :meth:`.Client.user`."""
        return self._client.user()

    def _hide(self, username: str) -> None:
        """Remember a user name that the platform's messages must not show."""
        if not self.settings.show_username:
            self._users.add(username)
            self._client.hide_names(*self._users)

    def _wrong_user(self, found: str, expected: str) -> str:
        name = self._account.name
        if not self.settings.show_username:
            return (
                f"the token belongs to another user than the ledger of account {name}; restore the token of the"
                f" ledger's user, or {self._account.renaming} to count the other user as well"
            )
        return (
            f"the token belongs to {found}, but the ledger of account {name} to {expected};"
            f" restore the token of {expected}, or {self._account.renaming} to count {found} as well"
        )

    def _use_allowance_of(self, username: str) -> None:
        """Use this user's allowance; move the requests made so far to it."""
        now, before = self._clock.monotonic(), self._client.allowance
        with self._lease.held():
            allowance = self._allowances.join(AllowanceKey(self._account.endpoint, username), self._account.name, now)
        if allowance is not before:
            allowance.merge(before, now)
            self._client.allowance = allowance

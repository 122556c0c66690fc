"""Which user a token belongs to. Of two accounts with the same identity, only the first configured one is polled."""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from exporter.api.allowance import AllowanceKey, AllowancePool
from exporter.api.client import Client
from exporter.clock import Clock
from exporter.config.accounts import AccountConfig
from exporter.counting.values import Ledger, Rules
from exporter.errors import ConfigError, DuplicateAccount, TokenError, WrongAccount
from exporter.logs import Log
from exporter.polling.stats import PollStats
from exporter.redaction import Redactor, Secret
from exporter.storage.store import Store

Identity = tuple[str, str, str]
"""Endpoint, user name and division."""


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

    It asks the platform at the start, and again whenever the token changes.

    For one thread.
    """

    def __init__(
        self,
        account: AccountConfig,
        client: Client,
        *,
        store: Store,
        identities: IdentityRegistry,
        allowances: AllowancePool,
        rules: Rules,
        stats: PollStats,
        clock: Clock,
        log: Log,
        redactor: Redactor,
    ) -> None:
        self._account = account
        self._client = client
        self._store = store
        self._identities = identities
        self._allowances = allowances
        self._rules = rules
        self._stats = stats
        self._clock = clock
        self._log = log
        self._redactor = redactor
        self._secret: Secret | None = None
        self._identified = False
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
        self._identities.claim((self._account.endpoint, username, self._account.division), self._account.name)

    def saved_ledger(self) -> Ledger | None:
        """Load the ledger that the account last used: its counters are published until the platform responds."""
        since = self._clock.time() - self._rules.failed_job_window
        ledger = self._store.load_by_name(self._account.name, self._account.endpoint, self._account.division, since)
        if ledger is not None:
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
            self._client.use_token(secret.reveal())
            self._redactor.add(secret)
            self._secret = secret
        if current is None or not self._identified:
            return self._identify(current)
        self.claim(current.account.username)
        return current

    def _identify(self, current: Ledger | None) -> Ledger:
        response = self._client.user()
        self._stats.answered()
        name, endpoint, division = self._account.name, self._account.endpoint, self._account.division
        username = response.value
        if current is not None and current.account.username != username:
            raise WrongAccount(
                f"the token belongs to {username}, but the ledger of account {name} to {current.account.username};"
                f" restore the token of {current.account.username}, or rename the account to count {username} as well"
            )
        self._stats.username = username
        self.claim(username)
        now = self._clock.time()
        # Load it again even if it is published already: another account may have written to it before this claim.
        ledger = self._store.load(name, endpoint, username, division, now - self._rules.failed_job_window)
        if ledger is None:
            since = math.floor(response.date if response.date is not None else now)
            ledger = self._store.create(
                name, endpoint, username, division, counting_since=since, local_time=now, rules=self._rules
            )
            self._log.info("ledger.created", counting_since=since)
        self._identified = True
        self.unproven = False
        self._use_allowance_of(username)
        return ledger

    def _use_allowance_of(self, username: str) -> None:
        """Use this user's allowance; move the requests made so far to it."""
        now, before = self._clock.monotonic(), self._client.allowance
        allowance = self._allowances.of(AllowanceKey(self._account.endpoint, username), now)
        allowance.add_account(self._account.name)
        if allowance is not before:
            allowance.merge(before, now)
            self._client.allowance = allowance

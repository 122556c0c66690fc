"""Whose token an account has, and which of two entries with the same identity is polled: the first."""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from exporter.api.allowance import AllowanceKey, AllowancePool
from exporter.api.client import Client
from exporter.clock import Clock
from exporter.config.accounts import AccountConfig
from exporter.counting.values import Ledger, Rules
from exporter.errors import ConfigError, DuplicateAccount, WrongAccount
from exporter.logs import Log
from exporter.polling.stats import PollStats
from exporter.redaction import Redactor, Secret
from exporter.storage.store import Store

Identity = tuple[str, str, str]
"""Endpoint, user name and division."""


class IdentityRegistry:
    """Safe to share between threads."""

    def __init__(self, names: Sequence[str]) -> None:
        """No claims yet; *names* are the entries in the order of the configuration."""
        self._lock = threading.Lock()
        self._order = {name: position for position, name in enumerate(names)}
        self._owners: dict[Identity, str] = {}

    def claim(self, identity: Identity, name: str) -> None:
        """Claim *identity* for the entry *name*, from a later entry too, whatever the order in which they got answers.

        Raises:
            DuplicateAccount: an earlier entry has it.
        """
        with self._lock:
            owner = self._owners.get(identity, name)
            if self._order[owner] < self._order[name]:
                raise DuplicateAccount(_told(owner, name))
            self._owners[identity] = name

    @contextmanager
    def writer_lock(self, identity: Identity, name: str) -> Iterator[None]:
        """Nobody else claims *identity* while the block runs: a ledger has one writer.

        Raises:
            DuplicateAccount: an earlier entry has claimed it meanwhile.
        """
        with self._lock:
            owner = self._owners.get(identity, name)
            if owner != name:
                raise DuplicateAccount(_told(owner, name))
            yield


def _told(owner: str, name: str) -> str:
    return f"accounts {owner} and {name} are one and the same user: {owner} is watched, {name} is not"


class AccountIdentity:
    """Whose token one account has: asked at the start and whenever its text changes; with it come ledger and allowance.

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
        """Whether the platform refused the token, or it belongs to another user: until it changes nothing is polled."""

    def ask_again(self) -> None:
        """Before the next poll, ask who the token belongs to."""
        self._identified = False
        self.unproven = True

    def token_changed(self) -> bool:
        """Whether the token's text is another than the one in use; not while it cannot be read."""
        try:
            return self._account.token.read() != self._secret
        except ConfigError:
            return False

    def claim(self, username: str) -> None:
        """Make sure that no earlier entry polls the account of *username*.

        Raises:
            DuplicateAccount: one does.
        """
        self._identities.claim((self._account.endpoint, username, self._account.division), self._account.name)

    def saved_ledger(self) -> Ledger | None:
        """The ledger that the account's name was last bound to: its counters are shown until the platform answers."""
        since = self._clock.time() - self._rules.failed_job_window
        ledger = self._store.load_by_name(self._account.name, self._account.endpoint, self._account.division, since)
        if ledger is not None:
            self._draw_on(ledger.account.username)
        return ledger

    def ledger(self, shown: Ledger | None) -> Ledger:
        """The ledger of the token's owner; *shown* is the one in use so far.

        Raises:
            WrongAccount: the token belongs to another user than *shown*, or an earlier entry polls its owner.
            PollError: the platform did not say whose it is.
            ConfigError: the token cannot be read.
            StateWriteError: a new ledger could not be written.
        """
        secret = self._account.token.read()
        if secret != self._secret:
            self._identified = False
            self._client.use_token(secret.reveal())
            self._redactor.add(secret)
            self._secret = secret
        if shown is None or not self._identified:
            return self._identify(shown)
        self.claim(shown.account.username)
        return shown

    def _identify(self, shown: Ledger | None) -> Ledger:
        response = self._client.user()
        self._stats.answered()
        name, endpoint, division = self._account.name, self._account.endpoint, self._account.division
        username = response.value
        if shown is not None and shown.account.username != username:
            raise WrongAccount(
                f"the token belongs to {username}, the counters of account {name} to {shown.account.username};"
                " give the account another name to count for both, or bring back the token of the first"
            )
        self._stats.username = username
        self.claim(username)
        now = self._clock.time()
        # Read anew even if it is shown already: another entry may have written to it before this one claimed it.
        ledger = self._store.load(name, endpoint, username, division, now - self._rules.failed_job_window)
        if ledger is None:
            since = math.floor(response.date if response.date is not None else now)
            ledger = self._store.create(
                name, endpoint, username, division, counting_since=since, local_time=now, rules=self._rules
            )
            self._log.info("ledger.created", counting_since=since)
        self._identified = True
        self.unproven = False
        self._draw_on(username)
        return ledger

    def _draw_on(self, username: str) -> None:
        """Take requests from the allowance of this user, those too that it took to find out who it is."""
        now, before = self._clock.monotonic(), self._client.allowance
        allowance = self._allowances.of(AllowanceKey(self._account.endpoint, username), now)
        allowance.add_account(self._account.name)
        if allowance is not before:
            allowance.merge(before, now)
            self._client.allowance = allowance

"""Which user a token belongs to. Of several accounts with the same identity, only one is polled."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from exporter.api.allowance import AllowanceKey, AllowancePool
from exporter.api.client import Client
from exporter.api.platforms import place
from exporter.clock import Clock
from exporter.config.accounts import AccountConfig
from exporter.counting.values import Ledger
from exporter.errors import ConfigError, DuplicateAccount, TokenError, Unauthorized, WrongAccount
from exporter.logs import Log
from exporter.polling.counting_start import CountingStart
from exporter.polling.lease import Lease
from exporter.polling.settings import PollerSettings
from exporter.polling.stats import PollStats
from exporter.redaction import Secret
from exporter.storage.store import Store

Identity = tuple[str, str, str]
"""Endpoint, user name and division."""
Place = tuple[str, str]
"""Endpoint and division."""


class IdentityRegistry:
    """Which account polls which identity, so that each ledger has one writer. Safe to share between threads.

    An account that polls an identity keeps it, until it is removed or changed, or can no longer poll it. An identity
    that no account polls yet is that of the account whose name its ledger has, if that account can poll it. Without
    such an account, the first one in the configuration gets it of those that begin together.
    """

    def __init__(
        self,
        names: Sequence[str],
        ledgers: Mapping[str, Identity] | None = None,
        places: Mapping[str, Place] | None = None,
    ) -> None:
        """A registry without claims, for the accounts, ledgers and places of :meth:`arrange`."""
        self._lock = threading.Lock()
        self._order: dict[str, int] = {}
        self._began: dict[str, int] = {}
        """In which round of accounts each one began."""
        self._round = 0
        self._owners: dict[Identity, str] = {}
        self._settled: set[Identity] = set()
        """The identities that stay with their owner: it has the ledger's name, or has polled more than once."""
        self._confirmed: set[Identity] = set()
        """The identities that their owners have by what the platform said, and not by a ledger's name alone."""
        self._refused: dict[str, Identity] = {}
        self._down: set[str] = set()
        """Accounts that can poll nothing for now."""
        self._wake: dict[str, Callable[[], None]] = {}
        self._places: Mapping[str, Place] = {}
        self._lost_names: dict[Identity, str] = {}
        """The ledgers whose names other accounts have got, and the name that each one had."""
        self._left: set[tuple[str, Identity]] = set()
        """Accounts, and the ledgers that had their names before in this process."""
        self._named: dict[Identity, str] = {}
        """The ledgers that have names of the configuration, as of the last :meth:`arrange`."""
        self.arrange(names, (), ledgers, places)

    def watch(self, name: str, wake: Callable[[], None]) -> None:
        """Call *wake* when the account *name* may take over from another one, or when that has taken over from it."""
        with self._lock:
            self._wake[name] = wake

    def claim(self, identity: Identity, name: str) -> None:
        """Claim *identity* for the account *name*.

        Raises:
            DuplicateAccount: another account has it.
        """
        with self._lock:
            owner = self._owners.get(identity)
            if owner == name:
                self._settled.add(identity)
                self._confirmed.add(identity)
                return
            if owner is not None and not self._may_take(identity, owner, name):
                self._refused[name] = identity
                raise DuplicateAccount(owner)
            self._refused.pop(name, None)
            self._free(name)
            self._down.discard(name)
            self._owners[identity] = name
            self._confirmed.add(identity)
            self._wake_all(self._down)

    def give_up(self, name: str) -> None:
        """Leave what the account *name* has to others: it has no usable token of that user for now."""
        with self._lock:
            self._free(name)
            self._down.add(name)
            self._wake_all(self._refused)

    def is_free(self, name: str) -> bool:
        """Whether the account *name* was refused an identity that no account has any more."""
        with self._lock:
            return name in self._refused and self._refused[name] not in self._owners

    def is_taken(self, identity: Identity, name: str) -> bool:
        """Whether another account than *name* has *identity*."""
        with self._lock:
            return self._owners.get(identity, name) != name

    def is_polled(self, identity: Identity) -> bool:
        """Whether the platform has confirmed that an account has *identity*; before that, only its name says so."""
        with self._lock:
            return identity in self._confirmed

    def may_be_taken(self, identity: Identity, name: str) -> bool:
        """Whether another account than *name* has *identity*, or may turn out to: its user is not known yet.

        Nor is the place of an account whose profile is missing.
        """
        endpoint, _, division = here = identity
        with self._lock:
            known = {name, *self._owners.values(), *(each for each, user in self._refused.items() if user != here)}
            unknown = (each for each in self._order if each not in known)
            place = endpoint, division
            return self._owners.get(here, name) != name or any(
                self._places.get(each, place) == place for each in unknown
            )

    def is_configured(self, name: str) -> bool:
        """Whether an account of the configuration has this *name*."""
        with self._lock:
            return name in self._order

    def name_of(self, identity: Identity) -> str | None:
        """The name that the ledger of *identity* had when the configuration was last read; None if it had none."""
        with self._lock:
            return self._named.get(identity)

    def lost_name(self, identity: Identity, name: str) -> None:
        """Remember that the ledger of *identity* had *name*, which is now that of another account's ledger."""
        with self._lock:
            self._lost_names[identity] = name
            self._left.add((name, identity))

    def is_back(self, identity: Identity, name: str) -> bool:
        """Whether the ledger of *identity* had *name* before in this process, and has lost it since."""
        with self._lock:
            return (name, identity) in self._left

    def former_name(self, identity: Identity) -> str | None:
        """The name that the ledger of *identity* had until another account got it; None if none did."""
        with self._lock:
            return self._lost_names.pop(identity, None)

    def _wake_all(self, names: Collection[str]) -> None:
        for name in names:
            self._wake.get(name, lambda: None)()

    def _free(self, name: str) -> None:
        self._owners = {identity: each for identity, each in self._owners.items() if each != name}
        self._settled.intersection_update(self._owners)
        self._confirmed.intersection_update(self._owners)

    def _may_take(self, identity: Identity, owner: str, name: str) -> bool:
        """Whether *name* comes first in the configuration, and *owner* was only faster."""
        together = self._began[owner] == self._began[name] and name not in self._down
        return together and identity not in self._settled and self._order[name] < self._order[owner]

    def arrange(
        self,
        names: Sequence[str],
        released: Collection[str],
        ledgers: Mapping[str, Identity] | None = None,
        places: Mapping[str, Place] | None = None,
    ) -> None:
        """Take over a changed configuration.

        Args:
            names: the accounts now, in the order of the configuration.
            released: those whose pollers have ended; some may have new ones.
            ledgers: account to the identity of the ledger that has its name.
            places: account to its endpoint and division, where they are known.
        """
        with self._lock:
            self._round += 1
            self._places = places or {}
            self._named = {identity: name for name, identity in (ledgers or {}).items()}
            kept = {name: began for name, began in self._began.items() if name not in released}
            self._order = {name: position for position, name in enumerate(names)}
            self._began = {name: kept.get(name, self._round) for name in names}
            self._owners = {identity: name for identity, name in self._owners.items() if self._goes_on(name)}
            self._refused = {name: identity for name, identity in self._refused.items() if self._goes_on(name)}
            self._down = {name for name in self._down if self._goes_on(name)}
            self._wake = {name: wake for name, wake in self._wake.items() if name in self._order}
            self._settled.intersection_update(self._owners)
            self._confirmed.intersection_update(self._owners)
            for name in names:
                identity = (ledgers or {}).get(name)
                if identity is not None and identity not in self._owners and name not in self._down:
                    self._owners[identity] = name
                    self._settled.add(identity)

    def _goes_on(self, name: str) -> bool:
        return self._began.get(name, self._round) < self._round

    @property
    def duplicates(self) -> Mapping[str, str]:
        """Accounts that are not polled, and for each the one that is polled in its place."""
        with self._lock:
            owners = {name: self._owners.get(identity, name) for name, identity in self._refused.items()}
            return {name: owner for name, owner in owners.items() if owner != name}

    @contextmanager
    def writer_lock(self, identity: Identity, name: str) -> Iterator[None]:
        """Keep other accounts from claiming *identity* while the block runs.

        Raises:
            DuplicateAccount: another account has claimed it meanwhile.
        """
        with self._lock:
            owner = self._owners.get(identity, name)
            if owner != name:
                self._refused[name] = identity
                raise DuplicateAccount(owner)
            yield


class AccountIdentity:
    """Identifies one account's user, and loads the ledger and the allowance that belong to it.

    It asks the platform at the start, and again whenever the token changes. For one thread.
    """

    def __init__(
        self,
        account: AccountConfig,
        client: Client,
        start: CountingStart,
        *,
        store: Store,
        identities: IdentityRegistry,
        allowances: AllowancePool,
        settings: PollerSettings,
        stats: PollStats,
        clock: Clock,
        log: Log,
        lease: Lease,
        expected_user: str = "",
    ) -> None:
        """For *expected_user*, see :class:`.Poller`."""
        self._account = account
        self._client = client
        self._start = start
        self._store = store
        self._identities = identities
        self._allowances = allowances
        self.settings = settings
        self._stats = stats
        self._clock = clock
        self._log = log
        self._lease = lease
        self._expected_user = expected_user
        self._users: set[str] = set()
        """User names of this account, now and before, which `show_username = false` hides."""
        self._secret: Secret | None = None
        self._identified = False
        self._nameless: tuple[Identity, str] | None = None
        """The ledger that had the account's name before, and what followed for this one, until it is known what becomes
        of that ledger."""
        self._accepted = False
        """Whether the platform has named the user of the token in use."""
        self.unproven = False
        """Whether the platform rejected the token, or its user is the wrong one: the next poll checks it first."""
        self._unreadable = False
        self._unusable = ""
        """Why the token's text cannot be used, as logged last."""
        self._exposure = account.token.exposure_warning()
        """What was said at the start, when the configuration was read."""

    @property
    def awaits_token(self) -> bool:
        """Whether a new token would end the wait for the next poll."""
        return self.unproven or self._unreadable

    def token_remedy(self) -> str:
        """How to replace the token; what is wrong with its form, too, unless the platform has accepted it."""
        return self._account.token.remedy if self._accepted else self._account.token_remedy()

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
        """Whether the token differs from the one in use, or is back; false while it cannot be read.

        Logs, once per reason, that a changed token cannot be used: its author waits for a sign.
        """
        try:
            changed = self._account.token.read() != self._secret or self._unreadable
        except ConfigError as error:
            if str(error) != self._unusable:
                self._unusable = str(error)
                self._log.warning("token.unusable", reason=self._unusable, next_step=self._account.token_remedy())
            return False
        self._unusable = ""
        return changed

    def claim(self, username: str) -> None:
        """Make sure that no other account polls *username*.

        Raises:
            DuplicateAccount: another account does.
        """
        with self._lease.held():
            self._identities.claim((self._account.endpoint, username, self._account.division), self._account.name)

    def give_up(self) -> None:
        """Let another account of the same user poll, because this one cannot for now."""
        with self._lease.held():
            self._identities.give_up(self._account.name)

    def is_free(self) -> bool:
        """Whether this account was refused its user, and no other account has it any more."""
        return self._identities.is_free(self._account.name)

    def is_taken(self, ledger: Ledger) -> bool:
        """Whether another account polls the user of *ledger*."""
        account = ledger.account
        return self._identities.is_taken((account.endpoint, account.username, account.division), self._account.name)

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
            WrongAccount: the token belongs to another user than *current*, or another account polls its user.
            PollError: the platform did not report the user.
            TokenError: the token cannot be read.
            StateWriteError: the new ledger could not be written.
        """
        try:
            secret = self._account.token.read()
        except TokenError as error:
            self._unreadable, self._unusable = True, str(error)  # which the poll logs
            raise
        self._unreadable, self._unusable = False, ""
        self._warn_if_exposed()
        is_second_try = self.unproven and self._secret is not None and secret != self._secret
        if secret != self._secret:
            self._identified = False
            self._client.use_token(secret)
            self._secret = secret
        self._hide_names()
        if current is None or not self._identified:
            current = self._identify_by_replacement(current) if is_second_try else self._identify(current)
        else:
            self.claim(current.account.username)
        self._warn_of_nameless_ledger()
        return current

    def _identify_by_replacement(self, current: Ledger | None) -> Ledger:
        """Identify the user by what replaces a refused token, and log a refusal: for the poll, a second is no news."""
        try:
            return self._identify(current)
        except Unauthorized as error:
            self._log.warning("token.refused_again", reason=str(error), next_step=self._account.token_remedy())
            raise

    def _warn_if_exposed(self) -> None:
        """Log that others can read the token's file by now."""
        exposure = self._account.token.exposure_warning()
        if exposure is not None and exposure != self._exposure:
            self._log.warning("token.exposed", reason=exposure)
        self._exposure = exposure

    def _identify(self, current: Ledger | None) -> Ledger:
        self._accepted = False
        response = self._start.request_user()
        self._accepted = True
        username = response.value
        name, endpoint, division = self._account.name, self._account.endpoint, self._account.division
        self._hide(username)
        expected = self._expected_user if current is None else current.account.username
        if expected not in {"", username}:
            raise self._wrong_user(username, expected)
        self._stats.username = username
        self.claim(username)
        now = self._clock.time()
        # Load it again even if it is published already: another account may have written to it before this claim.
        with self._lease.held():
            had = self._store.names_of(endpoint, username, division)
            before = self._store.names().get(name)
            replaced = before is not None and before != (endpoint, username, division)
            is_back = self._identities.is_back((endpoint, username, division), name)
            if before is not None and replaced:
                self._identities.lost_name(before, name)
            ledger = self._store.load(name, endpoint, username, division, now - self.settings.rules.failed_job_window)
        consequence = "the account has the counters of another ledger"
        if ledger is None:
            since = self._start.counting_since(response)
            with self._lease.held():
                ledger = self._store.create(
                    name, endpoint, username, division, counting_since=since, local_time=now, rules=self.settings.rules
                )
            self._log.info("ledger.created", counting_since=since)
            consequence = "the account's counters begin at 0"
        elif name not in had:
            former = ", ".join(had) or self._identities.former_name((endpoint, username, division))
            self._log.info(
                "ledger.renamed", before=former if former != name else None, consequence="its counters go on"
            )
        if before is not None and replaced and not is_back:
            self._nameless = before, consequence
        self._identified = True
        self._hide_names()
        self.unproven = False
        self._use_allowance_of(username)
        return ledger

    def _warn_of_nameless_ledger(self) -> None:
        """Say that another ledger had the account's name until now, as soon as no account can turn out to be its user.

        It is of another platform, division or user. Accounts that exchange their names have it for a moment only.
        """
        if self._nameless is None:
            return
        before, consequence = self._nameless
        with self._lease.held():
            goes_on = before in self._store.names().values()
        if not goes_on and self._identities.may_be_taken(before, self._account.name):
            return
        self._nameless = None
        if goes_on:
            return
        endpoint, username, division = before
        self._hide(username)
        user = username if self.settings.show_username else "its user"
        former = place(endpoint, division)
        moved = (endpoint, division) != (self._account.endpoint, self._account.division)
        back = f"set api_endpoint and division back to {former} and reload, or " if moved else ""
        self._log.warning(
            "ledger.replaced",
            before=f"{user} at {former}",
            consequence=f"{consequence}; the former ledger stays in the state file, without a name",
            next_step=f"if that is not meant, {back}add an account of that user with another name: its counters go on;"
            " else none",
        )

    def _hide(self, username: str) -> None:
        """Remember a user name that messages must not show if names are hidden."""
        self._users.add(username)
        self._hide_names()

    def _hide_names(self) -> None:
        if self.settings.show_username:
            self._client.hide_names()
        else:
            self._client.hide_names(*self._users, user_unknown=not self._identified)

    def _wrong_user(self, found: str, expected: str) -> WrongAccount:
        name, other = self._account.name, found
        if self.settings.show_username:
            problem = f"the token belongs to {found}, but the ledger of account {name} to {expected}"
        else:
            problem = f"the token belongs to another user than the ledger of account {name}"
            expected, other = "the ledger's user", "the other user"
        identity = self._account.endpoint, found, self._account.division
        with self._lease.held():
            names = (*self._store.names_of(*identity), self._identities.name_of(identity))
            had = next((each for each in names if each is not None and self._identities.is_configured(each)), None)
        restore = f"{problem}; restore the token of {expected}"
        if self._identities.is_polled(identity):
            return WrongAccount(restore)
        if had is None:
            return WrongAccount(f"{restore}, or {self._account.renaming} to count {other} as well")
        exchange = (
            f"to exchange the names of {name} and {had}, start the exporter with the former ones, then reload with the"
            " new ones"
        )
        return WrongAccount(f"{restore}; or, {exchange}", f"restore the token of {expected}; or, {exchange}")

    def _use_allowance_of(self, username: str) -> None:
        """Use this user's allowance; move the requests made so far to it."""
        now, before = self._clock.monotonic(), self._client.allowance
        with self._lease.held():
            allowance = self._allowances.join(AllowanceKey(self._account.endpoint, username), self._account.name, now)
        if allowance is not before:
            allowance.merge(before, now)
            self._client.allowance = allowance

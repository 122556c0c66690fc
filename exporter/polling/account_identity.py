"""Which user an account's token belongs to, and the ledger and the allowance of that user."""

from exporter.api.allowance import AllowanceKey, AllowancePool
from exporter.api.client import Client
from exporter.api.platforms import place
from exporter.clock import Clock
from exporter.config.accounts import AccountConfig
from exporter.counting.values import Ledger
from exporter.errors import ConfigError, TokenError, Unauthorized, WrongAccount
from exporter.logs import Log
from exporter.polling.counting_start import CountingStart
from exporter.polling.identity import Identity, IdentityRegistry
from exporter.polling.lease import Lease
from exporter.polling.settings import PollerSettings
from exporter.polling.stats import PollStats
from exporter.redaction import Secret
from exporter.storage.store import Store


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
            lost = self._identities.lost_names((endpoint, username, division))
            if before is not None and replaced:
                self._identities.note_lost_name(before, name)
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
            former = ", ".join(had or lost[:1])
            self._log.info(
                "ledger.renamed", before=former if former not in {"", name} else None, consequence="its counters go on"
            )
        if before is not None and replaced and name not in lost:
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
            f"to exchange the names of {name} and {had}, reload with the new ones while the exporter runs with the"
            " former ones"
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

"""Which account polls which identity. Of several accounts with the same identity, only one is polled."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from exporter.errors import DuplicateAccount

Identity = tuple[str, str, str]
"""Endpoint, user name and division."""
Place = tuple[str, str]
"""Endpoint and division."""


@dataclass(slots=True)
class _Account:
    """What is known of one account of the configuration."""

    began: int = 0
    """In which round of accounts: those of one round begin together."""
    position: int = 0
    """In the configuration."""
    place: Place | None = None
    """None while it is not known: the account's profile is missing."""
    is_down: bool = False
    """Whether it can poll nothing for now."""
    refused: Identity | None = None
    """The identity that it claimed and that another account had."""
    wake: Callable[[], object] = lambda: None

    def goes_before(self, owner: "_Account") -> bool:
        """Whether it comes first in the configuration, and *owner* was only faster."""
        return self.began == owner.began and self.position < owner.position and not self.is_down

    def may_have(self, identity: Identity) -> bool:
        """Whether its user, which is not known yet, may turn out to be that of *identity*."""
        endpoint, _, division = identity
        return self.refused in {None, identity} and self.place in {None, (endpoint, division)}


class _Claim(NamedTuple):
    """An account's claim to an identity."""

    owner: str
    """The account."""
    is_confirmed: bool
    """Whether the owner has it by what the platform said, and not by a ledger's name alone."""
    is_settled: bool
    """Whether it stays with its owner, which has the ledger's name or has polled more than once."""


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
        self._round = 0
        self._accounts: dict[str, _Account] = {}
        """Those of the configuration, by name and in its order."""
        self._claims: dict[Identity, _Claim] = {}
        self._named: dict[Identity, str] = {}
        """The ledgers that have names of the configuration, as of the last :meth:`arrange`."""
        self._lost_names: dict[Identity, tuple[str, ...]] = {}
        """The names that each ledger had in this process until another ledger got them, the last one first. They are
        kept until the process ends, because any of them may come back: at most every name once per ledger."""
        self.arrange(names, (), ledgers, places)

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
        ledgers, places = ledgers or {}, places or {}
        with self._lock:
            self._round += 1
            kept = (self._accounts.keys() & set(names)) - set(released)
            self._accounts = {name: self._accounts[name] if name in kept else _Account(self._round) for name in names}
            for position, (name, account) in enumerate(self._accounts.items()):
                account.position, account.place = position, places.get(name)
            self._claims = {identity: claim for identity, claim in self._claims.items() if claim.owner in kept}
            self._named = {identity: name for name, identity in ledgers.items()}
            for name, account in self._accounts.items():
                if name in ledgers and not account.is_down:
                    self._claims.setdefault(ledgers[name], _Claim(name, is_confirmed=False, is_settled=True))

    def watch(self, name: str, wake: Callable[[], object]) -> None:
        """Call *wake* when the account *name* may take over from another one, or when that has taken over from it."""
        with self._lock:
            self._account(name).wake = wake

    # ---- claims ----

    def claim(self, identity: Identity, name: str) -> None:
        """Claim *identity* for the account *name*.

        Raises:
            DuplicateAccount: another account has it.
        """
        with self._lock:
            account, before = self._account(name), self._claims.get(identity)
            if before is not None and before.owner == name:
                self._claims[identity] = _Claim(name, is_confirmed=True, is_settled=True)
                return
            if before is not None and (before.is_settled or not account.goes_before(self._account(before.owner))):
                account.refused = identity
                raise DuplicateAccount(before.owner)
            self._drop_claims(name)
            account.refused, account.is_down = None, False
            self._claims[identity] = _Claim(name, is_confirmed=True, is_settled=False)
            self._wake_each(lambda each: each.is_down)

    def give_up(self, name: str) -> None:
        """Leave what the account *name* has to others: it has no usable token of that user for now."""
        with self._lock:
            self._drop_claims(name)
            self._account(name).is_down = True
            self._wake_each(lambda each: each.refused is not None)

    @contextmanager
    def writer_lock(self, identity: Identity, name: str) -> Iterator[None]:
        """Keep other accounts from claiming *identity* while the block runs.

        Raises:
            DuplicateAccount: another account has claimed it meanwhile.
        """
        with self._lock:
            other = self._other_owner(identity, name)
            if other is not None:
                self._account(name).refused = identity
                raise DuplicateAccount(other)
            yield

    def is_free(self, name: str) -> bool:
        """Whether the account *name* was refused an identity that no account has any more."""
        with self._lock:
            refused = self._account(name).refused
            return refused is not None and refused not in self._claims

    def is_taken(self, identity: Identity, name: str) -> bool:
        """Whether another account than *name* has *identity*."""
        with self._lock:
            return self._other_owner(identity, name) is not None

    def is_polled(self, identity: Identity) -> bool:
        """Whether the platform has confirmed that an account has *identity*; before that, only its name says so."""
        with self._lock:
            return identity in self._claims and self._claims[identity].is_confirmed

    def may_be_taken(self, identity: Identity, name: str) -> bool:
        """Whether another account than *name* has *identity*, or may turn out to: its user is not known yet.

        Nor is the place of an account whose profile is missing.
        """
        with self._lock:
            known = {name, *(claim.owner for claim in self._claims.values())}
            unknown = (account for each, account in self._accounts.items() if each not in known)
            return self._other_owner(identity, name) is not None or any(each.may_have(identity) for each in unknown)

    @property
    def duplicates(self) -> Mapping[str, str]:
        """Accounts that are not polled, and for each the one that is polled in its place."""
        with self._lock:
            others = {
                name: self._other_owner(account.refused, name)
                for name, account in self._accounts.items()
                if account.refused is not None
            }
            return {name: other for name, other in others.items() if other is not None}

    def _account(self, name: str) -> _Account:
        """The account *name*; one that has been removed stays forgotten, although its poller may still ask."""
        return self._accounts.get(name) or _Account()

    def _other_owner(self, identity: Identity, name: str) -> str | None:
        """The account other than *name* that has *identity*; None if there is none."""
        claim = self._claims.get(identity)
        return None if claim is None or claim.owner == name else claim.owner

    def _drop_claims(self, name: str) -> None:
        self._claims = {identity: claim for identity, claim in self._claims.items() if claim.owner != name}

    def _wake_each(self, is_concerned: Callable[[_Account], bool]) -> None:
        for account in filter(is_concerned, self._accounts.values()):
            account.wake()

    # ---- names of ledgers ----

    def is_configured(self, name: str) -> bool:
        """Whether an account of the configuration has this *name*."""
        with self._lock:
            return name in self._accounts or name in self._named.values()

    def name_of(self, identity: Identity) -> str | None:
        """The name that the ledger of *identity* had when the configuration was last read; None if it had none."""
        with self._lock:
            return self._named.get(identity)

    def note_lost_name(self, identity: Identity, name: str) -> None:
        """Remember that the ledger of *identity* had *name*, which is now that of another account's ledger."""
        with self._lock:
            earlier = (each for each in self._lost_names.get(identity, ()) if each != name)
            self._lost_names[identity] = (name, *earlier)

    def lost_names(self, identity: Identity) -> Sequence[str]:
        """The names that the ledger of *identity* had in this process, until other ledgers got them; the last first."""
        with self._lock:
            return self._lost_names.get(identity, ())

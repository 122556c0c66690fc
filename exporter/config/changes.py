"""What a reload has to do: the difference between what is in use and what is configured now. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, NamedTuple

from exporter.config.account_tables import AccountTable
from exporter.config.accounts import AccountConfig, AccountEntry, PendingAccount
from exporter.config.loading import ACCOUNTS_FOLDER, Configuration
from exporter.config.own_settings import OwnSettings
from exporter.config.settings import NEEDS_RESTART, Settings
from exporter.config.tokens import Token
from exporter.redaction import Secret

_A_DAY: Final = 24 * 3600.0
"""For how long an account counts as missing after the start that did not find it: it may be meant."""


@dataclass(frozen=True, slots=True)
class AccountChanges:
    """Names of accounts, in the order of the configuration.

    Attributes:
        kept: polled as before, perhaps in another place of the configuration.
        added: not polled so far.
        changed: polled in another way from now on.
        removed: not configured any more.
        duplicates: accounts that are known not to be polled, and for each the one of the same user that is.
        keys: for each of *changed* of which that is known, what has changed in it.
    """

    kept: tuple[str, ...]
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    duplicates: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def changed_in_words(self) -> tuple[str, ...]:
        """The names of *changed*, each with its keys; never with a value, which may be a secret."""
        return tuple(f"{name} ({', '.join(self.keys[name])})" if name in self.keys else name for name in self.changed)


def account_changes(
    polled: Sequence[AccountEntry], wanted: Sequence[AccountEntry], ended: Collection[str] = ()
) -> AccountChanges:
    """How to get from the accounts that are *polled* to those that are *wanted*. Names are unique in both.

    Of those that are polled, *ended* need a new poller in any case.
    """
    before = {account.name: account for account in polled}
    after = {account.name: account for account in wanted}
    common = [name for name in after if name in before]
    kept = {name for name in common if name not in ended and _is_polled_alike(before[name], after[name])}
    changed = tuple(name for name in common if name not in kept)
    return AccountChanges(
        kept=tuple(name for name in common if name in kept),
        added=tuple(name for name in after if name not in before),
        changed=changed,
        removed=tuple(name for name in before if name not in after),
        keys={name: keys for name in changed if (keys := changed_keys(before[name], after[name]))},
    )


def changed_keys(before: AccountEntry, after: AccountEntry) -> tuple[str, ...]:
    """The keys of an account that differ; none if only its profile or its file has become usable, or the reverse."""
    found = set[str]()
    if isinstance(before.entry, AccountTable) and isinstance(after.entry, AccountTable):
        found.update(_different(before.entry, after.entry, AccountTable.model_fields))
    if isinstance(before, AccountConfig) and isinstance(after, AccountConfig):
        found.update(_different(before, after, ("division", "ca_file", "proxy")))
        if before.endpoint != after.endpoint:
            found.add("api_endpoint")
        if before.token != after.token:
            found.update((before.token.key, after.token.key))
    return tuple(key for key in AccountTable.model_fields if key in found)


def _different(one: object, other: object, keys: Iterable[str]) -> Iterator[str]:
    return (key for key in keys if getattr(one, key) != getattr(other, key))


def _is_polled_alike(polled: AccountEntry, wanted: AccountEntry) -> bool:
    if isinstance(polled, AccountConfig) and isinstance(wanted, PendingAccount):
        # Its profile is incomplete for now. What the account had before is the best that is known.
        return polled.entry == wanted.entry
    return polled == wanted


class Login(NamedTuple):
    """An account, and its token as it was read last; None while it cannot be read."""

    account: AccountEntry
    secret: Secret | None

    def is_same(self, other: "Login") -> bool:
        """Whether this is certainly the same user on the same platform."""
        one, two = self.account, other.account
        if not isinstance(one, AccountConfig) or not isinstance(two, AccountConfig):
            return False
        if (one.endpoint, one.division) != (two.endpoint, two.division):
            return False
        known = self.secret is not None and other.secret is not None
        return self.secret == other.secret if known else one.token == two.token


def accounts_at_start(
    before: Mapping[str, float | None], configuration: Configuration, now: float
) -> dict[str, float | None]:
    """The accounts that are in use from a start on, each with None; and those that it misses, with since when.

    So a folder of accounts that was not mounted is noticed. An account is missing if it was in use until the exporter
    stopped and is not configured now, or if it has been missing for less than a day. What a reload removed is neither.

    Args:
        before: what the last start or reload made of it.
        configuration: the one to use.
        now: Unix seconds.
    """
    since = {name: now if at is None else at for name, at in before.items()}
    return _in_use(before, configuration) | _not_in(configuration, missing_accounts(since, now))


def accounts_after_reload(
    before: Mapping[str, float | None], configuration: Configuration, now: float
) -> dict[str, float | None]:
    """The accounts that are in use after a reload, and those of *before* that are still missing."""
    since = {name: at for name, at in before.items() if at is not None}
    return _in_use(before, configuration) | _not_in(configuration, missing_accounts(since, now))


def missing_accounts(since: Mapping[str, float], now: float) -> dict[str, float]:
    """Those of the accounts that count as missing at *now*, whichever way the clock was set meanwhile."""
    return {name: at for name, at in since.items() if abs(now - at) < _A_DAY}


def _in_use(before: Collection[str], configuration: Configuration) -> dict[str, float | None]:
    """All accounts but what stands for a file that cannot be used, which may have another name, and is not polled."""
    unusable = {entry.name for entry in configuration.pending if entry.is_unusable_file}
    return {name: None for name in _names(configuration) if name in before or name not in unusable}


def _not_in(configuration: Configuration, missing: Mapping[str, float]) -> dict[str, float]:
    names = frozenset(_names(configuration))
    return {name: at for name, at in missing.items() if name not in names}


def _names(configuration: Configuration) -> Iterator[str]:
    return (entry.name for entry in chain(configuration.entries, configuration.not_selected))


def put_back(configuration: Configuration, names: Collection[str]) -> str:
    """What to do about the accounts *names*, which *configuration* has no longer."""
    file, folder = configuration.file, configuration.accounts_folder
    missing = file.parent / ACCOUNTS_FOLDER if file is not None and folder is None else None
    where = "the configuration" if missing is None else f"{file} or the folder {missing}, which is missing,"
    them = "it" if len(names) == 1 else "them"
    return (
        f"none if that is meant; else put {them} back into {where} and reload; the counters of a renamed account go on"
        " under its new name"
    )


def reassigned_names(polled: Sequence[AccountEntry], wanted: Sequence[AccountEntry]) -> frozenset[str]:
    """The names that were polled already and are now those of other accounts, such as two that exchange their names.

    An account is known by what the configuration says of it: endpoint, division, and where its token is. Which user the
    token belongs to is for the platform to say.
    """
    before, after = _sources(polled), _sources(wanted)
    changed = {name for name in before if before[name] != after.get(name)}
    free = {before[name] for name in changed}
    return frozenset(name for name in changed if after.get(name) in free)


def _sources(accounts: Sequence[AccountEntry]) -> dict[str, tuple[str, str, Token]]:
    found = (account for account in accounts if isinstance(account, AccountConfig))
    return {account.name: (account.endpoint, account.division, account.token) for account in found}


def compared_by_token(wanted: Mapping[str, AccountEntry], arriving: Collection[str]) -> frozenset[str]:
    """The accounts whose tokens tell whether an *arriving* one is of the same user as another one.

    Those are the ones that share endpoint and division with others, of which at least one arrives.
    """
    places: dict[tuple[str, str], list[str]] = {}
    for name, account in wanted.items():
        if isinstance(account, AccountConfig):
            places.setdefault((account.endpoint, account.division), []).append(name)
    shared = (names for names in places.values() if len(names) > 1 and not set(arriving).isdisjoint(names))
    return frozenset(chain.from_iterable(shared))


def duplicate_accounts(
    wanted: Mapping[str, Login], arriving: Collection[str], named: Collection[str], duplicates: Mapping[str, str]
) -> dict[str, str]:
    """The accounts that are not polled, and for each the one that is polled in its place: *duplicates*, and more.

    Of the *arriving* accounts, this is known if the tokens tell. One that is polled already is polled on. Then comes
    the one whose name a ledger has, of *named*, and then the first.
    """
    found = dict(duplicates)
    ranked = sorted(wanted, key=lambda name: (name in arriving, name not in named))
    for place, name in enumerate(ranked):
        before = (each for each in ranked[:place] if each not in found) if name in arriving else ()
        owner = next((each for each in before if wanted[each].is_same(wanted[name])), None)
        if owner is not None:
            found[name] = owner
    return found


def changed_settings(before: Settings, after: Settings) -> tuple[str, ...]:
    """The keys whose values differ, other than accounts and those that need a restart."""
    left_out = NEEDS_RESTART | {"accounts", "profiles"}
    return tuple(
        key for key in Settings.model_fields if key not in left_out and getattr(before, key) != getattr(after, key)
    )


def changed_own_settings(before: Configuration, after: Configuration) -> tuple[str, ...]:
    """The settings that accounts have of their own and that differ, each with the account's name."""
    own = {entry.name: entry.own for entry in before.entries}
    return tuple(
        f"{key} of {entry.name}"
        for entry in after.entries
        for key in OwnSettings._fields
        if entry.name in own and getattr(own[entry.name], key) != getattr(entry.own, key)
    )


def settings_for_restart(running: Configuration, wanted: Configuration) -> tuple[str, ...]:
    """The keys that *wanted* changes and that only a restart can change."""
    return tuple(_differences(running, wanted))


def _differences(running: Configuration, wanted: Configuration) -> Iterator[str]:
    if (running.host, running.port) != (wanted.host, wanted.port):
        yield "listen"
    if running.state_file.absolute() != wanted.state_file.absolute():
        yield "state_file"

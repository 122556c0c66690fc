"""What a reload has to do: the difference between what is in use and what is configured now. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exporter.config.accounts import AccountConfig, AccountEntry, PendingAccount
from exporter.config.loading import Configuration
from exporter.config.own_settings import OwnSettings
from exporter.config.settings import NEEDS_RESTART, Settings


@dataclass(frozen=True, slots=True)
class AccountChanges:
    """Names of accounts, in the order of the configuration.

    Attributes:
        kept: polled as before, perhaps in another place of the configuration.
        added: not polled so far.
        changed: polled in another way from now on.
        removed: not configured any more.
    """

    kept: tuple[str, ...]
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


def account_changes(polled: Sequence[AccountEntry], wanted: Sequence[AccountEntry]) -> AccountChanges:
    """How to get from the accounts that are *polled* to those that are *wanted*. Names are unique in both."""
    before = {account.name: account for account in polled}
    after = {account.name: account for account in wanted}
    common = [name for name in after if name in before]
    kept = {name for name in common if _is_polled_alike(before[name], after[name])}
    return AccountChanges(
        kept=tuple(name for name in common if name in kept),
        added=tuple(name for name in after if name not in before),
        changed=tuple(name for name in common if name not in kept),
        removed=tuple(name for name in before if name not in after),
    )


def _is_polled_alike(polled: AccountEntry, wanted: AccountEntry) -> bool:
    if isinstance(polled, AccountConfig) and isinstance(wanted, PendingAccount):
        # Its profile is incomplete for now. What the account had before is the best that is known.
        return polled.entry == wanted.entry
    return polled == wanted


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

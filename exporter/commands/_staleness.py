"""What ``jobs`` and ``job`` say of accounts that have not been listed for a while, from the state file alone."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from exporter.clock import SYSTEM_CLOCK
from exporter.commands._state import StateFileOptions, name_of
from exporter.config.settings import Settings
from exporter.counting.rules import HEARD_SAVED_EVERY
from exporter.storage.lock import lock_owner
from exporter.storage.reader import LedgerSummary
from exporter.text import count
from exporter.web.page import age

_MOST_NOTES: Final = 5


class LastListed(NamedTuple):
    """When an account was last listed.

    Attributes:
        name: the account's name.
        at: Unix seconds, up to :data:`HEARD_SAVED_EVERY` too early.
        settings: what it is polled with; None if no configured account has the name.
        unfinished: how many of its jobs are unfinished.
    """

    name: str
    at: float
    settings: Settings | None
    unfinished: int

    def is_stale(self, now: float) -> bool:
        """Whether it should have been listed since. One that is not configured misleads by unfinished jobs only."""
        if self.settings is None:
            return self.unfinished > 0
        intervals = 2 * self.settings.poll_interval
        return now - self.at > max(self.settings.stale_after, intervals + HEARD_SAVED_EVERY)


def stale_notes(ledgers: Iterable[LedgerSummary], options: StateFileOptions) -> tuple[str, ...]:
    """A line for each account that has not been listed for longer than ``stale_after``; one if no exporter runs."""
    now = SYSTEM_CLOCK.time()
    old = [each for each in ledgers if each.written_at is not None and now - each.written_at > HEARD_SAVED_EVERY]
    if not old:  # the usual case: the rest of the configuration is not read
        return ()
    settings_of = options.settings_of()
    accounts = [
        LastListed(name, each.written_at or 0.0, settings_of(name), each.unfinished)
        for each in old
        for name in [name_of(each, options)]
    ]
    return notes(accounts, now, is_running=lock_owner(options.file) is not None)


def notes(accounts: Sequence[LastListed], now: float, *, is_running: bool) -> tuple[str, ...]:
    """What to say of *accounts*; *is_running*: whether an exporter holds the state file. Pure."""
    stale = [each for each in accounts if each.is_stale(now)]
    if not stale:
        return ()
    if not is_running:
        latest = max(each.at for each in stale)
        return (f"no exporter is running; {_names(stale)}: last listed about {age(latest, now)}",)
    lines = list(_while_running(stale, now))
    more = len(lines) - _MOST_NOTES
    return (*lines[:_MOST_NOTES], *([f"and {count(more, 'more account')}"] if more > 0 else []))


def _names(accounts: Sequence[LastListed]) -> str:
    return accounts[0].name if len(accounts) == 1 else count(len(accounts), "account")


def _while_running(accounts: Iterable[LastListed], now: float) -> Iterator[str]:
    for each in accounts:
        why = "although an exporter is running; `sbg-exporter check` tests the account"
        if each.settings is None:
            why = "no configured account has this name"
        yield f"{each.name}: last listed about {age(each.at, now)}{',' if each.settings else ';'} {why}"

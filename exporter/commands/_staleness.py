"""As of when ``jobs`` and ``job`` show an account, and what they say if that is old: from the state file alone.

A poll that changes nothing is not stored each time, so an account may have been listed up to
:data:`HEARD_SAVED_EVERY` later than this says, never earlier.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from exporter.clock import SYSTEM_CLOCK
from exporter.commands._job_list import moment
from exporter.commands._state import StateFileOptions, name_of
from exporter.config.settings import Settings
from exporter.counting.rules import HEARD_SAVED_EVERY
from exporter.storage.lock import lock_owner
from exporter.storage.reader import LedgerSummary
from exporter.text import count
from exporter.web.page import age

_MOST_NOTES: Final = 5
_DATE_SHOWN_AFTER: Final = 12 * 3600.0
_USUAL_INTERVALS: Final = 60.0
_NOT_RUNNING: Final = "no exporter is running"


class LastListed(NamedTuple):
    """When an account was last listed.

    Attributes:
        name: the account's name.
        at: Unix seconds, up to :data:`HEARD_SAVED_EVERY` too early; None if it never was.
        settings: what it is polled with; None if no configured account has the name.
        unfinished: how many of its jobs are unfinished.
    """

    name: str
    at: float | None
    settings: Settings | None
    unfinished: int

    @property
    def is_awaited(self) -> bool:
        """Whether it should be listed again. One that is not configured misleads by unfinished jobs only."""
        return self.settings is not None or self.unfinished > 0

    def is_stale(self, now: float) -> bool:
        """Whether it should have been listed since."""
        if self.settings is None or self.at is None:
            return self.is_awaited and self.at is not None
        intervals = 2 * self.settings.poll_interval
        return now - self.at > max(self.settings.stale_after, intervals + HEARD_SAVED_EVERY)


class Freshness(NamedTuple):
    """How old is what is shown.

    Attributes:
        as_of: when the account was last listed, or the one of several that this is longest ago for; empty without one.
        warnings: a line for each account that was not listed for longer than ``stale_after``; one if no exporter runs.
    """

    as_of: str = ""
    warnings: tuple[str, ...] = ()


def freshness(ledgers: Iterable[LedgerSummary], options: StateFileOptions) -> Freshness:
    """How old is what *ledgers* say."""
    found, now = list(ledgers), SYSTEM_CLOCK.time()
    settings_of: Callable[[str], Settings | None] = _assume_usual_settings
    if any(each.written_at is not None and now - each.written_at > HEARD_SAVED_EVERY for each in found):
        settings_of = options.settings_of()  # not in the usual case: it takes the rest of the configuration
    accounts = [
        LastListed(name, each.written_at, settings_of(name), each.unfinished)
        for each in found
        for name in [name_of(each, options)]
    ]
    is_running = lock_owner(options.file) is not None
    warnings = stale_notes(accounts, now, is_running=is_running)
    return Freshness(as_of(accounts, now, is_running=is_running or bool(warnings)), warnings)


def _assume_usual_settings(_name: str) -> Settings:
    return Settings.model_construct()


def as_of(accounts: Sequence[LastListed], now: float, *, is_running: bool) -> str:
    """As of when *accounts* are shown; the one listed longest ago decides. Empty without accounts. Pure."""
    counted = [each for each in accounts if each.is_awaited] or accounts
    if not counted:
        return ""
    oldest = min(counted, key=lambda each: each.at or 0.0)
    if oldest.at is None:
        text = f"{oldest.name} has not been listed yet"
    else:
        which = f" (account {oldest.name}; no other is older)" if len(counted) > 1 else ""
        may_be_later = is_running and _USUAL_INTERVALS < now - oldest.at <= HEARD_SAVED_EVERY
        text = f"as of {_time(oldest.at, now)}, {age(oldest.at, now)}{', or later' if may_be_later else ''}{which}"
    return text if is_running else f"{text}; {_NOT_RUNNING}"


def _time(at: float, now: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S} UTC" if abs(now - at) < _DATE_SHOWN_AFTER else moment(at)


def stale_notes(accounts: Sequence[LastListed], now: float, *, is_running: bool) -> tuple[str, ...]:
    """What to warn of *accounts*; *is_running*: whether an exporter holds the state file. Pure."""
    stale = [each for each in accounts if each.is_stale(now)]
    if not stale:
        return ()
    if not is_running:
        latest = max(each.at or 0.0 for each in stale)
        return (f"{_NOT_RUNNING}; {_names(stale)}: last listed about {age(latest, now)}",)
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
        when = age(each.at or 0.0, now)
        yield f"{each.name}: last listed about {when}{',' if each.settings else ';'} {why}"

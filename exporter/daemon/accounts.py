"""The pollers at work, each in a thread of its own. A reload starts and ends some of them; the others go on."""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from exporter.api.client import ATTEMPTS
from exporter.clock import SYSTEM_CLOCK, AccountClock, InterruptibleClock
from exporter.config.accounts import AccountConfig, AccountEntry
from exporter.config.changes import (
    AccountChanges,
    Login,
    account_changes,
    compared_by_token,
    duplicate_accounts,
    reassigned_names,
)
from exporter.config.loading import Configuration
from exporter.daemon.assembly import AnyPoller, PollerFactory, rate_shares
from exporter.errors import ConfigError
from exporter.logs import Log
from exporter.metrics.snapshot import SnapshotRegistry
from exporter.polling.lease import Lease

_JOIN_SECONDS: Final = 1.5
"""For all pollers together to end. A poller that hangs in a request ends with the process."""
_HEALTH_SLACK: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Running:
    """A poller, and what starts and ends it."""

    poller: AnyPoller
    lease: Lease
    clock: AccountClock
    thread: threading.Thread

    @property
    def has_ended(self) -> bool:
        """Whether the account needs a new poller: an earlier reload was interrupted by an error, or this one died."""
        return self.lease.has_ended or not self.thread.is_alive()

    def end(self) -> None:
        """Let it write and publish nothing more, and end as soon as the request in progress has ended."""
        self.lease.end()
        self.clock.stop()


class RunningAccounts:
    """The accounts that are polled. :meth:`apply` and :meth:`stop` must not run at the same time."""

    def __init__(self, factory: PollerFactory, registry: SnapshotRegistry, clock: InterruptibleClock, log: Log) -> None:
        """None are polled until :meth:`apply`."""
        self._factory = factory
        self._registry = registry
        self._clock = clock
        self._log = log
        self._running: dict[str, _Running] = {}
        """By name, in the order of the configuration. Replaced, never changed, because other threads read it."""
        self._ending: list[threading.Thread] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The accounts' names, in the order of the configuration."""
        return tuple(self._running)

    def apply(self, configuration: Configuration) -> AccountChanges:
        """Poll the accounts of *configuration*, with its settings. Accounts that have not changed are not disturbed.

        After an unexpected error, those that it has stopped are polled again by the next call.
        """
        before, wanted = self._running, {entry.name: entry for entry in configuration.entries}
        polled = [each.poller.account for each in before.values()]
        ended = [name for name, each in before.items() if each.has_ended]
        changes = account_changes(polled, configuration.entries, ended)
        reassigned = reassigned_names(polled, configuration.entries)
        with self._configured(configuration):
            fresh = [entry for entry in configuration.entries if entry.name not in changes.kept]
            new = {
                entry.name: self._new(entry, turn, name_reassigned=entry.name in reassigned)
                for turn, entry in enumerate(fresh)
            }
        leaving = (*changes.removed, *changes.changed)
        for name in leaving:
            before[name].end()
            self._factory.allowances.remove_account(name)
        self._ending = [*filter(threading.Thread.is_alive, self._ending), *(before[name].thread for name in leaving)]
        named = self._factory.arrange(leaving, reassigned)
        self._registry.arrange(configuration.names)
        self._running = {name: new.get(name) or before[name] for name in wanted}
        duplicates = self._duplicates(wanted, tuple(new), named) if before else {}
        for name in changes.kept:
            kept = before[name]
            kept.poller.configure(self._factory.settings(name))
            kept.poller.look_again()
            kept.clock.wake()
        for name, each in new.items():
            self._factory.identities.watch(name, each.clock.wake)
            each.thread.start()
        return replace(changes, duplicates=duplicates)

    @contextmanager
    def _configured(self, configuration: Configuration) -> Iterator[None]:
        """Make pollers with *configuration* from now on; if that fails, with the one before."""
        factory, before = self._factory, self._factory.configuration
        factory.configuration = configuration
        factory.allowances.use_shares(configuration.settings.rate_share, rate_shares(configuration))
        try:
            yield
        except BaseException:
            factory.configuration = before
            factory.allowances.use_shares(before.settings.rate_share, rate_shares(before))
            raise

    def _duplicates(
        self, wanted: Mapping[str, AccountEntry], arriving: Collection[str], named: Collection[str]
    ) -> Mapping[str, str]:
        compared = compared_by_token(wanted, arriving)
        logins = {name: _login(entry) if name in compared else Login(entry, None) for name, entry in wanted.items()}
        return duplicate_accounts(logins, arriving, named, self._factory.identities.duplicates)

    def stop(self) -> None:
        """End all pollers, and wait for a moment until they have ended."""
        running = self._running.values()
        for each in running:
            each.clock.stop()
        _join([*self._ending, *(each.thread for each in running)])

    def unhealthy(self) -> str:
        """Which pollers have not moved for too long; an empty string if all have."""
        silent_for = self._factory.configuration.settings.request_timeout * ATTEMPTS + _HEALTH_SLACK
        now = self._clock.monotonic()
        return ", ".join(
            f"account {name} has not moved for {now - each.poller.last_activity_at:.0f} s"
            for name, each in self._running.items()
            if now - each.poller.last_activity_at > silent_for
        )

    def _new(self, entry: AccountEntry, turn: int, *, name_reassigned: bool) -> _Running:
        lease, clock = Lease(), AccountClock(self._clock)
        poller = self._factory.new(entry, turn, lease, clock, name_reassigned=name_reassigned)
        thread = threading.Thread(target=_guarded(poller, self._log), name=f"poller-{poller.name}", daemon=True)
        return _Running(poller, lease, clock, thread)


def _login(entry: AccountEntry) -> Login:
    try:
        return Login(entry, entry.token.read() if isinstance(entry, AccountConfig) else None)
    except ConfigError:
        return Login(entry, None)


def _guarded(poller: AnyPoller, log: Log) -> Callable[[], None]:
    def work() -> None:
        try:
            poller.run()
        except Exception:  # the poller stays dead and fails the health check
            log.exception("poller.died", account=poller.name)

    return work


def _join(threads: Iterable[threading.Thread]) -> None:
    ends = SYSTEM_CLOCK.monotonic() + _JOIN_SECONDS
    for thread in threads:
        if thread.is_alive():
            thread.join(max(0.0, ends - SYSTEM_CLOCK.monotonic()))

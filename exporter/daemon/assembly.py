"""Constructs all objects between the state file and the metrics page; the only place that does."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Final, TypeAlias

from exporter.api.allowance import AllowanceKey, AllowancePool
from exporter.api.client import Client, ClientObserver
from exporter.api.deadline import Deadline
from exporter.api.transport import CertificatesKept, CertificatesReloaded, TrustedCertificates, transport_to
from exporter.clock import Clock, RealClock
from exporter.config.accounts import AccountConfig, AccountEntry
from exporter.config.changes import missing_accounts
from exporter.config.loading import Configuration
from exporter.errors import StateError
from exporter.logs import Log
from exporter.metrics.exposition import Exposition
from exporter.metrics.snapshot import AccountSnapshot, DisplayOptions, ExporterStats, ReloadStatus, SnapshotRegistry
from exporter.polling.identity import Identity, IdentityRegistry, Place
from exporter.polling.lease import Lease
from exporter.polling.pending import PendingPoller
from exporter.polling.poller import Poller
from exporter.polling.settings import PollerSettings, PollSchedule
from exporter.polling.stats import PollStats
from exporter.storage.store import Store

_FIRST_POLLS_APART: Final = 0.05


AnyPoller: TypeAlias = Poller | PendingPoller


class PollerFactory:
    """Makes the poller of an account, from what all pollers share.

    Attributes:
        configuration: the current one; a reload replaces it.
    """

    def __init__(  # noqa: PLR0917  # one of each kind
        self,
        configuration: Configuration,
        store: Store,
        registry: SnapshotRegistry,
        clock: Clock,
        log: Log,
        allowances_in: Store | None = None,
        names: Callable[[], Mapping[str, Identity]] | None = None,
    ) -> None:
        self.configuration = configuration
        kept = allowances_in or store
        self._names = names or kept.names
        self.allowances = AllowancePool(
            configuration.settings.rate_share,
            rate_shares(configuration),
            saved=lambda key: kept.allowance(key, clock.time()),
            save=lambda key, saved: kept.save_allowance(key, saved, clock.time()),
        )
        self._store = store
        self._registry = registry
        self._clock = clock
        self._log = log
        ledgers = self._ledgers()
        self.identities = IdentityRegistry(configuration.names, ledgers, self._places)
        elsewhere = {} if names is None else ledgers
        self._expected_users = {name: username for name, (_, username, _) in elsewhere.items()}
        self._certificates = cache(lambda ca_file: TrustedCertificates(ca_file, partial(_log_certificates, log)))

    def settings(self, name: str, turn: int = 0) -> PollerSettings:
        """What account *name* uses; it is the one with the number *turn* of those that begin now."""
        configuration, settings = self.configuration, self.configuration.settings_of(name)
        position, accounts = configuration.names.index(name), len(configuration.names)
        return PollerSettings(
            PollSchedule(
                settings.poll_interval,
                settings.full_listing_interval,
                settings.stale_after,
                first=turn * min(_FIRST_POLLS_APART, settings.poll_interval / accounts),
                phase=position * settings.poll_interval / accounts,
            ),
            configuration.rules,
            settings.request_timeout,
            settings.show_username,
        )

    def arrange(self, released: Collection[str], reassigned: Collection[str]) -> Collection[str]:
        """Prepare for the accounts of the configuration; return those whose name a ledger has.

        Args:
            released: accounts whose pollers have ended.
            reassigned: names that are now those of other accounts; their ledgers have them only until then.
        """
        ledgers = {name: identity for name, identity in self._ledgers().items() if name not in reassigned}
        self.identities.arrange(self.configuration.names, released, ledgers, self._places)
        return ledgers.keys()

    def _ledgers(self) -> dict[str, Identity]:
        """Account to the identity of the ledger that has its name."""
        try:
            names = self._names()
        except StateError:  # without it, the order of the configuration decides
            self._log.exception("state.load_failed")
            return {}
        places = self._places
        return {
            name: (endpoint, username, division)
            for name, (endpoint, username, division) in names.items()
            if places.get(name) == (endpoint, division)
        }

    @property
    def _places(self) -> Mapping[str, Place]:
        entries = (*self.configuration.entries, *self.configuration.not_selected)
        accounts = (entry for entry in entries if isinstance(entry, AccountConfig))
        return {account.name: (account.endpoint, account.division) for account in accounts}

    def new(
        self,
        entry: AccountEntry,
        turn: int,
        lease: Lease | None = None,
        clock: Clock | None = None,
        *,
        name_reassigned: bool = False,
    ) -> AnyPoller:
        """The poller of *entry*, not started.

        Args:
            entry: the account.
            turn: its number among those that begin at the same time.
            lease: what it needs to write and publish.
            clock: what it waits by; by default the clock that all use.
            name_reassigned: whether the account's name was that of another one.
        """
        lease, clock = lease or Lease(), clock or self._clock

        def publish(snapshot: AccountSnapshot) -> None:
            with lease.held():
                self._registry.put(snapshot)

        def poller(account: AccountConfig, stats: PollStats | None = None) -> Poller:
            settings = self.settings(account.name, turn)
            return Poller(
                account,
                connect=partial(self._client, account, settings.request_timeout, lease, clock),
                store=self._store,
                identities=self.identities,
                allowances=self.allowances,
                settings=settings,
                clock=clock,
                publish=publish,
                log=self._log,
                stats=stats,
                lease=lease,
                name_reassigned=name_reassigned,
                expected_user=self._expected_users.get(account.name, ""),
            )

        if isinstance(entry, AccountConfig):
            return poller(entry)
        return PendingPoller(
            entry,
            self.configuration.settings_of(entry.name).poll_interval,
            allowance=self.allowances.of(AllowanceKey("", "", entry.name), clock.monotonic()),
            begin=poller,
            clock=clock,
            publish=publish,
            log=self._log,
        )

    def _client(
        self, account: AccountConfig, timeout: float, lease: Lease, clock: Clock, observer: ClientObserver
    ) -> Client:
        """An account's client, which reports to *observer*."""
        return client_of(
            account,
            timeout,
            self.allowances,
            observer,
            certificates=self._certificates,
            clock=clock,
            permitted=lease.held,
        )


def client_of(
    account: AccountConfig,
    timeout: float,
    allowances: AllowancePool,
    observer: ClientObserver,
    *,
    certificates: Callable[[str | None], TrustedCertificates],
    clock: Clock,
    permitted: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Client:
    """An account's client, which reports to *observer*; *permitted* refuses a request by an error."""
    deadline = Deadline(clock)
    tls = certificates(str(account.ca_file) if account.ca_file else None) if account.needs_tls else None
    transport = transport_to(deadline, tls, account.proxy)

    def prepare() -> None:
        with permitted():
            transport.prepare()

    return Client(
        account.endpoint,
        transport,
        deadline,
        allowance=allowances.of(AllowanceKey(account.endpoint, "", account.name), clock.monotonic()),
        clock=clock,
        observer=observer,
        timeout=timeout,
        prepare=prepare,
    )


@dataclass(frozen=True, slots=True)
class Parts:
    """All objects between the state file and the metrics page, but for the pollers."""

    factory: PollerFactory
    registry: SnapshotRegistry
    exposition: Exposition
    display: DisplayOptions
    clock: Clock
    store: Store


@dataclass(frozen=True, slots=True)
class Components(Parts):
    """All objects between the state file and the metrics page, constructed but not started."""

    pollers: tuple[AnyPoller, ...]


@contextmanager
def build(
    configuration: Configuration,
    stop: threading.Event,
    log: Log,
    *,
    clock: Clock | None = None,
    allowances_in: Store | None = None,
    names: Callable[[], Mapping[str, Identity]] | None = None,
) -> Iterator[Components]:
    """Construct the components and lock the state file while the context lasts.

    *clock* defaults to the real one. Allowances are saved in the state file, or *allowances_in* another one, which also
    has the names of the ledgers, unless *names* has them.

    Raises:
        StateError: the state file cannot be used.
    """
    with build_parts(configuration, stop, log, clock=clock, allowances_in=allowances_in, names=names) as parts:
        pollers = tuple(parts.factory.new(entry, turn) for turn, entry in enumerate(configuration.entries))
        yield Components(
            parts.factory, parts.registry, parts.exposition, parts.display, parts.clock, parts.store, pollers
        )


@contextmanager
def build_parts(
    configuration: Configuration,
    stop: threading.Event,
    log: Log,
    *,
    clock: Clock | None = None,
    allowances_in: Store | None = None,
    names: Callable[[], Mapping[str, Identity]] | None = None,
    reload: Callable[[], ReloadStatus | None] = lambda: None,
) -> Iterator[Parts]:
    """Construct all but the pollers and lock the state file while the context lasts; *clock* defaults to the real one.

    *reload* returns how the configuration was last read, for metrics.

    Raises:
        StateError: the state file cannot be used.
    """
    registry, clock = SnapshotRegistry(configuration.names), clock or RealClock(stop)
    started_at = clock.time()
    display = display_options(configuration)
    for warning in configuration.warnings:
        log.warning("token.exposed", reason=warning)
    for warning in configuration.endpoint_warnings:
        log.warning("endpoint.unusual", reason=warning)
    if configuration.unused:
        log.warning("config.variables_unused", reason=configuration.unused)
    with closing(Store(configuration.state_file)) as store:
        store.report_missing = lambda reason: log.error("state.file_missing", reason=reason)
        store.report_unsaved = lambda reason: log.error("allowance.not_saved", reason=reason)
        for warning in store.warnings:
            log.warning("state.exposed", reason=warning)
        if store.loss:
            log.warning(
                "state.lost",
                file=str(configuration.state_file),
                consequence="counters begin at 0; no alert is about jobs that have ended until now",
                next_step=store.loss,
            )
        if store.link_warning:
            log.warning("state.has_links", reason=store.link_warning)
        yield Parts(
            PollerFactory(configuration, store, registry, clock, log, allowances_in, names),
            registry,
            Exposition(
                registry,
                lambda: ExporterStats(
                    store.write_failures,
                    store.tracked_jobs,
                    store.bytes_total,
                    started_at,
                    reload(),
                    len(missing_accounts(store.missing, clock.time())),
                    state_writable=registry.state_writable,
                ),
                display,
                clock.time,
            ),
            display,
            clock,
            store,
        )


def display_options(configuration: Configuration) -> DisplayOptions:
    """How much is shown of each account."""
    settings = configuration.settings
    own = {entry.name: entry.own.job_series for entry in configuration.entries if entry.own.job_series is not None}
    return DisplayOptions(settings.job_series, settings.failed_job_window, settings.show_username, own)


def rate_shares(configuration: Configuration) -> Mapping[str, float]:
    """The share of the rate limit of each account that has one of its own."""
    entries = configuration.entries
    return {entry.name: entry.own.rate_share for entry in entries if entry.own.rate_share is not None}


def _log_certificates(log: Log, event: CertificatesReloaded | CertificatesKept) -> None:
    match event:
        case CertificatesReloaded(file):
            log.info("certificates.reloaded", file=file)
        case CertificatesKept(file, problem):
            next_step = "write PEM certificates to the file; until then, those that were in it before are trusted"
            log.error("certificates.kept", file=file, reason=problem, next_step=next_step)

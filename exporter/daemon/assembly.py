"""Constructs all objects between the state file and the metrics page; the only place that does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Final, TypeAlias

from exporter.api.allowance import Allowance, AllowanceKey, AllowancePool
from exporter.api.client import Client, ClientObserver
from exporter.api.deadline import Deadline
from exporter.api.transport import CertificatesKept, CertificatesReloaded, TrustedCertificates, transport_to
from exporter.clock import Clock, RealClock
from exporter.config.accounts import AccountConfig
from exporter.config.loading import Configuration
from exporter.logs import Log
from exporter.metrics.exposition import Exposition
from exporter.metrics.snapshot import DisplayOptions, SnapshotRegistry, StoreStats
from exporter.polling.identity import IdentityRegistry
from exporter.polling.pending import PendingPoller
from exporter.polling.poller import SETUP_INTERVAL, Poller, PollSchedule
from exporter.polling.stats import PollStats
from exporter.storage.store import Store

_FIRST_POLLS_APART: Final = 0.05


AnyPoller: TypeAlias = Poller | PendingPoller


@dataclass(frozen=True, slots=True)
class Components:
    """All objects between the state file and the metrics page, constructed but not started."""

    pollers: tuple[AnyPoller, ...]
    registry: SnapshotRegistry
    exposition: Exposition
    display: DisplayOptions
    clock: Clock
    store: Store


@contextmanager
def build(
    configuration: Configuration,
    stop: threading.Event,
    log: Log,
    *,
    clock: Clock | None = None,
    allowances_in: Store | None = None,
) -> Iterator[Components]:
    """Construct the components and lock the state file while the context lasts.

    *clock* defaults to the real one. Allowances are saved in the state file, or *allowances_in* another one.

    Raises:
        StateError: the state file cannot be used.
    """
    settings = configuration.settings
    names = configuration.names
    registry, identities, clock = SnapshotRegistry(names), IdentityRegistry(names), clock or RealClock(stop)
    started_at = clock.time()
    display = DisplayOptions(settings.job_series, settings.failed_job_window, settings.show_username)
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
        kept = allowances_in or store
        allowances = AllowancePool(
            settings.rate_share,
            saved=lambda key: kept.allowance(key, clock.time()),
            save=lambda key, saved: kept.save_allowance(key, saved, clock.time()),
        )
        certificates = cache(lambda ca_file: TrustedCertificates(ca_file, partial(_log_certificates, log)))

        def schedule(position: int) -> PollSchedule:
            return PollSchedule(
                settings.poll_interval,
                settings.full_listing_interval,
                settings.stale_after,
                first=position * min(_FIRST_POLLS_APART, settings.poll_interval / len(names)),
                phase=position * settings.poll_interval / len(names),
            )

        def poller(account: AccountConfig, stats: PollStats | None = None) -> Poller:
            return Poller(
                account,
                connect=partial(client_of, account, configuration, allowances, certificates=certificates, clock=clock),
                store=store,
                identities=identities,
                allowances=allowances,
                rules=configuration.rules,
                schedule=schedule(names.index(account.name)),
                clock=clock,
                publish=registry.put,
                log=log,
                show_username=settings.show_username,
                stats=stats,
            )

        yield Components(
            (
                *(poller(account) for account in configuration.accounts),
                *(
                    PendingPoller(
                        account,
                        min(settings.poll_interval, SETUP_INTERVAL),
                        allowance=Allowance(settings.rate_share),
                        begin=poller,
                        clock=clock,
                        publish=registry.put,
                        log=log,
                    )
                    for account in configuration.pending
                ),
            ),
            registry,
            Exposition(
                registry,
                lambda: StoreStats(store.write_failures, store.tracked_jobs, store.bytes_total, started_at),
                display,
                clock.time,
            ),
            display,
            clock,
            store,
        )


def client_of(
    account: AccountConfig,
    configuration: Configuration,
    allowances: AllowancePool,
    observer: ClientObserver,
    *,
    certificates: Callable[[str | None], TrustedCertificates],
    clock: Clock,
) -> Client:
    """An account's client, which reports to *observer*."""
    deadline = Deadline(clock)
    tls = certificates(str(account.ca_file) if account.ca_file else None) if account.needs_tls else None
    transport = transport_to(deadline, tls, account.proxy)
    return Client(
        account.endpoint,
        transport,
        deadline,
        allowance=allowances.of(AllowanceKey(account.endpoint, "", account.name), clock.monotonic()),
        clock=clock,
        observer=observer,
        timeout=configuration.settings.request_timeout,
        prepare=transport.prepare,
    )


def _log_certificates(log: Log, event: CertificatesReloaded | CertificatesKept) -> None:
    match event:
        case CertificatesReloaded(file):
            log.info("certificates.reloaded", file=file)
        case CertificatesKept(file, problem):
            next_step = "write PEM certificates to the file; until then, those that were in it before are trusted"
            log.error("certificates.kept", file=file, reason=problem, next_step=next_step)

"""Constructs all objects between the state file and the metrics page; the only place that does."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

from exporter.api.allowance import AllowanceKey, AllowancePool
from exporter.api.client import Client, ClientObserver
from exporter.api.deadline import Deadline
from exporter.api.transport import tls_context, transport_to
from exporter.clock import Clock, RealClock
from exporter.config.accounts import AccountConfig
from exporter.config.loading import Configuration
from exporter.logs import Log
from exporter.metrics.exposition import Exposition
from exporter.metrics.snapshot import DisplayOptions, SnapshotRegistry, StoreStats
from exporter.polling.identity import IdentityRegistry
from exporter.polling.poller import Poller, PollSchedule
from exporter.redaction import Redactor
from exporter.storage.store import Store

_FIRST_POLLS_APART: Final = 0.05


@dataclass(frozen=True, slots=True)
class Components:
    """All objects between the state file and the metrics page, constructed but not started."""

    pollers: tuple[Poller, ...]
    registry: SnapshotRegistry
    exposition: Exposition
    display: DisplayOptions
    clock: Clock
    store: Store


@contextmanager
def build(
    configuration: Configuration, stop: threading.Event, log: Log, redactor: Redactor, *, clock: Clock | None = None
) -> Iterator[Components]:
    """Construct the components and lock the state file while the context lasts; *clock* defaults to the real one.

    Raises:
        StateError: the state file cannot be used.
    """
    settings = configuration.settings
    names = tuple(account.name for account in configuration.accounts)
    registry, identities, clock = SnapshotRegistry(names), IdentityRegistry(names), clock or RealClock(stop)
    started_at = clock.time()
    display = DisplayOptions(settings.job_series, settings.failed_job_window, settings.show_username)
    for warning in configuration.warnings:
        log.warning("token.exposed", reason=warning)
    with closing(Store(configuration.state_file)) as store:
        allowances = AllowancePool(
            settings.rate_share,
            saved=lambda key: store.allowance(key, clock.time()),
            save=lambda key, saved: store.save_allowance(key, saved, clock.time()),
        )
        yield Components(
            tuple(
                Poller(
                    account,
                    connect=partial(client_of, account, configuration, allowances, clock),
                    store=store,
                    identities=identities,
                    allowances=allowances,
                    rules=configuration.rules,
                    schedule=PollSchedule(
                        settings.poll_interval,
                        settings.full_listing_interval,
                        settings.stale_after,
                        first=position * min(_FIRST_POLLS_APART, settings.poll_interval / len(names)),
                        phase=position * settings.poll_interval / len(names),
                    ),
                    clock=clock,
                    publish=registry.put,
                    log=log,
                    redactor=redactor,
                )
                for position, account in enumerate(configuration.accounts)
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
    clock: Clock,
    observer: ClientObserver,
) -> Client:
    """An account's client, which reports to *observer*."""
    deadline = Deadline(clock)
    tls = _tls(str(account.ca_file) if account.ca_file else None) if account.needs_tls else None
    return Client(
        account.endpoint,
        transport_to(deadline, tls, account.proxy),
        deadline,
        allowance=allowances.of(AllowanceKey(account.endpoint, "", account.name), clock.monotonic()),
        clock=clock,
        observer=observer,
        timeout=configuration.settings.request_timeout,
    )


_tls = cache(tls_context)
"""Accounts share TLS contexts, because loading certificates takes 1 MB and 20 ms."""

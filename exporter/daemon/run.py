"""Runs the daemon: starts its threads and its server, and stops them in reverse order."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from exporter import __version__
from exporter.clock import InterruptibleClock, RealClock
from exporter.config.changes import accounts_after_reload, accounts_at_start, missing_accounts, put_back
from exporter.config.loading import Configuration
from exporter.daemon import descriptors, systemd
from exporter.daemon.accounts import RunningAccounts
from exporter.daemon.assembly import Parts, build_parts, display_options
from exporter.daemon.reload import Applied, Reloader, warn_of_missing
from exporter.daemon.web_config import CurrentWebConfig
from exporter.errors import ConfigError, ListenError
from exporter.logs import Log, LogFormat
from exporter.metrics.snapshot import LostStateFile, MissingAccounts, SnapshotRegistry
from exporter.signals import on_hangup
from exporter.storage.lock import check_free
from exporter.web.app import application
from exporter.web.page import StatusPage
from exporter.web.server import Limits, bound_sockets, serving, shown_address


class Reload(NamedTuple):
    """What a reload needs of the command line.

    Attributes:
        read: reads the configuration again; raises ConfigError with a line for each problem.
        use_log: changes format and level of the log.
    """

    read: Callable[[], Configuration]
    use_log: Callable[[LogFormat, str], None]


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """A daemon that is up, as the demo and systemd see it.

    Attributes:
        port: the port of its metrics server.
        registry: the latest snapshot of each account.
        accounts: the accounts that are polled.
        reloader: reads the configuration again; None where it cannot be.
    """

    port: int
    registry: SnapshotRegistry
    accounts: RunningAccounts
    reloader: Reloader | None


def run(
    configuration: Configuration,
    stop: threading.Event,
    log: Log,
    *,
    clock: InterruptibleClock | None = None,
    reload: Reload | None = None,
) -> int:
    """Run until *stop* is set and return the exit code; *clock* defaults to the real one.

    With *reload*, SIGHUP and, if enabled, ``POST /-/reload`` read the configuration again.

    Raises:
        StateError: the state file cannot be used.
        ListenError: the address is not available.
    """
    with (
        start(configuration, stop, log, clock=clock, reload=reload) as daemon,
        systemd.informed(
            os.environ,
            log,
            status=lambda: systemd.accounts_line(daemon.accounts.names, daemon.registry.snapshots),
            unhealthy=daemon.accounts.unhealthy,
        ) as reloading,
    ):
        if daemon.reloader is not None:
            daemon.reloader.announced = reloading
            on_hangup(daemon.reloader.on_hangup)
        stop.wait()
        log.info("daemon.stopping")
    log.info("daemon.stopped")
    return 0


@contextmanager
def start(
    configuration: Configuration,
    stop: threading.Event,
    log: Log,
    *,
    clock: InterruptibleClock | None = None,
    reload: Reload | None = None,
) -> Iterator[RunningDaemon]:
    """Run the daemon while the context lasts; *stop* is set on exit.

    Raises:
        StateError: the state file cannot be used.
        ListenError: the address is not available.
    """
    clock = clock or RealClock(stop)
    reloader: Reloader | None = None
    with ExitStack() as stack:
        sockets = _bound(configuration)  # first: a start that fails leaves no new state file behind
        for each in sockets:
            stack.callback(each.close)
        parts = stack.enter_context(
            build_parts(
                configuration,
                stop,
                log,
                clock=clock,
                reload=lambda: None if reloader is None else reloader.status,
            )
        )
        parts.store.use(lambda before: accounts_at_start(before, configuration, clock.time()))
        missing = tuple(parts.store.missing)
        page = StatusPage(parts.display, lost=_lost(configuration, parts))
        accounts = RunningAccounts(parts.factory, parts.registry, clock, log)
        web = CurrentWebConfig(configuration.settings.web_config_file, configuration.web, log)
        if reload is not None:
            reloader = Reloader(
                configuration,
                reload.read,
                _Application(accounts, parts, page, web, reload.use_log).apply,
                missing=lambda: parts.store.missing,
                clock=clock,
                log=log,
            )
        app = application(
            parts.exposition,
            unhealthy=accounts.unhealthy,
            unready=lambda: "" if parts.registry.ready else "not every account has been tried yet",
            status_page=lambda refreshing: page.render(
                parts.registry.snapshots,
                clock.time(),
                refreshing=refreshing,
                reload=None if reloader is None else reloader.status,
                missing=_missing(parts),
            ),
            reload=lambda: _reloaded(reloader),
            crashed=lambda error: log.error("http.handler_failed", exc_info=error),
        )
        stack.callback(accounts.stop)
        stack.callback(stop.set)
        if reloader is not None:
            stack.callback(reloader.close)
        accounts.apply(configuration)
        stack.enter_context(web.refreshed(clock))
        port = stack.enter_context(serving(app, sockets, _limits(configuration), config=web, log=log))
        if parts.store.is_new:
            log.info("state.created", file=str(configuration.state_file))
        log.info(
            "daemon.started",
            version=__version__,
            pid=os.getpid(),
            listen=shown_address(configuration.host, port),
            scheme=configuration.web.scheme,
            authentication=configuration.web.authentication,
            state_file=str(configuration.state_file.absolute()),
            accounts=len(configuration.names),
        )
        for warning in configuration.web.warnings:
            log.warning("web_config.warning", reason=warning)
        if missing:
            warn_of_missing(log, configuration, missing)
        yield RunningDaemon(port, parts.registry, accounts, reloader)


def _missing(parts: Parts) -> MissingAccounts | None:
    """The accounts that the start did not find in the configuration, as the status page shows them."""
    found = missing_accounts(parts.store.missing, parts.clock.time())
    if not found:
        return None
    return MissingAccounts(tuple(found), min(found.values()), put_back(parts.factory.configuration, found))


def _bound(configuration: Configuration) -> list[socket.socket]:
    """Listening sockets.

    Raises:
        StateError: the address is not available, and another exporter has the state file: that comes first.
        ListenError: the address is not available.
    """
    try:
        return bound_sockets(configuration.host, configuration.port)
    except ListenError:
        check_free(configuration.state_file)
        raise


class _Application(NamedTuple):
    """What a reload changes."""

    accounts: RunningAccounts
    parts: Parts
    page: StatusPage
    web: CurrentWebConfig
    use_log: Callable[[LogFormat, str], None]

    def apply(self, configuration: Configuration) -> Applied:
        """Change all that differs from *configuration*."""
        settings = configuration.settings
        refused: tuple[str, ...] = ()
        try:
            self.web.use(settings.web_config_file, configuration.web)
        except ConfigError as error:
            refused = tuple(f"web_config_file: {problem}" for problem in error.problems)
        self.use_log(settings.log_format, settings.log_level)
        self.page.display = display_options(configuration)
        self.parts.exposition.show(self.page.display)
        changes = self.accounts.apply(configuration)
        now = self.parts.clock.time()
        self.parts.store.use(lambda before: accounts_after_reload(before, configuration, now))
        return Applied(changes, refused)


def _lost(configuration: Configuration, parts: Parts) -> LostStateFile | None:
    loss = parts.store.loss
    return LostStateFile(str(configuration.state_file), parts.clock.time(), loss) if loss else None


def _reloaded(reloader: Reloader | None) -> tuple[int, str] | None:
    """Reload, if that is allowed over HTTP."""
    if reloader is None or not reloader.enabled:
        return None
    result = reloader.reload()
    return result.status, result.text


def _limits(configuration: Configuration) -> Limits:
    """What clients may use of the metrics server, with the descriptors that polls and ledger leave over."""
    limit, accounts = descriptors.raise_limit(), len(configuration.names)
    return Limits(connections=descriptors.connections_within(limit, accounts, Limits().connections))

"""Runs the daemon: starts its threads and its server, and stops them in reverse order."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from exporter import __version__
from exporter.api.client import ATTEMPTS
from exporter.clock import SYSTEM_CLOCK, Clock
from exporter.config.loading import Configuration
from exporter.daemon import descriptors, systemd
from exporter.daemon.assembly import AnyPoller, build
from exporter.daemon.web_config import CurrentWebConfig
from exporter.logs import Log
from exporter.metrics.snapshot import SnapshotRegistry
from exporter.web.app import application
from exporter.web.page import StatusPage
from exporter.web.server import Limits, bound_sockets, serving, shown_address

_JOIN_SECONDS: Final = 1.5
"""For all pollers together to end. A poller that hangs in a request ends with the process."""
_HEALTH_SLACK: Final = 60.0


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """A daemon that is up, as the demo and systemd see it.

    Attributes:
        port: the port of its metrics server.
        registry: the latest snapshot of each account.
        unhealthy: returns why it should be restarted, or an empty string; the test of ``/-/healthy``.
    """

    port: int
    registry: SnapshotRegistry
    unhealthy: Callable[[], str]


def run(configuration: Configuration, stop: threading.Event, log: Log, *, clock: Clock | None = None) -> int:
    """Run until *stop* is set and return the exit code; *clock* defaults to the real one.

    Raises:
        StateError: the state file cannot be used.
        ListenError: the address is not available.
    """
    names = configuration.names
    with (
        start(configuration, stop, log, clock=clock) as daemon,
        systemd.informed(
            os.environ,
            log,
            status=lambda: systemd.accounts_line(names, daemon.registry.snapshots),
            unhealthy=daemon.unhealthy,
        ),
    ):
        stop.wait()
        log.info("daemon.stopping")
    log.info("daemon.stopped")
    return 0


@contextmanager
def start(
    configuration: Configuration, stop: threading.Event, log: Log, *, clock: Clock | None = None
) -> Iterator[RunningDaemon]:
    """Run the daemon while the context lasts; *stop* is set on exit.

    Raises:
        StateError: the state file cannot be used.
        ListenError: the address is not available.
    """
    settings = configuration.settings
    with ExitStack() as stack:
        components = stack.enter_context(build(configuration, stop, log, clock=clock))
        page = StatusPage(components.display)
        sockets = bound_sockets(configuration.host, configuration.port)
        for each in sockets:
            stack.callback(each.close)
        threads = [
            threading.Thread(target=_guarded(poller, log), name=f"poller-{poller.name}", daemon=True)
            for poller in components.pollers
        ]
        silent_for = settings.request_timeout * ATTEMPTS + _HEALTH_SLACK
        unhealthy = partial(_unhealthy, components.pollers, components.clock, silent_for)
        app = application(
            components.exposition,
            unhealthy=unhealthy,
            unready=lambda: "" if components.registry.ready else "not every account has been tried yet",
            status_page=lambda: page.render(components.registry.snapshots, components.clock.time()),
            crashed=lambda error: log.error("http.handler_failed", exc_info=error),
        )
        stack.callback(_join, threads)
        stack.callback(stop.set)
        for thread in threads:
            thread.start()
        web = CurrentWebConfig(settings.web_config_file, configuration.web, log)
        stack.enter_context(web.refreshed(components.clock))
        port = stack.enter_context(serving(app, sockets, _limits(configuration), config=web, log=log))
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
        yield RunningDaemon(port, components.registry, unhealthy)


def _limits(configuration: Configuration) -> Limits:
    """What clients may use of the metrics server, with the descriptors that polls and ledger leave over."""
    limit, accounts = descriptors.raise_limit(), len(configuration.names)
    return Limits(connections=descriptors.connections_within(limit, accounts, Limits().connections))


def _guarded(poller: AnyPoller, log: Log) -> Callable[[], None]:
    def work() -> None:
        try:
            poller.run()
        except Exception:  # the poller stays dead and fails the health check
            log.exception("poller.died", account=poller.name)

    return work


def _unhealthy(pollers: Iterable[AnyPoller], clock: Clock, silent_for: float) -> str:
    now = clock.monotonic()
    return ", ".join(
        f"account {poller.name} has not moved for {now - poller.last_activity_at:.0f} s"
        for poller in pollers
        if now - poller.last_activity_at > silent_for
    )


def _join(threads: list[threading.Thread]) -> None:
    ends = SYSTEM_CLOCK.monotonic() + _JOIN_SECONDS
    for thread in threads:
        if thread.is_alive():
            thread.join(max(0.0, ends - SYSTEM_CLOCK.monotonic()))

"""The daemon: builds everything, by hand and in one place, and takes it down in reverse."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

from exporter import __version__, systemd
from exporter.accounts import Watched
from exporter.clock import Clock, RealClock
from exporter.counting.store import Store
from exporter.metrics.exposition import Exposition
from exporter.metrics.snapshot import Board, Display, Process
from exporter.metrics.status_page import status_page
from exporter.metrics.web import application, bound_sockets, serving, shown_address
from exporter.parallel import in_parallel
from exporter.platform.allowance import Allowances, Holder
from exporter.platform.client import ATTEMPTS, Client, Listener, tls_context, transport_to
from exporter.platform.transport import Deadline
from exporter.polling.claims import Claims
from exporter.polling.poller import Pace, Poller
from exporter.settings import Configuration
from exporter.telemetry import Log, Secrets

_JOIN_SECONDS: Final = 1.5
"""For all pollers together to end; one that hangs in a request is left behind with the process."""
_HEALTH_SLACK: Final = 60.0
_FIRST_POLLS_APART: Final = 0.05


@dataclass(frozen=True, slots=True)
class Running:
    """A daemon that is up: what the demo shows of it, and what systemd is told.

    Attributes:
        port: where its metrics are.
        board: its accounts as they are shown.
        unhealthy: why it should be restarted, or nothing: the test of ``/-/healthy``.
    """

    port: int
    board: Board
    unhealthy: Callable[[], str]


def run(
    configuration: Configuration, stop: threading.Event, log: Log, secrets: Secrets, *, clock: Clock | None = None
) -> int:
    """Run until *stop* is set, by this machine's clock if no other is given; the exit code.

    Raises:
        StateError: the state file cannot be used.
        ListenError: the address cannot be had.
    """
    names = [account.name for account in configuration.accounts]
    with (
        started(configuration, stop, log, secrets, clock=clock) as daemon,
        systemd.informed(
            os.environ,
            log,
            status=lambda: systemd.accounts_line(names, daemon.board.pictures),
            unhealthy=daemon.unhealthy,
        ),
    ):
        stop.wait()
        log.info("daemon.stopping")
    log.info("daemon.stopped")
    return 0


@contextmanager
def started(
    configuration: Configuration, stop: threading.Event, log: Log, secrets: Secrets, *, clock: Clock | None = None
) -> Iterator[Running]:
    """The daemon while the context lasts; *stop* is set when it is left.

    Raises:
        StateError: the state file cannot be used.
        ListenError: the address cannot be had.
    """
    settings = configuration.settings
    with ExitStack() as stack:
        parts = stack.enter_context(assembled(configuration, stop, log, secrets, clock=clock))
        sockets = bound_sockets(configuration.host, configuration.port)
        for each in sockets:
            stack.callback(each.close)
        threads = [
            threading.Thread(target=_guarded(poller, log), name=f"poller-{poller.name}", daemon=True)
            for poller in parts.pollers
        ]
        silent_for = settings.request_timeout * ATTEMPTS + _HEALTH_SLACK
        unhealthy = partial(_unhealthy, parts.pollers, parts.clock, silent_for)
        app = application(
            parts.exposition,
            unhealthy=unhealthy,
            unready=lambda: "" if parts.board.ready else "not every account has been tried yet",
            status_page=lambda: status_page(parts.board.pictures, parts.display, parts.clock.time()),
            crashed=lambda error: log.error("request.crashed", exc_info=error),
        )
        stack.callback(_join, threads)
        stack.callback(stop.set)
        for thread in threads:
            thread.start()
        port = stack.enter_context(serving(app, sockets))
        log.info(
            "daemon.started",
            version=__version__,
            pid=os.getpid(),
            listen=shown_address(configuration.host, port),
            state_file=str(configuration.state_file.absolute()),
            accounts=len(configuration.accounts),
        )
        yield Running(port, parts.board, unhealthy)


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything between the state file and the page, put together but not yet moving."""

    pollers: tuple[Poller, ...]
    board: Board
    exposition: Exposition
    display: Display
    clock: Clock
    store: Store

    def poll_each(self, how: Callable[[Poller], None], stop: threading.Event) -> None:
        """Every account polled once, all at the same time, for commands that end.

        Raises:
            Stopping: *stop* was set before all were done.
        """
        in_parallel(how, self.pollers, stop)
        for poller in self.pollers:
            poller.confirm()


@contextmanager
def assembled(
    configuration: Configuration, stop: threading.Event, log: Log, secrets: Secrets, *, clock: Clock | None = None
) -> Iterator[Parts]:
    """The parts, with the state file held while the context lasts; *clock* is this machine's where none is given.

    Raises:
        StateError: the state file cannot be used.
    """
    settings = configuration.settings
    names = tuple(account.name for account in configuration.accounts)
    board, claims, clock = Board(names), Claims(names), clock or RealClock(stop)
    display = Display(settings.job_series, settings.failed_job_window, settings.show_username)
    for warning in configuration.warnings:
        log.warning("token.exposed", reason=warning)
    with closing(Store(configuration.state_file)) as store:
        allowances = Allowances(
            settings.rate_share,
            kept=lambda holder: store.allowance(holder, clock.time()),
            keep=lambda holder, kept: store.keep_allowance(holder, kept, clock.time()),
        )
        yield Parts(
            tuple(
                Poller(
                    watched,
                    connect=partial(client_of, watched, configuration, allowances, clock),
                    store=store,
                    claims=claims,
                    allowances=allowances,
                    rules=configuration.rules,
                    pace=Pace(
                        settings.poll_interval,
                        settings.full_listing_interval,
                        settings.stale_after,
                        first=position * min(_FIRST_POLLS_APART, settings.poll_interval / len(names)),
                        phase=position * settings.poll_interval / len(names),
                    ),
                    clock=clock,
                    publish=board.put,
                    log=log,
                    secrets=secrets,
                )
                for position, watched in enumerate(configuration.accounts)
            ),
            board,
            Exposition(
                board,
                lambda: Process(store.write_failures, store.marks_total, store.bytes_total),
                display,
                clock.time,
            ),
            display,
            clock,
            store,
        )


def client_of(
    watched: Watched, configuration: Configuration, allowances: Allowances, clock: Clock, listener: Listener
) -> Client:
    """An account's client, which reports to *listener*."""
    deadline = Deadline(clock)
    tls = _tls(str(watched.ca_file) if watched.ca_file else None) if watched.needs_tls else None
    return Client(
        watched.endpoint,
        transport_to(deadline, tls, watched.proxy),
        deadline,
        allowance=allowances.of(Holder(watched.endpoint, "", watched.name), clock.monotonic()),
        clock=clock,
        listener=listener,
        timeout=configuration.settings.request_timeout,
    )


_tls = cache(tls_context)
"""Loading certificates takes a megabyte and 20 ms, so accounts share what they can."""


def _guarded(poller: Poller, log: Log) -> Callable[[], None]:
    def work() -> None:
        try:
            poller.run()
        except Exception:  # a dead poller must be seen: it fails the health check
            log.exception("poller.died", account=poller.name)

    return work


def _unhealthy(pollers: Iterable[Poller], clock: Clock, silent_for: float) -> str:
    now = clock.monotonic()
    return ", ".join(
        f"account {poller.name} has not moved for {now - poller.moved_at:.0f} s"
        for poller in pollers
        if now - poller.moved_at > silent_for
    )


def _join(threads: list[threading.Thread]) -> None:
    ends = time.monotonic() + _JOIN_SECONDS
    for thread in threads:
        if thread.is_alive():
            thread.join(max(0.0, ends - time.monotonic()))

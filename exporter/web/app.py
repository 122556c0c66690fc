"""The HTTP side: paths, negotiation, and clients that are slow, silent or too many.

uvicorn speaks HTTP and Starlette knows the paths. What uvicorn leaves open is closed in :class:`_Protocol`: a client
has ten seconds to send a header, of 16 KiB at most, and a minute to take what it asked for; of too many connections
the longest idle ones go first.
"""

import asyncio
import errno
import re
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from exporter.errors import ListenError
from exporter.metrics.exposition import Exposition
from exporter.web.negotiation import format_wanted, gzip_wanted
from exporter.web.status import CONTENT_SECURITY_POLICY

_STOPS_WITHIN: Final = 1
_NO_STORE: Final = {"Cache-Control": "no-store"}
_PAGE_HEADERS: Final = {
    **_NO_STORE,
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may make the server wait for, and hold.

    Attributes:
        header_seconds: for a client to send a request's header.
        header_bytes: of it.
        answer_seconds: for a client to take an answer that does not fit into the system's buffers.
        idle_seconds: for which a connection is kept open between two requests.
        connections: open at one time.
    """

    header_seconds: float = 10.0
    header_bytes: int = 16 * 1024
    answer_seconds: float = 60.0
    idle_seconds: int = 300
    connections: int = 512


def application(
    exposition: Exposition,
    *,
    unhealthy: Callable[[], str],
    unready: Callable[[], str],
    status_page: Callable[[], str],
    crashed: Callable[[Exception], None] = lambda _error: None,
) -> Starlette:
    """The paths.

    Args:
        exposition: the metrics page.
        unhealthy: why the process should be restarted; empty when it should not.
        unready: why it should not be asked yet; empty when it may be.
        status_page: the page for people.
        crashed: is told of an error that nobody expected; the client gets a 500.
    """

    async def metrics(request: Request) -> Response:
        wanted = format_wanted(",".join(request.headers.getlist("accept")))
        gzip = gzip_wanted(",".join(request.headers.getlist("accept-encoding")))
        headers = {"Content-Type": wanted.value, "Vary": "Accept, Accept-Encoding", **_NO_STORE}
        if gzip:
            headers["Content-Encoding"] = "gzip"
        if exposition.current(wanted):
            return Response(exposition.page(wanted, gzip=gzip), headers=headers)
        return Response(await run_in_threadpool(exposition.page, wanted, gzip=gzip), headers=headers)

    async def healthy(_request: Request) -> Response:
        return _verdict(unhealthy(), "healthy")

    async def ready(_request: Request) -> Response:
        return _verdict(unready(), "ready")

    async def status(_request: Request) -> Response:
        return HTMLResponse(await run_in_threadpool(status_page), headers=_PAGE_HEADERS)

    async def failed(_request: Request, error: Exception) -> Response:
        crashed(error)
        return PlainTextResponse("Internal Server Error\n", status_code=500, headers=_NO_STORE)

    app = Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/-/healthy", healthy),
            Route("/-/ready", ready),
            Route("/", status),
        ],
        exception_handlers={Exception: failed},
    )
    app.router.redirect_slashes = False
    return app


def _verdict(against: str, word: str) -> Response:
    if against:
        return PlainTextResponse(f"not {word}: {against}\n", status_code=503, headers=_NO_STORE)
    return PlainTextResponse(f"{word}\n", headers=_NO_STORE)


def bound_sockets(host: str | None, port: int) -> list[socket.socket]:
    """Listening sockets for *host* (None: every address, IPv4 and IPv6 on one socket).

    Raises:
        ListenError: the address cannot be had.
    """
    try:
        if host is None:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            listener = socket.create_server(("", port), family=family, dualstack_ipv6=both, backlog=1024)
        else:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = socket.create_server(address, family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        reason, _, _ = reason.partition(" (while attempting")  # the address is said already
        suggestion = "choose another address with listen"
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            suggestion = f"is it running already? Otherwise {suggestion}"
        raise ListenError(f"cannot listen on {shown_address(host, port)}: {reason}; {suggestion}") from error
    # Accepted sockets inherit it; asyncio sets it only on those made with an explicit protocol number. Without it an
    # answer's body waits for the client to acknowledge its header: 40 ms at every scrape of a kept connection.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return [listener]


def shown_address(host: str | None, port: int) -> str:
    """The address as it stands in a URL and in the setting: an IPv6 one in brackets, nothing for every address."""
    return f"[{host}]:{port}" if host and ":" in host else f"{host or ''}:{port}"


@contextmanager
def serving(app: Starlette, sockets: list[socket.socket], limits: Limits = Limits()) -> Iterator[int]:
    """Serve in a thread of its own while the context lasts; gives the port.

    Raises:
        ListenError: the server cannot start.
    """
    server = _Server(app, limits)
    thread = threading.Thread(target=server.run, args=(sockets,), name="metrics-server", daemon=True)
    thread.start()
    server.ready.wait()
    if server.error is not None:
        raise ListenError(f"the metrics server cannot start: {server.error}") from server.error
    try:
        yield sockets[0].getsockname()[1]
    finally:
        server.stop()
        thread.join(_STOPS_WITHIN + 1)


class _Server(uvicorn.Server):
    """A server that is stopped by an event, takes no signals and does not tick while nothing happens."""

    def __init__(self, app: Starlette, limits: Limits) -> None:
        self.ready = threading.Event()
        self.error: OSError | None = None
        super().__init__(
            uvicorn.Config(
                app,
                http=type("_LimitedProtocol", (_Protocol,), {"limits": limits}),
                loop="asyncio",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                h11_max_incomplete_event_size=limits.header_bytes,
                timeout_keep_alive=limits.idle_seconds,
                timeout_graceful_shutdown=_STOPS_WITHIN,
            )
        )

    def stop(self) -> None:
        """End serving; from any thread."""
        self._loop.call_soon_threadsafe(self._stopping.set)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the daemon's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; :attr:`error` is set when that cannot be."""
        try:
            await super().startup(sockets)
        except OSError as error:
            self.error = error
            self.should_exit = True
            self.ready.set()

    async def main_loop(self) -> None:
        """Wait for :meth:`stop`."""
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.ready.set()
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running answers end, within bounds; then hang up on whoever is still there."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # in which the connections learn of it


class _Protocol(H11Protocol):
    """Bounds what a client may make the server wait for, and hold."""

    limits: Limits
    _header_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None
    _idle_since = 0.0

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's own annotation leaves None out
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the parent
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._await_header()
        if len(self.connections) > self.limits.connections:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        # uvicorn sets it once a second; here nothing ticks, so it is set when it may be asked for.
        self.server_state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        if self.idle and self._header_too_long(data):
            self.send_400_response("The request's header is too long.")
            return
        super().data_received(data)
        if not self.idle:
            self._header_came()
        elif self._header_timer is None:
            self._await_header()

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        super().on_response_complete()
        self._header_came()
        if self.idle and self.conn.trailing_data[0]:
            self._await_header()  # a part of the next request's is here already

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state is h11.IDLE:
            super().send_400_response(msg)
        else:  # an answer is out, or on its way: there is no room for another one
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer_timer = self.loop.call_later(self.limits.answer_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._answer_taken()

    def timeout_keep_alive_handler(self) -> None:
        self.transport.abort()  # a close would wait for ever for a client that left an answer's end untaken

    def connection_lost(self, exc: Exception | None) -> None:
        self._header_came()
        self._answer_taken()
        super().connection_lost(exc)

    def _make_room(self) -> None:
        """Hang up on whoever is idle longest; if all are being answered, on whoever is longest at that."""
        others = (each for each in self.connections if isinstance(each, _Protocol) and each is not self)
        oldest = min(others, key=lambda each: (not each.idle, each._idle_since))  # noqa: SLF001  # its own kind
        self.connections.discard(oldest)  # at once, so that the next one to come finds another one
        oldest.transport.abort()

    def _header_too_long(self, data: bytes) -> bool:
        """Whether a header does not end within its bound; h11 by itself looks only at headers that have no end yet."""
        begun: bytes = self.conn.trailing_data[0]
        if len(begun) + len(data) <= self.limits.header_bytes:
            return False
        return _HEADER_END.search((begun + data)[: self.limits.header_bytes]) is None

    def _await_header(self) -> None:
        self._header_timer = self.loop.call_later(self.limits.header_seconds, self.transport.abort)

    def _header_came(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _answer_taken(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None


_HEADER_END: Final = re.compile(rb"\n\r?\n")

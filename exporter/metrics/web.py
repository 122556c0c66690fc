"""The HTTP side: paths, negotiation, and clients that are slow, silent or too many.

uvicorn speaks HTTP and Starlette knows the paths. What uvicorn leaves open is closed in :class:`_Protocol`: a client
has ten seconds to send a header, of 16 KiB at most, and of too many connections the oldest idle ones go first.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from exporter.errors import ListenError
from exporter.metrics.exposition import Exposition
from exporter.metrics.negotiation import format_wanted, gzip_wanted

HEADER_SECONDS: Final = 10.0
"""For a client to send a request's header."""
HEADER_BYTES: Final = 16 * 1024
IDLE_SECONDS: Final = 300
"""For a connection that is kept open between two scrapes."""
MOST_CONNECTIONS: Final = 512
_STARTS_WITHIN: Final = 10.0
_STOPS_WITHIN: Final = 1
_NO_STORE: Final = {"Cache-Control": "no-store"}
_PAGE_HEADERS: Final = {
    **_NO_STORE,
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def application(
    exposition: Exposition,
    *,
    unhealthy: Callable[[], str],
    unready: Callable[[], str],
    status_page: Callable[[], str],
) -> Starlette:
    """The paths.

    Args:
        exposition: the metrics page.
        unhealthy: why the process should be restarted; empty when it should not.
        unready: why it should not be asked yet; empty when it may be.
        status_page: the page for people.
    """

    async def metrics(request: Request) -> Response:
        wanted = format_wanted(request.headers.get("accept", ""))
        packed = gzip_wanted(request.headers.get("accept-encoding", ""))
        headers = {"Content-Type": wanted.value, "Vary": "Accept, Accept-Encoding", **_NO_STORE}
        if packed:
            headers["Content-Encoding"] = "gzip"
        if exposition.current(wanted):
            return Response(exposition.page(wanted, packed=packed), headers=headers)
        return Response(await run_in_threadpool(exposition.page, wanted, packed=packed), headers=headers)

    async def healthy(_request: Request) -> Response:
        return _verdict(unhealthy(), "healthy")

    async def ready(_request: Request) -> Response:
        return _verdict(unready(), "ready")

    async def status(_request: Request) -> Response:
        return HTMLResponse(await run_in_threadpool(status_page), headers=_PAGE_HEADERS)

    app = Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/-/healthy", healthy),
            Route("/-/ready", ready),
            Route("/", status),
        ]
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
    shown = f"{host or ''}:{port}"
    try:
        if host is None:
            if socket.has_dualstack_ipv6():
                everywhere = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
            else:
                everywhere = socket.create_server(("", port), backlog=1024)
            return [everywhere]
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return [socket.create_server(address[:2], family=family, backlog=1024)]
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ListenError(f"cannot listen on {shown}: {reason}; choose another address with listen") from error


@contextmanager
def serving(app: Starlette, sockets: list[socket.socket]) -> Iterator[int]:
    """Serve in a thread of its own while the context lasts; gives the port."""
    server = _Server(app)
    thread = threading.Thread(target=server.run, args=(sockets,), name="metrics-server", daemon=True)
    thread.start()
    if not server.ready.wait(_STARTS_WITHIN):
        raise ListenError("the metrics server did not start")
    try:
        yield sockets[0].getsockname()[1]
    finally:
        server.stop()
        thread.join(_STOPS_WITHIN + 1)


class _Server(uvicorn.Server):
    """A server that is stopped by an event, takes no signals and does not tick while nothing happens."""

    def __init__(self, app: Starlette) -> None:
        self.ready = threading.Event()
        super().__init__(
            uvicorn.Config(
                app,
                http=_Protocol,
                loop="asyncio",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                h11_max_incomplete_event_size=HEADER_BYTES,
                timeout_keep_alive=IDLE_SECONDS,
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

    async def main_loop(self) -> None:
        """Wait for :meth:`stop`."""
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.ready.set()
        await self._stopping.wait()


class _Protocol(H11Protocol):
    """Bounds what a client may make the server wait for, and hold."""

    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the parent
        super().connection_made(transport)
        self._opened = self.loop.time()
        self._await_header()
        if len(self.connections) > MOST_CONNECTIONS:
            idle = [each for each in self.connections if isinstance(each, _Protocol) and each is not self and each.idle]
            if idle:
                min(idle, key=lambda each: each._opened).transport.abort()  # noqa: SLF001  # its own kind
            else:
                transport.abort()

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's own annotation leaves None out
        return cycle is None or cycle.response_complete

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.idle:
            self._header_came()
        elif self._header_timer is None:
            self._await_header()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._header_came()

    def connection_lost(self, exc: Exception | None) -> None:
        self._header_came()
        super().connection_lost(exc)

    def _await_header(self) -> None:
        self._header_timer = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _header_came(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

"""The HTTP server: uvicorn, with limits for clients that are slow, silent or too many.

uvicorn bounds neither the time nor the number of connections. :class:`_Protocol` does: a client has ten seconds to send
a request's header of at most 16 KiB, and a minute to read the response. If there are too many connections, the one that
has been idle longest is closed.
"""

import asyncio
import errno
import re
import socket
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from exporter.errors import ListenError

_STOPS_WITHIN: Final = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may use of the server.

    Attributes:
        header_seconds: time for a client to send a request's header.
        header_bytes: maximum size of that header.
        response_seconds: time for a client to read a response that does not fit into the socket buffers.
        idle_seconds: time for which a connection stays open between two requests.
        connections: maximum number of open connections.
    """

    header_seconds: float = 10.0
    header_bytes: int = 16 * 1024
    response_seconds: float = 60.0
    idle_seconds: int = 300
    connections: int = 512


def bound_sockets(host: str | None, port: int) -> list[socket.socket]:
    """Listening sockets for *host* (None: every address, IPv4 and IPv6 on one socket).

    Raises:
        ListenError: the address is in use, unknown or not allowed.
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
        reason, _, _ = reason.partition(" (while attempting")  # the message has the address already
        suggestion = "choose another address with listen"
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            suggestion = f"is it running already? Otherwise {suggestion}"
        raise ListenError(f"cannot listen on {shown_address(host, port)}: {reason}; {suggestion}") from error
    # Accepted sockets inherit the option; asyncio sets it only on sockets made with an explicit protocol number.
    # Without it a response's body waits until the client acknowledges the header: 40 ms per scrape.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return [listener]


def shown_address(host: str | None, port: int) -> str:
    """The address as in a URL and in the setting: IPv6 in brackets, an empty host for every address."""
    return f"[{host}]:{port}" if host and ":" in host else f"{host or ''}:{port}"


@contextmanager
def serving(app: Starlette, sockets: list[socket.socket], limits: Limits = Limits()) -> Iterator[int]:
    """Serve in a separate thread while the context lasts; yields the port.

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
    """Stops on an event, handles no signals, and does not wake up while idle."""

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
        """Stop serving; callable from any thread."""
        self._loop.call_soon_threadsafe(self._stopping.set)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the daemon."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; sets :attr:`error` if that fails."""
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
        """Let running responses end within the time limit, then close the remaining connections."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # Let the event loop deliver connection_lost before it closes.


class _Protocol(H11Protocol):
    """Enforces :class:`Limits`."""

    limits: Limits
    _header_timer: asyncio.TimerHandle | None = None
    _response_timer: asyncio.TimerHandle | None = None
    _idle_since = 0.0

    @property
    def idle(self) -> bool:
        """Whether no response is in progress."""
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's annotation omits None
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the parent
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._await_header()
        if len(self.connections) > self.limits.connections:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        # uvicorn sets the Date header in its main loop, once a second; main_loop below waits instead of ticking.
        self.server_state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        if self.idle and self._header_too_long(data):
            self.send_400_response("The request's header is too long.")
            return
        super().data_received(data)
        if not self.idle:
            self._header_complete()
        elif self._header_timer is None:
            self._await_header()

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        super().on_response_complete()
        self._header_complete()
        if self.idle and self.conn.trailing_data[0]:
            self._await_header()  # The next request has partly arrived already.

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state is h11.IDLE:
            super().send_400_response(msg)
        else:  # A response is sent or in progress, so a second one cannot follow.
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._response_timer = self.loop.call_later(self.limits.response_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._response_read()

    def timeout_keep_alive_handler(self) -> None:
        self.transport.abort()  # close() would wait until the client reads the rest of a response

    def connection_lost(self, exc: Exception | None) -> None:
        self._header_complete()
        self._response_read()
        super().connection_lost(exc)

    def _make_room(self) -> None:
        """Close the longest idle connection or, if none is idle, the one with the longest-running response."""
        others = (each for each in self.connections if isinstance(each, _Protocol) and each is not self)
        oldest = min(others, key=lambda each: (not each.idle, each._idle_since))  # noqa: SLF001  # same class
        self.connections.discard(oldest)  # Immediately, so that the next new connection chooses another one.
        oldest.transport.abort()

    def _header_too_long(self, data: bytes) -> bool:
        """Whether a header exceeds its limit; h11 checks only headers that are still incomplete."""
        begun: bytes = self.conn.trailing_data[0]
        if len(begun) + len(data) <= self.limits.header_bytes:
            return False
        return _HEADER_END.search((begun + data)[: self.limits.header_bytes]) is None

    def _await_header(self) -> None:
        self._header_timer = self.loop.call_later(self.limits.header_seconds, self.transport.abort)

    def _header_complete(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _response_read(self) -> None:
        if self._response_timer is not None:
            self._response_timer.cancel()
            self._response_timer = None


_HEADER_END: Final = re.compile(rb"\n\r?\n")

"""The HTTP server: uvicorn, with limits for clients that are slow, silent or too many.

uvicorn bounds neither the time nor the number of connections. :class:`_Protocol` does: a client has ten seconds to send
a request's header of at most 16 KiB, and a minute to read the response. If there are too many connections, the one that
has been idle longest is closed. :class:`_Acceptor` accepts connections in place of asyncio, for three reasons: a new
certificate applies to the next connection, a TLS handshake counts as a connection that is idle, and running out of file
descriptors is one event in the log instead of a thousand tracebacks.
"""

import asyncio
import errno
import re
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from typing import Any, Final, NamedTuple

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from exporter.config.web_config import WebConfig
from exporter.errors import ListenError
from exporter.logs import Log
from exporter.web.access import AccessControl, certificate_names

_STOPS_WITHIN: Final = 1
_BACKLOG: Final = 1024
_ACCEPTED_AT_ONCE: Final = 8
"""Connections accepted before the event loop's other work: their predecessors are closed meanwhile."""
_ACCEPT_PAUSE: Final = 0.1
"""Seconds until the next attempt when file descriptors or memory have run out."""
_PLAIN_HTTP_REFUSED: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    b"Client sent an HTTP request to an HTTPS server.\n"
)
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may use of the server.

    Attributes:
        header_seconds: time for a client to send a request's header.
        header_bytes: maximum size of that header.
        response_seconds: time for a client to read a response that does not fit into the socket buffers.
        idle_seconds: time for which a connection stays open between two requests.
        connections: maximum number of open connections.
        tls_connections: maximum number of those that have begun TLS, which reserves 256 KiB for each.
    """

    header_seconds: float = 10.0
    header_bytes: int = 16 * 1024
    response_seconds: float = 60.0
    idle_seconds: int = 300
    connections: int = 512
    tls_connections: int = 128


def bound_sockets(host: str | None, port: int) -> list[socket.socket]:
    """Listening sockets for *host* (None: every address, IPv4 and IPv6 on one socket).

    Raises:
        ListenError: the address is in use, unknown or not allowed.
    """
    try:
        if host is None:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            listener = socket.create_server(("", port), family=family, dualstack_ipv6=both, backlog=_BACKLOG)
        else:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = socket.create_server(address, family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        reason, _, _ = reason.partition(" (while attempting")  # the message has the address already
        suggestion = "choose another address with --listen"
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
def serving(
    app: Starlette,
    sockets: list[socket.socket],
    limits: Limits = Limits(),
    *,
    config: Callable[[], WebConfig] = WebConfig,
    log: Log | None = None,
) -> Iterator[int]:
    """Serve in a separate thread while the context lasts; yields the port.

    Args:
        app: answers the requests that are let in.
        sockets: listening sockets.
        limits: what one client may use.
        config: returns TLS and authentication as they are now; each connection and request asks.
        log: receives what goes wrong between requests.

    Raises:
        ListenError: the server cannot start.
    """
    server = _Server(app, limits, config, log)
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

    def __init__(self, app: Starlette, limits: Limits, config: Callable[[], WebConfig], log: Log | None = None) -> None:
        self.ready = threading.Event()
        self.error: OSError | None = None
        self._access = AccessControl(app, config)
        self._limits = limits
        self._current = config
        self._log = log
        super().__init__(
            uvicorn.Config(
                self._access,
                http=type("_LimitedProtocol", (_Protocol,), {"limits": limits, "current": staticmethod(config)}),
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
        asyncio.get_running_loop().set_exception_handler(self._loop_error)
        self._acceptor = _Acceptor(self._protocol, self.server_state, self._limits, self._current, self._log)
        self.servers = []
        try:
            for listener in sockets or ():
                self._acceptor.listen(listener)
        except OSError as error:
            self.error = error
            self.should_exit = True
            self.ready.set()
        else:
            self.started = True

    def _protocol(self) -> "_Protocol":
        protocol: _Protocol = self.config.http_protocol_class(  # type: ignore[call-arg,assignment]  # it is our own
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    def _loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what asyncio would print as a traceback."""
        if self._log is not None:
            self._log.error("http.connection_failed", reason=context["message"], exc_info=context.get("exception"))

    async def main_loop(self) -> None:
        """Wait for :meth:`stop`."""
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.ready.set()
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running responses end within the time limit, then close the remaining connections."""
        self._acceptor.close()
        self._access.close()
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # Let the event loop deliver connection_lost before it closes.


class _Silent(NamedTuple):
    """Since when a connection has been silent (the event loop's clock), and the timer that ends it."""

    since: float
    timer: asyncio.TimerHandle


class _Acceptor:
    """Accepts connections, and keeps their number within the limit.

    A connection is *silent* until its first byte, then in a TLS handshake, then uvicorn's. If there are too many, the
    one that has been silent or idle longest is closed. Handshakes and requests in progress go last.
    """

    def __init__(
        self,
        protocol: "Callable[[], _Protocol]",
        state: ServerState,
        limits: Limits,
        config: Callable[[], WebConfig],
        log: Log | None,
    ) -> None:
        self._new_protocol = protocol
        self._connections = state.connections
        self._limits = limits
        self._config = config
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._listeners: list[socket.socket] = []
        self._silent: dict[socket.socket, _Silent] = {}
        self._connecting: dict[asyncio.Task[None], None] = {}
        self._idle: dict[_Protocol, None] = {}
        """All three with the oldest first."""
        self._full = False

    def listen(self, listener: socket.socket) -> None:
        """Accept connections of *listener* until :meth:`close`.

        Raises:
            OSError: it does not listen.
        """
        listener.setblocking(False)  # noqa: FBT003  # the standard library's signature
        listener.listen(_BACKLOG)
        self._listeners.append(listener)
        self._loop.add_reader(listener.fileno(), self._accept, listener)

    def close(self) -> None:
        """Accept no more, and abandon connections that are not uvicorn's yet."""
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
        self._listeners.clear()
        for client in list(self._silent):
            self._hang_up(client)
        for task in list(self._connecting):
            task.cancel()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                client, _address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._pause(listener, error)
                    return
                continue  # the client has left already
            self._full = False
            self._admit(client)

    def _admit(self, client: socket.socket) -> None:
        client.setblocking(False)  # noqa: FBT003  # the standard library's signature
        if len(self._silent) + len(self._connecting) + len(self._connections) >= self._limits.connections:
            self._make_room()
        now = self._loop.time()
        timer = self._loop.call_at(now + self._limits.header_seconds, self._hang_up, client)
        self._silent[client] = _Silent(now, timer)
        self._loop.add_reader(client, self._begin, client)

    def _begin(self, client: socket.socket) -> None:
        """The first byte has come, or the client has left."""
        silent = self._leave_silence(client)
        first = _first_byte(client)
        if not first:
            client.close()
            return
        if self._config().tls is not None and first.isupper():  # no TLS record begins with a letter, every method does
            self._refuse_plain_http(client)
            return
        begun = len(self._connecting) + len(self._connections)
        if self._config().tls is not None and begun >= self._limits.tls_connections:
            self._end_one()
        task = self._loop.create_task(self._connect(client, silent.since))
        self._connecting[task] = None
        task.add_done_callback(partial(self._connected, client))

    def _refuse_plain_http(self, client: socket.socket) -> None:
        """Answer as servers written in Go do: a closed connection alone leaves the client to guess."""
        with closing(client), suppress(OSError):
            client.recv(self._limits.header_bytes)  # what is unread when it is closed would discard the answer
            client.send(_PLAIN_HTTP_REFUSED)
            client.shutdown(socket.SHUT_WR)
        if self._log is not None:
            self._log.debug("http.handshake_failed", reason="HTTP request to the HTTPS port")

    def _hang_up(self, client: socket.socket) -> None:
        self._leave_silence(client)
        client.close()

    def _leave_silence(self, client: socket.socket) -> "_Silent":
        silent = self._silent.pop(client)
        silent.timer.cancel()
        self._loop.remove_reader(client)
        return silent

    async def _connect(self, client: socket.socket, accepted_at: float) -> None:
        tls = self._config().tls
        protocol = self._new_protocol()
        protocol.accepted_at = accepted_at
        protocol.idle_connections = self._idle
        left = max(0.001, accepted_at + self._limits.header_seconds - self._loop.time())
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                client,
                ssl=tls,
                ssl_handshake_timeout=left if tls else None,
                ssl_shutdown_timeout=_STOPS_WITHIN if tls else None,
            )
        except asyncio.CancelledError:
            if protocol in self._connections:  # The handshake has just ended, and asyncio still reads from the socket:
                self._abort(protocol)  # closed here, its descriptor's number would soon be that of another connection.
            else:
                client.close()
        except OSError as error:  # also an ssl.SSLError
            client.close()
            if self._log is not None:
                self._log.debug("http.handshake_failed", reason=str(error) or type(error).__name__)

    def _connected(self, client: socket.socket, task: asyncio.Task[None]) -> None:
        self._connecting.pop(task, None)
        if task.cancelled():  # it never began
            client.close()

    def _make_room(self) -> None:
        """Close the connection that has been silent or idle longest; if none is, the one in progress longest."""
        silent, idle = next(iter(self._silent), None), next(iter(self._idle), None)
        if silent is not None and (idle is None or self._silent[silent].since <= idle.idle_since):
            self._hang_up(silent)
        else:
            self._end_one()

    def _end_one(self) -> None:
        """Close the connection that has been idle longest; if none is, the one in progress longest."""
        idle = next(iter(self._idle), None)
        if idle is None and self._connecting:
            task = next(iter(self._connecting))
            del self._connecting[task]
            task.cancel()
        else:
            busy = (each for each in self._connections if isinstance(each, _Protocol))
            self._abort(idle or min(busy, key=lambda each: each.idle_since))

    def _abort(self, connection: "_Protocol") -> None:
        self._connections.discard(connection)  # Immediately, so that the next new connection chooses another one.
        self._idle.pop(connection, None)
        connection.transport.abort()

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        """Accept nothing for a moment, and log the first of several such moments."""
        if not self._full and self._log is not None:
            self._log.error(
                "http.accept_failed", reason=error.strerror, connections=len(self._connections) + len(self._silent)
            )
        self._full = True
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(_ACCEPT_PAUSE, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)


def _first_byte(client: socket.socket) -> bytes:
    """The byte that can be read next, which stays there; empty if the client has left."""
    try:
        return client.recv(1, socket.MSG_PEEK)
    except OSError:
        return b""


class _Protocol(H11Protocol):
    """Enforces :class:`Limits`."""

    limits: Limits
    current: Callable[[], WebConfig]
    idle_connections: "dict[_Protocol, None]"
    accepted_at = 0.0
    idle_since = 0.0
    _header_timer: asyncio.TimerHandle | None = None
    _response_timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no response is in progress."""
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's annotation omits None
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the parent
        super().connection_made(transport)
        self.idle_since = self.accepted_at
        self._await_header(self.accepted_at)
        if (tls := transport.get_extra_info("ssl_object")) is None:
            self.idle_connections[self] = None
        else:  # the handshake counts as the beginning of a request
            self.app = _with_certificate(self.app, certificate_names(tls.getpeercert()))

    def data_received(self, data: bytes) -> None:
        # uvicorn sets the Date header in its main loop, once a second; main_loop below waits instead of ticking.
        self.server_state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        if self.idle and self._header_too_long(data):
            self.send_400_response("The request's header is too long.")
            return
        super().data_received(data)
        if not self.idle:
            self.idle_connections.pop(self, None)
            self._header_complete()
        elif self._header_timer is None:
            self._await_header()

    def on_response_complete(self) -> None:
        self.idle_since = self.loop.time()
        super().on_response_complete()
        self._header_complete()
        self.idle_connections.pop(self, None)
        if self.idle and not self.transport.is_closing():
            self.idle_connections[self] = None
        if self.idle and self.conn.trailing_data[0]:
            self._await_header()  # The next request has partly arrived already.

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state is h11.IDLE:
            self._send_400_response(msg)
        else:  # A response is sent or in progress, so a second one cannot follow.
            self.transport.abort()

    def _send_400_response(self, msg: str) -> None:
        """Send what uvicorn sends, with the headers of every other one."""
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"connection", b"close"),
            *self.server_state.default_headers,
            *self.current().headers,
        ]
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (response, h11.Data(data=msg.encode("ascii")), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

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
        self.idle_connections.pop(self, None)
        super().connection_lost(exc)

    def _header_too_long(self, data: bytes) -> bool:
        """Whether a header exceeds its limit; h11 checks only headers that are still incomplete."""
        begun: bytes = self.conn.trailing_data[0]
        if len(begun) + len(data) <= self.limits.header_bytes:
            return False
        return _HEADER_END.search((begun + data)[: self.limits.header_bytes]) is None

    def _await_header(self, since: float | None = None) -> None:
        begun = self.loop.time() if since is None else since
        self._header_timer = self.loop.call_at(begun + self.limits.header_seconds, self.transport.abort)

    def _header_complete(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _response_read(self) -> None:
        if self._response_timer is not None:
            self._response_timer.cancel()
            self._response_timer = None


_HEADER_END: Final = re.compile(rb"\n\r?\n")


def _with_certificate(app: ASGIApp, names: frozenset[str] | None) -> ASGIApp:
    """*app*, with the names in the client's certificate in the scope of each request."""

    async def with_names(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "client_certificate_names": names}, receive, send)

    return with_names

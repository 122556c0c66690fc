"""Servers that misbehave: a function per connection sends arbitrary bytes at arbitrary times."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.waiting import PATIENCE


@dataclass(frozen=True, slots=True)
class Connection:
    """The server's side of a connection."""

    raw: socket.socket
    heads: list[bytes]

    def request(self) -> bytes:
        """Return the head of the next request. Raises ConnectionError if the client has left."""
        head = b""
        while b"\r\n\r\n" not in head:
            more = self.raw.recv(1)
            if not more:
                raise ConnectionError("the client has left")
            head += more
        self.heads.append(head)
        return head

    def send(self, data: bytes) -> None:
        """Send *data*."""
        self.raw.sendall(data)

    def wait_until_left(self) -> None:
        """Send nothing until the client leaves."""
        while self.raw.recv(65536):
            pass


Script = Callable[[Connection], None]


@dataclass(frozen=True, slots=True)
class RawServer:
    """A running server."""

    port: int
    heads: list[bytes] = field(default_factory=list)
    """The heads of all requests, in order of arrival."""

    @property
    def url(self) -> str:
        """URL of its API, without TLS."""
        return f"http://127.0.0.1:{self.port}/v2"


def reply(status: int = 200, body: bytes = b"{}", headers: Mapping[str, str] | None = None) -> bytes:
    """Return a complete HTTP response."""
    head = {"content-length": str(len(body)), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"HTTP/1.1 {status} Reason\r\n{lines}\r\n".encode() + body


def answering(*replies: bytes) -> Script:
    """Send the next of *replies* for each request, across all connections. The last one is repeated."""
    left = list(replies)

    def script(connection: Connection) -> None:
        while True:
            connection.request()
            connection.send(left.pop(0) if len(left) > 1 else left[0])

    return script


@contextmanager
def serving(script: Script, tls: ssl.SSLContext | None = None) -> Iterator[RawServer]:
    """Serve on 127.0.0.1 until the context ends. *script* runs in one thread per connection."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=16)
    server = RawServer(listener.getsockname()[1])
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def converse(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            raw = tls.wrap_socket(connection, server_side=True) if tls else connection
            with raw:
                script(Connection(raw, server.heads))
        connection.close()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                connection.settimeout(PATIENCE)
                connections.append(connection)
                threads.append(threading.Thread(target=converse, args=(connection,), daemon=True))
                threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
        listener.close()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

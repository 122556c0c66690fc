"""Far sides of the wire that do what no decent server does: each connection is a function that talks as it likes."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

PATIENCE = 20.0
"""Seconds after which a peer gives up, so that no test hangs for ever. No claim rests on it."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One connection, from the far side."""

    connection: socket.socket
    heads: list[bytes]

    def request(self) -> bytes:
        """The head of the next request; raises ConnectionError when the client has left."""
        head = b""
        while b"\r\n\r\n" not in head:
            more = self.connection.recv(1)
            if not more:
                raise ConnectionError("the client has left")
            head += more
        self.heads.append(head)
        return head

    def send(self, data: bytes) -> None:
        """Send *data*."""
        self.connection.sendall(data)

    def wait_until_left(self) -> None:
        """Say nothing until the client leaves."""
        while self.connection.recv(65536):
            pass


Talk = Callable[[Peer], None]


@dataclass(frozen=True, slots=True)
class Far:
    """A server under way."""

    port: int
    heads: list[bytes] = field(default_factory=list)
    """The heads of all requests, in their order."""

    @property
    def url(self) -> str:
        """Of its API, without TLS."""
        return f"http://127.0.0.1:{self.port}/v2"


def reply(status: int = 200, body: bytes = b"{}", headers: Mapping[str, str] | None = None) -> bytes:
    """A whole answer."""
    head = {"content-length": str(len(body)), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode() + body


def answering(*replies: bytes) -> Talk:
    """Each request gets the next of *replies*, over all connections; the last one for ever."""
    left = list(replies)

    def talk(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(left.pop(0) if len(left) > 1 else left[0])

    return talk


@contextmanager
def serving(talk: Talk, tls: ssl.SSLContext | None = None) -> Iterator[Far]:
    """A server on 127.0.0.1 while the context lasts; every connection is a thread in which *talk* runs."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=16)
    far = Far(listener.getsockname()[1])
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def converse(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            talking = tls.wrap_socket(connection, server_side=True) if tls else connection
            with talking:
                talk(Peer(talking, far.heads))
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
        yield far
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
        listener.close()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

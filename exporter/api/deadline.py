"""Connections with one deadline per request, from the name lookup to the last byte.

The timeouts of HTTP clients apply to single operations: a server that keeps sending single bytes can hold a request
open without limit. Here each operation gets the time left until the request's deadline.
"""

import queue
import socket
import ssl
import threading
import typing
from collections.abc import Callable, Iterable

import httpcore

from exporter.clock import SYSTEM_CLOCK, Clock

Lookup = Callable[[str, int], list[str]]
"""Resolves host and port to addresses; raises OSError for an unknown name."""
SocketOptions = Iterable[tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]]


class Deadline:
    """The deadline of the current request. Not thread-safe."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SYSTEM_CLOCK
        self._ends = 0.0

    def start(self, seconds: float) -> None:
        """Begin a request that may take *seconds* in total."""
        self._ends = self._clock.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds for which the system may still block; zero or less after the deadline."""
        return self._clock.real_seconds(self._ends - self._clock.monotonic())


def lookup(host: str, port: int) -> list[str]:
    """Resolve *host* with the system's resolver, which may block.

    Raises:
        OSError: the name is unknown.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(str(error)) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class NameUnknown(httpcore.ConnectError):
    """The name of *host* cannot be resolved, for this *reason*."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(f"{host}: {reason}")
        self.reason = reason


class TlsFailed(httpcore.ConnectError):
    """The TLS handshake with *server*, the platform's host or the proxy's, failed."""

    def __init__(self, message: str, server: str) -> None:
        super().__init__(message)
        self.server = server


class DeadlineBackend(httpcore.NetworkBackend):
    """Opens TCP connections that keep to a :class:`Deadline`."""

    def __init__(self, deadline: Deadline, lookup: Lookup = lookup) -> None:
        self._deadline = deadline
        self._names = _Names(lookup)
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002  # the deadline replaces it
        local_address: str | None = None,
        socket_options: SocketOptions | None = None,
    ) -> httpcore.NetworkStream:
        """Resolve the name and connect to the first address that accepts.

        Raises:
            httpcore.ConnectError: the name is unknown, or no address accepts.
            httpcore.ConnectTimeout: the deadline has passed.
        """
        addresses = self._names.resolved(host, port, self._deadline.left())
        failure: Exception = httpcore.ConnectError(f"no address for {host}")
        for position, address in enumerate(addresses):
            left = self._deadline.left()
            if left <= 0:
                raise httpcore.ConnectTimeout("the request's deadline has passed") from failure
            try:
                stream = self._network.connect_tcp(
                    address, port, left / (len(addresses) - position), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _DeadlineStream(stream, self._deadline)
        raise failure


class _DeadlineStream(httpcore.NetworkStream):
    """A connection whose operations all end at the deadline of the current request."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002  # see connect_tcp
        left = self._deadline.left()
        if left <= 0:
            raise httpcore.ReadTimeout("the request's deadline has passed")
        return self._stream.read(max_bytes, left)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002  # see connect_tcp
        left = self._deadline.left()
        if left <= 0:
            raise httpcore.WriteTimeout("the request's deadline has passed")
        self._stream.write(buffer, left)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002  # see connect_tcp
    ) -> httpcore.NetworkStream:
        left = self._deadline.left()
        if left <= 0:
            self.close()  # httpcore expects the stream to close itself.
            raise httpcore.ConnectTimeout("the request's deadline has passed")
        try:
            return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)
        except httpcore.ConnectError as error:
            raise TlsFailed(str(error), server_hostname or "") from error

    def get_extra_info(self, info: str) -> typing.Any:  # noqa: ANN401  # httpcore's signature
        return self._stream.get_extra_info(info)


class _Names:
    """Name lookups with a time limit.

    The system's resolver has none, so each lookup runs in a thread and may outlive its request. A later request for the
    same name waits for that thread again, so that a resolver that hangs costs only one thread.
    """

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._asked: tuple[str, int] | None = None
        self._answer: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def resolved(self, host: str, port: int, seconds: float) -> list[str]:
        """Resolve *host*.

        Raises:
            NameUnknown: the name is unknown.
            httpcore.ConnectTimeout: the resolver did not respond within *seconds*.
        """
        if self._asked != (host, port):
            answer: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()
            threading.Thread(target=self._ask, args=(host, port, answer), name="name-lookup", daemon=True).start()
            self._asked, self._answer = (host, port), answer
        try:
            found = self._answer.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise httpcore.ConnectTimeout(f"the name lookup of {host} took too long") from None
        self._asked = None
        if isinstance(found, OSError):
            raise NameUnknown(host, found.strerror or str(found)) from found
        return found

    def _ask(self, host: str, port: int, answer: "queue.SimpleQueue[list[str] | OSError]") -> None:
        try:
            answer.put(self._lookup(host, port))
        except Exception as error:  # noqa: BLE001  # The waiting request must get a result in any case.
            answer.put(error if isinstance(error, OSError) else OSError(str(error)))

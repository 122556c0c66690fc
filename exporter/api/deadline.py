"""Connections that end when the request's time is over, whatever the other side does.

The timeouts of HTTP clients are per operation: a server that sends a byte now and then holds a request for ever. Here
every operation gets what is left of one deadline, from the look-up of the name to the last byte.
"""

import queue
import socket
import ssl
import threading
import typing
from collections.abc import Callable, Iterable

import httpcore

from exporter.clock import Clock, RealClock

LookUp = Callable[[str, int], list[str]]
"""Host and port to addresses; raises OSError for a name that is unknown."""
SocketOptions = Iterable[tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]]


class Deadline:
    """The end of the request under way; one thread sets it and asks in that same thread."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or RealClock(threading.Event())
        self._ends = 0.0

    def start(self, seconds: float) -> None:
        """A request begins that may take *seconds* as a whole."""
        self._ends = self._clock.monotonic() + seconds

    def left(self) -> float:
        """Seconds for which the system may still block; zero or less when the time is over."""
        return self._clock.real_seconds(self._ends - self._clock.monotonic())


def look_up(host: str, port: int) -> list[str]:
    """The addresses of *host* as the system knows them, which may take its time.

    Raises:
        OSError: the name is unknown.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(str(error)) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class DeadlineBackend(httpcore.NetworkBackend):
    """TCP connections under a :class:`Deadline`."""

    def __init__(self, deadline: Deadline, look_up: LookUp = look_up) -> None:
        self._deadline = deadline
        self._names = _Names(look_up)
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002  # the deadline stands in for it
        local_address: str | None = None,
        socket_options: SocketOptions | None = None,
    ) -> httpcore.NetworkStream:
        """Look the name up and connect to the first of its addresses that answers.

        Raises:
            httpcore.ConnectError: the name is unknown, or no address accepts.
            httpcore.ConnectTimeout: the time is over.
        """
        addresses = self._names.resolved(host, port, self._deadline.left())
        failure: Exception = httpcore.ConnectError(f"no address for {host}")
        for position, address in enumerate(addresses):
            left = self._deadline.left()
            if left <= 0:
                raise httpcore.ConnectTimeout("the request's time is over") from failure
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
    """A connection whose every operation ends at the deadline of the request under way."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002  # see connect_tcp
        left = self._deadline.left()
        if left <= 0:
            raise httpcore.ReadTimeout("the request's time is over")
        return self._stream.read(max_bytes, left)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002  # see connect_tcp
        left = self._deadline.left()
        if left <= 0:
            raise httpcore.WriteTimeout("the request's time is over")
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
            self.close()  # httpcore leaves that to the stream
            raise httpcore.ConnectTimeout("the request's time is over")
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> typing.Any:  # noqa: ANN401  # httpcore's signature
        return self._stream.get_extra_info(info)


class _Names:
    """Look-ups of names. The system's cannot be given a time limit, so each runs beside and may be left behind.

    One that was left behind and still runs is waited for again, so that a resolver that hangs costs one thread.
    """

    def __init__(self, look_up: LookUp) -> None:
        self._look_up = look_up
        self._asked: tuple[str, int] | None = None
        self._answer: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def resolved(self, host: str, port: int, seconds: float) -> list[str]:
        """The addresses of *host*.

        Raises:
            httpcore.ConnectError: the name is unknown.
            httpcore.ConnectTimeout: no answer within *seconds*.
        """
        if self._asked != (host, port):
            answer: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()
            threading.Thread(target=self._ask, args=(host, port, answer), name="name-look-up", daemon=True).start()
            self._asked, self._answer = (host, port), answer
        try:
            found = self._answer.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise httpcore.ConnectTimeout(f"the look-up of {host} took too long") from None
        self._asked = None
        if isinstance(found, OSError):
            raise httpcore.ConnectError(f"{host}: {found.strerror or found}") from found
        return found

    def _ask(self, host: str, port: int, answer: "queue.SimpleQueue[list[str] | OSError]") -> None:
        try:
            answer.put(self._look_up(host, port))
        except Exception as error:  # noqa: BLE001  # somebody waits for an answer, whatever it is
            answer.put(error if isinstance(error, OSError) else OSError(str(error)))

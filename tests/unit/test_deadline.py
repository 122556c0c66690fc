"""A request ends when its time is over, whatever the other side does; and of a name every address is tried."""

import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import httpcore
import pytest

from exporter.api.deadline import Deadline, DeadlineBackend, Lookup, lookup
from tests.raw_server import Connection, Script, answering, reply, serving
from tests.waiting import PATIENCE

SHORT = 0.15
"""Seconds that a request may take where the other side never lets it end."""
LONG = PATIENCE


@contextmanager
def connected(deadline: Deadline, lookup: Lookup = lookup) -> Iterator[httpcore.ConnectionPool]:
    with httpcore.ConnectionPool(network_backend=DeadlineBackend(deadline, lookup)) as pool:
        yield pool


def fetched(port: int, seconds: float = LONG, host: str = "127.0.0.1", lookup: Lookup = lookup) -> bytes:
    deadline = Deadline()
    deadline.start(seconds)
    with connected(deadline, lookup) as pool:
        return pool.request("GET", f"http://{host}:{port}/").content


class Counted(Deadline):
    """A deadline whose time is over when it was looked at so often."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = itertools.chain(itertools.repeat(LONG, looks), itertools.repeat(0.0))

    def left(self) -> float:
        return next(self._looks)


# ---- the deadline ----


def says_nothing(connection: Connection) -> None:
    connection.request()
    connection.wait_until_left()


def drips_its_head(connection: Connection) -> None:
    connection.request()
    connection.send(b"HTTP/1.1 200 OK\r\n")
    for number in itertools.count():
        connection.send(f"x-{number}: y\r\n".encode())
        threading.Event().wait(SHORT / 5)


def drips_its_body(connection: Connection) -> None:
    connection.request()
    connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.send(b" ")
        threading.Event().wait(SHORT / 5)


def goes_on_without_an_answer(connection: Connection) -> None:
    connection.request()
    while True:
        connection.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        threading.Event().wait(SHORT / 5)


@pytest.mark.real_time
@pytest.mark.parametrize("script", [says_nothing, drips_its_head, drips_its_body, goes_on_without_an_answer])
def test_deadline_ends_a_request_to_a_slow_server(script: Script) -> None:
    with serving(script) as server, pytest.raises(httpcore.TimeoutException):
        fetched(server.port, SHORT)


@pytest.mark.real_time
def test_deadline_ends_a_request_to_a_server_that_does_not_read() -> None:
    def reads_nothing(_connection: Connection) -> None:
        left.wait(LONG)

    left = threading.Event()
    deadline = Deadline()
    deadline.start(LONG)
    with serving(reads_nothing) as server:
        with closing(DeadlineBackend(deadline).connect_tcp("127.0.0.1", server.port)) as stream:
            deadline.start(SHORT)
            with pytest.raises(httpcore.WriteTimeout):
                stream.write(b"x" * 2**26)
        left.set()


@pytest.mark.real_time
def test_deadline_ends_a_tls_handshake_without_response() -> None:
    deadline = Deadline()
    with serving(Connection.wait_until_left) as server, connected(deadline) as pool:
        deadline.start(SHORT)
        with pytest.raises(httpcore.ConnectTimeout):
            pool.request("GET", f"https://127.0.0.1:{server.port}/")


def test_each_request_has_a_time_of_its_own_on_one_connection() -> None:
    deadline = Deadline()
    with serving(answering(reply(body=b"one"), reply(body=b"two"))) as server, connected(deadline) as pool:
        deadline.start(LONG)
        assert pool.request("GET", f"http://127.0.0.1:{server.port}/").content == b"one"
        assert deadline.left() > 0
        deadline.start(0.0)
        with pytest.raises(httpcore.TimeoutException):
            pool.request("GET", f"http://127.0.0.1:{server.port}/")
        deadline.start(LONG)
        assert pool.request("GET", f"http://127.0.0.1:{server.port}/").content == b"two"


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (lambda stream: stream.read(1), httpcore.ReadTimeout),
        (lambda stream: stream.write(b"x"), httpcore.WriteTimeout),
        (lambda stream: stream.start_tls(ssl.create_default_context()), httpcore.ConnectTimeout),
    ],
    ids=["read", "write", "start_tls"],
)
def test_connection_does_nothing_after_the_deadline(
    operation: Callable[[httpcore.NetworkStream], object], error: type[Exception]
) -> None:
    deadline = Deadline()
    deadline.start(LONG)
    with serving(Connection.wait_until_left) as server:
        stream = DeadlineBackend(deadline).connect_tcp("127.0.0.1", server.port)
        with closing(stream):
            deadline.start(0.0)
            with pytest.raises(error):
                operation(stream)


# ---- names ----


@pytest.mark.real_time
def test_deadline_ends_hanging_lookups_which_share_one_thread() -> None:
    def hangs(host: str, port: int) -> list[str]:
        asked.append((host, port))
        answered.wait(LONG)
        return ["127.0.0.1"]

    asked: list[tuple[str, int]] = []
    answered = threading.Event()
    deadline = Deadline()
    with serving(answering(reply(body=b"there"))) as server, connected(deadline, hangs) as pool:
        url = f"http://platform.example:{server.port}/"
        for _ in range(3):
            deadline.start(0.02)
            with pytest.raises(httpcore.ConnectTimeout, match=r"the name lookup of platform\.example took too long"):
                pool.request("GET", url)
        answered.set()
        deadline.start(LONG)

        assert pool.request("GET", url).content == b"there"
        assert asked == [("platform.example", server.port)]


@pytest.mark.real_time
def test_another_name_is_not_held_up_by_one_whose_lookup_hangs() -> None:
    def hangs_for_one(host: str, _port: int) -> list[str]:
        if host == "one.example":
            answered.wait(LONG)
        return ["127.0.0.1"]

    answered = threading.Event()
    deadline = Deadline()
    with serving(answering(reply(body=b"there"))) as server, connected(deadline, hangs_for_one) as pool:
        deadline.start(0.02)
        with pytest.raises(httpcore.ConnectTimeout):
            pool.request("GET", f"http://one.example:{server.port}/")
        deadline.start(LONG)

        assert pool.request("GET", f"http://other.example:{server.port}/").content == b"there"
        answered.set()


def test_each_new_connection_looks_the_name_up_again() -> None:
    def finds(_host: str, _port: int) -> list[str]:
        return addresses.pop(0)

    addresses = [["127.0.0.2"], ["127.0.0.1"]]
    with serving(answering(reply(body=b"there"))) as server:
        with pytest.raises(httpcore.ConnectError):
            fetched(server.port, host="platform.example", lookup=finds)
        assert fetched(server.port, host="platform.example", lookup=finds) == b"there"


def test_unknown_name_is_a_connect_error_with_the_systems_message() -> None:
    def unknown(_host: str, _port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(httpcore.ConnectError, match=r"platform\.example: Name or service not known"):
        fetched(80, host="platform.example", lookup=unknown)


def test_a_name_that_cannot_be_one_is_a_connect_error() -> None:
    with pytest.raises(httpcore.ConnectError, match="label"):
        fetched(80, host="x" * 64 + ".example")


def test_the_system_knows_localhost_once_per_address() -> None:
    found = lookup("localhost", 80)

    assert set(found) & {"127.0.0.1", "::1"}
    assert len(found) == len(set(found))


# ---- addresses ----


def test_the_next_address_is_tried_when_one_refuses() -> None:
    with serving(answering(reply(body=b"there"))) as server:
        assert fetched(server.port, host="a.example", lookup=lambda *_: ["127.0.0.2", "127.0.0.1"]) == b"there"


@pytest.mark.parametrize("addresses", [[], ["127.0.0.2", "127.0.0.3"]])
def test_no_address_that_accepts_is_a_connect_error(addresses: list[str]) -> None:
    with serving(says_nothing) as server, pytest.raises(httpcore.ConnectError):
        fetched(server.port, host="a.example", lookup=lambda *_: addresses)


def test_deadline_before_the_last_address_is_a_timeout() -> None:
    backend = DeadlineBackend(Counted(2), lambda *_: ["127.0.0.2", "127.0.0.1"])

    with (
        serving(says_nothing) as server,
        pytest.raises(httpcore.ConnectTimeout, match="the request's deadline has passed"),
    ):
        backend.connect_tcp("a.example", server.port)

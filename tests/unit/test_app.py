"""The HTTP side over real sockets: what well-behaved clients get, and what the others cannot do."""

import contextlib
import gzip
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path

import pytest

from exporter.errors import ListenError
from exporter.metrics.exposition import Format
from exporter.web.app import application
from exporter.web.server import Limits, bound_sockets, serving, shown_address
from tests.background import BackgroundTask
from tests.ledgers import ledger_of
from tests.snapshots import exposition, snapshot
from tests.waiting import PATIENCE, eventually


@dataclass
class Served:
    """An application that is served, and what it was told to say."""

    port: int = 0
    unhealthy: str = ""
    unready: str = ""
    crashes: list[Exception] = field(default_factory=list)
    page: Callable[[bool], str] = lambda refreshing: f"<!doctype html><title>status {refreshing}</title>"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)

    def connect_narrow(self) -> socket.socket:
        """A connection whose client holds little that it has not read."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", self.port))
        return client

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response, response.read()

    def answers(self, path: str) -> bool:
        """Whether it is answered; with short limits even a decent client may be too slow on a busy machine."""
        with contextlib.suppress(OSError, HTTPException):
            return self.ask(path)[0].status == 200
        return False


@contextlib.contextmanager
def served(
    limits: Limits | None = None, *, accounts: int = 1, sockets: list[socket.socket] | None = None
) -> Iterator[Served]:
    """The real application on a free port."""
    told = Served()
    ledger = ledger_of()
    app = application(
        exposition(*(snapshot(ledger, account=f"account {number}") for number in range(accounts))),
        unhealthy=lambda: told.unhealthy,
        unready=lambda: told.unready,
        status_page=lambda refreshing: told.page(refreshing),  # noqa: PLW0108  # looked up at each request: tests put another one there
        crashed=told.crashes.append,
    )
    with serving(app, sockets or bound_sockets("127.0.0.1", 0), limits or Limits()) as port:
        told.port = port
        yield told


@pytest.fixture(scope="module")
def always() -> Iterator[Served]:
    with served() as told:
        yield told


@pytest.fixture
def here(always: Served) -> Served:
    fresh = Served()
    always.unhealthy, always.unready, always.page = "", "", fresh.page
    always.crashes.clear()
    return always


def exchange(client: socket.socket, request: bytes) -> bytes:
    """Everything that comes until the server hangs up."""
    client.sendall(request)
    return until_closed(client)


def until_closed(client: socket.socket) -> bytes:
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            received += chunk
    return bytes(received)


def answer(client: socket.socket, request: bytes = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n") -> int:
    """The status of one answer on a connection that stays open."""
    client.sendall(request)
    response = HTTPResponse(client)
    response.begin()
    response.read()
    return response.status


# ---- paths ----


def test_metrics_come_as_text_unless_openmetrics_is_asked_for(here: Served) -> None:
    text, page = here.ask("/metrics")
    openmetrics, other = here.ask("/metrics", Accept="application/openmetrics-text;version=1.0.0,*/*;q=0.1")

    assert (text.status, text.headers["content-type"]) == (200, Format.TEXT.value)
    assert (openmetrics.status, openmetrics.headers["content-type"]) == (200, Format.OPENMETRICS.value)
    assert b"# TYPE sbg_jobs gauge\n" in page
    assert other.endswith(b"\n# EOF\n")
    assert text.headers["vary"] == "Accept, Accept-Encoding"
    assert text.headers["cache-control"] == "no-store"
    assert "content-encoding" not in text.headers


def test_metrics_come_compressed_when_that_is_acceptable(here: Served) -> None:
    response, page = here.ask("/metrics", Accept_Encoding="gzip, deflate")

    assert response.headers["content-encoding"] == "gzip"
    assert int(response.headers["content-length"]) == len(page)
    assert b"# TYPE sbg_jobs gauge\n" in gzip.decompress(page)


@pytest.mark.parametrize(
    "accept", ["version=", ";;;q=q", "text/plain;version=not.a.version;q=1e999", ",", "\xff", "x" * 5000]
)
@pytest.mark.fault(
    "a scrape with a malformed `Accept`",
    action="answers in the text format",
    shown="all metrics",
    recovery="none needed",
)
def test_a_malformed_header_gets_the_text_format(here: Served, accept: str) -> None:
    response, _ = here.ask("/metrics", Accept=accept, Accept_Encoding=accept)

    assert (response.status, response.headers["content-type"]) == (200, Format.TEXT.value)


def test_a_header_that_is_sent_in_two_lines_is_read_as_one(here: Served) -> None:
    with here.connect() as client:
        page = exchange(
            client,
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Accept: text/plain;q=0.1\r\nAccept: application/openmetrics-text\r\n\r\n",
        )

    assert page.endswith(b"# EOF\n")


def test_health_and_readiness_say_what_is_wrong(here: Served) -> None:
    def verdict(path: str) -> tuple[int, bytes]:
        response, body = here.ask(path)
        return response.status, body

    assert verdict("/-/healthy") == (200, b"healthy\n")
    assert verdict("/-/ready") == (200, b"ready\n")
    here.unhealthy, here.unready = "account a has not moved for 200 s", "not every account has been tried yet"
    assert verdict("/-/healthy") == (503, b"not healthy: account a has not moved for 200 s\n")
    assert verdict("/-/ready") == (503, b"not ready: not every account has been tried yet\n")


def test_the_status_page_can_neither_run_nor_load_anything(here: Served) -> None:
    response, page = here.ask("/")

    assert (response.status, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page == b"<!doctype html><title>status True</title>"
    policy = response.headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("query", "refreshing"),
    [("", True), ("?", True), ("?refresh=on", True), ("?refresh=off", False), ("?x=%00&refresh=off", False)],
)
def test_the_status_page_refreshes_unless_the_query_says_otherwise(
    here: Served, query: str, *, refreshing: bool
) -> None:
    _, page = here.ask(f"/{query}")

    assert page == f"<!doctype html><title>status {refreshing}</title>".encode()


@pytest.mark.parametrize(
    "path", ["/metrics/", "/metric", "/-/", "/-/reloaded", "//metrics", "/index.html", "/%00", "/..%2f"]
)
def test_anything_else_is_not_found(here: Served, path: str) -> None:
    response, body = here.ask(path)

    assert response.status == 404
    assert b"There are /, /metrics, /-/healthy and /-/ready" in body


@pytest.mark.parametrize("path", ["/metrics", "/-/healthy", "/-/ready", "/"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_a_wrong_method_is_told_the_right_ones(here: Served, path: str, method: str) -> None:
    response, _ = here.ask(path, method)

    assert response.status == 405
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize("path", ["/metrics", "/-/healthy", "/-/ready", "/", "/nowhere"])
def test_head_answers_with_the_headers_of_get(here: Served, path: str) -> None:
    def headers(response: HTTPResponse) -> dict[str, str]:
        shown = {name.lower(): value for name, value in response.getheaders()}
        shown.pop("date")
        if path == "/metrics":  # the process it tells of moves on meanwhile
            shown.pop("content-length")
        return shown

    head, nothing = here.ask(path, "HEAD")
    get, something = here.ask(path)

    assert (head.status, headers(head)) == (get.status, headers(get))
    assert nothing == b""
    assert something != b""


def test_answers_carry_the_date_and_not_the_servers_name(here: Served) -> None:
    response, _ = here.ask("/-/healthy")

    assert parsedate_to_datetime(response.headers["date"]).tzinfo is not None
    assert response.headers["date"].endswith(" GMT")
    assert "server" not in response.headers


@pytest.mark.fault(
    "an unexpected error in a request handler",
    action="answers 500 and logs it",
    shown="500",
    recovery="the next request",
)
def test_an_error_that_nobody_expected_is_a_500_that_is_told_of(here: Served) -> None:
    def broken(_refreshing: bool) -> str:  # noqa: FBT001  # a callback's argument
        raise ZeroDivisionError("the page divided by zero")

    here.page = broken
    response, body = here.ask("/")

    assert (response.status, body) == (500, b"Internal Server Error\n")
    assert [str(error) for error in here.crashes] == ["the page divided by zero"]
    assert here.ask("/metrics")[0].status == 200


# ---- connections ----


def test_a_connection_is_kept_for_the_next_scrape(here: Served) -> None:
    with here.connect() as client:
        assert [answer(client) for _ in range(3)] == [200, 200, 200]


def test_an_answers_body_does_not_wait_until_its_header_is_acknowledged(here: Served) -> None:
    with here.connect() as client:
        assert answer(client) == 200

        with other_end(client) as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def other_end(client: socket.socket) -> socket.socket:
    """The server's socket of this connection, which is in this process too."""
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            candidate = socket.socket(fileno=os.dup(int(descriptor.name)))
            with contextlib.suppress(OSError):
                if candidate.getpeername() == client.getsockname():
                    return candidate
            candidate.close()
    raise LookupError("the server has no such connection")


def test_requests_that_come_at_once_are_answered_in_turn(here: Served) -> None:
    with here.connect() as client:
        received = exchange(
            client,
            b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"
            b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
            b"GET /-/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )

    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"404", b"200"]
    assert received.index(b"\r\n\r\nhealthy\n") < received.index(b"\r\n\r\nready\n")


@pytest.mark.parametrize(
    "request_text",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"GET /m\xc3\xa9trics HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
@pytest.mark.fault(
    "a client does not speak HTTP",
    action="refuses it",
    shown="400",
    recovery="none needed",
)
def test_what_is_not_http_is_a_bad_request(here: Served, request_text: bytes) -> None:
    with here.connect() as client:
        assert exchange(client, request_text).startswith(b"HTTP/1.1 400 ")

    assert here.ask("/-/healthy")[0].status == 200


@pytest.mark.parametrize("path", ["/-/healthy", "/metrics", "/-/reload"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.fault(
    "a request has both Content-Length and Transfer-Encoding, so that a proxy may let a second one through in its body",
    action="refuses it, and closes the connection",
    shown="400",
    recovery="none needed",
)
def test_a_request_with_two_lengths_is_refused_with_all_that_follows(here: Served, path: str, version: str) -> None:
    lengths = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"
    request = f"POST {path} HTTP/{version}\r\nHost: x\r\n{lengths}\r\n0\r\n\r\n"

    with here.connect() as client:
        received = exchange(client, (request + "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").encode())

    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("chunk", [64 * 1024, 1000])
@pytest.mark.fault(
    "a client sends a header over 16 KiB",
    action="refuses it",
    shown="431 or a closed connection",
    recovery="a shorter header",
)
def test_a_header_over_16_kib_is_refused_however_it_comes(here: Served, chunk: int) -> None:
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: " + b"y" * (17 * 1024) + b"\r\n\r\n"

    with here.connect() as client:
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(request), chunk):
                client.sendall(request[start : start + chunk])
        received = until_closed(client)

    assert b"200 OK" not in received
    assert here.ask("/-/healthy")[0].status == 200


def test_a_header_of_nearly_16_kib_is_read(here: Served) -> None:
    response, _ = here.ask("/metrics", X_Long="y" * (16 * 1024 - 200))

    assert response.status == 200


def test_a_body_is_neither_awaited_nor_kept(here: Served) -> None:
    with here.connect() as client:
        status = answer(client, b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nbegun")
        assert status == 405
        with contextlib.suppress(ConnectionError):
            client.sendall(b"x" * 99_995)

    assert here.ask("/-/healthy")[0].status == 200


def test_nonsense_after_an_answer_ends_the_connection(here: Served) -> None:
    with here.connect() as client:
        answer(client, b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")

        assert exchange(client, b"not a chunk\r\n") == b""


@pytest.mark.real_time
@pytest.mark.parametrize(
    "begun", [b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nHost:", b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\nGET /"]
)
@pytest.mark.fault(
    "a client does not finish its header",
    action="hangs up",
    shown="a closed connection",
    recovery="none needed",
)
def test_a_client_that_does_not_finish_its_header_is_hung_up_on(begun: bytes) -> None:
    with served(Limits(header_seconds=0.05)) as hasty, hasty.connect() as client:
        exchange(client, begun)  # comes back because the server hangs up

        eventually(lambda: hasty.answers("/-/healthy"))


@pytest.mark.real_time
@pytest.mark.fault(
    "a client sends its header byte by byte",
    action="hangs up as soon",
    shown="a closed connection",
    recovery="none needed",
)
def test_a_client_that_drips_its_header_gains_no_time() -> None:
    with served(Limits(header_seconds=0.3)) as here, here.connect() as client:

        def drip() -> None:
            with contextlib.suppress(OSError):
                client.sendall(b"x")

        with BackgroundTask(drip, every=0.02):
            assert b"200" not in until_closed(client)


def test_a_client_that_dripped_and_came_through_is_served() -> None:
    with served() as here, here.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r":
            client.sendall(bytes([byte]))

        assert answer(client, b"\n") == 200


@pytest.mark.real_time
def test_an_idle_connection_is_closed_in_the_end() -> None:
    with served(Limits(idle_seconds=1)) as here, here.connect() as client:
        assert answer(client) == 200

        assert until_closed(client) == b""


@pytest.mark.real_time
@pytest.mark.fault(
    "a client reads no response",
    action="hangs up",
    shown="a closed connection",
    recovery="none needed",
)
def test_a_client_that_takes_nothing_is_hung_up_on() -> None:
    with served(Limits(response_seconds=0.1), accounts=60) as here, here.connect_narrow() as client:
        request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
        with contextlib.suppress(ConnectionError):
            while True:  # ends because the server hangs up
                client.sendall(request * 100)

        eventually(lambda: here.answers("/metrics"))


def test_a_client_that_takes_its_time_gets_everything() -> None:
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
    with served(accounts=60) as here, here.connect_narrow() as client:
        # More than all buffers between the two hold, so the server has to wait for the client.
        received = exchange(client, (request + b"\r\n") * 15 + request + b"Connection: close\r\n\r\n")

    assert received.count(b"HTTP/1.1 200 OK") == 16
    assert len(received) > 8_000_000


@pytest.mark.fault(
    "more idle connections than are allowed",
    action="closes the longest idle ones",
    shown="all metrics",
    recovery="none needed",
)
def test_of_too_many_connections_the_longest_idle_go_and_a_scrape_still_works() -> None:
    with served(Limits(connections=5)) as here, contextlib.ExitStack() as stack:
        scraper, *others = [stack.enter_context(here.connect()) for _ in range(5)]
        for client in others:
            assert answer(client) == 200
        assert answer(scraper) == 200
        late = [stack.enter_context(here.connect()) for _ in range(4)]
        for client in late:
            assert answer(client) == 200

        assert [until_closed(client) for client in others] == [b""] * 4
        assert answer(scraper) == 200


def test_a_flood_of_silent_connections_does_not_keep_a_scrape_out() -> None:
    with served(Limits(connections=8)) as here, contextlib.ExitStack() as stack:
        flood = [stack.enter_context(here.connect()) for _ in range(200)]

        assert here.ask("/metrics")[0].status == 200
        assert [until_closed(client) for client in flood[:190]] == [b""] * 190


@pytest.mark.fault(
    "clients that read nothing hold all connections",
    action="closes some for a scrape",
    shown="all metrics",
    recovery="none needed",
)
def test_clients_that_take_nothing_do_not_keep_a_scrape_out() -> None:
    with served(Limits(connections=3), accounts=60) as here, contextlib.ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(here.connect_narrow())
            client.setblocking(False)  # noqa: FBT003  # its only argument
            with contextlib.suppress(BlockingIOError):
                for _ in range(10_000):
                    client.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100)

        assert here.ask("/metrics")[0].status == 200


def test_stopping_waits_for_nobody() -> None:
    def servers() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "metrics-server"}

    before = servers()
    with contextlib.ExitStack() as clients:
        with served(accounts=60) as here:
            silent, halfway, kept = (clients.enter_context(here.connect()) for _ in range(3))
            hanging = clients.enter_context(here.connect_narrow())
            halfway.sendall(b"GET /metr")
            hanging.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
            assert hanging.recv(1) == b"H"
            for _ in range(50):  # meanwhile the answers that nobody takes fill every buffer
                assert answer(kept) == 200

        assert servers() <= before  # one that an earlier test could not start may still be ending
        assert [until_closed(client) for client in (silent, halfway, kept)] == [b"", b"", b""]
        with pytest.raises(ConnectionError):
            here.connect()


# ---- addresses ----


def test_a_server_that_cannot_start_says_why() -> None:
    [gone] = bound_sockets("127.0.0.1", 0)
    gone.close()

    with pytest.raises(ListenError, match="the metrics server cannot start: "), served(sockets=[gone]):
        pass


def test_no_host_means_every_address_of_both_kinds() -> None:
    with served(sockets=bound_sockets(None, 0)) as here:
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, here.port), PATIENCE) as client:
                assert answer(client) == 200


def test_an_ipv6_address_is_listened_on_alone() -> None:
    with served(sockets=bound_sockets("::1", 0)) as here:
        with socket.create_connection(("::1", here.port), PATIENCE) as client:
            assert answer(client) == 200
        with pytest.raises(ConnectionError):
            here.connect()


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), (None, "")])
def test_an_address_in_use_is_said_in_one_line(host: str | None, shown: str) -> None:
    [taken] = bound_sockets(host, 0)
    port = taken.getsockname()[1]

    with taken, pytest.raises(ListenError) as raised:
        bound_sockets(host, port)

    assert str(raised.value) == (
        f"cannot listen on {shown}:{port}: Address already in use; is it running already?"
        " Otherwise choose another address with --listen"
    )


def test_an_address_is_shown_as_it_stands_in_a_url() -> None:
    assert shown_address("::1", 1) == "[::1]:1"
    assert shown_address("127.0.0.1", 2) == "127.0.0.1:2"
    assert shown_address(None, 3) == ":3"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 300, "192.0.2.1"])
def test_an_address_that_cannot_be_had_is_said_in_one_line(host: str) -> None:
    with pytest.raises(ListenError, match=rf"\Acannot listen on {re.escape(host)}:1: [^\n]+; choose another [^\n]+\Z"):
        bound_sockets(host, 1)

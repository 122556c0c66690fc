"""TLS, client certificates, passwords, headers and the rate limit of the metrics server, over real sockets."""

import base64
import contextlib
import io
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Final

import bcrypt
import pytest

from exporter.config.web_config import PLAIN, RateLimit, WebConfig, load_web_config
from exporter.logs import Log, logger
from exporter.redaction import Secret
from exporter.web import access, probe
from exporter.web.app import application
from exporter.web.server import Limits, bound_sockets, serving
from tests.background import BackgroundTask
from tests.certificates import Authority, Certificate
from tests.ledgers import ledger_of
from tests.snapshots import exposition, snapshot
from tests.waiting import PATIENCE, eventually

HEALTH: Final = ("/-/healthy", "/-/ready")
REST: Final = ("/metrics", "/", "/nowhere")


def hashed(password: str, cost: int = 4) -> bytes:
    return bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(cost))


USERS: Final = {b"prometheus": hashed("right"), "M\u00fcller".encode(): hashed("gr\u00fc\u00df:e")}


@dataclass
class Served:
    """A server, and the configuration that it uses now."""

    config: WebConfig = PLAIN
    port: int = 0
    crashes: list[Exception] = field(default_factory=list)

    def ask(
        self, path: str, method: str = "GET", tls: ssl.SSLContext | None = None, **headers: str | bytes
    ) -> tuple[HTTPResponse, bytes]:
        connection = (
            HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
            if tls is None
            else HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=tls)
        )
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response, response.read()

    def status(self, path: str, authorization: str | bytes = "", tls: ssl.SSLContext | None = None) -> int:
        if not authorization:
            return self.ask(path, tls=tls)[0].status
        return self.ask(path, tls=tls, Authorization=authorization)[0].status

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)


@contextlib.contextmanager
def served(
    config: WebConfig,
    limits: Limits | None = None,
    *,
    current: Callable[[], WebConfig] | None = None,
    log: Log | None = None,
) -> Iterator[Served]:
    """A server that uses the result's configuration, or what *current* returns each time."""
    told = Served(config)
    app = application(
        exposition(snapshot(ledger_of())), unhealthy=str, unready=str, status_page=str, crashed=told.crashes.append
    )
    used = current or (lambda: told.config)
    with serving(app, bound_sockets("127.0.0.1", 0), limits or Limits(), config=used, log=log) as port:
        told.port = port
        yield told
    assert told.crashes == []


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


# ---- passwords ----


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    with served(WebConfig(users=USERS)) as here:
        yield here


@pytest.mark.parametrize("path", HEALTH)
def test_health_paths_need_no_password(guarded: Served, path: str) -> None:
    assert guarded.status(path) == 200
    assert guarded.status(path, basic("prometheus", "wrong")) == 200


@pytest.mark.parametrize(("user", "password"), [("prometheus", "right"), ("M\u00fcller", "gr\u00fc\u00df:e")])
def test_the_right_password_lets_in(guarded: Served, user: str, password: str) -> None:
    assert [guarded.status(path, basic(user, password)) for path in REST] == [200, 200, 404]
    assert guarded.status("/metrics", basic(user, password).replace("Basic", "bAsIc")) == 200


@pytest.mark.parametrize("path", [*REST, "/-/healthy/", "//-/healthy", "/metrics?/-/healthy", "/-/reload"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "BREW"])
def test_everything_else_needs_one(guarded: Served, path: str, method: str) -> None:
    response, _ = guarded.ask(path, method)

    assert response.status == 401
    assert response.headers["www-authenticate"] == 'Basic realm="sbg-exporter", charset="UTF-8"'
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "authorization",
    [
        basic("prometheus", "wrong"),
        basic("prometheus", ""),
        basic("prometheus", "right "),
        basic("prometheus", "right\0"),
        basic("prometheus", "x" * 5000),
        basic("", ""),
        basic("", "right"),
        basic("nobody", "right"),
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic YQ",
        "Basic " + base64.b64encode(b"nocolon").decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode(),
        b"Basic \xff\xfe",
        "Basic " + "A" * 15000,
        "Bearer right",
        "right",
        ":",
    ],
)
@pytest.mark.fault(
    "a malformed `Authorization`",
    action="refuses it",
    shown="401",
    recovery="a right header",
)
def test_anything_else_is_refused_and_never_an_error(guarded: Served, authorization: str | bytes) -> None:
    assert guarded.status("/metrics", authorization) == 401
    assert guarded.status("/-/healthy", authorization) == 200


def test_a_password_of_more_than_72_bytes_is_compared_as_go_does() -> None:
    with served(WebConfig(users={b"a": hashed("x" * 72)})) as here:
        assert here.status("/metrics", basic("a", "x" * 100)) == 200
        assert here.status("/metrics", basic("a", "x" * 71)) == 401


class Checks:
    """Counts the passwords that bcrypt compares, and can hold them up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.digests: list[bytes] = []
        self.at_once = 0
        self.most_at_once = 0
        self.go_on = threading.Event()
        self.go_on.set()
        real = access._matches  # noqa: SLF001

        def counting(password: Secret, digest: bytes) -> bool:
            self.digests.append(digest)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            assert self.go_on.wait(PATIENCE)
            self.at_once -= 1
            return real(password, digest)

        monkeypatch.setattr(access, "_matches", counting)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Checks:
    return Checks(monkeypatch)


def test_a_right_password_is_compared_once(checks: Checks) -> None:
    with served(WebConfig(users=USERS)) as here:
        for _ in range(3):
            assert here.status("/metrics", basic("prometheus", "right")) == 200

        assert len(checks.digests) == 1


def test_a_changed_password_is_compared_again(checks: Checks) -> None:
    with served(WebConfig(users=USERS)) as here:
        assert here.status("/metrics", basic("prometheus", "right")) == 200
        here.config = WebConfig(users={b"prometheus": hashed("other")})

        assert here.status("/metrics", basic("prometheus", "right")) == 401
        assert here.status("/metrics", basic("prometheus", "other")) == 200
        assert len(checks.digests) == 3


def test_an_unknown_users_password_is_compared_with_the_slowest_hash(checks: Checks) -> None:
    slow = hashed("b", cost=5)
    with served(WebConfig(users={b"a": hashed("a"), b"b": slow, b"c": hashed("c")})) as here:
        assert here.status("/metrics", basic("nobody", "b")) == 401

    assert checks.digests == [slow]


@pytest.mark.fault(
    "40 wrong passwords at once",
    action="checks them one by one, four waiting at most; others are refused without a check",
    shown="401 and 503; right passwords and `/-/healthy` at once",
    recovery="none needed",
)
def test_checking_passwords_delays_no_other_request(checks: Checks) -> None:
    with served(WebConfig(users=USERS)) as here:
        assert here.status("/metrics", basic("prometheus", "right")) == 200
        checks.go_on.clear()
        statuses: list[int] = []
        guesses = [
            threading.Thread(target=lambda: statuses.append(here.status("/metrics", basic("prometheus", "guess"))))
            for _ in range(40)
        ]
        for guess in guesses:
            guess.start()
        eventually(lambda: checks.at_once)
        # One client has four guesses in the queue, and the rest are refused without a comparison.
        eventually(lambda: statuses.count(503) == 36, describe=lambda: statuses)

        assert here.status("/metrics", basic("prometheus", "right")) == 200
        assert here.status("/-/healthy") == 200
        checks.go_on.set()
        for guess in guesses:
            guess.join(PATIENCE)

    assert (statuses.count(401), statuses.count(503)) == (4, 36)
    assert checks.most_at_once == 1


@pytest.mark.fault(
    "the daemon stops while a password is checked",
    action="does not wait for it",
    shown="nothing",
    recovery="none needed",
)
def test_stopping_does_not_wait_for_a_password(checks: Checks) -> None:
    with contextlib.ExitStack() as clients:
        with served(WebConfig(users=USERS)) as here:
            checks.go_on.clear()
            client = clients.enter_context(here.connect())
            client.sendall(
                b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: " + basic("a", "b").encode() + b"\r\n\r\n"
            )
            eventually(lambda: checks.at_once)
        checks.go_on.set()


# ---- headers and the rate limit ----


def test_headers_are_sent_with_every_response() -> None:
    headers = ((b"x-frame-options", b"deny"), (b"content-security-policy", b"default-src *"))
    with served(WebConfig(users=USERS, headers=headers)) as here:
        answers = [
            here.ask("/metrics", Authorization=basic("prometheus", "right"))[0],
            here.ask("/metrics")[0],
            here.ask("/-/healthy")[0],
            here.ask("/nowhere", Authorization=basic("prometheus", "right"))[0],
            here.ask("/metrics", "POST", Authorization=basic("prometheus", "right"))[0],
        ]
        page = here.ask("/", Authorization=basic("prometheus", "right"))[0]
        with here.connect() as client:
            client.sendall(b"nonsense\r\n\r\n")
            malformed = client.recv(65536)

    assert [answer.status for answer in answers] == [200, 401, 200, 404, 405]
    assert {answer.headers["x-frame-options"] for answer in (*answers, page)} == {"deny"}
    assert {answer.headers["content-security-policy"] for answer in answers} == {"default-src *"}
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert malformed.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nx-frame-options: deny\r\n" in malformed.lower()


@pytest.mark.fault(
    "more requests than the web configuration's `rate_limit`",
    action="refuses them",
    shown="429",
    recovery="a later request",
)
def test_requests_over_the_rate_limit_get_429() -> None:
    with served(WebConfig(rate_limit=RateLimit(3600.0, 2))) as here:
        assert [here.status("/metrics") for _ in range(3)] == [200, 200, 429]
        assert here.status("/-/healthy") == 200


# ---- request targets ----


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://exporter.example:10037/metrics", 401),
        ("HTTP://exporter.example/-/healthy", 200),
        ("http://exporter.example/-/healthy?verbose=1", 200),
        ("http://user@[::1]:1/%2D/healthy", 200),
        ("http://exporter.example", 401),
        ("http://exporter.example?x", 401),
        ("http://exporter.example//-/healthy", 401),
        ("http:///-/healthy", 200),
        ("/%2D/healthy", 200),
        ("*", 401),
        ("exporter.example:443", 401),
    ],
)
def test_absolute_targets_are_answered_like_their_path(guarded: Served, target: str, status: int) -> None:
    with guarded.connect() as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        response = HTTPResponse(client)
        response.begin()

        assert response.status == status


def test_an_absolute_target_of_the_status_page_is_answered() -> None:
    with served(PLAIN) as here:
        assert here.ask("http://exporter.example")[0].status == 200
        assert here.ask("http://exporter.example/metrics")[0].status == 200
        assert here.ask("http://exporter.example/nowhere")[0].status == 404


# ---- TLS ----


@dataclass
class Certificates:
    """A server's configuration over TLS, and what clients may have."""

    folder: Path
    authority: Authority
    stranger: Certificate
    client: Certificate
    named: Certificate

    def load(self, more: str = "") -> WebConfig:
        file = self.folder / "web-config.yml"
        file.write_text(f"tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n{more}")
        return load_web_config(file)

    def trusting(self, issued: Certificate | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority.certificate)
        if issued is not None:
            context.load_cert_chain(*issued)
        return context


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    authority, other = Authority(folder), Authority(folder / "other", "other")
    authority.issue("server")
    return Certificates(
        folder,
        authority,
        other.issue("stranger", usage="clientAuth"),
        authority.issue("client", sans="DNS:prometheus.example", usage="clientAuth"),
        authority.issue("named", sans="IP:2001:db8::1,URI:spiffe://a/b,email:a@b.example", usage="clientAuth"),
    )


MUTUAL: Final = "  client_ca_file: authority.pem\n  client_auth_type: RequireAndVerifyClientCert\n"
openssl: Final = pytest.mark.tools("openssl")


@openssl
def test_scrapes_come_over_tls(made: Certificates) -> None:
    with served(made.load()) as here:
        assert here.status("/metrics", tls=made.trusting()) == 200
        assert here.status("/metrics") == 400
        assert here.status("/metrics", tls=made.trusting()) == 200


@openssl
@pytest.mark.parametrize(("newest", "accepted"), [("TLSv1_2", True), ("TLSv1_3", True), ("TLSv1_1", False)])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_tls_1_2_is_the_oldest_version(made: Certificates, newest: str, *, accepted: bool) -> None:
    client = made.trusting()
    client.set_ciphers("DEFAULT:@SECLEVEL=0")
    client.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    client.maximum_version = ssl.TLSVersion[newest]

    with served(made.load()) as here:
        if accepted:
            assert here.status("/metrics", tls=client) == 200
        else:
            with pytest.raises(ssl.SSLError):
                here.ask("/metrics", tls=client)


@openssl
def test_a_client_certificate_is_required_except_for_health(made: Certificates) -> None:
    with served(made.load(MUTUAL)) as here:
        assert [here.status(path, tls=made.trusting()) for path in HEALTH] == [200, 200]
        assert [here.status(path, tls=made.trusting()) for path in REST] == [403, 403, 403]
        assert [here.status(path, tls=made.trusting(made.client)) for path in REST] == [200, 200, 404]


@openssl
def test_a_certificate_of_another_authority_is_refused_in_the_handshake(made: Certificates) -> None:
    with served(made.load(MUTUAL)) as here:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            here.ask("/metrics", tls=made.trusting(made.stranger))
        with pytest.raises((ssl.SSLError, ConnectionError)):  # a server's certificate is not a client's
            here.ask("/metrics", tls=made.trusting(made.authority.issue("another-server")))


@openssl
@pytest.mark.parametrize(
    ("sans", "client", "named"),
    [
        ("[prometheus.example]", 200, 403),
        ('["2001:0DB8:0:0::0001"]', 403, 200),
        ("['spiffe://a/b']", 403, 200),
        ("[a@b.example, prometheus.example]", 200, 200),
        ("[example]", 403, 403),
    ],
)
def test_a_client_certificate_needs_an_allowed_name(made: Certificates, sans: str, client: int, named: int) -> None:
    with served(made.load(f"{MUTUAL}  client_allowed_sans: {sans}\n")) as here:
        assert here.status("/metrics", tls=made.trusting(made.client)) == client
        assert here.status("/metrics", tls=made.trusting(made.named)) == named
        assert here.status("/-/ready", tls=made.trusting()) == 200


@openssl
def test_a_resumed_session_keeps_its_certificate(made: Certificates) -> None:
    trusting = made.trusting(made.client)
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2  # its session is there as soon as the handshake is over
    with served(made.load(MUTUAL)) as here:
        session = None
        for expected in (False, True):
            with (
                here.connect() as plain,
                trusting.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as client,
            ):
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                response = HTTPResponse(client)
                response.begin()
                assert (response.status, client.session_reused) == (200, expected)
                session = client.session


@openssl
def test_a_new_certificate_applies_to_the_next_connection(made: Certificates) -> None:
    other = Authority(made.folder / "renewed", "renewed")
    with served(made.load()) as here:
        kept = HTTPSConnection("127.0.0.1", here.port, timeout=PATIENCE, context=made.trusting())
        with contextlib.closing(kept):
            kept.request("GET", "/metrics")
            kept.getresponse().read()
            renewed = other.issue("server")
            shutil.copy(renewed.cert, made.folder / "new.pem")
            shutil.copy(renewed.key, made.folder / "new.key")
            (made.folder / "new.yml").write_text("tls_server_config: {cert_file: new.pem, key_file: new.key}")
            here.config = load_web_config(made.folder / "new.yml")

            with pytest.raises(ssl.SSLCertVerificationError):
                here.ask("/metrics", tls=made.trusting())
            assert here.status("/metrics", tls=ssl.create_default_context(cafile=other.certificate)) == 200
            kept.request("GET", "/metrics")
            assert kept.getresponse().status == 200


@openssl
@pytest.mark.parametrize("more", [None, "", MUTUAL])
def test_the_image_s_health_check_works_over_http_and_https(made: Certificates, more: str | None) -> None:
    reasons = [""]
    config = PLAIN if more is None else made.load(more)
    app = application(exposition(), unhealthy=lambda: reasons[0], unready=str, status_page=str)

    with serving(app, bound_sockets("127.0.0.1", 0), config=lambda: config) as port:
        assert probe.healthy(port)
        reasons[0] = "account a has not moved for 200 s"
        assert not probe.healthy(port)
    assert not probe.healthy(port)


@openssl
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_http_to_the_https_port_is_told_so(made: Certificates, method: str) -> None:
    with served(made.load()) as here, here.connect() as client:
        client.sendall(f"{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n".encode())

        with client.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")

        assert head.startswith(b"HTTP/1.0 400 Bad Request\r\n")
        assert body == b"Client sent an HTTP request to an HTTPS server.\n"


# ---- limits ----


@openssl
@pytest.mark.real_time
@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/1.1\r\n"])
@pytest.mark.fault(
    "a TLS handshake that does not end",
    action="hangs up",
    shown="a closed connection",
    recovery="none needed",
)
def test_a_handshake_that_does_not_end_is_hung_up_on(made: Certificates, begun: bytes) -> None:
    with served(made.load(), Limits(header_seconds=0.1)) as hasty, hasty.connect() as client:
        client.sendall(begun)

        with contextlib.suppress(ConnectionError):
            while client.recv(4096):  # comes back because the server hangs up
                pass


@openssl
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.fault(
    "more unfinished TLS handshakes than connections",
    action="closes older ones for a scrape",
    shown="all metrics",
    recovery="none needed",
)
def test_unfinished_handshakes_make_room_for_scrapes(made: Certificates, *, mixed: bool) -> None:
    with contextlib.ExitStack() as clients, served(made.load(), Limits(connections=8)) as here:
        for number in range(60):
            client = clients.enter_context(here.connect())
            if mixed and number % 2:
                with contextlib.suppress(OSError):
                    clients.enter_context(made.trusting().wrap_socket(client, server_hostname="127.0.0.1"))

        assert here.status("/metrics", tls=made.trusting()) == 200


@openssl
def test_a_connection_that_makes_room_in_the_moment_its_handshake_ends_disturbs_no_other_one(
    made: Certificates,
) -> None:
    """It must be closed by the transport that it has then: its descriptor's number is soon that of another one."""
    config, blocks, blocked, go_on = made.load(), threading.Event(), threading.Event(), threading.Event()

    def current() -> WebConfig:
        if blocks.is_set():
            blocked.set()
            assert go_on.wait(PATIENCE)
        return config

    log = io.StringIO()
    limits = Limits(connections=2, tls_connections=8)
    with (
        served(config, limits, current=current, log=logger("json", "warning", log)) as here,
        contextlib.ExitStack() as stack,
    ):

        def connect(client: socket.socket) -> socket.socket:
            client.settimeout(PATIENCE)
            client.connect(("127.0.0.1", here.port))
            return client

        # Made beforehand, so that the server has the lowest free number from now on.
        one, two, three, *others = (stack.enter_context(socket.socket()) for _ in range(7))
        received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = made.trusting().wrap_bio(received, to_send, server_hostname="localhost")
        connect(one)
        with contextlib.suppress(ssl.SSLWantReadError):
            session.do_handshake()
        one.sendall(to_send.read())
        received.write(one.recv(65536))
        session.do_handshake()

        blocks.set()
        connect(two).sendall(b"\x16")  # the first byte of a handshake
        assert blocked.wait(PATIENCE)
        one.sendall(to_send.read())  # ends its handshake,
        connect(three)  # and this one needs its place
        go_on.set()

        with contextlib.suppress(ConnectionResetError):
            while one.recv(65536):
                pass
        for each in others:
            with made.trusting().wrap_socket(connect(each), server_hostname="127.0.0.1") as client:
                client.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
                assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert log.getvalue() == ""


@openssl
@pytest.mark.fault(
    "silent clients come and leave during a slow TLS handshake",
    action="finishes the handshake",
    shown="200 for the slow client",
    recovery="none needed",
)
def test_silent_clients_that_leave_at_once_end_no_handshake(made: Certificates) -> None:
    received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = made.trusting().wrap_bio(received, to_send, server_hostname="localhost")
    with served(made.load(), Limits(tls_connections=4)) as here, here.connect() as slow:
        with contextlib.suppress(ssl.SSLWantReadError):
            session.do_handshake()
        slow.sendall(to_send.read())
        received.write(slow.recv(65536))
        with contextlib.ExitStack() as clients:
            for _ in range(50):
                clients.enter_context(here.connect())
        assert here.status("/-/healthy", tls=made.trusting()) == 200

        session.do_handshake()
        session.write(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        slow.sendall(to_send.read())
        while chunk := slow.recv(65536):
            received.write(chunk)

        assert session.read(65536).startswith(b"HTTP/1.1 200 OK")


@openssl
@pytest.mark.fault(
    "the daemon stops during TLS handshakes",
    action="abandons them",
    shown="a closed connection",
    recovery="none needed",
)
def test_stopping_abandons_handshakes(made: Certificates) -> None:
    with contextlib.ExitStack() as clients:
        with served(made.load()) as here:
            silent = [clients.enter_context(here.connect()) for _ in range(5)]
            assert here.status("/-/healthy", tls=made.trusting()) == 200
        for client in silent:
            with contextlib.suppress(ConnectionError):
                assert client.recv(1) == b""


@openssl
def test_handshakes_in_parallel_are_all_answered(made: Certificates) -> None:
    trusting = made.trusting()
    statuses: list[int] = []

    def scrape() -> None:
        statuses.append(here.status("/metrics", tls=trusting))

    with served(made.load()) as here, contextlib.ExitStack() as tasks:
        for _ in range(8):
            tasks.enter_context(BackgroundTask(scrape, every=0))
        eventually(lambda: len(statuses) >= 200)

    assert set(statuses) == {200}


def test_replacing_users_while_requests_wait_is_safe(checks: Checks) -> None:
    with served(WebConfig(users=USERS)) as here:
        checks.go_on.clear()
        statuses: list[int] = []
        waiting = threading.Thread(
            target=lambda: statuses.append(here.status("/metrics", basic("prometheus", "right")))
        )
        waiting.start()
        eventually(lambda: checks.at_once)
        here.config = replace(here.config, users={b"other": hashed("x")})
        checks.go_on.set()
        waiting.join(PATIENCE)

        assert statuses == [200]
        assert here.status("/metrics", basic("prometheus", "right")) == 401

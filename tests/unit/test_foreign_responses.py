"""Responses and failures of what lies between exporter and platform: each is named, with the next step, and no more."""

import socket
import ssl
import subprocess
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.api.client import ATTEMPTS, Client
from exporter.api.failures import Asked, Received, TransportFailed, failure, not_json
from exporter.api.transport import TrustedCertificates, certificate_source, without_credentials
from exporter.errors import (
    BadAnswer,
    JobRequestFailed,
    NotThePlatform,
    PollError,
    Unauthorized,
    Unreachable,
)
from tests.certificates import Authority, Certificate, new_certificate
from tests.clocks import ManualClock
from tests.raw_server import Connection, RawServer, Script, answering, reply
from tests.tools import tool
from tests.unit.test_client import TOKEN, ClientFixture, fault, hangs_up, one_job, page, relay, user
from tests.unit.test_client import failure as failed

USER = b'{"username": "rfranklin"}'
EMPTY_PAGE = b'{"items": []}'
HTML = {"content-type": "text/html; charset=utf-8"}
FIREWALL = b"<!DOCTYPE html>\n<html><head><title>Access &amp; policy:\n denied</title></head></html>"
ENDPOINT = "https://cavatica-api.sbgenomics.com/v2"
SECRET = "s3cret"  # a proxy's password in these tests


@pytest.fixture
def bench(clock: ManualClock) -> Iterator[ClientFixture]:
    with ExitStack() as stack:
        yield ClientFixture(stack, clock)


def by_path(list_reply: bytes, user_reply: bytes) -> Script:
    """Respond to requests for the token's user with *user_reply*, to others with *list_reply*."""

    def script(connection: Connection) -> None:
        while True:
            connection.send(user_reply if b"/user " in connection.request() else list_reply)

    return script


def leaves_at_once(connection: Connection) -> None:
    """Close the connection after its first byte."""
    connection.raw.recv(1)


# ---- nothing of a response is kept ----


@pytest.mark.fault(
    "every response sets another cookie",
    action="ignores it",
    shown="nothing",
    recovery="none needed",
)
def test_cookies_are_neither_stored_nor_sent(bench: ClientFixture) -> None:
    cookies = "".join(f"Set-Cookie: c{number}={'x' * 500}; Path=/; Max-Age=86400\r\n" for number in range(20))
    answer = f"HTTP/1.1 200 OK\r\n{cookies}Content-Length: {len(EMPTY_PAGE)}\r\n\r\n".encode() + EMPTY_PAGE
    server = bench.serving(answering(answer))
    client = bench.client(server.url)

    for _ in range(50):
        client.page(0)

    assert all(b"cookie" not in head.lower() for head in server.heads)
    assert len({len(head) for head in server.heads}) == 1


@pytest.mark.parametrize("status", [302, 401, 403, 404, 407, 429, 500, 503])
def test_cookies_of_errors_are_not_sent_either(bench: ClientFixture, status: int) -> None:
    server = bench.serving(answering(reply(status, b"", {"set-cookie": "session=1", "location": "/login"})))
    client = bench.client(server.url)

    failed(client)
    bench.clock.advance(600)
    failed(client)

    assert len(server.heads) >= 2
    assert all(b"cookie" not in head.lower() for head in server.heads)


# ---- whether the token is refused ----

NOT_THE_PLATFORM = {
    "an HTML page": (FIREWALL, HTML),
    "an HTML page without a type": (FIREWALL, {}),
    "an HTML page after a byte order mark": (b"\xef\xbb\xbf" + FIREWALL, {}),
    "an HTML page in upper case": (b"\r\n <HTML><BODY>no</BODY></HTML>", {}),
    "an XML document": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", {}),
    "an HTML page that is too large": (b"<html>" + b"x" * 2**20, HTML),
    "text": (b"RBAC: access denied", {"content-type": "text/plain"}),
    "nothing": (b"", {}),
    "a gateway's JSON": (b'{"message": "Forbidden"}', {}),
    "a gateway's JSON with the status as code": (b'{"code": 403, "message": "Forbidden"}', {}),
    "a list": (b"[]", {}),
}


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(("body", "headers"), NOT_THE_PLATFORM.values(), ids=NOT_THE_PLATFORM)
@pytest.mark.fault(
    "a firewall answers {status} in the platform's place",
    action="asks the platform who the token belongs to, and polls on",
    shown="`bad_answer`, and that the token is not to blame",
    recovery="the firewall lets requests pass",
)
def test_refusal_of_the_list_by_something_else_does_not_refuse_the_token(
    bench: ClientFixture, body: bytes, headers: dict[str, str], status: int
) -> None:
    server = bench.serving(by_path(reply(status, body, headers), reply(body=USER)))

    error = failed(bench.client(server.url))

    assert type(error) is NotThePlatform
    assert error.result == "bad_answer"
    assert error.retry_after is None
    assert error.wait_reason is None
    assert not error.reidentify
    assert "says nothing about the token" in str(error)
    assert bench.told.statuses == [str(status), "200"]


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(("body", "headers"), NOT_THE_PLATFORM.values(), ids=NOT_THE_PLATFORM)
def test_refusal_of_the_list_counts_if_the_user_is_refused(
    bench: ClientFixture, body: bytes, headers: dict[str, str], status: int
) -> None:
    server = bench.serving(by_path(reply(status, body, headers), reply(401, fault(90001, "Unauthorized."))))

    error = failed(bench.client(server.url))

    assert isinstance(error, Unauthorized)
    assert str(error) == "the platform refused the token: 401 'Unauthorized.' (code 90001)"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        pytest.param(401, fault(90001), Unauthorized, id="401 of the platform"),
        pytest.param(403, fault(90002), Unauthorized, id="403 of the platform"),
        pytest.param(401, b"", Unauthorized, id="401 without a body"),
        pytest.param(401, b'{"message": "no"}', Unauthorized, id="401 in other JSON"),
        pytest.param(403, b'{"message": "no"}', Unauthorized, id="403 in other JSON"),
        pytest.param(401, FIREWALL, NotThePlatform, id="401 in HTML"),
        pytest.param(403, FIREWALL, NotThePlatform, id="403 in HTML"),
        pytest.param(403, b"denied", NotThePlatform, id="403 in text"),
        pytest.param(403, b"", NotThePlatform, id="403 without a body"),
    ],
)
@pytest.mark.parametrize("ask", [user, page])
def test_the_user_decides_unless_a_page_is_sent(
    bench: ClientFixture, ask: object, status: int, body: bytes, kind: type[PollError]
) -> None:
    assert callable(ask)
    assert type(failed(bench.answered(reply(status, body)), ask)) is kind


def test_a_user_that_cannot_be_requested_refuses_no_token(bench: ClientFixture) -> None:
    server = bench.serving(by_path(reply(403, FIREWALL, HTML), reply(502)))

    error = failed(bench.client(server.url))

    assert type(error) is NotThePlatform
    assert bench.told.statuses == ["403", "502"]


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize(("body", "headers"), NOT_THE_PLATFORM.values(), ids=NOT_THE_PLATFORM)
@pytest.mark.fault(
    "something else answers {status} in the place of one job's endpoint",
    action="neither calls the job lost nor the token refused",
    shown="`job.refused`",
    recovery="the endpoint responds",
)
def test_a_job_is_neither_lost_nor_refused_by_something_else(
    bench: ClientFixture, body: bytes, headers: dict[str, str], status: int
) -> None:
    error = failed(bench.answered(reply(status, body, headers)), one_job)

    assert type(error) is JobRequestFailed
    assert bench.told.statuses == [str(status)]


def test_a_firewalls_page_is_named_with_the_next_step(bench: ClientFixture) -> None:
    error = failed(bench.answered(reply(403, FIREWALL, HTML)))

    assert str(error) == (
        "got an HTML page titled 'Access & policy: denied' with status 403, which says nothing about the token:"
        " a firewall or proxy in between? let it allow requests to 127.0.0.1"
    )


# ---- pages and redirects ----


@pytest.mark.parametrize(
    ("body", "headers", "what"),
    [
        pytest.param(b"<html><title> Log\tin </title>", HTML, "an HTML page titled 'Log in'", id="login page"),
        pytest.param(b"<html><TITLE class='a'>Log in</TITLE>", {}, "an HTML page titled 'Log in'", id="upper case"),
        pytest.param(b"<html>", {}, "an HTML page", id="without a title"),
        pytest.param(b"<title>never ends", {}, "an HTML page", id="a title without end"),
        pytest.param(b"<title" * 10000, {}, "an HTML page", id="a title without begin"),
        pytest.param(b"<title></title>", {}, "an HTML page", id="an empty title"),
        pytest.param(b"", HTML, "an HTML page", id="nothing, called HTML"),
        pytest.param(b"<?xml version='1.0'?><r/>", {}, "an XML document", id="XML"),
        pytest.param(b" \r\n", {}, "an empty body", id="blank"),
        pytest.param(b"OK", {"content-type": "application/json"}, "text instead of JSON", id="text, called JSON"),
    ],
)
@pytest.mark.parametrize("ask", [user, page, one_job])
@pytest.mark.fault(
    "a login page or text with status 200",
    action="`bad_answer`; nothing of it is counted",
    shown="what came, its title, and which setting to check",
    recovery="the platform responds",
)
def test_a_page_with_status_200_is_named(
    bench: ClientFixture, ask: object, body: bytes, headers: dict[str, str], what: str
) -> None:
    assert callable(ask)
    server = bench.serving(answering(reply(200, body, headers)))

    error = failed(bench.client(server.url), ask)

    assert isinstance(error, BadAnswer)
    assert str(error) == (
        f"got {what} with status 200, not the API: a web site, or the login page of this network?"
        f" check api_endpoint ({server.url})"
    )


def test_json_that_is_called_html_is_read(bench: ClientFixture) -> None:
    assert bench.answered(reply(body=USER, headers=HTML)).user().value == "rfranklin"


@pytest.mark.parametrize("status", [404, 405, 410, 418, 202])
def test_a_page_with_another_status_is_named(bench: ClientFixture, status: int) -> None:
    server = bench.serving(answering(reply(status, b"<html><title>Not Found</title>")))

    error = failed(bench.client(f"{server.url}/v2"))

    assert type(error) is NotThePlatform
    assert str(error) == (
        f"got an HTML page titled 'Not Found' with status {status}, not the API's response;"
        f" api_endpoint goes on after /v2; should it be {server.url}?"
    )


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b'{"message": "no Route matched"}', "JSON of another form with status 404 'no Route matched'"),
        (b"404 page not found", "text instead of JSON with status 404"),
        (b"", "an empty body with status 404"),
    ],
)
@pytest.mark.fault(
    "a gateway's 404",
    action="`bad_answer`; no job is lost",
    shown="what came, and which setting to check",
    recovery="the platform responds",
)
def test_a_gateways_404_is_named(bench: ClientFixture, body: bytes, what: str) -> None:
    server = bench.serving(answering(reply(404, body)))

    error = failed(bench.client(server.url))

    assert type(error) is NotThePlatform
    assert str(error) == f"got {what}, not the API's response; check api_endpoint ({server.url})"


def test_a_title_is_shown_in_one_short_line_without_the_token(bench: ClientFixture) -> None:
    title = f"a\x1b[31m\u202e\n{TOKEN} &#10;{'long ' * 1000}"

    error = failed(bench.answered(reply(200, f"<title>{title}</title>".encode())))

    assert TOKEN not in "".join(traceback.format_exception(error))
    assert str(error).isprintable()
    assert len(str(error)) < 300
    assert "'a [31m ******** long long" in str(error)


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("https://login.example.org/in?token=abc#x", "to https://login.example.org/in, which is not followed: a web"),
        (f"https://user:{SECRET}@login.example.org:8443/in", "to https://login.example.org:8443/in, which"),
        ("https://[2001:db8::1]/in", "to https://[2001:db8::1]/in, which"),
        ("/login", "to https://cavatica-api.sbgenomics.com/login, which"),
        ("//login.example.org", "to https://login.example.org, which"),
        (f"https://login.example.org/{'x' * 5000}", "xxx…, which"),
        ("https://login.example.org/a\u202eb", "https://login.example.org/a b, which"),
        ("https://cgc.sbgenomics.com/login", "followed; should api_endpoint be https://cgc-api.sbgenomics.com/v2?"),
        ("https://api.sbgenomics.com/v2/user", "followed; should api_endpoint be https://api.sbgenomics.com/v2?"),
        ("", "a redirect without a target, which is not followed; check api_endpoint"),
        ("https://[", "a redirect without a target"),
        ("https://a.example:port/", "a redirect without a target"),
        ("mailto:admin@example.org", "a redirect without a target"),
    ],
)
@pytest.mark.fault(
    "a redirect",
    action="does not follow it with the token",
    shown="its target, without secrets, and the endpoint that it suggests",
    recovery="the endpoint is right",
)
def test_a_redirect_names_its_target_without_secrets(location: str, words: str) -> None:
    error = failure(Received(302, b"", location=location), Asked(ENDPOINT, f"{ENDPOINT}/user?a=b"))

    assert words in str(error)
    assert "abc" not in str(error)
    assert SECRET not in str(error)
    assert len(str(error)) < 500


def test_a_redirect_to_https_says_so() -> None:
    asked = Asked("http://api.example.org/v2", "http://api.example.org/v2/async/files?offset=0")

    error = failure(Received(301, b"", location="https://api.example.org/v2/async/files?offset=0"), asked)

    assert str(error).endswith("should api_endpoint be https://api.example.org/v2?")


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("https://login.example.org/\x1b[31min", "to https://login.example.org/ [31min, which"),
        ("https://[", "a redirect without a target"),
        ("https://a.example:port/", "a redirect without a target"),
        ("https://a.example:99999/", "a redirect without a target"),
        ("https://xn--\xff.example/", "which is not followed"),
        (f"https://login.example.org/{'x' * 60_000}", "xxx…, which"),
    ],
)
@pytest.mark.fault(
    "a redirect whose target is no valid URL",
    action="is not followed, and not taken for a lost connection",
    shown="`sbg_up` 0; the status, and the target as far as it can be read",
    recovery="the next poll",
)
def test_a_redirect_to_nowhere_is_still_a_redirect(bench: ClientFixture, location: str, words: str) -> None:
    answer = reply(302).replace(b"\r\n\r\n", b"\r\nlocation: " + location.encode("latin-1") + b"\r\n\r\n")

    error = failed(bench.answered(answer))

    assert isinstance(error, BadAnswer)
    assert "the platform answered 302" in str(error)
    assert words in str(error)
    assert not bench.told.retried


def test_a_token_in_a_redirect_is_masked(bench: ClientFixture) -> None:
    error = failed(bench.answered(reply(302, b"", {"location": f"https://login.example.org/{TOKEN}"})))

    assert "https://login.example.org/********" in str(error)
    assert TOKEN not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(reply(200, "<title>Welcome Ren\u00e9e!</title>".encode(), HTML), id="title"),
        pytest.param(reply(418, b"<title>Hello Ren&eacute;e</title>", HTML), id="title, in HTML's characters"),
        pytest.param(reply(302, headers={"location": "https://x.example/users/Ren\u00e9e/"}), id="redirect"),
        pytest.param(reply(500, b'{"code": 1, "message": "no user Ren\\u00e9e"}'), id="message, escaped"),
        pytest.param(reply(403, '{"code": 9999, "message": "REN\u00c9E may not"}'.encode()), id="message"),
        pytest.param(reply(500, b'{"code": 1, "message": "%s Ren\\u00e9e"}' % (b"x" * 195)), id="message, cut"),
    ],
)
@pytest.mark.fault(
    "a response repeats a user name that `show_username` hides, plain or escaped",
    action="masks it",
    shown="`********` in its place",
    recovery="none needed",
)
def test_a_hidden_user_name_is_in_no_error(bench: ClientFixture, answer: bytes) -> None:
    client = bench.answered(answer)
    client.hide_names("ren\u00e9e")

    error = failed(client)

    assert "ren" not in str(error).lower()


@pytest.mark.fault(
    "a refusal names the token's user before the platform has named it, with `show_username = false`",
    action="masks the whole message",
    shown="status and code",
    recovery="none needed",
)
@pytest.mark.parametrize("status", [401, 403, 500])
def test_messages_are_hidden_while_the_tokens_user_is_unknown(bench: ClientFixture, status: int) -> None:
    client = bench.answered(reply(status, b'{"code": 9999, "message": "User rosalind may not do this"}'))
    client.hide_names("rfranklin", user_unknown=True)

    error = failed(client)

    assert str(error).endswith(f"{status} '********' (code 9999)")


@pytest.mark.fault(
    "a network demands a login (511)",
    action="`unreachable`; tries again",
    shown="that it does",
    recovery="a user of the network logs in",
)
def test_a_network_that_demands_a_login_is_named(bench: ClientFixture) -> None:
    error = failed(bench.answered(reply(511, b"<html>")))

    assert isinstance(error, Unreachable)
    assert str(error) == "this network demands a login (511); log in to it, or check proxy"


@given(st.integers(201, 599), st.binary(max_size=200), st.text(max_size=50), st.text(max_size=80))
def test_no_response_is_an_unexpected_error(status: int, body: bytes, content_type: str, location: str) -> None:
    received = Received(status, body, content_type, location)

    for is_user in (True, False):
        error = failure(received, Asked(ENDPOINT, f"{ENDPOINT}/user", "proxy.example:3128", is_user=is_user))
        assert isinstance(error, PollError)
        assert str(error).isprintable()
        assert isinstance(error, Unauthorized) <= (status in {401, 403})
    if body.strip()[:1] not in {b"{", b"["}:
        assert isinstance(not_json(received, Asked(ENDPOINT, ENDPOINT)), NotThePlatform)


# ---- proxies ----


def proxied(bench: ClientFixture, proxy: str, endpoint: str = "https://platform.example/v2") -> Client:
    return bench.client(endpoint, tls=TrustedCertificates(None), proxy=proxy)


def refused(bench: ClientFixture, status: int, reason: str) -> tuple[RawServer, PollError]:
    refusal = f"HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\n\r\n".encode()
    proxy = bench.serving(relay(0, refuse=refusal))
    error = failed(proxied(bench, f"http://team:{SECRET}@127.0.0.1:{proxy.port}"))
    assert isinstance(error, Unreachable)
    assert set(bench.told.statuses) == {"connect"}
    assert SECRET not in "".join(traceback.format_exception(error))
    return proxy, error


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (407, "Proxy Authentication Required", "demands valid credentials (407); write user and password into its URL"),
        (
            403,
            "Filtered",
            "refuses to connect to platform.example (403 Filtered); let it allow that host, or set NO_PROXY",
        ),
        (
            502,
            "Bad Gateway",
            "cannot connect to platform.example (502 Bad Gateway); check api_endpoint, and the proxy's own network",
        ),
        (405, "No CONNECT", "did not connect to platform.example (405 No CONNECT); check the URL of the proxy"),
        (302, "Found", "did not connect to platform.example (302 Found); check the URL of the proxy"),
    ],
)
@pytest.mark.fault(
    "a proxy answers {status} to CONNECT",
    action="`unreachable`; tries again",
    shown="the proxy without its password, and the next step",
    recovery="the proxy connects",
)
def test_a_proxy_that_refuses_is_named_without_its_password(
    bench: ClientFixture, status: int, reason: str, words: str
) -> None:
    proxy, error = refused(bench, status, reason)

    assert str(error) == f"the proxy 127.0.0.1:{proxy.port} {words}"


def test_a_proxy_that_demands_a_password_for_plain_http_is_named(bench: ClientFixture) -> None:
    proxy = bench.serving(answering(reply(407, FIREWALL, HTML)))

    error = failed(proxied(bench, f"http://team:{SECRET}@127.0.0.1:{proxy.port}", "http://platform.example/v2"))

    assert isinstance(error, Unreachable)
    assert str(error) == (
        f"the proxy 127.0.0.1:{proxy.port} demands valid credentials (407); write user and password into its URL"
    )
    assert bench.told.statuses == ["407"] * ATTEMPTS


def test_a_proxy_that_was_not_configured_is_named(bench: ClientFixture) -> None:
    error = failed(bench.answered(reply(407, FIREWALL, HTML)))

    assert str(error) == (
        "got 407 from a proxy, although none is configured; set proxy or HTTPS_PROXY to its URL, with user and password"
    )


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.fault(
    "a proxy is down",
    action="`unreachable`; tries again",
    shown="the proxy without its password",
    recovery="the proxy is back",
)
def test_a_proxy_that_is_down_is_named_without_its_password(bench: ClientFixture) -> None:
    port = closed_port()

    error = failed(proxied(bench, f"http://team:{SECRET}@127.0.0.1:{port}"))

    assert isinstance(error, Unreachable)
    assert str(error) == (
        f"cannot connect to the proxy 127.0.0.1:{port}: Connection refused; check proxy, HTTPS_PROXY and NO_PROXY"
    )
    assert SECRET not in "".join(traceback.format_exception(error))


def test_a_proxy_whose_name_is_unknown_is_named_without_its_password(bench: ClientFixture) -> None:
    error = failed(proxied(bench, f"http://team:{SECRET}@proxy.invalid:3128"))

    assert str(error).startswith("cannot connect to the proxy proxy.invalid:3128: its name cannot be resolved (")
    assert str(error).endswith("); check proxy, HTTPS_PROXY and NO_PROXY")
    assert SECRET not in str(error)


def test_a_platform_whose_name_is_unknown_is_named(bench: ClientFixture) -> None:
    error = failed(bench.client("http://platform.invalid/v2"))

    assert str(error).startswith("cannot connect to platform.invalid: its name cannot be resolved (")
    assert str(error).endswith("); check api_endpoint, and whether a proxy is needed")


def test_a_platform_that_is_down_is_named(bench: ClientFixture) -> None:
    port = closed_port()
    error = failed(bench.client(f"http://127.0.0.1:{port}/v2"))

    assert str(error) == (
        f"cannot connect to 127.0.0.1:{port}: Connection refused; check api_endpoint, and whether a proxy is needed"
    )


def test_a_proxy_that_hangs_up_is_named(bench: ClientFixture) -> None:
    proxy = bench.serving(leaves_at_once)

    error = failed(proxied(bench, f"http://127.0.0.1:{proxy.port}", "http://platform.example/v2"))

    assert str(error).startswith(f"lost the connection to platform.example through the proxy 127.0.0.1:{proxy.port}: ")


@pytest.mark.real_time
def test_a_proxy_that_does_not_respond_is_named(bench: ClientFixture) -> None:
    def script(connection: Connection) -> None:
        connection.wait_until_left()

    proxy = bench.serving(script)
    tls = TrustedCertificates(None)

    connecting = failed(bench.client(ENDPOINT, tls=tls, timeout=0.25, proxy=f"https://localhost:{proxy.port}"))
    asking = failed(bench.client(ENDPOINT, tls=tls, timeout=0.25, proxy=f"http://localhost:{proxy.port}"))

    assert str(connecting) == (
        f"no connection to the proxy localhost:{proxy.port} within 0.25 s; check proxy, HTTPS_PROXY and NO_PROXY"
    )
    assert str(asking) == (
        f"no complete response within 0.25 s through the proxy localhost:{proxy.port}; if it lasts, see the platform's"
        " status page, or raise request_timeout"
    )
    assert set(bench.told.statuses) == {"timeout"}


def test_a_page_through_a_proxy_names_the_proxy(bench: ClientFixture) -> None:
    proxy = bench.serving(answering(reply(403, FIREWALL, HTML)))

    error = failed(proxied(bench, f"http://team:{SECRET}@127.0.0.1:{proxy.port}", "http://platform.example/v2"))

    assert str(error).endswith(
        f"let it allow requests to platform.example; the request went through the proxy 127.0.0.1:{proxy.port}"
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://team:p%40ss@proxy.example:3128", "http://proxy.example:3128"),
        ("http://team:p@ss@proxy.example", "http://proxy.example"),
        ("https://proxy.example:8443/path?password=x", "https://proxy.example:8443"),
        ("http://team@[2001:db8::1]:3128", "http://[2001:db8::1]:3128"),
    ],
)
def test_a_proxy_is_shown_without_credentials(url: str, shown: str) -> None:
    assert without_credentials(url) == shown


# ---- TLS ----


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return new_certificate(tmp_path_factory.mktemp("certificate"))


def of_time(folder: Path, begins: str, ends: str) -> Certificate:
    """A certificate for localhost that is valid from *begins* to *ends*, signed by itself."""
    made = new_certificate(folder)
    (folder / "index.txt").touch()
    (folder / "serial").write_text("01")
    (folder / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=c\n[c]\ndatabase={folder}/index.txt\nserial={folder}/serial\nnew_certs_dir={folder}\n"
        "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n"
        "[e]\nsubjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:true\n"
        "subjectKeyIdentifier=hash\nkeyUsage=critical,digitalSignature,keyCertSign\n"
    )
    request = folder / "request.pem"
    openssl = tool("openssl")
    for line in (
        [openssl, "req", "-new", "-key", str(made.key), "-subj", "/CN=localhost", "-out", str(request)],
        [
            *(openssl, "ca", "-batch", "-selfsign", "-config", str(folder / "ca.cnf"), "-extensions", "e"),
            *("-keyfile", str(made.key), "-in", str(request), "-out", str(made.cert), "-notext"),
            *("-startdate", begins, "-enddate", ends),
        ],
    ):
        subprocess.run(line, check=True, capture_output=True)
    return made


def shown(bench: ClientFixture, tls: ssl.SSLContext, trusted: Path | None, host: str = "localhost") -> str:
    """The error for a server that shows this certificate."""
    server = bench.serving(answering(reply(body=USER)), tls)
    certificates = TrustedCertificates(None if trusted is None else str(trusted))

    error = failed(bench.client(f"https://{host}:{server.port}/v2", tls=certificates))

    assert isinstance(error, TransportFailed)
    assert error.status == "connect"
    assert server.heads == []
    return str(error)


@pytest.mark.tools("openssl")
def test_an_expired_certificate_is_named(bench: ClientFixture, tmp_path: Path) -> None:
    expired = of_time(tmp_path, "20200101000000Z", "20200201000000Z")

    assert shown(bench, expired.server(), expired.cert) == (
        "cannot connect to localhost: its certificate has expired"
        " (CERTIFICATE_VERIFY_FAILED: certificate has expired);"
        " check this machine's clock, else localhost needs a new certificate"
    )


@pytest.mark.tools("openssl")
def test_a_certificate_of_the_future_is_named(bench: ClientFixture, tmp_path: Path) -> None:
    early = of_time(tmp_path, "20900101000000Z", "20910101000000Z")

    assert shown(bench, early.server(), early.cert) == (
        "cannot connect to localhost: its certificate is not valid yet"
        " (CERTIFICATE_VERIFY_FAILED: certificate is not yet valid); check this machine's clock"
    )


@pytest.mark.tools("openssl")
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_certificate_for_another_host_is_named(bench: ClientFixture, tmp_path: Path, host: str) -> None:
    authority = Authority(tmp_path)
    other = authority.issue("other", sans="DNS:other.example,IP:192.0.2.1")

    words = shown(bench, other.server(), authority.certificate, host)

    assert words.startswith(f"cannot connect to {host}: its certificate is for another host name (CERTIFICATE_VERIFY_")
    assert words.endswith(
        "; check api_endpoint, and whether another server, such as the login page of this network,"
        " responds in its place"
    )


@pytest.mark.tools("openssl")
def test_a_certificate_that_is_refused_for_another_reason_is_named(bench: ClientFixture, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    of_a_client = authority.issue("client", usage="clientAuth")

    words = shown(bench, of_a_client.server(), authority.certificate)

    assert words.startswith("cannot connect to localhost: its certificate is not accepted (CERTIFICATE_VERIFY_FAILED: ")


@pytest.mark.tools("openssl")
@pytest.mark.parametrize("by", ["system", "ca_file", "SSL_CERT_FILE"])
def test_an_unknown_authority_is_named(
    bench: ClientFixture, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    other = Authority(tmp_path).certificate
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    if by == "SSL_CERT_FILE":
        monkeypatch.setenv(by, str(other))
    place = {"ca_file": f"to {other}", "SSL_CERT_FILE": f"to {other}, which SSL_CERT_FILE names"}

    words = shown(bench, certificate.server(), other if by == "ca_file" else None)

    assert words.startswith(
        "cannot connect to localhost: its certificate is signed by an authority that is not trusted"
    )
    default = certificate_source(None, {}).place
    assert words.endswith(f"; if a proxy decrypts traffic on the way, add its authority {place.get(by, default)}")


@pytest.mark.parametrize("answer", [reply(400, b"<html>"), b"220 mail.example ESMTP\r\n", b"SSH-2.0-OpenSSH_9\r\n"])
def test_a_server_without_tls_is_named(bench: ClientFixture, answer: bytes) -> None:
    def script(connection: Connection) -> None:
        connection.send(answer)
        connection.wait_until_left()

    server = bench.serving(script)

    error = failed(bench.client(f"https://localhost:{server.port}/v2", tls=TrustedCertificates(None)))

    assert isinstance(error, Unreachable)
    assert str(error).startswith("cannot connect to localhost: its response is not TLS (")
    assert str(error).endswith("; check the scheme and port of api_endpoint")


def test_a_server_that_ends_the_handshake_is_named(bench: ClientFixture) -> None:
    server = bench.serving(leaves_at_once)

    error = failed(bench.client(f"https://localhost:{server.port}/v2", tls=TrustedCertificates(None)))

    assert str(error).startswith("cannot connect to localhost: the TLS handshake failed: ")


def test_a_proxy_without_tls_is_named(bench: ClientFixture) -> None:
    def script(connection: Connection) -> None:
        connection.send(reply(400))
        connection.wait_until_left()

    proxy = bench.serving(script)

    error = failed(proxied(bench, f"https://team:{SECRET}@localhost:{proxy.port}"))

    assert str(error).startswith(f"cannot connect to the proxy localhost:{proxy.port}: its response is not TLS (")
    assert str(error).endswith("; check the proxy's URL with http://")


@pytest.mark.tools("openssl")
def test_an_untrusted_certificate_of_a_proxy_is_named(bench: ClientFixture, certificate: Certificate) -> None:
    proxy = bench.serving(answering(reply()), certificate.server())

    error = failed(proxied(bench, f"https://team:{SECRET}@localhost:{proxy.port}"))

    assert str(error).startswith(f"cannot connect to the proxy localhost:{proxy.port}: its certificate is signed by")


@pytest.mark.tools("openssl")
def test_a_proxy_that_decrypts_traffic_is_named(bench: ClientFixture, certificate: Certificate) -> None:
    server = bench.serving(hangs_up(reply(body=USER)), certificate.server())
    proxy = bench.serving(relay(server.port))
    client = proxied(bench, f"http://127.0.0.1:{proxy.port}")

    error = failed(client)

    assert str(error).startswith(
        f"cannot connect to platform.example through the proxy 127.0.0.1:{proxy.port}: its certificate is signed by"
        " an authority that is not trusted here (CERTIFICATE_VERIFY_FAILED: "
    )
    assert bench.told.statuses == ["connect"] * ATTEMPTS
    failed(client)
    assert bench.told.statuses == ["connect"] * ATTEMPTS * 2


@pytest.mark.tools("openssl")
@pytest.mark.fault(
    "a TLS handshake through a proxy fails",
    action="connects again",
    shown="nothing",
    recovery="the next attempt",
)
def test_a_handshake_through_a_proxy_that_fails_does_not_block_the_next_one(
    bench: ClientFixture, certificate: Certificate
) -> None:
    good = bench.serving(hangs_up(reply(body=USER)), certificate.server())
    bad = bench.serving(leaves_at_once)
    ways = [relay(bad.port), relay(good.port)]

    def first_bad(connection: Connection) -> None:
        ways.pop(0)(connection)

    proxy = bench.serving(first_bad)
    tls = TrustedCertificates(str(certificate.cert))

    client = bench.client(f"https://localhost:{good.port}/v2", tls=tls, proxy=f"http://127.0.0.1:{proxy.port}")

    assert client.user().value == "rfranklin"
    assert bench.told.statuses == ["connect", "200"]

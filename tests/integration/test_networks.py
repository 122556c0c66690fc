"""``check`` and the daemon behind proxies and firewalls, with the platforms' host names and real certificates."""

import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.simulator.scripts import JobScript
from exporter.simulator.server import DEMO_TOKEN, QUIET, RunningSimulator, running
from tests.certificates import Authority, Certificate
from tests.harness import Account, Daemon, Installation
from tests.proxy import proxying
from tests.raw_server import Connection, answering, reply, serving
from tests.waiting import eventually

pytestmark = pytest.mark.tools("openssl")

HOST = "cavatica-api.sbgenomics.com"
ENDPOINT = f"https://{HOST}/v2"
PASSWORD = "pr0xy-s3cret"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    """The platform's certificate, or that of a proxy that decrypts the traffic: for a client they are the same."""
    return authority.issue("platform", sans=f"DNS:{HOST}")


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running(QUIET) as platform:
        yield platform


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Installation]:
    """An account of a platform by its real name: without a proxy, tests would contact it."""
    with Installation(tmp_path / "etc", Account("lab", ENDPOINT, DEMO_TOKEN), request_timeout=10) as installation:
        yield installation


def port_of(simulator: RunningSimulator) -> int:
    return int(simulator.url.rpartition(":")[2].partition("/")[0])


def checked(site: Installation, **environment: str) -> tuple[int, dict[str, str], Daemon]:
    """The exit code of ``check``, its findings by label, and the process."""
    check = site.start("check", "--verbose", "--config", str(site.config), **environment)
    code = check.end()
    findings = dict(re.findall(r"^  (\S+(?: limit| step)?)\s{2,}(.*)$", check.stdout, re.MULTILINE))
    for secret in (PASSWORD, (site.folder / "lab.token").read_text().strip()):
        assert secret not in check.output()
    return code, findings, check


@pytest.mark.parametrize("lower", [False, True])
def test_authority_of_the_environment_is_trusted_through_a_proxy(
    simulator: RunningSimulator, site: Installation, authority: Authority, certificate: Certificate, *, lower: bool
) -> None:
    with proxying(port_of(simulator), certificate, credentials=f"team:{PASSWORD}") as proxy:
        name = "https_proxy" if lower else "HTTPS_PROXY"
        environment = {name: f"http://team:{PASSWORD}@{proxy.address}", "SSL_CERT_FILE": str(authority.certificate)}

        code, findings, _ = checked(site, **environment)

        assert (code, findings.get("error")) == (0, None)
        assert findings["user"] == "demo"
        assert set(proxy.targets) == {f"{HOST}:443"}


def test_authority_that_nothing_trusts_is_named(
    simulator: RunningSimulator, site: Installation, certificate: Certificate
) -> None:
    with proxying(port_of(simulator), certificate) as proxy:
        code, findings, _ = checked(site, HTTPS_PROXY=f"http://{proxy.address}")

    assert code == 1
    assert findings["error"].startswith(
        f"cannot connect to {HOST} through the proxy {proxy.address}: its certificate is signed by an authority that"
        " is not trusted here (CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate); if a proxy decrypts"
        " traffic on the way, add its authority"
    )


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ("", "demands valid credentials (407); write user and password into its URL"),
        ("403 Blocked", f"refuses to connect to {HOST} (403 Blocked); let it allow that host, or set NO_PROXY"),
    ],
)
def test_refusal_of_a_proxy_is_named(site: Installation, refusal: str, words: str) -> None:
    with proxying(9, credentials="" if refusal else f"team:{PASSWORD}", refusal=refusal) as proxy:
        code, findings, _ = checked(site, HTTPS_PROXY=f"http://team:{PASSWORD}x@{proxy.address}")

    assert code == 1
    assert findings["error"] == f"the proxy {proxy.address} {words}"


def test_proxy_that_is_down_is_named(site: Installation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    code, findings, _ = checked(site, HTTPS_PROXY=f"http://team:{PASSWORD}@127.0.0.1:{port}")

    assert code == 1
    assert findings["error"] == (
        f"cannot connect to the proxy 127.0.0.1:{port}: Connection refused; check proxy, HTTPS_PROXY and NO_PROXY"
    )


@pytest.mark.parametrize("no_proxy", ["*.platform.invalid", "localhost, platform.invalid", ".invalid:443", "*"])
def test_hosts_of_no_proxy_are_reached_directly(tmp_path: Path, no_proxy: str) -> None:
    account = Account("lab", "https://api.platform.invalid/v2", DEMO_TOKEN)
    with proxying(9) as proxy, Installation(tmp_path / "etc", account) as site:
        code, findings, _ = checked(site, HTTPS_PROXY=f"http://{proxy.address}", NO_PROXY=no_proxy)

        assert code == 1
        assert findings["error"].startswith("cannot connect to api.platform.invalid: its name cannot be resolved")
        assert proxy.targets == []


def test_token_of_another_platform_or_expired_is_explained(
    simulator: RunningSimulator, site: Installation, authority: Authority, certificate: Certificate
) -> None:
    site.write_token("lab", "f" * 32)
    with proxying(port_of(simulator), certificate) as proxy:
        environment = {"HTTPS_PROXY": f"http://{proxy.address}", "SSL_CERT_FILE": str(authority.certificate)}

        code, findings, _ = checked(site, **environment)

    assert code == 1
    assert findings["error"] == (
        "the platform refused the token: 401 'Unauthorized.' (code 90001); for a new one, see"
        " https://cavatica.sbgenomics.com/developer"
    )
    assert findings["next step"] == (
        "it has expired or been replaced, or belongs to another platform; write a valid token of this user, and nothing"
        f" else, to the token file {site.folder / 'lab.token'}; it is used within seconds"
    )


def test_login_page_of_a_network_is_named(site: Installation, authority: Authority, certificate: Certificate) -> None:
    page = reply(200, b"<html><title>Welcome to Hotel WLAN</title></html>", {"content-type": "text/html"})
    with serving(answering(page)) as portal, proxying(portal.port, certificate) as proxy:
        environment = {"HTTPS_PROXY": f"http://{proxy.address}", "SSL_CERT_FILE": str(authority.certificate)}

        code, findings, check = checked(site, **environment)

    assert code == 1
    assert findings["error"] == (
        "got an HTML page titled 'Welcome to Hotel WLAN' with status 200, not the API: a web site, or the login page of"
        f" this network? check api_endpoint ({ENDPOINT}); the request went through the proxy {proxy.address}"
    )
    assert check.lines == []


@pytest.mark.fault(
    "an authority that is not trusted, then a firewall",
    action="trusts the authority as soon as it is added; keeps the token",
    shown="`unreachable`, then `bad_answer`",
    recovery="the authority is added; the firewall lets requests pass",
)
def test_daemon_survives_a_firewall_and_trusts_an_authority_added_later(
    simulator: RunningSimulator, site: Installation, tmp_path: Path, authority: Authority, certificate: Certificate
) -> None:
    trusted = tmp_path / "trusted.pem"
    shutil.copy(Authority(tmp_path / "other").certificate, trusted)
    blocked = False

    def firewall(connection: Connection) -> None:
        with socket.create_connection(("127.0.0.1", port_of(simulator))) as platform:
            while True:
                head = connection.request()
                if blocked and b"/async/" in head:
                    connection.send(reply(403, b"<html><title>Blocked</title></html>", {"set-cookie": "id=1"}))
                    continue
                platform.sendall(head)
                connection.send(_response(platform))

    with serving(firewall) as between, proxying(between.port, certificate) as proxy:
        environment = {"HTTPS_PROXY": f"http://{proxy.address}", "SSL_CERT_FILE": str(trusted)}
        with site.running(**environment) as daemon:
            daemon.await_polls("lab", result="unreachable")
            shutil.copy(authority.certificate, trusted)
            daemon.await_polls("lab")
            assert daemon.await_event("certificates.reloaded")

            blocked = True
            simulator.platform.submit(JobScript(total=3, queued=0, resolving=0, running=0))
            scrape = daemon.await_polls("lab", 3, result="bad_answer")
            assert scrape.value("sbg_auth_ok", account="lab") == 1
            [failed] = [event for event in daemon.said("poll.failed") if event["result"] == "bad_answer"]
            assert str(failed["reason"]).startswith(
                "got an HTML page titled 'Blocked' with status 403, which says nothing"
            )

            blocked = False
            finished = eventually(
                lambda: daemon.scrape().value(
                    "sbg_jobs_finished_total", account="lab", operation="copy", outcome="succeeded"
                )
            )
            assert finished == 1
            assert daemon.scrape().total("sbg_exporter_polls_total", account="lab", result="unauthorized") == 0
        assert all(b"\r\ncookie" not in head.lower() for head in between.heads)


def _response(platform: socket.socket) -> bytes:
    """One response of the platform, by its Content-Length."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += platform.recv(1)
    found = re.search(rb"content-length: (\d+)", head.lower())
    left = int(found[1]) if found else 0
    body = b""
    while len(body) < left:
        body += platform.recv(left - len(body))
    return head + body

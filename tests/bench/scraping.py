"""A scrape of 10,000 series, against prometheus-client's own server with the same samples, and against one over TLS."""

import base64
import http.client
import ssl
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import bcrypt

from tests.bench.processes import line_of, running
from tests.bench.report import row
from tests.certificates import Authority

_SERIES = 10_000
_ROUNDS = 200
_SCRAPES = 20
_PASSWORD = "password"
_MOST_OVER_TLS = 1.5
_HEADERS = {  # as Prometheus 2.42 sends them
    "Accept": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
    "User-Agent": "Prometheus/2.42.0",
}

_NONE: Mapping[str, str] = {}


def measure() -> None:
    """Print requests per second of both, their ratio, and our slowest percent."""
    with running("-m", "tests.bench.scraped", "ours", str(_SERIES)) as ours:
        port = int(line_of(ours, r"port (\d+)"))
        quick = scrape_for(port, seconds=5)
    with running("-m", "tests.bench.scraped", "client", str(_SERIES)) as client:
        port = int(line_of(client, r"port (\d+)"))
        slow = scrape_for(port, seconds=5)
    row(f"ours, {_SERIES:,} series, a picture a second", f"{len(quick) / sum(quick):.0f} /s")
    row("prometheus-client's start_http_server", f"{len(slow) / sum(slow):.1f} /s")
    row("ours / prometheus-client's", f"{sum(slow) / len(slow) * len(quick) / sum(quick):.0f}", "at least 100")
    row("ours, slowest percent", f"{sorted(quick)[int(len(quick) * 0.99)] * 1000:.1f} ms", "under 10")


def measure_tls() -> None:
    """Print how much longer a scrape takes over TLS with a password, on a connection that is kept."""
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(Path(folder))
        authority.issue("server")
        digest = bcrypt.hashpw(_PASSWORD.encode(), bcrypt.gensalt(10)).decode()
        (Path(folder) / "web-config.yml").write_text(
            f"tls_server_config: {{cert_file: server.pem, key_file: server.key}}\nbasic_auth_users: {{a: {digest}}}\n",
            encoding="utf-8",
        )
        trusting = ssl.create_default_context(cafile=authority.certificate)
        password = {"Authorization": f"Basic {base64.b64encode(f'a:{_PASSWORD}'.encode()).decode()}"}
        with (
            running("-m", "tests.bench.scraped", "ours", str(_SERIES)) as ours,
            running("-m", "tests.bench.scraped", "tls", str(_SERIES), folder) as secured,
        ):
            plain_port, port = (int(line_of(each, r"port (\d+)")) for each in (ours, secured))
            plain = http.client.HTTPConnection("127.0.0.1", plain_port, timeout=60)
            encrypted = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=trusting)
            scrape(encrypted, 1, password)  # the handshake, and the comparison of the password
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(_ROUNDS):  # in turns, so that a busy moment of the machine is both's
                times[0].extend(scrape(plain, _SCRAPES))
                times[1].extend(scrape(encrypted, _SCRAPES, password))
            plain.close()
            encrypted.close()
    usual, secure = map(statistics.median, times)
    row("ours over TLS with a password, median", f"{secure * 1000:.2f} ms")
    row("over TLS / plain, medians", f"{secure / usual:.2f}", "at most 1.5", met=secure / usual <= _MOST_OVER_TLS)


def scrape_for(port: int, seconds: float) -> list[float]:
    """The times of scrapes over one connection, as far as the server keeps it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    times: list[float] = []
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        times += scrape(connection, 1)
    connection.close()
    return times


def scrape(connection: http.client.HTTPConnection, number: int, headers: Mapping[str, str] = _NONE) -> list[float]:
    """The times of *number* scrapes."""
    times: list[float] = []
    for _ in range(number):
        began = time.perf_counter()
        connection.request("GET", "/metrics", headers={**_HEADERS, **headers})
        response = connection.getresponse()
        response.read()
        times.append(time.perf_counter() - began)
        assert response.status == http.client.OK
    return times

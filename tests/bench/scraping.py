"""A scrape of 10,000 series, against prometheus-client's own server with the same samples."""

import http.client
import time

from tests.bench.processes import line_of, running
from tests.bench.report import row

_SERIES = 10_000
_HEADERS = {  # as Prometheus 2.42 sends them
    "Accept": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
    "User-Agent": "Prometheus/2.42.0",
}


def measure() -> None:
    """Print requests per second of both, their ratio, and our slowest percent."""
    with running("-m", "tests.bench.scraped", "ours", str(_SERIES)) as ours:
        port = int(line_of(ours, r"port (\d+)"))
        quick = scrape(port, seconds=5)
    with running("-m", "tests.bench.scraped", "client", str(_SERIES)) as client:
        port = int(line_of(client, r"port (\d+)"))
        slow = scrape(port, seconds=5)
    row(f"ours, {_SERIES:,} series, a picture a second", f"{len(quick) / sum(quick):.0f} /s")
    row("prometheus-client's start_http_server", f"{len(slow) / sum(slow):.1f} /s")
    row("ours / prometheus-client's", f"{sum(slow) / len(slow) * len(quick) / sum(quick):.0f}", "at least 100")
    row("ours, slowest percent", f"{sorted(quick)[int(len(quick) * 0.99)] * 1000:.1f} ms", "under 10")


def scrape(port: int, seconds: float) -> list[float]:
    """The times of scrapes over one connection, as far as the server keeps it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    times: list[float] = []
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        began = time.perf_counter()
        connection.request("GET", "/metrics", headers=_HEADERS)
        connection.getresponse().read()
        times.append(time.perf_counter() - began)
    connection.close()
    return times

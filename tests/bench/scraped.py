"""The servers that are scraped: ``ours N``, ``tls N FOLDER`` and ``client N``, each with N series of the same samples.

``tls`` is ours over TLS with a password: ``FOLDER`` has the web configuration.
"""

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from exporter.api.models import Job
from exporter.config.web_config import PLAIN, load_web_config
from exporter.counting.rules import initial_changes, reconcile
from exporter.counting.values import Account, Ledger, Observations, Rules
from exporter.metrics.exposition import Exposition, Format
from exporter.metrics.snapshot import AccountSnapshot, DisplayOptions, ExporterStats, SnapshotRegistry
from exporter.web.app import application
from exporter.web.server import bound_sockets, serving
from tests.snapshots import STATUS

_NOW = 1_790_000_000.0
_DISPLAY = DisplayOptions(job_series=100_000, failed_job_window=86400, show_username=True)


def snapshot(series: int, scrape: int) -> AccountSnapshot:
    """An account with about *series* series: seven for each unfinished job with failed files."""
    rules = Rules()
    account = Account(1, "https://p/v2", "u", "", _NOW, ever_listed=True)
    jobs = {str(n): Job(str(n), "copy", "running", 100, scrape % 100, 1, _NOW) for n in range((series - 400) // 7)}
    ledger = Ledger(account, {}, {}, {}, {}, {}, 0).after(initial_changes(account, rules, _NOW))
    ledger = ledger.after(
        reconcile(ledger, {}, Observations(jobs.values(), jobs.keys()), rules, local_time=_NOW, server_time=_NOW)
    )
    return AccountSnapshot("large", "https://p/v2", ledger, ledger.listed, STATUS, gauges_until=float("inf"))


class Same(Collector):
    """The same samples, for the client library to render."""

    def __init__(self, page: str) -> None:
        self._families = list(text_string_to_metric_families(page))  # type: ignore[no-untyped-call]  # the library has no types

    def collect(self) -> Iterator[Metric]:
        """All families."""
        return iter(self._families)


def main(which: str, series: int, folder: str = "") -> None:
    """Serve until killed."""
    snapshot_registry = SnapshotRegistry(("large",))
    snapshot_registry.put(snapshot(series, 0))
    exposition = Exposition(snapshot_registry, lambda: ExporterStats(0, 0, 0, 0.0), _DISPLAY, time.time)
    if which == "client":
        registry = CollectorRegistry()
        registry.register(Same(exposition.account_families(Format.OPENMETRICS).decode() + "# EOF\n"))
        server, _ = start_http_server(0, "127.0.0.1", registry)
        sys.stdout.write(f"port {server.server_port}\n")
        sys.stdout.flush()
        threading.Event().wait()
    app = application(exposition, unhealthy=str, unready=str, status_page=str)
    config = load_web_config(Path(folder) / "web-config.yml") if which == "tls" else PLAIN
    with serving(app, bound_sockets("127.0.0.1", 0), config=lambda: config) as port:
        sys.stdout.write(f"port {port}\n")
        sys.stdout.flush()
        for poll in range(1, 10**9):
            time.sleep(1)
            snapshot_registry.put(snapshot(series, poll))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])

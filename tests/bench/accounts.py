"""One daemon that watches 500 accounts of 200 jobs each, and one more whose platform accepts and never answers."""

import socket
import tempfile
import time
from pathlib import Path

from exporter.simulator.server import QUIET, SimulatorSettings
from exporter.simulator.server import running as simulated
from tests.bench.processes import Page, cpu_seconds, line_of, page_when, resident, running
from tests.bench.report import fail, row

_ACCOUNTS = 500
_JOBS = 200
_INTERVAL = 60.0
_LOOK = 5.0
_LATE = 1.0
"""Seconds by which a poll may be late, for a machine that does other things too."""


def measure() -> None:
    """Print processor time over an interval, memory, and how late any account but the one that hangs is polled."""
    tokens = {f"{n:032x}": f"user-{n}" for n in range(1, _ACCOUNTS)}
    settings = SimulatorSettings(listen=QUIET.listen, jobs=_JOBS, rate=1 / 60, token=f"{0:032x}", users=tokens)
    with (
        simulated(settings) as simulator,
        socket.create_server(("127.0.0.1", 0), backlog=128) as silent,
        tempfile.TemporaryDirectory() as folder,
    ):
        entries = [(f"account-{n}", simulator.url, token) for n, token in enumerate([settings.token, *tokens])]
        entries.insert(_ACCOUNTS // 2, ("hung", f"http://127.0.0.1:{silent.getsockname()[1]}/v2", "f" * 32))
        config = Path(folder) / "config.toml"
        config.write_text(
            f'state_file = "{folder}/state.db"\nlisten = "127.0.0.1:0"\npoll_interval = {_INTERVAL}\n'
            + "".join(
                f'[[accounts]]\nname = "{name}"\napi_endpoint = "{url}"\nauth_token = "{token}"\n'
                for name, url, token in entries
            ),
            encoding="utf-8",
        )
        with running("-m", "exporter", "run", "--config", str(config), "--log-format", "json") as daemon:
            port = line_of(daemon, r'"listen": ":?[^"]*:(\d+)"')
            _watch(daemon.pid, port, [name for name, _, _ in entries])


def _watch(pid: int, port: str, names: list[str]) -> None:
    began = time.perf_counter()
    page_when(port, lambda page: len(_polled(page)) == _ACCOUNTS, every=1)
    row(f"{_ACCOUNTS} accounts listed for the first time, after", f"{time.perf_counter() - began:.0f} s")
    time.sleep(_INTERVAL - (time.perf_counter() - began))  # from then on each has its place in the interval
    spent, began = cpu_seconds(pid), time.perf_counter()
    while (elapsed := time.perf_counter() - began) < _INTERVAL + 1:
        page_when(port)
        time.sleep(_LOOK)
    share = (cpu_seconds(pid) - spent) / elapsed
    row(
        f"processor time over {elapsed:.0f} s, a scrape every {_LOOK:g} s included",
        f"{share * 100:.1f} %",
        "under 50",
        met=share < 0.5,
    )
    memory = resident(pid)
    row("resident", f"{memory:.0f} MiB", "under 400", met=memory < 400)
    page = page_when(port)
    polled = _polled(page)
    if len(polled) != _ACCOUNTS:
        fail(f"{_ACCOUNTS - len(polled)} accounts were never polled")
    # Where each is in the interval, less where it should be: the same for all, but for those that are late.
    places = [(polled[name] - _INTERVAL * n / len(names)) % _INTERVAL for n, name in enumerate(names) if name in polled]
    first = min(places, key=lambda place: sum((other - place) % _INTERVAL for other in places))
    late = max((place - first) % _INTERVAL for place in places)
    row(
        f"latest of the last polls of {len(places)} accounts",
        f"{late:.2f} s late",
        f"under {_LATE:g}, whoever hangs",
        met=late < _LATE,
    )
    ended = sum(n for labels, n in page.samples("sbg_exporter_polls_total").items() if 'account="hung"' in labels)
    row("polls of the one that hangs, ended without an answer", f"{ended:g}")


def _polled(page: Page) -> dict[str, float]:
    """When each account that answers was last polled."""
    samples = page.samples("sbg_exporter_last_success_timestamp_seconds")
    return {labels.split('"')[1]: at for labels, at in samples.items() if 'account="hung"' not in labels}

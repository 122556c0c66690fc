"""A daemon that keeps the state of 100,000 retained jobs: its memory, its processor time, and its restart."""

import tempfile
import time
from pathlib import Path

from exporter.simulator.server import DEMO_TOKEN, QUIET, SimulatorSettings
from exporter.simulator.server import running as simulated
from tests.bench.processes import cpu_seconds, line_of, page_when, resident, running
from tests.bench.report import fail, row

_JOBS = 100_000
_UNFINISHED = 20
_SAMPLED = 15.0
"""Seconds for which processor time is taken, twice: at polls a second apart, and at polls far between."""
_FAR = 7.5
_USUAL = 30.0
_EXPIRED_MEANWHILE = 5
"""Jobs that may leave the platform during the measurement, which a watched account shows at its next full listing."""


def measure() -> None:
    """Print what it takes after its first listing, between full listings, and to come back."""
    settings = SimulatorSettings(
        listen=QUIET.listen, jobs=_JOBS, rate=0, rate_limit=1_000_000, unfinished=_UNFINISHED, unfinished_among=300
    )
    with simulated(settings) as simulator, tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"

        def write(poll_interval: float) -> None:
            config.write_text(
                f'state_file = "{folder}/state.db"\nlisten = "127.0.0.1:0"\npoll_interval = {poll_interval}\n'
                f'[[accounts]]\nname = "large"\napi_endpoint = "{simulator.url}"\nauth_token = "{DEMO_TOKEN}"\n',
                encoding="utf-8",
            )

        costs: dict[float, float] = {}
        for interval in (1.0, _FAR):
            write(interval)
            began = time.perf_counter()
            with running("-m", "exporter", "run", "--config", str(config), "--log-format", "json") as daemon:
                port = line_of(daemon, r'"listen": ":?[^"]*:(\d+)"')
                page = page_when(port, lambda page: page.total("sbg_jobs") > 0)
                took = time.perf_counter() - began
                if abs((listed := page.total("sbg_jobs")) - len(simulator.platform.listed())) > _EXPIRED_MEANWHILE:
                    fail(f"sbg_jobs adds up to {listed:.0f}")
                if not costs:
                    row(
                        f"first listing of {listed:,.0f} jobs, {page.total('sbg_exporter_state_jobs'):,.0f} kept",
                        f"{took:.1f} s",
                    )
                    row(
                        "resident after the first listing",
                        f"{resident(daemon.pid):.0f} MiB",
                        "under 100",
                        met=resident(daemon.pid) < 100,
                    )
                    row("  at most", f"{resident(daemon.pid, 'VmHWM'):.0f} MiB")
                else:
                    row("restart to the first right scrape", f"{took:.2f} s", "under 3", met=took < 3)
                polls = page.total("sbg_exporter_polls_total")
                spent = cpu_seconds(daemon.pid)
                time.sleep(_SAMPLED)
                costs[interval] = (cpu_seconds(daemon.pid) - spent) / _SAMPLED
                polls = page_when(port).total("sbg_exporter_polls_total") - polls
                row(
                    f"processor time at polls {interval:g} s apart ({polls:.0f} of them)",
                    f"{costs[interval] * 100:.2f} %",
                )
                if interval == _FAR:
                    row(
                        "resident after the restart",
                        f"{resident(daemon.pid):.0f} MiB",
                        "under 100",
                        met=resident(daemon.pid) < 100,
                    )
    # What goes on all the time, and what each poll costs, from the two.
    poll = (costs[1.0] - costs[_FAR]) / (1 - 1 / _FAR)
    share = costs[1.0] - poll + poll / _USUAL
    row("processor time of a poll", f"{poll * 1000:.1f} ms")
    row(f"so at polls {_USUAL:g} s apart, slices included", f"{share * 100:.2f} %", "under 1", met=share < 0.01)

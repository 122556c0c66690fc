"""What an idle daemon with one small account takes."""

import tempfile
import time
from pathlib import Path

from exporter.simulator.scripts import JobScript
from exporter.simulator.server import DEMO_TOKEN, QUIET
from exporter.simulator.server import running as simulated
from tests.bench.processes import line_of, resident, running, until_answered
from tests.bench.report import row

_POLLS = 10


def measure() -> None:
    """Print the time to the first healthy answer, resident memory and processor time per poll."""
    with simulated(QUIET) as simulator, tempfile.TemporaryDirectory() as folder:
        for _ in range(50):
            simulator.platform.submit(JobScript(total=3, running=0, queued=0, resolving=0))
        config = Path(folder) / "config.toml"
        config.write_text(
            f'state_file = "{folder}/state.db"\nlisten = "127.0.0.1:0"\npoll_interval = 1\n'
            f'[[accounts]]\nname = "small"\napi_endpoint = "{simulator.url}"\nauth_token = "{DEMO_TOKEN}"\n',
            encoding="utf-8",
        )
        began = time.perf_counter()
        with running("-m", "exporter", "run", "--config", str(config), "--log-format", "json") as daemon:
            port = line_of(daemon, r'"listen": ":?[^"]*:(\d+)"')
            until_answered(f"http://127.0.0.1:{port}/-/healthy")
            row("start to first healthy answer", f"{time.perf_counter() - began:.2f} s", "under 1.5")
            until_answered(f"http://127.0.0.1:{port}/-/ready")
            until_answered(f"http://127.0.0.1:{port}/metrics")
            time.sleep(_POLLS)
            row(f"resident after {_POLLS} polls and a scrape", f"{resident(daemon.pid):.0f} MiB", "under 70")
            spent = sum(int(each) for each in Path(f"/proc/{daemon.pid}/stat").read_text().split()[13:15])
            time.sleep(_POLLS)
            after = sum(int(each) for each in Path(f"/proc/{daemon.pid}/stat").read_text().split()[13:15])
            row("processor time of a poll in which nothing changed", f"{(after - spent) * 10 / _POLLS:.1f} ms")

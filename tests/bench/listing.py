"""A list of 100,000 jobs, from a local server to the committed ledger, against the official client reading it."""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sevenbridges

from tests.bench.processes import line_of, running
from tests.bench.report import row

_JOBS = 100_000
_TOKEN = "0123456789abcdef0123456789abcdef"
_SERVER = f"""
import threading
from exporter.simulator.server import SimulatorSettings, running
settings = SimulatorSettings(listen="127.0.0.1:0", jobs={_JOBS}, rate=0, rate_limit=10**6, files_per_job=3)
with running(settings) as simulator:
    print("url", simulator.url, flush=True)
    threading.Event().wait()
"""


def measure() -> None:
    """Print both times, their ratio, and the memory of ours."""
    with running("-c", _SERVER) as server, tempfile.TemporaryDirectory() as folder:
        url = line_of(server, r"url (\S+)")
        config = Path(folder) / "config.toml"
        config.write_text(
            f'state_file = "{folder}/state.db"\nrate_share = 1.0\nhistory = "count"\n'
            f'[[accounts]]\nname = "large"\napi_endpoint = "{url}"\nauth_token = "{_TOKEN}"\n',
            encoding="utf-8",
        )
        once = [sys.executable, "-m", "exporter", "once", "--config", str(config), "--log-level", "error"]
        for what in ("first listing, everything counted", "second listing, everything known"):
            began = time.perf_counter()
            page = subprocess.run(once, check=True, capture_output=True).stdout  # our own module
            ours = time.perf_counter() - began
            listed = sum(float(line.split()[-1]) for line in page.decode().splitlines() if line.startswith("sbg_jobs{"))
            row(f"{what}: {listed:,.0f} jobs", f"{ours:.1f} s")
        row(
            "most memory of either",
            f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB",
            "under 110",
        )
        api = sevenbridges.Api(url=url, token=_TOKEN, debug=True)
        began = time.perf_counter()
        read = sum(1 for _ in api.async_jobs.list_file_jobs(limit=100).all())
        official = time.perf_counter() - began
        row(f"official client reads {read:,} jobs", f"{official:.1f} s")
        row("official client / ours (second listing)", f"{official / ours:.1f}", "at least 5")

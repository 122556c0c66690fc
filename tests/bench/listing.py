"""A list of 100,000 jobs, from a local server to the committed ledger, against the official client reading it."""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.processes import line_of, running
from tests.bench.report import row

_JOBS = 100_000
_TOKEN = "0" * 32
_RESULTS = (3, 100)
"""Results a job: as in the platform's own example, and as users submit, a hundred files at a time."""
_OFFICIAL = """
import sys, sevenbridges
api = sevenbridges.Api(url=sys.argv[1], token="0" * 32, debug=True)
print(sum(1 for _ in api.async_jobs.list_file_jobs(limit=100).all()), "jobs")
"""


def measure() -> None:
    """Print the times of whole processes, their ratios, and the memory of ours."""
    for results in _RESULTS:
        with (
            running("-m", "tests.bench.list_server", str(_JOBS), str(results)) as server,
            tempfile.TemporaryDirectory() as folder,
        ):
            url = line_of(server, r"url (\S+)")
            config = Path(folder) / "config.toml"
            config.write_text(
                f'state_file = "{folder}/state.db"\nrate_share = 1.0\n'
                f'[[accounts]]\nname = "large"\napi_endpoint = "{url}"\nauth_token = "{_TOKEN}"\n',
                encoding="utf-8",
            )
            once = ["-m", "exporter", "once", "--config", str(config), "--log-level", "error"]
            first, page = timed(*once)
            second, _ = timed(*once)
            official, told = timed("-c", _OFFICIAL, url)
        listed = sum(float(number) for number in re.findall(r"^sbg_jobs\{.*\} (\S+)$", page, re.MULTILINE))
        peak = re.search(r"^process_resident_memory_bytes (\S+)$", page, re.MULTILINE)
        row(f"{results} results a job, first listing of {listed:,.0f} jobs", f"{first:.1f} s")
        row("second listing, all known", f"{second:.1f} s")
        row(f"official client, {told.strip()}", f"{official:.1f} s")
        row("official client / first listing", f"{official / first:.1f}", "at least 5")
        row("official client / second listing", f"{official / second:.1f}", "at least 5")
        row("resident after the first listing", f"{float(peak[1]) / 2**20 if peak else 0:.0f} MiB", "under 110")


def timed(*arguments: str) -> tuple[float, str]:
    """Seconds of a whole Python process, and its standard output."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - began, done.stdout

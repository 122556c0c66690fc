"""Prometheus counts a counter's first value where it reads when the counter was created."""

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from exporter.simulator.scripts import JobScript
from exporter.simulator.server import QUIET, running
from tests.e2e.monitoring import Prometheus, reserved_address
from tests.harness import Account, Installation
from tests.tools import tool
from tests.waiting import eventually

FEATURE: Final = "created-timestamp-zero-ingestion"
FAILS: Final = JobScript(total=9, failed=5, errors={"5001": 2, "5002": 3}, running=0.2)
BORN: Final = {
    'sbg_jobs_submitted_total{operation="copy"}': 1,
    'sbg_files_failed_total{operation="copy"}': 5,
    'sbg_file_errors_total{operation="copy",code="5002"}': 3,
    'sbg_job_duration_seconds_bucket{operation="copy",outcome="partial",le="+Inf"}': 1,
}
"""What Prometheus sees first when the job has ended, and its value."""
LABELS: Final = ("account", "operation", "outcome", "code")
"""Those with which the exporter shows when a counter was created."""


def without_creation_times() -> str:
    """Why the chosen Prometheus cannot read creation times from OpenMetrics; empty where it can."""

    def says(flag: str) -> str:
        command = tool("prometheus"), flag
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    if FEATURE not in says("--help"):
        return f"this Prometheus does not offer --enable-feature={FEATURE}"
    if old := re.search(r"version 2\.5[0-4]\.\d+", says("--version")):
        return f"Prometheus {old[0]} reads creation times from protocol buffers only"
    return ""


@pytest.mark.tools("prometheus")
def test_prometheus_counts_the_first_value_of_a_counter_that_was_born_above_zero(tmp_path: Path) -> None:
    if reason := without_creation_times():
        pytest.skip(reason)
    with (
        reserved_address() as listen,
        running(QUIET) as simulator,
        Installation(tmp_path / "place", Account.at(simulator), listen=listen, settle_after=1) as place,
        place.running() as exporter,
    ):
        simulator.platform.submit(FAILS)
        page = exporter.scrape_when(
            lambda now: now.total("sbg_jobs_finished_total") and now.series("sbg_file_errors_total")
        )
        with Prometheus(tmp_path / "prometheus", listen, features=[FEATURE]) as prometheus:
            # More than one scrape, because increase() wants two samples also where it does not know of the creation.
            eventually(
                lambda: prometheus.query("count_over_time(up[1h]) > 2"), describe=lambda: prometheus.ask("targets")
            )

            for series, value in BORN.items():
                [found] = prometheus.query(f"{series}[1h]")
                (born, first), (_, second), *_ = found["values"]
                labels = {name: found["metric"][name] for name in LABELS if name in found["metric"]}
                created = page.value(re.sub(r"_(total|bucket)\{.*", "_created", series), **labels)
                assert born == pytest.approx(created, abs=0.001)
                assert (first, second) == ("0", str(value))
                [increase] = prometheus.query(f"increase({series}[1h])")
                assert float(increase["value"][1]) >= value

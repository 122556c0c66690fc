"""The predicted number of series, compared with pages after jobs with failures were polled."""

from dataclasses import replace
from pathlib import Path

import pytest

from exporter.metrics.exposition import Format
from exporter.metrics.series_count import most_series, series_count
from exporter.storage.store import Store
from tests.clocks import ManualClock
from tests.snapshots import DISPLAY, exposition
from tests.unit.test_poller import PollerFixture


@pytest.fixture
def bench(tmp_path: Path, clock: ManualClock, store: Store) -> PollerFixture:
    return PollerFixture(tmp_path, clock, store)


@pytest.mark.parametrize("job_series", [0, 1, 50])
def test_a_page_after_failures_has_at_most_the_series_that_the_first_poll_predicted(
    bench: PollerFixture, job_series: int
) -> None:
    display = replace(DISPLAY, job_series=job_series)
    for number in range(60):
        bench.platform.finish(f"1{number:03d}", completed=1, failed=1)
    first = bench.poll()
    now, most = (count(first, display, bench.clock.now) for count in (series_count, most_series))
    for number in range(120):  # more than have series of their own
        codes = [{"error": {"code": 5000 + (number + each) % 30}} for each in range(4)]
        kind = ("COPY", "MOVE", "DELETE")[number % 3]
        bench.platform.finish(f"2{number:03d}", 1, 4, result=codes, type=kind)
        bench.platform.add(f"3{number:03d}", ("SUBMITTED", "RESOLVING", "RUNNING")[number % 3], type=kind)
    last = bench.poll()

    page = exposition(last, at=bench.clock.now, display=display).account_families(Format.OPENMETRICS)

    series = [line for line in page.splitlines() if line.startswith(b"sbg_")]
    assert series_count(last, display, bench.clock.now) == len(series)
    assert now < len(series) <= most
    per_job = [line for line in series if line.startswith((b"sbg_unfinished_job_", b"sbg_failed_job_"))]
    assert len(per_job) == (6 + 3 + 3) * job_series, "all of them are used"
    assert most - len(series) < 300, "the prediction is of use"

"""The demo: simulator and exporter in one process, without an account."""

import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from exporter.commands.demo import line_of
from tests.clocks import START
from tests.factories import finished_job, job_id, running_job
from tests.harness import OPENMETRICS, Daemon, Installation, Scrape
from tests.ledgers import LedgerFixture
from tests.snapshots import STATUS, UNTRIED, snapshot
from tests.waiting import eventually


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Installation]:
    with Installation(tmp_path / "place") as installed:
        yield installed


def urls(daemon: Daemon) -> dict[str, str]:
    """Return the values that the demo printed, by name."""
    printed = daemon.await_output("Ctrl-C")
    return dict(re.findall(r"^(\w[\w ]*?) +(http://\S+)$", printed, re.MULTILINE))


def look(url: str) -> Scrape:
    answer = httpx.get(url, headers={"accept": OPENMETRICS, "accept-encoding": "identity"}, trust_env=False)
    assert answer.status_code == 200
    return Scrape(answer.text)


def test_demo_prints_urls_and_serves_changing_metrics(place: Installation) -> None:
    daemon = place.start("demo", "--listen", "127.0.0.1:0", "--speed", "60", "--seed", "7")
    there = urls(daemon)
    first = eventually(lambda: scrape if (scrape := look(there["Metrics"])).total("sbg_jobs") else None)
    then = eventually(
        lambda: (
            scrape
            if (scrape := look(there["Metrics"])).total("sbg_files_failed_total")
            > first.total("sbg_files_failed_total")
            else None
        ),
        describe=daemon.output,
    )
    page = httpx.get(there["Status page"], trust_env=False)
    platform = httpx.get(there["Simulated platform"], trust_env=False)

    assert then.total("sbg_jobs_submitted_total") > first.total("sbg_jobs_submitted_total")
    assert then.value("sbg_up", account="demo") == 1
    assert page.status_code == platform.status_code == 200
    assert "demo" in page.text
    daemon.await_output("files counted: ")
    [jobs] = re.findall(r"^Jobs in a terminal +sbg-exporter (jobs --state-file \S+)$", daemon.stdout, re.MULTILINE)
    listed = place.start(*jobs.split())
    assert listed.end() == 0
    assert " copy " in listed.stdout
    assert daemon.stop(signal.SIGINT) == 0
    assert "Traceback" not in daemon.output()
    assert daemon.stdout.splitlines()[-1].startswith("Demo stopped")


def test_it_ends_by_itself_and_leaves_nothing_behind(place: Installation) -> None:
    (place.folder / "tmp").mkdir()
    daemon = place.start(
        "demo", "--listen", "127.0.0.1:0", "--seconds", "2", "--chaos", "1", TMPDIR=str(place.folder / "tmp")
    )
    assert set(urls(daemon)) == {"Status page", "Metrics", "Simulated platform"}

    assert daemon.end() == 0
    assert "Traceback" not in daemon.output()
    assert list((place.folder / "tmp").iterdir()) == list((place.folder / "home").iterdir()) == []


def test_demo_always_has_a_failed_and_a_stuck_job(place: Installation) -> None:
    daemon = place.start("demo", "--listen", "[::1]:0", "--rate", "0", "--jobs", "3", "--speed", "10")
    there = urls(daemon)

    assert there["Status page"].startswith("http://[::1]:")
    failed = eventually(lambda: scrape if (scrape := look(there["Metrics"])).total("sbg_files_failed_total") else None)
    assert failed.total("sbg_unfinished_job_progress_timestamp_seconds") > 0
    line = r"^\d\d:\d\d:\d\d jobs: 4 finished, 1 running; files counted: \d+ completed, 6 failed of 18$"
    eventually(lambda: re.search(line, daemon.stdout, re.MULTILINE), describe=daemon.output)
    daemon.stop()


def test_a_line_tells_what_is_stuck_and_how_old_it_is() -> None:
    counted = LedgerFixture()
    counted.observe_listing(running_job(START, done=1), finished_job(START, failed=1, serial=7), at=START + 30)
    fresh = replace(STATUS, last_success=START + 70)
    said = "jobs: 1 finished, 1 running; files counted: 10 completed, 1 failed of 20"

    assert line_of(snapshot(counted.ledger, status=fresh), START + 50) == said
    assert line_of(snapshot(counted.ledger, status=fresh), START + 70) == (
        f"{said}; no progress for 40 s: job {job_id(START)}"
    )
    old = replace(STATUS, last_success=START + 30)
    assert line_of(snapshot(counted.ledger, status=old), START + 48) == f"{said} (as of 18 s ago)"
    failing = replace(old, last_error="it is under maintenance")
    assert line_of(snapshot(counted.ledger, status=failing), START + 31) == (
        f"{said} (as of 1 s ago: it is under maintenance)"
    )


def test_a_line_says_nothing_as_zero_before_the_first_answer() -> None:
    said = "jobs: none listed yet; files counted: 0 completed, 0 failed of 0"

    assert line_of(snapshot(None, status=UNTRIED), START) == said
    assert line_of(snapshot(None, status=replace(UNTRIED, last_error="no answer within 5 s")), START) == (
        f"{said} (no response yet: no answer within 5 s)"
    )


@pytest.mark.parametrize("options", [("--seconds", "-1"), ("--speed", "fast"), ("--listen", "nowhere")])
def test_a_wrong_option_is_one_line(place: Installation, options: tuple[str, str]) -> None:
    daemon = place.start("demo", *options)

    assert daemon.end() == 2
    assert len(daemon.lines) == 1
    assert options[0].removeprefix("--") in daemon.lines[0]

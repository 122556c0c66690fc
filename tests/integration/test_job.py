"""``job ID``: what the ledger has, and which files failed, with one request that the allowance knows of if it can."""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.simulator.faults import Fault, FaultKind
from exporter.simulator.scripts import JobScript
from exporter.simulator.server import QUIET, RunningSimulator, running
from tests.harness import Account, Daemon, Installation
from tests.terminal import OnTerminal

BAD = JobScript(total=5, failed=3, errors={"5001": 2, "none": 1}, queued=0, resolving=0, running=0)
TOKEN = "c0ffee00deadbeef5ec2e75ec2e75ec2"
FAILED_FILES = [
    "Failed files, as the platform reports them now:",
    "  5001 no privilege on the file: Insufficient privileges to access the requested file. (2 files)",
    "  no code: Unexpected error.",
    "3 of 3 error records have no file name.",
    (
        "To find them, compare the destination with the list of files that were submitted; submit what is missing as a"
        " new job."
    ),
]


@contextmanager
def counted(folder: Path) -> Iterator[tuple[RunningSimulator, Installation, str, Daemon]]:
    """An exporter that has counted a job with failed files."""
    with (
        running(replace(QUIET, token=TOKEN)) as simulator,
        Installation(folder / "etc", Account.at(simulator)) as place,
        place.running() as daemon,
    ):
        job_id = simulator.platform.submit(BAD)
        daemon.scrape_when(lambda now: now.series("sbg_failed_job_errors", job_id=job_id))
        yield simulator, place, job_id, daemon


def asked(place: Installation, *arguments: str) -> tuple[int, str, str]:
    command = place.start("job", *arguments, "--config", str(place.config))
    code = command.end()
    assert TOKEN not in command.output()
    return code, command.stdout, "".join(command.lines)


def job_requests(simulator: RunningSimulator, job_id: str) -> int:
    return sum(f"/{job_id}" in request.target for request in simulator.platform.latest_requests())


def used(place: Installation) -> int:
    with closing(sqlite3.connect(place.state)) as db:
        return int(db.execute("SELECT sum(used) FROM allowance").fetchone()[0])


def test_failed_files_cost_one_request_of_the_allowance(tmp_path: Path) -> None:
    with counted(tmp_path) as (simulator, place, job_id, daemon):
        assert daemon.stop() == 0
        requests, before = job_requests(simulator, job_id), used(place)

        code, out, err = asked(place, job_id)

        assert (code, err) == (0, "")
        assert job_requests(simulator, job_id) == requests + 1
        assert used(place) == before + 1
        lines = out.splitlines()
        assert lines[0] == job_id
        facts = dict(re.findall(r"^  (\S+) +(.*)$", out, re.MULTILINE))
        assert (facts["account"], facts["operation"], facts["state"]) == ("sim", "copy", "partial")
        assert (facts["user"], facts["platform"]) == (QUIET.username, Account.at(simulator).endpoint)
        assert facts["files"] == "2 of 5 completed, 3 failed"
        assert facts["errors"] == "5001 no privilege on the file (2), no code (1)"
        assert lines[-5:] == FAILED_FILES


def test_while_the_exporter_runs_the_failed_files_are_asked_for_without_more_words(tmp_path: Path) -> None:
    with counted(tmp_path) as (_, place, job_id, daemon):
        code, out, err = asked(place, job_id)

        assert (code, err) == (0, "")
        assert out.splitlines()[-5:] == FAILED_FILES
        assert daemon.stop() == 0


def test_offline_asks_nobody(tmp_path: Path) -> None:
    with counted(tmp_path) as (simulator, place, job_id, daemon):
        assert daemon.stop() == 0
        (place.folder / "sim.token").unlink()
        requests = len(simulator.platform.latest_requests())

        code, out, err = asked(place, job_id, "--offline")

        assert (code, err) == (0, "")
        assert "Failed files" not in out
        place.configure(Account.at(simulator), show_username=False)
        hidden = asked(place, job_id, "--offline")[1]
        assert (QUIET.username in out, QUIET.username in hidden) == (True, False)
        assert len(simulator.platform.latest_requests()) == requests


def test_unknown_id_is_one_line_that_does_not_repeat_it(tmp_path: Path) -> None:
    with counted(tmp_path) as (_, place, job_id, __):
        code, out, err = asked(place, TOKEN)

        assert (code, out) == (1, "")
        assert err == (
            f"sbg-exporter: no job with this id in {place.state}; `sbg-exporter jobs` lists those that the exporter has"
            " seen\n"
        )
        assert asked(place, job_id[:-1])[2].endswith(f"; did you mean {job_id}?\n")


def test_missing_id_is_one_line(tmp_path: Path) -> None:
    with Installation(tmp_path / "etc") as place:
        code, _, err = asked(place)

    assert (code, err) == (2, "sbg-exporter: missing ID; see `sbg-exporter job --help`\n")


@pytest.mark.fault(
    "`job` while the platform is down",
    action="shows what is known; exits with 1",
    shown="one line with the next step",
    recovery="the platform responds",
)
def test_platform_that_cannot_be_asked_is_one_line_below_what_is_known(tmp_path: Path) -> None:
    with counted(tmp_path) as (simulator, place, job_id, daemon):
        assert daemon.stop() == 0
        simulator.platform.queue(Fault(kind=FaultKind.UNAVAILABLE))

        code, out, err = asked(place, job_id)

        assert code == 1
        assert out.startswith(f"{job_id}\n  account     sim\n")
        assert err.startswith("sbg-exporter: sim: the platform answered 503")
        assert err.endswith("; `sbg-exporter check` tests account sim, --offline shows the job without a request\n")
        assert err.count("\n") == 1


@pytest.mark.fault(
    "`job` for a job that the platform has forgotten",
    action="shows what is known",
    shown="a note",
    recovery="none needed",
)
def test_job_that_the_platform_has_forgotten_is_no_error(tmp_path: Path) -> None:
    with counted(tmp_path) as (simulator, place, job_id, daemon):
        assert daemon.stop() == 0
        simulator.platform.remove(job_id)

        code, out, err = asked(place, job_id)

        assert (code, err) == (0, "")
        assert out.splitlines()[-1] == (
            "Note: the platform answers that there is no such job, although it has ended a short time ago; ask the"
            " platform's support, with its id."
        )


def test_json_has_every_failed_file(tmp_path: Path) -> None:
    with counted(tmp_path) as (_, place, job_id, daemon):
        assert daemon.stop() == 0

        code, out, _ = asked(place, job_id, "--json")

        assert code == 0
        [job] = json.loads(out)
        assert job["job_id"] == job_id
        assert job["username"] == QUIET.username
        assert [each["code"] for each in job["failed_files"]].count("5001") == 2
        assert {each["meaning"] for each in job["failed_files"]} == {"no privilege on the file", None}
        assert job["problem"] is None


def test_several_accounts_with_the_id_are_all_shown(tmp_path: Path) -> None:
    with counted(tmp_path) as (simulator, place, job_id, daemon):
        assert daemon.stop() == 0
        with closing(sqlite3.connect(place.state)) as db:  # another user whose platform gave a job the same id
            db.execute(
                "INSERT INTO account SELECT 2, endpoint, 'other', division, counting_since, ever_listed,"
                " listing_clock, listed_on, labels, failure_counted_at FROM account"
            )
            columns = [row[1] for row in db.execute("PRAGMA table_info(job)")][1:]
            names = ", ".join(columns)
            db.execute(f"INSERT INTO job (account, {names}) SELECT 2, {names} FROM job")  # noqa: S608  # column names
            db.execute("INSERT INTO binding VALUES ('second', 2)")
            db.commit()
        requests = job_requests(simulator, job_id)

        code, out, err = asked(place, job_id)

        assert out.count(f"{job_id}\n") == 2
        assert code == 1
        assert err == "sbg-exporter: second: not asked: no configured account is second; add it, or pass --offline\n"
        assert job_requests(simulator, job_id) == requests + 1


@pytest.mark.fault(
    "`job` while the allowance is used up",
    action="sends no request; exits with 1",
    shown="one line that says until when",
    recovery="the window ends",
)
def test_used_up_allowance_sends_nothing(tmp_path: Path) -> None:
    with counted(tmp_path) as (simulator, place, job_id, daemon):
        assert daemon.stop() == 0
        with closing(sqlite3.connect(place.state)) as db:
            db.execute("UPDATE allowance SET used = 100000 WHERE entry = ''")
            db.commit()
        requests = job_requests(simulator, job_id)

        code, _, err = asked(place, job_id)

        assert code == 1
        assert re.fullmatch(r"sbg-exporter: sim: not asked: no request for another \d+ s: .+; until then, .+\n", err)
        assert job_requests(simulator, job_id) == requests


def test_it_is_readable_on_a_terminal(tmp_path: Path) -> None:
    with (
        counted(tmp_path) as (_, place, job_id, __),
        OnTerminal("job", job_id, "--config", str(place.config), home=place.folder) as command,
    ):
        assert command.end() == 0
        assert f"\x1b[1m{job_id}\x1b[0m\n" in command.screen

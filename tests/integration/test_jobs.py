"""``jobs`` as people and scripts use it: on a terminal and elsewhere, while the exporter runs and after it stopped."""

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from exporter.commands._terminal import width_of
from exporter.simulator.scripts import JobScript
from exporter.simulator.server import QUIET, RunningSimulator, running
from tests.harness import Account, Daemon, Installation
from tests.terminal import OnTerminal
from tests.waiting import eventually

HALF_DONE = JobScript(total=10, failed=2, queued=0, resolving=0, running=1000, hangs_after=500)
BAD = JobScript(total=5, failed=3, errors={"5001": 2, "none": 1}, queued=0, resolving=0, running=0)
GOOD = JobScript(total=7, operation="move", queued=0, resolving=0, running=0)
AS_OF = re.compile(
    r"as of [0-9]{2}:[0-9]{2}:[0-9]{2} UTC, [0-9]+ (?:s|min) ago(?:, or later)?(?:; no exporter is running)?\n"
)
ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Site(NamedTuple):
    installation: Installation
    simulator: RunningSimulator
    bad: str
    good: str
    running: str

    def jobs(self, *arguments: str, **environment: str) -> Daemon:
        return self.installation.start("jobs", *arguments, "--config", str(self.installation.config), **environment)

    def listed(self, *arguments: str) -> list[str]:
        """The ids that the command shows, in their order."""
        command = self.jobs(*arguments)
        assert command.end() == 0
        assert AS_OF.fullmatch("".join(command.lines)), command.lines
        return re.findall(r"^(\d{18,})", command.stdout, re.MULTILINE)

    def on_terminal(self, *arguments: str, environment: Mapping[str, str] | None = None, **size: int) -> OnTerminal:
        command = ("jobs", *arguments, "--config", str(self.installation.config))
        return OnTerminal(*command, home=self.installation.folder, environment=environment, **size)


@contextmanager
def site(folder: Path, names: tuple[str, ...] = ("sim",)) -> Iterator[tuple[Site, Daemon]]:
    """An exporter that has counted three jobs: one with failed files, one without, and one half done."""
    with running(QUIET) as simulator:
        accounts = [Account.at(simulator, name) for name in names[:1]]
        with Installation(folder / "etc", *accounts) as installation, installation.running() as daemon:
            unfinished = simulator.platform.submit(HALF_DONE)
            simulator.platform.advance(500)
            ids = [simulator.platform.submit(script) for script in (BAD, GOOD)]
            daemon.await_exact("sim", simulator)
            daemon.scrape_when(lambda now: now.series("sbg_failed_job_errors", job_id=ids[0]))
            yield Site(installation, simulator, ids[0], ids[1], unfinished), daemon


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The state file that an exporter left behind."""
    with site(tmp_path_factory.mktemp("stopped")) as (there, daemon):
        assert daemon.stop() == 0
        yield there


# ---- elsewhere than on a terminal ----


def test_jobs_are_plain_lines_with_errors_in_words(stopped: Site) -> None:
    command = stopped.jobs()

    assert command.end() == 0
    assert AS_OF.fullmatch("".join(command.lines)), command.lines
    header, *rows = [re.split(r"  +", line) for line in command.stdout.splitlines()]
    assert header == ["JOB", "OPERATION", "STATE", "FILES", "FAILED", "CHANGED", "REASON"]
    assert rows[0][:5] == [stopped.running, "copy", "running", "4/10", "1"]
    assert {tuple(row[:5]) for row in rows[1:]} == {
        (stopped.bad, "copy", "partial", "2/5", "3"),
        (stopped.good, "move", "succeeded", "7/7", "-"),
    }
    assert [row[5] for row in rows[1:]] == sorted((row[5] for row in rows[1:]), reverse=True)
    errors = {row[0]: row[6] for row in rows}
    assert errors[stopped.bad] == "5001 no privilege on the file (2), no code (1)"
    assert errors[stopped.good] == "-"
    assert "\x1b" not in command.stdout
    assert command.stdout.isascii()


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--unfinished"], {"running"}),
        (["--failed"], {"running", "bad"}),
        (["--failed", "--unfinished"], {"running"}),
        (["--since", "1h"], {"running", "bad", "good"}),
        (["--since", "2999-01-01"], {"running"}),
        (["--account", "sim"], {"running", "bad", "good"}),
        (["--limit", "1"], {"running"}),
        (["--limit", "0"], {"running", "bad", "good"}),
    ],
)
def test_options_select_jobs(stopped: Site, arguments: list[str], shown: set[str]) -> None:
    found = stopped.listed(*arguments)

    assert set(found) == {getattr(stopped, name) for name in shown}
    assert found[0] == stopped.running


def test_json_has_every_fact_that_the_ledger_has(stopped: Site) -> None:
    command = stopped.jobs("--json", "--failed")

    assert command.end() == 0
    unfinished, bad = json.loads(command.stdout)
    assert bad["job_id"] == stopped.bad
    assert bad["files"] == {"expected": 5, "completed": 2, "failed": 3}
    assert bad["errors"] == [
        {"code": "5001", "meaning": "no privilege on the file", "records": 2},
        {"code": "none", "meaning": None, "records": 1},
    ]
    assert (bad["account"], bad["operation"], bad["state"], bad["outcome"]) == ("sim", "copy", "finished", "partial")
    assert bad["submitted"] <= bad["started"] <= bad["finished"]
    assert (unfinished["outcome"], unfinished["finished"], unfinished["stuck"]) == (None, None, False)
    assert unfinished["as_of"] == bad["as_of"] > 0
    assert command.lines == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--since", "2999-01-01", "--failed"], ""),
        (["--since", "soon"], "--since: expected a duration, such as 24h or 7d, or a date, such as 2026-11-27"),
        (["--limit", "few"], "--limit: expected a whole number, such as 20, or 0 for all"),
    ],
)
def test_wrong_option_is_one_line(stopped: Site, arguments: list[str], line: str) -> None:
    command = stopped.jobs(*arguments)

    assert command.end() == (2 if line else 0)
    said = "".join(command.lines)
    assert said == f"sbg-exporter: {line}\n" if line else AS_OF.fullmatch(said)


def test_what_is_old_is_said_on_standard_error(tmp_path: Path) -> None:
    with site(tmp_path) as (there, daemon):
        daemon.stop()
        with closing(sqlite3.connect(there.installation.state)) as db, db:
            db.execute("UPDATE wait_clock SET local_time = local_time - 10800")
        old = there.jobs()
        one = there.installation.start("job", there.running, "--offline", "--config", str(there.installation.config))
        finished = there.installation.start("job", there.good, "--offline", "--config", str(there.installation.config))

        assert (old.end(), one.end(), finished.end()) == (0, 0, 0)
        warning = "sbg-exporter: no exporter is running; sim: last listed about 3 h ago\n"
        assert (old.lines[0], one.lines) == (warning, [warning])
        assert re.fullmatch(r"as of \S+ UTC, 3 h ago\n", "".join(old.lines[1:]))
        assert all(re.search(r"^  as of +\S+Z, 3 h ago$", each.stdout, re.MULTILINE) for each in (one, finished))
        assert (old.stdout.count("\n"), finished.lines) == (4, [])


def test_unknown_account_is_one_line_with_those_there_are(stopped: Site) -> None:
    command = stopped.jobs("--account", "nowhere")

    assert command.end() == 1
    assert command.lines == [f"sbg-exporter: no such account in {stopped.installation.state}; its accounts: sim\n"]


@pytest.mark.fault(
    "`jobs` before the exporter has run",
    action="exits with 1; creates nothing",
    shown="one line with the next step",
    recovery="the exporter has run once",
)
def test_no_state_file_is_one_line_with_the_next_step(tmp_path: Path) -> None:
    with Installation(tmp_path / "etc", Account("far", "https://nobody.invalid/v2")) as place:
        command = place.start("jobs", "--config", str(place.config))

        assert command.end() == 1
        [line] = command.lines
        assert "does not exist; " in line
        assert "start it once to create this one" in line


def test_nothing_to_show_is_one_helpful_line(tmp_path: Path) -> None:
    with running(QUIET) as simulator, Installation(tmp_path / "etc", Account.at(simulator)) as place:
        with place.running():
            fresh = place.start("jobs", "--config", str(place.config))
            assert fresh.end() == 0
            assert (fresh.stdout, fresh.lines[0]) == ("", "No jobs: the platform has listed none so far.\n")
            assert "no exporter is running" not in fresh.output()
            simulator.platform.submit(GOOD)
            eventually(lambda: _ended(place.start("jobs", "--config", str(place.config))).stdout.count("\n") > 1)
        none = place.start("jobs", "--failed", "--unfinished", "--config", str(place.config))
        as_json = place.start("jobs", "--failed", "--json", "--config", str(place.config))

        assert (none.end(), as_json.end()) == (0, 0)
        assert (none.stdout, as_json.stdout) == ("", "[]\n"), "cron mails nothing"
        assert none.lines[0] == "No jobs match --failed --unfinished; without them there is 1 job.\n"
        assert all(AS_OF.fullmatch("".join(lines)) for lines in (none.lines[1:], as_json.lines))


def _ended(command: Daemon) -> Daemon:
    assert command.end() == 0, command.output()
    return command


def test_it_sends_no_request_and_works_while_the_exporter_runs(tmp_path: Path) -> None:
    with site(tmp_path) as (there, daemon):
        assert set(there.listed()) == {there.bad, there.good, there.running}
        assert daemon.stop() == 0
        before = len(there.simulator.platform.latest_requests())

        assert set(there.listed()) == {there.bad, there.good, there.running}
        assert len(there.simulator.platform.latest_requests()) == before


def test_no_token_is_needed(stopped: Site) -> None:
    token = stopped.installation.folder / "sim.token"
    aside = token.rename(token.with_suffix(".away"))
    try:
        assert len(stopped.listed()) == 3
    finally:
        aside.rename(token)


# ---- on a terminal ----


def test_table_on_a_terminal_fits_and_has_bars_and_colours(stopped: Site) -> None:
    with stopped.on_terminal() as command:
        assert command.end() == 0
        shown = command.screen

    plain = ESCAPES.sub("", shown)
    assert "\x1b[31m" in shown
    assert all(width_of(line) <= 80 for line in plain.splitlines()), plain
    header, *rows, last = plain.splitlines()
    assert AS_OF.fullmatch(f"{last}\n")
    assert header.split() == ["JOB", "OPERATION", "STATE", "FILES", "FAILED", "AGE"]
    assert re.fullmatch(rf"{stopped.running}  copy +running +4/10 +1 +\d+[smhd]  █+▒+░+", rows[0])
    assert "  5001 no privilege on the file (2), no code (1)" in rows


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX"}])
def test_terminal_without_unicode_gets_ascii(stopped: Site, environment: dict[str, str]) -> None:
    with stopped.on_terminal(environment=environment) as command:
        assert command.end() == 0
        assert command.screen.isascii()
        assert re.search(r"  #+x+\.+$", ESCAPES.sub("", command.screen), re.MULTILINE)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_turned_off(stopped: Site, environment: dict[str, str]) -> None:
    with stopped.on_terminal(environment=environment) as command:
        assert command.end() == 0
        assert "\x1b" not in command.screen
        assert "█" in command.screen


@pytest.mark.parametrize("columns", [20, 40, 57, 132, 400])
def test_any_width_shows_whole_ids(stopped: Site, columns: int) -> None:
    with stopped.on_terminal(columns=columns) as command:
        assert command.end() == 0
        for job_id in (stopped.bad, stopped.good, stopped.running):
            assert job_id in command.screen
        if columns > 57:
            assert all(width_of(line) <= columns for line in ESCAPES.sub("", command.screen).splitlines())


def test_watch_shows_changes_until_ctrl_c(tmp_path: Path) -> None:
    with site(tmp_path) as (there, _), there.on_terminal("--watch", "--unfinished") as command:
        command.wait_for("1 job (Ctrl-C ends), as of ").wait_for(" ago").wait_for(there.running)
        another = there.simulator.platform.submit(HALF_DONE)
        command.wait_for(another)

        command.type("\x03")

        assert command.end() == 0
        assert command.echoes()
        assert "Traceback" not in command.screen


def test_watch_fits_the_screen(stopped: Site) -> None:
    with stopped.on_terminal("--watch", lines=4) as command:
        command.wait_for("more jobs than fit on the screen")
        assert command.type("\x03").end() == 0
        screens = command.screen.split("\x1b[H\x1b[J")[1:]

    assert all(screen.count("\n") < 4 for screen in screens)


def test_watch_elsewhere_prints_what_changed(tmp_path: Path) -> None:
    with site(tmp_path) as (there, _):
        command = there.jobs("--watch", "--json", "--failed")
        command.await_output(there.bad)
        another = there.simulator.platform.submit(BAD)
        command.await_output(another)

        assert command.stop() == 0
        ids = [json.loads(line)["job_id"] for line in command.stdout.splitlines()]
        assert ids.count(there.bad) == 1
        assert ids[0] == there.running


@pytest.mark.fault(
    "the reader of `jobs` closes the pipe",
    action="ends",
    shown="nothing",
    recovery="none needed",
)
def test_closed_pipe_ends_it_silently(stopped: Site) -> None:
    command = f"{sys.executable} -m exporter jobs --watch --config {stopped.installation.config} | head -n 1"

    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=60)

    assert done.stdout.startswith("JOB ")
    assert done.stderr == ""

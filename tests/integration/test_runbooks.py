"""What runbooks and alerts tell people to type works: every command of ours runs, on a simulated platform."""

import re
import shlex
from collections.abc import Iterator

import pytest
import yaml

from exporter.simulator.scripts import JobScript
from exporter.simulator.server import QUIET, running
from tests.doc_tables import RULES, RUNBOOKS
from tests.harness import Account, Installation

pytestmark = pytest.mark.sources

BAD = JobScript(total=5, failed=3, queued=0, resolving=0, running=0)
EXAMPLE_ID = "327292091756515328"
ACCOUNT = "sim"


def commands() -> list[str]:
    """The arguments of each command, in runbooks and in the descriptions of alerts."""
    blocks = re.findall(r"```sh\n(.*?)```", RUNBOOKS.read_text(encoding="utf-8"), re.DOTALL)
    found = [match[1] for block in blocks for match in re.finditer(r"^sbg-exporter (.+)$", block, re.MULTILINE)]
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            description = rule.get("annotations", {}).get("description", "")
            found += re.findall(r"`sbg-exporter ([^`]+)`", description)
    timed = (re.sub(r"\{\{ with .*\{\{ end \}\}", "2026-01-01T00:00:00Z", command) for command in found)
    here = (command for command in timed if "/root/saved" not in command)  # the state file of another test's steps
    filled = (command.replace("{{ $labels.job_id }}", EXAMPLE_ID) for command in here)
    return sorted({command.replace("{{ $labels.account }}", ACCOUNT) for command in filled})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, str]]:
    """An installation that has counted a failed job, and its id."""
    folder = tmp_path_factory.mktemp("site")
    with running(QUIET) as simulator, Installation(folder / "etc", Account.at(simulator, ACCOUNT)) as place:
        with place.running() as daemon:
            job_id = simulator.platform.submit(BAD)
            daemon.scrape_when(lambda now: now.series("sbg_failed_job_errors", job_id=job_id))
            assert daemon.stop() == 0
        yield place, job_id


@pytest.mark.parametrize("command", commands())
def test_command_works_when_pasted(site: tuple[Installation, str], command: str) -> None:
    place, job_id = site
    words = shlex.split(command.replace(EXAMPLE_ID, job_id).replace("/etc/sbg-exporter/config.toml", str(place.config)))

    ended = place.start(*words, SBG_EXPORTER_CONFIG=str(place.config))

    assert ended.end() == 0
    said = [line for line in ended.lines if not line.startswith("as of ")]
    if ended.stdout:
        assert said == []
    else:
        [line] = said
        assert line.startswith("No jobs match ")


def test_every_alert_says_what_shows_more() -> None:
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                description = rule["annotations"]["description"]
                assert re.search(r"`[a-z].+`|exporter's (log|page)", description), rule["alert"]


def test_what_to_type_elsewhere_is_known_of_every_command_of_systemd_and_of_the_machine() -> None:
    runbooks = RUNBOOKS.read_text(encoding="utf-8")
    table = "\n".join(re.findall(r"^\| `?[^|]+\|", runbooks.partition("\n## ")[0], re.MULTILINE))
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", runbooks, re.DOTALL)) + RULES.read_text(encoding="utf-8")

    used = set(
        re.findall(r"systemctl \w+|journalctl|timedatectl|findmnt|df(?= -)|curl(?=.* '?http://localhost)", blocks)
    )

    assert used >= {"systemctl status", "journalctl", "timedatectl", "findmnt", "df", "curl"}
    assert {each for each in used if f"`{each}" not in table} == set()


def test_jobs_and_checks_are_among_the_commands() -> None:
    assert {
        f"job {EXAMPLE_ID}",
        "jobs --outcome incomplete --since 4h",
        f'jobs --unfinished --account "{ACCOUNT}"',
        "check",
    } <= set(commands())

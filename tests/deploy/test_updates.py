"""What keeps versions current and workflows safe: their settings and Renovate's, and that both know all locks."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePath
from threading import Thread
from typing import Any, Final

import pytest
import yaml

from tests.deploy.containers import REPOSITORY
from tests.tools import developers

WORKFLOWS: Final = sorted((REPOSITORY / ".github" / "workflows").iterdir())
WORKFLOW: Final = REPOSITORY / ".github" / "workflows" / "ci.yml"
AUDIT: Final = REPOSITORY / ".github" / "workflows" / "audit.yml"
RENOVATE: Final = REPOSITORY / ".github" / "renovate.json"
JOBS: Final[dict[str, Any]] = yaml.safe_load(WORKFLOW.read_text())["jobs"]
SETTINGS: Final[dict[str, Any]] = json.loads(RENOVATE.read_text())
PROJECT: Final[dict[str, Any]] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
LOCKS: Final[list[str]] = SETTINGS["pip-compile"]["managerFilePatterns"]


@pytest.mark.parametrize(
    ("file", "schema"), [*((each, "github-workflows") for each in WORKFLOWS), (RENOVATE, "renovate")], ids=str
)
def test_settings_follow_their_schema(file: Path, schema: str) -> None:
    command = [developers("check-jsonschema"), f"--builtin-schema=vendor.{schema}", str(file)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_commit_with_its_version(workflow: Path) -> None:
    used = re.findall(r"(?m)^ *(?:- )?uses: (.*)$", workflow.read_text())

    used = [each for each in used if not each.startswith("./")]  # this repository's own, of the same commit

    assert len(used) >= 2
    assert [each for each in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} +# v\d+\.\d+\.\d+", each)] == []


def test_the_wheel_is_tested_with_each_python_that_it_is_for() -> None:
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))

    assert JOBS["wheel"]["strategy"]["matrix"]["python"] == named
    assert PROJECT["requires-python"] == f">={named[0]}"


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_the_command_that_renews_it(lock: str) -> None:
    path = REPOSITORY / lock
    command = path.read_text().splitlines()[1].removeprefix("#    ")
    oldest = PROJECT["requires-python"].removeprefix(">=")
    output = re.findall(r"--output-file=(\S+)", command)

    assert command.startswith(f"uv pip compile --generate-hashes --universal --python-version={oldest} ")
    assert output in ([lock], [path.name])
    assert not re.search("https?:|--index-url", path.read_text())


def test_every_lock_is_known() -> None:
    made = {
        str(path.relative_to(REPOSITORY))
        for folder in (".", "deploy/docker", "tests", "tests/deploy")
        for path in (REPOSITORY / folder).glob("*requirements*")
        if path.suffix != ".in"
    }

    assert made == set(LOCKS)


# -------------------------------------------------------------------------------------------------------------- safety


MORE: Final = {
    "release.yml registry": {"contents": "read", "packages": "write", "id-token": "write", "attestations": "write"},
    "release.yml packages": {"contents": "read", "id-token": "write"},
    "release.yml announce": {"contents": "write"},
}
"""Jobs that may do more than read. None runs the project's tests, so no dependency of theirs can use it."""


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_but_for_the_jobs_that_publish_and_keeps_no_credentials(workflow: Path) -> None:
    about = yaml.safe_load(workflow.read_text())
    jobs = {name: job for name, job in about["jobs"].items() if "steps" in job}
    checkouts = [
        step for job in jobs.values() for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")
    ]

    assert about["permissions"] == {"contents": "read"}
    more = {f"{workflow.name} {name}": job["permissions"] for name, job in jobs.items() if "permissions" in job}
    assert more == {name: each for name, each in MORE.items() if name.startswith(workflow.name)}
    assert len(checkouts) == len(jobs)
    assert {step["with"]["persist-credentials"] for step in checkouts} == {False}


def test_no_workflow_has_a_secret_that_outlives_it() -> None:
    assert [path.name for path in WORKFLOWS if "secrets" in path.read_text()] == []


def zizmor(*, given: Path) -> subprocess.CompletedProcess[str]:
    """The command of ``make lint``, with another folder."""
    [command] = re.findall(r"(?m)^\t\$\(BIN\)/zizmor (.*) \.github$", (REPOSITORY / "Makefile").read_text())
    program = developers("zizmor")
    return subprocess.run([program, *command.split(), str(given)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("run: make audit", 'run: echo "${{ github.event.pull_request.title }}"', "template-injection"),
        ("        with: {persist-credentials: false}\n", "", "artipacked"),
        ("permissions: {contents: read}", "permissions: write-all", "excessive-permissions"),
        ("3d3c42e5aac5ba805825da76410c181273ba90b1", "main", "unpinned-uses"),
        ("  pull_request:", "  pull_request_target:", "dangerous-triggers"),
    ],
)
def test_what_is_unsafe_in_a_workflow_is_found(old: str, new: str, finding: str, tmp_path: Path) -> None:
    text = AUDIT.read_text()
    assert old in text
    copy = tmp_path / ".github" / "workflows" / "audit.yml"
    copy.parent.mkdir(parents=True)
    copy.write_text(text.replace(old, new))

    found = zizmor(given=copy.parents[1])

    assert found.returncode != 0
    assert finding in found.stdout


def test_the_workflows_are_safe() -> None:
    found = zizmor(given=REPOSITORY / ".github")

    assert found.returncode == 0, found.stdout


EXEMPTION: Final = re.compile(r"# noqa: (?:[A-Z]+\d+, )*S\d+")
REASON: Final = re.compile(r"# noqa: [A-Z0-9, ]+ (?: #|-) \S+")


def test_every_exemption_from_a_rule_about_security_has_a_reason() -> None:
    sources = [
        path
        for folder in ("deploy", "exporter", "grafana", "tests")
        for path in (REPOSITORY / folder).rglob("*.py")
        if "node_modules" not in path.parts
    ]
    exempt = [line for path in sources for line in path.read_text().splitlines() if EXEMPTION.search(line)]

    assert exempt
    assert [line.strip() for line in exempt if not REASON.search(line)] == []


# ------------------------------------------------------------------------------------------------------ vulnerabilities

VULNERABLE: Final = "jinja2"


def audit(database: str) -> subprocess.CompletedProcess[str]:
    """``make audit`` with this virtual environment, asking the *database* at this URL."""
    here = Path(sys.executable).parents[1]
    flags = ("--no-print-directory", f"--assume-old={here}/test", f"VENV={here}")
    asking = f"ARGS=--vulnerability-service osv --osv-url {database}"
    command = ["make", *flags, asking, "audit"]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@contextmanager
def database(vulnerable: str = "") -> Iterator[tuple[str, set[str]]]:
    """A database of vulnerabilities in the form of OSV: its URL, and what it has been asked about."""
    asked: set[str] = set()

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
            asked.add(name)
            found = {"id": "EXAMPLE-1", "modified": "2026-01-01T00:00:00Z", "summary": "An example.", "affected": []}
            self.send_response(HTTPStatus.OK)
            self.end_headers()
            self.wfile.write(json.dumps({"vulns": [found]} if name == vulnerable else {}).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its parent's name for it
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query", asked
        finally:
            server.shutdown()
            thread.join()


def test_the_audit_asks_about_every_lock_and_finds_nothing_where_nothing_is() -> None:
    with database() as (url, asked):
        done = audit(url)

    assert done.returncode == 0, done.stdout + done.stderr
    for lock in (*LOCKS, "tests/deploy/binaries.txt"):
        [first, *_] = re.findall(r"(?m)^([a-z][\w-]*)==", (REPOSITORY / lock).read_text())
        assert first in asked


@pytest.mark.fault(
    "a dependency has a known vulnerability",
    action="`make audit` fails",
    shown="the dependency and the vulnerability",
    recovery="an update",
)
def test_the_audit_fails_and_names_what_is_vulnerable() -> None:
    with database(VULNERABLE) as (url, _):
        done = audit(url)

    assert done.returncode != 0
    assert re.search(rf"(?m)^{VULNERABLE} .*EXAMPLE-1", done.stdout)


@pytest.mark.fault(
    "`make audit` while the database of vulnerabilities does not respond",
    action="fails",
    shown="a failed run",
    recovery="it responds",
)
def test_the_audit_fails_if_the_database_does_not_answer() -> None:
    with database() as (url, _):
        pass

    assert audit(url).returncode != 0


def test_the_audit_runs_weekly_and_when_a_lock_changes() -> None:
    about = yaml.safe_load(AUDIT.read_text())
    triggers = about[True]  # YAML's idea of the key "on"
    steps = [step for job in about["jobs"].values() for step in job["steps"]]

    assert [step["run"] for step in steps if "run" in step] == ["make audit"]
    assert [len(each["cron"].split()) for each in triggers["schedule"]] == [5]
    assert triggers["push"]["paths"] == triggers["pull_request"]["paths"]
    for lock in LOCKS:
        assert any(PurePath(f"/{lock}").match(pattern) for pattern in triggers["push"]["paths"]), lock

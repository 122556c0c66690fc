"""What keeps versions current: the workflow's and Renovate's settings, and that both know what the project has."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.containers import REPOSITORY

WORKFLOW: Final = REPOSITORY / ".github" / "workflows" / "ci.yml"
RENOVATE: Final = REPOSITORY / ".github" / "renovate.json"
JOBS: Final[dict[str, Any]] = yaml.safe_load(WORKFLOW.read_text())["jobs"]
SETTINGS: Final[dict[str, Any]] = json.loads(RENOVATE.read_text())
PROJECT: Final[dict[str, Any]] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
LOCKS: Final[list[str]] = SETTINGS["pip-compile"]["managerFilePatterns"]


@pytest.mark.parametrize(("file", "schema"), [(WORKFLOW, "github-workflows"), (RENOVATE, "renovate")], ids=str)
def test_settings_follow_their_schema(file: Path, schema: str) -> None:
    program = Path(sys.executable).parent / "check-jsonschema"
    command = [str(program), f"--builtin-schema=vendor.{schema}", str(file)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_action_is_pinned_by_commit_with_its_version() -> None:
    used = re.findall(r"(?m)^ *- uses: (.*)$", WORKFLOW.read_text())

    assert len(used) >= 4
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

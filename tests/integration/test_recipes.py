"""The recipes of CONTRIBUTING.md, followed as they stand there in a copy of the checkout.

Every step is in the document: a block of ``diff`` says what is added to which file and where, a ``yaml`` block that
begins with a file's name is that file, and the ``sh`` blocks are run.
"""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from exporter.simulator.faults import Fault, FaultKind
from exporter.simulator.server import DEMO_TOKEN, QUIET, running
from tests.tools import tool

pytestmark = pytest.mark.sources

_REPOSITORY: Final = Path(__file__).parents[2]
_CONTRIBUTING: Final = _REPOSITORY / ".github" / "CONTRIBUTING.md"
_COPIED: Final = (
    ".github",
    "CHANGELOG.md",
    "Makefile",
    "README.md",
    "deploy",
    "exporter",
    "grafana",
    "pyproject.toml",
    "tests",
)


class Step(NamedTuple):
    """A block of a recipe: its language and its text."""

    language: str
    text: str


def steps(title: str) -> list[Step]:
    """The blocks of the recipe with that heading."""
    text = _CONTRIBUTING.read_text(encoding="utf-8")
    chapter = re.split(r"^#{2,3} ", text.partition(f"\n### {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(r"^( *)```(\w+)\n(.*?)^\1```$", chapter, re.DOTALL | re.MULTILINE)
    return [Step(language, re.sub(rf"^{indent}", "", block, flags=re.MULTILINE)) for indent, language, block in found]


class Checkout:
    """A copy of the checkout in which a recipe is followed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        leave_out = shutil.ignore_patterns("node_modules", ".*_cache")
        for name in _COPIED:
            source = _REPOSITORY / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=leave_out)
            else:
                shutil.copy(source, folder / name)

    def follow(self, step: Step) -> None:
        """Do what one block says."""
        match step.language:
            case "diff":
                self._edit(step.text)
            case "yaml":
                name, _, text = step.text.removeprefix("# ").partition("\n")
                assert not (self.folder / name).exists(), name
                (self.folder / name).write_text(text, encoding="utf-8")
            case "sh":
                for line in step.text.splitlines():
                    self._type(line)

    def _edit(self, diff: str) -> None:
        header, *lines = diff.splitlines()
        file = self.folder / header.removeprefix("+++ ")
        old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
        new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{text.count(old)} times in {header}:\n{old}"
        file.write_text(text.replace(old, new), encoding="utf-8")

    def _type(self, line: str) -> None:
        """Run a line of a recipe with this Python; ``make generated`` by the lines of the Makefile."""
        words = shlex.split(line)
        environ = dict(word.split("=", 1) for word in itertools.takewhile(lambda word: "=" in word, words))
        program, *arguments = words[len(environ) :]
        if line == "make generated":
            [recipe] = re.findall(r"^generated:.*\n((?:\t.+\n)+)", (self.folder / "Makefile").read_text(), re.MULTILINE)
            for module in re.findall(r"^\t\$\(BIN\)/python -m (\S+)$", recipe, re.MULTILINE):
                self.run(sys.executable, "-m", module)
        elif program == ".venv/bin/pytest":
            quietly = ("-q", "-rs", "-p", "no:cacheprovider", "-n", "0")
            passed = self.run(sys.executable, "-m", "pytest", *quietly, *arguments, environ=environ)
            assert re.search(r"\b\d+ passed", passed)
            assert all("only root can" in line for line in passed.splitlines() if line.startswith("SKIPPED"))
        else:
            self.run(tool(program), *arguments, environ=environ)

    def run(self, *command: str, expected: int = 0, environ: Mapping[str, str] | None = None) -> str:
        """Run a command in the copy; what it printed."""
        mine = {
            name: value for name, value in os.environ.items() if not name.startswith(("COV_", "COVERAGE_", "PYTEST_"))
        }
        ended = subprocess.run(
            list(command),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            env={**mine, "PYTHONPATH": str(self.folder), **(environ or {})},
        )
        assert ended.returncode == expected, f"{shlex.join(command)}\n{ended.stdout}{ended.stderr}"
        return ended.stdout + ended.stderr

    def read(self, name: str) -> str:
        """The text of a file of the copy."""
        return (self.folder / name).read_text(encoding="utf-8")


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    folder = tmp_path / "checkout"
    folder.mkdir()
    yield Checkout(folder)
    shutil.rmtree(folder)


def product_files(recipe: list[Step]) -> set[str]:
    """The files of the exporter that the recipe edits by hand."""
    edited = {step.text.partition("\n")[0].removeprefix("+++ ") for step in recipe if step.language == "diff"}
    return {name for name in edited if not name.startswith("tests/")}


def test_recipe_for_a_metric_puts_it_on_the_page(checkout: Checkout, tmp_path: Path) -> None:
    recipe = steps("Add a metric")
    for step in recipe:
        checkout.follow(step)
    token = tmp_path / "token"
    token.write_text(DEMO_TOKEN)
    token.chmod(0o600)

    with running(QUIET) as simulator:
        simulator.platform.queue(Fault(kind=FaultKind.CLOSE), matching="/async/files")
        page = checkout.run(
            sys.executable,
            "-m",
            "exporter",
            "once",
            "--state-file",
            str(tmp_path / "state.db"),
            environ={"SB_API_ENDPOINT": simulator.url, "SB_AUTH_TOKEN_FILE": str(token)},
        )

    samples = dict(re.findall(r'^sbg_exporter_retries_total\{.*endpoint="(\w+)"\} (\d+)', page, re.MULTILINE))
    assert samples == {"list": "1", "job": "0", "user": "0"}
    assert "`sbg_exporter_retries_total`" in checkout.read("exporter/metrics/README.md")
    assert len(product_files(recipe)) <= 3


def test_recipe_for_a_setting_is_accepted_from_flag_variable_and_file(checkout: Checkout, tmp_path: Path) -> None:
    recipe = steps("Add a setting")
    for step in recipe:
        checkout.follow(step)
    file = tmp_path / "config.toml"
    account = {"SB_API_ENDPOINT": "https://cgc-api.sbgenomics.com/v2", "SB_AUTH_TOKEN": DEMO_TOKEN}
    check = (sys.executable, "-m", "exporter", "check", "--offline", "--config", str(file))

    for text, environ, flags, expected in (
        ('first_poll_delay = "5s"', {}, (), 0),
        ("", {"SBG_EXPORTER_FIRST_POLL_DELAY": "5s"}, (), 0),
        ("", {}, ("--first-poll-delay", "5s"), 0),
        ('first_poll_delay = "soon"', {}, (), 2),
        ("", {"SBG_EXPORTER_FIRST_POLL_DELAY": "soon"}, (), 2),
        ("", {}, ("--first-poll-delay", "soon"), 2),
    ):
        file.write_text(text)
        checkout.run(*check, *flags, expected=expected, environ=account | environ)

    assert "--first-poll-delay" in checkout.run(sys.executable, "-m", "exporter", "run", "--help")
    assert "| `first_poll_delay` | `0s` |" in checkout.read("exporter/config/README.md")
    assert '"first_poll_delay"' in checkout.read("deploy/helm/sbg-exporter/values.schema.json")
    assert len(product_files(recipe)) <= 3


@pytest.mark.tools("promtool", "amtool")
def test_recipe_for_an_alert_passes_promtool_and_reaches_the_manifests(checkout: Checkout) -> None:
    for step in steps("Add an alert"):
        checkout.follow(step)

    assert "[`SbgAccountTimeouts`](RUNBOOKS.md#sbgaccounttimeouts)" in checkout.read("deploy/prometheus/README.md")
    assert "SbgAccountTimeouts" in checkout.read("deploy/helm/sbg-exporter/files/rules.yaml")
    assert "SbgAccountTimeouts" in checkout.read("deploy/kubernetes/components/prometheus-operator/prometheusrule.yaml")

"""The README says what the code says."""

import re
import subprocess
from pathlib import Path

import pytest

from exporter.commands.cli import COMMANDS
from exporter.simulator import control
from tests.readme_tables import written
from tests.tools import tool

README = Path(__file__).parents[2] / "README.md"
RULES = README.parent / "deploy" / "prometheus"


def test_its_tables_are_those_of_the_code() -> None:
    """After a change: ``python -m tests.readme_tables --write README.md``."""
    readme = README.read_text(encoding="utf-8")

    assert readme == written(readme)


def test_its_table_of_commands_is_that_of_the_command_line() -> None:
    rows = re.findall(r"^\| `sbg-exporter (\w+)`", README.read_text(encoding="utf-8"), re.MULTILINE)

    assert rows == list(COMMANDS)


def test_its_table_of_the_simulators_control_side_is_that_of_the_simulator() -> None:
    documented = re.findall(r"^\| `([A-Z]+) /simulator/?([\w/]*)`", README.read_text(encoding="utf-8"), re.MULTILINE)
    in_code = re.findall(r"^([A-Z]+) +/simulator/?([\w/]*)", str(control.__doc__), re.MULTILINE)

    assert documented == in_code
    assert len(documented) == 13


@pytest.mark.tools("promtool")
def test_its_scrape_configuration_is_one(tmp_path: Path) -> None:
    [block] = re.findall(
        r"```yaml\n(# prometheus.yml\nscrape_configs:.+?)```", README.read_text(encoding="utf-8"), re.DOTALL
    )
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(block.replace("/etc/prometheus/", f"{RULES}/"))

    checked = subprocess.run(
        [tool("promtool"), "check", "config", str(configuration)], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr + checked.stdout
    assert "32 rules found" in checked.stdout


@pytest.mark.parametrize(
    "readme",
    [
        "no markers",
        "<!-- metrics -->\n<!-- /metrics -->\n",
        "<!-- settings -->\n<!-- /settings -->\n" * 2 + "<!-- metrics -->\n<!-- /metrics -->\n",
        "<!-- settings -->\n<!-- /settings -->\n<!-- metrics -->\n<!-- /metrics -->\n",
    ],
)
def test_a_readme_without_its_markers_is_an_error(readme: str) -> None:
    with pytest.raises(ValueError, match="there must be one"):
        written(readme)


def test_what_is_written_is_between_the_markers_and_stays_when_written_again() -> None:
    readme = (
        "above\n<!-- metrics -->\nold\n<!-- /metrics -->\nbetween\n<!-- alerts -->\n<!-- /alerts -->\n"
        "<!-- settings -->\n<!-- /settings -->\nbelow\n"
    )

    once = written(readme)

    assert written(once) == once
    assert once.startswith("above\n<!-- metrics -->\n\n**Current state**\n\n| metric |")
    assert once.endswith("<!-- /settings -->\nbelow\n")
    assert "old" not in once.splitlines()
    assert "| `sbg_up` | gauge | `account` | Whether the last poll of the account succeeded. |\n" in once
    assert "| `poll_interval` | `30s` | " in once

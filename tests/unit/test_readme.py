"""The README says what the code says."""

import json
import re
import subprocess
from pathlib import Path
from textwrap import indent

import pytest

from exporter.cli import COMMANDS
from exporter.metrics.catalogue import FAMILIES
from exporter.simulator import control
from tests.readme_tables import written

README = Path(__file__).parents[2] / "README.md"


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


def test_promtool_takes_its_alerts_and_they_name_metrics_that_there_are(tmp_path: Path) -> None:
    readme = README.read_text(encoding="utf-8")
    table = readme.partition("<!-- alerts -->")[2].partition("<!-- /alerts -->")[0]
    rows = re.findall(r"^\| `(.+?)` \| (\w+) \|", table, re.MULTILINE)
    [block] = re.findall(r"```yaml\n(- alert: .+?)```", readme, re.DOTALL)
    alerts = block + "".join(
        f"- alert: Row{number}\n  expr: {json.dumps(expression)}\n  for: {lasting}\n"
        for number, (expression, lasting) in enumerate(rows)
    )
    rules = tmp_path / "rules.yml"
    rules.write_text(f"groups:\n- name: readme\n  rules:\n{indent(alerts, '  ')}")

    checked = subprocess.run(["promtool", "check", "rules", str(rules)], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stderr + checked.stdout
    assert f"{len(rows) + 1} rules found" in checked.stdout
    assert len(rows) == 5
    assert {*re.findall(r"\bsbg_\w+", alerts)} <= {family.name for family in FAMILIES}


@pytest.mark.parametrize(
    "readme",
    [
        "no markers",
        "<!-- metrics -->\n<!-- /metrics -->\n",
        "<!-- settings -->\n<!-- /settings -->\n" * 2 + "<!-- metrics -->\n<!-- /metrics -->\n",
    ],
)
def test_a_readme_without_its_markers_is_an_error(readme: str) -> None:
    with pytest.raises(ValueError, match="there must be one"):
        written(readme)


def test_what_is_written_is_between_the_markers_and_stays_when_written_again() -> None:
    readme = "above\n<!-- metrics -->\nold\n<!-- /metrics -->\nbetween\n<!-- settings -->\n<!-- /settings -->\nbelow\n"

    once = written(readme)

    assert written(once) == once
    assert once.startswith("above\n<!-- metrics -->\n\n**As last listed**\n\n| metric |")
    assert once.endswith("<!-- /settings -->\nbelow\n")
    assert "old" not in once.splitlines()
    assert "| `sbg_up` | gauge | `account` | Whether the last poll of the account succeeded. |\n" in once
    assert "| `poll_interval` | `30s` | " in once

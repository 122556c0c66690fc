"""Grafana's own components take the dashboards: their schema and types, and each panel of them drawn in a browser.

Without data here, which is quick; ``make screenshots`` draws them with hours of it, and test_dashboards.py asks every
query of a Prometheus that has some.
"""

import subprocess
from pathlib import Path

import pytest

from tests.e2e.render.history import SCENARIOS, write
from tests.e2e.render.shoot import HERE, Choice, build_page, prometheus, shoot_each

pytestmark = pytest.mark.tools("node", "npm")


@pytest.fixture(scope="session", autouse=True)
def built_page() -> Path:
    """The folder of the page that draws, with the packages installed: built once, before the first test."""
    return build_page()


@pytest.mark.parametrize("script", ["check", "schema"])
def test_the_dashboards_and_the_page_that_draws_them_have_the_types_of_grafana_s_schema(script: str) -> None:
    checked = subprocess.run(["npm", "run", "--silent", script], cwd=HERE, capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.tools("chromium", "prometheus", "promtool")
def test_every_panel_is_drawn_also_without_data(tmp_path: Path) -> None:
    write(tmp_path / "history", SCENARIOS["no-data"])
    with prometheus(tmp_path / "history") as url:
        faults = shoot_each(tmp_path, "no-data", Choice(widths=(1280,), themes=("dark",)).pictures(url))

    assert faults == []
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "bulk-jobs-no-data-1280-dark.png",
        "exporter-health-no-data-1280-dark.png",
        "files-and-jobs-no-data-1280-dark.png",
        "one-account-no-data-1280-dark.png",
    ]

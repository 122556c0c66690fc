"""``python -m grafana.build`` writes the dashboards' JSON into ``grafana/dashboards``."""

from pathlib import Path
from typing import Final

from grafana import copy_jobs, health, one_account
from grafana.pages import built

FOLDER: Final = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, str]:
    """The text of every file in the folder, by its name."""
    pages = (copy_jobs.page(), one_account.page(), health.page())
    return {
        f"{page.uid.removeprefix('sbg-')}.json": built(page, [other for other in pages if other is not page])
        for page in pages
    }


def main() -> None:
    """Write them, and remove what is no longer built."""
    texts = dashboards()
    for stray in {path.name for path in FOLDER.glob("*.json")} - texts.keys():
        (FOLDER / stray).unlink()
    for name, text in texts.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

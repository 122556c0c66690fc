"""Write the dashboards' JSON to ``grafana/dashboards``: ``python -m grafana.build``."""

from pathlib import Path
from typing import Final

from grafana import bulk_jobs, files_and_jobs, health, one_account
from grafana.layout import built

FOLDER: Final = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, str]:
    """Return the text of every dashboard file by file name."""
    pages = (bulk_jobs.page(), one_account.page(), files_and_jobs.page(), health.page())
    return {
        f"{page.uid.removeprefix('sbg-')}.json": built(page, [other for other in pages if other is not page])
        for page in pages
    }


def main() -> None:
    """Write all dashboards and delete files that are no longer built."""
    texts = dashboards()
    for stray in {path.name for path in FOLDER.glob("*.json")} - texts.keys():
        (FOLDER / stray).unlink()
    for name, text in texts.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

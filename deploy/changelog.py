"""Sections of CHANGELOG.md: ``python -m deploy.changelog release`` begins the section of a version.

It moves what is under *Unreleased* under the version in ``exporter/__init__.py``, with today's date. ``python -m
deploy.changelog notes`` prints a version's section, which becomes the notes of its release.
"""

import argparse
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from exporter import __version__

CHANGELOG: Final = Path(__file__).parents[1] / "CHANGELOG.md"
UNRELEASED: Final = "Unreleased"
_HEADING: Final = re.compile(r"(?m)^## \[([^\]]+)\](?: - \d{4}-\d\d-\d\d)?\n")


def notes(changelog: str, version: str) -> str:
    """Return the section of *version* without its heading.

    Raises:
        ValueError: there is no such section, or nothing is in it.
    """
    parts = _HEADING.split(changelog)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    if version not in sections:
        raise ValueError(f"CHANGELOG.md has no section [{version}]; python -m deploy.changelog release begins it")
    if not (text := sections[version].strip()):
        raise ValueError(f"nothing is under [{version}] in CHANGELOG.md")
    return f"{text}\n"


def released(changelog: str, version: str, date: str) -> str:
    """Return the text with all that is unreleased in the section of *version*.

    Raises:
        ValueError: nothing is unreleased, or that version has a section.
    """
    notes(changelog, UNRELEASED)
    if f"## [{version}]" in changelog:
        raise ValueError(f"CHANGELOG.md has a section [{version}]; set the next version in exporter/__init__.py")
    heading = f"## [{UNRELEASED}]\n"
    return changelog.replace(heading, f"{heading}\n## [{version}] - {date}\n", 1)


def main() -> int:
    """Begin a section or print one, and return the exit code."""
    parser = argparse.ArgumentParser(description="Begin the section of a version, or print it.")
    parser.add_argument("what", choices=("release", "notes"))
    parser.add_argument("version", nargs="?", default=__version__, help=f"default: {__version__}")
    options = parser.parse_args()
    text = CHANGELOG.read_text(encoding="utf-8")
    try:
        if options.what == "notes":
            sys.stdout.write(notes(text, options.version))
        else:
            today = datetime.now(UTC).date().isoformat()
            CHANGELOG.write_text(released(text, options.version, today), encoding="utf-8")
    except ValueError as error:
        raise SystemExit(str(error)) from None
    return 0


if __name__ == "__main__":
    sys.exit(main())

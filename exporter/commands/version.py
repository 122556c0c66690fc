"""``version``: which exporter, Python and operating system this is."""

import platform

import click

from exporter import __version__
from exporter.commands._click import Command
from exporter.revision import revision


@click.command(
    cls=Command,
    epilog="""\b
Example:
  sbg-exporter version""",
)
def command() -> int:
    """Print the versions of sbg-exporter and Python, the commit it was built from, and the operating system."""
    click.echo(version_line())
    return 0


def version_line() -> str:
    """The versions of sbg-exporter and Python, the commit it was built from, and the operating system."""
    runs_on = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return f"sbg-exporter {__version__} (revision {revision()}, {runs_on})"

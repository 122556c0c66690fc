"""``python -m exporter``, and the ``sbg-exporter`` command."""

import sys

from exporter.cli import main as command_line


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(command_line())


if __name__ == "__main__":
    main()

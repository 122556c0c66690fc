"""``python -m exporter``, and the ``sbg-exporter`` command."""

import signal
import sys

# Ctrl-C while everything is still being loaded ends the process without a word, not with a traceback of the loading.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from exporter.commands.cli import main as command_line  # noqa: E402  # see above


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(command_line())


if __name__ == "__main__":
    main()

"""``python -m exporter``, and the ``sbg-exporter`` command."""

import signal
import sys

# Ctrl-C while modules are being imported ends the process silently, without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from exporter.commands import main as command_line  # noqa: E402  # the signal comes first


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(command_line())


if __name__ == "__main__":
    main()

"""``python -m exporter``, and the ``sbg-exporter`` command."""

# Importing signal takes milliseconds in which Ctrl-C would print a traceback; the module below it is built in.
import _signal  # type: ignore[import-not-found]  # known to Python, not to the type checker

_signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM))

import sys  # noqa: E402  # the signals come first

from exporter import signals  # noqa: E402


def main() -> None:
    """Run the command line and exit with its code."""
    signals.watch(sys.argv[1:])
    from exporter.commands import main as command_line  # noqa: PLC0415  # takes long, and signals end it already

    signals.leave(command_line())


if __name__ == "__main__":
    main()

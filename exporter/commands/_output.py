"""Lines on standard output and standard error: each in one line, without secrets, and in any encoding."""

import sys

from exporter.logs import NonBlockingStream
from exporter.redaction import shown, shown_lines


def say(line: str) -> None:
    """Write *line* to standard output."""
    sys.stdout.write(f"{shown(line)}\n")


def print_error(errors: NonBlockingStream, line: str) -> None:
    """Write *line* to standard error."""
    errors.write(f"sbg-exporter: {shown(line)}\n")


def print_traceback(errors: NonBlockingStream, lines: str) -> None:
    """Write the traceback of a bug to standard error."""
    errors.write(f"{shown_lines(lines)}\n")

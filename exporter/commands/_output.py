"""Lines on standard output and standard error: each in one line, without secrets, and in any encoding."""

import sys

from exporter.commands._command_line import program
from exporter.logs import NonBlockingStream
from exporter.redaction import shown, shown_lines


def say(line: str) -> None:
    """Write *line* to standard output."""
    sys.stdout.write(f"{as_typed(shown(line))}\n")


def as_typed(line: str) -> str:
    """*line* with the commands in it, which are in backticks, as the user can type them."""
    return line.replace("`sbg-exporter", f"`{program()}")


def print_error(errors: NonBlockingStream, line: str) -> None:
    """Write *line* to standard error."""
    errors.write(f"sbg-exporter: {as_typed(shown(line))}\n")


def print_traceback(errors: NonBlockingStream, lines: str) -> None:
    """Write the traceback of a bug to standard error."""
    errors.write(f"{shown_lines(lines)}\n")

"""What standard output can show, and text laid out for it: columns, colours, progress bars.

On a terminal, lines fit its width. Elsewhere nothing is cut off, and there are no colours and no bars. Characters that
the encoding lacks are replaced.
"""

import os
import select
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, TextIO

_BETWEEN: Final = "  "
_LEAST_SHRUNK: Final = 8
_LONGEST_BAR: Final = 20
_SHORTEST_BAR: Final = 4
_USUAL_SIZE: Final = (80, 24)
_ASCII_LOCALES: Final = {"C", "POSIX"}
_CLEAR: Final = "\x1b[H\x1b[J"
_RESET: Final = "\x1b[0m"


class Style(StrEnum):
    """How a text looks on a terminal; the value is the escape sequence."""

    PLAIN = ""
    HEADING = "\x1b[1m"
    QUIET = "\x1b[2m"
    GOOD = "\x1b[32m"
    WARNING = "\x1b[33m"
    BAD = "\x1b[31m"


class Cell(NamedTuple):
    """A text in a table."""

    text: str
    style: Style = Style.PLAIN


class Column(NamedTuple):
    """A column's title, and how its cells are laid out; one that may *shrink* is cut off if the line is too long."""

    title: str
    right: bool = False
    shrink: bool = False


@dataclass(frozen=True, slots=True)
class Display:
    """What can be shown.

    Attributes:
        columns: width of the terminal; None if it is none.
        lines: its height.
        color: whether styles are shown.
        unicode: whether it shows more than ASCII.
    """

    columns: int | None
    lines: int
    color: bool
    unicode: bool

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads it as it is written."""
        return self.columns is not None

    def styled(self, text: str, style: Style) -> str:
        """*text* in *style*, if styles are shown."""
        return f"{style}{text}{_RESET}" if self.color and style else text

    def bar(self, parts: Sequence[tuple[int, Style]], total: int, width: int) -> str:
        """A bar of *width* characters, filled in proportion to *total* by *parts*: completed files, then failed ones.

        Every part that is not 0 is visible, and the bar is full only if nothing is left.
        """
        full, failed, empty = ("█", "▒", "░") if self.unicode else ("#", "x", ".")
        lengths = _bar_lengths([value for value, _ in parts], total, width)
        filled = "".join(
            self.styled((failed if style is Style.BAD else full) * length, style)
            for length, (_, style) in zip(lengths, parts, strict=True)
        )
        return filled + self.styled(empty * (width - sum(lengths)), Style.QUIET)

    def bar_width(self, used: int) -> int:
        """How wide a bar may be next to *used* columns; 0: no room for one."""
        room = 0 if self.columns is None else self.columns - used - len(_BETWEEN)
        return 0 if room < _SHORTEST_BAR else min(room, _LONGEST_BAR)

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, reserve: int = 0) -> list[str]:
        """The lines of a table with its titles, without *reserve* columns; trailing white space is removed."""
        widths = self.widths(columns, rows, reserve=reserve)
        titles = [Cell(column.title, Style.HEADING) for column in columns]
        return [self._line(columns, widths, row) for row in (titles, *rows)]

    def widths(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, reserve: int = 0) -> list[int]:
        """The width of each column, if *reserve* columns of the terminal are for something else."""
        widths = [
            max(width_of(column.title), *(width_of(row[position].text) for row in rows), 0)
            for position, column in enumerate(columns)
        ]
        if self.columns is not None:
            excess = total_width(widths) + reserve - self.columns
            for position, column in enumerate(columns):
                if column.shrink and excess > 0:
                    cut = min(excess, max(0, widths[position] - _LEAST_SHRUNK))
                    widths[position] -= cut
                    excess -= cut
        return widths

    def _line(self, columns: Sequence[Column], widths: Sequence[int], row: Sequence[Cell]) -> str:
        cells = []
        for position, (column, width, cell) in enumerate(zip(columns, widths, row, strict=True)):
            text = self.shortened(cell.text, width)
            padding = " " * (width - width_of(text))
            shown = self.styled(text, cell.style)
            last = position == len(columns) - 1
            cells.append(padding + shown if column.right else shown if last else shown + padding)
        return _BETWEEN.join(cells).rstrip()

    def shortened(self, text: str, width: int) -> str:
        """*text* in at most *width* columns; an ellipsis says that it was cut off."""
        if width_of(text) <= width:
            return text
        mark = "…" if self.unicode else "~"
        while text and width_of(text) > width - 1:
            text = text[:-1]
        return text + mark


def _bar_lengths(values: Sequence[int], total: int, width: int) -> list[int]:
    most = max(total, sum(values), 1)
    lengths = [max(value * width // most, value > 0) for value in values]
    while sum(lengths) > width - (sum(values) < most):  # leave room for what is not done yet
        lengths[lengths.index(max(lengths))] -= 1
    if sum(values) == most:
        lengths[lengths.index(max(lengths))] += width - sum(lengths)  # what rounding left over
    return lengths


def total_width(widths: Sequence[int]) -> int:
    """The width of a line with columns of *widths*."""
    return sum(widths) + len(_BETWEEN) * (len(widths) - 1)


def width_of(text: str) -> int:
    """How many columns of a terminal *text* takes."""
    return sum(_WIDE.get(unicodedata.east_asian_width(each), 1) for each in text if not unicodedata.combining(each))


_WIDE: Final = {"W": 2, "F": 2}


def printable(text: str) -> str:
    """*text* on one line without control characters, which could change what a terminal shows."""
    return "".join(each if each.isprintable() else " " for each in text)


def display_of(stream: TextIO, environ: Mapping[str, str]) -> Display:
    """What *stream* can show. ``NO_COLOR`` turns colours off, and ``COLUMNS`` and ``LINES`` override the size."""
    terminal = stream.isatty()
    columns, lines = shutil.get_terminal_size(_USUAL_SIZE)
    plain = not terminal or bool(environ.get("NO_COLOR")) or environ.get("TERM") == "dumb"
    return Display(max(columns, 1) if terminal else None, lines, not plain, _shows_unicode(stream, environ))


def _shows_unicode(stream: TextIO, environ: Mapping[str, str]) -> bool:
    # In the locale C, Python writes UTF-8 all the same.
    locale = next((value for name in ("LC_ALL", "LC_CTYPE", "LANG") if (value := environ.get(name))), "")
    try:
        "█▒░…".encode(stream.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return locale not in _ASCII_LOCALES


def write_lines(lines: Sequence[str], display: Display, *, clear: bool = False) -> None:
    """Write *lines* to standard output at once; on a cleared screen, if *clear* is set."""
    text = "".join(f"{line}\n" for line in lines)
    encoding = "ascii" if not display.unicode else sys.stdout.encoding or "ascii"
    text = text.encode(encoding, "replace").decode(encoding)
    sys.stdout.write(f"{_CLEAR if clear else ''}{text}")
    sys.stdout.flush()


def reader_left() -> bool:
    """Whether standard output is a pipe that no process reads any more."""
    try:
        watched = select.poll()
        watched.register(sys.stdout.fileno(), 0)
        return any(events & select.POLLERR for _, events in watched.poll(0))
    except (OSError, ValueError):  # closed, or not a file
        return False


def standard_output() -> Display:
    """What standard output can show now."""
    return display_of(sys.stdout, os.environ)

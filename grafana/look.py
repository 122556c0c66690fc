"""Colours and words, once for all dashboards.

Red means that files or jobs failed, and nothing else; orange asks for a look; blue is work going well. The three are
told apart by all common kinds of colour blindness, and no panel says anything by colour alone.
"""

from typing import Final

GOOD: Final = "blue"
LOOK: Final = "orange"
LEGIBLE_LOOK: Final = "dark-orange"
"""For words in it, and for white words on it."""
FAILURE: Final = "red"
PLAIN: Final = "text"
NONE: Final = "transparent"
GONE: Final = "purple"
QUIET: Final = "#8e8e99"
_TEAL: Final = "#4fa8a0"

OPERATIONS: Final = {"copy": GOOD, "move": "light-purple", "delete": _TEAL}
STATES: Final = {"submitted": "super-light-blue", "resolving": "light-purple", "running": GOOD, "finished": QUIET}
OUTCOMES: Final = {
    "succeeded": GOOD,
    "incomplete": LOOK,
    "lost": GONE,
    "partial": "light-red",
    "failed": FAILURE,
}
QUANTILES: Final = {"half": GOOD, "9 of 10": "light-purple", "99 of 100": LOOK}
POLL_RESULTS: Final = {
    "success": GOOD,
    "maintenance": QUIET,
    "rate_limited": "yellow",
    "bad_answer": "light-purple",
    "unauthorized": LOOK,
    "unreachable": "dark-orange",
    "error": GONE,
}

REQUESTS: Final = {
    "2..": GOOD,
    "429": "yellow",
    "4(0.|1.|2[0-8])": LOOK,
    "5..": GONE,
    "(timeout|connect|other)": "dark-orange",
}

CODES: Final = {
    "5001": "no privilege on the file",
    "5002": "file does not exist",
    "5003": "file exists already",
    "5007": "file copy failed",
    "5014": "no privilege to copy",
    "5015": "no moving between projects",
    "5022": "parent is not a folder",
    "5026": "destination folder not found",
    "5032": "no privilege to move",
    "10210": "no privilege on the destination",
    "10212": "resource path not found",
    "10213": "destination path not found",
    "10215": "external resource unavailable",
    "10220": "unexpected error",
    "10221": "no privilege on the destination",
    "10222": "folder missing",
    "10223": "file exists already",
    "10224": "folder exists already",
    "10225": "source missing",
    "10226": "no privilege on the source",
    "10229": "copy into its own parent",
    "90004": "unexpected error",
    "90005": "service unavailable",
}
"""The platform's error codes that bulk jobs meet, in a few words."""

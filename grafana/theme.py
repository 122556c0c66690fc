"""Colours and value texts of all dashboards.

Red means failed files or jobs only. Orange is a warning. Blue is normal work. All common kinds of colour blindness can
distinguish these three, and no panel uses colour alone.
"""

from typing import Final

GOOD: Final = "blue"
WARNING: Final = "orange"
WARNING_TEXT: Final = "dark-orange"
"""Orange with enough contrast for text in it and for white text on it."""
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
    "incomplete": WARNING,
    "lost": GONE,
    "partial": "light-red",
    "failed": FAILURE,
}
QUANTILES: Final = {"p50": GOOD, "p90": "light-purple", "p99": WARNING}
POLL_RESULTS: Final = {
    "success": GOOD,
    "maintenance": QUIET,
    "rate_limited": "yellow",
    "bad_answer": "light-purple",
    "unauthorized": WARNING,
    "unreachable": "dark-orange",
    "error": GONE,
}

REQUESTS: Final = {
    "2..": GOOD,
    "429": "yellow",
    "4(0.|1.|2[0-8])": WARNING,
    "5..": GONE,
    "(timeout|connect|other)": "dark-orange",
}

"""Colours and value texts of all dashboards.

A colour has one meaning: blue is normal work, orange a warning, red failed files or jobs, or an account that is down.
Operations have hues that mean nothing else. All common kinds of colour blindness can distinguish blue, orange and red,
and no panel uses colour alone. Accounts have no colours: each has a row with its name, which is as readable for fifty
accounts as for one.
"""

from typing import Final

GOOD: Final = "blue"
WARNING: Final = "orange"
WARNING_TEXT: Final = "dark-orange"
"""Orange with enough contrast for text in it and for white text on it."""
FAILURE: Final = "red"
PLAIN: Final = "text"
NONE: Final = "transparent"
GONE: Final = "dark-purple"
QUIET: Final = "#8e8e99"
YELLOW: Final = "#d9b13b"
"""Grafana's own yellow is hard to see on white."""

OPERATIONS: Final = {"copy": "#2fa39a", "move": "#a57be0", "delete": "#98a234"}
STATES: Final = {"submitted": QUIET, "resolving": YELLOW, "running": GOOD}
OUTCOMES: Final = {
    "succeeded": GOOD,
    "incomplete": YELLOW,
    "lost": GONE,
    "partial": WARNING,
    "failed": FAILURE,
}
FILES: Final = {"expected": QUIET, "completed": GOOD, "failed": FAILURE}
ENDPOINTS: Final = {"poll": QUIET, "list": GOOD, "job": "light-purple", "user": YELLOW}
POLL_RESULTS: Final = {
    "success": GOOD,
    "maintenance": QUIET,
    "rate_limited": YELLOW,
    "bad_answer": "light-purple",
    "unauthorized": WARNING,
    "unreachable": "dark-orange",
    "error": GONE,
}

REQUESTS: Final = {
    "2..": GOOD,
    "429": YELLOW,
    "4(0.|1.|2[0-8])": WARNING,
    "5..": GONE,
    "(timeout|connect|other)": "dark-orange",
}

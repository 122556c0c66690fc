"""How figures are printed."""

import sys


def row(what: str, value: str, goal: str = "") -> None:
    """One figure, with the goal it is held against, if any."""
    sys.stdout.write(f"  {what:<58} {value:>14}{'   goal: ' + goal if goal else ''}\n")
    sys.stdout.flush()

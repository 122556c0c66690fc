"""How figures are printed."""

import sys

wrong: list[str] = []
"""What turned out to be wrong, not merely slow: the run fails for it."""


def row(what: str, value: str, goal: str = "", *, met: bool | None = None) -> None:
    """One figure, with the goal it is held against, if any, and whether it was *met*, where that can be told."""
    verdict = "" if met is None else ", met" if met else ", MISSED"
    sys.stdout.write(f"  {what:<58} {value:>14}{'   goal: ' + goal + verdict if goal else ''}\n")
    sys.stdout.flush()


def fail(what: str) -> None:
    """Say what is wrong, and let the run end with an error."""
    wrong.append(what)
    sys.stdout.write(f"  WRONG: {what}\n")
    sys.stdout.flush()

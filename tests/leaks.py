"""Looks for tokens in what the exporter writes: no output of any test may contain one.

Each test process collects the tokens that its tests use. :mod:`tests.harness` compares them with all output, pages and
files of each process that it starts, and with its command line; ``conftest.py`` does so with the output of all other
tests. Both fail the test that finds one.
"""

import base64
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import quote

from exporter.simulator.settings import DEMO_TOKEN

_SHORTEST: Final = 8
"""Shorter ones occur by chance in other words."""
_FORMAT: Final = re.compile(r"(?<![0-9a-zA-Z])[0-9a-f]{32}(?![0-9a-zA-Z])")
"""The format of the platforms' tokens."""
_PUBLIC: Final = f"SB_AUTH_TOKEN={DEMO_TOKEN} sbg-exporter"
"""From the help of `simulate`; this token opens simulators only."""
_MAY_HOLD_TOKENS: Final = re.compile(r"\.(token|toml|new|pem|key)$|^credentials$")
"""Names of the files in which the tests themselves write tokens."""

_used: set[str] = {DEMO_TOKEN}


class Leak(AssertionError):
    """A token was found where none may be."""


def use(*secrets: str) -> None:
    """Look for *secrets*, tokens or passwords, in all output from now on, also as they are encoded in headers."""
    for each in secrets:
        if len(each) >= _SHORTEST:
            _used.update((each, quote(each), base64.b64encode(each.encode()).decode().rstrip("=")))


def check_text(text: str, where: str) -> None:
    """Fail if *text*, which comes from *where*, contains a token.

    Raises:
        Leak: it does; the message shows what stands before it.
    """
    text = text.replace(_PUBLIC, "")
    positions = [text.find(each) for each in _used] + [found.start() for found in _FORMAT.finditer(text)]
    found = min((each for each in positions if each >= 0), default=None)
    if found is not None:
        raise Leak(f"a token in {where}, after {text[max(0, found - 200) : found]!r}")


def check_files(folder: Path) -> None:
    """Fail if a file in *folder* contains a token, except where the tests write them.

    Raises:
        Leak: one does.
    """
    for file in folder.rglob("*"):
        mounted = file.parent.name.endswith("tokens")  # a Secret of Kubernetes, with a file for each account
        if file.is_file() and not mounted and not _MAY_HOLD_TOKENS.search(file.name):
            check_bytes(file.read_bytes(), f"the file {file}")


def check_bytes(data: bytes, where: str) -> None:
    """Fail if *data* contains a token that the tests use.

    Raises:
        Leak: it does.
    """
    if any(each.encode() in data for each in _used):
        raise Leak(f"a token in {where}")


def check_command_line(pid: int, arguments: Iterable[str]) -> None:
    """Fail if the list of processes shows a token that is not in the *arguments* that the test itself gave.

    Raises:
        Leak: it does.
    """
    try:
        shown = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended
        return
    for each in arguments:
        shown = shown.replace(each, "")
    check_text(shown, f"the command line of process {pid}")

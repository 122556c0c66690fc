"""The tables of faults in README.md: a row for each case of a test marked ``fault``.

A test that compares counters with the simulator's truth measures what was lost and what was counted twice:
``harness.difference`` does so by itself, others call :func:`measure`. ``pytest -m fault --record-faults`` writes what
was measured to ``faults.json``, ``python -m tests.doc_tables`` writes the table. Every later run measures the same, or
fails.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
import pytest

_TESTS: Final = Path(__file__).parent
RECORD: Final = _TESTS / "faults.json"
"""What was measured, by test: how much was lost, and how much was counted twice."""
COLUMNS: Final = ("fault", "action", "what is shown", "lost", "double-counted", "recovery")
PARTS: Final[Mapping[str, frozenset[str]]] = {
    "The platform": frozenset(
        {"client", "counting", "counting_rules", "deadline", "faults", "foreign_responses", "isolation"}
    )
    | {"large_accounts", "memory", "networks", "plan", "poller", "polling", "secrets", "transport", "waiting"},
    "Clocks": frozenset({"clocks", "platform_clock"}),
    "The process and its signals": frozenset({"exactly_once", "lifecycle", "long_run", "signals"}),
    "The state file": frozenset(
        {"crashes", "state", "state_faults", "state_file", "state_lock", "store", "validation"}
    ),
    "The configuration": frozenset({"reload", "settings", "setup", "tokens"}),
    "The metrics server and other outputs": frozenset({"access", "app", "exposition", "job", "jobs"})
    | {"textfile", "web_config"},
    "Versions": frozenset({"updates"}),
}
"""The tables, by what fails, and the test modules whose rows they have unless the marker names another *part*."""
_ELSEWHERE: Final = "Elsewhere"
_FOLDERS: Final = ("unit", "property", "integration", "e2e", "deploy")
_NOT_MEASURED: Final = "—"

Measured = tuple[int, int]
"""Counted too little, and counted too much."""
ByAccount = dict[str, Measured]
_measured: ByAccount = {}
"""What the running test has measured last, by account."""


class Row(msgspec.Struct, frozen=True, order=True):
    """A row, as the marker says it, and the test that it belongs to."""

    fault: str
    action: str
    shown: str
    recovery: str
    test: str
    part: str


def measure(account: str, differences: Iterable[int]) -> None:
    """Note by how much the counters of *account* differ from the truth; what was noted last stays."""
    found = list(differences)
    _measured[account] = -sum(each for each in found if each < 0), sum(each for each in found if each > 0)


def begin() -> None:
    """Another test begins."""
    _measured.clear()


def by_account() -> ByAccount:
    """What the running test has measured, for :func:`add` in another process."""
    return _measured


def add(found: ByAccount) -> None:
    """Note what a child process of the test has measured."""
    _measured.update(found)


def total() -> Measured | None:
    """What the running test has measured, over all accounts; None if nothing."""
    if not _measured:
        return None
    return sum(lost for lost, _ in _measured.values()), sum(doubled for _, doubled in _measured.values())


def recorded() -> Mapping[str, Measured]:
    """What earlier runs have measured, by test."""
    return msgspec.json.decode(RECORD.read_bytes(), type=dict[str, Measured])


def record(found: Mapping[str, Measured]) -> None:
    """Write what was measured, beside what other runs have measured."""
    lines = (f"  {json.dumps(test)}: {list(each)}" for test, each in sorted({**recorded(), **found}.items()))
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


# ---- the table ----


def rows_of(item: pytest.Item) -> Iterable[Row]:
    """The rows of a test; ``{name}`` in a text stands for the parameter *name* of the case."""
    for mark in item.iter_markers("fault"):
        texts = {"part": _part_of(item), "fault": mark.args[0], **mark.kwargs}
        parameters = getattr(item, "callspec", None)
        yield Row(
            **{name: text.format(**(parameters.params if parameters else {})) for name, text in texts.items()},
            test=item.nodeid,
        )


def _part_of(item: pytest.Item) -> str:
    module = item.path.stem.removeprefix("test_")
    return next((part for part, modules in PARTS.items() if module in modules), _ELSEWHERE)


@cache
def rows() -> Sequence[Row]:
    """The rows of all tests, which a pytest of its own collects: this one may have been told to run only some."""
    command = [sys.executable, "-m", "tests.fault_table"]
    answer = subprocess.run(command, cwd=_TESTS.parent, check=True, capture_output=True, text=True)
    return msgspec.json.decode(answer.stdout.splitlines()[-1], type=list[Row])


def tables() -> Iterable[tuple[str, Sequence[tuple[str, ...]]]]:
    """The parts that have rows, in the order of :data:`PARTS`, and the cells of their rows."""
    for part in (*PARTS, _ELSEWHERE):
        here = list(_cells(row for row in rows() if (row.part if row.part in PARTS else _ELSEWHERE) == part))
        if here:
            yield part, here


def _cells(rows_here: Iterable[Row]) -> Iterable[tuple[str, ...]]:
    """The cells of rows: cases of a test that say the same are one row, with the sum of what they measured."""
    cases: dict[tuple[str, str, str, str, str], list[Measured]] = {}
    known = recorded()
    for row in rows_here:
        test = row.test.partition("[")[0]
        measured = cases.setdefault((row.fault, row.action, row.shown, row.recovery, test), [])
        if row.test in known:
            measured.append(known[row.test])
    for (fault, action, shown, recovery, _), measured in cases.items():
        lost, doubled = (str(sum(each)) for each in zip(*measured, strict=True)) if measured else [_NOT_MEASURED] * 2
        yield fault, action, shown, lost, doubled, recovery


class _Collector:
    def __init__(self) -> None:
        self.rows: list[Row] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.rows = [row for item in session.items for row in rows_of(item)]


def main() -> int:
    """Print the rows of all tests as JSON; the exit code."""
    collector = _Collector()
    options = ["--collect-only", "-q", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
    files = [path for folder in _FOLDERS for path in sorted((_TESTS / folder).glob("test_*.py"))]
    with_rows = [
        str(path) for path in files if "mark.fault(" in path.read_text(encoding="utf-8")
    ]  # others take seconds
    code = pytest.main([*options, *with_rows], plugins=[collector])
    sys.stdout.write("\n" + msgspec.json.encode(collector.rows).decode() + "\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())

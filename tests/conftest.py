"""Fixtures of all tests, skipping of tests whose programs are missing, and hypothesis profiles."""

import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from exporter import redaction
from exporter.simulator.server import QUIET, RunningSimulator, running
from exporter.storage.store import Store
from tests import fault_table, leaks, measured
from tests.clocks import START, ManualClock
from tests.tools import TOOLS, missing
from tests.width import FULL, width

if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # Under nohup, what tests start would ignore SIGHUP too. A handler is not inherited, and keeps the tests running.
    signal.signal(signal.SIGHUP, lambda *_: None)

_MISSING = "missing tool"
"""Property under which a skipped test reports a missing program, also to xdist's main process."""

_UNIT = Path(__file__).parent / "unit"

_COST = "cost of the fault"
"""Property under which a test reports what was lost and what was counted twice."""

settings.register_profile(
    "project",
    max_examples=width(25, 150),
    derandomize=not FULL,  # make test tries the same examples each time, make test-all tries new ones
    deadline=None,  # A busy machine must not fail a test.
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],  # A busy machine must not fail a test.
)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def _fresh_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the secrets of earlier tests, which would be masked in the texts of this one."""
    monkeypatch.setattr(redaction, "_KNOWN", redaction.KnownSecrets())


@pytest.fixture
def clock() -> ManualClock:
    """A clock that shows START until the test advances it."""
    return ManualClock()


@pytest.fixture
def state_file(tmp_path: Path) -> Path:
    """Path of a state file; neither the file nor its folder exists."""
    return tmp_path / "state" / "state.db"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may write, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="sbg-exporter-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def store(state_file: Path) -> Iterator[Store]:
    """A new state file, opened and locked."""
    with closing(Store(state_file)) as opened:
        yield opened


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    """A simulated platform without jobs, whose clock stays at START."""
    with running(replace(QUIET, speed=0, start=START)) as served:
        yield served


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that records what faults cost."""
    parser.addoption("--record-faults", action="store_true", help="write what faults cost to tests/faults.json")


def pytest_configure(config: pytest.Config) -> None:
    """Measure the coverage of chosen processes only. Xdist's main process runs no test, and starts those that do."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        measured.take()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Among several processes, run unit tests last: one long file at the end would keep only its own process busy."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path.is_relative_to(_UNIT))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Make sure that a fault costs what the table of faults says, unless that is to be recorded."""
    fault_table.begin()
    yield
    cost = fault_table.total()
    if cost is None or item.get_closest_marker("fault") is None:
        return
    item.user_properties.append((_COST, cost))
    if not item.config.getoption("--record-faults"):
        assert cost == fault_table.recorded().get(item.nodeid, (0, 0)), (
            "run: pytest -m fault --record-faults; make generated"
        )


@pytest.fixture
def capsys(capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    """Pytest's own fixture, which fails if what it returns contains a token."""
    read = capsys.readouterr

    def checked() -> Any:  # noqa: ANN401  # pytest does not export the type
        captured = read()
        leaks.check_text(captured.out + captured.err, "the output")
        return captured

    capsys.readouterr = checked  # type: ignore[method-assign]  # the object belongs to this test
    return capsys


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test whose output contains a token."""
    report = yield
    if report.passed and report.when == "call":
        try:
            leaks.check_text(report.capstdout + report.capstderr + report.caplog, "the output of the test")
        except leaks.Leak as leak:
            report.outcome, report.longrepr = "failed", str(leak)
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test if a program that it needs is missing; with ``CI=true``, fail it."""
    lacking = missing(name for mark in item.iter_markers("tools") for name in mark.args)
    if not lacking:
        return
    item.user_properties += [(_MISSING, each.name) for each in lacking]
    reason = "; ".join(f"{each.name} is missing ({each.advice})" for each in lacking)
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """List each missing program with its purpose and how to install it. Record what faults cost, if asked to."""
    if config.getoption("--record-faults"):
        passed = terminalreporter.stats.get("passed", [])
        costs = {each.nodeid: cost for each in passed for key, cost in each.user_properties if key == _COST}
        fault_table.record(costs)
    reports = terminalreporter.stats.get("skipped", [])
    lacking = Counter(name for report in reports for key, name in report.user_properties if key == _MISSING)
    if lacking:
        terminalreporter.section("missing tools")
    for name, tests in sorted(lacking.items()):
        each = TOOLS[name]
        terminalreporter.write_line(f"{name}: {each.purpose}; {tests} tests skipped. Fix: {each.advice}")

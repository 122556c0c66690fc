"""One account's polls while clocks jump in both directions, between any two responses and from process to process.

The poller, the state file and the rules are the real ones. Whatever the clocks show, each job is counted once and as
what it is, no job is called incomplete or lost before it was for long enough, and none waits for ever.
"""

import os
import shutil
import tempfile
from collections import Counter
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from exporter.counting import values as counting
from exporter.storage.store import Store
from tests.clocks import START, ManualClock
from tests.fault_table import measure
from tests.unit.test_poller import PollerFixture
from tests.width import width

IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  # where each commit is quick
INTERVAL = 30.0
TOLERANCE = 3.0
"""Seconds by which the platform's whole seconds may shorten a wait."""
JUMPS = st.sampled_from([0.0, 59.0, 61.0, -61.0, 3600.0, -3600.0, 864_000.0, -864_000.0, 1e8, -1e8])
ENDINGS = ("succeeded", "partial", "failed", "incomplete", "lost")


class Clocks(RuleBasedStateMachine):
    """The exporter, whose process may restart, and a platform; one clock jumps, or both do."""

    @initialize(
        wrong_first=st.lists(JUMPS.filter(bool), max_size=3, unique=True),
        jumping=st.sampled_from(["platform", "machine", "both"]),
    )
    def begin(self, wrong_first: list[float], jumping: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sbg-exporter-test-", dir=IN_MEMORY))
        self.clock = ManualClock()
        self.bench = PollerFixture(self.folder, self.clock, Store(self.folder / "state.db"))
        self.bench.restart()
        self.jumping = jumping
        self.endings: dict[str, str] = {}
        self.ended: dict[str, tuple[float, int]] = {}
        """When the platform began to show that a job ended, and in which process."""
        self.decided: set[str] = set()
        self.processes = 0
        self.bench.platform.finish("history", 1, 2, started_on=_utc(START - 100), finished_on=_utc(START - 90))
        self.bench.platform.dates = [formatdate(START + wrong, usegmt=True) for wrong in wrong_first]
        self.bench.poll(after=0)
        self.submit(4)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            try:
                self.come_to_rest()
                self.check_truth()
            finally:
                self.bench.store.close()
                shutil.rmtree(self.folder)

    # ---- the platform ----

    @rule(jobs=st.integers(1, 4))
    def submit(self, jobs: int) -> None:
        for _ in range(jobs):
            self.bench.platform.add(str(len(self.endings)), total=3)
            self.endings[str(len(self.endings))] = ""
        self.bench.poll(after=INTERVAL)

    @rule(
        ending=st.sampled_from([*ENDINGS, "incomplete", "lost"]),
        ahead=JUMPS,
        whose=st.sampled_from(["platform", "machine"]),
        downtime=st.sampled_from([None, 0.0, 10.0]),
    )
    def end(self, ending: str, ahead: float, whose: str, downtime: float | None) -> None:
        """A job that the exporter knows ends, and the next poll shows it. Then a clock jumps."""
        running = [job_id for job_id, before in self.endings.items() if not before and self.is_known(job_id)]
        if not running:
            return
        job_id = running[0]
        self.endings[job_id], self.ended[job_id] = ending, (self.clock.now, self.processes)
        times: dict[str, Any] = {"started_on": _utc(self.clock.now - 1), "finished_on": _utc(self.clock.now)}
        platform = self.bench.platform
        if ending == "lost":
            del platform.jobs[job_id]
        elif ending == "incomplete":
            platform.finish(job_id, 2, total_files=3, **times)
        else:
            failed = {"succeeded": 0, "partial": 1, "failed": 3}[ending]
            platform.finish(job_id, 3 - failed, failed, **times)
        self.bench.poll(after=0)
        self.jump(whose, ahead, downtime)

    def is_known(self, job_id: str) -> bool:
        """Whether the exporter has counted the job."""
        ledger = self.bench.snapshots[-1].ledger
        return ledger is not None and job_id in ledger.live

    # ---- clocks ----

    @rule(
        whose=st.sampled_from(["platform", "machine"]),
        ahead=JUMPS,
        downtime=st.sampled_from([None, None, 0.0, 10.0]),
    )
    def jump(self, whose: str, ahead: float, downtime: float | None) -> None:
        """A clock jumps, or is put right: while the process runs, or while it does not."""
        if self.jumping in {whose, "both"}:
            if whose == "platform":
                self.bench.platform.clock_ahead = ahead
            else:
                self.clock.wrong_by = ahead
        self.go_on(downtime)

    @rule(ahead=st.lists(JUMPS, min_size=1, max_size=4))
    def dates_jump(self, ahead: list[float]) -> None:
        """Some responses, such as those of one of two servers, show another time."""
        if self.jumping != "machine":
            self.bench.platform.dates = [formatdate(self.clock.now + each, usegmt=True) for each in ahead]
        self.go_on(None)

    @rule(dates=st.sampled_from([[None], [None, None], ["garbage"], [formatdate(START, usegmt=True)] * 3]))
    def dates_are_useless(self, dates: list[str | None]) -> None:
        if self.jumping != "machine":
            self.bench.platform.dates = list(dates)
        self.go_on(None)

    # ---- the exporter ----

    @rule(seconds=st.sampled_from([1.0, 3.5, INTERVAL, 90.0]), polls=st.integers(1, 4))
    def poll(self, seconds: float, polls: int) -> None:
        for _ in range(polls):
            self.bench.poll(after=seconds)
            self.nothing_ends_early()

    @rule(downtime=st.sampled_from([0.0, 5.0, 100.0]))
    def restart(self, downtime: float) -> None:
        self.go_on(downtime)

    def go_on(self, downtime: float | None) -> None:
        """The next polls: of this process, or of the next one, after *downtime*."""
        if downtime is not None:
            self.processes += 1
            self.bench.restart(downtime=downtime)
        for after in (0.0, 3.5, 3.5):
            self.bench.poll(after=after)
            self.nothing_ends_early()

    @invariant()
    def nothing_ends_early(self) -> None:
        if not hasattr(self, "folder"):
            return
        for outcome, wait in (("incomplete", 60.0), ("lost", 300.0)):
            waiting = [each for each, ending in self.endings.items() if ending == outcome and each not in self.decided]
            for record in self.bench.store.records(1, waiting).values():
                if record.outcome:
                    assert record.outcome == outcome
                    self.decided.add(record.id)
                    ended, process = self.ended[record.id]
                    # If both clocks jump together across a restart, nothing shows it.
                    if self.jumping != "both" or process == self.processes:
                        assert self.clock.now - ended >= wait - TOLERANCE

    def counted(self, family: str, *labels: str) -> int:
        ledger = self.bench.snapshots[-1].ledger
        count = None if ledger is None else ledger.counters.get((family, ("copy", *labels)))
        return 0 if count is None else count.value

    # ---- the truth ----

    def come_to_rest(self) -> None:
        """Let both clocks be right, or stay wrong, for long enough for each wait, in one process."""
        self.bench.platform.dates = []
        for _ in range(16):
            self.bench.poll(after=INTERVAL)

    def check_truth(self) -> None:
        truth = Counter(ending for ending in self.endings.values() if ending)
        differences = [self.counted(counting.JOBS_FINISHED, each) - truth[each] for each in ENDINGS]
        differences.append(self.counted(counting.FILES_FAILED) - truth["partial"] - 3 * truth["failed"])
        measure("cavatica", [*differences, self.counted(counting.JOBS_SUBMITTED) - len(self.endings)])
        assert {each: self.counted(counting.JOBS_FINISHED, each) for each in ENDINGS} == {
            each: truth[each] for each in ENDINGS
        }
        assert self.counted(counting.FILES_FAILED) == truth["partial"] + 3 * truth["failed"]
        assert self.counted(counting.JOBS_SUBMITTED) == len(self.endings)
        status = self.bench.snapshots[-1].status
        assert status.up
        assert status.clock_skew is not None
        assert abs(status.clock_skew - (self.bench.platform.clock_ahead - self.clock.wrong_by)) <= TOLERANCE


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Clocks.TestCase.settings = settings(
    max_examples=width(60, 400),
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
)
TestClocks: Any = pytest.mark.fault(
    "the platform's clock or this machine's jumps in any way, also across restarts, and `Date`s are wrong or absent",
    action="waits by what both clocks agree on",
    shown="counters that call no job incomplete or lost too early",
    recovery="the waits' end",
)(Clocks.TestCase)

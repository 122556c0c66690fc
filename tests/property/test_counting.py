"""Random jobs, observed in partial, repeated, reordered and stale listings, with crashes in between.

In any order, the counters end at the truth and never decrease, and counting again adds nothing. The store is a real
file, opened again after each crash.
"""

import itertools
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from exporter.api.models import Job
from exporter.counting import values as counting
from exporter.counting.rules import reconcile
from exporter.counting.values import Changes, JobTotals, Observations, Rules
from exporter.storage.store import Store
from tests.clocks import START
from tests.fault_table import measure
from tests.ledgers import IN_MEMORY
from tests.width import width

SINCE = START
RULES = Rules(settle_after=60, lost_after=300)
STATES = ("submitted", "resolving", "running", "finished")
_serial = itertools.count(1)


@dataclass
class Script:
    """What a job will do, and its progress: the truth."""

    job_id: str
    operation: str
    total: int
    failed: int
    unaccounted: int
    codes: tuple[tuple[str, int], ...]
    times: bool
    started: float = SINCE + 10
    history: bool = False
    stage: int = 0
    """0 submitted, 1 resolving, 2… running with one more file done each, the last finished."""
    shown: list[Job] = field(default_factory=list)

    @property
    def stages(self) -> int:
        return 3 + self.total

    def job(self) -> Job:
        """The job as the platform reports it now."""
        done = min(max(0, self.stage - 2), self.total - self.unaccounted)
        failed = min(self.failed, done)
        finished = self.stage >= self.stages - 1
        return Job(
            self.job_id,
            self.operation,
            "finished" if finished else STATES[min(self.stage, 2)],
            0 if self.stage == 0 else self.total,
            done - failed,
            failed,
            self.started if self.stage >= 2 and self.times else None,
            self.started + self.total if finished and self.times else None,
            self.codes if finished and failed else None,
        )

    @property
    def outcome(self) -> str:
        if self.failed:
            return "failed" if self.failed == self.total - self.unaccounted else "partial"
        return "incomplete" if self.unaccounted else "succeeded"


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    total = draw(st.integers(0, 6))
    unaccounted = draw(st.integers(0, total)) if draw(st.integers(0, 4)) == 0 else 0
    failed = draw(st.integers(0, total - unaccounted))
    codes = (("5001", failed),) if draw(st.booleans()) else (("5002", 1), ("none", max(1, failed - 1)))
    return Script(
        job_id=f"70{next(_serial):017d}",
        operation=draw(st.sampled_from(["copy", "move", "delete", "import"])),
        total=total,
        failed=failed,
        unaccounted=unaccounted,
        codes=codes,
        times=draw(st.booleans()),
    )


class Counting(RuleBasedStateMachine):
    """The exporter (ledger and store) and the platform (scripts)."""

    @initialize(history=st.lists(scripts(), max_size=4))
    def begin(self, history: list[Script]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sbg-exporter-test-", dir=IN_MEMORY))
        self.store = Store(self.folder / "state.db")
        self.ledger = self.store.create(
            "a", "https://p/v2", "u", "", counting_since=SINCE, local_time=SINCE, rules=RULES
        )
        self.jobs = history
        for script in history:  # finished before the ledger began, or at its first complete listing where times lack
            script.started, script.stage, script.history = SINCE - 100, script.stages - 1, True
        self.now = SINCE
        self.highest: dict[counting.Key, int] = {}
        self.see_all("no")

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            try:
                self.see_everything_twice()
                self.check_truth()
            finally:
                self.store.close()
                shutil.rmtree(self.folder)

    # ---- the platform ----

    @rule(script=scripts())
    def submit(self, script: Script) -> None:
        self.jobs.append(script)

    @rule(data=st.data(), steps=st.integers(1, 9))
    def progress(self, data: st.DataObject, steps: int) -> None:
        if self.jobs:
            script = data.draw(st.sampled_from(self.jobs))
            script.shown.append(script.job())
            script.stage = min(script.stages - 1, script.stage + steps)

    @rule(seconds=st.sampled_from([1, 59, 61, 3600, 86400]))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    # ---- the exporter ----

    @rule(data=st.data(), crash=st.sampled_from(["no", "no", "before commit", "after commit"]))
    def see_some(self, data: st.DataObject, crash: str) -> None:
        """A partial listing in any order, with repeated and outdated observations."""
        if not self.jobs:
            return
        seen = data.draw(st.lists(st.sampled_from(self.jobs), min_size=1, max_size=2 * len(self.jobs)))
        jobs = [data.draw(st.sampled_from([script.job(), *script.shown])) for script in seen]
        if data.draw(st.booleans()):  # counts are there "if that information is available"
            jobs = [job if job.state == "finished" else without_counts(job) for job in jobs]
        self.commit(jobs, complete=False, crash=crash)

    @rule(crash=st.sampled_from(["no", "no", "before commit", "after commit"]))
    def see_all(self, crash: str) -> None:
        """A full listing."""
        jobs = [script.job() for script in self.jobs]
        self.commit(jobs, complete=True, crash=crash)
        if crash == "no":
            assert self.ledger.listed == totals(jobs)

    @rule(data=st.data())
    def ask_one(self, data: st.DataObject) -> None:
        """A single-job request."""
        if self.jobs:
            job = data.draw(st.sampled_from(self.jobs)).job()
            self.commit([job], complete=False, crash="no", asked={job.id})

    def commit(self, jobs: list[Job], *, complete: bool, crash: str, asked: set[str] | None = None) -> None:
        changes = self.reconcile(jobs, complete=complete, asked=asked or set())
        if crash != "before commit":
            self.store.commit(self.ledger.account.number, changes)
            self.ledger = self.ledger.after(changes)
            again = self.reconcile(jobs, complete=complete, asked=asked or set())
            assert not again.counters
            assert not again.histograms
            # A job with two different observations in one poll is written again, unchanged.
            assert again.records == self.store.records(self.ledger.account.number, again.records.keys())
        if crash != "no":
            self.store.close()
            self.store = Store(self.folder / "state.db")
            ledger = self.store.load_by_name("a", "https://p/v2", "", failed_since=0)
            assert ledger is not None
            if crash == "after commit":
                assert ledger.counters == self.ledger.counters
                assert ledger.histograms == self.ledger.histograms
                assert ledger.listed == self.ledger.listed
                assert ledger.live == self.ledger.live
            self.ledger = ledger

    def reconcile(self, jobs: list[Job], *, complete: bool, asked: set[str]) -> Changes:
        number = self.ledger.account.number
        ids = {job.id for job in jobs}
        observations = Observations(
            jobs,
            frozenset() if asked else ids,
            asked=asked,
            no_longer_listed=self.store.no_longer_listed(number, ids) if complete else (),
            expirable=self.store.expirable(number, self.ledger.account.listing_clock) if complete else (),
            complete=complete,
        )
        return reconcile(
            self.ledger, self.store.records(number, ids), observations, RULES, local_time=self.now, server_time=self.now
        )

    # ---- the truth ----

    @invariant()
    def nothing_decreases(self) -> None:
        if hasattr(self, "ledger"):
            for key, count in self.ledger.counters.items():
                assert count.value >= self.highest.get(key, 0)
                self.highest[key] = count.value

    def see_everything_twice(self) -> None:
        for script in self.jobs:
            script.stage = script.stages - 1
        for _ in range(2):
            self.see_all("no")
            self.now += RULES.settle_after + 1

    def check_truth(self) -> None:
        expected: Counter[counting.Key] = Counter()
        durations: Counter[tuple[str, ...]] = Counter()
        for script in self.jobs:
            if script.history:
                continue
            job = script.job()
            labels = (script.operation,)
            expected[counting.JOBS_SUBMITTED, labels] += 1
            expected[counting.FILES, labels] += script.total
            expected[counting.FILES_COMPLETED, labels] += job.completed or 0
            expected[counting.FILES_FAILED, labels] += script.failed
            expected[counting.JOBS_FINISHED, (script.operation, script.outcome)] += 1
            if script.failed:
                for code, records in script.codes:
                    expected[counting.FILE_ERRORS, (script.operation, code)] += records
            if script.times:
                durations[script.operation, script.outcome] += 1
        counted = {key: count.value for key, count in self.ledger.counters.items() if count.value}
        measure("a", [counted.get(key, 0) - expected[key] for key in counted.keys() | expected.keys()])
        assert counted == {key: value for key, value in expected.items() if value}
        observed = {
            labels: added
            for (family, labels), histogram in self.ledger.histograms.items()
            if family == counting.JOB_DURATION and (added := sum(int(count) for count in histogram.counts))
        }
        assert observed == durations


def without_counts(job: Job) -> Job:
    """The same observation in a response without counts."""
    return msgspec.structs.replace(job, total=None, completed=None, failed=None)


def totals(jobs: list[Job]) -> dict[tuple[str, str], JobTotals]:
    """The totals of a listing of *jobs*, computed naively."""
    added: dict[tuple[str, str], JobTotals] = {}
    for job in jobs:
        key = (job.operation, job.state)
        was = added.get(key, JobTotals())
        added[key] = JobTotals(
            was.jobs + 1,
            was.total + (job.total or 0),
            was.completed + (job.completed or 0),
            was.failed + (job.failed or 0),
        )
    return added


Counting.TestCase.settings = settings(
    max_examples=width(120, 600), stateful_step_count=25, suppress_health_check=list(HealthCheck)
)
TestCounting: Any = pytest.mark.fault(
    "responses repeated, outdated, incomplete and in any order, with crashes before and after commits",
    action="counts only what exceeds the job's record",
    shown="counters that never fall",
    recovery="the next complete listing",
)(Counting.TestCase)

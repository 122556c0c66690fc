"""The whole exporter of one account, poll after poll, with a failure at any step and clocks that jump.

The real poller, client, plan, ledger and SQLite file poll the simulated platform, without sockets and without waiting.
What it publishes never falls and never exceeds the truth, and in the end it is the truth.
"""

import io
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from exporter.api.allowance import AllowanceKey, AllowancePool
from exporter.api.client import Client
from exporter.api.deadline import Deadline
from exporter.config.accounts import AccountConfig
from exporter.config.tokens import TokenFile
from exporter.counting.values import Rules
from exporter.errors import StateWriteError
from exporter.logs import logger
from exporter.metrics.snapshot import AccountSnapshot
from exporter.polling.identity import IdentityRegistry
from exporter.polling.poller import Poller
from exporter.polling.settings import PollerSettings, PollSchedule
from exporter.simulator.answers import Answer, Call, Delivery
from exporter.simulator.faults import Fault, FaultKind
from exporter.simulator.platform import Platform
from exporter.simulator.scripts import OPERATIONS, JobScript, Shown
from exporter.simulator.server import DEMO_TOKEN, QUIET
from exporter.storage.store import Store
from tests.clocks import START, ManualClock
from tests.fault_table import measure
from tests.harness import expected
from tests.ledgers import IN_MEMORY
from tests.width import width

ENDPOINT = "https://p.example/v2"
INTERVAL = 30.0
TIMEOUT = 30.0
POLLS_TO_RECOVER = 120
WRITES = {"commit", "create", "load"}
JUMPS = st.sampled_from([-1e9, -86400.0, -3601.0, -61.0, 61.0, 301.0, 3600.0, 86400.0, 1e9])
"""Seconds by which a clock jumps."""


class Killed(BaseException):
    """The process ends here."""


class Faults:
    """Counts the steps of a poll, and lets one of them fail.

    Attributes:
        steps: the names of the steps of this poll so far.
        happened: what has failed in all polls so far.
    """

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.happened: Counter[str] = Counter()
        self.clear()

    def clear(self) -> None:
        self.arm("none", 0)

    def arm(self, kind: str, step: int) -> None:
        """Let *kind* (``none``, ``killed``, ``unexpected error``, ``disk full``) happen at *step* of the next poll."""
        self.steps.clear()
        self._kind, self._step, self._full = kind, step, False

    def reach(self, step: str) -> None:
        """Pass a step, or fail at it."""
        self.steps.append(step)
        chosen = len(self.steps) == self._step
        if chosen and self._kind == "killed":
            self.happened[f"killed at {step}"] += 1
            raise Killed(step)
        if chosen and self._kind == "unexpected error" and not step.startswith("clock"):
            self.happened[f"error at {step}"] += 1
            raise RuntimeError(step)
        self._full = self._full or (self._kind == "disk full" and len(self.steps) >= self._step)
        if self._full and step in WRITES:
            self.happened[f"disk full at {step}"] += 1
            raise StateWriteError("disk full")

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """*function*, with a step before and one after it."""

        def surrounded(*arguments: object, **named: object) -> object:
            self.reach(name)
            result = function(*arguments, **named)
            self.reach(f"after {name}")
            return result

        return surrounded


class FaultyStore(Store):
    """A state file whose use may fail."""

    faults: Faults | None = None

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401  # whatever a store has
        value = super().__getattribute__(name)
        faults = super().__getattribute__("faults")
        if faults is None or name not in {*WRITES, "load_by_name", "records", "no_longer_listed", "expirable"}:
            return value
        return faults.around(name, value)


class FaultyRules(Rules):
    """Rules whose use may fail: they are read in the middle of a reconciliation."""

    faults: Faults | None = None

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401  # whatever rules have
        if FaultyRules.faults is not None and name in {"settle_after", "lost_after", "history", "bounds"}:
            FaultyRules.faults.reach(f"reconcile: {name}")
        return super().__getattribute__(name)


class FaultyClock(ManualClock):
    """A clock at which the process may be killed."""

    faults: Faults | None = None

    def __init__(self, while_paused: Callable[[float], object]) -> None:
        super().__init__()
        self.while_paused = while_paused

    def time(self) -> float:
        self._reach("clock: time")
        return super().time()

    def monotonic(self) -> float:
        self._reach("clock: monotonic")
        return super().monotonic()

    def pause(self, seconds: float) -> None:
        super().pause(seconds)
        self.while_paused(seconds)

    def _reach(self, step: str) -> None:
        if self.faults is not None:
            self.faults.reach(step)


class Wire:
    """Between client and platform: the platform's clock may be wrong, and jobs may be missing for a while."""

    def __init__(self, platform: Platform, clock: ManualClock, faults: Faults) -> None:
        self.platform = platform
        self.clock = clock
        self.faults = faults
        self.ahead = 0.0
        """Seconds by which the platform's clock is ahead of the true time."""
        self.glitch: list[float] = []
        """What to add to that in the next responses."""
        self.glitched = False
        self.missing: dict[str, float] = {}
        """Jobs that the platform denies to know, and until when."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        step = "user" if path == "/v2/user" else "list" if "?" in path else "job"
        self.faults.reach(f"request: {step}")
        url = request.url
        answer = self.platform.answer(
            Call(
                request.method,
                url.path,
                dict(url.params),
                {name.lower(): value for name, value in request.headers.items()},
                b"",
                f"{url.scheme}://{url.host}",
                path,
            )
        )
        response = self._delivered(self._without_missing(answer, step, url.path))
        self.faults.reach(f"response: {step}")
        return response

    def _without_missing(self, answer: Answer, step: str, path: str) -> Answer:
        missing = {job_id for job_id, until in self.missing.items() if until > self.clock.now}
        if step == "job" and path.rpartition("/")[2] in missing:
            return answer._replace(status=404, body=b'{"status": 404, "code": 10211, "message": "Job not found."}')
        if step == "list" and answer.status == 200 and missing:
            with suppress(msgspec.DecodeError):
                page = msgspec.json.decode(answer.body, type=dict[str, Any])
                page["items"] = [item for item in page["items"] if item is None or item.get("id") not in missing]
                return answer._replace(body=msgspec.json.encode(page))
        return answer

    def _delivered(self, answer: Answer) -> httpx.Response:
        match answer.delivery:
            case Delivery.HANG | Delivery.DRIP:
                self.clock.advance(TIMEOUT)
                self.platform.advance(TIMEOUT)
                raise httpx.ReadTimeout("no answer")
            case Delivery.CLOSE:
                raise httpx.RemoteProtocolError("closed")
        date = parsedate_to_datetime(answer.headers["date"]).timestamp() + self.ahead
        date += self.glitch.pop(0) if self.glitch else 0.0
        headers = {**answer.headers, "date": formatdate(max(0.0, date), usegmt=True)}
        return httpx.Response(answer.status, headers=headers, content=self._body(answer))

    @staticmethod
    def _body(answer: Answer) -> Iterator[bytes]:
        if answer.delivery is Delivery.CUT:
            yield answer.body[: len(answer.body) // 2]
            raise httpx.ReadError("cut")
        yield answer.body


@st.composite
def scripts(draw: st.DrawFn) -> JobScript:
    """Jobs of all outcomes, some of which show times and errors only when requested alone."""
    total = draw(st.integers(0, 6))
    failed = draw(st.integers(0, total)) if draw(st.booleans()) else 0
    unaccounted = draw(st.integers(0, total)) if not failed and draw(st.integers(0, 4)) == 0 else 0
    operation = draw(st.sampled_from([*OPERATIONS, "import"]))
    shown = st.sampled_from([Shown.ALWAYS, Shown.ALONE] if operation in OPERATIONS else [Shown.ALWAYS])
    return JobScript(
        operation=operation,
        total=total,
        failed=failed,
        completed=total - failed - unaccounted,
        queued=draw(st.sampled_from([0.0, 20.0])),
        resolving=0.0,
        running=draw(st.sampled_from([0.0, 20.0, 200.0])),
        result=draw(shown),
        times=draw(shown),
    )


class Polling(RuleBasedStateMachine):
    """The exporter and the platform."""

    @initialize(
        history=st.lists(scripts(), max_size=3), jobs=st.sampled_from([0, 0, 40]), per_page=st.sampled_from([5, 100])
    )
    def begin(self, history: list[JobScript], jobs: int, per_page: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sbg-exporter-test-", dir=IN_MEMORY))
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(DEMO_TOKEN)
        self.faults = Faults()
        self.log = io.StringIO()
        self.platform = Platform(replace(QUIET, speed=0, start=START - 3600, jobs=jobs))
        self.clock = FaultyClock(self.platform.advance)
        self.platform.behave(most_per_page=per_page)
        self.wire = Wire(self.platform, self.clock, self.faults)
        for script in history:
            self.platform.submit(msgspec.structs.replace(script, times=Shown.ALWAYS))
        self.platform.advance(3600)
        self.account = AccountConfig("sim", ENDPOINT, "", TokenFile(token), ca_file=None, proxy=None)
        self.submitted: dict[str, JobScript] = {}
        self.ends: dict[str, float] = {}
        self.removed: set[str] = set()
        self.published: list[AccountSnapshot] = []
        self.highest: dict[tuple[str, ...], int] = {}
        self.created: dict[tuple[str, ...], float] = {}
        self.detected: dict[str, float] = {}
        self.last: AccountSnapshot | None = None
        self.store: FaultyStore | None = None
        self.restart()

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        try:
            self.recover()
        finally:
            FaultyRules.faults = None
            if self.store is not None:
                self.store.close()
            shutil.rmtree(self.folder)

    @property
    def ever_listed(self) -> bool:
        return self.last is not None and self.last.ledger is not None and self.last.ledger.account.ever_listed

    # ---- the platform ----

    @rule(script=scripts())
    def submit(self, script: JobScript) -> None:
        if not self.ever_listed:  # without times, what is finished in the first full listing is history
            script = msgspec.structs.replace(script, times=Shown.ALWAYS)
        job_id = self.platform.submit(script)
        self.submitted[job_id] = script
        self.ends[job_id] = math.inf if script.lasts is None else self.platform.now() + script.lasts
        self.pass_time(0.01)  # ids tell submissions apart by the millisecond

    @rule(script=scripts(), after=st.sampled_from([1.0, 30.0]))
    def submit_one_that_hangs(self, script: JobScript, after: float) -> None:
        self.submit(msgspec.structs.replace(script, queued=0.0, running=200.0, hangs_after=after))

    @rule(seconds=st.sampled_from([1.0, 15.0, 61.0, 301.0, 7200.0]))
    def pass_time(self, seconds: float) -> None:
        self.platform.advance(seconds)
        self.clock.advance(seconds)

    @precondition(lambda self: self.ever_listed)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """Remove a job that makes no progress, once everything was counted."""
        if self.difference():
            return
        ledger = self.last.ledger if self.last is not None else None
        removable = sorted(
            job_id
            for job_id, record in ({} if ledger is None else ledger.live).items()
            if self.ends.get(job_id) == math.inf
            and job_id not in self.removed
            and self.wire.missing.get(job_id, 0.0) < self.clock.now
            and self.submitted[job_id].operation in OPERATIONS  # others are lost after 45 days of listing time
            and record.last_progress_at < self.clock.time() - 60
        )
        if removable:
            job_id = data.draw(st.sampled_from(removable))
            self.platform.remove(job_id)
            self.removed.add(job_id)

    @precondition(lambda self: self.ever_listed)
    @rule(data=st.data())
    def lower(self, data: st.DataObject) -> None:
        """The platform lowers the failed files of a job once they were counted, or raises them again."""
        if self.difference():
            return
        ended = sorted(
            job_id
            for job_id, script in self.submitted.items()
            if script.failed and self.ends[job_id] < self.platform.now() and job_id not in self.removed
        )
        if ended:
            job_id = data.draw(st.sampled_from(ended))
            failed = 0 if self.platform.script_of(job_id).failed else self.submitted[job_id].failed
            self.platform.change(job_id, failed=failed, errors=None)

    @precondition(lambda self: self.ever_listed)
    @rule(data=st.data())
    def miss(self, data: st.DataObject) -> None:
        """The platform does not know a job for less time than it takes to be lost.

        It knows the job again until that was seen: two such times with nothing between them are a lost job's.
        """
        missing = {job_id for job_id, until in self.wire.missing.items() if until > self.clock.now}
        ledger = self.store and self.store.load_by_name("sim", ENDPOINT, "", 0.0)
        unseen = {
            job_id for job_id, record in (ledger.live if ledger else {}).items() if record.missing_since is not None
        }
        if left := sorted(self.submitted.keys() - self.removed - missing - unseen):
            self.wire.missing[data.draw(st.sampled_from(left))] = self.clock.now + 250

    @rule(
        kind=st.sampled_from([kind for kind in FaultKind if kind is not FaultKind.OVERSIZED]),
        where=st.sampled_from(["", r"/async/files\?", "/async/files/", "/v2/user"]),
        times=st.integers(1, 4),
    )
    def disturb(self, kind: FaultKind, where: str, times: int) -> None:
        """Let requests of one kind or of any fail."""
        self.platform.queue(Fault(kind=kind), where, times)

    @precondition(lambda self: self.ever_listed)
    @rule(by=JUMPS)
    def set_platform_clock(self, by: float) -> None:
        """All responses have another time, once counting has begun: history is what its times say."""
        self.wire.ahead = by

    @precondition(lambda self: self.ever_listed or not self.wire.glitched)
    @rule(by=JUMPS, responses=st.integers(0, 3))
    def platform_clock_glitches(self, by: float, responses: int) -> None:
        """One response has another time."""
        self.wire.glitch, self.wire.glitched = [0.0] * responses + [by], True

    @rule(by=JUMPS)
    def set_clock(self, by: float) -> None:
        self.clock.wrong_by = by

    # ---- the exporter ----

    @rule(
        kind=st.sampled_from(["none", "none", "killed", "unexpected error", "disk full"]),
        step=st.integers(1, 60),
        polls=st.integers(1, 4),
    )
    def poll(self, kind: str, step: int, polls: int) -> None:
        for number in range(polls):
            self.faults.arm(kind if number == 0 else "none", step)
            self.poll_once()
        self.faults.clear()

    @rule(polls=st.integers(1, 8))
    def poll_undisturbed(self, polls: int) -> None:
        self.poll("none", 0, polls)

    @rule(script=scripts(), polls=st.integers(1, 8))
    def submit_and_poll(self, script: JobScript, polls: int) -> None:
        self.submit(script)
        self.poll("none", 0, polls)

    def poll_once(self) -> None:
        wait: float | None = None
        try:
            wait = self.poller.poll()
        except (Killed, RuntimeError):
            self.faults.clear()
            self.restart()
        self.check_published()
        self.pass_time(INTERVAL if wait is None else max(wait, 0.1))

    @rule(kind=st.sampled_from(["none", "killed"]), step=st.integers(1, 20))
    def restart(self, kind: str = "none", step: int = 0) -> None:
        self.faults.arm(kind, step)
        for attempt in ("one that may fail", "one that does not"):
            FaultyRules.faults = self.clock.faults = None
            if self.store is not None:
                self.store.close()
            self.store = FaultyStore(self.folder / "state.db")
            FaultyRules.faults = self.clock.faults = self.store.faults = self.faults
            try:
                self.poller = self.new_poller()
                with suppress(Exception):  # as in Poller.run, which is this and polls until the process ends
                    self.poller._publish_saved_ledger()  # noqa: SLF001  # its part of run
                break
            except Killed:
                assert attempt == "one that may fail"
            finally:
                self.faults.clear()
        self.check_published()

    def new_poller(self) -> Poller:
        assert self.store is not None
        allowances = AllowancePool(0.25)
        return Poller(
            self.account,
            connect=lambda observer: Client(
                ENDPOINT,
                httpx.MockTransport(self.wire),
                Deadline(),
                allowance=allowances.of(AllowanceKey(ENDPOINT, "", "sim"), self.clock.monotonic()),
                clock=self.clock,
                observer=observer,
                timeout=TIMEOUT,
            ),
            store=self.store,
            identities=IdentityRegistry(["sim"]),
            allowances=allowances,
            settings=PollerSettings(
                PollSchedule(INTERVAL, 300, 600, first=0, phase=0), FaultyRules(), TIMEOUT, show_username=True
            ),
            clock=self.clock,
            publish=self.publish,
            log=logger("json", "error", self.log),
        )

    def publish(self, snapshot: AccountSnapshot) -> None:
        self.faults.reach("publish")
        self.published.append(snapshot)
        self.faults.reach("after publish")

    # ---- what is shown ----

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Looking at things is not a step of the exporter."""
        FaultyRules.faults = self.clock.faults = None
        try:
            yield
        finally:
            FaultyRules.faults = self.clock.faults = self.faults

    def check_published(self) -> None:
        """Nothing that was published since the last call has decreased, or exceeds the truth."""
        with self.undisturbed():
            for snapshot in self.published:
                self.check(snapshot)
        self.published.clear()

    def check(self, snapshot: AccountSnapshot) -> None:
        self.last = snapshot
        if snapshot.ledger is None:
            assert not self.highest, "counters have disappeared"
            return
        truth = expected(self.platform.truth(since=snapshot.ledger.account.counting_since))
        values = {(family, *labels): count for (family, labels), count in snapshot.ledger.counters.items()}
        values |= {(family, *labels): count for (family, labels), count in snapshot.ledger.histograms.items()}  # type: ignore[misc]
        for key, count in values.items():
            value = getattr(count, "value", None)
            if value is None:
                value = sum(count.counts)  # type: ignore[attr-defined]
            else:
                assert value <= truth[key], f"{key} is {value}, the truth is {truth[key]}"
            assert value >= self.highest.get(key, 0), f"{key} fell from {self.highest[key]} to {value}"
            assert self.created.setdefault(key, count.created) == count.created, f"{key} has a new creation time"
            self.highest[key] = value
        assert self.highest.keys() <= values.keys(), "counters have disappeared"
        for record in snapshot.ledger.failed.values():
            if record.detected_at is not None:
                assert self.detected.setdefault(record.id, record.detected_at) == record.detected_at

    # ---- the end ----

    def recover(self) -> None:
        """When everything works again, the counters end at the truth, and every failure has its series."""
        self.platform.forget_faults()
        self.faults.clear()
        self.pass_time(1801)  # a window of the rate limit, and the longest back-off of a job
        for job_id, ends in list(self.ends.items()):
            if ends == math.inf and job_id not in self.removed:
                self.platform.finish(job_id)
                self.ends[job_id] = self.platform.now()
        for _ in range(POLLS_TO_RECOVER):
            self.poll_once()
            if not self.difference():
                break
        for _ in range(3):
            self.poll_once()
        measure("sim", self.difference().values())
        assert not self.difference(), f"{self.difference()} after {self.faults.happened}\n{self.log.getvalue()}"
        assert self.last is not None
        assert self.last.ledger is not None
        since = self.last.ledger.account.counting_since
        failed = {
            job_id: script
            for job_id, script in self.submitted.items()
            if script.failed and job_id not in self.removed and self.ends[job_id] >= since
        }
        assert not failed.keys() - self.detected.keys()
        counted = self.last.ledger.account.failure_counted_at.keys()
        assert counted >= {script.operation for script in failed.values()}

    def difference(self) -> dict[tuple[str, ...], int]:
        """The published counters that differ from the truth."""
        assert self.last is not None
        if self.last.ledger is None:
            return {("no ledger",): 0}
        truth = expected(self.platform.truth(since=self.last.ledger.account.counting_since))
        have = Counter(
            {(family, *labels): count.value for (family, labels), count in self.last.ledger.counters.items()}
        )
        return {key: have[key] - truth[key] for key in have | truth if have[key] != truth[key]}


Polling.TestCase.settings = settings(
    max_examples=width(40, 400), stateful_step_count=25, suppress_health_check=list(HealthCheck)
)
TestPolling: Any = pytest.mark.fault(
    "killed, an unexpected error or a full disk at any step of a poll, between responses that fail in any way",
    action="drops what is not committed; the next poll begins from the last commit",
    shown="counters that never fall and never exceed the truth",
    recovery="the polls after it",
)(Polling.TestCase)

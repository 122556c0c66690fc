"""Failed jobs are told, each once, and nothing else: a real Prometheus and Alertmanager through kills and restarts."""

import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Final

import pytest
from msgspec import structs

from exporter.api.error_codes import in_words
from exporter.simulator.faults import Fault, FaultKind
from exporter.simulator.scripts import OPERATIONS, JobScript, Shown
from exporter.simulator.server import QUIET, RunningSimulator, running
from tests.e2e.monitoring import Json, Monitoring, monitoring, reserved_address
from tests.harness import Account, Installation
from tests.waiting import eventually
from tests.width import width

pytestmark = pytest.mark.tools("prometheus", "prometheus-alertmanager")

USERS: Final = ("busy", "calm")
FAILING: Final = width(8, 20)
HISTORY: Final = 150
"""Jobs of the last month, some of them failed, that are on the platform before anybody looks."""
OUTAGES: Final = (("killed", "killed while a job fails", "stopped") * 3)[: width(4, 9)]
"""What befalls the exporter, in this order; during one of them Prometheus is down, too."""
FAILING_UNSEEN: Final = OUTAGES.count("killed while a job fails")
"""Of the failing jobs, those that are made to come and end while the exporter is down; others may happen to."""
SEED: Final = "twenty failed jobs"
CODES: Final = ("5001", "5002", "5007", "10212", "10223")
LONG: Final = 300.0
LAST: Final = JobScript(total=5, failed=2, errors={"5001": 2}, queued=0.1, resolving=0.1, running=0.5)

FIRED: Final = {"SbgJobFilesFailed"}
PENDING_MEANWHILE: Final = {"SbgExporterDown", "SbgNotPolling"}
"""It is down now and then, and has not polled yet when it starts: not for the minutes after which that is told."""


def dice(purpose: str) -> Random:
    return Random(f"{SEED}/{purpose}")  # noqa: S311  # seeded: it repeats itself


# ------------------------------------------------------------------------------------------------------------- the plot


def failing_script(roll: Random) -> JobScript:
    """A job with failed files: soon over, over later and perhaps without codes, or not before the end."""
    total = roll.randint(2, 12)
    failed = roll.choice((1, total, roll.randint(1, total)))
    first, second = roll.sample(CODES, 2)
    errors = Counter(roll.choice((first, first, second)) for _ in range(failed))
    quick = JobScript(
        operation=roll.choice(OPERATIONS),
        total=total,
        failed=failed,
        errors=errors,
        queued=roll.random() / 2,
        resolving=roll.random() / 4,
        running=roll.random(),
    )
    slow = structs.replace(quick, running=4 + 4 * roll.random(), result=roll.choice(tuple(Shown)))
    endless = structs.replace(quick, total=total + 290, running=LONG)
    return roll.choice((quick, slow, endless))


def succeeding_script(roll: Random) -> JobScript:
    running_for = roll.choice((roll.random(), 5 * roll.random(), LONG))
    return JobScript(
        operation=roll.choice(OPERATIONS),
        total=roll.randint(0, 30),
        queued=roll.random(),
        resolving=roll.random(),
        running=running_for,
    )


class Users(threading.Thread):
    """Submit jobs at odd moments, whoever watches: most of those that are to fail, and four times as many others."""

    def __init__(self, busy: RunningSimulator, calm: RunningSimulator) -> None:
        super().__init__()
        self._busy, self._calm = busy.platform, calm.platform
        self._dice = dice("users")
        self._enough = threading.Event()
        self.failing: dict[str, JobScript] = {}
        """The jobs that fail, by their ids."""

    def run(self) -> None:
        left = [True] * (FAILING - FAILING_UNSEEN - 1) + [False] * 4 * FAILING
        self._dice.shuffle(left)
        while left and not self._enough.wait(self._dice.expovariate(4)):
            if left.pop():
                self.submit_failing(failing_script(self._dice))
            else:
                self._dice.choice((self._busy, self._busy, self._calm)).submit(succeeding_script(self._dice))

    def submit_failing(self, script: JobScript) -> str:
        job = self._busy.submit(script)
        self.failing[job] = script
        return job

    def stop(self) -> None:
        self._enough.set()
        self.join()


@dataclass(frozen=True, slots=True)
class Told:
    """What was done, and what was told of it."""

    monitoring: Monitoring
    misfortune: "OutageInjector"
    simulator: RunningSimulator
    failing: Mapping[str, JobScript]

    def messages(self) -> dict[str, list[Json]]:
        """The alerts that were told, by job."""
        found: dict[str, list[Json]] = {}
        for each in self.monitoring.on_call.notifications:
            for alert in each.alerts:
                found.setdefault(alert["labels"].get("job_id", ""), []).append(alert)
        return found


class OutageInjector:
    """What befalls the exporter: killed or restarted, at odd moments, and down for a while or not."""

    def __init__(self, place: Installation, simulator: RunningSimulator, users: Users) -> None:
        self._place, self._platform, self._users = place, simulator.platform, users
        self._dice = dice("misfortune")
        self._never = threading.Event()
        self.ended_unseen: set[str] = set()
        """Failed jobs that came and ended while the exporter was down."""
        self.daemon = place.start()

    def strike(self, outage: str) -> None:
        """Take the exporter down and bring it up again."""
        if outage == "stopped" or self._dice.random() < 0.7:
            self.daemon.await_ready()
        self._within(1.5)
        if outage == "stopped":
            assert self.daemon.stop() == 0
        else:
            self.daemon.kill()
        if outage == "killed while a job fails":
            self._let_one_fail_unseen()
        else:
            self._within(1.5)
        self.daemon = self._place.start()

    def _let_one_fail_unseen(self) -> None:
        script = structs.replace(failing_script(self._dice), running=self._dice.random(), result=Shown.ALWAYS)
        job = self._users.submit_failing(script)
        eventually(lambda: job not in self._platform.unfinished())
        self.ended_unseen.add(job)

    def _within(self, seconds: float) -> None:
        """Let some of *seconds* pass: the odd moment itself is what is wanted, there is nothing to wait for."""
        self._never.wait(self._dice.random() * seconds)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """Many jobs fail amid everything else; the last of them when all is calm again."""
    folder = tmp_path_factory.mktemp("told")
    with (
        reserved_address() as listen,
        running(replace(QUIET, jobs=HISTORY, rate_limit=100_000)) as busy,
        running(replace(QUIET, rate_limit=100_000)) as calm,
        Installation(
            folder / "place",
            *(Account.at(platform, name) for name, platform in zip(USERS, (busy, calm), strict=True)),
            listen=listen,
            settle_after=1,
        ) as place,
        monitoring(folder, listen) as monitored,
    ):
        with place.running() as first:  # both ledgers begin: what fails from now on is no history
            first.scrape_when(lambda now: len(now.series("sbg_exporter_last_success_timestamp_seconds")) == len(USERS))
            monitored.prometheus.await_scrape()
        users = Users(busy, calm)
        misfortune = OutageInjector(place, busy, users)
        users.start()
        try:
            for number, outage in enumerate(OUTAGES):
                if number == len(OUTAGES) // 3:
                    monitored.prometheus.stop()
                    misfortune.strike(outage)
                    monitored.prometheus.start()
                else:
                    misfortune.strike(outage)
            users.join()
        finally:
            users.stop()

        def all_told() -> bool:
            return set(users.failing) <= {
                alert["labels"].get("job_id", "") for each in monitored.on_call.notifications for alert in each.alerts
            }

        eventually(all_told, within=60, describe=monitored.seen)
        users.submit_failing(LAST)
        eventually(all_told, within=60, describe=monitored.seen)
        monitored.prometheus.await_evaluation()
        yield Told(monitored, misfortune, busy, users.failing)


# -------------------------------------------------------------------------------------------------------- what was told


def test_each_failed_job_is_told_exactly_once_through_kills_restarts_and_downtime(told: Told) -> None:
    assert len(told.failing) == FAILING

    times = {job: len(alerts) for job, alerts in told.messages().items()}

    assert times == dict.fromkeys(told.failing, 1)


def test_nothing_is_told_of_history_of_running_jobs_of_succeeding_ones_or_of_the_outages(told: Told) -> None:
    platform = told.simulator.platform
    history = [job for job in platform.listed() if platform.script_of(job).failed and job not in told.failing]
    assert len(history) > 10

    messages = Counter(
        (each.receiver, each.status, alert["labels"]["alertname"], alert["labels"]["account"])
        for each in told.monitoring.on_call.notifications
        for alert in each.alerts
    )

    assert messages == {("failures", "firing", "SbgJobFilesFailed", "busy"): FAILING}


def test_no_other_alert_has_ever_been_active(told: Told) -> None:
    found = told.monitoring.prometheus.query(
        "count by (alertname, alertstate, account, job_id) (last_over_time(ALERTS[1h]))"
    )

    by_state: dict[str, set[str]] = {"firing": set(), "pending": set()}
    for each in found:
        by_state[each["metric"]["alertstate"]].add(each["metric"]["alertname"])
    assert by_state["firing"] == FIRED
    assert by_state["pending"] <= PENDING_MEANWHILE
    fired = [each["metric"]["job_id"] for each in found if each["metric"]["alertname"] == "SbgJobFilesFailed"]
    assert sorted(fired) == sorted(told.failing)


def test_a_job_that_had_ended_is_told_with_its_codes(told: Told) -> None:
    messages = told.messages()
    assert len(told.misfortune.ended_unseen) == FAILING_UNSEEN

    with_codes = 0
    for job in told.misfortune.ended_unseen:
        annotations = messages[job][0]["annotations"]
        script = told.failing[job]
        assert annotations["summary"].endswith(f" {script.failed} failed file{'' if script.failed == 1 else 's'}")
        description = annotations["description"]
        codes = {code: int(files) for code, files in re.findall(r"(\d+ [a-z ]+) \((\d+)\)", description)}
        assert "running" not in description
        if " Error codes follow " in description:  # a busy exporter asks for them after the poll that is told
            assert codes == {}
            continue
        with_codes += 1
        assert codes == {in_words(code): files for code, files in script.error_records.items()}, description
    assert with_codes > 0


def test_a_job_that_runs_is_told_without_codes_and_says_when_they_come(told: Told) -> None:
    messages = told.messages()
    unfinished = set(told.failing) & set(told.simulator.platform.unfinished())
    assert len(unfinished) >= 2

    for job in unfinished:
        annotations = messages[job][0]["annotations"]
        assert annotations["summary"].endswith(" so far")
        # "May" where the alert is told before the next poll has seen the job again.
        assert re.search(
            " The job (is still|may still be) running, and more of its files may", annotations["description"]
        )
        assert f"`sbg-exporter job {job}` and the exporter's status page show the current" in annotations["description"]
        assert " Error codes follow after the job's end. " in annotations["description"]


def test_every_message_names_the_job_and_leads_to_the_runbook(told: Told) -> None:
    for job, [alert] in told.messages().items():
        operation = told.failing[job].operation
        assert re.fullmatch(
            f"{operation} job {job} of busy has [0-9]+ failed files?( so far)?", alert["annotations"]["summary"]
        )
        assert alert["annotations"]["runbook_url"].endswith("RUNBOOKS.md#sbgjobfilesfailed")


# ------------------------------------------------------------------------------------------------------------ exemplars


@pytest.mark.parametrize(
    "series", ["sbg_files_failed_total", 'sbg_job_duration_seconds_bucket{outcome=~"failed|partial"}']
)
def test_prometheus_keeps_the_failed_job_s_id_beside_the_failures_and_durations(told: Told, series: str) -> None:
    name = series.partition("{")[0]
    # Of this account only: two platforms may give jobs of one millisecond the same id.
    line = re.compile(rf'^{name}\{{account="busy",operation="(\w+)".*\}} \S+ # \{{job_id="(\d+)"\}}', re.MULTILINE)

    def shown() -> set[tuple[str, str]]:
        """Operations and jobs of the exemplars that the exporter shows now: only the latest of each series."""
        return {each for each in line.findall(told.misfortune.daemon.scrape().page) if each[1] in told.failing}

    def kept() -> set[tuple[str, str]]:
        found = told.monitoring.prometheus.exemplars(series)
        return {(each["series"]["operation"], each["labels"]["job_id"]) for each in found}

    eventually(lambda: shown() and shown() <= kept(), describe=lambda: (shown(), kept()))
    for operation, job in kept():
        assert operation == told.failing[job].operation


def test_prometheus_gets_creation_times_that_no_restart_changes(told: Told) -> None:
    page = told.misfortune.daemon.scrape().page

    assert re.search(r'^sbg_files_failed_created\{account="busy",operation="copy"\} \d', page, re.MULTILINE)
    # This Prometheus takes these lines for series, so what it got can be looked at.
    for name in ("sbg_files_failed_created", "sbg_job_duration_seconds_created"):
        got = told.monitoring.prometheus.query(f"max_over_time({name}[1h]) - min_over_time({name}[1h])")
        assert got
        assert {each["value"][1] for each in got} == {"0"}


# ------------------------------------------------------------------------------------------- accounts that are not seen


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitoring]:
    """One account's token is refused, one's platform rests, one's is not there, and one is well."""
    folder = tmp_path_factory.mktemp("troubled")
    with (
        reserved_address() as listen,
        reserved_address() as nobody,
        running(QUIET) as platform,
        running(QUIET) as resting,
    ):
        resting.platform.queue(Fault(kind=FaultKind.MAINTENANCE), times=1000)
        accounts = (
            Account.at(platform, "well"),
            Account.at(platform, "refused", token="f" * 32),
            Account.at(resting, "resting"),
            Account("gone", f"http://{nobody}/v2"),
        )
        with (
            Installation(folder / "place", *accounts, listen=listen) as place,
            monitoring(folder, listen) as monitored,
            place.running(),
        ):
            yield monitored


def test_refused_and_unreachable_accounts_are_on_their_way_and_maintenance_is_told(troubled: Monitoring) -> None:
    """The first two have to last for minutes before they are told."""
    expected = {
        ("SbgTokenRefused", "refused", "pending"),
        ("SbgAccountUnreachable", "refused", "pending"),
        ("SbgAccountUnreachable", "resting", "pending"),
        ("SbgAccountUnreachable", "gone", "pending"),
        ("SbgMaintenance", "resting", "firing"),
    }
    told = troubled.on_call

    def active() -> set[tuple[str, str, str]]:
        return {
            (alert["labels"]["alertname"], alert["labels"].get("account", ""), alert["state"])
            for alert in troubled.prometheus.active_alerts()
        }

    # The exporter may have been looked for before it was there.
    eventually(lambda: active() - {("SbgExporterDown", "", "pending")} == expected, describe=troubled.seen)
    eventually(lambda: told.notifications, describe=troubled.seen)
    assert told.told() == told.told(alertname="SbgMaintenance", account="resting") == [("log", "firing")]


def test_why_an_account_is_not_reached_is_looked_up_by_the_description(troubled: Monitoring) -> None:
    def descriptions() -> list[str]:
        return [
            alert["annotations"]["description"]
            for alert in troubled.prometheus.active_alerts()
            if alert["labels"]["alertname"] == "SbgAccountUnreachable" and alert["labels"]["account"] == "gone"
        ]

    eventually(
        lambda: (
            [
                "Most often: the platform cannot be reached, or answers with errors (unreachable)." in each
                for each in descriptions()
            ]
            == [True]
        ),
        describe=descriptions,
    )

"""Every query of every dashboard and rule has an answer, from a real Prometheus that watches a busy account.

It scrapes the exporter for half a minute, in which all that there is happens. Of the two hours before, in which nothing
happened, it is told: rules compare with an hour ago.
"""

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest
import yaml

from exporter.metrics.families import FAMILIES, PROCESS_FAMILIES, Family, ProcessFamily, Type
from exporter.simulator.faults import Fault, FaultKind
from exporter.simulator.scripts import JobScript
from exporter.simulator.server import QUIET, RunningSimulator, running
from tests.e2e.monitoring import RULES, Json, Prometheus, reserved_address
from tests.harness import Account, Daemon, Installation
from tests.waiting import eventually

SILENT: Final[Mapping[str, str]] = {
    "SbgFilesFailed": "every failed job is shown one by one",
    "SbgJobStuck": "no job has stood still for half an hour",
    "SbgQueueNotMoving": "no job has waited for half an hour",
    "SbgNotPolling": "all accounts are polled",
    "SbgDetectionDelayed": "all unfinished jobs have just been looked at",
    "SbgListingOverdue": "no account is large enough to be watched",
    "SbgExporterDown": "it is up",
    "SbgStateNotWritable": "the disk is not full",
    "SbgConfigReloadFailed": "the configuration is valid",
    "SbgAccountsMissing": "no start has missed one",
    "SbgCountingRestarted": "no state file was lost",
}
"""What has no answer here, and why. It must really have none."""

DOCUMENTED_ONLY: Final[Mapping[str, str]] = {
    "sbg_jobs_files_expected": "how many files lie in the listed jobs: a month's stock, to be looked into by hand",
    "sbg_jobs_files_completed": "likewise",
    "sbg_jobs_files_failed": "likewise",
    "sbg_files_total": "what was asked for; what became of it is drawn",
    "sbg_jobs_submitted_total": "how many jobs there were; what became of them is drawn",
    "sbg_exporter_config_last_reload_success_timestamp_seconds": "since when the configuration in use is in use",
    "sbg_exporter_rate_limit_reset_timestamp_seconds": "to see whose clock is wrong",
}
"""Metrics that no dashboard and no rule asks for, and what they are there for."""

DASHBOARDS: Final = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parents[2] / "grafana" / "dashboards").glob("*.json"))
}
INTERVALS: Final = {
    "__rate_interval": "4s",
    "__interval": "1s",
    "__interval_ms": "1000",
    "__range": "60s",
    "__range_s": "60",
}
"""What Grafana makes of these where a scrape is made each second, and a minute is shown."""
RANGE: Final = 60.0
IDLE_MINUTES: Final = 120
REAL: Final = pytest.mark.tools("prometheus", "promtool")
_NAME: Final = re.compile(r"(?<![\w:\"])((?:sbg|process|python|account\w*:sbg)_[\w:]+|up|ALERTS)\b(?!\()(\{[^}]*\})?")
_SAMPLE: Final = re.compile(r"^([a-z_]\w*)(?:\{(.*)\})? (\S+)$")


# ---------------------------------------------------------------------------------------------------- what is asked for


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a dashboard, with its variables, or a rule's expression."""

    place: str
    expression: str
    dashboard: str = ""
    instant: bool = True
    exemplar: bool = False

    def __str__(self) -> str:
        return self.place


def panels(within: Json) -> Iterator[Json]:
    """The panels of a dashboard, those in collapsed rows, too."""
    for panel in within.get("panels", ()):
        yield panel
        yield from panels(panel)


def queries(name: str) -> Iterator[Query]:
    """All that a dashboard asks Prometheus for, but for the values of its variables."""
    for panel in panels(DASHBOARDS[name]):
        for target in panel.get("targets", ()):
            place = f"{name}: {panel['title']}: {target['refId']}"
            yield Query(place, target["expr"], name, bool(target.get("instant")), bool(target.get("exemplar")))
    for annotation in DASHBOARDS[name]["annotations"]["list"]:
        yield Query(f"{name}: annotation {annotation['name']}", annotation["expr"], name, instant=False)


def rules() -> Iterator[Query]:
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield Query(rule.get("alert") or rule["record"], rule["expr"])


OF_RULES: Final = list(rules())
EVERY_QUERY: Final = [query for name in DASHBOARDS for query in queries(name)] + OF_RULES


def variables(name: str) -> list[Json]:
    """The variables of a dashboard, but for its data source."""
    found = DASHBOARDS[name]["templating"]["list"]
    assert {variable["type"] for variable in found} <= {"datasource", "query", "custom", "textbox"}
    return [variable for variable in found if variable["type"] != "datasource"]


def substituted(text: str, values: Mapping[str, str]) -> str:
    """*text* as Grafana sends it."""
    known = {**INTERVALS, **values}
    sent = re.sub(r"\$\{(\w+)(?::\w+)?\}|\$([a-zA-Z_]\w*)", lambda found: known[found[1] or found[2]], text)
    assert "$" not in re.sub(r'"[^"]*"', "", sent), sent  # what label_replace calls $1 is a string of its own
    return sent


# -------------------------------------------------------------------------------------------------------- what there is


@dataclass(frozen=True)
class Watched:
    """A Prometheus with something to tell, and what the variables of the dashboards can be."""

    prometheus: Prometheus
    choices: Mapping[str, list[str]]
    at: float
    """The time for which Prometheus is asked: so a slow test asks for the same as a quick one."""

    def values(self, query: Query, *, by_name: bool) -> dict[str, str]:
        """The variables of a query's dashboard as they are at first, or with every value chosen by name."""
        values: dict[str, str] = {}
        for variable in variables(query.dashboard) if query.dashboard else ():
            choices = self.choices[variable["name"]]
            if not variable["multi"]:
                values[variable["name"]] = choices[0]
            elif by_name:
                values[variable["name"]] = f"({'|'.join(choices)})"
            else:
                assert variable["current"]["value"] == "$__all"
                values[variable["name"]] = variable["allValue"]
        return values

    def answer(self, query: Query, *, by_name: bool = False) -> list[float]:
        """The numbers that Grafana would get."""
        expression = substituted(query.expression, self.values(query, by_name=by_name))
        if query.instant:
            samples = [each["value"] for each in self.prometheus.query(expression, self.at)]
        else:
            found = self.prometheus.query_range(expression, RANGE, step=1, ends=self.at)
            samples = [sample for each in found for sample in each["values"]]
        return [value for _, text in samples if not math.isnan(value := float(text))]


def idle_hours(page: str, labels: Mapping[str, str], ends: float) -> Iterator[str]:
    """The samples of *page* with a scrape's *labels*, as if they had been scraped each minute until *ends*."""
    scraped = ",".join(f'{name}="{value}"' for name, value in labels.items())
    series = [f"up{{{scraped}}} 1"]
    for line in page.splitlines():
        if sample := _SAMPLE.match(line):
            name, own, value = sample.groups()
            series.append(f"{name}{{{own + ',' if own else ''}{scraped}}} {value}")
    for minutes in range(IDLE_MINUTES, -1, -1):
        yield from (f"{each} {ends - 60 * minutes:.3f}" for each in series)


BUSY: Final = replace(QUIET, speed=10, jobs=50, rate=30, rate_limit=100_000)
"""Five jobs a second come by themselves, some of which fail, at ten times the speed."""
HAPPENS: Final = (  # an hour's worth of failures; files missing; what runs on, with failures, without, and deleting
    JobScript(total=300, failed=150, errors={"5001": 100, "5002": 49, "10223": 1}, running=20),
    JobScript(total=10, completed=8, running=10),
    JobScript(total=1000, failed=100, running=3000),
    JobScript(operation="move", total=1000, running=100_000),
    JobScript(operation="delete", total=20, failed=1, running=30),
)


def happen(busy: RunningSimulator) -> None:
    """All that there is, on the busy account."""
    for script in HAPPENS:
        busy.platform.submit(script)
    busy.platform.queue(Fault(kind=FaultKind.MALFORMED_RECORD), matching=r"/async/files\?", times=6)


def lose_a_job(busy: RunningSimulator, exporter: Daemon) -> None:
    job = busy.platform.submit(JobScript(total=5, running=100_000))
    exporter.scrape_when(lambda now: now.series("sbg_unfinished_job_files_expected", job_id=job))
    busy.platform.remove(job)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    with (
        reserved_address() as listen,
        running(BUSY) as busy,
        running(QUIET) as resting,
        running(replace(QUIET, rate_limit=4)) as tight,
    ):
        resting.platform.queue(Fault(kind=FaultKind.MAINTENANCE), times=1000)
        accounts = (
            Account.at(busy, "busy"),
            Account.at(busy, "refused", token="f" * 32),
            Account.at(resting, "resting"),
            Account.at(tight, "tight"),
        )
        with (
            Installation(folder / "place", *accounts, listen=listen, settle_after=1, lost_after=1) as place,
            place.running() as exporter,
        ):
            prometheus = Prometheus(folder / "prometheus", listen)
            exporter.scrape_when(lambda now: now.series("sbg_files_failed_total", account="busy"))
            idle_until = time.time() - 60
            prometheus.remember(idle_hours(exporter.get("/metrics").text, prometheus.labels, idle_until))
            with prometheus:
                prometheus.remember_rules(idle_until - 60 * IDLE_MINUTES, idle_until, "1m")
                prometheus.stop()
                prometheus.start()
                prometheus.await_scrape()
                happen(busy)
                lose_a_job(busy, exporter)
                yield await_everything(prometheus)


def choices(prometheus: Prometheus) -> dict[str, list[str]]:
    """What each variable can be, the busy account and the copies first."""
    found: dict[str, list[str]] = {}
    for dashboard in DASHBOARDS:
        for variable in variables(dashboard):
            if variable["type"] != "query":  # "text : value", or text alone
                found[variable["name"]] = [each.split(" : ")[-1] for each in variable["query"].split(",")]
                continue
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert asked, variable
            selector = substituted(asked[1], {name: f"({'|'.join(values)})" for name, values in found.items()})
            series = eventually(lambda selector=selector: prometheus.query(selector), every=0.1)  # type: ignore[misc]
            found[variable["name"]] = sorted({each["metric"][asked[2]] for each in series})
    return found


def await_everything(prometheus: Prometheus) -> Watched:
    """A time at which every query has an answer, or the last that was tried: then tests say what fails."""
    patience = time.monotonic() + 240  # where two other test suites run, Prometheus evaluates its rules late
    offered = choices(prometheus)
    while True:
        watched = Watched(prometheus, offered, time.time())
        complete = all(
            watched.answer(query, by_name=by_name)
            for query in EVERY_QUERY
            if without_answer(query) is None
            for by_name in (False, True)
        )
        if complete or time.monotonic() > patience:
            return watched
        time.sleep(0.5)


def without_answer(query: Query) -> str | None:
    """Why *query* has no answer here, or None if it has one."""
    return SILENT.get(query.place)


def named(expression: str) -> list[tuple[str, str]]:
    """The series that an expression names: name and matchers."""
    return _NAME.findall(expression)


# -------------------------------------------------------------------------------------------------------------- answers


@REAL
@pytest.mark.parametrize("query", EVERY_QUERY, ids=str)
def test_a_query_has_an_answer(watched: Watched, query: Query) -> None:
    for by_name in (False, True):
        answer = watched.answer(query, by_name=by_name)

        assert bool(answer) == (without_answer(query) is None), query.expression


@REAL
@pytest.mark.parametrize("query", EVERY_QUERY, ids=str)
def test_every_series_that_a_query_names_is_there(watched: Watched, query: Query) -> None:
    """So that what has no answer has none for its reason, and not for a slip of the pen."""
    values = {name: f"({'|'.join(each)})" for name, each in watched.choices.items()}
    for name, matchers in named(query.expression):
        assert watched.prometheus.query(f"last_over_time({name}{substituted(matchers, values)}[5m])", watched.at), name


@REAL
def test_prometheus_evaluates_all_rules_without_a_complaint(watched: Watched) -> None:
    watched.prometheus.await_evaluation()

    groups = watched.prometheus.ask("rules")["groups"]

    assert sorted(rule["name"] for group in groups for rule in group["rules"]) == sorted(
        rule.place for rule in OF_RULES
    )


@REAL
def test_the_variables_offer_the_accounts_and_operations_that_there_are(watched: Watched) -> None:
    assert watched.choices == {
        "account": ["busy", "refused", "resting", "tight"],
        "operation": ["copy", "move", "delete"],
        "period": ["1d", "7d", "30d"],
        "job_id": [""],
    }


@REAL
@pytest.mark.parametrize("query", [query for query in EVERY_QUERY if query.exemplar], ids=str)
def test_a_panel_with_exemplars_gets_ids_of_jobs(watched: Watched, query: Query) -> None:
    def exemplars() -> list[Json]:
        return watched.prometheus.exemplars(substituted(query.expression, watched.values(query, by_name=False)))

    found = eventually(exemplars)
    assert all(each["labels"]["job_id"].isdecimal() for each in found)


# ---------------------------------------------------------------------------------------------------------------- names


def catalogue() -> dict[str, str]:
    """The catalogue's families, by the names of their samples."""
    families: tuple[Family | ProcessFamily, ...] = (*FAMILIES, *PROCESS_FAMILIES)
    return {
        f"{family.name}{suffix}": family.name
        for family in families
        for suffix in (("_bucket", "_sum", "_count") if family.type is Type.HISTOGRAM else ("",))
    }


def test_every_metric_that_a_query_names_is_in_the_catalogue_or_recorded() -> None:
    known = catalogue().keys() | {rule.place for rule in OF_RULES} | {"up", "ALERTS"}

    for query in EVERY_QUERY:
        names = {name for name, _ in named(query.expression)}
        assert names, query.expression
        assert {name for name in names if not name.startswith(("process_", "python_"))} <= known, query.place


def test_every_metric_of_the_catalogue_is_used_or_said_to_be_for_other_uses() -> None:
    used = {name for query in EVERY_QUERY for name, _ in named(query.expression)}

    families = catalogue()
    assert set(families.values()) - {families[name] for name in used & families.keys()} == DOCUMENTED_ONLY.keys()


def test_all_that_is_silent_exists() -> None:
    assert SILENT.keys() <= {query.place for query in EVERY_QUERY}

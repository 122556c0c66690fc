"""The rules of deploy/prometheus: right by promtool's tests, and each part of each rule held by one of them.

The tests themselves are deploy/prometheus/tests/*.test.yml, to be read and run by those who change a threshold. Here
they are run, their completeness is checked, and every expression is broken on purpose in the ways listed below: a way
that no test notices is a part of the rule that nothing holds.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml

from exporter.metrics.catalogue import FAMILIES, PROCESS_FAMILIES, Family, ProcessFamily, Type

FOLDER: Final = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES: Final = FOLDER / "sbg-exporter.rules.yml"
TESTS: Final = sorted((FOLDER / "tests").glob("*.test.yml"))
RUNBOOKS: Final = FOLDER / "RUNBOOKS.md"
ALERTMANAGER: Final = FOLDER / "alertmanager.yml"

PENDING: Final = frozenset({"sbg_exporter_config_last_reload_successful"})
"""Metrics of the contract that the exporter does not show yet: to be deleted with the last of them."""


class Rule(NamedTuple):
    """One rule, as it stands in the file."""

    group: str
    name: str
    expression: str
    lasting: str
    annotations: Mapping[str, str]
    labels: Mapping[str, str]
    alerts: bool


class Mutation(NamedTuple):
    """In the rule *name*, *old* becomes *new* wherever it stands. ``for`` and its time may be *old* too."""

    name: str
    old: str
    new: str


_LAST_POLL: Final = "account:sbg_exporter_last_poll_timestamp_seconds:max_offset15m"
_DETECTED: Final = "account_operation_job_id:sbg_failed_job_detected_timestamp_seconds:min1d"
_FAILURE: Final = "account_operation:sbg_last_failure_counted_timestamp_seconds:max20m"
_FINISHED: Final = "account_operation_outcome:sbg_jobs_finished:max"
_RISE: Final = "account_operation_outcome:sbg_jobs_finished:rise15m"
_PROGRESS: Final = "account_operation_job_id:sbg_unfinished_job_progress_timestamp_seconds:max"
_OLDEST: Final = "account_operation_state:sbg_unfinished_jobs_oldest_timestamp_seconds:min"
_LOOKED_AT: Final = "account:sbg_unfinished_jobs_looked_at_timestamp_seconds:max15m"
_QUEUE: Final = "account_operation:sbg_job_queue_duration_seconds_count:max"

MUTATIONS: Final = (
    Mutation(_LAST_POLL, "max by (account) (", "("),
    Mutation(_LAST_POLL, "[4d]", "[20m]"),
    Mutation(_LAST_POLL, " offset 15m", ""),
    Mutation(_LAST_POLL, "offset 15m", "offset 10m"),
    Mutation(_LAST_POLL, "offset 15m", "offset 30m"),
    Mutation(_LAST_POLL, "max_over_time", "min_over_time"),
    Mutation(_DETECTED, "min by (account, operation, job_id) (", "("),
    Mutation(_DETECTED, "min by", "max by"),
    Mutation(_DETECTED, "min by (account, operation, job_id)", "min by (account, operation)"),
    Mutation(_DETECTED, "min_over_time", "last_over_time"),
    Mutation(
        _DETECTED,
        "min_over_time(sbg_failed_job_detected_timestamp_seconds[1d])",
        "sbg_failed_job_detected_timestamp_seconds",
    ),
    Mutation(_DETECTED, "[1d]", "[20m]"),
    Mutation(_FAILURE, "max by (account, operation) (", "("),
    Mutation(_FAILURE, "max by", "min by"),
    Mutation(_FAILURE, "(account, operation)", "(account)"),
    Mutation(
        _FAILURE,
        "last_over_time(sbg_last_failure_counted_timestamp_seconds[20m])",
        "sbg_last_failure_counted_timestamp_seconds",
    ),
    Mutation(_FAILURE, "[20m]", "[2m]"),
    Mutation("SbgFilesFailed", f"{_FAILURE} > time() - 900 or", ""),
    Mutation("SbgFilesFailed", f"or {_FAILURE} > on (account) group_left () {_LAST_POLL}", ""),
    Mutation("SbgFilesFailed", f"or {_FAILURE} > on", f"or {_FAILURE} < on"),
    Mutation("SbgFilesFailed", "> time() - 900", "< time() - 900"),
    Mutation("SbgFilesFailed", "- 900", "- 600"),
    Mutation("SbgFilesFailed", "- 900", "- 1800"),
    Mutation("SbgFilesFailed", "> time() - 900 or", "> 0 or"),
    Mutation("SbgFilesFailed", f">= {_FAILURE}", f"> {_FAILURE}"),
    Mutation("SbgFilesFailed", f">= {_FAILURE}", ""),
    Mutation("SbgFilesFailed", "unless on (account, operation) max", "unless on (account) max"),
    Mutation("SbgFilesFailed", "unless on (account, operation) (", "unless on (account) ("),
    Mutation("SbgFilesFailed", "< time() - 1200", ""),
    Mutation("SbgFilesFailed", "< time() - 1200", "< time()"),
    Mutation("SbgFilesFailed", "< time() - 1200", "> time() - 1200"),
    Mutation(
        "SbgFilesFailed",
        "unless on (account, operation, job_id) last_over_time",
        "unless on (account, operation) last_over_time",
    ),
    Mutation("SbgCopyFailed", f"{_DETECTED} > time() - 900 or", ""),
    Mutation("SbgCopyFailed", f"or {_DETECTED} > on (account) group_left () {_LAST_POLL}", ""),
    Mutation("SbgCopyFailed", "> on (account)", "< on (account)"),
    Mutation("SbgCopyFailed", "> time() - 900", "< time() - 900"),
    Mutation("SbgCopyFailed", "> time() - 900", "> 0"),
    Mutation("SbgCopyFailed", "- 900", "- 600"),
    Mutation("SbgCopyFailed", "- 900", "- 1800"),
    Mutation(_FINISHED, "max by (account, operation, outcome) (sbg_jobs_finished_total)", "sbg_jobs_finished_total"),
    Mutation(_FINISHED, "max by (account, operation, outcome)", "sum by (account, operation)"),
    Mutation(_FINISHED, "sbg_jobs_finished_total", "sbg_jobs_submitted_total"),
    Mutation(_RISE, f"last_over_time({_FINISHED}[20m])", _FINISHED),
    Mutation(_RISE, f"max_over_time({_FINISHED}[4d]", f"last_over_time({_FINISHED}[4d]"),
    Mutation(_RISE, "[4d]", "[20m]"),
    Mutation(_RISE, " offset 15m", ""),
    Mutation(_RISE, "offset 15m", "offset 30m"),
    Mutation(_RISE, f"- min_over_time({_FINISHED}[15m1s])", ""),
    Mutation(_RISE, "[15m1s]", "[5m]"),
    Mutation(_RISE, "[15m1s]", "[30m]"),
    Mutation(_RISE, "unless on (account)", "and on (account)"),
    Mutation(_RISE, "min by (account) (min_over_time", "max by (account) (last_over_time"),
    Mutation(
        _RISE,
        "sbg_exporter_counting_since_timestamp_seconds[4d] offset 15m",
        "sbg_exporter_counting_since_timestamp_seconds[4d]",
    ),
    Mutation(
        _RISE,
        "last_over_time(sbg_exporter_counting_since_timestamp_seconds[20m])",
        "sbg_exporter_counting_since_timestamp_seconds",
    ),
    Mutation(_RISE, ") > 0 or", ") >= 0 or"),
    Mutation(_RISE, ") > 0 unless", ") >= 0 unless"),
    Mutation("SbgJobIncomplete", '{outcome="incomplete"}', ""),
    Mutation("SbgJobIncomplete", "incomplete", "lost"),
    Mutation("SbgJobIncomplete", _RISE, _FINISHED),
    Mutation("SbgJobLost", '{outcome="lost"}', ""),
    Mutation("SbgJobLost", "lost", "incomplete"),
    Mutation("SbgJobLost", _RISE, _FINISHED),
    *(
        mutation
        for counted in ("failed", "completed")
        for mutation in (
            Mutation(f"account_operation:sbg_files_{counted}:max", "max by (account, operation) ", ""),
            Mutation(f"account_operation:sbg_files_{counted}:max", "max by", "count by"),
            Mutation(
                f"account_operation:sbg_files_{counted}:delta1h",
                "last_over_time(account_operation:sbg_files_" + counted + ":max[20m])",
                f"account_operation:sbg_files_{counted}:max",
            ),
            Mutation(f"account_operation:sbg_files_{counted}:delta1h", "[4d]", "[20m]"),
            Mutation(f"account_operation:sbg_files_{counted}:delta1h", "offset 1h", "offset 30m"),
        )
    ),
    Mutation("account_operation:sbg_files_failed:ratio1h", "> 0", ""),
    Mutation("account_operation:sbg_files_failed:ratio1h", " + account_operation:sbg_files_completed:delta1h", ""),
    Mutation(
        "account_operation:sbg_files_failed:ratio1h",
        "account_operation:sbg_files_failed:delta1h / (account_operation:sbg_files_failed:delta1h +",
        "account_operation:sbg_files_failed:delta1h / (",
    ),
    Mutation("SbgFailureRatioHigh", "> 0.1", "> 0.05"),
    Mutation("SbgFailureRatioHigh", "> 0.1", "> 0.25"),
    Mutation("SbgFailureRatioHigh", "> 0.1", "< 0.1"),
    Mutation("SbgFailureRatioHigh", ">= 100", "> 0"),
    Mutation("SbgFailureRatioHigh", ">= 100", "> 100"),
    Mutation("SbgFailureRatioHigh", "for: 5m", ""),
    Mutation(_PROGRESS, "max by (account, operation, job_id) (sbg", "(sbg"),
    Mutation(_PROGRESS, "max by (account, operation, job_id) (last", "(last"),
    Mutation(_PROGRESS, "[15m]", "[1m]"),
    Mutation(_PROGRESS, "[15m]", "[1h]"),
    Mutation(_PROGRESS, "unless on (account) sbg_jobs", ""),
    Mutation(_PROGRESS, "unless on (account) sbg_jobs", "unless sbg_jobs"),
    Mutation(_OLDEST, "min by (account, operation, state) (sbg", "(sbg"),
    Mutation(_OLDEST, "min by (account, operation, state) (last", "(last"),
    Mutation(_OLDEST, "[15m]", "[1m]"),
    Mutation(_OLDEST, "unless on (account) sbg_jobs", ""),
    Mutation(_OLDEST, "(account, operation, state)", "(account, operation)"),
    Mutation(_LOOKED_AT, "max by (account) ", ""),
    Mutation(_LOOKED_AT, "max by", "min by"),
    Mutation(_LOOKED_AT, "- last_over_time(sbg_exporter_detection_delay_seconds[15m])", ""),
    Mutation(
        _LOOKED_AT,
        "last_over_time(sbg_exporter_last_poll_timestamp_seconds[15m])",
        "sbg_exporter_last_poll_timestamp_seconds",
    ),
    Mutation(_QUEUE, "max by (account, operation) ", ""),
    Mutation(_QUEUE, "max by (account, operation)", "max by (account)"),
    Mutation("SbgJobStuck", "> 1800", "> 1500"),
    Mutation("SbgJobStuck", "> 1800", "> 3600"),
    Mutation("SbgJobStuck", "> 1800", "< 1800"),
    Mutation("SbgJobStuck", f"{_LOOKED_AT} - on (account) group_right ()", "time() -"),
    Mutation("SbgQueueNotMoving", "> 1800", "> 1200"),
    Mutation("SbgQueueNotMoving", "> 1800", "> 3600"),
    Mutation("SbgQueueNotMoving", '{state="submitted"}', ""),
    Mutation("SbgQueueNotMoving", "[4d]", "[30m]"),
    Mutation("SbgQueueNotMoving", "offset 30m", "offset 10m"),
    Mutation("SbgQueueNotMoving", f"last_over_time({_QUEUE}[20m])", _QUEUE),
    Mutation("SbgQueueNotMoving", "!=", ">"),
    Mutation("SbgQueueNotMoving", "unless on (account, operation)", "unless on (account)"),
    Mutation("SbgQueueNotMoving", f"{_LOOKED_AT} - on (account) group_right ()", "time() -"),
    Mutation("SbgQueueNotMoving", "for: 5m", ""),
    Mutation("SbgAccountUnreachable", "== 0", "== 1"),
    Mutation("SbgAccountUnreachable", "last_over_time(sbg_up[5m])", "sbg_up"),
    Mutation("SbgAccountUnreachable", "max by (account) ", ""),
    Mutation("SbgAccountUnreachable", "max by", "min by"),
    Mutation("SbgAccountUnreachable", "for: 10m", ""),
    Mutation("SbgTokenRefused", "== 0", "== 1"),
    Mutation("SbgTokenRefused", "last_over_time(sbg_auth_ok[5m])", "sbg_auth_ok"),
    Mutation("SbgTokenRefused", "max by (account) ", ""),
    Mutation("SbgTokenRefused", "for: 6m", ""),
    Mutation("SbgMaintenance", "== 1", "== 0"),
    Mutation("SbgMaintenance", "last_over_time(sbg_maintenance[5m])", "sbg_maintenance"),
    Mutation("SbgMaintenance", "min by", "max by"),
    Mutation("SbgNotPolling", "> 600", "> 1200"),
    Mutation("SbgNotPolling", "> 600 + 2 * max by (account) (sbg_exporter_poll_interval_seconds)", "> 0"),
    Mutation(
        "SbgNotPolling",
        "and max by (account) (sbg_exporter_last_poll_timestamp_seconds)"
        " == max by (account) (sbg_exporter_last_poll_timestamp_seconds offset 10m)",
        "",
    ),
    Mutation("SbgNotPolling", "offset 10m", "offset 30m"),
    Mutation("SbgNotPolling", "+ 2 * max by (account) (sbg_exporter_poll_interval_seconds)", ""),
    Mutation(
        "SbgNotPolling",
        "max by (account) (sbg_exporter_last_poll_timestamp_seconds",
        "min by (account) (sbg_exporter_last_poll_timestamp_seconds",
    ),
    Mutation(
        "SbgNotPolling",
        "or max by (account) (sbg_account_info)"
        " unless on (account) max by (account) (sbg_exporter_last_poll_timestamp_seconds)",
        "",
    ),
    Mutation("SbgNotPolling", "unless on (account) max by (account) (sbg_exporter_last_poll_timestamp_seconds)", ""),
    Mutation("SbgNotPolling", "max by (account) (sbg_account_info)", "sbg_account_info"),
    Mutation("SbgNotPolling", "for: 10m", ""),
    Mutation("SbgAllowanceNearlyUsed", "> 0.9", "> 0.4"),
    Mutation("SbgAllowanceNearlyUsed", "> 0.9", "< 0.9"),
    Mutation(
        "SbgAllowanceNearlyUsed",
        "(max by (account) (last_over_time(sbg_exporter_allowance_requests[10m])) > 0)",
        "max by (account) (last_over_time(sbg_exporter_allowance_requests[10m]))",
    ),
    Mutation(
        "SbgAllowanceNearlyUsed",
        "max_over_time(sbg_exporter_allowance_used_requests[10m])",
        "sbg_exporter_allowance_used_requests",
    ),
    Mutation("SbgAllowanceNearlyUsed", "[10m]", "[2m]"),
    Mutation("SbgAllowanceNearlyUsed", "max by (account) ", ""),
    Mutation("SbgAllowanceNearlyUsed", "for: 30m", ""),
    Mutation("SbgDetectionDelayed", "> 900", "> 300"),
    Mutation("SbgDetectionDelayed", "> 900", "> 1800"),
    Mutation("SbgDetectionDelayed", "> 900", "< 900"),
    Mutation("SbgDetectionDelayed", "min by", "max by"),
    Mutation(
        "SbgDetectionDelayed",
        "last_over_time(sbg_exporter_detection_delay_seconds[5m])",
        "sbg_exporter_detection_delay_seconds",
    ),
    Mutation("SbgDetectionDelayed", "for: 5m", ""),
    Mutation("SbgListingOverdue", "> 2 *", "> 1 *"),
    Mutation("SbgListingOverdue", "> 2 *", "< 2 *"),
    Mutation("SbgListingOverdue", "and on (account) max by (account) (sbg_exporter_watching) == 1", ""),
    Mutation(
        "SbgListingOverdue", "max by (account) (sbg_exporter_last_full", "min by (account) (sbg_exporter_last_full"
    ),
    Mutation("SbgListingOverdue", "for: 15m", ""),
    Mutation("SbgRecordsSkipped", "> 0", ">= 0"),
    Mutation("SbgRecordsSkipped", "[8h]", "[30m]"),
    Mutation("SbgRecordsSkipped", "(account, reason)", "(account)"),
    Mutation("SbgRecordsSkipped", "for: 5m", ""),
    Mutation("SbgExporterDown", "== 0", "== 1"),
    Mutation("SbgExporterDown", 'or absent(up{job="sbg-exporter"})', ""),
    Mutation("SbgExporterDown", '(up{job="sbg-exporter"})', "(up)"),
    Mutation("SbgExporterDown", "(job, instance)", "(job)"),
    Mutation("SbgExporterDown", "for: 5m", ""),
    Mutation("SbgStateNotWritable", "> 0", ">= 0"),
    Mutation(
        "SbgStateNotWritable",
        "increase(sbg_exporter_state_write_failures_total[5m])",
        "sbg_exporter_state_write_failures_total",
    ),
    Mutation("SbgStateNotWritable", "max by (job, instance) ", ""),
    Mutation("SbgStateNotWritable", "[5m]", "[30m]"),
    Mutation("SbgStateNotWritable", "[1h]", "[10m]"),
    Mutation("SbgStateNotWritable", "> 1.5", "> 0.5"),
    Mutation("SbgStateNotWritable", "and min by (job, instance)", "and max by (job, instance)"),
    Mutation("SbgStateNotWritable", "and min by (job, instance) (sbg_exporter_poll_interval_seconds) > 150", ""),
    Mutation("SbgStateNotWritable", "for: 10m", ""),
    Mutation("SbgConfigReloadFailed", "== 0", "== 1"),
    Mutation("SbgConfigReloadFailed", "== 0", ""),
    Mutation("SbgConfigReloadFailed", "max by (job, instance) ", ""),
    Mutation("SbgConfigReloadFailed", "for: 1m", ""),
)

ROUTES: Final = (
    ("failures", {"alertname": "SbgCopyFailed", "severity": "warning", "account": "x", "job_id": "j"}),
    ("failures", {"alertname": "SbgFilesFailed", "severity": "warning", "account": "x"}),
    ("failures", {"alertname": "SbgJobIncomplete", "severity": "warning", "account": "x"}),
    ("failures", {"alertname": "SbgJobLost", "severity": "warning", "account": "x"}),
    ("imaging-failures", {"alertname": "SbgCopyFailed", "severity": "warning", "account": "cgc-imaging"}),
    ("on-call", {"alertname": "SbgTokenRefused", "severity": "critical", "account": "cgc-imaging"}),
    ("on-call", {"alertname": "SbgExporterDown", "severity": "critical", "instance": "sbg-exporter"}),
    ("log", {"alertname": "SbgMaintenance", "severity": "info", "account": "x"}),
    ("team", {"alertname": "SbgJobStuck", "severity": "warning", "account": "cgc-imaging"}),
)


LOADED: Final[Mapping[Path, Any]] = {
    path: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (RULES, ALERTMANAGER, *TESTS)
}
"""The files as loaded. (A series that begins with ``0x`` is quoted in them: PyYAML takes it for hexadecimal.)"""


def every_rule() -> Iterator[Rule]:
    """The rules in their order, expressions on one line."""
    for group in LOADED[RULES]["groups"]:
        for rule in group["rules"]:
            yield Rule(
                group=group["name"],
                name=rule.get("alert") or rule["record"],
                expression=" ".join(rule["expr"].split()),
                lasting=rule.get("for", ""),
                annotations=rule.get("annotations", {}),
                labels=rule.get("labels", {}),
                alerts="alert" in rule,
            )


EVERY_RULE: Final = tuple(every_rule())
ALERTS: Final = tuple(rule for rule in EVERY_RULE if rule.alerts)


def run(*command: str | Path) -> str:
    """The output of a command that is to succeed."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


# ---- the files ----


def test_promtool_takes_the_configuration_and_the_rules() -> None:
    run("promtool", "check", "config", FOLDER / "prometheus.yml")

    checked = run("promtool", "check", "rules", RULES)

    assert f"{len(EVERY_RULE)} rules found" in checked


def test_amtool_takes_the_alertmanager_example() -> None:
    run("amtool", "check-config", ALERTMANAGER)


@pytest.mark.parametrize(("receiver", "labels"), ROUTES)
def test_an_alert_is_routed_to_its_receiver(receiver: str, labels: Mapping[str, str]) -> None:
    pairs = [f"{name}={value}" for name, value in labels.items()]

    run("amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}", f"--verify.receivers={receiver}", *pairs)


def test_every_alert_that_the_alertmanager_example_names_exists() -> None:
    patterns = re.findall(r'alertname=~?"([^"]+)"', ALERTMANAGER.read_text(encoding="utf-8"))
    named = {name for pattern in patterns for name in pattern.split("|") if "(" not in pattern}

    assert len(patterns) == 11
    assert named <= {alert.name for alert in ALERTS}


def test_an_exporter_that_is_down_silences_what_is_said_of_accounts_but_no_failure_and_nothing_critical() -> None:
    [inhibition] = [
        rule
        for rule in LOADED[ALERTMANAGER]["inhibit_rules"]
        if rule["source_matchers"] == ['alertname="SbgExporterDown"']
    ]
    pattern = inhibition["target_matchers"][0].partition("=~")[2].strip('"')

    silenced = {alert.name for alert in ALERTS if re.fullmatch(pattern, alert.name)}

    told = {"SbgCopyFailed", "SbgFilesFailed", "SbgJobIncomplete", "SbgJobLost", "SbgFailureRatioHigh"}
    of_an_exporter_that_is_up = {alert.name for alert in ALERTS if alert.labels["severity"] == "critical"}
    of_the_exporter = {alert.name for alert in ALERTS if alert.group == "sbg-exporter"}
    assert silenced == (
        {alert.name for alert in ALERTS} - told - of_an_exporter_that_is_up - of_the_exporter - {"SbgRecordsSkipped"}
    )


# ---- what each alert says ----


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_says_what_it_is_how_bad_and_what_to_do(alert: Rule) -> None:
    assert set(alert.annotations) == {"summary", "description", "runbook_url"}
    assert alert.labels["severity"] in {"critical", "warning", "info"}
    assert alert.annotations["runbook_url"] == (
        "https://github.com/sbg-exporter/sbg-exporter/blob/main/deploy/prometheus/RUNBOOKS.md#" + alert.name.lower()
    )


def test_every_alert_has_a_runbook_with_the_four_headings_and_there_is_no_other() -> None:
    chapters = re.split(r"^## ", RUNBOOKS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    runbooks = {chapter.partition("\n")[0]: chapter for chapter in chapters if chapter.startswith("Sbg")}

    assert sorted(runbooks) == sorted(alert.name for alert in ALERTS)
    for name, runbook in runbooks.items():
        headings = re.findall(r"^### (.+)$", runbook, re.MULTILINE)
        assert headings == ["Meaning", "Impact", "First look", "Fix"], name


def test_every_metric_that_rules_tests_and_runbooks_name_exists() -> None:
    known = set(PENDING)
    families: tuple[Family | ProcessFamily, ...] = (*FAMILIES, *PROCESS_FAMILIES)
    for family in families:
        suffixes = ("_bucket", "_sum", "_count") if family.type is Type.HISTOGRAM else ("",)
        known |= {f"{family.name}{suffix}" for suffix in suffixes}
    recorded = {rule.name for rule in EVERY_RULE if not rule.alerts}

    for path in (RULES, RUNBOOKS, *TESTS):
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"\baccount\w*:sbg_\w+:\w+", text)) <= recorded
        assert set(re.findall(r"(?<![:\w])sbg_\w+(?![:\w*])", text)) <= known, path


# ---- promtool's tests ----


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_promtools_tests_hold(path: Path) -> None:
    run("promtool", "test", "rules", path)


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    firing: set[str] = set()
    silent: set[str] = set()
    for path in TESTS:
        for test in LOADED[path]["tests"]:
            for case in test.get("alert_rule_test", ()):
                (firing if case["exp_alerts"] else silent).add(case["alertname"])

    assert firing == silent == {alert.name for alert in ALERTS}


# ---- mutations ----


def concerned(name: str) -> set[str]:
    """The alerts that say anything of a rule: itself, or those that rest on what it records."""
    names = {name}
    for rule in EVERY_RULE:  # in order: nothing rests on what is recorded later
        if any(":" in each and each in rule.expression for each in names):
            names.add(rule.name)
    return names & {alert.name for alert in ALERTS}


def written(group: str, mutation: Mutation | None, folder: Path) -> list[Path]:
    """A group's rules alone, mutated, and the tests of the alerts that are concerned, in *folder*: as JSON.

    Without the tests of long absences, which take long.
    """
    rules = [dict(rule) for each in LOADED[RULES]["groups"] if each["name"] == group for rule in each["rules"]]
    alerts = {rule["alert"] for rule in rules if "alert" in rule}
    if mutation is not None:
        alerts = concerned(mutation.name)
        [rule] = [rule for rule in rules if mutation.name in {rule.get("alert"), rule.get("record")}]
        rule["expr"] = " ".join(rule["expr"].split()).replace(mutation.old, mutation.new)
        if mutation.old == f"for: {rule.get('for')}":
            del rule["for"]
    folder.mkdir()
    (folder / "rules.yml").write_text(json.dumps({"groups": [{"name": group, "rules": rules}]}), encoding="utf-8")
    copies = []
    for path in TESTS:
        cases = [case for case in LOADED[path]["tests"] if alerts & set(re.findall(r"\bSbg\w+", json.dumps(case)))]
        if cases and path.name != "long_absence.test.yml":
            copies.append(folder / path.name)
            document = {**LOADED[path], "rule_files": ["rules.yml"], "tests": cases}
            copies[-1].write_text(json.dumps(document), encoding="utf-8")
    return copies


def noticed(tests: Sequence[Path]) -> bool:
    """Whether one of the tests fails, and because of what the rules say."""
    for test in tests:
        ended = subprocess.run(
            ["promtool", "test", "rules", test], capture_output=True, text=True, check=False, timeout=120
        )
        if ended.returncode != 0:
            return "parse error" not in ended.stdout + ended.stderr
    return False


@pytest.fixture(scope="module")
def fates(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Mutation, bool]:
    """Each mutation, and whether a test noticed it."""
    folder = tmp_path_factory.mktemp("mutants")
    groups = {rule.name: rule.group for rule in EVERY_RULE}

    def fate(number: int) -> bool:
        mutation = MUTATIONS[number]
        return noticed(written(groups[mutation.name], mutation, folder / str(number)))

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as several:
        return dict(zip(MUTATIONS, several.map(fate, range(len(MUTATIONS))), strict=True))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: f"{each.name}: {each.old} -> {each.new}")
def test_a_broken_rule_fails_a_test(fates: Mapping[Mutation, bool], mutation: Mutation) -> None:
    assert fates[mutation]


def test_a_group_alone_passes_its_tests_so_that_what_mutants_fail_at_is_their_mutation(tmp_path: Path) -> None:
    for group in {rule.group for rule in EVERY_RULE}:
        assert not noticed(written(group, None, tmp_path / group))


def test_mutations_change_something_and_no_rule_is_spared() -> None:
    rules = {rule.name: rule for rule in EVERY_RULE}
    for mutation in MUTATIONS:
        rule = rules[mutation.name]
        assert mutation.old in rule.expression or mutation.old == f"for: {rule.lasting}", mutation

    spared = {name for name in rules if sum(mutation.name == name for mutation in MUTATIONS) < 2}
    assert spared == set()
    assert {rule.name for rule in EVERY_RULE if rule.lasting} == {
        mutation.name for mutation in MUTATIONS if mutation.old.startswith("for: ")
    }

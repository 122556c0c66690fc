"""The rules of deploy/prometheus pass promtool's tests, and each alert has its annotations, runbook and tests.

Promtool's tests are deploy/prometheus/tests/*.test.yml. This module runs them and checks that they are complete;
test_mutations.py checks that they notice changes of each expression.
"""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
import yaml

from exporter.api.decoding import SKIPPED
from exporter.api.error_codes import ERROR_CODES
from exporter.errors import FAILED_RESULTS
from exporter.metrics.families import FAMILIES, PROCESS_FAMILIES, Family, ProcessFamily, Type
from tests.rules.rulebook import ALERTS, EVERY_RULE, FOLDER, RULES, TESTS, Rule, load, run_tests
from tests.tools import tool

RUNBOOKS: Final = FOLDER / "RUNBOOKS.md"
ALERTMANAGER: Final = FOLDER / "alertmanager.yml"


ROUTES: Final = (
    ("failures", {"alertname": "SbgJobFilesFailed", "severity": "warning", "account": "x", "job_id": "j"}),
    ("failures", {"alertname": "SbgFilesFailed", "severity": "warning", "account": "x"}),
    ("failures", {"alertname": "SbgJobIncomplete", "severity": "warning", "account": "x"}),
    ("failures", {"alertname": "SbgJobLost", "severity": "warning", "account": "x"}),
    ("imaging-failures", {"alertname": "SbgJobFilesFailed", "severity": "warning", "account": "cgc-imaging"}),
    ("on-call", {"alertname": "SbgTokenRefused", "severity": "critical", "account": "cgc-imaging"}),
    ("on-call", {"alertname": "SbgExporterDown", "severity": "critical", "instance": "sbg-exporter"}),
    ("log", {"alertname": "SbgMaintenance", "severity": "info", "account": "x"}),
    ("team", {"alertname": "SbgJobStuck", "severity": "warning", "account": "cgc-imaging"}),
)


def run(name: str, *arguments: str | Path) -> str:
    """Run a program, assert its success and return its output."""
    ended = subprocess.run([tool(name), *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


# ---- the files ----


@pytest.mark.tools("promtool")
def test_promtool_takes_the_configuration_and_the_rules() -> None:
    run("promtool", "check", "config", FOLDER / "prometheus.yml")

    checked = run("promtool", "check", "rules", RULES)

    assert f"{len(EVERY_RULE)} rules found" in checked


def test_the_example_with_tls_differs_only_in_how_it_connects() -> None:
    plain, encrypted = (
        yaml.safe_load((FOLDER / name).read_text()) for name in ("prometheus.yml", "prometheus-tls.yml")
    )

    [job] = encrypted["scrape_configs"]
    assert (job.pop("scheme"), set(job.pop("tls_config")), set(job.pop("basic_auth"))) == (
        "https",
        {"ca_file", "server_name"},
        {"username", "password_file"},
    )
    assert encrypted == plain


@pytest.mark.tools("amtool")
def test_amtool_takes_the_alertmanager_example() -> None:
    run("amtool", "check-config", ALERTMANAGER)


@pytest.mark.tools("amtool")
@pytest.mark.parametrize(("receiver", "labels"), ROUTES)
def test_an_alert_is_routed_to_its_receiver(receiver: str, labels: Mapping[str, str]) -> None:
    pairs = [f"{name}={value}" for name, value in labels.items()]

    run("amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}", f"--verify.receivers={receiver}", *pairs)


def test_every_alert_that_the_alertmanager_example_names_exists() -> None:
    patterns = re.findall(r'alertname=~?"([^"]+)"', ALERTMANAGER.read_text(encoding="utf-8"))
    named = {name for pattern in patterns for name in pattern.split("|") if "(" not in pattern}

    assert len(patterns) == 11
    assert named <= {alert.name for alert in ALERTS}


def test_exporter_down_inhibits_account_alerts_except_failures() -> None:
    [inhibition] = [
        rule
        for rule in load(ALERTMANAGER)["inhibit_rules"]
        if rule["source_matchers"] == ['alertname="SbgExporterDown"']
    ]
    pattern = inhibition["target_matchers"][0].partition("=~")[2].strip('"')

    silenced = {alert.name for alert in ALERTS if re.fullmatch(pattern, alert.name)}

    told = {"SbgJobFilesFailed", "SbgFilesFailed", "SbgJobIncomplete", "SbgJobLost", "SbgFailureRatioHigh"}
    told.add("SbgCountingRestarted")  # an event, too
    of_an_exporter_that_is_up = {alert.name for alert in ALERTS if alert.labels["severity"] == "critical"}
    of_the_exporter = {alert.name for alert in ALERTS if alert.group == "sbg-exporter"}
    assert silenced == (
        {alert.name for alert in ALERTS} - told - of_an_exporter_that_is_up - of_the_exporter - {"SbgRecordsSkipped"}
    )


def test_a_state_file_that_cannot_be_written_inhibits_its_consequences() -> None:
    [inhibition] = [
        rule
        for rule in load(ALERTMANAGER)["inhibit_rules"]
        if rule["source_matchers"] == ['alertname="SbgStateNotWritable"']
    ]

    assert inhibition["target_matchers"] == ['alertname=~"SbgDetectionDelayed|SbgListingOverdue"']
    assert "equal" not in inhibition  # the source has no account


# ---- annotations and runbooks ----


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_alert_has_annotations_severity_and_runbook_url(alert: Rule) -> None:
    assert set(alert.annotations) == {"summary", "description", "runbook_url"}
    assert alert.labels["severity"] in {"critical", "warning", "info"}
    assert alert.annotations["runbook_url"] == (
        "https://github.com/sbg-exporter/sbg-exporter/blob/main/deploy/prometheus/RUNBOOKS.md#" + alert.name.lower()
    )


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_every_alert_says_since_when_with_the_date(alert: Rule) -> None:
    formats = re.findall(r"\.UTC\.Format \"([^\"]+)\" }}{{ end }} UTC", alert.annotations["description"])

    assert set(formats) == {"2006-01-02 15:04:05"}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_no_duration_is_fixed_in_a_text_that_is_sent_again_hours_later(alert: Rule) -> None:
    durations = re.findall(r"(.{10}) for [0-9]+ minutes", alert.annotations["summary"])

    assert durations == []  # "for more than 10 minutes" stays true


def test_every_alert_about_an_account_ends_with_its_exporter_user_and_platform() -> None:
    """The commands in its text have to run where that exporter runs."""
    texts = [each.annotations["description"] for each in ALERTS if "$labels.account" in each.annotations["summary"]]

    closings = {
        text[text.rindex('{{- with printf "topk(1, max_over_time(timestamp(sbg_account_info') :] for text in texts
    }

    assert len(closings) == 1
    assert len(texts) == sum(bool(re.search("account(?!s)", each.expression)) for each in ALERTS)


def test_alerts_have_the_same_words_for_error_codes_as_the_commands_and_pages() -> None:
    [alert] = [alert for alert in ALERTS if alert.name == "SbgJobFilesFailed"]

    assert words_in(alert.annotations["description"]) == {code: each.words for code, each in ERROR_CODES.items()}


def test_alert_and_runbook_have_words_for_each_result_of_a_failed_poll() -> None:
    [alert] = [alert for alert in ALERTS if alert.name == "SbgAccountUnreachable"]

    assert words_in(alert.annotations["description"]) == FAILED_RESULTS
    runbook = RUNBOOKS.read_text(encoding="utf-8").partition("\n## SbgAccountUnreachable\n")[2].partition("\n## ")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", runbook, re.MULTILINE)) == FAILED_RESULTS


def test_alert_has_words_for_each_reason_to_skip_a_record() -> None:
    [alert] = [alert for alert in ALERTS if alert.name == "SbgRecordsSkipped"]

    assert set(words_in(alert.annotations["summary"])) == set(SKIPPED)


def words_in(template: str) -> dict[str, str]:
    """The table of words in an annotation, of which it looks one up."""
    [table] = re.findall(r'\$words := " ?; ([^"]+); ?"', template)
    return dict(each.split(" ", 1) for each in table.split("; "))


def test_every_alert_has_a_runbook_with_the_four_headings() -> None:
    chapters = re.split(r"^## ", RUNBOOKS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    runbooks = {chapter.partition("\n")[0]: chapter for chapter in chapters if chapter.startswith("Sbg")}

    assert sorted(runbooks) == sorted(alert.name for alert in ALERTS)
    for name, runbook in runbooks.items():
        headings = re.findall(r"^### (.+)$", runbook, re.MULTILINE)
        assert headings == ["Symptom", "Impact", "Diagnose", "Fix"], name


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_every_alert_says_whether_it_can_wait_in_the_words_of_its_runbook(alert: Rule) -> None:
    """At night people read the alert alone."""
    clauses = re.findall(r"can(?:not)? wait[^.:,;]*", " ".join(alert.annotations["description"].split()))

    assert clauses
    for clause in clauses:
        assert clause in impact(alert.name)


def impact(name: str) -> str:
    """What the runbook of an alert says under that heading, and the runbook that it refers to."""
    runbook = RUNBOOKS.read_text(encoding="utf-8").partition(f"\n## {name}\n")[2]
    text = " ".join(runbook.partition("### Impact\n")[2].partition("\n#")[0].split())
    same = re.match(r"The same as for \[(Sbg\w+)\]", text)
    return f"{text} {impact(same[1])}" if same else text


def test_every_runbook_starts_its_diagnosis_with_a_command_to_paste() -> None:
    runbooks = re.split(r"^## (?=Sbg)", RUNBOOKS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]

    assert len(runbooks) == len(ALERTS)
    for runbook in runbooks:
        first = re.search(r"### Diagnose\n\n```(?:promql|sh)\n(.*?)```", runbook, re.DOTALL)
        assert first, runbook
        assert not re.search(r"[A-Z]{2,}_?[A-Z]+|[<{]\w+[>}]|\.\.\.|…", first[1]), "a placeholder"


@pytest.mark.tools("promtool")
def test_every_query_of_the_runbooks_is_valid(tmp_path: Path) -> None:
    queries = re.findall(r"```promql\n(.*?)```", RUNBOOKS.read_text(encoding="utf-8"), re.DOTALL)
    rules = [{"record": f"runbook:query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "runbooks", "rules": rules}]}), encoding="utf-8")

    assert f"{len(queries)} rules found" in run("promtool", "check", "rules", file)
    assert len(queries) > len(ALERTS)


def test_every_metric_that_rules_tests_and_runbooks_name_exists() -> None:
    known: set[str] = set()
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


@pytest.mark.tools("promtool")
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_promtools_tests_hold(path: Path) -> None:
    ended = run_tests(path)

    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_alert_has_a_firing_and_a_silent_test() -> None:
    firing: set[str] = set()
    silent: set[str] = set()
    for path in TESTS:
        for test in load(path)["tests"]:
            for case in test.get("alert_rule_test", ()):
                (firing if case["exp_alerts"] else silent).add(case["alertname"])

    assert firing == silent == {alert.name for alert in ALERTS}

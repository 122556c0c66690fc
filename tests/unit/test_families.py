"""The names are a contract: dashboards and alerts are written against them."""

import inspect
import re

import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from exporter.counting.values import CounterValue, HistogramValue
from exporter.metrics.families import (
    FAMILIES,
    POLL_RESULTS,
    PROCESS_FAMILIES,
    Family,
    ProcessFamily,
    Section,
    Source,
    Type,
)
from exporter.metrics.snapshot import ExporterStats, ReloadStatus
from exporter.polling import stats
from tests.clocks import START
from tests.factories import finished_job, running_job
from tests.ledgers import LedgerFixture
from tests.snapshots import DISPLAY, UNTRIED, snapshot

ALL: tuple[Family | ProcessFamily, ...] = (*FAMILIES, *PROCESS_FAMILIES)

CONTRACT = {
    Section.LISTED: """
        sbg_jobs{account,operation,state}
        sbg_jobs_files_expected{account,operation,state}
        sbg_jobs_files_completed{account,operation,state}
        sbg_jobs_files_failed{account,operation,state}
        sbg_unfinished_jobs_oldest_timestamp_seconds{account,operation,state}
    """,
    Section.COUNTED: """
        sbg_jobs_submitted_total{account,operation}
        sbg_jobs_finished_total{account,operation,outcome}
        sbg_files_total{account,operation}
        sbg_files_completed_total{account,operation}
        sbg_files_failed_total{account,operation}
        sbg_file_errors_total{account,operation,code}
        sbg_job_duration_seconds{account,operation,outcome}
        sbg_job_queue_duration_seconds{account,operation}
        sbg_last_failure_counted_timestamp_seconds{account,operation}
    """,
    Section.PER_JOB: """
        sbg_unfinished_job_submitted_timestamp_seconds{account,operation,job_id}
        sbg_unfinished_job_progress_timestamp_seconds{account,operation,job_id}
        sbg_unfinished_job_queued{account,operation,job_id}
        sbg_unfinished_job_files_expected{account,operation,job_id}
        sbg_unfinished_job_files_completed{account,operation,job_id}
        sbg_unfinished_job_files_failed{account,operation,job_id}
        sbg_failed_job_detected_timestamp_seconds{account,operation,job_id}
        sbg_failed_job_finished_timestamp_seconds{account,operation,job_id}
        sbg_failed_job_files_failed{account,operation,job_id}
        sbg_failed_job_errors{account,operation,job_id,code}
        sbg_exporter_job_series_hidden{account,kind}
    """,
    Section.EXPORTER: """
        sbg_up{account}
        sbg_auth_ok{account}
        sbg_maintenance{account}
        sbg_account_info{account,username,api_endpoint}
        sbg_exporter_last_poll_timestamp_seconds{account}
        sbg_exporter_last_success_timestamp_seconds{account}
        sbg_exporter_last_full_listing_timestamp_seconds{account}
        sbg_exporter_polls_total{account,result}
        sbg_exporter_poll_duration_seconds{account}
        sbg_exporter_requests_total{account,endpoint,status}
        sbg_exporter_request_duration_seconds{account,endpoint}
        sbg_exporter_rate_limit{account}
        sbg_exporter_rate_limit_remaining{account}
        sbg_exporter_rate_limit_reset_timestamp_seconds{account}
        sbg_exporter_allowance_requests{account}
        sbg_exporter_allowance_used_requests{account}
        sbg_exporter_incremental_polling{account}
        sbg_exporter_poll_interval_seconds{account}
        sbg_exporter_full_listing_interval_seconds{account}
        sbg_exporter_detection_delay_seconds{account}
        sbg_exporter_waiting{account,reason}
        sbg_exporter_clock_skew_seconds{account}
        sbg_exporter_records_skipped_total{account,reason}
        sbg_exporter_counts_lowered_total{account,field}
        sbg_exporter_counting_since_timestamp_seconds{account}
        sbg_exporter_state_write_failures_total{}
        sbg_exporter_state_writable{}
        sbg_exporter_state_jobs{}
        sbg_exporter_state_bytes{}
        sbg_exporter_config_last_reload_successful{}
        sbg_exporter_config_last_reload_success_timestamp_seconds{}
        sbg_exporter_accounts_missing{}
        sbg_exporter_build_info{version,revision,python}
    """,
}


@pytest.mark.parametrize("section", Section)
def test_names_and_labels_are_the_ones_that_were_promised(section: Section) -> None:
    families = [f"{family.name}{{{','.join(family.labels)}}}" for family in ALL if family.section is section]

    assert families == CONTRACT[section].split()


@pytest.mark.parametrize("family", ALL, ids=lambda family: family.name)
def test_names_and_helps_follow_prometheus_rules(family: Family | ProcessFamily) -> None:
    assert re.fullmatch(r"sbg_[a-z]+(_[a-z]+)*", family.name)
    assert family.name.endswith("_total") == (family.type is Type.COUNTER)
    assert family.type is not Type.HISTOGRAM or family.name.endswith("_seconds")
    assert not re.search(r"_(milliseconds|minutes|hours|days|kilobytes|percent|count|sum|bucket|created)$", family.name)
    assert "timestamp" not in family.name or family.name.endswith("_timestamp_seconds")
    assert re.fullmatch(r"[A-Z][^\\\n]*\.", family.help)
    assert '"' not in family.help
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", label) for label in family.labels)


def test_no_two_families_clash_in_openmetrics() -> None:
    class EveryFamily(Collector):
        def collect(self) -> list[Metric]:
            metrics = []
            for family in ALL:
                metric = Metric(family.name.removesuffix("_total"), family.help, family.type)
                labels = dict.fromkeys(family.labels, "x")
                if family.type is Type.HISTOGRAM:
                    metric.add_sample(f"{family.name}_bucket", {**labels, "le": "+Inf"}, 1)
                    metric.add_sample(f"{family.name}_count", labels, 1)
                    metric.add_sample(f"{family.name}_sum", labels, 1)
                else:
                    metric.add_sample(family.name, labels, 1)
                metrics.append(metric)
            return metrics

    registry = CollectorRegistry(auto_describe=False)
    registry.register(EveryFamily())

    page = generate_latest(registry).decode()  # type: ignore[no-untyped-call]  # the client library has no types there
    parsed = list(text_string_to_metric_families(page))  # type: ignore[no-untyped-call]  # likewise

    assert [family.name for family in parsed] == [family.name.removesuffix("_total") for family in ALL]


def test_only_gauges_of_what_is_listed_fade() -> None:
    fading = [family for family in FAMILIES if family.hide_when_stale]

    assert {family.type for family in fading} == {Type.GAUGE}
    assert {family.section for family in fading} == {Section.LISTED, Section.PER_JOB}
    assert not any(family.name.startswith("sbg_failed_job") for family in fading)


def test_every_family_gives_as_many_label_values_as_it_names() -> None:
    counted = LedgerFixture()
    counted.observe_listing(
        running_job(START, done=1),
        finished_job(START, failed=2, serial=1, errors=(("4007", 2),)),
        at=START + 30,
    )
    shown = snapshot(counted.ledger)

    for family in FAMILIES:
        samples = list(family.samples(shown, DISPLAY, START + 60))
        assert samples, family.name
        assert {len(sample.labels) + 1 for sample in samples} == {len(family.labels)}, family.name
        assert len({sample.labels for sample in samples}) == len(samples), family.name
        assert {isinstance(sample.value, HistogramValue) for sample in samples} == {family.type is Type.HISTOGRAM}
    for own in PROCESS_FAMILIES:
        sample = own.samples(ExporterStats(1, 2, 3, START, ReloadStatus(successful=True, succeeded_at=START)))
        assert sample is not None
        assert len(sample.labels) == len(own.labels)


def test_what_polling_counts_is_what_is_shown_of_it() -> None:
    counted = re.findall(r'_count\(\s*"(\w+)"', inspect.getsource(stats))
    shown = [family.name for family in FAMILIES if family.type is Type.COUNTER and family.source is Source.STATUS]

    assert set(counted) == set(shown)


def test_every_result_of_a_poll_is_counted_from_zero() -> None:
    [polls] = [family for family in FAMILIES if family.name == "sbg_exporter_polls_total"]

    samples = list(polls.samples(snapshot(None, status=UNTRIED), DISPLAY, START))

    assert [sample.labels for sample in samples] == [(result,) for result in POLL_RESULTS]


def test_nothing_is_known_of_an_account_whose_ledger_is_not_known() -> None:
    shown = snapshot(None, status=UNTRIED)

    known = {
        family.name
        for family in FAMILIES
        for sample in family.samples(shown, DISPLAY, START)
        if not (isinstance(sample.value, CounterValue) and sample.value.value == 0)
    }

    assert known == {
        "sbg_account_info",
        "sbg_exporter_poll_duration_seconds",
        "sbg_exporter_allowance_requests",
        "sbg_exporter_allowance_used_requests",
        "sbg_exporter_poll_interval_seconds",
        "sbg_exporter_waiting",
    }

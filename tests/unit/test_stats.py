"""What polling counts becomes the account's status, by metric family and label values."""

import io
import json
from collections.abc import Mapping

import pytest

from exporter.api.allowance import Allowance
from exporter.api.client import Endpoint, RequestCompleted, RetryScheduled
from exporter.api.models import Page
from exporter.clock import utc
from exporter.counting.values import CountDecreased, HistoryFound
from exporter.logs import logger
from exporter.metrics.snapshot import PollStatus
from exporter.polling.stats import PollStats
from tests.clocks import ManualClock


@pytest.fixture
def stats(clock: ManualClock) -> PollStats:
    return PollStats(clock, logger("json", "info", io.StringIO()))


def status(stats: PollStats) -> PollStatus:
    return stats.status(Allowance(0.25), interval=30.0, full_interval=30.0, incremental=False, delay=None)


def counted(stats: PollStats, family: str) -> Mapping[tuple[str, ...], int]:
    return status(stats).counters.get(family, {})


def test_requests_are_counted_by_endpoint_and_status(stats: PollStats) -> None:
    for code in ("200", "timeout", "200"):
        stats.on_request_completed(RequestCompleted(Endpoint.LIST, code, seconds=0.3))
    stats.on_request_completed(RequestCompleted(Endpoint.JOB, "404", seconds=0.1))

    assert counted(stats, "sbg_exporter_requests_total") == {
        ("list", "200"): 2,
        ("list", "timeout"): 1,
        ("job", "404"): 1,
    }
    assert stats.requests_made == 4
    durations = status(stats).request_duration
    assert [(sum(durations[each].counts), round(durations[each].sum, 3)) for each in ("list", "job", "user")] == [
        (3, 0.9),
        (1, 0.1),
        (0, 0.0),
    ]


def test_retry_is_no_request_of_its_own(stats: PollStats) -> None:
    stats.on_retry_scheduled(RetryScheduled(Endpoint.LIST, "connection lost", attempt=1, wait=0.5))

    assert stats.requests_made == 0


def test_polls_that_keep_failing_are_logged_once_more_with_the_next_step(clock: ManualClock) -> None:
    log = io.StringIO()
    stats = PollStats(clock, logger("json", "info", log))

    def events(reason: str, *, after: float) -> list[Mapping[str, object]]:
        log.truncate(log.seek(0))
        clock.advance(after)
        stats.polled("error" if reason else "success", reason, clock.time(), 0.1, reason and "mend it")
        return [json.loads(line) for line in log.getvalue().splitlines()]

    def names(reason: str, *, after: float) -> list[object]:
        return [each["event"] for each in events(reason, after=after)]

    assert names("broken", after=1) == ["poll.failed"], "a moment's failure does not last"
    assert names("", after=30) == ["poll.recovered"]
    assert names("broken", after=1000) == ["poll.failed"]
    [changed] = events("broken otherwise", after=899)
    assert (changed["event"], changed["next_step"]) == ("poll.failed", "mend it")
    [lasting] = events("broken otherwise", after=1)
    assert lasting["event"] == "poll.keeps_failing"
    assert (lasting["reason"], lasting["next_step"]) == ("broken otherwise", "mend it")
    assert lasting["since"] == utc(clock.time() - 900)
    assert names("broken otherwise", after=5000) == []
    assert names("", after=1) == ["poll.recovered"]


def test_retries_are_no_news_while_polls_fail_anyway(clock: ManualClock) -> None:
    log = io.StringIO()
    stats = PollStats(clock, logger("json", "info", log))

    def retried() -> int:
        stats.on_retry_scheduled(RetryScheduled(Endpoint.LIST, "connection lost", attempt=1, wait=0.5))
        return log.getvalue().count('"request.retried"')

    assert retried() == 1
    stats.polled("error", "connection lost", now=1.0, seconds=0.5)
    assert retried() == 1
    stats.polled("success", "", now=2.0, seconds=0.5)
    assert retried() == 2


def test_page_names_unreadable_times_beside_skipped_records() -> None:
    assert Page((), 3, {"no_id": 1}, -1, has_next=False, bad_times=2).unreadable == {"no_id": 1, "bad_time": 2}
    assert Page((), 3, {"no_id": 1}, -1, has_next=False).unreadable == {"no_id": 1}


def test_skipped_records_are_counted_by_reason_each_time(stats: PollStats) -> None:
    stats.page_read(None, {"no_id": 2}, {})
    stats.page_read(None, {"no_id": 1, "bad_count": 1}, {"bad_count": "job 1: total_files -5"})

    assert counted(stats, "sbg_exporter_records_skipped_total") == {("no_id",): 3, ("bad_count",): 1}


@pytest.mark.parametrize("failed", [0, 8])
def test_existing_jobs_with_failed_files_are_logged_with_the_command_that_lists_them(
    clock: ManualClock, failed: int
) -> None:
    log = io.StringIO()

    PollStats(clock, logger("json", "info", log)).committed(HistoryFound(43, counted=False, failed=failed))

    line = json.loads(log.getvalue())
    assert (line["event"], line["level"], line["jobs"], line["failed_jobs"]) == ("history.ignored", "info", 43, failed)
    assert ("no alert reports them; `sbg-exporter jobs --failed --since 7d`" in log.getvalue()) == bool(failed)


def test_lowered_counts_are_counted_by_field(stats: PollStats) -> None:
    stats.committed(CountDecreased("7", "failed", 3, 2))

    assert counted(stats, "sbg_exporter_counts_lowered_total") == {("failed",): 1}


def test_status_keeps_its_counters_when_more_is_counted(stats: PollStats) -> None:
    stats.polled("success", "", now=1.0, seconds=0.5)
    before = status(stats)

    stats.polled("success", "", now=2.0, seconds=0.5)

    assert before.counters["sbg_exporter_polls_total"] == {("success",): 1}
    assert counted(stats, "sbg_exporter_polls_total") == {("success",): 2}

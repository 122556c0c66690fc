"""The counting rules, one test per claim."""

from dataclasses import replace

import msgspec
import pytest

from exporter.api.models import Job
from exporter.counting.rules import reset_changed_histograms
from exporter.counting.submission import ID_EPOCH, time_in_id
from exporter.counting.values import (
    DAY,
    FILE_ERRORS,
    FILES,
    FILES_COMPLETED,
    FILES_FAILED,
    JOB_DURATION,
    JOB_QUEUE_DURATION,
    JOBS_FINISHED,
    JOBS_SUBMITTED,
    CountDecreased,
    Exemplar,
    FilesFailed,
    HistogramReset,
    HistogramValue,
    HistoryFound,
    JobFinished,
    JobTotals,
    Rules,
)
from tests.clocks import START
from tests.factories import job
from tests.fault_table import measure
from tests.ledgers import LedgerFixture

SINCE = START
NOW = SINCE + 500
HOUR = 3600.0


def listed_ledger() -> LedgerFixture:
    """A ledger after its first full listing: jobs that are new then are not history."""
    return LedgerFixture(Rules(), now=NOW, complete=True)


def new_ledger(rules: Rules | None = None) -> LedgerFixture:
    """A ledger before its first full listing."""
    return LedgerFixture(rules or Rules(), now=NOW)


def ended(completed: int, failed: int = 0, total: int | None = None, **more: object) -> Job:
    """A finished job with both times."""
    done = job("finished", completed + failed if total is None else total, completed, failed)
    return msgspec.structs.replace(done, **{"started_on": NOW + 1, "finished_on": NOW + 8, **more})


# ---- new ledgers ----


def test_new_ledger_has_every_documented_series_at_0() -> None:
    ledger = listed_ledger()

    assert {key: count.value for key, count in ledger.ledger.counters.items()} == {
        (family, (operation, *rest)): 0
        for operation in ("copy", "move", "delete")
        for family, *rest in (
            (JOBS_SUBMITTED,),
            (FILES,),
            (FILES_COMPLETED,),
            (FILES_FAILED,),
            *((JOBS_FINISHED, outcome) for outcome in ("succeeded", "partial", "failed", "incomplete", "lost")),
        )
    }
    assert len(ledger.ledger.histograms) == 3 * (4 + 1)
    assert {histogram.created for histogram in ledger.ledger.histograms.values()} == {NOW}


def test_undocumented_operation_gets_its_series_with_its_first_job() -> None:
    ledger = listed_ledger()

    ledger.observe(job(operation="import"))

    assert ledger.counted(JOBS_FINISHED, "import", "failed") == 0
    assert ledger.counted(JOBS_SUBMITTED, "import") == 1


# ---- rule 1: records ----


def test_progress_is_counted_incrementally() -> None:
    ledger = listed_ledger()

    ledger.observe(job(total=10, completed=2, failed=1))
    ledger.observe(job(total=12, completed=5, failed=1))

    assert ledger.counted(FILES, "copy") == 12
    assert ledger.counted(FILES_COMPLETED, "copy") == 5
    assert ledger.counted(FILES_FAILED, "copy") == 1


def test_repeated_observation_changes_nothing() -> None:
    ledger = listed_ledger()
    ledger.observe(job(completed=2))

    assert not ledger.observe(job(completed=2), after=30)


@pytest.mark.parametrize(
    ("field", "family"), [("total", FILES), ("completed", FILES_COMPLETED), ("failed", FILES_FAILED)]
)
def test_decreased_count_stays_counted_and_is_reported_once(field: str, family: str) -> None:
    def shown(count: int) -> Job:
        return msgspec.structs.replace(job(), **{field: count})

    ledger = listed_ledger()
    ledger.observe(shown(17))

    ledger.observe(shown(14))
    assert ledger.events == [CountDecreased("42", field, 17, 14)]
    assert not ledger.observe(shown(14))
    ledger.observe(shown(18))

    assert ledger.counted(family, "copy") == 18
    assert ledger.events == []


def test_older_observation_changes_nothing() -> None:
    ledger = listed_ledger()
    ledger.observe(ended(9, 1), complete=True)

    changes = ledger.observe(job("running", 10, 3, 0))

    assert not changes
    assert ledger.events == []
    assert ledger.ledger.listed == {("copy", "finished"): JobTotals(1, 10, 9, 1)}


def test_missing_counts_keep_their_last_values() -> None:
    ledger = listed_ledger()
    ledger.observe(job(total=10, completed=3, failed=1))

    assert not ledger.observe(job(total=None, completed=None, failed=None))


def test_two_observations_in_one_poll_count_as_in_two_polls() -> None:
    running, finished = job(total=10, completed=5, failed=3), job("finished", None, None, None, finished=NOW + 9)
    one, two, reverse = listed_ledger(), listed_ledger(), listed_ledger()

    one.observe(running, finished)
    reverse.observe(finished, running)
    two.observe(running)
    two.observe(finished)

    assert one.counted(FILES_FAILED, "copy") == 3
    assert one.outcomes() == {"partial": 1}
    assert one.ledger.counters == two.ledger.counters == reverse.ledger.counters
    assert one.records == two.records == reverse.records


def test_finish_event_has_everything_the_poll_observed() -> None:
    ledger = listed_ledger()

    ledger.observe(ended(1, 2), ended(1, 2, errors=(("5001", 2),)), asked=["42"])

    assert ledger.events == [JobFinished(ledger.records["42"])]
    assert ledger.records["42"].error_counts == "5001:2"


# ---- rule 2: history ----


def test_job_finished_before_the_ledger_was_created_is_history() -> None:
    ledger = new_ledger()

    ledger.observe(ended(0, 5, finished_on=SINCE - 1), ended(1, id="43", finished_on=SINCE - 1))

    assert ledger.counted(JOBS_SUBMITTED, "copy") == 0
    assert ledger.counted(FILES_FAILED, "copy") == 0
    assert ledger.outcomes() == {}
    assert ledger.records["42"].detected_at is None
    assert ledger.events == [HistoryFound(2, counted=False, failed=1)]
    assert ledger.ledger.listed == {("copy", "finished"): JobTotals(2, 6, 1, 5)}


def test_job_finished_in_the_second_of_creation_is_counted() -> None:
    ledger = new_ledger()

    ledger.observe(ended(5, finished_on=SINCE))

    assert ledger.outcomes() == {"succeeded": 1}


def test_finished_job_without_times_is_history_only_in_the_first_listing() -> None:
    ledger = new_ledger()

    ledger.observe(job("finished", 3, 3, job_id="old"), complete=True)
    ledger.observe(job("finished", 3, 3, job_id="old"), job("finished", 3, 3, job_id="new"))

    assert ledger.outcomes() == {"succeeded": 1}
    assert ledger.records["old"].history
    assert not ledger.records["new"].history


def test_unfinished_job_counts_in_full_when_first_observed() -> None:
    ledger = new_ledger()

    ledger.observe(job(completed=4, failed=2))

    assert ledger.counted(FILES_FAILED, "copy") == 2
    assert ledger.records["42"].detected_at == NOW


@pytest.mark.parametrize("before", [1, None])
def test_changed_history_stays_history(before: int | None) -> None:
    ledger = new_ledger()
    ledger.observe(msgspec.structs.replace(ended(3, 1, finished_on=SINCE - 9), failed=before))

    ledger.observe(ended(3, 2, finished_on=SINCE - 9))

    assert ledger.counted(FILES_FAILED, "copy") == 0
    assert ledger.outcomes() == {}
    assert ledger.records["42"].detected_at is None
    assert ledger.ledger.account.failure_counted_at == {}
    assert ledger.records["42"].failed == 2


def test_shown_history_needs_details_but_errors_are_not_counted() -> None:
    ledger = new_ledger()
    recent = ended(3, 2, finished_on=SINCE - 9)
    old = msgspec.structs.replace(ended(3, 2, finished_on=SINCE - 2 * DAY), id="43")
    ledger.observe(recent, old)
    assert [record.id for record in ledger.records.values() if record.needs_details] == ["42"]

    ledger.observe(msgspec.structs.replace(recent, errors=(("5001", 2),)), asked={"42"}, listed=False)

    assert ledger.records["42"].error_counts == "5001:2"
    assert not ledger.records["42"].needs_details
    assert not any(family == FILE_ERRORS for family, _ in ledger.ledger.counters)


def test_history_count_counts_history_but_detects_no_failure() -> None:
    ledger = new_ledger(Rules(history="count"))

    ledger.observe(ended(3, 2, finished_on=SINCE - 9, started_on=SINCE - 19, errors=(("5001", 2),)))
    assert HistoryFound(1, counted=True, failed=1) in ledger.events
    ledger.observe(ended(3, 3, finished_on=SINCE - 9, started_on=SINCE - 19))

    assert ledger.outcomes() == {"partial": 1}
    assert ledger.counted(FILES_FAILED, "copy") == 3
    assert ledger.counted(FILE_ERRORS, "copy", "5001") == 2
    assert ledger.records["42"].detected_at is None
    assert ledger.ledger.account.failure_counted_at == {}


# ---- rule 4: finishing ----


@pytest.mark.parametrize(
    ("completed", "failed", "total", "outcome"),
    [
        (0, 3, 3, "failed"),
        (0, 1, 3, "failed"),
        (2, 1, 3, "partial"),
        (3, 0, 3, "succeeded"),
        (0, 0, 0, "succeeded"),
        (4, 0, 3, "succeeded"),
        (None, 2, 2, "failed"),
        (None, None, 2, "succeeded"),
        (2, 0, None, "succeeded"),
    ],
)
def test_outcome_follows_from_the_counts(
    completed: int | None, failed: int | None, total: int | None, outcome: str
) -> None:
    ledger = listed_ledger()

    ledger.observe(job("finished", total, completed, failed, started=NOW, finished=NOW + 1))

    assert ledger.outcomes() == {outcome: 1}


def test_outcome_uses_earlier_counts_if_the_last_response_lacks_them() -> None:
    ledger = listed_ledger()
    ledger.observe(job(total=9, completed=4, failed=2))

    ledger.observe(job("finished", None, None, None, started=NOW, finished=NOW + 1))

    assert ledger.outcomes() == {"partial": 1}


def test_job_finishes_once_and_later_changes_count_files_only() -> None:
    ledger = listed_ledger()
    ledger.observe(ended(9, 1, errors=(("5001", 1),)))

    ledger.observe(ended(9, 3, errors=(("5002", 3),)))

    assert ledger.outcomes() == {"partial": 1}
    assert ledger.counted(FILES_FAILED, "copy") == 3
    assert ledger.counted(FILE_ERRORS, "copy", "5001") == 1
    assert (FILE_ERRORS, ("copy", "5002")) not in ledger.ledger.counters
    assert sum(ledger.ledger.histograms[JOB_DURATION, ("copy", "partial")].counts) == 1


def test_undocumented_state_is_final_only_with_finished_on() -> None:
    ledger = listed_ledger()

    ledger.observe(job("archived", 1, 1, job_id="a", started=NOW, finished=NOW + 1), job("paused", 1, 1, job_id="b"))

    assert ledger.outcomes() == {"succeeded": 1}
    assert ledger.records["b"].unfinished


def test_finish_event_is_emitted_once_with_the_record() -> None:
    ledger = listed_ledger()

    ledger.observe(ended(1, 1, errors=(("5001", 1),)))

    assert ledger.events == [JobFinished(ledger.records["42"])]
    assert ledger.records["42"].error_counts == "5001:1"


def test_first_failed_file_of_a_running_job_emits_an_event() -> None:
    ledger = listed_ledger()
    ledger.observe(job(completed=1))

    ledger.observe(job(completed=1, failed=1))
    assert ledger.events == [FilesFailed(ledger.records["42"])]
    ledger.observe(job(completed=1, failed=2))

    assert ledger.events == []


# ---- rule 5: incomplete ----


def test_incomplete_is_final_only_after_settle_after() -> None:
    ledger = listed_ledger()
    ledger.observe(ended(3, total=5))
    assert ledger.outcomes() == {}
    assert ledger.records["42"].unfinished
    assert ledger.ledger.listed == {("copy", "finished"): JobTotals(1, 5, 3, 0)}

    ledger.observe(ended(3, total=5), after=59)
    assert ledger.outcomes() == {}
    ledger.observe(ended(3, total=5), after=1)

    assert ledger.outcomes() == {"incomplete": 1}


def test_changed_counts_restart_settling() -> None:
    ledger = listed_ledger()
    ledger.observe(ended(3, total=5))
    ledger.observe(ended(4, total=5), after=59)

    ledger.observe(ended(4, total=5), after=59)
    assert ledger.outcomes() == {}
    ledger.observe(ended(5, total=5), after=1)

    assert ledger.outcomes() == {"succeeded": 1}


# ---- rule 6: lost ----


@pytest.mark.fault(
    "a job is gone before it finished",
    action="asks twice, 5 minutes apart",
    shown="outcome `lost`",
    recovery="none needed",
)
def test_job_is_lost_when_the_platform_twice_does_not_know_it() -> None:
    ledger = listed_ledger()
    ledger.observe(job(completed=3))

    ledger.observe(unknown=["42"])
    ledger.observe(unknown=["42"], after=299)
    assert ledger.outcomes() == {}
    ledger.observe(unknown=["42"], after=1)

    measure("a", [sum(ledger.outcomes().values()) - 1])
    assert ledger.outcomes() == {"lost": 1}
    assert ledger.events == [JobFinished(ledger.records["42"])]


@pytest.mark.fault(
    "a job is unknown once, and known again",
    action="counts on",
    shown="an unfinished job",
    recovery="the next response",
)
def test_job_observed_in_between_is_not_lost() -> None:
    ledger = listed_ledger()
    ledger.observe(job(completed=3))
    ledger.observe(unknown=["42"])
    ledger.observe(job(completed=3), after=200)

    ledger.observe(unknown=["42"], after=200)

    measure("a", [sum(ledger.outcomes().values())])
    assert ledger.outcomes() == {}


@pytest.mark.fault(
    "a lost job comes back",
    action="counts its files, no second outcome",
    shown="the files",
    recovery="none needed",
)
def test_returning_lost_job_counts_files_but_no_second_outcome() -> None:
    ledger = listed_ledger()
    ledger.observe(job(completed=3))
    ledger.observe(unknown=["42"])
    ledger.observe(unknown=["42"], after=300)

    ledger.observe(ended(7, 3))

    measure("a", [sum(ledger.outcomes().values()) - 1, ledger.counted(FILES_COMPLETED, "copy") - 7])
    assert ledger.outcomes() == {"lost": 1}
    assert ledger.counted(FILES_COMPLETED, "copy") == 7
    assert sum(sum(h.counts) for (f, _), h in ledger.ledger.histograms.items() if f == JOB_DURATION) == 0


def test_undocumented_operation_is_lost_after_45_days_of_listing_time() -> None:
    ledger = listed_ledger()
    ledger.observe(job(operation="import"), complete=True)
    ledger.observe(complete=True)

    for _ in range(45 * 4):
        ledger.observe(complete=True, after=6 * HOUR)
        assert ledger.counted(JOBS_FINISHED, "import", "lost") == 0
    ledger.observe(complete=True, after=6 * HOUR)

    assert ledger.counted(JOBS_FINISHED, "import", "lost") == 1
    assert "42" in ledger.records


def test_missing_job_that_was_finished_is_incomplete_not_lost() -> None:
    ledger = listed_ledger()
    ledger.observe(ended(3, total=5))

    ledger.observe(unknown=["42"])
    ledger.observe(unknown=["42"], after=300)

    assert ledger.outcomes() == {"incomplete": 1}
    assert ledger.ledger.histograms[JOB_DURATION, ("copy", "incomplete")].sum == 7


@pytest.mark.parametrize("ahead", [30 * DAY])
def test_one_server_time_in_the_future_delays_nothing_for_long(ahead: float) -> None:
    ledger = listed_ledger()
    ledger.observe(job(job_id="gone"))
    ledger.observe(ended(3, total=5), unknown=["gone"], after=ahead, complete=True)

    ledger.observe(ended(3, total=5), unknown=["gone"], after=-ahead)
    ledger.observe(ended(3, total=5), unknown=["gone"], after=300)

    assert ledger.outcomes() == {"incomplete": 1, "lost": 1}
    clock = ledger.ledger.account.listing_clock
    ledger.observe(ended(3, total=5), complete=True, after=60)
    ledger.observe(ended(3, total=5), complete=True, after=2 * HOUR)
    assert ledger.ledger.account.listing_clock == clock + 2 * HOUR


# ---- rule 7: expiry ----


def test_finished_record_expires_after_45_days_of_listing_time() -> None:
    ledger = listed_ledger()
    ledger.observe(ended(1), complete=True)
    ledger.observe(complete=True)
    assert ledger.records["42"].unlisted_at is not None

    for _ in range(45 * 4):
        ledger.observe(complete=True, after=6 * HOUR)
    assert "42" in ledger.records
    ledger.observe(complete=True, after=6 * HOUR)

    assert ledger.records == {}
    assert ledger.ledger.tracked_jobs == 0


def test_listing_that_only_expires_records_is_committed() -> None:
    ledger = listed_ledger()
    ledger.observe(ended(1), complete=True)
    ledger.observe(complete=True)
    unlisted = msgspec.structs.replace(ledger.records["42"], unlisted_at=ledger.ledger.account.listing_clock - 46 * DAY)
    ledger.records["42"] = unlisted

    changes = ledger.observe(complete=True, after=10)

    assert list(changes.forgotten) == ["42"]
    assert ledger.ledger.account.listing_clock == 510


def test_downtime_expires_nothing() -> None:
    ledger = listed_ledger()
    ledger.observe(ended(1), complete=True)
    ledger.observe(complete=True)
    clock = ledger.ledger.account.listing_clock

    ledger.observe(complete=True, after=100 * DAY)

    assert ledger.ledger.account.listing_clock == clock + 6 * HOUR


def test_relisted_job_is_listed_again() -> None:
    ledger = listed_ledger()
    ledger.observe(ended(1), complete=True)
    ledger.observe(complete=True)
    assert ledger.ledger.listed == {}

    ledger.observe(ended(1), complete=True, after=HOUR)

    assert ledger.records["42"].unlisted_at is None
    assert ledger.ledger.listed == {("copy", "finished"): JobTotals(1, 1, 1, 0)}
    assert ledger.outcomes() == {"succeeded": 1}


def test_idle_listing_writes_the_listing_clock_once_per_hour() -> None:
    ledger = listed_ledger()
    ledger.observe(ended(1), complete=True)

    assert not ledger.observe(ended(1), complete=True, after=HOUR / 2)
    assert ledger.observe(ended(1), complete=True, after=HOUR / 2).account is not None

    assert ledger.ledger.account.listing_clock == 500 + HOUR


# ---- rule 8: submission ----


def test_time_in_a_real_id_is_the_submission_time() -> None:
    assert time_in_id("70711174378885120") == 1550664230.888  # 2019-02-20T12:03:50.888Z; started_on says 12:03:50
    assert time_in_id("abc") is None
    assert time_in_id("9" * 40) is None


def id_at(time: float) -> str:
    return str((int((time - ID_EPOCH) * 1000) << 20) + 0x11000)


def test_queue_duration_is_from_the_id_time_to_the_start() -> None:
    ledger = listed_ledger()

    ledger.observe(job(job_id=id_at(NOW - 40), started=NOW - 10))

    histogram = ledger.ledger.histograms[JOB_QUEUE_DURATION, ("copy",)]
    assert histogram.sum == pytest.approx(30)
    assert sum(histogram.counts) == 1


def test_id_time_up_to_2_s_after_the_start_is_a_queue_of_0() -> None:
    ledger = listed_ledger()

    ledger.observe(job(job_id=id_at(NOW), started=NOW - 2))

    histogram = ledger.ledger.histograms[JOB_QUEUE_DURATION, ("copy",)]
    assert histogram.sum == 0
    assert histogram.counts[0] == 1


@pytest.mark.parametrize("encoded", [NOW - 46 * DAY, NOW + 400, NOW - 5])
def test_implausible_id_time_gives_way_to_the_first_observation(encoded: float) -> None:
    ledger = listed_ledger()
    ledger.observe(job("submitted", job_id=id_at(encoded)))

    ledger.observe(job(job_id=id_at(encoded), started=NOW + 20 if encoded != NOW - 5 else NOW - 8), after=30)

    histogram = ledger.ledger.histograms[JOB_QUEUE_DURATION, ("copy",)]
    assert sum(histogram.counts) == 1
    assert histogram.sum == (20 if encoded != NOW - 5 else 0)


def test_no_submission_time_means_no_queue_observation() -> None:
    ledger = listed_ledger()
    ledger.observe(job("running", job_id="abc"))

    ledger.observe(job("running", job_id="abc", started=NOW + 3))

    assert sum(ledger.ledger.histograms[JOB_QUEUE_DURATION, ("copy",)].counts) == 0


# ---- rule 9: details ----


def test_finish_without_times_needs_details() -> None:
    ledger = listed_ledger()
    ledger.observe(job("finished", 2, 2))
    assert "42" in ledger.ledger.live
    assert ledger.outcomes() == {"succeeded": 1}

    ledger.observe(ended(2), asked=["42"], listed=False)

    assert "42" not in ledger.ledger.live
    assert ledger.ledger.histograms[JOB_DURATION, ("copy", "succeeded")].sum == 7


def test_failure_without_result_needs_details_and_counts_errors_later() -> None:
    ledger = listed_ledger()
    ledger.observe(ended(1, 2))
    assert ledger.records["42"].needs_details

    ledger.observe(ended(1, 2, errors=(("5002", 1), ("none", 1))), asked=["42"])

    assert ledger.counted(FILE_ERRORS, "copy", "5002") == 1
    assert ledger.counted(FILE_ERRORS, "copy", "none") == 1
    assert ledger.outcomes() == {"partial": 1}


def test_details_are_requested_once() -> None:
    ledger = listed_ledger()
    ledger.observe(ended(1, 2))

    ledger.observe(ended(1, 2), asked=["42"])

    assert not ledger.records["42"].needs_details
    assert "42" not in ledger.ledger.live


@pytest.mark.fault(
    "a finished job is unknown once, and known again",
    action="asks again",
    shown="a job without its errors",
    recovery="the next response",
)
@pytest.mark.parametrize("listed", [False, True])
def test_errors_of_a_job_that_was_unknown_for_a_moment_are_counted(listed: bool) -> None:  # noqa: FBT001  # a case
    ledger = listed_ledger()
    ledger.observe(ended(1, 2))
    ledger.observe(*[ended(1, 2)] * listed, unknown=["42"])
    assert "42" in ledger.ledger.live

    ledger.observe(ended(1, 2, errors=(("5002", 2),)), asked=["42"])

    measure("a", [ledger.counted(FILE_ERRORS, "copy", "5002") - 2])
    assert ledger.counted(FILE_ERRORS, "copy", "5002") == 2
    assert not ledger.records["42"].needs_details


@pytest.mark.fault(
    "a finished job's own endpoint never responds with it",
    action="asks ever less often, for about a day",
    shown="a job without its errors",
    recovery="none",
)
@pytest.mark.parametrize("answer", ["refused", "unknown"])
def test_refused_details_are_requested_fifty_times_at_most(answer: str) -> None:
    def ask_in_vain(ledger: LedgerFixture) -> None:
        ledger.observe(refused=["42"] if answer == "refused" else (), unknown=["42"] if answer == "unknown" else ())

    patient, endless = listed_ledger(), listed_ledger()
    for ledger in (patient, endless):
        ledger.observe(ended(1, 2))
        for _ in range(49):
            ask_in_vain(ledger)
        assert ledger.records["42"].needs_details

    patient.observe(ended(1, 2, errors=(("5002", 2),)), asked=["42"])
    ask_in_vain(endless)

    assert patient.counted(FILE_ERRORS, "copy", "5002") == 2
    assert not patient.records["42"].needs_details
    assert not endless.records["42"].needs_details
    assert "42" not in endless.ledger.live


def test_undocumented_operation_never_needs_details() -> None:
    ledger = listed_ledger()

    ledger.observe(job("finished", 2, 2, operation="import"))

    assert not ledger.records["42"].needs_details


def test_finish_before_start_is_not_a_duration() -> None:
    ledger = listed_ledger()

    ledger.observe(ended(1, started_on=NOW + 9, finished_on=NOW + 3))

    assert sum(ledger.ledger.histograms[JOB_DURATION, ("copy", "succeeded")].counts) == 0
    assert not ledger.records["42"].needs_details


def test_duration_of_0_is_observed() -> None:
    ledger = listed_ledger()

    ledger.observe(ended(1, started_on=NOW, finished_on=NOW))

    assert ledger.ledger.histograms[JOB_DURATION, ("copy", "succeeded")].counts[0] == 1


# ---- rule 10: labels ----


def test_only_the_first_8_undocumented_operations_are_kept() -> None:
    ledger = listed_ledger()

    ledger.observe(*(job(job_id=str(n), operation=f"op_{n}") for n in range(10)))
    ledger.observe(job(job_id="again", operation="op_3"))

    assert ledger.counted(JOBS_SUBMITTED, "op_7") == 1
    assert ledger.counted(JOBS_SUBMITTED, "other") == 2
    assert ledger.counted(JOBS_SUBMITTED, "op_3") == 2
    assert len(ledger.ledger.account.labels["operation"]) == 8


def test_only_the_first_32_error_codes_are_kept() -> None:
    ledger = listed_ledger()
    codes = tuple((str(5000 + n), 1) for n in range(40))

    ledger.observe(ended(0, 40, errors=codes))

    kept = {labels[1] for (family, labels), _ in ledger.ledger.counters.items() if family == FILE_ERRORS}
    assert len(kept) == 33
    assert ledger.counted(FILE_ERRORS, "copy", "other") == 8


def test_error_codes_of_history_are_limited_too() -> None:
    ledger = new_ledger()

    ledger.observe(ended(0, 40, finished_on=SINCE - 1, errors=tuple((str(5000 + n), 1) for n in range(40))))

    assert len(ledger.records["42"].error_counts.split()) == 33
    assert ledger.records["42"].error_counts.endswith("other:8")


# ---- exemplars and histograms ----


def test_exemplars_have_the_job_id_and_the_local_time() -> None:
    ledger = listed_ledger()

    ledger.observe(ended(1, 2, errors=(("5001", 2),)))

    assert ledger.ledger.counters[FILES_FAILED, ("copy",)].exemplar == Exemplar("42", 2, NOW)
    ledger.observe(ended(1, 5, errors=(("5001", 2),)))
    assert ledger.ledger.counters[FILES_FAILED, ("copy",)].exemplar == Exemplar("42", 3, NOW)
    assert ledger.ledger.counters[JOBS_FINISHED, ("copy", "partial")].exemplar == Exemplar("42", 1, NOW)
    assert ledger.ledger.counters[FILES_COMPLETED, ("copy",)].exemplar is None
    histogram = ledger.ledger.histograms[JOB_DURATION, ("copy", "partial")]
    assert histogram.exemplars[2] == Exemplar("42", 7, NOW)


@pytest.mark.parametrize(("length", "shown"), [(64, True), (65, False)])
def test_id_too_long_for_an_exemplar_has_none(length: int, shown: bool) -> None:  # noqa: FBT001  # a table's column
    ledger = listed_ledger()

    ledger.observe(msgspec.structs.replace(ended(0, 1), id="9" * length))

    assert (ledger.ledger.counters[FILES_FAILED, ("copy",)].exemplar is not None) is shown


@pytest.mark.parametrize(("value", "bucket"), [(0, 0), (1, 0), (1.001, 1), (5, 1), (6, 2)])
def test_bound_belongs_to_its_bucket(value: float, bucket: int) -> None:
    assert HistogramValue.empty((1, 5), NOW).observe(value, None).counts[bucket] == 1


def test_changed_bounds_reset_their_histograms_only() -> None:
    ledger = listed_ledger()
    ledger.observe(ended(1))

    changes = reset_changed_histograms(ledger.ledger, replace(ledger.rules, duration_buckets=(1.0, 2.0)), NOW + 9)

    assert {family for family, _ in changes.histograms} == {JOB_DURATION}
    assert changes.histograms[JOB_DURATION, ("copy", "succeeded")] == HistogramValue.empty((1.0, 2.0), NOW + 9)
    assert changes.events == (HistogramReset(JOB_DURATION),)
    assert not changes.counters
    assert not reset_changed_histograms(ledger.ledger, ledger.rules, NOW + 9)


# ---- memory ----


def test_memory_holds_only_unfinished_and_recently_failed_jobs() -> None:
    ledger = listed_ledger()

    ledger.observe(
        job(job_id="running"),
        msgspec.structs.replace(ended(1), id="fine"),
        msgspec.structs.replace(ended(0, 1, errors=(("1", 1),)), id="failed"),
        msgspec.structs.replace(ended(0, 1, errors=(("1", 1),)), id="failed long ago", finished_on=NOW - 2 * DAY),
        job("finished", 1, 1, job_id="needs details"),
    )

    assert set(ledger.ledger.live) == {"running", "needs details"}
    assert set(ledger.ledger.failed) == {"failed"}
    assert ledger.ledger.tracked_jobs == 5


def test_time_of_the_last_failed_file_is_stored_per_operation() -> None:
    ledger = listed_ledger()
    ledger.observe(job(failed=1))

    ledger.observe(job(failed=1, completed=5), after=10)
    ledger.observe(job(failed=2, completed=5), after=10)

    assert ledger.ledger.account.failure_counted_at == {"copy": NOW + 20}
    assert ledger.records["42"].detected_at == NOW
    assert ledger.records["42"].last_progress_at == NOW + 20

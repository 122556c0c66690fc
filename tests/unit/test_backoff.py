"""Retries of single-job requests: growing delays, bounded, per job."""

import pytest

from exporter.counting.values import Retry
from exporter.polling.backoff import JobBackoff, retry_delay


def test_delays_grow_to_half_an_hour() -> None:
    assert [retry_delay(failures) for failures in range(1, 11)] == [
        0, 30, 60, 120, 240, 480, 960, 1800, 1800, 1800,
    ]  # fmt: skip
    assert retry_delay(10_000) == 1800


def test_job_waits_for_its_own_failures_only() -> None:
    backoff = JobBackoff()
    for at in (0.0, 30.0):
        backoff.failed("1", at)
    backoff.failed("2", 30.0)

    assert [backoff.due(job_id, 59.9) for job_id in ("1", "2", "3")] == [False, True, True]
    assert backoff.due("1", 60.0)
    assert [backoff.failures(job_id) for job_id in ("1", "2", "3")] == [2, 1, 0]


def test_answer_ends_the_delays() -> None:
    backoff = JobBackoff()
    for _ in range(5):
        backoff.failed("1", 0.0)

    backoff.answered("1")
    backoff.answered("2")

    assert backoff.due("1", 0.0)
    assert backoff.failures("1") == 0


def test_jobs_that_are_finished_are_forgotten() -> None:
    backoff = JobBackoff()
    backoff.failed("1", 0.0)
    backoff.failed("2", 0.0)

    backoff.keep({"2", "3"})

    assert [backoff.failures(job_id) for job_id in ("1", "2")] == [0, 1]


# ---- from one process to the next ----


def test_what_changed_is_stored_until_that_succeeds() -> None:
    backoff = JobBackoff()
    for _ in range(3):
        backoff.failed("1", 100.0)
    backoff.failed("2", 100.0)
    backoff.answered("2")
    backoff.answered("3")

    for _ in range(2):  # the first commit failed
        assert backoff.unsaved(110.0, 5000.0) == {"1": Retry(3, 5050.0), "2": None}
    backoff.saved()

    assert backoff.unsaved(110.0, 5000.0) == {}


def test_next_process_goes_on_from_what_is_stored() -> None:
    backoff = JobBackoff()

    backoff.resume({"1": Retry(3, 5050.0), "2": Retry(4, 4000.0)}, 5010.0, now=7.0, relevant=("1", "2"))

    assert [backoff.failures(job_id) for job_id in ("1", "2", "3")] == [3, 4, 0]
    assert [backoff.due("1", at) for at in (46.9, 47.0)] == [False, True]
    assert backoff.due("2", 7.0)
    assert backoff.unsaved(7.0, 5010.0) == {}


@pytest.mark.parametrize(("failures", "longest"), [(1, 0), (2, 30), (9, 1800), (10**9, 1800), (-3, 0)])
def test_stored_time_is_never_further_away_than_its_delay(failures: int, longest: float) -> None:
    """A clock was put right meanwhile, or the file was edited."""
    backoff = JobBackoff()

    backoff.resume({"1": Retry(failures, 1e12)}, 5000.0, now=0.0, relevant=("1",))

    assert backoff.due("1", longest)
    assert longest == 0 or not backoff.due("1", longest - 0.1)


def test_failures_of_this_process_count_more_than_stored_ones() -> None:
    backoff = JobBackoff()
    backoff.failed("1", 0.0)

    backoff.resume({"1": Retry(9, 6000.0)}, 5000.0, now=0.0, relevant=("1", "2"))
    # a ledger that is loaded again
    backoff.resume({"2": Retry(9, 6000.0)}, 5000.0, now=0.0, relevant=("1", "2"))

    assert [backoff.failures(job_id) for job_id in ("1", "2")] == [1, 0]


def test_stored_jobs_that_are_finished_are_deleted() -> None:
    backoff = JobBackoff()
    backoff.resume({"1": Retry(3, 5050.0)}, 5000.0, now=0.0, relevant=("1",))

    backoff.keep(())

    assert backoff.unsaved(0.0, 5000.0) == {"1": None}


def test_stored_jobs_that_finished_before_this_process_asked_are_deleted_at_once() -> None:
    backoff = JobBackoff()

    backoff.resume({"1": Retry(3, 5050.0), "2": Retry(4, 5050.0)}, 5000.0, now=0.0, relevant=("2",))

    assert [backoff.failures(job_id) for job_id in ("1", "2")] == [0, 4]
    assert backoff.unsaved(0.0, 5000.0) == {"1": None}

"""Retries of single-job requests: growing delays, bounded, per job."""

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

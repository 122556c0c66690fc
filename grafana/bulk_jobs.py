"""The *Bulk jobs* dashboard: failures, progress and durations of all accounts."""

from grafana import jobs
from grafana.layout import Cell, Page, Row, accounts, cells, operations


def page() -> Page:
    """Build the dashboard."""
    now = jobs.summary(jobs.FAILED, jobs.STUCK, jobs.DOWN, jobs.UNFINISHED, jobs.OLDEST, jobs.SINCE_FAILURE)
    return Page(
        "sbg-bulk-jobs",
        "Bulk jobs",
        "Bulk copy, move and delete jobs on the Seven Bridges platforms: failures, progress and durations.",
        (accounts(several=True), operations()),
        (
            Row("", (Cell(now, 24, 4),)),
            Row("Failures", (Cell(jobs.failed_jobs(), 24, 8), *cells(12, 8, jobs.finished_jobs(), jobs.files()))),
            Row("Progress", (Cell(jobs.unfinished_jobs(), 17, 9), Cell(jobs.by_state(), 7, 9))),
            Row("Duration", cells(12, 8, jobs.run_times(), jobs.queue_times())),
        ),
    )

"""*Copy jobs*: is anything wrong, since when, which job, why."""

from grafana import jobs
from grafana.pages import Page, Row, accounts, operations, tiles


def page() -> Page:
    """All accounts together."""
    alarms = tiles(
        jobs.failed(), jobs.last_failure(), jobs.accounts_down(), jobs.unfinished(), jobs.oldest(), jobs.stuck()
    )
    return Page(
        "sbg-copy-jobs",
        "Copy jobs",
        "Bulk copy, move and delete jobs on the Seven Bridges platforms: what runs, how fast, what failed and why.",
        (accounts(several=True), operations()),
        (Row("", alarms), jobs.failures(), jobs.running(), jobs.pace()),
    )

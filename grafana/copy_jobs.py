"""*Copy jobs*: is anything wrong, since when, which job, why."""

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.dashboard import DashboardLinkType

from grafana import jobs
from grafana.pages import Page, Row, accounts, operations, tiles


def page() -> Page:
    """All accounts together."""
    down = jobs.accounts_down().data_links([_which_accounts()])
    alarms = tiles(jobs.failed(), jobs.last_failure(), down, jobs.unfinished(), jobs.oldest(), jobs.stuck())
    return Page(
        "sbg-copy-jobs",
        "Copy jobs",
        "Bulk copy, move and delete jobs on the Seven Bridges platforms: what runs, how fast, what failed and why.",
        (accounts(several=True), operations()),
        (Row("", alarms), jobs.failures(), jobs.running(), jobs.pace()),
    )


def _which_accounts() -> dashboard.DashboardLink:
    """Where a click on the number of accounts that are down leads."""
    return (
        dashboard.DashboardLink("Which, since when, and why")
        .type(DashboardLinkType.LINK)
        .url("/d/sbg-exporter-health?var-datasource=${datasource}&${__url_time_range}")
    )

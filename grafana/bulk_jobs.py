"""The *Bulk jobs* dashboard: failures, progress and durations of all accounts."""

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.dashboard import DashboardLinkType

from grafana import jobs
from grafana.layout import Page, Row, accounts, operations, tiles


def page() -> Page:
    """Build the dashboard."""
    down = jobs.accounts_down().data_links([_which_accounts()])
    alarms = tiles(jobs.failed(), jobs.last_failure(), down, jobs.unfinished(), jobs.oldest(), jobs.stuck())
    return Page(
        "sbg-bulk-jobs",
        "Bulk jobs",
        "Bulk copy, move and delete jobs on the Seven Bridges platforms: failures, progress and durations.",
        (accounts(several=True), operations()),
        (Row("", alarms), jobs.failures(), jobs.running(), jobs.pace()),
    )


def _which_accounts() -> dashboard.DashboardLink:
    """Link from the number of accounts that are down to their states."""
    return (
        dashboard.DashboardLink("Account states")
        .type(DashboardLinkType.LINK)
        .url("/d/sbg-exporter-health?var-datasource=${datasource}&${__url_time_range}")
    )

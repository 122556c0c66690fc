"""The *One account* dashboard: identity, polling and jobs of one account, or one of its jobs."""

from typing import Final

from grafana_foundation_sdk.builders import bargauge
from grafana_foundation_sdk.builders import table as table_panel
from grafana_foundation_sdk.builders import timeseries as timeseries_panel

from grafana import jobs, theme
from grafana.health import DELAY, STATES_IN_TABLES
from grafana.layout import Cell, Page, Row, accounts, cells, job, operations
from grafana.panels import Column, PanelInfo, bar_gauge, table, timeseries
from grafana.queries import ACCOUNT, ACCOUNT_STATE, CHOSEN_JOB, Query, each, named, now, or_zero
from grafana.queries import job as job_series

_LABELS: Final = "account, username, api_endpoint"
_STATE: Final = f"max by ({_LABELS}) (sbg_account_info{{{ACCOUNT}}}) * on (account) group_left () ({ACCOUNT_STATE})"


def _account() -> table_panel.Panel:
    return table(
        PanelInfo(
            "Account",
            "Owner of the token (empty if show_username is false), and whether the last poll succeeded. All current "
            "values on this page are from the last successful poll. Jobs that finished before the ledger was created "
            "are not counted.",
            unit="string",
            alerts=("SbgAccountUnreachable", "SbgTokenRefused", "SbgMaintenance", "SbgNotPolling"),
            empty="No account of this name",
        ),
        (
            Column("Account", "account", width=170),
            Column("Owner", "username", width=170),
            Column("Platform", "api_endpoint"),
            Column("State", "state", now(_STATE), "none", 150, value_mappings=STATES_IN_TABLES, look="words"),
            Column(
                "Last successful poll",
                "success",
                now(f"{each('sbg_exporter_last_success_timestamp_seconds')} * 1000 or 0 * {each('sbg_up')}"),
                "dateTimeAsSystem",
                165,
                value_mappings={"0": ("never", "")},
            ),
            Column(
                "Counting since",
                "since",
                now(f"{each('sbg_exporter_counting_since_timestamp_seconds')} * 1000"),
                "dateTimeAsSystem",
                165,
            ),
        ),
        sort="Account",
        paged=False,
    )


def _progress() -> timeseries_panel.Panel:
    sums = {count: f"sum({job_series(f'sbg_unfinished_job_files_{count}', CHOSEN_JOB)})" for count in theme.FILES}
    # No line at zero for failed files, which would be red on a day without any. NaN is a gap, not a line over it.
    known, failed = each("sbg_up"), sums.pop("failed")
    counts = {count: or_zero(files, known) for count, files in sums.items()}
    counts["failed"] = f"({failed} > 0 or NaN * count({known}))"
    return timeseries(
        PanelInfo(
            "Files in progress",
            "Files of the unfinished jobs, or of the chosen job while it is unfinished: how many there are, how many "
            "are completed, and how many failed.",
        ),
        Query(named("count", counts), "{{count}}"),
        colors=theme.FILES,
    )


def _errors() -> bargauge.Panel:
    by_code = f"sum by (code) ({each('sbg_failed_job_errors', 'operation', 'job_id', 'code', where=CHOSEN_JOB)})"
    return bar_gauge(
        PanelInfo(
            "Errors by code",
            "Error records of the failed jobs, or of the chosen job, by platform error code (three most frequent per "
            "job). There may be fewer records than failed files.",
            empty="No errors to show",
        ),
        now(f"sort_desc({by_code})", "{{code}}"),
        steps=((None, theme.FAILURE),),
        value_mappings=jobs.CODES_IN_WORDS,
    )


def page() -> Page:
    """Build the dashboard."""
    numbers = jobs.summary(jobs.FAILED, jobs.STUCK, jobs.UNFINISHED, jobs.OLDEST, jobs.SINCE_FAILURE, DELAY)
    return Page(
        "sbg-one-account",
        "One account",
        "One account on a Seven Bridges platform: its identity, its polling and its bulk jobs, or one of them.",
        (accounts(several=False), operations(), job()),
        (
            Row("", (Cell(_account(), 24, 4), Cell(numbers, 24, 4))),
            Row("Jobs", (Cell(jobs.failed_jobs(CHOSEN_JOB), 24, 7), Cell(jobs.unfinished_jobs(CHOSEN_JOB), 24, 7))),
            Row(
                "Over time", (*cells(12, 8, _progress(), _errors()), *cells(12, 8, jobs.finished_jobs(), jobs.files()))
            ),
        ),
    )

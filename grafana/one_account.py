"""The *One account* dashboard: identity, polling and jobs of one account."""

from typing import Final

from grafana_foundation_sdk.builders import bargauge
from grafana_foundation_sdk.builders import stat as stat_panel
from grafana_foundation_sdk.builders import timeseries as timeseries_panel

from grafana import jobs, theme
from grafana.health import ACCOUNT_STATES, account_states, allowance_use, polled_in_time
from grafana.layout import Cell, Page, Row, accounts, cells, operations, tiles
from grafana.panels import PanelInfo, bar_gauge, label_stat, stat, timeseries
from grafana.queries import ACCOUNT, ACCOUNT_STATE, OPERATION, Query, each, increase, now, rate

_INFO: Final = f"max by (username, api_endpoint) (sbg_account_info{{{ACCOUNT}}})"
_FAILED: Final = rate("sbg_files_failed_total", "operation")
_COMPLETED: Final = rate("sbg_files_completed_total", "operation")


def _owner() -> stat_panel.Panel:
    info = PanelInfo("Owner", "User name of the token's owner; empty if show_username is false.", "string")
    return label_stat(info, now(_INFO, "{{username}}"))


def _platform() -> stat_panel.Panel:
    return label_stat(PanelInfo("Platform", "API endpoint of the account.", "string"), now(_INFO, "{{api_endpoint}}"))


def _state() -> stat_panel.Panel:
    info = PanelInfo(
        "State",
        "Whether the last poll succeeded, or the reason why it failed.",
        "none",
        ("SbgAccountUnreachable", "SbgTokenRefused", "SbgMaintenance"),
    )
    calm = {value: (text, "" if color == theme.GOOD else color) for value, (text, color) in ACCOUNT_STATES.items()}
    return stat(info, now(ACCOUNT_STATE), value_mappings=calm)


def _last_good_poll() -> stat_panel.Panel:
    info = PanelInfo(
        "Last successful poll",
        "When a poll last succeeded. All current values on this page are from that time.",
        "dateTimeFromNow",
        ("SbgNotPolling",),
    )
    return stat(info, now(f"{each('sbg_exporter_last_success_timestamp_seconds')} * 1000"))


def _polling_mode() -> stat_panel.Panel:
    info = PanelInfo(
        "Polling mode",
        "full listing: every poll lists all jobs. incremental: polls check new and unfinished jobs, and a full listing "
        "runs in the background.",
        "none",
    )
    modes = {"0": ("full listing", ""), "1": ("incremental", "")}
    return stat(info, now(each("sbg_exporter_incremental_polling")), value_mappings=modes)


def _counting_since() -> stat_panel.Panel:
    info = PanelInfo(
        "Counting since",
        "When this account's ledger was created. Jobs that finished earlier are not counted.",
        "dateTimeAsSystem",
    )
    return stat(info, now(f"{each('sbg_exporter_counting_since_timestamp_seconds')} * 1000"))


def _came_and_went() -> timeseries_panel.Panel:
    finished = increase("sbg_jobs_finished_total", "account", labels=("operation", "outcome"))
    return timeseries(
        PanelInfo(
            "Jobs submitted and finished",
            "Jobs first seen and jobs finished, per step. If more are submitted than finish, the queue grows.",
            alerts=("SbgQueueNotMoving",),
        ),
        Query(increase("sbg_jobs_submitted_total", "account"), "submitted", step="5m"),
        Query(finished, "finished", step="5m"),
        colors={"submitted": "light-purple", "finished": theme.GOOD},
    )


def _failing_share() -> timeseries_panel.Panel:
    return timeseries(
        PanelInfo(
            "Failure ratio",
            "Failed files as a share of failed and completed files, by operation. Empty while no file ends.",
            "percentunit",
            ("SbgFailureRatioHigh",),
        ),
        Query(f"{_FAILED} / ({_FAILED} + {_COMPLETED})", "{{operation}}", step="5m"),
        colors=theme.OPERATIONS,
        most=1,
    )


def _retained() -> bargauge.Panel:
    return bar_gauge(
        PanelInfo(
            "Jobs on the platform", "Jobs in the platform's list, by state. It keeps finished jobs for up to a month."
        ),
        now(f"sum by (state) ({each('sbg_jobs', 'operation', 'state', where=OPERATION)})", "{{state}}"),
        steps=((None, theme.GOOD),),
    )


def page() -> Page:
    """Build the dashboard."""
    who = (*tiles(_owner()), Cell(_platform(), 8, 3), *tiles(_state(), _last_good_poll(), _polling_mode()))
    alarms = tiles(
        jobs.failed(), jobs.last_failure(), jobs.unfinished(), jobs.oldest(), jobs.stuck(), _counting_since()
    )
    return Page(
        "sbg-one-account",
        "One account",
        "One account on a Seven Bridges platform: its identity, its polling and its bulk jobs.",
        (accounts(several=False), operations()),
        (
            Row("", (*who, *alarms)),
            jobs.failures(),
            jobs.running(),
            jobs.pace(),
            Row("Jobs and failure ratio", cells(8, 7, _came_and_went(), _failing_share(), _retained())),
            Row("Polling", cells(8, 6, account_states(), polled_in_time(), allowance_use())),
        ),
    )

"""The *Exporter health* dashboard: whether the data of the other dashboards is complete and fresh."""

from typing import Final

from grafana_foundation_sdk.builders import stat as stat_panel
from grafana_foundation_sdk.builders import statetimeline
from grafana_foundation_sdk.builders import table as table_panel
from grafana_foundation_sdk.builders import timeseries as timeseries_panel

from grafana import jobs, theme
from grafana.layout import Cell, Page, Row, accounts, cells
from grafana.panels import (
    ATTENTION,
    RUNBOOKS,
    Column,
    PanelInfo,
    Steps,
    Tile,
    events,
    label_stat,
    states,
    table,
    tiles,
    timeseries,
)
from grafana.queries import (
    ACCOUNT,
    ACCOUNT_STATE,
    STATES_OVER_TIME,
    WAITING,
    Query,
    each,
    increase,
    named,
    now,
    quantile,
    since,
)

_DOWN: Final = ("down", theme.FAILURE)
_UP: Final = ("up", theme.GOOD)
_REFUSED: Final = ("token refused", theme.WARNING_TEXT)
_MAINTENANCE: Final = ("maintenance", theme.QUIET)
ACCOUNT_STATES: Final = {
    "0": _DOWN,
    "1": _UP,
    "2": _REFUSED,
    "3": _REFUSED,
    **dict.fromkeys(("4", "5", "6", "7"), _MAINTENANCE),
}
"""Text and colour for each value of the account state query."""
STATES_IN_TABLES: Final = ACCOUNT_STATES | {"1": ("up", "")}
"""The same where blue words are links."""

WAIT_REASONS: Final = {
    "0": ("not waiting", ""),
    "1": ("allowance used up", theme.YELLOW),
    "2": ("limit used by others", theme.GONE),
    "3": ("pause asked for", theme.YELLOW),
    "4": ("maintenance", theme.QUIET),
    "5": ("no usable token", theme.WARNING_TEXT),
}
"""Text and colour for each value of the query for waiting accounts."""

_WAITING_THOUGH_UP: Final = {f"{reason}1": WAIT_REASONS[reason] for reason in ("1", "2", "3")}
_WAITING_BESIDES: Final = {
    f"{tens}{value}": text for tens in ("1", "2", "3") for value, text in ACCOUNT_STATES.items() if value != "1"
}
_STATES_OVER_TIME: Final = ACCOUNT_STATES | _WAITING_THOUGH_UP | _WAITING_BESIDES

_STEP: Final = "5m"
_LATE: Final = 900
"""Threshold of the alert SbgDetectionDelayed, in seconds."""
_SKEWED: Final = 60
"""Threshold of the alert SbgClockSkew, in seconds."""
_OF_EXPORTERS: Final = "and on (job, instance) sbg_exporter_build_info"
_DELAY: Final = each("sbg_exporter_detection_delay_seconds")
DELAY: Final = Tile(
    "Detection delay", f"max({_DELAY})", "s", ((None, theme.NONE), (_LATE, theme.WARNING_TEXT)), decimals=1
)
_SKEW: Final = f"round(abs({each('sbg_exporter_clock_skew_seconds')}), 0.1)"
"""To a tenth: the platform tells its time in whole seconds."""
_USED: Final = f"{each('sbg_exporter_allowance_used_requests')} / {each('sbg_exporter_allowance_requests')}"
_LEFT: Final = f"{each('sbg_exporter_rate_limit_remaining')} / {each('sbg_exporter_rate_limit')}"
_UNWRITTEN: Final = "ceil(max(increase(sbg_exporter_state_write_failures_total[1h])))"
_VALID: Final = "min(sbg_exporter_config_last_reload_successful)"
_MISSING: Final = "max(sbg_exporter_accounts_missing)"
_WAIT: Final = f"count(({WAITING}) > 0)"
_NONE: Final = {"0": ("none", "")}


# ---- now ----


def _summary() -> stat_panel.Panel:
    info = PanelInfo(
        "Now",
        "Accounts down: their last poll failed. Waiting: the exporter makes no request for them for now. Detection "
        "delay: longest time since an unfinished job, or the head of the list, was last checked. Clock skew: largest "
        "difference between the clocks of the exporter and the platform. State file: failed commits in the last hour. "
        "Configuration: whether it was valid when it was last read, at the start or at a reload.",
        alerts=(
            "SbgAccountUnreachable",
            "SbgDetectionDelayed",
            "SbgClockSkew",
            "SbgStateNotWritable",
            "SbgConfigReloadFailed",
        ),
        empty="No data: Prometheus does not scrape sbg-exporter, or there is no account",
    )
    rejected = {"0": ("rejected", theme.WARNING_TEXT), "1": ("OK", "")}
    return tiles(
        info,
        jobs.DOWN,
        Tile("Waiting accounts", f"{_WAIT} or 0 * count({each('sbg_up')})", value_mappings=_NONE),
        DELAY,
        Tile("Clock skew", f"max({_SKEW})", "s", ((None, theme.NONE), (_SKEWED, theme.WARNING_TEXT))),
        Tile("State file", _UNWRITTEN, steps=ATTENTION, value_mappings={"0": ("OK", "")}),
        Tile("Configuration", _VALID, "none", value_mappings=rejected),
    )


def _version() -> stat_panel.Panel:
    info = PanelInfo("Version", "The exporter's version.", "string", ("SbgExporterDown",))
    return label_stat(info, now("max by (version) (sbg_exporter_build_info)", "{{version}}"))


# ---- what needs attention ----


def _problem(words: str, unit: str, alert: str, expression: str) -> str:
    expression = f'label_replace({expression}, "account", "all", "account", "")'  # where it has none
    labels = {"problem": words, "unit": unit, "runbook": alert.lower()}
    for label, text in labels.items():
        expression = f'label_replace({expression}, "{label}", "{text}", "", "")'
    return expression


def _problems() -> tuple[dict[str, str], str]:
    """Return the alerts by how their runbook's link names them, and a query for all that needs attention."""
    successful = f"({since(each('sbg_exporter_last_success_timestamp_seconds'))} / 60 or 0 * {each('sbg_up')})"
    token, platform = f"{each('sbg_auth_ok')} == 0", f"{each('sbg_maintenance')} == 1"
    refused, maintained = f"{successful} and on (account) ({token})", f"{successful} and on (account) ({platform})"
    neither = f"{each('sbg_up')} == 0 unless on (account) ({token}) unless on (account) ({platform})"
    unreachable = f"{successful} and on (account) ({neither})"
    listed = f"{since(each('sbg_exporter_last_full_listing_timestamp_seconds'))} / 60"
    overdue = (
        f"({listed} > {each('sbg_exporter_full_listing_interval_seconds')} / 30) "
        f"and on (account) ({each('sbg_exporter_incremental_polling')} == 1)"
    )
    skipped = _recent("sbg_exporter_records_skipped_total", "reason")
    lowered = _recent("sbg_exporter_counts_lowered_total", "field")
    hidden = f"sum by (account) ({each('sbg_exporter_job_series_hidden', 'kind')})"
    no_success = "minutes since the last success"
    found = (
        ("Unreachable", no_success, "SbgAccountUnreachable", unreachable),
        ("Token refused", no_success, "SbgTokenRefused", refused),
        ("Maintenance", no_success, "SbgMaintenance", maintained),
        ("Detection delay", "minutes", "SbgDetectionDelayed", f"{_DELAY} / 60 > {_LATE / 60:g}"),
        ("Full listing overdue", "minutes since the last one", "SbgListingOverdue", overdue),
        ("Clock skew", "seconds", "SbgClockSkew", f"{_SKEW} > {_SKEWED}"),
        ("Allowance used", "%", "SbgAllowanceNearlyUsed", f"100 * ({_USED} > 0.9)"),
        ("Rate limit left by others", "%", "SbgAllowanceNearlyUsed", f"100 * ({_LEFT} < 0.1)"),
        ("Records skipped", "records in 8 hours", "SbgRecordsSkipped", skipped),
        ("Counts lowered by the platform", "times in 8 hours", "", lowered),
        ("Jobs without rows of their own (job_series)", "jobs", "SbgFilesFailed", f"{hidden} > 0"),
        ("Failed commits to the state file", "times in an hour", "SbgStateNotWritable", f"{_UNWRITTEN} > 0"),
        ("Accounts no longer configured since the start", "accounts", "SbgAccountsMissing", f"{_MISSING} > 0"),
        ("No data of sbg-exporter", " ", "SbgExporterDown", "NaN * absent(max(sbg_exporter_build_info))"),
        ("Configuration rejected; the one before is in use", " ", "SbgConfigReloadFailed", f"NaN * ({_VALID} == 0)"),
    )
    alerts = {alert.lower(): alert for _, _, alert, _ in found}
    return alerts, " or ".join(_problem(*each_found) for each_found in found)


def _recent(counter: str, label: str) -> str:
    rise = increase(counter, "account", labels=(label,), where=ACCOUNT, within="[8h]")
    return f"ceil({rise}) > 0"


def _attention() -> table_panel.Panel:
    alerts, query = _problems()
    return table(
        PanelInfo(
            "Needs attention",
            "All that makes the data late or incomplete, and what to read about it. Empty when all is well.",
            alerts=tuple(alert for alert in alerts.values() if alert),
            unit="string",
            empty="Nothing needs attention",
        ),
        (
            Column("Account", "account", width=170),
            Column("Problem", "problem"),
            Column("Amount", "amount", now(query), "locale", 110, value_mappings={"NaN": ("-", "")}, decimals=0),
            Column("Unit", "unit", width=220),
            Column(
                "Runbook",
                "runbook",
                width=210,
                value_mappings={name: (alert, "") for name, alert in alerts.items() if alert},
                link=("Open the runbook", f"{RUNBOOKS}#${{__value.raw}}"),
            ),
        ),
        sort="Account",
        descending=False,
    )


# ---- accounts ----


def _accounts() -> table_panel.Panel:
    incremental = f"8 * {each('sbg_exporter_incremental_polling')}"
    listed = {str(8 + int(value)): (f"{text}, incremental", color) for value, (text, color) in STATES_IN_TABLES.items()}
    return table(
        PanelInfo(
            "Accounts",
            "Each account: its state (incremental: too large to be listed in full at every poll), whether the exporter "
            "waits and why, the detection delay, the share of its allowance that the exporter used in the platform's "
            "window, the share of the rate limit that the user has left, and clock skew.",
            alerts=("SbgTokenRefused", "SbgMaintenance", "SbgAllowanceNearlyUsed"),
            unit="string",
            empty="No accounts",
        ),
        (
            Column("Account", "account", width=170, link=jobs.ACCOUNT_LINK),
            Column(
                "State",
                "state",
                now(f"{ACCOUNT_STATE} + ({incremental} or 0 * {each('sbg_up')})"),
                "none",
                140,
                value_mappings=STATES_IN_TABLES | listed,
                look="words",
            ),
            Column("Waiting", "waiting", now(WAITING), "none", 160, value_mappings=WAIT_REASONS, look="words"),
            Column("Detection delay", "delay", now(_DELAY), "s", 130, steps=_text_above(_LATE), decimals=1),
            Column("Allowance used", "allowance", now(_USED), "percentunit", look="bar"),
            Column("Rate limit left", "left", now(_LEFT), "percentunit", look="bar"),
            Column("Clock skew", "skew", now(_SKEW), "s", 110, steps=_text_above(_SKEWED)),
        ),
        sort="Detection delay",
    )


def _text_above(limit: float) -> Steps:
    return ((None, theme.PLAIN), (limit, theme.WARNING_TEXT))


def _states() -> statetimeline.Panel:
    info = PanelInfo(
        "Account states",
        "Whether polls of each account succeeded, or why they failed, or why the exporter waited. Up to ten accounts: "
        "those that were down longest.",
        "none",
        ("SbgAccountUnreachable", "SbgTokenRefused", "SbgMaintenance"),
    )
    return states(info, Query(STATES_OVER_TIME, "{{account}}", step="1m"), _STATES_OVER_TIME)


def _delay() -> timeseries_panel.Panel:
    return timeseries(
        PanelInfo(
            "Longest detection delay",
            "Longest time since an unfinished job, or the head of the list, was last checked, over all accounts. It "
            "should not exceed the poll interval by much. The line is the threshold of the alert.",
            "suffix:min",
            ("SbgDetectionDelayed",),
        ),
        Query(f"max({_DELAY}) / 60", "longest delay"),
        limit=_LATE / 60,
    ).axis_soft_max(20)


def _polls() -> timeseries_panel.Panel:
    return events(
        PanelInfo(
            "Polls",
            "Polls per step, by result, on a logarithmic axis: all but success are bars.",
            alerts=("SbgNotPolling",),
        ),
        Query(
            increase("sbg_exporter_polls_total", "result", labels=("result",), where=ACCOUNT), "{{result}}", step=_STEP
        ),
        colors=theme.POLL_RESULTS,
        normal=("success",),
    )


# ---- API usage ----


def _requests() -> timeseries_panel.Panel:
    by_status = increase("sbg_exporter_requests_total", "status", labels=("endpoint", "status"), where=ACCOUNT)
    return events(
        PanelInfo(
            "API requests",
            "API requests per step, by HTTP status or kind of error, on a logarithmic axis: all but 2xx are bars.",
        ),
        Query(by_status, "{{status}}", step=_STEP),
        colors=theme.REQUESTS,
        normal=("2..",),
    )


def _durations() -> timeseries_panel.Panel:
    request = quantile(0.9, "sbg_exporter_request_duration_seconds", "endpoint", labels=("endpoint",), where=ACCOUNT)
    poll = quantile(0.9, "sbg_exporter_poll_duration_seconds", labels=(), where=ACCOUNT)
    return timeseries(
        PanelInfo(
            "Request and poll duration",
            "Nine of ten polls, and API requests by endpoint, took at most this long (p90).",
            "s",
        ),
        Query(f"{request} or {named('endpoint', {'poll': poll})}", "{{endpoint}}", step=_STEP),
        colors=theme.ENDPOINTS,
    )


# ---- the process ----


def _one_line(info: PanelInfo, expression: str, legend: str) -> timeseries_panel.Panel:
    return timeseries(info, Query(expression, legend))


def _process() -> tuple[timeseries_panel.Panel, ...]:
    greatest = "the maximum if there are several exporters"
    return (
        _one_line(
            PanelInfo("Job records", "Jobs tracked in the state file. Their records expire after 45 days."),
            "max(sbg_exporter_state_jobs)",
            "jobs",
        ),
        _one_line(
            PanelInfo("State file size", "Size on disk, including the write-ahead log.", "bytes"),
            "max(sbg_exporter_state_bytes)",
            "state file",
        ),
        _one_line(
            PanelInfo("Memory", f"Resident memory; {greatest}.", "bytes"),
            f"max(process_resident_memory_bytes {_OF_EXPORTERS})",
            "resident",
        ),
        _one_line(
            PanelInfo("CPU", f"Share of one CPU; {greatest}.", "percentunit"),
            f"max(rate(process_cpu_seconds_total[$__rate_interval]) {_OF_EXPORTERS})",
            "CPU",
        ).axis_soft_max(0.02),  # idle is a line near zero, not a zigzag of hundredths of a percent
    )


def page() -> Page:
    """Build the dashboard."""
    return Page(
        "sbg-exporter-health",
        "Exporter health",
        "Whether sbg-exporter polls every account in time, and how much of the API rate limit it uses.",
        (accounts(several=True),),
        (
            Row("", (Cell(_summary(), 20, 4), Cell(_version(), 4, 4), Cell(_attention(), 24, 6))),
            Row("Polling", (Cell(_accounts(), 24, 10), *cells(12, 8, _states(), _delay()))),
            Row("Polls and API requests", cells(8, 8, _polls(), _requests(), _durations())),
            Row("Process and state file", cells(6, 6, *_process())),
        ),
    )

"""The *Exporter health* dashboard: whether the data of the other dashboards is complete and fresh."""

from collections.abc import Mapping
from typing import Final

from grafana_foundation_sdk.builders import bargauge, heatmap, statetimeline
from grafana_foundation_sdk.builders import stat as stat_panel
from grafana_foundation_sdk.builders import timeseries as timeseries_panel

from grafana import jobs, theme
from grafana.layout import Cell, Page, Row, accounts, cells, tiles
from grafana.panels import PanelInfo, bar_gauge, durations, label_stat, stat, states, timeseries
from grafana.queries import ACCOUNT, ACCOUNT_STATE, WAITING, Query, each, increase, now, quantile, rate, since

_REFUSED: Final = ("token refused", theme.WARNING_TEXT)
_MAINTENANCE: Final = ("maintenance", theme.QUIET)
ACCOUNT_STATES: Final = {
    "0": ("down", theme.FAILURE),
    "1": ("up", theme.GOOD),
    "2": _REFUSED,
    "3": _REFUSED,
    **dict.fromkeys(("4", "5", "6", "7"), _MAINTENANCE),
}
"""Text and colour for each value of the account state query."""

WAIT_REASONS: Final = {
    "0": ("not waiting", theme.GOOD),
    "1": ("allowance used up", theme.WARNING),
    "2": ("limit used by others", theme.GONE),
    "3": ("pause asked for", "yellow"),
    "4": _MAINTENANCE,
    "5": ("no usable token", theme.WARNING_TEXT),
}
"""Text and colour for each value of the query for waiting accounts."""

_STEP: Final = "5m"
_LATE: Final = 900
"""Threshold of the alert SbgDetectionDelayed, in seconds."""
_OF_EXPORTERS: Final = "and on (job, instance) sbg_exporter_build_info"


# ---- polling ----


def account_states() -> statetimeline.Panel:
    """Show when each account was up, and the reason when it was not."""
    info = PanelInfo(
        "Account states",
        "Whether polls of each account succeeded, or the reason why they failed.",
        "none",
        ("SbgAccountUnreachable", "SbgTokenRefused", "SbgMaintenance"),
    )
    return states(info, Query(ACCOUNT_STATE, "{{account}}", step="1m"), ACCOUNT_STATES)


def _waiting() -> statetimeline.Panel:
    info = PanelInfo(
        "Waiting accounts",
        "When the exporter made no request for an account, and why. The log says until when, and what to do.",
        "none",
        ("SbgDetectionDelayed", "SbgAllowanceNearlyUsed", "SbgTokenRefused"),
    )
    return states(info, Query(WAITING, "{{account}}", step="1m"), WAIT_REASONS)


def polled_in_time(*, listed: bool = False) -> timeseries_panel.Panel:
    """Show the detection delay of each account and the poll interval."""
    return timeseries(
        PanelInfo(
            "Detection delay",
            "Longest time since an unfinished job, or the head of the list, was last checked. It should not exceed the "
            "poll interval by much.",
            "s",
            ("SbgDetectionDelayed",),
        ),
        Query(each("sbg_exporter_detection_delay_seconds"), "{{account}}"),
        Query(f"max({each('sbg_exporter_poll_interval_seconds')})", "poll interval"),
        colors={"poll interval": theme.QUIET},
        listed=listed,
    )


def _watched() -> stat_panel.Panel:
    info = PanelInfo("Accounts", "Configured accounts.")
    return stat(info, now(f"count({each('sbg_account_info')})"))


def _longest_delay() -> stat_panel.Panel:
    info = PanelInfo(
        "Detection delay",
        "Longest time since an unfinished job, or the head of the list, was last checked, over all accounts.",
        "s",
        ("SbgDetectionDelayed",),
    )
    delay = f"max({each('sbg_exporter_detection_delay_seconds')})"
    return stat(info, now(delay), steps=((None, theme.NONE), (_LATE, theme.WARNING_TEXT)))


def _failed_polls() -> timeseries_panel.Panel:
    where = f'{ACCOUNT}, result!="success"'
    return timeseries(
        PanelInfo("Failed polls", "Failed polls per step, by result.", alerts=("SbgNotPolling",)),
        Query(
            increase("sbg_exporter_polls_total", "result", labels=("result",), where=where), "{{result}}", step=_STEP
        ),
        colors=theme.POLL_RESULTS,
        stacked=True,
        bars=True,
    )


def _listing_age() -> timeseries_panel.Panel:
    return timeseries(
        PanelInfo(
            "Full listing age",
            "Time since the last full listing of each account. Accounts polled incrementally are listed in full once "
            "per full_listing_interval.",
            "s",
            ("SbgListingOverdue",),
        ),
        Query(since(each("sbg_exporter_last_full_listing_timestamp_seconds")), "{{account}}"),
        Query(f"max({each('sbg_exporter_full_listing_interval_seconds')})", "listing interval"),
        colors={"listing interval": theme.QUIET},
        listed=True,
    )


# ---- API usage ----


def allowance_use(*, listed: bool = False) -> timeseries_panel.Panel:
    """Show the share of its allowance that the exporter uses."""
    used = f"{each('sbg_exporter_allowance_used_requests')} / {each('sbg_exporter_allowance_requests')}"
    return timeseries(
        PanelInfo(
            "Allowance used",
            "Requests made in the platform's current window, as a share of the allowance (rate_share of the rate "
            "limit). At 100 % the exporter waits for the next window.",
            "percentunit",
            ("SbgAllowanceNearlyUsed",),
        ),
        Query(used, "{{account}}"),
        listed=listed,
        most=1,
    )


def _requests() -> timeseries_panel.Panel:
    by_status = rate("sbg_exporter_requests_total", "status", labels=("endpoint", "status"), where=ACCOUNT)
    return timeseries(
        PanelInfo("Requests by status", "API requests per second, by HTTP status or kind of error.", "reqps"),
        Query(by_status, "{{status}}"),
        colors=theme.REQUESTS,
        stacked=True,
    )


def _limit_left() -> bargauge.Panel:
    left = f"{each('sbg_exporter_rate_limit_remaining')} / {each('sbg_exporter_rate_limit')}"
    return bar_gauge(
        PanelInfo(
            "Rate limit remaining",
            "Requests that each user may still make in the current window. Other programs of the user share this "
            "limit.",
            "percentunit",
            ("SbgAllowanceNearlyUsed",),
        ),
        now(left, "{{account}}"),
        steps=((None, theme.WARNING), (0.2, theme.GOOD)),
        most=1,
        short_names=True,
    )


def _request_time() -> timeseries_panel.Panel:
    shares = zip((0.5, 0.9, 0.99), theme.QUANTILES, strict=True)
    return timeseries(
        PanelInfo("Request duration", "Duration of API requests; p50, p90 and p99.", "s"),
        *(
            Query(
                quantile(share, "sbg_exporter_request_duration_seconds", ("endpoint",), ACCOUNT), legend, exemplar=True
            )
            for share, legend in shares
        ),
        colors=theme.QUANTILES,
    )


def _poll_time() -> heatmap.Panel:
    buckets = increase("sbg_exporter_poll_duration_seconds_bucket", "le", labels=("le",), where=ACCOUNT)
    return durations(
        PanelInfo("Poll duration", "Polls per step by duration; the colour scale gives their number.", "s"),
        Query(buckets, "{{le}}", exemplar=True, step=_STEP),
    )


# ---- the process ----


def _state_file() -> stat_panel.Panel:
    info = PanelInfo(
        "State file",
        "Failed commits to the state file in the last hour. The exporter retries them at the next poll.",
        alerts=("SbgStateNotWritable",),
    )
    failures = "ceil(max(increase(sbg_exporter_state_write_failures_total[1h])))"
    return stat(info, now(failures), steps=((None, theme.NONE), (1, theme.FAILURE)), value_mappings={"0": ("OK", "")})


def _configuration() -> stat_panel.Panel:
    info = PanelInfo(
        "Configuration",
        "Whether the configuration was valid when the exporter last read it, at its start or at a reload.",
        "none",
        ("SbgConfigReloadFailed",),
    )
    value_mappings = {"0": ("rejected", theme.WARNING_TEXT), "1": ("OK", "")}
    return stat(info, now("min(sbg_exporter_config_last_reload_successful)"), value_mappings=value_mappings)


def _version() -> stat_panel.Panel:
    info = PanelInfo("Version", "The exporter's version.", "string", ("SbgExporterDown",))
    return label_stat(info, now("max by (version) (sbg_exporter_build_info)", "{{version}}"))


def _one_line(info: PanelInfo, expression: str, legend: str) -> timeseries_panel.Panel:
    return timeseries(info, Query(expression, legend), colors={legend: theme.GOOD})


def _tallied(info: PanelInfo, counter: str, label: str, colors: Mapping[str, str]) -> timeseries_panel.Panel:
    """Show rare events as bars, by one label."""
    query = Query(increase(counter, label, labels=(label,), where=ACCOUNT), f"{{{{{label}}}}}", step=_STEP)
    return timeseries(info, query, colors=colors, stacked=True, bars=True)


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
        ),
    )


def _oddities() -> tuple[timeseries_panel.Panel, ...]:
    return (
        _tallied(
            PanelInfo(
                "Records skipped",
                "Job records per step that the exporter could not decode, by reason. A record counts in every listing.",
                alerts=("SbgRecordsSkipped",),
            ),
            "sbg_exporter_records_skipped_total",
            "reason",
            {},
        ),
        _tallied(
            PanelInfo(
                "Decreased platform counts",
                "Times per step that the platform reported a lower count than before. Counters keep the higher count.",
            ),
            "sbg_exporter_counts_lowered_total",
            "field",
            {"total": theme.QUIET, "completed": theme.GOOD, "failed": theme.WARNING},
        ),
        timeseries(
            PanelInfo(
                "Hidden jobs",
                "Unfinished and failed jobs beyond job_series. They are counted, but have no rows in the tables.",
                alerts=("SbgFilesFailed",),
            ),
            Query(f"sum by (kind) ({each('sbg_exporter_job_series_hidden', 'kind')})", "{{kind}}"),
            colors={"unfinished": theme.WARNING, "failed": theme.FAILURE},
        ),
        timeseries(
            PanelInfo(
                "Clock skew",
                "By how much the clock of the exporter's machine and the platform's clock differ.",
                "s",
                ("SbgClockSkew",),
            ),
            Query(f"abs({each('sbg_exporter_clock_skew_seconds')})", "{{account}}"),
        ),
    )


def page() -> Page:
    """Build the dashboard."""
    answers = tiles(jobs.accounts_down(), _watched(), _longest_delay(), _state_file(), _configuration(), _version())
    seen = cells(12, 8, account_states(), polled_in_time(listed=True), _failed_polls(), _listing_age())
    asked = cells(12, 8, _requests(), allowance_use(listed=True))
    took = cells(8, 9, _limit_left(), _request_time(), _poll_time())
    return Page(
        "sbg-exporter-health",
        "Exporter health",
        "Whether sbg-exporter polls every account in time, and how much of the API rate limit it uses.",
        (accounts(several=True),),
        (
            Row("", answers),
            Row("Polling", (*seen, Cell(_waiting(), 24, 6))),
            Row("API usage", (*asked, *took)),
            Row("Process and state file", (*cells(6, 6, *_process()), *cells(6, 6, *_oddities()))),
        ),
    )

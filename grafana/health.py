"""The *Exporter health* dashboard: whether the data of the other dashboards is complete and fresh."""

from collections.abc import Mapping
from typing import Final

from grafana_foundation_sdk.builders import bargauge, heatmap, stat, statetimeline, timeseries

from grafana import jobs, theme
from grafana.layout import Page, Row, accounts, cells, tiles
from grafana.panels import Says, bars, durations, lines, naming, states, tile
from grafana.queries import ACCOUNT, ACCOUNT_STATE, Query, each, increase, now, quantile, rate, since

_REFUSED: Final = ("token refused", theme.LEGIBLE_LOOK)
_MAINTENANCE: Final = ("maintenance", theme.QUIET)
ACCOUNT_STATES: Final = {
    "0": ("down", theme.FAILURE),
    "1": ("up", theme.GOOD),
    "2": _REFUSED,
    "3": _REFUSED,
    **dict.fromkeys(("4", "5", "6", "7"), _MAINTENANCE),
}
"""Text and colour for each value of the account state query."""

_STEP: Final = "5m"
_LATE: Final = 900
"""Threshold of the alert SbgDetectionDelayed, in seconds."""
_OF_EXPORTERS: Final = "and on (job, instance) sbg_exporter_build_info"


# ---- polling ----


def account_states() -> statetimeline.Panel:
    """Show when each account was up, and the reason when it was not."""
    says = Says(
        "Account states",
        "Whether polls of each account succeeded, or the reason why they failed.",
        "none",
        ("SbgAccountUnreachable", "SbgTokenRefused", "SbgMaintenance"),
    )
    return states(says, Query(ACCOUNT_STATE, "{{account}}", step="1m"), ACCOUNT_STATES)


def polled_in_time(*, listed: bool = False) -> timeseries.Panel:
    """Show the detection delay of each account and the poll interval."""
    return lines(
        Says(
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


def _watched() -> stat.Panel:
    says = Says("Accounts", "Configured accounts.")
    return tile(says, now(f"count({each('sbg_account_info')})"))


def _longest_delay() -> stat.Panel:
    says = Says(
        "Detection delay",
        "Longest time since an unfinished job, or the head of the list, was last checked, over all accounts.",
        "s",
        ("SbgDetectionDelayed",),
    )
    delay = f"max({each('sbg_exporter_detection_delay_seconds')})"
    return tile(says, now(delay), steps=((None, theme.NONE), (_LATE, theme.LEGIBLE_LOOK)))


def _failed_polls() -> timeseries.Panel:
    where = f'{ACCOUNT}, result!="success"'
    return lines(
        Says("Failed polls", "Failed polls per step, by result.", alerts=("SbgNotPolling",)),
        Query(
            increase("sbg_exporter_polls_total", "result", labels=("result",), where=where), "{{result}}", step=_STEP
        ),
        colors=theme.POLL_RESULTS,
        stacked=True,
        bars=True,
    )


def _listing_age() -> timeseries.Panel:
    return lines(
        Says(
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


def allowance_use(*, listed: bool = False) -> timeseries.Panel:
    """Show the share of its allowance that the exporter uses."""
    used = f"{each('sbg_exporter_allowance_used_requests')} / {each('sbg_exporter_allowance_requests')}"
    return lines(
        Says(
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


def _requests() -> timeseries.Panel:
    by_status = rate("sbg_exporter_requests_total", "status", labels=("endpoint", "status"), where=ACCOUNT)
    return lines(
        Says("Requests by status", "API requests per second, by HTTP status or kind of error.", "reqps"),
        Query(by_status, "{{status}}"),
        colors=theme.REQUESTS,
        stacked=True,
    )


def _limit_left() -> bargauge.Panel:
    left = f"{each('sbg_exporter_rate_limit_remaining')} / {each('sbg_exporter_rate_limit')}"
    return bars(
        Says(
            "Rate limit remaining",
            "Requests that each user may still make in the current window. Other programs of the user share this "
            "limit.",
            "percentunit",
            ("SbgAllowanceNearlyUsed",),
        ),
        now(left, "{{account}}"),
        steps=((None, theme.LOOK), (0.2, theme.GOOD)),
        most=1,
        short_names=True,
    )


def _request_time() -> timeseries.Panel:
    shares = zip((0.5, 0.9, 0.99), theme.QUANTILES, strict=True)
    return lines(
        Says("Request duration", "Duration of API requests; p50, p90 and p99.", "s"),
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
        Says("Poll duration", "Polls per step by duration; the colour scale gives their number.", "s"),
        Query(buckets, "{{le}}", exemplar=True, step=_STEP),
    )


# ---- the process ----


def _state_file() -> stat.Panel:
    says = Says(
        "State file",
        "Failed commits to the state file in the last hour. The exporter retries them at the next poll.",
        alerts=("SbgStateNotWritable",),
    )
    failures = "ceil(max(increase(sbg_exporter_state_write_failures_total[1h])))"
    return tile(says, now(failures), steps=((None, theme.NONE), (1, theme.FAILURE)), said={"0": ("OK", "")})


def _configuration() -> stat.Panel:
    says = Says(
        "Configuration",
        "Result of the last configuration reload since the exporter started.",
        "none",
        ("SbgConfigReloadFailed",),
    )
    said = {"0": ("rejected", theme.LEGIBLE_LOOK), "1": ("reloaded", ""), "2": ("not reloaded", "")}
    reloaded = "min(sbg_exporter_config_last_reload_successful) or 2 * max(sbg_exporter_build_info)"
    return tile(says, now(reloaded), said=said)


def _version() -> stat.Panel:
    says = Says("Version", "The exporter's version.", "string", ("SbgExporterDown",))
    return naming(says, now("max by (version) (sbg_exporter_build_info)", "{{version}}"))


def _one_line(says: Says, expression: str, legend: str) -> timeseries.Panel:
    return lines(says, Query(expression, legend), colors={legend: theme.GOOD})


def _tallied(says: Says, counter: str, label: str, colors: Mapping[str, str]) -> timeseries.Panel:
    """Show rare events as bars, by one label."""
    query = Query(increase(counter, label, labels=(label,), where=ACCOUNT), f"{{{{{label}}}}}", step=_STEP)
    return lines(says, query, colors=colors, stacked=True, bars=True)


def _process() -> tuple[timeseries.Panel, ...]:
    greatest = "the maximum if there are several exporters"
    return (
        _one_line(
            Says("Job records", "Jobs tracked in the state file. Their records expire after 45 days."),
            "max(sbg_exporter_state_jobs)",
            "jobs",
        ),
        _one_line(
            Says("State file size", "Size on disk, including the write-ahead log.", "bytes"),
            "max(sbg_exporter_state_bytes)",
            "state file",
        ),
        _one_line(
            Says("Memory", f"Resident memory; {greatest}.", "bytes"),
            f"max(process_resident_memory_bytes {_OF_EXPORTERS})",
            "resident",
        ),
        _one_line(
            Says("CPU", f"Share of one CPU; {greatest}.", "percentunit"),
            f"max(rate(process_cpu_seconds_total[$__rate_interval]) {_OF_EXPORTERS})",
            "CPU",
        ),
    )


def _oddities() -> tuple[timeseries.Panel, ...]:
    return (
        _tallied(
            Says(
                "Records skipped",
                "Job records per step that the exporter could not decode, by reason. A record counts in every listing.",
                alerts=("SbgRecordsSkipped",),
            ),
            "sbg_exporter_records_skipped_total",
            "reason",
            {},
        ),
        _tallied(
            Says(
                "Decreased platform counts",
                "Times per step that the platform reported a lower count than before. Counters keep the higher count.",
            ),
            "sbg_exporter_counts_lowered_total",
            "field",
            {"total": theme.QUIET, "completed": theme.GOOD, "failed": theme.LOOK},
        ),
        lines(
            Says(
                "Hidden jobs",
                "Unfinished and failed jobs beyond job_series. They are counted, but have no rows in the tables.",
                alerts=("SbgFilesFailed",),
            ),
            Query(f"sum by (kind) ({each('sbg_exporter_job_series_hidden', 'kind')})", "{{kind}}"),
            colors={"unfinished": theme.LOOK, "failed": theme.FAILURE},
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
            Row("Polling", seen),
            Row("API usage", (*asked, *took)),
            Row("Process and state file", (*cells(6, 6, *_process()), *cells(8, 6, *_oddities()))),
        ),
    )

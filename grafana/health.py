"""*Exporter health*: whether what the other dashboards show can be believed."""

from collections.abc import Mapping
from typing import Final

from grafana_foundation_sdk.builders import bargauge, heatmap, stat, statetimeline, timeseries

from grafana import jobs, look
from grafana.pages import Page, Row, accounts, cells, tiles
from grafana.panels import Says, bars, durations, lines, naming, states, tile
from grafana.queries import ACCOUNT, ACCOUNT_STATE, Query, each, increase, now, quantile, rate, since

_REFUSED: Final = ("token refused", look.LEGIBLE_LOOK)
_MAINTENANCE: Final = ("maintenance", look.QUIET)
ACCOUNT_STATES: Final = {
    "0": ("down", look.FAILURE),
    "1": ("up", look.GOOD),
    "2": _REFUSED,
    "3": _REFUSED,
    **dict.fromkeys(("4", "5", "6", "7"), _MAINTENANCE),
}
"""What the numbers of the account's state say."""

_STEP: Final = "5m"
_LATE: Final = 900
"""Seconds of detection delay from which the alert calls it late."""
_OF_EXPORTERS: Final = "and on (job, instance) sbg_exporter_build_info"


# ---- whether accounts are seen ----


def account_states() -> statetimeline.Panel:
    """When accounts were up, and if not, why."""
    says = Says(
        "Account states",
        "Whether polls of each account succeeded, and if not, why.",
        "none",
        ("SbgAccountUnreachable", "SbgTokenRefused", "SbgMaintenance"),
    )
    return states(says, Query(ACCOUNT_STATE, "{{account}}", step="1m"), ACCOUNT_STATES)


def polled_in_time(*, listed: bool = False) -> timeseries.Panel:
    """How late a failure may be seen."""
    return lines(
        Says(
            "Detection delay",
            "The longest time since an unfinished job was looked at: how late a failed file may be noticed. The poll "
            "interval is what it should be.",
            "s",
            ("SbgDetectionDelayed",),
        ),
        Query(each("sbg_exporter_detection_delay_seconds"), "{{account}}"),
        Query(f"max({each('sbg_exporter_poll_interval_seconds')})", "poll interval"),
        colors={"poll interval": look.QUIET},
        listed=listed,
    )


def _watched() -> stat.Panel:
    says = Says("Accounts", "Accounts that are configured.")
    return tile(says, now(f"count({each('sbg_account_info')})"))


def _longest_delay() -> stat.Panel:
    says = Says(
        "Detection delay",
        "The longest time since an unfinished job was looked at, over all accounts.",
        "s",
        ("SbgDetectionDelayed",),
    )
    delay = f"max({each('sbg_exporter_detection_delay_seconds')})"
    return tile(says, now(delay), steps=((None, look.NONE), (_LATE, look.LEGIBLE_LOOK)))


def _failed_polls() -> timeseries.Panel:
    where = f'{ACCOUNT}, result!="success"'
    return lines(
        Says("Polls that failed", "Polls per step that did not succeed, by result.", alerts=("SbgNotPolling",)),
        Query(
            increase("sbg_exporter_polls_total", "result", labels=("result",), where=where), "{{result}}", step=_STEP
        ),
        colors=look.POLL_RESULTS,
        stacked=True,
        bars=True,
    )


def _listing_age() -> timeseries.Panel:
    return lines(
        Says(
            "Age of the last complete listing",
            "Time since every page of an account was last read; large accounts are read in slices, one listing every "
            "full_listing_interval.",
            "s",
            ("SbgListingOverdue",),
        ),
        Query(since(each("sbg_exporter_last_full_listing_timestamp_seconds")), "{{account}}"),
        Query(f"max({each('sbg_exporter_full_listing_interval_seconds')})", "listing interval"),
        colors={"listing interval": look.QUIET},
        listed=True,
    )


# ---- what it takes ----


def allowance_use(*, listed: bool = False) -> timeseries.Panel:
    """How near the allowance's end is."""
    used = f"{each('sbg_exporter_allowance_used_requests')} / {each('sbg_exporter_allowance_requests')}"
    return lines(
        Says(
            "Allowance used",
            "Requests made in the platform's window, of those that the exporter allows itself (rate_share of the "
            "limit). At 100 % polls wait for the next window.",
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
        Says("Requests by status", "API requests per second, by HTTP status or what went wrong.", "reqps"),
        Query(by_status, "{{status}}"),
        colors=look.REQUESTS,
        stacked=True,
    )


def _limit_left() -> bargauge.Panel:
    left = f"{each('sbg_exporter_rate_limit_remaining')} / {each('sbg_exporter_rate_limit')}"
    return bars(
        Says(
            "Left of the platform's limit",
            "Requests that each user has left in this window, of the platform's limit; other programs of the user "
            "draw on it, too.",
            "percentunit",
            ("SbgAllowanceNearlyUsed",),
        ),
        now(left, "{{account}}"),
        steps=((None, look.LOOK), (0.2, look.GOOD)),
        most=1,
        short_names=True,
    )


def _request_time() -> timeseries.Panel:
    shares = zip((0.5, 0.9, 0.99), look.QUANTILES, strict=True)
    return lines(
        Says("Request time", "Half of the API requests took less, 9 of 10, 99 of 100.", "s"),
        *(
            Query(
                quantile(share, "sbg_exporter_request_duration_seconds", ("endpoint",), ACCOUNT), legend, exemplar=True
            )
            for share, legend in shares
        ),
        colors=look.QUANTILES,
    )


def _poll_time() -> heatmap.Panel:
    buckets = increase("sbg_exporter_poll_duration_seconds_bucket", "le", labels=("le",), where=ACCOUNT)
    return durations(
        Says("How long polls take", "Polls by how long they took; the scale says how many.", "s"),
        Query(buckets, "{{le}}", exemplar=True, step=_STEP),
    )


# ---- the process ----


def _state_file() -> stat.Panel:
    says = Says(
        "State file",
        "Commits to the state file that failed in the last hour. Nothing is lost: each is tried again.",
        alerts=("SbgStateNotWritable",),
    )
    failures = "ceil(max(increase(sbg_exporter_state_write_failures_total[1h])))"
    return tile(says, now(failures), steps=((None, look.NONE), (1, look.FAILURE)), said={"0": ("written", "")})


def _configuration() -> stat.Panel:
    says = Says(
        "Configuration",
        "Whether the configuration was last read again without an error, or is the one that it started with.",
        "none",
        ("SbgConfigReloadFailed",),
    )
    said = {"0": ("refused", look.LEGIBLE_LOOK), "1": ("in force", ""), "2": ("as started", "")}
    reloaded = "min(sbg_exporter_config_last_reload_successful) or 2 * max(sbg_exporter_build_info)"
    return tile(says, now(reloaded), said=said)


def _version() -> stat.Panel:
    says = Says("Version", "The exporter's version.", "string", ("SbgExporterDown",))
    return naming(says, now("max by (version) (sbg_exporter_build_info)", "{{version}}"))


def _one_line(says: Says, expression: str, legend: str) -> timeseries.Panel:
    return lines(says, Query(expression, legend), colors={legend: look.GOOD})


def _tallied(says: Says, counter: str, label: str, colors: Mapping[str, str]) -> timeseries.Panel:
    """Rare events as bars."""
    query = Query(increase(counter, label, labels=(label,), where=ACCOUNT), f"{{{{{label}}}}}", step=_STEP)
    return lines(says, query, colors=colors, stacked=True, bars=True)


def _process() -> tuple[timeseries.Panel, ...]:
    greatest = "the greatest where there are several exporters"
    return (
        _one_line(
            Says("Jobs in the state file", "Jobs that are marked as counted; forgotten after 45 days."),
            "max(sbg_exporter_state_jobs)",
            "jobs",
        ),
        _one_line(
            Says("Size of the state file", "On disk, its log of recent writes included.", "bytes"),
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
                "Job records per step that could not be read, by reason; counted each time they are seen.",
                alerts=("SbgRecordsSkipped",),
            ),
            "sbg_exporter_records_skipped_total",
            "reason",
            {},
        ),
        _tallied(
            Says(
                "Counts lowered by the platform",
                "Times per step that the platform lowered a count that was already counted; it stays counted.",
            ),
            "sbg_exporter_counts_lowered_total",
            "field",
            {"total": look.QUIET, "completed": look.GOOD, "failed": look.LOOK},
        ),
        lines(
            Says(
                "Jobs not shown one by one",
                "Unfinished and failed jobs beyond job_series: counted, but without rows in the tables.",
                alerts=("SbgFilesFailed",),
            ),
            Query(f"sum by (kind) ({each('sbg_exporter_job_series_hidden', 'kind')})", "{{kind}}"),
            colors={"unfinished": look.LOOK, "failed": look.FAILURE},
        ),
    )


def page() -> Page:
    """The exporter itself."""
    answers = tiles(jobs.accounts_down(), _watched(), _longest_delay(), _state_file(), _configuration(), _version())
    seen = cells(12, 8, account_states(), polled_in_time(listed=True), _failed_polls(), _listing_age())
    asked = cells(12, 8, _requests(), allowance_use(listed=True))
    took = cells(8, 9, _limit_left(), _request_time(), _poll_time())
    return Page(
        "sbg-exporter-health",
        "Exporter health",
        "Whether sbg-exporter sees every account in time, and what it takes from the platform.",
        (accounts(several=True),),
        (
            Row("", answers),
            Row("Is every account seen, and in time?", seen),
            Row("What does it take from the platform?", (*asked, *took)),
            Row("The process and its state file", (*cells(6, 6, *_process()), *cells(8, 6, *_oddities()))),
        ),
    )

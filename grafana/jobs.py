"""Panels about jobs, shared by the dashboards *Bulk jobs* and *One account*."""

from typing import Final

from grafana_foundation_sdk.builders import stat as stat_panel
from grafana_foundation_sdk.builders import timeseries as timeseries_panel

from exporter.api.error_codes import ERROR_CODES, in_words
from grafana import theme
from grafana.layout import Cell, Row, cells
from grafana.panels import ALARM, ATTENTION, Column, PanelInfo, bar_gauge, durations, stat, table, timeseries
from grafana.queries import (
    FAILED_JOBS,
    OPERATION,
    Query,
    each,
    increase,
    job,
    now,
    or_zero,
    quantile,
    ranked_codes,
    rate,
    since,
)

_STUCK: Final = 1800
"""Threshold of the alert SbgJobStuck, in seconds."""
_STEP: Final = "5m"
"""Least step of panels that count events, so that a bar is more than a single scrape."""
_ACCOUNT_LINK: Final = (
    "Open this account",
    "/d/sbg-one-account?var-datasource=${datasource}&var-account=${__data.fields.Account}&${__url_time_range}",
)
_LISTED: Final = each("sbg_jobs", "operation", "state", where=OPERATION)
_UNFINISHED: Final = each("sbg_jobs", "operation", "state", where=f'{OPERATION}, state!="finished"')
_STILL: Final = since(job("sbg_unfinished_job_progress_timestamp_seconds"))
_OLDEST: Final = since(f"min(sbg_unfinished_jobs_oldest_timestamp_seconds{{{OPERATION}}})")
_WHY: Final = {code: (in_words(code), "") for code in (*ERROR_CODES, "none", "other")}


def failed() -> stat_panel.Panel:
    """Show the number of failed jobs."""
    info = PanelInfo(
        "Failed jobs",
        "Jobs with failed files that are unfinished, or finished within failed_job_window (default: a day). The number "
        "includes jobs beyond job_series, of all operations.",
        alerts=("SbgJobFilesFailed", "SbgFilesFailed"),
    )
    return stat(info, now(FAILED_JOBS), steps=ALARM)


def last_failure() -> stat_panel.Panel:
    """Show when the exporter last counted a failed file."""
    info = PanelInfo(
        "Last failed file",
        "When the exporter last counted a failed file. This time survives restarts and never expires.",
        unit="dateTimeFromNow",
        alerts=("SbgFilesFailed",),
    )
    last = f"max({each('sbg_last_failure_counted_timestamp_seconds', 'operation', where=OPERATION)}) * 1000"
    counted = each("sbg_jobs_submitted_total", "operation", where=OPERATION)
    return stat(info, now(or_zero(last, counted)), value_mappings={"0": ("never", "")})


def accounts_down() -> stat_panel.Panel:
    """Show the number of accounts whose last poll failed."""
    info = PanelInfo(
        "Accounts down",
        "Accounts whose last poll failed: token refused, platform under maintenance, or unreachable. Their data is as "
        "old as their last successful poll.",
        alerts=("SbgAccountUnreachable", "SbgTokenRefused"),
    )
    return stat(info, now(f"sum(1 - {each('sbg_up')})"), steps=ALARM)


def unfinished() -> stat_panel.Panel:
    """Show the number of unfinished jobs."""
    info = PanelInfo("Unfinished jobs", "Submitted, resolving and running jobs, as of the last poll.")
    return stat(info, now(f"sum({_UNFINISHED})"))


def oldest() -> stat_panel.Panel:
    """Show the age of the oldest unfinished job."""
    info = PanelInfo("Oldest unfinished job", "Time since the oldest unfinished job was submitted.", unit="s")
    return stat(info, now(or_zero(_OLDEST, _LISTED)), value_mappings={"0": ("none", "")})


def stuck() -> stat_panel.Panel:
    """Show the number of stuck jobs."""
    info = PanelInfo(
        "Stuck jobs",
        "Unfinished jobs without progress for 30 minutes, among those with per-job series.",
        alerts=("SbgJobStuck",),
    )
    return stat(info, now(or_zero(f"count({_STILL} > {_STUCK})", _LISTED)), steps=ATTENTION)


def failures() -> Row:
    """Show which jobs failed, and their error codes."""
    finished = job("sbg_failed_job_finished_timestamp_seconds")
    jobs_table = table(
        PanelInfo(
            "Failed jobs",
            "Jobs with failed files, latest detection first. The platform provides error codes when a job finishes. "
            "The table has the three most frequent. Jobs that failed before counting began have no detection time.",
            alerts=("SbgJobFilesFailed",),
            unit="string",
            empty="No failed jobs to show",
        ),
        (
            Column(
                "Detected",
                "detected",
                now(f"{job('sbg_failed_job_detected_timestamp_seconds')} * 1000"),
                unit="dateTimeAsSystem",
                width=165,
                empty="before counting",
            ),
            Column("Account", "account", width=115, link=_ACCOUNT_LINK),
            Column("Operation", "operation", width=85),
            Column("Job", "job_id", width=180),
            Column("Failed", "failed", now(job("sbg_failed_job_files_failed")), "locale", 80, look="failure"),
            Column("Main error", "code_1", value_mappings=_WHY, empty="not known yet"),
            Column("2nd", "code_2", width=70),
            Column("3rd", "code_3", width=70),
            Column(
                "Finished", "finished", now(f"{finished} * 1000"), "dateTimeAsSystem", width=160, empty="still running"
            ),
        ),
        *(now(ranked_codes(rank)) for rank in (1, 2, 3)),
        sort="Detected",
    )
    by_code = f"sum by (code) ({each('sbg_failed_job_errors', 'operation', 'job_id', 'code', where=OPERATION)})"
    why = bar_gauge(
        PanelInfo(
            "Errors by code",
            "Error records of the failed jobs by platform error code (three most frequent per job). There may be fewer "
            "records than failed files.",
            empty="No errors to show",
        ),
        now(f"sort_desc({by_code})", "{{code}}"),
        steps=((None, theme.FAILURE),),
        value_mappings=_WHY,
    )
    return Row("Failures", (Cell(jobs_table, 24, 8), *cells(8, 7, why, _files_failed(), _outcomes())))


def running() -> Row:
    """Show the unfinished jobs and their progress."""
    expected, completed, failed = (
        job(f"sbg_unfinished_job_files_{count}") for count in ("expected", "completed", "failed")
    )
    progress = f"({completed} + {failed}) / clamp_min({expected}, 1)"
    jobs_table = table(
        PanelInfo(
            "Unfinished jobs",
            "The oldest unfinished jobs, up to job_series per account, as of the last poll. Orange: stuck, without "
            "progress for 30 minutes.",
            alerts=("SbgJobStuck",),
            unit="string",
            empty="No unfinished jobs to show",
        ),
        (
            Column(
                "Age",
                "age",
                now(since(job("sbg_unfinished_job_submitted_timestamp_seconds"))),
                "s",
                width=85,
            ),
            Column("Account", "account", width=115, link=_ACCOUNT_LINK),
            Column("Operation", "operation", width=85),
            Column("Job", "job_id", width=180),
            Column("Progress", "progress", now(progress), "percentunit", look="bar"),
            Column("Files", "files", now(expected), "locale", 65),
            Column("Failed", "failed", now(failed), "locale", 60, look="failure"),
            Column(
                "No progress for",
                "still",
                now(_STILL),
                "s",
                115,
                steps=((None, theme.PLAIN), (_STUCK, theme.WARNING_TEXT)),
            ),
        ),
        sort="Age",
    )
    by_state = timeseries(
        PanelInfo(
            "Unfinished jobs by state",
            "Submitted, resolving and running jobs, as of the last poll.",
        ),
        Query(f"sum by (state) ({_UNFINISHED})", "{{state}}"),
        colors=theme.STATES,
        stacked=True,
    )
    return Row("Progress", (Cell(jobs_table, 17, 8), Cell(by_state, 7, 8)))


def _files_failed() -> timeseries_panel.Panel:
    return timeseries(
        PanelInfo(
            "Failed files",
            "Failed files per step, by operation. Dots carry a job's id. Failures counted while Prometheus did not "
            "scrape are missing here, but not in the table of failed jobs.",
            alerts=("SbgFilesFailed",),
        ),
        Query(increase("sbg_files_failed_total", "operation"), "{{operation}}", exemplar=True, step=_STEP),
        colors={"copy": theme.FAILURE, "move": "light-red", "delete": "dark-red"},
        stacked=True,
        bars=True,
    )


def _outcomes() -> timeseries_panel.Panel:
    return timeseries(
        PanelInfo(
            "Finished jobs",
            "Finished jobs per step, by outcome. incomplete: files are missing, but none failed. lost: the job "
            "disappeared from the platform. Jobs counted while Prometheus did not scrape are missing here.",
            alerts=("SbgJobIncomplete", "SbgJobLost"),
        ),
        Query(
            increase("sbg_jobs_finished_total", "outcome", labels=("operation", "outcome")),
            "{{outcome}}",
            exemplar=True,
            step=_STEP,
        ),
        colors=theme.OUTCOMES,
        stacked=True,
        bars=True,
    )


def pace() -> Row:
    """Show throughput, run time and queue time."""
    files = timeseries(
        PanelInfo("Files per second", "Files completed per second, by operation.", unit="files/s"),
        Query(rate("sbg_files_completed_total", "operation"), "{{operation}}", step="1m"),
        colors=theme.OPERATIONS,
        stacked=True,
    )
    ran = durations(
        PanelInfo(
            "Job duration",
            "Jobs by duration, start to finish; the colour scale gives their number. Dots carry a job's id.",
            unit="s",
        ),
        Query(
            increase("sbg_job_duration_seconds_bucket", "le", labels=("operation", "outcome", "le")),
            "{{le}}",
            exemplar=True,
            step="5m",
        ),
    )
    run_time = _quantiles(
        "Job duration percentiles", "sbg_job_duration_seconds", "Start", "finish", ("operation", "outcome")
    )
    queue = _quantiles("Queue time percentiles", "sbg_job_queue_duration_seconds", "Submission", "start")
    return Row("Throughput and duration", cells(12, 7, files, ran, run_time, queue))


def _quantiles(
    title: str, histogram: str, begin: str, end: str, labels: tuple[str, ...] = ("operation",)
) -> timeseries_panel.Panel:
    return timeseries(
        PanelInfo(
            title,
            f"{begin} to {end}; p50, p90 and p99 estimated from histogram buckets.",
            unit="s",
        ),
        *(
            Query(quantile(share, histogram, labels), legend, exemplar=True, step="5m")
            for share, legend in zip((0.5, 0.9, 0.99), theme.QUANTILES, strict=True)
        ),
        colors=theme.QUANTILES,
    )

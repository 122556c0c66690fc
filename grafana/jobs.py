"""Panels about jobs, shared by the dashboards *Bulk jobs* and *One account*."""

from typing import Final

from grafana_foundation_sdk.builders import heatmap
from grafana_foundation_sdk.builders import stat as stat_panel
from grafana_foundation_sdk.builders import table as table_panel
from grafana_foundation_sdk.builders import timeseries as timeseries_panel
from grafana_foundation_sdk.models.common import LineInterpolation

from exporter.api.error_codes import ERROR_CODES, in_words
from grafana import theme
from grafana.panels import ALARM, ATTENTION, Column, PanelInfo, Tile, durations, events, table, tiles, timeseries
from grafana.queries import (
    FAILED_JOBS,
    JOB,
    OPERATION,
    UNFINISHED_JOBS,
    Query,
    behind,
    each,
    increase,
    job,
    main_code,
    now,
    or_zero,
    since,
)

STEP: Final = "10m"
"""Least step of panels that count events, so that a bar is more than a single scrape."""
CODES_IN_WORDS: Final = {code: (in_words(code), "") for code in (*ERROR_CODES, "none", "other")}
_UNKNOWN: Final = "unknown"
_STUCK: Final = 1800
"""Threshold of the alert SbgJobStuck, in seconds."""
_ACCOUNT_URL: Final = "/d/sbg-one-account?var-datasource=${datasource}&var-account=${__data.fields.Account}"
ACCOUNT_LINK: Final = ("Open this account", f"{_ACCOUNT_URL}&${{__url_time_range}}")
_JOB_LINK: Final = ("Open this job", f"{_ACCOUNT_URL}&var-job_id=${{__data.fields.Job}}&${{__url_time_range}}")
_HEALTH_LINK: Final = ("Exporter health", "/d/sbg-exporter-health?var-datasource=${datasource}&${__url_time_range}")
_LISTED: Final = each("sbg_jobs", "operation", "state", where=OPERATION)
_UNFINISHED: Final = each("sbg_jobs", "operation", "state", where=f'{OPERATION}, state!="finished"')
_STILL: Final = since(job("sbg_unfinished_job_progress_timestamp_seconds"))
_STARTED: Final = f"{job('sbg_unfinished_job_queued')} == 0"
_OLDEST: Final = since(f"min(sbg_unfinished_jobs_oldest_timestamp_seconds{{{OPERATION}}})")
_LAST_FAILURE: Final = each("sbg_last_failure_counted_timestamp_seconds", "operation", where=OPERATION)

_NONE: Final = {"0": ("none", "")}
FAILED: Final = Tile("Failed jobs", FAILED_JOBS, steps=ALARM, value_mappings=_NONE)
STUCK: Final = Tile(
    "Stuck jobs", or_zero(f"count({_STILL} > {_STUCK} and {_STARTED})", _LISTED), steps=ATTENTION, value_mappings=_NONE
)
DOWN: Final = Tile("Accounts down", f"sum(1 - {each('sbg_up')})", steps=ALARM, value_mappings=_NONE, link=_HEALTH_LINK)
UNFINISHED: Final = Tile("Unfinished jobs", UNFINISHED_JOBS, value_mappings=_NONE)
OLDEST: Final = Tile("Oldest unfinished job", or_zero(_OLDEST, _LISTED), "s", value_mappings=_NONE, decimals=1)
SINCE_FAILURE: Final = Tile(
    "Since last counted failure",
    f"{since(f'max({_LAST_FAILURE})')} or 0 * count({each('sbg_up')}) - 1",
    "s",
    value_mappings={"-1": ("none yet", "")},
    decimals=1,
)
_MEANINGS: Final = (
    "Failed jobs have failed files, and are unfinished or finished within failed_job_window (default: a day). Stuck "
    "jobs are unfinished, without progress for 30 minutes. Of failed and unfinished jobs beyond job_series, all "
    "operations are counted. {down}Since last counted failure: since the exporter last counted a failed file, also "
    "before a restart. What failed before it began to count is not counted."
)


def summary(*numbers: Tile) -> stat_panel.Panel:
    """Show the numbers that matter most, side by side."""
    down = (
        "Accounts down: their last poll failed, and their data is as old as their last successful poll. Their "
        "unfinished jobs are not counted after stale_after (default: 10 minutes), nor after a restart of the exporter. "
    )
    info = PanelInfo(
        "Now",
        _MEANINGS.format(down=down if DOWN in numbers else ""),
        alerts=("SbgJobFilesFailed", "SbgFilesFailed", "SbgJobStuck", "SbgAccountUnreachable", "SbgTokenRefused"),
        empty="No data: Prometheus does not scrape sbg-exporter, or there is no account",
    )
    return tiles(info, *numbers)


def failed_jobs(where: str = OPERATION) -> table_panel.Panel:
    """Show which jobs failed, and why.

    Every job has a value in every column, because Grafana leaves out columns without any.
    """
    files = job("sbg_failed_job_files_failed", where)
    no_code = f'label_replace({files}, "code_1", "{_UNKNOWN}", "", "")'
    return table(
        PanelInfo(
            "Failed jobs",
            "Jobs with failed files, latest detection first. The platform provides error codes when a job finishes. "
            "The table has the most frequent; One account shows up to three per job. Jobs that failed before counting "
            "began have no detection time.",
            alerts=("SbgJobFilesFailed",),
            unit="string",
            empty="No failed jobs to show",
        ),
        (
            Column(
                "Detected",
                "detected",
                now(f"{job('sbg_failed_job_detected_timestamp_seconds', where)} * 1000 or 0 * {files}"),
                unit="dateTimeAsSystem",
                width=165,
                value_mappings={"0": ("before counting", "")},
            ),
            Column("Account", "account", width=125, link=ACCOUNT_LINK),
            Column("Operation", "operation", width=85),
            Column("Job", "job_id", width=175, link=_JOB_LINK),
            Column("Failed files", "failed", now(files), "locale", 95, look="failure"),
            Column("Main error", "code_1", value_mappings=CODES_IN_WORDS | {_UNKNOWN: ("not known yet", "")}),
            Column(
                "Finished",
                "finished",
                now(f"{job('sbg_failed_job_finished_timestamp_seconds', where)} * 1000 or 0 * {files}"),
                "dateTimeAsSystem",
                width=165,
                value_mappings={"0": ("still running", "")},
            ),
        ),
        now(f"{main_code(where)} or on ({', '.join(JOB)}) {no_code}"),
        sort="Detected",
    )


def unfinished_jobs(where: str = OPERATION) -> table_panel.Panel:
    """Show the unfinished jobs and their progress."""
    expected, completed, failed = (
        job(f"sbg_unfinished_job_files_{count}", where) for count in ("expected", "completed", "failed")
    )
    progress = f"({completed} + {failed}) / clamp_min({expected}, 1)"
    still = since(job("sbg_unfinished_job_progress_timestamp_seconds", where))
    return table(
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
                now(since(job("sbg_unfinished_job_submitted_timestamp_seconds", where))),
                "s",
                80,
                decimals=1,
            ),
            Column("Account", "account", width=125, link=ACCOUNT_LINK),
            Column("Operation", "operation", width=85),
            Column("Job", "job_id", width=175, link=_JOB_LINK),
            Column("Progress", "progress", now(progress), "percentunit", look="bar"),
            Column("Files", "files", now(expected), "locale", 70),
            Column("Failed", "failed", now(failed), "locale", 65, look="failure"),
            Column(
                "Idle for",
                "still",
                now(still),
                "s",
                90,
                steps=((None, theme.PLAIN), (_STUCK, theme.WARNING_TEXT)),
                decimals=1,
            ),
        ),
        sort="Age",
    )


def by_state() -> timeseries_panel.Panel:
    """Show the number of unfinished jobs by state."""
    return timeseries(
        PanelInfo("Unfinished by state", "Submitted, resolving and running jobs, as of the last poll."),
        Query(f"sum by (state) ({_UNFINISHED})", "{{state}}", step="2m"),
        colors=theme.STATES,
        stacked=True,
    ).line_interpolation(LineInterpolation.STEP_AFTER)


def finished_jobs() -> timeseries_panel.Panel:
    """Show how many jobs finished, by outcome."""
    return events(
        PanelInfo(
            "Finished jobs",
            "Finished jobs per step, by outcome, on a logarithmic axis: all but succeeded are bars. incomplete: files "
            "are missing, but none failed. lost: the job disappeared from the platform. Jobs counted while Prometheus "
            "did not scrape are missing here.",
            alerts=("SbgJobIncomplete", "SbgJobLost"),
        ),
        Query(
            behind(
                "outcome",
                [outcome for outcome in theme.OUTCOMES if outcome != "failed"],
                increase("sbg_jobs_finished_total", "outcome", labels=("operation", "outcome")),
            ),
            "{{outcome}}",
            step=STEP,
        ),
        colors=theme.OUTCOMES,
        normal=("succeeded",),
        front="failed",
    )


def files() -> timeseries_panel.Panel:
    """Show how many files were completed, and how many failed."""
    return events(
        PanelInfo(
            "Files",
            "Completed files per step by operation, as lines, and failed files of all operations, as bars, on a "
            "logarithmic axis. Failures counted while Prometheus did not scrape are missing here, but not in the "
            "table of failed jobs.",
            alerts=("SbgFilesFailed",),
        ),
        Query(increase("sbg_files_failed_total"), "failed", step=STEP),
        Query(increase("sbg_files_completed_total", "operation"), "{{operation}}", step=STEP),
        colors={"failed": theme.FAILURE} | theme.OPERATIONS,
        normal=tuple(theme.OPERATIONS),
    )


def run_times() -> heatmap.Panel:
    """Show how long jobs took."""
    return durations(
        PanelInfo(
            "Job duration",
            "Finished jobs by duration, start to finish; the colour scale gives their number. Dots carry a job's id.",
            unit="s",
        ),
        Query(
            increase("sbg_job_duration_seconds_bucket", "le", labels=("operation", "outcome", "le")),
            "{{le}}",
            exemplar=True,
            step="10m",
        ),
    )


def queue_times() -> heatmap.Panel:
    """Show how long jobs waited."""
    return durations(
        PanelInfo(
            "Queue time",
            "Started jobs by time from submission to start; the colour scale gives their number. Dots carry a job's "
            "id.",
            unit="s",
        ),
        Query(
            increase("sbg_job_queue_duration_seconds_bucket", "le", labels=("operation", "le")),
            "{{le}}",
            exemplar=True,
            step="10m",
        ),
    )

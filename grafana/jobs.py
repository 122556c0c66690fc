"""What is shown of jobs, on the dashboard of all accounts and on that of one."""

from typing import Final

from grafana_foundation_sdk.builders import stat, timeseries

from grafana import look
from grafana.pages import Cell, Row, cells
from grafana.panels import ALARM, ATTENTION, Column, Says, bars, durations, lines, rows, tile
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
"""Seconds without progress after which the alert calls a job stuck."""
_STEP: Final = "5m"
"""What is counted is shown by the minute rather than by the second."""
_ACCOUNT_LINK: Final = (
    "This account",
    "/d/sbg-one-account?var-datasource=${datasource}&var-account=${__data.fields.Account}&${__url_time_range}",
)
_LISTED: Final = each("sbg_jobs", "operation", "state", where=OPERATION)
_UNFINISHED: Final = each("sbg_jobs", "operation", "state", where=f'{OPERATION}, state!="finished"')
_STILL: Final = since(job("sbg_unfinished_job_progress_timestamp_seconds"))
_OLDEST: Final = since(f"min(sbg_unfinished_jobs_oldest_timestamp_seconds{{{OPERATION}}})")
_WHY: Final = {code: (f"{code} {meaning}", "") for code, meaning in look.CODES.items()} | {
    "none": ("no code given", "")
}


def failed() -> stat.Panel:
    """How many jobs have failed files."""
    says = Says(
        "Failed jobs",
        "Jobs with failed files that run, or finished within failed_job_window (a day, unless configured), those "
        "included that are too many to be shown one by one; these are not told apart by operation.",
        alerts=("SbgCopyFailed", "SbgFilesFailed"),
    )
    return tile(says, now(FAILED_JOBS), steps=ALARM)


def last_failure() -> stat.Panel:
    """Since when there is something to look at."""
    says = Says(
        "Last failed file",
        "When a failed file was last counted, by the exporter's clock. It is remembered for ever, also over restarts.",
        unit="dateTimeFromNow",
        alerts=("SbgFilesFailed",),
    )
    last = f"max({each('sbg_last_failure_counted_timestamp_seconds', 'operation', where=OPERATION)}) * 1000"
    counted = each("sbg_jobs_submitted_total", "operation", where=OPERATION)
    return tile(says, now(or_zero(last, counted)), said={"0": ("never", "")})


def accounts_down() -> stat.Panel:
    """Whether anything can be known at all."""
    says = Says(
        "Accounts down",
        "Accounts whose last poll failed: the token is refused, the platform is under maintenance or out of reach. "
        "What is shown of them is as old as their last good poll.",
        alerts=("SbgAccountUnreachable", "SbgTokenRefused"),
    )
    return tile(says, now(f"sum(1 - {each('sbg_up')})"), steps=ALARM)


def unfinished() -> stat.Panel:
    """How many jobs run or wait."""
    says = Says("Unfinished jobs", "Jobs that are submitted, resolving or running, as of the last poll.")
    return tile(says, now(f"sum({_UNFINISHED})"))


def oldest() -> stat.Panel:
    """How long something has been running."""
    says = Says("Oldest unfinished", "Time since the submission of the oldest unfinished job.", unit="s")
    return tile(says, now(or_zero(_OLDEST, _LISTED)), said={"0": ("none", "")})


def stuck() -> stat.Panel:
    """Whether jobs move."""
    says = Says(
        "Stuck jobs",
        "Unfinished jobs shown one by one of which no count and no state has moved for half an hour.",
        alerts=("SbgJobStuck",),
    )
    return tile(says, now(or_zero(f"count({_STILL} > {_STUCK})", _LISTED)), steps=ATTENTION)


def failures() -> Row:
    """Which jobs failed, and why."""
    finished = job("sbg_failed_job_finished_timestamp_seconds")
    table = rows(
        Says(
            "Failed jobs",
            "Each job with failed files, the one found last on top: when its first failed file was counted, when it "
            "finished, and the up to three most frequent error codes of its result, which the platform gives when the "
            "job ends. Jobs that failed before counting began have no time of detection.",
            alerts=("SbgCopyFailed",),
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
            Column("Main error", "code_1", said=_WHY, empty="not known yet"),
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
    why = bars(
        Says(
            "Why: errors of these jobs",
            "Error records of the failed jobs beside, by the platform's code; of each job the three most frequent. "
            "There may be fewer records than failed files.",
            empty="No errors to show",
        ),
        now(f"sort_desc({by_code})", "{{code}}"),
        steps=((None, look.FAILURE),),
        said=_WHY,
    )
    return Row("What failed, and why", (Cell(table, 24, 8), *cells(8, 7, why, _files_failed(), _outcomes())))


def running() -> Row:
    """What is under way."""
    expected, completed, failed = (
        job(f"sbg_unfinished_job_files_{count}") for count in ("expected", "completed", "failed")
    )
    progress = f"({completed} + {failed}) / clamp_min({expected}, 1)"
    table = rows(
        Says(
            "Unfinished jobs",
            "The oldest unfinished jobs (up to job_series of each account), as of the last poll: how far each is, "
            "how old, and how long ago a count or its state last moved. Orange: not for half an hour.",
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
                "Not moved for", "still", now(_STILL), "s", 115, steps=((None, look.PLAIN), (_STUCK, look.LEGIBLE_LOOK))
            ),
        ),
        sort="Age",
    )
    by_state = lines(
        Says(
            "Unfinished jobs by state",
            "Jobs that the platform lists as submitted, resolving or running, as of the last poll.",
        ),
        Query(f"sum by (state) ({_UNFINISHED})", "{{state}}"),
        colors=look.STATES,
        stacked=True,
    )
    return Row("What runs", (Cell(table, 17, 8), Cell(by_state, 7, 8)))


def _files_failed() -> timeseries.Panel:
    return lines(
        Says(
            "Files failed",
            "Failed files counted per step, by operation; the dots carry a job's id. What was counted while nobody "
            "scraped does not show here: the table above and the tile of the last failed file know it.",
            alerts=("SbgFilesFailed",),
        ),
        Query(increase("sbg_files_failed_total", "operation"), "{{operation}}", exemplar=True, step=_STEP),
        colors={"copy": look.FAILURE, "move": "light-red", "delete": "dark-red"},
        stacked=True,
        bars=True,
    )


def _outcomes() -> timeseries.Panel:
    return lines(
        Says(
            "Jobs finished",
            "Jobs finished per step, by outcome. incomplete: no file failed, but fewer completed than there are; lost: "
            "gone from the platform before it finished. What was counted while nobody scraped does not show here.",
            alerts=("SbgJobIncomplete", "SbgJobLost"),
        ),
        Query(
            increase("sbg_jobs_finished_total", "outcome", labels=("operation", "outcome")),
            "{{outcome}}",
            exemplar=True,
            step=_STEP,
        ),
        colors=look.OUTCOMES,
        stacked=True,
        bars=True,
    )


def pace() -> Row:
    """How fast the jobs are, and how long they take."""
    files = lines(
        Says("Files per second", "Files completed per second, by operation.", unit="files/s"),
        Query(rate("sbg_files_completed_total", "operation"), "{{operation}}", step="1m"),
        colors=look.OPERATIONS,
        stacked=True,
    )
    ran = durations(
        Says(
            "How long jobs ran",
            "Jobs by the time from their start to their end; the scale says how many. A dot is a job, with its id.",
            unit="s",
        ),
        Query(
            increase("sbg_job_duration_seconds_bucket", "le", labels=("operation", "outcome", "le")),
            "{{le}}",
            exemplar=True,
            step="5m",
        ),
    )
    run_time = _quantiles("Run time", "sbg_job_duration_seconds", "start", "end", ("operation", "outcome"))
    queue = _quantiles("Time in the queue", "sbg_job_queue_duration_seconds", "submission", "start")
    return Row("How fast, and how long it takes", cells(12, 7, files, ran, run_time, queue))


def _quantiles(
    title: str, histogram: str, begin: str, end: str, labels: tuple[str, ...] = ("operation",)
) -> timeseries.Panel:
    return lines(
        Says(
            title,
            f"From {begin} to {end}: half of the jobs took less, 9 of 10, 99 of 100; estimated from the histogram's "
            "buckets.",
            unit="s",
        ),
        *(
            Query(quantile(share, histogram, labels), legend, exemplar=True, step="5m")
            for share, legend in zip((0.5, 0.9, 0.99), look.QUANTILES, strict=True)
        ),
        colors=look.QUANTILES,
    )

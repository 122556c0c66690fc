"""The *Files and jobs* dashboard for data managers: what was moved, and what failed, per day, week and month."""

from collections.abc import Mapping
from typing import Final

from grafana_foundation_sdk.builders import bargauge, statetimeline
from grafana_foundation_sdk.builders import stat as stat_panel
from grafana_foundation_sdk.builders import table as table_panel
from grafana_foundation_sdk.builders import timeseries as timeseries_panel
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import BarAlignment

from grafana import jobs, theme
from grafana.layout import Cell, Page, Row, accounts, cells, operations, period
from grafana.panels import (
    Column,
    PanelInfo,
    Tile,
    amounts,
    bar_gauge,
    events,
    table,
    tiles,
    timeseries,
)
from grafana.queries import OPERATION, Query, behind, increase, now

_PERIOD: Final = "[$period] offset -$period"
"""The period that begins at a point, even if it has not ended yet."""
_RANGES: Final = {"24 hours": "[1d]", "7 days": "[7d]", "30 days": "[30d]"}
_COLUMNS: Final = {"24 h": "[1d]", "7 d": "[7d]", "30 d": "[30d]"}
_PER: Final = "${period:text}"
_WHICH: Final = (
    "The first period may be incomplete, and the last one is not over yet. Grafana's weeks begin on Thursday; a month "
    "is 30 days. To compare weeks or months, choose a time range of several."
)
_FAILED_SHARE: Final = ((None, theme.PLAIN), (0.01, theme.WARNING_TEXT), (0.05, theme.FAILURE))


def _completed(*by: str, within: str) -> str:
    return increase("sbg_files_completed_total", *by, within=within)


def _failed(*by: str, within: str) -> str:
    return increase("sbg_files_failed_total", *by, within=within)


def _share(*by: str, within: str) -> str:
    """Failed files as a share of those that ended; nothing where none did."""
    failed = _failed(*by, within=within)
    return f"{failed} / ({failed} + {_completed(*by, within=within)} > 0)"


def _summary() -> stat_panel.Panel:
    completed = [Tile(f"Files, last {name}", f"round({_completed(within=span)})") for name, span in _RANGES.items()]
    shares = [
        Tile(
            f"Failed, last {name}",
            f"({_share(within=span)} or 0 * {_completed(within=span)})",
            "percentunit",
            ((None, theme.NONE), (0.01, theme.WARNING_TEXT), (0.05, theme.FAILURE)),
            {"0": ("none", "")},
            decimals=2,
        )
        for name, span in _RANGES.items()
    ]
    info = PanelInfo(
        "Now",
        "Completed files, and failed files as a share of completed and failed ones: in the last 24 hours, 7 days and "
        "30 days. Orange from 1 %, red from 5 %.",
        alerts=("SbgFailureRatioHigh",),
        empty="No data: Prometheus does not scrape sbg-exporter, or there is no account",
    )
    return tiles(info, *completed, *shares)


def _files() -> timeseries_panel.Panel:
    return _bars(
        PanelInfo(f"Files per {_PER}", f"Completed files per period, by operation. {_WHICH}"),
        _completed("operation", within=_PERIOD),
        "{{operation}}",
        theme.OPERATIONS,
    )


def _bars(info: PanelInfo, expression: str, legend: str, colors: Mapping[str, str]) -> timeseries_panel.Panel:
    panel = timeseries(info, Query(expression, legend, step="$period"), colors=colors, stacked=True, bars=True)
    return panel.bar_alignment(BarAlignment.AFTER).bar_width_factor(0.8)


def _failures() -> timeseries_panel.Panel:
    panel = timeseries(
        PanelInfo(
            f"Failure ratio per {_PER}",
            "Failed files as a share of failed and completed ones per period, by operation; no point where none ended. "
            f"{_WHICH}",
            "percentunit",
            ("SbgFailureRatioHigh",),
        ),
        Query(_share("operation", within=_PERIOD), "{{operation}}", step="$period"),
        colors=theme.OPERATIONS,
    )
    return panel.point_size(7).axis_soft_max(0.05)


def _jobs() -> timeseries_panel.Panel:
    panel = events(
        PanelInfo(
            f"Jobs per {_PER}",
            "Finished jobs per period, by outcome, on a logarithmic axis: all but succeeded are bars. incomplete: "
            f"files are missing, but none failed. lost: the job disappeared from the platform. {_WHICH}",
            alerts=("SbgJobIncomplete", "SbgJobLost"),
        ),
        Query(
            behind(
                "outcome",
                [outcome for outcome in theme.OUTCOMES if outcome != "failed"],
                increase("sbg_jobs_finished_total", "outcome", labels=("operation", "outcome"), within=_PERIOD),
            ),
            "{{outcome}}",
            step="$period",
        ),
        colors=theme.OUTCOMES,
        normal=("succeeded",),
        front="failed",
    )
    steps = model.DynamicConfigValue("custom.lineInterpolation", "stepAfter")  # a step for each period, as the bars
    return panel.bar_alignment(BarAlignment.AFTER).override_by_regexp("/^succeeded$/", [steps])


def _by_account() -> statetimeline.Panel:
    busiest = f"topk(10, {_completed('account', within='[30d] @ end() offset -$period')})"
    return amounts(
        PanelInfo(
            f"Accounts per {_PER}",
            "Completed files per period of the ten accounts with the most in 30 days: the more, the stronger. The "
            f"tooltip has the number. {_WHICH}",
        ),
        Query(f"{_completed('account', within=_PERIOD)} and on (account) {busiest}", "{{account}}", step="$period"),
    )


def _errors() -> bargauge.Panel:
    labels = "account, operation, code"
    now_and_then = [
        f"max by ({labels}) (last_over_time(sbg_file_errors_total{{{OPERATION}}}[1h]{offset}))"
        for offset in ("", " offset $__range")
    ]
    # No increase(): a code's series begins with its first errors, and they would be missing.
    by_code = "sum by (code) (clamp_min({0} - ({1} or 0 * {0}), 0))".format(*now_and_then)
    return bar_gauge(
        PanelInfo(
            "Errors by code",
            "Error records of jobs that finished in the time range, by platform error code. There may be fewer records "
            "than failed files.",
            empty="No errors to show",
        ),
        now(f"sort_desc({by_code} > 0)", "{{code}}"),
        steps=((None, theme.FAILURE),),
        value_mappings=jobs.CODES_IN_WORDS,
    )


def _table() -> table_panel.Panel:
    by = ("account", "operation")
    finished = {
        name: increase("sbg_jobs_finished_total", *by, labels=("operation", "outcome"), within=span)
        for name, span in _COLUMNS.items()
    }
    return table(
        PanelInfo(
            "Accounts and operations",
            "Finished jobs, completed files, and failed files as a share of failed and completed ones: in the last 24 "
            "hours, 7 days and 30 days. Only what had jobs in 30 days.",
            unit="string",
            alerts=("SbgFailureRatioHigh",),
            empty="No jobs in the last 30 days",
        ),
        (
            Column("Account", "account", link=jobs.ACCOUNT_LINK),
            Column("Operation", "operation", width=90),
            *(
                Column(f"Jobs, {name}", f"jobs {name}", now(f"round({expr}) > 0"), "locale", 92)
                for name, expr in finished.items()
            ),
            *(
                Column(
                    f"Files, {name}", f"files {name}", now(f"round({_completed(*by, within=span)}) > 0"), "locale", 98
                )
                for name, span in _COLUMNS.items()
            ),
            *(
                Column(
                    f"Failed, {name}",
                    f"failed {name}",
                    now(_share(*by, within=span)),
                    "percentunit",
                    102,
                    value_mappings={"0": ("none", "")},
                    steps=_FAILED_SHARE,
                    decimals=2,
                )
                for name, span in _COLUMNS.items()
            ),
        ),
        sort="Files, 30 d",
    )


def page() -> Page:
    """Build the dashboard."""
    return Page(
        "sbg-files-and-jobs",
        "Files and jobs",
        "Files and jobs per day, week and month, and the share that failed, by account and operation.",
        (accounts(several=True), operations(), period()),
        (
            Row("", (Cell(_summary(), 24, 4),)),
            Row("Over time", (*cells(12, 8, _files(), _failures(), _jobs(), _errors()), Cell(_by_account(), 24, 9))),
            Row("By account and operation", (Cell(_table(), 24, 13),)),
        ),
        since="now-30d",
        refresh="15m",
    )

"""PromQL shared by panels.

Every query first takes the maximum over labels that only distinguish processes (``instance``, ``pod``). Two series of
one account are the same account scraped twice, never two halves of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

ACCOUNT: Final = 'account=~"$account"'
OPERATION: Final = f'{ACCOUNT}, operation=~"$operation"'
CHOSEN_JOB: Final = f'{OPERATION}, job_id=~"$job_id.*"'
"""Selectors for the variables at the top of a dashboard."""

JOB: Final = ("account", "operation", "job_id")


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel.

    Attributes:
        instant: query only the end of the time range.
        exemplar: also query exemplars, which carry a job's id.
        step: minimum time between two points, such as ``5m`` or a variable.
    """

    expr: str
    legend: str = ""
    instant: bool = False
    exemplar: bool = False
    step: str = ""


def now(expr: str, legend: str = "") -> Query:
    """Query only the latest value."""
    return Query(expr, legend, instant=True)


def each(metric: str, *labels: str, where: str = ACCOUNT) -> str:
    """Return one series per combination of ``account`` and *labels*."""
    return f"max by ({', '.join(('account', *labels))}) ({metric}{{{where}}})"


def job(metric: str, where: str = OPERATION) -> str:
    """Return one series per job that has per-job series."""
    return each(metric, "operation", "job_id", where=where)


def rate(metric: str, *by: str, labels: tuple[str, ...] = ("operation",), where: str = OPERATION) -> str:
    """Return the rate per second, summed by *by*; *labels* are the metric's labels besides ``account``."""
    return _summed(f"rate({metric}{{{where}}}[$__rate_interval])", by, labels)


def increase(
    metric: str,
    *by: str,
    labels: tuple[str, ...] = ("operation",),
    where: str = OPERATION,
    within: str = "[$__rate_interval]",
) -> str:
    """Return the increase *within* a step, or another range with its offset, summed by *by*."""
    return _summed(f"increase({metric}{{{where}}}{within})", by, labels)


def _summed(expr: str, by: tuple[str, ...], labels: tuple[str, ...]) -> str:
    grouped = f" by ({', '.join(by)})" if by else ""
    return f"sum{grouped} (max by ({', '.join(('account', *labels))}) ({expr}))"


def quantile(
    share: float, histogram: str, *by: str, labels: tuple[str, ...] = ("operation",), where: str = OPERATION
) -> str:
    """Return the quantile *share* of a histogram, by *by*."""
    buckets = rate(f"{histogram}_bucket", *by, "le", labels=(*labels, "le"), where=where)
    return f"histogram_quantile({share}, {buckets})"


def since(timestamp: str) -> str:
    """Return the seconds since *timestamp*, at least 0 even if the clocks of two machines differ."""
    return f"clamp_min(time() - {timestamp}, 0)"


def or_zero(number: str, known_by: str) -> str:
    """Return *number*, or 0 if it has no result; no value at all if *known_by* has no result."""
    return f"({number}) or 0 * count({known_by})"


def named(label: str, expressions: Mapping[str, str]) -> str:
    """Return several numbers as one query: each has its name in *label*."""
    return " or ".join(f'label_replace({expr}, "{label}", "{name}", "", "")' for name, expr in expressions.items())


def behind(label: str, values: Iterable[str], expr: str) -> str:
    """Return *expr* with the series that have one of *values* first, so that the others are drawn over them.

    Prometheus orders the series of a range by their labels: these get one that comes before *label*.
    """
    return f'label_replace({expr}, "behind", "yes", "{label}", "{"|".join(values)}")'


def _known(kind: str, metric: str) -> str:
    """Return the number of jobs with series of their own and without; the latter have no label ``operation``."""
    hidden = each("sbg_exporter_job_series_hidden", where=f'{ACCOUNT}, kind="{kind}"')
    return f"sum({hidden}) + (count({job(metric)}) or vector(0))"


FAILED_JOBS: Final = _known("failed", "sbg_failed_job_files_failed")
UNFINISHED_JOBS: Final = _known("unfinished", "sbg_unfinished_job_files_expected")
"""Numbers of jobs, as the tables have them."""

ACCOUNT_STATE: Final = (
    f"{each('sbg_up')}"
    f" + (2 * (1 - {each('sbg_auth_ok')}) or 0 * {each('sbg_up')})"
    f" + (4 * {each('sbg_maintenance')} or 0 * {each('sbg_up')})"
)
"""0: down, 1: up, 2 and 3: token refused, 4 and more: under maintenance."""


def _waiting(reason: str) -> str:
    return each("sbg_exporter_waiting", where=f'{ACCOUNT}, reason="{reason}"')


WAITING: Final = " + ".join(
    f"{number} * {_waiting(reason)}"
    for number, reason in enumerate(("allowance", "yielding", "rate_limited", "maintenance", "token"), 1)
)
"""0: not waiting; else the number of the reason."""

_DELAYED: Final = " + ".join(
    f"{number}0 * {_waiting(reason)}" for number, reason in enumerate(("allowance", "yielding", "rate_limited"), 1)
)
_WORST: Final = f"bottomk(10, max by (account) (avg_over_time(sbg_up{{{ACCOUNT}}}[$__range] @ end())))"
STATES_OVER_TIME: Final = f"({ACCOUNT_STATE} + ({_DELAYED} or 0 * {each('sbg_up')})) and on (account) {_WORST}"
"""ACCOUNT_STATE, and in tens the reason why an account waits that is up. Of the ten accounts that were down longest."""


def main_code(where: str = OPERATION) -> str:
    """Return the most frequent error code of each failed job as label ``code_1``."""
    by = ", ".join(JOB)
    errors = each("sbg_failed_job_errors", "operation", "job_id", "code", where=where)
    return f'max by ({by}, code_1) (label_replace(topk by ({by}) (1, {errors}), "code_1", "$1", "code", "(.*)"))'

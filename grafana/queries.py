"""The PromQL that panels share.

Every query first takes the maximum over what only tells processes apart (``instance``, ``pod``): two series of one
account are the same account seen twice, never two halves of it.
"""

from dataclasses import dataclass
from typing import Final

ACCOUNT: Final = 'account=~"$account"'
OPERATION: Final = f'{ACCOUNT}, operation=~"$operation"'
"""What the variables at the top of a dashboard select."""

JOB: Final = ("account", "operation", "job_id")


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel.

    Attributes:
        instant: only the value at the end of the time range is asked for.
        exemplar: the points that carry a job's id are asked for, too.
        step: the least time between two points, such as ``5m``.
    """

    expr: str
    legend: str = ""
    instant: bool = False
    exemplar: bool = False
    step: str = ""


def now(expr: str, legend: str = "") -> Query:
    """Only the latest value."""
    return Query(expr, legend, instant=True)


def each(metric: str, *labels: str, where: str = ACCOUNT) -> str:
    """One series for each combination of ``account`` and *labels*."""
    return f"max by ({', '.join(('account', *labels))}) ({metric}{{{where}}})"


def job(metric: str) -> str:
    """One series for each job that is shown one by one."""
    return each(metric, "operation", "job_id", where=OPERATION)


def rate(metric: str, *by: str, labels: tuple[str, ...] = ("operation",), where: str = OPERATION) -> str:
    """Per second, summed by *by*; *labels* are those that the metric has besides ``account``."""
    return _summed(f"rate({metric}{{{where}}}[$__rate_interval])", by, labels)


def increase(metric: str, *by: str, labels: tuple[str, ...] = ("operation",), where: str = OPERATION) -> str:
    """Per step, summed by *by*."""
    return _summed(f"increase({metric}{{{where}}}[$__rate_interval])", by, labels)


def _summed(expr: str, by: tuple[str, ...], labels: tuple[str, ...]) -> str:
    return f"sum by ({', '.join(by)}) (max by ({', '.join(('account', *labels))}) ({expr}))"


def quantile(share: float, histogram: str, labels: tuple[str, ...] = ("operation",), where: str = OPERATION) -> str:
    """The duration below which this share of the observations lies."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', 'le', labels=(*labels, 'le'), where=where)})"


def since(timestamp: str) -> str:
    """Seconds that have passed; never fewer than 0, when the clocks of two machines differ."""
    return f"clamp_min(time() - {timestamp}, 0)"


def or_zero(number: str, known_by: str) -> str:
    """*number*, or 0 where it counts nothing; no value at all while nothing is known: that is, without *known_by*."""
    return f"({number}) or 0 * count({known_by})"


_HIDDEN: Final = f'{ACCOUNT}, kind="failed"'
FAILED_JOBS: Final = (
    f"sum({each('sbg_exporter_job_series_hidden', where=_HIDDEN)})"
    f" + (count({job('sbg_failed_job_files_failed')}) or vector(0))"
)
"""How many failed jobs there are; what is hidden is not known by operation."""

ACCOUNT_STATE: Final = (
    f"{each('sbg_up')}"
    f" + (2 * (1 - {each('sbg_auth_ok')}) or 0 * {each('sbg_up')})"
    f" + (4 * {each('sbg_maintenance')} or 0 * {each('sbg_up')})"
)
"""0 down, 1 up, 2 and 3 token refused, 4 and more under maintenance."""


def ranked_codes(rank: int) -> str:
    """The *rank*-th most frequent error code of each failed job, as label ``code_<rank>``."""
    rest = each("sbg_failed_job_errors", "operation", "job_id", "code", where=OPERATION)
    by = ", ".join(JOB)
    for _ in range(rank - 1):
        rest = f"({rest} unless topk by ({by}) (1, {rest}))"
    return (
        f'max by ({by}, code_{rank}) (label_replace(topk by ({by}) (1, {rest}), "code_{rank}", "$1", "code", "(.*)"))'
    )

"""PromQL shared by panels.

Every query first takes the maximum over labels that only distinguish processes (``instance``, ``pod``). Two series of
one account are the same account scraped twice, never two halves of it.
"""

from dataclasses import dataclass
from typing import Final

ACCOUNT: Final = 'account=~"$account"'
OPERATION: Final = f'{ACCOUNT}, operation=~"$operation"'
"""Selectors for the variables at the top of a dashboard."""

JOB: Final = ("account", "operation", "job_id")


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel.

    Attributes:
        instant: query only the end of the time range.
        exemplar: also query exemplars, which carry a job's id.
        step: minimum time between two points, such as ``5m``.
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


def job(metric: str) -> str:
    """Return one series per job that has per-job series."""
    return each(metric, "operation", "job_id", where=OPERATION)


def rate(metric: str, *by: str, labels: tuple[str, ...] = ("operation",), where: str = OPERATION) -> str:
    """Return the rate per second, summed by *by*; *labels* are the metric's labels besides ``account``."""
    return _summed(f"rate({metric}{{{where}}}[$__rate_interval])", by, labels)


def increase(metric: str, *by: str, labels: tuple[str, ...] = ("operation",), where: str = OPERATION) -> str:
    """Return the increase per step, summed by *by*."""
    return _summed(f"increase({metric}{{{where}}}[$__rate_interval])", by, labels)


def _summed(expr: str, by: tuple[str, ...], labels: tuple[str, ...]) -> str:
    return f"sum by ({', '.join(by)}) (max by ({', '.join(('account', *labels))}) ({expr}))"


def quantile(share: float, histogram: str, labels: tuple[str, ...] = ("operation",), where: str = OPERATION) -> str:
    """Return the quantile *share* of a histogram."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', 'le', labels=(*labels, 'le'), where=where)})"


def since(timestamp: str) -> str:
    """Return the seconds since *timestamp*, at least 0 even if the clocks of two machines differ."""
    return f"clamp_min(time() - {timestamp}, 0)"


def or_zero(number: str, known_by: str) -> str:
    """Return *number*, or 0 if it has no result; no value at all if *known_by* has no result."""
    return f"({number}) or 0 * count({known_by})"


_HIDDEN: Final = f'{ACCOUNT}, kind="failed"'
FAILED_JOBS: Final = (
    f"sum({each('sbg_exporter_job_series_hidden', where=_HIDDEN)})"
    f" + (count({job('sbg_failed_job_files_failed')}) or vector(0))"
)
"""Number of failed jobs. The metric for hidden jobs has no label ``operation``."""

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


def ranked_codes(rank: int) -> str:
    """Return the *rank*-th most frequent error code of each failed job as label ``code_<rank>``."""
    rest = each("sbg_failed_job_errors", "operation", "job_id", "code", where=OPERATION)
    by = ", ".join(JOB)
    for _ in range(rank - 1):
        rest = f"({rest} unless topk by ({by}) (1, {rest}))"
    return (
        f'max by ({by}, code_{rank}) (label_replace(topk by ({by}) (1, {rest}), "code_{rank}", "$1", "code", "(.*)"))'
    )

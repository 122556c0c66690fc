"""The settings that an account may have of its own, and how their values are written and checked everywhere."""

import re
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field

UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)")
_LONGEST: Final = 366 * 86400.0


def seconds(value: object) -> float:
    """A duration in seconds: *value* is a number, or text with a unit such as ``30s``, ``5m``, ``1h``, ``1d``.

    Raises:
        ValueError: *value* is not a duration, or too long.
    """
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        number = float(match[1]) * UNITS[match[2] or "s"]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(min(value, 2 * _LONGEST))
    else:
        raise ValueError('expected seconds, or a duration such as "30s", "5m", "1h"')
    if not number <= _LONGEST:
        raise ValueError('must be at most "366d"')
    return number


def _at_least_a_second(value: float) -> float:
    if value < 1:
        raise ValueError("must be at least 1s")
    return value


PollInterval = Annotated[float, BeforeValidator(seconds), AfterValidator(_at_least_a_second)]
RateShare = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
JobSeries = Annotated[int, Field(ge=0, le=10000)]


class OwnSettings(NamedTuple):
    """What one account has of its own; None is the value that all accounts have."""

    poll_interval: float | None = None
    rate_share: float | None = None
    job_series: int | None = None

    @property
    def given(self) -> dict[str, float]:
        """Key to value, for each that is not None."""
        return {key: value for key, value in self._asdict().items() if value is not None}

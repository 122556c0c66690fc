"""What the headers of a response say: rate limit, time, size of the list, pauses. Pure.

The names in *headers* are in lower case.
"""

from collections.abc import Mapping
from typing import Final

from exporter.api.models import RateLimit
from exporter.api.times import http_date

_MILLISECONDS_FROM: Final = 1e11
"""Reset values from here on are milliseconds, as in old samples. As seconds this would be the year 5138."""
_LARGEST_NUMBER: Final = 2**53


def parse_rate_limit(headers: Mapping[str, str]) -> RateLimit:
    """Parse the rate limit."""
    reset = _number(headers.get("x-ratelimit-reset"))
    if reset is not None and reset > _MILLISECONDS_FROM:
        reset /= 1000
    limit, remaining = _number(headers.get("x-ratelimit-limit")), _number(headers.get("x-ratelimit-remaining"))
    return RateLimit(
        None if limit is None else int(limit),
        None if remaining is None else int(remaining),
        reset if reset is not None and reset > 0 else None,
    )


def parse_date(headers: Mapping[str, str]) -> float | None:
    """Parse the platform's time of the response (``Date``) into Unix seconds; None if absent or unreadable."""
    return http_date(headers.get("date", ""))


def parse_total(headers: Mapping[str, str]) -> int | None:
    """Parse the platform's count of the list's jobs (``X-Total-Matching-Query``); None if absent or unreadable."""
    total = _number(headers.get("x-total-matching-query"))
    return None if total is None or total < 0 else int(total)


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Parse the seconds of ``Retry-After``, a number or a date; None if absent or unreadable."""
    text = headers.get("retry-after", "")
    seconds = _number(text)
    if seconds is None:
        at, date = http_date(text), parse_date(headers)
        seconds = None if at is None or date is None else at - date
    return seconds if seconds is not None and seconds >= 0 else None


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else None
    except ValueError:
        return None
    return number if number is not None and abs(number) < _LARGEST_NUMBER else None

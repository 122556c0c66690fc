"""Times in the platform's many forms. Pure."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

_LONGEST_TIME: Final = 64
_EARLIEST: Final = 1e8
"""1973: a smaller number is no time. From a thousand times this, it counts milliseconds, and so on."""
_LATEST: Final = datetime.max.replace(tzinfo=UTC).timestamp()
_NUMERAL: Final = re.compile(r"[0-9]{9,19}(?:\.[0-9]{1,9})?")
_ZONE: Final = re.compile(r"\s*(?:UTC|GMT|Z)$|\s+(?=[+-][0-9:]+$)")
_LEAP_SECOND: Final = re.compile(r"(?<=:[0-5][0-9]:)60")


def parse_time(value: object) -> float | None:
    """Parse a time into Unix seconds; None if it is none.

    It may be an ISO 8601 time (UTC if it names no zone), or a number of seconds, milliseconds, microseconds or
    nanoseconds since 1970, by its size.
    """
    seconds = _seconds_of_text(value) if type(value) is str and len(value) <= _LONGEST_TIME else _seconds(value)
    return seconds if seconds is not None and seconds > 0 else None


def is_bad_time(value: object) -> bool:
    """Whether *value* was to be a time, but is none."""
    return value is not None and value != "" and _seconds(value) is None


def _seconds(value: object) -> float | None:
    """Return Unix seconds, not positive where servers mean "never" by year 1 or 1970; None for no time."""
    if type(value) is str:
        return _seconds_of_text(value) if len(value) <= _LONGEST_TIME else None
    return _seconds_of_number(value) if type(value) is int or type(value) is float else None


def _seconds_of_number(number: float) -> float | None:
    for divisor in (1, 1e3, 1e6, 1e9):
        if number < _EARLIEST * 1e3 * divisor:
            return number / divisor if number == 0 or _EARLIEST * divisor <= number <= _LATEST * divisor else None
    return None


@lru_cache(maxsize=4096)  # The same times come with every poll, and parsing them is half of the cost of a page.
def _seconds_of_text(text: str) -> float | None:
    text = text.strip().upper()
    if _NUMERAL.fullmatch(text):
        return _seconds_of_number(float(text))
    if text[:1].isalpha():  # as in HTTP headers
        return http_date(text)
    text = _ZONE.sub(lambda zone: "+00:00" if zone[0].strip() else "", text)
    try:
        time = datetime.fromisoformat(_LEAP_SECOND.sub("59", text))
    except ValueError:
        return None
    return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()


def http_date(text: str) -> float | None:
    """Parse a time as in HTTP headers into Unix seconds; None if it is none."""
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # OverflowError for years that datetime does not support.
        return None
    return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()

"""Rule 8: when a job was submitted.

The platform's answers do not say. Its job ids seem to carry the time in milliseconds above their lowest 20 bits. That
is undocumented: seven of the ten ids known decode to within a second of their documented times.
"""

from typing import Final

ID_EPOCH: Final = 1483228800
"""2017-01-01T00:00:00Z, Unix seconds: where the time in the platform's job ids starts."""
_ID_TIME_SHIFT: Final = 20
_MAX_ID_LENGTH: Final = 20
_MAX_AGE: Final = 45 * 86400.0
"""The platform forgets a job a month after its end, so an older time is no submission time."""
_CLOCK_SLACK: Final = 300.0
_START_SLACK: Final = 2.0


def time_in_id(job_id: str) -> float | None:
    """The time that a job id seems to carry, Unix seconds; None for an id that is not a number."""
    if not job_id.isascii() or not job_id.isdigit() or len(job_id) > _MAX_ID_LENGTH:
        return None
    return ID_EPOCH + (int(job_id) >> _ID_TIME_SHIFT) / 1000


def submission_time(job_id: str, first_seen: float, started_on: float | None, *, seen_submitted: bool) -> float | None:
    """When a job was submitted, by the platform's clock; None if that cannot be known.

    Args:
        job_id: the job's id.
        first_seen: when it was first observed.
        started_on: when it started; None while unknown.
        seen_submitted: whether it was SUBMITTED when it was first observed.
    """
    encoded = time_in_id(job_id)
    if (
        encoded is not None
        and first_seen - _MAX_AGE < encoded <= first_seen + _CLOCK_SLACK
        and (started_on is None or encoded <= started_on + _START_SLACK)
    ):
        return encoded
    return first_seen if seen_submitted else None

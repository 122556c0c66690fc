"""What a reload may change for a poller at work."""

from dataclasses import dataclass

from exporter.counting.values import Rules


@dataclass(frozen=True, slots=True)
class PollSchedule:
    """When to poll, and how long the results are valid; seconds.

    Attributes:
        full_listing_interval: how old a complete listing of a large account may become.
        stale_after: age at which gauges are hidden.
        first: delay before the first poll, so that accounts do not all begin at once.
        phase: offset of this account's later polls within the poll interval.
    """

    poll_interval: float
    full_listing_interval: float
    stale_after: float
    first: float
    phase: float


@dataclass(frozen=True, slots=True)
class PollerSettings:
    """What one account is polled by; a reload replaces it.

    Attributes:
        schedule: when to poll; the delay of the first poll has no effect any more.
        rules: the settings that counting depends on.
        request_timeout: seconds that a request may take.
        show_username: whether errors may name users.
    """

    schedule: PollSchedule
    rules: Rules
    request_timeout: float
    show_username: bool

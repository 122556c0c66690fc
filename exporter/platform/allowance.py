"""How many requests may still be made, and when.

The platform allows a user so many requests in each window, 1000 in 5 minutes when last documented, shared with all of
the user's own scripts. The exporter takes ``rate_share`` of it, learned from the ``X-RateLimit-*`` headers of each
answer, and is silent after a 429 until the platform's window ends.

Only differences of the platform's own times are used (the reset minus the ``Date`` of the same answer), so that a wrong
clock on this machine changes nothing.
"""

import threading
from typing import Final

from exporter.platform.wire import Quota

DEFAULT_LIMIT: Final = 1000
WINDOW_SECONDS: Final = 300.0
_ROUNDING: Final = 1.0
"""The reset and the date come in whole seconds: the window may end up to this much later than they say."""


def seconds_until_reset(quota: Quota, date: float | None) -> float:
    """Seconds until the window ends; a whole window where the headers do not say, or say what cannot be."""
    wait = _told(quota, date)
    return WINDOW_SECONDS if wait is None else wait


def _told(quota: Quota, date: float | None) -> float | None:
    """Seconds until the reset by the platform's own clock; None where absent or not within a window from now."""
    if quota.reset is None or date is None:
        return None
    wait = quota.reset - date
    return wait + _ROUNDING if 0 <= wait <= WINDOW_SECONDS else None


class Allowance:
    """One user's requests. Safe to share between threads. Times are monotonic seconds of this machine."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._lock = threading.Lock()
        self._used = 0
        self._window_ends: float | None = None
        self._silent_until = 0.0
        self._known = Quota(None, None, None)

    def take(self, now: float) -> float:
        """Take one request: 0.0 when it may be made now, else seconds until it may be asked for again."""
        with self._lock:
            if now < self._silent_until:
                return self._silent_until - now
            if self._window_ends is None or now >= self._window_ends:
                self._used = 0
                self._window_ends = now + WINDOW_SECONDS
            if self._used >= self._requests():
                return self._window_ends - now
            self._used += 1
            return 0.0

    def learn(self, quota: Quota, date: float | None, now: float) -> None:
        """Take in the headers of one answer."""
        if quota.limit is None and quota.remaining is None:
            return
        wait = _told(quota, date)
        with self._lock:
            if wait is not None:
                self._window_ends = now + wait
            self._known = quota

    def silence(self, wait: float, now: float) -> None:
        """Make no request for *wait* seconds."""
        with self._lock:
            self._silent_until = max(self._silent_until, now + wait)

    @property
    def requests(self) -> int:
        """Requests that the exporter may make per window; at least one."""
        with self._lock:
            return self._requests()

    @property
    def used(self) -> int:
        """Requests made in this window."""
        with self._lock:
            return self._used

    @property
    def known(self) -> Quota:
        """What the platform last said of its limit."""
        with self._lock:
            return self._known

    def _requests(self) -> int:
        limit = self._known.limit if self._known.limit is not None and self._known.limit > 0 else DEFAULT_LIMIT
        return max(1, int(limit * self._share))

"""The time between two looks: what still fits after one look, and before the next one is due. Pure.

The *look* (a small account's list, or the head pages of a large one) is on time at any speed of the platform. Each
request after it is begun only if the platform's latest responses say that it will end in time, and is abandoned when
the next look is due.

*   **Single jobs** get a tenth of the time each, so that one that hangs leaves time for the others. A job gets twice as
    much after each failure, and never less than twice the slowest of the latest responses.
*   **Slices**, the pages of the full listing, get what is left. The time of one slice is kept for them, at most half of
    the time.

So that both end on a slow platform too:

*   Where the look leaves no time for a refresh, every fourth poll makes one request all the same; it may take twice as
    long as a page of the look.
*   Each poll without a slice makes the estimate less careful: at last that of the fastest of the latest slices. If not
    even that fits, one slice may take as long as the request timeout permits, and the next look is as much later.
    After it, looks are on time for five times as long, and twice as long after each such slice that failed, up to an
    hour.
"""

import math
from collections import deque
from statistics import median
from typing import Final

_LATEST: Final = 8
"""Responses to judge the platform's speed by."""
_SHARE_OF_A_JOB: Final = 1 / 10
_FOR_COMMIT: Final = 1 / 20
"""The part of the time that is left for the commit, and for requests that end late."""
_POLLS_WITHOUT_REFRESH: Final = 3
_ON_TIME: Final = 5.0
"""How much longer than a slice that put off a look all looks are on time after it."""
_LONGEST_ON_TIME: Final = 3600.0
_CUT: Final = 0.9
"""The part of the permitted time after which a request that failed is taken to have been cut off."""


class TimeLeft:
    """The time that the requests of one poll may take. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._looks: deque[float] = deque(maxlen=_LATEST)
        self._jobs: deque[float] = deque(maxlen=_LATEST)
        self._slices: deque[float] = deque(maxlen=_LATEST)
        self._next_look = self._refresh_ends = self._time = math.inf
        self._refreshed = self._refresh_refused = False
        self._without_refresh = 0
        self._sliced = self._slice_refused = False
        self._without_slice = 0
        self._may_be_late_at = -math.inf
        self._late = False
        self._late_failures = 0

    def look_ended(self, now: float, next_look: float, *, listing: bool) -> None:
        """Begin the rest of a poll.

        Args:
            now: monotonic seconds.
            next_look: when the next look is due.
            listing: whether slices may follow.
        """
        self._next_look = next_look - (next_look - now) * _FOR_COMMIT if next_look < math.inf else next_look
        self._time = self._next_look - now
        kept = min(self._slice_estimate, self._time / 2) if listing else 0.0
        self._refresh_ends = self._next_look - kept
        self._without_refresh = self._without_refresh + 1 if self._refresh_refused and not self._refreshed else 0
        if self._sliced:
            self._without_slice = 0
        elif self._slice_refused:
            self._without_slice = min(_LATEST, self._without_slice + 1)
        self._refreshed = self._refresh_refused = self._sliced = self._slice_refused = False

    # ---- how long a request may take ----

    def for_job(self, now: float, failures: int = 0) -> float | None:
        """Return the seconds for a single-job request after as many failures; None if it has to wait."""
        left = self.for_page(now)
        if left is None:
            return None
        slowest = max(self._jobs, default=0.0)
        return min(left, max(self._time * _SHARE_OF_A_JOB * 2.0 ** min(failures, 32), 2 * slowest))

    def for_page(self, now: float) -> float | None:
        """Return the seconds for a page that refreshes unfinished jobs; None if it has to wait."""
        left, typical = self._refresh_ends - now, self._typical_look
        if left > 0 and left >= max(typical, self._time * _SHARE_OF_A_JOB):
            self._refreshed = True
            return left
        if not self._refreshed and self._without_refresh >= _POLLS_WITHOUT_REFRESH:
            self._refreshed = True
            return max(2 * typical, left)
        self._refresh_refused = True
        return None

    def for_slice(self, now: float) -> float | None:
        """Return the seconds for a page of the full listing; None if it has to wait."""
        left = self._next_look - now
        self._late = False
        if left > 0 and self._slice_estimate <= left:
            return left
        if self._without_slice >= _LATEST and not self._sliced and now >= self._may_be_late_at:
            self._late = True
            return math.inf
        self._slice_refused = True
        return None

    @property
    def _typical_look(self) -> float:
        return median(self._looks) if self._looks else 0.0

    @property
    def _slice_estimate(self) -> float:
        slowest_first = sorted(self._slices or self._looks, reverse=True)
        return slowest_first[min(self._without_slice, len(slowest_first) - 1)] if slowest_first else 0.0

    # ---- how long it took ----

    def look_answered(self, seconds: float) -> None:
        """Record a page of a look."""
        self._looks.append(seconds)

    def job_answered(self, seconds: float) -> None:
        """Record a single-job response."""
        self._jobs.append(seconds)

    def slice_ended(self, now: float, seconds: float, permitted: float, *, answered: bool) -> None:
        """Record a page of the full listing that took *seconds* of those *permitted*, and whether it was a page."""
        if answered:
            self._slices.append(seconds)
        elif seconds >= _CUT * permitted:
            self._slices.append(2 * seconds)
        if self._late:
            self._late_failures = 0 if answered else self._late_failures + 1
            pause = _ON_TIME * max(seconds, self._slice_estimate) * 2.0 ** min(self._late_failures, 32)
            self._may_be_late_at = now + min(pause, _LONGEST_ON_TIME)
        elif answered:
            self._sliced = True
        else:
            self._slice_refused = True

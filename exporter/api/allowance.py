"""How many requests may still be made, and when.

The platform allows a user so many requests in each window, 1000 in 5 minutes when last documented, shared with all of
the user's own scripts. The exporter takes at most ``rate_share`` of it, whatever its accounts want, and:

* learns the limit and the end of the window from the ``X-RateLimit-*`` headers of each answer;
* is silent after a 429 until the platform's window ends;
* yields to others: when they have used the limit down to a fifth it asks only for what shows new failures, and at a
  twentieth for nothing more in this window, which makes one request in each (the one that tells);
* keeps at least half of its share for watching: reading a long list in slices never takes more than the rest, nor what
  watching took in the window before;
* is written to the state file with each request, so that a crash loop, or ``once`` in cron, cannot overrun it.

Only differences of the platform's own times are used (the reset minus the ``Date`` of the same answer), so that a wrong
clock on this machine changes nothing.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from exporter.api.decoding import Quota

DEFAULT_LIMIT: Final = 1000
WINDOW_SECONDS: Final = 300.0
LONGEST_SILENCE: Final = 3600.0
"""Seconds for which ``Retry-After`` is believed; then the platform is asked again, once."""
ROUNDING: Final = 1.0
"""The reset and the date come in whole seconds: the window may end up to this much later than they say."""
_FEW: Final = 1 / 5
_FEWEST: Final = 1 / 20
_MORE: Final = 1.25
_SLICES_AT_LEAST: Final = 1 / 10
"""So that a listing ends one day, however many jobs are unfinished."""


class Purpose(IntEnum):
    """What a request is for; the earlier claims first."""

    WATCH = 0
    """Who we are, the pages where new jobs appear, the whole list of a small account."""
    JOB = 1
    """Unfinished jobs that those pages did not show, and the results of failed ones."""
    SLICE = 2
    """The whole list of a large account, little by little."""


class Holder(NamedTuple):
    """Whose allowance: a user's at an endpoint, or that of an entry of which nobody knows yet whose it is.

    Attributes:
        username: empty until it is known.
        entry: the configured name while the user is not known, else empty.
    """

    endpoint: str
    username: str
    entry: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """What of an allowance outlives the process; seconds from now.

    Attributes:
        limit: requests per window that the platform allows the user, as last told; None where it never told.
        used: requests made in this window.
        slices: those of them that were slices of a listing.
        window_left: until the window ends.
        silence_left: until the next request may be made after a 429.
    """

    limit: int | None
    used: int
    slices: int
    window_left: float
    silence_left: float


def seconds_until_reset(quota: Quota, date: float | None) -> float:
    """Seconds until the window ends; a whole window where the headers do not say, or say what cannot be."""
    wait = _told(quota, date)
    return WINDOW_SECONDS if wait is None else wait


def _told(quota: Quota, date: float | None) -> float | None:
    """Seconds until the reset by the platform's own clock; None where absent or not within a window from now."""
    if quota.reset is None or date is None:
        return None
    wait = quota.reset - date
    return wait + ROUNDING if 0 <= wait <= WINDOW_SECONDS else None


class Allowance:
    """One user's requests. Safe to share between threads. Times are monotonic seconds of this machine."""

    def __init__(
        self, share: float, *, kept: Kept | None = None, now: float = 0.0, keep: Callable[[Kept], None] | None = None
    ) -> None:
        """An allowance that goes on from what was *kept* at the time *now*.

        Args:
            share: the part of the platform's limit that may be used, 0 to 1.
            kept: what an earlier process left; None when there was none.
            now: monotonic seconds.
            keep: called with what is to outlive this process, whenever that changes.
        """
        self._share = share
        self._keep = keep
        self._lock = threading.RLock()
        self._accounts: set[str] = set()
        self._limit = kept.limit if kept else None
        self._used = kept.used if kept else 0
        self._slices = kept.slices if kept else 0
        self._late = 0
        """Requests made just before the window ends."""
        self._others_before = 0
        """Requests of the window before that were not slices."""
        self._window_ends = now + min(kept.window_left, WINDOW_SECONDS) if kept and kept.window_left > 0 else None
        self._silent_until = now + kept.silence_left if kept else now
        self._written_end = 0.0
        self._window: float | None = None
        self._told = Quota(None, None, None)
        self._remaining: int | None = None
        """What the platform said is left of this window; None until it said so in this window."""

    def join(self, account: str) -> None:
        """Share the allowance with one more of the user's accounts."""
        with self._lock:
            self._accounts.add(account)

    def take(self, now: float, purpose: Purpose = Purpose.WATCH) -> float:
        """Take one request: 0.0 when it may be made now, else seconds until it may be asked for again."""
        with self._lock:
            if now < self._silent_until:
                return self._silent_until - now
            ends = self._turn(now)
            if self._used >= self._most(purpose):
                return ends - now
            self._used += 1
            self._late += ends - now <= 2 * ROUNDING
            self._slices += purpose is Purpose.SLICE
            if self._remaining is not None:
                self._remaining -= 1
            self._write(now)
            return 0.0

    def learn(self, quota: Quota, date: float | None, now: float) -> None:
        """Take in the headers of one answer."""
        if quota.limit is None and quota.remaining is None:
            return
        wait = _told(quota, date)
        with self._lock:
            if wait is not None:
                if self._is_new(now + wait, quota.remaining, now):
                    self._begin_window(used=self._under_way(quota))
                self._window_ends = now + wait
                self._window = max(wait - ROUNDING, self._window or 0.0)
            before, self._limit = self._limit, self._limit if quota.limit is None else quota.limit
            self._told, self._remaining = quota, quota.remaining
            moved = abs((self._window_ends or 0.0) - self._written_end) > 2 * ROUNDING
            if moved or self._limit != before:
                self._write(now)  # or the next process would hold to a window, or a limit, that is not the platform's

    def silence(self, wait: float, now: float) -> None:
        """Make no request for *wait* seconds."""
        with self._lock:
            self._silent_until = max(self._silent_until, now + wait)
            self._write(now)

    def absorb(self, other: "Allowance", now: float) -> None:
        """Count what was made before it was known that this is whose it is."""
        with other._lock:  # noqa: SLF001  # of this class
            used, quota, silent_until = other._used, other._told, other._silent_until  # noqa: SLF001
            ends, window = other._window_ends, other._window  # noqa: SLF001
            other._used = other._slices = 0  # noqa: SLF001
            other._write(now)  # noqa: SLF001
        with self._lock:
            self._turn(now)
            self._used += used
            self._silent_until = max(self._silent_until, silent_until)
            if quota.limit is not None or quota.remaining is not None:
                self._limit = self._limit if quota.limit is None else quota.limit
                self._told, self._remaining = quota, quota.remaining
                self._window_ends, self._window = ends, window
            self._write(now)

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
            return self._told

    @property
    def window(self) -> float:
        """Seconds of a window, as far as the platform's resets have shown it."""
        with self._lock:
            return self._window or WINDOW_SECONDS

    @property
    def accounts(self) -> int:
        """How many accounts draw on it; at least one."""
        with self._lock:
            return max(1, len(self._accounts))

    def budget(self, now: float, interval: float, look: int) -> int:
        """How many requests an account's poll may make beside its *look*, for all polls of the window to have as many.

        One at least, as long as every poll of the window can still look.
        """
        with self._lock:
            ends = self._turn(now)
            left = min(ends - now, self.window)  # a window that has just begun may be told to be shorter
            polls = max(1, int(left / interval)) * self.accounts
            rest = self._most(Purpose.JOB) - self._used - polls * look
            return max(1, rest // polls) if rest > 0 else 0

    def pace(self, requests: float) -> float:
        """Seconds between two polls of one account that each make so many *requests*, for the share to suffice."""
        with self._lock:
            return requests * self.accounts * (self._window or WINDOW_SECONDS) / self._requests()

    def _turn(self, now: float) -> float:
        """Begin a new window where the last one has ended; when it ends."""
        if self._window_ends is None or now >= self._window_ends:
            self._begin_window(used=0)
            self._window_ends = now + WINDOW_SECONDS
        return self._window_ends

    def _begin_window(self, used: int) -> None:
        self._others_before = self._used - self._slices
        # By its own clock the platform may have begun the window that much earlier, and counts those requests in it.
        self._used, self._slices, self._late = max(used, self._late), 0, 0
        self._remaining = None

    def _under_way(self, quota: Quota) -> int:
        """How many requests of a window that has just begun may be ours: one of each account is under way at most."""
        made = (quota.limit or 0) - (quota.remaining or 0)
        return max(1, min(made, self.accounts))

    def _is_new(self, ends: float, remaining: int | None, now: float) -> bool:
        """Whether the platform has begun a new window, a moment before it was due by our reckoning."""
        return (
            self._window_ends is not None
            and ends > self._window_ends + 2 * ROUNDING
            and (
                now >= self._window_ends - 2 * ROUNDING
                or (remaining is not None and self._remaining is not None and remaining > self._remaining)
            )
        )

    def _most(self, purpose: Purpose) -> int:
        """How many requests the window may have had before one more for *purpose*."""
        most, limit = self._requests(), self._limit or 0
        if self._remaining is not None and limit > 0 and limit - self._remaining > self._used:
            if self._remaining <= limit * _FEWEST:
                return 0
            if self._remaining <= limit * _FEW and purpose > Purpose.WATCH:
                return 0
        but_slices = most - int(most * _SLICES_AT_LEAST)
        if purpose is Purpose.JOB:
            return but_slices
        if purpose is Purpose.SLICE:
            half = most // 2 if most > 1 else 1
            # Somewhat more than it took before: what it had no room for does not show in that.
            wanted = max(self._others_before, min(math.ceil(_MORE * self._others_before), but_slices))
            watching = max(0, wanted - (self._used - self._slices))
            return self._used if self._slices >= half else most - watching
        return most

    def _requests(self) -> int:
        limit = self._limit if self._limit is not None and self._limit > 0 else DEFAULT_LIMIT
        return max(1, int(limit * self._share))

    def _write(self, now: float) -> None:
        if self._keep is not None:
            self._written_end = self._window_ends or 0.0
            left = self._window_ends - now if self._window_ends is not None else 0.0
            self._keep(Kept(self._limit, self._used, self._slices, max(0.0, left), max(0.0, self._silent_until - now)))


class Allowances:
    """Every user's allowance. Safe to share between threads."""

    def __init__(
        self,
        share: float,
        *,
        kept: Callable[[Holder], Kept | None] | None = None,
        keep: Callable[[Holder, Kept], None] | None = None,
    ) -> None:
        """None yet.

        Args:
            share: the part of the platform's limit that may be used, 0 to 1.
            kept: what an earlier process left of a holder's allowance.
            keep: called with what is to outlive this process.
        """
        self._share = share
        self._kept = kept
        self._keep = keep
        self._lock = threading.Lock()
        self._allowances: dict[Holder, Allowance] = {}

    def of(self, holder: Holder, now: float) -> Allowance:
        """The one allowance of *holder*."""
        with self._lock:
            if holder not in self._allowances:
                self._allowances[holder] = Allowance(
                    self._share,
                    kept=self._kept(holder) if self._kept else None,
                    now=now,
                    keep=self._keeper(holder),
                )
            return self._allowances[holder]

    def _keeper(self, holder: Holder) -> Callable[[Kept], None] | None:
        keep = self._keep
        return None if keep is None else lambda kept: keep(holder, kept)

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

from exporter.api.decoding import RateLimit

DEFAULT_LIMIT: Final = 1000
WINDOW_SECONDS: Final = 300.0
LONGEST_PAUSE: Final = 3600.0
"""Seconds for which ``Retry-After`` is believed; then the platform is asked again, once."""
ROUNDING: Final = 1.0
"""The reset and the date come in whole seconds: the window may end up to this much later than they say."""
_FEW: Final = 1 / 5
_FEWEST: Final = 1 / 20
_MORE: Final = 1.25
_SLICES_AT_LEAST: Final = 1 / 10
"""So that a listing ends one day, however many jobs are unfinished."""


class Priority(IntEnum):
    """What a request is for; the earlier claims first."""

    DISCOVERY = 0
    """Who we are, the pages where new jobs appear, the whole list of a small account."""
    REFRESH = 1
    """Unfinished jobs that those pages did not show, and the results of failed ones."""
    BACKGROUND = 2
    """The whole list of a large account, little by little."""


class AllowanceKey(NamedTuple):
    """Whose allowance: a user's at an endpoint, or that of an entry of which nobody knows yet whose it is.

    Attributes:
        username: empty until it is known.
        entry: the configured name while the user is not known, else empty.
    """

    endpoint: str
    username: str
    entry: str = ""


@dataclass(frozen=True, slots=True)
class SavedAllowance:
    """What of an allowance outlives the process; seconds from now.

    Attributes:
        limit: requests per window that the platform allows the user, as last told; None where it never told.
        used: requests made in this window.
        slices: those of them that were slices of a listing.
        window_left: until the window ends.
        pause_left: until the next request may be made after a 429.
    """

    limit: int | None
    used: int
    slices: int
    window_left: float
    pause_left: float


def seconds_until_reset(rate_limit: RateLimit, date: float | None) -> float:
    """Seconds until the window ends; a whole window where the headers do not say, or say what cannot be."""
    wait = _told(rate_limit, date)
    return WINDOW_SECONDS if wait is None else wait


def _told(rate_limit: RateLimit, date: float | None) -> float | None:
    """Seconds until the reset by the platform's own clock; None where absent or not within a window from now."""
    if rate_limit.reset is None or date is None:
        return None
    wait = rate_limit.reset - date
    return wait + ROUNDING if 0 <= wait <= WINDOW_SECONDS else None


class Allowance:
    """One user's requests. Safe to share between threads. Times are monotonic seconds of this machine."""

    def __init__(
        self,
        share: float,
        *,
        saved: SavedAllowance | None = None,
        now: float = 0.0,
        save: Callable[[SavedAllowance], None] | None = None,
    ) -> None:
        """An allowance that goes on from what was *saved* at the time *now*.

        Args:
            share: the part of the platform's limit that may be used, 0 to 1.
            saved: what an earlier process left; None when there was none.
            now: monotonic seconds.
            save: called with what is to outlive this process, whenever that changes.
        """
        self._share = share
        self._save = save
        self._lock = threading.RLock()
        self._accounts: set[str] = set()
        self._limit = saved.limit if saved else None
        self._used = saved.used if saved else 0
        self._slices = saved.slices if saved else 0
        self._late = 0
        """Requests made just before the window ends."""
        self._others_before = 0
        """Requests of the window before that were not slices."""
        self._window_ends = now + min(saved.window_left, WINDOW_SECONDS) if saved and saved.window_left > 0 else None
        self._paused_until = now + saved.pause_left if saved else now
        self._written_end = 0.0
        self._window: float | None = None
        self._told = RateLimit(None, None, None)
        self._remaining: int | None = None
        """What the platform said is left of this window; None until it said so in this window."""

    def add_account(self, account: str) -> None:
        """Share the allowance with one more of the user's accounts."""
        with self._lock:
            self._accounts.add(account)

    def take(self, now: float, priority: Priority = Priority.DISCOVERY) -> float:
        """Take one request: 0.0 when it may be made now, else seconds until it may be asked for again."""
        with self._lock:
            if now < self._paused_until:
                return self._paused_until - now
            ends = self._roll_window(now)
            if self._used >= self._limit_for(priority):
                return ends - now
            self._used += 1
            self._late += ends - now <= 2 * ROUNDING
            self._slices += priority is Priority.BACKGROUND
            if self._remaining is not None:
                self._remaining -= 1
            self._write(now)
            return 0.0

    def learn(self, rate_limit: RateLimit, date: float | None, now: float) -> None:
        """Take in the headers of one answer."""
        if rate_limit.limit is None and rate_limit.remaining is None:
            return
        wait = _told(rate_limit, date)
        with self._lock:
            if wait is not None:
                if self._is_new(now + wait, rate_limit.remaining, now):
                    self._begin_window(used=self._under_way(rate_limit))
                self._window_ends = now + wait
                self._window = max(wait - ROUNDING, self._window or 0.0)
            before, self._limit = self._limit, self._limit if rate_limit.limit is None else rate_limit.limit
            self._told, self._remaining = rate_limit, rate_limit.remaining
            moved = abs((self._window_ends or 0.0) - self._written_end) > 2 * ROUNDING
            if moved or self._limit != before:
                self._write(now)  # or the next process would hold to a window, or a limit, that is not the platform's

    def pause_for(self, wait: float, now: float) -> None:
        """Make no request for *wait* seconds."""
        with self._lock:
            self._paused_until = max(self._paused_until, now + wait)
            self._write(now)

    def merge(self, other: "Allowance", now: float) -> None:
        """Count what was made before it was known that this is whose it is."""
        with other._lock:  # noqa: SLF001  # of this class
            used, rate_limit, paused_until = other._used, other._told, other._paused_until  # noqa: SLF001
            ends, window = other._window_ends, other._window  # noqa: SLF001
            other._used = other._slices = 0  # noqa: SLF001
            other._write(now)  # noqa: SLF001
        with self._lock:
            self._roll_window(now)
            self._used += used
            self._paused_until = max(self._paused_until, paused_until)
            if rate_limit.limit is not None or rate_limit.remaining is not None:
                self._limit = self._limit if rate_limit.limit is None else rate_limit.limit
                self._told, self._remaining = rate_limit, rate_limit.remaining
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
    def known(self) -> RateLimit:
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

    def budget(self, now: float, interval: float, discovery: int) -> int:
        """Requests that an account's poll may make beside its *discovery*, for all polls of the window to have as many.

        One at least, as long as every poll of the window can still look.
        """
        with self._lock:
            ends = self._roll_window(now)
            left = min(ends - now, self.window)  # a window that has just begun may be told to be shorter
            polls = max(1, int(left / interval)) * self.accounts
            rest = self._limit_for(Priority.REFRESH) - self._used - polls * discovery
            return max(1, rest // polls) if rest > 0 else 0

    def min_interval(self, requests: float) -> float:
        """Seconds between two polls of one account that each make so many *requests*, for the share to suffice."""
        with self._lock:
            return requests * self.accounts * (self._window or WINDOW_SECONDS) / self._requests()

    def _roll_window(self, now: float) -> float:
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

    def _under_way(self, rate_limit: RateLimit) -> int:
        """How many requests of a window that has just begun may be ours: one of each account is under way at most."""
        made = (rate_limit.limit or 0) - (rate_limit.remaining or 0)
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

    def _limit_for(self, priority: Priority) -> int:
        """How many requests the window may have had before one more for *priority*."""
        most, limit = self._requests(), self._limit or 0
        if self._remaining is not None and limit > 0 and limit - self._remaining > self._used:
            if self._remaining <= limit * _FEWEST:
                return 0
            if self._remaining <= limit * _FEW and priority > Priority.DISCOVERY:
                return 0
        but_slices = most - int(most * _SLICES_AT_LEAST)
        if priority is Priority.REFRESH:
            return but_slices
        if priority is Priority.BACKGROUND:
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
        if self._save is not None:
            self._written_end = self._window_ends or 0.0
            left = self._window_ends - now if self._window_ends is not None else 0.0
            self._save(
                SavedAllowance(
                    self._limit, self._used, self._slices, max(0.0, left), max(0.0, self._paused_until - now)
                )
            )


class AllowancePool:
    """Every user's allowance. Safe to share between threads."""

    def __init__(
        self,
        share: float,
        *,
        saved: Callable[[AllowanceKey], SavedAllowance | None] | None = None,
        save: Callable[[AllowanceKey, SavedAllowance], None] | None = None,
    ) -> None:
        """None yet.

        Args:
            share: the part of the platform's limit that may be used, 0 to 1.
            saved: what an earlier process left of a holder's allowance.
            save: called with what is to outlive this process.
        """
        self._share = share
        self._saved = saved
        self._save = save
        self._lock = threading.Lock()
        self._allowances: dict[AllowanceKey, Allowance] = {}

    def of(self, key: AllowanceKey, now: float) -> Allowance:
        """The one allowance of *key*."""
        with self._lock:
            if key not in self._allowances:
                self._allowances[key] = Allowance(
                    self._share,
                    saved=self._saved(key) if self._saved else None,
                    now=now,
                    save=self._saver(key),
                )
            return self._allowances[key]

    def _saver(self, key: AllowanceKey) -> Callable[[SavedAllowance], None] | None:
        save = self._save
        return None if save is None else lambda saved: save(key, saved)

"""The allowance: how many API requests the exporter may send, and when.

The platform limits the requests of a user per window: 1000 in 5 minutes when last documented. The user's own scripts
share this limit. The exporter uses at most ``rate_share`` of it, for all accounts of the user together. If these
accounts have different shares, the smallest applies: the exporter never takes more than each of them permits.

* It learns the limit and the end of the window from the ``X-RateLimit-*`` headers of each response.
* After a 429 it sends nothing until the platform's window ends.
* It yields to other scripts. When they have left a fifth of the limit, it sends DISCOVERY requests only. When they have
  left a twentieth, it sends nothing until the window ends. The first response of the next window shows what is left.
* The full listing of a large account (BACKGROUND) gets at most half of the share, and none of what the other requests
  needed in the previous window.
* The allowance is saved in the state file with each request, so that a crash loop, or ``once`` in cron, keeps to it.

Windows are measured by the platform's own times only: the reset minus the ``Date`` of the same response. A wrong clock
on this machine changes nothing.
"""

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from exporter.api.models import Priority, RateLimit
from exporter.errors import WaitReason

DEFAULT_LIMIT: Final = 1000
WINDOW_SECONDS: Final = 300.0
LONGEST_PAUSE: Final = 3600.0
"""Maximum pause in seconds after a 429. A longer ``Retry-After`` is not trusted."""
ROUNDING: Final = 1.0
"""Seconds by which the window may end later than the headers say: they give whole seconds."""
_FEW: Final = 1 / 5
_FEWEST: Final = 1 / 20
_MORE: Final = 1.25
_BACKGROUND_SHARE: Final = 1 / 10
"""Part of the share that refreshes of unfinished jobs must leave, so that a full listing always ends."""


class AllowanceKey(NamedTuple):
    """The user at an endpoint that an allowance belongs to, or the account while its user is unknown.

    Attributes:
        username: empty until the platform has named the user.
        entry: the account's configured name while the user is unknown, else empty.
    """

    endpoint: str
    username: str
    entry: str = ""


@dataclass(frozen=True, slots=True)
class SavedAllowance:
    """The part of an allowance that is saved in the state file.

    Attributes:
        limit: requests per window that the platform last reported; None if it never did.
        used: requests sent in this window.
        slices: those of them that were BACKGROUND requests.
        window_left: seconds until the window ends.
        pause_left: seconds until the next request may be sent after a 429.
    """

    limit: int | None
    used: int
    slices: int
    window_left: float
    pause_left: float


def seconds_until_reset(rate_limit: RateLimit, date: float | None) -> float:
    """Return the seconds until the window ends: a full window if the headers are absent or implausible."""
    wait = _reset_in(rate_limit, date)
    return WINDOW_SECONDS if wait is None else wait


def _reset_in(rate_limit: RateLimit, date: float | None) -> float | None:
    """Return the seconds until the reset by the platform's clock; None if absent or not within one window."""
    if rate_limit.reset is None or date is None:
        return None
    wait = rate_limit.reset - date
    return wait + ROUNDING if 0 <= wait <= WINDOW_SECONDS else None


class Allowance:
    """One user's allowance. Thread-safe. Times are this machine's monotonic seconds."""

    def __init__(
        self,
        share: float,
        *,
        saved: SavedAllowance | None = None,
        now: float = 0.0,
        save: Callable[[SavedAllowance], None] | None = None,
    ) -> None:
        """Continue from *saved* at the time *now*.

        Args:
            share: the part of the platform's limit that the exporter may use while no account is added, 0 to 1.
            saved: the state that an earlier process saved, if any.
            now: monotonic seconds.
            save: called with the state to save, after each change.
        """
        self._share = share
        self._save = save
        self._lock = threading.RLock()
        self._accounts: dict[str, float] = {}
        """The accounts that share it, each with the part of the platform's limit that it permits."""
        self._limit = saved.limit if saved else None
        self._used = saved.used if saved else 0
        self._slices = saved.slices if saved else 0
        self._late = 0
        """Requests sent just before the window ends."""
        self._foreground_before = 0
        """Requests of the previous window that were not BACKGROUND."""
        self._window_ends = now + min(saved.window_left, WINDOW_SECONDS) if saved and saved.window_left > 0 else None
        self._paused_until = now + saved.pause_left if saved else now
        self._written_end = 0.0
        self._window: float | None = None
        self._reported = RateLimit(None, None, None)
        self._remaining: int | None = None
        """Requests left in this window; None until the platform has reported it in this window."""

    def add_account(self, account: str, share: float) -> None:
        """Share the allowance with another account of the user, which permits *share* of the platform's limit."""
        with self._lock:
            self._accounts[account] = share

    def remove_account(self, account: str) -> None:
        """Share the allowance no longer with this account."""
        with self._lock:
            self._accounts.pop(account, None)

    def use_shares(self, share: float, share_of: Callable[[str], float]) -> None:
        """Change the part of the platform's limit that the exporter may use: without accounts, and for each of them."""
        with self._lock:
            self._share = share
            self._accounts = {account: share_of(account) for account in self._accounts}

    def take(self, now: float, priority: Priority = Priority.DISCOVERY) -> float:
        """Take one request. Return 0.0 if it may be sent now, else the seconds until the next attempt."""
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

    def wait_reason(self, now: float, priority: Priority = Priority.DISCOVERY) -> WaitReason:
        """Return why :meth:`take` gives no request."""
        with self._lock:
            if now < self._paused_until:
                return WaitReason.RATE_LIMITED
            return WaitReason.ALLOWANCE if self._limit_for(priority) else WaitReason.YIELDING

    def learn(self, rate_limit: RateLimit, date: float | None, now: float) -> None:
        """Update from the headers of one response."""
        if rate_limit.limit is None and rate_limit.remaining is None:
            return
        wait = _reset_in(rate_limit, date)
        with self._lock:
            if wait is not None:
                if self._is_new(now + wait, rate_limit.remaining, now):
                    self._begin_window(used=self._under_way(rate_limit))
                self._window_ends = now + wait
                self._window = max(wait - ROUNDING, self._window or 0.0)
            before, self._limit = self._limit, self._limit if rate_limit.limit is None else rate_limit.limit
            self._reported, self._remaining = rate_limit, rate_limit.remaining
            moved = abs((self._window_ends or 0.0) - self._written_end) > 2 * ROUNDING
            if moved or self._limit != before:
                self._write(now)  # Otherwise the next process would start with a wrong window or limit.

    def pause_for(self, wait: float, now: float) -> None:
        """Send no request for *wait* seconds."""
        with self._lock:
            self._paused_until = max(self._paused_until, now + wait)
            self._write(now)

    def merge(self, other: "Allowance", now: float) -> None:
        """Move the requests of *other* here: they were sent before the platform named the user."""
        with other._lock:  # noqa: SLF001  # the same class
            used, rate_limit, paused_until = other._used, other._reported, other._paused_until  # noqa: SLF001
            ends, window = other._window_ends, other._window  # noqa: SLF001
            other._used = other._slices = 0  # noqa: SLF001
            other._write(now)  # noqa: SLF001
        with self._lock:
            self._roll_window(now)
            self._used += used
            self._paused_until = max(self._paused_until, paused_until)
            if rate_limit.limit is not None or rate_limit.remaining is not None:
                self._limit = self._limit if rate_limit.limit is None else rate_limit.limit
                self._reported, self._remaining = rate_limit, rate_limit.remaining
                self._window_ends, self._window = ends, window
            self._write(now)

    @property
    def requests(self) -> int:
        """Requests that the exporter may send per window; at least one."""
        with self._lock:
            return self._requests()

    @property
    def used(self) -> int:
        """Requests sent in this window."""
        with self._lock:
            return self._used

    @property
    def known(self) -> RateLimit:
        """The rate limit that the platform last reported."""
        with self._lock:
            return self._reported

    @property
    def window(self) -> float:
        """Length of a window in seconds: the longest seen so far, else the documented one."""
        with self._lock:
            return self._window or WINDOW_SECONDS

    @property
    def accounts(self) -> int:
        """Number of accounts that share the allowance; at least one."""
        with self._lock:
            return max(1, len(self._accounts))

    def budget(self, now: float, interval: float, discovery: int) -> float:
        """Return how many requests one poll may send in addition to its *discovery* requests.

        What is left of this window is divided equally among its remaining polls, so that the last of them have as many
        as the first. The result may be less than one: then only some of the polls may send one.
        """
        with self._lock:
            ends = self._roll_window(now)
            left = min(ends - now, self.window)  # The platform may report a shorter window than the default.
            polls = max(1, int(left / interval)) * self.accounts
            rest = self._limit_for(Priority.REFRESH) - self._used - polls * discovery
            return rest // polls if rest >= polls else max(0.0, rest / polls)

    def min_interval(self, requests: float) -> float:
        """Return the shortest poll interval in seconds at which *requests* per poll stay within the share."""
        with self._lock:
            return requests * self.accounts * (self._window or WINDOW_SECONDS) / self._requests()

    def _roll_window(self, now: float) -> float:
        """Begin a new window if the last one has ended. Return the end of the current window."""
        if self._window_ends is None or now >= self._window_ends:
            self._begin_window(used=0)
            self._window_ends = now + WINDOW_SECONDS
        return self._window_ends

    def _begin_window(self, used: int) -> None:
        self._foreground_before = self._used - self._slices
        # The platform may have begun the window slightly earlier. It then counts those requests in the new window.
        self._used, self._slices, self._late = max(used, self._late), 0, 0
        self._remaining = None

    def _under_way(self, rate_limit: RateLimit) -> int:
        """Return how many requests of a new window may be our own: at most one per account is in flight."""
        made = (rate_limit.limit or 0) - (rate_limit.remaining or 0)
        return max(1, min(made, self.accounts))

    def _is_new(self, ends: float, remaining: int | None, now: float) -> bool:
        """Return whether the platform began a new window slightly earlier than expected."""
        return (
            self._window_ends is not None
            and ends > self._window_ends + 2 * ROUNDING
            and (
                now >= self._window_ends - 2 * ROUNDING
                or (remaining is not None and self._remaining is not None and remaining > self._remaining)
            )
        )

    def _limit_for(self, priority: Priority) -> int:
        """Return the number of requests in this window from which *priority* must wait."""
        most, limit = self._requests(), self._limit or 0
        if self._remaining is not None and limit > 0 and limit - self._remaining > self._used:
            if self._remaining <= limit * _FEWEST:
                return 0
            if self._remaining <= limit * _FEW and priority > Priority.DISCOVERY:
                return 0
        without_background = most - int(most * _BACKGROUND_SHARE)
        if priority is Priority.REFRESH:
            return without_background
        if priority is Priority.BACKGROUND:
            half = most // 2 if most > 1 else 1
            # A quarter more than before, because requests that did not fit were not counted.
            wanted = max(self._foreground_before, min(math.ceil(_MORE * self._foreground_before), without_background))
            reserved = max(0, wanted - (self._used - self._slices))
            return self._used if self._slices >= half else most - reserved
        return most

    def _requests(self) -> int:
        limit = self._limit if self._limit is not None and self._limit > 0 else DEFAULT_LIMIT
        return max(1, int(limit * min(self._accounts.values(), default=self._share)))

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
    """The allowances of all users. Thread-safe."""

    def __init__(
        self,
        share: float,
        shares: Mapping[str, float] = MappingProxyType({}),
        *,
        saved: Callable[[AllowanceKey], SavedAllowance | None] | None = None,
        save: Callable[[AllowanceKey, SavedAllowance], None] | None = None,
    ) -> None:
        """Start empty.

        Args:
            share: the part of the platform's limit that the exporter may use, 0 to 1.
            shares: account to its share, for each that has one of its own.
            saved: returns the state that an earlier process saved for a key.
            save: called with the state to save, after each change.
        """
        self._share = share
        self._shares = shares
        self._saved = saved
        self._save = save
        self._lock = threading.Lock()
        self._allowances: dict[AllowanceKey, Allowance] = {}

    def of(self, key: AllowanceKey, now: float) -> Allowance:
        """Return the allowance of *key*; create it on first use."""
        with self._lock:
            if key not in self._allowances:
                self._allowances[key] = Allowance(
                    self._share_of(key.entry),
                    saved=self._saved(key) if self._saved else None,
                    now=now,
                    save=self._saver(key),
                )
            return self._allowances[key]

    def join(self, key: AllowanceKey, account: str, now: float) -> Allowance:
        """Return the allowance of *key*, which *account* shares from now on."""
        allowance = self.of(key, now)
        with self._lock:
            allowance.add_account(account, self._share_of(account))
        return allowance

    def use_shares(self, share: float, shares: Mapping[str, float]) -> None:
        """Change the part of every limit that the exporter may use; *shares* are those of accounts with their own."""
        with self._lock:
            self._share, self._shares = share, shares
            for key, allowance in self._allowances.items():
                allowance.use_shares(self._share_of(key.entry), self._share_of)

    def _share_of(self, account: str) -> float:
        return self._shares.get(account, self._share)

    def remove_account(self, account: str) -> None:
        """Stop sharing with *account*, which is no longer polled."""
        with self._lock:
            for allowance in self._allowances.values():
                allowance.remove_account(account)

    def _saver(self, key: AllowanceKey) -> Callable[[SavedAllowance], None] | None:
        save = self._save
        return None if save is None else lambda saved: save(key, saved)

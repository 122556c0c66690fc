"""The platform's time, and how long the counting rules have waited. Pure: responses go in; neither class reads a clock.

No clock is believed alone. A proxy, a restored machine or a platform's own server may give a wrong time, once or for
hours, and a wrong time may make a failure history or finish a job too early, for good.
"""

from typing import Final

from exporter.counting.values import WaitClock

AGREE_WITHIN: Final = 60.0
"""Seconds by which two responses may differ and still show the same clock: responses take time to arrive."""
_STEADY: Final = 2.0
"""Seconds of a difference that whole seconds in ``Date`` and the network explain: no reason to correct the estimate."""

_UNDATED: Final = 2
"""Responses in a row without ``Date`` after which an unconfirmed one before them is not waited for."""


class PlatformClock:
    """The platform's clock, as two responses in a row show it with this machine's monotonic clock in between.

    A ``Date`` that jumps is left out until the next response confirms it. A ``Date`` that stands still, as from a
    cache, says nothing. This machine's clock is used if there is no usable ``Date``, also if responses have none after
    one that was never confirmed. All times are seconds: ``date`` and ``local`` in Unix time by the platform's and this
    machine's clock, ``monotonic`` since boot.
    """

    def __init__(self) -> None:
        self._offset: float | None = None
        """Believed Unix time at monotonic 0."""
        self._unconfirmed: float | None = None
        """The same by the last response, if that disagreed."""
        self._last: tuple[float, float] | None = None
        """The last date, and when it was received."""
        self._standing_still = False
        self._undated = 0
        """Responses in a row without a date."""

    def observe(self, date: float | None, monotonic: float) -> None:
        """Take the time of one response of the platform, received at *monotonic*; None if it has no readable date."""
        if date is None:
            self._undated += 1
            return
        self._undated = 0
        last, self._last = self._last, (date, monotonic)
        if last is not None and last[0] == date and monotonic - last[1] > _STEADY:
            self._last, self._standing_still = last, True
            return
        self._standing_still = False
        offset = date - monotonic
        if self._offset is not None and abs(offset - self._offset) <= AGREE_WITHIN:
            self._unconfirmed = None
            if abs(offset - self._offset) > _STEADY:
                self._offset = offset
        elif self._unconfirmed is not None and abs(offset - self._unconfirmed) <= AGREE_WITHIN:
            self._offset, self._unconfirmed = offset, None
        else:
            self._unconfirmed = offset

    @property
    def believed(self) -> bool:
        """Whether two responses in a row have agreed."""
        return self._offset is not None

    @property
    def absent(self) -> bool:
        """Whether the platform shows no clock: no date, or one that stands still or that no further date followed."""
        shows_none = self._last is None or self._standing_still or self._undated >= _UNDATED
        return self._offset is None and shows_none

    def time(self, monotonic: float, local: float) -> float | None:
        """Return the platform's time at *monotonic*: *local* if it shows no clock, None while it is not believed."""
        if self._offset is not None:
            return self._offset + monotonic
        return local if self.absent else None

    def skew(self, monotonic: float, local: float) -> float | None:
        """Return the platform's clock less this machine's; None while the platform's is not believed."""
        return None if self._offset is None else self._offset + monotonic - local


class WaitTimer:
    """The account's wait clock in this process (see :class:`.values.WaitClock`).

    Within a process it advances by what both the platform's believed clock and the monotonic clock advance, so a clock
    that jumps ahead shortens no wait. One that is put back costs what passed since the last reading, once.

    From one process to the next it advances by what both the platform's and this machine's clock advanced since the
    last commit; no monotonic clock reaches that far. So a restart, or ``once`` in cron, continues a wait, and one wrong
    clock does not end it. If one of them was put back meanwhile, the time between the processes is not counted, and the
    reading is saved again, so that in a crash loop this costs only one restart. The same is true if the platform's
    clock is not yet believed when the process first counts.
    """

    def __init__(self, platform: PlatformClock) -> None:
        self._platform = platform
        self._reading: WaitClock | None = None
        self._monotonic = 0.0

    def peek(self, saved: WaitClock | None, monotonic: float, local: float) -> WaitClock:
        """Return the reading at this moment. The first one continues from what an earlier process *saved*, if any."""
        time = self._platform.time(monotonic, local)
        before = self._reading
        if before is None:
            return WaitClock(_first(saved, time, local), time, local)
        step = 0.0
        if time is not None and before.platform_time is not None:
            step = max(0.0, min(monotonic - self._monotonic, time - before.platform_time))
        return WaitClock(before.seconds + step, time, local)

    def read(self, saved: WaitClock | None, monotonic: float, local: float) -> WaitClock:
        """Return the reading at this moment; the next one continues from it. Arguments as for :meth:`peek`."""
        reading = self.peek(saved, monotonic, local)
        self._reading, self._monotonic = reading, monotonic
        return reading


def _first(saved: WaitClock | None, time: float | None, local: float) -> float:
    """The first reading of a process. Without a saved one, moments of the platform's clock remain comparable to it."""
    if saved is None:
        return local if time is None else min(time, local)
    if time is None or saved.platform_time is None:
        return saved.seconds
    return saved.seconds + max(0.0, min(time - saved.platform_time, local - saved.local_time))

"""An account whose endpoint is not known yet, because its profile is missing or incomplete."""

from collections.abc import Callable

from exporter.api.allowance import Allowance
from exporter.clock import Clock
from exporter.config.accounts import AccountConfig, PendingAccount
from exporter.errors import ConfigError, Stopping, WaitReason
from exporter.logs import Log
from exporter.metrics.snapshot import AccountSnapshot
from exporter.polling.poller import SETUP_INTERVAL, Poller, UsageEstimate
from exporter.polling.settings import PollerSettings
from exporter.polling.stats import PollStats
from exporter.polling.waiting import WaitTracker


class PendingPoller:
    """Tries to set up one account until that works, then hands over to its :class:`Poller`."""

    def __init__(
        self,
        account: PendingAccount,
        poll_interval: float,
        *,
        allowance: Allowance,
        begin: Callable[[AccountConfig, PollStats], Poller],
        clock: Clock,
        publish: Callable[[AccountSnapshot], None],
        log: Log,
    ) -> None:
        """Try each *poll_interval* seconds or more often; *begin* makes the poller, *allowance* is shown until then."""
        self.name = account.name
        self._account = account
        self._interval = min(poll_interval, SETUP_INTERVAL)
        self._allowance = allowance
        self._begin = begin
        self._clock = clock
        self._publish = publish
        log = log.bind(account=account.name)
        self._stats = PollStats(clock, log)
        self._waits = WaitTracker(clock, log, lambda: account.remedy)
        self._poller: Poller | None = None

    @property
    def last_activity_at(self) -> float:
        """See :attr:`Poller.last_activity_at`."""
        return self._stats.last_activity_at if self._poller is None else self._poller.last_activity_at

    @property
    def account(self) -> AccountConfig | PendingAccount:
        """What is polled, or else is to be set up."""
        return self._account if self._poller is None else self._poller.account

    def configure(self, settings: PollerSettings) -> None:
        """See :meth:`Poller.configure`. A poller that is made later has them from its start."""
        self._interval = min(settings.schedule.poll_interval, SETUP_INTERVAL)
        if self._poller is not None:
            self._poller.configure(settings)

    def look_again(self) -> None:
        """See :meth:`Poller.look_again`."""
        if self._poller is not None:
            self._poller.look_again()

    @property
    def usage_estimate(self) -> UsageEstimate:
        """See :attr:`Poller.usage_estimate`."""
        return UsageEstimate(0, 0, 0) if self._poller is None else self._poller.usage_estimate

    def run(self) -> None:
        """Poll until the process ends."""
        try:
            while (poller := self._set_up()) is None:
                self._stats.last_activity_at = self._clock.monotonic() + self._interval
                self._clock.pause(self._interval)
        except Stopping:
            return
        poller.run()

    def poll_once(self) -> None:
        """See :meth:`Poller.poll_once`."""
        poller = self._set_up()
        if poller is not None:
            poller.poll_once()

    def poll_until_listed(self) -> None:
        """See :meth:`Poller.poll_until_listed`."""
        poller = self._set_up()
        if poller is not None:
            poller.poll_until_listed()

    def take_over(self) -> None:
        """See :meth:`Poller.take_over`."""
        if self._poller is not None:
            self._poller.take_over()

    def confirm(self) -> None:
        """See :meth:`Poller.confirm`."""
        if self._poller is not None:
            self._poller.confirm()

    def _set_up(self) -> Poller | None:
        """Return the account's poller; None, and a failed poll, if it cannot be set up."""
        began = self._clock.monotonic()
        try:
            account = self._account.resolve()
        except ConfigError as error:
            took = self._clock.monotonic() - began
            self._stats.polled("error", str(error), self._clock.time(), took, self._account.remedy)
            self._waits.begin(WaitReason.TOKEN, None, self._account.waits)
            status = self._stats.status(
                self._allowance,
                interval=self._interval,
                full_interval=self._interval,
                incremental=False,
                delay=None,
                waiting=self._waits.current,
            )
            self._publish(AccountSnapshot(self.name, "", None, None, status, 0.0))
            return None
        self._waits.end()
        self._poller = self._begin(account, self._stats)
        return self._poller

"""When a new ledger begins to count: at the platform's time, which two responses in a row have to agree on."""

import math
from dataclasses import replace
from typing import Final

from exporter.api.client import Client
from exporter.api.models import Job, JobPage, Operation, Priority, Response
from exporter.clock import Clock
from exporter.errors import AllowanceExhausted, BadAnswer, PollError
from exporter.polling.platform_clock import AGREE_WITHIN
from exporter.polling.stats import PollStats

_MAX_CONFIRMATIONS: Final = 4
"""Requests in one poll, after those that it needs anyway, until two responses in a row show the same clock."""


class CountingStart:
    """Asks for the user of a token, and finds the platform's time for a user without a ledger.

    The two responses are the user, and the first page of the list, which the poll needs anyway. As a
    :class:`.cycle.Source` it then serves this page, so that a new account costs no request more. If the two disagree,
    the user is requested again until two do agree.
    """

    def __init__(self, client: Client, stats: PollStats, clock: Clock) -> None:
        """*stats* has the platform's clock, as the responses so far show it."""
        self._client = client
        self._stats = stats
        self._clock = clock
        self._first_answers: dict[str, tuple[float | None, float]] = {}
        """When the platform first named a user without a ledger: its date, and monotonic seconds."""
        self._first_page: JobPage | PollError | None = None

    def request_user(self) -> Response[str]:
        """Request the name of the user that the token belongs to; a page that was read before is not served."""
        self._first_page = None
        return self._request_user()

    def counting_since(self, user: Response[str]) -> int:
        """Return the platform's time when it first named *user*, once its clock is believed.

        It is this machine's time if the platform shows no clock.

        Raises:
            BadAnswer: no two responses in a row show the same clock.
            PollError: the platform did not respond.
        """
        date, monotonic = self._first_answers.setdefault(user.value, (user.date, self._clock.monotonic()))
        clock = self._stats.platform_clock
        witnesses = 1
        if not clock.believed:
            self._read_first_page()
            witnesses += isinstance(self._first_page, JobPage)
        for _ in range(_MAX_CONFIRMATIONS):
            if clock.believed or (clock.absent and witnesses > 1):
                break
            self._confirm()
            witnesses += 1
        passed = self._clock.monotonic() - monotonic
        since = clock.time(monotonic, self._clock.time() - passed)
        if since is not None and date is not None and abs(since - date) <= AGREE_WITHIN:
            since = date  # to the second: the estimate may be off by one
        if since is None:
            raise BadAnswer("no two responses in a row have a Date header with the same clock; cannot begin to count")
        return math.floor(since)

    def _request_user(self) -> Response[str]:
        response = self._client.user()
        self._stats.answered()
        self._stats.date_received(response.date)
        return response

    def _read_first_page(self) -> None:
        try:
            page = self._client.page(0)
        except PollError as error:
            self._first_page = error  # The poll reports it, after the ledger has been created.
        else:
            self._stats.date_received(page.date)
            self._first_page = replace(page, date=None)

    def _confirm(self) -> None:
        """Request the user once more, for the time of the response."""
        try:
            self._request_user()
        except (PollError, AllowanceExhausted):
            if isinstance(self._first_page, PollError):
                raise self._first_page from None
            raise

    # ---- a source of responses for the cycle ----

    def page(self, offset: int, priority: Priority, *, until: float) -> JobPage:
        """Return a page of the job list: the first one as it was already read, if it was; see :meth:`.Client.page`."""
        first, self._first_page = self._first_page, None
        if first is None or offset != 0:
            return self._client.page(offset, priority, until=until)
        if isinstance(first, PollError):
            raise first
        return first

    def job(self, operation: Operation, job_id: str, *, until: float) -> Response[Job | None]:
        """Return one job; see :meth:`.Client.job`."""
        return self._client.job(operation, job_id, until=until)

    def user(self) -> Response[str]:
        """Return the name of the user that the token belongs to; see :meth:`.Client.user`."""
        return self._client.user()

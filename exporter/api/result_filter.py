"""Decide whether list requests may leave out job results, which can be megabytes per page.

The API's overview says that all calls accept ``fields``. The page about this list does not mention it. So the client
tries ``fields=!result`` and compares with an unfiltered page where the first response leaves doubts. It stops using the
filter for as long as it runs when:

* the platform refuses the parameter (400);
* filtered records lack more than their results;
* the filtered request fails twice where the same unfiltered request succeeds;
* a failed job's errors appear in the list only: its operation has no documented endpoint.
"""

from enum import Enum
from typing import Final

import msgspec

from exporter.api.models import FINAL_RANK, OPERATIONS, Job, Page

_MAX_FAILURES: Final = 2


class FilterState(Enum):
    """Whether the platform accepts the filter."""

    UNTRIED = "untried"
    ON = "on"
    OFF = "off"


class ResultFilter:
    """The state of ``fields=!result`` for one client.

    For each page the client asks :attr:`usable`. It sends the filtered request if so, and the unfiltered request where
    that was not accepted. It reports every outcome here.
    """

    PARAMETER: Final = "&fields=!result"

    def __init__(self) -> None:
        self.state = FilterState.UNTRIED
        self._check_unfiltered = False
        """The filtered request failed: the next request is unfiltered, to find out whether that works."""
        self._failures = 0
        """Filtered requests that failed where the unfiltered one succeeded."""

    @property
    def usable(self) -> bool:
        """Whether the next request should be filtered."""
        return self.state is not FilterState.OFF and not self._check_unfiltered

    def accepts(self, page: Page) -> bool:
        """Return whether this filtered page can be used as it is."""
        if any(map(_errors_only_in_list, page.jobs)):
            self.state = FilterState.OFF
            return False
        if page.whole and page.items:  # An empty page proves nothing.
            self.state = FilterState.ON
        return page.whole or self.state is FilterState.ON

    def filtered_failed(self) -> None:
        """Record that a filtered request failed. Once the filter has worked, failures have other causes."""
        self._check_unfiltered = self.state is FilterState.UNTRIED

    def unfiltered_failed(self) -> None:
        """Record that the unfiltered request failed, too: the filter was not the cause."""
        self._check_unfiltered = False

    def unfiltered_succeeded(self, page: Page, filtered: Page | None) -> None:
        """Compare *page* with the *filtered* page just before it; None if that was refused or not requested."""
        if self._check_unfiltered:
            self._check_unfiltered = False
            self._failures += 1
            self.state = FilterState.OFF if self._failures >= _MAX_FAILURES else self.state
        elif self.state is not FilterState.OFF:
            same = filtered is not None and _without_errors(filtered) == _without_errors(page)
            self.state = FilterState.ON if same else FilterState.OFF


def _errors_only_in_list(job: Job) -> bool:
    return bool(job.failed) and job.errors is None and job.rank == FINAL_RANK and job.operation not in OPERATIONS


def _without_errors(page: Page) -> list[Job]:
    return [msgspec.structs.replace(job, errors=None, result_unreadable=False) for job in page.jobs]

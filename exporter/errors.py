"""The exporter's errors, named for the reaction to them.

* ExporterError
  + ConfigError       invalid configuration: print one line per problem, exit with 2
  + StateError        unusable state file: print the reason and what to do, exit with 1
  + StateWriteError   a commit failed: keep showing the last commit, retry at the next poll
  + ListenError       cannot listen on the metrics address: exit with 1
  + OutputError       cannot write a file: exit with 1
  + PollError         the poll ends, the next one follows; ``result`` is the label in metrics
    - Unreachable     no response, a truncated or slow one, or a 5xx: retried within the poll first
    - Unauthorized    401 or 403: request only the user until the token changes
    - RateLimited     429: send nothing until the platform's window ends
    - Maintenance     503 with code 0: retry every minute
    - BadAnswer       a response that differs from the API's documentation
      . BadRequest    400: a request with ``fields`` is repeated without it
      . AnswerTooLarge  the page is requested again with half as many jobs
      . JobRequestFailed  only this job's request failed: the poll continues with the others
    - WrongAccount    the token belongs to another user: the counters stay unchanged
      . DuplicateAccount  another account with the same identity comes first in the configuration
  + AllowanceExhausted  the exporter's share of the rate limit is used up: the poll commits what it has
  + Stopping          the process is ending

Any other exception is a bug: the poll logs it with its traceback, and the next poll follows as usual.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import ClassVar, Final

_AFTER_REFUSAL: Final = 300.0
"""Seconds after which a refused token is tried again, in case the platform was wrong."""


class ExporterError(Exception):
    """Base of all errors that this package raises on purpose. The text is one line for the operator."""


class ConfigError(ExporterError):
    """The configuration is invalid.

    Attributes:
        problems: one line per problem: where it is, what is wrong, what to do.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Problems(list[str]):
    """Collects all problems of a configuration, so that the operator sees more than the first."""

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Collect the problems raised inside the block, then continue after it."""
        try:
            yield
        except ConfigError as error:
            self.extend(error.problems)


def suggestion(word: str, known: Iterable[str], otherwise: str, *, prefix: str = "") -> str:
    """A question whether one of *known*, shown with its *prefix*, was meant by *word*; else *otherwise*."""
    close = get_close_matches(word, known, n=1, cutoff=0.75)
    return f"did you mean {prefix}{close[0]}?" if close else otherwise


class StateError(ExporterError):
    """The state file cannot be read, written or locked."""


class StateWriteError(ExporterError):
    """A commit failed and wrote nothing. It is retried at each poll."""


class ListenError(ExporterError):
    """The metrics server cannot listen on the configured address."""


class OutputError(ExporterError):
    """A command cannot write its output."""


class PollError(ExporterError):
    """The poll cannot continue.

    Attributes:
        result: the poll's label in ``sbg_exporter_polls_total``.
        retry_after: seconds until the next poll; None for the usual interval.
        reidentify: whether the next poll must first request the token's user.
    """

    result: ClassVar[str] = "error"
    retry_after: float | None = None
    reidentify: ClassVar[bool] = False


class Unreachable(PollError):
    """No usable response: connection failure, timeout, lost connection or 5xx. Retried within the poll."""

    result = "unreachable"


class Unauthorized(PollError):
    """The platform refused the token (401, 403)."""

    result = "unauthorized"
    retry_after = _AFTER_REFUSAL
    reidentify = True


class RateLimited(PollError):
    """The platform's rate limit is exhausted (429).

    Attributes:
        retry_after: seconds until the platform accepts requests again, by its own clock.
    """

    result = "rate_limited"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after: float = retry_after


class Maintenance(PollError):
    """The platform reports that it is under maintenance (503 with code 0)."""

    result = "maintenance"
    retry_after = 60.0


class BadAnswer(PollError):
    """A response that differs from the API's documentation."""

    result = "bad_answer"


class AnswerTooLarge(BadAnswer):
    """A response larger than the exporter accepts."""


class BadRequest(BadAnswer):
    """The platform rejects the request as invalid (400)."""


class JobRequestFailed(BadAnswer):
    """A bad response for one job. Its request is repeated in a later poll; this poll continues."""


class WrongAccount(PollError):
    """The token belongs to another user than this account's ledger."""

    retry_after = _AFTER_REFUSAL
    reidentify = True


class DuplicateAccount(WrongAccount):
    """An earlier account in the configuration has the same identity."""


class AllowanceExhausted(ExporterError):
    """The exporter's share of the rate limit is used up: the poll commits what it has.

    Attributes:
        wait: seconds until the next request may be sent.
    """

    def __init__(self, wait: float) -> None:
        super().__init__(f"the API allowance is used up for another {wait:.0f} s")
        self.wait = wait


class Stopping(ExporterError):
    """The process is ending: waits and requests are abandoned at once."""

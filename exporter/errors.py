"""Errors, named for what is done about them.

* ExporterError
  + ConfigError       the configuration is wrong: say each problem in a line, exit 2
  + StateError        the state file cannot be used: say why and what to do, exit 1
  + StateWriteError   a commit failed: show what was committed before, try again at the next poll
  + ListenError       the metrics address cannot be had: exit 1
  + OutputError       a file to write to cannot be had: exit 1
  + PollError         this poll ends here, the next one comes; ``result`` is its label in metrics
    - Unreachable     no answer, a cut or slow one, or a 5xx: retried within the poll first
    - Unauthorized    401 or 403: ask only who we are until the token changes
    - RateLimited     429: silent until the platform's window ends
    - Maintenance     503 with code 0: ask again every minute
    - BadAnswer       an answer that is not what the API documents
      . BadRequest    400: a question that names fields is asked again without
      . AnswerTooLarge  a page is asked again with half as many jobs
      . JobRequestFailed  the same for one job: the others go on
    - WrongAccount    the token belongs to somebody else: the counters stay as they were
      . DuplicateAccount  an earlier entry watches the same account: that one shows the counters
  + AllowanceExhausted  our share of the rate limit is used up: the poll ends with what it has
  + Stopping          the process is ending

Whatever else is raised is a bug: a poll logs it with its traceback and the next poll comes as usual.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Final

_AFTER_REFUSAL: Final = 300.0
"""Seconds: a token that does not serve is tried again now and then, in case the platform was wrong."""


class ExporterError(Exception):
    """All errors that this package raises on purpose; the text is one line for a person."""


class ConfigError(ExporterError):
    """The configuration is wrong.

    Attributes:
        problems: a line per problem: where, what is wrong, what would be right.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Problems(list[str]):
    """The lines for the person who wrote the configuration: all of them, not just the first."""

    @contextmanager
    def collected(self) -> Iterator[None]:
        """What is wrong inside becomes lines, and the next thing is looked at."""
        try:
            yield
        except ConfigError as error:
            self.extend(error.problems)


class StateError(ExporterError):
    """The state file cannot be read, written or held."""


class StateWriteError(ExporterError):
    """A commit failed and nothing of it was written; it is tried again at every poll."""


class ListenError(ExporterError):
    """The metrics server cannot listen where it was told to."""


class OutputError(ExporterError):
    """What a command was to write cannot be written."""


class PollError(ExporterError):
    """A poll that cannot go on.

    Attributes:
        result: its label in ``sbg_exporter_polls_total``.
        retry_after: seconds until the next poll; None: at its usual time.
        reidentify: whether the next poll first asks who the token belongs to.
    """

    result: ClassVar[str] = "error"
    retry_after: float | None = None
    reidentify: ClassVar[bool] = False


class Unreachable(PollError):
    """No usable answer: connect, timeout, cut connection or 5xx. Retried within the poll."""

    result = "unreachable"


class Unauthorized(PollError):
    """The platform refused the token (401, 403)."""

    result = "unauthorized"
    retry_after = _AFTER_REFUSAL
    reidentify = True


class RateLimited(PollError):
    """The platform's window is used up (429).

    Attributes:
        retry_after: seconds until the platform answers again, by its own clock.
    """

    result = "rate_limited"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after: float = retry_after


class Maintenance(PollError):
    """The platform says that it is under maintenance (503 with code 0)."""

    result = "maintenance"
    retry_after = 60.0


class BadAnswer(PollError):
    """An answer that is not what the API documents."""

    result = "bad_answer"


class AnswerTooLarge(BadAnswer):
    """An answer with more bytes than we read."""


class BadRequest(BadAnswer):
    """The platform does not take the question (400)."""


class JobRequestFailed(BadAnswer):
    """A bad answer to the question about one job: it is asked again another time, the poll goes on."""


class WrongAccount(PollError):
    """The token's owner is not whom this account's ledger belongs to."""

    retry_after = _AFTER_REFUSAL
    reidentify = True


class DuplicateAccount(WrongAccount):
    """An earlier entry of the configuration watches the same account."""


class AllowanceExhausted(ExporterError):
    """Our share of the rate limit is used up: the poll ends with what it has.

    Attributes:
        wait: seconds until the next request may be made.
    """

    def __init__(self, wait: float) -> None:
        super().__init__(f"the allowance is used up for another {wait:.0f} s")
        self.wait = wait


class Stopping(ExporterError):
    """The process is ending: whoever waits or is about to ask gives up at once."""

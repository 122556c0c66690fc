"""The exporter's errors, named for the reaction to them.

* ExporterError
  + ConfigError       invalid configuration: print one line per problem, exit with 2
    - TokenError      no usable token: the account waits for one, the others are polled
      . TokenForbidden  the exporter's user may not read its file
    - ProfileError    no usable profile: the same
      . CredentialsError  the file of all profiles cannot be read
  + StateError        unusable state file: print the reason and what to do, exit with 1
  + StateWriteError   a commit failed: keep showing the last commit, retry at the next poll
  + ListenError       cannot listen on the metrics address: exit with 1
  + OutputError       cannot write a file: exit with 1
  + PollError         the poll ends, the next one follows; ``result`` is the label in metrics
    - Unreachable     no response, a truncated or slow one, or a 5xx: retried within the poll first
      . Overloaded    503 with Retry-After: send nothing until then
    - Unauthorized    401 or 403: request only the user until the token changes
    - RateLimited     429: send nothing until the platform's window ends
    - Maintenance     503 with code 0: retry every minute
    - BadAnswer       a response that differs from the API's documentation
      . BadRequest    400: a request with ``fields`` is repeated without it
      . NotThePlatform  a proxy, a firewall or a web site responded: says nothing about the token or a job
      . AnswerTooLarge  the page is requested again with half as many jobs
      . JobRequestFailed  only this job's request failed: the poll continues with the others
    - WrongAccount    the token belongs to another user: the counters stay unchanged
      . DuplicateAccount  another account with the same identity is polled
  + AllowanceExhausted  no request may be sent for now: the poll commits what it has
  + Stopping          the process is ending

Any other exception is a bug: the poll logs it with its traceback, and the next poll follows as usual.
"""

import errno
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from enum import StrEnum
from typing import ClassVar, Final

from exporter.redaction import shown

_AFTER_REFUSAL: Final = 300.0
"""Seconds after which a refused token is tried again, in case the platform was wrong."""


_MAINTENANCE_PAUSE: Final = 60.0
"""Seconds after which a platform under maintenance is asked again."""


class WaitReason(StrEnum):
    """Why an account makes no request for a while; the value is the label of ``sbg_exporter_waiting``."""

    ALLOWANCE = "allowance"
    YIELDING = "yielding"
    RATE_LIMITED = "rate_limited"
    MAINTENANCE = "maintenance"
    TOKEN = "token"  # noqa: S105  # a label

    @property
    def explanation(self) -> str:
        """The reason in words, for the log and the status page."""
        return _EXPLANATIONS[self]


_EXPLANATIONS: Final = {
    WaitReason.ALLOWANCE: "the exporter has used up its share of the rate limit",
    WaitReason.YIELDING: "other programs of the user have used up the rate limit",
    WaitReason.RATE_LIMITED: "the platform asked for a pause",
    WaitReason.MAINTENANCE: "the platform is under maintenance",
    WaitReason.TOKEN: "the account has no usable token of its user",
}


_READING: Final[Mapping[int, str]] = {
    errno.ENOENT: "check the path",
    errno.EISDIR: "pass the path of a file, not of a folder",
    errno.ENOTDIR: "a part of the path is not a folder; correct the path",
    errno.EACCES: "run it as a user who may read the file, or change the file's mode",
}
_WRITING: Final[Mapping[int, str]] = {
    errno.ENOENT: "create its folder, or choose another path",
    errno.EISDIR: "pass the path of a file, not of a folder",
    errno.ENOTDIR: "a part of the path is not a folder; correct the path",
    errno.EACCES: "choose another path, or run it as a user who may write there",
    errno.EPERM: "choose another path, or run it as a user who may write there",
    errno.EROFS: "choose a path on a file system that is not read-only",
    errno.ENOSPC: "free some space, or choose a path on another disk",
    errno.EDQUOT: "free some space, or choose a path on another disk",
}


def file_problem(error: OSError, *, writing: bool = False) -> str:
    """The reason of *error*, which a file has caused that the operator named, and the next step."""
    reason = error.strerror or str(error)
    advice = (_WRITING if writing else _READING).get(error.errno or 0, "")
    return reason if ";" in reason or not advice else f"{reason}; {advice}"


class ExporterError(Exception):
    """Base of all errors that this package raises on purpose.

    The text is one line for the operator. Secrets and what looks like a token are masked in it from the start, wherever
    it is then printed, logged or shown.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


class ConfigError(ExporterError):
    """The configuration is invalid.

    Attributes:
        problems: one line per problem: where it is, what is wrong, what to do.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(map(shown, problems))


class TokenError(ConfigError):
    """A token is missing, unreadable or malformed."""


class TokenForbidden(TokenError):
    """The exporter's user may not read a token file."""


class ProfileError(ConfigError):
    """A profile of the official clients is missing or incomplete: it may be completed later."""


class CredentialsError(ProfileError):
    """The official clients' credentials file cannot be read, so that nothing is known of any profile."""


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
    """The state file cannot be read, written or locked. While the daemon runs, it is tried again at each poll."""


class StateWriteError(ExporterError):
    """A commit failed and wrote nothing. It is retried at each poll."""


class ListenError(ExporterError):
    """The metrics server cannot listen on the configured address."""


class OutputError(ExporterError):
    """A command cannot write its output."""


FAILED_RESULTS: Final[Mapping[str, str]] = {
    "unreachable": "the platform cannot be reached, or answers with errors",
    "unauthorized": "the platform refuses the token",
    "rate_limited": "the rate limit is used up",
    "maintenance": "the platform is under maintenance",
    "bad_answer": "the response is not what the platform documents",
    "error": "an error of the exporter or of its configuration",
}
"""Results of failed polls, in words."""


class PollError(ExporterError):
    """The poll cannot continue.

    Attributes:
        result: the poll's label in ``sbg_exporter_polls_total``.
        retry_after: seconds until the next poll; None for the usual interval.
        reidentify: whether the next poll must first request the token's user.
        wait_reason: why nothing is requested until then; None if the next poll comes as usual.
        next_step: what to do; empty if that follows from *wait_reason*.
    """

    result: ClassVar[str] = "error"
    wait_reason: ClassVar[WaitReason | None] = None
    retry_after: float | None = None
    reidentify: ClassVar[bool] = False
    next_step: str = ""


class Unreachable(PollError):
    """No usable response: connection failure, timeout, lost connection or 5xx. Retried within the poll."""

    result = "unreachable"


class Overloaded(Unreachable):
    """The platform is unavailable and says for how long (503 with ``Retry-After``).

    Attributes:
        retry_after: seconds until the platform accepts requests again.
    """

    wait_reason = WaitReason.RATE_LIMITED

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after: float = retry_after


class Unauthorized(PollError):
    """The platform refused the token (401 or 403 with its own JSON, or for the token's user)."""

    result = "unauthorized"
    wait_reason: ClassVar[WaitReason | None] = WaitReason.TOKEN
    retry_after = _AFTER_REFUSAL
    reidentify = True


class RateLimited(PollError):
    """The platform's rate limit is exhausted (429).

    Attributes:
        retry_after: seconds until the platform accepts requests again, by its own clock.
    """

    result = "rate_limited"
    wait_reason = WaitReason.RATE_LIMITED

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after: float = retry_after


class Maintenance(PollError):
    """The platform reports that it is under maintenance (503 with code 0)."""

    result = "maintenance"
    wait_reason = WaitReason.MAINTENANCE

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        """*retry_after*: seconds that the platform asked for, if any."""
        super().__init__(message)
        self.retry_after: float = max(_MAINTENANCE_PAUSE, retry_after)


class BadAnswer(PollError):
    """A response that differs from the API's documentation."""

    result = "bad_answer"


class NotThePlatform(BadAnswer):
    """A response of something between the exporter and the platform, such as a firewall, or of another server.

    Attributes:
        doubts_token: whether it looks like a refused token, which only the platform can tell.
    """

    def __init__(self, message: str, *, doubts_token: bool = False) -> None:
        super().__init__(message)
        self.doubts_token = doubts_token


class AnswerTooLarge(BadAnswer):
    """A response larger than the exporter accepts."""


class BadRequest(BadAnswer):
    """The platform rejects the request as invalid (400)."""


class JobRequestFailed(BadAnswer):
    """A bad response for one job. Its request is repeated in a later poll; this poll continues."""


class WrongAccount(PollError):
    """The token belongs to another user than this account's ledger."""

    wait_reason: ClassVar[WaitReason | None] = WaitReason.TOKEN
    retry_after = _AFTER_REFUSAL
    reidentify = True

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = shown(next_step)


class DuplicateAccount(WrongAccount):
    """Another account, which is polled, has the same identity."""

    wait_reason = None

    def __init__(self, owner: str) -> None:
        """*owner* is the account that is polled."""
        super().__init__(f"{same_user_as(owner)}; remove one of the two accounts")


def same_user_as(owner: str) -> str:
    """Why an account is not polled whose user account *owner* polls already."""
    return f"the same user on the same platform as {owner}; not polled"


class AllowanceExhausted(ExporterError):
    """No request may be sent for now: the poll commits what it has.

    Attributes:
        wait: seconds until the next request may be sent.
        reason: what holds it up.
    """

    def __init__(self, wait: float, reason: WaitReason = WaitReason.ALLOWANCE) -> None:
        super().__init__(f"no request for another {wait:.0f} s: {reason.explanation}")
        self.wait = wait
        self.reason = reason


class Stopping(ExporterError):
    """The process is ending: waits and requests are abandoned at once."""

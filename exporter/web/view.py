"""What the template of the status page lays out: frozen rows. Times are Unix seconds; None: unknown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from exporter.api.error_codes import in_words
from exporter.counting.values import JobRecord
from exporter.metrics.snapshot import (
    AccountSnapshot,
    FilesCounted,
    LostStateFile,
    MissingAccounts,
    error_codes,
    is_stuck,
    noticed_at,
    submitted_at,
    why_incomplete_or_lost,
)

Row = TypeVar("Row")
AccountState = Literal["untried", "up", "failing", "stale"]
"""``failing``: the last poll failed. ``stale``: it succeeded, but too long ago."""


@dataclass(frozen=True, slots=True)
class AccountLink:
    """An account's name and its position in the configuration, which is its anchor on the page."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class HiddenJobs:
    """Jobs beyond the limits, and the command that lists them; those of several accounts if *account* is None."""

    jobs: int
    account: AccountLink | None
    command: str


@dataclass(frozen=True, slots=True)
class Table(Generic[Row]):
    """Rows, what is beyond the limits, and the number of accounts without data."""

    rows: tuple[Row, ...]
    hidden: tuple[HiddenJobs, ...] = ()
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class FailedJobRow:
    """A job with failed files; its error records by code in words, most frequent first.

    ``detected_at`` is None if it finished before counting began.
    """

    account: AccountLink
    id: str
    operation: str
    outcome: str
    finished: bool
    failed: int
    total: int
    errors: Sequence[tuple[str, int]]
    detected_at: float | None

    @classmethod
    def of(cls, account: AccountLink, record: JobRecord) -> "FailedJobRow":
        """The row of *record*."""
        return cls(
            account,
            record.id,
            record.operation,
            record.outcome or "running",
            not record.unfinished,
            record.last_failed,
            max(record.last_total, record.last_completed + record.last_failed),
            [(in_words(code), records) for code, records in error_codes(record)],
            record.detected_at,
        )


@dataclass(frozen=True, slots=True)
class IncompleteOrLostJobRow:
    """A job with one of these outcomes; why it has it, in words.

    Attributes:
        noticed_at: None if it finished before counting began.
    """

    account: AccountLink
    id: str
    operation: str
    outcome: str
    completed: int
    total: int
    why: str
    noticed_at: float | None

    @classmethod
    def of(cls, account: AccountLink, record: JobRecord) -> "IncompleteOrLostJobRow":
        """The row of *record*."""
        return cls(
            account,
            record.id,
            record.operation,
            record.outcome,
            record.last_completed,
            record.last_total,
            why_incomplete_or_lost(record),
            None if record.history else noticed_at(record),
        )


@dataclass(frozen=True, slots=True)
class UnfinishedJobRow:
    """A job without an outcome; its progress bar stays within its bounds even if the platform's counts do not."""

    account: AccountLink
    id: str
    operation: str
    state: str
    settling: bool
    done: int
    failed: int
    total: int
    progress: int
    progress_max: int
    submitted_at: float
    last_progress_at: float
    stuck: bool

    @classmethod
    def of(cls, account: AccountLink, record: JobRecord, looked_at: float) -> "UnfinishedJobRow":
        """The row of *record* as it was when it was *looked_at*, Unix seconds."""
        done, bar = record.last_completed + record.last_failed, max(1, record.last_total)
        settling = record.state == "finished"
        return cls(
            account,
            record.id,
            record.operation,
            f"{record.state}, settling" if settling else record.state,
            settling,
            done,
            record.last_failed,
            record.last_total,
            min(done, bar),
            bar,
            submitted_at(record),
            record.last_progress_at,
            is_stuck(record, looked_at),
        )


@dataclass(frozen=True, slots=True)
class ListedRow:
    """Totals of one operation and state over all accounts."""

    operation: str
    state: str
    jobs: int
    files: int
    completed: int
    failed: int


@dataclass(frozen=True, slots=True)
class Incremental:
    """How an account is polled that is too large to list in full at every poll."""

    full_listing_interval: float
    detection_delay: float


@dataclass(frozen=True, slots=True)
class WaitNote:
    """Why nothing is requested for an account for now.

    ``since`` is when that began; ``seconds`` is the time until it ends, None if that depends on an operator;
    ``next_step`` is what an operator can do, empty if that is not known.
    """

    reason: str
    since: float
    seconds: float | None
    next_step: str


@dataclass(frozen=True, slots=True)
class LastSuccess:
    """When a poll of an account last succeeded.

    Attributes:
        at: of this process; None: not yet.
        since: when this process began to poll the account.
        counted_at: when an earlier process last wrote to the account's ledger; None if that is not known or was later.
    """

    at: float | None
    since: float
    counted_at: float | None

    @classmethod
    def of(cls, snapshot: AccountSnapshot) -> "LastSuccess":
        """That of an account."""
        status, ledger = snapshot.status, snapshot.ledger
        since = status.poll_duration.created
        clock = ledger.wait_clock if ledger is not None else None
        return cls(status.last_success, since, clock.local_time if clock and clock.local_time < since else None)


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One account.

    Attributes:
        username: empty if unknown or hidden.
        states: number of listed jobs by state, most frequent first; None before the first full listing.
        slowed: whether the allowance makes the interval longer than it is configured.
        counting_since: None before the account has a ledger.
        uncounted_since: since when its commits to the state file fail; None if they succeed.
        clock_skew: seconds by which the platform's clock is ahead of this machine's; None if they agree or if unknown.
        clocks_agreeing: number of other platforms whose clocks agree with this machine's.
    """

    account: AccountLink
    username: str
    endpoint: str
    state: AccountState
    error: str
    waiting: WaitNote | None
    last_success: LastSuccess
    last_poll: float | None
    interval: float
    slowed: bool
    incremental: Incremental | None
    allowance: int
    allowance_used: int
    rate_limit_remaining: int | None
    stale: bool
    states: Sequence[tuple[str, int]] | None
    files: FilesCounted
    counting_since: float | None
    uncounted_since: float | None
    clock_skew: float | None
    clocks_agreeing: int


@dataclass(frozen=True, slots=True)
class PollProblem:
    """An account that is not polled successfully."""

    account: AccountLink
    state: AccountState
    last_success: LastSuccess
    error: str
    waiting: WaitNote | None


@dataclass(frozen=True, slots=True)
class WaitProblem:
    """An account whose last poll succeeded and that makes no requests for now."""

    account: AccountLink
    waiting: WaitNote


@dataclass(frozen=True, slots=True)
class FailedJobsProblem:
    """An account with failed jobs."""

    jobs: int
    latest: FailedJobRow


@dataclass(frozen=True, slots=True)
class IncompleteOrLostJobsProblem:
    """An account with incomplete or lost jobs."""

    jobs: int
    latest: IncompleteOrLostJobRow


@dataclass(frozen=True, slots=True)
class StuckJobsProblem:
    """An account with stuck jobs."""

    jobs: int
    longest: UnfinishedJobRow


@dataclass(frozen=True, slots=True)
class RejectedConfiguration:
    """A changed configuration that is not in use: since when, the first lines that say why, and how many more."""

    since: float
    reasons: tuple[str, ...]
    more: int


@dataclass(frozen=True, slots=True)
class UnwrittenState:
    """Commits to the state file fail: since when, why the first account's do, and of how many accounts."""

    since: float
    reason: str
    accounts: int


@dataclass(frozen=True, slots=True)
class RemovedAccounts:
    """Accounts that reloads have removed lately, and when the last of these was, Unix seconds."""

    names: tuple[str, ...]
    at: float


@dataclass(frozen=True, slots=True)
class Problems(Generic[Row]):
    """Problems of one kind, most urgent first, and the number of accounts beyond the limit."""

    shown: tuple[Row, ...]
    more: int


@dataclass(frozen=True, slots=True)
class StatusView:
    """Everything that the page shows at *now*.

    Attributes:
        refresh_seconds: how long until the page is worth loading again.
        accounts_waiting: without those that are failing.
        jobs_failed: without those that finished before counting began, which are jobs_failed_before.
        jobs_incomplete_or_lost: without those that finished before, which are jobs_incomplete_or_lost_before.
    """

    now: float
    refresh_seconds: float
    unwritten: UnwrittenState | None
    rejected: RejectedConfiguration | None
    restart: tuple[str, ...]
    removed: RemovedAccounts | None
    missing: MissingAccounts | None
    lost: LostStateFile | None
    failing: Problems[PollProblem]
    failed: Problems[FailedJobsProblem]
    incomplete_or_lost: Problems[IncompleteOrLostJobsProblem]
    stuck: Problems[StuckJobsProblem]
    waiting: Problems[WaitProblem]
    accounts_up: int
    accounts_failing: int
    accounts_untried: int
    accounts_waiting: int
    jobs_unfinished: int
    jobs_failed: int
    jobs_failed_before: int
    jobs_incomplete_or_lost: int
    jobs_incomplete_or_lost_before: int
    jobs_stuck: int
    failed_job_window: float
    files_completed: int
    files_failed: int
    failed_jobs: Table[FailedJobRow]
    incomplete_or_lost_jobs: Table[IncompleteOrLostJobRow]
    unfinished_jobs: Table[UnfinishedJobRow]
    listed: Table[ListedRow]
    accounts: tuple[AccountRow, ...]

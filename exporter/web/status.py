"""What the status page shows: frozen rows made from the accounts' snapshots, which the template lays out.

Its reader may have been woken up. So problems come first, with account, job, age and reason; then the accounts, those
with problems first; then the jobs. Tables of jobs are cut off, for each account and as a whole, and say which command
lists the rest. On a narrow screen each row of a table becomes a card.
"""

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from exporter.api.error_codes import in_words
from exporter.counting.values import JobRecord, JobTotals
from exporter.metrics.snapshot import (
    MAX_SKEW,
    AccountSnapshot,
    DisplayOptions,
    FilesCounted,
    PollStatus,
    ReloadStatus,
    Waiting,
    error_codes,
    noticed_at,
    submitted_at,
    why_incomplete_or_lost,
)

STUCK_SECONDS: Final = 1800.0
"""When an unfinished job without progress is reported as stuck: the threshold of the alert SbgJobStuck."""
INCOMPLETE_OR_LOST_COMMAND: Final = "sbg-exporter jobs --outcome incomplete --outcome lost"
_MAX_JOBS: Final = 100
_MAX_PROBLEMS: Final = 5
"""Limits on table rows and on problems of one kind, over all accounts: what a person can still read through."""
_MAX_JOBS_OF_ONE_ACCOUNT: Final = 50
_FAIR_SHARE: Final = 10
"""Rows of an account: the first number, divided by the number of accounts, but at least the second."""
_REFRESH_SECONDS: Final = (60.0, 300.0)
"""Least and most time between two refreshes of the page. A reader has time to read, or to stop them."""
_FIRST_REFRESH_SECONDS: Final = 10.0
"""While no account has been polled and there is nothing to read yet."""

Row = TypeVar("Row")
AccountState = Literal["untried", "up", "failing", "stale"]
"""``failing``: the last poll failed. ``stale``: it succeeded, but too long ago."""


# ---- what the template shows; times are Unix seconds, None: unknown ----


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
    done: int
    failed: int
    total: int
    progress: int
    progress_max: int
    submitted_at: float
    last_progress_at: float
    stuck: bool

    @classmethod
    def of(cls, account: AccountLink, record: JobRecord, now: float) -> "UnfinishedJobRow":
        """The row of *record* at *now*."""
        done, bar = record.last_completed + record.last_failed, max(1, record.last_total)
        return cls(
            account,
            record.id,
            record.operation,
            f"{record.state}, settling" if record.state == "finished" else record.state,
            done,
            record.last_failed,
            record.last_total,
            min(done, bar),
            bar,
            submitted_at(record),
            record.last_progress_at,
            _is_stuck(record, now),
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

    ``since`` is when that began; ``seconds`` is the time until it ends, None if that depends on an operator.
    """

    reason: str
    since: float
    seconds: float | None


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One account.

    Attributes:
        username: empty if unknown or hidden.
        states: number of listed jobs by state, most frequent first; None before the first full listing.
        counting_since: None before the account has a ledger.
        clock_skew: seconds by which the platform's clock is ahead of this machine's; None if they agree or if unknown.
    """

    account: AccountLink
    username: str
    endpoint: str
    state: AccountState
    error: str
    waiting: WaitNote | None
    last_success: float | None
    last_poll: float | None
    interval: float
    incremental: Incremental | None
    allowance: int
    allowance_used: int
    rate_limit_remaining: int | None
    stale: bool
    states: Sequence[tuple[str, int]] | None
    files: FilesCounted
    counting_since: float | None
    clock_skew: float | None


@dataclass(frozen=True, slots=True)
class PollProblem:
    """An account that is not polled successfully."""

    account: AccountLink
    state: AccountState
    last_success: float | None
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
        jobs_incomplete_or_lost: without those that finished before counting began.
    """

    now: float
    refresh_seconds: float
    rejected: RejectedConfiguration | None
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
    jobs_stuck: int
    failed_job_window: float
    files_completed: int
    files_failed: int
    failed_jobs: Table[FailedJobRow]
    incomplete_or_lost_jobs: Table[IncompleteOrLostJobRow]
    unfinished_jobs: Table[UnfinishedJobRow]
    listed: Table[ListedRow]
    accounts: tuple[AccountRow, ...]


# ---- from snapshots to the view ----


@dataclass(frozen=True, slots=True)
class _Account:
    """What several parts of the page need of an account.

    Attributes:
        stale: the last successful poll is too old for its listing to be shown.
        unfinished: its unfinished jobs; none if stale.
        stuck: the stuck ones, longest without progress first.
        failed: its failed jobs, latest detection first.
        detected: those that did not finish before counting began.
        incomplete_or_lost: its incomplete and lost jobs, latest first.
        job_series: how many unfinished and how many failed jobs of it are shown.
    """

    link: AccountLink
    snapshot: AccountSnapshot
    stale: bool
    unfinished: Sequence[JobRecord]
    stuck: Sequence[JobRecord]
    failed: Sequence[JobRecord]
    detected: Sequence[JobRecord]
    incomplete_or_lost: Sequence[JobRecord]
    files: FilesCounted
    job_series: int

    @classmethod
    def of(cls, number: int, snapshot: AccountSnapshot, display: DisplayOptions, now: float) -> "_Account":
        stale = now >= snapshot.gauges_until
        unfinished = [] if stale else snapshot.unfinished_jobs()
        stuck = sorted(
            (record for record in unfinished if _is_stuck(record, now)), key=lambda record: record.last_progress_at
        )
        failed = snapshot.failed_jobs(display, now)
        detected = [record for record in failed if record.detected_at is not None]
        link = AccountLink(snapshot.account, number)
        return cls(
            link=link,
            snapshot=snapshot,
            stale=stale,
            unfinished=unfinished,
            stuck=stuck,
            failed=failed,
            detected=detected,
            incomplete_or_lost=snapshot.incomplete_or_lost_jobs(display, now),
            files=snapshot.files_counted(),
            job_series=display.job_series_of(snapshot.account),
        )

    @property
    def state(self) -> AccountState:
        """How polling goes."""
        up = self.snapshot.status.up
        if up is None:
            return "untried"
        if not up:
            return "failing"
        return "stale" if self.stale else "up"

    @property
    def counted_incomplete_or_lost(self) -> Sequence[JobRecord]:
        """Its incomplete and lost jobs that did not finish before counting began, latest first."""
        return [record for record in self.incomplete_or_lost if not record.history]

    @property
    def failing(self) -> bool:
        """Whether polls fail, or have stopped."""
        return self.state in {"failing", "stale"}

    @property
    def waiting(self) -> bool:
        """Whether nothing is requested for now, although polls do not fail."""
        return self.snapshot.status.waiting is not None and not self.failing


def status_view(
    snapshots: Iterable[AccountSnapshot], display: DisplayOptions, now: float, reload: ReloadStatus | None = None
) -> StatusView:
    """The view of all accounts at *now*, Unix seconds; *reload* says how the configuration was last read."""
    accounts = [_Account.of(position, snapshot, display, now) for position, snapshot in enumerate(snapshots, 1)]
    limit = max(_FAIR_SHARE, _MAX_JOBS_OF_ONE_ACCOUNT // max(1, len(accounts)))
    waiting = [account for account in accounts if account.waiting]
    return StatusView(
        now=now,
        refresh_seconds=_refresh_seconds(accounts),
        rejected=_rejected(reload),
        failing=_failing(accounts, now),
        failed=_failed(accounts),
        incomplete_or_lost=_incomplete_or_lost(accounts),
        stuck=_stuck(accounts, now),
        waiting=_waiting(waiting, now),
        accounts_up=sum(account.state == "up" for account in accounts),
        accounts_failing=sum(account.failing for account in accounts),
        accounts_untried=sum(account.state == "untried" for account in accounts),
        accounts_waiting=len(waiting),
        jobs_unfinished=sum(len(account.unfinished) for account in accounts),
        jobs_failed=sum(len(account.detected) for account in accounts),
        jobs_failed_before=sum(len(account.failed) - len(account.detected) for account in accounts),
        jobs_incomplete_or_lost=sum(len(account.counted_incomplete_or_lost) for account in accounts),
        jobs_stuck=sum(len(account.stuck) for account in accounts),
        failed_job_window=display.failed_job_window,
        files_completed=sum(account.files.completed for account in accounts),
        files_failed=sum(account.files.failed for account in accounts),
        failed_jobs=_failed_jobs(accounts, limit),
        incomplete_or_lost_jobs=_incomplete_or_lost_jobs(accounts, limit),
        unfinished_jobs=_unfinished_jobs(accounts, limit, now),
        listed=_listed(accounts),
        accounts=tuple(
            _account_row(account, display, now)
            for account in sorted(
                accounts,
                key=lambda account: (
                    not account.failing,
                    not account.detected,
                    not account.counted_incomplete_or_lost,
                    not account.waiting,
                    account.link.number,
                ),
            )
        ),
    )


def _refresh_seconds(accounts: Sequence[_Account]) -> float:
    """The shortest poll interval, within limits; less if there is nothing to read yet."""
    if all(account.state == "untried" for account in accounts):
        return _FIRST_REFRESH_SECONDS
    least, most = _REFRESH_SECONDS
    return min(most, max(least, min(account.snapshot.status.interval for account in accounts)))


def _is_stuck(record: JobRecord, now: float) -> bool:
    return now - record.last_progress_at >= STUCK_SECONDS


def _most_urgent(
    accounts: Iterable[_Account], urgency: Callable[[_Account], float], problem: Callable[[_Account], Row]
) -> Problems[Row]:
    """The problem of each account, lowest *urgency* value first, up to the limit."""
    ordered = sorted(accounts, key=urgency)
    return Problems(tuple(map(problem, ordered[:_MAX_PROBLEMS])), len(ordered[_MAX_PROBLEMS:]))


def _rejected(reload: ReloadStatus | None) -> RejectedConfiguration | None:
    if reload is None or reload.failing_since is None:
        return None
    shown, more = reload.problems[:_MAX_PROBLEMS], reload.problems[_MAX_PROBLEMS:]
    return RejectedConfiguration(reload.failing_since, shown, len(more))


def _failing(accounts: Sequence[_Account], now: float) -> Problems[PollProblem]:
    def problem(account: _Account) -> PollProblem:
        status = account.snapshot.status
        note = _wait_note(status.waiting, now)
        return PollProblem(account.link, account.state, status.last_success, status.last_error, note)

    failing = (account for account in accounts if account.failing)
    return _most_urgent(failing, lambda account: account.snapshot.status.last_success or 0.0, problem)


def _failed(accounts: Sequence[_Account]) -> Problems[FailedJobsProblem]:
    return _most_urgent(
        (account for account in accounts if account.detected),
        lambda account: -(account.detected[0].detected_at or 0.0),
        lambda account: FailedJobsProblem(len(account.detected), FailedJobRow.of(account.link, account.detected[0])),
    )


def _incomplete_or_lost(accounts: Sequence[_Account]) -> Problems[IncompleteOrLostJobsProblem]:
    return _most_urgent(
        (account for account in accounts if account.counted_incomplete_or_lost),
        lambda account: -noticed_at(account.counted_incomplete_or_lost[0]),
        lambda account: IncompleteOrLostJobsProblem(
            len(account.counted_incomplete_or_lost),
            IncompleteOrLostJobRow.of(account.link, account.counted_incomplete_or_lost[0]),
        ),
    )


def _stuck(accounts: Sequence[_Account], now: float) -> Problems[StuckJobsProblem]:
    return _most_urgent(
        (account for account in accounts if account.stuck),
        lambda account: account.stuck[0].last_progress_at,
        lambda account: StuckJobsProblem(len(account.stuck), UnfinishedJobRow.of(account.link, account.stuck[0], now)),
    )


def _waiting(accounts: Iterable[_Account], now: float) -> Problems[WaitProblem]:
    """The problems of accounts that wait, longest wait first."""
    waits = [
        (account, wait, note)
        for account in accounts
        if (wait := account.snapshot.status.waiting) and (note := _wait_note(wait, now))
    ]
    waits.sort(key=lambda each: each[1].since)
    problems = tuple(WaitProblem(account.link, note) for account, _, note in waits)
    return Problems(problems[:_MAX_PROBLEMS], len(problems[_MAX_PROBLEMS:]))


def _failed_jobs(accounts: Sequence[_Account], limit: int) -> Table[FailedJobRow]:
    jobs = [(account, account.failed) for account in accounts]
    shown = _first(jobs, limit, lambda record: (record.detected_at or 0.0, record.id), highest=True)
    return Table(
        tuple(FailedJobRow.of(account.link, record) for account, record in shown),
        hidden=_hidden(jobs, shown, "sbg-exporter jobs --failed"),
        unknown=sum(account.snapshot.ledger is None for account in accounts),
    )


def _incomplete_or_lost_jobs(accounts: Sequence[_Account], limit: int) -> Table[IncompleteOrLostJobRow]:
    jobs = [(account, account.incomplete_or_lost) for account in accounts]
    shown = _first(jobs, limit, lambda record: (noticed_at(record), record.id), highest=True)
    return Table(
        tuple(IncompleteOrLostJobRow.of(account.link, record) for account, record in shown),
        hidden=_hidden(jobs, shown, INCOMPLETE_OR_LOST_COMMAND),
    )


def _unfinished_jobs(accounts: Sequence[_Account], limit: int, now: float) -> Table[UnfinishedJobRow]:
    jobs = [(account, account.unfinished) for account in accounts]
    shown = _first(jobs, limit, lambda record: (record.last_progress_at, record.id))
    return Table(
        tuple(UnfinishedJobRow.of(account.link, record, now) for account, record in shown),
        hidden=_hidden(jobs, shown, "sbg-exporter jobs --unfinished"),
        unknown=sum(account.stale or account.snapshot.ledger is None for account in accounts),
    )


_JobsOfAccount = tuple[_Account, Sequence[JobRecord]]


def _first(
    jobs: Iterable[_JobsOfAccount],
    limit: int,
    key: Callable[[JobRecord], tuple[float, str]],
    *,
    highest: bool = False,
) -> list[tuple[_Account, JobRecord]]:
    """The jobs with the lowest *key*, or the highest; of each account up to *limit* and to its job_series."""
    shown = [
        (account, record)
        for account, records in jobs
        for record in sorted(records, key=key, reverse=highest)[: min(limit, account.job_series)]
    ]
    shown.sort(key=lambda job: key(job[1]), reverse=highest)
    return shown[:_MAX_JOBS]


def _hidden(
    jobs: Iterable[_JobsOfAccount], shown: Iterable[tuple[_Account, JobRecord]], command: str
) -> tuple[HiddenJobs, ...]:
    """What is not among *shown*: of the accounts with most such jobs, then of the others together."""
    rows = Counter(account.link for account, _ in shown)
    hidden = [
        HiddenJobs(more, account.link, f"{command} --account {shlex.quote(account.link.name)}")
        for account, records in jobs
        if (more := len(records) - rows[account.link])
    ]
    hidden.sort(key=lambda each: -each.jobs)
    others = hidden[_MAX_PROBLEMS:]
    rest = (HiddenJobs(sum(each.jobs for each in others), None, command),) if others else ()
    return (*hidden[:_MAX_PROBLEMS], *rest)


def _listed(accounts: Sequence[_Account]) -> Table[ListedRow]:
    totals: dict[tuple[str, str], JobTotals] = {}
    unknown = 0
    for account in accounts:
        if account.stale or account.snapshot.listed is None:
            unknown += 1
            continue
        for key, more in account.snapshot.listed.items():
            totals[key] = JobTotals(*map(sum, zip(totals.get(key, JobTotals()), more, strict=True)))
    return Table(
        tuple(
            ListedRow(operation, state, each.jobs, each.total, each.completed, each.failed)
            for (operation, state), each in sorted(totals.items())
        ),
        unknown=unknown,
    )


def _account_row(account: _Account, display: DisplayOptions, now: float) -> AccountRow:
    snapshot, status = account.snapshot, account.snapshot.status
    return AccountRow(
        account=account.link,
        username=snapshot.owner if display.show_username else "",
        endpoint=snapshot.endpoint.removeprefix("https://"),
        state=account.state,
        error=status.last_error,
        waiting=_wait_note(status.waiting, now),
        last_success=status.last_success,
        last_poll=status.last_poll,
        interval=status.interval,
        incremental=_incremental(status),
        allowance=status.allowance,
        allowance_used=status.allowance_used,
        rate_limit_remaining=status.rate_limit_remaining,
        stale=account.stale,
        states=None if snapshot.listed is None else snapshot.jobs_by_state().most_common(),
        files=account.files,
        counting_since=snapshot.ledger.account.counting_since if snapshot.ledger is not None else None,
        clock_skew=status.clock_skew if abs(status.clock_skew or 0.0) > MAX_SKEW else None,
    )


def _wait_note(waiting: Waiting | None, now: float) -> WaitNote | None:
    if waiting is None:
        return None
    seconds = None if waiting.until is None else max(0.0, waiting.until - now)
    return WaitNote(waiting.reason.explanation, waiting.since, seconds)


def _incremental(status: PollStatus) -> Incremental | None:
    if not status.incremental_polling or status.full_listing_interval is None:
        return None
    return Incremental(status.full_listing_interval, status.detection_delay or 0.0)

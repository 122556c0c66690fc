"""What the status page shows: the rows of :mod:`exporter.web.view`, made from the accounts' snapshots.

Its reader may have been woken up. So problems come first, with account, job, age and reason; then the accounts, those
with problems first; then the jobs. Tables of jobs are cut off, for each account and as a whole, and say which command
lists the rest. On a narrow screen each row of a table becomes a card.
"""

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from exporter.counting.values import JobRecord, JobTotals
from exporter.metrics.snapshot import (
    MAX_SKEW,
    AccountSnapshot,
    DisplayOptions,
    FilesCounted,
    LostStateFile,
    MissingAccounts,
    PollStatus,
    ReloadStatus,
    Waiting,
    is_stuck,
    noticed_at,
)
from exporter.web.view import (
    AccountLink,
    AccountRow,
    AccountState,
    FailedJobRow,
    FailedJobsProblem,
    HiddenJobs,
    IncompleteOrLostJobRow,
    IncompleteOrLostJobsProblem,
    Incremental,
    LastSuccess,
    ListedRow,
    PollProblem,
    Problems,
    RejectedConfiguration,
    RemovedAccounts,
    Row,
    StatusView,
    StuckJobsProblem,
    Table,
    UnfinishedJobRow,
    UnwrittenState,
    WaitNote,
    WaitProblem,
)

INCOMPLETE_OR_LOST_COMMAND: Final = "sbg-exporter jobs --outcome incomplete --outcome lost"
"""Lists what the page leaves out of its table of these jobs."""
_MAX_JOBS: Final = 100
_MAX_PROBLEMS: Final = 5
"""Limits on table rows and on problems of one kind, over all accounts: what a person can still read through."""
_MAX_JOBS_OF_ONE_ACCOUNT: Final = 50
_FAIR_SHARE: Final = 10
"""Rows of an account: the first number, divided by the number of accounts, but at least the second."""
_REFRESH_SECONDS: Final = (60.0, 300.0)
"""Least and most time between two refreshes of the page. A reader has time to read, or to stop them."""
_LOST_SECONDS: Final = 24 * 3600.0
"""How long after a start a lost state file is named: then what was counted since then would be lost with its return."""
_REMOVED_SECONDS: Final = 24 * 3600.0
"""How long accounts are named that a reload has removed: an empty mount point looks like a removal of all."""
_FIRST_REFRESH_SECONDS: Final = 10.0
"""While no account has been polled and there is nothing to read yet."""


@dataclass(frozen=True, slots=True)
class _Account:
    """What several parts of the page need of an account.

    Attributes:
        stale: the last successful poll is too old for its listing to be shown.
        unfinished: its unfinished jobs; none if stale.
        looked_at: when each of them had been checked, at the latest, Unix seconds.
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
    looked_at: float
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
        looked_at = now - (snapshot.status.detection_delay or 0.0)  # as for SbgJobStuck
        stuck = sorted(
            (record for record in unfinished if is_stuck(record, looked_at)), key=lambda record: record.last_progress_at
        )
        failed = snapshot.failed_jobs(display, now)
        detected = [record for record in failed if record.detected_at is not None]
        link = AccountLink(snapshot.account, number)
        return cls(
            link=link,
            snapshot=snapshot,
            stale=stale,
            unfinished=unfinished,
            looked_at=looked_at,
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
    snapshots: Iterable[AccountSnapshot],
    display: DisplayOptions,
    now: float,
    reload: ReloadStatus | None = None,
    missing: MissingAccounts | None = None,
    *,
    lost: LostStateFile | None = None,
) -> StatusView:
    """The view of all accounts at *now*, Unix seconds.

    *reload* says how the configuration was last read, and *missing* which accounts the start did not find in it.
    *lost* is the state file, if it was gone at the start.
    """
    accounts = [_Account.of(position, snapshot, display, now) for position, snapshot in enumerate(snapshots, 1)]
    limit = max(_FAIR_SHARE, _MAX_JOBS_OF_ONE_ACCOUNT // max(1, len(accounts)))
    waiting = [account for account in accounts if account.waiting]
    agreeing = {each.snapshot.endpoint for each in accounts if _agrees(each.snapshot.status.clock_skew)}
    return StatusView(
        now=now,
        refresh_seconds=_refresh_seconds(accounts),
        unwritten=_unwritten(accounts),
        rejected=_rejected(reload),
        restart=() if reload is None else reload.waiting,
        removed=None if reload is None else _removed(reload, now),
        missing=missing,
        lost=lost if lost is not None and now - lost.since < _LOST_SECONDS else None,
        failing=_failing(accounts, now),
        failed=_failed(accounts),
        incomplete_or_lost=_incomplete_or_lost(accounts),
        stuck=_stuck(accounts),
        waiting=_waiting(waiting, now),
        accounts_up=sum(account.state == "up" for account in accounts),
        accounts_failing=sum(account.failing for account in accounts),
        accounts_untried=sum(account.state == "untried" for account in accounts),
        accounts_waiting=len(waiting),
        jobs_unfinished=sum(len(account.unfinished) for account in accounts),
        jobs_failed=sum(len(account.detected) for account in accounts),
        jobs_failed_before=sum(len(account.failed) - len(account.detected) for account in accounts),
        jobs_incomplete_or_lost=sum(len(account.counted_incomplete_or_lost) for account in accounts),
        jobs_incomplete_or_lost_before=sum(
            len(account.incomplete_or_lost) - len(account.counted_incomplete_or_lost) for account in accounts
        ),
        jobs_stuck=sum(len(account.stuck) for account in accounts),
        failed_job_window=display.failed_job_window,
        files_completed=sum(account.files.completed for account in accounts),
        files_failed=sum(account.files.failed for account in accounts),
        failed_jobs=_failed_jobs(accounts, limit),
        incomplete_or_lost_jobs=_incomplete_or_lost_jobs(accounts, limit),
        unfinished_jobs=_unfinished_jobs(accounts, limit),
        listed=_listed(accounts),
        accounts=tuple(
            _account_row(account, display, now, len(agreeing - {account.snapshot.endpoint}))
            for account in sorted(
                accounts,
                key=lambda account: (
                    not account.failing,
                    account.snapshot.status.commit_failure is None,
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


def _most_urgent(
    accounts: Iterable[_Account], urgency: Callable[[_Account], float], problem: Callable[[_Account], Row]
) -> Problems[Row]:
    """The problem of each account, lowest *urgency* value first, up to the limit."""
    ordered = sorted(accounts, key=urgency)
    return Problems(tuple(map(problem, ordered[:_MAX_PROBLEMS])), len(ordered[_MAX_PROBLEMS:]))


def _unwritten(accounts: Iterable[_Account]) -> UnwrittenState | None:
    failures = [failure for account in accounts if (failure := account.snapshot.status.commit_failure)]
    if not failures:
        return None
    first = min(failures, key=lambda failure: failure.since)
    return UnwrittenState(first.since, first.reason, len(failures))


def _rejected(reload: ReloadStatus | None) -> RejectedConfiguration | None:
    if reload is None or reload.failing_since is None:
        return None
    shown, more = reload.problems[:_MAX_PROBLEMS], reload.problems[_MAX_PROBLEMS:]
    return RejectedConfiguration(reload.failing_since, shown, len(more))


def _removed(reload: ReloadStatus, now: float) -> RemovedAccounts | None:
    lately = {name: at for name, at in reload.removed.items() if now - at < _REMOVED_SECONDS}
    return RemovedAccounts(tuple(lately), max(lately.values())) if lately else None


def _failing(accounts: Sequence[_Account], now: float) -> Problems[PollProblem]:
    def problem(account: _Account) -> PollProblem:
        status = account.snapshot.status
        note = _wait_note(status.waiting, now)
        if note is not None and status.last_error.endswith(note.next_step):  # said already
            note = replace(note, next_step="")
        success = LastSuccess.of(account.snapshot)
        return PollProblem(account.link, account.state, success, status.last_error, note)

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


def _stuck(accounts: Sequence[_Account]) -> Problems[StuckJobsProblem]:
    return _most_urgent(
        (account for account in accounts if account.stuck),
        lambda account: account.stuck[0].last_progress_at,
        lambda account: StuckJobsProblem(
            len(account.stuck), UnfinishedJobRow.of(account.link, account.stuck[0], account.looked_at)
        ),
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


def _unfinished_jobs(accounts: Sequence[_Account], limit: int) -> Table[UnfinishedJobRow]:
    jobs = [(account, account.unfinished) for account in accounts]
    shown = _first(jobs, limit, lambda record: (record.last_progress_at, record.id))
    return Table(
        tuple(UnfinishedJobRow.of(account.link, record, account.looked_at) for account, record in shown),
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


def _agrees(clock_skew: float | None) -> bool:
    return clock_skew is not None and abs(clock_skew) <= MAX_SKEW


def _account_row(account: _Account, display: DisplayOptions, now: float, clocks_agreeing: int) -> AccountRow:
    snapshot, status = account.snapshot, account.snapshot.status
    return AccountRow(
        account=account.link,
        username=snapshot.owner if display.show_username else "",
        endpoint=snapshot.endpoint.removeprefix("https://"),
        state=account.state,
        error=status.last_error,
        waiting=_wait_note(status.waiting, now),
        last_success=LastSuccess.of(snapshot),
        last_poll=status.last_poll,
        interval=status.interval,
        slowed=status.slowed,
        incremental=_incremental(status),
        allowance=status.allowance,
        allowance_used=status.allowance_used,
        rate_limit_remaining=status.rate_limit_remaining,
        stale=account.stale,
        states=None if snapshot.listed is None else snapshot.jobs_by_state().most_common(),
        files=account.files,
        counting_since=snapshot.ledger.account.counting_since if snapshot.ledger is not None else None,
        uncounted_since=status.commit_failure.since if status.commit_failure is not None else None,
        clock_skew=None if status.clock_skew is None or _agrees(status.clock_skew) else status.clock_skew,
        clocks_agreeing=clocks_agreeing,
    )


def _wait_note(waiting: Waiting | None, now: float) -> WaitNote | None:
    if waiting is None:
        return None
    seconds = None if waiting.until is None else max(0.0, waiting.until - now)
    return WaitNote(waiting.explanation or waiting.reason.explanation, waiting.since, seconds, waiting.next_step)


def _incremental(status: PollStatus) -> Incremental | None:
    if not status.incremental_polling or status.full_listing_interval is None:
        return None
    return Incremental(status.full_listing_interval, status.detection_delay or 0.0)

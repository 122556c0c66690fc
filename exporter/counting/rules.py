"""The rules of counting: what was known, and what was just seen, become what is counted now.

Theory of operation
===================

The platform shows totals per job and forgets a job a month after its end. Prometheus wants increments that never come
twice. So for each job the ledger keeps a *mark*: the highest totals already counted, and what else was counted once.
Folding a sighting into a mark adds only what exceeds it. Whatever decides what is counted lives in this file, and
nothing in this file reads a clock, a socket or a file.

1.  A mark never goes down. Pages that overlap, a listing read again after a crash, an old answer that comes late: all
    add nothing. A count that the platform lowers stays counted and is reported.
2.  When an account's ledger begins, the platform's time is written down as *counting since*. A job first seen finished
    is *history* when it finished before that second, or, without a readable time, when it was finished at the first
    complete listing. History is marked, so that it is never counted later, whatever the platform still changes in it,
    and not counted (unless the setting ``history`` says ``count``; even then no failure in it is a detection). Every
    other job is counted in full, whenever it is first seen, also when it started and ended while nobody looked.
3.  Marks, counters, histograms and their creation times leave here together, as :class:`Changes`, to be committed in
    one transaction. :meth:`Ledger.after` is what memory holds after that commit, so only what is committed is shown.
4.  A job is finished in state FINISHED, or in a state nobody documented that comes with ``finished_on``. It finishes
    once; of two sightings the more advanced wins. What changes after that adds to the file counters only.
5.  ``incomplete`` (none failed, fewer completed than in total) is believed when two answers ``settle_after`` apart
    agree; until then the job is unfinished.
6.  An unfinished job that the platform itself says it does not know, twice and ``lost_after`` apart, is ``lost``. One
    whose operation has no documented endpoint is lost after 45 days of listing time without being listed. Absence from
    a listing proves nothing.
7.  A finished mark is forgotten after 45 days of *listing time* without being listed. The listing clock of an account
    moves at each complete listing, by the platform's time since the one before, at most six hours: time in which nobody
    looked is no evidence.
8.  Submission is the time in the job's id where that can be (within 45 days, not after ``started_on`` + 2 s), else the
    first sight if the job then was SUBMITTED, else unknown. That ids carry their time is undocumented: seven of the ten
    ids known decode to within a second of their documented times.
9.  A finished job without times, or with failed files and no result, is *pending*: it is asked for once by its own
    endpoint; again, five times in all, while what comes is no answer about it. Its duration and errors have marks of
    their own, so they may follow the finish. So is history that is shown one by one, for the errors to show with it.
10. A label value that nobody documented is kept as itself for the first eight of its kind (32 error codes) that an
    account ever showed; the rest are ``other``. Which ones were first is part of the ledger.

Times named *platform* are Unix seconds by the platform's clock (``Date``); they decide. Times named *now* are by this
machine's clock, which is the one that Prometheus compares with; they are only shown.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final, Literal

import msgspec

from exporter.api.models import FINAL_RANK, OPERATIONS, OTHER, OUTCOMES, STATES, Job, Outcome, State, rank
from exporter.counting.values import (
    FILE_ERRORS,
    FILES,
    FILES_COMPLETED,
    FILES_FAILED,
    FORGET_AFTER,
    JOB_DURATION,
    JOB_QUEUE_DURATION,
    JOBS_FINISHED,
    JOBS_SUBMITTED,
    Account,
    Changes,
    CountDecreased,
    CounterValue,
    Exemplar,
    FilesFailed,
    HistogramReset,
    HistogramValue,
    HistoryFound,
    JobFinished,
    JobRecord,
    JobTotals,
    Key,
    Ledger,
    LedgerEvent,
    Observations,
    Rules,
)

LISTING_STEP: Final = 6 * 3600.0
_KEPT_LABELS: Final = {"operation": 8, "state": 8, "code": 32}
_LONGEST_EXEMPLAR_ID: Final = 64
_MOST_DETAIL_REQUESTS: Final = 5
"""How often the own endpoint of a pending job is asked: a proxy's page in its place shall not cost the errors."""
_DOCUMENTED: Final[Mapping[str, frozenset[str]]] = {
    "operation": frozenset(OPERATIONS),
    "state": frozenset(STATES),
    "code": frozenset({"none"}),
}


def reconcile(
    ledger: Ledger,
    records: Mapping[str, JobRecord],
    observations: Observations,
    rules: Rules,
    *,
    local_time: float,
    server_time: float,
) -> Changes:
    """What *observations* change in *ledger*.

    Args:
        ledger: the account's ledger as committed.
        records: the committed marks of every id in *observations* that has one.
        observations: what one poll saw.
        rules: the settings that counting depends on.
        local_time: Unix seconds by this machine's clock.
        server_time: Unix seconds by the platform's clock.
    """
    return _Reconciler(ledger, rules, local_time, server_time).reconcile(records, observations)


def _in_order(jobs: Collection[Job]) -> Iterable[Job]:
    """The sightings, those of one job after the less advanced ones of it; what was told twice only once."""
    different = dict.fromkeys(jobs)
    if len(different) == len({job.id for job in different}):
        return different
    return sorted(different, key=lambda job: job.progress)


def initial_changes(account: Account, rules: Rules, local_time: float) -> Changes:
    """The rows with which a ledger begins: every counter and histogram of the documented operations at 0."""
    empty = Ledger(account, {}, {}, {}, {}, {}, 0)
    beginning = _Reconciler(empty, rules, local_time, account.counting_since)
    for operation in OPERATIONS:
        beginning.add_zero_series(operation)
    return beginning.changes()


def reset_changed_histograms(ledger: Ledger, rules: Rules, local_time: float) -> Changes:
    """Histograms whose bounds are not those of *rules* begin again at 0, with a new creation time."""
    changing = _Reconciler(ledger, rules, local_time, ledger.account.counting_since)
    for (family, labels), histogram in ledger.histograms.items():
        if histogram.bounds != rules.bounds(family):
            changing.reset_histogram(family, labels)
    return changing.changes()


def outcome_of(job: Job, before: JobRecord) -> Outcome:
    """What a finished job's numbers make of it; *before* stands in where the answer did not say."""
    failed = job.failed if job.failed is not None else before.last_failed
    # A count that no answer ever told is not taken for none: nothing is known to be missing then.
    completed = job.completed if job.completed is not None else before.last_completed or None
    total = job.total if job.total is not None else before.last_total or None
    if failed:
        return Outcome.PARTIAL if completed else Outcome.FAILED
    if total is not None and completed is not None and completed < total:
        return Outcome.INCOMPLETE
    return Outcome.SUCCEEDED


class _Reconciler:
    """One fold at work: collects rows, and reads what it has collected before what was committed."""

    def __init__(self, ledger: Ledger, rules: Rules, local_time: float, server_time: float) -> None:
        self._ledger = ledger
        self._rules = rules
        self._local_time = local_time
        self._server_time = server_time
        self._records: dict[str, JobRecord] = {}
        self._forgotten: list[str] = []
        self._counters: dict[Key, CounterValue] = {}
        self._histograms: dict[Key, HistogramValue] = {}
        self._labels = dict(ledger.account.labels)
        self._failure_counted_at = dict(ledger.account.failure_counted_at)
        self._listed = dict(ledger.listed)
        self._events: list[LedgerEvent] = []
        self._new_records = 0
        self._history = 0
        self._clock = ledger.account.listing_clock

    def reconcile(self, records: Mapping[str, JobRecord], observations: Observations) -> Changes:
        account = self._ledger.account
        if observations.complete and account.listed_on is not None:
            self._clock += min(max(0.0, self._server_time - account.listed_on), LISTING_STEP)
        for job in _in_order(observations.jobs):
            listed = job.id in observations.listed
            record = self._records.get(job.id) or records.get(job.id)
            if record is None:
                self._add_job(job, listed=listed)
            elif not _is_unchanged(record, job, listed=listed):
                self._update_job(record, job, listed=listed)
        self._asked_for(records, observations)
        if observations.complete:
            for record in observations.no_longer_listed:
                self._save(
                    record, msgspec.structs.replace(self._records.get(record.id, record), unlisted_at=self._clock)
                )
            for record in observations.expirable:
                self._expire(self._records.get(record.id, record))
        return self.changes(complete=observations.complete)

    def _asked_for(self, records: Mapping[str, JobRecord], observations: Observations) -> None:
        """What came of asking for jobs by their own endpoint."""
        for told, ids in (
            (self._answered, observations.asked),
            (self._refused, observations.refused),
            (self._handle_not_found, observations.unknown),
        ):
            for job_id in ids:
                record = self._records.get(job_id) or records.get(job_id)
                if record is not None:
                    told(record)

    def changes(self, *, complete: bool = False) -> Changes:
        """What was collected; *complete* says that a listing was completed."""
        if self._history:
            self._events.append(HistoryFound(self._history, self._rules.history == "count"))
        old = self._ledger.account
        account = msgspec.structs.replace(
            old,
            labels=self._labels,
            failure_counted_at=self._failure_counted_at,
            ever_listed=old.ever_listed or complete,
        )
        due = complete and (old.listed_on is None or not 0 <= self._server_time - old.listed_on < _CLOCK_WRITTEN_EVERY)
        if complete and (due or self._records or self._forgotten or account != old):
            # Otherwise the clock's step is left to a later listing, so that an idle poll writes nothing.
            account = msgspec.structs.replace(account, listing_clock=self._clock, listed_on=self._server_time)
        return Changes(
            self._records,
            self._forgotten,
            self._counters,
            self._histograms,
            account if account != old else None,
            self._listed,
            tuple(self._latest(event) for event in self._events),
            self._new_records,
            self._local_time - self._rules.failed_job_window,
        )

    def _latest(self, event: LedgerEvent) -> LedgerEvent:
        """The fact with all that this poll came to know of its job."""
        if isinstance(event, JobFinished | FilesFailed):
            return event._replace(record=self._records.get(event.record.id, event.record))
        return event

    def add_zero_series(self, operation: str) -> None:
        """Zeros for *operation*: a counter that is born at its first increment hides that increment from ``rate``."""
        for family in (JOBS_SUBMITTED, FILES, FILES_COMPLETED, FILES_FAILED):
            self._counters[family, (operation,)] = CounterValue(0, self._local_time)
        for outcome in OUTCOMES:
            self._counters[JOBS_FINISHED, (operation, outcome)] = CounterValue(0, self._local_time)
            if outcome is not Outcome.LOST:
                self.reset_histogram(JOB_DURATION, (operation, outcome), told=False)
        self.reset_histogram(JOB_QUEUE_DURATION, (operation,), told=False)

    def reset_histogram(self, family: str, labels: tuple[str, ...], *, told: bool = True) -> None:
        """The histogram begins at 0, now."""
        self._histograms[family, labels] = HistogramValue.empty(self._rules.bounds(family), self._local_time)
        if told and HistogramReset(family) not in self._events:
            self._events.append(HistogramReset(family))

    # ---- one job ----

    def _add_job(self, job: Job, *, listed: bool) -> None:
        operation = self._label("operation", job.operation)
        key = JOBS_SUBMITTED, (operation,)
        if key not in self._ledger.counters and key not in self._counters:
            self.add_zero_series(operation)
        history = job.rank == FINAL_RANK and (
            job.finished_on < self._ledger.account.counting_since
            if job.finished_on is not None
            else not self._ledger.account.ever_listed
        )
        blank = JobRecord(
            id=job.id,
            operation=operation,
            state=self._label("state", job.state),
            total=0,
            completed=0,
            failed=0,
            last_total=0,
            last_completed=0,
            last_failed=0,
            first_seen=self._server_time,
            seen_submitted=job.state == State.SUBMITTED,
            started_on=None,
            finished_on=None,
            outcome="",
            history=history,
            detail_requests_left=0,
            queue_counted=False,
            duration_counted=False,
            errors_counted=False,
            last_progress_at=self._local_time,
            detected_at=None,
            settling_since=None,
            missing_since=None,
            unlisted_at=self._clock,
            error_counts="",
        )
        self._new_records += 1
        self._history += history
        if history and self._rules.history == "ignore":
            self._add_ignored_job(blank, job, listed=listed)
        else:
            self._count(JOBS_SUBMITTED, (operation,), 1)
            self._save(blank, blank)
            self._update_job(blank, job, listed=listed)

    def _add_ignored_job(self, blank: JobRecord, job: Job, *, listed: bool) -> None:
        """History: marked as it is, so that it is never counted."""
        record = msgspec.structs.replace(
            self._merge_observation(blank, job, listed=listed),
            outcome=outcome_of(job, blank),
            queue_counted=True,
            duration_counted=True,
            errors_counted=True,
            error_counts=_encode_error_counts(self._by_label(job.errors or ())),
        )
        # One that is shown one by one is shown with its errors.
        shown = bool(record.failed) and record.ended_on >= self._local_time - self._rules.failed_job_window
        wanted = shown and job.errors is None and record.operation in OPERATIONS
        self._save(blank, msgspec.structs.replace(record, detail_requests_left=_MOST_DETAIL_REQUESTS if wanted else 0))

    def _update_job(self, old: JobRecord, job: Job, *, listed: bool) -> None:
        """Rules 1, 4, 5, 8 and 9 for one job; of history that is ignored only the marks rise."""
        record = self._merge_observation(old, job, listed=listed)
        if old.history and self._rules.history == "ignore":
            if record.needs_details and job.errors is not None:
                record = msgspec.structs.replace(
                    record, error_counts=_encode_error_counts(self._by_label(job.errors)), detail_requests_left=0
                )
            if record != old:
                self._save(old, record)
            return
        self._count_files(old, record)
        if job.rank == FINAL_RANK and record.unfinished:
            record = self._finished(old, record, job)
        record = self._durations(record)
        if record.outcome not in {"", Outcome.LOST}:
            record = self._errors(record, job)
            lacking = (
                record.started_on is None
                or record.finished_on is None
                or (record.failed > 0 and not record.errors_counted)
            )
            if record.needs_details and not lacking:
                record = msgspec.structs.replace(record, detail_requests_left=0)
        if record != old:
            self._emit_event(old, record)
            self._save(old, record)

    def _merge_observation(self, old: JobRecord, job: Job, *, listed: bool) -> JobRecord:
        """The mark with everything raised that the sighting raises."""
        ahead = job.rank >= rank(old.state, old.finished_on)
        total, completed, failed = (
            old_value if not ahead or shown is None else shown
            for old_value, shown in (
                (old.last_total, job.total),
                (old.last_completed, job.completed),
                (old.last_failed, job.failed),
            )
        )
        for field, was, shown, counted in (
            ("total", old.last_total, total, old.total),
            ("completed", old.last_completed, completed, old.completed),
            ("failed", old.last_failed, failed, old.failed),
        ):
            if shown < was:
                self._events.append(CountDecreased(old.id, field, counted, shown))
        state = self._label("state", job.state) if ahead else old.state
        moved = (state, total, completed, failed) != (
            old.state,
            old.last_total,
            old.last_completed,
            old.last_failed,
        )
        highest = max(old.failed, job.failed or 0)
        newly_failed = highest > old.failed and not old.history
        return msgspec.structs.replace(
            old,
            state=state,
            total=max(old.total, job.total or 0),
            completed=max(old.completed, job.completed or 0),
            failed=highest,
            last_total=total,
            last_completed=completed,
            last_failed=failed,
            started_on=job.started_on if job.started_on is not None else old.started_on,
            finished_on=job.finished_on if job.finished_on is not None else old.finished_on,
            last_progress_at=self._local_time if moved else old.last_progress_at,
            detected_at=self._local_time if newly_failed and old.detected_at is None else old.detected_at,
            missing_since=None,
            unlisted_at=None if listed else old.unlisted_at,
        )

    def _count_files(self, old: JobRecord, record: JobRecord) -> None:
        for family, counted, shown in (
            (FILES, old.total, record.total),
            (FILES_COMPLETED, old.completed, record.completed),
            (FILES_FAILED, old.failed, record.failed),
        ):
            if shown > counted:
                exemplar = _exemplar(record, shown - counted, self._local_time) if family == FILES_FAILED else None
                self._count(family, (record.operation,), shown - counted, exemplar)
        if record.failed > old.failed and not old.history:
            self._failure_counted_at[record.operation] = self._local_time

    def _finished(self, old: JobRecord, record: JobRecord, job: Job) -> JobRecord:
        outcome = outcome_of(job, old)
        if outcome is Outcome.INCOMPLETE:
            agrees = (old.last_total, old.last_completed) == (record.last_total, record.last_completed)
            since = old.settling_since if old.settling_since is not None and agrees else self._server_time
            since = min(since, self._server_time)  # the platform's clock may have been ahead for an answer
            if self._server_time - since < self._rules.settle_after:
                return msgspec.structs.replace(record, settling_since=since)
        self._count(JOBS_FINISHED, (record.operation, outcome), 1, _exemplar(record, 1, self._local_time))
        detail_requests = _MOST_DETAIL_REQUESTS if record.operation in OPERATIONS else 0
        return msgspec.structs.replace(
            record, outcome=outcome, settling_since=None, detail_requests_left=detail_requests
        )

    def _durations(self, record: JobRecord) -> JobRecord:
        queue_done, duration_done = record.queue_counted, record.duration_counted
        if record.started_on is not None and not queue_done:
            queue_done = True
            if record.submitted_on is not None:
                waited = max(0.0, record.started_on - record.submitted_on)
                self._observe(JOB_QUEUE_DURATION, (record.operation,), waited, record)
        if (
            record.outcome not in {"", Outcome.LOST}
            and not duration_done
            and record.started_on is not None
            and record.finished_on is not None
        ):
            duration_done = True
            if record.finished_on >= record.started_on:
                self._observe(
                    JOB_DURATION, (record.operation, record.outcome), record.finished_on - record.started_on, record
                )
        if (queue_done, duration_done) == (record.queue_counted, record.duration_counted):
            return record
        return msgspec.structs.replace(record, queue_counted=queue_done, duration_counted=duration_done)

    def _errors(self, record: JobRecord, job: Job) -> JobRecord:
        if record.errors_counted or job.errors is None or not record.failed:
            return record
        codes = self._by_label(job.errors)
        for code, records in codes.items():
            self._count(FILE_ERRORS, (record.operation, code), records)
        return msgspec.structs.replace(record, errors_counted=True, error_counts=_encode_error_counts(codes))

    def _by_label(self, errors: Iterable[tuple[str, int]]) -> Mapping[str, int]:
        """Error records by the label of their code."""
        codes: dict[str, int] = {}
        for code, records in errors:
            label = self._label("code", code)
            codes[label] = codes.get(label, 0) + records
        return codes

    def _emit_event(self, old: JobRecord, record: JobRecord) -> None:
        if record.outcome and not old.outcome:
            self._events.append(JobFinished(record))
        elif record.unfinished and record.failed and not old.failed:
            self._events.append(FilesFailed(record))

    def _answered(self, record: JobRecord) -> None:
        """Its own endpoint told of it all that it tells: once is enough for a pending job."""
        if record.needs_details:
            self._save(record, msgspec.structs.replace(record, detail_requests_left=0))

    def _refused(self, record: JobRecord) -> None:
        """Its own endpoint told nothing of it: a pending job is asked for again, but not for ever."""
        if record.needs_details:
            self._save(record, msgspec.structs.replace(record, detail_requests_left=record.detail_requests_left - 1))

    def _handle_not_found(self, record: JobRecord) -> None:
        """The platform itself says that it knows no such job: rules 6 and 9."""
        if not record.unfinished:
            self._save(record, msgspec.structs.replace(record, detail_requests_left=0))
        elif record.missing_since is None or record.missing_since > self._server_time:
            self._save(record, msgspec.structs.replace(record, missing_since=self._server_time))
        elif self._server_time - record.missing_since >= self._rules.lost_after:
            # A job that was seen to finish and waited for its files to settle is not lost.
            self._mark_gone(record, Outcome.LOST if record.settling_since is None else Outcome.INCOMPLETE)

    def _mark_gone(self, record: JobRecord, outcome: Outcome) -> None:
        """The job is gone from the platform."""
        self._count(JOBS_FINISHED, (record.operation, outcome), 1, _exemplar(record, 1, self._local_time))
        ended = self._durations(
            msgspec.structs.replace(
                record, outcome=outcome, settling_since=None, missing_since=None, last_progress_at=self._local_time
            )
        )
        self._events.append(JobFinished(ended))
        self._save(record, ended)

    def _expire(self, record: JobRecord) -> None:
        """Unlisted for 45 days of listing time: rules 6 and 7."""
        if record.unlisted_at is None or self._clock - record.unlisted_at < FORGET_AFTER:
            return
        if not record.unfinished:
            self._records.pop(record.id, None)
            self._forgotten.append(record.id)
        elif record.operation not in OPERATIONS:
            # Kept for another 45 days, so that it is not counted a second time should it come back.
            self._mark_gone(msgspec.structs.replace(record, unlisted_at=self._clock), Outcome.LOST)

    # ---- rows ----

    def _save(self, old: JobRecord, record: JobRecord) -> None:
        """The mark's row, and what it moves in the sums over listed jobs."""
        old = self._records.get(record.id, old)
        self._records[record.id] = record
        if old.unlisted_at is None:
            self._add(old, -1)
        if record.unlisted_at is None:
            self._add(record, 1)

    def _add(self, record: JobRecord, sign: Literal[1, -1]) -> None:
        key = record.operation, record.state
        before = self._listed.get(key, JobTotals())
        after = JobTotals(
            before.jobs + sign,
            before.total + sign * record.last_total,
            before.completed + sign * record.last_completed,
            before.failed + sign * record.last_failed,
        )
        if after.jobs:
            self._listed[key] = after
        else:
            self._listed.pop(key, None)

    def _count(self, family: str, labels: tuple[str, ...], by: int, exemplar: Exemplar | None = None) -> None:
        key = family, labels
        was = self._counters.get(key) or self._ledger.counters.get(key) or CounterValue(0, self._local_time)
        self._counters[key] = CounterValue(was.value + by, was.created, exemplar or was.exemplar)

    def _observe(self, family: str, labels: tuple[str, ...], value: float, record: JobRecord) -> None:
        key = family, labels
        was = self._histograms.get(key) or self._ledger.histograms.get(key)
        if was is None:
            was = HistogramValue.empty(self._rules.bounds(family), self._local_time)
        self._histograms[key] = was.observe(value, _exemplar(record, value, self._local_time))

    def _label(self, kind: Literal["operation", "state", "code"], value: str) -> str:
        if value == OTHER or value in _DOCUMENTED[kind]:
            return value
        kept = self._labels.get(kind, ())
        if value in kept:
            return value
        if len(kept) >= _KEPT_LABELS[kind]:
            return OTHER
        self._labels[kind] = (*kept, value)
        return value


_CLOCK_WRITTEN_EVERY: Final = 3600.0


def _is_unchanged(record: JobRecord, job: Job, *, listed: bool) -> bool:
    """Whether the sighting tells nothing that the mark does not already say, and nothing waits for it."""
    return (
        job.state == record.state
        and job.total == record.last_total
        and job.completed == record.last_completed
        and job.failed == record.last_failed
        and (job.started_on == record.started_on or job.started_on is None)
        and (job.finished_on == record.finished_on or job.finished_on is None)
        and (not listed or record.unlisted_at is None)
        and record.settling_since is None
        and record.missing_since is None
        and not record.needs_details
    )


def _exemplar(record: JobRecord, value: float, local_time: float) -> Exemplar | None:
    return Exemplar(record.id, value, local_time) if len(record.id) <= _LONGEST_EXEMPLAR_ID else None


def _encode_error_counts(codes: Mapping[str, int]) -> str:
    return " ".join(f"{code}:{records}" for code, records in codes.items())

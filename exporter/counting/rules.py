"""How counting works: reconcile what is stored with what was observed, and add the difference.

Theory of operation
===================

The platform reports totals per job and forgets a job a month after its end. Prometheus needs increments, each counted
exactly once. So the ledger keeps a *record* of each job: the highest totals already counted, and what else was counted.
Reconciling an observation with a record adds only what exceeds the record. Everything that decides what is counted is
in this package. Nothing in it reads a clock, a socket or a file.

1.  The totals in a record never decrease. Overlapping pages, a listing repeated after a crash and a late old response
    add nothing. A count that the platform lowers stays counted and is reported.
2.  When an account's ledger is created, the platform's time is stored as *counting since*, once two responses in a row
    agree on it. A job that is finished when
    first observed is an *existing job* (history) if it finished before that time. Without a readable time, it is one if
    it was finished in the first full listing. Existing jobs are recorded, so that later corrections by the platform do
    not count them. They are counted only with ``history = "count"``, and even then their failures are not detections.
    Every other job is counted in full whenever it is first observed, also if it started and ended during downtime.
3.  Records, counters, histograms and their creation times are returned together, as :class:`Changes`, and committed in
    one transaction. :meth:`Ledger.after` is the ledger after that commit, so only committed values are shown.
4.  A job is finished in state FINISHED, or in an undocumented state with ``finished_on``. It finishes once; of two
    observations the more advanced wins. Later changes add to the file counters only.
5.  ``incomplete`` (no failed file, fewer completed than in total) is final when two responses, ``settle_after`` apart,
    agree. Until then the job is unfinished.
6.  An unfinished job is ``lost`` when the platform itself answers twice, ``lost_after`` apart, that it does not know
    the job. A job whose operation has no documented endpoint is lost after 45 days of listing time without being
    listed. Absence from a listing proves nothing.
7.  The record of a finished job expires after 45 days of *listing time* without being listed. At each full listing, the
    account's listing clock advances by the time since the previous one, at most six hours. Downtime therefore does not
    count as evidence.
8.  The submission time is the time in the job's id if that is plausible: within 45 days, not after ``started_on`` plus
    2 s. Otherwise it is the first observation if the job was SUBMITTED then, else unknown. See
    :mod:`exporter.counting.submission`.
9.  A finished job without times, or with failed files and no result, *needs details*: its own endpoint is requested
    until a response says something about the job. If requests fail, or the result is not a list, they are repeated ever
    less often for about a day. Restarts change neither how often nor for how long.
    Duration and errors have flags of their own, so they may be counted after the finish. Existing jobs that are shown
    individually need details too, for their errors.
10. An undocumented label value is kept if it is among the first eight of its kind (32 error codes) of an account; later
    ones become ``other``. The ledger stores which ones are kept.

*Server times* are Unix seconds by the platform's clock (``Date`` header). They decide what is history and when a job
was submitted. *Local times* are by this machine's clock, the one that Prometheus compares with; they are only shown.
Either may be wrong. How long ago something was (rules 5 to 7) is therefore measured by the account's *wait clock*,
which advances only by what two clocks agree on: see :class:`.values.WaitClock`.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import msgspec

from exporter.api.models import Job
from exporter.counting import transitions
from exporter.counting.tally import Tally
from exporter.counting.transitions import Context
from exporter.counting.values import (
    Account,
    Changes,
    FilesFailed,
    HistoryFound,
    JobFinished,
    JobRecord,
    Ledger,
    LedgerEvent,
    Observations,
    Rules,
    WaitClock,
)

_MAX_LISTING_STEP: Final = 6 * 3600.0
_CLOCK_SAVED_EVERY: Final = 3600.0
HEARD_SAVED_EVERY: Final = 300.0
"""Seconds after which the ledger is committed even if nothing changes, so that other processes see that it is kept."""


def reconcile(
    ledger: Ledger,
    records: Mapping[str, JobRecord],
    observations: Observations,
    rules: Rules,
    *,
    local_time: float,
    server_time: float,
    wait_clock: WaitClock | None = None,
) -> Changes:
    """What *observations* change in *ledger*.

    Args:
        ledger: the account's ledger as committed.
        records: the committed records of all jobs in *observations* that have one.
        observations: what one poll observed.
        rules: the settings that counting depends on.
        local_time: Unix seconds by this machine's clock.
        server_time: Unix seconds by the platform's clock.
        wait_clock: the reading of the account's wait clock; without one, *server_time* measures the waits.
    """
    return _Reconciler(ledger, records, rules, local_time, server_time, wait_clock=wait_clock).reconcile(observations)


def initial_changes(account: Account, rules: Rules, local_time: float) -> Changes:
    """The rows of a new ledger: every counter and histogram of the documented operations at 0."""
    empty = Ledger(account, {}, {}, {}, {}, {}, 0)
    reconciler = _Reconciler(empty, {}, rules, local_time, account.counting_since)
    reconciler.tally.add_documented_series()
    return reconciler.changes()


def reset_changed_histograms(ledger: Ledger, rules: Rules, local_time: float) -> Changes:
    """Reset the histograms whose bounds differ from those of *rules*, with a new creation time."""
    reconciler = _Reconciler(ledger, {}, rules, local_time, ledger.account.counting_since)
    reconciler.tally.reset_changed_histograms()
    return reconciler.changes()


class _Reconciler:
    """One reconciliation: runs the transitions and collects the records that they change."""

    def __init__(
        self,
        ledger: Ledger,
        committed: Mapping[str, JobRecord],
        rules: Rules,
        local_time: float,
        server_time: float,
        *,
        wait_clock: WaitClock | None = None,
    ) -> None:
        self.tally = Tally(ledger, rules, local_time)
        self._wait_clock = wait_clock
        self._saved_wait_clock = ledger.wait_clock
        self._context = Context(
            ledger.account,
            rules,
            local_time,
            server_time,
            server_time if wait_clock is None else wait_clock.seconds,
            ledger.account.listing_clock,
        )
        self._committed = committed
        self._records: dict[str, JobRecord] = {}
        self._forgotten: list[str] = []
        self._new_records = 0
        self._heard = False

    def reconcile(self, observations: Observations) -> Changes:
        self._heard = observations.complete or bool(observations.jobs)
        if observations.complete:
            self._advance_listing_clock()
        for job in least_advanced_first(observations.jobs):
            self._observe(job, listed=job.id in observations.listed)
        self._apply(transitions.details_received, observations.asked)
        self._apply(transitions.details_refused, observations.refused)
        self._apply(transitions.not_found, observations.unknown)
        if observations.complete:
            for record in observations.no_longer_listed:
                old = self._records.get(record.id, record)
                self._save(old, transitions.unlist(old, self._context))
            for record in observations.expirable:
                self._expire(self._records.get(record.id, record))
        return self.changes(complete=observations.complete)

    def _advance_listing_clock(self) -> None:
        if self._since_listing is not None:
            step = min(max(0.0, self._since_listing), _MAX_LISTING_STEP)
            self._context = dataclasses.replace(self._context, listing_clock=self._context.account.listing_clock + step)

    @property
    def _since_listing(self) -> float | None:
        """Seconds since the last full listing; None before the first, negative if a clock was put back."""
        saved, account = self._saved_wait_clock, self._context.account
        return since_listing(account, saved, self._wait_clock, self._context.server_time)

    def _observe(self, job: Job, *, listed: bool) -> None:
        old = self._record(job.id)
        if old is None:
            self._new_records += 1
            self._save(None, transitions.add(job, self._context, self.tally, listed=listed))
        elif not transitions.is_unchanged(old, job, listed=listed):
            self._save(old, transitions.update(old, job, self._context, self.tally, listed=listed))

    def _apply(self, transition: Callable[[JobRecord, Context, Tally], JobRecord], ids: Collection[str]) -> None:
        for job_id in ids:
            old = self._record(job_id)
            if old is not None:
                self._save(old, transition(old, self._context, self.tally))

    def _expire(self, old: JobRecord) -> None:
        record = transitions.expire(old, self._context, self.tally)
        if record is not None:
            self._save(old, record)
        else:
            self._records.pop(old.id, None)
            self._forgotten.append(old.id)

    def _record(self, job_id: str) -> JobRecord | None:
        return self._records.get(job_id) or self._committed.get(job_id)

    def _save(self, old: JobRecord | None, record: JobRecord) -> None:
        if record != old:
            self._records[record.id] = record
            self.tally.move(old, record)

    def changes(self, *, complete: bool = False) -> Changes:
        """What was collected; *complete*: whether a full listing was completed."""
        tally, context, old = self.tally, self._context, self._context.account
        if tally.existing_jobs:
            counted = context.rules.history == "count"
            tally.events.append(HistoryFound(tally.existing_jobs, counted, tally.existing_failed_jobs))
        account = msgspec.structs.replace(
            old,
            labels=tally.labels.kept,
            failure_counted_at=tally.failure_counted_at,
            ever_listed=old.ever_listed or complete,
        )
        if complete and (self._clock_is_due() or self._records or self._forgotten or account != old):
            account = msgspec.structs.replace(
                account, listing_clock=context.listing_clock, listed_on=context.server_time
            )
        changes = Changes(
            self._records,
            self._forgotten,
            tally.counters,
            tally.histograms,
            account if account != old else None,
            tally.listed,
            tuple(self._with_latest_record(event) for event in tally.events),
            self._new_records,
            context.local_time - context.rules.failed_job_window,
        )
        return dataclasses.replace(changes, wait_clock=self._wait_clock_to_store(changes, complete=complete))

    def _wait_clock_to_store(self, changes: Changes, *, complete: bool) -> WaitClock | None:
        """The reading, if there is something else to write, or the stored one is of no use to other processes."""
        reading, saved = self._wait_clock, self._saved_wait_clock
        if reading is None:
            return None
        if not (changes or saved is None or _is_put_back(saved, reading) or self._is_old(saved, reading)):
            return None
        listed = saved.listed if saved is not None else None
        return reading._replace(listed=reading.seconds if complete and changes.account is not None else listed)

    def _is_old(self, saved: WaitClock, reading: WaitClock) -> bool:
        """Whether the platform told of jobs again, long after what is stored."""
        return self._heard and not 0 <= reading.local_time - saved.local_time < HEARD_SAVED_EVERY

    def _clock_is_due(self) -> bool:
        """Whether to save the listing clock even if nothing else changes: not at every listing, as a write costs."""
        passed = self._since_listing
        return passed is None or not 0 <= passed < _CLOCK_SAVED_EVERY

    def _with_latest_record(self, event: LedgerEvent) -> LedgerEvent:
        """The event with everything that this poll observed of its job, also after the event."""
        if isinstance(event, JobFinished | FilesFailed):
            return event._replace(record=self._records.get(event.record.id, event.record))
        return event


def since_listing(
    account: Account, saved: WaitClock | None, reading: WaitClock | None, server_time: float
) -> float | None:
    """Return the seconds since the last full listing, by the wait clock if it was stored; None before the first."""
    if saved is not None and saved.listed is not None and reading is not None:
        return reading.seconds - saved.listed
    return None if account.listed_on is None else server_time - account.listed_on


def _is_put_back(saved: WaitClock, reading: WaitClock) -> bool:
    """Whether a clock shows less than when it was stored, or is known only now: the next process needs this reading."""
    if reading.platform_time is None:
        return False
    before = saved.platform_time
    return before is None or reading.platform_time < before or reading.local_time < saved.local_time


def least_advanced_first(jobs: Collection[Job]) -> Iterable[Job]:
    """Without duplicates, and observations of one job in the order of their progress."""
    different = dict.fromkeys(jobs)
    if len(different) == len({job.id for job in different}):
        return different
    return sorted(different, key=lambda job: job.progress)

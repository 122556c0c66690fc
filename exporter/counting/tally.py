"""What one reconciliation adds to a ledger."""

from typing import Final

from exporter.api.models import OPERATIONS, OUTCOMES, Outcome
from exporter.counting.labels import LabelAllowlist
from exporter.counting.values import (
    FILES,
    FILES_COMPLETED,
    FILES_FAILED,
    JOB_DURATION,
    JOB_QUEUE_DURATION,
    JOBS_FINISHED,
    JOBS_SUBMITTED,
    CounterValue,
    Exemplar,
    HistogramReset,
    HistogramValue,
    JobRecord,
    JobTotals,
    Key,
    Ledger,
    LedgerEvent,
    Rules,
)

_MAX_EXEMPLAR_ID: Final = 64
"""OpenMetrics limits an exemplar's labels to 128 characters."""


class Tally:
    """Collects counters, histograms, job totals, labels and events; what is not collected yet is read from the ledger.

    Attributes:
        counters, histograms: the new values.
        listed: totals over all listed jobs.
        labels: the label values of the account.
        failure_counted_at: operation to when a failed file was last counted.
        events: in the order in which they happened.
        existing_jobs: new jobs that finished before the ledger was created (rule 2).
        existing_failed_jobs: those of them that have failed files.
    """

    def __init__(self, ledger: Ledger, rules: Rules, local_time: float) -> None:
        self._ledger = ledger
        self._rules = rules
        self._local_time = local_time
        self.counters: dict[Key, CounterValue] = {}
        self.histograms: dict[Key, HistogramValue] = {}
        self.listed = dict(ledger.listed)
        self.labels = LabelAllowlist(ledger.account.labels)
        self.failure_counted_at = dict(ledger.account.failure_counted_at)
        self.events: list[LedgerEvent] = []
        self.existing_jobs = 0
        self.existing_failed_jobs = 0

    def count(self, family: str, labels: tuple[str, ...], by: int, example: JobRecord | None = None) -> None:
        """Increment a counter; *example* becomes its exemplar."""
        key = family, labels
        before = self.counters.get(key) or self._ledger.counters.get(key) or CounterValue(0, self._local_time)
        exemplar = before.exemplar if example is None else self._exemplar(example, by) or before.exemplar
        self.counters[key] = CounterValue(before.value + by, before.created, exemplar)

    def observe(self, family: str, labels: tuple[str, ...], value: float, example: JobRecord) -> None:
        """Add an observation to a histogram; *example* becomes its bucket's exemplar."""
        key = family, labels
        before = self.histograms.get(key) or self._ledger.histograms.get(key) or self._empty_histogram(family)
        self.histograms[key] = before.observe(value, self._exemplar(example, value))

    def add_zero_series(self, operation: str) -> None:
        """Add every series of *operation* that has none yet, at 0.

        ``rate`` and ``increase`` do not see the first increment of a counter that appears with it.
        """
        key = JOBS_SUBMITTED, (operation,)
        if key in self._ledger.counters or key in self.counters:
            return
        for family in (JOBS_SUBMITTED, FILES, FILES_COMPLETED, FILES_FAILED):
            self.counters[family, (operation,)] = CounterValue(0, self._local_time)
        for outcome in OUTCOMES:
            self.counters[JOBS_FINISHED, (operation, outcome)] = CounterValue(0, self._local_time)
            if outcome is not Outcome.LOST:
                self.histograms[JOB_DURATION, (operation, outcome)] = self._empty_histogram(JOB_DURATION)
        self.histograms[JOB_QUEUE_DURATION, (operation,)] = self._empty_histogram(JOB_QUEUE_DURATION)

    def add_documented_series(self) -> None:
        """Add every series of the documented operations, at 0."""
        for operation in OPERATIONS:
            self.add_zero_series(operation)

    def reset_changed_histograms(self) -> None:
        """Reset the histograms whose bounds differ from the configured ones."""
        for (family, labels), histogram in self._ledger.histograms.items():
            if histogram.bounds != self._rules.bounds(family):
                self.histograms[family, labels] = self._empty_histogram(family)
                if HistogramReset(family) not in self.events:
                    self.events.append(HistogramReset(family))

    def move(self, old: JobRecord | None, record: JobRecord) -> None:
        """Update the totals over listed jobs for a record that replaces *old*."""
        if old is not None and old.unlisted_at is None:
            self._add_totals(old, -1)
        if record.unlisted_at is None:
            self._add_totals(record, 1)

    def _add_totals(self, record: JobRecord, sign: int) -> None:
        key = record.operation, record.state
        before = self.listed.get(key, JobTotals())
        after = JobTotals(
            before.jobs + sign,
            before.total + sign * record.last_total,
            before.completed + sign * record.last_completed,
            before.failed + sign * record.last_failed,
        )
        if after.jobs:
            self.listed[key] = after
        else:
            self.listed.pop(key, None)

    def _empty_histogram(self, family: str) -> HistogramValue:
        return HistogramValue.empty(self._rules.bounds(family), self._local_time)

    def _exemplar(self, record: JobRecord, value: float) -> Exemplar | None:
        return Exemplar(record.id, value, self._local_time) if len(record.id) <= _MAX_EXEMPLAR_ID else None

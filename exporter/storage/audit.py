"""Do the counters and histograms of a ledger agree with its job records?

Its values are valid, see :mod:`exporter.storage.validation`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from exporter.counting.labels import decode_error_counts
from exporter.counting.values import (
    FILE_ERRORS,
    FILES,
    FILES_COMPLETED,
    FILES_FAILED,
    FORGET_AFTER,
    JOB_QUEUE_DURATION,
    JOBS_FINISHED,
    JOBS_SUBMITTED,
    HistogramValue,
    JobRecord,
    Key,
)
from exporter.storage.reader import LedgerSummary
from exporter.text import count

_ROUNDING: Final = 1e-9


def audit(ledger: LedgerSummary, records: Iterable[JobRecord]) -> Iterator[str]:
    """One line per disagreement; *records* are all job records of the ledger."""
    least, most, errors = Counter[Key](), Counter[Key](), dict[str, list[str]]()
    for record in records:
        for error in _record_errors(record, ledger):
            errors.setdefault(error, []).append(record.id)
        counted = Counter(dict(_counted_of(record)))
        most.update(counted)
        if not record.history:  # existing jobs were counted or not, depending on the setting at that time
            least.update(counted)
    for error, ids in errors.items():
        yield f"{count(len(ids), 'job record')} with {error}, for example of job {ids[0]}"
    yield from _counter_errors(ledger, least, most)
    for key, histogram in sorted(ledger.histograms.items()):
        for error in _histogram_errors(key, histogram, ledger):
            yield f"{_series(key)} {error}"


def _counter_errors(ledger: LedgerSummary, least: Counter[Key], most: Counter[Key]) -> Iterator[str]:
    # No record has expired before so much listing time has passed, so the records explain everything counted.
    is_complete = ledger.account.listing_clock < FORGET_AFTER
    for key in sorted({*ledger.counters, *least}):
        value = ledger.counters[key].value if key in ledger.counters else 0
        if value < least[key]:
            yield f"{_series(key)} is {value}, but the job records add up to {least[key]}"
        elif is_complete and value > most[key]:
            yield f"{_series(key)} is {value}, but the job records add up to at most {most[key]}"


def _counted_of(record: JobRecord) -> Iterator[tuple[Key, int]]:
    """What counters contain of one job."""
    operation = record.operation
    yield (JOBS_SUBMITTED, (operation,)), 1
    yield (FILES, (operation,)), record.total
    yield (FILES_COMPLETED, (operation,)), record.completed
    yield (FILES_FAILED, (operation,)), record.failed
    if record.outcome:
        yield (JOBS_FINISHED, (operation, record.outcome)), 1
    for code, records in decode_error_counts(record.error_counts).items():
        yield (FILE_ERRORS, (operation, code)), records


def _record_errors(record: JobRecord, ledger: LedgerSummary) -> Iterator[str]:
    counted = (record.total, record.completed, record.failed)
    observed = (record.last_total, record.last_completed, record.last_failed)
    if any(last > highest for last, highest in zip(observed, counted, strict=True)):
        yield "fewer files counted than last observed"
    if record.unlisted_at is not None and record.unlisted_at > ledger.account.listing_clock:
        yield "a listing time in the future"


def _histogram_errors(key: Key, histogram: HistogramValue, ledger: LedgerSummary) -> Iterator[str]:
    bounds, counts = histogram.bounds, histogram.counts
    observed = sum(counts)
    lowest = sum(number * bound for number, bound in zip(counts, (0.0, *bounds), strict=True))
    above = (*bounds, math.inf)
    highest = sum(number * bound for number, bound in zip(counts, above, strict=True) if number)
    slack = _ROUNDING * (1.0 + observed) * max(1.0, abs(histogram.sum))
    if not lowest - slack <= histogram.sum <= highest + slack:
        yield f"has a sum of {histogram.sum:g}, which contradicts its buckets"
    family, labels = key
    counter = ledger.counters.get((JOBS_SUBMITTED if family == JOB_QUEUE_DURATION else JOBS_FINISHED, labels))
    jobs = counter.value if counter else 0
    if observed > jobs:
        yield f"has {observed} observations, but {jobs} jobs were counted"


def _series(key: Key) -> str:
    family, labels = key
    return f"{family} ({', '.join(labels)})"

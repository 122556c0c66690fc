"""Jobs as the state file has them, and how ``jobs`` shows them.

Unfinished jobs come first, those that have been without progress for longest at the top, because they may be stuck.
The others follow, the latest end first.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from exporter.api.error_codes import in_words, words_of
from exporter.api.models import INCOMPLETE_OR_LOST, Outcome
from exporter.commands._terminal import Cell, Column, Display, Style, printable, total_width
from exporter.counting.values import JobRecord
from exporter.metrics.snapshot import error_codes, is_stuck, noticed_at, submitted_at, why_incomplete_or_lost

_FAILED_OUTCOMES: Final = frozenset({Outcome.FAILED, Outcome.PARTIAL}) | INCOMPLETE_OR_LOST
_SETTLING: Final = "settling"
_STUCK: Final = "stuck"
_ROOM_FOR_BARS: Final = 10
"""Columns of a terminal for which names of accounts are cut off."""


class ListedJob(NamedTuple):
    """A job of an account, as last seen.

    Attributes:
        account: the account's name.
        record: what is known of it.
        as_of: when the account was last listed, Unix seconds; None if that is not known.
    """

    account: str
    record: JobRecord
    as_of: float | None = None

    @property
    def failed(self) -> bool:
        """Whether it has failed or missing files, or was lost."""
        return self.record.failed > 0 or self.record.outcome in _FAILED_OUTCOMES

    @property
    def state(self) -> str:
        """Its outcome, else ``stuck`` or its state. A finished job may wait for its missing files to turn up."""
        if self.record.outcome:
            return self.record.outcome
        if self.stuck:
            return _STUCK
        return _SETTLING if self._may_settle else self.record.state

    @property
    def changed_at(self) -> float:
        """When it ended, else when its state or counts last changed, Unix seconds."""
        return self.record.last_progress_at if self.record.unfinished else self.record.ended_on

    @property
    def seen_at(self) -> float:
        """When it was last seen to change, Unix seconds; infinite while unfinished."""
        return noticed_at(self.record)

    @property
    def total(self) -> int:
        """Its files; 0 while the platform has not counted them."""
        return max(self.record.last_total, self.record.last_completed + self.record.last_failed)

    @property
    def errors(self) -> str:
        """Its error records by code in words, most frequent first; empty if there are none yet."""
        return ", ".join(f"{in_words(code)} ({records})" for code, records in error_codes(self.record))

    @property
    def reason(self) -> str:
        """Its errors, and why it is incomplete or lost since when; empty if it is neither and has no known errors."""
        why = why_incomplete_or_lost(self.record)
        verb = "noticed" if self.record.outcome == Outcome.LOST else "ended"
        return ", ".join(filter(None, (self.errors, why and f"{why}; {verb} {moment(self.changed_at)}")))

    @property
    def _may_settle(self) -> bool:
        return not self.record.outcome and self.record.state == "finished"

    @property
    def why(self) -> str:
        """Why it is incomplete, lost or settling; empty if it is neither."""
        if self._may_settle:
            return "it finished with missing files; if they do not turn up, it will count as incomplete"
        return why_incomplete_or_lost(self.record)

    @property
    def stuck(self) -> bool:
        """Whether it has started, is unfinished, and had made no progress for too long when it was last listed."""
        return self.as_of is not None and is_stuck(self.record, self.as_of)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which jobs to show: those to which everything applies that is set.

    Attributes:
        failed: with failed or missing files, or lost.
        unfinished: without an outcome.
        stuck: started and without progress for too long.
        outcomes: with one of these; any job if there are none.
        since: unfinished, or ended or seen to change at this time or later, Unix seconds.
    """

    failed: bool = False
    unfinished: bool = False
    stuck: bool = False
    outcomes: frozenset[str] = frozenset()
    since: float | None = None

    def of(self, jobs: Iterable[ListedJob]) -> list[ListedJob]:
        """The selected ones of *jobs* in the order of the list."""
        return sorted(filter(self._takes, jobs), key=_order)

    def _takes(self, job: ListedJob) -> bool:
        return (
            (job.failed or not self.failed)
            and (job.record.unfinished or not self.unfinished)
            and (job.stuck or not self.stuck)
            and (job.record.outcome in self.outcomes or not self.outcomes)
            and (self.since is None or job.seen_at >= self.since)
        )

    @property
    def options(self) -> list[str]:
        """The options that left jobs out."""
        chosen = {
            "--failed": self.failed,
            "--unfinished": self.unfinished,
            "--stuck": self.stuck,
            "--outcome": bool(self.outcomes),
            "--since": self.since is not None,
        }
        return [option for option, given in chosen.items() if given]


def _order(job: ListedJob) -> tuple[bool, float, str]:
    if job.record.unfinished:
        return False, job.record.last_progress_at, job.record.id
    return True, -job.record.ended_on, job.record.id


# ---- as a table ----


def table(jobs: Sequence[ListedJob], display: Display, now: float, *, with_account: bool) -> list[str]:
    """The lines of a table of *jobs*."""
    if not jobs:
        return []
    columns = [Column("JOB"), Column("ACCOUNT", shrink=True), Column("OPERATION"), Column("STATE")]
    rows = [_first_cells(job) for job in jobs]
    if not with_account:
        del columns[1]
        for row in rows:
            del row[1]
    last = _terminal_columns if display.is_terminal else _plain_columns
    more, cells = last(jobs, now)
    columns += more
    for row, rest in zip(rows, cells, strict=True):
        row.extend(rest)
    if not display.is_terminal:
        return display.table(columns, rows)
    return list(_with_bars(jobs, display, columns, rows))


def _first_cells(job: ListedJob) -> list[Cell]:
    record = job.record
    return [
        Cell(printable(record.id)),
        Cell(printable(job.account)),
        Cell(printable(record.operation)),
        Cell(printable(job.state), _style_of(job)),
    ]


def _style_of(job: ListedJob) -> Style:
    if job.failed:
        return Style.BAD
    if job.stuck:
        return Style.WARNING
    return Style.GOOD if job.record.outcome else Style.PLAIN


_LastColumns = tuple[list[Column], list[list[Cell]]]


def _terminal_columns(jobs: Sequence[ListedJob], now: float) -> _LastColumns:
    columns = [Column("FILES", right=True), Column("FAILED", right=True), Column("AGE", right=True)]
    cells = []
    for job in jobs:
        failed = job.record.last_failed
        age = Cell(compact(now - job.changed_at), Style.WARNING if job.stuck else Style.PLAIN)
        cells.append([Cell(_files(job)), Cell(str(failed or "-"), Style.BAD if failed else Style.PLAIN), age])
    return columns, cells


def _plain_columns(jobs: Sequence[ListedJob], _now: float) -> _LastColumns:
    columns = [Column("FILES", right=True), Column("FAILED", right=True), Column("CHANGED"), Column("REASON")]
    cells = [
        [
            Cell(_files(job)),
            Cell(str(job.record.last_failed or "-")),
            Cell(moment(job.changed_at)),
            Cell(printable(job.reason) or "-"),
        ]
        for job in jobs
    ]
    return columns, cells


def _files(job: ListedJob) -> str:
    return f"{job.record.last_completed}/{job.total}" if job.total else "-"


def _with_bars(
    jobs: Sequence[ListedJob], display: Display, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]
) -> Iterator[str]:
    """The table's lines with a progress bar at the end of each, if there is room, and below it the job's reason."""
    widths = display.widths(columns, rows, reserve=_ROOM_FOR_BARS)
    bar = display.bar_width(total_width(widths))
    titles, *lines = display.table(columns, rows, reserve=_ROOM_FOR_BARS)
    yield titles
    for job, line in zip(jobs, lines, strict=True):
        yield f"{line}  {_bar(job, display, bar)}" if bar and job.total else line
        if job.reason:
            text = display.shortened(f"  {printable(job.reason)}", display.columns or 0)
            yield display.styled(text, Style.BAD)


def _bar(job: ListedJob, display: Display, width: int) -> str:
    parts = (job.record.last_completed, Style.GOOD), (job.record.last_failed, Style.BAD)
    return display.bar(parts, job.total, width)


# ---- as JSON ----


def as_json(job: ListedJob) -> Mapping[str, object]:
    """A job for scripts; times are Unix seconds, and null is what is not known."""
    record = job.record
    return {
        "account": job.account,
        "job_id": record.id,
        "operation": record.operation,
        "state": record.state,
        "outcome": record.outcome or None,
        "stuck": job.stuck,
        "files": {"expected": job.total, "completed": record.last_completed, "failed": record.last_failed},
        "submitted": submitted_at(record),
        "started": record.started_on,
        "finished": record.finished_on,
        "last_progress": record.last_progress_at,
        "failure_detected": record.detected_at,
        "finished_before_counting": bool(record.history),
        "listed": record.unlisted_at is None,
        "as_of": job.as_of,
        "errors": [
            {"code": code, "meaning": words_of(code) or None, "records": records}
            for code, records in error_codes(record)
        ],
    }


# ---- words ----


def compact(seconds: float) -> str:
    """A duration in the largest unit of which there are at least two, for example ``45m``."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f}{name}"
    return f"{max(0.0, seconds):.0f}s"


def moment(at: float) -> str:
    """A moment in UTC, for example ``2026-09-21T14:14:20Z``."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

"""Pictures of accounts for the tests of what is shown, counted by the real ledger."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from exporter.counting.ledger import ID_EPOCH, Account, Book, Histogram, Mark, Rules, Sightings, Sums, fold, seeds
from exporter.metrics.catalogue import Family
from exporter.metrics.exposition import Exposition
from exporter.metrics.snapshot import Board, Display, Picture, Polling, Process
from exporter.platform.jobs import Job

START = 1_790_000_000.0
"""When ledgers begin."""
RULES = Rules(duration_buckets=(60, 3600), queue_buckets=(1.5, 60))
"""Few buckets, so that pages stay readable."""
DISPLAY = Display(job_series=50, failed_job_window=86400.0, show_username=True)
ENDPOINT = "https://api.example.org/v2"


def job_id(at: float, serial: int = 0) -> str:
    """An id that carries the submission time *at*, as the platform's do."""
    return str((round((at - ID_EPOCH) * 1000) << 20) + serial)


class Ledger:
    """An account's ledger without a disk."""

    def __init__(self, rules: Rules = RULES, username: str = "rosalind") -> None:
        account = Account(1, ENDPOINT, username, "", START)
        self.rules = rules
        self.marks: dict[str, Mark] = {}
        self.book = Book(account, {}, {}, {}, {}, {}, 0).after(seeds(account, rules, START))

    def see(self, *jobs: Job, at: float, complete: bool = True, asked: Collection[str] = ()) -> Book:
        """Fold a listing of *jobs*, seen *at*; the book after it."""
        by_id = {job.id: job for job in jobs}
        sightings = Sightings(jobs, by_id.keys(), asked=asked, complete=complete)
        changes = fold(self.book, self.marks, sightings, self.rules, now=at, platform=at)
        self.marks |= changes.marks
        self.book = self.book.after(changes)
        return self.book


POLLING = Polling(
    up=True,
    auth_ok=True,
    maintenance=False,
    username="rosalind",
    last_poll=START + 30.5,
    last_success=START + 30.5,
    last_full_listing=START + 30.25,
    polls={"success": 2, "unreachable": 1},
    poll_duration=Histogram.empty((0.5, 5.0), START).observe(0.25, None).observe(7.0, None),
    requests={("user", "200"): 1, ("list", "timeout"): 1, ("list", "200"): 2},
    request_duration={"list": Histogram.empty((0.1, 1.0), START).observe(0.05, None)},
    rate_limit=1000,
    rate_limit_remaining=991,
    rate_limit_reset=START + 300,
    allowance=250,
    allowance_used=4,
    watching=False,
    interval=30.0,
    full_listing_interval=30.0,
    detection_delay=30.0,
    skipped={"no_id": 2},
    lowered={"failed": 1},
    fault="",
)
"""Polls that went well, but for one."""

UNTRIED = replace(
    POLLING,
    up=None,
    auth_ok=None,
    maintenance=None,
    username=None,
    watching=None,
    full_listing_interval=None,
    detection_delay=None,
    last_poll=None,
    last_success=None,
    last_full_listing=None,
    polls={},
    poll_duration=Histogram.empty((0.5, 5.0), START),
    requests={},
    request_duration={},
    rate_limit=None,
    rate_limit_remaining=None,
    rate_limit_reset=None,
    allowance_used=0,
    skipped={},
    lowered={},
)
"""Before the first poll."""


def picture(
    book: Book | None,
    *,
    account: str = "cavatica",
    polling: Polling = POLLING,
    listed: Mapping[tuple[str, str], Sums] | None = None,
    gauges_until: float = START + 600,
) -> Picture:
    """A picture of an account whose jobs were all listed, unless *listed* says otherwise."""
    if listed is None and book is not None:
        listed = book.listed
    return Picture(account, ENDPOINT, book, listed, polling, gauges_until)


def board(*pictures: Picture) -> Board:
    """A board that shows *pictures*, in their order."""
    shown = Board(tuple(each.account for each in pictures))
    for each in pictures:
        shown.put(each)
    return shown


class FakeClock:
    """Stands still until it is set."""

    def __init__(self, now: float = START + 60) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def exposition(
    *pictures: Picture, at: float = START + 60, display: Display = DISPLAY, families: tuple[Family, ...] | None = None
) -> Exposition:
    """The exposition of *pictures* at one moment."""
    process, clock = Process(0, 12, 4096), FakeClock(at)
    if families is None:
        return Exposition(board(*pictures), lambda: process, display, clock)
    return Exposition(board(*pictures), lambda: process, display, clock, families)


def running(at: float, *, done: int = 0, failed: int = 0, total: int = 10, serial: int = 0) -> Job:
    """A copy that was submitted *at* and started two seconds later."""
    return Job(job_id(at, serial), "copy", "running", total, done, failed, started_on=at + 2)


def finished(
    at: float,
    *,
    failed: int = 0,
    total: int = 10,
    took: float = 100.0,
    serial: int = 0,
    errors: tuple[tuple[str, int], ...] | None = None,
) -> Job:
    """A copy that was submitted *at*, started two seconds later and took *took* seconds."""
    return Job(
        job_id(at, serial), "copy", "finished", total, total - failed, failed, at + 2, at + 2 + took, errors=errors
    )

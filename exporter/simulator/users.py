"""A user of the simulated platform: a list of jobs and a rate limit."""

import bisect
import heapq
import math
import zlib
from collections.abc import Sequence
from random import Random

from exporter.simulator.jobs import RETENTION, Job, ended, id_at, settle
from exporter.simulator.scripts import JobScript, finished_at_age, of_submitted, roll
from exporter.simulator.settings import Order, SimulatorSettings

_RUNS_ON = 12 * 3600.0
"""Maximum seconds for which a job that is unfinished at the start continues."""


class RateWindow:
    """A number of requests per window. A window begins with the first request after the last one ended."""

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit = limit
        self._seconds = seconds
        self._used = 0
        self._ends = -math.inf

    def take(self, now: float) -> bool:
        """Count one request; return False if none is left."""
        self._turn(now)
        if self.limit >= 0 and self._used >= self.limit:
            return False
        self._used += 1
        return True

    def leave(self, remaining: int, now: float) -> None:
        """Use up the current window except for *remaining* requests, as another script of the user would."""
        self._turn(now)
        self._used = self.limit - remaining

    def remaining(self, now: float) -> int:
        """Return the requests left in the current window; several hundred million if there is no limit."""
        if self.limit < 0:
            return 987_654_342
        return self.limit if now >= self._ends else self.limit - self._used

    def reset(self, now: float) -> float:
        """Return the end of the current window in Unix seconds."""
        return self._ends if now < self._ends else now + self._seconds

    def _turn(self, now: float) -> None:
        if now >= self._ends:
            self._used, self._ends = 0, now + self._seconds


class User:
    """One user, with all jobs ever submitted by it.

    An id is a time in milliseconds. To keep the ids of several users distinct, each user gets only the milliseconds
    that are *lane* modulo *lanes*.
    """

    def __init__(self, name: str, settings: SimulatorSettings, start: float, *, lane: int, lanes: int) -> None:
        self.name = name
        self.window = RateWindow(settings.rate_limit, settings.rate_window)
        self.jobs: dict[int, Job] = {}
        self._lane, self._lanes, self._last_ms = lane, lanes, 0
        self._order = Order(settings.order)
        self._listed: list[int] = []
        self._expiries: list[tuple[float, int]] = []
        self._files = settings.files_per_job
        # One random generator per purpose, so that requests do not influence which jobs appear.
        self._arrivals, self._submissions, self._shuffles = (
            Random(f"{settings.seed}/{name}/{purpose}") for purpose in ("arrivals", "submissions", "shuffles")
        )
        self._per_second = settings.rate / 60
        self._remember(settings, start)
        self._next_arrival = self._after(start)

    def _remember(self, settings: SimulatorSettings, start: float) -> None:
        """Fill the month before *start* with finished and unfinished jobs, roughly evenly."""
        jobs = settings.jobs
        ends = _still_running(settings, Random(f"{settings.seed}/{self.name}/unfinished"))
        for n in range(jobs):
            at = start - RETENTION * (1 - (n + self._arrivals.random()) / jobs)
            job = self._take_on(roll(self._arrivals, self._files, may_hang=False), at)
            self._listed.append(job.id)
            if n in ends:
                self._replace(job, finished_at_age(job.script, start + ends[n] - job.submitted))
            else:
                self.finish(job, start)
        self.reorder(self._order)

    def _after(self, moment: float) -> float:
        return moment + self._arrivals.expovariate(self._per_second) if self._per_second else math.inf

    def catch_up(self, now: float) -> None:
        """Apply all events up to *now*: new jobs arrive, finished jobs expire."""
        while self._next_arrival <= now:
            self.submit(roll(self._arrivals, self._files), self._next_arrival)
            self._next_arrival = self._after(self._next_arrival)
        while self._expiries and self._expiries[0][0] <= now:
            _, number = heapq.heappop(self._expiries)
            job = self.jobs[number]
            # A job that was changed by hand has several entries, and this one may be outdated.
            if job.finishes is not None and job.finishes + RETENTION <= now:
                self._unlist(number)

    def submit(self, script: JobScript, at: float) -> Job:
        """Add a job submitted at *at* (Unix seconds), not before any earlier job."""
        job = self._take_on(script, at)
        bisect.insort(self._listed, job.id, key=self._rank)
        return job

    def submit_files(self, operation: str, files: Sequence[str], at: float) -> Job:
        """Add a job as a client submits it."""
        return self.submit(of_submitted(operation, files, self._submissions), at)

    def change(self, job: Job, script: JobScript, now: float) -> None:
        """Replace a job's script. True counts up to *now* are kept."""
        job.settled = settle(job, now)
        self._replace(job, script)

    def finish(self, job: Job, now: float) -> None:
        """Finish a job at *now*, regardless of its script."""
        if not job.is_finished(now):
            self._replace(job, finished_at_age(job.script, max(now - job.submitted, 0)))

    def remove(self, job: Job, now: float) -> None:
        """Remove a job from the platform."""
        job.removed = now
        self._unlist(job.id)

    def find(self, number: int) -> Job | None:
        """Return the job with this id, or None if it has expired, was removed or never existed."""
        job = self.jobs.get(number)
        return job if job is not None and self._position(number) is not None else None

    def reorder(self, order: Order) -> None:
        """Change the order of the list."""
        self._order = order
        self._listed.sort(key=self._rank)

    def listed(self) -> int:
        """Return the number of jobs in the list."""
        return len(self._listed)

    def page(self, offset: int, limit: int) -> list[Job]:
        """Return the jobs *offset* to *offset* + *limit* of the list."""
        size = len(self._listed)
        places = range(offset, min(offset + limit, size))
        if self._order is Order.NEWEST:
            return [self.jobs[self._listed[-1 - n]] for n in places]
        if self._order is Order.UNSTABLE and size:
            # A cheap shuffle: steps through the list modulo its size. The step and the size are coprime.
            stride = self._shuffles.randint(1, size)
            while math.gcd(stride, size) > 1:
                stride -= 1
            first = self._shuffles.randrange(size)
            return [self.jobs[self._listed[(first + n * stride) % size]] for n in places]
        return [self.jobs[self._listed[n]] for n in places]

    def submitted_since(self, since: float, now: float) -> list[Job]:
        """Return all jobs, including removed ones, that had not ended before *since*."""
        return [job for job in self.jobs.values() if (end := ended(job, now)) is None or end >= since]

    def _take_on(self, script: JobScript, at: float) -> Job:
        ms = max(int(at * 1000), self._last_ms + 1)
        ms += (self._lane - ms) % self._lanes
        self._last_ms = ms
        job = Job(id_at(ms), script)
        self.jobs[job.id] = job
        self._expect_expiry(job)
        return job

    def _replace(self, job: Job, script: JobScript) -> None:
        job.script = script
        self._expect_expiry(job)

    def _expect_expiry(self, job: Job) -> None:
        if job.finishes is not None:
            heapq.heappush(self._expiries, (job.finishes + RETENTION, job.id))

    def _unlist(self, number: int) -> None:
        position = self._position(number)
        if position is not None:
            del self._listed[position]

    def _position(self, number: int) -> int | None:
        position = bisect.bisect_left(self._listed, self._rank(number), key=self._rank)
        found = position < len(self._listed) and self._listed[position] == number
        return position if found else None

    def _rank(self, number: int) -> int:
        """Return the sort key of the list. Newest first is oldest first, read backwards."""
        return hash_of(number) if self._order is Order.MIXED else number


def _still_running(settings: SimulatorSettings, dice: Random) -> dict[int, float]:
    """Return the positions of jobs unfinished at the start, with the seconds for which they continue."""
    among = settings.jobs if settings.unfinished_among is None else settings.unfinished_among
    places = [settings.jobs - 1 - n * among // settings.unfinished for n in range(settings.unfinished)]
    return {place: _RUNS_ON * dice.random() for place in places}


def hash_of(number: int) -> int:
    """Return a stable sort key without any rule. The number itself makes equal hashes distinct."""
    return zlib.crc32(b"%d" % number) << 64 | number

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
"""Seconds for which a job that runs at the start goes on at most."""


class RateWindow:
    """So many requests per window, which begins with the first request after the one before has ended."""

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit = limit
        self._seconds = seconds
        self._used = 0
        self._ends = -math.inf

    def take(self, now: float) -> bool:
        """Count one request; false if there is none left."""
        self._turn(now)
        if self.limit >= 0 and self._used >= self.limit:
            return False
        self._used += 1
        return True

    def leave(self, remaining: int, now: float) -> None:
        """Use up all but *remaining* requests of the present window, as another script of the user would."""
        self._turn(now)
        self._used = self.limit - remaining

    def remaining(self, now: float) -> int:
        """Requests left in the present window; some hundred million when there is no limit."""
        if self.limit < 0:
            return 987_654_342
        return self.limit if now >= self._ends else self.limit - self._used

    def reset(self, now: float) -> float:
        """When the present window ends, in Unix seconds."""
        return self._ends if now < self._ends else now + self._seconds

    def _turn(self, now: float) -> None:
        if now >= self._ends:
            self._used, self._ends = 0, now + self._seconds


class User:
    """One user and every job that was ever submitted in that name.

    *lane* and *lanes* keep the ids of several users apart: an id is a time in milliseconds, and each user takes only
    those of its own lane.
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
        # One die for each purpose, so that what is asked of the platform does not change what happens by itself.
        self._arrivals, self._submissions, self._shuffles = (
            Random(f"{settings.seed}/{name}/{purpose}") for purpose in ("arrivals", "submissions", "shuffles")
        )
        self._per_second = settings.rate / 60
        self._remember(settings, start)
        self._next_arrival = self._after(start)

    def _remember(self, settings: SimulatorSettings, start: float) -> None:
        """Fill the month before *start* with jobs, evenly but for the dice, that have finished or still run."""
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
        """Let everything happen that should have by *now*: jobs that arrive, and finished ones that expire."""
        while self._next_arrival <= now:
            self.submit(roll(self._arrivals, self._files), self._next_arrival)
            self._next_arrival = self._after(self._next_arrival)
        while self._expiries and self._expiries[0][0] <= now:
            _, number = heapq.heappop(self._expiries)
            job = self.jobs[number]
            # A job that was changed by hand has a second entry, and this one may be out of date.
            if job.finishes is not None and job.finishes + RETENTION <= now:
                self._unlist(number)

    def submit(self, script: JobScript, at: float) -> Job:
        """Take on a job at *at* (Unix seconds), which is not before any earlier one."""
        job = self._take_on(script, at)
        bisect.insort(self._listed, job.id, key=self._rank)
        return job

    def submit_files(self, operation: str, files: Sequence[str], at: float) -> Job:
        """Take on a job as a client submits it."""
        return self.submit(of_submitted(operation, files, self._submissions), at)

    def change(self, job: Job, script: JobScript, now: float) -> None:
        """Give a job another script; what has been counted by *now* stays counted."""
        job.settled = settle(job, now)
        self._replace(job, script)

    def finish(self, job: Job, now: float) -> None:
        """Let a job be finished at *now*, whatever its script said."""
        if not job.is_finished(now):
            self._replace(job, finished_at_age(job.script, max(now - job.submitted, 0)))

    def remove(self, job: Job, now: float) -> None:
        """Take a job off the platform before its time."""
        job.removed = now
        self._unlist(job.id)

    def find(self, number: int) -> Job | None:
        """The job of that id, if the platform still has it."""
        job = self.jobs.get(number)
        return job if job is not None and self._position(number) is not None else None

    def reorder(self, order: Order) -> None:
        """Show the list in another order from now on."""
        self._order = order
        self._listed.sort(key=self._rank)

    def listed(self) -> int:
        """How many jobs the list has."""
        return len(self._listed)

    def page(self, offset: int, limit: int) -> list[Job]:
        """Jobs *offset* to *offset* + *limit* of the list."""
        size = len(self._listed)
        places = range(offset, min(offset + limit, size))
        if self._order is Order.NEWEST:
            return [self.jobs[self._listed[-1 - n]] for n in places]
        if self._order is Order.UNSTABLE and size:
            # A shuffle that costs nothing: steps round the list of a length that shares no divisor with the list's own.
            stride = self._shuffles.randint(1, size)
            while math.gcd(stride, size) > 1:
                stride -= 1
            first = self._shuffles.randrange(size)
            return [self.jobs[self._listed[(first + n * stride) % size]] for n in places]
        return [self.jobs[self._listed[n]] for n in places]

    def submitted_since(self, since: float, now: float) -> list[Job]:
        """Every job ever submitted that had not ended before *since*."""
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
        """What the list is sorted by; newest first is oldest first read from its end."""
        return hash_of(number) if self._order is Order.MIXED else number


def _still_running(settings: SimulatorSettings, dice: Random) -> dict[int, float]:
    """Which jobs of the past still run at the start, by their place in it, and for how many seconds more."""
    among = settings.jobs if settings.unfinished_among is None else settings.unfinished_among
    places = [settings.jobs - 1 - n * among // settings.unfinished for n in range(settings.unfinished)]
    return {place: _RUNS_ON * dice.random() for place in places}


def hash_of(number: int) -> int:
    """An order that follows no rule, but is the same every time; the number itself keeps equal hashes apart."""
    return zlib.crc32(b"%d" % number) << 64 | number

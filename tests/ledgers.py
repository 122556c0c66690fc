"""One account's ledger for tests: the real rules count observations, in memory or in a store."""

import os
from collections.abc import Collection, Mapping
from typing import Final

from exporter.api.models import Job
from exporter.counting import values as counting
from exporter.counting.rules import initial_changes, reconcile
from exporter.counting.values import Account, Changes, JobRecord, Ledger, Observations, Rules
from exporter.storage.store import Store
from tests.clocks import START
from tests.factories import ENDPOINT

IN_MEMORY: Final = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  # not a place of ours
"""A folder in memory, for state files with many commits; None where there is none."""
FEW_BUCKETS: Final = Rules(duration_buckets=(60, 3600), queue_buckets=(1.5, 60))
"""Few buckets, to keep metrics pages readable."""


class LedgerFixture:
    """A ledger in memory, created at START.

    Attributes:
        ledger: as committed.
        records: the records of all jobs, by their ids.
        events: what the last observation caused.
        now: the time of the last observation.
    """

    def __init__(
        self,
        rules: Rules = FEW_BUCKETS,
        *,
        username: str = "rosalind",
        now: float = START,
        complete: bool = False,
    ) -> None:
        """*complete*: as after its first full listing, so that new jobs are not history."""
        self.rules = rules
        account = Account(1, ENDPOINT, username, "", START, ever_listed=complete, listed_on=START if complete else None)
        self.ledger = Ledger(account, {}, {}, {}, {}, {}, 0).after(initial_changes(account, self.rules, now))
        self.records: dict[str, JobRecord] = {}
        self.events: list[object] = []
        self.now = now

    def observe(
        self,
        *jobs: Job,
        at: float | None = None,
        after: float = 0.0,
        asked: Collection[str] = (),
        refused: Collection[str] = (),
        unknown: Collection[str] = (),
        listed: bool = True,
        complete: bool = False,
    ) -> Changes:
        """Count *jobs*, observed at the time *at* or *after* the last ones; the changes.

        Args:
            jobs: in the order of their responses.
            at: Unix seconds.
            after: seconds.
            asked: jobs whose own endpoint answered.
            refused: jobs whose own endpoint gave a response that says nothing about the job.
            unknown: jobs that the platform answers it does not know.
            listed: whether they were observed on pages, not by single-job requests.
            complete: whether this completes a full listing.
        """
        self.now = self.now + after if at is None else at
        shown = {job.id for job in jobs} if listed else set()
        observations = Observations(
            jobs,
            shown,
            asked=asked,
            refused=refused,
            unknown=unknown,
            no_longer_listed=self.unlisted(shown) if complete else (),
            expirable=self.expired(self.ledger.account.listing_clock) if complete else (),
            complete=complete,
        )
        changes = self.changes(observations)
        self.commit(changes)
        return changes

    def observe_listing(self, *jobs: Job, at: float | None = None, after: float = 0.0) -> Ledger:
        """Count a full listing; the ledger after it."""
        self.observe(*jobs, at=at, after=after, complete=True)
        return self.ledger

    def changes(self, observations: Observations) -> Changes:
        """The changes of *observations* at this time."""
        return reconcile(self.ledger, self.records, observations, self.rules, local_time=self.now, server_time=self.now)

    def commit(self, changes: Changes) -> None:
        """Commit *changes*."""
        self.ledger = self.ledger.after(changes)
        self.records.update(changes.records)
        for job_id in changes.forgotten:
            del self.records[job_id]
        self.events = list(changes.events)

    def unlisted(self, listed: Collection[str]) -> list[JobRecord]:
        """Return the jobs that were listed before and are not in *listed*."""
        return [each for each in self.records.values() if each.unlisted_at is None and each.id not in listed]

    def expired(self, listing_clock: float) -> list[JobRecord]:
        """The jobs that may expire at that time of the listing clock."""
        before = listing_clock - counting.FORGET_AFTER
        return [each for each in self.records.values() if each.unlisted_at is not None and each.unlisted_at <= before]

    def counted(self, family: str, *labels: str) -> int:
        """Return the value of one counter."""
        return self.ledger.counters[family, labels].value

    def outcomes(self, operation: str = "copy") -> Mapping[str, int]:
        """Return the number of finished jobs by outcome, without zeros."""
        return {
            labels[1]: count.value
            for (family, labels), count in self.ledger.counters.items()
            if family == counting.JOBS_FINISHED and labels[0] == operation and count.value
        }


def ledger_of(*jobs: Job, at: float = START) -> Ledger:
    """The ledger of an account after its first full listing of *jobs*; of a new account if there are none."""
    counted = LedgerFixture()
    return counted.observe_listing(*jobs, at=at) if jobs else counted.ledger


def observe_in(store: Store, ledger: Ledger, *jobs: Job, rules: Rules, now: float) -> Ledger:
    """Count a full listing of *jobs* and commit it; the ledger after it."""
    number, listed = ledger.account.number, {job.id for job in jobs}
    observations = Observations(
        jobs,
        listed,
        no_longer_listed=store.no_longer_listed(number, listed),
        expirable=store.expirable(number, ledger.account.listing_clock),
        complete=True,
    )
    changes = reconcile(ledger, store.records(number, listed), observations, rules, local_time=now, server_time=now)
    store.commit(number, changes)
    return ledger.after(changes)

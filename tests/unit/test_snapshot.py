"""Snapshots answer questions about an account; the registry keeps the latest one per account, in configured order."""

import math
from dataclasses import replace

from exporter.counting.values import JobTotals
from exporter.errors import WaitReason
from exporter.metrics.snapshot import SnapshotRegistry, Waiting, error_codes
from tests.clocks import START
from tests.factories import finished_job, job_id, running_job
from tests.ledgers import LedgerFixture
from tests.snapshots import DISPLAY, STATUS, UNTRIED, snapshot


def test_registry_keeps_the_order_of_the_configuration() -> None:
    registry = SnapshotRegistry(("b", "a", "c"))

    for account in ("c", "a", "b"):
        registry.put(snapshot(None, account=account))

    assert [each.account for each in registry.snapshots] == ["b", "a", "c"]


def test_registry_replaces_an_accounts_snapshot() -> None:
    registry = SnapshotRegistry(("a", "b"))
    first, other = snapshot(None, account="a"), snapshot(None, account="b")
    registry.put(first)
    registry.put(other)
    before = registry.snapshots

    second = replace(first, status=replace(STATUS, interval=60.0))
    registry.put(second)

    assert registry.snapshots == (second, other)
    assert before == (first, other), "readers of the old tuple keep it unchanged"


def test_registry_is_ready_once_every_account_has_been_polled() -> None:
    registry = SnapshotRegistry(("a", "b"))
    assert not registry.ready

    registry.put(snapshot(None, account="a"))
    assert not registry.ready
    registry.put(snapshot(None, account="b", status=UNTRIED))
    assert not registry.ready
    registry.put(snapshot(None, account="b", status=replace(UNTRIED, up=False, last_poll=1.0)))

    assert registry.ready


def test_an_account_that_waits_for_its_first_poll_does_not_hold_up_readiness() -> None:
    registry = SnapshotRegistry(("a",))

    registry.put(snapshot(None, account="a", status=replace(UNTRIED, waiting=Waiting(WaitReason.ALLOWANCE, 1.0, 2.0))))

    assert registry.ready


def test_owner_is_the_platforms_user_name_or_else_the_ledgers() -> None:
    ledger = LedgerFixture(username="franklin").ledger

    assert snapshot(ledger).owner == "rosalind"
    assert snapshot(ledger, status=replace(STATUS, username=None)).owner == "franklin"
    assert snapshot(None, status=UNTRIED).owner == ""


def test_listed_jobs_are_summed_by_state_over_all_operations() -> None:
    listed = {
        ("copy", "finished"): JobTotals(jobs=3),
        ("copy", "running"): JobTotals(jobs=1),
        ("move", "finished"): JobTotals(jobs=2),
    }

    assert snapshot(None, listed=listed).jobs_by_state() == {"finished": 5, "running": 1}
    assert snapshot(None, listed=None).jobs_by_state() == {}


def test_error_codes_come_most_frequent_first() -> None:
    errors = (("4007", 2), ("9001", 7), ("a_word", 2), ("none", 3))
    counted = LedgerFixture()
    counted.observe_listing(finished_job(START, failed=9, errors=errors), at=START + 30)

    assert error_codes(counted.records[job_id(START)]) == [("9001", 7), ("none", 3), ("4007", 2), ("a_word", 2)]


def test_unfinished_jobs_come_oldest_first() -> None:
    counted = LedgerFixture()
    counted.observe_listing(*(running_job(START + at) for at in (9, 3, 5)), at=START + 30)

    assert [record.id for record in snapshot(counted.ledger).unfinished_jobs()] == [
        job_id(START + at) for at in (3, 5, 9)
    ]


def test_failed_jobs_leave_when_their_window_ends() -> None:
    counted = LedgerFixture()
    counted.observe_listing(running_job(START + 1), running_job(START + 2, serial=1), at=START + 10)
    counted.observe_listing(
        finished_job(START + 1, failed=1), finished_job(START + 2, failed=1, serial=1), at=START + 30
    )
    shown = snapshot(counted.ledger)
    ends = sorted(DISPLAY.shown_until(record) for record in counted.ledger.failed.values())

    assert len(shown.failed_jobs(DISPLAY, START + 60)) == 2
    assert shown.next_expiry(DISPLAY, START + 60) == ends[0]
    assert len(shown.failed_jobs(DISPLAY, ends[0])) == 1
    assert shown.next_expiry(DISPLAY, ends[0]) == ends[1]
    assert shown.failed_jobs(DISPLAY, ends[1]) == []
    assert shown.next_expiry(DISPLAY, ends[1]) == math.inf


def test_files_are_counted_over_all_operations() -> None:
    counted = LedgerFixture()
    counted.observe_listing(running_job(START + 1), at=START + 10)
    counted.observe_listing(finished_job(START + 1, failed=3), running_job(START + 2, done=4, serial=1), at=START + 30)

    assert snapshot(counted.ledger).files_counted() == (20, 11, 3)


def test_snapshot_without_a_ledger_has_no_jobs_and_no_files() -> None:
    unknown = snapshot(None, status=UNTRIED)

    assert unknown.unfinished_jobs() == unknown.failed_jobs(DISPLAY, START) == []
    assert unknown.files_counted() == (0, 0, 0)
    assert unknown.next_expiry(DISPLAY, START) == math.inf

"""The board keeps one picture per account, in the order of the configuration."""

from dataclasses import replace

from exporter.metrics.snapshot import SnapshotRegistry
from tests.snapshots import STATUS, UNTRIED, snapshot


def test_pictures_stand_in_the_order_of_the_configuration_whoever_comes_first() -> None:
    registry = SnapshotRegistry(("b", "a", "c"))

    for account in ("c", "a", "b"):
        registry.put(snapshot(None, account=account))

    assert [each.account for each in registry.snapshots] == ["b", "a", "c"]


def test_a_new_picture_takes_the_place_of_the_accounts_last_one() -> None:
    registry = SnapshotRegistry(("a", "b"))
    first, other = snapshot(None, account="a"), snapshot(None, account="b")
    registry.put(first)
    registry.put(other)
    before = registry.snapshots

    second = replace(first, status=replace(STATUS, interval=60.0))
    registry.put(second)

    assert registry.snapshots == (second, other)
    assert before == (first, other), "whoever still reads the old pictures is not disturbed"


def test_it_is_ready_once_every_account_has_been_tried() -> None:
    registry = SnapshotRegistry(("a", "b"))
    assert not registry.ready

    registry.put(snapshot(None, account="a"))
    assert not registry.ready
    registry.put(snapshot(None, account="b", status=UNTRIED))
    assert not registry.ready
    registry.put(snapshot(None, account="b", status=replace(UNTRIED, up=False, last_poll=1.0)))

    assert registry.ready

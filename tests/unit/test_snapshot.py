"""The board keeps one picture per account, in the order of the configuration."""

from dataclasses import replace

from exporter.metrics.snapshot import Board
from tests.snapshots import POLLING, UNTRIED, picture


def test_pictures_stand_in_the_order_of_the_configuration_whoever_comes_first() -> None:
    board = Board(("b", "a", "c"))

    for account in ("c", "a", "b"):
        board.put(picture(None, account=account))

    assert [each.account for each in board.pictures] == ["b", "a", "c"]


def test_a_new_picture_takes_the_place_of_the_accounts_last_one() -> None:
    board = Board(("a", "b"))
    first, other = picture(None, account="a"), picture(None, account="b")
    board.put(first)
    board.put(other)
    before = board.pictures

    second = replace(first, polling=replace(POLLING, interval=60.0))
    board.put(second)

    assert board.pictures == (second, other)
    assert before == (first, other), "whoever still reads the old pictures is not disturbed"


def test_it_is_ready_once_every_account_has_been_tried() -> None:
    board = Board(("a", "b"))
    assert not board.ready

    board.put(picture(None, account="a"))
    assert not board.ready
    board.put(picture(None, account="b", polling=UNTRIED))
    assert not board.ready
    board.put(picture(None, account="b", polling=replace(UNTRIED, up=False, last_poll=1.0)))

    assert board.ready

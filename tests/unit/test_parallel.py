"""Work for all accounts at the same time, which a stop does not wait for."""

import threading
from collections.abc import Sequence

import pytest

from exporter.commands._parallel import in_parallel
from exporter.errors import Stopping, Unreachable
from tests.waiting import PATIENCE


def test_results_come_in_the_order_of_the_items() -> None:
    first_may_end = threading.Event()

    def work(item: int) -> int:
        if item == 1:
            first_may_end.wait(PATIENCE)
        else:
            first_may_end.set()
        return item * 10

    assert in_parallel(work, [1, 2], threading.Event()) == [10, 20]


def test_slow_items_are_named_while_they_are_awaited() -> None:
    released, heard = threading.Event(), list[list[int]]()

    def work(item: int) -> int:
        return item if item == 1 or released.wait(PATIENCE) else 0

    def awaited(items: Sequence[int]) -> None:
        heard.append(list(items))
        released.set()

    assert in_parallel(work, [1, 2, 3], threading.Event(), awaited, checks_until_slow=1) == [1, 2, 3]
    assert heard == [[2, 3]]


def test_first_error_is_raised() -> None:
    def work(item: int) -> int:
        raise Unreachable(f"no answer {item}")

    with pytest.raises(Unreachable, match="no answer 1"):
        in_parallel(work, [1], threading.Event())


def test_stop_ends_the_wait_for_running_work() -> None:
    stop, never = threading.Event(), threading.Event()

    def work(_: int) -> bool:
        stop.set()
        return never.wait(PATIENCE)

    with pytest.raises(Stopping):
        in_parallel(work, [1], stop)
    never.set()


def test_no_items_give_no_results() -> None:
    assert in_parallel(str, [], threading.Event()) == []

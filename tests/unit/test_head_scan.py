"""Reading the head of a list, by hand."""

from collections.abc import Collection, Iterable

import pytest

from exporter.api.models import Job, JobPage, Page
from exporter.polling.discovery import HeadScan, head_scan
from exporter.polling.ordering import Order


def jobs(ids: Iterable[int | str]) -> list[Job]:
    return [Job(str(each), "copy", "finished") for each in ids]


def look(
    order: Order, listed: int, *, thought: int, known: int, told: bool = False, room: int = 5
) -> tuple[HeadScan, list[int]]:
    """A look at a list of *listed* jobs, of which the *known* oldest were known before; the offsets it asked for."""
    oldest_first = jobs(range(listed))
    shown = oldest_first if order is Order.OLDEST else oldest_first[::-1]
    before: Collection[str] = {job.id for job in oldest_first[:known]}
    scan, asked = head_scan(order, thought, 100, room), list[int]()
    while scan.offset is not None:
        assert len(asked) < 50
        asked.append(scan.offset)
        part = tuple(shown[scan.offset : scan.offset + 100])
        page = Page(part, len(part), {}, len(part) - 1, has_next=False)
        scan.add_page(JobPage(page, None, listed if told else None), before)
    return scan, asked


BOTH_ORDERS = pytest.mark.parametrize("order", [Order.NEWEST, Order.OLDEST])
TOLD = pytest.mark.parametrize("told", [False, True])


@TOLD
@BOTH_ORDERS
def test_a_quiet_end_takes_one_page(order: Order, told: bool) -> None:  # noqa: FBT001  # a table's column
    scan, asked = look(order, 2000, thought=2000, known=2000, told=told)

    assert len(asked) == 1
    assert scan.joined
    assert scan.size == 2000


@TOLD
@BOTH_ORDERS
def test_a_few_new_jobs_still_take_one_page(order: Order, told: bool) -> None:  # noqa: FBT001  # a table's column
    scan, asked = look(order, 2004, thought=2000, known=2000, told=told)

    assert len(asked) == 1
    assert scan.joined


def test_a_burst_before_a_list_is_read_to_the_first_job_known_before() -> None:
    scan, asked = look(Order.NEWEST, 2350, thought=2000, known=2000)

    assert asked == [0, 99, 198, 297]
    assert scan.joined


def test_a_burst_after_a_list_is_read_to_its_end() -> None:
    scan, asked = look(Order.OLDEST, 2350, thought=2000, known=2000)

    assert asked == [1905, 2004, 2103, 2202, 2301]
    assert scan.joined
    assert scan.size == 2350


def test_where_the_innermost_job_is_new_too_the_look_goes_on_inwards() -> None:
    scan, asked = look(Order.OLDEST, 2000, thought=2000, known=1700)

    assert asked == [1905, 1806, 1707, 1608]
    assert scan.joined


def test_a_list_that_shrank_by_more_than_a_page_is_found_again_inwards() -> None:
    scan, asked = look(Order.OLDEST, 1600, thought=2000, known=1600)

    assert asked == [1905, 1806, 1707, 1608, 1509]
    assert scan.joined
    assert scan.size == 1600


def test_a_list_that_shrank_says_so_by_its_total_with_the_newest_first() -> None:
    scan, _ = look(Order.NEWEST, 1600, thought=2000, known=1600, told=True)

    assert scan.size == 1600
    assert scan.total == 1600


@BOTH_ORDERS
def test_the_total_is_the_platform_s_own_or_none(order: Order) -> None:
    assert look(order, 2003, thought=2000, known=2000)[0].total is None
    assert look(order, 2003, thought=2000, known=2000, told=True)[0].total == 2003


@TOLD
@BOTH_ORDERS
def test_an_empty_list_was_looked_at_whole(order: Order, told: bool) -> None:  # noqa: FBT001  # a table's column
    scan, asked = look(order, 0, thought=0, known=0, told=told)

    assert asked == [0]
    assert scan.joined
    assert scan.size == 0


@BOTH_ORDERS
def test_a_list_of_new_jobs_alone_is_read_whole(order: Order) -> None:
    scan, asked = look(order, 250, thought=0, known=0)

    assert len(asked) == 3
    assert scan.joined


def test_a_page_after_the_look_has_ended_changes_nothing() -> None:
    scan, _ = look(Order.NEWEST, 2000, thought=2000, known=2000)
    scan.add_page(JobPage(Page((), 0, {}, -1, has_next=False), None, 7), set())

    assert scan.offset is None
    assert scan.size == 2000

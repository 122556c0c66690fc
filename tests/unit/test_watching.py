"""The end of a list where new jobs come in: looks at it by hand."""

from collections.abc import Collection, Iterable

import pytest

from exporter.platform.client import ListAnswer
from exporter.platform.jobs import Job
from exporter.platform.wire import Page
from exporter.polling.watching import Depths, Looks, Neighbours, Order, WatchedEnd


def jobs(ids: Iterable[int | str]) -> list[Job]:
    return [Job(str(each), "copy", "finished") for each in ids]


def look(
    order: Order, listed: int, *, thought: int, known: int, told: bool = False, room: int = 5
) -> tuple[WatchedEnd, list[int]]:
    """A look at a list of *listed* jobs, of which the *known* oldest were known before; the offsets it asked for."""
    oldest_first = jobs(range(listed))
    shown = oldest_first if order is Order.OLDEST else oldest_first[::-1]
    before: Collection[str] = {job.id for job in oldest_first[:known]}
    end, asked = WatchedEnd(order, thought, 100, room), list[int]()
    while end.offset is not None:
        assert len(asked) < 50
        asked.append(end.offset)
        part = tuple(shown[end.offset : end.offset + 100])
        page = Page(part, len(part), {}, len(part) - 1, has_next=False)
        end.take(ListAnswer(page, None, listed if told else None), before)
    return end, asked


BOTH_ORDERS = pytest.mark.parametrize("order", [Order.NEWEST, Order.OLDEST])
TOLD = pytest.mark.parametrize("told", [False, True])


@TOLD
@BOTH_ORDERS
def test_a_quiet_end_takes_one_page(order: Order, told: bool) -> None:  # noqa: FBT001  # a table's column
    end, asked = look(order, 2000, thought=2000, known=2000, told=told)

    assert len(asked) == 1
    assert end.joined
    assert end.size == 2000


@TOLD
@BOTH_ORDERS
def test_a_few_new_jobs_still_take_one_page(order: Order, told: bool) -> None:  # noqa: FBT001  # a table's column
    end, asked = look(order, 2004, thought=2000, known=2000, told=told)

    assert len(asked) == 1
    assert end.joined


def test_a_burst_before_a_list_is_read_to_the_first_job_known_before() -> None:
    end, asked = look(Order.NEWEST, 2350, thought=2000, known=2000)

    assert asked == [0, 99, 198, 297]
    assert end.joined


def test_a_burst_after_a_list_is_read_to_its_end() -> None:
    end, asked = look(Order.OLDEST, 2350, thought=2000, known=2000)

    assert asked == [1905, 2004, 2103, 2202, 2301]
    assert end.joined
    assert end.size == 2350


def test_where_the_innermost_job_is_new_too_the_look_goes_on_inwards() -> None:
    end, asked = look(Order.OLDEST, 2000, thought=2000, known=1700)

    assert asked == [1905, 1806, 1707, 1608]
    assert end.joined


def test_a_list_that_shrank_by_more_than_a_page_is_found_again_inwards() -> None:
    end, asked = look(Order.OLDEST, 1600, thought=2000, known=1600)

    assert asked == [1905, 1806, 1707, 1608, 1509]
    assert end.joined
    assert end.size == 1600


def test_a_list_that_shrank_says_so_by_its_total_with_the_newest_first() -> None:
    end, _ = look(Order.NEWEST, 1600, thought=2000, known=1600, told=True)

    assert end.size == 1600
    assert end.total == 1600


@BOTH_ORDERS
def test_the_total_is_the_platform_s_own_or_none(order: Order) -> None:
    assert look(order, 2003, thought=2000, known=2000)[0].total is None
    assert look(order, 2003, thought=2000, known=2000, told=True)[0].total == 2003


@TOLD
@BOTH_ORDERS
def test_an_empty_list_was_looked_at_whole(order: Order, told: bool) -> None:  # noqa: FBT001  # a table's column
    end, asked = look(order, 0, thought=0, known=0, told=told)

    assert asked == [0]
    assert end.joined
    assert end.size == 0


@BOTH_ORDERS
def test_a_list_of_new_jobs_alone_is_read_whole(order: Order) -> None:
    end, asked = look(order, 250, thought=0, known=0)

    assert len(asked) == 3
    assert end.joined


def test_a_page_after_the_look_has_ended_changes_nothing() -> None:
    end, _ = look(Order.NEWEST, 2000, thought=2000, known=2000)
    end.take(ListAnswer(Page((), 0, {}, -1, has_next=False), None, 7), set())

    assert end.offset is None
    assert end.size == 2000


@pytest.mark.parametrize(
    ("ids", "order"),
    [
        (range(100, 0, -1), Order.NEWEST),
        (range(100), Order.OLDEST),
        ([each * 37 % 101 for each in range(100)], Order.NONE),
        (range(10), Order.UNKNOWN),
        (["a"] * 100, Order.UNKNOWN),
        ([*range(20), 5], Order.OLDEST),
    ],
)
def test_neighbours_show_the_order(ids: Iterable[int | str], order: Order) -> None:
    neighbours = Neighbours()

    neighbours.take(jobs(ids))

    assert neighbours.order is order


def test_a_start_and_an_id_are_no_neighbours() -> None:
    neighbours = Neighbours()

    neighbours.take(
        Job(str(each) if each % 2 else "a", "copy", "running", started_on=float(each)) for each in range(50)
    )

    assert neighbours.order is Order.UNKNOWN


def test_ids_are_compared_as_numbers() -> None:
    neighbours = Neighbours()

    neighbours.take(jobs([9, 10, 99, 100, 999, 1000, 9999, 10_000, 99_999, 100_000, 999_999]))

    assert neighbours.order is Order.OLDEST


def test_a_job_lies_deeper_by_each_new_one() -> None:
    depths = Depths()
    depths.put("1", 120)
    depths.came(30)
    depths.put("2", 10)
    depths.came(5)

    assert (depths.of("1"), depths.of("2"), depths.of("3")) == (155, 15, None)


def test_depths_of_jobs_that_are_of_no_interest_are_forgotten() -> None:
    depths = Depths()
    for job_id in "123":
        depths.put(job_id, 1)
    depths.keep({"1", "2"})
    depths.drop("2")
    depths.drop("never put")

    assert [depths.of(job_id) for job_id in "123"] == [1, None, None]


def test_room_follows_the_last_look_within_bounds() -> None:
    depths, rooms = Depths(), list[int]()
    for came in (0, 10, 1000, 0):
        depths.came(came)
        rooms.append(depths.room)

    assert rooms == [5, 25, 50, 5]


def test_a_look_tells_for_how_long_there_was_none_in_the_poll_that_made_it() -> None:
    looks = Looks(0)
    looks.begin(["1"])
    looks.saw("1", 10)
    looks.begin(["1"])
    looks.saw("1", 100)
    looks.closed(100, since=100)

    assert looks.delay(100, ["1"]) == 100  # the place where jobs come in was not looked at before
    looks.begin(["1"])
    looks.saw("1", 130)
    looks.closed(130, since=130)
    assert looks.delay(130, ["1"]) == 30


def test_a_job_that_is_not_looked_at_waits_for_longer_with_each_poll() -> None:
    looks = Looks(0)
    looks.begin(["1"])
    looks.closed(30, since=30)
    looks.begin(["1"])
    looks.closed(60, since=60)

    assert looks.delay(60, ["1"]) == 60
    assert not looks.seen("1")


def test_a_job_that_was_asked_for_in_vain_is_tried_but_not_seen() -> None:
    looks = Looks(0)
    looks.begin(["1"])
    looks.tried("1", 30)

    assert looks.last_tried("1") == 30
    assert looks.at("1") == 0
    assert not looks.seen("1")


def test_reopened_the_wait_goes_back_to_when_the_last_listing_began() -> None:
    looks = Looks(0)
    looks.begin([])
    looks.listed(100, began=40, since=100)
    looks.begin([])
    looks.closed(500, since=500)
    looks.begin([])
    looks.reopen()

    assert looks.delay(510, []) == 470

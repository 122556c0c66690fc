"""The order of the list, its size, and the positions of jobs on it."""

from collections.abc import Iterable

import pytest

from exporter.api.models import Job, JobPage, Page
from exporter.polling.ordering import JobPositions, ListShape, Order, OrderDetector, OrderTrust


def jobs(ids: Iterable[int | str]) -> list[Job]:
    return [Job(str(each), "copy", "finished") for each in ids]


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
def test_detector_infers_the_order_from_neighbouring_jobs(ids: Iterable[int | str], order: Order) -> None:
    order_detector = OrderDetector()

    order_detector.add_page(jobs(ids))

    assert order_detector.order is order


def test_detector_does_not_compare_a_start_time_with_an_id() -> None:
    order_detector = OrderDetector()

    order_detector.add_page(
        Job(str(each) if each % 2 else "a", "copy", "running", started_on=float(each)) for each in range(50)
    )

    assert order_detector.order is Order.UNKNOWN


def test_detector_compares_ids_as_numbers() -> None:
    order_detector = OrderDetector()

    order_detector.add_page(jobs([9, 10, 99, 100, 999, 1000, 9999, 10_000, 99_999, 100_000, 999_999]))

    assert order_detector.order is Order.OLDEST


def test_position_moves_inwards_by_each_new_job() -> None:
    positions = JobPositions()
    positions.put("1", 120)
    positions.add_arrivals(30)
    positions.put("2", 10)
    positions.add_arrivals(5)

    assert (positions.of("1"), positions.of("2"), positions.of("3")) == (155, 15, None)


def test_positions_of_other_jobs_are_forgotten() -> None:
    positions = JobPositions()
    for job_id in "123":
        positions.put(job_id, 1)
    positions.keep({"1", "2"})
    positions.drop("2")
    positions.drop("unknown")

    assert [positions.of(job_id) for job_id in "123"] == [1, None, None]


def test_room_follows_the_last_arrivals_within_bounds() -> None:
    positions, rooms = JobPositions(), list[int]()
    for arrivals in (0, 10, 1000, 0):
        positions.add_arrivals(arrivals)
        rooms.append(positions.room)

    assert rooms == [5, 25, 50, 5]


def test_cleared_positions_start_without_arrivals() -> None:
    positions = JobPositions()
    positions.add_arrivals(40)
    positions.put("1", 7)

    positions.clear()

    assert positions.of("1") is None
    assert positions.room == JobPositions().room


# ---- which order to act on ----


@pytest.mark.parametrize(
    ("shown", "pages", "order"),
    [
        (Order.OLDEST, 1, Order.OLDEST),
        (Order.NONE, 1, Order.NONE),
        (Order.UNKNOWN, 2, Order.UNKNOWN),
        (Order.UNKNOWN, 3, Order.NONE),
    ],
)
def test_order_that_three_pages_do_not_show_is_none(shown: Order, pages: int, order: Order) -> None:
    trust = OrderTrust()

    trust.learn(shown, pages)

    assert trust.order is order
    assert trust.known == (order is Order.OLDEST)


def test_each_refutation_requires_twice_as_many_listings_up_to_eight() -> None:
    trust, required = OrderTrust(), list[int]()
    for _ in range(5):
        trust.refute()
        listings = 0
        while not trust.known:
            trust.confirm(Order.NEWEST)
            listings += 1
        required.append(listings)

    assert required == [1, 2, 4, 8, 8]


@pytest.mark.parametrize("shown", [Order.NONE, Order.UNKNOWN])
def test_listing_without_an_order_confirms_none(shown: Order) -> None:
    trust = OrderTrust()
    trust.refute()

    trust.confirm(shown)

    assert trust.order is Order.NONE


@pytest.mark.parametrize(
    ("shown", "contradicted"),
    [(Order.NEWEST, False), (Order.UNKNOWN, False), (Order.OLDEST, True), (Order.NONE, True)],
)
def test_order_is_contradicted_by_a_different_one(shown: Order, contradicted: bool) -> None:  # noqa: FBT001  # a table's column
    trust = OrderTrust()
    trust.adopt(Order.NEWEST)

    assert trust.contradicted_by(shown) is contradicted


# ---- size and offsets ----


def list_shape(order: Order, size: int, *, incremental: bool = True) -> ListShape:
    trust = OrderTrust()
    trust.adopt(order)
    shape = ListShape(trust, incremental=incremental)
    shape.size = size
    return shape


def test_account_is_large_beyond_six_pages_and_small_again_at_four() -> None:
    shape, large = list_shape(Order.NEWEST, 0), list[bool]()
    for shape.size in (600, 601, 401, 400, 600):
        shape.classify()
        large.append(shape.large)

    assert large == [False, True, True, False, False]


def test_account_that_is_always_listed_in_full_is_never_large() -> None:
    shape = list_shape(Order.NEWEST, 100_000, incremental=False)

    shape.classify()

    assert not shape.large


@pytest.mark.parametrize(("size", "pages"), [(0, 1), (1, 1), (100, 1), (101, 2), (199, 2), (200, 3), (1000, 11)])
def test_full_listing_overlaps_its_pages_by_one_job(size: int, pages: int) -> None:
    assert list_shape(Order.NEWEST, size).pages == pages


@pytest.mark.parametrize(("order", "offset"), [(Order.NEWEST, 120), (Order.OLDEST, 780)])
def test_page_at_a_depth_shows_the_job_at_that_depth(order: Order, offset: int) -> None:
    shape = list_shape(order, 1000)

    assert shape.offset(120) == offset
    assert 120 in {shape.depth(position) for position in range(offset, offset + 100)}


def test_depth_and_offset_stay_on_a_list_that_shrank() -> None:
    shape = list_shape(Order.OLDEST, 50)

    assert shape.depth(70) == 0
    assert shape.offset(20) == 0


@pytest.mark.parametrize(("items", "named", "per_page"), [(60, 100, 100), (0, 50, 50), (25, None, 25), (100, 100, 100)])
def test_page_size_counts_jobs_that_the_platform_left_out(items: int, named: int | None, per_page: int) -> None:
    shape = ListShape(OrderTrust(), incremental=True)
    jobs = tuple(Job(str(number), "copy", "running") for number in range(items))

    shape.learn_page_size(JobPage(Page(jobs, items, {}, items - 1, has_next=True, next_offset=named), None, None), 0)

    assert shape.per_page == per_page

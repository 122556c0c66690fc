"""The order of the list, and the positions of jobs on it."""

from collections.abc import Iterable

import pytest

from exporter.api.models import Job
from exporter.polling.ordering import JobPositions, Order, OrderDetector


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
def test_neighbours_show_the_order(ids: Iterable[int | str], order: Order) -> None:
    order_detector = OrderDetector()

    order_detector.add_page(jobs(ids))

    assert order_detector.order is order


def test_a_start_and_an_id_are_no_neighbours() -> None:
    order_detector = OrderDetector()

    order_detector.add_page(
        Job(str(each) if each % 2 else "a", "copy", "running", started_on=float(each)) for each in range(50)
    )

    assert order_detector.order is Order.UNKNOWN


def test_ids_are_compared_as_numbers() -> None:
    order_detector = OrderDetector()

    order_detector.add_page(jobs([9, 10, 99, 100, 999, 1000, 9999, 10_000, 99_999, 100_000, 999_999]))

    assert order_detector.order is Order.OLDEST


def test_a_job_lies_deeper_by_each_new_one() -> None:
    positions = JobPositions()
    positions.put("1", 120)
    positions.add_arrivals(30)
    positions.put("2", 10)
    positions.add_arrivals(5)

    assert (positions.of("1"), positions.of("2"), positions.of("3")) == (155, 15, None)


def test_depths_of_jobs_that_are_of_no_interest_are_forgotten() -> None:
    positions = JobPositions()
    for job_id in "123":
        positions.put(job_id, 1)
    positions.keep({"1", "2"})
    positions.drop("2")
    positions.drop("never put")

    assert [positions.of(job_id) for job_id in "123"] == [1, None, None]


def test_room_follows_the_last_look_within_bounds() -> None:
    positions, rooms = JobPositions(), list[int]()
    for came in (0, 10, 1000, 0):
        positions.add_arrivals(came)
        rooms.append(positions.room)

    assert rooms == [5, 25, 50, 5]

"""Scanning the head of a list, page by page, and checking the platform's total."""

from collections.abc import Collection, Iterable

import pytest

from exporter.api.models import Job, JobPage, Page
from exporter.polling.discovery import HeadProgress, HeadScan, TotalCheck, head_scan
from exporter.polling.ordering import Order


def jobs(ids: Iterable[int | str]) -> list[Job]:
    return [Job(str(each), "copy", "finished") for each in ids]


def scan_head(
    order: Order, listed: int, *, thought: int, known: int, total: bool = False, room: int = 5
) -> tuple[HeadScan, list[int]]:
    """Scan a list of *listed* jobs, of which the *known* oldest were known before; return the offsets requested."""
    oldest_first = jobs(range(listed))
    shown = oldest_first if order is Order.OLDEST else oldest_first[::-1]
    before: Collection[str] = {job.id for job in oldest_first[:known]}
    scan, requested = head_scan(order, thought, 100, room), list[int]()
    while scan.offset is not None:
        assert len(requested) < 50
        requested.append(scan.offset)
        part = tuple(shown[scan.offset : scan.offset + 100])
        page = Page(part, len(part), {}, len(part) - 1, has_next=False)
        scan.add_page(JobPage(page, None, listed if total else None), before)
    return scan, requested


BOTH_ORDERS = pytest.mark.parametrize("order", [Order.NEWEST, Order.OLDEST])
TOTAL = pytest.mark.parametrize("total", [False, True])


@TOTAL
@BOTH_ORDERS
def test_scan_without_new_jobs_reads_one_page(order: Order, total: bool) -> None:  # noqa: FBT001  # a table's column
    scan, requested = scan_head(order, 2000, thought=2000, known=2000, total=total)

    assert len(requested) == 1
    assert scan.joined
    assert scan.size == 2000


@TOTAL
@BOTH_ORDERS
def test_scan_with_a_few_new_jobs_reads_one_page(order: Order, total: bool) -> None:  # noqa: FBT001  # a table's column
    scan, requested = scan_head(order, 2004, thought=2000, known=2000, total=total)

    assert len(requested) == 1
    assert scan.joined


def test_newest_first_scan_reads_a_burst_to_the_first_known_job() -> None:
    scan, requested = scan_head(Order.NEWEST, 2350, thought=2000, known=2000)

    assert requested == [0, 99, 198, 297]
    assert scan.joined


def test_oldest_first_scan_reads_a_burst_to_the_end_of_the_list() -> None:
    scan, requested = scan_head(Order.OLDEST, 2350, thought=2000, known=2000)

    assert requested == [1905, 2004, 2103, 2202, 2301]
    assert scan.joined
    assert scan.size == 2350


def test_oldest_first_scan_goes_on_inwards_while_the_first_job_is_new() -> None:
    scan, requested = scan_head(Order.OLDEST, 2000, thought=2000, known=1700)

    assert requested == [1905, 1806, 1707, 1608]
    assert scan.joined


def test_oldest_first_scan_finds_the_end_of_a_list_that_shrank() -> None:
    scan, requested = scan_head(Order.OLDEST, 1600, thought=2000, known=1600)

    assert requested == [1905, 1806, 1707, 1608, 1509]
    assert scan.joined
    assert scan.size == 1600


def test_newest_first_scan_learns_from_the_total_that_the_list_shrank() -> None:
    scan, _ = scan_head(Order.NEWEST, 1600, thought=2000, known=1600, total=True)

    assert scan.size == 1600
    assert scan.total == 1600


@BOTH_ORDERS
def test_total_is_the_one_that_the_platform_reported_or_none(order: Order) -> None:
    assert scan_head(order, 2003, thought=2000, known=2000)[0].total is None
    assert scan_head(order, 2003, thought=2000, known=2000, total=True)[0].total == 2003


@TOTAL
@BOTH_ORDERS
def test_scan_of_an_empty_list_joins(order: Order, total: bool) -> None:  # noqa: FBT001  # a table's column
    scan, requested = scan_head(order, 0, thought=0, known=0, total=total)

    assert requested == [0]
    assert scan.joined
    assert scan.size == 0


@BOTH_ORDERS
def test_scan_of_a_list_of_new_jobs_reads_all_of_it(order: Order) -> None:
    scan, requested = scan_head(order, 250, thought=0, known=0)

    assert len(requested) == 3
    assert scan.joined


@pytest.mark.parametrize("order", [Order.NEWEST, Order.OLDEST])
def test_scan_goes_on_after_an_empty_page_that_names_a_next_one(order: Order) -> None:
    scan = head_scan(order, 200, 100, 0)
    first = scan.offset or 0
    empty = Page((), 0, {}, -1, has_next=True, next_offset=first + 50)

    scan.add_page(JobPage(empty, None, None), frozenset())

    assert scan.offset == first + 50


def test_page_after_the_end_of_a_scan_changes_nothing() -> None:
    scan, _ = scan_head(Order.NEWEST, 2000, thought=2000, known=2000)
    scan.add_page(JobPage(Page((), 0, {}, -1, has_next=False), None, 7), set())

    assert scan.offset is None
    assert scan.size == 2000


# ---- what one scan leaves for the next ----


def test_new_jobs_are_not_known_before_until_they_are_joined() -> None:
    head = HeadProgress()
    head.add_new(["2", "3"])

    assert head.known_before({"1", "2"}) == {"1"}
    head.join()
    assert head.known_before({"1", "2"}) == {"1", "2"}


@pytest.mark.parametrize(("pages", "limit"), [(9, 4), (2, 1), (1, 1)])
def test_scan_that_exceeded_the_allowance_is_followed_by_one_of_half_its_pages(pages: int, limit: int) -> None:
    head = HeadProgress()
    head.pages = pages

    head.shorten()

    assert head.limit == limit


# ---- the platform's total ----


def total_check(jobs: int) -> TotalCheck:
    check = TotalCheck()
    check.completed(jobs)
    return check


def finds_missed_job(check: TotalCheck, *totals: int | None) -> list[bool]:
    found = []
    for check.reported in totals:
        found.append(check.finds_missed_job())
    return found


@pytest.mark.parametrize(
    ("totals", "found"),
    [
        ([100, 99, 99], [False, False, False]),
        ([101, 101], [False, True]),
        ([101, 100, 101], [False, False, False]),
        ([101, None, 101], [False, False, True]),
        ([101, 101, 101, 101], [False, True, False, False]),  # believed once a listing has looked for it
        ([101, 103, 104, 104], [False, True, False, True]),
        ([None, None], [False, False]),
    ],
)
def test_total_finds_a_missed_job_when_too_high_twice(totals: list[int | None], found: list[bool]) -> None:
    assert finds_missed_job(total_check(100), *totals) == found


def test_total_is_not_too_high_by_jobs_that_were_seen() -> None:
    check = total_check(100)
    check.add_arrivals(3)
    assert finds_missed_job(check, 103, 103) == [False, False]

    check.add_arrivals(1)
    check.forget_arrivals()
    assert finds_missed_job(check, 104, 104) == [False, True]


def test_total_is_not_checked_before_a_complete_listing() -> None:
    assert finds_missed_job(TotalCheck(), 7, 7, 7) == [False, False, False]


def test_total_is_checked_against_the_listing_of_an_earlier_process() -> None:
    check = TotalCheck()
    check.resume(100)

    assert finds_missed_job(check, 101, 101) == [False, True]

"""Full listings of a list that moves while it is read, and their schedule."""

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.api.decoding import too_large
from exporter.api.models import Job, JobPage, Page
from exporter.polling.full_listing import FullListing, ListingSchedule

NOTHING: Callable[[list[str]], None] = lambda _: None  # noqa: E731  # a default among functions


def response(ids: list[str], offset: int, limit: int = 100, *, total: bool = True, links: bool = False) -> JobPage:
    """Build the page of *ids* that the platform would return."""
    part = ids[offset : offset + limit]
    jobs = tuple(Job(job_id, "copy", "running") for job_id in part)
    page = Page(jobs, len(part), {}, len(part) - 1, has_next=links and offset + limit < len(ids))
    return JobPage(page, None, len(ids) if total else None, limit)


def full_listing_along(
    ids: list[str],
    full_listing: FullListing | None = None,
    *,
    between: Callable[[list[str]], None] = NOTHING,
    total: bool = True,
) -> FullListing:
    """Read a whole listing; *between* changes the list between two pages."""
    full_listing = full_listing or FullListing()
    while full_listing.offset is not None:
        full_listing.add_page(response(ids, full_listing.offset, total=total))
        between(ids)
    return full_listing


def names(number: int) -> list[str]:
    return [f"j{n:05d}" for n in range(number)]


@pytest.mark.parametrize("total", [True, False])
@pytest.mark.parametrize("number", [0, 1, 2, 99, 100, 101, 198, 199, 200, 201, 1000])
def test_listing_of_a_list_at_rest_is_complete(number: int, total: bool) -> None:  # noqa: FBT001  # a table's column
    full_listing = full_listing_along(names(number), total=total)

    assert full_listing.complete
    assert full_listing.ids == set(names(number))


def test_pages_overlap_by_one_job() -> None:
    offsets = []
    full_listing = FullListing()
    while full_listing.offset is not None:
        offsets.append(full_listing.offset)
        full_listing.add_page(response(names(250), full_listing.offset))

    assert offsets == [0, 99, 198]


def test_listing_of_a_small_list_takes_one_request() -> None:
    full_listing = FullListing()

    full_listing.add_page(response(names(99), 0, 100))

    assert full_listing.complete


def test_listing_rewinds_when_jobs_leave_the_list() -> None:
    ids = names(300)

    def leave(ids: list[str]) -> None:
        if len(ids) == 300:
            del ids[:40]

    full_listing = full_listing_along(ids, between=leave)

    assert full_listing.complete
    assert set(names(300)[40:]) <= full_listing.ids


def test_listing_misses_no_job_when_jobs_are_added() -> None:
    ids = names(300)
    full_listing = full_listing_along(
        ids, between=lambda ids: ids.insert(0, f"new{len(ids)}") if len(ids) < 320 else None
    )

    assert full_listing.complete
    assert set(names(300)) <= full_listing.ids


def test_rewind_is_as_long_as_the_requested_page() -> None:
    full_listing = FullListing()
    full_listing.add_page(response(names(60), 0, 25))
    full_listing.add_page(response(names(60)[20:], 24, 12))

    assert full_listing.offset == 24 - 12 + 1


def test_rewind_ends_at_the_beginning_of_the_list() -> None:
    full_listing = FullListing()
    full_listing.add_page(response(names(60), 0, 10))

    full_listing.add_page(response(names(60)[30:], 9, 50))

    assert full_listing.offset == 0


def test_listing_passes_pages_with_only_jobs_already_met() -> None:
    ids, full_listing, offsets = names(1500), FullListing(), []
    while full_listing.offset is not None:
        if full_listing.pages == 10:
            ids[:0] = [f"new{number}" for number in range(250)]
        offsets.append(full_listing.offset)
        full_listing.add_page(response(ids, full_listing.offset))

    assert offsets == list(range(0, 1750, 99))
    assert full_listing.complete
    assert full_listing.ids == set(names(1500))


def test_jobs_seen_elsewhere_do_not_break_an_overlap() -> None:
    ids, full_listing = names(300), FullListing()
    full_listing.add_page(response(ids, 0))
    full_listing.add_page(response(ids, 99))
    new = [f"new{number}" for number in range(150)]
    ids[:0] = new

    full_listing.add_seen_elsewhere(new)
    while full_listing.offset is not None:
        full_listing.add_page(response(ids, full_listing.offset))

    assert full_listing.complete
    assert set(full_listing.listing) == set(ids)


def test_listing_with_a_lost_overlap_is_incomplete() -> None:
    ids, full_listing = names(600), FullListing()
    for _ in range(3):
        full_listing.add_page(response(ids, full_listing.offset or 0))

    del ids[297]
    while full_listing.offset is not None:
        full_listing.add_page(response(ids, full_listing.offset))

    assert not full_listing.complete
    assert set(ids) <= full_listing.ids


def test_listing_that_ends_before_its_overlap_is_incomplete() -> None:
    full_listing = FullListing()
    full_listing.add_page(response(names(100), 0))

    full_listing.add_page(response(names(60), 20))

    assert full_listing.ended
    assert not full_listing.complete


def test_rewinds_are_bounded() -> None:
    full_listing = FullListing()
    offsets: list[int] = []
    while full_listing.offset is not None and len(offsets) < 100:
        offsets.append(full_listing.offset)
        ids = [f"{len(offsets)}-{number}" for number in range(5000)]
        full_listing.add_page(response(ids, full_listing.offset))

    back = [later < earlier for earlier, later in pairwise(offsets)]
    assert True in back
    assert False in back[1:]
    assert not full_listing.complete


def test_jobs_seen_elsewhere_are_listed() -> None:
    full_listing = FullListing()
    full_listing.add_page(response(names(150), 0))

    full_listing.add_seen_elsewhere(["elsewhere"])
    while full_listing.offset is not None:
        full_listing.add_page(response(names(150), full_listing.offset))

    assert full_listing.complete
    assert set(full_listing.listing) == {*names(150), "elsewhere"}
    assert full_listing.ids == set(names(150))


def test_jobs_seen_before_a_listing_began_are_not_listed() -> None:
    full_listing = FullListing()

    full_listing.add_seen_elsewhere(["before"])
    full_listing_along(names(150), full_listing)

    assert set(full_listing.listing) == set(names(150))


def test_jobs_seen_elsewhere_count_towards_the_total() -> None:
    full_listing = FullListing()
    full_listing.add_page(JobPage(response(names(150), 0).page, None, 151))

    full_listing.add_seen_elsewhere(["elsewhere"])
    while full_listing.offset is not None:
        full_listing.add_page(JobPage(response(names(150), full_listing.offset).page, None, 151))

    assert full_listing.complete


def test_listing_counts_unreadable_records() -> None:
    full_listing = FullListing()
    jobs = tuple(Job(job_id, "copy", "running") for job_id in names(97))

    full_listing.add_page(JobPage(Page(jobs, 100, {"no_id": 2, "bad_count": 1}, 99, has_next=True), None, None))
    full_listing.add_page(JobPage(Page(jobs[-1:], 2, {"no_id": 1}, 0, has_next=False), None, None))

    assert full_listing.unreadable == 4
    assert full_listing.pages == 2


def test_pages_overlap_by_the_last_readable_job() -> None:
    full_listing = FullListing()
    jobs = tuple(Job(job_id, "copy", "running") for job_id in names(40))

    full_listing.add_page(JobPage(Page(jobs, 100, {"no_id": 60}, 39, has_next=True), None, None))

    assert full_listing.offset == 39


def test_listing_passes_a_page_without_a_readable_job() -> None:
    full_listing = FullListing()

    full_listing.add_page(JobPage(Page((), 100, {"no_id": 100}, -1, has_next=True), None, None))

    assert full_listing.offset == 100


def test_listing_passes_a_record_too_large_to_be_read() -> None:
    full_listing = FullListing()

    full_listing.add_page(JobPage(too_large(1), None, None, 1))

    assert full_listing.offset == 1
    assert full_listing.unreadable == 1
    assert not full_listing.ended


@pytest.mark.parametrize("limit", [2, 3, 12, 50])
def test_page_as_long_as_requested_is_not_the_end(limit: int) -> None:
    full_listing = FullListing()
    while full_listing.offset is not None:
        full_listing.add_page(response(names(60), full_listing.offset, limit, total=False))

    assert full_listing.complete
    assert full_listing.ids == set(names(60))


def test_page_size_may_change_during_a_listing() -> None:
    full_listing = FullListing()
    dice = random.Random(5)  # noqa: S311  # a repeatable choice
    while full_listing.offset is not None:
        full_listing.add_page(response(names(400), full_listing.offset, dice.randint(2, 100)))

    assert full_listing.complete
    assert full_listing.ids == set(names(400))


def test_listing_of_fewer_jobs_than_the_total_is_incomplete() -> None:
    full_listing = FullListing()
    first = response(names(50), 0, 100)

    full_listing.add_page(JobPage(first.page, None, 80))
    while full_listing.offset is not None:
        full_listing.add_page(JobPage(response(names(50), full_listing.offset).page, None, 80))

    assert full_listing.ended
    assert not full_listing.complete


def test_second_listing_trusts_its_overlaps_more_than_the_total() -> None:
    full_listing, completed, ids = FullListing(), [], names(50)
    for _ in range(4):
        ids.insert(0, f"new{len(ids)}")
        while full_listing.offset is not None:
            full_listing.add_page(JobPage(response(ids, full_listing.offset).page, None, len(ids) + 1))
        completed.append(full_listing.complete)
        full_listing = full_listing.after()

    assert completed == [False, True, True, True]


def test_listing_gives_up_if_the_platform_ignores_the_offset() -> None:
    full_listing, pages = FullListing(), 0
    while full_listing.offset is not None:
        full_listing.add_page(response(names(250), 0, 100))
        pages += 1

    assert pages < 20
    assert not full_listing.complete


def test_unreadable_records_count_towards_the_total() -> None:
    full_listing = FullListing()
    jobs = tuple(Job(job_id, "copy", "running") for job_id in names(9))

    full_listing.add_page(JobPage(Page(jobs, 10, {"no_id": 1}, 8, has_next=False), None, 10))

    assert full_listing.complete


def test_unordered_listing_is_complete_after_two_that_find_nothing_new() -> None:
    ids = names(250)
    dice = random.Random(5)  # noqa: S311  # a repeatable shuffle
    full_listing, listings = FullListing(), 0
    while True:
        full_listing_along(ids, full_listing, between=dice.shuffle)
        listings += 1
        if full_listing.complete:
            break
        full_listing = full_listing.after()

    assert listings > 2
    assert set(full_listing.listing) == set(ids)


def test_listing_of_a_list_that_became_stable_is_complete() -> None:
    ids = names(250)
    dice = random.Random(5)  # noqa: S311  # a repeatable shuffle
    full_listing = full_listing_along(ids, between=dice.shuffle)
    assert not full_listing.complete

    assert full_listing_along(sorted(ids), full_listing.after()).complete


def test_ids_no_longer_listed_are_forgotten_in_the_end() -> None:
    full_listing = FullListing()
    for round_number in range(40):
        ids = [f"{round_number}-{n}" for n in range(150)]
        dice = random.Random(round_number)  # noqa: S311  # a repeatable shuffle
        full_listing = full_listing_along(ids, full_listing, between=dice.shuffle).after()

    assert len(set(full_listing.listing)) < 2000


def test_short_page_with_a_next_link_is_not_the_end() -> None:
    full_listing = FullListing()

    full_listing.add_page(response(names(60), 0, 25, total=False, links=True))

    assert full_listing.offset is not None
    assert full_listing.offset == 24


Rows = list[str | None]
"""A list as the platform stores it; it shows the jobs that are not None, after it has cut the list into pages."""


def filtered(rows: Rows, offset: int, limit: int = 100, *, named: bool = True) -> JobPage:
    """Build the page that a platform returns which filters rows after paging."""
    jobs = tuple(Job(each, "copy", "running") for each in rows[offset : offset + limit] if each)
    has_next = offset + limit < len(rows)
    next_offset = offset + limit if has_next and named else None
    page = Page(jobs, len(jobs), {}, len(jobs) - 1, has_next=has_next, next_offset=next_offset)
    return JobPage(page, None, None, limit)


def listings_until_complete(rows: Rows, *, named: bool = True) -> tuple[int, set[str]]:
    """Return how many listings it takes until one is complete, and what that one met."""
    full_listing = FullListing()
    for number in range(1, 5):
        while full_listing.offset is not None:
            full_listing.add_page(filtered(rows, full_listing.offset, named=named))
        if full_listing.complete:
            return number, full_listing.ids
        full_listing = full_listing.after()
    raise AssertionError("no listing was complete")


SHOWN: dict[str, Callable[[int], bool]] = {
    "every second": lambda row: row % 2 == 0,
    "the last ones": lambda row: row >= 300,
    "the first and the last ones": lambda row: row < 40 or row >= 290,
    "the first of each page": lambda row: row % 100 == 0,
    "the last of each page": lambda row: row % 100 == 99,
    "the first ones": lambda row: row < 90,
    "one": lambda row: row == 250,
    "none": lambda _: False,
}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
def test_list_ends_only_where_no_next_page_is_named(shown: Callable[[int], bool], named: bool) -> None:  # noqa: FBT001
    rows: Rows = [f"j{row:03d}" if shown(row) else None for row in range(330)]

    listings, ids = listings_until_complete(rows, named=named)

    assert ids == {each for each in rows if each}
    assert listings <= 3


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 130)), max_size=8))
@example([(False, 61), (True, 1), (True, 1), (False, 50)])
def test_no_job_is_missed_where_rows_are_filtered_after_paging(runs: list[tuple[bool, int]]) -> None:
    rows: Rows = []
    for shown, length in runs:
        rows += [f"j{len(rows) + number}" if shown else None for number in range(length)]

    assert listings_until_complete(rows)[1] == {each for each in rows if each}


def test_listing_gives_up_empty_pages_without_end() -> None:
    full_listing = FullListing()
    while full_listing.offset is not None:
        full_listing.add_page(JobPage(Page((), 0, {}, -1, has_next=True), None, None))

    assert full_listing.pages == 100
    assert not full_listing.complete


@pytest.mark.parametrize(("named", "offset"), [(150, 150), (101, 101), (50, 200), (100, 200), (201, 200), (None, 200)])
def test_only_a_link_within_the_page_says_where_the_next_one_begins(named: int | None, offset: int) -> None:
    assert JobPage(Page((), 0, {}, -1, has_next=True, next_offset=named), None, None).end(100) == offset


def test_listing_gives_up_a_list_without_end() -> None:
    full_listing = FullListing()
    steps = 0
    while full_listing.offset is not None:
        steps += 1
        jobs = (Job(f"a{steps}", "copy", "running"), Job(f"b{steps}", "copy", "running"))
        full_listing.add_page(JobPage(Page(jobs, 2, {}, 1, has_next=True), None, None))

    assert not full_listing.complete


def test_page_after_the_end_of_a_listing_changes_nothing() -> None:
    full_listing = full_listing_along(names(3))

    full_listing.add_page(response(names(9), 0, 100))

    assert full_listing.ids == set(names(3))


@given(
    start=st.integers(0, 450),
    moves=st.lists(
        st.tuples(st.sampled_from(["come first", "come last", "leave", "stay"]), st.integers(1, 120)), max_size=8
    ),
    seed=st.integers(0, 999),
    total=st.booleans(),
)
def test_complete_listing_missed_no_job_that_was_listed_throughout(
    start: int,
    moves: list[tuple[str, int]],
    seed: int,
    total: bool,  # noqa: FBT001  # drawn
) -> None:
    ids = names(start)
    there = set(ids)
    dice = random.Random(seed)  # noqa: S311  # a repeatable choice
    pending = iter(moves)
    number = 0

    def move(ids: list[str]) -> None:
        nonlocal number
        what, how_many = next(pending, ("stay", 0))
        if what == "leave":
            for job_id in dice.sample(ids, min(how_many, len(ids))):
                ids.remove(job_id)
                there.discard(job_id)
        elif what.startswith("come"):
            number += 1
            new = [f"{number}-{n}" for n in range(how_many)]
            ids[:] = [*new, *ids] if what == "come first" else [*ids, *new]

    full_listing = full_listing_along(ids, between=move, total=total)

    assert full_listing.ended
    if full_listing.complete:
        assert there <= full_listing.ids


def test_listing_rewinds_until_a_page_shows_a_job_already_met() -> None:
    ids, full_listing, offsets = names(800), FullListing(), []
    while full_listing.offset is not None:
        if full_listing.pages == 4:
            del ids[:350]
        offsets.append(full_listing.offset)
        full_listing.add_page(response(ids, full_listing.offset))

    assert offsets[:9] == [0, 99, 198, 297, 396, 297, 198, 99, 0]
    assert full_listing.complete


def test_listing_that_was_given_up_is_never_complete() -> None:
    full_listing, completed = FullListing(), []
    for _ in range(4):
        while full_listing.offset is not None:
            full_listing.add_page(response(names(250), 0))
        completed.append(full_listing.complete)
        full_listing = full_listing.after()

    assert completed == [False] * 4


def test_listing_reads_pages_of_one_job() -> None:
    full_listing, limits = FullListing(), iter([100, *[1] * 40])
    while full_listing.offset is not None:
        full_listing.add_page(response(names(250), full_listing.offset, next(limits, 100)))

    assert full_listing.ids == set(names(250))


# ---- the schedule ----

HOUR = 3600.0


def test_first_listing_reads_as_many_pages_as_a_phase_may() -> None:
    schedule = ListingSchedule(6 * HOUR, 0)

    assert schedule.first
    assert schedule.pages(0, 1000, hurried=False) == 10


def test_hurried_listing_reads_as_many_pages_as_a_phase_may() -> None:
    schedule = ListingSchedule(6 * HOUR, 0)
    schedule.completed(0)

    assert schedule.pages(30, 2, hurried=True) == 10
    assert not schedule.page_due


def test_listing_is_spread_over_its_interval() -> None:
    schedule, left, now = ListingSchedule(6 * HOUR, 0), 200.0, 0.0
    schedule.completed(now)
    pages = []
    while left > 0:
        now += 60
        pages.append(schedule.pages(now, left, hurried=False))
        left -= pages[-1]

    assert max(pages) <= 1 + 200 // (6 * 60)
    assert 5 * HOUR < now <= 6 * HOUR


def test_listing_of_an_earlier_process_is_due_when_it_would_have_been() -> None:
    schedule = ListingSchedule(6 * HOUR, 0)
    schedule.resume(0, age=5 * HOUR)

    assert not schedule.first
    assert schedule.pages(HOUR / 3, 4, hurried=False) == 2  # of an hour, a third has passed and two are left


def test_overdue_listing_of_an_earlier_process_is_read_at_once() -> None:
    schedule = ListingSchedule(6 * HOUR, 0)
    schedule.resume(0, age=9 * HOUR)

    assert schedule.pages(30, 200, hurried=False) == 10
    assert schedule.page_due


def test_completed_listing_is_no_longer_expedited() -> None:
    schedule = ListingSchedule(6 * HOUR, 0)
    schedule.expedited = True

    schedule.completed(10)

    assert not schedule.expedited


def test_pages_left_follow_from_the_pages_read_so_far() -> None:
    full_listing = FullListing()
    assert full_listing.pages_left(1000, 100) == pytest.approx(1000 / 99)

    ids = names(1000)
    for _ in range(5):
        full_listing.add_page(response(ids, full_listing.offset or 0))
        ids.insert(0, f"new{len(ids)}")

    assert full_listing.offset is not None
    assert full_listing.pages_left(1000, 100) == pytest.approx((1000 - full_listing.offset) / (full_listing.offset / 5))

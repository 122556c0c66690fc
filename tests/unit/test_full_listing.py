"""Walking along a list that moves."""

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.api.decoding import too_large
from exporter.api.models import Job, JobPage, Page
from exporter.polling.full_listing import FullListing

NOTHING: Callable[[list[str]], None] = lambda _: None  # noqa: E731  # a default among functions


def response(ids: list[str], offset: int, limit: int = 100, *, total: bool = True, links: bool = False) -> JobPage:
    """What the platform would answer of *ids*."""
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
    """A whole walk; *between* changes the list between two pages."""
    full_listing = full_listing or FullListing()
    while full_listing.offset is not None:
        full_listing.add_page(response(ids, full_listing.offset, total=total))
        between(ids)
    return full_listing


def names(number: int) -> list[str]:
    return [f"j{n:05d}" for n in range(number)]


@pytest.mark.parametrize("total", [True, False])
@pytest.mark.parametrize("number", [0, 1, 2, 99, 100, 101, 198, 199, 200, 201, 1000])
def test_a_list_at_rest_is_read_whole_in_one_walk(number: int, total: bool) -> None:  # noqa: FBT001  # a table's column
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


def test_a_small_list_costs_one_request() -> None:
    full_listing = FullListing()

    full_listing.add_page(response(names(99), 0, 100))

    assert full_listing.complete


def test_jobs_that_leave_while_it_is_read_are_stepped_back_for() -> None:
    ids = names(300)

    def leave(ids: list[str]) -> None:
        if len(ids) == 300:
            del ids[:40]

    full_listing = full_listing_along(ids, between=leave)

    assert full_listing.complete
    assert set(names(300)[40:]) <= full_listing.ids


def test_jobs_that_come_while_it_is_read_lose_none() -> None:
    ids = names(300)
    full_listing = full_listing_along(
        ids, between=lambda ids: ids.insert(0, f"new{len(ids)}") if len(ids) < 320 else None
    )

    assert full_listing.complete
    assert set(names(300)) <= full_listing.ids


def test_a_step_back_is_by_as_much_as_the_page_was_asked_for() -> None:
    full_listing = FullListing()
    full_listing.add_page(response(names(60), 0, 25))
    full_listing.add_page(response(names(60)[20:], 24, 12))

    assert full_listing.offset == 24 - 12 + 1


def test_it_does_not_step_back_beyond_the_beginning() -> None:
    full_listing = FullListing()
    full_listing.add_page(response(names(60), 0, 10))

    full_listing.add_page(response(names(60)[30:], 9, 50))

    assert full_listing.offset == 0


def test_pages_that_show_only_jobs_met_already_are_gone_past() -> None:
    ids, full_listing, offsets = names(1500), FullListing(), []
    while full_listing.offset is not None:
        if full_listing.pages == 10:
            ids[:0] = [f"new{number}" for number in range(250)]
        offsets.append(full_listing.offset)
        full_listing.add_page(response(ids, full_listing.offset))

    assert offsets == list(range(0, 1750, 99))
    assert full_listing.complete
    assert full_listing.ids == set(names(1500))


def test_jobs_shown_beside_the_walk_are_as_good_as_met() -> None:
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


def test_a_seam_that_is_nowhere_any_more_leaves_the_walk_incomplete() -> None:
    ids, full_listing = names(600), FullListing()
    for _ in range(3):
        full_listing.add_page(response(ids, full_listing.offset or 0))

    del ids[297]
    while full_listing.offset is not None:
        full_listing.add_page(response(ids, full_listing.offset))

    assert not full_listing.complete
    assert set(ids) <= full_listing.ids


def test_an_end_that_comes_before_the_seam_did_leaves_the_walk_incomplete() -> None:
    full_listing = FullListing()
    full_listing.add_page(response(names(100), 0))

    full_listing.add_page(response(names(60), 20))

    assert full_listing.ended
    assert not full_listing.complete


def test_steps_back_are_bounded() -> None:
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


def test_jobs_shown_beside_a_walk_are_listed() -> None:
    full_listing = FullListing()
    full_listing.add_page(response(names(150), 0))

    full_listing.add_seen_elsewhere(["beside"])
    while full_listing.offset is not None:
        full_listing.add_page(response(names(150), full_listing.offset))

    assert full_listing.complete
    assert set(full_listing.listing) == {*names(150), "beside"}
    assert full_listing.ids == set(names(150))


def test_jobs_shown_before_a_walk_began_are_none_of_its() -> None:
    full_listing = FullListing()

    full_listing.add_seen_elsewhere(["before"])
    full_listing_along(names(150), full_listing)

    assert set(full_listing.listing) == set(names(150))


def test_jobs_shown_beside_a_walk_count_towards_the_total() -> None:
    full_listing = FullListing()
    full_listing.add_page(JobPage(response(names(150), 0).page, None, 151))

    full_listing.add_seen_elsewhere(["beside"])
    while full_listing.offset is not None:
        full_listing.add_page(JobPage(response(names(150), full_listing.offset).page, None, 151))

    assert full_listing.complete


def test_records_that_cannot_be_read_are_counted_as_the_walk_meets_them() -> None:
    full_listing = FullListing()
    jobs = tuple(Job(job_id, "copy", "running") for job_id in names(97))

    full_listing.add_page(JobPage(Page(jobs, 100, {"no_id": 2, "bad_count": 1}, 99, has_next=True), None, None))
    full_listing.add_page(JobPage(Page(jobs[-1:], 2, {"no_id": 1}, 0, has_next=False), None, None))

    assert full_listing.unreadable == 4
    assert full_listing.pages == 2


def test_pages_overlap_by_the_last_job_that_could_be_read() -> None:
    full_listing = FullListing()
    jobs = tuple(Job(job_id, "copy", "running") for job_id in names(40))

    full_listing.add_page(JobPage(Page(jobs, 100, {"no_id": 60}, 39, has_next=True), None, None))

    assert full_listing.offset == 39


def test_a_page_without_a_job_that_could_be_read_is_gone_past() -> None:
    full_listing = FullListing()

    full_listing.add_page(JobPage(Page((), 100, {"no_id": 100}, -1, has_next=True), None, None))

    assert full_listing.offset == 100


def test_a_record_too_large_to_be_read_is_gone_past() -> None:
    full_listing = FullListing()

    full_listing.add_page(JobPage(too_large(1), None, None, 1))

    assert full_listing.offset == 1
    assert full_listing.unreadable == 1
    assert not full_listing.ended


@pytest.mark.parametrize("limit", [2, 3, 12, 50])
def test_pages_that_were_asked_for_with_fewer_jobs_are_no_end(limit: int) -> None:
    full_listing = FullListing()
    while full_listing.offset is not None:
        full_listing.add_page(response(names(60), full_listing.offset, limit, total=False))

    assert full_listing.complete
    assert full_listing.ids == set(names(60))


def test_pages_may_grow_and_shrink_along_the_way() -> None:
    full_listing = FullListing()
    dice = random.Random(5)  # noqa: S311  # a repeatable choice
    while full_listing.offset is not None:
        full_listing.add_page(response(names(400), full_listing.offset, dice.randint(2, 100)))

    assert full_listing.complete
    assert full_listing.ids == set(names(400))


def test_a_total_larger_than_what_was_seen_leaves_the_walk_incomplete() -> None:
    full_listing = FullListing()
    first = response(names(50), 0, 100)

    full_listing.add_page(JobPage(first.page, None, 80))
    while full_listing.offset is not None:
        full_listing.add_page(JobPage(response(names(50), full_listing.offset).page, None, 80))

    assert full_listing.ended
    assert not full_listing.complete


def test_a_total_that_is_always_larger_is_believed_less_than_the_seams_also_while_jobs_come() -> None:
    full_listing, completed, ids = FullListing(), [], names(50)
    for _ in range(4):
        ids.insert(0, f"new{len(ids)}")
        while full_listing.offset is not None:
            full_listing.add_page(JobPage(response(ids, full_listing.offset).page, None, len(ids) + 1))
        completed.append(full_listing.complete)
        full_listing = full_listing.after()

    assert completed == [False, True, True, True]


def test_a_platform_that_does_not_heed_the_offset_is_given_up_soon() -> None:
    full_listing, pages = FullListing(), 0
    while full_listing.offset is not None:
        full_listing.add_page(response(names(250), 0, 100))
        pages += 1

    assert pages < 20
    assert not full_listing.complete


def test_records_that_cannot_be_read_count_towards_the_total() -> None:
    full_listing = FullListing()
    jobs = tuple(Job(job_id, "copy", "running") for job_id in names(9))

    full_listing.add_page(JobPage(Page(jobs, 10, {"no_id": 1}, 8, has_next=False), None, 10))

    assert full_listing.complete


def test_without_a_stable_order_two_walks_that_find_nothing_new_are_complete() -> None:
    ids = names(250)
    dice = random.Random(5)  # noqa: S311  # a repeatable shuffle
    full_listing, walks = FullListing(), 0
    while True:
        full_listing_along(ids, full_listing, between=dice.shuffle)
        walks += 1
        if full_listing.complete:
            break
        full_listing = full_listing.after()

    assert walks > 2
    assert set(full_listing.listing) == set(ids)


def test_an_order_that_becomes_stable_again_is_trusted_again() -> None:
    ids = names(250)
    dice = random.Random(5)  # noqa: S311  # a repeatable shuffle
    full_listing = full_listing_along(ids, between=dice.shuffle)
    assert not full_listing.complete

    assert full_listing_along(sorted(ids), full_listing.after()).complete


def test_ids_long_gone_are_not_dragged_along_for_ever() -> None:
    full_listing = FullListing()
    for round_number in range(40):
        ids = [f"{round_number}-{n}" for n in range(150)]
        dice = random.Random(round_number)  # noqa: S311  # a repeatable shuffle
        full_listing = full_listing_along(ids, full_listing, between=dice.shuffle).after()

    assert len(set(full_listing.listing)) < 2000


def test_a_next_link_is_read_on_for_although_the_page_is_short() -> None:
    full_listing = FullListing()

    full_listing.add_page(response(names(60), 0, 25, total=False, links=True))

    assert full_listing.offset is not None
    assert full_listing.offset == 24


def test_a_list_without_end_is_given_up() -> None:
    full_listing = FullListing()
    steps = 0
    while full_listing.offset is not None:
        steps += 1
        jobs = (Job(f"a{steps}", "copy", "running"), Job(f"b{steps}", "copy", "running"))
        full_listing.add_page(JobPage(Page(jobs, 2, {}, 1, has_next=True), None, None))

    assert not full_listing.complete


def test_a_walk_that_has_ended_takes_nothing_more() -> None:
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
def test_whatever_comes_and_goes_a_complete_walk_missed_no_job_that_was_there_all_the_while(
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


def test_a_page_that_shows_only_jobs_not_met_yet_is_stepped_back_from_until_one_is_known() -> None:
    ids, full_listing, offsets = names(800), FullListing(), []
    while full_listing.offset is not None:
        if full_listing.pages == 4:
            del ids[:350]
        offsets.append(full_listing.offset)
        full_listing.add_page(response(ids, full_listing.offset))

    assert offsets[:9] == [0, 99, 198, 297, 396, 297, 198, 99, 0]
    assert full_listing.complete


def test_walks_that_were_given_up_never_are_complete() -> None:
    full_listing, completed = FullListing(), []
    for _ in range(4):
        while full_listing.offset is not None:
            full_listing.add_page(response(names(250), 0))
        completed.append(full_listing.complete)
        full_listing = full_listing.after()

    assert completed == [False] * 4


def test_pages_of_one_job_are_read_along() -> None:
    full_listing, limits = FullListing(), iter([100, *[1] * 40])
    while full_listing.offset is not None:
        full_listing.add_page(response(names(250), full_listing.offset, next(limits, 100)))

    assert full_listing.ids == set(names(250))

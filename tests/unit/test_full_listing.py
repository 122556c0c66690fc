"""Walking along a list that moves."""

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.api.client import ListAnswer
from exporter.api.decoding import Page, too_large
from exporter.api.models import Job
from exporter.polling.full_listing import Walk

NOTHING: Callable[[list[str]], None] = lambda _: None  # noqa: E731  # a default among functions


def answer(ids: list[str], offset: int, limit: int = 100, *, total: bool = True, links: bool = False) -> ListAnswer:
    """What the platform would answer of *ids*."""
    part = ids[offset : offset + limit]
    jobs = tuple(Job(job_id, "copy", "running") for job_id in part)
    page = Page(jobs, len(part), {}, len(part) - 1, has_next=links and offset + limit < len(ids))
    return ListAnswer(page, None, len(ids) if total else None, limit)


def walk_along(
    ids: list[str], walk: Walk | None = None, *, between: Callable[[list[str]], None] = NOTHING, total: bool = True
) -> Walk:
    """A whole walk; *between* changes the list between two pages."""
    walk = walk or Walk()
    while walk.offset is not None:
        walk.take(answer(ids, walk.offset, total=total))
        between(ids)
    return walk


def names(number: int) -> list[str]:
    return [f"j{n:05d}" for n in range(number)]


@pytest.mark.parametrize("total", [True, False])
@pytest.mark.parametrize("number", [0, 1, 2, 99, 100, 101, 198, 199, 200, 201, 1000])
def test_a_list_at_rest_is_read_whole_in_one_walk(number: int, total: bool) -> None:  # noqa: FBT001  # a table's column
    walk = walk_along(names(number), total=total)

    assert walk.complete
    assert walk.ids == set(names(number))


def test_pages_overlap_by_one_job() -> None:
    offsets = []
    walk = Walk()
    while walk.offset is not None:
        offsets.append(walk.offset)
        walk.take(answer(names(250), walk.offset))

    assert offsets == [0, 99, 198]


def test_a_small_list_costs_one_request() -> None:
    walk = Walk()

    walk.take(answer(names(99), 0, 100))

    assert walk.complete


def test_jobs_that_leave_while_it_is_read_are_stepped_back_for() -> None:
    ids = names(300)

    def leave(ids: list[str]) -> None:
        if len(ids) == 300:
            del ids[:40]

    walk = walk_along(ids, between=leave)

    assert walk.complete
    assert set(names(300)[40:]) <= walk.ids


def test_jobs_that_come_while_it_is_read_lose_none() -> None:
    ids = names(300)
    walk = walk_along(ids, between=lambda ids: ids.insert(0, f"new{len(ids)}") if len(ids) < 320 else None)

    assert walk.complete
    assert set(names(300)) <= walk.ids


def test_a_step_back_is_by_as_much_as_the_page_was_asked_for() -> None:
    walk = Walk()
    walk.take(answer(names(60), 0, 25))
    walk.take(answer(names(60)[20:], 24, 12))

    assert walk.offset == 24 - 12 + 1


def test_it_does_not_step_back_beyond_the_beginning() -> None:
    walk = Walk()
    walk.take(answer(names(60), 0, 10))

    walk.take(answer(names(60)[30:], 9, 50))

    assert walk.offset == 0


def test_pages_that_show_only_jobs_met_already_are_gone_past() -> None:
    ids, walk, offsets = names(1500), Walk(), []
    while walk.offset is not None:
        if walk.pages == 10:
            ids[:0] = [f"new{number}" for number in range(250)]
        offsets.append(walk.offset)
        walk.take(answer(ids, walk.offset))

    assert offsets == list(range(0, 1750, 99))
    assert walk.complete
    assert walk.ids == set(names(1500))


def test_jobs_shown_beside_the_walk_are_as_good_as_met() -> None:
    ids, walk = names(300), Walk()
    walk.take(answer(ids, 0))
    walk.take(answer(ids, 99))
    new = [f"new{number}" for number in range(150)]
    ids[:0] = new

    walk.seen_beside(new)
    while walk.offset is not None:
        walk.take(answer(ids, walk.offset))

    assert walk.complete
    assert set(walk.listing) == set(ids)


def test_a_seam_that_is_nowhere_any_more_leaves_the_walk_incomplete() -> None:
    ids, walk = names(600), Walk()
    for _ in range(3):
        walk.take(answer(ids, walk.offset or 0))

    del ids[297]
    while walk.offset is not None:
        walk.take(answer(ids, walk.offset))

    assert not walk.complete
    assert set(ids) <= walk.ids


def test_an_end_that_comes_before_the_seam_did_leaves_the_walk_incomplete() -> None:
    walk = Walk()
    walk.take(answer(names(100), 0))

    walk.take(answer(names(60), 20))

    assert walk.ended
    assert not walk.complete


def test_steps_back_are_bounded() -> None:
    walk = Walk()
    offsets: list[int] = []
    while walk.offset is not None and len(offsets) < 100:
        offsets.append(walk.offset)
        ids = [f"{len(offsets)}-{number}" for number in range(5000)]
        walk.take(answer(ids, walk.offset))

    back = [later < earlier for earlier, later in pairwise(offsets)]
    assert True in back
    assert False in back[1:]
    assert not walk.complete


def test_jobs_shown_beside_a_walk_are_listed() -> None:
    walk = Walk()
    walk.take(answer(names(150), 0))

    walk.seen_beside(["beside"])
    while walk.offset is not None:
        walk.take(answer(names(150), walk.offset))

    assert walk.complete
    assert set(walk.listing) == {*names(150), "beside"}
    assert walk.ids == set(names(150))


def test_jobs_shown_before_a_walk_began_are_none_of_its() -> None:
    walk = Walk()

    walk.seen_beside(["before"])
    walk_along(names(150), walk)

    assert set(walk.listing) == set(names(150))


def test_jobs_shown_beside_a_walk_count_towards_the_total() -> None:
    walk = Walk()
    walk.take(ListAnswer(answer(names(150), 0).page, None, 151))

    walk.seen_beside(["beside"])
    while walk.offset is not None:
        walk.take(ListAnswer(answer(names(150), walk.offset).page, None, 151))

    assert walk.complete


def test_records_that_cannot_be_read_are_counted_as_the_walk_meets_them() -> None:
    walk = Walk()
    jobs = tuple(Job(job_id, "copy", "running") for job_id in names(97))

    walk.take(ListAnswer(Page(jobs, 100, {"no_id": 2, "bad_count": 1}, 99, has_next=True), None, None))
    walk.take(ListAnswer(Page(jobs[-1:], 2, {"no_id": 1}, 0, has_next=False), None, None))

    assert walk.unreadable == 4
    assert walk.pages == 2


def test_pages_overlap_by_the_last_job_that_could_be_read() -> None:
    walk = Walk()
    jobs = tuple(Job(job_id, "copy", "running") for job_id in names(40))

    walk.take(ListAnswer(Page(jobs, 100, {"no_id": 60}, 39, has_next=True), None, None))

    assert walk.offset == 39


def test_a_page_without_a_job_that_could_be_read_is_gone_past() -> None:
    walk = Walk()

    walk.take(ListAnswer(Page((), 100, {"no_id": 100}, -1, has_next=True), None, None))

    assert walk.offset == 100


def test_a_record_too_large_to_be_read_is_gone_past() -> None:
    walk = Walk()

    walk.take(ListAnswer(too_large(1), None, None, 1))

    assert walk.offset == 1
    assert walk.unreadable == 1
    assert not walk.ended


@pytest.mark.parametrize("limit", [2, 3, 12, 50])
def test_pages_that_were_asked_for_with_fewer_jobs_are_no_end(limit: int) -> None:
    walk = Walk()
    while walk.offset is not None:
        walk.take(answer(names(60), walk.offset, limit, total=False))

    assert walk.complete
    assert walk.ids == set(names(60))


def test_pages_may_grow_and_shrink_along_the_way() -> None:
    walk = Walk()
    dice = random.Random(5)  # noqa: S311  # a repeatable choice
    while walk.offset is not None:
        walk.take(answer(names(400), walk.offset, dice.randint(2, 100)))

    assert walk.complete
    assert walk.ids == set(names(400))


def test_a_total_larger_than_what_was_seen_leaves_the_walk_incomplete() -> None:
    walk = Walk()
    first = answer(names(50), 0, 100)

    walk.take(ListAnswer(first.page, None, 80))
    while walk.offset is not None:
        walk.take(ListAnswer(answer(names(50), walk.offset).page, None, 80))

    assert walk.ended
    assert not walk.complete


def test_a_total_that_is_always_larger_is_believed_less_than_the_seams_also_while_jobs_come() -> None:
    walk, completed, ids = Walk(), [], names(50)
    for _ in range(4):
        ids.insert(0, f"new{len(ids)}")
        while walk.offset is not None:
            walk.take(ListAnswer(answer(ids, walk.offset).page, None, len(ids) + 1))
        completed.append(walk.complete)
        walk = walk.after()

    assert completed == [False, True, True, True]


def test_a_platform_that_does_not_heed_the_offset_is_given_up_soon() -> None:
    walk, pages = Walk(), 0
    while walk.offset is not None:
        walk.take(answer(names(250), 0, 100))
        pages += 1

    assert pages < 20
    assert not walk.complete


def test_records_that_cannot_be_read_count_towards_the_total() -> None:
    walk = Walk()
    jobs = tuple(Job(job_id, "copy", "running") for job_id in names(9))

    walk.take(ListAnswer(Page(jobs, 10, {"no_id": 1}, 8, has_next=False), None, 10))

    assert walk.complete


def test_without_a_stable_order_two_walks_that_find_nothing_new_are_complete() -> None:
    ids = names(250)
    dice = random.Random(5)  # noqa: S311  # a repeatable shuffle
    walk, walks = Walk(), 0
    while True:
        walk_along(ids, walk, between=dice.shuffle)
        walks += 1
        if walk.complete:
            break
        walk = walk.after()

    assert walks > 2
    assert set(walk.listing) == set(ids)


def test_an_order_that_becomes_stable_again_is_trusted_again() -> None:
    ids = names(250)
    dice = random.Random(5)  # noqa: S311  # a repeatable shuffle
    walk = walk_along(ids, between=dice.shuffle)
    assert not walk.complete

    assert walk_along(sorted(ids), walk.after()).complete


def test_ids_long_gone_are_not_dragged_along_for_ever() -> None:
    walk = Walk()
    for round_number in range(40):
        ids = [f"{round_number}-{n}" for n in range(150)]
        dice = random.Random(round_number)  # noqa: S311  # a repeatable shuffle
        walk = walk_along(ids, walk, between=dice.shuffle).after()

    assert len(set(walk.listing)) < 2000


def test_a_next_link_is_read_on_for_although_the_page_is_short() -> None:
    walk = Walk()

    walk.take(answer(names(60), 0, 25, total=False, links=True))

    assert walk.offset is not None
    assert walk.offset == 24


def test_a_list_without_end_is_given_up() -> None:
    walk = Walk()
    steps = 0
    while walk.offset is not None:
        steps += 1
        jobs = (Job(f"a{steps}", "copy", "running"), Job(f"b{steps}", "copy", "running"))
        walk.take(ListAnswer(Page(jobs, 2, {}, 1, has_next=True), None, None))

    assert not walk.complete


def test_a_walk_that_has_ended_takes_nothing_more() -> None:
    walk = walk_along(names(3))

    walk.take(answer(names(9), 0, 100))

    assert walk.ids == set(names(3))


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

    walk = walk_along(ids, between=move, total=total)

    assert walk.ended
    if walk.complete:
        assert there <= walk.ids


def test_a_page_that_shows_only_jobs_not_met_yet_is_stepped_back_from_until_one_is_known() -> None:
    ids, walk, offsets = names(800), Walk(), []
    while walk.offset is not None:
        if walk.pages == 4:
            del ids[:350]
        offsets.append(walk.offset)
        walk.take(answer(ids, walk.offset))

    assert offsets[:9] == [0, 99, 198, 297, 396, 297, 198, 99, 0]
    assert walk.complete


def test_walks_that_were_given_up_never_are_complete() -> None:
    walk, completed = Walk(), []
    for _ in range(4):
        while walk.offset is not None:
            walk.take(answer(names(250), 0))
        completed.append(walk.complete)
        walk = walk.after()

    assert completed == [False] * 4


def test_pages_of_one_job_are_read_along() -> None:
    walk, limits = Walk(), iter([100, *[1] * 40])
    while walk.offset is not None:
        walk.take(answer(names(250), walk.offset, next(limits, 100)))

    assert walk.ids == set(names(250))

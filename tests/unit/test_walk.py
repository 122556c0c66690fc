"""Walking along a list that moves."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.platform.client import ListAnswer
from exporter.platform.jobs import Job
from exporter.platform.wire import Page
from exporter.polling.walk import Walk

NOTHING: Callable[[list[str]], None] = lambda _: None  # noqa: E731  # a default among functions


def answer(ids: list[str], offset: int, limit: int = 100, *, total: bool = True, links: bool = False) -> ListAnswer:
    """What the platform would answer of *ids*."""
    part = ids[offset : offset + limit]
    jobs = tuple(Job(job_id, "copy", "running") for job_id in part)
    page = Page(jobs, len(part), {}, len(part) - 1, has_next=links and offset + limit < len(ids))
    return ListAnswer(page, None, len(ids) if total else None)


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

"""The exporter never takes more of a user's rate limit than its share, and yields to the user's own scripts."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.api.allowance import (
    DEFAULT_LIMIT,
    WINDOW_SECONDS,
    Allowance,
    AllowanceKey,
    AllowancePool,
    SavedAllowance,
    seconds_until_reset,
)
from exporter.api.models import Priority, RateLimit

DATE = 1_550_664_230.0
NOTHING = RateLimit(None, None, None)


def taken(
    allowance: Allowance, now: float, most: int = 2 * DEFAULT_LIMIT, priority: Priority = Priority.DISCOVERY
) -> int:
    """How many requests may be made at *now*, all at once."""
    for number in range(most):
        if allowance.take(now, priority) > 0:
            return number
    return most


def told(limit: int | None, reset: float | None, remaining: int | None = 500) -> RateLimit:
    return RateLimit(limit, remaining, reset)


# ---- when the window ends ----


@pytest.mark.parametrize("reset_in", [0, 0.5, 1, 299, 300])
def test_wait_is_reset_minus_date_plus_a_second_for_rounding(reset_in: float) -> None:
    assert seconds_until_reset(told(1000, DATE + reset_in), DATE) == reset_in + 1


@pytest.mark.parametrize(
    ("reset", "date"),
    [
        pytest.param(None, DATE, id="reset absent"),
        pytest.param(DATE + 7, None, id="date absent"),
        pytest.param(DATE - 3600, DATE, id="reset past"),
        pytest.param(DATE + 301, DATE, id="reset beyond a window"),
        pytest.param(1e15, DATE, id="reset absurd"),
    ],
)
def test_a_reset_that_is_absent_or_absurd_means_a_whole_window(reset: float | None, date: float | None) -> None:
    assert seconds_until_reset(told(1000, reset), date) == WINDOW_SECONDS


# ---- the share ----


def test_documented_limit_applies_until_the_platform_reports_one() -> None:
    allowance = Allowance(0.25)

    assert allowance.requests == 250
    assert allowance.known == NOTHING
    assert taken(allowance, 0.0) == 250
    assert allowance.used == 250


@pytest.mark.parametrize(("limit", "requests"), [(100, 25), (1000, 250), (1001, 250), (40_000, 10_000), (3, 1), (1, 1)])
def test_share_is_of_the_reported_limit_and_at_least_one(limit: int, requests: int) -> None:
    allowance = Allowance(0.25)

    allowance.learn(told(limit, DATE + 100), DATE, 0.0)

    assert allowance.requests == requests
    assert allowance.known == told(limit, DATE + 100)


@pytest.mark.parametrize("limit", [None, 0, -1])
def test_no_limit_counts_as_the_documented_one(limit: int | None) -> None:
    allowance = Allowance(0.25)

    allowance.learn(told(limit, DATE + 100, remaining=987654342), DATE, 0.0)

    assert allowance.requests == DEFAULT_LIMIT // 4


def test_a_limit_that_falls_takes_effect_within_the_window() -> None:
    allowance = Allowance(0.25)
    assert taken(allowance, 0.0, most=30) == 30

    allowance.learn(told(100, DATE + 100), DATE, 0.0)

    assert allowance.take(1.0) == 100.0


def test_an_answer_without_rate_headers_changes_nothing() -> None:
    allowance = Allowance(0.25)
    allowance.learn(told(100, DATE + 100), DATE, 0.0)

    allowance.learn(NOTHING, DATE, 50.0)

    assert allowance.known == told(100, DATE + 100)
    assert taken(allowance, 99.0) == 25
    assert allowance.take(99.0) == 2.0


# ---- the window ----


def test_used_up_allowance_returns_the_wait_until_it_is_full_again() -> None:
    allowance = Allowance(0.01)
    assert taken(allowance, 1000.0) == 10

    assert allowance.take(1100.0) == 200.0
    assert allowance.used == 10
    assert taken(allowance, 1300.0) == 10


def test_the_window_is_the_platforms_whatever_the_local_clock_shows() -> None:
    allowance = Allowance(0.01)
    assert taken(allowance, 1000.0) == 10

    allowance.learn(told(1000, DATE + 20), DATE, 1000.0)

    assert allowance.take(1020.0) == 1.0
    assert taken(allowance, 1021.0) == 10


@pytest.mark.parametrize("reset", [DATE - 5, DATE + 3600, 1e15])
def test_implausible_resets_do_not_extend_the_window(reset: float) -> None:
    allowance = Allowance(0.01)
    for now in range(1000, 1300, 30):
        assert allowance.take(now) == 0.0
        allowance.learn(told(1000, reset), DATE, now)
    assert allowance.take(1299.0) == 1.0

    assert taken(allowance, 1300.0) == 10


# ---- silence ----


def test_after_a_429_nothing_is_asked_until_the_platforms_window_ends() -> None:
    allowance = Allowance(0.25)

    allowance.pause_for(40.0, 1000.0)

    assert allowance.take(1000.0) == 40.0
    assert allowance.take(1039.0) == 1.0
    assert allowance.used == 0
    assert allowance.take(1040.0) == 0.0


def test_a_shorter_silence_does_not_end_a_longer_one() -> None:
    allowance = Allowance(0.25)
    allowance.pause_for(40.0, 1000.0)

    allowance.pause_for(5.0, 1010.0)

    assert allowance.take(1016.0) == 24.0


# ---- a new window, before it was due by our reckoning ----


def at_the_edge(remaining: int | None = 10) -> Allowance:
    """Twenty requests made of 25, with a window that is to end at 5.0."""
    allowance = Allowance(0.25)
    assert taken(allowance, 0.0, most=20) == 20
    allowance.learn(told(100, DATE + 4, remaining), DATE, 0.0)
    return allowance


def test_later_reset_with_more_remaining_begins_a_window_with_one_request() -> None:
    allowance = at_the_edge()

    allowance.learn(told(100, DATE + 299, remaining=99), DATE, 4.5)

    assert allowance.used == 1
    assert allowance.take(10.0) == 0.0


@pytest.mark.parametrize(
    ("before", "reset_in", "remaining"),
    [
        pytest.param(10, 299, 10, id="no more remaining"),
        pytest.param(10, 299, None, id="remaining absent"),
        pytest.param(None, 299, 99, id="remaining absent before"),
        pytest.param(10, 4, 99, id="a reset that is later by rounding alone"),
        pytest.param(10, 301, 99, id="reset absurd"),
        pytest.param(10, -1, 99, id="reset past"),
    ],
)
def test_other_later_resets_keep_the_window_and_its_requests(
    before: int | None, reset_in: float, remaining: int | None
) -> None:
    allowance = at_the_edge(before)

    allowance.learn(told(100, DATE + reset_in, remaining), DATE, 2.0)

    assert allowance.used == 20


def test_background_requests_start_at_zero_in_a_new_window() -> None:
    allowance = Allowance(0.2)
    assert taken(allowance, 0.0, priority=Priority.BACKGROUND) == 100
    allowance.learn(told(1000, DATE + 4, remaining=900), DATE, 0.0)

    allowance.learn(told(1000, DATE + 299, remaining=999), DATE, 4.5)

    assert taken(allowance, 6.0, priority=Priority.BACKGROUND) == 100


def test_a_window_is_as_long_as_the_longest_reset_was_away() -> None:
    allowance = Allowance(0.25)
    assert allowance.window == WINDOW_SECONDS

    for reset_in in (40, 60, 20):
        allowance.learn(told(100, DATE + reset_in), DATE, 0.0)

    assert allowance.window == 60


# ---- yielding to others ----


def after_others(remaining: int | None, *, share: float = 0.25, used: int = 1, limit: int | None = 1000) -> Allowance:
    """*used* requests made, after which the platform says that so many remain, until 301.0."""
    allowance = Allowance(share)
    assert taken(allowance, 0.0, most=used) == used
    allowance.learn(told(limit, DATE + 300, remaining), DATE, 0.0)
    return allowance


@pytest.mark.parametrize("priority", Priority)
def test_all_priorities_are_allowed_while_others_leave_over_a_fifth(priority: Priority) -> None:
    assert after_others(202).take(1.0, priority) == 0.0


def test_only_discovery_is_allowed_when_others_leave_a_fifth() -> None:
    allowance = after_others(200)

    assert [allowance.take(1.0, priority) for priority in Priority] == [0.0, 300.0, 300.0]


def test_discovery_is_allowed_while_others_leave_over_a_twentieth() -> None:
    assert after_others(51).take(1.0) == 0.0


@pytest.mark.parametrize("remaining", [50, -3])
@pytest.mark.parametrize("priority", Priority)
def test_nothing_is_allowed_when_others_leave_a_twentieth(priority: Priority, remaining: int) -> None:
    assert after_others(remaining).take(1.0, priority) == 300.0


def test_requests_since_the_last_answer_count_as_made() -> None:
    allowance = after_others(203)

    assert taken(allowance, 1.0, most=3, priority=Priority.REFRESH) == 3
    assert allowance.take(1.0, Priority.REFRESH) == 300.0


def test_each_window_allows_one_request_that_shows_what_others_leave() -> None:
    allowance = after_others(10)

    assert allowance.take(301.0) == 0.0
    allowance.learn(told(1000, DATE + 300, remaining=10), DATE, 301.0)

    assert allowance.take(302.0) == 300.0


def test_what_the_exporter_used_itself_is_not_what_others_used() -> None:
    allowance = after_others(20, share=1.0, used=980)

    assert [allowance.take(1.0, priority) for priority in (Priority.DISCOVERY, Priority.BACKGROUND)] == [0.0, 0.0]


def test_one_request_of_others_is_enough_to_yield() -> None:
    assert after_others(20, share=1.0, used=979).take(1.0) == 300.0


@pytest.mark.parametrize("limit", [None, 0, -1])
def test_a_platform_without_a_limit_leaves_enough(limit: int | None) -> None:
    assert after_others(3, limit=limit).take(1.0, Priority.BACKGROUND) == 0.0


def test_exporter_does_not_yield_without_a_remaining_header() -> None:
    assert after_others(None).take(1.0, Priority.BACKGROUND) == 0.0


# ---- slices, and single jobs ----


@pytest.mark.parametrize(("share", "slices"), [(0.25, 125), (0.251, 125), (0.003, 1), (0.002, 1), (0.001, 1)])
def test_background_gets_at_most_half(share: float, slices: int) -> None:
    assert taken(Allowance(share), 0.0, priority=Priority.BACKGROUND) == slices


def test_discovery_gets_what_background_leaves() -> None:
    allowance = Allowance(0.25)
    taken(allowance, 0.0, priority=Priority.BACKGROUND)

    assert taken(allowance, 0.0) == 125


def test_background_gets_what_discovery_leaves() -> None:
    allowance = Allowance(0.25)
    taken(allowance, 0.0, most=200)

    assert taken(allowance, 0.0, priority=Priority.BACKGROUND) == 50


def test_background_leaves_what_others_used_in_the_previous_window() -> None:
    allowance = Allowance(0.25)
    taken(allowance, 0.0, most=200)

    assert taken(allowance, 300.0, priority=Priority.BACKGROUND) == 25
    assert taken(allowance, 300.0) == 225


def test_background_leaves_a_quarter_more_than_discovery_used_before() -> None:
    allowance = Allowance(0.25)
    taken(allowance, 0.0, most=140)

    assert taken(allowance, 300.0, priority=Priority.BACKGROUND) == 250 - 175


def test_requests_already_used_by_discovery_are_not_reserved_again() -> None:
    allowance = Allowance(0.25)
    taken(allowance, 0.0, most=150)
    taken(allowance, 300.0, most=140)

    assert taken(allowance, 300.0, priority=Priority.BACKGROUND) == 250 - 188


def test_background_requests_of_the_previous_window_are_not_reserved() -> None:
    allowance = Allowance(0.25)
    taken(allowance, 0.0, priority=Priority.BACKGROUND)

    assert taken(allowance, 300.0, priority=Priority.BACKGROUND) == 125


def test_requests_of_two_windows_ago_are_not_reserved() -> None:
    allowance = Allowance(0.25)
    taken(allowance, 0.0, most=200)
    taken(allowance, 300.0, most=1)

    assert taken(allowance, 600.0, priority=Priority.BACKGROUND) == 125


def test_allowance_of_one_is_for_discovery_if_it_was_before() -> None:
    allowance = Allowance(0.001)
    taken(allowance, 0.0)

    assert allowance.take(300.0, Priority.BACKGROUND) == 300.0
    assert allowance.take(300.0) == 0.0


def test_refresh_leaves_a_tenth_to_background() -> None:
    allowance = Allowance(0.25)

    assert taken(allowance, 0.0, priority=Priority.REFRESH) == 225
    assert taken(allowance, 0.0, priority=Priority.BACKGROUND) == 25


def test_discovery_may_use_that_tenth() -> None:
    allowance = Allowance(0.25)
    taken(allowance, 0.0, priority=Priority.REFRESH)

    assert taken(allowance, 0.0) == 25


def test_a_refused_request_is_not_counted() -> None:
    allowance = Allowance(0.25)
    taken(allowance, 0.0, priority=Priority.BACKGROUND)

    for _ in range(9):
        allowance.take(0.0, Priority.BACKGROUND)

    assert allowance.used == 125


# ---- how much a poll may ask ----


@pytest.mark.parametrize(
    ("interval", "look", "used", "budget"),
    [
        pytest.param(30.0, 1, 0, 21, id="ten polls of a window, one page each"),
        pytest.param(30.0, 6, 0, 16, id="six pages each"),
        pytest.param(30.0, 1, 100, 11, id="after a hundred requests"),
        pytest.param(300.0, 1, 0, 224, id="one poll of a window"),
        pytest.param(3600.0, 1, 0, 224, id="less than one poll of a window"),
        pytest.param(30.0, 22, 0, 0.5, id="less than one"),
        pytest.param(30.0, 23, 0, 0, id="none when a poll could not look any more"),
        pytest.param(30.0, 1, 215, 0, id="none with the rest for looking alone"),
        pytest.param(30.0, 1, 214, 0.1, id="one for all polls with a little more than that"),
    ],
)
def test_budget_divides_the_window_equally_among_its_polls(
    interval: float, look: int, used: int, budget: float
) -> None:
    allowance = Allowance(0.25)
    taken(allowance, 0.0, most=used)

    assert allowance.budget(0.0, interval, look) == budget


def test_the_polls_of_all_accounts_share_the_budget() -> None:
    allowance = Allowance(0.25)
    for name in ("a", "b", "b"):
        allowance.add_account(name, 0.25)

    assert allowance.accounts == 2
    assert allowance.budget(0.0, 30.0, 1) == 10


def test_the_budget_is_for_what_is_left_of_the_window() -> None:
    allowance = Allowance(0.25)
    taken(allowance, 0.0, most=100)

    assert allowance.budget(270.0, 30.0, 1) == 124
    assert allowance.budget(300.0, 30.0, 1) == 21


def test_the_budget_heeds_others() -> None:
    assert after_others(200).budget(1.0, 30.0, 1) == 0


def test_polls_are_so_far_apart_that_the_share_suffices() -> None:
    allowance = Allowance(0.25)
    assert allowance.accounts == 1
    assert allowance.min_interval(250) == 300.0

    allowance.add_account("a", 0.25)
    allowance.add_account("b", 0.25)
    allowance.learn(told(1000, DATE + 60), DATE, 0.0)

    assert allowance.min_interval(250) == 120.0


# ---- before it is known whose it is ----


def test_requests_sent_before_the_user_is_known_are_counted() -> None:
    own, provisional = Allowance(0.25), Allowance(0.25)
    taken(own, 0.0, most=40)
    taken(provisional, 0.0, most=3)

    own.merge(provisional, 1.0)

    assert (own.used, provisional.used) == (43, 0)
    assert taken(own, 1.0) == 207


def test_merged_requests_are_counted_once() -> None:
    own, provisional = Allowance(0.25), Allowance(0.25)
    taken(provisional, 0.0, most=3)

    own.merge(provisional, 1.0)
    own.merge(provisional, 2.0)

    assert own.used == 3


def test_merged_rate_limit_is_used() -> None:
    own, provisional = Allowance(0.25), Allowance(0.25)
    taken(provisional, 0.0, most=1)
    provisional.learn(told(40, DATE + 60, remaining=39), DATE, 0.0)

    own.merge(provisional, 1.0)

    assert own.known == told(40, DATE + 60, remaining=39)
    assert own.window == 60
    assert taken(own, 1.0) == 9
    assert own.take(1.0) == 60.0


def test_merged_remaining_requests_are_respected() -> None:
    own = Allowance(0.25)

    own.merge(after_others(10), 1.0)

    assert own.take(1.0) == 300.0


def test_merge_without_rate_limit_keeps_the_known_one() -> None:
    own, provisional = Allowance(0.25), Allowance(0.25)
    own.learn(told(40, DATE + 60, remaining=40), DATE, 0.0)
    taken(provisional, 0.0, most=1)

    own.merge(provisional, 1.0)

    assert own.known == told(40, DATE + 60, remaining=40)
    assert taken(own, 1.0) == 9
    assert own.take(1.0) == 60.0


def test_merged_pause_continues() -> None:
    own, provisional = Allowance(0.25), Allowance(0.25)
    provisional.pause_for(40.0, 0.0)

    own.merge(provisional, 1.0)

    assert own.take(1.0) == 39.0


def test_merge_does_not_end_a_pause() -> None:
    own, provisional = Allowance(0.25), Allowance(0.25)
    own.pause_for(40.0, 0.0)

    own.merge(provisional, 1.0)

    assert own.take(1.0) == 39.0


def test_merge_drops_requests_of_a_window_that_has_ended() -> None:
    own, provisional = Allowance(0.25), Allowance(0.25)
    taken(own, 0.0, most=40)
    taken(provisional, 400.0, most=3)

    own.merge(provisional, 400.0)

    assert own.used == 3


# ---- whose it is ----

LAB, OTHER, ENTRY = (
    AllowanceKey("https://p/v2", "lab"),
    AllowanceKey("https://p/v2", "other"),
    AllowanceKey("https://p/v2", "", "a"),
)


def test_there_is_one_allowance_of_a_user() -> None:
    allowances = AllowancePool(0.25)

    assert allowances.of(LAB, 0.0) is allowances.of(AllowanceKey("https://p/v2", "lab"), 9.0)


@pytest.mark.parametrize(
    "key", [OTHER, ENTRY, AllowanceKey("https://q/v2", "lab"), AllowanceKey("https://p/v2", "", "b")], ids=str
)
def test_others_have_their_own(key: AllowanceKey) -> None:
    allowances = AllowancePool(0.01)
    taken(allowances.of(LAB, 0.0), 0.0)

    assert taken(allowances.of(key, 0.0), 0.0) == 10


def test_each_allowance_continues_from_its_saved_state() -> None:
    saved = {LAB: SavedAllowance(400, 30, 20, 60.0, 0.0), OTHER: SavedAllowance(None, 1, 0, 60.0, 0.0)}
    allowances = AllowancePool(0.25, saved=saved.get)

    assert [allowances.of(key, 7.0).used for key in (LAB, OTHER, ENTRY)] == [30, 1, 0]


def test_the_smallest_share_of_a_users_accounts_applies() -> None:
    allowances = AllowancePool(0.25, {"a": 0.5, "b": 0.1})
    own = allowances.of(ENTRY, 0.0)

    shared = allowances.join(LAB, "a", 0.0)
    alone = shared.requests
    for account in ("b", "c"):
        assert allowances.join(LAB, account, 0.0) is shared

    assert (own.requests, alone, shared.requests) == (500, 500, 100)
    allowances.remove_account("b")
    assert shared.requests == 250, "that of c, which has none of its own"


def test_changed_shares_apply_at_once_to_their_accounts_only() -> None:
    allowances = AllowancePool(0.25, {"a": 0.5})
    lab, other, own = allowances.join(LAB, "a", 0.0), allowances.join(OTHER, "b", 0.0), allowances.of(ENTRY, 0.0)

    allowances.use_shares(0.25, {"a": 0.4})
    assert (lab.requests, other.requests, own.requests) == (400, 250, 400)
    allowances.use_shares(0.3, {})
    assert (lab.requests, other.requests, own.requests) == (300, 300, 300)


def test_saved_state_is_loaded_once() -> None:
    asked: list[AllowanceKey] = []
    allowances = AllowancePool(0.25, saved=asked.append)

    for _ in range(3):
        allowances.of(LAB, 0.0)

    assert asked == [LAB]


def test_each_allowance_is_saved_under_its_key() -> None:
    saved: dict[AllowanceKey, SavedAllowance] = {}
    allowances = AllowancePool(0.25, save=saved.__setitem__)
    allowances.of(ENTRY, 0.0)

    taken(allowances.of(LAB, 0.0), 0.0, most=2)
    taken(allowances.of(OTHER, 0.0), 0.0, most=1)

    assert {key: each.used for key, each in saved.items()} == {LAB: 2, OTHER: 1}


def test_merge_saves_both_allowances() -> None:
    saved: dict[AllowanceKey, SavedAllowance] = {}
    allowances = AllowancePool(0.25, save=saved.__setitem__)
    taken(allowances.of(ENTRY, 0.0), 0.0, most=3)

    allowances.of(LAB, 0.0).merge(allowances.of(ENTRY, 0.0), 1.0)

    assert {key: each.used for key, each in saved.items()} == {LAB: 3, ENTRY: 0}


# ---- what outlives the process ----


def test_every_request_is_kept_before_it_is_made() -> None:
    saved: list[SavedAllowance] = []
    allowance = Allowance(0.25, save=saved.append)

    allowance.take(1000.0)
    allowance.take(1010.0, Priority.BACKGROUND)

    assert saved == [SavedAllowance(None, 1, 0, 300.0, 0.0), SavedAllowance(None, 2, 1, 290.0, 0.0)]


def test_pause_is_saved() -> None:
    saved: list[SavedAllowance] = []

    Allowance(0.25, save=saved.append).pause_for(40.0, 1000.0)

    assert saved == [SavedAllowance(None, 0, 0, 0.0, 40.0)]


def test_a_refused_request_changes_nothing_that_is_kept() -> None:
    saved: list[SavedAllowance] = []
    allowance = Allowance(0.001, save=saved.append)

    taken(allowance, 0.0)
    taken(allowance, 1.0)

    assert len(saved) == 1


def resumed(saved: SavedAllowance) -> Allowance:
    return Allowance(0.25, saved=saved, now=1000.0)


def test_another_process_goes_on_in_the_same_window() -> None:
    allowance = resumed(SavedAllowance(400, 30, 20, 60.0, 0.0))

    assert allowance.requests == 100
    assert taken(allowance, 1000.0) == 70
    assert allowance.take(1000.0) == 60.0
    assert taken(allowance, 1060.0) == 100


def test_another_process_continues_the_background_count() -> None:
    assert taken(resumed(SavedAllowance(400, 30, 20, 60.0, 0.0)), 1000.0, priority=Priority.BACKGROUND) == 30


def test_a_window_that_has_ended_meanwhile_is_over() -> None:
    allowance = resumed(SavedAllowance(400, 100, 20, -1.0, 0.0))

    assert taken(allowance, 1000.0) == 100
    assert allowance.take(1000.0) == WINDOW_SECONDS


def test_restored_window_is_limited_if_the_clock_was_set_back() -> None:
    assert resumed(SavedAllowance(400, 100, 0, 1e9, 0.0)).take(1000.0) == WINDOW_SECONDS


def test_another_process_continues_the_pause() -> None:
    allowance = resumed(SavedAllowance(None, 0, 0, 0.0, 40.0))

    assert allowance.take(1000.0) == 40.0
    assert allowance.take(1040.0) == 0.0


def test_another_process_does_not_know_what_others_left() -> None:
    assert resumed(SavedAllowance(100, 1, 0, 60.0, 0.0)).known == NOTHING


# ---- whatever is asked ----

pauses = st.floats(0, 200) | st.just(0.0)


@given(
    share=st.floats(0.001, 1),
    limit=st.integers(1, 300),
    phase=st.floats(0, 300),
    skew=st.integers(-(10**6), 10**6),
    steps=st.lists(st.tuples(pauses, st.integers(1, 80)), max_size=30),
)
def test_no_more_than_the_share_is_taken_in_any_window_of_the_platform(
    share: float, limit: int, phase: float, skew: int, steps: list[tuple[float, int]]
) -> None:
    allowance, now = Allowance(share), 1000.0
    used: Counter[float] = Counter()

    for pause, requests in steps:
        now += pause
        for _ in range(requests):
            if allowance.take(now) > 0:
                break
            reset = ((now + phase) // WINDOW_SECONDS + 1) * WINDOW_SECONDS - phase
            used[reset] += 1
            allowance.learn(RateLimit(limit, limit - used[reset], int(reset) + skew), int(now) + skew, now)

    assert all(number <= max(1, int(limit * share)) for number in used.values())


quotas = st.builds(
    RateLimit,
    st.none() | st.integers(-5, 40),
    st.none() | st.integers(-5, 40),
    st.none() | st.floats(DATE - 400, DATE + 400) | st.sampled_from([0.0, 1e15]),
)


@example(
    share=1.0,
    steps=[
        (0.0, 1, RateLimit(None, None, None), None),
        (299.0, 1, RateLimit(1, None, None), None),
        (1.0, 1, RateLimit(None, None, None), None),
    ],
)
@given(
    share=st.floats(0.001, 1),
    steps=st.lists(st.tuples(pauses, st.integers(0, 60), quotas, st.none() | st.just(DATE)), max_size=30),
)
def test_no_headers_overrun_a_window_or_cause_an_unbounded_wait(
    share: float, steps: list[tuple[float, int, RateLimit, float | None]]
) -> None:
    allowance, now = Allowance(share), 1000.0

    for pause, requests, rate_limit, date in steps:
        now += pause
        for _ in range(requests):
            before = allowance.used
            wait = allowance.take(now)
            assert 0 <= wait <= WINDOW_SECONDS + 1.001
            if wait > 0:
                assert allowance.used <= before  # less where the refusal is the first request of a new window
                assert before >= allowance.requests or allowance.known.remaining is not None
            else:
                assert 1 <= allowance.used <= allowance.requests
        allowance.learn(rate_limit, date, now)


# ---- with others, in the platform's own windows ----


@dataclass
class Platform:
    """Windows that begin when they will, whatever this machine thinks of them, and a clock of its own."""

    limit: int
    phase: int
    skew: int
    ours: Counter[float] = field(default_factory=Counter)
    others: Counter[float] = field(default_factory=Counter)

    def end(self, now: float) -> float:
        """When the window of *now* ends."""
        return ((now + self.phase) // WINDOW_SECONDS + 1) * WINDOW_SECONDS - self.phase

    def left(self, now: float) -> int:
        """Requests left in the window of *now*."""
        return self.limit - self.ours[self.end(now)] - self.others[self.end(now)]

    def asked_by_others(self, requests: int, now: float) -> None:
        """The user's own scripts ask, as often as they are let."""
        self.others[self.end(now)] += min(requests, self.left(now))

    def ask(self, allowance: Allowance, now: float) -> None:
        """One request of the exporter's, and what its answer makes of the allowance."""
        refused = self.left(now) <= 0
        if not refused:
            self.ours[self.end(now)] += 1
        rate_limit = RateLimit(self.limit, self.left(now), int(self.end(now)) + self.skew)
        date = int(now) + self.skew
        allowance.learn(rate_limit, date, now)
        if refused:
            allowance.pause_for(seconds_until_reset(rate_limit, date), now)


class Step(NamedTuple):
    """After a pause others ask, then the exporter does."""

    pause: float
    others: int
    priority: Priority
    requests: int


class Taken(NamedTuple):
    """A request that was taken, or refused for *wait* seconds.

    Attributes:
        left: what the platform had left before it.
        heard: what others had left when the last answer in this window came; None where they had used nothing then.
        late: whether the window ends so soon that the platform may count the request in the next one.
    """

    window: float
    priority: Priority
    wait: float
    left: int
    heard: int | None
    late: bool


@dataclass
class Scene:
    """What an allowance is put through."""

    share: float
    platform: Platform
    steps: list[Step]
    silent_until: float = 0.0

    @property
    def most(self) -> int:
        return max(1, int(self.platform.limit * self.share))

    def play(self) -> list[Taken]:
        """All requests but those that a 429 forbids; none in the seconds of a window in which times are rounded."""
        allowance, platform, now = Allowance(self.share), self.platform, 10_000.0
        story: list[Taken] = []
        heard: dict[float, int | None] = {}
        for step in self.steps:
            now += step.pause
            began = platform.end(now) - WINDOW_SECONDS
            now = max(now, began + 3)
            platform.asked_by_others(step.others, now)
            for _ in range(step.requests):
                window, left = platform.end(now), platform.left(now)
                if now < self.silent_until:
                    break
                wait = allowance.take(now, step.priority)
                late = window - now <= 3
                story.append(Taken(window, step.priority, wait, left, heard.get(window), late))
                if wait > 0:
                    break
                platform.ask(allowance, now)
                heard[window] = platform.left(now) if platform.others[window] else None
                if left <= 0:
                    self.silent_until = window + 3
        return story


steps = st.builds(
    Step, pauses, st.just(0) | st.integers(0, 300), st.sampled_from(Priority), st.integers(1, 60) | st.just(300)
)
scenes = st.builds(
    Scene,
    st.floats(0.001, 1),
    st.builds(Platform, st.integers(1, 300), st.integers(0, 299), st.integers(-(10**6), 10**6)),
    st.lists(steps, max_size=25),
)


@given(scenes)
def test_share_of_each_window_holds_for_any_use_by_others(scene: Scene) -> None:
    scene.play()

    assert all(number <= scene.most for number in scene.platform.ours.values())


@given(scenes)
def test_background_gets_at_most_half_for_any_use_by_others(scene: Scene) -> None:
    slices = Counter(each.window for each in scene.play() if each.priority is Priority.BACKGROUND and each.wait == 0)

    assert all(number <= max(1, scene.most // 2) for number in slices.values())


@given(scenes)
@example(Scene(1.0, Platform(2, 0, 0), [Step(199.0, 0, Priority.DISCOVERY, 300), Step(1.0, 0, Priority.DISCOVERY, 2)]))
def test_discovery_is_refused_only_by_share_or_at_a_twentieth(scene: Scene) -> None:
    made: Counter[float] = Counter()
    for each in scene.play():
        if each.wait > 0 and each.priority is Priority.DISCOVERY:
            assert made[each.window] >= scene.most or each.left <= scene.platform.limit / 20
        made[each.window] += each.wait == 0
        made[each.window + WINDOW_SECONDS] += each.wait == 0 and each.late


@given(scenes)
def test_only_discovery_is_allowed_once_a_response_shows_a_fifth(scene: Scene) -> None:
    granted = [each for each in scene.play() if each.wait == 0 and each.priority > Priority.DISCOVERY]

    assert not [each for each in granted if each.heard is not None and each.heard <= scene.platform.limit / 5]


@given(scenes)
def test_background_reserves_discovery_of_the_previous_window(scene: Scene) -> None:
    made: dict[float, Counter[bool]] = {}
    for each in scene.play():
        before = [counts[False] for window, counts in made.items() if window < each.window]
        now = made.setdefault(each.window, Counter())
        now[each.priority is Priority.BACKGROUND] += each.wait == 0
        if each.priority is Priority.BACKGROUND and each.wait == 0 and before:
            assert now.total() + max(0, before[-1] - now[False]) <= scene.most


# ---- a process that dies again and again ----


@dataclass
class Disk:
    """What is kept, by a clock that may be wrong and may be set."""

    wrong_by: float = 0.0
    saved: SavedAllowance | None = None
    written_at: float = 0.0

    def started(self, share: float, now: float) -> Allowance:
        """The allowance of another process; its monotonic clock begins anew."""
        saved, ago = self.saved, now + self.wrong_by - self.written_at
        if saved is not None:
            saved = SavedAllowance(
                saved.limit, saved.used, saved.slices, saved.window_left - ago, saved.pause_left - ago
            )
        return Allowance(share, saved=saved, now=now, save=self.keeping(lambda: now + self.wrong_by))

    def keeping(self, time: Callable[[], float]) -> Callable[[SavedAllowance], None]:
        def keep(saved: SavedAllowance) -> None:
            self.saved, self.written_at = saved, time()

        return keep


class Life(NamedTuple):
    """One process: the clock is set, it makes so many requests, and dies before the answer to one more comes."""

    pause: float
    clock_set_by: float
    requests: int


def died_again_and_again(share: float, platform: Platform, lives: list[Life]) -> int:
    """The most requests in a window of the platform's, after these *lives*."""
    disk, now = Disk(), 10_000.0
    for life in lives:
        now += life.pause
        disk.wrong_by += life.clock_set_by
        allowance = disk.started(share, now)
        for request in range(life.requests + 1):
            if allowance.take(now) > 0:
                break
            if request < life.requests:
                platform.ask(allowance, now)
            else:
                platform.ours[platform.end(now)] += 1
    return max(platform.ours.values(), default=0)


shares = st.floats(0.1, 0.9)
platforms = st.builds(Platform, st.integers(20, 300), st.integers(0, 299), st.integers(-(10**6), 10**6))


def lives(*clock_set_by: float) -> st.SearchStrategy[list[Life]]:
    return st.lists(st.builds(Life, st.floats(0, 200), st.sampled_from(clock_set_by), st.integers(1, 200)), max_size=25)


@given(shares, platforms, lives(0.0))
def test_crash_loop_stays_within_the_share(share: float, platform: Platform, lives: list[Life]) -> None:
    assert died_again_and_again(share, platform, lives) <= int(platform.limit * share)


@given(shares, platforms, lives(0.0, -1.0, -290.0, -3600.0, -1e9))
def test_crash_loop_stays_within_the_share_if_the_clock_is_set_back(
    share: float, platform: Platform, lives: list[Life]
) -> None:
    assert died_again_and_again(share, platform, lives) <= int(platform.limit * share)


@given(shares, platforms, lives(0.0, 0.0, -3600.0, 100.0, 3600.0))
def test_clock_set_forward_costs_at_most_one_share_each_time(
    share: float, platform: Platform, lives: list[Life]
) -> None:
    forward = sum(life.clock_set_by > 0 for life in lives)

    assert died_again_and_again(share, platform, lives) <= int(platform.limit * share) * (1 + forward)


def test_rate_limit_of_a_response_is_saved_at_once() -> None:
    saved: list[SavedAllowance] = []
    allowance = Allowance(0.25, save=saved.append)
    allowance.take(1000.0)

    allowance.learn(told(100, DATE + 59), DATE, 1000.0)

    assert saved[-1] == SavedAllowance(100, 1, 0, 60.0, 0.0)


def test_requests_in_flight_at_a_window_start_are_counted_in_it() -> None:
    allowance = at_the_edge()
    allowance.add_account("a", 0.25)
    allowance.add_account("b", 0.25)
    assert [allowance.take(4.4), allowance.take(4.4)] == [0.0, 0.0]

    allowance.learn(told(100, DATE + 299, remaining=98), DATE, 4.5)
    allowance.learn(told(100, DATE + 299, remaining=98), DATE, 4.5)

    assert allowance.used == 2


def test_window_begun_by_others_is_new_although_less_remains() -> None:
    allowance = at_the_edge(remaining=80)

    allowance.learn(told(100, DATE + 299, remaining=50), DATE, 4.5)

    assert allowance.used == 1


def test_merge_keeps_the_limit_if_the_response_had_none() -> None:
    own, provisional = Allowance(0.25), Allowance(0.25)
    own.learn(told(100, DATE + 60), DATE, 0.0)
    provisional.take(1.0)
    provisional.learn(RateLimit(None, 98, DATE + 59), DATE, 1.0)

    own.merge(provisional, 2.0)

    assert own.requests == 25

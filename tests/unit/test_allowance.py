"""The exporter never takes more of a user's rate limit than its share."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.platform.allowance import DEFAULT_LIMIT, WINDOW_SECONDS, Allowance, seconds_until_reset
from exporter.platform.wire import Quota

DATE = 1_550_664_230.0
NOTHING = Quota(None, None, None)


def taken(allowance: Allowance, now: float, most: int = 2 * DEFAULT_LIMIT) -> int:
    """How many requests may be made at *now*, all at once."""
    for number in range(most):
        if allowance.take(now) > 0:
            return number
    return most


def told(limit: int | None, reset: float | None, remaining: int | None = 500) -> Quota:
    return Quota(limit, remaining, reset)


# ---- when the window ends ----


@pytest.mark.parametrize("reset_in", [0, 0.5, 1, 299, 300])
def test_the_wait_is_the_reset_minus_the_answers_own_date_and_a_second_for_rounding(reset_in: float) -> None:
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


def test_before_the_platform_says_anything_the_documented_limit_is_assumed() -> None:
    allowance = Allowance(0.25)

    assert allowance.requests == 250
    assert allowance.known == NOTHING
    assert taken(allowance, 0.0) == 250
    assert allowance.used == 250


@pytest.mark.parametrize(("limit", "requests"), [(100, 25), (1000, 250), (1001, 250), (40_000, 10_000), (3, 1), (1, 1)])
def test_the_share_is_of_the_limit_that_headers_tell_and_at_least_one(limit: int, requests: int) -> None:
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


def test_a_spent_allowance_says_when_to_come_back_and_is_whole_again_then() -> None:
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
def test_absurd_resets_in_every_answer_do_not_keep_the_window_from_ending(reset: float) -> None:
    allowance = Allowance(0.01)
    for now in range(1000, 1300, 30):
        assert allowance.take(now) == 0.0
        allowance.learn(told(1000, reset), DATE, now)
    assert allowance.take(1299.0) == 1.0

    assert taken(allowance, 1300.0) == 10


# ---- silence ----


def test_after_a_429_nothing_is_asked_until_the_platforms_window_ends() -> None:
    allowance = Allowance(0.25)

    allowance.silence(40.0, 1000.0)

    assert allowance.take(1000.0) == 40.0
    assert allowance.take(1039.0) == 1.0
    assert allowance.used == 0
    assert allowance.take(1040.0) == 0.0


def test_a_shorter_silence_does_not_end_a_longer_one() -> None:
    allowance = Allowance(0.25)
    allowance.silence(40.0, 1000.0)

    allowance.silence(5.0, 1010.0)

    assert allowance.take(1016.0) == 24.0


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
            allowance.learn(Quota(limit, limit - used[reset], int(reset) + skew), int(now) + skew, now)

    assert all(number <= max(1, int(limit * share)) for number in used.values())


quotas = st.builds(
    Quota,
    st.none() | st.integers(-5, 40),
    st.none() | st.integers(-5, 40),
    st.none() | st.floats(DATE - 400, DATE + 400) | st.sampled_from([0.0, 1e15]),
)


@given(
    share=st.floats(0.001, 1),
    steps=st.lists(st.tuples(pauses, st.integers(0, 60), quotas, st.none() | st.just(DATE)), max_size=30),
)
def test_whatever_headers_come_no_window_is_overrun_and_every_wait_is_bounded(
    share: float, steps: list[tuple[float, int, Quota, float | None]]
) -> None:
    allowance, now = Allowance(share), 1000.0

    for pause, requests, quota, date in steps:
        now += pause
        for _ in range(requests):
            before = allowance.used
            wait = allowance.take(now)
            assert 0 <= wait <= WINDOW_SECONDS + 1.001
            if wait > 0:
                assert allowance.used == before
                assert before >= allowance.requests or allowance.known.remaining is not None
            else:
                assert 1 <= allowance.used <= allowance.requests
        allowance.learn(quota, date, now)

"""When jobs were last checked."""

from exporter.polling.freshness import FreshnessTracker


def test_delay_includes_the_gap_that_a_check_in_this_poll_ended() -> None:
    freshness = FreshnessTracker(0)
    freshness.begin(["1"])
    freshness.mark_checked("1", 10)
    freshness.begin(["1"])
    freshness.mark_checked("1", 100)
    freshness.mark_head_checked(100, since=100)

    assert freshness.delay(100, ["1"]) == 100  # the head was not checked before
    freshness.begin(["1"])
    freshness.mark_checked("1", 130)
    freshness.mark_head_checked(130, since=130)
    assert freshness.delay(130, ["1"]) == 30


def test_delay_of_an_unchecked_job_grows_with_each_poll() -> None:
    freshness = FreshnessTracker(0)
    freshness.begin(["1"])
    freshness.mark_head_checked(30, since=30)
    freshness.begin(["1"])
    freshness.mark_head_checked(60, since=60)

    assert freshness.delay(60, ["1"]) == 60
    assert not freshness.checked("1")


def test_job_requested_without_a_response_is_tried_but_not_checked() -> None:
    freshness = FreshnessTracker(0)
    freshness.begin(["1"])
    freshness.mark_tried("1", 30)

    assert freshness.last_tried("1") == 30
    assert freshness.checked_at("1") == 0
    assert not freshness.checked("1")


def test_distrusted_head_counts_as_unchecked_since_the_last_listing_began() -> None:
    freshness = FreshnessTracker(0)
    freshness.begin([])
    freshness.mark_listed(100, began=40, since=100)
    freshness.begin([])
    freshness.mark_head_checked(500, since=500)
    freshness.begin([])
    freshness.distrust_head()

    assert freshness.delay(510, []) == 470

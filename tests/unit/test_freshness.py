"""When jobs were last checked."""

from exporter.polling.freshness import FreshnessTracker


def test_a_look_tells_for_how_long_there_was_none_in_the_poll_that_made_it() -> None:
    freshness = FreshnessTracker(0)
    freshness.begin(["1"])
    freshness.mark_checked("1", 10)
    freshness.begin(["1"])
    freshness.mark_checked("1", 100)
    freshness.mark_head_checked(100, since=100)

    assert freshness.delay(100, ["1"]) == 100  # the place where jobs come in was not looked at before
    freshness.begin(["1"])
    freshness.mark_checked("1", 130)
    freshness.mark_head_checked(130, since=130)
    assert freshness.delay(130, ["1"]) == 30


def test_a_job_that_is_not_looked_at_waits_for_longer_with_each_poll() -> None:
    freshness = FreshnessTracker(0)
    freshness.begin(["1"])
    freshness.mark_head_checked(30, since=30)
    freshness.begin(["1"])
    freshness.mark_head_checked(60, since=60)

    assert freshness.delay(60, ["1"]) == 60
    assert not freshness.checked("1")


def test_a_job_that_was_asked_for_in_vain_is_tried_but_not_seen() -> None:
    freshness = FreshnessTracker(0)
    freshness.begin(["1"])
    freshness.mark_tried("1", 30)

    assert freshness.last_tried("1") == 30
    assert freshness.checked_at("1") == 0
    assert not freshness.checked("1")


def test_reopened_the_wait_goes_back_to_when_the_last_listing_began() -> None:
    freshness = FreshnessTracker(0)
    freshness.begin([])
    freshness.mark_listed(100, began=40, since=100)
    freshness.begin([])
    freshness.mark_head_checked(500, since=500)
    freshness.begin([])
    freshness.distrust_head()

    assert freshness.delay(510, []) == 470

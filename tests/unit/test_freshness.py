"""When jobs were last checked."""

from exporter.polling.freshness import Looks


def test_a_look_tells_for_how_long_there_was_none_in_the_poll_that_made_it() -> None:
    looks = Looks(0)
    looks.begin(["1"])
    looks.saw("1", 10)
    looks.begin(["1"])
    looks.saw("1", 100)
    looks.closed(100, since=100)

    assert looks.delay(100, ["1"]) == 100  # the place where jobs come in was not looked at before
    looks.begin(["1"])
    looks.saw("1", 130)
    looks.closed(130, since=130)
    assert looks.delay(130, ["1"]) == 30


def test_a_job_that_is_not_looked_at_waits_for_longer_with_each_poll() -> None:
    looks = Looks(0)
    looks.begin(["1"])
    looks.closed(30, since=30)
    looks.begin(["1"])
    looks.closed(60, since=60)

    assert looks.delay(60, ["1"]) == 60
    assert not looks.seen("1")


def test_a_job_that_was_asked_for_in_vain_is_tried_but_not_seen() -> None:
    looks = Looks(0)
    looks.begin(["1"])
    looks.tried("1", 30)

    assert looks.last_tried("1") == 30
    assert looks.at("1") == 0
    assert not looks.seen("1")


def test_reopened_the_wait_goes_back_to_when_the_last_listing_began() -> None:
    looks = Looks(0)
    looks.begin([])
    looks.listed(100, began=40, since=100)
    looks.begin([])
    looks.closed(500, since=500)
    looks.begin([])
    looks.reopen()

    assert looks.delay(510, []) == 470

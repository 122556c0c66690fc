"""The simulated platform keeps to what is known of the real one, and to its own scripts."""

import gc
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from urllib.parse import parse_qsl, urlsplit

import httpx
import msgspec
import pytest

from exporter.simulator.answers import Answer, Call
from exporter.simulator.clock import SimulatedClock
from exporter.simulator.control import control
from exporter.simulator.faults import Fault, FaultKind, Malformed
from exporter.simulator.jobs import OUTCOMES, RETENTION, Truth
from exporter.simulator.platform import Platform
from exporter.simulator.scripts import OPERATIONS, JobScript, Progress, Shown, State, progress, roll
from exporter.simulator.server import DEMO_TOKEN, QUIET, Order, RunningSimulator, SimulatorSettings, running, serve
from exporter.simulator.settings import parse_address
from tests.background import BackgroundTask
from tests.clocks import START
from tests.waiting import PATIENCE, eventually

STILL = replace(QUIET, speed=0, start=START)
"""The clock stands, and moves only when a test moves it."""

Json = dict[str, object]


def ask(
    platform: Platform, target: str, *, method: str = "GET", token: str = DEMO_TOKEN, body: object = None
) -> Answer:
    url = urlsplit(target)
    return platform.answer(
        Call(
            method=method,
            path=url.path.rstrip("/"),
            query=dict(parse_qsl(url.query)),
            headers={"x-sbg-auth-token": token},
            body=b"" if body is None else msgspec.json.encode(body),
            origin="http://here",
            target=target,
        )
    )


def content(answer: Answer) -> Json:
    return msgspec.json.decode(answer.body, type=Json)


def items(answer: Answer) -> list[Json]:
    return msgspec.convert(content(answer)["items"], list[Json])


def job(platform: Platform, job_id: str, operation: str = "copy") -> Json:
    answer = ask(platform, f"/v2/async/files/{operation}/{job_id}")
    assert answer.status == 200
    return content(answer)


def listing(platform: Platform, limit: int = 100) -> list[str]:
    """The ids of one walk through all the pages."""
    ids: list[str] = []
    while page := items(ask(platform, f"/v2/async/files?offset={len(ids)}&limit={limit}")):
        ids += [str(item["id"]) for item in page]
    return ids


def files_of(truth: Truth) -> tuple[int, int, int]:
    rows = truth.files.values()
    return sum(r["total"] for r in rows), sum(r["completed"] for r in rows), sum(r["failed"] for r in rows)


# -------------------------------------------------------------------------------------------------------- a job's life


def test_a_job_passes_through_the_four_states() -> None:
    script = JobScript(total=10, failed=2, queued=10, resolving=10, running=10)

    assert progress(script, 0) == Progress(State.SUBMITTED, 0, 0, 0)
    assert progress(script, 15) == Progress(State.RESOLVING, 5, 0, 0)
    assert progress(script, 25) == Progress(State.RUNNING, 10, 4, 1)
    assert progress(script, 30) == Progress(State.FINISHED, 10, 8, 2)


def test_counts_never_go_back_and_never_exceed_the_total() -> None:
    dice = Random(3)  # noqa: S311 - seeded, so that the test repeats itself
    for _ in range(200):
        script = roll(dice)
        ages = sorted(dice.random() * 1.2 * (script.queued + script.resolving + script.running) for _ in range(20))
        seen = [progress(script, age) for age in ages]

        for before, after in pairwise(seen):
            assert list(State).index(State(before.state)) <= list(State).index(State(after.state))
            assert before.completed <= after.completed
            assert before.failed <= after.failed
            assert before.total <= after.total
        assert all(counts.completed + counts.failed <= counts.total for counts in seen)


def test_the_dice_throw_every_ending() -> None:
    dice = Random(1)  # noqa: S311 - seeded, so that the test repeats itself
    scripts = [roll(dice) for _ in range(2000)]

    assert {script.operation for script in scripts} == set(OPERATIONS)
    assert any(script.total == 0 for script in scripts)
    assert any(script.total > 1000 for script in scripts)
    assert any(script.failed and not script.completes for script in scripts)
    assert any(script.failed and script.completes for script in scripts)
    assert any(not script.failed and script.completes < script.total for script in scripts)
    assert any(script.lasts is None for script in scripts)
    assert any(sum(script.error_records.values()) < script.failed for script in scripts)
    assert any("none" in script.error_records for script in scripts)


def test_a_job_is_shown_as_the_platform_shows_it() -> None:
    platform = Platform(STILL)
    submitted = content(
        ask(platform, "/v2/async/files/copy", method="POST", body={"items": [{"file": "one", "project": "me/here"}]})
    )
    assert submitted == {
        "href": f"http://here/v2/async/files/copy/{submitted['id']}",
        "id": submitted["id"],
        "result": [],
        "type": "COPY",
        "state": "SUBMITTED",
        "failed_files": 0,
        "completed_files": 0,
        "total_files": 0,
    }

    platform.advance(3600)

    finished = job(platform, str(submitted["id"]))
    result = msgspec.convert(finished["result"], list[dict[str, dict[str, str]]])
    file_id = result[0]["resource"]["id"]
    assert result == [{"resource": {"href": f"http://here/v2/files/{file_id}", "id": file_id}}]
    assert len(file_id) == 24
    assert finished["state"] == "FINISHED"
    assert finished["completed_files"] == finished["total_files"] == 1
    assert str(finished["started_on"]) <= str(finished["finished_on"])
    assert items(ask(platform, "/v2/async/files")) == [finished]


def test_times_and_results_are_absent_until_they_happen() -> None:
    platform = Platform(STILL)
    job_id = platform.submit(JobScript(queued=10, resolving=10, running=10))

    assert not {"started_on", "finished_on"} & job(platform, job_id).keys()
    platform.advance(11)
    assert job(platform, job_id)["started_on"] == "2026-09-21T14:13:30Z"
    assert "finished_on" not in job(platform, job_id)
    assert job(platform, job_id)["result"] == []
    platform.advance(20)
    assert job(platform, job_id)["finished_on"] == "2026-09-21T14:13:50Z"


def test_an_id_is_the_time_of_the_submission() -> None:
    platform = Platform(STILL)
    ids = [int(platform.submit(JobScript())) for _ in range(3)]

    assert (ids[0] >> 20) / 1000 + 1_483_228_800 == START
    assert all(number & 0xFFFFF == 0x11000 for number in ids)
    assert ids == sorted(set(ids))


def test_users_never_share_an_id() -> None:
    platform = Platform(replace(STILL, users={"other": "rosalind"}))
    ids = [platform.submit(JobScript(), user) for _ in range(3) for user in ("demo", "rosalind")]

    assert len(set(ids)) == 6


def test_error_records_carry_their_code_or_none() -> None:
    platform = Platform(STILL)
    job_id = platform.submit(JobScript(total=4, failed=4, errors={"5002": 2, "none": 1}, running=0))
    platform.advance(60)

    records = msgspec.convert(job(platform, job_id)["result"], list[dict[str, Json]])

    assert [record["error"].get("code") for record in records] == [5002, 5002, None]
    assert records[0]["error"]["status"] == 404
    assert records[0]["error"]["message"] == "Requested file does not exist."


def test_a_hung_job_stays_as_it_is_until_it_is_finished_by_hand() -> None:
    platform = Platform(STILL)
    job_id = platform.submit(JobScript(total=10, queued=0, resolving=0, running=10, hangs_after=5))

    platform.advance(5)
    at_first = job(platform, job_id)
    platform.advance(2 * RETENTION)
    assert job(platform, job_id) == at_first
    assert at_first["completed_files"] == 5

    platform.finish(job_id)
    assert job(platform, job_id)["state"] == "FINISHED"


def test_parts_of_a_job_can_be_left_out_of_the_list_or_everywhere() -> None:
    platform = Platform(STILL)
    alone = platform.submit(JobScript(failed=1, times=Shown.ALONE, result=Shown.ALONE))
    never = platform.submit(JobScript(failed=1, times=Shown.NEVER, result=Shown.NEVER))
    platform.advance(60)

    for listed in items(ask(platform, "/v2/async/files")):
        assert "finished_on" not in listed
        assert listed["result"] == []
    assert "finished_on" in job(platform, alone)
    assert job(platform, alone)["result"]
    assert "finished_on" not in job(platform, never)
    assert job(platform, never)["result"] == []


def test_operations_and_states_may_be_unknown_ones() -> None:
    platform = Platform(STILL)
    platform.submit(JobScript(operation="import", state="ABORTED"))
    platform.advance(60)

    [listed] = items(ask(platform, "/v2/async/files"))

    assert (listed["type"], listed["state"]) == ("IMPORT", "ABORTED")
    assert ask(platform, f"/v2/async/files/import/{listed['id']}").status == 404


def test_a_finished_job_expires_after_a_month() -> None:
    platform = Platform(STILL)
    job_id = platform.submit(JobScript(queued=0, resolving=0, running=10))

    platform.advance(RETENTION + 9)
    assert listing(platform) == [job_id]
    platform.advance(2)

    assert listing(platform) == []
    gone = ask(platform, f"/v2/async/files/copy/{job_id}")
    assert gone.status == 404
    assert content(gone)["code"] == 10211
    assert platform.truth().finished["copy"]["succeeded"] == 1


def test_a_job_that_is_made_longer_expires_later() -> None:
    platform = Platform(STILL)
    longer, same, lost = (platform.submit(JobScript(running=10)) for _ in range(3))
    platform.change(longer, running=1000)
    platform.change(same, completed=0)
    platform.remove(lost)

    platform.advance(RETENTION + 100)
    assert listing(platform) == [longer]
    platform.advance(1000)
    assert listing(platform) == []


def test_a_job_is_not_found_under_another_type() -> None:
    platform = Platform(STILL)
    job_id = platform.submit(JobScript(operation="copy"))

    for target in (f"/v2/async/files/move/{job_id}", "/v2/async/files/copy/1", "/v2/async/files/copy/one"):
        answer = ask(platform, target)
        assert (answer.status, content(answer)["code"]) == (404, 10211)


def test_submitted_files_fail_as_their_names_say() -> None:
    platform = Platform(STILL)
    named = ["plain", "missing-1", "folder-30"]
    body = {"items": [{"file": name} for name in named]}
    job_id = str(content(ask(platform, "/v2/async/files/delete", method="POST", body=body))["id"])
    platform.advance(3600)

    seen = job(platform, job_id, "delete")

    assert (seen["total_files"], seen["completed_files"], seen["failed_files"]) == (32, 31, 1)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {"items": []},
        {"items": [{"project": "me/here"}]},
        {"items": [{"file": "one"}]},
        {"items": [{"file": "one", "parent": "folder", "project": "me/here"}]},
        {"items": [{"file": "one", "project": "me/here"}] * 101},
    ],
)
def test_a_malformed_submission_is_refused(body: object) -> None:
    platform = Platform(STILL)

    assert ask(platform, "/v2/async/files/copy", method="POST", body=body).status == 400
    assert listing(platform) == []


# -------------------------------------------------------------------------------------------------------------- paging


def test_pages_are_linked_both_ways() -> None:
    platform = Platform(replace(STILL, jobs=60))

    page = ask(platform, "/v2/async/files?offset=25")

    assert content(page)["href"] == "http://here/v2/async/files?offset=25&limit=25"
    assert content(page)["links"] == [
        {"href": "http://here/v2/async/files?offset=50&limit=25", "rel": "next", "method": "GET"},
        {"href": "http://here/v2/async/files?offset=0&limit=25", "rel": "prev", "method": "GET"},
    ]
    assert page.headers["x-total-matching-query"] == "60"
    assert len(items(page)) == 25
    assert content(ask(platform, "/v2/async/files?limit=100"))["links"] == []


@pytest.mark.parametrize("query", ["limit=101", "limit=0", "limit=ten", "offset=-1", "offset=" + "9" * 5000])
def test_impossible_pages_are_refused(query: str) -> None:
    answer = ask(Platform(STILL), f"/v2/async/files?{query}")

    assert (answer.status, content(answer)["code"]) == (400, 90000)


def test_a_page_behind_the_end_is_empty() -> None:
    assert items(ask(Platform(replace(STILL, jobs=3)), "/v2/async/files?offset=7")) == []


@pytest.mark.parametrize("order", Order)
def test_every_order_shows_every_job_once(order: Order) -> None:
    platform = Platform(replace(STILL, jobs=97, order=order))

    page = [str(item["id"]) for item in items(ask(platform, "/v2/async/files?limit=100"))]

    assert len(set(page)) == 97


def test_the_orders_are_what_they_are_called() -> None:
    by_age = listing(Platform(replace(STILL, jobs=50, order=Order.OLDEST)))
    newest = listing(Platform(replace(STILL, jobs=50, order=Order.NEWEST)))
    mixed = Platform(replace(STILL, jobs=50, order=Order.MIXED))
    unstable = Platform(replace(STILL, jobs=50, order=Order.UNSTABLE))

    assert by_age == sorted(by_age, key=int)
    assert newest == by_age[::-1]
    assert listing(mixed) == listing(mixed, limit=7)
    assert listing(mixed) not in (by_age, newest)
    assert listing(unstable) != listing(unstable)


def test_a_new_job_is_where_the_order_puts_it() -> None:
    platform = Platform(replace(STILL, jobs=10))
    first = platform.submit(JobScript())
    assert listing(platform).index(first) == 0

    platform.behave(order="oldest")
    second = platform.submit(JobScript())
    assert listing(platform)[-2:] == [first, second]


def test_fields_choose_what_is_shown() -> None:
    platform = Platform(replace(STILL, jobs=2))
    [whole, _] = items(ask(platform, "/v2/async/files"))

    [named, _] = items(ask(platform, "/v2/async/files?fields=id,state"))
    [without, _] = items(ask(platform, "/v2/async/files?fields=!result"))
    [everything, _] = items(ask(platform, "/v2/async/files?fields=_all"))

    assert named == {"id": whole["id"], "state": whole["state"]}
    assert without == {name: value for name, value in whole.items() if name != "result"}
    assert everything == whole
    assert "fields=!result" in str(content(ask(platform, "/v2/async/files?fields=!result&limit=1"))["links"])


def test_unknown_behaviour_of_the_real_platform_is_configurable() -> None:
    platform = Platform(STILL)
    platform.behave(fields="refused", total_header=False, rate_headers="absent")

    answer = ask(platform, "/v2/async/files")

    assert ask(platform, "/v2/async/files?fields=id").status == 400
    assert not [name for name in answer.headers if name.startswith(("x-total", "x-ratelimit"))]
    platform.behave(rate_headers="milliseconds")
    assert ask(platform, "/v2/user").headers["x-ratelimit-reset"] == str(int(START + 300) * 1000)
    platform.behave(rate_headers="past")
    assert ask(platform, "/v2/user").headers["x-ratelimit-reset"] == str(int(START - 3600))
    platform.behave(rate_headers="absurd")
    assert int(ask(platform, "/v2/user").headers["x-ratelimit-reset"]) > START + 300_000_000


@pytest.mark.parametrize(
    ("fields", "shown"),
    [("honoured", {"id"}), ("ids_only", {"href", "id"}), ("ignored", None)],
)
def test_the_list_may_make_something_else_of_fields(fields: str, shown: set[str] | None) -> None:
    platform = Platform(replace(STILL, jobs=2))
    [whole, _] = items(ask(platform, "/v2/async/files"))
    platform.behave(fields=fields)

    [chosen, _] = items(ask(platform, "/v2/async/files?fields=id"))

    assert chosen == {name: value for name, value in whole.items() if shown is None or name in shown}
    assert items(ask(platform, "/v2/async/files"))[0] == whole


def test_misread_fields_take_more_than_the_results_away() -> None:
    platform = Platform(replace(STILL, jobs=1))
    platform.behave(fields="ids_only")

    [chosen] = items(ask(platform, "/v2/async/files?fields=!result"))

    assert chosen.keys() == {"href", "id"}


def test_pages_may_be_shorter_than_requested_and_link_the_next() -> None:
    platform = Platform(replace(STILL, jobs=25))
    platform.behave(most_per_page=10)

    page = ask(platform, "/v2/async/files?limit=100")

    assert len(items(page)) == 10
    assert content(page)["links"] == [
        {"href": "http://here/v2/async/files?offset=10&limit=10", "rel": "next", "method": "GET"}
    ]
    assert page.headers["x-total-matching-query"] == "25"
    assert len(items(ask(platform, "/v2/async/files?limit=3"))) == 3
    assert listing(platform) == platform.listed()
    with pytest.raises(ValueError, match="most_per_page"):
        platform.behave(most_per_page=101)


# ----------------------------------------------------------------------------------------------- users and their limit


def test_only_the_list_of_paths_needs_no_token() -> None:
    platform = Platform(STILL)

    assert ask(platform, "/v2/", token="").status == 200
    for target in ("/v2/user", "/v2/async/files", "/v2/rate_limit"):
        answer = ask(platform, target, token="wrong")
        assert answer.status == 401
        assert content(answer) == {
            "status": 401,
            "code": 90001,
            "message": "Unauthorized.",
            "more_info": "http://docs.sevenbridges.com/docs/api-status-codes#90001",
        }


def test_users_have_their_own_jobs() -> None:
    platform = Platform(replace(STILL, users={"other": "rosalind"}))
    hers = platform.submit(JobScript(), "rosalind")

    assert content(ask(platform, "/v2/user", token="other"))["username"] == "rosalind"
    assert content(ask(platform, "/v2/user"))["username"] == "demo"
    assert [item["id"] for item in items(ask(platform, "/v2/async/files", token="other"))] == [hers]
    assert items(ask(platform, "/v2/async/files")) == []
    assert ask(platform, f"/v2/async/files/copy/{hers}").status == 404


def test_a_rotated_token_ends_the_old_one() -> None:
    platform = Platform(STILL)

    platform.rotate("fresh")

    assert ask(platform, "/v2/user").status == 401
    assert content(ask(platform, "/v2/user", token="fresh"))["username"] == "demo"


def test_the_rate_limit_ends_with_its_window() -> None:
    platform = Platform(replace(STILL, rate_limit=2, rate_window=300))

    first = ask(platform, "/v2/user")
    assert first.headers["x-ratelimit-limit"] == "2"
    assert first.headers["x-ratelimit-remaining"] == "1"
    assert first.headers["x-ratelimit-reset"] == str(int(START + 300))
    platform.advance(100)
    ask(platform, "/v2/user")
    refused = ask(platform, "/v2/user")
    assert (refused.status, content(refused)["code"]) == (429, 1000)

    platform.advance(200)
    assert ask(platform, "/v2/user").headers["x-ratelimit-remaining"] == "1"


def test_asking_for_the_rate_limit_does_not_count() -> None:
    platform = Platform(replace(STILL, rate_limit=1))
    ask(platform, "/v2/user")

    answer = ask(platform, "/v2/rate_limit")

    assert content(answer) == {
        "rate": {"limit": 1, "remaining": 0, "reset": int(START + 300)},
        "instance_limit": {"limit": 25, "remaining": 25},
    }


def test_another_script_can_use_up_the_limit() -> None:
    platform = Platform(STILL)

    platform.use_up(remaining=1)

    assert ask(platform, "/v2/user").headers["x-ratelimit-remaining"] == "0"
    assert ask(platform, "/v2/user").status == 429


def test_a_limit_below_zero_is_none() -> None:
    platform = Platform(replace(STILL, rate_limit=-1))

    assert ask(platform, "/v2/user").headers["x-ratelimit-limit"] == "-1"
    assert content(ask(platform, "/v2/rate_limit"))["rate"] == {
        "limit": -1,
        "remaining": 987654342,
        "reset": int(START + 300),
    }


def test_wrong_paths_and_methods_are_told_apart() -> None:
    platform = Platform(STILL)

    assert ask(platform, "/v2/async/folders").status == 404
    assert ask(platform, "/v2/async/files/copy/1/2").status == 405
    assert ask(platform, "/v2/async/files/import", method="POST").status == 404
    assert ask(platform, "/v2/user", method="DELETE").status == 405
    assert ask(platform, "/v2/async/files/copy", method="GET").status == 405


# ----------------------------------------------------------------------------------------------------- time and chance


def test_the_clock_has_a_speed_and_can_be_pushed() -> None:
    real = iter([100.0, 101.0, 101.0, 101.0])
    clock = SimulatedClock(START, 60, lambda: next(real))

    assert clock.now() == START + 60
    clock.advance(3600)
    assert clock.now() == START + 3660
    with pytest.raises(ValueError, match="expected 0 or more seconds"):
        clock.advance(-1)


def test_answers_are_dated_by_the_simulated_clock() -> None:
    date = ask(Platform(STILL), "/v2/user").headers["date"]

    assert parsedate_to_datetime(date).timestamp() == START


def test_the_same_seed_gives_the_same_month() -> None:
    lively = replace(STILL, jobs=100, rate=2, seed=7)

    def month(settings: SimulatorSettings) -> tuple[list[str], Truth]:
        platform = Platform(settings)
        platform.advance(3600)
        return listing(platform), platform.truth()

    assert month(lively) == month(lively)
    assert month(lively) != month(replace(lively, seed=8))


def test_history_is_finished_and_within_the_month() -> None:
    platform = Platform(replace(STILL, jobs=500))

    everything = platform.truth()

    assert len(listing(platform)) == 500
    assert sum(sum(row.values()) for row in everything.finished.values()) == 500
    assert platform.truth(since=START + 1) == Truth.nothing()


def test_some_jobs_of_the_month_may_still_run() -> None:
    platform = Platform(replace(STILL, jobs=500, unfinished=20, unfinished_among=100))

    running_ones = platform.unfinished()

    assert len(running_ones) == 20
    assert platform.listed().index(running_ones[-1]) == 0
    assert [platform.listed().index(each) for each in running_ones] == list(range(95, -1, -5))
    assert sum(sum(row.values()) for row in platform.truth().finished.values()) == 480
    platform.advance(6 * 3600)
    assert 0 < len(platform.unfinished()) < 20
    platform.advance(6 * 3600)
    assert platform.unfinished() == []


def test_those_that_still_run_may_be_anywhere() -> None:
    platform = Platform(replace(STILL, jobs=500, unfinished=5))

    assert [platform.listed().index(each) for each in platform.unfinished()] == [400, 300, 200, 100, 0]


def test_what_a_job_does_can_be_looked_up() -> None:
    platform = Platform(STILL)
    script = JobScript(total=7, failed=2)

    assert platform.script_of(platform.submit(script)) == script
    with pytest.raises(LookupError, match="no job '1'"):
        platform.script_of("1")


def test_new_jobs_arrive_at_the_rate_asked_for() -> None:
    platform = Platform(replace(STILL, rate=10))

    platform.advance(6000)

    assert 800 < len(listing(platform)) < 1200


def test_looking_more_often_does_not_change_what_happens() -> None:
    often, once = (Platform(replace(STILL, rate=3)) for _ in range(2))
    for _ in range(60):
        often.advance(60)
        ask(often, "/v2/async/files")
    once.advance(3600)

    assert listing(often) == listing(once)
    assert often.truth() == once.truth()


# --------------------------------------------------------------------------------------------------------------- truth


def test_the_truth_counts_every_outcome() -> None:
    platform = Platform(STILL)
    platform.submit(JobScript(total=3))
    platform.submit(JobScript(total=3, failed=1))
    platform.submit(JobScript(total=3, failed=3, errors={"5002": 2}))
    platform.submit(JobScript(total=3, completed=2))
    platform.submit(JobScript(total=0))
    platform.remove(platform.submit(JobScript(total=3)))
    platform.advance(60)

    truth = platform.truth()

    assert truth.jobs == {"copy": 6, "move": 0, "delete": 0}
    assert truth.finished["copy"] == {"succeeded": 2, "partial": 1, "failed": 1, "incomplete": 1, "lost": 1}
    assert truth.finished["move"] == dict.fromkeys(OUTCOMES, 0)
    assert truth.files["copy"] == {"total": 12, "completed": 7, "failed": 4}
    assert truth.errors["copy"] == {"5001": 1, "5002": 2}


def test_the_truth_of_an_unfinished_job_is_what_it_shows() -> None:
    platform = Platform(STILL)
    job_id = platform.submit(JobScript(total=10, failed=5, queued=0, resolving=0, running=10))
    platform.advance(6)

    shown = job(platform, job_id)

    assert files_of(platform.truth()) == (shown["total_files"], shown["completed_files"], shown["failed_files"])
    assert platform.truth().errors["copy"] == {}


def test_a_lost_job_counts_what_it_showed_last() -> None:
    platform = Platform(STILL)
    job_id = platform.submit(JobScript(total=10, queued=0, resolving=0, running=10))
    platform.advance(6)

    platform.remove(job_id)
    platform.advance(60)

    assert listing(platform) == []
    assert files_of(platform.truth()) == (10, 6, 0)
    assert platform.truth().finished["copy"]["lost"] == 1


def test_a_count_that_is_lowered_stays_counted() -> None:
    platform = Platform(STILL)
    job_id = platform.submit(JobScript(total=10, failed=2))
    platform.advance(60)
    assert platform.truth().finished["copy"]["partial"] == 1

    platform.change(job_id, failed=0, completed=9)

    assert job(platform, job_id)["failed_files"] == 0
    assert files_of(platform.truth()) == (10, 9, 2)
    assert platform.truth().finished["copy"]["partial"] == 1
    assert platform.truth().errors["copy"] == {"5001": 2}


def test_unknown_state_is_finished_only_with_a_finish_time() -> None:
    platform = Platform(STILL)
    platform.submit(JobScript(state="DONE"))
    platform.submit(JobScript(state="DONE", times=Shown.NEVER))
    platform.advance(60)

    assert platform.truth().finished["copy"]["succeeded"] == 1


def test_the_truth_can_be_told_by_user_and_since() -> None:
    platform = Platform(replace(STILL, users={"other": "rosalind"}))
    platform.submit(JobScript(), "rosalind")
    platform.submit(JobScript(queued=0, resolving=0, running=5))
    platform.advance(60)

    assert platform.truth().jobs["copy"] == 2
    assert platform.truth("rosalind").jobs["copy"] == 1
    assert platform.truth(since=START + 5).jobs["copy"] == 2
    assert platform.truth(since=START + 6).jobs["copy"] == 1


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("listen", "address"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0)), (":8089", ("0.0.0.0", 8089))],  # noqa: S104  # only parsed
)
def test_addresses_are_taken_apart(listen: str, address: tuple[str, int]) -> None:
    assert parse_address(listen) == address


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"listen": "here"}, "listen: 'here' is not host:port"),
        ({"listen": "here:70000"}, "listen: 'here:70000' is not host:port"),
        ({"order": "random"}, "order: 'random' is none of newest, oldest, mixed, unstable"),
        ({"chaos": 4}, "chaos: 4 is not from 0 to 3"),
        ({"jobs": -1}, "jobs: -1 is not a number of at least 0"),
        ({"unfinished": -1}, "unfinished: -1 of the newest 200 of 200 jobs is impossible"),
        ({"unfinished": 4, "unfinished_among": 3}, "unfinished: 4 of the newest 3 of 200 jobs is impossible"),
        ({"unfinished_among": 201}, "unfinished: 0 of the newest 201 of 200 jobs is impossible"),
        ({"speed": float("nan")}, "speed: nan is not a number of at least 0"),
        ({"rate_window": 0}, "rate_window: 0 must be greater than 0"),
        ({"token": ""}, "token: must not be empty"),
    ],
)
def test_impossible_settings_are_named(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SimulatorSettings(**wrong)  # type: ignore[arg-type] # that is the test


def test_all_impossible_settings_are_named_at_once() -> None:
    with pytest.raises(ValueError, match="chaos") as caught:
        SimulatorSettings(listen="here", chaos=4, jobs=-1)

    assert [each.partition(":")[0] for each in caught.value.args] == ["listen", "chaos", "jobs"]


def test_tokens_are_not_in_the_settings_representation() -> None:
    assert "secret" not in repr(SimulatorSettings(token="secret", users={"secret-too": "rosalind"}))


# ------------------------------------------------------------------------------------------------ faults, over the wire


@pytest.fixture(scope="module")
def shared_simulator() -> Iterator[RunningSimulator]:
    """For tests that change nothing but its faults."""
    with running(replace(STILL, jobs=30, rate_limit=-1)) as served:
        yield served


@pytest.fixture
def client(shared_simulator: RunningSimulator) -> Iterator[httpx.Client]:
    headers = {"X-SBG-Auth-Token": DEMO_TOKEN}
    with httpx.Client(base_url=shared_simulator.url, headers=headers, timeout=PATIENCE, trust_env=False) as client:
        yield client
    shared_simulator.platform.forget_faults()


def test_answers_are_compressed_for_those_who_ask(client: httpx.Client) -> None:
    compressed = client.get("/async/files")
    plain = client.get("/async/files", headers={"Accept-Encoding": "identity"})

    assert compressed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert compressed.json() == plain.json()
    assert plain.headers["content-type"] == "application/json"
    assert len(plain.headers["x-request-id"]) == 32
    assert plain.headers["date"] == compressed.headers["date"]


def test_a_bearer_token_and_a_trailing_slash_are_as_good(shared_simulator: RunningSimulator) -> None:
    answer = httpx.get(
        f"{shared_simulator.url}/user/", headers={"Authorization": f"Bearer {DEMO_TOKEN}"}, trust_env=False
    )

    assert answer.json()["username"] == "demo"


def test_links_lead_back_to_the_simulator(client: httpx.Client, shared_simulator: RunningSimulator) -> None:
    [link] = client.get("/async/files").json()["links"]

    assert link["href"] == f"{shared_simulator.url}/async/files?offset=25&limit=25"
    assert len(client.get(link["href"]).json()["items"]) == 5


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (FaultKind.SERVER_ERROR, 500, 90004),
        (FaultKind.UNAVAILABLE, 503, 90005),
        (FaultKind.RATE_LIMITED, 429, 1000),
        (FaultKind.MAINTENANCE, 503, 0),
        (FaultKind.UNAUTHORIZED, 401, 90001),
    ],
)
def test_faults_answer_with_errors(
    client: httpx.Client, shared_simulator: RunningSimulator, kind: FaultKind, status: int, code: int
) -> None:
    shared_simulator.platform.queue(Fault(kind=kind), "/user")

    assert client.get("/rate_limit").status_code == 200
    answer = client.get("/user")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert client.get("/user").status_code == 200


@pytest.mark.parametrize(("kind", "status"), [(FaultKind.BAD_GATEWAY, 502), (FaultKind.HTML, 200)])
def test_faults_answer_with_html(
    client: httpx.Client, shared_simulator: RunningSimulator, kind: FaultKind, status: int
) -> None:
    shared_simulator.platform.queue(Fault(kind=kind))

    answer = client.get("/user")

    assert answer.status_code == status
    assert answer.headers["content-type"] == "text/html"


def test_a_redirect_leads_to_another_host(client: httpx.Client, shared_simulator: RunningSimulator) -> None:
    shared_simulator.platform.queue(Fault(kind=FaultKind.REDIRECT, location="http://other.example"))

    answer = client.get("/user")

    assert (answer.status_code, answer.headers["location"]) == (302, "http://other.example/v2/user")


def test_json_can_break_off(client: httpx.Client, shared_simulator: RunningSimulator) -> None:
    shared_simulator.platform.queue(Fault(kind=FaultKind.BROKEN_JSON))

    answer = client.get("/user")

    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        answer.json()


def test_an_answer_can_be_too_large_and_yet_right(client: httpx.Client, shared_simulator: RunningSimulator) -> None:
    shared_simulator.platform.queue(Fault(kind=FaultKind.OVERSIZED, size=3_000_000))

    answer = client.get("/user")

    assert len(answer.content) > 3_000_000
    assert answer.json()["username"] == "demo"
    assert int(answer.headers["content-length"]) < 100_000


@pytest.mark.parametrize("kind", [FaultKind.CUT, FaultKind.CLOSE])
def test_a_connection_can_break(client: httpx.Client, shared_simulator: RunningSimulator, kind: FaultKind) -> None:
    shared_simulator.platform.queue(Fault(kind=kind), times=2)

    for _ in range(2):
        with pytest.raises(httpx.TransportError):
            client.get("/async/files")
    assert client.get("/async/files").status_code == 200


def test_a_body_can_come_byte_by_byte(client: httpx.Client, shared_simulator: RunningSimulator) -> None:
    shared_simulator.platform.queue(Fault(kind=FaultKind.DRIP, pause=0.0001))

    with client.stream("GET", "/user") as answer:
        pieces = list(answer.iter_raw())

    assert len(pieces) > 1
    assert json.loads(b"".join(pieces))["username"] == "demo"


@pytest.mark.parametrize("kind", [FaultKind.HANG, FaultKind.DRIP])
def test_a_client_can_give_up_waiting(
    client: httpx.Client, shared_simulator: RunningSimulator, kind: FaultKind
) -> None:
    shared_simulator.platform.queue(Fault(kind=kind, pause=60), "/user")

    with pytest.raises(httpx.ReadTimeout):
        client.get("/user", timeout=httpx.Timeout(PATIENCE, read=0.2))
    assert client.get("/user").status_code == 200


@pytest.mark.parametrize("malformed", Malformed)
def test_one_record_can_be_malformed(
    client: httpx.Client, shared_simulator: RunningSimulator, malformed: Malformed
) -> None:
    right = client.get("/async/files").json()["items"]
    shared_simulator.platform.queue(Fault(kind=FaultKind.MALFORMED_RECORD, record=malformed))

    wrong = client.get("/async/files").json()["items"]

    assert wrong[0] != right[0]
    assert wrong[1:] == right[1:]


def test_a_single_job_can_be_malformed_too(client: httpx.Client, shared_simulator: RunningSimulator) -> None:
    [href, *_] = [item["href"] for item in client.get("/async/files").json()["items"]]
    shared_simulator.platform.queue(
        Fault(kind=FaultKind.MALFORMED_RECORD, record=Malformed.STATE_MISSING), "/async/files/"
    )

    assert "state" not in client.get(href).json()


def test_a_page_without_jobs_has_none_to_malform() -> None:
    platform = Platform(STILL)
    platform.queue(Fault(kind=FaultKind.MALFORMED_RECORD))

    assert items(ask(platform, "/v2/async/files")) == []


def test_chaos_grows_with_its_level_and_repeats_itself() -> None:
    def faults(chaos: int) -> list[str]:
        platform = Platform(replace(STILL, chaos=chaos, rate_limit=-1))
        for _ in range(2000):
            ask(platform, "/v2/user")
        return [request.fault for request in platform.latest_requests() if request.fault]

    drawn = [faults(level) for level in range(4)]

    assert drawn[0] == []
    assert 0 < len(drawn[1]) < len(drawn[2]) < len(drawn[3])
    assert set(drawn[3]) == set(FaultKind)
    assert set(drawn[1]) == {"server_error", "unavailable", "bad_gateway", "close"}
    assert faults(3) == drawn[3]


# --------------------------------------------------------------------------------------------------------- control side


@pytest.mark.sources
def test_a_job_that_would_end_before_it_hangs_is_refused(simulator: RunningSimulator) -> None:
    """The README's example hangs."""
    readme = (Path(__file__).parents[2] / "exporter" / "simulator" / "README.md").read_text(encoding="utf-8")
    [example] = re.findall(r"/simulator/jobs -d '(.*hangs_after.*)'", readme)
    with httpx.Client(base_url=simulator.control_url, timeout=PATIENCE, trust_env=False) as control:
        refused = control.post("/jobs", json={"total": 9, "hangs_after": 8})
        taken = control.post("/jobs", content=example)

    assert refused.status_code == 400
    assert "hangs_after: expected less than 8 s, after which the job has finished" in refused.text
    assert taken.is_success


def test_the_control_side_rehearses_a_failure(simulator: RunningSimulator) -> None:
    with httpx.Client(base_url=simulator.control_url, timeout=PATIENCE, trust_env=False) as control:
        since = control.get("").json()["now"]
        job_id = control.post("/jobs", json={"operation": "move", "total": 9, "failed": 4, "hangs_after": 4}).json()[
            "id"
        ]
        lost = control.post("/jobs", json={"operation": "move", "user": "demo"}).json()["id"]
        assert control.post(f"/jobs/{job_id}", json={"failed": 5}).status_code == 200
        assert control.delete(f"/jobs/{lost}").status_code == 200
        assert control.post("/clock", json={"advance": 30}).json()["now"] == since + 30
        assert control.post(f"/jobs/{job_id}/finish").status_code == 200
        truth = control.get("/truth", params={"since": since + 1}).json()

    assert truth["finished"]["move"] == {"succeeded": 0, "partial": 1, "failed": 0, "incomplete": 0, "lost": 0}
    assert truth["files"]["move"] == {"total": 9, "completed": 4, "failed": 5}
    assert truth["errors"]["move"] == {"5001": 5}


def test_the_control_side_queues_faults_and_tells_of_requests(
    client: httpx.Client, shared_simulator: RunningSimulator
) -> None:
    with httpx.Client(base_url=shared_simulator.control_url, timeout=PATIENCE, trust_env=False) as control:
        control.post("/faults", json={"kind": "maintenance", "matching": "user$", "times": 2})
        assert client.get("/user").status_code == 503
        assert shared_simulator.platform.waiting_faults() == 1
        control.delete("/faults")
        assert client.get("/user").status_code == 200
        requests = control.get("/requests").json()

    assert [(request["target"], request["status"], request["fault"]) for request in requests[-2:]] == [
        ("/v2/user", 503, "maintenance"),
        ("/v2/user", 200, None),
    ]


def test_the_control_side_changes_the_platform() -> None:
    with running(STILL) as simulator, httpx.Client(trust_env=False, timeout=PATIENCE) as control:
        at, api = simulator.control_url, simulator.url
        assert control.post(f"{at}/token", json={"token": "fresh"}).status_code == 200
        assert control.post(f"{at}/rate", json={"remaining": 1}).status_code == 200
        assert control.post(f"{at}/behaviour", json={"order": "mixed"}).json()["order"] == "mixed"
        answers = [control.get(f"{api}/user", headers={"X-SBG-Auth-Token": t}) for t in ("fresh", "fresh", DEMO_TOKEN)]

    assert [answer.status_code for answer in answers] == [200, 429, 401]


@pytest.mark.parametrize(
    ("request_line", "body", "status", "said"),
    [
        ("POST /jobs", {"totl": 3}, 400, "unknown field `totl`"),
        ("POST /jobs", {"failed": 1, "errors": {"often": 1}}, 400, "errors: expected codes that are numbers or 'none'"),
        ("POST /jobs", {"user": "nobody"}, 404, "no user 'nobody'"),
        ("POST /jobs/1/finish", {}, 404, "no job '1'"),
        ("POST /clock", {}, 400, "the body must have a field 'advance'"),
        ("POST /clock", {"advance": -1}, 400, "expected 0 or more seconds"),
        ("POST /faults", {"kind": "gremlins"}, 400, "Invalid enum value 'gremlins'"),
        ("POST /faults", {"kind": "hang", "matching": "("}, 400, "not a regular expression"),
        ("POST /behaviour", {"order": "random"}, 400, "Invalid enum value 'random'"),
        ("POST /behaviour", {"most_per_page": 0}, 400, "Expected `int` >= 1"),
        ("GET /jobs", None, 404, "no control request GET /simulator/jobs"),
    ],
)
def test_the_control_side_says_what_is_wrong(
    shared_simulator: RunningSimulator, request_line: str, body: object, status: int, said: str
) -> None:
    method, path = request_line.split()
    answer = httpx.request(method, shared_simulator.control_url + path, json=body, timeout=PATIENCE, trust_env=False)

    assert answer.status_code == status
    assert said in answer.json()["error"]


# ------------------------------------------------------------------------------------------------------------- serving


def test_stopping_does_not_wait_for_hanging_clients() -> None:
    ended: list[str] = []

    def wait_for_ever(url: str) -> None:
        try:
            headers = {"X-SBG-Auth-Token": DEMO_TOKEN}
            httpx.get(f"{url}/user", headers=headers, timeout=None, trust_env=False)  # noqa: S113  # it is to hang
        except httpx.TransportError as error:
            ended.append(type(error).__name__)

    with ExitStack() as clients, running(STILL) as simulator:
        simulator.platform.queue(Fault(kind=FaultKind.HANG))
        simulator.platform.queue(Fault(kind=FaultKind.DRIP, pause=3600))
        for _ in range(2):
            clients.enter_context(BackgroundTask(partial(wait_for_ever, simulator.url)))
        eventually(lambda: not simulator.platform.waiting_faults())

    assert len(ended) == 2


def test_stopping_does_not_wait_for_clients_that_do_not_read() -> None:
    with running(STILL) as simulator:
        address = urlsplit(simulator.url)
        simulator.platform.queue(Fault(kind=FaultKind.OVERSIZED, size=30_000_000))
        client = socket.create_connection((address.hostname, address.port))
        client.sendall(f"GET /v2/user HTTP/1.1\r\nHost: here\r\nX-SBG-Auth-Token: {DEMO_TOKEN}\r\n\r\n".encode())
        assert client.recv(8) == b"HTTP/1.1"

    with client:
        assert sum(len(piece) for piece in iter(lambda: client.recv(1_000_000), b"")) < 30_000_000


def test_an_address_in_use_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with running(STILL) as simulator:
        taken = urlsplit(simulator.url).netloc

        assert serve(replace(STILL, listen=taken), threading.Event()) == 1

    assert (
        capsys.readouterr().err
        == f"sbg-exporter: cannot listen on {taken}: Address already in use; choose another address with --listen\n"
    )


def test_the_start_says_where_the_tokens_of_further_users_are(capsys: pytest.CaptureFixture[str]) -> None:
    stopped = threading.Event()
    stopped.set()

    users = {"token-of-bob": "bob", "token-of-eve": "eve"}
    assert serve(replace(STILL, token="token-of-demo", users=users), stopped) == 0

    said = capsys.readouterr().out
    assert "further users:      bob, eve; their tokens are as given in users\n" in said
    assert "token-of" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_simulator_in_the_foreground_ends_well_on_a_signal(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "exporter", "simulate", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        url = said[0].split()[-1]
        assert httpx.get(url, trust_env=False).status_code == 200
        process.send_signal(number)

        assert process.wait(PATIENCE) == 0
    assert said[1].split()[-1] == DEMO_TOKEN


def test_connections_of_its_last_moment_are_closed_too() -> None:
    """Those that asyncio accepts in the moment of closing were left open, and garbage collection told a later test."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(5):
            opened: list[socket.socket] = []
            with ExitStack() as background, running(QUIET) as simulator:
                background.enter_context(BackgroundTask(partial(_knock, simulator.url, opened)))
            for connection in opened:
                connection.close()
        gc.collect()

    assert [str(each.message) for each in told if each.category is ResourceWarning] == []


def _knock(url: str, opened: list[socket.socket]) -> None:
    """Connect again and again until nobody listens."""
    address = urlsplit(url)
    with suppress(OSError):
        while True:
            opened.append(socket.create_connection((address.hostname, address.port), PATIENCE))
            opened[-1].sendall(b"GET /v2/user HTTP/1.1\r\nHost: localhost\r\n\r\n")
            opened[-1].recv(1)


def test_control_requests_without_a_result_say_that_they_are_done() -> None:
    platform = Platform(replace(QUIET, users={"token-of-bob": "bob"}))
    job = platform.submit(JobScript())

    def posted(path: str, body: object, method: str = "POST") -> object:
        call = Call(
            method, f"/simulator/{path}", {}, {}, msgspec.json.encode(body), "http://here", f"/simulator/{path}"
        )
        return msgspec.json.decode(control(platform, call).body)

    assert posted("token", {"token": "another-token", "user": "bob"}) == {
        "user": "bob",
        "token": "replaced; the old one is refused",
    }
    assert posted(f"jobs/{job}/finish", {}) == {"ok": True}
    assert posted("faults", {}, "DELETE") == {"ok": True}

"""Each fault between daemon and platform has a label, is recovered from, and changes no count.

One daemon polls one simulated platform per fault, and all faults happen at once: no account waits for another. Where
the daemon waits for minutes, both use a clock that is SPEED times faster.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from exporter.simulator.faults import Fault, FaultKind, Malformed
from exporter.simulator.platform import Request
from exporter.simulator.scripts import JobScript
from exporter.simulator.server import DEMO_TOKEN, QUIET, Order, RunningSimulator, running
from tests.background import BackgroundTask
from tests.harness import Account, Daemon, Installation, MonotonicCounters, Scrape, counted, difference, fast, windows
from tests.recording_server import RecordingServer
from tests.waiting import eventually

SPEED = 10
PLENTY = replace(QUIET, rate_limit=100_000)
LIST, USER = "/v2/async/files", "/v2/user"
STUCK = JobScript(total=6, failed=2, queued=0, resolving=0, running=0.002, hangs_after=0.001)
FAST = JobScript(total=5, failed=1, queued=0, resolving=0, running=0)
RESULTS = {
    FaultKind.SERVER_ERROR: "unreachable",
    FaultKind.UNAVAILABLE: "unreachable",
    FaultKind.BAD_GATEWAY: "unreachable",
    FaultKind.CLOSE: "unreachable",
    FaultKind.CUT: "unreachable",
    FaultKind.DRIP: "unreachable",
    FaultKind.HANG: "unreachable",
    FaultKind.RATE_LIMITED: "rate_limited",
    FaultKind.MAINTENANCE: "maintenance",
    FaultKind.HTML: "bad_answer",
    FaultKind.BROKEN_JSON: "bad_answer",
    FaultKind.REDIRECT: "bad_answer",
    FaultKind.UNAUTHORIZED: "unauthorized",
}
"""The label of each fault in ``sbg_exporter_polls_total``."""
RECOVERING = [kind for kind in RESULTS if kind is not FaultKind.MAINTENANCE]
AMONG_OTHERS: dict[Malformed, str | None] = {
    Malformed.ID_MISSING: "no_id",
    Malformed.ID_NUMBER: None,
    Malformed.ID_ENDLESS: "bad_id",
    Malformed.STATE_MISSING: "no_state",
    Malformed.STATE_NUMBER: "no_state",
    Malformed.TYPE_MISSING: None,
    Malformed.COUNT_TEXT: "bad_count",
    Malformed.COUNT_NEGATIVE: "bad_count",
    Malformed.COUNT_MISSING: None,
    Malformed.COUNT_NUMERAL: None,
    Malformed.TIME_GARBAGE: "bad_time",
    Malformed.TIME_NULL: None,
    Malformed.RESULT_OBJECT: None,
    Malformed.NOT_AN_OBJECT: "not_a_job",
}
"""The reason why a record is skipped; None for an unusual but readable one."""


@dataclass
class Rehearsal:
    """One daemon, its platforms by account, and scrapes before and during the faults."""

    place: Installation
    daemon: Daemon
    simulators: dict[str, RunningSimulator]
    before: Scrape
    during: dict[str, Scrape]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """Inject all faults at once and wait until each has failed a poll."""
    with ExitStack() as stack:
        # Unlike an exhausted limit, an unexpected 429 comes with a window that ends soon.
        settings = {str(kind): replace(PLENTY, rate_window=30) for kind in (*RESULTS, "healthy")}
        settings["malformed"] = PLENTY
        simulators = {name: stack.enter_context(running(fast(each, SPEED))) for name, each in settings.items()}
        place = stack.enter_context(
            Installation(
                tmp_path_factory.mktemp("faults") / "place",
                *(Account.at(simulator, name) for name, simulator in simulators.items()),
                speed=SPEED,
                poll_interval=8,
                request_timeout=4 * SPEED,  # four seconds of the machine, which may be busy
                stale_after="1d",  # On a busy machine it takes many minutes of the fast clock until all have failed.
            )
        )
        daemon = stack.enter_context(place.running())
        for simulator in simulators.values():
            simulator.platform.submit(STUCK)
            simulator.platform.submit(FAST)
            simulator.platform.submit(FAST)
        before = daemon.scrape_when(
            lambda now: all(
                now.total("sbg_jobs", account=name) == 3 and now.total("sbg_file_errors_total", account=name) == 2
                for name in simulators
            )
        )
        for name, simulator in simulators.items():
            if name in RESULTS:
                simulator.platform.queue(Fault(kind=FaultKind(name)), times=1000)
            simulator.platform.submit(FAST)
        for record in AMONG_OTHERS:
            fault = Fault(kind=FaultKind.MALFORMED_RECORD, record=record)
            simulators["malformed"].platform.queue(fault, matching=r"/async/files\?")
        during = {str(kind): daemon.scrape_when(partial(failed_polls, account=kind)) for kind in RESULTS}
        for name, simulator in simulators.items():
            if name not in {"malformed", FaultKind.UNAUTHORIZED}:
                simulator.platform.forget_faults()
        yield Rehearsal(place, daemon, simulators, before, during)


def failed_polls(scrape: Scrape, account: str) -> float:
    polls = scrape.total("sbg_exporter_polls_total", account=account)
    return polls - (scrape.value("sbg_exporter_polls_total", account=account, result="success") or 0)


def flags(scrape: Scrape, account: str) -> tuple[float | None, ...]:
    return tuple(scrape.value(name, account=account) for name in ("sbg_up", "sbg_auth_ok", "sbg_maintenance"))


def asked(simulator: RunningSimulator, path: str = "") -> list[Request]:
    """Return the requests whose path has this prefix, oldest first."""
    return [request for request in simulator.platform.latest_requests() if request.target.startswith(path)]


@pytest.mark.parametrize("kind", RESULTS)
def test_each_fault_has_its_own_result_and_flags(rehearsal: Rehearsal, kind: FaultKind) -> None:
    scrape, result = rehearsal.during[kind], RESULTS[kind]

    series = scrape.series("sbg_exporter_polls_total", account=kind)
    polls = {dict(labels)["result"]: value for labels, value in series.items()}
    assert flags(rehearsal.before, kind) == (1, 1, 0)
    assert {name for name, value in polls.items() if value} == {"success", result}
    assert flags(scrape, kind) == (0, result != "unauthorized", result == "maintenance")


@pytest.mark.parametrize("kind", RESULTS)
def test_failed_poll_keeps_the_last_snapshot(rehearsal: Rehearsal, kind: FaultKind) -> None:
    scrape, before = rehearsal.during[kind], rehearsal.before

    assert counted(scrape, kind) == counted(before, kind)
    for gauge in (
        "sbg_jobs",
        "sbg_jobs_files_failed",
        "sbg_unfinished_job_files_failed",
        "sbg_failed_job_files_failed",
    ):
        assert scrape.series(gauge, account=kind) == before.series(gauge, account=kind) != {}
    assert scrape.value("sbg_jobs", account=kind, operation="copy", state="finished") == 2


@pytest.mark.fault(
    "twelve other accounts fail in every way at once",
    action="polls each account by itself",
    shown="everything of this account",
    recovery="none needed",
)
def test_fault_of_one_account_does_not_affect_others(rehearsal: Rehearsal) -> None:
    scrape = rehearsal.daemon.await_exact("healthy", rehearsal.simulators["healthy"])

    assert flags(scrape, "healthy") == (1, 1, 0)
    assert failed_polls(scrape, "healthy") == 0


@pytest.mark.fault(
    "the token is refused: `unauthorized`",
    action="asks for the user only, every 5 minutes or when the token changes",
    shown="`sbg_up` 0, `sbg_auth_ok` 0; the last gauges",
    recovery="a new token in the file, without a restart",
)
def test_while_the_token_is_refused_only_the_user_is_asked_for(rehearsal: Rehearsal) -> None:
    kind, daemon = FaultKind.UNAUTHORIZED, rehearsal.daemon
    simulator = rehearsal.simulators[kind]
    first = next(n for n, request in enumerate(asked(simulator)) if request.status == 401)
    daemon.await_polls("healthy", 3)

    assert {request.target for request in asked(simulator)[first + 1 :]} <= {USER}

    simulator.platform.forget_faults()
    simulator.platform.rotate("a-fresh-token-00000000000000000")
    rehearsal.place.write_token(kind, "a-fresh-token-00000000000000000")
    scrape = daemon.await_exact(kind, simulator)
    assert flags(daemon.scrape_when(lambda now: now.value("sbg_up", account=kind)), kind) == (1, 1, 0)
    assert scrape.total("process_start_time_seconds") == rehearsal.before.total("process_start_time_seconds")


@pytest.mark.parametrize("kind", [kind for kind in RECOVERING if kind is not FaultKind.UNAUTHORIZED])
@pytest.mark.fault(
    "requests fail: `{kind}`",
    action="polls on; connection failures and 5xx are retried within the poll",
    shown="`sbg_up` 0 and the poll's result; the last gauges",
    recovery="the next poll that succeeds",
)
def test_it_recovers_by_itself_with_exact_counters(rehearsal: Rehearsal, kind: FaultKind) -> None:
    rehearsal.daemon.await_exact(kind, rehearsal.simulators[kind])
    scrape = rehearsal.daemon.scrape_when(lambda now: now.value("sbg_up", account=kind))

    assert flags(scrape, kind) == (1, 1, 0)
    assert scrape.value("sbg_jobs", account=kind, operation="copy", state="finished") == 3
    assert scrape.value("sbg_files_failed_total", account=kind, operation="copy") == 4


@pytest.mark.fault(
    "a job record without an id, or with an endless one",
    action="skips it once",
    shown="`sbg_exporter_records_skipped_total`",
    recovery="the next response with a readable record",
)
@pytest.mark.fault(
    "a job record without a state, or with a number for one",
    action="skips it once",
    shown="`sbg_exporter_records_skipped_total`",
    recovery="the next response with a readable record",
)
@pytest.mark.fault(
    "a count in words, or below zero",
    action="skips the record",
    shown="`sbg_exporter_records_skipped_total`",
    recovery="the next response with a readable record",
)
@pytest.mark.fault(
    "numbers as text, a time that is no time, a result that is no list",
    action="reads what can be read",
    shown="everything else of that job",
    recovery="none needed",
)
def test_a_malformed_record_is_skipped_and_costs_nothing_else(rehearsal: Rehearsal) -> None:
    daemon, simulator = rehearsal.daemon, rehearsal.simulators["malformed"]
    eventually(lambda: not simulator.platform.waiting_faults(), within=60)
    daemon.await_polls("malformed", 2)
    scrape = daemon.await_exact("malformed", simulator)

    series = scrape.series("sbg_exporter_records_skipped_total", account="malformed")
    skipped = {dict(labels)["reason"]: value for labels, value in series.items() if value}
    assert skipped == Counter(reason for reason in AMONG_OTHERS.values() if reason)
    assert failed_polls(scrape, "malformed") == 0
    assert scrape.total("sbg_jobs", account="malformed") == 4
    assert not scrape.total("sbg_exporter_counts_lowered_total", account="malformed")


# ----------------------------------------------------------------------------------------------- the token and the user


@pytest.mark.fault(
    "403 for the user: the token may not be used",
    action="asks for nothing else",
    shown="`sbg_up` 0, `sbg_auth_ok` 0; no counter",
    recovery="a new token in the file",
)
def test_a_forbidden_token_is_refused_too(tmp_path: Path) -> None:
    refusal = '{"status": 403, "code": 90002, "message": "Forbidden."}'
    with (
        RecordingServer(403, lambda _: refusal) as platform,
        Installation(tmp_path / "place", Account("sim", f"{platform.origin}/v2")) as place,
        place.running() as daemon,
    ):
        scrape = daemon.scrape()

    assert flags(scrape, "sim") == (0, 0, None)
    assert scrape.value("sbg_exporter_polls_total", account="sim", result="unauthorized") == 1
    assert [request.path for request in platform.requests] == [USER]
    assert scrape.series("sbg_jobs_submitted_total") == scrape.series("sbg_jobs") == {}


@pytest.mark.fault(
    "two entries of one user",
    action="polls the first only",
    shown="`sbg_up` 0 and result `error` for the second, one log line",
    recovery="one entry is removed",
    part="The configuration",
)
def test_second_entry_for_the_same_user_is_not_polled(tmp_path: Path) -> None:
    with (
        running(PLENTY) as simulator,
        Installation(tmp_path / "place", Account.at(simulator, "first"), Account.at(simulator, "second")) as place,
        place.running() as daemon,
    ):
        simulator.platform.submit(FAST)
        daemon.await_polls("first", 3)
        scrape = daemon.await_exact("first", simulator)

        assert scrape.value("sbg_up", account="first") == 1
        assert scrape.value("sbg_up", account="second") == 0
        assert scrape.value("sbg_exporter_polls_total", account="second", result="error") == 1
        assert scrape.series("sbg_jobs_submitted_total", account="second") == {}
        [line] = daemon.said("poll.failed", account="second")
        assert "first" in str(line["reason"])
        polls = {"account": "first", "result": "success"}
        before = daemon.scrape().value("sbg_exporter_polls_total", **polls) or 0
        requests = len(asked(simulator, LIST))  # at the start, the second account may have been faster once
        daemon.await_polls("first", 3)
        more = len(asked(simulator, LIST)) - requests
        after = daemon.scrape().value("sbg_exporter_polls_total", **polls) or 0
        assert more <= after - before + 1


@pytest.mark.fault(
    "the token file gets another user's token",
    action="counts nothing of that user",
    shown="`sbg_up` 0, result `error`; the counters as they were",
    recovery="the right token in the file",
    part="The configuration",
)
def test_token_of_another_user_stops_the_account(tmp_path: Path) -> None:
    other = "token-of-bob-000000000000000000"
    with (
        running(replace(PLENTY, users={other: "bob"})) as simulator,
        Installation(tmp_path / "place", Account.at(simulator)) as place,
        place.running() as daemon,
    ):
        simulator.platform.submit(FAST)
        simulator.platform.submit(FAST, "bob")
        before = daemon.await_exact("sim", simulator)
        place.write_token("sim", other)
        daemon.scrape_when(lambda now: now.value("sbg_up", account="sim") == 0)
        simulator.platform.submit(FAST)
        simulator.platform.submit(FAST, "bob")
        listed = [request for request in asked(simulator, LIST) if request.user == "bob"]
        during = daemon.scrape()

        assert listed == []
        assert counted(during, "sim") == counted(before, "sim")
        assert during.value("sbg_exporter_polls_total", account="sim", result="error") == 1

        place.write_token("sim", DEMO_TOKEN)
        daemon.await_exact("sim", simulator)
        daemon.scrape_when(lambda now: now.value("sbg_up", account="sim"))


# --------------------------------------------------------------------------------------------------- number of requests


@pytest.mark.fault(
    "429: the rate limit is used up",
    action="waits for its reset",
    shown="`sbg_up` 0, result `rate_limited`",
    recovery="the first poll after the reset",
)
def test_429_pauses_requests_until_the_reset(tmp_path: Path) -> None:
    with (
        running(fast(replace(QUIET, rate_window=60), SPEED)) as simulator,
        Installation(tmp_path / "place", Account.at(simulator), speed=SPEED, poll_interval=5) as place,
        place.running() as daemon,
    ):
        daemon.await_polls("sim")
        simulator.platform.use_up()
        daemon.scrape_when(lambda now: now.value("sbg_exporter_polls_total", account="sim", result="rate_limited"))
        simulator.platform.submit(FAST)
        rate = httpx.get(
            f"{simulator.url}/rate_limit", headers={"X-SBG-Auth-Token": DEMO_TOKEN}, trust_env=False
        ).json()
        daemon.await_exact("sim", simulator)
        requests = asked(simulator, LIST)

    refused = next(n for n, request in enumerate(requests) if request.status == 429)
    assert requests[refused + 1].at >= rate["rate"]["reset"]
    assert requests[refused + 1].status == 200


@pytest.mark.real_time
def test_it_uses_no_more_than_its_share_of_each_window(tmp_path: Path) -> None:
    """On the machine's own clock: on a faster one a request would take seconds, and arrive in another window."""
    with (
        running(replace(QUIET, rate_limit=8, rate_window=6)) as simulator,
        Installation(tmp_path / "place", Account.at(simulator)) as place,
        place.running() as daemon,
    ):
        simulator.platform.submit(FAST)
        eventually(lambda: len(windows(simulator)) >= 3, within=60)
        scrape = daemon.await_exact("sim", simulator)
        requests = windows(simulator)
        statuses = {request.status for request in asked(simulator)}

    assert max(len(each) for each in requests) <= 2
    assert scrape.value("sbg_exporter_allowance_requests", account="sim") == 2
    assert scrape.value("sbg_exporter_rate_limit", account="sim") == 8
    assert statuses == {200}


@pytest.mark.fault(
    "an account's responses never come",
    action="waits in that account's thread only",
    shown="everything of the other account; `/-/healthy` 200",
    recovery="the platform responds",
)
def test_an_account_that_hangs_delays_no_other(tmp_path: Path) -> None:
    with (
        running(PLENTY) as hung,
        running(PLENTY) as lively,
        Installation(tmp_path / "place", Account.at(hung, "hung"), Account.at(lively, "lively")) as place,
    ):
        hung.platform.queue(Fault(kind=FaultKind.HANG), times=1000)
        daemon = place.start()
        lively.platform.submit(FAST)
        daemon.scrape_when(lambda now: now.series("sbg_up", account="lively"))
        daemon.await_polls("lively", 3)
        scrape = daemon.await_exact("lively", lively)

        assert scrape.total("sbg_exporter_polls_total", account="hung") == 0
        assert scrape.value("sbg_up", account="hung") is None
        assert daemon.get("/-/ready").status_code == 503
        assert daemon.get("/-/healthy").status_code == 200


# ----------------------------------------------------------------------------------------------------------- many pages


@contextmanager
def churning(simulator: RunningSimulator) -> Iterator[Callable[[], int]]:
    """After each page request, add a job and remove an existing one. Return the number of changes."""
    platform, rounds, seen = simulator.platform, [0], [0]
    old: list[str] = []
    for offset in range(0, 300, 100):
        page = httpx.get(
            f"{simulator.url}/async/files?offset={offset}&limit=100",
            headers={"X-SBG-Auth-Token": DEMO_TOKEN},
            trust_env=False,
        )
        old += [job["id"] for job in page.json()["items"]]

    def churn() -> None:
        there = len(platform.latest_requests())
        if there > seen[0] > 0 and old:
            platform.submit(FAST if there % 2 else STUCK)
            platform.remove(old.pop(there * 7919 % len(old)))
            rounds[0] += 1
        seen[0] = there

    with BackgroundTask(churn, every=0.001):
        yield lambda: rounds[0]


@pytest.mark.fault(
    "the list moves while it is read",
    action="lets pages overlap, and steps back",
    shown="only complete listings",
    recovery="none needed",
)
def test_list_that_changes_during_a_listing_is_counted_exactly(tmp_path: Path) -> None:
    counters = MonotonicCounters()
    with ExitStack() as stack:
        simulators = {
            str(order): stack.enter_context(running(replace(PLENTY, jobs=290, order=order)))
            for order in (Order.NEWEST, Order.OLDEST, Order.MIXED)
        }
        accounts = [Account.at(simulator, name) for name, simulator in simulators.items()]
        place = stack.enter_context(Installation(tmp_path / "place", *accounts))
        daemon = stack.enter_context(place.running())
        daemon.scrape_when(lambda now: now.total("sbg_jobs") == 3 * 290)

        with ExitStack() as movements:
            rounds = [movements.enter_context(churning(simulator)) for simulator in simulators.values()]
            eventually(lambda: min(each() for each in rounds) >= 8, describe=daemon.output)
            counters.see(daemon.scrape())
        for name, simulator in simulators.items():
            counters.see(daemon.await_exact(name, simulator))
        scrape = daemon.scrape_when(lambda now: all(now.total("sbg_jobs", account=name) == 290 for name in simulators))

    submitted = sum(scrape.total("sbg_jobs_submitted_total", account=name) for name in simulators)
    assert submitted >= 24
    assert scrape.total("sbg_jobs_finished_total", outcome="lost") == 0


# --------------------------------------------------------------------------------------------------- all faults at once


@pytest.mark.fault(
    "all faults at random, with restarts in between",
    action="as for each alone",
    shown="results by their cause",
    recovery="polls after the faults have ended",
)
def test_counters_are_exact_after_all_faults_at_once(tmp_path: Path) -> None:
    """The daemon is restarted whenever an account has to wait. A job whose endpoint failed is waited for."""
    tokens = {f"token-of-{name}-000000000000000000": name for name in ("alice", "bob", "carol")}
    users = {"demo": DEMO_TOKEN} | {name: token for token, name in tokens.items()}
    counters = MonotonicCounters()
    with (
        running(fast(replace(PLENTY, chaos=3, seed=5, rate_window=30, users=tokens), SPEED)) as simulator,
        Installation(
            tmp_path / "place",
            *(Account.at(simulator, user, token) for user, token in users.items()),
            speed=SPEED,
            poll_interval=10,
            request_timeout=0.5 * SPEED,
        ) as place,
    ):

        def off(scrape: Scrape, user: str) -> dict[str, int]:
            return difference(scrape, user, simulator, user)

        def outcome(daemon: Daemon) -> str:
            scrape = counters.see(daemon.scrape())
            behind = [user for user in users if off(scrape, user)]
            waiting = [
                user
                for user in behind
                if scrape.value("sbg_auth_ok", account=user) == 0
                or scrape.value("sbg_maintenance", account=user)
                or scrape.value("sbg_exporter_polls_total", account=user, result="rate_limited")
            ]
            if not behind:
                return "exact"
            return "has to wait" if waiting == behind else ""

        def told(daemon: Daemon) -> str:
            scrape = daemon.scrape()
            return f"{ {user: off(scrape, user) for user in users} }\n{daemon.output()}"

        last = ""
        while (more := len(asked(simulator)) < 80) or last != "exact":
            for user in users if more else ():
                simulator.platform.submit(FAST, user)
                simulator.platform.submit(STUCK, user)
            with place.running() as daemon:
                last = eventually(partial(outcome, daemon), within=90, describe=partial(told, daemon))

    assert len({request.fault for request in asked(simulator)}) >= 8


@pytest.mark.fault(
    "the platform is down at the start",
    action="shows what was saved",
    shown="the saved counters; no gauges",
    recovery="the first poll that succeeds",
)
def test_counters_are_shown_if_the_platform_is_down_at_the_start(tmp_path: Path) -> None:
    with running(PLENTY) as simulator:
        place = Installation(tmp_path / "place", Account.at(simulator))
        with place.running() as daemon:
            simulator.platform.submit(FAST)
            before = daemon.await_exact("sim", simulator)

    with place.running() as daemon:
        after = daemon.scrape()

    assert counted(after, "sim") == counted(before, "sim") != Counter()
    assert flags(after, "sim") == (0, None, None)
    assert after.series("sbg_jobs") == {}
    assert after.value("sbg_exporter_polls_total", account="sim", result="unreachable") == 1
    since = "sbg_exporter_counting_since_timestamp_seconds"
    assert after.value(since, account="sim") == before.value(since, account="sim")


@pytest.mark.fault(
    "the platform is under maintenance",
    action="asks once a minute",
    shown="`sbg_up` 0, `sbg_maintenance` 1; the last gauges",
    recovery="within a minute of its end",
)
def test_end_of_maintenance_is_noticed_within_a_minute(rehearsal: Rehearsal) -> None:
    kind, simulator = FaultKind.MAINTENANCE, rehearsal.simulators[FaultKind.MAINTENANCE]
    scrape = rehearsal.daemon.scrape_when(lambda now: now.value("sbg_up", account=kind), within=90)

    assert flags(scrape, kind) == (1, 1, 0)
    assert not difference(scrape, kind, simulator)
    in_maintenance = [request.at for request in asked(simulator) if request.status == 503]
    assert in_maintenance
    assert all(later - earlier >= 60 for earlier, later in pairwise(in_maintenance))

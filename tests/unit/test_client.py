"""Every way in which the platform can fail to answer has a name and a bound; the token goes nowhere else."""

import base64
import gzip
import io
import json
import socket
import ssl
import threading
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.api import decoding
from exporter.api.allowance import LONGEST_PAUSE, Allowance
from exporter.api.bodies import LARGEST_ANSWER
from exporter.api.client import ATTEMPTS, Client, Endpoint, RequestCompleted, RetryScheduled, after_failure
from exporter.api.deadline import Deadline
from exporter.api.models import PAGE_LIMIT, Job, Operation, Priority, Response
from exporter.api.transport import TrustedCertificates, transport_to
from exporter.errors import (
    AllowanceExhausted,
    AnswerTooLarge,
    BadAnswer,
    BadRequest,
    ConfigError,
    JobRequestFailed,
    Maintenance,
    NotThePlatform,
    Overloaded,
    PollError,
    RateLimited,
    Stopping,
    Unauthorized,
    Unreachable,
)
from exporter.redaction import Secret
from exporter.simulator.faults import Fault, FaultKind, Malformed
from exporter.simulator.scripts import JobScript
from exporter.simulator.server import DEMO_TOKEN, QUIET, RunningSimulator, running
from tests.certificates import Certificate, new_certificate
from tests.clocks import START, ManualClock
from tests.raw_server import Connection, RawServer, Script, answering, reply, serving
from tests.recording_server import RecordingServer

TOKEN = "feedfacefeedfacefeedfacefeedface"
USER = b'{"username": "rfranklin"}'
EMPTY_PAGE = b'{"items": []}'
DATE = "Wed, 20 Feb 2019 12:03:50 GMT"
DATE_SECONDS = 1550664230


@dataclass
class Told:
    """A listener that remembers."""

    asked: list[RequestCompleted] = field(default_factory=list)
    retried: list[RetryScheduled] = field(default_factory=list)

    def on_request_completed(self, event: RequestCompleted) -> None:
        self.asked.append(event)

    def on_retry_scheduled(self, event: RetryScheduled) -> None:
        self.retried.append(event)

    @property
    def statuses(self) -> list[str]:
        return [event.status for event in self.asked]


class ClientFixture:
    """What a test asks with: clients of any address, on a clock that does not wait."""

    def __init__(self, stack: ExitStack, clock: ManualClock) -> None:
        self._stack = stack
        self.clock = clock
        self.told = Told()
        self.allowance = Allowance(1.0)

    def client(
        self,
        url: str,
        *,
        token: str = TOKEN,
        timeout: float = 200.0,
        tls: TrustedCertificates | None = None,
        proxy: str | None = None,
    ) -> Client:
        deadline = Deadline()
        transport = transport_to(deadline, tls, None if proxy is None else Secret(proxy))
        client = Client(
            url,
            transport,
            deadline,
            allowance=self.allowance,
            clock=self.clock,
            observer=self.told,
            timeout=timeout,
            prepare=transport.prepare,
        )
        self._stack.callback(client.close)
        client.use_token(Secret(token))
        return client

    def serving(self, script: Script, tls: ssl.SSLContext | None = None) -> RawServer:
        return self._stack.enter_context(serving(script, tls))

    def answered(self, *replies: bytes) -> Client:
        """A client of a server that gives these replies."""
        return self.client(self.serving(answering(*replies)).url)

    def simulator(self) -> tuple[RunningSimulator, Client]:
        """A simulated platform whose clock stands still, and a client of it."""
        simulator = self._stack.enter_context(running(replace(QUIET, speed=0, start=START)))
        return simulator, self.client(simulator.url, token=DEMO_TOKEN)


@pytest.fixture
def bench(clock: ManualClock) -> Iterator[ClientFixture]:
    with ExitStack() as stack:
        yield ClientFixture(stack, clock)


Ask = Callable[[Client], object]


def user(client: Client) -> object:
    return client.user()


def page(client: Client) -> object:
    return client.page(0)


def one_job(client: Client) -> object:
    return client.job(Operation.COPY, "7")


ASKS: dict[str, Ask] = {"user": user, "page": page, "job": one_job}
every_question = pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)


def failure(client: Client, ask: Ask = page) -> PollError:
    """The error that *ask* ends with."""
    with pytest.raises(PollError) as caught:
        ask(client)
    return caught.value


def targets(server: RawServer) -> list[str]:
    """The queries of all requests, in their order."""
    return [head.split(b" ", 2)[1].decode().partition("?")[2] for head in server.heads]


def hangs_up(*replies: bytes) -> Script:
    """One answer per connection."""
    left = list(replies)

    def script(connection: Connection) -> None:
        connection.request()
        connection.send(left.pop(0))

    return script


def fault(code: int | None = None, message: str = "") -> bytes:
    return json.dumps({"code": code, "message": message}).encode()


# ---- good answers ----


def test_it_asks_who_the_token_belongs_to(bench: ClientFixture) -> None:
    _, client = bench.simulator()

    assert client.user() == Response("demo", START)


def test_it_reads_a_page_with_the_platforms_time_and_count(bench: ClientFixture) -> None:
    simulator, client = bench.simulator()
    ids = [simulator.platform.submit(JobScript(total=3)) for _ in range(3)]

    response = client.page(1)

    assert [job.id for job in response.page.jobs] == [ids[1], ids[0]]
    assert (response.date, response.total) == (START, 3)


def test_it_asks_for_one_job_and_knows_when_there_is_none(bench: ClientFixture) -> None:
    simulator, client = bench.simulator()
    job_id = simulator.platform.submit(JobScript(operation="move"))

    found = client.job(Operation.MOVE, job_id)
    missing = client.job(Operation.COPY, job_id)

    assert found == Response(Job(job_id, "move", "submitted", 0, 0, 0), START)
    assert missing == Response(None, START)
    assert bench.told.statuses == ["200", "404"]


def test_every_request_carries_what_the_documentation_asks_for(bench: ClientFixture) -> None:
    server = bench.serving(answering(reply(body=EMPTY_PAGE)))

    bench.client(server.url).page(200)

    [head] = server.heads
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "get /v2/async/files?offset=200&limit=100&fields=!result http/1.1"
    assert f"x-sbg-auth-token: {TOKEN}" in lines
    assert {"accept: application/json", "content-type: application/json", "accept-encoding: gzip"} <= set(lines)
    assert any(line.startswith("user-agent: sbg-exporter/") for line in lines)


def test_the_newest_token_is_sent(bench: ClientFixture) -> None:
    simulator, client = bench.simulator()
    simulator.platform.rotate("0" * 32)
    assert isinstance(failure(client), Unauthorized)

    client.use_token(Secret("0" * 32))

    assert client.user().value == "demo"


def test_an_odd_id_stays_within_its_part_of_the_path(bench: ClientFixture) -> None:
    server = bench.serving(answering(reply(404, fault(10211))))

    bench.client(server.url).job(Operation.COPY, "../../user?x=")

    assert server.heads[0].startswith(b"GET /v2/async/files/copy/..%2F..%2Fuser%3Fx%3D HTTP/1.1\r\n")


def test_an_answer_without_a_date_has_none(bench: ClientFixture) -> None:
    assert bench.answered(reply(body=USER)).user() == Response("rfranklin", None)


# ---- every status ----

STATUSES: dict[str, tuple[bytes, type[PollError], type[PollError]]] = {
    "400": (reply(400, fault(90000, "Bad request.")), BadAnswer, JobRequestFailed),
    "401": (reply(401, fault(90001, "Unauthorized.")), Unauthorized, Unauthorized),
    "401 in HTML": (reply(401, b"<html>"), NotThePlatform, JobRequestFailed),
    "403": (reply(403, fault(90002)), Unauthorized, JobRequestFailed),
    "404": (reply(404, fault(90003)), BadAnswer, JobRequestFailed),
    "404 in HTML": (reply(404, b"<html>"), BadAnswer, JobRequestFailed),
    "404 with the code as text": (reply(404, b'{"code": "10211"}'), BadAnswer, JobRequestFailed),
    "405": (reply(405, fault(90006)), BadAnswer, JobRequestFailed),
    "408": (reply(408, b""), Unreachable, JobRequestFailed),
    "429": (reply(429, fault(1000)), RateLimited, RateLimited),
    "429 in HTML": (reply(429, b"<html>"), RateLimited, RateLimited),
    "500": (reply(500, fault(90004)), Unreachable, JobRequestFailed),
    "500 with code 0": (reply(500, fault(0)), Unreachable, JobRequestFailed),
    "502 in HTML": (reply(502, b"<html><h1>502 Bad Gateway</h1></html>"), Unreachable, JobRequestFailed),
    "503 with code 0": (reply(503, fault(0)), Maintenance, JobRequestFailed),
    "503 with another code": (reply(503, fault(90005)), Unreachable, JobRequestFailed),
    "503 in HTML": (reply(503, b"<html>"), Unreachable, JobRequestFailed),
    "504 without a body": (reply(504, b""), Unreachable, JobRequestFailed),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", BadAnswer, JobRequestFailed),
    "200 in HTML": (reply(200, b"<html>"), BadAnswer, JobRequestFailed),
    "200 without a body": (reply(200, b""), BadAnswer, JobRequestFailed),
}


@pytest.mark.parametrize(("answer", "kind", "of_a_job"), STATUSES.values(), ids=STATUSES)
@every_question
def test_every_status_has_its_error(
    bench: ClientFixture, ask: Ask, answer: bytes, kind: type[PollError], of_a_job: type[PollError]
) -> None:
    expected = of_a_job if ask is one_job else kind

    error = failure(bench.answered(answer), ask)

    assert isinstance(error, expected)
    assert error.result == expected.result
    assert set(bench.told.statuses) == {answer.decode().split()[1]}
    again_without_fields = ask is page and answer.startswith(b"HTTP/1.1 400")
    asks_for_the_user = ask is page and expected is NotThePlatform
    again = again_without_fields or asks_for_the_user
    assert len(bench.told.asked) == (ATTEMPTS if expected is Unreachable else 1 + again)


@pytest.mark.parametrize("ask", [user, page])
def test_only_a_single_job_404_means_that_the_job_is_gone(bench: ClientFixture, ask: Ask) -> None:
    error = failure(bench.answered(reply(404, fault(10211, "Job with provided id not found."))), ask)

    assert str(error) == "the platform answered 404 'Job with provided id not found.' (code 10211)"


def test_an_error_repeats_what_the_platform_said(bench: ClientFixture) -> None:
    error = failure(bench.answered(reply(401, fault(90001, "Unauthorized."))))

    assert str(error) == "the platform refused the token: 401 'Unauthorized.' (code 90001)"


def test_a_job_of_another_id_is_refused(bench: ClientFixture) -> None:
    other = json.dumps({"id": "8", "type": "COPY", "state": "RUNNING"}).encode()

    error = failure(bench.answered(reply(body=other)), one_job)

    assert isinstance(error, JobRequestFailed)
    assert str(error) == "requested job 7, but the platform returned job 8"


# ---- the rate limit ----


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        pytest.param({"retry-after": "7"}, 7, id="Retry-After"),
        pytest.param({"retry-after": "0"}, 0, id="Retry-After now"),
        pytest.param({"retry-after": "Wed, 20 Feb 2019 12:04:00 GMT", "date": DATE}, 10, id="Retry-After a date"),
        pytest.param({"retry-after": "99999999"}, LONGEST_PAUSE, id="Retry-After for years"),
        pytest.param({"retry-after": "7", "x-ratelimit-reset": str(DATE_SECONDS + 99), "date": DATE}, 7, id="both"),
        pytest.param({"x-ratelimit-reset": str(DATE_SECONDS + 99), "date": DATE}, 100, id="reset in seconds"),
        pytest.param({}, 300, id="no header at all"),
    ],
)
def test_429_pauses_for_retry_after_or_until_the_reset(
    bench: ClientFixture, headers: dict[str, str], wait: float
) -> None:
    client = bench.answered(reply(429, fault(1000), headers), reply(body=EMPTY_PAGE))

    limited = failure(client)

    assert isinstance(limited, RateLimited)
    assert limited.retry_after == wait
    if wait:
        with pytest.raises(AllowanceExhausted) as spent:
            client.page(0)
        assert spent.value.wait == wait
    bench.clock.advance(wait)
    assert client.page(0).page.items == 0
    assert bench.told.statuses == ["429", "200"]


@pytest.mark.parametrize("body", [fault(90005), fault(0), b"<html>", b""], ids=["JSON", "maintenance", "HTML", "empty"])
@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        pytest.param({"retry-after": "60"}, 60, id="seconds"),
        pytest.param({"retry-after": " 60.5 "}, 60.5, id="with a fraction"),
        pytest.param({"retry-after": "Wed, 20 Feb 2019 12:04:50 GMT", "date": DATE}, 60, id="a date"),
        pytest.param({"retry-after": "Wed, 20 Feb 2119 12:04:50 GMT", "date": DATE}, LONGEST_PAUSE, id="far date"),
        pytest.param({"retry-after": "99999999"}, LONGEST_PAUSE, id="years"),
    ],
)
@pytest.mark.parametrize("ask", [user, page])
def test_503_with_retry_after_sends_nothing_until_then(
    bench: ClientFixture, ask: Ask, headers: dict[str, str], wait: float, body: bytes
) -> None:
    client = bench.answered(reply(503, body, headers), reply(body=EMPTY_PAGE if ask is page else USER))

    error = failure(client, ask)

    assert isinstance(error, Overloaded | Maintenance)
    assert error.retry_after == max(wait, 60)
    bench.clock.advance(wait / 2)
    with pytest.raises(AllowanceExhausted) as held:
        ask(client)
    assert held.value.wait == pytest.approx(wait / 2)
    assert held.value.reason == "rate_limited"
    bench.clock.advance(wait / 2)
    ask(client)
    assert bench.told.statuses == ["503", "200"]


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"retry-after": ""}, id="empty"),
        pytest.param({"retry-after": "soon"}, id="a word"),
        pytest.param({"retry-after": "-60"}, id="negative"),
        pytest.param({"retry-after": "0"}, id="zero"),
        pytest.param({"retry-after": "nan"}, id="nan"),
        pytest.param({"retry-after": "inf"}, id="infinity"),
        pytest.param({"retry-after": "9" * 4000}, id="endless"),
        pytest.param({"retry-after": "Wed, 20 Feb 2019 12:00:00 GMT", "date": DATE}, id="a date that has passed"),
        pytest.param({"retry-after": "Wed, 20 Feb 2119 12:04:50 GMT"}, id="a date without the platform's time"),
        pytest.param({"retry-after": "Wed, 99 Feb 2019 12:04:50 GMT", "date": DATE}, id="no such date"),
    ],
)
@pytest.mark.parametrize("ask", [user, page])
def test_503_with_an_unusable_retry_after_is_retried_like_one_without(
    bench: ClientFixture, ask: Ask, headers: dict[str, str]
) -> None:
    error = failure(bench.answered(reply(503, fault(90005), headers)), ask)

    assert type(error).result == "unreachable"
    assert bench.told.statuses == ["503"] * ATTEMPTS
    assert bench.clock.pauses == [0.5, 1.0]


def test_a_short_retry_after_delays_the_retry(bench: ClientFixture) -> None:
    client = bench.answered(reply(503, fault(90005), {"retry-after": "3"}), reply(body=EMPTY_PAGE))

    assert client.page(0).page.items == 0
    assert bench.clock.pauses == [3]


def test_a_retry_after_for_one_job_holds_up_jobs_but_not_the_list(bench: ClientFixture) -> None:
    client = bench.answered(reply(503, fault(90005), {"retry-after": "60"}), reply(body=EMPTY_PAGE))

    error = failure(client, one_job)
    assert type(error) is JobRequestFailed
    assert bench.told.statuses == ["503"]
    assert client.page(0).page.items == 0
    with pytest.raises(AllowanceExhausted):
        one_job(client)
    bench.clock.advance(60)
    failure(client, one_job)  # the page that this server sends is no job

    assert bench.told.statuses == ["503", "200", "200"]


@pytest.mark.real_time
def test_429_is_recognised_even_with_a_broken_body(bench: ClientFixture) -> None:
    def hangs(connection: Connection) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 429 Slow Down\r\nRetry-After: 7\r\nContent-Length: 9\r\n\r\n")
        connection.wait_until_left()

    client = bench.client(bench.serving(hangs).url, timeout=1.0)

    limited = failure(client)

    assert isinstance(limited, RateLimited)
    assert limited.retry_after == 7
    assert bench.told.statuses == ["429"]


def test_without_allowance_nothing_is_asked(bench: ClientFixture) -> None:
    bench.allowance = Allowance(0.001)
    server = bench.serving(answering(reply(body=EMPTY_PAGE)))
    client = bench.client(server.url)
    client.page(0)

    with pytest.raises(AllowanceExhausted) as spent:
        client.page(0)

    assert spent.value.wait == 300
    assert len(server.heads) == len(bench.told.asked) == 1


@pytest.mark.parametrize("status", [200, 401, 404, 500])
def test_every_response_updates_the_rate_limit(bench: ClientFixture, status: int) -> None:
    headers = {"x-ratelimit-limit": "40", "x-ratelimit-remaining": "39", "x-ratelimit-reset": "1550664300"}

    with suppress(PollError):
        bench.answered(reply(status, EMPTY_PAGE, headers)).page(0)

    assert bench.allowance.requests == 40
    assert bench.allowance.known.remaining == 39


@pytest.mark.parametrize("wrong_by", [-3600.0, 0.0, 3600.0])
def test_429_pause_ignores_a_wrong_local_clock(bench: ClientFixture, wrong_by: float) -> None:
    simulator, client = bench.simulator()
    bench.clock.wrong_by = wrong_by
    client.page(0)
    simulator.platform.advance(220)
    bench.clock.advance(220)
    simulator.platform.use_up()

    limited = failure(client)
    bench.clock.advance(80.5)
    with pytest.raises(AllowanceExhausted):
        client.page(0)
    bench.clock.advance(0.5)
    simulator.platform.advance(81)

    assert isinstance(limited, RateLimited)
    assert limited.retry_after == 81
    assert client.page(0).page.items == 0
    assert bench.told.statuses == ["200", "429", "200"]


def spent(client: Client, ask: Ask) -> bool:
    """Whether *ask* finds the allowance used up."""
    try:
        ask(client)
    except AllowanceExhausted:
        return True
    return False


def slice_(client: Client) -> object:
    return client.page(0, Priority.BACKGROUND)


def test_background_page_repeated_without_filter_counts_as_two_requests(bench: ClientFixture) -> None:
    bench.allowance = Allowance(0.01)
    client = bench.answered(reply(400, fault(90000)), reply(body=EMPTY_PAGE))

    assert [spent(client, slice_) for _ in range(5)] == [False] * 4 + [True]


def test_single_job_requests_leave_a_tenth_of_the_allowance(bench: ClientFixture) -> None:
    bench.allowance = Allowance(0.01)
    client = bench.answered(reply(404, fault(10211)))

    assert [spent(client, one_job) for _ in range(10)] == [False] * 9 + [True]


def test_single_job_request_may_have_discovery_priority(bench: ClientFixture) -> None:
    bench.allowance = Allowance(0.01)
    client = bench.answered(reply(404, fault(10211)))

    assert not any(spent(client, lambda c: c.job(Operation.COPY, "7", Priority.DISCOVERY)) for _ in range(10))


def test_only_user_and_head_pages_are_requested_when_others_use_the_limit(
    bench: ClientFixture,
) -> None:
    simulator, client = bench.simulator()
    simulator.platform.use_up(remaining=200)
    client.page(0)

    assert [spent(client, ask) for ask in (one_job, slice_, page, user)] == [True, True, False, False]


# ---- retries ----


def test_transport_failures_are_retried_with_full_jitter(bench: ClientFixture) -> None:
    simulator, client = bench.simulator()
    bench.clock.rolls = [0.25, 0.75]
    simulator.platform.queue(Fault(kind=FaultKind.UNAVAILABLE))
    simulator.platform.queue(Fault(kind=FaultKind.BAD_GATEWAY))

    assert client.user().value == "demo"

    assert bench.clock.pauses == [0.25, 1.5]
    assert bench.told.statuses == ["503", "502", "200"]
    assert bench.told.retried == [
        RetryScheduled(Endpoint.USER, "the platform answered 503 'Service unavailable.' (code 90005)", 1, 0.25),
        RetryScheduled(
            Endpoint.USER,
            "the platform answered 502 with an HTML page titled '502 Bad Gateway', as a gateway or proxy does;"
            " if it lasts, see the platform's status page",
            2,
            1.5,
        ),
    ]


def test_it_gives_up_after_a_few_attempts(bench: ClientFixture) -> None:
    simulator, client = bench.simulator()
    simulator.platform.queue(Fault(kind=FaultKind.SERVER_ERROR), times=10)

    assert isinstance(failure(client), Unreachable)

    assert len(simulator.platform.latest_requests()) == ATTEMPTS == 3
    assert len(bench.clock.pauses) == len(bench.told.retried) == 2


def test_a_retry_needs_allowance_too(bench: ClientFixture) -> None:
    bench.allowance = Allowance(0.001)
    client = bench.answered(reply(500))

    with pytest.raises(Unreachable, match="answered 500"):
        client.page(0)
    assert bench.told.statuses == ["500"]
    with pytest.raises(AllowanceExhausted):
        client.page(0)


def test_shutdown_ends_the_wait_for_a_retry(bench: ClientFixture) -> None:
    bench.clock.stopping = True

    with pytest.raises(Stopping):
        bench.answered(reply(500)).page(0)
    assert bench.told.statuses == ["500"]


@pytest.mark.parametrize("kind", [FaultKind.SERVER_ERROR, FaultKind.CLOSE, FaultKind.CUT])
def test_single_job_request_is_sent_once(bench: ClientFixture, kind: FaultKind) -> None:
    simulator, client = bench.simulator()
    simulator.platform.queue(Fault(kind=kind), times=ATTEMPTS)

    assert isinstance(failure(client, one_job), JobRequestFailed)
    assert len(bench.told.asked) == 1
    assert bench.clock.pauses == []


def test_page_is_not_retried_past_its_end(bench: ClientFixture) -> None:
    client = bench.answered(reply(502))
    bench.clock.rolls = [0.5, 0.5]

    with pytest.raises(Unreachable, match="answered 502"):
        client.page(0, until=bench.clock.monotonic() + 1.0)

    assert bench.told.statuses == ["502", "502"]
    assert bench.clock.pauses == [0.5]


@pytest.mark.real_time
@pytest.mark.parametrize("endpoint", [Endpoint.LIST, Endpoint.JOB])
def test_request_ends_when_the_next_look_is_due(bench: ClientFixture, endpoint: Endpoint) -> None:
    simulator, client = bench.simulator()
    simulator.platform.queue(Fault(kind=FaultKind.HANG))
    bench.clock.rolls = [0.9]
    until = bench.clock.monotonic() + 0.25

    def ask(client: Client) -> object:
        if endpoint is Endpoint.JOB:
            return client.job(Operation.COPY, "7", until=until)
        return client.page(0, until=until)

    error = failure(client, ask)

    assert str(error) == "no complete response in the 0.25 s that were left before the next poll"
    assert bench.told.statuses == ["timeout"]


@given(st.integers(1, ATTEMPTS), st.floats(0, 1, exclude_max=True))
def test_the_jitter_is_full_and_its_bound_doubles(attempt: int, roll: float) -> None:
    assert after_failure(attempt, roll) == roll * 2 ** (attempt - 1)


# ---- connections that break ----


@pytest.mark.parametrize("kind", [FaultKind.CLOSE, FaultKind.CUT])
def test_a_connection_that_breaks_is_opened_again(bench: ClientFixture, kind: FaultKind) -> None:
    simulator, client = bench.simulator()
    client.user()
    simulator.platform.queue(Fault(kind=kind))

    assert client.user().value == "demo"
    assert bench.told.statuses == ["200", "other", "200"]


def test_request_on_a_stale_connection_is_retried(bench: ClientFixture) -> None:
    def leaves_at_the_second_request(connection: Connection) -> None:
        connection.request()
        connection.send(reply(body=USER))
        connection.request()

    server = bench.serving(leaves_at_the_second_request)
    client = bench.client(server.url)

    assert [client.user().value, client.user().value] == ["rfranklin", "rfranklin"]
    assert bench.told.statuses == ["200", "other", "200"]
    assert len(server.heads) == 3


def test_closed_port_is_a_connect_error(bench: ClientFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    error = failure(bench.client(f"http://127.0.0.1:{port}/v2"))

    assert isinstance(error, Unreachable)
    assert str(error).startswith(f"cannot connect to 127.0.0.1:{port}: ")
    assert bench.told.statuses == ["connect"] * ATTEMPTS


@pytest.mark.real_time
@pytest.mark.parametrize("kind", [FaultKind.HANG, FaultKind.DRIP])
def test_slow_response_is_a_timeout(bench: ClientFixture, kind: FaultKind) -> None:
    simulator, _ = bench.simulator()
    client = bench.client(simulator.url, token=DEMO_TOKEN, timeout=0.25)
    simulator.platform.queue(Fault(kind=kind), times=ATTEMPTS)

    error = failure(client)

    assert isinstance(error, Unreachable)
    step = "; if it lasts, see the platform's status page, or raise request_timeout"
    assert str(error) == f"no complete response within 0.25 s{step}"
    assert bench.told.statuses == ["timeout"] * ATTEMPTS


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"220 mail.example.org ready\r\n\r\n", id="not HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", id="a length in words"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="broken chunks"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 100_000 + b"\r\n", id="a head without end"),
    ],
)
def test_response_that_is_not_http_is_a_lost_connection(bench: ClientFixture, answer: bytes) -> None:
    error = failure(bench.answered(answer))

    assert isinstance(error, Unreachable)
    assert str(error).startswith("lost the connection to 127.0.0.1: ")
    assert bench.told.statuses == ["other"] * ATTEMPTS


# ---- bodies ----

GZIP = {"content-encoding": "gzip"}


def compressed(chunk: bytes, times: int) -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        for _ in range(times):
            file.write(chunk)
    return packed.getvalue()


MEGABYTE = b" " * 2**20
BOMB = compressed(MEGABYTE, 200)
FULL = EMPTY_PAGE + b" " * (LARGEST_ANSWER - len(EMPTY_PAGE))


def test_a_compressed_answer_is_read(bench: ClientFixture) -> None:
    assert bench.answered(reply(body=gzip.compress(USER), headers=GZIP)).user().value == "rfranklin"


EMPTY_MEMBER = gzip.compress(b"")
MEMBERS = {
    "one": gzip.compress(USER),
    "two": gzip.compress(USER[:9]) + gzip.compress(USER[9:]),
    "one for each byte": b"".join(gzip.compress(bytes([byte])) for byte in USER),
    "empty ones between": EMPTY_MEMBER + gzip.compress(USER[:9]) + EMPTY_MEMBER * 500 + gzip.compress(USER[9:]),
    "zeros behind": gzip.compress(USER) + bytes(1000),
    "garbage behind": gzip.compress(USER) + b"garbage",
    "the first byte of another": gzip.compress(USER) + EMPTY_MEMBER[:1],
}


@pytest.mark.parametrize("step", [1, 10, 2**16])
@pytest.mark.parametrize("body", MEMBERS.values(), ids=MEMBERS)
def test_gzip_of_any_number_of_members_is_read_completely(bench: ClientFixture, body: bytes, step: int) -> None:
    pieces = [body[at : at + step] for at in range(0, len(body), step)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"

    assert bench.answered(head + chunks + b"0\r\n\r\n").user().value == "rfranklin"


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", " gzip ", "gzip, identity", "identity, gzip"])
def test_gzip_is_known_by_all_its_names(bench: ClientFixture, encoding: str) -> None:
    answer = reply(body=gzip.compress(USER), headers={"content-encoding": encoding})

    assert bench.answered(answer).user().value == "rfranklin"


@pytest.mark.parametrize("encoding", ["", "identity", "Identity, identity"])
def test_a_body_that_is_not_compressed_may_say_so(bench: ClientFixture, encoding: str) -> None:
    assert bench.answered(reply(body=USER, headers={"content-encoding": encoding})).user().value == "rfranklin"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(MEMBERS["two"][:-9], id="cut"),
        pytest.param(MEMBERS["one"] + EMPTY_MEMBER[:2], id="cut in its header"),
        pytest.param(MEMBERS["one"] + EMPTY_MEMBER[:-1] + b"x", id="with a wrong checksum"),
        pytest.param(MEMBERS["one"] + EMPTY_MEMBER[:2] + b"garbage", id="damaged"),
    ],
)
def test_damaged_further_member_is_like_a_lost_connection(bench: ClientFixture, body: bytes) -> None:
    assert isinstance(failure(bench.answered(reply(body=body, headers=GZIP)), user), Unreachable)


def test_truncated_gzip_response_is_retried(bench: ClientFixture) -> None:
    whole = gzip.compress(USER)
    client = bench.answered(
        reply(body=whole[:-9], headers=GZIP), reply(body=whole[:5], headers=GZIP), reply(body=whole, headers=GZIP)
    )

    assert client.user().value == "rfranklin"
    reasons = [event.reason for event in bench.told.retried]
    assert len(reasons) == 2
    assert all("127.0.0.1 cannot be decompressed: compressed data ends early; check" in reason for reason in reasons)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(USER, id="plain"),
        pytest.param(zlib.compress(USER), id="deflate"),
        pytest.param(gzip.compress(USER)[:-8] + b"checksum", id="wrong checksum"),
    ],
)
@pytest.mark.fault(
    "a response is not the gzip that its header promises",
    action="tries again, as after a lost connection",
    shown="`sbg_up` 0; that the response cannot be decompressed",
    recovery="the next response",
)
def test_body_that_is_not_gzip_as_declared_is_named(bench: ClientFixture, body: bytes) -> None:
    error = failure(bench.answered(reply(body=body, headers=GZIP)))

    assert isinstance(error, Unreachable)
    assert str(error).startswith("the response of 127.0.0.1 cannot be decompressed: ")


def test_empty_gzip_response_is_an_empty_one(bench: ClientFixture) -> None:
    assert "an empty body" in str(failure(bench.answered(reply(body=b"", headers=GZIP))))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(reply(body=FULL), id="plain"),
        pytest.param(reply(body=compressed(FULL, 1), headers=GZIP), id="gzip"),
    ],
)
def test_an_answer_of_the_largest_size_is_read(bench: ClientFixture, answer: bytes) -> None:
    assert bench.answered(answer).page(0).page.items == 0


OVERSIZED = {
    "plain": reply(body=FULL + b" "),
    "plain and endless": b"HTTP/1.1 200 OK\r\n\r\n" + MEGABYTE * 18,
    "gzip": reply(body=compressed(FULL + b" ", 1), headers=GZIP),
    "a gzip bomb": reply(body=BOMB, headers=GZIP),
    "gzip in two members": reply(body=compressed(FULL, 1) + compressed(b" ", 1), headers=GZIP),
    "gzip of nothing without end": reply(body=EMPTY_MEMBER * (17 * 2**20 // len(EMPTY_MEMBER)), headers=GZIP),
}


oversized = pytest.mark.parametrize("answer", OVERSIZED.values(), ids=OVERSIZED)


@oversized
@pytest.mark.parametrize(("ask", "kind"), [(user, AnswerTooLarge), (one_job, JobRequestFailed)], ids=["user", "job"])
def test_oversized_response_is_refused_and_not_retried(
    bench: ClientFixture, answer: bytes, ask: Ask, kind: type[PollError]
) -> None:
    error = failure(bench.answered(answer), ask)

    assert type(error) is kind
    assert str(error) == "the platform's response is larger than 16777216 bytes"
    assert bench.told.statuses == ["200"]


@oversized
def test_a_larger_page_is_asked_again_with_half_as_many_jobs(bench: ClientFixture, answer: bytes) -> None:
    server = bench.serving(hangs_up(answer, reply(body=EMPTY_PAGE)))

    read = bench.client(server.url).page(7)

    assert (read.page.items, read.limit) == (0, 50)
    assert targets(server) == ["offset=7&limit=100&fields=!result", "offset=7&limit=50&fields=!result"]
    assert bench.told.retried == []


def test_an_oversized_answer_leaves_the_client_usable(bench: ClientFixture) -> None:
    simulator, client = bench.simulator()
    simulator.platform.queue(Fault(kind=FaultKind.OVERSIZED))

    assert client.page(0).limit == 50
    assert client.user().value == "demo"


# ---- pages that are too large ----

TOO_LARGE = reply(body=compressed(FULL + b" ", 1), headers=GZIP)


def listing(jobs: int, fits: Callable[[range], bool]) -> Script:
    """A list of so many jobs; a page is too large unless it *fits*, which is asked with the positions on it."""

    def script(connection: Connection) -> None:
        while True:
            query = parse_qs(urlsplit(connection.request().split()[1].decode()).query)
            offset, limit = int(query["offset"][0]), int(query["limit"][0])
            positions = range(offset, min(jobs, offset + limit))
            items = [whole(id=str(position)) for position in positions]
            connection.send(reply(body=json.dumps({"items": items}).encode()) if fits(positions) else TOO_LARGE)

    return script


def whole(**fields: object) -> dict[str, object]:
    """A record with all that is needed of one."""
    counts = {"total_files": 3, "completed_files": 1, "failed_files": 0}
    return {"id": "7", "type": "COPY", "state": "RUNNING", **counts, **fields}


def limits(server: RawServer) -> list[int]:
    return [int(parse_qs(target)["limit"][0]) for target in targets(server)]


def test_a_page_is_halved_until_it_can_be_read(bench: ClientFixture) -> None:
    server = bench.serving(listing(300, lambda positions: len(positions) <= 12))

    read = bench.client(server.url).page(40)

    assert limits(server) == [100, 50, 25, 12]
    assert read.limit == 12
    assert [job.id for job in read.page.jobs] == [str(position) for position in range(40, 52)]
    assert read.page.skipped == {}


def test_page_size_stays_reduced_for_the_next_pages(bench: ClientFixture) -> None:
    server = bench.serving(listing(300, lambda positions: len(positions) <= 12))
    client = bench.client(server.url)
    client.page(0)

    client.page(11)

    assert limits(server)[4:] == [12]


def test_page_size_doubles_after_ten_good_pages_up_to_the_limit(bench: ClientFixture) -> None:
    server = bench.serving(listing(10, lambda _: bool(server.heads[4:])))
    client = bench.client(server.url)

    for _ in range(60):
        client.page(0)

    assert limits(server) == [100, 50, 25, 12, *[6] * 10, *[12] * 10, *[24] * 10, *[48] * 10, *[96] * 10, *[100] * 10]


def test_page_size_that_grew_too_far_is_halved_again(bench: ClientFixture) -> None:
    server = bench.serving(listing(300, lambda positions: len(positions) <= 12))
    client = bench.client(server.url)

    for _ in range(21):
        client.page(0)

    assert limits(server) == [100, 50, 25, *[12] * 10, 24, *[12] * 10, 24, 12]


def test_oversized_page_resets_the_count_of_good_pages(bench: ClientFixture) -> None:
    server = bench.serving(listing(300, lambda positions: len(positions) <= 50 and 299 not in positions))
    client = bench.client(server.url)
    for _ in range(9):
        client.page(0)
    client.page(250)

    for _ in range(10):
        client.page(0)

    assert limits(server) == [100, *[50] * 10, *[25] * 10, 50]


def test_page_size_stays_at_the_limit_with_good_pages(bench: ClientFixture) -> None:
    server = bench.serving(listing(300, lambda _: True))
    client = bench.client(server.url)

    for _ in range(25):
        client.page(0)

    assert set(limits(server)) == {PAGE_LIMIT}


def test_single_oversized_record_is_skipped_as_unreadable(bench: ClientFixture) -> None:
    server = bench.serving(listing(300, lambda positions: 3 not in positions))

    read = bench.client(server.url).page(3)

    assert limits(server) == [100, 50, 25, 12, 6, 3, 1]
    assert (read.page, read.limit) == (decoding.too_large(1), 1)


def test_pages_grow_again_after_an_oversized_record(bench: ClientFixture) -> None:
    server = bench.serving(listing(300, lambda positions: 3 not in positions))
    client = bench.client(server.url)
    client.page(3)

    read = [client.page(4) for _ in range(11)]

    assert [each.limit for each in read] == [1] * 10 + [2]
    assert [job.id for job in read[-1].page.jobs] == ["4", "5"]


def test_pages_before_an_oversized_record_shrink_only_as_needed(bench: ClientFixture) -> None:
    server = bench.serving(listing(300, lambda positions: 3 not in positions))

    read = bench.client(server.url).page(0)

    assert limits(server) == [100, 50, 25, 12, 6, 3]
    assert [job.id for job in read.page.jobs] == ["0", "1", "2"]


def test_only_size_makes_pages_smaller(bench: ClientFixture) -> None:
    server = bench.serving(
        answering(reply(body=b"<html>"), reply(404), reply(401, fault(90001)), reply(body=EMPTY_PAGE))
    )
    client = bench.client(server.url)
    for _ in range(3):
        failure(client)

    client.page(0)

    assert limits(server) == [100] * 4


def test_oversized_page_does_not_turn_the_result_filter_off(bench: ClientFixture) -> None:
    server = bench.serving(listing(300, lambda positions: 3 not in positions))
    client = bench.client(server.url)

    for _ in range(3):
        client.page(3)

    assert all(target.endswith("&fields=!result") for target in targets(server))


def test_oversized_pages_are_halved_without_the_result_filter_too(bench: ClientFixture) -> None:
    refused, empty = reply(400, fault(90000)), reply(body=EMPTY_PAGE)
    server = bench.serving(hangs_up(refused, empty, TOO_LARGE, empty))
    client = bench.client(server.url)
    client.page(0)

    client.page(0)

    assert targets(server)[1:] == ["offset=0&limit=100", "offset=0&limit=100", "offset=0&limit=50"]


def test_every_page_that_is_too_large_costs_a_request(bench: ClientFixture) -> None:
    bench.allowance = Allowance(0.003)
    client = bench.client(bench.serving(listing(300, lambda positions: len(positions) <= 12)).url)

    with pytest.raises(AllowanceExhausted):
        client.page(0)

    assert bench.allowance.used == len(bench.told.asked) == 3
    bench.clock.advance(300)
    assert client.page(0).limit == 12


def test_the_end_of_the_process_ends_the_halving(bench: ClientFixture) -> None:
    bench.clock.stopping = True
    server = bench.serving(listing(300, lambda _: False))

    with pytest.raises(Stopping):
        bench.client(server.url).page(0)

    assert limits(server) == [100]


# ---- leaving out results ----

PLAIN = "offset=0&limit=100"
CHOSEN = f"{PLAIN}&fields=!result"


def page_with(*records: dict[str, object]) -> bytes:
    return reply(body=json.dumps({"items": records}).encode())


def asked(simulator: RunningSimulator) -> list[str]:
    """The queries of all requests to the simulator."""
    return [request.target.partition("?")[2] for request in simulator.platform.latest_requests()]


def with_failed_files(simulator: RunningSimulator, **script: object) -> None:
    """A finished job with two failed files, on the platform."""
    simulator.platform.submit(JobScript(total=3, failed=2, **script))  # type: ignore[arg-type]  # of a table
    simulator.platform.advance(60)


def test_results_are_filtered_if_the_platform_supports_it(bench: ClientFixture) -> None:
    simulator, client = bench.simulator()
    with_failed_files(simulator)

    read = [client.page(0).page.jobs for _ in range(2)]

    assert [(job.failed, job.errors) for [job] in read] == [(2, None)] * 2
    assert asked(simulator) == [CHOSEN] * 2


def test_result_filter_stays_on_if_the_platform_ignores_it(bench: ClientFixture) -> None:
    simulator, client = bench.simulator()
    simulator.platform.behave(fields="ignored")
    with_failed_files(simulator)

    read = [client.page(0).page.jobs for _ in range(2)]

    assert [job.errors for [job] in read] == [(("5001", 2),)] * 2
    assert asked(simulator) == [CHOSEN] * 2


@pytest.mark.parametrize("fields", ["refused", "ids_only"])
def test_result_filter_turns_off_if_refused_or_if_fields_are_missing(bench: ClientFixture, fields: str) -> None:
    simulator, client = bench.simulator()
    simulator.platform.behave(fields=fields)
    with_failed_files(simulator)

    read = [client.page(0).page.jobs for _ in range(3)]

    assert [job.errors for [job] in read] == [(("5001", 2),)] * 3
    assert asked(simulator) == [CHOSEN, PLAIN, PLAIN, PLAIN]


@pytest.mark.parametrize("key", ["id", "type", "state", "total_files", "completed_files", "failed_files"])
def test_result_filter_turns_off_if_one_field_is_missing(bench: ClientFixture, key: str) -> None:
    lacking = {name: value for name, value in whole().items() if name != key}
    server = bench.serving(answering(page_with(lacking), page_with(whole())))
    client = bench.client(server.url)

    read = client.page(0)
    client.page(0)

    assert [job.id for job in read.page.jobs] == ["7"]
    assert targets(server) == [CHOSEN, PLAIN, PLAIN]


def test_result_filter_stays_on_if_the_unfiltered_page_lacks_the_field_too(bench: ClientFixture) -> None:
    lacking = whole(total_files=None, failed_files=2, state="FINISHED")
    server = bench.serving(
        answering(page_with(lacking), page_with({**lacking, "result": [{"error": {"code": 5001}}]}), page_with(lacking))
    )
    client = bench.client(server.url)

    first = client.page(0)
    client.page(0)

    assert [job.errors for job in first.page.jobs] == [(("5001", 1),)]
    assert targets(server) == [CHOSEN, PLAIN, CHOSEN]


def test_result_filter_that_has_worked_stays_on_if_a_field_is_missing(bench: ClientFixture) -> None:
    server = bench.serving(answering(page_with(whole()), page_with(whole(total_files=None))))
    client = bench.client(server.url)

    read = [client.page(0) for _ in range(3)]

    assert [job.total for each in read for job in each.page.jobs] == [3, None, None]
    assert targets(server) == [CHOSEN] * 3


def test_empty_page_leaves_the_result_filter_untried(bench: ClientFixture) -> None:
    simulator, client = bench.simulator()
    simulator.platform.behave(fields="ids_only")
    client.page(0)
    with_failed_files(simulator)

    client.page(0)

    assert asked(simulator) == [CHOSEN, CHOSEN, PLAIN]


def test_result_filter_turns_off_if_refused_on_an_empty_list(bench: ClientFixture) -> None:
    server = bench.serving(answering(reply(400, fault(90000)), reply(body=EMPTY_PAGE)))
    client = bench.client(server.url)

    assert client.page(0).page.items == 0
    client.page(0)

    assert targets(server) == [CHOSEN, PLAIN, PLAIN]


def test_result_filter_that_has_worked_turns_off_if_refused(bench: ClientFixture) -> None:
    simulator, client = bench.simulator()
    with_failed_files(simulator)
    client.page(0)
    simulator.platform.behave(fields="refused")

    client.page(0)
    client.page(0)

    assert asked(simulator) == [CHOSEN, CHOSEN, PLAIN, PLAIN]


def test_400_without_filter_too_leaves_the_result_filter_untried(
    bench: ClientFixture,
) -> None:
    server = bench.serving(answering(*[reply(400, fault(90000, "Bad request."))] * 2, page_with(whole())))
    client = bench.client(server.url)

    error = failure(client)
    client.page(0)

    assert type(error) is BadRequest
    assert str(error) == "the platform answered 400 'Bad request.' (code 90000)"
    assert targets(server) == [CHOSEN, PLAIN, CHOSEN]


def test_result_filter_turns_off_for_errors_that_only_the_list_has(bench: ClientFixture) -> None:
    simulator, client = bench.simulator()
    client.page(0)
    with_failed_files(simulator, operation="import")

    read = [client.page(0).page.jobs for _ in range(2)]

    assert [job.errors for [job] in read] == [(("5001", 2),)] * 2
    assert asked(simulator) == [CHOSEN, CHOSEN, PLAIN, PLAIN]


def test_result_filter_stays_off_if_the_unfiltered_request_fails_first(bench: ClientFixture) -> None:
    simulator, client = bench.simulator()
    with_failed_files(simulator, operation="import")
    simulator.platform.queue(Fault(kind=FaultKind.MAINTENANCE), "limit=100$")
    failure(client)

    client.page(0)

    assert asked(simulator) == [CHOSEN, PLAIN, PLAIN]


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(whole(type="COPY", state="FINISHED", failed_files=2), id="its own path tells"),
        pytest.param(whole(type="IMPORT", state="RUNNING", failed_files=2), id="not finished"),
        pytest.param(whole(type="IMPORT", state="FINISHED", failed_files=0), id="nothing failed"),
    ],
)
def test_result_filter_stays_on_for_errors_available_elsewhere(bench: ClientFixture, record: dict[str, object]) -> None:
    server = bench.serving(answering(page_with(record)))
    client = bench.client(server.url)

    client.page(0)
    client.page(0)

    assert targets(server) == [CHOSEN] * 2


TRANSIENT = (FaultKind.SERVER_ERROR, FaultKind.UNAVAILABLE, FaultKind.BAD_GATEWAY, FaultKind.CLOSE, FaultKind.CUT)
IN_THE_BODY = (FaultKind.HTML, FaultKind.BROKEN_JSON, FaultKind.REDIRECT)


def fails(simulator: RunningSimulator, client: Client, kind: FaultKind, matching: str = "") -> None:
    """A page that fails with all its attempts."""
    simulator.platform.queue(Fault(kind=kind), matching, times=ATTEMPTS if kind in TRANSIENT else 1)
    failure(client)


def later(simulator: RunningSimulator, client: Client, pages: int = 1) -> list[str]:
    """What is asked for the next *pages*."""
    before = len(asked(simulator))
    for _ in range(pages):
        client.page(0)
    return asked(simulator)[before:]


@pytest.mark.parametrize("kind", [*TRANSIENT, *IN_THE_BODY])
def test_one_failure_causes_one_unfiltered_request(bench: ClientFixture, kind: FaultKind) -> None:
    simulator, client = bench.simulator()
    with_failed_files(simulator)

    fails(simulator, client, kind)

    assert later(simulator, client, 3) == [PLAIN, CHOSEN, CHOSEN]


@pytest.mark.parametrize("kind", [*TRANSIENT, *IN_THE_BODY])
def test_result_filter_turns_off_after_two_failures_without_other_cause(bench: ClientFixture, kind: FaultKind) -> None:
    simulator, client = bench.simulator()
    with_failed_files(simulator)
    for _ in range(2):
        fails(simulator, client, kind, "fields")
        later(simulator, client)

    assert later(simulator, client, 3) == [PLAIN] * 3


@pytest.mark.parametrize("kind", [*TRANSIENT, *IN_THE_BODY])
def test_failure_without_filter_too_does_not_turn_the_result_filter_off(bench: ClientFixture, kind: FaultKind) -> None:
    simulator, client = bench.simulator()
    with_failed_files(simulator)
    for _ in range(3):
        fails(simulator, client, kind)
        fails(simulator, client, kind)

    assert set(asked(simulator)) == {CHOSEN, PLAIN}
    assert later(simulator, client, 2) == [CHOSEN] * 2


@pytest.mark.parametrize("kind", [FaultKind.UNAUTHORIZED, FaultKind.RATE_LIMITED, FaultKind.MAINTENANCE])
def test_unrelated_errors_do_not_turn_the_result_filter_off(bench: ClientFixture, kind: FaultKind) -> None:
    simulator, client = bench.simulator()
    with_failed_files(simulator)

    fails(simulator, client, kind)
    bench.clock.advance(301)

    assert later(simulator, client) == [CHOSEN]


def test_unfiltered_check_is_repeated_until_it_gets_a_response(bench: ClientFixture) -> None:
    simulator, client = bench.simulator()
    with_failed_files(simulator)
    for _ in range(2):
        fails(simulator, client, FaultKind.SERVER_ERROR, "fields")
        fails(simulator, client, FaultKind.MAINTENANCE)
        assert later(simulator, client) == [PLAIN]

    assert later(simulator, client) == [PLAIN]


def test_result_filter_that_has_worked_stays_on_after_failures(bench: ClientFixture) -> None:
    simulator, client = bench.simulator()
    with_failed_files(simulator)
    client.page(0)

    for _ in range(3):
        fails(simulator, client, FaultKind.SERVER_ERROR)
        assert later(simulator, client) == [CHOSEN]


def test_record_damaged_once_turns_the_untried_result_filter_off(bench: ClientFixture) -> None:
    simulator, client = bench.simulator()
    with_failed_files(simulator)
    simulator.platform.queue(Fault(kind=FaultKind.MALFORMED_RECORD, record=Malformed.COUNT_MISSING), "fields")

    read = client.page(0)

    assert [job.errors for job in read.page.jobs] == [(("5001", 2),)]
    assert later(simulator, client) == [PLAIN]


def test_result_filter_is_untried_after_a_restart(bench: ClientFixture) -> None:
    simulator, client = bench.simulator()
    simulator.platform.behave(fields="refused")
    client.page(0)
    simulator.platform.behave(fields="honoured")

    assert later(simulator, bench.client(simulator.url, token=DEMO_TOKEN)) == [CHOSEN]


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip", "gzip, br", "br, gzip", "x" * 1000])
def test_an_encoding_that_was_not_asked_for_is_refused(bench: ClientFixture, encoding: str) -> None:
    error = failure(bench.answered(reply(body=USER, headers={"content-encoding": encoding})))

    assert isinstance(error, BadAnswer)
    assert str(error) == f"the platform's response has an unsupported encoding: {encoding[:40]!r}"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param((b"x" * 2**20, {}), id="too long"),
        pytest.param((b"x", {"content-encoding": "br"}), id="in an unknown encoding"),
        pytest.param((b"x", GZIP), id="not the gzip that it says"),
        pytest.param((BOMB, GZIP), id="a gzip bomb"),
    ],
)
@pytest.mark.parametrize(
    ("status", "kind"), [(401, Unauthorized), (404, BadAnswer), (429, RateLimited), (502, Unreachable)]
)
def test_error_status_is_used_even_with_an_unreadable_body(
    bench: ClientFixture, status: int, kind: type[PollError], body: tuple[bytes, dict[str, str]]
) -> None:
    assert isinstance(failure(bench.answered(reply(status, *body))), kind)


# ---- redirects, and where the token goes ----


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@every_question
def test_a_redirect_is_never_followed(bench: ClientFixture, ask: Ask, status: int) -> None:
    with RecordingServer() as elsewhere:
        server = bench.serving(answering(reply(status, b"", {"location": f"{elsewhere.origin}/v2/async/files"})))

        error = failure(bench.client(server.url), ask)

    assert type(error) is (JobRequestFailed if ask is one_job else BadAnswer)
    assert str(error) == (
        f"the platform answered {status}, a redirect to {elsewhere.origin}/v2/async/files, which is not followed:"
        f" a web site, or the login page of this network? check api_endpoint ({server.url})"
    )
    assert len(server.heads) == 1
    assert elsewhere.requests == []


@pytest.mark.parametrize("kind", FaultKind)
def test_token_is_in_no_error_event_or_repr(bench: ClientFixture, kind: FaultKind) -> None:
    simulator, _ = bench.simulator()
    client = bench.client(simulator.url, token=DEMO_TOKEN, timeout=0.05)
    simulator.platform.queue(Fault(kind=kind), times=ATTEMPTS)

    shown = [repr(client), repr(bench.told)]
    try:
        client.page(0)
    except PollError as error:
        shown += [repr(error), *traceback.format_exception(error)]
    assert DEMO_TOKEN not in "".join(shown)


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_token_repeated_by_the_platform_is_masked(bench: ClientFixture, status: int) -> None:
    error = failure(bench.answered(reply(status, fault(1, f"The token {TOKEN} is not valid"))))

    assert TOKEN not in "".join(traceback.format_exception(error)) + repr(bench.told)
    assert "'The token ******** is not valid'" in str(error)


def test_message_is_unchanged_without_a_token(bench: ClientFixture) -> None:
    server = bench.serving(answering(reply(401, fault(90001, "Unauthorized."))))

    assert "'Unauthorized.'" in str(failure(bench.client(server.url, token="")))


# ---- what the listener is told ----


def test_observer_receives_every_request_with_endpoint_and_status(bench: ClientFixture) -> None:
    simulator, client = bench.simulator()
    simulator.platform.queue(Fault(kind=FaultKind.MAINTENANCE), "/user")

    client.page(0)
    client.job(Operation.DELETE, "7")
    failure(client, user)

    assert [(event.endpoint, event.status) for event in bench.told.asked] == [
        (Endpoint.LIST, "200"),
        (Endpoint.JOB, "404"),
        (Endpoint.USER, "503"),
    ]
    assert all(event.seconds == 0.0 for event in bench.told.asked)
    assert bench.told.retried == []


# ---- certificates and proxies ----


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return new_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def server_tls(certificate: Certificate) -> ssl.SSLContext:
    return certificate.server()


@pytest.mark.tools("openssl")
def test_ca_file_is_trusted(bench: ClientFixture, certificate: Certificate, server_tls: ssl.SSLContext) -> None:
    server = bench.serving(answering(reply(body=USER)), server_tls)
    url = f"https://localhost:{server.port}/v2"

    assert bench.client(url, tls=TrustedCertificates(str(certificate.cert))).user().value == "rfranklin"

    error = failure(bench.client(url, tls=TrustedCertificates(None)), user)
    assert isinstance(error, Unreachable)
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    assert bench.told.statuses == ["200", "connect", "connect", "connect"]
    assert len(server.heads) == 1


@pytest.mark.tools("openssl")
def test_ssl_cert_file_is_trusted_by_default(
    bench: ClientFixture, certificate: Certificate, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.cert))
    server = bench.serving(answering(reply(body=USER)), server_tls)

    client = bench.client(f"https://localhost:{server.port}/v2", tls=TrustedCertificates(None))

    assert client.user().value == "rfranklin"


def test_unreadable_certificates_are_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing, empty = tmp_path / "missing.pem", tmp_path / "empty.pem"
    empty.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(missing))

    for named, words in ((str(missing), "missing.pem"), (str(empty), "empty.pem"), (None, "SSL_CERT_FILE")):
        with pytest.raises(ConfigError, match=words):
            TrustedCertificates(named).context()


def relay(target: int, refuse: bytes = b"") -> Script:
    """A proxy to *target*: tunnels for CONNECT, and asks itself for what it is given a whole URL of."""

    def script(connection: Connection) -> None:
        head = connection.request()
        if refuse:
            connection.send(refuse)
            return
        with socket.create_connection(("127.0.0.1", target), timeout=20) as onward:
            if head.startswith(b"CONNECT"):
                connection.send(b"HTTP/1.1 200 Connected\r\n\r\n")
                threading.Thread(target=pump, args=(connection.raw, onward), daemon=True).start()
            else:
                onward.sendall(head)
            pump(onward, connection.raw)

    return script


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


BASIC = b"proxy-authorization: basic " + base64.b64encode(b"team:s3cret/pass").lower()


def test_http_proxy_gets_requests_with_its_own_credentials(bench: ClientFixture) -> None:
    server = bench.serving(hangs_up(reply(body=USER)))
    proxy = bench.serving(relay(server.port))

    client = bench.client("http://platform.example/v2", proxy=f"http://team:s3cret%2Fpass@127.0.0.1:{proxy.port}")

    assert client.user().value == "rfranklin"
    [head] = proxy.heads
    assert head.startswith(b"GET http://platform.example/v2/user HTTP/1.1\r\n")
    assert BASIC in head.lower()


@pytest.mark.tools("openssl")
def test_proxy_tunnels_https_and_never_sees_the_token(
    bench: ClientFixture, certificate: Certificate, server_tls: ssl.SSLContext
) -> None:
    server = bench.serving(hangs_up(reply(body=USER)), server_tls)
    proxy = bench.serving(relay(server.port))
    tls = TrustedCertificates(str(certificate.cert))

    client = bench.client(
        f"https://localhost:{server.port}/v2", tls=tls, proxy=f"http://team:s3cret%2Fpass@127.0.0.1:{proxy.port}"
    )

    assert client.user().value == "rfranklin"
    [tunnel], [head] = proxy.heads, server.heads
    assert tunnel.startswith(f"CONNECT localhost:{server.port} HTTP/1.1\r\n".encode())
    assert BASIC in tunnel.lower()
    assert TOKEN.encode() not in tunnel
    assert TOKEN.encode() in head
    assert b"proxy-authorization" not in head.lower()


@pytest.mark.tools("openssl")
def test_https_proxy_is_verified_with_the_same_certificates(
    bench: ClientFixture, certificate: Certificate, server_tls: ssl.SSLContext
) -> None:
    server = bench.serving(hangs_up(reply(body=USER)))
    proxy = bench.serving(relay(server.port), server_tls)

    client = bench.client(
        "http://platform.example/v2",
        tls=TrustedCertificates(str(certificate.cert)),
        proxy=f"https://localhost:{proxy.port}",
    )

    assert client.user().value == "rfranklin"


def test_proxy_refusal_is_a_connect_error_without_its_password(bench: ClientFixture) -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    proxy = bench.serving(relay(0, refuse=refusal))

    client = bench.client(
        "https://platform.example/v2", tls=TrustedCertificates(None), proxy=f"http://team:s3cret@127.0.0.1:{proxy.port}"
    )
    error = failure(client)

    assert isinstance(error, Unreachable)
    assert str(error) == (
        f"the proxy 127.0.0.1:{proxy.port} demands valid credentials (407); write user and password into its URL"
    )
    assert bench.told.statuses == ["connect"] * ATTEMPTS
    shown = "".join(traceback.format_exception(error)) + repr(client) + repr(bench.told)
    assert "s3cret" not in shown
    assert TOKEN.encode() not in b"".join(proxy.heads)

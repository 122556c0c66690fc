"""Asking the platform: one request at a time, bounded in time and size, and every failure named.

Reports each request as a frozen fact to one listener; knows neither logs nor metrics.
"""

import ssl
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final, Generic, Protocol, TypeVar
from urllib.parse import quote

import httpcore
import httpx
import msgspec

from exporter import __version__
from exporter.api import decoding
from exporter.api.allowance import LONGEST_PAUSE, Allowance, Priority, seconds_until_reset
from exporter.api.deadline import Deadline, DeadlineBackend
from exporter.api.models import FINAL_RANK, OPERATIONS, Job, Operation
from exporter.clock import Clock
from exporter.errors import (
    AllowanceExhausted,
    AnswerTooLarge,
    BadAnswer,
    BadRequest,
    ConfigError,
    JobRequestFailed,
    Maintenance,
    RateLimited,
    Unauthorized,
    Unreachable,
)
from exporter.redaction import MASK

ATTEMPTS: Final = 3
"""How often a request that failed in transit is made, in all, within one poll."""
PAGE_LIMIT: Final = 100
"""The most jobs a page may be asked for."""
LARGEST_ANSWER: Final = 16 * 2**20
"""Bytes of an answer after decompression; more than that is not read."""
LARGEST_ERROR: Final = 2**16
"""Bytes read of an answer other than 200; a longer one is known by its status alone."""
NO_SUCH_JOB: Final = 10211
"""The platform's code for a job id that it does not know (any more)."""
_UNDER_MAINTENANCE: Final = 0
_MOST_DOUBTS: Final = 2
_GOOD_PAGES_TO_GROW: Final = 10
"""Pages that came in a row before twice as many jobs are asked for again."""
_BACKOFF_SECONDS: Final = 1.0
_OK, _BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TIMED_OUT, _TOO_MANY, _UNAVAILABLE = (
    200,
    400,
    401,
    403,
    404,
    408,
    429,
    503,
)
_REDIRECTS: Final = range(300, 400)
_SERVER_ERRORS: Final = range(500, 600)

T = TypeVar("T")


class Endpoint(StrEnum):
    """What is asked, as metrics label it."""

    LIST = "list"
    JOB = "job"
    USER = "user"


@dataclass(frozen=True, slots=True)
class RequestCompleted:
    """One request was made: *status* is the HTTP status, or ``timeout``, ``connect``, ``other``; *seconds* it took."""

    endpoint: Endpoint
    status: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RetryScheduled:
    """A request failed in transit and is made again after *wait* seconds."""

    endpoint: Endpoint
    reason: str
    attempt: int
    wait: float


class ClientObserver(Protocol):
    """Who is told what the client does."""

    def on_request_completed(self, event: RequestCompleted) -> None:
        """After each request, whatever came of it."""
        ...

    def on_retry_scheduled(self, event: RetryScheduled) -> None:
        """Before the wait that comes before another try."""
        ...


@dataclass(frozen=True, slots=True)
class Response(Generic[T]):
    """What was asked for, with the platform's time of the answer (Unix seconds; None where it sent no ``Date``)."""

    value: T
    date: float | None


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page of the list, with the platform's time and its own count of all jobs, where it sent them.

    Attributes:
        limit: how many jobs it was asked for: fewer than wanted while answers are too large.
    """

    page: decoding.Page
    date: float | None
    total: int | None
    limit: int = PAGE_LIMIT


class ResultFilter(Enum):
    """Whether the list leaves out results when asked to."""

    UNTRIED = "not known yet"
    DOUBTED = "it failed, and perhaps for that"
    ON = "it does"
    OFF = "it does not"


_ASKING: Final = (ResultFilter.UNTRIED, ResultFilter.ON)


def _needs_result(job: Job) -> bool:
    """Whether nothing but the list shows the errors of this job: its operation has no endpoint that is documented."""
    return bool(job.failed) and job.errors is None and job.rank == FINAL_RANK and job.operation not in OPERATIONS


def _without_errors(page: decoding.Page) -> list[Job]:
    return [msgspec.structs.replace(job, errors=None) for job in page.jobs]


class Client:
    """One account's questions. For one thread."""

    def __init__(
        self,
        endpoint: str,
        transport: httpx.BaseTransport,
        deadline: Deadline,
        *,
        allowance: Allowance,
        clock: Clock,
        observer: ClientObserver,
        timeout: float,
    ) -> None:
        self._endpoint = endpoint
        self._deadline = deadline
        self._timeout = timeout
        self._clock = clock
        self._observer = observer
        self.allowance = allowance
        self._token = ""
        self._limit = PAGE_LIMIT
        self._good_pages = 0
        self._result_filter = ResultFilter.UNTRIED
        self._doubts = 0
        self._http = httpx.Client(
            transport=transport,
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
            headers={
                "Accept": "application/json",
                "Content-Type": "application/json",  # documented as required, also without a body
                "Accept-Encoding": "gzip",
                "User-Agent": f"sbg-exporter/{__version__}",
            },
        )

    def use_token(self, token: str) -> None:
        """Send *token* with every request from now on."""
        self._token = token

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def user(self) -> Response[str]:
        """Who the token belongs to.

        Raises:
            PollError: no good answer.
            AllowanceExhausted: not asked.
        """
        body, headers = self._request(Endpoint.USER, "/user", Priority.DISCOVERY)
        return Response(decoding.parse_username(body), decoding.parse_date(headers))

    def page(self, offset: int, priority: Priority = Priority.DISCOVERY) -> JobPage:
        """The jobs of the list from *offset* on, as many as a page may have; fewer while answers are too large.

        A job whose record alone is too large is one that cannot be read.

        Raises:
            PollError: no good answer.
            AllowanceExhausted: not asked.
        """
        while True:
            limit = self._limit
            try:
                response = self._page(offset, limit, priority)
            except AnswerTooLarge:
                self._good_pages = 0
                self._limit = max(1, limit // 2)
                if limit == 1:
                    return JobPage(decoding.too_large(1), None, None, 1)
                self._clock.pause(0)  # megabytes each: the process may be ending
                continue
            self._good_pages += 1
            if self._good_pages >= _GOOD_PAGES_TO_GROW:
                self._good_pages = 0
                self._limit = min(PAGE_LIMIT, 2 * limit)
            return response

    def _page(self, offset: int, limit: int, priority: Priority) -> JobPage:
        """One page, without the jobs' results if the platform can leave them out: they may be megabytes.

        Whether this list heeds ``fields`` is not documented (the API's overview says that all calls do). So it is
        tried, and given up for as long as this client lives when it is refused (400), when what comes lacks more than
        the results, when it fails twice where the plain question works, or when a job has failed files whose errors
        only the list can tell.
        """
        path = f"/async/files?offset={offset}&limit={limit}"
        without_results = self._list_without_results(path, limit, priority) if self._result_filter in _ASKING else None
        if without_results is not None and any(map(_needs_result, without_results.page.jobs)):
            self._result_filter, without_results = ResultFilter.OFF, None
        if without_results is not None and (without_results.page.whole or self._result_filter is ResultFilter.ON):
            self._result_filter = ResultFilter.ON if without_results.page.items else self._result_filter
            return without_results
        with_results = self._list_with_results(path, limit, priority)
        if self._result_filter is ResultFilter.DOUBTED:
            self._doubts += 1
            self._result_filter = ResultFilter.OFF if self._doubts >= _MOST_DOUBTS else ResultFilter.UNTRIED
        elif self._result_filter is not ResultFilter.OFF:
            alike = without_results is not None and _without_errors(without_results.page) == _without_errors(
                with_results.page
            )
            self._result_filter = ResultFilter.ON if alike else ResultFilter.OFF
        return with_results

    def _list_without_results(self, path: str, limit: int, priority: Priority) -> JobPage | None:
        """The page as asked for without results; None when the platform does not take that question."""
        try:
            return self._listed(f"{path}&fields=!result", limit, priority)
        except BadRequest:
            return None
        except (BadAnswer, Unreachable) as error:
            if self._result_filter is ResultFilter.UNTRIED and not isinstance(error, AnswerTooLarge):
                self._result_filter = ResultFilter.DOUBTED
            raise

    def _list_with_results(self, path: str, limit: int, priority: Priority) -> JobPage:
        try:
            return self._listed(path, limit, priority)
        except (BadAnswer, Unreachable):
            if self._result_filter is ResultFilter.DOUBTED:  # it was not for the fields that it failed
                self._result_filter = ResultFilter.UNTRIED
            raise

    def _listed(self, path: str, limit: int, priority: Priority) -> JobPage:
        body, headers = self._request(Endpoint.LIST, path, priority)
        return JobPage(decoding.parse_page(body), decoding.parse_date(headers), decoding.parse_total(headers), limit)

    def job(self, operation: Operation, job_id: str, priority: Priority = Priority.REFRESH) -> Response[Job | None]:
        """One job; None when the platform itself says that it knows no such job.

        Raises:
            JobRequestFailed: no good answer about this job.
            PollError: no good answer.
            AllowanceExhausted: not asked.
        """
        try:
            body, headers = self._request(Endpoint.JOB, f"/async/files/{operation}/{quote(job_id, safe='')}", priority)
        except _NoSuchJob as answer:
            return Response(None, answer.date)
        try:
            job = decoding.parse_job(body)
        except BadAnswer as error:
            raise JobRequestFailed(str(error)) from error
        if job.id != job_id:
            raise JobRequestFailed(f"asked for job {job_id}, got job {job.id}")
        return Response(job, decoding.parse_date(headers))

    def _request(self, endpoint: Endpoint, path: str, priority: Priority) -> tuple[bytes, Mapping[str, str]]:
        """The body and headers of a good answer."""
        failures: list[Unreachable] = []
        while True:
            try:
                return self._attempt(endpoint, path, priority)
            except Unreachable as error:
                failures.append(error)
                if len(failures) == ATTEMPTS:
                    raise
            except AllowanceExhausted:
                if failures:  # that there is no request left for another try is not what went wrong
                    raise failures[-1] from None
                raise
            wait = after_failure(len(failures), self._clock.roll())
            self._observer.on_retry_scheduled(RetryScheduled(endpoint, str(failures[-1]), len(failures), wait))
            self._clock.pause(wait)

    def _attempt(self, endpoint: Endpoint, path: str, priority: Priority) -> tuple[bytes, Mapping[str, str]]:
        wait = self.allowance.take(self._clock.monotonic(), priority)
        if wait > 0:
            raise AllowanceExhausted(wait)
        began = self._clock.monotonic()
        status = "other"
        try:
            with _transit_errors(self._timeout), self._answer_to(path) as response:
                code, headers = response.status_code, response.headers
                status = str(code)
                date, rate_limit = decoding.parse_date(headers), decoding.parse_rate_limit(headers)
                self.allowance.learn(rate_limit, date, self._clock.monotonic())
                body = _body(response, endpoint)
        except _TransportError as error:
            status = error.status
            raise
        finally:
            self._observer.on_request_completed(RequestCompleted(endpoint, status, self._clock.monotonic() - began))
        if code == _OK:
            return body, headers
        api_error = decoding.parse_error(self._masked(body))
        if code == _TOO_MANY:
            told = decoding.parse_retry_after(headers)
            wait = seconds_until_reset(rate_limit, date) if told is None else min(told, LONGEST_PAUSE)
            self.allowance.pause_for(wait, self._clock.monotonic())
            raise RateLimited("the rate limit is used up (429)", wait)
        if endpoint is Endpoint.JOB and code == _NOT_FOUND and api_error.code == NO_SUCH_JOB:
            raise _NoSuchJob(date)
        raise _failure(endpoint, code, api_error)

    @contextmanager
    def _answer_to(self, path: str) -> Iterator[httpx.Response]:
        """The answer's head; its body is still to be read, and dropped if it is not."""
        self._deadline.start(self._timeout)
        request = self._http.build_request("GET", self._endpoint + path, headers={"X-SBG-Auth-Token": self._token})
        response = self._http.send(request, stream=True)
        try:
            yield response
        finally:
            response.close()

    def _masked(self, body: bytes) -> bytes:
        """What the platform said, without the token if it repeats it."""
        return body.replace(self._token.encode(), MASK.encode()) if self._token else body


def after_failure(attempt: int, roll: float) -> float:
    """Seconds to wait after the 1-based *attempt* failed: full jitter, doubling; *roll* is in [0, 1)."""
    return roll * _BACKOFF_SECONDS * 2.0 ** (attempt - 1)


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """What certificates are checked against: *ca_file*, else ``SSL_CERT_FILE``, else the bundle that httpx brings.

    Raises:
        ConfigError: the file that is named cannot be read or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca_file) if ca_file else httpx.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one
        named = ca_file or "SSL_CERT_FILE or SSL_CERT_DIR"
        raise ConfigError(f"{named}: no certificates in PEM form there: {error.strerror or error}") from error


def transport_to(deadline: Deadline, tls: ssl.SSLContext | None, proxy: str | None) -> httpx.BaseTransport:
    """One kept connection, held to *deadline*, through *proxy* (its URL, credentials included) if there is one."""
    backend = DeadlineBackend(deadline)
    if proxy is None:
        pool = httpcore.ConnectionPool(ssl_context=tls, max_connections=1, network_backend=backend)
    else:
        url = httpx.Proxy(proxy)
        pool = httpcore.HTTPProxy(
            proxy_url=httpcore.URL(scheme=url.url.raw_scheme, host=url.url.raw_host, port=url.url.port, target="/"),
            proxy_auth=url.raw_auth,
            ssl_context=tls,
            proxy_ssl_context=tls if url.url.scheme == "https" else None,
            max_connections=1,
            network_backend=backend,
        )
    return _Transport(pool)


class _Transport(httpx.HTTPTransport):
    """httpx's own transport over a pool that holds deadlines, which its constructor has no argument for."""

    def __init__(self, pool: httpcore.ConnectionPool) -> None:
        self._pool = pool


class _NoSuchJob(Exception):
    """The platform's own word that it knows no such job, with its time."""

    def __init__(self, date: float | None) -> None:
        super().__init__("no such job")
        self.date = date


class _TransportError(Unreachable):
    """No answer, with the label of the reason."""

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def _transit_errors(timeout: float) -> Iterator[None]:
    """Foreign exceptions are translated here and nowhere else."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise _TransportError(f"no whole answer within {timeout:g} s", "timeout") from error
    except (httpx.ConnectError, httpx.ProxyError) as error:
        raise _TransportError(f"no connection: {error}", "connect") from error
    except (httpx.TransportError, zlib.error) as error:
        raise _TransportError(f"the connection broke: {error}", "other") from error


def _body(response: httpx.Response, endpoint: Endpoint) -> bytes:
    """The whole body of a good answer, and of any other what there is to read.

    Raises:
        BadAnswer: a good answer is too large, or in an encoding that was not asked for.
    """
    if response.status_code != _OK:
        try:
            return _bounded_body(response, LARGEST_ERROR)
        except (BadAnswer, httpx.TransportError, zlib.error):
            return b""  # the status says enough, and must be heeded: a 429 is not asked again
    try:
        return _bounded_body(response, LARGEST_ANSWER)
    except BadAnswer as error:
        raise (JobRequestFailed(str(error)) if endpoint is Endpoint.JOB else error) from None


def _bounded_body(response: httpx.Response, most: int) -> bytes:
    """The body, decompressed no further than *most* bytes.

    Raises:
        BadAnswer: it is larger, or in an encoding that was not asked for.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"gzip", "identity"}:
        raise BadAnswer(f"an answer in an encoding that was not asked for: {encoding[:40]!r}")
    inflate = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    chunks: list[bytes] = []
    size = 0
    for raw in response.iter_raw():
        chunk = inflate.decompress(raw, most - size + 1) if inflate else raw
        size += len(chunk)
        if size > most:
            raise AnswerTooLarge(f"an answer of more than {most} bytes")
        chunks.append(chunk)
    if inflate and not inflate.eof:
        raise zlib.error("compressed data ends early")
    return b"".join(chunks)


def _failure(endpoint: Endpoint, code: int, api_error: decoding.ApiError) -> Exception:
    """What an answer other than 200 means."""
    said = f" {api_error.message!r}" if api_error.message else ""
    said += f" (code {api_error.code})" if api_error.code is not None else ""
    if code == _UNAVAILABLE and api_error.code == _UNDER_MAINTENANCE:
        return Maintenance("the platform is under maintenance")
    if code in _SERVER_ERRORS or code == _TIMED_OUT:
        return _TransportError(f"the platform answered {code}{said}", str(code))
    if code == _UNAUTHORIZED or (code == _FORBIDDEN and endpoint is not Endpoint.JOB):
        return Unauthorized(f"the platform refused the token: {code}{said}")
    if code in _REDIRECTS:
        return BadAnswer(f"the platform answered {code}, a redirect; redirects are not followed: check api_endpoint")
    kind = JobRequestFailed if endpoint is Endpoint.JOB else BadRequest if code == _BAD_REQUEST else BadAnswer
    return kind(f"the platform answered {code}{said}")

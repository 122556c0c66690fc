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
from exporter.api.allowance import LONGEST_SILENCE, Allowance, Purpose, seconds_until_reset
from exporter.api.deadline import Deadline, DeadlineBackend
from exporter.api.models import FINAL_RANK, OPERATIONS, Job, Operation
from exporter.clock import Clock
from exporter.errors import (
    AllowanceSpent,
    AnswerTooLarge,
    BadAnswer,
    BadRequest,
    ConfigError,
    JobRefused,
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
class Asked:
    """One request was made: *status* is the HTTP status, or ``timeout``, ``connect``, ``other``; *seconds* it took."""

    endpoint: Endpoint
    status: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Retried:
    """A request failed in transit and is made again after *wait* seconds."""

    endpoint: Endpoint
    reason: str
    attempt: int
    wait: float


class Listener(Protocol):
    """Who is told what the client does."""

    def on_asked(self, fact: Asked) -> None:
        """After each request, whatever came of it."""
        ...

    def on_retried(self, fact: Retried) -> None:
        """Before the wait that comes before another try."""
        ...


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What was asked for, with the platform's time of the answer (Unix seconds; None where it sent no ``Date``)."""

    value: T
    date: float | None


@dataclass(frozen=True, slots=True)
class ListAnswer:
    """One page of the list, with the platform's time and its own count of all jobs, where it sent them.

    Attributes:
        limit: how many jobs it was asked for: fewer than wanted while answers are too large.
    """

    page: decoding.Page
    date: float | None
    total: int | None
    limit: int = PAGE_LIMIT


class _Trial(Enum):
    """Whether the list leaves out results when asked to."""

    OPEN = "not known yet"
    DOUBTED = "it failed, and perhaps for that"
    WON = "it does"
    GIVEN_UP = "it does not"


_ASKING: Final = (_Trial.OPEN, _Trial.WON)


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
        listener: Listener,
        timeout: float,
    ) -> None:
        self._endpoint = endpoint
        self._deadline = deadline
        self._timeout = timeout
        self._clock = clock
        self._listener = listener
        self.allowance = allowance
        self._token = ""
        self._limit = PAGE_LIMIT
        self._good_pages = 0
        self._trial = _Trial.OPEN
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

    def user(self) -> Answer[str]:
        """Who the token belongs to.

        Raises:
            PollError: no good answer.
            AllowanceSpent: not asked.
        """
        body, headers = self._ask(Endpoint.USER, "/user", Purpose.WATCH)
        return Answer(decoding.username_of(body), decoding.date_of(headers))

    def page(self, offset: int, purpose: Purpose = Purpose.WATCH) -> ListAnswer:
        """The jobs of the list from *offset* on, as many as a page may have; fewer while answers are too large.

        A job whose record alone is too large is one that cannot be read.

        Raises:
            PollError: no good answer.
            AllowanceSpent: not asked.
        """
        while True:
            limit = self._limit
            try:
                answer = self._page(offset, limit, purpose)
            except AnswerTooLarge:
                self._good_pages = 0
                self._limit = max(1, limit // 2)
                if limit == 1:
                    return ListAnswer(decoding.too_large(1), None, None, 1)
                self._clock.pause(0)  # megabytes each: the process may be ending
                continue
            self._good_pages += 1
            if self._good_pages >= _GOOD_PAGES_TO_GROW:
                self._good_pages = 0
                self._limit = min(PAGE_LIMIT, 2 * limit)
            return answer

    def _page(self, offset: int, limit: int, purpose: Purpose) -> ListAnswer:
        """One page, without the jobs' results if the platform can leave them out: they may be megabytes.

        Whether this list heeds ``fields`` is not documented (the API's overview says that all calls do). So it is
        tried, and given up for as long as this client lives when it is refused (400), when what comes lacks more than
        the results, when it fails twice where the plain question works, or when a job has failed files whose errors
        only the list can tell.
        """
        path = f"/async/files?offset={offset}&limit={limit}"
        chosen = self._without_results(path, limit, purpose) if self._trial in _ASKING else None
        if chosen is not None and any(map(_needs_result, chosen.page.jobs)):
            self._trial, chosen = _Trial.GIVEN_UP, None
        if chosen is not None and (chosen.page.whole or self._trial is _Trial.WON):
            self._trial = _Trial.WON if chosen.page.items else self._trial
            return chosen
        plain = self._plain(path, limit, purpose)
        if self._trial is _Trial.DOUBTED:
            self._doubts += 1
            self._trial = _Trial.GIVEN_UP if self._doubts >= _MOST_DOUBTS else _Trial.OPEN
        elif self._trial is not _Trial.GIVEN_UP:
            alike = chosen is not None and _without_errors(chosen.page) == _without_errors(plain.page)
            self._trial = _Trial.WON if alike else _Trial.GIVEN_UP
        return plain

    def _without_results(self, path: str, limit: int, purpose: Purpose) -> ListAnswer | None:
        """The page as asked for without results; None when the platform does not take that question."""
        try:
            return self._listed(f"{path}&fields=!result", limit, purpose)
        except BadRequest:
            return None
        except (BadAnswer, Unreachable) as error:
            if self._trial is _Trial.OPEN and not isinstance(error, AnswerTooLarge):
                self._trial = _Trial.DOUBTED
            raise

    def _plain(self, path: str, limit: int, purpose: Purpose) -> ListAnswer:
        try:
            return self._listed(path, limit, purpose)
        except (BadAnswer, Unreachable):
            if self._trial is _Trial.DOUBTED:  # it was not for the fields that it failed
                self._trial = _Trial.OPEN
            raise

    def _listed(self, path: str, limit: int, purpose: Purpose) -> ListAnswer:
        body, headers = self._ask(Endpoint.LIST, path, purpose)
        return ListAnswer(decoding.page_of(body), decoding.date_of(headers), decoding.total_of(headers), limit)

    def job(self, operation: Operation, job_id: str, purpose: Purpose = Purpose.JOB) -> Answer[Job | None]:
        """One job; None when the platform itself says that it knows no such job.

        Raises:
            JobRefused: no good answer about this job.
            PollError: no good answer.
            AllowanceSpent: not asked.
        """
        try:
            body, headers = self._ask(Endpoint.JOB, f"/async/files/{operation}/{quote(job_id, safe='')}", purpose)
        except _NoSuchJob as answer:
            return Answer(None, answer.date)
        try:
            job = decoding.job_of(body)
        except BadAnswer as error:
            raise JobRefused(str(error)) from error
        if job.id != job_id:
            raise JobRefused(f"asked for job {job_id}, got job {job.id}")
        return Answer(job, decoding.date_of(headers))

    def _ask(self, endpoint: Endpoint, path: str, purpose: Purpose) -> tuple[bytes, Mapping[str, str]]:
        """The body and headers of a good answer."""
        failures: list[Unreachable] = []
        while True:
            try:
                return self._ask_once(endpoint, path, purpose)
            except Unreachable as error:
                failures.append(error)
                if len(failures) == ATTEMPTS:
                    raise
            except AllowanceSpent:
                if failures:  # that there is no request left for another try is not what went wrong
                    raise failures[-1] from None
                raise
            wait = after_failure(len(failures), self._clock.roll())
            self._listener.on_retried(Retried(endpoint, str(failures[-1]), len(failures), wait))
            self._clock.pause(wait)

    def _ask_once(self, endpoint: Endpoint, path: str, purpose: Purpose) -> tuple[bytes, Mapping[str, str]]:
        wait = self.allowance.take(self._clock.monotonic(), purpose)
        if wait > 0:
            raise AllowanceSpent(wait)
        began = self._clock.monotonic()
        status = "other"
        try:
            with _transit_errors(self._timeout), self._answer_to(path) as response:
                code, headers = response.status_code, response.headers
                status = str(code)
                date, quota = decoding.date_of(headers), decoding.quota_of(headers)
                self.allowance.learn(quota, date, self._clock.monotonic())
                body = _body(response, endpoint)
        except _Broken as error:
            status = error.status
            raise
        finally:
            self._listener.on_asked(Asked(endpoint, status, self._clock.monotonic() - began))
        if code == _OK:
            return body, headers
        fault = decoding.fault_of(self._masked(body))
        if code == _TOO_MANY:
            told = decoding.retry_after_of(headers)
            wait = seconds_until_reset(quota, date) if told is None else min(told, LONGEST_SILENCE)
            self.allowance.silence(wait, self._clock.monotonic())
            raise RateLimited("the rate limit is used up (429)", wait)
        if endpoint is Endpoint.JOB and code == _NOT_FOUND and fault.code == NO_SUCH_JOB:
            raise _NoSuchJob(date)
        raise _failure(endpoint, code, fault)

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


class _Broken(Unreachable):
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
        raise _Broken(f"no whole answer within {timeout:g} s", "timeout") from error
    except (httpx.ConnectError, httpx.ProxyError) as error:
        raise _Broken(f"no connection: {error}", "connect") from error
    except (httpx.TransportError, zlib.error) as error:
        raise _Broken(f"the connection broke: {error}", "other") from error


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
        raise (JobRefused(str(error)) if endpoint is Endpoint.JOB else error) from None


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


def _failure(endpoint: Endpoint, code: int, fault: decoding.Fault) -> Exception:
    """What an answer other than 200 means."""
    said = f" {fault.message!r}" if fault.message else ""
    said += f" (code {fault.code})" if fault.code is not None else ""
    if code == _UNAVAILABLE and fault.code == _UNDER_MAINTENANCE:
        return Maintenance("the platform is under maintenance")
    if code in _SERVER_ERRORS or code == _TIMED_OUT:
        return _Broken(f"the platform answered {code}{said}", str(code))
    if code == _UNAUTHORIZED or (code == _FORBIDDEN and endpoint is not Endpoint.JOB):
        return Unauthorized(f"the platform refused the token: {code}{said}")
    if code in _REDIRECTS:
        return BadAnswer(f"the platform answered {code}, a redirect; redirects are not followed: check api_endpoint")
    kind = JobRefused if endpoint is Endpoint.JOB else BadRequest if code == _BAD_REQUEST else BadAnswer
    return kind(f"the platform answered {code}{said}")

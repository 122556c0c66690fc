"""The HTTP client of one account: list page, single job, user.

One request at a time, limited in duration and size. Connection failures are retried. Every failure becomes one of the
project's errors. Each request is reported to one observer, so the client needs neither logs nor metrics.
"""

import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from http.cookiejar import CookieJar
from typing import Final, Protocol
from urllib.parse import quote

import httpx

from exporter import __version__
from exporter.api import decoding
from exporter.api.allowance import LONGEST_PAUSE, Allowance, seconds_until_reset
from exporter.api.bodies import LARGEST_ANSWER, read_body
from exporter.api.connection_errors import Route, connecting, decompressing, losing, tunnelling, waiting
from exporter.api.deadline import Deadline
from exporter.api.failures import Asked, Received, TransportFailed, failure, not_json
from exporter.api.file_errors import FileError, parse_file_errors
from exporter.api.headers import parse_date, parse_rate_limit, parse_retry_after, parse_total
from exporter.api.models import PAGE_LIMIT, Job, JobPage, Operation, Priority, Response
from exporter.api.oversized import OversizedJobs
from exporter.api.result_filter import ResultFilter
from exporter.api.transport import Transport
from exporter.clock import Clock
from exporter.errors import (
    AllowanceExhausted,
    AnswerTooLarge,
    BadAnswer,
    BadRequest,
    JobRequestFailed,
    Maintenance,
    NotThePlatform,
    PollError,
    RateLimited,
    Unauthorized,
    Unreachable,
    WaitReason,
)
from exporter.redaction import MASK, Secret

ATTEMPTS: Final = 3
"""How often a request is sent within one poll if the connection or the platform fails; for a single job, once."""
NO_SUCH_JOB: Final = 10211
"""The platform's error code for an unknown job id."""
_GOOD_PAGES_TO_GROW: Final = 10
"""Consecutive successful pages before the page size is doubled again."""
_BACKOFF_SECONDS: Final = 1.0
_SHORT_PAUSE: Final = 5.0
"""Longest ``Retry-After`` of a 503, in seconds, after which a request is retried within the same poll."""
_OK, _NOT_FOUND, _TOO_MANY, _UNAVAILABLE = 200, 404, 429, 503


class _NoCookies(CookieJar):
    """Stores no cookie, and does not even parse them."""

    def extract_cookies(self, response: object, request: object) -> None:
        """Leave the cookies of *response* where they are."""


def _set_aside_target(response: httpx.Response) -> None:
    """Take a redirect's target out of the headers: httpx parses it even if it is not followed, and may refuse it."""
    response.extensions["location"] = response.headers.pop("location", "")


class Endpoint(StrEnum):
    """The API endpoints, as labels of metrics."""

    LIST = "list"
    JOB = "job"
    USER = "user"


@dataclass(frozen=True, slots=True)
class RequestCompleted:
    """A request that ended.

    Attributes:
        status: the HTTP status, or ``timeout``, ``connect``, ``other``.
        seconds: its duration.
    """

    endpoint: Endpoint
    status: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RetryScheduled:
    """A request that failed and will be sent again after *wait* seconds."""

    endpoint: Endpoint
    reason: str
    attempt: int
    wait: float


class ClientObserver(Protocol):
    """Receives the client's events."""

    def on_request_completed(self, event: RequestCompleted) -> None:
        """Handle the end of a request, successful or not."""
        ...

    def on_retry_scheduled(self, event: RetryScheduled) -> None:
        """Handle a retry, before the wait."""
        ...


class Client:
    """The requests of one account. Not thread-safe."""

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
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        """A client.

        Args:
            endpoint: the API's base URL.
            transport: sends the requests.
            deadline: limits the duration of each request.
            allowance: how many requests may be sent.
            clock: for waits and durations.
            observer: receives an event for each request and retry.
            timeout: seconds that a request may take.
            prepare: called before each request; may raise ConfigError if none can be sent.
        """
        self._endpoint = endpoint
        self._prepare = prepare
        self._route = Route(endpoint)
        if isinstance(transport, Transport):
            self._route = Route(endpoint, transport.proxy, transport.place_of_certificates)
        self._deadline = deadline
        self.timeout = timeout
        """Seconds that a request may take."""
        self._clock = clock
        self._observer = observer
        self.allowance = allowance
        self._token = Secret("")
        self._hidden_names: tuple[str, ...] = ()
        self._hides_messages = False
        self._limit = PAGE_LIMIT
        self._good_pages = 0
        self._jobs_paused_until = -math.inf
        self._oversized = OversizedJobs()
        self._result_filter = ResultFilter()
        self._http = httpx.Client(
            transport=transport,
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
            cookies=_NoCookies(),
            event_hooks={"response": [_set_aside_target]},
            headers={
                "Accept": "application/json",
                "Content-Type": "application/json",  # Documented as required, even without a body.
                "Accept-Encoding": "gzip",
                "User-Agent": f"sbg-exporter/{__version__}",
            },
        )

    def use_token(self, token: Secret) -> None:
        """Send *token* with all further requests."""
        self._token = token

    def hide_names(self, *names: str, user_unknown: bool = False) -> None:
        """Mask these user names in error messages; the platform's whole messages while the token's user is unknown."""
        self._hidden_names = names
        self._hides_messages = user_unknown

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def user(self) -> Response[str]:
        """Return the name of the user that the token belongs to.

        Raises:
            PollError: the request failed.
            AllowanceExhausted: the request was not sent.
        """
        body, headers = self._request(Endpoint.USER, "/user", Priority.DISCOVERY)
        return Response(decoding.parse_username(body), parse_date(headers))

    def page(self, offset: int, priority: Priority = Priority.DISCOVERY, *, until: float = math.inf) -> JobPage:
        """Return a page of the job list from *offset*, with fewer jobs while responses are too large.

        A single record that is too large is skipped like any other unreadable record, unless all are.

        Args:
            offset: position on the list.
            priority: whose turn it is if the allowance is short.
            until: monotonic seconds at which to give up.

        Raises:
            PollError: the request failed.
            AllowanceExhausted: the request was not sent.
        """
        while True:
            limit = self._limit
            try:
                response = self._page(offset, limit, priority, until)
            except AnswerTooLarge as error:
                self._good_pages = 0
                self._limit = max(1, limit // 2)
                if limit == 1:
                    if self._oversized.too_large(offset, self._clock.monotonic()):
                        raise AnswerTooLarge(
                            f"the platform's responses are larger than {LARGEST_ANSWER} bytes, even with one job"
                        ) from error
                    return JobPage(decoding.too_large(1), None, None, 1)
                self._clock.pause(0)  # Raise Stopping if the process is ending: each attempt reads megabytes.
                continue
            except NotThePlatform as error:
                if error.doubts_token:
                    self._check_token(until)
                raise
            self._oversized.read(offset, response.page.items)
            self._good_pages += 1
            if self._good_pages >= _GOOD_PAGES_TO_GROW:
                self._good_pages = 0
                self._limit = min(PAGE_LIMIT, 2 * limit)
            return response

    def _check_token(self, until: float) -> None:
        """Request the token's user, whose response is about the token in any case. Nothing is retried.

        Raises:
            Unauthorized: the platform refuses the token.
        """
        try:
            self._attempt(Endpoint.USER, "/user", Priority.DISCOVERY, until, LARGEST_ANSWER)
        except Unauthorized:
            raise
        except (PollError, AllowanceExhausted):
            pass  # It says nothing about the token either.

    def _page(self, offset: int, limit: int, priority: Priority, until: float) -> JobPage:
        positions = range(offset, offset + limit)
        largest = self._oversized.bytes_to_read(offset, limit, self._clock.monotonic())
        filtered = self._filtered_page(positions, priority, until, largest) if self._result_filter.usable else None
        if filtered is not None and self._result_filter.accepts(filtered.page):
            return filtered
        try:
            unfiltered = self._listed(positions, priority, until, largest)
        except (BadAnswer, Unreachable):
            self._result_filter.unfiltered_failed()
            raise
        self._result_filter.unfiltered_succeeded(unfiltered.page, filtered.page if filtered else None)
        return unfiltered

    def _filtered_page(self, positions: range, priority: Priority, until: float, largest: int) -> JobPage | None:
        """Return the page without results; None if the platform refuses the parameter."""
        try:
            return self._listed(positions, priority, until, largest, ResultFilter.PARAMETER)
        except BadRequest:
            return None
        except AnswerTooLarge:  # The size of a page says nothing about the filter.
            raise
        except (BadAnswer, Unreachable):
            self._result_filter.filtered_failed()
            raise

    def _listed(self, positions: range, priority: Priority, until: float, largest: int, parameter: str = "") -> JobPage:
        path = f"/async/files?offset={positions.start}&limit={len(positions)}{parameter}"
        body, headers = self._request(Endpoint.LIST, path, priority, until=until, largest=largest)
        total = parse_total(headers)
        page = decoding.parse_page(body, len(positions), None if total is None else total - positions.start)
        return JobPage(page, parse_date(headers), total, len(positions))

    def job(
        self, operation: Operation, job_id: str, priority: Priority = Priority.REFRESH, *, until: float = math.inf
    ) -> Response[Job | None]:
        """Return one job, or None if the platform reports that it has no such job. Nothing is retried.

        Raises:
            JobRequestFailed: there was no response that says something about the job, by *until* (monotonic seconds).
            Unauthorized: the platform refused the token, for this job at least.
            PollError: the platform refuses all requests.
            AllowanceExhausted: the request was not sent.
        """
        path = f"/async/files/{operation}/{quote(job_id, safe='')}"
        try:
            body, headers = self._request(Endpoint.JOB, path, priority, until=until)
            job = decoding.parse_job(body)
        except _NoSuchJob as error:
            return Response(None, error.date)
        except Maintenance as error:
            self._pause(Endpoint.JOB, error.retry_after)
            raise JobRequestFailed(str(error)) from error
        except (Unreachable, BadAnswer) as error:
            raise JobRequestFailed(str(error)) from error
        if job.id != job_id:
            raise JobRequestFailed(f"requested job {job_id}, but the platform returned job {job.id}")
        return Response(job, parse_date(headers))

    def file_errors(self, operation: Operation, job_id: str) -> tuple[FileError, ...] | None:
        """Return the error records of one job, or None if the platform reports that it has no such job.

        Raises:
            PollError: there was no response that says something about the job.
            AllowanceExhausted: the request was not sent.
        """
        path = f"/async/files/{operation}/{quote(job_id, safe='')}"
        try:
            body, _ = self._request(Endpoint.JOB, path, Priority.REFRESH)
        except _NoSuchJob:
            return None
        return parse_file_errors(body)

    def _request(
        self,
        endpoint: Endpoint,
        path: str,
        priority: Priority,
        *,
        until: float = math.inf,
        largest: int = LARGEST_ANSWER,
    ) -> tuple[bytes, Mapping[str, str]]:
        """Return the body and headers of a 200 response; retry if the connection or the platform fails."""
        failures: list[Unreachable] = []
        attempts = 1 if endpoint is Endpoint.JOB else ATTEMPTS
        while True:
            try:
                return self._attempt(endpoint, path, priority, until, largest)
            except Unreachable as error:
                failures.append(error)
                if len(failures) == attempts or (error.retry_after or 0.0) > _SHORT_PAUSE:
                    raise
            except AllowanceExhausted:
                if failures:  # Report the cause, not the missing allowance for a retry.
                    raise failures[-1] from None
                raise
            wait = max(after_failure(len(failures), self._clock.roll()), failures[-1].retry_after or 0.0)
            if self._clock.monotonic() + wait >= until:
                raise failures[-1]
            self._observer.on_retry_scheduled(RetryScheduled(endpoint, str(failures[-1]), len(failures), wait))
            self._clock.pause(wait)

    def _attempt(
        self, endpoint: Endpoint, path: str, priority: Priority, until: float, largest: int
    ) -> tuple[bytes, Mapping[str, str]]:
        began = self._clock.monotonic()
        if endpoint is Endpoint.JOB and began < self._jobs_paused_until:
            raise AllowanceExhausted(self._jobs_paused_until - began, WaitReason.RATE_LIMITED)
        self._prepare()
        wait = self.allowance.take(began, priority)
        if wait > 0:
            raise AllowanceExhausted(wait, self.allowance.wait_reason(began, priority))
        status = "other"
        seconds = max(0.0, min(self.timeout, until - began))
        try:
            with self._transport_errors(seconds), self._send(path, seconds) as response:
                code, headers = response.status_code, response.headers
                status = str(code)
                date, rate_limit = parse_date(headers), parse_rate_limit(headers)
                self.allowance.learn(rate_limit, date, self._clock.monotonic())
                body = self._without_token(read_body(response, largest))
        except TransportFailed as error:
            status = error.status
            raise
        finally:
            self._observer.on_request_completed(RequestCompleted(endpoint, status, self._clock.monotonic() - began))
        asked = Asked(
            self._endpoint,
            self._endpoint + path,
            self._route.proxy_address,
            is_user=endpoint is Endpoint.USER,
            is_job=endpoint is Endpoint.JOB,
        )
        received = Received(
            code,
            body,
            headers.get("content-type", ""),
            self._mask(response.extensions["location"]),
            self._without_names,
            (lambda _message: MASK) if self._hides_messages else self._without_names,
        )
        if code == _OK:
            wrong = not_json(received, asked)
            if wrong is not None:
                raise wrong
            return body, headers
        retry_after = parse_retry_after(headers)
        if retry_after is not None:
            retry_after = min(retry_after, LONGEST_PAUSE)
        if code == _TOO_MANY:
            wait = seconds_until_reset(rate_limit, date) if retry_after is None else retry_after
            raise self._refused(endpoint, rate_limit.remaining, wait)
        if code == _UNAVAILABLE and retry_after is not None and retry_after > _SHORT_PAUSE:
            self._pause(endpoint, retry_after)
        if endpoint is Endpoint.JOB and code == _NOT_FOUND and decoding.parse_error(body).code == NO_SUCH_JOB:
            raise _NoSuchJob(date)
        raise failure(received, asked, retry_after)

    def _refused(self, endpoint: Endpoint, requests_left: int | None, wait: float) -> PollError:
        """Pause for *wait* seconds after a 429 and return its error: of one job only, if requests are left."""
        if endpoint is Endpoint.JOB and requests_left:
            self._pause(endpoint, wait)
            return JobRequestFailed(f"the platform answered 429, with {requests_left} requests left")
        self.allowance.pause_for(wait, self._clock.monotonic())
        return RateLimited("the platform's rate limit is exhausted (429)", wait)

    def _pause(self, endpoint: Endpoint, seconds: float) -> None:
        """Send no such request for a while. If one job's endpoint asked for it, the job list is requested as usual."""
        now = self._clock.monotonic()
        if endpoint is Endpoint.JOB:
            self._jobs_paused_until = now + seconds
        else:
            self.allowance.pause_for(seconds, now)

    @contextmanager
    def _send(self, path: str, seconds: float) -> Iterator[httpx.Response]:
        """Send a GET request and yield the response, whose body has not been read yet."""
        self._deadline.start(seconds)
        headers = {"X-SBG-Auth-Token": self._token.reveal()}
        request = self._http.build_request("GET", self._endpoint + path, headers=headers)
        response = self._http.send(request, stream=True)
        try:
            yield response
        finally:
            response.close()

    @contextmanager
    def _transport_errors(self, seconds: float) -> Iterator[None]:
        """Translate the errors of httpx and zlib. No other code sees them, nor the frames in which headers are."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise TransportFailed(waiting(error, self._route, seconds, self.timeout), "timeout") from None
        except httpx.ProxyError as error:
            raise TransportFailed(self._mask(tunnelling(error, self._route)), "connect") from None
        except httpx.ConnectError as error:
            raise TransportFailed(self._mask(connecting(error, self._route)), "connect") from None
        except zlib.error as error:
            raise TransportFailed(decompressing(error, self._route), "other") from None
        except httpx.TransportError as error:
            raise TransportFailed(self._mask(losing(error, self._route)), "other") from None

    def _without_token(self, body: bytes) -> bytes:
        """Mask the token in *body*, in case the platform repeats it, so that it becomes no job's id and no message."""
        return self._token.judged_by(lambda text: body.replace(text.encode(), MASK.encode()) if text else body)

    def _without_names(self, text: str) -> str:
        """Mask the hidden user names in *text*, which an error repeats."""
        for name in self._hidden_names:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", MASK, text, flags=re.IGNORECASE)
        return text

    def _mask(self, text: str) -> str:
        """Mask the token in *text*, which may repeat what a server sent."""
        return self._token.judged_by(lambda token: text.replace(token, MASK) if token else text)


def after_failure(attempt: int, roll: float) -> float:
    """Return the seconds to wait after attempt number *attempt*: full jitter, doubling; *roll* is in [0, 1)."""
    return roll * _BACKOFF_SECONDS * 2.0 ** (attempt - 1)


class _NoSuchJob(Exception):
    """The platform reports that it has no such job; *date* as in :class:`Response`."""

    def __init__(self, date: float | None) -> None:
        super().__init__("no such job")
        self.date = date

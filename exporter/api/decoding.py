"""Decode response bodies and headers into the exporter's own types. No other module parses JSON of the platform.

A page is first decoded in one step. If that fails, it is decoded record by record, so that an unreadable record costs
only itself. ``result`` stays undecoded unless a job has failed files, because a page may hold megabytes of it.

The fields are documented in the platform's pages "Get details of all async jobs" and "Get details of a copy job". The
tables there call the counts strings, while the examples show integers. Times and counts may be absent.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from exporter.api.models import OTHER, ApiError, Job, Page, RateLimit
from exporter.errors import BadAnswer

_LABEL: Final = re.compile(r"[a-z0-9_]{1,32}")
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
_LONGEST_LABEL_TEXT: Final = 64
_LONGEST_NAME: Final = 256
_MOST_FILES: Final = 2**31
"""A record with more files is broken. The sum over all jobs of a ledger must fit into the database's 64 bits."""
_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
"""A JSON escape. Its group matches a lone surrogate: half of a character without the other half."""
_COUNT: Final = re.compile(r"\s*0*([0-9]{1,16})\s*")
_MILLISECONDS_FROM: Final = 1e11
"""Reset values from here on are milliseconds, as in old samples. As seconds this would be the year 5138."""

NO_CODE: Final = "none"
"""Code of an error record without a code."""


SKIPPED: Final = ("bad_count", "bad_id", "no_id", "no_state", "not_a_job", "too_large")
"""Reasons why a record is skipped, as labels of metrics."""


class _Record(msgspec.Struct):
    id: Any = None
    type: Any = None
    state: Any = None
    href: Any = None
    total_files: Any = None
    completed_files: Any = None
    failed_files: Any = None
    started_on: Any = None
    finished_on: Any = None
    result: msgspec.Raw = msgspec.Raw()


class _Page(msgspec.Struct):
    items: list[_Record]
    links: Any = None


class _RawPage(msgspec.Struct):
    items: list[msgspec.Raw]
    links: Any = None


class _User(msgspec.Struct):
    username: str


_page = msgspec.json.Decoder(_Page)
_raw_page = msgspec.json.Decoder(_RawPage)
_record = msgspec.json.Decoder(_Record)
_user = msgspec.json.Decoder(_User)
_anything = msgspec.json.Decoder()
_UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of a decoder. RecursionError is raised for deeply nested brackets."""


class _InvalidRecord(Exception):  # never leaves this module
    """A record that cannot be read; the message is one of SKIPPED."""


def parse_page(body: bytes) -> Page:
    """Decode one page of the job list.

    Raises:
        BadAnswer: the body is not a page of jobs.
    """
    skipped: Counter[str] = Counter()
    try:
        page: _Page | _RawPage = _page.decode(body)
    except _UNDECODABLE:
        try:
            page = _raw_page.decode(_replace_lone_surrogates(body))
        except _UNDECODABLE as error:
            raise BadAnswer(f"not a page of jobs: {error}") from error
    jobs: list[Job] = []
    last = -1
    whole = True
    records: Sequence[_Record | msgspec.Raw] = page.items
    for position, item in enumerate(records):
        try:
            record = _decoded(item) if isinstance(item, msgspec.Raw) else item
            whole = whole and _is_whole(record)
            jobs.append(_job(record))
        except _InvalidRecord as reason:
            whole = False
            skipped[str(reason)] += 1
        else:
            last = position
    return Page(tuple(jobs), len(page.items), skipped, last, _links_next(page.links), whole)


def too_large(records: int) -> Page:
    """Return a page of *records* unreadable records, in place of a response that was too large."""
    return Page((), records, {"too_large": records}, -1, has_next=True)


def parse_job(body: bytes) -> Job:
    """Decode the response of a single-job request.

    Raises:
        BadAnswer: the body is not a job.
    """
    try:
        return _job(_record.decode(_replace_lone_surrogates(body)))
    except (*_UNDECODABLE, _InvalidRecord) as error:
        raise BadAnswer(f"not a job: {error}") from error


def parse_username(body: bytes) -> str:
    """Decode the user name. The rest of the response is personal data and is dropped.

    Raises:
        BadAnswer: the body names no user.
    """
    try:
        username = _user.decode(body).username
    except _UNDECODABLE as error:
        raise BadAnswer("not a user: the response has no user name") from error
    if not username or len(username) > _LONGEST_NAME or not username.isprintable():
        raise BadAnswer(f"not a user: expected 1 to {_LONGEST_NAME} printable characters as the user name")
    return username


def parse_error(body: bytes) -> ApiError:
    """Decode the body of an error response: the platform's flat JSON, or anything else, such as a proxy's HTML."""
    try:
        answer = _anything.decode(body)
    except _UNDECODABLE:
        return ApiError(None, "")
    if not isinstance(answer, dict):
        return ApiError(None, "")
    code = answer.get("code")
    message = answer.get("message")
    return ApiError(
        code if isinstance(code, int) and not isinstance(code, bool) else None,
        " ".join(message.split())[:200] if isinstance(message, str) else "",
    )


def parse_rate_limit(headers: Mapping[str, str]) -> RateLimit:
    """Parse the rate limit. The names in *headers* are in lower case."""
    reset = _number(headers.get("x-ratelimit-reset"))
    if reset is not None and reset > _MILLISECONDS_FROM:
        reset /= 1000
    limit, remaining = _number(headers.get("x-ratelimit-limit")), _number(headers.get("x-ratelimit-remaining"))
    return RateLimit(
        None if limit is None else int(limit),
        None if remaining is None else int(remaining),
        reset if reset is not None and reset > 0 else None,
    )


def parse_date(headers: Mapping[str, str]) -> float | None:
    """Parse the platform's time of the response (``Date``) into Unix seconds; None if absent or unreadable."""
    return _http_date(headers.get("date", ""))


def parse_total(headers: Mapping[str, str]) -> int | None:
    """Parse the platform's count of the list's jobs (``X-Total-Matching-Query``); None if absent or unreadable."""
    total = _number(headers.get("x-total-matching-query"))
    return None if total is None or total < 0 else int(total)


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Parse the seconds of ``Retry-After``, a number or a date; None if absent or unreadable."""
    text = headers.get("retry-after", "")
    seconds = _number(text)
    if seconds is None:
        at, date = _http_date(text), parse_date(headers)
        seconds = None if at is None or date is None else at - date
    return seconds if seconds is not None and seconds >= 0 else None


def parse_label(value: object) -> str:
    """Return *value* in lower case if it is usable as a label, else ``other``."""
    if type(value) is str:
        return _label(value) if len(value) <= _LONGEST_LABEL_TEXT else OTHER
    return _label(str(value)) if type(value) is int else OTHER


@lru_cache(maxsize=256)
def _label(text: str) -> str:
    label = text.strip().lower()
    return label if _LABEL.fullmatch(label) else OTHER


def _replace_lone_surrogates(body: bytes) -> bytes:
    """Replace lone surrogates, which decoders refuse. A truncated message in a ``result`` may end in one."""
    return _ESCAPE.sub(lambda escape: rb"\ufffd" if escape[1] else escape[0], body)


def _decoded(item: msgspec.Raw) -> _Record:
    try:
        return _record.decode(item)
    except _UNDECODABLE:
        raise _InvalidRecord("not_a_job") from None


def _job(record: _Record) -> Job:
    job_id = record.id if type(record.id) is str else str(record.id) if type(record.id) is int else ""
    if _ID.fullmatch(job_id) is None:
        raise _InvalidRecord("bad_id" if record.id else "no_id")
    if type(record.state) is not str or not record.state.strip():
        raise _InvalidRecord("no_state")
    failed = _count(record.failed_files)
    return Job(
        job_id,
        _operation(record),
        parse_label(record.state),
        _count(record.total_files),
        _count(record.completed_files),
        failed,
        parse_time(record.started_on),
        parse_time(record.finished_on),
        _errors(record.result) if failed else None,
    )


def _is_whole(record: _Record) -> bool:
    return None not in (
        record.id,
        record.type,
        record.state,
        record.total_files,
        record.completed_files,
        record.failed_files,
    )


def _operation(record: _Record) -> str:
    if record.type is None and isinstance(record.href, str):  # The last two segments of href are type and id.
        return parse_label(record.href.rstrip("/").rpartition("/")[0].rpartition("/")[2])
    return parse_label(record.type)


def _count(value: object) -> int | None:
    if type(value) is int and 0 <= value < _MOST_FILES:
        return value
    count = -1
    if value is None or value == "":
        return None
    if isinstance(value, float) and value.is_integer():
        count = int(value)
    elif isinstance(value, str) and (match := _COUNT.fullmatch(value)):
        count = int(match[1])
    if not 0 <= count < _MOST_FILES:
        raise _InvalidRecord("bad_count")
    return count


def parse_time(value: object) -> float | None:
    """Parse an ISO 8601 time into Unix seconds (UTC if it names no zone); None if it is none."""
    return _seconds(value) if type(value) is str and len(value) <= _LONGEST_TIME else None


_LONGEST_TIME: Final = 64


@lru_cache(maxsize=4096)  # The same times come with every poll, and parsing them is half of the cost of a page.
def _seconds(text: str) -> float | None:
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    seconds = time.timestamp()
    return seconds if seconds > 0 else None  # Some servers write "never" as the year 1.


def _errors(result: msgspec.Raw) -> tuple[tuple[str, int], ...] | None:
    """Count error records by code; None if the list is absent or empty, so that the job is requested individually."""
    if not bytes(result):
        return None
    try:
        records = _anything.decode(result)
    except _UNDECODABLE:
        return None
    if not isinstance(records, list) or not records:
        return None
    codes: Counter[str] = Counter()
    for record in records:
        if isinstance(record, dict) and record.get("error") is not None:
            error = record["error"]
            code = error.get("code") if isinstance(error, dict) else None
            codes[NO_CODE if code is None or code == "" else parse_label(code)] += 1
    return tuple(sorted(codes.items()))


def _links_next(links: object) -> bool:
    return isinstance(links, list) and any(
        isinstance(link, dict) and str(link.get("rel", "")).lower() == "next" for link in links
    )


_LARGEST_NUMBER: Final = 2**53


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else None
    except ValueError:
        return None
    return number if number is not None and abs(number) < _LARGEST_NUMBER else None


def _http_date(text: str) -> float | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # OverflowError for years that datetime does not support.
        return None
    return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()

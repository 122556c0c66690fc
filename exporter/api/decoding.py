"""Decode response bodies into the exporter's own types.

No module but this one and :mod:`.file_errors` parses JSON of the platform.

A page is first decoded in one step. If that fails, it is repaired and decoded record by record, so that an unreadable
record costs only itself. ``result`` stays undecoded unless a job has failed files, because a page may hold megabytes of
it.

16 MiB of JSON of any kind become little more than that: no more items, links and error records are decoded than
are wanted, and no list or object where a single value is expected.

The fields are documented in the platform's pages "Get details of all async jobs" and "Get details of a copy job". The
tables there call the counts strings, while the examples show integers. Times and counts may be absent.
"""

import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec

from exporter.api.damaged_json import elements, end_of_value, repaired, skip_blank
from exporter.api.models import BAD_TIME, OTHER, PAGE_LIMIT, ApiError, Job, Page
from exporter.api.times import is_bad_time, parse_time
from exporter.errors import BadAnswer

_LABEL: Final = re.compile(r"[a-z0-9_]{1,32}")
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
_LONGEST_LABEL_TEXT: Final = 64
_LONGEST_NAME: Final = 256
_MOST_FILES: Final = 2**31
"""A record with more files is broken. The sum over all jobs of a ledger must fit into the database's 64 bits."""
_COUNT: Final = re.compile(r"\s*0*([0-9]{1,16})\s*")
_MOST_LINKS: Final = 16
_MOST_ERRORS: Final = 2**17
"""Most records of a result that are looked at."""
_MOST_CODES: Final = 100
"""Most different codes of one result; the others count as ``other``."""
_LONGEST_VALUE: Final = 4096
"""Most bytes of a single value in a record that could not be decoded in one step."""
_LARGE_RESULT: Final = 2**20
"""A result of as many bytes is decoded record by record, which takes longer and less memory."""

_OFFSET: Final = re.compile(r"[?&]offset=([0-9]{1,9})(?![^&#])")
_ITEMS: Final = re.compile(rb'"items"\s*:\s*\[')
_END_BEFORE_LINKS: Final = re.compile(rb'\](?=\s*,\s*"links"\s*:)')
_SEPARATOR: Final = re.compile(rb'\]\s*(?:,\s*"|\}\s*\Z)|,')
"""What follows a record: another one, or the end of the list and what may come then."""
_CLOSE: Final = ord("]")
_LONGEST_FOUND: Final = 2**20
"""Most bytes of a record that is found behind a damaged one."""
_MOST_EFFORT: Final = 2**26
"""Most bytes to look through in vain for such records, on one page."""

NO_CODE: Final = "none"
"""Code of an error record without a code."""


SKIPPED: Final = ("bad_count", "bad_id", BAD_TIME, "no_id", "no_state", "not_a_job", "too_large")
"""Reasons why a record is skipped, or one of its times is, as labels of metrics."""


_MOST_EXAMPLES: Final = 3
_LONGEST_EXAMPLE: Final = 40
"""Records of a page that are kept for the log by reason, and characters of each value."""

_T = TypeVar("_T")
_Single = str | int | float | bool | None


class _Record(msgspec.Struct):
    id: _Single = None
    type: _Single = None
    state: _Single = None
    href: _Single = None
    total_files: _Single = None
    completed_files: _Single = None
    failed_files: _Single = None
    started_on: _Single = None
    finished_on: _Single = None
    result: msgspec.Raw = msgspec.Raw()


class _RawRecord(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw()
    type: msgspec.Raw = msgspec.Raw()
    state: msgspec.Raw = msgspec.Raw()
    href: msgspec.Raw = msgspec.Raw()
    total_files: msgspec.Raw = msgspec.Raw()
    completed_files: msgspec.Raw = msgspec.Raw()
    failed_files: msgspec.Raw = msgspec.Raw()
    started_on: msgspec.Raw = msgspec.Raw()
    finished_on: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()


_RECORD: Final = re.compile(rb",\s*(\{)\s*\"(?:" + "|".join(_Record.__struct_fields__).encode() + rb")\"\s*:")


def _first(most: int, kind: Any) -> Any:  # noqa: ANN401  # a type that is built here
    """Return a type for the first *most* elements of a list. Those behind them are skipped without being stored."""
    fields = [(f"element_{number}", kind | msgspec.UnsetType, msgspec.UNSET) for number in range(most)]
    return msgspec.defstruct("First", fields, array_like=True)


def _elements(first: msgspec.Struct) -> list[Any]:
    return [each for each in msgspec.structs.astuple(first) if each is not msgspec.UNSET]


_Items = _first(PAGE_LIMIT, _Record)
_Links = _first(_MOST_LINKS, msgspec.Raw)


class _Page(msgspec.Struct):
    items: _Items | msgspec.UnsetType | None = msgspec.UNSET  # type: ignore[valid-type]  # built above
    links: msgspec.Raw = msgspec.Raw()


class _Link(msgspec.Struct):
    rel: _Single = None
    href: _Single = None


class _User(msgspec.Struct):
    username: str


class _Result(msgspec.Struct):
    error: msgspec.Raw = msgspec.Raw()


class _Error(msgspec.Struct):
    code: msgspec.Raw = msgspec.Raw()


_page = msgspec.json.Decoder(_Page)
_record = msgspec.json.Decoder(_Record)
_raw_record = msgspec.json.Decoder(_RawRecord)
_links = msgspec.json.Decoder(_Links)
_link = msgspec.json.Decoder(_Link)
_user = msgspec.json.Decoder(_User)
_results = msgspec.json.Decoder(list[msgspec.Raw])
_result = msgspec.json.Decoder(_Result)
_error = msgspec.json.Decoder(_Error)
_raw = msgspec.json.Decoder(msgspec.Raw)
_anything = msgspec.json.Decoder()
_UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of a decoder. RecursionError is raised for deeply nested brackets."""


class _InvalidRecord(Exception):  # never leaves this module
    """A record that cannot be read; the message is one of SKIPPED."""


def parse_page(body: bytes, limit: int = PAGE_LIMIT, left: int | None = None) -> Page:
    """Decode one page of the job list.

    Args:
        body: the response.
        limit: the number of jobs requested. The page is not read further.
        left: how many jobs the list has from this page on, as the platform reports; None if it does not. Where none is
            left, the page may lack its list.

    Raises:
        BadAnswer: the body is not a page of jobs.
    """
    try:
        page = _page.decode(body)
    except _UNDECODABLE as error:
        text = repaired(body)
        try:
            page = _page.decode(text)
        except _UNDECODABLE:
            return _damaged_page(text, limit, str(error))
    records = _Records()
    if isinstance(page.items, _Items):
        for record in _elements(page.items)[:limit]:
            records.add(record)
    elif (left is None or left > 0) and (page.items is msgspec.UNSET or left is not None):
        raise BadAnswer("not a page of jobs: the response has no items")
    return records.page(page.links)


class _Records:
    """Collects the records of one page."""

    def __init__(self) -> None:
        self.items = 0
        self._jobs: list[Job] = []
        self._skipped: Counter[str] = Counter()
        self._last = -1
        self._whole = True
        self._bad_times = 0
        self._examples: dict[str, list[str]] = {}

    def add(self, record: _Record) -> None:
        try:
            job = _job(record)
        except _InvalidRecord as reason:
            self.skip(str(reason))
            self._remember(str(reason), record)
            return
        self._jobs.append(job)
        self._last = self.items
        self._whole = self._whole and _is_whole(record)
        if job.started_on is None or job.finished_on is None:
            bad_times = is_bad_time(record.started_on) + is_bad_time(record.finished_on)
            if bad_times:
                self._bad_times += bad_times
                self._remember(BAD_TIME, record)
        self.items += 1

    def skip(self, reason: str) -> None:
        self._whole = False
        self._skipped[reason] += 1
        self.items += 1

    def _remember(self, reason: str, record: _Record) -> None:
        examples = self._examples.setdefault(reason, [])
        if len(examples) < _MOST_EXAMPLES:
            examples.append(_example(reason, record))

    def page(self, links: msgspec.Raw) -> Page:
        has_next, next_offset = _next_page(links)
        return Page(
            tuple(self._jobs),
            self.items,
            self._skipped,
            self._last,
            has_next,
            self._whole,
            next_offset,
            self._bad_times,
            {reason: "; ".join(examples) for reason, examples in self._examples.items()},
        )


def _damaged_page(text: bytearray, limit: int, problem: str) -> Page:
    """Decode a page that is no JSON as a whole, or holds records of unexpected types."""
    found = _ITEMS.search(text)
    records = _Records()
    links = None if found is None else _add_damaged(records, text, found.end(), limit)
    if links is None:
        raise BadAnswer(f"not a page of jobs: {problem}")
    return records.page(links)


def _add_damaged(records: _Records, text: bytearray, start: int, limit: int) -> msgspec.Raw | None:
    """Add the records of the list that begins at *start*, and return the page's links; None if it is no page.

    Without links, there are more than *limit* records.
    """
    position = skip_blank(text, start)
    if text[position : position + 1] == b"]":
        return _links_behind(text, start, position)
    search = _RecordSearch(text)
    while records.items < limit:
        after, record = _element(text, position)
        if record is None:
            records.skip("not_a_job")
            if after is not None and search.next_job(position, after) is not None:
                after = None  # A damaged record, and those behind it, look like one list.
        else:
            records.add(record)
        if after is not None:
            position = skip_blank(text, after + 1)
            if text[after] != _CLOSE:
                continue
            links = _links_behind(text, start, after)
            if links is not None:
                return links
            position = after  # This is the end of another list: the record was damaged.
        begins = search.next_job(position)
        if begins is None:
            return _links_behind(text, start, _end_of_items(text, position))
        position = begins
    return msgspec.Raw()


def _links_behind(text: bytearray, start: int, end: int) -> msgspec.Raw | None:
    """Return the links of the page whose list is between *start* and *end*; None if the rest is not that of a page."""
    try:
        return _page.decode(text[:start] + memoryview(text)[end:]).links
    except _UNDECODABLE:
        return None


def _element(text: bytearray, position: int) -> tuple[int | None, _Record | None]:
    """Return what separates the element at *position* from the next one, and the record if it is one.

    No position means that the element is not JSON, so that its end is unknown.
    """
    end = end_of_value(text, position)
    after = None if end is None else skip_blank(text, end)
    if after is None or _SEPARATOR.match(text, after) is None:
        return None, None
    element = memoryview(text)[position:end]
    try:
        _raw.decode(element)
    except _UNDECODABLE:
        return None, None
    return after, _decoded(element)


class _RecordSearch:
    """Finds the next record behind one whose end is unknown, with an effort that is limited for each page.

    A record is known by a comma and a brace before the name of a field. No string can hold these three.
    """

    def __init__(self, text: bytearray) -> None:
        self._text = text
        self._effort = _MOST_EFFORT

    def next_job(self, start: int, before: int = sys.maxsize) -> int | None:
        """Return where a record that is a job begins, from *start* on and *before* that; None if there is none."""
        for found in _RECORD.finditer(self._text, start, before):
            begins = found.start(1)
            window = self._text[begins : begins + _LONGEST_FOUND]
            end = end_of_value(window, 0)
            if end is not None and _is_job(memoryview(window)[:end]):
                return begins
            self._effort -= len(window)
            if self._effort < 0:
                return None
        return None


def _is_job(element: memoryview) -> bool:
    try:
        record = _decoded(element)
        return record is not None and bool(_job(record))
    except _InvalidRecord:
        return False


def _end_of_items(text: bytearray, position: int) -> int:
    """Return where the list ends whose last record, at *position*, is damaged; at worst, the end of *text*."""
    ends = [found.start() for found in deque(_END_BEFORE_LINKS.finditer(text, position), 1)]
    last = text.rstrip().rfind(b"]", position)
    return ends[0] if ends else last if last >= 0 else len(text)


def too_large(records: int) -> Page:
    """Return a page of *records* unreadable records, in place of a response that was too large."""
    return Page((), records, {"too_large": records}, -1, has_next=True)


def parse_job(body: bytes) -> Job:
    """Decode the response of a single-job request.

    Raises:
        BadAnswer: the body is not a job.
    """
    try:
        return _job(_record.decode(body))
    except _UNDECODABLE as error:
        record = _decoded(repaired(body))
        if record is None:
            raise BadAnswer(f"not a job: {error}") from error
    except _InvalidRecord as error:
        raise BadAnswer(f"not a job: {error}") from error
    try:
        return _job(record)
    except _InvalidRecord as error:
        raise BadAnswer(f"not a job: {error}") from error


def parse_username(body: bytes) -> str:
    """Decode the user name. The rest of the response is personal data and is dropped.

    Raises:
        BadAnswer: the body names no user.
    """
    try:
        username = _strict_or_repaired(_user, body).username
    except _UNDECODABLE as error:
        raise BadAnswer("not a user: the response has no user name") from error
    if not username or len(username) > _LONGEST_NAME or not username.isprintable():
        raise BadAnswer(f"not a user: expected 1 to {_LONGEST_NAME} printable characters as the user name")
    return username


def parse_error(body: bytes, hide: Callable[[str], str] = str) -> ApiError:
    """Decode the body of an error response: the platform's flat JSON, or anything else, such as a proxy's HTML.

    *hide* masks what the message may not show.
    """
    try:
        answer = _strict_or_repaired(_anything, body)
    except _UNDECODABLE:
        return ApiError(None, "")
    if not isinstance(answer, dict):
        return ApiError(None, "")
    code = answer.get("code")
    message = answer.get("message")
    return ApiError(
        code if isinstance(code, int) and not isinstance(code, bool) else None,
        hide(" ".join(message.split()))[:200] if isinstance(message, str) else "",
    )


def parse_label(value: object) -> str:
    """Return *value* in lower case if it is usable as a label, else ``other``."""
    if type(value) is str:
        return _label(value) if len(value) <= _LONGEST_LABEL_TEXT else OTHER
    return _label(str(value)) if type(value) is int else OTHER


@lru_cache(maxsize=256)
def _label(text: str) -> str:
    label = text.strip().lower()
    return label if _LABEL.fullmatch(label) else OTHER


def _strict_or_repaired(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except _UNDECODABLE:
        return decoder.decode(repaired(body))


def _decoded(element: memoryview | bytearray) -> _Record | None:
    """Decode a record, its fields of any type; None if it is no object."""
    try:
        return _record.decode(element)
    except _UNDECODABLE:
        pass
    try:
        raw = _raw_record.decode(element)
    except _UNDECODABLE:
        return None
    values: dict[str, Any] = {name: _single(getattr(raw, name)) for name in _RawRecord.__struct_fields__[:-1]}
    return _Record(**values, result=raw.result)


class _Unreadable:
    """Stands for a value that is no id, no count, no time and no label."""


def _single(value: msgspec.Raw) -> object:
    """Decode a value of any type, if it is short; None if it is absent."""
    size = memoryview(value).nbytes
    if size == 0:
        return None
    try:
        return _anything.decode(value) if size <= _LONGEST_VALUE else _Unreadable()
    except _UNDECODABLE:
        return _Unreadable()


def _id_of(record: _Record) -> str:
    return record.id if type(record.id) is str else str(record.id) if type(record.id) is int else ""


def _job(record: _Record) -> Job:
    job_id = _id_of(record)
    if _ID.fullmatch(job_id) is None:
        raise _InvalidRecord("bad_id" if record.id else "no_id")
    if type(record.state) is not str or not record.state or record.state.isspace():
        raise _InvalidRecord("no_state")
    failed = _count(record.failed_files)
    errors, unreadable = _errors(record.result) if failed else (None, False)
    return Job(
        job_id,
        _operation(record),
        parse_label(record.state),
        _count(record.total_files),
        _count(record.completed_files),
        failed,
        parse_time(record.started_on),
        parse_time(record.finished_on),
        errors,
        unreadable,
    )


_CULPRITS: Final[Mapping[str, tuple[str, ...]]] = {
    "bad_id": ("id",),
    "no_state": ("state",),
    "bad_count": ("total_files", "completed_files", "failed_files"),
    BAD_TIME: ("started_on", "finished_on"),
}
"""Fields that may be the reason why a record is skipped."""


def _example(reason: str, record: _Record) -> str:
    """A skipped record for the log: its job, if it has one, and the values that may be the reason, cut short."""
    job_id = _id_of(record)
    found = ((field, getattr(record, field)) for field in _CULPRITS.get(reason, ()))
    values = ", ".join(f"{field} {_short(value)}" for field, value in found if value is not None)
    return ": ".join(filter(None, (f"job {job_id}" if _ID.fullmatch(job_id) else "a record", values)))


def _short(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > _LONGEST_EXAMPLE:
        return "a number that is too large"
    return repr(value[:_LONGEST_EXAMPLE]) if isinstance(value, str) else str(value)[:_LONGEST_EXAMPLE]


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
    if record.type is None and isinstance(record.href, str) and len(record.href) <= _LONGEST_VALUE:
        # The last two segments are type and id.
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


def _errors(result: msgspec.Raw) -> tuple[tuple[tuple[str, int], ...] | None, bool]:
    """Count error records by code; None if the list is absent or empty, so that the job is requested individually.

    Returns:
        The counts, and whether there is something that is no list of records.
    """
    content = memoryview(result)
    if content.nbytes == 0 or bytes(content[:5]) == b"null":
        return None, False
    try:
        records: Iterable[msgspec.Raw | memoryview] = (
            _results.decode(result) if content.nbytes <= _LARGE_RESULT else islice(elements(content), _MOST_ERRORS)
        )
    except _UNDECODABLE:
        return None, True
    codes: Counter[str] = Counter()
    empty = True
    for record in records:
        empty = False
        code = _error_code(record)
        if code is not None:
            codes[code if code in codes or len(codes) < _MOST_CODES else OTHER] += 1
    return None if empty else tuple(sorted(codes.items())), False


def _error_code(record: msgspec.Raw | memoryview) -> str | None:
    """Return the code of an error record; None if the record is none."""
    try:
        error = _result.decode(record).error
    except _UNDECODABLE:
        return None
    if memoryview(error).nbytes == 0 or bytes(memoryview(error)[:5]) == b"null":
        return None
    try:
        code = _single(_error.decode(error).code)
    except _UNDECODABLE:
        return NO_CODE
    return NO_CODE if code is None or code == "" else parse_label(code)


def _next_page(links: msgspec.Raw) -> tuple[bool, int | None]:
    """Return whether a next page is linked, and its offset, if the link names that."""
    try:
        each: list[msgspec.Raw] = _elements(_links.decode(links)) if memoryview(links).nbytes else []
    except _UNDECODABLE:
        return False, None
    for content in each:
        with suppress(*_UNDECODABLE):
            link = _link.decode(content) if memoryview(content).nbytes <= _LONGEST_VALUE else _Link()
            if isinstance(link.rel, str) and link.rel.strip().lower() == "next":
                found = _OFFSET.search(link.href) if isinstance(link.href, str) else None
                return True, int(found[1]) if found else None
    return False, None

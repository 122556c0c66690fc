"""What is fuzzed: a function for each, which raises if an input is handled wrongly, and valid inputs to damage."""

import asyncio
import hashlib
import io
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import h11
import msgspec
from starlette.types import Message

from exporter.api import decoding
from exporter.api.headers import parse_date, parse_rate_limit, parse_retry_after, parse_total
from exporter.api.models import PAGE_LIMIT, Page
from exporter.config.loading import load
from exporter.config.web_config import WebConfig, load_web_config
from exporter.counting.labels import encode_error_counts
from exporter.counting.values import JobTotals, Rules
from exporter.errors import BadAnswer, ConfigError, StateError
from exporter.metrics.snapshot import AccountSnapshot
from exporter.storage.reader import open_read_only
from exporter.storage.store import Store
from exporter.storage.transfer import InvalidExport, export_lines, read_export
from exporter.web.access import AccessControl
from exporter.web.app import application
from exporter.web.negotiation import format_wanted, gzip_wanted
from exporter.web.page import StatusPage
from tests import factories
from tests.clocks import START
from tests.factories import ENDPOINT, finished_job, running_job
from tests.ledgers import ledger_of, observe_in
from tests.snapshots import DISPLAY, STATUS, exposition

_RECORD: Final = (
    b'{"href":"https://cavatica-api.sbgenomics.com/v2/async/files/copy/70711174378885120","id":"70711174378885120",'
    b'"result":[{"resource":{"href":"https://cavatica-api.sbgenomics.com/v2/files/5c6d","id":"5c6d"}},'
    b'{"error":{"status":403,"code":5001,"message":"Insufficient privileges.","more_info":""}}],"type":"COPY",'
    b'"state":"FINISHED","failed_files":1,"completed_files":1,"total_files":2,'
    b'"started_on":"2019-02-20T12:03:50Z","finished_on":"2019-02-20T12:03:51Z"}'
)
_SMALL_RECORD: Final = b'{"id": 7, "type": "MOVE", "state": "RUNNING", "total_files": "3", "started_on": 1550664230000}'
_FIRST: Final = b'{"id":"1","type":"COPY","state":"RUNNING"}'
_LAST: Final = b'{"id":"2","type":"COPY","state":"RUNNING"}'
_LINK: Final = b'{"href":"https://cavatica-api.sbgenomics.com/v2/async/files?offset=100&limit=100","rel":"next"}'
_FOLDER: Final = Path(tempfile.gettempdir())
_TABLE: Final = re.compile(rb'\["(\w+)"')
_TEXTS: Final = 9
"""How many texts of others the status page shows: see `_rendered`."""
_LINKS: Final = frozenset({"href", "src", "style", "class", "id"})
"""Attributes whose values no text of others may change."""
_PAGE: Final = StatusPage(DISPLAY)
_OPEN: Final = WebConfig()
_SECRET: Final = WebConfig(users={b"prometheus": b"$2y$10$k7yYJ2aVbF9vT5eR8nWz0eH4s3JdUq1oXxZzYc6b5a4s3d2f1g0hi"})
_ROUTES: Final = application(exposition(), unhealthy=str, unready=str, status_page=lambda _refreshing: "the page")


def _page(*records: bytes) -> bytes:
    return b'{"href":"https://x/v2/async/files","items":[' + b",".join(records) + b'],"links":[' + _LINK + b"]}"


def page(data: bytes) -> None:
    """A page of the job list."""
    with suppress(BadAnswer):
        _check(decoding.parse_page(data))


def record(data: bytes) -> None:
    """A record of a page: the records next to it, and the links behind it, are read in any case."""
    read = decoding.parse_page(_page(_FIRST, data, _LAST))
    _check(read)
    ids = [job.id for job in read.jobs]
    if ids[:1] != ["1"] or ids[-1:] != ["2"]:
        raise AssertionError(f"read {ids}")
    if not read.has_next:
        raise AssertionError("the link to the next page was not read")


def last_record(data: bytes) -> None:
    """The last record of a page."""
    with suppress(BadAnswer):  # where it looks as if the page was cut
        read = decoding.parse_page(_page(_FIRST, data))
        _check(read)
        if [job.id for job in read.jobs][:1] != ["1"]:
            raise AssertionError("the first record was not read")


def _check(read: Page) -> None:
    if len(read.jobs) + sum(read.skipped.values()) != read.items or read.items > PAGE_LIMIT:
        raise AssertionError(f"{read.items} items: {len(read.jobs)} jobs, skipped {dict(read.skipped)}")
    if not set(read.unreadable) <= set(decoding.SKIPPED):
        raise AssertionError(f"unknown reasons: {dict(read.unreadable)}")


def job(data: bytes) -> None:
    """The response to the request of a single job."""
    with suppress(BadAnswer):
        decoding.parse_job(data)


def user(data: bytes) -> None:
    """The user that a token belongs to."""
    with suppress(BadAnswer):
        name = decoding.parse_username(data)
        if not name.isprintable():
            raise AssertionError(f"a user name that cannot be printed: {name!r}")


def error(data: bytes) -> None:
    """The body of an error response."""
    decoding.parse_error(data)


def headers(data: bytes) -> None:
    """The headers of a response: rate limit, time, total, pause."""
    text = data.decode("latin-1")
    names = "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "date", "x-total-matching-query"
    values = dict.fromkeys((*names, "retry-after"), text)
    parse_rate_limit(values)
    parse_date(values)
    if (parse_total(values) or 0) < 0 or (parse_retry_after(values) or 0) < 0:
        raise AssertionError("a negative total or pause")


def accept(data: bytes) -> None:
    """The Accept header of a scrape."""
    format_wanted(data.decode("latin-1"))


def accept_encoding(data: bytes) -> None:
    """The Accept-Encoding header of a scrape."""
    gzip_wanted(data.decode("latin-1"))


def settings(data: bytes) -> None:
    """The configuration file."""
    with tempfile.NamedTemporaryFile(dir=_FOLDER, suffix=".toml") as file:
        file.write(data)
        file.flush()
        with suppress(ConfigError):
            load({}, {"SBG_EXPORTER_CONFIG": file.name}, Path(file.name).with_suffix(".home"))


def web_config(data: bytes) -> None:
    """The web configuration file."""
    with tempfile.NamedTemporaryFile(dir=_FOLDER, suffix=".yml") as file:
        file.write(data)
        file.flush()
        with suppress(ConfigError):
            load_web_config(Path(file.name))


def ledger_import(data: bytes) -> None:
    """A file to import a ledger from; also with a checksum that fits, so that damaged rows are read."""
    for export in (data, _signed(data)):
        with suppress(InvalidExport), read_export(io.BytesIO(export)) as state:
            intact = not any(state.integrity_errors())
            try:
                state.ledgers()
            except StateError as error:
                if intact:
                    raise AssertionError("a ledger that is intact cannot be read") from error


def _signed(export: bytes) -> bytes:
    """*export* with a last line that fits to the others."""
    lines = export.splitlines(keepends=True)[:-1]
    tables = Counter(found[1].decode() for line in lines if (found := _TABLE.match(line)))
    last = {"rows": tables, "sha256": hashlib.sha256(b"".join(lines)).hexdigest()}
    return b"".join(lines) + f"{json.dumps(last)}\n".encode()


def _export() -> bytes:
    """What ``state export`` writes of an account with three jobs."""
    failed = finished_job(START, failed=2, errors=(("5001", 2),))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.db"
        with closing(Store(file)) as store:
            rules = Rules()
            ledger = store.create("lab", ENDPOINT, "u", "", counting_since=START, local_time=START, rules=rules)
            observe_in(
                store, ledger, failed, running_job(START, serial=1), factories.job(), rules=rules, now=START + 300
            )
        with open_read_only(file, lambda: False) as state:
            return "".join(export_lines(state.ledgers()[0], state)).encode()


def status_page(data: bytes) -> None:
    """Names, ids and messages on the status page, one a line: the page has the elements that harmless ones give it."""
    texts = [text.decode("utf-8", "replace") for text in data.split(b"\n")[:_TEXTS]]
    texts += [""] * (_TEXTS - len(texts))
    page, expected = _rendered(texts), _harmless(*map(bool, texts))
    if page != expected:
        raise AssertionError(f"{page} in place of {expected}")


@cache
def _harmless(*given: bool) -> list[tuple[str, tuple[str, ...]]]:
    return _rendered(["x" if each else "" for each in given])


def _rendered(texts: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """The elements of the page with these texts, and the names of their attributes."""
    account, endpoint, username, job_id, operation, state, outcome, code, why = texts
    running = factories.record(id=job_id, operation=operation, state=state, last_total=3, last_failed=1)
    # What the platform sends as a code becomes a label without spaces and colons, or ``other``.
    codes = encode_error_counts({re.sub(r"[\s:]", "", code) or "none": 1})
    failed = msgspec.structs.replace(running, outcome=outcome, detected_at=START, error_counts=codes)
    ledger = replace(ledger_of(), live={"1": running}, failed={"2": failed})
    status = replace(STATUS, up=False, username=username, last_error=why)
    listed = {(operation, state): JobTotals(1, 3, 2, 1)}
    shown = AccountSnapshot(account, endpoint, ledger, listed, status, START + 600)
    page = _Elements()
    page.feed(_PAGE.render([shown, replace(shown, listed=None, ledger=None)], START + 60))
    page.close()
    return page.found


class _Elements(HTMLParser):
    """Collects elements, comments and declarations; text is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(f"{name}={value}" if name in _LINKS else name for name, value in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}", ()))

    def handle_comment(self, data: str) -> None:
        self.found.append(("comment", (data,)))

    def handle_pi(self, data: str) -> None:
        self.found.append(("instruction", (data,)))


def request_target(data: bytes) -> None:
    """The target of a request without a password: an answer about health, or none."""
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(b"GET " + data + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        request = connection.next_event()
    except h11.RemoteProtocolError:
        return
    if not isinstance(request, h11.Request):
        return
    for guarded, allowed in ((True, {200, 401, 404}), (False, {200, 404, 405})):
        status, body = _answered(request, _SECRET if guarded else _OPEN)
        if status not in allowed or (guarded and status == 200 and body not in (b"healthy\n", b"ready\n")):
            raise AssertionError(f"{status} {body!r} for {request.target!r}")


def _answered(request: h11.Request, config: WebConfig) -> tuple[int, bytes]:
    """The response of the routes to a request, as uvicorn hands it to them."""
    raw_path, _, query = bytes(request.target).partition(b"?")
    scope = {
        "type": "http",
        "method": "GET",
        "path": unquote(raw_path.decode("ascii")),
        "raw_path": raw_path,
        "query_string": query,
        "headers": list(request.headers),
        "root_path": "",
        "http_version": "1.1",
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    with asyncio.Runner() as runner:
        runner.run(AccessControl(_ROUTES, lambda: config)(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


@dataclass(frozen=True, slots=True)
class Target:
    """A function that takes any bytes, and valid inputs to damage."""

    run: Callable[[bytes], None]
    seeds: Sequence[bytes]


_RECORDS: Final = (_RECORD, _SMALL_RECORD)
_ACCEPT: Final = b"application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
_SETTINGS: Final = b"""listen = ":10037"
poll_interval = "30s"
rate_share = 0.25
duration_buckets = [1, 5, 15]
[[accounts]]
name = "lab"
api_endpoint = "https://cavatica-api.sbgenomics.com/v2"
auth_token = "0123456789abcdef0123456789abcdef"
proxy = "http://user:secret@proxy:3128"
"""
_WEB_CONFIG: Final = b"""http_server_config:
  headers:
    Strict-Transport-Security: max-age=31536000
basic_auth_users:
  prometheus: $2y$10$k7yYJ2aVbF9vT5eR8nWz0eH4s3JdUq1oXxZzYc6b5a4s3d2f1g0hi
"""
_TEXTS_SHOWN: Final = (
    b"lab\nhttps://api.example.org/v2\nrfranklin\n70711174378885120\ncopy\nrunning\nfailed\n5001\nno connection",
    b"<b>lab</b>\n\"><script>alert(1)</script>\n</td></table>\n' onload='x\n<!--\n&lt;b&gt;\n<?x?>\n]]>\n</style>",
    b"{{ 7 * 7 }}\njavascript:alert(1)\n{% raw %}\n\xe2\x80\xae\n&#60;b&#62;\n\x1b[31m\n<svg/onload=x>\n`\n=<i>",
)
_REQUEST_TARGETS: Final = (
    *(b"/", b"/metrics", b"/-/healthy", b"/-/ready?x=1", b"/-/reload", b"http://x/-/healthy", b"http://x/metrics?y"),
    *(b"/%2d/healthy/..%2f..%2fmetrics", b"//-/healthy", b"/metrics;/-/healthy", b"/-/healthy#/metrics", b"*"),
)

TARGETS: Final = {
    "record": Target(record, _RECORDS),
    "last_record": Target(last_record, _RECORDS),
    "page": Target(page, (_page(), _page(_RECORD), _page(_FIRST, _RECORD, _SMALL_RECORD))),
    "job": Target(job, _RECORDS),
    "user": Target(user, (b'{"username":"rfranklin","email":"rf@example.org","tags":[{"tag":"x","expires_at":1}]}',)),
    "error": Target(error, (b'{"status":401,"code":90001,"message":"Unauthorized.","more_info":"http://docs"}',)),
    "headers": Target(headers, (b"1000", b"1445694506797", b"Wed, 20 Feb 2019 12:03:50 GMT", b"-1")),
    "accept": Target(accept, (_ACCEPT,)),
    "accept_encoding": Target(accept_encoding, (b"gzip;q=1.0, deflate;q=0.5, *;q=0", b"identity")),
    "settings": Target(settings, (_SETTINGS,)),
    "web_config": Target(web_config, (_WEB_CONFIG,)),
    "ledger_import": Target(ledger_import, (_export(),)),
    "status_page": Target(status_page, _TEXTS_SHOWN),
    "request_target": Target(request_target, _REQUEST_TARGETS),
}

"""What is fuzzed: a function for each, which raises if an input is handled wrongly, and valid inputs to damage."""

import io
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exporter.api import decoding
from exporter.api.models import PAGE_LIMIT, Page
from exporter.config.loading import load
from exporter.config.web_config import load_web_config
from exporter.errors import BadAnswer, ConfigError
from exporter.storage.transfer import InvalidExport, read_export
from exporter.web.negotiation import format_wanted, gzip_wanted

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
    decoding.parse_rate_limit(values)
    decoding.parse_date(values)
    if (decoding.parse_total(values) or 0) < 0 or (decoding.parse_retry_after(values) or 0) < 0:
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
    """A file to import a ledger from."""
    with suppress(InvalidExport), read_export(io.BytesIO(data)):
        pass


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
    "ledger_import": Target(ledger_import, (json.dumps({"format": "sbg-exporter ledger", "version": 1}).encode(),)),
}

"""The platform's error codes in short words.

Files fail with these codes, and requests too. The platform may use others at any time: they are shown as the number.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from exporter.api.decoding import NO_CODE
from exporter.api.models import OTHER

DOCUMENTATION: Final = "https://docs.sevenbridges.com/docs/api-status-codes"
"""The platform's page of all codes. Each source below is a part of it."""

_GENERAL: Final = "general"
_USERS: Final = "users"
_PROJECTS: Final = "projects"
_FILES: Final = "files"
_MANIFEST: Final = "manifest files"
_SEARCH: Final = "search"
_REQUESTS: Final = "requests"


class ErrorCode(NamedTuple):
    """What a code means, and the part of the platform's page that lists it."""

    words: str
    source: str


ERROR_CODES: Final[Mapping[str, ErrorCode]] = {
    "0": ErrorCode("platform under maintenance", _GENERAL),
    "1000": ErrorCode("rate limit exceeded", _GENERAL),
    "2000": ErrorCode("user service unavailable", _USERS),
    "2001": ErrorCode("no privilege on the user", _USERS),
    "2002": ErrorCode("user does not exist", _USERS),
    "2105": ErrorCode("division not specified", _USERS),
    "3001": ErrorCode("no privilege on the project", _PROJECTS),
    "3002": ErrorCode("project or member does not exist", _PROJECTS),
    "5000": ErrorCode("file service unavailable", _FILES),
    "5001": ErrorCode("no privilege on the file", _FILES),
    "5002": ErrorCode("file does not exist", _FILES),
    "5003": ErrorCode("file exists already", _FILES),
    "5007": ErrorCode("file copy failed", _FILES),
    "5014": ErrorCode("no privilege to copy", _FILES),
    "5015": ErrorCode("no moving between projects", _FILES),
    "5022": ErrorCode("parent is not a folder", _FILES),
    "5026": ErrorCode("destination folder not found", _FILES),
    "5029": ErrorCode("wrong use of parent and project", _FILES),
    "5030": ErrorCode("folder exists already", _FILES),
    "5031": ErrorCode("wrong use of parent and project", _FILES),
    "5032": ErrorCode("no privilege to move", _FILES),
    "5033": ErrorCode("invalid request", _FILES),
    "10208": ErrorCode("session invalid or missing", _MANIFEST),
    "10210": ErrorCode("no privilege on the destination", _MANIFEST),
    "10211": ErrorCode("job not found", _MANIFEST),
    "10212": ErrorCode("resource path not found", _MANIFEST),
    "10213": ErrorCode("destination path not found", _MANIFEST),
    "10215": ErrorCode("external resource unavailable", _MANIFEST),
    "10216": ErrorCode("job is hidden already", _MANIFEST),
    "10220": ErrorCode("unexpected error", _MANIFEST),
    "10221": ErrorCode("no privilege on the destination", _MANIFEST),
    "10222": ErrorCode("folder missing", _MANIFEST),
    "10223": ErrorCode("file exists already", _MANIFEST),
    "10224": ErrorCode("folder exists already", _MANIFEST),
    "10225": ErrorCode("source missing", _MANIFEST),
    "10226": ErrorCode("no privilege on the source", _MANIFEST),
    "10227": ErrorCode("destination is not a folder", _MANIFEST),
    "10228": ErrorCode("destination missing", _MANIFEST),
    "10229": ErrorCode("copy into its own parent", _MANIFEST),
    "13000": ErrorCode("search service unavailable", _SEARCH),
    "13004": ErrorCode("inconsistent for now, try again", _SEARCH),
    "90000": ErrorCode("bad request", _REQUESTS),
    "90001": ErrorCode("token refused", _REQUESTS),
    "90002": ErrorCode("forbidden", _REQUESTS),
    "90003": ErrorCode("not found", _REQUESTS),
    "90004": ErrorCode("unexpected error", _REQUESTS),
    "90005": ErrorCode("service unavailable", _REQUESTS),
    "90006": ErrorCode("method not allowed", _REQUESTS),
    "90007": ErrorCode("conflict", _REQUESTS),
    "90008": ErrorCode("unsupported media type", _REQUESTS),
    "90009": ErrorCode("request cannot be decoded", _REQUESTS),
    "90010": ErrorCode("not implemented", _REQUESTS),
}
"""Codes as labels. The platform lists 102xx under manifest files, but their texts are about bulk file jobs."""

_WITHOUT_NUMBER: Final[Mapping[str, str]] = {NO_CODE: "no code", OTHER: "other codes"}


def words_of(code: str) -> str:
    """What *code* means; empty if that is not known."""
    known = ERROR_CODES.get(code)
    return known.words if known is not None else ""


def in_words(code: str) -> str:
    """A code with its meaning, such as ``5001 no privilege on the file``; the code alone if it is not known."""
    return _WITHOUT_NUMBER.get(code) or f"{code} {words_of(code)}".rstrip()

"""What comes in and what goes out, before and after HTTP."""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import msgspec


class Call(NamedTuple):
    """A request."""

    method: str
    path: str
    """Without a trailing slash."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By lower-case names."""
    body: bytes
    origin: str
    """Scheme and host as the client wrote them, which is what the links in answers begin with."""
    target: str
    """Path and query as they came; faults are matched against it."""


class Delivery(StrEnum):
    """How an answer gets to the client."""

    WHOLE = "whole"
    HANG = "hang"
    """Not even its headers are sent."""
    CLOSE = "close"
    """The connection is closed without a word."""
    CUT = "cut"
    """The connection is closed in the middle of the body."""
    DRIP = "drip"
    """The body comes byte by byte."""


class Answer(NamedTuple):
    """An answer, and what goes wrong with it on its way."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    delivery: Delivery = Delivery.WHOLE
    pause: float = 0.0
    """Real seconds between two bytes of a dripping body."""

    def with_headers(self, headers: Mapping[str, str]) -> "Answer":
        """The same answer with these headers where it had none of the name."""
        return self._replace(headers={**headers, **self.headers})


class Refused(Exception):
    """The request cannot be met; carries the answer that says so, and ends all other work on it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body.decode())
        self.answer = answer


_JSON = {"content-type": "application/json"}
_HTML = {"content-type": "text/html"}


def json_answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """*content* as JSON."""
    return Answer(status, msgspec.json.encode(content), {**_JSON, **(headers or {})})


def html_answer(title: str, status: int) -> Answer:
    """A page as proxies and load balancers send it."""
    return Answer(
        status, f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>".encode(), _HTML
    )


def problem(status: int, code: int, message: str) -> Answer:
    """The platform's flat JSON error."""
    more_info = f"http://docs.sevenbridges.com/docs/api-status-codes#{code}"
    return json_answer({"status": status, "code": code, "message": message, "more_info": more_info}, status)

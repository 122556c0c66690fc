"""Requests and responses as values, independent of HTTP."""

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
    """Scheme and host as the client wrote them. Links in responses begin with it."""
    target: str
    """Path and query as received. Faults are matched against it."""


class Delivery(StrEnum):
    """How a response reaches the client."""

    WHOLE = "whole"
    HANG = "hang"
    """Nothing is sent, not even headers."""
    CLOSE = "close"
    """The connection is closed without a response."""
    CUT = "cut"
    """The connection is closed in the middle of the body."""
    DRIP = "drip"
    """The body is sent byte by byte."""


class Answer(NamedTuple):
    """A response and how it is delivered."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    delivery: Delivery = Delivery.WHOLE
    pause: float = 0.0
    """Real seconds between two bytes of a DRIP body."""

    def with_headers(self, headers: Mapping[str, str]) -> "Answer":
        """Return the response with *headers* added; its own headers take precedence."""
        return self._replace(headers={**headers, **self.headers})


class Refused(Exception):
    """The request is refused with *answer*."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body.decode())
        self.answer = answer


_JSON = {"content-type": "application/json"}
_HTML = {"content-type": "text/html"}


def json_answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return *content* as a JSON response."""
    return Answer(status, msgspec.json.encode(content), {**_JSON, **(headers or {})})


def html_answer(title: str, status: int) -> Answer:
    """Return an HTML page as proxies and load balancers send it."""
    return Answer(
        status, f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>".encode(), _HTML
    )


def problem(status: int, code: int, message: str) -> Answer:
    """Return an error in the platform's flat JSON format."""
    more_info = f"http://docs.sevenbridges.com/docs/api-status-codes#{code}"
    return json_answer({"status": status, "code": code, "message": message, "more_info": more_info}, status)

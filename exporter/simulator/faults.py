"""Faults between a client and the platform.

Tests and control requests inject a fault into the next matching requests. Chaos injects them at random, this often per
thousand requests:

====================  =======  =======  =======  ====================================================================
fault                 level 1  level 2  level 3  what the client gets
====================  =======  =======  =======  ====================================================================
``server_error``            8       15       40  500 with a JSON error
``unavailable``             4       10       30  503 with a JSON error that is not maintenance
``bad_gateway``             4       10       30  502 with HTML, as from a proxy
``close``                   4       10       30  connection closed without a response
``rate_limited``            0        8       30  429 although the rate limit is not used up
``maintenance``             0        5       20  503 with code 0
``cut``                     0        8       30  connection closed in the middle of the body
``html``                    0        5       20  200 with HTML
``broken_json``             0        5       20  200 with truncated JSON
``malformed_record``        0        5       30  one malformed job record (see ``record``)
``drip``                    0        3       15  body sent byte by byte
``hang``                    0        2       15  no response for as long as the client waits
``unauthorized``            0        0        5  401 although the token is valid
``redirect``                0        0       10  302 to another host
``oversized``               0        0        5  body with 17 MiB of additional white space
====================  =======  =======  =======  ====================================================================
"""

import re
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from random import Random

import msgspec

from exporter.simulator.answers import Answer, Delivery, html_answer, problem


class FaultKind(StrEnum):
    """The kind of fault, as in the table above."""

    SERVER_ERROR = "server_error"
    UNAVAILABLE = "unavailable"
    BAD_GATEWAY = "bad_gateway"
    CLOSE = "close"
    RATE_LIMITED = "rate_limited"
    MAINTENANCE = "maintenance"
    CUT = "cut"
    HTML = "html"
    BROKEN_JSON = "broken_json"
    MALFORMED_RECORD = "malformed_record"
    DRIP = "drip"
    HANG = "hang"
    UNAUTHORIZED = "unauthorized"
    REDIRECT = "redirect"
    OVERSIZED = "oversized"


class Malformed(StrEnum):
    """Ways in which a job record can be malformed, or unusual but valid (``count_numeral``, ``time_null``)."""

    ID_MISSING = "id_missing"
    ID_NUMBER = "id_number"
    ID_ENDLESS = "id_endless"
    STATE_MISSING = "state_missing"
    STATE_NUMBER = "state_number"
    TYPE_MISSING = "type_missing"
    COUNT_TEXT = "count_text"
    COUNT_NEGATIVE = "count_negative"
    COUNT_MISSING = "count_missing"
    COUNT_NUMERAL = "count_numeral"
    TIME_GARBAGE = "time_garbage"
    TIME_NULL = "time_null"
    RESULT_OBJECT = "result_object"
    NOT_AN_OBJECT = "not_an_object"


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fault and its options."""

    kind: FaultKind
    pause: float = 0.5
    """``drip``: real seconds between two bytes."""
    size: int = 17 * 1024 * 1024
    """``oversized``: bytes of white space added to the response."""
    retry_after: float = 0.0
    """``unavailable``, ``maintenance``, ``rate_limited``: seconds in ``Retry-After``; 0 for no such header."""
    location: str = "http://elsewhere.invalid"
    """``redirect``: the host that the client is redirected to."""
    record: Malformed = Malformed.ID_MISSING
    """``malformed_record``: what is wrong with the first job of the response."""


_PER_THOUSAND: dict[FaultKind, tuple[int, int, int, int]] = {
    FaultKind.SERVER_ERROR: (0, 8, 15, 40),
    FaultKind.UNAVAILABLE: (0, 4, 10, 30),
    FaultKind.BAD_GATEWAY: (0, 4, 10, 30),
    FaultKind.CLOSE: (0, 4, 10, 30),
    FaultKind.RATE_LIMITED: (0, 0, 8, 30),
    FaultKind.MAINTENANCE: (0, 0, 5, 20),
    FaultKind.CUT: (0, 0, 8, 30),
    FaultKind.HTML: (0, 0, 5, 20),
    FaultKind.BROKEN_JSON: (0, 0, 5, 20),
    FaultKind.MALFORMED_RECORD: (0, 0, 5, 30),
    FaultKind.DRIP: (0, 0, 3, 15),
    FaultKind.HANG: (0, 0, 2, 15),
    FaultKind.UNAUTHORIZED: (0, 0, 0, 5),
    FaultKind.REDIRECT: (0, 0, 0, 10),
    FaultKind.OVERSIZED: (0, 0, 0, 5),
}
"""Frequency of each fault per thousand requests, by chaos level."""


class Faults:
    """The injected faults still to come, and the random ones."""

    def __init__(self, chaos: int, dice: Random) -> None:
        self._dice = dice
        self._kinds = tuple(_PER_THOUSAND)
        self._weights = [levels[chaos] for levels in _PER_THOUSAND.values()]
        self._chaos = sum(self._weights) / 1000
        self._queue: deque[tuple[re.Pattern[str], Fault]] = deque()

    def queue(self, fault: Fault, matching: str, times: int) -> None:
        """Inject *fault* into the next *times* requests whose target contains the pattern *matching*.

        Raises:
            ValueError: *matching* is not a regular expression.
        """
        try:
            pattern = re.compile(matching)
        except re.error as error:
            raise ValueError(f"matching: {matching!r} is not a regular expression: {error}") from error
        self._queue.extend([(pattern, fault)] * times)

    def clear(self) -> None:
        """Cancel the injected faults that are still to come."""
        self._queue.clear()

    def waiting(self) -> int:
        """Return the number of injected faults that are still to come."""
        return len(self._queue)

    def draw(self, target: str) -> Fault | None:
        """Return the fault for a request to *target*: the first injected one that matches, else maybe a random one."""
        for entry in self._queue:
            pattern, fault = entry
            if pattern.search(target):
                self._queue.remove(entry)
                return fault
        if self._dice.random() >= self._chaos:
            return None
        kind = self._dice.choices(self._kinds, self._weights)[0]
        return Fault(kind=kind, record=self._dice.choice(tuple(Malformed)))


_INSTEAD = {
    FaultKind.SERVER_ERROR: problem(500, 90004, "Unexpected error."),
    FaultKind.UNAVAILABLE: problem(503, 90005, "Service unavailable."),
    FaultKind.BAD_GATEWAY: html_answer("502 Bad Gateway", 502),
    FaultKind.RATE_LIMITED: problem(429, 1000, "Rate limit exceeded! Check response headers."),
    FaultKind.MAINTENANCE: problem(503, 0, "The Platform is currently under maintenance."),
    FaultKind.UNAUTHORIZED: problem(401, 90001, "Unauthorized."),
    FaultKind.HTML: html_answer("Welcome", 200),
    FaultKind.HANG: Answer(200, b"", {}, Delivery.HANG),
    FaultKind.CLOSE: Answer(200, b"", {}, Delivery.CLOSE),
}


def instead(fault: Fault, target: str) -> Answer | None:
    """Return the response that replaces the correct one; None if *fault* only modifies it."""
    if fault.kind is FaultKind.REDIRECT:
        return Answer(302, b"", {"location": fault.location + target})
    answer = _INSTEAD.get(fault.kind)
    if answer is not None and fault.retry_after > 0:
        return answer.with_headers({"retry-after": f"{fault.retry_after:g}"})
    return answer


def spoil(fault: Fault, answer: Answer) -> Answer:
    """Return the correct response, modified by *fault*."""
    match fault.kind:
        case FaultKind.CUT:
            return answer._replace(delivery=Delivery.CUT)
        case FaultKind.DRIP:
            return answer._replace(delivery=Delivery.DRIP, pause=fault.pause)
        case FaultKind.BROKEN_JSON:
            return answer._replace(body=answer.body[: len(answer.body) // 2])
        case FaultKind.OVERSIZED:
            return answer._replace(body=answer.body + b" " * fault.size)
        case FaultKind.MALFORMED_RECORD if answer.status == 200:  # noqa: PLR2004  # only a 200 has records
            return answer._replace(body=_with_malformed_record(answer.body, fault.record))
        case _:
            return answer


def _with_malformed_record(body: bytes, malformed: Malformed) -> bytes:
    content = msgspec.json.decode(body, type=dict[str, object])
    items = content.get("items")
    if isinstance(items, list):
        if items:
            items[0] = _malform(items[0], malformed)
        return msgspec.json.encode(content)
    return msgspec.json.encode(_malform(content, malformed)) if "state" in content else body


_WITHOUT = {
    Malformed.ID_MISSING: "id",
    Malformed.STATE_MISSING: "state",
    Malformed.TYPE_MISSING: "type",
    Malformed.COUNT_MISSING: "completed_files",
}
_RETYPED: dict[Malformed, tuple[str, Callable[[str], object]]] = {
    Malformed.ID_NUMBER: ("id", int),
    Malformed.COUNT_NUMERAL: ("total_files", str),
}
_WRONG: dict[Malformed, tuple[str, object]] = {
    Malformed.ID_ENDLESS: ("id", "7" * 100_000),
    Malformed.STATE_NUMBER: ("state", 4),
    Malformed.COUNT_TEXT: ("total_files", "many"),
    Malformed.COUNT_NEGATIVE: ("failed_files", -1),
    Malformed.TIME_GARBAGE: ("started_on", "yesterday"),
    Malformed.TIME_NULL: ("started_on", None),
    Malformed.RESULT_OBJECT: ("result", {"error": "none of your business"}),
}


def _malform(job: dict[str, object], malformed: Malformed) -> dict[str, object] | None:
    if malformed is Malformed.NOT_AN_OBJECT:
        return None
    if malformed in _WITHOUT:
        return {name: value for name, value in job.items() if name != _WITHOUT[malformed]}
    if malformed in _RETYPED:
        name, retype = _RETYPED[malformed]
        return job | {name: retype(str(job.get(name, 0)))}
    name, value = _WRONG[malformed]
    return job | {name: value}

"""The control side under ``/simulator``: JSON in, JSON out, no token.

It is for rehearsals; the platform has no such thing.  ``user`` may be left out everywhere: then the first one is meant,
or for the truth, everybody.

====== ========================= =====================================================================================
method path                      body and meaning
====== ========================= =====================================================================================
GET    /simulator                the simulated time, the users, how the platform behaves
POST   /simulator/jobs           ``{"operation": "copy", "total": 10, "failed": 2, "running": 60}``: a job by script,
                                 every part of ``JobScript``, and ``user``; answers its id
POST   /simulator/jobs/ID        ``{"failed": 3}``: other values for parts of a job's script
POST   /simulator/jobs/ID/finish the job is finished now
DELETE /simulator/jobs/ID        the job vanishes
POST   /simulator/faults         ``{"kind": "hang", "matching": "/async/files", "times": 3}``, parts of ``Fault``
DELETE /simulator/faults         no queued fault happens any more
POST   /simulator/token          ``{"token": "..."}``: the user's new token; the old one is refused
POST   /simulator/clock          ``{"advance": 3600}``: simulated seconds that pass at once
POST   /simulator/behaviour      ``{"order": "mixed", "most_per_page": 10}``: the parts of ``Behaviour``
POST   /simulator/rate           ``{"remaining": 10}``: what another script leaves of the present window
GET    /simulator/requests       the latest requests to the API
GET    /simulator/truth          ``?user=&since=UNIX``: what a perfect observer would have counted
====== ========================= =====================================================================================
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from exporter.simulator.answers import Answer, Call, json_answer
from exporter.simulator.faults import Fault
from exporter.simulator.platform import Platform
from exporter.simulator.scripts import JobScript


class _Order(NamedTuple):
    """What is asked for."""

    job_id: str
    user: str | None
    body: dict[str, object]
    query: Mapping[str, str]


class _Faults(msgspec.Struct):
    """Which requests a fault befalls."""

    matching: str = ""
    times: int = 1


def control(platform: Platform, call: Call) -> Answer:
    """What a request to the control side does and answers."""
    segments = call.path.split("/")[2:]
    job_id = segments[1] if segments[0:1] == ["jobs"] and len(segments) > 1 else ""
    action = _ACTIONS.get((call.method, "/".join("ID" if segment == job_id else segment for segment in segments)))
    if action is None:
        return json_answer({"error": f"nothing is done by {call.method} {call.path}"}, 404)
    try:
        body = msgspec.json.decode(call.body, type=dict[str, object]) if call.body else {}
        user = msgspec.convert(body.pop("user", call.query.get("user")), str | None)
        return json_answer(action(platform, _Order(job_id, user, body, call.query)))
    except LookupError as error:
        return json_answer({"error": str(error.args[0])}, 404)
    except ValueError as error:
        return json_answer({"error": str(error)}, 400)


def _describe(platform: Platform, _order: _Order) -> object:
    return {"now": platform.now(), "users": platform.users(), "behaviour": platform.behaviour}


def _submit(platform: Platform, order: _Order) -> object:
    return {"id": platform.submit(msgspec.convert(order.body, JobScript), order.user)}


def _change(platform: Platform, order: _Order) -> None:
    platform.change(order.job_id, **order.body)


def _finish(platform: Platform, order: _Order) -> None:
    platform.finish(order.job_id)


def _remove(platform: Platform, order: _Order) -> None:
    platform.remove(order.job_id)


def _queue(platform: Platform, order: _Order) -> None:
    which = msgspec.convert(order.body, _Faults)
    fault = {name: value for name, value in order.body.items() if name not in _Faults.__struct_fields__}
    platform.queue(msgspec.convert(fault, Fault), which.matching, which.times)


def _forget_faults(platform: Platform, _order: _Order) -> None:
    platform.forget_faults()


def _rotate(platform: Platform, order: _Order) -> None:
    platform.rotate(_part(order, "token", str), order.user)


def _advance(platform: Platform, order: _Order) -> object:
    return {"now": platform.advance(_part(order, "advance", float))}


def _behave(platform: Platform, order: _Order) -> object:
    return platform.behave(**order.body)


def _use_up(platform: Platform, order: _Order) -> None:
    platform.use_up(_part(order, "remaining", int), order.user)


def _requests(platform: Platform, _order: _Order) -> object:
    return [request._asdict() for request in platform.latest_requests()]


def _truth(platform: Platform, order: _Order) -> object:
    return platform.truth(order.user, float(order.query.get("since", 0)))


_ACTIONS: dict[tuple[str, str], Callable[[Platform, _Order], object]] = {
    ("GET", ""): _describe,
    ("POST", "jobs"): _submit,
    ("POST", "jobs/ID"): _change,
    ("POST", "jobs/ID/finish"): _finish,
    ("DELETE", "jobs/ID"): _remove,
    ("POST", "faults"): _queue,
    ("DELETE", "faults"): _forget_faults,
    ("POST", "token"): _rotate,
    ("POST", "clock"): _advance,
    ("POST", "behaviour"): _behave,
    ("POST", "rate"): _use_up,
    ("GET", "requests"): _requests,
    ("GET", "truth"): _truth,
}


_Kind = TypeVar("_Kind")


def _part(order: _Order, name: str, kind: type[_Kind]) -> _Kind:
    """A part of the body that has to be there.

    Raises:
        ValueError: it is missing or of another kind.
    """
    if name not in order.body:
        raise ValueError(f"the body has no {name!r}")
    return msgspec.convert(order.body[name], kind)

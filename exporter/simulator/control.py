"""Control requests under ``/simulator``, for rehearsals: JSON bodies and responses, no token.

The real platform has none of them. ``user`` is always optional. The default is the first user, or for the truth all
users.

====== ========================= =====================================================================================
method path                      body and meaning
====== ========================= =====================================================================================
GET    /simulator                Return the simulated time, the users and the platform's behaviour.
POST   /simulator/jobs           ``{"operation": "copy", "total": 10, "failed": 2, "running": 60}``: Submit a job. The
                                 body takes the fields of a job script and ``user``. Returns the job's id.
POST   /simulator/jobs/ID        ``{"failed": 3}``: Change fields of a job's script.
POST   /simulator/jobs/ID/finish Finish the job now.
DELETE /simulator/jobs/ID        Remove the job: its path responds with 404 and the list omits it.
POST   /simulator/faults         ``{"kind": "hang", "matching": "/async/files", "times": 3}``: Inject a fault into the
                                 next matching requests. The body takes the fields of a fault.
DELETE /simulator/faults         Cancel all faults that are still to come.
POST   /simulator/token          ``{"token": "..."}``: Replace the user's token. The old one is refused.
POST   /simulator/clock          ``{"advance": 3600}``: Advance the simulated clock by this many seconds.
POST   /simulator/behaviour      ``{"order": "mixed", "most_per_page": 10}``: Change the platform's behaviour.
POST   /simulator/rate           ``{"remaining": 10}``: Use up the rate limit's current window except for this
                                 many requests.
GET    /simulator/requests       Return the latest API requests.
GET    /simulator/truth          ``?user=&since=UNIX``: Return the true counts.
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
    """A parsed control request."""

    job_id: str
    user: str | None
    body: dict[str, object]
    query: Mapping[str, str]


class _Faults(msgspec.Struct):
    """Which requests get the fault."""

    matching: str = ""
    times: int = 1


def control(platform: Platform, call: Call) -> Answer:
    """Handle a control request."""
    segments = call.path.split("/")[2:]
    job_id = segments[1] if segments[0:1] == ["jobs"] and len(segments) > 1 else ""
    action = _ACTIONS.get((call.method, "/".join("ID" if segment == job_id else segment for segment in segments)))
    if action is None:
        return json_answer(
            {"error": f"no control request {call.method} {call.path}; see exporter/simulator/README.md"},
            404,
        )
    try:
        body = msgspec.json.decode(call.body, type=dict[str, object]) if call.body else {}
        user = msgspec.convert(body.pop("user", call.query.get("user")), str | None)
        done = action(platform, _Order(job_id, user, body, call.query))
        return json_answer({"ok": True} if done is None else done)
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


def _rotate(platform: Platform, order: _Order) -> object:
    platform.rotate(_part(order, "token", str), order.user)
    return {"user": order.user or platform.users()[0], "token": "replaced; the old one is refused"}


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
    """Return a required field of the body.

    Raises:
        ValueError: it is missing or has the wrong type.
    """
    if name not in order.body:
        raise ValueError(f"the body must have a field {name!r}")
    return msgspec.convert(order.body[name], kind)

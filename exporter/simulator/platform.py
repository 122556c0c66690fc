"""The simulated platform: requests to responses, without sockets.

It imitates what is known of the real API: paths, errors, paging, rate limit and job states. What is unknown is an
option of ``Behaviour``: the list's order, page size, ``X-Total-Matching-Query`` and ``fields``, the rate headers.

Times are Unix seconds of the simulated clock unless they are called real. Public methods may be called from any thread.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from enum import StrEnum
from random import Random
from typing import Annotated, NamedTuple
from urllib.parse import urlencode

import msgspec

from exporter.simulator.answers import Answer, Call, Refused, json_answer, problem
from exporter.simulator.clock import SimulatedClock
from exporter.simulator.faults import Fault, Faults, instead, spoil
from exporter.simulator.jobs import Job, Truth, record
from exporter.simulator.scripts import OPERATIONS, JobScript
from exporter.simulator.settings import Order, SimulatorSettings
from exporter.simulator.users import User

MOST_PER_PAGE = 100
MOST_ITEMS = 100
_DEFAULT_PER_PAGE = 25
_MOST_DIGITS = 19
_REMEMBERED_REQUESTS = 20_000
_LONG_AGO = 3600.0
_FAR_AHEAD = 10 * 365 * 86400.0


class RateHeaders(StrEnum):
    """How response headers report the rate limit."""

    SECONDS = "seconds"
    MILLISECONDS = "milliseconds"
    ABSENT = "absent"
    PAST = "past"
    """The reset was an hour ago."""
    ABSURD = "absurd"
    """The reset is in ten years."""


class Fields(StrEnum):
    """How the list handles ``fields``."""

    HONOURED = "honoured"
    IGNORED = "ignored"
    """The response has all fields."""
    REFUSED = "refused"
    """The response is 400."""
    IDS_ONLY = "ids_only"
    """The response has only the ids, regardless of the request."""


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options for what is unknown about the real platform. They can be changed at any time."""

    order: Order
    total_header: bool = True
    """Whether the list sends ``X-Total-Matching-Query``."""
    fields: Fields = Fields.HONOURED
    most_per_page: Annotated[int, msgspec.Meta(ge=1, le=MOST_PER_PAGE)] = MOST_PER_PAGE
    """Maximum number of jobs per page, even if the client requests more."""
    rate_headers: RateHeaders = RateHeaders.SECONDS


class Request(NamedTuple):
    """A request to the API, with its response's status and fault."""

    at: float
    user: str | None
    method: str
    target: str
    status: int
    fault: str | None


class _Item(msgspec.Struct):
    """One item of a submitted job."""

    file: str
    parent: str | None = None
    project: str | None = None
    name: str | None = None


class _Submission(msgspec.Struct):
    """The body of a submitted job."""

    items: list[_Item]


_BAD_REQUEST = 90000
_WRONG_METHOD = problem(405, 90006, "Method not allowed.")
_NO_SUCH_PATH = problem(404, 90003, "Not found.")


class Platform:
    """The platform: users, their jobs, and faults."""

    def __init__(self, settings: SimulatorSettings, clock: SimulatedClock | None = None) -> None:
        start = time.time() if settings.start is None else settings.start
        self.clock = clock or SimulatedClock(start, settings.speed)
        self.behaviour = Behaviour(order=Order(settings.order))
        self._faults = Faults(settings.chaos, Random(f"{settings.seed}/chaos"))
        self._requests: deque[Request] = deque(maxlen=_REMEMBERED_REQUESTS)
        self._request_ids = Random(f"{settings.seed}/requests")
        self._lock = threading.RLock()
        self._tokens = {settings.token: settings.username, **settings.users}
        names = tuple(dict.fromkeys(self._tokens.values()))
        self._users = {
            name: User(name, settings, self.clock.now(), lane=lane, lanes=len(names)) for lane, name in enumerate(names)
        }

    # ---------------------------------------------------------------------------------------------- for rehearsals

    def now(self) -> float:
        """Return the simulated time."""
        return self.clock.now()

    def users(self) -> tuple[str, ...]:
        """Return the users' names. The first is the default where a method takes a user."""
        return tuple(self._users)

    def advance(self, seconds: float) -> float:
        """Advance the clock by *seconds* and return the new time.

        Raises:
            ValueError: *seconds* is negative.
        """
        with self._lock:
            self.clock.advance(seconds)
            return self.clock.now()

    def submit(self, script: JobScript, user: str | None = None) -> str:
        """Submit a job with this script. Return its id."""
        with self._lock:
            now, owner = self.clock.now(), self._user(user)
            owner.catch_up(now)
            return str(owner.submit(script, now).id)

    def change(self, job_id: str, **changes: object) -> None:
        """Change fields of a job's script, as if it had been submitted like this.

        Raises:
            LookupError: no such job.
            ValueError: unknown field or invalid value.
        """
        with self._lock:
            owner, job = self._job(job_id)
            script = msgspec.convert({**msgspec.to_builtins(job.script), **changes}, JobScript)
            owner.change(job, script, self.clock.now())

    def finish(self, job_id: str) -> None:
        """Finish a job now, even one that hangs.

        Raises:
            LookupError: no such job.
        """
        with self._lock:
            owner, job = self._job(job_id)
            owner.finish(job, self.clock.now())

    def remove(self, job_id: str) -> None:
        """Remove a job: the list omits it and its path responds with 404.

        Raises:
            LookupError: no such job.
        """
        with self._lock:
            owner, job = self._job(job_id)
            owner.remove(job, self.clock.now())

    def listed(self, user: str | None = None) -> list[str]:
        """Return the ids in a user's list, in its order."""
        with self._lock:
            owner = self._user(user)
            owner.catch_up(self.clock.now())
            return [str(job.id) for job in owner.page(0, owner.listed())]

    def unfinished(self, user: str | None = None) -> list[str]:
        """Return the ids of a user's unfinished jobs, oldest first."""
        with self._lock:
            now, owner = self.clock.now(), self._user(user)
            owner.catch_up(now)
            return [str(job.id) for job in owner.jobs.values() if job.removed is None and not job.is_finished(now)]

    def script_of(self, job_id: str) -> JobScript:
        """Return a job's script.

        Raises:
            LookupError: no such job.
        """
        with self._lock:
            return self._job(job_id)[1].script

    def queue(self, fault: Fault, matching: str = "", times: int = 1) -> None:
        """Inject *fault* into the next *times* API requests whose path and query contain the pattern *matching*.

        Raises:
            ValueError: *matching* is not a regular expression.
        """
        with self._lock:
            self._faults.queue(fault, matching, times)

    def forget_faults(self) -> None:
        """Cancel the injected faults that are still to come."""
        with self._lock:
            self._faults.clear()

    def waiting_faults(self) -> int:
        """Return the number of injected faults that are still to come."""
        return self._faults.waiting()

    def latest_requests(self) -> list[Request]:
        """Return the latest API requests, oldest first."""
        with self._lock:
            return list(self._requests)

    def behave(self, **changes: object) -> Behaviour:
        """Change options of the platform's behaviour and return all of them.

        Raises:
            ValueError: unknown option or invalid value.
        """
        with self._lock:
            self.behaviour = msgspec.convert({**msgspec.to_builtins(self.behaviour), **changes}, Behaviour)
            for user in self._users.values():
                user.reorder(self.behaviour.order)
            return self.behaviour

    def rotate(self, token: str, user: str | None = None) -> None:
        """Replace a user's token. The old one is refused."""
        with self._lock:
            name = self._user(user).name
            self._tokens = {old: owner for old, owner in self._tokens.items() if owner != name} | {token: name}

    def use_up(self, remaining: int = 0, user: str | None = None) -> None:
        """Use up the current rate limit window except for *remaining* requests, as another script would."""
        with self._lock:
            self._user(user).window.leave(remaining, self.clock.now())

    def truth(self, user: str | None = None, since: float = 0.0) -> Truth:
        """Return the true counts of jobs that had not ended before *since*, for one user or for all."""
        with self._lock:
            now = self.clock.now()
            truth = Truth.nothing()
            for each in self._users.values() if user is None else (self._user(user),):
                each.catch_up(now)
                for job in each.submitted_since(since, now):
                    truth.add(job, now)
            return truth

    def _user(self, name: str | None) -> User:
        if name is None:
            return next(iter(self._users.values()))
        if name not in self._users:
            raise LookupError(f"no user {name!r}; expected one of {', '.join(self._users)}")
        return self._users[name]

    def _job(self, job_id: str) -> tuple[User, Job]:
        for user in self._users.values():
            user.catch_up(self.clock.now())
            number = _whole(job_id)
            job = None if number is None else user.find(number)
            if job is not None:
                return user, job
        raise LookupError(f"no job {job_id!r} on the platform")

    # ------------------------------------------------------------------------------------------------- for clients

    def answer(self, call: Call) -> Answer:
        """Return the API's response, correct or with a fault."""
        with self._lock:
            now = self.clock.now()
            user = self._caller(call)
            fault = self._faults.draw(call.target)
            answer = instead(fault, call.target) if fault else None
            if answer is None:
                answer = self._right_answer(call, user, now)
            if fault:
                answer = spoil(fault, answer)
            self._requests.append(
                Request(
                    at=now,
                    user=user.name if user else None,
                    method=call.method,
                    target=call.target,
                    status=answer.status,
                    fault=fault.kind if fault else None,
                )
            )
            return answer.with_headers(self._headers(user, now))

    def _right_answer(self, call: Call, user: User | None, now: float) -> Answer:
        if call.path == "/v2":
            return json_answer(_paths(f"{call.origin}/v2"))
        if user is None:
            return problem(401, 90001, "Unauthorized.")
        if call.path != "/v2/rate_limit" and not user.window.take(now):
            return problem(429, 1000, "Rate limit exceeded! Check response headers.")
        user.catch_up(now)
        try:
            return self._routed(call, user, now)
        except Refused as refused:
            return refused.answer

    def _routed(self, call: Call, user: User, now: float) -> Answer:
        api = f"{call.origin}/v2"
        match call.path.removeprefix("/v2/").split("/"):
            case "async", "files", *rest:
                return self._files(call, rest, user, now)
            case ["user"] if call.method == "GET":
                return json_answer(_profile(user.name, api))
            case ["rate_limit"] if call.method == "GET":
                return json_answer(_rate_limit(user, now))
            case ["user"] | ["rate_limit"]:
                return _WRONG_METHOD
            case _:
                return _NO_SUCH_PATH

    def _files(self, call: Call, rest: Sequence[str], user: User, now: float) -> Answer:
        api = f"{call.origin}/v2"
        match call.method, *rest:
            case ("GET",):
                return self._list(call, user, now)
            case "GET", operation, job_id if operation in OPERATIONS:
                number = _whole(job_id)
                job = None if number is None else user.find(number)
                if job is None or job.script.operation != operation:
                    raise Refused(problem(404, 10211, f"Job with provided id {job_id} not found."))
                return json_answer(_Choice(self._fields(call)).of(record(job, now, api, alone=True)))
            case "POST", operation if operation in OPERATIONS:
                job = user.submit_files(operation, _submitted(call.body, operation), now)
                return json_answer(record(job, now, api, alone=True), 202)
            case _, *known if not known or known[0] in OPERATIONS:
                return _WRONG_METHOD
            case _:
                return _NO_SUCH_PATH

    def _list(self, call: Call, user: User, now: float) -> Answer:
        offset = _number(call.query, "offset", 0, 0, None)
        limit = min(
            _number(call.query, "limit", _DEFAULT_PER_PAGE, 1, MOST_PER_PAGE),
            self.behaviour.most_per_page,
        )
        fields = self._fields(call)
        choice = _Choice(fields if self.behaviour.fields is not Fields.IGNORED else None)
        if fields is not None and self.behaviour.fields is Fields.IDS_ONLY:
            choice = _Choice("href,id")
        api, total = f"{call.origin}/v2", user.listed()
        kept = {} if fields is None else {"fields": fields}

        def href(start: int) -> str:
            return f"{api}/async/files?" + urlencode({"offset": start, "limit": limit, **kept}, safe="!,")

        links: list[dict[str, str]] = []
        if offset + limit < total:
            links.append({"href": href(offset + limit), "rel": "next", "method": "GET"})
        if offset > 0:
            links.append({"href": href(max(offset - limit, 0)), "rel": "prev", "method": "GET"})
        jobs = [
            choice.of(record(job, now, api, alone=False, result="result" in choice)) for job in user.page(offset, limit)
        ]
        page = {"href": href(offset), "items": jobs, "links": links}
        return json_answer(page, headers={"x-total-matching-query": str(total)} if self.behaviour.total_header else {})

    def _fields(self, call: Call) -> str | None:
        """Return the value of ``fields`` in a request.

        Raises:
            Refused: the request has ``fields`` and the behaviour is to refuse it.
        """
        fields = call.query.get("fields")
        if fields is not None and self.behaviour.fields is Fields.REFUSED:
            raise Refused(problem(400, _BAD_REQUEST, "Bad request: fields is not supported here."))
        return fields

    def _caller(self, call: Call) -> User | None:
        token = call.headers.get("x-sbg-auth-token") or call.headers.get("authorization", "").removeprefix("Bearer ")
        name = self._tokens.get(token)
        return None if name is None else self._users[name]

    def _headers(self, user: User | None, now: float) -> dict[str, str]:
        headers = {
            "date": formatdate(now, usegmt=True),
            "x-request-id": f"{self._request_ids.getrandbits(128):032x}",
        }
        if user is None or self.behaviour.rate_headers is RateHeaders.ABSENT:
            return headers
        return headers | {
            "x-ratelimit-limit": str(user.window.limit),
            "x-ratelimit-remaining": str(user.window.remaining(now)),
            "x-ratelimit-reset": str(self._reset(user, now)),
        }

    def _reset(self, user: User, now: float) -> int:
        """Return the value of the reset header."""
        match self.behaviour.rate_headers:
            case RateHeaders.MILLISECONDS:
                return int(user.window.reset(now) * 1000)
            case RateHeaders.PAST:
                return int(now - _LONG_AGO)
            case RateHeaders.ABSURD:
                return int(now + _FAR_AHEAD)
            case _:
                return int(user.window.reset(now))


def _number(query: Mapping[str, str], name: str, default: int, least: int, most: int | None) -> int:
    """Return a number from the query.

    Raises:
        Refused: it is not a number from *least* to *most*.
    """
    text = query.get(name)
    if text is None:
        return default
    number = _whole(text)
    if number is None or number < least or (most is not None and number > most):
        wanted = f"at least {least}" if most is None else f"from {least} to {most}"
        raise Refused(problem(400, _BAD_REQUEST, f"Bad request: {name} must be a number, {wanted}."))
    return number


def _whole(text: str) -> int | None:
    """Parse *text* as an id or an offset; None if it is not a number or too long."""
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None


class _Choice:
    """The selection by ``fields``: the named fields, or all except those with ``!``, or ``_all``."""

    def __init__(self, fields: str | None) -> None:
        names = set() if fields is None or "_all" in fields.split(",") else set(fields.split(","))
        self._excluded = {name[1:] for name in names if name.startswith("!")}
        self._included = {name for name in names if not name.startswith("!")}

    def __contains__(self, name: str) -> bool:
        return name not in self._excluded and (not self._included or name in self._included)

    def of(self, job: dict[str, object]) -> dict[str, object]:
        """Return the selected fields of *job*."""
        if not (self._excluded or self._included):
            return job
        return {name: value for name, value in job.items() if name in self}


def _submitted(body: bytes, operation: str) -> list[str]:
    """Return the file ids of a submitted job.

    Raises:
        Refused: the body differs from the API's documentation.
    """
    try:
        items = msgspec.json.decode(body, type=_Submission).items
    except msgspec.DecodeError as error:
        raise Refused(problem(400, 90009, f"Request body cannot be decoded: {error}")) from error
    if not 1 <= len(items) <= MOST_ITEMS:
        raise Refused(problem(400, 5033, f"Invalid request: from 1 to {MOST_ITEMS} items are allowed."))
    for item in items:
        if operation != "delete" and (item.parent is None) == (item.project is None):
            raise Refused(problem(400, 5029, "Either parent or project must be provided, and not both."))
    return [item.file for item in items]


def _paths(api: str) -> dict[str, str]:
    return {
        "rate_limit_url": f"{api}/rate_limit",
        "user_url": f"{api}/user",
        "async_files_url": f"{api}/async/files",
    }


def _profile(name: str, api: str) -> dict[str, object]:
    return {
        "href": f"{api}/users/{name}",
        "username": name,
        "email": f"{name}@example.org",
        "first_name": name.title(),
        "last_name": "Example",
        "affiliation": "",
        "tags": [],
    }


def _rate_limit(user: User, now: float) -> dict[str, dict[str, int]]:
    window = user.window
    return {
        "rate": {"limit": window.limit, "remaining": window.remaining(now), "reset": int(window.reset(now))},
        "instance_limit": {"limit": 25, "remaining": 25},
    }

"""Who gets an answer: client certificates, basic authentication, the rate limit, and headers for every response.

Health paths need nothing of this, because Kubernetes and load balancers have no credentials.
"""

import asyncio
import base64
import binascii
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from queue import SimpleQueue
from secrets import token_bytes
from typing import Any, Final
from urllib.parse import unquote

import bcrypt
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.config.web_config import RateLimit, WebConfig, canonical_san
from exporter.redaction import Secret

HEALTH_PATHS: Final = frozenset({"/-/healthy", "/-/ready"})
_CHALLENGE: Final = {"WWW-Authenticate": 'Basic realm="sbg-exporter", charset="UTF-8"'}
_REMEMBERED: Final = 1024
"""Most credentials that are known to be right. More than one per user only while hashes change."""
_MAX_WAITING: Final = 32
_MAX_WAITING_PER_CLIENT: Final = 4
"""Most password checks that wait. One client cannot fill the queue, so others still get their turn."""
_BCRYPT_BYTES: Final = 72
"""What bcrypt reads of a password. Go ignores the rest, Python's library refuses it."""
_ABSOLUTE: Final = re.compile(rb"[a-z][a-z0-9+.-]*://[^/?#]*", re.IGNORECASE)
_NO_STORE: Final = {"Cache-Control": "no-store"}
_CLOSE: Final = {"Connection": "close"}


class AccessControl:
    """An ASGI application in front of another one, which lets in those whom the web configuration allows."""

    def __init__(self, app: ASGIApp, config: Callable[[], WebConfig]) -> None:
        """*config* returns the current configuration, which may change at any time."""
        self._app = app
        self._config = config
        self._passwords = _PasswordChecker()
        self._limiter = _RateLimiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        config = self._config()
        scope = _with_origin_form(scope)
        send = _adding(config.headers, send)
        if _has_two_lengths(scope):
            await _refuse(400, "Content-Length and Transfer-Encoding contradict each other", _CLOSE)(
                scope, receive, send
            )
            return
        refused = None if scope["path"] in HEALTH_PATHS else await self._refusal(scope, config)
        await (self._app if refused is None else refused)(scope, receive, send)

    def close(self) -> None:
        """Forget the credentials, and end after the check in progress."""
        self._passwords.close()

    async def _refusal(self, scope: Scope, config: WebConfig) -> Response | None:
        if config.rate_limit and not self._limiter.allows(config.rate_limit, asyncio.get_running_loop().time()):
            return _refuse(429, "Too many requests: see rate_limit in web_config_file", {"Retry-After": "1"})
        if config.certificate_required and (missing := _certificate_problem(scope, config)):
            return _refuse(403, missing)
        if not config.users:
            return None
        credentials = _credentials(scope)
        if credentials is None:
            return _refuse(401, "Unauthorized", _CHALLENGE)
        client = str((scope.get("client") or ("",))[0])
        right = await self._passwords.check(*credentials, config.users, client)
        if right is None:
            return _refuse(503, "Too many passwords are being checked", {"Retry-After": "1"})
        return None if right else _refuse(401, "Unauthorized", _CHALLENGE)


def _refuse(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{text}\n", status, {**_NO_STORE, **(headers or {})})


def _has_two_lengths(scope: Scope) -> bool:
    """Whether the request names its end in two ways: a proxy in front may take its body for a request of its own."""
    return {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}


def _with_origin_form(scope: Scope) -> Scope:
    """*scope* with a path alone, where the request named the whole URL, as clients of a proxy do."""
    match = _ABSOLUTE.match(scope["raw_path"])
    if match is None:
        return scope
    raw_path = scope["raw_path"][match.end() :] or b"/"
    return {**scope, "path": unquote(raw_path.decode("ascii")), "raw_path": raw_path}


def _adding(headers: Sequence[tuple[bytes, bytes]], send: Send) -> Send:
    """*send*, with *headers* added that a response does not have."""
    if not headers:
        return send

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(each for each in headers if each[0] not in present)]
        await send(message)

    return send_with_headers


# ---- client certificates ----


def certificate_names(certificate: Mapping[str, Any] | None) -> frozenset[str] | None:
    """The subject alternative names of a verified certificate, as :mod:`ssl` describes it; None without one."""
    if not certificate:
        return None
    return frozenset(canonical_san(str(name)) for _kind, name in certificate.get("subjectAltName", ()))


def _certificate_problem(scope: Scope, config: WebConfig) -> str:
    names: frozenset[str] | None = scope.get("client_certificate_names")
    if names is None:
        return "A client certificate is required"
    if config.allowed_sans and not names & config.allowed_sans:
        return "The client certificate has none of the names in client_allowed_sans"
    return ""


# ---- passwords ----


def _credentials(scope: Scope) -> tuple[bytes, Secret] | None:
    """User and password of the request's Authorization header; None if it has none that can be read."""
    header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    kind, _, encoded = header.partition(b" ")
    if kind.lower() != b"basic":
        return None
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True)
    except binascii.Error:
        return None
    user, colon, password = decoded.partition(b":")
    # Any bytes are a password. Anyone may send anything, so it is not masked in other texts.
    return (user, Secret(password.decode("latin-1"), masked=False)) if colon else None


class _PasswordChecker:
    """Checks passwords in one thread of its own, because bcrypt is slow on purpose, and remembers the right ones."""

    def __init__(self) -> None:
        self._secret = token_bytes(32)
        self._right: dict[bytes, None] = {}
        self._waiting = Counter[str]()
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def check(self, user: bytes, password: Secret, users: Mapping[bytes, bytes], client: str) -> bool | None:
        """Whether this is the user's password; None if too many checks wait, of this *client* or of all."""
        known, digest = user in users, users.get(user) or _slowest(users)
        key = self._key(user, password, digest)
        if key in self._right:
            return True
        if self._waiting.total() >= _MAX_WAITING or self._waiting[client] >= _MAX_WAITING_PER_CLIENT:
            return None
        with self._waits(client):
            # An unknown user's password is compared too, so that both answers take the same time.
            right = await self._in_thread(lambda: _matches(password, digest)) and known
        if right:
            if len(self._right) >= _REMEMBERED:
                self._right.pop(next(iter(self._right)))
            self._right[key] = None
        return right

    def close(self) -> None:
        """End the thread after the check in progress."""
        self._right.clear()
        self._tasks.put(None)

    def _key(self, user: bytes, password: Secret, digest: bytes) -> bytes:
        """Stands for the credentials in memory, without being of use to someone who reads it."""
        parts = b"".join(len(part).to_bytes(4, "big") + part for part in (user, digest, _bytes(password)))
        return blake2b(parts, key=self._secret, digest_size=32).digest()

    @contextmanager
    def _waits(self, client: str) -> Iterator[None]:
        self._waiting[client] += 1
        try:
            yield
        finally:
            self._waiting[client] -= 1
            if not self._waiting[client]:
                del self._waiting[client]

    async def _in_thread(self, task: Callable[[], bool]) -> bool:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()

        def finish(right: bool, error: Exception | None) -> None:  # noqa: FBT001  # a callback's arguments
            if future.done():
                return
            if error is None:
                future.set_result(right)
            else:
                future.set_exception(error)

        def run() -> None:
            right, problem = False, None
            try:
                right = task()
            except Exception as error:  # noqa: BLE001  # raised again where the result is awaited
                problem = error
            loop.call_soon_threadsafe(finish, right, problem)

        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="passwords", daemon=True)
            self._thread.start()
        self._tasks.put(run)
        return await future

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except RuntimeError:  # the server has stopped meanwhile
                return


def _slowest(users: Mapping[bytes, bytes]) -> bytes:
    """The hash that takes longest to check: its cost is in the fifth and sixth place."""
    return max(users.values(), key=lambda digest: digest[4:6])


def _bytes(password: Secret) -> bytes:
    return password.reveal().encode("latin-1")


def _matches(password: Secret, digest: bytes) -> bool:
    try:
        return bcrypt.checkpw(_bytes(password)[:_BCRYPT_BYTES], digest)
    except ValueError:  # a hash that bcrypt does not know after all
        return False


# ---- requests per second ----


class _RateLimiter:
    """A token bucket over all clients."""

    def __init__(self) -> None:
        self._limit: RateLimit | None = None
        self._tokens = 0.0
        self._at = 0.0

    def allows(self, limit: RateLimit, now: float) -> bool:
        """Take a token, if there is one at *now* (seconds of any clock that does not go back)."""
        if limit != self._limit:
            self._limit, self._tokens, self._at = limit, float(limit.burst), now
        self._tokens = min(limit.burst, self._tokens + (now - self._at) / limit.interval)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

"""Which error a response is, if it is not the requested data. Pure.

A proxy, a firewall, a network's login page or a web site may respond in the platform's place. Such a response says
nothing about the token or a job. So 401 and 403 count as a refused token only with the platform's own JSON, or as the
response to the request for the token's user; and an error names what came instead of JSON, and what to do.
"""

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import urljoin, urlsplit

from exporter.api import decoding
from exporter.api.models import ApiError
from exporter.api.platforms import api_base, is_api, unusual_path, where_token_is
from exporter.errors import BadAnswer, BadRequest, Maintenance, NotThePlatform, Overloaded, Unauthorized, Unreachable

_UNDER_MAINTENANCE: Final = 0
_LOWEST_CODE: Final = 1000
"""The platform's codes are larger than an HTTP status, except for maintenance. Gateways repeat the status as a code."""
(
    _OK,
    _BAD_REQUEST,
    _UNAUTHORIZED,
    _FORBIDDEN,
    _PROXY_AUTHENTICATION,
    _TIMED_OUT,
    _UNAVAILABLE,
    _NETWORK_LOGIN,
) = (200, 400, 401, 403, 407, 408, 503, 511)
_REDIRECTS: Final = range(300, 400)
_SERVER_ERRORS: Final = range(500, 600)
_LONGEST_TITLE: Final = 80
_LONGEST_TARGET: Final = 200
_LOOK_FOR_TITLE_IN: Final = 2**16


class TransportFailed(Unreachable):
    """No usable response. *status* is the label of the reason."""

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status


class Received(NamedTuple):
    """A response.

    Attributes:
        status: the HTTP status.
        body: empty if it could not be read; secrets are masked.
        content_type: the header.
        location: the header.
        hide: masks what may not be shown in *location* and in a page's title, as they are after decoding.
        hide_message: masks what may not be shown in the platform's message.
    """

    status: int
    body: bytes
    content_type: str = ""
    location: str = ""
    hide: Callable[[str], str] = str
    hide_message: Callable[[str], str] = str


@dataclass(frozen=True, slots=True)
class Asked:
    """A request.

    Attributes:
        endpoint: the API's base URL.
        url: what was requested.
        proxy: the proxy's host and port, without credentials; empty for none.
        is_user: whether the token's user was requested.
        is_job: whether a single job was requested.
    """

    endpoint: str
    url: str
    proxy: str = ""
    is_user: bool = False
    is_job: bool = False

    @property
    def host(self) -> str:
        """The API's host."""
        return urlsplit(self.endpoint).hostname or ""


def failure(received: Received, asked: Asked, retry_after: float | None = None) -> Exception:
    """Return the error for a response other than 200; *retry_after* in seconds, if the platform sent it."""
    status, api_error = received.status, decoding.parse_error(received.body, received.hide_message)
    if status in _SERVER_ERRORS or status in {_PROXY_AUTHENTICATION, _TIMED_OUT}:
        return _unavailable(received, asked, api_error, retry_after)
    if status in {_UNAUTHORIZED, _FORBIDDEN}:
        return _refusal(received, asked, api_error)
    if status in _REDIRECTS:
        return BadAnswer(_redirect(received, asked))
    if _is_platforms(api_error):
        return (BadRequest if status == _BAD_REQUEST else BadAnswer)(_answered(status, api_error))
    came = f"{described(received)} with status {status}{_details(api_error)}"
    text = f"got {came}, not the API's response; {_check_endpoint(asked)}"
    return BadRequest(text) if status == _BAD_REQUEST else NotThePlatform(text)


def not_json(received: Received, asked: Asked) -> NotThePlatform | None:
    """Return the error for a 200 response whose body is no JSON object; None if it begins like one."""
    if _beginning(received.body) in {b"{", b"["}:
        return None
    return NotThePlatform(
        f"got {described(received)} with status {received.status}, not the API: a web site, or the login page of"
        f" this network? {_check_endpoint(asked)}"
    )


def described(received: Received) -> str:
    """Return what a body is, in a few words."""
    document = _document(received)
    if document is not None:
        return document
    first = _beginning(received.body)
    if not first:
        return "an empty body"
    return "JSON of another form" if first in {b"{", b"["} else "text instead of JSON"


def proxy_refusal(status: int, reason: str, host: str, proxy: str) -> str:
    """Return what it means that a proxy answered *status* in place of the platform, and what to do."""
    if not proxy:
        return (
            f"got {status} from a proxy, although none is configured; set proxy or HTTPS_PROXY to its URL,"
            " with user and password"
        )
    if status == _PROXY_AUTHENTICATION:
        return f"the proxy {proxy} demands valid credentials (407); write user and password into its URL"
    said = f"{status} {reason}".strip()
    if status == _FORBIDDEN:
        return f"the proxy {proxy} refuses to connect to {host} ({said}); let it allow that host, or set NO_PROXY"
    if status in _SERVER_ERRORS:
        return f"the proxy {proxy} cannot connect to {host} ({said}); check api_endpoint, and the proxy's own network"
    return f"the proxy {proxy} did not connect to {host} ({said}); check the URL of the proxy"


# ---- parts ----


def _details(api_error: ApiError) -> str:
    details = f" {api_error.message!r}" if api_error.message else ""
    return f"{details} (code {api_error.code})" if api_error.code is not None else details


def _is_platforms(api_error: ApiError) -> bool:
    code = api_error.code
    return code is not None and (code >= _LOWEST_CODE or code == _UNDER_MAINTENANCE)


def _answered(status: int, api_error: ApiError) -> str:
    return f"the platform answered {status}{_details(api_error)}"


def _refusal(received: Received, asked: Asked, api_error: ApiError) -> Exception:
    """Return the error for 401 and 403: of the token only if the platform itself refuses it."""
    status, platforms = received.status, _is_platforms(api_error)
    if status == _FORBIDDEN and asked.is_job and platforms:  # of this job only
        return BadAnswer(_answered(status, api_error))
    if platforms or (asked.is_user and _is_about_the_token(received)):
        where = where_token_is(asked.host)
        step = f"; for a new one, see {where}" if where else ""
        return Unauthorized(f"the platform refused the token: {status}{_details(api_error)}{step}")
    return NotThePlatform(
        f"got {described(received)} with status {status}{_details(api_error)}, which says nothing about the token:"
        f" a firewall or proxy in between? let it allow requests to {asked.host}{_through(asked)}",
        doubts_token=True,
    )


def _is_about_the_token(received: Received) -> bool:
    """Whether 401 or 403 for the token's user means the token, by its body, which may be of an undocumented form."""
    if received.status == _UNAUTHORIZED:
        return _document(received) is None
    return _beginning(received.body) == b"{"  # Firewalls send 403 with other bodies.


def _unavailable(received: Received, asked: Asked, api_error: ApiError, retry_after: float | None) -> Exception:
    """Return the error for a platform that is unavailable, or that a proxy or gateway does not reach."""
    status, answered = received.status, _answered(received.status, api_error)
    if status == _UNAVAILABLE and api_error.code == _UNDER_MAINTENANCE:
        return Maintenance("the platform is under maintenance", retry_after or 0.0)
    if status == _UNAVAILABLE and retry_after:
        return Overloaded(f"{answered} and asked for a pause of {retry_after:.0f} s", retry_after)
    document = _document(received)
    if status == _PROXY_AUTHENTICATION:
        answered = proxy_refusal(status, "", asked.host, asked.proxy)
    elif status == _NETWORK_LOGIN:
        answered = f"this network demands a login (511); log in to it, or check proxy{_through(asked)}"
    elif document is not None:
        check = f"check the proxy {asked.proxy}, or" if asked.proxy else "if it lasts,"
        answered = f"{answered} with {document}, as a gateway or proxy does; {check} see the platform's status page"
    return TransportFailed(answered, str(status))


def _redirect(received: Received, asked: Asked) -> str:
    """Return the error for a redirect, with its target but without user, query and fragment of it."""
    text = f"the platform answered {received.status}, a redirect"
    target, host = _target(received.hide(received.location), asked.url)
    if not target:
        return f"{text} without a target, which is not followed; {_check_endpoint(asked)}"
    text = f"{text} to {target}, which is not followed"
    api = api_base(host)
    if api is not None and api != asked.endpoint:
        return f"{text}; should api_endpoint be {api}?"
    if target == asked.url.partition("?")[0].replace("http://", "https://", 1):
        return f"{text}; should api_endpoint be {asked.endpoint.replace('http://', 'https://', 1)}?"
    return f"{text}: a web site, or the login page of this network? {_check_endpoint(asked)}"


def _target(location: str, url: str) -> tuple[str, str]:
    """Return where *location*, relative to *url*, leads, and its host; empty if it is unreadable."""
    try:
        parts = urlsplit(urljoin(url, location.strip()))
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "", ""
    if not location.strip() or not host:
        return "", ""
    shown = f"[{host}]" if ":" in host else host
    target = f"{parts.scheme}://{shown}{'' if port is None else f':{port}'}{parts.path}"
    return printable(target, _LONGEST_TARGET), host


def _check_endpoint(asked: Asked) -> str:
    """Return what to do about a response from a server that is not the API."""
    api = api_base(asked.host)
    if api is not None and not is_api(asked.host):
        return f"should api_endpoint be {api}?"
    return (unusual_path(asked.endpoint) or f"check api_endpoint ({asked.endpoint})") + _through(asked)


def _through(asked: Asked) -> str:
    return f"; the request went through the proxy {asked.proxy}" if asked.proxy else ""


def _document(received: Received) -> str | None:
    """Return what the body is if it is HTML or XML, or is declared as such and unreadable; else None."""
    beginning = _beginning(received.body)
    content_type = received.content_type.partition(";")[0].strip().lower()
    if beginning not in {b"", b"<"}:
        return None
    if beginning == b"<" and received.body.lstrip(_BLANK)[:5].lower() == b"<?xml" and "html" not in content_type:
        return "an XML document"
    if beginning == b"<":
        title = _title(received)
        return f"an HTML page titled {title!r}" if title else "an HTML page"
    return "an HTML page" if "html" in content_type else None


_BLANK: Final = b" \t\r\n\xef\xbb\xbf"
"""White space, and the byte order mark of UTF-8."""


def _beginning(body: bytes) -> bytes:
    return body.lstrip(_BLANK)[:1]


def _title(received: Received) -> str:
    """Return the title of an HTML page; empty if there is none."""
    page = received.body[:_LOOK_FOR_TITLE_IN]
    lower = page.lower()
    start = lower.find(b">", lower.find(b"<title")) + 1 if b"<title" in lower else 0
    end = lower.find(b"</title", start)
    if start == 0 or end < 0:
        return ""
    return printable(received.hide(html.unescape(page[start:end].decode(errors="replace"))), _LONGEST_TITLE)


def printable(text: str, longest: int) -> str:
    """Return *text* on one line, without characters that do not print, cut to *longest* characters."""
    line = "".join(each if each.isprintable() else " " for each in text[: 8 * longest])
    line = " ".join(line.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"

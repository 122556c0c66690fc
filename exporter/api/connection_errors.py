"""Connections that fail, in words: who could not be reached, why, and what to do.

The libraries' own errors name neither the proxy nor the next step, so the cause is looked up in the chain of errors.
"""

import ssl
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

import httpcore

from exporter.api.deadline import NameUnknown, TlsFailed
from exporter.api.failures import printable, proxy_refusal

_LONGEST_REASON: Final = 200
_NO_TLS: Final = {
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "UNKNOWN_PROTOCOL",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
}
"""OpenSSL's reasons for a response that is not TLS, from its versions 1.1 to 3."""
_EXPIRED, _NOT_YET_VALID = 10, 9
_WRONG_NAME: Final = {62, 64}
_UNKNOWN_AUTHORITY: Final = {2, 18, 19, 20, 21}

E = TypeVar("E", bound=BaseException)


class Route(NamedTuple):
    """The way to the platform.

    Attributes:
        endpoint: the API's base URL.
        proxy: the proxy's URL without credentials; empty for none.
        place: where to add a certificate authority.
    """

    endpoint: str
    proxy: str = ""
    place: str = ""

    @property
    def host(self) -> str:
        """The API's host."""
        return urlsplit(self.endpoint).hostname or ""

    @property
    def proxy_address(self) -> str:
        """The proxy's host, and its port if it names one."""
        return urlsplit(self.proxy).netloc

    @property
    def proxy_host(self) -> str:
        """The proxy's host."""
        return urlsplit(self.proxy).hostname or ""

    @property
    def first(self) -> str:
        """What a connection is opened to."""
        return f"the proxy {self.proxy_address}" if self.proxy else urlsplit(self.endpoint).netloc

    @property
    def check(self) -> str:
        """What to check if that cannot be reached."""
        return (
            "check proxy, HTTPS_PROXY and NO_PROXY"
            if self.proxy
            else "check api_endpoint, and whether a proxy is needed"
        )


def connecting(error: Exception, route: Route) -> str:
    """Return why no connection was made."""
    tls = _cause(error, TlsFailed)
    if tls is not None:
        return _tls(error, tls.server, route)
    unknown = _cause(error, NameUnknown)
    if unknown is not None:
        return f"cannot connect to {route.first}: its name cannot be resolved ({unknown.reason}); {route.check}"
    return f"cannot connect to {route.first}: {_reason(error)}; {route.check}"


def tunnelling(error: Exception, route: Route) -> str:
    """Return why the proxy made no connection to the platform."""
    status, _, reason = str(error).partition(" ")
    if not status.isdecimal():
        return f"the proxy {route.proxy_address} failed: {_reason(error)}; check the URL of the proxy"
    return proxy_refusal(int(status), printable(reason, _LONGEST_REASON), route.host, route.proxy_address)


def waiting(error: Exception, route: Route, seconds: float, timeout: float) -> str:
    """Return what took longer than *seconds*, which is *timeout* or what was left of the poll."""
    within = f"within {seconds:.3g} s"
    if seconds < timeout:
        within = f"in the {seconds:.2f} s that were left before the next poll"
    elif _cause(error, httpcore.ConnectTimeout) is not None:
        return f"no connection to {route.first} {within}; {route.check}"
    else:
        within = f"{within}{_through(route)}; if it lasts, see the platform's status page, or raise request_timeout"
        return f"no complete response {within}"
    return f"no complete response {within}{_through(route)}"


def losing(error: Exception, route: Route) -> str:
    """Return how a connection was lost."""
    return f"lost the connection to {route.host}{_through(route)}: {_reason(error)}"


def decompressing(error: Exception, route: Route) -> str:
    """Return that a response is not the gzip that its header promises: the connection itself did not fail."""
    by = "check whether the proxy changes" if route.proxy else "check whether something on the way changes"
    return f"the response of {route.host}{_through(route)} cannot be decompressed: {_reason(error)}; {by} responses"


def _through(route: Route) -> str:
    return f" through the proxy {route.proxy_address}" if route.proxy else ""


def _tls(error: Exception, server: str, route: Route) -> str:
    of_proxy = bool(route.proxy) and server == route.proxy_host and server != route.host
    peer = f"the proxy {route.proxy_address}" if of_proxy else server
    between = "" if of_proxy else _through(route)
    refused = _cause(error, ssl.SSLCertVerificationError)
    if refused is not None:
        return f"cannot connect to {peer}{between}: {_certificate(refused, peer, route.place)}"
    failed = _cause(error, ssl.SSLError)
    if failed is not None and _is_no_tls(failed):
        what = "the proxy's URL with http://" if of_proxy else "the scheme and port of api_endpoint"
        return f"cannot connect to {peer}{between}: its response is not TLS ({failed.reason}); check {what}"
    return f"cannot connect to {peer}{between}: the TLS handshake failed: {_reason(error)}; {route.check}"


def _is_no_tls(error: ssl.SSLError) -> bool:
    return (error.reason or "").upper().replace(" ", "_") in _NO_TLS


def _certificate(error: ssl.SSLCertVerificationError, peer: str, place: str) -> str:
    """Return why a certificate is refused, and what to do, with OpenSSL's words in brackets."""
    said = f"(CERTIFICATE_VERIFY_FAILED: {printable(error.verify_message, _LONGEST_REASON)})"
    if error.verify_code == _EXPIRED:
        return f"its certificate has expired {said}; check this machine's clock, else {peer} needs a new certificate"
    if error.verify_code == _NOT_YET_VALID:
        return f"its certificate is not valid yet {said}; check this machine's clock"
    if error.verify_code in _WRONG_NAME:
        return (
            f"its certificate is for another host name {said}; check api_endpoint, and whether another server,"
            " such as the login page of this network, responds in its place"
        )
    if error.verify_code in _UNKNOWN_AUTHORITY:
        return (
            f"its certificate is signed by an authority that is not trusted here {said}; if a proxy decrypts traffic"
            f" on the way, add its authority {place}"
        )
    return f"its certificate is not accepted {said}"


def _reason(error: Exception) -> str:
    """Return the system's reason in words, else the error's text."""
    system = _cause(error, OSError)
    text = (system.strerror if system is not None else None) or str(error) or type(error).__name__
    return printable(text, _LONGEST_REASON)


def _cause(error: BaseException, kind: type[E]) -> E | None:
    """Return the first error of *kind* in the chain of causes."""
    return next((each for each in _chain(error) if isinstance(each, kind)), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__

"""URLs and addresses: the API's, the proxy's, and the one that the metrics server listens on."""

import ipaddress
import re
import ssl
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from exporter.api.platforms import api_base, is_api
from exporter.config.no_proxy import bypasses_proxy
from exporter.errors import ConfigError
from exporter.permissions import unreadable
from exporter.redaction import Secret, looks_like_token
from exporter.text import NotText, marked_certificates

_HOST: Final = re.compile(r"[a-z0-9_:][a-z0-9._:-]*")
_HIGHEST_PORT: Final = 65535
_ENDS_HOST: Final = frozenset("/?#\\")
_DEFAULT_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}


def parse_endpoint(text: str, where: str, *, allow_plain_http: bool | None) -> tuple[str, str]:
    """The API's base URL in canonical form, and its host; *allow_plain_http* is None where it cannot be set.

    Raises:
        ConfigError: *text* is not such a URL, or would send the token unencrypted.
    """
    wrong = f"{where}: api_endpoint must be a URL, such as https://cgc-api.sbgenomics.com/v2"
    try:
        parts = urlsplit(text.strip())
        port = parts.port
        host = (parts.hostname or "").rstrip(".")
        host = host if ":" in host else host.encode("idna").decode()
    except ValueError:  # UnicodeError is one
        raise ConfigError(wrong) from None
    if parts.scheme not in {"", "http", "https"} and parts.netloc:
        raise ConfigError(f"{where}: api_endpoint must be http or https, such as https://cgc-api.sbgenomics.com/v2")
    if parts.scheme not in {"http", "https"} or not _is_host(host) or not text.strip().isprintable():
        raise ConfigError(wrong)
    if not parts.username and not parts.password:
        _refuse_web_address(host, where)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(f"{where}: api_endpoint must not contain a user, query or fragment")
    if looks_like_token(text):
        raise ConfigError(f"{wrong}; this contains what looks like a token, which belongs in a token file")
    if parts.scheme == "http" and not allow_plain_http and not is_loopback(host):
        where_to_allow = "configure the account in a file and " if allow_plain_http is None else ""
        raise ConfigError(
            f"{where}: api_endpoint is plain http, which sends the token unencrypted; use https,"
            f" or {where_to_allow}set allow_plain_http = true"
        )
    shown = f"[{host}]" if ":" in host else host
    at = f"{shown}:{port}" if port not in {None, _DEFAULT_PORTS[parts.scheme]} else shown
    path = parts.path.rstrip("/") or "/v2"  # users omit /v2, or add a slash
    if is_api(host) and path != "/v2":
        raise ConfigError(
            f"{where}: api_endpoint is more than the API's base URL; should it be {parts.scheme}://{at}/v2?"
        )
    return f"{parts.scheme}://{at}{path}", host


def _refuse_web_address(host: str, where: str) -> None:
    api = api_base(host)
    if api is not None and not is_api(host):
        raise ConfigError(f"{where}: api_endpoint is a web address of the platform, not its API; should it be {api}?")


def _is_host(text: str) -> bool:
    """Whether *text* can be a host: a name, or a complete address if it looks like one."""
    if ":" in text or not text.strip("0123456789."):
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return False
    return _HOST.fullmatch(text) is not None


def check_certificates(file: Path, where: str) -> None:
    """Refuse a file without certificates.

    Raises:
        ConfigError: *file* cannot be read or holds no certificate.
    """
    try:
        if not file.is_file() and file.exists():  # reading a pipe could block permanently
            raise ConfigError(f"{where}: {file} is not a file; expected PEM certificates")
        marked = marked_certificates(file)
        ssl.create_default_context(cafile=None if marked else file, cadata=marked)
    except NotText as error:
        raise ConfigError(f"{where}: no certificate in {file}: {error}") from None
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"{where}: no certificate in {file}; expected PEM certificates") from None
    except OSError as error:
        hint = "; expected a path, but this looks like a token" if looks_like_token(file.name) else ""
        raise ConfigError(f"{where}: cannot read {file}: {unreadable(error, file)}{hint}") from None


def is_loopback(host: str) -> bool:
    """Whether *host* is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_from_environment(environ: Mapping[str, str], url: str) -> Secret | None:
    """The proxy for *url* by ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY``.

    In upper or lower case; lower case wins, as is customary. ``ALL_PROXY`` is not used, because not all programs do.
    ``HTTP_PROXY`` in upper case is ignored where ``REQUEST_METHOD`` is set: in a CGI program, a client sets it by a
    header.

    Raises:
        ConfigError: the variable holds no URL of a proxy.
    """
    upper_first = sorted(name for name in environ if name.lower() in {"http_proxy", "https_proxy", "no_proxy"})
    if "REQUEST_METHOD" in environ and "HTTP_PROXY" in upper_first:
        upper_first.remove("HTTP_PROXY")
    set_by = {name.lower().removesuffix("_proxy"): name for name in upper_first}
    parts = urlsplit(url)
    variable = set_by.get(parts.scheme)
    if variable is None or not environ[variable].strip():
        return None
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    if "no" in set_by and bypasses_proxy(environ[set_by["no"]], parts.hostname or "", port):
        return None
    return parse_proxy(Secret(environ[variable], masked=False), variable)


def parse_proxy(given: Secret, where: str) -> Secret:
    """A proxy's URL with its credentials; http if it has no scheme.

    Raises:
        ConfigError: *given* is not such a URL; the text is not repeated.
    """
    if given.judged_by(_has_raw_credentials):
        raise ConfigError(
            f"{where}: percent-encode special characters in the proxy's user name and password, for example # as %23,"
            " / as %2F, ? as %3F and @ as %40"
        )
    url = given.judged_by(_proxy_url)
    if url is None:
        raise ConfigError(f"{where}: expected a proxy URL, such as http://proxy.example.org:3128")
    return url


def has_password(proxy: Secret) -> bool:
    """Whether the URL of a *proxy* contains a password."""
    return proxy.judged_by(lambda text: ":" in text.rpartition("://")[2].rpartition("@")[0])


def _has_raw_credentials(text: str) -> bool:
    """Whether user name or password of a proxy's URL contain what ends the host's part of a URL."""
    credentials, at, _ = text.partition("://")[2].rpartition("@") if "://" in text else text.rpartition("@")
    return bool(at) and not _ENDS_HOST.isdisjoint(credentials)


def _proxy_url(text: str) -> Secret | None:
    url = text.strip() if "://" in text else f"http://{text.strip()}"
    try:
        parts = urlsplit(url)
        right = parts.scheme in {"http", "https"} and _is_host(parts.hostname or "") and parts.port != 0
    except ValueError:
        return None
    if not right or not url.isprintable() or looks_like_token(parts.netloc.rpartition("@")[2]):
        return None
    if parts.password:
        # From now on these are masked as well, alone and as they are sent.
        user, password = unquote(parts.username or ""), unquote(parts.password)
        for each in (parts.password, password, b64encode(f"{user}:{password}".encode()).decode()):
            Secret(each)
    return Secret(url, masked=False)  # without credentials it is none, and errors name the proxy


def parse_listen_address(text: str) -> tuple[str | None, int]:
    """Host (None: all addresses) and port of ``host:port``, ``[::1]:10037`` or ``:10037``.

    Raises:
        ValueError: *text* is none of these.
    """
    host, colon, port = text.rpartition(":")
    if _is_ipv6(text) and not _is_ipv6(host):
        raise ValueError(f"IPv6 addresses need brackets and a port; write [{text}]:10037")
    if not colon or not port.isdecimal() or len(port) > len(str(_HIGHEST_PORT)) or int(port) > _HIGHEST_PORT:
        raise ValueError("expected host:port, [::1]:10037 or :10037")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"IPv6 addresses need brackets; write [{host}]:{port}")
    return host or None, int(port)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True

"""Reads ``web_config_file``: TLS, client certificates, users and headers of the metrics server.

Its format is that of Prometheus' exporter-toolkit, so that one file serves all exporters of a machine. A key is
honoured, or accepted with a warning if ignoring it makes nothing less secure, or rejected. Values are never repeated in
messages, because they may be secrets.
"""

import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from exporter.config.certificates import load_client_authorities, load_key_pair
from exporter.config.web_file import HttpSection, RateLimitSection, TlsSection, WebFile, read_web_file
from exporter.errors import ConfigError, Problems
from exporter.permissions import unreadable
from exporter.text import open_without_waiting

_LARGEST_PEM: Final = 16 * 1024 * 1024
_SLOW_COST: Final = 14
"""From this bcrypt cost on, checking a password takes about a second or more."""
_COSTS: Final = range(4, 32)
_VERIFYING: Final = frozenset({"VerifyClientCertIfGiven", "RequireAndVerifyClientCert"})

_NO_EFFECT: Final[Mapping[str, str]] = {
    "http_server_config.http2": "the server speaks HTTP/1.1 only",
    "tls_server_config.curve_preferences": "OpenSSL's preferences apply",
    "tls_server_config.prefer_server_cipher_suites": "the server's preferences apply",
}
"""Keys that are accepted with a warning, and why ignoring them does no harm."""

_CIPHERS: Final[Mapping[str, str]] = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
}
"""Cipher suites of TLS 1.2 by their names in Go, and OpenSSL's names."""
_TLS13_CIPHERS: Final = frozenset({"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"})
"""Those of TLS 1.3 cannot be chosen, in Go neither."""

_HEADERS: Final[Mapping[str, tuple[str, ...]]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
"""The headers that may be set, and their allowed values; none: any text."""

_BCRYPT: Final = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most ``burst`` requests at once, and one more every ``interval`` seconds."""

    interval: float
    burst: int


Versions = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True, slots=True)
class WebConfig:
    """How the metrics server encrypts, and whom it lets in. Without a file: plain HTTP, everyone.

    Attributes:
        tls: the server's side of TLS; None for plain HTTP.
        certificate_required: whether requests other than health checks need a verified client certificate.
        allowed_sans: if not empty, subject alternative names of which a client's certificate must have one.
        users: user name to bcrypt hash; empty: no authentication.
        headers: sent with every response that does not set them itself.
        warnings: what works but should be changed, one line each.
        files: every file that it was read from.
        versions: what :func:`file_versions` said of them just before they were read.
    """

    tls: ssl.SSLContext | None = None
    certificate_required: bool = False
    allowed_sans: frozenset[str] = frozenset()
    users: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    rate_limit: RateLimit | None = None
    warnings: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    versions: Versions = ()

    @property
    def scheme(self) -> str:
        """The scheme of the server's URL."""
        return "https" if self.tls is not None else "http"

    @property
    def authentication(self) -> str:
        """What a client needs, for the log."""
        needed = ("client certificate",) * self.certificate_required + ("password",) * bool(self.users)
        return " and ".join(needed) or "none"


PLAIN: Final = WebConfig()
"""Without a file: plain HTTP, for everyone."""


def load_web_config(file: Path) -> WebConfig:
    """The contents of *file*; paths in it are relative to its folder.

    Raises:
        ConfigError: with a line for every problem.
    """
    versions = file_versions((file,))
    given = read_web_file(file)
    problems = Problems(f"{file}: {problem}" for problem in _contradictions(given))
    client, tls = given.tls_server_config or TlsSection(), None
    named = tuple(file.parent / name for name in (client.cert_file, client.key_file, client.client_ca_file) if name)
    versions += file_versions(named)
    if given.tls_server_config is not None and not problems:
        with problems.collected():
            tls = _context(client, file)
    if problems:
        raise ConfigError(*problems)
    headers, limit = given.http_server_config.headers, given.rate_limit
    return WebConfig(
        tls,
        client.client_auth_type == "RequireAndVerifyClientCert",
        frozenset(map(canonical_san, client.client_allowed_sans)),
        {name.encode(): digest.encode() for name, digest in given.basic_auth_users.items()},
        tuple((name.lower().encode(), value.encode()) for name, value in headers.items() if value),
        RateLimit(limit.interval, limit.burst) if limit.interval else None,
        tuple(f"{file}: {warning}" for warning in _warnings(given)),
        (file, *named),
        versions,
    )


def file_versions(files: Iterable[Path]) -> Versions:
    """Differs when one of *files* has changed. Kubernetes replaces them by renaming a folder."""

    def version(file: Path) -> tuple[int, ...] | None:
        try:
            status = file.stat()
        except (OSError, ValueError):
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev

    return tuple(map(version, files))


def canonical_san(name: str) -> str:
    """A subject alternative name in the form in which two of them are compared: addresses may be written in several."""
    try:
        return str(ip_address(name.strip()))
    except ValueError:
        return name


# ---- what the values mean ----


def _warnings(given: WebFile) -> Iterator[str]:
    for key, reason in _NO_EFFECT.items():
        section = getattr(given, key.partition(".")[0])
        if section is not None and key.rpartition(".")[2] in section.model_fields_set:
            yield f"{key} has no effect: {reason}"
    if given.tls_server_config is not None:
        yield from _tls_warnings(given.tls_server_config)
    elif given.basic_auth_users:
        yield "basic_auth_users without tls_server_config: passwords are sent unencrypted; add a certificate"
    cost = max((_bcrypt_cost(digest) or 0 for digest in given.basic_auth_users.values()), default=0)
    if cost >= _SLOW_COST:
        yield f"basic_auth_users: a bcrypt cost of {cost} delays the first scrape; 10 is usual"


def _tls_warnings(tls: TlsSection) -> Iterator[str]:
    if tls.min_version in {"TLS10", "TLS11"}:
        yield "tls_server_config.min_version: TLS 1.2 is the oldest version that is accepted"
    if tls.client_auth_type == "RequestClientCert":
        yield "tls_server_config.client_auth_type: RequestClientCert verifies nothing, so no certificate is requested"
    if tls.client_auth_type in _VERIFYING and not (tls.client_ca or tls.client_ca_file):
        yield "tls_server_config: without client_ca_file, all of the system's certificate authorities are trusted"


def _contradictions(given: WebFile) -> Iterator[str]:
    """What cannot be honoured, or excludes each other, one line each."""
    if given.tls_server_config is not None:
        section = "tls_server_config"
        yield from (f"{section}.{each}" for each in _certificate_problems(given.tls_server_config))
        yield from (f"{section}.{each}" for each in _client_problems(given.tls_server_config))
        yield from (f"{section}.{each}" for each in _version_problems(given.tls_server_config))
    yield from _user_problems(given.basic_auth_users)
    yield from _header_problems(given.http_server_config)
    yield from _rate_problems(given.rate_limit)


def _certificate_problems(tls: TlsSection) -> Iterator[str]:
    for key in ("cert", "key", "client_ca"):
        if getattr(tls, key) and getattr(tls, f"{key}_file"):
            yield f"{key}: set either {key} or {key}_file"
    if not (tls.cert or tls.cert_file):
        yield "cert_file: missing; set the server's certificate"
    if not (tls.key or tls.key_file):
        yield "key_file: missing; set the private key of the certificate"


def _client_problems(tls: TlsSection) -> Iterator[str]:
    kind = tls.client_auth_type
    if kind in {"RequireAnyClientCert", "RequireClientCert"}:
        yield (
            f"client_auth_type: {kind} accepts certificates that no authority has verified, which is not supported;"
            " use RequireAndVerifyClientCert with client_ca_file"
        )
        return
    if kind == "NoClientCert" and (tls.client_ca or tls.client_ca_file):
        yield "client_ca_file: set client_auth_type to RequireAndVerifyClientCert, or remove client_ca_file"
    if tls.client_allowed_sans and kind != "RequireAndVerifyClientCert":
        yield "client_allowed_sans: set client_auth_type to RequireAndVerifyClientCert, or remove it"


def _version_problems(tls: TlsSection) -> Iterator[str]:
    if tls.max_version in {"TLS10", "TLS11"}:
        yield "max_version: must be TLS12 or TLS13"
    elif tls.max_version < tls.min_version:
        yield "max_version: older than min_version"
    for number, name in enumerate(tls.cipher_suites, 1):
        if name not in _CIPHERS and name not in _TLS13_CIPHERS:
            yield (
                f"cipher_suites.#{number}: unknown or not supported; expected one of Go's names, such as"
                " TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
            )
    if tls.cipher_suites and tls.max_version == "TLS12" and not set(tls.cipher_suites) & _CIPHERS.keys():
        yield "cipher_suites: none of them belongs to TLS 1.2; set max_version to TLS13"


def _user_problems(users: Mapping[str, str]) -> Iterator[str]:
    for number, (name, digest) in enumerate(users.items(), 1):
        if ":" in name:
            yield f"basic_auth_users.#{number}: a user name cannot contain a colon"
        if _bcrypt_cost(digest) is None:
            yield f"basic_auth_users.#{number}: expected a bcrypt hash, as `htpasswd -nBC 10 USER` prints it"


def _bcrypt_cost(digest: str) -> int | None:
    match = _BCRYPT.fullmatch(digest)
    return int(match[1]) if match and int(match[1]) in _COSTS else None


def _header_problems(http: HttpSection) -> Iterator[str]:
    section = "http_server_config.headers"
    for name, value in http.headers.items():
        if name not in _HEADERS:
            yield f"{section}: unknown header; known are {', '.join(_HEADERS)}"
        elif value and _HEADERS[name] and value not in _HEADERS[name]:
            yield f"{section}.{name}: expected {' or '.join(_HEADERS[name])}"
        elif value and not (value.isascii() and value.isprintable()):
            yield f"{section}.{name}: expected one line of printable ASCII"


def _rate_problems(limit: RateLimitSection) -> Iterator[str]:
    if limit.interval and limit.burst < 1:
        yield "rate_limit.burst: must be at least 1, or every request is refused"


# ---- certificates and keys ----


def _context(tls: TlsSection, file: Path) -> ssl.SSLContext:
    """The server's TLS context.

    Raises:
        ConfigError: a certificate or key cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    ciphers = [_CIPHERS[name] for name in tls.cipher_suites if name in _CIPHERS]
    only_13 = tls.min_version == "TLS13" or (tls.cipher_suites and not ciphers)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if only_13 else ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2 if tls.max_version == "TLS12" else ssl.TLSVersion.TLSv1_3
    problems, section = Problems(), f"{file}: tls_server_config"
    with problems.collected():
        if ciphers:
            _set_ciphers(context, ciphers, section)
    with problems.collected():
        certificate = _pem(tls.cert, tls.cert_file, file, f"{section}.cert_file")
        load_key_pair(context, certificate, _pem(tls.key, tls.key_file, file, f"{section}.key_file"), section)
    with problems.collected():
        authorities = _pem(tls.client_ca, tls.client_ca_file, file, f"{section}.client_ca_file")
        if tls.client_auth_type in _VERIFYING:
            load_client_authorities(context, authorities, f"{section}.client_ca_file")
    if problems:
        raise ConfigError(*problems)
    return context


def _set_ciphers(context: ssl.SSLContext, ciphers: list[str], section: str) -> None:
    try:
        context.set_ciphers(":".join(ciphers))
    except ssl.SSLError:
        raise ConfigError(f"{section}.cipher_suites: this machine's OpenSSL has none of them") from None


def _pem(inline: str, path: str, file: Path, where: str) -> bytes:
    """The text of a certificate or key."""
    if not path:
        return inline.encode()
    try:
        with open(found := file.parent / path, "rb", opener=open_without_waiting) as opened:
            pem = opened.read(_LARGEST_PEM + 1)
    except (OSError, ValueError) as error:
        relative = f" (paths are relative to {file.parent})"
        reason = f"not a path{relative}"
        if isinstance(error, OSError):
            reason = unreadable(error, found, f"{error.strerror}{relative}")
        raise ConfigError(f"{where}: cannot read it: {reason}") from None
    if len(pem) > _LARGEST_PEM:
        raise ConfigError(f"{where}: larger than {_LARGEST_PEM // 2**20} MiB; expected a PEM file")
    return pem

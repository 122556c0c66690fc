"""Build the HTTP transport of an account: TLS, proxy, one connection with a deadline per request."""

import errno
import hashlib
import os
import ssl
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpcore
import httpx

from exporter.api.deadline import Deadline, DeadlineBackend
from exporter.errors import ConfigError
from exporter.permissions import unreadable
from exporter.redaction import Secret
from exporter.text import NotText, marked_certificates

_PATHS: Final = ssl.get_default_verify_paths()
_SYSTEM_FOLDER: Final = _PATHS.openssl_capath
SYSTEM_BUNDLES: Final = (
    _PATHS.openssl_cafile,
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/pki/tls/certs/ca-bundle.crt",  # older Fedora and RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # BSD, macOS, Alpine
)
"""Where systems keep the certificates that they trust, in one file. OpenSSL itself knows only the first of these."""


@dataclass(frozen=True, slots=True)
class CertificateSource:
    """Where trusted certificates are read from. Without both, from the bundle that httpx brings.

    Attributes:
        file: in PEM format.
        folder: with one certificate per file, named by hashes; OpenSSL looks into it at each connection.
        name: for errors.
        place: where to add an authority, for errors.
    """

    file: str | None
    folder: str | None
    name: str
    place: str


def certificate_source(
    ca_file: str | None, environ: Mapping[str, str], system_bundles: Sequence[str] = SYSTEM_BUNDLES
) -> CertificateSource:
    """Return *ca_file*; else what ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` name; else the system's certificates.

    If the system has none, as in a small container image, those that come with the installation are used.
    """
    if ca_file:
        return CertificateSource(ca_file, None, ca_file, f"to {ca_file}")
    file, folder = environ.get("SSL_CERT_FILE") or None, environ.get("SSL_CERT_DIR") or None
    if file or folder:
        name = "SSL_CERT_FILE" if file else "SSL_CERT_DIR"
        return CertificateSource(file, folder, name, f"to {file or folder}, which {name} names")
    file = next(filter(_is_filled, system_bundles), None)
    if file is None:
        return CertificateSource(None, None, "the certificates that httpx brings", "by ca_file or SSL_CERT_FILE")
    return CertificateSource(file, _SYSTEM_FOLDER, file, "to the system's store or by ca_file")


def _is_filled(bundle: str) -> bool:
    try:
        found = Path(bundle).stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size > 0 and os.access(bundle, os.R_OK)


def tls_context(source: CertificateSource) -> ssl.SSLContext:
    """Load the trusted certificates.

    Raises:
        ConfigError: the file cannot be read or holds no certificate.
    """
    try:
        if source.file is None and source.folder is None:
            return httpx.create_ssl_context(trust_env=False)
        if source.file:
            _require_regular(Path(source.file))
        marked = marked_certificates(Path(source.file)) if source.file else None
        return ssl.create_default_context(cafile=None if marked else source.file, capath=source.folder, cadata=marked)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError; a ValueError for a path with a null byte
        raise ConfigError(_unusable(source, error)) from error


def _unusable(source: CertificateSource, error: OSError | ValueError) -> str:
    """Why *source* cannot be used, in the words of ``check``."""
    path = source.file or source.folder or source.name
    where = "" if path == source.name else f"{source.name}: "
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        return f"{where}cannot read {path}: {unreadable(error, Path(path))}"
    reason = f": {error}" if isinstance(error, NotText) else "; expected PEM certificates"
    return f"{where}no certificate in {path}{reason}"


@dataclass(frozen=True, slots=True)
class CertificatesReloaded:
    """The file changed, and new connections trust what is in it now."""

    file: str


@dataclass(frozen=True, slots=True)
class CertificatesKept:
    """The file changed into something unusable; what was in it before is still trusted."""

    file: str
    problem: str


class TrustedCertificates:
    """The certificate authorities to trust, loaded again when their file changes. Safe to share between threads.

    See :func:`certificate_source` for where they are. The file is compared by its content: its times and size may stay
    the same, and Kubernetes replaces a link above it. OpenSSL itself looks into a folder at each connection.
    """

    def __init__(
        self,
        ca_file: str | None,
        report: Callable[[CertificatesReloaded | CertificatesKept], None] = lambda _event: None,
    ) -> None:
        """Load nothing yet; *report* receives each change."""
        self._ca_file = ca_file
        self._report = report
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._loaded = ""
        self._refused = ""

    @property
    def place(self) -> str:
        """Where to add an authority, for errors."""
        return certificate_source(self._ca_file, os.environ).place

    def context(self) -> ssl.SSLContext:
        """Return the context for new connections: another one after a change.

        Raises:
            ConfigError: there is none yet, because the file cannot be read or holds no certificate.
        """
        source = certificate_source(self._ca_file, os.environ)
        with self._lock:
            found = "" if source.file is None else _fingerprint(Path(source.file))
            if self._context is None:
                self._context, self._loaded = tls_context(source), found
            elif found not in {self._loaded, self._refused}:
                self._context = self._reloaded(self._context, source, found)
            return self._context

    def _reloaded(self, before: ssl.SSLContext, source: CertificateSource, found: str) -> ssl.SSLContext:
        file = source.file or ""
        try:
            context = tls_context(source)
        except ConfigError as error:
            self._refused = found
            self._report(CertificatesKept(file, str(error)))
            return before
        self._loaded, self._refused = found, found
        self._report(CertificatesReloaded(file))
        return context


def _fingerprint(file: Path) -> str:
    """Return the hash of the file's content, or why it cannot be read."""
    try:
        _require_regular(file)
        with file.open("rb") as opened:
            return hashlib.sha256(opened.read(_LARGEST_FILE)).hexdigest()
    except (OSError, ValueError) as error:
        return str(error)


def _require_regular(file: Path) -> None:
    if not stat.S_ISREG(file.stat().st_mode):  # reading a pipe could block permanently
        raise OSError(errno.EINVAL, "not a regular file")


_LARGEST_FILE: Final = 64 * 1024 * 1024


def transport_to(deadline: Deadline, tls: TrustedCertificates | None, proxy: Secret | None) -> "Transport":
    """Build a transport with one keep-alive connection, through *proxy* (a URL that may hold credentials) if set."""
    backend = DeadlineBackend(deadline)

    def pool(context: ssl.SSLContext | None) -> httpcore.ConnectionPool:
        if proxy is None:
            return httpcore.ConnectionPool(ssl_context=context, max_connections=1, network_backend=backend)
        url = httpx.Proxy(proxy.reveal())
        return httpcore.HTTPProxy(
            proxy_url=httpcore.URL(scheme=url.url.raw_scheme, host=url.url.raw_host, port=url.url.port, target="/"),
            proxy_auth=url.raw_auth,
            ssl_context=context,
            proxy_ssl_context=context if url.url.scheme == "https" else None,
            max_connections=1,
            network_backend=backend,
        )

    return Transport(pool, tls, "" if proxy is None else proxy.judged_by(without_credentials))


def without_credentials(proxy: str) -> str:
    """Return the URL of *proxy*, as it may be shown."""
    parts = urlsplit(proxy)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


class Transport(httpx.HTTPTransport):
    """httpx's own transport over our own pool: its constructor has no argument for the network backend."""

    def __init__(
        self,
        pool: Callable[[ssl.SSLContext | None], httpcore.ConnectionPool],
        tls: TrustedCertificates | None,
        proxy: str = "",
    ) -> None:
        """Open connections by *pool*, which is called again when the trusted certificates have changed."""
        self.proxy = proxy
        """The proxy's URL without credentials; empty for none."""
        self._new_pool = pool
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._prepared = False

    @property
    def place_of_certificates(self) -> str:
        """Where to add a certificate authority, for errors; empty without TLS."""
        return "" if self._tls is None else self._tls.place

    def prepare(self) -> None:
        """Use the certificates that are in their file now.

        Raises:
            ConfigError: there are none, and never were.
        """
        context = None if self._tls is None else self._tls.context()
        if not self._prepared or context is not self._context:
            self.close()
            self._context, self._pool, self._prepared = context, self._new_pool(context), True

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, over the open connection if there is one."""
        if not self._prepared:
            self.prepare()
        try:
            return super().handle_request(request)
        except Exception:
            self.close()  # httpcore keeps a connection whose handshake through a proxy failed, and waits for it.
            raise

    def close(self) -> None:
        """Close the connection, if one is open."""
        if self._prepared:
            self._pool.close()

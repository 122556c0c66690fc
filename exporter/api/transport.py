"""Build the HTTP transport of an account: TLS, proxy, one connection with a deadline per request."""

import ssl

import httpcore
import httpx

from exporter.api.deadline import Deadline, DeadlineBackend
from exporter.errors import ConfigError


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Load the trusted certificates: *ca_file*, else ``SSL_CERT_FILE``, else the bundle that httpx brings.

    Raises:
        ConfigError: the file cannot be read or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca_file) if ca_file else httpx.create_ssl_context()
    except OSError as error:  # ssl.SSLError is a subclass.
        source = ca_file or "SSL_CERT_FILE or SSL_CERT_DIR"
        raise ConfigError(f"{source}: expected certificates in PEM format: {error.strerror or error}") from error


def transport_to(deadline: Deadline, tls: ssl.SSLContext | None, proxy: str | None) -> httpx.BaseTransport:
    """Build a transport with one keep-alive connection, through *proxy* (a URL that may hold credentials) if set."""
    backend = DeadlineBackend(deadline)
    if proxy is None:
        pool = httpcore.ConnectionPool(ssl_context=tls, max_connections=1, network_backend=backend)
    else:
        url = httpx.Proxy(proxy)
        pool = httpcore.HTTPProxy(
            proxy_url=httpcore.URL(scheme=url.url.raw_scheme, host=url.url.raw_host, port=url.url.port, target="/"),
            proxy_auth=url.raw_auth,
            ssl_context=tls,
            proxy_ssl_context=tls if url.url.scheme == "https" else None,
            max_connections=1,
            network_backend=backend,
        )
    return _Transport(pool)


class _Transport(httpx.HTTPTransport):
    """httpx's own transport over a given pool: its constructor has no argument for the network backend."""

    def __init__(self, pool: httpcore.ConnectionPool) -> None:
        self._pool = pool

"""Certificates, keys and authorities of the metrics server, checked while they are loaded.

They come as text, because a web configuration file may contain them. OpenSSL reads keys from files only, so each is
lent to it as a file that exists in memory.
"""

import os
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from exporter.errors import ConfigError


def load_key_pair(context: ssl.SSLContext, certificate: bytes, key: bytes, where: str) -> None:
    """Give *context* the server's certificate, its chain and its private key, all PEM.

    Raises:
        ConfigError: they cannot be used, or do not belong together.
    """
    if b"-----BEGIN CERTIFICATE-----" not in certificate:
        raise ConfigError(f"{where}.cert_file: no certificate in it; expected PEM")
    if b"PRIVATE KEY-----" not in key:
        raise ConfigError(f"{where}.key_file: no private key in it; expected PEM")
    try:
        with _as_file(certificate) as certificate_path, _as_file(key) as key_path:
            context.load_cert_chain(certificate_path, key_path, _no_password)
    except _EncryptedKey:
        raise ConfigError(f"{where}.key_file: encrypted; expected a private key without a passphrase") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{where}.key_file: does not belong to the certificate in cert_file") from None
        reason = (error.reason or "unreadable").replace("_", " ").lower()
        raise ConfigError(f"{where}: certificate or key cannot be used: {reason}") from None
    except OSError as error:  # no /proc, no memory
        raise ConfigError(f"{where}: certificate or key cannot be loaded: {error.strerror}") from None


def load_client_authorities(context: ssl.SSLContext, authorities: bytes, where: str) -> None:
    """Let *context* ask for client certificates that *authorities* (PEM) issued; empty: the system's authorities.

    The handshake succeeds without a certificate: the server requires it where it is needed.

    Raises:
        ConfigError: there is no certificate in it.
    """
    context.verify_mode = ssl.CERT_OPTIONAL
    # As in Go, a trusted certificate need not be a root.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    if not authorities:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        return
    try:
        context.load_verify_locations(cadata=authorities.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"{where}: no certificate in it; expected PEM") from None


class _EncryptedKey(Exception):
    """OpenSSL asks for a passphrase."""


def _no_password() -> NoReturn:
    raise _EncryptedKey


@contextmanager
def _as_file(text: bytes) -> Iterator[str]:
    """The path of a file with *text*, which only this user can read and which is gone afterwards."""
    if sys.platform == "linux":  # in memory, because a container may have no folder to write to
        descriptor = os.memfd_create("pem")
        try:
            os.write(descriptor, text)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.TemporaryDirectory() as folder:
            (path := Path(folder) / "pem").touch(0o600)
            path.write_bytes(text)
            yield str(path)

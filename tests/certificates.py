"""Certificates for tests, made with openssl. Nobody trusts them by default."""

import ssl
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from tests.tools import tool

_EC: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Certificate(NamedTuple):
    """The files of a certificate and of its key."""

    cert: Path
    key: Path

    def server(self) -> ssl.SSLContext:
        """Return the context of a server that shows the certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self)
        return context


def new_certificate(folder: Path) -> Certificate:
    """Make a self-signed certificate for localhost."""
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    _openssl("req", "-x509", *_EC, "-keyout", str(made.key), "-out", str(made.cert), "-days", "2", *names)
    return made


class Authority:
    """A certificate authority in a folder of its own."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        """Make its key and certificate."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.certificate = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        made = ("-keyout", str(self._key), "-out", str(self.certificate))
        _openssl("req", "-x509", *_EC, *made, "-days", "2", "-subj", f"/CN={name}")

    def issue(
        self, name: str, *, sans: str = "DNS:localhost,IP:127.0.0.1,IP:::1", usage: str = "serverAuth"
    ) -> Certificate:
        """Issue a certificate with these subject alternative names."""
        issued = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={sans}\nextendedKeyUsage={usage}\nbasicConstraints=CA:FALSE\n")
        _openssl("req", "-new", *_EC, "-keyout", str(issued.key), "-out", str(request), "-subj", f"/CN={name}")
        by = ("-CA", str(self.certificate), "-CAkey", str(self._key), "-CAcreateserial", "-days", "2")
        _openssl("x509", "-req", "-in", str(request), *by, "-extfile", str(extensions), "-out", str(issued.cert))
        return issued


def encrypt_key(key: Path) -> None:
    """Protect a private key with a passphrase, in place."""
    _openssl("ec", "-in", str(key), "-aes256", "-passout", "pass:passphrase", "-out", str(key))


def _openssl(*arguments: str) -> None:
    subprocess.run([tool("openssl"), *arguments], check=True, capture_output=True, timeout=60)

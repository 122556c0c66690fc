"""Certificates for localhost that nobody trusts by default."""

import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.tools import tool


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
    """Make a self-signed certificate for localhost with openssl."""
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(made.key)]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [tool("openssl"), "req", "-x509", *curve, "-out", str(made.cert), "-days", "2", *names],
        check=True,
        capture_output=True,
    )
    return made

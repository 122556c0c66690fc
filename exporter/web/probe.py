"""Asks the exporter on this machine whether it is healthy: the health check of the container image.

``python -m exporter.web.probe`` exits with 0 if it is, over HTTP or HTTPS. Kubernetes uses its own probes.
"""

import http.client
import ssl
import sys
from typing import Final

PORT: Final = 10037
"""Where it listens by default."""
_SECONDS: Final = 2.0


def healthy(port: int = PORT) -> bool:
    """Whether an exporter listens on *port* of this machine, and says that it is healthy."""
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # this is the same machine, and nothing secret is sent
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    for connection in (
        http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS),
        http.client.HTTPSConnection("127.0.0.1", port, timeout=_SECONDS, context=unverified),
    ):
        try:
            connection.request("GET", "/-/healthy")
            if connection.getresponse().status == http.client.OK:
                return True
        except (OSError, http.client.HTTPException):
            pass  # the other scheme, or none
        finally:
            connection.close()
    return False


if __name__ == "__main__":
    sys.exit(0 if healthy() else 1)

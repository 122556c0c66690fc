"""An HTTP proxy in a process of its own: tunnels every CONNECT to one port, or refuses it.

With a certificate it decrypts the traffic, as the proxies of some companies do. So a client can be given the platforms'
real host names, and no request leaves this machine.
"""

import argparse
import base64
import contextlib
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from tests.certificates import Certificate

_REPOSITORY: Final = Path(__file__).parents[1]
_LARGEST_HEAD: Final = 65536


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy.

    Attributes:
        address: its host and port.
        targets: what clients wanted to connect to, in order of arrival.
    """

    address: str
    targets: list[str] = field(default_factory=list)


@contextmanager
def proxying(
    port: int, certificate: Certificate | None = None, *, credentials: str = "", refusal: str = ""
) -> Iterator[Proxy]:
    """Run a proxy to *port* of 127.0.0.1.

    Args:
        port: where every tunnel leads.
        certificate: decrypt the traffic, and show this.
        credentials: user and password that it demands.
        refusal: status and reason with which it refuses every tunnel, such as ``403 Forbidden``.
    """
    options = ["--port", str(port), "--credentials", credentials, "--refusal", refusal]
    options += [] if certificate is None else ["--certificate", str(certificate.cert), "--key", str(certificate.key)]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.proxy", *options], stdout=subprocess.PIPE, text=True, cwd=_REPOSITORY
    ) as process:
        assert process.stdout is not None
        proxy = Proxy(process.stdout.readline().strip())
        reader = threading.Thread(target=_collect, args=(process.stdout, proxy.targets))
        reader.start()
        try:
            yield proxy
        finally:
            process.kill()
            reader.join()


def _collect(lines: IO[str], targets: list[str]) -> None:
    targets.extend(line.strip() for line in lines)


def _main() -> None:
    parser = argparse.ArgumentParser()
    for option in ("port", "credentials", "refusal", "certificate", "key"):
        parser.add_argument(f"--{option}", default="")
    options = parser.parse_args()
    tls = Certificate(Path(options.certificate), Path(options.key)).server() if options.certificate else None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _say("{}:{}".format(*listener.getsockname()))
        while True:
            client = listener.accept()[0]
            threading.Thread(target=_serve, args=(client, options, tls), daemon=True).start()


def _serve(client: socket.socket, options: argparse.Namespace, tls: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError), client:
        head = b""
        while b"\r\n\r\n" not in head and len(head) < _LARGEST_HEAD:
            more = client.recv(1)
            if not more:
                return
            head += more
        _say(head.split(b" ")[1].decode())
        wanted = base64.b64encode(options.credentials.encode())
        if options.credentials and b"proxy-authorization: basic " + wanted.lower() not in head.lower():
            client.sendall(_refused("407 Proxy Authentication Required"))
        elif options.refusal or not head.startswith(b"CONNECT "):
            client.sendall(_refused(options.refusal or "405 Method Not Allowed"))
        else:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            _tunnel(tls.wrap_socket(client, server_side=True) if tls else client, int(options.port))


def _refused(status: str) -> bytes:
    page = b"<html><title>Proxy</title></html>"
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(page)}\r\nConnection: close\r\n\r\n".encode() + page


def _tunnel(client: socket.socket, port: int) -> None:
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        back = threading.Thread(target=_pump, args=(server, client), daemon=True)
        back.start()
        _pump(client, server)
        back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main()

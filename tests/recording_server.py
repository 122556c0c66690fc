"""An HTTP server that records requests and always sends the same response."""

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self


class RecordedRequest(NamedTuple):
    """One recorded request.

    Attributes:
        path: the request target: path and query, a full URL for a proxy, host and port for CONNECT.
        headers: values by lower-case names.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class RecordingServer:
    """Serves on a free port of 127.0.0.1 until the context ends."""

    def __init__(self, status: int = 200, body: Callable[[Mapping[str, str]], str] = lambda _headers: "{}") -> None:
        """Respond with *status* and with *body* called with the request's headers."""
        self.requests: list[RecordedRequest] = []
        """In order of arrival."""
        self.status = status
        """Of further responses."""
        requests, server = self.requests, self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                content = self.rfile.read(int(headers.get("content-length", "0")))
                requests.append(RecordedRequest(self.command, self.path, headers, content))
                answer = body(headers).encode()
                self.send_response(server.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_CONNECT = do_GET  # noqa: N815  # the parent looks them up by the method's name

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the parent's name for it
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.origin = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

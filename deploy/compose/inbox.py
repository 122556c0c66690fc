"""Print one line per alert from Alertmanager's webhooks: ``inbox.py PORT``."""  # noqa: INP001  # a script

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Inbox(BaseHTTPRequestHandler):
    """Accept every POST; the path is the receiver."""

    def do_POST(self) -> None:
        """Print the alerts of one notification."""
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for alert in said["alerts"]:
            labels = {name: value for name, value in alert["labels"].items() if name not in ("alertname", "severity")}
            about = " ".join(f"{name}={value}" for name, value in labels.items())
            summary = alert["annotations"].get("summary", "")
            sys.stdout.write(f"{self.path} {alert['status']} {alert['labels']['alertname']}: {summary} ({about})\n")
        sys.stdout.flush()
        self._done()

    def do_GET(self) -> None:
        """Answer health checks."""
        self._done()

    def _done(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Suppress the request log, so that only alerts are printed."""


if __name__ == "__main__":
    ThreadingHTTPServer(("", int(sys.argv[1])), Inbox).serve_forever()

"""A real Prometheus, a real Alertmanager and whoever is on call, on loopback.

Both are configured by the files of deploy/prometheus, as they stand there but for addresses and intervals: the
expressions, ``for`` and ``repeat_interval`` are those that users run. What was started is stopped, by its process id,
when its context is left.
"""

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import httpx
import yaml

from tests.tools import tool
from tests.waiting import eventually

FOLDER: Final = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES: Final = FOLDER / "sbg-exporter.rules.yml"
_PATIENCE: Final = 30.0

Json = Any
"""What a JSON document says: it is Prometheus' and Alertmanager's, and asserted on as it comes."""


@contextmanager
def reserved_address() -> Iterator[str]:
    """An address on loopback for one server, which may be down for a while and come back, while the context lasts.

    The kernel chooses the port, and gives it to nobody else as long as this socket is bound to it. It does not listen:
    connections are refused until the server does, which it can because both sockets set SO_REUSEADDR.
    """
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reserved.getsockname()[1]}"


# --------------------------------------------------------------------------------------------------------- the programs


class _Program:
    """One of the real programs: a process that says what it has to say into a file, and serves an HTTP API."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._reserved = ExitStack()
        self.address = self._reserved.enter_context(reserved_address())
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(base_url=f"http://{self.address}", trust_env=False, timeout=_PATIENCE)

    def _command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        eventually(self._ready, describe=self.told)

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.told()
        with suppress(httpx.TransportError):
            return self._client.get("/-/ready").status_code == httpx.codes.OK
        return False

    def stop(self) -> None:
        """End it, cleanly if it can; it may be started again on what it has kept."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            self._process = None

    def told(self) -> str:
        """What it has written."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._client.close()
        self._reserved.close()


class Prometheus(_Program):
    """A Prometheus with the example's scrape job and the rules; *target* and *alertmanagers* are addresses.

    *features* are the names of optional features to be switched on beside exemplars. *example* is the configuration of
    deploy/prometheus that it starts from; *files* are put beside it.
    """

    def __init__(
        self,
        folder: Path,
        target: str,
        alertmanagers: Sequence[str] = (),
        features: Sequence[str] = (),
        *,
        example: str = "prometheus.yml",
        files: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(folder)
        self._features = ("exemplar-storage", *features)
        self.data = folder / "data"
        self.config = folder / "prometheus.yml"
        configuration = yaml.safe_load((FOLDER / example).read_text(encoding="utf-8"))
        assert {"scrape_interval", "evaluation_interval"} == set(configuration["global"])
        configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        [job] = configuration["scrape_configs"]
        [static] = job["static_configs"]
        static["targets"] = [target]
        assert configuration["rule_files"] == [RULES.name]
        configuration["rule_files"] = [str(RULES)]
        configuration["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": list(alertmanagers)}]}]
        self.labels: Mapping[str, str] = {"job": job["job_name"], "instance": target}
        """What a scrape adds to every series."""
        self.config.write_text(json.dumps(configuration), encoding="utf-8")  # which is YAML, too
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")

    def _command(self) -> list[str]:
        return [
            tool("prometheus"),
            f"--config.file={self.config}",
            f"--storage.tsdb.path={self.data}",
            f"--web.listen-address={self.address}",
            f"--enable-feature={','.join(self._features)}",
        ]

    def remember(self, samples: Iterable[str]) -> None:
        """Put *samples* (OpenMetrics, with times) into the storage; to be done while it is stopped."""
        text = self.config.with_name("samples.om")
        with text.open("w", encoding="utf-8") as out:
            out.writelines(f"{line}\n" for line in samples)
            out.write("# EOF\n")
        self._promtool("tsdb", "create-blocks-from", "openmetrics", text, self.data)

    def remember_rules(self, start: float, end: float, step: str) -> None:
        """Make of what is stored what the recording rules would have recorded; it is there after the next start."""
        url = f"http://{self.address}"
        times = f"--start={start:.0f}", f"--end={end:.0f}", f"--eval-interval={step}"
        self._promtool(
            "tsdb", "create-blocks-from", "rules", f"--url={url}", *times, f"--output-dir={self.data}", str(RULES)
        )

    def _promtool(self, *arguments: str | Path) -> None:
        self.data.mkdir(exist_ok=True)
        ended = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == 0, ended.stdout + ended.stderr

    # ---- what it answers ----

    def ask(self, path: str, **parameters: str | float) -> Json:
        """The data of an answer of ``/api/v1``."""
        answer = (
            self._client.post(f"/api/v1/{path}", data=parameters) if parameters else self._client.get(f"/api/v1/{path}")
        )
        document = answer.json()
        assert document["status"] == "success", f"{parameters}: {document}"
        return document["data"]

    def query(self, expression: str, at: float | None = None) -> list[Json]:
        """What *expression* has, now or *at* a time."""
        result: list[Json] = self.ask("query", query=expression, time=time.time() if at is None else at)["result"]
        return result

    def query_range(self, expression: str, seconds: float, step: float, ends: float) -> list[Json]:
        """The series that *expression* had in the *seconds* before it *ends*."""
        times = {"start": ends - seconds, "end": ends, "step": step}
        result: list[Json] = self.ask("query_range", query=expression, **times)["result"]
        return result

    def exemplars(self, expression: str, seconds: float = 3600) -> list[Json]:
        """The exemplars of the series of *expression* in the last *seconds*, as (series, exemplar) pairs' parts."""
        now = time.time()
        found = self.ask("query_exemplars", query=expression, start=now - seconds, end=now)
        return [{**each, "series": series["seriesLabels"]} for series in found for each in series["exemplars"]]

    def active_alerts(self) -> list[Json]:
        """The alerts that are pending or firing now."""
        alerts: list[Json] = self.ask("alerts")["alerts"]
        return alerts

    def await_scrape(self) -> None:
        """Return when it has scraped all its targets; after a start it takes five seconds to look for them."""

        def targets() -> list[Json]:
            found: list[Json] = self.ask("targets")["activeTargets"]
            return found

        eventually(lambda: [each["health"] for each in targets()] == ["up"], every=0.1, describe=targets)

    def await_evaluation(self) -> None:
        """Return when every rule has been evaluated anew, and without an error."""
        began = time.time()

        def groups() -> list[Json]:
            found: list[Json] = self.ask("rules")["groups"]
            return found

        def late() -> list[str]:
            return [
                f"{group['name']}/{rule['name']}: {rule['health']} {rule.get('lastError', '')}"
                for group in groups()
                for rule in group["rules"]
                if rule["health"] != "ok"
                or datetime.fromisoformat(_microseconds(rule["lastEvaluation"])).timestamp() < began
            ]

        eventually(lambda: groups() and not late(), every=0.1, describe=late)


def _microseconds(moment: str) -> str:
    """Go's time with as many digits as Python 3.11 reads."""
    seconds, dot, rest = moment.partition(".")
    digits = rest.rstrip("Z").partition("+")[0].partition("-")[0]
    return f"{seconds}{dot}{digits[:6].ljust(6, '0') if dot else ''}{rest[len(digits) :]}".replace("Z", "+00:00")


class Alertmanager(_Program):
    """An Alertmanager with the example's routes and inhibitions, which sends everything to *receiver* (a URL)."""

    def __init__(self, folder: Path, receiver: str) -> None:
        super().__init__(folder)
        self._folder = folder
        configuration = yaml.safe_load((FOLDER / "alertmanager.yml").read_text(encoding="utf-8"))
        _hasten(configuration["route"])
        for each in configuration["receivers"]:
            for webhook in each["webhook_configs"]:
                webhook["url"] = f"{receiver}/{each['name']}"
        self.config = folder / "alertmanager.yml"
        self.config.write_text(json.dumps(configuration), encoding="utf-8")

    def _command(self) -> list[str]:
        return [
            tool("prometheus-alertmanager"),
            f"--config.file={self.config}",
            f"--storage.path={self._folder / 'data'}",
            f"--web.listen-address={self.address}",
            "--cluster.listen-address=",
        ]

    def post(self, *alerts: Mapping[str, Json]) -> None:
        """Tell it of *alerts*, as Prometheus would."""
        assert self._client.post("/api/v2/alerts", json=alerts).status_code == httpx.codes.OK

    def alerts(self) -> list[Json]:
        """The alerts that it knows, with their state."""
        found: list[Json] = self._client.get("/api/v2/alerts").json()
        return found


def _hasten(route: dict[str, Json]) -> None:
    """Let a route and those below it wait no longer than a second; what is not repeated is still not repeated."""
    for name in ("group_wait", "group_interval"):
        if name in route:
            route[name] = "1s"
    for inner in route.get("routes", ()):
        _hasten(inner)


# ------------------------------------------------------------------------------------------------------- who is on call


@dataclass(frozen=True, slots=True)
class Notification:
    """One message of Alertmanager's, as a webhook gets it."""

    receiver: str
    status: str
    alerts: Sequence[Json]


@dataclass
class OnCall:
    """A webhook that keeps what it is sent."""

    url: str
    _received: list[Notification] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, path: str, body: bytes) -> None:
        """Take one message in; the path names the receiver that it was for."""
        message = json.loads(body)
        assert message["receiver"] == path.strip("/")
        assert not message["truncatedAlerts"]
        with self._lock:
            self._received.append(Notification(message["receiver"], message["status"], message["alerts"]))

    @property
    def notifications(self) -> list[Notification]:
        """What has come so far, in its order."""
        with self._lock:
            return list(self._received)

    def told(self, **labels: str) -> list[tuple[str, str]]:
        """Receiver and status of every alert with these labels, in the order in which they were told."""
        return [
            (each.receiver, alert["status"])
            for each in self.notifications
            for alert in each.alerts
            if labels.items() <= alert["labels"].items()
        ]


@contextmanager
def on_call() -> Iterator[OnCall]:
    """A webhook that listens while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.keep(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the parent's name for it
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver = OnCall(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True, slots=True)
class Monitoring:
    """All three, joined."""

    prometheus: Prometheus
    alertmanager: Alertmanager
    on_call: OnCall

    def seen(self) -> str:
        """What is known, for the message of a failed assertion."""
        return json.dumps(
            {
                "notifications": [
                    f"{each.receiver} {each.status} {[alert['labels'] for alert in each.alerts]}"
                    for each in self.on_call.notifications
                ],
                "active": self.prometheus.active_alerts(),
            },
            indent=1,
        )


@contextmanager
def monitoring(folder: Path, exporter: str) -> Iterator[Monitoring]:
    """Prometheus that scrapes *exporter* (an address), Alertmanager, and a webhook, while the context lasts."""
    with ExitStack() as stack:
        receiver = stack.enter_context(on_call())
        alertmanager = stack.enter_context(Alertmanager(folder / "alertmanager", receiver.url))
        prometheus = stack.enter_context(Prometheus(folder / "prometheus", exporter, [alertmanager.address]))
        yield Monitoring(prometheus, alertmanager, receiver)

"""Run the daemon as operators do: as a process, with files and signals as input, logs and HTTP as output.

An :class:`Installation` is a folder with a configuration, token files and a state file. Daemons are started in it one
after another; the end of its context kills those still running. A :class:`Daemon` is one process, a :class:`Scrape` one
page of its metrics.
"""

import json
import math
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from exporter.simulator.jobs import Truth
from exporter.simulator.platform import Request
from exporter.simulator.server import DEMO_TOKEN, RunningSimulator, SimulatorSettings
from tests import leaks, measured, warm
from tests.fast_daemon import fast_now
from tests.fault_table import measure
from tests.waiting import PATIENCE, eventually

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
_REPOSITORY: Final = Path(__file__).parents[1]
_SCRAPE: Final = 0.1
"""Seconds between two scrapes. Parsing one takes additional time."""

ANCHOR: Final = time.time()
"""Time at which all fast clocks of this test process agree with the machine's."""

_NO_AUTHORITIES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients of plain HTTP: to read the machine's certificate authorities takes longer than most requests."""

_SAMPLE: Final = re.compile(r'^([a-zA-Z_:][\w:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})? (\S+)', re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Event = dict[str, object]
Labels = frozenset[tuple[str, str]]


def fast(settings: SimulatorSettings, speed: float) -> SimulatorSettings:
    """Return settings of a platform whose clock agrees with an :class:`Installation` of this speed. Start it now."""
    return replace(settings, speed=speed, start=fast_now(ANCHOR, speed))


# ------------------------------------------------------------------------------------------------------------- a scrape


class Scrape:
    """One metrics page, parsed by Prometheus' own parser."""

    def __init__(self, page: str, *, openmetrics: bool = True) -> None:
        self.page = page
        self.types: dict[str, str] = {}
        self.samples: dict[tuple[str, Labels], float] = {}
        for family in (openmetrics_families if openmetrics else text_families)(page):
            self.types[family.name] = family.type
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self.samples, f"twice on the page: {sample}"
                self.samples[key] = sample.value

    @classmethod
    def glance(cls, page: str) -> Self:
        """Read the samples of *page* without its types, ten times faster: for one look of many while a test waits."""
        seen = cls("# EOF")
        seen.page = page
        for name, labels, value in _SAMPLE.findall(page):
            seen.samples[name, frozenset(_LABEL.findall(labels))] = float(value)
        return seen

    def value(self, name: str, **labels: str) -> float | None:
        """Return the sample with exactly these labels, or None."""
        return self.samples.get((name, frozenset(labels.items())))

    def series(self, name: str, **labels: str) -> dict[Labels, float]:
        """Return all samples of this name that have these labels, with or without others."""
        wanted = labels.items()
        return {
            found: value
            for (sample, found), value in self.samples.items()
            if sample == name and all(label in found for label in wanted)
        }

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of :meth:`series`."""
        return sum(self.series(name, **labels).values())


COUNTED: Final = {
    "sbg_jobs_submitted_total": ("operation",),
    "sbg_jobs_finished_total": ("operation", "outcome"),
    "sbg_files_total": ("operation",),
    "sbg_files_completed_total": ("operation",),
    "sbg_files_failed_total": ("operation",),
    "sbg_file_errors_total": ("operation", "code"),
}
"""Counters for which the simulator has the true value, with their labels after ``account``."""


def counted(scrape: Scrape, account: str) -> Counter[tuple[str, ...]]:
    """Return the exporter's counters of *account*, without zeros."""
    found: Counter[tuple[str, ...]] = Counter()
    for name, labels in COUNTED.items():
        for series, value in scrape.series(name, account=account).items():
            found[name, *(dict(series)[label] for label in labels)] = int(value)
    return +found


def expected(truth: Truth) -> Counter[tuple[str, ...]]:
    """Return the simulator's true counts in the form of :func:`counted`."""
    there: Counter[tuple[str, ...]] = Counter()
    for operation, jobs in truth.jobs.items():
        there["sbg_jobs_submitted_total", operation] = jobs
        for name, files in zip(
            ("sbg_files_total", "sbg_files_completed_total", "sbg_files_failed_total"),
            (truth.files[operation][each] for each in ("total", "completed", "failed")),
            strict=True,
        ):
            there[name, operation] = files
        for outcome, number in truth.finished[operation].items():
            there["sbg_jobs_finished_total", operation, outcome] = number
        for code, number in truth.errors[operation].items():
            there["sbg_file_errors_total", operation, code] = number
    return +there


def difference(scrape: Scrape, account: str, simulator: RunningSimulator, user: str | None = None) -> dict[str, int]:
    """Return the counters of *account* that differ from the true counts, with the difference."""
    since = scrape.value("sbg_exporter_counting_since_timestamp_seconds", account=account)
    if since is None:
        return {"the ledger": -1}
    have = counted(scrape, account)
    want = expected(simulator.platform.truth(user or simulator.platform.users()[0], since))
    found = {" ".join(key): have[key] - want[key] for key in have | want if have[key] != want[key]}
    measure(account, found.values())
    return found


def windows(simulator: RunningSimulator) -> list[list[Request]]:
    """Group the requests by rate limit window. A window begins with the first request after the last one ended."""
    found: list[list[Request]] = []
    ends = 0.0
    for request in simulator.platform.latest_requests():
        if request.at >= ends:
            ends = request.at + simulator.settings.rate_window
            found.append([])
        found[-1].append(request)
    return found


# ---------------------------------------------------------------------------------------------------------- the process


@dataclass(frozen=True, slots=True)
class Account:
    """An ``[[accounts]]`` entry with its token in a file."""

    name: str
    endpoint: str
    token: str = DEMO_TOKEN
    more: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def at(cls, simulator: RunningSimulator, name: str = "sim", token: str = "") -> Self:
        """Return an account of *simulator*'s first user, or of the user with this *token*."""
        return cls(name, simulator.url, token or simulator.settings.token)


class Daemon:
    """A process that runs a Python module. All its output is collected."""

    def __init__(
        self, arguments: list[str], environment: Mapping[str, str], folder: Path, wrapper: Sequence[str] | None = None
    ) -> None:
        """Start it in *folder*: :mod:`warm`, or by *wrapper*, a command that starts another in its own place."""
        self.events: list[Event] = []
        self.lines: list[str] = []
        """Standard error by line. Lines with JSON are also in ``events``."""
        self.stdout = ""
        """Standard output."""
        self._news = threading.Condition()
        self._process: subprocess.Popen[str] | warm.Process
        if wrapper is None:
            self._process = warm.start(arguments, environment, folder)
        else:
            self._process = subprocess.Popen(
                [*wrapper, sys.executable, "-W", "error", "-m", *arguments],
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        self._readers = [threading.Thread(target=read) for read in (self._read_errors, self._read_output)]
        for reader in self._readers:
            reader.start()
        self._client = httpx.Client(
            trust_env=False, verify=_NO_AUTHORITIES, timeout=PATIENCE, headers={"Accept-Encoding": "identity"}
        )
        self._url: str | None = None
        self._arguments = arguments
        if wrapper is not None:
            leaks.check_command_line(self.pid, arguments)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._news:
                self.lines.append(line)
                if line.startswith("{"):
                    self.events.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def _read_output(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.stdout += line
                self._news.notify_all()

    # ---- output ----

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def said(self, event: str, **keys: object) -> list[Event]:
        """Return the events so far with this name and these keys."""
        with self._news:
            return [each for each in self.events if each["event"] == event and keys.items() <= each.items()]

    def await_event(self, *names: str, after: int = 0, within: float = PATIENCE) -> Event | None:
        """Wait for an event with one of these names (default: any), from number *after* on. None: none came."""

        def found() -> Event | None:
            return next((each for each in self.events[after:] if not names or each["event"] in names), None)

        with self._news:
            self._news.wait_for(lambda: found() is not None or not self.alive, within)
            return found()

    def await_output(self, text: str, within: float = PATIENCE) -> str:
        """Wait until standard output contains *text* and return it."""
        with self._news:
            assert self._news.wait_for(lambda: text in self.stdout, within), self.output()
            return self.stdout

    def output(self) -> str:
        """Return all output, for the message of a failed assertion."""
        return "".join(self.lines) + self.stdout

    # ---- HTTP ----

    @property
    def url(self) -> str:
        """URL of its web server. Waits until it listens."""
        if self._url is None:
            started = self.await_event("daemon.started")
            assert started is not None, self.output()
            self._url = f"http://{started['listen']}"
        return self._url

    def get(self, path: str, **headers: str) -> httpx.Response:
        answer = self._client.get(self.url + path, headers=headers)
        leaks.check_text(f"{answer.headers}{answer.text}", f"the response to {path}")
        return answer

    def post(self, path: str, **headers: str) -> httpx.Response:
        return self._client.post(self.url + path, headers=headers)

    def reload(self) -> str:
        """Reload over HTTP and return the response, which has to be a success."""
        answer = self.post("/-/reload")
        assert answer.status_code == 200, answer.text
        return answer.text

    def await_ready(self) -> Self:
        """Wait until each account has been polled once. Return this daemon."""
        eventually(lambda: self.get("/-/ready").status_code == 200, describe=self.output)
        return self

    def _page(self) -> str:
        answer = self.get("/metrics", accept=OPENMETRICS)
        assert answer.status_code == 200
        return answer.text

    def scrape(self) -> Scrape:
        """Return the current metrics, requested as OpenMetrics."""
        return Scrape(self._page())

    def scrape_when(self, condition: Callable[[Scrape], object], *, within: float = PATIENCE) -> Scrape:
        """Return the first scrape for which *condition* holds."""
        page = ""

        def holds() -> bool:
            nonlocal page
            page = self._page()
            return bool(condition(Scrape.glance(page)))

        eventually(holds, within=within, every=_SCRAPE, describe=lambda: page + self.output())
        return Scrape(page)

    def await_polls(self, account: str, number: int = 1, result: str = "success") -> Scrape:
        """Return a scrape after *number* further polls with this result."""
        labels = {"account": account, "result": result}
        before = Scrape.glance(self._page()).value("sbg_exporter_polls_total", **labels) or 0
        return self.scrape_when(lambda now: (now.value("sbg_exporter_polls_total", **labels) or 0) >= before + number)

    def await_exact(self, account: str, simulator: RunningSimulator, user: str | None = None) -> Scrape:
        """Return the first scrape in which *account*'s counters are the true counts."""
        wrong: object = None

        def exact() -> str | None:
            nonlocal wrong
            page = self._page()
            wrong = difference(Scrape.glance(page), account, simulator, user)
            return None if wrong else page

        return Scrape(
            eventually(exact, every=_SCRAPE, describe=lambda: f"{account} is off by {wrong}\n{self.output()}")
        )

    # ---- end ----

    def kill(self) -> None:
        """Send SIGKILL and read the remaining output."""
        self._process.kill()
        self._end()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self._process.send_signal(number)
        return self.end()

    def end(self, within: float = PATIENCE) -> int:
        """Wait for the process to end and return the exit code."""
        code = self._process.wait(within)
        self._end()
        return code

    def _end(self) -> None:
        self._process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        self._client.close()
        leaks.check_text(self.output(), f"the output of {self._arguments}")


class Installation:
    """A folder with a configuration, token files and a state file, in which daemons are started."""

    def __init__(self, folder: Path, *accounts: Account, speed: float = 1, **settings: object) -> None:
        """Write the files. With *speed* above 1, daemons get a faster clock; see :func:`fast` for the platform."""
        self.folder = folder
        self.cold = False
        """Whether each process is a Python of its own, instead of a :mod:`warm` one."""
        self.descriptors: int | None = None
        """How many file descriptors each daemon may have; None: as many as this process."""
        self.program = ["exporter"] if speed == 1 else ["tests.fast_daemon", repr(ANCHOR), str(speed)]
        """The module that is started, with its first arguments."""
        self.config = folder / "config.toml"
        self.state = folder / "state.db"
        (folder / "home").mkdir(parents=True)
        self.configure(*accounts, **settings)
        self._started: list[Daemon] = []

    def configure(self, *accounts: Account, **settings: object) -> None:
        """Replace the configuration and write the accounts' tokens."""
        given = {"listen": "127.0.0.1:0", "state_file": str(self.state), "poll_interval": 1, "log_format": "json"}
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in (given | settings).items()]
        for account in accounts:
            self.write_token(account.name, account.token)
            entry = {
                "name": account.name,
                "api_endpoint": account.endpoint,
                "auth_token_file": f"{account.name}.token",
                **account.more,
            }
            lines += [
                "[[accounts]]",
                *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in entry.items()),
            ]
        fresh = self.config.with_suffix(".new")
        fresh.write_text("\n".join(lines) + "\n")
        fresh.rename(self.config)

    def write_token(self, account: str, token: str) -> None:
        """Replace the account's token file atomically by renaming, as Kubernetes does for secrets."""
        leaks.use(token)
        fresh = self.folder / f"{account}.token.new"
        fresh.touch(mode=0o600)
        fresh.write_text(f"{token}\n")
        fresh.rename(self.folder / f"{account}.token")

    def start(self, *arguments: str, **environment: str) -> Daemon:
        """Start a daemon, or the command given by *arguments*, without waiting."""
        leaks.use(environment.get("SB_AUTH_TOKEN", ""))
        clean = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "SYSTEMROOT") if name in os.environ}
        clean |= measured.VARIABLES
        clean |= {"HOME": str(self.folder / "home"), "PYTHONPATH": str(_REPOSITORY), **environment}
        wrapper: Sequence[str] | None = () if self.cold else None
        if self.descriptors is not None:
            wrapper = ("sh", "-c", f'ulimit -n {self.descriptors} && exec "$@"', "sh")
        daemon = Daemon(
            [*self.program, *(arguments or ("run", "--config", str(self.config)))], clean, self.folder, wrapper
        )
        self._started.append(daemon)
        return daemon

    @contextmanager
    def running(self, *arguments: str, **environment: str) -> Iterator[Daemon]:
        """Start a daemon and wait until it is ready. The end of the context kills it if it still runs."""
        daemon = self.start(*arguments, **environment)
        try:
            yield daemon.await_ready()
        finally:
            if daemon.alive:
                daemon.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self._started:
            if daemon.alive:
                daemon.kill()
        leaks.check_files(self.folder)


# --------------------------------------------------------------------------------------------------- monotonic counters


class MonotonicCounters:
    """Checks scrapes in order, across restarts. Fails if a counter decreases or gets a new creation time."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, Labels], float] = {}
        self._born: dict[tuple[str, Labels], float] = {}
        self.scrapes = 0

    def see(self, scrape: Scrape) -> Scrape:
        """Compare *scrape* with all earlier ones and return it."""
        self.scrapes += 1
        shown = {dict(labels)["account"] for labels in scrape.series("sbg_jobs_submitted_total")}
        for key, value in scrape.samples.items():
            name, labels = key
            if not name.startswith("sbg_") or name.startswith("sbg_exporter_"):
                continue  # The exporter's own metrics start at 0 in each process.
            if name.endswith("_created"):
                assert self._born.setdefault(key, value) == value, f"new creation time: {name} {dict(labels)}"
            elif name.endswith(("_total", "_bucket", "_count", "_sum")):
                assert value >= self._last.get(key, -math.inf), f"decreased: {name} {dict(labels)} to {value}"
                self._last[key] = value
        gone = [key for key in self._last if key not in scrape.samples and dict(key[1])["account"] in shown]
        assert not gone, f"no longer shown: {gone}"
        return scrape

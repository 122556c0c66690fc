"""Pictures of the dashboards, drawn by Grafana's own components from a real Prometheus.

``python -m tests.e2e.render.shoot FOLDER`` draws every dashboard at 1280 and 1920 wide, dark and light, with the data
of each scenario: none, a busy day, a quiet day and a month, of one account, a few and fifty. It needs node with npm,
Chromium and Prometheus; the first run installs the packages.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

from playwright.sync_api import Browser, sync_playwright

from tests.e2e.render.history import ENDS, SCENARIOS, SCRAPE_SECONDS, Scenario

HERE: Final = Path(__file__).parent
REPOSITORY: Final = HERE.parents[2]
DASHBOARDS: Final = REPOSITORY / "grafana" / "dashboards"
_CHROMIUM: Final = os.environ.get("CHROMIUM", "/usr/bin/chromium")
_FLAGS: Final = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
_PATIENCE: Final = 60.0
_SOURCES: Final = ("index.html", "package-lock.json", "package.json", "vite.config.mjs")
"""What the page is made of, beside the folder ``src``."""

Theme = Literal["dark", "light"]


@dataclass(frozen=True, slots=True)
class Picture:
    """What is to be drawn.

    Attributes:
        ends: the end of the time range, Unix seconds; the browser's clock shows it, too.
        hours: the length of the time range; 0: the dashboard's own.
        variables: values of the dashboard's variables, where they are not to be at their default.
    """

    dashboard: Path
    prometheus: str
    width: int = 1280
    theme: Theme = "dark"
    ends: float = ENDS
    hours: float = 0.0
    scrape_seconds: float = SCRAPE_SECONDS
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fault:
    """A panel that could not be drawn."""

    panel: str
    reason: str


# ---- the page ----


def build_page() -> Path:
    """The folder of the drawing page, built if anything that it is made of has changed since the last time.

    Several processes may call this at once: the first one builds, the others wait for it.
    """
    page, stamp = HERE / "build" / "page", HERE / "build" / "page.sha256"
    stamp.parent.mkdir(exist_ok=True)
    with (HERE / "build" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install_packages(lock.fileno())
        sources = _digest_of_sources()
        if not stamp.exists() or stamp.read_text() != sources:
            # The stamp goes first and comes last, so that what an interrupted build leaves is not taken for a page.
            stamp.unlink(missing_ok=True)
            _run("npx", "vite", "build", lock=lock.fileno())
            stamp.write_text(sources)
    return page


def _install_packages(lock: int) -> None:
    installed, wanted = HERE / "node_modules" / ".installed", HERE / "package-lock.json"
    if not installed.exists() or installed.read_bytes() != wanted.read_bytes():
        installed.unlink(missing_ok=True)
        _run("npm", "ci", lock=lock)
        shutil.copyfile(wanted, installed)


def _digest_of_sources() -> str:
    """What tells one state of the page's sources from another."""
    digest = hashlib.sha256()
    for path in [*sorted(HERE.glob("src/**/*.*")), *map(HERE.joinpath, _SOURCES)]:
        digest.update(f"{path.relative_to(HERE)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _run(*command: str, lock: int) -> None:
    """Run a command that keeps the lock while it runs, even if this process is killed."""
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False, pass_fds=(lock,))
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the parent's name for it
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address under which *folder* is served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_CHROMIUM, args=list(_FLAGS))
        try:
            yield chromium
        finally:
            chromium.close()


def shoot(chromium: Browser, page_url: str, picture: Picture, to: Path) -> list[Fault]:
    """Draw *picture* into the file *to*; the panels whose queries failed."""
    dashboard = json.loads(picture.dashboard.read_text())
    hours = picture.hours or _hours(dashboard["time"]["from"])
    task = {
        "dashboard": dashboard,
        "prometheus": picture.prometheus,
        "theme": picture.theme,
        "from": (picture.ends - hours * 3600) * 1000,
        "to": picture.ends * 1000,
        "scrapeInterval": picture.scrape_seconds,
        "variables": dict(picture.variables),
    }
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    page = chromium.new_page(
        viewport={"width": picture.width, "height": rows * 38 + 80}, color_scheme=picture.theme, timezone_id="UTC"
    )
    try:
        page.clock.set_fixed_time(datetime.fromtimestamp(picture.ends, UTC))
        page.add_init_script(f"window.task = {json.dumps(task)};")
        page.goto(page_url)
        page.wait_for_selector("body[data-drawn]", timeout=_PATIENCE * 1000)
        drawn = page.get_attribute("body", "data-drawn")
        if drawn != "yes":
            raise RuntimeError(f"{picture.dashboard.name} was not drawn: {drawn}")
        to.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=to, full_page=True)
        failed = page.query_selector_all("[data-fault]:not([data-fault=''])")
        return [
            Fault(each.get_attribute("data-panel") or "", each.get_attribute("data-fault") or "") for each in failed
        ]
    finally:
        page.close()


def _hours(begins: str) -> float:
    """The hours from a time such as ``now-30d`` until now."""
    return float(begins.removeprefix("now-")[:-1]) * {"h": 1, "d": 24}[begins[-1]]


# ---- Prometheus ----


@contextmanager
def prometheus(folder: Path, scrape_seconds: float = SCRAPE_SECONDS) -> Iterator[str]:
    """The address of a Prometheus that knows the history in *folder* and scrapes nothing."""
    with TemporaryDirectory() as scratch, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        (Path(scratch) / "prometheus.yml").write_text("global: {}\n")
        shutil.copytree(folder / "blocks", Path(scratch) / "data")
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={scratch}/prometheus.yml",
                f"--storage.tsdb.path={scratch}/data",
                "--storage.tsdb.retention.time=100y",
                # What ends is gone at the next scrape. In blocks made of text the marker that says so is missing.
                f"--query.lookback-delta={scrape_seconds * 1.5:g}s",
                f"--web.listen-address={address}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await_ready(f"http://{address}/-/ready")
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait()


def _await_ready(url: str) -> None:
    ends = time.monotonic() + _PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=1):  # noqa: S310  # our own, on loopback
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > ends:
                raise
            time.sleep(0.1)


# ---- all of them ----


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of all possible pictures."""

    widths: tuple[int, ...] = (1280, 1920)
    themes: tuple[Theme, ...] = ("dark", "light")
    only: str = ""
    """Part of a dashboard's file name."""
    variables: Mapping[str, str] = field(default_factory=dict)

    def pictures(self, url: str, ends: float = ENDS, scenario: Scenario | None = None) -> Iterator[Picture]:
        """All that are chosen, of the Prometheus at *url*."""
        pattern, scrape_seconds = (
            (scenario.dashboards, scenario.scrape_seconds) if scenario else ("*.json", SCRAPE_SECONDS)
        )
        for dashboard in sorted(path for path in DASHBOARDS.glob(pattern) if self.only in path.name):
            for width in self.widths:
                for theme in self.themes:
                    yield Picture(
                        dashboard,
                        url,
                        width,
                        theme,
                        ends,
                        scrape_seconds=scrape_seconds,
                        variables=self._of(dashboard),
                    )

    def _of(self, dashboard: Path) -> dict[str, str]:
        """The account is chosen only where there can be no more than one."""
        one = dashboard.stem == "one-account"
        return {name: value for name, value in self.variables.items() if one or name != "account"}


def shoot_each(folder: Path, data: str, pictures: Iterable[Picture]) -> list[str]:
    """Draw *pictures* into *folder*, where *data* names what they show; a line for each panel that failed."""
    faults: list[str] = []
    with served(build_page()) as page_url, browser() as chromium:
        for picture in pictures:
            name = f"{picture.dashboard.stem}-{data}-{picture.width}-{picture.theme}.png"
            faults += [
                f"{name}: {fault.panel}: {fault.reason}" for fault in shoot(chromium, page_url, picture, folder / name)
            ]
    return faults


def shoot_scenarios(folder: Path, histories: Path, names: Iterable[str], choice: Choice) -> list[str]:
    """Draw what is chosen of each scenario; a line for each panel that failed."""
    faults: list[str] = []
    for name in names:
        scenario = SCENARIOS[name]
        # In a process of its own, because the exporter's clock is replaced in it.
        command = [sys.executable, "-m", "tests.e2e.render.history", str(histories / name), name]
        subprocess.run(command, cwd=REPOSITORY, check=True)
        with prometheus(histories / name, scenario.scrape_seconds) as url:
            faults += shoot_each(folder, name, choice.pictures(url, scenario=scenario))
    return faults


def _variable(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def main() -> int:
    """The command; 1 when a panel could not be drawn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--prometheus", metavar="URL", help="draw what this one knows, up to now, and nothing else")
    parser.add_argument("--histories", type=Path, help="where histories are kept for the next run")
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--width", type=int, nargs="+", default=[1280, 1920])
    parser.add_argument("--theme", nargs="+", choices=("dark", "light"), default=["dark", "light"])
    parser.add_argument(
        "--variable", type=_variable, nargs="+", default=[("account", "cavatica")], metavar="NAME=VALUE"
    )
    parser.add_argument("--only", default="", help="part of a dashboard's file name")
    options = parser.parse_args()
    choice = Choice(tuple(options.width), tuple(options.theme), options.only, dict(options.variable))
    with TemporaryDirectory() as scratch:
        faults = (
            shoot_each(options.folder, "live", choice.pictures(options.prometheus, time.time()))
            if options.prometheus
            else shoot_scenarios(options.folder, options.histories or Path(scratch), options.scenario, choice)
        )
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

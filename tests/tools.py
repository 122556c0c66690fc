"""The real programs that the tests run: what each is for, where it is found, how it is installed.

``python -m tests.tools`` installs those that are missing, where it may (as root, with apt); ``--all`` also those that
only ``make test-all`` needs. A test names what it runs with ``@pytest.mark.tools("promtool", ...)``: where a program
is missing the test is skipped and named at the end of the run, or fails if ``CI=true`` (see ``conftest.py``).

``PROMETHEUS=``, ``PROMTOOL=``, ``ALERTMANAGER=``, ``AMTOOL=`` and ``CHROMIUM=`` name another program to use, a path or
a name on ``PATH``.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

_PLACES: Final = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
"""The virtual environment, PATH, and where Debian keeps what only root runs."""


class Tool(NamedTuple):
    """A program: its name on PATH, what the tests use it for, and how to get it.

    Attributes:
        package: Debian's package that holds it; empty where there is none.
        install: how to install it where that package cannot be had or does not exist.
        variable: the environment variable that names another one; empty where there is none.
        slow: whether only ``make test-all`` needs it.
    """

    name: str
    purpose: str
    package: str = ""
    install: str = ""
    variable: str = ""
    slow: bool = False

    @property
    def advice(self) -> str:
        """How to install it, for a person."""
        return " or ".join(filter(None, (f"apt-get install {self.package}" if self.package else "", self.install)))

    @property
    def path(self) -> str | None:
        """Where it is; None where it is missing."""
        return shutil.which(os.environ.get(self.variable) or self.name, path=_PLACES)


_DOWNLOADS: Final = "the download page of prometheus.io"

TOOLS: Final = {
    tool.name: tool
    for tool in (
        Tool("promtool", "checks rules and metrics", "prometheus", _DOWNLOADS, "PROMTOOL"),
        Tool("prometheus", "scrapes the exporter and fires its alerts", "prometheus", _DOWNLOADS, "PROMETHEUS"),
        Tool("prometheus-alertmanager", "delivers the alerts", "prometheus-alertmanager", _DOWNLOADS, "ALERTMANAGER"),
        Tool("amtool", "checks the routes of alerts", "prometheus-alertmanager", _DOWNLOADS, "AMTOOL"),
        Tool("prometheus-node-exporter", "reads what once --textfile writes", "prometheus-node-exporter", _DOWNLOADS),
        Tool("git", "tells which rules have changed", "git"),
        Tool("chromium", "shows the status page and the dashboards", "chromium", variable="CHROMIUM"),
        Tool("openssl", "makes certificates", "openssl"),
        Tool("systemd-analyze", "checks the systemd unit", "systemd"),
        Tool("npm", "checks and draws the dashboards with Grafana's own code", "npm", "Node.js 20 or newer"),
        Tool("node", "checks and draws the dashboards with Grafana's own code", "nodejs", "Node.js 20 or newer"),
        Tool("systemd-nspawn", "boots a machine with systemd", "systemd-container", slow=True),
        Tool("mmdebstrap", "makes that machine, and base images", "mmdebstrap debian-archive-keyring", slow=True),
        Tool("buildah", "builds the container image", "buildah", slow=True),
        Tool("podman", "runs the container image", "podman", slow=True),
        Tool("runc", "runs the container image", "runc", slow=True),
        Tool("catatonit", "is process 1 in pods", "catatonit", slow=True),
        Tool("/usr/lib/podman/netavark", "connects containers", "netavark", slow=True),
        Tool("/usr/lib/podman/aardvark-dns", "resolves containers' names", "aardvark-dns", slow=True),
        Tool("iptables", "connects containers: netavark makes no network without", "iptables", slow=True),
    )
}


def tool(name: str) -> str:
    """The path of the program *name*, for tests that are marked with it.

    Raises:
        LookupError: it is missing.
    """
    path = TOOLS[name].path
    if path is None:
        raise LookupError(f"{name} is missing: {TOOLS[name].advice}")
    return path


def missing(names: Iterable[str]) -> list[Tool]:
    """Those of the programs *names* that are missing."""
    return [TOOLS[name] for name in names if TOOLS[name].path is None]


def install(*, slow: bool) -> None:
    """Install what is missing, as root with apt; elsewhere leave it: the tests say what they lack."""
    wanted = missing(name for name, each in TOOLS.items() if slow or not each.slow)
    packages = sorted({package for each in wanted for package in each.package.split()})
    if not packages or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    sys.stdout.write(f"installing {' '.join(packages)}\n")
    sys.stdout.flush()
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=600", "-qq"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*apt, "update"], check=True)
    subprocess.run(
        [*apt, "install", "-y", "--no-install-recommends", *packages],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    install(slow="--all" in sys.argv[1:])

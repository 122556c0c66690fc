"""The programs that the tests run: purpose, location and installation of each.

``python -m tests.tools`` installs missing programs if possible (as root, with apt) and downloads some into the tests'
cache. ``--all`` includes those that only ``make test-all`` needs. A test declares its programs with
``@pytest.mark.tools("promtool", ...)``. If one is missing, the test is skipped and listed at the end of the run, or
fails with ``CI=true`` (see ``conftest.py``).

``PROMETHEUS=``, ``PROMTOOL=``, ``ALERTMANAGER=``, ``AMTOOL=``, ``CHROMIUM=`` and ``PIPX=`` select another program by
path or by name on ``PATH``.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from tests.deploy import fetched

_PLACES: Final = ":".join(
    [
        *map(str, fetched.places()),
        str(Path(sys.executable).parent),
        os.environ.get("PATH", ""),
        *("/usr/local/sbin", "/usr/sbin", "/sbin"),
    ]
)
"""Search path: downloaded programs, the virtual environment, PATH, and Debian's folders of root's programs."""


class Tool(NamedTuple):
    """A program that tests need.

    Attributes:
        name: its name on PATH.
        purpose: what the tests use it for.
        package: its Debian package; empty if there is none.
        install: how to install it without that package.
        variable: the environment variable that selects another program; empty if there is none.
        slow: whether only ``make test-all`` needs it.
        fetch: downloads it into the tests' cache.
        find: for requirements that are not programs: returns the location, or None if missing.
    """

    name: str
    purpose: str
    package: str = ""
    install: str = ""
    variable: str = ""
    slow: bool = False
    fetch: Callable[[], None] | None = None
    find: Callable[[], str | None] | None = None

    @property
    def advice(self) -> str:
        """How to install it, as text for developers."""
        return " or ".join(filter(None, (f"apt-get install {self.package}" if self.package else "", self.install)))

    @property
    def path(self) -> str | None:
        """Its path; None if it is missing."""
        if self.find is not None:
            return self.find()
        return shutil.which(os.environ.get(self.variable) or self.name, path=_PLACES)


@cache
def _root() -> str | None:
    """Return ``/`` if the tests may create mount and PID namespaces, else None."""
    unshare = ["unshare", "--mount", "--pid", "--fork", "true"]
    if os.geteuid() != 0 or shutil.which(unshare[0]) is None:
        return None
    return "/" if subprocess.run(unshare, check=False, capture_output=True).returncode == 0 else None


def _memory_cgroup() -> str | None:
    """Return a file with the peak memory of a control group, or None."""
    groups = Path("/sys/fs/cgroup")
    names = ("memory/memory.max_usage_in_bytes", "memory.peak", "*/memory.peak")
    return next((str(file) for name in names for file in groups.glob(name)), None)


_DOWNLOADS: Final = "the download page of prometheus.io"
_FETCHED: Final = "python -m tests.tools, which fetches it"

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
        Tool("helm", "renders the chart", install=f"{_FETCHED}, or put one on PATH", fetch=fetched.fetch_binaries),
        Tool(
            "kubectl", "renders the manifests", install=f"{_FETCHED}, or put one on PATH", fetch=fetched.fetch_binaries
        ),
        Tool("kubernetes-validate", "checks manifests", install=_FETCHED, fetch=fetched.fetch_checkers),
        Tool("checkov", "finds what is unsafe in manifests", install=_FETCHED, fetch=fetched.fetch_checkers),
        Tool(
            "root",
            "boots machines and runs containers",
            install="sudo make test-all; in a container, in a privileged one",
            slow=True,
            find=_root,
        ),
        Tool(
            "memory cgroup",
            "limits a container's memory and reports its peak",
            install="a kernel with the memory controller; for cgroup 2, Linux 5.19",
            slow=True,
            find=_memory_cgroup,
        ),
        Tool("systemd-nspawn", "boots a machine with systemd", "systemd-container", slow=True),
        Tool("mmdebstrap", "makes that machine, and base images", "mmdebstrap debian-archive-keyring", slow=True),
        Tool(
            "pipx",
            "installs the exporter as its users do",
            "pipx",
            "python3 -m pip install pipx",
            variable="PIPX",
            slow=True,
        ),
        Tool("buildah", "builds the container image", "buildah", slow=True),
        Tool("podman", "runs the container image", "podman", slow=True),
        Tool("skopeo", "copies the container image to a registry", "skopeo", slow=True),
        Tool("docker-registry", "receives image and chart", "docker-registry", slow=True),
        Tool(
            "actionlint",
            "checks the workflows",
            install=f"{_FETCHED}, with Go",
            slow=True,
            fetch=fetched.fetch_actionlint,
        ),
        Tool("runc", "runs the container image", "runc", slow=True),
        Tool("catatonit", "is process 1 in pods", "catatonit", slow=True),
        Tool("/usr/lib/podman/netavark", "connects containers", "netavark", slow=True),
        Tool("/usr/lib/podman/aardvark-dns", "resolves containers' names", "aardvark-dns", slow=True),
        Tool("iptables", "connects containers: netavark makes no network without", "iptables", slow=True),
    )
}


def tool(name: str) -> str:
    """Return the path of the program *name*, for tests marked with it.

    Raises:
        LookupError: it is missing.
    """
    path = TOOLS[name].path
    if path is None:
        raise LookupError(f"{name} is missing: {TOOLS[name].advice}")
    return path


def missing(names: Iterable[str]) -> list[Tool]:
    """Return the missing programs of *names*."""
    return [TOOLS[name] for name in names if TOOLS[name].path is None]


def developers(name: str) -> str:
    """Return the path of a program in the tests' virtual environment."""
    return str(Path(sys.executable).with_name(name))


def install(*, slow: bool) -> None:
    """Download and install missing programs, as root with apt. Failures are ignored: the tests list what is missing."""
    wanted = missing(name for name, each in TOOLS.items() if slow or not each.slow)
    for fetch in dict.fromkeys(each.fetch for each in wanted if each.fetch is not None):
        _attempt(fetch)
    packages = sorted({package for each in wanted for package in each.package.split()})
    if packages and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        sys.stdout.write(f"installing {' '.join(packages)}\n")
        sys.stdout.flush()
        _attempt(lambda: _install_packages(packages))


def _install_packages(packages: list[str]) -> None:
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=600", "-qq"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*apt, "update"], check=True)
    subprocess.run(
        [*apt, "install", "-y", "--no-install-recommends", *packages],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )


def _attempt(install: Callable[[], None]) -> None:
    try:
        install()
    except subprocess.CalledProcessError as failed:
        sys.stdout.write(f"{failed}\n")


if __name__ == "__main__":
    install(slow="--all" in sys.argv[1:])

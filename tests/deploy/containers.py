"""Images and containers for the tests: buildah and podman with settings and a store of their own, and no registry.

Everything lies in one folder, ``$SBG_EXPORTER_TEST_CONTAINERS`` or else ``.venv/containers``: the base system, which
mmdebstrap makes of Debian's packages in half a minute and which is kept, and the images, containers and volumes.
Containers share the network of the machine unless told otherwise, and all in them listens on loopback, on free ports.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from exporter import __version__
from tests.harness import OPENMETRICS, Event, Scrape, eventually

REPOSITORY: Final = Path(__file__).parents[2]
REVISION: Final = "0123abc"
"""Of the sources, as the image is told."""
DOCKERFILE: Final = REPOSITORY / "deploy" / "docker" / "Dockerfile"
TOOLS: Final = ("mmdebstrap", "buildah", "podman", "runc", "catatonit", "netavark", "aardvark-dns", "iptables")
"""Debian's packages of these names."""

HARDENED: Final = (
    *("--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    *("--pids-limit=128", "--network=host", "--no-healthcheck"),
)
"""All that a container can be denied, a temporary folder among it."""

_SUITE: Final = "bookworm"
_LEFT_OUT: Final = ("doc", "man", "locale", "info")
"""Folders of /usr/share, as in Debian's own slim images."""
_PIP_SETTINGS: Final = {"PIP_CERT": "cert", "PIP_INDEX_URL": "index-url", "PIP_EXTRA_INDEX_URL": "extra-index-url"}
_CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"
_PLACES: Final = f"{os.environ['PATH']}:/usr/lib/podman:/usr/libexec/podman"
_ENDS_WITHIN: Final = 5
"""Seconds between SIGTERM and SIGKILL."""

_ENGINE_SETTINGS: Final = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
netns = "host"

[network]
network_backend = "netavark"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""
_KUBECTL: Final = """\
#!/bin/sh
# kubectl -n NAMESPACE exec [-i] POD -- COMMAND...
shift 3
[ "$1" != -i ] || shift
pod="$1"
shift 2
exec podman exec --interactive "$pod-sbg-exporter" "$@"
"""
_STORE_SETTINGS: Final = """\
[storage]
driver = "overlay"
graphroot = {graph}
runroot = {run}
"""


@dataclass(frozen=True, slots=True)
class Container:
    """A daemon in a container that runs in the background."""

    engine: "Engine"
    name: str

    def inspect(self, template: str) -> str:
        """What podman knows of it, by a template of Go's."""
        return self.engine.podman("inspect", "--format", template, self.name).strip()

    @property
    def pid(self) -> int:
        """Of its first process, as seen from outside."""
        return int(self.inspect("{{.State.Pid}}"))

    @property
    def told(self) -> str:
        """All that it has written."""
        return self.engine.podman("logs", self.name, both=True)

    def said(self, event: str) -> list[Event]:
        """The events of that name, so far."""
        events = [json.loads(line) for line in self.told.splitlines() if line.startswith("{")]
        return [each for each in events if each["event"] == event]

    def url(self) -> str:
        """Where its metrics are, once it has said so."""

        def started() -> list[Event]:
            assert self.inspect("{{.State.Running}}") == "true", self.told
            return self.said("daemon.started")

        return f"http://{eventually(started, describe=lambda: self.told)[0]['listen']}"

    def answering(self) -> "Answering":
        """Its metrics server, once it is up."""
        return Answering(self.url())

    def stop(self) -> int:
        """The exit code after the image's own stop signal; 137 if that did not end it in time."""
        self.engine.podman("stop", "--time", str(_ENDS_WITHIN), self.name)
        return int(self.inspect("{{.State.ExitCode}}"))


@dataclass(frozen=True, slots=True)
class Answering:
    """A metrics server in a container."""

    origin: str

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Its answer."""
        return httpx.get(self.origin + path, headers=headers, timeout=30, trust_env=False)

    def await_ready(self) -> "Answering":
        """This one, once every account has been tried."""
        eventually(lambda: self.get("/-/ready").status_code == httpx.codes.OK)
        return self

    def scrape(self) -> Scrape:
        """The metrics as they are now."""
        answer = self.get("/metrics", accept=OPENMETRICS)
        assert answer.status_code == httpx.codes.OK
        return Scrape(answer.text)


@dataclass(frozen=True, slots=True)
class Ended:
    """A command in a container, when it was through."""

    code: int
    output: str
    errors: str


@dataclass(frozen=True)
class Engine:
    """buildah and podman, and what was made with them."""

    folder: Path

    # ---- images ----

    @cached_property
    def base(self) -> str:
        """A Debian with Python and little else, which trusts whom this machine trusts when it installs packages."""
        settings = [f"{key} = {os.environ[name]}\n" for name, key in _PIP_SETTINGS.items() if name in os.environ]
        command = [
            *("mmdebstrap", "--quiet", "--variant=minbase", "--include=python3-minimal,python3-venv"),
            *(f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in _LEFT_OUT),
            *("--customize-hook=mkdir -p $1/etc/ssl/certs", f"--customize-hook=upload {_CERTIFICATES} {_CERTIFICATES}"),
        ]
        digest = hashlib.sha256(" ".join([*command, *settings]).encode()).hexdigest()[:12]
        tag = f"localhost/sbg-exporter-base:{digest}"
        if self._lacks(tag):
            archive = self.folder / f"base-{digest}.tar"
            if not archive.exists():
                with tempfile.TemporaryDirectory(dir=self.folder) as fresh:
                    (Path(fresh) / "pip.conf").write_text("[global]\n" + "".join(settings))
                    pip = f"--customize-hook=upload {fresh}/pip.conf /etc/pip.conf"
                    _run([*command, pip, _SUITE, f"{fresh}/base.tar"], os.environ)
                    Path(fresh, "base.tar").rename(archive)
            self.podman("import", "--quiet", str(archive), tag)
        return tag

    def image(self, name: str, **arguments: str) -> str:
        """The exporter's image on :attr:`base`, its Dockerfile given *arguments*, and named *name*."""
        given = {"BASE": self.base, "VERSION": __version__, "REVISION": REVISION, **arguments}
        return self.built(name, DOCKERFILE, *(f"--build-arg={key}={value}" for key, value in given.items()))

    def built(self, name: str, dockerfile: Path, *options: str, context: Path = REPOSITORY) -> str:
        """An image named *name*, as this machine's own; a step that has been built already is not built again."""
        tag = name if "/" in name else f"localhost/{name}:test"
        how = ("bud", "--isolation=chroot", "--network=host", "--format=docker", "--layers", "--pull-never")
        self._do("buildah", *how, *options, "--tag", tag, "--file", str(dockerfile), str(context))
        return tag

    def about(self, image: str) -> dict[str, Any]:
        """Everything podman knows of an image."""
        [found] = json.loads(self.podman("image", "inspect", image))
        assert isinstance(found, dict)
        return found

    def _lacks(self, tag: str) -> bool:
        try:
            self.podman("image", "exists", tag)
        except AssertionError:
            return True
        return False

    # ---- containers ----

    def volume(self) -> str:
        """A fresh volume."""
        return self.podman("volume", "create").strip()

    def start(self, image: str, *arguments: str, options: Sequence[str]) -> Container:
        """A container in the background."""
        return Container(self, self.podman("run", "--detach", *options, image, *arguments).strip())

    def run(self, image: str, *arguments: str, options: Sequence[str] = HARDENED) -> Ended:
        """A command in a container that is gone when it is through."""
        command = ["podman", "run", "--rm", *options, image, *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        return Ended(done.returncode, done.stdout, done.stderr)

    def podman(self, *arguments: str, both: bool = False, given: str | None = None) -> str:
        """What podman prints, on *both* outputs if need be; *given* is its standard input."""
        return self._do("podman", *arguments, both=both, given=given)

    def as_kubectl(self, line: str, folder: Path) -> None:
        """Run a *line* of ``kubectl exec`` in *folder*, against the pods of the same names that were played here."""
        stand_in = folder / "bin" / "kubectl"
        if not stand_in.exists():
            stand_in.parent.mkdir()
            stand_in.write_text(_KUBECTL)
            stand_in.chmod(0o755)
        environment = {**self._environment, "PATH": f"{stand_in.parent}:{os.environ['PATH']}"}
        _run(["sh", "-c", f"cd {folder}; {line}"], environment)

    def compose(self, file: Path, *arguments: str) -> str:
        """What podman-compose prints."""
        program = shutil.which("podman-compose", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert program is not None, "podman-compose is missing: it is in the developers' packages"
        return self._do(program, "--in-pod", "false", "--file", str(file), *arguments)

    def sweep(self) -> None:
        """Remove all containers with their volumes and secrets, and images that are long out of use."""
        self.podman("pod", "rm", "--all", "--force", "--time=0")
        self.podman("rm", "--all", "--force", "--time=0", "--volumes")
        self.podman("volume", "prune", "--force")
        self.podman("network", "prune", "--force")
        self.podman("secret", "rm", "--all")
        self.podman("image", "prune", "--force", "--filter=until=168h")

    def _do(self, *command: str, both: bool = False, given: str | None = None) -> str:
        return _run(command, self._environment, both=both, given=given)

    @cached_property
    def _environment(self) -> Mapping[str, str]:
        settings = {"containers.conf": _ENGINE_SETTINGS, "storage.conf": self._store()}
        for name, text in settings.items():
            (self.folder / name).write_text(text)
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("SBG_")},
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
        }

    def _store(self) -> str:
        paths = {name: json.dumps(str(self.folder / name)) for name in ("graph", "run")}
        return _STORE_SETTINGS.format(**paths)


def _run(
    command: Sequence[str], environment: Mapping[str, str], *, both: bool = False, given: str | None = None
) -> str:
    done = subprocess.run(command, env=environment, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout + (done.stderr if both else "")


@contextmanager
def engine() -> Iterator[Engine]:
    """The engine, for one process at a time."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path=_PLACES) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    folder = Path(os.environ.get("SBG_EXPORTER_TEST_CONTAINERS", Path(sys.prefix) / "containers")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = Engine(folder)
        made.sweep()  # what an interrupted run left
        try:
            yield made
        finally:
            made.sweep()

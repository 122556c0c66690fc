"""Images and containers for the tests: buildah and podman with settings and a store of their own, and no registry.

Everything lies in the tests' cache: the base system, which mmdebstrap makes of Debian's packages in half a minute, and
the images, containers and volumes. All of it runs in a sandbox. Containers share the network of the machine unless told
otherwise, and all in them listens on loopback, on free ports.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from exporter import __version__
from tests.cache import CACHE, kept, locked, version
from tests.deploy.sandbox import sandboxed
from tests.harness import OPENMETRICS, Event, Scrape
from tests.tools import developers, tool
from tests.waiting import eventually

REPOSITORY: Final = Path(__file__).parents[2]
REVISION: Final = "0123abc"
"""Of the sources, as the image is told."""
DOCKERFILE: Final = REPOSITORY / "deploy" / "docker" / "Dockerfile"
needs_containers: Final = pytest.mark.tools(
    *("root", "mmdebstrap", "buildah", "podman", "runc", "catatonit", "iptables"),
    *("/usr/lib/podman/netavark", "/usr/lib/podman/aardvark-dns"),
)
"""For each test that uses :func:`engine`."""

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
_ENDS_WITHIN: Final = 30
"""Seconds between SIGTERM and SIGKILL, for a busy machine."""
_READY: Final = "ready\n"

_ENGINE_SETTINGS: Final = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
netns = "host"

[network]
network_backend = "netavark"
network_config_dir = {networks}

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
tmp_dir = "/run/sbg-exporter-test/libpod"
"""
"""In a sandbox that folder is new: so podman knows that no container runs any more, whatever its store says."""
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
runroot = "/run/sbg-exporter-test/storage"
"""


@dataclass(frozen=True, slots=True)
class Container:
    """A daemon in a container that runs in the background."""

    engine: "Engine"
    name: str

    def inspect(self, template: str) -> str:
        """What podman knows of it, by a template of Go's."""
        return self.engine.podman("inspect", "--format", template, self.name).strip()

    def process(self, file: str) -> str:
        """What the kernel says of its first process, in a file of ``/proc/PID``."""
        return self.engine.read(f"/proc/{self.inspect('{{.State.Pid}}')}/{file}")

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
    """buildah and podman in a sandbox, and what was made with them."""

    folder: Path
    leader: int
    """The sandbox's first process."""

    # ---- images ----

    @cached_property
    def base(self) -> str:
        """A Debian with Python and little else, which trusts whom this machine trusts when it installs packages."""
        settings = [f"{key} = {os.environ[name]}\n" for name, key in _PIP_SETTINGS.items() if name in os.environ]
        command = [
            *(tool("mmdebstrap"), "--quiet", "--variant=minbase", "--include=python3-minimal,python3-venv"),
            *(f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in _LEFT_OUT),
            *("--customize-hook=mkdir -p $1/etc/ssl/certs", f"--customize-hook=upload {_CERTIFICATES} {_CERTIFICATES}"),
        ]
        wanted = version(*command, *settings)

        def made(archive: Path) -> None:
            fresh = archive.with_name("pip.conf")
            fresh.write_text("[global]\n" + "".join(settings))
            pip = f"--customize-hook=upload {fresh} /etc/pip.conf"
            _run(sandboxed(*command, "--format=tar", pip, _SUITE, str(archive)), os.environ)

        tag = f"localhost/sbg-exporter-base:{wanted}"
        if self._lacks(tag):
            self.podman("import", "--quiet", str(kept("base", wanted, made)), tag)
        return tag

    def image(self, name: str, **arguments: str) -> str:
        """The exporter's image on :attr:`base`, its Dockerfile given *arguments*, and named *name*."""
        given = {"BASE": self.base, "VERSION": __version__, "REVISION": REVISION, **arguments}
        # Without cached layers: buildah 1.28 took one for the exporter's after its sources had changed.
        arguments_given = (f"--build-arg={key}={value}" for key, value in given.items())
        return self.built(name, DOCKERFILE, "--layers=false", *arguments_given)

    def built(self, name: str, dockerfile: Path, *options: str, context: Path = REPOSITORY) -> str:
        """An image named *name*, as this machine's own; a step that has been built already is not built again."""
        tag = name if "/" in name else f"localhost/{name}:test"
        how = ("bud", "--isolation=chroot", "--network=host", "--format=docker", "--layers", "--pull-never")
        self._do(tool("buildah"), *how, *options, "--tag", tag, "--file", str(dockerfile), str(context))
        return tag

    def released(self, folder: Path, date: int) -> None:
        """The image of a release and its bill of materials, built from the first step in *folder*, at that time."""
        build = "import sys, pathlib, deploy.dist as d; d.image(pathlib.Path(sys.argv[1]), *sys.argv[2:])"
        environment = (f"PYTHONPATH={REPOSITORY}", f"SOURCE_DATE_EPOCH={date}")
        self._do("env", *environment, sys.executable, "-c", build, str(folder), tool("buildah"), self.base)

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
        command = self._inside(tool("podman"), "run", "--rm", *options, image, *arguments)
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        return Ended(done.returncode, done.stdout, done.stderr)

    def podman(self, *arguments: str, both: bool = False, given: str | None = None) -> str:
        """What podman prints, on *both* outputs if need be; *given* is its standard input."""
        return self._do(tool("podman"), *arguments, both=both, given=given)

    def read(self, file: str) -> str:
        """A file as it is in the sandbox."""
        return self._do("cat", file)

    def as_kubectl(self, line: str, folder: Path) -> None:
        """Run a *line* of ``kubectl exec`` in *folder*, against the pods of the same names that were played here."""
        stand_in = folder / "bin" / "kubectl"
        if not stand_in.exists():
            stand_in.parent.mkdir()
            stand_in.write_text(_KUBECTL)
            stand_in.chmod(0o755)
        environment = {**self._environment, "PATH": f"{stand_in.parent}:{os.environ['PATH']}"}
        _run(self._inside("sh", "-c", f"cd {folder}; {line}"), environment)

    def compose(self, file: Path, *arguments: str) -> str:
        """What podman-compose prints."""
        return self._do(developers("podman-compose"), "--in-pod", "false", "--file", str(file), *arguments)

    def sweep(self) -> None:
        """Remove all containers with their volumes and secrets, and images that are long out of use."""
        self.podman("pod", "rm", "--all", "--force", "--time=0")
        self.podman("rm", "--all", "--force", "--time=0", "--volumes")
        self.podman("volume", "prune", "--force")
        self.podman("network", "prune", "--force")
        self.podman("secret", "rm", "--all")
        self._do(tool("buildah"), "rm", "--all")  # of builds that were interrupted
        self.podman("image", "prune", "--force", "--filter=until=168h")

    def _do(self, *command: str, both: bool = False, given: str | None = None) -> str:
        return _run(self._inside(*command), self._environment, both=both, given=given)

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", "--target", str(self.leader), "--all", *command]

    @cached_property
    def _environment(self) -> Mapping[str, str]:
        paths = {name: json.dumps(str(self.folder / name)) for name in ("graph", "networks")}
        for name, text in {"containers.conf": _ENGINE_SETTINGS, "storage.conf": _STORE_SETTINGS}.items():
            (self.folder / name).write_text(text.format(**paths))
        (self.folder / "tmp").mkdir(exist_ok=True)
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("SBG_")},
            "TMPDIR": str(self.folder / "tmp"),
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
        }


def _run(
    command: Sequence[str], environment: Mapping[str, str], *, both: bool = False, given: str | None = None
) -> str:
    done = subprocess.run(command, env=environment, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout + (done.stderr if both else "")


@contextmanager
def engine(*, network: bool = True) -> Iterator[Engine]:
    """The engine, for one process at a time; without the machine's *network* containers can have networks of their own.

    Whatever ends the process ends the sandbox, and every container with it.
    """
    folder = CACHE / "containers"
    with locked("containers"):
        folder.mkdir(exist_ok=True)
        told = f"printf '{_READY}'; exec {tool('catatonit')} -P"
        with subprocess.Popen(sandboxed("sh", "-c", told, network=network), stdout=subprocess.PIPE, text=True) as held:
            try:
                assert held.stdout is not None
                assert held.stdout.readline() == _READY
                [leader] = Path(f"/proc/{held.pid}/task/{held.pid}/children").read_text().split()
                made = Engine(folder, int(leader))
                made.sweep()  # what an interrupted run left
                yield made
                made.sweep()
            finally:
                held.kill()

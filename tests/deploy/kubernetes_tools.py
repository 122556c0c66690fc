"""What the tests do with Helm, kubectl and the checkers of manifests."""

import base64
import copy
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml

from tests.cache import CACHE
from tests.tools import tool

REPOSITORY: Final = Path(__file__).parents[2]
KUSTOMIZE: Final = REPOSITORY / "deploy" / "kubernetes"
CHART: Final = REPOSITORY / "deploy" / "helm" / "sbg-exporter"
VERSIONS: Final = ("1.34", "1.35", "1.36", "1.37")
"""The last four of Kubernetes."""
NAMESPACE: Final = "sbg-exporter"

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

needs_helm: Final = pytest.mark.tools("helm")
needs_kubectl: Final = pytest.mark.tools("kubectl")
needs_both: Final = pytest.mark.tools("helm", "kubectl")
needs_checkers: Final = pytest.mark.tools("kubernetes-validate", "checkov")

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
    return _output(tool("helm"), *arguments, HELM_CACHE_HOME=home, HELM_CONFIG_HOME=home, HELM_DATA_HOME=home)


def kubectl(*arguments: str) -> str:
    """What kubectl prints.

    Raises:
        Refused: it ended with an error.
    """
    return _output(tool("kubectl"), *arguments)


def checker(name: str, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """A finished run of one of the checkers, or of their Python, with *given* on its standard input."""
    program = str(Path(tool("checkov")).with_name(name))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}  # twice as fast
    environment["CKV_SKIP_PACKAGE_UPDATE_CHECK"] = "true"  # checkov would ask a registry for a newer one
    command = [program, *arguments]
    return subprocess.run(command, env=environment, input=given, capture_output=True, text=True, check=False)


def _output(program: str, *arguments: str, **environment: str) -> str:
    command = [program, *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


# ------------------------------------------------------------------------------------------------------------- rendered


def kustomized(folder: str) -> str:
    """The manifests of a folder below ``deploy/kubernetes``."""
    return kubectl("kustomize", str(KUSTOMIZE / folder))


@cache
def templated(*arguments: str, chart: Path = CHART, release: str = "sbg-exporter") -> str:
    """The manifests of the chart, with *arguments* such as ``--set``."""
    return helm("template", release, str(chart), "--namespace", NAMESPACE, *arguments)


class Wish(NamedTuple):
    """What platform teams ask of charts: see ``chart-wishes.yaml``.

    Attributes:
        title: what is asked for.
        manifests: what the chart renders with the values that fulfil it.
        gives: parts of objects in *manifests*.
    """

    title: str
    manifests: str
    gives: list[Object]


@cache
def wishes() -> tuple[Wish, ...]:
    """Every wish, rendered."""
    read = yaml.safe_load((Path(__file__).parent / "chart-wishes.yaml").read_text())
    with tempfile.TemporaryDirectory() as folder:
        values = Path(folder) / "values.yaml"
        made = []
        for each in read:
            values.write_text(yaml.safe_dump(each["values"]))
            rendered = helm("template", NAMESPACE, str(CHART), "--namespace", NAMESPACE, "--values", str(values))
            made.append(Wish(each["wish"], rendered, each["gives"]))
    return tuple(made)


def contains(whole: object, part: object) -> bool:
    """Whether *whole* has every key and element of *part*, at any depth; lists in any order."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and contains(whole[key], part[key]) for key in part)
    if isinstance(part, list):
        return isinstance(whole, list) and all(any(contains(each, wanted) for each in whole) for wanted in part)
    return whole == part


def objects(manifests: str) -> list[Object]:
    """The objects in a text of them."""
    return [
        each for each in yaml.load_all(manifests, _LOADER) if each
    ]  # safe, like safe_load_all, and five times as fast


def only(kind: str, among: Iterable[Object]) -> Object:
    """The one object of that kind."""
    [found] = [each for each in among if each["kind"] == kind]
    return found


def service(among: Iterable[Object]) -> Object:
    """The Service that Prometheus scrapes; the other one, which gives the pod its name, has no port."""
    [found] = [each for each in among if each["kind"] == "Service" and "ports" in each["spec"]]
    return found


def without_hooks(among: Iterable[Object]) -> list[Object]:
    """The objects that stay, without the pod of ``helm test``."""
    return [each for each in among if "helm.sh/hook" not in each["metadata"].get("annotations", {})]


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

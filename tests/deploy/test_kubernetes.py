"""The manifests of deploy/kubernetes: they render, Kubernetes takes them, they are safe, and the daemon runs."""

import json
import os
import re
import signal
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import pytest
import yaml

from deploy.kubernetes import generate
from exporter import __version__
from exporter.config.settings import Settings
from exporter.simulator.server import DEMO_TOKEN, QUIET, running
from tests.deploy.kubernetes_tools import (
    CHART,
    KUSTOMIZE,
    NAMESPACE,
    REPOSITORY,
    VERSIONS,
    Object,
    checker,
    configuration,
    injected,
    kubectl,
    kustomized,
    needs_both,
    needs_checkers,
    needs_kubectl,
    objects,
    only,
    pod_document,
    service,
    templated,
    wishes,
)
from tests.harness import Account, Installation

OVERLAYS: Final = ("external-secret", "grafana-sidecar", "prometheus-operator")
FOLDERS: Final = ("base", "state", "overlays/web-config", *(f"overlays/{name}" for name in OVERLAYS))
ENDS_WITHIN: Final = 5
"""Seconds from SIGTERM to the daemon's end, as it promises and other tests prove."""
RENDERINGS: Final = (*(folder.replace("/", "-") for folder in FOLDERS), "helm-default", "helm-everything")
VALUES: Final = {file.stem.removesuffix("-values"): file for file in sorted((CHART / "ci").glob("*-values.yaml"))}
"""Examples of values for the chart."""
OPERATED: Final = {"PodMonitor", "PrometheusRule", "ServiceMonitor"}
FOREIGN: Final = {"ExternalSecret", "HTTPRoute", "Route", *OPERATED}
"""Kinds that Kubernetes itself does not know."""
LARGEST_ANNOTATION: Final = 262_144
"""Bytes: ``kubectl apply`` keeps a copy of each object in an annotation of it."""
ROUND_TRIP: Final = """\
import json, sys
from cloudcoil.models.prometheus_operator import v1
dump = lambda each: getattr(v1, each["kind"]).model_validate(each)
json.dump(
    [dump(each).model_dump(by_alias=True, exclude_unset=True, mode="json") for each in json.load(sys.stdin)],
    sys.stdout,
)
"""
ACCEPTED: Final[Mapping[str, str]] = {
    "CKV_K8S_11": "CPU limits should be set: one would only make scrapes wait; the request reserves a share",
    "CKV_K8S_15": "Image Pull Policy should be Always: a version's tag stays, and a start should need no registry",
    "CKV_K8S_43": "Image should use digest: known once an image is built; who deploys pins it (image.digest)",
}
"""What checkov finds and why it stays."""
ACCEPTED_OF_STATE: Final[Mapping[str, str]] = {
    "CKV_K8S_8": "Liveness Probe should be configured: the pod for `state` serves nothing, and ends by itself",
    "CKV_K8S_9": "Readiness Probe should be configured: likewise",
}
"""The same, of a pod that is no daemon."""
ACCEPTED_OF_TEST: Final[Mapping[str, str]] = {
    "CKV2_K8S_6": "Pods should have a NetworkPolicy: the pod of `helm test` runs for seconds, on request",
}
"""The same, of the pod of ``helm test``, besides those of a pod that is no daemon."""


@cache
def rendered(folder: str) -> str:
    return kustomized(folder)


@cache
def every_rendering() -> Mapping[str, str]:
    """All that a cluster may be given: name to manifests. Of the wishes, only what differs from the default."""
    default = templated().split("\n---\n")
    wished = [each for wish in wishes() for each in wish.manifests.split("\n---\n") if each not in default]
    return {
        **{folder.replace("/", "-"): rendered(folder) for folder in FOLDERS},
        "helm-default": templated(),
        **{f"helm-{name}": templated("--values", str(file)) for name, file in VALUES.items()},
        "helm-wishes": "\n---\n".join(dict.fromkeys(wished)),
    }


@pytest.fixture
def written(tmp_path: Path) -> list[str]:
    """A file for each rendering."""
    for name, manifests in every_rendering().items():
        (tmp_path / f"{name}.yaml").write_text(manifests)
    return [str(tmp_path / f"{name}.yaml") for name in every_rendering()]


def stateful_set(folder: str = "base") -> Object:
    return only("StatefulSet", objects(rendered(folder)))


# ---------------------------------------------------------------------------------------------------------- the objects


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_only_adds_to_the_base(overlay: str) -> None:
    added = {
        "external-secret": ["ExternalSecret"],
        "grafana-sidecar": ["ConfigMap"] * len(generate.dashboards()),
        "prometheus-operator": ["PrometheusRule", "ServiceMonitor"],
    }

    overlaid, base = objects(rendered(f"overlays/{overlay}")), objects(rendered("base"))

    assert all(each in overlaid for each in base)
    assert sorted(each["kind"] for each in overlaid if each not in base) == added[overlay]
    assert {each["metadata"]["namespace"] for each in overlaid} == {NAMESPACE}


@needs_kubectl
def test_all_components_can_be_combined(tmp_path: Path) -> None:
    """As in the README's example, from a folder of the user's own."""
    [example] = re.findall(r"```yaml\n# kustomization.yaml\n(.*?)```", (KUSTOMIZE / "README.md").read_text(), re.DOTALL)
    mine = yaml.safe_load(example.replace("../sbg-exporter/deploy/kubernetes", os.path.relpath(KUSTOMIZE, tmp_path)))
    [component] = mine["components"]
    mine["components"] = [component.replace("prometheus-operator", overlay) for overlay in OVERLAYS]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(mine))
    (tmp_path / "config.toml").write_text('log_level = "debug"\n')

    combined = objects(kubectl("kustomize", str(tmp_path)))

    settings, stateful = configuration(combined), only("StatefulSet", combined)
    [mounted] = [each for each in stateful["spec"]["template"]["spec"]["volumes"] if each["name"] == "config"]
    [container] = stateful["spec"]["template"]["spec"]["containers"]
    assert {each["kind"] for each in combined} >= {"ExternalSecret", "PrometheusRule", "ServiceMonitor"}
    assert settings["data"] == {"config.toml": 'log_level = "debug"\n'}
    assert mounted["configMap"]["name"] == settings["metadata"]["name"]
    assert container["image"] == f"registry.example/sbg-exporter:{__version__}"


@needs_kubectl
def test_the_web_config_is_mounted_and_probes_and_scrapes_use_https() -> None:
    among = objects(rendered("overlays/web-config"))
    pod = only("StatefulSet", among)["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [_, variable] = container["env"]
    [mount] = [each for each in container["volumeMounts"] if each["name"] == "web-config"]
    [volume] = [each["secret"] for each in pod["volumes"] if each["name"] == "web-config"]
    [endpoint] = only("ServiceMonitor", among)["spec"]["endpoints"]
    readme = (KUSTOMIZE / "README.md").read_text()

    assert variable["name"] == f"SBG_EXPORTER_{'web_config_file'.upper()}"
    assert Path(variable["value"]).parent == Path(mount["mountPath"])
    assert f"create secret generic {volume['secretName']} --from-file={Path(variable['value']).name} " in readme
    assert volume["defaultMode"] == 0o440
    assert {container[f"{name}Probe"]["httpGet"]["scheme"] for name in ("startup", "liveness", "readiness")} == {
        "HTTPS"
    }
    assert endpoint["scheme"] == "https"
    assert f"create secret generic {endpoint['basicAuth']['password']['name']} " in readme


@needs_kubectl
def test_the_port_of_a_proxy_is_opened_as_the_readme_says(tmp_path: Path) -> None:
    [example] = re.findall(r"```yaml\npatches:\n.*?```", (KUSTOMIZE / "README.md").read_text(), re.DOTALL)
    mine = yaml.safe_load(example.removeprefix("```yaml").removesuffix("```"))
    mine["resources"] = [os.path.relpath(KUSTOMIZE / "base", tmp_path)]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(mine))

    dns, platforms = only("NetworkPolicy", objects(kubectl("kustomize", str(tmp_path))))["spec"]["egress"]

    assert {each["port"] for each in dns["ports"]} == {53}
    assert [each["port"] for each in platforms["ports"]] == [443, 3128]


def test_the_readme_names_what_is_there() -> None:
    named = re.findall(r"\bdeploy/[\w./-]*\w", (KUSTOMIZE / "README.md").read_text())

    assert named
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


@needs_kubectl
def test_a_changed_configuration_restarts_the_pod() -> None:
    """The ConfigMap's name ends in a hash of what it says, and the pod names it."""
    [volume] = [each for each in stateful_set()["spec"]["template"]["spec"]["volumes"] if each["name"] == "config"]

    name = configuration(objects(rendered("base")))["metadata"]["name"]

    assert re.fullmatch(r"sbg-exporter-[a-z0-9]{10}", name)
    assert volume["configMap"]["name"] == name


@needs_both
@pytest.mark.parametrize("manifests", [name for name in RENDERINGS if name != "state"])
def test_each_changed_config_map_and_secret_takes_effect(manifests: str) -> None:
    """The configuration by a restart; Secrets and other files as the exporter reads them again, from whole folders.

    Kubernetes updates mounted folders, but neither a file that is mounted by ``subPath`` nor an environment variable.
    """
    among = objects(every_rendering()[manifests])
    settings, template = configuration(among), only("StatefulSet", among)["spec"]["template"]
    [container] = template["spec"]["containers"]
    annotations = template["metadata"].get("annotations", {})
    hashed = re.fullmatch(r"sbg-exporter-[a-z0-9]{10}", settings["metadata"]["name"])
    mounts = {each["name"]: each for each in container["volumeMounts"]}

    assert hashed or re.fullmatch(r"[0-9a-f]{64}", annotations["checksum/config"])
    for volume in template["spec"]["volumes"]:
        if "configMap" in volume or "secret" in volume:
            mount = mounts[volume["name"]]
            assert not {"subPath", "subPathExpr"} & set(mount), mount
            assert "items" not in volume.get("secret", {}), "a new key is there, too"
    assert "envFrom" not in container
    assert not any("valueFrom" in each for each in container.get("env", []))


@needs_both
@pytest.mark.parametrize("manifests", ["base", "helm-default", "helm-everything"])
def test_selectors_select_the_pod_and_nothing_else(manifests: str) -> None:
    among = objects(every_rendering()[manifests])
    stateful, policy = (only(kind, among) for kind in ("StatefulSet", "NetworkPolicy"))
    services = [each for each in among if each["kind"] == "Service"]
    labels = stateful["spec"]["template"]["metadata"]["labels"].items()
    selectors = [stateful["spec"]["selector"]["matchLabels"], policy["spec"]["podSelector"]["matchLabels"]]

    for selector in (*selectors, *(each["spec"]["selector"] for each in services)):
        assert set(selector) == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}
        assert selector.items() <= labels
        for pod in (each for each in among if each["kind"] == "Pod"):
            assert not selector.items() <= pod["metadata"]["labels"].items()


@needs_both
@pytest.mark.parametrize("manifests", ["base", "helm-default", "helm-everything"])
def test_the_governing_service_is_headless_and_is_not_scraped(manifests: str) -> None:
    """A ServiceMonitor selects both Services by their labels. Without a port, only one has a target."""
    among = objects(every_rendering()[manifests])

    governing = only("StatefulSet", among)["spec"]["serviceName"]
    [headless] = [each["spec"] for each in among if each["kind"] == "Service" and each["metadata"]["name"] == governing]
    assert (headless["clusterIP"], headless["publishNotReadyAddresses"], "ports" in headless) == ("None", True, False)
    assert service(among)["metadata"]["name"] != governing


@needs_both
def test_no_token_is_in_the_manifests_and_files_with_them_are_for_the_pod_alone() -> None:
    spec = stateful_set()["spec"]["template"]["spec"]
    [volume] = [each["secret"] for each in spec["volumes"] if "secret" in each]

    assert not any(each["kind"] == "Secret" for manifests in every_rendering().values() for each in objects(manifests))
    assert (volume["secretName"], oct(volume["defaultMode"])) == ("sbg-exporter-tokens", "0o440")
    assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"]


@needs_kubectl
def test_the_external_secret_makes_the_secret_that_the_pod_mounts() -> None:
    secret = only("ExternalSecret", objects(rendered("overlays/external-secret")))

    [volume] = [each["secret"] for each in stateful_set()["spec"]["template"]["spec"]["volumes"] if "secret" in each]
    accounts = tomllib.loads(configuration(objects(rendered("base")))["data"]["config.toml"])["accounts"]
    assert secret["spec"]["target"]["name"] == volume["secretName"]
    assert {each["secretKey"] for each in secret["spec"]["data"]} == {
        Path(account["auth_token_file"]).name for account in accounts
    }


@needs_kubectl
def test_the_pod_for_state_has_the_daemon_s_volume_image_and_user_and_is_not_scraped() -> None:
    pod, daemon = only("Pod", objects(rendered("state"))), stateful_set()["spec"]["template"]
    [claim] = stateful_set()["spec"]["volumeClaimTemplates"]
    [volume] = pod["spec"]["volumes"]
    [container], [other] = pod["spec"]["containers"], daemon["spec"]["containers"]

    assert volume["persistentVolumeClaim"]["claimName"] == f"{claim['metadata']['name']}-sbg-exporter-0"
    assert container["image"] == other["image"]
    assert all(mount in other["volumeMounts"] for mount in container["volumeMounts"])
    assert pod["spec"]["securityContext"] == daemon["spec"]["securityContext"]
    assert container["securityContext"] == other["securityContext"]
    assert not service(objects(rendered("base")))["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


@needs_kubectl
def test_the_pod_listens_where_the_daemon_does_by_default() -> None:
    default = int(str(Settings.model_fields["listen"].default).removeprefix(":"))
    [container] = stateful_set()["spec"]["template"]["spec"]["containers"]

    assert [port["containerPort"] for port in container["ports"]] == [default]


# ------------------------------------------------------------------------------------------ copies of what is elsewhere


def test_the_copies_are_current() -> None:
    wanted = generate.made()

    assert {path for path, text in wanted.items() if not path.exists() or path.read_text() != text} == set()
    assert generate.stale(KUSTOMIZE, wanted) == []


@needs_kubectl
def test_the_rule_object_says_what_the_rules_say() -> None:
    rules = yaml.safe_load((REPOSITORY / "deploy" / "prometheus" / "sbg-exporter.rules.yml").read_text())

    assert only("PrometheusRule", objects(rendered("overlays/prometheus-operator")))["spec"] == rules


@needs_kubectl
def test_the_dashboards_fit_what_kubectl_can_apply() -> None:
    dashboards = [
        each
        for each in objects(rendered("overlays/grafana-sidecar"))
        if each["metadata"]["labels"].get("grafana_dashboard") == "1"
    ]

    shown = [json.loads(text) for each in dashboards for text in each["data"].values()]
    originals = [json.loads(file.read_text()) for file in (REPOSITORY / "grafana" / "dashboards").glob("*.json")]
    assert sorted(shown, key=lambda each: str(each["uid"])) == sorted(originals, key=lambda each: str(each["uid"]))
    assert max(len(json.dumps(json.dumps(each))) for each in dashboards) < LARGEST_ANNOTATION


@needs_kubectl
def test_targets_are_called_as_the_alert_rules_expect() -> None:
    [endpoint] = only("ServiceMonitor", objects(rendered("overlays/prometheus-operator")))["spec"]["endpoints"]
    scraped = service(objects(rendered("base")))

    relabelled = {each["targetLabel"]: each for each in endpoint["relabelings"]}
    assert relabelled["job"]["replacement"] == "sbg-exporter"
    assert relabelled["instance"]["sourceLabels"] == ["__meta_kubernetes_pod_name"]
    assert endpoint["port"] in [port["name"] for port in scraped["spec"]["ports"]]


# ------------------------------------------------------------------------------------------------ what others say of it


@needs_both
@needs_checkers
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_object(version: str, written: list[str]) -> None:
    checked = checker("kubernetes-validate", "-k", version, "--strict", *written)

    lines = (checked.stdout + checked.stderr).splitlines()
    unknown = [match[1] for line in lines if (match := re.search(r"find schema for kind (\w+)", line))]
    passed = [line for line in lines if " passed for resource " in line]
    total = sum(len(objects(manifests)) for manifests in every_rendering().values())
    assert checked.returncode == 0, lines
    assert set(unknown) == FOREIGN
    assert len(passed) + len(unknown) == total == len(lines)


@needs_both
@needs_checkers
def test_the_operator_s_own_models_know_every_field() -> None:
    operated = [
        each for manifests in every_rendering().values() for each in objects(manifests) if each["kind"] in OPERATED
    ]

    checked = checker("python", "-c", ROUND_TRIP, given=json.dumps(operated))

    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout) == operated
    assert {each["kind"] for each in operated} == OPERATED


@needs_both
@needs_checkers
def test_checkov_finds_only_what_is_accepted_and_all_of_that(written: list[str]) -> None:
    """In all but the examples that show what a user may do to the pod: another user, another container, no probes."""
    allowed = [f"helm-{name}.yaml" for name in (*VALUES, "wishes") if name != "everything"]
    files = [argument for file in written if Path(file).name not in allowed for argument in ("-f", file)]

    checked = checker("checkov", *files, "--framework", "kubernetes", "--skip-download", "--quiet", "-o", "json")

    report = json.loads(checked.stdout)
    found = {(each["resource"].partition(".")[0], each["check_id"]) for each in report["results"]["failed_checks"]}
    assert report["summary"]["parsing_errors"] == 0
    assert {check for kind, check in found if kind != "Pod"} == set(ACCEPTED)
    assert {check for kind, check in found if kind == "Pod"} == {*ACCEPTED, *ACCEPTED_OF_STATE, *ACCEPTED_OF_TEST}


@needs_both
@pytest.mark.parametrize("name", ["base", "state", "helm-default", "helm-everything"])
def test_the_pod_meets_the_restricted_standard(name: str) -> None:
    among = objects(every_rendering()[name])
    spec = only("Pod", among)["spec"] if name == "state" else only("StatefulSet", among)["spec"]["template"]["spec"]
    [container] = spec["containers"]

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)


@needs_both
@pytest.mark.parametrize("name", ["base", "state", "helm-default", "helm-everything"])
def test_the_pod_is_bounded_and_has_nothing_of_its_node(name: str) -> None:
    among = objects(every_rendering()[name])
    stateful = [each["spec"]["template"]["spec"] for each in among if each["kind"] == "StatefulSet"]
    [spec] = stateful or [only("Pod", among)["spec"]]
    [container] = spec["containers"]
    volumes = [{key: value for key, value in each.items() if key != "name"} for each in spec["volumes"]]

    assert container["resources"]["limits"]["memory"]
    assert {kind for each in volumes for kind in each} <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
    assert [each for each in volumes if "emptyDir" in each and not each["emptyDir"]["sizeLimit"]] == []
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "shareProcessNamespace"} & set(spec)
    assert [each["automountServiceAccountToken"] for each in among if each["kind"] == "ServiceAccount"] == (
        [] if name == "state" else [False]
    )


# ------------------------------------------------------------------------------------------------------------- for real


@needs_kubectl
def test_the_daemon_runs_as_the_pod_tells_it_to(tmp_path: Path) -> None:
    """With the manifest's configuration, a token as a Secret is mounted, and the variables of a Service beside it."""
    among = objects(rendered("base"))
    spec = only("StatefulSet", among)["spec"]["template"]["spec"]
    [container] = spec["containers"]
    variables = injected(service(among))
    with running(QUIET) as simulator, Installation(tmp_path / "pod", Account.at(simulator)) as site:
        config = configuration(among)["data"]["config.toml"]
        for there, here in {
            "https://cavatica-api.sbgenomics.com/v2": simulator.url,
            "/run/secrets/": f"{site.folder}/",
            "/var/lib/sbg-exporter/": f"{site.folder}/",
        }.items():
            assert there in config
            config = config.replace(there, here)
        site.config.write_text(config)
        token = site.folder / "sbg-exporter-tokens" / "cavatica.token"
        token.parent.mkdir()
        token.write_text(DEMO_TOKEN)
        token.chmod(0o440)
        arguments = [each.replace("/etc/sbg-exporter/config.toml", str(site.config)) for each in container["args"]]

        with site.running(*arguments, SBG_EXPORTER_LISTEN="127.0.0.1:0", **variables) as daemon:
            probes = [container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")]
            answers = [daemon.get(path).status_code for path in probes]
            scrape = daemon.scrape()
            ended = daemon.stop(signal.SIGTERM)

    assert answers == [200, 200, 200]
    assert scrape.value("sbg_up", account="cavatica") == 1
    assert not daemon.said("token.exposed")
    assert ended == 0
    assert spec["terminationGracePeriodSeconds"] > ENDS_WITHIN


@needs_kubectl
def test_a_pod_can_be_played_by_itself() -> None:
    document = pod_document(
        rendered("base"),
        image="localhost/sbg-exporter:test",
        secrets={"sbg-exporter-tokens": {"cavatica.token": DEMO_TOKEN}},
        config='log_level = "debug"\n',
    )

    among = objects(document)
    assert [each["kind"] for each in among] == ["Secret", "ConfigMap", "PersistentVolumeClaim", "Pod"]
    pod, claim = only("Pod", among), only("PersistentVolumeClaim", among)
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]} == set(volumes)
    assert pod["spec"]["containers"][0]["image"] == "localhost/sbg-exporter:test"
    assert not any(key.endswith("Probe") for key in pod["spec"]["containers"][0])
    assert volumes["state"] == {
        "name": "state",
        "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]},
    }
    assert claim["metadata"]["name"] == "state-sbg-exporter-0"
    assert configuration(among)["data"]["config.toml"] == 'log_level = "debug"\n'


@needs_kubectl
def test_a_pod_is_not_played_without_its_secret() -> None:
    with pytest.raises(KeyError, match="sbg-exporter-tokens"):
        pod_document(rendered("base"), image="localhost/sbg-exporter:test", secrets={})


@needs_both
@needs_checkers
def test_a_played_pod_is_one_that_kubernetes_takes(tmp_path: Path) -> None:
    tokens = {"cavatica": DEMO_TOKEN, "rehearsal": DEMO_TOKEN}
    secrets = {"sbg-exporter-tokens": tokens, "platform-tokens": tokens, "cgc": {"imaging.token": DEMO_TOKEN}}
    secrets["sbg-exporter-web"] = {"web.yml": ""}
    for name in ("base", "helm-default", "helm-everything"):
        document = pod_document(every_rendering()[name], image="localhost/sbg-exporter:test", secrets=secrets)
        (tmp_path / f"{name}.yaml").write_text(document)

    checked = checker("kubernetes-validate", "-k", VERSIONS[-1], "--strict", *map(str, tmp_path.glob("*.yaml")))

    assert (checked.returncode, "WARN" in checked.stdout + checked.stderr) == (0, False), checked.stdout

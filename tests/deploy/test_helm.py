"""The Helm chart: it renders what the kustomize base says, refuses what is wrong, and is described as it is.

The golden renders in golden/ are what the chart must say, byte for byte, without the text of the rules and dashboards
that it copies. After a wanted change write them anew and look at the difference: ``python -m tests.deploy.test_helm``.
"""

import copy
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from deploy.helm import generate
from deploy.kubernetes.generate import dashboards, rule_groups, stale
from exporter import __version__
from exporter.simulator.server import DEMO_TOKEN
from tests.deploy.kubernetes_tools import (
    CHART,
    REPOSITORY,
    Object,
    Refused,
    configuration,
    contains,
    helm,
    kustomized,
    needs_both,
    needs_helm,
    objects,
    only,
    templated,
    wishes,
    without_hooks,
)
from tests.harness import Installation

GOLDEN: Final = Path(__file__).parent / "golden"
VALUES: Final = {file.stem.removesuffix("-values"): file for file in sorted((CHART / "ci").glob("*-values.yaml"))}
"""Examples of values, by name."""
EVERYTHING: Final = VALUES["everything"]
RENDERS: Final = {"helm-default": (), "helm-everything": ("--values", str(EVERYTHING))}
IMMUTABLE: Final = ("serviceName", "podManagementPolicy", "selector", "volumeClaimTemplates")
"""What Kubernetes does not let an upgrade change of a StatefulSet."""
ACCOUNT: Final = "existingSecret=tokens,accounts[0].name=a"
PARENTS_KEYS: Final = {"enabled"}
"""What only a parent chart sets."""
OPEN: Final = {"settings", "resources", "dnsConfig", "podDisruptionBudget"}
"""Values with a schema of their own and no defaults, or more keys than the defaults have."""
HASH: Final = "$2y$10$mDwo.lAisC94iLAyP81MCesa29IzH37oigHC/42V2pdJlUprsJPze"
SERVICE_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
"""What Kubernetes takes as the name of a Service."""


def golden(name: str) -> str:
    """A rendering, with the version and what is only copied left out."""
    text = templated(*RENDERS[name]).replace(__version__, "(version)")
    for copied in (each.strip() for each in dashboards().values()):
        text = text.replace(copied, "(copied)")
    return re.sub(r"(?<=\n  groups:\n).*?(?=\n---|\Z)", "    (rules)\n", text, flags=re.DOTALL)


def one_account(**more: object) -> str:
    """Values with one account, which has *more*."""
    account = {"name": "a", "apiEndpoint": "https://x.example/v2", "tokenSecret": {"name": "s", "key": "k"}, **more}
    return yaml.safe_dump({"accounts": [account]})


# -------------------------------------------------------------------------------------------------------------- renders


@needs_helm
def test_helm_has_no_complaint() -> None:
    helm("lint", "--strict", str(CHART))
    for file in VALUES.values():
        helm("lint", "--strict", str(CHART), "--values", str(file))


@needs_helm
@pytest.mark.parametrize("name", RENDERS)
def test_each_render_is_its_golden_one(name: str) -> None:
    assert golden(name) == (GOLDEN / f"{name}.yaml").read_text()


def test_everything_means_every_value() -> None:
    """So that the golden render and the checks of it leave nothing out."""
    defaults, everything = (yaml.safe_load(file.read_text()) for file in (CHART / "values.yaml", EVERYTHING))
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())["properties"]

    assert set(everything) == set(defaults) == set(schema) - PARENTS_KEYS
    for key, value in defaults.items():
        if schema[key].get("additionalProperties") is False and key not in OPEN:
            assert set(everything[key]) == set(value) == set(schema[key]["properties"]), key
    for nested in (("global",), ("route", "main"), ("service", "ipDualStack")):
        given, known = everything, {"properties": schema}
        for key in nested:
            given, known = given[key], known["properties"][key]
        assert set(given) == set(known["properties"]), nested
    assert set(everything["settings"]) == set(schema["settings"]["properties"])
    assert {key for account in everything["accounts"] for key in account} == set(
        schema["accounts"]["items"]["properties"]
    )


@needs_both
def test_the_chart_by_default_is_the_kustomize_base() -> None:
    charted, based = (comparable(objects(text)) for text in (templated(), kustomized("base")))

    assert charted == based


@needs_both
def test_the_operator_is_told_the_same_by_chart_and_component() -> None:
    charted = objects(templated("--set", "serviceMonitor.enabled=true,prometheusRule.enabled=true"))
    overlaid = objects(kustomized("overlays/prometheus-operator"))

    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert only(kind, charted)["spec"] == only(kind, overlaid)["spec"]


def comparable(among: list[Object]) -> dict[tuple[str, str], Any]:
    """The objects by kind and name, without what says only by which tool they were made."""
    among = without_hooks(copy.deepcopy(among))
    settings, stateful = configuration(among), only("StatefulSet", among)
    settings["data"] = {name: tomllib.loads(text) for name, text in settings["data"].items()}
    stateful["spec"]["template"]["metadata"].pop("annotations", None)
    pod = stateful["spec"]["template"]["spec"]
    volumes = {volume.pop("name"): volume for volume in pod.pop("volumes")}
    for volume in volumes.values():
        if volume.get("configMap") == {"name": settings["metadata"]["name"]}:
            volume["configMap"] = "the configuration"
    for container in pod["containers"]:
        for mount in container["volumeMounts"]:
            name = mount.pop("name")
            mount["volume"] = volumes.get(name, f"claim {name}")
    settings["metadata"]["name"] = "the configuration"
    for each in among:
        for label in ("app.kubernetes.io/managed-by", "helm.sh/chart"):
            each["metadata"]["labels"].pop(label, None)
    return {(each["kind"], each["metadata"]["name"]): each for each in among}


@needs_helm
def test_a_changed_configuration_restarts_the_pod(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(one_account())

    def checksum(*arguments: str) -> str:
        pod = only("StatefulSet", objects(templated(*arguments)))["spec"]["template"]
        return str(pod["metadata"]["annotations"]["checksum/config"])

    assert checksum() == checksum("--set", "resources.requests.cpu=1")
    different = (
        ("--set", "settings.poll_interval=1m"),
        ("--set", "webConfig.secretName=web"),
        ("--values", str(tmp_path / "values.yaml")),
    )
    assert len({checksum(), *(checksum(*each) for each in different)}) == 1 + len(different)


@needs_helm
def test_an_upgrade_changes_nothing_that_cannot_be_changed(tmp_path: Path) -> None:
    newer = tmp_path / "sbg-exporter"
    shutil.copytree(CHART, newer)
    chart = newer / "Chart.yaml"
    chart.write_text(chart.read_text().replace(__version__, "99.0.0"))

    before, after = (only("StatefulSet", objects(templated(chart=each)))["spec"] for each in (CHART, newer))

    assert "99.0.0" in after["template"]["spec"]["containers"][0]["image"]
    for field in IMMUTABLE:
        assert before[field] == after[field]


@needs_helm
def test_a_long_release_name_leaves_room_for_what_kubernetes_adds() -> None:
    """Helm allows 53 characters; a label of the pod is the StatefulSet's name, a hyphen and a hash of ten."""
    among = objects(templated(release="a" * 53))

    assert len(only("StatefulSet", among)["metadata"]["name"]) <= 63 - 11
    assert {each["metadata"]["name"] for each in among} == {
        f"{'a' * 52}{suffix}" for suffix in ("", "-headless", "-test")
    }


@needs_helm
@pytest.mark.parametrize("release", ["team.a", "1.2.3", "3-copies", "123", f"{'a' * 51}.b"])
def test_a_release_name_that_is_no_service_name_is_made_one(release: str) -> None:
    """Helm allows dots and leading digits, which Kubernetes allows in labels but not in the name of a Service."""
    among = objects(templated("--set", "dashboards.enabled=true", release=release))

    names = {each["metadata"]["name"] for each in among}
    assert [name for name in names if not SERVICE_NAME.fullmatch(name)] == []
    assert len(only("StatefulSet", among)["metadata"]["name"]) <= 63 - 11
    assert {each["metadata"]["labels"]["app.kubernetes.io/instance"] for each in among} == {release}


@needs_helm
@pytest.mark.parametrize("name", ["Team_A", "v1.2", "2nd"])
def test_a_name_override_that_is_no_service_name_is_made_one(name: str) -> None:
    among = without_hooks(
        objects(templated("--set-string", f"nameOverride={name}", release=name.lower().replace("_", "-")))
    )

    assert [each["metadata"]["name"] for each in among if not SERVICE_NAME.fullmatch(each["metadata"]["name"])] == []
    assert {each["metadata"]["labels"]["app.kubernetes.io/name"] for each in among} == {name}


def parent_chart(folder: Path, **dependency: str) -> Path:
    """A chart that has this one as a dependency."""
    parent = folder / "parent"
    shutil.copytree(CHART, parent / "charts" / CHART.name)
    listed = {"name": CHART.name, "version": __version__, **dependency}
    about = {"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": [listed]}
    (parent / "Chart.yaml").write_text(yaml.safe_dump(about))
    return parent


@needs_helm
@pytest.mark.parametrize("alias", [None, "bulkJobs", "bulk_jobs"])
def test_a_parent_chart_may_switch_it_on_and_off(alias: str | None, tmp_path: Path) -> None:
    key = alias or CHART.name
    parent = parent_chart(tmp_path, condition=f"{key}.enabled", **({"alias": alias} if alias else {}))

    on, off = (
        objects(templated("--set", f"{key}.enabled={value},global.team=a,global.imageRegistry=mirror", chart=parent))
        for value in ("true", "false")
    )

    assert {each["kind"] for each in on} == {each["kind"] for each in objects(templated())}
    assert [each["metadata"]["name"] for each in on if not SERVICE_NAME.fullmatch(each["metadata"]["name"])] == []
    assert images(on) == {f"mirror/sbg-exporter/sbg-exporter:{__version__}"}
    assert off == []


def images(among: list[Object]) -> set[str]:
    """The images of the exporter and of its test."""
    pods = [only("StatefulSet", among)["spec"]["template"], only("Pod", among)]
    return {container["image"] for pod in pods for container in pod["spec"]["containers"]}


@needs_helm
@pytest.mark.parametrize(
    ("values", "image"),
    [
        ("image.tag=v1", "ghcr.io/sbg-exporter/sbg-exporter:v1"),
        ("image.registry=,image.repository=r.example/sbg,image.tag=v1", "r.example/sbg:v1"),
        ("image.registry=r.example/,image.tag=v1", "r.example/sbg-exporter/sbg-exporter:v1"),
        (f"image.tag=v1,image.digest=sha256:{'0' * 64}", f"ghcr.io/sbg-exporter/sbg-exporter@sha256:{'0' * 64}"),
        ("image.tag=v1,global.imageRegistry=mirror:5000", "mirror:5000/sbg-exporter/sbg-exporter:v1"),
        ("image.tag=v1,global=null", "ghcr.io/sbg-exporter/sbg-exporter:v1"),
    ],
)
def test_the_image_is_put_together(values: str, image: str) -> None:
    assert images(objects(templated("--set", values))) == {image}


@needs_helm
def test_labels_of_all_objects_are_not_in_what_an_upgrade_cannot_change() -> None:
    plain, labelled = (
        only("StatefulSet", objects(templated(*arguments)))["spec"]
        for arguments in ((), ("--set", "commonLabels.team=data,commonAnnotations.contact=me"))
    )

    assert labelled["template"]["metadata"]["labels"]["team"] == "data"
    for field in IMMUTABLE:
        assert plain[field] == labelled[field]


@needs_helm
def test_it_is_not_switched_off_without_a_parent_s_condition(tmp_path: Path) -> None:
    """It would be installed all the same."""
    for chart, value in ((CHART, "enabled=false"), (parent_chart(tmp_path), "sbg-exporter.enabled=false")):
        with pytest.raises(Refused, match=r"enabled: .*condition: sbg-exporter\.enabled"):
            templated("--set", value, chart=chart)


@needs_helm
def test_openshift_may_choose_the_user() -> None:
    null = ",".join(f"podSecurityContext.{key}=null" for key in ("runAsUser", "runAsGroup", "fsGroup"))

    pod = only("StatefulSet", objects(templated("--set", null)))["spec"]["template"]["spec"]

    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


@needs_both
@pytest.mark.parametrize("word", ["no", "null", "123", "1e3"])
def test_what_yaml_takes_for_something_else_stays_a_word(word: str) -> None:
    """A label, and the name of a namespace, a Secret or a class, is a text for Kubernetes, or nothing at all."""
    secret = f"accounts[0].name=a,accounts[0].apiEndpoint=https://x.example/v2,accounts[0].tokenSecret.key={word}"
    names = f"accounts[0].tokenSecret.name={word},serviceAccount.name={word},priorityClassName={word}"
    storage = f"persistence.storageClass={word},nameOverride={word}"

    rendered = helm("template", word, str(CHART), "--namespace", word, "--set-string", f"{secret},{names},{storage}")

    for each in (among := without_hooks(objects(rendered))):
        about = each["metadata"]
        labels = [about["labels"][f"app.kubernetes.io/{label}"] for label in ("name", "instance")]
        assert (about["namespace"], labels) == (word, [word, word])
    spec = only("StatefulSet", among)["spec"]
    pod, [claim] = spec["template"]["spec"], spec["volumeClaimTemplates"]
    secrets = [each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each]
    assert (pod["serviceAccountName"], pod["priorityClassName"], secrets) == (word, word, [word])
    assert claim["spec"]["storageClassName"] == word
    assert only("ServiceAccount", among)["metadata"]["name"] == word


@needs_helm
def test_settings_that_are_all_commented_out_are_none(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text("settings:\n  # poll_interval: 1m\n")

    assert templated("--values", str(tmp_path / "values.yaml")) == templated()


@needs_helm
@pytest.mark.parametrize(
    ("switch", "kind"),
    [
        ("networkPolicy.enabled", "NetworkPolicy"),
        ("serviceAccount.create", "ServiceAccount"),
        ("serviceMonitor.enabled", "ServiceMonitor"),
        ("prometheusRule.enabled", "PrometheusRule"),
        ("podMonitor.enabled", "PodMonitor"),
    ],
)
def test_a_switch_brings_one_object(switch: str, kind: str) -> None:
    on, off = (
        [each["kind"] for each in objects(templated("--set", f"{switch}={value}"))] for value in ("true", "false")
    )

    assert sorted(on) == sorted([*off, kind])


@needs_helm
def test_the_rules_and_dashboards_are_those_of_the_project() -> None:
    among = objects(templated("--set", "prometheusRule.enabled=true,dashboards.enabled=true"))

    shown = {name: text.strip() for each in among if each["kind"] == "ConfigMap" for name, text in each["data"].items()}
    del shown["config.toml"]
    assert only("PrometheusRule", among)["spec"] == yaml.safe_load(rule_groups())
    assert shown == {name: text.strip() for name, text in dashboards().items()}


@needs_helm
def test_notes_say_what_is_still_to_be_done() -> None:
    printed = helm("install", "copies", str(CHART), "--dry-run=client", "--values", str(EVERYTHING))

    notes = printed.partition("NOTES:\n")[2]
    for told in ("platform-tokens, key cavatica", "cgc, key imaging.token", "service/team-a-bulk-jobs 10037:9100"):
        assert told in notes
    assert "{{" not in notes


@needs_helm
def test_the_chart_packs_and_renders_from_its_package(tmp_path: Path) -> None:
    helm("package", str(CHART), "--destination", str(tmp_path))

    package = tmp_path / f"sbg-exporter-{__version__}.tgz"
    assert templated(*RENDERS["helm-everything"], chart=package) == templated(*RENDERS["helm-everything"])


@needs_helm
@pytest.mark.parametrize(("tls", "schemes"), [("true", {"HTTPS"}), ("false", {None})])
def test_a_web_config_is_mounted_and_probes_use_its_scheme(tls: str, schemes: set[str | None]) -> None:
    values = f"webConfig.secretName=web,webConfig.tls={tls},serviceMonitor.enabled=true"
    among = objects(templated("--set", values))

    pod = only("StatefulSet", among)["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [mount] = [each for each in container["volumeMounts"] if each["name"] == "web-config"]
    [volume] = [each["secret"] for each in pod["volumes"] if each["name"] == "web-config"]
    probes = [container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    [endpoint] = only("ServiceMonitor", among)["spec"]["endpoints"]
    config = tomllib.loads(configuration(among)["data"]["config.toml"])
    assert Path(config["web_config_file"]) == Path(mount["mountPath"]) / "web-config.yml"
    assert volume == {"secretName": "web", "defaultMode": 0o440}
    assert {probe.get("scheme") for probe in probes} == schemes
    assert endpoint.get("scheme") == ("https" if tls == "true" else None)


@needs_helm
@pytest.mark.parametrize("number", range(20))
def test_a_wish_of_platform_teams_is_fulfilled(number: int) -> None:
    """Values for it, what they give, and who asked for it are in chart-wishes.yaml."""
    wish = wishes()[number]

    among = objects(wish.manifests)
    assert [part for part in wish.gives if not any(contains(each, part) for each in among)] == [], wish.title


@needs_helm
def test_an_existing_configuration_is_mounted_in_place_of_one_from_values() -> None:
    among = objects(templated("--values", str(VALUES["existing"])))
    notes = helm("install", "copies", str(CHART), "--dry-run=client", "--values", str(VALUES["existing"]))

    template = only("StatefulSet", among)["spec"]["template"]
    volumes = {each["name"]: each for each in template["spec"]["volumes"]}
    assert [each["metadata"]["name"] for each in among if each["kind"] == "ConfigMap"] == ["jobs-config"]
    assert "checksum/config" not in template["metadata"].get("annotations", {})
    assert volumes["config"]["configMap"] == {"name": "jobs-config"}
    assert [each["secret"]["secretName"] for each in volumes.values() if "secret" in each] == ["jobs-tokens"]
    assert "rollout restart statefulset/copies-sbg-exporter" in notes
    assert "cavatica" not in notes  # the default account, which is not polled


@needs_helm
def test_accounts_share_a_secret_by_their_names() -> None:
    account = "accounts[0].name=a b,accounts[0].apiEndpoint=https://x.example/v2"
    named = account.replace("a b", "a")

    [polled] = tomllib.loads(
        configuration(objects(templated("--set", f"{named},existingSecret=tokens")))["data"]["config.toml"]
    )["accounts"]

    assert polled["auth_token_file"] == "/run/secrets/tokens/a.token"  # a path
    with pytest.raises(Refused, match='accounts: "a" has no tokenSecret; set it, or existingSecret'):
        templated("--set", named)
    with pytest.raises(Refused, match='"a b" cannot be the key of a Secret'):
        templated("--set", f"{account},existingSecret=tokens")


@needs_helm
@pytest.mark.parametrize(
    ("values", "volume", "claims", "told"),
    [
        ("persistence.storageClass=-", None, [{"storageClassName": ""}], "keeps this volume"),
        ("persistence.existingClaim=mine", {"persistentVolumeClaim": {"claimName": "mine"}}, [], "the claim mine has"),
        ("persistence.enabled=false,persistence.size=2Gi", {"emptyDir": {"sizeLimit": "2Gi"}}, [], "counters are lost"),
    ],
)
def test_the_state_is_on_the_volume_that_is_wanted(
    values: str, volume: Object | None, claims: list[Object], told: str
) -> None:
    spec = only("StatefulSet", objects(templated("--set", values)))["spec"]

    state = [each for each in spec["template"]["spec"]["volumes"] if each["name"] == "state"]
    assert state == ([{"name": "state", **volume}] if volume else [])
    assert contains([each["spec"] for each in spec.get("volumeClaimTemplates", [])], claims)
    assert len(spec.get("volumeClaimTemplates", [])) == len(claims)
    assert told in helm("install", "copies", str(CHART), "--dry-run=client", "--set", values)


@needs_helm
def test_an_alert_can_be_left_out_and_changed_and_all_others_stay() -> None:
    left_out = (  # all of the last group
        "SbgExporterDown",
        "SbgStateNotWritable",
        "SbgConfigReloadFailed",
        "SbgAccountsMissing",
    )
    given = ",".join(f"prometheusRule.disabled.{alert}=true" for alert in left_out)
    changed = "prometheusRule.customRules.SbgJobLost.severity=critical,prometheusRule.disabled.SbgJobLost=false"

    among = objects(templated("--set", f"prometheusRule.enabled=true,{given},{changed}"))

    expected = yaml.safe_load(rule_groups())["groups"]
    assert {rule["alert"] for rule in expected.pop()["rules"]} == set(left_out)
    [lost] = [rule for group in expected for rule in group["rules"] if rule.get("alert") == "SbgJobLost"]
    lost["labels"]["severity"] = "critical"
    assert only("PrometheusRule", among)["spec"]["groups"] == expected


def test_every_alert_has_its_runbook_where_a_copy_is_expected_to_have_it() -> None:
    """``prometheusRule.runbookUrl`` replaces what is before the name."""
    rules = [rule for group in yaml.safe_load(rule_groups())["groups"] for rule in group["rules"] if "alert" in rule]

    assert [each["alert"] for each in rules] == generate.alerts()
    for rule in rules:
        assert rule["annotations"]["runbook_url"].partition("#")[2] == rule["alert"].lower()


@needs_helm
def test_the_network_policy_lets_the_test_s_pod_in() -> None:
    among = objects(templated("--values", str(EVERYTHING)))

    [peers, _] = [rule.get("from", []) for rule in only("NetworkPolicy", among)["spec"]["ingress"]]
    [selector] = [peer["podSelector"]["matchLabels"] for peer in peers if "podSelector" in peer]
    assert selector.items() <= only("Pod", among)["metadata"]["labels"].items()


@needs_helm
@pytest.mark.parametrize(("answers", "code"), [([503, 200], 0), ([503], 1)])
def test_helm_test_waits_until_the_exporter_is_ready(answers: list[int], code: int) -> None:
    """Runs the pod's command, without its pauses; the last answer is repeated."""
    [container] = only("Pod", objects(templated()))["spec"]["containers"]
    _, option, script, url = container["command"]
    asked = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server calls
            asked.append(self.path)
            self.send_response(answers[min(len(asked), len(answers)) - 1])
            self.end_headers()
            self.wfile.write(b"not ready: no poll yet\n")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    assert "time.sleep(3)" in script
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = url.replace("sbg-exporter.sbg-exporter.svc:10037", f"127.0.0.1:{server.server_port}")
        command = [sys.executable, option, script.replace("time.sleep(3)", ""), here]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        server.shutdown()

    assert (done.returncode, set(asked)) == (code, {"/-/ready"})
    assert len(asked) == (2 if code == 0 else 20)
    assert "not ready: no poll yet" in done.stdout


@needs_helm
@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ("extraArgs[0]=--listen=:80", "extraArgs: --listen is set by the chart"),
        ("extraArgs[0]=--config", "extraArgs: --config is set by the chart"),
        ("extraEnv[0].name=SBG_EXPORTER_STATE_FILE", "extraEnv: SBG_EXPORTER_STATE_FILE is set by the chart"),
        ("serviceMonitor.enabled=true,podMonitor.enabled=true", "podMonitor: serviceMonitor is enabled too"),
        ("existingConfigMap=own,settings.poll_interval=1m", "settings: existingConfigMap has the whole configuration"),
        ("extraVolumes[0].name=state", 'extraVolumes: the chart has a volume "state" of its own'),
        ("extraContainers[0].name=sbg-exporter", "the exporter's container is called sbg-exporter"),
        ("initContainers[0].name=sbg-exporter", "the exporter's container is called sbg-exporter"),
        ("podDisruptionBudget.minAvailable=1,podDisruptionBudget.maxUnavailable=0", "minAvailable or maxUnavailable"),
        ("service.nodePort=30000", r"service\.nodePort: set service\.type to NodePort or LoadBalancer"),
        ("service.loadBalancerSourceRanges[0]=10.0.0.0/8", r"service\.loadBalancerSourceRanges: set service\.type"),
        (
            f"{ACCOUNT},accounts[0].apiEndpoint=http://simulator/v2",
            '"a" has an http:// endpoint, which would get the token',
        ),
        (
            f"{ACCOUNT},accounts[0].apiEndpoint=http://127.evil/v2",
            '"a" has an http:// endpoint, which would get the token',
        ),
        (
            f"{ACCOUNT},accounts[0].apiEndpoint=https://cavatica.sbgenomics.com/u/lab/project",
            r"\"a\" is a web address of the platform, not its API; should it be https://cavatica-api\.sbgenomics\.com/v2",
        ),
        (
            f"{ACCOUNT},accounts[0].apiEndpoint=https://App.CGC.sbgenomics.com",
            r"not its API; should it be https://cgc-api\.sbgenomics\.com/v2",
        ),
        (
            f"{ACCOUNT},accounts[0].apiEndpoint=https://eu-api.sbgenomics.com/v2/user",
            r"more than the API's base URL; should it be https://eu-api\.sbgenomics\.com/v2",
        ),
        (
            f"{ACCOUNT},accounts[0].apiEndpoint=https://x.example/v2,accounts[0].proxy=socks5://proxy:1080",
            'the proxy of "a" must be http or https',
        ),
        ("podMonitor.interval=5s", r"podMonitor\.scrapeTimeout: 10s is longer than podMonitor\.interval, 5s"),
        ("ingress.enabled=true", r"ingress\.hosts: list at least one host"),
        ("route.main.enabled=true", r"route\.main\.parentRefs: list at least one gateway"),
        ("route.other.enabled=true", r"route\.other\.parentRefs: list at least one gateway"),
    ],
)
def test_values_that_do_not_go_together_are_refused(values: str, complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        templated("--set", values)


@needs_helm
@pytest.mark.parametrize(
    "endpoint",
    [
        "https://API.sevenbridges.cn",
        "https://api.sb.biodatacatalyst.nhlbi.nih.gov/v2/",
        "https://new.sbgenomics.com/v2",
        "https://eu-api.sbgenomics.com/v2//",
        "https://eu-api.sbgenomics.com//",
        "https://eu-api.sbgenomics.com/v2/ ",
        "https://eu-api.sbgenomics.com ",
    ],
)
def test_an_api_is_not_taken_for_a_web_address(endpoint: str) -> None:
    """Two are sub-domains of web addresses, one may be a new platform's; the rest is what the exporter accepts, too."""
    assert endpoint in templated("--set", f"{ACCOUNT},accounts[0].apiEndpoint={endpoint}")


@needs_helm
def test_the_token_may_go_to_a_proxy_in_the_pod_unencrypted() -> None:
    for endpoint in ("http://localhost:8080/v2", "http://127.0.0.1/v2", "http://[::1]:8080"):
        assert f'"{endpoint}"' in templated("--set", f"{ACCOUNT},accounts[0].apiEndpoint={endpoint}")


# ----------------------------------------------------------------------------------------------------------- the values


@needs_helm
@pytest.mark.parametrize("name", RENDERS)
def test_the_exporter_takes_the_configuration(name: str, tmp_path: Path) -> None:
    config = configuration(objects(templated(*RENDERS[name])))["data"]["config.toml"]
    with Installation(tmp_path / "pod") as site:
        for account in tomllib.loads(config)["accounts"]:
            token = site.folder / Path(account["auth_token_file"]).relative_to("/run/secrets")
            token.parent.mkdir(exist_ok=True)
            token.write_text(DEMO_TOKEN)
            token.chmod(0o440)
        authority = site.folder / "ca.pem"
        shutil.copy(certificates(), authority)
        (site.folder / "web.yml").write_text(f"basic_auth_users: {{prometheus: {HASH}}}\n")
        config = config.replace("/run/web-config/", f"{site.folder}/")
        config = config.replace("/run/secrets/", f"{site.folder}/").replace(
            "/etc/ssl/private-ca/ca.pem", str(authority)
        )
        site.config.write_text(config)

        checked = site.start("check", "--offline", "--config", str(site.config))

        assert checked.end() == 0, checked.output()


def certificates() -> str:
    """Some authority's certificates."""
    import certifi  # noqa: PLC0415  # httpx brings it

    return certifi.where()


@needs_helm
@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("acounts=x", "acounts"),
        ("image.tga=x", "tga"),
        ("image.digest=sha256:short", "digest"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("settings.pol_interval=1m", "pol_interval"),
        ("settings.poll_interval=often", "poll_interval"),
        ("settings.job_series=many", "job_series"),
        ("settings.history=all", "history"),
        ("settings.rate_share=5", "rate_share"),
        ("settings.rate_share=0", "rate_share"),
        ("settings.job_series=-1", "job_series"),
        ("fullnameOverride=A B", "fullnameOverride"),
        ("nameOverride=a/b", "nameOverride"),
        ("settings.listen=:80", "listen"),
        ("settings.web_config_file=/tmp/web.yml", "web_config_file"),
        ("webConfig.secretName=A_B", "secretName"),
        ("webConfig.key=a/b", "key"),
        ("webConfig.tls=perhaps", "tls"),
        ("settings.state_file=/tmp/state.db", "state_file"),
        ("persistence.accessModes[0]=ReadWriteMany", "accessModes"),
        ("persistence.size=big", "size"),
        ("service.port=100000", "port"),
        ("replicas=2", "replicas"),
        ("terminationGracePeriodSeconds=5", "terminationGracePeriodSeconds"),
        ("serviceMonitor.enabled=perhaps", "enabled"),
        ("serviceMonitor.interval=often", "interval"),
        ("networkPolicy.egressPorts[0]=https", "egressPorts"),
        ("dashboards.labels.grafana_dashboard=1", "grafana_dashboard"),
        ("imagePullSecrets[0].nam=x", "imagePullSecrets"),
        ("extraArgs[0]=debug", "extraArgs"),
        ("extraEnv.HTTPS_PROXY=x", "extraEnv"),
        ("extraEnv[0].name=WORKERS,extraEnv[0].value=1", "value"),
        ("commonLabels.team=1", "commonLabels"),
        ("commonLabels.team=a/b", "team"),
        ("serviceMonitor.scheme=ftp", "scheme"),
        ("service.type=ExternalName", "type"),
        ("ingress.hosts[0].paths[0].path=jobs", "path"),
        ("route.main.hostname=x", "hostname"),
        ("serviceMonitor.additionalLabels.release=x", "additionalLabels"),
        ("prometheusRule.disabled.SbgNoSuchAlert=true", "SbgNoSuchAlert"),
        ("prometheusRule.customRules.SbgJobStuck.for=long", "SbgJobStuck"),
        ("prometheusRule.customRules.SbgJobStuck.expr=1", "expr"),
        ("prometheusRule.runbookUrl=wiki", "runbookUrl"),
    ],
)
def test_a_wrong_value_is_refused(value: str, complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        templated("--set", value)


@needs_helm
@pytest.mark.parametrize(
    "keys",
    [
        ["image", "webConfig", "persistence", "service", "ingress", "serviceAccount", "networkPolicy", "dashboards"],
        ["serviceMonitor", "podMonitor", "prometheusRule", "automountServiceAccountToken"],
        ["networkPolicy.dnsPorts", "networkPolicy.egressPorts"],  # without ports, a rule allows all of them
        ["persistence.enabled", "persistence.size", "persistence.accessModes"],
        ["service.port", "service.ipDualStack"],
    ],
)
def test_a_value_that_is_commented_out_by_mistake_is_refused_by_its_name(keys: list[str]) -> None:
    """What is empty in a file of values is null, which removes the default."""
    with pytest.raises(Refused, match="missing propert") as refused:
        templated("--set", ",".join(f"{key}=null" for key in keys))

    for key in keys:
        assert f"'{key.rpartition('.')[2]}'" in str(refused.value)


@needs_helm
@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ("accounts: []", "accounts"),
        ("accounts:", "accounts"),
        (one_account(name="two\nlines"), "name"),
        ("accounts: [{name: a, apiEndpoint: 'https://x.example/v2'}]", "tokenSecret"),
        (one_account(token="secret"), "token"),  # the chart takes no tokens, so that none is in a release
        (one_account(apiEndpoint="x.example"), "apiEndpoint"),
        (one_account(caFile="ca.pem"), "caFile"),
        (one_account(allowPlainHttp="yes"), "allowPlainHttp"),
        (one_account(pollInterval="often"), "pollInterval"),
        (one_account(rateShare=2), "rateShare"),
        (one_account(jobSeries=None), "jobSeries"),
    ],
)
def test_a_wrong_account_is_refused(values: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(values)

    with pytest.raises(Refused, match=complaint):
        templated("--values", str(tmp_path / "values.yaml"))


@needs_helm
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("podLabels", r"app\.kubernetes\.io/name"),
        ("podLabels", r"app\.kubernetes\.io/instance"),
        ("commonLabels", r"app\.kubernetes\.io/name"),
        ("podAnnotations", "checksum/config"),
    ],
)
def test_what_the_chart_itself_sets_of_a_pod_is_refused(key: str, value: str) -> None:
    """The pod would have the key twice, and with another value no selector would find it."""
    with pytest.raises(Refused, match=f"{key}: .*{value}.* is set by the chart"):
        templated("--set-string", f"{key}.{value}=x")


class UniqueKeys(yaml.SafeLoader):
    """Reads YAML, and rejects a mapping with the same key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  # as in PyYAML
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key is there twice among {keys}"
        return super().construct_mapping(node, deep)


@needs_helm
def test_the_release_s_label_is_on_all_objects_but_not_in_what_an_upgrade_cannot_change() -> None:
    among = objects(templated("--set", "releaseLabel=true,serviceMonitor.enabled=true", release="monitoring"))

    assert {each["metadata"]["labels"].get("release") for each in among} == {"monitoring"}
    stateful = only("StatefulSet", among)["spec"]
    assert "release" not in stateful["selector"]["matchLabels"]
    assert "release" not in stateful["volumeClaimTemplates"][0]["metadata"]["labels"]


@needs_helm
@pytest.mark.parametrize(
    ("kind", "endpoints"), [("ServiceMonitor", "endpoints"), ("PodMonitor", "podMetricsEndpoints")]
)
def test_a_proxy_s_scheme_is_scraped(kind: str, endpoints: str) -> None:
    name = f"{kind[0].lower()}{kind[1:]}"

    [endpoint] = only(kind, objects(templated("--set", f"{name}.enabled=true,{name}.scheme=https")))["spec"][endpoints]
    [usual] = only(kind, objects(templated("--set", f"{name}.enabled=true")))["spec"][endpoints]

    assert (endpoint["scheme"], "scheme" in usual) == ("https", False)


@needs_helm
def test_labels_of_its_own_for_an_object_replace_the_chart_s() -> None:
    """Some Prometheus selects by a label that the chart sets too."""
    label = r"app\.kubernetes\.io/part-of"
    with_labels = {"serviceMonitor": "labels", "prometheusRule": "additionalLabels", "dashboards": "labels"}
    given = ",".join(f"{each}.enabled=true,{each}.{key}.{label}=monitoring" for each, key in with_labels.items())

    rendered = templated("--set", given, "--set-string", f"podLabels.{label}=mine")

    among = [each for each in yaml.load_all(rendered, UniqueKeys) if each]  # a SafeLoader
    labelled = [each for each in among if each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "monitoring"]
    assert sorted({each["kind"] for each in labelled}) == ["ConfigMap", "PrometheusRule", "ServiceMonitor"]
    assert only("StatefulSet", among)["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/part-of"] == "mine"


@needs_helm
@pytest.mark.parametrize("name", RENDERS)
def test_no_key_is_there_twice(name: str) -> None:
    assert list(yaml.load_all(templated(*RENDERS[name]), UniqueKeys))  # a SafeLoader


@needs_helm
@pytest.mark.parametrize(
    ("interval", "timeout"), [("5s", "10s"), ("30s", "1m"), ("9000ms", "10s"), ("1m", "1h"), ("59s", "60000ms")]
)
def test_a_scrape_must_not_take_longer_than_the_interval(interval: str, timeout: str) -> None:
    """Prometheus rejects such a configuration as a whole."""
    with pytest.raises(Refused, match=f"scrapeTimeout: {timeout} is longer than .*interval, {interval}"):
        templated(
            "--set",
            f"serviceMonitor.enabled=true,serviceMonitor.interval={interval},serviceMonitor.scrapeTimeout={timeout}",
        )


@needs_helm
@pytest.mark.parametrize(("interval", "timeout"), [("10s", "10s"), ("1m", "60s"), ("1h", "59m"), ("1s", "999ms")])
def test_a_scrape_may_take_as_long_as_the_interval(interval: str, timeout: str) -> None:
    given = f"serviceMonitor.enabled=true,serviceMonitor.interval={interval},serviceMonitor.scrapeTimeout={timeout}"

    [endpoint] = only("ServiceMonitor", objects(templated("--set", given)))["spec"]["endpoints"]

    assert (endpoint["interval"], endpoint["scrapeTimeout"]) == (interval, timeout)


def egress_ports(*arguments: str) -> set[int]:
    """Ports that the NetworkPolicy opens beside DNS."""
    policy = only("NetworkPolicy", objects(templated(*arguments)))
    [_, platforms] = policy["spec"]["egress"]
    ports = [each["port"] for each in platforms["ports"]]
    assert len(ports) == len(set(ports))
    return set(ports)


@needs_helm
@pytest.mark.parametrize(
    ("account", "port"),
    [
        ({"proxy": "http://proxy.example:3128"}, 3128),
        ({"proxy": "http://proxy.example:3128/"}, 3128),
        ({"proxy": "https://proxy.example"}, 443),
        ({"proxy": "HTTP://proxy.example"}, 80),
        ({"proxy": "proxy.example:8080"}, 8080),
        ({"proxy": "10.0.0.1"}, 80),
        ({"proxy": "http://[2001:db8::3128]:1080"}, 1080),
        ({"proxy": "http://[2001:db8::3128]"}, 80),
        ({"apiEndpoint": "https://platform.example:8443/v2"}, 8443),
        ({"apiEndpoint": "http://platform.example/v2", "allowPlainHttp": True}, 80),
    ],
)
def test_the_network_policy_opens_the_ports_of_proxies_and_platforms(
    account: dict[str, object], port: int, tmp_path: Path
) -> None:
    (tmp_path / "values.yaml").write_text(one_account(**account))

    assert egress_ports("--values", str(tmp_path / "values.yaml")) == {443, port}


@needs_helm
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY"])
def test_the_network_policy_opens_the_port_of_a_proxy_in_the_environment(variable: str) -> None:
    given = f"extraEnv[0].name={variable},extraEnv[0].value=http://proxy.example:3128"
    others = "extraEnv[1].name=NO_PROXY,extraEnv[1].value=.example:99"

    assert egress_ports("--set", f"{given},{others}") == {443, 3128}


@needs_helm
@pytest.mark.parametrize("proxy", ["http://user:p%40ss:w@proxy.example:3128/", "user@10.0.0.1:3128"])
def test_a_proxy_s_password_is_not_put_into_a_config_map(proxy: str, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(one_account(proxy=proxy))

    with pytest.raises(Refused, match='proxy of "a" has credentials') as refused:
        templated("--values", str(tmp_path / "values.yaml"))

    assert proxy not in str(refused.value)
    assert egress_ports("--set", f"extraEnv[0].name=HTTPS_PROXY,extraEnv[0].value={proxy}") == {443, 3128}


@needs_helm
def test_notes_tell_of_a_proxy_whose_port_the_chart_cannot_know() -> None:
    secret = "extraEnv[0].valueFrom.secretKeyRef.name=proxy,extraEnv[0].valueFrom.secretKeyRef.key=url"
    install = ("install", "copies", str(CHART), "--dry-run=client", "--set")
    told = "add its port to networkPolicy.egressPorts"

    with_secret = helm(*install, f"extraEnv[0].name=HTTPS_PROXY,{secret}")
    with_value = helm(*install, "extraEnv[0].name=HTTPS_PROXY,extraEnv[0].value=http://proxy.example:3128")
    with_some = helm(*install, "envFrom[0].secretRef.name=proxy,existingConfigMap=mine")
    unrestricted = helm(*install, f"networkPolicy.enabled=false,extraEnv[0].name=HTTPS_PROXY,{secret}")

    assert [told in each for each in (with_secret, with_value, unrestricted)] == [True, False, False]
    assert "HTTPS_PROXY" in with_secret.partition("NOTES:")[2]
    assert "If a platform or proxy in envFrom and existingConfigMap has another port" in with_some


@needs_helm
def test_an_account_s_name_is_not_there_twice(tmp_path: Path) -> None:
    values = yaml.safe_load(one_account())
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"accounts": values["accounts"] * 2}))

    with pytest.raises(Refused, match='the name "a" is used twice'):
        templated("--values", str(tmp_path / "values.yaml"))


# --------------------------------------------------------------------------------------------------------- what is made


def test_what_is_made_is_current() -> None:
    """Version, settings in the schema, table of values, rules, dashboards: python -m deploy.helm.generate."""
    wanted = generate.made()

    assert {path for path, text in wanted.items() if not path.exists() or path.read_text() != text} == set()
    assert stale(CHART, wanted) == []


def test_chart_and_application_have_the_exporter_s_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


@pytest.mark.sources
def test_what_artifact_hub_and_helm_show_of_the_chart_is_there() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    about = {key.removeprefix("artifacthub.io/"): yaml.safe_load(text) for key, text in chart["annotations"].items()}

    assert chart["icon"].startswith(chart["home"].replace("//github.com", "//raw.githubusercontent.com"))
    assert (REPOSITORY / chart["icon"].partition("/main/")[2]).is_file()
    assert [each["image"] for each in about["images"]] == [f"ghcr.io/sbg-exporter/sbg-exporter:{__version__}"]
    [change] = about["changes"]
    assert change["links"][0]["url"] == f"{chart['home']}/releases/tag/v{__version__}"
    own = [each["url"].partition("/blob/main/")[2] for each in about["links"] if "/blob/" in each["url"]]
    assert own != []
    assert all((REPOSITORY / path).is_file() for path in own)


def test_every_value_is_described() -> None:
    text = (CHART / "values.yaml").read_text()
    described = [key for key, _ in generate.documented(text)]

    def undescribed(values: dict[str, Any], within: str = "") -> Iterator[str]:
        for key, value in values.items():
            if (path := f"{within}{key}") not in described:
                yield from undescribed(value, f"{path}.") if isinstance(value, dict) and value else [path]

    assert list(undescribed(yaml.safe_load(text))) == []
    assert len(described) == len(set(described))
    assert [key for _, section in generate.sections(text) for key, _ in generate.documented(section)] == described


@needs_helm
def test_the_readme_names_no_value_that_is_not_there() -> None:
    named = re.findall(r"--set ([^ `\n]+)", (CHART / "README.md").read_text())

    for each in named:
        templated("--set", each)
    assert len(named) == 3


@needs_helm
@pytest.mark.parametrize("name", ["argocd", "flux"])
def test_the_examples_for_gitops_install_this_chart(name: str, tmp_path: Path) -> None:
    *_, example = yaml.safe_load_all((CHART.parent / "examples" / f"{name}.yaml").read_text())
    spec = example["spec"]
    path, values = (
        (spec["source"]["path"], spec["source"]["helm"]["valuesObject"])
        if name == "argocd"
        else (spec["chart"]["spec"]["chart"], spec["values"])
    )
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))

    among = objects(templated("--values", str(tmp_path / "values.yaml")))

    assert (REPOSITORY / path) == CHART
    assert images(among) == {f"registry.example/sbg-exporter:{__version__}"}
    assert {each["kind"] for each in among} >= {"ServiceMonitor", "PrometheusRule"}


def write() -> None:
    """Write every golden render anew."""
    GOLDEN.mkdir(exist_ok=True)
    for name in RENDERS:
        (GOLDEN / f"{name}.yaml").write_text(golden(name))


if __name__ == "__main__":
    write()

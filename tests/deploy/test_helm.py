"""The Helm chart: it renders what the kustomize base says, refuses what is wrong, and is described as it is.

The golden renders in golden/ are what the chart must say, byte for byte, without the text of the rules and dashboards
that it copies. After a wanted change write them anew and look at the difference: ``python -m tests.deploy.test_helm``.
"""

import copy
import re
import shutil
import tomllib
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
    Object,
    Refused,
    configuration,
    helm,
    kustomized,
    needs_both,
    needs_helm,
    objects,
    only,
    templated,
)
from tests.harness import Installation

GOLDEN: Final = Path(__file__).parent / "golden"
EVERYTHING: Final = CHART / "ci" / "everything-values.yaml"
RENDERS: Final = {"helm-default": (), "helm-everything": ("--values", str(EVERYTHING))}
IMMUTABLE: Final = ("serviceName", "podManagementPolicy", "selector", "volumeClaimTemplates")
"""What Kubernetes does not let an upgrade change of a StatefulSet."""
HASH: Final = "$2y$10$mDwo.lAisC94iLAyP81MCesa29IzH37oigHC/42V2pdJlUprsJPze"
PARENTS_KEYS: Final = {"global", "enabled"}
"""Values that a parent chart sets."""
SERVICE_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
"""What Kubernetes takes as the name of a Service."""


def golden(name: str) -> str:
    """A rendering, with the version and what is only copied left out."""
    text = templated(*RENDERS[name]).replace(__version__, "(version)")
    for copied in (*(each.strip() for each in dashboards().values()), _indented(rule_groups())):
        text = text.replace(copied, "(copied)")
    return text


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines()).strip()


def one_account(**more: object) -> str:
    """Values with one account, which has *more*."""
    account = {"name": "a", "apiEndpoint": "https://x.example/v2", "tokenSecret": {"name": "s", "key": "k"}, **more}
    return yaml.safe_dump({"accounts": [account]})


# -------------------------------------------------------------------------------------------------------------- renders


@needs_helm
def test_helm_has_no_complaint() -> None:
    helm("lint", "--strict", str(CHART))
    helm("lint", "--strict", str(CHART), "--values", str(EVERYTHING))


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
        if schema[key].get("additionalProperties") is False and key not in {"settings", "resources"}:
            assert set(everything[key]) == set(value) == set(schema[key]["properties"]), key
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


def comparable(among: list[Object]) -> dict[str, Any]:
    """The objects by kind, without what says only by which tool they were made."""
    among = copy.deepcopy(among)
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
    return {each["kind"]: each for each in among}


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
    assert {each["metadata"]["name"] for each in among} == {"a" * 52}


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
    among = objects(templated("--set-string", f"nameOverride={name}", release=name.lower().replace("_", "-")))

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
        objects(templated("--set", f"{key}.enabled={value},global.team=a", chart=parent)) for value in ("true", "false")
    )

    assert {each["kind"] for each in on} == {each["kind"] for each in objects(templated())}
    assert [each["metadata"]["name"] for each in on if not SERVICE_NAME.fullmatch(each["metadata"]["name"])] == []
    assert off == []


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
    storage = f"persistence.storageClassName={word},nameOverride={word}"

    rendered = helm("template", word, str(CHART), "--namespace", word, "--set-string", f"{secret},{names},{storage}")

    for each in (among := objects(rendered)):
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
        ("persistence.accessMode=ReadWriteMany", "accessMode"),
        ("persistence.size=big", "size"),
        ("service.port=100000", "port"),
        ("replicas=2", "replicas"),
        ("terminationGracePeriodSeconds=5", "terminationGracePeriodSeconds"),
        ("serviceMonitor.enabled=perhaps", "enabled"),
        ("serviceMonitor.interval=often", "interval"),
        ("networkPolicy.egressPorts[0]=https", "egressPorts"),
        ("dashboards.labels.grafana_dashboard=1", "grafana_dashboard"),
    ],
)
def test_a_wrong_value_is_refused(value: str, complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        templated("--set", value)


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
def test_labels_of_its_own_for_an_object_replace_the_chart_s() -> None:
    """Some Prometheus selects by a label that the chart sets too."""
    label = r"app\.kubernetes\.io/part-of"
    objects_with_labels = ("serviceMonitor", "prometheusRule", "dashboards")
    given = ",".join(f"{each}.enabled=true,{each}.labels.{label}=monitoring" for each in objects_with_labels)

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
    unrestricted = helm(*install, f"networkPolicy.enabled=false,extraEnv[0].name=HTTPS_PROXY,{secret}")

    assert [told in each for each in (with_secret, with_value, unrestricted)] == [True, False, False]
    assert "HTTPS_PROXY" in with_secret.partition("NOTES:")[2]


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


def test_every_value_is_described() -> None:
    text = (CHART / "values.yaml").read_text()
    described = [key for key, _ in generate.documented(text)]

    for key, value in yaml.safe_load(text).items():
        inner = [f"{key}.{each}" for each in value] if isinstance(value, dict) else []
        assert key in described or (inner and set(inner) <= set(described)), key
    assert len(described) == len(set(described))


@needs_helm
def test_the_readme_names_no_value_that_is_not_there() -> None:
    named = re.findall(r"--set ([^ `\n]+)", (CHART / "README.md").read_text())

    for each in named:
        templated("--set", each)
    assert len(named) == 3


def write() -> None:
    """Write every golden render anew."""
    GOLDEN.mkdir(exist_ok=True)
    for name in RENDERS:
        (GOLDEN / f"{name}.yaml").write_text(golden(name))


if __name__ == "__main__":
    write()

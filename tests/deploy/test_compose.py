"""The compose file: that what it mounts is there, fits together, and is what the real programs take.

The images of Prometheus, Alertmanager and Grafana are not to be had here. So their configuration is laid out in a
folder as it would be in the container, for promtool and amtool to read; and in the slow test Debian's Prometheus and
Alertmanager stand in for theirs, while nothing does for Grafana.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import urlsplit

import bcrypt
import httpx
import pytest
import yaml

from exporter.config.web_config import load_web_config
from exporter.simulator.settings import DEMO_TOKEN
from tests.deploy.containers import DOCKERFILE, REPOSITORY, Container, Engine, engine, needs_containers
from tests.tools import developers, tool
from tests.waiting import eventually

COMPOSE: Final = REPOSITORY / "deploy" / "compose"
WRITTEN: Final[dict[str, Any]] = yaml.safe_load((COMPOSE / "compose.yml").read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = WRITTEN["services"]
OURS: Final = {"simulator", "exporter", "inbox"}
"""The services that run the exporter's image."""

HTPASSWD: Final = """\
import bcrypt, sys
sys.stdout.write(f"prometheus:{bcrypt.hashpw(sys.stdin.buffer.readline().strip(), bcrypt.gensalt(4)).decode()}\\n\\n")
"""
"""Stands in for Apache's program: what it prints for ``-niB``."""
FIRING: Final = {
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "SbgJobFilesFailed", "severity": "critical", "account": "a", "job_id": "7"},
            "annotations": {"summary": "3 of 9 files failed"},
        }
    ]
}


def mounts(service: str) -> dict[PurePosixPath, Path]:
    """What of the repository is mounted into *service*, and where; all of it read-only."""
    found = {}
    for volume in SERVICES[service].get("volumes", ()):
        if isinstance(volume, str) and volume.startswith("."):
            source, target, mode = volume.split(":")
            assert mode == "ro", volume
            found[PurePosixPath(target)] = (COMPOSE / source).resolve()
    return found


def laid_out(service: str, folder: Path) -> Path:
    """A folder with what is mounted, as the container sees it."""
    for target, source in mounts(service).items():
        place = folder / target.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, dirs_exist_ok=True)
        else:
            shutil.copy(source, place)
    return folder


def inside(service: str, argument: str) -> str:
    """The value of a service's command line argument."""
    [found] = [each.removeprefix(f"{argument}=") for each in SERVICES[service]["command"] if each.startswith(argument)]
    return str(found)


def reachable(address: str) -> tuple[str, int]:
    """The service that an address leads to, and its port."""
    url = urlsplit(address if "//" in address else f"//{address}")
    names = {
        name: service
        for service, about in SERVICES.items()
        for name in (service, *about.get("networks", {}).get("default", {}).get("aliases", ()))
    }
    assert url.hostname is not None
    return names[url.hostname], url.port or 80


def listening(service: str) -> int:
    """The port of a service, by its health check, or for the exporter by its image's."""
    if service == "exporter":
        return int(re.findall(r"(?m)^EXPOSE (\d+)$", DOCKERFILE.read_text())[0])
    [port] = re.findall(r"http://127\.0\.0\.1:(\d+)", " ".join(SERVICES[service]["healthcheck"]["test"]))
    return int(port)


def satisfied(*command: str) -> str:
    """What a program says when it finds nothing wrong."""
    done = subprocess.run(command, cwd=REPOSITORY, env=clean(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def clean(**more: str) -> dict[str, str]:
    """An environment without the settings of whoever runs the tests."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **more}


# --------------------------------------------------------------------------------------------------- what is written


def test_it_follows_the_compose_specification() -> None:
    files = [str(COMPOSE / name) for name in ("compose.yml", "account.yml", "tls.yml")]
    satisfied(developers("check-jsonschema"), "--builtin-schema=vendor.compose-spec", *files)


def test_everything_mounted_is_there() -> None:
    sources = [source for service in SERVICES for source in mounts(service).values()]
    assert len(sources) >= 7
    assert [str(source) for source in sources if not source.exists()] == []


def test_named_volumes_hold_what_lasts() -> None:
    used = {
        volume.partition(":")[0]
        for about in SERVICES.values()
        for volume in about.get("volumes", ())
        if isinstance(volume, str) and not volume.startswith(".")
    }
    assert used == set(WRITTEN["volumes"]) == {"state", "prometheus", "alertmanager", "grafana"}
    [state] = re.findall(r"(?m)^VOLUME (\S+)$", DOCKERFILE.read_text())
    assert f"state:{state}" in SERVICES["exporter"]["volumes"]


def test_nothing_is_published_beyond_this_machine_and_each_port_is_one_that_is_listened_on() -> None:
    for service, about in SERVICES.items():
        for port in about.get("ports", ()):
            address, outside, within = port.split(":")
            assert (address, outside, int(within)) == ("127.0.0.1", within, listening(service))


def test_all_are_confined_and_those_that_can_write_only_to_volumes() -> None:
    for about in SERVICES.values():
        assert about["cap_drop"] == ["ALL"]
        assert about["security_opt"] == ["no-new-privileges"]
    assert [service for service, about in SERVICES.items() if not about.get("read_only")] == ["grafana"]


def test_images_are_pinned_and_ours_is_built_from_its_dockerfile() -> None:
    for service, about in SERVICES.items():
        if service in OURS:
            assert (COMPOSE / about["build"]["context"]).resolve() == REPOSITORY
            assert REPOSITORY / about["build"]["dockerfile"] == DOCKERFILE
        else:
            assert "build" not in about
            assert re.fullmatch(r"docker\.io/[a-z]+/[a-z]+:v?\d+\.\d+\.\d+(@sha256:[0-9a-f]{64})?", about["image"])


# ------------------------------------------------------------------------------------------------ what fits together


@pytest.mark.tools("promtool")
def test_prometheus_reads_the_rules_and_finds_the_exporter_and_alertmanager(tmp_path: Path) -> None:
    config = laid_out("prometheus", tmp_path) / inside("prometheus", "--config.file").lstrip("/")
    assert "rules found" in satisfied(tool("promtool"), "check", "config", str(config))
    read = yaml.safe_load(config.read_text())
    [scraped] = read["scrape_configs"][0]["static_configs"][0]["targets"]
    [told] = read["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert reachable(scraped) == ("exporter", listening("exporter"))
    assert reachable(told) == ("alertmanager", listening("alertmanager"))


@pytest.mark.tools("promtool", "openssl")
def test_exporter_and_prometheus_take_the_files_that_the_readme_makes_for_tls(tmp_path: Path) -> None:
    place = tmp_path / "deploy" / "compose"
    shutil.copytree(COMPOSE, place)
    shutil.copytree(COMPOSE.parent / "prometheus", tmp_path / "deploy" / "prometheus")
    [commands] = re.findall(
        r"<!-- tls -->\n\n```sh\n(.*?)^docker compose.*?```",
        (COMPOSE / "README.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    (tmp_path / "htpasswd").write_text(f"#!{sys.executable}\n{HTPASSWD}")
    (tmp_path / "htpasswd").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["sh", "-euc", commands], cwd=tmp_path, env={"PATH": path}, check=True, capture_output=True)
    override = yaml.safe_load((COMPOSE / "tls.yml").read_text())["services"]

    variable = PurePosixPath(override["exporter"]["environment"]["SBG_EXPORTER_WEB_CONFIG_FILE"])
    [mount] = override["exporter"]["volumes"]
    source, target, _ = mount.split(":")
    web = load_web_config(place / source / variable.relative_to(target))
    assert (web.scheme, web.authentication, web.warnings) == ("https", "password", ())
    password = (place / "tls" / "sbg-exporter.password").read_bytes().strip()
    assert bcrypt.checkpw(password, web.users[b"prometheus"])

    files = {
        PurePosixPath(target): place / source for source, target, _ in map(split, override["prometheus"]["volumes"])
    }
    for target, source in {**mounts("prometheus"), **files}.items():
        inside_container = tmp_path / "container" / target.relative_to("/")
        inside_container.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, inside_container)
    config = tmp_path / "container" / inside("prometheus", "--config.file").lstrip("/")
    assert "rules found" in satisfied(tool("promtool"), "check", "config", str(config))
    [job] = yaml.safe_load(config.read_text())["scrape_configs"]
    assert reachable(f"https://{job['tls_config']['server_name']}")[0] == "exporter"


def split(mount: str) -> list[str]:
    return mount.split(":")


@pytest.mark.tools("amtool")
def test_alertmanager_delivers_to_the_inbox(tmp_path: Path) -> None:
    config = laid_out("alertmanager", tmp_path) / inside("alertmanager", "--config.file").lstrip("/")
    satisfied(tool("amtool"), "check-config", str(config))
    hooks = [
        hook for receiver in yaml.safe_load(config.read_text())["receivers"] for hook in receiver["webhook_configs"]
    ]
    assert hooks
    assert {reachable(hook["url"]) for hook in hooks} == {("inbox", listening("inbox"))}
    assert SERVICES["inbox"]["entrypoint"][-1] == str(listening("inbox"))


def test_grafana_finds_its_dashboards_and_prometheus(tmp_path: Path) -> None:
    root = laid_out("grafana", tmp_path)
    environment = SERVICES["grafana"]["environment"]
    provisioning = root / "etc/grafana/provisioning"
    [provider] = yaml.safe_load((provisioning / "dashboards/sbg-exporter.yml").read_text())["providers"]
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    dashboards = root / provider["options"]["path"].lstrip("/")
    assert {file.name for file in dashboards.iterdir()} == {
        file.name for file in (REPOSITORY / "grafana/dashboards").iterdir()
    }
    assert (root / environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].lstrip("/")).is_file()
    [name] = re.findall(r"\$\{(\w+)\}", source["url"])
    assert reachable(environment[name]) == ("prometheus", listening("prometheus"))


def test_the_simulated_account_is_the_simulators(tmp_path: Path) -> None:
    config = laid_out("exporter", tmp_path) / "etc/sbg-exporter/config.toml"
    assert SERVICES["exporter"]["command"] == ["run", "--config", f"/{config.relative_to(tmp_path)}"]
    [account] = tomllib.loads(config.read_text())["accounts"]
    assert reachable(account["api_endpoint"]) == ("simulator", listening("simulator"))
    assert account["auth_token"] == DEMO_TOKEN
    assert f"0.0.0.0:{listening('simulator')}" in SERVICES["simulator"]["command"]
    satisfied(sys.executable, "-m", "exporter", "check", "--offline", "--config", str(config))


def test_a_real_account_is_named_in_a_file_that_git_ignores() -> None:
    over = yaml.safe_load((COMPOSE / "account.yml").read_text())["services"]
    assert set(over) <= set(SERVICES)
    [name] = over["exporter"]["env_file"]
    assert (COMPOSE / ".gitignore").read_text().split() == [name, "/tls/"]
    example = (COMPOSE / f"{name}.example").read_text()
    variables = dict(line.split("=", 1) for line in example.splitlines() if not line.startswith("#"))
    assert set(variables) == {"SB_API_ENDPOINT", "SB_AUTH_TOKEN"}
    environment = clean(**{**variables, "SB_AUTH_TOKEN": DEMO_TOKEN})
    command = [sys.executable, "-m", "exporter", "check", "--offline", "--state-file", "/nonexistent/state.db"]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ------------------------------------------------------------------------------------------------------- the inbox


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Where it listens, and the file with what it wrote."""
    said = tmp_path / "said"
    with said.open("w") as output, held_port() as port:
        command = [sys.executable, "-u", str(COMPOSE / "inbox.py"), str(port)]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            eventually(lambda: answers(url), describe=said.read_text)
            yield url, said
        finally:
            process.kill()
            process.wait()


@contextmanager
def held_port() -> Iterator[int]:
    """A free port that the kernel gives to nobody else; a server that asks for it by number may listen there."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


def answers(url: str) -> bool:
    """Whether somebody does."""
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False


def test_the_inbox_writes_a_line_for_each_alert(inbox: tuple[str, Path]) -> None:
    url, said = inbox
    answer = httpx.post(f"{url}/failures", json=FIRING, trust_env=False)
    assert answer.is_success
    assert said.read_text() == "/failures firing SbgJobFilesFailed: 3 of 9 files failed (account=a job_id=7)\n"


# ------------------------------------------------------------------------------------------------------ all together


STAND_INS: Final = {
    "prometheus": {"prometheus": "prometheus", "promtool": "promtool"},
    "alertmanager": {"alertmanager": "prometheus-alertmanager"},
}
"""The programs of a service's image, and what Debian calls them."""
TEMPLATES: Final = Path("/usr/share/prometheus/alertmanager")
"""What Debian's Alertmanager reads beside its configuration."""


def stand_in(containers: Engine, service: str, folder: Path) -> None:
    """Build an image of Debian's programs with the name that the compose file says."""
    (folder / "bin").mkdir(parents=True)
    for name, program in STAND_INS[service].items():
        shutil.copy(tool(program), folder / "bin" / name)
    shutil.copytree(TEMPLATES, folder / "templates")
    (folder / "Dockerfile").write_text(
        f"FROM {containers.base}\n"
        "COPY bin /bin/\n"
        f"COPY templates {TEMPLATES}/\n"
        f"RUN install -d -o nobody -g nogroup /{service}\n"
        "USER nobody\n"
        f"VOLUME /{service}\n"
        f'ENTRYPOINT ["/bin/{service}"]\n'
    )
    containers.built(SERVICES[service]["image"], folder / "Dockerfile", context=folder)


def playable(containers: Engine, folder: Path) -> Path:
    """The compose file without Grafana, ports of this machine, and health checks, which podman leaves to systemd."""
    image = containers.image("sbg-exporter")
    services = {}
    for name in (*OURS, *STAND_INS):
        kept = {key: value for key, value in SERVICES[name].items() if key not in ("build", "pull_policy", "ports")}
        volumes = [
            str(COMPOSE / volume) if isinstance(volume, str) and volume.startswith(".") else volume
            for volume in kept["volumes"]
        ]
        services[name] = {**kept, "volumes": volumes, "healthcheck": {"disable": True}}
        if name in OURS:
            services[name]["image"] = image
        else:
            stand_in(containers, name, folder / name)
    named: dict[str, None] = dict.fromkeys(WRITTEN["volumes"])
    file = folder / "compose.yml"
    file.write_text(yaml.safe_dump({"name": "all-together", "services": services, "volumes": named}))
    return file


def fetched(container: Container, url: str, body: str = "") -> str | None:
    """What a server in *container* answers to a request from there; None where it answers no or not at all."""
    ask = f"import urllib.request as u; print(u.urlopen({url!r}, {body.encode() or None!r}).read().decode())"
    try:
        return container.engine.podman("exec", container.name, "python", "-c", ask)
    except AssertionError:
        return None


@pytest.mark.slow
@needs_containers
@pytest.mark.tools("prometheus", "promtool", "prometheus-alertmanager")
def test_a_failed_job_is_told_to_the_inbox_by_all_of_them_together(tmp_path: Path) -> None:
    with engine() as containers:
        file = playable(containers, tmp_path)
    with engine(network=False) as containers:
        containers.compose(file, "up", "--detach", "--no-build")
        inbox, simulator, exporter = (
            Container(containers, f"all-together_{name}_1") for name in ("inbox", "simulator", "exporter")
        )
        ready, jobs = "http://127.0.0.1:10037/-/ready", "http://127.0.0.1:8089/simulator/jobs"
        eventually(lambda: fetched(exporter, ready) is not None, within=240, every=1, describe=lambda: exporter.told)
        posted = fetched(simulator, jobs, '{"total": 9, "failed": 4}')  # not earlier: it would count as history
        assert posted is not None, simulator.told
        job = json.loads(posted)["id"]
        told = re.compile(rf"(?m)^/failures firing SbgJobFilesFailed: .*job_id={job}")
        eventually(lambda: told.search(inbox.told), within=240, every=1, describe=lambda: inbox.told)
        containers.compose(file, "down", "--volumes")

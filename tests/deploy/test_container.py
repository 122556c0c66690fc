"""The container image: what its Dockerfile promises, and how it runs under the limits that careful people set."""

import base64
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from exporter import __version__
from exporter.simulator.scripts import JobScript
from exporter.simulator.server import RunningSimulator, SimulatorSettings, running
from exporter.web import probe
from tests.deploy.bills import mistakes
from tests.deploy.containers import (
    DOCKERFILE,
    HARDENED,
    REPOSITORY,
    REVISION,
    Container,
    Engine,
    engine,
    needs_containers,
)
from tests.deploy.kubernetes_tools import (
    kustomized,
    needs_both,
    needs_kubectl,
    objects,
    only,
    pod_document,
    templated,
)
from tests.doc_tables import RUNBOOKS
from tests.harness import Account, MonotonicCounters, Scrape, difference
from tests.tools import developers
from tests.waiting import eventually

USER: Final = 65532
TOKENS: Final = "/run/secrets/sbg-exporter-tokens"
STATE: Final = "/var/lib/sbg-exporter"
PORT: Final = 10037
SETTINGS: Final = "/etc/sbg-exporter/config.toml"
MIB: Final = 1024 * 1024
JOBS: Final = 10_000
POLLS: Final = 10
DATE: Final = 1_700_000_000
BASE_S: Final = re.compile(r"pkg:pypi/(pip|setuptools|wheel)@")
"""Packages that a base image may bring."""

# ------------------------------------------------------------------------------------------------ what the file says


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Each instruction and its arguments."""
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", dockerfile))
    words = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(keyword, " ".join(rest.split())) for keyword, rest in words]


WRITTEN: Final = instructions(DOCKERFILE.read_text())
RUNTIME: Final = WRITTEN[max(index for index, (keyword, _) in enumerate(WRITTEN) if keyword == "FROM") :]
"""The last stage: the image that is kept."""


def the(keyword: str) -> str:
    """The arguments of the runtime stage's only instruction of that name."""
    [found] = [rest for each, rest in RUNTIME if each == keyword]
    return found


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([developers("hadolint"), DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_nothing_is_run_in_the_image_that_is_kept_and_no_shell_starts_it() -> None:
    assert "RUN" not in dict(RUNTIME)
    assert json.loads(the("ENTRYPOINT")) == ["/opt/sbg-exporter/bin/sbg-exporter"]
    assert json.loads(the("CMD")) == ["run"]
    check = json.loads(the("HEALTHCHECK").partition("CMD ")[2])
    assert check[0] == "/opt/sbg-exporter/bin/python"
    assert check[1:] == ["-m", probe.__name__]
    assert probe.PORT == PORT


def test_the_base_image_is_pinned_by_version_and_digest() -> None:
    [base] = [rest.removeprefix("BASE=") for keyword, rest in WRITTEN if keyword == "ARG" and rest.startswith("BASE=")]
    assert re.fullmatch(r"docker\.io/library/python:3\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", base)


def test_what_is_installed_is_what_the_locks_say() -> None:
    installs = [part for _, rest in WRITTEN for part in rest.split("&&") if "install" in part and "pip" in part]
    assert len(installs) == 3
    assert all("--require-hashes" in part or "--no-index" in part for part in installs)
    needs = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["build-system"]["requires"]
    assert (DOCKERFILE.parent / "build-requirements.in").read_text().splitlines() == needs
    lock = (DOCKERFILE.parent / "build-requirements.lock").read_text()
    for need in needs:
        name, least = need.split(">=")
        [pinned] = re.findall(rf"(?m)^{name}==([0-9.]+)", lock)
        assert [int(part) for part in pinned.split(".")] >= [int(part) for part in least.split(".")]
    assert not re.search("https?:", lock)


@pytest.mark.sources
def test_only_what_is_copied_gets_into_the_build() -> None:
    copied = {
        source
        for keyword, rest in WRITTEN
        if keyword == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    ignored = [
        line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert all((REPOSITORY / source).exists() for source in copied)


def test_kubernetes_runs_it_as_it_is_made() -> None:
    pod = yaml.safe_load((REPOSITORY / "deploy/kubernetes/base/statefulset.yaml").read_text())["spec"]["template"]
    security = pod["spec"]["securityContext"]
    [container] = pod["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert the("USER") == f"{security['runAsUser']}:{security['runAsGroup']}" == f"{USER}:{USER}"
    assert the("VOLUME") == mounts["state"] == STATE
    assert the("EXPOSE") == str(container["ports"][0]["containerPort"]) == str(PORT)
    assert "command" not in container


# ---------------------------------------------------------------------------------------------------- what is built


@pytest.fixture(scope="module")
def containers() -> Iterator[Engine]:
    with engine() as made:
        yield made


@pytest.fixture(scope="module")
def image(containers: Engine) -> str:
    return containers.image("sbg-exporter")


@pytest.fixture(scope="module")
def shell_less(containers: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same on a base in which nothing but Python can be run."""
    dockerfile = tmp_path_factory.mktemp("shell-less") / "Dockerfile"
    keep = """import os; [os.remove(file) for file in os.scandir("/usr/bin") if "python3" not in file.name]"""
    dockerfile.write_text(f"FROM {containers.base}\nRUN rm -rf /usr/sbin/* /usr/local/* && python3 -c '{keep}'\n")
    bare = containers.built("sbg-exporter-base-shell-less", dockerfile)
    return containers.image("sbg-exporter-shell-less", RUNTIME=bare)


@pytest.mark.slow
@needs_containers
def test_it_says_what_it_is(containers: Engine, image: str) -> None:
    about = containers.about(image)
    labels = about["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.revision"] == REVISION
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.source"].startswith("https://")
    assert about["Config"]["User"] == f"{USER}:{USER}"
    assert about["Config"]["Volumes"] == {STATE: {}}
    assert about["Config"]["StopSignal"] == "SIGTERM"
    version = containers.run(image, "version")
    assert (version.code, version.errors) == (0, "")
    assert version.output.startswith(f"sbg-exporter {__version__} (revision {REVISION}, Python 3.")


@pytest.fixture(scope="module")
def releases(containers: Engine, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The release's image, built twice."""
    first, second = (tmp_path_factory.mktemp(name) for name in ("first", "second"))
    for folder in (first, second):
        containers.released(folder, DATE)
    return first, second


def layers(release: Path) -> list[dict[str, tarfile.TarInfo]]:
    """The files of each layer by name."""
    found = []
    with tarfile.open(next(release.glob("*-image-*.tar"))) as archive:
        for name in json.loads(archive.extractfile("manifest.json").read())[0]["Layers"]:  # type: ignore[union-attr]  # a file
            with tarfile.open(fileobj=archive.extractfile(name)) as layer:
                found.append({each.name: each for each in layer})
    return found


@pytest.mark.slow
@needs_containers
def test_built_again_it_is_the_same(containers: Engine, releases: tuple[Path, Path]) -> None:
    first, second = (sorted(folder.iterdir()) for folder in releases)

    architecture = containers.podman("info", "--format", "{{.Host.Arch}}").strip()
    name = f"sbg-exporter-{__version__}-image-{architecture}"
    assert [path.name for path in first] == [f"{name}.{kind}" for kind in ("cdx.json", "tar")]
    assert [path.name for path in second] == [path.name for path in first]
    assert {each.mtime for each in layers(releases[0])[-1].values()} == {DATE}
    assert [path.read_bytes() == other.read_bytes() for path, other in zip(first, second, strict=True)] == [True, True]


@pytest.mark.slow
@needs_containers
def test_a_release_s_image_is_loaded_and_runs(containers: Engine, releases: tuple[Path, Path]) -> None:
    told = containers.podman("load", "--quiet", "--input", str(next(releases[0].glob("*.tar"))))

    version = containers.run(told.split()[-1], "version")

    assert told == f"Loaded image: localhost/sbg-exporter:{__version__}\n"
    assert version.output.startswith(f"sbg-exporter {__version__} ")


@pytest.mark.slow
@needs_containers
def test_its_bill_of_materials_lists_the_base_and_exactly_what_is_locked(releases: tuple[Path, Path]) -> None:
    bill = next(releases[0].glob("*-image-*.cdx.json")).read_text()
    urls = {each["purl"] for each in json.loads(bill)["components"]}
    lock = (REPOSITORY / "requirements.lock").read_text()
    locked = {f"pkg:pypi/{name}@{version}" for name, version in re.findall(r"(?m)^([a-z][\w.-]*)==(\S+)", lock)}

    assert mistakes(bill) == []
    assert any(url.startswith("pkg:deb/debian/libc6@") for url in urls)
    ours = {url for url in urls if url.startswith("pkg:pypi/")} - {f"pkg:pypi/sbg-exporter@{__version__}"}
    assert len(ours) > 10
    assert {url for url in ours if url not in locked and not BASE_S.match(url)} == set()


@pytest.mark.slow
@needs_containers
def test_its_user_can_change_nothing_that_is_added_but_the_state(releases: tuple[Path, Path]) -> None:
    added = {name: each for layer in layers(releases[0])[1:] for name, each in layer.items()}
    others = {name: each for name, each in added.items() if f"/{name.rstrip('/')}" != STATE}

    assert len(others) > 1000
    assert [name for name, each in others.items() if each.uid or each.gid] == []
    assert [name for name, each in others.items() if not each.issym() and each.mode & 0o6022] == []
    assert (added[STATE[1:]].uid, oct(added[STATE[1:]].mode & 0o7777)) == (USER, "0o700")


@pytest.mark.slow
@needs_containers
def test_all_that_it_imports_is_compiled_already(containers: Engine, image: str) -> None:
    python = (*HARDENED, "--entrypoint=/opt/sbg-exporter/bin/python")
    loaded = containers.run(image, "-v", "-c", "import exporter.commands.run, http.client", options=python)
    from_source = re.findall(r"(?m)^# code object from '?(?!.*\.pyc)(.*)", loaded.errors)
    assert loaded.code == 0
    assert loaded.errors.count("# code object from") > 400
    assert from_source == []


@pytest.mark.slow
@needs_containers
@pytest.mark.parametrize("built", ["image", "shell_less"])
def test_a_wrong_configuration_is_one_line_and_code_2(
    containers: Engine, built: str, request: pytest.FixtureRequest
) -> None:
    ended = containers.run(request.getfixturevalue(built), "check", "--poll-interval", "soon")
    assert (ended.code, ended.output) == (2, "")
    [line] = ended.errors.splitlines()
    assert line.startswith("sbg-exporter: --poll-interval")


# ----------------------------------------------------------------------------------------------------- how it runs


Start = Callable[..., Container]


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    """A platform with so high a limit that no daemon waits for its allowance."""
    with running(SimulatorSettings(listen="127.0.0.1:0", rate=0, rate_limit=100_000)) as platform:
        yield platform


def settings(folder: Path, account: Account, **more: object) -> tuple[str, ...]:
    """Options that mount a folder with a configuration, and a token that only the exporter's user may read."""
    given = {"listen": "127.0.0.1:0", "poll_interval": 1, "log_format": "json", **more}
    lines = [f"{key} = {json.dumps(value)}" for key, value in given.items()]
    entry = {"name": account.name, "api_endpoint": account.endpoint, "auth_token_file": "token"}
    lines += ["[[accounts]]", *(f"{key} = {json.dumps(value)}" for key, value in entry.items())]
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text("\n".join(lines) + "\n")
    token = folder / "token"
    token.write_text(account.token)
    token.chmod(0o400)
    if os.geteuid() == 0:
        os.chown(token, USER, USER)
    return "--volume", f"{folder}:/etc/sbg-exporter:ro"


def limited(memory: str) -> tuple[str, ...]:
    """Options for everything denied, and that much memory."""
    return *HARDENED, f"--memory={memory}", f"--memory-swap={memory}"


def status(container: Container) -> dict[str, str]:
    """What the kernel says of its process."""
    lines = container.process("status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def memory(container: Container) -> tuple[int, int]:
    """Its memory's limit and peak in bytes, by the kernel, whichever version of control groups limits memory here."""
    groups = dict(line.split(":", 2)[1:] for line in container.process("cgroup").splitlines())
    if "memory" in groups:
        folder, names = (
            f"/sys/fs/cgroup/memory{groups['memory']}",
            ("memory.limit_in_bytes", "memory.max_usage_in_bytes"),
        )
    else:
        folder, names = f"/sys/fs/cgroup{groups['']}", ("memory.max", "memory.peak")
    limit, peak = (int(container.engine.read(f"{folder}/{name}")) for name in names)
    return limit, peak


@pytest.mark.slow
@needs_containers
@pytest.mark.parametrize("built", ["image", "shell_less"])
def test_denied_everything_it_serves_and_ends_when_told(
    containers: Engine, built: str, simulator: RunningSimulator, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    account = Account.at(simulator)
    options = (*limited("128m"), *settings(tmp_path / "etc", account), "--volume", f"{containers.volume()}:{STATE}")
    daemon = containers.start(request.getfixturevalue(built), "run", "--config", SETTINGS, options=options)
    scrape = daemon.answering().await_ready().scrape()
    assert scrape.value("sbg_up", account="sim") == 1
    about = {"version": __version__, "revision": REVISION, "python": python_of(scrape.page)}
    assert scrape.value("sbg_exporter_build_info", **about) == 1
    process = status(daemon)
    assert set(process["Uid"].split()) == set(process["Gid"].split()) == {str(USER)}
    assert int(process["CapEff"], 16) == int(process["CapBnd"], 16) == 0
    assert (process["NoNewPrivs"], process["Seccomp"]) == ("1", "2")
    warnings = [line for line in daemon.told.splitlines() if '"level":"warning"' in line.replace(" ", "")]
    assert [line for line in warnings if "job." not in line] == []
    assert daemon.stop() == 0, daemon.told


def python_of(page: str) -> str:
    """The label that says which Python it runs on."""
    [found] = re.findall(r'sbg_exporter_build_info{.*python="([^"]+)"', page)
    return str(found)


@pytest.mark.slow
@needs_containers
def test_counters_go_on_in_the_next_container(
    containers: Engine, image: str, simulator: RunningSimulator, tmp_path: Path
) -> None:
    account = Account.at(simulator)
    options = (*limited("256m"), *settings(tmp_path / "etc", account), "--volume", f"{containers.volume()}:{STATE}")
    counters = MonotonicCounters()
    counted: list[float] = []
    for ends in ("TERM", "KILL", "TERM"):
        simulator.platform.submit(JobScript(total=5, failed=1, running=4, hangs_after=5))  # it stays unfinished
        daemon = containers.start(image, "run", "--config", SETTINGS, options=options)
        counted += [jobs_in(await_exact(daemon, simulator, counters))]
        simulator.platform.submit(JobScript(total=9, failed=4, running=1))
        counted += [jobs_in(await_exact(daemon, simulator, counters))]
        containers.podman("kill", f"--signal={ends}", daemon.name)
        containers.podman("wait", daemon.name)
        simulator.platform.submit(JobScript(total=9, failed=4, running=1))  # the next container finds it
    assert counted == [1, 2, 4, 5, 7, 8]


def await_exact(daemon: Container, simulator: RunningSimulator, counters: MonotonicCounters) -> Scrape:
    """A scrape in which the counters are the truth; fail if one ever falls."""
    answering = daemon.answering().await_ready()
    wrong: list[object] = [None]

    def exact() -> Scrape | None:
        scrape = counters.see(answering.scrape())
        wrong[0] = difference(scrape, "sim", simulator)
        return None if wrong[0] else scrape

    return eventually(exact, every=0.1, describe=lambda: f"off by {wrong[0]}\n{daemon.told}")


def jobs_in(scrape: Scrape) -> float:
    """How many jobs have been counted."""
    return scrape.total("sbg_jobs_submitted_total", account="sim")


@pytest.mark.slow
@needs_containers
def test_check_asks_the_platform(containers: Engine, image: str, simulator: RunningSimulator, tmp_path: Path) -> None:
    options = (*limited("128m"), "--tmpfs=/tmp", *settings(tmp_path / "etc", Account.at(simulator)))
    ended = containers.run(image, "check", "--verbose", "--config", SETTINGS, options=options)
    assert ended.code == 0, ended.errors
    assert "user        demo" in ended.output


@pytest.mark.slow
@needs_containers
@pytest.mark.tools("memory cgroup")
def test_ten_thousand_jobs_fit_into_128_mib(containers: Engine, image: str, tmp_path: Path) -> None:
    """Every one of them counted in the ledger, hundreds shown one by one, polled and scraped all the while."""
    with running(SimulatorSettings(listen="127.0.0.1:0", jobs=JOBS, rate=60, rate_limit=-1)) as simulator:
        mounted = settings(tmp_path / "etc", Account.at(simulator), history="count", job_series=500, rate_share=1)
        options = (*limited("128m"), *mounted, "--volume", f"{containers.volume()}:{STATE}")
        daemon = containers.start(image, "run", "--config", SETTINGS, options=options)
        answering = daemon.answering()
        last = [answering.scrape()]

        def busy() -> bool:
            answering.get("/")
            last[0] = answering.scrape()
            listed, polls = (last[0].total(name, account="sim") for name in ("sbg_jobs", "sbg_exporter_polls_total"))
            return listed >= JOBS and polls >= POLLS

        eventually(busy, within=120, describe=lambda: daemon.told)
        limit, peak = memory(daemon)
        resident = last[0].value("process_resident_memory_bytes") or 0
        sys.stdout.write(f"\n{JOBS} jobs: peak {peak / MIB:.0f} MiB, resident {resident / MIB:.0f} MiB\n")
        assert limit == 128 * MIB
        assert daemon.inspect("{{.State.OOMKilled}} {{.State.Running}}") == "false true"
        assert 0 < peak < limit
        assert 0 < resident < limit
        assert daemon.stop() == 0


@pytest.mark.slow
@needs_containers
def test_its_health_check_tells_a_daemon_from_none(containers: Engine, image: str, tmp_path: Path) -> None:
    """In a network of its own, where the port is free and nobody can be reached: that is still healthy."""
    check = containers.about(image)["Healthcheck"]["Test"]
    assert check[0] == "CMD"
    alone = [option for option in HARDENED if option != "--network=host"] + ["--network=none"]
    unreachable = Account("sim", "http://127.0.0.1:9/v2")
    mounted = settings(tmp_path / "etc", unreachable, listen=f":{PORT}")
    daemon = containers.start(image, "run", "--config", SETTINGS, options=(*alone, *mounted))
    daemon.url()
    containers.podman("exec", daemon.name, *check[1:])
    none = containers.run(image, *check[2:], options=(*alone, f"--entrypoint={check[1]}"))
    assert none.code == 1
    assert daemon.stop() == 0


@pytest.mark.slow
@needs_containers
@needs_both
@pytest.mark.parametrize("made", ["kustomize", "helm"])
def test_what_kubernetes_is_given_runs_as_a_pod(
    containers: Engine, image: str, made: str, simulator: RunningSimulator, tmp_path: Path
) -> None:
    manifests = kustomized("base") if made == "kustomize" else templated()
    daemon = played(containers, daemon_pod(containers, manifests, image, simulator, tmp_path), tmp_path)
    scrape = daemon.answering().await_ready().scrape()
    assert scrape.value("sbg_up", account="sim") == 1, daemon.told
    assert set(status(daemon)["Uid"].split()) == {str(USER)}
    assert daemon.inspect("{{.HostConfig.Memory}}") == str(256 * MIB)
    for command in ("check", "jobs --unfinished", "state show"):  # as alerts and runbooks have them
        containers.podman("exec", daemon.name, "sbg-exporter", *command.split())
    assert daemon.stop() == 0
    containers.sweep()


@pytest.mark.slow
@needs_containers
@needs_kubectl
def test_in_kubernetes_a_ledger_is_copied_put_back_and_moved(
    containers: Engine, image: str, simulator: RunningSimulator, tmp_path: Path
) -> None:
    """By the README's lines, with podman as kubectl and as the StatefulSet's controller."""
    readme = (REPOSITORY / "deploy/kubernetes/README.md").read_text().replace("export cavatica", "export sim")
    lines = re.findall(r"(?m)^kubectl -n sbg-exporter exec .*$", readme.replace("forget cavatica", "forget sim"))
    copy, fetch, show, export, forget, bring, tidy, put_back = (line for line in lines if "check" not in line)
    document = daemon_pod(containers, kustomized("base"), image, simulator, tmp_path)
    holding = [only("Pod", objects(kustomized("state")))]
    holding[0]["spec"]["containers"][0]["image"] = image

    def counted_exactly(counters: MonotonicCounters, *before: str) -> None:
        simulator.platform.submit(JobScript(total=9, failed=4, running=1))
        daemon = played(containers, document, tmp_path)
        await_exact(daemon, simulator, counters)
        for line in before:
            containers.as_kubectl(line, tmp_path)
        assert daemon.stop() == 0
        containers.podman("pod", "rm", "--force", "sbg-exporter-0")

    def meanwhile(*wanted: str) -> None:
        played(containers, yaml.safe_dump_all(holding), tmp_path)
        for line in wanted:
            containers.as_kubectl(line, tmp_path)
        containers.podman("pod", "rm", "--force", "--time=0", "sbg-exporter-state")

    counted_exactly(MonotonicCounters(), copy, fetch)
    counted_exactly(MonotonicCounters())
    meanwhile(show, tidy, put_back)
    counted_exactly(monotonic := MonotonicCounters())
    meanwhile(export, forget, bring)
    counted_exactly(monotonic)
    containers.sweep()


@pytest.mark.slow
@needs_containers
@needs_kubectl
def test_in_kubernetes_a_deleted_state_file_is_saved_from_the_process_and_put_back(
    containers: Engine, image: str, simulator: RunningSimulator, tmp_path: Path
) -> None:
    """By the runbook's lines: without the log next to the file, and with it."""
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", RUNBOOKS.read_text(encoding="utf-8"))
    save, put_back = (block for block in blocks if "kubectl" in block)
    put_back, restart = put_back.rsplit("kubectl ", 1)
    document = daemon_pod(containers, kustomized("base"), image, simulator, tmp_path)
    counters = MonotonicCounters()

    def deleted_and_saved(daemon: Container, gone: str) -> None:
        delete = f'import glob, os; [os.remove(each) for each in glob.glob("{STATE}/{gone}")]'
        containers.podman("exec", daemon.name, "python", "-c", delete)
        eventually(lambda: daemon.said("state.file_missing"), describe=lambda: daemon.told)
        simulator.platform.submit(JobScript(total=9, failed=4, running=1))  # counted after the restart
        for lines in (save, put_back):
            containers.as_kubectl(lines, tmp_path)

    for gone in ("state.db*", "state.db", ""):
        simulator.platform.submit(JobScript(total=9, failed=4, running=1))
        daemon = played(containers, document, tmp_path)
        await_exact(daemon, simulator, counters)
        if gone:
            deleted_and_saved(daemon, gone)
        assert daemon.stop() == 0
        containers.podman("pod", "rm", "--force", "sbg-exporter-0")
    containers.sweep()
    assert restart == "-n sbg-exporter delete pod sbg-exporter-0\n"


def daemon_pod(containers: Engine, manifests: str, image: str, simulator: RunningSimulator, folder: Path) -> str:
    """The pod of *manifests*, which watches the simulated platform as account ``sim``."""
    encoded = base64.b64encode(simulator.settings.token.encode()).decode()
    simulator.platform.rotate(encoded if leaves_secrets_encoded(containers) else simulator.settings.token)
    token = f"{TOKENS}/sim.token"
    settings(folder / "etc", Account.at(simulator))
    return pod_document(
        manifests,
        image=image,
        secrets={Path(TOKENS).name: {"sim.token": simulator.settings.token}},
        config=(folder / "etc/config.toml").read_text().replace('"token"', json.dumps(token)),
    )


def played(containers: Engine, document: str, folder: Path) -> Container:
    """The container of the pod in *document*, which podman now runs; claims that are there already it would refuse."""
    there = {("PersistentVolumeClaim", name) for name in containers.podman("volume", "ls", "--quiet").split()}
    wanted = [each for each in objects(document) if (each["kind"], each["metadata"]["name"]) not in there]
    given = folder / "pod.yaml"
    given.write_text(playable(yaml.safe_dump_all(wanted, sort_keys=False)))
    containers.podman("play", "kube", "--network=host", str(given))
    return Container(containers, f"{only('Pod', objects(document))['metadata']['name']}-sbg-exporter")


def leaves_secrets_encoded(containers: Engine) -> bool:
    """Podman 4.3 mounts a Secret's data as they stand in the YAML, in base64."""
    major, minor, *_ = containers.podman("version", "--format", "{{.Client.Version}}").split(".")
    return (int(major), int(minor)) < (4, 4)


def playable(document: str) -> str:
    """The same, with what podman 4.3 insists on, and no ports, which it takes for ports to forward."""
    among = objects(document)
    pod = only("Pod", among)
    pod["metadata"].pop("annotations", None)  # it allows them 63 characters
    for volume in pod["spec"]["volumes"]:
        if "secret" in volume:
            volume["secret"].setdefault("optional", False)
    for container in pod["spec"]["containers"]:
        container.pop("ports", None)
    return yaml.safe_dump_all(among, sort_keys=False)

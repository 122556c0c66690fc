"""Publishing a release: what is refused, which commands run in which order, and that each step can be repeated."""

import json
import os
import re
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from hashlib import sha256
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any, Final

import pytest
import yaml

from deploy import changelog, dist, publish
from deploy.publish import Done, Release, mismatch
from exporter import __version__
from tests.tools import tool
from tests.waiting import eventually

REPOSITORY: Final = Path(__file__).parents[2]
WORKFLOWS: Final = REPOSITORY / ".github" / "workflows"
TEXT: Final = """\
# Changelog

## [Unreleased]

### Added

- New.

## [1.2.3] - 2026-01-02

### Fixed

- Old.
"""
CHART: Final = 'apiVersion: v2\nversion: 1.2.3\nappVersion: "1.2.3"\n'
pytestmark = pytest.mark.sources

# ---------------------------------------------------------------------------------------------------------- changelog


def test_releasing_moves_what_is_unreleased_under_the_version_and_its_date() -> None:
    text = changelog.released(TEXT, "1.3.0", "2026-02-03")

    assert "## [Unreleased]\n\n## [1.3.0] - 2026-02-03\n\n### Added\n\n- New.\n\n## [1.2.3]" in text
    assert changelog.notes(text, "1.3.0") == "### Added\n\n- New.\n"
    assert changelog.notes(text, "1.2.3") == "### Fixed\n\n- Old.\n"


@pytest.mark.parametrize(
    ("text", "version", "problem"),
    [
        (TEXT, "1.2.3", r"has a section \[1\.2\.3\]; set the next version in exporter/__init__\.py"),
        (changelog.released(TEXT, "1.3.0", "2026-02-03"), "1.4.0", r"nothing is under \[Unreleased\]"),
        ("# Changelog\n", "1.3.0", r"has no section \[Unreleased\]"),
    ],
)
def test_a_release_of_nothing_or_of_a_version_twice_is_refused(text: str, version: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        changelog.released(text, version, "2026-02-03")


def test_the_changelog_has_the_sections_that_keep_a_changelog_wants() -> None:
    text = changelog.CHANGELOG.read_text()
    headings = [line for line in text.splitlines() if line.startswith("## ")]

    assert headings[0] == "## [Unreleased]"
    assert all(changelog._HEADING.fullmatch(f"{each}\n") for each in headings)  # noqa: SLF001  # the form that is read
    assert mismatch("", __version__, text, (REPOSITORY / "deploy/helm/sbg-exporter/Chart.yaml").read_text(), "") == ""


# -------------------------------------------------------------------------------------------------------------- check


@pytest.mark.parametrize(
    ("tag", "version", "text", "chart", "commit", "problem"),
    [
        ("v1.2.3", "1.2.3", TEXT, CHART, "0123abc", ""),
        ("", "1.2.3", TEXT, CHART, "", ""),
        ("v1.2.4", "1.2.3", TEXT, CHART, "0123abc", "The tag v1.2.4 does not match the version 1.2.3 in exporter/"),
        ("1.2.3", "1.2.3", TEXT, CHART, "0123abc", "The tag 1.2.3 does not match the version 1.2.3 in exporter/"),
        ("v1.2.3", "1.2.3", TEXT, CHART.replace('"1.2.3"', "1.2.2"), "0123abc", "The chart's version and appVersion "),
        ("v1.2.3", "1.2.3", TEXT, CHART, "0123abc-dirty", "The commit is 0123abc-dirty: "),
        ("v1.2.3", "1.2.3", TEXT, CHART, "unknown", "The commit is unknown: "),
        ("v9.0.0", "9.0.0", TEXT, CHART.replace("1.2.3", "9.0.0"), "0", "CHANGELOG.md has no section [9.0.0]; "),
        ("", "9.0.0", TEXT, CHART.replace("1.2.3", "9.0.0"), "0", ""),
        ("", "9.0.0", "# Changelog\n", CHART.replace("1.2.3", "9.0.0"), "0", "CHANGELOG.md has no section [9.0.0]; "),
    ],
)
def test_a_tag_that_does_not_fit_is_refused_in_one_line(  # noqa: PLR0917  # one row of the table above
    tag: str, version: str, text: str, chart: str, commit: str, problem: str
) -> None:
    found = mismatch(tag, version, text, chart, commit)

    assert found.startswith(problem)
    assert bool(found) == bool(problem)
    assert "\n" not in found


def test_publishing_needs_only_python_s_own_modules() -> None:
    """So that jobs which may publish install next to nothing."""
    command = [sys.executable, "-S", "-m", "deploy.publish", "--tag", "v0", "check"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("The tag v0 does not match the version ")
    assert done.stderr.count("\n") == 1


# -------------------------------------------------------------------------------------------------------------- steps


class Commands:
    """Stands in for all programs: remembers what was run, and answers by its first words."""

    def __init__(self, **answers: tuple[int, str]) -> None:
        self.ran: list[str] = []
        self.given: list[str] = []
        self._answers = {name.replace("_", " "): Done(*answer) for name, answer in answers.items()}

    def __call__(self, command: Sequence[str], given: str) -> Done:
        line = " ".join(command)
        self.ran.append(line)
        self.given.append(given)
        return next((answer for name, answer in self._answers.items() if line.startswith(name)), Done(0, ""))


def release(folder: Path, run: Commands, **about: Any) -> Release:  # noqa: ANN401  # fields of Release
    return Release(folder, f"v{__version__}", **{"dry": False, "run": run, **about})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Everything that ``make dist`` builds, but for the images."""
    names = (f"sbg-exporter-{__version__}.tgz", f"sbg_exporter-{__version__}.tar.gz", "SHA256SUMS")
    for name in (*names, f"sbg_exporter-{__version__}-py3-none-any.whl"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_a_dry_run_only_prints_what_would_change_something(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = Commands()

    for step in ("chart", "packages", "release"):
        publish.STEPS[step](release(folder, commands, dry=True))

    assert commands.ran == []
    printed = capsys.readouterr().out
    for command in ("helm push ", "cosign sign ", "uv publish ", "gh release create ", "gh release edit "):
        assert f"would run: {command}" in printed


def test_what_was_not_built_is_said_and_not_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = Commands()

    for step in ("image", "chart", "packages"):
        publish.STEPS[step](release(tmp_path, commands, dry=True))

    assert capsys.readouterr().out == "image: none was built\nchart: none was built\npackages: none were built\n"


@pytest.mark.parametrize("step", ["image", "chart", "packages"])
def test_a_release_without_a_part_is_refused(step: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r" built"):
        publish.STEPS[step](release(tmp_path, Commands()))


def test_a_release_is_a_draft_until_all_its_files_are_there(folder: Path) -> None:
    commands = Commands(gh_release_view=(1, "release not found"))

    publish.publish(release(folder, commands))

    tag = f"v{__version__}"
    assert [line.partition(tag)[0] for line in commands.ran] == [
        *("gh release view ", "gh release create ", "gh release upload ", "gh release edit ")
    ]
    assert "--draft --verify-tag" in commands.ran[1]
    assert commands.ran[2].count(str(folder)) == len(list(folder.iterdir()))
    assert "--draft=false" in commands.ran[3]


@pytest.mark.fault(
    "publishing a release ends half-way, and its failed jobs are run again",
    action="steps that are done are left alone, the others are done",
    shown="`published before` in the log",
    recovery="itself",
)
def test_a_release_that_ended_half_way_goes_on_where_it_ended(folder: Path) -> None:
    draft, finished = Commands(gh_release_view=(0, "true\n")), Commands(gh_release_view=(0, "false\n"))

    publish.publish(release(folder, draft))
    publish.publish(release(folder, finished))

    assert [line.split()[2] for line in draft.ran] == ["view", "upload", "edit"]
    assert [line.split()[2] for line in finished.ran] == ["view"]


@pytest.mark.parametrize(
    "answer",
    [
        'Error: failed to perform "FetchReference" on source: registry.example/charts/sbg-exporter:0.1.0: not found\n',
        'Error: GET "https://registry.example/v2/charts/manifests/0.1.0": response status code 404: Not Found\n',
        'time="2026-01-02" level=fatal msg="Error parsing image name: reading manifest 0.1.0: manifest unknown"\n',
        "name unknown: repository name not known to registry",
        "release not found",
    ],
)
def test_what_a_registry_does_not_know_is_published(answer: str, folder: Path) -> None:
    commands = Commands(helm_pull=(1, answer), gh_release_view=(1, answer))

    publish.chart(release(folder, commands))
    publish.publish(release(folder, commands))

    assert [line for line in commands.ran if line.startswith(("helm push", "gh release create"))] != []


@pytest.mark.fault(
    "a registry fails to say whether a version is published, while a release is published",
    action="the step ends, and nothing is pushed or signed",
    shown="one line in the log, with what the registry answered",
    recovery="re-run the failed jobs",
)
@pytest.mark.parametrize(
    "answer",
    [
        "Error: response status code 503: Service Unavailable\n",
        'Error: exec: "docker-credential-x": executable file not found in $PATH\n',
        "dial tcp: lookup registry.example: no such host\n\nsee --debug",
        "",
    ],
)
def test_unclear_answer_about_what_is_published_ends_the_step(answer: str, folder: Path) -> None:
    for step, asking in ((publish.chart, "helm_pull"), (publish.publish, "gh_release_view")):
        commands = Commands(**{asking: (1, answer)})

        with pytest.raises(
            SystemExit, match=r"^Nothing was published, because what is there is not known: [^\n]+ failed: [^\n]+$"
        ):
            step(release(folder, commands))

        assert len(commands.ran) == 1


REFUSALS: Final = [
    # skopeo, helm 4 and helm 3 of a repository that GHCR does not have; skopeo of one that Docker Hub does not have
    'fatal msg="Error parsing image name: Requesting bear token: invalid status code from registry 403 (Forbidden)"',
    'Error: GET "https://ghcr.io/token?scope=x": response status code 403: denied: denied',
    "Error: failed to authorize: failed to fetch anonymous token: unexpected status from GET request: 403 Forbidden",
    'Error: GET "https://ghcr.io/token?scope=x": unexpected status code 401: unauthorized: authentication required',
    "errors:\ndenied: requested access to the resource is denied\nunauthorized: authentication required\n",
]


class HidingRegistry(Commands):
    """Denies access until something has been pushed."""

    def __init__(self, refusal: str, afterwards: Done) -> None:
        super().__init__()
        self._refused, self._afterwards = Done(1, refusal), afterwards

    def __call__(self, command: Sequence[str], given: str) -> Done:
        told = self._afterwards if any("@sha256:" in line for line in self.ran) else self._refused
        done = super().__call__(command, given)
        return told if command[:2] == ["helm", "pull"] else done


@pytest.mark.fault(
    "a registry denies access to a repository that does not exist yet, at the first release",
    action="the chart is pushed under its digest, which replaces nothing, and the registry is asked again",
    shown="nothing",
    recovery="itself",
)
@pytest.mark.parametrize("refusal", REFUSALS)
def test_the_first_release_does_not_need_access_to_a_repository_that_is_missing(refusal: str, folder: Path) -> None:
    commands = HidingRegistry(refusal, Done(1, "manifest unknown"))

    publish.chart(release(folder, commands))

    assert [line.partition(" ")[0] for line in commands.ran] == ["helm", "skopeo", "helm", "helm", "cosign"]
    assert re.search(r" docker://registry\.example/\S+/sbg-exporter@sha256:[0-9a-f]{64}$", commands.ran[1])
    assert commands.ran[3].startswith("helm push ")


@pytest.mark.fault(
    "a registry denies access to a repository that exists",
    action="the step ends, and no version is pushed or signed",
    shown="one line in the log, with what the registry answered",
    recovery="give the workflow the right to read it, and re-run the failed jobs",
)
@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_version_that_a_registry_hides_is_not_replaced(refusal: str, folder: Path) -> None:
    commands = HidingRegistry(refusal, Done(1, refusal))

    with pytest.raises(SystemExit, match=r"^Nothing was published, because what is there is not known: [^\n]+$"):
        publish.chart(release(folder, commands))

    assert [line.partition(" ")[0] for line in commands.ran] == ["helm", "skopeo", "helm"]


def test_without_the_right_to_push_to_a_hidden_repository_the_step_ends(folder: Path) -> None:
    commands = Commands(helm_pull=(1, REFUSALS[0]), skopeo_copy=(1, "denied: permission_denied: write_package"))

    with pytest.raises(SystemExit, match=r"^skopeo copy .* failed with 1:\ndenied: permission_denied: write_package$"):
        publish.chart(release(folder, commands))


def test_denied_access_to_a_release_ends_the_step(folder: Path) -> None:
    commands = Commands(gh_release_view=(1, "HTTP 403: Forbidden"))

    with pytest.raises(SystemExit, match=r"^Nothing was published, because what is there is not known: "):
        publish.publish(release(folder, commands))

    assert len(commands.ran) == 1


def test_a_command_that_fails_ends_the_step_with_what_it_printed(folder: Path) -> None:
    commands = Commands(uv_publish=(2, "403 Forbidden"))

    with pytest.raises(SystemExit, match=r"uv publish .* failed with 2:\n403 Forbidden"):
        publish.packages(release(folder, commands))


def test_the_token_of_a_registry_is_given_on_standard_input_only(folder: Path) -> None:
    commands = Commands()

    publish.login(release(folder, commands, image="one.example/a", charts="two.example/b"), "someone", "feedface")

    assert [line.split()[-1] for line in commands.ran] == ["one.example"] * 3 + ["two.example"] * 3
    assert set(commands.given) == {"feedface"}
    assert "feedface" not in "".join(commands.ran)


def test_a_release_that_lacks_files_is_refused_and_a_rehearsal_names_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=f"lacks .*{dist.NAME}-image-arm64.tar"):
        publish.gather(release(folder, Commands()))

    publish.gather(Release(folder))

    assert f"{dist.NAME}-image-arm64.tar" in capsys.readouterr().out
    assert (folder / "SHA256SUMS").read_text().count("\n") == 3


# ----------------------------------------------------------------------------------------------------- a real registry


def image_archive(folder: Path, architecture: str, text: str) -> None:
    """An image of one file, as ``make dist`` writes it, with a bill of materials."""
    layer = BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        about = tarfile.TarInfo("greeting")
        about.size = len(text)
        files.addfile(about, BytesIO(text.encode()))
    digest = f"sha256:{sha256(layer.getvalue()).hexdigest()}"
    configuration: dict[str, Any] = {"architecture": architecture, "os": "linux", "config": {"Labels": {"a": "b"}}}
    configuration |= {"rootfs": {"type": "layers", "diff_ids": [digest]}, "history": [{"created_by": "a test"}]}
    contents = {
        "layer.tar": layer.getvalue(),
        "config.json": json.dumps(configuration).encode(),
        "manifest.json": json.dumps([{"Config": "config.json", "Layers": ["layer.tar"]}]).encode(),
    }
    with tarfile.open(folder / f"{dist.NAME}-image-{architecture}.tar", "w") as archive:
        for name, content in contents.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, BytesIO(content))
    (folder / f"{dist.NAME}-image-{architecture}.cdx.json").write_text("{}")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Address of a registry on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}, "level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": address},
    }
    (tmp_path / "registry.yml").write_text(yaml.safe_dump(settings))
    process = subprocess.Popen([tool("docker-registry"), "serve", str(tmp_path / "registry.yml")])
    host, _, port = address.partition(":")

    def listens() -> bool:
        with socket.socket() as client:
            return client.connect_ex((host, int(port))) == 0

    try:
        eventually(listens)
        yield address
    finally:
        process.terminate()
        process.wait()


class Hider(BaseHTTPRequestHandler):
    """Passes requests on to a registry, but denies those for manifests of repositories without any."""

    protocol_version = "HTTP/1.1"
    registry = ""
    existing: set[str]

    def do_GET(self) -> None:
        body = self._body()
        repository, _, manifest = self.path.partition("/manifests/")
        if manifest and self.command == "PUT":
            self.existing.add(repository)
        if manifest and repository not in self.existing:
            denied = {"errors": [{"code": "DENIED", "message": "requested access to the resource is denied"}]}
            return self._answer(403, [("Content-Type", "application/json")], json.dumps(denied).encode())
        connection = HTTPConnection(self.registry)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, text in self.headers.items():  # Accept may be there several times
            if name.lower() not in {"transfer-encoding", "content-length"}:
                connection.putheader(name, text)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        answered = response.read()
        self._answer(response.status, response.getheaders(), answered)
        return connection.close()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815  # names of http.server

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while "Transfer-Encoding" in self.headers and (size := int(self.rfile.readline(), 16)):
            body += self.rfile.read(size)
            self.rfile.readline()
        if "Transfer-Encoding" in self.headers:
            self.rfile.readline()
        return body

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, text in headers:
            if name.lower() != "transfer-encoding" and (self.command == "HEAD" or name.lower() != "content-length"):
                self.send_header(name, text)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # name of http.server
        pass


@pytest.fixture
def hiding_registry(registry: str) -> Iterator[str]:
    """Address of a registry that denies access to repositories without a manifest."""
    handler = type("Handler", (Hider,), {"registry": registry, "existing": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real programs with folders of their own, and a cosign that only writes down what it is to sign."""
    (tmp_path / "bin").mkdir()
    log = tmp_path / "cosign.log"
    (tmp_path / "bin" / "cosign").write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    (tmp_path / "bin" / "cosign").chmod(0o755)
    storage = f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/graph"\nrunroot = "{tmp_path}/run"\n'
    (tmp_path / "storage.conf").write_text(storage)
    folders = [str(Path(tool(name)).parent) for name in ("helm", "skopeo", "buildah")]
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "bin"), *folders, os.environ["PATH"]]))
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    for name in ("HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return log


@pytest.mark.slow
@pytest.mark.tools("docker-registry", "skopeo", "buildah", "helm", "root")
@pytest.mark.parametrize("kind", ["registry", "hiding_registry"])
def test_image_and_chart_arrive_in_a_registry_once_however_often_they_are_pushed(
    kind: str, programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    registry = request.getfixturevalue(kind)
    (folder := tmp_path / "dist").mkdir()
    for architecture in publish.ARCHITECTURES:
        image_archive(folder, architecture, f"hello from {architecture}")
    dist.chart(folder, tool("helm"))
    pushed = Release(
        folder, f"v{__version__}", f"{registry}/us/sbg-exporter", f"{registry}/us/charts", dry=False, plain=True
    )

    for _ in range(2):
        publish.image(pushed)
        publish.chart(pushed)

    digests = dict(line.split("=") for line in (tmp_path / "output").read_text().splitlines())
    assert capsys.readouterr().out.count("published before") == 2
    raw = ["skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{pushed.image}@{digests['image']}"]
    listed = json.loads(subprocess.run(raw, capture_output=True, text=True, check=True).stdout)["manifests"]
    assert [pushed.image + "@" + each["digest"] in programs.read_text() for each in listed] == [True, True]
    assert [each["platform"]["architecture"] for each in listed] == list(publish.ARCHITECTURES)
    signed = programs.read_text().splitlines()
    assert len(signed) == len(set(signed)) * 2
    assert f"{pushed.image}@{digests['image']}" in signed[0]
    assert f"{pushed.charts}/sbg-exporter@{digests['chart']}" in signed[3]

    image_archive(folder, "arm64", "something else")
    (folder / f"{dist.NAME}.tgz").write_bytes(b"something else")

    for step in (publish.image, publish.chart):
        with pytest.raises(SystemExit, match="is published, and is another"):
            step(pushed)


# ----------------------------------------------------------------------------------------------------------- workflows


def test_the_release_s_workflow_runs_every_step_with_the_tag_and_a_rehearsal_runs_the_same() -> None:
    text = (WORKFLOWS / "release.yml").read_text()
    steps = [step for job in yaml.safe_load(text)["jobs"].values() for step in job.get("steps", ())]
    lines = [step["run"] for step in steps if "run" in step]
    run = {word for line in lines for word in line.replace('"', " ").split() if word in publish.STEPS}

    assert all('--tag "$TAG"' in line or "--tag $TAG" in line for line in lines)
    assert run == set(publish.STEPS)
    for rehearsal in ((WORKFLOWS / "ci.yml").read_text(), (REPOSITORY / "Makefile").read_text()):
        [steps_of_it] = {
            line.split("--dry-run ")[1].strip('"') for line in rehearsal.splitlines() if "--dry-run" in line
        }
        assert steps_of_it.split() == [step for step in publish.STEPS if step in steps_of_it.split()]
        assert set(steps_of_it.split()) >= run - {"packages"}


def test_half_published_releases_are_not_cancelled_and_the_recipe_says_that_only_one_can_wait() -> None:
    text = (WORKFLOWS / "release.yml").read_text()

    assert yaml.safe_load(text)["concurrency"] == {"group": "release", "cancel-in-progress": False}
    assert "a third tag would cancel it" in text
    assert "a third tag cancels the one that waits" in (WORKFLOWS.parent / "CONTRIBUTING.md").read_text()


@pytest.mark.slow
@pytest.mark.tools("actionlint")
def test_actionlint_finds_nothing() -> None:
    found = subprocess.run([tool("actionlint")], cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert (found.returncode, found.stdout) == (0, "")

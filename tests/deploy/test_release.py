"""What a release consists of, and that the wheel alone, without the checkout, is the product."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from email import message_from_bytes
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest
import yaml
from readme_renderer import markdown

from deploy import dist
from deploy.image_contents import bill_of_materials
from exporter import __version__
from tests.deploy.bills import mistakes
from tests.deploy.kubernetes_tools import CHART, helm, needs_helm
from tests.tools import tool

REPOSITORY = Path(__file__).parents[2]
URL: Final = str(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["urls"]["Repository"])
pytestmark = pytest.mark.sources


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything but the chart and the image, which have tests of their own."""
    folder = tmp_path_factory.mktemp("release") / "dist"
    command = [sys.executable, "-m", "deploy.dist", str(folder), "--without", "chart", "--without", "image"]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return folder


def test_its_checksums_are_those_of_its_files(release: Path) -> None:
    lines = (release / "SHA256SUMS").read_text().splitlines()

    assert {line[66:]: line[:64] for line in lines} == {
        path.name: sha256(path.read_bytes()).hexdigest() for path in release.iterdir() if path.name != "SHA256SUMS"
    }
    assert len(lines) == 4


def test_every_file_bears_the_one_version(release: Path) -> None:
    names = {path.name for path in release.iterdir()} - {"SHA256SUMS"}

    assert names == {
        f"sbg_exporter-{__version__}-py3-none-any.whl",
        f"sbg_exporter-{__version__}.tar.gz",
        f"sbg-exporter-{__version__}.cdx.json",
        f"sbg-exporter-{__version__}-monitoring.tar.gz",
    }


def test_its_bill_of_materials_names_what_is_pinned_and_nothing_else(release: Path) -> None:
    bill = json.loads((release / f"sbg-exporter-{__version__}.cdx.json").read_text())
    listed = {f"{each['name'].lower().replace('_', '-')}=={each['version']}" for each in bill["components"]}
    lock = (REPOSITORY / "requirements.lock").read_text()
    pinned = {line.split()[0].rstrip("\\") for line in lock.splitlines() if "==" in line and line[0] not in " #"}

    [wheel] = release.glob("*.whl")
    about = bill["metadata"]["component"]
    assert (about["name"], about["version"]) == ("sbg-exporter", __version__)
    assert about["hashes"] == [{"alg": "SHA-256", "content": sha256(wheel.read_bytes()).hexdigest()}]
    assert {each for each in listed if not each.startswith("sbg-exporter==")} <= pinned
    assert {"httpx", "msgspec", "uvicorn"} <= {each["name"] for each in bill["components"]}


def test_its_bill_of_materials_is_one_in_cyclonedx_s_format(release: Path) -> None:
    bill = (release / f"sbg-exporter-{__version__}.cdx.json").read_text()

    assert mistakes(bill) == []


# ------------------------------------------------------------------------------------------------------- the same again


def test_its_source_distribution_gives_the_same_release_elsewhere(release: Path, tmp_path: Path) -> None:
    """In another folder and time zone, from files of another time, mode, order and owner, and in another repository."""
    [source] = release.glob("sbg_exporter-*.tar.gz")
    shutil.unpack_archive(source, tmp_path / "unpacked")
    (tmp_path / "unpacked" / source.name.removesuffix(".tar.gz")).rename(elsewhere := tmp_path / "el se where")
    for path in sorted(elsewhere.rglob("*"), reverse=True):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (1, 1))
        if os.geteuid() == 0:
            os.chown(path, 4321, 4321)
    (tmp_path / ".git").mkdir()
    environment = {
        **os.environ,
        "TZ": "Asia/Kathmandu",
        "LC_ALL": "C",
        "PYTHONHASHSEED": "7",
        "SOURCE_DATE_EPOCH": str(dist.source_date()),
    }

    subprocess.run(
        [sys.executable, "-m", "deploy.dist", "again", "--without", "chart", "--without", "image"],
        cwd=elsewhere,
        env=environment,
        umask=0o077,
        check=True,
        capture_output=True,
    )

    assert (elsewhere / "again" / "SHA256SUMS").read_text() == (release / "SHA256SUMS").read_text()


@needs_helm
def test_the_chart_s_package_is_the_same_again_and_one_that_helm_takes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        dist.chart(tmp_path / name, tool("helm"))

    first, second = (tmp_path / name / f"sbg-exporter-{__version__}.tgz" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert helm("template", "copies", str(first)) == helm("template", "copies", str(CHART))
    with tarfile.open(first) as archive:
        assert {each.mtime for each in archive} == {dist.source_date()}


def test_the_wheel_is_built_by_the_locked_tools(release: Path) -> None:
    lock = (REPOSITORY / "deploy" / "docker" / "build-requirements.lock").read_text()
    [wheel] = release.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        about = archive.read(f"sbg_exporter-{__version__}.dist-info/WHEEL").decode()

    [locked] = re.findall(r"(?m)^hatchling==(\S+)", lock)
    assert f"Generator: hatchling {locked}\n" in about


PACKAGE: Final = (".gitattributes", "exporter/__init__.py", "exporter/revision.py")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what builds a release."""
    for name in (*(f"deploy/{each}.py" for each in ("__init__", "dist", "image_contents")), *PACKAGE):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    return tmp_path


def told(checkout: Path, what: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The result of this function of ``deploy.dist`` in that folder."""
    printed = f"from deploy.dist import {what}; print({what}())"
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(("GIT_", "SOURCE_"))}
    return subprocess.run(
        [sys.executable, "-c", printed],
        cwd=checkout,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def committed(checkout: Path) -> str:
    """Commit that folder, and return the commit's name."""
    someone = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    date = {"GIT_COMMITTER_DATE": "2001-02-03T04:05:06+07:00"}
    for command in (["init", "--quiet"], ["add", "--force", "."], ["commit", "--quiet", "--message=a"]):
        subprocess.run(["git", *someone, *command], cwd=checkout, env=os.environ | date, check=True)
    named = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True)
    return named.stdout


@pytest.mark.tools("git")
def test_a_release_bears_the_time_of_its_commit(checkout: Path) -> None:
    committed(checkout)

    assert told(checkout, "source_date").stdout == "981147906\n"
    assert told(checkout, "source_date", SOURCE_DATE_EPOCH="86400").stdout == "86400\n"


@pytest.mark.tools("git")
def test_a_release_names_its_commit_and_whether_files_have_been_changed_since(checkout: Path) -> None:
    commit = committed(checkout)
    (checkout / "new").touch()

    assert told(checkout, "revision").stdout == commit

    (checkout / "exporter" / "__init__.py").write_text('__version__ = "0"\n')

    assert told(checkout, "revision").stdout == f"{commit.strip()}-dirty\n"


@pytest.mark.tools("git")
def test_an_archive_that_git_makes_knows_its_commit(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    commit = committed(checkout)
    unpacked = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["git", "archive", f"--output={unpacked}.tar", "HEAD"], cwd=checkout, check=True)
    shutil.unpack_archive(f"{unpacked}.tar", unpacked)

    assert told(unpacked, "revision").stdout == commit


def test_a_release_without_a_commit_bears_a_fixed_time_and_an_unknown_revision(checkout: Path) -> None:
    assert told(checkout, "source_date").stdout == "1580601600\n"
    assert told(checkout, "revision").stdout == "unknown\n"


@pytest.mark.tools("git")
def test_a_checkout_that_git_cannot_read_is_not_taken_for_none(checkout: Path) -> None:
    (checkout / ".git").write_text("gitdir: /nowhere\n")

    done = told(checkout, "source_date")

    assert done.returncode == 1
    assert done.stderr.startswith("make dist needs the commit of this checkout: ")


def test_the_wheel_knows_its_commit_without_git(release: Path, tmp_path: Path) -> None:
    [wheel] = release.glob("*.whl")
    command = [sys.executable, "-m", "exporter", "version"]
    environment = {**os.environ, "PYTHONPATH": str(wheel), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.startswith(f"sbg-exporter {__version__} (revision {dist.revision()}, Python ")


# ------------------------------------------------------------------------------------------- the package's page


@pytest.fixture(scope="module")
def page(release: Path) -> str:
    """What a package index shows of the wheel, as HTML."""
    [wheel] = release.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        about = message_from_bytes(archive.read(f"sbg_exporter-{__version__}.dist-info/METADATA"))
    assert about["Description-Content-Type"] == "text/markdown"
    rendered = markdown.render(str(about.get_payload()))
    assert rendered is not None
    return rendered


def test_the_package_s_page_is_the_readme_with_its_tables_and_pictures(page: str) -> None:
    readme = (REPOSITORY / "README.md").read_text()

    assert re.findall(r"<h2[^>]*>(?:<[^>]+>)*([^<]+)", page) == re.findall("(?m)^## (.+)$", readme)
    assert page.count("<table>") == len(re.findall(r"(?m)^\| --- ", readme))
    assert page.count("<img ") == readme.count("![")


def test_the_package_s_page_links_to_documents_and_pictures_of_its_version(page: str) -> None:
    targets = re.findall(r'(?:href|src)="([^"]+)"', page)
    tagged = f"{URL}/(?:blob|raw)/v{re.escape(__version__)}/"
    ours = [re.sub(tagged, "", target).partition("#")[0] for target in targets if re.match(tagged, target)]

    assert len(ours) > 10
    assert [path for path in ours if not (REPOSITORY / path).is_file()] == []
    assert [target for target in targets if not target.startswith(("https://", "#")) or "/main/" in target] == []


# ------------------------------------------------------------------------------------------- what an image contains

DEBIAN: Final = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u10
Description: GNU C Library
 Continued.

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1

Package: tzdata
Status: install ok installed
Architecture: all
Version: 1:2025b~1
"""
METADATA: Final = "Metadata-Version: 2.4\nName: {}\nVersion: {}\n\nText\nVersion: 9\n"
SITE: Final = "opt/sbg-exporter/lib/python3.14/site-packages"


def archived(files: Mapping[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, text in files.items():
            about = tarfile.TarInfo(path)
            about.size = len(text.encode())
            archive.addfile(about, io.BytesIO(text.encode()))
    return packed.getvalue()


def image_of(folder: Path, *layers: Mapping[str, str], **config: object) -> Path:
    """An archive of an image with these layers."""
    names = [f"layer{number}.tar" for number in range(len(layers))]
    with tarfile.open(folder / "image.tar", "w") as archive:
        files = {
            "manifest.json": json.dumps([{"Config": "config.json", "Layers": names}]).encode(),
            "config.json": json.dumps({"config": config}).encode(),
            **dict(zip(names, map(archived, layers), strict=True)),
        }
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return folder / "image.tar"


def listed(archive: Path) -> list[str]:
    """The package URLs in a valid bill of materials of that image."""
    bill = bill_of_materials(archive, "sbg-exporter", "1")
    assert mistakes(json.dumps(bill)) == []
    return [each["purl"] for each in bill["components"]]


def test_an_image_s_bill_of_materials_names_debian_s_and_python_s_packages(tmp_path: Path) -> None:
    base = {"./etc/os-release": 'ID=debian\nVERSION_ID="12"\n', "var/lib/dpkg/status": DEBIAN}
    ours = {f"{SITE}/httpx-0.28.1.dist-info/METADATA": METADATA.format("httpx", "0.28.1"), f"{SITE}/httpx/a.py": ""}

    assert listed(image_of(tmp_path, base, ours, Env=["PATH=/bin", "PYTHON_VERSION=3.14.5"])) == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=debian-12",
        "pkg:deb/debian/tzdata@1:2025b~1?arch=all&distro=debian-12",
        "pkg:generic/python@3.14.5",
        "pkg:pypi/httpx@0.28.1",
    ]


def test_packages_of_an_image_without_dpkg_are_listed(tmp_path: Path) -> None:
    base = {"var/lib/dpkg/status.d/tzdata": "Package: tzdata\nArchitecture: all\nVersion: 2\n"}
    base |= {"var/lib/dpkg/status.d/tzdata.md5sums": "0123  usr/share/zoneinfo/UTC\n"}

    assert listed(image_of(tmp_path, base)) == ["pkg:deb/debian/tzdata@2?arch=all&distro=debian"]


@pytest.mark.parametrize(
    "whiteout",
    [
        f"{SITE}/.wh.pip-26.3.dist-info",
        f"{SITE}/pip-26.3.dist-info/.wh.METADATA",
        f"{SITE}/.wh..wh..opq",
        "opt/.wh.sbg-exporter",
    ],
)
def test_what_a_later_layer_removes_is_not_listed(whiteout: str, tmp_path: Path) -> None:
    pip = {f"{SITE}/pip-26.3.dist-info/METADATA": METADATA.format("pip", "26.3"), "var/lib/dpkg/status": DEBIAN}
    status = "Package: tzdata\nStatus: install ok installed\nArchitecture: all\nVersion: 3\n"
    upgraded = {"var/lib/dpkg/status": status}

    assert listed(image_of(tmp_path, pip, upgraded | {whiteout: ""})) == [
        "pkg:deb/debian/tzdata@3?arch=all&distro=debian"
    ]


# ------------------------------------------------------------------------------------------------------------- contents


def test_its_archive_holds_rules_and_dashboards(release: Path) -> None:
    with tarfile.open(release / f"sbg-exporter-{__version__}-monitoring.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {"deploy/prometheus/sbg-exporter.rules.yml", "grafana/dashboards/bulk-jobs.json"} <= names


def test_the_source_distribution_holds_what_the_tests_need(release: Path) -> None:
    with tarfile.open(release / f"sbg_exporter-{__version__}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {"Makefile", "README.md", "requirements.lock", "tests/requirements.lock", "exporter/py.typed"} <= names
    assert not [name for name in names if "node_modules" in name]


def test_the_wheel_holds_every_file_of_the_package(release: Path) -> None:
    [wheel] = release.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("exporter/")}

    files = (path for path in (REPOSITORY / "exporter").rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert names == {str(path.relative_to(REPOSITORY)) for path in files}


def test_the_demo_passes_its_test_where_there_is_the_wheel_and_no_checkout(release: Path, tmp_path: Path) -> None:
    [wheel] = release.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "installed", "zip")
    for name in ("tests", "pyproject.toml", "README.md", "deploy", "grafana"):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    chosen = "tests/integration/test_demo.py::test_demo_prints_urls_and_serves_changing_metrics"
    printed = "import exporter, sys; sys.stdout.write(exporter.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "COVERAGE_PROCESS_START": ""}

    where = subprocess.run(
        [sys.executable, "-c", printed], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    passed = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", chosen],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert where.stdout.startswith(str(tmp_path / "installed"))
    assert passed.returncode == 0, passed.stdout + passed.stderr


def test_what_is_missing_is_named_before_the_last_release_is_gone(tmp_path: Path) -> None:
    (tmp_path / "SHA256SUMS").write_text("of the last release")
    command = [sys.executable, "-m", "deploy.dist", str(tmp_path), "--without", "image", "--helm", "no-such-helm"]

    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    advice = "make dist needs no-such-helm; skip it with ARGS='--without chart' or '--without image'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", advice)
    assert [each.name for each in tmp_path.iterdir()] == ["SHA256SUMS"]


def test_the_workflow_runs_what_a_developer_runs() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    targets = [command.partition("make ")[2].split()[0] for command in commands if "make" in command.split()]

    assert targets == ["test", "test-wheel", "test-all", "dist", "dist", "publish"]
    assert "make test" in (REPOSITORY / ".ci" / "run").read_text().splitlines()
    assert workflow["jobs"]["release"]["needs"] == [name for name in workflow["jobs"] if name != "release"]


@pytest.mark.parametrize(
    "guide", sorted((REPOSITORY / "deploy").rglob("README.md")), ids=lambda path: str(path.relative_to(REPOSITORY))
)
def test_guide_says_that_nothing_is_published_and_builds_it(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")

    assert "published yet" in text
    assert re.search(r"docker build -f deploy/docker/Dockerfile|up --build|pip install --no-deps \.|make dist", text)

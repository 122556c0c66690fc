"""What a release consists of, and that the wheel alone, without the checkout, is the product."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from exporter import __version__

REPOSITORY = Path(__file__).parents[2]
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
    told = "import exporter, sys; sys.stdout.write(exporter.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "COVERAGE_PROCESS_START": ""}

    where = subprocess.run(
        [sys.executable, "-c", told], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
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

    told = "make dist needs no-such-helm; skip it with ARGS='--without chart' or '--without image'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)
    assert [each.name for each in tmp_path.iterdir()] == ["SHA256SUMS"]


def test_the_workflow_runs_what_a_developer_runs() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    targets = [command.split()[-1] for command in commands if "make" in command.split()]

    assert targets == ["test", "test-wheel", "test-all", "dist"]
    assert "make test" in (REPOSITORY / ".ci" / "run").read_text().splitlines()
    assert workflow["jobs"]["release"]["needs"] == [name for name in workflow["jobs"] if name != "release"]


@pytest.mark.parametrize(
    "guide", sorted((REPOSITORY / "deploy").rglob("README.md")), ids=lambda path: str(path.relative_to(REPOSITORY))
)
def test_guide_says_that_nothing_is_published_and_builds_it(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")

    assert "published yet" in text
    assert re.search(r"docker build -f deploy/docker/Dockerfile|up --build|pip install --no-deps \.|make dist", text)

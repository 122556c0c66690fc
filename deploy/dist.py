"""Build all files of a release in one folder, with checksums: ``python -m deploy.dist dist`` (``make dist``).

These are the wheel, the source distribution, the Helm chart, the archive of rules and dashboards, the container image,
and the bills of materials of wheel and image. The version is that of the package.

Building the same commit twice gives the same bytes, of the image as far as ``deploy/docker/README.md`` says. All files
bear the time of the commit; set ``SOURCE_DATE_EPOCH`` to that time to rebuild a release from its source distribution.
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
from functools import cache
from pathlib import Path
from typing import IO, Final

from exporter import __version__
from exporter.revision import UNKNOWN
from exporter.revision import revision as built_from

REPOSITORY: Final = Path(__file__).parents[1]
NAME: Final = f"sbg-exporter-{__version__}"
MONITORING: Final = ("deploy/prometheus", "grafana/dashboards", "grafana/provisioning", "grafana/README.md")
"""Sources of the monitoring archive: rules, runbooks, example configurations, dashboards."""
PARTS: Final = ("packages", "monitoring", "chart", "image")
_BIN: Final = Path(sys.executable).parent
_WITHOUT_COMMIT: Final = 1_580_601_600
"""Time of all files where there is no commit: 2 February 2020, as hatchling has it."""


@cache
def source_date() -> int:
    """Return the time that all files of the release bear, in Unix seconds."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    return int(_git("log", "-1", "--format=%ct")) if (REPOSITORY / ".git").exists() else _WITHOUT_COMMIT


@cache
def revision() -> str:
    """Return the commit that is built: an unpacked source distribution knows it, a checkout is asked."""
    if built_from() != UNKNOWN or not (REPOSITORY / ".git").exists():
        return built_from()
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return _git("rev-parse", "HEAD") + ("-dirty" if changed else "")


def wheel_and_sdist(folder: Path) -> Path:
    """Build wheel and source distribution in *folder* and return the path of the wheel."""
    locked = ("--require-hashes", "--build-constraints", REPOSITORY / "deploy" / "docker" / "build-requirements.lock")
    _run(_BIN / "uv", "build", "-q", "--python", sys.executable, *locked, "--out-dir", folder, REPOSITORY)
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
    """Write the archive of rules and dashboards."""
    files = ((f"{NAME}-monitoring/{path.relative_to(REPOSITORY)}", path.read_bytes()) for path in _files(MONITORING))
    _pack(folder / f"{NAME}-monitoring.tar.gz", files)


def chart(folder: Path, helm: str) -> None:
    """Package the Helm chart, again, because Helm's own package depends on time and place."""
    with tempfile.TemporaryDirectory() as scratch:
        _run(helm, "package", "--destination", scratch, REPOSITORY / "deploy" / "helm" / "sbg-exporter")
        [package] = Path(scratch).iterdir()
        with tarfile.open(package) as archive:
            opened = [(member.name, archive.extractfile(member)) for member in archive if member.isfile()]
            files = [(name, file.read()) for name, file in opened if file is not None]
        _pack(folder / package.name, sorted(files))


def _pack(archive: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write *files* so that the archive depends only on their names and contents, and on the release's time."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as out:
        for name, content in files:
            about = tarfile.TarInfo(name)
            about.size, about.mtime = len(content), source_date()
            out.addfile(about, io.BytesIO(content))
    with archive.open("wb") as plain, gzip.GzipFile("", "wb", fileobj=plain, mtime=0) as zipped:
        zipped.write(packed.getvalue())


def image(folder: Path, buildah: str, base: str | None) -> None:
    """Build the container image, on *base* if given, as an archive for ``docker load`` and ``podman load``.

    Its bill of materials is written too.
    """
    from deploy import image_contents  # noqa: PLC0415  # its library is missing where releases are only published

    dockerfile = REPOSITORY / "deploy" / "docker" / "Dockerfile"
    on_base = ("--build-arg", f"BASE={base}") if base else ()
    about = ("--build-arg", f"VERSION={__version__}", "--build-arg", f"REVISION={revision()}")
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
        "--timestamp",
        source_date(),
        *on_base,
        *about,
        "-t",
        tag,
    )
    _run(*build, "-f", dockerfile, REPOSITORY)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        pushed = Path(scratch) / "image.tar"
        _run(buildah, "push", "-q", tag, f"docker-archive:{pushed}:{tag}")
        archive = _repack_image(pushed, folder)
    bill = image_contents.bill_of_materials(archive, "sbg-exporter", __version__)
    archive.with_suffix(".cdx.json").write_text(f"{json.dumps(bill, indent=2)}\n")


def _repack_image(pushed: Path, folder: Path) -> Path:
    """Copy an image's archive without the random names of the container that buildah made it in.

    Its name has the architecture that the image is for, because a release is built on a machine of each.
    """
    from deploy import image_contents  # noqa: PLC0415  # as above

    with tarfile.open(pushed) as read:
        [manifest] = json.loads(image_contents.content(read, "manifest.json"))
        configuration = json.loads(image_contents.content(read, manifest["Config"]))
        for random in ("container", "container_config"):
            configuration.pop(random, None)
        configuration["config"]["Hostname"] = ""
        archive = folder / f"{NAME}-image-{configuration['architecture']}.tar"
        with tarfile.open(archive, "w") as written:

            def add(name: str, content: IO[bytes], size: int) -> None:
                about = tarfile.TarInfo(name)
                about.size, about.mtime = size, source_date()
                written.addfile(about, content)

            for layer in manifest["Layers"]:
                with image_contents.opened(read, layer) as content:
                    add(layer, content, read.getmember(layer).size)
            text = json.dumps(configuration).encode()
            manifest["Config"] = f"{hashlib.sha256(text).hexdigest()}.json"
            listed = json.dumps([manifest]).encode()
            add(manifest["Config"], io.BytesIO(text), len(text))
            add("manifest.json", io.BytesIO(listed), len(listed))
    return archive


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


def _git(*words: str) -> str:
    """Return what git says of this checkout.

    Raises:
        SystemExit: git is missing or fails, so that a release is not silently built without its commit.
    """
    if shutil.which("git") is None:
        raise SystemExit("make dist needs git, to read the commit of this checkout")
    done = subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False)  # noqa: S603, S607  # constants, and the git on PATH
    if done.returncode:
        raise SystemExit(f"make dist needs the commit of this checkout: {done.stderr.strip()}")
    return done.stdout.strip()


def _run(*command: object) -> None:
    words = [str(word) for word in command]
    environment = {
        **os.environ,
        "PYTHONWARNINGS": "ignore",
        "SOURCE_DATE_EPOCH": str(source_date()),
        "BUILD_REVISION": revision(),
    }
    subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603  # arguments are constants and paths


def main() -> int:
    """Build the release and return the exit code."""
    parser = argparse.ArgumentParser(description="Build all files of a release in one folder, with checksums.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--without", action="append", choices=PARTS, default=[])
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
    if "packages" not in options.without:
        bill_of_materials(folder, wheel_and_sdist(folder))
    if "monitoring" not in options.without:
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

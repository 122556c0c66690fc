"""The bill of materials of the container image, in CycloneDX format, read from the image's archive.

It lists what is in the image, not what was meant to be: Debian's packages as dpkg recorded them, Python packages by
their metadata, wherever they are installed, and the Python that the official images build from its source.
"""

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from email.parser import HeaderParser
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from packageurl import PackageURL

_DPKG: Final = re.compile(r"var/lib/dpkg/status(\.d/[^/]+)?")
"""Where dpkg, and images that were made without it, record packages."""
_METADATA: Final = re.compile(r".*\.dist-info/METADATA")
_RELEASE: Final = re.compile(r"(etc|usr/lib)/os-release")
_WHITEOUT: Final = ".wh."
"""Prefix of a file by which a layer removes one of the layers below."""

Object = dict[str, Any]


class Image(NamedTuple):
    """What an archive of an image says.

    Attributes:
        digest: of its configuration, which is the image's id.
        configuration: labels, variables and so on, as the image specification names them.
        files: the files that record packages, by path without a leading slash.
    """

    digest: str
    configuration: Object
    files: Mapping[str, str]


def bill_of_materials(archive: Path, name: str, version: str) -> Object:
    """Return the bill of materials of the one image in *archive*, which ``docker save`` and buildah write.

    Raises:
        ValueError: *archive* holds several images, or is damaged.
    """
    image = read(archive)
    found = sorted({component["bom-ref"]: component for component in components(image)}.items())
    url = PackageURL("oci", name=name, version=f"sha256:{image.digest}").to_string()
    subject = {"type": "container", "bom-ref": url, "name": name, "version": version, "purl": url}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": subject | {"hashes": [{"alg": "SHA-256", "content": image.digest}]}},
        "components": [component for _, component in found],
    }


def read(archive: Path) -> Image:
    """Read what is needed of the image, layer by layer."""
    files: dict[str, str] = {}
    with tarfile.open(archive) as outer:
        [manifest] = json.loads(content(outer, "manifest.json"))
        configuration = content(outer, manifest["Config"])
        for layer in manifest["Layers"]:
            with opened(outer, layer) as file, tarfile.open(fileobj=file) as inner:
                _apply(inner, files)
    return Image(sha256(configuration).hexdigest(), json.loads(configuration), files)


def components(image: Image) -> Iterator[Object]:
    """The components of the image."""
    release: dict[str, str] = {}
    for path, text in image.files.items():
        if _RELEASE.fullmatch(path):
            release |= dict(re.findall(r'(?m)^(\w+)="?([^"\n]*)"?$', text))
    distribution = release.get("ID", "debian")
    qualifier = f"{distribution}-{release['VERSION_ID']}" if "VERSION_ID" in release else distribution
    for path, text in image.files.items():
        if _DPKG.fullmatch(path):
            yield from _debian(text, distribution, qualifier)
        elif _METADATA.fullmatch(path):
            about = HeaderParser().parsestr(text)
            yield _component(PackageURL("pypi", name=about["Name"], version=about["Version"]), about["Name"])
    variables = dict(each.partition("=")[::2] for each in image.configuration["config"].get("Env", ()))
    if version := variables.get("PYTHON_VERSION"):
        yield _component(PackageURL("generic", name="python", version=version), "python")


def _debian(status: str, distribution: str, qualifier: str) -> Iterator[Object]:
    for paragraph in status.split("\n\n"):
        about = HeaderParser().parsestr(paragraph.strip())
        if about["Package"] and about.get("Status", "install ok installed").endswith(" installed"):
            qualifiers = {"arch": about["Architecture"], "distro": qualifier}
            url = PackageURL("deb", distribution, about["Package"], about["Version"], qualifiers)
            yield _component(url, about["Package"])


def _component(url: PackageURL, name: str) -> Object:
    text = url.to_string()
    return {"type": "library", "bom-ref": text, "name": name, "version": url.version, "purl": text}


def _apply(layer: tarfile.TarFile, files: dict[str, str]) -> None:
    """Change *files* as the layer does."""
    for member in layer:
        path = member.name.removeprefix("./")
        folder, _, name = path.rpartition("/")
        if name.startswith(_WHITEOUT):
            removed = f"{folder}/" if name == f"{_WHITEOUT}{_WHITEOUT}.opq" else f"{folder}/{name[len(_WHITEOUT) :]}"
            for each in [each for each in files if each == removed or each.startswith(f"{removed.rstrip('/')}/")]:
                del files[each]
        elif member.isfile() and any(pattern.fullmatch(path) for pattern in (_DPKG, _METADATA, _RELEASE)):
            files[path] = content(layer, member).decode("utf-8", "replace")


def content(archive: tarfile.TarFile, member: str | tarfile.TarInfo) -> bytes:
    """Return the content of a file of an archive.

    Raises:
        ValueError: it is not a file.
    """
    with opened(archive, member) as file:
        return file.read()


def opened(archive: tarfile.TarFile, member: str | tarfile.TarInfo) -> IO[bytes]:
    """Open a file of an archive for reading.

    Raises:
        ValueError: it is not a file.
    """
    file = archive.extractfile(member)
    if file is None:
        raise ValueError(f"{member} in the archive of the image is not a file")
    return file

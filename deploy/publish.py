"""Publish what ``make dist`` has built: ``python -m deploy.publish --tag v0.1.0 image chart packages release``.

The workflow ``release.yml`` runs these steps when a tag is pushed, and every push and ``make dist`` run them with
``--dry-run``: it does all that stays on this machine, and prints the commands that would change something elsewhere.
Every step can be repeated. It leaves alone what is published already, and fails if something else is there under the
same version. ``.github/CONTRIBUTING.md`` says what a release needs and how to go on after one that failed.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from deploy import changelog, dist
from exporter import __version__
from exporter.revision import UNKNOWN

ARCHITECTURES: Final = ("amd64", "arm64")
_EXAMPLE: Final = "registry.example/sbg-exporter"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_UNPUBLISHED: Final = re.compile(r"(?im)(manifest|name)[ _]unknown|404\W+not found| not found\W*$")
"""How skopeo, helm and gh say that there is no such image, chart or release. Any other failure may be temporary."""
_REFUSED: Final = re.compile(r"(?i)\b(denied|forbidden|unauthorized)\b")
"""How they say that access is denied, which GHCR and Docker Hub also answer if a repository does not exist."""


class AccessDenied(SystemExit):
    """A registry denied access to what is published; its text is the line for the log."""


class Done(NamedTuple):
    """What a command returned and printed, on both outputs."""

    code: int
    output: str


@dataclass(frozen=True)
class Release:
    """What is published, where, and how commands are run.

    Attributes:
        folder: the files that ``make dist`` built.
        tag: the tag that was pushed; empty in a dry run of a commit without one.
        image: name of the image without a tag, such as ``registry.example/sbg-exporter/sbg-exporter``.
        charts: where the chart goes, without its own name.
        dry: whether nothing outside this machine may change.
        plain: whether the registries speak plain HTTP.
        run: runs a command with this standard input.
    """

    folder: Path
    tag: str = ""
    image: str = f"{_EXAMPLE}/sbg-exporter"
    charts: str = f"{_EXAMPLE}/charts"
    dry: bool = True
    plain: bool = False
    run: Callable[[Sequence[str], str], Done] = field(default_factory=lambda: _run)

    def change(self, *command: object, given: str = "") -> str:
        """Run a command that changes something elsewhere and return what it printed; only print it in a dry run."""
        if self.dry:
            say(f"would run: {shlex.join(map(str, command))}")
            return ""
        return self.local(*command, given=given)

    def local(self, *command: object, given: str = "") -> str:
        """Run a command, also in a dry run, and return what it printed.

        Raises:
            SystemExit: it failed.
        """
        words = [str(word) for word in command]
        done = self.run(words, given)
        if done.code:
            raise SystemExit(f"{shlex.join(words)} failed with {done.code}:\n{done.output}")
        return done.output

    def ask(self, *command: object) -> str | None:
        """Ask what is published and return what the command printed; None if nothing is, as in a dry run.

        Raises:
            AccessDenied: the registry denies access.
            SystemExit: the answer is neither; one line says so.
        """
        if self.dry:
            return None
        words = [str(word) for word in command]
        done = self.run(words, "")
        if done.code == 0:
            return done.output
        if _UNPUBLISHED.search(done.output):
            return None
        reason = " ".join(done.output.split()) or f"exit code {done.code}"
        kind = AccessDenied if _REFUSED.search(reason) else SystemExit
        raise kind(f"Nothing was published, because what is there is not known: {shlex.join(words)} failed: {reason}")

    def ask_registry(self, question: Sequence[object], digest: str, repository: str, folder: Path) -> str | None:
        """Ask a registry as `ask` does, also about a repository that does not exist yet.

        Many registries deny access to such a repository, as to one that is hidden. Then the image in
        *folder* is pushed under its *digest*, which replaces nothing, and fails without the right to push. Afterwards
        the repository exists, and the registry is asked again.

        Raises:
            SystemExit: the image cannot be pushed, or access is still denied.
        """
        try:
            return self.ask(*question)
        except AccessDenied:
            self.push_image(folder, f"{repository}@{digest}")
        return self.ask(*question)

    def push_image(self, folder: Path, name: str) -> None:
        """Push the image in *folder*, as skopeo writes it, for all its architectures.

        Raises:
            SystemExit: it failed.
        """
        plain = self.without_tls("--dest-tls-verify=false")
        copy = ("skopeo", "copy", "--all", "--quiet", "--preserve-digests", *plain)
        self.change(*copy, f"dir:{folder}", f"docker://{name}")

    def without_tls(self, option: str) -> tuple[str, ...]:
        """Return this option for a registry that speaks plain HTTP."""
        return (option,) if self.plain else ()


def say(line: str) -> None:
    """Print a line at once, so that a log has it before what the next command prints."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# ---- steps ----


def check(release: Release) -> None:
    """Make sure that tag, version, chart and changelog belong together, and that the commit is known.

    Raises:
        SystemExit: they do not; one line says why.
    """
    text = changelog.CHANGELOG.read_text(encoding="utf-8")
    chart = (dist.REPOSITORY / "deploy" / "helm" / "sbg-exporter" / "Chart.yaml").read_text(encoding="utf-8")
    if problem := mismatch(release.tag, __version__, text, chart, dist.revision() if release.tag else ""):
        raise SystemExit(problem)
    say(f"check: {release.tag or 'no tag, as a rehearsal'}, version {__version__}, commit {dist.revision()}")


def mismatch(tag: str, version: str, text: str, chart: str, commit: str) -> str:
    """Return why a release with this *tag* would be wrong; empty if it is not.

    Without a tag, what is unreleased may stand for the version's section.
    """
    if tag and tag != f"v{version}":
        return f"The tag {tag} does not match the version {version} in exporter/__init__.py: v{version} would."
    named = re.findall(r"(?m)^(?:version|appVersion): \"?([^\"\s]+)", chart)
    if set(named) != {version}:
        return f"The chart's version and appVersion are {' and '.join(named)}, not {version}: run make generated."
    if tag and (commit == UNKNOWN or commit.endswith("-dirty")):
        return f"The commit is {commit}: a release is built from a commit without changes."
    try:
        changelog.notes(text, version)
    except ValueError as error:
        if tag or not text.partition(f"## [{changelog.UNRELEASED}]")[2].strip():
            return f"{error}."
    return ""


def gather(release: Release) -> None:
    """Make sure that nothing of the release is missing, and write the checksums of files from several machines.

    Raises:
        SystemExit: files are missing; without a tag they are only named.
    """
    images = (f"{dist.NAME}-image-{each}" for each in ARCHITECTURES)
    wanted = {f"{each}.{kind}" for each in images for kind in ("tar", "cdx.json")} | {
        f"sbg_exporter-{__version__}-py3-none-any.whl",
        f"sbg_exporter-{__version__}.tar.gz",
        f"{dist.NAME}.cdx.json",
        f"{dist.NAME}-monitoring.tar.gz",
        f"{dist.NAME}.tgz",
    }
    there = {path.name for path in release.folder.iterdir()} - {"SHA256SUMS"}
    if missing := sorted(wanted - there):
        line = f"{release.folder.name} lacks {', '.join(missing)}"
        if release.tag:
            raise SystemExit(f"{line}: a release needs them.")
        say(f"gather: {line}")
    dist.checksums(release.folder)


def image(release: Release) -> None:
    """Push the image for all architectures, sign it, and attest the bill of materials of each.

    Raises:
        SystemExit: none was built, another image has this version, or a command failed.
    """
    archives = sorted(release.folder.glob(f"{dist.NAME}-image-*.tar"))
    if not archives:
        return _absent(release, "image: none was built")
    if release.dry and (missing := [name for name in ("buildah", "skopeo") if shutil.which(name) is None]):
        return say(f"image: not rehearsed, because {' and '.join(missing)} is missing")
    with tempfile.TemporaryDirectory() as scratch:
        assembled = assemble(release, archives, Path(scratch))
        joined = Path(scratch) / "image"
        named = f"{release.image}:{__version__}"
        insecure = release.without_tls("--tls-verify=false")
        question = ("skopeo", "inspect", *insecure, "--raw", f"docker://{named}")
        published = release.ask_registry(question, assembled.digest, release.image, joined)
        if published is None:
            release.push_image(joined, named)
        elif published.strip() != (joined / "manifest.json").read_text().strip():
            raise SystemExit(f"{named} is published, and is another image: give this one another version.")
    before = "" if published is None else ", published before"
    say(f"image: {', '.join(assembled.architectures)}; {assembled.digest}{before}")
    _sign(release, f"{release.image}@{assembled.digest}", "--recursive")
    for architecture, digest in assembled.architectures.items():
        bill = release.folder / f"{dist.NAME}-image-{architecture}.cdx.json"
        attest = ("cosign", "attest", "--yes", *release.without_tls("--allow-insecure-registry"))
        release.change(*attest, "--type", "cyclonedx", "--predicate", bill, f"{release.image}@{digest}")
    _tell_workflow("image", assembled.digest)
    return None


class Assembled(NamedTuple):
    """An image for several architectures: its digest, and that of each of them."""

    digest: str
    architectures: dict[str, str]


def assemble(release: Release, archives: Iterable[Path], folder: Path) -> Assembled:
    """Join the archives of an image into one for all their architectures, in *folder*, as it will be pushed.

    Raises:
        SystemExit: buildah or skopeo failed.
    """
    joined = f"sbg-exporter-{os.getpid()}"
    digest = folder / "digest"
    release.local("buildah", "manifest", "create", joined)
    try:
        for path in archives:
            release.local("buildah", "manifest", "add", joined, f"docker-archive:{path}")
        push = ("buildah", "manifest", "push", "--all", "--quiet", "--format=v2s2")
        release.local(*push, joined, f"dir:{folder / 'plain'}")
    finally:
        release.local("buildah", "manifest", "rm", joined)
    # Compressed here and not on the way to the registry, which would change the digest.
    compress = ("skopeo", "copy", "--all", "--quiet", "--dest-compress", f"--digestfile={digest}")
    release.local(*compress, f"dir:{folder / 'plain'}", f"dir:{folder / 'image'}")
    listed = json.loads((folder / "image" / "manifest.json").read_text())["manifests"]
    return Assembled(digest.read_text(), {each["platform"]["architecture"]: each["digest"] for each in listed})


def chart(release: Release) -> None:
    """Push the chart and sign it.

    Raises:
        SystemExit: none was built, another chart has this version, or a command failed.
    """
    package = release.folder / f"{dist.NAME}.tgz"
    if not package.exists():
        return _absent(release, "chart: none was built")
    plain = release.without_tls("--plain-http")
    with tempfile.TemporaryDirectory() as scratch:
        repository = f"{release.charts}/sbg-exporter"
        name = f"oci://{repository}"
        question = ("helm", "pull", *plain, name, "--version", __version__, "--destination", scratch)
        wrapped = Path(scratch) / "image"
        published = release.ask_registry(question, wrap(package, wrapped), repository, wrapped)
        if published is None:
            told = release.change("helm", "push", *plain, package, f"oci://{release.charts}")
        elif (Path(scratch) / package.name).read_bytes() == package.read_bytes():
            told = published
            say("chart: published before")
        else:
            raise SystemExit(f"{name}:{__version__} is published, and is another chart: give this one another version.")
    digest = next(iter(_DIGEST.findall(told)), "sha256:…")
    _sign(release, f"{repository}@{digest}")
    _tell_workflow("chart", digest)
    return None


def wrap(package: Path, folder: Path) -> str:
    """Write the package of a chart in *folder* as an image, for a registry to keep, and return its digest."""
    folder.mkdir()

    def written(content: bytes, kind: str) -> dict[str, object]:
        digest = sha256(content).hexdigest()
        (folder / digest).write_bytes(content)
        return {"mediaType": f"application/vnd.cncf.helm.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    about = json.dumps({"apiVersion": "v2", "name": "sbg-exporter", "version": __version__}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": written(about, "config.v1+json"),
        "layers": [written(package.read_bytes(), "chart.content.v1.tar+gzip")],
    }
    text = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text)
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    return f"sha256:{sha256(text).hexdigest()}"


def packages(release: Release) -> None:
    """Upload wheel and source distribution with the identity of the workflow; the index ignores a file that it has.

    Raises:
        SystemExit: none were built, or the index has another file of that name or refuses the identity.
    """
    files = sorted(release.folder.glob(f"sbg_exporter-{__version__}*"))
    if not files:
        return _absent(release, "packages: none were built")
    release.change("uv", "publish", "--trusted-publishing", "always", *files)
    return None


def publish(release: Release) -> None:
    """Publish the release with its notes and files: first as a draft, so that operators do not see half of it.

    Raises:
        SystemExit: a command failed.
    """
    text = changelog.CHANGELOG.read_text(encoding="utf-8")
    tag = release.tag or f"v{__version__}"
    there = f"## [{__version__}]" in text
    notes = changelog.notes(text, __version__ if there else changelog.UNRELEASED)
    files = sorted(release.folder.iterdir())
    found = release.ask("gh", "release", "view", tag, "--json", "isDraft", "--jq", ".isDraft")
    if found is not None and found.strip() == "false":
        return say(f"release: {tag} is published already")
    if found is None:
        about = ("--draft", "--verify-tag", "--title", tag, "--notes-file", "-")
        release.change("gh", "release", "create", tag, *about, given=notes)
    release.change("gh", "release", "upload", tag, "--clobber", *files)
    release.change("gh", "release", "edit", tag, "--draft=false", "--notes-file", "-", given=notes)
    say(f"release: {len(files)} files, {len(notes.splitlines())} lines of notes")
    return None


STEPS: Final[dict[str, Callable[[Release], None]]] = {
    "check": check,
    "gather": gather,
    "image": image,
    "chart": chart,
    "packages": packages,
    "release": publish,
}


# ---- commands ----


def login(release: Release, user: str, token: str) -> None:
    """Log in to the registries with the token of the workflow, which ends with it.

    Raises:
        SystemExit: a registry refuses it.
    """
    for registry in sorted({release.image.partition("/")[0], release.charts.partition("/")[0]}):
        for program in (("skopeo", "login"), ("helm", "registry", "login"), ("cosign", "login")):
            release.change(*program, "--username", user, "--password-stdin", registry, given=token)


def _absent(release: Release, line: str) -> None:
    """Say that there is nothing to publish; a release that needs it fails."""
    if not release.dry:
        raise SystemExit(line)
    say(line)


def _sign(release: Release, name: str, *options: str) -> None:
    insecure = release.without_tls("--allow-insecure-registry")
    release.change("cosign", "sign", "--yes", *insecure, *options, name)


def _tell_workflow(name: str, digest: str) -> None:
    """Hand a digest on to the next steps of the workflow, which attest where it was built."""
    if output := os.environ.get("GITHUB_OUTPUT"):
        with Path(output).open("a", encoding="utf-8") as file:
            file.write(f"{name}={digest}\n")


def _run(command: Sequence[str], given: str) -> Done:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    try:
        done = subprocess.run(  # noqa: S603  # constants, names of the repository's variables and paths
            command,
            input=given,
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise SystemExit(f"Publishing needs {command[0]}.") from None
    return Done(done.returncode, done.stdout)


def main() -> int:
    """Run the steps and return the exit code."""
    parser = argparse.ArgumentParser(description="Publish what make dist has built.")
    parser.add_argument("steps", nargs="+", choices=STEPS, metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--folder", type=Path, default=Path("dist"), help="what make dist built (default: dist)")
    parser.add_argument("--tag", default="", help="the tag that was pushed; only a dry run needs none")
    parser.add_argument("--dry-run", action="store_true", help="print the commands that change something elsewhere")
    parser.add_argument("--plain-http", action="store_true", help="the registries have no TLS, as one for a test")
    options = parser.parse_args()
    names = {name: os.environ.get(f"{name.upper()}_REPOSITORY", "") for name in ("image", "chart")}
    if not options.dry_run and not options.tag:
        parser.error("--tag is missing: only a dry run needs none")
    if not options.dry_run and not all(names.values()) and {"image", "chart"} & set(options.steps):
        parser.error("IMAGE_REPOSITORY and CHART_REPOSITORY are not set: .github/CONTRIBUTING.md says to what")
    release = Release(
        options.folder.resolve(),
        options.tag,
        names["image"] or Release.image,
        names["chart"] or Release.charts,
        dry=options.dry_run,
        plain=options.plain_http,
    )
    if token := os.environ.get("REGISTRY_TOKEN"):
        login(release, os.environ.get("REGISTRY_USER", ""), token)
    for step in options.steps:
        STEPS[step](release)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Write the commit into the source distribution and the wheel, where there is no git to ask.

Hatchling runs this for every build (``pyproject.toml``). The commit is that of ``BUILD_REVISION`` if set, otherwise
that of the checkout. A source distribution has its commit already, and a wheel built from it keeps that.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_MODULE: Final = "exporter/revision.py"
_PLACEHOLDER: Final = "$Format:%H$"


class RevisionHook(BuildHookInterface[Any]):
    """Puts a copy of ``exporter/revision.py`` that names the commit in place of the original."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the copy, unless the build is editable: that one runs from the checkout, whose commit changes."""
        if version == "editable" or not (commit := os.environ.get("BUILD_REVISION") or _commit(Path(self.root))):
            return
        self._folder = tempfile.mkdtemp()
        copy = Path(self._folder, "revision.py")
        text = Path(self.root, _MODULE).read_text(encoding="utf-8")
        copy.write_text(text.replace(_PLACEHOLDER, commit), encoding="utf-8")
        build_data["force_include"][str(copy)] = _MODULE

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002  # its parent's
        """Remove the copy."""
        shutil.rmtree(getattr(self, "_folder", ""), ignore_errors=True)


def _commit(root: Path) -> str:
    """Return the commit of the checkout; empty if *root* is none, or git is missing or refuses to read it."""
    if not (root / ".git").exists():  # a repository around an unpacked archive is another one
        return ""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)  # noqa: S603, S607  # constants, and the git on PATH
    return done.stdout.strip()

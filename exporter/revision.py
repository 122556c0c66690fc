"""The commit that this exporter was built from."""

from typing import Final

UNKNOWN: Final = "unknown"
"""What a checkout says: only what is built knows its commit, because git may be missing at run time."""

_WRITTEN: Final = "$Format:%H$"
"""Replaced in source distributions and wheels by ``deploy/revision_hook.py``, in archives by ``git archive``."""


def revision(written: str = _WRITTEN) -> str:
    """Return the commit as git names it, with ``-dirty`` if tracked files had been changed, or ``unknown``."""
    return UNKNOWN if written.startswith("$") else written

"""File descriptors: the daemon uses as many as the system allows, and the metrics server leaves polls their share."""

import resource
from typing import Final

_OF_PROCESS: Final = 32
"""Standard streams, state file, lock, event loop, systemd, a file that is read, connections that are being closed."""
_PER_ACCOUNT: Final = 4
"""Two connections to the platform, a name look-up, a token file."""


def raise_limit() -> int:
    """Raise the soft limit to the hard one, where that is allowed; the limit that applies."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return _countable(soft)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # a sandbox forbids it, or the kernel's own limit is lower
        return _countable(soft)
    return _countable(hard)


def connections_within(limit: int, accounts: int, wanted: int) -> int:
    """How many connections the metrics server may have open: *wanted*, or fewer if polls need the descriptors."""
    return max(1, min(wanted, limit - _OF_PROCESS - _PER_ACCOUNT * accounts))


def _countable(limit: int) -> int:
    return 2**31 if limit == resource.RLIM_INFINITY else limit

"""Who watches which account: of two entries of equal identity only the first in the configuration is polled."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from exporter.errors import AlreadyWatched

Identity = tuple[str, str, str]
"""Endpoint, user name and division."""


class Claims:
    """Safe to share between threads."""

    def __init__(self, names: Sequence[str]) -> None:
        """No claims yet; *names* are the entries in the order of the configuration."""
        self._lock = threading.Lock()
        self._order = {name: position for position, name in enumerate(names)}
        self._holders: dict[Identity, str] = {}

    def claim(self, identity: Identity, name: str) -> None:
        """Claim *identity* for the entry *name*, from a later entry too, whatever the order in which they got answers.

        Raises:
            AlreadyWatched: an earlier entry has it.
        """
        with self._lock:
            holder = self._holders.get(identity, name)
            if self._order[holder] < self._order[name]:
                raise AlreadyWatched(_told(holder, name))
            self._holders[identity] = name

    @contextmanager
    def held(self, identity: Identity, name: str) -> Iterator[None]:
        """Nobody else claims *identity* while the block runs: a ledger has one writer.

        Raises:
            AlreadyWatched: an earlier entry has claimed it meanwhile.
        """
        with self._lock:
            holder = self._holders.get(identity, name)
            if holder != name:
                raise AlreadyWatched(_told(holder, name))
            yield


def _told(holder: str, name: str) -> str:
    return f"accounts {holder} and {name} are one and the same user: {holder} is watched, {name} is not"

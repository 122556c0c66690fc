"""The right of a poller to write and publish. It ends when the account is removed or gets a new poller."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from exporter.errors import Stopping


class Lease:
    """A poller writes and publishes only while it holds its lease.

    The poller of a removed account may still wait for a response, for as long as a request may take. Once its lease has
    ended, nothing that it does has an effect. So its successor need not wait for it, and no ledger has two writers.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._ended = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the lease from ending while the block runs.

        Raises:
            Stopping: the lease has ended.
        """
        with self._lock:
            if self._ended:
                raise Stopping("the account has been removed or changed")
            yield

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self._ended

    def end(self) -> None:
        """End the lease, after the block that holds it now."""
        with self._lock:
            self._ended = True

"""One poll per account, all at the same time, for commands that end: Ctrl-C waits for none of them."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from exporter.daemon.assembly import AnyPoller, Components
from exporter.errors import Stopping

_CHECK_SECONDS: Final = 0.2
"""Time between two checks whether the process is to end."""

T = TypeVar("T")
R = TypeVar("R")


def poll_each(components: Components, poll: Callable[[AnyPoller], None], stop: threading.Event) -> None:
    """Poll every account once, all at the same time.

    Raises:
        Stopping: *stop* was set before all were done.
    """
    in_parallel(poll, components.pollers, stop)
    for poller in components.pollers:
        poller.take_over()
    for poller in components.pollers:
        poller.confirm()


def in_parallel(work: Callable[[T], R], items: Sequence[T], stop: threading.Event) -> list[R]:
    """Results of *work* for each of *items*, in their order.

    Raises:
        Stopping: *stop* was set before all were done; threads that still run are left behind.
        Exception: the first one that *work* raised.
    """
    done: queue.SimpleQueue[tuple[int, R | None, BaseException | None]] = queue.SimpleQueue()

    def run(position: int, item: T) -> None:
        try:
            done.put((position, work(item), None))
        except BaseException as error:  # noqa: BLE001  # raised again in the waiting thread
            done.put((position, None, error))

    for position, item in enumerate(items):
        threading.Thread(target=run, args=(position, item), daemon=True).start()
    results: dict[int, R] = {}
    while len(results) < len(items):
        if stop.is_set():
            raise Stopping("ended before it was done")
        try:
            position, result, error = done.get(timeout=_CHECK_SECONDS)
        except queue.Empty:
            continue
        if error is not None:
            raise error
        results[position] = result  # type: ignore[assignment]  # without an error there is a result
    return [results[position] for position in range(len(items))]

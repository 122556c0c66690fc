"""One poll per account, all at the same time, for commands that end: Ctrl-C waits for none of them."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from exporter.daemon.assembly import AnyPoller, Components
from exporter.errors import Stopping

_CHECK_SECONDS: Final = 0.2
"""Time between two checks whether the process is to end."""
_CHECKS_UNTIL_SLOW: Final = 25
"""Checks in a row that find nothing done, about 5 seconds, after which the caller hears what is still awaited."""

T = TypeVar("T")
R = TypeVar("R")


def poll_each(
    components: Components,
    poll: Callable[[AnyPoller], None],
    stop: threading.Event,
    awaited: Callable[[Sequence[str]], object] = lambda _names: None,
) -> None:
    """Poll every account once, all at the same time; *awaited* hears which accounts it waits for, if that takes long.

    Raises:
        Stopping: *stop* was set before all were done.
    """
    in_parallel(poll, components.pollers, stop, lambda pollers: awaited([poller.name for poller in pollers]))
    for poller in components.pollers:
        poller.take_over()
    for poller in components.pollers:
        poller.confirm()


def in_parallel(
    work: Callable[[T], R],
    items: Sequence[T],
    stop: threading.Event,
    awaited: Callable[[Sequence[T]], object] = lambda _items: None,
    checks_until_slow: int = _CHECKS_UNTIL_SLOW,
) -> list[R]:
    """Results of *work* for each of *items*, in their order; *awaited* hears which ones it waits for, if any is slow.

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
    checks = 0
    while len(results) < len(items):
        if stop.is_set():
            raise Stopping("ended before it was done")
        try:
            position, result, error = done.get(timeout=_CHECK_SECONDS)
        except queue.Empty:
            checks += 1
            if checks == checks_until_slow:
                awaited([item for position, item in enumerate(items) if position not in results])
            continue
        checks = 0
        if error is not None:
            raise error
        results[position] = result  # type: ignore[assignment]  # without an error there is a result
    return [results[position] for position in range(len(items))]

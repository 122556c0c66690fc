"""One piece of work per account, all at once, for commands that end: no account waits for another, Ctrl-C for none."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from exporter.errors import Stopping

_LOOK: Final = 0.2
"""Seconds between two looks whether the process is to end."""

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(work: Callable[[T], R], items: Sequence[T], stop: threading.Event) -> list[R]:
    """What *work* gives for each of *items*, in their order.

    Raises:
        Stopping: *stop* was set before all were done; what still runs is left behind.
        Exception: whatever *work* raised first.
    """
    done: queue.SimpleQueue[tuple[int, R | None, BaseException | None]] = queue.SimpleQueue()

    def run(position: int, item: T) -> None:
        try:
            done.put((position, work(item), None))
        except BaseException as error:  # noqa: BLE001  # raised again where it is waited for
            done.put((position, None, error))

    for position, item in enumerate(items):
        threading.Thread(target=run, args=(position, item), daemon=True).start()
    results: dict[int, R] = {}
    while len(results) < len(items):
        if stop.is_set():
            raise Stopping("ended before it was done")
        try:
            position, result, error = done.get(timeout=_LOOK)
        except queue.Empty:
            continue
        if error is not None:
            raise error
        results[position] = result  # type: ignore[assignment]  # without an error there is a result
    return [results[position] for position in range(len(items))]

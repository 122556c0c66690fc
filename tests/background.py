"""Work in the background of a test: users who submit jobs, clients that scrape, and other load."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.waiting import PATIENCE


class Finished(Exception):
    """Raised by the work of a :class:`BackgroundTask` to end it."""


class BackgroundTask:
    """Runs *work* in a thread until the context ends, then raises the work's error, if any.

    With *every*, the work is repeated after a pause of *every* seconds: a number, or a function that returns one. It
    ends when the context ends or when the work raises :class:`Finished`. Without *every*, the work runs once, and the
    end of the context waits for it.

    If the test itself fails too, the test's error is raised, and the work's error is added as a note.
    """

    def __init__(self, work: Callable[[], object], *, every: float | Callable[[], float] | None = None) -> None:
        self._work = work
        self._every = every
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._rounds = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        try:
            self.stop()
        except BaseException as failure:
            if error is None:
                raise
            error.add_note(f"In the background: {failure!r}")

    @property
    def rounds(self) -> int:
        """Number of completed rounds of the work."""
        return self._rounds

    @property
    def running(self) -> bool:
        """Whether the work continues."""
        return self._thread.is_alive()

    def await_rounds(self, more: int = 1) -> None:
        """Wait for *more* further rounds of the work.

        Raises:
            BaseException: the work's error.
        """
        with self._news:
            wanted = self._rounds + more
            self._news.wait_for(lambda: self._rounds >= wanted or not self._going_on, PATIENCE)
            reached = self._rounds >= wanted
        if not reached:
            self.stop()
            raise AssertionError(f"the work was done {self._rounds} times, not {wanted}")

    def join(self) -> None:
        """Wait until the work ends by itself.

        Raises:
            BaseException: the work's error.
        """
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise AssertionError(f"the work in the background goes on after {PATIENCE} s")
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """End the work after the current round. Has no effect if it has ended.

        Raises:
            BaseException: the work's error, on the first call.
        """
        self._stop.set()
        self.join()

    @property
    def _going_on(self) -> bool:
        return self._error is None and not self._stop.is_set()

    def _run(self) -> None:
        try:
            while True:
                self._work()
                with self._news:
                    self._rounds += 1
                    self._news.notify_all()
                if self._every is None:
                    return
                if self._stop.wait(self._every() if callable(self._every) else self._every):
                    return
        except Finished:
            pass
        except BaseException as error:  # noqa: BLE001  # raised again in the test's own thread
            self._error = error
        finally:
            with self._news:
                self._stop.set()
                self._news.notify_all()

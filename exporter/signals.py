"""Signals: SIGTERM and SIGINT end every command; SIGHUP asks the daemon to reload.

:mod:`exporter.__main__` blocks them before it imports anything else, and all threads inherit that. Only the thread that
:func:`watch` starts takes them, with ``sigwait``. So none is lost, and none interrupts Python code: there is no handler
that could deadlock with the code it interrupts, or raise an exception in it.

Out of reach is the time in which Python itself starts, on an idle machine the first 16 ms:

*  For 10 ms the system's default action applies. Any of the signals ends the command, without a word. Process 1 has no
   default action, and does not notice them.
*  For the next 6 ms Ctrl-C prints Python's own traceback, because Python has set its handler and reads its own modules.
   That becomes 13 ms if an older pip wrote the ``sbg-exporter`` script, which then imports ``re`` first, and 9 ms with
   ``python -m exporter``. SIGTERM and SIGHUP still have their default action.

``env --block-signal=HUP,INT,TERM sbg-exporter`` closes both gaps, because blocked signals wait. Neither the script of a
Python package nor an image without coreutils can contain that.

==================  =============================================  ===================================
command             SIGTERM, SIGINT                                SIGHUP
==================  =============================================  ===================================
``run``             ends with 0                                    calls what :func:`on_hangup` is given
``demo, simulate``  end with 0                                     like SIGTERM
others              end by that signal: 128 + signal in a shell    like SIGTERM, unless under nohup
==================  =============================================  ===================================

A command ends at once until it calls :func:`stop_event`, because it then holds what has to be released. For that it has
:data:`FORCED_AFTER` seconds. Then the process ends even if a disk, a pipe or a thread still blocks it. For the ledger
that is like a crash, which loses nothing.

Commands that were cut short die by the signal instead of exiting with 128 + signal: a shell shows 130 or 143 for both,
but only after a death by SIGINT does a shell script or loop end too. Process 1 cannot die by a signal, and exits.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

FORCED_AFTER: Final = 4.0
"""Seconds between the first signal and the end of a process that has not ended by itself."""
_SERVERS: Final = ("demo", "simulate")
_WITHOUT_COMMAND: Final = ("-h", "--help", "--version")


class _Watch:
    """The signals of this process, and what they do."""

    def __init__(self) -> None:
        self._signals = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
        self._daemon = self._until_stopped = False
        self._lock = threading.Lock()
        self._received: signal.Signals | None = None
        self._stop: threading.Event | None = None
        self._stop_wanted = threading.Event()
        self._waits = threading.Event()
        self._waits.set()  # in a process without watch()
        self._reload: Callable[[], object] | None = None
        self._reload_requested = False

    def watch(self, arguments: Sequence[str]) -> None:
        self._daemon = _is_daemon(arguments)
        self._until_stopped = self._daemon or arguments[0] in _SERVERS
        if not self._daemon and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
            self._signals.remove(signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        for number in self._signals:
            signal.signal(number, signal.SIG_DFL)  # Python's own handler of SIGINT raises KeyboardInterrupt
        self._waits.clear()
        threading.Thread(target=self._work, name="signals", daemon=True).start()

    def stop_event(self) -> threading.Event:
        with self._lock:
            stop = self._stop = threading.Event()
        self._stop_wanted.set()
        self._waits.wait()
        return stop

    def on_hangup(self, reload: Callable[[], object]) -> None:
        with self._lock:
            self._reload, requested = reload, self._reload_requested
        if requested:
            self._start(reload)

    def leave(self, code: int) -> NoReturn:
        with self._lock:
            received = self._received
        if received is None or code == 0:
            sys.exit(code)
        if self._until_stopped:
            sys.exit(0)
        _die(received)

    def _work(self) -> None:
        if not self._until_stopped and os.getpid() != 1:
            # The kernel ends the process, whatever Python is doing. For process 1 it would ignore the signal.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
            self._stop_wanted.wait()
            signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        self._waits.set()
        while True:
            number = signal.Signals(signal.sigwait(self._signals))
            if number is signal.SIGHUP and self._daemon:
                self._hang_up()
            else:
                self._end(number)

    def _hang_up(self) -> None:
        with self._lock:
            reload = self._reload
            self._reload_requested = reload is None
        if reload is not None:
            self._start(reload)

    @staticmethod
    def _start(reload: Callable[[], object]) -> None:
        # In a thread of its own: a reload that hangs or fails must not keep SIGTERM waiting.
        threading.Thread(target=reload, name="reload", daemon=True).start()

    def _end(self, number: signal.Signals) -> None:
        with self._lock:
            self._received, stop = number, self._stop
            if stop is None:
                self._force(number)
        stop.set()
        threading.Event().wait(FORCED_AFTER)
        self._force(number)

    def _force(self, number: signal.Signals) -> NoReturn:
        if self._until_stopped:
            os._exit(0)
        _die(number)


def _is_daemon(arguments: Sequence[str]) -> bool:
    """Whether the command line starts the daemon; it is read before click can be imported."""
    first = arguments[0] if arguments else "run"
    return first == "run" or (first.startswith("-") and first not in _WITHOUT_COMMAND)


def _die(number: signal.Signals) -> NoReturn:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))  # in this thread alone, so that it gets the signal
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # process 1 is still here


_PROCESS: Final = _Watch()


def watch(arguments: Sequence[str]) -> None:
    """Begin to take signals; called once, in the main thread. *arguments*: those after the program's name."""
    _PROCESS.watch(arguments)


def stop_event() -> threading.Event:
    """An event that SIGTERM and SIGINT set. From now on, they no longer end the process at once."""
    return _PROCESS.stop_event()


def on_hangup(reload: Callable[[], object]) -> None:
    """Call *reload* for each SIGHUP to the daemon, in a thread of its own; at once, if one has come already."""
    _PROCESS.on_hangup(reload)


def leave(code: int) -> NoReturn:
    """End the process with *code*; or, if a signal kept the command from succeeding, as that signal requires."""
    _PROCESS.leave(code)

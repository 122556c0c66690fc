"""Processes that measurements run, and what the kernel says of them."""

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

_WITHIN = 60.0


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process, ended when the context is left; its standard output and error are one pipe of lines."""
    process = subprocess.Popen(  # our own modules
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=_WITHIN)


def line_of(process: subprocess.Popen[str], pattern: str) -> str:
    """The first group of the first line that *pattern* is found in."""
    if process.stdout is None:
        raise RuntimeError("no output is read")
    for line in process.stdout:
        if match := re.search(pattern, line):
            return match[1]
    raise RuntimeError(f"the process ended without a line like {pattern}")


def resident(pid: int | str, field: str = "VmRSS") -> float:
    """Resident memory of a process now (VmRSS) or at most (VmHWM), in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]  # always there


def cpu_seconds(pid: int) -> float:
    """Processor time that all threads of a process have had, to the nanosecond; of those that ended, none."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text(encoding="utf-8").split()[0]) for thread in threads) / 1e9


class Page:
    """One metrics page in the text format; reading it costs next to nothing."""

    def __init__(self, text: str) -> None:
        self._text = text

    def samples(self, name: str) -> dict[str, float]:
        """Every sample of that name, by what stands between its braces."""
        found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", self._text, re.MULTILINE)
        return {labels: float(value) for labels, value in found}

    def total(self, name: str) -> float:
        """The sum of these samples."""
        return sum(self.samples(name).values())


def page_when(port: str, condition: Callable[[Page], object] = lambda _: True, every: float = 0.02) -> Page:
    """The first page for which *condition* holds."""
    ends = time.monotonic() + _WITHIN
    while time.monotonic() < ends:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            page = Page(answer.read().decode())
        if condition(page):
            return page
        time.sleep(every)
    raise RuntimeError(f"not within {_WITHIN:g} s")


def until_answered(url: str) -> None:
    """Return at the first good answer."""
    ends = time.monotonic() + _WITHIN
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310  # http on loopback
                return
        except (URLError, OSError):
            if time.monotonic() > ends:
                raise
            time.sleep(0.005)

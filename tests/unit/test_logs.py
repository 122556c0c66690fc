"""Logs have the configured format and contain no secret."""

import io
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from typing import TextIO

import pytest

from exporter.logs import Log, LogFormat, NonBlockingStream, logger
from exporter.redaction import MASK, Secret
from tests.background import BackgroundTask, Finished
from tests.waiting import eventually

TOKEN = "feedfacefeedfacefeedfacefeedface"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Full(io.StringIO):
    def write(self, _text: str, /) -> int:
        raise OSError(28, "No space left on device")


def log_to(stream: io.StringIO, log_format: LogFormat = "json", level: str = "debug") -> Log:
    return logger(log_format, level, stream)


# ---- formats ----


def test_json_is_an_object_per_line_with_flat_keys() -> None:
    stream = io.StringIO()

    log_to(stream).bind(account="lab").info("job.finished", job_id="7", failed=2, ratio=0.5, sure=True, errors=None)

    [line] = stream.getvalue().splitlines()
    event = json.loads(line)
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "account": "lab",
        "event": "job.finished",
        "level": "info",
        "job_id": "7",
        "failed": 2,
        "ratio": 0.5,
        "sure": True,
    }


def test_logfmt_is_keys_and_values_on_one_line() -> None:
    stream = io.StringIO()

    log_to(stream, "logfmt").warning("poll.failed", reason='said "no"\nand left', pages=3)

    [line] = stream.getvalue().splitlines()
    assert line.startswith("timestamp=")
    assert line.endswith(r' level=warning event=poll.failed reason="said \"no\"\nand left" pages=3')


def test_the_console_is_for_people() -> None:
    stream = io.StringIO()

    log_to(stream, "console").error("state.commit_failed", reason="disk full")

    assert "state.commit_failed" in stream.getvalue()
    assert "reason='disk full'" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_auto_is_the_console_on_a_terminal_and_json_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, pipe = Terminal(), io.StringIO()

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    log_to(terminal, "auto").info("daemon.started")
    log_to(pipe, "auto").info("daemon.started")

    assert "\x1b[" in terminal.getvalue()
    assert json.loads(pipe.getvalue())["event"] == "daemon.started"


def test_keys_without_a_value_are_left_out() -> None:
    stream = io.StringIO()

    log_to(stream).info("job.finished", duration_seconds=None)

    assert "duration_seconds" not in json.loads(stream.getvalue())


@pytest.mark.parametrize("log_format", ["json", "logfmt"])
def test_time_level_and_event_come_first(log_format: LogFormat) -> None:
    stream = io.StringIO()

    log_to(stream, log_format).bind(account="lab").info("job.finished", job_id="7")

    keys = [re.search(rf"\b{key}\b", stream.getvalue()) for key in ("timestamp", "level", "event", "account", "job_id")]
    places = [found.start() for found in keys if found]
    assert places == sorted(places)
    assert len(places) == 5


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_without_colours_gets_none(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    terminal = Terminal()
    monkeypatch.setenv(name, value)

    log_to(terminal, "console").info("daemon.started")

    assert "daemon.started" in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()


# ---- levels ----


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_events_below_the_level_are_not_logged(level: str, said: list[str]) -> None:
    stream = io.StringIO()
    log = log_to(stream, level=level)

    log.debug("a.b")
    log.info("a.b")
    log.warning("a.b")
    log.error("a.b")

    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == said


# ---- secrets ----


@pytest.mark.parametrize("log_format", ["json", "logfmt", "console"])
def test_no_secret_is_in_a_message_a_key_or_a_traceback(log_format: LogFormat) -> None:
    stream = io.StringIO()
    Secret(TOKEN)
    log = log_to(stream, log_format).bind(bound=f"<{TOKEN}>")

    event = f"sent.{TOKEN}"
    log.warning(event, reason=f"with {TOKEN}, twice {TOKEN}", header={"X": TOKEN}, pair=(TOKEN, 1))
    try:
        int(TOKEN + "g")
    except ValueError:
        log.exception("poll.unexpected_error")

    assert TOKEN not in stream.getvalue()
    assert stream.getvalue().count(MASK) >= 7
    assert f"base 10: '{MASK}g'" in stream.getvalue()
    assert "Traceback" in stream.getvalue()


# ---- streams that fail ----


def test_full_or_closed_stream_loses_lines_without_an_error() -> None:
    closed = io.StringIO()
    log = log_to(closed)
    closed.close()

    log.info("poll.failed")
    log_to(Full()).error("poll.failed")


# ---- a reader who stalls ----


@pytest.fixture
def pipe() -> Iterator[tuple[TextIO, TextIO]]:
    """A real pipe: the end that is read, and the end that is written.

    Streams that write to it must be closed: their threads are waited for, or they would write into the next pipe.
    """
    before = set(threading.enumerate())
    read, write = os.pipe()
    with os.fdopen(write, "w") as writer:
        with os.fdopen(read) as reader:
            yield reader, writer
        eventually(lambda: not [each for each in set(threading.enumerate()) - before if each.name == "log-writer"])


def test_lines_are_written_at_once_and_in_order(pipe: tuple[TextIO, TextIO]) -> None:
    reader, writer = pipe
    stream = NonBlockingStream(writer)
    log = logger("json", "info", stream)

    for number in range(500):
        log.info("job.finished", number=number)

    assert [json.loads(reader.readline())["number"] for _ in range(500)] == list(range(500))
    assert not stream.isatty()
    stream.close()


def test_stalled_reader_blocks_nothing_and_gets_the_number_dropped(
    pipe: tuple[TextIO, TextIO],
) -> None:
    reader, writer = pipe
    stream = NonBlockingStream(writer, room=10)
    log = logger("json", "info", stream)
    lines: list[dict[str, object]] = []

    def read() -> None:
        lines.append(json.loads(reader.readline() or raise_finished()))

    def one_more_came_through() -> bool:
        log.info("daemon.stopping", before=next(said))
        return any(line["event"] == "daemon.stopping" for line in lines)

    said = itertools.count(2000)
    for number in range(2000):
        log.info("job.finished", number=number, padding="x" * 1000)
    with BackgroundTask(read, every=0) as reading:
        eventually(one_more_came_through)  # once there is room again
        stream.close()
        log.info("daemon.stopped")
        writer.close()
        reading.join()

    assert "daemon.stopped" not in [line["event"] for line in lines]
    numbers = [line["number"] for line in lines if line["event"] == "job.finished"]
    assert 10 <= len(numbers) < 2000
    assert numbers[:10] == list(range(10))
    assert len({*numbers}) == len(numbers)
    last = next(line for line in lines if line["event"] == "daemon.stopping")
    before = lines[: lines.index(last)]
    dropped = [line for line in before if line["event"] == "log.lines_dropped"]
    assert {line["level"] for line in dropped} == {"warning"}
    assert sum(int(str(line["lines"])) for line in dropped) == int(str(last["before"])) - (len(before) - len(dropped))


def raise_finished() -> str:
    raise Finished


@pytest.mark.real_time
def test_close_waits_a_limited_time_for_a_stalled_reader(pipe: tuple[TextIO, TextIO]) -> None:
    _, writer = pipe
    stream = NonBlockingStream(writer)
    stream.write("x" * 1_000_000)
    started = time.monotonic()

    stream.close(seconds=0.1)

    assert time.monotonic() - started >= 0.1


def test_stream_without_a_file_gets_every_line_before_close() -> None:
    written = io.StringIO()
    stream = NonBlockingStream(written)

    logger("json", "info", stream).info("daemon.stopped")
    stream.close()

    assert json.loads(written.getvalue())["event"] == "daemon.stopped"

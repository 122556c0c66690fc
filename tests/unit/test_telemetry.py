"""Logs say what happened in the form that was asked for, and never a secret."""

import io
import json
import sys
import threading

import pytest

from exporter.credentials import MASK, Secret
from exporter.telemetry import Log, LogFormat, Secrets, default_stream, logger

TOKEN = "feedfacefeedfacefeedfacefeedface"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Full(io.StringIO):
    def write(self, _text: str, /) -> int:
        raise OSError(28, "No space left on device")


def log_to(
    stream: io.StringIO, log_format: LogFormat = "json", level: str = "debug", secrets: Secrets | None = None
) -> Log:
    return logger(log_format, level, stream, secrets or Secrets())


def hiding(*secrets: str) -> Secrets:
    hiding = Secrets()
    for secret in secrets:
        hiding.hide(Secret(secret))
    return hiding


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

    log_to(stream, "console").error("state.not_written", reason="disk full")

    assert "state.not_written" in stream.getvalue()
    assert "reason='disk full'" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_auto_is_the_console_on_a_terminal_and_json_elsewhere() -> None:
    terminal, pipe = Terminal(), io.StringIO()

    log_to(terminal, "auto").info("daemon.started")
    log_to(pipe, "auto").info("daemon.started")

    assert "\x1b[" in terminal.getvalue()
    assert json.loads(pipe.getvalue())["event"] == "daemon.started"


def test_keys_without_a_value_are_left_out() -> None:
    stream = io.StringIO()

    log_to(stream).info("job.finished", duration_seconds=None)

    assert "duration_seconds" not in json.loads(stream.getvalue())


def test_logs_go_to_standard_error() -> None:
    assert default_stream() is sys.stderr


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
def test_less_severe_events_than_the_level_are_not_said(level: str, said: list[str]) -> None:
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
    log = log_to(stream, log_format, secrets=hiding(TOKEN)).bind(bound=f"<{TOKEN}>")

    event = f"sent.{TOKEN}"
    log.warning(event, reason=f"with {TOKEN}, twice {TOKEN}", header={"X": TOKEN}, pair=(TOKEN, 1))
    try:
        int(TOKEN + "g")
    except ValueError:
        log.exception("poll.crashed")

    assert TOKEN not in stream.getvalue()
    assert stream.getvalue().count(MASK) >= 7
    assert f"base 10: '{MASK}g'" in stream.getvalue()
    assert "Traceback" in stream.getvalue()


def test_a_secret_within_another_leaves_no_rest_of_it() -> None:
    for secrets in (hiding(TOKEN, TOKEN[:8]), hiding(TOKEN[:8], TOKEN)):
        assert secrets.hidden(f"{TOKEN} {TOKEN[:8]}") == f"{MASK} {MASK}"


def test_old_tokens_stay_hidden_and_an_empty_one_hides_nothing() -> None:
    secrets = hiding(TOKEN, "", "0123456789abcdef")

    assert secrets.hidden(f"{TOKEN} and 0123456789abcdef") == f"{MASK} and {MASK}"
    assert hiding("").hidden("plain") == "plain"


def test_secrets_of_many_accounts_hidden_at_once_are_all_hidden() -> None:
    secrets, start = Secrets(), threading.Barrier(8)

    def hide(number: int) -> None:
        start.wait()
        for each in range(100):
            secrets.hide(Secret(f"secret-{number}-{each:03}"))

    threads = [threading.Thread(target=hide, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(secrets.hidden(f"secret-{number}-{each:03}") == MASK for number in range(8) for each in range(100))


# ---- streams that fail ----


def test_a_full_or_closed_stream_loses_lines_and_stops_nothing() -> None:
    closed = io.StringIO()
    log = log_to(closed)
    closed.close()

    log.info("poll.failed")
    log_to(Full()).error("poll.failed")

"""The lines of cron in the documents that mail what is new: each thing once. What a line prints is mailed."""

import email
import email.policy
import re
import socket
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.certificates import Authority
from tests.waiting import PATIENCE, eventually

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
DOCUMENTS: Final = "\n".join((DEPLOY / each).read_text("utf-8") for each in ("OPERATIONS.md", "systemd/README.md"))
HEADER: Final = "JOB   OPERATION  STATE  FILES  FAILED  CHANGED               REASON\n"
SLOW: Final = "4711  copy       stuck   4/10       -  2026-11-28T08:00:00Z  -\n"
OTHER: Final = "4712  move       stuck  4/100       1  2026-11-28T09:00:00Z  no code (1)\n"


def recipe(name: str) -> str:
    """The command of the last line of a crontab."""
    [lines] = re.findall(rf"<!-- {name} -->\n\n```crontab\n(.+?)\n```", DOCUMENTS, re.DOTALL)
    line = lines.splitlines()[-1]
    command = re.fullmatch(r"(?:@hourly|(?:\S+ ){4}\S+) (.+)", line)
    assert command
    return command[1].replace(r"\%", "%")  # as cron does


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".config" / "sbg-exporter").mkdir(parents=True)
    (tmp_path / ".local" / "bin").mkdir(parents=True)
    return tmp_path


def mailed(name: str, home: Path, *, date: str = "2026-11-28") -> str:
    executable(home / "date", f"echo {date}")
    variables = {"HOME": str(home), "PATH": f"{home}:/usr/bin:/bin"}
    done = subprocess.run(
        ["sh", "-c", recipe(name)], cwd=home, env=variables, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def executable(file: Path, script: str) -> None:
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def program(home: Path, output: str, code: int = 0) -> None:
    """Let `sbg-exporter` print *output*."""
    (home / "output").write_text(output)
    script = f'echo "$@" >>$HOME/calls\ncat $HOME/output\necho as of >&2\nexit {code}'
    executable(home / ".local" / "bin" / "sbg-exporter", script)


def test_each_stuck_job_is_mailed_once_and_again_if_it_moved_in_between(home: Path) -> None:
    program(home, HEADER + SLOW)
    assert mailed("mail-stuck", home) == "4711 copy stuck 4/10 - 2026-11-28T08:00:00Z -\n"
    assert mailed("mail-stuck", home) == ""

    program(home, HEADER + SLOW.replace("stuck ", "stuck   ") + OTHER)
    assert mailed("mail-stuck", home).split()[0] == "4712", "the other one has another width only"
    program(home, "")
    assert mailed("mail-stuck", home) == "", "none is stuck"
    program(home, HEADER + SLOW.replace("08:00", "11:30"))
    assert "11:30" in mailed("mail-stuck", home)
    assert set((home / "calls").read_text().splitlines()) == {"jobs --stuck"}


def test_command_that_cannot_tell_which_jobs_are_stuck_says_why_each_time(home: Path) -> None:
    program(home, HEADER + SLOW)
    assert mailed("mail-stuck", home)
    program(home, "", code=2)
    assert [mailed("mail-stuck", home) for _ in range(2)] == ["as of\n"] * 2, "what it wrote to standard error"
    program(home, HEADER + SLOW)
    assert mailed("mail-stuck", home) == "", "it was mailed before"


LOST: Final = '{"timestamp": "2026-11-28T08:00:01Z", "level": "warning", "event": "job.finished", "failed": 2}'
REFUSED: Final = "sbg-exporter: config.toml: pol_interval: unknown key"


def append(home: Path, text: str) -> None:
    with (home / "sbg-exporter.log").open("a") as log:
        log.write(text)


def test_same_failure_of_a_later_start_is_mailed_again(home: Path) -> None:
    append(home, f"{REFUSED}\n")
    assert mailed("mail-log", home) == f"{REFUSED}\n"
    assert mailed("mail-log", home) == ""
    append(home, f"{REFUSED}\n")
    assert mailed("mail-log", home) == f"{REFUSED}\n"


def test_log_is_mailed_after_the_zeros_that_a_power_failure_left_in_it(home: Path) -> None:
    append(home, f"{LOST}\n\0\0\0")
    assert mailed("mail-log", home) == f"{LOST}\n"
    append(home, f"\0{REFUSED}\n{LOST}\n")
    assert mailed("mail-log", home).replace("\0", "") == f"{REFUSED}\n{LOST}\n"


def test_line_that_is_half_written_is_mailed_when_it_is_complete(home: Path) -> None:
    append(home, f"{LOST}\n{LOST[:90]}")
    assert mailed("mail-log", home) == f"{LOST}\n"
    append(home, f"{LOST[90:]}\n")
    assert mailed("mail-log", home) == f"{LOST}\n"


@pytest.mark.parametrize("remembered", ["3", "", LOST, "\0"])
def test_rotated_log_file_is_mailed_from_its_start(home: Path, remembered: str) -> None:
    (home / ".config" / "sbg-exporter" / "mailed").write_text(remembered)
    append(home, f"{LOST}\n{LOST}\n")
    assert mailed("mail-log", home).splitlines() == [LOST, LOST]
    assert mailed("mail-log", home) == ""


def test_emptied_log_file_is_mailed_from_its_start_even_if_it_has_grown_longer_than_before(home: Path) -> None:
    append(home, f"{LOST}\n{LOST}\n")
    assert mailed("mail-log", home).splitlines() == [LOST, LOST]

    later = [LOST.replace("08:00:01", f"09:00:0{second}") for second in range(3)]
    (home / "sbg-exporter.log").write_text("\n".join(later) + "\n")
    assert mailed("mail-log", home).splitlines() == later
    (home / "sbg-exporter.log").write_text("")
    assert mailed("mail-log", home) == ""
    append(home, f"{LOST}\n{LOST}\n")
    assert mailed("mail-log", home).splitlines() == [LOST, LOST]


def test_missing_log_file_is_reported(home: Path) -> None:
    assert "sbg-exporter.log" in mailed("mail-log", home)
    assert not (home / ".config" / "sbg-exporter" / "mailed").exists()


def test_journal_is_asked_for_what_could_not_be_started_too(home: Path) -> None:
    journal = home / "journalctl"
    journal.write_text(f"#!/bin/sh\nprintf '%s\\n' '{LOST}' '{REFUSED}' 'Started sbg-exporter.service.'\n")
    journal.chmod(0o755)
    assert mailed("mail-unit", home).splitlines() == [LOST, REFUSED]


def test_each_line_of_a_log_file_is_mailed_once(home: Path) -> None:
    lines = [
        '{"timestamp": "2026-11-28T08:00:00Z", "level": "info", "event": "job.finished", "failed": 0}',
        '{"timestamp": "2026-11-28T08:00:01Z", "level": "warning", "event": "job.finished", "failed": 2}',
        "sbg-exporter: config.toml: pol_interval: unknown key",
        '{"timestamp": "2026-11-28T08:00:02Z", "level": "warning", "event": "job.finished", "failed": 3}',
    ]
    log = home / "sbg-exporter.log"
    log.write_text("\n".join(lines[:3]) + "\n")
    assert mailed("mail-log", home).splitlines() == lines[1:3]
    assert mailed("mail-log", home) == ""

    log.write_text("\n".join(lines) + "\n")
    assert mailed("mail-log", home).splitlines() == lines[3:]


def test_machine_that_sleeps_is_checked_once_a_day_when_it_is_awake(home: Path) -> None:
    program(home, "failed\n", code=1)
    assert "failed\n" in mailed("mail-awake", home)
    assert mailed("mail-awake", home) == ""
    assert "failed\n" in mailed("mail-awake", home, date="2026-11-29")

    program(home, "OK\n")
    assert mailed("mail-awake", home, date="2026-11-30") == ""


@pytest.mark.parametrize("name", ["mail-log", "mail-unit"])
def test_start_that_was_refused_is_mailed_and_a_short_break_of_the_network_is_not(home: Path, name: str) -> None:
    lines = [
        '{"timestamp": "2026-11-28T08:00:00Z", "level": "warning", "event": "poll.failed", "account": "mine"}',
        '{"timestamp": "2026-11-28T08:15:00Z", "level": "warning", "event": "poll.keeps_failing", "account": "mine"}',
        '{"timestamp": "2026-11-28T08:15:00Z", "level": "warning", "event": "accounts.removed", "accounts": "mine"}',
        "sbg-exporter: config.toml: pol_interval: unknown key",
    ]
    (home / "sbg-exporter.log").write_text("\n".join(lines) + "\n")
    executable(home / "journalctl", "cat $HOME/sbg-exporter.log")
    assert mailed(name, home).splitlines() == lines[1:]


@pytest.mark.parametrize("name", ["mail-down", "reboot"])
def test_an_exporter_that_does_not_answer_is_mailed_every_hour(home: Path, name: str) -> None:
    program(home, "")
    executable(home / "curl", "echo curl: refused >&2\nexit 7")
    for _ in range(2):
        assert "sbg-exporter does not answer" in mailed(name, home)
    executable(home / "curl", "echo OK")
    assert mailed(name, home) == ""


def test_an_exporter_that_does_not_answer_is_started_without_mailing_its_log(home: Path) -> None:
    executable(home / "curl", "exit 7")
    executable(home / ".local" / "bin" / "sbg-exporter", 'echo "$@"; echo said >&2; echo "$@" >$HOME/started')
    assert mailed("reboot", home) == "sbg-exporter does not answer; starting it\n"
    eventually(
        lambda: (
            (home / "started").is_file() and (home / "started").read_text() == "--log-level warning --log-format json\n"
        )
    )
    assert (home / "sbg-exporter.log").read_text() == "said\n"


# ---- without a mailer ----


def notice(home: Path, port: int) -> None:
    """Install the script of the documents, for a mail server on *port*."""
    [script] = re.findall(r"<!-- notice -->\n\n```python\n#!/usr/bin/env python3\n(.+?)```", DOCUMENTS, re.DOTALL)
    server = '"smtp.example.org", 465'
    assert server in script
    file = home / ".local" / "bin" / "notice"
    here = script.replace(server, f'"localhost", {port}')
    file.write_text(f"#!{sys.executable}\n{here}")
    file.chmod(0o755)
    (home / ".netrc").write_text("machine localhost login me password s3cret")
    (home / ".netrc").chmod(0o600)


def take_a_mail(listener: socket.socket, tls: ssl.SSLContext) -> tuple[list[str], str]:
    """Serve one connection of SMTP as far as one mail goes: the commands, and the mail."""
    with tls.wrap_socket(listener.accept()[0], server_side=True) as connection, connection.makefile("rw") as lines:

        def answer(text: str) -> None:
            lines.write(f"{text}\r\n")
            lines.flush()

        commands: list[str] = []
        mail = ""
        answer("220 ready")
        while not commands or commands[-1] != "QUIT":
            commands.append(lines.readline().strip())
            if commands[-1].startswith("ehlo"):
                answer("250-here\r\n250 AUTH PLAIN")
            elif commands[-1] == "data":
                answer("354 go on")
                mail = "".join(iter(lines.readline, ".\n"))
                answer("250 taken")
            else:
                answer({"AUTH": "235 welcome", "QUIT": "221 bye"}.get(commands[-1].split()[0], "250 fine"))
        return commands, mail


@pytest.mark.tools("openssl")
def test_without_a_mailer_the_lines_mail_by_themselves_what_was_not_taken_later(home: Path) -> None:
    authority = Authority(home / "tls")
    command = f"{recipe('mail-log')} | $HOME/.local/bin/notice"
    variables = {"HOME": str(home), "PATH": "/usr/bin:/bin", "SSL_CERT_FILE": str(authority.certificate)}

    def run() -> tuple[str, str]:
        done = subprocess.run(
            ["sh", "-c", command], cwd=home, env=variables, capture_output=True, text=True, check=False
        )
        return done.stdout, done.stderr

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as threads:
        listener.settimeout(PATIENCE)
        port = listener.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as other:
            notice(home, other.getsockname()[1])
        append(home, f"{REFUSED}\n")
        _, refused = run()  # nobody listens there any more

        notice(home, port)
        append(home, f"{LOST}\n")
        server = threads.submit(take_a_mail, listener, authority.issue("mail").server())
        sent = run()
        commands, mail = server.result(PATIENCE)
        nothing_new = run()

    assert refused.startswith(f"not sent, and kept in {home}/.config/sbg-exporter/unsent for the next time: Connection")
    assert refused.count("\n") == 1
    assert sent == nothing_new == ("", "")
    assert {"mail FROM:<you@example.org>", "rcpt TO:<you@example.org>"} <= {
        each.split(" size=")[0] for each in commands
    }
    received = email.message_from_string(mail, policy=email.policy.default)
    assert (received["To"], received["Subject"]) == ("you@example.org", "sbg-exporter")
    assert received.get_content() == f"{REFUSED}\n{LOST}\n"

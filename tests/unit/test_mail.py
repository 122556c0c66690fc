"""The lines of cron in OPERATIONS.md that mail what is new: each thing once. What a line prints is mailed."""

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

OPERATIONS: Final = (Path(__file__).parents[2] / "deploy" / "OPERATIONS.md").read_text(encoding="utf-8")
HEADER: Final = "JOB   OPERATION  STATE  FILES  FAILED  CHANGED               REASON\n"
SLOW: Final = "4711  copy       stuck   4/10       -  2026-11-28T08:00:00Z  -\n"
OTHER: Final = "4712  move       stuck  4/100       1  2026-11-28T09:00:00Z  no code (1)\n"


def recipe(name: str) -> str:
    """The command of the last line of a crontab."""
    [lines] = re.findall(rf"<!-- {name} -->\n\n```crontab\n(.+?)\n```", OPERATIONS, re.DOTALL)
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
    clock = home / "date"
    clock.write_text(f"#!/bin/sh\necho {date}\n")
    clock.chmod(0o755)
    variables = {"HOME": str(home), "PATH": f"{home}:/usr/bin:/bin"}
    done = subprocess.run(
        ["sh", "-c", recipe(name)], cwd=home, env=variables, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def program(home: Path, output: str, code: int = 0) -> None:
    """Let `sbg-exporter` print *output*."""
    (home / "output").write_text(output)
    file = home / ".local" / "bin" / "sbg-exporter"
    file.write_text(f'#!/bin/sh\necho "$@" >>$HOME/calls\ncat $HOME/output\necho as of >&2\nexit {code}\n')
    file.chmod(0o755)


def test_each_stuck_job_is_mailed_once_and_again_if_it_moved_in_between(home: Path) -> None:
    program(home, HEADER + SLOW)
    assert mailed("mail-stuck", home) == "4711 copy stuck 4/10 - 2026-11-28T08:00:00Z -\n"
    assert mailed("mail-stuck", home) == ""

    program(home, HEADER + SLOW.replace("stuck ", "stuck   ") + OTHER)
    assert mailed("mail-stuck", home).split()[0] == "4712", "the other one has another width only"
    program(home, "")
    assert mailed("mail-stuck", home) == "", "none is stuck, or the state file cannot be read"
    program(home, HEADER + SLOW.replace("08:00", "11:30"))
    assert "11:30" in mailed("mail-stuck", home)
    assert set((home / "calls").read_text().splitlines()) == {"jobs --stuck"}


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

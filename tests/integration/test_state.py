"""The ``state`` commands and restarts of a daemon: copied, moved and forgotten ledgers count exactly."""

import fcntl
import json
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from exporter.simulator.scripts import JobScript, Shown
from exporter.simulator.server import QUIET, RunningSimulator, running
from tests.harness import Account, Daemon, Installation, Labels, MonotonicCounters, Scrape, counted, difference
from tests.waiting import eventually

TOKENS = {"alice": "token-of-alice-0000000000000000", "bob": "token-of-bob-000000000000000000"}
DONE = JobScript(total=3, failed=1, errors={"5001": 1}, queued=0, resolving=0, running=0)
UNDER_WAY = JobScript(operation="move", total=8, failed=2, queued=0, resolving=0, running=8, hangs_after=4)
VARIED = (
    DONE,
    UNDER_WAY,
    JobScript(total=3, running=1, queued=0, resolving=0, times=Shown.ALONE),
    JobScript(total=4, failed=4, operation="delete", queued=0, resolving=0, running=0),
    JobScript(total=7, failed=1, operation="import", queued=0, resolving=0, running=0),
    JobScript(total=5, completed=3, queued=0, resolving=0, running=0),
    JobScript(total=0, queued=0, resolving=0, running=0),
)


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    """Two users, and a rate limit that many starts do not exhaust."""
    users = {TOKENS["bob"]: "bob"}
    with running(replace(QUIET, username="alice", token=TOKENS["alice"], users=users, rate_limit=100_000)) as served:
        yield served


@pytest.fixture
def here(simulator: RunningSimulator, tmp_path: Path) -> Iterator[Installation]:
    """An installation with both users."""
    accounts = [Account.at(simulator, user, token) for user, token in TOKENS.items()]
    with Installation(tmp_path / "here", *accounts, settle_after=0) as installed:
        yield installed


@pytest.fixture
def there(simulator: RunningSimulator, tmp_path: Path) -> Iterator[Installation]:
    """An installation with the second user only."""
    with Installation(tmp_path / "there", Account.at(simulator, "bob", TOKENS["bob"]), settle_after=0) as installed:
        yield installed


def done(place: Installation, *arguments: str, code: int = 0) -> Daemon:
    """Run a ``state`` command in *place* to its end."""
    command = place.start("state", *arguments, "--config", str(place.config))
    assert command.end() == code, command.output()
    assert "Traceback" not in command.output()
    return command


def shown(place: Installation) -> dict[str, dict[str, object]]:
    """Return the output of ``state show`` by account."""
    return {each["names"][0]: each for each in json.loads(done(place, "show", "--json").stdout)["accounts"]}


def submit(simulator: RunningSimulator, *users: str) -> None:
    """Submit jobs of every kind and let them finish, except for a stuck one."""
    for user in users:
        for script in VARIED:
            simulator.platform.submit(script, user)
    simulator.platform.advance(60)


def lasting(scrape: Scrape, account: str) -> dict[tuple[str, Labels], float]:
    """Return all counters and histograms of *account*, with their creation times."""
    return {
        key: value
        for key, value in scrape.samples.items()
        if ("account", account) in key[1]
        and not key[0].startswith("sbg_exporter_")
        and key[0].endswith(("_total", "_created", "_bucket", "_count", "_sum"))
    }


def test_show_tells_of_a_daemon_that_runs_and_of_one_that_has_ended(
    simulator: RunningSimulator, here: Installation
) -> None:
    with here.running() as daemon:
        submit(simulator, "alice")
        daemon.await_exact("alice", simulator, "alice")
        while_it_runs = done(here, "show").stdout
        accounts = shown(here)
        assert daemon.stop() == 0
    afterwards = done(here, "show").stdout

    assert f"\n  locked by   process {daemon.pid} on {socket.gethostname()}\n" in while_it_runs
    assert "\n  locked by   -\n" in afterwards
    assert f"\n  endpoint    {simulator.url}\n  user        alice\n" in afterwards
    assert accounts.keys() == TOKENS.keys()
    assert accounts["alice"]["jobs_tracked"] == len(VARIED)
    assert accounts["alice"]["jobs_unfinished"] == 1
    assert accounts["bob"]["jobs_tracked"] == 0


def test_no_account_and_no_token_is_needed_to_look(here: Installation) -> None:
    with here.running() as daemon:
        assert daemon.stop() == 0
    for token in here.folder.glob("*.token"):
        token.unlink()

    assert shown(here).keys() == TOKENS.keys()
    here.config.write_text(f'state_file = "{here.state.name}"\n')
    assert shown(here).keys() == TOKENS.keys()
    command = here.start("state", "show", "--state-file", str(here.state))
    assert command.end() == 0


@pytest.mark.fault(
    "`state verify` while it runs, and after SIGKILL",
    action="reads without locking",
    shown="a sound ledger",
    recovery="none needed",
)
def test_what_a_daemon_counted_is_sound_while_it_runs_when_it_was_killed_and_when_it_has_ended(
    simulator: RunningSimulator, here: Installation
) -> None:
    with here.running() as daemon:
        submit(simulator, *TOKENS)
        for user in TOKENS:
            daemon.await_exact(user, simulator, user)
        running_still = done(here, "check").stdout
        daemon.kill()
    killed = done(here, "check").stdout
    with here.running() as daemon:
        assert daemon.stop() == 0
    ended = done(here, "check").stdout

    assert running_still == killed == ended == f"{here.state} is intact: 2 accounts, {2 * len(VARIED)} jobs tracked.\n"


@pytest.mark.fault(
    "a counter and its job records disagree",
    action="`state verify` exits 1",
    shown="a line for each",
    recovery="a backup",
)
def test_what_is_wrong_is_a_line_each_and_exit_1(simulator: RunningSimulator, here: Installation) -> None:
    with here.running() as daemon:
        submit(simulator, "alice")
        daemon.await_exact("alice", simulator, "alice")
        daemon.stop()
    with closing(sqlite3.connect(here.state)) as db, db:
        db.execute("UPDATE counter SET value = value - 1 WHERE value > 0 AND family LIKE 'sbg_files_failed_%'")

    told = done(here, "check", code=1)

    assert told.lines == []
    assert [line.partition(" is ")[0] for line in told.stdout.splitlines()] == [
        f"alice: sbg_files_failed_total ({operation})" for operation in ("copy", "delete", "import", "move")
    ]


@pytest.mark.fault(
    "a backup from the middle of a day is put back",
    action="counts what has happened since then",
    shown="counters of the backup, then the truth",
    recovery="the first polls",
)
def test_a_backup_of_a_daemon_that_is_counting_goes_on_to_the_truth_when_it_is_put_back(
    simulator: RunningSimulator, here: Installation
) -> None:
    backup = here.folder / "backup.db"
    with here.running() as daemon:
        submit(simulator, "alice")
        before = daemon.await_exact("alice", simulator, "alice")
        submit(simulator, *TOKENS)
        done(here, "backup", str(backup))
        submit(simulator, "bob")
        for user in TOKENS:
            daemon.await_exact(user, simulator, user)
        daemon.kill()
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert not [each for each in here.folder.iterdir() if "backup.db" in each.name and each != backup]

    for left in ("state.db-wal", "state.db-shm"):
        (here.folder / left).unlink(missing_ok=True)
    shutil.copy(backup, here.state)
    counters = MonotonicCounters()
    counters.see(before)  # No counter is lower than in the backup.
    with here.running() as daemon:
        for user in TOKENS:
            daemon.await_exact(user, simulator, user)
        counters.see(daemon.await_polls("bob"))
        submit(simulator, "alice")
        counters.see(daemon.await_exact("alice", simulator, "alice"))
        assert daemon.said("ledger.created") == []
    done(here, "check")


def test_a_backup_is_looked_at_like_a_state_file(simulator: RunningSimulator, here: Installation) -> None:
    backup = here.folder / "backup.db"
    with here.running() as daemon:
        submit(simulator, "alice")
        daemon.await_exact("alice", simulator, "alice")
        done(here, "backup", str(backup))

        line = done(here, "backup", str(backup), code=1).lines
        check = here.start("state", "check", "--state-file", str(backup))

        assert line == [f"sbg-exporter: {backup} already exists; --force overwrites it\n"]
        assert check.end() == 0
        assert check.stdout.startswith(f"{backup} is intact: 2 accounts")


def test_a_ledger_that_moves_takes_its_counters_and_the_times_of_their_creation_along(
    simulator: RunningSimulator, here: Installation, there: Installation
) -> None:
    moved = here.folder / "bob.ledger"
    under_way = simulator.platform.submit(UNDER_WAY, "bob")
    with here.running() as daemon:
        submit(simulator, *TOKENS)
        for user in TOKENS:
            daemon.await_exact(user, simulator, user)
        before = daemon.await_polls("bob")
        assert daemon.stop() == 0

    done(here, "export", "bob", "--output", str(moved))
    done(there, "import", str(moved))
    done(there, "check")
    done(here, "forget", "bob", "--yes")

    assert stat.S_IMODE(moved.stat().st_mode) == 0o600
    assert shown(here).keys() == {"alice"}
    with there.running() as daemon:
        after = daemon.await_polls("bob")
        simulator.platform.finish(under_way)
        submit(simulator, "bob")
        daemon.await_exact("bob", simulator, "bob")
        last = daemon.await_polls("bob")
    assert lasting(after, "bob") == lasting(before, "bob")
    assert any(name.endswith("_created") for name, _ in lasting(after, "bob"))
    assert difference(last, "bob", simulator, "bob") == {}
    assert daemon.said("ledger.created") == []


@pytest.mark.fault(
    "a ledger moves to another machine while jobs go on",
    action="counts what has happened meanwhile",
    shown="the same counters with the same creation times",
    recovery="the first polls",
)
def test_a_ledger_that_moved_while_jobs_went_on_counts_them_once(
    simulator: RunningSimulator, here: Installation, there: Installation
) -> None:
    with here.running() as daemon:
        submit(simulator, "bob")
        before = counted(daemon.await_exact("bob", simulator, "bob"), "bob")
        assert daemon.stop() == 0

    exported = done(here, "export", "bob").stdout
    submit(simulator, "bob")
    imported = subprocess.run(
        [sys.executable, "-m", "exporter", "state", "import", "-", "--config", str(there.config)],
        input=exported,
        text=True,
        capture_output=True,
        check=False,
    )

    assert (imported.returncode, imported.stderr) == (0, "")
    with there.running() as daemon:
        after = counted(daemon.await_exact("bob", simulator, "bob"), "bob")
    assert after == before + before


@pytest.mark.fault(
    "`state import` of an account that has counts here",
    action="refuses it",
    shown="one line",
    recovery="`--replace`",
)
def test_a_ledger_is_not_imported_beside_one_that_has_counted(
    simulator: RunningSimulator, here: Installation, there: Installation
) -> None:
    moved = here.folder / "bob.ledger"
    for place in (here, there):
        with place.running() as daemon:
            submit(simulator, "bob")
            daemon.await_exact("bob", simulator, "bob")
            assert daemon.stop() == 0
    done(here, "export", "bob", "--output", str(moved))
    before = shown(there)

    [line] = done(there, "import", str(moved), code=1).lines

    assert line.endswith("with counts; pass --replace to replace it with the imported one\n")
    assert shown(there) == before
    done(there, "import", str(moved), "--replace")
    with there.running() as daemon:
        daemon.await_exact("bob", simulator, "bob")


def test_an_account_that_was_forgotten_is_counted_anew_and_the_others_go_on(
    simulator: RunningSimulator, here: Installation
) -> None:
    with here.running() as daemon:
        submit(simulator, *TOKENS)
        for user in TOKENS:
            daemon.await_exact(user, simulator, user)
        before = daemon.await_polls("alice")
        assert daemon.stop() == 0
    simulator.platform.advance(3600)

    without = done(here, "forget", "alice", code=2)
    done(here, "forget", "alice", "--yes")

    assert re.search(r"this permanently deletes the ledger of alice \(user alice .*: 7 jobs tracked", without.lines[0])
    with here.running() as daemon:
        anew = daemon.await_exact("alice", simulator, "alice")
        after = daemon.await_polls("bob")
    assert [event["account"] for event in daemon.said("ledger.created")] == ["alice"]
    assert counted(anew, "alice") == {
        ("sbg_jobs_submitted_total", "move"): 1,
        ("sbg_files_total", "move"): 8,
        ("sbg_files_completed_total", "move"): 3,
        ("sbg_files_failed_total", "move"): 1,
    }
    assert lasting(after, "bob") == lasting(before, "bob")


@pytest.mark.parametrize("command", [("import", "bob.ledger", "--replace"), ("forget", "bob", "--yes")])
@pytest.mark.fault(
    "`state import` or `forget` while the daemon runs",
    action="refuses it",
    shown="one line",
    recovery="the daemon is stopped",
)
def test_what_writes_is_refused_while_the_daemon_runs(
    simulator: RunningSimulator, here: Installation, command: tuple[str, ...]
) -> None:
    with here.running() as daemon:
        submit(simulator, "bob")
        daemon.await_exact("bob", simulator, "bob")
        export = done(here, "export", "bob", "--output", str(here.folder / "bob.ledger"))

        [line] = done(here, *command, code=1).lines

        assert f"is locked by process {daemon.pid} on {socket.gethostname()}" in line
        assert "; stop that exporter" in line
        assert "".join(export.lines) == (
            f"sbg-exporter: warning: the state file is locked by process {daemon.pid} on {socket.gethostname()}:"
            " what that exporter counts from now on is not in the export\n"
        )
        submit(simulator, "bob")
        daemon.await_exact("bob", simulator, "bob")


@pytest.mark.fault(
    "a signal while `state import` waits for its input",
    action="changes nothing",
    shown="one line",
    recovery="it is run again",
)
def test_a_signal_while_an_import_waits_for_its_input_changes_nothing(
    simulator: RunningSimulator, here: Installation, there: Installation
) -> None:
    with here.running() as daemon:
        submit(simulator, "bob")
        daemon.await_exact("bob", simulator, "bob")
        daemon.stop()
    exported = done(here, "export", "bob").stdout
    with subprocess.Popen(
        [sys.executable, "-m", "exporter", "state", "import", "-", "--config", str(there.config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdin is not None
        command.stdin.write(exported[: len(exported) // 2])
        command.stdin.flush()
        eventually(partial(everything_was_read, command.stdin))

        command.send_signal(signal.SIGINT)

        out, err = command.communicate()
    assert (command.returncode, out) == (-signal.SIGINT, "")
    assert "Traceback" not in err
    assert not there.state.exists()


def everything_was_read(pipe: IO[str]) -> bool:
    """Return whether the reader of *pipe* has read everything."""
    return not any(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))

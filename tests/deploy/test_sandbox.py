"""Where root's programs run: nothing of theirs outlasts them, even if the test process is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.containers import HARDENED, REPOSITORY, engine, needs_containers
from tests.deploy.sandbox import sandboxed
from tests.waiting import eventually

FOLDERS: Final = ("/run", "/var/lib", "/dev/shm")  # noqa: S108  # those that a sandbox has for itself
KILLED: Final = """\
import os, signal, sys
from tests.deploy.containers import engine

with engine(network=False) as containers:
    containers.podman("network", "create", "left")
    options = ("--network=left", "--volume=left:/left", "--no-healthcheck")
    containers.start(containers.base, "sleep", sys.argv[1], options=options)
    print("started", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.tools("root", "iptables")
def test_what_is_changed_in_a_sandbox_is_changed_nowhere_else() -> None:
    name = f"sbg-exporter-{os.getpid()}"
    changes = [*(f"touch {folder}/{name}" for folder in FOLDERS), f"iptables -N {name}", "echo $$"]

    done = subprocess.run(
        sandboxed("sh", "-c", " && ".join(changes), network=False), capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert [folder for folder in FOLDERS if Path(folder, name).exists()] == []


@pytest.mark.slow
@needs_containers
def test_a_killed_run_leaves_no_process_and_no_container() -> None:
    seconds = f"{1_000_000 + os.getpid()}"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    killed = subprocess.run(
        [sys.executable, "-c", KILLED, seconds], env=environment, capture_output=True, text=True, check=False
    )

    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "started\n"), killed.stderr
    eventually(lambda: not processes(f"sleep {seconds}"))
    with engine(network=False) as containers:
        assert containers.podman("ps", "--all", "--quiet") == ""
        assert containers.podman("volume", "ls", "--quiet") == ""
        assert containers.podman("network", "ls", "--format={{.Name}}") == "podman\n"
        assert containers.run(containers.base, "true", options=HARDENED).code == 0


def processes(words: str) -> list[str]:
    """Those whose command line is *words*."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text(errors="replace").replace("\0", " ").strip()
        except OSError:  # it has ended meanwhile
            continue
        if command == words:
            found.append(command)
    return found

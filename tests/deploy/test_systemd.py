"""The systemd unit: what systemd's own checkers say of it, and what it does on a machine that boots.

The machine is a Debian that mmdebstrap makes, booted by systemd-nspawn, with no network but its own loopback: there the
README's lines are run as they stand, against the simulated platform. It and the packages are kept in the tests' cache;
what the machine writes is gone with it.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from exporter.config.loading import load
from exporter.simulator.server import DEMO_TOKEN
from tests.cache import kept, version
from tests.deploy.sandbox import sandboxed
from tests.harness import OPENMETRICS, MonotonicCounters, Scrape
from tests.tools import tool
from tests.waiting import eventually

REPOSITORY: Final = Path(__file__).parents[2]
DEPLOY: Final = REPOSITORY / "deploy" / "systemd"
UNIT: Final = DEPLOY / "sbg-exporter.service"
USER_UNIT: Final = DEPLOY / "user" / "sbg-exporter.service"
PROGRAM: Final = "/opt/sbg-exporter/bin/sbg-exporter"
USERS_PROGRAM: Final = "%h/.local/bin/sbg-exporter"
EXPOSURE_BELOW: Final = 15
"""Tenths, of at most 100."""
ALLOWED: Final = {
    "RootDirectory=/RootImage=": "it runs the machine's Python",
    "RestrictAddressFamilies=~AF_UNIX": "it notifies systemd by a local socket",
    "RestrictAddressFamilies=~AF_(INET|INET6)": "it polls platforms and serves metrics",
    "PrivateNetwork=": "it polls platforms and serves metrics",
    "ProcSubset=": "the process_* metrics need /proc/stat",
    "DeviceAllow=": "ProtectClock= itself allows reading the clock",
    "IPAddressDeny=": "which addresses platforms have, and Prometheus, only the operator knows",
}
"""What systemd-analyze finds that the unit does not deny, and why."""


def said(command: list[str], **environment: str) -> tuple[int, str]:
    """The exit code of *command*, and all that it wrote."""
    done = subprocess.run(
        command,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def lines_of(block: str, readme: Path = DEPLOY / "README.md", language: str = "sh") -> list[str]:
    """The lines of the README's block of that name."""
    return lines_after(f"<!-- {block} -->\n", readme, language)


def lines_after(text: str, readme: Path, language: str = "sh") -> list[str]:
    """The lines of the first block of commands after *text*."""
    _, _, rest = readme.read_text(encoding="utf-8").partition(f"\n{text}\n")
    [text] = re.findall(rf"\A.*?```{language}\n(.+?)```", rest, re.DOTALL)
    lines: list[str] = text.splitlines()
    return lines


# --------------------------------------------------------------------------------------------------- systemd's checkers

checked: Final = pytest.mark.tools("systemd-analyze")


def installed_in(folder: Path, more: str = "") -> Path:
    """The unit with *more* at its end and its drop-in, and a program that is there on every machine."""
    unit = folder / UNIT.name
    unit.write_text(UNIT.read_text(encoding="utf-8").replace(PROGRAM, sys.executable) + more, encoding="utf-8")
    drop_in = folder / f"{UNIT.name}.d" / "tokens.conf"
    drop_in.parent.mkdir()
    drop_in.write_text((DEPLOY / "tokens.conf").read_text(encoding="utf-8"), encoding="utf-8")
    return unit


@checked
def test_verify_has_nothing_to_say(tmp_path: Path) -> None:
    assert said([tool("systemd-analyze"), "verify", str(installed_in(tmp_path))]) == (0, "")


@checked
@pytest.mark.parametrize(("more", "silent"), [("", True), ("[Service]\nWatchdogSecs=1\n", False)])
def test_verify_has_nothing_to_say_of_the_user_s_unit(tmp_path: Path, more: str, *, silent: bool) -> None:
    unit = tmp_path / USER_UNIT.name
    text = USER_UNIT.read_text(encoding="utf-8")
    assert f"ExecStart={USERS_PROGRAM} run\n" in text
    unit.write_text(text.replace(USERS_PROGRAM, sys.executable) + more, encoding="utf-8")

    _, told = said([tool("systemd-analyze"), "--user", "verify", str(unit)], XDG_RUNTIME_DIR=str(tmp_path))

    assert (not told) is silent, told


def test_both_units_are_watched_and_limited_alike_and_forbid_the_same_system_calls() -> None:
    """The user's unit lacks what only root's manager can do."""
    system, user = (
        {line for line in unit.read_text(encoding="utf-8").splitlines() if re.match(r"\w+=", line)}
        for unit in (UNIT, USER_UNIT)
    )

    assert {line.partition("=")[0] for line in user - system} == {
        *("ExecStart", "WantedBy"),
        "RestartPreventExitStatus",  # there are no credentials of systemd
    }
    assert {line for line in system if line.startswith(("SystemCall", "Memory", "Limit", "Watchdog", "Timeout"))} < user


@checked
@pytest.mark.parametrize("more", ["[Service]\nProtectHomes=yes\n", "[Service]\nRestrictNamespaces=perhaps\n"])
def test_an_unknown_key_or_value_would_be_told_of(tmp_path: Path, more: str) -> None:
    """For verify it is but a message, with exit code 0."""
    _, told = said([tool("systemd-analyze"), "verify", str(installed_in(tmp_path, more))])

    assert told


@checked
@pytest.mark.parametrize("block", ["tokens-drop-in", "profiles-drop-in"])
def test_verify_has_nothing_to_say_of_the_documented_drop_ins(tmp_path: Path, block: str) -> None:
    drop_in = "\n".join(lines_of(block, language="ini"))

    assert said([tool("systemd-analyze"), "verify", str(installed_in(tmp_path, f"\n{drop_in}\n"))]) == (0, "")


@checked
def test_its_exposure_is_below_one_and_a_half(tmp_path: Path) -> None:
    unit = str(installed_in(tmp_path))

    code, told = said(
        [tool("systemd-analyze"), "security", "--offline=yes", f"--threshold={EXPOSURE_BELOW}", "--no-pager", unit]
    )

    assert code == 0, told
    assert "Overall exposure level" in told


@checked
def test_it_may_do_only_what_it_needs(tmp_path: Path) -> None:
    """All that systemd can deny a service is denied, but for what has a reason."""
    unit = str(installed_in(tmp_path))

    _, told = said([tool("systemd-analyze"), "security", "--offline=yes", "--json=short", "--no-pager", unit])

    rows = json.loads(told)
    assert {each["name"] for each in rows if float(each["exposure"] or 0)} <= set(ALLOWED)
    assert len(rows) > 70


def test_the_sample_configuration_is_one_and_its_tokens_are_the_unit_s(tmp_path: Path) -> None:
    credentials = re.findall(
        r"^LoadCredential=([^:]+):/etc/sbg-exporter/\1$", (DEPLOY / "tokens.conf").read_text(), re.MULTILINE
    )
    for name in credentials:
        (tmp_path / name).write_text(DEMO_TOKEN)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "STATE_DIRECTORY": "/var/lib/sbg-exporter"}

    configuration = load({"config": str(DEPLOY / "config.toml")}, environ, tmp_path)

    assert configuration.state_file == Path("/var/lib/sbg-exporter/state.db")
    assert len(configuration.accounts) == len(credentials) == 1
    assert configuration.accounts[0].token.read().reveal() == DEMO_TOKEN


def test_it_is_installed_in_ten_lines_at_most() -> None:
    assert len(lines_of("install")) <= 10


# ----------------------------------------------------------------------------------------------------------- for real

SOURCE: Final = "/usr/src/sbg-exporter"
DROP_IN: Final = "/etc/systemd/system/sbg-exporter.service.d/quick.conf"
QUICK: Final = "[Service]\\nWatchdogSec=10s\\nRestartSec=1s\\n"
"""So that the test need not wait for a minute; but long enough for a daemon on a busy machine."""
PLATFORM: Final = "127.0.0.1:8089"
CONFIG: Final = "/etc/sbg-exporter/config.toml"
USER: Final = "analyst"
AS_USER: Final = f"su --whitelist-environment=PIP_NO_INDEX,PIP_FIND_LINKS - {USER} -c"
ANOTHER_TOKEN: Final = "fedcba9876543210fedcba9876543210"
BOOTS_WITHIN: Final = 120.0
LOOK: Final = 0.2
PACKAGES: Final = "systemd,systemd-sysv,dbus,libnss-systemd,libpam-systemd,polkitd,python3-venv,curl"
PYTHON: Final = "3.11"
"""Bookworm's."""
SILENT_SHARE: Final = """\
import ctypes, os, signal, sys

action, folder = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
if action == "mount":
    # Nobody reads the requests for files, not even the first one of the kernel itself.
    options = f"fd={os.open('/dev/fuse', os.O_RDWR)},rootmode=40000,user_id=0,group_id=0,allow_other"
    failed = libc.mount(b"share", folder.encode(), b"fuse", 0, options.encode())
else:
    detach = 2  # umount itself might look at the folder, and hang
    failed = libc.umount2(folder.encode(), detach)
if failed:
    raise OSError(ctypes.get_errno(), "cannot " + action)
if action == "mount":
    signal.pause()
"""
"""Covers a folder with a file system that never answers; what opens a file there waits until it is killed."""
CONNECTION: Final = 7
"""curl's exit code where nobody listens."""
HTTP_ERROR: Final = 22
"""curl's exit code for an answer such as 503; it has another where there is none."""


class Machine:
    """A machine that runs: what is typed on it, and what its daemon shows."""

    def __init__(self, leader: int) -> None:
        self._enter = ["nsenter", "--target", str(leader), "--all", "--wd=/", "env", "-i"]
        self._enter += ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/wheels"]
        self._counters = MonotonicCounters()

    def attempt(self, line: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """*line*, run by root in the checkout's folder, whatever comes of it; *typed* is its standard input."""
        shell = [*self._enter, "sh", "-c", f"cd {SOURCE}; {line}"]
        return subprocess.run(shell, input=typed, capture_output=True, text=True, check=False)

    def run(self, line: str, typed: str = "") -> str:
        """What *line* prints; it must succeed."""
        done = self.attempt(line, typed)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}\n{self.journal()}"
        return done.stdout

    def follow(self, block: str, token: str) -> str:
        """What the last line of the README's block of that name prints."""
        printed = ""
        for line in lines_of(block):
            printed = self.run(line, f"{token}\n" if "/dev/stdin" in line else "")
        return printed

    def unit(self) -> Mapping[str, str]:
        """What systemd knows of the unit."""
        shown = self.run("systemctl show sbg-exporter").splitlines()
        return dict(line.split("=", 1) for line in shown if "=" in line)

    def journal(self) -> str:
        """All that the unit's processes wrote, and what systemd wrote of them."""
        return self.attempt("journalctl --no-pager -u sbg-exporter").stdout

    def submit(self, failed: int) -> None:
        """A job that ends at once, with so many failed files of nine."""
        job = f'{{"total": 9, "failed": {failed}, "queued": 0, "resolving": 0, "running": 0}}'
        self.run(f"curl -fsS http://{PLATFORM}/simulator/jobs -d '{job}'")

    def scrape(self) -> Scrape | None:
        """The metrics, none of whose counters fell; None while nobody serves them."""
        done = self.attempt(f"curl -fsS -H 'Accept: {OPENMETRICS}' localhost:10037/metrics")
        return self._counters.see(Scrape(done.stdout)) if done.returncode == 0 else None

    def look_anew(self) -> None:
        """Counters may be lower from now on: a backup was put back."""
        self._counters = MonotonicCounters()

    def await_counted(self, jobs: int, failed: int) -> Scrape:
        """A scrape with exactly these counts, of an account that is up."""
        seen: list[object] = [None]

        def exact() -> Scrape | None:
            if (scrape := self.scrape()) is None:
                return None
            of_copies = {"account": "cavatica", "operation": "copy"}
            names = "sbg_jobs_submitted_total", "sbg_files_failed_total"
            seen[0] = [scrape.value("sbg_up", account="cavatica"), *(scrape.value(name, **of_copies) for name in names)]
            return scrape if seen[0] == [1, jobs, failed] else None

        return eventually(exact, every=LOOK, describe=lambda: f"{seen[0]}\n{self.journal()}")

    def await_unit(self, **wanted: str) -> Mapping[str, str]:
        """The unit, once it has these properties."""

        def there() -> Mapping[str, str] | None:
            return unit if wanted.items() <= (unit := self.unit()).items() else None

        return eventually(there, every=LOOK, describe=self.journal)


@contextmanager
def booted() -> Iterator[Machine]:
    """A machine that has just booted, and is switched off in the end."""
    with subprocess.Popen(
        sandboxed(
            *(tool("systemd-nspawn"), "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe"),
            *(f"--directory={debian()}", "--volatile=overlay", "--private-network", "--bind=/dev/fuse"),
            *(f"--bind-ro={REPOSITORY}:{SOURCE}", f"--bind-ro={packages()}:/wheels"),
            f"--machine=sbg-exporter-{os.getpid()}",
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as sandbox:
        try:
            machine = Machine(eventually(lambda: init(sandbox.pid), every=LOOK))
            eventually(
                lambda: machine.attempt("systemctl is-system-running").stdout == "running\n",
                within=BOOTS_WITHIN,
                every=LOOK,
                describe=lambda: machine.attempt("systemctl --failed; systemctl list-jobs"),
            )
            yield machine
            machine.run("systemctl poweroff")
            sandbox.communicate(timeout=BOOTS_WITHIN)
            assert sandbox.returncode == 0
        finally:
            sandbox.kill()


def init(sandbox: int) -> int | None:
    """The machine's first process, once systemd-nspawn, which the sandbox becomes, has started it."""
    for nspawn in children(sandbox, "systemd-nspawn"):
        for found in children(nspawn, "systemd"):
            return found
    return None


def children(pid: int, name: str) -> list[int]:
    """The children of a process that have this name."""
    with suppress(FileNotFoundError, ProcessLookupError):  # one of them has ended meanwhile
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in found if Path(f"/proc/{child}/comm").read_text() == f"{name}\n"]
    return []


def debian() -> Path:
    """The root of a Debian with systemd and Python; made once, in half a minute."""

    def made(root: Path) -> None:
        command = [tool("mmdebstrap"), "--variant=minbase", f"--include={PACKAGES}", "--format=directory"]
        code, told = said(sandboxed(*command, "bookworm", str(root)))
        assert code == 0, told

    return kept("machine", version(PACKAGES), made)


def packages() -> Path:
    """What pip installs there: what the lock says, and what builds the project. Fetched once for each of both."""
    lock = REPOSITORY / "requirements.lock"
    builds = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]

    def made(wheels: Path) -> None:
        for wanted in (["--require-hashes", "-r", str(lock)], builds):
            fetch = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "-d", str(wheels)]
            code, told = said([*fetch, "--only-binary=:all:", f"--python-version={PYTHON}", *wanted])
            assert code == 0, told

    return kept("wheels", version(lock.read_bytes(), repr(builds).encode()), made)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with booted() as running:
        yield running


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.tools("root", "systemd-nspawn", "mmdebstrap")
def test_on_a_machine_that_boots_it_is_installed_watched_over_upgraded_and_removed(machine: Machine) -> None:
    """The README's lines, with an end of the world between them; the counters are exact all along and never fall."""
    install(machine)
    of_its_own(machine)
    machine.submit(failed=4)
    machine.await_counted(jobs=1, failed=4)

    hung(machine)
    machine.await_counted(jobs=2, failed=7)

    stuck(machine)
    machine.await_counted(jobs=3, failed=9)

    machine.follow("upgrade", DEMO_TOKEN)
    machine.submit(failed=1)
    machine.await_counted(jobs=4, failed=10)

    rotate(machine)
    machine.await_counted(jobs=5, failed=15)

    reloaded(machine)
    machine.await_counted(jobs=5, failed=15)

    misconfigured(machine)
    machine.await_counted(jobs=5, failed=15)

    put_back(machine)
    moved(machine)

    ended_cleanly(machine)
    remove(machine)


def install(machine: Machine) -> None:
    """As the README says it, with the simulated platform in place of the real one."""
    *before, reload, start, scrape = lines_of("install")
    for line in before:
        machine.run(line, f"{DEMO_TOKEN}\n" if "/dev/stdin" in line else "")
    machine.run(f"systemd-run -q --unit=platform {PROGRAM} simulate --listen {PLATFORM} --jobs 0 --rate 0")
    machine.run(f"sed -i -e '1i poll_interval = 1' -e 's#https://.*/v2#http://{PLATFORM}/v2#' {CONFIG}")
    machine.run(f"printf '{QUICK}' > {DROP_IN}")
    eventually(lambda: machine.attempt(f"{PROGRAM} check --config {CONFIG}").returncode == 0, every=LOOK)

    machine.run(reload)
    machine.run(start)

    unit = machine.unit()
    assert (unit["ActiveState"], unit["SubState"], unit["NRestarts"]) == ("active", "running", "0")
    assert machine.run(scrape) == 'sbg_up{account="cavatica"} 1\n'
    machine.await_unit(StatusText="1 of 1 account up")


def of_its_own(machine: Machine) -> None:
    """A user without rights, in a world where it can write nothing but its state; and all metrics are there."""
    process = machine.unit()["MainPID"]
    status = dict(line.split(":\t", 1) for line in machine.run(f"cat /proc/{process}/status").splitlines())
    assert int(status["Uid"].split()[0]) >= 61184, "not one of systemd's dynamic users"
    assert (status["CapEff"], status["CapBnd"], status["NoNewPrivs"], status["Seccomp"]) == (
        "0" * 16,
        "0" * 16,
        "1",
        "2",
    )
    assert machine.run("stat -c '%a %U' /var/lib/private/sbg-exporter /var/lib/private/sbg-exporter/state.db") == (
        "700 sbg-exporter\n600 sbg-exporter\n"
    )
    inside = f"nsenter --target {process} --mount"
    for folder in ("/", "/etc", "/usr", "/opt/sbg-exporter", "/var/lib"):
        assert "Read-only" in machine.attempt(f"{inside} touch {folder}/written").stderr
    scrape = machine.await_counted(jobs=0, failed=0)
    for name in ("process_resident_memory_bytes", "process_start_time_seconds", "process_open_fds"):
        assert scrape.value(name), "ProcSubset=pid would hide it"
    for token in (DEMO_TOKEN, ANOTHER_TOKEN):
        assert token not in machine.run("systemctl show sbg-exporter; cat /etc/systemd/system/sbg-exporter.service.d/*")


def hung(machine: Machine) -> None:
    """Stopped as if it hung; meanwhile a job fails, and systemd kills it and starts it again."""
    process = machine.unit()["MainPID"]
    machine.run(f"kill -STOP {process}")
    machine.submit(failed=3)

    unit = machine.await_unit(NRestarts="1", ActiveState="active")

    assert unit["MainPID"] != process
    journal = machine.journal()
    assert "Watchdog timeout" in journal
    assert "Failed with result 'watchdog'" in journal
    assert "Fatal Python error: Aborted" in journal, "it tells where each thread was"


def stuck(machine: Machine) -> None:
    """A poller hangs while all else goes on: its token is on a network file system whose server is gone."""
    share, token = "/run/share", "/run/share/cavatica.token"
    machine.run(f"""sed -i -e '1i request_timeout = 1' -e 's#"cavatica.token"#"{token}"#' {CONFIG}""")
    machine.run(f"mkdir {share}; echo {DEMO_TOKEN} > {token}; chmod 644 {token}; systemctl restart sbg-exporter")
    machine.await_counted(jobs=2, failed=7)
    before = machine.unit()
    machine.run("cat > /run/silent_share.py", typed=SILENT_SHARE)
    machine.run(f"systemd-run -q --unit=share python3 /run/silent_share.py mount {share}")
    machine.submit(failed=2)

    eventually(
        lambda: machine.attempt("curl -fsS localhost:10037/-/healthy").returncode == HTTP_ERROR,
        within=120,
        every=LOOK,
        describe=machine.journal,
    )
    withheld = re.compile("watchdog.ping_skipped.*account cavatica has not moved for")
    eventually(lambda: withheld.search(machine.journal()), every=LOOK, describe=machine.journal)

    machine.run(f"python3 /run/silent_share.py unmount {share}")  # the hanging poller still waits for it
    unit = machine.await_unit(NRestarts=str(int(before["NRestarts"]) + 1), ActiveState="active")
    assert unit["MainPID"] != before["MainPID"]
    machine.run("systemctl stop share")
    machine.run(f"""sed -i -e 1d -e 's#"{token}"#"cavatica.token"#' {CONFIG}; systemctl restart sbg-exporter""")


def rotate(machine: Machine) -> None:
    """The old token is refused; a job fails while nobody can see it; the new one comes by the README's lines."""
    machine.run(f"""curl -fsS http://{PLATFORM}/simulator/token -d '{{"token": "{ANOTHER_TOKEN}"}}'""")
    machine.await_unit(StatusText="0 of 1 account up; down: cavatica")
    machine.submit(failed=5)

    machine.follow("rotate", ANOTHER_TOKEN)

    assert DEMO_TOKEN not in machine.journal()
    assert ANOTHER_TOKEN not in machine.journal()


def reloaded(machine: Machine) -> None:
    """The process stays, a valid configuration applies, and a wrong one changes nothing but the log and a metric."""
    process, interval = machine.unit()["MainPID"], 'sbg_exporter_poll_interval_seconds{account="cavatica"}'
    metrics = "curl -fsS localhost:10037/metrics"
    machine.run(f"sed -i 's/^poll_interval = 1$/poll_interval = 2/' {CONFIG}")
    machine.follow("reload", "")
    eventually(lambda: f"{interval} 2\n" in machine.run(metrics), every=LOOK, describe=machine.journal)

    machine.run(f"sed -i '1i pol_interval = 1' {CONFIG}")
    machine.follow("reload", "")
    rejected = "sbg_exporter_config_last_reload_successful 0\n"
    eventually(lambda: rejected in machine.run(metrics), every=LOOK, describe=machine.journal)
    assert "pol_interval: unknown key; did you mean poll_interval?" in machine.journal()

    machine.run(f"sed -i -e 1d -e 's/^poll_interval = 2$/poll_interval = 1/' {CONFIG}")
    machine.follow("reload", "")
    accepted = "sbg_exporter_config_last_reload_successful 1\n"
    eventually(lambda: accepted in machine.run(metrics), every=LOOK, describe=machine.journal)
    unit = machine.await_unit(ActiveState="active", StatusText="1 of 1 account up")
    assert (unit["MainPID"], unit["ReloadResult"]) == (process, "success")


def misconfigured(machine: Machine) -> None:
    """A wrong configuration, and a token that is not there, are told once and not tried again."""
    token = "/etc/sbg-exporter/cavatica.token"
    machine.run(f"sed -i '1i pol_interval = 1' {CONFIG}")
    assert machine.attempt("systemctl restart sbg-exporter").returncode == 1
    unit = machine.await_unit(ActiveState="failed")
    assert (unit["ExecMainStatus"], unit["NRestarts"]) == ("2", "0")
    assert "pol_interval: unknown key; did you mean poll_interval?" in machine.journal()

    machine.run(f"sed -i 1d {CONFIG}; mv {token} {token}.away")
    assert machine.attempt("systemctl restart sbg-exporter").returncode == 1
    assert machine.await_unit(ActiveState="failed")["NRestarts"] == "0"

    machine.run(f"mv {token}.away {token}; systemctl restart sbg-exporter")


def put_back(machine: Machine) -> None:
    """A backup that root took while the daemon ran takes the state file's place, and the daemon counts on from it."""
    machine.follow("backup", "")
    machine.submit(failed=2)
    machine.await_counted(jobs=6, failed=17)

    machine.follow("restore", "")

    machine.look_anew()
    machine.await_counted(jobs=6, failed=17)
    machine.run("rm /root/sbg-exporter.db")


def moved(machine: Machine) -> None:
    """By root's hands the ledger comes to a machine as it is before the daemon's first start; no counter is new."""
    machine.follow("export", "")
    machine.run("systemctl clean --what=state sbg-exporter")
    machine.submit(failed=3)

    machine.follow("import", "")

    machine.await_counted(jobs=7, failed=20)
    assert machine.journal().count("ledger.created") == 1
    assert machine.run("stat -c '%a %U' /var/lib/private/sbg-exporter/state.db") == "600 sbg-exporter\n"


def ended_cleanly(machine: Machine) -> None:
    """By itself, also while the platform is silent; systemd would kill it after a while, and say so in its result."""
    machine.run(f"""curl -fsS http://{PLATFORM}/simulator/faults -d '{{"kind": "hang", "times": 1000}}'""")
    machine.run("sleep 2")  # until it hangs in a request
    machine.run("systemctl stop sbg-exporter")

    unit = machine.unit()
    assert (unit["ActiveState"], unit["Result"], unit["ExecMainStatus"]) == ("inactive", "success", "0")


def remove(machine: Machine) -> None:
    """By the README's lines; nothing is left."""
    machine.follow("uninstall", "")

    left = "find / -xdev -name '*sbg-exporter*' -not -path '/proc/*' -not -path /usr/src/sbg-exporter"
    assert machine.run(left) == ""
    assert machine.unit()["LoadState"] == "not-found"
    assert machine.attempt("getent passwd sbg-exporter").returncode != 0
    assert machine.scrape() is None


# ------------------------------------------------------------------------------------------------------- without root


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.tools("root", "systemd-nspawn", "mmdebstrap")
def test_on_a_machine_that_boots_a_user_without_root_installs_it_and_it_goes_on_when_he_has_left(
    machine: Machine,
) -> None:
    """The lines of both READMEs, all of them run by that user; the simulated platform is root's."""

    def by_user(line: str, typed: str = "") -> str:
        return machine.run(f"{AS_USER} {shlex.quote(f'cd {SOURCE}; {line}')}", typed)

    machine.run(f"useradd --create-home --shell /bin/sh {USER}")
    *install, init, _ = lines_after("## Monitor your account\n", REPOSITORY / "README.md")
    for line in install:
        by_user(line)
    program = f"/home/{USER}/.local/share/sbg-exporter/bin/sbg-exporter"
    machine.run(f"systemd-run -q --unit=platform {program} simulate --listen {PLATFORM} --jobs 0 --rate 0")
    command = init.partition("#")[0]
    eventually(lambda: machine.attempt(f"curl -fsS http://{PLATFORM}/simulator").returncode != CONNECTION, every=LOOK)
    by_user(f"{command} --platform http://{PLATFORM}/v2 --account cavatica", f"{DEMO_TOKEN}\n")
    by_user("sed -i '1i poll_interval = 1' ~/.config/sbg-exporter/config.toml")

    *start, scrape = lines_of("user")
    for line in start:
        by_user(line)

    assert by_user(scrape) == 'sbg_up{account="cavatica"} 1\n'
    machine.submit(failed=4)
    machine.await_counted(jobs=1, failed=4)
    show = "systemctl --user show sbg-exporter -P"
    process = by_user(f"{show} MainPID").strip()
    status = dict(line.split(":\t", 1) for line in machine.run(f"cat /proc/{process}/status").splitlines())
    assert (status["NoNewPrivs"], status["Seccomp"], status["Uid"].split()[0]) == ("1", "2", "1000")
    eventually(lambda: by_user(f"{show} StatusText") == "1 of 1 account up\n", every=LOOK)

    machine.run(f"kill -9 {process}")
    machine.submit(failed=3)
    machine.await_counted(jobs=2, failed=7)  # by another process, after 10 seconds, with nobody logged in
    by_user("systemctl --user reload sbg-exporter")
    assert [by_user(f"{show} {each}") for each in ("NRestarts", "ReloadResult")] == ["1\n", "success\n"]

    operations = (REPOSITORY / "deploy" / "OPERATIONS.md").read_text(encoding="utf-8")
    [mail] = re.findall(r"<!-- mail-unit -->\n\n```crontab\nMAILTO=.*\n(?:\S+ ){5}(.+)\n```", operations)
    jobs = re.findall('"event": "job.finished", .*"failed": (\\d)', by_user(f"{mail} || true"))
    assert jobs == ["4", "3"]
    machine.submit(failed=0)
    machine.submit(failed=2)
    machine.await_counted(jobs=4, failed=9)
    assert re.findall('"event": "([^"]+)"', by_user(f"{mail} || true")) == ["job.finished"]
    assert by_user(f"{mail} || true") == ""

    for line in [*lines_of("user-uninstall"), *lines_of("uninstall", REPOSITORY / "deploy" / "OPERATIONS.md")]:
        by_user(line)
    assert machine.run(f"find /home/{USER} -name '*sbg-exporter*'") == ""
    assert machine.scrape() is None

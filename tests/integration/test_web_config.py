"""TLS and authentication of the daemon: start, reload, and clients that exhaust descriptors."""

import contextlib
import json
import re
import resource
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import bcrypt
import httpx
import pytest

from exporter.simulator.server import QUIET, RunningSimulator, running
from tests.background import BackgroundTask
from tests.certificates import Authority
from tests.harness import Account, Daemon, Installation, fast
from tests.waiting import PATIENCE, eventually

SPEED: Final = 20
SILENT_CLIENTS: Final = 2000
RIGHT: Final = ("prometheus", "right")


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4, prefix=b"2a")).decode()


@pytest.fixture(scope="module")
def simulator() -> Iterator[RunningSimulator]:
    with running(fast(QUIET, SPEED)) as served:
        yield served


class Place:
    """An installation with a certificate, a user, and a web configuration file that serves them."""

    def __init__(self, folder: Path, simulator: RunningSimulator) -> None:
        self.authority = Authority(folder / "certificates")
        self.issued = self.authority.issue("server")
        self.file = folder / "certificates" / "web-config.yml"
        self.write()
        self.installed = Installation(
            folder / "place", Account.at(simulator), speed=SPEED, web_config_file="../certificates/web-config.yml"
        )

    def write(self, password: str = RIGHT[1], more: str = "") -> None:
        """Replace the web configuration file atomically."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(
            f"tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n{more}"
            f"basic_auth_users:\n  prometheus: {hashed(password)}\n"
        )
        fresh.rename(self.file)

    @property
    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority.certificate)

    def get(self, daemon: Daemon, path: str = "/metrics", auth: tuple[str, str] | None = RIGHT) -> httpx.Response:
        """One request on a connection of its own."""
        url = daemon.url.replace("http://", "https://") + path
        return httpx.get(url, auth=auth, verify=self.trusting, trust_env=False, timeout=PATIENCE)


@contextlib.contextmanager
def placed(folder: Path, simulator: RunningSimulator) -> Iterator[tuple[Place, Daemon]]:
    place = Place(folder, simulator)
    with place.installed:
        daemon = place.installed.start()
        eventually(lambda: place.get(daemon, "/-/ready", None).status_code == 200, describe=daemon.output)
        yield place, daemon


@pytest.mark.tools("openssl")
def test_the_daemon_serves_over_tls_to_users_with_a_password(tmp_path: Path, simulator: RunningSimulator) -> None:
    with placed(tmp_path, simulator) as (place, daemon):
        [started] = daemon.said("daemon.started")
        assert (started["scheme"], started["authentication"]) == ("https", "password")

        assert place.get(daemon).status_code == 200
        assert place.get(daemon, auth=("prometheus", "wrong")).status_code == 401
        assert place.get(daemon, auth=None).status_code == 401
        assert place.get(daemon, "/-/healthy", None).status_code == 200
        assert daemon.stop() == 0


@pytest.mark.tools("openssl")
def test_changed_files_apply_without_a_restart(tmp_path: Path, simulator: RunningSimulator) -> None:
    with placed(tmp_path, simulator) as (place, daemon):
        place.write("renewed")
        eventually(lambda: place.get(daemon, auth=("prometheus", "renewed")).status_code == 200)
        assert place.get(daemon).status_code == 401

        old, place.authority = place.trusting, Authority(tmp_path / "renewed")
        renewed = place.authority.issue("server")
        shutil.copy(renewed.key, place.issued.key)
        shutil.copy(renewed.cert, place.issued.cert)

        def renewal_applies() -> bool:
            with contextlib.suppress(httpx.ConnectError):
                return place.get(daemon, auth=("prometheus", "renewed")).status_code == 200
            return False

        eventually(renewal_applies, describe=daemon.output)
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(daemon.url.replace("http://", "https://"), verify=old, trust_env=False)
        assert len(daemon.said("web_config.reloaded")) >= 2


@pytest.mark.tools("openssl")
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("tls_server_config: [", "invalid YAML in line 1"),
        ("tls_server_config: {cert_file: absent, key_file: server.key}", "cert_file: cannot read it"),
        ("", "turning off TLS and basic authentication needs a restart"),
        ("basic_auth_users: {a: no-hash}", "expected a bcrypt hash"),
    ],
)
@pytest.mark.fault(
    "the web configuration becomes invalid while it runs",
    action="keeps the previous one",
    shown="one `web_config.invalid`",
    recovery="a valid file, without a restart",
)
def test_an_invalid_file_keeps_the_previous_one_and_is_logged_once(
    tmp_path: Path, simulator: RunningSimulator, broken: str, reason: str
) -> None:
    with placed(tmp_path, simulator) as (place, daemon):

        def logged() -> list[object]:
            return [event for event in daemon.said("web_config.invalid") if reason in str(event["reason"])]

        place.file.write_text(broken)
        eventually(logged, describe=daemon.output)
        assert place.get(daemon).status_code == 200
        assert place.get(daemon, auth=None).status_code == 401
        place.write("repaired")
        eventually(lambda: place.get(daemon, auth=("prometheus", "repaired")).status_code == 200)

        eventually(lambda: daemon.said("web_config.reloaded"), describe=daemon.output)
        assert len(logged()) == 1


@pytest.mark.parametrize("command", [("run",), ("check",), ("check", "--offline"), ("once",)])
@pytest.mark.fault(
    "an invalid web configuration at the start",
    action="exits 2",
    shown="a line for each problem",
    recovery="a valid file",
)
def test_an_invalid_web_config_is_exit_2_with_a_line_per_problem(
    tmp_path: Path, simulator: RunningSimulator, command: tuple[str, ...]
) -> None:
    with Installation(tmp_path / "place", Account.at(simulator), web_config_file="web.yml") as place:
        (place.folder / "web.yml").write_text("tls_server_config: {cert_file: a}\nbasic_auth_users: {a: secret}\n")
        ended = place.start(*command, "--config", str(place.config))

        assert ended.end() == 2
        assert [line.partition("web.yml: ")[2] for line in ended.lines] == [
            "tls_server_config.key_file: missing; set the private key of the certificate\n",
            "basic_auth_users.#1: expected a bcrypt hash, as `htpasswd -nBC 10 USER` prints it\n",
        ]


@pytest.mark.fault(
    "passwords without TLS",
    action="serves",
    shown="a warning at the start",
    recovery="a certificate",
)
def test_passwords_over_plain_http_are_a_warning(tmp_path: Path, simulator: RunningSimulator) -> None:
    with Installation(tmp_path / "place", Account.at(simulator), web_config_file="web.yml") as place:
        (place.folder / "web.yml").write_text(f"basic_auth_users: {{prometheus: {hashed('right')}}}\n")
        checked = place.start("check", "--offline", "--config", str(place.config))
        assert checked.end() == 0
        assert "web.yml: basic_auth_users without tls_server_config: passwords are sent unencrypted" in checked.stdout

        with place.running() as daemon:
            [warning] = daemon.said("web_config.warning")
            [started] = daemon.said("daemon.started")
            assert "passwords are sent unencrypted" in str(warning["reason"])
            assert (started["scheme"], started["authentication"]) == ("http", "password")


# ---- descriptors ----


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Let this process have as many clients as the test needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SILENT_CLIENTS + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} file descriptors, may have {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted) if soft >= 0 else soft, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.tools("openssl")
@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.parametrize(("descriptors", "silent"), [(64, 60), (256, SILENT_CLIENTS)])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.fault(
    "2000 silent clients, or 60 where 64 descriptors are allowed, with and without TLS",
    action="serves scrapes, and polls on",
    shown="no `http.accept_failed`",
    recovery="none needed",
)
def test_silent_clients_keep_out_neither_scrapes_nor_polls(
    tmp_path: Path, simulator: RunningSimulator, descriptors: int, silent: int, *, tls: bool
) -> None:
    place = Place(tmp_path, simulator)
    place.installed.descriptors = descriptors
    if not tls:
        place.file.write_text("")

    def polls(daemon: Daemon) -> float:
        page = place.get(daemon).text if tls else httpx.get(f"{daemon.url}/metrics", trust_env=False).text
        [value] = re.findall(r'^sbg_exporter_polls_total\{account="sim",result="success"\} (\S+)', page, re.MULTILINE)
        return float(value)

    with place.installed, contextlib.ExitStack() as clients:

        def connect(number: int) -> None:
            for _ in range(number):
                clients.enter_context(socket.create_connection((host, int(port)), PATIENCE))

        daemon = place.installed.start()
        host, port = daemon.url.removeprefix("http://").split(":")
        eventually(lambda: polls(daemon) >= 1, describe=daemon.output)
        if silent < SILENT_CLIENTS:  # so few descriptors are enough for clients that are there already
            connect(silent)
        scrapes = clients.enter_context(BackgroundTask(lambda: polls(daemon), every=0.01))
        if silent == SILENT_CLIENTS:  # these come while it is scraped
            connect(silent)
        scrapes.await_rounds(5)
        before = polls(daemon)
        eventually(lambda: polls(daemon) > before + 1)

        assert not [line for line in daemon.lines if not line.startswith("{")], daemon.output()
        assert not daemon.said("http.accept_failed")


@pytest.mark.fault(
    "descriptors run out",
    action="accepts again when there are some",
    shown="one `http.accept_failed`",
    recovery="descriptors, without a restart",
)
def test_running_out_of_descriptors_is_one_event_and_passes(tmp_path: Path, simulator: RunningSimulator) -> None:
    with Installation(tmp_path / "place", Account.at(simulator), speed=SPEED) as place, place.running() as daemon:
        host, port = daemon.url.removeprefix("http://").split(":")
        used = len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))
        limit = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (used + 2, limit[1]))
        with contextlib.ExitStack() as clients:
            for _ in range(60):
                clients.enter_context(socket.create_connection((host, int(port)), PATIENCE))
            eventually(lambda: daemon.said("http.accept_failed"), describe=daemon.output)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limit)

        assert daemon.get("/metrics").status_code == 200
        [event] = daemon.said("http.accept_failed")
        assert event["reason"] == "Too many open files"
        assert all(json.loads(line) for line in daemon.lines)


def test_the_soft_limit_is_raised_to_the_hard_one(tmp_path: Path, simulator: RunningSimulator) -> None:
    with Installation(tmp_path / "place", Account.at(simulator)) as place:
        place.descriptors = 512
        with place.running() as daemon:
            assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE) == (512, 512)
    with Installation(tmp_path / "soft", Account.at(simulator)) as place:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with place.running() as daemon:
            assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE) == (hard, hard)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)

"""A token grants all of a user's rights. Only the platform that it belongs to ever receives it."""

import base64
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exporter.simulator.faults import Fault, FaultKind, Malformed
from exporter.simulator.scripts import JobScript
from exporter.simulator.server import QUIET, RunningSimulator, running
from tests.harness import OPENMETRICS, Account, Daemon, Installation, Scrape
from tests.recording_server import RecordingServer
from tests.waiting import eventually

TOKEN = "c0ffee00deadbeef5ec2e75ec2e75ec2"
FRESH = "feedface0ddba115ec2e75ec2e75ec2e"
PASSWORD = "proxy-pass-5ec2e7"
SHOWN_AS = (
    TOKEN,
    FRESH,
    PASSWORD,
    base64.b64encode(TOKEN.encode()).decode().rstrip("="),
    base64.b64encode(f"proxy-user:{PASSWORD}".encode()).decode().rstrip("="),
)
"""The secrets, also as encoded in headers."""
FAST = JobScript(total=5, failed=1, queued=0, resolving=0, running=0)
LOUD: dict[str, Any] = {"log_level": "debug", "request_timeout": 0.3}


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running(replace(QUIET, token=TOKEN, rate_limit=100_000)) as served:
        yield served


def pages(daemon: Daemon) -> str:
    """Return everything that the daemon serves."""
    return "".join(
        answer.text + str(answer.headers)
        for answer in (
            daemon.get("/metrics"),
            daemon.get("/metrics", accept=OPENMETRICS),
            daemon.get("/"),
            daemon.get("/-/ready"),
            daemon.get("/-/healthy"),
            daemon.get("/nowhere"),
        )
    )


def state(place: Installation) -> bytes:
    """Return every byte in the daemon's files."""
    files = [file for file in place.folder.rglob("*") if file.name.startswith("state.db")]
    assert files
    return b"".join(file.read_bytes() for file in files)


def assert_nothing_leaks(place: Installation, daemon: Daemon, seen: str = "") -> None:
    kept = state(place) if place.state.exists() else b""
    for secret in SHOWN_AS:
        assert secret not in daemon.output() + seen
        assert secret.encode() not in kept


@pytest.mark.fault(
    "every fault of the platform",
    action="masks the token",
    shown="no token",
    recovery="none needed",
)
def test_no_fault_reveals_a_token(tmp_path: Path) -> None:
    """A platform for each fault, polled at once."""
    with ExitStack() as stack:
        simulators = {kind: stack.enter_context(running(replace(QUIET, token=TOKEN))) for kind in FaultKind}
        accounts = [Account.at(simulator, kind) for kind, simulator in simulators.items()]
        place = stack.enter_context(Installation(tmp_path / "place", *accounts, **LOUD))
        daemon = stack.enter_context(place.running())
        for kind, simulator in simulators.items():
            simulator.platform.submit(FAST)
            simulator.platform.queue(Fault(kind=kind, record=Malformed.ID_ENDLESS), times=1000)
        daemon.scrape_when(lambda now: all(polls(now, kind) > 1 or down(now, kind) for kind in FaultKind))
        eventually(lambda: all(simulator.platform.waiting_faults() < 1000 for simulator in simulators.values()))
        seen = pages(daemon)

        refused = simulators[FaultKind.UNAUTHORIZED].platform
        refused.forget_faults()
        refused.rotate(FRESH)
        place.write_token(FaultKind.UNAUTHORIZED, FRESH)
        daemon.scrape_when(lambda now: now.value("sbg_up", account=FaultKind.UNAUTHORIZED))
        seen += pages(daemon)
        assert_nothing_leaks(place, daemon, seen)
        assert daemon.stop() == 0

    assert {event["result"] for event in daemon.said("poll.failed")} == {
        "unreachable",
        "unauthorized",
        "rate_limited",
        "maintenance",
        "bad_answer",
    }
    assert_nothing_leaks(place, daemon, seen)


def polls(scrape: Scrape, account: str) -> float:
    return scrape.total("sbg_exporter_polls_total", account=account)


def down(scrape: Scrape, account: str) -> bool:
    return scrape.value("sbg_up", account=account) == 0


@pytest.mark.fault(
    "a redirect to another host",
    action="does not follow it",
    shown="result `bad_answer`; no request to that host",
    recovery="the platform answers itself",
)
def test_redirect_sends_no_token_to_another_host(simulator: RunningSimulator, tmp_path: Path) -> None:
    with (
        RecordingServer(200) as elsewhere,
        Installation(tmp_path / "place", Account.at(simulator), **LOUD) as place,
        place.running() as daemon,
    ):
        simulator.platform.queue(Fault(kind=FaultKind.REDIRECT, location=elsewhere.origin), times=100)
        daemon.await_polls("sim", result="bad_answer")

        assert elsewhere.requests == []
        assert_nothing_leaks(place, daemon, pages(daemon))


@pytest.mark.fault(
    "the platform repeats the token in an error",
    action="masks it",
    shown="`[masked]` in its place",
    recovery="none needed",
)
def test_repeated_token_is_masked_in_logs_and_metrics(tmp_path: Path) -> None:
    """Some proxies and gateways repeat the header that they reject."""

    def echo(headers: Mapping[str, str]) -> str:
        return f'{{"status": 400, "code": 90000, "message": "bad token {headers["x-sbg-auth-token"]} in header"}}'

    with (
        RecordingServer(400, echo) as platform,
        Installation(tmp_path / "place", Account("sim", f"{platform.origin}/v2", TOKEN), **LOUD) as place,
        place.running() as daemon,
    ):
        request = platform.requests[0]
        seen = pages(daemon)
        [failed] = daemon.said("poll.failed")

        assert (request.path, request.headers["x-sbg-auth-token"]) == ("/v2/user", TOKEN)
        assert "bad token ********" in str(failed["reason"])
        assert_nothing_leaks(place, daemon, seen)


def test_proxy_password_is_sent_to_the_proxy_only(tmp_path: Path) -> None:
    with RecordingServer(407) as proxy:
        url = proxy.origin.replace("http://", f"http://proxy-user:{PASSWORD}@")
        account = Account(
            "sim", "http://platform.invalid/v2", TOKEN, {"proxy": url, "allow_plain_http": True, "division": "ours"}
        )
        with Installation(tmp_path / "place", account, **LOUD) as place, place.running() as daemon:
            assert daemon.scrape().value("sbg_up", account="sim") == 0
            assert SHOWN_AS[-1] in str(proxy.requests[0].headers["proxy-authorization"])
            assert_nothing_leaks(place, daemon, pages(daemon))


@pytest.mark.fault(
    "the proxy is down",
    action="polls on",
    shown="its name, without its password",
    recovery="the proxy is back",
)
def test_a_proxy_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    account = Account(
        "sim", "https://platform.invalid/v2", TOKEN, {"proxy": f"http://proxy-user:{PASSWORD}@127.0.0.1:1"}
    )
    with Installation(tmp_path / "place", account, **LOUD) as place, place.running() as daemon:
        assert daemon.await_event("poll.failed")
        assert_nothing_leaks(place, daemon, pages(daemon))


@pytest.mark.fault(
    "an unexpected error in a poll",
    action="ends the poll and logs the traceback",
    shown="result `error`; no token",
    recovery="the next poll",
)
def test_a_crash_of_a_poll_has_a_traceback_and_no_token(simulator: RunningSimulator, tmp_path: Path) -> None:
    """A table is dropped under the running daemon, which causes an unexpected error."""
    with Installation(tmp_path / "place", Account.at(simulator), **LOUD) as place, place.running() as daemon:
        daemon.scrape_when(lambda now: now.value("sbg_up", account="sim"))
        with closing(sqlite3.connect(place.state, timeout=10)) as db:
            db.execute("DROP TABLE job")
        simulator.platform.submit(FAST)
        scrape = daemon.await_polls("sim", result="error")

        assert "Traceback" in str(daemon.said("poll.unexpected_error")[0]["exception"])
        assert scrape.value("sbg_up", account="sim") == 0
        assert daemon.get("/-/healthy").status_code == 200
        assert_nothing_leaks(place, daemon, pages(daemon))


WRONG_ENTRIES = (
    (f'auth_tokem = "{TOKEN}"', f'auth_token = ["{TOKEN}"]', f'auth_token = "{TOKEN}"\nproxy = ["{PASSWORD}"]'),
    (
        f'auth_token = "{TOKEN} and more"',
        f'auth_token = "{TOKEN}"\nprofile = "default"',
        f'auth_token = "{TOKEN}"\nproxy = "socks5://proxy-user:{PASSWORD}@localhost"',
        f'api_endpoint = "https://user:{PASSWORD}@platform.invalid/v2"\nauth_token = "{TOKEN}"',
        'auth_token_file = "spoilt.token"',
    ),
    (f"auth_token = {TOKEN}",),
)
"""Invalid configurations by kind of problem: unknown keys, invalid values, invalid TOML."""


@pytest.mark.parametrize("entries", WRONG_ENTRIES, ids=["keys", "values", "syntax"])
def test_config_errors_do_not_show_tokens(tmp_path: Path, entries: tuple[str, ...]) -> None:
    with Installation(tmp_path / "place") as place:
        place.write_token("spoilt", f"{TOKEN} {PASSWORD}")
        with place.config.open("a") as file:
            for number, entry in enumerate(entries):
                at = "" if "api_endpoint" in entry else 'api_endpoint = "https://cgc-api.sbgenomics.com"\n'
                file.write(f'[[accounts]]\nname = "a{number}"\n{at}{entry}\n')
        daemon = place.start()

        assert daemon.end() == 2
        assert len(daemon.lines) >= len(entries), daemon.output()
        assert all(line.startswith("sbg-exporter: ") for line in daemon.lines)
        assert_nothing_leaks(place, daemon)


def test_tokens_of_environment_and_profiles_are_not_shown(simulator: RunningSimulator, tmp_path: Path) -> None:
    with Installation(tmp_path / "place") as place:
        official = {"SB_API_ENDPOINT": simulator.url, "SB_AUTH_TOKEN": TOKEN}
        options = ("--listen", "127.0.0.1:0", "--state-file", str(place.state), "--log-level", "debug")
        with place.running("run", *options, "--log-format", "json", **official) as daemon:
            simulator.platform.queue(Fault(kind=FaultKind.UNAUTHORIZED), times=5)
            seen = pages(daemon)
            assert daemon.stop() == 0

        assert_nothing_leaks(place, daemon, seen)

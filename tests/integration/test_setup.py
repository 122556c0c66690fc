"""One account that cannot be set up, or that waits, does not stop the others, says why, and goes on by itself."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import unescape
from pathlib import Path

import httpx
import pytest

from exporter.simulator.faults import Fault, FaultKind
from exporter.simulator.scripts import JobScript
from exporter.simulator.server import QUIET, RunningSimulator, running
from tests.certificates import new_certificate
from tests.harness import Account, Daemon, Installation, Scrape, counted, difference
from tests.raw_server import Connection, reply, serving
from tests.waiting import eventually

MISSING = "sbg_exporter_accounts_missing"
STUCK = JobScript(total=6, failed=2, queued=0, resolving=0, running=0.002, hangs_after=0.001)
REASONS = ("allowance", "yielding", "rate_limited", "maintenance", "token")


def waiting(scrape: Scrape, account: str) -> str:
    """The reason why *account* waits, as the metric shows it; an empty string if it does not."""
    values = {each: scrape.value("sbg_exporter_waiting", account=account, reason=each) for each in REASONS}
    assert set(values.values()) <= {0, 1}, "all reasons are always shown"
    return next((each for each, value in values.items() if value), "")


def told(daemon: Daemon, account: str) -> list[tuple[str, str]]:
    return [
        (str(event["event"]), str(event["reason"]))
        for event in [*daemon.events]
        if event.get("account") == account and str(event["event"]).startswith("polling.")
    ]


def up(account: str, value: int = 1) -> Callable[[Scrape], bool]:
    return lambda scrape: scrape.value("sbg_up", account=account) == value


BOB = "token-of-bob-000000000000000000"


@contextmanager
def two_accounts(folder: Path) -> Iterator[tuple[RunningSimulator, Installation]]:
    """A simulated platform with an unfinished job of each of two users, and a configuration of both: good and bad."""
    with running(replace(QUIET, users={BOB: "bob"})) as simulator:
        accounts = Account.at(simulator, "good"), Account.at(simulator, "bad", BOB)
        with Installation(folder / "etc", *accounts) as site:
            for user in simulator.platform.users():
                simulator.platform.submit(STUCK, user)
            yield simulator, site


def _remove(site: Installation) -> None:
    (site.folder / "bad.token").unlink()


def _folder(site: Installation) -> None:
    _remove(site)
    (site.folder / "bad.token").mkdir()


def _empty(site: Installation) -> None:
    site.write_token("bad", "")


def _profile(site: Installation) -> None:
    """The second account is a profile, and there is no credentials file."""
    text = site.config.read_text()
    head, _, _ = text.rpartition("[[accounts]]")
    site.config.write_text(head + '[[accounts]]\nname = "bad"\nprofile = "bob"\n')


def _mend(site: Installation, simulator: RunningSimulator) -> None:
    token = site.folder / "bad.token"
    if token.is_dir():
        token.rmdir()
    site.write_token("bad", BOB)
    (site.folder / "home" / ".sevenbridges").mkdir()
    credentials = site.folder / "home" / ".sevenbridges" / "credentials"
    credentials.write_text(f"[bob]\napi_endpoint = {simulator.url}\nauth_token = {BOB}\n")


SPOILT = {"missing": _remove, "folder": _folder, "empty": _empty, "profile": _profile}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
@pytest.mark.fault(
    "an account's token file is missing, empty or a folder, or its profile is missing, at the start",
    action="polls the others; looks for the token",
    shown="`sbg_up` 0, `sbg_exporter_waiting` reason `token`; a log line as the wait begins and as it ends",
    recovery="the token is there, without a restart",
)
def test_an_account_without_a_token_stops_no_other_and_starts_when_it_has_one(
    tmp_path: Path, spoil: Callable[[Installation], None]
) -> None:
    with two_accounts(tmp_path) as (simulator, site):
        spoil(site)
        with site.running() as daemon:
            daemon.await_polls("good", 2)
            scrape = daemon.await_exact("good", simulator, "demo")

            assert scrape.value("sbg_up", account="good") == 1
            assert scrape.value("sbg_up", account="bad") == 0
            assert waiting(scrape, "bad") == "token"
            assert scrape.series("sbg_jobs_submitted_total", account="bad") == {}
            [failed] = daemon.said("poll.failed", account="bad")
            assert "token" in str(failed["reason"]) or "profile" in str(failed["reason"])
            [paused] = daemon.said("polling.paused", account="bad")
            assert paused["next_step"]
            assert str(failed["reason"]) in unescape(daemon.get("/").text)

            _mend(site, simulator)

            daemon.await_exact("bad", simulator, "bob")
            daemon.scrape_when(lambda now: up("bad")(now) and not waiting(now, "bad"))
            resumed = [("polling.paused", "token"), ("polling.resumed", "token")]
            eventually(lambda: told(daemon, "bad") == resumed, describe=daemon.output)
            eventually(lambda: daemon.said("poll.recovered", account="bad"), describe=daemon.output)


@pytest.mark.fault(
    "a file of `accounts.d` is half-written at the start",
    action="polls the others; does not poll this account",
    shown="`sbg_up` 0; the file, the line and the reason on the status page, in the log and by `check`, which exits 1",
    recovery="the file is right, and a reload",
)
def test_a_half_written_file_of_an_account_stops_no_other_at_a_start(tmp_path: Path) -> None:
    with two_accounts(tmp_path) as (simulator, site):
        head, _, _ = site.config.read_text().rpartition("[[accounts]]")
        site.config.write_text(f"enable_lifecycle = true\n{head}")
        file = site.folder / "accounts.d" / "bad.toml"
        file.parent.mkdir()
        file.write_text(f'auth_token_file = "../bad.token"\napi_endpoint = "{simulator.url}')
        with site.running() as daemon:
            daemon.await_exact("good", simulator, "demo")
            scrape = daemon.scrape_when(up("bad", 0))

            assert waiting(scrape, "bad") == "token"
            assert daemon.get("/-/ready").status_code == 200
            [failed] = daemon.said("poll.failed", account="bad")
            assert str(failed["reason"]).startswith(f"{file}: invalid TOML: ")
            assert "at line 2" in str(failed["reason"])
            assert str(failed["reason"]) in unescape(daemon.get("/").text)
            check = site.start("check", "--offline", "--config", str(site.config))
            assert check.end() == 1
            assert str(failed["reason"]) in check.stdout

            file.write_text(f'{file.read_text()}"\n')
            assert daemon.reload() == "accounts changed: bad\n"
            daemon.await_exact("bad", simulator, "bob")


@pytest.mark.fault(
    "the folder `accounts.d` is missing at the start, as where a volume is not mounted",
    action="polls the others",
    shown="a warning with the accounts' names and the folder, in the log, also of a reload, and by `check`; the status"
    " page, `sbg_exporter_accounts_missing` and its alert, for a day",
    recovery="the folder is back, and a reload",
)
def test_accounts_that_are_gone_at_a_start_are_named(tmp_path: Path) -> None:
    with two_accounts(tmp_path) as (simulator, site):
        head, _, own = site.config.read_text().rpartition("[[accounts]]")
        site.config.write_text(f"enable_lifecycle = true\n{head}")
        folder, elsewhere = site.folder / "accounts.d", site.folder / "elsewhere"
        folder.mkdir()
        (folder / "bad.toml").write_text(own.replace('"bad.token"', '"../bad.token"'))
        with site.running() as daemon:
            daemon.await_exact("bad", simulator, "bob")
            assert not daemon.said("accounts.removed")

        folder.rename(elsewhere)
        check = site.start("check", "--offline", "--config", str(site.config))
        with site.running() as daemon:
            daemon.await_polls("good")
            [warning] = daemon.said("accounts.removed")
            assert (warning["level"], warning["accounts"]) == ("warning", "bad")
            assert f"the folder {folder}, which is missing, and reload" in str(warning["next_step"])
            assert check.end() == 0
            assert ": 1 account is no longer configured, but has been polled: bad; next step: none if" in check.stdout
            verdict = (
                "Configuration OK: 1 account; 1 is no longer configured, see the warning above (API not contacted)."
            )
            assert check.stdout.splitlines()[-1] == verdict
            one = site.start("check", "--offline", "--account", "good", "--config", str(site.config))
            assert one.end() == 0
            assert "1 account is no longer configured, but has been polled: bad;" in one.stdout, "only not chosen: good"

            assert "No longer configured: bad." in daemon.get("/").text
            assert daemon.scrape().value(MISSING) == 1
            assert daemon.reload() == "nothing has changed\nstill missing since the start: bad\n"
            eventually(lambda: len(daemon.said("accounts.removed")) == 2)

            elsewhere.rename(folder)
            assert daemon.reload() == "accounts added: bad\n"
            assert daemon.scrape().value(MISSING) == 0
            daemon.await_exact("bad", simulator, "bob")
            assert "No longer configured" not in daemon.get("/").text

            (folder / "bad.toml").unlink()
            assert daemon.reload() == "accounts removed: bad\n"

        check = site.start("check", "--offline", "--config", str(site.config))
        with site.running() as daemon:
            daemon.await_polls("good")
            assert not daemon.said("accounts.removed"), "it was removed on purpose"
            assert daemon.scrape().value(MISSING) == 0
            assert check.end() == 0
            assert check.stdout == "Configuration OK: 1 account (API not contacted).\n"


@pytest.mark.fault(
    "a token file disappears while it runs",
    action="polls the others; looks for the token",
    shown="`sbg_exporter_waiting` reason `token`; the counters as they were",
    recovery="the token is back, without a restart",
)
def test_a_token_that_disappears_later_stops_that_account_until_it_is_back(tmp_path: Path) -> None:
    with two_accounts(tmp_path) as (simulator, site), site.running() as daemon:
        before = daemon.await_exact("bad", simulator, "bob")
        _folder(site)

        scrape = daemon.scrape_when(lambda now: waiting(now, "bad") == "token")
        assert counted(scrape, "bad") == counted(before, "bad")
        daemon.await_polls("good")

        _mend(site, simulator)
        daemon.scrape_when(lambda now: up("bad")(now) and not waiting(now, "bad"))
        daemon.await_exact("bad", simulator, "bob")


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
@pytest.mark.fault(
    "`check` or `once` with an account that cannot be set up",
    action="does the others and exits 1",
    shown="the account, its problem and the next step",
    recovery="the token is there",
)
def test_commands_name_the_account_that_cannot_be_set_up_and_exit_1(
    tmp_path: Path, spoil: Callable[[Installation], None]
) -> None:
    with two_accounts(tmp_path) as (_, site):
        spoil(site)

        offline = site.start("check", "--offline", "--config", str(site.config))
        assert offline.end() == 1
        [line] = offline.stdout.splitlines()
        assert line.startswith(f"error: {site.config}: accounts.#2 (bad): ")

        check = site.start("check", "--config", str(site.config))
        assert check.end() == 1
        good, bad, verdict = check.stdout.splitlines()
        assert re.match(r"good  ok      .*; 1 job; ", good)
        assert bad.startswith("bad   failed  ")
        assert re.search(
            r"; (write a valid token of this user, and nothing else, to the token|add profile '\w+' )", bad
        )
        assert verdict == "Failed: 1 of 2 accounts cannot be polled, for the reason above."

        once = site.start("once", "--config", str(site.config))
        assert once.end() == 1
        page = Scrape(once.stdout, openmetrics=False)
        assert page.total("sbg_jobs_submitted_total", account="good") == 1
        assert page.value("sbg_up", account="good") == 1
        assert page.value("sbg_up", account="bad") == 0
        assert waiting(page, "bad") == "token"


@pytest.mark.parametrize("command", ["run", "check", "once", "check --offline"])
@pytest.mark.fault(
    "no account can be set up",
    action="exits 2 and creates no state file",
    shown="a line for each account",
    recovery="a token",
)
def test_without_any_usable_account_it_exits_2_with_a_line_for_each(tmp_path: Path, command: str) -> None:
    with two_accounts(tmp_path) as (_, site):
        _remove(site)
        site.write_token("good", "")

        ended = site.start(*command.split(), "--config", str(site.config))

        assert ended.end() == 2
        assert ended.stdout == ""
        assert [line.partition(": accounts.")[2].partition(":")[0] for line in ended.lines] == ["#1 (good)", "#2 (bad)"]
        assert not site.state.exists()


def answers(connection: Connection) -> None:
    """An account without jobs."""
    while True:
        head = connection.request()
        body: dict[str, object] = {"username": "tess"} if b"/user " in head else {"items": [], "links": []}
        connection.send(reply(body=json.dumps(body).encode()))


@pytest.mark.tools("openssl")
@pytest.mark.fault(
    "an account's `ca_file` is missing, later replaced, later broken",
    action="sends nothing before it has certificates; loads others; keeps the last good ones",
    shown="`sbg_up` 0 without them; one log line for each change",
    recovery="the file, without a restart",
)
def test_certificate_authorities_may_come_late_and_are_replaced_while_it_runs(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old, new = new_certificate(tmp_path / "old"), new_certificate(tmp_path / "new")
    tls = old.server()
    with serving(answers, tls) as server, running(QUIET) as simulator:
        private = Account("private", f"https://localhost:{server.port}/v2", more={"ca_file": "ca.pem"})
        with Installation(tmp_path / "etc", Account.at(simulator, "good"), private) as site:
            ca_file = site.folder / "ca.pem"
            with site.running() as daemon:
                daemon.await_polls("good")
                scrape = daemon.scrape()
                assert scrape.value("sbg_up", account="private") == 0
                assert waiting(scrape, "private") == ""
                assert scrape.total("sbg_exporter_requests_total", account="private") == 0
                [line] = daemon.said("poll.failed", account="private")
                assert line["reason"] == f"cannot read {ca_file}: No such file or directory"

                shutil.copy(old.cert, ca_file)
                daemon.scrape_when(up("private"))

                tls.load_cert_chain(*new)
                shutil.copy(new.cert, site.folder / "ca.new")
                (site.folder / "ca.new").replace(ca_file)
                assert daemon.await_event("certificates.reloaded")
                daemon.await_polls("private", 2)

                ca_file.write_text("broken")
                assert daemon.await_event("certificates.kept")
                daemon.await_polls("private", 2)
                assert len(daemon.said("certificates.kept")) == 1
                assert daemon.scrape().value("sbg_up", account="private") == 1


@pytest.mark.fault(
    "other programs have used up the rate limit of one account",
    action="waits, and polls the others",
    shown="`sbg_exporter_waiting` reason `yielding`, a growing detection delay; `sbg_up` 1",
    recovery="the window's end",
    part="The platform",
)
def test_an_account_whose_limit_others_used_up_says_so_while_it_waits(tmp_path: Path) -> None:
    with two_accounts(tmp_path) as (simulator, site), site.running() as daemon:
        daemon.await_exact("bad", simulator, "bob")
        posted = httpx.post(
            simulator.url.removesuffix("/v2") + "/simulator/rate",
            json={"remaining": 10, "user": "bob"},
            trust_env=False,
        )
        assert posted.status_code == 200

        first = daemon.scrape_when(lambda now: waiting(now, "bad") == "yielding")
        delay = first.value("sbg_exporter_detection_delay_seconds", account="bad")
        assert delay is not None
        later = daemon.scrape_when(
            lambda now: (now.value("sbg_exporter_detection_delay_seconds", account="bad") or 0) > delay + 4
        )

        assert first.value("sbg_up", account="bad") == 1
        assert waiting(later, "bad") == "yielding"
        assert waiting(later, "good") == ""
        assert not difference(later, "bad", simulator, "bob")
        assert told(daemon, "bad") == [("polling.paused", "yielding")]
        assert told(daemon, "good") == []
        assert "other programs of the user have used up the rate limit" in daemon.get("/").text


@pytest.mark.fault(
    "503 with `Retry-After`",
    action="asks nothing of that account until then, also after a restart; polls the others",
    shown="`sbg_up` 0, `sbg_exporter_waiting` reason `rate_limited`",
    recovery="the first poll after that time",
    part="The platform",
)
def test_a_503_with_retry_after_is_not_asked_again_until_then(tmp_path: Path) -> None:
    with two_accounts(tmp_path) as (simulator, site):
        with site.running() as daemon:
            daemon.await_exact("bad", simulator, "bob")
            daemon.await_exact("good", simulator, "demo")
            # Whoever asks first is refused. The other user is not concerned.
            simulator.platform.queue(Fault(kind=FaultKind.UNAVAILABLE, retry_after=600), matching="/async/files")
            daemon.scrape_when(lambda now: "rate_limited" in {waiting(now, "good"), waiting(now, "bad")})
            refused = "good" if waiting(daemon.scrape(), "good") else "bad"
            other = {"good": "bad", "bad": "good"}[refused]
            daemon.await_polls(other, 3)
            scrape = daemon.scrape()

            assert scrape.value("sbg_up", account=refused) == 0
            assert scrape.value("sbg_exporter_polls_total", account=refused, result="unreachable") == 1
            assert scrape.value("sbg_exporter_requests_total", account=refused, endpoint="list", status="503") == 1
            assert told(daemon, refused) == [("polling.paused", "rate_limited")]
            assert waiting(scrape, other) == ""
        with site.running() as daemon:  # nor by the next process
            daemon.await_polls(other, 2)
            scrape = daemon.scrape()
            assert waiting(scrape, refused) == "rate_limited"
            assert scrape.total("sbg_exporter_requests_total", account=refused) == 0
            assert not difference(scrape, "good", simulator, "demo")
            assert not difference(scrape, "bad", simulator, "bob")

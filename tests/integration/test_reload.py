"""A reload changes what differs in the configuration, and nothing else; an invalid one changes nothing."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import pytest

from exporter.simulator.faults import Fault, FaultKind
from exporter.simulator.scripts import JobScript, roll
from exporter.simulator.server import QUIET, RunningSimulator, running
from tests.background import BackgroundTask
from tests.harness import Account, Daemon, Installation, MonotonicCounters, Scrape, difference, fast
from tests.waiting import eventually
from tests.width import width

TOKENS: Final = {name: f"token-of-{name}-0000000000000000" for name in ("alice", "bob", "carol", "dave")}
DONE: Final = JobScript(total=5, failed=1, queued=0, resolving=0, running=0)
HANGING: Final = JobScript(total=3, hangs_after=1)
RELOADS: Final = width(15, 100)
SPEED: Final = 30
IF_RENAMED: Final = "; counters go on under a new name if an added account is the same user"


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    users = {token: name for name, token in TOKENS.items() if name != "alice"}
    with running(replace(QUIET, username="alice", token=TOKENS["alice"], users=users)) as served:
        yield served


def account(simulator: RunningSimulator, name: str, user: str = "", **more: object) -> Account:
    return Account(name, simulator.url, TOKENS[user or name], more)


@pytest.fixture
def place(simulator: RunningSimulator, tmp_path: Path) -> Iterator[Installation]:
    accounts = account(simulator, "alice"), account(simulator, "bob")
    with Installation(tmp_path / "place", *accounts, enable_lifecycle=True) as installed:
        yield installed


@pytest.fixture
def daemon(place: Installation) -> Iterator[Daemon]:
    with place.running() as running_daemon:
        yield running_daemon


def accounts_in(scrape: Scrape) -> set[str]:
    return {dict(labels)["account"] for labels in scrape.series("sbg_up")}


def successful(scrape: Scrape) -> float | None:
    return scrape.value("sbg_exporter_config_last_reload_successful")


# ------------------------------------------------------------------------------------------------------------- accounts


def test_an_account_is_added_and_the_others_go_on(
    simulator: RunningSimulator, place: Installation, daemon: Daemon
) -> None:
    before = daemon.await_polls("alice")
    place.configure(*(account(simulator, name) for name in ("alice", "bob", "carol")), enable_lifecycle=True)
    simulator.platform.submit(DONE, "carol")

    assert daemon.reload() == "accounts added: carol\n"

    after = daemon.await_polls("carol")
    assert accounts_in(after) == {"alice", "bob", "carol"}
    for name in ("alice", "bob"):  # neither was identified again
        labels = {"account": name, "endpoint": "user", "status": "200"}
        counter = "sbg_exporter_requests_total"
        assert after.value(counter, **labels) == before.value(counter, **labels)
        assert after.series("sbg_jobs", account=name)
    assert daemon.get("/-/ready").status_code == 200


@pytest.mark.fault(
    "a reload while a file of `accounts.d` is wrong",
    action="changes nothing; all accounts are polled on",
    shown="the file and the key, as response and in the log",
    recovery="the file is right, and another reload",
)
def test_a_file_of_its_own_adds_an_account_and_one_that_is_wrong_changes_nothing(
    simulator: RunningSimulator, place: Installation, daemon: Daemon
) -> None:
    folder = place.folder / "accounts.d"
    folder.mkdir()
    (folder / "carol.token").write_text(TOKENS["carol"])
    file = folder / "carol.toml"
    good = f'api_endpoint = "{simulator.url}"\nauth_token_file = "carol.token"\n'
    file.write_text(good)
    assert daemon.reload() == "accounts added: carol\n"
    daemon.await_polls("carol")

    file.write_text(f"unknown = 1\n{good}")
    answer = daemon.post("/-/reload")
    assert (answer.status_code, answer.text.partition("; ")[0]) == (400, f"{file}: unknown: unknown key")
    daemon.await_polls("carol")

    file.unlink()
    assert daemon.reload() == "accounts removed: carol\n"


@pytest.mark.fault(
    "an account is removed by a reload, and comes back by another",
    action="goes on with its ledger, and counts what happened meanwhile",
    shown="nothing of the account; then its counters, never lower",
    recovery="none needed",
)
def test_a_removed_account_disappears_and_continues_when_it_is_back(
    simulator: RunningSimulator, place: Installation, daemon: Daemon
) -> None:
    simulator.platform.submit(DONE, "bob")
    daemon.await_exact("bob", simulator, "bob")
    place.configure(account(simulator, "alice"), enable_lifecycle=True)

    assert daemon.reload() == "accounts removed: bob\n"

    assert 'account="bob"' not in daemon.scrape().page
    assert "Removed by a reload" in daemon.get("/").text
    simulator.platform.submit(DONE, "bob")
    place.configure(account(simulator, "bob"), account(simulator, "alice"), enable_lifecycle=True)
    assert daemon.reload() == "accounts added: bob\n"
    assert "Removed by a reload" not in daemon.get("/").text
    assert difference(daemon.await_exact("bob", simulator, "bob"), "bob", simulator, "bob") == {}


@pytest.mark.fault(
    "an account is renamed by a reload",
    action="goes on with the ledger of the same user",
    shown="the counters, under the new name",
    recovery="none needed",
)
def test_a_renamed_account_keeps_its_counters(simulator: RunningSimulator, place: Installation, daemon: Daemon) -> None:
    simulator.platform.submit(DONE, "bob")
    since = daemon.await_exact("bob", simulator, "bob").value(
        "sbg_exporter_counting_since_timestamp_seconds", account="bob"
    )
    place.configure(account(simulator, "alice"), account(simulator, "robert", "bob"), enable_lifecycle=True)

    assert daemon.reload() == f"accounts added: robert\naccounts removed: bob{IF_RENAMED}\n"

    scrape = daemon.await_exact("robert", simulator, "bob")
    assert scrape.value("sbg_exporter_counting_since_timestamp_seconds", account="robert") == since
    assert 'account="bob"' not in scrape.page
    jobs = place.start("jobs", "--json", "--state-file", str(place.state))
    assert jobs.end() == 0
    assert [each["account"] for each in json.loads(jobs.stdout)] == ["robert"]


@pytest.mark.fault(
    "a second account of the same user on the same platform, before or after the first",
    action="polls the one that runs; at a start, the one whose name the ledger has",
    shown="`sbg_up` 0 and result `error` of the other; log, page and answer name both",
    recovery="none needed; the other one takes over if the first is removed",
)
def test_a_copy_of_an_account_is_named_and_does_not_take_over(simulator: RunningSimulator, place: Installation) -> None:
    simulator.platform.submit(DONE, "bob")
    first = account(simulator, "bob")
    with place.running() as daemon:
        daemon.await_exact("bob", simulator, "bob")
        place.configure(account(simulator, "a copy", "bob"), first, enable_lifecycle=True)

        assert daemon.reload() == (
            f"accounts added: a copy\naccounts removed: alice{IF_RENAMED}\n"
            "a copy: the same user on the same platform as bob; not polled\n"
        )

        daemon.scrape_when(lambda now: now.value("sbg_exporter_polls_total", account="a copy", result="error") == 1)
        assert "the same user on the same platform as bob; not polled" in daemon.get("/").text
        check = place.start("check", "--json", "--config", str(place.config))
        assert check.end() == 1
        assert {each["account"]: each["ok"] for each in json.loads(check.stdout)} == {"a copy": False, "bob": True}
        assert daemon.stop() == 0
    simulator.platform.submit(DONE, "bob")
    with place.running() as daemon:
        scrape = daemon.await_exact("bob", simulator, "bob")
        assert (scrape.value("sbg_up", account="bob"), scrape.value("sbg_up", account="a copy")) == (1, 0)
        assert not scrape.series("sbg_jobs_submitted_total", account="a copy")


def since(scrape: Scrape, name: str) -> float | None:
    return scrape.value("sbg_exporter_counting_since_timestamp_seconds", account=name)


def has_up(name: str, value: int, scrape: Scrape) -> bool:
    return scrape.value("sbg_up", account=name) == value


def failed(scrape: Scrape, name: str) -> float | None:
    return scrape.value("sbg_files_failed_total", account=name, operation="copy")


def test_an_account_with_another_users_token_does_not_take_the_ledger_to_its_new_name(
    simulator: RunningSimulator, place: Installation, daemon: Daemon
) -> None:
    """The advice that the account gets is to rename it."""
    simulator.platform.submit(DONE, "bob")
    daemon.await_exact("bob", simulator, "bob")
    place.configure(account(simulator, "alice"), enable_lifecycle=True)
    daemon.reload()
    place.write_token("alice", TOKENS["bob"])
    daemon.scrape_when(lambda now: now.value("sbg_up", account="alice") == 0)
    place.configure(
        replace(account(simulator, "new", "carol"), more={"auth_token_file": "alice.token"}), enable_lifecycle=True
    )

    assert daemon.reload() == f"accounts added: new\naccounts removed: alice{IF_RENAMED}\n"

    assert difference(daemon.await_exact("new", simulator, "bob"), "new", simulator, "bob") == {}


def test_a_former_copy_with_another_users_token_does_not_take_the_ledger(
    simulator: RunningSimulator, place: Installation, daemon: Daemon
) -> None:
    first, copy = account(simulator, "alice"), account(simulator, "copy", "alice")
    simulator.platform.submit(DONE, "alice")
    place.configure(first, copy, enable_lifecycle=True)
    daemon.reload()
    daemon.scrape_when(lambda now: now.value("sbg_up", account="copy") == 0)
    place.configure(account(simulator, "copy", "carol"), enable_lifecycle=True)
    place.write_token("copy", TOKENS["carol"])

    assert daemon.reload() == "accounts removed: alice\n"

    scrape = daemon.scrape_when(lambda now: now.value("sbg_up", account="copy") == 1)
    assert failed(scrape, "copy") == 0


def test_accounts_whose_tokens_are_exchanged_stop_and_those_that_exchange_their_names_go_on(
    simulator: RunningSimulator, place: Installation, daemon: Daemon
) -> None:
    simulator.platform.submit(DONE, "bob")
    daemon.await_exact("bob", simulator, "bob")
    before = daemon.await_polls("alice")
    assert (failed(before, "alice"), failed(before, "bob")) == (0, 1)
    place.write_token("alice", TOKENS["bob"])
    place.write_token("bob", TOKENS["alice"])

    assert daemon.reload() == "nothing has changed\n"

    for name in ("alice", "bob"):
        stopped = daemon.scrape_when(partial(has_up, name, 0))
        assert (failed(stopped, name), since(stopped, name)) == (failed(before, name), since(before, name))
    place.write_token("alice", TOKENS["alice"])
    place.write_token("bob", TOKENS["bob"])
    for name in ("alice", "bob"):
        daemon.scrape_when(partial(has_up, name, 1))
    files = {"alice": "bob.token", "bob": "alice.token"}
    exchanged = [replace(account(simulator, name), more={"auth_token_file": file}) for name, file in files.items()]
    place.configure(*exchanged, enable_lifecycle=True)

    assert daemon.reload() == "accounts changed: alice (auth_token_file), bob (auth_token_file)\n"

    assert difference(daemon.await_exact("alice", simulator, "bob"), "alice", simulator, "bob") == {}
    scrape = daemon.await_polls("bob")
    assert (failed(scrape, "bob"), since(scrape, "alice")) == (0, since(before, "bob"))


@pytest.mark.fault(
    "an account changes by a reload while its request hangs",
    action="a new poller begins at once; the old one can no longer count",
    shown="the counters, without a gap",
    recovery="none needed",
)
def test_a_changed_account_gets_a_new_poller_while_its_old_one_hangs(
    simulator: RunningSimulator, tmp_path: Path
) -> None:
    """The request that hangs belongs to the poller before; nothing that it may find is counted a second time."""
    with ExitStack() as stack:
        other = stack.enter_context(running(QUIET))
        accounts = account(simulator, "alice"), Account.at(other, "slow")
        place = stack.enter_context(Installation(tmp_path / "place", *accounts, enable_lifecycle=True))
        daemon = stack.enter_context(place.running())
        other.platform.submit(DONE)
        daemon.await_exact("slow", other)
        other.platform.queue(Fault(kind=FaultKind.HANG))
        eventually(lambda: not other.platform.waiting_faults())
        other.platform.submit(DONE)
        place.write_token("second", other.settings.token)
        place.configure(
            accounts[0], replace(accounts[1], more={"auth_token_file": "second.token"}), enable_lifecycle=True
        )

        assert daemon.reload() == "accounts changed: slow (auth_token_file)\n"

        assert difference(daemon.await_exact("slow", other), "slow", other) == {}
        assert daemon.stop() == 0


def test_another_order_does_not_change_which_of_two_accounts_of_a_user_is_polled(
    simulator: RunningSimulator, place: Installation, daemon: Daemon
) -> None:
    first, second = account(simulator, "alice"), account(simulator, "again", "alice")
    place.configure(first, second, enable_lifecycle=True)
    daemon.reload()
    daemon.scrape_when(lambda now: now.value("sbg_up", account="again") == 0)

    place.configure(second, first, enable_lifecycle=True)
    assert daemon.reload() == "nothing has changed\nagain: the same user on the same platform as alice; not polled\n"
    scrape = daemon.scrape_when(lambda now: now.value("sbg_exporter_polls_total", account="again", result="error") == 2)
    assert (scrape.value("sbg_up", account="again"), scrape.value("sbg_up", account="alice")) == (0, 1)

    place.configure(second, enable_lifecycle=True)
    assert daemon.reload() == "accounts removed: alice\n"
    daemon.scrape_when(lambda now: now.value("sbg_up", account="again") == 1)


@pytest.mark.fault(
    "a reload adds an account whose profile is missing",
    action="polls the others; sets the account up when its profile is there",
    shown="`sbg_up` 0 for this account",
    recovery="the profile is there",
)
def test_an_account_whose_profile_is_missing_is_set_up_later(
    simulator: RunningSimulator, place: Installation, daemon: Daemon
) -> None:
    plain = place.config.read_text()
    place.config.write_text(plain + '[[accounts]]\nname = "carol"\nprofile = "carol"\n')
    missing = (
        f"{place.config}: accounts.#3 (carol): no profile 'carol' in"
        f" {place.folder}/home/.sevenbridges/credentials, which does not exist"
    )
    assert daemon.reload() == f"accounts added: carol\ncarol cannot be polled: {missing}\n"
    daemon.scrape_when(lambda now: now.value("sbg_up", account="carol") == 0)
    credentials = place.folder / "home" / ".sevenbridges" / "credentials"
    credentials.parent.mkdir()
    credentials.write_text(f"[carol]\napi_endpoint = {simulator.url}\nauth_token = {TOKENS['carol']}\n")

    assert daemon.reload() in {"accounts changed: carol\n", "nothing has changed\n"}, "it may have found it by itself"
    daemon.scrape_when(lambda now: now.value("sbg_up", account="carol") == 1)
    credentials.unlink()

    assert daemon.reload() == f"nothing has changed\ncarol: {missing}\n", (
        "what was known is still the best that is known"
    )
    scrape = daemon.scrape_when(lambda now: now.value("sbg_up", account="carol") == 0)
    assert scrape.series("sbg_jobs_submitted_total", account="carol")


# ------------------------------------------------------------------------------------------------------------- settings


def test_settings_change_while_the_daemon_runs(
    simulator: RunningSimulator, place: Installation, daemon: Daemon
) -> None:
    daemon.await_polls("alice")
    both = account(simulator, "alice"), account(simulator, "bob")
    place.configure(
        *both,
        enable_lifecycle=True,
        poll_interval=7,
        rate_share=0.5,
        show_username=False,
        log_level="debug",
        log_format="logfmt",
        duration_buckets=[1, 2],
        request_timeout=5,
    )

    assert daemon.reload() == (
        "settings changed: poll_interval, request_timeout, rate_share, duration_buckets, show_username,"
        " log_format, log_level\n"
    )

    daemon.scrape_when(
        lambda now: (
            now.value("sbg_exporter_poll_interval_seconds", account="alice") == 7
            and now.value("sbg_account_info", account="alice", username="", api_endpoint=simulator.url) == 1
            and now.value(
                "sbg_job_duration_seconds_bucket", account="bob", operation="copy", outcome="failed", le="2.0"
            )
            == 0
        )
    )
    assert daemon.scrape().total("sbg_exporter_allowance_requests", account="alice") == 500
    eventually(lambda: any(line.startswith("timestamp=") for line in daemon.lines))


def test_an_accounts_own_settings_change_while_it_is_polled_on(
    simulator: RunningSimulator, place: Installation, daemon: Daemon
) -> None:
    simulator.platform.submit(HANGING, "alice")
    simulator.platform.submit(HANGING, "bob")
    shown, interval = "sbg_unfinished_job_files_expected", "sbg_exporter_poll_interval_seconds"
    before = daemon.scrape_when(
        lambda now: bool(now.series(shown, account="alice") and now.series(shown, account="bob"))
    )
    own = account(simulator, "bob", poll_interval=7, rate_share=0.1, job_series=0)
    place.configure(account(simulator, "alice"), own, enable_lifecycle=True)

    assert daemon.reload() == "settings changed: poll_interval of bob, rate_share of bob, job_series of bob\n"

    after = daemon.scrape_when(lambda now: now.value(interval, account="bob") == 7)
    assert not after.series(shown, account="bob")
    assert after.value("sbg_exporter_job_series_hidden", account="bob", kind="unfinished") == 1
    assert after.value("sbg_exporter_allowance_requests", account="bob") == 100
    assert after.series(shown, account="alice")
    assert after.value(interval, account="alice") == before.value(interval, account="alice")
    assert after.value("sbg_exporter_allowance_requests", account="alice") == 250
    asked = {"account": "bob", "endpoint": "user", "status": "200"}
    requests = [scrape.value("sbg_exporter_requests_total", **asked) for scrape in (before, after)]
    assert requests[0] == requests[1], "it was not identified again"

    place.configure(account(simulator, "alice"), account(simulator, "bob"), enable_lifecycle=True)
    daemon.reload()
    again = daemon.scrape_when(lambda now: now.value(interval, account="bob") == before.value(interval, account="bob"))
    assert again.series(shown, account="bob")


@pytest.mark.fault(
    "a reload changes a setting that needs a restart",
    action="keeps the old value, and takes over the rest",
    shown="`configuration.restart_needed` at each reload",
    recovery="a restart",
)
def test_what_needs_a_restart_is_named(simulator: RunningSimulator, place: Installation, daemon: Daemon) -> None:
    place.configure(
        account(simulator, "alice"),
        account(simulator, "bob"),
        enable_lifecycle=True,
        listen="127.0.0.1:1",
        state_file=str(place.folder / "other.db"),
    )

    for _ in range(2):  # for as long as they differ
        assert daemon.reload() == "listen needs a restart\nstate_file needs a restart\n"
    eventually(lambda: len(daemon.said("configuration.restart_needed", reason="listen needs a restart")) == 2)
    assert successful(daemon.scrape()) == 1


@pytest.mark.fault(
    "a reload would turn off the password of the metrics server",
    action="keeps the password",
    shown="`configuration.restart_needed`",
    recovery="a restart",
)
def test_a_web_configuration_with_passwords_is_taken_over_and_its_loss_needs_a_restart(
    simulator: RunningSimulator, place: Installation, daemon: Daemon
) -> None:
    both = account(simulator, "alice"), account(simulator, "bob")
    web = place.folder / "web.yml"
    web.write_text("basic_auth_users:\n  prometheus: $2b$04$7Vh5oEx1pB1cdMAUbxN3Q.XAMKOfUq4NqMrJ9VPzcZBcGVN1tDwyW\n")
    place.configure(*both, enable_lifecycle=True, web_config_file=str(web))

    assert daemon.reload() == "settings changed: web_config_file\n"
    assert daemon.get("/metrics").status_code == 401
    assert daemon.post("/-/reload").status_code == 401
    assert daemon.get("/-/healthy").status_code == 200

    place.configure(*both, enable_lifecycle=True)
    os.kill(daemon.pid, signal.SIGHUP)
    event = daemon.await_event("configuration.restart_needed")
    assert event is not None
    assert "web_config_file: turning off basic authentication needs a restart" in str(event["reason"])
    assert daemon.get("/metrics").status_code == 401


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("way", ["signal", "request"])
@pytest.mark.fault(
    "a reload by {way} of an invalid configuration",
    action="changes nothing; polls on",
    shown="each problem, without secrets; `sbg_exporter_config_last_reload_successful` 0",
    recovery="the file is right, and another reload",
)
def test_an_invalid_file_changes_nothing_and_says_why(
    simulator: RunningSimulator, place: Installation, daemon: Daemon, way: str
) -> None:
    before = daemon.await_polls("alice")
    name = "sbg_exporter_config_last_reload_success_timestamp_seconds"
    good = place.config.read_text()
    secret = "a-secret-that-stands-in-the-file"
    entry = f'[[accounts]]\nname = "carol"\napi_endpoint = "{simulator.url}"\nauth_token = "{secret} {secret}"\n'
    place.config.write_text(good.replace("poll_interval = 1", 'poll_interval = "soon"\nunknown = 1') + entry)

    if way == "request":
        answer = daemon.post("/-/reload")
        assert answer.status_code == 400
        assert len(answer.text.splitlines()) == 3
        assert f"{place.config}: poll_interval: expected seconds" in answer.text
        assert f"{place.config}: unknown: unknown key" in answer.text
        assert f"{place.config}: accounts.#3 (carol): auth_token: invalid token" in answer.text
    else:
        os.kill(daemon.pid, signal.SIGHUP)
    after = daemon.scrape_when(lambda now: successful(now) == 0)
    assert after.value(name) == before.value(name)
    eventually(lambda: len(daemon.said("configuration.rejected", level="error")) == 3)
    page = daemon.get("/").text
    assert f"{place.config}: poll_interval: expected seconds" in page
    assert secret not in f"{daemon.output()}{page}"
    assert accounts_in(daemon.await_polls("bob")) == {"alice", "bob"}

    place.config.write_text(good)
    assert daemon.reload() == "nothing has changed\n"
    good_again = daemon.scrape()
    assert successful(good_again) == 1
    assert (good_again.value(name) or 0) > (before.value(name) or 0)


def test_reloading_over_http_is_off_by_default_and_needs_post(simulator: RunningSimulator, tmp_path: Path) -> None:
    with (
        Installation(tmp_path / "place", account(simulator, "alice")) as place,
        place.running() as daemon,
    ):
        assert daemon.post("/-/reload").status_code == 403
        assert "enable_lifecycle" in daemon.post("/-/reload").text
        assert daemon.get("/-/reload").status_code == 405
        assert daemon.get("/-/reload").headers["allow"] == "POST"

        place.configure(account(simulator, "alice"), enable_lifecycle=True)
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.await_event("configuration.reloaded")
        assert daemon.reload() == "nothing has changed\n"


@pytest.mark.fault(
    "200 times SIGHUP in a row",
    action="reloads one at a time, and once more after the last signal",
    shown="`configuration.reloaded`",
    recovery="none needed",
)
def test_signals_during_a_reload_lead_to_one_more(place: Installation, daemon: Daemon) -> None:
    for _ in range(200):
        os.kill(daemon.pid, signal.SIGHUP)
    daemon.await_polls("alice", 2)

    assert 1 <= len(daemon.said("configuration.reloaded")) <= 200
    place.config.write_text("nonsense")
    os.kill(daemon.pid, signal.SIGHUP)
    assert daemon.await_event("configuration.rejected")
    assert daemon.stop() == 0


# ----------------------------------------------------------------------------------------------------------- under load


class Operator:
    """Changes the configuration at random. Account alice is always there and never changed."""

    def __init__(self, simulator: RunningSimulator, place: Installation, dice: Random) -> None:
        self._simulator = simulator
        self._place = place
        self._dice = dice

    def change(self) -> None:
        dice = self._dice
        others = [name for name in ("bob", "carol", "dave") if dice.random() < 0.7]
        accounts = [account(self._simulator, "alice")]
        for user in others:
            name = dice.choice((user, f"{user}-2"))
            more = dice.choice(({}, {"auth_token_file": "other"}))
            if more:
                more = {"auth_token_file": f"{user}-other.token"}
                self._place.write_token(f"{user}-other", TOKENS[user])
            own = {"job_series": dice.choice((0, 50)), "poll_interval": dice.choice((1, 2)) * SPEED}
            accounts.append(account(self._simulator, name, user, **more, **(own if dice.random() < 0.5 else {})))
        dice.shuffle(accounts)
        self._place.configure(*accounts, **self._settings())

    def settle(self) -> None:
        """All accounts at last, each by its name."""
        self._place.configure(*(account(self._simulator, name) for name in TOKENS), **FAST)

    def _settings(self) -> dict[str, object]:
        return FAST | {
            "poll_interval": self._dice.choice((1, 2)) * SPEED,
            "job_series": self._dice.choice((0, 50)),
            "settle_after": self._dice.choice((30, 60)),
        }


FAST: Final[dict[str, object]] = {
    "enable_lifecycle": True,
    "poll_interval": SPEED,
    "request_timeout": 30 * SPEED,
    "stale_after": 600 * SPEED,
}


@pytest.mark.fault(
    "random reloads while jobs run and pages are scraped",
    action="counts every job once; no scrape lacks an account that did not change",
    shown="all counters, never lower",
    recovery="none needed",
)
def test_reloads_under_load_lose_nothing_and_disturb_nobody(tmp_path: Path) -> None:
    dice, dice_of_users = Random(14), Random(15)  # noqa: S311 - seeded
    users = {token: name for name, token in TOKENS.items() if name != "alice"}
    settings = replace(QUIET, jobs=30, username="alice", token=TOKENS["alice"], users=users, rate_limit=100_000)
    counters = MonotonicCounters()
    with ExitStack() as stack:
        simulator = stack.enter_context(running(fast(settings, SPEED)))
        everyone = [account(simulator, name) for name in TOKENS]
        place = stack.enter_context(Installation(tmp_path / "place", *everyone, speed=SPEED, **FAST))
        daemon = stack.enter_context(place.running())
        for name in TOKENS:
            daemon.await_exact(name, simulator, name)
        threads, descriptors = used_by(daemon)

        def scrape() -> None:
            seen = counters.see(daemon.scrape())
            assert seen.series("sbg_jobs", account="alice"), "a scrape without the gauges of an untouched account"
            assert seen.value("sbg_up", account="alice") == 1

        submitting = BackgroundTask(
            lambda: simulator.platform.submit(roll(dice_of_users), dice_of_users.choice(tuple(TOKENS))),
            every=lambda: dice_of_users.expovariate(12),
        )
        with BackgroundTask(scrape, every=0.05) as scraping, submitting:
            operator = Operator(simulator, place, dice)
            for number in range(RELOADS):
                operator.change()
                if number % 3:
                    daemon.reload()
                else:
                    os.kill(daemon.pid, signal.SIGHUP)
                if number % 4 == 0:
                    daemon.await_polls("alice")
                scraping.await_rounds(1)
            operator.settle()
            daemon.reload()
            submitting.stop()
            for name in TOKENS:  # a job that is still running would always be some files ahead
                for job_id in simulator.platform.unfinished(name):
                    simulator.platform.finish(job_id)
                daemon.await_exact(name, simulator, name)
        assert counters.scrapes > RELOADS
        eventually(lambda: used_by(daemon)[0] <= threads + 2, describe=lambda: used_by(daemon))
        assert used_by(daemon)[1] <= descriptors + 4
        identified = daemon.scrape().value(
            "sbg_exporter_requests_total", account="alice", endpoint="user", status="200"
        )
        assert identified == 1, "the poller of the untouched account is the one of the start"
        assert not daemon.said("poller.died")
        assert "Traceback" not in daemon.output()
        assert daemon.stop() == 0


def used_by(daemon: Daemon) -> tuple[int, int]:
    """How many threads and file descriptors it has."""
    process = Path(f"/proc/{daemon.pid}")
    return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))

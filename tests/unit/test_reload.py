"""Which accounts a reload touches, one reload at a time, and what ends with an account."""

import io
import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from exporter.clock import AccountClock, Clock, RealClock
from exporter.config.account_tables import AccountTable
from exporter.config.accounts import AccountConfig, AccountEntry, PendingAccount
from exporter.config.changes import (
    AccountChanges,
    Login,
    account_changes,
    accounts_after_reload,
    accounts_at_start,
    compared_by_token,
    duplicate_accounts,
    reassigned_names,
)
from exporter.config.loading import Configuration, load
from exporter.config.own_settings import OwnSettings
from exporter.config.tokens import FixedToken, ProfileToken, Token, TokenFile
from exporter.daemon.accounts import RunningAccounts
from exporter.daemon.assembly import AnyPoller, PollerFactory
from exporter.daemon.reload import Applied, Reloader
from exporter.errors import ConfigError, DuplicateAccount, Stopping
from exporter.logs import LogStyle, logger, logger_in
from exporter.metrics.snapshot import ReloadStatus, SnapshotRegistry
from exporter.polling.identity import IdentityRegistry
from exporter.polling.lease import Lease
from exporter.redaction import Secret
from exporter.storage.store import Store
from tests.clocks import START, ManualClock
from tests.factories import ENDPOINT
from tests.snapshots import STATUS, UNTRIED, snapshot
from tests.waiting import PATIENCE, eventually


def account(name: str = "a", token: Token | None = None) -> AccountConfig:
    return AccountConfig(name, ENDPOINT, "", token or TokenFile(Path("/a.token")), ca_file=None, proxy=None)


def pending(name: str = "a", entry: str = "a") -> PendingAccount:
    return PendingAccount(name, "no such profile", "add it", lambda: account(name), entry)


# ------------------------------------------------------------------------------------------------- the difference

A, B, C = account("a"), account("b"), account("c")


@pytest.mark.parametrize(
    ("polled", "wanted", "changes"),
    [
        ([], [], AccountChanges((), (), (), ())),
        ([], [A, B], AccountChanges((), ("a", "b"), (), ())),
        ([A, B], [], AccountChanges((), (), (), ("a", "b"))),
        ([A, B], [B, A], AccountChanges(("b", "a"), (), (), ())),
        ([A, B], [C, A], AccountChanges(("a",), ("c",), (), ("b",))),
        ([A], [replace(A, where="elsewhere", entry="other")], AccountChanges(("a",), (), (), ())),
        ([A], [replace(A, own=OwnSettings(poll_interval=5))], AccountChanges(("a",), (), (), ())),
        ([A], [replace(A, name="b")], AccountChanges((), ("b",), (), ("a",))),
        ([pending()], [pending()], AccountChanges(("a",), (), (), ())),
        ([pending()], [replace(pending(), problem="another")], AccountChanges(("a",), (), (), ())),
        ([pending()], [replace(pending(), own=OwnSettings(job_series=5))], AccountChanges(("a",), (), (), ())),
        ([pending()], [pending(entry="b")], AccountChanges((), (), ("a",), ())),
        ([pending()], [A], AccountChanges((), (), ("a",), ())),
        ([replace(A, entry="a")], [pending()], AccountChanges(("a",), (), (), ())),
        ([replace(A, entry="b")], [pending()], AccountChanges((), (), ("a",), ())),
    ],
)
def test_an_account_that_is_polled_alike_is_kept(
    polled: list[AccountEntry], wanted: list[AccountEntry], changes: AccountChanges
) -> None:
    assert account_changes(polled, wanted) == changes


@pytest.mark.parametrize(
    "other",
    [
        replace(A, endpoint="https://other.example/v2"),
        replace(A, division="d"),
        replace(A, token=TokenFile(Path("/b.token"))),
        replace(A, token=FixedToken(Secret("another-token"))),
        replace(A, ca_file=Path("/ca.pem")),
        replace(A, proxy=Secret("http://proxy.example")),
    ],
    ids=["endpoint", "division", "file", "token", "ca_file", "proxy"],
)
def test_each_way_to_poll_differently_is_a_change(other: AccountConfig) -> None:
    assert account_changes([A], [other]).changed == ("a",)
    assert account_changes([other], [replace(other)]).kept == ("a",)


IN_USE: Final[Mapping[str, float | None]] = {"a": None, "b": None}
HOURS: Final = 3600.0


@pytest.mark.parametrize(
    ("before", "wanted", "after"),
    [
        ({}, "ab", {"a": None, "b": None}),  # a file of an earlier version
        (IN_USE, "abc", {"a": None, "b": None, "c": None}),
        (IN_USE, "c", {"c": None, "a": START, "b": START}),
        ({"a": None, "b": START - 23 * HOURS}, "a", {"a": None, "b": START - 23 * HOURS}),
        ({"a": None, "b": START - 24 * HOURS}, "a", {"a": None}),
        ({"a": None, "b": START + HOURS}, "a", {"a": None, "b": START + HOURS}),  # the clock was put back
        ({"a": None, "b": START + 99 * HOURS}, "a", {"a": None}),
        ({"a": None, "b": START - HOURS}, "ab", {"a": None, "b": None}),
    ],
)
def test_a_start_misses_the_accounts_that_were_in_use_until_then_for_a_day(
    desk: "Desk", before: Mapping[str, float | None], wanted: str, after: Mapping[str, float | None]
) -> None:
    assert accounts_at_start(before, desk.configured(wanted), START) == after


@pytest.mark.parametrize(
    ("before", "wanted", "after"),
    [
        (IN_USE, "a", {"a": None}),  # removed on purpose: never missing
        (IN_USE, "ac", {"a": None, "c": None}),
        ({"a": None, "b": START - HOURS}, "c", {"c": None, "b": START - HOURS}),
        ({"a": None, "b": START - 24 * HOURS}, "a", {"a": None}),
        ({"a": None, "b": START - HOURS}, "ab", {"a": None, "b": None}),
    ],
)
def test_what_a_reload_removes_is_not_missing_and_what_it_puts_back_no_more(
    desk: "Desk", before: Mapping[str, float | None], wanted: str, after: Mapping[str, float | None]
) -> None:
    assert accounts_after_reload(before, desk.configured(wanted), START) == after


def test_a_file_that_cannot_be_used_is_in_use_only_if_an_account_of_its_name_was(desk: "Desk") -> None:
    """Once it is mended it may have another name: what stood for it is then not missing."""
    folder = desk.folder / "accounts.d"
    folder.mkdir()
    (folder / "b.toml").write_text("nonsense")

    assert accounts_at_start({"a": None}, desk.read(), START) == {"a": None}
    assert accounts_at_start(IN_USE, desk.read(), START) == IN_USE


def test_accounts_that_are_not_selected_are_not_missing(desk: "Desk") -> None:
    both = desk.configured("ab")
    one = replace(both, accounts=both.accounts[:1], not_selected=both.accounts[1:])

    assert accounts_at_start(IN_USE, one, START) == IN_USE


def table(**keys: object) -> AccountTable:
    return AccountTable.model_validate({"name": "a", "api_endpoint": ENDPOINT, "auth_token_file": "a.token", **keys})


A_TABLE: Final = replace(A, entry=table())


@pytest.mark.parametrize(
    ("polled", "wanted", "keys"),
    [
        (A, replace(A, endpoint="https://other.example/v2"), ("api_endpoint",)),
        (A, replace(A, division="d", proxy=Secret("http://u:p4ssw0rd@proxy")), ("division", "proxy")),
        (A, replace(A, token=TokenFile(Path("/b.token")), ca_file=Path("/ca.pem")), ("auth_token_file", "ca_file")),
        (A, replace(A, token=FixedToken(Secret("another-token"))), ("auth_token_file", "auth_token")),
        (A, replace(A, token=ProfileToken(Path("/p"), "name", "label")), ("auth_token_file", "profile")),
        (A_TABLE, replace(A_TABLE, token=TokenFile(Path("/d/a.token"))), ("auth_token_file",)),  # in another folder
        (A_TABLE, replace(pending(), entry=table(profile="p", auth_token_file=None)), ("auth_token_file", "profile")),
        (replace(pending(), entry=table(profile="p")), A_TABLE, ("profile",)),
        (pending(), A, ()),  # its profile is complete, or its file is usable
        (A, A, ()),  # its poller has ended
    ],
)
def test_a_change_of_an_account_is_told_by_its_keys(
    polled: AccountEntry, wanted: AccountEntry, keys: tuple[str, ...]
) -> None:
    changes = account_changes([polled, B], [wanted, B], ended=("a",))

    assert changes.keys == ({"a": keys} if keys else {})
    assert changes.changed_in_words == (f"a ({', '.join(keys)})" if keys else "a",)


def test_tokens_are_equal_if_they_come_from_the_same_place() -> None:
    same: list[Callable[[], Token]] = [
        lambda: FixedToken(Secret("t"), Path("/c")),
        lambda: TokenFile(Path("/t")),
        lambda: ProfileToken(Path("/p"), "name", "label"),
    ]
    assert len({make() for make in same for _ in range(2)}) == 3
    assert FixedToken(Secret("another-token")) != FixedToken(Secret("u"))
    assert FixedToken(Secret("another-token")) != FixedToken(Secret("t"), Path("/c"))


# -------------------------------------------------------------------------------------------- one reload at a time


class Desk:
    """A reloader whose configuration and whose work the test decides."""

    LOGIN: Final = 'api_endpoint = "https://api.example/v2"\nauth_token_file = "a.token"\n'

    def __init__(self, folder: Path) -> None:
        (folder / "a.token").write_text("t0k3n-t0k3n")
        self.file = folder / "config.toml"
        self.write(f'[[accounts]]\nname = "a"\n{self.LOGIN}')
        self.clock = ManualClock()
        self.log = io.StringIO()
        self.applied: list[Configuration] = []
        self.work: Callable[[], object] = lambda: None
        self.changes = AccountChanges((), (), (), ())
        self.missing: Collection[str] = ()
        self.folder = folder
        self.begin()

    def begin(self) -> None:
        self.reloader = Reloader(
            self.read(),
            self.read,
            self.apply,
            missing=lambda: self.missing,
            clock=self.clock,
            log=logger("json", "info", self.log),
        )

    def write(self, text: str) -> None:
        self.file.write_text(text)

    def read(self) -> Configuration:
        return load({"config": str(self.file)}, {}, self.folder)

    def configured(self, names: str) -> Configuration:
        """The configuration of accounts that have a letter as their name."""
        self.write("".join(f'[[accounts]]\nname = "{each}"\n{self.LOGIN}' for each in names))
        return self.read()

    def apply(self, configuration: Configuration) -> Applied:
        self.work()
        self.applied.append(configuration)
        return Applied(self.changes, ())

    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_reload_names_the_settings_of_its_own_that_an_account_has_now(desk: Desk) -> None:
    before = desk.file.read_text()
    folder = desk.folder / "accounts.d"
    folder.mkdir()
    other = 'api_endpoint = "https://api.example/v2"\nauth_token_file = "../a.token"\njob_series = 1\n'
    (folder / "b.toml").write_text(other)
    assert desk.reloader.reload().text == "nothing has changed\n", "the accounts are told of by what applies them"
    desk.write(f"stale_after = 700\n{before}poll_interval = 5\nrate_share = 0.5\n")
    (folder / "b.toml").write_text(other.replace("1\n", "2\n"))

    assert desk.reloader.reload().text == (
        "settings changed: stale_after, poll_interval of a, rate_share of a, job_series of b\n"
    )
    desk.write(before)
    assert desk.reloader.reload().text == "settings changed: stale_after, poll_interval of a, rate_share of a\n"


@pytest.mark.fault(
    "a reload fails in an unexpected way",
    action="keeps the old configuration",
    shown="a traceback in the log; `sbg_exporter_config_last_reload_successful` 0",
    recovery="the next reload",
)
def test_a_reload_that_crashes_says_so_and_the_next_one_works(desk: Desk) -> None:
    def crash() -> None:
        raise ZeroDivisionError

    desk.work = crash
    assert desk.reloader.reload().status == 500
    failed = ("unexpected error, see the log",)
    assert desk.reloader.status == ReloadStatus(
        successful=False, succeeded_at=START, failing_since=START, problems=failed
    )
    assert "ZeroDivisionError" in str(desk.events()[-1]["exception"])
    good = desk.file.read_text()
    desk.write(f"nonsense = 1\n{good}")
    desk.clock.advance(2)
    assert desk.reloader.reload().status == 400
    assert desk.reloader.status.failing_since == START, "since the first attempt that failed"
    assert desk.reloader.status.problems[0].startswith(f"{desk.file}: nonsense: unknown key")

    desk.work = lambda: None
    desk.write(good)
    desk.clock.advance(3)
    assert desk.reloader.reload().status == 200
    assert desk.reloader.status == ReloadStatus(successful=True, succeeded_at=START + 5)


def test_secrets_in_problems_are_masked(desk: Desk) -> None:
    Secret("t0k3n-t0k3n")

    def refuse() -> None:
        raise ConfigError("t0k3n-t0k3n is no file", "nor this")

    desk.work = refuse

    result = desk.reloader.reload()

    assert (result.status, result.text) == (400, "******** is no file\nnor this\n")
    assert "t0k3n" not in desk.log.getvalue()


def test_signals_while_a_reload_runs_lead_to_one_more(desk: Desk) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert go_on.wait(PATIENCE)

    desk.work = wait
    first = threading.Thread(target=desk.reloader.on_hangup)
    first.start()
    assert begun.wait(PATIENCE)
    for _ in range(100):
        desk.reloader.on_hangup()  # returns at once
    go_on.set()
    first.join(PATIENCE)

    assert len(desk.applied) == 2
    desk.reloader.on_hangup()
    assert len(desk.applied) == 3


def test_reloads_never_overlap_and_are_announced(desk: Desk) -> None:
    at_work: list[int] = []
    most: list[int] = []

    @contextmanager
    def announced() -> Iterator[None]:
        at_work.append(1)
        most.append(len(at_work))
        yield
        at_work.pop()

    desk.reloader.announced = announced
    threads = [threading.Thread(target=desk.reloader.reload) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert len(desk.applied) == 20
    assert max(most) == 1


def test_a_daemon_that_stops_reloads_no_more(desk: Desk) -> None:
    desk.reloader.close()

    assert desk.reloader.reload().status == 503
    assert not desk.applied


@pytest.mark.fault(
    "a reload while a file of `accounts.d` is half-written, or that folder has disappeared",
    action="changes nothing",
    shown="the file and the reason, as response and in the log; `sbg_exporter_config_last_reload_successful` 0",
    recovery="the file is right, or the folder there, and another reload",
)
def test_a_reload_refuses_what_would_cost_accounts_that_are_polled(desk: Desk) -> None:
    folder = desk.folder / "accounts.d"
    folder.mkdir()
    (folder / "b.toml").write_text('api_endpoint = "https://api.example/v2"\nauth_token_file = "../a.token"\n')
    assert desk.reloader.reload().status == 200
    (folder / "c.toml").write_text('api_endpoint = "https://api.exa')
    desk.write(f"poll_interval = 5\n{desk.file.read_text()}")

    half = desk.reloader.reload()

    assert (half.status, len(half.lines), len(desk.applied)) == (400, 1, 1)
    assert half.text.startswith(f"{folder}/c.toml: invalid TOML: ")
    folder.rename(desk.folder / "gone")
    gone = desk.reloader.reload()
    assert (gone.status, len(desk.applied)) == (400, 1)
    assert gone.text == (
        f"{folder}: this folder with accounts is missing; put it back, or make an empty one to remove the accounts\n"
    )
    assert desk.events()[-1]["event"] == "configuration.rejected"
    folder.mkdir()
    assert desk.reloader.reload().status == 200
    folder.rmdir()
    assert desk.reloader.reload().status == 400, "the folder was there, too, when it was empty"


def test_a_reload_with_a_second_account_of_a_name_changes_nothing(desk: Desk) -> None:
    folder = desk.folder / "accounts.d"
    folder.mkdir()
    (folder / "b.toml").write_text(
        'name = "a"\napi_endpoint = "https://api.example/v2"\nauth_token_file = "../a.token"\n'
    )

    refused = desk.reloader.reload()

    assert (refused.status, desk.applied) == (400, [])
    assert refused.lines == (
        f"{folder}/b.toml: the name 'a' is used already ({desk.file}: accounts.#1 (a)); give each account its own name",
    )


def test_a_start_with_a_file_that_cannot_be_used_leaves_the_next_reload_to_mend_it(desk: Desk) -> None:
    folder = desk.folder / "accounts.d"
    folder.mkdir()
    (folder / "b.toml").write_text("api_endpoint = ")
    desk.begin()

    assert desk.reloader.reload().status == 400
    (folder / "b.toml").write_text('api_endpoint = "https://api.example/v2"\nauth_token_file = "../a.token"\n')
    assert desk.reloader.reload().status == 200
    assert desk.applied[-1].names == ("a", "b")


@pytest.mark.parametrize(("wrong", "shown"), [("name = 5", "b"), ('name = "a"', "b.toml")])
def test_a_file_that_is_corrected_is_no_account_that_was_removed(desk: Desk, wrong: str, shown: str) -> None:
    folder = desk.folder / "accounts.d"
    folder.mkdir()
    file, right = folder / "b.toml", 'api_endpoint = "https://api.example/v2"\nauth_token_file = "../a.token"\n'
    file.write_text(f"{wrong}\n{right}")
    desk.begin()
    assert desk.read().names == ("a", shown)
    file.write_text(f'name = "bob"\n{right}')
    desk.changes = AccountChanges(("a",), ("bob",), (), (shown, "c"))

    assert desk.reloader.reload().lines[0] == "accounts added: bob"

    [event] = [each for each in desk.events() if each["event"] == "accounts.removed"]
    assert event["accounts"] == "c", "that was one"


def test_what_waits_for_a_restart_is_in_the_status_until_it_is_as_at_the_start(desk: Desk) -> None:
    before = desk.file.read_text()
    desk.write(f'listen = "127.0.0.1:1"\n{before}')
    assert desk.reloader.reload().lines[-1] == "listen needs a restart"
    desk.write("nonsense")
    assert desk.reloader.reload().status == 400
    assert desk.reloader.status.waiting == ("listen needs a restart",)
    desk.write(before)
    assert desk.reloader.reload().status == 200
    assert not desk.reloader.status.waiting


def test_a_reload_that_removes_accounts_warns_of_them(desk: Desk) -> None:
    desk.changes = AccountChanges(("a",), (), (), ("b", "c"))

    assert desk.reloader.reload().text == "accounts removed: b, c\n"

    [event] = [each for each in desk.events() if each["event"] == "accounts.removed"]
    assert (event["level"], event["accounts"]) == ("warning", "b, c")


def test_a_reload_is_no_all_clear_while_accounts_are_missing_since_the_start(desk: Desk) -> None:
    desk.missing = ("b", "c")

    assert desk.reloader.reload().text == "nothing has changed\nstill missing since the start: b, c\n"

    [event] = [each for each in desk.events() if each["event"] == "accounts.removed"]
    assert (event["level"], event["accounts"]) == ("warning", "b, c")
    assert "else put them back into " in str(event["next_step"])
    desk.missing = ()
    assert desk.reloader.reload().text == "nothing has changed\n"


def test_a_reload_names_the_accounts_that_cannot_be_polled(desk: Desk) -> None:
    table = '[[accounts]]\nname = "{}"\napi_endpoint = "https://api.example/v2"\nauth_token_file = "{}.token"\n'
    desk.write(table.format("a", "a") + table.format("e", "e") + table.format("kept", "kept"))
    desk.changes = AccountChanges(("a", "kept"), ("e",), (), ())

    told = desk.reloader.reload().text.replace(f"{desk.folder}/", "").splitlines()

    missing = "{}.token: cannot read the token file: No such file or directory; write only the token to it"
    assert told == [
        "accounts added: e",
        f"e cannot be polled: config.toml: accounts.#2 (e): {missing.format('e')}",
        f"kept: config.toml: accounts.#3 (kept): {missing.format('kept')}",
    ]
    assert "e cannot be polled" in str(desk.events()[-1]["accounts_not_polled"])


# ----------------------------------------------------------------------------------------- what ends with an account


def test_after_the_end_of_a_lease_nothing_is_written() -> None:
    lease = Lease()
    with lease.held(), lease.held():
        pass
    lease.end()

    with pytest.raises(Stopping), lease.held():
        pytest.fail("it has ended")


def test_a_lease_ends_after_what_it_is_held_for() -> None:
    lease, order = Lease(), []
    held, go_on = threading.Event(), threading.Event()

    def write() -> None:
        with lease.held():
            held.set()
            go_on.wait(PATIENCE)
            order.append("written")

    def end() -> None:
        lease.end()
        order.append("ended")

    writing, ending = threading.Thread(target=write), threading.Thread(target=end)
    writing.start()
    assert held.wait(PATIENCE)
    ending.start()
    go_on.set()
    writing.join(PATIENCE)
    ending.join(PATIENCE)

    assert order == ["written", "ended"]


def test_an_accounts_pauses_end_when_it_is_woken_or_stopped() -> None:
    clock = AccountClock(RealClock(threading.Event()))
    clock.wake()
    clock.pause(3600)

    waiting = threading.Thread(target=clock.pause, args=(3600,))
    waiting.start()
    clock.wake()
    waiting.join(PATIENCE)
    assert not waiting.is_alive()

    clock.stop()
    for _ in range(2):
        with pytest.raises(Stopping):
            clock.pause(3600)


def test_identities_of_accounts_that_are_gone_are_free_and_the_new_order_counts() -> None:
    registry, identity, other = IdentityRegistry(("a", "b")), (ENDPOINT, "u", ""), (ENDPOINT, "v", "")
    registry.claim(identity, "a")
    registry.claim(other, "b")
    with pytest.raises(DuplicateAccount):
        registry.claim(identity, "b")

    registry.arrange(("b",), ())
    registry.claim(identity, "b")
    with pytest.raises(DuplicateAccount), registry.writer_lock(identity, "a"):
        pytest.fail("b has it now")

    registry.arrange(("a", "b"), ("b",))
    registry.claim(identity, "b")
    registry.claim(identity, "a")
    with registry.writer_lock(identity, "a"):
        pass


USER, OTHER_USER = (ENDPOINT, "u", ""), (ENDPOINT, "v", "")


@pytest.mark.parametrize("order", [("dup", "lab5"), ("lab5", "dup")])
@pytest.mark.parametrize("faster", ["dup", "lab5"])
@pytest.mark.parametrize("how", ["runs", "changed", "start"])
def test_whoever_polls_a_user_or_has_the_name_of_its_ledger_goes_on(
    order: tuple[str, str], faster: str, how: str
) -> None:
    """The order of the configuration does not matter, nor who is identified first."""
    ledgers = {"lab5": USER}
    if how == "start":
        registry = IdentityRegistry(order, ledgers)
    else:
        registry = IdentityRegistry(("lab5",), {} if how == "runs" else ledgers)
        registry.claim(USER, "lab5")
        registry.arrange(order, ("lab5",) if how == "changed" else (), ledgers)

    for name in (faster, *order):
        if name == "lab5":
            registry.claim(USER, name)
        else:
            with pytest.raises(DuplicateAccount, match=r"as lab5; not polled"):
                registry.claim(USER, name)

    assert registry.duplicates == {"dup": "lab5"}
    registry.arrange(("dup",), ())
    assert registry.duplicates == {}
    registry.claim(USER, "dup")


def test_an_account_that_has_polled_a_user_for_a_while_goes_on() -> None:
    """The first one of the configuration may have waited for its token all the time."""
    registry = IdentityRegistry(("first", "second"))
    registry.claim(USER, "second")
    registry.claim(USER, "second")

    with pytest.raises(DuplicateAccount):
        registry.claim(USER, "first")
    registry.arrange(("first", "second"), ("second",))
    registry.claim(USER, "second")
    with pytest.raises(DuplicateAccount):
        registry.claim(USER, "first")


def test_an_account_that_cannot_poll_its_user_leaves_it_to_another_one() -> None:
    """Also if a ledger has its name. The other one then goes on."""
    registry = IdentityRegistry(("lab5", "dup"), {"lab5": USER})
    with pytest.raises(DuplicateAccount):
        registry.claim(USER, "dup")
    assert not registry.is_free("dup")
    assert not registry.is_taken(USER, "lab5")

    woken: list[str] = []
    for name in ("lab5", "dup"):
        registry.watch(name, partial(woken.append, name))

    registry.give_up("lab5")
    assert registry.is_free("dup")
    assert woken == ["dup"]
    registry.arrange(("lab5", "dup", "new"), (), {"lab5": USER})
    assert registry.is_free("dup"), "it is still down"
    registry.claim(USER, "dup")
    assert woken == ["dup", "lab5"]

    assert registry.is_taken(USER, "lab5")
    assert registry.duplicates == {}
    for name in ("lab5", "new"):
        with pytest.raises(DuplicateAccount, match=r"as dup; not polled"):
            registry.claim(USER, name)
    registry.arrange(("lab5", "dup"), (), {"dup": USER})
    with pytest.raises(DuplicateAccount):
        registry.claim(USER, "lab5")


def test_accounts_that_begin_later_do_not_take_a_user_from_one_that_is_polled() -> None:
    registry = IdentityRegistry(("z",))
    registry.claim(USER, "z")
    registry.claim(OTHER_USER, "z")
    registry.claim(USER, "z")
    registry.arrange(("a", "b", "z"), ())
    for name in ("b", "a"):
        registry.claim(OTHER_USER, name)
        with pytest.raises(DuplicateAccount):
            registry.claim(USER, name)

    with pytest.raises(DuplicateAccount):
        registry.claim(OTHER_USER, "b")


# --------------------------------------------------------------------------------------------- renamed and twice there


def login(name: str, secret: str | None = None, file: str = "", **more: object) -> Login:
    """An account with a token that is read from a file of its own, or *file*."""
    entry = replace(account(name, TokenFile(Path(f"/{file or name}.token"))), **more)  # type: ignore[arg-type]  # fields of the account
    return Login(entry, None if secret is None else Secret(secret, masked=False))


def named(*logins: Login) -> dict[str, Login]:
    return {each.account.name: each for each in logins}


@pytest.mark.parametrize(
    ("polled", "wanted", "reassigned"),
    [
        ([login("a"), login("b")], [login("a", file="b"), login("b", file="a")], {"a", "b"}),
        ([login("a"), login("b")], [login("b", file="a"), login("c", file="b")], {"b"}),
        ([login("a"), login("b")], [login("a", file="b")], {"a"}),
        ([login("a"), login("b")], [login("a", file="b"), login("b")], set()),  # a copy
        ([login("a")], [login("a", file="b"), login("b", file="a")], set()),
        ([login("a"), login("b")], [login("b"), login("a", ca_file=Path("/ca"))], set()),
        ([login("a"), login("b")], [login("a", file="b", division="d"), login("b", file="a")], {"b"}),
        ([login("lab6")], [login("six", file="lab6")], set()),  # a new name
        ([Login(pending(), None)], [Login(pending(), None)], set()),
    ],
)
def test_names_that_other_accounts_have_now(polled: list[Login], wanted: list[Login], reassigned: set[str]) -> None:
    assert reassigned_names([each.account for each in polled], [each.account for each in wanted]) == reassigned


@pytest.mark.parametrize(
    ("wanted", "arriving", "compared"),
    [
        ([login("a"), login("b")], ["b"], {"a", "b"}),
        ([login("a"), login("b")], [], set()),  # nothing has changed
        ([login("a")], ["a"], set()),
        ([login("a"), login("b", division="d")], ["a", "b"], set()),
        ([login("a"), login("b"), login("c", endpoint="https://other.example/v2")], ["c"], set()),
        ([Login(pending(), None), login("a")], ["a"], set()),
    ],
)
def test_a_reload_reads_the_tokens_that_tell_of_duplicates(
    wanted: list[Login], arriving: list[str], compared: set[str]
) -> None:
    assert compared_by_token({each.account.name: each.account for each in wanted}, arriving) == compared


@pytest.mark.parametrize(
    ("arriving", "having", "duplicates"),
    [
        (["dup"], [], {"dup": "lab5"}),
        (["lab5"], [], {"lab5": "dup"}),
        (["dup", "lab5"], [], {"lab5": "dup"}),
        (["dup", "lab5"], ["lab5"], {"dup": "lab5"}),
        (["lab5"], ["lab5"], {"lab5": "dup"}),
        ([], [], {}),
    ],
)
def test_a_copy_of_an_account_is_known_by_its_token(
    arriving: list[str], having: list[str], duplicates: dict[str, str]
) -> None:
    wanted = named(login("dup", "t"), login("lab5", "t"), login("other", "another-token"))

    assert duplicate_accounts(wanted, arriving, having, {}) == duplicates
    assert duplicate_accounts(wanted, arriving, having, {"other": "x"}) == {"other": "x", **duplicates}


def test_a_reload_tells_of_accounts_that_may_be_renamed_and_of_those_that_are_there_twice(desk: Desk) -> None:
    desk.changes = AccountChanges(
        ("lab5",), ("dup", "six"), ("c",), ("lab6", "old"), {"dup": "lab5"}, {"c": ("proxy",)}
    )

    assert desk.reloader.reload().text.splitlines() == [
        "accounts added: dup, six",
        "accounts changed: c (proxy)",
        "accounts removed: lab6, old; counters go on under a new name if an added account is the same user",
        "dup: the same user on the same platform as lab5; not polled",
    ]
    [event] = [each for each in desk.events() if each["event"] == "configuration.reloaded"]
    assert (event["accounts_changed"], event["accounts_removed"]) == ("c (proxy)", "lab6, old")
    assert event["accounts_not_polled"] == "dup: the same user on the same platform as lab5; not polled"


# ----------------------------------------------------------------------------------- a reload that an error interrupts

ONE_ACCOUNT: Final = """
state_file = "state.db"
[[accounts]]
name = "a"
api_endpoint = "http://127.0.0.1:1/v2"
auth_token_file = "{}"
"""


class FaultyFactory(PollerFactory):
    """Raises an error at the step that the test names."""

    fails_at = ""

    def new(
        self,
        entry: AccountEntry,
        turn: int,
        lease: Lease | None = None,
        clock: Clock | None = None,
        *,
        name_reassigned: bool = False,
    ) -> AnyPoller:
        self._reach("new")
        return super().new(entry, turn, lease, clock, name_reassigned=name_reassigned)

    def arrange(self, released: Collection[str], reassigned: Collection[str]) -> Collection[str]:
        self._reach("arrange")
        return super().arrange(released, reassigned)

    def _reach(self, step: str) -> None:
        if step == self.fails_at:
            self.fails_at = ""
            raise RuntimeError("can't start new thread")


@pytest.mark.fault(
    "an unexpected error in the middle of a reload",
    action="polls on, or polls again after the next reload",
    shown="a traceback in the log; `sbg_exporter_config_last_reload_successful` 0",
    recovery="the next reload",
)
@pytest.mark.parametrize("step", ["new", "arrange"])
def test_after_a_reload_that_failed_the_next_one_polls_all_accounts(step: str, tmp_path: Path) -> None:
    stop, config = threading.Event(), tmp_path / "config.toml"
    clock, log = RealClock(stop), logger("json", "error", io.StringIO())

    def read(token: str) -> Configuration:
        (tmp_path / token).write_text("t0k3n-t0k3n")
        config.write_text(ONE_ACCOUNT.format(token))
        return load({"config": str(config)}, {}, tmp_path)

    def polled() -> list[str]:
        return [each.name for each in threading.enumerate() if each.name == "poller-a"]

    first = read("first.token")
    registry = SnapshotRegistry(first.names)
    with closing(Store(first.state_file)) as store:
        factory = FaultyFactory(first, store, registry, clock, log)
        accounts = RunningAccounts(factory, registry, clock, log)
        try:
            accounts.apply(first)
            factory.fails_at = step
            with pytest.raises(RuntimeError):
                accounts.apply(read("second.token"))
            eventually(lambda: len(polled()) == (1 if step == "new" else 0))

            changes = accounts.apply(read("first.token"))

            assert (changes.kept, changes.changed) == ((("a",), ()) if step == "new" else ((), ("a",)))
            eventually(lambda: len(polled()) == 1)
        finally:
            stop.set()
            accounts.stop()


class CountedWaits(RealClock):
    """Time does not end a wait."""

    waits = 0

    def wait(self, seconds: float, event: threading.Event) -> None:
        del seconds
        self.waits += 1
        event.wait()


def test_an_account_that_can_poll_nothing_is_woken_when_another_one_takes_over(tmp_path: Path) -> None:
    """Also if a reload has changed it."""
    clock, config = CountedWaits(threading.Event()), tmp_path / "config.toml"

    def read(token: str) -> Configuration:
        (tmp_path / token).write_text("t0k3n-t0k3n")
        config.write_text(ONE_ACCOUNT.format(token))
        return load({"config": str(config)}, {}, tmp_path)

    def reach(waits: int) -> None:
        eventually(lambda: clock.waits == waits)

    first = read("first.token")
    registry = SnapshotRegistry(first.names)
    with closing(Store(first.state_file)) as store:
        factory = PollerFactory(first, store, registry, clock, logger("json", "error", io.StringIO()))
        accounts = RunningAccounts(factory, registry, clock, logger("json", "error", io.StringIO()))
        try:
            for configuration in (first, read("second.token")):
                waits = clock.waits
                accounts.apply(configuration)
                reach(waits + 1)

                factory.identities.give_up("a")
                factory.identities.claim(USER, "b")
                reach(waits + 2)
        finally:
            accounts.stop()


def test_snapshots_follow_the_configuration_and_readiness_lasts() -> None:
    registry = SnapshotRegistry(("a", "b"))
    for name in ("a", "b"):
        registry.put(snapshot(None, account=name, status=STATUS))
    assert registry.ready

    registry.arrange(("c", "b"))
    assert [each.account for each in registry.snapshots] == ["b"]
    registry.put(snapshot(None, account="c", status=UNTRIED))

    assert [each.account for each in registry.snapshots] == ["c", "b"]
    assert registry.ready, "an account that is new must not take the others from Prometheus"


# ----------------------------------------------------------------------------------------------------------- the log


def test_a_loggers_format_and_level_change_while_it_is_in_use() -> None:
    stream = io.StringIO()
    style = LogStyle("json", "warning", terminal=False)
    log = logger_in(style, stream)
    bound = log.bind(account="a")
    bound.info("one")

    style.use("logfmt", "debug")
    bound.debug("two", key="value")
    style.use("json", "error")
    bound.warning("three")

    [line] = stream.getvalue().splitlines()
    assert line.endswith("level=debug event=two account=a key=value")

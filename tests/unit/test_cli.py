"""Every command line gives help, work, or a line per problem with an exit code; never a traceback."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from exporter import __version__
from exporter.commands import COMMANDS, main
from exporter.commands.version import version_line
from exporter.config.settings import Settings
from exporter.counting.values import Rules
from exporter.revision import revision
from exporter.storage.store import Store
from tests import measured
from tests.factories import job_id, running_job
from tests.ledgers import observe_in

TOKEN = "feedfacefeedfacefeedfacefeedface"
COMMAND = str(Path(sys.executable).parent / "sbg-exporter")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Typed = Callable[..., Ended]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Typed:
    """Run a command line in this process, with nothing configured and an empty home."""
    for name in [name for name in os.environ if name.startswith(("SB_", "SBG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")

    def type_in(*arguments: str) -> Ended:
        try:
            code = main(arguments)
        except SystemExit as left:
            code = int(left.code or 0)
        return Ended(code, *capsys.readouterr())

    return type_in


def as_process(*arguments: str, **environ: str) -> Ended:
    """Run a command line as a process, with nothing configured."""
    done = subprocess.run(
        [COMMAND, *arguments], env={**bare_environment(), **environ}, capture_output=True, text=True, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def bare_environment() -> Mapping[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SB_", "SBG_", "HOME"))}
    return inherited | measured.VARIABLES


# ---- check without the API ----

TWO_ACCOUNTS = """
[[accounts]]
name = "good"
api_endpoint = "https://cgc-api.sbgenomics.com/v2"
auth_token_file = "good.token"
proxy = "http://ops:s3cr3t-w0rd@proxy.example:3128"
poll_interval = "1m"
[[accounts]]
name = "bad"
profile = "gone"
"""


@pytest.fixture
def two_accounts(tmp_path: Path) -> Path:
    """A configuration file with an account that can be polled, and one that cannot."""
    (tmp_path / "good.token").write_text(TOKEN)
    (tmp_path / "good.token").chmod(0o600)
    file = tmp_path / "config.toml"
    file.write_text(TWO_ACCOUNTS)
    file.chmod(0o600)
    return file


def test_check_offline_prints_json_with_where_each_setting_is_from(typed: Typed, two_accounts: Path) -> None:
    code, out, err = typed("check", "--offline", "--json", "--config", str(two_accounts))

    assert (code, err) == (1, "")
    good, bad = json.loads(out)
    assert good == {
        "account": "good",
        "ok": True,
        "error": None,
        "next_step": None,
        "endpoint": "https://cgc-api.sbgenomics.com/v2",
        "configured_in": f"{two_accounts}: accounts.#1 (good)",
        "token_from": str(two_accounts.with_name("good.token")),
        "proxy": "http://proxy.example:3128",
        "ca_file": None,
        "poll_interval": 60,
        "rate_share": 0.25,
        "job_series": 50,
    }
    assert bad["error"].startswith(f"{two_accounts}: accounts.#2 (bad): no profile 'gone'")
    assert bad["next_step"].startswith("add profile 'gone'")
    assert "s3cr3t" not in out


def test_check_offline_warns_of_a_token_that_is_none_by_its_form(typed: Typed, tmp_path: Path) -> None:
    """Only for the platforms whose tokens' form is known: a proxy of one's own may have others."""

    def checked(token: str, endpoint: str = "https://cgc-api.sbgenomics.com/v2") -> Ended:
        (tmp_path / "token").write_text(token)
        (tmp_path / "token").chmod(0o600)
        file = tmp_path / "config.toml"
        file.write_text(f'[[accounts]]\nname = "lab"\napi_endpoint = "{endpoint}"\nauth_token_file = "token"\n')
        return typed("check", "--offline", "--config", str(file))

    wrong = checked(f"AUTH_TOKEN={TOKEN}")
    assert wrong.code == 0
    assert (
        "warning: lab: the token looks wrong: it begins with a name and =, as a setting; expected the token"
        in wrong.out
    )
    assert "the token looks wrong: expected 32 hexadecimal characters" in checked(f"{TOKEN}0").out
    assert f"to the token file {tmp_path / 'token'};" in wrong.out
    assert TOKEN not in wrong.out + wrong.err
    assert "warning" not in checked(TOKEN).out
    assert "warning" not in checked("short", endpoint="https://proxy.example/v2").out


def test_check_offline_verbose_prints_where_each_setting_is_from(typed: Typed, two_accounts: Path) -> None:
    code, out, _ = typed("check", "--offline", "--verbose", "--config", str(two_accounts))

    assert code == 1
    assert out.splitlines()[:6] == [
        "good",
        "  endpoint    https://cgc-api.sbgenomics.com/v2",
        f"  configured  {two_accounts}: accounts.#1 (good)",
        f"  token       {two_accounts.with_name('good.token')}",
        "  proxy       http://proxy.example:3128",
        "  settings    poll_interval 60s, rate_share 0.25, job_series 50",
    ]
    assert out.splitlines()[-1] == "Failed: 1 of 2 accounts cannot be polled (API not contacted)."
    assert "s3cr3t" not in out


def test_check_names_the_files_among_the_accounts_that_are_not_read(typed: Typed, two_accounts: Path) -> None:
    folder = two_accounts.with_name("accounts.d")
    folder.mkdir()
    endpoint = 'api_endpoint = "https://cgc-api.sbgenomics.com/v2"\n'
    (folder / "a.toml").write_text(f'{endpoint}auth_token_file = "used"\n')
    for name in ("used", "b.tml", "a.toml.new", "lab.token", ".a.toml.swp"):
        (folder / name).write_text(TOKEN)

    code, out, _ = typed("check", "--offline", "--config", str(two_accounts))
    one = typed("check", "--offline", "--config", str(two_accounts), "--account", "good")

    assert code == 1
    note = f"Note: not read in {folder}, because only *.toml is: a.toml.new, b.tml\n"
    assert note in out
    assert (one.code, note in one.out) == (0, True), "what another account uses is read"


@pytest.mark.parametrize(
    ("exists", "counters"),
    [
        (False, "its counters begin at 0, in a new ledger"),
        (
            True,
            (
                "it has the counters of the ledger that its user has there already; without one, its counters begin at"
                " 0, in a new ledger"
            ),
        ),
    ],
)
def test_check_says_what_becomes_of_the_counters_with_another_endpoint(
    typed: Typed, two_accounts: Path, *, exists: bool, counters: str
) -> None:
    state = two_accounts.with_name("state.db")
    with closing(Store(state)) as store:
        store.create("good", "https://p/v2", "u", "", counting_since=1.0, local_time=2.0, rules=Rules())
        if exists:
            endpoint = "https://cgc-api.sbgenomics.com/v2"
            store.create("former", endpoint, "u", "", counting_since=1.0, local_time=2.0, rules=Rules())

    _, out, _ = typed("check", "--offline", "--config", str(two_accounts), "--state-file", str(state))

    assert (
        f"warning: {two_accounts}: accounts.#1 (good): the ledger of account good is of https://p/v2; with another"
        f" api_endpoint or division {counters}\n"
    ) in out


@pytest.mark.parametrize("flags", [(), ("--offline",)])
def test_check_prints_json_also_if_the_configuration_is_wrong(
    typed: Typed, two_accounts: Path, flags: tuple[str, ...]
) -> None:
    two_accounts.write_text(f"poll_intervall = 5\nrate_share = 3\n{TWO_ACCOUNTS}")

    code, out, err = typed("check", *flags, "--json", "--config", str(two_accounts))

    assert code == 2
    unknown = f"{two_accounts}: poll_intervall: unknown key; did you mean poll_interval?"
    assert {"account": None, "ok": False, "error": unknown} in json.loads(out)
    assert [f"sbg-exporter: {each['error']}" for each in json.loads(out)] == err.splitlines()
    assert len(err.splitlines()) == 3


@pytest.mark.parametrize(
    ("token", "source"),
    [
        ('auth_token = "feedfacefeedface"', "auth_token in {}"),
        ('profile = "lab"', "profile 'lab' in {}/.sevenbridges/credentials"),
    ],
)
def test_check_names_the_place_of_a_token_and_never_the_token(
    typed: Typed, two_accounts: Path, token: str, source: str
) -> None:
    home = two_accounts.parent
    (home / ".sevenbridges").mkdir()
    (home / ".sevenbridges" / "credentials").write_text(f"[lab]\nauth_token={TOKEN}\n")
    endpoint = "https://cgc-api.sbgenomics.com/v2"
    two_accounts.write_text(f'[[accounts]]\nname = "a"\napi_endpoint = "{endpoint}"\n{token}\n')
    two_accounts.chmod(0o600)

    code, out, _ = typed("check", "--offline", "--json", "--config", str(two_accounts))

    assert code == 0
    [found] = json.loads(out)
    assert found["token_from"] == source.format(home if token.startswith("profile") else two_accounts)
    assert "feedface" not in out


# ---- help ----


def test_help_names_every_command_and_what_it_does(typed: Typed) -> None:
    for asked in ("--help", "-h"):
        code, out, err = typed(asked)

        assert (code, err) == (0, "")
        assert out.startswith("Usage: sbg-exporter [OPTIONS] COMMAND [ARGS]...\n")
        assert re.findall(r"^  ([a-z]+)  +[A-Z]", out, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(typed: Typed, command: str) -> None:
    code, out, err = typed(command, "--help")

    assert (code, err) == (0, "")
    operands = {"state": " COMMAND [ARGS]...", "job": " ID"}.get(command, "")
    assert out.startswith(f"Usage: sbg-exporter {command} [OPTIONS]{operands}\n")
    assert "--help" in out
    assert re.search(rf"^  Examples?[a-z, ]*:\n.*sbg-exporter {command}\b", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("command", "usage", "flags"),
    [
        ("show", "show [OPTIONS]", ["--json"]),
        ("check", "check [OPTIONS]", []),
        ("backup", "backup [OPTIONS] PATH", ["--force"]),
        ("export", "export [OPTIONS] ACCOUNT", ["--output", "--force"]),
        ("import", "import [OPTIONS] FILE", ["--replace"]),
        ("forget", "forget [OPTIONS] ACCOUNT", ["--yes"]),
    ],
)
def test_every_state_command_has_help_with_its_options(
    typed: Typed, command: str, usage: str, flags: list[str]
) -> None:
    code, out, err = typed("state", command, "--help")

    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: sbg-exporter state {usage}\n")
    assert f"  sbg-exporter state {command} " in out
    assert set(re.findall(r"^  (--[a-z-]+)", out, re.MULTILINE)) == {
        "--config",
        "--state-file",
        "--show-username",
        *flags,
    }


def test_the_help_of_run_names_every_setting_with_its_default(typed: Typed) -> None:
    out = " ".join(typed("run", "--help").out.split())

    for key in Settings.model_fields:
        assert (f"--{key.replace('_', '-')}" in out) is (key != "accounts")
    for shown in (
        "--poll-interval DURATION time between two polls of an account; at least 1s (default: 30s)",
        "--stale-after DURATION",
        "(default: 10m)",
        "(default: 60s)",
        "(default: 24h)",
        "--listen ADDRESS",
        "(default: :10037)",
        "--rate-share SHARE share of the account's rate limit that the exporter may use (default: 0.25)",
        "--history ignore|count",
        "--duration-buckets SECONDS",
        "(default: 1 5 15 30 60 120 300 600 1800 3600 7200 14400 28800 86400)",
        "--show-username / --no-show-username",
        "(default: yes)",
        "--config FILE TOML configuration file (also SBG_EXPORTER_CONFIG)",
    ):
        assert shown in out


@pytest.mark.parametrize("command", ["simulate", "demo"])
def test_the_help_of_a_simulation_shows_defaults_but_no_token(typed: Typed, command: str) -> None:
    out = " ".join(typed(command, "--help").out.split())

    assert "--order ORDER order of the list: newest or oldest first" in out
    assert "(default: newest)" in out
    assert ("(default: 20)" in out) is (command == "demo")
    assert "(default: 0123456789abcdef" not in out


# ---- version ----


def test_version_command_and_option_print_the_same_line(typed: Typed) -> None:
    assert typed("version") == typed("--version") == Ended(0, f"{version_line()}\n", "")
    assert version_line().startswith(f"sbg-exporter {__version__} (revision {revision()}, Python 3.")


@pytest.mark.parametrize(
    ("written", "shown"), [("$Format:%H$", "unknown"), ("0123abc", "0123abc"), ("0123abc-dirty", "0123abc-dirty")]
)
def test_revision_is_unknown_only_where_no_build_has_written_it(written: str, shown: str) -> None:
    assert revision(written) == shown


# ---- invalid command lines ----


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["watch"],
            f"unknown command; expected {', '.join(COMMANDS)}; see `sbg-exporter --help`",
        ),
        (["chek"], "unknown command; did you mean check?"),
        ([TOKEN], "unknown command; expected run, check"),
        (["run", "--poll-intervall", "30"], "--poll-intervall: unknown option; did you mean --poll-interval?"),
        (["--poll-intervall=30"], "--poll-intervall: unknown option; did you mean --poll-interval?"),
        (["--ofline"], "--ofline: unknown option; see `sbg-exporter run --help`"),
        (["check", "--ofline"], "--ofline: unknown option; did you mean --offline?"),
        (["--poll", "30"], "--poll: unknown option; see `sbg-exporter run --help`"),
        (["run", "now"], "unexpected argument; see `sbg-exporter run --help`"),
        (["jobs", "327292091756515328"], "unexpected argument; `sbg-exporter job ID` shows one job, "),
        (["version", "--long"], "--long: unknown option; see `sbg-exporter version --help`"),
        (
            ["jobs", "--outcome", "failled"],
            "--outcome: unknown value; expected one of: succeeded, partial, failed, incomplete, lost",
        ),
        (["--listen"], "--listen: expected a value; see `sbg-exporter run --help`"),
        (["--poll-interval", "soon"], '--poll-interval: expected seconds, or a duration such as "30s", "5m", "1h"'),
        (["--history", "forget"], "--history: expected 'ignore' or 'count'"),
        (
            ["--config", "no.toml"],
            "no.toml: cannot read the configuration: No such file or directory; check the path, or run `sbg-exp",
        ),
        (
            ["--config", "."],
            ".: cannot read the configuration: Is a directory; pass the path of a file, not of a folder",
        ),
        ([], "accounts: none configured; run `sbg-exporter init`, write an [[accounts]] table to a file and pass it"),
        (["run", "--no-show-username"], "accounts: none configured"),
        (["demo", "--seconds", "long"], '--seconds: expected seconds, or a duration such as "30s", "5m", "1h"'),
        (["demo", "--listen", "here"], "--listen: expected host:port, [::1]:10037 or :10037"),
        (["demo", "--token", TOKEN], "--token: unknown option; see `sbg-exporter demo --help`"),
        (["demo", "--chaos", "9"], "--chaos: 9 is not from 0 to 3"),
        (["simulate", "--seed", "1.5"], "--seed: expected a whole number, such as 2"),
        (["simulate", "--speed", "fast"], "--speed: expected a number, such as 2"),
        (["simulate", "--order", "none"], "--order: 'none' is none of newest, oldest, mixed, unstable"),
        (
            ["state"],
            "missing command; expected show, check, backup, export, import, forget; see `sbg-exporter state --help`",
        ),
        (["state", "shwo"], "unknown command; did you mean show?"),
        (["state", TOKEN], "unknown command; expected show, check,"),
        (["state", "--json", "show"], "--json: unknown option; see `sbg-exporter state --help`"),
        (["state", "show", "all"], "unexpected argument; see `sbg-exporter state show --help`"),
        (["state", "show", "--jsno"], "--jsno: unknown option; did you mean --json?"),
        (["state", "show", "--listen", ":1"], "--listen: unknown option; see `sbg-exporter state show --help`"),
        (["state", "backup"], "missing PATH; see `sbg-exporter state backup --help`"),
        (["state", "export"], "missing ACCOUNT; see `sbg-exporter state export --help`"),
        (["state", "import"], "missing FILE; see `sbg-exporter state import --help`"),
        (["state", "check", "--config", "no.toml"], "no.toml: cannot read the configuration: No such file"),
        (["version", "-l"], "-l: unknown option; see `sbg-exporter version --help`"),
        (["check", f"--offline={TOKEN}"], "--offline: takes no value; see `sbg-exporter check --help`"),
        (["simulate", "--listen", "here"], "--listen: 'here' is not host:port, such as 127.0.0.1:8089"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_command_line_is_one_line_and_exit_2(typed: Typed, arguments: list[str], line: str) -> None:
    code, out, err = typed(*arguments)

    assert (code, out) == (2, "")
    assert err.startswith(f"sbg-exporter: {line}")
    assert err.count("\n") == 1


def test_every_invalid_option_has_a_line(typed: Typed) -> None:
    assert typed("simulate", "--seed", "x", "--rate", "y") == Ended(
        2,
        "",
        "sbg-exporter: --seed: expected a whole number, such as 2\n"
        "sbg-exporter: --rate: expected a number, such as 2\n",
    )
    assert typed("--a", "--b=c") == Ended(
        2,
        "",
        "sbg-exporter: --a: unknown option; see `sbg-exporter run --help`\n"
        "sbg-exporter: --b: unknown option; see `sbg-exporter run --help`\n",
    )


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        ("demo", ["--listen: expected host:port, [::1]:10037 or :10037", "--seconds: expected seconds"]),
        ("simulate", ["--listen: 'here' is not host:port, such as 127.0.0.1:8089"]),
    ],
)
def test_every_invalid_simulator_option_has_a_line(typed: Typed, command: str, lines: list[str]) -> None:
    wrong = ["--listen", "here", "--seed", "x", "--chaos", "9", "--speed", "-1"]

    code, _, err = typed(command, *wrong, *(("--seconds", "-1") if command == "demo" else ()))

    assert code == 2
    said = err.splitlines()
    assert len(said) == len({*said}) == len(lines) + 3
    for line in (*lines, "--seed: expected a whole", "--chaos: 9 is not from 0 to 3", "--speed: -1.0 is not a number"):
        assert any(each.startswith(f"sbg-exporter: {line}") for each in said)


@pytest.mark.parametrize(
    "arguments",
    [["--auth-token", TOKEN], [f"--auth-token={TOKEN}"], ["run", TOKEN], [f"-{TOKEN}"], ["state", TOKEN], [TOKEN]],
)
def test_token_on_the_command_line_is_not_repeated(typed: Typed, arguments: list[str]) -> None:
    code, _, err = typed(*arguments)

    assert code == 2
    assert TOKEN not in err


def test_user_without_a_home_gets_the_usual_error(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "~")

    assert typed().err.startswith("sbg-exporter: accounts: none configured")


def test_state_commands_need_no_account_and_no_token(typed: Typed, tmp_path: Path) -> None:
    state, config = tmp_path / "state.db", tmp_path / "config.toml"
    Store(state).close()
    config.write_text(
        'state_file = "state.db"\nprofiles = ["*"]\n'
        '[[accounts]]\nname = "lab"\napi_endpoint = "https://cgc-api.sbgenomics.com/v2"\nauth_token_file = "nowhere"\n'
    )

    for asked in (("--config", str(config)), ("--state-file", str(state))):
        assert typed("state", "check", *asked) == Ended(0, f"{state} is intact: 0 accounts, 0 jobs tracked.\n", "")


def with_running_job(state: Path) -> str:
    """Write a state file with an account ``lab`` that has a job; the job's id."""
    now = time.time()
    with closing(Store(state)) as store:
        ledger = store.create("lab", "https://p/v2", "u", "", counting_since=1.0, local_time=now, rules=Rules())
        observe_in(store, ledger, running_job(now), rules=Rules(), now=now)
    return job_id(now)


@pytest.mark.parametrize("config", ["poll_interval =", "poll_intervall = 5", None])
def test_a_state_file_that_is_given_needs_no_configuration(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str | None
) -> None:
    state, file = tmp_path / "state.db", tmp_path / "config.toml"
    running = with_running_job(state)
    if config is not None:
        file.write_text(config)
    monkeypatch.setenv("SBG_EXPORTER_CONFIG", str(file))  # also if it is missing
    at, invalid = ("--state-file", str(state)), "sbg-exporter: the configuration is invalid and not used; "

    for command in (("jobs", "--json"), ("job", running, "--json", "--offline"), ("state", "show", "--json")):
        code, out, err = typed(*command, *at)
        assert (code, err.startswith(invalid), err.count("\n")) == (0, True, 1)
        assert json.loads(out)
        assert typed(*command).code == 2, "without --state-file"
    code, out, err = typed("job", running, *at)
    assert (code, out.startswith(running), err.count("\n")) == (2, True, 1)
    assert err.startswith(f"sbg-exporter: lab: not asked: {file}: ")
    assert typed("jobs", "--state-file", "").code == 2
    monkeypatch.setenv("SBG_EXPORTER_STATE_FILE", str(state))
    assert typed("jobs", "--json").code == 0


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ('state_file = "state.db"\npoll_interval = "often"', 0),
        ('state_file = "state.db"\npoll_intervall = 5\nweb_config_file = "nowhere"', 0),
        ('state_file = "other.db"\npoll_intervall = 5', 1),  # it does not exist
        ("state_file = 5", 2),
        ("poll_intervall = 5", 0),  # the usual one
        ('state_file = "state.db"\npoll_interval =', 2),  # that file may name any
    ],
)
def test_jobs_are_shown_with_an_invalid_configuration_that_names_the_state_file(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, code: int
) -> None:
    state, file = tmp_path / "state.db", tmp_path / "config.toml"
    running = with_running_job(state)
    file.write_text(config)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))

    ended = typed("jobs", "--config", str(file))

    assert ended.code == code
    assert (running in ended.out) == (code == 0)
    if code == 0:
        invalid = (
            "sbg-exporter: the configuration is invalid and not used; `sbg-exporter check` lists its problems; this"
        )
        assert ended.err.startswith(f"{invalid} is {state}\n")


def test_a_job_is_shown_although_no_account_can_be_asked(typed: Typed, tmp_path: Path) -> None:
    state, config = tmp_path / "state.db", tmp_path / "config.toml"
    running = with_running_job(state)
    account = 'api_endpoint = "https://p/v2"\nauth_token_file = "nowhere"\n'
    config.write_text(
        f'state_file = "state.db"\n[[accounts]]\nname = "lab"\n{account}[[accounts]]\nname = "b"\n{account}'
    )

    code, out, err = typed("job", running, "--config", str(config))

    assert typed("check", "--config", str(config)).code == 2
    assert (code, out.startswith(running), err.count("\n")) == (2, True, 1)
    assert f"lab: not asked: {config}: accounts.#1 (lab): {tmp_path}/nowhere: cannot read the token file" in err
    assert err.endswith("; `sbg-exporter check` lists 1 more problem\n")


def test_each_state_command_does_what_its_name_says(typed: Typed, tmp_path: Path) -> None:
    state, copy, moved = tmp_path / "state.db", str(tmp_path / "copy.db"), str(tmp_path / "lab.ledger")
    with closing(Store(state)) as store:
        store.create("lab", "https://p/v2", "u", "", counting_since=1.0, local_time=2.0, rules=Rules())
    at = ("--state-file", str(state))

    assert json.loads(typed("state", "show", "--json", *at).out)["accounts"][0]["names"] == ["lab"]
    assert typed("state", "backup", copy, *at).out.startswith(f"wrote {copy}: 1 account, 0 jobs tracked, ")
    assert typed("state", "backup", copy, *at).code == 1
    assert typed("state", "backup", copy, "--force", *at).code == 0
    assert typed("state", "export", "lab", *at).out.startswith('{"format": "sbg-exporter ledger"')
    assert typed("state", "export", "lab", "--output", moved, *at).out.startswith(f"wrote {moved}: lab, 0 jobs")
    assert typed("state", "forget", "lab", *at).err.startswith("sbg-exporter: this permanently deletes the ledger of")
    assert typed("state", "forget", "lab", "--yes", *at).out.startswith(
        "deleted the ledger of lab (user u on https://p/v2), "
    )
    assert typed("state", "forget", "lab", "--yes", *at) == Ended(
        1, "", f"sbg-exporter: no such account in {state}; its accounts: none\n"
    )
    assert typed("state", "import", moved, "--replace", *at).out.startswith(f"imported into {state}: lab, 0 jobs")


def test_export_warning_goes_to_standard_error(typed: Typed, tmp_path: Path) -> None:
    with closing(Store(tmp_path / "state.db")) as store:
        store.create("lab", "https://p/v2", "u", "", counting_since=1.0, local_time=2.0, rules=Rules())

        code, out, err = typed("state", "export", "lab", "--state-file", str(tmp_path / "state.db"))

    assert code == 0
    assert err.startswith("sbg-exporter: warning: the state file is locked by process ")
    assert all(line.startswith(("{", "[")) for line in out.splitlines())


# ---- as a process ----


def test_process_prints_version_and_help() -> None:
    assert as_process("version") == Ended(0, f"{version_line()}\n", "")
    module = subprocess.run([sys.executable, "-m", "exporter", "--help"], capture_output=True, text=True, check=False)
    assert (module.returncode, module.stderr) == (0, "")


def test_process_with_unknown_option_prints_one_line_and_exits_2() -> None:
    ended = as_process("--nope", PATH=str(Path(COMMAND).parent))
    assert ended == Ended(2, "", "sbg-exporter: --nope: unknown option; see `sbg-exporter run --help`\n")


def test_process_with_missing_token_file_prints_one_line_and_exits_2(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[[accounts]]\nname = "lab"\napi_endpoint = "https://cgc-api.sbgenomics.com/v2"\nauth_token_file = "token"\n'
    )

    assert as_process("--config", str(config), HOME=str(tmp_path)) == Ended(
        2,
        "",
        f"sbg-exporter: {config}: accounts.#1 (lab): {tmp_path}/token: cannot read the token file:"
        " No such file or directory; write only the token to it\n",
    )


def test_process_with_unusable_state_file_prints_one_line_and_exits_1(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    account = {"SB_API_ENDPOINT": "http://127.0.0.1:9/v2", "SB_AUTH_TOKEN": TOKEN, "HOME": str(tmp_path)}

    code, out, err = as_process(
        "--state-file", str(tmp_path / "file" / "state.db"), "--listen", "127.0.0.1:0", **account
    )

    assert (code, out) == (1, "")
    assert err.startswith("sbg-exporter: ")
    assert err.count("\n") == 1


# ---- streams that are closed or full ----


def in_a_shell(line: str) -> Ended:
    """Run *line* in a shell, in which $0 is the command."""
    done = subprocess.run(
        ["sh", "-c", line, COMMAND], env=bare_environment(), capture_output=True, text=True, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


SHORT_DEMO = "demo --listen 127.0.0.1:0 --jobs 1 --seconds 0.1"


@pytest.mark.parametrize("what", ["version", "--version", "--help", SHORT_DEMO])
def test_closed_standard_output_is_no_error(what: str) -> None:
    assert in_a_shell(f"$0 {what} >&-") == Ended(0, "", "")


@pytest.mark.parametrize(
    ("what", "unbuffered"),
    [("version", ""), ("--version", ""), ("--help", ""), (SHORT_DEMO, ""), ("version", "1"), (SHORT_DEMO, "1")],
)
def test_full_standard_output_is_one_line_and_exit_1(what: str, unbuffered: str) -> None:
    assert in_a_shell(f"PYTHONUNBUFFERED={unbuffered} $0 {what} >/dev/full") == Ended(
        1, "", "sbg-exporter: standard output: No space left on device\n"
    )


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
@pytest.mark.parametrize("wrong", ["--nope", "--listen"])
def test_exit_code_is_right_if_the_error_cannot_be_written(wrong: str, where: str) -> None:
    assert in_a_shell(f"$0 run {wrong} {where}") == Ended(2, "", "")


def test_closed_pipe_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)

    done = subprocess.run(
        [COMMAND, "--help"], env=bare_environment(), stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", ["exporter.commands", "exporter.commands.version"])
def test_interrupt_during_imports_ends_the_process_silently(module: str) -> None:
    program = f"""
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.argv = ["sbg-exporter", "version"]
import exporter.__main__
exporter.__main__.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_the_demo_with_exit_0(number: signal.Signals) -> None:
    with subprocess.Popen(
        [COMMAND, "demo", "--listen", "127.0.0.1:0", "--jobs", "3"],
        env={**bare_environment(), "SBG_EXPORTER_POLL_INTERVAL": "not for the demo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        process.send_signal(number)
        rest, err = process.stdout.read(), process.stderr.read()

    assert process.returncode == 0
    assert first.startswith("Status page  ")
    assert rest.endswith("Demo stopped; its state file is deleted.\n")
    assert "Traceback" not in err


def test_demo_ends_after_the_given_seconds(typed: Typed) -> None:
    code, out, err = typed("demo", "--listen", "127.0.0.1:0", "--jobs", "1", "--seconds", "0.01")

    assert code == 0
    assert "Metrics             http://127.0.0.1:" in out
    assert "Traceback" not in err

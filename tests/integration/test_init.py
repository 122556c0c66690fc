"""``init``: from nothing to a checked configuration, typed by a person or piped, and never over an existing file."""

import os
import re
import signal
import stat
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from exporter.api.platforms import PLATFORMS
from exporter.commands import init as init_command
from exporter.commands import main
from exporter.config.first_file import default_config_file
from exporter.config.loading import load
from exporter.redaction import Secret
from exporter.simulator.server import QUIET, RunningSimulator, running
from tests import measured, warm
from tests.isolated import STRANGER, isolated, needs_root
from tests.terminal import OnTerminal
from tests.waiting import eventually

TOKEN = "c0ffee00deadbeef5ec2e75ec2e75ec2"
REPOSITORY = Path(__file__).parents[2]


def init(home: Path, *arguments: str, sent: str = TOKEN, command: str = "init", **environment: str) -> warm.Ended:
    """Run it without a terminal."""
    clean = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    clean |= measured.VARIABLES
    variables = clean | {"HOME": str(home), "PYTHONPATH": str(REPOSITORY)} | environment
    ended = warm.run(["exporter", command, *arguments], variables, home, sent)
    assert TOKEN not in ended.out + ended.err
    return ended


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(scope="module")
def simulator() -> Iterator[RunningSimulator]:
    with running(replace(QUIET, token=TOKEN)) as served:
        yield served


# ---- without a terminal ----


def test_piped_token_and_flags_make_a_checked_configuration(simulator: RunningSimulator, tmp_path: Path) -> None:
    file = tmp_path / "etc" / "config.toml"

    done = init(
        tmp_path, "--platform", simulator.url, "--account", "lab 1/ü", "--config", str(file), sent=f" {TOKEN}\n"
    )

    assert (done.code, done.err) == (0, "")
    token = file.parent / "lab-1.token"
    assert sorted(file.parent.iterdir()) == [file, token]
    assert (token.read_text(), mode(token)) == (f"{TOKEN}\n", 0o600)
    [account] = tomllib.loads(file.read_text())["accounts"]
    assert account == {"name": "lab 1/ü", "api_endpoint": simulator.url, "auth_token_file": "lab-1.token"}
    assert f"wrote {file}\nwrote {token} (mode 0600)\n" in done.out
    only_here = "Only this machine can read the metrics; set listen = "
    assert (only_here in done.out) == ("listen" in tomllib.loads(file.read_text())) == (os.geteuid() != 0)
    assert "lab 1/ü" in done.out.partition("(mode 0600)")[2]
    assert done.out.splitlines()[-1].startswith(f"Next: `sbg-exporter --config {file}` starts the exporter")
    assert init(tmp_path, "--config", str(file), command="check").code == 0


@pytest.mark.parametrize("platform", [each.name for each in PLATFORMS])
def test_every_platform_has_a_name_and_its_endpoint(tmp_path: Path, platform: str) -> None:
    file = tmp_path / "config.toml"

    done = init(tmp_path, "--platform", platform, "--config", str(file), "--offline")

    assert done.code == 0, done.err
    [known] = [each for each in PLATFORMS if each.name == platform]
    [account] = tomllib.loads(file.read_text())["accounts"]
    assert (account["name"], account["api_endpoint"]) == (platform, known.endpoint)
    # The official clients' variables lead to the same name.
    conventional = load({}, {"SB_API_ENDPOINT": known.endpoint, "SB_AUTH_TOKEN": TOKEN}, tmp_path)
    assert [each.name for each in conventional.accounts] == [platform]


def test_refused_token_keeps_the_files_and_says_what_is_next(simulator: RunningSimulator, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"

    done = init(tmp_path, "--platform", simulator.url, "--config", str(file), sent="f" * 32)

    assert done.code == 1
    assert file.exists()
    [token] = tmp_path.glob("*.token")
    assert done.out.splitlines()[-1] == (
        f"Next: correct what is wrong above: the platform in {file}, the token in {token}; if the platform"
        " cannot be reached, check the network and whether it needs a proxy. Then `sbg-exporter check"
        f" --config {file}` tests it again. Another `sbg-exporter init` would add a further account."
    )


@pytest.mark.parametrize(
    ("arguments", "sent", "line"),
    [
        ([], TOKEN, "--platform: missing; standard input is no terminal, so pass one of cavatica, cgc, "),
        (["--platform", "cavatca"], TOKEN, "--platform: unknown; did you mean cavatica?"),
        (["--platform", TOKEN], TOKEN, "--platform: unknown; expected cavatica, cgc, "),
        (["--platform", "http://far.example/v2"], TOKEN, "--platform: api_endpoint is plain http"),
        (["--platform", "cgc", "--account", ""], TOKEN, "--account: expected 1 to 64 printable characters"),
        (["--platform", "cgc", "--account", "a\nb"], TOKEN, "--account: expected 1 to 64 printable characters"),
        (["--platform", "cgc"], "", "standard input: ended without an answer; nothing was written"),
        (["--platform", "cgc"], "two words", "the token: invalid token: contains spaces"),
        (["--platform", "cgc"], "x" * 5000, "the token: invalid token: longer than"),
        (["--platform", "cgc"], "x", "the token: expected 32 hexadecimal characters (0 to 9, a to f), as on "),
        (["--platform", "cgc"], f'"{TOKEN}"', "the token: it has quotation marks; expected the token alone"),
        (["--platform", "cgc"], "x" * 500_000, "standard input: too long; expected one line"),
        (["--platform", "cgc"], f"{TOKEN}\n{TOKEN}\n", "the token: invalid token: contains spaces, line breaks"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(tmp_path: Path, arguments: list[str], sent: str, line: str) -> None:
    done = init(tmp_path, *arguments, "--config", str(tmp_path / "new" / "config.toml"), sent=sent)

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"sbg-exporter: {line}")
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_account_that_the_folder_has_already_is_not_written_again(tmp_path: Path) -> None:
    """The configuration was deleted to start over, the folder was not."""
    file = tmp_path / "config.toml"
    own = tmp_path / "accounts.d" / "mine.toml"
    own.parent.mkdir()
    own.write_text('name = "cgc"\napi_endpoint = "https://one.example/v2"\nauth_token_file = "a"\n')
    (own.parent / "a").write_text(TOKEN)

    done = init(tmp_path, "--platform", "cgc", "--config", str(file), "--offline")

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"sbg-exporter: --account: {own} has an account cgc already; to use it, an empty {file}")
    assert not file.exists()
    file.touch()
    assert [each.name for each in load({"config": str(file)}, {}, tmp_path).accounts] == ["cgc"]


@pytest.mark.parametrize("existing", ["config.toml", "cgc.token"])
@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_nothing_is_overwritten(tmp_path: Path, existing: str, kind: str) -> None:
    there = tmp_path / existing
    if kind == "file":
        there.write_text("mine")
    elif kind == "folder":
        there.mkdir()
    else:
        there.symlink_to(tmp_path / "nowhere")

    done = init(tmp_path, "--platform", "cgc", "--config", str(tmp_path / "config.toml"), "--offline")

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"sbg-exporter: {there} exists already and is not changed; edit it, or ")
    assert list(tmp_path.iterdir()) == [there]
    assert kind != "file" or there.read_text() == "mine"


def test_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = init(tmp_path, "--platform", "cgc", "--config", str(tmp_path / "file" / "config.toml"), "--offline")

    assert done.code == 1
    assert re.fullmatch(r"sbg-exporter: .+ cannot be written: .+; choose another place with --config; .+\n", done.err)


# ---- where the files are ----


def test_other_commands_find_the_file_without_being_told(simulator: RunningSimulator, tmp_path: Path) -> None:
    places = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "XDG_STATE_HOME": str(tmp_path / "state")}
    file = tmp_path / "xdg" / "sbg-exporter" / "config.toml"
    if os.geteuid() == 0:  # root's usual place is the system's; a file of its own comes first
        init(tmp_path, "--platform", simulator.url, "--account", "lab", "--config", str(file), **places)
    else:
        init(tmp_path, "--platform", simulator.url, "--account", "lab", **places)

    assert file.exists()
    assert init(tmp_path, command="check", **places).code == 0
    assert init(tmp_path, command="once", **places).code == 0
    assert (tmp_path / "state" / "sbg-exporter" / "state.db").exists()
    assert init(tmp_path, command="jobs", **places).err.startswith("No jobs: the platform has listed none so far.\n")
    assert f'# state_file = "{tmp_path}/state/sbg-exporter/state.db"   # the default\n' in file.read_text()


@needs_root
def test_without_root_everything_is_in_the_home_folder() -> None:
    def work() -> None:
        assert init_command.command.name == "command"  # imported already: this user may not read the sources
        reader, writer = os.pipe()
        os.write(writer, TOKEN.encode())
        os.close(writer)
        sys.stdin = os.fdopen(reader)
        os.environ |= {"HOME": str(home), "XDG_CONFIG_HOME": ""}

        assert main(["init", "--platform", "cgc", "--offline"]) == 0

    "idna".encode("idna")  # loads the codec
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        home = Path(folder)
        os.chown(home, STRANGER, STRANGER)

        isolated(work, user=STRANGER)

        written = home / ".config" / "sbg-exporter"
        assert {path.name: mode(path) for path in written.iterdir()} == {"config.toml": 0o600, "cgc.token": 0o600}
        assert mode(written) == 0o700
        settings = tomllib.loads((written / "config.toml").read_text())
        assert settings["listen"] == "127.0.0.1:10037", "a laptop does not serve its network"
        assert (written / "cgc.token").stat().st_uid == STRANGER


def test_root_has_the_systems_folder_unless_it_has_a_file_of_its_own(tmp_path: Path) -> None:
    own = tmp_path / ".config" / "sbg-exporter" / "config.toml"
    system = tmp_path / "etc"

    before = default_config_file({}, tmp_path, system=system)
    own.parent.mkdir(parents=True)
    own.touch()

    assert before == (system / "config.toml" if os.geteuid() == 0 else own)
    assert default_config_file({}, tmp_path, system=system) == own


# ---- typed by a person ----


def test_person_chooses_a_platform_and_types_a_token_that_is_not_shown(
    simulator: RunningSimulator, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    with OnTerminal("init", "--config", str(file), home=tmp_path) as command:
        command.wait_for("1 to 6, a name, or an API's URL: ")
        assert "  1  cavatica  CAVATICA               https://cavatica.sbgenomics.com\n" in command.screen
        command.type("7\n").wait_for("expected a number from 1 to 6")
        command.type(f"{simulator.url}\n").wait_for("(not shown): ")
        assert not command.echoes()
        command.type(f"{TOKEN}\n")

        assert command.end() == 0
        assert command.echoes()
        assert TOKEN not in command.screen
    assert (tmp_path / "127-0-0-1.token").read_text() == f"{TOKEN}\n"


def asked(command: OnTerminal, times: int) -> bool:
    """Whether the token has been asked for that often, and the command waits for it."""
    return command.screen.count("(not shown): ") == times and not command.echoes()


def test_person_is_asked_again_for_a_token_that_cannot_be_one(tmp_path: Path) -> None:
    with OnTerminal("init", "--offline", "--config", str(tmp_path / "config.toml"), home=tmp_path) as command:
        command.wait_for("1 to 6, a name, or an API's URL: ").type("CAVATICA\n")
        for times, typed in enumerate(("", TOKEN[:20], TOKEN), 1):
            eventually(partial(asked, command, times))
            command.type(f"{typed}\n")

        assert command.end() == 0
        assert "the token is empty" in command.screen
        assert "as on the platform's token page; found 20 characters\n" in command.screen
        assert TOKEN[:20] not in command.screen
    assert (tmp_path / "cavatica.token").read_text() == f"{TOKEN}\n"


# ---- a further account ----


def configured(folder: Path, text: str = "") -> Path:
    """A configuration with the account ``one``, and *text* above it."""
    file = folder / "config.toml"
    file.write_text(
        f'{text}\n[[accounts]]\nname = "one"\napi_endpoint = "https://one.example/v2"\nauth_token_file = "a"\n'
    )
    (folder / "a").write_text("t0k3n-of-one\n")
    return file


def files(folder: Path) -> dict[str, str]:
    return {str(each.relative_to(folder)): each.read_text() for each in sorted(folder.rglob("*")) if each.is_file()}


@needs_root
def test_a_service_can_enter_the_folder_of_further_accounts_whatever_the_umask(tmp_path: Path) -> None:
    file = configured(tmp_path)

    def work() -> None:
        reader, writer = os.pipe()
        os.write(writer, TOKEN.encode())
        os.close(writer)
        sys.stdin = os.fdopen(reader)
        os.umask(0o077)
        arguments = ["--platform", "cgc", "--account", "two", "--config", str(file), "--offline"]

        assert main(["init", *arguments]) == 0

    isolated(work)

    modes = {path: mode(tmp_path / "accounts.d" / path) for path in (".", "two.toml", "two.token")}
    assert modes == {".": 0o755, "two.toml": 0o644, "two.token": 0o600}


@pytest.mark.parametrize(("name", "stem"), [("two", "two"), ("lab 1/ü", "lab-1")])
def test_further_account_gets_files_of_its_own(tmp_path: Path, name: str, stem: str) -> None:
    file = configured(tmp_path)
    before = files(tmp_path)

    done = init(tmp_path, "--platform", "cgc", "--account", name, "--config", str(file), "--offline")

    own, token = (tmp_path / "accounts.d" / f"{stem}{ending}" for ending in (".toml", ".token"))
    assert (done.code, done.err) == (0, "")
    assert f"wrote {own}\nwrote {token} (mode 0600)\n" in done.out
    assert "Configuration OK: 2 accounts" in done.out
    assert f"Next: a running exporter polls {name}, too, after a reload (SIGHUP)." in done.out
    assert files(tmp_path).items() - before.items() == {
        (f"accounts.d/{stem}.toml", own.read_text()),
        (f"accounts.d/{stem}.token", f"{TOKEN}\n"),
    }
    assert mode(token) == 0o600
    assert tomllib.loads(own.read_text()) == {
        **({} if name == stem else {"name": name}),
        "api_endpoint": "https://cgc-api.sbgenomics.com/v2",
        "auth_token_file": f"{stem}.token",
    }
    loaded = load({"config": str(file)}, {}, tmp_path)
    assert [each.token.read() for each in loaded.accounts if each.name == name] == [Secret(TOKEN, masked=False)]
    own.rename(own.with_stem("renamed"))
    renamed = load({"config": str(file)}, {}, tmp_path)
    assert renamed.names[-1] == ("renamed" if name == stem else name)
    assert not renamed.setup_problems


@pytest.mark.parametrize(
    ("token", "step"),
    [
        (
            TOKEN,
            "The new account can be polled. Correct what is wrong above with one; `sbg-exporter check --config {file}`",
        ),
        ("f" * 32, "Next: correct what is wrong above: the platform in {folder}/two.toml, the token in {folder}/two.t"),
    ],
)
def test_only_an_account_that_failed_is_to_be_corrected(
    simulator: RunningSimulator, tmp_path: Path, token: str, step: str
) -> None:
    file = configured(tmp_path)
    file.write_text(file.read_text().replace("https://one.example/v2", simulator.url))
    (tmp_path / "a").unlink()

    done = init(tmp_path, "--platform", simulator.url, "--account", "two", "--config", str(file), sent=token)

    assert done.code == 1
    _, _, next_steps = done.out.partition("\nFailed: ")[2].partition("\n")
    assert next_steps.startswith(step.format(file=file, folder=tmp_path / "accounts.d"))
    assert ("Next: a running exporter polls two, too" in next_steps) == (token == TOKEN)


@pytest.mark.parametrize(
    ("there", "account", "code", "line"),
    [
        ({}, None, 1, "{file} exists already and is not changed; edit it, or pass --account NAME to add an account"),
        (
            {},
            "one",
            2,
            "--account: there is an account one already; to replace its token, write the new one there: {folder}/a;",
        ),
        ({}, "", 2, "--account: expected 1 to 64 printable characters"),
        ({"accounts.d/x.toml": 'name = "two"'}, "two", 2, "--account: there is an account two already"),
        ({"accounts.d/two.toml": 'name = "x"'}, "two", 1, "{folder}/accounts.d/two.toml exists already"),
        ({"accounts.d/two.token": ""}, "two", 1, "{folder}/accounts.d/two.token exists already"),
        ({"accounts.d/x.toml": "x = 1"}, "two", 2, "{folder}/accounts.d/x.toml: x: unknown key"),
        (
            {"accounts.d/x.toml": 'name = "one"'},
            "two",
            2,
            "{folder}/accounts.d/x.toml: the name 'one' is used already ({file}: accounts.#1 (one))",
        ),
        ({"above": 'profiles = ["p"]'}, "p", 2, "--account: there is an account p already"),
        ({"above": 'profiles = "*"', ".sevenbridges/credentials": "[p]"}, "p", 2, "--account: there is an account p"),
        ({"above": "pol_interval = 5"}, "two", 2, "{file}: pol_interval: unknown key"),
        ({"above": "poll_interval ="}, "two", 2, "{file}: invalid TOML"),
    ],
)
def test_further_account_that_cannot_be_added_changes_nothing(
    tmp_path: Path, there: dict[str, str], account: str | None, code: int, line: str
) -> None:
    file = configured(tmp_path, there.get("above", ""))
    for name, content in there.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    before = files(tmp_path)

    named = () if account is None else ("--account", account)
    done = init(tmp_path, "--platform", "cgc", *named, "--config", str(file))

    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(f"sbg-exporter: {line.format(file=file, folder=tmp_path)}")
    another_is_wrong = code == 2 and not line.startswith("--account")
    assert done.err.endswith("; correct this first; nothing was written\n") is another_is_wrong
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("platform", "line"),
    [
        ("cgc", "account one has this token already, for another platform (https://one.example/v2); to correct that"),
        ("https://one.example/v2", "account one has this token already; to correct that account, edit "),
    ],
)
@pytest.mark.parametrize("variables", [{}, {"SBG_EXPORTER_POLL_INTERVAL": "often"}])
def test_an_account_that_needs_a_correction_is_named_instead_of_adding_another(
    tmp_path: Path, platform: str, line: str, variables: dict[str, str]
) -> None:
    file = configured(tmp_path)
    (tmp_path / "a").write_text(f"{TOKEN}\n")
    before = files(tmp_path)

    done = init(tmp_path, "--platform", platform, "--account", "two", "--config", str(file), **variables)

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"sbg-exporter: {line}")
    assert done.err.endswith(f"edit {file}: accounts.#1 (one); nothing was written\n")
    assert files(tmp_path) == before


def test_account_in_variables_is_not_replaced_by_one_that_is_added(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("poll_interval = 60\n")
    endpoint = {"SB_API_ENDPOINT": "https://cgc-api.sbgenomics.com/v2"}

    done = init(tmp_path, "--platform", "cgc", "--account", "two", "--config", str(file), **endpoint)

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(
        f"sbg-exporter: {file} has no account, so that the exporter polls the one in the variables"
    )
    assert list(files(tmp_path)) == ["config.toml"]


def test_person_is_asked_for_the_name_of_a_further_account(tmp_path: Path) -> None:
    file = configured(tmp_path)
    with OnTerminal("init", "--offline", "--config", str(file), home=tmp_path) as command:
        command.wait_for("1 to 6, a name, or an API's URL: ").type("https://one.example/v2\n")
        command.wait_for(f"Account one is on this platform already. To replace its token ({tmp_path}/a), ")
        command.wait_for("The new account's name (default: one.example): ").type("one\n")
        command.wait_for("there is an account one already; to replace its token, write the new one").type("\n")
        command.wait_for("(not shown): ").type(f"{TOKEN}\n")

        assert command.end() == 0
        assert f"{file} exists already and is not changed; this adds an account to one" in " ".join(
            command.screen.split()
        )
    assert sorted(files(tmp_path / "accounts.d")) == ["one-example.token", "one-example.toml"]


@pytest.mark.parametrize("moment", ["1 to 6, a name, or an API's URL: ", "(not shown): "])
@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_interrupt_leaves_no_file_and_the_echo_on(tmp_path: Path, moment: str, how: str) -> None:
    with OnTerminal("init", "--config", str(tmp_path / "new" / "config.toml"), home=tmp_path) as command:
        command.wait_for("1 to 6, a name, or an API's URL: ")
        if "shown" in moment:
            command.type("cgc\n").wait_for(moment).type("half a tok")
        if how == "Ctrl-C":
            command.type("\x03")
        else:
            command.send(signal.SIGTERM)

        assert command.end() == (-signal.SIGINT if how == "Ctrl-C" else -signal.SIGTERM)
        assert command.echoes()
        assert "half a tok" not in command.screen
        assert "Traceback" not in command.screen
    assert list(tmp_path.iterdir()) == []


def test_end_of_input_is_one_line(tmp_path: Path) -> None:
    with OnTerminal("init", "--config", str(tmp_path / "config.toml"), home=tmp_path) as command:
        command.wait_for("1 to 6, a name, or an API's URL: ").type("\x04")

        assert command.end() == 2
        assert "standard input: ended without an answer; nothing was written" in command.screen
    assert list(tmp_path.iterdir()) == []

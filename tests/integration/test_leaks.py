"""A token in the wrong place is shown by no error, log line or page, and the error still says where and what is right.

All processes started here are searched for their tokens when they end, as in all other tests.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from exporter.simulator.server import QUIET, RunningSimulator, running
from tests import leaks
from tests.harness import OPENMETRICS, Account, Daemon, Installation
from tests.recording_server import RecordingServer
from tests.waiting import eventually

TOKEN = "c0ffee00deadbeef5ec2e75ec2e75ec2"
LONG = "Zm9v" + "aB3-_" * 12
"""Another format: 64 characters."""
REPOSITORY = Path(__file__).parents[2]
ENDPOINT = "https://platform.invalid/v2"


@pytest.fixture(autouse=True)
def _tokens() -> None:
    leaks.use(TOKEN, LONG, TOKEN.upper())


class Wrong(NamedTuple):
    """A configuration with a token in the wrong place, and what the error says."""

    text: str
    says: str


WRONG = {
    "auth_token_file": Wrong('auth_token_file = "{token}"', "accounts.#1 (lab): expected the path of a token file"),
    "auth_token_file in a folder": Wrong('auth_token_file = "etc/{token}"', "expected the path of a token file"),
    "name": Wrong('name = "{token}"\nauth_token_file = "good.token"', "accounts.#1.name: this looks like a token"),
    "endpoint's user": Wrong(
        'api_endpoint = "https://{token}@platform.invalid/v2"\nauth_token_file = "good.token"',
        "accounts.#1 (lab): api_endpoint must not contain a user",
    ),
    "endpoint's path": Wrong(
        'api_endpoint = "https://platform.invalid/{token}"\nauth_token_file = "good.token"',
        "api_endpoint must be a URL",
    ),
    "endpoint's host": Wrong(
        'api_endpoint = "https://{token}/v2"\nauth_token_file = "good.token"', "api_endpoint must be"
    ),
    "endpoint": Wrong('api_endpoint = "{token}"\nauth_token_file = "good.token"', "api_endpoint must be a URL"),
    "profile": Wrong('profile = "{token}"', "accounts.#1 (lab)"),
    "division": Wrong(
        'division = "{token}"\nauth_token_file = "good.token"', "accounts.#1 (lab).division: this looks like a"
    ),
    "ca_file": Wrong('ca_file = "{token}"\nauth_token_file = "good.token"', "ca_file: cannot read"),
    "proxy": Wrong('proxy = "{token}"\nauth_token_file = "good.token"', "proxy: expected a proxy URL"),
    "proxy's host": Wrong(
        'proxy = "http://{token}:3128"\nauth_token_file = "good.token"', "proxy: expected a proxy URL"
    ),
    "unknown key's value": Wrong('auth_tokem = "{token}"', "accounts.#1 (lab).auth_tokem: unknown key"),
    "unknown key": Wrong('auth_token_file = "good.token"\n{token} = "x"', "unknown key"),
    "boolean": Wrong('allow_plain_http = "{token}"\nauth_token_file = "good.token"', "expected true or false"),
    "no quotes": Wrong("auth_token = {token}", "invalid TOML"),
    "key twice": Wrong("{token} = 1\n{token} = 2", "invalid TOML"),
    "table twice": Wrong("[{token}]\n[{token}]", "invalid TOML"),
    "auth_token with more": Wrong('auth_token = "{token} and more"', "invalid token: contains spaces"),
    "two sources": Wrong('auth_token = "{token}"\nauth_token_file = "{token}"', "set exactly one of"),
}


@pytest.mark.fault(
    "a token pasted into the settings file where a path, a name or an address belongs",
    action="exits 2",
    shown="`********` in its place, the key, what is expected",
    recovery="correct the file, and regenerate the token if others could read it",
)
@pytest.mark.parametrize("token", [TOKEN, LONG, TOKEN.upper()], ids=["usual", "long", "upper"])
def test_token_in_the_wrong_place_of_the_file_is_not_shown(tmp_path: Path, token: str) -> None:
    with Installation(tmp_path / "place") as place:
        place.write_token("good", "g" * 40)
        checks = {}
        for number, (where, wrong) in enumerate(WRONG.items()):
            config = place.folder / f"{number}.toml"
            given = "" if "name =" in wrong.text else 'name = "lab"\n'
            given += "" if "api_endpoint" in wrong.text else f'api_endpoint = "{ENDPOINT}"\n'
            config.write_text(f"[[accounts]]\n{given}{wrong.text.replace('{token}', token)}\n")
            checks[where] = place.start("check", "--offline", "--config", config.name)
            if number % 4 == 3:
                _end(checks)
        _end(checks)

    for where, check in checks.items():
        assert WRONG[where].says in check.output(), (where, check.output())
        assert "Traceback" not in check.output()


def _end(checks: Mapping[str, Daemon]) -> None:
    for where, check in checks.items():
        assert check.end() == 2, (where, check.output())


@pytest.mark.parametrize("key", ["name", "division", "api_endpoint"])
def test_token_in_another_format_that_is_used_is_refused_as_a_label(tmp_path: Path, key: str) -> None:
    token = "t0k3n-of-another-format"
    leaks.use(token)
    values = {"name": "a", "division": "b", "api_endpoint": ENDPOINT, key: f"https://platform.invalid/{token}"}
    with Installation(tmp_path / "place") as place:
        place.write_token("a", token)
        lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        place.config.write_text("\n".join(["[[accounts]]", *lines, 'auth_token_file = "a.token"\n']))
        check = place.start("check", "--offline", "--config", str(place.config))

        assert check.end() == 2
        assert "contains a token; use another text" in check.output()


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("state_file", TOKEN, "state_file: expected a path, but this looks like a token"),
        ("listen", TOKEN, "listen: expected host:port"),
        ("profiles", [TOKEN], "profiles"),
        ("log_level", TOKEN, "log_level: expected"),
        ("poll_interval", TOKEN, "poll_interval: expected seconds"),
        ("job_series", TOKEN, "job_series: expected a whole number"),
        ("show_username", TOKEN, "show_username: expected true or false"),
        (TOKEN, "x", "unknown key"),
    ],
)
def test_token_as_a_setting_is_not_shown(tmp_path: Path, key: str, value: object, says: str) -> None:
    settings: dict[str, Any] = {key: value}
    with Installation(tmp_path / "place", Account("a", ENDPOINT, TOKEN), **settings) as place:
        run = place.start()

        assert run.end() == 2
        assert says in run.output()


@pytest.mark.fault(
    "a token typed on the command line or in a variable of another name",
    action="exits 1 or 2",
    shown="`********` in its place, the option or variable, what is expected",
    recovery="correct it, and regenerate the token",
)
@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["run", "--config", TOKEN], {}, "cannot read the configuration: No such file or directory; expected the path"),
        ([TOKEN], {}, "unknown command"),
        (["run", TOKEN], {}, "unexpected argument"),
        (["run", f"--{TOKEN}"], {}, "unknown option"),
        (["run", f"--auth-token={TOKEN}"], {}, "--auth-token: unknown option"),
        (["run", "--listen", TOKEN], {}, "--listen: expected host:port"),
        (["run", "--state-file", TOKEN], {}, "--state-file: expected a path"),
        (["run", "--profiles", TOKEN], {}, "profiles"),
        (["once", "--textfile", TOKEN], {}, "accounts: none configured"),
        (["check", "--log-level", TOKEN], {}, "--log-level: expected"),
        (["state", "show", "--state-file", f"/nowhere/{TOKEN}"], {}, "--state-file: expected a path"),
        (["state", "export", TOKEN], {}, "state file"),
        (["state", "forget", TOKEN, "--yes"], {}, "state file"),
        (["state", "import", TOKEN], {}, "cannot be read"),
        (["state", TOKEN], {}, "unknown command"),
        (["simulate", "--order", TOKEN], {}, "--order"),
        (["simulate", "--listen", TOKEN], {}, "--listen"),
        (["simulate", "--seed", TOKEN], {}, "--seed: expected a whole number"),
        (["demo", "--seconds", TOKEN], {}, "--seconds: expected seconds"),
        (["run"], {"SBG_EXPORTER_AUTH_TOKEN": TOKEN}, "SBG_EXPORTER_AUTH_TOKEN: unknown setting"),
        (["run"], {f"SBG_EXPORTER_{TOKEN}": "x"}, "unknown setting"),
        (["run"], {"SBG_EXPORTER_CONFIG": TOKEN}, "cannot read the configuration"),
        (["run"], {"SBG_EXPORTER_STATE_FILE": TOKEN}, "SBG_EXPORTER_STATE_FILE: expected a path"),
        (["run"], {"SB_API_ENDPOINT": ENDPOINT, "SB_AUTH_TOKEN_FILE": TOKEN}, "expected the path of a token file"),
        (["run"], {"SB_API_ENDPOINT": TOKEN, "SB_AUTH_TOKEN": TOKEN}, "api_endpoint must be a URL"),
        (["run"], {"SB_API_ENDPOINT": f"https://{TOKEN}@x.example", "SB_AUTH_TOKEN": TOKEN}, "must not contain a user"),
        (["run"], {"SB_API_ENDPOINT": ENDPOINT, "SB_AUTH_TOKEN": TOKEN, "HTTPS_PROXY": TOKEN}, "HTTPS_PROXY: expected"),
    ],
)
def test_token_on_the_command_line_or_in_the_environment_is_not_shown(
    tmp_path: Path, arguments: Sequence[str], environment: Mapping[str, str], says: str
) -> None:
    with Installation(tmp_path / "place") as place:
        command = place.start(*arguments, **environment)

        assert command.end() in {1, 2}
        assert says in command.output()
        assert "Traceback" not in command.output()


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running(replace(QUIET, token=TOKEN, username="rfranklin", rate_limit=100_000)) as served:
        yield served


def test_no_command_shows_the_token_that_it_uses(simulator: RunningSimulator, tmp_path: Path) -> None:
    with Installation(tmp_path / "place", Account.at(simulator), log_level="debug") as place:
        place.cold = True  # its command line in the list of processes is looked at too
        config = ("--config", str(place.config))
        with place.running() as daemon:
            for path in ("/", "/metrics", "/-/healthy", "/-/ready", "/nowhere", f"/{'x' * 32}"):
                daemon.get(path)
            daemon.get("/metrics", accept=OPENMETRICS)
            assert place.start("state", "backup", "copy.db", *config).end() == 0
            assert daemon.stop() == 0
        for command in (
            ("check", *config),
            ("once", *config),
            ("once", *config, "--textfile", "sbg.prom"),
            ("state", "show", "--json", *config),
            ("state", "check", *config),
            ("state", "export", "sim", *config),
            ("state", "export", "sim", "--output", "sim.ledger", *config),
            ("version",),
        ):
            assert place.start(*command).end() == 0, command


@pytest.mark.fault(
    "the platform repeats the token as user name, job id or message",
    action="masks it in the response",
    shown="no token",
    recovery="none needed",
)
def test_platform_that_repeats_the_token_does_not_make_it_visible(tmp_path: Path) -> None:
    """In a user name, a job's id and an error message, also escaped as JSON allows."""

    def echo(headers: Mapping[str, str]) -> str:
        token = headers["x-sbg-auth-token"]
        escaped = "".join(f"\\u{ord(each):04x}" for each in token)
        return (
            f'{{"username": "user-{token}", "items": [{{"id": "{token}", "state": "RUNNING", "type": "COPY",'
            f' "message": "{escaped}"}}], "href": "x", "links": []}}'
        )

    for status in (200, 500):
        with (
            RecordingServer(status, echo) as platform,
            Installation(tmp_path / str(status), Account("a", f"{platform.origin}/v2", TOKEN)) as place,
            place.running() as daemon,
        ):
            daemon.scrape_when(lambda now: now.total("sbg_exporter_polls_total") >= 1)
            for path in ("/", "/metrics"):
                daemon.get(path)


@pytest.mark.fault(
    "a token of another user, with `show_username = false`",
    action="does not poll the account",
    shown="result `error`; no user name",
    recovery="the right token, or a new name for the account",
)
@pytest.mark.parametrize("level", ["debug", "info"])
def test_hidden_user_names_are_nowhere(tmp_path: Path, level: str) -> None:
    users = {"0" * 31 + "1": "other-user", "0" * 31 + "2": "third-user"}
    with (
        running(replace(QUIET, token=TOKEN, username="rfranklin", users=users)) as platform,
        Installation(
            tmp_path / "place",
            Account.at(platform, "mine"),
            Account.at(platform, "twin"),
            show_username=False,
            log_level=level,
        ) as place,
    ):
        config = ("--config", str(place.config))
        with place.running() as daemon:
            seen = daemon.get("/").text + daemon.get("/metrics").text
            place.write_token("mine", "0" * 31 + "1")
            eventually(lambda: daemon.said("poll.failed", account="mine"), describe=daemon.output)
            seen += daemon.get("/").text + daemon.get("/metrics").text
            [failed] = daemon.said("poll.failed", account="mine")
            assert daemon.stop() == 0
            seen += daemon.output()
        for command in (
            ("check", "--verbose", *config),
            ("once", *config),
            ("state", "show", *config),
            ("state", "show", "--json", *config),
            ("state", "export", "unknown", *config),
        ):
            started = place.start(*command)
            started.end()
            seen += started.output()
        shown = place.start("check", "--verbose", "--show-username", *config)
        shown.end()

    assert str(failed["reason"]).startswith("the token belongs to another user than the ledger of account mine")
    for name in ("rfranklin", "other-user", "third-user"):
        assert name not in seen
    assert "user        other-user" in shown.output()


def test_platform_message_that_names_the_user_is_masked_if_names_are_hidden(tmp_path: Path) -> None:
    def answer(headers: Mapping[str, str]) -> str:
        assert headers
        return '{"username": "rfranklin", "code": 1, "message": "User RFranklin may not list jobs of rfranklin2"}'

    with (
        RecordingServer(200, answer) as platform,
        Installation(tmp_path / "place", Account("a", f"{platform.origin}/v2"), show_username=False) as place,
        place.running() as daemon,
    ):
        platform.status = 403
        eventually(lambda: "may not list" in daemon.output(), describe=daemon.output)
        assert "User ******** may not list jobs of rfranklin2" in daemon.output()


def test_check_shows_no_user_name_that_only_a_refusal_contains_if_names_are_hidden(tmp_path: Path) -> None:
    refusal = '{"code": 4003, "message": "User rosalind may not use the API"}'
    with (
        RecordingServer(403, lambda _headers: refusal) as platform,
        Installation(tmp_path / "place", Account("a", f"{platform.origin}/v2"), show_username=False) as place,
    ):
        checked = place.start("check", "--config", str(place.config))
        code = checked.end()

    assert code == 1
    assert "the platform refused the token: 403 '********' (code 4003)" in checked.output()
    assert "rosalind" not in checked.output()


@pytest.mark.fault(
    "output in an encoding without the letters of a name",
    action="escapes them",
    shown="`M\\xfcller-Lab`",
    recovery="none needed",
)
@pytest.mark.parametrize(
    ("encoding", "name", "log_format"),
    [
        ("ascii", "Müller-Lab", "console"),
        ("latin-1", "日本 🧬", "json"),
        ("utf-8", "Łódź", "logfmt"),
        ("cp1252", "日本 🧬", "logfmt"),
    ],
)
def test_any_output_encoding_gets_escapes_instead_of_a_traceback(
    simulator: RunningSimulator, tmp_path: Path, encoding: str, name: str, log_format: str
) -> None:
    account = Account(name, simulator.url, TOKEN)
    with Installation(tmp_path / "place", account, log_level="debug", log_format=log_format) as place:
        for command in ("check", "once"):
            done = subprocess.run(
                [sys.executable, "-m", "exporter", command, "--config", str(place.config)],
                env={"PATH": os.environ["PATH"], "HOME": str(place.folder), "PYTHONIOENCODING": encoding},
                cwd=REPOSITORY,
                capture_output=True,
                check=False,
            )
            assert done.returncode == 0, done
            logged = done.stderr.decode(encoding)
            assert "Traceback" not in logged
            leaks.check_text(logged, command)
            if command == "check":
                shown = name.encode(encoding, "backslashreplace").decode(encoding)
                assert done.stdout.decode(encoding).startswith(shown)


@pytest.mark.fault(
    "control characters and line breaks in a message of the platform",
    action="escapes them",
    shown="one line, such as `\\x1b[2J`",
    recovery="none needed",
)
def test_names_from_the_platform_cannot_write_to_a_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\nfake line\r\u202e\u2028\x9b31m"

    def answer(headers: Mapping[str, str]) -> str:
        assert headers
        return json.dumps({"username": "rf", "code": 1, "message": evil, "items": [{"id": evil, "state": evil}]})

    for log_format in ("console", "logfmt", "json"):
        with (
            RecordingServer(400, answer) as platform,
            Installation(
                tmp_path / log_format,
                Account("a", f"{platform.origin}/v2"),
                log_format=log_format,
                log_level="debug",
            ) as place,
        ):
            check = place.start("check", "--config", str(place.config))
            assert check.end() == 1
            once = place.start("once", "--config", str(place.config))
            once.end()
            written = check.output() + "".join(once.lines)

        assert "fake line" in written
        for each in "\x1b\x07\r\u202e\u2028\x9b":
            assert each not in written
        assert not any(line.startswith("fake line") for line in written.splitlines())


@pytest.mark.fault(
    "settings, token and credentials files with a byte order mark, other line ends or another encoding",
    action="reads them, or exits 2 if they are not UTF-8",
    shown="one line with the encoding",
    recovery="save the file as UTF-8",
)
@pytest.mark.parametrize("mark", ["utf-8-sig", "crlf", "spaces", "utf-16", "utf-16-le", "nul"])
def test_files_from_other_systems_are_accepted_or_refused_in_one_line(
    simulator: RunningSimulator, tmp_path: Path, mark: str
) -> None:
    def saved(text: str) -> bytes:
        if mark == "crlf":
            return text.replace("\n", "\r\n").encode()
        if mark == "spaces":
            return text.replace("\n", " \t\n").encode() + b"\n\n  \n"
        return text.encode() + b"\0" if mark == "nul" else text.encode(mark)

    good = mark in {"utf-8-sig", "crlf", "spaces"}
    with Installation(tmp_path / "place") as place:
        credentials = place.folder / "home" / ".sevenbridges" / "credentials"
        credentials.parent.mkdir()
        config = f'[[accounts]]\nname = "a"\napi_endpoint = "{simulator.url}"\nauth_token_file = "a.token"\n'
        place.config.write_bytes(saved(config))
        (place.folder / "plain.toml").write_text(config)
        (place.folder / "a.token").write_bytes(saved(f"{TOKEN}\n"))
        credentials.write_bytes(saved(f"[default]\napi_endpoint = {simulator.url}\nauth_token = {TOKEN}\n"))
        for arguments in (("--config", str(place.config)), ("--config", "plain.toml"), ()):
            check = place.start("check", "--offline", *arguments, PWD=os.sep)
            assert check.end() == (0 if good else 2), check.output()
            if not good:
                [line] = check.lines
                assert "save it as UTF-8" in line or "invalid credentials file" in line

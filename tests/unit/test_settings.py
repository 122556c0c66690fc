"""Configuration sources and their order; errors are one line each: where, what is wrong, what to do."""

import os
import re
import shutil
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import certifi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.api.platforms import PLATFORMS, SHORT_NAMES
from exporter.commands import _state
from exporter.config.accounts import AccountConfig
from exporter.config.endpoints import parse_listen_address
from exporter.config.first_file import find_platform
from exporter.config.loading import Configuration, load, unread_accounts
from exporter.config.own_settings import seconds
from exporter.config.settings import PREFIX, Settings
from exporter.counting.values import Rules
from exporter.errors import ConfigError
from exporter.redaction import Secret
from tests.isolated import STRANGER, isolated, needs_root

TOKEN = "feedfacefeedfacefeedfacefeedface"
OTHER = "0123456789abcdef0123456789abcdef"
CAVATICA = "https://cavatica-api.sbgenomics.com/v2"
CGC = "https://cgc-api.sbgenomics.com/v2"
DEFAULTS = Settings.model_validate({})
SB = {"SB_API_ENDPOINT": CAVATICA, "SB_AUTH_TOKEN": TOKEN}


@dataclass
class Desk:
    """A folder with a configuration file in it, and a home."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.folder / "config.toml"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def write(self, text: str) -> None:
        self.file.write_text(text)

    def credentials(self, text: str) -> None:
        (self.home / ".sevenbridges").mkdir(parents=True)
        (self.home / ".sevenbridges" / "credentials").write_text(text)

    def load(self, environ: Mapping[str, str] | None = None, **flags: object) -> Configuration:
        chosen = {"config": str(self.file), **flags} if self.file.exists() else flags
        return load(chosen, self.environ if environ is None else environ, self.home)

    def accounts(self, text: str = "", **environ: str) -> tuple[AccountConfig, ...]:
        """The accounts that the file *text* and the environment make."""
        if text:
            self.write(text)
        return self.load({**self.environ, **environ}).accounts

    def problems(self, text: str = "", environ: Mapping[str, str] | None = None, **flags: object) -> list[str]:
        """What is wrong with it, the folder's name left out; and no secret is in it."""
        if text:
            self.write(text)
        with pytest.raises(ConfigError) as caught:
            self.load(environ, **flags)
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert TOKEN not in shown
        assert OTHER not in shown
        assert "s3cret" not in shown
        lines = [line.replace(f"{self.folder}/", "") for line in caught.value.problems]
        assert all("\n" not in line for line in lines)
        return lines


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    return Desk(tmp_path)


def account(**keys: str) -> str:
    """An [[accounts]] table; a value of None leaves its key out."""
    table = {"name": '"lab"', "api_endpoint": f'"{CAVATICA}"', "auth_token_file": '"token"', **keys}
    return "[[accounts]]\n" + "".join(f"{key} = {value}\n" for key, value in table.items() if value)


# ---- where a value comes from ----

VALUES: dict[str, tuple[object, str, object, object]] = {
    # key: in the file, in the environment, as a flag, and what the flag then means
    "listen": ('":1"', ":2", "[::1]:3", "[::1]:3"),
    "state_file": ('"/a.db"', "/b.db", "/c.db", Path("/c.db")),
    "poll_interval": ("11", "12s", "1m", 60.0),
    "full_listing_interval": ("11", "12s", "1h", 3600.0),
    "stale_after": ("11", "12s", "2h", 7200.0),
    "settle_after": ("11", "12s", "0", 0.0),
    "lost_after": ("11", "12s", "0s", 0.0),
    "request_timeout": ("11", "12s", "1.5", 1.5),
    "rate_share": ("0.1", "0.2", "1", 1.0),
    "history": ('"count"', "ignore", "count", "count"),
    "job_series": ("1", "2", "0", 0),
    "failed_job_window": ("11", "12s", "1d", 86400.0),
    "duration_buckets": ("[1, 2]", "1,3", "1 5m", (1.0, 300.0)),
    "queue_buckets": ('["1s", "1m"]', "1, 3", "0.5", (0.5,)),
    "show_username": ("false", "true", False, False),
    "enable_lifecycle": ("true", "false", True, True),
    "log_format": ('"json"', "console", "logfmt", "logfmt"),
    "log_level": ('"debug"', "error", "warning", "warning"),
    # Each is an empty file, which is a valid one.
    "web_config_file": ('"/dev/null"', "/dev/../dev/null", "/usr/../dev/null", Path("/usr/../dev/null")),
    "profiles": ('["default"]', "cgc", "cgc, default", ("cgc", "default")),
}
every_key = pytest.mark.parametrize(("key", "values"), VALUES.items(), ids=VALUES)


def test_the_table_above_names_every_setting() -> None:
    assert set(VALUES) == set(Settings.model_fields) - {"accounts"}


@every_key
def test_options_override_variables_override_the_file(
    desk: Desk, key: str, values: tuple[object, str, object, object]
) -> None:
    in_file, in_environment, flag, meant = values
    desk.environ = dict(SB)
    desk.credentials("".join(f"[{name}]\napi_endpoint={CGC}\nauth_token={OTHER}\n" for name in ("default", "cgc")))

    def seen(flags: Mapping[str, object], *, variable: bool, file: bool) -> object:
        desk.write(f"{key} = {in_file}\n" if file else "")
        environ = {**SB, PREFIX + key.upper(): in_environment} if variable else SB
        return getattr(desk.load(environ, **flags).settings, key)

    default = Settings.model_fields[key].default
    alone_in_file = seen({}, variable=False, file=True)
    alone_in_environment = seen({}, variable=True, file=False)
    assert default != alone_in_file != alone_in_environment != meant
    assert seen({}, variable=False, file=False) == default
    assert seen({}, variable=True, file=True) == alone_in_environment
    assert seen({key: flag}, variable=True, file=True) == meant
    assert seen({key: flag}, variable=False, file=True) == meant


def test_full_listing_interval_defaults_to_six_hours(desk: Desk) -> None:
    assert desk.load(SB).settings.full_listing_interval == 6 * 3600
    assert desk.load(SB, full_listing_interval="1d").settings.full_listing_interval == 24 * 3600


def test_config_option_overrides_the_variable(desk: Desk) -> None:
    one, other = desk.folder / "one.toml", desk.folder / "other.toml"
    one.write_text("job_series = 1")
    other.write_text("job_series = 2")
    variable = {**SB, "SBG_EXPORTER_CONFIG": str(one)}

    assert desk.load(variable).file == one
    assert desk.load(variable).settings.job_series == 1
    assert desk.load(variable, config=str(other)).settings.job_series == 2
    assert desk.load(SB).file is None


def test_empty_variable_counts_as_unset(desk: Desk) -> None:
    empty = {**SB, **{PREFIX + key.upper(): "" for key in (*VALUES, "config")}}

    assert desk.load(empty).settings == DEFAULTS


def test_counting_rules_come_from_the_settings(desk: Desk) -> None:
    configuration = desk.load(SB, settle_after="1", lost_after="2", history="count", failed_job_window="3")

    assert configuration.rules == Rules(settle_after=1, lost_after=2, history="count", failed_job_window=3)
    assert desk.load(SB).rules == Rules()


# ---- durations ----


@pytest.mark.parametrize(
    ("text", "meant"),
    [(30, 30), (0.5, 0.5), ("30", 30), ("30s", 30), (" 5m ", 300), ("5 m", 300), ("1.5h", 5400), ("366d", 366 * 86400)],
)
def test_durations_are_seconds_or_a_number_with_a_unit(text: object, meant: float) -> None:
    assert seconds(text) == meant


@pytest.mark.parametrize("value", ["", "s", "-5", "5x", "1h30m", "1e3", "nan", "\u0665s", None, [], True])
def test_invalid_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected seconds, or a duration"):
        seconds(value)


@pytest.mark.parametrize("value", ["367d", "9" * 400, 1e300, float("inf"), float("nan"), 10**400])
def test_duration_over_a_year_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match='must be at most "366d"'):
        seconds(value)


@given(st.text(max_size=12) | st.text(alphabet="0123456789.smhd ", max_size=12))
def test_a_duration_is_read_or_refused(text: str) -> None:
    try:
        assert 0 <= seconds(text) <= 366 * 86400
    except ValueError as error:
        assert str(error).startswith(("expected ", "must be "))  # noqa: PT017  # either way is right


# ---- wrong values ----

DURATION = 'expected seconds, or a duration such as "30s", "5m", "1h"'
BOUNDS = "expected ascending seconds above 0, such as 1, 5, 30"
WHOLE = "expected a whole number, such as 50"
WRONG: list[tuple[str, str]] = [
    ('poll_interval = "soon"', f"poll_interval: {DURATION}"),
    ("poll_interval = true", f"poll_interval: {DURATION}"),
    ("poll_interval = [30]", f"poll_interval: {DURATION}"),
    ("poll_interval = 0.5", "poll_interval: must be at least 1s"),
    ("poll_interval = 0", "poll_interval: must be at least 1s"),
    ("full_listing_interval = 0", "full_listing_interval: must be greater than 0"),
    ('full_listing_interval = "often"', f"full_listing_interval: {DURATION}"),
    ("full_listing_interval = inf", 'full_listing_interval: must be at most "366d"'),
    ("poll_interval = inf", 'poll_interval: must be at most "366d"'),
    ("stale_after = 0", "stale_after: must be greater than 0"),
    ("settle_after = -1", "settle_after: must be at least 0"),
    ('lost_after = "1 year"', f"lost_after: {DURATION}"),
    ("request_timeout = 0", "request_timeout: must be greater than 0"),
    ("rate_share = 0", "rate_share: must be greater than 0"),
    ("rate_share = 25", "rate_share: must be at most 1"),
    ('rate_share = "half"', "rate_share: expected a number, such as 0.5"),
    ("rate_share = []", "rate_share: expected a number, such as 0.5"),
    ("rate_share = nan", "rate_share: expected a finite number, such as 0.5"),
    ('history = "forget"', "history: expected 'ignore' or 'count'"),
    ("history = 1", "history: expected 'ignore' or 'count'"),
    ("job_series = -1", "job_series: must be at least 0"),
    ("job_series = 10001", "job_series: must be at most 10000"),
    ("job_series = 1.5", f"job_series: {WHOLE}"),
    ('job_series = "many"', f"job_series: {WHOLE}"),
    ("job_series = {}", f"job_series: {WHOLE}"),
    ("duration_buckets = []", f"duration_buckets: {BOUNDS}"),
    ("duration_buckets = [0, 1]", f"duration_buckets: {BOUNDS}"),
    ("duration_buckets = [1, 1]", f"duration_buckets: {BOUNDS}"),
    ("duration_buckets = [5, 1]", f"duration_buckets: {BOUNDS}"),
    ("duration_buckets = [1, inf]", f"duration_buckets: {BOUNDS}"),
    ("duration_buckets = 5", f"duration_buckets: {BOUNDS}"),
    ('queue_buckets = "1, two"', f"queue_buckets: {BOUNDS}"),
    ("queue_buckets = [true]", f"queue_buckets: {BOUNDS}"),
    ('show_username = "perhaps"', "show_username: expected true or false"),
    ("show_username = []", "show_username: expected true or false"),
    (
        'log_format = "xml"',
        "log_format: expected 'auto', 'json', 'logfmt' or 'console'",
    ),
    (
        'log_level = "loud"',
        "log_level: expected 'debug', 'info', 'warning' or 'error'",
    ),
    ("profiles = 5", 'profiles: expected a list of names, such as ["cavatica", "cgc"], or "*"'),
    ("profiles = [5]", "profiles.#1: expected text in quotes"),
    ("state_file = 5", "state_file: expected a path in quotes"),
    ("listen = 10037", "listen: expected text in quotes"),
    ('listen = "10037"', "listen: expected host:port, [::1]:10037 or :10037"),
    ('listen = ":65536"', "listen: expected host:port, [::1]:10037 or :10037"),
    (f'listen = ":{"1" * 5000}"', "listen: expected host:port, [::1]:10037 or :10037"),
    ('listen = "::1:10037"', "listen: IPv6 addresses need brackets; write [::1]:10037"),
    ('listen = "::1"', "listen: IPv6 addresses need brackets and a port; write [::1]:10037"),
    ('listen = "::"', "listen: IPv6 addresses need brackets and a port; write [::]:10037"),
    ("polling = 5", "polling: unknown key; see `sbg-exporter run --help`"),
    ("poll_intervall = 5", "poll_intervall: unknown key; did you mean poll_interval?"),
    (f'auth_token = "{TOKEN}"', "auth_token: a key of an account; write it below [[accounts]]"),
    ("accounts = 5", "accounts: expected tables; write [[accounts]] with its keys below it"),
    ("accounts = [5]", "accounts.#1: expected a table; write [[accounts]] with its keys below it"),
    (account(name=""), "accounts.#1.name: missing; set it for every account"),
    (account(name='""'), "accounts.#1.name: expected 1 to 64 printable characters"),
    (account(name='"a\\nb"'), "accounts.#1.name: expected 1 to 64 printable characters"),
    (account(name='" lab"'), "accounts.#1.name: expected 1 to 64 printable characters"),
    (account(name=f'"{"x" * 65}"'), "accounts.#1.name: expected 1 to 64 printable characters"),
    (account(name="5"), "accounts.#1.name: expected text in quotes"),
    (
        account(colour='"red"'),
        (
            "accounts.#1 (lab).colour: unknown key; the keys of an account are name, api_endpoint, auth_token_file,"
            " auth_token, profile, division, ca_file, proxy, allow_plain_http, poll_interval, rate_share, job_series"
        ),
    ),
    (account(auth_tokn=f'"{TOKEN}"'), "accounts.#1 (lab).auth_tokn: unknown key; did you mean auth_token?"),
    (
        account(stale_after="5"),
        "accounts.#1 (lab).stale_after: not a key of an account; write it above the first [[accounts]]",
    ),
    (account(poll_interval='"soon"'), f"accounts.#1 (lab).poll_interval: {DURATION}"),
    (account(poll_interval="0.5"), "accounts.#1 (lab).poll_interval: must be at least 1s"),
    (account(poll_interval='"367d"'), 'accounts.#1 (lab).poll_interval: must be at most "366d"'),
    (account(rate_share="0"), "accounts.#1 (lab).rate_share: must be greater than 0"),
    (account(rate_share="25"), "accounts.#1 (lab).rate_share: must be at most 1"),
    (account(rate_share="nan"), "accounts.#1 (lab).rate_share: expected a finite number, such as 0.5"),
    (account(rate_share="[]"), "accounts.#1 (lab).rate_share: expected a number, such as 0.5"),
    (account(job_series="-1"), "accounts.#1 (lab).job_series: must be at least 0"),
    (account(job_series="10001"), "accounts.#1 (lab).job_series: must be at most 10000"),
    (account(job_series="1.5"), f"accounts.#1 (lab).job_series: {WHOLE}"),
    (account(auth_token="5"), "accounts.#1 (lab).auth_token: expected text in quotes"),
    (account(auth_token_file="5"), "accounts.#1 (lab).auth_token_file: expected a path in quotes"),
    (account(allow_plain_http='"maybe"'), "accounts.#1 (lab).allow_plain_http: expected true or false"),
    (
        account(auth_token=f'"{TOKEN}"'),
        "accounts.#1 (lab): set exactly one of auth_token_file, auth_token and profile",
    ),
    (
        account(auth_token_file=""),
        "accounts.#1 (lab): set exactly one of auth_token_file, auth_token and profile",
    ),
    (
        account(auth_token_file="", auth_token=f'"{TOKEN} {OTHER}"'),
        (
            "accounts.#1 (lab): auth_token: invalid token: contains spaces, line breaks or non-ASCII characters;"
            " expected the token alone"
        ),
    ),
    (
        account(auth_token_file="", auth_token='""'),
        "accounts.#1 (lab): auth_token: the token is empty",
    ),
    (
        account(api_endpoint=""),
        f"accounts.#1 (lab): api_endpoint is missing; set it, for example to {CAVATICA}",
    ),
    (
        account(auth_token_file="", profile='"cgc"'),
        "accounts.#1 (lab): no profile 'cgc' in home/.sevenbridges/credentials, which does not exist",
    ),
    (
        account(auth_token_file='"missing"'),
        (
            "accounts.#1 (lab): missing: cannot read the token file: No such file or directory;"
            " write only the token to it"
        ),
    ),
    (
        account(ca_file='"missing.pem"'),
        "accounts.#1 (lab): ca_file: cannot read missing.pem: No such file or directory",
    ),
    (
        account(ca_file='"token"'),
        "accounts.#1 (lab): ca_file: no certificate in token; expected PEM certificates",
    ),
]


@pytest.mark.parametrize(("text", "line"), WRONG, ids=[line[:60] for _, line in WRONG])
def test_invalid_value_in_the_file_is_one_line(desk: Desk, text: str, line: str) -> None:
    top = "" if "[[accounts]]" in text or text.startswith("accounts") else account()

    assert desk.problems(f"{text}\n{top}", {}) == [f"config.toml: {line}"]


@pytest.mark.parametrize(
    ("flags", "environ", "line"),
    [
        ({"poll_interval": "x"}, {}, f"--poll-interval: {DURATION}"),
        ({"duration_buckets": "x"}, {}, f"--duration-buckets: {BOUNDS}"),
        ({"listen": "x"}, {}, "--listen: expected host:port, [::1]:10037 or :10037"),
        ({}, {"SBG_EXPORTER_JOB_SERIES": "x"}, f"SBG_EXPORTER_JOB_SERIES: {WHOLE}"),
        ({}, {"SBG_EXPORTER_QUEUE_BUCKETS": "[1, 2"}, f"SBG_EXPORTER_QUEUE_BUCKETS: {BOUNDS}"),
        ({"job_series": "x"}, {"SBG_EXPORTER_JOB_SERIES": "y"}, f"--job-series: {WHOLE}"),
        (
            {"config": "none.toml"},
            {},
            (
                "none.toml: cannot read the configuration: No such file or directory; check the path,"
                " or run `sbg-exporter init` to write such a file"
            ),
        ),
        (
            {"profiles": "cgc"},
            {},
            "profiles: cgc: no profile 'cgc' in home/.sevenbridges/credentials, which does not exist",
        ),
        (
            {"profiles": "*"},
            {},
            "profiles: none in home/.sevenbridges/credentials, which does not exist; add [name] sections to it",
        ),
    ],
)
def test_invalid_option_or_variable_is_one_line_that_names_it(
    desk: Desk, flags: dict[str, object], environ: dict[str, str], line: str
) -> None:
    assert desk.problems("", {**SB, **environ}, **flags) == [line]


def test_several_problems_are_several_lines(desk: Desk) -> None:
    desk.write(f"rate_share = 5\npolling = 1\n{account(name='5')}")
    environ = {"SBG_EXPORTER_POL_INTERVAL": "1", "SBG_EXPORTER_JOB_SERIES": "x"}

    assert sorted(desk.problems(environ=environ, poll_interval="soon")) == [
        f"--poll-interval: {DURATION}",
        f"SBG_EXPORTER_JOB_SERIES: {WHOLE}",
        ("SBG_EXPORTER_POL_INTERVAL: unknown setting; did you mean SBG_EXPORTER_POLL_INTERVAL?"),
        "config.toml: accounts.#1.name: expected text in quotes",
        "config.toml: polling: unknown key; see `sbg-exporter run --help`",
        "config.toml: rate_share: must be at most 1",
    ]


def test_problems_beside_accounts_in_capitals_are_lines_too(desk: Desk) -> None:
    text = f"polling = 1\n{account()}".replace("[[accounts]]", "[[ACCOUNTS]]")

    assert desk.problems(text, {}) == ["config.toml: polling: unknown key; see `sbg-exporter run --help`"]


def test_a_key_in_capitals_is_overridden_and_relative_to_the_file_as_any_other(desk: Desk) -> None:
    desk.write(f'Listen = ":1"\nState_File = "s.db"\nPOLL_INTERVAL = "1m"\n{account()}')

    found = desk.load({"SBG_EXPORTER_LISTEN": ":7"}, poll_interval="2m")

    assert (found.port, found.state_file, found.settings.poll_interval) == (7, desk.folder / "s.db", 120)


def test_a_key_in_two_spellings_is_refused(desk: Desk) -> None:
    """One of the two would count, and the other one's accounts be forgotten."""
    other = account(name='"other"').replace("[[accounts]]", "[[Accounts]]")

    assert desk.problems(f'listen = ":1"\nLISTEN = ":2"\n{account()}{other}', {}) == [
        "config.toml: LISTEN: the same setting as listen above; write it once",
        "config.toml: Accounts: the same setting as accounts above; write it once",
    ]


@pytest.mark.parametrize("text", ["\n", "# nobody yet\n"])
def test_file_without_accounts_is_refused(desk: Desk, text: str) -> None:
    line, missing = desk.problems(text, {})

    assert line.startswith("accounts: none configured; run `sbg-exporter init`, write an [[accounts]] table to a file")
    folder = desk.folder / "accounts.d"
    assert missing == "accounts.d: there is no such folder; if it had the accounts, put it back"
    folder.mkdir()
    assert desk.problems(text, {}) == [line]
    assert [each.name for each in desk.load(SB).accounts] == ["cavatica"]


def test_accounts_in_the_folder_are_named_where_the_file_is_missing_that_brings_them(desk: Desk) -> None:
    missing = desk.folder / "sbg-exporter" / "config.toml"

    def told() -> list[str]:
        return list(unread_accounts(missing))

    assert told() == []
    folder = missing.parent / "accounts.d"
    folder.mkdir(parents=True)
    (folder / "cavatica.token").write_text(TOKEN)
    assert told() == []
    (folder / "cavatica.toml").write_text("")
    assert told() == [
        f"{folder}: not read without {missing}: cavatica.toml; to use them, an empty file is enough (`touch {missing}`)"
    ]


WEB: Final = "https://cavatica.sbgenomics.com"


def test_all_problems_of_the_files_are_told_in_one_go_each_with_its_file(desk: Desk) -> None:
    """However little of an account can be used, and also if no account is left."""
    (desk.folder / "token").write_text(TOKEN)
    table = f'[[accounts]]\napi_endpoint = "{WEB}"\n'
    desk.write(
        'poll_intervall = "30s"\nrate_share = 3\nweb_config_file = "web.yml"\n'
        f'{table}name = "a"\nauth_token_file = "token"\nauth_token = "{TOKEN}"\nproxy = "ftp://x"\n'
        f'{table}name = "b"\nauth_tokn_file = "token"\n'
        f'{table}name = "c"\nauth_token_file = "token"\nrate_share = 0\n'
    )
    folder = desk.folder / "accounts.d"
    folder.mkdir()
    (folder / "d.toml").write_text(f'api_endpoint = "{WEB}"\nauth_token_file = "../token"\njob_series = -1\n')
    (folder / "e.toml").write_text(f'api_endpoint = "{WEB}"\nprofil = "x"\nauth_token = 5\nauth_token_file = "t"\n')
    (folder / "f.toml").write_text("x")

    told = [line.partition(";")[0] for line in desk.problems(desk.file.read_text(), {})]

    unreadable = (
        "cannot read the web configuration: No such file or directory (in the configuration file, the path is relative"
        " to it)"
    )
    web = "api_endpoint is a web address of the platform, not its API"
    assert sorted(told) == sorted(
        [
            "config.toml: poll_intervall: unknown key",
            "config.toml: rate_share: must be at most 1",
            f"web.yml: {unreadable}",
            "config.toml: accounts.#1 (a): set exactly one of auth_token_file, auth_token and profile",
            "config.toml: accounts.#1 (a): proxy: expected a proxy URL, such as http://proxy.example.org:3128",
            f"config.toml: accounts.#1 (a): {web}",
            "config.toml: accounts.#2 (b).auth_tokn_file: unknown key",
            f"config.toml: accounts.#2 (b): {web}",
            "config.toml: accounts.#3 (c).rate_share: must be greater than 0",
            f"config.toml: accounts.#3 (c): {web}",
            "accounts.d/d.toml: job_series: must be at least 0",
            f"accounts.d/d.toml: {web}",
            "accounts.d/e.toml: profil: unknown key",
            "accounts.d/e.toml: auth_token: expected text in quotes",
            f"accounts.d/e.toml: {web}",
            (
                "accounts.d/f.toml: invalid TOML: Expected '=' after a key in a key/value pair"
                " (at line 1, the end of the file)"
            ),
        ]
    )


def test_accounts_of_the_file_do_not_matter_to_a_command_that_replaces_them(desk: Desk) -> None:
    desk.write(f'[[accounts]]\nname = "a"\n[[accounts]]\nname = "b"\napi_endpoint = "{WEB}"\n')

    assert desk.load({}, **_state.NO_ACCOUNTS).names == ("none",)


@pytest.mark.parametrize("text", ["api_endp", "pol_interval = 3", 'name = "none"', "name = 5"])
def test_files_of_accounts_do_not_matter_to_a_command_that_replaces_the_accounts(desk: Desk, text: str) -> None:
    desk.write("")
    (desk.folder / "accounts.d").mkdir()
    (desk.folder / "accounts.d" / "a.toml").write_text(text)

    assert desk.load({}, **_state.NO_ACCOUNTS).names == ("none",)


def test_nothing_is_said_to_be_missing_that_could_not_be_used(desk: Desk) -> None:
    for text in ("accounts = 5", "accounts = [5]", "profiles = 5", "[[accounts]]\nname = 5"):
        told = desk.problems(text, {})
        assert told
        assert not [line for line in told if "none configured" in line or "exactly one" in line], told


@pytest.mark.parametrize("link", [False, True])
def test_paths_are_shown_without_dots_where_they_lead_to_the_same_file(desk: Desk, link: bool) -> None:  # noqa: FBT001
    (desk.folder / "elsewhere" / "etc").mkdir(parents=True)
    etc = desk.folder / "etc"
    if link:
        etc.symlink_to(desk.folder / "elsewhere" / "etc")
    else:
        etc.mkdir()
    config = etc / "config.toml"
    config.write_text(
        'state_file = "../var/state.db"\n'
        f'[[accounts]]\nname = "a"\napi_endpoint = "{CGC}"\nauth_token_file = "../a.token"\nca_file = "../ca.pem"\n'
    )
    (desk.folder / ("elsewhere" if link else "") / "a.token").write_text(TOKEN)
    (desk.folder / ("elsewhere" if link else "") / "ca.pem").write_bytes(Path(certifi.where()).read_bytes())

    found = load({"config": str(config)}, {}, desk.home)

    top = etc / ".." if link else desk.folder
    assert (str(found.state_file), str(found.accounts[0].ca_file)) == (f"{top}/var/state.db", f"{top}/ca.pem")
    assert found.accounts[0].token.read() == Secret(TOKEN)
    (top / "a.token").unlink()
    with pytest.raises(ConfigError, match=re.escape(f" {top}/a.token: cannot read the token file")):
        load({"config": str(config)}, {}, desk.home)


class AccountsFolder:
    """The folder with one file per account."""

    def __init__(self, desk: Desk) -> None:
        self._folder = desk.folder / "accounts.d"
        self._folder.mkdir()
        (self._folder / "token").write_text(TOKEN)

    def write(self, file: str, /, **keys: str) -> None:
        given = {"api_endpoint": f'"{CGC}"', "auth_token_file": '"token"', **keys}
        (self._folder / file).write_text("".join(f"{key} = {value}\n" for key, value in given.items() if value))


def test_each_file_of_the_folder_beside_the_configuration_is_an_account(desk: Desk) -> None:
    folder = AccountsFolder(desk)
    folder.write("b.toml")
    folder.write("a.toml", division='"imaging"')
    folder.write("c.toml", name='"cgc-c"')
    for ignored in (".hidden.toml", "d.toml~", "README"):
        folder.write(ignored)

    first, second, third = desk.accounts("poll_interval = 5\n")

    assert [first.name, second.name, third.name] == ["a", "b", "cgc-c"]
    assert first.division == "imaging"
    assert first.token.read().reveal() == TOKEN


def test_what_is_wrong_with_an_account_s_file_names_the_file(desk: Desk) -> None:
    folder = AccountsFolder(desk)
    folder.write("a.toml", divison='"x"')
    folder.write("b.toml", stale_after="5")
    folder.write("c.toml", api_endpoint='"s3cret')
    folder.write("d.toml", allow_plain_http='"s3cret"')
    folder.write("e.toml")
    (desk.folder / "accounts.d" / "f.toml").mkdir()
    folder.write("h.toml", poll_interval="0.5", rate_share="1.5")
    folder.write("i.toml", colour="5")
    (desk.folder / "accounts.d" / "g.toml").write_text("[[accounts]]\nname = 'g'\n")

    desk.write("poll_interval = 5\n")
    found = desk.load()

    problems = [line.replace(f"{desk.folder}/", "") for line in found.file_problems]
    assert "s3cret" not in "".join(problems)
    assert [each.name for each in found.accounts] == ["e"]
    assert sorted(found.setup_problems) == list("abcdfghi")
    assert [line.partition(": ")[0] for line in problems] == [f"accounts.d/{name}.toml" for name in "abcdfghhi"]
    assert problems[0] == "accounts.d/a.toml: divison: unknown key; did you mean division?"
    assert problems[1] == "accounts.d/b.toml: stale_after: not a key of an account; write it to the configuration file"
    assert "invalid TOML" in problems[2]
    assert problems[3] == "accounts.d/d.toml: allow_plain_http: expected true or false"
    assert problems[-1].startswith("accounts.d/i.toml: colour: unknown key; the keys of an account are name, api_endp")
    assert problems[-3:-1] == [
        "accounts.d/h.toml: poll_interval: must be at least 1s",
        "accounts.d/h.toml: rate_share: must be at most 1",
    ]


UNUSABLE_FILES: Final[dict[str, tuple[bytes, str]]] = {
    "empty": (b"", "api_endpoint is missing"),
    "half-written": (b'\napi_endpoint = "https://cgc-api.sb', "(at line 2, the end of the file)"),
    "a duration without quotation marks": (
        b"poll_interval = 10 s",
        "unexpected text at the end of a line; text as a value needs quotation marks (at line 1, column 20)",
    ),
    "half-written, valid so far": (f'api_endpoint = "{CGC}"\n'.encode(), "set exactly one of"),
    "not UTF-8": (b"\xff\xfe\x00", "invalid TOML: "),
    "nested": (b"a = " + b"[" * 100_000, "invalid TOML: "),
    "too large": (b"#" * 2**21, "larger than"),
    "unknown key": (f'api_endpoint = "{CGC}"\nauth_tokn_file = "token"\n'.encode(), "auth_tokn_file: unknown key"),
    "wrong type": (f'api_endpoint = "{CGC}"\nauth_token_file = 5\n'.encode(), "auth_token_file: expected a path"),
    "own setting": (
        f'api_endpoint = "{CGC}"\nauth_token_file = "token"\nrate_share = 2\n'.encode(),
        "rate_share: must be at most 1",
    ),
    "web address": (f'api_endpoint = "{WEB}"\nauth_token_file = "token"\n'.encode(), "api_endpoint is a web address"),
    "proxy": (
        f'api_endpoint = "{CGC}"\nauth_token_file = "token"\nproxy = "ftp://x"\n'.encode(),
        "proxy: expected a proxy URL",
    ),
    "two tokens": (
        f'api_endpoint = "{CGC}"\nauth_token_file = "token"\nprofile = "x"\n'.encode(),
        "set exactly one of",
    ),
    "a table": (b'[[accounts]]\nname = "a"\n', "expected one account's keys"),
}


@pytest.mark.parametrize(("text", "reason"), UNUSABLE_FILES.values(), ids=UNUSABLE_FILES)
def test_a_file_of_an_account_that_cannot_be_used_stops_no_other(desk: Desk, text: bytes, reason: str) -> None:
    folder = AccountsFolder(desk)
    folder.write("good.toml")
    (desk.folder / "accounts.d" / "bad.toml").write_bytes(text)
    desk.write(account())

    found = desk.load()

    assert [each.name for each in found.accounts] == ["lab", "good"]
    [pending] = found.pending
    assert (pending.name, pending.waits) == ("bad", "the file that configures the account is invalid")
    problem = found.setup_problems["bad"]
    assert problem.startswith(f"{desk.folder}/accounts.d/bad.toml: ")
    assert reason in problem
    assert "; ".join(found.file_problems) == problem
    folder.write("bad.toml")
    with pytest.raises(ConfigError) as caught:
        pending.resolve()  # the file is read by a reload, as all others are
    assert str(caught.value) == problem
    assert desk.load().setup_problems == {}


@pytest.mark.parametrize("what", ["folder", "dangling link", "pipe"])
def test_what_is_no_file_among_the_accounts_files_stops_no_account(desk: Desk, what: str) -> None:
    AccountsFolder(desk).write("good.toml")
    bad = desk.folder / "accounts.d" / "bad.toml"
    if what == "folder":
        bad.mkdir()
    elif what == "pipe":
        os.mkfifo(bad)
    else:
        bad.symlink_to("gone")
    desk.write("")

    found = desk.load()

    assert [each.name for each in found.accounts] == ["good"]
    assert found.setup_problems == {"bad": f"{bad}: cannot read the account: not a file"}


def test_an_account_whose_file_cannot_be_used_has_a_name_that_no_other_has(desk: Desk) -> None:
    folder = AccountsFolder(desk)
    folder.write("a.toml", name='"b"')
    for name in ("b", "lab", "cgc", "named", "x" * 65, TOKEN):
        (desk.folder / "accounts.d" / f"{name}.toml").write_text("half = ")
    folder.write("named.toml", name='"right"', divison='"x"')
    desk.credentials(PROFILES)
    desk.write('profiles = "*"\n' + account())

    found = desk.load()

    assert [each.name for each in found.accounts] == ["lab", "b", "default"]
    assert sorted(each.name for each in found.pending) == [
        "accounts.d #4",
        "accounts.d #7",
        "b.toml",
        "cgc",
        "lab.toml",
        "right",
    ]
    assert TOKEN not in repr(found)


def test_files_of_which_none_can_be_used_are_an_error(desk: Desk) -> None:
    AccountsFolder(desk).write("a.toml", divison='"x"')
    desk.write("")

    assert desk.problems() == ["accounts.d/a.toml: divison: unknown key; did you mean division?"]


def test_a_name_that_looks_like_a_token_is_not_repeated_beside_another_key(desk: Desk) -> None:
    lines = desk.problems(account(name=f'"{TOKEN}"', job_series="-1"), {})

    assert [line.split(":")[1] for line in lines] == [" accounts.#1.name", " accounts.#1.job_series"]


OWN = {"poll_interval": ('"5m"', 300.0), "rate_share": ("0.1", 0.1), "job_series": ("0", 0)}


@pytest.mark.parametrize("way", ["table", "file", "profile", "missing profile"])
def test_an_accounts_own_settings_apply_to_it_alone(desk: Desk, way: str) -> None:
    desk.credentials(f"[cgc]\napi_endpoint={CGC}\nauth_token={OTHER}\n")
    own = {key: text for key, (text, _) in OWN.items()}
    text = "job_series = 7\n" + account()
    if way == "file":
        AccountsFolder(desk).write("own.toml", **own)
    else:
        sources = {"table": {}, "profile": {"profile": '"cgc"'}, "missing profile": {"profile": '"other"'}}[way]
        token_file = {} if way == "table" else {"auth_token_file": "", "api_endpoint": ""}
        text += account(name='"own"', **token_file, **sources, **own)
    desk.write(text)

    found = desk.load({"SBG_EXPORTER_JOB_SERIES": "8"}, poll_interval="20")

    shown = {name: found.settings_of(name) for name in found.names}
    assert set(shown) == {"lab", "own"}
    assert {key: getattr(shown["own"], key) for key in OWN} == {key: value for key, (_, value) in OWN.items()}
    assert shown["own"].stale_after == DEFAULTS.stale_after
    assert shown["lab"] == found.settings
    assert (found.settings.poll_interval, found.settings.rate_share, found.settings.job_series) == (20, 0.25, 8)


def test_a_profile_that_is_completed_gives_the_account_of_its_table(desk: Desk) -> None:
    desk.credentials("[other]\n")
    desk.write(account() + account(name='"own"', profile='"cgc"', auth_token_file="", api_endpoint="", job_series="3"))
    [pending] = desk.load({}).pending
    (desk.home / ".sevenbridges" / "credentials").write_text(f"[cgc]\napi_endpoint={CGC}\nauth_token={OTHER}\n")

    completed = pending.resolve()

    assert completed.endpoint == CGC
    assert (completed.entry, completed.own) == (pending.entry, pending.own)
    assert completed == desk.load({}).accounts[1]


PROFILE_CGC: Final = f"[cgc]\napi_endpoint={CGC}\nauth_token={OTHER}\n"
NAMED_TWICE: Final[dict[str, tuple[str, dict[str, dict[str, str]], dict[str, str], dict[str, str]]]] = {
    # what config.toml begins with, the files, the accounts that are polled and their places, the others and theirs
    "as in config.toml": (
        "",
        {"a": {}, "lab": {}},
        {"lab": "config.toml: accounts.#1 (lab)", "a": "accounts.d/a.toml"},
        {"lab.toml": "accounts.d/lab.toml: the name 'lab' is used already (config.toml: accounts.#1 (lab))"},
    ),
    "as another file": (
        "",
        {"a": {"name": '"x"'}, "b": {}, "c": {"name": '"x"'}, "d": {"name": '"x"'}},
        {"lab": "config.toml: accounts.#1 (lab)", "x": "accounts.d/a.toml", "b": "accounts.d/b.toml"},
        {
            "c.toml": "accounts.d/c.toml: the name 'x' is used already (accounts.d/a.toml)",
            "d.toml": "accounts.d/d.toml: the name 'x' is used already (accounts.d/a.toml)",
        },
    ),
    "the name of another file": (
        "",
        {"a": {"name": '"b"'}, "b": {}},
        {"lab": "config.toml: accounts.#1 (lab)", "b": "accounts.d/a.toml"},
        {"b.toml": "accounts.d/b.toml: the name 'b' is used already (accounts.d/a.toml)"},
    ),
    "one with an unknown key": (
        "",
        {"a": {"name": '"x"', "divison": '"d"'}, "b": {"name": '"x"'}},
        {"lab": "config.toml: accounts.#1 (lab)", "x": "accounts.d/b.toml"},
        {
            "a.toml": (
                "accounts.d/a.toml: divison: unknown key; did you mean division?;"
                " accounts.d/a.toml: the name 'x' is used already (accounts.d/b.toml)"
            )
        },
    ),
    "one with an invalid endpoint": (
        "",
        {"a": {"name": '"x"', "api_endpoint": '"x"'}, "b": {"name": '"x"'}},
        {"lab": "config.toml: accounts.#1 (lab)", "x": "accounts.d/b.toml"},
        {
            "a.toml": (
                f"accounts.d/a.toml: api_endpoint must be a URL, such as {CGC};"
                " accounts.d/a.toml: the name 'x' is used already (accounts.d/b.toml)"
            )
        },
    ),
    "two with an unknown key": (
        "",
        {"a": {"name": '"x"', "divison": '"d"'}, "b": {"name": '"x"', "divison": '"d"'}},
        {"lab": "config.toml: accounts.#1 (lab)"},
        {
            "x": "accounts.d/a.toml: divison: unknown key; did you mean division?",
            "b.toml": (
                "accounts.d/b.toml: divison: unknown key; did you mean division?;"
                " accounts.d/b.toml: the name 'x' is used already (accounts.d/a.toml)"
            ),
        },
    ),
    "a profile that is named": (
        'profiles = "cgc"\n',
        {"cgc": {}},
        {"lab": "config.toml: accounts.#1 (lab)", "cgc": "profiles: cgc"},
        {"cgc.toml": "accounts.d/cgc.toml: the name 'cgc' is used already (profiles: cgc)"},
    ),
    "one of all profiles": (
        'profiles = "*"\n',
        {"cgc": {}},
        {"lab": "config.toml: accounts.#1 (lab)", "cgc": "accounts.d/cgc.toml"},
        {"profile cgc": "profiles: cgc: the name 'cgc' is used already (accounts.d/cgc.toml)"},
    ),
    "a copy, with a profile's name as its own": (
        'profiles = "*"\n',
        {"cgc": {"name": '"lab"'}},
        {"lab": "config.toml: accounts.#1 (lab)", "cgc": "profiles: cgc"},
        {"cgc.toml": "accounts.d/cgc.toml: the name 'lab' is used already (config.toml: accounts.#1 (lab))"},
    ),
    "a profile that another file takes": (
        'profiles = "cgc"\n',
        {"cgc": {}, "d": {"profile": '"cgc"', "auth_token_file": ""}},
        {
            "lab": "config.toml: accounts.#1 (lab)",
            "cgc": "accounts.d/cgc.toml",
            "d": "accounts.d/d.toml",
        },
        {},
    ),
}


@pytest.mark.parametrize(("text", "files", "polled", "others"), NAMED_TWICE.values(), ids=NAMED_TWICE)
@pytest.mark.fault(
    "two files of `accounts.d` have accounts of the same name, or one has the name of another account, at a start",
    action="polls the first, and all others; not the later file's",
    shown="`sbg_up` 0 for the file's name; both places in one line, by `check`, which exits 1, too",
    recovery="one has another name, and a reload",
)
def test_an_account_named_as_another_one_stops_no_other(
    desk: Desk,
    text: str,
    files: dict[str, dict[str, str]],
    polled: dict[str, str],
    others: dict[str, str],
) -> None:
    folder = AccountsFolder(desk)
    desk.credentials(PROFILE_CGC)
    for file, keys in files.items():
        folder.write(f"{file}.toml", **keys)
    desk.write(text + account())

    found = desk.load()

    top = f"{desk.folder}/"
    assert {each.name: each.where.replace(top, "") for each in found.accounts} == polled
    told = {name: problem.replace(top, "") for name, problem in found.setup_problems.items()}
    assert {name: problem.partition("; give ")[0] for name, problem in told.items()} == others
    assert {each.name for each in found.pending} == set(others)
    assert "; ".join(found.file_problems) == "; ".join(found.setup_problems.values()), "a reload refuses it"


@pytest.mark.parametrize(
    ("keys", "shown"),
    [({"name": "t0k3n-of-another-format"}, "accounts.d #2"), ({"division": "t0k3n-of-another-f"}, "b")],
)
def test_a_file_with_a_token_in_a_label_stops_no_other_account(desk: Desk, keys: dict[str, str], shown: str) -> None:
    """Nor is that token shown: no other file says that it is one."""
    [secret] = keys.values()
    folder = AccountsFolder(desk)
    folder.write("a.toml")
    folder.write("b.toml", **{key: f'"{text}"' for key, text in keys.items()}, auth_token_file='"other"')
    (desk.folder / "accounts.d" / "other").write_text(secret)
    desk.write(account())

    found = desk.load()

    assert found.names == ("lab", "a", shown)
    assert list(found.setup_problems) == [shown]
    assert [line.replace(f"{desk.folder}/", "") for line in found.file_problems] == [
        "accounts.d/b.toml: its name, division or api_endpoint contains a token; use another text"
    ]
    assert secret not in repr(found)


def test_a_profile_named_as_an_account_of_the_file_stops_no_other(desk: Desk) -> None:
    """It may have been added for another program."""
    desk.credentials(f"{PROFILE_CGC}[lab]\napi_endpoint={CGC}\nauth_token={OTHER}\n")
    desk.write('profiles = "*"\n' + account())

    found = desk.load()

    assert found.names == ("lab", "cgc", "profile lab")
    assert [line.replace(f"{desk.folder}/", "") for line in found.file_problems] == [
        (
            "profiles: lab: the name 'lab' is used already (config.toml: accounts.#1 (lab)); give that account another"
            " name, or rename the profile"
        )
    ]


def test_a_name_that_config_toml_uses_twice_is_told_with_both_places(desk: Desk) -> None:
    desk.credentials(PROFILE_CGC)
    advice = "give each account its own name"

    assert desk.problems('profiles = "cgc"\n' + account(name='"cgc"')) == [
        f"accounts: the name 'cgc' is used 2 times (config.toml: accounts.#1 (cgc), profiles: cgc); {advice}"
    ]
    AccountsFolder(desk).write("lab.toml")
    assert desk.problems(account() + account()) == [
        "accounts.d/lab.toml: the name 'lab' is used already (config.toml: accounts.#1 (lab)); " + advice,
        (
            "accounts: the name 'lab' is used 2 times (config.toml: accounts.#1 (lab), config.toml: accounts.#2 (lab));"
            f" {advice}"
        ),
    ]


def test_every_invalid_account_has_a_line(desk: Desk) -> None:
    text = account(name='"a"', auth_token_file='"no"') + account(name='"b"') + account(name='"c"', api_endpoint='"c"')
    desk.credentials(f"[d]\nauth_token = {TOKEN}\n[e]\napi_endpoint = {CGC}\n")

    assert desk.problems('profiles = "*"\n' + text + account(name='"b"')) == [
        (
            "config.toml: accounts.#1 (a): no: cannot read the token file: No such file or directory;"
            " write only the token to it"
        ),
        f"config.toml: accounts.#3 (c): api_endpoint must be a URL, such as {CGC}",
        f"profiles: d: api_endpoint is missing; set it, for example to {CAVATICA}",
        "profiles: e: auth_token: the token is empty",
        (
            "accounts: the name 'b' is used 2 times (config.toml: accounts.#2 (b), config.toml: accounts.#4 (b));"
            " give each account its own name"
        ),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"auth_token = " + TOKEN.encode(), "invalid TOML"),
        (b"\xff", "invalid TOML"),
        (b"rate_share = " + b"7" * 5000, "invalid TOML"),
        (b'listen = ":1"\nlisten = ":2"', "invalid TOML"),
        (b"[[accounts]\nauth_token = '" + TOKEN.encode(), "invalid TOML"),
    ],
)
def test_invalid_toml_is_one_line_among_the_others(desk: Desk, text: bytes, words: str) -> None:
    desk.file.write_bytes(text)

    unknown, toml = desk.problems(environ={"SBG_EXPORTER_LISTN": ":1"})

    assert unknown.startswith("SBG_EXPORTER_LISTN: unknown setting")
    assert toml.startswith(f"config.toml: {words}")


# ---- variables ----


@pytest.mark.parametrize("name", ["ACCOUNTS", "AUTH_TOKEN", "PORTS", "SERVICE", "PORT_10037", "listen"])
def test_unknown_variable_is_an_error(desk: Desk, name: str) -> None:
    assert desk.problems(environ={**SB, PREFIX + name: TOKEN}) == [
        (f"SBG_EXPORTER_{name}: unknown setting; see `sbg-exporter run --help` (accounts are set in the file)")
    ]


def test_variables_injected_by_kubernetes_are_no_error(desk: Desk) -> None:
    injected = {
        "SBG_EXPORTER_SERVICE_HOST": "10.0.0.11",
        "SBG_EXPORTER_SERVICE_PORT": "10037",
        "SBG_EXPORTER_SERVICE_PORT_METRICS": "10037",
        "SBG_EXPORTER_PORT": "tcp://10.0.0.11:10037",
        "SBG_EXPORTER_PORT_10037_TCP": "tcp://10.0.0.11:10037",
        "SBG_EXPORTER_PORT_10037_TCP_PROTO": "tcp",
        "SBG_EXPORTER_PORT_10037_TCP_PORT": "10037",
        "SBG_EXPORTER_PORT_10037_TCP_ADDR": "10.0.0.11",
        "SBG_EXPORTER_PORT_53_UDP": "udp://10.0.0.11:53",
        "SBG_EXPORTER_PORT_7_SCTP_PROTO": "sctp",
        "SBG_EXPORTER_TEAM_SERVICE_HOST": "10.0.0.12",
        "SBG_EXPORTER_TEAM_PORT_10037_TCP_ADDR": "10.0.0.12",
    }

    assert desk.load({**SB, **injected}).settings == DEFAULTS


# ---- the address to listen on, the state file ----


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (":10037", None, 10037),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("[::1]:10037", "::1", 10037),
        ("[::]:65535", "::", 65535),
        ("metrics.example.org:80", "metrics.example.org", 80),
    ],
)
def test_addresses_to_listen_on(desk: Desk, text: str, host: str | None, port: int) -> None:
    configuration = desk.load(SB, listen=text)

    assert (configuration.host, configuration.port) == (host, port)
    assert parse_listen_address(text) == (host, port)


def test_an_invalid_listen_address_is_refused_outside_of_the_settings() -> None:
    with pytest.raises(ValueError, match=r"^expected host:port, \[::1\]:10037 or :10037$"):
        parse_listen_address("here")


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"STATE_DIRECTORY": "/var/lib/sbg-exporter", "XDG_STATE_HOME": "/x"}, "/var/lib/sbg-exporter/state.db"),
        ({"STATE_DIRECTORY": "/var/lib/one:/var/lib/two"}, "/var/lib/one/state.db"),
        ({"XDG_STATE_HOME": "/x"}, "/x/sbg-exporter/state.db"),
        ({"SBG_EXPORTER_STATE_FILE": "/y/z.db", "STATE_DIRECTORY": "/var/lib/one"}, "/y/z.db"),
    ],
)
def test_where_the_state_file_is(desk: Desk, environ: dict[str, str], path: str) -> None:
    assert desk.load({**SB, **environ}).state_file == Path(path)


def test_state_file_is_relative_to_its_source(desk: Desk) -> None:
    desk.write('state_file = "here.db"\n' + account())

    assert desk.load({}).state_file == desk.folder / "here.db"
    assert desk.load({PREFIX + "STATE_FILE": "there.db"}).state_file == Path("there.db")
    assert desk.load({}, state_file="there.db").state_file == Path("there.db")


def test_state_file_defaults_to_the_home(desk: Desk) -> None:
    assert desk.load(SB).state_file == desk.home / ".local" / "state" / "sbg-exporter" / "state.db"


# ---- accounts from the file ----


def test_account_with_every_key(desk: Desk) -> None:
    shutil.copy(certifi.where(), desk.folder / "ca.pem")
    [config] = desk.accounts(
        account(division='"oncology"', ca_file='"ca.pem"', proxy='"http://team:s3cret@proxy.example.org:3128"')
    )

    assert (config.name, config.endpoint, config.division) == ("lab", CAVATICA, "oncology")
    assert config.token.read() == Secret(TOKEN)
    assert config.ca_file == desk.folder / "ca.pem"
    assert config.proxy == Secret("http://team:s3cret@proxy.example.org:3128")
    assert config.needs_tls


def test_configuration_prints_no_secret(desk: Desk) -> None:
    text = account() + account(
        name='"other"',
        auth_token_file="",
        auth_token=f'"{OTHER}"',
        proxy='"http://team:s3cret@proxy.example.org:3128"',
    )
    desk.credentials(f"[cgc]\napi_endpoint={CGC}\nauth_token={OTHER}\n")
    desk.write(f'profiles = "*"\n{text}')

    shown = repr(desk.load({"HTTPS_PROXY": "http://env:s3cret@proxy.example.org:3128"}))

    assert "other" in shown
    assert TOKEN not in shown
    assert OTHER not in shown
    assert "s3cret" not in shown


def test_a_token_in_the_file_and_one_of_a_profile(desk: Desk) -> None:
    desk.credentials(f"[cgc]\napi_endpoint={CGC}\nauth_token={OTHER}\n")

    mine, theirs, moved = desk.accounts(
        account(name='"mine"', auth_token_file="", auth_token=f'"{TOKEN}"')
        + account(name='"theirs"', auth_token_file="", api_endpoint="", profile='"cgc"')
        + account(name='"moved"', auth_token_file="", profile='"cgc"')
    )

    assert mine.token.read() == Secret(TOKEN)
    assert (theirs.endpoint, theirs.token.read()) == (CGC, Secret(OTHER))
    assert (moved.endpoint, moved.token.read()) == (CAVATICA, Secret(OTHER))


def test_relative_token_file_is_in_systemd_credentials_or_next_to_the_file(desk: Desk) -> None:
    given = desk.folder / "credentials"
    given.mkdir()

    [beside] = desk.accounts(account(), CREDENTIALS_DIRECTORY=str(given))
    (given / "token").write_text(OTHER)
    [among] = desk.accounts(account(), CREDENTIALS_DIRECTORY=str(given))

    assert beside.token.read() == Secret(TOKEN)
    assert among.token.read() == Secret(OTHER)


def test_a_token_file_that_others_can_read_is_one_warning(desk: Desk) -> None:
    desk.write(account())
    assert desk.load().warnings == ()

    (desk.folder / "token").chmod(0o644)

    token = desk.folder / "token"
    assert desk.load().warnings == (f"{token}: others can read this token file (mode 0644); chmod o= it",)


def test_token_in_a_readable_file_is_one_warning_for_all_accounts(desk: Desk) -> None:
    inline = {"auth_token_file": "", "auth_token": f'"{TOKEN}"'}
    desk.write(account(**inline) + account(name='"two"', **inline))
    desk.file.chmod(0o600)
    assert desk.load().warnings == ()

    desk.file.chmod(0o644)

    assert desk.load().warnings == (
        f"{desk.file}: others can read this configuration file with a token in it (mode 0644); chmod o= it",
    )


@pytest.mark.parametrize(
    ("proxy", "is_secret"),
    [
        ("http://user:s3cret@proxy.example:3128", True),
        ("user:s3cret@proxy.example:3128", True),
        ("http://user@proxy.example:3128", False),
        ("proxy.example:3128", False),
    ],
)
def test_a_proxy_s_password_in_a_readable_file_is_one_warning(desk: Desk, proxy: str, *, is_secret: bool) -> None:
    desk.write(account(proxy=f'"{proxy}"') + account(name='"two"', proxy=f'"{proxy}"'))
    desk.file.chmod(0o600)
    assert desk.load().warnings == ()

    desk.file.chmod(0o644)

    told = (
        f"{desk.file}: others can read this configuration file with a proxy's password in it (mode 0644); chmod o= it"
    )
    assert desk.load().warnings == (told,) * is_secret


# ---- accounts that cannot be set up ----

UNUSABLE: dict[str, tuple[dict[str, str], str]] = {
    "token file missing": (
        {"auth_token_file": '"gone"'},
        "gone: cannot read the token file: No such file or directory; write only the token to it",
    ),
    "token file a folder": (
        {"auth_token_file": '"folder"'},
        "folder: cannot read the token file: Is a directory; write only the token to it",
    ),
    "token file empty": ({"auth_token_file": '"empty"'}, "empty: the token is empty; write only the token to it"),
    "token file with a password": (
        {"auth_token_file": '"words"'},
        "words: invalid token: contains spaces, line breaks or non-ASCII characters; write only the token to it",
    ),
    "ca_file missing": ({"ca_file": '"gone"'}, "ca_file: cannot read gone: No such file or directory"),
    "ca_file empty": ({"ca_file": '"empty"'}, "ca_file: no certificate in empty; expected PEM certificates"),
    "ca_file a folder": ({"ca_file": '"folder"'}, "ca_file: folder is not a file; expected PEM certificates"),
    "profile missing": (
        {"auth_token_file": "", "profile": '"gone"'},
        "no profile 'gone' in ~/.sevenbridges/credentials (available: bare, default, elsewhere)",
    ),
    "profile and endpoint missing": (
        {"auth_token_file": "", "api_endpoint": "", "profile": '"gone"'},
        "no profile 'gone' in ~/.sevenbridges/credentials (available: bare, default, elsewhere)",
    ),
    "profile without a token": (
        {"auth_token_file": "", "profile": '"bare"'},
        "profile bare: the token is empty",
    ),
    "profile without an endpoint": (
        {"auth_token_file": "", "api_endpoint": "", "profile": '"bare"'},
        f"api_endpoint is missing; set it, for example to {CAVATICA}",
    ),
    "profile with an unusable endpoint": (
        {"auth_token_file": "", "api_endpoint": "", "profile": '"elsewhere"'},
        f"api_endpoint must be a URL, such as {CGC}",
    ),
}
every_unusable = pytest.mark.parametrize(("keys", "line"), UNUSABLE.values(), ids=UNUSABLE)


@pytest.fixture
def mixed(desk: Desk) -> Desk:
    """A folder with what the accounts above need to go wrong."""
    (desk.folder / "folder").mkdir()
    (desk.folder / "empty").touch()
    (desk.folder / "words").write_text("correct horse")
    desk.credentials(
        f"[default]\napi_endpoint = {CGC}\nauth_token = {TOKEN}\n[bare]\n[elsewhere]\napi_endpoint = nowhere\n"
    )
    return desk


@every_unusable
@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_one_account_that_cannot_be_set_up_stops_no_other(
    mixed: Desk, keys: dict[str, str], line: str, *, first: bool
) -> None:
    tables = [account(name='"good"'), account(name='"bad"', **keys)]
    mixed.write("".join(reversed(tables) if first else tables))

    configuration = mixed.load()

    assert sorted(configuration.names) == ["bad", "good"]
    assert "good" in [each.name for each in configuration.accounts]
    [(name, problem)] = configuration.setup_problems.items()
    assert name == "bad"
    assert problem.replace(f"{mixed.folder}/", "") == f"config.toml: accounts.#{1 if first else 2} (bad): {line}"
    assert TOKEN not in repr(configuration)


@every_unusable
def test_no_account_that_can_be_set_up_is_an_error(mixed: Desk, keys: dict[str, str], line: str) -> None:
    text = account(name='"one"', **keys) + account(name='"two"', auth_token_file='"none"')

    assert mixed.problems(text) == [
        f"config.toml: accounts.#1 (one): {line}",
        (
            "config.toml: accounts.#2 (two): none: cannot read the token file: No such file or directory;"
            " write only the token to it"
        ),
    ]


@needs_root
@pytest.mark.parametrize(
    ("path", "mode", "told"),
    [
        (
            "tokens/a.token",
            0o600,
            (
                "{folder}/accounts.d/a.toml: {folder}/tokens/a.token: cannot read the token file: Permission denied;"
                " it has owner root, group root and mode 0600; this user (uid 65534) must be able to read it"
            ),
        ),
        (
            "tokens",
            0o750,
            (
                "{folder}/accounts.d/a.toml: {folder}/tokens/a.token: cannot read the token file: Permission denied;"
                " its folder {folder}/tokens has owner root, group root and mode 0750; this user (uid 65534) must"
                " be able to enter it"
            ),
        ),
        (
            "accounts.d",
            0o700,
            (
                "{folder}/accounts.d: cannot read the accounts' files: Permission denied; it has owner root, group root"
                " and mode 0700; this user (uid 65534) must be able to read it"
            ),
        ),
        (
            "accounts.d",
            0o744,
            (
                "{folder}/accounts.d/a.toml: cannot read the account: Permission denied; its folder {folder}/accounts.d"
                " has owner root, group root and mode 0744; this user (uid 65534) must be able to enter it"
            ),
        ),
        (
            "accounts.d/a.toml",
            0o600,
            (
                "{folder}/accounts.d/a.toml: cannot read the configuration: Permission denied; it has owner root, group"
                " root and mode 0600; this user (uid 65534) must be able to read it"
            ),
        ),
        (
            "ca.pem",
            0o600,
            (
                "{folder}/accounts.d/a.toml: ca_file: cannot read {folder}/ca.pem: Permission denied; it has owner"
                " root, group root and mode 0600; this user (uid 65534) must be able to read it"
            ),
        ),
        (
            "web.yml",
            0o600,
            (
                "{folder}/web.yml: cannot read the web configuration: Permission denied; it has owner root, group root"
                " and mode 0600; this user (uid 65534) must be able to read it"
            ),
        ),
    ],
    ids=["token", "folder of tokens", "accounts", "accounts, not to be entered", "account", "ca_file", "web"],
)
def test_what_the_exporter_may_not_read_is_told_with_whose_it_is(path: str, mode: int, told: str) -> None:
    def work() -> None:
        with pytest.raises(ConfigError) as caught:
            load({"config": str(folder / "config.toml")}, {}, folder)
        assert list(caught.value.problems) == [told.format(folder=folder)]

    "idna".encode("idna")  # loads the codec
    with tempfile.TemporaryDirectory() as made:  # pytest's own folders are closed to other users
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "accounts.d").mkdir()
        (folder / "tokens").mkdir()
        (folder / "config.toml").write_text('web_config_file = "web.yml"\n')
        (folder / "web.yml").touch()
        shutil.copy(certifi.where(), folder / "ca.pem")
        (folder / "accounts.d" / "a.toml").write_text(
            f'api_endpoint = "{CGC}"\nauth_token_file = "../tokens/a.token"\nca_file = "../ca.pem"\n'
        )
        (folder / "tokens" / "a.token").write_text(TOKEN)
        (folder / path).chmod(mode)

        isolated(work, user=STRANGER)


def test_a_wrong_key_is_an_error_whatever_the_other_accounts_are(mixed: Desk) -> None:
    [line] = mixed.problems(account(name='"good"') + account(name='"bad"', auth_tokn='"x"'))

    assert "unknown key" in line


def test_an_account_whose_profile_is_missing_is_complete_when_the_profile_is_there(mixed: Desk) -> None:
    mixed.write('profiles = ["later"]\n' + account())
    credentials = mixed.home / ".sevenbridges" / "credentials"

    [pending] = mixed.load().pending
    with pytest.raises(ConfigError, match="no profile 'later'"):
        pending.resolve()
    credentials.write_text(f"[later]\napi_endpoint = {CGC}\nauth_token = {OTHER}\n")

    account_config = pending.resolve()
    assert (account_config.name, account_config.endpoint) == ("later", CGC)
    assert account_config.token.read() == Secret(OTHER)
    credentials.unlink()
    with pytest.raises(ConfigError, match="no profile 'later'"):
        account_config.token.read()


def test_unusable_certificates_of_the_environment_concern_the_accounts_that_need_them(mixed: Desk) -> None:
    local = account(name='"local"', api_endpoint='"http://127.0.0.1:9/v2"')
    environ = {"SSL_CERT_FILE": str(mixed.folder / "gone")}
    problem = "SSL_CERT_FILE: cannot read gone: No such file or directory"

    mixed.write(account() + local)
    [line] = mixed.load(environ).setup_problems.values()
    assert line.replace(f"{mixed.folder}/", "") == f"config.toml: accounts.#1 (lab): {problem}"
    assert mixed.problems(account(), environ) == [f"config.toml: accounts.#1 (lab): {problem}"]


def test_a_ca_file_that_no_connection_needs_is_no_problem(desk: Desk) -> None:
    desk.write(account(api_endpoint='"http://127.0.0.1:9/v2"', ca_file='"gone"'))

    assert desk.load().setup_problems == {}


# ---- accounts from profiles ----

PROFILES = f"""\
[default]
api_endpoint = https://api.sbgenomics.com/v2
auth_token = {TOKEN}
[cgc]
api_endpoint = {CGC}
auth_token = {OTHER}
"""


def test_profiles_are_polled_with_the_accounts_of_the_file(desk: Desk) -> None:
    desk.credentials(PROFILES)

    assert [each.name for each in desk.accounts('profiles = ["cgc"]\n' + account())] == ["lab", "cgc"]
    assert [each.name for each in desk.accounts('profiles = "*"\n')] == ["default", "cgc"]
    assert [each.name for each in desk.accounts('profiles = "cgc default"\n')] == ["cgc", "default"]


@pytest.mark.parametrize("wanted", ['"*"', '["cgc", "default"]'])
@pytest.mark.parametrize("name", ["cgc", "imaging"])
def test_a_profile_with_a_table_is_polled_as_the_table_says_and_once(desk: Desk, wanted: str, name: str) -> None:
    desk.credentials(PROFILES)
    table = account(name=f'"{name}"', profile='"cgc"', api_endpoint="", auth_token_file="", poll_interval="60")
    desk.write(f"profiles = {wanted}\n{table}")

    found = desk.load()

    assert [(each.name, found.settings_of(each.name).poll_interval) for each in found.accounts] == [
        (name, 60),
        ("default", 30),
    ]


@pytest.mark.parametrize("text", ["[cgc\n", "", "api_endpoint = x\n"])
def test_credentials_that_cannot_be_used_leave_the_other_accounts(desk: Desk, text: str) -> None:
    desk.credentials(text)
    desk.write('profiles = "*"\n' + account())

    found = desk.load()

    assert found.names == ("lab", "~/.sevenbridges/credentials")
    [problem] = found.setup_problems.values()
    assert found.file_problems == (problem,)


def test_the_next_step_for_credentials_that_cannot_be_read_names_the_file(desk: Desk) -> None:
    desk.credentials("[cgc\n")
    desk.write(
        'profiles = "cgc"\n' + account(name='"own"', profile='"cgc"', api_endpoint="", auth_token_file="") + account()
    )

    [pending] = desk.load().pending

    assert pending.remedy == "correct ~/.sevenbridges/credentials, as the reason says; it is read again within seconds"


def test_all_profiles_may_have_tables(desk: Desk) -> None:
    desk.credentials(f"[cgc]\napi_endpoint={CGC}\nauth_token={OTHER}\n")

    found = desk.accounts('profiles = "*"\n' + account(profile='"cgc"', api_endpoint="", auth_token_file=""))

    assert [each.name for each in found] == ["lab"]


def test_inaccessible_home_is_an_error_only_for_profiles(desk: Desk) -> None:
    (desk.home / ".sevenbridges" / "credentials").mkdir(parents=True)

    assert [each.name for each in desk.accounts(account())] == ["lab"]
    assert [each.name for each in desk.load(SB).accounts] == ["lab"]
    assert desk.problems('profiles = "*"\n') == [
        "home/.sevenbridges/credentials: cannot read the credentials file: Is a directory"
    ]


# ---- the official clients' conventions ----


def test_official_client_variables_configure_one_account(desk: Desk) -> None:
    desk.credentials(PROFILES)

    [account] = desk.load(SB).accounts

    assert (account.name, account.endpoint, account.token.read()) == ("cavatica", CAVATICA, Secret(TOKEN))


def test_token_file_variable_overrides_the_token_variable(desk: Desk) -> None:
    [account] = desk.load({**SB, "SB_AUTH_TOKEN": OTHER, "SB_AUTH_TOKEN_FILE": str(desk.folder / "token")}).accounts

    assert account.token.read() == Secret(TOKEN)


def test_unused_variables_are_named(desk: Desk) -> None:
    both = {**SB, "SB_AUTH_TOKEN_FILE": str(desk.folder / "token")}
    desk.credentials(PROFILES)

    assert desk.load(SB).unused == ""
    assert desk.load(both).unused == (
        "SB_AUTH_TOKEN: not used, because SB_AUTH_TOKEN_FILE is set, too; unset the one that you do not mean"
    )
    assert desk.load({**SB, "SBG_EXPORTER_PROFILES": "default"}).unused == (
        "SB_API_ENDPOINT, SB_AUTH_TOKEN: not used, because accounts are configured; unset them, or remove those"
        " accounts"
    )
    assert TOKEN not in desk.load(both).unused
    AccountsFolder(desk).write("a.toml")
    desk.write("poll_interval = 5\n")
    assert desk.load(both).unused.startswith(
        "SB_API_ENDPOINT, SB_AUTH_TOKEN_FILE, SB_AUTH_TOKEN: not used, because acc"
    )


def test_relative_token_file_variable_is_in_systemd_credentials(desk: Desk) -> None:
    environ = {"SB_API_ENDPOINT": CGC, "SB_AUTH_TOKEN_FILE": "token", "CREDENTIALS_DIRECTORY": str(desk.folder)}

    [account] = desk.load(environ).accounts

    assert account.token.read() == Secret(TOKEN)


def test_default_profile_is_used_without_variables(desk: Desk) -> None:
    desk.credentials(PROFILES)

    [account] = desk.load({}).accounts

    assert (account.name, account.endpoint) == ("default", "https://api.sbgenomics.com/v2")


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        (
            {},
            (
                "accounts: none configured; run `sbg-exporter init`, write an [[accounts]] table to a file and pass it"
                " with --config, or set SB_API_ENDPOINT and SB_AUTH_TOKEN_FILE"
            ),
        ),
        (
            {"SB_API_ENDPOINT": CGC},
            "SB_API_ENDPOINT: no token; set SB_AUTH_TOKEN_FILE or SB_AUTH_TOKEN",
        ),
        (
            {"SB_AUTH_TOKEN": TOKEN},
            f"SB_AUTH_TOKEN: no platform; set SB_API_ENDPOINT, for example to {CAVATICA}",
        ),
        (
            {"SB_AUTH_TOKEN_FILE": "token"},
            f"SB_AUTH_TOKEN_FILE: no platform; set SB_API_ENDPOINT, for example to {CAVATICA}",
        ),
        (
            {**SB, "SB_AUTH_TOKEN": f"{TOKEN} {OTHER}"},
            (
                "SB_AUTH_TOKEN: invalid token: contains spaces, line breaks or non-ASCII characters; expected the token"
                " alone"
            ),
        ),
        (
            {**SB, "SB_API_ENDPOINT": "http://api.example.org/v2"},
            (
                "SB_API_ENDPOINT: api_endpoint is plain http, which sends the token unencrypted; use https, or"
                " configure the account in a file and set allow_plain_http = true"
            ),
        ),
        (
            {**SB, "SB_API_ENDPOINT": f"https://{'long.' * 13}example.org/v2"},
            ("SB_API_ENDPOINT: name: expected 1 to 64 printable characters; configure it in a file under another name"),
        ),
        (
            {**SB, "SB_AUTH_TOKEN_FILE": "/no/such/token"},
            (
                "SB_API_ENDPOINT: /no/such/token: cannot read the token file: No such file or directory;"
                " write only the token to it"
            ),
        ),
    ],
)
def test_incomplete_variables_are_refused(desk: Desk, environ: dict[str, str], line: str) -> None:
    assert desk.problems(environ=environ) == [line]


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("https://api.sbgenomics.com/v2", "aws-us"),
        ("https://eu-api.sbgenomics.com/v2", "aws-eu"),
        (CGC, "cgc"),
        (CAVATICA, "cavatica"),
        ("https://api.sb.biodatacatalyst.nhlbi.nih.gov/v2", "f4c"),
        ("https://api.sevenbridges.cn/v2", "ali-cn"),
        ("https://api.example.org/v2", "api.example.org"),
    ],
)
def test_an_account_without_a_name_is_called_after_its_platform(desk: Desk, endpoint: str, name: str) -> None:
    assert [each.name for each in desk.load({**SB, "SB_API_ENDPOINT": endpoint}).accounts] == [name]


# ---- endpoints ----


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        (CAVATICA, CAVATICA),
        (f"{CAVATICA}/", CAVATICA),
        (f" {CAVATICA} ", CAVATICA),
        ("https://cavatica-api.sbgenomics.com", CAVATICA),
        ("HTTPS://Cavatica-API.sbgenomics.com.:443/v2//", CAVATICA),
        ("https://api.example.org:8443/proxied/v2", "https://api.example.org:8443/proxied/v2"),
        ("https://[2001:DB8::1]:8443", "https://[2001:db8::1]:8443/v2"),
        ("https://b\xfccher.example/v2", "https://xn--bcher-kva.example/v2"),
        ("http://127.0.0.1:8089/v2", "http://127.0.0.1:8089/v2"),
        ("http://[::1]:8089/v2", "http://[::1]:8089/v2"),
        ("http://localhost:80/v2", "http://localhost/v2"),
        ("http://platform.localhost/v2", "http://platform.localhost/v2"),
    ],
)
def test_endpoint_is_normalised(desk: Desk, text: str, endpoint: str) -> None:
    [account] = desk.load({**SB, "SB_API_ENDPOINT": text}).accounts

    assert account.endpoint == endpoint
    assert account.needs_tls is endpoint.startswith("https:")


@pytest.mark.parametrize(
    "text",
    [
        "cavatica",
        "cavatica-api.sbgenomics.com/v2",
        "https://",
        "https:///v2",
        "https://a b.example/v2",
        "https://api.example.org/v\x002",
        "https://.example/v2",
        "https://a..example/v2",
        "https://1.2.3.999/v2",
        "https://[::1/v2",
        "https://[vx.1]/v2",
        "https://api.example.org:port/v2",
        "https://api.example.org:99999/v2",
        f"https://{'x' * 64}.example/v2",
    ],
)
def test_invalid_endpoint_is_refused(desk: Desk, text: str) -> None:
    assert desk.problems(environ={**SB, "SB_API_ENDPOINT": text}) == [
        "SB_API_ENDPOINT: api_endpoint must be a URL, such as https://cgc-api.sbgenomics.com/v2"
    ]


@pytest.mark.parametrize(
    ("text", "api"),
    [
        ("https://cavatica.sbgenomics.com", CAVATICA),
        ("https://cavatica.sbgenomics.com/v2", CAVATICA),
        ("https://cavatica.sbgenomics.com/u/rfranklin/#q?a=b", CAVATICA),
        ("http://CAVATICA.sbgenomics.com.:80/", CAVATICA),
        ("https://www.cavatica.org/", CAVATICA),
        ("https://docs.cavatica.org/reference", CAVATICA),
        ("https://cgc.sbgenomics.com", CGC),
        ("https://www.cancergenomicscloud.org", CGC),
        ("https://igor.sbgenomics.com/developer#token", "https://api.sbgenomics.com/v2"),
        ("https://sbgenomics.com", "https://api.sbgenomics.com/v2"),
        ("https://eu.sbgenomics.com", "https://eu-api.sbgenomics.com/v2"),
        ("https://platform.sb.biodatacatalyst.nhlbi.nih.gov", "https://api.sb.biodatacatalyst.nhlbi.nih.gov/v2"),
        ("https://www.sevenbridges.cn", "https://api.sevenbridges.cn/v2"),
        ("https://gcp.sbgenomics.com", "https://gcp-api.sbgenomics.com/v2"),
    ],
)
def test_web_address_is_refused_with_the_api_that_belongs_to_it(desk: Desk, text: str, api: str) -> None:
    assert desk.problems(environ={**SB, "SB_API_ENDPOINT": text}) == [
        f"SB_API_ENDPOINT: api_endpoint is a web address of the platform, not its API; should it be {api}?"
    ]


@pytest.mark.parametrize("path", ["/v2/v2", "/v2/async/files", "/v2/user/", "/v1", "/V2", "/api/v2", "/developer"])
@pytest.mark.parametrize("host", [*SHORT_NAMES, "gcp-api.sbgenomics.com"])
def test_path_after_the_base_of_a_known_api_is_refused(desk: Desk, host: str, path: str) -> None:
    assert desk.problems(environ={**SB, "SB_API_ENDPOINT": f"https://{host}{path}"}) == [
        f"SB_API_ENDPOINT: api_endpoint is more than the API's base URL; should it be https://{host}/v2?"
    ]


@pytest.mark.parametrize(
    ("path", "question"),
    [
        ("", None),
        ("/v2/", None),
        ("/proxied/v2", None),
        ("/v2/v2", "goes on after /v2; should it be https://api.example.org/v2?"),
        ("/proxied/v2/async/files/", "goes on after /v2; should it be https://api.example.org/proxied/v2?"),
        ("/proxied", "does not end in /v2; should it be https://api.example.org/proxied/v2?"),
        ("/v3", "does not end in /v2; should it be https://api.example.org/v2?"),
        ("/proxied/V1", "does not end in /v2; should it be https://api.example.org/proxied/v2?"),
        ("/v20/v2", None),
        ("/v20", "does not end in /v2; should it be https://api.example.org/v20/v2?"),
    ],
)
def test_unusual_path_of_another_host_gets_a_warning(desk: Desk, path: str, question: str | None) -> None:
    found = desk.load({**SB, "SB_API_ENDPOINT": f"https://api.example.org{path}"})

    assert found.endpoint_warnings == (() if question is None else (f"SB_API_ENDPOINT: api_endpoint {question}",))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *((each.web, each.name) for each in PLATFORMS),
        *((each.endpoint, each.name) for each in PLATFORMS),
        ("cgc-api.sbgenomics.com", "cgc"),
        ("CGC-api.sbgenomics.com/v2/", "cgc"),
        ("cavatica.sbgenomics.com/developer", "cavatica"),
        ("http://cgc-api.sbgenomics.com/v2", "cgc"),
        ("Cancer Genomics Cloud", "cgc"),
        ("https://one.example/v2", "one.example"),
    ],
)
def test_init_takes_the_addresses_that_it_lists(text: str, name: str) -> None:
    found = find_platform(text)
    assert found.name == name
    assert found.endpoint.startswith("https://")
    assert found.endpoint.endswith("/v2")


@pytest.mark.parametrize("text", ["one.example", "https://[x", "cgc-api.sbgenomics.com:1", "u:p@cgc.sbgenomics.com"])
def test_init_refuses_what_is_no_platform(text: str) -> None:
    with pytest.raises(ConfigError):
        find_platform(text)


def test_unknown_host_of_a_platforms_domain_is_left_alone(desk: Desk) -> None:
    [account] = desk.load({**SB, "SB_API_ENDPOINT": "https://new-api.sbgenomics.com"}).accounts

    assert account.endpoint == "https://new-api.sbgenomics.com/v2"


def test_user_in_a_web_address_is_not_repeated(desk: Desk) -> None:
    [problem] = desk.problems(environ={**SB, "SB_API_ENDPOINT": f"https://user:{TOKEN}@cavatica.sbgenomics.com"})

    assert TOKEN not in problem


def test_endpoint_of_another_protocol_is_refused(desk: Desk) -> None:
    assert desk.problems(environ={**SB, "SB_API_ENDPOINT": "ftp://api.example.org/v2"}) == [
        "SB_API_ENDPOINT: api_endpoint must be http or https, such as https://cgc-api.sbgenomics.com/v2"
    ]


@pytest.mark.parametrize("rest", [f"user:{TOKEN}@api.example.org/v2", "api.example.org/v2?a=b", "api.example.org/v2#a"])
def test_endpoint_with_user_query_or_fragment_is_refused(desk: Desk, rest: str) -> None:
    assert desk.problems(environ={**SB, "SB_API_ENDPOINT": f"https://{rest}"}) == [
        "SB_API_ENDPOINT: api_endpoint must not contain a user, query or fragment"
    ]


@pytest.mark.parametrize("host", ["api.example.org", "10.0.0.1", "localhost.example.org", "[::2]"])
def test_plain_http_to_another_machine_is_refused_unless_it_is_allowed(desk: Desk, host: str) -> None:
    plain = account(api_endpoint=f'"http://{host}/v2"')

    assert desk.problems(plain) == [
        (
            "config.toml: accounts.#1 (lab): api_endpoint is plain http, which sends the token unencrypted;"
            " use https, or set allow_plain_http = true"
        )
    ]
    [config] = desk.accounts(f"{plain}allow_plain_http = true\n")
    assert not config.needs_tls


# ---- proxies ----

PROXY = "http://team:s3cret@proxy.example.org:3128"


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": PROXY}, PROXY),
        ({"HTTPS_PROXY": "http://upper.example", "https_proxy": PROXY}, PROXY),
        ({"HTTPS_PROXY": PROXY, "https_proxy": ""}, None),
        ({"HTTP_PROXY": PROXY}, None),
        ({"HTTPS_PROXY": "proxy.example.org:3128"}, "http://proxy.example.org:3128"),
        ({"HTTPS_PROXY": "https://proxy.example.org"}, "https://proxy.example.org"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "example.org, .sbgenomics.com"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "*.sbgenomics.com"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "cavatica-api.sbgenomics.com:443"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "cavatica-api.sbgenomics.com:8443"}, PROXY),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "sbgenomics.org,::1,fe80::/10"}, PROXY),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "*", "no_proxy": ""}, PROXY),
        ({"HTTPS_PROXY": " "}, None),
        ({"ALL_PROXY": PROXY, "all_proxy": PROXY}, None),
    ],
)
def test_proxy_variables_are_used(desk: Desk, environ: dict[str, str], proxy: str | None) -> None:
    [account] = desk.load({**SB, **environ}).accounts

    assert account.proxy == (None if proxy is None else Secret(proxy))


def test_plain_http_has_a_proxy_of_its_own_and_no_proxy_may_name_a_port(desk: Desk) -> None:
    desk.write(account(api_endpoint='"http://api.example.org:8080/v2"', allow_plain_http="true"))

    [proxied] = desk.load({"HTTP_PROXY": PROXY, "HTTPS_PROXY": "http://other.example"}).accounts
    [direct] = desk.load({"HTTP_PROXY": PROXY, "NO_PROXY": "api.example.org:8080"}).accounts

    assert (proxied.proxy, direct.proxy) == (Secret(PROXY), None)


@pytest.mark.parametrize(
    ("endpoint", "no_proxy", "direct"),
    [
        ("https://[2001:db8::1]:8443/v2", "2001:db8::1", True),
        ("https://[2001:db8::1]:8443/v2", "[2001:db8::1]:8443", True),
        ("https://[2001:db8::1]:8443/v2", "2001:db8::/32", True),
        ("https://[2001:db8::1]/v2", "[2001:db8::1]:443", True),
        ("https://[2001:db8::1]/v2", "2001:db9::/32", False),
        ("https://10.1.2.3/v2", "10.0.0.0/8", True),
        ("https://10.1.2.3:8443/v2", "10.1.2.3:443", False),
    ],
)
def test_no_proxy_may_name_addresses_and_networks(desk: Desk, endpoint: str, no_proxy: str, *, direct: bool) -> None:
    environ = {**SB, "SB_API_ENDPOINT": endpoint, "HTTPS_PROXY": PROXY, "NO_PROXY": no_proxy}

    assert [each.proxy for each in desk.load(environ).accounts] == [None if direct else Secret(PROXY)]


@pytest.mark.parametrize(("name", "proxy"), [("HTTP_PROXY", None), ("http_proxy", Secret(PROXY))])
def test_a_cgi_program_ignores_the_variable_that_its_clients_can_set(
    desk: Desk, name: str, proxy: Secret | None
) -> None:
    desk.write(account(api_endpoint='"http://api.example.org/v2"', allow_plain_http="true"))

    [found] = desk.load({name: PROXY, "REQUEST_METHOD": "GET"}).accounts

    assert found.proxy == proxy


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost", "platform.localhost"])
def test_proxy_variables_are_ignored_for_loopback(desk: Desk, host: str) -> None:
    environ = {**SB, "SB_API_ENDPOINT": f"http://{host}:8089/v2", "HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY}

    assert [each.proxy for each in desk.load(environ).accounts] == [None]


def test_proxy_of_an_account_overrides_the_variables(desk: Desk) -> None:
    text = account(api_endpoint='"http://localhost:8089"', proxy='"https://own.example.org"')

    [config] = desk.accounts(text, HTTP_PROXY=PROXY, NO_PROXY="*")

    assert config.proxy == Secret("https://own.example.org")
    assert config.needs_tls


@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://proxy.example.org",
        "http://",
        "http://team:s3cret@",
        "http://proxy:s3cret",
        "http://a b",
        "",
        "http://[x",
    ],
)
def test_invalid_proxy_is_refused_with_its_source(desk: Desk, proxy: str) -> None:
    wrong = "expected a proxy URL, such as http://proxy.example.org:3128"

    if proxy:
        assert desk.problems(environ={**SB, "https_proxy": proxy}) == [f"https_proxy: {wrong}"]
    assert desk.problems(account(proxy=f'"{proxy}"')) == [f"config.toml: accounts.#1 (lab): proxy: {wrong}"]


@pytest.mark.parametrize(
    "proxy", ["http://ops:s3cr#et@{}", "http://ops:1#s3cret@{}", "ops:s3cret/x@{}", "http://a?s3cret@{}"]
)
def test_a_proxy_password_with_special_characters_is_to_be_encoded(desk: Desk, proxy: str) -> None:
    proxy = proxy.format("proxy.example:3128")
    encode = "percent-encode special characters in the proxy's user name and password, for example # as %23"

    for source, told in (
        ("https_proxy", desk.problems(environ={**SB, "https_proxy": proxy})),
        ("config.toml: accounts.#1 (lab): proxy", desk.problems(account(proxy=f'"{proxy}"'))),
    ):
        [line] = told
        assert line.startswith(f"{source}: {encode}")
    [good] = desk.accounts(account(proxy='"http://ops:s3cr%23et%40@proxy.example:3128"'))
    assert good.proxy is not None

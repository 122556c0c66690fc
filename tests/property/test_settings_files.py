"""Any settings or credentials file is read, or refused in lines without a token; never with another exception."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from hypothesis import example, given
from hypothesis import strategies as st

from exporter.config.account_tables import AccountTable
from exporter.config.loading import load
from exporter.config.settings import Settings
from exporter.config.tokens import TokenFile, read_profiles
from exporter.errors import ConfigError

TOKEN: Final = "c0ffee00deadbeef5ec2e75ec2e75ec2"
LONG: Final = "Zm9v" + "aB3-_" * 12

KEYS: Final = (*Settings.model_fields, *AccountTable.model_fields, "[[accounts]]", "[accounts]", "[x]", TOKEN)
PIECES: Final = (
    *KEYS,
    *(f"{key} = " for key in KEYS),
    TOKEN,
    LONG,
    f'"{TOKEN}"',
    f'"https://{TOKEN}@host/v2"',
    f'"{LONG}"',
    '"https://cgc-api.sbgenomics.com/v2"',
    '"30s"',
    '"\\u0000"',
    "true",
    "1e400",
    "nan",
    "9" * 5000,
    "[" * 2000,
    "{a=" * 500,
    "1979-05-27T07:32:00Z",
    "-9223372036854775809",
    '"""',
    "\\",
    "=",
    "\n",
    "\r",
    "\t",
    "#",
    "\ufeff",
    "\0",
    "é",
    "\U0001f9ec",
    "%(x)s",
    "[default]",
    "[DEFAULT]",
    "[\0]",
    f"[{TOKEN}]",
    "auth_token",
    ":",
    "  ",
)
"""What settings and credentials files are made of, and what breaks their parsers."""

PLAIN = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
SETTINGS = st.lists(
    st.tuples(st.sampled_from(KEYS), st.sampled_from(PIECES)).map(lambda pair: f"{pair[0]} = {pair[1]}\n"), max_size=8
).map("".join)
ENCODED = st.tuples(
    st.one_of(PLAIN, SETTINGS), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1"])
).map(lambda pair: pair[0].encode(pair[1], "replace"))
FILES = st.one_of(ENCODED, st.binary(max_size=200), ENCODED.map(lambda raw: raw[: len(raw) // 2]))


def in_folder(check: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder))


def lines_of(read: Callable[[], object]) -> tuple[str, ...]:
    """The lines of the refusal; none if *read* succeeds."""
    try:
        read()
    except ConfigError as error:
        return (*error.problems, str(error), repr(error))
    return ()


def check_lines(lines: tuple[str, ...]) -> None:
    for line in lines:
        assert TOKEN not in line
        assert LONG not in line
        assert line.isprintable()


@given(FILES)
@example(f"auth_token = {TOKEN}".encode())
@example(f'[[accounts]]\nname = "a"\nauth_token_file = "{TOKEN}"\napi_endpoint = "https://x.example"'.encode())
@example(f"[{TOKEN}]\n[{TOKEN}]".encode())
@example(b"listen = " + b"[" * 100_000)
@example(b"job_series = " + b"9" * 10_000)
@example(b'state_file = "\\u0000"')
@example(b'[[accounts]]\nname = "a"\napi_endpoint = "https://x.example"\nauth_token_file = "\\u0000"')
def test_any_settings_file_is_read_or_refused_without_its_tokens(raw: bytes) -> None:
    def check(folder: Path) -> None:
        (folder / "config.toml").write_bytes(raw)
        check_lines(lines_of(lambda: load({"config": str(folder / "config.toml")}, {}, folder)))

    in_folder(check)


@given(FILES)
@example(f"[default]\nauth_token = {TOKEN}\n  more\n[".encode())
@example(f"[default]\nauth_token\n {TOKEN}".encode())
@example(f"auth_token = {TOKEN}".encode())
@example(b"[\0]\na=b")
def test_any_credentials_file_is_read_or_refused_without_its_tokens(raw: bytes) -> None:
    def check(folder: Path) -> None:
        credentials = folder / ".sevenbridges" / "credentials"
        credentials.parent.mkdir()
        credentials.write_bytes(raw)
        check_lines(lines_of(lambda: read_profiles(credentials)))
        for profiles in ("*", "default"):
            check_lines(lines_of(lambda profiles=profiles: load({"profiles": profiles}, {}, folder)))  # type: ignore[misc]
        check_lines(lines_of(lambda: load({}, {}, folder)))

    in_folder(check)


@given(st.one_of(FILES, st.sampled_from([TOKEN, LONG]).map(str.encode)))
def test_any_token_file_is_read_or_refused_without_its_text(raw: bytes) -> None:
    def check(folder: Path) -> None:
        (folder / "token").write_bytes(raw)
        check_lines(lines_of(TokenFile(folder / "token").read))

    in_folder(check)


VALUES = st.one_of(st.sampled_from(PIECES), PLAIN, st.text(max_size=40))


@given(
    st.dictionaries(st.sampled_from([*Settings.model_fields, "config"]), VALUES, max_size=4),
    st.dictionaries(
        st.sampled_from(
            [
                *(f"SBG_EXPORTER_{key.upper()}" for key in (*Settings.model_fields, TOKEN)),
                "SB_API_ENDPOINT",
                "SB_AUTH_TOKEN",
                "SB_AUTH_TOKEN_FILE",
                "HTTPS_PROXY",
                "NO_PROXY",
                "SSL_CERT_FILE",
            ]
        ),
        VALUES,
        max_size=5,
    ),
)
def test_any_flags_and_variables_are_used_or_refused_without_their_tokens(
    flags: Mapping[str, str], environ: Mapping[str, str]
) -> None:
    in_folder(lambda folder: check_lines(lines_of(lambda: load(flags, environ, folder))))

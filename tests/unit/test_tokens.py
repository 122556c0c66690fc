"""Tokens are read from their sources, read again when they change, and never shown."""

import os
import traceback
from pathlib import Path
from typing import Final, NoReturn

import pytest

from exporter.config.tokens import (
    FixedToken,
    Profile,
    ProfileToken,
    TokenFile,
    credentials_path,
    parse_token,
    read_profiles,
    refusal_remedy,
    token_path,
)
from exporter.errors import ConfigError, CredentialsError, TokenForbidden
from exporter.redaction import Secret

TOKEN = "feedfacefeedfacefeedfacefeedface"
OTHER = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return path


def ini(tmp_path: Path, text: str) -> dict[str, Profile]:
    path = tmp_path / "credentials"
    path.write_text(text)
    return read_profiles(path)


@pytest.mark.parametrize("text", [TOKEN, f"{TOKEN}\n", f"  {TOKEN}\r\n", f"\t{TOKEN}\n\n"])
def test_white_space_round_a_token_is_dropped(text: str) -> None:
    assert parse_token(Secret(text), "here") == Secret(TOKEN)


ALONE: Final = "; expected the token alone"
MORE_THAN_A_TOKEN: Final = {
    f"Bearer {TOKEN}": "begins with the word Bearer",
    f"bearer:{TOKEN}": "begins with the word Bearer",
    f"X-SBG-Auth-Token: {TOKEN}": "begins with a name and a colon, as a header of HTTP",
    f"X-SBG-Auth-Token:{TOKEN}": "begins with a name and a colon, as a header of HTTP",
    f"Authorization: Bearer {TOKEN}": "begins with a name and a colon, as a header of HTTP",
    f"export SB_AUTH_TOKEN={TOKEN}": "begins with a name and =, as a setting",
    f"SB_AUTH_TOKEN={TOKEN}": "begins with a name and =, as a setting",
    f'token = "{TOKEN}"': "begins with a name and =, as a setting",
    f"token='{TOKEN}'": "begins with a name and =, as a setting",
    f'{{"token": "{TOKEN}"}}': "is the whole of a file in JSON or INI",
    f'{{"token":"{TOKEN}"}}': "is the whole of a file in JSON or INI",
    f"[default]\nauth_token = {TOKEN}": "is the whole of a file in JSON or INI",
    f"# of lab-a\n{TOKEN}": "begins with a comment",
}


@pytest.mark.parametrize(("text", "what"), MORE_THAN_A_TOKEN.items())
def test_what_has_a_token_in_it_is_told_by_its_form(path: Path, text: str, what: str) -> None:
    path.write_text(text)
    token = TokenFile(path)

    if any(character.isspace() for character in text):
        with pytest.raises(ConfigError) as caught:
            token.read()
        told = str(caught.value)
        assert told == f"{path}: invalid token: {what}"
    else:
        told = refusal_remedy(token)
        assert told.startswith(f"the token looks wrong: it {what}; expected the token alone; write a valid token of")
    assert TOKEN not in told
    assert f"nothing else, to the token file {path};" in token.remedy


@pytest.mark.parametrize("text", [f"{TOKEN}==", "eyJhbGciOi.eyJzdWIi-_.c2ln", "bearers-of-tokens"])
def test_a_token_of_another_form_is_not_taken_for_more(path: Path, text: str) -> None:
    path.write_text(text)

    assert refusal_remedy(TokenFile(path)).startswith("the token looks wrong: expected 32 hexadecimal characters")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "here: the token is empty"),
        (" \n", "here: the token is empty"),
        (f"{TOKEN}\n{OTHER}", f"here: invalid token: contains spaces, line breaks or non-ASCII characters{ALONE}"),
        (f"token {TOKEN}", f"here: invalid token: contains spaces, line breaks or non-ASCII characters{ALONE}"),
        (f"{TOKEN}\x00", f"here: invalid token: contains spaces, line breaks or non-ASCII characters{ALONE}"),
        (f"{TOKEN}é", f"here: invalid token: contains spaces, line breaks or non-ASCII characters{ALONE}"),
        (TOKEN * 129, f"here: invalid token: longer than 4096 characters{ALONE}"),
        *((text, f"here: invalid token: {what}{ALONE}") for text, what in MORE_THAN_A_TOKEN.items() if " " in text),
    ],
)
def test_invalid_token_is_refused_without_being_shown(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_token(Secret(text), "here")

    assert caught.value.problems == (problem,)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


# ---- token files ----


def test_fixed_token_stays_the_same_and_has_no_warning() -> None:
    token = FixedToken(Secret(TOKEN))

    assert token.read() == Secret(TOKEN)
    assert token.exposure_warning() is None


def test_a_token_file_is_read(path: Path) -> None:
    assert TokenFile(path).read() == Secret(TOKEN)
    assert TOKEN not in repr(TokenFile(path))


def test_a_rotated_token_is_noticed(path: Path) -> None:
    token = TokenFile(path)
    token.read()

    path.write_text(f"{OTHER}\n")

    assert token.read() == Secret(OTHER)


def test_a_token_rotated_within_one_tick_of_the_files_clock_is_noticed(path: Path) -> None:
    token = TokenFile(path)
    before = path.stat()
    token.read()

    path.write_text(OTHER)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert token.read() == Secret(OTHER)


def test_a_token_rotated_behind_a_symbolic_link_is_noticed(tmp_path: Path, path: Path) -> None:
    link, newer = tmp_path / "link", tmp_path / "newer"
    link.symlink_to(path)
    newer.write_text(OTHER)
    token = TokenFile(link)
    token.read()

    fresh = tmp_path / "fresh"
    fresh.symlink_to(newer)
    fresh.replace(link)

    assert token.read() == Secret(OTHER)


def test_a_token_rotated_in_a_mounted_secret_is_noticed(tmp_path: Path) -> None:
    """Kubernetes writes a new folder and swaps the link that all files of the Secret lead through."""
    for folder, content in (("..2026_09_21", TOKEN), ("..2026_09_22", OTHER)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "lab").write_text(content)
    (tmp_path / "..data").symlink_to("..2026_09_21")
    (tmp_path / "lab").symlink_to("..data/lab")
    token = TokenFile(tmp_path / "lab")
    before = token.read()

    (tmp_path / "..data_tmp").symlink_to("..2026_09_22")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")

    assert (before, token.read()) == (Secret(TOKEN), Secret(OTHER))


def test_a_token_file_may_be_gone_for_a_while(path: Path) -> None:
    token = TokenFile(path)
    token.read()
    path.unlink()
    with pytest.raises(ConfigError) as caught:
        token.read()
    path.write_text(OTHER)

    assert caught.value.problems == (f"{path}: cannot read the token file: No such file or directory",)
    assert token.read() == Secret(OTHER)


def test_a_folder_is_no_token_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the token file: Is a directory"):
        TokenFile(tmp_path).read()


@pytest.mark.parametrize("writer", [True, False], ids=["with a writer", "without"])
def test_a_pipe_is_no_token_file_and_does_not_block(tmp_path: Path, *, writer: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    held = os.open(tmp_path / "pipe", os.O_RDWR) if writer else None

    with pytest.raises(ConfigError, match="pipe: cannot read the token file: it is a pipe"):
        TokenFile(tmp_path / "pipe").read()

    if held is not None:
        os.close(held)


def test_endless_token_file_is_read_only_in_part() -> None:
    with pytest.raises(ConfigError, match="/dev/zero: invalid token"):
        TokenFile(Path("/dev/zero")).read()


@pytest.mark.fault(
    "a token file with binary data",
    action="refuses it without showing it",
    shown="one line with the path",
    recovery="a right token file",
)
def test_token_file_with_binary_data_is_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigError, match="token: invalid token: it is saved as UTF-16; save it as UTF-8"):
        TokenFile(path).read()


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o666, 0o602, 0o777])
def test_token_file_readable_by_others_has_a_warning(path: Path, mode: int) -> None:
    path.chmod(mode)

    assert (
        TokenFile(path).exposure_warning() == f"{path}: others can read this token file (mode {mode:04o}); chmod o= it"
    )


def test_a_copy_of_systemd_s_is_replaced_where_it_is_copied_from() -> None:
    token = TokenFile(Path("/run/credentials/sbg-exporter.service/imaging.token"))

    assert token.remedy == (
        "write a valid token of this user to the file that LoadCredential= names for imaging.token, and restart the"
        " service"
    )


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_token_file_for_owner_and_group_has_no_warning(path: Path, mode: int) -> None:
    path.chmod(mode)

    assert TokenFile(path).exposure_warning() is None


@pytest.mark.parametrize(("mode", "is_exposed"), [(0o644, True), (0o602, True), (0o600, False), (0o640, False)])
def test_a_credentials_file_readable_by_others_has_the_same_warning(path: Path, mode: int, *, is_exposed: bool) -> None:
    path.chmod(mode)

    told = f"{path}: others can read this credentials file (mode {mode:04o}); chmod o= it" if is_exposed else None
    assert ProfileToken(path, "default", "").exposure_warning() == told


class _ForbiddenFile(TokenFile):
    def read(self) -> NoReturn:
        raise TokenForbidden("cannot read the token file: Permission denied")


def test_a_token_file_that_may_not_be_read_needs_no_other_token(path: Path) -> None:
    token = _ForbiddenFile(path)

    assert token.remedy == "let the exporter's user read the token file; it is used within seconds"
    assert refusal_remedy(token, "expired") == token.remedy
    assert TokenFile(path).remedy.startswith(
        f"write a valid token of this user, and nothing else, to the token file {path}"
    )


def test_missing_token_file_has_no_warning(tmp_path: Path) -> None:
    assert TokenFile(tmp_path / "missing").exposure_warning() is None


# ---- where token files are ----


def test_relative_token_file_is_in_systemd_credentials_or_the_folder(tmp_path: Path) -> None:
    beside, given = tmp_path / "etc", tmp_path / "credentials"
    given.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(given)}

    assert token_path(Path("token"), beside, environ) == beside / "token"
    (given / "token").touch()
    assert token_path(Path("token"), beside, environ) == given / "token"
    assert token_path(Path("token"), beside, {}) == beside / "token"
    assert token_path(tmp_path / "token", beside, environ) == tmp_path / "token"


# ---- profiles ----


def test_credentials_file_is_that_of_the_official_clients() -> None:
    assert credentials_path(Path("/home/rf")) == Path("/home/rf/.sevenbridges/credentials")


def test_without_a_credentials_file_there_are_no_profiles(tmp_path: Path) -> None:
    assert read_profiles(tmp_path / "credentials") == {}


def test_unusual_credentials_files_are_read(tmp_path: Path) -> None:
    text = f"""\
# made by hand
[default]
api_endpoint=https://api.sbgenomics.com/v2
auth_token={TOKEN}

; a division
[my-lab.x]
API_Endpoint   =   https://cavatica-api.sbgenomics.com/v2/
auth_token: 100%{TOKEN[4:]}=
advance_access
note =
"""

    assert ini(tmp_path, text) == {
        "default": Profile("https://api.sbgenomics.com/v2", Secret(TOKEN)),
        "my-lab.x": Profile("https://cavatica-api.sbgenomics.com/v2/", Secret(f"100%{TOKEN[4:]}=")),
    }


def test_profiles_do_not_share_keys(tmp_path: Path) -> None:
    text = f"[DEFAULT]\nauth_token={TOKEN}\n[cgc]\napi_endpoint=https://cgc-api.sbgenomics.com/v2\n"

    assert ini(tmp_path, text)["cgc"] == Profile("https://cgc-api.sbgenomics.com/v2", Secret(""))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"auth_token = {TOKEN}\n", 1),
        (f"[default\nauth_token = {TOKEN}\n", 1),
        (f"{TOKEN}\n", 1),
        (f"# mine\n\n[default\nauth_token = {TOKEN}\n", 3),
        (f"[default]\nauth_token = {TOKEN}\n= {TOKEN}\n", 3),
        (f"[default]\nauth_token = {OTHER}\n[cgc\nauth_token = {TOKEN}\n", 3),
        (f"[a]\nauth_token={OTHER}\n[a]\nauth_token={TOKEN}\n", 3),
    ],
)
def test_invalid_credentials_file_is_refused_without_quoting_it(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(ConfigError) as caught:
        ini(tmp_path, text)

    path = tmp_path / "credentials"
    where = f"expected INI with [profile] sections (see line {line})"
    assert caught.value.problems == (f"{path}: invalid credentials file; {where}",)
    assert ProfileToken(path, "default", "").remedy.startswith("correct ~/.sevenbridges/credentials"), "not the profile"
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


def test_a_credentials_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    path.write_bytes(b"[default]\nauth_token = \xff\n")

    with pytest.raises(ConfigError, match="invalid credentials file"):
        read_profiles(path)


def test_unreadable_credentials_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_profiles(tmp_path)

    assert caught.value.problems == (f"{tmp_path}: cannot read the credentials file: Is a directory",)


def test_token_path_with_a_null_byte_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot read the token file: embedded null byte"):
        TokenFile(Path("x\0")).read()


@pytest.mark.parametrize("header", [" [two]", "[two", "two]", "[]"])
def test_header_that_cannot_be_read_mixes_no_two_profiles(tmp_path: Path, header: str) -> None:
    """Its lines would belong to the profile above it, which then had the other one's endpoint and token."""
    both = f"[one]\napi_endpoint = https://one\nauth_token = a\n{header}\napi_endpoint = https://two\nauth_token = b\n"

    with pytest.raises(CredentialsError, match=r"see line [45]"):
        ini(tmp_path, both)

"""Tokens: where they come from, and how they stay secret.

A token grants all rights of its user, because the platforms have no read-only tokens. So its text is kept in
:class:`Secret` values, which print as asterisks, from reading to the request's header. A token file is read again at
every poll, so that rotating a token needs no restart.
"""

import configparser
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from exporter.config.relative import beside
from exporter.errors import ConfigError, CredentialsError, ProfileError, TokenError, TokenForbidden
from exporter.permissions import exposure_warning, unreadable
from exporter.redaction import Secret, looks_like_token
from exporter.text import NotText, count, decoded, open_without_waiting

_LONGEST_TOKEN: Final = 4096
_DOCUMENTED_LENGTH: Final = 32
_QUOTES: Final = "\"'`"
_MORE_THAN_A_TOKEN: Final = (
    (re.compile(r"bearer\b", re.IGNORECASE), "begins with the word Bearer"),
    (re.compile(r"[{\[]"), "is the whole of a file in JSON or INI"),
    (re.compile(r"[\w-]+\s*:\s*\S"), "begins with a name and a colon, as a header of HTTP"),
    (re.compile(r"(export\s+)?\w+\s*=\s*[^\s=]", re.IGNORECASE), "begins with a name and =, as a setting"),
    (re.compile(r"#"), "begins with a comment"),
)
"""What people have written in place of a token, and what to call it. A token may end in ``=``."""
_CREDENTIALS: Final = Path("/run/credentials")
"""Where systemd has the files that a unit's LoadCredential= names: copies, made when the service starts."""
_LARGEST_TOKEN_FILE: Final = 4 * _LONGEST_TOKEN
_LARGEST_CREDENTIALS: Final = 1024 * 1024
MEND_CREDENTIALS: Final = "correct ~/.sevenbridges/credentials, as the reason says; it is read again within seconds"
_PASTED: Final = "expected the path of a token file, but this looks like a token; write it to a file and set its path"


def parse_token(given: Secret, where: str, *, advice: str = "; expected the token alone") -> Secret:
    """The token in *given*, without surrounding white space.

    Raises:
        TokenError: the token is empty or cannot be sent in a header, and *advice* for the latter.
    """
    token = given.judged_by(lambda text: Secret(text.strip().removeprefix("\ufeff").strip(), masked=False))
    if not token.judged_by(bool):
        raise TokenError(f"{where}: the token is empty")
    problem = token.judged_by(_problem)
    if problem:
        raise TokenError(f"{where}: invalid token: {problem}{advice}")
    return token.judged_by(Secret)


def _problem(token: str) -> str:
    if not token.isascii() or not token.isprintable() or " " in token:
        return _more_than_a_token(token) or "contains spaces, line breaks or non-ASCII characters"
    if len(token) > _LONGEST_TOKEN:
        return f"longer than {_LONGEST_TOKEN} characters"
    return ""


def _more_than_a_token(text: str) -> str:
    """What *text* is, if it is known to have a token in it; never a part of it."""
    return next((what for form, what in _MORE_THAN_A_TOKEN if form.match(text)), "")


def unlike_a_token(token: Secret) -> str:
    """Why *token* is none of the platforms' tokens, as they document their form; empty if it may be one."""
    return token.judged_by(_unlike_a_token)


def refusal_remedy(token: "Token", otherwise: str = "") -> str:
    """How to replace *token*, which the platform has refused, and what is wrong with its form; else *otherwise*."""
    try:
        problem = unlike_a_token(token.read())
    except TokenForbidden:
        return token.remedy
    except ConfigError:  # it has been removed since
        problem = ""
    reason = f"the token looks wrong: {problem}" if problem else otherwise
    return f"{reason}; {token.remedy}" if reason else token.remedy


def _unlike_a_token(token: str) -> str:
    if more := _more_than_a_token(token):
        return f"it {more}; expected the token alone"
    if token[0] in _QUOTES or token[-1] in _QUOTES:
        return "it has quotation marks; expected the token alone"
    if len(token) != _DOCUMENTED_LENGTH or not set(token) <= set(string.hexdigits):
        found = "others" if len(token) == _DOCUMENTED_LENGTH else count(len(token), "character")
        return (
            f"expected {_DOCUMENTED_LENGTH} hexadecimal characters (0 to 9, a to f), as on the platform's token page;"
            f" found {found}"
        )
    return ""


class FixedToken:
    """A token from the environment or the configuration.

    *file* is the configuration file that contains it, if any.
    """

    key = "auth_token"
    """The key of an account that has it."""

    def __init__(self, secret: Secret, file: Path | None = None) -> None:
        self._secret = secret
        self._file = file

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FixedToken) and (self._secret, self._file) == (other._secret, other._file)

    def __hash__(self) -> int:
        return hash((self._secret, self._file))

    @property
    def source(self) -> str:
        """Where the token is."""
        return "SB_AUTH_TOKEN" if self._file is None else f"auth_token in {self._file}"

    @property
    def remedy(self) -> str:
        """How to replace the token."""
        if self._file is None:
            return "set a valid token of this user in the environment and restart"
        return "set a valid token of this user in the configuration and reload it"

    def read(self) -> Secret:
        """The token."""
        return self._secret

    def exposure_warning(self) -> str | None:
        """A warning if other users can read the file that contains the token."""
        return None if self._file is None else exposure_warning(self._file, "configuration file with a token in it")


class TokenFile:
    """A token in a file, read at every use: the file's times and size may stay the same when its text changes."""

    key = "auth_token_file"

    def __init__(self, path: Path) -> None:
        self._path = path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenFile) and self._path == other._path

    def __hash__(self) -> int:
        return hash(self._path)

    @property
    def is_pasted(self) -> bool:
        """Whether the path looks like a token."""
        return looks_like_token(self._path.name)

    @property
    def source(self) -> str:
        """Where the token is."""
        return "(not shown, because it looks like a token)" if self.is_pasted else str(self._path)

    @property
    def remedy(self) -> str:
        """How to replace the token, or to let it be read."""
        try:
            self.read()
        except TokenForbidden:
            return "let the exporter's user read the token file; it is used within seconds"
        except TokenError:
            pass
        if _CREDENTIALS in self._path.parents:  # systemd's copy, which it makes at the start
            return (
                f"write a valid token of this user to the file that LoadCredential= names for {self._path.name}, and"
                " restart the service"
            )
        file = "" if self.is_pasted else f" {self._path}"
        return f"write a valid token of this user, and nothing else, to the token file{file}; it is used within seconds"

    def read(self) -> Secret:
        """The token that is in the file now.

        Raises:
            TokenError: the file cannot be read or holds no token.
        """
        try:
            given = _token_in(self._path)
        except NotText as error:
            raise TokenError(f"{self._path}: invalid token: {error}") from None
        except (OSError, ValueError) as error:  # a ValueError for a path with a null byte
            if self.is_pasted:
                raise TokenError(_PASTED) from None
            reason = unreadable(error, self._path) if isinstance(error, OSError) else error
            kind = TokenForbidden if isinstance(error, PermissionError) else TokenError
            raise kind(f"{self._path}: cannot read the token file: {reason}") from None
        return parse_token(given, str(self._path), advice="")  # that is said with how to replace it

    def exposure_warning(self) -> str | None:
        """A warning if other users can read the file."""
        return exposure_warning(self._path, "token file")


def _token_in(path: Path) -> Secret:
    """The text of a token file; of one that is too long only the beginning, which is too long as well.

    Raises:
        NotText: it is not UTF-8.
        OSError, ValueError: it cannot be read.
    """
    with open(path, "rb", opener=open_without_waiting) as file:
        return Secret(decoded(file.read(_LARGEST_TOKEN_FILE)), masked=False)


class ProfileToken:
    """The token of a profile in the official clients' credentials file, read at every use.

    *label* says in errors what is wrong.
    """

    key = "profile"

    def __init__(self, path: Path, profile: str, label: str) -> None:
        self._path = path
        self._profile = profile
        self._label = label

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProfileToken) and (self._path, self._profile) == (other._path, other._profile)

    def __hash__(self) -> int:
        return hash((self._path, self._profile))

    @property
    def source(self) -> str:
        """Where the token is."""
        return f"profile {self._profile!r} in {self._path}"

    @property
    def remedy(self) -> str:
        """How to replace the token."""
        try:
            read_profiles(self._path)
        except CredentialsError:
            return MEND_CREDENTIALS
        return f"set auth_token of profile {self._profile!r} in ~/.sevenbridges/credentials; it is used within seconds"

    def read(self) -> Secret:
        """The token that the profile has now.

        Raises:
            TokenError: the profile cannot be read or holds no token.
        """
        try:
            profile = find_profile(self._profile, self._path, read_profiles(self._path))
        except ConfigError as error:
            raise TokenError(str(error)) from None
        return parse_token(profile.auth_token, self._label)

    def exposure_warning(self) -> str | None:
        """A warning if other users can read the file."""
        return exposure_warning(self._path, "credentials file")


Token = FixedToken | TokenFile | ProfileToken


def credentials_path(home: Path) -> Path:
    """The file in which the official clients keep profiles."""
    return home / ".sevenbridges" / "credentials"


class Profile(NamedTuple):
    """What a profile says that the exporter uses; empty where it says nothing."""

    api_endpoint: str
    auth_token: Secret


def read_profiles(path: Path) -> dict[str, Profile]:
    """The profiles of a credentials file by name; empty if the file does not exist.

    Raises:
        CredentialsError: the file cannot be read or is not INI.
    """
    parser = configparser.ConfigParser(interpolation=None, default_section="\0", allow_no_value=True)
    try:
        half = _read_into(parser, path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CredentialsError(f"{path}: cannot read the credentials file: {unreadable(error, path)}") from None
    except NotText as error:
        raise CredentialsError(f"{path}: invalid credentials file: {error}") from None
    except (configparser.Error, AttributeError) as error:
        # The parser's own message quotes the line, which may contain a token. AttributeError: its bug with an indented
        # line after a key without a value.
        raise _invalid_credentials(path, _line_of(error)) from None
    if half:
        raise _invalid_credentials(path, half)
    return {
        name: Profile(section.get("api_endpoint") or "", Secret(section.get("auth_token") or "", masked=False))
        for name, section in parser.items()
        if name != parser.default_section
    }


def _read_into(parser: configparser.ConfigParser, path: Path) -> int | None:
    """Read the file; return the number of the first line with half a header. Its text is in no caller's frame."""
    with open(path, "rb", opener=open_without_waiting) as file:
        text = decoded(file.read(_LARGEST_CREDENTIALS))
    half = _half_header(text)
    if half is None:
        parser.read_string(text, source=str(path))
    return half


def _invalid_credentials(path: Path, line: int | None) -> CredentialsError:
    where = f" (see line {line})" if line else ""
    return CredentialsError(f"{path}: invalid credentials file; expected INI with [profile] sections{where}")


def _line_of(error: Exception) -> int | None:
    """The number of the first line that the parser refuses; None if it does not say."""
    twice = (configparser.DuplicateSectionError, configparser.DuplicateOptionError)
    if isinstance(error, (configparser.MissingSectionHeaderError, *twice)):
        return error.lineno
    return min((line for line, _ in getattr(error, "errors", ())), default=None)


def _half_header(text: str) -> int | None:
    """The number of the first line with half a header, which the parser takes for a key of the profile above it."""
    lines = enumerate(text.splitlines(), 1)
    return next((number for number, line in lines if line.startswith("[") and "]" not in line), None)


def where_profiles_are(path: Path) -> str:
    """The credentials file *path* in words; a service's home, if it has one, is often another one than expected."""
    return "~/.sevenbridges/credentials" if _is_there(path) else f"{path}, which does not exist"


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder on the way may not be entered
        return True


def find_profile(name: str, path: Path, profiles: Mapping[str, Profile]) -> Profile:
    """The profile *name*.

    Raises:
        ProfileError: it is not among *profiles*, which are those in the file *path*.
    """
    if name not in profiles:
        available = f" (available: {', '.join(sorted(profiles)) or 'none'})" if _is_there(path) else ""
        raise ProfileError(f"no profile {name!r} in {where_profiles_are(path)}{available}")
    return profiles[name]


def token_path(relative: Path, folder: Path, environ: Mapping[str, str]) -> Path:
    """The path of a token file: a *relative* one is in systemd's credentials directory, else in *folder*."""
    if relative.is_absolute():
        return relative
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory and (Path(directory) / relative).exists():
        return Path(directory) / relative
    return beside(folder, relative)

"""Tokens: where they come from, and how they stay secret.

A token grants all rights of its user, because the platforms have no read-only tokens. So its text is kept in
:class:`Secret` values, which print as asterisks. A token file is read again at every poll, so that rotating a token
needs no restart.
"""

import configparser
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from exporter.errors import ConfigError, ProfileError, TokenError
from exporter.redaction import Secret

_LONGEST_TOKEN: Final = 4096
_LARGEST_CREDENTIALS: Final = 1024 * 1024


def parse_token(text: str, where: str) -> Secret:
    """The token in *text*, without surrounding white space.

    Raises:
        TokenError: the token is empty or cannot be sent in a header.
    """
    token = text.strip()
    if not token:
        raise TokenError(f"{where}: the token is empty")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise TokenError(f"{where}: invalid token: contains spaces, line breaks or non-ASCII characters")
    if len(token) > _LONGEST_TOKEN:
        raise TokenError(f"{where}: invalid token: longer than {_LONGEST_TOKEN} characters")
    return Secret(token)


class FixedToken:
    """A token from the environment or the configuration.

    *file* is the configuration file that contains it, if any.
    """

    def __init__(self, secret: Secret, file: Path | None = None) -> None:
        self._secret = secret
        self._file = file

    @property
    def remedy(self) -> str:
        """How to replace the token."""
        return "set a valid token of this user in the configuration and restart"

    def read(self) -> Secret:
        """The token."""
        return self._secret

    def exposure_warning(self) -> str | None:
        """A warning if other users can read the file that contains the token."""
        return None if self._file is None else _exposure_warning(self._file, "configuration file with a token in it")


class TokenFile:
    """A token in a file, read at every use: the file's times and size may stay the same when its text changes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def remedy(self) -> str:
        """How to replace the token."""
        return "write a valid token of this user, and nothing else, to the token file; it is used within seconds"

    def read(self) -> Secret:
        """The token that is in the file now.

        Raises:
            TokenError: the file cannot be read or holds no token.
        """
        try:
            with open(self._path, encoding="utf-8", errors="replace", opener=_open_without_waiting) as file:
                text = file.read(2 * _LONGEST_TOKEN)
        except (OSError, ValueError) as error:  # a ValueError for a path with a null byte
            reason = error.strerror if isinstance(error, OSError) else error
            raise TokenError(f"{self._path}: cannot read the token file: {reason}") from error
        return parse_token(text, str(self._path))

    def exposure_warning(self) -> str | None:
        """A warning if other users can read the file."""
        return _exposure_warning(self._path, "token file")


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; refuse a pipe, which would block until a program writes to it."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is a pipe")
    return descriptor


def _exposure_warning(path: Path, kind: str) -> str | None:
    try:
        found = path.stat().st_mode
    except (OSError, ValueError):  # a ValueError for a path with a null byte
        return None
    mode = stat.S_IMODE(found)
    if stat.S_ISREG(found) and mode & (stat.S_IROTH | stat.S_IWOTH):
        return f"{path}: others can read this {kind} (mode {mode:04o}); chmod 600 it"
    return None


class ProfileToken:
    """The token of a profile in the official clients' credentials file, read at every use.

    *label* says in errors what is wrong.
    """

    def __init__(self, path: Path, profile: str, label: str) -> None:
        self._path = path
        self._profile = profile
        self._label = label

    @property
    def remedy(self) -> str:
        """How to replace the token."""
        return f"set auth_token of profile {self._profile!r} in ~/.sevenbridges/credentials; it is used within seconds"

    def read(self) -> Secret:
        """The token that the profile has now.

        Raises:
            TokenError: the profile cannot be read or holds no token.
        """
        try:
            profile = find_profile(self._profile, read_profiles(self._path))
        except ConfigError as error:
            raise TokenError(str(error)) from None
        return parse_token(profile.get("auth_token", ""), self._label)

    def exposure_warning(self) -> str | None:
        """None: the credentials file belongs to the official clients."""
        return None


Token = FixedToken | TokenFile | ProfileToken


def credentials_path(home: Path) -> Path:
    """The file in which the official clients keep profiles."""
    return home / ".sevenbridges" / "credentials"


def read_profiles(path: Path) -> dict[str, dict[str, str]]:
    """The profiles of a credentials file, as name to keys; empty if the file does not exist.

    Raises:
        ProfileError: the file cannot be read or is not INI.
    """
    parser = configparser.ConfigParser(interpolation=None, default_section="\0", strict=False, allow_no_value=True)
    try:
        with open(path, encoding="utf-8", opener=_open_without_waiting) as file:
            parser.read_string(file.read(_LARGEST_CREDENTIALS), source=str(path))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ProfileError(f"{path}: cannot read the credentials file: {error.strerror}") from error
    except (configparser.Error, UnicodeDecodeError):
        # The parser's own message quotes the line, which may contain a token.
        raise ProfileError(f"{path}: invalid credentials file; expected INI with [profile] sections") from None
    return {name: {key: value or "" for key, value in parser.items(name)} for name in parser.sections()}


def find_profile(name: str, profiles: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    """The profile *name*.

    Raises:
        ProfileError: it is not among *profiles*.
    """
    if name not in profiles:
        available = ", ".join(sorted(profiles)) or "none"
        raise ProfileError(f"no profile {name!r} in ~/.sevenbridges/credentials (available: {available})")
    return profiles[name]


def token_path(relative: Path, folder: Path, environ: Mapping[str, str]) -> Path:
    """The path of a token file: a *relative* one is in systemd's credentials directory, else in *folder*."""
    if relative.is_absolute():
        return relative
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory and (Path(directory) / relative).exists():
        return Path(directory) / relative
    return folder / relative

"""Tokens: where they come from, and that they are seen by nobody.

A token is all of a user's rights; the platforms have no read-only ones. So its text lives in :class:`Secret` values
that print as stars, and is read again from its file at every poll, so that rotating it needs no restart.
"""

import configparser
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from exporter.errors import ConfigError
from exporter.redaction import Secret

_LONGEST_TOKEN: Final = 4096


def secret_of(text: str, where: str) -> Secret:
    """The token in *text*, surrounding white space dropped.

    Raises:
        ConfigError: it is empty or could not be sent in a header.
    """
    token = text.strip()
    if not token:
        raise ConfigError(f"{where}: the token is empty")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{where}: not a token: it has spaces, line breaks or characters outside ASCII")
    if len(token) > _LONGEST_TOKEN:
        raise ConfigError(f"{where}: not a token: it is longer than {_LONGEST_TOKEN} characters")
    return Secret(token)


class FixedToken:
    """A token from the environment or the configuration: it changes only with them.

    *file* is the configuration file that it stands in, if it stands in one.
    """

    def __init__(self, secret: Secret, file: Path | None = None) -> None:
        self._secret = secret
        self._file = file

    def read(self) -> Secret:
        """The token."""
        return self._secret

    def exposed(self) -> str | None:
        """A warning when others on this machine can read the file that it stands in."""
        return None if self._file is None else _exposed(self._file, "configuration file with a token in it")


class TokenFile:
    """A token in a file, read anew each time it is wanted: a file's times and size may stay when its text changes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Secret:
        """The token as the file holds it now.

        Raises:
            ConfigError: the file cannot be read or holds no token.
        """
        try:
            with self._path.open(encoding="utf-8", errors="replace") as file:
                text = file.read(2 * _LONGEST_TOKEN)
        except (OSError, ValueError) as error:  # the latter for a path that cannot be one
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"{self._path}: the token file cannot be read: {reason}") from error
        return secret_of(text, str(self._path))

    def exposed(self) -> str | None:
        """A warning when others on this machine can read the file."""
        return _exposed(self._path, "token file")


def _exposed(path: Path, kind: str) -> str | None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        return f"{path}: others can read this {kind} (mode {mode:04o}); chmod 600 it"
    return None


Token = FixedToken | TokenFile


def credentials_path(home: Path) -> Path:
    """Where the official clients keep profiles."""
    return home / ".sevenbridges" / "credentials"


def profiles(path: Path) -> dict[str, dict[str, str]]:
    """The profiles of a credentials file: name to its keys; none where there is no file.

    Raises:
        ConfigError: the file cannot be read as such.
    """
    parser = configparser.ConfigParser(interpolation=None, default_section="\0", strict=False, allow_no_value=True)
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: the credentials file cannot be read: {error.strerror}") from error
    except (configparser.Error, UnicodeDecodeError):
        # The parser's own message would quote the line, and with it perhaps a token.
        raise ConfigError(f"{path}: not a credentials file: write INI with [profile] sections") from None
    return {name: {key: value or "" for key, value in parser.items(name)} for name in parser.sections()}


def found(relative: Path, beside: Path, environ: Mapping[str, str]) -> Path:
    """Where a token file that is named relatively is: among systemd's credentials, else in the folder *beside*."""
    if relative.is_absolute():
        return relative
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory and (Path(directory) / relative).exists():
        return Path(directory) / relative
    return beside / relative

"""The files that `init` writes: the first configuration, or one for a further account, with comments."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from exporter.api.platforms import PLATFORMS, Platform, platform_at
from exporter.config.account_tables import AccountTable
from exporter.config.endpoints import parse_endpoint
from exporter.errors import ConfigError, suggestion

SYSTEM_FOLDER: Final = Path("/etc/sbg-exporter")
"""Where root's configuration is."""
_SYSTEM_STATE: Final = Path("/var/lib/sbg-exporter/state.db")
_FILE: Final = "config.toml"
_NOT_IN_FILE_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]+")

LISTENS_HERE: Final = 'listen = "127.0.0.1:10037"'
"""In the first configuration of a user other than root: what a laptop serves is not for others in its network."""
_LISTENS_EVERYWHERE: Final = '# listen = ":10037"            '

_TEXT: Final = """\
# The configuration of sbg-exporter; `sbg-exporter check` tests it. All settings: `sbg-exporter run --help`.
# The token is in a file of its own, so that this file contains no secret.

{state_file}
# poll_interval = "30s"        # time between two polls of an account
# rate_share = 0.25            # share of the user's API rate limit that the exporter may use
# history = "ignore"           # "count" also counts jobs that finished before the first poll
{listen}

# One table for each account. `sbg-exporter init` adds further accounts, each in a file of its own in accounts.d.
[[accounts]]
{account}"""
_ACCOUNT: Final = """\
{name}
api_endpoint = {endpoint}
auth_token_file = {token_file}
# poll_interval = "5m"         # of this account; so may be rate_share and job_series
"""
_BY_FILE: Final = '# name = "..."                 # if it is not to have the name of this file'
_FURTHER: Final = """\
# An account of sbg-exporter; `sbg-exporter check` tests it. The token is in a file of its own.

{account}"""


def default_config_file(environ: Mapping[str, str], home: Path, *, system: Path = SYSTEM_FOLDER) -> Path:
    """Where `init` writes the configuration, and where all commands look for it.

    For root that is the system's folder, unless root has a file of its own.
    """
    base = environ.get("XDG_CONFIG_HOME")
    own = (Path(base) if base else home / ".config") / "sbg-exporter" / _FILE
    return system / _FILE if os.geteuid() == 0 and not own.exists() else own


def find_platform(text: str) -> Platform:
    """The platform with this short name, API endpoint or web address; for another endpoint, one named after its host.

    Raises:
        ConfigError: *text* is none of these.
    """
    for platform in PLATFORMS:
        if text.lower() in {platform.name, platform.title.lower()}:
            return platform
    if (known := platform_at(text)) is not None:
        return known
    names = [platform.name for platform in PLATFORMS]
    if "://" not in text:
        otherwise = f"expected {', '.join(names)}, or the URL of an API, such as {PLATFORMS[1].endpoint}"
        raise ConfigError(f"--platform: unknown; {suggestion(text.lower(), names, otherwise)}")
    endpoint, host = parse_endpoint(text, "--platform", allow_plain_http=None)
    return next(
        (each for each in PLATFORMS if each.endpoint == endpoint), Platform(host, host, endpoint, f"https://{host}")
    )


def file_name(account: str) -> str:
    """The name of an account's files, without its ending."""
    return _NOT_IN_FILE_NAMES.sub("-", account).strip("-") or "account"


def check_account_name(account: str) -> None:
    """Do nothing if an account may have this name.

    Raises:
        ConfigError: it may not.
    """
    try:
        AccountTable(name=account)
    except ValidationError as error:
        raise ConfigError(f"--account: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def first_file(platform: Platform, account: str, file: Path, default_state: Path) -> str:
    """The text of a configuration *file* with one account.

    *default_state* is the state file that is used unless another one is set. For root, it is the system's.
    """
    state_file = f"state_file = {json.dumps(str(_SYSTEM_STATE))}"
    if file.parent != SYSTEM_FOLDER:
        state_file = f"# state_file = {json.dumps(str(default_state))}   # the default"
    listen = _LISTENS_EVERYWHERE if os.geteuid() == 0 else f"{LISTENS_HERE}   "
    return _TEXT.format(
        state_file=state_file,
        listen=f'{listen}# address of the metrics server; ":10037" is all addresses of this machine',
        account=_account(platform, account, _name(account)),
    )


def account_file(platform: Platform, account: str) -> str:
    """The text of a file with a further account, for the folder ``accounts.d``, whose name it has if that can be."""
    name = _BY_FILE if account == file_name(account) else _name(account)
    return _FURTHER.format(account=_account(platform, account, name))


def _name(account: str) -> str:
    return f"name = {json.dumps(account, ensure_ascii=False)}"


def _account(platform: Platform, account: str, name: str) -> str:
    return _ACCOUNT.format(
        name=name,
        endpoint=json.dumps(platform.endpoint),
        token_file=json.dumps(f"{file_name(account)}.token"),
    )

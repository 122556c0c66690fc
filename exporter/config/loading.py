"""Loads the configuration: command line, then environment, then TOML file, then the settings' defaults.

Every unknown or invalid setting is reported on a line of its own: where it is, what is wrong, what to do. Values are
never repeated, because they may be secrets.
"""

import re
import shlex
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource

from exporter.config.account_tables import (
    ALL_PROFILES,
    AccountFile,
    AccountTable,
    PlacedTable,
    with_unique_names,
)
from exporter.config.accounts import (
    CLIENT_VARIABLES,
    AccountConfig,
    AccountEntry,
    PendingAccount,
    ResolvedAccounts,
    resolve_accounts,
    unused_variables,
)
from exporter.config.endpoints import parse_listen_address
from exporter.config.first_file import default_config_file
from exporter.config.relative import beside
from exporter.config.settings import PREFIX, Settings
from exporter.config.tokens import credentials_path, read_profiles
from exporter.config.usable import other_problems, usable_table, usable_tables
from exporter.config.web_config import PLAIN, WebConfig, load_web_config
from exporter.counting.values import Rules
from exporter.errors import ConfigError, Problems, file_problem, suggestion
from exporter.permissions import unreadable
from exporter.redaction import looks_like_token, shown
from exporter.text import NotText, decoded

_LARGEST_FILE: Final = 1024 * 1024
_SEE_HELP: Final = "see `sbg-exporter run --help`"
ACCOUNTS_FOLDER: Final = "accounts.d"
"""The folder with one file per account, next to the configuration file."""
_FROM_KUBERNETES: Final = re.compile(r"SBG_EXPORTER_(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_[A-Z]+(_.*)?)?)")
"""Variables that Kubernetes injects into every container for a Service named ``sbg-exporter``."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings with everything resolved.

    Attributes:
        host: address to listen on; None for all addresses, IPv4 and IPv6.
        pending: accounts without a known endpoint for now, because their profile is missing or incomplete.
        setup_problems: account to what is wrong with its files now; never all accounts.
        warnings: what works but should be changed, one line each.
        web: TLS and authentication of the metrics server.
        endpoint_warnings: endpoints that are probably wrong, one line each.
        unused: what to know about variables that are set and not used, in a line.
        file_problems: what is wrong with files of one account, whose accounts are among *pending*; one line each.
        accounts_folder: the folder with files of accounts; None if there is none.
        not_selected: accounts that are configured and that the command leaves out.
    """

    settings: Settings
    file: Path | None
    host: str | None
    port: int
    state_file: Path
    accounts: tuple[AccountConfig, ...]
    rules: Rules
    warnings: tuple[str, ...]
    pending: tuple[PendingAccount, ...] = ()
    setup_problems: Mapping[str, str] = field(default_factory=dict)
    web: WebConfig = PLAIN
    endpoint_warnings: tuple[str, ...] = ()
    unused: str = ""
    file_problems: tuple[str, ...] = ()
    accounts_folder: Path | None = None
    not_selected: tuple[AccountEntry, ...] = ()

    def settings_of(self, name: str) -> Settings:
        """The settings that account *name* is polled with: its own, or else those of all accounts."""
        own = next((entry.own.given for entry in self.entries if entry.name == name), {})
        return self.settings.model_copy(update=own) if own else self.settings

    @property
    def entries(self) -> tuple[AccountEntry, ...]:
        """All accounts: first those with a known endpoint."""
        return (*self.accounts, *self.pending)

    @property
    def names(self) -> tuple[str, ...]:
        """All accounts' names."""
        return tuple(account.name for account in self.entries)


def load(flags: Mapping[str, object], environ: Mapping[str, str], home: Path) -> Configuration:
    """The configuration, from the command line, the environment and the file.

    Args:
        flags: setting to value, for each option on the command line; ``config`` names the file (default: that of
            :func:`.default_config_file`, if it exists).
        environ: the environment; an empty variable counts as unset.
        home: the user's home directory.

    Raises:
        ConfigError: with a line for every problem. What is wrong with an account's files, its own one in the folder
            included, counts only if no account can be used; else :attr:`Configuration.setup_problems` has it.
    """
    problems = Problems(
        f"{name}: unknown setting; {_suggestion_for_variable(name)}"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in _variables() and not _FROM_KUBERNETES.fullmatch(name)
    )
    file = _chosen_file(flags, environ, home)
    known = len(problems)
    in_file: Mapping[str, object] = {}
    with problems.collected():
        in_file = _settings_in(file) if file is not None else {}
    variables = _from_environment(environ)
    given = {key: value for key, value in flags.items() if key != "config"}
    settings, errors, positions = _usable_settings({**in_file, **variables, **given})
    problems += [_problem(each, given, variables, file, in_file) for each in errors]
    problems += _other_problems(in_file, errors, positions, file)
    found, tables = ResolvedAccounts(), _tables(settings, positions, file)
    in_folder: list[AccountFile] = []
    if file is not None and "accounts" not in given:  # given ones replace those of the folder, too
        with problems.collected():
            in_folder = account_files(file.parent / ACCOUNTS_FOLDER)
    configured = bool(tables or in_folder or settings.profiles)
    if configured or len(problems) == known:  # what cannot be read would be reported as missing accounts
        found = resolve_accounts(tables, settings.profiles, in_folder, environ=environ, home=home)
    web = PLAIN
    with problems.collected():
        if settings.web_config_file is not None:
            web = load_web_config(settings.web_config_file)
    if problems or found.refused or not found.usable:
        unread = unread_accounts(default_config_file(environ, home)) if file is None else ()
        if file is not None and not configured and not problems:
            unread = _missing_folder(file.parent / ACCOUNTS_FOLDER, environ)
        raise ConfigError(*problems, *found.lines, *unread)
    host, port = parse_listen_address(settings.listen)
    return Configuration(
        settings,
        file,
        host,
        port,
        settings.state_file or default_state_file(environ, home),
        tuple(found.accounts),
        rules_of(settings),
        tuple(dict.fromkeys(warning for each in found.accounts for warning in each.exposure_warnings)),
        tuple(found.pending),
        found.setup_problems,
        web,
        tuple(warning for each in found.accounts if (warning := each.endpoint_warning)),
        unused_variables(environ, configured=configured),
        tuple(found.file_problems),
        None if file is None else _existing_folder(file.parent / ACCOUNTS_FOLDER),
    )


def settings_beside(flags: Mapping[str, object], environ: Mapping[str, str], home: Path) -> Settings | None:
    """The default settings with the state file alone, for want of a valid configuration: as *flags*, *environ* or file.

    None if none of them names one that can be used. If the file can be read and does not, that is the usual one, if it
    exists.
    """
    given = flags.get("state_file") or environ.get(f"{PREFIX}STATE_FILE")
    if not given:
        file = _chosen_file(flags, environ, home)
        try:
            in_file = {} if file is None else _settings_in(file)
        except ConfigError:
            return None
        usual = default_state_file(environ, home)
        given = in_file.get("state_file", str(usual) if usual.is_file() else None)
    try:
        return None if given is None else Settings.model_validate({"state_file": given})
    except ValidationError:
        return None


def _chosen_file(flags: Mapping[str, object], environ: Mapping[str, str], home: Path) -> Path | None:
    """The configuration file; None if there is none."""
    config = flags.get("config") or environ.get(f"{PREFIX}CONFIG")
    return Path(str(config)) if config else _default_file(environ, home)


def account_names(file: Path, home: Path) -> tuple[str, ...]:
    """The names of all accounts in a configuration *file*, in its folder ``accounts.d`` and of its profiles.

    Raises:
        ConfigError: with a line for every problem of these files.
    """
    problems = Problems()
    in_file = _settings_in(file)
    settings, errors, positions = _usable_settings(in_file)
    problems += [_problem(each, {}, {}, file, in_file) for each in errors]
    tables = _tables(settings, positions, file)
    in_folder: list[AccountFile] = []
    with problems.collected():
        in_folder = with_unique_names(account_files(file.parent / ACCOUNTS_FOLDER), tables, settings.profiles)
        problems += [problem for each in in_folder for problem in each.problems]
    if problems:
        raise ConfigError(*problems)
    profiles = read_profiles(credentials_path(home)) if ALL_PROFILES in settings.profiles else settings.profiles
    return (*(each.table.name for each in tables), *(each.name for each in in_folder), *profiles)


def _default_file(environ: Mapping[str, str], home: Path) -> Path | None:
    """The file that `init` writes, if there is one."""
    file = default_config_file(environ, home)
    try:
        return file if file.exists() else None
    except OSError:
        return None


def unread_accounts(missing: Path) -> Iterator[str]:
    """A line if there are accounts' files next to the *missing* configuration file, without which they are not read."""
    folder = missing.parent / ACCOUNTS_FOLDER
    try:
        names = sorted(each.name for each in folder.iterdir() if _is_account(each))
    except OSError:
        return
    if names:
        yield (
            f"{folder}: not read without {missing}: {', '.join(map(shown, names))}; to use them, an empty file is"
            f" enough (`touch {shlex.quote(str(missing))}`)"
        )


def _usable_settings(values: Mapping[str, object]) -> tuple[Settings, Sequence[ErrorDetails], Sequence[int]]:
    """The settings without invalid ones, what is wrong with these, and the positions of the accounts that are left."""
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        errors = error.errors(include_input=False)
    else:
        return settings, (), range(len(settings.accounts))
    wrong = {each["loc"][0] for each in errors}
    tables = usable_tables(
        values.get("accounts", ()), [each["loc"][1:] for each in errors if each["loc"][0] == "accounts"]
    )
    rest = {key: value for key, value in values.items() if key not in wrong | {"accounts"}}
    return Settings.model_validate({**rest, "accounts": list(tables.values())}), errors, list(tables)


def _other_problems(
    in_file: Mapping[str, object], errors: Sequence[ErrorDetails], positions: Sequence[int], file: Path | None
) -> Iterator[str]:
    """What else is wrong with the tables of the accounts that are not at *positions*, because of *errors*."""
    tables = in_file.get("accounts")
    wrong: dict[int, set[str]] = {}
    for loc in (each["loc"] for each in errors):
        if loc[0] == "accounts" and len(loc) > 1 and isinstance(loc[1], int) and loc[1] not in positions:
            wrong.setdefault(loc[1], set()).update(map(str, loc[2:3]))
    for position, keys in wrong.items():
        if isinstance(tables, list) and position < len(tables):
            where = f"{file}: {'.'.join(_path(('accounts', position), in_file))}"
            yield from other_problems(tables[position], keys, where)


def _tables(settings: Settings, positions: Sequence[int], file: Path | None) -> list[PlacedTable]:
    """The ``[[accounts]]`` of the file that can be used, which are those at *positions*."""
    return [
        PlacedTable(table, f"{file}: accounts.#{position + 1} ({table.name})", file)
        for position, table in zip(positions, settings.accounts, strict=True)
    ]


def _missing_folder(folder: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """A line if there is no *folder* with accounts: one that is not mounted must not look like a first start."""
    if not folder.is_dir() and not any(environ.get(name) for name in CLIENT_VARIABLES):
        yield f"{folder}: there is no such folder; if it had the accounts, put it back"


def _existing_folder(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


def account_files(folder: Path) -> list[AccountFile]:
    """The files ``*.toml`` in *folder*, each with one account, sorted by their names; none without the folder.

    Raises:
        ConfigError: the folder cannot be read.
    """
    try:
        files = sorted(file for file in folder.iterdir() if _is_account(file))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot read the accounts' files: {unreadable(error, folder, file_problem(error))}"
        ) from None
    return [_account_file(file) for file in files]


def unread_files(folder: Path, used: Collection[str]) -> list[str]:
    """The names of files in *folder* that are no accounts, as after a mistyped ending; not those of *used* paths."""
    try:
        names = [
            each.name
            for each in folder.iterdir()
            if not (_is_account(each) or each.suffix == ".token" or str(each) in used or each.is_dir())
        ]
    except OSError:
        return []
    return sorted(name for name in names if not name.startswith("."))


def _is_account(file: Path) -> bool:
    return file.suffix == ".toml" and not file.name.startswith(".")


def _account_file(file: Path) -> AccountFile:
    """The account in *file*; its name is the file's, unless there is one in it."""
    values: dict[str, object] = {}
    problems = Problems()
    with problems.collected():
        _check_file(file)
        values = _toml(file)
        if "accounts" in values:
            raise ConfigError(f"{file}: accounts: expected one account's keys, without [[accounts]] above them")
    if problems:
        return AccountFile(file, "", tuple(problems))
    values = {"name": file.stem, **values}
    try:
        read = AccountTable.model_validate(values)
    except ValidationError as error:
        errors = error.errors(include_input=False)
    else:
        return AccountFile(file, read.name, (), read, read.profile or "")
    problems += [_account_problem(each, file) for each in errors]
    wrong = {str(each["loc"][0]) for each in errors}
    usable = usable_table(values, wrong)
    table = None if usable is None else AccountTable.model_validate(usable)
    if table is None:
        problems += other_problems(values, wrong, str(file))
    profile = values.get("profile")
    return AccountFile(file, _valid_name(values), tuple(problems), table, profile if isinstance(profile, str) else "")


def _check_file(file: Path) -> None:
    """Do nothing if *file* is a regular file: a pipe would be waited for.

    Raises:
        ConfigError: it is something else, or cannot be found.
    """
    try:
        is_file = file.is_file()
    except OSError as error:
        raise ConfigError(f"{file}: cannot read the account: {unreadable(error, file, file_problem(error))}") from None
    if not is_file:
        raise ConfigError(f"{file}: cannot read the account: not a file")


def _suggestion_for_variable(name: str) -> str:
    keys = [each.removeprefix(PREFIX) for each in _variables()]
    otherwise = f"{_SEE_HELP} (accounts are set in the file)"
    return suggestion(name.removeprefix(PREFIX), keys, otherwise, prefix=PREFIX)


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Setting to text, for each variable that is set and not empty."""
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): text for name in _variables() if (text := environ.get(name))}
    return source()


@cache
def _variables() -> Mapping[str, str]:
    """Environment variable to key."""
    return {PREFIX + key.upper(): key for key in ("config", *Settings.model_fields) if key != "accounts"}


def _settings_in(file: Path) -> dict[str, Any]:
    """The settings in the file, whose keys are in upper or lower case there; paths are relative to the file.

    Raises:
        ConfigError: the file cannot be read, or a key is given twice.
    """
    values: dict[str, Any] = {}
    problems = Problems()
    spelled: dict[str, str] = {}
    for written, value in _toml(file).items():
        key = written.lower() if written.lower() in Settings.model_fields else written
        if key in spelled:
            problems.append(f"{file}: {written}: the same setting as {spelled[key]} above; write it once")
        spelled[key], values[key] = written, value
    if problems:
        raise ConfigError(*problems)
    for key in ("state_file", "web_config_file"):
        if isinstance(path := values.get(key), str):
            values[key] = str(beside(file.parent, path))
    return values


def _toml(file: Path) -> dict[str, Any]:
    """The values in the file."""
    try:
        with file.open("rb") as opened:
            raw = opened.read(_LARGEST_FILE + 1)
        if len(raw) > _LARGEST_FILE:
            raise ConfigError(f"{file}: larger than {_LARGEST_FILE // 1024} KiB; expected a TOML file with settings")
        values = tomllib.loads(decoded(raw))
    except OSError as error:
        reason = unreadable(error, file, file_problem(error))
        if looks_like_token(str(file)):
            reason = f"{error.strerror}; expected the path of a TOML file, but this looks like a token"
        elif isinstance(error, FileNotFoundError):
            reason = f"{reason}, or run `sbg-exporter init` to write such a file"
        raise ConfigError(f"{file}: cannot read the configuration: {reason}") from None
    except NotText as error:
        raise ConfigError(f"{file}: invalid TOML: {error}") from None
    except tomllib.TOMLDecodeError as error:
        last = len(raw.splitlines())
        problem = _without_quotes(str(error)).replace(*_TEXT_AFTER_A_VALUE)
        problem = problem.replace("at end of document", f"at line {last}, the end of the file")
        raise ConfigError(f"{file}: invalid TOML: {problem}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits; thousands of nested brackets
        raise ConfigError(f"{file}: invalid TOML: a value is too long or too deeply nested") from None
    return values


_TEXT_AFTER_A_VALUE: Final = (
    "Expected newline or end of document after a statement",
    "unexpected text at the end of a line; text as a value needs quotation marks",
)
"""What the parser says of a value such as ``10 s``, and what that means."""


def _without_quotes(problem: str) -> str:
    """The parser's words without what they quote from the file: a key, which may be a token."""
    return re.sub(r"'[^']{4,}'|\"[^\"]{4,}\"|\('.*'[^)]*\)", "this", problem)


_ERROR_TEXTS: Final[Mapping[str, str]] = {
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "finite_number": "expected a finite number, such as 0.5",
    "float_parsing": "expected a number, such as 0.5",
    "float_type": "expected a number, such as 0.5",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "int_from_float": "expected a whole number, such as 50",
    "int_parsing": "expected a whole number, such as 50",
    "int_type": "expected a whole number, such as 50",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "expected {expected}",
    "missing": "missing; set it for every account",
    "model_type": "expected a table; write [[accounts]] with its keys below it",
    "path_type": "expected a path in quotes",
    "string_type": "expected text in quotes",
    "tuple_type": "expected tables; write [[accounts]] with its keys below it",
}
"""Pydantic's error types, in words for the person who wrote the configuration."""


def _problem(
    error: ErrorDetails,
    given: Mapping[str, object],
    variables: Mapping[str, object],
    file: Path | None,
    in_file: Mapping[str, object],
) -> str:
    """One line for one of pydantic's errors, without the value, which may be a token."""
    key = str(error["loc"][0])
    if key in given:
        where = f"--{key.replace('_', '-')}"
    elif key in variables:
        where = PREFIX + key.upper()
    else:
        where = f"{file}: {'.'.join(_path(error['loc'], in_file))}"
    return f"{where}: {_reason(error, of_account=len(error['loc']) > 1)}"


def _account_problem(error: ErrorDetails, file: Path) -> str:
    """The same for the file of one account."""
    key = str(error["loc"][0])
    if error["type"] == "extra_forbidden" and key in Settings.model_fields:
        return f"{file}: {key}: not a key of an account; write it to the configuration file"
    return f"{file}: {key}: {_reason(error, of_account=True)}"


def _reason(error: ErrorDetails, *, of_account: bool) -> str:
    """What is wrong, in words."""
    if error["type"] == "extra_forbidden":
        return _unknown_key(str(error["loc"][-1]), of_account=of_account)
    words = _ERROR_TEXTS.get(error["type"])
    return words.format(**error.get("ctx", {})) if words else error["msg"].removeprefix("Value error, ")


def _unknown_key(key: str, *, of_account: bool) -> str:
    here, elsewhere = AccountTable.model_fields, Settings.model_fields
    if of_account and key in elsewhere:
        return "not a key of an account; write it above the first [[accounts]]"
    if not of_account and key in here:
        return "a key of an account; write it below [[accounts]]"
    if of_account:
        return f"unknown key; {suggestion(key, here, 'the keys of an account are ' + ', '.join(here))}"
    return f"unknown key; {suggestion(key, elsewhere, _SEE_HELP)}"


def _path(loc: tuple[int | str, ...], in_file: Mapping[str, object]) -> Iterable[str]:
    """The path to a value, as a person counts, and with the account's name if it has a valid one."""
    for part in loc:
        if not isinstance(part, int):
            yield part
        elif name := _name(in_file.get(str(loc[0])), part):
            yield f"#{part + 1} ({name})"
        else:
            yield f"#{part + 1}"


def _name(tables: object, position: int) -> str:
    return _valid_name(tables[position]) if isinstance(tables, list) else ""


def _valid_name(table: object) -> str:
    """The name in the *table* of an account; empty if it has none that an account may have."""
    name = table.get("name") if isinstance(table, dict) else None
    try:
        return AccountTable.model_validate({"name": name}).name
    except ValidationError:
        return ""


def rules_of(settings: Settings) -> Rules:
    """The settings that counting depends on."""
    return Rules(
        settle_after=settings.settle_after,
        lost_after=settings.lost_after,
        history=settings.history,
        failed_job_window=settings.failed_job_window,
        duration_buckets=settings.duration_buckets,
        queue_buckets=settings.queue_buckets,
    )


def default_state_file(environ: Mapping[str, str], home: Path) -> Path:
    """The state file that is used unless one is configured."""
    if directory := environ.get("STATE_DIRECTORY"):
        return Path(directory.split(":")[0]) / "state.db"
    base = environ.get("XDG_STATE_HOME")
    return (Path(base) if base else home / ".local" / "state") / "sbg-exporter" / "state.db"

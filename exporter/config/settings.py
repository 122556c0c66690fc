"""Every setting once: flag, environment variable, key of the TOML file, default and meaning.

Order: flags, then ``SBG_EXPORTER_<KEY>``, then the file, then the defaults here. Whatever is unknown or wrong is
reported as one line per problem: where it stands, what is wrong, what would be right. Secrets are never repeated.
"""

import ipaddress
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from exporter.config.accounts import AccountConfig, AccountTable, accounts_of
from exporter.counting.values import Rules
from exporter.errors import ConfigError, Problems, suggestion

PREFIX: Final = "SBG_EXPORTER_"
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)")
_LONGEST: Final = 366 * 86400.0
_HIGHEST_PORT: Final = 65535
_FROM_KUBERNETES: Final = re.compile(r"SBG_EXPORTER_(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_[A-Z]+(_.*)?)?)")
"""What Kubernetes injects into every container for a Service named ``sbg-exporter``."""


def seconds(value: object) -> float:
    """A duration: seconds, or a number with a unit: ``30s``, ``5m``, ``1h``, ``1d``.

    Raises:
        ValueError: it is none, or too long to wait for.
    """
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        number = float(match[1]) * _UNITS[match[2] or "s"]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(min(value, 2 * _LONGEST))
    else:
        raise ValueError('not a duration; write seconds, or "30s", "5m", "1h"')
    if not number <= _LONGEST:
        raise ValueError('too long; write at most "366d"')
    return number


def _bounds(value: object) -> object:
    parts = re.split(r"[,\s]+", value.strip()) if isinstance(value, str) else value
    try:
        numbers = tuple(map(seconds, parts))  # type: ignore[call-overload]  # a TypeError when it is no list
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or numbers[0] <= 0 or any(one >= other for one, other in pairwise(numbers)):
        raise ValueError("not histogram bounds; write rising seconds above 0 such as 1, 5, 30")
    return numbers


def _names(value: object) -> object:
    if isinstance(value, str):
        return [part for part in re.split(r"[,\s]+", value.strip()) if part]
    if not isinstance(value, Sequence):
        raise ValueError('not a list of names; write ["cavatica", "cgc"] or "*"')  # noqa: TRY004  # pydantic takes no TypeError
    return value


def _a_second(value: float) -> float:
    if value < 1:
        raise ValueError("too little; write at least 1s")
    return value


def _listenable(value: str) -> str:
    _address(value)
    return value


Duration = Annotated[float, BeforeValidator(seconds), Field(gt=0)]
Delay = Annotated[float, BeforeValidator(seconds), Field(ge=0)]
Bounds = Annotated[tuple[float, ...], NoDecode, BeforeValidator(_bounds)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]


class Settings(BaseSettings):
    """The settings, without what is in them about accounts resolved."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    listen: Annotated[str, AfterValidator(_listenable)] = Field(
        ":10037", description="address of the metrics server: host:port, [::1]:port, or :port for all"
    )
    state_file: Path | None = Field(
        None,
        description="the ledger (SQLite, local disk); by default state.db in $STATE_DIRECTORY,"
        " else in sbg-exporter under $XDG_STATE_HOME",
    )
    poll_interval: Annotated[float, BeforeValidator(seconds), AfterValidator(_a_second)] = Field(
        30.0, description="time between two looks at an account; at least 1s"
    )
    full_listing_interval: Duration = Field(
        21600.0,
        description="how old a complete listing of an account too large to list at every poll may become;"
        " it is read in slices",
    )
    stale_after: Duration = Field(
        600.0, description="how long after its last good answer an account's gauges are still shown"
    )
    settle_after: Delay = Field(
        60.0,
        description="how far apart two answers must agree before a finished job with files unaccounted for"
        " is called incomplete",
    )
    lost_after: Delay = Field(
        300.0,
        description='how far apart two answers "no such job" must be before an unfinished job is called lost',
    )
    request_timeout: Duration = Field(
        30.0, description="time limit of one API request as a whole, name look-up to last byte"
    )
    rate_share: float = Field(
        0.25, gt=0, le=1, allow_inf_nan=False, description="share of the account's rate limit that may be used"
    )
    history: Literal["ignore", "count"] = Field(
        "ignore", description="jobs that finished before an account's ledger began: ignore or count"
    )
    job_series: int = Field(
        50, ge=0, le=10000, description="most unfinished and most failed jobs to show one by one, per account"
    )
    failed_job_window: Duration = Field(86400.0, description="how long a failed job is shown one by one")
    duration_buckets: Bounds = Field(
        Rules().duration_buckets,
        description="bounds of the job duration histogram, in seconds",
    )
    queue_buckets: Bounds = Field(
        Rules().queue_buckets,
        description="bounds of the queue duration histogram, in seconds",
    )
    show_username: bool = Field(
        True,  # noqa: FBT003  # pydantic's way of giving a default
        description="show the account owner's user name in sbg_account_info and on the status page",
    )
    log_format: Literal["auto", "json", "logfmt", "console"] = Field(
        "auto", description="json, logfmt or console; auto is console on a terminal, json elsewhere"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe level logged: debug, info, warning, error"
    )
    profiles: Names = Field((), description='profiles of ~/.sevenbridges/credentials to watch, or "*" for all')
    accounts: tuple[AccountTable, ...] = Field((), description="[[accounts]] tables; in the file only")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # pydantic-settings' signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # likewise
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # likewise
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is given: :func:`load` asks the sources itself, to tell where a wrong value came from."""
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings with everything resolved.

    Attributes:
        host: what to listen on; None for every address, IPv4 and IPv6.
        warnings: what works but should not stay so, a line each.
    """

    settings: Settings
    file: Path | None
    host: str | None
    port: int
    state_file: Path
    accounts: tuple[AccountConfig, ...]
    rules: Rules
    warnings: tuple[str, ...]


def load(flags: Mapping[str, object], environ: Mapping[str, str], home: Path) -> Configuration:
    """The configuration, from what was typed, the environment and the file.

    Args:
        flags: setting to value, of the flags that were given; ``config`` names the file.
        environ: the environment; an empty variable counts as one that is not there.
        home: the user's home directory.

    Raises:
        ConfigError: with a line for every problem.
    """
    problems = Problems(
        f"{name}: no such setting; {_suggestion_for_variable(name)}"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in _variables() and not _FROM_KUBERNETES.fullmatch(name)
    )
    config = flags.get("config") or environ.get(f"{PREFIX}CONFIG")
    file = Path(str(config)) if config else None
    in_file: Mapping[str, object] | None = None
    with problems.collected():
        in_file = _toml(file) if file is not None else {}
    variables = _from_environment(environ)
    given = {key: value for key, value in flags.items() if key != "config"}
    try:
        settings = Settings.model_validate({**(in_file or {}), **variables, **given})
    except ValidationError as error:
        found_wrong = error.errors(include_input=False)
        raise ConfigError(*problems, *(_problem(each, given, variables, file) for each in found_wrong)) from None
    accounts: tuple[AccountConfig, ...] = ()
    if in_file is not None:  # a file that cannot be read says nothing of accounts
        accounts = accounts_of(
            settings.accounts, settings.profiles, file=file, environ=environ, home=home, problems=problems
        )
    if problems:
        raise ConfigError(*problems)
    host, port = _address(settings.listen)
    return Configuration(
        settings,
        file,
        host,
        port,
        settings.state_file or _default_state_file(environ, home),
        accounts,
        rules_of(settings),
        tuple(dict.fromkeys(warning for account in accounts if (warning := account.token.exposed()))),
    )


def _suggestion_for_variable(name: str) -> str:
    keys = [each.removeprefix(PREFIX) for each in _variables()]
    otherwise = "see sbg-exporter run --help (accounts go into the file)"
    return suggestion(name.removeprefix(PREFIX), keys, otherwise, prefix=PREFIX)


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Setting to text, of the variables that are there and not empty."""
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): text for name in _variables() if (text := environ.get(name))}
    return source()


@cache
def _variables() -> Mapping[str, str]:
    """Environment variable to key."""
    return {PREFIX + key.upper(): key for key in ("config", *Settings.model_fields) if key != "accounts"}


def _toml(file: Path) -> dict[str, Any]:
    """What the file says; paths in it are relative to it."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: the configuration cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not a TOML file: {error}") from None
    if isinstance(path := values.get("state_file"), str):
        values["state_file"] = str(file.parent / path)
    return values


_IN_OTHER_WORDS: Final[Mapping[str, str]] = {
    "bool_parsing": "neither true nor false; write one of them",
    "bool_type": "neither true nor false; write one of them",
    "finite_number": "not a number that can be used; write one such as 0.5",
    "float_parsing": "not a number; write one such as 0.5",
    "float_type": "not a number; write one such as 0.5",
    "greater_than": "too little; write more than {gt:g}",
    "greater_than_equal": "too little; write at least {ge:g}",
    "int_from_float": "not a whole number; write one such as 50",
    "int_parsing": "not a whole number; write one such as 50",
    "int_type": "not a whole number; write one such as 50",
    "less_than_equal": "too much; write at most {le:g}",
    "literal_error": "not one of the choices; write {expected}",
    "missing": "missing; every account needs one",
    "model_type": "not a table; write [[accounts]] and its keys below it",
    "path_type": "not a path; write it in quotes",
    "string_type": "not a text; write it in quotes",
    "tuple_type": "not tables; write [[accounts]] and its keys below it",
}
"""Pydantic's kinds of findings, in words for whoever wrote the configuration: what is wrong, what would be right."""


def _problem(
    error: ErrorDetails, given: Mapping[str, object], variables: Mapping[str, object], file: Path | None
) -> str:
    """One line for one of pydantic's findings, without the value, which may be a token."""
    key = str(error["loc"][0])
    if key in given:
        where = f"--{key.replace('_', '-')}"
    elif key in variables:
        where = PREFIX + key.upper()
    else:
        where = f"{file}: {'.'.join(_path(error['loc']))}"
    if error["type"] == "extra_forbidden":
        return f"{where}: {_unknown_key(str(error['loc'][-1]), of_account=len(error['loc']) > 1)}"
    words = _IN_OTHER_WORDS.get(error["type"])
    return f"{where}: {words.format(**error.get('ctx', {})) if words else error['msg'].removeprefix('Value error, ')}"


def _unknown_key(key: str, *, of_account: bool) -> str:
    """What is wrong with a key that is not known where it stands."""
    here, elsewhere = AccountTable.model_fields, Settings.model_fields
    if of_account and key in elsewhere:
        return "is not an account's key; write it above the first [[accounts]]"
    if not of_account and key in here:
        return "is an account's key; write it below [[accounts]]"
    return f"no such key; {suggestion(key, here if of_account else elsewhere, 'see sbg-exporter run --help')}"


def _path(loc: Iterable[int | str]) -> Iterable[str]:
    return (f"#{part + 1}" if isinstance(part, int) else part for part in loc)


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


def listen_address(text: str) -> tuple[str | None, int]:
    """Host (None: every address) and port of ``host:port``, ``[::1]:10037`` or ``:10037``.

    Raises:
        ConfigError: it is none of these.
    """
    try:
        return _address(text)
    except ValueError as error:
        raise ConfigError(f"--listen: {error}") from None


def _address(text: str) -> tuple[str | None, int]:
    host, colon, port = text.rpartition(":")
    if _is_ipv6(text) and not _is_ipv6(host):
        raise ValueError(f"an IPv6 address goes in brackets and needs a port; write [{text}]:10037")
    if not colon or not port.isdecimal() or len(port) > len(str(_HIGHEST_PORT)) or int(port) > _HIGHEST_PORT:
        raise ValueError("not an address; write host:port, [::1]:10037 or :10037")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address goes in brackets; write [{host}]:{port}")
    return host or None, int(port)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _default_state_file(environ: Mapping[str, str], home: Path) -> Path:
    if directory := environ.get("STATE_DIRECTORY"):
        return Path(directory.split(":")[0]) / "state.db"
    base = environ.get("XDG_STATE_HOME")
    return (Path(base) if base else home / ".local" / "state") / "sbg-exporter" / "state.db"

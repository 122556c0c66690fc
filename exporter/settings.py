"""Every setting once: flag, environment variable, key of the TOML file, default and meaning.

Order: flags, then ``SBG_EXPORTER_<KEY>``, then the file, then the defaults here. Whatever is unknown or wrong is
reported as one line per problem: where it stands, what is wrong, what would be right. Secrets are never repeated.
"""

import ipaddress
import re
import ssl
import tomllib
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from exporter.counting.ledger import Rules
from exporter.credentials import FixedToken, Token, TokenFile, credentials_path, found, profiles, secret_of
from exporter.errors import ConfigError

PREFIX: Final = "SBG_EXPORTER_"
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)")
_LONGEST: Final = 366 * 86400.0
_HIGHEST_PORT: Final = 65535
_HOST: Final = re.compile(r"[a-z0-9_:][a-z0-9._:-]*")
_FROM_KUBERNETES: Final = re.compile(r"SBG_EXPORTER_(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_[A-Z]+(_.*)?)?)")
"""What Kubernetes injects into every container for a Service named ``sbg-exporter``."""

PLATFORMS: Final[Mapping[str, str]] = {
    "api.sbgenomics.com": "aws-us",
    "eu-api.sbgenomics.com": "aws-eu",
    "cgc-api.sbgenomics.com": "cgc",
    "cavatica-api.sbgenomics.com": "cavatica",
    "api.sb.biodatacatalyst.nhlbi.nih.gov": "f4c",
    "api.sevenbridges.cn": "ali-cn",
}
"""The platforms' hosts and the short names that their users know them by."""


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


def _label(value: str) -> str:
    if not 0 < len(value) <= _LONGEST_NAME or not value.isprintable() or value != value.strip():
        raise ValueError(f"not a name; write 1 to {_LONGEST_NAME} printable characters")
    return value


def _listenable(value: str) -> str:
    _address(value)
    return value


_LONGEST_NAME: Final = 64
Duration = Annotated[float, BeforeValidator(seconds), Field(gt=0)]
Delay = Annotated[float, BeforeValidator(seconds), Field(ge=0)]
Bounds = Annotated[tuple[float, ...], NoDecode, BeforeValidator(_bounds)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]


class AccountTable(BaseModel):
    """One ``[[accounts]]`` of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, AfterValidator(_label)]
    api_endpoint: str | None = None
    auth_token_file: Path | None = None
    auth_token: SecretStr | None = None
    profile: str | None = None
    division: str = ""
    ca_file: Path | None = None
    proxy: SecretStr | None = None
    allow_plain_http: bool = False


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
    poll_interval: Annotated[Duration, Field(ge=1)] = Field(30.0, description="time between two looks at an account")
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
class Watched:
    """One account to watch, resolved: where it is and how to get in.

    Attributes:
        name: the ``account`` label.
        endpoint: the API's base URL, without a slash at its end.
        division: free text that tells one user's divisions apart.
        token: where the token comes from.
        ca_file: certificates to trust instead of the system's.
        proxy: the proxy's URL, credentials included; never shown.
    """

    name: str
    endpoint: str
    division: str
    token: Token
    ca_file: Path | None
    proxy: str | None = field(repr=False)

    @property
    def needs_tls(self) -> bool:
        """Whether any part of the way to it is encrypted."""
        return self.endpoint.startswith("https:") or bool(self.proxy and self.proxy.startswith("https:"))


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
    accounts: tuple[Watched, ...]
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
    problems = _Problems(
        f"{name}: no such setting; known are {PREFIX}<KEY> for the keys in the README (accounts go into the file)"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in _variables() and not _FROM_KUBERNETES.fullmatch(name)
    )
    config = flags.get("config") or environ.get(f"{PREFIX}CONFIG")
    file = Path(str(config)) if config else None
    in_file: Mapping[str, object] = {}
    with problems.collected():
        in_file = _toml(file) if file is not None else {}
    variables = _from_environment(environ)
    given = {key: value for key, value in flags.items() if key != "config"}
    try:
        settings = Settings.model_validate({**in_file, **variables, **given})
    except ValidationError as error:
        found_wrong = error.errors(include_input=False)
        raise ConfigError(*problems, *(_problem(each, given, variables, file) for each in found_wrong)) from None
    accounts: tuple[Watched, ...] = ()
    if file is None or in_file:  # a file that cannot be read says nothing of accounts
        accounts = _accounts(settings, file, environ, home, problems)
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
        tuple(warning for account in accounts if (warning := account.token.exposed())),
    )


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
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: the configuration cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not a TOML file: {error}") from None


_IN_OTHER_WORDS: Final[Mapping[str, str]] = {
    "bool_parsing": "neither true nor false; write one of them",
    "bool_type": "neither true nor false; write one of them",
    "extra_forbidden": "no such key; see the table of settings in the README",
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
    words = _IN_OTHER_WORDS.get(error["type"])
    return f"{where}: {words.format(**error.get('ctx', {})) if words else error['msg'].removeprefix('Value error, ')}"


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
    if not colon or not port.isdecimal() or len(port) > len(str(_HIGHEST_PORT)) or int(port) > _HIGHEST_PORT:
        raise ValueError("not an address; write host:port, [::1]:10037 or :10037")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address goes in brackets; write [{host}]:{port}")
    return host or None, int(port)


def _default_state_file(environ: Mapping[str, str], home: Path) -> Path:
    if directory := environ.get("STATE_DIRECTORY"):
        return Path(directory.split(":")[0]) / "state.db"
    base = environ.get("XDG_STATE_HOME")
    return (Path(base) if base else home / ".local" / "state") / "sbg-exporter" / "state.db"


class _Problems(list[str]):
    """The lines for the person who wrote the configuration: all of them, not just the first."""

    @contextmanager
    def collected(self) -> Iterator[None]:
        """What is wrong inside becomes lines, and the next thing is looked at."""
        try:
            yield
        except ConfigError as error:
            self.extend(error.problems)


def _accounts(
    settings: Settings, file: Path | None, environ: Mapping[str, str], home: Path, problems: _Problems
) -> tuple[Watched, ...]:
    """All accounts; what is wrong with one goes to *problems*."""
    watched: list[Watched] = []

    @cache
    def known() -> _Profiles:  # read only when it is wanted: a service may not be let into a home at all
        return profiles(credentials_path(home))

    for position, table in enumerate(settings.accounts, 1):
        with problems.collected():
            watched.append(_from_table(table, f"{file}: accounts.#{position} ({table.name})", file, known, environ))
    with problems.collected():
        for name in _wanted_profiles(settings.profiles, known):
            with problems.collected():
                watched.append(_from_profile(name, known(), f"profiles: {name}", environ))
    if not settings.accounts and not settings.profiles:
        with problems.collected():
            watched.append(_from_conventions(known, environ))
    names = [account.name for account in watched]
    problems.extend(
        f"accounts: the name {name!r} is there {names.count(name)} times; give each account a name of its own"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    )
    return tuple(watched)


_Profiles = Mapping[str, Mapping[str, str]]


def _wanted_profiles(named: tuple[str, ...], known: Callable[[], _Profiles]) -> Iterable[str]:
    if "*" not in named:
        return named
    if not known():
        raise ConfigError("profiles: there are none in ~/.sevenbridges/credentials; write [name] sections into it")
    return known()


def _from_table(
    table: AccountTable,
    where: str,
    file: Path | None,
    known: Callable[[], _Profiles],
    environ: Mapping[str, str],
) -> Watched:
    beside = file.parent if file is not None else Path()
    endpoint = table.api_endpoint
    token: Token
    match table.auth_token_file, table.auth_token, table.profile:
        case Path() as path, None, None:
            token = TokenFile(found(path, beside, environ))
        case None, SecretStr() as text, None:
            token = FixedToken(secret_of(text.get_secret_value(), f"{where}: auth_token"))
        case None, None, str() as name:
            profile = _profile(name, known(), where)
            token = FixedToken(secret_of(profile.get("auth_token", ""), f"{where}: profile {name}"))
            endpoint = endpoint or profile.get("api_endpoint")
        case _:
            raise ConfigError(f"{where}: give exactly one of auth_token_file, auth_token and profile")
    return _watched(
        where,
        table.name,
        endpoint,
        token,
        environ,
        division=table.division,
        ca_file=None if table.ca_file is None else beside / table.ca_file,
        proxy=None if table.proxy is None else table.proxy.get_secret_value(),
        allow_plain_http=table.allow_plain_http,
    )


def _from_profile(name: str, known: _Profiles, where: str, environ: Mapping[str, str]) -> Watched:
    profile = _profile(name, known, where)
    token = FixedToken(secret_of(profile.get("auth_token", ""), f"{where}: auth_token"))
    return _watched(where, name, profile.get("api_endpoint"), token, environ)


def _from_conventions(known: Callable[[], _Profiles], environ: Mapping[str, str]) -> Watched:
    """The one account that the official clients would use: their variables, else their default profile."""
    endpoint, text, path = (environ.get(f"SB_{name}") for name in ("API_ENDPOINT", "AUTH_TOKEN", "AUTH_TOKEN_FILE"))
    if endpoint and (path or text):
        token: Token
        if path:
            token = TokenFile(found(Path(path), Path(), environ))
        else:
            token = FixedToken(secret_of(text or "", "SB_AUTH_TOKEN"))
        return _watched("SB_API_ENDPOINT", None, endpoint, token, environ)
    if endpoint:  # the default profile may well be of another platform
        raise ConfigError("SB_API_ENDPOINT: it needs a token; set SB_AUTH_TOKEN_FILE or SB_AUTH_TOKEN too")
    if path or text:
        raise ConfigError(
            f"SB_AUTH_TOKEN{'_FILE' if path else ''}: it needs a platform; set SB_API_ENDPOINT too,"
            " for example to https://cavatica-api.sbgenomics.com/v2"
        )
    if "default" in known():
        return _from_profile("default", known(), "profile default", environ)
    raise ConfigError(
        "accounts: none configured; write an [[accounts]] table into a file and name it with --config,"
        " or set SB_API_ENDPOINT and SB_AUTH_TOKEN_FILE"
    )


def _profile(name: str, known: _Profiles, where: str) -> Mapping[str, str]:
    if name not in known:
        there = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"{where}: no profile {name!r} in ~/.sevenbridges/credentials (there: {there})")
    return known[name]


def _watched(
    where: str,
    name: str | None,
    endpoint: str | None,
    token: Token,
    environ: Mapping[str, str],
    *,
    division: str = "",
    ca_file: Path | None = None,
    proxy: str | None = None,
    allow_plain_http: bool = False,
) -> Watched:
    if not endpoint:
        raise ConfigError(f"{where}: api_endpoint is missing; for example https://cavatica-api.sbgenomics.com/v2")
    url, host = _endpoint(endpoint, where, allow_plain_http=allow_plain_http)
    try:
        token.read()  # a token that cannot be read now is a wrong configuration; later it is a failed poll
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}; write the token into it, and nothing else") from None
    if ca_file is not None:
        _check_certificates(ca_file, where)
    if proxy is not None:
        proxy = _proxy(proxy, f"{where}: proxy")
    elif not _loopback(host):
        proxy = _proxy_from(environ, url)
    return Watched(name or PLATFORMS.get(host, host), url, division, token, ca_file, proxy)


def _endpoint(text: str, where: str, *, allow_plain_http: bool) -> tuple[str, str]:
    """The base URL in its one spelling, and its host."""
    wrong = f"{where}: api_endpoint is not a URL; for example https://cgc-api.sbgenomics.com/v2"
    try:
        parts = urlsplit(text.strip())
        port = parts.port
        host = (parts.hostname or "").rstrip(".")
        host = host if ":" in host else host.encode("idna").decode()
    except ValueError:  # UnicodeError is one
        raise ConfigError(wrong) from None
    if parts.scheme not in {"http", "https"} or not _is_host(host) or not text.strip().isprintable():
        raise ConfigError(wrong)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(f"{where}: api_endpoint must be a plain base URL, without user, query or fragment")
    if parts.scheme == "http" and not allow_plain_http and not _loopback(host):
        raise ConfigError(
            f"{where}: api_endpoint is plain http, which would send the token in the clear;"
            " use https, or say allow_plain_http = true"
        )
    shown = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}[parts.scheme]
    at = f"{shown}:{port}" if port not in {None, default} else shown
    path = parts.path.rstrip("/") or "/v2"  # users leave /v2 out, and write the slash or not
    return f"{parts.scheme}://{at}{path}", host


def _is_host(text: str) -> bool:
    """Whether *text* can be a host: a name, or a whole address where it looks like one."""
    if ":" in text or not text.strip("0123456789."):
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return False
    return _HOST.fullmatch(text) is not None


def _check_certificates(ca_file: Path, where: str) -> None:
    try:
        ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise ConfigError(f"{where}: ca_file: no certificate in {ca_file}; write certificates in PEM form") from None
    except OSError as error:
        raise ConfigError(f"{where}: ca_file: {ca_file} cannot be read: {error.strerror}") from None


def _loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _proxy_from(environ: Mapping[str, str], url: str) -> str | None:
    """``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY``, in either case; the lower one goes first, as is the custom."""
    upper_first = sorted(name for name in environ if name.lower() in {"http_proxy", "https_proxy", "no_proxy"})
    set_by = {name.lower().removesuffix("_proxy"): name for name in upper_first}
    values = {kind: environ[name] for kind, name in set_by.items()}
    scheme, _, rest = url.partition("://")
    if urllib.request.proxy_bypass_environment(rest.partition("/")[0], values):  # type: ignore[attr-defined]  # typeshed lacks it
        return None
    return _proxy(values[scheme], set_by[scheme]) if values.get(scheme) else None


def _proxy(text: str, where: str) -> str:
    """A proxy's URL, credentials included; without a scheme it is http."""
    url = text.strip() if "://" in text else f"http://{text.strip()}"
    try:
        parts = urlsplit(url)
        right = parts.scheme in {"http", "https"} and _is_host(parts.hostname or "") and parts.port != 0
    except ValueError:
        right = False
    if not right or not url.isprintable():
        raise ConfigError(f"{where}: not a proxy's URL; for example http://proxy.example.org:3128")
    return url

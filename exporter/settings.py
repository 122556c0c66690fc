"""Every setting once: flag, environment variable, key of the TOML file, default and meaning.

Order: flags, then ``SBG_EXPORTER_<KEY>``, then the file, then the defaults here. Whatever is unknown or wrong is
reported as one line per problem: where it stands, what is wrong, what would be right. Secrets are never repeated.
"""

import ipaddress
import re
import tomllib
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from exporter.counting.ledger import Rules
from exporter.credentials import FixedToken, Token, TokenFile, credentials_path, found, profiles, secret_of
from exporter.errors import ConfigError

PREFIX: Final = "SBG_EXPORTER_"
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
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


def seconds(value: object) -> object:
    """A duration: seconds, or a number with a unit: ``30s``, ``5m``, ``1h``, ``1d``."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ValueError('not a duration; write seconds, or "30s", "5m", "1h"')
        return float(match[1]) * _UNITS[match[2] or "s"]
    return value


def _bounds(value: object) -> object:
    if isinstance(value, str):
        value = [part for part in re.split(r"[,\s]+", value.strip()) if part]
    if not isinstance(value, Sequence):
        return value
    numbers = [float(each) if isinstance(each := seconds(part), int | float) else 0.0 for part in value]
    if not numbers or numbers[0] <= 0 or any(one >= other for one, other in pairwise(numbers)):
        raise ValueError("not histogram bounds; write rising seconds above 0 such as 1, 5, 30")
    return tuple(numbers)


def _names(value: object) -> object:
    if isinstance(value, str):
        return [part for part in re.split(r"[,\s]+", value.strip()) if part]
    return value


Duration = Annotated[float, BeforeValidator(seconds), Field(gt=0)]
Bounds = Annotated[tuple[float, ...], NoDecode, BeforeValidator(_bounds)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]


class AccountTable(BaseModel):
    """One ``[[accounts]]`` of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
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

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    listen: str = Field(":10037", description="address of the metrics server: host:port, [::1]:port, or :port for all")
    state_file: Path | None = Field(
        None,
        description="the ledger (SQLite, local disk); by default state.db in $STATE_DIRECTORY,"
        " else in sbg-exporter under $XDG_STATE_HOME",
    )
    poll_interval: Annotated[Duration, Field(ge=1)] = Field(30.0, description="time between two looks at an account")
    stale_after: Duration = Field(
        600.0, description="how long after its last good answer an account's gauges are still shown"
    )
    settle_after: Annotated[float, BeforeValidator(seconds), Field(ge=0)] = Field(
        60.0,
        description="how far apart two answers must agree before a finished job with files unaccounted for"
        " is called incomplete",
    )
    lost_after: Annotated[float, BeforeValidator(seconds), Field(ge=0)] = Field(
        300.0,
        description='how far apart two answers "no such job" must be before an unfinished job is called lost',
    )
    request_timeout: Duration = Field(30.0, description="of one API request as a whole, name look-up to last byte")
    rate_share: float = Field(0.25, gt=0, le=1, description="share of the account's rate limit that may be used")
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
        environ: the environment (of this process: pydantic-settings reads it by itself).
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
    in_file = _toml(file) if file is not None else {}
    variables = EnvSettingsSource(Settings)()
    variables.pop("accounts", None)
    given = {key: value for key, value in flags.items() if key != "config"}
    try:
        settings = Settings.model_validate({**in_file, **variables, **given})
    except ValidationError as error:
        raise ConfigError(
            *problems, *(_problem(each, given, variables, file) for each in error.errors(include_input=False))
        ) from None
    host, port = None, 0
    with problems.collected():
        host, port = listen_address(settings.listen)
    accounts = _accounts(settings, file, environ, home, problems)
    if problems:
        raise ConfigError(*problems)
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


def _variables() -> frozenset[str]:
    return frozenset({f"{PREFIX}CONFIG", *(PREFIX + key.upper() for key in Settings.model_fields if key != "accounts")})


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: the configuration cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not a TOML file: {error}") from None


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
        return f"{where}: no such key; see the table of settings in the README"
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}: {message[:1].lower()}{message[1:]}"


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
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004  # the highest port there is
        raise ConfigError(f"listen: {text!r} is not an address; write host:port, [::1]:10037 or :10037")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(f"listen: {text!r}: an IPv6 address goes in brackets: [{host}]:{port}")
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
    known: dict[str, dict[str, str]] = {}
    with problems.collected():
        known = profiles(credentials_path(home))
    for position, table in enumerate(settings.accounts, 1):
        with problems.collected():
            watched.append(_from_table(table, f"{file}: accounts.#{position} ({table.name})", file, known, environ))
    for name in known if "*" in settings.profiles else settings.profiles:
        with problems.collected():
            watched.append(_from_profile(name, known, f"profiles: {name}", environ))
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


def _from_table(
    table: AccountTable,
    where: str,
    file: Path | None,
    known: Mapping[str, Mapping[str, str]],
    environ: Mapping[str, str],
) -> Watched:
    if sum(each is not None for each in (table.auth_token_file, table.auth_token, table.profile)) != 1:
        raise ConfigError(f"{where}: give exactly one of auth_token_file, auth_token and profile")
    beside = file.parent if file is not None else Path()
    token: Token
    endpoint = table.api_endpoint
    if table.profile is not None:
        profile = _profile(table.profile, known, where)
        token = FixedToken(secret_of(profile.get("auth_token", ""), f"{where}: profile {table.profile}"))
        endpoint = endpoint or profile.get("api_endpoint")
    elif table.auth_token_file is not None:
        token = TokenFile(found(table.auth_token_file, beside))
    elif table.auth_token is not None:
        token = FixedToken(secret_of(table.auth_token.get_secret_value(), f"{where}: auth_token"))
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


def _from_profile(name: str, known: Mapping[str, Mapping[str, str]], where: str, environ: Mapping[str, str]) -> Watched:
    profile = _profile(name, known, where)
    token = FixedToken(secret_of(profile.get("auth_token", ""), f"{where}: auth_token"))
    return _watched(where, name, profile.get("api_endpoint"), token, environ)


def _from_conventions(known: Mapping[str, Mapping[str, str]], environ: Mapping[str, str]) -> Watched:
    """The one account that the official clients would use: their variables, else their default profile."""
    endpoint = environ.get("SB_API_ENDPOINT")
    if endpoint and environ.get("SB_AUTH_TOKEN_FILE"):
        token: Token = TokenFile(Path(environ["SB_AUTH_TOKEN_FILE"]))
        return _watched("SB_API_ENDPOINT", None, endpoint, token, environ)
    if endpoint and environ.get("SB_AUTH_TOKEN"):
        token = FixedToken(secret_of(environ["SB_AUTH_TOKEN"], "SB_AUTH_TOKEN"))
        return _watched("SB_API_ENDPOINT", None, endpoint, token, environ)
    if "default" in known:
        return _from_profile("default", known, "profile default", environ)
    raise ConfigError(
        "accounts: none configured; write an [[accounts]] table into a file and name it with --config,"
        " or set SB_API_ENDPOINT and SB_AUTH_TOKEN_FILE"
    )


def _profile(name: str, known: Mapping[str, Mapping[str, str]], where: str) -> Mapping[str, str]:
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
    token.read()  # a token that cannot be read now is a wrong configuration; later it is a failed poll
    if ca_file is not None and not ca_file.is_file():
        raise ConfigError(f"{where}: ca_file: no such file: {ca_file}")
    if proxy is None and not _loopback(host):
        proxy = _proxy_from(environ, url, host)
    if proxy is not None and urlsplit(proxy).scheme not in {"http", "https"}:
        raise ConfigError(f"{where}: the proxy is not an http:// or https:// URL")
    return Watched(name or PLATFORMS.get(host, host), url, division, token, ca_file, proxy)


def _endpoint(text: str, where: str, *, allow_plain_http: bool) -> tuple[str, str]:
    """The base URL in its one spelling, and its host."""
    try:
        parts = urlsplit(text.strip())
        host, port = (parts.hostname or "").rstrip("."), parts.port
        host.encode("idna")
    except (ValueError, UnicodeError):
        raise ConfigError(
            f"{where}: api_endpoint is not a URL; for example https://cgc-api.sbgenomics.com/v2"
        ) from None
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigError(f"{where}: api_endpoint is not a URL; for example https://cgc-api.sbgenomics.com/v2")
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


def _loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _proxy_from(environ: Mapping[str, str], url: str, host: str) -> str | None:
    """``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY``, in either case, as the standard library reads them."""
    variables = {name.lower(): value for name, value in environ.items() if name.lower().endswith("_proxy")}
    proxies = {name.removesuffix("_proxy"): value for name, value in variables.items()}
    if urllib.request.proxy_bypass_environment(host, proxies):  # type: ignore[attr-defined]  # typeshed lacks it
        return None
    return proxies.get(urlsplit(url).scheme) or proxies.get("all") or None

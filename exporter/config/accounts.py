"""The accounts to poll: from tables in the file, from profiles, or by the official clients' conventions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr

from exporter.config.endpoints import (
    check_certificates,
    is_loopback,
    parse_endpoint,
    parse_proxy,
    proxy_from_environment,
)
from exporter.config.tokens import (
    FixedToken,
    Token,
    TokenFile,
    credentials_path,
    parse_token,
    read_profiles,
    token_path,
)
from exporter.errors import ConfigError, Problems

_LONGEST_NAME: Final = 64

PLATFORMS: Final[Mapping[str, str]] = {
    "api.sbgenomics.com": "aws-us",
    "eu-api.sbgenomics.com": "aws-eu",
    "cgc-api.sbgenomics.com": "cgc",
    "cavatica-api.sbgenomics.com": "cavatica",
    "api.sb.biodatacatalyst.nhlbi.nih.gov": "f4c",
    "api.sevenbridges.cn": "ali-cn",
}
"""The platforms' hosts and short names."""


def _label(value: str) -> str:
    if not 0 < len(value) <= _LONGEST_NAME or not value.isprintable() or value != value.strip():
        raise ValueError(f"expected 1 to {_LONGEST_NAME} printable characters")
    return value


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


@dataclass(frozen=True, slots=True)
class AccountConfig:
    """One account to poll, with everything resolved.

    Attributes:
        name: the ``account`` label.
        endpoint: the API's base URL, without a slash at its end.
        division: free text that distinguishes one user's divisions.
        token: the source of the token.
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
        """Whether a connection to the endpoint or to its proxy is encrypted."""
        return self.endpoint.startswith("https:") or bool(self.proxy and self.proxy.startswith("https:"))


def resolve_accounts(
    tables: Sequence[AccountTable],
    wanted_profiles: tuple[str, ...],
    *,
    file: Path | None,
    environ: Mapping[str, str],
    home: Path,
    problems: Problems,
) -> tuple[AccountConfig, ...]:
    """All accounts of *tables* and profiles; without any, the one of the official clients' conventions.

    Errors of an account are added to *problems*, and the next account is resolved.
    """
    accounts: list[AccountConfig] = []

    @cache
    def known() -> _Profiles:  # read on demand: a service may have no access to a home directory
        return read_profiles(credentials_path(home))

    for position, table in enumerate(tables, 1):
        with problems.collected():
            accounts.append(_from_table(table, f"{file}: accounts.#{position} ({table.name})", file, known, environ))
    with problems.collected():
        for name in _wanted_profiles(wanted_profiles, known):
            with problems.collected():
                accounts.append(_from_profile(name, known(), f"profiles: {name}", environ))
    if not tables and not wanted_profiles:
        with problems.collected():
            accounts.append(_from_conventions(known, environ))
    names = [account.name for account in accounts]
    problems.extend(
        f"accounts: the name {name!r} is used {names.count(name)} times; give each account its own name"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    )
    return tuple(accounts)


_Profiles = Mapping[str, Mapping[str, str]]


def _wanted_profiles(named: tuple[str, ...], known: Callable[[], _Profiles]) -> Iterable[str]:
    if "*" not in named:
        return named
    if not known():
        raise ConfigError("profiles: none in ~/.sevenbridges/credentials; add [name] sections to it")
    return known()


def _from_table(
    table: AccountTable,
    where: str,
    file: Path | None,
    known: Callable[[], _Profiles],
    environ: Mapping[str, str],
) -> AccountConfig:
    beside = file.parent if file is not None else Path()
    endpoint = table.api_endpoint
    token: Token
    match table.auth_token_file, table.auth_token, table.profile:
        case Path() as path, None, None:
            token = TokenFile(token_path(path, beside, environ))
        case None, SecretStr() as text, None:
            token = FixedToken(parse_token(text.get_secret_value(), f"{where}: auth_token"), file)
        case None, None, str() as name:
            profile = _profile(name, known(), where)
            token = FixedToken(parse_token(profile.get("auth_token", ""), f"{where}: profile {name}"))
            endpoint = endpoint or profile.get("api_endpoint")
        case _:
            raise ConfigError(f"{where}: set exactly one of auth_token_file, auth_token and profile")
    return _account_config(
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


def _from_profile(name: str, known: _Profiles, where: str, environ: Mapping[str, str]) -> AccountConfig:
    profile = _profile(name, known, where)
    token = FixedToken(parse_token(profile.get("auth_token", ""), f"{where}: auth_token"))
    return _account_config(where, name, profile.get("api_endpoint"), token, environ)


def _from_conventions(known: Callable[[], _Profiles], environ: Mapping[str, str]) -> AccountConfig:
    """The one account that the official clients would use: their variables, else their default profile."""
    endpoint, text, path = (environ.get(f"SB_{name}") for name in ("API_ENDPOINT", "AUTH_TOKEN", "AUTH_TOKEN_FILE"))
    if endpoint and (path or text):
        token: Token
        if path:
            token = TokenFile(token_path(Path(path), Path(), environ))
        else:
            token = FixedToken(parse_token(text or "", "SB_AUTH_TOKEN"))
        return _account_config("SB_API_ENDPOINT", None, endpoint, token, environ)
    if endpoint:  # the default profile may be for another platform
        raise ConfigError("SB_API_ENDPOINT: no token; set SB_AUTH_TOKEN_FILE or SB_AUTH_TOKEN")
    if path or text:
        raise ConfigError(
            f"SB_AUTH_TOKEN{'_FILE' if path else ''}: no platform; set SB_API_ENDPOINT,"
            " for example to https://cavatica-api.sbgenomics.com/v2"
        )
    if "default" in known():
        return _from_profile("default", known(), "profile default", environ)
    raise ConfigError(
        "accounts: none configured; write an [[accounts]] table to a file and pass it with --config,"
        " or set SB_API_ENDPOINT and SB_AUTH_TOKEN_FILE"
    )


def _profile(name: str, known: _Profiles, where: str) -> Mapping[str, str]:
    if name not in known:
        available = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"{where}: no profile {name!r} in ~/.sevenbridges/credentials (available: {available})")
    return known[name]


def _account_config(
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
) -> AccountConfig:
    if not endpoint:
        raise ConfigError(
            f"{where}: api_endpoint is missing; set it, for example to https://cavatica-api.sbgenomics.com/v2"
        )
    url, host = parse_endpoint(endpoint, where, allow_plain_http=allow_plain_http)
    try:
        token.read()  # at start an unreadable token is a configuration error; later it fails a poll
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}; write only the token to it") from None
    if ca_file is not None:
        check_certificates(ca_file, where)
    if proxy is not None:
        proxy = parse_proxy(proxy, f"{where}: proxy")
    elif not is_loopback(host):
        proxy = proxy_from_environment(environ, url)
    return AccountConfig(name or PLATFORMS.get(host, host), url, division, token, ca_file, proxy)

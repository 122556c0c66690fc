"""The accounts to watch: from tables of the file, from profiles, or by the official clients' conventions."""

import ipaddress
import re
import ssl
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr

from exporter.config.tokens import FixedToken, Token, TokenFile, credentials_path, found, profiles, secret_of
from exporter.errors import ConfigError, Problems

_HOST: Final = re.compile(r"[a-z0-9_:][a-z0-9._:-]*")
_LONGEST_NAME: Final = 64

PLATFORMS: Final[Mapping[str, str]] = {
    "api.sbgenomics.com": "aws-us",
    "eu-api.sbgenomics.com": "aws-eu",
    "cgc-api.sbgenomics.com": "cgc",
    "cavatica-api.sbgenomics.com": "cavatica",
    "api.sb.biodatacatalyst.nhlbi.nih.gov": "f4c",
    "api.sevenbridges.cn": "ali-cn",
}
"""The platforms' hosts and the short names that their users know them by."""


def _label(value: str) -> str:
    if not 0 < len(value) <= _LONGEST_NAME or not value.isprintable() or value != value.strip():
        raise ValueError(f"not a name; write 1 to {_LONGEST_NAME} printable characters")
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


def accounts_of(
    tables: Sequence[AccountTable],
    wanted_profiles: tuple[str, ...],
    *,
    file: Path | None,
    environ: Mapping[str, str],
    home: Path,
    problems: Problems,
) -> tuple[AccountConfig, ...]:
    """All accounts, of *tables* and profiles, else by the official clients' conventions.

    What is wrong with one goes to *problems*, and the next is looked at.
    """
    accounts: list[AccountConfig] = []

    @cache
    def known() -> _Profiles:  # read only when it is wanted: a service may not be let into a home at all
        return profiles(credentials_path(home))

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
        f"accounts: the name {name!r} is there {names.count(name)} times; give each account a name of its own"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    )
    return tuple(accounts)


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
) -> AccountConfig:
    beside = file.parent if file is not None else Path()
    endpoint = table.api_endpoint
    token: Token
    match table.auth_token_file, table.auth_token, table.profile:
        case Path() as path, None, None:
            token = TokenFile(found(path, beside, environ))
        case None, SecretStr() as text, None:
            token = FixedToken(secret_of(text.get_secret_value(), f"{where}: auth_token"), file)
        case None, None, str() as name:
            profile = _profile(name, known(), where)
            token = FixedToken(secret_of(profile.get("auth_token", ""), f"{where}: profile {name}"))
            endpoint = endpoint or profile.get("api_endpoint")
        case _:
            raise ConfigError(f"{where}: give exactly one of auth_token_file, auth_token and profile")
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
    token = FixedToken(secret_of(profile.get("auth_token", ""), f"{where}: auth_token"))
    return _account_config(where, name, profile.get("api_endpoint"), token, environ)


def _from_conventions(known: Callable[[], _Profiles], environ: Mapping[str, str]) -> AccountConfig:
    """The one account that the official clients would use: their variables, else their default profile."""
    endpoint, text, path = (environ.get(f"SB_{name}") for name in ("API_ENDPOINT", "AUTH_TOKEN", "AUTH_TOKEN_FILE"))
    if endpoint and (path or text):
        token: Token
        if path:
            token = TokenFile(found(Path(path), Path(), environ))
        else:
            token = FixedToken(secret_of(text or "", "SB_AUTH_TOKEN"))
        return _account_config("SB_API_ENDPOINT", None, endpoint, token, environ)
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
    return AccountConfig(name or PLATFORMS.get(host, host), url, division, token, ca_file, proxy)


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
    if parts.scheme not in {"", "http", "https"} and parts.netloc:
        raise ConfigError(f"{where}: api_endpoint is not http or https; for example https://cgc-api.sbgenomics.com/v2")
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

"""The Seven Bridges platforms: APIs, token pages, and web addresses that are easily taken for an API. Pure."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit


class Platform(NamedTuple):
    """One platform.

    Attributes:
        name: its short name, by which an account without a name is called.
        title: its name in words.
        endpoint: the API's base URL.
        web: where people log in.
        token_page: where they copy their token; empty if the platform does not document it (menu *Developer*).
    """

    name: str
    title: str
    endpoint: str
    web: str
    token_page: str = ""

    @property
    def where_token_is(self) -> str:
        """Where to copy the token, in words."""
        return self.token_page or f"menu Developer of {self.web}"


PLATFORMS: Final = (
    Platform(
        "cavatica",
        "CAVATICA",
        "https://cavatica-api.sbgenomics.com/v2",
        "https://cavatica.sbgenomics.com",
        "https://cavatica.sbgenomics.com/developer",
    ),
    Platform(
        "cgc",
        "Cancer Genomics Cloud",
        "https://cgc-api.sbgenomics.com/v2",
        "https://cgc.sbgenomics.com",
        "https://cgc.sbgenomics.com/developer",
    ),
    Platform(
        "f4c",
        "BioData Catalyst",
        "https://api.sb.biodatacatalyst.nhlbi.nih.gov/v2",
        "https://platform.sb.biodatacatalyst.nhlbi.nih.gov",
    ),
    Platform(
        "aws-us",
        "Seven Bridges US",
        "https://api.sbgenomics.com/v2",
        "https://igor.sbgenomics.com",
        "https://igor.sbgenomics.com/developer",
    ),
    Platform("aws-eu", "Seven Bridges EU", "https://eu-api.sbgenomics.com/v2", "https://eu.sbgenomics.com"),
    Platform("ali-cn", "Seven Bridges China", "https://api.sevenbridges.cn/v2", "https://platform.sevenbridges.cn"),
)
"""The platforms, in the order in which `init` lists them."""

_BY_HOST: Final[Mapping[str, Platform]] = {urlsplit(each.endpoint).netloc: each for each in PLATFORMS}
SHORT_NAMES: Final[Mapping[str, str]] = {host: each.name for host, each in _BY_HOST.items()}
"""API host to the platform's short name."""

_BASE_PATH: Final = re.compile(r"/v2(?=/|$)")
_OTHER_VERSION: Final = re.compile(r"/v\d$", re.IGNORECASE)
_OLD_API_HOST: Final = "gcp-api.sbgenomics.com"
_WEB_HOSTS: Final[Mapping[str, str]] = {
    "igor.sbgenomics.com": "api.sbgenomics.com",
    "us.sbgenomics.com": "api.sbgenomics.com",
    "platform.sbgenomics.com": "api.sbgenomics.com",
    "www.sbgenomics.com": "api.sbgenomics.com",
    "sbgenomics.com": "api.sbgenomics.com",
    "us-api.sbgenomics.com": "api.sbgenomics.com",
    "platform.sevenbridges.com": "api.sbgenomics.com",
    "api.sevenbridges.com": "api.sbgenomics.com",
    "docs.sevenbridges.com": "api.sbgenomics.com",
    "www.sevenbridges.com": "api.sbgenomics.com",
    "sevenbridges.com": "api.sbgenomics.com",
    "eu.sbgenomics.com": "eu-api.sbgenomics.com",
    "cgc.sbgenomics.com": "cgc-api.sbgenomics.com",
    "api.cgc.sbgenomics.com": "cgc-api.sbgenomics.com",
    "cancergenomicscloud.org": "cgc-api.sbgenomics.com",
    "cavatica.sbgenomics.com": "cavatica-api.sbgenomics.com",
    "cavatica.org": "cavatica-api.sbgenomics.com",
    "platform.sb.biodatacatalyst.nhlbi.nih.gov": "api.sb.biodatacatalyst.nhlbi.nih.gov",
    "sb.biodatacatalyst.nhlbi.nih.gov": "api.sb.biodatacatalyst.nhlbi.nih.gov",
    "biodatacatalyst.nhlbi.nih.gov": "api.sb.biodatacatalyst.nhlbi.nih.gov",
    "f4c.sbgenomics.com": "api.sb.biodatacatalyst.nhlbi.nih.gov",
    "platform.sevenbridges.cn": "api.sevenbridges.cn",
    "sevenbridges.cn": "api.sevenbridges.cn",
    "gcp.sbgenomics.com": _OLD_API_HOST,
}
_NOT_COMMON: Final = {"sbgenomics.com"}
"""Domains with several platforms in them: an unknown sub-domain may be an API."""


def api_base(host: str) -> str | None:
    """Return the base URL of the API that belongs to *host*, an API's own or a web address; None for other hosts."""
    found = host if is_api(host) else _api_of_web_host(host)
    return None if found is None else f"https://{found}/v2"


def web_addresses() -> tuple[tuple[str, str, bool], ...]:
    """Each known web address, its API's host, and whether its sub-domains are web addresses, too, unless an API's."""
    return tuple((host, api, host not in _NOT_COMMON) for host, api in _WEB_HOSTS.items())


def where_token_is(host: str) -> str:
    """Where to copy a token for the API on *host*, in words; empty for an unknown one."""
    return _BY_HOST[host].where_token_is if host in _BY_HOST else ""


def is_api(host: str) -> bool:
    """Whether *host* is the API of a known platform."""
    return host in SHORT_NAMES or host == _OLD_API_HOST


def platform_at(address: str) -> Platform | None:
    """Return the platform with this web address or API, which may have a scheme and a path; None for others."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        special = parts.username or parts.password or parts.port
    except ValueError:
        return None
    base = None if special else api_base(parts.hostname or "")
    return next((each for each in PLATFORMS if each.endpoint == base), None)


def unusual_path(endpoint: str) -> str:
    """Return a question about an API's base URL that does not end in one ``/v2``; empty if it does.

    It may be right where another server passes requests on to the API.
    """
    found = _BASE_PATH.search(endpoint)
    if found is None:
        return f"api_endpoint does not end in /v2; should it be {_OTHER_VERSION.sub('', endpoint)}/v2?"
    if found.end() < len(endpoint):
        return f"api_endpoint goes on after /v2; should it be {endpoint[: found.end()]}?"
    return ""


def _api_of_web_host(host: str) -> str | None:
    """Return the API's host for a web address, which may be a sub-domain of a known one."""
    domain = host
    while domain not in _WEB_HOSTS:
        _, dot, domain = domain.partition(".")
        if not dot:
            return None
    return None if domain in _NOT_COMMON and domain != host else _WEB_HOSTS[domain]


def place(endpoint: str, division: str) -> str:
    """Where an account is, in words: its API's URL and, if it has one, its division."""
    return f"{endpoint}{f', division {division}' if division else ''}"

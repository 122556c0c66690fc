"""``NO_PROXY``: which hosts are reached without the proxy. Pure.

The variable has no standard. Where curl, Go and Python's requests accept a form, they agree on its meaning, so every
form that one of them documents is accepted here:

*   ``example.org``: this host and its sub-domains, in either case, with or without a dot at its end
*   ``.example.org``: the same, as curl and requests read it; Go leaves out ``example.org`` itself
*   ``*.example.org``: its sub-domains (Go)
*   ``10.0.0.1``, ``2001:db8::1``, ``[2001:db8::1]``: this address, in any notation
*   ``10.0.0.0/8``, ``fd00::/8``: these addresses; names are not looked up
*   ``example.org:8443``, ``10.0.0.1:8443``, ``[::1]:8443``: only this port (Go, requests)
*   ``*``: every host

Entries are separated by commas, white space, or both. What is none of these matches nothing.

Sources: curl's manual page (``NO_PROXY``) and ``lib/noproxy.c``; the documentation of Go's
``golang.org/x/net/http/httpproxy``; ``should_bypass_proxies`` of requests with ``proxy_bypass_environment`` of Python's
urllib.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_SEPARATOR: Final = re.compile(r"[,\s]+")


def bypasses_proxy(no_proxy: str, host: str, port: int) -> bool:
    """Whether *no_proxy* names *host*, a name or an address without brackets, with *port*."""
    host = _ascii(host)
    address = _address(host)
    return any(_matches(entry, host, address, port) for entry in _entries(no_proxy))


def _entries(no_proxy: str) -> Iterable[str]:
    return filter(None, _SEPARATOR.split(no_proxy))


def _matches(entry: str, host: str, address: _Address | None, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        return address is not None and _in_network(address, entry)
    name, wanted = _split_port(entry)
    if wanted not in {None, port}:
        return False
    if address is not None:
        return _address(name) == address
    return _is_domain_of(_ascii(name), host)


def _split_port(entry: str) -> tuple[str, int | None]:
    """The host of *entry*, without brackets, and its port, if it names one."""
    if _address(entry) is not None:  # an IPv6 address without brackets has no port
        return entry, None
    host, colon, port = entry.rpartition(":")
    if colon and port.isdecimal() and port.isascii():
        return host.strip("[]"), int(port[:6])
    return entry.strip("[]"), None


def _is_domain_of(name: str, host: str) -> bool:
    only_below = name.startswith("*.")
    domain = (name.removeprefix("*") if only_below else name).lstrip(".")
    return bool(domain) and (host.endswith(f".{domain}") or (host == domain and not only_below))


def _in_network(address: _Address, entry: str) -> bool:
    network, _, length = entry.rpartition("/")
    try:
        found = ipaddress.ip_network(f"{network.strip('[]')}/{length}", strict=False)
    except ValueError:
        return False
    return found.version == address.version and address in found


def _address(text: str) -> _Address | None:
    """The address that *text* is; an IPv4 address within IPv6 as IPv4, and without the zone of an interface."""
    try:
        found = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _ascii(name: str) -> str:
    """A host name in lower case, without a dot at its end, as it is sent in DNS."""
    name = name.lower().rstrip(".")
    try:
        return name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        return name

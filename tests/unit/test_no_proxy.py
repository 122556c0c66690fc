"""NO_PROXY as curl, Go's httpproxy and Python's requests read it, form by form.

The rows were compared with curl 7.88.1, golang.org/x/net 0.61.0 and requests 2.34.2: where the three agree, so do the
rows. A form that only some of them read is accepted. Brackets around an address without a port, which none of them
reads, are accepted because a URL needs them.
"""

import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.no_proxy import bypasses_proxy

AGREED: dict[str, tuple[str, str, int, bool]] = {
    "the host": ("api.example.org", "api.example.org", 443, True),
    "another host": ("api.example.org", "api.example.com", 443, False),
    "a host above": ("api.example.org", "example.org", 443, False),
    "a domain matches sub-domains": ("example.org", "eu.api.example.org", 443, True),
    "a domain matches whole labels only": ("example.org", "notexample.org", 443, False),
    "a leading dot matches sub-domains": (".example.org", "api.example.org", 443, True),
    "a leading dot does not match a longer label": (".example.org", "notexample.org", 443, False),
    "a star and a dot match sub-domains": ("*.example.org", "eu.api.example.org", 443, True),
    "a star and a dot leave out the domain": ("*.example.org", "example.org", 443, False),
    "a star and a dot match whole labels only": ("*.example.org", "notexample.org", 443, False),
    "upper case in the list": ("API.Example.ORG", "api.example.org", 443, True),
    "upper case in the host": ("example.org", "API.Example.Org", 443, True),
    "a dot at the end of the entry": ("example.org.", "api.example.org", 443, True),
    "a dot at the end of the host": ("example.org", "api.example.org.", 443, True),
    "an international name": ("bücher.example", "xn--bcher-kva.example", 443, True),
    "everything": ("*", "api.example.org", 443, True),
    "everything, addresses too": ("*", "2001:db8::1", 443, True),
    "everything, with spaces": (" * ", "api.example.org", 443, True),
    "everything, among others": ("localhost,*", "api.example.org", 443, True),
    "nothing": ("", "api.example.org", 443, False),
    "commas only": (" , ,,", "api.example.org", 443, False),
    "the second of a list": ("localhost,example.org", "api.example.org", 443, True),
    "spaces after commas": ("localhost, example.org , 10.0.0.1", "api.example.org", 443, True),
    "spaces instead of commas": ("localhost example.org", "api.example.org", 443, True),
    "tabs and line breaks": ("localhost,\n\texample.org\n", "api.example.org", 443, True),
    "the port": ("example.org:8443", "api.example.org", 8443, True),
    "the default port": ("api.example.org:443", "api.example.org", 443, True),
    "another port": ("example.org:8443", "api.example.org", 443, False),
    "a leading dot and a port": (".example.org:8443", "api.example.org", 8443, True),
    "a star, a dot and a port": ("*.example.org:8443", "api.example.org", 8443, True),
    "a port that is none": ("example.org:https", "api.example.org", 443, False),
    "an endless port": ("example.org:" + "4" * 5000, "api.example.org", 443, False),
    "an IPv4 address": ("10.0.0.1", "10.0.0.1", 443, True),
    "another IPv4 address": ("10.0.0.1", "10.0.0.10", 443, False),
    "the end of an IPv4 address": ("0.0.1", "10.0.0.1", 443, False),
    "an IPv4 address and its port": ("10.0.0.1:8443", "10.0.0.1", 8443, True),
    "an IPv4 address and another port": ("10.0.0.1:8443", "10.0.0.1", 443, False),
    "an IPv6 address": ("2001:db8::1", "2001:db8::1", 443, True),
    "an IPv6 address in another notation": ("2001:DB8:0:0::0001", "2001:db8::1", 443, True),
    "an IPv6 address in brackets": ("[2001:db8::1]", "2001:db8::1", 443, True),
    "an IPv6 address and its port": ("[2001:db8::1]:8443", "2001:db8::1", 8443, True),
    "an IPv6 address and another port": ("[2001:db8::1]:8443", "2001:db8::1", 443, False),
    "another IPv6 address": ("2001:db8::1", "2001:db8::2", 443, False),
    "an IPv6 address with a zone": ("fe80::1", "fe80::1%eth0", 443, True),
    "an IPv4 address within IPv6": ("10.0.0.1", "::ffff:10.0.0.1", 443, True),
    "an IPv4 network": ("10.0.0.0/8", "10.200.3.4", 443, True),
    "a network with host bits": ("10.1.2.3/8", "10.200.3.4", 443, True),
    "another IPv4 network": ("10.0.0.0/8", "11.0.0.1", 443, False),
    "a network of one address": ("10.0.0.1/32", "10.0.0.1", 443, True),
    "an IPv6 network": ("fd00::/8", "fd12:3456::1", 443, True),
    "an IPv6 network in brackets": ("[fd00::]/8", "fd12:3456::1", 443, True),
    "an IPv6 network for an IPv4 address": ("::/0", "10.0.0.1", 443, False),
    "a network does not match names": ("0.0.0.0/0", "api.example.org", 443, False),
    "a network with an impossible length": ("10.0.0.0/99", "10.0.0.1", 443, False),
    "a network without a length": ("10.0.0.0/", "10.0.0.1", 443, False),
    "a name with a length": ("example.org/8", "api.example.org", 443, False),
    "brackets only": ("[],[,],[]:443", "api.example.org", 443, False),
    "a dot only": (".", "api.example.org", 443, False),
    "a star without a dot": ("*example.org", "api.example.org", 443, False),
}


@pytest.mark.parametrize(("no_proxy", "host", "port", "expected"), AGREED.values(), ids=AGREED)
def test_no_proxy_matches_as_in_other_programs(no_proxy: str, host: str, port: int, *, expected: bool) -> None:
    assert bypasses_proxy(no_proxy, host, port) is expected


LABELS = st.sampled_from(["api", "eu", "example", "org"])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)


@given(NAMES, st.lists(st.tuples(st.sampled_from(["", "."]), NAMES).map("".join), max_size=3).map(", ".join))
def test_names_match_as_in_pythons_own_library(host: str, no_proxy: str) -> None:
    bypass = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed lacks it

    assert bypasses_proxy(no_proxy, host, 443) is bool(bypass(host, {"no": no_proxy}))


@given(st.text(), st.one_of(st.just("api.example.org"), st.ip_addresses().map(str), st.text()), st.integers(1, 65535))
def test_no_text_is_an_error(no_proxy: str, host: str, port: int) -> None:
    assert bypasses_proxy(no_proxy, host, port) in {True, False}

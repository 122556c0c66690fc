"""What a client gets for what it says it takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.metrics.exposition import Format
from exporter.web.negotiation import format_wanted, gzip_wanted

PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3_NATIVE_HISTOGRAMS = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,"
    "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.2"
)
PROMETHEUS_TEXT_FIRST = "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.4"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (PROMETHEUS_2_42, Format.OPENMETRICS),
        (PROMETHEUS_3, Format.OPENMETRICS),
        (PROMETHEUS_3_NATIVE_HISTOGRAMS, Format.OPENMETRICS),
        (PROMETHEUS_TEXT_FIRST, Format.TEXT),
        (BROWSER, Format.TEXT),
        ("", Format.TEXT),
        ("*/*", Format.TEXT),
        ("text/plain", Format.TEXT),
        ("application/json", Format.TEXT),
        ("application/openmetrics-text", Format.OPENMETRICS),
        ("APPLICATION/OpenMetrics-Text; VERSION=1.0.0", Format.OPENMETRICS),
        ('application/openmetrics-text; version="1.0.0"', Format.OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", Format.OPENMETRICS),
        ("application/openmetrics-text;version=2.0.0", Format.TEXT),
        ("application/openmetrics-text;version=", Format.OPENMETRICS),
        ("application/openmetrics-text;version", Format.OPENMETRICS),
        ("application/openmetrics-text;version=one", Format.TEXT),
        ("application/openmetrics-text;q=0", Format.TEXT),
        ("application/openmetrics-text;q=0,*/*", Format.TEXT),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.5", Format.OPENMETRICS),
        ("application/openmetrics-text;q=0.4,text/plain;q=0.5", Format.TEXT),
        ("application/openmetrics-text;q=0.4,text/*;q=0.5", Format.TEXT),
        ("application/openmetrics-text;q=0.4,text/plain;q=0.3,*/*;q=0.9", Format.OPENMETRICS),
        ("application/openmetrics-text;q=0.4,text/plain;q=0,*/*;q=0.9", Format.OPENMETRICS),
        ("application/openmetrics-text;q=", Format.TEXT),
        ("application/openmetrics-text;q=high", Format.TEXT),
        ("application/openmetrics-text;q=nan", Format.TEXT),
        ("application/openmetrics-text;q=-1", Format.TEXT),
        ("application/openmetrics-text;q=7", Format.TEXT),
        (";;;,,,=,;q=1,application/openmetrics-text;;=;q=0.5", Format.OPENMETRICS),
        ("text/plain;q=0.1," * 5000 + "application/openmetrics-text", Format.OPENMETRICS),
        ("é\x00\x7f", Format.TEXT),
    ],
)
def test_a_client_gets_openmetrics_where_it_wants_it_at_least_as_much_as_text(accept: str, expected: Format) -> None:
    assert format_wanted(accept) is expected


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("deflate;q=1, gzip;q=0.001", True),
        ("*", True),
        ("", False),
        ("identity", False),
        ("deflate, br", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("*;q=0", False),
        ("gzip;q=much", False),
        ("gzipped", False),
        (",;,gzip;", True),
    ],
)
def test_a_page_is_compressed_where_gzip_is_acceptable(accept_encoding: str, expected: bool) -> None:  # noqa: FBT001  # a row of the table
    assert gzip_wanted(accept_encoding) is expected


pieces = st.sampled_from(
    [
        "application/openmetrics-text",
        "text/plain",
        "*/*",
        "gzip",
        ";",
        ",",
        "=",
        "q",
        "q=",
        "0.5",
        "version",
        '"',
        " ",
        "inf",
    ]
)


@given(st.one_of(st.text(), st.lists(pieces).map("".join)))
def test_no_header_is_ever_an_error(header: str) -> None:
    assert format_wanted(header) in Format
    assert gzip_wanted(header) in {True, False}

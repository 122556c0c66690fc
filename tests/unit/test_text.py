"""Numbers have their nouns; text files from any system are read, or refused with what they are."""

import shutil
from pathlib import Path

import certifi
import pytest

from exporter.api.transport import certificate_source, tls_context
from exporter.config.endpoints import check_certificates
from exporter.errors import ConfigError
from exporter.text import NotText, count, decoded

MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(("number", "text"), [(0, "0 jobs"), (1, "1 job"), (2, "2 jobs"), (12_345, "12,345 jobs")])
def test_number_has_its_noun(number: int, text: str) -> None:
    assert count(number, "job") == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"a\nb\n", "a\nb\n"),
        (MARK + b"a", "a"),
        (b"a\r\nb\rc", "a\nb\nc"),
        (MARK, ""),
        ("Müller".encode(), "Müller"),
    ],
)
def test_text_has_no_mark_and_plain_line_ends(raw: bytes, text: str) -> None:
    assert decoded(raw) == text


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ("x".encode("utf-16"), "it is saved as UTF-16; save it as UTF-8"),
        (b"\xfe\xff" + "x".encode("utf-16-be"), "it is saved as UTF-16; save it as UTF-8"),
        ("x".encode("utf-32"), "it is saved as UTF-32; save it as UTF-8"),
        ("x".encode("utf-16-le"), "it contains null bytes, as in UTF-16; save it as UTF-8"),
        ("é".encode("latin-1"), "it is not UTF-8; save it as UTF-8"),
    ],
)
def test_other_encodings_are_named(raw: bytes, problem: str) -> None:
    with pytest.raises(NotText, match=problem):
        decoded(raw)


@pytest.mark.parametrize("comment", ["", "# Żółć\n"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_certificates_with_a_mark_are_trusted(tmp_path: Path, comment: str, ends: str) -> None:
    file = tmp_path / "ca.pem"
    shutil.copy(certifi.where(), file)
    expected = len(tls_context(certificate_source(str(file), {})).get_ca_certs())
    file.write_bytes(MARK + (comment + file.read_text(encoding="utf-8")).replace("\n", ends).encode())

    check_certificates(file, "here")
    assert len(tls_context(certificate_source(str(file), {})).get_ca_certs()) == expected


def test_certificates_in_utf_16_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(Path(certifi.where()).read_text(encoding="utf-8").encode("utf-16"))

    with pytest.raises(ConfigError, match="it is saved as UTF-16; save it as UTF-8"):
        check_certificates(file, "here")
    with pytest.raises(ConfigError, match="it is saved as UTF-16; save it as UTF-8"):
        tls_context(certificate_source(str(file), {}))

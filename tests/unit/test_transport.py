"""Trusted certificates are loaded again when their file changes, by whatever means, and never lost by a bad change."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from exporter.api.allowance import Allowance
from exporter.api.client import Client, RequestCompleted, RetryScheduled
from exporter.api.deadline import Deadline
from exporter.api.transport import (
    CertificatesKept,
    CertificatesReloaded,
    TrustedCertificates,
    certificate_source,
    tls_context,
    transport_to,
)
from exporter.config.endpoints import check_certificates
from exporter.errors import ConfigError, Unreachable
from exporter.redaction import Secret
from tests.certificates import Certificate, new_certificate
from tests.clocks import ManualClock
from tests.isolated import STRANGER, isolated, needs_root
from tests.raw_server import Connection, RawServer, reply, serving
from tests.tools import tool

pytestmark = pytest.mark.tools("openssl")
USER = json.dumps({"username": "rfranklin"}).encode()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certificate, Certificate]:
    """The certificate that the server shows at first, and the one after."""
    return new_certificate(tmp_path_factory.mktemp("old")), new_certificate(tmp_path_factory.mktemp("new"))


class Unobserved:
    def on_request_completed(self, event: RequestCompleted) -> None:
        pass

    def on_retry_scheduled(self, event: RetryScheduled) -> None:
        pass


@dataclass
class Site:
    """A server with TLS, a client of it, and the file with the certificates that the client trusts."""

    folder: Path
    old: Certificate
    new: Certificate
    stack: ExitStack
    reports: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.file = self.folder / "ca.pem"
        self.tls = self.old.server()
        self.server: RawServer = self.stack.enter_context(serving(_one_answer, self.tls))
        self.allowance = Allowance(1.0)
        self.client = self.with_trust(TrustedCertificates(str(self.file), self.reports.append))

    def with_trust(self, trusted: TrustedCertificates) -> Client:
        """Return a client of the server that trusts *trusted*."""
        deadline = Deadline()
        transport = transport_to(deadline, trusted, None)
        client = Client(
            f"https://localhost:{self.server.port}/v2",
            transport,
            deadline,
            allowance=self.allowance,
            clock=ManualClock(),
            observer=Unobserved(),
            timeout=20.0,
            prepare=transport.prepare,
        )
        self.stack.callback(client.close)
        client.use_token(Secret("t0k3n"))
        return client

    def trusts(self) -> bool:
        """Whether the client accepts the certificate that the server shows."""
        try:
            return self.client.user().value == "rfranklin"
        except Unreachable as error:
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise
            return False

    def server_moves_on(self) -> None:
        """Show the new certificate from now on."""
        self.tls.load_cert_chain(*self.new)


def _one_answer(connection: Connection) -> None:
    connection.request()
    connection.send(reply(body=USER))


@pytest.fixture
def site(tmp_path: Path, certificates: tuple[Certificate, Certificate]) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, *certificates, stack)


def _renamed(file: Path, new: Path) -> None:
    fresh = file.with_suffix(".new")
    shutil.copy(new, fresh)
    fresh.replace(file)


def _in_place(file: Path, new: Path) -> None:
    """The same times and, by a comment, the same size."""
    before, size = file.stat(), file.stat().st_size
    text = new.read_text()
    assert len(text) <= size
    file.write_text(text + "\n" * (size - len(text)))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("replace", [_renamed, _in_place])
def test_replaced_certificates_are_trusted_from_the_next_request_on(
    site: Site, replace: Callable[[Path, Path], None]
) -> None:
    site.file.write_text(site.old.cert.read_text() + "\n" * 100)
    assert site.trusts()
    site.server_moves_on()
    assert not site.trusts()

    replace(site.file, site.new.cert)

    assert site.trusts()
    assert site.reports == [CertificatesReloaded(str(site.file))]


def test_certificates_replaced_as_kubernetes_does_are_trusted(site: Site) -> None:
    for name, certificate in (("..1", site.old), ("..2", site.new)):
        (site.folder / name).mkdir()
        shutil.copy(certificate.cert, site.folder / name / "ca.pem")
    (site.folder / "..data").symlink_to("..1")
    site.file.symlink_to("..data/ca.pem")
    assert site.trusts()

    site.server_moves_on()
    (site.folder / "..data.new").symlink_to("..2")
    (site.folder / "..data.new").replace(site.folder / "..data")

    assert site.trusts()


def test_a_certificate_that_is_no_longer_trusted_is_refused(site: Site) -> None:
    shutil.copy(site.old.cert, site.file)
    assert site.trusts()

    _renamed(site.file, site.new.cert)

    assert not site.trusts()


def _unlink(file: Path) -> None:
    file.unlink()


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


BROKEN = {
    "missing": _unlink,
    "folder": _folder,
    "pipe": _pipe,
    "empty": lambda file: file.write_text(""),
    "text": lambda file: file.write_text("no certificate"),
    "cut off": lambda file: file.write_text(file.read_text()[:300]),
}


@pytest.mark.parametrize("spoil", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_changes_nothing_and_is_reported_once(site: Site, spoil: Callable[[Path], object]) -> None:
    shutil.copy(site.old.cert, site.file)
    assert site.trusts()

    spoil(site.file)

    assert site.trusts()
    assert site.trusts()
    [kept] = site.reports
    assert isinstance(kept, CertificatesKept)
    assert str(site.file) in kept.problem
    _remove(site.file)
    site.server_moves_on()
    shutil.copy(site.new.cert, site.file)
    assert site.trusts()
    assert site.reports[1:] == [CertificatesReloaded(str(site.file))]


@pytest.mark.parametrize("spoil", [BROKEN[name] for name in ("missing", "empty", "text")])
def test_what_is_wrong_with_a_file_is_said_in_the_words_of_the_check(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    file = tmp_path / "ca.pem"
    file.touch()
    spoil(file)

    _says_the_same(file)


def _says_the_same(file: Path) -> str:
    """What the exporter and the check say of *file*."""
    with pytest.raises(ConfigError) as logged:
        tls_context(certificate_source(str(file), {}))
    with pytest.raises(ConfigError) as checked:
        check_certificates(file, "ca_file")
    assert str(checked.value) == f"ca_file: {logged.value}"
    return str(logged.value)


@needs_root
def test_certificates_that_the_exporter_may_not_read_are_told_with_whose_they_are() -> None:
    def work() -> None:
        assert _says_the_same(file) == (
            f"cannot read {file}: Permission denied; it has owner root, group root and mode 0600; this user (uid 65534)"
            " must be able to read it"
        )

    with tempfile.TemporaryDirectory() as made:  # pytest's own folders are closed to other users
        file = Path(made) / "ca.pem"
        file.touch(mode=0o600)
        file.parent.chmod(0o755)

        isolated(work, user=STRANGER)


@pytest.mark.parametrize("spoil", BROKEN.values(), ids=BROKEN)
def test_without_certificates_at_the_start_nothing_is_sent_until_there_are_some(
    site: Site, spoil: Callable[[Path], object]
) -> None:
    shutil.copy(site.old.cert, site.file)
    spoil(site.file)

    reason = r"(cannot read .*/ca\.pem: |no certificate in .*/ca\.pem; expected PEM certificates)"
    with pytest.raises(ConfigError, match=f"^{reason}"):
        site.client.user()
    assert site.allowance.used == 0
    assert site.server.heads == []

    _remove(site.file)
    shutil.copy(site.old.cert, site.file)
    assert site.trusts()
    assert site.reports == []


def _remove(file: Path) -> None:
    if file.is_dir():
        file.rmdir()
    file.unlink(missing_ok=True)


def test_the_file_that_the_environment_names_is_loaded_again_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(site.file))
    shutil.copy(site.old.cert, site.file)
    trusted = TrustedCertificates(None, site.reports.append)
    before = trusted.context()
    assert trusted.context() is before

    shutil.copy(site.new.cert, site.file)

    assert trusted.context() is not before
    assert site.reports == [CertificatesReloaded(str(site.file))]


def test_the_systems_certificates_are_used_and_loaded_again(site: Site) -> None:
    bundles = (str(site.folder / "elsewhere.pem"), str(site.file))
    shutil.copy(site.old.cert, site.file)

    source = certificate_source(None, {}, bundles)

    assert source.file == str(site.file)
    [found] = tls_context(source).get_ca_certs()
    assert found["subject"] == ((("commonName", "localhost"),),)


def test_configured_certificates_replace_the_systems(site: Site) -> None:
    shutil.copy(site.old.cert, site.file)
    environ = {"SSL_CERT_FILE": "environment.pem", "SSL_CERT_DIR": "folder"}

    own = certificate_source("own.pem", environ, (str(site.file),))
    environment = certificate_source(None, environ, (str(site.file),))
    folder = certificate_source(None, {"SSL_CERT_FILE": "", "SSL_CERT_DIR": "folder"}, (str(site.file),))

    assert (own.file, own.folder) == ("own.pem", None)
    assert (environment.file, environment.folder) == ("environment.pem", "folder")
    assert (folder.file, folder.folder) == (None, "folder")


def test_a_system_without_certificates_has_those_of_the_installation(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    source = certificate_source(None, {}, tuple(str(tmp_path / name) for name in ("missing", "folder", "empty")))

    assert (source.file, source.folder) == (None, None)
    assert len(tls_context(source).get_ca_certs()) > 50


def test_a_certificate_folder_of_the_environment_is_trusted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = site.folder / "certs"
    folder.mkdir()
    shutil.copy(site.old.cert, folder / "ca.pem")
    subprocess.run([tool("openssl"), "rehash", str(folder)], check=True, capture_output=True)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))

    assert site.with_trust(TrustedCertificates(None)).user().value == "rfranklin"


def test_without_a_file_the_certificates_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    trusted = TrustedCertificates(None)

    assert trusted.context() is trusted.context()

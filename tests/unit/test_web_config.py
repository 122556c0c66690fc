"""web_config_file: the format of exporter-toolkit, what is honoured, what is refused, and how problems are said."""

import io
import os
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.web_config import PLAIN, WebConfig, load_web_config
from exporter.daemon.web_config import CurrentWebConfig
from exporter.errors import ConfigError
from exporter.logs import logger
from tests.certificates import Authority, Certificate, encrypt_key

SECRET_HASH: Final = "$2y$10$mDwo.lAisC94iLAyP81MCesa29IzH37oigHC/42V2pdJlUprsJPze"
TLS: Final = "tls_server_config: {cert_file: server.pem, key_file: server.key"
pytestmark = pytest.mark.tools("openssl")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Certificate]:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    return authority, authority.issue("server")


@pytest.fixture
def folder(tmp_path: Path, made: tuple[Authority, Certificate]) -> Path:
    authority, server = made
    for file in (authority.certificate, *server):
        shutil.copy(file, tmp_path)
    return tmp_path


@pytest.fixture
def load(folder: Path) -> Callable[[str], WebConfig]:
    def loaded(text: str) -> WebConfig:
        file = folder / "web-config.yml"
        file.write_text(text, encoding="utf-8")
        return load_web_config(file)

    return loaded


@pytest.fixture
def refused(load: Callable[[str], WebConfig], folder: Path) -> Callable[[str], list[str]]:
    def problems(text: str) -> list[str]:
        with pytest.raises(ConfigError) as raised:
            load(text)
        return [line.removeprefix(f"{folder / 'web-config.yml'}: ") for line in raised.value.problems]

    return problems


Load = Callable[[str], WebConfig]
Refused = Callable[[str], list[str]]


# ---- what is honoured ----


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "tls_server_config:\n", "tls_server_config: {}\nbasic_auth_users:\nrate_limit: ~\n"]
)
def test_an_empty_file_means_plain_http_for_everyone(load: Load, text: str) -> None:
    config = load(text)

    assert (config.tls, config.users, config.headers, config.rate_limit, config.warnings) == (None, {}, (), None, ())
    assert (PLAIN.scheme, PLAIN.authentication) == ("http", "none")


def test_paths_are_relative_to_the_file(load: Load, folder: Path) -> None:
    config = load(TLS + "}")

    assert config.scheme == "https"
    assert config.files == tuple(folder / name for name in ("web-config.yml", "server.pem", "server.key"))


def test_certificate_key_and_authority_may_be_inline(load: Load, folder: Path) -> None:
    def block(name: str) -> str:
        return "|\n" + "".join(f"    {line}\n" for line in (folder / name).read_text().splitlines())

    config = load(
        f"tls_server_config:\n  cert: {block('server.pem')}  key: {block('server.key')}"
        f"  client_ca: {block('authority.pem')}  client_auth_type: RequireAndVerifyClientCert\n"
    )

    assert config.tls is not None
    assert config.tls.verify_mode is ssl.CERT_OPTIONAL
    assert config.authentication == "client certificate"
    assert config.files == (folder / "web-config.yml",)


@pytest.mark.parametrize(
    ("keys", "oldest", "newest"),
    [
        ("", "TLSv1_2", "TLSv1_3"),
        (", min_version: TLS13", "TLSv1_3", "TLSv1_3"),
        (", max_version: TLS12", "TLSv1_2", "TLSv1_2"),
        (", cipher_suites: [TLS_AES_128_GCM_SHA256]", "TLSv1_3", "TLSv1_3"),
    ],
)
def test_tls_versions_are_honoured(load: Load, keys: str, oldest: str, newest: str) -> None:
    tls = load(TLS + keys + "}").tls

    assert tls is not None
    assert (tls.minimum_version.name, tls.maximum_version.name) == (oldest, newest)


@pytest.mark.parametrize("version", ["TLS10", "TLS11"])
def test_older_versions_are_not_accepted_whatever_the_minimum(load: Load, version: str) -> None:
    config = load(f"{TLS}, min_version: {version}}}")

    assert config.tls is not None
    assert config.tls.minimum_version is ssl.TLSVersion.TLSv1_2
    assert "TLS 1.2 is the oldest version" in config.warnings[0]


def test_cipher_suites_are_honoured_by_their_names_in_go(load: Load) -> None:
    tls = load(f"{TLS}, cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_AES_128_GCM_SHA256]}}").tls

    assert tls is not None
    assert [each["name"] for each in tls.get_ciphers() if each["protocol"] != "TLSv1.3"] == [
        "ECDHE-ECDSA-AES256-GCM-SHA384"
    ]


@pytest.mark.parametrize(
    ("kind", "required"), [("VerifyClientCertIfGiven", False), ("RequireAndVerifyClientCert", True)]
)
def test_client_certificates_are_optional_in_the_handshake(load: Load, kind: str, *, required: bool) -> None:
    config = load(f"{TLS}, client_ca_file: authority.pem, client_auth_type: {kind}}}")

    assert config.tls is not None
    assert config.tls.verify_mode is ssl.CERT_OPTIONAL
    assert config.certificate_required is required
    assert config.warnings == ()


def test_a_user_and_a_header_stay_text(load: Load) -> None:
    config = load(
        f"basic_auth_users:\n  on: {SECRET_HASH}\n  007: {SECRET_HASH}\n  M\u00fcller: {SECRET_HASH}\n"
        "http_server_config:\n  headers:\n    X-Frame-Options: deny\n    X-XSS-Protection: 0\n"
        "    Strict-Transport-Security:\n"
    )

    assert set(config.users) == {b"on", b"007", "M\u00fcller".encode()}
    assert config.headers == ((b"x-frame-options", b"deny"), (b"x-xss-protection", b"0"))
    assert SECRET_HASH not in repr(config)


@pytest.mark.parametrize(
    ("interval", "seconds"),
    [("1s", 1.0), ("100ms", 0.1), ("1m30s", 90.0), ('"1.5s"', 1.5), ("1000000000", 1.0), ("20\u00b5s", 2e-5)],
)
def test_a_rate_limit_is_a_go_duration_and_a_burst(load: Load, interval: str, seconds: float) -> None:
    limit = load(f"rate_limit: {{interval: {interval}, burst: 20}}").rate_limit

    assert limit is not None
    assert limit.interval == pytest.approx(seconds)
    assert limit.burst == 20


@pytest.mark.parametrize(
    "text", ["rate_limit: {interval: 0}", "rate_limit: {interval: 0s, burst: 1}", "rate_limit: {}"]
)
def test_no_interval_means_no_rate_limit(load: Load, text: str) -> None:
    assert load(text).rate_limit is None


def test_a_byte_order_mark_is_accepted(load: Load) -> None:
    assert load(f"\ufeffbasic_auth_users: {{a: {SECRET_HASH}}}").users == {b"a": SECRET_HASH.encode()}


# ---- warnings ----


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("http_server_config: {http2: true}", "http_server_config.http2 has no effect"),
        (TLS + ", curve_preferences: [X25519, CurveP256]}", "tls_server_config.curve_preferences has no effect"),
        (
            TLS + ", prefer_server_cipher_suites: false}",
            "tls_server_config.prefer_server_cipher_suites has no effect",
        ),
        (TLS + ", client_auth_type: RequestClientCert}", "RequestClientCert verifies nothing"),
        (TLS + ", client_auth_type: RequireAndVerifyClientCert}", "without client_ca_file"),
        (f"basic_auth_users: {{a: {SECRET_HASH}}}", "passwords are sent unencrypted"),
        (TLS + "}\nbasic_auth_users: {a: " + SECRET_HASH.replace("$10$", "$16$") + "}", "a bcrypt cost of 16"),
    ],
)
def test_what_works_otherwise_than_in_go_is_a_warning(load: Load, text: str, warning: str) -> None:
    [said] = load(text).warnings

    assert warning in said


# ---- problems ----


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("tls_server_confg: {}", ["tls_server_confg: unknown key; did you mean tls_server_config?"]),
        (TLS + ", ca: x}", ["tls_server_config.ca: unknown key; known are cert, key, client_ca, cert_file, key_file,"]),
        ("tls_server_config: {min_version: TLS13}", [
            "tls_server_config.cert_file: missing; set the server's certificate",
            "tls_server_config.key_file: missing; set the private key of the certificate",
        ]),
        (TLS + ", cert: x}", ["tls_server_config.cert: set either cert or cert_file"]),
        (TLS + ", min_version: SSL30}", ["tls_server_config.min_version: expected 'TLS10', 'TLS11', 'TLS12'"]),
        (TLS + ", max_version: TLS11}", ["tls_server_config.max_version: must be TLS12 or TLS13"]),
        (TLS + ", min_version: TLS13, max_version: TLS12}", ["tls_server_config.max_version: older than min_version"]),
        (TLS + ", cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]}", ["tls_server_config.cipher_suites.#1: unknown or not"]),
        (TLS + ", cipher_suites: [TLS_AES_128_GCM_SHA256], max_version: TLS12}", [
            "tls_server_config.cipher_suites: none of them belongs to TLS 1.2; set max_version to TLS13"
        ]),
        (TLS + ", cipher_suites: TLS_AES_128_GCM_SHA256}", ["tls_server_config.cipher_suites: expected a list"]),
        (TLS + ", curve_preferences: [P256]}", ["tls_server_config.curve_preferences.#1: expected 'CurveP256'"]),
        (TLS + ", client_auth_type: RequireAnyClientCert}", ["tls_server_config.client_auth_type: RequireAny"]),
        (TLS + ", client_auth_type: RequireClientCert}", ["tls_server_config.client_auth_type: RequireClient"]),
        (TLS + ", client_auth_type: Always}", ["tls_server_config.client_auth_type: expected 'NoClientCert', "]),
        (TLS + ", client_ca_file: authority.pem}", ["tls_server_config.client_ca_file: set client_auth_type to Req"]),
        (TLS + ", client_allowed_sans: [a]}", ["tls_server_config.client_allowed_sans: set client_auth_type to Requ"]),
        (TLS + ", client_ca_file: server.key, client_auth_type: VerifyClientCertIfGiven}", [
            "tls_server_config.client_ca_file: no certificate in it; expected PEM"
        ]),
        ("tls_server_config: {cert_file: absent.pem, key_file: server.key}", [
            "tls_server_config.cert_file: cannot read it: No such file or directory (paths are relative to "
        ]),
        ("tls_server_config: {cert_file: server.key, key_file: server.key}", [
            "tls_server_config.cert_file: no certificate in it; expected PEM"
        ]),
        ("tls_server_config: {cert_file: server.pem, key_file: server.pem}", [
            "tls_server_config.key_file: no private key in it; expected PEM"
        ]),
        ("tls_server_config: {cert_file: authority.pem, key_file: server.key}", [
            "tls_server_config.key_file: does not belong to the certificate in cert_file"
        ]),
        ("tls_server_config: {cert: '-----BEGIN CERTIFICATE-----', key: '-----BEGIN PRIVATE KEY-----'}", [
            "tls_server_config: certificate or key cannot be used: "
        ]),
        ('tls_server_config: {cert_file: "a\\0b", key_file: server.key}', ["tls_server_config.cert_file: cannot read"]),
        ("basic_auth_users: {a: secret-word}", [
            "basic_auth_users.#1: expected a bcrypt hash, as `htpasswd -nBC 10 USER` prints it"
        ]),
        (f"basic_auth_users: {{a: {SECRET_HASH.replace('$10$', '$99$')}}}", ["basic_auth_users.#1: expected a bcrypt"]),
        (f'basic_auth_users: {{"a:b": {SECRET_HASH}}}', ["basic_auth_users.#1: a user name cannot contain a colon"]),
        ("basic_auth_users: [secret-word]", ["basic_auth_users: expected keys below it"]),
        ("basic_auth_users: {secret-word: [secret-word]}", ["basic_auth_users: expected text"]),
        ("http_server_config: {headers: {Server: x}}", ["http_server_config.headers: unknown header; known are Con"]),
        ("http_server_config: {headers: {X-Frame-Options: maybe}}", [
            "http_server_config.headers.X-Frame-Options: expected deny or sameorigin"
        ]),
        ('http_server_config: {headers: {X-XSS-Protection: "a\\r\\nb"}}', [
            "http_server_config.headers.X-XSS-Protection: expected one line of printable ASCII"
        ]),
        ("http_server_config: {http2: perhaps}", ["http_server_config.http2: expected true or false"]),
        ("http_server_config: no", ["http_server_config: expected keys below it"]),
        ("rate_limit: {interval: soon}", ["rate_limit.interval: expected a duration, such as 1s or 100ms"]),
        ("rate_limit: {interval: 1s}", ["rate_limit.burst: must be at least 1, or every request is refused"]),
        ("rate_limit: {interval: 1s, burst: many}", ["rate_limit.burst: expected a whole number, such as 20"]),
        ("- a", ["expected keys such as tls_server_config and basic_auth_users"]),
        ("a: 1\nbasic_auth_users: {}\na: 2\n", ["invalid YAML in line 3, column 1: this key stands here twice"]),
        ("? [a]\n: b", ["invalid YAML in line 1, column 3: expected text as a key"]),
        ("basic_auth_users: {a: *secret-word}", ["invalid YAML in line 1, column 23: found undefined alias"]),
        ("a: [", ["invalid YAML in line 1, column 5: "]),
        ("a: 1\n---\nb: 2\n", ["invalid YAML in line 2, column 1: but found another document"]),
        ("[" * 5000, ["invalid YAML: nested too deeply"]),
    ],
)  # fmt: skip
def test_a_problem_is_one_line_that_repeats_no_value(refused: Refused, text: str, problems: list[str]) -> None:
    found = refused(text)

    assert len(found) == len(problems)
    assert all(line.startswith(start) for line, start in zip(found, problems, strict=True)), found
    assert not any("secret-word" in line or "\n" in line for line in found)


def test_all_problems_are_reported_at_once(refused: Refused) -> None:
    found = refused("tls_server_config: {cert_file: a}\nbasic_auth_users: {a: b}\nrate_limit: {interval: 1s}")

    assert [line.partition(":")[0] for line in found] == [
        "tls_server_config.key_file",
        "basic_auth_users.#1",
        "rate_limit.burst",
    ]


def test_an_encrypted_key_is_refused_without_asking_for_a_passphrase(refused: Refused, folder: Path) -> None:
    encrypt_key(folder / "server.key")

    [problem] = refused(TLS + "}")
    assert problem == "tls_server_config.key_file: encrypted; expected a private key without a passphrase"


def test_a_file_that_is_not_text_is_refused(folder: Path) -> None:
    file = folder / "web-config.yml"
    file.write_bytes(b"a: \xff\xfe")

    with pytest.raises(ConfigError, match="invalid YAML: not UTF-8 text"):
        load_web_config(file)


def test_a_file_that_cannot_be_read_is_not_named_because_it_may_be_a_token(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the web configuration: No such file or directory \(in the"):
        load_web_config(folder / "0123456789abcdef0123456789abcdef")


def test_a_file_over_a_megabyte_is_not_read(load: Load) -> None:
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load("#" * (1024 * 1024 + 1))


@pytest.mark.fault(
    "the web configuration, or a certificate that it names, is a FIFO",
    action="refuses it instead of waiting for a writer; what was read before stays in use",
    shown="the key, in one line",
    recovery="a regular file",
)
def test_a_pipe_is_refused_instead_of_waited_for(load: Load, folder: Path) -> None:
    os.mkfifo(folder / "pipe")

    with pytest.raises(ConfigError, match=r"cannot read the web configuration: it is a pipe \(in the"):
        load_web_config(folder / "pipe")
    for key in ("cert_file: pipe, key_file: server.key", "cert_file: server.pem, key_file: pipe"):
        with pytest.raises(ConfigError, match="_file: cannot read it: it is a pipe "):
            load(f"tls_server_config: {{{key}}}")


def test_an_endless_certificate_is_refused(load: Load) -> None:
    with pytest.raises(ConfigError, match="cert_file: larger than 16 MiB; expected a PEM file"):
        load("tls_server_config: {cert_file: /dev/zero, key_file: server.key}")


@given(st.text() | st.text(alphabet="tls_server_config:{}[]&*-#'\"\n !|><%@$2ay0 ", max_size=80))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzzed.yml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))

    try:
        load_web_config(file)
    except ConfigError as error:
        assert all("\n" not in line for line in error.problems)  # noqa: PT017


def test_what_a_changed_file_would_turn_off_is_refused_as_another_file_is(load: Callable[[str], WebConfig]) -> None:
    file, protected = Path("web-config.yml"), load(f"basic_auth_users: {{a: {SECRET_HASH}}}")
    current = CurrentWebConfig(file, protected, logger("json", "error", io.StringIO()))

    current.use(file, protected)
    for other in (file, None):
        with pytest.raises(ConfigError, match="turning off basic authentication needs a restart"):
            current.use(other, PLAIN)

    assert current() is protected

"""A real Prometheus scrapes over TLS with a password, and node_exporter and the exporter share a web configuration."""

import os
import ssl
import subprocess
from functools import partial
from pathlib import Path
from typing import Final

import bcrypt
import httpx
import pytest
import yaml

from exporter.simulator.server import QUIET, running
from tests.certificates import Authority
from tests.e2e.monitoring import FOLDER, Prometheus, reserved_address
from tests.harness import Account, Installation
from tests.tools import tool
from tests.waiting import PATIENCE, eventually

PASSWORD: Final = "prometheus' password"
NAME: Final = str(
    yaml.safe_load((FOLDER / "prometheus-tls.yml").read_text())["scrape_configs"][0]["tls_config"]["server_name"]
)
SHARED: Final = """\
tls_server_config:
  cert_file: server.pem
  key_file: server.key
  min_version: TLS12
  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256]
  prefer_server_cipher_suites: true
  curve_preferences: [CurveP256, X25519]
http_server_config:
  http2: true
  headers:
    X-Frame-Options: deny
    Strict-Transport-Security: max-age=31536000
basic_auth_users:
  prometheus: {digest}
"""
"""As sites have it for node_exporter."""


def web_config(folder: Path) -> Authority:
    """Write the shared file, with its certificate."""
    authority = Authority(folder)
    authority.issue("server", sans=f"DNS:{NAME},DNS:localhost,IP:127.0.0.1")
    digest = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(5)).decode().replace("$2b$", "$2y$")  # as htpasswd
    (folder / "web-config.yml").write_text(SHARED.format(digest=digest))
    return authority


@pytest.mark.tools("prometheus", "openssl")
@pytest.mark.parametrize("mutual", [False, True])
def test_prometheus_scrapes_with_its_tls_config_and_basic_auth(tmp_path: Path, *, mutual: bool) -> None:
    authority = web_config(tmp_path / "web")
    files = {"ca.crt": authority.certificate.read_text(), "sbg-exporter.password": PASSWORD}
    config = tmp_path / "web" / "web-config.yml"
    if mutual:
        client = authority.issue("prometheus", sans="DNS:prometheus.example", usage="clientAuth")
        files |= {"prometheus.crt": client.cert.read_text(), "prometheus.key": client.key.read_text()}
        more = "  client_ca_file: authority.pem\n  client_auth_type: RequireAndVerifyClientCert\n"
        config.write_text(config.read_text().replace("  min_version", f"{more}  min_version"))
    with (
        reserved_address() as listen,
        running(QUIET) as simulator,
        Installation(tmp_path / "place", Account.at(simulator), listen=listen, web_config_file=str(config)) as place,
    ):
        exporter = place.start()
        assert exporter.await_event("daemon.started") is not None
        prometheus = Prometheus(tmp_path / "prometheus", listen, example="prometheus-tls.yml", files=files)
        if mutual:  # as the comments of the example say
            text = prometheus.config.read_text()
            keys = '"cert_file": "prometheus.crt", "key_file": "prometheus.key", "ca_file"'
            prometheus.config.write_text(text.replace('"ca_file"', keys))
        with prometheus:
            eventually(lambda: prometheus.query('up{job="sbg-exporter"} == 1'), describe=prometheus.told)
            eventually(lambda: prometheus.query('sbg_up{account="sim"} == 1'), describe=prometheus.told)
            assert prometheus.query("scrape_samples_scraped > 100")


@pytest.mark.tools("prometheus-node-exporter", "openssl")
def test_a_web_config_of_node_exporter_works_unchanged(tmp_path: Path) -> None:
    authority = web_config(tmp_path / "web")
    config = tmp_path / "web" / "web-config.yml"
    with (
        reserved_address() as one,
        reserved_address() as other,
        running(QUIET) as simulator,
        Installation(tmp_path / "place", Account.at(simulator), listen=other, web_config_file=str(config)) as place,
    ):
        command = [tool("prometheus-node-exporter"), f"--web.config.file={config}", f"--web.listen-address={one}"]
        command += ["--collector.disable-defaults", "--collector.time"]
        exporter = place.start()
        node_exporter = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
        try:
            with httpx.Client(
                verify=ssl.create_default_context(cafile=authority.certificate),
                trust_env=False,
                timeout=PATIENCE,
            ) as client:

                def answers_as_it_should(address: str) -> bool:
                    asked = (("prometheus", PASSWORD), ("prometheus", "wrong"), None)
                    try:
                        answers = [client.get(f"https://{address}/metrics", auth=auth) for auth in asked]
                    except httpx.ConnectError:
                        return False
                    return [answer.status_code for answer in answers] == [200, 401, 401]

                for address in (one, other):
                    eventually(partial(answers_as_it_should, address), describe=exporter.output)
                    answer = client.get(f"https://{address}/metrics", auth=("prometheus", PASSWORD))
                    assert answer.headers["x-frame-options"] == "deny"
                    assert answer.headers["strict-transport-security"] == "max-age=31536000"
        finally:
            node_exporter.kill()
            node_exporter.wait(PATIENCE)
        assert [
            str(event["reason"]).split(" has no effect")[0].rpartition(".")[2]
            for event in exporter.said("web_config.warning")
        ] == ["http2", "curve_preferences", "prefer_server_cipher_suites"]

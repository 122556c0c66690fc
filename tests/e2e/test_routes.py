"""Alertmanager with the example's routes: who is told what, and what is silenced by what explains it."""

import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.monitoring import FOLDER, Alertmanager, Json, OnCall, on_call
from tests.tools import tool
from tests.waiting import eventually

SEVERITIES: Final = {
    "SbgAccountUnreachable": "warning",
    "SbgJobFilesFailed": "warning",
    "SbgExporterDown": "critical",
    "SbgFilesFailed": "warning",
    "SbgMaintenance": "info",
    "SbgTokenRefused": "critical",
}


@pytest.fixture
def alerting(tmp_path: Path) -> Iterator[tuple[Alertmanager, OnCall]]:
    with on_call() as told, Alertmanager(tmp_path / "alertmanager", told.url) as alertmanager:
        yield alertmanager, told


def alert(name: str, labels: Mapping[str, str], *, ended: bool = False) -> dict[str, Json]:
    """An alert as Prometheus posts it."""
    now = datetime.now(UTC)
    return {
        "labels": {"alertname": name, "severity": SEVERITIES[name], **labels},
        "startsAt": now.isoformat(),
        "endsAt": (now if ended else now + timedelta(minutes=10)).isoformat(),
    }


@pytest.mark.tools("prometheus-alertmanager")
@pytest.mark.parametrize(
    ("source", "receiver", "of_one_account"),
    [
        pytest.param("SbgTokenRefused", "on-call", True, id="a refused token"),
        pytest.param("SbgMaintenance", "log", True, id="maintenance"),
        pytest.param("SbgExporterDown", "on-call", False, id="an exporter that is down"),
    ],
)
def test_what_explains_an_unreachable_account_silences_it_until_it_ends(
    alerting: tuple[Alertmanager, OnCall], source: str, receiver: str, *, of_one_account: bool
) -> None:
    alertmanager, told = alerting
    labels = {"account": "x"} if of_one_account else {"instance": "sbg-exporter.example:10037"}

    alertmanager.post(
        alert(source, labels),
        alert("SbgAccountUnreachable", {"account": "x"}),
        alert("SbgAccountUnreachable", {"account": "y"}),
        alert("SbgJobFilesFailed", {"account": "x", "operation": "copy", "job_id": "j"}),
    )

    eventually(lambda: told.told(alertname=source), describe=lambda: told.notifications)
    eventually(lambda: told.told(alertname="SbgJobFilesFailed"), describe=lambda: told.notifications)
    if of_one_account:
        eventually(
            lambda: told.told(alertname="SbgAccountUnreachable", account="y"), describe=lambda: told.notifications
        )
    silenced = {
        (each["labels"]["alertname"], each["labels"]["account"])
        for each in alertmanager.alerts()
        if each["status"]["inhibitedBy"]
    }
    unreachable = {("SbgAccountUnreachable", "x"), ("SbgAccountUnreachable", "y")}
    assert silenced == ({("SbgAccountUnreachable", "x")} if of_one_account else unreachable)
    assert told.told(alertname=source) == [(receiver, "firing")]
    assert told.told(alertname="SbgJobFilesFailed") == [("failures", "firing")]
    assert told.told(alertname="SbgAccountUnreachable", account="x") == []

    alertmanager.post(alert(source, labels, ended=True))

    eventually(lambda: told.told(alertname="SbgAccountUnreachable", account="x"), describe=lambda: told.notifications)
    assert told.told(alertname="SbgAccountUnreachable", account="x") == [("team", "firing")]


@pytest.mark.tools("prometheus-alertmanager")
def test_the_net_is_silent_where_an_alert_names_the_job(alerting: tuple[Alertmanager, OnCall]) -> None:
    alertmanager, told = alerting

    alertmanager.post(
        alert("SbgJobFilesFailed", {"account": "x", "operation": "copy", "job_id": "j"}),
        alert("SbgFilesFailed", {"account": "x", "operation": "copy"}),
        alert("SbgFilesFailed", {"account": "x", "operation": "move"}),
    )

    eventually(lambda: told.told(alertname="SbgJobFilesFailed"), describe=lambda: told.notifications)
    eventually(lambda: told.told(alertname="SbgFilesFailed", operation="move"), describe=lambda: told.notifications)
    assert told.told(alertname="SbgFilesFailed") == [("failures", "firing")]


@pytest.mark.tools("amtool")
@pytest.mark.parametrize(
    ("receiver", "name"),
    [
        ("on-call", "SbgTokenRefused"),
        ("team", "SbgAccountUnreachable"),
        ("log", "SbgMaintenance"),
        ("failures", "SbgJobFilesFailed"),
    ],
)
def test_amtool_routes_what_is_told_here_as_alertmanager_does(receiver: str, name: str) -> None:
    routed = subprocess.run(
        [
            tool("amtool"),
            "config",
            "routes",
            "test",
            f"--config.file={FOLDER / 'alertmanager.yml'}",
            f"alertname={name}",
            f"severity={SEVERITIES[name]}",
            "account=x",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert routed.stdout.strip() == receiver

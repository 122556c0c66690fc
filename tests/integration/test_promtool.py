"""Prometheus' own checker has nothing to say against the text page."""

import subprocess
from collections.abc import Callable

import pytest

from exporter.metrics.exposition import Format
from exporter.metrics.snapshot import Picture
from tests.clocks import START
from tests.factories import finished_job, running_job
from tests.ledgers import LedgerFixture
from tests.snapshots import UNTRIED, exposition, picture
from tests.tools import tool


def nothing_counted() -> tuple[Picture, ...]:
    return (picture(LedgerFixture().ledger, polling=UNTRIED),)


def much_counted() -> tuple[Picture, ...]:
    counted = LedgerFixture()
    counted.observe_listing(
        *(running_job(START + each, failed=each % 2, serial=each) for each in range(60)),
        *(
            finished_job(START, failed=each % 11, serial=1000 + each, errors=(("4007", 1), ("none", 2)))
            for each in range(60)
        ),
        at=START + 30,
    )
    return picture(counted.ledger), picture(counted.ledger, account='"two"\\\n')


@pytest.mark.tools("promtool")
@pytest.mark.parametrize("pictures", [nothing_counted, much_counted])
def test_promtool_has_no_complaint(pictures: Callable[[], tuple[Picture, ...]]) -> None:
    page = exposition(*pictures()).page(Format.TEXT, packed=False)

    checked = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=page, capture_output=True, check=False, timeout=60
    )

    assert (checked.returncode, checked.stdout.decode(), checked.stderr.decode()) == (0, "", "")

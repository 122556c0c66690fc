"""promtool finds no problem in the metrics page."""

import subprocess
from collections.abc import Callable

import pytest

from exporter.metrics.exposition import Format
from exporter.metrics.snapshot import AccountSnapshot
from tests.clocks import START
from tests.factories import finished_job, running_job
from tests.ledgers import LedgerFixture
from tests.snapshots import UNTRIED, exposition, snapshot
from tests.tools import tool


def nothing_counted() -> tuple[AccountSnapshot, ...]:
    return (snapshot(LedgerFixture().ledger, status=UNTRIED),)


def much_counted() -> tuple[AccountSnapshot, ...]:
    counted = LedgerFixture()
    counted.observe_listing(
        *(running_job(START + each, failed=each % 2, serial=each) for each in range(60)),
        *(
            finished_job(START, failed=each % 11, serial=1000 + each, errors=(("4007", 1), ("none", 2)))
            for each in range(60)
        ),
        at=START + 30,
    )
    return snapshot(counted.ledger), snapshot(counted.ledger, account='"two"\\\n')


@pytest.mark.tools("promtool")
@pytest.mark.parametrize("pictures", [nothing_counted, much_counted])
def test_promtool_accepts_the_metrics_page(pictures: Callable[[], tuple[AccountSnapshot, ...]]) -> None:
    page = exposition(*pictures()).page(Format.TEXT, gzip=False)

    checked = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=page, capture_output=True, check=False, timeout=60
    )

    assert (checked.returncode, checked.stdout.decode(), checked.stderr.decode()) == (0, "", "")

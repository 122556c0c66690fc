"""A page of 100 jobs from bytes to the ledger, against the official client's objects and a bare decode."""

import json
import time
from collections.abc import Callable

import msgspec
import sevenbridges
from sevenbridges.models.async_jobs import AsyncJob

from exporter.api.decoding import parse_page
from exporter.counting.rules import initial_changes, reconcile
from exporter.counting.values import Account, Ledger, Observations, Rules
from tests.bench.report import row

_SINCE = 1_550_000_000.0
_FIRST_ID = 70711174378885120


def page(results: int) -> bytes:
    """A page of 100 finished jobs with *results* records each."""
    record = {
        "resource": {
            "href": "https://cavatica-api.sbgenomics.com/v2/files/5c6d5004e4b03856323893bb",
            "id": "5c6d5004e4b03856323893bb",
        }
    }
    items = [
        {
            "href": f"https://cavatica-api.sbgenomics.com/v2/async/files/copy/{job_id}",
            "id": str(job_id),
            "result": [record] * results,
            "type": "COPY",
            "state": "FINISHED",
            "failed_files": 0,
            "completed_files": results,
            "total_files": results,
            "started_on": "2019-02-20T12:03:50Z",
            "finished_on": "2019-02-20T12:03:51Z",
        }
        for job_id in range(_FIRST_ID, _FIRST_ID + 100)
    ]
    return json.dumps(
        {"href": "https://cavatica-api.sbgenomics.com/v2/async/files", "items": items, "links": []}
    ).encode()


def cost(work: Callable[[], object], seconds: float = 0.6) -> float:
    """CPU seconds of one call: the least of several rounds."""
    best = float("inf")
    rounds = 5
    for _ in range(rounds):
        calls, began = 0, time.process_time()
        while (spent := time.process_time() - began) < seconds / rounds:
            work()
            calls += 1
        best = min(best, spent / calls)
    return best


def measure() -> None:
    """Print the ratios at 3 and at 100 results a job."""
    api = sevenbridges.Api(url="http://127.0.0.1:9/v2", token="0" * 32, debug=True)  # never asked
    rules = Rules()
    account = Account(1, "https://p/v2", "u", "", _SINCE)
    for results, bare_goal in ((3, "at most 5"), (100, "at most 2")):
        body = page(results)
        jobs = {job.id: job for job in parse_page(body).jobs}
        new = Ledger(account, {}, {}, {}, {}, {}, 0).after(initial_changes(account, rules, _SINCE))
        first = reconcile(
            new, {}, Observations(jobs.values(), jobs.keys()), rules, local_time=_SINCE, server_time=_SINCE
        )
        known = new.after(first)
        job_records = dict(first.records)

        def ours(body: bytes = body, known: Ledger = known, records: dict[str, object] = job_records) -> object:  # type: ignore[assignment]  # bound at once
            seen = parse_page(body).jobs
            return reconcile(
                known,
                records,  # type: ignore[arg-type]  # see above
                Observations(seen, {job.id for job in seen}),
                rules,
                local_time=_SINCE,
                server_time=_SINCE,
            )

        def afresh(body: bytes = body, new: Ledger = new) -> object:
            seen = parse_page(body).jobs
            return reconcile(
                new, {}, Observations(seen, {job.id for job in seen}), rules, local_time=_SINCE, server_time=_SINCE
            )

        def official(body: bytes = body) -> object:
            return [AsyncJob(api=api, **item) for item in json.loads(body)["items"]]

        def bare(body: bytes = body) -> object:
            return msgspec.json.decode(body)

        costs = {work.__name__: cost(work) for work in (ours, afresh, official, bare)}
        row(f"{results} results a job: page", f"{len(body):,} bytes")
        row("decode and fold, known jobs", f"{costs['ours'] * 1e6:.0f} us")
        row("decode and fold, jobs first seen", f"{costs['afresh'] * 1e6:.0f} us")
        row("official client's objects", f"{costs['official'] * 1e6:.0f} us")
        row("bare msgspec decode", f"{costs['bare'] * 1e6:.0f} us")
        row("official client / ours", f"{costs['official'] / costs['ours']:.1f}", "at least 10")
        row("ours / bare decode", f"{costs['ours'] / costs['bare']:.2f}", bare_goal)

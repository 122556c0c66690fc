"""A page of 100 jobs from bytes to the ledger, against the official client's objects and a bare decode."""

import json
import time
from collections.abc import Callable

import msgspec
import sevenbridges
from sevenbridges.models.async_jobs import AsyncJob

from exporter.api.decoding import page_of
from exporter.counting.rules import Account, Book, Rules, Sightings, fold, seeds
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
        jobs = {job.id: job for job in page_of(body).jobs}
        new = Book(account, {}, {}, {}, {}, {}, 0).after(seeds(account, rules, _SINCE))
        first = fold(new, {}, Sightings(jobs.values(), jobs.keys()), rules, now=_SINCE, platform=_SINCE)
        known = new.after(first)
        marks = dict(first.marks)

        def ours(body: bytes = body, known: Book = known, marks: dict[str, object] = marks) -> object:  # type: ignore[assignment]  # bound at once
            seen = page_of(body).jobs
            return fold(known, marks, Sightings(seen, {job.id for job in seen}), rules, now=_SINCE, platform=_SINCE)  # type: ignore[arg-type]  # see above

        def afresh(body: bytes = body, new: Book = new) -> object:
            seen = page_of(body).jobs
            return fold(new, {}, Sightings(seen, {job.id for job in seen}), rules, now=_SINCE, platform=_SINCE)

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

"""The platform's own Python client, unchanged, works with the simulated platform."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import sevenbridges

from exporter.simulator.scripts import JobScript
from exporter.simulator.server import DEMO_TOKEN, QUIET, RunningSimulator, running


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running(replace(QUIET, speed=0)) as served:
        yield served


@pytest.fixture
def api(simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[sevenbridges.Api]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # The client allows plain HTTP only with debug.
    client = sevenbridges.Api(url=simulator.url, token=DEMO_TOKEN, debug=True)
    yield client
    client.session.close()


def test_it_submits_jobs_in_bulk_and_reads_their_results(simulator: RunningSimulator, api: sevenbridges.Api) -> None:
    copy = api.async_jobs.file_bulk_copy(
        [
            {"file": "568cf5dce4b0307bc0462060", "project": "rosalind/target"},
            {"file": "missing-file", "project": "rosalind/target"},
            {"file": "folder-40", "project": "rosalind/target"},
        ]
    )
    move = api.async_jobs.file_bulk_move([{"file": "568cf5dce4b0307bc0462061", "parent": "568cf5dce4b0307bc0462062"}])
    delete = api.async_jobs.file_bulk_delete([{"file": "568cf5dce4b0307bc0462063"}])
    assert [job.type for job in (copy, move, delete)] == ["COPY", "MOVE", "DELETE"]
    assert {job.state for job in (copy, move, delete)} == {"SUBMITTED"}
    assert copy.started_on is None

    simulator.platform.advance(3600)

    copied = api.async_jobs.get_file_copy_job(copy.id)
    assert copied == copy
    assert copied.state == "FINISHED"
    assert (copied.total_files, copied.completed_files, copied.failed_files) == (42, 41, 1)
    assert copied.started_on <= copied.finished_on
    records = copied.get_result()
    [failed] = [record for record in records if not record.valid]
    assert (failed.error.status, failed.error.code) == (404, 5002)
    assert len([record for record in records if record.resource]) == 41
    assert api.async_jobs.get_file_move_job(move.id).completed_files == 1
    assert api.async_jobs.get_file_delete_job(delete.id).completed_files == 1


def test_it_lists_all_jobs_through_several_pages(simulator: RunningSimulator, api: sevenbridges.Api) -> None:
    submitted = {simulator.platform.submit(JobScript(total=2)) for _ in range(23)}

    first = api.async_jobs.list_file_jobs(offset=0, limit=10)

    assert first.total == 23
    assert len(first) == 10
    assert {job.id for job in first.all()} == submitted
    assert [job.id for job in first.next_page().previous_page()] == [job.id for job in first]


def test_it_sees_the_rate_limit_and_who_it_is(api: sevenbridges.Api) -> None:
    before = api.remaining

    me = api.users.me()
    rate = api.rate_limit.get().rate

    assert me.username == "demo"
    assert api.limit == rate.limit == 1000
    assert rate.remaining == api.remaining == before - 1
    assert api.request_id


def test_it_is_refused_with_the_errors_that_it_knows(simulator: RunningSimulator, api: sevenbridges.Api) -> None:
    with pytest.raises(sevenbridges.errors.NotFound) as unknown:
        api.async_jobs.get_file_copy_job("70711174378885120")
    assert unknown.value.code == 10211

    with pytest.raises(sevenbridges.errors.BadRequest):
        api.async_jobs.file_bulk_copy([{"file": "568cf5dce4b0307bc0462060"}])

    simulator.platform.rotate("fresh")
    with pytest.raises(sevenbridges.errors.Unauthorized):
        api.users.me()

"""Of two sightings of one job the more advanced is believed, and nothing that either told is dropped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.platform.jobs import FINAL_RANK, STATES, Job, State, more_advanced, rank

states = st.sampled_from([*STATES, "archived"])
counts = st.none() | st.integers(0, 5)
times = st.none() | st.sampled_from([1.5e9, 1.6e9])
jobs = st.builds(
    Job,
    id=st.just("7"),
    operation=st.just("copy"),
    state=states,
    completed=counts,
    failed=counts,
    started_on=times,
    finished_on=times,
    errors=st.none() | st.just((("5001", 1),)),
)


def test_the_documented_states_come_in_their_order() -> None:
    assert [rank(state, None) for state in STATES] == [0, 1, 2, FINAL_RANK]


@pytest.mark.parametrize("state", STATES)
def test_a_documented_state_is_believed_whatever_the_times_say(state: State) -> None:
    assert rank(state, 1.5e9) == rank(state, None)


def test_an_undocumented_state_is_final_once_the_job_has_an_end() -> None:
    assert rank("archived", None) == rank(State.RUNNING, None)
    assert rank("archived", 1.5e9) == FINAL_RANK
    assert Job("7", "copy", "archived", finished_on=1.5e9).rank == FINAL_RANK


def test_a_finished_job_stays_finished_when_a_later_answer_lags() -> None:
    finished = Job("7", "copy", "finished", 3, 3, 0)
    lagging = Job("7", "copy", "running", 3, 2, 0)

    assert more_advanced(finished, lagging) == finished
    assert more_advanced(lagging, finished) == finished


def test_of_two_running_sightings_the_one_with_more_files_done_is_ahead() -> None:
    ahead = Job("7", "copy", "running", 9, 4, 2)
    behind = Job("7", "copy", "running", 9, 5, None)

    assert more_advanced(ahead, behind) == ahead
    assert more_advanced(behind, ahead) == ahead


def test_the_later_answer_wins_a_tie() -> None:
    earlier = Job("7", "copy", "running", 8, 4, 0)
    later = Job("7", "copy", "running", 9, 4, 0)

    assert more_advanced(earlier, later) == later


def test_times_and_errors_that_only_one_answer_told_are_kept() -> None:
    listed = Job("7", "copy", "finished", 3, 2, 1)
    alone = Job("7", "copy", "running", 3, 1, 1, started_on=1.0, finished_on=2.0, errors=(("5001", 1),))

    assert more_advanced(listed, alone) == Job("7", "copy", "finished", 3, 2, 1, 1.0, 2.0, (("5001", 1),))


def test_what_the_more_advanced_answer_tells_itself_is_not_overwritten() -> None:
    behind = Job("7", "copy", "running", 3, 2, 1, started_on=1.0, finished_on=2.0, errors=(("5001", 1),))
    ahead = Job("7", "copy", "finished", 3, 2, 1, started_on=5.0, finished_on=6.0, errors=())

    assert more_advanced(behind, ahead) == ahead


@given(jobs, jobs)
def test_the_result_is_as_far_as_the_further_one_and_forgets_nothing(one: Job, other: Job) -> None:
    both = more_advanced(one, other)

    assert both.rank >= max(one.rank, other.rank)
    for name in ("started_on", "finished_on", "errors"):
        told = {getattr(one, name), getattr(other, name)} - {None}
        assert getattr(both, name) in (told or {None})


@given(jobs)
def test_a_sighting_with_itself_is_itself(job: Job) -> None:
    assert more_advanced(job, job) == job

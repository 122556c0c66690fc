"""Of two sightings of one job the more advanced is believed, and nothing that either told is dropped."""

import pytest
from hypothesis import strategies as st

from exporter.api.models import FINAL_RANK, STATES, Job, State, rank

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
def test_documented_state_takes_precedence_over_times(state: State) -> None:
    assert rank(state, 1.5e9) == rank(state, None)


def test_an_undocumented_state_is_final_once_the_job_has_an_end() -> None:
    assert rank("archived", None) == rank(State.RUNNING, None)
    assert rank("archived", 1.5e9) == FINAL_RANK
    assert Job("7", "copy", "archived", finished_on=1.5e9).rank == FINAL_RANK


def test_progress_orders_observations() -> None:
    sightings = [
        Job("7", "copy", "finished", 3, 1, 0),
        Job("7", "copy", "running", 9, 5, None),
        Job("7", "copy", "submitted"),
        Job("7", "copy", "running", 9, 4, 2),
    ]

    assert sorted(sightings, key=lambda job: job.progress) == [sightings[n] for n in (2, 1, 3, 0)]

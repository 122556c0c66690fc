"""What others wrote is read or refused: some thousands of damaged inputs for each target of ``make fuzz``."""

import random

import pytest

from tests.fuzz.__main__ import run
from tests.fuzz.mutations import mutated
from tests.fuzz.targets import TARGETS, Target
from tests.width import width


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_input_is_read_or_refused(name: str) -> None:
    inputs = width(5000, 50_000) if name.endswith("record") else width(300, 5000)

    assert run(TARGETS[name], inputs, seed=random.randrange(2**32)) == []  # noqa: S311  # printed if it fails


@pytest.mark.parametrize("name", TARGETS)
def test_valid_input_is_accepted_by_its_target(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


def test_inputs_that_a_target_fails_for_are_returned() -> None:
    def refuses_null(data: bytes) -> None:
        if b"null" in data:
            raise ValueError("null")

    failures = run(Target(refuses_null, [b'{"id": 7}']), 1000, seed=1)

    assert failures
    assert all(b"null" in data for data, _ in failures)


def test_a_seed_repeats_its_inputs() -> None:
    first, second = (mutated(random.Random(7), b'{"id": 7}') for _ in range(2))  # noqa: S311  # see above

    assert first == second

"""No response needs more than 150 MiB of memory, measured in a process for each."""

import re
from collections.abc import Callable

import pytest

from tests.hostile_responses import HOSTILE
from tests.response_reader import MOST, read_by_a_process
from tests.width import FULL

QUICK = {
    "items: null",
    "links: next ones",
    "result: errors with as many codes",
    "escapes: pairs, then a lone surrogate",
    "nesting: lists of lists",
    "strings: a huge time",
    "not UTF-8, as state, with one of four bytes",
    "gzip: a bomb",
    "gzip: two members",
    "gzip: zeros behind",
}
"""At least one response of each kind, and those that need the most memory."""


@pytest.mark.parametrize("name", sorted(HOSTILE if FULL else QUICK))
@pytest.mark.fault(
    "a response built to need much memory",
    action="reads it within 150 MiB, or refuses it",
    shown="the jobs, or `bad_answer`",
    recovery="none needed",
)
def test_no_response_needs_much_memory(name: str, record_property: Callable[[str, object], None]) -> None:
    hostile = HOSTILE[name]

    reading = read_by_a_process(hostile)
    record_property("MiB", reading.most)  # for --junitxml=FILE -o junit_family=xunit1

    assert re.fullmatch(hostile.outcome, reading.outcome)
    assert reading.most <= MOST

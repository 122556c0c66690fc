"""The list of jobs: its order, what fits a line, and that nothing in it can change a terminal."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.commands._job_list import ListedJob, Selection, as_json, compact, table
from exporter.commands._terminal import Display, Style, display_of, printable, width_of
from exporter.counting.values import JobRecord
from tests.clocks import START
from tests.factories import record

NOW = START + 10_000
TERMINAL = Display(80, 24, color=False, unicode=True)
ELSEWHERE = Display(None, 24, color=False, unicode=True)


def listed(account: str = "cavatica", **fields: object) -> ListedJob:
    return ListedJob(account, record(None, **fields))


def ids(jobs: list[ListedJob]) -> list[str]:
    return [job.record.id for job in jobs]


# ---- which jobs, in which order ----


def test_unfinished_jobs_come_first_the_longest_without_progress_at_the_top() -> None:
    jobs = [
        listed(id="old", outcome="succeeded", finished_on=START),
        listed(id="moving", last_progress_at=START + 50),
        listed(id="new", outcome="failed", failed=1, finished_on=START + 90),
        listed(id="still", last_progress_at=START + 1),
        listed(id="lost", outcome="lost", last_progress_at=START + 40),
    ]

    assert ids(Selection().of(jobs)) == ["still", "moving", "new", "lost", "old"]


@pytest.mark.parametrize(
    ("fields", "failed"),
    [
        ({"failed": 1}, True),
        ({"failed": 1, "outcome": "partial"}, True),
        ({"outcome": "incomplete"}, True),
        ({"outcome": "lost"}, True),
        ({"outcome": "succeeded"}, False),
        ({}, False),
    ],
)
def test_failed_jobs_are_those_with_failed_or_missing_files_and_lost_ones(
    fields: dict[str, object], *, failed: bool
) -> None:
    assert bool(Selection(failed=True).of([listed("cavatica", **fields)])) is failed


def test_since_takes_unfinished_jobs_and_those_that_ended_then_or_later() -> None:
    jobs = [
        listed(id=str(end), outcome="succeeded", finished_on=START + end, last_progress_at=START - 60)
        for end in (-1, 0, 1)
    ]

    assert ids(Selection(since=START).of([*jobs, listed(id="runs")])) == ["runs", "1", "0"]


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ({"outcome": "failed", "failed": 3, "detected_at": START}, True),
        ({"outcome": "failed", "failed": 3, "detected_at": START - 1}, False),
        ({"outcome": "incomplete", "last_progress_at": START}, True),
        ({"outcome": "incomplete", "last_progress_at": START - 1}, False),
        ({"outcome": "lost", "last_progress_at": START, "finished_on": None}, True),
        ({"outcome": "partial", "failed": 3, "last_progress_at": START, "history": True}, False),
    ],
)
def test_since_takes_jobs_that_ended_during_downtime_and_were_counted_then_or_later(
    fields: dict[str, object], *, taken: bool
) -> None:
    """Alerts name this option, and fire once a job is counted. All jobs from before counting began are seen at once."""
    job = listed("cavatica", **{"finished_on": START - 36_000, "last_progress_at": START - 36_000, **fields})

    assert bool(Selection(since=START).of([job])) is taken


def test_outcomes_select_the_jobs_that_ended_like_this() -> None:
    ended = [listed(id=each, outcome=each, finished_on=START) for each in ("partial", "incomplete", "lost")]
    selection = Selection(outcomes=frozenset({"incomplete", "lost"}))

    assert sorted(ids(selection.of([*ended, listed(id="runs")]))) == ["incomplete", "lost"]
    assert selection.options == ["--outcome"]


def test_finished_job_whose_files_may_still_turn_up_is_settling() -> None:
    settling = listed(state="finished")

    assert (settling.state, settling.reason) == ("settling", "")
    assert settling.why == "it finished with missing files; if they do not turn up, it will count as incomplete"
    assert listed(state="finished", outcome="success").why == ""


@pytest.mark.parametrize(
    ("fields", "seconds", "state"),
    [
        ({"state": "running"}, 1801, "stuck"),
        ({"state": "running"}, 1800, "running"),
        ({"state": "resolving"}, 1801, "stuck"),
        ({"state": "finished"}, 1801, "stuck"),
        ({"state": "submitted"}, 9999, "submitted"),
        ({"state": "finished", "outcome": "partial"}, 9999, "partial"),
    ],
)
def test_job_is_stuck_as_for_the_alert(fields: dict[str, object], seconds: float, state: str) -> None:
    job = ListedJob("cavatica", record(None, last_progress_at=START, **fields), as_of=START + seconds)

    assert job.state == state
    assert as_json(job)["stuck"] is bool(Selection(stuck=True).of([job])) is (state == "stuck")
    assert as_json(job)["as_of"] == START + seconds
    assert as_json(job)["finished_before_counting"] is False


def test_time_without_a_poll_makes_no_job_stuck() -> None:
    job = ListedJob("cavatica", record(None, state="running", last_progress_at=START), as_of=START + 60)

    [_, line] = table([job], ELSEWHERE, START + 90_000, with_account=False)

    assert "running" in line
    assert not job.stuck


# ---- the table ----


def running_copy(**fields: object) -> JobRecord:
    counts = {"last_total": 10, "last_completed": 4, "last_failed": 1, "failed": 1, "error_counts": "5001:1"}
    return record(None, id="327292091756515328", **(counts | fields))


def test_several_accounts_fit_eighty_columns_with_bars() -> None:
    jobs = [
        ListedJob("cavatica-production", running_copy()),
        ListedJob("cgc", running_copy(outcome="incomplete", finished_on=START)),
    ]

    lines = table(jobs, TERMINAL, NOW, with_account=True)

    assert lines == [
        "JOB                 ACCOUNT   OPERATION  STATE       FILES  FAILED  AGE",
        "327292091756515328  cavatic…  copy       running      4/10       1   3h  ██▒░░░░",
        "  5001 no privilege on the file (1)",
        "327292091756515328  cgc       copy       incomplete   4/10       1   3h  ██▒░░░░",
        "  5001 no privilege on the file (1), 5 of 10 files missing; ended 2026-09-21T14…",
    ]


def test_elsewhere_nothing_is_cut_off() -> None:
    errors = " ".join(f"{code}:1" for code in range(5001, 5030))

    lines = table([ListedJob("x" * 64, running_copy(error_counts=errors))], ELSEWHERE, NOW, with_account=True)

    assert len(lines) == 2
    assert "x" * 64 in lines[1]
    assert "5029 wrong use of parent and project (1)" in lines[1]


@pytest.mark.parametrize("display", [TERMINAL, ELSEWHERE])
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"outcome": "incomplete", "last_completed": 7, "finished_on": START},
            "3 of 10 files missing, none reported as failed; ended 2026-09-21T14:13:20Z",
        ),
        (
            {"outcome": "incomplete", "last_completed": 10, "finished_on": START},
            "no file is missing any more; ended 2026-09-21T14:13:20Z",
        ),
        (
            {"outcome": "lost", "last_progress_at": START + 60},
            "gone from the platform before it finished; noticed 2026-09-21T14:14:20Z",
        ),
    ],
)
def test_incomplete_and_lost_jobs_say_why_and_since_when(
    fields: dict[str, object], reason: str, display: Display
) -> None:
    job = listed("cavatica", last_total=10, **fields)

    assert reason in "\n".join(table([job], display, NOW, with_account=False))


def test_a_job_whose_files_are_not_known_yet_has_no_bar() -> None:
    [_, line] = table([listed(id="1")], TERMINAL, NOW, with_account=False)

    assert line.split() == ["1", "copy", "running", "-", "-", "3h"]


def test_control_characters_of_names_do_not_reach_the_terminal() -> None:
    job = ListedJob("evil\x1b[2J\nname\u202e", running_copy(operation="co\x07py", error_counts="\x1b[31m:1"))

    shown = "\n".join(table([job], TERMINAL, NOW, with_account=True))

    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\u202e" not in shown
    assert shown.count("\n") == 2


def test_wide_characters_take_two_columns() -> None:
    jobs = [ListedJob("七桥基因组学七桥基因组学", running_copy()), ListedJob("sb", running_copy())]

    lines = table(jobs, TERMINAL, NOW, with_account=True)

    assert all(width_of(line) <= 80 for line in lines)
    assert width_of(lines[1].partition("copy")[0]) == width_of(lines[3].partition("copy")[0])


# ---- bars ----


@given(
    completed=st.integers(0, 2**31), failed=st.integers(0, 2**31), left=st.integers(0, 2**31), width=st.integers(4, 40)
)
def test_a_bar_shows_every_part_and_is_full_only_at_the_end(completed: int, failed: int, left: int, width: int) -> None:
    parts = (completed, Style.GOOD), (failed, Style.BAD)

    bar = TERMINAL.bar(parts, completed + failed + left, width)

    assert len(bar) == width
    assert ("█" in bar) is (completed > 0)
    assert ("▒" in bar) is (failed > 0)
    assert ("░" in bar) is (left > 0 or completed + failed == 0)


def test_a_bar_of_a_job_that_has_ended_has_no_empty_cell() -> None:
    assert TERMINAL.bar(((5, Style.GOOD), (4, Style.BAD)), 9, 10) == "██████▒▒▒▒"


def test_a_bar_stays_within_its_bounds_if_the_platform_counts_more_files_than_there_are() -> None:
    assert TERMINAL.bar(((20, Style.GOOD), (5, Style.BAD)), 10, 10) == "████████▒▒"


# ---- what can be shown ----


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "color"),
    [({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colours_on_a_terminal(environ: dict[str, str], *, color: bool) -> None:
    assert display_of(Terminal(), environ).color is color


def test_file_gets_no_colours_and_no_limit() -> None:
    display = display_of(io.StringIO(), {"TERM": "xterm"})

    assert (display.columns, display.color, display.is_terminal) == (None, False, False)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (200_000, "2d")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert compact(seconds) == text


def test_text_of_the_platform_becomes_one_printable_line() -> None:
    assert printable("a\tb\r\n\x1b[31mc\x00") == "a b   [31mc "

"""What ``job`` says about failed files that the platform does not name, and about jobs that it does not have."""

import pytest

from exporter.api.file_errors import FileError
from exporter.commands._failed_files import failed_files, gone
from exporter.commands._job_list import ListedJob
from exporter.commands.job import is_one_off
from tests.clocks import START
from tests.factories import record

DAY = 86400.0
FIND = (
    "To find them, compare the destination with the list of files that were submitted; submit what is missing as a new"
    " job."
)
NAMED = FileError("5001", "", "reads.bam")
NAMELESS = FileError("5002", "", "")


def said(*errors: FileError, **fields: object) -> list[str]:
    return list(failed_files(ListedJob("cavatica", record(None, **fields)), errors))


@pytest.mark.parametrize(
    ("errors", "failed", "lines"),
    [
        ([NAMED], 1, []),
        ([NAMELESS], 1, ["1 of 1 error record has no file name.", FIND]),
        ([NAMED, NAMELESS, NAMELESS], 3, ["2 of 3 error records have no file name.", FIND]),
        (
            [NAMED],
            11,
            [
                "10 of 11 failed files have no error record: the platform does not say which they are, or why.",
                FIND,
            ],
        ),
        (
            [NAMED],
            2,
            ["1 of 2 failed files has no error record: the platform does not say which it is, or why.", FIND],
        ),
        ([NAMED, NAMED], 1, []),  # the number is as last seen; the records are of now
    ],
)
def test_what_the_error_records_do_not_say_is_below_them(
    errors: list[FileError], failed: int, lines: list[str]
) -> None:
    found = said(*errors, last_failed=failed, outcome="partial")

    assert found[0] == "Failed files, as the platform reports them now:"
    assert [line for line in found[1:] if not line.startswith("  ")] == lines


def test_failed_files_without_any_error_record_are_not_denied() -> None:
    assert said(last_failed=2, outcome="partial") == [
        "2 of 2 failed files have no error record: the platform does not say which they are, or why.",
        FIND,
    ]


def test_no_failed_file_and_a_running_job_are_one_line_each() -> None:
    assert said(outcome="succeeded") == ["The platform reports no failed file."]
    assert said(last_failed=2) == ["The platform has error records of failed files when the job ends."]
    assert said(finished_on=START, state="aborted") == ["The platform reports no failed file."]


def test_missing_files_of_an_incomplete_job_have_the_next_step_too() -> None:
    incomplete = {"outcome": "incomplete", "last_total": 9, "last_completed": 7, "last_failed": 0}

    assert said(**incomplete) == [
        "The platform reports no failed file.",
        "2 of 9 files are missing all the same.",
        FIND,
    ]
    assert said(operation="delete", **incomplete)[-1].startswith("To find them, look which ")


def test_files_that_were_not_deleted_are_found_where_they_were() -> None:
    [*_, step] = said(NAMELESS, last_failed=1, outcome="failed", operation="delete")

    assert step == "To find them, look which of the files that were submitted still exist; submit those as a new job."


@pytest.mark.parametrize(
    ("fields", "meaning"),
    [
        ({"outcome": "partial", "finished_on": START - 31 * DAY}, "it keeps jobs for about a month after their end"),
        ({"outcome": "lost"}, "the platform still answers that there is no such job"),
        ({"outcome": "partial", "finished_on": START - 36}, "although it has ended a short time ago"),
        ({"state": "running"}, "although it was unfinished when last seen"),
    ],
)
def test_only_an_old_job_is_said_to_have_been_removed_by_age(fields: dict[str, object], meaning: str) -> None:
    note = gone(record(None, **fields), START)

    assert meaning in note
    assert ("about a month" in note) == ("about a month" in meaning)


@pytest.mark.parametrize(
    ("typed", "close"),
    [
        ("32729209175651532", True),
        ("27292091756515328", True),
        ("3272920917565155328", True),
        ("327292091756515329", True),
        ("327292091756515328", True),
        ("3272920917565153", False),
        ("327292091756515382", False),
        ("", False),
    ],
)
def test_id_with_one_wrong_digit_is_recognized(typed: str, *, close: bool) -> None:
    assert is_one_off("327292091756515328", typed) is close
    assert not is_one_off("1", typed)

"""Error records as the platform may write them: each with what it says, and none invented."""

import json

import pytest

from exporter.api.file_errors import FileError, parse_file_errors
from exporter.errors import BadAnswer


def parsed(*records: object) -> tuple[FileError, ...]:
    return parse_file_errors(json.dumps({"id": "1", "result": records}).encode())


def test_only_errors_are_returned_in_their_order() -> None:
    found = parsed(
        {"resource": {"id": "5c6d"}},
        {"error": {"status": 403, "code": 5001, "message": " Insufficient\nprivileges ", "more_info": "http://x"}},
        {"error": {"status": 404}},
    )

    assert found == (FileError("5001", "Insufficient privileges", ""), FileError("none", "", ""))


@pytest.mark.parametrize(
    "record",
    [
        {"file": "abc", "error": {"code": 1}},
        {"resource": {"id": "abc", "href": "https://x"}, "error": {"code": 1}},
        {"id": "abc", "error": {"code": 1}},
        {"source": {"file": {"id": "abc"}}, "error": {"code": 1}},
        {"error": {"code": 1, "file": "abc"}},
    ],
)
def test_file_is_found_wherever_the_record_names_it(record: object) -> None:
    assert parsed(record) == (FileError("1", "", "abc"),)


@pytest.mark.parametrize("record", [None, 5, "text", [], {}, {"error": None}, {"error": {}}, {"error": ""}])
def test_anything_else_is_no_error(record: object) -> None:
    assert parsed(record) == ()


def test_error_that_is_a_text_is_its_message() -> None:
    assert parsed({"error": "no such file"}) == (FileError("none", "no such file", ""),)


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"result": null}', b'{"result": "all"}'])
def test_answer_without_records_has_none(body: bytes) -> None:
    assert parse_file_errors(body) == ()


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"result": [' + b"[" * 100_000])
def test_answer_that_is_not_json_is_an_error(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        parse_file_errors(body)

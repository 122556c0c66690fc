"""The failed files in the platform's record of a job, as far as the platform says which ones they are.

The shape of these records is documented in part only: an error has a status, a code and a message, each of which may be
missing, and nothing says whether the file is named. So a file is looked for in every place where one could be.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from exporter.api.decoding import NO_CODE, parse_label
from exporter.errors import BadAnswer

_LONGEST_TEXT: Final = 200
_FILE_KEYS: Final = ("file", "source", "resource", "id", "name")
"""Where a record, or its error, may name the file: a text, or an object with one of these keys."""

_decoder: Final = msgspec.json.Decoder()


class FileError(msgspec.Struct, frozen=True):
    """One error record.

    Attributes:
        code: as a label; ``none`` if there is none.
        message: the platform's words, shortened; empty if there are none.
        file: the file's id or name; empty if the record does not say.
    """

    code: str
    message: str
    file: str


def parse_file_errors(body: bytes) -> tuple[FileError, ...]:
    """The error records of a job, in the platform's order.

    Raises:
        BadAnswer: the body is not JSON.
    """
    try:
        job = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer(f"not a job: {error}") from error
    records = job.get("result") if isinstance(job, dict) else None
    if not isinstance(records, list):
        return ()
    return tuple(_file_error(record) for record in records if isinstance(record, dict) and record.get("error"))


def _file_error(record: Mapping[str, Any]) -> FileError:
    error = record["error"]
    if not isinstance(error, dict):
        return FileError(NO_CODE, _text(error), _file(record))
    code = error.get("code")
    return FileError(
        NO_CODE if code is None or code == "" else parse_label(code),
        _text(error.get("message")),
        _file(record) or _file(error),
    )


def _file(record: Mapping[str, Any]) -> str:
    for key in _FILE_KEYS:
        value = record.get(key)
        found = _file(value) if isinstance(value, dict) else _text(value)
        if found:
            return found
    return ""


def _text(value: object) -> str:
    return " ".join(value.split())[:_LONGEST_TEXT] if isinstance(value, str) else ""

"""Values that the exporter does not write are refused at the start, and an import of them changes nothing."""

import hashlib
import json
import re
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from exporter.api.models import Job
from exporter.commands._state import StateFileOptions, check, export_ledger, import_ledger
from exporter.errors import StateError
from exporter.storage import transfer
from exporter.storage.reader import open_read_only
from exporter.storage.schema import LEDGER
from exporter.storage.store import Store
from tests.clocks import START
from tests.factories import ENDPOINT
from tests.ledgers import FEW_BUCKETS, observe_in

DONE = Job("1", "copy", "finished", 3, 1, 2, START, START + 2, (("5001", 2),))
RUNNING = Job("2", "import", "paused", 9, 4, 1, START)

_COUNTS = ("total", "completed", "failed", "last_total", "last_completed", "last_failed", "detail_requests_left")
_FLAGS = ("seen_submitted", "history", "queue_counted", "duration_counted", "errors_counted")
_TIMES = (
    "first_seen",
    "started_on",
    "finished_on",
    "last_progress_at",
    "detected_at",
    "settling_since",
    "missing_since",
)
_NESTED = "'" + "[" * 100_000 + "'"
_LONG = "hex(zeroblob(600000))"

BAD: list[tuple[str, str, str]] = [
    *(("job", column, value) for column in _COUNTS for value in ("-1", "1e19", "'x'", "1.5", "x'00'", "1 << 62")),
    *(("job", column, value) for column in _FLAGS for value in ("2", "-1", "'x'")),
    *(("job", column, value) for column in (*_TIMES, "unlisted_at") for value in ("9e999", "-9e999", "'x'", "1e300")),
    ("job", "unlisted_at", "-1"),
    *(
        ("job", "id", value)
        for value in ("''", "x'31'", "'a b'", "'a' || char(0) || 'b'", "CAST(x'ff' AS TEXT)", _LONG)
    ),
    *(
        ("job", column, value)
        for column in ("operation", "state")
        for value in (
            "''",
            "'Copy'",
            "'a\"b'",
            "x'31'",
            "'c' || char(10)",
            "'c' || char(0)",
            "CAST(x'ff' AS TEXT)",
            _LONG,
        )
    ),
    *(("job", "outcome", value) for value in ("'gone'", "x'00'", "1")),
    *(("job", "error_counts", value) for value in ("'x'", "'5001:-1'", "'5001:99999999999999'", "x'00'", _LONG)),
    *(("counter", "value", value) for value in ("-1", "9e999", "'x'", "x'00'", "0.5", "9223372036854775807")),
    *(("counter", "created", value) for value in ("9e999", "'x'", "x'00'", "1e300")),
    *(("counter", "family", value) for value in ("'sbg_unknown_total'", "x'00'", "'sbg_job_duration_seconds'")),
    *(
        ("counter", "labels", value)
        for value in (
            "'x'",
            "'[]'",
            "'null'",
            "'[1]'",
            "'[\"copy\" ]'",
            '\'["a\\"b"]\'',
            "'{}'",
            "x'00'",
            _NESTED,
            _LONG,
        )
    ),
    *(
        ("counter", "exemplar", value)
        for value in ("'x'", "'null'", "'[1]'", "'[\"1\", -1, 0]'", "'[\"1\", 1, NaN]'", "'[\"\\n\", 1, 0]'", _NESTED)
    ),
    *(("histogram", "labels", value) for value in ("'x'", "'[\"copy\"]'", '\'[["copy"], "failed"]\'', _NESTED)),
    *(("histogram", "counts", value) for value in ("'[1]'", "'[1, -1, 0]'", "'[1, 0.5, 0]'", "'x'", "'[]'", _NESTED)),
    *(
        ("histogram", "bounds", value)
        for value in (
            "'x'",
            "'[60, 60]'",
            "'[60, 1]'",
            "'[0, 1]'",
            "'[1, NaN]'",
            "'[1, Infinity]'",
            "'[1, 1e999]'",
            _NESTED,
        )
    ),
    *(("histogram", "exemplars", value) for value in ("'[]'", "'[null]'", "'[null, null, 1]'", _NESTED)),
    *(("histogram", "sum", value) for value in ("-1", "9e999", "'x'", "x'00'")),
    *(("account", "labels", value) for value in ("'x'", "'[]'", "'{\"state\": 1}'", '\'{"state": ["A"]}\'', _NESTED)),
    *(
        ("account", "failure_counted_at", value)
        for value in ("'x'", '\'{"copy": "x"}\'', "'{\"copy\": 1e300}'", _NESTED)
    ),
    *(("account", column, "9e999") for column in ("counting_since", "listing_clock", "listed_on")),
    *(("account", "username", value) for value in ("x'00'", "CAST(x'ff' AS TEXT)", _LONG)),
    ("account", "listing_clock", "-1"),
    ("account", "ever_listed", "2"),
    ("allowance", "used", "'x'"),
    ("allowance", "used", "9e999"),
    ("allowance", "rate_limit", "x'00'"),
    ("allowance", "window_ends", "9e999"),
    ("allowance", "paused_until", "'x'"),
]


def fill(state_file: Path) -> None:
    with closing(Store(state_file)) as store:
        ledger = store.create("a", ENDPOINT, "u", "", counting_since=START, local_time=START, rules=FEW_BUCKETS)
        observe_in(store, ledger, DONE, RUNNING, rules=FEW_BUCKETS, now=START)


def spoil(state_file: Path, table: str, column: str, value: str) -> None:
    with closing(sqlite3.connect(state_file, isolation_level=None)) as db:
        if table == "allowance":
            db.execute("INSERT INTO allowance VALUES ('e', 'u', 'a', 1, 1, 1, 1, 1, 1)")
        db.execute(f"UPDATE OR REPLACE {table} SET {column} = {value}")  # noqa: S608  # constants of this file


def _ids(case: object) -> str:
    return str(case)[:40]


@pytest.mark.parametrize(("table", "column", "value"), BAD, ids=_ids)
@pytest.mark.fault(
    "any column of the state file has a value that the exporter does not write",
    action="refuses the file, unchanged",
    shown="the column, in one line",
    recovery="a backup",
)
def test_invalid_value_is_refused_at_the_start_and_the_file_is_unchanged(
    state_file: Path, table: str, column: str, value: str
) -> None:
    fill(state_file)
    spoil(state_file, table, column, value)
    content = state_file.read_bytes()

    with pytest.raises(StateError, match=r"; restore a backup, or move the file away") as raised:
        Store(state_file)

    assert column in str(raised.value)
    assert "\n" not in str(raised.value)
    assert state_file.read_bytes() == content


IN_JSON = [case for case in BAD if case[0] != "allowance" and not re.search("x'|CAST|9e999", case[2])]


@pytest.mark.parametrize(("table", "column", "value"), IN_JSON[::4], ids=_ids)
@pytest.mark.fault(
    "`state import` of values that the exporter does not write",
    action="refuses it, and creates no state file",
    shown="the reason",
    recovery="a right export",
)
def test_export_with_an_invalid_value_changes_nothing(
    state_file: Path, tmp_path: Path, table: str, column: str, value: str
) -> None:
    fill(state_file)
    options = StateFileOptions(state_file, show_username=True, stop=threading.Event())
    exported = tmp_path / "a.ledger"
    export_ledger(options, ["a"], exported, force=False, warn=print)
    lines = exported.read_text().splitlines()
    with closing(sqlite3.connect(":memory:")) as db:
        wrong = db.execute(f"SELECT {value}").fetchone()[0]
    rows = [json.loads(line) for line in lines[1:-1]]
    for row in rows:
        if row[0] == table:
            row[1 + LEDGER[table].index(column)] = wrong
    exported.write_text(signed([lines[0], *map(json.dumps, rows)]))
    there = StateFileOptions(tmp_path / "there" / "state.db", show_username=True, stop=threading.Event())

    with pytest.raises(StateError, match="cannot be imported: it"):
        import_ledger(there, exported, replace=False, warn=print)

    assert not there.file.exists()


def signed(lines: list[str]) -> str:
    counts: dict[str, int] = {}
    for line in lines[1:]:
        table = json.loads(line)[0]
        counts[table] = counts.get(table, 0) + 1
    text = "".join(f"{line}\n" for line in lines)
    return text + json.dumps({"rows": counts, "sha256": hashlib.sha256(text.encode()).hexdigest()}) + "\n"


DEEP = "[" * 100_000
HEADER = '{"format": "sbg-exporter ledger", "version": 1, "layout": 1, "columns": {}, "more": '


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        HEADER + DEEP,
        lambda first: first + DEEP + "\n",
        lambda first: first + '["job", ' + DEEP + "\n",
        lambda first: first + '{"rows": ' + DEEP + "\n",
        lambda first: first + '{"rows": {}, "sha256": "", "more": ' + DEEP + "\n",
        lambda first: first + "[" + "9" * 100_000 + "]\n",
        lambda first: first + '["job"' + ", 1" * 400_000 + "]\n",
        lambda first: first + "x" * 2_000_000,
    ],
    ids=range(9),
)
@pytest.mark.fault(
    "`state import` of nested, endless or huge lines",
    action="refuses it; the state file is unchanged",
    shown="one line",
    recovery="a right export",
)
def test_awkward_export_is_one_line(state_file: Path, tmp_path: Path, content: str | Callable[[str], str]) -> None:
    fill(state_file)
    options = StateFileOptions(state_file, show_username=True, stop=threading.Event())
    exported = tmp_path / "a.ledger"
    export_ledger(options, ["a"], exported, force=False, warn=print)
    first = exported.read_text().splitlines(keepends=True)[0]
    exported.write_text(content if isinstance(content, str) else content(first))
    before = state_file.read_bytes()

    with pytest.raises(StateError, match="cannot be imported: it") as raised:
        import_ledger(options, exported, replace=True, warn=print)

    assert "\n" not in str(raised.value)
    assert state_file.read_bytes() == before


@pytest.mark.fault(
    "`state import` of an endless file",
    action="refuses it",
    shown="the reason",
    recovery="a right export",
)
def test_endless_export_is_refused(state_file: Path) -> None:
    options = StateFileOptions(state_file, show_username=True, stop=threading.Event())

    with pytest.raises(StateError, match="/dev/zero cannot be imported: it is damaged: a line is longer than any row"):
        import_ledger(options, Path("/dev/zero"), replace=False, warn=print)


@pytest.mark.fault(
    "`state import` of a ledger that is too large for memory",
    action="refuses it",
    shown="the limit",
    recovery="a smaller export",
)
def test_import_takes_a_limited_amount_of_memory(
    state_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(state_file)
    options = StateFileOptions(state_file, show_username=True, stop=threading.Event())
    exported = tmp_path / "a.ledger"
    export_ledger(options, ["a"], exported, force=False, warn=print)
    lines = exported.read_text().splitlines()
    job = json.loads(next(line for line in lines if line.startswith('["job"')))
    exported.write_text(
        signed([*lines[:-1], *(json.dumps([job[0], str(10_000 + number), *job[2:]]) for number in range(2000))])
    )
    monkeypatch.setattr(transfer, "_LARGEST_LEDGER", 2**18)

    with pytest.raises(StateError, match="cannot be imported: it takes more than 0 MiB"):
        import_ledger(options, exported, replace=True, warn=print)


@pytest.mark.fault(
    "rows of the state file belong to no account",
    action="refuses the file",
    shown="how many rows, and which",
    recovery="a backup",
)
def test_rows_of_no_account_are_refused(state_file: Path) -> None:
    """The next account would otherwise get their number, and with it these jobs."""
    fill(state_file)
    with closing(sqlite3.connect(state_file, isolation_level=None)) as db:
        db.execute("DELETE FROM account")

    with pytest.raises(StateError, match=r"(binding|counter|histogram|job): \d+ rows belong to a missing account"):
        Store(state_file)


@pytest.mark.fault(
    "several columns of the state file are damaged",
    action="`state verify` exits 1",
    shown="a line for each column",
    recovery="a backup",
)
def test_each_column_with_invalid_values_is_a_line_of_check(
    state_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(state_file)
    spoil(state_file, "job", "total", "-1")
    spoil(state_file, "job", "outcome", "'gone'")
    spoil(state_file, "counter", "value", "-1")

    assert check(StateFileOptions(state_file, show_username=True, stop=threading.Event())) == 1

    assert [line.partition(" ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "job.total:",
        "job.outcome:",
        "counter.value:",
        str(state_file),  # and what to do
    ]


@pytest.mark.fault(
    "a value of the state file is nested a hundred thousand deep",
    action="`state show` refuses it",
    shown="the reason",
    recovery="a backup",
)
def test_value_that_is_nested_too_deeply_is_one_line_of_show(state_file: Path) -> None:
    fill(state_file)
    spoil(state_file, "histogram", "counts", _NESTED)

    with (
        open_read_only(state_file, lambda: False) as state,
        pytest.raises(StateError, match="cannot be decoded: brack"),
    ):
        state.ledgers()

"""``jobs`` and ``job`` say as of when they are, and what is old; commands are told as they can be typed."""

from pathlib import Path

import pytest

from exporter.commands._command_line import program_called
from exporter.commands._output import as_typed
from exporter.commands._staleness import LastListed, as_of, stale_notes
from exporter.config.settings import Settings

NOW = 1_700_000_000.0
USUAL = Settings.model_validate({"accounts": [{"name": "a"}]})
MINUTE = 60.0


def listed(
    minutes_ago: float, settings: Settings | None = USUAL, unfinished: int = 1, name: str = "cavatica"
) -> LastListed:
    return LastListed(name, NOW - minutes_ago * MINUTE, settings, unfinished)


def told(*accounts: LastListed, is_running: bool = True) -> tuple[str, ...]:
    return stale_notes(accounts, NOW, is_running=is_running)


@pytest.mark.parametrize("is_running", [True, False])
@pytest.mark.parametrize(
    "account",
    [
        listed(9),
        listed(-9),
        listed(14, USUAL.model_copy(update={"poll_interval": 300.0})),
        listed(29, USUAL.model_copy(update={"stale_after": 1800.0})),
        listed(900, None, unfinished=0),
    ],
    ids=[
        "within stale_after",
        "a clock put back",
        "a long interval",
        "a long stale_after",
        "removed, nothing unfinished",
    ],
)
def test_nothing_is_said_of_an_account_that_is_listed_as_it_should_be(account: LastListed, *, is_running: bool) -> None:
    assert told(account, is_running=is_running) == ()


def test_an_account_that_a_running_exporter_cannot_list_is_named_with_the_next_step() -> None:
    [line] = told(listed(11), listed(1))

    assert line.startswith("cavatica: last listed about 11 min ago, although an exporter is running; ")
    assert line.endswith("; `sbg-exporter check` tests the account")


def test_one_line_says_that_no_exporter_is_running() -> None:
    assert told(listed(181), is_running=False) == ("no exporter is running; cavatica: last listed about 3 h ago",)
    assert told(listed(181), listed(400, name="cgc"), is_running=False) == (
        "no exporter is running; 2 accounts: last listed about 3 h ago",
    )


def test_unfinished_jobs_of_an_account_that_was_removed_are_not_taken_for_current() -> None:
    assert told(listed(181, None)) == ("cavatica: last listed about 3 h ago; no configured account has this name",)


def test_of_many_accounts_five_are_named() -> None:
    lines = told(*(listed(60, name=f"a{number}") for number in range(12)))

    assert len(lines) == 6
    assert lines[-1] == "and 7 more accounts"


# ---- as of when ----


def dated(*accounts: LastListed, is_running: bool = True) -> str:
    return as_of(accounts, NOW, is_running=is_running)


def test_as_of_when_is_said_always_also_of_what_is_fresh() -> None:
    assert dated(listed(40 / MINUTE)) == "as of 22:12:40 UTC, 40 s ago"
    assert dated(listed(11)) == "as of 22:02:20 UTC, 11 min ago"
    assert dated(listed(4)) == "as of 22:09:20 UTC, 4 min ago, or later", "a poll without news is not saved each time"
    assert dated(listed(-9)) == "as of 22:22:20 UTC, 0 s ago", "a clock put back"
    assert dated(listed(3000)) == "as of 2023-11-12T20:13:20Z, 2 d ago", "with the date, where it may be another day"
    assert dated(listed(1), is_running=False) == "as of 22:12:20 UTC, 60 s ago; no exporter is running"


def test_of_several_accounts_the_one_listed_longest_ago_is_named() -> None:
    assert dated(listed(1), listed(5, name="cgc"), listed(2, name="bdc")) == (
        "as of 22:08:20 UTC, 5 min ago, or later (account cgc; no other is older)"
    )
    assert dated(listed(1), LastListed("new", None, USUAL, 0)) == "new has not been listed yet"
    assert dated() == ""


def test_an_account_that_was_removed_is_not_the_oldest_unless_it_has_unfinished_jobs() -> None:
    assert dated(listed(1), listed(9000, None, unfinished=0, name="old")) == "as of 22:12:20 UTC, 60 s ago"
    assert "(account old; no other is older)" in dated(listed(1), listed(9000, None, name="old"))
    assert dated(listed(120, None, unfinished=0)) == "as of 20:13:20 UTC, 2 h ago"


# ---- the program's name ----


def test_commands_in_backticks_are_printed_as_they_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/opt/my venv/bin/sbg-exporter"])
    monkeypatch.setenv("PATH", "/nowhere")

    assert as_typed("run `sbg-exporter init`, or `sbg-exporter`") == (
        "run `'/opt/my venv/bin/sbg-exporter' init`, or `'/opt/my venv/bin/sbg-exporter'`"
    )
    assert as_typed("sbg-exporter: cannot") == "sbg-exporter: cannot"


def test_the_program_is_called_by_its_name_if_the_shell_finds_it_there_and_by_its_path_else(tmp_path: Path) -> None:
    one, other = tmp_path / "one bin" / "sbg-exporter", tmp_path / "other" / "sbg-exporter"
    for each in one, other:
        each.parent.mkdir()
        each.touch(mode=0o755)
    link = tmp_path / "links" / "sbg-exporter"
    link.parent.mkdir()
    link.symlink_to(one)

    assert program_called(str(one), str(one.parent)) == "sbg-exporter"
    assert program_called(str(one), f"/nowhere:{link.parent}") == "sbg-exporter"
    assert program_called(str(one), str(other.parent)) == f"'{one}'"
    assert program_called(str(other), "") == str(other)
    assert program_called("bin/sbg-exporter", "") == "bin/sbg-exporter"
    assert program_called("/usr/lib/python3/exporter/__main__.py", "") == "sbg-exporter"

"""Error codes in words: short, in every place where a code is shown, and never invented."""

import json
from pathlib import Path

import pytest

from exporter.api.error_codes import ERROR_CODES, in_words, words_of
from exporter.simulator.jobs import ERROR_TEXTS

DASHBOARDS = Path(__file__).parents[2] / "grafana" / "dashboards"


def test_every_code_has_short_words_and_a_source() -> None:
    for code, known in ERROR_CODES.items():
        assert code.isdecimal()
        assert 0 < len(known.words) <= 32, code
        assert known.words == known.words.strip(" .")
        assert known.source
    assert list(ERROR_CODES) == sorted(ERROR_CODES, key=int)


def test_codes_that_files_fail_with_in_simulations_are_known() -> None:
    assert set(ERROR_TEXTS) <= set(ERROR_CODES)


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("5001", "5001 no privilege on the file"),
        ("none", "no code"),
        ("other", "other codes"),
        ("4007", "4007"),
        ("<b>", "<b>"),
    ],
)
def test_code_is_shown_with_its_meaning_if_that_is_known(code: str, shown: str) -> None:
    assert in_words(code) == shown


def test_unknown_code_has_no_words() -> None:
    assert words_of("4007") == ""


@pytest.mark.sources
@pytest.mark.parametrize("name", ["bulk-jobs", "files-and-jobs", "one-account"])
def test_dashboards_show_every_code_in_words(name: str) -> None:
    shown = json.dumps(json.loads((DASHBOARDS / f"{name}.json").read_text(encoding="utf-8")))

    for code in (*ERROR_CODES, "none", "other"):
        assert json.dumps(in_words(code)) in shown

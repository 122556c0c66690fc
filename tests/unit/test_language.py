"""The project's texts avoid words that make operators read a sentence twice.

The words, the rules and their examples are those of the project's writing guide: name the actor, use the field's verb,
one idea per sentence. The test reads documents, configuration files and dashboards as a whole. Of Python it reads
comments and strings, so docstrings, help, errors and log events, but no identifiers.
"""

import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest

REPOSITORY: Final = Path(__file__).parents[2]

CLEAN: Final = (
    ".github/",
    "CHANGELOG.md",
    "README.md",
    "deploy/",
    "exporter/README.md",
    "exporter/__main__.py",
    "exporter/api/",
    "exporter/clock.py",
    "exporter/commands/__init__.py",
    "exporter/commands/_click.py",
    "exporter/commands/_output.py",
    "exporter/commands/_job_list.py",
    "exporter/commands/_parallel.py",
    "exporter/commands/_prompt.py",
    "exporter/commands/_settings.py",
    "exporter/commands/_terminal.py",
    "exporter/commands/check.py",
    "exporter/commands/demo.py",
    "exporter/commands/init.py",
    "exporter/commands/job.py",
    "exporter/commands/jobs.py",
    "exporter/commands/once.py",
    "exporter/commands/run.py",
    "exporter/commands/simulate.py",
    "exporter/commands/state.py",
    "exporter/commands/version.py",
    "exporter/config/",
    "exporter/counting/",
    "exporter/daemon/",
    "exporter/errors.py",
    "exporter/logs.py",
    "exporter/metrics/",
    "exporter/polling/",
    "exporter/redaction.py",
    "exporter/simulator/",
    "exporter/storage/",
    "exporter/text.py",
    "exporter/web/",
    "grafana/",
    "tests/background.py",
    "tests/cache.py",
    "tests/clocks.py",
    "tests/conftest.py",
    "tests/doc_tables.py",
    "tests/factories.py",
    "tests/fast_daemon.py",
    "tests/harness.py",
    "tests/integration/test_demo.py",
    "tests/integration/test_exactly_once.py",
    "tests/integration/test_faults.py",
    "tests/integration/test_large_accounts.py",
    "tests/integration/test_lifecycle.py",
    "tests/integration/test_networks.py",
    "tests/integration/test_official_client.py",
    "tests/integration/test_promtool.py",
    "tests/integration/test_recipes.py",
    "tests/integration/test_secrets.py",
    "tests/integration/test_leaks.py",
    "tests/leaks.py",
    "tests/ledgers.py",
    "tests/property/test_counting.py",
    "tests/property/test_plan.py",
    "tests/property/test_settings_files.py",
    "tests/proxy.py",
    "tests/raw_server.py",
    "tests/recording_server.py",
    "tests/rules/",
    "tests/snapshots.py",
    "tests/tools.py",
    "tests/unit/test_counting_rules.py",
    "tests/unit/test_discovery.py",
    "tests/unit/test_documents.py",
    "tests/unit/test_files.py",
    "tests/unit/test_foreign_responses.py",
    "tests/unit/test_freshness.py",
    "tests/unit/test_full_listing.py",
    "tests/unit/test_no_proxy.py",
    "tests/unit/test_ordering.py",
    "tests/unit/test_plan.py",
    "tests/unit/test_refresh.py",
    "tests/unit/test_state.py",
    "tests/unit/test_store.py",
    "tests/waiting.py",
    "tests/width.py",
)
"""Files and folders that keep the rules. Add a prefix here as soon as its texts are rewritten."""

_ACTOR: Final = "name the actor: the exporter, the platform, Prometheus, the operator"
_VERB: Final = "use the field's verb: lock, load, save, reset, retry, skip, expire, restore, report, count"
_LITERAL: Final = "say which one or how many"
_MODERN: Final = "use today's word"

AVOID: Final = {
    r"whatever": _LITERAL,
    r"whoever": _ACTOR,
    r"nobody": _ACTOR,
    r"somebody": _ACTOR,
    r"(?:is|are|was|were|be|been) told": f"{_ACTOR}; it reports or sends",
    r"tells? of": f"{_VERB}: reports",
    r"befalls?|befell|befallen": f"{_VERB}: happens to, affects",
    r"anew": f"{_VERB}: again, from 0",
    r"mend(?:s|ed|ing)?": f"{_VERB}: fix, repair, restore",
    r"put in": f"{_VERB}: insert, add, set, write",
    r"beside": f"{_MODERN}: next to, in the same folder, besides, except",
    r"for ever": f"{_MODERN}: permanently, never expires",
    r"likewise": f"{_MODERN}: repeat the reason, or write 'the same'",
    r"shall": f"{_MODERN}: must, will, or the present tense",
    r"sound": f"{_MODERN}: valid, intact, consistent",
    r"one by one": f"{_LITERAL}: per job, individually",
    r"so many": f"{_LITERAL}: as many, a number",
}
"""Regular expressions of words, and the rule with better ones."""

EXEMPT: Final[Mapping[tuple[str, str], str]] = {}
"""Legitimate uses: a file and a part of its line, and the reason."""

_TEXTS: Final = {".conf", ".css", ".example", ".html", ".j2", ".json", ".md", ".service", ".toml", ".tpl", ".txt"}
_TEXTS_WITH_COMMENTS: Final = {".yaml", ".yml"}
_NAMED: Final = {"Dockerfile", "Makefile"}
_SKIPPED: Final = {"__pycache__", "golden", "node_modules"}
_COPIES: Final = re.compile(
    r"deploy/.*/dashboards/.*\.json|deploy/helm/sbg-exporter/(files/rules\.yaml|values\.schema\.json)"
)
"""Generated copies of rules, dashboards and the settings' descriptions: their sources are read."""

_WORDS: Final = {
    re.compile(rf"\b(?:{words})\b".replace(" ", r"[\s#]+"), re.IGNORECASE): AVOID[words] for words in AVOID
}
_PYTHON: Final = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
"""FSTRING_MIDDLE: since Python 3.12 an f-string is several tokens."""


class Finding(NamedTuple):
    """A word to avoid, where it is and why."""

    line: int
    word: str
    rule: str


def prose(name: str, text: str) -> Iterator[tuple[int, str]]:
    """The texts of a file for readers, each with its first line."""
    if not name.endswith(".py"):
        yield 1, text
        return
    comments: list[str] = []
    began = ended = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _PYTHON:
            continue
        if token.type != tokenize.COMMENT:
            yield token.start[0], token.string
        elif comments and token.start[0] == ended + 1:  # a sentence may go on in the next line
            comments.append(token.string)
            ended += 1
        else:
            yield began, "\n".join(comments)
            comments = [token.string]
            began = ended = token.start[0]
    yield began, "\n".join(comments)


def findings(name: str, text: str, exempt: Mapping[tuple[str, str], str] = EXEMPT) -> list[Finding]:
    """The words to avoid in a file, except on exempt lines."""
    found = []
    lines = text.splitlines()
    for first, part in prose(name, text):
        for words, rule in _WORDS.items():
            for match in words.finditer(part):
                line = first + part.count("\n", 0, match.start())
                if not any(file == name and each in lines[line - 1] for file, each in exempt):
                    found.append(Finding(line, " ".join(match[0].replace("#", " ").split()), rule))
    return sorted(found)


def files() -> Iterator[tuple[str, str]]:
    """The clean files with texts: their names and contents."""
    for prefix in CLEAN:
        root = REPOSITORY / prefix
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            name = path.relative_to(REPOSITORY).as_posix()
            known = path.suffix in {".py"} | _TEXTS | _TEXTS_WITH_COMMENTS or path.name in _NAMED
            if known and not _SKIPPED & set(path.parts) and not _COPIES.fullmatch(name):
                yield name, path.read_text(encoding="utf-8")


@pytest.mark.sources
def test_texts_avoid_words_that_need_a_second_reading() -> None:
    found = [
        f"{name}:{each.line}: “{each.word}”: {each.rule}" for name, text in files() for each in findings(name, text)
    ]

    assert not found, "\n".join(["", *found])


@pytest.mark.sources
@pytest.mark.parametrize("prefix", CLEAN)
def test_every_clean_prefix_has_texts(prefix: str) -> None:
    assert any(name.startswith(prefix) for name, _ in files())


@pytest.mark.sources
def test_every_exemption_is_needed() -> None:
    unexempt = {
        (name, text.splitlines()[each.line - 1]) for name, text in files() for each in findings(name, text, exempt={})
    }

    unneeded = {key for key in EXEMPT if not any(name == key[0] and key[1] in line for name, line in unexempt)}
    assert unneeded == set()


def test_an_exempt_line_is_no_finding() -> None:
    text = "The alarm has a sound.\nThe file is sound.\n"

    assert [each.line for each in findings("a.md", text, {("a.md", "has a sound"): "noise"})] == [2]
    assert [each.line for each in findings("b.md", text, {("a.md", "has a sound"): "noise"})] == [1, 2]


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.md", "It works.\nNobody is told.\n", [(2, "Nobody"), (2, "is told")]),
        ("a.md", "It was put\nin its place.", [(1, "put in")]),
        ("a.md", "whatever and whatsoever, besides, soundness, shallow", [(1, "whatever")]),
        ("a.yml", "a: 1  # mended anew\n", [(1, "anew"), (1, "mended")]),
        ("a.py", '"""Module.\n\nIt shall.\n"""\n', [(3, "shall")]),
        ("a.py", "x = 1  # it is put\n# in there\n", [(1, "put in")]),
        ("a.py", "x = 1  # it is put\n\n# in there\n", []),
        ("a.py", 'x = f"{1} so many {2}"\n', [(1, "so many")]),
        ("a.py", "sound = beside = 1\n", []),
    ],
)
def test_words_are_found_in_texts_but_not_in_identifiers(name: str, text: str, found: list[tuple[int, str]]) -> None:
    assert [(each.line, each.word) for each in findings(name, text)] == found

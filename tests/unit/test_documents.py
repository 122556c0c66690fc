"""The documents say what the code says, and what they point at exists."""

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import yaml

from exporter import __version__
from exporter.config.account_tables import AccountTable
from exporter.config.settings import Settings
from exporter.metrics.families import FAMILIES, PROCESS_FAMILIES, Family, ProcessFamily, Type
from exporter.simulator import control
from exporter.simulator.faults import FaultKind
from tests import warm
from tests.doc_tables import QUERIES, REPOSITORY, RULES, TABLES, filled, made, query, with_error_words
from tests.tools import tool

pytestmark = pytest.mark.sources

README: Final = REPOSITORY / "README.md"
CONTRIBUTING: Final = REPOSITORY / ".github" / "CONTRIBUTING.md"
CHANGELOG: Final = REPOSITORY / "CHANGELOG.md"
URL: Final = str(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["urls"]["Repository"])
"""The one place that says where the project is."""
_NOT_OURS: Final = {"node_modules", "build", "dist"}
_README_LINES: Final = 200


def _markdown() -> Iterator[Path]:
    for folder, folders, files in os.walk(REPOSITORY):
        hidden_but = {name for name in folders if name.startswith(".") and name != ".github"}
        folders[:] = sorted(set(folders) - hidden_but - _NOT_OURS)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".md"))


DOCUMENTS: Final = {str(path.relative_to(REPOSITORY)): path for path in _markdown()}
every_document = pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS.keys())


class Block(NamedTuple):
    """A fenced block of code: its language and its text."""

    language: str
    text: str


@cache
def _text(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def _blocks(document: Path, *languages: str) -> list[Block]:
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", _text(document), re.DOTALL | re.MULTILINE)
    return [Block(language, text) for _, language, text in found if not languages or language in languages]


def _prose(document: Path) -> str:
    """The text without its blocks of code."""
    return re.sub(r"^( *)```.*?^\1```$", "", _text(document), flags=re.DOTALL | re.MULTILINE)


@cache
def _headings(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", _prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _links(document: Path) -> list[str]:
    return re.findall(r"\]\(<?([^)\s>]+)>?\)", re.sub(r"`[^`\n]+`", "", _prose(document)))


# ---- tables ----


@pytest.mark.parametrize("name", [*TABLES, str(RULES.relative_to(REPOSITORY))])
def test_generated_tables_are_current(name: str) -> None:
    assert _text(REPOSITORY / name) == made()[REPOSITORY / name], "run: make generated"


def test_every_metric_has_one_example_query() -> None:
    [families, queries] = [set(_metric_names()), QUERIES.keys()]

    assert queries <= families
    for family in _families():
        assert re.search(rf"\b{family.name}(_bucket)?\b", query(family)), family.name


@pytest.mark.tools("promtool")
def test_promtool_accepts_every_query_of_the_documents(tmp_path: Path) -> None:
    readme = re.findall(r"^\| [^|]+\? \| `(.+)` \|$", _text(README), re.MULTILINE)
    blocks = [block.text for path in DOCUMENTS.values() for block in _blocks(path, "promql")]
    # A line that is indented continues the query of the line above.
    queries = [query for text in blocks for query in re.findall(r"^[^#\s].*(?:\n[ )].*)*", text, re.MULTILINE)]
    rules = [{"record": f"query:{number}", "expr": expr} for number, expr in enumerate((*readme, *queries))]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "documents", "rules": rules}]}))

    checked = subprocess.run([tool("promtool"), "check", "rules", file], capture_output=True, text=True, check=False)

    assert len(readme) == 10
    assert checked.returncode == 0, checked.stderr + checked.stdout


def test_accounts_table_has_every_key() -> None:
    config = _text(REPOSITORY / "exporter" / "config" / "README.md").partition("## Accounts")[2]

    assert re.findall(r"^\| `(\w+)` \|", config, re.MULTILINE) == list(AccountTable.model_fields)


def test_readme_shows_the_defaults_of_its_settings() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (`[^`]*`) \|", _text(README), re.MULTILINE))
    config = _text(REPOSITORY / "exporter" / "config" / "README.md").partition("## Accounts")[0]
    all_settings = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", config, re.MULTILINE))

    assert len(rows) == 5
    assert rows.items() <= all_settings.items()
    assert rows.keys() <= Settings.model_fields.keys()


def test_simulator_tables_name_every_request_and_fault() -> None:
    text = _text(REPOSITORY / "exporter" / "simulator" / "README.md")
    in_code = re.findall(r"^([A-Z]+) +(/simulator\S*)", str(control.__doc__), re.MULTILINE)

    assert re.findall(r"^\| `([A-Z]+) (/simulator\S*)`", text, re.MULTILINE) == in_code
    assert len(in_code) == 13
    assert set(re.findall(r"^\| `(\w+)` \| \d", text, re.MULTILINE)) >= set(FaultKind)


@pytest.mark.parametrize("document", ["no markers", "<!-- a -->\n<!-- /a -->\n" * 2, "<!-- a -->\n", "<!-- /a -->\n"])
def test_a_document_without_its_markers_is_an_error(document: str) -> None:
    with pytest.raises(ValueError, match="there must be one"):
        filled(document, {"a": lambda: "a table\n"})


@pytest.mark.parametrize(
    "rules", ["no words", '  {{- $words := "\n  ; 0 a;\n  " }}\n' * 2, '  {{- $words := "; 0 a;" }}\n']
)
def test_rules_without_a_place_for_the_words_of_error_codes_are_an_error(rules: str) -> None:
    with pytest.raises(ValueError, match="there must be one"):
        with_error_words(rules)


def test_tables_replace_only_what_is_between_their_markers() -> None:
    document = "above\n<!-- b -->\nold\n<!-- /b -->\nbetween\n<!-- a -->\n<!-- /a -->\nbelow\n"
    tables = {"a": lambda: "A\n", "b": lambda: "B\n"}

    once = filled(document, tables)

    assert once == "above\n<!-- b -->\n\nB\n\n<!-- /b -->\nbetween\n<!-- a -->\n\nA\n\n<!-- /a -->\nbelow\n"
    assert filled(once, tables) == once


# ---- links ----


@every_document
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for link in _links(document):
        target, _, anchor = link.partition("#")
        if target.startswith(URL):
            kind, _, inside = target.removeprefix(f"{URL}/").partition("/main/")
            if kind not in {"blob", "raw", "tree"}:
                assert kind in {"", "issues", "security/advisories/new"}, link
                continue
            path = REPOSITORY / inside
        elif re.match(r"[a-z]+:", target):
            continue
        else:
            path = document.parent / target if target else document
        assert path.exists(), link
        assert not anchor or anchor in _headings(path.resolve()), link


def test_readme_links_are_absolute() -> None:
    links = _links(README)

    assert [link for link in links if not link.startswith("https://")] == []
    assert all(link.startswith(f"{URL}/raw/main/") for link in re.findall(r"!\[[^]]+\]\(([^)]+)\)", _text(README)))


def test_runbooks_are_linked_below_the_projects_url() -> None:
    urls = set(re.findall(r"runbook_url: (\S+)#", RULES.read_text(encoding="utf-8")))

    assert urls == {f"{URL}/blob/main/deploy/prometheus/RUNBOOKS.md"}


@every_document
def test_files_that_are_named_exist(document: Path) -> None:
    named = re.findall(r"`((?:exporter|deploy|grafana|tests|\.github)/[\w./-]+\.\w+)`", _prose(document))

    assert [name for name in named if not (REPOSITORY / name).exists()] == []


# ---- names ----


def _families() -> tuple[Family | ProcessFamily, ...]:
    return *FAMILIES, *PROCESS_FAMILIES


def _metric_names() -> Iterator[str]:
    for family in _families():
        yield family.name
        if family.type is Type.HISTOGRAM:
            yield from (f"{family.name}{suffix}" for suffix in ("_bucket", "_sum", "_count"))


@every_document
def test_metrics_that_are_named_exist(document: Path) -> None:
    if document in {CHANGELOG, CONTRIBUTING}:
        return  # old names, and one that a recipe adds

    named = set(re.findall(r"(?<![:\w])sbg_[a-z_]+[a-z](?![:\w*])", _text(document)))

    assert named - set(_metric_names()) == set()


@every_document
def test_alerts_that_are_named_exist(document: Path) -> None:
    if document in {CHANGELOG, CONTRIBUTING}:
        return  # old names, and one that a recipe adds

    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text(encoding="utf-8")))

    assert set(re.findall(r"\bSbg[A-Z]\w+", _text(document))) <= alerts


# ---- commands ----


@cache
def _help(*command: str) -> str:
    ended = warm.run(["exporter", *command, "--help"], os.environ | {"COLUMNS": "200"}, REPOSITORY)
    assert ended.code == 0, ended
    return ended.out


def _commands(*command: str) -> list[str]:
    """The commands that ``--help`` lists."""
    _, _, listed = _help(*command).lower().partition("commands:\n")
    return re.findall(r"^ +(\w+) {2,}\w", listed, re.MULTILINE)


def test_readme_lists_every_command() -> None:
    rows = re.findall(r"^\| `sbg-exporter (\w+)`", _text(README), re.MULTILINE)
    [state] = re.findall(r"^\| `sbg-exporter state` \|(.+)$", _text(README), re.MULTILINE)

    assert sorted(rows) == sorted(_commands())
    assert sorted(re.findall(r"`(\w+)`", state)) == sorted(_commands("state"))


@every_document
def test_commands_and_flags_exist(document: Path) -> None:
    known = _commands()
    code: list[str] = [block.text.replace("\\\n", " ") for block in _blocks(document, "sh")]
    code += [span for span in re.findall(r"`([^`\n]+)`", _prose(document)) if "sbg-exporter " in span]

    for line in "\n".join(code).splitlines():
        for command, words in re.findall(r"(?:^|[ /])sbg-exporter ([a-z]+)\b([^|&;#<>]*)", line):
            if command not in known:
                assert not line.strip().startswith("sbg-exporter "), line
                continue
            first = str(words).strip().partition(" ")[0]
            parent = (command, first) if command == "state" and first in _commands("state") else (command,)
            for flag in re.findall(r"(?<!\S)--[a-z][a-z-]*", words):
                assert flag in _help(*parent), f"{flag} in: {line}"


@every_document
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join(block.text for block in _blocks(document, "sh"))

    named = re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)
    named += re.findall(r"`make ([a-z-]+)[` ]", _prose(document))

    assert set(named) <= targets


def test_quick_start_is_two_commands() -> None:
    quick_start = _text(README).partition("## Quick start")[2].partition("\n## ")[0]

    assert re.findall(r"^make (\w+)", quick_start, re.MULTILINE) == ["demo", "test"]


# ---- examples ----


@pytest.mark.tools("promtool")
def test_readme_scrape_configuration_is_valid(tmp_path: Path) -> None:
    [block] = _blocks(README, "yaml")
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(block.text.replace("/etc/prometheus/", f"{RULES.parent}/"))

    checked = subprocess.run(
        [tool("promtool"), "check", "config", configuration], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr + checked.stdout
    assert (
        f"{len(re.findall(r'- (?:alert|record): ', RULES.read_text(encoding='utf-8')))} rules found" in checked.stdout
    )


def _configurations() -> Iterator[str]:
    for path in DOCUMENTS.values():
        yield from (block.text for block in _blocks(path, "toml"))
        for block in _blocks(path, "sh"):
            yield from re.findall(r"<<'TOML'\n(.+?)^TOML$", block.text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("configuration", list(_configurations()))
def test_check_accepts_every_example_configuration(configuration: str, tmp_path: Path) -> None:
    of_one_account = re.match(r"# (accounts\.d/\S+)\n", configuration)
    (tmp_path / "config.toml").touch()
    file = tmp_path / (of_one_account[1] if of_one_account else "config.toml")
    file.parent.mkdir(exist_ok=True)
    file.write_text(configuration)
    for name in re.findall(r'auth_token_file = "(.+)"', configuration):
        (file.parent / name).write_text("0123456789abcdef0123456789abcdef")
        (file.parent / name).chmod(0o600)

    checked = warm.run(["exporter", "check", "--offline", "--config", "config.toml"], os.environ, tmp_path)

    assert checked.code == 0, checked.err


# ---- promises ----


def test_readme_is_short() -> None:
    assert len(_text(README).splitlines()) <= _README_LINES


@every_document
def test_unpublished_artefacts_are_called_so(document: Path) -> None:
    """Once they are published: delete this test, and the sentences that it asks for."""
    text = " ".join(_text(document).split())

    if re.search(r"\bghcr\.io/|docker pull|pipx? install sbg-exporter|helm repo add", text):
        assert "published yet" in text
        assert re.search(r"docker build|podman build|make dist", text)


@every_document
def test_versions_in_image_names_are_the_current_one(document: Path) -> None:
    assert set(re.findall(r"/sbg-exporter:(\d[\w.]*)", _text(document))) <= {__version__}


def test_readme_says_that_nothing_is_published_and_how_to_build_it() -> None:
    text = " ".join(_text(README).split())

    assert "no package and no image is published yet" in text
    assert "pip install --no-deps ." in text
    assert "docker build -f deploy/docker/Dockerfile" in text

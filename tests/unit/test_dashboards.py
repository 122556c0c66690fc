"""The dashboards' JSON: that it is what the code builds, and the rules that every panel keeps."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from exporter.metrics.families import FAMILIES, PROCESS_FAMILIES
from grafana.build import FOLDER, dashboards
from grafana.panels import RUNBOOKS

_REPOSITORY: Final = Path(__file__).parents[2]
_LABELS: Final = {family.name: set(family.labels) for family in FAMILIES} | {
    family.name: set(family.labels) for family in PROCESS_FAMILIES
}
_CORE_PANELS: Final = {"bargauge", "heatmap", "row", "stat", "state-timeline", "table", "timeseries"}
"""Panel types that Grafana 11 to 13 bring along, none of them Angular."""
_AGGREGATION: Final = re.compile(r"\b(sum|max|min|count|topk)( by \([^)]*\))? ?$")
_METRIC: Final = re.compile(r"\b(sbg_\w+|process_\w+)(?:\{([^}]*)\})?")

Json = dict[str, Any]


def _dashboards() -> dict[str, Json]:
    return {name: json.loads(text) for name, text in dashboards().items()}


def _panels() -> Iterator[tuple[str, Json]]:
    for name, board in _dashboards().items():
        for panel in board["panels"]:
            if panel["type"] != "row":
                yield f"{name}: {panel['title']}", panel


EVERY_PANEL: Final = dict(_panels())
every_panel = pytest.mark.parametrize("panel", EVERY_PANEL.values(), ids=EVERY_PANEL.keys())
every_dashboard = pytest.mark.parametrize("board", _dashboards().values(), ids=_dashboards().keys())


def _expressions(panel: Json) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def _metrics(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The catalogue's names in *expression*, with the labels that it filters by."""
    for name, filters in _METRIC.findall(expression):
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        yield (family if family in _LABELS else name), set(re.findall(r"(\w+)(?:=~|!=|!~|=)", filters))


def test_the_committed_json_is_what_the_code_builds() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}

    assert committed == dashboards(), "run: python -m grafana.build"


# ---- what every dashboard keeps ----


@every_dashboard
def test_ids_and_letters_are_unique(board: Json) -> None:
    ids = Counter(panel["id"] for panel in board["panels"])

    assert max(ids.values()) == 1
    for panel in board["panels"]:
        letters = [target["refId"] for target in panel.get("targets", [])]
        assert len(letters) == len(set(letters)), panel["title"]


@every_dashboard
def test_panels_lie_side_by_side_on_the_grid(board: Json) -> None:
    taken: set[tuple[int, int]] = set()

    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


@every_dashboard
def test_the_data_source_is_chosen_on_the_page(board: Json) -> None:
    uids = set(re.findall(r'"datasource": \{[^}]*"uid": "([^"]*)"', json.dumps(board)))

    assert board["templating"]["list"][0]["type"] == "datasource"
    assert uids == {"${datasource}"}


@every_dashboard
def test_only_variables_of_the_page_are_used(board: Json) -> None:
    known = {variable["name"] for variable in board["templating"]["list"]} | {"__rate_interval", "__range"}

    for panel in board["panels"]:
        for target in panel.get("targets", []):
            assert set(re.findall(r"\$([a-z_]\w*)", target["expr"])) <= known, panel["title"]


@every_dashboard
def test_firing_alerts_are_marked(board: Json) -> None:
    (annotation,) = board["annotations"]["list"]

    assert 'ALERTS{alertname=~"Sbg.*"' in annotation["expr"]
    assert annotation["enable"]


def test_the_dashboards_have_names_and_addresses_of_their_own() -> None:
    boards = _dashboards().values()

    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == 4
    assert {f"sbg-{name.removesuffix('.json')}" for name in _dashboards()} == {board["uid"] for board in boards}


_MOST_QUERIES: Final = 20
"""What a refresh may ask for: each query of a panel, of a variable and of an annotation, and each for exemplars."""


@every_dashboard
def test_a_refresh_asks_for_little(board: Json) -> None:
    targets = [target for panel in board["panels"] for target in panel.get("targets", [])]
    asked = sum(bool(target.get(kind)) for target in targets for kind in ("instant", "range", "exemplar"))
    variables = [variable for variable in board["templating"]["list"] if variable["type"] == "query"]

    assert asked >= len(targets)
    assert asked + len(variables) + len(board["annotations"]["list"]) <= _MOST_QUERIES


@every_dashboard
def test_no_two_panels_show_the_same(board: Json) -> None:
    expressions = Counter(target["expr"] for panel in board["panels"] for target in panel.get("targets", []))

    assert max(expressions.values()) == 1


@every_dashboard
def test_red_is_for_failures_alone(board: Json) -> None:
    for panel in board["panels"]:
        for override in panel.get("fieldConfig", {}).get("overrides", []):
            colours = [each["value"].get("fixedColor", "") for each in override["properties"] if each["id"] == "color"]
            if any("red" in colour for colour in colours):
                assert override["matcher"]["options"] == "/^failed$/", panel["title"]


# ---- what every panel keeps ----


@every_panel
def test_a_panel_says_what_it_means(panel: Json) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["type"] in _CORE_PANELS


@every_dashboard
def test_titles_are_at_most_four_words_and_no_questions(board: Json) -> None:
    for title in (board["title"], *(panel["title"] for panel in board["panels"])):
        assert len(title.split()) <= 4, title
        assert "?" not in title, title


@every_panel
def test_a_number_has_a_unit(panel: Json) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    if panel["type"] == "table":
        (names,) = [each["options"] for each in panel["transformations"] if each["id"] == "organize"]
        overrides = {each["matcher"]["options"]: each["properties"] for each in panel["fieldConfig"]["overrides"]}
        numbers = [title for source, title in names["renameByName"].items() if source.startswith("Value")]
        assert numbers
        for title in numbers:
            assert "unit" in [each["id"] for each in overrides[title]], title


@every_panel
def test_a_table_shows_or_hides_every_column_on_purpose(panel: Json) -> None:
    if panel["type"] == "table":
        (names,) = [each["options"] for each in panel["transformations"] if each["id"] == "organize"]
        several = len(panel["targets"]) > 1
        values = {f"Value #{target['refId']}" if several else "Value" for target in panel["targets"]}
        assert values | {"Time"} == {
            *names["excludeByName"],
            *(name for name in names["renameByName"] if name.startswith("Value")),
        }


@every_panel
def test_a_panel_asks_only_for_metrics_that_there_are(panel: Json) -> None:
    for expression in _expressions(panel):
        found = list(_metrics(expression))
        assert found, expression
        for name, labels in found:
            if not name.startswith("process_"):
                assert name in _LABELS
                assert labels <= _LABELS[name], f"{name} has no label {labels - _LABELS[name]}"


@every_panel
def test_what_tells_processes_apart_is_aggregated_away(panel: Json) -> None:
    for expression in _expressions(panel):
        for metric in _METRIC.finditer(expression):
            assert any(_AGGREGATION.search(call) for call in _calls_around(expression, metric.start())), metric[0]
        assert not re.search(r"by \([^)]*\b(instance|pod)\b", expression)


def _calls_around(expression: str, position: int) -> Iterator[str]:
    """What stands before each parenthesis that is open at *position*."""
    depth = 0
    for index in range(position - 1, -1, -1):
        if expression[index] == ")":
            depth += 1
        elif expression[index] == "(":
            depth -= 1
            if depth < 0:
                yield expression[:index]
                depth = 0


@every_panel
def test_rates_follow_the_resolution(panel: Json) -> None:
    for target in panel["targets"]:
        step = target.get("interval", "")
        if target.get("range"):  # the latest value has no resolution
            counted = re.sub(r"\[[^]]*\] @ end\(\)", "", target["expr"])  # which series, not what they show
            assert set(re.findall(r"\[([^]]*)\]", counted)) <= {step if step == "$period" else "$__rate_interval"}
        for call, inside in re.findall(r"\b(rate|increase)\(([^()]*)\)", target["expr"]):
            assert "[" in inside, call


@every_panel
def test_exemplars_are_on_where_times_of_jobs_are_drawn(panel: Json) -> None:
    for target in panel["targets"]:
        assert bool(target.get("exemplar")) == ("sbg_job_" in target["expr"] and "_bucket" in target["expr"])


_UNDER_WHITE: Final = {"dark-orange", "red", "transparent", "#8e8e99"}
"""What white words can be read on, in the dark and the light theme."""


@every_panel
def test_words_on_a_coloured_tile_can_be_read(panel: Json) -> None:
    if panel["type"] == "stat":
        drawn = panel["fieldConfig"]["defaults"]
        tiles = [
            {each["id"]: each["value"] for each in tile["properties"]} for tile in panel["fieldConfig"]["overrides"]
        ]
        said = [
            word for tile in (drawn, *tiles) for each in tile.get("mappings", ()) for word in each["options"].values()
        ]
        steps = [step for tile in (drawn, *tiles) for step in tile["thresholds"]["steps"]]
        colours = {step["color"] for step in steps} | {word.get("color") for word in said}

        assert colours - {None} <= _UNDER_WHITE


@every_panel
def test_tiles_look_the_same_on_every_screen(panel: Json) -> None:
    if panel["type"] == "stat" and panel["options"]["textMode"] == "value_and_name":
        assert panel["options"]["wideLayout"] is False  # else the name is beside the number on a wide screen


@pytest.mark.parametrize("name", ["bulk-jobs", "one-account"])
def test_every_failed_job_has_a_value_in_every_column(name: str) -> None:
    """Grafana leaves out columns without any, such as the detection of jobs that failed before counting began."""
    detected, _, finished, codes = _expressions(EVERY_PANEL[f"{name}.json: Failed jobs"])

    for expression in (detected, finished, codes):
        assert re.search(
            r" or (on \([^)]*\) label_replace\(|0 \* )max by \([^)]*\) \(sbg_failed_job_files_failed", expression
        )


@every_panel
def test_only_links_are_blue_in_a_table(panel: Json) -> None:
    if panel["type"] == "table":
        for column in panel["fieldConfig"]["overrides"]:
            looks = {each["id"]: each["value"] for each in column["properties"]}
            words = [word for each in looks.get("mappings", ()) for word in each["options"].values()]
            assert "links" in looks or "blue" not in {word.get("color") for word in words if isinstance(word, dict)}


@pytest.mark.parametrize("name", ["bulk-jobs.json: Finished jobs", "files-and-jobs.json: Jobs per ${period:text}"])
def test_failed_jobs_are_drawn_in_front_of_all_others(name: str) -> None:
    panel = EVERY_PANEL[name]
    (expression,) = _expressions(panel)
    widths = {
        column["matcher"]["options"]: each["value"]
        for column in panel["fieldConfig"]["overrides"]
        for each in column["properties"]
        if each["id"] == "custom.barWidthFactor"
    }

    # Prometheus orders series by their labels, so those with a label "behind" come before the one without.
    assert '"behind", "yes", "outcome", "succeeded|incomplete|lost|partial"' in expression
    assert min(widths, key=widths.__getitem__) == "/^failed$/"


# ---- exceptions from grafana/dashboard-linter, which make lint-dashboards runs ----


_EXCLUSIONS: Final[dict[str, Json]] = yaml.safe_load((FOLDER / ".lint").read_text(encoding="utf-8"))["exclusions"]
_UNITS: Final = {"bytes", "locale", "none", "percentunit", "s", "string"}


def _excluded(rule: str) -> set[tuple[str, str]]:
    return {(each["dashboard"], each["panel"]) for each in _EXCLUSIONS[rule].get("entries", ())}


def test_exceptions_from_the_linter_have_reasons_and_are_of_panels_that_there_are() -> None:
    there = {(board["title"], panel["title"]) for board in _dashboards().values() for panel in board["panels"]}

    for rule, exclusion in _EXCLUSIONS.items():
        assert exclusion["reason"].endswith("."), rule
        assert _excluded(rule) <= there


@every_dashboard
def test_units_are_grafana_s_and_counters_are_of_a_time(board: Json) -> None:
    """Rules of the linter whose exceptions are single panels."""
    for panel in board["panels"]:
        place = (board["title"], panel["title"])
        if panel["type"] != "row" and place not in _excluded("panel-units-rule"):
            assert panel["fieldConfig"]["defaults"]["unit"] in _UNITS, place
        for target in panel.get("targets", []):
            if place not in _excluded("target-counter-agg-rule"):
                for before in re.findall(r"(\w+)\(\w+_total\b", target["expr"]):
                    assert before in {"rate", "increase"}, place


# ---- links ----


def _urls(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "url" and isinstance(inner, str):
                yield inner
            yield from _urls(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _urls(inner)


@every_dashboard
def test_links_lead_somewhere(board: Json) -> None:
    runbooks = (_REPOSITORY / "deploy" / "prometheus" / "RUNBOOKS.md").read_text(encoding="utf-8")
    anchors = {heading.strip().lower() for heading in re.findall(r"^#+ (.*)$", runbooks, re.MULTILINE)}
    uids = {each["uid"] for each in _dashboards().values()}

    for url in _urls(board):
        if url.startswith("/d/"):
            assert url.removeprefix("/d/").partition("?")[0] in uids
        else:
            page, _, anchor = url.partition("#")
            assert page == RUNBOOKS
            assert not anchor or anchor in {*anchors, "${__value.raw}"}, url


@pytest.mark.parametrize(("name", "table"), [("bulk-jobs", "Failed jobs"), ("bulk-jobs", "Unfinished jobs")])
def test_the_id_of_a_job_leads_to_that_job(name: str, table: str) -> None:
    panel = EVERY_PANEL[f"{name}.json: {table}"]
    (job,) = [each for each in panel["fieldConfig"]["overrides"] if each["matcher"]["options"] == "Job"]
    ((link,),) = [each["value"] for each in job["properties"] if each["id"] == "links"]

    path, _, parameters = link["url"].partition("?")

    assert path == "/d/sbg-one-account"
    assert {"var-account=${__data.fields.Account}", "var-job_id=${__data.fields.Job}"} <= set(parameters.split("&"))


def test_what_needs_attention_has_an_account_and_a_unit_so_that_no_column_is_missing() -> None:
    (expression,) = _expressions(EVERY_PANEL["exporter-health.json: Needs attention"])

    problems = re.findall(r'"problem", "([^"]+)"', expression)

    assert problems
    assert len(re.findall(r'"account", "all", "account", ""\)', expression)) == len(problems)
    assert len(re.findall(r'"unit", "[^"]+"', expression)) == len(problems)


def test_what_needs_attention_leads_to_runbooks_that_there_are() -> None:
    runbooks = (_REPOSITORY / "deploy" / "prometheus" / "RUNBOOKS.md").read_text(encoding="utf-8")
    (expression,) = _expressions(EVERY_PANEL["exporter-health.json: Needs attention"])

    named = set(re.findall(r'"runbook", "(\w+)"', expression))

    assert named
    assert named <= {heading.lower() for heading in re.findall(r"^#+ (.*)$", runbooks, re.MULTILINE)}


@every_dashboard
def test_every_dashboard_leads_to_the_others_and_the_runbooks(board: Json) -> None:
    others = {each["uid"] for each in _dashboards().values()} - {board["uid"]}

    pages = {link["url"].partition("?")[0] for link in board["links"]}

    assert pages == {f"/d/{uid}" for uid in others} | {RUNBOOKS}


# ---- documents ----


_MOST_BYTES: Final = 250_000
"""Of a picture, so that the documents open quickly."""


def test_every_picture_is_in_a_document_and_small() -> None:
    shown = set()
    for document in (_REPOSITORY / "README.md", FOLDER.parent / "README.md"):
        shown |= set(re.findall(r"pictures/([\w-]+\.png)\)", document.read_text(encoding="utf-8")))

    pictures = {path.name: path.stat().st_size for path in (FOLDER.parent / "pictures").iterdir()}

    assert pictures.keys() == shown
    assert {name.replace(".json", "-states.png") for name in _dashboards()} <= shown
    assert max(pictures.values()) <= _MOST_BYTES


# ---- provisioning ----


def test_the_provisioning_files_are_of_version_1() -> None:
    files = sorted((FOLDER.parent / "provisioning").rglob("*.yml"))

    assert {path.parent.name for path in files} == {"dashboards", "datasources"}
    for path in files:
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["apiVersion"] == 1

"""Mutation tests: each part of each rule is covered, so a mutated rule fails at least one of promtool's tests."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.rules.mutations import PRESENT, SELECTED, Mutation, Version, earlier, git, present, selected
from tests.rules.rulebook import EVERY_RULE, RULES, TESTS, Rule, alerts_named, alerts_resting_on, load, run_tests

GROUPS: Final = tuple(dict.fromkeys(rule.group for rule in EVERY_RULE))


def written(group: str, mutation: Mutation | None, folder: Path) -> list[Path]:
    """Write one group's rules, with *mutation*, and the tests of the affected alerts to *folder*, as JSON.

    The tests of long absences are omitted because they are slow.
    """
    rules = [dict(rule) for each in load(RULES)["groups"] if each["name"] == group for rule in each["rules"]]
    alerts = {rule["alert"] for rule in rules if "alert" in rule}
    if mutation is not None:
        alerts = alerts_resting_on(mutation.name, EVERY_RULE)
        [rule] = [rule for rule in rules if mutation.name in {rule.get("alert"), rule.get("record")}]
        rule["expr"] = " ".join(rule["expr"].split()).replace(mutation.old, mutation.new)
        if mutation.old == f"for: {rule.get('for')}":
            del rule["for"]
    folder.mkdir()
    (folder / "rules.yml").write_text(json.dumps({"groups": [{"name": group, "rules": rules}]}), encoding="utf-8")
    copies = []
    for path in TESTS:
        cases = [case for case in load(path)["tests"] if alerts & alerts_named(case)]
        if cases and path.name != "long_absence.test.yml":
            copies.append(folder / path.name)
            document = {**load(path), "rule_files": ["rules.yml"], "tests": cases}
            copies[-1].write_text(json.dumps(document), encoding="utf-8")
    return copies


@pytest.mark.tools("promtool")
@pytest.mark.parametrize("mutation", SELECTED, ids=lambda each: f"{each.name}: {each.old} -> {each.new}")
def test_mutated_rule_fails_a_test(mutation: Mutation, tmp_path: Path) -> None:
    [group] = [rule.group for rule in EVERY_RULE if rule.name == mutation.name]

    ended = run_tests(*written(group, mutation, tmp_path / group))

    assert ended.returncode != 0
    assert "FAILED" in ended.stdout + ended.stderr  # A test failed,
    assert "parse error" not in ended.stdout + ended.stderr  # not the parser.


@pytest.mark.tools("promtool")
@pytest.mark.parametrize("group", GROUPS)
def test_unmutated_group_passes_its_tests(group: str, tmp_path: Path) -> None:
    ended = run_tests(*written(group, None, tmp_path / group))

    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_each_mutation_changes_its_rule_and_each_rule_has_mutations() -> None:
    rules = {rule.name: rule for rule in EVERY_RULE}
    for mutation in PRESENT.mutations:
        rule = rules[mutation.name]
        assert mutation.old in rule.expression or mutation.old == f"for: {rule.lasting}", mutation

    spared = {name for name in rules if sum(mutation.name == name for mutation in PRESENT.mutations) < 2}
    assert spared == set()
    assert {rule.name for rule in EVERY_RULE if rule.lasting} == {
        mutation.name for mutation in PRESENT.mutations if mutation.old.startswith("for: ")
    }


# ---- selection of mutations ----


def a_rule(name: str, expression: str, group: str = "g") -> Rule:
    return Rule(group, name, expression, "", {}, {}, alerts=name.startswith("Sbg"))


RULEBOOK: Final = (
    a_rule("a:sbg_x:max", "max(sbg_x)"),
    a_rule("SbgX", "a:sbg_x:max > 1"),
    a_rule("SbgY", "sbg_y > 1", group="h"),
)
WAYS: Final = (
    Mutation("a:sbg_x:max", "max", "min"),
    Mutation("SbgX", "> 1", "> 2"),
    Mutation("SbgY", "> 1", "> 2"),
    Mutation("SbgY", "> 1", "< 1"),
)
CASES: Final = ({"alertname": "SbgX"}, {"alertname": "SbgY"})
NOW: Final = Version(RULEBOOK, CASES, WAYS)


def versions_before(*names: str) -> list[Version]:
    """Return earlier versions, named by what has changed since."""
    known = {
        "nothing": NOW,
        "recorded": NOW._replace(rules=(a_rule("a:sbg_x:max", "max(sbg_z)"), *RULEBOOK[1:])),
        "alert": NOW._replace(rules=(*RULEBOOK[:2], a_rule("SbgY", "sbg_y > 3", group="h"))),
        "test changed": NOW._replace(cases=({"alertname": "SbgX", "eval_time": "1m"}, CASES[1])),
        "test removed": NOW._replace(cases=(*CASES, {"expr": 'ALERTS{alertname="SbgY"}'})),
        "tests reordered": NOW._replace(cases=CASES[::-1]),
        "new in the list": NOW._replace(mutations=WAYS[:3]),
        "gone from the list": NOW._replace(mutations=(*WAYS, Mutation("SbgX", "1", "5"))),
    }
    return [known[name] for name in names]


@pytest.mark.parametrize(
    ("changes", "tried"),
    [
        (["recorded"], [0]),
        (["alert"], [2, 3]),
        (["test changed"], [0, 1]),
        (["test removed"], [2, 3]),
        (["new in the list"], [3]),
        (["recorded", "new in the list"], [0, 3]),
        (["nothing", "alert"], [2, 3]),
        (["nothing"], [0, 2]),
        (["tests reordered", "gone from the list"], [0, 2]),
        ([], [0, 2]),
    ],
    ids=lambda each: ", ".join(map(str, each)) or "none",
)
def test_selection_is_what_changes_affect_or_the_first_of_each_group(
    changes: Sequence[str], tried: Sequence[int]
) -> None:
    assert selected(NOW, versions_before(*changes), full=False) == tuple(WAYS[number] for number in tried)


@pytest.mark.parametrize("changes", [["nothing"], ["alert"], []])
def test_at_full_width_all_are_tried(changes: Sequence[str]) -> None:
    assert selected(NOW, versions_before(*changes), full=True) == WAYS


class Checkout:
    """A repository with three rules, for up to three changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.limits = {"SbgX": 1, "SbgY": 1, "SbgZ": 1}
        (folder / "deploy/prometheus/tests").mkdir(parents=True)
        (folder / "tests/rules").mkdir(parents=True)
        tests = {"tests": [{"alertname": name} for name in self.limits]}
        (folder / "deploy/prometheus/tests/all.test.yml").write_text(json.dumps(tests), encoding="utf-8")
        ways = {name: [{"sbg": "bgs"}] for name in self.limits}
        (folder / "tests/rules/mutations.yml").write_text(json.dumps(ways), encoding="utf-8")
        self.change()

    def change(self, *names: str) -> None:
        """Raise the limits of these alerts."""
        for name in names:
            self.limits[name] += 1
        rules = [{"alert": name, "expr": f"sbg > {limit}"} for name, limit in self.limits.items()]
        document = {"groups": [{"name": "g", "rules": rules}]}
        path = self.folder / "deploy/prometheus/sbg-exporter.rules.yml"
        path.write_text(json.dumps(document), encoding="utf-8")

    def git(self, *arguments: str) -> None:
        """Run git here, independent of the user's configuration."""
        who = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false", "-c", "core.hooksPath=none"]
        assert git(self.folder, *who, *arguments) is not None

    def commit(self) -> None:
        """Commit everything."""
        self.git("add", ".")
        self.git("commit", "-m", "m")

    def tried(self) -> list[str]:
        """Return the alerts whose mutations a test run here tries."""
        return [each.name for each in selected(present(self.folder), earlier(self.folder), full=False)]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path)
    made.git("init", "-b", "main")
    made.commit()
    return made


@pytest.mark.tools("git")
def test_selection_on_main_is_the_last_commit_and_uncommitted_changes(checkout: Checkout) -> None:
    checkout.change("SbgX")
    checkout.commit()
    checkout.change("SbgY")
    checkout.commit()
    checkout.change("SbgZ")

    assert checkout.tried() == ["SbgY", "SbgZ"]


@pytest.mark.tools("git")
def test_selection_on_a_branch_is_what_changed_since_main(checkout: Checkout) -> None:
    checkout.git("checkout", "-b", "branch")
    checkout.change("SbgY")
    checkout.commit()
    checkout.git("commit", "--allow-empty", "-m", "m")
    checkout.git("commit", "--allow-empty", "-m", "m")

    assert checkout.tried() == ["SbgY"]


@pytest.mark.tools("git")
def test_unreadable_earlier_version_is_ignored(checkout: Checkout) -> None:
    rules = checkout.folder / "deploy/prometheus/sbg-exporter.rules.yml"
    rules.write_text("{", encoding="utf-8")
    checkout.commit()
    checkout.change("SbgY")
    checkout.commit()

    assert checkout.tried() == ["SbgX"]


@pytest.mark.tools("git")
def test_selection_without_history_is_the_first_of_each_group(
    checkout: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkout.change("SbgY")
    checkout.commit()
    shallow = tmp_path_factory.mktemp("shallow")
    checkout.git("clone", "--depth", "1", checkout.folder.as_uri(), str(shallow))
    (checkout.folder / "unpacked").mkdir()

    assert selected(present(shallow), earlier(shallow), full=False)[0].name == "SbgX"
    assert Checkout(checkout.folder / "unpacked").tried() == ["SbgX"]


def test_without_git_the_first_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = Checkout(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert checkout.tried() == ["SbgX"]

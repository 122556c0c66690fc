"""Mutations of the rules (mutations.yml), and the selection that a test run tries.

``make test-all`` tries all mutations. Other runs try those that a recent change may affect: mutations of a rule that
changed, or whose tests changed, and mutations that are new in the list. Recent changes are those since the branch left
main, in the last commit (for runs on main), and not yet committed. Without recent changes, or without a Git history, a
run tries the first mutation of each group.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from tests.rules.rulebook import Rule, alerts_named, alerts_resting_on, loaded, rules_of
from tests.width import FULL

ROOT: Final = Path(__file__).parents[2]
_RULES: Final = "deploy/prometheus/sbg-exporter.rules.yml"
_TESTS: Final = "deploy/prometheus/tests"
_MUTATIONS: Final = "tests/rules/mutations.yml"


class Mutation(NamedTuple):
    """Replace all *old* by *new* in the rule *name*. *old* may also be its ``for`` with the duration."""

    name: str
    old: str
    new: str


class Version(NamedTuple):
    """The rules, promtool's tests and the mutations at one commit or now."""

    rules: Sequence[Rule]
    cases: Sequence[Any]
    mutations: Sequence[Mutation]


def mutations_of(document: Mapping[str, Sequence[Mapping[str, str]]]) -> Iterator[Mutation]:
    """Parse mutations.yml."""
    for name, pairs in document.items():
        for pair in pairs:
            for old, new in pair.items():
                yield Mutation(name, old, new)


def concerned(now: Version, before: Version) -> set[Mutation]:
    """Return the mutations affected by changes since *before*."""
    rules = set(map(repr, before.rules))
    changed = {rule.name for rule in now.rules if repr(rule) not in rules}
    cases = {json.dumps(case) for case in now.cases} ^ {json.dumps(case) for case in before.cases}
    retested = {alert for case in cases for alert in alerts_named(case)}
    changed |= {rule.name for rule in now.rules if alerts_resting_on(rule.name, now.rules) & retested}
    known = set(before.mutations)
    return {each for each in now.mutations if each.name in changed or each not in known}


def selected(now: Version, versions: Sequence[Version], *, full: bool) -> tuple[Mutation, ...]:
    """Return the mutations to try: all, those affected by a change since *versions*, or the first of each group."""
    if full:
        return tuple(now.mutations)
    wanted = {each for before in versions for each in concerned(now, before)}
    if not wanted:
        groups = {rule.name: rule.group for rule in now.rules}
        wanted = set({groups[each.name]: each for each in reversed(now.mutations)}.values())
    return tuple(each for each in now.mutations if each in wanted)


def _version(names: Sequence[str], read: Callable[[str], str | None]) -> Version | None:
    """Read a version, with the test files *names*; None if there are no readable rules."""
    rules = read(_RULES)
    if rules is None:
        return None
    try:
        return Version(
            rules=tuple(rules_of(loaded(rules))),
            cases=[case for name in sorted(names) for case in loaded(read(name) or "tests: []")["tests"]],
            mutations=tuple(mutations_of(loaded(read(_MUTATIONS) or "{}"))),
        )
    except yaml.YAMLError:
        return None


def present(root: Path) -> Version:
    """Read the current files in *root*, committed or not."""
    names = [f"{_TESTS}/{path.name}" for path in (root / _TESTS).glob("*.test.yml")]
    version = _version(names, lambda name: (root / name).read_text(encoding="utf-8"))
    assert version is not None
    return version


def git(folder: Path, *arguments: str) -> str | None:
    """Return the output of git in *folder*; None if it fails or is missing."""
    # A Git hook that runs the tests sets GIT_DIR. It would select the hook's repository in any folder.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        ended = subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
        )
    except FileNotFoundError:
        return None
    return ended.stdout if ended.returncode == 0 else None


def _committed(root: Path, commit: str) -> Version | None:
    """Read the files in *root* at a commit; None if there were no readable rules."""
    names = (git(root, "ls-tree", "--name-only", commit, f"{_TESTS}/") or "").split()
    tests = [name for name in names if name.endswith(".test.yml")]
    return _version(tests, lambda name: git(root, "show", f"{commit}:./{name}"))


def earlier(root: Path) -> list[Version]:
    """Read the versions at which the branch left main and at the previous commit, as far as Git has them."""
    left_main = git(root, "merge-base", "HEAD", "origin/main") or git(root, "merge-base", "HEAD", "main")
    commits = (left_main, git(root, "rev-parse", "--verify", "--quiet", "HEAD~1"))
    versions = [_committed(root, commit) for commit in sorted({text.strip() for text in commits if text})]
    return [version for version in versions if version is not None]


PRESENT: Final = present(ROOT)
SELECTED: Final = selected(PRESENT, [] if FULL else earlier(ROOT), full=FULL)

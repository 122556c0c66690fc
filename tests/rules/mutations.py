"""The ways to break the rules (mutations.yml), and which of them a run tries.

A run at full width (``make test-all``) tries them all. Any other tries those that a change may have let through: the
ways to break a rule that has changed, or whose tests have, and those that are new in the list. Changed means: since
the branch left main, or in the last commit (so that main tries what was just put there), or not yet committed. Where
nothing of it has changed, or no history is at hand, it tries the first of each group: whether they are noticed at all.
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
    """In the rule *name*, *old* becomes *new* wherever it stands. ``for`` and its time may be *old* too."""

    name: str
    old: str
    new: str


class Version(NamedTuple):
    """The rules, promtool's tests of them, and the ways to break them, as they stand or once stood."""

    rules: Sequence[Rule]
    cases: Sequence[Any]
    mutations: Sequence[Mutation]


def mutations_of(document: Mapping[str, Sequence[Mapping[str, str]]]) -> Iterator[Mutation]:
    """What mutations.yml says."""
    for name, pairs in document.items():
        for pair in pairs:
            for old, new in pair.items():
                yield Mutation(name, old, new)


def concerned(now: Version, before: Version) -> set[Mutation]:
    """The mutations that what has changed since *before* may have let through."""
    rules = set(map(repr, before.rules))
    changed = {rule.name for rule in now.rules if repr(rule) not in rules}
    cases = {json.dumps(case) for case in now.cases} ^ {json.dumps(case) for case in before.cases}
    retested = {alert for case in cases for alert in alerts_named(case)}
    changed |= {rule.name for rule in now.rules if alerts_resting_on(rule.name, now.rules) & retested}
    known = set(before.mutations)
    return {each for each in now.mutations if each.name in changed or each not in known}


def selected(now: Version, versions: Sequence[Version], *, full: bool) -> tuple[Mutation, ...]:
    """The mutations to try: all, those that a change since any of *versions* concerns, or the first of each group."""
    if full:
        return tuple(now.mutations)
    wanted = {each for before in versions for each in concerned(now, before)}
    if not wanted:
        groups = {rule.name: rule.group for rule in now.rules}
        wanted = set({groups[each.name]: each for each in reversed(now.mutations)}.values())
    return tuple(each for each in now.mutations if each in wanted)


def _version(names: Sequence[str], read: Callable[[str], str | None]) -> Version | None:
    """What stands in the files, the tests among them *names*; None where there are no rules to be read."""
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
    """What stands in the folder *root* now, committed or not."""
    names = [f"{_TESTS}/{path.name}" for path in (root / _TESTS).glob("*.test.yml")]
    version = _version(names, lambda name: (root / name).read_text(encoding="utf-8"))
    assert version is not None
    return version


def git(folder: Path, *arguments: str) -> str | None:
    """What git says in a *folder*; None where it fails or there is no git."""
    # Without what a hook that runs the tests inherits: it would name the hook's repository wherever git is started.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        ended = subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
        )
    except FileNotFoundError:
        return None
    return ended.stdout if ended.returncode == 0 else None


def _committed(root: Path, commit: str) -> Version | None:
    """What stood in the folder *root* at a commit; None where there were no rules to be read."""
    names = (git(root, "ls-tree", "--name-only", commit, f"{_TESTS}/") or "").split()
    tests = [name for name in names if name.endswith(".test.yml")]
    return _version(tests, lambda name: git(root, "show", f"{commit}:./{name}"))


def earlier(root: Path) -> list[Version]:
    """What stood in *root* where its branch left main, and at the commit before; none of it where git knows of none."""
    left_main = git(root, "merge-base", "HEAD", "origin/main") or git(root, "merge-base", "HEAD", "main")
    commits = (left_main, git(root, "rev-parse", "--verify", "--quiet", "HEAD~1"))
    versions = [_committed(root, commit) for commit in sorted({text.strip() for text in commits if text})]
    return [version for version in versions if version is not None]


PRESENT: Final = present(ROOT)
SELECTED: Final = selected(PRESENT, [] if FULL else earlier(ROOT), full=FULL)

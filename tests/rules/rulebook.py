"""The files of deploy/prometheus as the tests of the rules read them, here and as they stood at another commit."""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from tests.tools import tool

FOLDER: Final = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES: Final = FOLDER / "sbg-exporter.rules.yml"
TESTS: Final = sorted((FOLDER / "tests").glob("*.test.yml"))

_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast where PyYAML was built with libyaml."""


class Rule(NamedTuple):
    """One rule, as it stands in the file, its expression on one line."""

    group: str
    name: str
    expression: str
    lasting: str
    annotations: Mapping[str, str]
    labels: Mapping[str, str]
    alerts: bool


@cache
def loaded(text: str) -> Any:  # noqa: ANN401  # whatever the text says
    """What a text of YAML says. A series that begins with ``0x`` is quoted in it: PyYAML takes it for hexadecimal."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506  # safe, either of them


def load(path: Path) -> Any:  # noqa: ANN401  # whatever the file says
    """What a file of YAML says."""
    return loaded(path.read_text(encoding="utf-8"))


def rules_of(document: Mapping[str, Any]) -> Iterator[Rule]:
    """The rules of a file of rules, in their order."""
    for group in document["groups"]:
        for rule in group["rules"]:
            yield Rule(
                group=group["name"],
                name=rule.get("alert") or rule["record"],
                expression=" ".join(rule["expr"].split()),
                lasting=rule.get("for", ""),
                annotations=rule.get("annotations", {}),
                labels=rule.get("labels", {}),
                alerts="alert" in rule,
            )


EVERY_RULE: Final = tuple(rules_of(load(RULES)))
ALERTS: Final = tuple(rule for rule in EVERY_RULE if rule.alerts)


def alerts_named(case: Any) -> set[str]:  # noqa: ANN401  # a test of promtool, or any part of one
    """The alerts that a test of promtool names."""
    return set(re.findall(r"\bSbg\w+", json.dumps(case)))


def alerts_resting_on(name: str, rules: Sequence[Rule]) -> set[str]:
    """The alerts that say anything of a rule: itself, or those that rest on what it records."""
    names = {name}
    for rule in rules:  # in order: nothing rests on what is recorded later
        if any(":" in each and each in rule.expression for each in names):
            names.add(rule.name)
    return names & {rule.name for rule in rules if rule.alerts}


def run_tests(*files: Path) -> subprocess.CompletedProcess[str]:
    """What promtool says to these files of tests: one process for all of them, on at most two cores."""
    return subprocess.run(
        [tool("promtool"), "test", "rules", *files],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "GOMAXPROCS": "2"},
    )

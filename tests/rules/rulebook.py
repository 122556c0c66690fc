"""Read the rules of deploy/prometheus and promtool's tests, now and at other commits."""

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
"""Ten times as fast as the Python loader, if PyYAML was built with libyaml."""


class Rule(NamedTuple):
    """One rule of the file, with its expression on one line."""

    group: str
    name: str
    expression: str
    lasting: str
    annotations: Mapping[str, str]
    labels: Mapping[str, str]
    alerts: bool


@cache
def loaded(text: str) -> Any:  # noqa: ANN401  # arbitrary YAML
    """Parse YAML. Series that begin with ``0x`` must be quoted: PyYAML reads them as hexadecimal numbers."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506  # both loaders are safe


def load(path: Path) -> Any:  # noqa: ANN401  # arbitrary YAML
    """Parse a YAML file."""
    return loaded(path.read_text(encoding="utf-8"))


def rules_of(document: Mapping[str, Any]) -> Iterator[Rule]:
    """Return the rules of a rule file, in order."""
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


def alerts_named(case: Any) -> set[str]:  # noqa: ANN401  # a promtool test, or any part of one
    """Return the alerts named in a promtool test."""
    return set(re.findall(r"\bSbg\w+", json.dumps(case)))


def alerts_resting_on(name: str, rules: Sequence[Rule]) -> set[str]:
    """Return the alerts that depend on the rule *name*, directly or through recording rules."""
    names = {name}
    for rule in rules:  # In file order: a rule depends on earlier rules only.
        if any(":" in each and each in rule.expression for each in names):
            names.add(rule.name)
    return names & {rule.name for rule in rules if rule.alerts}


def run_tests(*files: Path) -> subprocess.CompletedProcess[str]:
    """Run promtool on these test files, in one process with at most two cores."""
    return subprocess.run(
        [tool("promtool"), "test", "rules", *files],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "GOMAXPROCS": "2"},
    )

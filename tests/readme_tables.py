"""The README's tables of metrics, settings and alerts, from the code and the rules that know them.

``python -m tests.readme_tables`` prints them; with ``--write README.md`` they replace what stands between the markers
``<!-- metrics -->`` … ``<!-- /metrics -->`` of that file, and likewise for ``settings`` and ``alerts``.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from exporter.config.settings import Settings
from exporter.metrics.families import FAMILIES, PROCESS_FAMILIES, Family, ProcessFamily, Section

_RULES = Path(__file__).parents[1] / "deploy" / "prometheus"
_UNSHOWN = {"accounts"}
"""Settings that are tables of their own."""
_UNITS = (("d", 86400), ("h", 3600), ("m", 60))


def metrics() -> str:
    """A table of metrics for each section, under its heading."""
    families: tuple[Family | ProcessFamily, ...] = (*FAMILIES, *PROCESS_FAMILIES)
    parts = []
    for section in Section:
        rows = [
            (f"`{family.name}`", str(family.type), ", ".join(f"`{label}`" for label in family.labels), family.help)
            for family in families
            if family.section is section
        ]
        if section is Section.EXPORTER:
            rows.append(("`process_*`, `python_*`", "", "", "The process, from Prometheus' own client library."))
        parts.append(f"**{section}**\n\n{_table(('metric', 'type', 'labels', 'meaning'), rows)}")
    return "\n".join(parts)


def settings() -> str:
    """The table of settings."""
    return _table(
        ("key", "default", "meaning"),
        (
            (f"`{key}`", _default(key, field.default), field.description or "")
            for key, field in Settings.model_fields.items()
            if key not in _UNSHOWN
        ),
    )


def alerts() -> str:
    """The table of alerts: each with the first sentence of its runbook."""
    groups = yaml.safe_load((_RULES / "sbg-exporter.rules.yml").read_text(encoding="utf-8"))["groups"]
    runbooks = (_RULES / "RUNBOOKS.md").read_text(encoding="utf-8")
    return _table(
        ("alert", "severity", "for", "meaning"),
        (
            (
                f"[`{name}`](deploy/prometheus/RUNBOOKS.md#{name.lower()})",
                rule["labels"]["severity"],
                rule.get("for", "0m"),
                _first_sentence(runbooks.partition(f"## {name}\n\n### Symptom\n\n")[2]),
            )
            for group in groups
            for rule in group["rules"]
            if (name := rule.get("alert"))
        ),
    )


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s", text.partition("\n\n")[0], maxsplit=1)[0].replace("\n", " ")


def written(readme: str) -> str:
    """*readme* with the tables between its markers.

    Raises:
        ValueError: markers are missing, or there more than once.
    """
    for name, table in (("metrics", metrics()), ("settings", settings()), ("alerts", alerts())):
        pattern = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
        if len(pattern.findall(readme)) != 1:
            raise ValueError(f"there must be one <!-- {name} --> and one <!-- /{name} --> after it")
        [old] = pattern.finditer(readme)
        readme = f"{readme[: old.start()]}\n{table}\n{readme[old.end() :]}"
    return readme


def _default(key: str, value: object) -> str:
    annotation = str(Settings.model_fields[key].metadata)
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return " ".join(f"{each:g}" for each in value)
    if isinstance(value, float) and "seconds" in annotation:
        return f"`{_duration(value)}`"
    return f"`{value}`"


def _duration(seconds: float) -> str:
    """In the largest unit that leaves more than one of it, as people write durations."""
    for unit, size in _UNITS:
        if seconds > size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    def lines() -> Iterator[tuple[str, ...]]:
        yield columns
        yield ("---",) * len(columns)
        yield from rows

    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in lines())


def main() -> int:
    """Print the tables, or write them into a file; the exit code."""
    parser = argparse.ArgumentParser(description="The README's tables of metrics and settings.")
    parser.add_argument("--write", type=Path, metavar="README.md", help="write them between the markers of this file")
    arguments = parser.parse_args()
    if arguments.write is None:
        sys.stdout.write(f"{metrics()}\n{settings()}\n{alerts()}")
        return 0
    readme: Path = arguments.write
    readme.write_text(written(readme.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

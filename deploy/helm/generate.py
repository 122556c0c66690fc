"""What the chart repeats of the rest of the project, and its table of values: ``python -m deploy.helm.generate``.

A chart can read only its own files, so the dashboards and the rules are copied; a test says when the copies are old.
"""  # noqa: INP001  # a folder of charts, not a package

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from deploy.kubernetes.generate import dashboards, rule_groups, with_version, write
from exporter.settings import Settings

CHART: Final = Path(__file__).parent / "sbg-exporter"
NOT_SETTINGS: Final = {"accounts", "listen", "state_file", "profiles"}
"""Keys of the configuration file that the chart itself writes, or that have no place in a pod."""
_DURATION: Final = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*[smhd]?\s*$"},
    ]
}
_BOUNDS: Final = {"gt": "exclusiveMinimum", "ge": "minimum", "le": "maximum"}
"""How pydantic and JSON Schema call them."""
_KEY: Final = re.compile(r"( *)([A-Za-z]\w*):")


def made() -> dict[Path, str]:
    """Every file that this script makes, and what it is to say."""
    chart, readme, schema = (CHART / name for name in ("Chart.yaml", "README.md", "values.schema.json"))
    return {
        chart: with_version(chart.read_text(encoding="utf-8"), "version", "appVersion"),
        schema: _with_settings(schema.read_text(encoding="utf-8")),
        readme: _with_values(readme.read_text(encoding="utf-8"), (CHART / "values.yaml").read_text(encoding="utf-8")),
        CHART / "files" / "rules.yaml": rule_groups(),
        **{CHART / "files" / "dashboards" / name: text for name, text in dashboards().items()},
    }


def documented(values: str) -> Iterator[tuple[str, str]]:
    """The key, with those it is in, and the comment, of every key of *values* that has one directly above it."""
    path: list[str] = []
    comment: list[str] = []
    for line in values.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip(" #"))
            continue
        if match := _KEY.match(line):
            path = [*path[: len(match[1]) // 2], match[2]]
            if comment:
                yield ".".join(path), " ".join(comment)
        comment = []


def _with_values(readme: str, values: str) -> str:
    defaults = yaml.safe_load(values)
    rows = ["| key | default | meaning |", "| --- | --- | --- |"]
    for key, meaning in documented(values):
        default = defaults
        for part in key.split("."):
            default = default[part]
        rows.append(f"| `{key}` | `{json.dumps(default)}` | {meaning} |")
    table = "\n".join(rows)
    return re.sub(r"(?<=<!-- values -->\n).*?(?=<!-- /values -->)", lambda _: f"\n{table}\n\n", readme, flags=re.DOTALL)


def _with_settings(schema: str) -> str:
    whole = json.loads(schema)
    whole["properties"]["settings"]["properties"] = {
        key: {**_type(field), "description": field.description}
        for key, field in Settings.model_fields.items()
        if key not in NOT_SETTINGS
    }
    return json.dumps(whole, indent=2) + "\n"


def _type(field: FieldInfo) -> dict[str, object]:
    """What the chart lets through as such a setting; the exporter itself then looks closer."""
    wanted = field.annotation
    if get_origin(wanted) is Literal:
        return {"enum": list(get_args(wanted))}
    if get_origin(wanted) is tuple:
        return {"type": "array", "items": _DURATION, "minItems": 1}
    if wanted is float and "seconds" in str(field.metadata):
        return dict(_DURATION)
    kinds: dict[object, str] = {bool: "boolean", int: "integer", float: "number"}
    bounds = {
        word: getattr(each, name) for each in field.metadata for name, word in _BOUNDS.items() if hasattr(each, name)
    }
    return {"type": kinds.get(wanted, "string"), **bounds}


def main() -> int:
    """Write all of it."""
    write(CHART, made())
    return 0


if __name__ == "__main__":
    sys.exit(main())

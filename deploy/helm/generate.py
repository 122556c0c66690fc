"""Generate the chart's copies of project files and its table of values: ``python -m deploy.helm.generate``.

A chart can read only its own files, so this script copies the dashboards and the rules. A test fails if the copies are
out of date.
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
from exporter.config.settings import Settings, is_duration

CHART: Final = Path(__file__).parent / "sbg-exporter"
NOT_SETTINGS: Final = {"accounts", "listen", "state_file", "profiles", "web_config_file"}
"""Keys of the configuration file that the chart writes itself, or that make no sense in a pod."""
_DURATION: Final = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*[smhd]?\s*$"},
    ]
}
_BOUNDS: Final = {"gt": "exclusiveMinimum", "ge": "minimum", "le": "maximum"}
"""Names of bounds in pydantic, and in JSON Schema."""
_KEY: Final = re.compile(r"( *)([A-Za-z]\w*):")


def made() -> dict[Path, str]:
    """Return the text of every generated file by path."""
    chart, readme, schema = (CHART / name for name in ("Chart.yaml", "README.md", "values.schema.json"))
    return {
        chart: with_version(chart.read_text(encoding="utf-8"), "version", "appVersion"),
        schema: _with_settings(schema.read_text(encoding="utf-8")),
        readme: _with_values(readme.read_text(encoding="utf-8"), (CHART / "values.yaml").read_text(encoding="utf-8")),
        CHART / "files" / "rules.yaml": rule_groups(),
        **{CHART / "files" / "dashboards" / name: text for name, text in dashboards().items()},
    }


def documented(values: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted path and the comment of every key of *values* with a comment directly above it."""
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
    """Return the JSON Schema type of a setting; the exporter validates its value further."""
    wanted = field.annotation
    if get_origin(wanted) is Literal:
        return {"enum": list(get_args(wanted))}
    if get_origin(wanted) is tuple:
        return {"type": "array", "items": _DURATION, "minItems": 1}
    if is_duration(field):
        return dict(_DURATION)
    kinds: dict[object, str] = {bool: "boolean", int: "integer", float: "number"}
    bounds = {
        word: getattr(each, name) for each in field.metadata for name, word in _BOUNDS.items() if hasattr(each, name)
    }
    return {"type": kinds.get(wanted, "string"), **bounds}


def main() -> int:
    """Write all generated files."""
    write(CHART, made())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Generate the chart's copies of project files and its tables of values: ``python -m deploy.helm.generate``.

A chart can read only its own files, so this script copies the dashboards, the rules and the platforms' addresses. The
settings, the names of the alerts and the comments of ``values.yaml`` go into the schema of the values. A test fails if
anything is out of date.
"""  # noqa: INP001  # a folder of charts, not a package

import json
import re
import sys
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Final, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from deploy.kubernetes.generate import dashboards, rule_groups, with_version, write
from exporter import __version__
from exporter.api.platforms import SHORT_NAMES, web_addresses
from exporter.config.own_settings import OwnSettings
from exporter.config.settings import Settings, is_duration

CHART: Final = Path(__file__).parent / "sbg-exporter"
NOT_SETTINGS: Final = {"accounts", "listen", "state_file", "profiles", "web_config_file"}
"""Keys of the configuration file that the chart writes itself, or that make no sense in a pod."""
_DURATION: Final = {
    "type": ["number", "string"],
    "minimum": 0,
    "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*[smhd]?\s*$",
}
_CUSTOM_RULE: Final = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "for": {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d|w|y))+$"},
        "severity": {"type": "string", "minLength": 1},
    },
}
"""What the values may change of an alert."""
_BOUNDS: Final = {"gt": "exclusiveMinimum", "ge": "minimum", "le": "maximum"}
"""Names of bounds in pydantic, and in JSON Schema."""
_KEY: Final = re.compile(r"( *)([A-Za-z]\w*):")


def made() -> dict[Path, str]:
    """Return the text of every generated file by path."""
    chart, readme, schema = (CHART / name for name in ("Chart.yaml", "README.md", "values.schema.json"))
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    about = with_version(chart.read_text(encoding="utf-8"), "version", "appVersion")
    return {
        chart: re.sub(r"(/sbg-exporter:|/tag/v|Installs sbg-exporter )\S+", rf"\g<1>{__version__}", about),
        schema: _schema(schema.read_text(encoding="utf-8"), values),
        readme: _with_values(readme.read_text(encoding="utf-8"), values),
        CHART / "files" / "rules.yaml": rule_groups(),
        CHART / "files" / "platforms.yaml": yaml.safe_dump(_platforms(), sort_keys=False),
        **{CHART / "files" / "dashboards" / name: text for name, text in dashboards().items()},
    }


def _platforms() -> Mapping[str, object]:
    """The hosts of all APIs, and the web addresses that are taken for them."""
    web = web_addresses()
    return {
        "apis": sorted({*SHORT_NAMES, *(api for _, api, _ in web)}),
        "web": [{"host": host, "api": api, "subdomains": subdomains} for host, api, subdomains in web],
    }


def documented(values: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted path and the comment of every key of *values* with a comment directly above it."""
    path: list[str] = []
    comment: list[str] = []
    for line in values.splitlines():
        if line.lstrip().startswith("# "):
            comment.append(line.lstrip(" #"))
            continue
        if match := _KEY.match(line):
            path = [*path[: len(match[1]) // 2], match[2]]
            if comment:
                yield ".".join(path), " ".join(comment)
        comment = []


def sections(values: str) -> Iterator[tuple[str, str]]:
    """Yield the title and the text of every section of *values*, each of which begins with ``## ``."""
    for section in values.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        yield title, text


def _with_values(readme: str, values: str) -> str:
    defaults = yaml.safe_load(values)
    rows: list[str] = []
    for title, text in sections(values):
        rows += [f"### {title}", "", "| key | default | meaning |", "| --- | --- | --- |"]
        for key, meaning in documented(text):
            default = reduce(getitem, key.split("."), defaults)
            rows.append(f"| `{key}` | `{json.dumps(default)}` | {meaning} |")
        rows.append("")
    tables = "\n".join(rows)
    return re.sub(r"(?<=<!-- values -->\n).*?(?=<!-- /values -->)", lambda _: f"\n{tables}\n", readme, flags=re.DOTALL)


def _schema(schema: str, values: str) -> str:
    whole = json.loads(schema)
    for key, meaning in documented(values):
        *parents, last = key.split(".")
        within = reduce(lambda inner, part: inner["properties"][part], parents, whole)
        within["properties"][last]["description"] = meaning
    whole["properties"]["settings"]["properties"] = {
        key: {**_type(field), "description": field.description}
        for key, field in Settings.model_fields.items()
        if key not in NOT_SETTINGS
    }
    account = whole["properties"]["accounts"]["items"]["properties"]
    for key in OwnSettings._fields:
        account[_camel_case(key)] = whole["properties"]["settings"]["properties"][key]
    rule = whole["properties"]["prometheusRule"]["properties"]
    rule["disabled"]["properties"] = {name: {"type": "boolean"} for name in alerts()}
    rule["customRules"]["properties"] = dict.fromkeys(alerts(), _CUSTOM_RULE)
    return json.dumps(whole, indent=2) + "\n"


def _camel_case(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(word.capitalize() for word in rest)


def alerts() -> list[str]:
    """Return the names of the alerts."""
    groups = yaml.safe_load(rule_groups())["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]


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

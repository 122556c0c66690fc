"""The tables of the documents that code or rules already know: ``python -m tests.doc_tables`` writes them.

Each replaces what stands between its markers, ``<!-- metrics -->`` and ``<!-- /metrics -->`` for instance. The words
for error codes are written into an alert too.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from enum import StrEnum
from pathlib import Path
from typing import Final, get_type_hints

import msgspec
import yaml
from pydantic.fields import FieldInfo

from exporter.api.error_codes import ERROR_CODES
from exporter.api.platforms import PLATFORMS, Platform
from exporter.config.own_settings import OwnSettings
from exporter.config.settings import NEEDS_RESTART, Settings, default_text
from exporter.metrics.families import FAMILIES, PROCESS_FAMILIES, Family, ProcessFamily, Section, Type
from exporter.simulator import control, faults
from exporter.simulator.platform import Behaviour
from exporter.simulator.scripts import JobScript
from exporter.simulator.settings import SimulatorSettings
from tests import fault_table

REPOSITORY: Final = Path(__file__).parents[1]
RULES: Final = REPOSITORY / "deploy" / "prometheus" / "sbg-exporter.rules.yml"
RUNBOOKS: Final = RULES.with_name("RUNBOOKS.md")
_WIDTH: Final = 120
"""Of the rules' lines."""
_NOT_IN_TABLE: Final = {"accounts"}
"""Settings that are tables of their own."""
_ON_COMMAND_LINE: Final = ("listen", "seed", "speed", "jobs", "rate", "order", "token", "chaos")

QUERIES: Final[Mapping[str, str]] = {
    "sbg_jobs": 'sum by (account) (max by (account, operation, state) (sbg_jobs{state!="finished"}))',
    "sbg_jobs_files_failed": "max by (account, operation, state) (sbg_jobs_files_failed) > 0",
    "sbg_jobs_finished_total": "max by (account, operation, outcome) (sbg_jobs_finished_total)",
    "sbg_files_failed_total": (
        "max by (account, operation) (sbg_files_failed_total / (sbg_files_failed_total + sbg_files_completed_total))"
    ),
    "sbg_unfinished_job_progress_timestamp_seconds": (
        "time() - max by (account, job_id) (sbg_unfinished_job_progress_timestamp_seconds) > 1800"
    ),
    "sbg_unfinished_job_files_completed": (
        "max by (account, job_id) (sbg_unfinished_job_files_completed / sbg_unfinished_job_files_expected)"
    ),
    "sbg_failed_job_detected_timestamp_seconds": (
        "max by (account, job_id) (last_over_time(sbg_failed_job_detected_timestamp_seconds[20m])) > time() - 900"
    ),
    "sbg_failed_job_files_failed": "max by (account, operation, job_id) (sbg_failed_job_files_failed) > 0",
    "sbg_failed_job_errors": "topk by (account) (5, max by (account, job_id, code) (sbg_failed_job_errors))",
    "sbg_exporter_job_series_hidden": "max by (account, kind) (sbg_exporter_job_series_hidden) > 0",
    "sbg_up": "max by (account) (sbg_up) == 0",
    "sbg_auth_ok": "max by (account) (sbg_auth_ok) == 0",
    "sbg_maintenance": "max by (account) (sbg_maintenance) == 1",
    "sbg_account_info": (
        "max by (account) (sbg_up) * on (account) group_left (username) max by (account, username) (sbg_account_info)"
    ),
    "sbg_exporter_polls_total": (
        'max by (account, result) (increase(sbg_exporter_polls_total{result!="success"}[1h])) > 0'
    ),
    "sbg_exporter_rate_limit_remaining": (
        "max by (account) (sbg_exporter_rate_limit_remaining / sbg_exporter_rate_limit)"
    ),
    "sbg_exporter_rate_limit_reset_timestamp_seconds": (
        "max by (account) (sbg_exporter_rate_limit_reset_timestamp_seconds) - time()"
    ),
    "sbg_exporter_allowance_used_requests": (
        "max by (account) (sbg_exporter_allowance_used_requests / sbg_exporter_allowance_requests)"
    ),
    "sbg_exporter_waiting": "max by (account, reason) (sbg_exporter_waiting) == 1",
    "sbg_exporter_state_writable": "min by (instance) (sbg_exporter_state_writable) == 0",
    "sbg_exporter_state_write_failures_total": "increase(sbg_exporter_state_write_failures_total[10m]) > 0",
}
"""Example queries that say more than what :func:`query` makes of a family's type."""


# ---- the tables ----


def metrics() -> str:
    """A table of metrics for each section, and a query for each metric."""
    families: tuple[Family | ProcessFamily, ...] = (*FAMILIES, *PROCESS_FAMILIES)
    parts = []
    for section in Section:
        here = [family for family in families if family.section is section]
        rows = [(_code(each.name), str(each.type), ", ".join(map(_code, each.labels)), each.help) for each in here]
        if section is Section.EXPORTER:
            rows.append(("`process_*`, `python_*`", "", "", "The process, from Prometheus' own client library."))
        queries = "".join(f"{query(family)}\n" for family in here)
        parts.append(
            f"## {section}\n\n{_table(('metric', 'type', 'labels', 'meaning'), rows)}\n```promql\n{queries}```\n"
        )
    return "\n".join(parts)


def query(family: Family | ProcessFamily) -> str:
    """An example of what to ask Prometheus for."""
    if family.name in QUERIES:
        return QUERIES[family.name]
    by = f"by ({', '.join(family.labels or ('instance',))})"
    match family.type:
        case Type.COUNTER:
            return f"max {by} (rate({family.name}[5m]))"
        case Type.HISTOGRAM:
            return f"histogram_quantile(0.9, sum by (account, le) (rate({family.name}_bucket[1h])))"
        case _ if family.name.endswith("_timestamp_seconds"):
            return f"time() - max {by} ({family.name})"
        case _:
            return f"max {by} ({family.name})"


def settings() -> str:
    """The table of settings."""
    return _table(
        ("key", "default", "meaning", "reload"),
        (
            (_code(key), _default(field), (field.description or "") + _own(key), _reload(key))
            for key, field in Settings.model_fields.items()
            if key not in _NOT_IN_TABLE
        ),
    )


def _own(key: str) -> str:
    return "; an account may have its own" if key in OwnSettings._fields else ""


def _reload(key: str) -> str:
    if key == "web_config_file":
        return "live, but a restart turns TLS on and protection off"
    return "restart" if key in NEEDS_RESTART else "live"


def alerts() -> str:
    """The table of alerts: each with the first sentence of its runbook."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    runbooks = RUNBOOKS.read_text(encoding="utf-8")
    return _table(
        ("alert", "severity", "for", "meaning"),
        (
            (
                f"[`{name}`]({RUNBOOKS.name}#{name.lower()})",
                rule["labels"]["severity"],
                rule.get("for", "0m"),
                _first_sentence(runbooks.partition(f"## {name}\n\n### Symptom\n\n")[2]),
            )
            for group in groups
            for rule in group["rules"]
            if (name := rule.get("alert"))
        ),
    )


def platforms() -> str:
    """The table of platforms."""
    rows = (
        (each.title, _code(each.name), _code(each.endpoint), f"<{each.web}>", _token_page(each)) for each in PLATFORMS
    )
    return _table(("platform", "name", "API endpoint", "web address", "token page"), rows)


def _token_page(platform: Platform) -> str:
    return f"<{platform.token_page}>" if platform.token_page else "menu *Developer*"


def error_codes() -> str:
    """The platform's error codes."""
    rows = ((_code(code), each.words, each.source) for code, each in ERROR_CODES.items())
    return _table(("code", "meaning", "listed by the platform under"), rows)


def simulator_options() -> str:
    """The simulator's flags."""
    return _table(
        ("flag", "default", "meaning"),
        (
            (_code(f"--{each.name}"), "" if each.default is MISSING else _code(each.default), each.metadata["help"])
            for each in fields(SimulatorSettings)
            if each.name in _ON_COMMAND_LINE
        ),
    )


def simulator_control() -> str:
    """The simulator's control requests, from the docstring that describes them."""
    rows: list[list[str]] = []
    for line in str(control.__doc__).splitlines():
        if match := re.match(r"([A-Z]+) +(/simulator\S*) +(.+)", line):
            rows.append([f"{match[1]} {match[2]}", match[3]])
        elif rows and line.startswith(" "):
            rows[-1][1] += f" {line.strip()}"
    return _table(("request", "body and meaning"), ((_code(request), _markdown(text)) for request, text in rows))


def simulator_faults() -> str:
    """The simulator's faults and how often chaos draws them."""
    rows = re.findall(r"^``(\w+)`` +(\d+) +(\d+) +(\d+) +(.+)$", str(faults.__doc__), re.MULTILINE)
    return _table(
        ("fault", "level 1", "level 2", "level 3", "what the client gets"),
        ((_code(kind), *often, _markdown(text)) for kind, *often, text in rows),
    )


def struct(described: type[msgspec.Struct]) -> str:
    """The fields of a struct, as the texts below them describe them; choices as their type does."""
    [body] = ast.parse(textwrap.dedent(inspect.getsource(described))).body
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for field, below in zip(body.body, (*body.body[1:], None), strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
            texts[field.target.id] = str(text)
    hints = get_type_hints(described)
    rows = []
    for each in msgspec.structs.fields(described):
        meaning, kind = texts[each.name], hints[each.name]
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            meaning = f"{meaning or kind.__doc__} One of {', '.join(map(_code, kind))}."
        required = each.default is msgspec.NODEFAULT
        default = "" if required or each.default is None else _code(msgspec.to_builtins(each.default))
        rows.append((_code(each.name), default, _markdown(meaning)))
    return _table(("field", "default", "meaning"), rows)


def fault_costs() -> str:
    """A table of faults for each part that fails: what is done about each fault, and what it costs."""
    return "\n".join(f"### {part}\n\n{_table(fault_table.COLUMNS, rows)}" for part, rows in fault_table.tables())


TABLES: Final[Mapping[str, Mapping[str, Callable[[], str]]]] = {
    "exporter/metrics/README.md": {"metrics": metrics},
    "exporter/config/README.md": {"settings": settings, "platforms": platforms},
    "exporter/simulator/README.md": {
        "options": simulator_options,
        "control": simulator_control,
        "script": lambda: struct(JobScript),
        "faults": simulator_faults,
        "fault": lambda: struct(faults.Fault),
        "behaviour": lambda: struct(Behaviour),
    },
    "deploy/prometheus/README.md": {"alerts": alerts},
    "tests/README.md": {"faults": fault_costs},
    "deploy/prometheus/RUNBOOKS.md": {"codes": error_codes},
}
"""Document to the tables in it, by the names of their markers."""


# ---- into the documents ----


def made() -> dict[Path, str]:
    """Every document with tables, and the alerting rules, and what they are to say."""
    documents = {
        (path := REPOSITORY / name): filled(path.read_text(encoding="utf-8"), tables) for name, tables in TABLES.items()
    }
    return documents | {RULES: with_error_words(RULES.read_text(encoding="utf-8"))}


def filled(document: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """*document* with *tables* between their markers.

    Raises:
        ValueError: markers are missing, or there more than once.
    """
    for name, table in tables.items():
        pattern = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
        if len(pattern.findall(document)) != 1:
            raise ValueError(f"there must be one <!-- {name} --> and one <!-- /{name} --> after it")
        [old] = pattern.finditer(document)
        document = f"{document[: old.start()]}\n{table()}\n{document[old.end() :]}"
    return document


def with_error_words(rules: str) -> str:
    """*rules* with the words for all error codes in the alert that looks them up.

    They are a string in the alert's template, between a line that ends in ``$words := "`` and one that ends it.

    Raises:
        ValueError: there is no such string, or several.
    """
    found = re.findall(r'^( +)\{\{- \$words := "\n((?: +[^\n"]*\n)+) +" \}\}$', rules, re.MULTILINE)
    if len(found) != 1:
        raise ValueError("there must be one table of words for error codes in the rules")
    [(margin, old)] = found
    words = f"; {'; '.join(f'{code} {each.words}' for code, each in ERROR_CODES.items())};"
    lines = textwrap.wrap(words, _WIDTH - len(margin), break_long_words=False, break_on_hyphens=False)
    return rules.replace(old, "".join(f"{margin}{line}\n" for line in lines))


# ---- cells ----


def _code(text: object) -> str:
    return f"`{text}`"


def _markdown(text: str) -> str:
    """A docstring's text as Markdown: code in single backticks."""
    return " ".join(text.replace("``", "`").split())


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s", text.partition("\n\n")[0], maxsplit=1)[0].replace("\n", " ")


def _default(field: FieldInfo) -> str:
    text = default_text(field)
    if isinstance(field.default, bool):
        text = text.lower()
    return text if isinstance(field.default, tuple) or not text else _code(text)


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    def lines() -> Iterator[tuple[str, ...]]:
        yield columns
        yield ("---",) * len(columns)
        yield from rows

    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in lines())


def main() -> int:
    """Write the tables into their documents; the exit code."""
    for path, text in made().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

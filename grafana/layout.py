"""Layout of dashboards: rows of panels from left to right, with shared variables, links and annotations."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from exporter.api.models import Operation
from grafana import theme
from grafana.panels import DATASOURCE, RUNBOOKS, AnyPanel

TAG: Final = "sbg-exporter"
_WIDTH: Final = 24
_SCHEMA: Final = 39
"""Schema of Grafana 11.0; newer versions migrate it when they load a dashboard."""
_ALL: Final = model.VariableOption(text="All", value="$__all", selected=True)


Variable = dashboard.QueryVariable | dashboard.CustomVariable | dashboard.TextBoxVariable


@dataclass(frozen=True, slots=True)
class Cell:
    """A panel and its size on the grid of 24 columns."""

    panel: AnyPanel
    width: int
    height: int


def cells(width: int, height: int, *panels: AnyPanel) -> tuple[Cell, ...]:
    """Give several panels the same size."""
    return tuple(Cell(panel, width, height) for panel in panels)


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading; they wrap at the end of the grid."""

    title: str
    cells: Sequence[Cell]


@dataclass(frozen=True, slots=True)
class Page:
    """One dashboard."""

    uid: str
    title: str
    description: str
    variables: Sequence[Variable]
    rows: Sequence[Row]
    since: str = "now-6h"
    refresh: str = "30s"


def accounts(*, several: bool) -> dashboard.QueryVariable:
    """Variable for the account."""
    return _choice("account", "Account", "label_values(sbg_account_info, account)", several=several)


def operations() -> dashboard.CustomVariable:
    """Variable for the operation: the documented ones, and any that is typed."""
    known = ",".join(each.value for each in Operation)
    variable = dashboard.CustomVariable("operation").label("Operation").values(known).multi(True)  # noqa: FBT003
    return variable.include_all(True).all_value(".*").current(_ALL)  # noqa: FBT003  # the SDK's signature


def job() -> dashboard.TextBoxVariable:
    """Variable for a job id, or how it begins; empty for all jobs."""
    empty = model.VariableOption(text="", value="", selected=True)
    return dashboard.TextBoxVariable("job_id").label("Job id").default_value("").current(empty)


def period() -> dashboard.CustomVariable:
    """Variable for the length of the periods to count in."""
    options = [
        model.VariableOption(text=text, value=value, selected=not index)
        for index, (text, value) in enumerate({"day": "1d", "week": "7d", "month": "30d"}.items())
    ]
    values = ",".join(f"{option.text} : {option.value}" for option in options)
    return dashboard.CustomVariable("period").label("Per").values(values).options(options).current(options[0])


def _choice(name: str, label: str, query: str, *, several: bool) -> dashboard.QueryVariable:
    variable = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query({"qryType": 5, "query": query, "refId": f"variable-{name}"})
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(several)
        .include_all(several)
    )
    return variable.all_value(".*").current(_ALL) if several else variable


class _FiringAlerts(Builder[model.AnnotationQuery]):
    """Annotation that marks firing alerts on every graph."""

    def build(self) -> model.AnnotationQuery:
        return _Titled(
            name="Firing alerts",
            datasource=DATASOURCE,
            enable=True,
            icon_color=theme.FAILURE,
            expr="max by (alertname, account, operation, job_id) "
            '(ALERTS{alertname=~"Sbg.*", alertstate="firing", account=~"$account|"})',
        )


class _Titled(model.AnnotationQuery):
    """Annotation with title and text, which the SDK has no fields for."""

    def to_json(self) -> dict[str, object]:
        labels = {"titleFormat": "{{alertname}}", "textFormat": "{{account}} {{operation}} {{job_id}}"}
        return super().to_json() | labels | {"step": "60s", "useValueForTime": False}


def built(page: Page, others: Sequence[Page]) -> str:
    """Return the dashboard's JSON with links to *others*; the same pages always give the same text."""
    board = (
        dashboard.Dashboard(page.title)
        .uid(page.uid)
        .description(page.description)
        .tags([TAG])
        .timezone("browser")
        .time(page.since, "now")
        .refresh(page.refresh)
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .editable()
        .variables([dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")])
        .annotations([_FiringAlerts()])
        .links(list(_links(others)))
    )
    for variable in page.variables:
        board.with_variable(variable)
    finished = board.build()
    finished.panels = _laid_out(page.rows)
    finished.schema_version = _SCHEMA
    written = json.loads(json.dumps(finished, cls=JSONEncoder))
    for variable in written["templating"]["list"]:
        for key in (
            "auto",
            "auto_count",
            "auto_min",
        ):  # the SDK sets these on every variable, but only intervals have them
            variable.pop(key, None)
    for panel in written["panels"]:
        if panel["type"] == "table":  # Grafana 12 has this in the footer, and 13 here
            panel["options"]["enablePagination"] = panel["options"]["footer"]["enablePagination"]
    return json.dumps(written, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _links(pages: Sequence[Page]) -> Iterator[dashboard.DashboardLink]:
    """Link to *pages*, keeping data source and time range.

    Links do not keep the accounts, because *One account* can show only one.
    """
    for page in pages:
        yield (
            dashboard.DashboardLink(page.title)
            .type(model.DashboardLinkType.LINK)
            .icon("dashboard")
            .tooltip(page.description)
            .url(f"/d/{page.uid}?var-datasource=${{datasource}}")
            .keep_time(True)  # noqa: FBT003  # the SDK's signature
        )
    yield (
        dashboard.DashboardLink("Runbooks")
        .type(model.DashboardLinkType.LINK)
        .icon("doc")
        .tooltip("Runbook for each alert")
        .url(RUNBOOKS)
        .target_blank(True)  # noqa: FBT003  # the SDK's signature
    )


def _laid_out(rows: Sequence[Row]) -> list[model.Panel | model.RowPanel]:
    """Place all panels on the grid; a row without a title gets no heading."""
    placed: list[model.Panel | model.RowPanel] = []
    top = 0
    for row in rows:
        if row.title:
            heading = model.RowPanel(title=row.title, id_val=len(placed) + 1, collapsed=False)
            heading.grid_pos = model.GridPos(x=0, y=top, w=_WIDTH, h=1)
            placed.append(heading)
            top += 1
        left = tallest = 0
        for cell in row.cells:
            if left + cell.width > _WIDTH:
                top, left, tallest = top + tallest, 0, 0
            panel = cell.panel.id(len(placed) + 1).build()
            panel.grid_pos = model.GridPos(x=left, y=top, w=cell.width, h=cell.height)
            placed.append(panel)
            left, tallest = left + cell.width, max(tallest, cell.height)
        top += tallest
    return placed

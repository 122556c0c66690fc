"""Dashboards: rows of panels, laid out from left to right, with the variables, links and annotations that all share."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from grafana import look
from grafana.panels import DATASOURCE, RUNBOOKS, AnyPanel

TAG: Final = "sbg-exporter"
_WIDTH: Final = 24
_SCHEMA: Final = 39
"""That of Grafana 11.0: what is later reads it, and brings it up to date."""
_ALL: Final = model.VariableOption(text="All", value="$__all", selected=True)


@dataclass(frozen=True, slots=True)
class Cell:
    """A panel and its size on the grid, which is 24 wide."""

    panel: AnyPanel
    width: int
    height: int


def cells(width: int, height: int, *panels: AnyPanel) -> tuple[Cell, ...]:
    """Panels of one size."""
    return tuple(Cell(panel, width, height) for panel in panels)


def tiles(*panels: AnyPanel) -> tuple[Cell, ...]:
    """Panels of the size of one number."""
    return cells(4, 3, *panels)


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading; they wrap where the grid ends."""

    title: str
    cells: Sequence[Cell]


@dataclass(frozen=True, slots=True)
class Page:
    """A whole dashboard."""

    uid: str
    title: str
    description: str
    variables: Sequence[dashboard.QueryVariable]
    rows: Sequence[Row]


def accounts(*, several: bool) -> dashboard.QueryVariable:
    """The choice of accounts."""
    return _choice("account", "Account", "label_values(sbg_account_info, account)", several=several)


def operations() -> dashboard.QueryVariable:
    """The choice of operations."""
    query = 'label_values(sbg_jobs_submitted_total{account=~"$account"}, operation)'
    return _choice("operation", "Operation", query, several=True)


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
    """Marks on every graph where an alert fired, with what it was about."""

    def build(self) -> model.AnnotationQuery:
        return _Titled(
            name="Firing alerts",
            datasource=DATASOURCE,
            enable=True,
            icon_color=look.FAILURE,
            expr="max by (alertname, account, operation, job_id) "
            '(ALERTS{alertname=~"Sbg.*", alertstate="firing", account=~"$account|"})',
        )


class _Titled(model.AnnotationQuery):
    """The sdk knows nothing of what Prometheus' annotations are called."""

    def to_json(self) -> dict[str, object]:
        labels = {"titleFormat": "{{alertname}}", "textFormat": "{{account}} {{operation}} {{job_id}}"}
        return super().to_json() | labels | {"step": "60s", "useValueForTime": False}


def built(page: Page, others: Sequence[Page]) -> str:
    """The dashboard as Grafana reads it, with links to *others*; always the same text for the same pages."""
    board = (
        dashboard.Dashboard(page.title)
        .uid(page.uid)
        .description(page.description)
        .tags([TAG])
        .timezone("browser")
        .time("now-6h", "now")
        .refresh("30s")
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
        for key in ("auto", "auto_count", "auto_min"):  # the sdk gives every variable what only intervals have
            variable.pop(key, None)
    return json.dumps(written, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _links(pages: Sequence[Page]) -> Iterator[dashboard.DashboardLink]:
    """To *pages* with the same data source and time range; not with the same accounts, of which one page shows one."""
    for page in pages:
        yield (
            dashboard.DashboardLink(page.title)
            .type(model.DashboardLinkType.LINK)
            .icon("dashboard")
            .tooltip(page.description)
            .url(f"/d/{page.uid}?var-datasource=${{datasource}}")
            .keep_time(True)  # noqa: FBT003  # the sdk's way
        )
    yield (
        dashboard.DashboardLink("Runbooks")
        .type(model.DashboardLinkType.LINK)
        .icon("doc")
        .tooltip("What to do about each alert")
        .url(RUNBOOKS)
        .target_blank(True)  # noqa: FBT003  # likewise
    )


def _laid_out(rows: Sequence[Row]) -> list[model.Panel | model.RowPanel]:
    """All panels with their places; the first row needs no heading."""
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

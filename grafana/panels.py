"""Panel builders with shared defaults: title, description, unit, queries and runbook links."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, statetimeline
from grafana_foundation_sdk.builders import stat as stat_panel
from grafana_foundation_sdk.builders import table as table_panel
from grafana_foundation_sdk.builders import timeseries as timeseries_panel
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana import theme
from grafana.queries import Query, named, now

DATASOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
RUNBOOKS: Final = "https://github.com/sbg-exporter/sbg-exporter/blob/main/deploy/prometheus/RUNBOOKS.md"

AnyPanel = (
    stat_panel.Panel | table_panel.Panel | timeseries_panel.Panel | heatmap.Panel | bargauge.Panel | statetimeline.Panel
)
P = TypeVar(
    "P", stat_panel.Panel, table_panel.Panel, timeseries_panel.Panel, heatmap.Panel, bargauge.Panel, statetimeline.Panel
)
Steps = Sequence[tuple[float | None, str]]
"""Pairs of a threshold and its colour; the first applies below all thresholds."""
ValueTexts = Mapping[str, tuple[str, str]]
"""Text and colour to show for a value ("": the default colour)."""

NO_STEPS: Final[Steps] = ((None, theme.NONE),)
ALARM: Final = ((None, theme.NONE), (1, theme.FAILURE))
ATTENTION: Final = ((None, theme.NONE), (1, theme.WARNING_TEXT))
"""Thresholds for counts of failures, and for counts of warnings."""

_ALONE: Final = {"Value #A": "Value"}
"""What Grafana calls the values of a panel's only query."""
_SIZES: Final = common.VizTextDisplayOptions().title_size(14).value_size(32)
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class PanelInfo:
    """Title, description and unit of a panel.

    Attributes:
        alerts: related alerts; the panel links to their runbooks.
        empty: text to show without data.
    """

    title: str
    description: str
    unit: str = "locale"
    alerts: tuple[str, ...] = ()
    empty: str = ""


def runbook(alert: str) -> str:
    """Return the URL of an alert's runbook."""
    return f"{RUNBOOKS}#{alert.lower()}"


def _described(panel: P, info: PanelInfo, targets: Sequence[Dataquery]) -> P:
    for letter, target in zip(_LETTERS, targets, strict=False):
        panel.with_target(target.ref_id(letter).datasource(DATASOURCE))
    panel.title(info.title).description(info.description).unit(info.unit).datasource(DATASOURCE)
    if info.alerts:
        panel.links(
            [
                dashboard.DashboardLink(f"Runbook: {alert}")
                .type(model.DashboardLinkType.LINK)
                .url(runbook(alert))
                .target_blank(True)  # noqa: FBT003  # the SDK's signature
                for alert in info.alerts
            ]
        )
    return panel.no_value(info.empty) if info.empty else panel


def _target(query: Query, kind: PromQueryFormat = PromQueryFormat.TIME_SERIES) -> Dataquery:
    target = Dataquery().expr(query.expr).format(kind).exemplar(query.exemplar)
    target = target.instant() if query.instant else target.range()
    if query.legend:
        target.legend_format(query.legend)
    return target.interval(query.step) if query.step else target


def _steps(steps: Steps) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=color) for value, color in steps])
    )


def as_mappings(value_mappings: ValueTexts) -> list[model.ValueMapping]:
    """Map values to texts; NaN is one of them."""
    options = {
        value: model.ValueMappingResult(text=text, color=color or None, index=index)
        for index, (value, (text, color)) in enumerate(value_mappings.items())
    }
    nan = options.pop("NaN", None)
    mappings: list[model.ValueMapping] = [model.ValueMap(options=options)] if options else []
    if nan:
        special = model.DashboardSpecialValueMapOptions(match=model.SpecialValueMatch.NULL_AND_NAN, result=nan)
        mappings.append(model.SpecialValueMap(options=special))
    return mappings


def _fixed(color: str) -> dashboard.FieldColor:
    return dashboard.FieldColor().mode(model.FieldColorModeId.FIXED).fixed_color(color)


def _latest() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)  # noqa: FBT003  # the SDK's signature


# ---- numbers ----


@dataclass(frozen=True, slots=True)
class Tile:
    """One of several numbers side by side: a name, and what to show for it.

    Attributes:
        steps: colours of the background.
        value_mappings: words to show in place of numbers.
        link: title and URL.
    """

    name: str
    expr: str
    unit: str = "locale"
    steps: Steps = NO_STEPS
    value_mappings: ValueTexts | None = None
    link: tuple[str, str] = ("", "")
    decimals: int | None = None


def tiles(info: PanelInfo, *numbers: Tile) -> stat_panel.Panel:
    """Show several numbers, with their names, by one query."""
    query = now(named("tile", {number.name: number.expr for number in numbers}), "{{tile}}")
    panel = (
        _stat(info, query).text_mode(shapes.BigValueTextMode.VALUE_AND_NAME).orientation(shapes.VizOrientation.VERTICAL)
    )
    panel.text(_SIZES).wide_layout(False)  # noqa: FBT003  # the name above the number on wide screens too
    for number in numbers:
        found: dict[str, object] = {"unit": number.unit, "thresholds": _steps(number.steps).build()}
        if number.value_mappings:
            found["mappings"] = as_mappings(number.value_mappings)
        if number.decimals is not None:
            found["decimals"] = number.decimals
        title, url = number.link
        if url:
            found["links"] = [{"title": title, "url": url}]
        panel.override_by_name(number.name, [model.DynamicConfigValue(key, value) for key, value in found.items()])
    return panel


def _stat(info: PanelInfo, query: Query) -> stat_panel.Panel:
    return (
        _described(stat_panel.Panel(), info, [_target(query)])
        .reduce_options(_latest())
        .thresholds(_steps(((None, theme.NONE),)))
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .color_mode(shapes.BigValueColorMode.BACKGROUND_SOLID)
        .graph_mode(shapes.BigValueGraphMode.NONE)
        .justify_mode(shapes.BigValueJustifyMode.CENTER)
        .orientation(shapes.VizOrientation.AUTO)
    )


def label_stat(info: PanelInfo, query: Query) -> stat_panel.Panel:
    """Show the legend instead of the value, for facts in labels."""
    return _stat(info, query).text_mode(shapes.BigValueTextMode.NAME).text(_SIZES)


# ---- over time ----


def timeseries(
    info: PanelInfo,
    *queries: Query,
    colors: Mapping[str, str] | None = None,
    stacked: bool = False,
    bars: bool = False,
    limit: float | None = None,
) -> timeseries_panel.Panel:
    """Show series over time; *colors* by legend, as regular expressions; *limit* is drawn as a line."""
    panel = (
        _described(timeseries_panel.Panel(), info, [_target(query) for query in queries])
        .min(0)
        .line_width(0 if bars or stacked else 2)
        .fill_opacity(80 if bars or stacked else 0)
        .draw_style(shapes.GraphDrawStyle.BARS if bars else shapes.GraphDrawStyle.LINE)
        .show_points(shapes.VisibilityMode.NEVER if bars or stacked else shapes.VisibilityMode.AUTO)
        .point_size(4)
        .span_nulls(False)  # noqa: FBT003  # gaps stay visible
        .color_scheme(_fixed(theme.GOOD))
        .legend(_legend())
        .tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING))
        .stacking(
            common.StackingConfig().mode(shapes.StackingMode.NORMAL if stacked else shapes.StackingMode.NONE).group("A")
        )
    )
    if info.unit == "locale":  # a count: no fractions on the axis
        panel.decimals(0).axis_soft_max(4)
    if limit is not None:
        panel.thresholds(_steps(((None, theme.NONE), (limit, theme.WARNING))))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.DASHED))
    for pattern, color in (colors or {}).items():
        panel.override_by_regexp(f"/^{pattern}$/", [_color(color)])
    return panel


def events(
    info: PanelInfo,
    *queries: Query,
    colors: Mapping[str, str],
    normal: Sequence[str],
    front: str = "",
) -> timeseries_panel.Panel:
    """Show what is normal as lines, and all else as bars, on a logarithmic axis.

    One failure is then visible next to forty successes, and a thousand do not flatten it. Bars of the same time are of
    different widths, so that none hides another: the later a series is drawn, the narrower. They are drawn in the order
    of their names, and *front* last: its query must use :func:`grafana.queries.behind`.
    """
    panel = timeseries(info, *queries, colors=colors, bars=True)
    panel.scale_distribution(
        common.ScaleDistributionConfig().type(shapes.ScaleDistribution.SYMLOG).log(10).linear_threshold(1)
    )
    panel.mappings(as_mappings({"-1": (" ", "")}))  # a tick that Grafana writes below such an axis' zero
    rare = [name for name in colors if name not in normal]
    for place, name in enumerate(sorted(rare, key=lambda each: (each == front, each))):
        width = round(0.8 - 0.6 * place / len(rare), 2)
        panel.override_by_regexp(f"/^{name}$/", [model.DynamicConfigValue("custom.barWidthFactor", width)])
    line = {
        "custom.drawStyle": "line",
        "custom.lineWidth": 2,
        "custom.fillOpacity": 10 if len(normal) == 1 else 0,
        "custom.showPoints": "auto",
    }
    for name in normal:
        panel.override_by_regexp(f"/^{name}$/", [model.DynamicConfigValue(key, value) for key, value in line.items()])
    return panel


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .show_legend(True)  # noqa: FBT003  # the SDK's signature
        .display_mode(shapes.LegendDisplayMode.LIST)
        .placement(shapes.LegendPlacement.BOTTOM)
        .calcs([])
    )


def _color(color: str) -> model.DynamicConfigValue:
    return model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})


def durations(info: PanelInfo, query: Query) -> heatmap.Panel:
    """Show a histogram's buckets over time."""
    return (
        _described(heatmap.Panel(), info, [_target(query, PromQueryFormat.HEATMAP)])
        .calculate(False)  # noqa: FBT003  # Prometheus provides the buckets
        .color(
            heatmap.HeatmapColorOptions()
            .mode(HeatmapColorMode.SCHEME)
            .scheme("Blues")
            .steps(32)
            .exponent(0.5)
            .fill(theme.GOOD)
            .reverse(False)  # noqa: FBT003  # the SDK's signature
        )
        .cell_gap(1)
        .cell_values(heatmap.CellValues().decimals(0).unit("short"))
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .rows_frame(heatmap.RowsHeatmapOptions().layout(shapes.HeatmapCellLayout.AUTO))
        .y_axis(heatmap.YAxisConfig().unit("s").axis_placement(shapes.AxisPlacement.LEFT).decimals(0))
        .show_value(shapes.VisibilityMode.NEVER)
        .mode(shapes.TooltipDisplayMode.SINGLE)
        .show_color_scale(True)  # noqa: FBT003  # the SDK's signature
        .exemplars_color(theme.WARNING)
        .show_legend()
    )


def states(info: PanelInfo, query: Query, value_mappings: ValueTexts) -> statetimeline.Panel:
    """Show the state of each series over time, a row for each."""
    return (
        _rows(info, query)
        .mappings(as_mappings(value_mappings))
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .thresholds(_steps(((None, theme.QUIET),)))
        .merge_values(True)  # noqa: FBT003  # the SDK's signature
        .show_value(shapes.VisibilityMode.AUTO)
        .legend(_legend())
    )


def amounts(info: PanelInfo, query: Query) -> statetimeline.Panel:
    """Show the amount of each series over time, a row for each: the more, the stronger."""
    return (
        _rows(info, query)
        .min(0)
        .decimals(0)
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.CONTINUOUS_BLUES))
        .merge_values(False)  # noqa: FBT003  # the SDK's signature
        .show_value(shapes.VisibilityMode.NEVER)
        .fill_opacity(100)
        .legend(_legend().show_legend(False))  # noqa: FBT003  # the SDK's signature
    )


def _rows(info: PanelInfo, query: Query) -> statetimeline.Panel:
    return (
        _described(statetimeline.Panel(), info, [_target(query)])
        .align_value(shapes.TimelineValueAlignment.LEFT)
        .row_height(0.8)
        .fill_opacity(80)
        .line_width(0)
        .tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.SINGLE).sort(shapes.SortOrder.NONE))
    )


# ---- side by side ----


def bar_gauge(
    info: PanelInfo, query: Query, *, steps: Steps, value_mappings: ValueTexts | None = None
) -> bargauge.Panel:
    """Show the latest values as bars, with names above them."""
    panel = (
        _described(bargauge.Panel(), info, [_target(query)])
        .reduce_options(_latest())
        .min(0)
        .thresholds(_steps(steps))
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .orientation(shapes.VizOrientation.HORIZONTAL)
        .display_mode(shapes.BarGaugeDisplayMode.BASIC)
        .value_mode(shapes.BarGaugeValueMode.TEXT)
        .name_placement(shapes.BarGaugeNamePlacement.TOP)
        .text(common.VizTextDisplayOptions().value_size(16).title_size(13))
        .show_unfilled(True)  # noqa: FBT003  # the SDK's signature
        .sizing(shapes.BarGaugeSizing.MANUAL)
        .min_viz_height(34)
        .max_viz_height(40)
        .min_viz_width(8)
    )
    for name, (text, _) in (value_mappings or {}).items():
        panel.override_by_name(name, [model.DynamicConfigValue("displayName", text)])
    return panel


# ---- tables ----


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: a label if *query* is ``None``, else the query's values.

    Attributes:
        source: the label, or a name for the query's values.
        look: style of the cells.
        link: title and URL of a link in each cell.
        empty: text of cells without a value.
    """

    title: str
    source: str
    query: Query | None = None
    unit: str = ""
    width: int = 0
    look: Literal["", "bar", "failure", "words"] = ""
    value_mappings: ValueTexts | None = None
    link: tuple[str, str] = ("", "")
    empty: str = ""
    steps: Steps = ()
    decimals: int | None = None


def table(
    info: PanelInfo,
    columns: Sequence[Column],
    *hidden: Query,
    sort: str,
    descending: bool = True,
    paged: bool = True,
) -> table_panel.Panel:
    """Show one row per combination of labels; *hidden* queries only add labels.

    If it is *paged*, rows that do not fit are on further pages, so that none is cut.
    """
    asked = [column.query for column in columns if column.query is not None]
    letters = dict(zip([column.title for column in columns if column.query is not None], _LETTERS, strict=False))
    fields = {column.title: f"Value #{letters[column.title]}" if column.query else column.source for column in columns}
    fields = (
        fields if len(asked) + len(hidden) > 1 else {title: _ALONE.get(name, name) for title, name in fields.items()}
    )
    unseen = ["Time", *(f"Value #{_LETTERS[len(asked) + number]}" for number in range(len(hidden)))]
    panel = (
        _described(table_panel.Panel(), info, [_target(query, PromQueryFormat.TABLE) for query in (*asked, *hidden)])
        .with_transformation(model.DataTransformerConfig("merge", options={}))
        .with_transformation(
            model.DataTransformerConfig(
                "organize",
                options={
                    "excludeByName": dict.fromkeys(unseen, True),
                    "indexByName": {fields[column.title]: index for index, column in enumerate(columns)},
                    "renameByName": {fields[column.title]: column.title for column in columns},
                },
            )
        )
        .sort_by([common.TableSortByFieldState().display_name(sort).desc(descending)])
        .show_header(True)  # noqa: FBT003  # the SDK's signature
        .cell_height(shapes.TableCellHeight.SM)
        .align(shapes.FieldTextAlignment.AUTO)
        .filterable(False)  # noqa: FBT003  # the SDK's signature
        .footer(common.TableFooterOptions().show(False).enable_pagination(paged))  # noqa: FBT003
        .thresholds(_steps(((None, theme.PLAIN),)))
    )
    for column in columns:
        panel.override_by_name(column.title, list(_properties(column)))
    return panel


def _properties(column: Column) -> list[model.DynamicConfigValue]:
    found: dict[str, object] = {}
    if column.unit:
        found["unit"] = column.unit
    if column.width:
        found["custom.width"] = column.width
    if column.decimals is not None:
        found["decimals"] = column.decimals
    if column.look == "bar":
        found["custom.cellOptions"] = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
        found |= {"min": 0, "max": 1, "color": {"mode": "fixed", "fixedColor": theme.GOOD}}
        found["decimals"] = 0
    if column.look == "words":
        found["custom.cellOptions"] = {"type": "color-text"}
        found["custom.align"] = "left"
    if column.look == "failure":
        found["custom.cellOptions"] = {"type": "color-text"}
        found["thresholds"] = _steps(((None, theme.PLAIN), (1, theme.FAILURE))).build()
    if column.steps:
        found["custom.cellOptions"] = {"type": "color-text"}
        found["thresholds"] = _steps(column.steps).build()
    if column.value_mappings:
        found["mappings"] = as_mappings(column.value_mappings)
    title, url = column.link
    if url:
        found["links"] = [{"title": title, "url": url}]
    found["noValue"] = column.empty or "-"
    return [model.DynamicConfigValue(key, value) for key, value in found.items()]

import {
  FieldType,
  formattedValueToString,
  getDisplayValueAlignmentFactors,
  getFieldDisplayName,
  getFieldDisplayValues,
  getValueFormat,
  type DataFrame,
  type DisplayValueAlignmentFactors,
  type FieldDisplay,
  type GrafanaTheme2,
  type TimeRange,
} from '@grafana/data';
import { VizOrientation } from '@grafana/schema';
import { BarGauge, BigValue, TimeSeries, VizRepeater } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import type { ReactElement } from 'react';
import type { Panel } from './task';

export interface Drawing {
  panel: Panel;
  frames: DataFrame[];
  theme: GrafanaTheme2;
  range: TimeRange;
  width: number;
  height: number;
}

/** What draws each panel type. Stat, timeseries, bargauge and table are Grafana's own components. */
export const DRAWINGS: Record<string, (drawing: Drawing) => ReactElement> = {
  stat,
  timeseries,
  bargauge,
  table,
  heatmap,
  'state-timeline': stateTimeline,
};

export function emptyMessage(panel: Panel): string {
  return panel.fieldConfig?.defaults.noValue ?? 'No data';
}

export function hasData(frames: DataFrame[]): boolean {
  return frames.some((frame) => frame.length > 0);
}

// ---- Grafana's own ----

function displayValues({ panel, frames, theme }: Drawing): FieldDisplay[] {
  return getFieldDisplayValues({
    fieldConfig: panel.fieldConfig as never,
    reduceOptions: panel.options.reduceOptions,
    replaceVariables: (text) => text,
    theme,
    data: frames,
    timeZone: 'utc',
  });
}

function stat(drawing: Drawing): ReactElement {
  const { panel, theme, width, height } = drawing;
  return (
    <VizRepeater<FieldDisplay, DisplayValueAlignmentFactors>
      source={[]}
      getValues={() => displayValues(drawing)}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      itemSpacing={3}
      orientation={VizOrientation.Auto}
      autoGrid
      width={width}
      height={height}
      renderCounter={0}
      renderValue={({ value, width, height, count, alignmentFactors }) => (
        <BigValue
          value={value.display}
          count={count}
          alignmentFactors={alignmentFactors}
          theme={theme}
          width={width}
          height={height}
          colorMode={panel.options.colorMode}
          graphMode={panel.options.graphMode}
          justifyMode={panel.options.justifyMode}
          textMode={panel.options.textMode}
          disableWideLayout={panel.options.wideLayout === false}
          text={panel.options.text}
        />
      )}
    />
  );
}

function bargauge(drawing: Drawing): ReactElement {
  const { panel, theme, width, height } = drawing;
  const { orientation, displayMode, valueMode, namePlacement, showUnfilled, minVizHeight, maxVizHeight } = panel.options;
  return (
    <VizRepeater<FieldDisplay, DisplayValueAlignmentFactors>
      source={[]}
      getValues={() => displayValues(drawing)}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      itemSpacing={10}
      orientation={orientation}
      minVizHeight={minVizHeight}
      maxVizHeight={maxVizHeight}
      width={width}
      height={height}
      renderCounter={0}
      renderValue={({ value: { field, display, view, colIndex }, width, height, orientation, alignmentFactors }) => (
        <BarGauge
          value={display}
          field={field}
          display={colIndex === undefined ? undefined : view?.getFieldDisplayProcessor(colIndex)}
          theme={theme}
          width={width}
          height={height}
          orientation={orientation}
          displayMode={displayMode}
          valueDisplayMode={valueMode}
          namePlacement={namePlacement}
          text={panel.options.text}
          showUnfilled={showUnfilled}
          itemSpacing={10}
          lcdCellWidth={8}
          alignmentFactors={alignmentFactors}
        />
      )}
    />
  );
}

function timeseries({ panel, frames, range, width, height }: Drawing): ReactElement {
  return (
    <TimeSeries
      frames={frames.map(withGaps)}
      timeRange={range}
      timeZone="utc"
      width={width}
      height={height}
      legend={panel.options.legend}
      options={panel.options}
    />
  );
}

/** As Grafana's panel does it: what is no number, such as a quantile of nothing, is a gap. */
function withGaps(frame: DataFrame): DataFrame {
  const gapped = (values: unknown[]) => values.map((value) => (Number.isFinite(value) ? value : null));
  return {
    ...frame,
    fields: frame.fields.map((field) =>
      field.type === FieldType.number ? { ...field, values: gapped(field.values) } : field
    ),
  };
}

function table({ panel, frames, width, height }: Drawing): ReactElement {
  return (
    <TableNG
      data={frames[0]!}
      width={width}
      height={height}
      cellHeight={panel.options.cellHeight}
      sortBy={panel.options.sortBy}
      noHeader={!panel.options.showHeader}
      fieldConfig={panel.fieldConfig as never}
      structureRev={1}
      enableVirtualization={false}
      enablePagination={panel.options.enablePagination}
      getActions={() => []}
    />
  );
}

// ---- drawn here, after Grafana's plugins, which are not published as packages ----

const AXIS = { left: 64, bottom: 24, top: 6, right: 10 };

/** The axes that both drawings share, and what is between them. */
function framed(
  { range, theme, width, height }: Drawing,
  names: string[],
  below: ReactElement | null,
  inside: (box: { x: (at: number) => number; top: number; row: number }) => Array<ReactElement | null>
): ReactElement {
  const from = range.from.valueOf();
  const to = range.to.valueOf();
  const foot = below ? 26 : 0;
  const right = width - AXIS.right;
  const bottom = height - AXIS.bottom - foot;
  const row = (bottom - AXIS.top) / Math.max(1, names.length);
  const left = Math.max(AXIS.left, ...names.map((name) => Math.min(140, 7 * name.length + 14)));
  const x = (at: number) => left + ((Math.max(from, at) - from) / (to - from)) * (right - left);
  const every = Math.max(1, Math.ceil(names.length / ((bottom - AXIS.top) / 16)));
  const text = { fill: theme.colors.text.primary, fontSize: 12, fontFamily: theme.typography.fontFamily };
  return (
    <svg width={width} height={height}>
      {inside({ x, top: AXIS.top, row })}
      {names.map((name, index) =>
        index % every ? null : (
          <text key={name} x={left - 6} y={AXIS.top + (index + 0.5) * row + 4} textAnchor="end" {...text}>
            {name}
          </text>
        )
      )}
      {ticks(from, to, (right - left) / 90).map((at) => (
        <text key={at} x={x(at)} y={bottom + 17} textAnchor="middle" {...text}>
          {tickText(at, to - from)}
        </text>
      ))}
      {below && <g transform={`translate(${left}, ${height - foot + 4})`}>{below}</g>}
    </svg>
  );
}

const DAY = 24 * 60;

/** The time of a tick, or its day if the range is longer than two. */
function tickText(at: number, range: number): string {
  const text = new Date(at).toISOString();
  return range > 2 * DAY * 60_000 ? text.slice(5, 10).replace('-', '/') : text.slice(11, 16);
}

function ticks(from: number, to: number, most: number): number[] {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, DAY, 2 * DAY, 3 * DAY, 7 * DAY].map((each) => each * 60_000);
  const step = steps.find((each) => (to - from) / each <= most) ?? steps.at(-1)!;
  const first = Math.ceil(from / step) * step;
  return Array.from({ length: Math.floor((to - first) / step) + 1 }, (_, index) => first + index * step);
}

const BLUES = ['#f7fbff', '#deebf7', '#c6dbef', '#9ecae1', '#6baed6', '#4292c6', '#2171b5', '#08519c', '#08306b'];

function heatmap(drawing: Drawing): ReactElement {
  const { frames, theme, panel } = drawing;
  const rising = theme.isDark ? [...BLUES].reverse() : BLUES;
  const cells = frames.map((frame) => ({
    name: getFieldDisplayName(frame.fields[1]!, frame),
    times: frame.fields[0]!.values as number[],
    values: frame.fields[1]!.values as number[],
  }));
  const most = Math.max(1e-9, ...cells.flatMap(({ values }) => values));
  const seconds = getValueFormat('s');
  const names = cells.map(({ name }) => (name === '+Inf' ? '+Inf' : formattedValueToString(seconds(Number(name), 0))));
  const step = Math.min(...cells.flatMap(({ times }) => times.slice(1).map((at, index) => at - times[index]!)));
  const colour = (share: number) => rising[Math.min(8, Math.floor(share ** (panel.options.color.exponent ?? 1) * 8.99))];
  const text = { fill: theme.colors.text.secondary, fontSize: 11, fontFamily: theme.typography.fontFamily };
  const scale = (
    <>
      {rising.map((each, index) => (
        <rect key={each} x={index * 20} width={20} height={8} fill={each} />
      ))}
      <text x={0} y={20} {...text}>0</text>
      <text x={180} y={20} textAnchor="end" {...text}>{most.toFixed(0)}</text>
    </>
  );
  return framed(drawing, [...names].reverse(), scale, ({ x, top, row }) =>
    cells.flatMap(({ times, values }, index) =>
      values.map((value, at) =>
        value <= 1e-9 ? null : (
          <rect
            key={`${index} ${at}`}
            x={x(times[at]! - step)}
            y={top + (cells.length - 1 - index) * row}
            width={Math.max(1, x(times[at]!) - x(times[at]! - step) - 1)}
            height={Math.max(1, row - 1)}
            fill={colour(value / most)}
          />
        )
      )
    )
  );
}

function stateTimeline(drawing: Drawing): ReactElement {
  const { frames, panel, range } = drawing;
  const rows = frames.map((frame) => {
    const field = frame.fields.find(({ type }) => type === FieldType.number)!;
    const times = frame.fields[0]!.values as number[];
    const spans: Array<{ from: number; to: number; text: string; color: string }> = [];
    times.forEach((at, index) => {
      const { text, color } = field.display!(field.values[index]);
      const last = spans.at(-1);
      const until = times[index + 1] ?? range.to.valueOf();
      if (last?.text === text) {
        last.to = until;
      } else {
        spans.push({ from: at, to: until, text, color: color ?? 'gray' });
      }
    });
    return { name: getFieldDisplayName(field, frame), spans };
  });
  const shown = new Map(rows.flatMap(({ spans }) => spans.map(({ text, color }) => [text, color])));
  const legend = (
    <foreignObject width={600} height={22}>
      <div style={{ display: 'flex', gap: 12, fontSize: 12 }}>
        {[...shown].map(([text, color]) => (
          <span key={text} style={{ display: 'flex', gap: 6, alignItems: 'center' }}>
            <span style={{ width: 14, height: 4, borderRadius: 2, background: color }} /> {text}
          </span>
        ))}
      </div>
    </foreignObject>
  );
  return framed(drawing, rows.map(({ name }) => name), panel.options.legend.showLegend ? legend : null, ({ x, top, row }) =>
    rows.flatMap(({ spans }, index) =>
      spans.map(({ from, to, text, color }) => {
        const width = Math.max(1, x(to) - x(from));
        const height = row * 0.8;
        const y = top + index * row + row * 0.1;
        return (
          <g key={`${index} ${from}`}>
            <rect x={x(from)} y={y} width={width} height={height} fill={color} fillOpacity={Number(panel.fieldConfig?.defaults.custom?.fillOpacity) / 100} />
            {panel.options.showValue !== 'never' && width > 7 * text.length + 8 && height > 12 && (
              <text x={x(from) + 5} y={y + height / 2 + 4} fontSize={12} fill="white">
                {text}
              </text>
            )}
          </g>
        );
      })
    )
  );
}

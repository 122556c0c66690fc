import { createDataFrame, FieldType, rangeUtil, type DataFrame, type TimeRange } from '@grafana/data';
import type { Panel, Target, Task } from './task';
import { interpolated, type Chosen } from './variables';

interface Series {
  metric: Record<string, string>;
  values?: Array<[number, string]>;
  value?: [number, string];
}

export async function ask<T>(task: Task, path: string, parameters: Record<string, string | number>): Promise<T> {
  const query = new URLSearchParams(Object.entries(parameters).map(([name, value]) => [name, String(value)]));
  const answer = await (await fetch(`${task.prometheus}/api/v1/${path}?${query}`)).json();
  if (answer.status !== 'success') {
    throw new Error(`${answer.error} in ${JSON.stringify(parameters)}`);
  }
  return answer.data;
}

/** The frames that Grafana's Prometheus data source makes of a panel's queries. */
export async function framesOf(
  task: Task,
  panel: Panel,
  variables: Chosen[],
  range: TimeRange,
  width: number
): Promise<DataFrame[]> {
  const frames: DataFrame[] = [];
  const targets = panel.targets ?? [];
  for (const target of targets) {
    const series = await seriesOf(task, target, variables, range, width);
    frames.push(...framesFrom(target, series, targets.length > 1));
  }
  return frames;
}

async function seriesOf(task: Task, target: Target, variables: Chosen[], range: TimeRange, width: number): Promise<Series[]> {
  const wanted = target.interval && interpolated(target.interval, variables, {});
  const least = wanted ? rangeUtil.intervalToSeconds(wanted) : task.scrapeInterval;
  const step = Math.max(least, rangeUtil.calculateInterval(range, width, `${least}s`).intervalMs / 1000);
  const query = interpolated(target.expr, variables, {
    __rate_interval: `${Math.round(Math.max(step + task.scrapeInterval, 4 * task.scrapeInterval))}s`,
    __interval: `${Math.round(step)}s`,
    __range: `${Math.round((task.to - task.from) / 1000)}s`,
  });
  if (target.instant) {
    return (await ask<{ result: Series[] }>(task, 'query', { query, time: task.to / 1000 })).result;
  }
  const aligned = (at: number) => Math.floor(at / 1000 / step) * step;
  const parameters = { query, start: aligned(task.from), end: aligned(task.to), step };
  return (await ask<{ result: Series[] }>(task, 'query_range', parameters)).result;
}

function framesFrom(target: Target, series: Series[], several: boolean): DataFrame[] {
  switch (target.format) {
    case 'table':
      return series.length ? [tableFrame(target, series, several)] : [];
    case 'heatmap':
      return bucketFrames(target, series);
    default:
      return series.map((each) => seriesFrame(target, each));
  }
}

function points(series: Series): Array<[number, string]> {
  return series.values ?? (series.value ? [series.value] : []);
}

function seriesFrame(target: Target, series: Series, name = legend(target, series)): DataFrame {
  const samples = points(series);
  return createDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: samples.map(([at]) => at * 1000) },
      {
        name: 'Value',
        type: FieldType.number,
        labels: series.metric,
        values: samples.map(([, value]) => Number(value)),
        config: { displayNameFromDS: name },
      },
    ],
  });
}

function legend(target: Target, { metric }: Series): string {
  if (target.legendFormat) {
    return target.legendFormat.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => metric[label] ?? '');
  }
  return `{${Object.entries(metric).map(([label, value]) => `${label}="${value}"`).join(', ')}}`;
}

/** One row for each series; the column of values bears the query's letter when there are several queries. */
function tableFrame(target: Target, series: Series[], several: boolean): DataFrame {
  const labels = [...new Set(series.flatMap((each) => Object.keys(each.metric)))].sort();
  const latest = series.map((each) => points(each).at(-1) ?? [NaN, 'NaN']);
  return createDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: latest.map(([at]) => Number(at) * 1000) },
      ...labels.map((label) => ({
        name: label,
        type: FieldType.string,
        values: series.map((each) => each.metric[label] ?? ''),
      })),
      {
        name: several ? `Value #${target.refId}` : 'Value',
        type: FieldType.number,
        values: latest.map(([, value]) => Number(value)),
      },
    ],
  });
}

/** Prometheus' buckets include all smaller ones; these frames hold what each adds. */
function bucketFrames(target: Target, series: Series[]): DataFrame[] {
  const bound = (each: Series) => (each.metric.le === '+Inf' ? Infinity : Number(each.metric.le));
  const rising = [...series].sort((one, other) => bound(one) - bound(other));
  return rising.map((each, index) => {
    const below = new Map(points(rising[index - 1] ?? { metric: {} }));
    const own = points(each).map(([at, value]): [number, string] => [
      at,
      String(Math.max(0, Number(value) - Number(below.get(at) ?? 0))),
    ]);
    return seriesFrame(target, { metric: each.metric, values: own }, each.metric.le);
  });
}

import {
  applyFieldOverrides,
  cacheFieldDisplayNames,
  FieldConfigOptionsRegistry,
  getRawDisplayProcessor,
  standardFieldConfigEditorRegistry,
  standardTransformers,
  standardTransformersRegistry,
  transformDataFrame,
  type DataFrame,
  type GrafanaTheme2,
} from '@grafana/data';
import { firstValueFrom } from 'rxjs';
import type { Panel } from './task';

/**
 * The options of fields that dashboards set. Grafana registers each with its editor, which lives in the server's part
 * of its code; drawing only needs to know that they exist.
 */
const STANDARD = ['unit', 'decimals', 'min', 'max', 'displayName', 'noValue', 'mappings', 'thresholds', 'color', 'links'];
const CUSTOM = [
  'align', 'axisBorderShow', 'axisPlacement', 'axisSoftMax', 'axisSoftMin', 'barAlignment', 'barWidthFactor', 'cellOptions', 'drawStyle',
  'fillOpacity', 'filterable', 'gradientMode', 'hidden', 'hideFrom', 'inspect', 'lineInterpolation', 'lineStyle',
  'lineWidth', 'minWidth', 'pointSize', 'scaleDistribution', 'showPoints', 'spanNulls', 'stacking',
  'thresholdsStyle', 'width',
]; // prettier-ignore

const DEFAULTS: Record<string, unknown> = {
  mappings: [],
  thresholds: { mode: 'absolute', steps: [{ value: -Infinity, color: 'green' }, { value: 80, color: 'red' }] },
};

function option(path: string, isCustom: boolean) {
  return {
    id: isCustom ? `custom.${path}` : path,
    path,
    name: path,
    isCustom,
    editor: () => null,
    override: () => null,
    process: (value: unknown) => value,
    shouldApply: () => true,
    settings: {},
    defaultValue: DEFAULTS[path],
  };
}

/** Both kinds of registry are Grafana's to fill at its start; here the page does it, once. */
export function registerWhatGrafanaRegisters(): void {
  standardTransformersRegistry.setInit(() =>
    [standardTransformers.mergeTransformer, standardTransformers.organizeFieldsTransformer].map((transformation) => ({
      id: transformation.id,
      name: transformation.name,
      transformation: () => Promise.resolve(transformation),
      editor: () => null,
      imageDark: '',
      imageLight: '',
    }))
  );
  standardFieldConfigEditorRegistry.setInit(() => STANDARD.map((path) => option(path, false)) as never);
}

function registry(): FieldConfigOptionsRegistry {
  const known = new FieldConfigOptionsRegistry();
  for (const each of [...STANDARD.map((path) => option(path, false)), ...CUSTOM.map((path) => option(path, true))]) {
    known.register(each as never);
  }
  return known;
}

/** *frames* as Grafana hands them to a panel: transformed, with every field's options and formatter. */
export async function prepared(frames: DataFrame[], panel: Panel, theme: GrafanaTheme2): Promise<DataFrame[]> {
  const transformations = (panel.transformations ?? []).map(({ id, options }) => ({ id, options }));
  const transformed = await firstValueFrom(transformDataFrame(transformations, frames));
  const finished = applyFieldOverrides({
    data: transformed,
    fieldConfig: lowestStepFromBelow(panel.fieldConfig ?? { defaults: {}, overrides: [] }) as never,
    replaceVariables: (text) => text,
    theme,
    fieldConfigRegistry: registry(),
    timeZone: 'utc',
  });
  cacheFieldDisplayNames(finished);
  for (const field of finished.flatMap((frame) => frame.fields)) {
    field.display ??= getRawDisplayProcessor();
  }
  return finished;
}

/** JSON knows no infinity: the first threshold's value is null there. */
function lowestStepFromBelow<T>(config: T): T {
  return JSON.parse(JSON.stringify(config), (key, value) => {
    if (key === 'steps' && Array.isArray(value)) {
      return value.map((step) => ({ ...step, value: step.value ?? -Infinity }));
    }
    return value;
  });
}

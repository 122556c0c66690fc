import { ask } from './prometheus';
import type { Task } from './task';

/** A variable as the page shows it, and as queries get it. */
export interface Chosen {
  name: string;
  label: string;
  text: string;
  value: string;
}

/** Every variable of the dashboard with its value: as told, else all, else the first that Prometheus knows. */
export async function chosen(task: Task): Promise<Chosen[]> {
  const found: Chosen[] = [];
  for (const variable of task.dashboard.templating?.list ?? []) {
    const { name } = variable;
    const label = variable.label ?? name;
    if (variable.type === 'datasource') {
      found.push({ name, label, text: 'Prometheus', value: 'prometheus' });
      continue;
    }
    const told = task.variables[name];
    if (variable.type === 'textbox') {
      found.push({ name, label, text: told ?? '', value: told ?? '' });
      continue;
    }
    if (variable.type === 'custom' && !variable.includeAll) {
      const known = (variable.options ?? []).map(({ text, value }) => ({ text: String(text), value: String(value) }));
      const first = known.find(({ text }) => text === told) ?? known[0];
      found.push({ name, label, text: first?.text ?? '', value: first?.value ?? '' });
      continue;
    }
    if (told === undefined && variable.includeAll) {
      found.push({ name, label, text: 'All', value: variable.allValue ?? '.*' });
      continue;
    }
    const value = told ?? (await options(task, variable.query, found))[0] ?? '';
    found.push({ name, label, text: value || 'none', value });
  }
  return found;
}

async function options(task: Task, query: unknown, known: Chosen[]): Promise<string[]> {
  const text = typeof query === 'string' ? query : (query as { query: string }).query;
  const parts = /^label_values\((.*),\s*(\w+)\)$/.exec(text);
  if (!parts) {
    throw new Error(`a variable's query that the renderer does not know: ${text}`);
  }
  const match = interpolated(parts[1] ?? '', known, {});
  return ask<string[]>(task, `label/${parts[2]}/values`, {
    'match[]': match,
    start: task.from / 1000,
    end: task.to / 1000,
  });
}

/** *text* with `$name`, `${name}` and `${name:text}` replaced; an unknown one stays, so that Prometheus complains of it. */
export function interpolated(text: string, variables: Chosen[], more: Record<string, string>): string {
  const values: Record<string, string> = { ...Object.fromEntries(variables.map((each) => [each.name, each.value])), ...more };
  const texts = Object.fromEntries(variables.map((each) => [each.name, each.text]));
  return text
    .replace(/\$\{(\w+):text\}/g, (whole, name) => texts[name] ?? whole)
    .replace(/\$(\w+)|\$\{(\w+)\}/g, (whole, plain, braced) => values[plain ?? braced] ?? whole);
}
